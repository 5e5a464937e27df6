/* Owns the file formats: JSON, JSON Lines, CSV and plain text as a stream of rows, each a JSON object. Adding a format is a file with one function
 * and a line in the table of reader.c. Refuses rows above NM_ROW_MOST bytes; holds one row at a time. */
#ifndef NM_DATA_READER_H
#define NM_DATA_READER_H

#include "base/str.h"
#include "data/stream.h"
#include "format/json.h"

enum {
    NM_ROW_MOST = 16 << 20,     /* bytes of one row: a book is about 1 MB */
    NM_TEXT_PIECE = 1 << 20     /* a longer plain text becomes several rows of about this size */
};

typedef struct nm_reader nm_reader;
typedef struct nm_reader_format {
    const char *name;
    const char *endings;        /* of file names, separated by spaces: ".jsonl .ndjson" */
    /* The next row into *row (the caller frees it), or *end. An error is of this row (NM_BAD_FILE: the next call may go on behind it) unless
     * reader->broken says that nothing more can be read. */
    nm_err (*next)(nm_reader *reader, nm_json *row, bool *end);
} nm_reader_format;

struct nm_reader {
    const nm_reader_format *format;
    nm_stream *stream;          /* not owned */
    uint64_t line;              /* where the last row begins */
    bool broken;
    bool plain;                 /* rows are plain text, in which special tokens are text */
    bool continues;             /* the last row's text goes on in the next one */
    bool begun;
    uint64_t memory;            /* bytes at most that a row may take until it is stored; 0 = any number */
    nm_str text;                /* of the row */
    char **columns;             /* CSV */
    size_t n_columns, columns_capacity;
};

/* The format by the name's ending (".gz" apart), else by the first bytes. */
void nm_reader_init(nm_reader *reader, nm_stream *stream);
void nm_reader_free(nm_reader *reader);
nm_err nm_reader_next(nm_reader *reader, nm_json *row, bool *end);
/* True if the name ends like one of the formats: what a folder is searched for. */
bool nm_reader_knows(const char *name);

/* For formats: a fault of the row that begins at reader->line, "FILE:LINE: ...". */
nm_err nm_reader_fail(nm_reader *reader, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same, after which nothing more can be read. */
nm_err nm_reader_break(nm_reader *reader, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Appends to reader->text; a fault beyond NM_ROW_MOST. */
nm_err nm_reader_put(nm_reader *reader, char c);
/* NM_NO_MEMORY where what becomes of the text, as a tree and as tokens, may be more than `memory`. */
nm_err nm_reader_check(const nm_reader *reader);
/* Parses reader->text as an object. */
nm_err nm_reader_parse(nm_reader *reader, nm_json *row);
/* Skips white space; the byte that comes next, or -1. */
int nm_reader_skip_space(nm_reader *reader);

nm_err nm_read_json(nm_reader *reader, nm_json *row, bool *end);
nm_err nm_read_jsonl(nm_reader *reader, nm_json *row, bool *end);
nm_err nm_read_csv(nm_reader *reader, nm_json *row, bool *end);
nm_err nm_read_text(nm_reader *reader, nm_json *row, bool *end);

#endif
