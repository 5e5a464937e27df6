/* Owns what the linear kernels of every x86 tier share before they know their registers: the prepared activation rows, the offset of a
 * weight's stored bytes, and how finished accumulators reach y. Included after a v16 backend. */
#ifndef NM_X86_Q8_ROWS_H
#define NM_X86_Q8_ROWS_H

#include "kernel/layout.h"

/* What the tiles read of the activations. q: rows as they are; the rest with a job's rows side by side, so that a tile finds what it
 * broadcasts in one place. groups = groups of the weight's 16 or 32 inputs in K. */
typedef struct q8_rows {
    const int8_t *q;
    size_t ldq;
    const float *scale;         /* [K / 32][ld] */
    const int32_t *start;       /* [groups][ld]: -offset * sum(x) */
    const float *sums;          /* [groups][ld]: scale * sum(x), for minima */
    size_t ld;
} q8_rows;

/* Prefetching for the direct kernels: each line to the second level PREFETCH_FAR bytes before it is read, and to the first PREFETCH_NEAR before.
 * One by one, because a whole superblock's lines at once fill the line buffers and stall the loads behind them; in two steps, because the
 * second level has more requests in flight than the first (measurements: docs/PERFORMANCE.md). A panel's end runs on into the next panel. */
enum { PREFETCH_FAR = 3072, PREFETCH_NEAR = 1024 };

V16_INLINE void prefetch_line(const uint8_t *line)
{
    _mm_prefetch((const char *)line + PREFETCH_FAR, _MM_HINT_T1);
    _mm_prefetch((const char *)line + PREFETCH_NEAR, _MM_HINT_T0);
}

V16_INLINE void prefetch_step(const nm_layout *l, const uint8_t *super, int b, int v)
{
    if (v < l->low) prefetch_line(nm_layout_low(l, super, b) + v * NM_LINE);
    else if (v < l->low + l->high) prefetch_line(nm_layout_high(l, super, b) + (v - l->low) * NM_LINE);
}

V16_INLINE void prefetch_header(const nm_layout *l, const uint8_t *super, int b)
{
    if (b * NM_LINE < nm_layout_header(l)) prefetch_line(super + b * NM_LINE);
}

/* Panels as they lie packed, M rows: acc[M][16] gets whole chains. */
typedef void (*direct_fn)(const uint8_t *panel, int64_t blocks, const q8_rows *x, float *acc);
typedef void (*unpack_fn)(const uint8_t *panel, int64_t b0, int64_t count, const nm_u *u);

/* The same from row t and a block of K on. */
static inline q8_rows rows_from(const q8_rows *x, int64_t t, int64_t block, int groups)
{
    size_t b = (size_t)block * x->ld + (size_t)t, g = (size_t)(block * groups) * x->ld + (size_t)t;
    return (q8_rows){x->q + (size_t)t * x->ldq + block * NM_BLOCK, x->ldq, x->scale + b, x->start + g, x->sums + g, x->ld};
}

/* Row stride of the prepared arrays: an odd number of lines, so that the blocks of a chunk do not share two sets of the first-level cache
 * (512 rows, 2048 bytes apart, cost the tiles half their speed). */
static inline size_t prepared_stride(int64_t rows)
{
    size_t lines = ((size_t)rows + 15) / 16;
    return rows <= 16 ? (size_t)rows : 16 * (lines | 1);
}

/* Bytes of scratch that prepare_rows takes: at most a scale, a start and a sum per row and 16 inputs. */
static inline size_t prepared_bytes(const nm_panels *w, int64_t rows)
{
    size_t groups = (size_t)(w->k / w->type->group), blocks = (size_t)(w->k / NM_BLOCK);
    return (prepared_stride(rows) * (2 * groups + blocks) * 4 + 63) & ~(size_t)63;
}

static inline q8_rows prepare_rows(const nm_linear_job *job, int offset, void *scratch)
{
    const nm_qrows *x = job->xq;
    size_t per = (size_t)(NM_BLOCK / job->w->type->group);
    size_t rows = (size_t)job->rows, ld = prepared_stride(job->rows), blocks = (size_t)(job->w->k / NM_BLOCK);
    float *scales = scratch, *sums = scales + blocks * ld;
    int32_t *start = (int32_t *)(sums + blocks * per * ld);
    /* Sixteen rows at a time: their sources stay in the first-level cache, and every line of the results is written once. */
    for (size_t t0 = 0; t0 < rows; t0 += 16) {
        size_t end = t0 + 16 < rows ? t0 + 16 : rows;
        for (size_t b = 0; b < blocks; b++) {
            for (size_t t = t0; t < end; t++) scales[b * ld + t] = x->scale[t * x->lds + b];
            for (size_t h = 0; h < per; h++) {
                const int16_t *sum = x->sum + 2 * b + h;
                size_t at = (b * per + h) * ld;
                for (size_t t = t0; t < end; t++, at++) {
                    int32_t s = sum[t * 2 * x->lds] + (per == 2 ? 0 : sum[t * 2 * x->lds + 1]);
                    start[at + t0] = -offset * s;
                    sums[at + t0] = scales[b * ld + t] * (float)s;
                }
            }
        }
    }
    return (q8_rows){x->q, x->ldq, scales, start, sums, ld};
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
