/* Owns the measure of time that passes. Refuses calendar time: nothing here jumps when somebody sets the clock. */
#ifndef NM_OS_CLOCK_H
#define NM_OS_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Nanoseconds since some fixed moment before the program began. */
static inline uint64_t nm_clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline double nm_clock_seconds(void) { return (double)nm_clock_ns() * 1e-9; }

#endif
