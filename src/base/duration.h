/* Owns how spans of time are written, read from options and shown to people, and how sizes are read. */
#ifndef NM_BASE_DURATION_H
#define NM_BASE_DURATION_H

#include "nomoat.h"

/* "3h", "90m", "2h30m", "45 min", "1.5 hours", "1d 12h", "20s": numbers with units, the larger first; a number alone is minutes. NM_USAGE, naming the option,
 * for anything else and for nothing. */
nm_err nm_read_duration(const char *text, const char *option, double *seconds);
/* "40 s", "12 min", "3.5 h". Returns out. */
const char *nm_duration_text(double seconds, char out[32]);

/* "2G", "800M", "1.5 GB": powers of 1000. NULL: 0. NM_USAGE, naming the option, for anything else. */
nm_err nm_read_bytes(const char *text, const char *option, uint64_t *bytes);
/* "12.3 MB"; decimal units. */
const char *nm_bytes_text(uint64_t bytes, char out[32]);

#endif
