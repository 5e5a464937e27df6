/* Generating one answer: prefill what the session lacks, then draw, decode, stop, show, token by token. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "common.h"
#include "hub/personas.h"
#include "os/clock.h"
#include "talk.h"
#include "term.h"

enum { PIECE = 512 };       /* tokens of the prompt between two looks at the progress */

typedef struct work {
    nm_talk *talk;
    const nm_run_settings *set;
    nm_answer *answer;
    nm_sampler *sampler;
    nm_decoder *decoder;
    nm_stop *stop;
    nm_speech *speech;
    bool show, stopped, dim;
    int32_t token;      /* drawn from the last logits */
} work;

void nm_answer_free(nm_answer *answer)
{
    nm_str_free(&answer->text);
    nm_str_free(&answer->visible);
    nm_free(answer->ids);
    *answer = (nm_answer){0};
}

/* ---- Settings ---------------------------------------------------------------------------------------------------- */

static void overlay(float *value, double given) { if (!isnan(given)) *value = (float)given; }

nm_sampling nm_talk_sampling(const nm_talk *talk, const nm_run_settings *set)
{
    nm_sampling s = nm_sampling_defaults(talk->model);
    overlay(&s.temperature, set->temperature);
    overlay(&s.top_p, set->top_p);
    overlay(&s.min_p, set->min_p);
    overlay(&s.typical, set->typical);
    overlay(&s.repeat_penalty, set->repeat_penalty);
    overlay(&s.presence_penalty, set->presence_penalty);
    overlay(&s.frequency_penalty, set->frequency_penalty);
    if (set->top_k != NM_UNSET_INT) s.top_k = set->top_k < 0 ? 0 : set->top_k;
    if (set->penalty_last != NM_UNSET_INT) s.penalty_last = set->penalty_last;
    s.seed = talk->seed + talk->answers;
    return s;
}

static nm_err open_sampler(work *w)
{
    nm_sampling s = nm_talk_sampling(w->talk, w->set);
    w->answer->seed = s.seed;
    w->talk->answers++;
    return nm_sampler_open(&w->sampler, &s, nm_model_describe(w->talk->model)->n_vocab);
}

/* What stands behind a backslash in --stop, as in C; 0 for what has no meaning there. */
static char escaped(char c)
{
    switch (c) {
    case 'n': return '\n';
    case 't': return '\t';
    case 'r': return '\r';
    case '\\': return '\\';
    default: return 0;
    }
}

char *nm_unescape(const char *text)
{
    char *out = nm_strndup(text, strlen(text)), *to = out;
    for (const char *from = text; out && *from; from++) {
        char c = *from == '\\' ? escaped(from[1]) : 0;
        if (c) from++;
        *to++ = c ? c : *from;
    }
    if (out) *to = 0;
    return out;
}

static nm_err open_stop(work *w)
{
    const nm_list *list = &w->set->stop;
    const nm_persona *persona = nm_talk_persona(w->talk);
    if (!list->count && persona) return nm_stop_open(&w->stop, (const char *const *)persona->file.stop, persona->file.stops);
    char **strings = nm_calloc(list->count, sizeof *strings);
    nm_err err = strings ? NM_OK : nm_fail_memory(list->count * sizeof *strings);
    for (size_t i = 0; err == NM_OK && i < list->count; i++) {
        strings[i] = nm_unescape(list->items[i]);
        if (!strings[i]) err = nm_fail_memory(strlen(list->items[i]));
    }
    if (err == NM_OK) err = nm_stop_open(&w->stop, (const char *const *)strings, list->count);
    for (size_t i = 0; strings && i < list->count; i++) nm_free(strings[i]);
    nm_free(strings);
    return err;
}

/* ---- From a token to the screen ---------------------------------------------------------------------------------- */

