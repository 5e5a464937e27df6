/* Owns the making of JSON trees in memory: what shapes turn rows into, and what templates are given. */
#ifndef NM_DATA_TREE_H
#define NM_DATA_TREE_H

#include "format/json.h"

nm_err nm_tree_object(nm_json *out);        /* {} */
nm_err nm_tree_array(nm_json *out);         /* []; nm_tree_push takes no other, as their room is unknown */
nm_err nm_tree_text(nm_json *out, const char *text, size_t length);
/* Adds a member, which must not be there yet. value is taken, also when it fails. */
nm_err nm_tree_put(nm_json *object, const char *key, nm_json value);
nm_err nm_tree_put_text(nm_json *object, const char *key, const char *text, size_t length);
/* value is taken, also when it fails. */
nm_err nm_tree_push(nm_json *array, nm_json value);
/* Takes a member out of an object and leaves null in its place; null if there is none. */
nm_json nm_tree_take(nm_json *object, const char *key);
/* The member if it is a string, else NULL. */
const nm_json *nm_tree_string(const nm_json *object, const char *key);
static inline bool nm_tree_is_text(const nm_json *value, const char *text)
{
    return value && value->kind == NM_JSON_STRING && !__builtin_strcmp(value->string.bytes, text);
}

#endif
