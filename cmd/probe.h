/* Owns the measure of what this machine can do at most: reading memory, and products per second, on all threads of the pool. Bench holds
 * its figures against these. Refuses to measure what is not allowed: the tier in use (nm_kernels_tier) decides which instructions run. */
#ifndef NM_CMD_PROBE_H
#define NM_CMD_PROBE_H

#include <stddef.h>

#include "nomoat.h"

typedef struct nm_limits {
    double read_gb_per_s;       /* 1e9 bytes read from memory a second */
    double fp32_gflops;         /* a multiply-add is two operations, here and below */
    double bf16_gflops;         /* 0 where the tier has no such instruction */
    double int8_gops;           /* with the vector instructions that the tier's kernels use */
    double amx_int8_gops, amx_bf16_gflops;  /* tile instructions; 0 without them */
} nm_limits;

/* Fills all but read_gb_per_s: for each, the best of some runs of about 20 ms. About a second in all. NM_INTERRUPTED soon
 * after Ctrl-C, here and below. */
nm_err nm_probe_peaks(nm_limits *limits);

/* The same limits and reading, again and again: a buffer in huge pages, much larger than caches where memory allows, and how often each loop turns in 10 ms. */
enum { NM_PROBE_PEAKS = 5, NM_PROBE_KEPT = 512 };
typedef struct nm_probe {
    void *data;
    size_t bytes;
    long turns[NM_PROBE_PEAKS];
    nm_limits round[NM_PROBE_KEPT];     /* so far; later ones are not kept */
    int rounds;
} nm_probe;
nm_err nm_probe_open(nm_probe *probe);
void nm_probe_close(nm_probe *probe);
/* Probes each limit for a moment (a quarter of a second in all) and notes the best of two or three tries in *now and in the probe. Call it before and after what
 * is measured: limits move with what else the machine does. */
nm_err nm_probe_round(nm_probe *probe, nm_limits *now);
/* Medians of the rounds; zeros before the first. */
nm_limits nm_probe_result(const nm_probe *probe);

#endif
