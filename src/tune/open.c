/* What a run needs before its first step: data, the order, the trainer, the folder. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/duration.h"
#include "os/file.h"
#include "hub/store.h"
#include "tune/tune_impl.h"

enum { TEMPLATE_MOST = 1 << 20, EPOCHS = 3, MOST_EPOCHS = 10, ENOUGH_STEPS = 80, LEAST_VALIDATION = 20, MOST_VALIDATION = 128 };
static const char SHARE[] = "0.05";       /* of the rows, for validation */

/* The default rate falls with the width of the model, as the largest stable one does (Yang et al. 2022): 2e-3 for 576 columns, 2.8e-4 for 4,096.
 * This is AdamW's; other optimisers have a factor to it. */
static const double RATE_TIMES_WIDTH = 1.152;

/* Nats of the anchor at which that rate gives way: taught models stay around 0.05 where all is well. */
static const double EASE = 0.1;

/* Whether reading is to end: there may be much to read. */
static bool is_cancelled(void *arg, uint64_t done, uint64_t total)
{
    const nm_tune *t = arg;
    (void)done, (void)total;
    return nm_cancelled(t->listener.cancel);
}

/* ---- Memory ------------------------------------------------------------------------------------------------------------------------------------- */

uint64_t nm_tune_data_bytes(const nm_dataset *data) { return data ? nm_dataset_describe(data)->bytes : 0; }

static uint64_t held(const nm_tune *t) { return t->beside + nm_tune_data_bytes(t->data) + nm_tune_data_bytes(t->replay); }

/* What the bound leaves beside the data that is there; 0: there is no bound. */
static nm_err find_room(const nm_tune *t, uint64_t *bytes)
{
    NM_TRY(nm_read_bytes(t->set->memory, "--memory", bytes));
    if (t->set->room && (!*bytes || t->set->room < *bytes)) *bytes = t->set->room;
    if (*bytes) *bytes = *bytes > held(t) ? *bytes - held(t) : 1;
    return NM_OK;
}

static nm_err tell_need(const nm_tune *t, uint64_t more) { return t->listener.need ? t->listener.need(t->listener.arg, held(t) + more) : NM_OK; }

/* ---- Data --------------------------------------------------------------------------------------------------------------------------------------- */

nm_err nm_tune_open_rows(nm_tune *t, nm_dataset **out, const nm_dataset_options *what)
{
    const nm_tune_settings *set = t->set;
    char *text = NULL;
    size_t length;
    if (set->template_path) NM_TRY(nm_file_read(set->template_path, TEMPLATE_MOST, &text, &length));
    nm_dataset_options o = *what;
    o.format = set->format;
    o.template_text = text;
    o.seed = set->seed.value;
    o.progress = is_cancelled;
    o.progress_arg = t;
    if (!o.rows) {
        o.max_length = set->max_length;
        o.map = set->map;
        o.train_on = (nm_train_on)set->train_on;
        o.skip_bad = set->skip_bad;
    }
    nm_err err = o.rows ? NM_OK : find_room(t, &o.memory);     /* rows in memory are our own, and few */
    if (err == NM_OK) err = nm_dataset_open(out, t->base.model, &o);
    nm_free(text);
    return err == NM_OK ? tell_need(t, 0) : err;
}

nm_err nm_tune_open_data(nm_tune *t)
{
    const nm_tune_settings *set = t->set;
    if (set->batches) return nm_dataset_open_batches(&t->data, set->batches, nm_model_describe(t->base.model)->n_vocab);
    const char *validation = !set->validation ? SHARE : strcmp(set->validation, "0") ? set->validation : NULL;
    /* Without being asked: a handful of rows would say nothing, and be missed where there are few; and more than some would cost time, not tell more. */
    return nm_tune_open_rows(t, &t->data, &(nm_dataset_options){.sources = t->sources, .n_sources = t->n_sources, .validation = validation,
        .least_validation = set->validation ? 0 : LEAST_VALIDATION, .most_validation = set->validation ? 0 : MOST_VALIDATION});
}

