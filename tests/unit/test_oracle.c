/* Real models against recorded outputs of transformers (fp32 on dequantised weights). Needs NOMOAT_TEST_DATA and NOMOAT_TEST_MODELS, a folder
 * with the GGUF files; a model that is not there is skipped by name.
 *
 *     by default              SmolLM2: everything; Gemma and Qwen 0.5B: their first recorded case; Qwen 1.5B: nothing.
 *                             62 s of CPU time with AVX2, 40 s with AVX-512 VNNI, so half of that on two cores
 *     NOMOAT_TEST_LONG=1      everything of every model
 *     NOMOAT_TEST_QUICK=1     no windows (instrumented builds)
 *
 * --compute f32: every NLL and top logit, and, fed the recorded ids, the same next token wherever the margin is no tie.
 * default: perplexity of eight windows of 512 tokens, and mean KL to fp32 over their second halves, which llama.cpp was measured to pay too. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "format/json.h"
#include "nomoat.h"
#include "os/file.h"

static const double NLL_BOUND = 0.002, LOGIT_BOUND = 0.01, MARGIN = 0.01, PERPLEXITY_BOUND = 0.008;
enum { WINDOW = 512, WINDOWS = 8, LAST_BY_DEFAULT = 2 };     /* of names[] */

static const char *const names[] = {"smollm2-135m-instruct-q4_1", "gemma-3-270m-q4_k_m", "qwen2.5-coder-0.5b-instruct-q4_k_m",
    "qwen2.5-coder-1.5b-instruct-q4_k_m"};

/* llama.cpp's mean KL on the same eight chunks, in nats; 0 = not measured. */
static const double peer_kl[] = {0.0025, 0, 0.0010, 0};
static const double KL_BOUND = 1.15;

static double number(const nm_json *v) { return v->kind == NM_JSON_INT ? (double)v->integer : v->real; }

static const nm_json *item(const nm_json *object, const char *key)
{
    const nm_json *v = nm_json_get(object, key);
    if (!v) fail_msg("the record lacks \"%s\"", key);
    return v;
}

typedef struct seen {
    const int32_t *ids;             /* index + 1 is what follows */
    int32_t count, best;
    double nll[4 * WINDOW];
    float *last;                    /* [n_vocab] or NULL */
} seen;

static nm_err look(void *arg, int32_t index, const float *logits, int32_t n_vocab)
{
    seen *x = arg;
    double sum = 0;
    x->best = 0;
    for (int32_t i = 1; i < n_vocab; i++) if (logits[i] > logits[x->best]) x->best = i;
    for (int32_t i = 0; i < n_vocab; i++) sum += (double)expf(logits[i] - logits[x->best]);
    if (index + 1 < x->count) x->nll[index] = logits[x->best] + log(sum) - logits[x->ids[index + 1]];
    else if (x->last) memcpy(x->last, logits, (size_t)n_vocab * sizeof *logits);
    return NM_OK;
}

static void run(nm_runner *r, nm_session *s, const int32_t *ids, int32_t count, nm_want want, seen *x)
{
    nm_item it = {.session = s, .tokens = ids, .count = count, .want = want, .on_logits = look, .arg = x};
    if (nm_run(r, &it, 1, NULL) != NM_OK) fail_msg("%s", nm_error_text());
}

static void open_pair(const nm_model *m, nm_compute compute, nm_runner **r, nm_session **s)
{
    nm_kv_type kv = compute == NM_COMPUTE_F32 ? NM_KV_F32 : NM_KV_F16;
    assert_int_equal(nm_runner_open(r, m, &(nm_runner_options){.compute = compute, .max_logits = 64}), NM_OK);
    if (nm_session_open(s, m, &(nm_session_options){.context = 2048, .kv = kv, .compute = compute}) != NM_OK) fail_msg("%s", nm_error_text());
}

static int32_t *ids_of(const nm_json *list, int32_t *count)
{
    *count = (int32_t)list->array.count;
    int32_t *ids = calloc(list->array.count + 1, sizeof *ids);
    for (int32_t i = 0; i < *count; i++) ids[i] = (int32_t)list->array.items[i].integer;
    return ids;
}

