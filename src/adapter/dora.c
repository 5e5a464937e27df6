/* Lengths of rows of W + s B A. Panels are unpacked a block of inputs at a time, and the same block of B A is made beside it. */
#include "adapter/dora.h"

#include <math.h>
#include <string.h>

enum { BLOCK = NM_UNPACK_INPUTS };

typedef struct blocks { float *w, *ba; void *unpacker; } blocks;      /* [NM_PANEL][BLOCK] */

size_t nm_dora_scratch(const nm_panels *w) { return 2 * NM_PANEL * BLOCK * sizeof(float) + nm_linear_scratch(w, 1); }

static blocks blocks_at(void *scratch)
{
    float *at = scratch;
    return (blocks){at, at + NM_PANEL * BLOCK, at + 2 * NM_PANEL * BLOCK};
}

/* Inputs [k0, k0 + count) of panel p; returns its rows. */
static int64_t fill(const nm_kernels *k, const nm_dora_map *m, int64_t p, int64_t k0, int64_t count, const blocks *x)
{
    int64_t first = p * NM_PANEL, rows = m->w->n - first < NM_PANEL ? m->w->n - first : NM_PANEL;
    k->unpack_rows(m->w, p, k0, count, x->w, BLOCK, x->unpacker);
    k->gemm(&(nm_gemm_job){.m = rows, .n = count, .k = m->rank, .a = m->b + first * m->rank, .a_row = (size_t)m->rank, .a_k = 1, .b = m->a + k0,
        .ldb = (size_t)m->w->k, .c = x->ba, .ldc = BLOCK});
    return rows;
}

void nm_dora_sum(const nm_dora_map *m, const nm_dora_sums *out, void *scratch)
{
    const nm_kernels *k = nm_kernels_get();
    blocks x = blocks_at(scratch);
    memset(out->w, 0, (size_t)m->w->n * sizeof *out->w);
    memset(out->wb, 0, (size_t)m->w->n * sizeof *out->wb);
    memset(out->bb, 0, (size_t)m->w->n * sizeof *out->bb);
    for (int64_t p = 0; p < m->w->panels; p++)
        for (int64_t k0 = 0; k0 < m->w->k; k0 += BLOCK) {
            int64_t count = m->w->k - k0 < BLOCK ? m->w->k - k0 : BLOCK, rows = fill(k, m, p, k0, count, &x), n = p * NM_PANEL;
            for (int64_t r = 0; r < rows; r++) {
                const float *w = x.w + r * BLOCK, *ba = x.ba + r * BLOCK;
                out->w[n + r] += (double)k->dot(w, w, count);
                out->wb[n + r] += (double)k->dot(w, ba, count);
                out->bb[n + r] += (double)k->dot(ba, ba, count);
            }
        }
}

void nm_dora_lengths(const nm_dora_map *m, float scale, float *length, void *scratch)
{
    const nm_kernels *k = nm_kernels_get();
    blocks x = blocks_at(scratch);
    for (int64_t p = 0; p < m->w->panels; p++) {
        double square[NM_PANEL] = {0};
        int64_t rows = 0;
        for (int64_t k0 = 0; k0 < m->w->k; k0 += BLOCK) {
            int64_t count = m->w->k - k0 < BLOCK ? m->w->k - k0 : BLOCK;
            rows = fill(k, m, p, k0, count, &x);
            for (int64_t r = 0; r < rows; r++) {
                float *v = x.w + r * BLOCK;
                k->add_scaled(v, x.ba + r * BLOCK, scale, count, v);
                square[r] += (double)k->dot(v, v, count);
            }
        }
        for (int64_t r = 0; r < rows; r++) length[p * NM_PANEL + r] = (float)sqrt(square[r]);
    }
}

/* Sums of 256 products carry some 1e-7 of what they add up: below a sixteenth the length would lose more than its sixth digit. */
int64_t nm_dora_lengths_of(const nm_dora_sums *sums, float scale, int64_t n, float *length)
{
    const double least = 1.0 / 16, s = (double)scale;
    const double *w = sums->w, *wb = sums->wb, *bb = sums->bb;
    int64_t small = 0;
    for (int64_t i = 0; i < n; i++) {
        double square = w[i] + s * (2 * wb[i] + s * bb[i]);
        length[i] = (float)sqrt(square);
    }
    for (int64_t i = 0; i < n; i++) {
        double square = w[i] + s * (2 * wb[i] + s * bb[i]);
        if (square > least * (w[i] + s * s * bb[i])) continue;
        length[i] = -1;
        small++;
    }
    return small;
}
