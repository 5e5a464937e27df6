/* AMX int8: batches of quantised linear maps. One tile instruction gives the integer sums of 16 activation rows x 16 outputs over a group of 32
 * inputs, which is exactly the group of kernel.h's chain; vectors then scale and add each group, as on every other tier. The U form
 * holds signed values, so no offset is left to take off. A tile of weights is eight lines as they are; for one of activations, 16
 * rows are laid out once more, [block][16 rows][32 inputs]. Small batches stay with VNNI, and so do groups of 16, which need twice the tiles and are no
 * faster here (docs/PERFORMANCE.md). */
#include "kernel/x86/blocks512.h"
#include "kernel/x86/q8_rows.h"

enum { UNPACKED_BYTES = 1, TILE_PANELS = 4, AMX_ROWS = 16, AMX_LEAST_ROWS = 48 };     /* below: the last tile's empty rows cost what AMX gains */

NM_LAYOUTS(DEFINE_UNPACK512_SIGNED)
static const unpack_fn unpackers[NM_LAYOUT_COUNT] = {NM_LAYOUTS(UNPACK512_ENTRY)};

static void unpack_chunk(const nm_panels *w, int64_t p, int64_t b0, int64_t blocks, const nm_u *u)
{
    if (w->data) unpackers[nm_layout_of(w->type)](w->data + (size_t)p * w->panel_bytes, b0, blocks, u);
    else nm_unpack_c(w, p, b0, blocks, 0, u);
}

/* gcc's tile intrinsics do not say (all of) what they read; without this, stores to it may be late or dropped. */
#define IS_READ(pointer) __asm__ volatile("" : : "r"(pointer) : "memory")

/* Tile registers: 0 and 1 sums [16 rows][16 outputs], 2 and 3 activations [16 rows][32 bytes], 4 and 5 weights [8 steps][16 x 4]. */
static void configure(void)
{
    struct { uint8_t palette, start_row, reserved[14]; uint16_t row_bytes[16]; uint8_t rows[16]; } c = {.palette = 1};
    for (int i = 0; i < 6; i++) {
        c.row_bytes[i] = (uint16_t)(i == 2 || i == 3 ? NM_BLOCK : 64);
        c.rows[i] = (uint8_t)(i < 4 ? AMX_ROWS : NM_STEPS);
    }
    IS_READ(&c);
    _tile_loadconfig(&c);
}

/* Sums of block g to out [16][16]. Two sets of tile registers take turns, so that one block's product runs while another's sums are stored. */
#define SUM_GROUP(name, sums, activations, weights) \
    V16_INLINE void name(const nm_u *u, int64_t g, const int8_t *x, int32_t *out) \
    { \
        _tile_zero(sums); \
        _tile_loadd(activations, x + g * AMX_ROWS * NM_BLOCK, NM_BLOCK); \
        _tile_loadd(weights, u->q + g * NM_BLOCK * NM_PANEL, NM_LINE); \
        _tile_dpbssd(sums, activations, weights); \
        _tile_stored(sums, out, 64); \
    }
SUM_GROUP(sum_group_even, 0, 2, 4)
SUM_GROUP(sum_group_odd, 1, 3, 5)

/* Adds block g's scaled sums to the accumulators of 16 rows. */
V16_INLINE void scale_group(bool has_min, const nm_u *u, int64_t g, const q8_rows *x, const int32_t *sums, __m512 acc[AMX_ROWS])
{
    const float *sx = x->scale + g * AMX_ROWS, *shift = x->sums + g * AMX_ROWS;
    __m512 scale = _mm512_load_ps(u->scale + g * NM_PANEL), min = has_min ? _mm512_load_ps(u->min + g * NM_PANEL) : scale;
    _Pragma("GCC unroll 16") for (int r = 0; r < AMX_ROWS; r++) {
        __m512 s = _mm512_mul_ps(scale, _mm512_set1_ps(sx[r]));
        acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums + NM_PANEL * r)), s, acc[r]);
        if (has_min) acc[r] = _mm512_fmadd_ps(min, _mm512_set1_ps(shift[r]), acc[r]);
    }
}

/* 16 rows x one panel over `blocks` blocks. The next block's tile work is issued before this block's vector work. */
V16_INLINE void tile_amx(bool has_min, const nm_u *u, int64_t blocks, const q8_rows *from, float *out)
{
    const q8_rows x = *from;
    int32_t even[AMX_ROWS * NM_PANEL] __attribute__((aligned(64))), odd[AMX_ROWS * NM_PANEL] __attribute__((aligned(64)));
    __m512 acc[AMX_ROWS];
    _Pragma("GCC unroll 16") for (int r = 0; r < AMX_ROWS; r++) acc[r] = _mm512_load_ps(out + NM_PANEL * r);
    IS_READ(u->q);
    sum_group_even(u, 0, x.q, even);
    for (int64_t g = 0; g < blocks; g += 2) {
        if (g + 1 < blocks) sum_group_odd(u, g + 1, x.q, odd);
        scale_group(has_min, u, g, &x, even, acc);
        if (g + 2 < blocks) sum_group_even(u, g + 2, x.q, even);
        if (g + 1 < blocks) scale_group(has_min, u, g + 1, &x, odd, acc);
    }
    _Pragma("GCC unroll 16") for (int r = 0; r < AMX_ROWS; r++) _mm512_store_ps(out + NM_PANEL * r, acc[r]);
}

