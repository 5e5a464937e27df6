/* Steps of training against a run of PEFT on SmolLM2 (oracle/lora_a: the same batches and the same initial adapter, fp32): losses, gradient norms,
 * and the gradients of step 2. Needs NOMOAT_TEST_DATA and the model in NOMOAT_TEST_MODELS. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "adapter/lora.h"
#include "base/mem.h"
#include "bf16.h"
#include "format/json.h"
#include "format/safetensors.h"
#include "os/file.h"
#include "train/prefix.h"
#include "train/step.h"

static const double LOSS_BOUND = 2e-4, NORM_BOUND = 1e-3, LATER_NORM_BOUND = 1e-2, COSINE_BOUND = 0.9999, BF16_LOSS_BOUND = 1e-2, BF16_NORM_BOUND = 3e-2,
                    BF16_COSINE_BOUND = 0.99;    /* bf16's loss and norm of themselves */
enum { EXACT_STEPS = 3, GRADIENT_STEP = 2, MOST_SEQUENCES = 64 };

static double number(const nm_json *v) { return v->kind == NM_JSON_INT ? (double)v->integer : v->real; }
static const nm_json *item(const nm_json *object, const char *key)
{
    const nm_json *v = nm_json_get(object, key);
    if (!v) fail_msg("the record lacks \"%s\"", key);
    return v;
}

static nm_json read_json(const char *name)
{
    char path[4096], *text;
    size_t size;
    nm_json json;
    snprintf(path, sizeof path, "%s/oracle/lora_a/%s", getenv("NOMOAT_TEST_DATA"), name);
    assert_int_equal(nm_file_read(path, 1 << 26, &text, &size), NM_OK);
    if (nm_json_parse(&json, text, size) != NM_OK) fail_msg("%s: %s", path, nm_error_text());
    nm_free(text);
    return json;
}

typedef struct run { nm_model *model; nm_train_lora lora; nm_pass *pass; nm_json record, batches; const nm_optim *optim; } run;

static int32_t weight_named(const nm_model *m, const char *map)
{
    char name[160];
    snprintf(name, sizeof name, "%s.weight", map);
    for (size_t i = 0; i < m->weights; i++) if (!strcmp(m->weight[i].name, name)) return (int32_t)i;
    fail_msg("%s: no such weight", name);
    return -1;
}

/* Copies an adapter's halves into the trained ones. */
static void start_from(run *r, const nm_lora *init)
{
    for (size_t i = 0; i < init->pairs; i++) {
        const nm_pair *pair = &init->pair[i];
        const nm_train_slot *slot = &r->lora.slot[weight_named(r->model, pair->name)];
        assert_int_equal(slot->rank, pair->rank);
        memcpy((float *)slot->a, pair->a, (size_t)(pair->rank * pair->in) * sizeof(float));
        for (int64_t n = 0; n < pair->out; n++) for (int64_t k = 0; k < pair->rank; k++) ((float *)slot->b_t)[k * pair->out + n] = pair->b[n * pair->rank + k];
    }
    assert_int_equal(nm_train_lora_derive(&r->lora), NM_OK);
}

