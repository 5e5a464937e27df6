/* Members of a request's JSON, with their types checked. */
#include "server/fields.h"

#include <stdio.h>

#include "base/err.h"
#include "base/mem.h"

enum { VALUES_MOST = 1 << 20 };     /* a value takes up to 250 bytes of memory, and may be written in three */

/* Values that a text has, if it is JSON, or a few more. */
static size_t count_values(const char *text, size_t length)
{
    size_t n = 1;
    bool quoted = false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '"') quoted = !quoted;
        else if (!quoted) n += text[i] == ',' || text[i] == '[' || text[i] == '{';
        else if (text[i] == '\\') i++;
    }
    return n;
}

json_t *nm_json_read(const char *text, size_t length, json_error_t *e)
{
    if (count_values(text, length) <= VALUES_MOST) return json_loadb(text, length, JSON_REJECT_DUPLICATES, e);
    *e = (json_error_t){.line = 1, .column = 1};
    snprintf(e->text, sizeof e->text, "more than %d values: send fewer at a time", VALUES_MOST);
    return NULL;
}

static nm_err read_body(json_t **out, const char *body, size_t length, json_type type)
{
    json_error_t e;
    *out = nm_json_read(body, length, &e);
    if (!*out) return nm_fail(NM_USAGE, "the body is no JSON: line %d, column %d: %s", e.line, e.column, e.text);
    if (json_typeof(*out) == type) return NM_OK;
    json_decref(*out);
    *out = NULL;
    return nm_fail(NM_USAGE, "the body is no JSON %s", type == JSON_OBJECT ? "object: begin it with {" : "array: begin it with [");
}

nm_err nm_body_object(json_t **out, const char *body, size_t length) { return read_body(out, body, length, JSON_OBJECT); }
nm_err nm_body_array(json_t **out, const char *body, size_t length) { return read_body(out, body, length, JSON_ARRAY); }

/* The member, or NULL where it is absent or null. */
static json_t *member(const json_t *object, const char *name)
{
    json_t *v = json_object_get(object, name);
    return json_is_null(v) ? NULL : v;
}

nm_err nm_field_text(const json_t *object, const char *name, const char **out)
{
    const json_t *v = member(object, name);
    if (v && !json_is_string(v)) return nm_fail(NM_USAGE, "\"%s\" must be a string", name);
    if (v) *out = json_string_value(v);
    return NM_OK;
}

nm_err nm_field_bool(const json_t *object, const char *name, bool *out)
{
    const json_t *v = member(object, name);
    if (v && !json_is_boolean(v)) return nm_fail(NM_USAGE, "\"%s\" must be true or false", name);
    if (v) *out = json_is_true(v);
    return NM_OK;
}

nm_err nm_field_real(const json_t *object, const char *name, double least, double most, double *out)
{
    const json_t *v = member(object, name);
    if (!v) return NM_OK;
    if (!json_is_number(v)) return nm_fail(NM_USAGE, "\"%s\" must be a number", name);
    double value = json_number_value(v);
    if (!(value >= least && value <= most)) return nm_fail(NM_USAGE, "\"%s\" is %g: give %g to %g", name, value, least, most);
    *out = value;
    return NM_OK;
}

nm_err nm_field_int(const json_t *object, const char *name, int64_t least, int64_t most, int64_t *out)
{
    const json_t *v = member(object, name);
    if (!v) return NM_OK;
    double real = json_is_real(v) ? json_real_value(v) : 0.5;
    bool whole = json_is_integer(v) || (real > -9e18 && real < 9e18 && real == (double)(int64_t)real);
    if (!whole) return nm_fail(NM_USAGE, "\"%s\" must be a whole number", name);
    int64_t value = json_is_integer(v) ? (int64_t)json_integer_value(v) : (int64_t)real;
    if (value < least || value > most) return nm_fail(NM_USAGE, "\"%s\" is %lld: give %lld to %lld", name, (long long)value, (long long)least, (long long)most);
    *out = value;
    return NM_OK;
}

nm_err nm_field_int32(const json_t *object, const char *name, int32_t least, int32_t most, int32_t *out)
{
    int64_t value = *out;
    NM_TRY(nm_field_int(object, name, least, most, &value));
    *out = (int32_t)value;
    return NM_OK;
}

nm_err nm_field_array(const json_t *object, const char *name, json_t **out)
{
    json_t *v = member(object, name);
    if (v && !json_is_array(v)) return nm_fail(NM_USAGE, "\"%s\" must be an array", name);
    if (v) *out = v;
    return NM_OK;
}

nm_err nm_field_object(const json_t *object, const char *name, json_t **out)
{
    json_t *v = member(object, name);
    if (v && !json_is_object(v)) return nm_fail(NM_USAGE, "\"%s\" must be an object", name);
    if (v) *out = v;
    return NM_OK;
}

nm_err nm_field_texts(const json_t *object, const char *name, size_t most, const char ***list, size_t *count)
{
    const json_t *v = member(object, name);
    size_t n = !v ? 0 : json_is_array(v) ? json_array_size(v) : 1;
    *list = NULL;
    *count = 0;
    if (!n) return NM_OK;
    if (n > most) return nm_fail(NM_USAGE, "\"%s\" has %zu strings: give at most %zu", name, n, most);
    *list = nm_calloc(n, sizeof **list);
    if (!*list) return nm_fail_memory(n * sizeof **list);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_string(item)) {
            nm_free(*list);
            *list = NULL;
            return nm_fail(NM_USAGE, "\"%s\" must be a string or an array of strings", name);
        }
        (*list)[i] = json_string_value(item);
    }
    *count = n;
    return NM_OK;
}
