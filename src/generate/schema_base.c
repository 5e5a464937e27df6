/* Owns the translation's arena, its table of interned keys, and messages that say where in the schema a fault lies. */
#include "generate/schema.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

struct nm_block { nm_block *next; size_t used, size; _Alignas(16) char bytes[]; };
enum { BLOCK = 1 << 16 };

static nm_err add_block(nm_schema *s, size_t bytes)
{
    size_t size = bytes > BLOCK ? bytes : BLOCK;
    if (size > NM_SCHEMA_ARENA - s->used) return nm_fail(NM_USAGE, "the schema needs more than %d MiB to translate: make it smaller", NM_SCHEMA_ARENA >> 20);
    nm_block *block = nm_malloc(sizeof *block + size);
    if (!block) return nm_fail_memory(sizeof *block + size);
    block->size = size;
    block->used = 0;
    block->next = s->blocks;
    s->blocks = block;
    s->used += size;
    return NM_OK;
}

nm_err nm_schema_take(nm_schema *s, void **out, size_t count, size_t size)
{
    size_t bytes;
    *out = NULL;
    if (nm_mul_overflow(count, size, &bytes) || bytes > NM_SCHEMA_ARENA) return nm_fail(NM_USAGE, "the schema is too large to translate: make it smaller");
    bytes = (bytes + 15) & ~(size_t)15;
    if (!s->blocks || s->blocks->size - s->blocks->used < bytes) NM_TRY(add_block(s, bytes));
    *out = s->blocks->bytes + s->blocks->used;
    memset(*out, 0, bytes);
    s->blocks->used += bytes;
    return NM_OK;
}

nm_err nm_schema_more(nm_schema *s, void **array, size_t *capacity, size_t need, size_t size)
{
    if (need <= *capacity) return NM_OK;
    size_t more = need > 2 * *capacity ? need : 2 * *capacity;
    if (more < 4) more = 4;
    void *grown;
    NM_TRY(nm_schema_take(s, &grown, more, size));
    if (*capacity) memcpy(grown, *array, *capacity * size);
    *array = grown;
    *capacity = more;
    return NM_OK;
}

nm_mark nm_schema_mark(const nm_schema *s) { return (nm_mark){s->blocks, s->blocks ? s->blocks->used : 0}; }

void nm_schema_forget(nm_schema *s, nm_mark mark)
{
    while (s->blocks != mark.block) {
        nm_block *next = s->blocks->next;
        s->used -= s->blocks->size;
        nm_free(s->blocks);
        s->blocks = next;
    }
    if (s->blocks) s->blocks->used = mark.used;
}

void nm_schema_release(nm_schema *s) { nm_schema_forget(s, (nm_mark){0}); }

nm_err nm_schema_work(nm_schema *s, size_t steps)
{
    s->work += steps;
    return s->work <= NM_SCHEMA_WORK ? NM_OK : nm_fail(NM_USAGE, "the schema is too complex to translate: make it smaller");
}

/* ---- Interned keys ------------------------------------------------------------------------------------------------------------------ */

static void put_slot(nm_intern *in, size_t entry)
{
    size_t at = in->entries[entry].hash & (in->n_slots - 1);
    while (in->slots[at]) at = (at + 1) & (in->n_slots - 1);
    in->slots[at] = (uint32_t)entry + 1;
}

static nm_err grow_slots(nm_schema *s, nm_intern *in)
{
    if (2 * (in->count + 1) <= in->n_slots) return NM_OK;
    size_t n = in->n_slots ? 2 * in->n_slots : 16;
    NM_TRY(NM_TAKE(s, in->slots, n));
    in->n_slots = n;
    for (size_t i = 0; i < in->count; i++) put_slot(in, i);
    return NM_OK;
}

nm_err nm_intern_add(nm_schema *s, nm_intern *in, const void *key, size_t length, uint32_t *number, bool *fresh)
{
    NM_TRY(grow_slots(s, in));
    uint64_t hash = nm_hash(0, key, length);
    for (size_t at = hash & (in->n_slots - 1); in->slots[at]; at = (at + 1) & (in->n_slots - 1)) {
        *number = in->slots[at] - 1;
        *fresh = false;
        if (in->entries[*number].hash == hash && in->entries[*number].length == length && (!length || !memcmp(in->entries[*number].bytes, key, length)))
            return NM_OK;
    }
    char *bytes;
    NM_TRY(NM_TAKE(s, bytes, length + 1));
    if (length) memcpy(bytes, key, length);
    NM_TRY(NM_MORE(s, in->entries, in->capacity, in->count + 1));
    in->entries[in->count].bytes = bytes;
    in->entries[in->count].length = length;
    in->entries[in->count].hash = hash;
    put_slot(in, in->count);
    *number = (uint32_t)in->count++;
    *fresh = true;
    return NM_OK;
}

/* ---- Places ------------------------------------------------------------------------------------------------------------------------- */

static nm_err put_step(nm_str *path, const char *key)
{
    NM_TRY(nm_str_putc(path, '/'));
    for (; *key; key++) {
        if (*key == '~') NM_TRY(nm_str_puts(path, "~0"));
        else if (*key == '/') NM_TRY(nm_str_puts(path, "~1"));
        else NM_TRY(nm_str_putc(path, *key));
    }
    return NM_OK;
}

/* Appends the way from `tree` to `at`, if there is one. The depth is that of JSON (512). */
static nm_err find_place(nm_str *path, const nm_json *tree, const nm_json *at, bool *found)
{
    size_t length = path->length, n = tree->kind == NM_JSON_OBJECT ? tree->object.count : tree->kind == NM_JSON_ARRAY ? tree->array.count : 0;
    *found = tree == at;
    for (size_t i = 0; i < n && !*found; i++) {
        const nm_json *child = tree->kind == NM_JSON_OBJECT ? &tree->object.values[i] : &tree->array.items[i];
        if (tree->kind == NM_JSON_OBJECT) NM_TRY(put_step(path, tree->object.keys[i]));
        else NM_TRY(nm_str_printf(path, "/%zu", i));
        NM_TRY(find_place(path, child, at, found));
        if (!*found) path->data[path->length = length] = 0;
    }
    return NM_OK;
}

static nm_err place_of(nm_schema *s, nm_str *path, const nm_json *at, const char *key)
{
    bool found;
    NM_TRY(nm_str_puts(path, "schema: #"));
    NM_TRY(find_place(path, s->root, at, &found));
    return key ? put_step(path, key) : NM_OK;
}

nm_err nm_schema_fail_in(nm_schema *s, nm_err err, const nm_json *at, const char *key)
{
    if (err == NM_NO_MEMORY) return err;
    nm_str path = {0};
    nm_err placed = place_of(s, &path, at, key);
    err = placed == NM_OK ? nm_fail_in(err, path.data) : placed;
    nm_str_free(&path);
    return err;
}

nm_err nm_schema_fail(nm_schema *s, const nm_json *at, const char *key, const char *format, ...)
{
    char line[400];
    va_list list;
    va_start(list, format);
    vsnprintf(line, sizeof line, format, list);
    va_end(list);
    return nm_schema_fail_in(s, nm_fail(NM_USAGE, "%s", line), at, key);
}
