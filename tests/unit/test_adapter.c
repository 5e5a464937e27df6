/* Adapters and stacks. Against recorded outputs of PEFT (six stacks on SmolLM2, fp32); to the bit: a batch of sessions with different stacks is
 * what each is alone, scale 0 is the base, saved sessions go on as they were and refuse another stack; every fault of an adapter's files.
 * The recorded part needs NOMOAT_TEST_DATA and NOMOAT_TEST_MODELS; the rest makes its own models and adapters. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "../random_model.c"
#include "adapter/lora.h"
#include "base/mem.h"
#include "base/rng.h"
#include "format/json.h"
#include "format/safetensors.h"
#include "os/file.h"

static const double ORACLE_BOUND = 0.002;

static char folder[] = "/tmp/nm_test_adapter_XXXXXX";

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    char command[64];
    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static const char *in_folder(const char *name)
{
    static char path[8][256];
    static int next;
    next = (next + 1) % 8;
    snprintf(path[next], sizeof path[next], "%s/%s", folder, name);
    return path[next];
}

static nm_adapter *open_adapter(const nm_model *m, const char *path)
{
    nm_adapter *a;
    if (nm_adapter_open(&a, m, path, false) != NM_OK) fail_msg("%s", nm_error_text());
    return a;
}

static nm_stack *open_stack(const nm_model *m, const nm_adapter *const *a, const float *scale, size_t count)
{
    nm_stack *s;
    if (nm_stack_open(&s, m, a, scale, count) != NM_OK) fail_msg("%s", nm_error_text());
    return s;
}

static nm_session *open_session(const nm_model *m, nm_compute compute, const nm_stack *stack)
{
    nm_session *s;
    nm_session_options o = {.context = 64, .compute = compute, .kv = compute == NM_COMPUTE_F32 ? NM_KV_F32 : NM_KV_F16, .stack = stack};
    if (nm_session_open(&s, m, &o) != NM_OK) fail_msg("%s", nm_error_text());
    return s;
}

static nm_runner *open_runner(const nm_model *m, nm_compute compute)
{
    nm_runner *r;
    if (nm_runner_open(&r, m, &(nm_runner_options){.compute = compute, .max_rows = 48}) != NM_OK) fail_msg("%s", nm_error_text());
    return r;
}

static nm_err keep(void *arg, int32_t index, const float *logits, int32_t n_vocab)
{
    memcpy((float *)arg + (size_t)index * (size_t)n_vocab, logits, (size_t)n_vocab * sizeof *logits);
    return NM_OK;
}

static void run(nm_runner *r, nm_session *s, const int32_t *ids, int32_t count, float *out)
{
    nm_item item = {.session = s, .tokens = ids, .count = count, .want = NM_WANT_ALL, .on_logits = keep, .arg = out};
    if (nm_run(r, &item, 1, NULL) != NM_OK) fail_msg("%s", nm_error_text());
}

/* ---- Recorded stacks -------------------------------------------------------------------------------------------------------------------- */

enum { MOST_IDS = 64, CASES = 12 };

typedef struct bench {
    nm_model *model;
    nm_adapter *a, *b, *a_gguf;
    nm_json record;
    int32_t vocab;
} bench;

static const nm_json *item(const nm_json *object, const char *key)
{
    const nm_json *v = nm_json_get(object, key);
    if (!v) fail_msg("the record lacks \"%s\"", key);
    return v;
}

static double number(const nm_json *v) { return v->kind == NM_JSON_INT ? (double)v->integer : v->real; }

