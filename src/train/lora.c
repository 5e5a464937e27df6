/* Parameters of the adapter in training. Work is handed out by map, and each map is one thread's: nothing depends on their number. */
#include "train/lora.h"

#include <math.h>
#include <string.h>

#include "adapter/dora.h"
#include "base/mem.h"
#include "base/pool.h"
#include "base/rng.h"

enum { STATE_ALIGN = 64 };

static size_t halves_of(const nm_train_map *m) { return (size_t)m->rank * (size_t)(m->n + m->k); }
static size_t numbers_of(const nm_train_lora *l, const nm_train_map *m) { return halves_of(m) + (l->dora ? (size_t)m->n : 0); }

float *nm_train_lora_magnitudes(const nm_train_lora *l, const nm_train_map *m) { return l->dora ? l->p + m->at + halves_of(m) : NULL; }

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }
static size_t state_of(const nm_optim *optim, int64_t rows, int64_t columns) { return (optim->state(rows, columns) + STATE_ALIGN - 1) / STATE_ALIGN * STATE_ALIGN; }

/* ---- Opening ---------------------------------------------------------------------------------------------------------------------- */

static nm_err list_maps(nm_train_lora *l, const int32_t *wanted, const nm_optim *optim)
{
    size_t capacity = 0;
    for (size_t i = 0; i < l->model->weights; i++) {
        const nm_weight *w = &l->model->weight[i];
        if (!wanted[i] || !w->k) continue;
        if (wanted[i] < 0 || wanted[i] > w->n || wanted[i] > w->k)
            return nm_fail(NM_USAGE, "%s: a rank of %d makes no sense for %lld x %lld", w->name, (int)wanted[i], (long long)w->k, (long long)w->n);
        NM_TRY(NM_GROW(l->map, capacity, l->maps + 1));
        nm_train_map *m = &l->map[l->maps++];
        *m = (nm_train_map){.weight = (int32_t)i, .rank = wanted[i], .n = w->n, .k = w->k, .at = l->numbers, .state = l->state_bytes, .row = l->rows};
        l->numbers += numbers_of(l, m);
        l->state_bytes += state_of(optim, m->rank, m->k) + state_of(optim, m->rank, m->n);
        if (optim->scratch) l->scratch_bytes = larger(l->scratch_bytes, larger(optim->scratch(m->rank, m->k), optim->scratch(m->rank, m->n)));
        if (l->dora) {
            l->state_bytes += state_of(optim, 1, m->n);
            l->rows += 2 * (size_t)m->n;
        }
        l->trained[i] |= l->dora ? NM_TRAIN_SLOT | NM_TRAIN_GAIN : NM_TRAIN_SLOT;
        if (m->rank > l->max_rank) l->max_rank = m->rank;
    }
    return l->maps ? NM_OK : nm_fail(NM_USAGE, "nothing to train: no map was chosen");
}

static nm_err allocate(nm_train_lora *l)
{
    size_t bytes = l->numbers * sizeof(float);
    l->p = nm_alloc_aligned(bytes);
    l->g = nm_alloc_aligned(bytes);
    l->half = nm_alloc_aligned(bytes);
    l->state = nm_alloc_aligned(l->state_bytes);
    if (l->rows && !(l->stretch = nm_alloc_aligned(l->rows * sizeof(float)))) return nm_fail_memory(l->rows * sizeof(float));
    return l->p && l->g && l->half && l->state ? NM_OK : nm_fail_memory(3 * bytes + l->state_bytes);
}

/* Number `index` of a normal distribution, by the ratio of uniforms (Kinderman and Monahan 1977): of a logarithm only a comparison is asked, so that its last
 * bit, in which C libraries differ, decides nothing. */
static double draw_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    enum { TRIES = 64 };        /* each fails with probability 0.27 */
    double x = 0;
    for (uint64_t i = 0; i < TRIES; i++) {
        double u = 1 - nm_rng_unit(seed, stream, (index * TRIES + i) * 2), v = nm_rng_unit(seed, stream, (index * TRIES + i) * 2 + 1);
        x = 1.7155277699214135 * (v - 0.5) / u;         /* sqrt(8 / e) */
        if (x * x <= -4 * log(u)) break;
    }
    return x;
}

static void start(nm_train_lora *l, float scale, nm_start from, uint64_t seed)
{
    for (size_t i = 0; i < l->maps; i++) {
        const nm_train_map *m = &l->map[i];
        size_t a = (size_t)m->rank * (size_t)m->k;
        float *p = l->p + m->at, *half = l->half + m->at, *g = l->g + m->at;
        double bound = 1 / sqrt((double)m->k);
        for (size_t j = 0; j < a; j++)
            p[j] = (float)(from == NM_START_GAUSSIAN ? draw_normal(seed, (uint64_t)m->weight, j) / m->rank
                                                     : (2 * nm_rng_unit(seed, (uint64_t)m->weight, j) - 1) * bound);
        l->slot[m->weight] = (nm_train_slot){.rank = m->rank, .scale = scale, .a = p, .a_t = half, .b = half + a, .b_t = p + a, .da = g, .db_t = g + a};
        if (!l->dora) continue;
        l->slot[m->weight].gain = l->stretch + m->row;
        l->slot[m->weight].inverse = l->stretch + m->row + m->n;
        l->slot[m->weight].dm = g + halves_of(m);
    }
}

