/* JSON trees made by hand. */
#include "data/tree.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"

nm_err nm_tree_object(nm_json *out)
{
    *out = (nm_json){.kind = NM_JSON_OBJECT};
    return NM_OK;
}

nm_err nm_tree_array(nm_json *out)
{
    *out = (nm_json){.kind = NM_JSON_ARRAY};
    return NM_OK;
}

nm_err nm_tree_text(nm_json *out, const char *text, size_t length)
{
    char *bytes = nm_strndup(text, length);
    *out = (nm_json){0};
    if (!bytes) return nm_fail_memory(length);
    *out = (nm_json){.kind = NM_JSON_STRING, .string = {bytes, length}};
    return NM_OK;
}

/* One more place for a member; exact, as objects are small. */
static nm_err grow_object(nm_json *object)
{
    size_t n = object->object.count + 1;
    char **keys = nm_realloc_array(object->object.keys, n, sizeof *keys);
    if (!keys) return nm_fail_memory(n * sizeof *keys);
    object->object.keys = keys;
    nm_json *values = nm_realloc_array(object->object.values, n, sizeof *values);
    if (!values) return nm_fail_memory(n * sizeof *values);
    object->object.values = values;
    return NM_OK;
}

nm_err nm_tree_put(nm_json *object, const char *key, nm_json value)
{
    char *name = nm_strndup(key, strlen(key));
    nm_err err = name ? grow_object(object) : nm_fail_memory(strlen(key));
    if (err != NM_OK) {
        nm_free(name);
        nm_json_free(&value);
        return err;
    }
    object->object.keys[object->object.count] = name;
    object->object.values[object->object.count++] = value;
    return NM_OK;
}

nm_err nm_tree_put_text(nm_json *object, const char *key, const char *text, size_t length)
{
    nm_json value;
    NM_TRY(nm_tree_text(&value, text, length));
    return nm_tree_put(object, key, value);
}

nm_err nm_tree_push(nm_json *array, nm_json value)
{
    size_t n = array->array.count;
    if (!(n & (n - 1))) {       /* full at 0 and at each power of two */
        size_t room = n ? 2 * n : 1;
        nm_json *items = nm_realloc_array(array->array.items, room, sizeof *items);
        if (!items) {
            nm_json_free(&value);
            return nm_fail_memory(room * sizeof *items);
        }
        array->array.items = items;
    }
    array->array.items[array->array.count++] = value;
    return NM_OK;
}

nm_json nm_tree_take(nm_json *object, const char *key)
{
    nm_json *at = (nm_json *)nm_json_get(object, key), value = {0};
    if (!at) return value;
    value = *at;
    *at = (nm_json){0};
    return value;
}

const nm_json *nm_tree_string(const nm_json *object, const char *key)
{
    const nm_json *value = nm_json_get(object, key);
    return value && value->kind == NM_JSON_STRING ? value : NULL;
}