static bench open_bench(void)
{
    char path[4096], *text;
    size_t size;
    bench t = {0};
    const char *data = getenv("NOMOAT_TEST_DATA"), *models = getenv("NOMOAT_TEST_MODELS");
    if (models) snprintf(path, sizeof path, "%s/smollm2-135m-instruct-q4_1.gguf", models);
    if (!data || !models || access(path, R_OK)) {
        print_message("skipped: recorded stacks: NOMOAT_TEST_DATA or the model is not there\n");
        skip();
    }
    if (nm_model_open(&t.model, path, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    t.vocab = nm_model_describe(t.model)->n_vocab;
    snprintf(path, sizeof path, "%s/oracle/lora_a/final", data);
    t.a = open_adapter(t.model, path);
    snprintf(path, sizeof path, "%s/oracle/lora_b/final", data);
    t.b = open_adapter(t.model, path);
    snprintf(path, sizeof path, "%s/oracle/lora_a.gguf", data);
    t.a_gguf = open_adapter(t.model, path);
    snprintf(path, sizeof path, "%s/oracle/adapters.json", data);
    assert_int_equal(nm_file_read(path, 1 << 24, &text, &size), NM_OK);
    assert_int_equal(nm_json_parse(&t.record, text, size), NM_OK);
    nm_free(text);
    return t;
}

static void close_bench(bench *t)
{
    nm_json_free(&t->record);
    nm_adapter_close(&t->a);
    nm_adapter_close(&t->b);
    nm_adapter_close(&t->a_gguf);
    nm_model_close(&t->model);
}

static const nm_json *case_at(const bench *t, size_t i) { return &item(&t->record, "cases")->array.items[i]; }

static int32_t ids_of(const nm_json *c, int32_t ids[MOST_IDS])
{
    const nm_json *list = item(c, "ids");
    for (size_t i = 0; i < list->array.count; i++) ids[i] = (int32_t)list->array.items[i].integer;
    return (int32_t)list->array.count;
}

static nm_stack *stack_of(const bench *t, const nm_json *c, bool gguf)
{
    const nm_json *given = item(c, "stack");
    const nm_adapter *adapters[2];
    float scales[2];
    size_t n = 0;
    for (; n < given->object.count; n++) {
        bool a = given->object.keys[n][0] == 'a';
        adapters[n] = !a ? t->b : gguf ? t->a_gguf : t->a;
        scales[n] = (float)number(&given->object.values[n]);
    }
    return open_stack(t->model, adapters, scales, n);
}

static double nll_of(const float *logits, int32_t n, int32_t next)
{
    double most = logits[0], sum = 0;
    for (int32_t i = 1; i < n; i++) most = fmax(most, logits[i]);
    for (int32_t i = 0; i < n; i++) sum += exp(logits[i] - most);
    return most + log(sum) - logits[next];
}

static void check_case(const bench *t, nm_runner *r, const nm_json *c, bool gguf, float *out)
{
    int32_t ids[MOST_IDS], n = ids_of(c, ids);
    double worst_nll = 0, worst_logit = 0;
    nm_stack *stack = stack_of(t, c, gguf);
    nm_session *s = open_session(t->model, NM_COMPUTE_F32, stack);
    run(r, s, ids, n, out);
    for (int32_t i = 0; i + 1 < n; i++)
        worst_nll = fmax(worst_nll, fabs(nll_of(out + (size_t)i * (size_t)t->vocab, t->vocab, ids[i + 1]) - number(&item(c, "nll")->array.items[i])));
    const nm_json *top = item(c, "last_top20");
    for (size_t i = 0; i < item(top, "ids")->array.count; i++)
        worst_logit = fmax(worst_logit, fabs(out[(size_t)(n - 1) * (size_t)t->vocab + (size_t)item(top, "ids")->array.items[i].integer]
            - number(&item(top, "logits")->array.items[i])));
    print_message("  %-8s %zu adapters%s: worst NLL %.1e, worst logit %.1e\n", item(c, "name")->string.bytes, item(c, "stack")->object.count,
        gguf ? " (GGUF)" : "", worst_nll, worst_logit);
    assert_true(worst_nll <= ORACLE_BOUND && worst_logit <= ORACLE_BOUND);
    nm_session_close(&s);
    nm_stack_close(&stack);
}

static void test_recorded(void **state)
{
    (void)state;
    bench t = open_bench();
    float *out = malloc((size_t)MOST_IDS * (size_t)t.vocab * sizeof *out);
    nm_runner *r = open_runner(t.model, NM_COMPUTE_F32);
    assert_int_equal(item(&t.record, "cases")->array.count, CASES);
    for (size_t i = 0; i < CASES; i++)
        for (int gguf = 0; gguf < 2; gguf++) check_case(&t, r, case_at(&t, i), gguf, out);
    assert_string_equal(nm_adapter_describe(t.a)->hash, nm_adapter_describe(t.a_gguf)->hash);
    assert_int_equal(nm_adapter_describe(t.a)->match, NM_MATCH_UNVERIFIED);
    nm_runner_close(&r);
    free(out);
    close_bench(&t);
}

/* All twelve cases as one batch against each alone, in both arithmetics; and scale 0 against the base. */
static void check_batch(const bench *t, nm_compute compute)
{
    float *alone = malloc((size_t)t->vocab * sizeof *alone), *together = malloc((size_t)CASES * (size_t)t->vocab * sizeof *together);
    nm_session *s[CASES];
    nm_stack *stack[CASES];
    nm_item items[CASES];
    int32_t ids[CASES][MOST_IDS];
    nm_runner *r = open_runner(t->model, compute);
    for (size_t i = 0; i < CASES; i++) {
        const nm_json *c = case_at(t, i);
        stack[i] = stack_of(t, c, false);
        s[i] = open_session(t->model, compute, stack[i]);
        int32_t n = ids_of(c, ids[i]);
        items[i] = (nm_item){.session = s[i], .tokens = ids[i], .count = n, .want = NM_WANT_LAST, .on_logits = keep,
            .arg = together + i * (size_t)t->vocab - (size_t)(n - 1) * (size_t)t->vocab};
    }
    assert_int_equal(nm_run(r, items, CASES, NULL), NM_OK);
    for (size_t i = 0; i < CASES; i++) {
        nm_session *one = open_session(t->model, compute, stack[i]);
        nm_item it = items[i];
        it.session = one;
        it.arg = alone - (size_t)(it.count - 1) * (size_t)t->vocab;
        assert_int_equal(nm_run(r, &it, 1, NULL), NM_OK);
        assert_memory_equal(alone, together + i * (size_t)t->vocab, (size_t)t->vocab * sizeof *alone);
        nm_session_close(&one);
        nm_session_close(&s[i]);
        nm_stack_close(&stack[i]);
    }
    nm_runner_close(&r);
    free(alone);
    free(together);
}

static void test_batch(void **state)
{
    (void)state;
    bench t = open_bench();
    check_batch(&t, NM_COMPUTE_DEFAULT);
    check_batch(&t, NM_COMPUTE_F32);
    close_bench(&t);
}

/* Another stack for the next answer: less than a millisecond, in the best of a few tries (the machine is shared). */
static void test_switching(void **state)
{
    (void)state;
    bench t = open_bench();
    double best = 1e9;
    for (int i = 0; i < 20; i++) {
        struct timespec from, to;
        clock_gettime(CLOCK_MONOTONIC, &from);
        nm_stack *stack = open_stack(t.model, (const nm_adapter *[]){t.a, t.b}, (float[]){1, 0.5f}, 2);
        nm_session *s = open_session(t.model, NM_COMPUTE_DEFAULT, stack);
        clock_gettime(CLOCK_MONOTONIC, &to);
        best = fmin(best, (double)(to.tv_sec - from.tv_sec) * 1e3 + (double)(to.tv_nsec - from.tv_nsec) * 1e-6);
        nm_session_close(&s);
        nm_stack_close(&stack);
    }
    print_message("  a new stack and session: %.3f ms\n", best);
    assert_true(best < 1);
    close_bench(&t);
}

/* ---- Made-up adapters --------------------------------------------------------------------------------------------------------------------- */

enum { EMBD = 256, FF = 512, VOCAB = 64, KV = 64, RANK = 4, PROMPT = 20 };

static const char PLAIN[] = "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"bias\": \"none\", \"base_model_name_or_path\": \"org/base\"}";

typedef struct made { nm_safe_tensor tensor[16]; size_t count; float *values[16]; } made;

static void add(made *m, const char *name, int64_t rows, int64_t columns)
{
    size_t i = m->count++;
    m->values[i] = malloc((size_t)(rows * columns) * sizeof(float));
    for (int64_t k = 0; k < rows * columns; k++) m->values[i][k] = (float)(2 * nm_rng_unit(3, i, (uint64_t)k) - 1) * 0.1f;
    m->tensor[i] = (nm_safe_tensor){.name = name, .type = nm_type_of(NM_F32), .rank = 2, .dim = {rows, columns}, .data = m->values[i]};
}

static void free_made(made *m)
{
    for (size_t i = 0; i < m->count; i++) free(m->values[i]);
}

/* Writes the folder NAME below ours; its path. */
static const char *save(const made *m, const char *name, const char *config, const nm_safe_meta *meta, size_t metas)
{
    const char *path = in_folder(name);
    char file[300];
    mkdir(path, 0700);
    snprintf(file, sizeof file, "%s/adapter_config.json", path);
    assert_int_equal(nm_file_write(file, config, strlen(config)), NM_OK);
    snprintf(file, sizeof file, "%s/adapter_model.safetensors", path);
    assert_int_equal(nm_safetensors_write(file, m->tensor, m->count, meta, metas), NM_OK);
    return path;
}

#define LAYER0 "base_model.model.model.layers.0."
#define EMBED "base_model.model.model.embed_tokens."
#define HEAD "base_model.model.lm_head."

static made small_made(void)
{
    made m = {0};
    add(&m, LAYER0 "self_attn.q_proj.lora_A.weight", RANK, EMBD);
    add(&m, LAYER0 "self_attn.q_proj.lora_B.weight", EMBD, RANK);
    add(&m, LAYER0 "mlp.down_proj.lora_A.weight", RANK, FF);
    add(&m, LAYER0 "mlp.down_proj.lora_B.weight", EMBD, RANK);
    return m;
}

static nm_model *open_random(const random_model *d, void **file)
{
    size_t size;
    nm_model *m;
    *file = rm_make(d, &size);
    if (nm_model_open_memory(&m, *file, size, "random", NULL) != NM_OK) fail_msg("%s", nm_error_text());
    return m;
}

static void ids_for(int32_t ids[PROMPT]) { for (int32_t i = 0; i < PROMPT; i++) ids[i] = i * 37 % VOCAB; }

static void logits_of(const nm_model *m, nm_compute compute, const nm_stack *stack, float out[PROMPT][VOCAB])
{
    int32_t ids[PROMPT];
    ids_for(ids);
    nm_runner *r = open_runner(m, compute);
    nm_session *s = open_session(m, compute, stack);
    run(r, s, ids, PROMPT, out[0]);
    nm_session_close(&s);
    nm_runner_close(&r);
}

static double distance(float a[PROMPT][VOCAB], float b[PROMPT][VOCAB])
{
    double worst = 0;
    for (int i = 0; i < PROMPT; i++)
        for (int k = 0; k < VOCAB; k++) worst = fmax(worst, fabs((double)a[i][k] - (double)b[i][k]));
    return worst;
}

/* Adds scale * B A to a tensor [out][in] of a model in memory. */
static void merge_into(void *file, size_t size, const char *name, const float *a, const float *b, int64_t rank, float scale)
{
    nm_gguf *g;
    assert_int_equal(nm_gguf_open_memory(&g, file, size, "random", false), NM_OK);
    const nm_gguf_tensor *t = nm_gguf_tensor_find(g, name);
    float *w = (float *)(uintptr_t)t->data;
    for (int64_t n = 0; n < t->dim[1]; n++)
        for (int64_t k = 0; k < t->dim[0]; k++) {
            double sum = 0;
            for (int64_t r = 0; r < rank; r++) sum += (double)b[n * rank + r] * (double)a[r * t->dim[0] + k];
            w[n * t->dim[0] + k] += (float)(scale * sum);
        }
    nm_gguf_close(&g);
}

/* Embedding and head, tied or not, are apart: merged into a model with two tensors they give the same logits. */
static void test_embedding_and_head(void **state)
{
    (void)state;
    static float stacked[PROMPT][VOCAB], tied[PROMPT][VOCAB], merged[PROMPT][VOCAB], base[PROMPT][VOCAB];
    random_model d = rm_default("llama");
    size_t size;
    void *file;
    made m = {0};
    add(&m, EMBED "lora_embedding_A", RANK, VOCAB);
    add(&m, EMBED "lora_embedding_B", EMBD, RANK);
    add(&m, HEAD "lora_A.weight", RANK, EMBD);
    add(&m, HEAD "lora_B.weight", VOCAB, RANK);
    const char *path = save(&m, "embed", PLAIN, NULL, 0);
    for (int k = 0; k < 2; k++) {
        d.tied = k;
        nm_model *model = open_random(&d, &file);
        nm_adapter *a = open_adapter(model, path);
        nm_stack *s = open_stack(model, (const nm_adapter *[]){a}, (float[]){1.5f}, 1);
        logits_of(model, NM_COMPUTE_F32, s, k ? tied : stacked);
        if (!k) logits_of(model, NM_COMPUTE_F32, NULL, base);
        nm_stack_close(&s);
        nm_adapter_close(&a);
        nm_model_close(&model);
        free(file);
    }
    d.tied = false;
    file = rm_make(&d, &size);
    /* W[token] += scale * (column of A) B': as a map [VOCAB][EMBD] that is A' B', so the halves swap and are transposed. */
    static float at[VOCAB * RANK], bt[RANK * EMBD];
    for (int r = 0; r < RANK; r++) {
        for (int t = 0; t < VOCAB; t++) at[t * RANK + r] = m.values[0][r * VOCAB + t];
        for (int c = 0; c < EMBD; c++) bt[r * EMBD + c] = m.values[1][c * RANK + r];
    }
    merge_into(file, size, "token_embd.weight", bt, at, RANK, 1.5f * 2);
    merge_into(file, size, "output.weight", m.values[2], m.values[3], RANK, 1.5f * 2);
    nm_model *model;
    assert_int_equal(nm_model_open_memory(&model, file, size, "merged", NULL), NM_OK);
    logits_of(model, NM_COMPUTE_F32, NULL, merged);
    double worst = distance(stacked, merged), apart = distance(base, merged);
    print_message("  embedding and head: %.1e from merged, which is %.1e from the base\n", worst, apart);
    assert_true(worst < 1e-4 && apart > 0.1);
    assert_memory_not_equal(tied, base, sizeof tied);
    nm_model_close(&model);
    free(file);
    free_made(&m);
}

static void test_zero_and_order(void **state)
{
    (void)state;
    static float base[PROMPT][VOCAB], got[PROMPT][VOCAB], other[PROMPT][VOCAB];
    static const int types[] = {NM_F32, NM_Q4_0};
    made m = small_made();
    const char *path = save(&m, "zero", PLAIN, NULL, 0);
    for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
        random_model d = rm_default("llama");
        void *file;
        d.type = types[k];
        nm_model *model = open_random(&d, &file);
        nm_adapter *a = open_adapter(model, path);
        const nm_adapter *twice[] = {a, a};
        logits_of(model, NM_COMPUTE_DEFAULT, NULL, base);
        nm_stack *zero = open_stack(model, twice, (float[]){0, -0.0f}, 2), *empty = open_stack(model, NULL, NULL, 0);
        logits_of(model, NM_COMPUTE_DEFAULT, zero, got);
        assert_memory_equal(base, got, sizeof base);
        logits_of(model, NM_COMPUTE_DEFAULT, empty, got);
        assert_memory_equal(base, got, sizeof base);
        /* 1 and -1 of the same adapter cancel up to rounding; 0.25 + 0.75 are near 1. */
        nm_stack *one = open_stack(model, twice, (float[]){1}, 1), *parts = open_stack(model, twice, (float[]){0.25f, 0.75f}, 2);
        logits_of(model, NM_COMPUTE_F32, one, got);
        logits_of(model, NM_COMPUTE_F32, parts, other);
        assert_true(distance(got, other) < 1e-4);
        assert_memory_not_equal(base, got, sizeof base);
        nm_stack_close(&zero);
        nm_stack_close(&empty);
        nm_stack_close(&one);
        nm_stack_close(&parts);
        nm_adapter_close(&a);
        nm_model_close(&model);
        free(file);
    }
    free_made(&m);
}

static void continue_from(nm_runner *r, nm_session *s, float out[VOCAB])
{
    int32_t next = 5;
    nm_item it = {.session = s, .tokens = &next, .count = 1, .want = NM_WANT_LAST, .on_logits = keep, .arg = out};
    if (nm_run(r, &it, 1, NULL) != NM_OK) fail_msg("%s", nm_error_text());
}

/* Fork, truncate, save and load keep the stack; loading refuses the base, another order and another scale. */
static void test_sessions(void **state)
{
    (void)state;
    static float all[PROMPT][VOCAB], want[VOCAB], got[VOCAB];
    made m = small_made();
    random_model d = rm_default("llama");
    void *file;
    int32_t ids[PROMPT];
    ids_for(ids);
    nm_model *model = open_random(&d, &file);
    nm_adapter *a = open_adapter(model, save(&m, "first", PLAIN, NULL, 0));
    m.values[1][0] += 1;
    nm_adapter *b = open_adapter(model, save(&m, "second", PLAIN, NULL, 0));
    assert_string_not_equal(nm_adapter_describe(a)->hash, nm_adapter_describe(b)->hash);
    nm_stack *ab = open_stack(model, (const nm_adapter *[]){a, b}, (float[]){1, 0.5f}, 2), *ba = open_stack(model, (const nm_adapter *[]){b, a}, (float[]){0.5f, 1}, 2);
    nm_stack *again = open_stack(model, (const nm_adapter *[]){a, b}, (float[]){1, 0.5f}, 2), *scaled = open_stack(model, (const nm_adapter *[]){a, b}, (float[]){1, 0.25f}, 2);
    nm_runner *r = open_runner(model, NM_COMPUTE_DEFAULT);
    nm_session *s = open_session(model, NM_COMPUTE_DEFAULT, ab), *fork, *loaded;
    run(r, s, ids, PROMPT, all[0]);
    assert_int_equal(nm_session_save(s, in_folder("session")), NM_OK);
    assert_int_equal(nm_session_fork(&fork, s), NM_OK);
    continue_from(r, s, want);
    continue_from(r, fork, got);
    assert_memory_equal(want, got, sizeof want);
    nm_session_truncate(s, PROMPT);
    continue_from(r, s, got);
    assert_memory_equal(want, got, sizeof want);
    assert_int_equal(nm_session_load(&loaded, model, again, in_folder("session")), NM_OK);
    continue_from(r, loaded, got);
    assert_memory_equal(want, got, sizeof want);
    nm_session_close(&loaded);
    const nm_stack *wrong[] = {NULL, ba, scaled};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(nm_session_load(&loaded, model, wrong[i], in_folder("session")), NM_REFUSED);
        assert_non_null(strstr(nm_error_text(), "stack"));
    }
    nm_session_close(&s);
    nm_session_close(&fork);
    s = open_session(model, NM_COMPUTE_DEFAULT, NULL);
    assert_int_equal(nm_session_save(s, in_folder("base session")), NM_OK);
    assert_int_equal(nm_session_load(&loaded, model, ab, in_folder("base session")), NM_REFUSED);
    nm_session_close(&s);
    nm_runner_close(&r);
    nm_stack *stacks[] = {ab, ba, again, scaled};
    for (size_t i = 0; i < 4; i++) nm_stack_close(&stacks[i]);
    nm_adapter_close(&a);
    nm_adapter_close(&b);
    nm_model_close(&model);
    free(file);
    free_made(&m);
}

