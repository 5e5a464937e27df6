/* Each option of training through the public trainer: against 20 steps of PEFT and PyTorch (tests/make_train_options.py), the same bits for any number of
 * threads and with less memory, and after a checkpoint. On the tiny Qwen3 of NOMOAT_TEST_DATA. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "bf16.h"
#include "format/json.h"
#include "instrumented.h"
#include "os/file.h"
#include "train/trainer.h"

static const double LOSS_BOUND = 1e-3, NORM_BOUND = 1e-2;
/* Of the loss, in bf16. SmolLM2 keeps within 1 % (test_train.c); a tiny random model under a high rate does in most runs, and Adafactor's, which makes all
 * numbers' steps alike and so their rounding large, within this. */
static const double BF16_BOUND = 3e-2;
enum { MOST = 8, LENGTH = 32, STEPS = 20, TAKEN = NM_INSTRUMENTED ? 2 : STEPS, ANCHOR = 12 };

typedef struct step { nm_sample sample[MOST]; size_t count; } step;
static nm_json record;
static nm_model *model;
static step *batch;             /* [STEPS] */

/* ---- The record ---------------------------------------------------------------------------------------------------------------------------------- */

static double number(const nm_json *object, const char *key, double otherwise)
{
    const nm_json *v = nm_json_get(object, key);
    return !v ? otherwise : v->kind == NM_JSON_INT ? (double)v->integer : v->real;
}

static const char *text_of(const nm_json *object, const char *key)
{
    const nm_json *v = nm_json_get(object, key);
    return v ? v->string.bytes : NULL;
}

static nm_sample read_sample(const nm_json *s)
{
    const nm_json *ids = nm_json_get(s, "ids"), *mask = nm_json_get(s, "mask");
    int32_t n = (int32_t)ids->array.count, *id = nm_calloc((size_t)n, sizeof *id);
    uint8_t *m = nm_calloc((size_t)n, 1);
    for (int32_t i = 0; i < n; i++) {
        id[i] = (int32_t)ids->array.items[i].integer;
        m[i] = (uint8_t)mask->array.items[i].integer;
    }
    return (nm_sample){.ids = id, .mask = m, .count = n};
}

