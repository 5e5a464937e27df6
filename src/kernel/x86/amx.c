/* AMX int8: batches of quantised linear maps. One tile instruction gives the integer sums of 16 activation rows x 16 outputs over a group of 32
 * (or 16) inputs, which is exactly the group of kernel.h's chain; vectors then scale and add each group, as on every other tier. The U form
 * holds signed values, so no offset is left to take off. A tile of weights is eight lines as they are; one of activations, 16 rows as they
 * are. Small batches stay with VNNI. */
#include "kernel/x86/blocks512.h"
#include "kernel/x86/q8_rows.h"

enum { UNPACKED_BYTES = 1, AMX_ROWS = 16, AMX_LEAST_ROWS = 12 };

NM_LAYOUTS(DEFINE_UNPACK512_SIGNED)
static const unpack_fn unpackers[NM_LAYOUT_COUNT] = {NM_LAYOUTS(UNPACK512_ENTRY)};

static void unpack_chunk(const nm_panels *w, int64_t p, int64_t b0, int64_t blocks, const nm_u *u)
{
    if (w->data) unpackers[nm_layout_of(w->type)](w->data + (size_t)p * w->panel_bytes, b0, blocks, u);
    else nm_unpack_c(w, p, b0, blocks, 0, u);
}

/* gcc's tile intrinsics do not say that they read memory; without this, stores before them may be late or dropped. */
#define MEMORY_IS_READ __asm__ volatile("" ::: "memory")

/* Tile registers: 0 and 1 sums [16 rows][16 outputs], 2 and 3 activations [16 rows][group bytes], 4 and 5 weights [group / 4 steps][16 x 4]. */
static void configure(int group)
{
    struct { uint8_t palette, start_row, reserved[14]; uint16_t row_bytes[16]; uint8_t rows[16]; } c = {.palette = 1};
    for (int i = 0; i < 6; i++) {
        c.row_bytes[i] = (uint16_t)(i == 2 || i == 3 ? group : 64);
        c.rows[i] = (uint8_t)(i < 4 ? AMX_ROWS : group / 4);
    }
    MEMORY_IS_READ;
    _tile_loadconfig(&c);
}

/* Sums of group g to out [16][16]. Two sets of tile registers take turns, so that one group's product runs while another's sums are stored. */
#define SUM_GROUP(name, sums, activations, weights) \
    V16_INLINE void name(const nm_u *u, int group, int64_t g, const int8_t *x, size_t ldx, int32_t *out) \
    { \
        _tile_zero(sums); \
        _tile_loadd(activations, x + g * group, (long)ldx); \
        _tile_loadd(weights, u->q + g * group * NM_PANEL, NM_LINE); \
        _tile_dpbssd(sums, activations, weights); \
        _tile_stored(sums, out, 64); \
    }
SUM_GROUP(sum_group_even, 0, 2, 4)
SUM_GROUP(sum_group_odd, 1, 3, 5)

/* Adds group g's scaled sums to the accumulators of 16 rows. */
V16_INLINE void scale_group(bool has_min, int groups, const nm_u *u, int64_t g, const q8_rows *x, const int32_t *sums, __m512 acc[AMX_ROWS])
{
    const float *sx = x->scale + (size_t)(g / groups) * x->ld, *shift = x->sums + (size_t)g * x->ld;
    __m512 scale = _mm512_load_ps(u->scale + g * NM_PANEL), min = has_min ? _mm512_load_ps(u->min + g * NM_PANEL) : scale;
    _Pragma("GCC unroll 16") for (int r = 0; r < AMX_ROWS; r++) {
        __m512 s = _mm512_mul_ps(scale, _mm512_set1_ps(sx[r]));
        acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums + NM_PANEL * r)), s, acc[r]);
        if (has_min) acc[r] = _mm512_fmadd_ps(min, _mm512_set1_ps(shift[r]), acc[r]);
    }
}

