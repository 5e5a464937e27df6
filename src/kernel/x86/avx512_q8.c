/* AVX-512 without VNNI: int8 linear maps by 512-bit vpmaddubsw, for processors that have AVX512BW alone; with VNNI that tier takes their place. How many
 * sums of pairs fit int16 is as in avx2_q8.c, but a line is one register and 32 registers hold a tile's sums and accumulators. Eight bits are multiplied as
 * |w| by the activations with the sign of w, also in tiles: a masked subtraction gives it, so weights need no second, widened form. */
#include "kernel/x86/blocks512.h"
#include "kernel/x86/q8_rows.h"

enum { DIRECT_ROWS = 4, TILE_ROWS = NM_TILE_ROWS_AVX512, TILE_PANELS = 4, UNPACKED_BYTES = 1, UNROLLED_BLOCKS = 4 };

V16_INLINE int direct_whole(const nm_layout *l) { return NM_QTILE_FEW; }

/* A line of weights: u, or the size and the signs of u - 128. */
typedef struct weights { __m512i u; __mmask64 negative; } weights;

V16_INLINE weights weights_of(int fit, __m512i u)
{
    __m512i w = _mm512_xor_si512(u, _mm512_set1_epi8((char)0x80));
    return fit ? (weights){u, 0} : (weights){_mm512_abs_epi8(w), _mm512_movepi8_mask(w)};
}

/* The sums of a group of `steps` steps, step i: adds a line's products with four activations of a row. words: int16 sums not yet in sum. */
V16_INLINE void add_products(int fit, int i, int steps, weights w, __m512i four, __m512i *words, __m512i *sum)
{
    if (!fit) four = _mm512_mask_sub_epi8(four, w.negative, _mm512_setzero_si512(), four);
    __m512i s = _mm512_maddubs_epi16(w.u, four);
    bool fresh = !fit || i % fit == 0, full = !fit || i % fit == fit - 1 || i == steps - 1;
    *words = fresh ? s : _mm512_add_epi16(*words, s);
    if (full) *sum = _mm512_add_epi32(*sum, _mm512_madd_epi16(*words, _mm512_set1_epi16(1)));
}

/* Where a row's sums begin: the offset's part, of which |w| has none; g: where the row's start is. */
V16_INLINE __m512i start_of(int fit, const q8_rows *x, size_t g) { return fit ? _mm512_set1_epi32(x->start[g]) : _mm512_setzero_si512(); }

/* A group's sums to a row's outputs; block and g: where the row's scale and sum of it are. */
V16_INLINE __m512 add_group(bool has_min, __m512i sum, __m512 scale, __m512 min, const q8_rows *x, size_t block, size_t g, __m512 acc)
{
    acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(scale, _mm512_set1_ps(x->scale[block])), acc);
    return has_min ? _mm512_fmadd_ps(min, _mm512_set1_ps(x->sums[g]), acc) : acc;
}

/* ---- Straight from the packed panel ---------------------------------------------------------------------------------------------------- */

V16_INLINE void direct_block(const nm_layout *l, int tile, int rows, int h0, int h1, const uint8_t *super, int b, const q8_rows *x, size_t at, v16 *acc)
{
    const int groups = nm_layout_groups(l), steps = NM_STEPS / groups, fit = sums_that_fit(l->most);
    const bool has_min = nm_layout_has_min(l);
    prefetch_header(l, super, b, x);
    _Pragma("GCC unroll 2") for (int h = 0; h < groups; h++) {
        size_t g = (at * (size_t)groups + (size_t)h) * (size_t)tile;
        __m512i words[NM_QTILE_FEW], sum[NM_QTILE_FEW];
        _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) sum[r] = start_of(fit, x, g + (size_t)r);
        _Pragma("GCC unroll 8") for (int i = 0; i < steps; i++) {
            int v = h * steps + i;
            prefetch_step(l, super, b, v, x);
            weights w = weights_of(fit, step512(l, super, b, v));
            _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++)
                add_products(fit, i, steps, w, four_bytes(x->q + ((at * NM_STEPS + (size_t)v) * (size_t)tile + (size_t)r) * 4), &words[r], &sum[r]);
        }
        __m512 scale = scale512(l, super, b * groups + h), min = has_min ? min512(l, super, b * groups + h) : scale;
        _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++)
            acc[r] = add_group(has_min, sum[r], scale, min, x, at * (size_t)tile + (size_t)r, g + (size_t)r, acc[r]);
    }
}

#include "kernel/x86/direct.h"

/* ---- Tiles of the U form ----------------------------------------------------------------------------------------------------------------- */

