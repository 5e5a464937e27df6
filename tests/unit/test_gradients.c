/* The backward walk: L2 and L1 norms of the gradient of every weight of the tiny models, as transformers computes them in fp32; finite
 * differences along random directions; and that neither threads, passes, recomputation nor neighbours change a bit. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "bf16.h"
#include "format/json.h"
#include "instrumented.h"
#include "os/file.h"
#include "train/pass.h"

static const double NORM_BOUND = 1e-3, LOSS_BOUND = 1e-4;

/* Instrumented builds walk one model of each kind of op. */
#if NM_INSTRUMENTED
static const char *const names[] = {"llama_tied", "gemma2", "gpt2"};
#else
static const char *const names[] = {"llama", "llama3", "llama_tied", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "smollm3", "olmo2",
    "granite", "stablelm", "falcon", "gpt2", "gpt_neox"};
#endif

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

static double number(const nm_json *v) { return v->kind == NM_JSON_INT ? (double)v->integer : v->real; }
static const nm_json *item(const nm_json *object, const char *key)
{
    const nm_json *v = nm_json_get(object, key);
    assert_non_null(v);
    return v;
}

/* ---- A model, a text, and room for the gradients of everything ---- */

typedef struct bench { nm_model *model; nm_json record; int32_t *ids, count; float *weight; uint8_t *trained; float **grad; double loss; bool bf16; } bench;

