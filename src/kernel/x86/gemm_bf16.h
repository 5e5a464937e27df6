/* Owns backward's product (nm_gemm_job) in bf16, of the tier bf16. A block of 64 rows of a and of 64 columns of b is rounded for 64 pairs of inputs at a time, b as
 * lines (16 columns' pairs), a as pairs to broadcast, which lie in rows or, where a is turned, in columns. */
#ifndef NM_X86_GEMM_BF16_H
#define NM_X86_GEMM_BF16_H

#include "kernel/x86/bf16_maps.h"

/* A tile is six rows by four lines, 24 sums of 32 registers, or twelve rows by one, which hide the latency. */
enum { GEMM_SIDE = 64, GEMM_PAIRS = 64, GEMM_LINES = 4, GEMM_WIDE = 6, GEMM_ALONE = 12 };
_Static_assert((int)GEMM_SIDE == 16 * (int)GEMM_LINES, "a turned block of a is rounded as one of b is");

/* Pair k of row i is at a[i * GEMM_PAIRS + k], or if a is turned at a[k * GEMM_SIDE + i]; line l of pair k at b[(k * GEMM_LINES + l) * 16]. 32 KB of stack: half of what a first
 * level holds, and a small part of any thread's. */
typedef struct gemm_block {
    uint32_t a[GEMM_SIDE * GEMM_PAIRS], b[GEMM_PAIRS * GEMM_LINES * 16];
} gemm_block;

/* `columns` columns of two rows and two, up to `count` rows, as lines of pairs: line l of pair p to to[p * step + 16 * l], the last pair filled up with zero. */
static void round_columns(const float *from, size_t ld, int64_t columns, int64_t count, uint32_t *to, size_t step)
{
    for (int64_t c = 0; c < columns; c += 16, from += 16, to += 16) {
        const int lanes = columns - c < 16 ? (int)(columns - c) : 16;
        const float *row = from;
        uint32_t *line = to;
        int64_t k = 0;
        if (lanes == 16)
            for (; k + 2 <= count; k += 2, row += 2 * ld, line += step) _mm512_store_si512(line, pair_line(v_load(row), v_load(row + ld)));
        for (; k < count; k += 2, row += 2 * ld, line += step)
            _mm512_store_si512(line, pair_line(v_load_n(row, lanes), k + 1 < count ? v_load_n(row + ld, lanes) : v_set(0)));
    }
}

/* Rows [i, i + rows) and inputs [k, k + count) of a. */
static void round_a(const nm_gemm_job *g, int64_t i, int64_t rows, int64_t k, int64_t count, uint32_t *pairs)
{
    if (g->a_k != 1) {
        round_columns(g->a + (size_t)k * g->a_k + i, g->a_k, rows, count, pairs, GEMM_SIDE);
        return;
    }
    for (int64_t r = 0; r < rows; r++, pairs += GEMM_PAIRS) {
        const float *a = g->a + (size_t)(i + r) * g->a_row + k;
        int64_t n = 0;
        for (; n + 32 <= count; n += 32) _mm512_store_si512(pairs + n / 2, round_block(a + n, 32));
        if (n < count) _mm512_store_si512(pairs + n / 2, round_block(a + n, count - n));
    }
}

V16_INLINE void gemm_tile_bf16(bool turned, int rows, int lines, int lanes, bool fresh, const uint32_t *a, const uint32_t *b, int64_t pairs, float *c, size_t ldc)
{
    v16 s[GEMM_ALONE][GEMM_LINES];
    _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 4") for (int l = 0; l < lines; l++)
            s[r][l] = fresh ? v_set(0) : lanes < 16 ? v_load_n(c + (size_t)r * ldc + 16 * l, lanes) : v_load(c + (size_t)r * ldc + 16 * l);
    for (int64_t k = 0; k < pairs; k++) {
        bf16x32 line[GEMM_LINES];
        _Pragma("GCC unroll 4") for (int l = 0; l < lines; l++) line[l] = _mm512_load_si512(b + (k * GEMM_LINES + l) * 16);
        _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++) {
            bf16x32 pair = _mm512_set1_epi32((int)a[turned ? k * GEMM_SIDE + r : r * GEMM_PAIRS + k]);
            _Pragma("GCC unroll 4") for (int l = 0; l < lines; l++) s[r][l] = bf16_dot(s[r][l], line[l], pair);
        }
    }
    _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 4") for (int l = 0; l < lines; l++) {
            if (lanes < 16) v_store_n(c + (size_t)r * ldc + 16 * l, s[r][l], lanes);
            else v_store(c + (size_t)r * ldc + 16 * l, s[r][l]);
        }
}

