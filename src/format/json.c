/* Reads JSON through jansson into our own tree. Refuses duplicate keys, keys with zero bytes, integers below -2^63 or beyond 2^64 - 1, nesting
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

/* jansson's integers are signed. Larger ones are looked for in the text beforehand, and a 0 is put in their place: the tree has its numbers in
 * the order of the text, so that counting them tells which are meant. */
typedef struct wide { uint64_t value; size_t number; } wide;
typedef struct reader {
    char *text;         /* the copy with zeros, or NULL if there are no such numbers */
    wide *wide;
    size_t count, capacity;
    size_t number, next;    /* while copying: numbers seen, and place in wide */
} reader;

static bool in_number(char c) { return (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E'; }

/* From 2^63 to 2^64 - 1, in digits alone and without a zero in front. */
static bool is_wide(const char *digits, size_t n, uint64_t *value)
{
    *value = 0;
    if (n < 19 || n > 20 || digits[0] == '0') return false;
    for (size_t i = 0; i < n; i++) {
        if (digits[i] < '0' || digits[i] > '9') return false;
        if (__builtin_mul_overflow(*value, 10, value) || __builtin_add_overflow(*value, (uint64_t)(digits[i] - '0'), value)) return false;
    }
    return *value > INT64_MAX;
}

static nm_err set_aside(reader *r, const char *text, size_t length, size_t at, size_t n, uint64_t value)
{
    NM_TRY(NM_GROW(r->wide, r->capacity, r->count + 1));
    if (!r->text && !(r->text = nm_strndup(text, length))) return nm_fail_memory(length);
    r->wide[r->count++] = (wide){value, r->number};
    memset(r->text + at, ' ', n);
    r->text[at] = '0';
    return NM_OK;
}

static nm_err find_wide(reader *r, const char *text, size_t length)
{
    bool quoted = false;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (quoted && c == '\\') i++;
        else if (c == '"') quoted = !quoted;
        if (quoted || !(c == '-' || (c >= '0' && c <= '9'))) continue;
        size_t n = 1;
        uint64_t value;
        while (i + n < length && in_number(text[i + n])) n++;
        if (is_wide(text + i, n, &value)) NM_TRY(set_aside(r, text, length, i, n, value));
        r->number++;
        i += n - 1;
    }
    r->number = 0;
    return NM_OK;
}

static nm_err copy_value(reader *r, nm_json *out, json_t *from);

static void copy_number(reader *r, nm_json *out, const json_t *from)
{
    if (r->next < r->count && r->wide[r->next].number == r->number) {
        out->kind = NM_JSON_WIDE;
        out->wide = r->wide[r->next++].value;
    } else if (json_is_integer(from)) {
        out->kind = NM_JSON_INT;
        out->integer = json_integer_value(from);
    } else {
        out->kind = NM_JSON_REAL;
        out->real = json_real_value(from);
    }
    r->number++;
}

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

static nm_err copy_array(reader *r, nm_json *out, const json_t *from)
{
    size_t count = json_array_size(from);
    nm_json *items = nm_calloc(count, sizeof *items);
    if (!items) return nm_fail_memory(count * sizeof *items);
    out->kind = NM_JSON_ARRAY;
    out->array.items = items;
    out->array.count = count;
    for (size_t i = 0; i < count; i++) NM_TRY(copy_value(r, &items[i], json_array_get(from, i)));
    return NM_OK;
}

static nm_err copy_object(reader *r, nm_json *out, json_t *from)
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
        NM_TRY(copy_value(r, &out->object.values[i++], value));
    }
    return NM_OK;
}

/* On failure what was copied so far hangs in *out, for nm_json_free. */
static nm_err copy_value(reader *r, nm_json *out, json_t *from)
{
    switch (json_typeof(from)) {
    case JSON_OBJECT: return copy_object(r, out, from);
    case JSON_ARRAY: return copy_array(r, out, from);
    case JSON_STRING: return copy_string(out, from);
    case JSON_INTEGER: case JSON_REAL: copy_number(r, out, from); break;
    case JSON_TRUE: case JSON_FALSE: out->kind = NM_JSON_BOOL; out->boolean = json_is_true(from); break;
    case JSON_NULL: out->kind = NM_JSON_NULL; break;
    }
    return NM_OK;
}

static nm_err read_tree(reader *r, nm_json *out, const char *text, size_t length)
{
    json_error_t fault;
    json_t *tree = json_loadb(r->text ? r->text : text, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &fault);
    if (!tree) {
        if (json_error_code(&fault) == json_error_out_of_memory) return nm_fail_memory(length);
        return nm_fail(NM_USAGE, "bad JSON: line %d, column %d: %s", fault.line < 0 ? 1 : fault.line, fault.column < 0 ? 0 : fault.column, fault.text);
    }
    nm_err err = copy_value(r, out, tree);
    json_decref(tree);
    if (err != NM_OK) nm_json_free(out);
    return err;
}

nm_err nm_json_parse(nm_json *out, const char *text, size_t length)
{
    reader r = {0};
    *out = (nm_json){0};
    NM_TRY(check_shape(text, length));
    nm_err err = find_wide(&r, text, length);
    if (err == NM_OK) err = read_tree(&r, out, text, length);
    nm_free(r.text);
    nm_free(r.wide);
    return err;
}
