/* Messages of a chat, made plain for templates: they know neither parts of content, nor arguments in quotes, nor roles that are younger or older than most of them. */
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "server/fields.h"
#include "server/openai.h"

enum { WHERE = 96 };

static nm_err set_new(json_t *object, const char *key, json_t *value) { return json_object_set_new(object, key, value) ? nm_fail_memory(0) : NM_OK; }

/* The text of one part, or an error that names it. */
static nm_err part_text(const json_t *part, const char *where, size_t index, const json_t **out)
{
    static const char *const texts[] = {"text", "input_text", "output_text"};
    const char *type = json_string_value(json_object_get(part, "type"));
    if (!type) return nm_fail(NM_USAGE, "\"%s[%zu]\" must be an object with a \"type\"", where, index);
    *out = json_object_get(part, !strcmp(type, "refusal") ? "refusal" : "text");
    bool known = !strcmp(type, "refusal");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) known = known || !strcmp(type, texts[i]);
    if (!known) return nm_fail(NM_USAGE, "\"%s[%zu]\" is of type \"%s\": this server reads text alone", where, index, type);
    return json_is_string(*out) ? NM_OK : nm_fail(NM_USAGE, "\"%s[%zu]\" has no text", where, index);
}

static nm_err join_parts(nm_str *s, const json_t *parts, const char *where)
{
    size_t i;
    json_t *part;
    const json_t *text = NULL;
    json_array_foreach(parts, i, part) {
        NM_TRY(part_text(part, where, i, &text));
        if (s->length) NM_TRY(nm_str_putc(s, '\n'));
        NM_TRY(nm_str_append(s, json_string_value(text), json_string_length(text)));
    }
    return nm_str_append(s, "", 0);
}

nm_err nm_openai_read_content(json_t **out, const json_t *content, const char *where)
{
    *out = NULL;
    if (!content || json_is_null(content)) {
        *out = json_null();
    } else if (json_is_string(content)) {
        *out = json_stringn(json_string_value(content), json_string_length(content));
    } else if (json_is_array(content)) {
        nm_str s = {0};
        nm_err err = join_parts(&s, content, where);
        if (err == NM_OK) *out = json_stringn(s.data, s.length);
        nm_str_free(&s);
        NM_TRY(err);
    } else {
        return nm_fail(NM_USAGE, "\"%s\" must be a string or an array of parts", where);
    }
    return *out ? NM_OK : nm_fail_memory(0);
}

json_t *nm_openai_arguments(const json_t *arguments)
{
    if (json_is_object(arguments)) return json_deep_copy(arguments);
    const char *text = json_string_value(arguments);
    if (!text || !*text) return json_object();
    json_error_t e;
    json_t *value = nm_json_read(text, json_string_length(arguments), &e);
    if (json_is_object(value)) return value;
    json_decref(value);
    return json_stringn(text, json_string_length(arguments));
}

/* {"id", "type": "function", "function": {"name", "arguments": an object}} of a call, or of the old function_call, which has no id. */
static nm_err plain_call(json_t **out, const json_t *call, const json_t *function, const char *where)
{
    const char *id = json_string_value(json_object_get(call, "id")), *name = json_string_value(json_object_get(function, "name"));
    const json_t *arguments = json_object_get(function, "arguments");
    if (!name) return nm_fail(NM_USAGE, "\"%s\" has no function with a \"name\"", where);
    if (arguments && !json_is_string(arguments) && !json_is_object(arguments) && !json_is_null(arguments))
        return nm_fail(NM_USAGE, "\"%s\": \"arguments\" of %s must be a string that holds a JSON object", where, name);
    json_t *read = nm_openai_arguments(arguments);
    *out = read ? json_pack("{s:s*, s:s, s:{s:s, s:o}}", "id", id, "type", "function", "function", "name", name, "arguments", read) : NULL;
    return *out ? NM_OK : nm_fail_memory(0);
}

