/* Parsing one GGUF file: header, keys, tensor records, and where the tensors lie. One pass, linear in the bytes of the header (the names
 * are sorted besides). Believes no count, length, dimension or offset: each is held against the bytes that are there before it is used,
 * and nothing is allocated for records that have not been read. */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "format/gguf_file.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF values are used as they lie in the file");

enum { MAGIC = 0x46554747 /* "GGUF" */, DEFAULT_ALIGNMENT = 32, NAME_MOST = 65535, TEXT_BLOCK = 16384 };
enum { KEY_LEAST = 8 + 4 + 1, TENSOR_LEAST = 8 + 4 + 8 + 4 + 8 };     /* bytes of the smallest record */

typedef struct reader {
    nm_gguf *g;
    const uint8_t *data;
    uint64_t size, at;
} reader;

static uint64_t left(const reader *r) { return r->size - r->at; }

static nm_err need(const reader *r, uint64_t bytes, const char *what)
{
    if (bytes <= left(r)) return NM_OK;
    return nm_gguf_bad(r->g, r->at, "the file ends within %s: %llu bytes wanted, %llu left" NM_GGUF_CUT,
        what, (unsigned long long)bytes, (unsigned long long)left(r));
}

static nm_err take(reader *r, void *out, size_t bytes, const char *what)
{
    NM_TRY(need(r, bytes, what));
    memcpy(out, r->data + r->at, bytes);
    r->at += bytes;
    return NM_OK;
}

static nm_err take_u32(reader *r, uint32_t *out, const char *what) { return take(r, out, sizeof *out, what); }
static nm_err take_u64(reader *r, uint64_t *out, const char *what) { return take(r, out, sizeof *out, what); }

/* ---- Names ---------------------------------------------------------------------------------------------------------- */

static nm_err keep_text(nm_gguf *g, const uint8_t *bytes, size_t length, const char **out)
{
    nm_gguf_text *block = g->text;
    if (!block || block->size - block->used < length + 1) {
        size_t size = length + 1 > TEXT_BLOCK ? length + 1 : TEXT_BLOCK;
        block = nm_malloc(sizeof *block + size);
        if (!block) return nm_fail_memory(sizeof *block + size);
        *block = (nm_gguf_text){.next = g->text, .size = size};
        g->text = block;
    }
    char *text = block->bytes + block->used;
    memcpy(text, bytes, length);
    text[length] = 0;
    block->used += length + 1;
    *out = text;
    return NM_OK;
}

static nm_err check_name(const reader *r, const char *text, size_t length, const char *what)
{
    for (size_t i = 0; i < length;) {
        int used;
        int32_t code = nm_utf8_decode(text + i, length - i, &used);
        if (code == 0) return nm_gguf_bad(r->g, r->at + i, "%s has a zero byte in it" NM_GGUF_DAMAGED, what);
        if (code < 0) return nm_gguf_bad(r->g, r->at + i, "%s is not valid UTF-8" NM_GGUF_DAMAGED, what);
        i += (size_t)used;
    }
    return NM_OK;
}

/* A length and that many bytes of UTF-8; *out is a copy owned by g. */
static nm_err take_name(reader *r, const char **out, const char *what)
{
    uint64_t length, at = r->at;
    NM_TRY(take_u64(r, &length, what));
    if (length > NAME_MOST)
        return nm_gguf_bad(r->g, at, "%s claims %llu bytes, at most %d are allowed" NM_GGUF_DAMAGED,
            what, (unsigned long long)length, NAME_MOST);
    NM_TRY(need(r, length, what));
    const uint8_t *bytes = r->data + r->at;
    NM_TRY(check_name(r, (const char *)bytes, (size_t)length, what));
    NM_TRY(keep_text(r->g, bytes, (size_t)length, out));
    r->at += length;
    return NM_OK;
}

/* ---- Values --------------------------------------------------------------------------------------------------------- */

size_t nm_gguf_scalar_bytes(uint32_t type)
{
    static const uint8_t bytes[] = {
        [NM_META_U8] = 1, [NM_META_I8] = 1, [NM_META_U16] = 2, [NM_META_I16] = 2, [NM_META_U32] = 4, [NM_META_I32] = 4, [NM_META_F32] = 4,
        [NM_META_BOOL] = 1, [NM_META_STRING] = 0, [NM_META_ARRAY] = 0, [NM_META_U64] = 8, [NM_META_I64] = 8, [NM_META_F64] = 8
    };
    return type < sizeof bytes ? bytes[type] : 0;
}

