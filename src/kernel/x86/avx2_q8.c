/* AVX2: int8 linear maps. vpmaddubsw adds pairs of u8 x i8 products in int16; how many such sums fit before they must be widened depends on
 * the largest stored value: a pair of 4-bit products is at most 2 * 15 * 127, so int16 holds a whole block of 32 (eight sums) and a block needs one
 * vpmaddwd; 5 bits allow four sums, 6 bits two. Eight bits (255 * 127 * 2) fit not even once: single rows use |w| and the sign moved to x; tiles
 * widen both sides to int16 when they unpack and use vpmaddwd alone. */
#include "kernel/x86/blocks256.h"
#include "kernel/x86/q8_rows.h"

enum { DIRECT_ROWS = NM_DIRECT_ROWS_AVX2, TILE_ROWS = NM_TILE_ROWS_AVX2, TILE_PANELS = 2, UNPACKED_BYTES = 2, UNROLLED_BLOCKS = 2 };

/* sum += term, in the sum's own register: left to itself gcc 12 makes trees of chains, copies, and spills when sums fill the register file. */
#define ADD_TO(instruction, sum, term) __asm__(instruction " %1, %0, %0" : "+x"(sum) : "x"(term))

/* Types whose every sum or two is widened wait for memory more than for spilt registers. */
V16_INLINE int direct_whole(const nm_layout *l) { return sums_that_fit(l->most) >= 4 ? 2 : NM_QTILE_FEW; }

V16_INLINE __m256i widen_sums(__m256i words) { return _mm256_madd_epi16(words, _mm256_set1_epi16(1)); }

/* ---- Straight from the packed panel ---------------------------------------------------------------------------------------------------- */

/* Integer sums of one group (steps [v0, v0 + steps)) for eight weight rows. tile: rows that lie side by side in x, of which `rows` are asked for. */
V16_INLINE void direct_sums(const nm_layout *l, int tile, int rows, const uint8_t *super, int b, int half, int v0, int steps, const q8_rows *x, size_t at,
                            __m256i sum[NM_QTILE_FEW])
{
    const int fit = sums_that_fit(l->most);
    __m256i words[NM_QTILE_FEW];
    _Pragma("GCC unroll 8") for (int v = v0; v < v0 + steps; v++) {
        if (half == 0) prefetch_step(l, super, b, v, x);
        __m256i u = step256(l, super, b, v, half), w = _mm256_xor_si256(u, _mm256_set1_epi8((char)0x80)), size = _mm256_abs_epi8(w);
        int i = v - v0;
        _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) {
            __m256i four = four_bytes(x->q + ((at * NM_STEPS + (size_t)v) * (size_t)tile + (size_t)r) * 4);
            if (!fit) {         /* offset 128: w = q */
                __m256i s = widen_sums(_mm256_maddubs_epi16(size, _mm256_sign_epi8(four, w)));
                if (i) ADD_TO("vpaddd", sum[r], s);
                else sum[r] = s;
                continue;
            }
            __m256i s = _mm256_maddubs_epi16(u, four);
            if (i % fit) ADD_TO("vpaddw", words[r], s);
            else words[r] = s;
            if (i % fit != fit - 1 && i != steps - 1) continue;
            s = widen_sums(words[r]);
            if (i >= fit) ADD_TO("vpaddd", sum[r], s);
            else sum[r] = s;
        }
    }
}

V16_INLINE void direct_block(const nm_layout *l, int tile, int rows, int h0, int h1, const uint8_t *super, int b, const q8_rows *x, size_t at, v16 *acc)
{
    int groups = nm_layout_groups(l), steps = NM_STEPS / groups;
    bool offset = sums_that_fit(l->most) && l->offset;
    if (h0 == 0) prefetch_header(l, super, b, x);
    _Pragma("GCC unroll 2") for (int h = 0; h < groups; h++)
        _Pragma("GCC unroll 2") for (int half = h0; half < h1; half++) {
            size_t g = (at * (size_t)groups + (size_t)h) * (size_t)tile;
            __m256i sum[NM_QTILE_FEW];
            direct_sums(l, tile, rows, super, b, half, h * steps, steps, x, at, sum);
            __m256 scale = scale256(l, super, b * groups + h, half);
            __m256 min = nm_layout_has_min(l) ? min256(l, super, b * groups + h, half) : scale;
            _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) {
                if (offset) sum[r] = _mm256_add_epi32(sum[r], _mm256_set1_epi32(x->start[g + (size_t)r]));
                __m256 s = _mm256_mul_ps(scale, _mm256_set1_ps(x->scale[at * (size_t)tile + (size_t)r]));
                __m256 a = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[r]), s, half ? acc[r].b : acc[r].a);
                if (nm_layout_has_min(l)) a = _mm256_fmadd_ps(min, _mm256_set1_ps(x->sums[g + (size_t)r]), a);
                *half_of(&acc[r], half) = a;
            }
        }
}