/* Marks are shown with the reasoning that they belong to. */
static nm_err give(void *arg, const nm_speech_piece *piece)
{
    work *w = arg;
    bool thinking = piece->kind != NM_SPEECH_CONTENT;
    NM_TRY(nm_str_append(&w->answer->text, piece->text, piece->length));
    if (thinking && w->set->hide_thinking) return NM_OK;
    NM_TRY(nm_str_append(&w->answer->visible, piece->text, piece->length));
    if (!w->show) return NM_OK;
    if (thinking != w->dim) NM_TRY(nm_out_dim(thinking));
    w->dim = thinking;
    return nm_out_text(piece->text, piece->length);
}

static nm_err push_text(work *w, const char *text, size_t length)
{
    const char *out;
    size_t n;
    NM_TRY(nm_stop_push(w->stop, text, length, &out, &n, &w->stopped));
    return nm_speech_push(w->speech, out, n, give, w);
}

static nm_err push_token(work *w, int32_t id)
{
    const char *text = nm_token_raw(w->talk->tokenizer, id);
    size_t length;
    nm_answer *a = w->answer;
    NM_TRY(NM_GROW(a->ids, a->capacity, a->n_ids + 1));
    a->ids[a->n_ids++] = id;
    if (nm_token_is_control(w->talk->tokenizer, id) && nm_speech_is_mark(text)) length = strlen(text);
    else NM_TRY(nm_decoder_push(w->decoder, id, &text, &length));
    NM_TRY(push_text(w, text, length));
    return w->show ? nm_out_flush() : NM_OK;
}

/* What decoder, stop rules and speech still hold. */
static nm_err finish(work *w)
{
    const char *text;
    size_t length;
    NM_TRY(nm_decoder_push(w->decoder, -1, &text, &length));
    if (length) NM_TRY(push_text(w, text, length));
    NM_TRY(nm_stop_push(w->stop, NULL, 0, &text, &length, &w->stopped));
    NM_TRY(nm_speech_push(w->speech, text, length, give, w));
    NM_TRY(nm_speech_push(w->speech, NULL, 0, give, w));
    if (!w->show) return NM_OK;
    if (w->dim) NM_TRY(nm_out_dim(false));
    NM_TRY(nm_out_text_end());
    return nm_out_flush();
}

/* ---- Running ----------------------------------------------------------------------------------------------------- */

static nm_err on_logits(void *arg, int32_t index, const float *logits, int32_t n_vocab)
{
    work *w = arg;
    (void)index, (void)n_vocab;
    nm_err err = nm_sampler_draw(w->sampler, logits, &w->token);
    return err == NM_FAILED ? nm_fail_in(err, w->talk->stacked.found.model.name) : err;
}

static nm_err feed(work *w, const int32_t *ids, size_t n, nm_want want)
{
    nm_item item = {.session = w->talk->session, .tokens = ids, .count = (int32_t)n, .want = want, .on_logits = on_logits, .arg = w};
    return nm_run(w->talk->runner, &item, 1, &nm_interrupted);
}

/* Keeps of the session what the prompt begins with, and runs the rest: at least one token, for its logits. */
static nm_err prefill(work *w, const int32_t *ids, size_t n)
{
    nm_session *s = w->talk->session;
    nm_meter meter = {.what = "reading the prompt"};
    const int32_t *have = nm_session_tokens(s);
    size_t held = (size_t)nm_session_length(s), same = 0;
    nm_err err = NM_OK;
    while (same < held && same + 1 < n && have[same] == ids[same]) same++;
    if (same < held) same = (size_t)nm_session_truncate(s, (int32_t)same);
    w->answer->reused = same;
    while (err == NM_OK && n - same > PIECE) {
        err = feed(w, ids + same, PIECE, NM_WANT_NONE);
        same += PIECE;
        if (err == NM_OK && nm_meter_draw(&meter, same, n)) err = nm_fail(NM_INTERRUPTED, "interrupted while reading the prompt");
    }
    nm_meter_clear(&meter);
    return err == NM_OK ? feed(w, ids + same, n - same, NM_WANT_LAST) : err;
}

