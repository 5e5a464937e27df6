/* AVX-VNNI: int8 linear maps of processors that have vpdpbusd but no AVX-512. It adds four products of u8 and i8 to each int32 sum, so nothing can
 * saturate and all widths of weights are alike; see vnni.c. Everything else stays with AVX2. Under NM_EMULATE_AVXVNNI the instruction is AVX-512's, which
 * does the same to the same registers: for tests on machines with that one. */
#include "kernel/x86/blocks256.h"
#include "kernel/x86/q8_rows.h"

enum { DIRECT_ROWS = 8, TILE_ROWS = NM_TILE_ROWS_AVX2, TILE_PANELS = 4, UNPACKED_BYTES = 1, UNROLLED_BLOCKS = 2 };

V16_INLINE int direct_whole(const nm_layout *l) { return 2; }

#ifdef NM_EMULATE_AVXVNNI
#define ENCODING "%{evex%} "
#else
#define ENCODING "%{vex%} "
#endif
/* By name, since intrinsics would ask for all of AVX-512 in the one case; and in the sum's own register (avx2_q8.c: ADD_TO). */
#define ADD_PRODUCTS(sum, u, four) __asm__(ENCODING "vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(u), "x"(four))

/* A group's sums to eight outputs of a row; block and g: where the row's scale and sum of it are. */
V16_INLINE __m256 add_group(bool has_min, __m256i sum, __m256 scale, __m256 min, const q8_rows *x, size_t block, size_t g, __m256 acc)
{
    acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(scale, _mm256_set1_ps(x->scale[block])), acc);
    return has_min ? _mm256_fmadd_ps(min, _mm256_set1_ps(x->sums[g]), acc) : acc;
}

/* ---- Straight from the packed panel ---------------------------------------------------------------------------------------------------- */

V16_INLINE void direct_block(const nm_layout *l, int tile, int rows, int h0, int h1, const uint8_t *super, int b, const q8_rows *x, size_t at, v16 *acc)
{
    const int groups = nm_layout_groups(l), steps = NM_STEPS / groups;
    const bool has_min = nm_layout_has_min(l);
    if (h0 == 0) prefetch_header(l, super, b, x);
    _Pragma("GCC unroll 2") for (int h = 0; h < groups; h++)
        _Pragma("GCC unroll 2") for (int half = h0; half < h1; half++) {
            size_t g = (at * (size_t)groups + (size_t)h) * (size_t)tile;
            __m256i sum[NM_QTILE_FEW];
            _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) sum[r] = _mm256_set1_epi32(x->start[g + (size_t)r]);
            _Pragma("GCC unroll 8") for (int v = h * steps; v < (h + 1) * steps; v++) {
                if (half == 0) prefetch_step(l, super, b, v, x);
                __m256i u = step256(l, super, b, v, half);
                _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++)
                    ADD_PRODUCTS(sum[r], u, four_bytes(x->q + ((at * NM_STEPS + (size_t)v) * (size_t)tile + (size_t)r) * 4));
            }
            __m256 scale = scale256(l, super, b * groups + h, half), min = has_min ? min256(l, super, b * groups + h, half) : scale;
            _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++)
                *half_of(&acc[r], half) = add_group(has_min, sum[r], scale, min, x, at * (size_t)tile + (size_t)r, g + (size_t)r, *half_of(&acc[r], half));
        }
}

#include "kernel/x86/direct.h"

/* ---- Tiles of the U form ----------------------------------------------------------------------------------------------------------------- */

/* rows x one panel over `blocks` blocks; acc: [row][16]. Twelve sums, two halves of a line and four activations fill the registers: the accumulators
 * stay in the first-level cache. */
