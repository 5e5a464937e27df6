/* --plan, --fit and --memory of `nomoat tune`: what a run would take, what other choices would change, and choosing. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common.h"
#include "duration.h"
#include "tune_cost.h"

enum { LEAST_STEPS = 20, LEAST_LOOKS = 2, MOST_CHOICES = 16 };
static const double MARGIN = 0.95;      /* of the time that --fit gives is filled: a forecast is not exact */
static const double LOOKING = 0.15;     /* of that time at most is for validation, the meter and saving, where fewer of them do it */
static const char ATTENTION[] = "attn_q,attn_k,attn_v,attn_output", ATTENTION_TOGETHER[] = "attn_qkv,attn_output";

/* ---- Other choices -------------------------------------------------------------------------------------------------------------------------- */

typedef struct choice { char name[64]; nm_tune_forecast f; } choice;

typedef struct plan {
    nm_tune *t;
    nm_tune_rates rates;
    nm_tune_forecast now;
    choice choice[MOST_CHOICES];
    size_t choices;
} plan;

/* What cannot be (no such map, too little memory) is left out. */
static nm_err add_choice(plan *p, const nm_tune_settings *set, nm_dataset *data, const char *name)
{
    choice *c = &p->choice[p->choices];
    nm_err err = nm_tune_forecast_of(p->t, &p->rates, set, data, &c->f);
    if (err == NM_INTERRUPTED) return err;
    snprintf(c->name, sizeof c->name, "%s", name);
    p->choices += err == NM_OK;
    return NM_OK;
}

static nm_err add_ranks(plan *p)
{
    nm_tune_settings s = *p->t->set;
    char name[64];
    int32_t rank = p->rates.info.rank;
    if (s.init) return NM_OK;
    for (int i = 0; i < 2; i++) {
        s.rank = i ? rank * 2 : rank / 2;
        snprintf(name, sizeof name, "--rank %d", s.rank);
        if (s.rank) NM_TRY(add_choice(p, &s, p->t->data, name));
    }
    return NM_OK;
}

/* Twice the length means reading the data once more, which is worth it only where something was cut. */
static nm_err add_lengths(plan *p)
{
    nm_tune_settings s = *p->t->set;
    char name[64];
    s.max_length /= 2;
    snprintf(name, sizeof name, "--max-length %d", s.max_length);
    if (s.max_length >= 16) NM_TRY(add_choice(p, &s, p->t->data, name));
    s.max_length = p->t->set->max_length * 2;
    for (size_t i = 0; i < p->t->n_sources; i++) if (!strncmp(p->t->sources[i], "-", 1)) return NM_OK;    /* standard input comes once */
    if (!nm_dataset_describe(p->t->data)->long_rows || s.max_length > 1 << 20) return NM_OK;
    nm_tune longer = {.set = &s, .stacked = p->t->stacked, .sources = p->t->sources, .n_sources = p->t->n_sources};
    nm_err err = nm_tune_open_data(&longer);
    snprintf(name, sizeof name, "--max-length %d", s.max_length);
    if (err == NM_OK) err = add_choice(p, &s, longer.data, name);
    nm_dataset_close(&longer.data);
    return err;
}

static nm_err add_batches(plan *p)
{
    nm_tune_settings s = *p->t->set;
    char name[64];
    for (int i = 0; i < 2; i++) {
        s.batch = i ? p->t->set->batch * 2 : p->t->set->batch / 2;
        snprintf(name, sizeof name, "--batch %d", s.batch);
        if (s.batch && s.batch <= 1 << 16) NM_TRY(add_choice(p, &s, p->t->data, name));
    }
    return NM_OK;
}

static nm_err add_targets(plan *p)
{
    nm_tune_settings s = *p->t->set;
    size_t before = p->choices;
    if (s.init || s.targets) return NM_OK;
    s.targets = ATTENTION;
    NM_TRY(add_choice(p, &s, p->t->data, "--targets attn_q,attn_k,attn_v,attn_output"));
    s.targets = ATTENTION_TOGETHER;
    return p->choices > before ? NM_OK : add_choice(p, &s, p->t->data, "--targets attn_qkv,attn_output");
}

