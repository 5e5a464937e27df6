/* Singular values of B A without ever forming it: B = Qb Rb and A' = Qa Ra (orthonormal columns), and the small Rb Ra' is taken apart by
 * one-sided Jacobi rotations. In double: ranks are small, and a re-compressed adapter should lose what it must and no more. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapter/lora.h"
#include "base/err.h"
#include "base/mem.h"

enum { SWEEPS = 60 };
static const double TINY = 1e-14;       /* of a column's length: what is left of one that others span */

typedef struct matrix { double *v; int64_t rows, columns; } matrix;    /* by columns */

static nm_err make(matrix *m, int64_t rows, int64_t columns)
{
    *m = (matrix){nm_calloc((size_t)rows, (size_t)columns * sizeof(double)), rows, columns};
    return m->v ? NM_OK : nm_fail_memory((size_t)(rows * columns) * sizeof(double));
}

static double *column(const matrix *m, int64_t c) { return m->v + c * m->rows; }

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static void subtract(double *a, const double *b, double factor, int64_t n)
{
    for (int64_t i = 0; i < n; i++) a[i] -= factor * b[i];
}

/* q = q' r with q' orthonormal (zero columns where there is nothing left): Gram-Schmidt, twice. */
static void orthogonalise(matrix *q, matrix *r)
{
    for (int64_t c = 0; c < q->columns; c++) {
        double *x = column(q, c), before = sqrt(dot(x, x, q->rows));
        for (int again = 0; again < 2; again++)
            for (int64_t k = 0; k < c; k++) {
                double part = dot(column(q, k), x, q->rows);
                subtract(x, column(q, k), part, q->rows);
                column(r, c)[k] += part;
            }
        double length = sqrt(dot(x, x, q->rows));
        if (length <= TINY * before) length = 0;
        column(r, c)[c] = length;
        for (int64_t i = 0; i < q->rows; i++) x[i] = length > 0 ? x[i] / length : 0;
    }
}

/* Turns columns p and q of u until they are orthogonal, and those of v alike; true if there was something to do. */
static bool rotate(matrix *u, matrix *v, int64_t p, int64_t q)
{
    double a = dot(column(u, p), column(u, p), u->rows), b = dot(column(u, q), column(u, q), u->rows), c = dot(column(u, p), column(u, q), u->rows);
    if (fabs(c) <= TINY * sqrt(a * b) || c == 0) return false;
    double zeta = (b - a) / (2 * c), t = copysign(1, zeta) / (fabs(zeta) + sqrt(1 + zeta * zeta)), cs = 1 / sqrt(1 + t * t), sn = cs * t;
    matrix *both[2] = {u, v};
    for (int k = 0; k < 2; k++)
        for (int64_t i = 0; i < both[k]->rows; i++) {
            double x = column(both[k], p)[i], y = column(both[k], q)[i];
            column(both[k], p)[i] = cs * x - sn * y;
            column(both[k], q)[i] = sn * x + cs * y;
        }
    return true;
}

/* u (square) becomes u s, v the right vectors: u_before = (u s) v'. */
static void jacobi(matrix *u, matrix *v)
{
    for (int64_t i = 0; i < v->columns; i++) column(v, i)[i] = 1;
    bool moved = true;
    for (int sweep = 0; moved && sweep < SWEEPS; sweep++) {
        moved = false;
        for (int64_t p = 0; p < u->columns; p++)
            for (int64_t q = p + 1; q < u->columns; q++) moved |= rotate(u, v, p, q);
    }
}

/* ---- A pair ------------------------------------------------------------------------------------------------------------------------------------ */

typedef struct svd { matrix qa, ra, qb, rb, u, v; double *s; int64_t *order; } svd;    /* order: of falling singular values */

static void svd_free(svd *d)
{
    matrix *all[] = {&d->qa, &d->ra, &d->qb, &d->rb, &d->u, &d->v};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) nm_free(all[i]->v);
    nm_free(d->s);
    nm_free(d->order);
}

static nm_err svd_make(svd *d, const nm_pair *p)
{
    int64_t r = p->rank;
    NM_TRY(make(&d->qa, p->in, r));
    NM_TRY(make(&d->qb, p->out, r));
    matrix *square[] = {&d->ra, &d->rb, &d->u, &d->v};
    for (size_t i = 0; i < sizeof square / sizeof *square; i++) NM_TRY(make(square[i], r, r));
    d->s = nm_calloc((size_t)r, sizeof *d->s);
    d->order = nm_calloc((size_t)r, sizeof *d->order);
    return d->s && d->order ? NM_OK : nm_fail_memory((size_t)r * sizeof *d->s);
}

