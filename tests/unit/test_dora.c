/* DoRA against PEFT (tests/make_dora_record.py): logits of adapters alone and in stacks, 20 steps of training, gradients by kind. Finite differences on top of
 * stacks; that neither threads, passes nor recomputation change a bit; lengths of rows. Needs NOMOAT_TEST_DATA, and the time of a switch SmolLM2 in
 * NOMOAT_TEST_MODELS. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "adapter/dora.h"
#include "adapter/lora.h"
#include "base/mem.h"
#include "base/rng.h"
#include "format/json.h"
#include "os/clock.h"
#include "os/file.h"
#include "train/trainer.h"

static const double LOGIT_BOUND = 0.002, LOSS_BOUND = 1e-3, NORM_BOUND = 1e-3, LATER_NORM_BOUND = 1e-2;
enum { EXACT_STEPS = 3, MOST_SEQUENCES = 8 };

static double number(const nm_json *v) { return v->kind == NM_JSON_INT ? (double)v->integer : v->real; }
static const nm_json *item(const nm_json *object, const char *key)
{
    const nm_json *v = nm_json_get(object, key);
    if (!v) fail_msg("the record lacks \"%s\"", key);
    return v;
}

/* A model with its record and the adapters that it was made with. */
typedef struct bench { nm_model *model; nm_json record; char dora[4096], lora[4096]; } bench;

