/* Typed access to the keys of a GGUF file. Refuses a value of another type or out of range, naming file, place, key, got and expected. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "format/gguf_file.h"

static const char *const type_names[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};

static uint64_t place_of(const nm_gguf *g, const nm_gguf_value *v) { return (uint64_t)((const uint8_t *)v->data - g->parts[0].data); }

static nm_err wrong_type(const nm_gguf *g, const nm_gguf_value *v, const char *expected)
{
    bool array = v->type == NM_META_ARRAY;
    return nm_gguf_bad(g, place_of(g, v), NM_GGUF_KEY " is %s%s, expected %s; the file must be made again",
        v->key, array ? "an array of " : "of type ", type_names[v->item], expected);
}

static nm_err missing(const nm_gguf *g, const char *key)
{
    return nm_fail(NM_BAD_FILE, "%s: " NM_GGUF_KEY " is missing; the file must be made again", g->name, key);
}

/* ---- Elements ------------------------------------------------------------------------------------------------------- */

#define ELEMENT(type, v, index) ({ type e_; memcpy(&e_, (const uint8_t *)(v)->data + (index) * sizeof e_, sizeof e_); e_; })

int64_t nm_gguf_int(const nm_gguf_value *v, uint64_t index)
{
    switch (v->item) {
    case NM_META_BOOL:
    case NM_META_U8: return ELEMENT(uint8_t, v, index);
    case NM_META_I8: return ELEMENT(int8_t, v, index);
    case NM_META_U16: return ELEMENT(uint16_t, v, index);
    case NM_META_I16: return ELEMENT(int16_t, v, index);
    case NM_META_U32: return ELEMENT(uint32_t, v, index);
    case NM_META_I32: return ELEMENT(int32_t, v, index);
    case NM_META_U64:
    case NM_META_I64: return ELEMENT(int64_t, v, index);
    default: return 0;
    }
}

double nm_gguf_number(const nm_gguf_value *v, uint64_t index)
{
    switch (v->item) {
    case NM_META_F32: return ELEMENT(float, v, index);
    case NM_META_F64: return ELEMENT(double, v, index);
    case NM_META_U64: return (double)ELEMENT(uint64_t, v, index);
    case NM_META_STRING:
    case NM_META_ARRAY: return NAN;
    default: return (double)nm_gguf_int(v, index);
    }
}

const char *nm_gguf_string(const nm_gguf *g, const nm_gguf_value *v, uint64_t index, size_t *length)
{
    const uint8_t *at = v->string_at ? g->parts[0].data + v->string_at[index] : v->data;
    uint64_t bytes;
    memcpy(&bytes, at, sizeof bytes);
    *length = (size_t)bytes;
    return (const char *)at + sizeof bytes;
}

/* ---- Keys ----------------------------------------------------------------------------------------------------------- */

static bool is_integer(const nm_gguf_value *v)
{
    return v->type <= NM_META_I32 || v->type == NM_META_U64 || v->type == NM_META_I64;
}

nm_err nm_gguf_opt_i64(const nm_gguf *g, const char *key, int64_t least, int64_t most, int64_t *out)
{
    const nm_gguf_value *v = nm_gguf_find(g, key);
    if (!v) return NM_OK;
    if (!is_integer(v)) return wrong_type(g, v, "an integer");
    int64_t value = nm_gguf_int(v, 0);
    if (v->type == NM_META_U64 && value < 0)
        return nm_gguf_bad(g, place_of(g, v), NM_GGUF_KEY " is %llu, expected at most %lld" NM_GGUF_DAMAGED,
            key, (unsigned long long)value, (long long)most);
    if (value < least || value > most)
        return nm_gguf_bad(g, place_of(g, v), NM_GGUF_KEY " is %lld, expected %lld to %lld" NM_GGUF_DAMAGED,
            key, (long long)value, (long long)least, (long long)most);
    *out = value;
    return NM_OK;
}

nm_err nm_gguf_opt_f32(const nm_gguf *g, const char *key, float *out)
{
    const nm_gguf_value *v = nm_gguf_find(g, key);
    if (!v) return NM_OK;
    if (v->type != NM_META_F32 && v->type != NM_META_F64) return wrong_type(g, v, "f32");
    float value = (float)nm_gguf_number(v, 0);
    if (!isfinite(value)) return nm_gguf_bad(g, place_of(g, v),
        NM_GGUF_KEY " is %g, expected a finite number" NM_GGUF_DAMAGED, key, (double)value);
    *out = value;
    return NM_OK;
}

nm_err nm_gguf_opt_bool(const nm_gguf *g, const char *key, bool *out)
{
    const nm_gguf_value *v = nm_gguf_find(g, key);
    if (!v) return NM_OK;
    if (v->type != NM_META_BOOL) return wrong_type(g, v, "bool");
    *out = nm_gguf_int(v, 0) != 0;
    return NM_OK;
}

nm_err nm_gguf_opt_string(const nm_gguf *g, const char *key, const char **text, size_t *length)
{
    const nm_gguf_value *v = nm_gguf_find(g, key);
    if (!v) return NM_OK;
    if (v->type != NM_META_STRING) return wrong_type(g, v, "string");
    *text = nm_gguf_string(g, v, 0, length);
    return NM_OK;
}

nm_err nm_gguf_opt_array(const nm_gguf *g, const char *key, nm_meta_type item, const nm_gguf_value **value)
{
    const nm_gguf_value *v = nm_gguf_find(g, key);
    *value = NULL;
    if (!v) return NM_OK;
    if (v->type != NM_META_ARRAY || v->item != item) {
        char expected[32];
        snprintf(expected, sizeof expected, "an array of %s", type_names[item]);
        return wrong_type(g, v, expected);
    }
    *value = v;
    return NM_OK;
}

nm_err nm_gguf_get_i64(const nm_gguf *g, const char *key, int64_t least, int64_t most, int64_t *out)
{
    return nm_gguf_find(g, key) ? nm_gguf_opt_i64(g, key, least, most, out) : missing(g, key);
}

nm_err nm_gguf_get_f32(const nm_gguf *g, const char *key, float *out)
{
    return nm_gguf_find(g, key) ? nm_gguf_opt_f32(g, key, out) : missing(g, key);
}

nm_err nm_gguf_get_string(const nm_gguf *g, const char *key, const char **text, size_t *length)
{
    return nm_gguf_find(g, key) ? nm_gguf_opt_string(g, key, text, length) : missing(g, key);
}