/* What the user should know of the data before an evening is spent on it. */
void nm_tune_tell_data(const nm_tune *t)
{
    const nm_dataset_stats *s = nm_dataset_describe(t->data);
    nm_tune_note(t, "%llu rows: %llu sequences, %llu tokens, %llu of them trained; %zu sequences for validation", (unsigned long long)s->rows,
        (unsigned long long)s->samples, (unsigned long long)s->tokens, (unsigned long long)s->trained, nm_dataset_count(t->data, NM_SPLIT_VALIDATION));
    if (s->bad_rows) nm_tune_note(t, "%llu bad rows were left out; the first: %s", (unsigned long long)s->bad_rows, s->first_bad ? s->first_bad : "");
    if (s->long_rows) nm_tune_note(t, "%llu sequences are longer than %d tokens and were cut; %llu of them lost part of an answer: --max-length %d keeps all",
        (unsigned long long)s->long_rows, t->set->max_length, (unsigned long long)s->cut_answers, s->longest);
    if (s->split_rows) nm_tune_note(t, "%llu rows became a sequence for each answer: the template rewrites earlier turns", (unsigned long long)s->split_rows);
    if (s->duplicates) nm_tune_note(t, "%llu validation sequences are also trained: %s", (unsigned long long)s->duplicates, s->first_duplicate ? s->first_duplicate : "");
}

/* Three epochs, or on little data as many as make enough steps. */
static double default_epochs(const nm_tune *t)
{
    double steps = ceil((double)nm_dataset_count(t->data, NM_SPLIT_TRAIN) / t->set->batch), enough = ceil(ENOUGH_STEPS / fmax(steps, 1));
    return fmin(fmax(EPOCHS, enough), MOST_EPOCHS);
}

/* Fewer where a look chooses nothing: it costs as much as some steps. */
int32_t nm_tune_looks(const nm_tune *t)
{
    bool chooses = nm_dataset_count(t->data, NM_SPLIT_VALIDATION) || !isnan(t->set->max_forget);
    return chooses ? 10 : 5;
}

nm_err nm_tune_open_order(nm_tune *t)
{
    const nm_tune_settings *set = t->set;
    t->at.epochs = isnan(set->epochs) ? default_epochs(t) : set->epochs;
    nm_order_options o = {.batch = set->batch, .epochs = t->at.epochs, .max_steps = set->max_steps, .seed = set->seed.value};
    NM_TRY(nm_order_open(&t->order, t->data, &o));
    t->at.steps = nm_order_steps(t->order);
    if (set->batches && set->max_steps && t->at.steps > set->max_steps) t->at.steps = set->max_steps;
    int32_t looks = set->looks ? set->looks : nm_tune_looks(t);
    t->at.every = set->save_every ? set->save_every : (t->at.steps + looks - 1) / looks;
    return t->at.steps > 0 ? NM_OK : nm_fail(NM_USAGE, "no steps to train");
}

static void find_longest(const nm_dataset *d, int32_t *length)
{
    for (size_t i = 0; i < nm_dataset_count(d, NM_SPLIT_TRAIN); i++) {
        nm_sample s = nm_dataset_sample(d, NM_SPLIT_TRAIN, i);
        if (s.count > *length) *length = s.count;
    }
}

/* The largest step and sequence of the whole order: what memory is planned for. */
static nm_err find_largest(nm_tune *t, size_t *batch, int32_t *length)
{
    *batch = 1;
    *length = t->anchor ? NM_ANCHOR_TOKENS : 2;
    for (int64_t i = 0; i < t->at.steps; i++) {
        nm_order_step step;
        if (nm_cancelled(t->listener.cancel)) return nm_fail(NM_INTERRUPTED, "interrupted");
        NM_TRY(nm_order_step_at(t->order, i, &step));
        if (step.count > *batch) *batch = step.count;
    }
    *batch += (size_t)t->replays;
    find_longest(t->data, length);
    if (t->replay) find_longest(t->replay, length);
    return NM_OK;
}

