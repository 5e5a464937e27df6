/* The meter of forgetting. Both models read the text in the same passes, some tokens at a time, so that only these tokens' distributions exist together. */
#include "tune/forget.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "tune/measure.h"

enum { WINDOW = 512 };

typedef struct meter {
    nm_runner *runner;
    nm_session *session[2];         /* before, after */
    float *before;                  /* [together][vocabulary]: logits */
    float *p;                       /* [2][vocabulary] */
    int32_t together;               /* tokens of a pass, of each model */
    double sum;
    size_t tokens;
    const volatile sig_atomic_t *cancel;
} meter;

static nm_err keep(void *arg, int32_t index, const float *logits, int32_t n)
{
    meter *m = arg;
    memcpy(m->before + (size_t)index * (size_t)n, logits, (size_t)n * sizeof *logits);
    return NM_OK;
}

static nm_err compare(void *arg, int32_t index, const float *logits, int32_t n)
{
    meter *m = arg;
    m->sum += nm_divergence(m->before + (size_t)index * (size_t)n, logits, n, m->p, m->p + n);
    m->tokens++;
    return NM_OK;
}

/* The tokens of a pass where `count` are read in as few as there can be, and as even. */
static int32_t even_part(int32_t count, int32_t most)
{
    int32_t parts = (count + most - 1) / most;
    return (count + parts - 1) / parts;
}

static nm_err read_window(meter *m, const int32_t *ids, int32_t count)
{
    int32_t part = even_part(count, m->together);
    for (int i = 0; i < 2; i++) nm_session_truncate(m->session[i], 0);
    for (int32_t at = 0; at < count; at += part) {
        nm_item item[2];            /* the first one's logits come first */
        for (int i = 0; i < 2; i++)
            item[i] = (nm_item){.session = m->session[i], .tokens = ids + at, .count = count - at < part ? count - at : part, .want = NM_WANT_ALL,
                .on_logits = i ? compare : keep, .arg = m};
        NM_TRY(nm_run(m->runner, item, 2, m->cancel));
    }
    return NM_OK;
}

static nm_err open_meter(meter *m, const nm_model *model, const nm_stack *before, const nm_stack *after, nm_compute compute)
{
    nm_session_options o = {.context = WINDOW, .kv = compute == NM_COMPUTE_F32 ? NM_KV_F32 : NM_KV_F16, .compute = compute};
    size_t row = (size_t)nm_model_describe(model)->n_vocab * sizeof *m->before;
    m->together = nm_rows_of_logits(model);
    NM_TRY(nm_runner_open(&m->runner, model, &(nm_runner_options){.compute = o.compute, .max_rows = 2 * m->together, .max_logits = m->together}));
    for (int i = 0; i < 2; i++) {
        o.stack = i ? after : before;
        NM_TRY(nm_session_open(&m->session[i], model, &o));
    }
    m->before = nm_malloc((size_t)m->together * row);
    m->p = nm_malloc(2 * row);
    return m->before && m->p ? NM_OK : nm_fail_memory((size_t)m->together * row);
}

size_t nm_forgetting_part(const nm_model *model) { return (size_t)even_part(WINDOW, nm_rows_of_logits(model)); }

nm_err nm_forgetting(const nm_model *model, const nm_stack *before, const nm_stack *after, nm_compute compute, size_t tokens, const volatile sig_atomic_t *cancel,
    double *kl)
{
    meter m = {.cancel = cancel};
    int32_t *ids = NULL;
    size_t length, count = 0;
    const char *text = nm_general_text(NM_GENERAL_METER, &length);
    nm_err err = nm_tokenize(nm_model_tokenizer(model), text, length, 0, &ids, &count);
    if (err == NM_OK) err = open_meter(&m, model, before, after, compute);
    if (count > tokens) count = tokens;
    for (size_t at = 0; err == NM_OK && at < count; at += WINDOW) err = read_window(&m, ids + at, count - at < WINDOW ? (int32_t)(count - at) : WINDOW);
    *kl = m.tokens ? m.sum / (double)m.tokens : 0;
    nm_free(ids);
    nm_free(m.before);
    nm_free(m.p);
    for (int i = 0; i < 2; i++) nm_session_close(&m.session[i]);
    nm_runner_close(&m.runner);
    return err;
}
