/* What a run of `nomoat tune` says while it works: the log and the progress. */
#include <stdio.h>
#include <unistd.h>

#include "common.h"
#include "duration.h"
#include "tune.h"

nm_err nm_tune_log_step(nm_tune *t, const nm_train_report *r, double validation, double forgetting)
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

void nm_tune_show_progress(nm_tune *t, const nm_train_report *r)
{
    char left[32];
    if (t->set->common.quiet || !nm_term_is(STDERR_FILENO)) return;
    double speed = t->tokens / t->seconds, rest = (double)(t->steps - r->step) * t->seconds / (double)(r->step - t->from);
    fprintf(stderr, "\r\x1b[Kstep %lld of %lld  loss %.3f  %.0f tokens/s  %s left", (long long)r->step, (long long)t->steps, t->last_loss, speed, nm_duration_text(rest, left));
    fflush(stderr);
}

void nm_tune_clear_progress(const nm_tune *t)
{
    if (!t->set->common.quiet && nm_term_is(STDERR_FILENO)) fputs("\r\x1b[K", stderr);
}
