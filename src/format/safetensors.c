/* Reading and writing safetensors files. The header is a JSON object: {"__metadata__": {text: text}, NAME: {"dtype", "shape",
 * "data_offsets": [from, to)}}, offsets counted from the header's end. */
#include "format/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "format/json.h"
#include "os/file.h"
#include "os/map.h"

/* Real headers take some 130 bytes a tensor: room for 100,000 of them, and little enough that a hostile one cannot cost gigabytes as a tree. */
enum { LENGTH_BYTES = 8, HEADER_MOST = 16 << 20 };
static const char METADATA[] = "__metadata__";

struct nm_safetensors {
    char *name;
    nm_map map;                 /* all zero for a file in memory */
    const uint8_t *data;        /* behind the header */
    uint64_t data_bytes;
    nm_json header;             /* names and metadata point into it */
    const nm_json *meta;        /* an object of strings, or NULL */
    nm_safe_tensor *tensor;
    size_t tensors;
};

static const struct { const char *name; nm_dtype id; } dtypes[] = {{"F32", NM_F32}, {"F16", NM_F16}, {"BF16", NM_BF16}};
enum { DTYPES = sizeof dtypes / sizeof *dtypes };

/* ---- Reading ------------------------------------------------------------------------------------------------------------------------ */

static nm_err bad(const nm_safetensors *f, const char *tensor, const char *what)
{
    return nm_fail(NM_BAD_FILE, "%s: tensor '%.80s': %s; the file is damaged, fetch it again", f->name, tensor, what);
}

/* A whole number from 0 on that is one in the JSON too. */
static bool is_count(const nm_json *v) { return v->kind == NM_JSON_INT && v->integer >= 0; }

static nm_err read_type(const nm_safetensors *f, const nm_json *entry, nm_safe_tensor *t)
{
    const nm_json *v = nm_json_get(entry, "dtype");
    if (!v || v->kind != NM_JSON_STRING) return bad(f, t->name, "\"dtype\" is no text");
    for (int i = 0; i < DTYPES; i++)
        if (!strcmp(v->string.bytes, dtypes[i].name)) t->type = nm_type_of(dtypes[i].id);
    if (t->type) return NM_OK;
    return nm_fail(NM_REFUSED, "%s: tensor '%.80s' is of type %.16s, and F32, F16 and BF16 are read: convert it first", f->name, t->name, v->string.bytes);
}

static nm_err read_shape(const nm_safetensors *f, const nm_json *entry, nm_safe_tensor *t)
{
    const nm_json *v = nm_json_get(entry, "shape");
    if (!v || v->kind != NM_JSON_ARRAY) return bad(f, t->name, "\"shape\" is no list");
    if (v->array.count > NM_SAFE_RANK) return bad(f, t->name, "it has more than 8 dimensions");
    t->rank = (int)v->array.count;
    t->values = 1;
    for (int i = 0; i < t->rank; i++) {
        if (!is_count(&v->array.items[i])) return bad(f, t->name, "a dimension is no whole number");
        t->dim[i] = v->array.items[i].integer;
        if (__builtin_mul_overflow(t->values, t->dim[i], &t->values)) return bad(f, t->name, "its shape is too large");
    }
    return NM_OK;
}

/* Offsets must enclose what type and shape take. */
static nm_err read_place(const nm_safetensors *f, const nm_json *entry, nm_safe_tensor *t)
{
    const nm_json *v = nm_json_get(entry, "data_offsets");
    if (!v || v->kind != NM_JSON_ARRAY || v->array.count != 2 || !is_count(&v->array.items[0]) || !is_count(&v->array.items[1]))
        return bad(f, t->name, "\"data_offsets\" are no two whole numbers");
    uint64_t from = (uint64_t)v->array.items[0].integer, to = (uint64_t)v->array.items[1].integer;
    if (from > to || to > f->data_bytes) return bad(f, t->name, "it lies beyond the file's end");
    if (nm_type_bytes(t->type, t->values, &t->bytes) != NM_OK) return bad(f, t->name, "its shape is too large");
    if (t->bytes != to - from) return bad(f, t->name, "its offsets do not fit its shape");
    t->data = f->data + from;
    return NM_OK;
}

