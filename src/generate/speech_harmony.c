/* Owns answers in channels, as gpt-oss writes them: headers that say where a message goes ("<|channel|>analysis", "commentary to=functions.NAME", "final"), then its text.
 * Reasoning, content and calls are told by the header; marks are part of nothing. Text without a header is content. */
#include <string.h>

#include "generate/speech.h"

enum { FRESH, HEADER, BODY };       /* nm_speech's state: before a message, in its header, in its text */
enum { PLAIN, THOUGHT, ARGUMENTS }; /* the channel */
enum { HEADER_MOST = 512 };

static const char *const marks[] = {"<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>", "<|return|>"};
enum { MARK_START, MARK_CHANNEL, MARK_MESSAGE, MARK_CONSTRAIN, N_MARKS = sizeof marks / sizeof *marks };

bool nm_harmony_is_mark(const char *text)
{
    for (int i = 0; i < N_MARKS; i++)
        if (!strcmp(text, marks[i])) return true;
    return false;
}

static size_t leading_space(const char *text, size_t length)
{
    size_t n = 0;
    while (n < length && nm_speech_space(text[n])) n++;
    return n;
}

/* The offset of the first mark, or of what may yet become one; *mark: which, or -1. */
static size_t find(const char *text, size_t length, int *mark)
{
    *mark = -1;
    for (size_t at = 0; at < length; at++) {
        if (text[at] != '<') continue;
        for (int i = 0; i < N_MARKS; i++) {
            size_t n = strlen(marks[i]), have = length - at;
            if (memcmp(text + at, marks[i], have < n ? have : n)) continue;
            if (have >= n) *mark = i;
            return at;
        }
    }
    return length;
}

static bool has(const char *text, size_t length, const char *word)
{
    return memmem(text, length, word, strlen(word)) != NULL;
}

/* The recipient of a header, after "to=functions."; NULL if it is no tool. */
static const nm_json *recipient(const nm_speech *s, const char *text, size_t length)
{
    static const char to[] = "to=functions.";
    const char *name = memmem(text, length, to, sizeof to - 1);
    if (!name) return NULL;
    name += sizeof to - 1;
    size_t left = length - (size_t)(name - text), n = 0;
    while (n < left && name[n] != '<' && !nm_speech_space(name[n])) n++;
    return nm_tools_find(&s->tools, name, n);
}

static void open_body(nm_speech *s, const char *header, size_t length)
{
    nm_caller *c = &s->caller;
    const nm_json *tool = recipient(s, header, length);
    *c = (nm_caller){.row = s->rows[0], .tool = tool, .value = c->value};
    s->channel = tool ? ARGUMENTS : has(header, length, "analysis") ? THOUGHT : PLAIN;
    s->skip_space = false;
    s->state = BODY;
}

/* FRESH, HEADER: reads to "<|message|>", which is looked for among the first HEADER_MOST bytes, however many have come. A message to something that is no tool
 * stays content, header and all. */
static bool header_step(nm_speech *s, bool end)
{
    const char *text = nm_speech_text(s);
    size_t length = nm_speech_left(s), n = strlen(marks[MARK_MESSAGE]);
    const char *message = memmem(text, length < HEADER_MOST ? length : HEADER_MOST, marks[MARK_MESSAGE], n);
    if (!message && !end && length < HEADER_MOST) return false;
    if (!message) {
        nm_speech_take(s, NM_SPEECH_CONTENT, 1);        /* of the mark, so that it is one no more */
        s->state = BODY;
        s->channel = PLAIN;
        return true;
    }
    size_t header = (size_t)(message - text);
    bool foreign = has(text, header, "to=") && !recipient(s, text, header);
    open_body(s, text, header);
    nm_speech_take(s, foreign ? NM_SPEECH_CONTENT : NM_SPEECH_MARK, header + n);
    return true;
}

/* Whether a message begins with a header at all. */
static bool fresh_step(nm_speech *s, bool end)
{
    const char *text = nm_speech_text(s);
    size_t length = nm_speech_left(s), space = leading_space(text, length);
    int mark;
    size_t at = find(text + space, length - space, &mark);
    if (space == length || (!at && mark < 0)) {
        if (!end) return false;
    } else if (!at && (mark == MARK_START || mark == MARK_CHANNEL)) {
        nm_speech_take(s, NM_SPEECH_MARK, space);
        s->state = HEADER;
        return true;
    }
    s->state = BODY;
    s->channel = PLAIN;
    return true;
}

/* Arguments go out as far as they are JSON; what follows them in the message is content, if it is more than white space. Returns the bytes done with. */
static size_t give_arguments(nm_speech *s, size_t length)
{
    nm_caller *c = &s->caller;
    size_t before = s->at, all = s->held.length, space = c->opened ? 0 : leading_space(nm_speech_text(s), length);
    nm_speech_take(s, NM_SPEECH_MARK, space);
    if (space == length) return space;
    if (c->opened || *nm_speech_text(s) == '{') {
        nm_caller_commit(s);
        s->held.length = before + length;       /* what is behind belongs to the next mark */
        c->pos = 0;
        c->ended = nm_value_json(s, nm_caller_arguments) != NM_FIT_MORE;
        s->held.length = all;
        s->at += c->pos;
    } else {
        c->ended = true;
    }
    if (c->ended) {
        s->channel = PLAIN;
        s->skip_space = true;
    }
    return s->at - before;
}

static void give_body(nm_speech *s, size_t length)
{
    if (s->channel == ARGUMENTS) length -= give_arguments(s, length);
    if (s->skip_space) {
        size_t space = leading_space(nm_speech_text(s), length);
        nm_speech_take(s, NM_SPEECH_MARK, space);
        s->skip_space = space == length;
        length -= space;
    }
    nm_speech_take(s, s->channel == THOUGHT ? NM_SPEECH_REASONING : NM_SPEECH_CONTENT, length);
}

static bool body_step(nm_speech *s, bool end)
{
    int mark;
    const char *text = nm_speech_text(s);
    size_t length = nm_speech_left(s), n = find(text, length, &mark);
    if (end && mark < 0) n = length;
    give_body(s, n);
    if (mark < 0) return false;
    if (mark != MARK_START && mark != MARK_CHANNEL) nm_speech_take(s, NM_SPEECH_MARK, strlen(marks[mark]));
    s->state = FRESH;
    return true;
}

bool nm_harmony_step(nm_speech *s, bool end)
{
    if (s->state == FRESH) return fresh_step(s, end);
    return s->state == HEADER ? header_step(s, end) : body_step(s, end);
}

bool nm_harmony_reasons(const nm_speech *s) { return s->state == BODY && s->channel == THOUGHT; }
