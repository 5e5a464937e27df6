/* Owns the lengths of rows that DoRA (Liu et al. 2024) divides by: a map becomes W' = c (W + s B A) with c = m / |W + s B A| for each output, W dequantised
 * exactly and m the adapter's magnitudes. As PEFT runs it, "W" in the length is the base's even where other adapters stand below. */
#ifndef NM_ADAPTER_DORA_H
#define NM_ADAPTER_DORA_H

#include "op/op.h"

/* A map with the halves of its adapter. */
typedef struct nm_dora_map {
    const nm_panels *w;             /* [n][k] */
    int64_t rank;
    const float *a, *b;             /* [rank][k], [n][rank] */
} nm_dora_map;

/* Of each row, so that every scale's length follows: |W + s B A|^2 = w + s (2 wb + s bb). */
typedef struct nm_dora_sums { double *w, *wb, *bb; } nm_dora_sums;     /* [n] each: |W|^2, W (B A)', |B A|^2 */

size_t nm_dora_scratch(const nm_panels *w);         /* bytes, 64-byte aligned */
/* On the calling thread; the order of every sum is fixed. Products are fp32 chains, sums of 256 products kernels' dots, and sums of those in double. */
void nm_dora_sum(const nm_dora_map *map, const nm_dora_sums *out, void *scratch);
/* |W + s B A| of each row, directly: for one scale, as training has it. */
void nm_dora_lengths(const nm_dora_map *map, float scale, float *length, void *scratch);
/* The same from sums, n rows: no more than a square root a row. A row that is nearly nothing beside what it is the sum of gets -1: its length must be found
 * directly. Returns how many. */
int64_t nm_dora_lengths_of(const nm_dora_sums *sums, float scale, int64_t n, float *length);

#endif