static nm_err read_tensor(nm_safetensors *f, const char *name, const nm_json *entry)
{
    nm_safe_tensor *t = &f->tensor[f->tensors];
    *t = (nm_safe_tensor){.name = name};
    if (entry->kind != NM_JSON_OBJECT) return bad(f, name, "its entry is no object");
    NM_TRY(read_type(f, entry, t));
    NM_TRY(read_shape(f, entry, t));
    NM_TRY(read_place(f, entry, t));
    f->tensors++;
    return NM_OK;
}

static nm_err read_meta(nm_safetensors *f, const nm_json *meta)
{
    bool good = meta->kind == NM_JSON_OBJECT;
    for (size_t i = 0; good && i < meta->object.count; i++) good = meta->object.values[i].kind == NM_JSON_STRING;
    if (!good) return nm_fail(NM_BAD_FILE, "%s: \"__metadata__\" is no object of texts; the file is damaged, fetch it again", f->name);
    f->meta = meta;
    return NM_OK;
}

static int by_place(const void *a, const void *b)
{
    const nm_safe_tensor *x = *(nm_safe_tensor *const *)a, *y = *(nm_safe_tensor *const *)b;
    if (x->data != y->data) return (const uint8_t *)x->data < (const uint8_t *)y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;      /* an empty one stands before the one that begins where it ends */
}

/* Every byte of data belongs to exactly one tensor. */
static nm_err check_cover(const nm_safetensors *f)
{
    const nm_safe_tensor **order = nm_calloc(f->tensors, sizeof *order);
    const uint8_t *at = f->data;
    nm_err err = order ? NM_OK : nm_fail_memory(f->tensors * sizeof *order);
    for (size_t i = 0; order && i < f->tensors; i++) order[i] = &f->tensor[i];
    if (order && f->tensors) qsort(order, f->tensors, sizeof *order, by_place);
    for (size_t i = 0; err == NM_OK && i < f->tensors; i++) {
        const uint8_t *from = order[i]->data;
        if (from != at) err = bad(f, order[i]->name, from < at ? "it overlaps another one" : "bytes before it belong to no tensor");
        at = from + order[i]->bytes;
    }
    if (err == NM_OK && at != f->data + f->data_bytes)
        err = nm_fail(NM_BAD_FILE, "%s: %llu bytes at its end belong to no tensor; the file is damaged, fetch it again", f->name,
                      (unsigned long long)(f->data + f->data_bytes - at));
    nm_free(order);
    return err;
}

/* The codes of JSON's own faults are a caller's; here they are the file's. */
static nm_err parse_header(nm_safetensors *f, const char *text, size_t length)
{
    nm_err err = nm_json_parse(&f->header, text, length);
    if (err != NM_OK) return err == NM_USAGE ? nm_fail_in(NM_BAD_FILE, f->name) : err;
    return f->header.kind == NM_JSON_OBJECT ? NM_OK : nm_fail(NM_BAD_FILE, "%s: its header is no JSON object: it is no safetensors file", f->name);
}

static nm_err read_header(nm_safetensors *f)
{
    f->tensor = nm_calloc(f->header.object.count, sizeof *f->tensor);
    if (!f->tensor) return nm_fail_memory(f->header.object.count * sizeof *f->tensor);
    for (size_t i = 0; i < f->header.object.count; i++) {
        const char *key = f->header.object.keys[i];
        const nm_json *entry = &f->header.object.values[i];
        NM_TRY(strcmp(key, METADATA) ? read_tensor(f, key, entry) : read_meta(f, entry));
    }
    return check_cover(f);
}

