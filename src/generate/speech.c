/* Owns an answer as a stream: reasoning where it opens the answer, content, and calls wherever their first mark stands. Text waits only as long as it may still become a mark
 * (or white space before one, or a call whose name is not known yet); all else goes out at once. However the text is cut, the pieces of a kind are the same when joined. */
#include "generate/speech.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"

enum { BEFORE, REASONING, CONTENT, CALLS };

/* ---- Pieces ------------------------------------------------------------------------------------------------------ */

static void send(nm_speech *s, const nm_speech_piece *piece)
{
    if (s->err == NM_OK) s->err = s->give(s->arg, piece);
}

void nm_speech_say(nm_speech *s, nm_speech_kind kind, const char *text, size_t length)
{
    if (!length || (kind == NM_SPEECH_MARK && !s->marks)) return;
    if (kind == NM_SPEECH_CONTENT && s->must_call && s->ending) return;     /* held as the beginning of a mark or call */
    nm_speech_piece piece = {.kind = kind, .text = text, .length = length};
    if (kind == NM_SPEECH_ARGUMENTS) piece.call = s->calls - 1;
    send(s, &piece);
}

void nm_speech_take(nm_speech *s, nm_speech_kind kind, size_t length)
{
    const char *text = nm_speech_text(s);
    for (size_t i = 0; kind == NM_SPEECH_CONTENT && !s->begun && i < length; i++) s->begun = !nm_speech_space(text[i]);
    nm_speech_say(s, kind, text, length);
    s->at += length;
}