/* A stack is of one model, as are its adapters. */
static void test_wrong_owner(void **state)
{
    (void)state;
    made m = small_made();
    random_model d = rm_default("llama");
    void *file[2];
    nm_model *one = open_random(&d, &file[0]), *two = open_random(&d, &file[1]);
    nm_adapter *a = open_adapter(one, save(&m, "owner", PLAIN, NULL, 0));
    nm_stack *s, *good = open_stack(one, (const nm_adapter *[]){a}, (float[]){1}, 1);
    nm_session *session;
    assert_int_equal(nm_stack_open(&s, two, (const nm_adapter *[]){a}, (float[]){1}, 1), NM_USAGE);
    assert_int_equal(nm_stack_open(&s, one, (const nm_adapter *[]){a}, (float[]){NAN}, 1), NM_USAGE);
    assert_int_equal(nm_session_open(&session, two, &(nm_session_options){.stack = good}), NM_USAGE);
    nm_stack_close(&good);
    nm_adapter_close(&a);
    nm_model_close(&one);
    nm_model_close(&two);
    free(file[0]);
    free(file[1]);
    free_made(&m);
}

/* ---- Faults ---------------------------------------------------------------------------------------------------------------------------------- */

static nm_model *faulty_model;

static void expect(nm_err code, const char *path, const char *says)
{
    nm_adapter *a;
    int64_t alive = nm_mem_alive();
    nm_err err = nm_adapter_open(&a, faulty_model, path, false);
    if (err != code || !strstr(nm_error_text(), says)) fail_msg("%d \"%s\", expected %d and \"%s\"", err, nm_error_text(), code, says);
    assert_null(a);
    assert_int_equal(nm_mem_alive(), alive);
}

static void bad_config(nm_err code, const char *config, const char *says)
{
    made m = small_made();
    expect(code, save(&m, "bad", config, NULL, 0), says);
    free_made(&m);
}

#define WITH(members) "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, " members "}"

