/* Validation in a run, in the arithmetic that will serve. */
#include <math.h>
#include <stdlib.h>

#include "tune/forget.h"
#include "tune/measure.h"
#include "os/clock.h"
#include "tune/tune_impl.h"

/* The longest sample of the validation data; *index: where it stands. 2 at least. */
static size_t longest_sample(const nm_tune *t, size_t *index)
{
    size_t longest = 2;
    *index = 0;
    for (size_t i = 0; i < nm_dataset_count(t->data, NM_SPLIT_VALIDATION); i++) {
        nm_sample s = nm_dataset_sample(t->data, NM_SPLIT_VALIDATION, i);
        if ((size_t)s.count <= longest) continue;
        longest = (size_t)s.count;
        *index = i;
    }
    return longest;
}

typedef struct score { nm_measure measure; double *nll, sum, trained; } score;

static nm_err open_score(score *c, const nm_tune *t, const nm_stack *stack)
{
    size_t index, longest = longest_sample(t, &index);
    if (!(c->nll = nm_calloc(longest, sizeof *c->nll))) return nm_fail_memory(longest * sizeof *c->nll);
    return nm_measure_open(&c->measure, t->base.model, stack, t->set->compute, -1, longest, t->listener.cancel);
}

static nm_err score_sample(score *c, nm_sample s)
{
    NM_TRY(nm_measure_run(&c->measure, s.ids, (size_t)s.count, 0, c->nll, NULL, NULL));
    for (int32_t k = 1; k < s.count; k++) {
        c->sum += s.mask[k] ? c->nll[k - 1] : 0;
        c->trained += s.mask[k];
    }
    return NM_OK;
}

static void close_score(score *c)
{
    nm_measure_close(&c->measure);
    nm_free(c->nll);
}

static nm_err score_samples(nm_tune *t, const nm_stack *stack, double *loss)
{
    score c = {0};
    nm_err err = open_score(&c, t, stack);
    for (size_t i = 0; err == NM_OK && i < nm_dataset_count(t->data, NM_SPLIT_VALIDATION); i++) err = score_sample(&c, nm_dataset_sample(t->data, NM_SPLIT_VALIDATION, i));
    close_score(&c);
    *loss = c.trained > 0 ? c.sum / c.trained : 0;
    return err;
}

/* The adapter as it stands, on the stack below. */
typedef struct present { nm_adapter *made; nm_stack *stack; } present;

nm_err nm_tune_stack_with(const nm_tune *t, const nm_adapter *adapter, nm_stack **out)
{
    size_t n = t->base.count + 1;
    const nm_adapter **adapters = nm_calloc(n, sizeof(*adapters));
    float *scales = nm_calloc(n, sizeof *scales);
    nm_err err = adapters && scales ? NM_OK : nm_fail_memory(n * sizeof *scales);
    for (size_t i = 0; err == NM_OK && i < n; i++) {
        adapters[i] = i < n - 1 ? t->base.adapters[i] : adapter;
        scales[i] = i < n - 1 ? t->base.scales[i] : 1;
    }
    if (err == NM_OK) err = nm_stack_open(out, t->base.model, adapters, scales, n);
    nm_free(adapters);
    nm_free(scales);
    return err;
}

static nm_err open_present(nm_tune *t, present *p)
{
    NM_TRY(nm_trainer_adapter(t->trainer, &p->made));
    return nm_tune_stack_with(t, p->made, &p->stack);
}

static void close_present(present *p)
{
    nm_stack_close(&p->stack);
    nm_adapter_close(&p->made);
}

enum { EARLY_PART = 8 };        /* of the meter's text, on the way */

static size_t meter_tokens(const nm_tune *t, bool last)
{
    bool limited = !isnan(t->set->max_forget);      /* then each look decides, on the whole of the meter's text */
    size_t tokens = (size_t)t->set->meter / (last || limited ? 1 : EARLY_PART);
    return nm_model_tokenizer(t->base.model) && (!t->set->batches || limited) ? tokens : 0;
}

static nm_err forgetting_of(const nm_tune *t, const present *p, size_t tokens, double *forgetting)
{
    return nm_forgetting(t->base.model, t->base.stack, p->stack, t->set->compute, tokens, t->listener.cancel, forgetting);
}

/* Loss on the validation data, and what was forgotten; -1 where there is none to measure. */
nm_err nm_tune_validate(nm_tune *t, double *loss, double *forgetting)
{
    present p = {0};
    size_t tokens = meter_tokens(t, nm_trainer_steps(t->trainer) == t->at.steps);
    *loss = *forgetting = -1;
    nm_trainer_rest(t->trainer);
    nm_err err = open_present(t, &p);
    if (err == NM_OK && nm_dataset_count(t->data, NM_SPLIT_VALIDATION)) err = score_samples(t, p.stack, loss);
    if (err == NM_OK && tokens) err = forgetting_of(t, &p, tokens, forgetting);
    close_present(&p);
    return err;
}

/* ---- What it costs ------------------------------------------------------------------------------------------------------------------------- */

static const double SCORE_SECONDS = 0.25;

static double seconds_since(double *from)
{
    double now = nm_clock_seconds(), passed = now - *from;
    *from = now;
    return passed;
}

/* The longest sample, and again for a while, as one short measurement of a small model is mostly noise that all samples would multiply: what the first
 * takes longer is the opening. */
static nm_err probe_score(nm_tune *t, const present *p, nm_look_cost *c)
{
    size_t index;
    score s = {0};
    double from = nm_clock_seconds(), spent = 0, times = 0;
    longest_sample(t, &index);
    nm_sample longest = nm_dataset_sample(t->data, NM_SPLIT_VALIDATION, index);
    nm_err err = open_score(&s, t, p->stack);
    if (err == NM_OK) err = score_sample(&s, longest);
    c->open += seconds_since(&from);
    while (err == NM_OK && (times == 0 || spent < SCORE_SECONDS)) {
        err = score_sample(&s, longest);
        spent += seconds_since(&from);
        times++;
    }
    close_score(&s);
    c->score = times > 0 ? spent / times : 0;
    c->scored = longest.count;
    c->open -= c->open > c->score ? c->score : c->open;
    return err;
}

/* One pass of the meter, and three: the difference is the tokens'. */
static nm_err probe_meter(nm_tune *t, const present *p, nm_look_cost *c)
{
    size_t part = nm_forgetting_part(t->base.model);
    double nats, from = nm_clock_seconds();
    NM_TRY(forgetting_of(t, p, part, &nats));
    c->meter_open = seconds_since(&from);
    NM_TRY(forgetting_of(t, p, 3 * part, &nats));
    double all = seconds_since(&from), one = (double)part;
    c->meter = all > c->meter_open ? (all - c->meter_open) / (2 * one) : all / (3 * one);
    c->meter_open = c->meter_open > one * c->meter ? c->meter_open - one * c->meter : 0;
    return NM_OK;
}

nm_err nm_tune_probe_look(nm_tune *t, nm_look_cost *c)
{
    present p = {0};
    double from = nm_clock_seconds();
    *c = (nm_look_cost){.meter_early = meter_tokens(t, false), .meter_last = meter_tokens(t, true)};
    nm_trainer_rest(t->trainer);
    nm_err err = open_present(t, &p);
    c->adapter = seconds_since(&from);
    if (err == NM_OK && nm_dataset_count(t->data, NM_SPLIT_VALIDATION)) err = probe_score(t, &p, c);
    if (err == NM_OK && c->meter_last) err = probe_meter(t, &p, c);
    close_present(&p);
    return err;
}