/* 16 rows x one panel over `blocks` blocks. The next group's tile work is issued before this group's vector work. */
V16_INLINE void tile_amx(int groups, bool has_min, const nm_u *u, int64_t blocks, const q8_rows *from, float *out)
{
    const q8_rows x = *from;
    const int group = NM_BLOCK / groups;
    const int64_t n = blocks * groups;
    int32_t even[AMX_ROWS * NM_PANEL] __attribute__((aligned(64))), odd[AMX_ROWS * NM_PANEL] __attribute__((aligned(64)));
    __m512 acc[AMX_ROWS];
    _Pragma("GCC unroll 16") for (int r = 0; r < AMX_ROWS; r++) acc[r] = _mm512_load_ps(out + NM_PANEL * r);
    MEMORY_IS_READ;
    sum_group_even(u, group, 0, x.q, x.ldq, even);
    for (int64_t g = 0; g < n; g += 2) {
        if (g + 1 < n) sum_group_odd(u, group, g + 1, x.q, x.ldq, odd);
        scale_group(has_min, groups, u, g, &x, even, acc);
        if (g + 2 < n) sum_group_even(u, group, g + 2, x.q, x.ldq, even);
        if (g + 1 < n) scale_group(has_min, groups, u, g + 1, &x, odd, acc);
    }
    _Pragma("GCC unroll 16") for (int r = 0; r < AMX_ROWS; r++) _mm512_store_ps(out + NM_PANEL * r, acc[r]);
}

typedef void (*amx_fn)(const nm_u *, int64_t, const q8_rows *, float *);
#define TILE(groups, min) \
    static void tile_##groups##_##min(const nm_u *u, int64_t blocks, const q8_rows *x, float *out) { tile_amx(groups, min, u, blocks, x, out); }
TILE(1, 0) TILE(1, 1) TILE(2, 0) TILE(2, 1)
static const amx_fn tiles[2][2] = {{tile_1_0, tile_1_1}, {tile_2_0, tile_2_1}};     /* [groups - 1][has_min] */

/* What is left of rows below 16, copied out and filled up with zeros: tiles are always whole. */
typedef struct last_rows {
    int8_t q[AMX_ROWS * NM_CHUNK] __attribute__((aligned(64)));
    float scale[NM_CHUNK_BLOCKS * AMX_ROWS], sums[2 * NM_CHUNK_BLOCKS * AMX_ROWS], acc[AMX_ROWS * NM_PANEL] __attribute__((aligned(64)));
} last_rows;

static q8_rows copy_last(last_rows *z, const q8_rows *x, int rows, int groups, int64_t blocks)
{
    memset(z, 0, sizeof *z);
    for (int r = 0; r < rows; r++) {
        memcpy(z->q + r * NM_CHUNK, x->q + (size_t)r * x->ldq, (size_t)blocks * NM_BLOCK);
        for (int64_t b = 0; b < blocks; b++) z->scale[b * AMX_ROWS + r] = x->scale[(size_t)b * x->ld + (size_t)r];
        for (int64_t g = 0; g < blocks * groups; g++) z->sums[g * AMX_ROWS + r] = x->sums[(size_t)g * x->ld + (size_t)r];
    }
    return (q8_rows){z->q, NM_CHUNK, z->scale, NULL, z->sums, AMX_ROWS};
}

static void q8_tiles(const nm_panels *w, const nm_u *u, int panels, int64_t blocks, const q8_rows *x, int64_t rows, float *acc, size_t stride)
{
    int groups = NM_BLOCK / w->type->group;
    amx_fn tile = tiles[groups - 1][w->type->has_min];
    int64_t t = 0;
    for (; t + AMX_ROWS <= rows; t += AMX_ROWS) {
        q8_rows from = rows_from(x, t, 0, groups);
        for (int p = 0; p < panels; p++) tile(u + p, blocks, &from, acc + (size_t)p * stride + NM_PANEL * t);
    }
    if (t == rows) return;
    last_rows z;
    q8_rows from = rows_from(x, t, 0, groups), last = copy_last(&z, &from, (int)(rows - t), groups, blocks);
    size_t bytes = (size_t)(rows - t) * NM_PANEL * sizeof *acc;
    for (int p = 0; p < panels; p++) {
        float *at = acc + (size_t)p * stride + NM_PANEL * t;
        memcpy(z.acc, at, bytes);
        tile(u + p, blocks, &last, z.acc);
        memcpy(at, z.acc, bytes);
    }
}

#include "kernel/x86/linear_tiles.h"

static void linear_q8(const nm_linear_job *job)
{
    const nm_panels *w = job->w;
    if (job->rows < AMX_LEAST_ROWS) {
        nm_linear_q8_vnni(job);
        return;
    }
    q8_rows x = prepare_rows(job, 0, job->scratch);
    configure(w->type->group);
    linear_tiles(job, &x, (uint8_t *)job->scratch + prepared_bytes(w, job->rows));
    _tile_release();
}

void nm_kernels_amx(nm_kernels *table) { table->linear_q8 = linear_q8; }