static void test_bad_configs(void **state)
{
    (void)state;
    bad_config(NM_BAD_FILE, "[]", "no JSON object");
    bad_config(NM_BAD_FILE, "{", "bad JSON");
    bad_config(NM_BAD_FILE, "{}", "peft_type");
    bad_config(NM_REFUSED, "{\"peft_type\": \"IA3\"}", "IA3");
    bad_config(NM_BAD_FILE, WITH("\"use_dora\": true"), "lora_magnitude_vector is missing");
    bad_config(NM_REFUSED, WITH("\"modules_to_save\": [\"lm_head\"]"), "modules_to_save");
    bad_config(NM_REFUSED, WITH("\"bias\": \"all\""), "bias");
    bad_config(NM_REFUSED, WITH("\"lora_bias\": true"), "lora_bias");
    bad_config(NM_REFUSED, WITH("\"layer_replication\": [[0, 1]]"), "layer_replication");
    bad_config(NM_REFUSED, WITH("\"trainable_token_indices\": [1]"), "trainable_token_indices");
    bad_config(NM_REFUSED, WITH("\"init_lora_weights\": \"pissa_niter_4\""), "pissa");
    bad_config(NM_REFUSED, WITH("\"alpha_pattern\": {\"(q|k)_proj\": 4}"), "regular expression");
    bad_config(NM_BAD_FILE, WITH("\"alpha_pattern\": {\"q_proj\": \"x\"}"), "no number");
    bad_config(NM_BAD_FILE, "{\"peft_type\": \"LORA\", \"r\": 0}", "\"r\"");
    bad_config(NM_BAD_FILE, "{\"peft_type\": \"LORA\", \"r\": 4.5}", "\"r\"");
    bad_config(NM_BAD_FILE, "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": \"x\"}", "lora_alpha");
    bad_config(NM_BAD_FILE, "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 1e300}", "too large");
    bad_config(NM_BAD_FILE, "{\"peft_type\": \"LORA\", \"r\": 8, \"lora_alpha\": 8}", "rank 4 in the weights");
    bad_config(NM_BAD_FILE, WITH("\"rank_pattern\": {\"down_proj\": 2}"), "rank 4 in the weights");
}

/* Halves of the given names and shapes. */
static void bad_pair(nm_err code, const char *a, int64_t a0, int64_t a1, const char *b, int64_t b0, int64_t b1, const char *says)
{
    made m = {0};
    add(&m, a, a0, a1);
    if (b) add(&m, b, b0, b1);
    expect(code, save(&m, "bad", PLAIN, NULL, 0), says);
    free_made(&m);
}

static void test_bad_tensors(void **state)
{
    (void)state;
    made none = {0};
    expect(NM_BAD_FILE, save(&none, "none", PLAIN, NULL, 0), "no maps");
    bad_pair(NM_BAD_FILE, LAYER0 "mlp.up_proj.lora_A.weight", RANK, EMBD, NULL, 0, 0, "no other half");
    bad_pair(NM_BAD_FILE, LAYER0 "mlp.up_proj.lora_B.weight", RANK, EMBD, LAYER0 "mlp.down_proj.lora_A.weight", RANK, EMBD, "no other half");
    bad_pair(NM_BAD_FILE, LAYER0 "mlp.up_proj.lora_A.weight", RANK, EMBD, LAYER0 "mlp.up_proj.lora_B.weight", FF, RANK + 1, "ranks do not meet");
    bad_pair(NM_BAD_FILE, LAYER0 "mlp.up_proj.lora_A.weight", RANK, EMBD, LAYER0 "mlp.up_proj.lora_B.weight", EMBD, RANK, "maps 256 to 256, and the model's");
    bad_pair(NM_BAD_FILE, LAYER0 "mlp.up_proj.lora_A.weight", RANK, FF, LAYER0 "mlp.up_proj.lora_B.weight", FF, RANK, "maps 512 to 512");
    bad_pair(NM_BAD_FILE, LAYER0 "mlp.up_proj.lora_A.weight", 0, EMBD, LAYER0 "mlp.up_proj.lora_B.weight", FF, 0, "rank of 0");
    bad_pair(NM_BAD_FILE, "base_model.model.model.layers.7.mlp.up_proj.lora_A.weight", RANK, EMBD, "base_model.model.model.layers.7.mlp.up_proj.lora_B.weight",
        FF, RANK, "does not have");
    bad_pair(NM_REFUSED, LAYER0 "mlp.odd_proj.lora_A.weight", RANK, EMBD, LAYER0 "mlp.odd_proj.lora_B.weight", FF, RANK, "another architecture");
    bad_pair(NM_REFUSED, "base_model.model.vision_tower.layers.0.mlp.up_proj.lora_A.weight", RANK, EMBD,
        "base_model.model.vision_tower.layers.0.mlp.up_proj.lora_B.weight", FF, RANK, "another architecture");
    bad_pair(NM_REFUSED, "base_model.model.lm_head.weight", RANK, EMBD, NULL, 0, 0, "whole weight");
    bad_pair(NM_BAD_FILE, LAYER0 "mlp.up_proj.lora_magnitude_vector.weight", 1, EMBD, NULL, 0, 0, "no other half");
    bad_pair(NM_REFUSED, LAYER0 "mlp.up_proj.lora_B.bias", 1, EMBD, NULL, 0, 0, "bias");
    bad_pair(NM_BAD_FILE, EMBED "lora_embedding_A", RANK, VOCAB, EMBED "lora_B.weight", EMBD, RANK, "no other half");
    bad_pair(NM_BAD_FILE, EMBED "lora_A.weight", RANK, VOCAB, EMBED "lora_B.weight", EMBD, RANK, "does not have");
    made m = small_made();
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        m.values[3][17] = bad[i];
        expect(NM_BAD_FILE, save(&m, "bad", PLAIN, NULL, 0), "value 17 is not finite");
    }
    free_made(&m);
    made twice = {0};       /* under two names for one map */
    add(&twice, LAYER0 "mlp.up_proj.lora_A.weight", RANK, EMBD);
    add(&twice, LAYER0 "mlp.up_proj.lora_B.weight", FF, RANK);
    add(&twice, "layers.0.mlp.up_proj.lora_A.weight", RANK, EMBD);
    add(&twice, "layers.0.mlp.up_proj.lora_B.weight", FF, RANK);
    expect(NM_BAD_FILE, save(&twice, "bad", PLAIN, NULL, 0), "there twice");
    free_made(&twice);
}

#define DORA WITH("\"use_dora\": true")

/* One map with magnitudes under a name. */
static made dora_made(const char *name, int64_t values)
{
    made m = {0};
    add(&m, LAYER0 "mlp.up_proj.lora_A.weight", RANK, EMBD);
    add(&m, LAYER0 "mlp.up_proj.lora_B.weight", FF, RANK);
    add(&m, name, values, 1);
    m.tensor[2].rank = 1;
    m.tensor[2].dim[1] = 0;
    return m;
}

static void test_dora_files(void **state)
{
    static const char *const names[] = {LAYER0 "mlp.up_proj.lora_magnitude_vector", LAYER0 "mlp.up_proj.lora_magnitude_vector.weight",
        LAYER0 "mlp.up_proj.lora_magnitude_vector.default", LAYER0 "mlp.up_proj.lora_magnitude_vector.default.weight"};
    char hash[17] = "";
    nm_stack *stack;
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {       /* PEFT's names over the years */
        made m = dora_made(names[i], FF);
        nm_adapter *a = open_adapter(faulty_model, save(&m, "bad", DORA, NULL, 0));
        if (!i) snprintf(hash, sizeof hash, "%s", nm_adapter_describe(a)->hash);
        assert_string_equal(hash, nm_adapter_describe(a)->hash);
        nm_adapter_close(&a);
        expect(NM_REFUSED, save(&m, "bad", PLAIN, NULL, 0), "use_dora is not set");
        m.values[2][5] = NAN;
        expect(NM_BAD_FILE, save(&m, "bad", DORA, NULL, 0), "value 5 is not finite");
        free_made(&m);
    }
    made less = dora_made(names[0], FF - 1), wide = dora_made(names[0], FF), huge = dora_made(names[0], FF);
    expect(NM_BAD_FILE, save(&less, "bad", DORA, NULL, 0), "holds 511 values where the map has 512 outputs");
    wide.tensor[2].rank = 2;
    wide.tensor[2].dim[1] = 1;
    expect(NM_BAD_FILE, save(&wide, "bad", DORA, NULL, 0), "lora_magnitude_vector");
    huge.values[0][3] = huge.values[1][7] = 1e30f;      /* finite, and their product is not */
    nm_adapter *a = open_adapter(faulty_model, save(&huge, "bad", DORA, NULL, 0));
    const nm_adapter *list[] = {a};
    assert_int_equal(nm_stack_open(&stack, faulty_model, list, (float[]){1}, 1), NM_BAD_FILE);
    assert_non_null(strstr(nm_error_text(), "no length"));
    assert_null(stack);
    nm_adapter_close(&a);
    free_made(&less);
    free_made(&wide);
    free_made(&huge);
    made table = {0};
    add(&table, EMBED "lora_embedding_A", RANK, VOCAB);
    add(&table, EMBED "lora_embedding_B", EMBD, RANK);
    expect(NM_REFUSED, save(&table, "bad", DORA, NULL, 0), "DoRA of an embedding");
    free_made(&table);
}