static nm_err put_calls(json_t *to, const json_t *calls, const char *where)
{
    size_t i;
    json_t *call, *list = json_array();
    NM_TRY(set_new(to, "tool_calls", list));
    json_array_foreach(calls, i, call) {
        char here[WHERE];
        json_t *plain = NULL;
        snprintf(here, sizeof here, "%.48s.tool_calls[%zu]", where, i);
        NM_TRY(plain_call(&plain, call, json_object_get(call, "function"), here));
        if (json_array_append_new(list, plain)) return nm_fail_memory(0);
    }
    return NM_OK;
}

static nm_err put_old_call(json_t *to, const json_t *function, const char *where)
{
    json_t *plain = NULL;
    NM_TRY(plain_call(&plain, NULL, function, where));
    json_t *list = json_pack("[o]", plain);
    return list ? set_new(to, "tool_calls", list) : nm_fail_memory(0);
}

static nm_err put_all_calls(json_t *to, const json_t *from, const char *where)
{
    const json_t *calls = json_object_get(from, "tool_calls"), *old = json_object_get(from, "function_call");
    if (json_is_null(calls)) calls = NULL;
    if (calls && !json_is_array(calls)) return nm_fail(NM_USAGE, "\"%s.tool_calls\" must be an array", where);
    if (json_array_size(calls)) return put_calls(to, calls, where);
    return json_is_object(old) ? put_old_call(to, old, where) : NM_OK;
}

static nm_err copy_text(json_t *to, const json_t *from, const char *key, const char *where)
{
    json_t *value = json_object_get(from, key);
    if (!value || json_is_null(value)) return NM_OK;
    if (!json_is_string(value)) return nm_fail(NM_USAGE, "\"%s.%s\" must be a string", where, key);
    return json_object_set(to, key, value) ? nm_fail_memory(0) : NM_OK;
}

static const char *plain_role(const char *role)
{
    static const char *const same[] = {"system", "user", "assistant", "tool"};
    for (size_t i = 0; role && i < sizeof same / sizeof *same; i++)
        if (!strcmp(role, same[i])) return same[i];
    if (role && !strcmp(role, "developer")) return "system";
    return role && !strcmp(role, "function") ? "tool" : NULL;
}

static nm_err fill_message(json_t *to, const json_t *from, const char *where)
{
    const char *role = plain_role(json_string_value(json_object_get(from, "role")));
    char content_where[WHERE];
    json_t *content = NULL;
    snprintf(content_where, sizeof content_where, "%.64s.content", where);
    if (!role) return nm_fail(NM_USAGE, "\"%s.role\" must be system, developer, user, assistant, tool or function", where);
    NM_TRY(set_new(to, "role", json_string(role)));
    NM_TRY(nm_openai_read_content(&content, json_object_get(from, "content"), content_where));
    bool nothing = json_is_null(content);
    NM_TRY(set_new(to, "content", content));
    if (nothing && strcmp(role, "assistant")) return nm_fail(NM_USAGE, "\"%s\" is missing: what the %s says", content_where, role);
    NM_TRY(copy_text(to, from, "name", where));
    NM_TRY(copy_text(to, from, "tool_call_id", where));
    if (strcmp(role, "assistant")) return NM_OK;
    NM_TRY(copy_text(to, from, "reasoning_content", where));
    return put_all_calls(to, from, where);
}

nm_err nm_openai_read_messages(json_t **out, const json_t *messages)
{
    size_t i;
    json_t *message;
    if (!json_is_array(messages) || !json_array_size(messages)) return nm_fail(NM_USAGE, "\"messages\" must be an array of at least one message");
    if (!(*out = json_array())) return nm_fail_memory(0);
    json_array_foreach(messages, i, message) {
        char where[WHERE];
        json_t *plain = json_object();
        snprintf(where, sizeof where, "messages[%zu]", i);
        if (json_array_append_new(*out, plain)) return nm_fail_memory(0);
        if (!json_is_object(message)) return nm_fail(NM_USAGE, "\"%s\" must be an object", where);
        NM_TRY(fill_message(plain, message, where));
    }
    return NM_OK;
}
