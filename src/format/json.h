/* Owns JSON in and out of the library as one kind of tree, and the dynamic values that templates compute with. Parsing is done by
 * jansson (duplicate keys rejected, depth capped). Writing is ours. */
#ifndef NM_FORMAT_JSON_H
#define NM_FORMAT_JSON_H

#include "nomoat.h"
#include "base/str.h"

typedef enum nm_json_kind {
    NM_JSON_NULL, NM_JSON_BOOL, NM_JSON_INT,
    NM_JSON_WIDE,       /* an integer from 2^63 to 2^64 - 1 */
    NM_JSON_REAL, NM_JSON_STRING, NM_JSON_ARRAY, NM_JSON_OBJECT
} nm_json_kind;
typedef struct nm_json {
    nm_json_kind kind;
    union {
        bool boolean;
        int64_t integer;
        uint64_t wide;
        double real;
        struct { char *bytes; size_t length; } string;              /* zero-terminated; may hold zeros */
        struct { struct nm_json *items; size_t count; } array;
        struct { char **keys; struct nm_json *values; size_t count; } object;   /* in the order of the text */
    };
} nm_json;

/* Parses one JSON text (nothing may follow but white space). NM_USAGE with line and column for a syntax error, a duplicate key, depth > 512. */
nm_err nm_json_parse(nm_json *out, const char *text, size_t length);
void nm_json_free(nm_json *value);
const nm_json *nm_json_get(const nm_json *object, const char *key);      /* NULL if absent or not an object */

#endif
