/* The largest singular triplets of a map: subspace iteration on W'W from a random block (Halko, Martinsson and Tropp 2011), each round through a Chebyshev
 * polynomial that keeps down what lies below the block's smallest value (Zhou, Saad et al. 2006), then a Rayleigh-Ritz step. Products are the kernels' own
 * gemm, the small matrices are in double in a fixed order. */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "train/pissa.h"

enum {
    MORE = 16,                  /* columns of the block beyond those that are asked for */
    ROUNDS = 12, SWEEPS = 30, DEGREE = 6,
    BLOCK_BYTES = 32 << 20      /* most of W that is unpacked at a time */
};
static const double CONVERGED = 1e-6;   /* what the values still lack, relative, as the last two rounds foretell; the vectors lack about the root */
static const double MOST_GROWTH = 1e8;  /* of the first column against the last by a polynomial: fp32 still sees the last */

typedef struct job {
    const nm_panels *w;
    const nm_kernels *kernel;
    int64_t l;                  /* columns of the block */
    int64_t rows;               /* of W in a block, a multiple of NM_PANEL */
    int64_t held;               /* first row of the block that is unpacked; -1 */
    float *block;               /* [rows][k] */
    float *y, *u;               /* [n][l] */
    float *z, *p, *q;           /* [k][l] */
    float *small;               /* [l][l] */
    double *g, *vectors, *values;   /* [l][l], [l][l], [l] */
    void *unpacker;
} job;

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t block_columns(const nm_panels *w, int64_t rank) { return smaller(rank + MORE, smaller(w->n, w->k)); }
static int64_t block_rows(const nm_panels *w)
{
    int64_t rows = BLOCK_BYTES / ((int64_t)sizeof(float) * w->k) / NM_PANEL * NM_PANEL;
    return smaller(rows < NM_PANEL ? NM_PANEL : rows, w->panels * NM_PANEL);
}
static size_t round64(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

/* Lays the job's arrays into memory, or only counts their bytes. */
static size_t lay(job *j, uint8_t *memory)
{
    size_t at = 0, l = (size_t)j->l, n = (size_t)j->w->n, k = (size_t)j->w->k;
#define TAKE(member, bytes) do { j->member = memory ? (void *)(memory + at) : NULL; at += round64(bytes); } while (0)
    TAKE(block, (size_t)j->rows * k * sizeof(float));
    TAKE(y, n * l * sizeof(float));
    TAKE(u, n * l * sizeof(float));
    TAKE(z, k * l * sizeof(float));
    TAKE(p, k * l * sizeof(float));
    TAKE(q, k * l * sizeof(float));
    TAKE(small, l * l * sizeof(float));
    TAKE(g, l * l * sizeof(double));
    TAKE(vectors, l * l * sizeof(double));
    TAKE(values, l * sizeof(double));
    TAKE(unpacker, nm_linear_scratch(j->w, 1));
#undef TAKE
    return at;
}

size_t nm_triplets_bytes(const nm_panels *w, int64_t rank)
{
    job j = {.w = w, .l = block_columns(w, rank), .rows = block_rows(w)};
    return lay(&j, NULL);
}

/* ---- Products with W ------------------------------------------------------------------------------------------------------------------------------- */

static int64_t hold(job *j, int64_t row)
{
    int64_t rows = smaller(j->rows, j->w->n - row);
    if (j->held != row)
        for (int64_t p = 0; p * NM_PANEL < rows; p++)
            j->kernel->unpack_rows(j->w, row / NM_PANEL + p, 0, j->w->k, j->block + p * NM_PANEL * j->w->k, (size_t)j->w->k, j->unpacker);
    j->held = row;
    return rows;
}

/* y = W z */
static void forth(job *j, const float *z, float *y)
{
    for (int64_t r = 0, rows; r < j->w->n; r += rows) {
        rows = hold(j, r);
        j->kernel->gemm(&(nm_gemm_job){.m = rows, .n = j->l, .k = j->w->k, .a = j->block, .a_row = (size_t)j->w->k, .a_k = 1, .b = z, .ldb = (size_t)j->l,
            .c = y + r * j->l, .ldc = (size_t)j->l});
    }
}

/* z = W' y */
static void back(job *j, const float *y, float *z)
{
    for (int64_t r = 0, rows; r < j->w->n; r += rows) {
        rows = hold(j, r);
        j->kernel->gemm(&(nm_gemm_job){.m = j->w->k, .n = j->l, .k = rows, .a = j->block, .a_row = 1, .a_k = (size_t)j->w->k, .b = y + r * j->l, .ldb = (size_t)j->l,
            .c = z, .ldc = (size_t)j->l, .add = r > 0});
    }
}

/* ---- Small matrices ------------------------------------------------------------------------------------------------------------------------------------ */

/* g = x' x, x [rows][l]. */
static void gram(job *j, const float *x, int64_t rows)
{
    int64_t l = j->l;
    memset(j->g, 0, (size_t)(l * l) * sizeof *j->g);
    for (int64_t r = 0; r < rows; r++, x += l)
        for (int64_t a = 0; a < l; a++) for (int64_t b = a; b < l; b++) j->g[a * l + b] += (double)x[a] * (double)x[b];
    for (int64_t a = 0; a < l; a++) for (int64_t b = 0; b < a; b++) j->g[a * l + b] = j->g[b * l + a];
}

/* out = x m with m [l][l] of doubles. */
static void times(job *j, const float *x, int64_t rows, const double *m, float *out)
{
    for (int64_t i = 0; i < j->l * j->l; i++) j->small[i] = (float)m[i];
    j->kernel->gemm(&(nm_gemm_job){.m = rows, .n = j->l, .k = j->l, .a = x, .a_row = (size_t)j->l, .a_k = 1, .b = j->small, .ldb = (size_t)j->l, .c = out,
        .ldc = (size_t)j->l});
}

/* vectors = the inverse of R with g = R' R; a column that those before it span becomes zero. */
static void invert_root(job *j)
{
    int64_t l = j->l;
    double *r = j->g, *inverse = j->vectors;
    for (int64_t c = 0; c < l; c++) {
        double whole = r[c * l + c];
        for (int64_t i = 0; i < c; i++) whole -= r[i * l + c] * r[i * l + c];
        double pivot = whole > 1e-12 * r[c * l + c] && whole > 0 ? sqrt(whole) : 0;
        for (int64_t b = c + 1; b < l; b++) {
            double sum = r[c * l + b];
            for (int64_t i = 0; i < c; i++) sum -= r[i * l + c] * r[i * l + b];
            r[c * l + b] = pivot > 0 ? sum / pivot : 0;
        }
        r[c * l + c] = pivot;
    }
    memset(inverse, 0, (size_t)(l * l) * sizeof *inverse);
    for (int64_t c = 0; c < l; c++) {
        if (!(r[c * l + c] > 0)) continue;
        inverse[c * l + c] = 1 / r[c * l + c];
        for (int64_t i = c; i-- > 0;) {
            double sum = 0;
            for (int64_t k = i + 1; k <= c; k++) sum += r[i * l + k] * inverse[k * l + c];
            inverse[i * l + c] = r[i * l + i] > 0 ? -sum / r[i * l + i] : 0;
        }
    }
}

/* Orthonormal columns for z, through p: Cholesky QR, twice (Yamamoto et al. 2015), of columns that were brought to one length. */
static void orthonormalise(job *j)
{
    int64_t l = j->l, k = j->w->k;
    for (int twice = 0; twice < 2; twice++) {
        gram(j, j->z, k);
        for (int64_t c = 0; c < l; c++) j->values[c] = j->g[c * l + c] > 0 ? 1 / sqrt(j->g[c * l + c]) : 0;
        for (int64_t a = 0; a < l; a++) for (int64_t b = 0; b < l; b++) j->g[a * l + b] *= j->values[a] * j->values[b];
        invert_root(j);
        for (int64_t a = 0; a < l; a++) for (int64_t b = 0; b < l; b++) j->vectors[a * l + b] *= j->values[a];
        times(j, j->z, k, j->vectors, j->p);
        memcpy(j->z, j->p, (size_t)(k * l) * sizeof *j->z);
    }
}

/* One rotation that makes g[p][q] zero; true if there was something to do. */
static bool rotate(job *j, int64_t p, int64_t q)
{
    int64_t l = j->l;
    double *g = j->g, *v = j->vectors, c = g[p * l + q];
    if (fabs(c) <= 1e-13 * sqrt(fabs(g[p * l + p] * g[q * l + q])) || c == 0) return false;
    double zeta = (g[q * l + q] - g[p * l + p]) / (2 * c), t = copysign(1, zeta) / (fabs(zeta) + sqrt(1 + zeta * zeta)), cs = 1 / sqrt(1 + t * t), sn = cs * t;
    for (int64_t i = 0; i < l; i++) {       /* rows, which lie side by side */
        double x = g[p * l + i], y = g[q * l + i];
        g[p * l + i] = cs * x - sn * y;
        g[q * l + i] = sn * x + cs * y;
        x = v[p * l + i];
        y = v[q * l + i];
        v[p * l + i] = cs * x - sn * y;
        v[q * l + i] = sn * x + cs * y;
    }
    for (int64_t i = 0; i < l; i++) {
        double x = g[i * l + p], y = g[i * l + q];
        g[i * l + p] = cs * x - sn * y;
        g[i * l + q] = sn * x + cs * y;
    }
    return true;
}

static void exchange_rows(double *m, int64_t l, int64_t a, int64_t b)
{
    for (int64_t i = 0; i < l; i++) {
        double x = m[a * l + i];
        m[a * l + i] = m[b * l + i];
        m[b * l + i] = x;
    }
}

/* g = vectors diag(values) vectors', by falling values (Jacobi). */
static void eigen(job *j)
{
    int64_t l = j->l;
    double *v = j->vectors;
    memset(v, 0, (size_t)(l * l) * sizeof *v);
    for (int64_t i = 0; i < l; i++) v[i * l + i] = 1;
    bool moved = true;
    for (int sweep = 0; moved && sweep < SWEEPS; sweep++) {
        moved = false;
        for (int64_t p = 0; p < l; p++) for (int64_t q = p + 1; q < l; q++) moved |= rotate(j, p, q);
    }
    for (int64_t i = 0; i < l; i++) j->values[i] = j->g[i * l + i] > 0 ? j->g[i * l + i] : 0;
    for (int64_t i = 0; i < l; i++) {
        int64_t most = i;
        for (int64_t k = i + 1; k < l; k++) if (j->values[k] > j->values[most]) most = k;
        double x = j->values[i];
        j->values[i] = j->values[most];
        j->values[most] = x;
        if (most != i) exchange_rows(v, l, i, most);
    }
    for (int64_t a = 0; a < l; a++)         /* vectors stand in rows: turn them */
        for (int64_t b = a + 1; b < l; b++) {
            double x = v[a * l + b];
            v[a * l + b] = v[b * l + a];
            v[b * l + a] = x;
        }
}

/* ---- The iteration ------------------------------------------------------------------------------------------------------------------------------------------- */

/* From orthonormal z: z turned so that the columns of y = W z are orthogonal, by falling length; values: their squares. */
static void ritz(job *j)
{
    forth(j, j->z, j->u);
    gram(j, j->u, j->w->n);
    eigen(j);
    times(j, j->u, j->w->n, j->vectors, j->y);
    times(j, j->z, j->w->k, j->vectors, j->p);
    memcpy(j->z, j->p, (size_t)(j->w->k * j->l) * sizeof *j->z);
}

/* The largest degree whose polynomial fp32 bears. */
static int degree_of(const job *j)
{
    double x = 2 * j->values[0] / j->values[j->l - 1] - 1, last = 1, now = x;
    int degree = 1;
    for (; degree < DEGREE; degree++) {
        double next = 2 * x * now - last;
        if (next > MOST_GROWTH) break;
        last = now;
        now = next;
    }
    return degree;
}

/* z = T_degree(2 W'W / lambda - 1) z with lambda the smallest value of the block; y is W z when it begins. */
static void filter(job *j, int degree)
{
    int64_t count = j->w->k * j->l;
    const float two = (float)(2 / j->values[j->l - 1]);
    back(j, j->y, j->q);
    for (int64_t i = 0; i < count; i++) j->p[i] = two * j->q[i] - j->z[i];
    for (int d = 1; d < degree; d++) {
        forth(j, j->p, j->u);
        back(j, j->u, j->q);
        for (int64_t i = 0; i < count; i++) {
            float next = 2 * (two * j->q[i] - j->p[i]) - j->z[i];
            j->z[i] = j->p[i];
            j->p[i] = next;
        }
    }
    memcpy(j->z, j->p, (size_t)count * sizeof *j->z);
}

static void hand_out(const job *j, int64_t rank, float *u, float *s, float *v)
{
    for (int64_t r = 0; r < rank; r++) s[r] = (float)sqrt(j->values[r]);
    for (int64_t i = 0; i < j->w->n; i++) for (int64_t r = 0; r < rank; r++) u[i * rank + r] = s[r] > 0 ? j->y[i * j->l + r] / s[r] : 0;
    for (int64_t i = 0; i < j->w->k; i++) for (int64_t r = 0; r < rank; r++) v[i * rank + r] = j->z[i * j->l + r];
}

void nm_triplets(const nm_panels *w, int64_t rank, void *scratch, float *u, float *s, float *v)
{
    job j = {.w = w, .kernel = nm_kernels_get(), .l = block_columns(w, rank), .rows = block_rows(w), .held = -1};
    lay(&j, scratch);
    for (int64_t i = 0; i < w->k * j.l; i++) j.z[i] = (float)(nm_rng_unit(0, 0, (uint64_t)i) - 0.5);
    orthonormalise(&j);
    ritz(&j);
    double before = 1, change = 1;
    for (int round = 0; round < ROUNDS && j.values[j.l - 1] > 0 && change * change > CONVERGED * before; round++) {
        before = change;
        change = 0;
        for (int64_t i = 0; i < rank; i++) s[i] = (float)j.values[i];
        filter(&j, degree_of(&j));
        orthonormalise(&j);
        ritz(&j);
        for (int64_t i = 0; i < rank; i++) change = fmax(change, fabs(j.values[i] - (double)s[i]) / j.values[i]);
    }
    hand_out(&j, rank, u, s, v);
}
