/* Owns stop strings: finds the first in streamed text and holds back what could still become one. Refuses to know of tokens. */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"

struct nm_stop {
    char **strings;
    size_t *lengths;
    size_t count;
    nm_str held;        /* read but not given: nothing, or the beginning of a stop string */
    size_t given;       /* bytes at the front of held that the last call gave away */
    bool stopped;
    const char *met;    /* the string that stopped it */
};

nm_err nm_stop_open(nm_stop **out, const char *const *strings, size_t count)
{
    nm_err err = NM_OK;
    *out = NULL;
    nm_stop *stop = nm_calloc(1, sizeof *stop);
    if (!stop) return nm_fail_memory(sizeof *stop);
    stop->strings = nm_calloc(count, sizeof *stop->strings);
    stop->lengths = nm_calloc(count, sizeof *stop->lengths);
    if (!stop->strings || !stop->lengths) NM_GOTO(nm_fail_memory(count * sizeof *stop->strings));
    for (; stop->count < count; stop->count++) {
        size_t length = strlen(strings[stop->count]);
        if (!length) NM_GOTO(nm_fail(NM_USAGE, "a stop string is empty: leave it away"));
        stop->lengths[stop->count] = length;
        stop->strings[stop->count] = nm_strndup(strings[stop->count], length);
        if (!stop->strings[stop->count]) NM_GOTO(nm_fail_memory(length));
    }
    *out = stop;
    return NM_OK;
out:
    nm_stop_close(&stop);
    return err;
}

void nm_stop_close(nm_stop **stop)
{
    nm_stop *s = *stop;
    if (!s) return;
    for (size_t i = 0; i < s->count; i++) nm_free(s->strings[i]);
    nm_free(s->strings);
    nm_free(s->lengths);
    nm_str_free(&s->held);
    nm_free(s);
    *stop = NULL;
}

void nm_stop_reset(nm_stop *stop)
{
    stop->held.length = stop->given = 0;
    stop->stopped = false;
    stop->met = NULL;
}

/* Offset of the stop string that is whole first (*whole), as if bytes came one by one: of two that end together the longer. Else of the beginning of one, or the text's length. */
static size_t first_match(nm_stop *s, const char *text, size_t length, bool *whole)
{
    size_t partial = length, found = length, end = length + 1;
    for (size_t at = 0; at < length && at < end; at++) {
        for (size_t i = 0; i < s->count; i++) {
            size_t left = length - at, n = s->lengths[i] < left ? s->lengths[i] : left;
            if (memcmp(text + at, s->strings[i], n)) continue;
            if (n < s->lengths[i]) {
                if (partial == length) partial = at;
            } else if (at + n < end) {
                end = at + n;
                found = at;
                s->met = s->strings[i];
            }
        }
    }
    *whole = end <= length;
    return *whole ? found : partial;
}

nm_err nm_stop_push(nm_stop *s, const char *text, size_t length, const char **out, size_t *out_length, bool *stopped)
{
    *out = "";
    *out_length = 0;
    *stopped = s->stopped;
    if (s->stopped) return NM_OK;
    if (s->given) memmove(s->held.data, s->held.data + s->given, s->held.length -= s->given);
    s->given = 0;
    if (text) {
        NM_TRY(nm_str_append(&s->held, text, length));
        s->given = first_match(s, s->held.data, s->held.length, &s->stopped);
    } else {
        s->given = s->held.length;
    }
    if (s->held.data) *out = s->held.data;
    *out_length = s->given;
    *stopped = s->stopped;
    return NM_OK;
}

const char *nm_stop_met(const nm_stop *stop) { return stop->met; }
