/* Template: linear maps in bf16, forward and backward, with 512-bit vectors around products that a tier supplies. Both ways a map's weights are unpacked a chunk at a
 * time, rounded as they lie, and then all rows pass over them: forward as lines (16 outputs a line), against rows of x; backward as rows (16 inputs, each with the outputs
 * that a pair of panels holds), against lines of dy, so that no weight changes its place. Included after bf16_lanes.h. Parameter:
 *   products(const bf16_product *z)        continues the chains of all row tiles x line tiles */
#ifndef NM_X86_BF16_MAPS_H
#define NM_X86_BF16_MAPS_H

#include "kernel/x86/blocks512.h"

enum { F32_PANELS = 4 };
#define unpack_chunk nm_unpack_chunk_avx512
#include "kernel/x86/chunks_f32.h"

_Static_assert((int)F32_CHUNK == (int)NM_UNPACK_INPUTS && (int)F32_PANELS <= (int)NM_TILE_PANELS, "nm_linear_bf16_scratch and nm_back_bf16_scratch have room for it");

enum { TILE = 256, CHUNK_BLOCKS = F32_CHUNK / 32 };     /* dwords of 16 rows (or lines) x a block of 32, and floats of 16 x 16 sums */

/* Row tile r and line tile l: 16 x 16 accumulators at acc + r * acc_row + l * acc_line, rows apart by 16. Tiles are [blocks][TILE]. */
typedef struct bf16_product {
    int64_t blocks, row_tiles, line_tiles;
    const uint32_t *rows, *lines;
    size_t row_step, line_step;
    float *acc;
    size_t acc_row, acc_line;
} bf16_product;

static void products(const bf16_product *z);

/* ---- Rounding --------------------------------------------------------------------------------------------------------------------- */

/* A line of pairs: those of sixteen lanes at an even input and at the next. */
V16_INLINE bf16x32 pair_line(v16 even, v16 odd)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i order = _mm512_add_epi32(_mm512_or_si512(lane, _mm512_slli_epi32(lane, 16)), _mm512_set1_epi32(16 << 16));
    return _mm512_permutexvar_epi16(order, bf16_round(even, odd));
}

/* [n][16] to the lines of a tile, whose last block is filled up with zeros. */
V16_INLINE void pair_lines(const float *f, int64_t n, uint32_t *tile)
{
    int64_t k = 0;
    for (; k + 2 <= n; k += 2, tile += 16) _mm512_store_si512(tile, pair_line(v_load(f + 16 * k), v_load(f + 16 * (k + 1))));
    for (; k < (n + 31) / 32 * 32; k += 2, tile += 16) _mm512_store_si512(tile, pair_line(k < n ? v_load(f + 16 * k) : v_set(0), v_set(0)));
}

/* A block of a row: n of its 32 inputs, the rest zero. */
V16_INLINE bf16x32 round_block(const float *x, int64_t n)
{
    return n >= 32 ? bf16_round(v_load(x), v_load(x + 16)) : bf16_round(v_load_n(x, (int)n), v_load_n(x + 16, (int)n - 16));
}

static void round_rows(const float *x, size_t ldx, int64_t rows, int64_t k, uint32_t *tile)
{
    for (int64_t r = 0; r < 16; r++)
        for (int64_t i = 0; i < k; i += 32)
            _mm512_store_si512(tile + i / 32 * TILE + r * 16, r < rows ? round_block(x + (size_t)r * ldx + (size_t)i, k - i) : _mm512_setzero_si512());
}

