/* The run of `nomoat tune`: data, forecast, the loop with validation and checkpoints, and the adapter at the end. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common.h"
#include "forget.h"
#include "measure.h"
#include "os/clock.h"
#include "os/file.h"
#include "show_mask.h"
#include "tune.h"

enum { ANCHOR_TOKENS = 128, TEMPLATE_MOST = 1 << 20, TEXT_MOST = 64 << 20, EVALUATIONS = 10, PLAN_SECONDS = 4,
    EPOCHS = 3, MOST_EPOCHS = 10, ENOUGH_STEPS = 100,
    LEAST_VALIDATION = 20 };
static const char SHARE[] = "0.05";       /* of the rows, for validation */

/* The default rate falls with the width of the model, as the largest stable one does (Yang et al. 2022): 1e-3 for 576 columns, 1.4e-4 for 4,096. */
static const double RATE_TIMES_WIDTH = 0.576;

typedef struct tune {
    const nm_tune_settings *set;
    nm_stacked *stacked;
    nm_dataset *data;
    nm_order *order;
    nm_trainer *trainer;
    nm_sample *sample;          /* [batch] of the step in work */
    int32_t *anchor;            /* general text, or NULL */
    size_t anchors;
    char *folder, *state;       /* of the adapter; the checkpoint within */
    FILE *log;
    int64_t steps, every;
    double lr;
    double best;                /* validation loss of the adapter that was kept; HUGE_VAL before the first */
    int32_t worse;              /* validations since */
    int64_t looked;             /* step of the last one */
    int64_t from;               /* steps that were taken before this process */
    uint64_t begun_ns;
    double tokens, seconds;     /* for the speed */
    double first_loss, last_loss, forgetting;
} tune;

/* ---- Before ---------------------------------------------------------------------------------------------------------------------------- */

static nm_err parse_bytes(const char *text, uint64_t *out)
{
    char *end;
    double v = text ? strtod(text, &end) : 0;
    *out = 0;
    if (!text) return NM_OK;
    const char *units = "kmgt", *unit = *end ? strchr(units, *end | 32) : NULL;
    if (unit) {
        for (const char *u = units; u <= unit; u++) v *= 1000;
        end++;
    }
    if (*end == 'B' || *end == 'b') end++;
    if (!(v > 0) || v > 1e15 || *end) return nm_fail(NM_USAGE, "--memory %s: give a size such as 2G or 800M", text);
    *out = (uint64_t)v;
    return NM_OK;
}

static nm_err open_data(tune *t, char **sources, size_t count)
{
    const nm_tune_settings *set = t->set;
    const nm_model *model = t->stacked->model;
    if (set->batches) return nm_dataset_open_batches(&t->data, set->batches, nm_model_describe(model)->n_vocab);
    char *text = NULL;
    size_t length;
    if (set->template_path) NM_TRY(nm_file_read(set->template_path, TEMPLATE_MOST, &text, &length));
    const char *validation = !set->validation ? SHARE : strcmp(set->validation, "0") ? set->validation : NULL;
    nm_dataset_options o = {.sources = (const char *const *)sources, .n_sources = count, .validation = validation, .map = set->map, .format = set->format,
        .template_text = text, .train_on = (nm_train_on)set->train_on, .max_length = set->max_length, .skip_bad = set->skip_bad, .seed = set->seed.value};
    nm_err err = nm_dataset_open(&t->data, model, &o);
    if (err == NM_OK && !set->validation && nm_dataset_count(t->data, NM_SPLIT_VALIDATION) < LEAST_VALIDATION) {
        /* A handful of rows would say nothing, and be missed where there are few. */
        nm_dataset_close(&t->data);
        o.validation = NULL;
        err = nm_dataset_open(&t->data, model, &o);
    }
    nm_free(text);
    return err;
}