static nm_err parse(nm_safetensors *f, const uint8_t *data, size_t size)
{
    uint64_t length = 0;
    if (size < LENGTH_BYTES) return nm_fail(NM_BAD_FILE, "%s: %zu bytes are no safetensors file", f->name, size);
    for (int i = 0; i < LENGTH_BYTES; i++) length |= (uint64_t)data[i] << 8 * i;
    if (length > HEADER_MOST)
        return nm_fail(NM_BAD_FILE, "%s: a header of %llu bytes: it is no safetensors file", f->name, (unsigned long long)length);
    if (length > size - LENGTH_BYTES)
        return nm_fail(NM_BAD_FILE, "%s: the header of %llu bytes ends beyond the file's %zu; it is cut off, fetch it again", f->name,
                       (unsigned long long)length, size);
    f->data = data + LENGTH_BYTES + length;
    f->data_bytes = size - LENGTH_BYTES - length;
    NM_TRY(parse_header(f, (const char *)data + LENGTH_BYTES, (size_t)length));
    return read_header(f);
}

static nm_err begin(nm_safetensors **out, const char *name)
{
    nm_safetensors *f = *out = nm_calloc(1, sizeof *f);
    if (!f) return nm_fail_memory(sizeof *f);
    f->map.slot = -1;
    f->name = nm_strndup(name, strlen(name));
    return f->name ? NM_OK : nm_fail_memory(strlen(name));
}

nm_err nm_safetensors_open(nm_safetensors **out, const char *path)
{
    nm_err err = begin(out, path);
    if (err == NM_OK) err = nm_map_open(&(*out)->map, path);
    if (err == NM_OK) err = parse(*out, (*out)->map.data, (*out)->map.size);
    if (err != NM_OK) nm_safetensors_close(out);
    return err;
}

nm_err nm_safetensors_open_memory(nm_safetensors **out, const void *data, size_t size, const char *name)
{
    nm_err err = begin(out, name);
    if (err == NM_OK) err = parse(*out, data, size);
    if (err != NM_OK) nm_safetensors_close(out);
    return err;
}

void nm_safetensors_close(nm_safetensors **file)
{
    nm_safetensors *f = *file;
    *file = NULL;
    if (!f) return;
    nm_json_free(&f->header);
    nm_map_close(&f->map);
    nm_free(f->tensor);
    nm_free(f->name);
    nm_free(f);
}

const char *nm_safetensors_name(const nm_safetensors *f) { return f->name; }
size_t nm_safetensors_count(const nm_safetensors *f) { return f->tensors; }
const nm_safe_tensor *nm_safetensors_at(const nm_safetensors *f, size_t index) { return &f->tensor[index]; }
size_t nm_safetensors_meta_count(const nm_safetensors *f) { return f->meta ? f->meta->object.count : 0; }

nm_safe_meta nm_safetensors_meta_at(const nm_safetensors *f, size_t index)
{
    return (nm_safe_meta){f->meta->object.keys[index], f->meta->object.values[index].string.bytes};
}

const char *nm_safetensors_meta(const nm_safetensors *f, const char *key)
{
    const nm_json *v = f->meta ? nm_json_get(f->meta, key) : NULL;
    return v ? v->string.bytes : NULL;
}

/* ---- Writing ------------------------------------------------------------------------------------------------------------------------ */

static nm_err put_text(nm_str *s, const char *text) { return nm_str_json(s, text, strlen(text)); }

static nm_err put_meta(nm_str *s, const nm_safe_meta *meta, size_t count)
{
    NM_TRY(nm_str_printf(s, "\"%s\":{", METADATA));
    for (size_t i = 0; i < count; i++) {
        if (i) NM_TRY(nm_str_putc(s, ','));
        NM_TRY(put_text(s, meta[i].key));
        NM_TRY(nm_str_putc(s, ':'));
        NM_TRY(put_text(s, meta[i].value));
    }
    return nm_str_putc(s, '}');
}

