/* Tables of options. */
#include "option.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "json.h"

const char *nm_option_name(const nm_option *option, int i, char *out, size_t out_size)
{
    const char *at = option->names;
    for (; i > 0 && *at; i--) {
        at += strcspn(at, " ");
        at += strspn(at, " ");
    }
    size_t n = strcspn(at, " ");
    if (!n || n >= out_size) return NULL;
    memcpy(out, at, n);
    out[n] = 0;
    return out;
}

/* Equal names, where '_' behind the leading dashes counts as '-'. */
static bool same_name(const char *name, const char *given, size_t length)
{
    if (strlen(name) != length) return false;
    for (size_t i = 0; i < length; i++)
        if (name[i] != (given[i] == '_' ? '-' : given[i])) return false;
    return true;
}

const nm_option *nm_option_find(const nm_option *table, const char *given, size_t length)
{
    char name[NM_OPTION_NAME_MOST];
    for (const nm_option *o = table; o && o->names; o++)
        for (int i = 0; nm_option_name(o, i, name, sizeof name); i++)
            if (same_name(name, given, length)) return o;
    return NULL;
}

/* ---- Values -------------------------------------------------------------------------------------------------------------------- */

static nm_err set_int(const nm_option *o, const char *shown, const char *text, int32_t *out)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end == text || *end) return nm_fail(NM_USAGE, "%s: '%s' is no whole number", shown, text);
    if (errno || (double)v < o->least || (double)v > o->most)
        return nm_fail(NM_USAGE, "%s: %s is out of range: give %.0f to %.0f", shown, text, o->least, o->most);
    *out = (int32_t)v;
    return NM_OK;
}

static nm_err set_real(const nm_option *o, const char *shown, const char *text, double *out)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || isnan(v)) return nm_fail(NM_USAGE, "%s: '%s' is no number", shown, text);
    if (v < o->least || v > o->most) return nm_fail(NM_USAGE, "%s: %s is out of range: give %g to %g", shown, text, o->least, o->most);
    *out = v;
    return NM_OK;
}

static nm_err set_seed(const char *shown, const char *text, nm_seed *out)
{
    char *end;
    errno = 0;
    if (!strcmp(text, "-1")) {
        *out = (nm_seed){0};
        return NM_OK;
    }
    unsigned long long v = strtoull(text, &end, 0);
    if (end == text || *end || errno || text[strspn(text, " \t")] == '-')
        return nm_fail(NM_USAGE, "%s: '%s' is no seed: give a number from 0 to 18446744073709551615, or -1 for a random one", shown, text);
    *out = (nm_seed){.given = true, .value = v};
    return NM_OK;
}

static nm_err set_choice(const nm_option *o, const char *shown, const char *text, int32_t *out)
{
    size_t length = strlen(text);
    const char *word = o->value;
    for (int32_t i = 0; *word; i++) {
        size_t n = strcspn(word, "|");
        if (n == length && !strncmp(word, text, n)) {
            *out = i;
            return NM_OK;
        }
        word += n + (word[n] == '|');
    }
    return nm_fail(NM_USAGE, "%s: '%s' is none of %s", shown, text, o->value);
}

static nm_err set_list(const char *text, nm_list *out)
{
    NM_TRY(NM_GROW(out->items, out->capacity, out->count + 1));
    out->items[out->count++] = text;
    return NM_OK;
}

nm_err nm_option_set_value(const nm_option *o, const char *shown, const char *text, void *settings)
{
    void *at = (char *)settings + o->offset;
    switch (o->kind) {
    case NM_OPTION_FLAG: *(bool *)at = true; return NM_OK;
    case NM_OPTION_TEXT: *(const char **)at = text; return NM_OK;
    case NM_OPTION_LIST: return set_list(text, at);
    case NM_OPTION_INT: return set_int(o, shown, text, at);
    case NM_OPTION_REAL: return set_real(o, shown, text, at);
    case NM_OPTION_SEED: return set_seed(shown, text, at);
    case NM_OPTION_CHOICE: return set_choice(o, shown, text, at);
    }
    return nm_fail(NM_USAGE, "%s: no such kind of option", shown);
}

nm_err nm_option_set(const nm_option *table, const char *name, const char *value, void *settings)
{
    char dashed[NM_OPTION_NAME_MOST];
    size_t n = strlen(name);
    if (n + 3 > sizeof dashed) return nm_fail(NM_USAGE, "no setting is called '%s'", name);
    memcpy(dashed, "--", 2);
    memcpy(dashed + 2, name, n + 1);
    const nm_option *o = nm_option_find(table, dashed, n + 2);
    return o ? nm_option_set_value(o, name, value, settings) : nm_fail(NM_USAGE, "no setting is called '%s'", name);
}