static bool open_all(void)
{
    char path[4096], file[4096], *text;
    size_t size;
    const char *data = getenv("NOMOAT_TEST_DATA");
    if (model) return true;
    snprintf(file, sizeof file, "%s/tiny/qwen3.gguf", data ? data : "");
    if (!data || access(file, R_OK) != 0) return false;
    const char *slash = strrchr(__FILE__, '/');     /* tests/data lies beside this file; the path is as the compiler was given it */
    snprintf(path, sizeof path, "%.*s/../data/train/options.json", (int)(slash - __FILE__), __FILE__);
    if (nm_file_read(path, 1 << 24, &text, &size) != NM_OK) fail_msg("%s", nm_error_text());
    if (nm_json_parse(&record, text, size) != NM_OK) fail_msg("%s", nm_error_text());
    nm_free(text);
    const nm_json *steps = nm_json_get(&record, "batches");
    assert_int_equal(steps->array.count, STEPS);
    batch = nm_calloc(STEPS, sizeof *batch);
    for (size_t i = 0; i < STEPS; i++)
        for (size_t k = 0; k < steps->array.items[i].array.count; k++) batch[i].sample[batch[i].count++] = read_sample(&steps->array.items[i].array.items[k]);
    if (nm_model_open(&model, file, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    return true;
}

static int close_all(void **state)
{
    for (size_t i = 0; batch && i < STEPS; i++)
        for (size_t k = 0; k < batch[i].count; k++) {
            nm_free((void *)batch[i].sample[k].ids);
            nm_free((void *)batch[i].sample[k].mask);
        }
    nm_free(batch);
    nm_json_free(&record);
    nm_model_close(&model);
    return 0;
}

static void need_data(void)
{
    if (open_all()) return;
    print_message("skipped: NOMOAT_TEST_DATA is missing\n");
    skip();
}

static nm_start start_of(const nm_json *run)
{
    const char *word = text_of(run, "start");
    return !word ? NM_START_UNIFORM : !strcmp(word, "pissa") ? NM_START_PISSA : NM_START_GAUSSIAN;
}

/* compute DEFAULT: bf16, on every machine. */
static nm_trainer *open_in(nm_compute compute, const nm_json *run, uint64_t memory)
{
    nm_trainer *t;
    const char *optimizer = text_of(run, "optimizer");
    nm_trainer_options o = {.compute = compute, .rank = (int32_t)number(run, "rank", 0), .alpha = (float)number(run, "alpha", 0), .start = start_of(run),
        .dropout = (float)number(run, "dropout", 0), .optimizer = optimizer, .lr = (float)number(run, "lr", 0), .lr_ratio = (float)number(run, "lr_ratio", 1),
        .weight_decay = (float)number(run, "weight_decay", -1), .clip = (float)number(run, "clip", 0), .schedule = NM_SCHEDULE_CONSTANT, .steps = STEPS,
        .seed = (uint64_t)number(run, "seed", 0), .max_length = LENGTH, .anchor = ANCHOR, .batch = MOST, .memory = memory};
    if (compute == NM_COMPUTE_DEFAULT) bf16_pretend();
    if (nm_trainer_open(&t, model, &o) != NM_OK) fail_msg("%s", nm_error_text());
    assert_string_equal(t->info.arithmetic, compute == NM_COMPUTE_DEFAULT ? nm_kernels_get()->bf16 : "f32");
    return t;
}

static nm_trainer *open_trainer(const nm_json *run, uint64_t memory) { return open_in(NM_COMPUTE_F32, run, memory); }

/* ---- Against the record ---------------------------------------------------------------------------------------------------------------------------- */

/* Where it would be done in plain C, bf16 is tried in one run alone. */
static bool tries_bf16(size_t run)
{
    bf16_pretend();
    return run == 0 || !(bf16_is_slow() || NM_INSTRUMENTED);
}

static void compare(nm_compute compute, const nm_json *run)
{
    const char *name = text_of(run, "name");
    nm_trainer *t = open_in(compute, run, 0);
    const nm_json *steps = nm_json_get(run, "steps");
    double worst_loss = 0, worst_norm = 0, worst_part = 0;
    assert_int_equal(steps->array.count, STEPS);
    for (size_t i = 0; i < TAKEN; i++) {
        nm_train_report r;
        if (nm_trainer_step(t, batch[i].sample, batch[i].count, NULL, 0, 0, &r, NULL) != NM_OK) fail_msg("%s: %s", name, nm_error_text());
        double loss = number(&steps->array.items[i], "loss", NAN);
        worst_loss = fmax(worst_loss, fabs(r.loss - loss));
        worst_part = fmax(worst_part, fabs(r.loss / loss - 1));
        worst_norm = fmax(worst_norm, fabs(r.grad_norm / number(&steps->array.items[i], "grad_norm", NAN) - 1));
    }
    print_message("%-10s %s: loss off by at most %.1e, gradient norm by %.1e of itself\n", name, t->info.arithmetic, worst_loss, worst_norm);
    if (compute == NM_COMPUTE_DEFAULT) {
        if (!(worst_part <= BF16_BOUND)) fail_msg("%s: a loss in bf16 is off by %.2e of itself", name, worst_part);
    } else if (!(worst_loss <= LOSS_BOUND)) fail_msg("%s: a loss is off by %.2e", name, worst_loss);
    else if (!(worst_norm <= NORM_BOUND)) fail_msg("%s: a gradient's norm is off by %.2e", name, worst_norm);
    nm_trainer_close(&t);
}

static void test_record(void **state)
{
    need_data();
    const nm_json *runs = nm_json_get(&record, "runs");
    for (size_t i = 0; i < runs->array.count; i++) {
        compare(NM_COMPUTE_F32, &runs->array.items[i]);
        if (tries_bf16(i)) compare(NM_COMPUTE_DEFAULT, &runs->array.items[i]);
    }
}

/* ---- The same bits ------------------------------------------------------------------------------------------------------------------------------------ */

static void take_steps(nm_trainer *t, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++) {
        nm_train_report r;
        nm_sample anchor = {.ids = batch[0].sample[0].ids, .count = batch[0].sample[0].count < ANCHOR ? batch[0].sample[0].count : ANCHOR};
        if (nm_trainer_step(t, batch[i].sample, batch[i].count, &anchor, 1, 0.5f, &r, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    }
}

static void expect_same(const nm_trainer *a, const nm_trainer *b, const char *name, const char *how)
{
    assert_int_equal(a->lora.numbers, b->lora.numbers);
    if (memcmp(a->lora.p, b->lora.p, a->lora.numbers * sizeof(float)) || memcmp(a->lora.state, b->lora.state, a->lora.state_bytes)) fail_msg("%s: other bits %s", name, how);
}

/* Least memory that a run takes: what it says it lacks goes up in steps until it opens. */
static nm_trainer *open_small(const nm_trainer *whole)
{
    uint64_t fixed = nm_trainer_bytes(whole), full = whole->info.bytes;
    nm_trainer *t = NULL;
    for (uint64_t part = 1; !t && part < 32; part++) {
        nm_trainer_options o = whole->options;
        o.memory = fixed + (full - fixed) * part / 32;
        if (nm_trainer_open(&t, model, &o) != NM_OK) t = NULL;
    }
    assert_non_null(t);
    assert_true(t->info.pass_rows < whole->info.pass_rows);
    return t;
}

static void resume_into(nm_trainer *t, const char *path)
{
    char *note;
    if (nm_trainer_resume(t, path, &note) != NM_OK) fail_msg("%s", nm_error_text());
    nm_free(note);
}

static void same_bits(nm_compute compute, const nm_json *run, const char *path)
{
    enum { HALF = NM_INSTRUMENTED ? 1 : 2, ALL = 2 * HALF };
    const char *name = text_of(run, "name");
    bool exact = compute == NM_COMPUTE_F32 || !strcmp(nm_kernels_get()->bf16, "bf16");
    nm_set_threads(2);
    nm_trainer *a = open_in(compute, run, 0), *c = open_in(compute, run, 0), *other = open_in(NM_COMPUTE_F32 - compute, run, 0);
    take_steps(a, 0, HALF);
    if (nm_trainer_checkpoint(a, path, "note") != NM_OK) fail_msg("%s", nm_error_text());
    take_steps(a, HALF, ALL);
    nm_set_threads(1);
    nm_trainer *b = open_in(compute, run, 0), *d = open_small(a);
    take_steps(b, 0, ALL);
    expect_same(a, b, name, "on one thread");
    take_steps(d, 0, ALL);
    expect_same(a, d, name, "with less memory");
    if (!NM_INSTRUMENTED) assert_int_equal(nm_set_kernels("c"), NM_OK);
    nm_trainer *e = open_in(compute, run, 0);
    take_steps(e, 0, ALL);
    assert_int_equal(nm_set_kernels("all"), NM_OK);
    if (exact) expect_same(a, e, name, "in plain C");
    char *note;
    assert_int_equal(nm_trainer_resume(other, path, &note), NM_REFUSED);
    resume_into(c, path);
    take_steps(c, HALF, ALL);
    expect_same(a, c, name, "after a checkpoint");
    nm_trainer_close(&a);
    nm_trainer_close(&b);
    nm_trainer_close(&c);
    nm_trainer_close(&d);
    nm_trainer_close(&e);
    nm_trainer_close(&other);
}

static void test_bits(void **state)
{
    need_data();
    const nm_json *runs = nm_json_get(&record, "runs");
    char path[] = "/tmp/nomoat-options-XXXXXX";
    int handle = mkstemp(path);
    assert_true(handle >= 0);
    close(handle);
    for (size_t i = 0; i < runs->array.count; i++) {
        same_bits(NM_COMPUTE_F32, &runs->array.items[i], path);
        if (tries_bf16(i)) same_bits(NM_COMPUTE_DEFAULT, &runs->array.items[i], path);
    }
    nm_set_threads(0);
    unlink(path);
}

/* bf16 is taken where the kernels in use have it, and nobody asked for fp32. */
static void test_arithmetic(void **state)
{
    need_data();
    nm_trainer_info info;
    nm_trainer_options o = {.max_length = LENGTH, .batch = 1, .steps = 1};
    assert_int_equal(nm_set_kernels("avx2"), NM_OK);
    assert_int_equal(nm_trainer_plan(&info, model, &o), NM_OK);
    assert_string_equal(info.arithmetic, "f32");
    bf16_pretend();
    assert_int_equal(nm_trainer_plan(&info, model, &o), NM_OK);
    assert_string_equal(info.arithmetic, nm_kernels_get()->bf16);
    o.compute = NM_COMPUTE_F32;
    assert_int_equal(nm_trainer_plan(&info, model, &o), NM_OK);
    assert_string_equal(info.arithmetic, "f32");
    assert_int_equal(nm_set_kernels("all"), NM_OK);
}

/* ---- What a start is ------------------------------------------------------------------------------------------------------------------------------------ */

static const nm_json *run_named(const char *name)
{
    const nm_json *runs = nm_json_get(&record, "runs");
    for (size_t i = 0; i < runs->array.count; i++) {
        if (!strcmp(text_of(&runs->array.items[i], "name"), name)) return &runs->array.items[i];
    }
    fail_msg("no run %s", name);
    return NULL;
}

/* Too little memory is told before anything large is there, or is computed: the triplets would see that they are to stop. */
static void test_refused_before_it_is_taken(void **state)
{
    need_data();
    volatile sig_atomic_t stop = 1;
    nm_trainer *t;
    nm_trainer_info info;
    nm_trainer_options o = {.max_length = LENGTH, .batch = 1, .steps = 1, .start = NM_START_PISSA, .rank = 8, .cancel = &stop};
    assert_int_equal(nm_trainer_plan(&info, model, &o), NM_OK);
    assert_true(info.start_bytes >= info.bytes);
    assert_int_equal(nm_trainer_open(&t, model, &o), NM_INTERRUPTED);
    o.memory = info.bytes / 8;
    assert_int_equal(nm_trainer_open(&t, model, &o), NM_NO_MEMORY);
    assert_null(t);
    assert_non_null(strstr(nm_error_text(), "lower --rank"));
    o.memory = info.start_bytes;
    assert_int_equal(nm_trainer_open(&t, model, &o), NM_INTERRUPTED);
}

/* PiSSA subtracts what it begins with: before the first step the adapter, of twice the rank, changes nothing but rounding; and a mask of dropout is of its step. */
static void test_pissa_begins_at_the_model(void **state)
{
    need_data();
    nm_trainer *t = open_trainer(run_named("pissa"), 0), *plain = open_trainer(run_named("adamw"), 0);
    nm_adapter *adapter;
    nm_train_report a, b;
    if (nm_trainer_adapter(t, &adapter) != NM_OK) fail_msg("%s", nm_error_text());
    assert_int_equal(nm_adapter_describe(adapter)->max_rank, 2 * nm_trainer_describe(t)->rank);
    nm_adapter_close(&adapter);
    if (nm_trainer_step(t, batch[0].sample, batch[0].count, NULL, 0, 0, &a, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    if (nm_trainer_step(plain, batch[0].sample, batch[0].count, NULL, 0, 0, &b, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    assert_true(fabs(a.loss - b.loss) < 1e-4);
    nm_trainer_close(&t);
    nm_trainer_close(&plain);
}

/* The triplets of a matrix: W v = s u, orthonormal, and nothing larger is left. */
static void check_triplets(int64_t n, int64_t k, int64_t rank, int64_t true_rank)
{
    float *w = nm_calloc((size_t)(n * k), sizeof *w), *u = nm_calloc((size_t)(n * rank), sizeof *u), *v = nm_calloc((size_t)(k * rank), sizeof *v);
    float *s = nm_calloc((size_t)rank, sizeof *s), *left = nm_calloc((size_t)(n + k), sizeof *left), most = 0;
    for (int64_t r = 0; r < true_rank; r++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < k; j++)
                w[i * k + j] += (float)((nm_rng_unit(1, 2 * (uint64_t)r, (uint64_t)i) - 0.5) * (nm_rng_unit(1, 2 * (uint64_t)r + 1, (uint64_t)j) - 0.5));
    nm_panels p = {.type = nm_type_of(NM_F32), .n = n, .k = k, .panels = (n + NM_PANEL - 1) / NM_PANEL, .rows = (const uint8_t *)w, .row_bytes = (size_t)k * sizeof *w};
    size_t bytes = nm_triplets_bytes(&p, rank);
    void *scratch = nm_alloc_aligned(bytes);
    nm_triplets(&p, rank, scratch, u, s, v);
    for (int64_t r = 0; r < rank && r < true_rank; r++) {
        double uu = 0, vv = 0;
        for (int64_t i = 0; i < n; i++) {
            double sum = 0;
            for (int64_t j = 0; j < k; j++) sum += (double)w[i * k + j] * (double)v[j * rank + r];
            assert_true(fabs(sum - (double)s[r] * (double)u[i * rank + r]) < 1e-4 * (double)s[0]);
            uu += (double)u[i * rank + r] * (double)u[i * rank + r];
        }
        for (int64_t j = 0; j < k; j++) vv += (double)v[j * rank + r] * (double)v[j * rank + r];
        assert_true(fabs(uu - 1) < 1e-4 && fabs(vv - 1) < 1e-4 && (r == 0 || s[r] <= s[r - 1]));
    }
    for (int64_t i = 0; i < n; i++) for (int64_t j = 0; j < k; j++) for (int64_t r = 0; r < rank; r++) w[i * k + j] -= u[i * rank + r] * s[r] * v[j * rank + r];
    nm_triplets(&p, 1, scratch, left, &most, left + n);
    assert_true(most <= s[rank - 1] * 1.001f + 1e-4f * s[0]);
    nm_free_aligned(scratch, bytes);
    nm_free(w);
    nm_free(u);
    nm_free(v);
    nm_free(s);
    nm_free(left);
}

static void test_triplets(void **state)
{
    check_triplets(70, 96, 8, 60);
    check_triplets(300, 64, 8, 64);
    check_triplets(20, 50, 20, 20);     /* all of them */
    check_triplets(64, 64, 8, 3);       /* fewer than are asked for */
    check_triplets(16, 32, 4, 0);
}

static void test_state_is_small(void **state)
{
    need_data();
    nm_trainer *small = open_trainer(run_named("adamw8bit"), 0);
    size_t numbers = small->lora.numbers, bytes = small->lora.state_bytes;
    print_message("adamw8bit: %.2f bytes a number (matrices below 4,096 numbers keep 8)\n", (double)bytes / (double)numbers);
    assert_true(bytes < 8 * numbers * 3 / 4);
    nm_trainer_close(&small);
    const nm_optim *optim;
    assert_int_equal(nm_optim_find("adamw8bit", &optim), NM_OK);
    assert_true(optim->state(16, 4096) < (size_t)(16 * 4096 * 2.1));
}

/* A plan tells what opening takes, also of what PiSSA subtracts. */
static void test_plan(void **state)
{
    need_data();
    const nm_json *runs = nm_json_get(&record, "runs");
    for (size_t i = 0; i < runs->array.count; i++) {
        nm_trainer *t = open_trainer(&runs->array.items[i], 0);
        const nm_trainer_info *is = nm_trainer_describe(t);
        nm_trainer_info would;
        nm_trainer_options o = t->options;
        if (nm_trainer_plan(&would, model, &o) != NM_OK) fail_msg("%s", nm_error_text());
        assert_int_equal(would.parameters, is->parameters);
        assert_int_equal(would.pass_bytes, is->pass_bytes);
        assert_int_equal(would.bytes, is->bytes);
        nm_trainer_close(&t);
    }
}

/* An anchor none of whose tokens is chosen holds nothing. */
static void test_empty_anchor(void **state)
{
    need_data();
    nm_trainer *a = open_trainer(run_named("adamw"), 0), *b = open_trainer(run_named("adamw"), 0);
    const uint8_t mask[ANCHOR] = {1};       /* the first token is never predicted */
    nm_sample anchor = {.ids = batch[0].sample[0].ids, .mask = mask, .count = batch[0].sample[0].count < ANCHOR ? batch[0].sample[0].count : ANCHOR};
    nm_train_report r;
    if (nm_trainer_step(a, batch[0].sample, batch[0].count, &anchor, 1, 0.5f, &r, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    assert_true(r.anchor == 0);
    if (nm_trainer_step(b, batch[0].sample, batch[0].count, NULL, 0, 0, &r, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    expect_same(a, b, "adamw", "with an empty anchor");
    nm_trainer_close(&a);
    nm_trainer_close(&b);
}

/* An anchor of several sequences: the mean over all their tokens, and the same bits whether they share a pass or not. More than was said is refused. */
static void test_anchors(void **state)
{
    enum { FIRST = 3, SECOND = 5 };
    need_data();
    nm_trainer *t = open_trainer(run_named("adamw"), 0), *apart;
    nm_trainer_options o = t->options;
    o.no_packing = true;
    assert_int_equal(nm_trainer_open(&apart, model, &o), NM_OK);
    take_steps(t, 0, 2);
    take_steps(apart, 0, 2);
    const nm_sample *s = batch[2].sample, anchor[2] = {{.ids = s[0].ids, .count = FIRST}, {.ids = s[1].ids, .count = SECOND}};
    assert_true(batch[2].count > 1 && s[0].count >= FIRST && s[1].count >= SECOND);
    double kl[3];
    for (size_t i = 0; i < 3; i++) {        /* each alone and both together, at the same weights */
        nm_trainer *one;
        nm_train_report r;
        assert_int_equal(nm_trainer_open(&one, model, &t->options), NM_OK);
        take_steps(one, 0, 2);
        assert_int_equal(nm_trainer_step(one, s, batch[2].count, anchor + i % 2, i < 2 ? 1 : 2, 0.5f, &r, NULL), NM_OK);
        kl[i] = r.anchor;
        nm_trainer_close(&one);
    }
    assert_true(kl[0] > 0 && kl[1] > 0);
    assert_true(fabs(kl[2] - ((FIRST - 1) * kl[0] + (SECOND - 1) * kl[1]) / (FIRST + SECOND - 2)) < 1e-6 * kl[2]);
    nm_train_report a, b;
    assert_int_equal(nm_trainer_step(t, s, batch[2].count, anchor, 2, 0.5f, &a, NULL), NM_OK);
    assert_int_equal(nm_trainer_step(apart, s, batch[2].count, anchor, 2, 0.5f, &b, NULL), NM_OK);
    assert_true(a.anchor == kl[2] && b.anchor == kl[2]);
    expect_same(t, apart, "adamw", "with anchors in passes of their own");
    const nm_sample many[2] = {{.ids = s[0].ids, .count = ANCHOR}, {.ids = s[0].ids, .count = 2}};
    assert_int_equal(nm_trainer_step(t, s, batch[2].count, many, 2, 0.5f, &a, NULL), NM_USAGE);
    nm_trainer_close(&t);
    nm_trainer_close(&apart);
}

/* Sequences with common beginnings, of which each is computed once, end in the bits that they give in passes of their own: the second leaves the first
 * early, the third is the first again, the fourth leaves the second late, and the last has nothing in common with them. */
static void begin_alike(bool drops, bool small)
{
    enum { SAMPLES = 5, LONG = 12, EARLY = 5, LATE = 9 };
    nm_trainer *t = open_trainer(run_named(drops ? "dropout" : "adamw"), 0), *apart;
    nm_trainer_options o = t->options;
    o.no_packing = true;
    assert_int_equal(nm_trainer_open(&apart, model, &o), NM_OK);
    if (small) {
        nm_trainer *whole = t;
        t = open_small(whole);
        nm_trainer_close(&whole);
    }
    int32_t ids[SAMPLES][LONG];
    uint8_t mask[LONG] = {0};
    nm_sample samples[SAMPLES];
    memset(mask + EARLY - 2, 1, LONG - EARLY + 2);      /* also of rows that are shared */
    for (int i = 0; i < SAMPLES; i++) {
        for (int k = 0; k < LONG; k++) ids[i][k] = i == 4 ? 90 + k : i == 0 || i == 2 || k < EARLY ? 10 + k : i == 1 || k < LATE ? 40 + k : 70 + k;
        samples[i] = (nm_sample){.ids = ids[i], .mask = mask, .count = i == 2 ? LONG - 1 : LONG};
    }
    const nm_sample anchor[2] = {{.ids = ids[0], .mask = mask, .count = 8}, {.ids = ids[1], .mask = mask, .count = 8}};
    for (int i = 0; i < 3; i++) {
        nm_train_report a, b;
        assert_int_equal(nm_trainer_step(t, samples, SAMPLES, anchor, 2, 0.5f, &a, NULL), NM_OK);
        assert_int_equal(nm_trainer_step(apart, samples, SAMPLES, anchor, 2, 0.5f, &b, NULL), NM_OK);
        assert_true(a.loss == b.loss && a.anchor == b.anchor && a.grad_norm == b.grad_norm);
    }
    expect_same(t, apart, drops ? "dropout" : "adamw", "with common beginnings");
    nm_trainer_close(&t);
    nm_trainer_close(&apart);
}

static void test_beginnings(void **state)
{
    need_data();
    begin_alike(false, false);
    begin_alike(false, true);
    begin_alike(true, false);
}

/* Each sequence of the anchor has a dropout mask of its own, which does not hang on the pass that it is in; masks choose what is held. */
static void test_anchors_drop_out(void **state)
{
    enum { LONG = 4 };
    need_data();
    nm_trainer *t = open_trainer(run_named("dropout"), 0), *apart;
    nm_trainer_options o = t->options;
    o.no_packing = true;
    assert_int_equal(nm_trainer_open(&apart, model, &o), NM_OK);
    const nm_sample *s = batch[0].sample;
    const uint8_t mask[LONG] = {0, 0, 1, 1};
    const nm_sample anchor[3] = {{.ids = s[0].ids, .count = LONG}, {.ids = s[1].ids, .mask = mask, .count = LONG}, {.ids = s[0].ids, .mask = mask, .count = LONG}};
    assert_true(batch[0].count > 1 && s[0].count >= LONG && s[1].count >= LONG);
    for (int i = 0; i < 3; i++) {
        nm_train_report a, b;
        assert_int_equal(nm_trainer_step(t, s, batch[0].count, anchor, 3, 0.5f, &a, NULL), NM_OK);
        assert_int_equal(nm_trainer_step(apart, s, batch[0].count, anchor, 3, 0.5f, &b, NULL), NM_OK);
        assert_true(a.anchor == b.anchor && a.grad_norm == b.grad_norm);
    }
    expect_same(t, apart, "dropout", "with anchors in passes of their own");
    nm_trainer_close(&t);
    nm_trainer_close(&apart);
}

/* The rate gives way by (ease / KL)^2, KL being the anchor's running geometric mean; a checkpoint keeps that mean. */
static void test_ease(void **state)
{
    enum { HALF = 3, ALL = 6 };
    need_data();
    char path[] = "/tmp/nomoat-ease-XXXXXX", *note;
    int handle = mkstemp(path);
    assert_true(handle >= 0);
    close(handle);
    nm_trainer *plain = open_trainer(run_named("adamw"), 0), *a, *b;
    nm_trainer_options o = plain->options;
    o.ease = 1.2e-3f;
    assert_int_equal(nm_trainer_open(&a, model, &o), NM_OK);
    assert_int_equal(nm_trainer_open(&b, model, &o), NM_OK);
    double slip = log(1e-3);
    bool gave = false;
    for (size_t i = 0; i < ALL; i++) {
        nm_train_report r;
        nm_sample anchor = {.ids = batch[0].sample[0].ids, .count = batch[0].sample[0].count < ANCHOR ? batch[0].sample[0].count : ANCHOR};
        if (nm_trainer_step(a, batch[i].sample, batch[i].count, &anchor, 1, 0.5f, &r, NULL) != NM_OK) fail_msg("%s", nm_error_text());
        slip = 0.8 * slip + 0.2 * log(fmax(r.anchor, 1e-3));
        double share = fmin((double)o.ease / exp(slip), 1);
        assert_true(fabs((double)r.lr / ((double)o.lr * share * share) - 1) < 1e-6);
        gave = gave || share < 1;
        if (i + 1 == HALF && nm_trainer_checkpoint(a, path, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    }
    assert_true(gave);
    resume_into(b, path);
    take_steps(b, HALF, ALL);
    expect_same(a, b, "ease", "after a checkpoint");
    assert_int_equal(nm_trainer_resume(plain, path, &note), NM_REFUSED);
    nm_trainer_close(&plain);
    nm_trainer_close(&a);
    nm_trainer_close(&b);
    unlink(path);
}

/* A tied head is trained and saved as the head, and training goes on from there. */
static void test_tied_head(void **state)
{
    need_data();
    char path[4096], folder[] = "/tmp/nomoat-tied-XXXXXX";
    nm_model *tied;
    nm_trainer *t;
    snprintf(path, sizeof path, "%s/tiny/llama_tied.gguf", getenv("NOMOAT_TEST_DATA"));
    if (nm_model_open(&tied, path, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    assert_non_null(mkdtemp(folder));
    nm_trainer_options o = {.rank = 2, .targets = "lm_head,q_proj", .max_length = LENGTH, .batch = 1, .steps = 1};
    if (nm_trainer_open(&t, tied, &o) != NM_OK) fail_msg("%s", nm_error_text());
    const int32_t maps = nm_trainer_describe(t)->maps;
    if (nm_trainer_save(t, folder, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    nm_trainer_close(&t);
    o.targets = NULL;
    o.init = folder;
    if (nm_trainer_open(&t, tied, &o) != NM_OK) fail_msg("%s", nm_error_text());
    assert_int_equal(nm_trainer_describe(t)->maps, maps);
    nm_trainer_close(&t);
    nm_model_close(&tied);
    const char *const files[] = {"README.md", "nomoat.json", "adapter_config.json", "adapter_model.safetensors"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        assert_int_equal(unlink(path), 0);
    }
    rmdir(folder);
}

static void test_faults(void **state)
{
    need_data();
    nm_trainer *t;
    nm_trainer_options o = {.max_length = LENGTH, .batch = 1, .steps = 1, .dropout = 1};
    assert_int_equal(nm_trainer_open(&t, model, &o), NM_USAGE);
    o.dropout = NAN;
    assert_int_equal(nm_trainer_open(&t, model, &o), NM_USAGE);
    o.dropout = 0;
    o.rank = 1 << 15;
    assert_int_equal(nm_trainer_open(&t, model, &o), NM_USAGE);
    o.rank = 0;
    o.start = NM_START_PISSA;
    o.init = "somewhere";
    assert_int_equal(nm_trainer_open(&t, model, &o), NM_USAGE);
    float rate;
    assert_int_equal(nm_optimizer_rate("none", &rate), NM_USAGE);
    assert_int_equal(nm_optimizer_rate(NULL, &rate), NM_OK);
    assert_true(rate == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_record), cmocka_unit_test(test_bits), cmocka_unit_test(test_arithmetic),
        cmocka_unit_test(test_refused_before_it_is_taken), cmocka_unit_test(test_pissa_begins_at_the_model), cmocka_unit_test(test_triplets), cmocka_unit_test(test_state_is_small), cmocka_unit_test(test_plan),
        cmocka_unit_test(test_empty_anchor), cmocka_unit_test(test_anchors), cmocka_unit_test(test_beginnings),
        cmocka_unit_test(test_anchors_drop_out), cmocka_unit_test(test_ease), cmocka_unit_test(test_tied_head), cmocka_unit_test(test_faults)};
    return cmocka_run_group_tests(tests, NULL, close_all);
}
