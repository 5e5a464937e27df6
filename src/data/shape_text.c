/* {"text": ...}: a text to be continued as it stands, every token of it trained. */
#include "base/err.h"
#include "data/shape.h"
#include "data/tree.h"

nm_err nm_shape_text(nm_record *record, nm_json *row, const nm_shape *shape)
{
    const nm_json *text;
    NM_TRY(nm_row_text(&text, row, shape->need[0]));
    if (record->messages.array.count) return nm_fail(NM_BAD_FILE, "\"system\" beside \"text\": a text has no turns");
    record->text = nm_tree_take(row, shape->need[0]);
    return NM_OK;
}
