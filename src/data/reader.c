/* Which format a file has, and what the formats share. */
#include "data/reader.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/err.h"
#include "base/mem.h"

enum { JSON, JSONL, CSV, TEXT };

static const nm_reader_format formats[] = {
    [JSON] = {"JSON", ".json", nm_read_json},
    [JSONL] = {"JSON Lines", ".jsonl .ndjson", nm_read_jsonl},
    [CSV] = {"CSV", ".csv", nm_read_csv},
    [TEXT] = {"text", ".txt .md", nm_read_text},
};

/* Length without ".gz". */
static size_t bare_length(const char *name)
{
    size_t n = strlen(name);
    return n > 3 && !strcasecmp(name + n - 3, ".gz") ? n - 3 : n;
}

static const nm_reader_format *by_name(const char *name)
{
    size_t length = bare_length(name);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        for (const char *e = formats[i].endings; *e;) {
            size_t n = strcspn(e, " ");
            if (length > n && !strncasecmp(name + length - n, e, n)) return &formats[i];
            e += n + strspn(e + n, " ");
        }
    }
    return NULL;
}

/* Is what stands before `end` no whole object? Then it is not a line of JSON Lines. */
static bool goes_on(const char *line, const char *end)
{
    while (end > line && strchr(" \t\r", end[-1])) end--;
    return end[-1] != '}' || end - line < 2;
}

/* A JSON file may in truth be JSON Lines (many are); a file without an ending may be anything. What is no "[" and no {"data": [ is lines. */
static const nm_reader_format *by_bytes(nm_stream *stream, const nm_reader_format *named)
{
    const char *s;
    size_t n = nm_stream_ahead(stream, &s), i = 0;
    while (i < n && strchr(" \t\r\n", s[i])) i++;
    if (i < n && s[i] == '[') return &formats[JSON];
    if (i == n || s[i] != '{') return named ? named : &formats[TEXT];
    const char *data = memmem(s + i, n - i, "\"data\"", 6), *line = memchr(s + i, '\n', n - i);
    if (!data || (line && line < data)) return line && goes_on(s + i, line) ? &formats[JSON] : &formats[JSONL];
    for (i = (size_t)(data - s) + 6; i < n && strchr(" \t\r\n:", s[i]); i++) {}
    return i < n && s[i] == '[' ? &formats[JSON] : &formats[JSONL];
}

bool nm_reader_knows(const char *name) { return by_name(name) != NULL; }

void nm_reader_init(nm_reader *reader, nm_stream *stream)
{
    const nm_reader_format *named = by_name(nm_stream_name(stream));
    *reader = (nm_reader){.stream = stream, .format = named};
    if (!named || named == &formats[JSON]) reader->format = by_bytes(stream, named);
}

void nm_reader_free(nm_reader *reader)
{
    for (size_t i = 0; i < reader->n_columns; i++) nm_free(reader->columns[i]);
    nm_free(reader->columns);
    nm_str_free(&reader->text);
    *reader = (nm_reader){0};
}

nm_err nm_reader_next(nm_reader *reader, nm_json *row, bool *end)
{
    *row = (nm_json){0};
    *end = false;
    reader->text.length = 0;
    nm_err err = reader->format->next(reader, row, end);
    nm_err fault = nm_stream_fault(reader->stream);
    if (fault != NM_OK) {       /* of the file: what looks like a bad row is only its consequence */
        reader->broken = true;
        err = fault;
    }
    if (err != NM_OK && err != NM_BAD_FILE) reader->broken = true;
    if (err != NM_OK) nm_json_free(row);
    return err;
}

static nm_err fail_v(nm_reader *reader, const char *format, va_list ap)
{
    char what[512];
    vsnprintf(what, sizeof what, format, ap);
    return nm_fail(NM_BAD_FILE, "%s:%llu: %s", nm_stream_name(reader->stream), (unsigned long long)reader->line, what);
}

nm_err nm_reader_fail(nm_reader *reader, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    nm_err err = fail_v(reader, format, ap);
    va_end(ap);
    return err;
}

nm_err nm_reader_break(nm_reader *reader, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    nm_err err = fail_v(reader, format, ap);
    va_end(ap);
    reader->broken = true;
    return err;
}

nm_err nm_reader_put(nm_reader *reader, char c)
{
    if (reader->text.length >= NM_ROW_MOST)
        return nm_reader_break(reader, "a row of more than %d bytes: split it", NM_ROW_MOST);
    return nm_str_putc(&reader->text, c);
}

/* Of memory for a byte of text: a list of one-digit numbers becomes most, two bytes each, and while it grows it lies there twice. */
enum { TREE_BYTES = sizeof(nm_json) };

nm_err nm_reader_check(const nm_reader *reader)
{
    if (!reader->memory || reader->text.length <= reader->memory / TREE_BYTES) return NM_OK;
    return nm_fail(NM_NO_MEMORY, "%s:%llu: a row of %zu bytes may take more memory than the %.2f MB that are left for the data: split it, or allow more memory",
        nm_stream_name(reader->stream), (unsigned long long)reader->line, reader->text.length, (double)reader->memory * 1e-6);
}

nm_err nm_reader_parse(nm_reader *reader, nm_json *row)
{
    NM_TRY(nm_reader_check(reader));
    nm_err err = nm_json_parse(row, reader->text.data, reader->text.length);
    if (err == NM_USAGE) return nm_reader_fail(reader, "%s", nm_error_text());
    if (err != NM_OK) return err;
    return row->kind == NM_JSON_OBJECT ? NM_OK : nm_reader_fail(reader, "the row is no JSON object: begin it with {");
}

int nm_reader_skip_space(nm_reader *reader)
{
    int c;
    while ((c = nm_stream_peek(reader->stream)) >= 0 && strchr(" \t\r\n", c)) nm_stream_next(reader->stream);
    return c;
}