static void test_bad_folders(void **state)
{
    (void)state;
    char file[300];
    made m = small_made();
    const char *path = save(&m, "whole", PLAIN, NULL, 0);
    expect(NM_NOT_FOUND, in_folder("nowhere"), "no such file");
    snprintf(file, sizeof file, "%s/adapter_model.safetensors", path);
    nm_adapter *a = open_adapter(faulty_model, file);       /* by itself, beside its configuration */
    nm_adapter_close(&a);
    assert_int_equal(truncate(file, 500), 0);
    expect(NM_BAD_FILE, path, "adapter_model.safetensors");
    unlink(file);
    expect(NM_NOT_FOUND, path, "adapter_model.safetensors");
    snprintf(file, sizeof file, "%s/adapter_model.bin", path);
    assert_int_equal(nm_file_write(file, "x", 1), NM_OK);
    expect(NM_REFUSED, path, "pickle");
    snprintf(file, sizeof file, "%s/adapter_config.json", path);
    unlink(file);
    free_made(&m);
}

/* A configuration cut at every byte, and every allocation failing in turn. */
static void test_cut_and_memory(void **state)
{
    (void)state;
    char file[300];
    made m = small_made();
    const char *path = save(&m, "cut", PLAIN, NULL, 0);
    snprintf(file, sizeof file, "%s/adapter_config.json", path);
    for (size_t n = 0; n < sizeof PLAIN - 1; n++) {
        assert_int_equal(nm_file_write(file, PLAIN, n), NM_OK);
        expect(NM_BAD_FILE, path, "adapter_config.json");
    }
    save(&m, "cut", PLAIN, NULL, 0);
    int64_t alive = nm_mem_alive();
    nm_err err = NM_NO_MEMORY;
    for (int64_t n = 0; err == NM_NO_MEMORY; n++) {
        nm_adapter *a = NULL;
        nm_stack *s = NULL;
        nm_mem_fail_after(n);
        err = nm_adapter_open(&a, faulty_model, path, false);
        if (err == NM_OK) err = nm_stack_open(&s, faulty_model, (const nm_adapter *[]){a}, (float[]){1}, 1);
        nm_mem_fail_after(-1);
        nm_stack_close(&s);
        nm_adapter_close(&a);
        assert_int_equal(nm_mem_alive(), alive);
    }
    assert_int_equal(err, NM_OK);
    free_made(&m);
}

/* ---- GGUF ------------------------------------------------------------------------------------------------------------------------------------ */

static void gguf_half(gguf_writer *w, const char *name, int64_t in, int64_t out)
{
    float *v = malloc((size_t)(in * out) * sizeof *v);
    for (int64_t i = 0; i < in * out; i++) v[i] = (float)nm_rng_unit(9, 1, (uint64_t)i) - 0.5f;
    gw_tensor_values(w, name, NM_F32, 2, (int64_t[]){in, out}, v);
    free(v);
}

static const char *save_gguf(const char *type, const char *lora, const char *arch, const char *a, int64_t a0, int64_t a1, const char *b, int64_t b0, int64_t b1)
{
    gguf_writer w = {0};
    const char *path = in_folder("lora.gguf");
    gw_string(&w, "general.architecture", arch);
    gw_string(&w, "general.type", type);
    gw_string(&w, "adapter.type", lora);
    gw_f32(&w, "adapter.lora.alpha", 8);
    if (a) gguf_half(&w, a, a0, a1);
    if (b) gguf_half(&w, b, b0, b1);
    gw_save(&w, path);
    return path;
}

static void test_gguf_faults(void **state)
{
    (void)state;
    static const char a[] = "blk.0.ffn_up.weight.lora_a", b[] = "blk.0.ffn_up.weight.lora_b";
    nm_adapter *good = open_adapter(faulty_model, save_gguf("adapter", "lora", "llama", a, EMBD, 4, b, 4, FF));
    assert_string_equal(nm_adapter_describe(good)->format, "gguf");
    assert_int_equal(nm_adapter_describe(good)->n_maps, 1);
    nm_adapter_close(&good);
    expect(NM_REFUSED, save_gguf("model", "lora", "llama", a, EMBD, 4, b, 4, FF), "general.type");
    expect(NM_REFUSED, save_gguf("adapter", "control_vector", "llama", a, EMBD, 4, b, 4, FF), "adapter.type");
    expect(NM_REFUSED, save_gguf("adapter", "lora", "qwen2", a, EMBD, 4, b, 4, FF), "made for qwen2");
    expect(NM_BAD_FILE, save_gguf("adapter", "lora", "llama", a, EMBD, 4, NULL, 0, 0), "no other half");
    expect(NM_BAD_FILE, save_gguf("adapter", "lora", "llama", NULL, 0, 0, b, 4, FF), "no other half");
    expect(NM_BAD_FILE, save_gguf("adapter", "lora", "llama", a, EMBD, 4, b, 5, FF), "ranks do not meet");
    expect(NM_BAD_FILE, save_gguf("adapter", "lora", "llama", a, EMBD, 4, b, 4, EMBD), "belongs to another model");
    expect(NM_BAD_FILE, save_gguf("adapter", "lora", "llama", "blk.9.ffn_up.weight.lora_a", EMBD, 4, "blk.9.ffn_up.weight.lora_b", 4, FF), "does not have");
    expect(NM_REFUSED, save_gguf("adapter", "lora", "llama", "blk.0.ffn_up.weight", EMBD, 4, NULL, 0, 0), "no half");
    expect(NM_BAD_FILE, save_gguf("adapter", "lora", "llama", NULL, 0, 0, NULL, 0, 0), "no maps");
}

/* ---- Identity ------------------------------------------------------------------------------------------------------------------------------- */

static void save_sketched(const made *m, const char *name, const nm_model *base)
{
    nm_identity id;
    nm_str sketch = {0};
    char tokenizer[17];
    assert_int_equal(nm_identity_of(&id, base), NM_OK);
    assert_int_equal(nm_identity_write(&id, &sketch, tokenizer), NM_OK);
    nm_safe_meta meta[] = {{NM_KEY_SKETCH, sketch.data}, {NM_KEY_TOKENIZER, tokenizer}, {NM_KEY_TYPE, id.type}};
    save(m, name, PLAIN, meta, 3);
    nm_str_free(&sketch);
}

static void matches(const random_model *d, const char *path, nm_err code, bool force, nm_match match, const char *says)
{
    void *file;
    nm_adapter *a;
    nm_model *m = open_random(d, &file);
    nm_err err = nm_adapter_open(&a, m, path, force);
    if (err != code || (says && !strstr(nm_error_text(), says))) fail_msg("%d \"%s\", expected %d", err, nm_error_text(), code);
    if (!err && nm_adapter_describe(a)->match != match) fail_msg("match %d, expected %d", nm_adapter_describe(a)->match, match);
    if (!err) print_message("  %s as %s: correlation %.4f\n", path, nm_model_describe(m)->file_type, nm_adapter_describe(a)->correlation);
    nm_adapter_close(&a);
    nm_model_close(&m);
    free(file);
}

/* Three tiers: the same weights in any quantisation fit; other weights of the same shape and other tokenizers do not. */
static void test_identity(void **state)
{
    (void)state;
    made m = small_made();
    random_model d = rm_default("llama");
    void *file;
    d.type = NM_Q4_1;
    d.vocabulary = RM_VOCAB_BPE;
    nm_model *base = open_random(&d, &file);
    save_sketched(&m, "sketched", base);
    nm_model_close(&base);
    free(file);
    const char *path = in_folder("sketched");
    matches(&d, path, NM_OK, false, NM_MATCH_SAME, NULL);
    d.as_f32 = true;        /* what counts is the values */
    matches(&d, path, NM_OK, false, NM_MATCH_SAME, NULL);
    d.seed = 2;
    matches(&d, path, NM_REFUSED, false, 0, "other weights");
    matches(&d, path, NM_OK, true, NM_MATCH_FORCED, NULL);
    d.seed = 1;
    d.vocabulary = RM_VOCAB_SPM;
    matches(&d, path, NM_REFUSED, false, 0, "another tokenizer");
    nm_safe_meta bad = {NM_KEY_SKETCH, "1:zzzz"}, later = {NM_KEY_SKETCH, "2:whatever"};
    matches(&d, save(&m, "bad sketch", PLAIN, &bad, 1), NM_BAD_FILE, false, 0, "sketch");
    matches(&d, save(&m, "later sketch", PLAIN, &later, 1), NM_OK, false, NM_MATCH_UNVERIFIED, NULL);
    free_made(&m);
}

/* ---- Scales ----------------------------------------------------------------------------------------------------------------------------------- */