/* rows x one panel over `blocks` blocks; acc: [row][16]. */
V16_INLINE void tile512(int fit, int groups, bool has_min, int rows, const nm_u *u, int64_t blocks, const q8_rows *from, float *out)
{
    const q8_rows x = *from;
    const int steps = NM_STEPS / groups;
    const size_t tile = rows == TILE_ROWS ? TILE_ROWS : (size_t)x.tile;
    __m512 acc[TILE_ROWS];
    _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) acc[r] = _mm512_load_ps(out + NM_PANEL * r);
    for (size_t g = 0; g < (size_t)(blocks * groups); g++) {
        __m512i words[TILE_ROWS], sum[TILE_ROWS];
        _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) sum[r] = start_of(fit, &x, g * tile + (size_t)r);
        _Pragma("GCC unroll 8") for (int i = 0; i < steps; i++) {
            weights w = weights_of(fit, line_at(u->q + (g * (size_t)steps + (size_t)i) * NM_LINE));
            _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++)
                add_products(fit, i, steps, w, four_bytes(x.q + ((g * (size_t)steps + (size_t)i) * tile + (size_t)r) * 4), &words[r], &sum[r]);
        }
        __m512 scale = _mm512_load_ps(u->scale + g * NM_PANEL), min = has_min ? _mm512_load_ps(u->min + g * NM_PANEL) : scale;
        _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++)
            acc[r] = add_group(has_min, sum[r], scale, min, &x, g / (size_t)groups * tile + (size_t)r, g * tile + (size_t)r, acc[r]);
    }
    _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) _mm512_store_ps(out + NM_PANEL * r, acc[r]);
}

typedef void (*tile_fn)(const nm_u *, int64_t, const q8_rows *, float *);
#define TILE(fit, groups, min, rows) \
    static void tile_##fit##_##groups##_##min##_##rows(const nm_u *u, int64_t blocks, const q8_rows *x, float *acc) \
    { tile512(fit, groups, min, rows, u, blocks, x, acc); }
/* The kinds that layouts and rows of the file need: sums that fit, groups in a block, minimum. */
#define TILE_KINDS(X, rows) \
    X(8, 1, 0, rows) X(8, 1, 1, rows) X(8, 2, 0, rows) X(8, 2, 1, rows) X(4, 1, 0, rows) X(4, 1, 1, rows) X(2, 2, 0, rows) \
    X(0, 1, 0, rows) X(0, 1, 1, rows) X(0, 2, 0, rows) X(0, 2, 1, rows)
TILE_KINDS(TILE, 8) TILE_KINDS(TILE, 4) TILE_KINDS(TILE, 2) TILE_KINDS(TILE, 1)
#define TILE_ENTRY(fit, groups, min, rows) [fit / 2][groups - 1][min] = tile_##fit##_##groups##_##min##_##rows,
/* [rows 8, 4, 2, 1][fit / 2][groups - 1][has_min] */
static const tile_fn tiles[4][5][2][2] = {{TILE_KINDS(TILE_ENTRY, 8)}, {TILE_KINDS(TILE_ENTRY, 4)}, {TILE_KINDS(TILE_ENTRY, 2)}, {TILE_KINDS(TILE_ENTRY, 1)}};

/* Rows [r, r + size) of a tile: as rows_from has it, within the tile. */
static q8_rows rows_within(q8_rows x, int64_t r)
{
    x.q += 4 * r;
    x.scale += r;
    x.start += r;
    x.sums += r;
    return x;
}

static void q8_tiles(const nm_panels *w, const nm_u *u, int panels, int64_t blocks, const q8_rows *x, int64_t rows, float *acc, size_t stride)
{
    int groups = NM_BLOCK / w->type->group, fit = w->data ? sums_that_fit(nm_layout_table[nm_layout_of(w->type)].most) : 0;
    for (int64_t t = 0, size; t < rows; t += size) {
        int64_t r = t % x->tile, left = rows - t < x->tile - r ? rows - t : x->tile - r;
        int s = left >= 8 ? 0 : left >= 4 ? 1 : left >= 2 ? 2 : 3;
        q8_rows whole = rows_from(x, t - r, 0, groups), from = rows_within(whole, r);
        size = TILE_ROWS >> s;
        for (int p = 0; p < panels; p++) tiles[s][fit / 2][groups - 1][w->type->has_min](u + p, blocks, &from, acc + (size_t)p * stride + NM_PANEL * t);
    }
}

#define unpack_chunk nm_unpack_chunk_avx512
#include "kernel/x86/linear_q8.h"

void nm_linear_q8_avx512(const nm_linear_job *job) { linear_q8(job); }
