/* Owns pieces of JSON as they are appended to a text: numbers, and members of an object. */
#ifndef NM_FORMAT_JSON_TEXT_H
#define NM_FORMAT_JSON_TEXT_H

#include "base/str.h"
#include "nomoat.h"

/* A number as JSON: shortest of 9 (floats) or 17 digits; null for NaN and infinities. */
nm_err nm_json_single(nm_str *s, double value);
nm_err nm_json_double(nm_str *s, double value);
nm_err nm_json_ids(nm_str *s, const int32_t *ids, size_t count);
/* "key": "value" with a comma and a space before it where the object has members already. */
nm_err nm_json_key(nm_str *s, const char *key);
nm_err nm_json_string(nm_str *s, const char *key, const char *value);
nm_err nm_json_whole(nm_str *s, const char *key, uint64_t value);

#endif
