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

/* A buffer in huge pages, much larger than caches where memory allows, and how it was read. */
typedef struct nm_read_probe {
    void *data;
    size_t bytes;
    double rounds[64];          /* best of each round so far */
    int n_rounds;
} nm_read_probe;
nm_err nm_read_probe_open(nm_read_probe *probe);
void nm_read_probe_close(nm_read_probe *probe);
/* Reads the buffer a few times and notes the best pass. Call it between measurements: bandwidth moves with what else the machine does. */
nm_err nm_read_probe_round(nm_read_probe *probe);
/* Median of the rounds, in GB/s; 0 before the first. */
double nm_read_probe_result(const nm_read_probe *probe);

#endif
