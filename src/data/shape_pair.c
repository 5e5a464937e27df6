/* A question and its answer under two keys: {"prompt", "completion"} and its relatives. Each may also be a list of messages, as TRL has them. */
#include "base/err.h"
#include "data/shape.h"
#include "data/tree.h"

static nm_err read_side(nm_record *record, nm_json *row, const char *key, const char *role)
{
    const nm_json *text;
    const nm_json *value = nm_json_get(row, key);
    if (value->kind == NM_JSON_ARRAY) return nm_shape_messages(record, row, &(nm_shape){.need = {key}});
    NM_TRY(nm_row_text(&text, row, key));
    return nm_record_say(record, role, text->string.bytes, text->string.length);
}

nm_err nm_shape_pair(nm_record *record, nm_json *row, const nm_shape *shape)
{
    NM_TRY(read_side(record, row, shape->need[0], "user"));
    return read_side(record, row, shape->need[1], "assistant");
}
