/* Writing GGUF files. */
#include "format/gguf_write.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "format/gguf_file.h"

enum { ALIGNMENT = 32, VERSION = 3 };

static nm_err put(nm_str *s, const void *bytes, size_t n) { return nm_str_append(s, bytes, n); }
static nm_err put_u32(nm_str *s, uint32_t v) { return put(s, &v, sizeof v); }
static nm_err put_u64(nm_str *s, uint64_t v) { return put(s, &v, sizeof v); }

static nm_err put_string(nm_str *s, const char *text, size_t length)
{
    NM_TRY(put_u64(s, length));
    return put(s, text, length);
}

/* ---- Keys ------------------------------------------------------------------------------------------------------------- */

static nm_err put_key(nm_gguf_writer *w, const char *key, nm_meta_type type)
{
    w->n_keys++;
    NM_TRY(put_string(&w->keys, key, strlen(key)));
    return put_u32(&w->keys, (uint32_t)type);
}

nm_err nm_gguf_write_string(nm_gguf_writer *w, const char *key, const char *text)
{
    NM_TRY(put_key(w, key, NM_META_STRING));
    return put_string(&w->keys, text, strlen(text));
}

nm_err nm_gguf_write_u32(nm_gguf_writer *w, const char *key, uint32_t value)
{
    NM_TRY(put_key(w, key, NM_META_U32));
    return put_u32(&w->keys, value);
}

nm_err nm_gguf_write_f32(nm_gguf_writer *w, const char *key, float value)
{
    NM_TRY(put_key(w, key, NM_META_F32));
    return put(&w->keys, &value, sizeof value);
}

nm_err nm_gguf_write_copy(nm_gguf_writer *w, const nm_gguf *from, const nm_gguf_value *v)
{
    bool array = v->type == NM_META_ARRAY;
    nm_meta_type item = array ? v->item : v->type;
    NM_TRY(put_key(w, v->key, v->type));
    if (array) {
        NM_TRY(put_u32(&w->keys, (uint32_t)item));
        NM_TRY(put_u64(&w->keys, v->count));
    }
    if (item != NM_META_STRING) return put(&w->keys, v->data, (size_t)v->count * nm_gguf_scalar_bytes((uint32_t)item));
    for (uint64_t i = 0; i < v->count; i++) {
        size_t length;
        const char *text = nm_gguf_string(from, v, i, &length);
        NM_TRY(put_string(&w->keys, text, length));
    }
    return NM_OK;
}

/* ---- Tensors ---------------------------------------------------------------------------------------------------------- */

static uint64_t padded(uint64_t n) { return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

nm_err nm_gguf_write_tensor(nm_gguf_writer *w, const char *name, const nm_type *type, int rank, const int64_t *dim)
{
    uint64_t bytes;
    int64_t rows = 1;
    w->n_tensors++;
    NM_TRY(put_string(&w->tensors, name, strlen(name)));
    NM_TRY(put_u32(&w->tensors, (uint32_t)rank));
    for (int i = 0; i < rank; i++) NM_TRY(put_u64(&w->tensors, (uint64_t)dim[i]));
    for (int i = 1; i < rank; i++) rows *= dim[i];
    NM_TRY(put_u32(&w->tensors, (uint32_t)type->id));
    NM_TRY(put_u64(&w->tensors, w->promised));
    NM_TRY(nm_type_bytes(type, dim[0], &bytes));
    w->promised += padded(bytes * (uint64_t)rows);
    return NM_OK;
}

/* ---- The file --------------------------------------------------------------------------------------------------------- */

static const char zeros[ALIGNMENT];

static nm_err pad(nm_gguf_writer *w, uint64_t at) { return nm_new_file_write(&w->file, zeros, (size_t)(padded(at) - at)); }

nm_err nm_gguf_write_begin(nm_gguf_writer *w, const char *path)
{
    const uint64_t counts[2] = {w->n_tensors, w->n_keys};
    const uint32_t version = VERSION;
    NM_TRY(nm_new_file_open(&w->file, path));
    NM_TRY(nm_new_file_write(&w->file, "GGUF", 4));
    NM_TRY(nm_new_file_write(&w->file, &version, sizeof version));
    NM_TRY(nm_new_file_write(&w->file, counts, sizeof counts));
    NM_TRY(nm_new_file_write(&w->file, w->keys.data ? w->keys.data : "", w->keys.length));
    NM_TRY(nm_new_file_write(&w->file, w->tensors.data ? w->tensors.data : "", w->tensors.length));
    return pad(w, 4 + sizeof version + sizeof counts + w->keys.length + w->tensors.length);
}

nm_err nm_gguf_write_data(nm_gguf_writer *w, const void *data, size_t bytes, bool last)
{
    NM_TRY(nm_new_file_write(&w->file, data, bytes));
    w->written += bytes;
    if (!last) return NM_OK;
    NM_TRY(pad(w, w->written));
    w->written = padded(w->written);
    return NM_OK;
}

nm_err nm_gguf_write_commit(nm_gguf_writer *w)
{
    if (w->written == w->promised) return nm_new_file_commit(&w->file);
    return nm_fail(NM_FAILED, "%s: %llu bytes of tensors were written, expected %llu", w->file.path, (unsigned long long)w->written,
                   (unsigned long long)w->promised);
}

void nm_gguf_write_end(nm_gguf_writer *w)
{
    nm_new_file_abandon(&w->file);
    nm_str_free(&w->keys);
    nm_str_free(&w->tensors);
    *w = (nm_gguf_writer){0};
}
