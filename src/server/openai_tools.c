/* Tools of a chat: their array, which of them may or must be called, and the old form of both. */
#include <string.h>

#include "base/err.h"
#include "server/fields.h"
#include "server/openai.h"

enum { TOOLS_MOST = 1024 };

/* One function's description: {"name", "description", "parameters"}. */
static nm_err check_function(const json_t *function, const char *list, size_t index)
{
    const char *name = json_string_value(json_object_get(function, "name"));
    const json_t *parameters = json_object_get(function, "parameters"), *about = json_object_get(function, "description");
    if (!name || !*name) return nm_fail(NM_USAGE, "\"%s[%zu]\" has no function with a \"name\"", list, index);
    if (parameters && !json_is_object(parameters) && !json_is_null(parameters))
        return nm_fail(NM_USAGE, "\"%s[%zu]\": \"parameters\" of %s must be an object: a JSON schema", list, index, name);
    if (about && !json_is_string(about) && !json_is_null(about)) return nm_fail(NM_USAGE, "\"%s[%zu]\": \"description\" of %s must be a string", list, index, name);
    return NM_OK;
}

static nm_err check_tools(const json_t *tools)
{
    size_t i;
    json_t *tool;
    json_array_foreach(tools, i, tool) {
        const char *type = json_string_value(json_object_get(tool, "type"));
        if (!type) return nm_fail(NM_USAGE, "\"tools[%zu]\" must be an object with \"type\": \"function\"", i);
        if (strcmp(type, "function")) return nm_fail(NM_USAGE, "\"tools[%zu]\" is of type \"%s\": only functions can be called here", i, type);
        NM_TRY(check_function(json_object_get(tool, "function"), "tools", i));
    }
    return NM_OK;
}

static nm_err wrap_functions(json_t **out, const json_t *functions)
{
    size_t i;
    json_t *function;
    *out = json_array();
    json_array_foreach(functions, i, function) {
        NM_TRY(check_function(function, "functions", i));
        if (json_array_append_new(*out, json_pack("{s:s, s:O}", "type", "function", "function", function))) return nm_fail_memory(0);
    }
    return *out ? NM_OK : nm_fail_memory(0);
}

static bool is_tool(const json_t *tools, const char *name)
{
    size_t i;
    json_t *tool;
    json_array_foreach(tools, i, tool) {
        const char *one = json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
        if (one && !strcmp(one, name)) return true;
    }
    return false;
}

static nm_err choose_named(nm_openai_ask *a, const char *name, const char *member)
{
    if (!name) return nm_fail(NM_USAGE, "\"%s\" must name a function", member);
    if (!is_tool(a->tools, name)) return nm_fail(NM_USAGE, "\"%s\" names \"%s\", which is none of the tools", member, name);
    a->tool_choice = json_pack("{s:s, s:{s:s}}", "type", "function", "function", "name", name);
    return a->tool_choice ? NM_OK : nm_fail_memory(0);
}

/* Of {"type": "allowed_tools", "allowed_tools": {"mode", "tools"}}: the others are not told to the model at all. */
static nm_err choose_allowed(nm_openai_ask *a, const json_t *allowed)
{
    const char *mode = json_string_value(json_object_get(allowed, "mode"));
    const json_t *list = json_object_get(allowed, "tools");
    if (!mode || (strcmp(mode, "auto") && strcmp(mode, "required")) || !json_is_array(list))
        return nm_fail(NM_USAGE, "\"tool_choice.allowed_tools\" must have \"mode\": \"auto\" or \"required\", and \"tools\", an array");
    json_t *kept = json_array(), *tool;
    size_t i;
    json_array_foreach(a->tools, i, tool) {
        const char *name = json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
        if (name && is_tool(list, name)) json_array_append(kept, tool);
    }
    json_decref(a->tools);
    a->tools = kept;
    a->tool_choice = json_string(mode);
    return kept && a->tool_choice ? NM_OK : nm_fail_memory(0);
}

static nm_err choose_object(nm_openai_ask *a, const json_t *choice)
{
    const char *type = json_string_value(json_object_get(choice, "type"));
    if (type && !strcmp(type, "function")) return choose_named(a, json_string_value(json_object_get(json_object_get(choice, "function"), "name")), "tool_choice");
    if (type && !strcmp(type, "allowed_tools")) return choose_allowed(a, json_object_get(choice, "allowed_tools"));
    return nm_fail(NM_USAGE, "\"tool_choice\" must be \"auto\", \"none\", \"required\" or {\"type\": \"function\", \"function\": {\"name\"}}");
}

static nm_err choose(nm_openai_ask *a, json_t *choice)
{
    const char *word = json_string_value(choice);
    if (!choice || json_is_null(choice)) return NM_OK;
    if (word && (!strcmp(word, "auto") || !strcmp(word, "none"))) a->tool_choice = json_incref(choice);
    else if (word && !strcmp(word, "required") && json_array_size(a->tools)) a->tool_choice = json_incref(choice);
    else if (word && !strcmp(word, "required")) return nm_fail(NM_USAGE, "\"tool_choice\" is \"required\", and there are no tools");
    else return choose_object(a, choice);
    return NM_OK;
}

static nm_err choose_old(nm_openai_ask *a, json_t *choice)
{
    const char *word = json_string_value(choice);
    if (!choice || json_is_null(choice)) return NM_OK;
    if (!word) return choose_named(a, json_string_value(json_object_get(choice, "name")), "function_call");
    if (strcmp(word, "auto") && strcmp(word, "none")) return nm_fail(NM_USAGE, "\"function_call\" must be \"auto\", \"none\" or {\"name\": a function}");
    a->tool_choice = json_incref(choice);
    return NM_OK;
}

static nm_err read_old(nm_openai_ask *a, const json_t *body, const json_t *functions)
{
    NM_TRY(wrap_functions(&a->tools, functions));
    NM_TRY(choose_old(a, json_object_get(body, "function_call")));
    a->functions = true;
    a->ask.one_call = true;     /* the old form has room for one */
    return NM_OK;
}

nm_err nm_openai_read_tools(nm_openai_ask *a, const json_t *body)
{
    json_t *tools = NULL, *functions = NULL;
    bool parallel = true;
    NM_TRY(nm_field_array(body, "tools", &tools));
    NM_TRY(nm_field_array(body, "functions", &functions));
    NM_TRY(nm_field_bool(body, "parallel_tool_calls", &parallel));
    if (json_array_size(tools) + json_array_size(functions) > TOOLS_MOST) return nm_fail(NM_USAGE, "\"tools\" has more than %d functions", TOOLS_MOST);
    a->ask.one_call = !parallel;
    if (functions && !tools) NM_TRY(read_old(a, body, functions));
    if (tools) NM_TRY(check_tools(tools));
    if (tools) a->tools = json_incref(tools);
    if (!a->functions) NM_TRY(choose(a, json_object_get(body, "tool_choice")));
    if (json_array_size(a->tools)) a->ask.tools = a->tools;
    if (json_array_size(a->tools)) a->ask.tool_choice = a->tool_choice;
    return NM_OK;
}