nm_err nm_train_lora_list(nm_train_lora *l, const nm_model *model, const int32_t *wanted, bool dora, const nm_optim *optim)
{
    *l = (nm_train_lora){.model = model, .dora = dora, .slot = nm_calloc(model->weights, sizeof *l->slot), .trained = nm_calloc(model->weights, 1)};
    nm_err err = l->slot && l->trained ? list_maps(l, wanted, optim) : nm_fail_memory(model->weights * sizeof *l->slot);
    if (err != NM_OK) nm_train_lora_close(l);
    return err;
}

static nm_err open_lora(nm_train_lora *l, float scale, nm_start from, uint64_t seed)
{
    NM_TRY(allocate(l));
    start(l, scale, from, seed);
    return l->dora ? nm_train_lora_measure(l) : nm_train_lora_derive(l);
}

nm_err nm_train_lora_open(nm_train_lora *l, const nm_model *model, const int32_t *wanted, float scale, bool dora, const nm_optim *optim, nm_start from,
    uint64_t seed)
{
    NM_TRY(nm_train_lora_list(l, model, wanted, dora, optim));
    nm_err err = open_lora(l, scale, from, seed);
    if (err != NM_OK) nm_train_lora_close(l);
    return err;
}

void nm_train_lora_close(nm_train_lora *l)
{
    size_t bytes = l->numbers * sizeof(float);
    nm_free_aligned(l->p, bytes);
    nm_free_aligned(l->g, bytes);
    nm_free_aligned(l->half, bytes);
    nm_free_aligned(l->state, l->state_bytes);
    nm_free_aligned(l->stretch, l->rows * sizeof(float));
    nm_free(l->map);
    nm_free(l->slot);
    nm_free(l->trained);
    *l = (nm_train_lora){0};
}

/* ---- Work by map ------------------------------------------------------------------------------------------------------------------- */

typedef struct by_map {
    nm_train_lora *lora;
    atomic_int_fast64_t ticket;
    void (*work)(struct by_map *, size_t map, void *scratch);
    uint8_t *scratch;           /* [threads][each], where there are gains to find or the optimiser wants some */
    size_t each;
    const nm_optim *optim;
    const nm_optim_settings *set;
    int64_t step;
    float lr, lr_b, clip;
    double *squares;            /* by map */
} by_map;

static void run_maps(void *arg, int thread, int threads)
{
    by_map *b = arg;
    void *own = b->scratch ? b->scratch + (size_t)thread * b->each : NULL;
    for (int64_t i; (i = atomic_fetch_add(&b->ticket, 1)) < (int64_t)b->lora->maps;) b->work(b, (size_t)i, own);
}

/* Work that finds gains needs room for unpacked weights, and an optimiser its own. */
static nm_err run_finding(by_map *b)
{
    const nm_train_lora *l = b->lora;
    b->each = b->optim ? l->scratch_bytes : 0;
    for (size_t i = 0; l->dora && i < l->maps; i++) b->each = larger(b->each, nm_dora_scratch(&l->model->weight[l->map[i].weight].panels));
    b->each = (b->each + 63) & ~(size_t)63;
    size_t bytes = b->each * (size_t)nm_threads();
    if (bytes && !(b->scratch = nm_alloc_aligned(bytes))) return nm_fail_memory(bytes);
    nm_err err = nm_pool_run(run_maps, b);
    nm_free_aligned(b->scratch, bytes);
    b->scratch = NULL;
    return err;
}

static void turn(const float *in, int64_t rows, int64_t columns, float *out)
{
    for (int64_t c = 0; c < columns; c++) for (int64_t r = 0; r < rows; r++) out[c * rows + r] = in[r * columns + c];
}

/* The lengths of the rows of W + s B A, constants of a step: where the gains stand. */
static float *find_lengths(const nm_train_lora *l, const nm_train_map *m, void *scratch)
{
    size_t a = (size_t)m->rank * (size_t)m->k;
    float *length = l->stretch + m->row;
    nm_dora_map map = {.w = &l->model->weight[m->weight].panels, .rank = m->rank, .a = l->p + m->at, .b = l->half + m->at + a};
    nm_dora_lengths(&map, l->slot[m->weight].scale, length, scratch);
    return length;
}

