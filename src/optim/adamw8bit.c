/* AdamW with both moments in 8 bits (Dettmers et al. 2022): blocks of 256 numbers share an fp32 scale, their largest; a number is one of 256 values
 * spaced by a dynamic exponent and fraction. The step reads the moments before they are rounded again. Matrices of fewer than 4,096 numbers keep fp32, as in
 * the paper's own implementation. A quarter of AdamW's state. */
#include <math.h>
#include <string.h>

#include "optim/optim.h"

enum { BLOCK = 256, LEAST = 4096, CODES = 256, EXPONENTS = 7 };

/* ---- The 256 values --------------------------------------------------------------------------------------------------------------------------- */

/* For each decade 10^-6 .. 1 twice as many values as for the one below, the middles of equal parts of [0.1, 1]; and 0 and 1. Signed: half of them and their
 * negatives. Ascending. */
static void make_map(bool is_signed, float *map)
{
    int n = 0;
    if (is_signed) n = CODES / 2 - 1;           /* of the zero: negatives below */
    map[n++] = 0;
    double decade = 1e-6;
    for (int e = 0; e < EXPONENTS; e++, decade *= 10) {
        int parts = 1 << (is_signed ? e : e + 1);
        for (int i = 0; i < parts; i++) map[n++] = (float)(decade * (0.1 + 0.9 * (i + 0.5) / parts));
    }
    map[n] = 1;
    for (int i = 0; is_signed && i < CODES / 2 - 1; i++) map[i] = -map[CODES - 2 - i];
}

/* The nearest value's place, by bisection; ties go up. */
static uint8_t code_of(const float *map, float v)
{
    int at = 0;
    for (int step = CODES / 2; step; step /= 2) if (v >= map[at + step]) at += step;
    return (uint8_t)(at + 1 < CODES && v - map[at] >= (map[at + 1] - map[at]) * 0.5f ? at + 1 : at);
}

/* ---- Moments of a block --------------------------------------------------------------------------------------------------------------------------- */

typedef struct moment { uint8_t *code; float *scale; const float *map; } moment;

static void load(const moment *m, int64_t block, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) out[i] = m->map[m->code[block * BLOCK + i]] * m->scale[block];
}

static void store(const moment *m, int64_t block, int64_t n, const float *v)
{
    float most = 0;
    for (int64_t i = 0; i < n; i++) most = fmaxf(most, fabsf(v[i]));
    m->scale[block] = most;
    for (int64_t i = 0; i < n; i++) m->code[block * BLOCK + i] = code_of(m->map, most > 0 ? v[i] / most : 0);
}

/* ---- The step --------------------------------------------------------------------------------------------------------------------------------------- */

static bool is_small(int64_t numbers) { return numbers < LEAST; }
static int64_t blocks_of(int64_t numbers) { return (numbers + BLOCK - 1) / BLOCK; }

static size_t state(int64_t rows, int64_t columns)
{
    int64_t n = rows * columns;
    return is_small(n) ? 2 * (size_t)n * sizeof(float) : 2 * (size_t)blocks_of(n) * (BLOCK + sizeof(float));
}

/* Where number i of the matrix that others train lies: blocks follow its rows. */
static int64_t place(const nm_optim_job *j, int64_t i) { return j->turned ? i % j->rows * j->columns + i / j->rows : i; }

/* Steps n numbers from `first` on; m and v: their moments. */
static void step(const nm_optim_job *j, int64_t first, int64_t n, float *m, float *v)
{
    const nm_optim_settings *s = j->set;
    const float rate = (float)(j->lr / (1 - pow(s->beta1, (double)j->step))), root = (float)sqrt(1 - pow(s->beta2, (double)j->step));
    const float keep = 1 - j->lr * s->weight_decay;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = place(j, first + i);
        float g = j->g[at];
        m[i] = m[i] + (g - m[i]) * (1 - s->beta1);
        v[i] = v[i] + (g * g - v[i]) * (1 - s->beta2);
        j->p[at] = j->p[at] * keep - rate * (m[i] / (sqrtf(v[i]) / root + s->eps));
    }
}

static void update(const nm_optim_job *j)
{
    int64_t n = j->rows * j->columns, blocks = blocks_of(n);
    float map[2][CODES], m[BLOCK], v[BLOCK];
    if (is_small(n)) {
        step(j, 0, n, j->state, (float *)j->state + n);
        return;
    }
    float *scale = j->state;
    uint8_t *code = (uint8_t *)(scale + 2 * blocks);
    make_map(true, map[0]);
    make_map(false, map[1]);
    moment first = {code, scale, map[0]}, second = {code + blocks * BLOCK, scale + blocks, map[1]};
    for (int64_t b = 0; b < blocks; b++) {
        int64_t count = n - b * BLOCK < BLOCK ? n - b * BLOCK : BLOCK;
        load(&first, b, count, m);              /* the scale of 0 before the first step makes zeros */
        load(&second, b, count, v);
        step(j, b * BLOCK, count, m, v);
        store(&first, b, count, m);
        store(&second, b, count, v);
    }
}

const nm_optim nm_optim_adamw8bit = {.name = "adamw8bit", .rate = 1, .defaults = {.beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.01f},
    .state = state, .update = update};
