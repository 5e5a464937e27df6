/* The run of `nomoat tune`: what is said and printed around it. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common.h"
#include "os/clock.h"
#include "show_mask.h"
#include "tune.h"

/* ---- Sequences with their masks ---- */

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

static nm_err show_mask(const nm_tune_command *c, const nm_dataset *data, const nm_tokenizer *tokenizer)
{
    size_t n = (size_t)c->show_mask;
    nm_str s = {0};
    return c->common.json ? nm_json_print(&s, mask_json(&s, data, tokenizer, n)) : nm_show_mask(data, tokenizer, n);
}

/* ---- While it works ---- */

static void note(void *arg, const char *line)
{
    const nm_tune_command *c = arg;
    if (!c->common.quiet) nm_tune_clear_progress();
    nm_note("%s", line);
}

static void step(void *arg, const nm_tune *t, const nm_train_report *report)
{
    const nm_tune_command *c = arg;
    if (!c->common.quiet) nm_tune_show_progress(nm_tune_where(t), report);
}

static void tell_how_to_go_on(const nm_tune_command *c, const nm_tune_state *at)
{
    if (!c->common.quiet) nm_tune_clear_progress();
    if (c->set.fit)
        nm_note("stopped after step %lld of %lld; the same command with --max-steps %lld --save-every %lld --resume in place of --fit goes on",
            (long long)at->step, (long long)at->steps, (long long)at->steps, (long long)at->every);
    else nm_note("stopped after step %lld of %lld; the same command with --resume goes on", (long long)at->step, (long long)at->steps);
}

/* ---- The end ---- */

static nm_err put_real(nm_str *s, const char *key, double value)
{
    NM_TRY(nm_json_key(s, key));
    return nm_json_double(s, value);
}

static nm_err json_result(nm_str *s, const nm_tune_result *r)
{
    NM_TRY(nm_str_putc(s, '{'));
    NM_TRY(nm_json_string(s, "adapter", r->folder));
    NM_TRY(nm_json_whole(s, "steps", (uint64_t)r->steps));
    NM_TRY(put_real(s, "loss", r->last_loss));
    NM_TRY(put_real(s, "val_loss", r->validation));
    NM_TRY(put_real(s, "forgetting", r->forgetting));
    NM_TRY(put_real(s, "seconds", r->seconds));
    NM_TRY(nm_json_whole(s, "peak_bytes", r->peak_bytes));
    return nm_str_putc(s, '}');
}

static nm_err tell_result(const nm_tune_command *c, const char *model, const nm_tune_result *r)
{
    char time[32], peak[32], what[64] = "";
    nm_str s = {0};
    if (!c->common.quiet) nm_tune_clear_progress();
    nm_note("%lld steps in %s, %.0f tokens/s; loss %.3f -> %.3f; %s of memory at most", (long long)r->steps, nm_duration_text(r->seconds, time), r->tokens_per_second,
        r->first_loss, r->last_loss, nm_bytes_text(r->peak_bytes, peak));
    if (r->kept < r->steps) snprintf(what, sizeof what, " of step %lld", (long long)r->kept);
    nm_tune_tell_use(model, c->set.output, r->folder, what);
    return c->common.json ? nm_json_print(&s, json_result(&s, r)) : nm_out_printf("%s\n", r->folder);
}

/* ---- All of it ---- */

static nm_err plan(const nm_tune_command *c, nm_tune *t)
{
    nm_tune_plan_report report;
    NM_TRY(nm_tune_plan(t, &report));
    return nm_tune_print_plan(&report, c->common.json);
}

static nm_err work(const nm_tune_command *c, nm_tune *t, const nm_tune_base *base)
{
    nm_tune_result result;
    if (c->show_mask) return show_mask(c, nm_tune_data(t), nm_model_tokenizer(base->model));
    NM_TRY(nm_tune_prepare(t));
    nm_interrupts_catch();      /* until here nothing would be lost, and data from a pipe may be long in coming: Ctrl-C ends at once */
    nm_endings_catch();
    if (c->set.fit) NM_TRY(nm_tune_fit(t));
    if (c->plan) return plan(c, t);
    nm_err err = nm_tune_run(t, &result);
    if (err == NM_INTERRUPTED && nm_tune_where(t)->resumable) {
        tell_how_to_go_on(c, nm_tune_where(t));
        return nm_fail(NM_INTERRUPTED, "interrupted");
    }
    if (err != NM_OK && !c->common.quiet) nm_tune_clear_progress();
    return err == NM_OK ? tell_result(c, base->name, &result) : err;
}

/* The stack as it was asked for by options, which nomoat.json tells behind the run's settings: members of an object without its braces. */
static nm_err stack_settings(const nm_tune_command *c, nm_str *s)
{
    static const nm_option options[] = {NM_STACK_OPTIONS(nm_tune_command, stack), {0}};
    NM_TRY(nm_option_json(s, options, c, ""));
    s->data[--s->length] = 0;
    return NM_OK;
}

static nm_err open_and_work(const nm_tune_command *c, const nm_tune_base *base, char **sources, size_t count)
{
    nm_tune *t;
    nm_tune_listener listener = {.note = note, .step = step, .cancel = &nm_interrupted, .arg = (void *)c};
    nm_err err = nm_tune_open(&t, &c->set, base, (const char *const *)sources, count, &listener);
    if (err == NM_OK) err = work(c, t, base);
    if (err != NM_OK && nm_interrupted) err = nm_fail(NM_INTERRUPTED, "interrupted");      /* Ctrl-C ended a wait: for data, for a pipe's reader */
    nm_tune_close(&t);
    return err;
}

nm_err nm_tune_do(const nm_tune_command *c, nm_stacked *stacked, char **operands, size_t count)
{
    size_t n = stacked->found.count;
    const nm_adapter **adapters = nm_calloc(n, sizeof(*adapters));
    float *scales = nm_calloc(n, sizeof *scales);
    nm_str settings = {0};
    nm_err err = adapters && scales ? nm_stacked_adapters(stacked, adapters, scales) : nm_fail_memory(n * sizeof *adapters);
    if (err == NM_OK) err = stack_settings(c, &settings);
    nm_tune_base base = {.model = stacked->model, .stack = stacked->stack, .adapters = adapters, .scales = scales, .count = n, .name = operands[0],
        .settings = settings.data ? settings.data + 1 : NULL};
    if (err == NM_OK) err = open_and_work(c, &base, operands + 1, count - 1);
    nm_str_free(&settings);
    nm_free(scales);
    nm_free(adapters);
    return err;
}