static const char *dtype_name(const nm_type *type)
{
    for (int i = 0; i < DTYPES; i++) if (dtypes[i].id == type->id) return dtypes[i].name;
    return NULL;
}

static nm_err count_bytes(const nm_safe_tensor *t, uint64_t *bytes)
{
    int64_t values = 1;
    for (int i = 0; i < t->rank; i++)
        if (t->dim[i] < 0 || __builtin_mul_overflow(values, t->dim[i], &values)) return nm_fail(NM_USAGE, "tensor %s: a shape that cannot be written", t->name);
    return nm_type_bytes(t->type, values, bytes);
}

/* Writes the entry of a tensor whose bytes begin at *at, and moves *at behind them. */
static nm_err put_entry(nm_str *s, const nm_safe_tensor *t, uint64_t *at)
{
    uint64_t bytes;
    if (!dtype_name(t->type) || t->rank > NM_SAFE_RANK) return nm_fail(NM_USAGE, "tensor %s: %s of rank %d cannot be written", t->name, t->type->name, t->rank);
    NM_TRY(count_bytes(t, &bytes));
    NM_TRY(put_text(s, t->name));
    NM_TRY(nm_str_printf(s, ":{\"dtype\":\"%s\",\"shape\":[", dtype_name(t->type)));
    for (int i = 0; i < t->rank; i++) NM_TRY(nm_str_printf(s, "%s%lld", i ? "," : "", (long long)t->dim[i]));
    NM_TRY(nm_str_printf(s, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)*at, (unsigned long long)(*at + bytes)));
    *at += bytes;
    return NM_OK;
}

/* The header, padded with spaces so that the data begins at a multiple of eight. */
static nm_err put_header(nm_str *s, const nm_safe_tensor *tensor, size_t tensors, const nm_safe_meta *meta, size_t metas)
{
    uint64_t at = 0;
    NM_TRY(nm_str_putc(s, '{'));
    if (metas) NM_TRY(put_meta(s, meta, metas));
    for (size_t i = 0; i < tensors; i++) {
        if (i || metas) NM_TRY(nm_str_putc(s, ','));
        NM_TRY(put_entry(s, &tensor[i], &at));
    }
    NM_TRY(nm_str_putc(s, '}'));
    while (s->length % 8) NM_TRY(nm_str_putc(s, ' '));
    return s->length <= HEADER_MOST ? NM_OK : nm_fail(NM_FAILED, "a header of %zu bytes would not be read again", s->length);
}

static nm_err put_file(nm_new_file *file, const nm_str *header, const nm_safe_tensor *tensor, size_t tensors)
{
    uint8_t length[LENGTH_BYTES];
    for (int i = 0; i < LENGTH_BYTES; i++) length[i] = (uint8_t)((uint64_t)header->length >> 8 * i);
    NM_TRY(nm_new_file_write(file, length, sizeof length));
    NM_TRY(nm_new_file_write(file, header->data, header->length));
    for (size_t i = 0; i < tensors; i++) {
        uint64_t bytes;
        NM_TRY(count_bytes(&tensor[i], &bytes));
        NM_TRY(nm_new_file_write(file, tensor[i].data, (size_t)bytes));
    }
    return NM_OK;
}

nm_err nm_safetensors_write(const char *path, const nm_safe_tensor *tensor, size_t tensors, const nm_safe_meta *meta, size_t metas)
{
    nm_str header = {0};
    nm_new_file file = {0};
    nm_err err = NM_OK;
    NM_GOTO(put_header(&header, tensor, tensors, meta, metas));
    NM_GOTO(nm_new_file_open(&file, path));
    err = put_file(&file, &header, tensor, tensors);
    if (err == NM_OK) err = nm_new_file_commit(&file);
    else nm_new_file_abandon(&file);
out:
    nm_str_free(&header);
    return err;
}
