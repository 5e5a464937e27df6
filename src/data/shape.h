/* Owns the shapes of rows: how a JSON object becomes a conversation, or a text to be continued. A shape is a line in the table of shape.c: the keys that
 * make a row one of it, and the function that reads it. Refuses rows that fit none, naming their keys. */
#ifndef NM_DATA_SHAPE_H
#define NM_DATA_SHAPE_H

#include "format/json.h"

/* What every row becomes. messages: objects with "role", and "content" and whatever else the row had ("reasoning_content", "tool_calls", "weight" ...). */
typedef struct nm_record {
    nm_json messages;       /* an array; empty for a text */
    nm_json tools;          /* an array, or null */
    nm_json text;           /* a string, or null: a conversation */
} nm_record;

typedef struct nm_shape nm_shape;
struct nm_shape {
    const char *name;       /* as messages and help write it */
    const char *need[2];    /* keys that must be there and not null */
    nm_err (*read)(nm_record *record, nm_json *row, const nm_shape *shape);     /* may take values out of the row */
};

nm_err nm_shape_messages(nm_record *record, nm_json *row, const nm_shape *shape);
nm_err nm_shape_alpaca(nm_record *record, nm_json *row, const nm_shape *shape);
nm_err nm_shape_pair(nm_record *record, nm_json *row, const nm_shape *shape);
nm_err nm_shape_text(nm_record *record, nm_json *row, const nm_shape *shape);

/* Other names of columns: "instruction=q,output=a" calls column q "instruction". */
typedef struct nm_map { char *text; const char **names, **columns; size_t count, names_capacity, columns_capacity; } nm_map;
nm_err nm_map_parse(nm_map *map, const char *text);     /* NULL: none. NM_USAGE for what has another form */
void nm_map_free(nm_map *map);

/* Reads a row, whatever its shape. Faults are NM_BAD_FILE with the reason alone: the caller knows file and line. */
nm_err nm_record_read(nm_record *record, nm_json *row, const nm_map *map);
void nm_record_free(nm_record *record);

/* For shapes: appends {"role", "content"}. */
nm_err nm_record_say(nm_record *record, const char *role, const char *text, size_t length);
/* The string at a key, not empty. */
nm_err nm_row_text(const nm_json **out, const nm_json *row, const char *key);

#endif
