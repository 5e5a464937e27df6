/* The run of `nomoat tune`: the loop with validation and checkpoints, and the adapter at the end. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"
#include "duration.h"
#include "os/clock.h"
#include "os/machine.h"
#include "show_mask.h"
#include "tune.h"

/* ---- A step ------------------------------------------------------------------------------------------------------------------------------ */

nm_err nm_tune_step_samples(nm_tune *t, int64_t step, size_t *count)
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

nm_err nm_tune_take_step(nm_tune *t, int64_t step, nm_train_report *report)
{
    size_t count;
    nm_sample anchor[NM_ANCHORS];
    size_t anchors = 0;
    double answering = 0;
    NM_TRY(nm_tune_step_samples(t, step, &count));
    if (t->anchor) NM_TRY(nm_tune_anchor_at(t, step, anchor, &anchors, &answering));
    NM_TRY(nm_trainer_step(t->trainer, t->sample, count, anchor, anchors, (float)t->set->anchor, report, &nm_interrupted));
    report->seconds += answering;
    return NM_OK;
}

/* ---- The loop ------------------------------------------------------------------------------------------------------------------------------ */

static bool is_limited(const nm_tune *t) { return !isnan(t->set->max_forget); }

/* Whether the adapter as it stands is what the folder should hold: the best so far, or where nothing tells good from bad the latest (that --max-forget allows):
 * a run that comes to nothing later has then left something. */
static bool is_to_be_kept(nm_tune *t, double validation)
{
    t->over = is_limited(t) && !(t->forgetting <= t->set->max_forget);
    if (validation < 0) return !t->over;
    bool better = validation < t->best && !t->over;
    t->worse = better ? 0 : t->worse + 1;
    if (better) t->best = validation;
    return better;
}

/* Validates, keeps the adapter if it is the best so far, and writes the checkpoint. The step's line is in the log before the checkpoint holds the step. */
static nm_err look(nm_tune *t)
{
    char loss[48] = "", forgotten[48] = "";
    double validation, forgetting;
    NM_TRY(nm_tune_validate(t, &validation, &forgetting));
    nm_tune_clear_progress(t);
    if (validation >= 0) snprintf(loss, sizeof loss, ", validation %.4f", validation);
    if (forgetting >= 0) snprintf(forgotten, sizeof forgotten, ", forgetting %.4f nats", forgetting);
    nm_note("step %lld: loss %.4f%s%s", (long long)nm_trainer_steps(t->trainer), t->last_loss, loss, forgotten);
    nm_tune_history_look(&t->history, nm_trainer_steps(t->trainer), validation, forgetting);
    if (t->pending.step) NM_TRY(nm_tune_log_step(t, &t->pending, validation, forgetting));
    t->pending = (nm_train_report){0};
    t->forgetting = forgetting;
    if (is_to_be_kept(t, validation)) NM_TRY(nm_tune_keep_adapter(t));
    t->looked = nm_trainer_steps(t->trainer);
    return nm_tune_checkpoint(t);
}

static bool is_due(const nm_tune *t)
{
    int64_t step = nm_trainer_steps(t->trainer);
    return step > t->looked && (step == t->steps || step % t->every == 0);
}

static void take_note(nm_tune *t, const nm_train_report *r)
{
    if (r->step == 1) t->first_loss = r->loss;
    nm_tune_history_step(&t->history, r->loss);
    t->last_loss = r->step > 1 ? 0.9 * t->last_loss + 0.1 * r->loss : r->loss;
    t->tokens += (double)r->tokens;
    t->seconds += r->seconds;
}

/* Ctrl-C: what was done is kept, and how to go on is said. */
static nm_err interrupted(nm_tune *t)
{
    nm_interrupted = 0;
    nm_tune_clear_progress(t);
    NM_TRY(nm_tune_checkpoint(t));
    t->ended = "interrupted";
    if (t->set->report) NM_TRY(nm_tune_report(t, false));
    if (t->set->fit)
        nm_note("stopped after step %lld of %lld; the same command with --max-steps %lld --save-every %lld --resume in place of --fit goes on",
            (long long)nm_trainer_steps(t->trainer), (long long)t->steps, (long long)t->steps, (long long)t->every);
    else nm_note("stopped after step %lld of %lld; the same command with --resume goes on", (long long)nm_trainer_steps(t->trainer), (long long)t->steps);
    return nm_fail(NM_INTERRUPTED, "interrupted");
}

static nm_err one_step(nm_tune *t)
{
    nm_train_report r;
    NM_TRY(nm_tune_take_step(t, nm_trainer_steps(t->trainer), &r));
    take_note(t, &r);
    if (is_due(t)) {
        t->pending = r;
        NM_TRY(look(t));
    } else {
        NM_TRY(nm_tune_log_step(t, &r, -1, -1));
    }
    nm_tune_show_progress(t, &r);
    return NM_OK;
}

