/* The meter of forgetting. Both models read the text side by side, some tokens at a time, so that only these tokens' distributions exist together. */
#include "forget.h"

#include <math.h>
#include <string.h>

#include "common.h"

enum { WINDOW = 512, AT_ONCE = 32 };

typedef struct meter {
    nm_runner *runner;
    nm_session *session[2];         /* before, after */
    float *before;                  /* [AT_ONCE][vocabulary]: log p */
    double sum;
    size_t tokens;
} meter;

static double log_sum(const float *logits, int32_t n)
{
    float most = logits[0];
    double sum = 0;
    for (int32_t i = 1; i < n; i++) if (logits[i] > most) most = logits[i];
    for (int32_t i = 0; i < n; i++) sum += (double)expf(logits[i] - most);
    return (double)most + log(sum);
}

static nm_err keep(void *arg, int32_t index, const float *logits, int32_t n)
{
    meter *m = arg;
    float *to = m->before + (size_t)index * (size_t)n, norm = (float)log_sum(logits, n);
    for (int32_t i = 0; i < n; i++) to[i] = logits[i] - norm;
    return NM_OK;
}

static nm_err compare(void *arg, int32_t index, const float *logits, int32_t n)
{
    meter *m = arg;
    const float *before = m->before + (size_t)index * (size_t)n;
    double norm = log_sum(logits, n), kl = 0;
    for (int32_t i = 0; i < n; i++) kl += (double)(expf(before[i]) * (before[i] - logits[i]));
    m->sum += kl + norm;
    m->tokens++;
    return NM_OK;
}

static nm_err read_window(meter *m, const int32_t *ids, int32_t count)
{
    for (int i = 0; i < 2; i++) nm_session_truncate(m->session[i], 0);
    for (int32_t at = 0; at < count; at += AT_ONCE) {
        nm_item item = {.tokens = ids + at, .count = count - at < AT_ONCE ? count - at : AT_ONCE, .want = NM_WANT_ALL, .arg = m};
        for (int i = 0; i < 2; i++) {
            item.session = m->session[i];
            item.on_logits = i ? compare : keep;
            NM_TRY(nm_run(m->runner, &item, 1, &nm_interrupted));
        }
    }
    return NM_OK;
}

static nm_err open_meter(meter *m, const nm_model *model, const nm_stack *before, const nm_stack *after, const nm_common *common)
{
    nm_session_options o = {.context = WINDOW, .kv = common->compute == NM_COMPUTE_F32 ? NM_KV_F32 : NM_KV_F16, .compute = (nm_compute)common->compute};
    size_t row = (size_t)nm_model_describe(model)->n_vocab;
    NM_TRY(nm_runner_open(&m->runner, model, &(nm_runner_options){.compute = o.compute, .max_rows = AT_ONCE, .max_logits = AT_ONCE}));
    for (int i = 0; i < 2; i++) {
        o.stack = i ? after : before;
        NM_TRY(nm_session_open(&m->session[i], model, &o));
    }
    m->before = nm_malloc(AT_ONCE * row * sizeof *m->before);
    return m->before ? NM_OK : nm_fail_memory(AT_ONCE * row * sizeof *m->before);
}

nm_err nm_forgetting(const nm_model *model, const nm_stack *before, const nm_stack *after, const nm_common *common, size_t tokens, double *kl)
{
    meter m = {0};
    int32_t *ids = NULL;
    size_t length, count = 0;
    const char *text = nm_general_text(NM_GENERAL_METER, &length);
    nm_err err = nm_tokenize(nm_model_tokenizer(model), text, length, 0, &ids, &count);
    if (err == NM_OK) err = open_meter(&m, model, before, after, common);
    if (count > tokens) count = tokens;
    for (size_t at = 0; err == NM_OK && at < count; at += WINDOW) err = read_window(&m, ids + at, count - at < WINDOW ? (int32_t)(count - at) : WINDOW);
    *kl = m.tokens ? m.sum / (double)m.tokens : 0;
    nm_free(ids);
    nm_free(m.before);
    for (int i = 0; i < 2; i++) nm_session_close(&m.session[i]);
    nm_runner_close(&m.runner);
    return err;
}
