/* Reads JSON through jansson into our own tree. Refuses duplicate keys, keys with zero bytes, integers beyond 64 bits, nesting
 * deeper than 512 and anything behind the value. jansson's tree lives only inside nm_json_parse. */
#include "format/json.h"

#include <jansson.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"

enum { JSON_DEPTH = 512 };

void nm_json_free(nm_json *value)
{
    switch (value->kind) {
    case NM_JSON_STRING:
        nm_free(value->string.bytes);
        break;
    case NM_JSON_ARRAY:
        for (size_t i = 0; i < value->array.count; i++) nm_json_free(&value->array.items[i]);
        nm_free(value->array.items);
        break;
    case NM_JSON_OBJECT:
        for (size_t i = 0; i < value->object.count; i++) {
            nm_free(value->object.keys[i]);
            nm_json_free(&value->object.values[i]);
        }
        nm_free(value->object.keys);
        nm_free(value->object.values);
        break;
    default:
        break;
    }
    *value = (nm_json){0};
}

const nm_json *nm_json_get(const nm_json *object, const char *key)
{
    if (!object || object->kind != NM_JSON_OBJECT) return NULL;
    for (size_t i = 0; i < object->object.count; i++)
        if (!strcmp(object->object.keys[i], key)) return &object->object.values[i];
    return NULL;
}

/* jansson recurses to a depth of its own: ours is found before it, with the place. It also takes a zero byte for the end. */
static nm_err check_shape(const char *text, size_t length)
{
    size_t depth = 0, line = 1, start = 0;
    bool quoted = false;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\') i++;
            else if (c == '"') quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '\n') {
            line++;
            start = i + 1;
        } else if (c == '[' || c == '{') {
            if (++depth > JSON_DEPTH)
                return nm_fail(NM_USAGE, "bad JSON: line %zu, column %zu: nested deeper than %d; use fewer levels", line, i - start + 1, JSON_DEPTH);
        } else if ((c == ']' || c == '}') && depth) {
            depth--;
        } else if (!c) {
            return nm_fail(NM_USAGE, "bad JSON: line %zu, column %zu: a zero byte", line, i - start + 1);
        }
    }
    return NM_OK;
}

static nm_err copy_value(nm_json *out, json_t *from);

static nm_err copy_string(nm_json *out, const json_t *from)
{
    size_t length = json_string_length(from);
    char *bytes = nm_strndup(json_string_value(from), length);
    if (!bytes) return nm_fail_memory(length + 1);
    out->kind = NM_JSON_STRING;
    out->string.bytes = bytes;
    out->string.length = length;
    return NM_OK;
}

static nm_err copy_array(nm_json *out, const json_t *from)
{
    size_t count = json_array_size(from);
    nm_json *items = nm_calloc(count, sizeof *items);
    if (!items) return nm_fail_memory(count * sizeof *items);
    out->kind = NM_JSON_ARRAY;
    out->array.items = items;
    out->array.count = count;
    for (size_t i = 0; i < count; i++) NM_TRY(copy_value(&items[i], json_array_get(from, i)));
    return NM_OK;
}

static nm_err copy_object(nm_json *out, json_t *from)
{
    size_t count = json_object_size(from), i = 0;
    out->kind = NM_JSON_OBJECT;
    out->object.count = 0;
    out->object.keys = nm_calloc(count, sizeof *out->object.keys);
    out->object.values = nm_calloc(count, sizeof *out->object.values);
    if (!out->object.keys || !out->object.values) return nm_fail_memory(count * sizeof *out->object.values);
    out->object.count = count;      /* what is not yet filled is NULL and null */
    const char *key;
    json_t *value;
    json_object_foreach(from, key, value) {
        if (!(out->object.keys[i] = nm_strndup(key, strlen(key)))) return nm_fail_memory(strlen(key) + 1);
        NM_TRY(copy_value(&out->object.values[i++], value));
    }
    return NM_OK;
}

/* On failure what was copied so far hangs in *out, for nm_json_free. */
static nm_err copy_value(nm_json *out, json_t *from)
{
    switch (json_typeof(from)) {
    case JSON_OBJECT: return copy_object(out, from);
    case JSON_ARRAY: return copy_array(out, from);
    case JSON_STRING: return copy_string(out, from);
    case JSON_INTEGER: out->kind = NM_JSON_INT; out->integer = json_integer_value(from); break;
    case JSON_REAL: out->kind = NM_JSON_REAL; out->real = json_real_value(from); break;
    case JSON_TRUE: case JSON_FALSE: out->kind = NM_JSON_BOOL; out->boolean = json_is_true(from); break;
    case JSON_NULL: out->kind = NM_JSON_NULL; break;
    }
    return NM_OK;
}

nm_err nm_json_parse(nm_json *out, const char *text, size_t length)
{
    *out = (nm_json){0};
    NM_TRY(check_shape(text, length));
    json_error_t fault;
    json_t *tree = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &fault);
    if (!tree) {
        if (json_error_code(&fault) == json_error_out_of_memory) return nm_fail_memory(length);
        return nm_fail(NM_USAGE, "bad JSON: line %d, column %d: %s", fault.line < 0 ? 1 : fault.line, fault.column < 0 ? 0 : fault.column, fault.text);
    }
    nm_err err = copy_value(out, tree);
    json_decref(tree);
    if (err != NM_OK) nm_json_free(out);
    return err;
}
