/* Thinking blocks in streamed text: "<think> ... </think>" and its relatives, only where they open the answer. A tag in the middle of an
 * answer is text. */
#include <ctype.h>
#include <string.h>

#include "base/err.h"
#include "talk.h"

static const struct { const char *open, *close; } tags[] = {
    {"<think>", "</think>"}, {"<thinking>",
                              "</thinking>"}, {"<thought>", "</thought>"}, {"<reasoning>", "</reasoning>"}, {"[THINK]", "[/THINK]"},
    {"<|START_THINKING|>", "<|END_THINKING|>"}, {"<seed:think>", "</seed:think>"}, {"<|begin_of_thought|>", "<|end_of_thought|>"},
};
enum { N_TAGS = sizeof tags / sizeof *tags };
enum { BEFORE, INSIDE, BEHIND };

bool nm_think_is_tag(const char *text)
{
    for (int i = 0; i < N_TAGS; i++)
        if (!strcmp(text, tags[i].open) || !strcmp(text, tags[i].close)) return true;
    return false;
}

/* The opening tag that the text ends in, or -1. */
static int open_tag_at_end(const char *text, size_t length)
{
    while (length && isspace((unsigned char)text[length - 1])) length--;
    for (int i = 0; i < N_TAGS; i++) {
        size_t n = strlen(tags[i].open);
        if (length >= n && !memcmp(text + length - n, tags[i].open, n)) return i;
    }
    return -1;
}

bool nm_think_ends_open(const char *text, size_t length) { return open_tag_at_end(text, length) >= 0; }

void nm_thinker_begin(nm_thinker *t, bool inside)
{
    t->state = inside ? INSIDE : BEFORE;
    t->tag = inside ? -1 : 0;       /* -1: opened by the prompt, any closing tag will do */
    t->held.length = 0;
    t->skip_space = false;
}

/* BEFORE: 1 if the held text opens a block, 0 if it may yet, -1 if it does not. */
static int opens(nm_thinker *t)
{
    size_t at = 0, n = t->held.length;
    const char *s = t->held.data;
    while (at < n && isspace((unsigned char)s[at])) at++;
    if (at == n) return 0;
    bool may = false;
    for (int i = 0; i < N_TAGS; i++) {
        size_t want = strlen(tags[i].open), have = n - at;
        if (memcmp(s + at, tags[i].open, have < want ? have : want)) continue;
        if (have >= want) {
            t->tag = i;
            return 1;
        }
        may = true;
    }
    return may ? 0 : -1;
}

/* INSIDE: how much of the held text is surely thinking; *closed: a closing tag ends it there. */
static size_t thinking_length(const nm_thinker *t, bool *closed)
{
    const char *s = t->held.data;
    size_t n = t->held.length;
    *closed = false;
    for (size_t at = 0; at < n; at++) {
        for (int i = 0; i < N_TAGS; i++) {
            size_t want = strlen(tags[i].close), have = n - at;
            if ((t->tag >= 0 && t->tag != i) || memcmp(s + at, tags[i].close, have < want ? have : want)) continue;
            *closed = have >= want;
            return *closed ? at + want : at;
        }
    }
    return n;
}

static nm_err give_front(nm_thinker *t, size_t n, bool thinking, nm_think_fn give, void *arg)
{
    if (n) NM_TRY(give(arg, t->held.data, n, thinking));
    memmove(t->held.data, t->held.data + n, t->held.length -= n);
    return NM_OK;
}

static nm_err give_behind(nm_thinker *t, nm_think_fn give, void *arg)
{
    size_t blank = 0;
    while (t->skip_space && blank < t->held.length && isspace((unsigned char)t->held.data[blank])) blank++;
    if (blank < t->held.length) t->skip_space = false;
    NM_TRY(give_front(t, blank, true, give, arg));      /* the space behind a block belongs to it */
    return give_front(t, t->held.length, false, give, arg);
}

nm_err nm_thinker_push(nm_thinker *t, const char *text, size_t length, nm_think_fn give, void *arg)
{
    bool end = !text, closed;
    NM_TRY(nm_str_append(&t->held, end ? "" : text, end ? 0 : length));
    if (t->state == BEFORE) {
        int o = opens(t);
        if (o == 0 && !end) return NM_OK;
        t->state = o > 0 ? INSIDE : BEHIND;
    }
    if (t->state == INSIDE) {
        size_t n = thinking_length(t, &closed);
        NM_TRY(give_front(t, end ? t->held.length : n, true, give, arg));
        if (!closed) return NM_OK;
        t->state = BEHIND;
        t->skip_space = true;
    }
    return give_behind(t, give, arg);
}