/* What the user should know of the data before an evening is spent on it. */
static void tell_data(const tune *t)
{
    const nm_dataset_stats *s = nm_dataset_describe(t->data);
    nm_note("%llu rows: %llu sequences, %llu tokens, %llu of them trained; %zu sequences for validation", (unsigned long long)s->rows,
        (unsigned long long)s->samples, (unsigned long long)s->tokens, (unsigned long long)s->trained, nm_dataset_count(t->data, NM_SPLIT_VALIDATION));
    if (s->bad_rows) nm_note("%llu bad rows were left out; the first: %s", (unsigned long long)s->bad_rows, s->first_bad ? s->first_bad : "");
    if (s->long_rows) nm_note("%llu sequences are longer than %d tokens and were cut; %llu of them lost part of an answer: --max-length %d keeps all",
        (unsigned long long)s->long_rows, t->set->max_length, (unsigned long long)s->cut_answers, s->longest);
    if (s->split_rows) nm_note("%llu rows became a sequence for each answer: the template rewrites earlier turns", (unsigned long long)s->split_rows);
    if (s->duplicates) nm_note("%llu validation sequences are also trained: %s", (unsigned long long)s->duplicates, s->first_duplicate ? s->first_duplicate : "");
}

/* General text for the anchor: the user's, or what ships with the program. */
static nm_err open_anchor(tune *t)
{
    const nm_tokenizer *tokenizer = nm_model_tokenizer(t->stacked->model);
    const char *file = t->set->anchor_data, *text;
    char *own = NULL;
    size_t length;
    if (t->set->no_anchor || t->set->batches || t->set->anchor == 0) return NM_OK;
    if (!tokenizer) return nm_fail(NM_REFUSED, "the model has no tokenizer, which the anchor needs: give --no-anchor");
    if (file) NM_TRY(nm_file_read(file, TEXT_MOST, &own, &length));
    text = own ? own : nm_general_text(NM_GENERAL_ANCHOR, &length);
    nm_err err = nm_tokenize(tokenizer, text, length, 0, &t->anchor, &t->anchors);
    nm_free(own);
    if (err == NM_OK && t->anchors < ANCHOR_TOKENS) err = nm_fail(NM_USAGE, "%s: too short: %d tokens of general text at least", file, ANCHOR_TOKENS);
    return err;
}

/* Three epochs, or on little data as many as make enough steps. */
static double default_epochs(const tune *t)
{
    double steps = ceil((double)nm_dataset_count(t->data, NM_SPLIT_TRAIN) / t->set->batch), enough = ceil(ENOUGH_STEPS / fmax(steps, 1));
    return fmin(fmax(EPOCHS, enough), MOST_EPOCHS);
}

static nm_err open_order(tune *t)
{
    const nm_tune_settings *set = t->set;
    nm_order_options o = {.batch = set->batch, .epochs = isnan(set->epochs) ? default_epochs(t) : set->epochs, .max_steps = set->max_steps,
        .seed = set->seed.value};
    NM_TRY(nm_order_open(&t->order, t->data, &o));
    t->steps = nm_order_steps(t->order);
    if (set->batches && set->max_steps && t->steps > set->max_steps) t->steps = set->max_steps;
    t->every = set->save_every ? set->save_every : (t->steps + EVALUATIONS - 1) / EVALUATIONS;
    return t->steps > 0 ? NM_OK : nm_fail(NM_USAGE, "no steps to train");
}

/* The largest step and sequence of the whole order: what memory is planned for. */
static nm_err find_largest(tune *t, size_t *batch, int32_t *length)
{
    *batch = 1;
    *length = t->anchor ? ANCHOR_TOKENS : 2;
    for (int64_t i = 0; i < t->steps; i++) {
        nm_order_step step;
        NM_TRY(nm_order_step_at(t->order, i, &step));
        if (step.count > *batch) *batch = step.count;
    }
    for (size_t i = 0; i < nm_dataset_count(t->data, NM_SPLIT_TRAIN); i++) {
        nm_sample s = nm_dataset_sample(t->data, NM_SPLIT_TRAIN, i);
        if (s.count > *length) *length = s.count;
    }
    return NM_OK;
}

