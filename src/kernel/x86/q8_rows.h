/* Owns what the linear kernels of every x86 and ARM tier share before they know their registers: the prepared activation rows, the offset of a
 * weight's stored bytes, and how finished accumulators reach y. Included after a v16 backend. */
#ifndef NM_X86_Q8_ROWS_H
#define NM_X86_Q8_ROWS_H

#include "kernel/layout.h"

/* What the kernels read of the activations: a job's rows in tiles of `tile` side by side (nm_qrows). groups: of the weight's 16 or 32 inputs in K. */
typedef struct q8_rows {
    const int8_t *q;            /* [tiles][ldq / 4][tile][4] */
    const float *scale;         /* [tiles][lds][tile], by blocks of 32 */
    const int32_t *start;       /* [tiles][ldg][tile], by groups: -offset * sum(x) */
    const float *sums;          /* the same: scale * sum(x), for minima */
    size_t ldq, lds, ldg;
    size_t far, near;           /* how many bytes ahead direct kernels ask for a line of weights: PREFETCH_*, or 0 where it is near already */
    int tile;
} q8_rows;

/* How many int16 sums of pairs hold products of values up to `most`; 0 if not even one: then the offset is 128. */
V16_INLINE int sums_that_fit(int most)
{
    int fit = 32767 / (2 * 127 * most);
    return fit >= 8 ? 8 : fit >= 4 ? 4 : fit >= 2 ? 2 : 0;
}

/* Prefetching for the direct kernels: each line to the second level PREFETCH_FAR bytes before it is read, and to the first PREFETCH_NEAR before.
 * One by one, because a whole superblock's lines at once fill the line buffers and stall the loads behind them; in two steps, because the
 * second level has more requests in flight than the first. Two superblocks of Q6_K and a KB were measured (docs/PERFORMANCE.md, Zen 4).
 * A panel's end runs on into the next panel. */
enum { PREFETCH_FAR = 6784, PREFETCH_NEAR = 1024 };

V16_INLINE void prefetch_at(const uint8_t *line, size_t far, size_t near)
{
    __builtin_prefetch(line + far, 0, 2);
    __builtin_prefetch(line + near, 0, 3);
}

V16_INLINE void prefetch_line(const uint8_t *line) { prefetch_at(line, PREFETCH_FAR, PREFETCH_NEAR); }

V16_INLINE void prefetch_step(const nm_layout *l, const uint8_t *super, int b, int v, const q8_rows *x)
{
    if (v < l->low) prefetch_at(nm_layout_low(l, super, b) + v * NM_LINE, x->far, x->near);
    else if (v < l->low + l->high) prefetch_at(nm_layout_high(l, super, b) + (v - l->low) * NM_LINE, x->far, x->near);
}

V16_INLINE void prefetch_header(const nm_layout *l, const uint8_t *super, int b, const q8_rows *x)
{
    if (b * NM_LINE < nm_layout_header(l)) prefetch_at(super + b * NM_LINE, x->far, x->near);
}

/* Blocks [at, at + blocks) of K of a panel as it lies packed, M rows: acc[M][16] goes on. super: the superblock that block `at` begins. */
typedef void (*direct_fn)(const uint8_t *super, int64_t at, int64_t blocks, const q8_rows *x, float *acc);
/* The kinds of them: X(TYPE, rows side by side, rows asked for, layout's numbers), and a row of a table of them (linear_q8.h). */
#define DIRECT_KINDS_OF(X, TYPE, ...) X(TYPE, 1, 1, __VA_ARGS__) X(TYPE, 4, 1, __VA_ARGS__) X(TYPE, 4, 2, __VA_ARGS__) X(TYPE, 4, 3, __VA_ARGS__) X(TYPE, 4, 4, __VA_ARGS__)
#define DIRECT_KINDS(TYPE) direct_##TYPE##_1_1, direct_##TYPE##_4_1, direct_##TYPE##_4_2, direct_##TYPE##_4_3, direct_##TYPE##_4_4
#define DIRECT_ENTRY(TYPE, ...) [NM_LAYOUT_##TYPE] = {DIRECT_KINDS(TYPE)},
/* Rows that one pass over a chunk of a packed panel takes: a tile, or two where registers hold their sums; and the entry of a table that does the latter. */
enum { DIRECT_TWO = 2 * NM_QTILE_FEW, DIRECT_TWO_AT = 1 + NM_QTILE_FEW };
typedef direct_fn direct_fns[2 + NM_QTILE_FEW];
typedef void (*unpack_fn)(const uint8_t *panel, int64_t b0, int64_t count, const nm_u *u);