static bool open_bench(bench *b, const char *name)
{
    char path[4096], *text;
    size_t size;
    const char *data = getenv("NOMOAT_TEST_DATA");
    *b = (bench){0};
    if (!data) {
        print_message("skipped: %s: NOMOAT_TEST_DATA is not set\n", name);
        return false;
    }
    snprintf(path, sizeof path, "%s/tiny/%s.gguf", data, name);
    if (nm_model_open(&b->model, path, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    snprintf(path, sizeof path, "%s/tiny/%s.json", data, name);
    assert_int_equal(nm_file_read(path, 1 << 26, &text, &size), NM_OK);
    assert_int_equal(nm_json_parse(&b->record, text, size), NM_OK);
    nm_free(text);
    const nm_json *ids = item(&item(&b->record, "cases")->array.items[0], "ids");
    b->count = (int32_t)ids->array.count;
    b->ids = calloc((size_t)b->count, sizeof *b->ids);
    b->weight = calloc((size_t)b->count, sizeof *b->weight);
    for (int32_t i = 0; i < b->count; i++) {
        b->ids[i] = (int32_t)ids->array.items[i].integer;
        b->weight[i] = 1;
    }
    b->trained = calloc(b->model->weights, 1);
    b->grad = calloc(b->model->weights, sizeof *b->grad);
    return true;
}

static size_t size_of(const nm_weight *w) { return (size_t)w->n * (size_t)(w->k ? w->k : 1); }

static void train_all(bench *b)
{
    for (size_t i = 0; i < b->model->weights; i++) {
        b->trained[i] = NM_TRAIN_WHOLE;
        b->grad[i] = calloc(size_of(&b->model->weight[i]), sizeof(float));
    }
}

static void close_bench(bench *b)
{
    for (size_t i = 0; i < b->model->weights; i++) free(b->grad[i]);
    nm_json_free(&b->record);
    nm_model_close(&b->model);
    free(b->ids);
    free(b->weight);
    free(b->trained);
    free(b->grad);
}

static nm_pass *open_pass(const bench *b, nm_remake remake, int32_t rank, int32_t sequences)
{
    nm_pass *p;
    nm_train_options o = {.trained = b->trained, .rank = rank, .remake = remake, .bf16 = b->bf16,
        .max_rows = b->count * sequences, .max_length = b->count, .max_sequences = sequences, .max_out = 5};
    if (nm_pass_open(&p, b->model, &o) != NM_OK) fail_msg("%s", nm_error_text());
    return p;
}

static void run_once(bench *b, nm_pass *p, const nm_train *train, float scale)
{
    nm_sequence s = {b->ids, b->weight, b->count};
    b->loss = 0;
    if (nm_pass_run(p, &s, 1, scale, train, &b->loss, NULL, NULL) != NM_OK) fail_msg("%s", nm_error_text());
}

/* ---- Names: the last part in the file, and what transformers calls it ---- */

static const struct { const char *ours, *theirs[5]; } parts[] = {
    {"token_embd.weight", {"embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight"}},
    {"position_embd.weight", {"wpe.weight"}},
    {"output.weight", {"lm_head.weight", "embed_out.weight"}},
    {"output_norm.weight", {"model.norm.weight", "ln_f.weight", "final_layer_norm.weight"}},
    {"output_norm.bias", {"model.norm.bias", "ln_f.bias", "final_layer_norm.bias"}},
    {"attn_norm.weight", {"input_layernorm.weight", "ln_1.weight"}},
    {"attn_norm.bias", {"input_layernorm.bias", "ln_1.bias"}},
    {"ffn_norm.weight", {"pre_feedforward_layernorm.weight", "ln_2.weight", "post_attention_layernorm.weight"}},
    {"ffn_norm.bias", {"ln_2.bias", "post_attention_layernorm.bias"}},
    {"post_attention_norm.weight", {"post_attention_layernorm.weight"}},
    {"post_ffw_norm.weight", {"post_feedforward_layernorm.weight"}},
    {"attn_q.weight", {"q_proj.weight"}}, {"attn_q.bias", {"q_proj.bias"}},
    {"attn_k.weight", {"k_proj.weight"}}, {"attn_k.bias", {"k_proj.bias"}},
    {"attn_v.weight", {"v_proj.weight"}}, {"attn_v.bias", {"v_proj.bias"}},
    {"attn_q_norm.weight", {"q_norm.weight"}}, {"attn_k_norm.weight", {"k_norm.weight"}},
    {"attn_qkv.weight", {"query_key_value.weight", "c_attn.weight"}}, {"attn_qkv.bias", {"query_key_value.bias", "c_attn.bias"}},
    {"attn_output.weight", {"o_proj.weight", "self_attention.dense.weight", "attention.dense.weight", "attn.c_proj.weight"}},
    {"attn_output.bias", {"o_proj.bias", "attention.dense.bias", "attn.c_proj.bias"}},
    {"ffn_gate.weight", {"gate_proj.weight"}}, {"ffn_up.weight", {"up_proj.weight", "dense_h_to_4h.weight", "c_fc.weight"}},
    {"ffn_up.bias", {"dense_h_to_4h.bias", "c_fc.bias"}},
    {"ffn_down.weight", {"down_proj.weight", "dense_4h_to_h.weight", "mlp.c_proj.weight"}},
    {"ffn_down.bias", {"dense_4h_to_h.bias", "mlp.c_proj.bias"}},
};

static bool ends(const char *name, const char *part)
{
    size_t n = strlen(name), m = strlen(part);
    return n >= m && !strcmp(name + n - m, part);
}

static const nm_json *recorded(const nm_json *gradients, const char *ours)
{
    char layer[32] = "";
    int number_of_layer, used = 0;
    if (sscanf(ours, "blk.%d.%n", &number_of_layer, &used) == 1) snprintf(layer, sizeof layer, ".%d.", number_of_layer);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (strcmp(parts[i].ours, ours + used)) continue;
        for (int k = 0; k < 5 && parts[i].theirs[k]; k++)
            for (size_t g = 0; g < gradients->object.count; g++)
                if (ends(gradients->object.keys[g], parts[i].theirs[k]) && strstr(gradients->object.keys[g], layer)) return &gradients->object.values[g];
    }
    return NULL;
}

static void check_norms(const bench *b, const float *g, size_t n, const char *name, double *worst)
{
    const nm_json *want = recorded(item(&b->record, "gradients"), name);
    double l1 = 0, l2 = 0;
    if (!want) fail_msg("%s: no gradient is recorded", name);
    for (size_t i = 0; i < n; i++) {
        l1 += fabs(g[i]);
        l2 += (double)g[i] * g[i];
    }
    double off = fmax(fabs(sqrt(l2) / number(item(want, "l2")) - 1), fabs(l1 / number(item(want, "l1")) - 1));
    if (!(off <= NORM_BOUND)) fail_msg("%s: L2 %g, L1 %g; recorded %g, %g", name, sqrt(l2), l1, number(item(want, "l2")), number(item(want, "l1")));
    if (off > *worst) *worst = off;
}

static void test_norms(void **state)
{
    bench b;
    double worst = 0;
    if (!open_bench(&b, *state)) skip();
    train_all(&b);
    nm_pass *p = open_pass(&b, NM_REMAKE_NOTHING, 0, 1);
    nm_train train = {.grad = b.grad};
    run_once(&b, p, &train, 1.0f / (float)(b.count - 1));
    double loss = b.loss / (b.count - 1);
    if (!(fabs(loss - number(item(&b.record, "loss"))) < LOSS_BOUND)) fail_msg("loss %.6f, recorded %.6f", loss, number(item(&b.record, "loss")));
    for (size_t i = 0; i < b.model->weights; i++) {
        const nm_weight *w = &b.model->weight[i];
        for (size_t j = i + 1; j < b.model->weights; j++)       /* one tensor under two ids: a tied head */
            if (!strcmp(w->name, b.model->weight[j].name)) for (size_t k = 0; k < size_of(w); k++) b.grad[i][k] += b.grad[j][k];
        bool again = false;
        for (size_t j = 0; j < i; j++) again |= !strcmp(w->name, b.model->weight[j].name);
        if (!again) check_norms(&b, b.grad[i], size_of(w), w->name, &worst);
    }
    print_message("%s: loss off by %.1e, worst norm off by %.1e of itself\n", (const char *)*state, fabs(loss - number(item(&b.record, "loss"))), worst);
    nm_pass_close(&p);
    close_bench(&b);
}

/* ---- The same bits ---- */

/* Random slots on all linear maps. */
typedef struct slots { nm_train_slot *slot; float **memory; size_t count; } slots;

static slots make_slots(bench *b, int32_t rank)
{
    slots s = {calloc(b->model->weights, sizeof *s.slot), calloc(b->model->weights, sizeof *s.memory), b->model->weights};
    for (size_t i = 0; i < b->model->program.steps; i++) {
        const nm_step *step = &b->model->program.step[i];
        if (step->op != NM_OP_LINEAR) continue;
        int32_t id = nm_weight_of(b->model->program.operand, step, 0);
        const nm_weight *w = &b->model->weight[id];
        size_t n = (size_t)w->n * (size_t)rank, k = (size_t)w->k * (size_t)rank;
        float *m = s.memory[id] = calloc(3 * (n + k), sizeof *m), *a = m, *a_t = a + k, *bb = a_t + k, *b_t = bb + n;
        for (size_t j = 0; j < k; j++) a[j] = (float)(nm_rng_unit(1, (uint64_t)id, j) - 0.5) * 0.2f;
        for (size_t j = 0; j < n; j++) bb[j] = (float)(nm_rng_unit(2, (uint64_t)id, j) - 0.5) * 0.2f;
        for (int64_t r = 0; r < rank; r++) for (int64_t c = 0; c < w->k; c++) a_t[c * rank + r] = a[r * w->k + c];
        for (int64_t r = 0; r < rank; r++) for (int64_t c = 0; c < w->n; c++) b_t[r * w->n + c] = bb[c * rank + r];
        s.slot[id] = (nm_train_slot){.rank = rank, .scale = 0.7f, .a = a, .a_t = a_t, .b = bb, .b_t = b_t, .da = b_t + n, .db_t = b_t + n + k};
        b->trained[id] = NM_TRAIN_SLOT;
    }
    return s;
}

static void free_slots(slots *s)
{
    for (size_t i = 0; i < s->count; i++) free(s->memory[i]);
    free(s->memory);
    free(s->slot);
}

static uint64_t hash_slots(const bench *b, slots *s)
{
    uint64_t h = 0;
    for (size_t i = 0; i < s->count; i++) {
        const nm_weight *w = &b->model->weight[i];
        size_t n = (size_t)(w->n + w->k) * (size_t)s->slot[i].rank;
        if (!s->slot[i].rank) continue;
        for (size_t j = 0; j < n; j++) h = (h ^ (uint64_t)*(uint32_t *)(void *)&s->slot[i].da[j]) * 0x100000001b3u;
        memset(s->slot[i].da, 0, n * sizeof(float));
    }
    return h;
}

/* The sequence, a shorter one that is the same until its last tokens, and one of its own, in passes of 1 or of all three. */
static uint64_t run_three(bench *b, slots *s, nm_remake remake, int32_t at_once, double *loss)
{
    enum { MOST = 256, LAST = 5 };
    int32_t other[MOST], count = b->count - 9;
    assert_true(b->count <= MOST);
    for (int32_t i = 0; i < count; i++) other[i] = b->ids[i < count - LAST ? i : i + LAST];
    nm_pass *p = open_pass(b, remake, 5, 3);
    nm_sequence seq[3] = {{b->ids, b->weight, b->count}, {other, b->weight, count}, {b->ids + 1, b->weight, 7}};
    nm_train train = {.slot = s->slot, .grad = b->grad};
    *loss = 0;
    for (int32_t i = 0; i < 3; i += at_once)
        if (nm_pass_run(p, seq + i, at_once, 0.01f, &train, loss, NULL, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    nm_pass_close(&p);
    return hash_slots(b, s);
}

/* In bf16 too, and there near fp32; not all of it where that would be done in plain C. */
static double same_bits(bench *b, slots *s, const char *name)
{
    double loss, other;
    uint64_t want = run_three(b, s, NM_REMAKE_NOTHING, 3, &loss);
    bool all = !b->bf16 || !bf16_is_slow();
    for (int remake = all ? 0 : NM_REMAKE_LAYERS; remake <= NM_REMAKE_LAYERS; remake++)
        for (int32_t at_once = 1; at_once <= (all ? 3 : 1); at_once += 2)
            for (int threads = all ? 1 : 2; threads <= (COUNT_OF(names) > 3 ? 3 : 2); threads++) {
                assert_int_equal(nm_set_threads(threads), NM_OK);
                uint64_t got = run_three(b, s, remake, at_once, &other);
                if (got != want) fail_msg("%s%s: gradients differ: remake %d, %d sequences at once, %d threads", name, b->bf16 ? " in bf16" : "", remake, (int)at_once, threads);
                assert_true(fabs(other - loss) < 1e-12 * loss);
            }
    nm_set_threads(0);
    nm_kernels plain = bf16_reference(nm_kernels_get());
    assert_int_equal(nm_set_kernels("c"), NM_OK);
    bf16_use(&plain);
    if (all) assert_true(run_three(b, s, NM_REMAKE_ROWS, 3, &other) == want);
    assert_int_equal(nm_set_kernels("all"), NM_OK);
    return loss;
}

static void test_same_bits(void **state)
{
    bench b;
    if (!open_bench(&b, *state)) skip();
    slots s = make_slots(&b, 5);
    double loss = same_bits(&b, &s, *state);
    b.bf16 = true;
    bf16_pretend();
    double rounded = same_bits(&b, &s, *state);
    print_message("%s: loss %.6f, in bf16 %.6f\n", (const char *)*state, loss, rounded);
    assert_true(rounded != loss && fabs(rounded - loss) < 1e-2 * loss);
    free_slots(&s);
    close_bench(&b);
}

/* ---- Finite differences of the slots: the loss along a random direction ---- */

static double loss_at(bench *b, nm_pass *p, slots *s, double step)
{
    slots moved = *s;
    nm_train_slot *slot = calloc(s->count, sizeof *slot);
    float **memory = calloc(s->count, sizeof *memory);
    for (size_t i = 0; i < s->count; i++) {
        int64_t r = s->slot[i].rank, n = b->model->weight[i].n, k = b->model->weight[i].k;
        slot[i] = s->slot[i];
        if (!r) continue;
        float *m = memory[i] = calloc((size_t)(3 * r * (n + k)), sizeof *m), *a = m, *a_t = a + r * k, *bb = a_t + r * k, *b_t = bb + r * n;
        for (int64_t j = 0; j < r; j++) {
            for (int64_t c = 0; c < k; c++) a_t[c * r + j] = a[j * k + c] = s->slot[i].a[j * k + c] + (float)(step * (nm_rng_unit(5, i, (uint64_t)(j * k + c)) - 0.5));
            for (int64_t c = 0; c < n; c++) b_t[j * n + c] = bb[c * r + j] = s->slot[i].b[c * r + j] + (float)(step * (nm_rng_unit(6, i, (uint64_t)(j * n + c)) - 0.5));
        }
        slot[i] = (nm_train_slot){.rank = (int32_t)r, .scale = s->slot[i].scale, .a = a, .a_t = a_t, .b = bb, .b_t = b_t, .da = b_t + r * n, .db_t = b_t + r * n + r * k};
    }
    moved.slot = slot;
    nm_train train = {.slot = moved.slot, .grad = b->grad};
    run_once(b, p, &train, 1);
    for (size_t i = 0; i < s->count; i++) free(memory[i]);
    free(memory);
    free(slot);
    return b->loss;
}

static void test_slope(void **state)
{
    bench b;
    if (!open_bench(&b, *state)) skip();
    slots s = make_slots(&b, 3);
    nm_pass *p = open_pass(&b, NM_REMAKE_ROWS, 3, 1);
    nm_train train = {.slot = s.slot, .grad = b.grad};
    run_once(&b, p, &train, 1);
    double slope = 0, e = 2e-3;
    for (size_t i = 0; i < s.count; i++) {
        int64_t r = s.slot[i].rank, n = b.model->weight[i].n, k = b.model->weight[i].k;
        for (int64_t j = 0; j < r * k; j++) slope += s.slot[i].da[j] * (nm_rng_unit(5, i, (uint64_t)j) - 0.5);
        for (int64_t j = 0; j < r * n; j++) slope += s.slot[i].db_t[j] * (nm_rng_unit(6, i, (uint64_t)j) - 0.5);
    }
    double up = loss_at(&b, p, &s, e), down = loss_at(&b, p, &s, -e), seen = (up - down) / (2 * e);
    print_message("%s: slope %.5f, seen %.5f\n", (const char *)*state, slope, seen);
    assert_true(fabs(slope - seen) < 5e-3 * (1 + fabs(seen)));
    nm_pass_close(&p);
    free_slots(&s);
    close_bench(&b);
}

int main(void)
{
    enum { COUNT = sizeof names / sizeof *names };
    static char title[3 * COUNT][64];
    struct CMUnitTest tests[3 * COUNT];
    int n = 0;
    for (int i = 0; i < COUNT; i++) {
        const struct { const char *what; CMUnitTestFunction run; } kinds[] = {{"norms", test_norms}, {"same bits", test_same_bits}, {"slope", test_slope}};
        for (int k = 0; k < 3; k++, n++) {
            snprintf(title[n], sizeof title[n], "%s: %s", names[i], kinds[k].what);
            tests[n] = (struct CMUnitTest){title[n], kinds[k].run, NULL, NULL, (void *)(uintptr_t)names[i]};
        }
    }
    return _cmocka_run_group_tests("gradients", tests, COUNT * 3, NULL, NULL);
}
