/* Writing JSON piece by piece. */
#include "server/json_write.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

static void put(nm_json_out *o, const char *bytes, size_t length)
{
    if (o->err == NM_OK) o->err = nm_str_append(&o->text, bytes, length);
}

static void put_string(nm_json_out *o, const char *bytes, size_t length)
{
    if (o->err == NM_OK) o->err = nm_str_json(&o->text, bytes, length);
}

/* What stands in front of a value. */
static void lead(nm_json_out *o, const char *key)
{
    if (o->comma) put(o, ",", 1);
    o->comma = true;
    if (!key) return;
    put_string(o, key, strlen(key));
    put(o, ":", 1);
}

static void open_with(nm_json_out *o, const char *key, const char *bracket)
{
    lead(o, key);
    put(o, bracket, 1);
    o->comma = false;
}

static void close_with(nm_json_out *o, const char *bracket)
{
    put(o, bracket, 1);
    o->comma = true;
}

void nm_json_free_out(nm_json_out *o)
{
    nm_str_free(&o->text);
    *o = (nm_json_out){0};
}

void nm_json_clear(nm_json_out *o)
{
    o->text.length = 0;
    o->err = NM_OK;
    o->comma = false;
}

void nm_json_begin_object(nm_json_out *o, const char *key) { open_with(o, key, "{"); }
void nm_json_end_object(nm_json_out *o) { close_with(o, "}"); }
void nm_json_begin_array(nm_json_out *o, const char *key) { open_with(o, key, "["); }
void nm_json_end_array(nm_json_out *o) { close_with(o, "]"); }

void nm_json_bytes(nm_json_out *o, const char *key, const char *bytes, size_t length)
{
    lead(o, key);
    put_string(o, bytes, length);
}

void nm_json_text(nm_json_out *o, const char *key, const char *text)
{
    if (text) nm_json_bytes(o, key, text, strlen(text));
    else nm_json_null(o, key);
}

static void word(nm_json_out *o, const char *key, const char *text)
{
    lead(o, key);
    put(o, text, strlen(text));
}

void nm_json_int(nm_json_out *o, const char *key, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    word(o, key, text);
}

/* %g writes 1 for 1.0, which is a whole number to a strict reader of JSON: a point is put behind it. */
static void number(nm_json_out *o, const char *key, double value, int digits)
{
    char text[48];
    if (!isfinite(value)) {
        nm_json_null(o, key);
        return;
    }
    snprintf(text, sizeof text - 2, "%.*g", digits, value);
    if (!strpbrk(text, ".e")) memcpy(text + strlen(text), ".0", 3);
    word(o, key, text);
}

void nm_json_real(nm_json_out *o, const char *key, double value)
{
    char text[48];
    int digits = 15;
    for (; digits < 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    number(o, key, value, digits);
}

void nm_json_float(nm_json_out *o, const char *key, float value)
{
    char text[48];
    int digits = 6;
    for (; digits < 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) break;
    }
    number(o, key, (double)value, digits);
}

void nm_json_bool(nm_json_out *o, const char *key, bool value) { word(o, key, value ? "true" : "false"); }
void nm_json_null(nm_json_out *o, const char *key) { word(o, key, "null"); }

static int take(const char *bytes, size_t length, void *arg)
{
    nm_json_out *o = arg;
    put(o, bytes, length);
    return o->err == NM_OK ? 0 : -1;
}

void nm_json_value(nm_json_out *o, const char *key, const json_t *value)
{
    if (!value) {
        nm_json_null(o, key);
        return;
    }
    lead(o, key);
    if (json_dump_callback(value, take, o, JSON_COMPACT | JSON_ENCODE_ANY) && o->err == NM_OK) o->err = nm_fail_memory(0);
}

void nm_json_raw(nm_json_out *o, const char *key, const char *json, size_t length)
{
    if (!length) return;
    lead(o, key);
    put(o, json, length);
}
