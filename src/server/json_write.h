/* Owns writing JSON piece by piece into one string: commas and quotes come by themselves, and the first failure is kept until it is asked for. Refuses to read. */
#ifndef NM_SERVER_JSON_WRITE_H
#define NM_SERVER_JSON_WRITE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/str.h"

typedef struct nm_json_out {    /* all zero = empty */
    nm_str text;
    nm_err err;                 /* of the first write that failed; later ones do nothing */
    bool comma;                 /* the next value needs one in front */
} nm_json_out;

void nm_json_free_out(nm_json_out *o);
void nm_json_clear(nm_json_out *o);         /* empty again; the memory stays */
/* key NULL: an element of an array, or the value by itself. */
void nm_json_begin_object(nm_json_out *o, const char *key);
void nm_json_end_object(nm_json_out *o);
void nm_json_begin_array(nm_json_out *o, const char *key);
void nm_json_end_array(nm_json_out *o);
void nm_json_text(nm_json_out *o, const char *key, const char *text);       /* NULL is null */
void nm_json_bytes(nm_json_out *o, const char *key, const char *bytes, size_t length);      /* a string; what is not UTF-8 becomes U+FFFD */
void nm_json_int(nm_json_out *o, const char *key, int64_t value);
void nm_json_real(nm_json_out *o, const char *key, double value);           /* what is not finite is null */
void nm_json_float(nm_json_out *o, const char *key, float value);           /* as few digits as give the float back */
void nm_json_bool(nm_json_out *o, const char *key, bool value);
void nm_json_null(nm_json_out *o, const char *key);
void nm_json_value(nm_json_out *o, const char *key, const json_t *value);   /* NULL is null */
/* JSON that is written already, e.g. by another nm_json_out; the members of an object without its braces are written so, too (key NULL). "" writes nothing. */
void nm_json_raw(nm_json_out *o, const char *key, const char *json, size_t length);

#endif