/* The same from row t, which begins a tile, and a block of K on. */
static inline q8_rows rows_from(const q8_rows *x, int64_t t, int64_t block, int groups)
{
    q8_rows y = *x;
    size_t r = (size_t)t, b = (size_t)block * (size_t)x->tile;
    y.q += r * x->ldq + b * NM_BLOCK;
    y.scale += r * x->lds + b;
    y.start += r * x->ldg + b * (size_t)groups;
    y.sums += r * x->ldg + b * (size_t)groups;
    return y;
}

/* Rows in whole tiles. */
static inline size_t tiled_rows(const nm_linear_job *job)
{
    size_t tile = (size_t)job->xq->tile;
    return ((size_t)job->rows + tile - 1) / tile * tile;
}

/* Bytes of scratch that prepare_rows takes: a start and a sum per row and group. */
static inline size_t prepared_bytes(const nm_linear_job *job)
{
    return (2 * tiled_rows(job) * job->xq->lds * (size_t)(NM_BLOCK / job->w->type->group) * 4 + 63) & ~(size_t)63;
}

static inline q8_rows prepare_rows(const nm_linear_job *job, int offset, void *scratch)
{
    const nm_qrows *x = job->xq;
    size_t groups = (size_t)(NM_BLOCK / job->w->type->group), tile = (size_t)x->tile, count = tiled_rows(job) * x->lds * groups;
    int32_t *start = scratch;
    float *sums = (float *)(start + count);
    const int32_t *sum = groups == 1 ? x->sum : x->half;
    if (!offset) memset(start, 0, count * sizeof *start);
    for (size_t i = 0; offset && i < count; i++) start[i] = (int32_t)(0u - (uint32_t)offset * (uint32_t)sum[i]);   /* unsigned: rows of padding are anything */
    if (groups == 1) sums = x->shift;
    if (job->w->type->has_min && groups == 2)
        for (size_t i = 0; i < count; i += 2 * tile)
            for (size_t r = 0; r < 2 * tile; r++) sums[i + r] = x->scale[i / 2 + r % tile] * (float)sum[i + r];
    return (q8_rows){x->q, x->scale, start, sums, x->ldq, x->lds, x->lds * groups, PREFETCH_FAR, PREFETCH_NEAR, x->tile};
}

/* u = q + offset in what unpackers write: the layout's own, and 128 for rows of the file. */
static inline int chunk_offset(const nm_panels *w) { return w->data ? nm_layout_table[nm_layout_of(w->type)].offset : 128; }

/* Row t's finished accumulators of panel p to y, with bias, without the outputs beyond n. */
V16_INLINE void store_output(const nm_linear_job *job, int64_t p, int64_t t, const float *acc)
{
    int64_t first = NM_PANEL * p, left = job->w->n - first;
    int lanes = left < NM_PANEL ? (int)left : NM_PANEL;
    v16 a = v_load(acc);
    if (job->bias) a = v_add(a, v_load_n(job->bias + first, lanes));
    v_store_n(job->y + (size_t)t * job->ldy + (size_t)first, a, lanes);
}

/* The same of all rows; acc: [rows][16]. */
static inline void store_outputs(const nm_linear_job *job, int64_t p, const float *acc, int64_t rows)
{
    for (int64_t t = 0; t < rows; t++) store_output(job, p, t, acc + NM_PANEL * t);
}

#endif