/* From the seed and the call's number alone. */
static void make_id(nm_speech *s, bool is_short)
{
    static const char letters[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    enum { LONG = 24, SHORT = 9 };
    char *to = s->id;
    if (!is_short) to = (char *)memcpy(to, "call_", 5) + 5;
    for (uint64_t i = 0; i < (is_short ? SHORT : LONG); i++) *to++ = letters[nm_rng_u64(s->seed, (uint64_t)s->calls, i) % 62];
    *to = 0;
}

void nm_caller_commit(nm_speech *s)
{
    nm_caller *c = &s->caller;
    if (c->committed) return;
    c->committed = s->begun = true;
    make_id(s, c->row->short_ids);
    nm_speech_piece piece = {.kind = NM_SPEECH_CALL, .text = "", .call = s->calls++, .id = s->id, .name = nm_json_get(c->tool, "name")->string.bytes};
    send(s, &piece);
}

/* ---- White space and marks ----------------------------------------------------------------------------------------- */

static size_t leading_space(const char *text, size_t length)
{
    size_t n = 0;
    while (n < length && nm_speech_space(text[n])) n++;
    return n;
}

/* The text's length without the white space at its end, of which no more than a bound waits. */
static size_t trimmed(const char *text, size_t length)
{
    size_t n = length;
    while (n && length - n < NM_SPEECH_SPACE && nm_speech_space(text[n - 1])) n--;
    return n;
}

/* Whether the text begins with the mark: FAIL, DONE, or MORE as it may yet. */
static nm_fit begins(const char *text, size_t length, const char *mark, size_t mark_length)
{
    if (memcmp(text, mark, length < mark_length ? length : mark_length)) return NM_FIT_FAIL;
    return length < mark_length ? NM_FIT_MORE : NM_FIT_DONE;
}

/* ---- Reasoning ------------------------------------------------------------------------------------------------------ */

/* The reasoning in which a prompt ends; NULL. */
static const nm_reasoning *opened_by(const char *prompt, size_t length)
{
    while (length && nm_speech_space(prompt[length - 1])) length--;
    for (const nm_reasoning *r = nm_reasonings; r->open; r++) {
        size_t n = strlen(r->open);
        if (length >= n && !memcmp(prompt + length - n, r->open, n)) return r;
    }
    return NULL;
}

bool nm_speech_reasoning_open(const char *prompt, size_t length) { return opened_by(prompt, length) != NULL; }

const char *nm_speech_closing(const nm_speech *s, const char *prompt, size_t length)
{
    if (!nm_speech_reasons(s)) return NULL;
    if (s->harmony) return "<|end|><|start|>assistant<|channel|>final<|message|>";
    const nm_reasoning *r = s->tag >= 0 ? &nm_reasonings[s->tag] : prompt ? opened_by(prompt, length) : NULL;
    return r ? r->close : NULL;
}

static bool before_step(nm_speech *s, bool end)
{
    const char *text = nm_speech_text(s);
    size_t length = nm_speech_left(s), space = leading_space(text, length);
    bool may = space == length;
    for (int i = 0; nm_reasonings[i].open && space < length; i++) {
        nm_fit fit = begins(text + space, length - space, nm_reasonings[i].open, strlen(nm_reasonings[i].open));
        may |= fit == NM_FIT_MORE;
        if (fit != NM_FIT_DONE) continue;
        nm_speech_take(s, NM_SPEECH_MARK, space + strlen(nm_reasonings[i].open));
        s->tag = i;
        s->skip_space = true;
        s->state = REASONING;
        return true;
    }
    if (may && !end) return false;
    s->state = CONTENT;
    return true;
}

/* How much of the text is surely reasoning, white space included; *mark: bytes of the closing mark behind it, 0 if it is not there yet. Opened by the prompt, any mark closes. */
static size_t reasoning_length(const nm_speech *s, const char *text, size_t length, size_t *mark)
{
    *mark = 0;
    for (size_t at = 0; at < length; at++) {
        if (text[at] != '<' && text[at] != '[') continue;
        for (int i = 0; nm_reasonings[i].open; i++) {
            size_t n = strlen(nm_reasonings[i].close);
            if (s->tag >= 0 && s->tag != i) continue;
            nm_fit fit = begins(text + at, length - at, nm_reasonings[i].close, n);
            if (fit == NM_FIT_DONE) *mark = n;
            if (fit != NM_FIT_FAIL) return at;
        }
    }
    return length;
}

static bool skip_space(nm_speech *s)
{
    if (!s->skip_space) return true;
    nm_speech_take(s, NM_SPEECH_MARK, leading_space(nm_speech_text(s), nm_speech_left(s)));
    if (!nm_speech_left(s)) return false;
    s->skip_space = false;
    return true;
}

static bool reasoning_step(nm_speech *s, bool end)
{
    size_t mark;
    if (!skip_space(s)) return false;
    const char *text = nm_speech_text(s);
    size_t all = reasoning_length(s, text, nm_speech_left(s), &mark);
    if (end && !mark) all = nm_speech_left(s);
    size_t n = trimmed(text, all);
    nm_speech_take(s, NM_SPEECH_REASONING, n);
    if (!mark && !end) return false;
    nm_speech_take(s, NM_SPEECH_MARK, all - n + mark);
    s->state = CONTENT;
    s->skip_space = true;
    return mark > 0;
}

/* ---- Content, and where calls begin --------------------------------------------------------------------------------- */

/* The first mark of a call, from row `from` on, at text + at; space: how much white space the text begins with. */
static nm_fit mark_at(const nm_speech *s, int from, const char *text, size_t length, size_t at, size_t space, int *row)
{
    bool may = false, first = !s->begun && at <= space;
    for (int i = from; i < s->n_rows; i++) {
        size_t n;
        const char *lead = nm_family_lead(s->rows[i], &n);
        if (s->rows[i]->whole && !first) continue;
        nm_fit fit = begins(text + at, length - at, lead, n);
        may |= fit == NM_FIT_MORE;
        if (fit != NM_FIT_DONE) continue;
        *row = i;
        return NM_FIT_DONE;
    }
    return may ? NM_FIT_MORE : NM_FIT_FAIL;
}

static void begin_calls(nm_speech *s, int row, size_t mark)
{
    s->row = row;
    s->state = CALLS;
    nm_caller_begin(s, s->rows[row], mark);
}

static bool content_step(nm_speech *s, bool end)
{
    if (!skip_space(s)) return false;
    const char *text = nm_speech_text(s);
    size_t length = nm_speech_left(s), at = s->n_rows ? 0 : length, space = leading_space(text, length);
    nm_fit fit = NM_FIT_FAIL;
    int row = 0;
    for (; at < length && fit == NM_FIT_FAIL; at += fit == NM_FIT_FAIL) fit = mark_at(s, 0, text, length, at, space, &row);
    if (fit != NM_FIT_DONE && (end || !s->n_rows)) at = length;
    size_t n = fit == NM_FIT_DONE || (s->n_rows && !end) ? trimmed(text, at) : at;
    nm_speech_take(s, NM_SPEECH_CONTENT, n);
    if (fit == NM_FIT_DONE) begin_calls(s, row, at - n);
    return fit == NM_FIT_DONE;
}

/* What is held is no call in this notation: another may begin with the same mark; else the mark's first byte is content, and the search goes on behind it. */
static void try_next(nm_speech *s)
{
    const char *text = nm_speech_text(s);
    size_t mark = s->caller.mark, length = nm_speech_left(s);
    int row;
    if (mark_at(s, s->row + 1, text, length, mark, leading_space(text, length), &row) == NM_FIT_DONE) {
        begin_calls(s, row, mark);
        return;
    }
    nm_speech_take(s, NM_SPEECH_CONTENT, mark + 1);
    s->state = CONTENT;
}

static bool calls_step(nm_speech *s, bool end)
{
    nm_fit fit = nm_caller_run(s);
    if (fit == NM_FIT_MORE && !end) return false;
    if (fit == NM_FIT_MORE) nm_caller_end(s);
    if (s->calls == s->caller.first) {
        try_next(s);
        return true;
    }
    s->state = CONTENT;
    s->skip_space = true;
    return true;
}

/* ---- The stream -------------------------------------------------------------------------------------------------------- */

nm_err nm_speech_open(nm_speech **out, const nm_speech_options *options)
{
    nm_err err;
    *out = NULL;
    nm_speech *s = nm_calloc(1, sizeof *s);
    if (!s) return nm_fail_memory(sizeof *s);
    NM_GOTO(nm_tools_read(&s->tools, options->tools));
    if (options->template_text) s->n_rows = nm_family_rows(options->template_text, s->rows);
    s->harmony = s->n_rows && s->rows[0]->harmony;
    if (s->harmony || s->tools.kind != NM_JSON_ARRAY || !s->tools.array.count) s->n_rows = 0;
    s->seed = options->seed;
    s->marks = options->marks;
    s->must_call = options->must_call;
    s->tag = -1;
    s->state = options->reasoning_open && !s->harmony ? REASONING : BEFORE;
    s->skip_space = options->reasoning_open;
    *out = s;
    return NM_OK;
out:
    nm_speech_close(&s);
    return err;
}

void nm_speech_close(nm_speech **speech)
{
    nm_speech *s = *speech;
    if (!s) return;
    nm_json_free(&s->tools);
    nm_str_free(&s->held);
    nm_str_free(&s->caller.value);
    nm_free(s);
    *speech = NULL;
}

static bool step(nm_speech *s, bool end)
{
    if (s->harmony) return nm_harmony_step(s, end);
    switch (s->state) {
    case BEFORE: return before_step(s, end);
    case REASONING: return reasoning_step(s, end);
    case CONTENT: return content_step(s, end);
    default: return calls_step(s, end);
    }
}

nm_err nm_speech_push(nm_speech *s, const char *text, size_t length, nm_speech_fn give, void *arg)
{
    bool end = s->ending = !text;
    s->give = give;
    s->arg = arg;
    if (s->err == NM_OK) s->err = nm_str_append(&s->held, end ? "" : text, end ? 0 : length);
    while (s->err == NM_OK && nm_speech_left(s) && step(s, end)) {}
    if (s->err == NM_OK && end && s->state == CALLS && !s->harmony) calls_step(s, end);
    if (s->err != NM_OK) return s->err;
    size_t left = nm_speech_left(s);
    memmove(s->held.data, s->held.data + s->at, left);
    s->held.length = left;
    s->at = 0;
    return NM_OK;
}

bool nm_speech_reasons(const nm_speech *speech) { return speech->harmony ? nm_harmony_reasons(speech) : speech->state == REASONING; }