#include "kernel/x86/direct.h"

/* ---- Tiles of the U form ----------------------------------------------------------------------------------------------------------------- */

/* What belongs to one group: 16 scales and minima of weights, and of each row of the tile a start, a scale and a sum of activations. */
typedef struct group_facts { const float *scale, *min, *sx, *sums; const int32_t *start; } group_facts;

V16_INLINE group_facts facts_of(const nm_u *u, const q8_rows *x, size_t tile, size_t g, int groups)
{
    return (group_facts){u->scale + g * NM_PANEL, u->min + g * NM_PANEL, x->scale + g / (size_t)groups * tile, x->sums + g * tile, x->start + g * tile};
}

/* Adds a group's sums of row r to its accumulators for the outputs of halves [h0, h1), which live in the first-level cache: registers are full of sums. */
V16_INLINE void add_row(bool has_min, int h0, int h1, const __m256i sum[2], const group_facts *f, int r, float *acc)
{
    __m256i start = _mm256_set1_epi32(f->start[r]);
    __m256 sx = _mm256_set1_ps(f->sx[r]), shift = has_min ? _mm256_set1_ps(f->sums[r]) : sx;
    __asm__("" : "+x"(start), "+x"(sx), "+x"(shift));       /* one broadcast for both halves */
    _Pragma("GCC unroll 2") for (int half = h0; half < h1; half++) {
        float *at = acc + NM_PANEL * r + 8 * half;
        __m256 s = _mm256_mul_ps(sx, _mm256_load_ps(f->scale + 8 * half));
        __m256 a = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(sum[half], start)), s, _mm256_load_ps(at));
        if (has_min) a = _mm256_fmadd_ps(shift, _mm256_load_ps(f->min + 8 * half), a);
        _mm256_store_ps(at, a);
    }
}

/* Rows that lie side by side: a whole tile's number is known. */
V16_INLINE size_t tile_of(int rows, const q8_rows *x) { return rows == TILE_ROWS ? TILE_ROWS : (size_t)x->tile; }

/* What was stored is read again: gcc would keep copies of the accumulators on the stack beside them. */
#define FORGET_MEMORY() __asm__ volatile("" : : : "memory")

/* A whole block's sums of pairs fit in int16. Registers: 12 sums, 2 of weights, activations, a product. */
V16_INLINE void block_tile(int groups, bool has_min, int rows, const nm_u *unpacked, int64_t blocks, const q8_rows *from, float *acc)
{
    const q8_rows x = *from;
    const nm_u u = *unpacked;
    const size_t steps = NM_STEPS / (size_t)groups, tile = tile_of(rows, from);
    for (size_t g = 0; g < (size_t)(blocks * groups); g++) {
        __m256i words[TILE_ROWS][2];
        FORGET_MEMORY();
        _Pragma("GCC unroll 8") for (size_t v = 0; v < steps; v++) {
            const uint8_t *line = u.q + (g * steps + v) * NM_LINE;
            __m256i w[2] = {half_line(line, 0), half_line(line, 1)};
            _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++) {
                __m256i four = four_bytes(x.q + ((g * steps + v) * tile + (size_t)r) * 4);
                __asm__("" : "+x"(four));
                _Pragma("GCC unroll 2") for (int half = 0; half < 2; half++) {
                    __m256i s = _mm256_maddubs_epi16(w[half], four);
                    if (v) ADD_TO("vpaddw", words[r][half], s);
                    else words[r][half] = s;
                }
            }
        }
        group_facts f = facts_of(&u, &x, tile, g, groups);
        _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++) {
            __m256i sum[2] = {widen_sums(words[r][0]), widen_sums(words[r][1])};
            add_row(has_min, 0, 2, sum, &f, r, acc);
        }
    }
}