static nm_err open_trainer(tune *t)
{
    const nm_tune_settings *set = t->set;
    size_t batch;
    t->lr = isnan(set->lr) ? RATE_TIMES_WIDTH / nm_model_describe(t->stacked->model)->n_embd : set->lr;
    nm_trainer_options o = {.rank = set->rank, .alpha = (float)set->alpha, .rslora = set->rslora, .targets = set->targets, .init = set->init,
        .below = t->stacked->stack, .optimizer = set->optimizer, .lr = (float)t->lr, .lr_ratio = (float)set->lr_ratio, .weight_decay = (float)set->weight_decay,
        .clip = (float)set->clip, .schedule = (nm_schedule)set->schedule, .steps = t->steps, .seed = set->seed.value};
    NM_TRY(find_largest(t, &batch, &o.max_length));
    NM_TRY(parse_bytes(set->memory, &o.memory));
    o.anchor = t->anchor ? ANCHOR_TOKENS : 0;
    o.batch = (int32_t)batch;
    o.warmup = set->warmup < 1 ? (int64_t)ceil(set->warmup * (double)t->steps) : (int64_t)set->warmup;
    NM_TRY(nm_trainer_open(&t->trainer, t->stacked->model, &o));
    t->sample = nm_calloc(batch, sizeof *t->sample);
    return t->sample ? NM_OK : nm_fail_memory(batch * sizeof *t->sample);
}

static void tell_trainer(const tune *t)
{
    char bytes[32];
    const nm_trainer_info *i = nm_trainer_describe(t->trainer);
    nm_note("rank %d on %d maps, %.1f million numbers, scale %g; %lld steps, rate %.2g; %s beside the model, %d tokens a pass, computed again: %s", i->rank,
        i->maps, (double)i->parameters * 1e-6, (double)i->scale, (long long)t->steps, t->lr, nm_bytes_text(i->bytes, bytes), i->pass_rows, i->recomputed);
}

/* NAME goes to the store of adapters; what has a slash is a folder. */
static nm_err find_folder(tune *t)
{
    const char *name = t->set->output;
    char *store = NULL;
    size_t n;
    if (!name) return NM_OK;
    if (!*name || !strcmp(name, ".") || !strcmp(name, "..")) return nm_fail(NM_USAGE, "-o '%s' names no adapter", name);
    if (!strchr(name, '/')) NM_TRY(nm_adapter_folder(&store));
    n = strlen(name) + (store ? strlen(store) : 0) + 2;
    t->folder = nm_malloc(n);
    t->state = nm_malloc(n + 32);
    if (t->folder && t->state) {
        snprintf(t->folder, n, "%s%s%s", store ? store : "", store ? "/" : "", name);
        snprintf(t->state, n + 32, "%s/checkpoint.safetensors", t->folder);
    }
    nm_free(store);
    if (!t->folder || !t->state) return nm_fail_memory(n);
    return nm_folder_make(t->folder, 0777);
}

/* ---- A step ------------------------------------------------------------------------------------------------------------------------------ */

static nm_sample anchor_at(const tune *t, int64_t step)
{
    size_t places = t->anchors / ANCHOR_TOKENS;
    return (nm_sample){.ids = t->anchor + (size_t)step % places * ANCHOR_TOKENS, .count = ANCHOR_TOKENS};
}

static nm_err take_step(tune *t, int64_t step, nm_train_report *report)
{
    nm_order_step s;
    NM_TRY(nm_order_step_at(t->order, step, &s));
    for (size_t i = 0; i < s.count; i++) t->sample[i] = nm_dataset_sample(t->data, NM_SPLIT_TRAIN, s.samples[i]);
    nm_sample anchor = {0};
    if (t->anchor) anchor = anchor_at(t, step);
    return nm_trainer_step(t->trainer, t->sample, s.count, t->anchor ? &anchor : NULL, (float)t->set->anchor, report, &nm_interrupted);
}

/* ---- Validation, in the arithmetic that will serve ------------------------------------------------------------------------------------------- */