static nm_err check_value_type(const reader *r, uint32_t type, uint64_t at, const char *key)
{
    if (type <= NM_META_F64) return NM_OK;
    return nm_gguf_bad(r->g, at, NM_GGUF_KEY " has the unknown value type %u; the file is damaged or newer than this program",
        key, type);
}

static nm_err skip_string(reader *r, const char *key)
{
    uint64_t length, at = r->at;
    NM_TRY(take_u64(r, &length, "a string"));
    if (length > left(r))
        return nm_gguf_bad(r->g, at, "a string of " NM_GGUF_KEY " claims %llu bytes, %llu are left" NM_GGUF_CUT,
            key, (unsigned long long)length, (unsigned long long)left(r));
    r->at += length;
    return NM_OK;
}

static nm_err skip_strings(reader *r, nm_gguf_value *v)
{
    if (v->count > left(r) / sizeof(uint64_t))
        return nm_gguf_bad(r->g, r->at, NM_GGUF_KEY " claims %llu strings, %llu bytes are left" NM_GGUF_CUT,
            v->key, (unsigned long long)v->count, (unsigned long long)left(r));
    uint64_t *place = nm_calloc((size_t)v->count, sizeof *place);
    if (!place) return nm_fail_memory((size_t)v->count * sizeof *place);
    v->string_at = place;
    for (uint64_t i = 0; i < v->count; i++) {
        place[i] = r->at;
        NM_TRY(skip_string(r, v->key));
    }
    return NM_OK;
}

static nm_err skip_scalars(reader *r, const nm_gguf_value *v, nm_meta_type type)
{
    uint64_t bytes;
    if (__builtin_mul_overflow(v->count, (uint64_t)nm_gguf_scalar_bytes(type), &bytes) || bytes > left(r))
        return nm_gguf_bad(r->g, r->at, NM_GGUF_KEY " claims %llu values of %zu bytes, %llu bytes are left" NM_GGUF_CUT,
            v->key, (unsigned long long)v->count, nm_gguf_scalar_bytes(type), (unsigned long long)left(r));
    for (uint64_t i = 0; type == NM_META_BOOL && i < bytes; i++)
        if (r->data[r->at + i] > 1)
            return nm_gguf_bad(r->g, r->at + i, NM_GGUF_KEY " has the byte %d where a bool is 0 or 1" NM_GGUF_DAMAGED,
                v->key, r->data[r->at + i]);
    r->at += bytes;
    return NM_OK;
}

static nm_err take_array(reader *r, nm_gguf_value *v)
{
    uint32_t item;
    uint64_t at = r->at;
    NM_TRY(take_u32(r, &item, "an array's item type"));
    NM_TRY(check_value_type(r, item, at, v->key));
    if (item == NM_META_ARRAY) return nm_gguf_bad(r->g, at,
        NM_GGUF_KEY " is an array of arrays, which no known key is" NM_GGUF_DAMAGED, v->key);
    NM_TRY(take_u64(r, &v->count, "an array's length"));
    v->item = (nm_meta_type)item;
    v->data = r->data + r->at;
    return item == NM_META_STRING ? skip_strings(r, v) : skip_scalars(r, v, v->item);
}

static nm_err take_value(reader *r, nm_gguf_value *v)
{
    uint32_t type;
    uint64_t at = r->at;
    NM_TRY(take_u32(r, &type, "a key's value type"));
    NM_TRY(check_value_type(r, type, at, v->key));
    v->type = v->item = (nm_meta_type)type;
    v->count = 1;
    v->data = r->data + r->at;
    if (type == NM_META_ARRAY) return take_array(r, v);
    return type == NM_META_STRING ? skip_string(r, v->key) : skip_scalars(r, v, v->type);
}

