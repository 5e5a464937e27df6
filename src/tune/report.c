/* The report of `nomoat tune`: one page that needs nothing else, neither scripts nor the network. Text of models and files is only ever written escaped. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/duration.h"
#include "os/clock.h"
#include "os/file.h"
#include "os/machine.h"
#include "tune/tune_impl.h"
#include "tune/curve.h"

enum { TEXT_SHOWN = 4000 };

/* The policy is a second lock: nothing here runs or loads even if something were not escaped. */
static const char head[] =
    "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n<title>nomoat tune</title>\n<style>\n"
    ":root { color-scheme: light dark; --back: #fff; --text: #1c1c1c; --soft: #5f5f5f; --line: #dcdcdc; --a: #0b62b0; --b: #b5480a; }\n"
    "@media (prefers-color-scheme: dark) { :root { --back: #16181b; --text: #e6e6e6; --soft: #a3a3a3; --line: #3a3d42; --a: #6db3f2; --b: #f2a65a; } }\n"
    "body { margin: 2rem auto; padding: 0 1rem; max-width: 60rem; background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }\n"
    "h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }\n"
    "figure { margin: 1rem 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 12px; }\n"
    ".grid { stroke: var(--line); } .axis { stroke: var(--soft); } polyline { fill: none; stroke-width: 2; }\n"
    "polyline.a { stroke: var(--a); } polyline.b { stroke: var(--b); } circle.a { fill: var(--a); } circle.b { fill: var(--b); }\n"
    ".key { display: inline-block; width: .9em; height: .9em; margin: 0 .3em 0 .8em; border-radius: 2px; } .key.a { background: var(--a); } .key.b { background: var(--b); }\n"
    "table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); }\n"
    "th { font-weight: 500; color: var(--soft); white-space: nowrap; } td { overflow-wrap: anywhere; }\n"
    "pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: 14px/1.45 ui-monospace, monospace; } .note { color: var(--soft); }\n"
    "</style>\n</head>\n<body>\n";

/* ---- Foreign text -------------------------------------------------------------------------------------------------------------------------- */

static nm_err put_char(nm_str *s, const char *text, int used, int32_t code)
{
    switch (code) {
    case '&': return nm_str_puts(s, "&amp;");
    case '<': return nm_str_puts(s, "&lt;");
    case '>': return nm_str_puts(s, "&gt;");
    case '"': return nm_str_puts(s, "&quot;");
    case '\'': return nm_str_puts(s, "&#39;");
    default: break;
    }
    bool bad = code < 0 || (code < 0x20 && code != '\n' && code != '\t') || (code >= 0x7f && code < 0xa0);
    return bad ? nm_str_puts(s, "\xef\xbf\xbd") : nm_str_append(s, text, (size_t)used);
}

static nm_err put_escaped(nm_str *s, const char *text, size_t length)
{
    bool cut = length > TEXT_SHOWN;
    for (size_t at = 0, end = cut ? TEXT_SHOWN : length; at < end;) {
        int used;
        int32_t code = nm_utf8_decode(text + at, length - at, &used);
        NM_TRY(put_char(s, text + at, used, code));
        at += (size_t)used;
    }
    return cut ? nm_str_puts(s, " \xe2\x80\xa6") : NM_OK;
}

static nm_err put_row(nm_str *s, const char *name, const char *value)
{
    NM_TRY(nm_str_puts(s, "<tr><th>"));
    NM_TRY(put_escaped(s, name, strlen(name)));
    NM_TRY(nm_str_puts(s, "</th><td>"));
    NM_TRY(put_escaped(s, value, strlen(value)));
    return nm_str_puts(s, "</td></tr>\n");
}

