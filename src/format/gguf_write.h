/* Owns writing GGUF files, version 3: keys first, then the records of tensors, then their data in the same order. A file comes to be whole or
 * not at all. Refuses data that is not as long as its record says. */
#ifndef NM_FORMAT_GGUF_WRITE_H
#define NM_FORMAT_GGUF_WRITE_H

#include "base/str.h"
#include "format/gguf.h"
#include "os/file.h"

typedef struct nm_gguf_writer {     /* all zero = nothing yet */
    nm_str keys, tensors;
    uint64_t n_keys, n_tensors;
    uint64_t promised, written;     /* bytes of data by the records; by nm_gguf_write_data */
    nm_new_file file;
} nm_gguf_writer;

nm_err nm_gguf_write_string(nm_gguf_writer *w, const char *key, const char *text);
nm_err nm_gguf_write_u32(nm_gguf_writer *w, const char *key, uint32_t value);
nm_err nm_gguf_write_f32(nm_gguf_writer *w, const char *key, float value);
/* A key of another file, as it is. */
nm_err nm_gguf_write_copy(nm_gguf_writer *w, const nm_gguf *from, const nm_gguf_value *value);
/* The record of the next tensor; dim[0] is the contiguous one. */
nm_err nm_gguf_write_tensor(nm_gguf_writer *w, const char *name, const nm_type *type, int rank, const int64_t *dim);
/* After all records: opens the file and writes everything before the data. */
nm_err nm_gguf_write_begin(nm_gguf_writer *w, const char *path);
/* Part of the data, in order; `last` ends a tensor (and pads it). */
nm_err nm_gguf_write_data(nm_gguf_writer *w, const void *data, size_t bytes, bool last);
nm_err nm_gguf_write_commit(nm_gguf_writer *w);
/* Releases everything; without a commit nothing is left behind. */
void nm_gguf_write_end(nm_gguf_writer *w);

#endif