static nm_err score_samples(tune *t, const nm_stack *stack, double *loss)
{
    size_t count = nm_dataset_count(t->data, NM_SPLIT_VALIDATION), longest = 2;
    double sum = 0, trained = 0;
    nm_measure measure = {0};
    for (size_t i = 0; i < count; i++) {
        nm_sample s = nm_dataset_sample(t->data, NM_SPLIT_VALIDATION, i);
        if ((size_t)s.count > longest) longest = (size_t)s.count;
    }
    double *nll = nm_calloc(longest, sizeof *nll);
    nm_err err = nll ? nm_measure_open(&measure, t->stacked->model, stack, &t->set->common, -1, longest) : nm_fail_memory(longest * sizeof *nll);
    for (size_t i = 0; err == NM_OK && i < count; i++) {
        nm_sample s = nm_dataset_sample(t->data, NM_SPLIT_VALIDATION, i);
        err = nm_measure_run(&measure, s.ids, (size_t)s.count, 0, nll, NULL, NULL);
        for (int32_t k = 1; err == NM_OK && k < s.count; k++) {
            sum += s.mask[k] ? nll[k - 1] : 0;
            trained += s.mask[k];
        }
    }
    nm_measure_close(&measure);
    nm_free(nll);
    *loss = trained > 0 ? sum / trained : 0;
    return err;
}

/* The adapter as it stands, on the stack below. */
typedef struct present { nm_adapter *made; nm_stack *stack; } present;

static nm_err open_present(tune *t, present *p)
{
    const nm_found_stack *found = &t->stacked->found;
    size_t n = found->count + 1;
    const nm_adapter **adapters = nm_calloc(n, sizeof(*adapters));
    float *scales = nm_calloc(n, sizeof *scales);
    nm_err err = adapters && scales ? nm_trainer_adapter(t->trainer, &p->made) : nm_fail_memory(n * sizeof *scales);
    if (err == NM_OK) err = nm_stacked_adapters(t->stacked, adapters, scales);
    if (err == NM_OK) {
        adapters[n - 1] = p->made;
        scales[n - 1] = 1;
        err = nm_stack_open(&p->stack, t->stacked->model, adapters, scales, n);
    }
    nm_free(adapters);
    nm_free(scales);
    return err;
}

static void close_present(present *p)
{
    nm_stack_close(&p->stack);
    nm_adapter_close(&p->made);
}

/* Loss on the validation data, and what was forgotten; -1 where there is none to measure. */
static nm_err validate(tune *t, double *loss, double *forgetting)
{
    present p = {0};
    bool last = nm_trainer_steps(t->trainer) == t->steps;
    *loss = *forgetting = -1;
    nm_err err = open_present(t, &p);
    if (err == NM_OK && nm_dataset_count(t->data, NM_SPLIT_VALIDATION)) err = score_samples(t, p.stack, loss);
    size_t tokens = (size_t)t->set->meter / (last ? 1 : 8);
    if (err == NM_OK && tokens && nm_model_tokenizer(t->stacked->model) && !t->set->batches)
        err = nm_forgetting(t->stacked->model, t->stacked->stack, p.stack, &t->set->common, tokens, forgetting);
    close_present(&p);
    return err;
}

/* ---- Keeping ------------------------------------------------------------------------------------------------------------------------------ */

static nm_err provenance(const tune *t, nm_str *s)
{
    const nm_tune_settings *set = t->set;
    const nm_trainer_info *i = nm_trainer_describe(t->trainer);
    NM_TRY(nm_str_putc(s, '{'));
    NM_TRY(nm_json_text(s, "program", "nomoat"));
    NM_TRY(nm_json_text(s, "version", nm_version()));
    NM_TRY(nm_json_text(s, "base", nm_model_describe(t->stacked->model)->name));
    if (set->format) NM_TRY(nm_json_text(s, "format", set->format));
    NM_TRY(nm_json_whole(s, "steps", (uint64_t)nm_trainer_steps(t->trainer)));
    NM_TRY(nm_json_whole(s, "seed", set->seed.value));
    NM_TRY(nm_json_whole(s, "rank", (uint64_t)i->rank));
    NM_TRY(nm_json_key(s, "scale"));
    NM_TRY(nm_json_float(s, (double)i->scale));
    NM_TRY(nm_json_key(s, "learning_rate"));
    NM_TRY(nm_json_double(s, t->lr));
    NM_TRY(nm_json_key(s, "validation_loss"));
    NM_TRY(nm_json_double(s, isfinite(t->best) ? t->best : NAN));
    NM_TRY(nm_json_key(s, "forgetting"));
    NM_TRY(nm_json_double(s, t->forgetting >= 0 ? t->forgetting : NAN));
    return nm_str_putc(s, '}');
}

