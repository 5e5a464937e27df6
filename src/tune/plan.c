/* What a run would take, what other choices would change, and choosing so that it ends in time. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/duration.h"
#include "tune/cost.h"

enum { LEAST_STEPS = 20, LEAST_LOOKS = 2 };
static const double MARGIN = 0.95;      /* of the time that --fit gives is filled: a forecast is not exact */
static const double LOOKING = 0.15;     /* of that time at most is for validation, the meter and saving, where fewer of them do it */
static const char ATTENTION[] = "attn_q,attn_k,attn_v,attn_output", ATTENTION_TOGETHER[] = "attn_qkv,attn_output";

/* ---- Other choices -------------------------------------------------------------------------------------------------------------------------- */

typedef struct plan {
    nm_tune *t;
    nm_tune_rates rates;
    nm_tune_plan_report *out;
} plan;

/* What cannot be (no such map, too little memory) is left out. */
static nm_err add_choice(plan *p, const nm_tune_settings *set, nm_dataset *data, const char *option, const char *value)
{
    nm_tune_choice *c = &p->out->choice[p->out->choices];
    nm_err err = nm_tune_forecast_of(p->t, &p->rates, set, data, &c->forecast);
    if (err == NM_INTERRUPTED) return err;
    c->option = option;
    snprintf(c->value, sizeof c->value, "%s", value);
    if (!strcmp(value, "true")) snprintf(c->name, sizeof c->name, "--%s", option);
    else snprintf(c->name, sizeof c->name, "--%s %s", option, value);
    p->out->choices += err == NM_OK;
    return NM_OK;
}

static nm_err add_whole(plan *p, const nm_tune_settings *set, nm_dataset *data, const char *option, int32_t value)
{
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    return add_choice(p, set, data, option, text);
}

static nm_err add_ranks(plan *p)
{
    nm_tune_settings s = *p->t->set;
    int32_t rank = p->rates.info.rank;
    if (s.init) return NM_OK;
    for (int i = 0; i < 2; i++) {
        s.rank = i ? rank * 2 : rank / 2;
        if (s.rank) NM_TRY(add_whole(p, &s, p->t->data, "rank", s.rank));
    }
    return NM_OK;
}

/* Twice the length means reading the data once more, which is worth it only where something was cut. */
static nm_err add_lengths(plan *p)
{
    nm_tune_settings s = *p->t->set;
    s.max_length /= 2;
    if (s.max_length >= 16) NM_TRY(add_whole(p, &s, p->t->data, "max-length", s.max_length));
    s.max_length = p->t->set->max_length * 2;
    for (size_t i = 0; i < p->t->n_sources; i++) if (!strncmp(p->t->sources[i], "-", 1)) return NM_OK;    /* standard input comes once */
    if (!nm_dataset_describe(p->t->data)->long_rows || s.max_length > 1 << 20) return NM_OK;
    nm_tune longer = {.set = &s, .base = p->t->base, .listener = p->t->listener, .sources = p->t->sources, .n_sources = p->t->n_sources,
        .beside = nm_tune_data_bytes(p->t->data) + p->rates.info.bytes};
    nm_err err = nm_tune_open_data(&longer);
    if (err == NM_OK) err = add_whole(p, &s, longer.data, "max-length", s.max_length);
    nm_dataset_close(&longer.data);
    return err == NM_NO_MEMORY ? NM_OK : err;
}

static nm_err add_batches(plan *p)
{
    nm_tune_settings s = *p->t->set;
    for (int i = 0; i < 2; i++) {
        s.batch = i ? p->t->set->batch * 2 : p->t->set->batch / 2;
        if (s.batch && s.batch <= 1 << 16) NM_TRY(add_whole(p, &s, p->t->data, "batch", s.batch));
    }
    return NM_OK;
}

static nm_err add_targets(plan *p)
{
    nm_tune_settings s = *p->t->set;
    size_t before = p->out->choices;
    if (s.init || s.targets) return NM_OK;
    s.targets = ATTENTION;
    NM_TRY(add_choice(p, &s, p->t->data, "targets", ATTENTION));
    s.targets = ATTENTION_TOGETHER;
    return p->out->choices > before ? NM_OK : add_choice(p, &s, p->t->data, "targets", ATTENTION_TOGETHER);
}

