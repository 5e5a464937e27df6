/* Owns what the linear kernels of every x86 tier share before they know their registers: the prepared activation rows, the offset of a
 * weight's stored bytes, and how finished accumulators reach y. Included after a v16 backend. */
#ifndef NM_X86_Q8_ROWS_H
#define NM_X86_Q8_ROWS_H

#include "kernel/layout.h"

/* What the tiles read of the activations, from the job's first row on. groups = groups of the weight's 16 or 32 inputs in K. */
typedef struct q8_rows {
    const int8_t *q;
    const float *scale;
    size_t ldq, lds;
    const int32_t *start;       /* [rows][ldg]: -offset * sum(x) */
    const float *sums;          /* [rows][ldg]: scale * sum(x), for minima */
    size_t ldg;
} q8_rows;

/* Panels as they lie packed, M rows: acc[M][16] gets whole chains. */
typedef void (*direct_fn)(const uint8_t *panel, int64_t blocks, const q8_rows *x, float *acc);
typedef void (*unpack_fn)(const uint8_t *panel, int64_t b0, int64_t count, const nm_u *u);

static inline q8_rows rows_from(const q8_rows *x, int64_t t, int64_t block, int groups)
{
    size_t r = (size_t)t, g = (size_t)(block * groups);
    return (q8_rows){x->q + r * x->ldq + block * NM_BLOCK, x->scale + r * x->lds + block, x->ldq, x->lds,
                     x->start + r * x->ldg + g, x->sums + r * x->ldg + g, x->ldg};
}

/* Fills start and sums for all rows of the job. */
static inline q8_rows prepare_rows(const nm_linear_job *job, int offset, int32_t *start, float *sums)
{
    const nm_qrows *x = job->xq;
    int group = job->w->type->group;
    size_t ldg = (size_t)(job->w->k / group);
    for (int64_t t = 0; t < job->rows; t++) {
        const int16_t *sum = x->sum + (size_t)t * 2 * x->lds;
        const float *scale = x->scale + (size_t)t * x->lds;
        for (size_t g = 0; g < ldg; g++) {
            int32_t s = group == 16 ? sum[g] : sum[2 * g] + sum[2 * g + 1];
            start[(size_t)t * ldg + g] = -offset * s;
            sums[(size_t)t * ldg + g] = (group == 16 ? scale[g / 2] : scale[g]) * (float)s;
        }
    }
    return (q8_rows){x->q, x->scale, x->ldq, x->lds, start, sums, ldg};
}

/* u = q + offset in what unpackers write: the layout's own, and 128 for rows of the file. */
static inline int chunk_offset(const nm_panels *w) { return w->data ? nm_layout_table[nm_layout_of(w->type)].offset : 128; }

/* Finished accumulators [rows][16] of panel p to y, with bias, without the outputs beyond n. */
static inline void store_outputs(const nm_linear_job *job, int64_t p, const float *acc, int64_t rows)
{
    int64_t first = NM_PANEL * p, left = job->w->n - first;
    int lanes = left < NM_PANEL ? (int)left : NM_PANEL;
    for (int64_t t = 0; t < rows; t++) {
        v16 a = v_load(acc + NM_PANEL * t);
        if (job->bias) a = v_add(a, v_load_n(job->bias + first, lanes));
        v_store_n(job->y + (size_t)t * job->ldy + (size_t)first, a, lanes);
    }
}

#endif