/* `fit` sums of pairs fit in int16 and are then widened: eight outputs at a time, whose weights of a group stay in registers, row by row. */
V16_INLINE void part_tile(int fit, int groups, bool has_min, int rows, const nm_u *unpacked, int64_t blocks, const q8_rows *from, float *acc)
{
    const q8_rows x = *from;
    const nm_u u = *unpacked;
    const int steps = NM_STEPS / groups;
    const size_t tile = tile_of(rows, from);
    for (size_t g = 0; g < (size_t)(blocks * groups); g++) {
        group_facts f = facts_of(&u, &x, tile, g, groups);
        const int8_t *q = x.q + g * (size_t)steps * tile * 4;
        _Pragma("GCC unroll 2") for (int half = 0; half < 2; half++) {
            __m256i w[NM_STEPS];
            FORGET_MEMORY();
            _Pragma("GCC unroll 8") for (int v = 0; v < steps; v++) w[v] = half_line(u.q + (g * (size_t)steps + (size_t)v) * NM_LINE, half);
            _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++) {
                __m256i sum[2], words;
                _Pragma("GCC unroll 8") for (int v = 0; v < steps; v++) {
                    __m256i s = _mm256_maddubs_epi16(w[v], four_bytes(q + ((size_t)v * tile + (size_t)r) * 4));
                    words = v % fit ? _mm256_add_epi16(words, s) : s;
                    if (v % fit == fit - 1) sum[half] = v < fit ? widen_sums(words) : _mm256_add_epi32(sum[half], widen_sums(words));
                }
                add_row(has_min, half, half + 1, sum, &f, r, acc);
            }
        }
    }
}

/* Weights and activations as int16. pairs: of a tile of activations and a chunk of K, in the order of its fours: bytes 0 and 2 of each, then, a tile's worth of
 * a chunk later, bytes 1 and 3. */
typedef struct pairs { int32_t at[2][NM_QTILE_MOST * NM_CHUNK / 4]; } pairs;

V16_INLINE void wide_tile(int groups, bool has_min, int rows, const nm_u *unpacked, int64_t blocks, const q8_rows *from, const pairs *x16, float *acc)
{
    const q8_rows x = *from;
    const nm_u u = *unpacked;
    const int steps = NM_STEPS / groups;
    const size_t tile = tile_of(rows, from);
    for (size_t g = 0; g < (size_t)(blocks * groups); g++) {
        __m256i sum[TILE_ROWS][2];
        _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = _mm256_setzero_si256();
        FORGET_MEMORY();
        const uint8_t *line = u.q + g * (size_t)steps * 2 * NM_LINE;
        const int32_t *pair = x16->at[0] + g * (size_t)steps * tile;
        _Pragma("GCC unroll 1") for (int v = 0; v < steps; v++, line += 2 * NM_LINE, pair += tile)
            _Pragma("GCC unroll 2") for (int odd = 0; odd < 2; odd++) {
                __m256i w[2] = {half_line(line + odd * NM_LINE, 0), half_line(line + odd * NM_LINE, 1)};
                _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++) {
                    __m256i two = _mm256_set1_epi32(pair[odd * (int)(sizeof x16->at[0] / 4) + r]);
                    __asm__("" : "+x"(two));
                    _Pragma("GCC unroll 2") for (int half = 0; half < 2; half++) ADD_TO("vpaddd", sum[r][half], _mm256_madd_epi16(w[half], two));
                }
            }
        group_facts f = facts_of(&u, &x, tile, g, groups);
        _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++) add_row(has_min, 0, 2, sum[r], &f, r, acc);
    }
}

typedef void (*narrow_fn)(const nm_u *, int64_t, const q8_rows *, float *);
typedef void (*wide_fn)(const nm_u *, int64_t, const q8_rows *, const pairs *, float *);
#define NARROW(fit, groups, min, rows) \
    static void narrow_##fit##_##groups##_##min##_##rows(const nm_u *u, int64_t blocks, const q8_rows *x, float *acc) \
    { \
        if (fit >= NM_STEPS / groups) block_tile(groups, min, rows, u, blocks, x, acc); \
        else part_tile(fit, groups, min, rows, u, blocks, x, acc); \
    }
#define WIDE(groups, min, rows) \
    static void wide_##groups##_##min##_##rows(const nm_u *u, int64_t blocks, const q8_rows *x, const pairs *x16, float *acc) \
    { wide_tile(groups, min, rows, u, blocks, x, x16, acc); }
