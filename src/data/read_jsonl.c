/* JSON Lines: an object a line. A bad line costs itself alone. */
#include "base/err.h"
#include "data/reader.h"

static nm_err read_line(nm_reader *reader)
{
    for (int c; (c = nm_stream_next(reader->stream)) >= 0 && c != '\n';) NM_TRY(nm_reader_put(reader, (char)c));
    return NM_OK;
}

nm_err nm_read_jsonl(nm_reader *reader, nm_json *row, bool *end)
{
    *end = nm_reader_skip_space(reader) < 0;
    if (*end) return NM_OK;
    reader->line = nm_stream_line(reader->stream);
    NM_TRY(read_line(reader));
    return nm_reader_parse(reader, row);
}
