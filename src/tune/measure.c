/* Likelihoods of given tokens. */
#include "tune/measure.h"

#include <math.h>

#include "base/duration.h"
#include "base/err.h"
#include "os/machine.h"

int32_t nm_rows_of_logits(const nm_model *model)
{
    enum { BYTES = 16 << 20, LEAST = 16, MOST = 96 };       /* a head reads its weights once for all of them; more than 96 rows gain little */
    int32_t fit = (int32_t)(BYTES / sizeof(float) / (size_t)nm_model_describe(model)->n_vocab);
    return fit < LEAST ? LEAST : fit > MOST ? MOST : fit;
}

nm_err nm_measure_open(nm_measure *m, const nm_model *model, const nm_stack *stack, nm_compute compute, int32_t kv, size_t tokens,
    const volatile sig_atomic_t *cancel)
{
    nm_session_options so = {.compute = compute, .stack = stack};
    nm_runner_options ro = {.compute = compute, .max_logits = nm_rows_of_logits(model)};
    *m = (nm_measure){.model = model, .cancel = cancel};
    if (tokens > INT32_MAX) return nm_fail(NM_USAGE, "%zu tokens are more than one context can hold", tokens);
    NM_TRY(nm_choose_kv(&so.kv, so.compute, kv));
    so.context = tokens ? (int32_t)tokens : 1;
    uint64_t need = nm_session_bytes(model, &so), have = nm_machine_memory_available();
    char a[32], b[32];
    if (have && need > have)
        return nm_fail(NM_NO_MEMORY, "%zu tokens need %s, and %s are available: give fewer", tokens, nm_bytes_text(need, a),
                       nm_bytes_text(have, b));
    NM_TRY(nm_runner_open(&m->runner, model, &ro));
    return nm_session_open(&m->session, model, &so);
}

void nm_measure_close(nm_measure *m)
{
    nm_session_close(&m->session);
    nm_runner_close(&m->runner);
}

typedef struct work { const nm_model *model; const int32_t *ids; size_t count, from, first; double *nll; nm_last_fn on_last; void *arg; } work;

int32_t nm_best_token(const float *logits, int32_t n)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++) if (logits[i] > logits[best]) best = i;
    return best;
}

double nm_log_sum(const float *logits, int32_t n)
{
    float most = logits[0];
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        if (isnan(logits[i])) return NAN;
        if (logits[i] > most) most = logits[i];
    }
    for (int32_t i = 0; i < n; i++) sum += exp((double)logits[i] - (double)most);
    return (double)most + log(sum);
}

static nm_err on_logits(void *arg, int32_t index, const float *logits, int32_t n)
{
    work *w = arg;
    size_t at = w->from + (size_t)index;
    if (at + 1 == w->count && w->on_last) w->on_last(w->arg, logits, n);
    if (at < w->first || at + 1 >= w->count) return NM_OK;
    int32_t next = w->ids[at + 1];
    if (next < 0 || next >= n) return nm_fail(NM_USAGE, "token %zu is %d, and the vocabulary has %d", at + 1, next, n);
    double sum = nm_log_sum(logits, n);
    if (isnan(sum))
        return nm_fail(NM_FAILED, "%s: the logits behind token %zu hold a NaN: the weights or an adapter are broken (after training: lower the learning rate)",
                       nm_model_describe(w->model)->name, at);
    w->nll[at] = sum - (double)logits[next];
    return NM_OK;
}

nm_err nm_measure_run(nm_measure *m, const int32_t *ids, size_t count, size_t first, double *nll, nm_last_fn on_last, void *arg)
{
    work w = {m->model, ids, count, 0, first, nll, on_last, arg};
    nm_session_truncate(m->session, 0);
    nm_item item = {.session = m->session, .tokens = ids, .count = (int32_t)count, .want = NM_WANT_ALL, .on_logits = on_logits, .arg = &w};
    if (first) {        /* tokens whose logits nobody wants */
        size_t quiet = first < count ? first : count - 1;
        nm_item before = {.session = m->session, .tokens = ids, .count = (int32_t)quiet, .want = NM_WANT_NONE};
        NM_TRY(nm_run(m->runner, &before, 1, m->cancel));
        w.from = quiet;
        item.tokens += quiet;
        item.count -= (int32_t)quiet;
    }
    return nm_run(m->runner, &item, 1, m->cancel);
}

nm_err nm_choose_kv(nm_kv_type *out, nm_compute compute, int32_t kv)
{
    *out = compute == NM_COMPUTE_F32 ? NM_KV_F32 : NM_KV_F16;
    if (kv < 0) return NM_OK;
    if (compute == NM_COMPUTE_F32 && kv != NM_KV_F32) return nm_fail(NM_USAGE, "--compute f32 keeps K and V in f32, too: leave --kv away");
    *out = (nm_kv_type)kv;
    return NM_OK;
}
