/* AdamW (Loshchilov and Hutter 2019), with PyTorch's order of operations: decay first, moments, then the step
 *   p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps) */
#include <math.h>

#include "optim/optim.h"

static size_t state(int64_t rows, int64_t columns) { return 2 * (size_t)(rows * columns) * sizeof(float); }

static void update(const nm_optim_job *j)
{
    const nm_optim_settings *s = j->set;
    int64_t n = j->rows * j->columns;
    float *m = j->state, *v = m + n;
    const float rate = (float)(j->lr / (1 - pow(s->beta1, (double)j->step))), root = (float)sqrt(1 - pow(s->beta2, (double)j->step));
    const float keep = 1 - j->lr * s->weight_decay;
    for (int64_t i = 0; i < n; i++) {
        float g = j->g[i];
        m[i] = m[i] + (g - m[i]) * (1 - s->beta1);
        v[i] = v[i] * s->beta2 + g * g * (1 - s->beta2);
        j->p[i] = j->p[i] * keep - rate * (m[i] / (sqrtf(v[i]) / root + s->eps));
    }
}

const nm_optim nm_optim_adamw = {.name = "adamw", .rate = 1, .defaults = {.beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.01f}, .state = state,
    .update = update};
