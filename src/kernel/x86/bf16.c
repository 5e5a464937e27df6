/* AVX512_BF16: products of training in bf16 by vdpbf16ps, which multiplies a line of pairs by one pair of a row, broadcast, and adds both products to 16 sums; at
 * twice the rate of fp32 where cpu/cpu.h offers the tier. */
#include "kernel/x86/bf16_lanes.h"
#include "kernel/x86/bf16_maps.h"
#include "kernel/x86/gemm_bf16.h"

enum { LINES = 4, MOST_ROWS = 16 };

/* Some rows of a row tile x some line tiles. rows, acc: from the first of these rows on. */
V16_INLINE void pairs_tile(int rows, int lines, const bf16_product *z, const uint32_t *x, const uint32_t *w, float *acc)
{
    v16 a[MOST_ROWS][LINES];
    _Pragma("GCC unroll 16") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 4") for (int l = 0; l < lines; l++) a[r][l] = v_load(acc + (size_t)l * z->acc_line + 16 * r);
    for (int64_t b = 0; b < z->blocks; b++)
        _Pragma("GCC unroll 2") for (int i = 0; i < 16; i++) {
            bf16x32 line[LINES];
            _Pragma("GCC unroll 4") for (int l = 0; l < lines; l++) line[l] = _mm512_load_si512(w + (size_t)l * z->line_step + b * TILE + 16 * i);
            _Pragma("GCC unroll 16") for (int r = 0; r < rows; r++) {
                bf16x32 pair = _mm512_set1_epi32((int)x[b * TILE + 16 * r + i]);
                _Pragma("GCC unroll 4") for (int l = 0; l < lines; l++) a[r][l] = bf16_dot(a[r][l], line[l], pair);
            }
        }
    _Pragma("GCC unroll 16") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 4") for (int l = 0; l < lines; l++) v_store(acc + (size_t)l * z->acc_line + 16 * r, a[r][l]);
}

static void wide_6(const bf16_product *z, const uint32_t *x, const uint32_t *w, float *acc) { pairs_tile(6, LINES, z, x, w, acc); }
static void wide_5(const bf16_product *z, const uint32_t *x, const uint32_t *w, float *acc) { pairs_tile(5, LINES, z, x, w, acc); }
static void alone_16(const bf16_product *z, const uint32_t *x, const uint32_t *w, float *acc) { pairs_tile(16, 1, z, x, w, acc); }

/* Four line tiles at a time, six and twice five rows; those that are left one by one. */
static void products(const bf16_product *z)
{
    unsigned mode = bf16_begin();
    for (int64_t l = 0, n; l < z->line_tiles; l += n) {
        n = z->line_tiles - l < LINES ? 1 : LINES;
        const uint32_t *w = z->lines + (size_t)l * z->line_step;
        for (int64_t t = 0; t < z->row_tiles; t++) {
            const uint32_t *x = z->rows + (size_t)t * z->row_step;
            float *acc = z->acc + (size_t)t * z->acc_row + (size_t)l * z->acc_line;
            if (n == 1) {
                alone_16(z, x, w, acc);
                continue;
            }
            wide_6(z, x, w, acc);
            wide_5(z, x + 6 * 16, w, acc + 6 * 16);
            wide_5(z, x + 11 * 16, w, acc + 11 * 16);
        }
    }
    bf16_end(mode);
}

void nm_kernels_bf16(nm_kernels *table)
{
    fill_bf16(table, "bf16");
    table->gemm_bf16 = gemm_bf16;
}
