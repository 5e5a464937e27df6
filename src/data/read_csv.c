/* CSV by RFC 4180: a header, then a row per record; fields in quotes may hold commas, line breaks and doubled quotes. Every value is a string. */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "data/reader.h"
#include "data/tree.h"

/* The rest of a field in quotes, behind the first. */
static nm_err quoted_field(nm_reader *reader)
{
    for (;;) {
        int c = nm_stream_next(reader->stream);
        if (c < 0) return nm_reader_break(reader, "the file ends within quotes");
        if (c == '"') {
            if (nm_stream_peek(reader->stream) != '"') return NM_OK;
            nm_stream_next(reader->stream);
        }
        NM_TRY(nm_reader_put(reader, (char)c));
    }
}

/* Ends a line: "\r\n" is one. */
static bool ends_record(nm_reader *reader, int c)
{
    if (c == '\r' && nm_stream_peek(reader->stream) == '\n') nm_stream_next(reader->stream);
    return c < 0 || c == '\n' || c == '\r';
}

/* Appends one field to reader->text; *last: it ends the record. */
static nm_err field(nm_reader *reader, bool *last)
{
    int c = nm_stream_peek(reader->stream);
    bool quoted = c == '"';
    if (quoted) {
        nm_stream_next(reader->stream);
        NM_TRY(quoted_field(reader));
    }
    while ((c = nm_stream_next(reader->stream)) != ',' && !ends_record(reader, c)) {
        if (quoted || c == '"') return nm_reader_break(reader, "a quote within a field: put the field in quotes and double those within");
        NM_TRY(nm_reader_put(reader, (char)c));
    }
    *last = c != ',';
    return NM_OK;
}

static nm_err skip_record(nm_reader *reader)
{
    for (bool last = false; !last;) {
        reader->text.length = 0;
        NM_TRY(field(reader, &last));
    }
    return NM_OK;
}

static nm_err add_column(nm_reader *reader)
{
    const char *name = reader->text.length ? reader->text.data : "";
    if (!*name) return nm_reader_break(reader, "column %zu of the header has no name", reader->n_columns + 1);
    for (size_t i = 0; i < reader->n_columns; i++)
        if (!strcmp(reader->columns[i], name)) return nm_reader_break(reader, "the header names column '%.80s' twice", name);
    NM_TRY(NM_GROW(reader->columns, reader->columns_capacity, reader->n_columns + 1));
    if (!(reader->columns[reader->n_columns] = nm_strndup(name, reader->text.length))) return nm_fail_memory(reader->text.length);
    reader->n_columns++;
    return NM_OK;
}

static nm_err header(nm_reader *reader)
{
    reader->begun = true;
    reader->line = nm_stream_line(reader->stream);
    if (nm_stream_peek(reader->stream) < 0) return nm_reader_break(reader, "the file is empty: the first line names the columns");
    for (bool last = false; !last;) {
        reader->text.length = 0;
        NM_TRY(field(reader, &last));
        NM_TRY(add_column(reader));
    }
    return NM_OK;
}

static nm_err record(nm_reader *reader, nm_json *row)
{
    bool last = false;
    size_t begin = 0, i = 0;
    NM_TRY(nm_tree_object(row));
    for (; !last && i < reader->n_columns; i++, begin = reader->text.length) {     /* all fields in one text: the bound is the row's */
        NM_TRY(field(reader, &last));
        const char *text = reader->text.data ? reader->text.data + begin : "";
        NM_TRY(nm_tree_put_text(row, reader->columns[i], text, reader->text.length - begin));
    }
    if (last && i == reader->n_columns) return nm_reader_check(reader);
    if (!last) NM_TRY(skip_record(reader));
    return nm_reader_fail(reader, "%s fields than the %zu columns of the header", last ? "fewer" : "more", reader->n_columns);
}

nm_err nm_read_csv(nm_reader *reader, nm_json *row, bool *end)
{
    if (!reader->begun) NM_TRY(header(reader));
    while (nm_stream_peek(reader->stream) == '\n' || nm_stream_peek(reader->stream) == '\r') nm_stream_next(reader->stream);
    *end = nm_stream_peek(reader->stream) < 0;
    if (*end) return NM_OK;
    reader->line = nm_stream_line(reader->stream);
    reader->text.length = 0;
    return record(reader, row);
}
