/* Tools for models whose template has no place for them: they are told of in the system message, and calls and results of before become text, in the notation that is
 * looked for in answers of such models (docs/tools.md). */
#include <stdlib.h>
#include <string.h>

#include "server/engine_impl.h"

bool nm_template_knows_tools(const char *template_text) { return template_text && strstr(template_text, "tools"); }

/* JSON of a value behind what there is. */
static nm_err add_json(nm_str *s, const json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    nm_err err = text ? nm_str_puts(s, text) : nm_fail_memory(0);
    free(text);
    return err;
}

static nm_err set_text(json_t *message, const char *key, const nm_str *s)
{
    return !json_object_set_new(message, key, json_stringn(s->data ? s->data : "", s->length)) ? NM_OK : nm_fail_memory(s->length);
}

/* An assistant's calls as the text that it made. */
static nm_err write_calls(json_t *message, const json_t *calls)
{
    nm_str s = {0};
    const char *content = json_string_value(json_object_get(message, "content"));
    nm_err err = nm_str_puts(&s, content ? content : "");
    for (size_t i = 0; err == NM_OK && i < json_array_size(calls); i++) {
        const json_t *f = json_object_get(json_array_get(calls, i), "function");
        err = nm_str_puts(&s, "<tool_call>\n{\"name\": ");
        if (err == NM_OK) err = add_json(&s, json_object_get(f, "name"));
        if (err == NM_OK) err = nm_str_puts(&s, ", \"arguments\": ");
        if (err == NM_OK) err = add_json(&s, json_object_get(f, "arguments"));
        if (err == NM_OK) err = nm_str_puts(&s, "}\n</tool_call>\n");
    }
    if (err == NM_OK) err = set_text(message, "content", &s);
    nm_str_free(&s);
    return err == NM_OK ? (json_object_del(message, "tool_calls"), NM_OK) : err;
}

static nm_err write_result(json_t *message)
{
    nm_str s = {0};
    const char *content = json_string_value(json_object_get(message, "content"));
    nm_err err = nm_str_printf(&s, "<tool_response>\n%s\n</tool_response>", content ? content : "");
    if (err == NM_OK) err = set_text(message, "content", &s);
    if (err == NM_OK && json_object_set_new(message, "role", json_string("user"))) err = nm_fail_memory(0);
    json_object_del(message, "tool_call_id");       /* a turn of the user's like others */
    nm_str_free(&s);
    return err;
}

static nm_err write_tools(nm_str *s, const json_t *tools)
{
    NM_TRY(nm_str_puts(s, "You can call functions. These are there, one JSON object a line:\n"));
    for (size_t i = 0; i < json_array_size(tools); i++) {
        NM_TRY(add_json(s, json_object_get(json_array_get(tools, i), "function")));
        NM_TRY(nm_str_putc(s, '\n'));
    }
    return nm_str_puts(s, "To call one, write\n<tool_call>\n{\"name\": \"its name\", \"arguments\": {...}}\n</tool_call>\nand wait: what it gives comes with the next message.");
}

/* At the end of the system message, which is made if there is none. */
static nm_err tell_tools(json_t *messages, const json_t *tools)
{
    nm_str s = {0};
    json_t *first = json_array_get(messages, 0);
    const char *role = json_string_value(json_object_get(first, "role")), *content = json_string_value(json_object_get(first, "content"));
    bool has = role && !strcmp(role, "system");
    nm_err err = has && content && *content ? nm_str_printf(&s, "%s\n\n", content) : NM_OK;
    if (err == NM_OK) err = write_tools(&s, tools);
    if (err == NM_OK && !has) {
        first = json_pack("{s:s}", "role", "system");
        if (!first || json_array_insert_new(messages, 0, first)) err = nm_fail_memory(0);
    }
    if (err == NM_OK) err = set_text(first, "content", &s);
    nm_str_free(&s);
    return err;
}

nm_err nm_tools_as_text(json_t *messages, const json_t *tools)
{
    for (size_t i = 0; i < json_array_size(messages); i++) {
        json_t *m = json_array_get(messages, i);
        const json_t *calls = json_object_get(m, "tool_calls");
        const char *role = json_string_value(json_object_get(m, "role"));
        if (json_array_size(calls)) NM_TRY(write_calls(m, calls));
        if (role && !strcmp(role, "tool")) NM_TRY(write_result(m));
    }
    return tools ? tell_tools(messages, tools) : NM_OK;
}
