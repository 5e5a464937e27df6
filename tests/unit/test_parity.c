/* Parity of every architecture with transformers in fp32, on the tiny random models of the test data: NLL of every token and the logits
 * of the last one within TOLERANCE, and the greedy continuation wherever the recorded margin is not a tie. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "format/json.h"
#include "nomoat.h"
#include "os/file.h"

static const double TOLERANCE = 1e-4, TIE = 1e-3;

static const char *const names[] = {"llama", "llama3", "llama_tied", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "smollm3", "olmo2",
    "granite", "stablelm", "falcon", "gpt2", "gpt_neox"};

static double number(const nm_json *v) { return v->kind == NM_JSON_INT ? (double)v->integer : v->real; }
static const nm_json *item(const nm_json *object, const char *key)
{
    const nm_json *v = nm_json_get(object, key);
    assert_non_null(v);
    return v;
}

typedef struct expected {
    const int32_t *ids;
    const nm_json *nll, *logits;
    int32_t count, at;              /* tokens in all; next greedy token */
    double worst_nll, worst_logit;
    int32_t best;
} expected;

static nm_err compare(void *arg, int32_t index, const float *logits, int32_t n_vocab)
{
    expected *x = arg;
    double most = -INFINITY, sum = 0;
    x->best = 0;
    for (int32_t i = 0; i < n_vocab; i++) if (logits[i] > logits[x->best]) x->best = i;
    most = logits[x->best];
    for (int32_t i = 0; i < n_vocab; i++) sum += exp(logits[i] - most);
    if (index + 1 < x->count) {
        double off = fabs(most + log(sum) - logits[x->ids[index + 1]] - number(&x->nll->array.items[index]));
        if (!(off <= x->worst_nll)) x->worst_nll = off;
    } else {
        for (int32_t i = 0; x->logits && i < n_vocab; i++) {
            double off = fabs(logits[i] - number(&x->logits->array.items[i]));
            if (!(off <= x->worst_logit)) x->worst_logit = off;
        }
    }
    return NM_OK;
}

static void check_greedy(nm_runner *runner, nm_session *session, const nm_json *c, int32_t best)
{
    const nm_json *greedy = item(c, "greedy"), *margin = item(c, "margin");
    for (size_t i = 0; i < greedy->array.count; i++) {
        int32_t token = (int32_t)greedy->array.items[i].integer;
        expected x = {.count = 1};
        if (number(&margin->array.items[i]) > TIE) assert_int_equal(best, token);
        nm_item next = {.session = session, .tokens = &token, .count = 1, .want = NM_WANT_LAST, .on_logits = compare, .arg = &x};
        assert_int_equal(nm_run(runner, &next, 1, NULL), NM_OK);
        best = x.best;
    }
}

static void check_case(const nm_model *model, const nm_json *c, double *nll, double *logit)
{
    const nm_json *ids = item(c, "ids");
    int32_t *token = calloc(ids->array.count, sizeof *token);
    for (size_t i = 0; i < ids->array.count; i++) token[i] = (int32_t)ids->array.items[i].integer;
    expected x = {.ids = token, .count = (int32_t)ids->array.count, .nll = item(c, "nll"), .logits = item(c, "last_logits")};
    nm_session *session;
    nm_runner *runner;
    assert_int_equal(nm_session_open(&session, model, &(nm_session_options){.kv = NM_KV_F32, .compute = NM_COMPUTE_F32}), NM_OK);
    assert_int_equal(nm_runner_open(&runner, model, &(nm_runner_options){.compute = NM_COMPUTE_F32}), NM_OK);
    nm_item all = {.session = session, .tokens = token, .count = x.count, .want = NM_WANT_ALL, .on_logits = compare, .arg = &x};
    if (nm_run(runner, &all, 1, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    check_greedy(runner, session, c, x.best);
    if (!(x.worst_nll <= *nll)) *nll = x.worst_nll;
    if (!(x.worst_logit <= *logit)) *logit = x.worst_logit;
    nm_runner_close(&runner);
    nm_session_close(&session);
    free(token);
}

static void check_model(const char *folder, const char *name)
{
    char path[4096], *text;
    size_t size;
    nm_json json;
    nm_model *model;
    double nll = 0, logit = 0;
    snprintf(path, sizeof path, "%s/tiny/%s.json", folder, name);
    assert_int_equal(nm_file_read(path, 1 << 26, &text, &size), NM_OK);
    assert_int_equal(nm_json_parse(&json, text, size), NM_OK);
    snprintf(path, sizeof path, "%s/tiny/%s.gguf", folder, name);
    if (nm_model_open(&model, path, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    const nm_json *cases = item(&json, "cases");
    for (size_t i = 0; i < cases->array.count; i++) check_case(model, &cases->array.items[i], &nll, &logit);
    print_message("%-12s worst NLL %.1e, worst logit %.1e\n", name, nll, logit);
    assert_true(nll <= TOLERANCE && logit <= TOLERANCE);
    nm_model_close(&model);
    nm_json_free(&json);
    nm_free(text);
}

static void test_tiny(void **state)
{
    const char *folder = getenv("NOMOAT_TEST_DATA");
    if (!folder) {
        print_message("skipped: parity of %s: NOMOAT_TEST_DATA is not set\n", (const char *)*state);
        skip();
    }
    check_model(folder, *state);
}

int main(void)
{
    enum { COUNT = sizeof names / sizeof *names };
    struct CMUnitTest tests[COUNT];
    for (int i = 0; i < COUNT; i++) tests[i] = (struct CMUnitTest){names[i], test_tiny, NULL, NULL, (void *)(uintptr_t)names[i]};
    return cmocka_run_group_tests_name("parity", tests, NULL, NULL);
}
