/* NEON with matrix products (smmla, Armv8.6 and later): batches of quantised linear maps. One instruction gives the sums of 2 rows x 2 outputs over 8
 * inputs. Weights take its form when they are unpacked, activations a tile at a time, and the accumulators keep it over a chunk of K:
 * {row 0 output 0, row 0 output 1, row 1 output 0, row 1 output 1}. An odd last row is paired with what its tile has beyond it, and that row is dropped. Small
 * batches stay with sdot. */
#define UNPACK_SIGNED true
#define UNPACK_PAIRED true
#include "kernel/arm/blocks_neon.h"
#include "kernel/x86/q8_rows.h"

enum { UNPACKED_BYTES = 1, TILE_PANELS = 3, I8MM_LEAST_ROWS = 9, TILE_PAIRS = 3, OCTETS = NM_CHUNK / 8 };     /* below: sdot straight from the packed panel */

NM_LAYOUTS(DEFINE_UNPACK_NEON)
static const unpack_fn unpackers[NM_LAYOUT_COUNT] = {NM_LAYOUTS(UNPACK_NEON_ENTRY)};

static void pair_lines(const uint8_t *lines, int64_t count, uint8_t *out)
{
    for (int64_t i = 0; i < count; i += 2, lines += 2 * NM_LINE)
        for (int quarter = 0; quarter < 4; quarter++, out += 32) {
            uint32x4_t x = vreinterpretq_u32_u8(vld1q_u8(lines + 16 * quarter)), y = vreinterpretq_u32_u8(vld1q_u8(lines + NM_LINE + 16 * quarter));
            vst1q_u8(out, vreinterpretq_u8_u32(vzip1q_u32(x, y)));
            vst1q_u8(out + 16, vreinterpretq_u8_u32(vzip2q_u32(x, y)));
        }
}

static void unpack_chunk(const nm_panels *w, int64_t p, int64_t b0, int64_t blocks, const nm_u *u)
{
    if (w->data) {
        unpackers[nm_layout_of(w->type)](w->data + (size_t)p * w->panel_bytes, b0, blocks, u);
        return;
    }
    uint8_t bytes[NM_CHUNK * NM_PANEL] __attribute__((aligned(64)));
    nm_unpack_c(w, p, b0, blocks, 0, &(nm_u){bytes, u->scale, u->min});
    pair_lines(bytes, blocks * NM_STEPS, u->q);
}

/* A register tile's rows, in pairs, over a chunk: each row's value of a pair stands twice. row: where a pair's two rows are in the accumulators. */
typedef struct paired_rows {
    int8_t q[OCTETS][TILE_PAIRS][16];
    float scale[NM_CHUNK_BLOCKS][TILE_PAIRS][4], sums[NM_CHUNK / 16][TILE_PAIRS][4];
    int64_t row[TILE_PAIRS][2];
} paired_rows;

/* {a, b} to {a, a, b, b}. */
V16_INLINE void put_pair(float *to, const float *rows)
{
    float32x2_t x = vld1_f32(rows);
    vst1q_f32(to, vcombine_f32(vdup_lane_f32(x, 0), vdup_lane_f32(x, 1)));
}

/* Pairs from row t of x on, of `rows` rows. t is even, so that a pair's rows lie side by side. */
static void pair_rows(paired_rows *z, const q8_rows *x, int64_t t, int64_t rows, int pairs, int64_t blocks, int groups)
{
    const int tile = NM_TILE_ROWS_ARM;
    for (int i = 0; i < pairs; i++, t += 2) {
        size_t r = (size_t)(t % tile), first = (size_t)t - r;
        const int8_t *q = x->q + first * x->ldq + 4 * r;
        const float *scale = x->scale + first * x->lds + r, *sums = x->sums + first * x->ldg + r;
        z->row[i][0] = t;
        z->row[i][1] = t + 1 < rows ? t + 1 : t;
        for (int64_t o = 0; o < blocks * 4; o++, q += 8 * tile) {
            int32x2_t a = vreinterpret_s32_s8(vld1_s8(q)), b = vreinterpret_s32_s8(vld1_s8(q + 4 * tile));
            vst1q_s8(z->q[o][i], vreinterpretq_s8_s32(vcombine_s32(vzip1_s32(a, b), vzip2_s32(a, b))));
        }
        for (int64_t g = 0; g < blocks; g++) put_pair(z->scale[g][i], scale + g * tile);
        for (int64_t g = 0; g < blocks * groups; g++) put_pair(z->sums[g][i], sums + g * tile);
    }
}

V16_INLINE float32x4_t low_pairs(float32x4_t a, float32x4_t b) { return vreinterpretq_f32_f64(vzip1q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b))); }
V16_INLINE float32x4_t high_pairs(float32x4_t a, float32x4_t b) { return vreinterpretq_f32_f64(vzip2q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b))); }

/* Two floats, twice. */
V16_INLINE float32x4_t twice(const float *p)
{
    float32x2_t x = vld1_f32(p);
    return vcombine_f32(x, x);
}

