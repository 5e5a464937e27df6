/* Owns the list of tools that a request came with: reading it, finding a function, and writing a part of it as JSON again. */
#include <inttypes.h>
#include <string.h>

#include "base/err.h"
#include "generate/speech.h"

const nm_json *nm_tools_function(const nm_json *tool)
{
    const nm_json *function = nm_json_get(tool, "function");
    return function && function->kind == NM_JSON_OBJECT ? function : tool;
}

nm_err nm_tools_read(nm_json *out, const char *tools)
{
    *out = (nm_json){0};
    if (!tools) return NM_OK;
    nm_err err = nm_json_parse(out, tools, strlen(tools));
    if (err != NM_OK) return nm_fail_in(err, "tools");
    bool good = out->kind == NM_JSON_ARRAY;
    for (size_t i = 0; good && i < out->array.count; i++) {
        const nm_json *name = nm_json_get(nm_tools_function(&out->array.items[i]), "name");
        good = name && name->kind == NM_JSON_STRING && name->string.length && name->string.length < NM_SPEECH_NAME;
    }
    if (good) return NM_OK;
    nm_json_free(out);
    return nm_fail(NM_USAGE, "tools: give an array of {\"type\": \"function\", \"function\": {\"name\": ..., \"parameters\": ...}}, names shorter than %d bytes", NM_SPEECH_NAME);
}

const nm_json *nm_tools_find(const nm_json *tools, const char *name, size_t length)
{
    for (size_t i = 0; tools->kind == NM_JSON_ARRAY && i < tools->array.count; i++) {
        const nm_json *function = nm_tools_function(&tools->array.items[i]), *is = nm_json_get(function, "name");
        if (is->string.length == length && !memcmp(is->string.bytes, name, length)) return function;
    }
    return NULL;
}

static nm_err write_members(nm_str *s, const nm_json *value)
{
    bool array = value->kind == NM_JSON_ARRAY;
    size_t count = array ? value->array.count : value->object.count;
    NM_TRY(nm_str_putc(s, array ? '[' : '{'));
    for (size_t i = 0; i < count; i++) {
        if (i) NM_TRY(nm_str_putc(s, ','));
        if (!array) {
            NM_TRY(nm_str_json(s, value->object.keys[i], strlen(value->object.keys[i])));
            NM_TRY(nm_str_putc(s, ':'));
        }
        NM_TRY(nm_json_write(s, array ? &value->array.items[i] : &value->object.values[i]));
    }
    return nm_str_putc(s, array ? ']' : '}');
}

/* Goes no deeper than nm_json_parse did. */
nm_err nm_json_write(nm_str *s, const nm_json *value)
{
    switch (value->kind) {
    case NM_JSON_NULL: return nm_str_puts(s, "null");
    case NM_JSON_BOOL: return nm_str_puts(s, value->boolean ? "true" : "false");
    case NM_JSON_INT: return nm_str_printf(s, "%" PRId64, value->integer);
    case NM_JSON_WIDE: return nm_str_printf(s, "%" PRIu64, value->wide);
    case NM_JSON_REAL: return nm_str_printf(s, "%.17g", value->real);
    case NM_JSON_STRING: return nm_str_json(s, value->string.bytes, value->string.length);
    default: return write_members(s, value);
    }
}
