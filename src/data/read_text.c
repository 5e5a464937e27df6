/* Plain text: the whole file is one text. A long one comes as several rows, cut at an empty line, else at a line's end, else between characters. */
#include <string.h>

#include "base/err.h"
#include "data/reader.h"
#include "data/tree.h"

/* May a piece end before the next byte c? The longer it is, the less is asked. */
static bool may_cut(const nm_str *text, int c)
{
    size_t n = text->length;
    if (n < NM_TEXT_PIECE || (c & 0xc0) == 0x80) return false;
    if (n >= 2 * (size_t)NM_TEXT_PIECE) return true;
    if (n >= NM_TEXT_PIECE + NM_TEXT_PIECE / 2) return text->data[n - 1] == '\n';
    return text->data[n - 1] == '\n' && text->data[n - 2] == '\n';
}

nm_err nm_read_text(nm_reader *reader, nm_json *row, bool *end)
{
    int c;
    bool seen = false;
    reader->plain = true;
    reader->line = nm_stream_line(reader->stream);
    while ((c = nm_stream_peek(reader->stream)) >= 0 && !may_cut(&reader->text, c)) {
        if (!strchr(" \t\r\n", c)) seen = true;
        NM_TRY(nm_reader_put(reader, (char)nm_stream_next(reader->stream)));
    }
    reader->continues = c >= 0;
    *end = !seen && c < 0;      /* nothing, or nothing but white space behind the last piece */
    if (*end) return NM_OK;
    NM_TRY(nm_tree_object(row));
    return nm_tree_put_text(row, "text", reader->text.data, reader->text.length);
}
