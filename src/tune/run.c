/* A run: opening and closing it, the loop with validation and checkpoints, and the adapter at the end. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os/clock.h"
#include "os/machine.h"
#include "tune/tune_impl.h"

void nm_tune_note(const nm_tune *t, const char *format, ...)
{
    nm_str s = {0};
    va_list args;
    if (!t->listener.note) return;
    va_start(args, format);
    if (nm_str_vprintf(&s, format, args) == NM_OK) t->listener.note(t->listener.arg, s.data);
    va_end(args);
    nm_str_free(&s);
}

/* ---- A step ------------------------------------------------------------------------------------------------------------------------------ */

/* The samples of step `step` (from 0), kept ones included, into t->sample. */
static nm_err step_samples(nm_tune *t, int64_t step, size_t *count)
{
    nm_order_step s;
    NM_TRY(nm_order_step_at(t->order, step, &s));
    for (size_t i = 0; i < s.count; i++) t->sample[i] = nm_dataset_sample(t->data, NM_SPLIT_TRAIN, s.samples[i]);
    *count = s.count;
    NM_TRY(nm_tune_add_replay(t, step, count));
    t->kept_tokens = 0;
    for (size_t i = s.count; i < *count; i++) t->kept_tokens += t->sample[i].trained;
    return NM_OK;
}

static nm_err take_step(nm_tune *t, int64_t step, nm_train_report *report)
{
    size_t count;
    nm_sample anchor[NM_ANCHORS];
    size_t anchors = 0;
    double answering = 0;
    NM_TRY(step_samples(t, step, &count));
    if (t->anchor) NM_TRY(nm_tune_anchor_at(t, step, anchor, &anchors, &answering));
    NM_TRY(nm_trainer_step(t->trainer, t->sample, count, anchor, anchors, (float)t->set->anchor, report, t->listener.cancel));
    report->seconds += answering;
    return NM_OK;
}

/* ---- The loop ------------------------------------------------------------------------------------------------------------------------------ */

static bool is_limited(const nm_tune *t) { return !isnan(t->set->max_forget); }

/* Whether the adapter as it stands is what the folder should hold: the best so far, or where nothing tells good from bad the latest (that --max-forget allows):
 * a run that comes to nothing later has then left something. */
static bool is_to_be_kept(nm_tune *t, double validation)
{
    t->over = is_limited(t) && !(t->at.forgetting <= t->set->max_forget);
    if (validation < 0) return !t->over;
    bool better = validation < t->at.best && !t->over;
    t->worse = better ? 0 : t->worse + 1;
    if (better) t->at.best = validation;
    return better;
}

/* Validates, keeps the adapter if it is the best so far, and writes the checkpoint. The step's line is in the log before the checkpoint holds the step. */
static nm_err look(nm_tune *t)
{
    char loss[48] = "", forgotten[48] = "";
    double validation, forgetting;
    NM_TRY(nm_tune_validate(t, &validation, &forgetting));
    if (validation >= 0) snprintf(loss, sizeof loss, ", validation %.4f", validation);
    if (forgetting >= 0) snprintf(forgotten, sizeof forgotten, ", forgetting %.4f nats", forgetting);
    nm_tune_note(t, "step %lld: loss %.4f%s%s", (long long)nm_trainer_steps(t->trainer), t->at.last_loss, loss, forgotten);
    nm_tune_history_look(&t->at.history, nm_trainer_steps(t->trainer), validation, forgetting);
    if (t->pending.step) NM_TRY(nm_tune_log_step(t, &t->pending, validation, forgetting));
    t->pending = (nm_train_report){0};
    t->at.forgetting = forgetting;
    if (is_to_be_kept(t, validation)) NM_TRY(nm_tune_keep_adapter(t));
    t->looked = nm_trainer_steps(t->trainer);
    return nm_tune_checkpoint(t);
}

static bool is_due(const nm_tune *t)
{
    int64_t step = nm_trainer_steps(t->trainer);
    return step > t->looked && (step == t->at.steps || step % t->at.every == 0);
}

static void take_note(nm_tune *t, const nm_train_report *r)
{
    if (r->step == 1) t->at.first_loss = r->loss;
    nm_tune_history_step(&t->at.history, r->loss);
    t->at.last_loss = r->step > 1 ? 0.9 * t->at.last_loss + 0.1 * r->loss : r->loss;
    t->at.tokens += (double)r->tokens;
    t->at.seconds += r->seconds;
}

