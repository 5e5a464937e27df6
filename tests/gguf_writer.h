/* Owns building GGUF files in memory, for tests: well-formed ones, and on demand ones that lie. Test code: it aborts when memory runs out
 * and takes it from malloc, so that counts of the library's allocations stay clean. Tests include gguf_writer.c itself.
 *
 *     gguf_writer w = {0};                     version 3, alignment 32
 *     gw_string(&w, "general.architecture", "llama");
 *     gw_u32(&w, "llama.block_count", 2);
 *     gw_tensor_values(&w, "output.weight", NM_Q4_0, 2, (int64_t[]){64, 32}, floats);
 *     void *file = gw_finish(&w, &size);       the caller's (free); w is empty again
 */
#ifndef NM_TESTS_GGUF_WRITER_H
#define NM_TESTS_GGUF_WRITER_H

#include "nomoat.h"

typedef struct gw_bytes { uint8_t *data; size_t size, capacity; } gw_bytes;

typedef struct gguf_writer {
    uint32_t version;               /* 0 means 3 */
    uint32_t alignment;             /* of tensor data; 0 means 32. Any other value is also written as general.alignment */
    gw_bytes keys, tensors, data;   /* the sections as they will be written */
    uint64_t n_keys, n_tensors;     /* what the header will claim: tests may change them */
} gguf_writer;

/* Raw bytes behind a section: for records that the functions below would not write. */
void gw_put(gw_bytes *section, const void *bytes, size_t size);
void gw_put_u32(gw_bytes *section, uint32_t value);
void gw_put_u64(gw_bytes *section, uint64_t value);
void gw_put_string(gw_bytes *section, const void *text, size_t length);

/* One key each. */
void gw_key(gguf_writer *w, const char *key, uint32_t type);        /* only name and type; the value must follow into w->keys */
void gw_u8(gguf_writer *w, const char *key, uint8_t value);
void gw_i8(gguf_writer *w, const char *key, int8_t value);
void gw_u16(gguf_writer *w, const char *key, uint16_t value);
void gw_i16(gguf_writer *w, const char *key, int16_t value);
void gw_u32(gguf_writer *w, const char *key, uint32_t value);
void gw_i32(gguf_writer *w, const char *key, int32_t value);
void gw_u64(gguf_writer *w, const char *key, uint64_t value);
void gw_i64(gguf_writer *w, const char *key, int64_t value);
void gw_f32(gguf_writer *w, const char *key, float value);
void gw_f64(gguf_writer *w, const char *key, double value);
void gw_bool(gguf_writer *w, const char *key, bool value);
void gw_string(gguf_writer *w, const char *key, const char *text);
void gw_string_n(gguf_writer *w, const char *key, const void *text, size_t length);
/* items: count packed elements of a scalar type. */
void gw_array(gguf_writer *w, const char *key, nm_meta_type item, const void *items, uint64_t count);
void gw_strings(gguf_writer *w, const char *key, const char *const *texts, uint64_t count);
/* The keys of part `index` (from 0) of a split that holds `tensors` tensors in all. */
void gw_split(gguf_writer *w, int index, int count, int tensors);

/* A tensor with its data: as stored, or quantised from floats (row by row) by the type's from_float. dim[0] is contiguous. */
void gw_tensor(gguf_writer *w, const char *name, int type, int rank, const int64_t *dim, const void *data, size_t bytes);
void gw_tensor_values(gguf_writer *w, const char *name, int type, int rank, const int64_t *dim, const float *values);
/* The record alone, whatever it says; `offset` counts from the start of the data section. */
void gw_tensor_record(gguf_writer *w, const char *name, uint32_t type, uint32_t rank, const int64_t *dim, uint64_t offset);

void *gw_finish(gguf_writer *w, size_t *size);
/* The same into a file. */
void gw_save(gguf_writer *w, const char *path);

#endif
