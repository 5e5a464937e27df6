/* AVX512_BF16: products of training in bf16, at twice the rate of fp32. Both operands lie as pairs of inputs, a dword each: weights as lines of 16 outputs,
 * [pairs][16], activations as rows; vdpbf16ps multiplies a line by one pair of a row, broadcast, and adds both products to 16 sums. */
#include "kernel/x86/blocks512.h"
#include "kernel/x86/bf16_lanes.h"

enum { F32_PANELS = 4, TILE_ROWS = 6, NARROW_ROWS = 12 };
#define unpack_chunk nm_unpack_chunk_avx512
#include "kernel/x86/chunks_f32.h"

/* ---- Tiles ---------------------------------------------------------------------------------------------------------------------- */

/* rows x panels accumulators continue their chains. w: [panels] -> [pairs][16]; x: rows ldx apart; acc: [panel][row][16], panels acc_stride apart. */
V16_INLINE void pairs_tile(int rows, int panels, const uint32_t *const *w, int64_t pairs, const uint32_t *x, size_t ldx, float *acc, size_t acc_stride)
{
    v16 a[NARROW_ROWS][F32_PANELS];
    _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++) a[r][p] = v_load(acc + (size_t)p * acc_stride + 16 * r);
    for (int64_t i = 0; i < pairs; i++) {
        bf16x32 line[F32_PANELS];
        _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++) line[p] = _mm512_loadu_si512(w[p] + 16 * i);
        _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++) {
            bf16x32 pair = _mm512_set1_epi32((int)x[(size_t)r * ldx + (size_t)i]);
            _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++) a[r][p] = bf16_dot(a[r][p], line[p], pair);
        }
    }
    _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++) v_store(acc + (size_t)p * acc_stride + 16 * r, a[r][p]);
}

typedef void (*tile_fn)(const uint32_t *const *w, int64_t pairs, const uint32_t *x, size_t ldx, float *acc, size_t acc_stride);
#define TILE(name, rows, panels) \
    static void name##_##rows(const uint32_t *const *w, int64_t pairs, const uint32_t *x, size_t ldx, float *acc, size_t acc_stride) \
    { pairs_tile(rows, panels, w, pairs, x, ldx, acc, acc_stride); }
#define TILES(name, panels) \
    TILE(name, 1, panels) TILE(name, 2, panels) TILE(name, 3, panels) TILE(name, 4, panels) TILE(name, 5, panels) TILE(name, 6, panels)
TILES(wide, F32_PANELS)
TILES(alone, 1)
TILE(alone, 12, 1)
static const tile_fn wide[] = {NULL, wide_1, wide_2, wide_3, wide_4, wide_5, wide_6};
static const tile_fn alone[] = {NULL, alone_1, alone_2, alone_3, alone_4, alone_5, alone_6, [NARROW_ROWS] = alone_12};

/* panels: F32_PANELS, or one that is left alone. */
static void all_rows(const uint32_t *const *w, int panels, int64_t pairs, const uint32_t *x, size_t ldx, int64_t rows, float *acc)
{
    const tile_fn *tile = panels == 1 ? alone : wide;
    int64_t most = panels == 1 ? NARROW_ROWS : TILE_ROWS;
    unsigned mode = bf16_begin();
    for (int64_t t = 0, n; t < rows; t += n) {
        n = rows - t >= most ? most : rows - t < TILE_ROWS ? rows - t : TILE_ROWS;
        tile[n](w, pairs, x + (size_t)t * ldx, ldx, acc + 16 * t, (size_t)rows * 16);
    }
    bf16_end(mode);
}

/* ---- Rounding --------------------------------------------------------------------------------------------------------------------- */

/* A line of pairs: those of sixteen outputs at an even input and at the next. */
V16_INLINE bf16x32 pair_line(v16 even, v16 odd)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i order = _mm512_add_epi32(_mm512_or_si512(lane, _mm512_slli_epi32(lane, 16)), _mm512_set1_epi32(16 << 16));
    return _mm512_permutexvar_epi16(order, bf16_round(even, odd));
}

/* n inputs of up to 16 outputs, `ld` floats apart, to lines; beyond n zero. */
V16_INLINE void pair_lines(const float *f, size_t ld, int64_t n, int lanes, uint32_t *out)
{
    for (int64_t k = 0; k < n; k += 2, out += 16) {
        v16 even = v_load_n(f + (size_t)k * ld, lanes), odd = k + 1 < n ? v_load_n(f + (size_t)(k + 1) * ld, lanes) : v_set(0);
        _mm512_storeu_si512(out, pair_line(even, odd));
    }
}

/* n inputs of a row to nm_bf16_pairs(n) pairs. */
V16_INLINE void pair_row(const float *x, int64_t n, uint32_t *out)
{
    for (int64_t k = 0; k < n; k += 32, out += 16) {
        int left = n - k < 32 ? (int)(n - k) : 32;
        _mm512_storeu_si512(out, bf16_round(v_load_n(x + k, left), v_load_n(x + k + 16, left - 16)));
    }
}

