/* Template: int8 linear maps by products of four inputs, included once by each tier that has no matrix instruction. Parameter, defined before:
 *   int32x4_t dot_lane(int32x4_t sum, int8x16_t w, int8x16_t x, int lane)      sum[i] += w[4i .. 4i + 3] . x[4 * lane .. + 3]; lane is a constant
 * A line of a panel is four vectors of 4 rows x 4 inputs, and a vector of activations is the fours of four rows of a tile, or four steps of a lone row,
 * chosen by lane: no shuffles anywhere. Both operands are signed. Stored values of at most 63 are taken as they are and their offset by `start`
 * (kernel/x86/q8_rows.h); offset 128 is a flipped bit. */
#ifndef NM_ARM_LINEAR_DOT_H
#define NM_ARM_LINEAR_DOT_H

#define UNPACK_SIGNED true
#define UNPACK_PAIRED false
#include "kernel/arm/blocks_neon.h"
#include "kernel/x86/q8_rows.h"

enum { DIRECT_ROWS = 8, TILE_ROWS = NM_TILE_ROWS_ARM, TILE_PANELS = 3, UNPACKED_BYTES = 1 };

V16_INLINE int direct_whole(const nm_layout *l) { return NM_QTILE_FEW; }

/* Activations of four steps from step v on, of a tile of 1 or 4 rows: the four of step v + i and row r is lane (i * tile + r) % 4 of vector (i * tile + r) / 4. */
V16_INLINE void load_fours(int tile, const q8_rows *x, size_t v, int8x16_t fours[4])
{
    _Pragma("GCC unroll 4") for (int i = 0; i < tile; i++) fours[i] = vld1q_s8(x->q + v * (size_t)tile * 4 + 16 * i);
}

V16_INLINE int32x4_t dot_four(int32x4_t sum, int8x16_t w, const int8x16_t fours[4], int four) { return dot_lane(sum, w, fours[four / 4], four % 4); }

/* ---- Straight from the packed panel ---------------------------------------------------------------------------------------------------- */

/* Integer sums of one group (steps [v0, v0 + steps)) for a quarter's four weight rows. tile: rows that lie side by side in x, of which `rows` are asked for. */
V16_INLINE void direct_sums(const nm_layout *l, int tile, int rows, const uint8_t *super, int b, int quarter, int v0, int steps, const q8_rows *x, size_t at,
                            int32x4_t sum[NM_QTILE_FEW])
{
    const uint8_t flip = l->offset == 128 ? 0x80 : 0;
    _Pragma("GCC unroll 2") for (int v = v0; v < v0 + steps; v += 4) {
        int8x16_t fours[4];
        load_fours(tile, x, at * NM_STEPS + (size_t)v, fours);
        _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
            if (quarter == 0) prefetch_step(l, super, b, v + i, x);
            int8x16_t w = vreinterpretq_s8_u8(step_neon(l, flip, super, b, v + i, quarter));
            _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) sum[r] = dot_four(sum[r], w, fours, i * tile + r);
        }
    }
}

V16_INLINE float32x4_t *quarter_of(v16 *x, int quarter) { return quarter == 0 ? &x->a : quarter == 1 ? &x->b : quarter == 2 ? &x->c : &x->d; }

V16_INLINE void direct_block(const nm_layout *l, int tile, int rows, const uint8_t *super, int b, const q8_rows *x, size_t at, v16 acc[NM_QTILE_FEW])
{
    int groups = nm_layout_groups(l), steps = NM_STEPS / groups;
    bool offset = l->offset && l->offset != 128;
    prefetch_header(l, super, b, x);
    _Pragma("GCC unroll 2") for (int h = 0; h < groups; h++)
        _Pragma("GCC unroll 4") for (int quarter = 0; quarter < 4; quarter++) {
            size_t g = (at * (size_t)groups + (size_t)h) * (size_t)tile;
            int32x4_t sum[NM_QTILE_FEW];
            _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) sum[r] = vdupq_n_s32(offset ? x->start[g + (size_t)r] : 0);
            direct_sums(l, tile, rows, super, b, quarter, h * steps, steps, x, at, sum);
            float32x4_t scale = scale_neon(l, super, b * groups + h, quarter);
            float32x4_t min = nm_layout_has_min(l) ? min_neon(l, super, b * groups + h, quarter) : scale;
            _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) {
                float32x4_t *a = quarter_of(&acc[r], quarter);
                *a = vfmaq_f32(*a, vcvtq_f32_s32(sum[r]), vmulq_n_f32(scale, x->scale[at * (size_t)tile + (size_t)r]));
                if (nm_layout_has_min(l)) *a = vfmaq_n_f32(*a, min, x->sums[g + (size_t)r]);
            }
        }
}