static nm_err take_keys(reader *r, uint64_t count)
{
    nm_gguf *g = r->g;
    for (uint64_t i = 0; i < count; i++) {
        NM_TRY(NM_GROW(g->keys, g->keys_size, g->n_keys + 1));
        nm_gguf_key *key = &g->keys[g->n_keys];
        *key = (nm_gguf_key){.at = r->at};
        NM_TRY(take_name(r, &key->value.key, "the name of a key"));
        g->n_keys++;    /* from here on closing g frees what the value holds */
        NM_TRY(take_value(r, &key->value));
    }
    return nm_gguf_sort_keys(g);
}

/* ---- Tensors -------------------------------------------------------------------------------------------------------- */

/* *values, 1 before, becomes their product. */
static nm_err take_dims(reader *r, nm_gguf_tensor *t, int64_t *values)
{
    uint32_t rank;
    uint64_t at = r->at;
    NM_TRY(take_u32(r, &rank, "a tensor's number of dimensions"));
    if (rank < 1 || rank > 4) return nm_gguf_bad(r->g, at,
        NM_GGUF_TENSOR " has %u dimensions, expected 1 to 4" NM_GGUF_DAMAGED, t->name, rank);
    t->rank = (int)rank;
    for (int i = 0; i < 4; i++) {
        uint64_t dim = 1;
        at = r->at;
        if (i < t->rank) NM_TRY(take_u64(r, &dim, "a tensor's dimensions"));
        if (dim < 1 || dim > INT64_MAX)
            return nm_gguf_bad(r->g, at, NM_GGUF_TENSOR " has a dimension of %lld, expected at least 1" NM_GGUF_DAMAGED,
                t->name, (long long)dim);
        if (__builtin_mul_overflow(*values, (int64_t)dim, values))
            return nm_gguf_bad(r->g, at, NM_GGUF_TENSOR " has dimensions whose product overflows 63 bits" NM_GGUF_DAMAGED,
                t->name);
        t->dim[i] = (int64_t)dim;
    }
    return NM_OK;
}

static nm_err take_type(reader *r, nm_gguf_tensor *t, int64_t values)
{
    uint32_t type;
    uint64_t at = r->at;
    NM_TRY(take_u32(r, &type, "a tensor's type"));
    t->type = type <= INT32_MAX ? nm_type_of((int)type) : NULL;
    if (!t->type)
        return nm_gguf_bad(r->g, at,
            NM_GGUF_TENSOR " has the unknown type %u; the file is damaged, outdated or newer than this program", t->name, type);
    if (t->dim[0] % t->type->block)
        return nm_gguf_bad(r->g, at, NM_GGUF_TENSOR " has rows of %lld values, which are no whole number of %s blocks of %d" NM_GGUF_DAMAGED,
            t->name, (long long)t->dim[0], t->type->name, t->type->block);
    if (nm_type_bytes(t->type, values, &t->bytes) != NM_OK)
        return nm_gguf_bad(r->g, at, NM_GGUF_TENSOR " of %lld values of %s is larger than any file" NM_GGUF_DAMAGED,
            t->name, (long long)values, t->type->name);
    return NM_OK;
}

static nm_err take_tensor(reader *r, nm_gguf_record *record)
{
    nm_gguf_tensor *t = &record->tensor;
    int64_t values = 1;
    *record = (nm_gguf_record){.at = r->at};
    NM_TRY(take_name(r, &t->name, "the name of a tensor"));
    NM_TRY(take_dims(r, t, &values));
    NM_TRY(take_type(r, t, values));
    return take_u64(r, &t->offset, "a tensor's offset");
}

static nm_err take_tensors(reader *r, uint64_t count)
{
    nm_gguf *g = r->g;
    for (uint64_t i = 0; i < count; i++) {
        NM_TRY(NM_GROW(g->tensors, g->tensors_size, g->n_tensors + 1));
        NM_TRY(take_tensor(r, &g->tensors[g->n_tensors]));
        g->n_tensors++;
    }
    return nm_gguf_sort_tensors(g);
}

static nm_err find_alignment(const nm_gguf *g, uint64_t *alignment)
{
    int64_t value = DEFAULT_ALIGNMENT;
    NM_TRY(nm_gguf_opt_i64(g, "general.alignment", 1, INT64_MAX, &value));
    if (value & (value - 1))
        return nm_fail(NM_BAD_FILE, "%s: key 'general.alignment' is %lld, expected a power of two" NM_GGUF_DAMAGED,
            g->name, (long long)value);
    *alignment = (uint64_t)value;
    return NM_OK;
}