/* What was done is kept, and how to go on is the caller's to say. */
static nm_err interrupted(nm_tune *t)
{
    nm_cancel(t->listener.cancel, false);
    NM_TRY(nm_tune_checkpoint(t));
    t->at.ended = "interrupted";
    t->at.resumable = true;
    if (t->set->report) NM_TRY(nm_tune_report(t, false));
    return nm_fail(NM_INTERRUPTED, "interrupted");
}

static nm_err one_step(nm_tune *t)
{
    nm_train_report r;
    NM_TRY(take_step(t, nm_trainer_steps(t->trainer), &r));
    take_note(t, &r);
    t->at.step = r.step;
    if (is_due(t)) {
        t->pending = r;
        NM_TRY(look(t));
    } else {
        NM_TRY(nm_tune_log_step(t, &r, -1, -1));
    }
    if (t->listener.step) t->listener.step(t->listener.arg, t, &r);
    return NM_OK;
}

/* True, with a note, where the run ends before its last step. */
static bool is_over(nm_tune *t)
{
    long long step = (long long)nm_trainer_steps(t->trainer);
    if (t->over) {
        nm_tune_note(t, "forgetting %.4f nats at step %lld is above --max-forget %g: stopping", t->at.forgetting, step, t->set->max_forget);
        t->at.ended = "forgetting passed --max-forget";
    } else if (t->set->patience && t->worse >= t->set->patience && step < t->at.steps) {
        nm_tune_note(t, "validation has not improved %d times: stopping at step %lld", t->worse, step);
        t->at.ended = "validation did not improve any more";
    } else {
        return false;
    }
    return true;
}

static nm_err loop(nm_tune *t)
{
    nm_err err = is_due(t) ? look(t) : NM_OK;       /* a run that was stopped before it had looked */
    t->at.ended = "all steps were taken";
    while (err == NM_OK && !is_over(t) && nm_trainer_steps(t->trainer) < t->at.steps) err = one_step(t);
    return err == NM_INTERRUPTED ? interrupted(t) : err;
}

/* ---- The end -------------------------------------------------------------------------------------------------------------------------------- */

/* Nothing that was taught may be used: nothing is left. */
static nm_err nothing_kept(nm_tune *t)
{
    nm_err err = t->set->report ? nm_tune_report(t, false) : NM_OK;
    unlink(t->state);
    if (err != NM_OK) return err;
    return nm_fail(NM_REFUSED, "no adapter stayed below --max-forget %g: nothing is written. A lower --lr, a higher --anchor or --keep forget less, "
        "and a lower --save-every looks earlier", t->set->max_forget);
}

static void describe(const nm_tune *t, nm_tune_result *r)
{
    bool validated = nm_dataset_count(t->data, NM_SPLIT_VALIDATION) > 0;
    *r = (nm_tune_result){.folder = t->folder, .steps = nm_trainer_steps(t->trainer), .kept = t->at.kept, .first_loss = t->at.first_loss, .last_loss = t->at.last_loss,
        .validation = validated ? t->at.best : NAN, .forgetting = t->at.kept_forgetting >= 0 ? t->at.kept_forgetting : NAN,
        .seconds = (double)(nm_clock_ns() - t->begun_ns) * 1e-9, .tokens_per_second = t->at.seconds > 0 ? t->at.tokens / t->at.seconds : 0,
        .peak_bytes = nm_machine_resident_peak(), .ended = t->at.ended};
}

static nm_err finish(nm_tune *t, nm_tune_result *out)
{
    if (t->over && !t->at.kept) return nothing_kept(t);
    if (!t->at.kept) NM_TRY(nm_tune_keep_adapter(t));
    if (t->set->report) NM_TRY(nm_tune_report(t, true));
    unlink(t->state);           /* the run is over */
    describe(t, out);
    return NM_OK;
}

/* ---- All of it -------------------------------------------------------------------------------------------------------------------------------- */