V16_INLINE void tile256(int groups, bool has_min, int rows, const nm_u *u, int64_t blocks, const q8_rows *from, float *acc)
{
    const q8_rows x = *from;
    const int steps = NM_STEPS / groups;
    const size_t tile = rows == TILE_ROWS ? TILE_ROWS : (size_t)x.tile;
    const uint8_t *line = u->q;
    for (size_t g = 0; g < (size_t)(blocks * groups); g++) {
        __m256i sum[TILE_ROWS][2];
        _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = _mm256_set1_epi32(x.start[g * tile + (size_t)r]);
        _Pragma("GCC unroll 8") for (int v = 0; v < steps; v++, line += NM_LINE) {
            __m256i w[2] = {half_line(line, 0), half_line(line, 1)};
            _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++) {
                __m256i four = four_bytes(x.q + ((g * (size_t)steps + (size_t)v) * tile + (size_t)r) * 4);
                ADD_PRODUCTS(sum[r][0], w[0], four);
                ADD_PRODUCTS(sum[r][1], w[1], four);
            }
        }
        _Pragma("GCC unroll 2") for (int half = 0; half < 2; half++) {
            const float *scale = u->scale + g * NM_PANEL + 8 * half, *min = u->min + g * NM_PANEL + 8 * half;
            __m256 s = _mm256_load_ps(scale), m = has_min ? _mm256_load_ps(min) : s;
            _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++) {
                float *at = acc + NM_PANEL * r + 8 * half;
                size_t block = g / (size_t)groups * tile + (size_t)r;
                _mm256_store_ps(at, add_group(has_min, sum[r][half], s, m, &x, block, g * tile + (size_t)r, _mm256_load_ps(at)));
            }
        }
    }
}

typedef void (*tile_fn)(const nm_u *, int64_t, const q8_rows *, float *);
#define TILE(groups, min, rows) \
    static void tile_##groups##_##min##_##rows(const nm_u *u, int64_t blocks, const q8_rows *x, float *acc) { tile256(groups, min, rows, u, blocks, x, acc); }
#define ROW_COUNTS(groups, min) TILE(groups, min, 1) TILE(groups, min, 2) TILE(groups, min, 3) TILE(groups, min, 4) TILE(groups, min, 5) TILE(groups, min, 6)
ROW_COUNTS(1, 0) ROW_COUNTS(1, 1) ROW_COUNTS(2, 0) ROW_COUNTS(2, 1)
#define EACH_COUNT(stem) {stem##_1, stem##_2, stem##_3, stem##_4, stem##_5, stem##_6}
/* [groups - 1][has_min][rows - 1] */
static const tile_fn tiles[2][2][TILE_ROWS] = {{EACH_COUNT(tile_1_0), EACH_COUNT(tile_1_1)}, {EACH_COUNT(tile_2_0), EACH_COUNT(tile_2_1)}};

static void q8_tiles(const nm_panels *w, const nm_u *u, int panels, int64_t blocks, const q8_rows *x, int64_t rows, float *acc, size_t stride)
{
    int groups = NM_BLOCK / w->type->group;
    for (int64_t t = 0; t < rows; t += x->tile) {
        int64_t n = rows - t < x->tile ? rows - t : x->tile;
        q8_rows from = rows_from(x, t, 0, groups);
        for (int p = 0; p < panels; p++) tiles[groups - 1][w->type->has_min][n - 1](u + p, blocks, &from, acc + (size_t)p * stride + NM_PANEL * t);
    }
}

static void unpack_chunk(const nm_panels *w, int64_t p, int64_t b0, int64_t blocks, const nm_u *u)
{
    if (w->data) nm_unpackers_avx2[nm_layout_of(w->type)](w->data + (size_t)p * w->panel_bytes, b0, blocks, u);
    else nm_unpack_c(w, p, b0, blocks, 0x80, u);
}

#include "kernel/x86/linear_q8.h"

void nm_kernels_avxvnni(nm_kernels *table)
{
    table->linear_q8 = linear_q8;
    table->tile_rows = TILE_ROWS;
    table->few_rows = DIRECT_ROWS;
}