V16_INLINE void direct_neon(const nm_layout *l, int tile, int rows, const uint8_t *super, int64_t at, int64_t blocks, const q8_rows *from, float *out)
{
    const q8_rows x = *from;
    v16 acc[NM_QTILE_FEW];
    _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) acc[r] = v_load(out + NM_PANEL * r);
    const int64_t end = at + blocks;
    for (; at + l->blocks <= end; at += l->blocks, super += nm_layout_super(l))
        _Pragma("GCC unroll 1") for (int b = 0; b < l->blocks; b++) direct_block(l, tile, rows, super, b, &x, (size_t)(at + b), acc);
    for (int b = 0; at + b < end; b++) direct_block(l, tile, rows, super, b, &x, (size_t)(at + b), acc);
    _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) v_store(out + NM_PANEL * r, acc[r]);
}

#define DIRECT(TYPE, TILE, ROWS, ...) \
    static void direct_##TYPE##_##TILE##_##ROWS(const uint8_t *super, int64_t at, int64_t blocks, const q8_rows *x, float *acc) \
    { \
        static const nm_layout l = NM_LAYOUT_ROW(TYPE, __VA_ARGS__); \
        direct_neon(&l, TILE, ROWS, super, at, blocks, x, acc); \
    }
#define DIRECT_ALL(TYPE, ...) DIRECT_KINDS_OF(DIRECT, TYPE, __VA_ARGS__)
NM_LAYOUTS(DIRECT_ALL)
static const direct_fns direct_tiles[NM_LAYOUT_COUNT] = {NM_LAYOUTS(DIRECT_ENTRY)};

/* ---- Tiles of the U form, whose values are signed and whole ------------------------------------------------------------------------------ */

/* What a tile's rows have side by side. */
V16_INLINE float32x4_t of_rows(int tile, const float *p) { return tile == TILE_ROWS ? vld1q_f32(p) : vld1q_dup_f32(p); }

V16_INLINE float32x4_t times_lane(float32x4_t x, float32x4_t y, int lane)
{
    return lane == 0 ? vmulq_laneq_f32(x, y, 0) : lane == 1 ? vmulq_laneq_f32(x, y, 1) : lane == 2 ? vmulq_laneq_f32(x, y, 2) : vmulq_laneq_f32(x, y, 3);
}

V16_INLINE float32x4_t fma_lane(float32x4_t sum, float32x4_t x, float32x4_t y, int lane)
{
    return lane == 0 ? vfmaq_laneq_f32(sum, x, y, 0) : lane == 1 ? vfmaq_laneq_f32(sum, x, y, 1)
         : lane == 2 ? vfmaq_laneq_f32(sum, x, y, 2) : vfmaq_laneq_f32(sum, x, y, 3);
}

