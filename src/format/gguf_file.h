/* Owns what an open GGUF file is made of, for the gguf*.c files alone. */
#ifndef NM_FORMAT_GGUF_FILE_H
#define NM_FORMAT_GGUF_FILE_H

#include "format/gguf.h"
#include "os/map.h"

typedef struct nm_gguf_part {           /* one file of a split, or the only one */
    nm_map map;                         /* all zero for a file in memory */
    const uint8_t *data;
    uint64_t size;
} nm_gguf_part;

typedef struct nm_gguf_key { nm_gguf_value value; uint64_t at; } nm_gguf_key;           /* at: byte offset of its record, for messages */
typedef struct nm_gguf_record { nm_gguf_tensor tensor; uint64_t at; } nm_gguf_record;

typedef struct nm_gguf_text {           /* names, in blocks that never move */
    struct nm_gguf_text *next;
    size_t used, size;
    char bytes[];
} nm_gguf_text;

struct nm_gguf {
    char *name;
    bool metadata_only;
    nm_gguf_part *parts;
    nm_gguf_key *keys;
    nm_gguf_record *tensors;
    size_t n_parts, parts_size, n_keys, keys_size, n_tensors, tensors_size;
    uint32_t *key_order, *tensor_order; /* indices sorted by name */
    nm_gguf_text *text;
};

/* Parses the only part of g. Errors name file and byte. */
nm_err nm_gguf_parse(nm_gguf *g);

/* NM_BAD_FILE: "FILE: byte AT: MESSAGE". at counts from the start of the first part. */
nm_err nm_gguf_bad(const nm_gguf *g, uint64_t at, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Sorts keys or tensors by name and refuses the second of two equal ones. */
nm_err nm_gguf_sort_keys(nm_gguf *g);
nm_err nm_gguf_sort_tensors(nm_gguf *g);
/* Refuses tensors that share bytes of a part. */
nm_err nm_gguf_check_overlap(const nm_gguf *g);

/* Bytes of a scalar of this type; 0 for strings, arrays and unknown types. */
size_t nm_gguf_scalar_bytes(uint32_t type);

/* Pieces of messages. Names are cut so that the rest of the line is not lost. */
#define NM_GGUF_KEY "key '%.80s'"
#define NM_GGUF_TENSOR "tensor '%.80s'"
#define NM_GGUF_CUT "; the file is cut off or damaged, fetch it again"
#define NM_GGUF_DAMAGED "; the file is damaged"

#endif