/* True, with a note, where the run ends before its last step. */
static bool is_over(nm_tune *t)
{
    long long step = (long long)nm_trainer_steps(t->trainer);
    if (t->over) {
        nm_note("forgetting %.4f nats at step %lld is above --max-forget %g: stopping", t->forgetting, step, t->set->max_forget);
        t->ended = "forgetting passed --max-forget";
    } else if (t->set->patience && t->worse >= t->set->patience && step < t->steps) {
        nm_note("validation has not improved %d times: stopping at step %lld", t->worse, step);
        t->ended = "validation did not improve any more";
    } else {
        return false;
    }
    return true;
}

static nm_err loop(nm_tune *t)
{
    nm_err err = is_due(t) ? look(t) : NM_OK;       /* a run that was stopped before it had looked */
    t->ended = "all steps were taken";
    while (err == NM_OK && !is_over(t) && nm_trainer_steps(t->trainer) < t->steps) err = one_step(t);
    nm_tune_clear_progress(t);
    return err == NM_INTERRUPTED ? interrupted(t) : err;
}

/* ---- The end -------------------------------------------------------------------------------------------------------------------------------- */

static nm_err print_json(const nm_tune *t, double seconds)
{
    bool validated = nm_dataset_count(t->data, NM_SPLIT_VALIDATION) > 0;
    nm_str s = {0};
    nm_err err = nm_str_putc(&s, '{');
    if (err == NM_OK) err = nm_json_string(&s, "adapter", t->folder);
    if (err == NM_OK) err = nm_json_whole(&s, "steps", (uint64_t)nm_trainer_steps(t->trainer));
    if (err == NM_OK) err = nm_json_key(&s, "loss");
    if (err == NM_OK) err = nm_json_double(&s, t->last_loss);
    if (err == NM_OK) err = nm_json_key(&s, "val_loss");
    if (err == NM_OK) err = nm_json_double(&s, validated ? t->best : NAN);
    if (err == NM_OK) err = nm_json_key(&s, "forgetting");
    if (err == NM_OK) err = nm_json_double(&s, t->kept_forgetting >= 0 ? t->kept_forgetting : NAN);
    if (err == NM_OK) err = nm_json_key(&s, "seconds");
    if (err == NM_OK) err = nm_json_double(&s, seconds);
    if (err == NM_OK) err = nm_json_whole(&s, "peak_bytes", nm_machine_resident_peak());
    if (err == NM_OK) err = nm_str_putc(&s, '}');
    return nm_json_print(&s, err);
}

/* Nothing that was taught may be used: nothing is left. */
static nm_err nothing_kept(nm_tune *t)
{
    nm_err err = t->set->report ? nm_tune_report(t, false) : NM_OK;
    unlink(t->state);
    if (err != NM_OK) return err;
    return nm_fail(NM_REFUSED, "no adapter stayed below --max-forget %g: nothing is written. A lower --lr, a higher --anchor or --keep forget less, "
        "and a lower --save-every looks earlier", t->set->max_forget);
}

static nm_err finish(nm_tune *t)
{
    char time[32], peak[32], what[64] = "";
    if (t->over && !t->kept) return nothing_kept(t);
    if (!t->kept) NM_TRY(nm_tune_keep_adapter(t));
    if (t->set->report) NM_TRY(nm_tune_report(t, true));
    unlink(t->state);           /* the run is over */
    double seconds = (double)(nm_clock_ns() - t->begun_ns) * 1e-9;
    nm_note("%lld steps in %s, %.0f tokens/s; loss %.3f -> %.3f; %s of memory at most", (long long)nm_trainer_steps(t->trainer), nm_duration_text(seconds, time),
        t->seconds > 0 ? t->tokens / t->seconds : 0, t->first_loss, t->last_loss, nm_bytes_text(nm_machine_resident_peak(), peak));
    if (t->kept < nm_trainer_steps(t->trainer)) snprintf(what, sizeof what, " of step %lld", (long long)t->kept);
    nm_tune_tell_use(t, what);
    return t->set->common.json ? print_json(t, seconds) : nm_out_printf("%s\n", t->folder);
}

/* ---- All of it -------------------------------------------------------------------------------------------------------------------------------- */

/* Everything that can be refused before there is a folder. */
static nm_err prepare(nm_tune *t)
{
    NM_TRY(nm_tune_open_data(t));
    nm_tune_tell_data(t);
    if (t->set->show_mask) return NM_OK;
    NM_TRY(nm_tune_open_anchor(t));
    NM_TRY(nm_tune_open_order(t));
    NM_TRY(nm_tune_open_replay(t));
    if (is_limited(t) && (!t->set->meter || !nm_model_tokenizer(t->stacked->model)))
        return nm_fail(NM_USAGE, "--max-forget needs the meter: a model with a tokenizer, and no --meter 0");
    NM_TRY(nm_tune_open_trainer(t));
    nm_tune_tell_trainer(t);
    if (t->set->memory) NM_TRY(nm_tune_tell_memory(t));
    nm_interrupts_catch();      /* until here nothing would be lost, and data from a pipe may be long in coming: Ctrl-C ends at once */
    nm_endings_catch();
    if (t->set->fit) {
        NM_TRY(nm_tune_fit(t));
        NM_TRY(nm_tune_open_trainer(t));
    }
    return NM_OK;
}

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
    const char *const read[] = {t->model_text, set->anchor_data, set->config, set->template_path, set->batches};
    struct stat st;
    if (!path || stat(path, &st)) return NM_OK;
    bool taken = has_file(t->data, &st) || has_file(t->replay, &st);
    for (size_t i = 0; i < sizeof read / sizeof *read; i++) taken = taken || is_file(read[i], &st);
    return taken ? nm_fail(NM_REFUSED, "%s %s: is read in this run and would be written over: give another name", option, path) : NM_OK;
}

