/* What may come out, in the words of several servers: llama.cpp's grammar and json_schema, vLLM's guided_* and structured_outputs. One of them, or a 400 that names both;
 * what is known and not offered is a 400, too. Hints about who compiles a grammar are passed over. */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "server/fields.h"
#include "server/openai.h"

enum { CHOICES_MOST = 1000 };

/* ---- One constraint ------------------------------------------------------------------------------------------------ */

static nm_err alone(const nm_openai_ask *a, const char *name)
{
    if (!a->ask.grammar && !a->ask.schema && !a->ask.json) return NM_OK;
    return nm_fail(NM_USAGE, "\"%s\" stands beside another member that says what may come out: give one of them", name);
}

/* Takes GBNF over. */
static nm_err set_own(nm_openai_ask *a, nm_str *gbnf)
{
    a->gbnf = nm_str_take(gbnf, NULL);
    a->ask.grammar = a->gbnf;
    return NM_OK;
}

static nm_err read_grammar(nm_openai_ask *a, const json_t *value, const char *name)
{
    if (!json_is_string(value)) return nm_fail(NM_USAGE, "\"%s\" must be a string: a grammar in GBNF", name);
    a->ask.grammar = *json_string_value(value) ? json_string_value(value) : NULL;
    return NM_OK;
}

/* An object, or its text. Without members it is any object. */
static nm_err read_schema(nm_openai_ask *a, const json_t *value, const char *name)
{
    json_error_t e;
    a->schema = json_is_string(value) ? nm_json_read(json_string_value(value), json_string_length(value), &e) : json_incref((json_t *)value);
    if (!json_is_object(a->schema)) return nm_fail(NM_USAGE, "\"%s\" must be a JSON schema: an object", name);
    a->ask.json = !json_object_size(a->schema);
    a->ask.schema = a->ask.json ? NULL : a->schema;
    return NM_OK;
}

static nm_err put_literal(nm_str *s, const char *text)
{
    NM_TRY(nm_str_putc(s, '"'));
    for (; *text; text++) {
        bool control = (unsigned char)*text < ' ' || *text == 0x7f;
        if (control) NM_TRY(nm_str_printf(s, "\\x%02X", (unsigned char)*text));
        else {
            if (strchr("\"\\", *text)) NM_TRY(nm_str_putc(s, '\\'));
            NM_TRY(nm_str_putc(s, *text));
        }
    }
    return nm_str_putc(s, '"');
}

static nm_err put_choices(nm_str *s, const json_t *list, const char *name)
{
    size_t n = json_array_size(list);
    if (!n || n > CHOICES_MOST) return nm_fail(NM_USAGE, "\"%s\" must be an array of 1 to %d strings", name, CHOICES_MOST);
    NM_TRY(nm_str_puts(s, "root ::="));
    for (size_t i = 0; i < n; i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (!text || !*text) return nm_fail(NM_USAGE, "\"%s\" must be an array of strings that are not empty", name);
        NM_TRY(nm_str_puts(s, i ? " | " : " "));
        NM_TRY(put_literal(s, text));
    }
    return NM_OK;
}

static nm_err read_choice(nm_openai_ask *a, const json_t *value, const char *name)
{
    nm_str s = {0};
    nm_err err = put_choices(&s, value, name);
    if (err == NM_OK) err = set_own(a, &s);
    nm_str_free(&s);
    return err;
}

static nm_err read_regex(nm_openai_ask *a, const json_t *value, const char *name)
{
    char *gbnf = NULL;
    size_t length;
    if (!json_is_string(value)) return nm_fail(NM_USAGE, "\"%s\" must be a string: a regular expression that the whole answer fits", name);
    nm_err err = nm_pattern_grammar(&gbnf, &length, json_string_value(value), json_string_length(value));
    if (err == NM_USAGE) return nm_fail(NM_USAGE, "\"%s\": %s", name, nm_error_text());
    NM_TRY(err);
    a->gbnf = gbnf;
    a->ask.grammar = gbnf;
    return NM_OK;
}

static nm_err read_object(nm_openai_ask *a, const json_t *value, const char *name)
{
    if (!json_is_boolean(value)) return nm_fail(NM_USAGE, "\"%s\" must be true or false", name);
    a->ask.json = json_is_true(value);
    return NM_OK;
}

static nm_err refuse(nm_openai_ask *a, const json_t *value, const char *name)
{
    (void)a, (void)value;
    return nm_fail(NM_USAGE, "\"%s\" is not offered here: give a grammar or a schema", name);
}

/* ---- All of them ----------------------------------------------------------------------------------------------------- */

typedef struct member { const char *name; nm_err (*read)(nm_openai_ask *a, const json_t *value, const char *name); } member;
static const member beside[] = {
    {"grammar", read_grammar}, {"json_schema", read_schema}, {"guided_json", read_schema}, {"guided_grammar", read_grammar}, {"guided_choice", read_choice},
    {"guided_regex", read_regex}, {"guided_json_object", read_object}, {"guided_whitespace_pattern", refuse}, {NULL, NULL},
};
static const member within[] = {
    {"json", read_schema}, {"grammar", read_grammar}, {"choice", read_choice}, {"regex", read_regex}, {"json_object", read_object}, {"structural_tag", refuse},
    {"whitespace_pattern", refuse}, {NULL, NULL},
};

static nm_err read_members(nm_openai_ask *a, const json_t *object, const member *list, const char *prefix)
{
    for (const member *m = list; m->name; m++) {
        const json_t *value = json_object_get(object, m->name);
        char name[64];
        if (!value || json_is_null(value)) continue;
        snprintf(name, sizeof name, "%s%s", prefix, m->name);
        NM_TRY(alone(a, name));
        NM_TRY(m->read(a, value, name));
    }
    return NM_OK;
}

nm_err nm_openai_read_constraint(nm_openai_ask *a, const json_t *body)
{
    json_t *outputs = NULL;
    NM_TRY(read_members(a, body, beside, ""));
    NM_TRY(nm_field_object(body, "structured_outputs", &outputs));
    return read_members(a, outputs, within, "structured_outputs.");
}
