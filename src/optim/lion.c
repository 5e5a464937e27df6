/* Lion (Chen et al. 2023): every number moves by the rate, in the direction of the momentum's sign; the decay is decoupled
 *   u = sign(b1 m + (1 - b1) g);  p = p (1 - lr decay) - lr u;  m = b2 m + (1 - b2) g
 * Half of AdamW's state. The paper takes a rate 3 to 10 times smaller than AdamW's, because every step has full length. */
#include "optim/optim.h"

static size_t state(int64_t rows, int64_t columns) { return (size_t)(rows * columns) * sizeof(float); }

static void update(const nm_optim_job *j)
{
    const nm_optim_settings *s = j->set;
    float *m = j->state;
    const float keep = 1 - j->lr * s->weight_decay;
    for (int64_t i = 0; i < j->rows * j->columns; i++) {
        float g = j->g[i], u = m[i] * s->beta1 + g * (1 - s->beta1);
        j->p[i] = j->p[i] * keep - j->lr * (float)((u > 0) - (u < 0));
        m[i] = m[i] * s->beta2 + g * (1 - s->beta2);
    }
}

const nm_optim nm_optim_lion = {.name = "lion", .rate = 0.2f, .defaults = {.beta1 = 0.9f, .beta2 = 0.99f}, .state = state, .update = update};
