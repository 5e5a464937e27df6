/* Stanford Alpaca's {"instruction", "input", "output"}. In a chat the input follows the instruction behind an empty line; the message also keeps both
 * apart, for --format alpaca. */
#include "base/err.h"
#include "base/str.h"
#include "data/shape.h"
#include "data/tree.h"

static nm_err keep_apart(nm_json *message, const nm_json *instruction, const nm_json *input)
{
    NM_TRY(nm_tree_put_text(message, "instruction", instruction->string.bytes, instruction->string.length));
    return nm_tree_put_text(message, "input", input->string.bytes, input->string.length);
}

nm_err nm_shape_alpaca(nm_record *record, nm_json *row, const nm_shape *shape)
{
    const nm_json *instruction, *output, *input = nm_json_get(row, "input");
    NM_TRY(nm_row_text(&instruction, row, shape->need[0]));
    NM_TRY(nm_row_text(&output, row, shape->need[1]));
    if (input && input->kind != NM_JSON_NULL && input->kind != NM_JSON_STRING) return nm_fail(NM_BAD_FILE, "\"input\" is no string");
    bool more = input && input->kind == NM_JSON_STRING && input->string.length;
    nm_str asked = {0};
    nm_err err = nm_str_append(&asked, instruction->string.bytes, instruction->string.length);
    if (err == NM_OK && more) err = nm_str_puts(&asked, "\n\n");
    if (err == NM_OK && more) err = nm_str_append(&asked, input->string.bytes, input->string.length);
    if (err == NM_OK) err = nm_record_say(record, "user", asked.data, asked.length);
    nm_str_free(&asked);
    NM_TRY(err);
    if (more) NM_TRY(keep_apart(&record->messages.array.items[record->messages.array.count - 1], instruction, input));
    return nm_record_say(record, "assistant", output->string.bytes, output->string.length);
}