/* Turns an offset within the tensors' section, which starts at `start`, into one within the file, and the pointer. */
static nm_err place_tensor(const nm_gguf *g, nm_gguf_record *record, uint64_t start, uint64_t alignment)
{
    nm_gguf_tensor *t = &record->tensor;
    uint64_t offset, end, size = g->parts[0].size;
    if (t->offset % alignment)
        return nm_gguf_bad(g, record->at, NM_GGUF_TENSOR " has offset %llu, which is no multiple of the alignment %llu" NM_GGUF_DAMAGED,
            t->name, (unsigned long long)t->offset, (unsigned long long)alignment);
    bool overflow = __builtin_add_overflow(start, t->offset, &offset) || __builtin_add_overflow(offset, t->bytes, &end);
    if (overflow || (end > size && !g->metadata_only))
        return nm_gguf_bad(g, record->at, NM_GGUF_TENSOR " of %llu bytes at offset %llu ends beyond the file's %llu bytes" NM_GGUF_CUT,
            t->name, (unsigned long long)t->bytes, (unsigned long long)t->offset, (unsigned long long)size);
    t->offset = offset;
    t->data = end <= size ? g->parts[0].data + offset : NULL;
    return NM_OK;
}

static nm_err place_tensors(nm_gguf *g, uint64_t header_end)
{
    uint64_t alignment = DEFAULT_ALIGNMENT, start;
    NM_TRY(find_alignment(g, &alignment));
    if (!g->n_tensors) return NM_OK;
    if (__builtin_add_overflow(header_end, alignment - 1, &start))
        return nm_gguf_bad(g, header_end, "the alignment %llu leaves no room for tensors" NM_GGUF_DAMAGED,
            (unsigned long long)alignment);
    start &= ~(alignment - 1);
    for (size_t i = 0; i < g->n_tensors; i++) NM_TRY(place_tensor(g, &g->tensors[i], start, alignment));
    return nm_gguf_check_overlap(g);
}

/* ---- The file ------------------------------------------------------------------------------------------------------- */

static nm_err take_version(reader *r)
{
    uint32_t magic, version;
    if (r->size < sizeof magic || (memcpy(&magic, r->data, sizeof magic), magic != MAGIC))
        return nm_gguf_bad(r->g, 0, "this is not a GGUF file: it does not begin with \"GGUF\"");
    r->at = sizeof magic;
    NM_TRY(take_u32(r, &version, "the version"));
    if (version && !(version & 0xffff))
        return nm_gguf_bad(r->g, 4, "this is a big-endian GGUF file; convert it to little-endian");
    if (version == 1) return nm_gguf_bad(r->g, 4, "GGUF version 1 is no longer read; convert the model again");
    if (version != 2 && version != 3)
        return nm_gguf_bad(r->g, 4, "GGUF version %u is unknown, expected 2 or 3; the file is damaged or newer than this program", version);
    return NM_OK;
}

static nm_err check_count(const reader *r, uint64_t at, uint64_t count, uint64_t least, const char *what)
{
    if (count <= left(r) / least) return NM_OK;
    return nm_gguf_bad(r->g, at, "the header claims %llu %s, more than %llu bytes can hold" NM_GGUF_CUT,
        (unsigned long long)count, what, (unsigned long long)left(r));
}

nm_err nm_gguf_parse(nm_gguf *g)
{
    reader r = {g, g->parts[0].data, g->parts[0].size, 0};
    uint64_t tensors, keys;
    NM_TRY(take_version(&r));
    NM_TRY(take_u64(&r, &tensors, "the number of tensors"));
    NM_TRY(take_u64(&r, &keys, "the number of keys"));
    NM_TRY(check_count(&r, 8, tensors, TENSOR_LEAST, "tensors"));
    NM_TRY(check_count(&r, 16, keys, KEY_LEAST, "keys"));
    NM_TRY(take_keys(&r, keys));
    NM_TRY(check_count(&r, 8, tensors, TENSOR_LEAST, "tensors"));
    NM_TRY(take_tensors(&r, tensors));
    return place_tensors(g, r.at);
}