static bool open_bench(bench *b, const char *name)
{
    char path[4096], *text;
    size_t size;
    const char *data = getenv("NOMOAT_TEST_DATA");
    *b = (bench){0};
    if (!data) {
        print_message("skipped: NOMOAT_TEST_DATA is not set\n");
        return false;
    }
    snprintf(path, sizeof path, "%s/tiny/%s.gguf", data, name);
    if (nm_model_open(&b->model, path, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    const char *slash = strrchr(__FILE__, '/');         /* tests/data lies beside this file; the path is as the compiler was given it */
    int here = slash ? (int)(slash - __FILE__) : 0;
    snprintf(b->dora, sizeof b->dora, "%.*s/../data/dora/%s", here, __FILE__, name);
    snprintf(b->lora, sizeof b->lora, "%.*s/../data/adapter/%s", here, __FILE__, name);
    snprintf(path, sizeof path, "%.*s/../data/dora/%s.json", here, __FILE__, name);
    if (nm_file_read(path, 1 << 24, &text, &size) != NM_OK || nm_json_parse(&b->record, text, size) != NM_OK) fail_msg("%s", nm_error_text());
    nm_free(text);
    return true;
}

static void close_bench(bench *b)
{
    nm_json_free(&b->record);
    nm_model_close(&b->model);
}

static int32_t *read_ids(const nm_json *list, int32_t *count)
{
    int32_t *ids = calloc(list->array.count, sizeof *ids);
    *count = (int32_t)list->array.count;
    for (int32_t i = 0; i < *count; i++) ids[i] = (int32_t)list->array.items[i].integer;
    return ids;
}

static nm_adapter *open_adapter(const bench *b, const char *path)
{
    nm_adapter *a;
    if (nm_adapter_open(&a, b->model, path, false) != NM_OK) fail_msg("%s", nm_error_text());
    return a;
}

/* ---- Running ------------------------------------------------------------------------------------------------------------------------------ */

static nm_err keep(void *arg, int32_t index, const float *logits, int32_t n_vocab)
{
    (void)index;
    memcpy(arg, logits, (size_t)n_vocab * sizeof *logits);
    return NM_OK;
}

static void last_logits(const bench *b, const nm_stack *stack, nm_compute compute, const int32_t *ids, int32_t count, float *out)
{
    nm_session *s = NULL;
    nm_runner *r = NULL;
    nm_session_options o = {.context = 64, .compute = compute, .kv = compute == NM_COMPUTE_F32 ? NM_KV_F32 : NM_KV_F16, .stack = stack};
    if (nm_session_open(&s, b->model, &o) != NM_OK || nm_runner_open(&r, b->model, &(nm_runner_options){.compute = compute, .max_rows = 7}) != NM_OK)
        fail_msg("%s", nm_error_text());
    nm_item it = {.session = s, .tokens = ids, .count = count, .want = NM_WANT_LAST, .on_logits = keep, .arg = out};
    if (nm_run(r, &it, 1, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    nm_runner_close(&r);
    nm_session_close(&s);
}

static double check_case(const bench *b, const nm_json *c, const nm_adapter *dora, const nm_adapter *lora, const int32_t *ids, int32_t count)
{
    const nm_json *given = item(c, "stack"), *want = item(c, "logits");
    const nm_adapter *adapters[4];
    float scales[4], *got = calloc(want->array.count, sizeof *got);
    nm_stack *stack;
    size_t n = given->array.count;
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        adapters[i] = given->array.items[i].array.items[0].string.bytes[0] == 'd' ? dora : lora;
        scales[i] = (float)number(&given->array.items[i].array.items[1]);
    }
    if (nm_stack_open(&stack, b->model, adapters, scales, n) != NM_OK) fail_msg("%s", nm_error_text());
    last_logits(b, stack, NM_COMPUTE_F32, ids, count, got);
    for (size_t i = 0; i < want->array.count; i++) worst = fmax(worst, fabs(got[i] - number(&want->array.items[i])));
    nm_stack_close(&stack);
    free(got);
    return worst;
}

static void test_running(void **state)
{
    bench b;
    int32_t count;
    if (!open_bench(&b, *state)) skip();
    nm_adapter *dora = open_adapter(&b, b.dora), *lora = open_adapter(&b, b.lora);
    int32_t *ids = read_ids(item(&b.record, "ids"), &count);
    const nm_json *cases = item(&b.record, "cases");
    for (size_t i = 0; i < cases->array.count; i++) {
        double worst = check_case(&b, &cases->array.items[i], dora, lora, ids, count);
        print_message("  %s, stack %zu: worst logit off by %.1e\n", (const char *)*state, i, worst);
        assert_true(worst <= LOGIT_BOUND);
    }
    free(ids);
    nm_adapter_close(&dora);
    nm_adapter_close(&lora);
    close_bench(&b);
}

/* Scale 0 is the base, to the bit, and any number of threads and kernels give the same. */
static void test_running_bits(void **state)
{
    bench b;
    int32_t count;
    nm_stack *none, *half;
    if (!open_bench(&b, *state)) skip();
    nm_adapter *dora = open_adapter(&b, b.dora);
    int32_t *ids = read_ids(item(&b.record, "ids"), &count);
    size_t bytes = (size_t)nm_model_describe(b.model)->n_vocab * sizeof(float);
    float *want = malloc(bytes), *got = malloc(bytes);
    const nm_adapter *list[] = {dora};
    assert_int_equal(nm_stack_open(&none, b.model, list, (float[]){0}, 1), NM_OK);
    assert_int_equal(nm_stack_open(&half, b.model, list, (float[]){0.5f}, 1), NM_OK);
    for (int compute = 0; compute < 2; compute++) {
        last_logits(&b, NULL, compute ? NM_COMPUTE_F32 : NM_COMPUTE_DEFAULT, ids, count, want);
        last_logits(&b, none, compute ? NM_COMPUTE_F32 : NM_COMPUTE_DEFAULT, ids, count, got);
        assert_memory_equal(want, got, bytes);
        last_logits(&b, half, compute ? NM_COMPUTE_F32 : NM_COMPUTE_DEFAULT, ids, count, want);
        for (int threads = 1; threads <= 3; threads++) {
            nm_adapter *again = NULL;
            nm_stack *same;
            assert_int_equal(nm_set_threads(threads), NM_OK);
            assert_int_equal(nm_set_kernels(threads == 3 ? "c" : "all"), NM_OK);
            again = open_adapter(&b, b.dora);
            assert_int_equal(nm_stack_open(&same, b.model, (const nm_adapter *[]){again}, (float[]){0.5f}, 1), NM_OK);
            last_logits(&b, same, compute ? NM_COMPUTE_F32 : NM_COMPUTE_DEFAULT, ids, count, got);
            assert_memory_equal(want, got, bytes);
            nm_stack_close(&same);
            nm_adapter_close(&again);
        }
        nm_set_threads(0);
        assert_int_equal(nm_set_kernels("all"), NM_OK);
    }
    nm_stack_close(&none);
    nm_stack_close(&half);
    nm_adapter_close(&dora);
    free(want);
    free(got);
    free(ids);
    close_bench(&b);
}

/* ---- Training ----------------------------------------------------------------------------------------------------------------------------- */

static size_t read_batch(const nm_json *step, nm_sample *out, int32_t *longest)
{
    for (size_t i = 0; i < step->array.count; i++) {
        int32_t count, *ids = read_ids(&step->array.items[i], &count);
        uint8_t *mask = malloc((size_t)count);
        memset(mask, 1, (size_t)count);
        mask[0] = 0;
        out[i] = (nm_sample){.ids = ids, .mask = mask, .count = count};
        if (count > *longest) *longest = count;
    }
    return step->array.count;
}

static void free_batch(nm_sample *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free((void *)s[i].ids);
        free((void *)s[i].mask);
    }
}

/* Norms of the gradients by kind, which the step has clipped by `factor`. */
static void compare_norms(const nm_trainer *t, const nm_json *norms, double factor)
{
    static const char *const kinds[] = {"lora_A", "lora_B", "lora_magnitude_vector"};
    double sum[3] = {0};
    for (size_t i = 0; i < t->lora.maps; i++) {
        const nm_train_map *m = &t->lora.map[i];
        const float *g = t->lora.g + m->at;
        const size_t end[] = {(size_t)(m->rank * m->k), (size_t)(m->rank * (m->k + m->n)), (size_t)(m->rank * (m->k + m->n) + m->n)};
        for (size_t j = 0, kind = 0; j < end[2]; j++) {
            while (j >= end[kind]) kind++;
            sum[kind] += (double)g[j] * (double)g[j];
        }
    }
    for (int kind = 0; kind < 3; kind++) {
        double got = sqrt(sum[kind]) / factor, want = number(item(norms, kinds[kind]));
        print_message("  gradients of %s: norm %.6f, PEFT's %.6f\n", kinds[kind], got, want);
        assert_true(fabs(got / want - 1) < NORM_BOUND);
    }
}

static nm_trainer *open_trainer(const bench *b, nm_trainer_options o)
{
    nm_trainer *t;
    o.batch = MOST_SEQUENCES;
    o.max_length = 32;
    o.schedule = NM_SCHEDULE_CONSTANT;
    o.compute = NM_COMPUTE_F32;
    if (!o.steps) o.steps = 100;
    if (nm_trainer_open(&t, b->model, &o) != NM_OK) fail_msg("%s", nm_error_text());
    return t;
}

static void test_training(void **state)
{
    bench b;
    double worst_loss = 0, worst_norm = 0;
    if (!open_bench(&b, *state)) skip();
    float clip = (float)number(item(&b.record, "clip"));
    nm_trainer *t = open_trainer(&b, (nm_trainer_options){.init = b.dora, .lr = (float)number(item(&b.record, "lr")), .clip = clip,
        .weight_decay = (float)number(item(&b.record, "weight_decay"))});
    assert_true(nm_trainer_describe(t)->dora);
    const nm_json *batches = item(&b.record, "batches"), *steps = item(&b.record, "steps");
    for (size_t i = 0; i < steps->array.count; i++) {
        nm_sample batch[MOST_SEQUENCES];
        nm_train_report r;
        int32_t longest = 0;
        size_t n = read_batch(&batches->array.items[i], batch, &longest);
        if (nm_trainer_step(t, batch, n, NULL, 0, 0, &r, NULL) != NM_OK) fail_msg("%s", nm_error_text());
        free_batch(batch, n);
        if (!i) compare_norms(t, item(&b.record, "norms"), (double)nm_clip_factor(r.grad_norm, clip));
        const nm_json *want = &steps->array.items[i];
        double loss = fabs(r.loss - number(item(want, "loss"))), norm = fabs(r.grad_norm / number(item(want, "grad_norm")) - 1);
        if (loss > LOSS_BOUND || norm > (i < EXACT_STEPS ? NORM_BOUND : LATER_NORM_BOUND))
            fail_msg("step %zu: loss %.6f, norm %.6f; recorded %.6f, %.6f", i + 1, r.loss, r.grad_norm, number(item(want, "loss")), number(item(want, "grad_norm")));
        worst_loss = fmax(worst_loss, loss);
        worst_norm = fmax(worst_norm, norm);
    }
    print_message("  %s, %zu steps: loss off by at most %.1e, gradient norm by %.1e of itself\n", (const char *)*state, steps->array.count, worst_loss, worst_norm);
    nm_trainer_close(&t);
    close_bench(&b);
}

/* A new adapter stretches nothing, to the bit: its magnitudes are the rows' lengths. */
static void test_start(void **state)
{
    bench b;
    if (!open_bench(&b, *state)) skip();
    nm_trainer *t = open_trainer(&b, (nm_trainer_options){.dora = true, .rank = 4, .lr = 1e-3f, .weight_decay = -1});
    for (size_t i = 0; i < t->lora.maps; i++)
        for (int64_t n = 0; n < t->lora.map[i].n; n++) assert_true(t->lora.stretch[t->lora.map[i].row + (size_t)n] == 1);
    assert_int_equal(t->lora.numbers, nm_trainer_describe(t)->parameters);
    nm_trainer_close(&t);
    close_bench(&b);
}

/* ---- Gradients ----------------------------------------------------------------------------------------------------------------------------- */

typedef struct walk { bench b; nm_trainer *t; nm_adapter *below[2]; nm_stack *stack; int32_t *ids, count; float *weight; } walk;

/* Trains the recorded adapter on a stack of DoRA, LoRA and DoRA again. */
static bool open_walk(walk *w, const char *name)
{
    *w = (walk){0};
    if (!open_bench(&w->b, name)) return false;
    w->below[0] = open_adapter(&w->b, w->b.dora);
    w->below[1] = open_adapter(&w->b, w->b.lora);
    if (nm_stack_open(&w->stack, w->b.model, (const nm_adapter *[]){w->below[0], w->below[1], w->below[0]}, (float[]){0.7f, 0.3f, -0.4f}, 3) != NM_OK)
        fail_msg("%s", nm_error_text());
    w->t = open_trainer(&w->b, (nm_trainer_options){.init = w->b.dora, .lr = 1e-3f, .below = w->stack, .weight_decay = -1});
    w->ids = read_ids(item(&w->b.record, "ids"), &w->count);
    w->weight = calloc((size_t)w->count, sizeof *w->weight);
    for (int32_t i = 0; i < w->count; i++) w->weight[i] = 1;
    return true;
}

static void close_walk(walk *w)
{
    nm_trainer_close(&w->t);
    nm_stack_close(&w->stack);
    nm_adapter_close(&w->below[0]);
    nm_adapter_close(&w->below[1]);
    free(w->ids);
    free(w->weight);
    close_bench(&w->b);
}

static double run_passes(walk *w, nm_remake remake, int32_t at_once)
{
    nm_pass *p;
    double loss = 0;
    nm_train_options o = {.trained = w->t->lora.trained, .rank = w->t->lora.max_rank, .remake = remake, .stack = w->stack, .max_rows = 3 * w->count,
        .max_length = w->count, .max_sequences = 3, .max_out = 5};
    nm_sequence s[3] = {{w->ids, w->weight, w->count}, {w->ids + 3, w->weight, w->count - 9}, {w->ids + 1, w->weight, 7}};
    nm_train train = {.slot = w->t->lora.slot};
    if (nm_pass_open(&p, w->b.model, &o) != NM_OK) fail_msg("%s", nm_error_text());
    memset(w->t->lora.g, 0, w->t->lora.numbers * sizeof(float));
    for (int32_t i = 0; i < 3; i += at_once) if (nm_pass_run(p, s + i, at_once, 1, &train, &loss, NULL, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    nm_pass_close(&p);
    return loss;
}

static void test_same_bits(void **state)
{
    walk w;
    if (!open_walk(&w, *state)) skip();
    size_t bytes = w.t->lora.numbers * sizeof(float);
    run_passes(&w, NM_REMAKE_NOTHING, 3);
    float *want = malloc(bytes), *gains = malloc(w.t->lora.rows * sizeof(float));
    memcpy(want, w.t->lora.g, bytes);
    memcpy(gains, w.t->lora.stretch, w.t->lora.rows * sizeof(float));
    for (int remake = 0; remake <= NM_REMAKE_LAYERS; remake++)
        for (int32_t at_once = 1; at_once <= 3; at_once += 2)
            for (int threads = 1; threads <= 2; threads++) {
                assert_int_equal(nm_set_threads(threads), NM_OK);
                run_passes(&w, (nm_remake)remake, at_once);
                if (memcmp(want, w.t->lora.g, bytes)) fail_msg("%s: gradients differ: remake %d, %d at once, %d threads", (const char *)*state, remake, (int)at_once, threads);
            }
    nm_set_threads(0);
    assert_int_equal(nm_set_kernels("c"), NM_OK);
    assert_int_equal(nm_train_lora_derive(&w.t->lora), NM_OK);
    assert_memory_equal(gains, w.t->lora.stretch, w.t->lora.rows * sizeof(float));
    run_passes(&w, NM_REMAKE_ROWS, 3);
    assert_memory_equal(want, w.t->lora.g, bytes);
    assert_int_equal(nm_set_kernels("all"), NM_OK);
    free(want);
    free(gains);
    close_walk(&w);
}

/* The loss at p + step x direction, the lengths held. */
static double loss_at(walk *w, const float *p, const float *length, double step)
{
    nm_train_lora *l = &w->t->lora;
    for (size_t j = 0; j < l->numbers; j++) l->p[j] = p[j] + (float)(step * (nm_rng_unit(5, 1, j) - 0.5));
    assert_int_equal(nm_train_lora_derive(l), NM_OK);
    for (size_t i = 0; i < l->maps; i++)
        for (int64_t n = 0; n < l->map[i].n; n++) l->stretch[l->map[i].row + (size_t)n] = nm_train_lora_magnitudes(l, &l->map[i])[n] / length[l->map[i].row + (size_t)n];
    return run_passes(w, NM_REMAKE_LAYERS, 3);
}

static void test_slope(void **state)
{
    walk w;
    double slope = 0, e = 1e-3;
    if (!open_walk(&w, *state)) skip();
    nm_train_lora *l = &w.t->lora;
    float *p = malloc(l->numbers * sizeof *p), *length = calloc(l->rows, sizeof *length);
    memcpy(p, l->p, l->numbers * sizeof *p);
    for (size_t i = 0; i < l->maps; i++)
        for (int64_t n = 0; n < l->map[i].n; n++) length[l->map[i].row + (size_t)n] = nm_train_lora_magnitudes(l, &l->map[i])[n] / l->stretch[l->map[i].row + (size_t)n];
    run_passes(&w, NM_REMAKE_ROWS, 3);
    for (size_t j = 0; j < l->numbers; j++) slope += (double)l->g[j] * (nm_rng_unit(5, 1, j) - 0.5);
    double up = loss_at(&w, p, length, e), down = loss_at(&w, p, length, -e), seen = (up - down) / (2 * e);
    print_message("  %s: slope %.5f, seen %.5f\n", (const char *)*state, slope, seen);
    assert_true(fabs(slope - seen) < 5e-3 * (1 + fabs(seen)));
    free(p);
    free(length);
    close_walk(&w);
}

/* ---- Lengths ---------------------------------------------------------------------------------------------------------------------------------- */

enum { N = 40, K = 300, RANK = 3 };

/* Sums, lengths from them and lengths found directly against plain doubles; a row that W and s B A nearly cancel is told. */
static void test_lengths(void **state)
{
    (void)state;
    static float w[N * K], a[RANK * K], b[N * RANK], direct[N], sums_length[N];
    static double sums[3 * N];
    const float scale = 0.7f;
    for (size_t i = 0; i < N * K; i++) w[i] = (float)nm_rng_unit(1, 1, i) - 0.5f;
    for (size_t i = 0; i < RANK * K; i++) a[i] = (float)nm_rng_unit(1, 2, i) - 0.5f;
    for (size_t i = 0; i < N * RANK; i++) b[i] = (float)nm_rng_unit(1, 3, i) - 0.5f;
    for (int k = 0; k < K; k++) for (int r = 0; r < RANK; r++) w[5 * K + k] = (r ? w[5 * K + k] : 0) - 0.99f * scale * b[5 * RANK + r] * a[r * K + k];
    nm_panels panels = {.type = nm_type_of(NM_F32), .n = N, .k = K, .panels = (N + NM_PANEL - 1) / NM_PANEL, .rows = (const uint8_t *)w, .row_bytes = K * sizeof *w};
    nm_dora_map map = {.w = &panels, .rank = RANK, .a = a, .b = b};
    nm_dora_sums s = {sums, sums + N, sums + 2 * N};
    size_t bytes = nm_dora_scratch(&panels);
    void *scratch = nm_alloc_aligned(bytes);
    nm_dora_sum(&map, &s, scratch);
    nm_dora_lengths(&map, scale, direct, scratch);
    assert_int_equal(nm_dora_lengths_of(&s, scale, N, sums_length), 1);
    for (int n = 0; n < N; n++) {
        double square = 0;
        for (int k = 0; k < K; k++) {
            double v = 0;
            for (int r = 0; r < RANK; r++) v += (double)b[n * RANK + r] * (double)a[r * K + k];
            v = (double)w[n * K + k] + (double)scale * v;
            square += v * v;
        }
        assert_true(fabs(direct[n] / sqrt(square) - 1) < 2e-5);
        if (n == 5) assert_true(sums_length[n] == -1);
        else assert_true(fabs(sums_length[n] / sqrt(square) - 1) < 1e-6);
    }
    nm_free_aligned(scratch, bytes);
}

/* ---- Time ------------------------------------------------------------------------------------------------------------------------------------- */

static void test_switching(void **state)
{
    (void)state;
    char path[4096];
    const char *models = getenv("NOMOAT_TEST_MODELS");
    bench b = {0};
    nm_adapter *a;
    double best = 1e9;
    snprintf(path, sizeof path, "%s/smollm2-135m-instruct-q4_1.gguf", models ? models : "");
    if (!models || access(path, R_OK)) {
        print_message("skipped: SmolLM2 in NOMOAT_TEST_MODELS is missing\n");
        skip();
    }
    if (nm_model_open(&b.model, path, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    uint64_t from = nm_clock_ns();
    nm_trainer *t = open_trainer(&b, (nm_trainer_options){.dora = true, .rank = 16, .lr = 1e-3f, .weight_decay = -1});
    uint64_t opened = nm_clock_ns();
    assert_int_equal(nm_train_lora_derive(&t->lora), NM_OK);
    uint64_t derived = nm_clock_ns();
    if (nm_trainer_adapter(t, &a) != NM_OK) fail_msg("%s", nm_error_text());
    uint64_t made = nm_clock_ns();
    for (int i = 0; i < 20; i++) {
        nm_stack *stack;
        uint64_t start = nm_clock_ns();
        if (nm_stack_open(&stack, b.model, (const nm_adapter *[]){a}, (float[]){0.5f}, 1) != NM_OK) fail_msg("%s", nm_error_text());
        best = fmin(best, (double)(nm_clock_ns() - start) * 1e-6);
        nm_stack_close(&stack);
    }
    print_message("  trainer %.0f ms, gains of a step %.0f ms, adapter %.0f ms, a new stack %.3f ms\n", (double)(opened - from) * 1e-6, (double)(derived - opened) * 1e-6,
        (double)(made - derived) * 1e-6, best);
    assert_true(best < 1);
    nm_adapter_close(&a);
    nm_trainer_close(&t);
    nm_model_close(&b.model);
}

int main(void)
{
    static const struct { const char *title; void (*run)(void **); } kinds[] = {{"running", test_running}, {"bits of running", test_running_bits},
        {"training", test_training}, {"start", test_start}, {"same bits", test_same_bits}, {"slope", test_slope}};
    static const char *const names[] = {"llama3", "gpt2"};
    enum { KINDS = sizeof kinds / sizeof *kinds, NAMES = sizeof names / sizeof *names };
    static char title[KINDS * NAMES][64];
    struct CMUnitTest tests[KINDS * NAMES + 2];
    for (size_t k = 0, n = 0; k < KINDS; k++)
        for (size_t i = 0; i < NAMES; i++, n++) {
            snprintf(title[n], sizeof title[n], "%s: %s", kinds[k].title, names[i]);
            tests[n] = (struct CMUnitTest){title[n], kinds[k].run, NULL, NULL, (void *)(uintptr_t)names[i]};
        }
    tests[KINDS * NAMES] = (struct CMUnitTest)cmocka_unit_test(test_lengths);
    tests[KINDS * NAMES + 1] = (struct CMUnitTest)cmocka_unit_test(test_switching);
    return _cmocka_run_group_tests("dora", tests, sizeof tests / sizeof *tests, NULL, NULL);
}