static void check_case(const nm_model *m, nm_runner *r, nm_session *s, const nm_json *c)
{
    static seen x;
    int32_t count, steps, vocab = nm_model_describe(m)->n_vocab;
    int32_t *ids = ids_of(item(c, "ids"), &count), *greedy = ids_of(item(c, "greedy"), &steps);
    const nm_json *nll = item(c, "nll"), *top = item(c, "last_top20"), *margin = item(c, "margin");
    double worst_nll = 0, worst_logit = 0;
    x = (seen){.ids = ids, .count = count, .last = calloc((size_t)vocab, sizeof *x.last)};
    nm_session_truncate(s, 0);
    run(r, s, ids, count, NM_WANT_ALL, &x);
    for (int32_t i = 0; i + 1 < count; i++) worst_nll = fmax(worst_nll, fabs(x.nll[i] - number(&nll->array.items[i])));
    for (size_t i = 0; i < item(top, "ids")->array.count; i++) {
        double want = number(&item(top, "logits")->array.items[i]);
        worst_logit = fmax(worst_logit, fabs(x.last[item(top, "ids")->array.items[i].integer] - want));
    }
    free(x.last);
    x.last = NULL;
    for (int32_t i = 0; i < steps; i++) {
        if (number(&margin->array.items[i]) > MARGIN && x.best != greedy[i]) fail_msg("step %d: token %d, recorded %d", (int)i, (int)x.best, (int)greedy[i]);
        run(r, s, &greedy[i], 1, NM_WANT_LAST, &x);
    }
    print_message("  %-12s %3d tokens: worst NLL %.1e, worst logit %.1e\n", item(c, "name")->string.bytes, (int)count, worst_nll, worst_logit);
    assert_true(worst_nll <= NLL_BOUND && worst_logit <= LOGIT_BOUND);
    free(ids);
    free(greedy);
}

/* The text that the record's windows are cut from, as ids; *bos is -1 where windows have none. */
static int32_t *window_ids(const nm_model *m, const char *folder, const nm_json *record, int32_t *bos)
{
    char path[4096], *text;
    size_t size, count;
    int32_t *ids;
    const nm_json *first = item(record, "first_ids");
    *bos = item(record, "bos")->kind == NM_JSON_INT ? (int32_t)item(record, "bos")->integer : -1;
    snprintf(path, sizeof path, "%s/corpus/%s", folder, item(record, "text")->string.bytes);
    assert_int_equal(nm_file_read(path, 1 << 28, &text, &size), NM_OK);
    if (size > 64 * WINDOW) size = 64 * WINDOW;     /* enough for eight windows of any vocabulary, cut between words */
    while (size && text[size - 1] != ' ') size--;
    assert_int_equal(nm_tokenize(nm_model_tokenizer(m), text, size, 0, &ids, &count), NM_OK);
    assert_true(count >= WINDOWS * WINDOW);
    for (size_t i = 0; i < first->array.count; i++) assert_int_equal(ids[i], first->array.items[i].integer);
    nm_free(text);
    return ids;
}

/* Window w: with a BOS, it takes the first place and the last token falls off. */
static void cut_window(int32_t window[WINDOW], const int32_t *ids, int w, int32_t bos)
{
    int shift = bos >= 0;
    memcpy(window + shift, ids + w * WINDOW, (size_t)(WINDOW - shift) * sizeof *ids);
    if (shift) window[0] = bos;
}

static void check_perplexity(nm_compute compute, double sum, const nm_json *record)
{
    const nm_json *means = item(record, "mean_nll");
    double recorded = 0;
    assert_int_equal(means->array.count, WINDOWS);
    for (int w = 0; w < WINDOWS; w++) recorded += number(&means->array.items[w]);
    double ratio = exp((sum - recorded) / WINDOWS) - 1;
    print_message("  perplexity, %s: %.4f, recorded %.4f (%+.3f %%)\n", compute == NM_COMPUTE_F32 ? "f32" : "default",
        exp(sum / WINDOWS), exp(recorded / WINDOWS), 100 * ratio);
    assert_true(fabs(ratio) <= (compute == NM_COMPUTE_F32 ? 1e-4 : PERPLEXITY_BOUND));
}

/* ---- Windows and KL --------------------------------------------------------------------------------------------------------------------- */

typedef struct divergence { seen x; float *base; bool compare; double sum; int rows; } divergence;

static double log_sum(const float *logits, int32_t n, float *most)
{
    double sum = 0;
    *most = logits[0];
    for (int32_t i = 1; i < n; i++) if (logits[i] > *most) *most = logits[i];
    for (int32_t i = 0; i < n; i++) sum += (double)expf(logits[i] - *most);
    return *most + log(sum);
}