static void scale_of(const char *config, float q, float down)
{
    made m = small_made();
    nm_lora l;
    if (nm_lora_read(&l, save(&m, "scales", config, NULL, 0)) != NM_OK) fail_msg("%s", nm_error_text());
    assert_float_equal(nm_lora_find(&l, "model.layers.0.self_attn.q_proj")->scale, q, 1e-6);
    assert_float_equal(nm_lora_find(&l, "model.layers.0.mlp.down_proj")->scale, down, 1e-6);
    assert_string_equal(l.base, strstr(config, "org/base") ? "org/base" : "");
    nm_lora_free(&l);
    free_made(&m);
}

static void test_scales(void **state)
{
    (void)state;
    scale_of(PLAIN, 2, 2);
    scale_of(WITH("\"use_rslora\": true"), 4, 4);
    scale_of(WITH("\"alpha_pattern\": {\"q_proj\": 2}"), 0.5f, 2);
    scale_of(WITH("\"alpha_pattern\": {\"layers\\\\.\\\\d+\\\\.mlp.down_proj\": 16, \"proj\": 99}"), 2, 4);
    scale_of(WITH("\"alpha_pattern\": {\"^model.layers.0.self_.*\": 1}"), 0.25f, 2);
    scale_of("{\"peft_type\": \"LORA\", \"r\": 7, \"lora_alpha\": 8, \"rank_pattern\": {\"q_proj\": 4, \"down_proj\": 4}}", 2, 2);
}