static nm_err keep_adapter(tune *t)
{
    nm_str s = {0};
    nm_err err = provenance(t, &s);
    const char *base = t->set->base_id ? t->set->base_id : nm_model_describe(t->stacked->model)->name;
    if (err == NM_OK) err = nm_trainer_save(t->trainer, t->folder, base, s.data, NULL);
    nm_str_free(&s);
    return err;
}

/* The checkpoint's note: what the loop itself remembers. */
static nm_err checkpoint(tune *t)
{
    char note[128];
    snprintf(note, sizeof note, "%a %d %lld %a", t->best, t->worse, (long long)t->looked, t->first_loss);
    return nm_trainer_checkpoint(t->trainer, t->state, note);
}

static nm_err resume(tune *t)
{
    char *note;
    long long looked = 0;
    NM_TRY(nm_trainer_resume(t->trainer, t->state, &note));
    int read = sscanf(note, "%la %d %lld %la", &t->best, &t->worse, &looked, &t->first_loss);
    nm_free(note);
    if (read != 4) return nm_fail(NM_BAD_FILE, "%s: no checkpoint of nomoat tune", t->state);
    t->looked = looked;
    t->from = nm_trainer_steps(t->trainer);
    nm_note("going on after step %lld of %lld", (long long)t->from, (long long)t->steps);
    return NM_OK;
}

/* ---- Saying ------------------------------------------------------------------------------------------------------------------------------ */

static nm_err log_step(tune *t, const nm_train_report *r, double validation, double forgetting)
{
    nm_str s = {0};
    if (!t->log) return NM_OK;
    nm_err err = nm_str_printf(&s, "{\"step\": %lld, \"loss\": %.9g, \"grad_norm\": %.9g, \"lr\": %.9g, \"supervised_tokens\": %lld, \"tokens\": %lld, \"seconds\": %.3f",
        (long long)r->step, r->loss, r->grad_norm, (double)r->lr, (long long)r->supervised, (long long)r->tokens, r->seconds);
    if (err == NM_OK && t->anchor) err = nm_str_printf(&s, ", \"anchor\": %.6g", r->anchor);
    if (err == NM_OK && validation >= 0) err = nm_str_printf(&s, ", \"val_loss\": %.9g", validation);
    if (err == NM_OK && forgetting >= 0) err = nm_str_printf(&s, ", \"forgetting\": %.6g", forgetting);
    if (err == NM_OK) err = nm_str_puts(&s, "}\n");
    if (err == NM_OK && (fwrite(s.data, 1, s.length, t->log) != s.length || fflush(t->log))) err = nm_fail(NM_FAILED, "%s: cannot be written", t->set->log);
    nm_str_free(&s);
    return err;
}

static const char *time_text(double seconds, char out[32])
{
    if (seconds >= 5400) snprintf(out, 32, "%.1f h", seconds / 3600);
    else if (seconds >= 90) snprintf(out, 32, "%.0f min", seconds / 60);
    else snprintf(out, 32, "%.0f s", seconds);
    return out;
}

static void show_progress(tune *t, const nm_train_report *r)
{
    char left[32];
    if (t->set->common.quiet || !nm_term_is(STDERR_FILENO)) return;
    double speed = t->tokens / t->seconds, rest = (double)(t->steps - r->step) * t->seconds / (double)(r->step - t->from);
    fprintf(stderr, "\r\x1b[Kstep %lld of %lld  loss %.3f  %.0f tokens/s  %s left", (long long)r->step, (long long)t->steps, t->last_loss, speed, time_text(rest, left));
    fflush(stderr);
}

static void clear_progress(const tune *t)
{
    if (!t->set->common.quiet && nm_term_is(STDERR_FILENO)) fputs("\r\x1b[K", stderr);
}

/* ---- The loop ------------------------------------------------------------------------------------------------------------------------------ */