static nm_err begin(nm_tune *t)
{
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

static nm_err json_sample(nm_str *s, const nm_tokenizer *tokenizer, const nm_sample *sample)
{
    char *text;
    size_t length;
    NM_TRY(nm_str_putc(s, '{'));
    NM_TRY(nm_json_string(s, "file", sample->file));
    NM_TRY(nm_json_whole(s, "line", sample->line));
    NM_TRY(nm_json_whole(s, "tokens", (uint64_t)sample->count));
    NM_TRY(nm_json_whole(s, "trained", (uint64_t)sample->trained));
    NM_TRY(nm_detokenize(tokenizer, sample->ids, (size_t)sample->count, NM_TEXT_SPECIAL, &text, &length));
    NM_TRY(nm_json_key(s, "text"));
    nm_err err = nm_str_json(s, text, length);
    nm_free(text);
    NM_TRY(err);
    NM_TRY(nm_json_key(s, "ids"));
    NM_TRY(nm_json_ids(s, sample->ids, (size_t)sample->count));
    NM_TRY(nm_json_key(s, "mask"));
    for (int32_t i = 0; i < sample->count; i++) NM_TRY(nm_str_printf(s, "%s%d", i ? ", " : "[", sample->mask[i] != 0));
    return nm_str_puts(s, "]}");
}

/* {"sequences": [{"file", "line", "tokens", "trained", "text", "ids", "mask"}]} */
static nm_err mask_json(nm_str *s, const nm_dataset *dataset, const nm_tokenizer *tokenizer, size_t n)
{
    size_t count = nm_dataset_count(dataset, NM_SPLIT_TRAIN);
    NM_TRY(nm_str_puts(s, "{\"sequences\": ["));
    for (size_t i = 0; i < n && i < count; i++) {
        nm_sample sample = nm_dataset_sample(dataset, NM_SPLIT_TRAIN, i);
        if (i) NM_TRY(nm_str_puts(s, ", "));
        NM_TRY(json_sample(s, tokenizer, &sample));
    }
    return nm_str_puts(s, "]}");
}

static nm_err show_mask(const nm_tune *t)
{
    const nm_tokenizer *tokenizer = nm_model_tokenizer(t->stacked->model);
    size_t n = (size_t)t->set->show_mask;
    nm_str s = {0};
    return t->set->common.json ? nm_json_print(&s, mask_json(&s, t->data, tokenizer, n)) : nm_show_mask(t->data, tokenizer, n);
}

static nm_err run_all(nm_tune *t)
{
    NM_TRY(prepare(t));
    if (t->set->show_mask) return show_mask(t);
    if (t->set->plan) return nm_tune_plan(t);
    NM_TRY(begin(t));
    t->begun_ns = nm_clock_ns();
    NM_TRY(loop(t));
    return finish(t);
}

/* A run that came to nothing leaves no empty folder behind. */
static void drop_folder(const nm_tune *t)
{
    if (t->made_folder && !t->kept) rmdir(t->folder);       /* fails, as it should, where there is something in it */
}

nm_err nm_tune_run(const nm_tune_settings *set, nm_stacked *stacked, char **operands, size_t count)
{
    nm_tune t = {.set = set, .stacked = stacked, .best = HUGE_VAL, .forgetting = -1, .kept_forgetting = -1, .lock = -1, .model_text = operands[0], .sources = operands + 1,
        .n_sources = count - 1};
    nm_err err = run_all(&t);
    if (err != NM_OK && nm_interrupted) err = nm_fail(NM_INTERRUPTED, "interrupted");      /* Ctrl-C ended a wait: for data, for a pipe's reader */
    if (t.log && fclose(t.log) && err == NM_OK) err = nm_fail(NM_FAILED, "%s: cannot be written", set->log);
    if (err != NM_OK) drop_folder(&t);
    if (t.lock >= 0) close(t.lock);
    nm_trainer_close(&t.trainer);
    nm_order_close(&t.replay_order);
    nm_dataset_close(&t.replay);
    nm_order_close(&t.order);
    nm_dataset_close(&t.data);
    nm_free(t.sample);
    nm_tune_close_anchor(&t);
    nm_free(t.folder);
    nm_free(t.state);
    return err;
}
