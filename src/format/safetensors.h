/* Owns the safetensors file: eight bytes of header length, a JSON header, then the tensors' bytes, little endian and row-major. Checks the
 * header before anything in it is used: its length against a cap and the file, shapes and offsets for overflow and bounds, and that the tensors
 * cover the data without holes or overlaps. Refuses every type but F32, F16 and BF16 by name. Knows nothing of models or adapters. */
#ifndef NM_FORMAT_SAFETENSORS_H
#define NM_FORMAT_SAFETENSORS_H

#include "nomoat.h"
#include "quant/quant.h"

enum { NM_SAFE_RANK = 8 };

typedef struct nm_safe_tensor {
    const char *name;
    const nm_type *type;                /* NM_F32, NM_F16 or NM_BF16 */
    int rank;
    int64_t dim[NM_SAFE_RANK];          /* dim[rank - 1] is the contiguous one */
    int64_t values;                     /* product of dim */
    const void *data;                   /* in the map, perhaps unaligned */
    uint64_t bytes;
} nm_safe_tensor;

typedef struct nm_safe_meta { const char *key, *value; } nm_safe_meta;   /* of "__metadata__" */

typedef struct nm_safetensors nm_safetensors;

/* NM_BAD_FILE for every fault of the file, NM_REFUSED for a type that is not read (and where JSON cannot be), naming file and tensor. */
nm_err nm_safetensors_open(nm_safetensors **out, const char *path);
/* The same from memory, which stays the caller's. name is for messages. */
nm_err nm_safetensors_open_memory(nm_safetensors **out, const void *data, size_t size, const char *name);
void nm_safetensors_close(nm_safetensors **file);

const char *nm_safetensors_name(const nm_safetensors *file);            /* for messages */
size_t nm_safetensors_count(const nm_safetensors *file);
const nm_safe_tensor *nm_safetensors_at(const nm_safetensors *file, size_t index);      /* in the order of the header */
size_t nm_safetensors_meta_count(const nm_safetensors *file);
nm_safe_meta nm_safetensors_meta_at(const nm_safetensors *file, size_t index);
const char *nm_safetensors_meta(const nm_safetensors *file, const char *key);           /* NULL if absent */

/* Writes a whole file or none: tensors in the order given (name, type, rank, dim and data; values and bytes are found out), metadata as given. */
nm_err nm_safetensors_write(const char *path, const nm_safe_tensor *tensor, size_t tensors, const nm_safe_meta *meta, size_t metas);

#endif