/* Validates, keeps the adapter if it is the best so far, and writes the checkpoint. */
static nm_err look(tune *t, double *validation, double *forgetting)
{
    char loss[48] = "", forgotten[48] = "";
    NM_TRY(validate(t, validation, forgetting));
    clear_progress(t);
    if (*validation >= 0) snprintf(loss, sizeof loss, ", validation %.4f", *validation);
    if (*forgetting >= 0) snprintf(forgotten, sizeof forgotten, ", forgetting %.4f nats", *forgetting);
    nm_note("step %lld: loss %.4f%s%s", (long long)nm_trainer_steps(t->trainer), t->last_loss, loss, forgotten);
    t->forgetting = *forgetting;
    if (*validation >= 0) {
        bool better = *validation < t->best;
        t->worse = better ? 0 : t->worse + 1;
        if (better) {
            t->best = *validation;
            NM_TRY(keep_adapter(t));
        }
    }
    t->looked = nm_trainer_steps(t->trainer);
    return checkpoint(t);
}

static bool is_due(const tune *t)
{
    int64_t step = nm_trainer_steps(t->trainer);
    return step > t->looked && (step == t->steps || step % t->every == 0);
}

static void take_note(tune *t, const nm_train_report *r)
{
    if (r->step == 1) t->first_loss = r->loss;
    t->last_loss = t->seconds > 0 ? 0.9 * t->last_loss + 0.1 * r->loss : r->loss;
    t->tokens += (double)r->tokens;
    t->seconds += r->seconds;
}

/* Ctrl-C: what was done is kept, and how to go on is said. */
static nm_err interrupted(tune *t)
{
    nm_interrupted = 0;
    clear_progress(t);
    NM_TRY(checkpoint(t));
    nm_note("stopped after step %lld of %lld; the same command with --resume goes on", (long long)nm_trainer_steps(t->trainer), (long long)t->steps);
    return nm_fail(NM_INTERRUPTED, "interrupted");
}

static nm_err one_step(tune *t)
{
    nm_train_report r;
    double validation = -1, forgetting = -1;
    NM_TRY(take_step(t, nm_trainer_steps(t->trainer), &r));
    take_note(t, &r);
    if (is_due(t)) NM_TRY(look(t, &validation, &forgetting));
    NM_TRY(log_step(t, &r, validation, forgetting));
    show_progress(t, &r);
    return NM_OK;
}

static nm_err loop(tune *t)
{
    double validation, forgetting;
    nm_err err = is_due(t) ? look(t, &validation, &forgetting) : NM_OK;      /* a run that was stopped before it had looked */
    while (err == NM_OK && nm_trainer_steps(t->trainer) < t->steps) {
        if (t->set->patience && t->worse >= t->set->patience) {
            nm_note("validation has not improved %d times: stopping at step %lld", t->worse, (long long)nm_trainer_steps(t->trainer));
            break;
        }
        err = one_step(t);
    }
    clear_progress(t);
    return err == NM_INTERRUPTED ? interrupted(t) : err;
}

static nm_err finish(tune *t)
{
    bool validated = nm_dataset_count(t->data, NM_SPLIT_VALIDATION) > 0;
    char time[32];
    if (!isfinite(t->best)) NM_TRY(keep_adapter(t));
    unlink(t->state);           /* the run is over */
    double seconds = (double)(nm_clock_ns() - t->begun_ns) * 1e-9;
    nm_note("%lld steps in %s, %.0f tokens/s; loss %.3f -> %.3f", (long long)nm_trainer_steps(t->trainer), time_text(seconds, time), t->tokens / t->seconds,
        t->first_loss, t->last_loss);
    if (!t->set->common.json) return nm_out_printf("%s\n", t->folder);
    nm_str s = {0};
    nm_err err = nm_str_putc(&s, '{');
    if (err == NM_OK) err = nm_json_text(&s, "adapter", t->folder);
    if (err == NM_OK) err = nm_json_whole(&s, "steps", (uint64_t)nm_trainer_steps(t->trainer));
    if (err == NM_OK) err = nm_json_key(&s, "loss");
    if (err == NM_OK) err = nm_json_double(&s, t->last_loss);
    if (err == NM_OK) err = nm_json_key(&s, "val_loss");
    if (err == NM_OK) err = nm_json_double(&s, validated ? t->best : NAN);
    if (err == NM_OK) err = nm_json_key(&s, "forgetting");
    if (err == NM_OK) err = nm_json_double(&s, t->forgetting >= 0 ? t->forgetting : NAN);
    if (err == NM_OK) err = nm_json_key(&s, "seconds");
    if (err == NM_OK) err = nm_json_double(&s, seconds);
    if (err == NM_OK) err = nm_str_putc(&s, '}');
    return nm_json_print(&s, err);
}