/* last: columns that count of the last line. */
typedef void (*gemm_bf16_fn)(int last, bool fresh, const uint32_t *a, const uint32_t *b, int64_t pairs, float *c, size_t ldc);
#define GEMM_BF16(name, turned, rows, lines, lanes) \
    static void name##_##turned##_##rows(int last, bool fresh, const uint32_t *a, const uint32_t *b, int64_t pairs, float *c, size_t ldc) \
    { gemm_tile_bf16(turned, rows, lines, lanes, fresh, a, b, pairs, c, ldc); }
#define GEMM_BF16_ROWS(name, turned, lines, lanes) \
    GEMM_BF16(name, turned, 1, lines, lanes) GEMM_BF16(name, turned, 2, lines, lanes) GEMM_BF16(name, turned, 3, lines, lanes) \
    GEMM_BF16(name, turned, 4, lines, lanes) GEMM_BF16(name, turned, 5, lines, lanes) GEMM_BF16(name, turned, 6, lines, lanes)
#define GEMM_BF16_ENTRY(name, turned) name##_##turned##_1, name##_##turned##_2, name##_##turned##_3, name##_##turned##_4, name##_##turned##_5, name##_##turned##_6
GEMM_BF16_ROWS(wide, 0, GEMM_LINES, 16) GEMM_BF16_ROWS(wide, 1, GEMM_LINES, 16)
GEMM_BF16_ROWS(narrow, 0, 1, 16) GEMM_BF16_ROWS(narrow, 1, 1, 16) GEMM_BF16(narrow, 0, 12, 1, 16) GEMM_BF16(narrow, 1, 12, 1, 16)
GEMM_BF16_ROWS(part, 0, 1, last) GEMM_BF16_ROWS(part, 1, 1, last)
/* [turned][rows] */
static const gemm_bf16_fn gemm_wide[2][1 + GEMM_WIDE] = {{NULL, GEMM_BF16_ENTRY(wide, 0)}, {NULL, GEMM_BF16_ENTRY(wide, 1)}};
static const gemm_bf16_fn gemm_narrow[2][1 + GEMM_ALONE] = {
    {NULL, GEMM_BF16_ENTRY(narrow, 0), [GEMM_ALONE] = narrow_0_12}, {NULL, GEMM_BF16_ENTRY(narrow, 1), [GEMM_ALONE] = narrow_1_12}};
static const gemm_bf16_fn gemm_part[2][1 + GEMM_WIDE] = {{NULL, GEMM_BF16_ENTRY(part, 0)}, {NULL, GEMM_BF16_ENTRY(part, 1)}};

/* Rounded rows x some lines: all four, one, or one of less than 16 columns. c: of the block's first row and the first line. */
static void gemm_strip(bool turned, int64_t rows, int lines, int lanes, bool fresh, const uint32_t *a, const uint32_t *b, int64_t pairs, float *c, size_t ldc)
{
    const gemm_bf16_fn *tile = lanes < 16 ? gemm_part[turned] : lines > 1 ? gemm_wide[turned] : gemm_narrow[turned];
    const int64_t most = lines == 1 && lanes == 16 ? GEMM_ALONE : GEMM_WIDE;
    for (int64_t i = 0, n; i < rows; i += n) {
        int64_t left = rows - i;
        n = left >= most ? most : left > GEMM_WIDE ? GEMM_WIDE : left;
        tile[n](lanes, fresh, a + (turned ? i : i * GEMM_PAIRS), b, pairs, c + (size_t)i * ldc, ldc);
    }
}

static void gemm_bf16(const nm_gemm_job *g)
{
    gemm_block z __attribute__((aligned(64)));
    const bool turned = g->a_k != 1;
    unsigned mode = bf16_begin();
    for (int64_t k = 0, count; k < g->k || (k == 0 && !g->add); k += 2 * GEMM_PAIRS) {
        count = g->k - k < 2 * GEMM_PAIRS ? g->k - k : 2 * GEMM_PAIRS;
        const int64_t pairs = (count + 1) / 2;
        for (int64_t i = 0; i < g->m; i += GEMM_SIDE) {
            int64_t rows = g->m - i < GEMM_SIDE ? g->m - i : GEMM_SIDE;
            round_a(g, i, rows, k, count, z.a);
            for (int64_t j = 0, columns; j < g->n; j += columns) {
                columns = g->n - j < GEMM_SIDE ? g->n - j : GEMM_SIDE;
                if (i == 0 || g->n > GEMM_SIDE) round_columns(g->b + (size_t)k * g->ldb + j, g->ldb, columns, count, z.b, GEMM_LINES * 16);
                int step = columns < GEMM_SIDE ? 1 : GEMM_LINES;
                for (int l = 0; 16 * l < columns; l += step)
                    gemm_strip(turned, rows, step, columns - 16 * l < 16 ? (int)(columns - 16 * l) : 16, k == 0 && !g->add, z.a, z.b + 16 * l, pairs,
                        g->c + (size_t)i * g->ldc + j + 16 * l, g->ldc);
            }
        }
    }
    bf16_end(mode);
}

#endif
