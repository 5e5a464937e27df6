/* The run of `nomoat tune`: the loop with validation and checkpoints, and the adapter at the end. */
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "common.h"
#include "duration.h"
#include "os/clock.h"
#include "os/machine.h"
#include "show_mask.h"
#include "tune.h"

/* ---- A step ------------------------------------------------------------------------------------------------------------------------------ */

static nm_sample anchor_at(const nm_tune *t, int64_t step)
{
    size_t places = t->anchors / NM_ANCHOR_TOKENS;
    return (nm_sample){.ids = t->anchor + (size_t)step % places * NM_ANCHOR_TOKENS, .count = NM_ANCHOR_TOKENS};
}

nm_err nm_tune_take_step(nm_tune *t, int64_t step, nm_train_report *report)
{
    nm_order_step s;
    NM_TRY(nm_order_step_at(t->order, step, &s));
    for (size_t i = 0; i < s.count; i++) t->sample[i] = nm_dataset_sample(t->data, NM_SPLIT_TRAIN, s.samples[i]);
    nm_sample anchor = {0};
    if (t->anchor) anchor = anchor_at(t, step);
    return nm_trainer_step(t->trainer, t->sample, s.count, t->anchor ? &anchor : NULL, (float)t->set->anchor, report, &nm_interrupted);
}

/* ---- The loop ------------------------------------------------------------------------------------------------------------------------------ */

/* Validates, keeps the adapter if it is the best so far, and writes the checkpoint. */
static nm_err look(nm_tune *t, double *validation, double *forgetting)
{
    char loss[48] = "", forgotten[48] = "";
    NM_TRY(nm_tune_validate(t, validation, forgetting));
    nm_tune_clear_progress(t);
    if (*validation >= 0) snprintf(loss, sizeof loss, ", validation %.4f", *validation);
    if (*forgetting >= 0) snprintf(forgotten, sizeof forgotten, ", forgetting %.4f nats", *forgetting);
    nm_note("step %lld: loss %.4f%s%s", (long long)nm_trainer_steps(t->trainer), t->last_loss, loss, forgotten);
    t->forgetting = *forgetting;
    if (*validation >= 0) {
        bool better = *validation < t->best;
        t->worse = better ? 0 : t->worse + 1;
        if (better) {
            t->best = *validation;
            NM_TRY(nm_tune_keep_adapter(t));
        }
    }
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
    t->last_loss = t->seconds > 0 ? 0.9 * t->last_loss + 0.1 * r->loss : r->loss;
    t->tokens += (double)r->tokens;
    t->seconds += r->seconds;
}

/* Ctrl-C: what was done is kept, and how to go on is said. */
static nm_err interrupted(nm_tune *t)
{
    nm_interrupted = 0;
    nm_tune_clear_progress(t);
    NM_TRY(nm_tune_checkpoint(t));
    if (t->set->fit)
        nm_note("stopped after step %lld of %lld; the same command with --max-steps %lld --resume in place of --fit goes on", (long long)nm_trainer_steps(t->trainer),
            (long long)t->steps, (long long)t->steps);
    else nm_note("stopped after step %lld of %lld; the same command with --resume goes on", (long long)nm_trainer_steps(t->trainer), (long long)t->steps);
    return nm_fail(NM_INTERRUPTED, "interrupted");
}

static nm_err one_step(nm_tune *t)
{
    nm_train_report r;
    double validation = -1, forgetting = -1;
    NM_TRY(nm_tune_take_step(t, nm_trainer_steps(t->trainer), &r));
    take_note(t, &r);
    if (is_due(t)) NM_TRY(look(t, &validation, &forgetting));
    NM_TRY(nm_tune_log_step(t, &r, validation, forgetting));
    nm_tune_show_progress(t, &r);
    return NM_OK;
}

static nm_err loop(nm_tune *t)
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
    nm_tune_clear_progress(t);
    return err == NM_INTERRUPTED ? interrupted(t) : err;
}

static nm_err finish(nm_tune *t)
{
    bool validated = nm_dataset_count(t->data, NM_SPLIT_VALIDATION) > 0;
    char time[32], peak[32];
    if (!isfinite(t->best)) NM_TRY(nm_tune_keep_adapter(t));
    unlink(t->state);           /* the run is over */
    double seconds = (double)(nm_clock_ns() - t->begun_ns) * 1e-9;
    nm_note("%lld steps in %s, %.0f tokens/s; loss %.3f -> %.3f; %s of memory at most", (long long)nm_trainer_steps(t->trainer), nm_duration_text(seconds, time),
        t->tokens / t->seconds, t->first_loss, t->last_loss, nm_bytes_text(nm_machine_resident_peak(), peak));
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
    if (err == NM_OK) err = nm_json_whole(&s, "peak_bytes", nm_machine_resident_peak());
    if (err == NM_OK) err = nm_str_putc(&s, '}');
    return nm_json_print(&s, err);
}

/* ---- All of it -------------------------------------------------------------------------------------------------------------------------------- */

static nm_err run_all(nm_tune *t, char **sources, size_t count)
{
    NM_TRY(nm_tune_open_data(t, sources, count));
    nm_tune_tell_data(t);
    if (t->set->show_mask) return nm_show_mask(t->data, nm_model_tokenizer(t->stacked->model), (size_t)t->set->show_mask);
    NM_TRY(nm_tune_open_anchor(t));
    NM_TRY(nm_tune_open_order(t));
    NM_TRY(nm_tune_open_trainer(t));
    nm_tune_tell_trainer(t);
    if (t->set->memory) NM_TRY(nm_tune_tell_memory(t));
    if (t->set->fit) {
        NM_TRY(nm_tune_fit(t));
        NM_TRY(nm_tune_open_trainer(t));
    }
    if (t->set->plan) return nm_tune_plan(t, sources, count);
    NM_TRY(nm_tune_find_folder(t));
    if (t->set->resume) NM_TRY(nm_tune_resume(t));
    else if (access(t->state, F_OK) == 0)
        return nm_fail(NM_REFUSED, "%s holds a run that was interrupted: --resume goes on with it; remove the file to begin anew", t->state);
    if (t->set->log && !(t->log = fopen(t->set->log, t->set->resume ? "a" : "w"))) return nm_fail(NM_FAILED, "%s: cannot be written", t->set->log);
    t->begun_ns = nm_clock_ns();
    NM_TRY(loop(t));
    return finish(t);
}

nm_err nm_tune_run(const nm_tune_settings *set, nm_stacked *stacked, char **sources, size_t count)
{
    nm_tune t = {.set = set, .stacked = stacked, .best = HUGE_VAL, .forgetting = -1};
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
