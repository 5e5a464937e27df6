/* The table of shapes, and names of columns. */
#include "data/shape.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "data/tree.h"

static const nm_shape shapes[] = {
    {"messages", {"messages"}, nm_shape_messages},
    {"conversations", {"conversations"}, nm_shape_messages},
    {"instruction/input/output", {"instruction", "output"}, nm_shape_alpaca},
    {"prompt/completion", {"prompt", "completion"}, nm_shape_pair},
    {"prompt/response", {"prompt", "response"}, nm_shape_pair},
    {"question/answer", {"question", "answer"}, nm_shape_pair},
    {"text", {"text"}, nm_shape_text},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes, N_NEED = 2 };

static bool fits(const nm_shape *shape, const nm_json *row)
{
    for (size_t i = 0; i < N_NEED && shape->need[i]; i++) {
        const nm_json *value = nm_json_get(row, shape->need[i]);
        if (!value || value->kind == NM_JSON_NULL) return false;
    }
    return true;
}

static nm_err list_keys(nm_str *s, const nm_json *row)
{
    for (size_t i = 0; i < row->object.count && s->length < 200; i++)
        NM_TRY(nm_str_printf(s, "%s%.40s", i ? ", " : "", row->object.keys[i]));
    return nm_str_append(s, "", 0);
}

static nm_err no_shape(const nm_json *row)
{
    nm_str keys = {0}, known = {0};
    nm_err err = list_keys(&keys, row);
    for (size_t i = 0; err == NM_OK && i < N_SHAPES; i++) err = nm_str_printf(&known, "%s%s", i ? " | " : "", shapes[i].name);
    if (err == NM_OK) err = nm_fail(NM_BAD_FILE, "no known shape (%s): the row has %s; name its columns by --map instruction=A,output=B", known.data,
                                    keys.length ? keys.data : "nothing");
    nm_str_free(&keys);
    nm_str_free(&known);
    return err;
}

/* ---- Names of columns ------------------------------------------------------------------------------------------------------------ */

static nm_err add_name(nm_map *map, char *item)
{
    char *equals = strchr(item, '=');
    if (!equals || equals == item || !equals[1]) return nm_fail(NM_USAGE, "--map: '%s' is no NAME=COLUMN: write instruction=q,output=a", item);
    *equals = 0;
    NM_TRY(NM_GROW(map->names, map->names_capacity, map->count + 1));
    NM_TRY(NM_GROW(map->columns, map->columns_capacity, map->count + 1));
    map->names[map->count] = item;
    map->columns[map->count++] = equals + 1;
    return NM_OK;
}

nm_err nm_map_parse(nm_map *map, const char *text)
{
    *map = (nm_map){0};
    if (!text) return NM_OK;
    if (!(map->text = nm_strndup(text, strlen(text)))) return nm_fail_memory(strlen(text));
    nm_err err = NM_OK;
    for (char *item = map->text, *next; item && err == NM_OK; item = next) {
        if ((next = strchr(item, ','))) *next++ = 0;
        err = add_name(map, item);
    }
    if (err != NM_OK) nm_map_free(map);
    return err;
}

void nm_map_free(nm_map *map)
{
    nm_free(map->text);
    nm_free(map->names);
    nm_free(map->columns);
    *map = (nm_map){0};
}

static char **key_of(nm_json *row, const char *name)
{
    for (size_t i = 0; i < row->object.count; i++)
        if (!strcmp(row->object.keys[i], name)) return &row->object.keys[i];
    return NULL;
}

/* Columns that have the name already swap it for the other's. */
static nm_err rename_column(nm_json *row, const char *name, const char *column)
{
    char **from = key_of(row, column), **to = key_of(row, name);
    if (!from) return nm_fail(NM_BAD_FILE, "no column '%s', which --map calls %s", column, name);
    if (to) {
        char *other = *to;
        *to = *from;
        *from = other;
        return NM_OK;
    }
    char *copy = nm_strndup(name, strlen(name));
    if (!copy) return nm_fail_memory(strlen(name));
    nm_free(*from);
    *from = copy;
    return NM_OK;
}

/* ---- Reading --------------------------------------------------------------------------------------------------------------------- */

nm_err nm_record_say(nm_record *record, const char *role, const char *text, size_t length)
{
    nm_json message;
    NM_TRY(nm_tree_object(&message));
    nm_err err = nm_tree_put_text(&message, "role", role, strlen(role));
    if (err == NM_OK) err = nm_tree_put_text(&message, "content", text, length);
    if (err == NM_OK) return nm_tree_push(&record->messages, message);
    nm_json_free(&message);
    return err;
}

nm_err nm_row_text(const nm_json **out, const nm_json *row, const char *key)
{
    *out = nm_tree_string(row, key);
    if (!*out) return nm_fail(NM_BAD_FILE, "\"%s\" is no string", key);
    return (*out)->string.length ? NM_OK : nm_fail(NM_BAD_FILE, "\"%s\" is empty", key);
}

/* "system" and "tools" stand beside any shape; tools may be JSON within a string, as tables have them. */
static nm_err read_common(nm_record *record, nm_json *row)
{
    const nm_json *system = nm_tree_string(row, "system");
    if (system && system->string.length) NM_TRY(nm_record_say(record, "system", system->string.bytes, system->string.length));
    record->tools = nm_tree_take(row, "tools");
    if (record->tools.kind != NM_JSON_STRING) return NM_OK;
    nm_json text = record->tools;
    record->tools = (nm_json){0};
    nm_err err = text.string.length ? nm_json_parse(&record->tools, text.string.bytes, text.string.length) : NM_OK;
    nm_json_free(&text);
    return err == NM_USAGE ? nm_fail(NM_BAD_FILE, "\"tools\": %s", nm_error_text()) : err;
}

static nm_err read_row(nm_record *record, nm_json *row, const nm_map *map)
{
    for (size_t i = 0; i < map->count; i++) NM_TRY(rename_column(row, map->names[i], map->columns[i]));
    const nm_shape *shape = shapes;
    while (shape < shapes + N_SHAPES && !fits(shape, row)) shape++;
    if (shape == shapes + N_SHAPES) return no_shape(row);
    NM_TRY(read_common(record, row));
    return shape->read(record, row, shape);
}

nm_err nm_record_read(nm_record *record, nm_json *row, const nm_map *map)
{
    *record = (nm_record){0};
    NM_TRY(nm_tree_array(&record->messages));
    nm_err err = read_row(record, row, map);
    if (err != NM_OK) nm_record_free(record);
    return err;
}

void nm_record_free(nm_record *record)
{
    nm_json_free(&record->messages);
    nm_json_free(&record->tools);
    nm_json_free(&record->text);
}
