/* See gguf_writer.h. */
#include "gguf_writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/quant.h"

static void *gw_must(void *p)
{
    if (!p) abort();
    return p;
}

void gw_put(gw_bytes *s, const void *bytes, size_t size)
{
    if (s->size + size > s->capacity) {
        s->capacity = 2 * (s->size + size) + 256;
        s->data = gw_must(realloc(s->data, s->capacity));
    }
    if (size) memcpy(s->data + s->size, bytes, size);
    s->size += size;
}

void gw_put_u32(gw_bytes *s, uint32_t value) { gw_put(s, &value, sizeof value); }
void gw_put_u64(gw_bytes *s, uint64_t value) { gw_put(s, &value, sizeof value); }

void gw_put_string(gw_bytes *s, const void *text, size_t length)
{
    gw_put_u64(s, length);
    gw_put(s, text, length);
}

/* ---- Keys ----------------------------------------------------------------------------------------------------------- */

void gw_key(gguf_writer *w, const char *key, uint32_t type)
{
    gw_put_string(&w->keys, key, strlen(key));
    gw_put_u32(&w->keys, type);
    w->n_keys++;
}

static void gw_scalar(gguf_writer *w, const char *key, nm_meta_type type, const void *value, size_t bytes)
{
    gw_key(w, key, type);
    gw_put(&w->keys, value, bytes);
}

void gw_u8(gguf_writer *w, const char *key, uint8_t value) { gw_scalar(w, key, NM_META_U8, &value, sizeof value); }
void gw_i8(gguf_writer *w, const char *key, int8_t value) { gw_scalar(w, key, NM_META_I8, &value, sizeof value); }
void gw_u16(gguf_writer *w, const char *key, uint16_t value) { gw_scalar(w, key, NM_META_U16, &value, sizeof value); }
void gw_i16(gguf_writer *w, const char *key, int16_t value) { gw_scalar(w, key, NM_META_I16, &value, sizeof value); }
void gw_u32(gguf_writer *w, const char *key, uint32_t value) { gw_scalar(w, key, NM_META_U32, &value, sizeof value); }
void gw_i32(gguf_writer *w, const char *key, int32_t value) { gw_scalar(w, key, NM_META_I32, &value, sizeof value); }
void gw_u64(gguf_writer *w, const char *key, uint64_t value) { gw_scalar(w, key, NM_META_U64, &value, sizeof value); }
void gw_i64(gguf_writer *w, const char *key, int64_t value) { gw_scalar(w, key, NM_META_I64, &value, sizeof value); }
void gw_f32(gguf_writer *w, const char *key, float value) { gw_scalar(w, key, NM_META_F32, &value, sizeof value); }
void gw_f64(gguf_writer *w, const char *key, double value) { gw_scalar(w, key, NM_META_F64, &value, sizeof value); }
void gw_bool(gguf_writer *w, const char *key, bool value) { gw_scalar(w, key, NM_META_BOOL, &value, 1); }
void gw_string(gguf_writer *w, const char *key, const char *text) { gw_string_n(w, key, text, strlen(text)); }

void gw_string_n(gguf_writer *w, const char *key, const void *text, size_t length)
{
    gw_key(w, key, NM_META_STRING);
    gw_put_string(&w->keys, text, length);
}

static size_t gw_item_bytes(nm_meta_type type)
{
    switch (type) {
    case NM_META_U8: case NM_META_I8: case NM_META_BOOL: return 1;
    case NM_META_U16: case NM_META_I16: return 2;
    case NM_META_U32: case NM_META_I32: case NM_META_F32: return 4;
    case NM_META_U64: case NM_META_I64: case NM_META_F64: return 8;
    default: abort();
    }
}

void gw_array(gguf_writer *w, const char *key, nm_meta_type item, const void *items, uint64_t count)
{
    gw_key(w, key, NM_META_ARRAY);
    gw_put_u32(&w->keys, item);
    gw_put_u64(&w->keys, count);
    gw_put(&w->keys, items, (size_t)count * gw_item_bytes(item));
}

void gw_strings(gguf_writer *w, const char *key, const char *const *texts, uint64_t count)
{
    gw_key(w, key, NM_META_ARRAY);
    gw_put_u32(&w->keys, NM_META_STRING);
    gw_put_u64(&w->keys, count);
    for (uint64_t i = 0; i < count; i++) gw_put_string(&w->keys, texts[i], strlen(texts[i]));
}

void gw_split(gguf_writer *w, int index, int count, int tensors)
{
    gw_u16(w, "split.no", (uint16_t)index);
    gw_u16(w, "split.count", (uint16_t)count);
    gw_i32(w, "split.tensors.count", tensors);
}

/* ---- Tensors -------------------------------------------------------------------------------------------------------- */

void gw_tensor_record(gguf_writer *w, const char *name, uint32_t type, uint32_t rank, const int64_t *dim, uint64_t offset)
{
    gw_put_string(&w->tensors, name, strlen(name));
    gw_put_u32(&w->tensors, rank);
    for (uint32_t i = 0; i < rank; i++) gw_put_u64(&w->tensors, (uint64_t)dim[i]);
    gw_put_u32(&w->tensors, type);
    gw_put_u64(&w->tensors, offset);
    w->n_tensors++;
}

static void gw_pad(gw_bytes *s, size_t alignment)
{
    while (s->size % alignment) gw_put(s, "", 1);
}

void gw_tensor(gguf_writer *w, const char *name, int type, int rank, const int64_t *dim, const void *data, size_t bytes)
{
    gw_pad(&w->data, w->alignment ? w->alignment : 32);
    gw_tensor_record(w, name, (uint32_t)type, (uint32_t)rank, dim, w->data.size);
    gw_put(&w->data, data, bytes);
}

void gw_tensor_values(gguf_writer *w, const char *name, int type, int rank, const int64_t *dim, const float *values)
{
    const nm_type *t = nm_type_of(type);
    int64_t count = 1;
    uint64_t bytes;
    for (int i = 0; i < rank; i++) count *= dim[i];
    if (!t || !t->from_float || nm_type_bytes(t, count, &bytes) != NM_OK) abort();
    void *data = gw_must(malloc((size_t)bytes));
    t->from_float(values, count, data);
    gw_tensor(w, name, type, rank, dim, data, (size_t)bytes);
    free(data);
}

/* ---- The file ------------------------------------------------------------------------------------------------------- */

void *gw_finish(gguf_writer *w, size_t *size)
{
    gw_bytes file = {0};
    if (w->alignment && w->alignment != 32) gw_u32(w, "general.alignment", w->alignment);
    gw_put(&file, "GGUF", 4);
    gw_put_u32(&file, w->version ? w->version : 3);
    gw_put_u64(&file, w->n_tensors);
    gw_put_u64(&file, w->n_keys);
    gw_put(&file, w->keys.data, w->keys.size);
    gw_put(&file, w->tensors.data, w->tensors.size);
    if (w->data.size) gw_pad(&file, w->alignment ? w->alignment : 32);
    gw_put(&file, w->data.data, w->data.size);
    free(w->keys.data);
    free(w->tensors.data);
    free(w->data.data);
    *w = (gguf_writer){0};
    *size = file.size;
    return file.data;
}

void gw_save(gguf_writer *w, const char *path)
{
    size_t size;
    void *bytes = gw_finish(w, &size);
    FILE *f = gw_must(fopen(path, "wb"));
    if (fwrite(bytes, 1, size, f) != size || fclose(f) != 0) abort();
    free(bytes);
}