/* rows x 8 outputs (`half` of a panel) over `blocks` blocks. Registers: 8 integer sums, 8 accumulators, 4 of activations, 2 of weights. */
V16_INLINE void tile_dot(int groups, bool has_min, int tile, int rows, const nm_u *u, int half, int64_t blocks, const q8_rows *from, float *out)
{
    const q8_rows x = *from;
    const size_t steps = NM_STEPS / (size_t)groups;
    float32x4_t acc[TILE_ROWS][2];
    const int8_t *w = (const int8_t *)u->q + 32 * half;
    _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 2") for (int i = 0; i < 2; i++) acc[r][i] = vld1q_f32(out + NM_PANEL * r + 8 * half + 4 * i);
    for (size_t g = 0; g < (size_t)(blocks * groups); g++) {
        int32x4_t sum[TILE_ROWS][2];
        _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = vdupq_n_s32(0);
        _Pragma("GCC unroll 2") for (size_t v = 0; v < steps; v += 4) {
            int8x16_t fours[4];
            load_fours(tile, &x, g * steps + v, fours);
            _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++, w += NM_LINE)
                _Pragma("GCC unroll 2") for (int i = 0; i < 2; i++) {
                    int8x16_t weights = vld1q_s8(w + 16 * i);
                    _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) sum[r][i] = dot_four(sum[r][i], weights, fours, j * tile + r);
                }
        }
        float32x4_t sx = of_rows(tile, x.scale + g / (size_t)groups * (size_t)tile), shift = has_min ? of_rows(tile, x.sums + g * (size_t)tile) : sx;
        _Pragma("GCC unroll 2") for (int i = 0; i < 2; i++) {
            float32x4_t scale = vld1q_f32(u->scale + g * NM_PANEL + 8 * half + 4 * i);
            float32x4_t min = has_min ? vld1q_f32(u->min + g * NM_PANEL + 8 * half + 4 * i) : scale;
            _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) {
                acc[r][i] = vfmaq_f32(acc[r][i], vcvtq_f32_s32(sum[r][i]), times_lane(scale, sx, r));
                if (has_min) acc[r][i] = fma_lane(acc[r][i], min, shift, r);
            }
        }
    }
    _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 2") for (int i = 0; i < 2; i++) vst1q_f32(out + NM_PANEL * r + 8 * half + 4 * i, acc[r][i]);
}

typedef void (*tile_fn)(const nm_u *, int half, int64_t, const q8_rows *, float *);
#define TILE(groups, min, tile, rows) \
    static void tile_##groups##_##min##_##tile##_##rows(const nm_u *u, int half, int64_t blocks, const q8_rows *x, float *acc) \
    { tile_dot(groups, min, tile, rows, u, half, blocks, x, acc); }
#define TILE_KINDS(X, ...) X(1, 0, __VA_ARGS__) X(1, 1, __VA_ARGS__) X(2, 0, __VA_ARGS__) X(2, 1, __VA_ARGS__)
TILE_KINDS(TILE, 1, 1) TILE_KINDS(TILE, 4, 1) TILE_KINDS(TILE, 4, 2) TILE_KINDS(TILE, 4, 3) TILE_KINDS(TILE, 4, 4)
/* [groups - 1][has_min][rows of a tile; 0: a lone row in a tile of its own] */
#define SIZES(stem) {stem##_1_1, stem##_4_1, stem##_4_2, stem##_4_3, stem##_4_4}
static const tile_fn tiles[2][2][1 + TILE_ROWS] = {{SIZES(tile_1_0), SIZES(tile_1_1)}, {SIZES(tile_2_0), SIZES(tile_2_1)}};

static void q8_tiles(const nm_panels *w, const nm_u *u, int panels, int64_t blocks, const q8_rows *x, int64_t rows, float *acc, size_t stride)
{
    int groups = NM_BLOCK / w->type->group;
    for (int64_t t = 0; t < rows; t += x->tile) {
        int64_t n = rows - t < x->tile ? rows - t : x->tile;
        tile_fn tile = tiles[groups - 1][w->type->has_min][x->tile == 1 ? 0 : n];
        q8_rows from = rows_from(x, t, 0, groups);
        for (int p = 0; p < panels; p++)
            for (int half = 0; half < 2; half++) tile(u + p, half, blocks, &from, acc + (size_t)p * stride + NM_PANEL * t);
    }
}

NM_LAYOUTS(DEFINE_UNPACK_NEON)
static const unpack_fn unpackers[NM_LAYOUT_COUNT] = {NM_LAYOUTS(UNPACK_NEON_ENTRY)};

static void unpack_chunk(const nm_panels *w, int64_t p, int64_t b0, int64_t blocks, const nm_u *u)
{
    if (w->data) unpackers[nm_layout_of(w->type)](w->data + (size_t)p * w->panel_bytes, b0, blocks, u);
    else nm_unpack_c(w, p, b0, blocks, 0, u);
}

#include "kernel/x86/linear_q8.h"

#endif