/* Every row's NLL; besides, of the second half's rows, the first pass keeps log p, and the second adds sum p (log p - log q). */
static nm_err diverge(void *arg, int32_t index, const float *logits, int32_t n)
{
    divergence *d = arg;
    look(&d->x, index, logits, n);
    float most, *base = d->base + (size_t)(index - WINDOW / 2) * (size_t)n;
    if (index < WINDOW / 2 || index == WINDOW - 1) return NM_OK;
    double norm = log_sum(logits, n, &most), kl = 0;
    for (int32_t i = 0; i < n; i++) {
        float q = (float)(logits[i] - norm);
        if (d->compare) kl += (double)(expf(base[i]) * (base[i] - q));
        else base[i] = q;
    }
    d->sum += kl;
    d->rows += d->compare;
    return NM_OK;
}

static void check_windows(const nm_model *m, const char *folder, const nm_json *record, double peer)
{
    int32_t window[WINDOW], bos, *ids = window_ids(m, folder, record, &bos);
    nm_runner *r[2];
    nm_session *s[2];
    static divergence d;
    double sum[2] = {0};
    d = (divergence){.base = calloc((size_t)nm_model_describe(m)->n_vocab * WINDOW / 2, sizeof(float))};
    open_pair(m, NM_COMPUTE_F32, &r[0], &s[0]);
    open_pair(m, NM_COMPUTE_DEFAULT, &r[1], &s[1]);
    for (int w = 0; w < WINDOWS; w++) {
        cut_window(window, ids, w, bos);
        for (int i = 0; i < 2; i++) {
            nm_item it = {.session = s[i], .tokens = window, .count = WINDOW, .want = NM_WANT_ALL, .on_logits = diverge, .arg = &d};
            d.compare = i == 1;
            d.x = (seen){.ids = window, .count = WINDOW};
            nm_session_truncate(s[i], 0);
            if (nm_run(r[i], &it, 1, NULL) != NM_OK) fail_msg("%s", nm_error_text());
            for (int k = 0; k + 1 < WINDOW; k++) sum[i] += d.x.nll[k] / (WINDOW - 1);
        }
    }
    check_perplexity(NM_COMPUTE_F32, sum[0], record);
    check_perplexity(NM_COMPUTE_DEFAULT, sum[1], record);
    double kl = d.sum / d.rows;
    print_message("  KL of default to f32: %.5f nats (llama.cpp: %.4f)\n", kl, peer);
    assert_true(peer == 0 || kl <= KL_BOUND * peer);
    for (int i = 0; i < 2; i++) {
        nm_session_close(&s[i]);
        nm_runner_close(&r[i]);
    }
    free(d.base);
    nm_free(ids);
}

static void test_model(void **state)
{
    char path[4096], *text;
    size_t which = (size_t)((const char *const *)*state - names);
    const char *name = names[which], *data = getenv("NOMOAT_TEST_DATA"), *models = getenv("NOMOAT_TEST_MODELS"), *longer = getenv("NOMOAT_TEST_LONG"),
               *quick = getenv("NOMOAT_TEST_QUICK");
    size_t size;
    nm_json json;
    nm_model *m;
    snprintf(path, sizeof path, "%s/%s.gguf", models ? models : "", name);
    if (!data || !models || access(path, R_OK) != 0) {
        print_message("skipped: oracle of %s: NOMOAT_TEST_DATA or the model in NOMOAT_TEST_MODELS is missing\n", name);
        skip();
    }
    if (which > LAST_BY_DEFAULT && !longer) {
        print_message("skipped: oracle of %s: NOMOAT_TEST_LONG is not set\n", name);
        skip();
    }
    bool all = longer || which == 0;
    if (nm_model_open(&m, path, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    snprintf(path, sizeof path, "%s/oracle/%s.json", data, name);
    assert_int_equal(nm_file_read(path, 1 << 26, &text, &size), NM_OK);
    assert_int_equal(nm_json_parse(&json, text, size), NM_OK);
    nm_runner *r;
    nm_session *s;
    print_message("%s, tier %s\n", name, nm_kernels_tier());
    open_pair(m, NM_COMPUTE_F32, &r, &s);
    const nm_json *cases = item(&json, "cases");
    for (size_t i = 0; i < (all ? cases->array.count : 1); i++) check_case(m, r, s, &cases->array.items[i]);
    nm_session_close(&s);
    nm_runner_close(&r);
    if (all && !quick) check_windows(m, data, item(&json, "windows"), peer_kl[which]);
    nm_model_close(&m);
    nm_json_free(&json);
    nm_free(text);
}

int main(void)
{
    enum { COUNT = sizeof names / sizeof *names };
    struct CMUnitTest tests[COUNT];
    for (int i = 0; i < COUNT; i++) tests[i] = (struct CMUnitTest){names[i], test_model, NULL, NULL, (void *)(uintptr_t)&names[i]};
    return _cmocka_run_group_tests("oracle", tests, COUNT, NULL, NULL);
}