V16_INLINE void turn(__m512i a[16])
{
    __m512i b[16];
    _Pragma("GCC unroll 8") for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    _Pragma("GCC unroll 4") for (int i = 0; i < 16; i += 4)
        _Pragma("GCC unroll 2") for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
        }
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {       /* a[4 g + i]: column i of each quarter, rows 4 g to 4 g + 3 */
        __m512i low = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x44), high = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xee);
        __m512i low2 = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x44), high2 = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xee);
        b[i] = _mm512_shuffle_i32x4(low, low2, 0x88);
        b[4 + i] = _mm512_shuffle_i32x4(low, low2, 0xdd);
        b[8 + i] = _mm512_shuffle_i32x4(high, high2, 0x88);
        b[12 + i] = _mm512_shuffle_i32x4(high, high2, 0xdd);
    }
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) a[i] = b[i];
}

static void round_lines(const float *x, size_t ldx, int64_t rows, int64_t k, uint32_t *tile)
{
    for (int64_t i = 0; i < k; i += 32, tile += TILE) {
        __m512i a[16];
        for (int64_t r = 0; r < 16; r++) a[r] = r < rows ? round_block(x + (size_t)r * ldx + (size_t)i, k - i) : _mm512_setzero_si512();
        turn(a);
        for (int r = 0; r < 16; r++) _mm512_store_si512(tile + 16 * r, a[r]);
    }
}

/* ---- Linear maps -------------------------------------------------------------------------------------------------------------------- */

/* What follows in scratch: the U form of a chunk. */
static nm_u u_at(float *scratch)
{
    nm_u u = {.scale = scratch, .min = scratch + F32_CHUNK / 16 * 16};
    u.q = (uint8_t *)(u.min + F32_CHUNK / 16 * 16);
    return u;
}

/* y of up to F32_PANELS panels from p on. In scratch: their lines [F32_PANELS][CHUNK_BLOCKS][TILE], fp32 values of one, accumulators [panel][tile][TILE], U. */
static void some_panels(const nm_linear_job *job, int64_t p, int count)
{
    const nm_panels *w = job->w;
    const int64_t tiles = (job->rows + 15) / 16;
    uint32_t *lines = job->scratch;
    float *values = (float *)(lines + F32_PANELS * CHUNK_BLOCKS * TILE), *acc = values + F32_CHUNK * 16;
    nm_u u = u_at(acc + (size_t)F32_PANELS * (size_t)tiles * TILE);
    memset(acc, 0, (size_t)count * (size_t)tiles * TILE * sizeof *acc);
    for (int64_t k = 0; k < w->k; k += F32_CHUNK) {
        int64_t n = w->k - k < F32_CHUNK ? w->k - k : F32_CHUNK;
        for (int i = 0; i < count; i++) pair_lines(f32_panel(w, p + i, k, n, values, &u), n, lines + i * CHUNK_BLOCKS * TILE);
        products(&(bf16_product){.blocks = (n + 31) / 32, .row_tiles = tiles, .line_tiles = count, .rows = job->xb + k / 32 * TILE, .row_step = nm_bf16_tile(w->k),
            .lines = lines, .line_step = CHUNK_BLOCKS * TILE, .acc = acc, .acc_row = TILE, .acc_line = (size_t)tiles * TILE});
    }
    for (int i = 0; i < count; i++) finish_outputs(job, p + i, acc + (size_t)i * (size_t)tiles * TILE, job->rows);
}

static void linear_bf16(const nm_linear_job *job)
{
    for (int64_t p = job->p0; p < job->p1; p += F32_PANELS) some_panels(job, p, job->p1 - p < F32_PANELS ? (int)(job->p1 - p) : F32_PANELS);
}

/* ---- Backward ------------------------------------------------------------------------------------------------------------------------- */

/* Outputs of panels p and p + 1, inputs of the job, as block b of tiles [tile][CHUNK_BLOCKS][TILE]. What panels hold beyond the last output is zero of either sign,
 * and the chain's zeros are not. */
