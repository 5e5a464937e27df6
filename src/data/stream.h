/* Owns a file of training data as a stream of bytes: a file, standard input or memory, packed by gzip or not, a few kilobytes at a time.
 * Refuses what is no text (Parquet, by its magic and with the command that converts it; zero bytes) and a packed file that is cut. */
#ifndef NM_DATA_STREAM_H
#define NM_DATA_STREAM_H

#include "base/str.h"
#include "nomoat.h"

typedef struct nm_stream nm_stream;

/* "-" is standard input. A byte order mark of UTF-8 is skipped. */
nm_err nm_stream_open(nm_stream **out, const char *path);
/* The bytes stay the caller's. */
nm_err nm_stream_open_memory(nm_stream **out, const void *data, size_t size, const char *name);
void nm_stream_close(nm_stream **stream);

const char *nm_stream_name(const nm_stream *s);     /* for messages; "standard input" for "-" */
uint64_t nm_stream_line(const nm_stream *s);        /* of the next byte, from 1 */
/* The next byte, or -1 at the end or after a fault, which nm_stream_fault tells. */
int nm_stream_next(nm_stream *s);
int nm_stream_peek(nm_stream *s);
nm_err nm_stream_fault(const nm_stream *s);         /* NM_OK, or the fault with its message recorded again */
/* Up to `most` bytes that come next, without taking them: for a look at what kind of file this is. Valid until the next call. */
size_t nm_stream_ahead(nm_stream *s, const char **bytes);

#endif
