/* Template: backward's product (nm_gemm_job) and panels unpacked to rows, on v16. Included once per tier after linear_f32.h. Parameters:
 *   GEMM_VECTORS     a register tile is GEMM_ROWS rows of c by GEMM_VECTORS vectors of 16 columns
 *   GEMM_NARROW      rows of the tile for c of at most 16 columns (LoRA's ranks), which has registers to spare
 * Chains are cut into stretches of GEMM_CHUNK inputs, between which c waits in memory, so that what a tile reads of b stays in the
 * first-level cache. */
#ifndef NM_X86_GEMM_H
#define NM_X86_GEMM_H

enum { GEMM_ROWS = 6, GEMM_CHUNK = 128 };

/* rows x (vectors x 16) of c from (i, j) on, inputs [k0, k1); `lanes` of the last vector count. */
V16_INLINE void gemm_tile(int rows, int vectors, int lanes, const nm_gemm_job *g, int64_t i, int64_t j, int64_t k0, int64_t k1)
{
    v16 s[GEMM_NARROW][GEMM_VECTORS];
    const float *a = g->a + (size_t)i * g->a_row, *b = g->b + j;
    float *c = g->c + (size_t)i * g->ldc + j;
    const bool fresh = k0 == 0 && !g->add;
    _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++)
            s[r][v] = fresh ? v_set(0.0f) : lanes < 16 ? v_load_n(c + (size_t)r * g->ldc + 16 * v, lanes) : v_load(c + (size_t)r * g->ldc + 16 * v);
    for (int64_t k = k0; k < k1; k++) {
        v16 x[GEMM_VECTORS];
        _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++)
            x[v] = lanes < 16 ? v_load_n(b + (size_t)k * g->ldb + 16 * v, lanes) : v_load(b + (size_t)k * g->ldb + 16 * v);
        _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++) {
            v16 y = v_set(a[(size_t)r * g->a_row + (size_t)k * g->a_k]);
            _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) s[r][v] = v_fma(y, x[v], s[r][v]);
        }
    }
    _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) {
            if (lanes < 16) v_store_n(c + (size_t)r * g->ldc + 16 * v, s[r][v], lanes);
            else v_store(c + (size_t)r * g->ldc + 16 * v, s[r][v]);
        }
}

#define GEMM_TILE(name, rows, vectors, lanes) \
    static void name##_##rows(const nm_gemm_job *g, int64_t i, int64_t j, int64_t k0, int64_t k1) { gemm_tile(rows, vectors, lanes, g, i, j, k0, k1); }
#define GEMM_TILES(name, vectors, lanes) \
    GEMM_TILE(name, 1, vectors, lanes) GEMM_TILE(name, 2, vectors, lanes) GEMM_TILE(name, 3, vectors, lanes) \
    GEMM_TILE(name, 4, vectors, lanes) GEMM_TILE(name, 5, vectors, lanes) GEMM_TILE(name, 6, vectors, lanes)
typedef void (*gemm_fn)(const nm_gemm_job *, int64_t i, int64_t j, int64_t k0, int64_t k1);
GEMM_TILES(wide, GEMM_VECTORS, 16)
GEMM_TILES(part, 1, (int)(g->n - j))        /* the last columns */
static const gemm_fn gemm_wide[] = {NULL, wide_1, wide_2, wide_3, wide_4, wide_5, wide_6};
static const gemm_fn gemm_part[] = {NULL, part_1, part_2, part_3, part_4, part_5, part_6};
#if GEMM_NARROW > 6
GEMM_TILES(narrow, 1, 16)
GEMM_TILE(narrow, 12, 1, 16)
static const gemm_fn gemm_narrow[] = {NULL, narrow_1, narrow_2, narrow_3, narrow_4, narrow_5, narrow_6, [GEMM_NARROW] = narrow_12};
#else
#define gemm_narrow gemm_wide
#endif

/* The last rows have a tile of their own height: a lone row's chains would wait for each other. */
static void gemm_columns(const nm_gemm_job *g, int64_t j, int64_t k0, int64_t k1, const gemm_fn *tile, int64_t most)
{
    for (int64_t i = 0, rows; i < g->m; i += rows) {
        rows = g->m - i < most ? g->m - i : most;
        if (rows < most && rows > GEMM_ROWS) rows = GEMM_ROWS;
        tile[rows](g, i, j, k0, k1);
    }
}

static void gemm(const nm_gemm_job *g)
{
    for (int64_t k0 = 0; k0 < g->k || (k0 == 0 && !g->add); k0 += GEMM_CHUNK) {
        int64_t k1 = k0 + GEMM_CHUNK < g->k ? k0 + GEMM_CHUNK : g->k, j = 0;
        for (; j + 16 * GEMM_VECTORS <= g->n; j += 16 * GEMM_VECTORS) gemm_columns(g, j, k0, k1, gemm_wide, GEMM_ROWS);
        for (; j + 16 <= g->n; j += 16) gemm_columns(g, j, k0, k1, gemm_narrow, GEMM_NARROW);
        if (j < g->n) gemm_columns(g, j, k0, k1, gemm_part, GEMM_ROWS);
    }
}

/* ---- Panels to rows ---- */

/* A panel comes as [inputs][16 outputs]; squares of 16 x 16 are turned on the way out. */
static void unpack_rows(const nm_panels *w, int64_t p, int64_t k0, int64_t count, float *out, size_t ldo, void *scratch)
{
    float *values = scratch;                        /* [F32_CHUNK][16] */
    nm_u u;
    u.scale = values + F32_CHUNK * 16;
    u.min = u.scale + F32_CHUNK / 16 * 16;
    u.q = (uint8_t *)(u.min + F32_CHUNK / 16 * 16);
    for (int64_t k = 0; k < count; k += F32_CHUNK) {
        int64_t n = count - k < F32_CHUNK ? count - k : F32_CHUNK;
        const float *f = f32_panel(w, p, k0 + k, n, values, &u);
        for (int64_t i = 0; i < n; i += 16) v_transpose(f + 16 * i, n - i < 16 ? (int)(n - i) : 16, out + k + i, ldo);
    }
}

static void fill_gemm(nm_kernels *table)
{
    table->gemm = gemm;
    table->unpack_rows = unpack_rows;
}

#endif