static void test_patterns(void **state)
{
    (void)state;
    static const struct { const char *pattern, *module; int matches; } cases[] = {
        {"q_proj", "model.layers.0.self_attn.q_proj", 1}, {"q_proj", "q_proj", 1}, {"proj", "model.layers.0.self_attn.q_proj", 0},
        {"layers.1.mlp", "model.layers.11.mlp", 0}, {"layers.1.*mlp", "model.layers.11.mlp", 1}, {"[0-9]+.mlp", "layers.12.mlp", 1},
        {"x?mlp$", "layers.1.mlp", 1}, {"", "a", 0}, {"a+a+a+a+a+a+a+a+b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 0}, {"(a", "a", -1}, {"a{1,9}", "a", -1},
        {"\\w", "a", -1}, {"\\", "a", -1}, {"*", "a", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool matches;
        nm_err err = nm_peft_pattern(cases[i].pattern, cases[i].module, &matches);
        int got = err == NM_OK ? matches : -1;
        if (got != cases[i].matches) fail_msg("%s on %s: %d", cases[i].pattern, cases[i].module, got);
    }
}

/* ---- Every architecture: names, rows, files, merging ------------------------------------------------------------------------------------------ */

static const char *const archs[] = {"llama", "qwen2", "qwen3", "gemma2", "gemma3", "smollm3", "olmo2", "granite", "stablelm", "falcon", "gpt2", "gptneox"};

/* An adapter of small random values for all maps of a model, with Hugging Face's names. */
static nm_lora lora_for(const nm_model *m, int64_t rank)
{
    nm_lora l = {.format = "peft", .naming = NM_NAMES_HF, .path = nm_strndup("made", 4), .base = nm_strndup("org/base", 8), .arch = nm_strndup("", 0)};
    for (size_t i = 0; i < m->program.steps; i++) {
        const nm_step *s = &m->program.step[i];
        if (s->op != NM_OP_LINEAR && s->op != NM_OP_EMBED) continue;
        const nm_weight *w = &m->weight[nm_weight_of(m->program.operand, s, 0)];
        bool table = s->op == NM_OP_EMBED, tied = !table && !strcmp(w->name, "token_embd.weight");
        char *stem = nm_strndup(w->name, strlen(w->name) - strlen(".weight")), *name;
        if (nm_name_to_hf(&name, &m->config, tied ? "output" : stem) != NM_OK) fail_msg("%s", nm_error_text());
        nm_pair *p;
        assert_int_equal(nm_lora_add(&l, name, name, table, table ? w->n : w->k, table ? w->k : w->n, rank + (int64_t)(i % 2), &p), NM_OK);
        for (int64_t k = 0; k < p->rank * p->in; k++) p->a[k] = (float)(nm_rng_unit(4, 2 * i, (uint64_t)k) - 0.5) * 0.2f;
        for (int64_t k = 0; k < p->rank * p->out; k++) p->b[k] = (float)(nm_rng_unit(4, 2 * i + 1, (uint64_t)k) - 0.5) * 0.2f;
        p->scale = i % 3 ? 0.75f : 1.25f;
        nm_free(stem);
        nm_free(name);
    }
    assert_int_equal(nm_lora_sort(&l), NM_OK);
    return l;
}

static void logits_with(const nm_model *m, const char *path, float scale, float out[PROMPT][VOCAB])
{
    nm_adapter *a = open_adapter(m, path);
    nm_stack *s = open_stack(m, (const nm_adapter *[]){a}, &scale, 1);
    logits_of(m, NM_COMPUTE_F32, s, out);
    nm_stack_close(&s);
    nm_adapter_close(&a);
}

/* Written as a PEFT folder and as a GGUF file and each from the other, the adapter does the same; merged into the weights nearly so. */
static void test_architectures(void **state)
{
    (void)state;
    static float want[PROMPT][VOCAB], got[PROMPT][VOCAB], base[PROMPT][VOCAB];
    const char *peft = in_folder("arch"), *gguf = in_folder("arch.gguf"), *back = in_folder("arch-back"), *merged = in_folder("arch-merged.gguf");
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        random_model d = rm_default(archs[i]);
        void *file;
        d.tied = i % 2;
        nm_model *m = open_random(&d, &file), *whole;
        nm_lora l = lora_for(m, RANK);
        if (nm_lora_write_peft(&l, peft, NULL) != NM_OK) fail_msg("%s: %s", archs[i], nm_error_text());
        nm_lora_free(&l);
        if (nm_adapter_export(peft, m, gguf, true, NULL) != NM_OK) fail_msg("%s: %s", archs[i], nm_error_text());
        if (nm_adapter_export(gguf, m, back, false, NULL) != NM_OK) fail_msg("%s: %s", archs[i], nm_error_text());
        logits_of(m, NM_COMPUTE_F32, NULL, base);
        logits_with(m, peft, 0.5f, want);
        logits_with(m, gguf, 0.5f, got);
        double file_error = distance(want, got);
        logits_with(m, back, 0.5f, got);
        file_error = fmax(file_error, distance(want, got));
        nm_adapter *a = open_adapter(m, back);
        assert_int_equal(nm_adapter_describe(a)->match, NM_MATCH_SAME);      /* export had the weights: it sketched them */
        nm_stack *s = open_stack(m, (const nm_adapter *[]){a}, (float[]){0.5f}, 1);
        nm_merge_report report;
        if (nm_model_merge(m, s, merged, &(nm_merge_options){0}, &report) != NM_OK) fail_msg("%s: %s", archs[i], nm_error_text());
        assert_int_equal(report.n_maps, nm_adapter_describe(a)->n_maps);
        if (nm_model_open(&whole, merged, NULL) != NM_OK) fail_msg("%s: %s", archs[i], nm_error_text());
        logits_of(whole, NM_COMPUTE_F32, NULL, got);
        double merge_error = distance(want, got), change = distance(want, base);
        print_message("  %-8s %2d maps: moved %.2g, files differ by %.1e, merged by %.1e\n", archs[i], (int)report.n_maps, change, file_error, merge_error);
        assert_true(change > 0.01 && file_error <= 1e-4 * (1 + change) && merge_error <= 1e-3 * (1 + change));
        nm_model_close(&whole);
        nm_stack_close(&s);
        nm_adapter_close(&a);
        nm_model_close(&m);
        free(file);
    }
}

/* Names and rows go to GGUF's form and back to the bit. */
static void test_names(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        random_model d = rm_default(archs[i]);
        void *file;
        nm_model *m = open_random(&d, &file);
        nm_lora l = lora_for(m, 2), same = lora_for(m, 2);
        uint64_t hash = nm_lora_hash(&l);
        assert_int_equal(nm_lora_to_gguf(&l, &m->config), NM_OK);
        assert_int_not_equal(nm_lora_hash(&l), hash);
        assert_int_equal(nm_lora_to_hf(&l, &m->config), NM_OK);
        assert_int_equal(nm_lora_hash(&l), hash);
        assert_int_equal(l.pairs, same.pairs);
        nm_lora_free(&l);
        nm_lora_free(&same);
        nm_model_close(&m);
        free(file);
    }
}

/* What PEFT itself computes with adapters on every kind of map of six tiny models (tests/make_adapter_oracle.py). */
static void check_peft(const char *name)
{
    const char *slash = strrchr(__FILE__, '/');     /* tests/data lies beside this file; the path is as the compiler was given it */
    char path[4096], *text;
    size_t size;
    nm_model *m;
    nm_json record;
    int32_t ids[MOST_IDS], n;
    snprintf(path, sizeof path, "%s/tiny/%s.gguf", getenv("NOMOAT_TEST_DATA"), name);
    if (nm_model_open(&m, path, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    snprintf(path, sizeof path, "%.*s/../data/adapter/%s", slash ? (int)(slash - __FILE__) : 1, slash ? __FILE__ : ".", name);
    nm_adapter *a = open_adapter(m, path);
    strncat(path, ".json", sizeof path - strlen(path) - 1);
    assert_int_equal(nm_file_read(path, 1 << 20, &text, &size), NM_OK);
    assert_int_equal(nm_json_parse(&record, text, size), NM_OK);
    n = ids_of(&record, ids);
    nm_stack *stack = open_stack(m, (const nm_adapter *[]){a}, (float[]){1}, 1);
    nm_session *s = open_session(m, NM_COMPUTE_F32, stack);
    nm_runner *r = open_runner(m, NM_COMPUTE_F32);
    int32_t vocab = nm_model_describe(m)->n_vocab;
    float *out = malloc((size_t)n * (size_t)vocab * sizeof *out);
    run(r, s, ids, n, out);
    double worst = 0, most = 0;
    for (int32_t i = 0; i < vocab; i++) {
        double want = number(&item(&record, "logits")->array.items[i]);
        worst = fmax(worst, fabs(want - (double)out[(size_t)(n - 1) * (size_t)vocab + (size_t)i]));
        most = fmax(most, fabs(want));
    }
    print_message("  %-8s %d maps: logits within %.1e of PEFT's (largest %.3g)\n", name, (int)nm_adapter_describe(a)->n_maps, worst, most);
    assert_true(worst <= 1e-4 * (1 + most));
    free(out);
    nm_runner_close(&r);
    nm_session_close(&s);
    nm_stack_close(&stack);
    nm_json_free(&record);
    nm_free(text);
    nm_adapter_close(&a);
    nm_model_close(&m);
}

static void test_peft(void **state)
{
    (void)state;
    static const char *const names[] = {"llama3", "qwen3", "gemma3", "gpt2", "gpt_neox"};
    if (!getenv("NOMOAT_TEST_DATA")) {
        print_message("skipped: adapters made by PEFT: NOMOAT_TEST_DATA is not set\n");
        skip();
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) check_peft(names[i]);
}

/* ---- Algebra ---------------------------------------------------------------------------------------------------------------------------------- */

static const nm_combine_options exact = {.method = NM_COMBINE_EXACT};

static nm_combine_report combine(const char *a, float x, const char *b, float y, nm_combine_options o, const char *out)
{
    nm_combine_report report;
    if (nm_adapter_combine((const char *[]){a, b}, (float[]){x, y}, 2, &o, out, NULL, &report) != NM_OK) fail_msg("%s", nm_error_text());
    return report;
}

static void test_combine(void **state)
{
    (void)state;
    static float want[PROMPT][VOCAB], got[PROMPT][VOCAB];
    made m = small_made(), n = {0};
    add(&n, LAYER0 "self_attn.q_proj.lora_A.weight", 2, EMBD);
    add(&n, LAYER0 "self_attn.q_proj.lora_B.weight", EMBD, 2);
    add(&n, LAYER0 "self_attn.v_proj.lora_A.weight", 2, EMBD);
    add(&n, LAYER0 "self_attn.v_proj.lora_B.weight", KV, 2);
    const char *one = save(&m, "one", PLAIN, NULL, 0), *two = save(&n, "two", "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 3}", NULL, 0);
    const char *sum = in_folder("sum"), *small = in_folder("small");
    nm_combine_report r = combine(one, 0.7f, two, -0.3f, exact, sum);
    assert_true(r.n_maps == 3 && r.max_rank == RANK + 2 && fabs(r.kept_energy - 1) < 1e-12 && r.effective_rank > 1);
    nm_adapter *a = open_adapter(faulty_model, one), *b = open_adapter(faulty_model, two);
    nm_stack *s = open_stack(faulty_model, (const nm_adapter *[]){a, b}, (float[]){0.7f, -0.3f}, 2);
    logits_of(faulty_model, NM_COMPUTE_F32, s, want);
    logits_with(faulty_model, sum, 1, got);
    assert_true(distance(want, got) < 1e-4);
    /* The whole rank again loses nothing, and a lower one what it says. */
    nm_combine_options o = exact;
    o.rank = RANK + 2;
    r = combine(one, 0.7f, two, -0.3f, o, small);
    assert_true(fabs(r.kept_energy - 1) < 1e-9);
    o.rank = 3;
    r = combine(one, 0.7f, two, -0.3f, o, in_folder("smaller"));
    assert_true(r.max_rank == 3 && r.kept_energy < 0.999 && r.kept_energy > 0.3);
    /* An adapter twice at a half each is itself, and its rank does not grow when compressed. */
    o.rank = RANK;
    r = combine(one, 0.5f, one, 0.5f, o, in_folder("itself"));
    assert_true(fabs(r.kept_energy - 1) < 1e-9);
    logits_with(faulty_model, one, 1, want);
    logits_with(faulty_model, in_folder("itself"), 1, got);
    assert_true(distance(want, got) < 1e-4);
    nm_combine_report unused;
    o = (nm_combine_options){.method = NM_COMBINE_LINEAR};
    assert_int_equal(nm_adapter_combine((const char *[]){one, two}, (float[]){1, 1}, 2, &o, sum, NULL, &unused), NM_USAGE);
    assert_non_null(strstr(nm_error_text(), "different ranks"));
    nm_stack_close(&s);
    nm_adapter_close(&a);
    nm_adapter_close(&b);
    free_made(&m);
    free_made(&n);
}

/* Halves of one value each, by hand. */
static void combined_half(nm_combine method, float density, const float *a, const float *b, float *out)
{
    static const char config[] = "{\"peft_type\": \"LORA\", \"r\": 1, \"lora_alpha\": 1}";
    made x = {0}, y = {0};
    nm_lora l;
    add(&x, "m.lora_A.weight", 1, 4);
    add(&x, "m.lora_B.weight", 1, 1);
    add(&y, "m.lora_A.weight", 1, 4);
    add(&y, "m.lora_B.weight", 1, 1);
    memcpy(x.values[0], a, 4 * sizeof *a);
    memcpy(y.values[0], b, 4 * sizeof *b);
    const char *p = save(&x, "x", config, NULL, 0), *q = save(&y, "y", config, NULL, 0);
    combine(p, 1, q, 1, (nm_combine_options){.method = method, .density = density}, in_folder("half"));
    assert_int_equal(nm_lora_read(&l, in_folder("half")), NM_OK);
    memcpy(out, l.pair->a, 4 * sizeof *out);
    nm_lora_free(&l);
    free_made(&x);
    free_made(&y);
}

static void test_methods(void **state)
{
    (void)state;
    const float a[4] = {1, -2, 3, 0.5f}, b[4] = {2, 4, -1, 0.25f};
    float out[4];
    combined_half(NM_COMBINE_LINEAR, 0, a, b, out);
    for (int i = 0; i < 4; i++) assert_float_equal(out[i], a[i] + b[i], 1e-6);
    /* TIES at one half: (-2, 3) and (2, 4) stay; signs elected by the sums of what stays; the mean of those that agree. */
    combined_half(NM_COMBINE_TIES, 0.5f, a, b, out);
    const float ties[4] = {2, 4, 3, 0};
    for (int i = 0; i < 4; i++) assert_float_equal(out[i], ties[i], 1e-6);
    combined_half(NM_COMBINE_DARE, 1, a, b, out);       /* nothing is dropped */
    for (int i = 0; i < 4; i++) assert_float_equal(out[i], a[i] + b[i], 1e-6);
    combined_half(NM_COMBINE_DARE, 0.5f, a, b, out);    /* each stays doubled, or not at all */
    for (int i = 0; i < 4; i++) {
        bool found = false;
        for (int k = 0; k < 4; k++) found = found || fabsf(out[i] - (k & 1 ? 2 * a[i] : 0) - (k & 2 ? 2 * b[i] : 0)) < 1e-6f;
        assert_true(found);
    }
}

/* ---- As PEFT's add_weighted_adapter does (tests/make_combine_oracle.py) ---------------------------------------------------------------------- */

static void take_list(const nm_json *list, float *out, size_t count)
{
    assert_int_equal(list->array.count, count);
    for (size_t i = 0; i < count; i++) out[i] = (float)number(&list->array.items[i]);
}

/* One of the two given adapters, as a folder. */
static const char *save_given(const nm_json *record, const char *which, int64_t in, int64_t out)
{
    const nm_json *given = item(record, which);
    int64_t rank = item(given, "rank")->integer;
    char config[128];
    made m = {0};
    add(&m, "m.lora_A.weight", rank, in);
    add(&m, "m.lora_B.weight", out, rank);
    take_list(item(given, "a"), m.values[0], (size_t)(rank * in));
    take_list(item(given, "b"), m.values[1], (size_t)(out * rank));
    snprintf(config, sizeof config, "{\"peft_type\": \"LORA\", \"r\": %d, \"lora_alpha\": %g}", (int)rank, number(item(given, "alpha")));
    const char *path = save(&m, which, config, NULL, 0);
    free_made(&m);
    return path;
}

static double worst_of(const float *got, const nm_json *list, size_t count, double scale)
{
    double worst = 0;
    assert_int_equal(list->array.count, count);
    for (size_t i = 0; i < count; i++) worst = fmax(worst, fabs((double)got[i] * scale - number(&list->array.items[i])));
    return worst;
}

/* Halves where PEFT adds halves; else the product, as halves of the same product differ. */
static double worst_case(const nm_pair *p, const nm_json *c)
{
    float delta[256];
    if (nm_json_get(c, "a")) return fmax(worst_of(p->a, item(c, "a"), (size_t)(p->rank * p->in), (double)p->scale), worst_of(p->b, item(c, "b"), (size_t)(p->out * p->rank), 1));
    for (int64_t i = 0; i < p->out; i++)
        for (int64_t k = 0; k < p->in; k++) {
            double sum = 0;
            for (int64_t r = 0; r < p->rank; r++) sum += (double)p->b[i * p->rank + r] * (double)p->a[r * p->in + k];
            delta[i * p->in + k] = (float)sum;
        }
    return worst_of(delta, item(c, "delta"), (size_t)(p->in * p->out), (double)p->scale);
}

static void test_methods_as_peft(void **state)
{
    (void)state;
    char path[4096], *text;
    size_t size;
    nm_json record;
    const char *slash = strrchr(__FILE__, '/');
    snprintf(path, sizeof path, "%.*s/../data/adapter/combine.json", slash ? (int)(slash - __FILE__) : 1, slash ? __FILE__ : ".");
    assert_int_equal(nm_file_read(path, 1 << 20, &text, &size), NM_OK);
    assert_int_equal(nm_json_parse(&record, text, size), NM_OK);
    int64_t in = item(&record, "in")->integer, out = item(&record, "out")->integer;
    char first[256], second[256];       /* in_folder's strings do not last */
    snprintf(first, sizeof first, "%s", save_given(&record, "first", in, out));
    snprintf(second, sizeof second, "%s", save_given(&record, "second", in, out));
    const nm_json *cases = item(&record, "cases");
    for (size_t i = 0; i < cases->array.count; i++) {
        const nm_json *c = &cases->array.items[i], *weights = item(c, "weights");
        char method[16];
        snprintf(method, sizeof method, "%.*s", (int)item(c, "method")->string.length, item(c, "method")->string.bytes);
        nm_combine_options o = {.density = (float)number(item(c, "density")), .rank = (int32_t)item(c, "rank")->integer};
        o.method = !strcmp(method, "linear") ? NM_COMBINE_LINEAR : !strcmp(method, "ties") ? NM_COMBINE_TIES : NM_COMBINE_EXACT;
        combine(first, (float)number(&weights->array.items[0]), second, (float)number(&weights->array.items[1]), o, in_folder("as peft"));
        nm_lora l;
        assert_int_equal(nm_lora_read(&l, in_folder("as peft")), NM_OK);
        double worst = worst_case(l.pair, c);
        print_message("%s case %d: apart by %.1e\n", method, (int)i, worst);
        assert_true(worst < 1e-5);
        nm_lora_free(&l);
    }
    nm_json_free(&record);
    nm_free(text);
}

typedef struct seen { int count; double first, relative; } seen;

static nm_err see(void *arg, const nm_map_change *c)
{
    seen *x = arg;
    x->count++;
    x->first += c->first;
    if (!isnan(c->relative)) x->relative += c->relative;
    return NM_OK;
}

static void test_diff(void **state)
{
    (void)state;
    made m = small_made();
    const char *path = save(&m, "diff", PLAIN, NULL, 0);
    seen alone = {0}, same = {0};
    assert_int_equal(nm_adapter_diff(path, NULL, faulty_model, see, &alone), NM_OK);
    assert_true(alone.count == 2 && alone.first > 0 && alone.relative > 0);
    assert_int_equal(nm_adapter_diff(path, path, faulty_model, see, &same), NM_OK);
    assert_true(same.count == 2 && same.relative < 1e-3 * alone.relative);
    nm_adapter_facts facts;
    assert_int_equal(nm_adapter_inspect(&facts, path), NM_OK);
    assert_true(facts.n_maps == 2 && facts.max_rank == RANK && facts.min_scale == 2 && !facts.sketched);
    assert_string_equal(facts.base, "org/base");
    free_made(&m);
}

/* A merge without a stack quantises a model anew: the sketch knows the weights again in every type. */
static void test_requantised(void **state)
{
    (void)state;
    static const char *const types[] = {"Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0", "BF16", "Q3_K"};
    random_model d = rm_default("llama");
    void *file;
    made m = small_made();
    d.vocabulary = RM_VOCAB_BPE;
    nm_model *base = open_random(&d, &file), *other;
    save_sketched(&m, "known", base);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        nm_merge_report report;
        nm_adapter *a;
        if (nm_model_merge(base, NULL, in_folder("requantised.gguf"), &(nm_merge_options){.type = types[i]}, &report) != NM_OK) fail_msg("%s", nm_error_text());
        assert_int_equal(report.n_maps, 0);
        if (nm_model_open(&other, in_folder("requantised.gguf"), NULL) != NM_OK) fail_msg("%s", nm_error_text());
        if (nm_adapter_open(&a, other, in_folder("known"), false) != NM_OK) fail_msg("%s", nm_error_text());
        print_message("  F32 as %s: error %.4f, correlation %.4f\n", nm_model_describe(other)->file_type, report.relative_error, nm_adapter_describe(a)->correlation);
        assert_int_equal(nm_adapter_describe(a)->match, NM_MATCH_REQUANTISED);
        nm_adapter_close(&a);
        nm_model_close(&other);
    }
    nm_merge_report unused;
    assert_int_equal(nm_model_merge(base, NULL, in_folder("x.gguf"), &(nm_merge_options){.type = "I8"}, &unused), NM_USAGE);
    nm_model_close(&base);
    free(file);
    free_made(&m);
}

/* Writing with every allocation failing in turn leaks nothing, and reports it. */
static void test_writing_memory(void **state)
{
    (void)state;
    made m = small_made();
    char path[256];
    snprintf(path, sizeof path, "%s", save(&m, "memory", PLAIN, NULL, 0));
    int64_t alive = nm_mem_alive();
    for (int gguf = 0; gguf < 2; gguf++) {
        nm_err err = NM_NO_MEMORY;
        for (int64_t n = 0; err == NM_NO_MEMORY; n++) {
            nm_combine_options o = {.rank = 2, .base = faulty_model, .gguf = gguf};
            nm_combine_report report;
            nm_mem_fail_after(n);
            err = nm_adapter_combine((const char *[]){path, path}, (float[]){1, 2}, 2, &o, in_folder(gguf ? "memory.gguf" : "memory-out"), NULL, &report);
            nm_mem_fail_after(-1);
            assert_int_equal(nm_mem_alive(), alive);
        }
        if (err != NM_OK) fail_msg("%s", nm_error_text());
    }
    free_made(&m);
}

static int open_faulty(void **state)
{
    random_model d = rm_default("llama");
    static void *file;
    faulty_model = open_random(&d, &file);
    *state = file;
    return make_folder(state);
}

static int close_faulty(void **state)
{
    nm_model_close(&faulty_model);
    return remove_folder(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_recorded), cmocka_unit_test(test_batch), cmocka_unit_test(test_switching),
        cmocka_unit_test(test_embedding_and_head), cmocka_unit_test(test_zero_and_order), cmocka_unit_test(test_sessions),
        cmocka_unit_test(test_wrong_owner), cmocka_unit_test(test_bad_configs), cmocka_unit_test(test_bad_tensors), cmocka_unit_test(test_dora_files),
        cmocka_unit_test(test_bad_folders),
        cmocka_unit_test(test_cut_and_memory), cmocka_unit_test(test_gguf_faults), cmocka_unit_test(test_identity), cmocka_unit_test(test_scales),
        cmocka_unit_test(test_patterns), cmocka_unit_test(test_names), cmocka_unit_test(test_architectures), cmocka_unit_test(test_peft),
        cmocka_unit_test(test_combine), cmocka_unit_test(test_methods), cmocka_unit_test(test_methods_as_peft), cmocka_unit_test(test_diff), cmocka_unit_test(test_requantised),
        cmocka_unit_test(test_writing_memory)};
    return cmocka_run_group_tests_name("adapter", tests, open_faulty, close_faulty);
}
