/* Owns the GGUF file: versions 2 and 3, little endian, mapped or in memory, whole or split. Checks every length, count and
 * offset with overflow-checked arithmetic before it is used. Refuses big-endian files and version 1 by name. Knows nothing of models:
 * it gives keys and tensors. */
#ifndef NM_FORMAT_GGUF_H
#define NM_FORMAT_GGUF_H

#include "nomoat.h"
#include "quant/quant.h"

typedef struct nm_gguf nm_gguf;

typedef struct nm_gguf_value {          /* one key */
    const char *key;                    /* zero-terminated copy */
    nm_meta_type type, item;            /* item: of an array */
    uint64_t count;                     /* elements of an array; 1 for a scalar */
    const void *data;                   /* scalar or packed array in the file (unaligned); for strings see nm_gguf_string */
    const uint64_t *string_at;          /* string arrays: byte offset of each string's length field within the file, or NULL */
} nm_gguf_value;

typedef struct nm_gguf_tensor {
    const char *name;                   /* zero-terminated copy */
    const nm_type *type;
    int rank;
    int64_t dim[4];                     /* dim[0] contiguous; unused ones are 1 */
    const void *data;                   /* in the map; NULL when only metadata was asked for and the file ends early */
    uint64_t bytes, offset;             /* offset from the file's start */
    int file;                           /* which part of a split */
} nm_gguf_tensor;

/* Opens path (first of a split: the others are found beside it, and keys are those of the first). metadata_only: tensor data may be
 * absent and is not checked against the file's end; parts of a split that are not there are left out, and the first opens from memory. */
nm_err nm_gguf_open(nm_gguf **out, const char *path, bool metadata_only);
nm_err nm_gguf_open_memory(nm_gguf **out, const void *data, size_t size, const char *name, bool metadata_only);
void nm_gguf_close(nm_gguf **gguf);

const char *nm_gguf_name(const nm_gguf *gguf);                          /* for messages */
uint64_t nm_gguf_file_bytes(const nm_gguf *gguf);                       /* all parts */
size_t nm_gguf_value_count(const nm_gguf *gguf);
const nm_gguf_value *nm_gguf_value_at(const nm_gguf *gguf, size_t index);
const nm_gguf_value *nm_gguf_find(const nm_gguf *gguf, const char *key);  /* NULL if absent; O(log n), sorted */
size_t nm_gguf_tensor_count(const nm_gguf *gguf);
const nm_gguf_tensor *nm_gguf_tensor_at(const nm_gguf *gguf, size_t index);
const nm_gguf_tensor *nm_gguf_tensor_find(const nm_gguf *gguf, const char *name);   /* NULL if absent; O(log n), sorted */
size_t nm_gguf_tensor_index(const nm_gguf *gguf, const nm_gguf_tensor *tensor);       /* its place in nm_gguf_tensor_at */
/* Lets go of the resident pages of a tensor's rows that have been packed. */
void nm_gguf_forget(const nm_gguf *gguf, const void *from, size_t bytes);
void nm_gguf_forget_all(const nm_gguf *gguf);
/* Tells this file's content from any other's on this machine without reading it all: for each part NM_GGUF_IDENTITY words, which are what the system says of it
 * (device, inode, size, times of change), a hash of all that stands before its tensors' data, and one of samples of these. *words is allocated
 * (nm_free). *count is 0 for a file in memory, and where a part has changed just now and may yet change without that showing. */
enum { NM_GGUF_IDENTITY = 7 };
nm_err nm_gguf_identity(const nm_gguf *gguf, uint64_t **words, size_t *count);

/* Typed access. _get_: the key must be there and be of a fitting type, else NM_BAD_FILE naming file, key, got and expected.
 * _opt_: the same, but absence leaves *out as it is. Integers accept every integer width that holds the value. */
nm_err nm_gguf_get_i64(const nm_gguf *g, const char *key, int64_t least, int64_t most, int64_t *out);
nm_err nm_gguf_opt_i64(const nm_gguf *g, const char *key, int64_t least, int64_t most, int64_t *out);
nm_err nm_gguf_get_f32(const nm_gguf *g, const char *key, float *out);      /* finite, or refused */
nm_err nm_gguf_opt_f32(const nm_gguf *g, const char *key, float *out);
nm_err nm_gguf_opt_bool(const nm_gguf *g, const char *key, bool *out);
/* Strings are not zero-terminated. */
nm_err nm_gguf_get_string(const nm_gguf *g, const char *key, const char **text, size_t *length);
nm_err nm_gguf_opt_string(const nm_gguf *g, const char *key, const char **text, size_t *length);
/* An array of `item` type (NM_META_STRING too); *value stays NULL if absent. */
nm_err nm_gguf_opt_array(const nm_gguf *g, const char *key, nm_meta_type item, const nm_gguf_value **value);
/* Element access, index < count, already validated. */
const char *nm_gguf_string(const nm_gguf *g, const nm_gguf_value *v, uint64_t index, size_t *length);
int64_t nm_gguf_int(const nm_gguf_value *v, uint64_t index);            /* integer and bool types */
double nm_gguf_number(const nm_gguf_value *v, uint64_t index);          /* any numeric type */

#endif