/* pairs of rows x 8 outputs (`half` of a panel) over `blocks` blocks. Registers: 12 integer sums, 12 accumulators, 3 of activations, 1 of weights. out: row 0. */
V16_INLINE void tile_i8mm(int groups, bool has_min, int pairs, const nm_u *u, int half, int64_t blocks, const paired_rows *x, float *out)
{
    const int octets = 4 / groups;
    float32x4_t acc[TILE_PAIRS][4];
    const int8_t *w = (const int8_t *)u->q + 64 * half;
    out += 8 * half;
    _Pragma("GCC unroll 3") for (int i = 0; i < pairs; i++)
        _Pragma("GCC unroll 2") for (int j = 0; j < 4; j += 2) {
            float32x4_t a = vld1q_f32(out + NM_PANEL * x->row[i][0] + 2 * j), b = vld1q_f32(out + NM_PANEL * x->row[i][1] + 2 * j);
            acc[i][j] = low_pairs(a, b);
            acc[i][j + 1] = high_pairs(a, b);
        }
    for (int64_t g = 0; g < blocks * groups; g++) {
        int32x4_t sum[TILE_PAIRS][4];
        _Pragma("GCC unroll 3") for (int i = 0; i < pairs; i++)
            _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) sum[i][j] = vdupq_n_s32(0);
        _Pragma("GCC unroll 4") for (int o = 0; o < octets; o++, w += 2 * NM_LINE) {
            int8x16_t rows[TILE_PAIRS];
            _Pragma("GCC unroll 3") for (int i = 0; i < pairs; i++) rows[i] = vld1q_s8(x->q[g * octets + o][i]);
            _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) {
                int8x16_t weights = vld1q_s8(w + 16 * j);
                _Pragma("GCC unroll 3") for (int i = 0; i < pairs; i++) sum[i][j] = vmmlaq_s32(sum[i][j], rows[i], weights);
            }
        }
        _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) {
            float32x4_t scale = twice(u->scale + g * NM_PANEL + 8 * half + 2 * j);
            float32x4_t min = has_min ? twice(u->min + g * NM_PANEL + 8 * half + 2 * j) : scale;
            _Pragma("GCC unroll 3") for (int i = 0; i < pairs; i++) {
                acc[i][j] = vfmaq_f32(acc[i][j], vcvtq_f32_s32(sum[i][j]), vmulq_f32(scale, vld1q_f32(x->scale[g / groups][i])));
                if (has_min) acc[i][j] = vfmaq_f32(acc[i][j], min, vld1q_f32(x->sums[g][i]));
            }
        }
    }
    _Pragma("GCC unroll 3") for (int i = 0; i < pairs; i++)
        _Pragma("GCC unroll 2") for (int j = 0; j < 4; j += 2) {
            vst1q_f32(out + NM_PANEL * x->row[i][1] + 2 * j, high_pairs(acc[i][j], acc[i][j + 1]));     /* first, for an odd last row to overwrite */
            vst1q_f32(out + NM_PANEL * x->row[i][0] + 2 * j, low_pairs(acc[i][j], acc[i][j + 1]));
        }
}

typedef void (*tile_fn)(const nm_u *, int half, int64_t, const paired_rows *, float *);
#define TILE(groups, min, pairs) \
    static void tile_##groups##_##min##_##pairs(const nm_u *u, int half, int64_t blocks, const paired_rows *x, float *out) \
    { tile_i8mm(groups, min, pairs, u, half, blocks, x, out); }
#define TILE_KINDS(X, pairs) X(1, 0, pairs) X(1, 1, pairs) X(2, 0, pairs) X(2, 1, pairs)
TILE_KINDS(TILE, 1) TILE_KINDS(TILE, 2) TILE_KINDS(TILE, 3)
/* [groups - 1][has_min][pairs - 1] */
#define SIZES(groups, min) {tile_##groups##_##min##_1, tile_##groups##_##min##_2, tile_##groups##_##min##_3}
static const tile_fn tiles[2][2][TILE_PAIRS] = {{SIZES(1, 0), SIZES(1, 1)}, {SIZES(2, 0), SIZES(2, 1)}};

static void q8_tiles(const nm_panels *w, const nm_u *u, int panels, int64_t blocks, const q8_rows *x, int64_t rows, float *acc, size_t stride)
{
    int groups = NM_BLOCK / w->type->group;
    paired_rows z;
    for (int64_t t = 0; t < rows; t += 2 * TILE_PAIRS) {
        int pairs = rows - t >= 2 * TILE_PAIRS ? TILE_PAIRS : (int)(rows - t + 1) / 2;
        pair_rows(&z, x, t, rows, pairs, blocks, groups);
        for (int p = 0; p < panels; p++)
            for (int half = 0; half < 2; half++) tiles[groups - 1][w->type->has_min][pairs - 1](u + p, half, blocks, &z, acc + (size_t)p * stride);
    }
}

#include "kernel/x86/linear_tiles.h"

static void linear_q8(const nm_linear_job *job)
{
    if (job->rows < I8MM_LEAST_ROWS) {
        nm_linear_q8_dotprod(job);
        return;
    }
    q8_rows x = prepare_rows(job, 0, job->scratch);
    linear_tiles(job, &x, (uint8_t *)job->scratch + prepared_bytes(job));
}

void nm_kernels_i8mm(nm_kernels *table)
{
    table->linear_q8 = linear_q8;
    table->tile_rows = NM_TILE_ROWS_ARM;
    table->few_rows = NM_QTILE_FEW;
}