nm_err nm_tune_trainer_options(nm_tune *t, nm_trainer_options *o)
{
    const nm_tune_settings *set = t->set;
    size_t batch;
    float rate;
    NM_TRY(nm_optimizer_rate(set->optimizer, &rate));
    t->at.rate = isnan(set->lr) ? (double)rate * RATE_TIMES_WIDTH / nm_model_describe(t->base.model)->n_embd : set->lr;
    t->ease = !isnan(set->ease) ? set->ease : isnan(set->lr) ? EASE : 0;
    *o = (nm_trainer_options){.compute = set->compute, .rank = set->rank, .alpha = (float)set->alpha, .rslora = set->rslora, .dora = set->dora,
        .targets = set->targets,
        .init = set->init, .force = set->force,
        .below = t->base.stack, .start = (nm_start)set->start, .dropout = (float)set->dropout, .optimizer = set->optimizer,
        .lr = (float)t->at.rate, .lr_ratio = (float)set->lr_ratio, .weight_decay = (float)set->weight_decay,
        .clip = (float)set->clip, .schedule = (nm_schedule)set->schedule, .steps = t->at.steps, .seed = set->seed.value};
    NM_TRY(find_largest(t, &batch, &o->max_length));
    NM_TRY(find_room(t, &o->memory));
    o->anchor = t->anchor ? NM_ANCHOR_HELD : 0;
    o->ease = t->anchor ? (float)t->ease : 0;
    o->batch = (int32_t)batch;
    o->no_packing = set->no_packing;
    o->beside = set->beside;
    o->cancel = t->listener.cancel;
    o->warmup = set->warmup < 1 ? (int64_t)ceil(set->warmup * (double)t->at.steps) : (int64_t)set->warmup;
    return NM_OK;
}

nm_err nm_tune_open_trainer(nm_tune *t)
{
    nm_trainer_options o;
    nm_trainer_info info;
    NM_TRY(nm_tune_trainer_options(t, &o));
    NM_TRY(nm_trainer_plan(&info, t->base.model, &o));
    NM_TRY(tell_need(t, info.start_bytes));
    NM_TRY(nm_trainer_open(&t->trainer, t->base.model, &o));
    t->sample = nm_calloc((size_t)o.batch, sizeof *t->sample);
    return t->sample ? NM_OK : nm_fail_memory((size_t)o.batch * sizeof *t->sample);
}

void nm_tune_unprepare(nm_tune *t)
{
    nm_trainer_close(&t->trainer);
    nm_free(t->sample);
    t->sample = NULL;
    nm_order_close(&t->replay_order);
    nm_dataset_close(&t->replay);
    nm_order_close(&t->order);
}

void nm_tune_tell_trainer(const nm_tune *t)
{
    char bytes[32];
    const nm_trainer_info *i = nm_trainer_describe(t->trainer);
    nm_tune_note(t, "%srank %d on %d maps, %.1f million numbers, scale %g; %lld steps, rate %.2g; %s beside the model, %d tokens a pass, in %s, computed again: %s",
        i->dora ? "DoRA of " : "", i->rank, i->maps, (double)i->parameters * 1e-6, (double)i->scale, (long long)t->at.steps, t->at.rate,
        nm_bytes_text(i->bytes, bytes), i->pass_rows, i->arithmetic, i->recomputed);
    if (t->set->warmup >= (double)t->at.steps && t->at.steps > 1)
        nm_tune_note(t, "the warm-up of %g steps is not over before the run is: the rate stays low. --warmup 0.05 suits any length", t->set->warmup);
}

/* NAME goes to the store of adapters; what has a slash is a folder. */
nm_err nm_tune_find_folder(nm_tune *t)
{
    const char *name = t->set->output;
    char *store = NULL;
    size_t n;
    if (t->folder) return NM_OK;
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
    t->at.folder = t->folder;
    t->made_folder = access(t->folder, F_OK) != 0;
    return nm_folder_make(t->folder, 0777);
}