/* The next that is smaller than what was chosen, if there is one. The bound counts the data, too. */
static nm_err add_memory(plan *p)
{
    nm_tune_settings s = *p->t->set;
    char size[32];
    double data = (double)(nm_tune_data_bytes(p->t->data) + nm_tune_data_bytes(p->t->replay));
    for (double part = 0.75; part > 0.1; part *= 0.75) {
        size_t before = p->out->choices;
        snprintf(size, sizeof size, "%.0fM", ceil(((double)p->out->now.bytes * part + data) * 1e-6));
        s.memory = size;
        NM_TRY(add_choice(p, &s, p->t->data, "memory", size));
        if (p->out->choices == before) break;
        if (strcmp(p->out->choice[before].forecast.recomputed, "layers")) p->out->choices = before;     /* the least that helps is what is shown */
        else break;
    }
    return NM_OK;
}

static nm_err list_choices(plan *p)
{
    const nm_tune *t = p->t;
    nm_tune_settings s = *t->set;
    NM_TRY(add_ranks(p));
    NM_TRY(add_targets(p));
    if (!s.batches) {
        NM_TRY(add_lengths(p));
        NM_TRY(add_batches(p));
        if (p->out->now.epochs > 1.001) {
            s.epochs = 1;
            NM_TRY(add_choice(p, &s, t->data, "epochs", "1"));
        }
    }
    s = *t->set;
    s.no_anchor = true;
    if (t->anchor) NM_TRY(add_choice(p, &s, t->data, "no-anchor", "true"));
    return add_memory(p);
}

nm_err nm_tune_plan(nm_tune *t, nm_tune_plan_report *out)
{
    plan p = {.t = t, .out = out};
    *out = (nm_tune_plan_report){0};
    NM_TRY(nm_tune_measure(t, &p.rates));
    NM_TRY(nm_tune_forecast_of(t, &p.rates, t->set, t->data, &out->now));
    return list_choices(&p);
}

/* ---- Fitting ------------------------------------------------------------------------------------------------------------------------------------- */

typedef struct fit { nm_tune *t; nm_tune_rates rates; nm_tune_settings set; nm_tune_forecast f; double allowed; } fit;

static nm_err try_fit(fit *x, bool *fits)
{
    NM_TRY(nm_tune_forecast_of(x->t, &x->rates, &x->set, x->t->data, &x->f));
    *fits = x->f.seconds <= x->allowed;
    return NM_OK;
}

/* Whole epochs, from those that were asked for down to one. */
static nm_err fit_epochs(fit *x, bool *fits)
{
    for (double e = ceil(x->f.epochs) - 1; e >= 1 && !*fits; e--) {
        x->set.epochs = e;
        NM_TRY(try_fit(x, fits));
    }
    return NM_OK;
}

/* The most steps of that which fit. */
static nm_err fit_steps(fit *x, bool *fits)
{
    int64_t low = x->f.steps < LEAST_STEPS ? x->f.steps : LEAST_STEPS, high = x->f.steps;
    x->set.max_steps = (int32_t)low;
    NM_TRY(try_fit(x, fits));
    if (!*fits) return NM_OK;
    while (high - low > 1) {
        x->set.max_steps = (int32_t)(low + (high - low) / 2);
        NM_TRY(try_fit(x, fits));
        *(*fits ? &low : &high) = x->set.max_steps;
    }
    x->set.max_steps = (int32_t)low;
    return try_fit(x, fits);
}

/* Fewer looks where they would take the time of the steps. */
static nm_err fit_looks(fit *x, bool *fits)
{
    double each = (x->f.validation + x->f.meter + x->f.saving) / ceil((double)x->f.steps / (double)x->f.every), most = LOOKING * x->allowed / each;
    if (x->set.save_every || most >= nm_tune_looks(x->t)) return NM_OK;
    x->set.looks = most < LEAST_LOOKS ? LEAST_LOOKS : (int32_t)most;
    return try_fit(x, fits);
}