/* The next that is smaller than what was chosen, if there is one. */
static nm_err add_memory(plan *p)
{
    nm_tune_settings s = *p->t->set;
    char size[32], name[64];
    for (double part = 0.75; part > 0.1; part *= 0.75) {
        size_t before = p->choices;
        snprintf(size, sizeof size, "%.0fM", ceil((double)p->now.bytes * part * 1e-6));
        s.memory = size;
        snprintf(name, sizeof name, "--memory %s", size);
        NM_TRY(add_choice(p, &s, p->t->data, name));
        if (p->choices == before) break;
        if (strcmp(p->choice[before].f.recomputed, "layers")) p->choices = before;     /* the least that helps is what is shown */
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
        if (p->now.epochs > 1.001) {
            s.epochs = 1;
            NM_TRY(add_choice(p, &s, t->data, "--epochs 1"));
        }
    }
    s = *t->set;
    s.no_anchor = true;
    if (t->anchor) NM_TRY(add_choice(p, &s, t->data, "--no-anchor"));
    return add_memory(p);
}

/* ---- Telling ------------------------------------------------------------------------------------------------------------------------------------ */

static nm_err print_parts(const nm_tune_forecast *f)
{
    char text[7][32];
    return nm_out_printf("          of it: steps %s, anchor %s, optimiser %s, validation %s, meter %s, saving %s, opening %s\n", nm_duration_text(f->training, text[0]),
        nm_duration_text(f->anchor, text[1]), nm_duration_text(f->update, text[2]), nm_duration_text(f->validation, text[3]), nm_duration_text(f->meter, text[4]),
        nm_duration_text(f->saving, text[5]), nm_duration_text(f->begin, text[6]));
}

static nm_err print_choice(const plan *p, const choice *c)
{
    char time[32], memory[32];
    const nm_tune_forecast *f = &c->f, *now = &p->now;
    NM_TRY(nm_out_printf("%-44s %8s %10s", c->name, nm_duration_text(f->seconds, time), nm_bytes_text(f->peak, memory)));
    if (f->steps != now->steps) NM_TRY(nm_out_printf("  %lld steps", (long long)f->steps));
    if (f->cut != now->cut) NM_TRY(nm_out_printf("  %llu rows cut", (unsigned long long)f->cut));
    if (strcmp(f->recomputed, now->recomputed)) NM_TRY(nm_out_printf("  computed again: %s", f->recomputed));
    return nm_out_puts("\n");
}

static nm_err print_plan(const plan *p)
{
    const nm_tune_forecast *f = &p->now;
    char time[32], peak[32], beside[32];
    NM_TRY(nm_out_printf("steps     %lld (%.3g epochs)\ntokens    %.0f, %.0f of them trained\n", (long long)f->steps, f->epochs, f->tokens, f->trained));
    NM_TRY(nm_out_printf("speed     %.0f tokens/s\ntime      %s, if it is not stopped early\n", f->tokens / f->training, nm_duration_text(f->seconds, time)));
    NM_TRY(print_parts(f));
    NM_TRY(nm_out_printf("memory    %s at most, model and program included; %s of it to train (%d tokens a pass, in %s, computed again: %s)\n\n", nm_bytes_text(f->peak, peak),
        nm_bytes_text(f->bytes, beside), f->pass_rows, f->arithmetic, f->recomputed));
    NM_TRY(nm_out_printf("%-44s %8s %10s\n", "instead", "time", "memory"));
    for (size_t i = 0; i < p->choices; i++) NM_TRY(print_choice(p, &p->choice[i]));
    return NM_OK;
}

static nm_err json_forecast(nm_str *s, const nm_tune_forecast *f)
{
    NM_TRY(nm_str_printf(s, "\"steps\": %lld, \"epochs\": %.4g, \"tokens\": %.0f, \"trained\": %.0f, \"cut\": %llu, ", (long long)f->steps, f->epochs, f->tokens, f->trained,
        (unsigned long long)f->cut));
    return nm_str_printf(s, "\"tokens_per_second\": %.1f, \"seconds\": %.1f, \"bytes\": %llu, \"peak_bytes\": %llu, \"pass_tokens\": %d, "
        "\"arithmetic\": \"%s\", \"recomputed\": \"%s\"",
        f->training > 0 ? f->tokens / f->training : 0, f->seconds, (unsigned long long)f->bytes, (unsigned long long)f->peak, f->pass_rows, f->arithmetic,
        f->recomputed);
}

