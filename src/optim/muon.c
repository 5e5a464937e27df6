/* Muon (Jordan et al. 2024): the momentum's nearest orthogonal matrix, by five quintic Newton-Schulz steps, in fp32 and through the one product kernel
 *   m = mu m + (1 - mu) g;  u = (1 - mu) g + mu m  (Nesterov);  X = u / |u|;  5 times  X = a X + (b G + c G G) X  with G = X X'
 *   p = p (1 - lr decay) - lr f X
 * f is torch.optim.Muon's adjustment: "muon" its default, sqrt(max(1, outputs / inputs)) of the half; "muon-rms" its "match_rms_adamw", 0.2 sqrt(max(outputs,
 * inputs)), which gives updates AdamW's usual size, 0.2 (Liu et al. 2025), so that rates carry over. With the default a number of B moves by 1 / sqrt(rank),
 * 0.25 at rank 16, so AdamW's rate serves too; A moves less. Each half of an adapter is orthogonalised by itself.
 * PyTorch rounds X and G to bf16 on the way, which moves the result by about 1 %; here they stay fp32. */
#include <math.h>

#include "optim/optim.h"

enum { STEPS = 5 };
static const float A = 3.4445f, B = -4.7750f, C = 2.0315f;

static size_t state(int64_t rows, int64_t columns) { return (size_t)(rows * columns) * sizeof(float); }
static size_t scratch(int64_t rows, int64_t columns) { return (size_t)(rows * columns + 2 * rows * rows) * sizeof(float); }

/* g becomes u / |u|; the momentum follows. */
static void direct(const nm_optim_job *j)
{
    float *m = j->state;
    const float mu = j->set->beta1;
    double squares = 0;
    for (int64_t i = 0; i < j->rows * j->columns; i++) {
        m[i] = m[i] + (j->g[i] - m[i]) * (1 - mu);
        j->g[i] = j->g[i] + (m[i] - j->g[i]) * mu;
        squares += (double)j->g[i] * (double)j->g[i];
    }
    const float norm = fmaxf((float)sqrt(squares), j->set->eps);
    for (int64_t i = 0; i < j->rows * j->columns; i++) j->g[i] /= norm;
}

/* One step on x [r][k]; other: [r][k], gram and square: [r][r]. */
static void newton_schulz(const nm_kernels *kernel, float *x, int64_t r, int64_t k, float *other, float *gram, float *square)
{
    for (int64_t c = 0; c < k; c++) for (int64_t i = 0; i < r; i++) other[c * r + i] = x[i * k + c];
    kernel->gemm(&(nm_gemm_job){.m = r, .n = r, .k = k, .a = x, .a_row = (size_t)k, .a_k = 1, .b = other, .ldb = (size_t)r, .c = gram, .ldc = (size_t)r});
    kernel->gemm(&(nm_gemm_job){.m = r, .n = r, .k = r, .a = gram, .a_row = (size_t)r, .a_k = 1, .b = gram, .ldb = (size_t)r, .c = square, .ldc = (size_t)r});
    for (int64_t i = 0; i < r * r; i++) gram[i] = B * gram[i] + C * square[i];
    kernel->gemm(&(nm_gemm_job){.m = r, .n = k, .k = r, .a = gram, .a_row = (size_t)r, .a_k = 1, .b = x, .ldb = (size_t)k, .c = other, .ldc = (size_t)k});
    for (int64_t i = 0; i < r * k; i++) x[i] = A * x[i] + other[i];
}

static void update_by(const nm_optim_job *j, double factor)
{
    int64_t r = j->rows, k = j->columns;
    float *other = j->scratch, *gram = other + r * k, *square = gram + r * r;
    direct(j);
    for (int i = 0; i < STEPS; i++) newton_schulz(j->kernel, j->g, r, k, other, gram, square);
    const float rate = (float)((double)j->lr * factor), keep = 1 - j->lr * j->set->weight_decay;
    for (int64_t i = 0; i < r * k; i++) j->p[i] = j->p[i] * keep - rate * j->g[i];
}

static void update(const nm_optim_job *j) { update_by(j, j->turned ? sqrt((double)j->columns / (double)j->rows) : 1); }
static void update_rms(const nm_optim_job *j) { update_by(j, 0.2 * sqrt((double)j->columns)); }

#define SETTINGS {.beta1 = 0.95f, .eps = 1e-7f, .weight_decay = 0.1f}
const nm_optim nm_optim_muon = {.name = "muon", .matrices = true, .rate = 1, .defaults = SETTINGS, .state = state, .scratch = scratch, .update = update};
const nm_optim nm_optim_muon_rms = {.name = "muon-rms", .matrices = true, .rate = 1, .defaults = SETTINGS, .state = state, .scratch = scratch, .update = update_rms};
