/* Opening and closing GGUF files, whole or split, and finding things in them by name. Refuses a split that is not complete or whose
 * parts contradict each other. */
#include "format/gguf_file.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/str.h"

nm_err nm_gguf_bad(const nm_gguf *g, uint64_t at, const char *format, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    return nm_fail(NM_BAD_FILE, "%s: byte %llu: %s", g->name, (unsigned long long)at, text);
}

/* ---- Order ---------------------------------------------------------------------------------------------------------- */

/* Sorting rather than hashing: no file can be made that is slow to index or to search. */

typedef int (*compare_fn)(const nm_gguf *g, uint32_t a, uint32_t b);

static int by_key(const nm_gguf *g, uint32_t a, uint32_t b) { return strcmp(g->keys[a].value.key, g->keys[b].value.key); }
static int by_name(const nm_gguf *g, uint32_t a, uint32_t b) { return strcmp(g->tensors[a].tensor.name, g->tensors[b].tensor.name); }

static int by_place(const nm_gguf *g, uint32_t a, uint32_t b)
{
    const nm_gguf_tensor *x = &g->tensors[a].tensor, *y = &g->tensors[b].tensor;
    if (x->file != y->file) return x->file < y->file ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static void merge(const nm_gguf *g, compare_fn compare, const uint32_t *from, size_t middle, size_t end, uint32_t *to)
{
    size_t a = 0, b = middle;
    for (size_t i = 0; i < end; i++) to[i] = b >= end || (a < middle && compare(g, from[a], from[b]) <= 0) ? from[a++] : from[b++];
}

/* 0..count-1 in the order of compare; stable. *order is allocated (nm_free). */
static nm_err sort_indices(const nm_gguf *g, size_t count, compare_fn compare, uint32_t **order)
{
    size_t cells;
    if (count > UINT32_MAX || nm_mul_overflow(count, 2, &cells)) return nm_fail_memory(SIZE_MAX);
    uint32_t *from = nm_calloc(cells, sizeof *from), *start = from;
    if (!from) return nm_fail_memory(cells * sizeof *from);
    uint32_t *to = from + count;
    for (size_t i = 0; i < count; i++) from[i] = (uint32_t)i;
    for (size_t run = 1; run < count; run *= 2) {
        for (size_t at = 0; at < count; at += 2 * run) {
            size_t end = count - at < 2 * run ? count - at : 2 * run;
            merge(g, compare, from + at, run < end ? run : end, end, to + at);
        }
        uint32_t *other = from;
        from = to;
        to = other;
    }
    if (from != start) memcpy(start, from, count * sizeof *start);
    *order = start;
    return NM_OK;
}

nm_err nm_gguf_sort_keys(nm_gguf *g)
{
    NM_TRY(sort_indices(g, g->n_keys, by_key, &g->key_order));
    for (size_t i = 1; i < g->n_keys; i++) {
        const nm_gguf_key *first = &g->keys[g->key_order[i - 1]], *second = &g->keys[g->key_order[i]];
        if (strcmp(first->value.key, second->value.key) == 0)
            return nm_gguf_bad(g, second->at, NM_GGUF_KEY " is there twice, first at byte %llu; the file must be made again",
                second->value.key, (unsigned long long)first->at);
    }
    return NM_OK;
}

static const char *part_name(const nm_gguf *g, int file) { return g->parts[file].map.name ? g->parts[file].map.name : g->name; }

nm_err nm_gguf_sort_tensors(nm_gguf *g)
{
    nm_free(g->tensor_order);
    g->tensor_order = NULL;
    NM_TRY(sort_indices(g, g->n_tensors, by_name, &g->tensor_order));
    for (size_t i = 1; i < g->n_tensors; i++) {
        const nm_gguf_record *first = &g->tensors[g->tensor_order[i - 1]], *second = &g->tensors[g->tensor_order[i]];
        if (strcmp(first->tensor.name, second->tensor.name) == 0)
            return nm_fail(NM_BAD_FILE,
                "%s: byte %llu: " NM_GGUF_TENSOR " is there twice, first at byte %llu of %s; the file must be made again",
                part_name(g, second->tensor.file), (unsigned long long)second->at, second->tensor.name,
                (unsigned long long)first->at, part_name(g, first->tensor.file));
    }
    return NM_OK;
}

nm_err nm_gguf_check_overlap(const nm_gguf *g)
{
    uint32_t *order = NULL;
    nm_err err = NM_OK;
    NM_TRY(sort_indices(g, g->n_tensors, by_place, &order));
    for (size_t i = 1; i < g->n_tensors && err == NM_OK; i++) {
        const nm_gguf_tensor *low = &g->tensors[order[i - 1]].tensor, *high = &g->tensors[order[i]].tensor;
        if (low->file == high->file && low->offset + low->bytes > high->offset)
            err = nm_gguf_bad(g, g->tensors[order[i]].at, NM_GGUF_TENSOR " and " NM_GGUF_TENSOR " overlap at byte %llu" NM_GGUF_DAMAGED,
                low->name, high->name, (unsigned long long)high->offset);
    }
    nm_free(order);
    return err;
}

const nm_gguf_value *nm_gguf_find(const nm_gguf *g, const char *key)
{
    size_t low = 0, high = g->n_keys;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const nm_gguf_value *v = &g->keys[g->key_order[middle]].value;
        int order = strcmp(key, v->key);
        if (order == 0) return v;
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}

const nm_gguf_tensor *nm_gguf_tensor_find(const nm_gguf *g, const char *name)
{
    size_t low = 0, high = g->n_tensors;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const nm_gguf_tensor *t = &g->tensors[g->tensor_order[middle]].tensor;
        int order = strcmp(name, t->name);
        if (order == 0) return t;
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}

/* ---- Opening and closing ---------------------------------------------------------------------------------------------- */

static nm_err make(nm_gguf **out, const char *name, bool metadata_only)
{
    nm_gguf *g = nm_calloc(1, sizeof *g);
    if (!g) return nm_fail_memory(sizeof *g);
    *out = g;
    g->metadata_only = metadata_only;
    g->name = nm_strndup(name, strlen(name));
    return g->name ? NM_OK : nm_fail_memory(strlen(name));
}

void nm_gguf_close(nm_gguf **gguf)
{
    nm_gguf *g = *gguf;
    *gguf = NULL;
    if (!g) return;
    for (size_t i = 0; i < g->n_keys; i++) nm_free((void *)g->keys[i].value.string_at);
    for (size_t i = 0; i < g->n_parts; i++) if (g->parts[i].map.data) nm_map_close(&g->parts[i].map);
    for (nm_gguf_text *t = g->text, *next; t; t = next) {
        next = t->next;
        nm_free(t);
    }
    nm_free(g->parts);
    nm_free(g->keys);
    nm_free(g->tensors);
    nm_free(g->key_order);
    nm_free(g->tensor_order);
    nm_free(g->name);
    nm_free(g);
}

/* The file at path by itself, whatever it says of being split. */
static nm_err open_one(nm_gguf **out, const char *path, bool metadata_only)
{
    NM_TRY(make(out, path, metadata_only));
    nm_gguf *g = *out;
    NM_TRY(NM_GROW(g->parts, g->parts_size, 1));
    nm_gguf_part *part = &g->parts[0];
    NM_TRY(nm_map_open(&part->map, path));
    part->data = part->map.data;
    part->size = part->map.size;
    g->n_parts = 1;
    return nm_gguf_parse(g);
}

/* ---- Splits ----------------------------------------------------------------------------------------------------------- */

/* Part i (from 0) of a split lies at STEM-0000(i+1)-of-0000N.gguf. */
static nm_err part_suffix(nm_str *s, int64_t index, int64_t count)
{
    return nm_str_printf(s, "-%05lld-of-%05lld.gguf", (long long)index + 1, (long long)count);
}

/* Length of STEM, if path is named as the first of `count` parts. */
static nm_err split_stem(const nm_gguf *g, int64_t count, size_t *stem)
{
    nm_str suffix = {0};
    NM_TRY(part_suffix(&suffix, 0, count));
    size_t length = strlen(g->name);
    bool fits = length >= suffix.length && strcmp(g->name + length - suffix.length, suffix.data) == 0;
    nm_err err = fits ? NM_OK : nm_fail(NM_BAD_FILE, "%s: is the first of %lld parts, which are found only if its name ends in %s; rename it",
        g->name, (long long)count, suffix.data);
    *stem = fits ? length - suffix.length : 0;
    nm_str_free(&suffix);
    return err;
}

/* Moves the only part of `more`, with its tensors and their names, into g. */
static nm_err absorb(nm_gguf *g, nm_gguf *more)
{
    size_t tensors;
    if (nm_add_overflow(g->n_tensors, more->n_tensors, &tensors)) return nm_fail_memory(SIZE_MAX);
    NM_TRY(NM_GROW(g->tensors, g->tensors_size, tensors));
    NM_TRY(NM_GROW(g->parts, g->parts_size, g->n_parts + 1));
    for (size_t i = 0; i < more->n_tensors; i++) {
        g->tensors[g->n_tensors + i] = more->tensors[i];
        g->tensors[g->n_tensors + i].tensor.file = (int)g->n_parts;
    }
    g->n_tensors = tensors;
    g->parts[g->n_parts++] = more->parts[0];
    more->n_parts = 0;
    nm_gguf_text **last = &g->text;
    while (*last) last = &(*last)->next;
    *last = more->text;
    more->text = NULL;
    return NM_OK;
}

static nm_err add_part(nm_gguf *g, const char *path, int64_t index, int64_t count)
{
    nm_gguf *more = NULL;
    int64_t said_index = -1, said_count = -1;
    nm_err err = open_one(&more, path, g->metadata_only);
    if (err == NM_NOT_FOUND) nm_fail(err, "%s: no such file; it is part %lld of %lld of %s",
        path, (long long)index + 1, (long long)count, g->name);
    if (err != NM_OK) goto out;
    NM_GOTO(nm_gguf_opt_i64(more, "split.no", INT64_MIN, INT64_MAX, &said_index));
    NM_GOTO(nm_gguf_opt_i64(more, "split.count", INT64_MIN, INT64_MAX, &said_count));
    if (said_index != index || said_count != count)
        err = nm_fail(NM_BAD_FILE, "%s: split.no and split.count are %lld and %lld, expected %lld and %lld; it is no part of %s",
            path, (long long)said_index, (long long)said_count, (long long)index, (long long)count, g->name);
    else err = absorb(g, more);
out:
    nm_gguf_close(&more);
    return err;
}

static nm_err add_parts(nm_gguf *g, int64_t count)
{
    nm_str path = {0};
    size_t stem;
    nm_err err = split_stem(g, count, &stem);
    for (int64_t i = 1; i < count && err == NM_OK; i++) {
        path.length = 0;
        NM_GOTO(nm_str_append(&path, g->name, stem));
        NM_GOTO(part_suffix(&path, i, count));
        err = add_part(g, path.data, i, count);
        if (err == NM_NOT_FOUND && g->metadata_only) err = NM_OK;
    }
    if (err == NM_OK) err = nm_gguf_sort_tensors(g);
out:
    nm_str_free(&path);
    return err;
}

/* Reads the split keys of the first file and, if it has a path, takes in the others. A count of 0 is what merging a split leaves behind. */
static nm_err join_split(nm_gguf *g, bool has_path)
{
    int64_t count = 0, index = 0, tensors = -1;
    NM_TRY(nm_gguf_opt_i64(g, "split.count", 0, 65535, &count));
    if (count <= 1) return NM_OK;
    NM_TRY(nm_gguf_opt_i64(g, "split.no", 0, count - 1, &index));
    NM_TRY(nm_gguf_opt_i64(g, "split.tensors.count", 0, INT32_MAX, &tensors));
    if (index != 0) return nm_fail(NM_BAD_FILE, "%s: is part %lld of %lld of a split; open the first part",
        g->name, (long long)index + 1, (long long)count);
    if (has_path) NM_TRY(add_parts(g, count));
    else if (!g->metadata_only) return nm_fail(NM_BAD_FILE,
        "%s: is one of %lld parts of a split and cannot be opened from memory; open it by path", g->name, (long long)count);
    if (!g->metadata_only && tensors >= 0 && (uint64_t)tensors != g->n_tensors)
        return nm_fail(NM_BAD_FILE, "%s: split.tensors.count is %lld, but the %lld parts hold %zu tensors",
            g->name, (long long)tensors, (long long)count, g->n_tensors);
    return NM_OK;
}

nm_err nm_gguf_open(nm_gguf **out, const char *path, bool metadata_only)
{
    *out = NULL;
    nm_err err = open_one(out, path, metadata_only);
    if (err == NM_OK) err = join_split(*out, true);
    if (err != NM_OK) nm_gguf_close(out);
    return err;
}

nm_err nm_gguf_open_memory(nm_gguf **out, const void *data, size_t size, const char *name, bool metadata_only)
{
    *out = NULL;
    nm_err err = make(out, name, metadata_only);
    if (err == NM_OK) err = NM_GROW((*out)->parts, (*out)->parts_size, 1);
    if (err == NM_OK) {
        (*out)->parts[0] = (nm_gguf_part){.data = data, .size = size};
        (*out)->n_parts = 1;
        err = nm_gguf_parse(*out);
    }
    if (err == NM_OK) err = join_split(*out, false);
    if (err != NM_OK) nm_gguf_close(out);
    return err;
}

/* ---- Small answers ------------------------------------------------------------------------------------------------------ */

const char *nm_gguf_name(const nm_gguf *g) { return g->name; }
size_t nm_gguf_value_count(const nm_gguf *g) { return g->n_keys; }
const nm_gguf_value *nm_gguf_value_at(const nm_gguf *g, size_t index) { return &g->keys[index].value; }
size_t nm_gguf_tensor_count(const nm_gguf *g) { return g->n_tensors; }
const nm_gguf_tensor *nm_gguf_tensor_at(const nm_gguf *g, size_t index) { return &g->tensors[index].tensor; }

size_t nm_gguf_tensor_index(const nm_gguf *g, const nm_gguf_tensor *tensor)
{
    return (size_t)((const nm_gguf_record *)((const char *)tensor - offsetof(nm_gguf_record, tensor)) - g->tensors);
}

uint64_t nm_gguf_file_bytes(const nm_gguf *g)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < g->n_parts; i++) bytes += g->parts[i].size;
    return bytes;
}

