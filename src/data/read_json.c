/* One JSON text: [row, row ...] or {"data": [row, row ...]}. Rows are cut out by counting brackets, so that the file is never in memory as a
 * whole and a bad row costs itself alone as long as its brackets and quotes are right. */
#include <string.h>

#include "base/err.h"
#include "data/reader.h"

/* Takes one value, whatever it is: up to the comma, bracket or brace that ends it. keep: into reader->text. */
static nm_err take_value(nm_reader *reader, bool keep)
{
    size_t depth = 0;
    bool quoted = false;
    for (int c; (c = nm_stream_peek(reader->stream)) >= 0;) {
        if (!quoted && !depth && (c == ',' || c == ']' || c == '}')) return NM_OK;
        nm_stream_next(reader->stream);
        if (keep) NM_TRY(nm_reader_put(reader, (char)c));
        if (quoted && c == '\\') {
            c = nm_stream_next(reader->stream);
            if (c >= 0 && keep) NM_TRY(nm_reader_put(reader, (char)c));
        } else if (c == '"') {
            quoted = !quoted;
        } else if (!quoted) {
            depth += c == '[' || c == '{';
            depth -= c == ']' || c == '}';
        }
    }
    return nm_reader_break(reader, "the file ends within a value: it is cut");
}

static nm_err take_key(nm_reader *reader)
{
    int c = nm_reader_skip_space(reader);
    if (c != '"') return nm_reader_break(reader, "a key in quotes belongs here");
    nm_stream_next(reader->stream);
    while ((c = nm_stream_next(reader->stream)) >= 0 && c != '"') NM_TRY(nm_reader_put(reader, (char)c));
    if (nm_reader_skip_space(reader) != ':') return nm_reader_break(reader, "':' belongs behind a key");
    nm_stream_next(reader->stream);
    return NM_OK;
}

/* Goes to the first row of {"data": [...]}, over other keys. */
static nm_err find_data(nm_reader *reader)
{
    for (nm_stream_next(reader->stream);; nm_stream_next(reader->stream)) {
        reader->text.length = 0;
        reader->line = nm_stream_line(reader->stream);
        NM_TRY(take_key(reader));
        bool found = reader->text.length == 4 && !memcmp(reader->text.data, "data", 4);
        int c = nm_reader_skip_space(reader);
        if (found && c == '[') {
            nm_stream_next(reader->stream);
            reader->text.length = 0;
            return NM_OK;
        }
        NM_TRY(take_value(reader, false));
        if (nm_stream_peek(reader->stream) != ',')
            return nm_reader_break(reader, "the object has no \"data\": [...]: give an array of rows, or a row a line as .jsonl");
    }
}

static nm_err begin(nm_reader *reader)
{
    int c = nm_reader_skip_space(reader);
    reader->begun = true;
    reader->line = nm_stream_line(reader->stream);
    if (c == '{') return find_data(reader);
    if (c != '[') return nm_reader_break(reader, c < 0 ? "the file is empty" : "no JSON: begin it with [ or {");
    nm_stream_next(reader->stream);
    return NM_OK;
}

/* Behind a row: a comma, or the end of the array. */
static nm_err end_row(nm_reader *reader)
{
    int c = nm_stream_peek(reader->stream);
    if (c == '}') return nm_reader_break(reader, "'}' where ',' or ']' belongs");
    if (c != ',') return NM_OK;
    nm_stream_next(reader->stream);
    if (nm_reader_skip_space(reader) != ']') return NM_OK;
    reader->line = nm_stream_line(reader->stream);
    return nm_reader_break(reader, "a comma before ]: take it away");
}

nm_err nm_read_json(nm_reader *reader, nm_json *row, bool *end)
{
    if (!reader->begun) NM_TRY(begin(reader));
    int c = nm_reader_skip_space(reader);
    *end = c == ']';
    if (*end) return NM_OK;
    reader->line = nm_stream_line(reader->stream);
    NM_TRY(take_value(reader, true));
    NM_TRY(end_row(reader));
    return nm_reader_parse(reader, row);
}