/* Goes on until something ends the answer. The token drawn last is in w->token. */
static nm_err generate(work *w)
{
    nm_answer *a = w->answer;
    int32_t most = w->set->max_tokens;
    while (w->set->ignore_eos || !nm_token_ends(w->talk->tokenizer, w->token)) {
        NM_TRY(nm_sampler_accept(w->sampler, w->token));
        NM_TRY(push_token(w, w->token));
        if (w->stopped) break;
        if (nm_interrupted) return nm_fail(NM_INTERRUPTED, "interrupted");
        if ((most >= 0 && a->n_ids >= (size_t)most) || nm_session_length(w->talk->session) >= w->talk->context) {
            a->finish = "length";
            break;
        }
        NM_TRY(feed(w, &w->token, 1, NM_WANT_LAST));
    }
    return NM_OK;
}

static nm_err answer(work *w, const int32_t *ids, size_t n)
{
    nm_answer *a = w->answer;
    uint64_t start = nm_clock_ns();
    for (size_t i = 0; i < n; i++) NM_TRY(nm_sampler_accept(w->sampler, ids[i]));
    NM_TRY(prefill(w, ids, n));
    a->prompt_seconds = (double)(nm_clock_ns() - start) * 1e-9;
    start = nm_clock_ns();
    nm_err err = w->set->max_tokens == 0 ? NM_OK : generate(w);
    if (w->set->max_tokens == 0) a->finish = "length";
    a->seconds = (double)(nm_clock_ns() - start) * 1e-9;
    if (err == NM_INTERRUPTED) a->finish = "interrupted";
    nm_err end = err == NM_OK || err == NM_INTERRUPTED ? finish(w) : NM_OK;
    return end == NM_OK ? err : end;
}

nm_err nm_talk_answer(nm_talk *talk, const nm_run_settings *set, const int32_t *ids, size_t n_ids, bool show, nm_answer *out)
{
    work w = {.talk = talk, .set = set, .answer = out, .show = show};
    nm_err err = NM_OK;
    *out = (nm_answer){.finish = "stop", .prompt_tokens = n_ids};
    if (!n_ids) return nm_fail(NM_USAGE, "the prompt is empty: give some text");
    if (n_ids > (size_t)talk->context)
        return nm_fail(NM_USAGE, "the prompt has %zu tokens, and the context holds %d: shorten it, or give --context %zu or more", n_ids,
                       talk->context, n_ids + 1);
    NM_GOTO(nm_str_append(&out->text, "", 0));
    NM_GOTO(nm_str_append(&out->visible, "", 0));
    NM_GOTO(open_sampler(&w));
    NM_GOTO(open_stop(&w));
    /* Without a template the answer is the same text going on: "Once" is followed by " upon". */
    NM_GOTO(nm_decoder_open(&w.decoder, talk->tokenizer, talk->tmpl ? 0 : NM_TEXT_CONTINUES));
    NM_GOTO(nm_speech_open(&w.speech, &(nm_speech_options){.reasoning_open = talk->thinks, .marks = true}));
    err = answer(&w, ids, n_ids);
    if (err == NM_OK && !strcmp(out->finish, "length") && (set->max_tokens < 0 || out->n_ids < (size_t)set->max_tokens))
        nm_note("the context of %d tokens is full: the answer ends here", talk->context);
out:
    nm_sampler_close(&w.sampler);
    nm_stop_close(&w.stop);
    nm_decoder_close(&w.decoder);
    nm_speech_close(&w.speech);
    return err;
}

void nm_talk_note_speed(const nm_answer *a)
{
    size_t run = a->prompt_tokens - a->reused;
    char rate[32] = "";
    if (a->n_ids > 1 && a->seconds > 0) snprintf(rate, sizeof rate, ", %.1f/s", (double)(a->n_ids - 1) / a->seconds);
    nm_note("prompt %zu tokens (%zu kept), %.1f/s; answer %zu tokens%s; seed %llu", a->prompt_tokens, a->reused,
            a->prompt_seconds > 0 ? (double)run / a->prompt_seconds : 0.0, a->n_ids, rate, (unsigned long long)a->seed);
}