void nm_gguf_forget(const nm_gguf *g, const void *from, size_t bytes)
{
    for (size_t i = 0; i < g->n_parts; i++) {
        const nm_gguf_part *part = &g->parts[i];
        uintptr_t at = (uintptr_t)from - (uintptr_t)part->data;
        if (part->map.data && at < part->size && bytes <= part->size - at) nm_map_forget(&part->map, from, bytes);
    }
}

void nm_gguf_forget_all(const nm_gguf *g)
{
    for (size_t i = 0; i < g->n_parts; i++) nm_map_forget(&g->parts[i].map, g->parts[i].data, g->parts[i].size);
}

/* ---- Identity -------------------------------------------------------------------------------------------------------------- */

/* Where the data of a part's tensors begins. */
static uint64_t data_begins(const nm_gguf *g, int part)
{
    uint64_t first = g->parts[part].size;
    for (size_t i = 0; i < g->n_tensors; i++)
        if (g->tensors[i].tensor.file == part && g->tensors[i].tensor.offset < first) first = g->tensors[i].tensor.offset;
    return first;
}

/* Few, because each may be a read from a cold disk; where inode and times say the same of two contents, by a file system that makes them up, these
 * still tell apart models that were taught differently. */
static uint64_t hash_samples(const nm_gguf_part *p, uint64_t from)
{
    enum { SAMPLES = 16, BYTES = 64 };
    uint64_t h = 0, room = p->size - from;
    for (uint64_t i = 0; i < SAMPLES && room >= BYTES; i++) h = nm_hash(h, p->data + from + (room - BYTES) / (SAMPLES - 1) * i, BYTES);
    return h;
}

nm_err nm_gguf_identity(const nm_gguf *g, uint64_t **words, size_t *count)
{
    *count = 0;
    uint64_t *w = *words = nm_calloc(g->n_parts, NM_GGUF_IDENTITY * sizeof **words);
    if (!w) return nm_fail_memory(g->n_parts * NM_GGUF_IDENTITY * sizeof *w);
    for (size_t i = 0; i < g->n_parts; i++, w += NM_GGUF_IDENTITY) {
        const nm_gguf_part *p = &g->parts[i];
        if (!p->map.data || !nm_file_is_settled(&p->map.id)) return NM_OK;
        uint64_t from = data_begins(g, (int)i);
        const uint64_t all[NM_GGUF_IDENTITY] = {p->map.id.device, p->map.id.inode, p->map.id.size, p->map.id.modified_ns, p->map.id.changed_ns,
            nm_hash_wide(0, p->data, from), hash_samples(p, from)};
        memcpy(w, all, sizeof all);
    }
    *count = g->n_parts * NM_GGUF_IDENTITY;
    return NM_OK;
}