static nm_err refuse(fit *x)
{
    char least[32], shorter[32];
    nm_tune_forecast f = x->f;
    x->set.max_length /= 2;
    bool fits, half = x->set.max_length >= 16 && try_fit(x, &fits) == NM_OK && x->f.seconds < f.seconds;
    return nm_fail(NM_REFUSED, "--fit %s: even %lld steps take %s here, with validation and the meter of forgetting: allow more%s%s%s", x->t->set->fit, (long long)f.steps,
        nm_duration_text(f.seconds, least), half ? "; at half the --max-length they take " : "", half ? nm_duration_text(x->f.seconds, shorter) : "",
        "; --meter, --val, --rank and --targets can be smaller, too");
}

static void tell_fit(const fit *x, const nm_tune_forecast *asked)
{
    char was[32], now[32];
    nm_duration_text(asked->seconds, was);
    nm_duration_text(x->f.seconds, now);
    if (asked->steps == x->f.steps) nm_tune_note(x->t, "--fit %s: all %lld steps fit, in %s", x->t->set->fit, (long long)x->f.steps, now);
    else if (x->set.max_steps == x->t->set->max_steps)
        nm_tune_note(x->t, "--fit %s: %g epochs in place of %.4g (%lld steps, %s, in place of %s)", x->t->set->fit, x->set.epochs, asked->epochs, (long long)x->f.steps, now, was);
    else nm_tune_note(x->t, "--fit %s: %lld steps (%.2g epochs, %s) in place of %lld (%.3g epochs, %s)", x->t->set->fit, (long long)x->f.steps, x->f.epochs, now,
                 (long long)asked->steps, asked->epochs, was);
}

static void tell_looks(const fit *x)
{
    if (x->set.looks) nm_tune_note(x->t, "--fit %s: %d looks at it (validation, meter, checkpoint) in place of %d, so that they leave time to the steps (--save-every %lld)",
        x->t->set->fit, x->set.looks, nm_tune_looks(x->t), (long long)x->f.every);
}

nm_err nm_tune_fit(nm_tune *t)
{
    fit x = {.t = t, .set = *t->set};
    bool fits = false;
    NM_TRY(nm_read_duration(t->set->fit, "--fit", &x.allowed));
    x.allowed *= MARGIN;
    NM_TRY(nm_tune_measure(t, &x.rates));
    NM_TRY(try_fit(&x, &fits));
    nm_tune_forecast asked = x.f;
    if (!fits) NM_TRY(fit_looks(&x, &fits));
    if (!fits && !t->set->batches && !t->set->max_steps) NM_TRY(fit_epochs(&x, &fits));
    if (!fits) NM_TRY(fit_steps(&x, &fits));
    if (!fits) return refuse(&x);
    tell_fit(&x, &asked);
    tell_looks(&x);
    t->own = x.set;
    nm_trainer_close(&t->trainer);
    nm_order_close(&t->order);
    nm_free(t->sample);
    t->sample = NULL;
    NM_TRY(nm_tune_open_order(t));
    return nm_tune_open_trainer(t);
}

/* ---- Memory -------------------------------------------------------------------------------------------------------------------------------------- */

nm_err nm_tune_tell_memory(nm_tune *t)
{
    nm_tune_settings set = *t->set;
    nm_tune free = {.set = &set, .base = t->base, .data = t->data, .order = t->order, .at = {.steps = t->at.steps}, .anchor = t->anchor};
    nm_trainer_options o;
    nm_trainer_info i;
    const nm_trainer_info *now = nm_trainer_describe(t->trainer);
    char bytes[32], least[32];
    set.memory = NULL;
    NM_TRY(nm_tune_trainer_options(&free, &o));
    NM_TRY(nm_trainer_plan(&i, t->base.model, &o));
    if (i.bytes == now->bytes) nm_tune_note(t, "--memory %s: nothing had to be made smaller", t->set->memory);
    else nm_tune_note(t, "--memory %s: %s with %d tokens a pass and %s computed again, where %s with %d and %s would be fastest", t->set->memory, nm_bytes_text(now->bytes, bytes),
                 now->pass_rows, now->recomputed, nm_bytes_text(i.bytes, least), i.pass_rows, i.recomputed);
    return NM_OK;
}