/* From the lengths, in their place. */
static void make_gains(const nm_train_lora *l, const nm_train_map *m)
{
    const float *magnitude = nm_train_lora_magnitudes(l, m);
    float *gain = l->stretch + m->row, *inverse = gain + m->n;
    for (int64_t n = 0; n < m->n; n++) {
        gain[n] = magnitude[n] / gain[n];
        inverse[n] = magnitude[n] != 0 ? 1 / magnitude[n] : 0;
    }
}

static void turn_halves(const nm_train_lora *l, const nm_train_map *m)
{
    size_t a = (size_t)m->rank * (size_t)m->k;
    turn(l->p + m->at, m->rank, m->k, l->half + m->at);
    turn(l->p + m->at + a, m->rank, m->n, l->half + m->at + a);
}

static void derive_map(by_map *b, size_t i, void *scratch)
{
    const nm_train_map *m = &b->lora->map[i];
    turn_halves(b->lora, m);
    if (!b->lora->dora) return;
    find_lengths(b->lora, m, scratch);
    make_gains(b->lora, m);
}

nm_err nm_train_lora_derive(nm_train_lora *l) { return run_finding(&(by_map){.lora = l, .work = derive_map}); }

static void measure_map(by_map *b, size_t i, void *scratch)
{
    const nm_train_map *m = &b->lora->map[i];
    float *magnitude = nm_train_lora_magnitudes(b->lora, m);
    turn_halves(b->lora, m);
    memcpy(magnitude, find_lengths(b->lora, m, scratch), (size_t)m->n * sizeof *magnitude);
    make_gains(b->lora, m);
}

/* Names the first map of those that have a row without a length, whichever thread it was. */
static nm_err check_magnitudes(const nm_train_lora *l)
{
    for (size_t i = 0; i < l->maps; i++) {
        const float *magnitude = nm_train_lora_magnitudes(l, &l->map[i]);
        for (int64_t n = 0; n < l->map[i].n; n++)
            if (!(magnitude[n] > 0))
                return nm_fail(NM_REFUSED, "%s has a row of zeros, which has no length: train without DoRA, or other maps", l->model->weight[l->map[i].weight].name);
    }
    return NM_OK;
}

nm_err nm_train_lora_measure(nm_train_lora *l)
{
    NM_TRY(run_finding(&(by_map){.lora = l, .work = measure_map}));
    return check_magnitudes(l);
}

static void square_map(by_map *b, size_t i, void *scratch)
{
    const nm_train_map *m = &b->lora->map[i];
    const float *g = b->lora->g + m->at;
    double s = 0;
    for (size_t j = 0; j < numbers_of(b->lora, m); j++) s += (double)g[j] * (double)g[j];
    b->squares[i] = s;
}

nm_err nm_train_lora_norm(const nm_train_lora *l, double *norm)
{
    by_map b = {.lora = (nm_train_lora *)l, .work = square_map, .squares = nm_calloc(l->maps, sizeof(double))};
    if (!b.squares) return nm_fail_memory(l->maps * sizeof(double));
    nm_err err = nm_pool_run(run_maps, &b);
    double s = 0;
    for (size_t i = 0; i < l->maps; i++) s += b.squares[i];
    *norm = sqrt(s);
    nm_free(b.squares);
    return err;
}

/* As a matrix of one row, after the halves. job: B's. */
static void update_magnitudes(const by_map *b, const nm_train_map *m, const nm_optim_job *half)
{
    nm_optim_job job = *half;
    job.state = (uint8_t *)half->state + state_of(b->optim, m->rank, m->n);
    job.rows = 1;
    job.turned = false;
    job.p = nm_train_lora_magnitudes(b->lora, m);
    job.g = b->lora->g + m->at + halves_of(m);
    b->optim->update(&job);
}

static void update_map(by_map *b, size_t i, void *scratch)
{
    const nm_train_map *m = &b->lora->map[i];
    float *g = b->lora->g + m->at;
    size_t a = (size_t)m->rank * (size_t)m->k;
    for (size_t j = 0; b->clip != 1 && j < numbers_of(b->lora, m); j++) g[j] *= b->clip;
    nm_optim_job job = {.set = b->set, .kernel = nm_kernels_get(), .step = b->step, .lr = b->lr, .rows = m->rank, .columns = m->k, .p = b->lora->p + m->at,
        .g = g, .state = b->lora->state + m->state, .scratch = scratch};
    b->optim->update(&job);
    job.lr = b->lr_b;
    job.columns = m->n;
    job.turned = true;
    job.p += a;
    job.g += a;
    job.state = b->lora->state + m->state + state_of(b->optim, m->rank, m->k);
    b->optim->update(&job);
    if (b->lora->dora) update_magnitudes(b, m, &job);
    derive_map(b, i, scratch);
}

nm_err nm_train_lora_update(nm_train_lora *l, const nm_optim *optim, const nm_optim_settings *set, int64_t step, float lr, float lr_b, float clip)
{
    return run_finding(&(by_map){.lora = l, .work = update_map, .optim = optim, .set = set, .step = step, .lr = lr, .lr_b = lr_b, .clip = clip});
}