static void load(svd *d, const nm_pair *p)
{
    for (int64_t r = 0; r < p->rank; r++) {
        for (int64_t i = 0; i < p->in; i++) column(&d->qa, r)[i] = (double)(p->embedding ? p->a[i * p->rank + r] : p->a[r * p->in + i]);
        for (int64_t i = 0; i < p->out; i++) column(&d->qb, r)[i] = (double)p->b[i * p->rank + r] * (double)p->scale;
    }
}

static void sort_values(svd *d, int64_t r)
{
    for (int64_t c = 0; c < r; c++) {
        int64_t at = c;
        d->s[c] = sqrt(dot(column(&d->u, c), column(&d->u, c), r));
        for (; at > 0 && d->s[d->order[at - 1]] < d->s[c]; at--) d->order[at] = d->order[at - 1];
        d->order[at] = c;
    }
}

static void take_apart(svd *d, const nm_pair *p)
{
    int64_t r = p->rank;
    load(d, p);
    orthogonalise(&d->qa, &d->ra);
    orthogonalise(&d->qb, &d->rb);
    for (int64_t c = 0; c < r; c++)         /* u = Rb Ra' */
        for (int64_t i = 0; i < r; i++)
            for (int64_t k = 0; k < r; k++) column(&d->u, c)[i] += column(&d->rb, k)[i] * column(&d->ra, k)[c];
    jacobi(&d->u, &d->v);
    sort_values(d, r);
}

static void measure(const svd *d, int64_t rank, int64_t keep, nm_spectrum *out)
{
    double sum = 0, entropy = 0;
    *out = (nm_spectrum){0};
    for (int64_t i = 0; i < rank; i++) {
        double s = d->s[d->order[i]];
        out->energy += s * s;
        if (i < keep) out->kept += s * s;
        sum += s;
    }
    for (int64_t i = 0; i < rank; i++) {
        double part = sum > 0 ? d->s[i] / sum : 0;
        if (part > 0) entropy -= part * log(part);
    }
    out->effective_rank = sum > 0 ? exp(entropy) : 0;
}

/* Value i of column `c` of q times the small column `small`. */
static double expand(const matrix *q, const double *small, int64_t i)
{
    double sum = 0;
    for (int64_t k = 0; k < q->columns; k++) sum += column(q, k)[i] * small[k];
    return sum;
}

/* The halves get the square root of each value; the scale becomes 1. */
static nm_err rebuild(const svd *d, nm_pair *p, int64_t keep)
{
    float *a = nm_calloc((size_t)keep, (size_t)p->in * sizeof *a), *b = nm_calloc((size_t)keep, (size_t)p->out * sizeof *b);
    if (!a || !b) {
        nm_free(a);
        nm_free(b);
        return nm_fail_memory((size_t)(keep * (p->in + p->out)) * sizeof *a);
    }
    for (int64_t r = 0; r < keep; r++) {
        int64_t c = d->order[r];
        double root = sqrt(d->s[c]), inverse = root > 0 ? 1 / root : 0;
        for (int64_t i = 0; i < p->in; i++) a[p->embedding ? i * keep + r : r * p->in + i] = (float)(root * expand(&d->qa, column(&d->v, c), i));
        for (int64_t i = 0; i < p->out; i++) b[i * keep + r] = (float)(inverse * expand(&d->qb, column(&d->u, c), i));
    }
    nm_free(p->a);
    nm_free(p->b);
    p->a = a;
    p->b = b;
    p->rank = keep;
    p->scale = 1;
    return NM_OK;
}

nm_err nm_pair_compress(nm_pair *p, int64_t rank, nm_spectrum *spectrum)
{
    svd d = {0};
    int64_t keep = rank > 0 && rank < p->rank ? rank : p->rank;
    nm_err err = svd_make(&d, p);
    if (err == NM_OK) {
        take_apart(&d, p);
        measure(&d, p->rank, keep, spectrum);
        if (keep < p->rank) err = rebuild(&d, p, keep);
    }
    svd_free(&d);
    return err;
}

/* |B A|^2 = sum over r, q of (B'B)[r, q] (A A')[r, q]. */
double nm_pair_norm(const nm_pair *p)
{
    double total = 0;
    for (int64_t r = 0; r < p->rank; r++)
        for (int64_t q = 0; q < p->rank; q++) {
            double a = 0, b = 0;
            for (int64_t i = 0; i < p->in; i++)
                a += p->embedding ? (double)p->a[i * p->rank + r] * (double)p->a[i * p->rank + q] : (double)p->a[r * p->in + i] * (double)p->a[q * p->in + i];
            for (int64_t i = 0; i < p->out; i++) b += (double)p->b[i * p->rank + r] * (double)p->b[i * p->rank + q];
            total += a * b;
        }
    return fabs((double)p->scale) * sqrt(total > 0 ? total : 0);
}
