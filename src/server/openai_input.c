/* The input of a response: items, of which some are parts of one message of a chat. What a model did in one turn (reasoning, text, calls) becomes one assistant's message. */
#include "server/openai_input.h"

#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "server/fields.h"

enum { WHERE = 64, ITEMS_MOST = 65536 };

json_t *nm_openai_string(const char *bytes, size_t length)
{
    nm_str s = {0};
    json_t *value = json_stringn(bytes ? bytes : "", bytes ? length : 0);
    if (!value && nm_str_json(&s, bytes, length) == NM_OK) value = json_loadb(s.data, s.length, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    nm_str_free(&s);
    return value;
}

static nm_err append_new(json_t *list, json_t *value) { return json_array_append_new(list, value) ? nm_fail_memory(0) : NM_OK; }
static nm_err set_new(json_t *object, const char *key, json_t *value) { return json_object_set_new(object, key, value) ? nm_fail_memory(0) : NM_OK; }

/* {"type": "namespace", "name", "tools"} is how agents give the tools of one of their servers. Models know no such spaces: they are told NAMESPACE__NAME. */
static json_t *spaced_name(const char *space, const char *name)
{
    size_t n = strlen(space);
    return json_sprintf("%s%s%s", space, n >= 2 && !strcmp(space + n - 2, "__") ? "" : "__", name);
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static bool is_space(const json_t *tool) { return !strcmp(text_of(tool, "type"), "namespace"); }

/* The assistant's turn that goes on, or a new one. A turn that an earlier response ended is not gone on with: its message is shared. */
static json_t *turn(json_t *messages, size_t from)
{
    size_t n = json_array_size(messages);
    json_t *last = n > from ? json_array_get(messages, n - 1) : NULL;
    const char *role = json_string_value(json_object_get(last, "role"));
    if (role && !strcmp(role, "assistant")) return last;
    json_t *made = json_pack("{s:s, s:n}", "role", "assistant", "content");
    return made && !json_array_append_new(messages, made) ? made : NULL;
}

static nm_err add_call(json_t *messages, size_t from, const json_t *item, const char *where)
{
    const char *id = json_string_value(json_object_get(item, "call_id")), *name = json_string_value(json_object_get(item, "name"));
    if (!id || !name || !json_is_string(json_object_get(item, "arguments"))) return nm_fail(NM_USAGE, "\"%s\" must have \"call_id\", \"name\" and \"arguments\", strings", where);
    json_t *message = turn(messages, from), *calls = json_object_get(message, "tool_calls");
    if (!message) return nm_fail_memory(0);
    if (!calls) NM_TRY(set_new(message, "tool_calls", calls = json_array()));
    json_t *arguments = nm_openai_arguments(json_object_get(item, "arguments"));
    if (!arguments) return nm_fail_memory(0);
    json_t *told = *text_of(item, "namespace") ? spaced_name(text_of(item, "namespace"), name) : json_string(name);
    return append_new(calls, json_pack("{s:s, s:s, s:{s:o, s:o}}", "id", id, "type", "function", "function", "name", told, "arguments", arguments));
}

static nm_err add_output(json_t *messages, const json_t *item, const char *where)
{
    const char *id = json_string_value(json_object_get(item, "call_id"));
    const json_t *output = json_object_get(item, "output");
    json_t *content = NULL;
    char here[WHERE + 16];
    snprintf(here, sizeof here, "%s.output", where);
    if (!id) return nm_fail(NM_USAGE, "\"%s.call_id\" must be a string: the call that this is the output of", where);
    if (!output) return nm_fail(NM_USAGE, "\"%s\" is missing", here);
    NM_TRY(nm_openai_read_content(&content, output, here));
    return append_new(messages, json_pack("{s:s, s:s, s:o}", "role", "tool", "tool_call_id", id, "content", content));
}

/* Its content; a summary where the client has no more than that. */
static nm_err add_reasoning(json_t *messages, size_t from, const json_t *item)
{
    const json_t *parts = json_object_get(item, "content");
    if (!json_array_size(parts)) parts = json_object_get(item, "summary");
    nm_str s = {0};
    size_t i;
    json_t *part, *message = json_array_size(parts) ? turn(messages, from) : NULL;
    nm_err err = NM_OK;
    if (!message) return NM_OK;
    json_array_foreach(parts, i, part) {
        const char *text = json_string_value(json_object_get(part, "text"));
        if (err == NM_OK && text) err = nm_str_puts(&s, text);
    }
    if (err == NM_OK) err = set_new(message, "reasoning_content", nm_openai_string(s.data, s.length));
    nm_str_free(&s);
    return err;
}

static nm_err add_message(json_t *messages, size_t from, const json_t *item, const char *where)
{
    static const char *const roles[][2] = {{"user", "user"}, {"assistant", "assistant"}, {"system", "system"}, {"developer", "system"}};
    const char *role = json_string_value(json_object_get(item, "role")), *as = NULL;
    json_t *content = NULL;
    char here[WHERE + 16];
    snprintf(here, sizeof here, "%s.content", where);
    for (size_t i = 0; role && i < sizeof roles / sizeof *roles; i++) as = strcmp(role, roles[i][0]) ? as : roles[i][1];
    if (!as) return nm_fail(NM_USAGE, "\"%s.role\" must be user, assistant, system or developer", where);
    NM_TRY(nm_openai_read_content(&content, json_object_get(item, "content"), here));
    if (json_is_null(content)) return nm_fail(NM_USAGE, "\"%s\" is missing", here);
    json_t *message = strcmp(as, "assistant") ? NULL : turn(messages, from);
    if (message && json_is_null(json_object_get(message, "content"))) return set_new(message, "content", content);
    return append_new(messages, json_pack("{s:s, s:o}", "role", as, "content", content));
}

static nm_err add_item(json_t *messages, size_t from, const json_t *item, const char *where)
{
    const char *type = json_string_value(json_object_get(item, "type"));
    if (!json_is_object(item)) return nm_fail(NM_USAGE, "\"%s\" must be an object", where);
    if (!type || !strcmp(type, "message")) return add_message(messages, from, item, where);
    if (!strcmp(type, "function_call")) return add_call(messages, from, item, where);
    if (!strcmp(type, "function_call_output")) return add_output(messages, item, where);
    if (!strcmp(type, "reasoning")) return add_reasoning(messages, from, item);
    return nm_fail(NM_USAGE, "\"%s\" is of type \"%s\": give message, function_call, function_call_output or reasoning", where, type);
}

nm_err nm_openai_read_input(json_t *messages, const json_t *input)
{
    size_t i, from = json_array_size(messages);
    json_t *item;
    if (json_is_string(input)) return append_new(messages, json_pack("{s:s, s:O}", "role", "user", "content", input));
    if (!json_is_array(input) || !json_array_size(input)) return nm_fail(NM_USAGE, "\"input\" must be a string or an array of at least one item");
    if (json_array_size(input) > ITEMS_MOST) return nm_fail(NM_USAGE, "\"input\" has more than %d items", ITEMS_MOST);
    json_array_foreach(input, i, item) {
        char where[WHERE];
        snprintf(where, sizeof where, "input[%zu]", i);
        NM_TRY(add_item(messages, from, item, where));
    }
    return NM_OK;
}

json_t *nm_openai_instruct(json_t *messages, const char *instructions)
{
    json_t *out = json_copy(messages), *first = json_array_get(out, 0), *made;
    const char *role = json_string_value(json_object_get(first, "role"));
    if (!instructions || !out) return out;
    if (role && !strcmp(role, "system")) {
        made = json_pack("{s:s, s:s++}", "role", "system", "content", instructions, "\n\n", json_string_value(json_object_get(first, "content")));
        if (made && !json_array_set_new(out, 0, made)) return out;
    } else {
        made = json_pack("{s:s, s:s}", "role", "system", "content", instructions);
        if (made && !json_array_insert_new(out, 0, made)) return out;
    }
    json_decref(out);
    return NULL;
}

/* ---- Tools ------------------------------------------------------------------------------------------------------- */

bool nm_openai_find_spaced(const json_t *tools, const char *told, const char **space, const char **name)
{
    size_t i, k;
    json_t *tool, *inner;
    json_array_foreach(tools, i, tool)
        json_array_foreach(is_space(tool) ? json_object_get(tool, "tools") : NULL, k, inner) {
            json_t *full = spaced_name(text_of(tool, "name"), text_of(inner, "name"));
            bool found = full && !strcmp(json_string_value(full), told);
            json_decref(full);
            if (!found) continue;
            *space = text_of(tool, "name");
            *name = text_of(inner, "name");
            return true;
        }
    return false;
}

/* What agents name in each request, whether it is to be had or not, and models can do without: they are not told of it. */
static bool is_spare(const json_t *tool)
{
    static const char *const types[] = {"web_search", "image_generation", "local_shell", "custom", "tool_search"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strncmp(text_of(tool, "type"), types[i], strlen(types[i]))) return true;
    return false;
}

/* {"type": "function", "name", ...} as chats have it, {"type": "function", "function": {"name", ...}}; other types stay, to be refused by name. */
static json_t *chat_tool(json_t *tool)
{
    static const char *const members[] = {"name", "description", "parameters", "strict"};
    const char *type = json_string_value(json_object_get(tool, "type"));
    if (!type || strcmp(type, "function") || json_object_get(tool, "function")) return json_incref(tool);
    json_t *function = json_object();
    for (size_t i = 0; function && i < sizeof members / sizeof *members; i++) {
        json_t *value = json_object_get(tool, members[i]);
        if (value && !json_is_null(value)) json_object_set(function, members[i], value);
    }
    return json_pack("{s:s, s:o}", "type", "function", "function", function);
}

static void add_space(json_t *out, const json_t *space)
{
    json_t *tool;
    size_t i;
    json_array_foreach(json_object_get(space, "tools"), i, tool) {
        if (is_spare(tool)) continue;
        json_t *as = chat_tool(tool), *function = json_object_get(as, "function");
        if (function) json_object_set_new(function, "name", spaced_name(text_of(space, "name"), text_of(tool, "name")));
        json_array_append_new(out, as);
    }
}

static json_t *chat_tools(const json_t *tools)
{
    json_t *out = json_array(), *tool;
    size_t i;
    json_array_foreach(tools, i, tool) {
        if (is_space(tool)) add_space(out, tool);
        else if (!is_spare(tool)) json_array_append_new(out, chat_tool(tool));
    }
    return out;
}

static json_t *chat_choice(json_t *choice)
{
    const char *type = json_string_value(json_object_get(choice, "type"));
    if (type && !strcmp(type, "function")) return chat_tool(choice);
    if (!type || strcmp(type, "allowed_tools") || json_object_get(choice, "allowed_tools")) return json_incref(choice);
    return json_pack("{s:s, s:{s:O?, s:o}}", "type", "allowed_tools", "allowed_tools", "mode", json_object_get(choice, "mode"), "tools",
                     chat_tools(json_object_get(choice, "tools")));
}

nm_err nm_openai_read_response_tools(nm_openai_ask *a, const json_t *body)
{
    json_t *tools = NULL, *choice = json_object_get(body, "tool_choice"), *as = json_object();
    nm_err err = nm_field_array(body, "tools", &tools);
    if (!as) return nm_fail_memory(0);
    if (err == NM_OK && tools) err = set_new(as, "tools", chat_tools(tools));
    if (err == NM_OK && choice) err = set_new(as, "tool_choice", chat_choice(choice));
    if (err == NM_OK && json_object_get(body, "parallel_tool_calls")) json_object_set(as, "parallel_tool_calls", json_object_get(body, "parallel_tool_calls"));
    if (err == NM_OK) err = nm_openai_read_tools(a, as);
    json_decref(as);
    return err;
}