/* Two runs into one folder would write each other's files over. Where nothing can be locked nothing is. */
static nm_err lock_folder(nm_tune *t)
{
    t->lock = open(t->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (t->lock < 0 || !flock(t->lock, LOCK_EX | LOCK_NB) || errno != EWOULDBLOCK) return NM_OK;
    return nm_fail(NM_REFUSED, "%s: another tune writes there at this moment: wait for it, or give another -o", t->folder);
}

/* ---- What is read here is not written over ---- */

static bool is_file(const char *path, const struct stat *st)
{
    struct stat other;
    return path && stat(path, &other) == 0 && other.st_dev == st->st_dev && other.st_ino == st->st_ino;
}

static bool has_file(const nm_dataset *data, const struct stat *st)
{
    const char *last = NULL;
    for (int split = 0; data && split < 2; split++)
        for (size_t i = 0; i < nm_dataset_count(data, (nm_split)split); i++) {
            const char *file = nm_dataset_sample(data, (nm_split)split, i).file;
            if (file != last && is_file(file, st)) return true;
            last = file;
        }
    return false;
}

static nm_err spare(const nm_tune *t, const char *option, const char *path)
{
    const nm_tune_settings *set = t->set;
    const char *const read[] = {t->base.name, set->anchor_data, set->config, set->template_path, set->batches};
    struct stat st;
    if (!path || stat(path, &st)) return NM_OK;
    bool taken = has_file(t->data, &st) || has_file(t->replay, &st);
    for (size_t i = 0; i < sizeof read / sizeof *read; i++) taken = taken || is_file(read[i], &st);
    return taken ? nm_fail(NM_REFUSED, "%s %s: is read in this run and would be written over: give another name", option, path) : NM_OK;
}

static nm_err begin(nm_tune *t)
{
    if (!t->set->output) return nm_fail(NM_USAGE, "a run needs a name or a folder for its adapter");
    NM_TRY(spare(t, "--log", t->set->log));
    NM_TRY(spare(t, "--report", t->set->report));
    if (t->set->report) NM_TRY(nm_tune_check_report(t));
    NM_TRY(nm_tune_find_folder(t));
    NM_TRY(lock_folder(t));
    if (t->set->resume) NM_TRY(nm_tune_resume(t));
    else if (access(t->state, F_OK) == 0)
        return nm_fail(NM_REFUSED, "%s holds a run that was interrupted: --resume goes on with it; remove the file to begin anew", t->state);
    return nm_tune_open_log(t);
}

nm_err nm_tune_run(nm_tune *t, nm_tune_result *out)
{
    *out = (nm_tune_result){0};
    if (!t->trainer) return nm_fail(NM_USAGE, "a run is to be prepared first");
    NM_TRY(begin(t));
    t->begun_ns = nm_clock_ns();
    NM_TRY(loop(t));
    return finish(t, out);
}

nm_err nm_tune_prepare(nm_tune *t)
{
    nm_tune_unprepare(t);
    if (!t->anchor) NM_TRY(nm_tune_open_anchor(t));
    NM_TRY(nm_tune_open_order(t));
    NM_TRY(nm_tune_open_replay(t));
    if (is_limited(t) && (!t->set->meter || !nm_model_tokenizer(t->base.model)))
        return nm_fail(NM_USAGE, "--max-forget needs the meter: a model with a tokenizer, and no --meter 0");
    NM_TRY(nm_tune_open_trainer(t));
    nm_tune_tell_trainer(t);
    return t->set->memory ? nm_tune_tell_memory(t) : NM_OK;
}

nm_err nm_tune_open(nm_tune **out, const nm_tune_settings *settings, const nm_tune_base *base, const char *const *sources, size_t n_sources,
    const nm_tune_listener *listener)
{
    nm_tune *t = *out = nm_calloc(1, sizeof *t);
    if (!t) return nm_fail_memory(sizeof *t);
    *t = (nm_tune){.own = *settings, .base = *base, .sources = sources, .n_sources = n_sources, .lock = -1,
        .at = {.best = HUGE_VAL, .forgetting = -1, .kept_forgetting = -1}};
    t->set = &t->own;
    if (listener) t->listener = *listener;
    if (!t->own.begun_ns) t->own.begun_ns = nm_clock_ns();
    nm_err err = nm_tune_open_data(t);
    if (err != NM_OK) nm_tune_close(out);
    else nm_tune_tell_data(t);
    return err;
}

/* Fails, as it should, where there is something in it. */
static void drop_folder(const nm_tune *t)
{
    if (t->made_folder && !t->at.kept) rmdir(t->folder);
}

void nm_tune_close(nm_tune **out)
{
    nm_tune *t = *out;
    if (!t) return;
    if (t->log) fclose(t->log);         /* each line was flushed, and what came of it told */
    drop_folder(t);
    if (t->lock >= 0) close(t->lock);
    nm_tune_unprepare(t);
    nm_tune_close_anchor(t);
    nm_dataset_close(&t->data);
    nm_free(t->folder);
    nm_free(t->state);
    nm_free(t);
    *out = NULL;
}

const nm_dataset *nm_tune_data(const nm_tune *t) { return t->data; }
const nm_trainer_info *nm_tune_trainer(const nm_tune *t) { return t->trainer ? nm_trainer_describe(t->trainer) : NULL; }
const nm_tune_state *nm_tune_where(const nm_tune *t) { return &t->at; }