/* The kinds that layouts need: sums that fit, groups in a block, minimum; of each number of rows up to a tile's. */
#define ROW_COUNTS(X, ...) X(__VA_ARGS__, 1) X(__VA_ARGS__, 2) X(__VA_ARGS__, 3) X(__VA_ARGS__, 4) X(__VA_ARGS__, 5) X(__VA_ARGS__, 6)
ROW_COUNTS(NARROW, 8, 1, 0) ROW_COUNTS(NARROW, 8, 1, 1) ROW_COUNTS(NARROW, 8, 2, 0) ROW_COUNTS(NARROW, 8, 2, 1)
ROW_COUNTS(NARROW, 4, 1, 0) ROW_COUNTS(NARROW, 4, 1, 1) ROW_COUNTS(NARROW, 2, 2, 0)
ROW_COUNTS(WIDE, 1, 0) ROW_COUNTS(WIDE, 1, 1) ROW_COUNTS(WIDE, 2, 0) ROW_COUNTS(WIDE, 2, 1)
#define EACH_COUNT(stem) {stem##_1, stem##_2, stem##_3, stem##_4, stem##_5, stem##_6}
/* [fit / 4][groups - 1][has_min][rows - 1] */
static const narrow_fn narrow_tiles[3][2][2][TILE_ROWS] = {
    [0] = {[1] = {[0] = EACH_COUNT(narrow_2_2_0)}},
    [1] = {[0] = {EACH_COUNT(narrow_4_1_0), EACH_COUNT(narrow_4_1_1)}},
    [2] = {{EACH_COUNT(narrow_8_1_0), EACH_COUNT(narrow_8_1_1)}, {EACH_COUNT(narrow_8_2_0), EACH_COUNT(narrow_8_2_1)}}};
static const wide_fn wide_tiles[2][2][TILE_ROWS] = {{EACH_COUNT(wide_1_0), EACH_COUNT(wide_1_1)}, {EACH_COUNT(wide_2_0), EACH_COUNT(wide_2_1)}};

/* Sums that fit for this weight's U form; 0: the U form is wide. Rows of the file always are: they come as bytes with offset 128. */
static int fit_of(const nm_panels *w) { return w->data ? sums_that_fit(nm_layout_table[nm_layout_of(w->type)].most) : 0; }

/* A tile of activations to dwords of int16. */
static void widen_rows(const q8_rows *x, int64_t blocks, pairs *x16)
{
    for (int64_t i = 0; i < blocks * x->tile; i++) {
        __m256i q = _mm256_loadu_si256((const __m256i *)(x->q + i * NM_BLOCK));
        _mm256_storeu_si256((__m256i *)(x16->at[0] + i * NM_STEPS), _mm256_srai_epi16(_mm256_slli_epi16(q, 8), 8));
        _mm256_storeu_si256((__m256i *)(x16->at[1] + i * NM_STEPS), _mm256_srai_epi16(q, 8));
    }
}

static void q8_tiles(const nm_panels *w, const nm_u *u, int panels, int64_t blocks, const q8_rows *x, int64_t rows, float *acc, size_t stride)
{
    int groups = NM_BLOCK / w->type->group, fit = fit_of(w);
    for (int64_t t = 0; t < rows; t += x->tile) {
        int64_t n = rows - t < x->tile ? rows - t : x->tile;
        q8_rows from = rows_from(x, t, 0, groups);
        pairs x16;
        if (!fit) widen_rows(&from, blocks, &x16);
        for (int p = 0; p < panels; p++) {
            float *at = acc + (size_t)p * stride + NM_PANEL * t;
            if (fit) narrow_tiles[fit / 4][groups - 1][w->type->has_min][n - 1](u + p, blocks, &from, at);
            else wide_tiles[groups - 1][w->type->has_min][n - 1](u + p, blocks, &from, &x16, at);
        }
    }
}

/* Bytes to int16 in place of lines: each line becomes its even bytes, then its odd ones. */
static void widen_lines(const uint8_t *bytes, int64_t lines, uint8_t *out)
{
    for (int64_t i = 0; i < 2 * lines; i++) {
        __m256i u = half_line(bytes + i / 2 * NM_LINE, (int)(i % 2));
        uint8_t *to = out + i / 2 * 2 * NM_LINE + i % 2 * 32;
        _mm256_store_si256((__m256i *)to, _mm256_and_si256(u, _mm256_set1_epi16(255)));
        _mm256_store_si256((__m256i *)(to + NM_LINE), _mm256_srli_epi16(u, 8));
    }
}

static void unpack_chunk(const nm_panels *w, int64_t p, int64_t b0, int64_t blocks, const nm_u *u)
{
    uint8_t bytes[NM_CHUNK * NM_PANEL] __attribute__((aligned(64)));
    bool wide = !fit_of(w);
    nm_u to = *u;
    if (wide) to.q = bytes;
    if (w->data) nm_unpackers_avx2[nm_layout_of(w->type)](w->data + (size_t)p * w->panel_bytes, b0, blocks, &to);
    else nm_unpack_c(w, p, b0, blocks, 0x80, &to);
    if (wide) widen_lines(bytes, blocks * NM_STEPS, u->q);
}

#include "kernel/x86/linear_q8.h"

void nm_linear_q8_avx2(const nm_linear_job *job) { linear_q8(job); }
