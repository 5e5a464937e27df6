/* Owns reading members of a request's JSON: each function checks the type, and its NM_USAGE names the member and what it should be. An absent member or null leaves *out alone. */
#ifndef NM_SERVER_FIELDS_H
#define NM_SERVER_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "nomoat.h"

/* The value that a client's text is: duplicate members refused, depth and number of values capped. NULL: what is wrong is in *error. */
json_t *nm_json_read(const char *text, size_t length, json_error_t *error);
/* A body that must be one JSON object, or array, read so. *out is the caller's (json_decref). */
nm_err nm_body_object(json_t **out, const char *body, size_t length);
nm_err nm_body_array(json_t **out, const char *body, size_t length);
nm_err nm_field_text(const json_t *object, const char *name, const char **out);            /* borrowed from the object */
nm_err nm_field_bool(const json_t *object, const char *name, bool *out);
nm_err nm_field_real(const json_t *object, const char *name, double least, double most, double *out);
nm_err nm_field_int(const json_t *object, const char *name, int64_t least, int64_t most, int64_t *out);
nm_err nm_field_int32(const json_t *object, const char *name, int32_t least, int32_t most, int32_t *out);
nm_err nm_field_array(const json_t *object, const char *name, json_t **out);               /* borrowed */
nm_err nm_field_object(const json_t *object, const char *name, json_t **out);              /* borrowed */
/* A string or an array of at most `most` strings, as "stop" has it. *list: nm_free; the strings are borrowed. */
nm_err nm_field_texts(const json_t *object, const char *name, size_t most, const char ***list, size_t *count);

#endif
