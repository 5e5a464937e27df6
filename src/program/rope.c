/* The frequencies of rotary embedding and their scalings, folded into one constant per program: radians per position. */
#include <math.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "program/program.h"

/* YaRN (Peng et al. 2023, section 3.2): the pair whose wave turns `rotations` times in the trained context. */
static double yarn_pair(const nm_rope *r, double rotations)
{
    return r->n_rot * log((double)r->yarn_context / (rotations * 2 * M_PI)) / (2 * log(r->base));
}

static float yarn(const nm_rope *r, int i, float plain)
{
    double low = floor(yarn_pair(r, r->yarn_fast)), high = ceil(yarn_pair(r, r->yarn_slow));
    if (low < 0) low = 0;
    if (high > r->n_rot - 1) high = r->n_rot - 1;
    double ramp = (i - low) / (high > low ? high - low : 0.001);
    ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
    return (float)((double)plain / r->yarn_factor * ramp + (double)plain * (1 - ramp));
}

static float factor(const nm_rope *r, int i)
{
    float f = 1;
    if (r->factors) memcpy(&f, (const char *)r->factors + (size_t)i * sizeof f, sizeof f);
    return f;
}

/* The frequencies are rounded to fp32 as the models' own code does. */
static void frequencies(const nm_rope *r, float *out)
{
    for (int i = 0; i < r->n_rot / 2; i++) {
        float f = 1.0f / powf(r->base, (float)(2 * i) / (float)r->n_rot);
        f /= factor(r, i);
        if (r->yarn_factor > 0) f = yarn(r, i, f);
        out[i] = f / r->linear;
    }
}

static float magnitude(const nm_rope *r)
{
    if (r->yarn_factor <= 0) return 1;
    return r->yarn_magnitude > 0 ? r->yarn_magnitude : r->yarn_factor > 1 ? 0.1f * logf(r->yarn_factor) + 1 : 1;
}

static float *new_constant(nm_builder *b, size_t count)
{
    nm_program *p = b->program;
    b->err = NM_GROW(p->constant, p->constant_capacity, p->constants + 1);
    if (b->err != NM_OK) return NULL;
    float *c = nm_calloc(count, sizeof *c);
    if (!c) b->err = nm_fail_memory(count * sizeof *c);
    else p->constant[p->constants++] = c;
    return c;
}

int32_t nm_build_rope_table(nm_builder *b, const nm_rope *r)
{
    if (b->err != NM_OK) return NM_NONE;
    if (r->n_rot < 2 || r->n_rot % 2) {
        b->err = nm_fail(NM_BAD_FILE, "rotary embedding over %d columns: an even number is needed", (int)r->n_rot);
        return NM_NONE;
    }
    float *f = new_constant(b, (size_t)r->n_rot / 2);
    if (!f) return NM_NONE;
    frequencies(r, f);
    return nm_build_table(b, f, r->n_rot / 2, magnitude(r));
}