/* ---- Linear maps -------------------------------------------------------------------------------------------------------------------- */

/* In scratch: rounded lines of a chunk [F32_PANELS][F32_CHUNK / 2][16], rounded rows, then what linear_chunks takes. */
enum { LINES = F32_CHUNK / 2 * 16 };
static uint32_t *rounded_rows(const nm_linear_job *job) { return (uint32_t *)job->scratch + F32_PANELS * LINES; }

static void chunk_rows(const float *const *f, int panels, int64_t n, const nm_linear_job *job, int64_t k0, float *acc)
{
    const uint32_t *w[F32_PANELS];
    for (int p = 0; p < panels; p++) {
        uint32_t *line = (uint32_t *)job->scratch + p * LINES;
        pair_lines(f[p], 16, n, 16, line);
        w[p] = line;
    }
    all_rows(w, panels, (n + 1) / 2, rounded_rows(job) + k0 / 2, nm_bf16_pairs(job->w->k), job->rows, acc);
}

static void linear_bf16(const nm_linear_job *job)
{
    size_t ld = nm_bf16_pairs(job->w->k);
    uint32_t *x = rounded_rows(job);
    for (int64_t t = 0; t < job->rows; t++) pair_row(job->x + (size_t)t * job->ldx, job->w->k, x + (size_t)t * ld);
    linear_chunks(job, x + (size_t)job->rows * ld, chunk_rows);
}

/* ---- Backward's product ---------------------------------------------------------------------------------------------------------------- */

/* A block of c with the rows of a and the columns of b that make it, over a chunk of K: 80 KB of stack, of which 48 are read at a time. */
enum { GEMM_CHUNK = 128, GEMM_ROWS = 128 };
typedef struct gemm_block {
    uint32_t a[GEMM_ROWS][GEMM_CHUNK / 2], b[F32_PANELS][GEMM_CHUNK / 2 * 16];
    float c[F32_PANELS * GEMM_ROWS * 16];
} gemm_block;

static void take_a(gemm_block *z, const nm_gemm_job *g, int64_t i0, int64_t rows, int64_t k0, int64_t n)
{
    float turned[GEMM_CHUNK];
    for (int64_t i = 0; i < rows; i++) {
        const float *a = g->a + (size_t)(i0 + i) * g->a_row + (size_t)k0 * g->a_k;
        for (int64_t k = 0; g->a_k != 1 && k < n; k++) turned[k] = a[(size_t)k * g->a_k];
        pair_row(g->a_k == 1 ? a : turned, n, z->a[i]);
    }
}

/* Panels of 16 columns from j on; the last of c has fewer, and is alone. */
static void gemm_columns(gemm_block *z, const nm_gemm_job *g, int64_t i0, int64_t rows, int64_t j, int panels, int64_t k0, int64_t n)
{
    const uint32_t *b[F32_PANELS];
    const bool fresh = k0 == 0 && !g->add;
    int lanes = g->n - j < 16 ? (int)(g->n - j) : 16;
    float *c = g->c + (size_t)i0 * g->ldc + j;
    for (int p = 0; p < panels; p++) {
        pair_lines(g->b + (size_t)k0 * g->ldb + j + 16 * p, g->ldb, n, lanes, z->b[p]);
        b[p] = z->b[p];
        for (int64_t i = 0; i < rows; i++) v_store(z->c + (p * rows + i) * 16, fresh ? v_set(0) : v_load_n(c + (size_t)i * g->ldc + 16 * p, lanes));
    }
    all_rows(b, panels, (n + 1) / 2, z->a[0], GEMM_CHUNK / 2, rows, z->c);
    for (int p = 0; p < panels; p++)
        for (int64_t i = 0; i < rows; i++) v_store_n(c + (size_t)i * g->ldc + 16 * p, v_load(z->c + (p * rows + i) * 16), lanes);
}

static void gemm_bf16(const nm_gemm_job *g)
{
    gemm_block z;
    for (int64_t i = 0; i < g->m; i += GEMM_ROWS) {
        int64_t rows = g->m - i < GEMM_ROWS ? g->m - i : GEMM_ROWS;
        for (int64_t k = 0; k < g->k || (k == 0 && !g->add); k += GEMM_CHUNK) {
            int64_t n = g->k - k < GEMM_CHUNK ? g->k - k : GEMM_CHUNK;
            take_a(&z, g, i, rows, k, n);
            for (int64_t j = 0, panels; j < g->n; j += 16 * panels) {
                panels = g->n - j < 16 * F32_PANELS ? 1 : F32_PANELS;
                gemm_columns(&z, g, i, rows, j, (int)panels, k, n);
            }
        }
    }
}

void nm_kernels_bf16(nm_kernels *table)
{
    table->linear_bf16 = linear_bf16;
    table->gemm_bf16 = gemm_bf16;
    table->has_bf16 = true;
}