static bool open_run(run *r, bool bf16)
{
    char path[4096];
    const char *data = getenv("NOMOAT_TEST_DATA"), *models = getenv("NOMOAT_TEST_MODELS");
    nm_lora init;
    *r = (run){0};
    snprintf(path, sizeof path, "%s/smollm2-135m-instruct-q4_1.gguf", models ? models : "");
    if (!data || !models || access(path, R_OK) != 0) return false;
    if (nm_model_open(&r->model, path, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    r->record = read_json("run.json");
    r->batches = read_json("batches.json");
    snprintf(path, sizeof path, "%s/oracle/lora_a/init", data);
    if (nm_lora_read(&init, path) != NM_OK || nm_lora_to_gguf(&init, &r->model->config) != NM_OK) fail_msg("%s", nm_error_text());
    int32_t *wanted = calloc(r->model->weights, sizeof *wanted);
    for (size_t i = 0; i < init.pairs; i++) wanted[weight_named(r->model, init.pair[i].name)] = (int32_t)init.pair[i].rank;
    assert_int_equal(nm_optim_find("adamw", &r->optim), NM_OK);
    if (nm_train_lora_open(&r->lora, r->model, wanted, init.pair[0].scale, false, r->optim, NM_START_UNIFORM, 1) != NM_OK) fail_msg("%s", nm_error_text());
    start_from(r, &init);
    nm_lora_free(&init);
    free(wanted);
    nm_train_options o = {.trained = r->lora.trained, .rank = r->lora.max_rank, .remake = NM_REMAKE_ROWS, .bf16 = bf16, .max_rows = 512, .max_length = 256,
        .max_sequences = 2, .max_out = 64};
    if (nm_pass_open(&r->pass, r->model, &o) != NM_OK) fail_msg("%s", nm_error_text());
    return true;
}

static void close_run(run *r)
{
    nm_pass_close(&r->pass);
    nm_train_lora_close(&r->lora);
    nm_json_free(&r->record);
    nm_json_free(&r->batches);
    nm_model_close(&r->model);
}

static int32_t read_batch(const nm_json *step, nm_sequence *out)
{
    int32_t n = 0;
    for (size_t m = 0; m < step->array.count; m++)
        for (size_t i = 0; i < step->array.items[m].array.count; i++) {
            const nm_json *ids = item(&step->array.items[m].array.items[i], "ids"), *mask = item(&step->array.items[m].array.items[i], "mask");
            int32_t count = (int32_t)ids->array.count, *id = calloc((size_t)count, sizeof *id);
            float *weight = calloc((size_t)count, sizeof *weight);
            for (int32_t k = 0; k < count; k++) {
                id[k] = (int32_t)ids->array.items[k].integer;
                weight[k] = (float)number(&mask->array.items[k]);
            }
            out[n++] = (nm_sequence){id, weight, count};
        }
    return n;
}

static void free_batch(nm_sequence *s, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        free((void *)s[i].ids);
        free((void *)s[i].weight);
    }
}

/* The least cosine of the gradients of a half with the record. */
static double compare_gradients(const run *r)
{
    char path[4096], map[256];
    nm_safetensors *file;
    double least = 1;
    snprintf(path, sizeof path, "%s/oracle/lora_a/grads_step2.safetensors", getenv("NOMOAT_TEST_DATA"));
    if (nm_safetensors_open(&file, path) != NM_OK) fail_msg("%s", nm_error_text());
    for (size_t i = 0; i < nm_safetensors_count(file); i++) {
        const nm_safe_tensor *t = nm_safetensors_at(file, i);
        const char *from = strstr(t->name, "model.layers"), *half = strstr(t->name, ".lora_");
        snprintf(map, sizeof map, "%.*s", (int)(half - from), from);
        char *name;
        if (nm_name_to_gguf(&name, &r->model->config, map) != NM_OK) fail_msg("%s", nm_error_text());
        const nm_train_slot *slot = &r->lora.slot[weight_named(r->model, name)];
        bool is_a = half[6] == 'A';
        /* Rows of B of q and k are permuted in the file's order; norms and products with themselves do not see it, so they are compared as sets. */
        bool permuted = !is_a && (strstr(name, "attn_q") || strstr(name, "attn_k"));
        double xx = 0, yy = 0, xy = 0;
        for (int64_t v = 0; v < t->values && !permuted; v++) {
            float x, y = is_a ? slot->da[v] : slot->db_t[v % slot->rank * t->dim[0] + v / slot->rank];
            memcpy(&x, (const uint8_t *)t->data + 4 * v, 4);
            xx += (double)x * x;
            yy += (double)y * y;
            xy += (double)x * y;
        }
        if (!permuted && xy / sqrt(xx * yy) < least) least = xy / sqrt(xx * yy);
        nm_free(name);
    }
    print_message("least cosine of gradients in step %d: %.8f\n", GRADIENT_STEP, least);
    nm_safetensors_close(&file);
    return least;
}

static void follow(bool bf16)
{
    run r;
    if (!open_run(&r, bf16)) {
        print_message("skipped: NOMOAT_TEST_DATA or SmolLM2 in NOMOAT_TEST_MODELS is missing\n");
        skip();
    }
    const nm_json *steps = item(&r.record, "steps");
    double worst_loss = 0, worst_norm = 0;
    for (size_t i = 0; i < steps->array.count; i++) {
        nm_sequence batch[MOST_SEQUENCES];
        nm_step_report report;
        int32_t n = read_batch(&r.batches.array.items[i], batch);
        if (nm_step_gradients(r.pass, &r.lora, batch, n, &report, NULL) != NM_OK) fail_msg("%s", nm_error_text());
        free_batch(batch, n);
        if (i + 1 == GRADIENT_STEP) assert_true(compare_gradients(&r) > (bf16 ? BF16_COSINE_BOUND : COSINE_BOUND));
        const nm_json *want = &steps->array.items[i];
        double loss = fabs(report.loss - number(item(want, "loss"))), norm = fabs(report.grad_norm / number(item(want, "grad_norm")) - 1);
        assert_int_equal((int)report.supervised, (int)number(item(want, "supervised_tokens")));
        if (bf16 ? loss > BF16_LOSS_BOUND * report.loss || norm > BF16_NORM_BOUND : loss > LOSS_BOUND || norm > (i < EXACT_STEPS ? NORM_BOUND : LATER_NORM_BOUND))
            fail_msg("step %zu: loss %.6f, norm %.6f; recorded %.6f, %.6f", i + 1, report.loss, report.grad_norm, number(item(want, "loss")), number(item(want, "grad_norm")));
        worst_loss = fmax(worst_loss, loss);
        worst_norm = fmax(worst_norm, norm);
        float lr = (float)number(item(want, "lr"));
        assert_int_equal(nm_train_lora_update(&r.lora, r.optim, &r.optim->defaults, (int64_t)i + 1, lr, lr, nm_clip_factor(report.grad_norm, 1)), NM_OK);
    }
    print_message("%zu steps in %s: loss off by at most %.1e, gradient norm by %.1e of itself\n", steps->array.count, bf16 ? "bf16" : "f32", worst_loss, worst_norm);
    close_run(&r);
}

static void test_oracle(void **state) { follow(false); }

/* What runs by default where the instruction set has bf16. */
static void test_bf16(void **state)
{
    bool own = nm_kernels_get()->has_bf16;
    bf16_pretend();
    if (bf16_is_slow() || (!own && !getenv("NOMOAT_TEST_LONG"))) {
        print_message("skipped: no bf16 on this machine, and emulating it takes minutes: NOMOAT_TEST_LONG=1 does\n");
        skip();
    }
    follow(true);
}

/* ---- Common beginnings -------------------------------------------------------------------------------------------------------------------------------- */

/* Sequences of 100, 90, 100, 3, 80 and 5 tokens: the second leaves the first at 70, the third is the first again, the fourth is their beginning, the fifth leaves
 * the second at 75, and the last has nothing in common with them. */
static void test_prefix(void **state)
{
    enum { SEQS = 6, ROWS = 378 };
    static const int32_t length[SEQS] = {100, 90, 100, 3, 80, 5}, of[SEQS] = {0, 0, 0, 0, 1, 0}, shared[SEQS] = {0, 70, 100, 3, 75, 0};
    nm_row row[ROWS];
    nm_seq seq[SEQS];
    nm_prefix p = {0};
    int32_t rows = 0, copies = 0;
    for (int32_t s = 0; s < SEQS; s++) {
        seq[s] = (nm_seq){.row = rows, .rows = length[s]};
        for (int32_t i = 0; i < length[s]; i++, rows++)
            row[rows] = (nm_row){.token = i < shared[s] ? row[seq[of[s]].row + i].token : 1000 * s + i, .position = i, .seq = s};
    }
    assert_int_equal(rows, ROWS);
    assert_int_equal(nm_prefix_open(&p, ROWS, SEQS), NM_OK);
    nm_prefix_find(&p, row, seq, SEQS);
    assert_int_equal(p.rows, ROWS - 70 - 100 - 3 - 75);
    for (int32_t s = 0; s < SEQS; s++) {
        assert_int_equal(p.seq[s].start, shared[s]);
        assert_int_equal(p.seq[s].rows, length[s] - shared[s]);
        for (int32_t i = 0; i < length[s]; i++) {
            const nm_row *is = &p.row[p.at[seq[s].row + i]];
            assert_true(is->token == row[seq[s].row + i].token && is->position == i && p.at[seq[s].row + i] <= seq[s].row + i);
        }
    }
    for (int64_t r = 0; r < p.rows; r++)
        for (int32_t i = p.copy_from[r]; i < p.copy_from[r + 1]; i++, copies++) {
            int32_t s = p.copy_seq[i];
            assert_true(s > 0 && p.row[r].position < shared[s] && p.at[seq[s].row + p.row[r].position] == r);
        }
    assert_int_equal(copies, 70 + 100 + 3 + 75);
    nm_prefix_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_oracle), cmocka_unit_test(test_bf16), cmocka_unit_test(test_prefix)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