/* ---- The forecast -------------------------------------------------------------------------------------------------------------------------- */

/* Steps on the real data for a few seconds, with a trainer that is thrown away. */
static nm_err forecast(tune *t)
{
    double total = 0, measured = 0;
    int64_t taken = 0;
    char time[32], bytes[32];
    for (int64_t i = 0; i < t->steps; i++) {
        nm_order_step s;
        NM_TRY(nm_order_step_at(t->order, i, &s));
        for (size_t k = 0; k < s.count; k++) total += nm_dataset_sample(t->data, NM_SPLIT_TRAIN, s.samples[k]).count;
        total += t->anchor ? ANCHOR_TOKENS : 0;
    }
    for (; taken < t->steps && t->seconds < PLAN_SECONDS; taken++) {
        nm_train_report r;
        NM_TRY(take_step(t, taken, &r));
        measured += (double)r.tokens;
        t->seconds += r.seconds;
    }
    double speed = measured / t->seconds, seconds = total / speed;
    const nm_trainer_info *i = nm_trainer_describe(t->trainer);
    if (!t->set->common.json)
        return nm_out_printf("steps     %lld\ntokens    %.0f\nspeed     %.0f tokens/s\ntime      %s\nmemory    %s beside the model\n", (long long)t->steps, total, speed,
            time_text(seconds, time), nm_bytes_text(i->bytes, bytes));
    nm_str s = {0};
    nm_err err = nm_str_printf(&s, "{\"steps\": %lld, \"tokens\": %.0f, \"tokens_per_second\": %.1f, \"seconds\": %.1f, \"bytes\": %llu}", (long long)t->steps, total,
        speed, seconds, (unsigned long long)i->bytes);
    return nm_json_print(&s, err);
}

/* ---- All of it -------------------------------------------------------------------------------------------------------------------------------- */

static nm_err run_all(tune *t, char **sources, size_t count)
{
    NM_TRY(open_data(t, sources, count));
    tell_data(t);
    if (t->set->show_mask) return nm_show_mask(t->data, nm_model_tokenizer(t->stacked->model), (size_t)t->set->show_mask);
    NM_TRY(open_anchor(t));
    NM_TRY(open_order(t));
    NM_TRY(open_trainer(t));
    tell_trainer(t);
    if (t->set->plan) return forecast(t);
    NM_TRY(find_folder(t));
    if (t->set->resume) NM_TRY(resume(t));
    else if (access(t->state, F_OK) == 0)
        return nm_fail(NM_REFUSED, "%s holds a run that was interrupted: --resume goes on with it; remove the file to begin anew", t->state);
    if (t->set->log && !(t->log = fopen(t->set->log, t->set->resume ? "a" : "w"))) return nm_fail(NM_FAILED, "%s: cannot be written", t->set->log);
    t->begun_ns = nm_clock_ns();
    NM_TRY(loop(t));
    return finish(t);
}

nm_err nm_tune_run(const nm_tune_settings *set, nm_stacked *stacked, char **sources, size_t count)
{
    tune t = {.set = set, .stacked = stacked, .best = HUGE_VAL, .forgetting = -1};
    nm_err err = run_all(&t, sources, count);
    if (t.log) fclose(t.log);
    nm_trainer_close(&t.trainer);
    nm_order_close(&t.order);
    nm_dataset_close(&t.data);
    nm_free(t.sample);
    nm_free(t.anchor);
    nm_free(t.folder);
    nm_free(t.state);
    return err;
}
