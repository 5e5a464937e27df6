/* JSON that comes in. */
#include "json_in.h"

#include <jansson.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"

void nm_json_input_free(nm_json_input *input)
{
    nm_free(input->ids);
    nm_free(input->text);
    *input = (nm_json_input){0};
}

static const char *skip_space(const char *s, const char *end)
{
    while (s < end && memchr(" \t\r\n", *s, 4)) s++;
    return s;
}

static nm_err parse(json_t **out, const char *text, size_t length, size_t flags, const char *what)
{
    json_error_t e;
    *out = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | flags, &e);
    if (!*out) return nm_fail(NM_USAGE, "%s: line %d, column %d: %s", what, e.line, e.column, e.text);
    if (json_is_object(*out)) return NM_OK;
    json_decref(*out);
    *out = NULL;
    return nm_fail(NM_USAGE, "%s: not a JSON object: begin it with {", what);
}

static nm_err read_ids(nm_json_input *out, const json_t *ids)
{
    size_t n = json_array_size(ids);
    if (!json_is_array(ids)) return nm_fail(NM_USAGE, "standard input: \"ids\" is no array: give {\"ids\": [1, 2, ...]}");
    out->ids = nm_calloc(n, sizeof *out->ids);
    if (!out->ids) return nm_fail_memory(n * sizeof *out->ids);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(ids, i);
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id > INT32_MAX) return nm_fail(NM_USAGE, "standard input: \"ids\"[%zu] is no token id", i);
        out->ids[out->n_ids++] = (int32_t)id;
    }
    return NM_OK;
}

static nm_err read_text(nm_json_input *out, const json_t *text)
{
    if (!json_is_string(text)) return nm_fail(NM_USAGE, "standard input: give {\"text\": \"...\"} or {\"ids\": [...]}");
    out->text_length = json_string_length(text);
    out->text = nm_strndup(json_string_value(text), out->text_length);
    return out->text ? NM_OK : nm_fail_memory(out->text_length);
}

nm_err nm_json_read_input(nm_json_input *out, const char *text, size_t length)
{
    json_t *object;
    *out = (nm_json_input){0};
    NM_TRY(parse(&object, text, length, 0, "standard input"));
    const json_t *ids = json_object_get(object, "ids"), *string = json_object_get(object, "text");
    nm_err err;
    if (ids && string) err = nm_fail(NM_USAGE, "standard input: \"ids\" and \"text\" together: give one of them");
    else err = ids ? read_ids(out, ids) : read_text(out, string);
    if (err != NM_OK) nm_json_input_free(out);
    json_decref(object);
    return err;
}

/* Where a given object's members end: before its last brace. The text is known to be one object. */
static nm_err begin_with(nm_vars *vars, const char *object, size_t length)
{
    const char *from = skip_space(object, object + length), *end = object + length;
    while (end > from && end[-1] != '}') end--;
    return nm_str_append(&vars->text, from, (size_t)(end - 1 - from));
}

nm_err nm_vars_begin(nm_vars *vars, const char *object, size_t length, const char *what)
{
    json_t *given;
    *vars = (nm_vars){0};
    if (!object || skip_space(object, object + length) == object + length) return nm_str_putc(&vars->text, '{');
    /* Only the names are looked at here; the library reads the text itself, and larger integers than jansson does. */
    NM_TRY(parse(&given, object, length, JSON_DECODE_INT_AS_REAL, what));
    vars->given = given;
    vars->any = json_object_size(given) > 0;
    return begin_with(vars, object, length);
}

bool nm_vars_given(const nm_vars *vars, const char *key) { return vars->given && json_object_get(vars->given, key); }

static nm_err read_message(const json_t *m, size_t i, nm_message_fn each, void *arg)
{
    const json_t *role = json_object_get(m, "role"), *content = json_object_get(m, "content");
    if (!json_is_string(role) || !json_is_string(content))
        return nm_fail(NM_USAGE, "message %zu: give {\"role\": \"...\", \"content\": \"...\"} with two strings", i);
    return each(arg, json_string_value(role), json_string_value(content), json_string_length(content));
}

nm_err nm_json_read_messages(const char *text, size_t length, nm_message_fn each, void *arg)
{
    json_t *object;
    nm_err err = NM_OK;
    NM_TRY(parse(&object, text, length, 0, "conversation"));
    const json_t *messages = json_object_get(object, "messages");
    if (!json_is_array(messages)) err = nm_fail(NM_USAGE, "conversation: no \"messages\" in it: give {\"messages\": [...]}");
    for (size_t i = 0; err == NM_OK && i < json_array_size(messages); i++) err = read_message(json_array_get(messages, i), i, each, arg);
    json_decref(object);
    return err;
}

nm_err nm_vars_default(nm_vars *vars, const char *key, const char *json)
{
    if (nm_vars_given(vars, key)) return NM_OK;
    if (vars->any) NM_TRY(nm_str_puts(&vars->text, ", "));
    vars->any = true;
    NM_TRY(nm_str_json(&vars->text, key, strlen(key)));
    NM_TRY(nm_str_puts(&vars->text, ": "));
    return nm_str_puts(&vars->text, json);
}

nm_err nm_vars_default_text(nm_vars *vars, const char *key, const char *value)
{
    nm_str json = {0};
    nm_err err = nm_str_json(&json, value, strlen(value));
    if (err == NM_OK) err = nm_vars_default(vars, key, json.data);
    nm_str_free(&json);
    return err;
}

nm_err nm_vars_end(nm_vars *vars) { return nm_str_putc(&vars->text, '}'); }

void nm_vars_free(nm_vars *vars)
{
    nm_str_free(&vars->text);
    if (vars->given) json_decref(vars->given);
    vars->given = NULL;
}