static nm_err json_plan(nm_str *s, const plan *p)
{
    const nm_tune_forecast *f = &p->now;
    NM_TRY(nm_str_putc(s, '{'));
    NM_TRY(json_forecast(s, f));
    NM_TRY(nm_str_printf(s, ", \"parts\": {\"opening\": %.2f, \"steps\": %.2f, \"anchor\": %.2f, \"optimizer\": %.2f, \"validation\": %.2f, \"meter\": %.2f, \"saving\": %.2f}",
        f->begin, f->training, f->anchor, f->update, f->validation, f->meter, f->saving));
    NM_TRY(nm_str_puts(s, ", \"instead\": ["));
    for (size_t i = 0; i < p->choices; i++) {
        NM_TRY(nm_str_printf(s, "%s{\"change\": \"%s\", ", i ? ", " : "", p->choice[i].name));
        NM_TRY(json_forecast(s, &p->choice[i].f));
        NM_TRY(nm_str_putc(s, '}'));
    }
    return nm_str_puts(s, "]}");
}

nm_err nm_tune_plan(nm_tune *t)
{
    plan p = {.t = t};
    NM_TRY(nm_tune_measure(t, &p.rates));
    NM_TRY(nm_tune_forecast_of(t, &p.rates, t->set, t->data, &p.now));
    NM_TRY(list_choices(&p));
    nm_str s = {0};
    return t->set->common.json ? nm_json_print(&s, json_plan(&s, &p)) : print_plan(&p);
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
    if (asked->steps == x->f.steps) nm_note("--fit %s: all %lld steps fit, in %s", x->t->set->fit, (long long)x->f.steps, now);
    else if (x->set.max_steps == x->t->set->max_steps)
        nm_note("--fit %s: %g epochs in place of %.4g (%lld steps, %s, in place of %s)", x->t->set->fit, x->set.epochs, asked->epochs, (long long)x->f.steps, now, was);
    else nm_note("--fit %s: %lld steps (%.2g epochs, %s) in place of %lld (%.3g epochs, %s)", x->t->set->fit, (long long)x->f.steps, x->f.epochs, now,
                 (long long)asked->steps, asked->epochs, was);
}

static void tell_looks(const fit *x)
{
    if (x->set.looks) nm_note("--fit %s: %d looks at it (validation, meter, checkpoint) in place of %d, so that they leave time to the steps (--save-every %lld)",
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
    t->set = &t->own;
    nm_trainer_close(&t->trainer);
    nm_order_close(&t->order);
    nm_free(t->sample);
    t->sample = NULL;
    return nm_tune_open_order(t);
}

/* ---- Memory -------------------------------------------------------------------------------------------------------------------------------------- */

nm_err nm_tune_tell_memory(nm_tune *t)
{
    nm_tune_settings set = *t->set;
    nm_tune free = {.set = &set, .stacked = t->stacked, .data = t->data, .order = t->order, .steps = t->steps, .anchor = t->anchor};
    nm_trainer_options o;
    nm_trainer_info i;
    const nm_trainer_info *now = nm_trainer_describe(t->trainer);
    char bytes[32], least[32];
    set.memory = NULL;
    NM_TRY(nm_tune_trainer_options(&free, &o));
    NM_TRY(nm_trainer_plan(&i, t->stacked->model, &o));
    if (i.bytes == now->bytes) nm_note("--memory %s: nothing had to be made smaller", t->set->memory);
    else nm_note("--memory %s: %s with %d tokens a pass and %s computed again, where %s with %d and %s would be fastest", t->set->memory, nm_bytes_text(now->bytes, bytes),
                 now->pass_rows, now->recomputed, nm_bytes_text(i.bytes, least), i.pass_rows, i.recomputed);
    return NM_OK;
}
