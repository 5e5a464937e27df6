/* Owns the measurement of a training step: an adapter of one rank on all maps of the layers, sequences of one length. */
#ifndef NM_CMD_BENCH_TUNE_H
#define NM_CMD_BENCH_TUNE_H

#include "nomoat.h"

typedef struct nm_bench_tune { int32_t rank, batch, length, repeat; nm_compute compute; } nm_bench_tune;

/* Prints tokens per second (median, least and most of `repeat` steps after one that is not counted), their share of the limit of their arithmetic (fp32,
 * or bf16 by vectors or by AMX) that is probed in the same run, and peak memory. stack: below what is trained, or NULL. NM_INTERRUPTED soon after Ctrl-C. */
nm_err nm_bench_tune_run(const nm_model *model, const nm_stack *stack, const nm_bench_tune *set, bool json);

#endif