typedef void (*amx_fn)(const nm_u *, int64_t, const q8_rows *, float *);
static void tile_plain(const nm_u *u, int64_t blocks, const q8_rows *x, float *out) { tile_amx(false, u, blocks, x, out); }
static void tile_with_min(const nm_u *u, int64_t blocks, const q8_rows *x, float *out) { tile_amx(true, u, blocks, x, out); }

/* The last tile's rows are filled up with zeros, but its accumulators are not those of more rows than there are. */
static void q8_tiles(const nm_panels *w, const nm_u *u, int panels, int64_t blocks, const q8_rows *x, int64_t rows, float *acc, size_t stride)
{
    amx_fn tile = w->type->has_min ? tile_with_min : tile_plain;
    for (int64_t t = 0; t < rows; t += AMX_ROWS) {
        q8_rows from = rows_from(x, t, 0, 1);
        size_t bytes = (size_t)(rows - t < AMX_ROWS ? rows - t : AMX_ROWS) * NM_PANEL * sizeof *acc;
        for (int p = 0; p < panels; p++) {
            float *at = acc + (size_t)p * stride + NM_PANEL * t, last[AMX_ROWS * NM_PANEL] __attribute__((aligned(64)));
            if (t + AMX_ROWS <= rows) {
                tile(u + p, blocks, &from, at);
                continue;
            }
            memset(last, 0, sizeof last);
            memcpy(last, at, bytes);
            tile(u + p, blocks, &from, last);
            memcpy(at, last, bytes);
        }
    }
}

#include "kernel/x86/linear_tiles.h"

/* Block b of the 16 rows from t on. */
static void lay_block(const nm_linear_job *job, int64_t t, int64_t b, int8_t *q, float *scale, float *sums)
{
    const nm_qrows *x = job->xq;
    for (int64_t r = 0; r < AMX_ROWS && t + r < job->rows; r++) {
        const int8_t *four = nm_qrows_four(x, t + r, b * NM_BLOCK);
        size_t at = nm_qrows_block(x, t + r, b, 1);
        for (int v = 0; v < NM_STEPS; v++) memcpy(q + r * NM_BLOCK + 4 * v, four + 4 * v * x->tile, 4);
        scale[r] = x->scale[at];
        sums[r] = x->shift[at];
    }
}

/* All rows in tiles of 16, the last one filled up with zeros; `scratch` is what they leave of it. */
static q8_rows lay_rows(const nm_linear_job *job, uint8_t **scratch)
{
    size_t tiles = ((size_t)job->rows + AMX_ROWS - 1) / AMX_ROWS, ldq = job->xq->ldq, lds = job->xq->lds, blocks = tiles * lds;
    int8_t *q = (int8_t *)*scratch;
    float *scale = (float *)(q + tiles * AMX_ROWS * ldq), *sums = scale + blocks * AMX_ROWS;
    memset(q + (tiles - 1) * AMX_ROWS * ldq, 0, AMX_ROWS * ldq);
    memset(scale + (tiles - 1) * AMX_ROWS * lds, 0, AMX_ROWS * lds * sizeof *scale);
    memset(sums + (tiles - 1) * AMX_ROWS * lds, 0, AMX_ROWS * lds * sizeof *sums);
    for (size_t i = 0; i < blocks; i++)
        lay_block(job, (int64_t)(i / lds) * AMX_ROWS, (int64_t)(i % lds), q + i * AMX_ROWS * NM_BLOCK, scale + i * AMX_ROWS, sums + i * AMX_ROWS);
    *scratch = (uint8_t *)(sums + blocks * AMX_ROWS);
    /* Signed weights: no start is read. */
    return (q8_rows){.q = q, .scale = scale, .start = (const int32_t *)sums, .sums = sums, .ldq = ldq, .lds = lds, .ldg = lds, .tile = AMX_ROWS};
}

static void linear_q8(const nm_linear_job *job)
{
    if (job->rows < AMX_LEAST_ROWS || job->w->type->group != NM_BLOCK) {
        nm_linear_q8_vnni(job);
        return;
    }
    uint8_t *scratch = job->scratch;
    q8_rows x = lay_rows(job, &scratch);
    configure();
    linear_tiles(job, &x, scratch);
    _tile_release();
}

void nm_kernels_amx(nm_kernels *table)
{
    nm_kernels_vnni(table);         /* a mask may have left it out, and small batches are its own, in its tiles */
    table->linear_q8 = linear_q8;
    nm_kernels_amx_bf16(table);
}