static void input_rows(const nm_back_job *job, int64_t p, int64_t b, float *values, const nm_u *u, uint32_t *tiles)
{
    const int64_t left = job->w->n - NM_PANEL * p;
    const int lanes[2] = {left < 16 ? (int)left : 16, left < 32 ? (int)left - 16 : 16};
    const float *f[2];
    f[0] = f[1] = f32_panel(job->w, p, job->k0, job->inputs, values, u);
    if (lanes[1] > 0) f[1] = f32_panel(job->w, p + 1, job->k0, job->inputs, values + F32_CHUNK * 16, u);
    for (int64_t i = 0; i < job->inputs; i++)
        _mm512_store_si512(tiles + (i / 16 * CHUNK_BLOCKS + b) * TILE + i % 16 * 16, bf16_round(v_load_n(f[0] + 16 * i, lanes[0]), v_load_n(f[1] + 16 * i, lanes[1])));
}

/* dx between its rows and accumulators [input tile][row tile][16 inputs][16 rows]. */
static void move_dx(const nm_back_job *job, float *acc, bool from)
{
    const int64_t tiles = (job->rows + 15) / 16;
    for (int64_t i = 0; i < job->inputs; i += 16)
        for (int64_t t = 0; t < tiles; t++, acc += TILE) {
            int lanes = job->inputs - i < 16 ? (int)(job->inputs - i) : 16, rows = job->rows - 16 * t < 16 ? (int)(job->rows - 16 * t) : 16;
            float *dx = job->dx + (size_t)(16 * t) * job->ldx + i;
            __m512i a[16];
            for (int r = 0; r < 16; r++)
                a[r] = !from ? _mm512_load_si512(acc + 16 * r) : r < rows ? _mm512_castps_si512(v_load_n(dx + (size_t)r * job->ldx, lanes)) : _mm512_setzero_si512();
            turn(a);
            for (int r = 0; r < 16 && from; r++) _mm512_store_si512(acc + 16 * r, a[r]);
            for (int r = 0; r < rows && !from; r++) v_store_n(dx + (size_t)r * job->ldx, _mm512_castsi512_ps(a[r]), lanes);
        }
}

/* In scratch: weights as rows [input tile][CHUNK_BLOCKS][TILE], fp32 values of two panels, accumulators, U. */
static void back_bf16(const nm_back_job *job)
{
    enum { TILES = F32_CHUNK / 16 };
    const nm_panels *w = job->w;
    const int64_t tiles = (job->rows + 15) / 16, input_tiles = (job->inputs + 15) / 16, blocks = (w->n + 31) / 32;
    uint32_t *rows = job->scratch;
    float *values = (float *)(rows + TILES * CHUNK_BLOCKS * TILE), *acc = values + 2 * F32_CHUNK * 16;
    nm_u u = u_at(acc + (size_t)TILES * (size_t)tiles * TILE);
    if (job->inputs % 16) memset(rows + (input_tiles - 1) * CHUNK_BLOCKS * TILE, 0, CHUNK_BLOCKS * TILE * sizeof *rows);
    if (job->add) move_dx(job, acc, true);
    else memset(acc, 0, (size_t)input_tiles * (size_t)tiles * TILE * sizeof *acc);
    for (int64_t b = 0, n; b < blocks; b += n) {
        n = blocks - b < CHUNK_BLOCKS ? blocks - b : CHUNK_BLOCKS;
        for (int64_t i = 0; i < n; i++) input_rows(job, 2 * (b + i), i, values, &u, rows);
        products(&(bf16_product){.blocks = n, .row_tiles = input_tiles, .line_tiles = tiles, .rows = rows, .row_step = CHUNK_BLOCKS * TILE,
            .lines = job->dy + b * TILE, .line_step = nm_bf16_tile(w->n), .acc = acc, .acc_row = (size_t)tiles * TILE, .acc_line = TILE});
    }
    move_dx(job, acc, false);
}

static void fill_bf16(nm_kernels *table, const char *name)
{
    table->bf16 = name;
    table->has_bf16 = true;
    table->round_rows = round_rows;
    table->round_lines = round_lines;
    table->linear_bf16 = linear_bf16;
    table->back_bf16 = back_bf16;
}

#endif
