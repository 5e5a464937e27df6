/* AMX: products of training in bf16 by tdpbf16ps. A tile of weights or activations is a tile register as it lies: 16 rows of 16 pairs against 16 pairs of 16 lanes,
 * 16 times the products of an fp32 instruction. Under NM_EMULATE_AMX_BF16 the same bits by AVX-512 alone, for tests. */
#include "kernel/x86/bf16_lanes.h"
#include "kernel/x86/bf16_maps.h"

#if !NM_EMULATE_AMX_BF16

typedef struct tiles { char none; } tiles;

/* gcc's tile intrinsics do not say (all of) what they read; without this, stores to it may be late or dropped. */
#define IS_READ(pointer) __asm__ volatile("" : : "r"(pointer) : "memory")

static void tiles_begin(tiles *t)
{
    struct { uint8_t palette, start_row, reserved[14]; uint16_t row_bytes[16]; uint8_t rows[16]; } c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.row_bytes[i] = 64;
        c.rows[i] = 16;
    }
    IS_READ(&c);
    _tile_loadconfig(&c);
}
static void tiles_end(tiles *t) { _tile_release(); }
#define TILE_LOAD(t, i, from) _tile_loadd(i, from, 64)
#define TILE_STORE(t, i, to) _tile_stored(i, to, 64)
#define TILE_DOT(t, sums, rows, lines) _tile_dpbf16ps(sums, rows, lines)

#else

#define IS_READ(pointer) ((void)(pointer))

typedef struct tiles { unsigned mode; uint32_t tile[8][TILE]; } tiles;

static void tiles_begin(tiles *t) { t->mode = bf16_begin(); }
static void tiles_end(tiles *t) { bf16_end(t->mode); }

static void tile_dot(float *sums, const uint32_t *rows, const uint32_t *lines)
{
    const __m512i odd_half = _mm512_set1_epi32((int)0xffff0000u);
    for (int r = 0; r < 16; r++) {
        v16 even = v_set(0), odd = v_set(0);
        for (int i = 0; i < 16; i++) {
            __m512i w = _mm512_loadu_si512(lines + 16 * i), x = _mm512_set1_epi32((int)rows[16 * r + i]);
            even = v_fma(_mm512_castsi512_ps(_mm512_slli_epi32(w, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)), even);
            odd = v_fma(_mm512_castsi512_ps(_mm512_and_si512(w, odd_half)), _mm512_castsi512_ps(_mm512_and_si512(x, odd_half)), odd);
        }
        v_store(sums + 16 * r, v_add(v_load(sums + 16 * r), v_add(even, odd)));
    }
}
#define TILE_LOAD(t, i, from) memcpy((t)->tile[i], from, sizeof (t)->tile[i])
#define TILE_STORE(t, i, to) memcpy(to, (t)->tile[i], sizeof (t)->tile[i])
#define TILE_DOT(t, sums, rows, lines) tile_dot((float *)(t)->tile[sums], (t)->tile[rows], (t)->tile[lines])

#endif

/* Tile registers: 0 to 3 sums of row tile i and line tile j at 2 i + j, 4 and 5 row tiles, 6 and 7 line tiles. */
V16_INLINE void square(tiles *t, int rows, int lines, const bf16_product *z, const uint32_t *x, const uint32_t *w, float *acc)
{
    TILE_LOAD(t, 0, acc);
    if (lines > 1) TILE_LOAD(t, 1, acc + z->acc_line);
    if (rows > 1) TILE_LOAD(t, 2, acc + z->acc_row);
    if (rows > 1 && lines > 1) TILE_LOAD(t, 3, acc + z->acc_row + z->acc_line);
    for (int64_t b = 0; b < z->blocks; b++) {
        TILE_LOAD(t, 4, x + b * TILE);
        TILE_LOAD(t, 6, w + b * TILE);
        TILE_DOT(t, 0, 4, 6);
        if (lines > 1) TILE_LOAD(t, 7, w + z->line_step + b * TILE);
        if (lines > 1) TILE_DOT(t, 1, 4, 7);
        if (rows > 1) TILE_LOAD(t, 5, x + z->row_step + b * TILE);
        if (rows > 1) TILE_DOT(t, 2, 5, 6);
        if (rows > 1 && lines > 1) TILE_DOT(t, 3, 5, 7);
    }
    TILE_STORE(t, 0, acc);
    if (lines > 1) TILE_STORE(t, 1, acc + z->acc_line);
    if (rows > 1) TILE_STORE(t, 2, acc + z->acc_row);
    if (rows > 1 && lines > 1) TILE_STORE(t, 3, acc + z->acc_row + z->acc_line);
}

typedef void (*square_fn)(tiles *t, const bf16_product *z, const uint32_t *x, const uint32_t *w, float *acc);
#define SQUARE(rows, lines) \
    static void square_##rows##_##lines(tiles *t, const bf16_product *z, const uint32_t *x, const uint32_t *w, float *acc) { square(t, rows, lines, z, x, w, acc); }
SQUARE(1, 1) SQUARE(1, 2) SQUARE(2, 1) SQUARE(2, 2)
static const square_fn squares[2][2] = {{square_1_1, square_1_2}, {square_2_1, square_2_2}};

/* Two by two. The fewer tiles, with many rows the weights, stay in the first level while the others pass. */
static void products(const bf16_product *z)
{
    tiles t;
    bool rows_stay = z->row_tiles < z->line_tiles;
    int64_t stay = rows_stay ? z->row_tiles : z->line_tiles, pass = rows_stay ? z->line_tiles : z->row_tiles;
    IS_READ(z->rows);
    tiles_begin(&t);
    for (int64_t i = 0; i < stay; i += 2)
        for (int64_t j = 0; j < pass; j += 2) {
            int64_t r = rows_stay ? i : j, l = rows_stay ? j : i;
            squares[r + 1 < z->row_tiles][l + 1 < z->line_tiles](&t, z, z->rows + (size_t)r * z->row_step, z->lines + (size_t)l * z->line_step,
                z->acc + (size_t)r * z->acc_row + (size_t)l * z->acc_line);
        }
    tiles_end(&t);
    IS_READ(z->acc);
}

void nm_kernels_amx_bf16(nm_kernels *table)
{
    fill_bf16(table, "amx-bf16");
    table->gemm_bf16 = table->gemm;     /* whether tiles would serve attention's backward was not measured */
}