static nm_err put_format(nm_str *s, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));
static nm_err put_format(nm_str *s, const char *name, const char *format, ...)
{
    char value[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(value, sizeof value, format, ap);
    va_end(ap);
    return put_row(s, name, value);
}

/* ---- Curves ---------------------------------------------------------------------------------------------------------------------------------- */

static nm_err put_curves(nm_str *s, const nm_tune_history *h)
{
    double x[NM_CURVE], y[NM_CURVE], step[NM_CURVE], validation[NM_CURVE], forgetting[NM_CURVE];
    for (int32_t i = 0; i < h->losses; i++) {
        x[i] = (double)(h->per * i) + (double)(h->per + 1) / 2;
        y[i] = (double)h->loss[i];
    }
    bool validated = false;
    for (int32_t i = 0; i < h->looks; i++) {
        step[i] = (double)h->look[i].step;
        validation[i] = h->look[i].validation >= 0 ? h->look[i].validation : NAN;
        forgetting[i] = h->look[i].forgetting >= 0 ? h->look[i].forgetting : NAN;
        validated = validated || h->look[i].validation >= 0;
    }
    const nm_curve loss[] = {{"training", "a", x, y, (size_t)h->losses, false}, {"validation", "b", step, validation, (size_t)h->looks, true}};
    const nm_curve forgotten[] = {{"KL to the model before", "b", step, forgetting, (size_t)h->looks, true}};
    NM_TRY(nm_curves_svg(s, "Loss", "nats a token", loss, validated ? 2 : 1));
    return nm_curves_svg(s, "Forgetting", "nats a token", forgotten, 1);
}

static nm_err put_number(nm_str *s, double v) { return isfinite(v) && v >= 0 ? nm_str_printf(s, "<td>%.4f</td>", v) : nm_str_puts(s, "<td></td>"); }

static nm_err put_looks(nm_str *s, const nm_tune_history *h)
{
    if (!h->looks) return NM_OK;
    NM_TRY(nm_str_puts(s, "<details><summary>The numbers</summary>\n<table><tr><th>step</th><th>validation</th><th>forgetting</th></tr>\n"));
    for (int32_t i = 0; i < h->looks; i++) {
        NM_TRY(nm_str_printf(s, "<tr><td>%lld</td>", (long long)h->look[i].step));
        NM_TRY(put_number(s, h->look[i].validation));
        NM_TRY(put_number(s, h->look[i].forgetting));
        NM_TRY(nm_str_puts(s, "</tr>\n"));
    }
    return nm_str_puts(s, "</table></details>\n");
}

/* ---- Tables ---------------------------------------------------------------------------------------------------------------------------------- */

static nm_err put_run(nm_str *s, const nm_tune *t)
{
    const nm_trainer_info *i = nm_trainer_describe(t->trainer);
    const nm_dataset_stats *d = nm_dataset_describe(t->data);
    char a[32], b[32];
    NM_TRY(nm_str_puts(s, "<h2>The run</h2>\n<table>\n"));
    NM_TRY(put_row(s, "model", t->base.name));
    NM_TRY(put_format(s, "adapter", "%s%s", t->folder, t->at.kept ? "" : " (nothing kept yet)"));
    if (t->at.kept) NM_TRY(put_format(s, "kept", "the adapter of step %lld", (long long)t->at.kept));
    NM_TRY(put_format(s, "steps", "%lld of %lld: %s", (long long)nm_trainer_steps(t->trainer), (long long)t->at.steps, t->at.ended ? t->at.ended : ""));
    NM_TRY(put_format(s, "loss", "%.4f at first, %.4f at last (of the last ten steps or so)", t->at.first_loss, t->at.last_loss));
    if (isfinite(t->at.best)) NM_TRY(put_format(s, "best validation", "%.4f", t->at.best));
    if (t->at.forgetting >= 0) NM_TRY(put_format(s, "forgetting", "%.4f nats a token, at last", t->at.forgetting));
    for (size_t k = 0; k < t->n_sources; k++) NM_TRY(put_row(s, "data", t->sources[k]));
    NM_TRY(put_format(s, "of it", "%llu rows, %llu sequences (%zu for validation), %llu tokens, %llu of them trained", (unsigned long long)d->rows,
        (unsigned long long)d->samples, nm_dataset_count(t->data, NM_SPLIT_VALIDATION), (unsigned long long)d->tokens, (unsigned long long)d->trained));
    if (t->replay) NM_TRY(put_format(s, "kept in mind", "%zu sequences, %d in each step", nm_dataset_count(t->replay, NM_SPLIT_TRAIN), (int)t->replays));
    NM_TRY(put_format(s, "trained", "rank %d on %d maps, %.2f million numbers, scale %g, in %s", i->rank, i->maps, (double)i->parameters * 1e-6,
        (double)i->scale, i->arithmetic));
    if (t->at.seconds > 0) NM_TRY(put_format(s, "speed", "%.0f tokens/s; %s since it was begun or resumed", t->at.tokens / t->at.seconds,
        nm_duration_text((double)(nm_clock_ns() - t->begun_ns) * 1e-9, a)));
    NM_TRY(put_format(s, "memory", "%s beside the model, %s resident at most in all; %d tokens a pass, computed again: %s", nm_bytes_text(i->bytes, a),
        nm_bytes_text(nm_machine_resident_peak(), b), i->pass_rows, i->recomputed));
    NM_TRY(put_format(s, "nomoat", "%s, kernels %s, %d threads", nm_version(), nm_kernels_tier(), nm_threads()));
    return nm_str_puts(s, "</table>\n");
}

static nm_err setting_text(nm_str *s, const nm_json *v)
{
    switch (v->kind) {
    case NM_JSON_STRING: return nm_str_puts(s, v->string.bytes);
    case NM_JSON_INT: return nm_str_printf(s, "%lld", (long long)v->integer);
    case NM_JSON_WIDE: return nm_str_printf(s, "%llu", (unsigned long long)v->wide);
    case NM_JSON_REAL: return nm_str_printf(s, "%.6g", v->real);
    case NM_JSON_BOOL: return nm_str_puts(s, "yes");
    default: break;
    }
    for (size_t i = 0; v->kind == NM_JSON_ARRAY && i < v->array.count; i++) {
        if (i) NM_TRY(nm_str_puts(s, ", "));
        NM_TRY(setting_text(s, &v->array.items[i]));
    }
    return nm_str_puts(s, "");
}

static nm_err put_settings(nm_str *s, const nm_tune *t)
{
    nm_str text = {0}, value = {0};
    nm_json json = {0};
    nm_err err = nm_tune_settings_json(t, &text);
    if (err == NM_OK) err = nm_json_parse(&json, text.data, text.length);
    if (err == NM_OK) err = nm_str_puts(s, "<h2>The recipe</h2>\n");
    if (err == NM_OK && t->set->recipe_said) err = nm_str_puts(s, "<p class=\"note\">");
    if (err == NM_OK && t->set->recipe_said) err = put_escaped(s, t->set->recipe_said, strlen(t->set->recipe_said));
    if (err == NM_OK) err = nm_str_puts(s, t->set->recipe_said ? "</p>\n<table>\n" : "<table>\n");
    for (size_t i = 0; err == NM_OK && i < json.object.count; i++) {
        value.length = 0;
        err = setting_text(&value, &json.object.values[i]);
        if (err == NM_OK) err = put_row(s, json.object.keys[i], value.data ? value.data : "");
    }
    if (err == NM_OK) err = nm_str_puts(s, "</table>\n");
    nm_json_free(&json);
    nm_str_free(&value);
    nm_str_free(&text);
    return err;
}

/* ---- Answers --------------------------------------------------------------------------------------------------------------------------------- */

static nm_err put_text(nm_str *s, const char *name, const char *text)
{
    NM_TRY(nm_str_printf(s, "<tr><th>%s</th><td><pre>", name));
    NM_TRY(put_escaped(s, text ? text : "", text ? strlen(text) : 0));
    return nm_str_puts(s, "</pre></td></tr>\n");
}

static nm_err put_answers(nm_str *s, const nm_tune *t, const nm_tune_answer *a, size_t count)
{
    bool held_out = nm_dataset_count(t->data, NM_SPLIT_VALIDATION) > 0;
    NM_TRY(nm_str_puts(s, "<h2>Before and after</h2>\n"));
    if (!count) return nm_str_puts(s, "<p class=\"note\">No answers: the run was stopped, or nothing was kept.</p>\n");
    NM_TRY(nm_str_printf(s, "<p class=\"note\">%s, answered greedily by the model as it was and with the adapter of step %lld.</p>\n",
        held_out ? "Rows that were not trained" : "Rows of the training data, as there is no validation data", (long long)t->at.kept));
    for (size_t i = 0; i < count; i++) {
        NM_TRY(nm_str_puts(s, "<h3>"));
        NM_TRY(put_escaped(s, a[i].where, strlen(a[i].where)));
        NM_TRY(nm_str_puts(s, "</h3>\n<table>\n"));
        NM_TRY(put_text(s, "prompt", a[i].prompt));
        NM_TRY(put_text(s, "before", a[i].before));
        NM_TRY(put_text(s, "after", a[i].after));
        NM_TRY(put_text(s, "in the data", a[i].reference));
        NM_TRY(nm_str_puts(s, "</table>\n"));
    }
    return NM_OK;
}

/* ---- The page -------------------------------------------------------------------------------------------------------------------------------- */

static nm_err put_page(nm_str *s, const nm_tune *t, const nm_tune_answer *answers, size_t count)
{
    NM_TRY(nm_str_puts(s, head));
    NM_TRY(nm_str_puts(s, "<h1>"));
    NM_TRY(put_escaped(s, t->set->output, strlen(t->set->output)));
    NM_TRY(nm_str_puts(s, "</h1>\n"));
    NM_TRY(put_curves(s, &t->at.history));
    NM_TRY(put_looks(s, &t->at.history));
    NM_TRY(put_answers(s, t, answers, count));
    NM_TRY(put_run(s, t));
    NM_TRY(put_settings(s, t));
    return nm_str_puts(s, "</body>\n</html>\n");
}

nm_err nm_tune_report(nm_tune *t, bool samples)
{
    nm_tune_answer answers[NM_TUNE_REPORT_ANSWERS];
    size_t count = 0;
    nm_str s = {0};
    nm_err err = samples ? nm_tune_answers(t, answers, NM_TUNE_REPORT_ANSWERS, &count) : NM_OK;
    if (err == NM_INTERRUPTED) {        /* the page with the answers so far */
        nm_cancel(t->listener.cancel, false);
        err = NM_OK;
    }
    if (err == NM_OK) err = put_page(&s, t, answers, count);
    if (err == NM_OK) err = nm_file_write(t->set->report, s.data, s.length);
    if (err == NM_OK) nm_tune_note(t, "the report is %s", t->set->report);
    nm_tune_answers_free(answers, count);
    nm_str_free(&s);
    return err;
}

nm_err nm_tune_check_report(const nm_tune *t)
{
    nm_new_file file;
    NM_TRY(nm_new_file_open(&file, t->set->report));
    nm_new_file_abandon(&file);
    return NM_OK;
}