/* ---- Settings as JSON ---------------------------------------------------------------------------------------------------------------------- */

static bool is_unset(const nm_option *o, const void *at)
{
    switch (o->kind) {
    case NM_OPTION_FLAG: return !*(const bool *)at;
    case NM_OPTION_TEXT: return !*(const char *const *)at;
    case NM_OPTION_LIST: return !((const nm_list *)at)->count;
    case NM_OPTION_INT: return *(const int32_t *)at < o->least || *(const int32_t *)at > o->most;
    case NM_OPTION_REAL: return !(*(const double *)at >= o->least && *(const double *)at <= o->most);
    case NM_OPTION_SEED: return false;
    case NM_OPTION_CHOICE: return *(const int32_t *)at < 0;
    }
    return true;
}

/* What the option's own parser reads: numbers in the fewest digits that give them back. */
nm_err nm_option_json_text(const nm_json *v, nm_str *s)
{
    switch (v->kind) {
    case NM_JSON_INT: return nm_str_printf(s, "%lld", (long long)v->integer);
    case NM_JSON_WIDE: return nm_str_printf(s, "%llu", (unsigned long long)v->wide);
    case NM_JSON_STRING: return nm_str_append(s, v->string.bytes, v->string.length);
    case NM_JSON_REAL: {
        char text[32];
        for (int digits = 15; digits <= 17; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, v->real);
            if (strtod(text, NULL) == v->real) break;
        }
        return nm_str_puts(s, text);
    }
    default: return NM_USAGE;
    }
}

static nm_err put_choice(nm_str *s, const char *words, int32_t index)
{
    for (; index > 0; index--) words += strcspn(words, "|") + 1;
    return nm_str_json(s, words, strcspn(words, "|"));
}

static nm_err put_list(nm_str *s, const nm_list *list)
{
    NM_TRY(nm_str_putc(s, '['));
    for (size_t i = 0; i < list->count; i++) {
        if (i) NM_TRY(nm_str_puts(s, ", "));
        NM_TRY(nm_str_json(s, list->items[i], strlen(list->items[i])));
    }
    return nm_str_putc(s, ']');
}

static nm_err put_real(nm_str *s, double v)
{
    nm_json number = {.kind = NM_JSON_REAL, .real = v};
    return nm_option_json_text(&number, s);
}

static nm_err put_value(nm_str *s, const nm_option *o, const void *at)
{
    const char *text;
    switch (o->kind) {
    case NM_OPTION_FLAG: return nm_str_puts(s, "true");
    case NM_OPTION_TEXT: text = *(const char *const *)at; return nm_str_json(s, text, strlen(text));
    case NM_OPTION_LIST: return put_list(s, at);
    case NM_OPTION_INT: return nm_str_printf(s, "%d", *(const int32_t *)at);
    case NM_OPTION_REAL: return put_real(s, *(const double *)at);
    case NM_OPTION_SEED: return nm_str_printf(s, "%llu", (unsigned long long)((const nm_seed *)at)->value);
    case NM_OPTION_CHOICE: return put_choice(s, o->value, *(const int32_t *)at);
    }
    return NM_OK;
}

/* The first long spelling, without dashes. */
static bool long_name(const nm_option *o, char out[NM_OPTION_NAME_MOST])
{
    for (int i = 0; nm_option_name(o, i, out, NM_OPTION_NAME_MOST); i++)
        if (!strncmp(out, "--", 2)) {
            memmove(out, out + 2, strlen(out) - 1);
            return true;
        }
    return false;
}

nm_err nm_option_json(nm_str *s, const nm_option *table, const void *settings, const char *skip)
{
    bool any = false;
    NM_TRY(nm_str_putc(s, '{'));
    for (const nm_option *o = table; o && o->names; o++) {
        const void *at = (const char *)settings + o->offset;
        char name[NM_OPTION_NAME_MOST], word[NM_OPTION_NAME_MOST + 2];
        if (!long_name(o, name) || is_unset(o, at)) continue;
        snprintf(word, sizeof word, " %s ", name);
        if (strstr(skip, word)) continue;
        NM_TRY(nm_str_printf(s, "%s\"%s\": ", any ? ", " : "", name));
        NM_TRY(put_value(s, o, at));
        any = true;
    }
    return nm_str_putc(s, '}');
}
