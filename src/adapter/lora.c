/* Adapters in memory: pairs, their order and their hash; and which kind of file a path holds. */
#include "adapter/lora.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"
#include "os/map.h"

static void free_pair(nm_pair *p)
{
    nm_free(p->name);
    nm_free(p->a);
    nm_free(p->b);
    nm_free(p->m);
    *p = (nm_pair){0};
}

void nm_lora_free(nm_lora *l)
{
    for (size_t i = 0; i < l->pairs; i++) free_pair(&l->pair[i]);
    nm_free(l->pair);
    nm_free(l->path);
    nm_free(l->base);
    nm_free(l->arch);
    *l = (nm_lora){0};
}

static nm_err check_sizes(const nm_lora *l, const char *what, int64_t in, int64_t out, int64_t rank)
{
    if (rank < 1 || rank > NM_MOST_RANK)
        return nm_fail(NM_BAD_FILE, "%s: %s: a rank of %lld makes no sense: 1 to %d can be run", l->path, what, (long long)rank, NM_MOST_RANK);
    if (in >= 1 && out >= 1 && in <= NM_MOST_SIDE && out <= NM_MOST_SIDE) return NM_OK;
    return nm_fail(NM_BAD_FILE, "%s: %s: a map of %lld inputs and %lld outputs makes no sense", l->path, what, (long long)in, (long long)out);
}

nm_err nm_lora_add(nm_lora *l, const char *name, const char *what, bool embedding, int64_t in, int64_t out, int64_t rank, nm_pair **pair)
{
    *pair = NULL;
    NM_TRY(check_sizes(l, what, in, out, rank));
    NM_TRY(NM_GROW(l->pair, l->capacity, l->pairs + 1));
    nm_pair p = {.embedding = embedding, .in = in, .out = out, .rank = rank, .scale = 1};
    p.name = nm_strndup(name, strlen(name));
    p.a = nm_calloc((size_t)rank, (size_t)in * sizeof *p.a);
    p.b = nm_calloc((size_t)rank, (size_t)out * sizeof *p.b);
    if (!p.name || !p.a || !p.b) {
        free_pair(&p);
        return nm_fail_memory((size_t)(in + out) * (size_t)rank * sizeof *p.a);
    }
    l->pair[l->pairs] = p;
    *pair = &l->pair[l->pairs++];
    return NM_OK;
}

nm_err nm_pair_add_magnitudes(nm_pair *p)
{
    p->m = nm_calloc((size_t)p->out, sizeof *p->m);
    return p->m ? NM_OK : nm_fail_memory((size_t)p->out * sizeof *p->m);
}

nm_err nm_lora_need_plain(const nm_lora *l, const char *why)
{
    for (size_t i = 0; i < l->pairs; i++)
        if (l->pair[i].m) return nm_fail(NM_REFUSED, "%s: %.120s is DoRA, which also sets the length of each row: %s", l->path, l->pair[i].name, why);
    return NM_OK;
}

static int by_name(const void *a, const void *b) { return strcmp(((const nm_pair *)a)->name, ((const nm_pair *)b)->name); }

nm_err nm_lora_sort(nm_lora *l)
{
    if (l->pairs) qsort(l->pair, l->pairs, sizeof *l->pair, by_name);
    for (size_t i = 1; i < l->pairs; i++)
        if (!strcmp(l->pair[i - 1].name, l->pair[i].name))
            return nm_fail(NM_BAD_FILE, "%s: the map %.120s is there twice: the adapter must be made again", l->path, l->pair[i].name);
    return NM_OK;
}

const nm_pair *nm_lora_find(const nm_lora *l, const char *name)
{
    const nm_pair key = {.name = (char *)name};
    return l->pairs ? bsearch(&key, l->pair, l->pairs, sizeof *l->pair, by_name) : NULL;
}

void nm_pair_append(nm_pair *to, int64_t at, const nm_pair *from, float factor)
{
    float scale = factor * from->scale;
    for (int64_t r = 0; r < from->rank; r++) {
        for (int64_t i = 0; i < from->in; i++) {
            if (from->embedding) to->a[i * to->rank + at + r] = from->a[i * from->rank + r];
            else to->a[(at + r) * to->in + i] = from->a[r * from->in + i];
        }
        for (int64_t i = 0; i < from->out; i++) to->b[i * to->rank + at + r] = scale * from->b[i * from->rank + r];
    }
}

uint64_t nm_lora_hash(const nm_lora *l)
{
    uint64_t h = 0;
    for (size_t i = 0; i < l->pairs; i++) {
        const nm_pair *p = &l->pair[i];
        const int64_t sizes[] = {p->in, p->out, p->rank, p->embedding};
        h = nm_hash(h, p->name, strlen(p->name));
        h = nm_hash(h, sizes, sizeof sizes);
        h = nm_hash(h, &p->scale, sizeof p->scale);
        h = nm_hash(h, p->a, (size_t)(p->rank * p->in) * sizeof *p->a);
        h = nm_hash(h, p->b, (size_t)(p->rank * p->out) * sizeof *p->b);
        if (p->m) h = nm_hash(h, p->m, (size_t)p->out * sizeof *p->m);
    }
    return h;
}

/* ---- Which kind of file ---------------------------------------------------------------------------------------------------------------- */

static bool is_gguf(const nm_map *map) { return map->size >= 4 && !memcmp(map->data, "GGUF", 4); }

static bool exists(const char *folder, const char *name)
{
    nm_str path = {0};
    struct stat st;
    bool found = nm_str_printf(&path, "%s/%s", folder, name) == NM_OK && !stat(path.data, &st);
    nm_str_free(&path);
    return found;
}

static nm_err read_beside(nm_lora *l, const char *folder, int length, const char *weights)
{
    nm_str config = {0};
    nm_err err = nm_str_printf(&config, "%.*s/adapter_config.json", length, folder);
    if (err == NM_OK) err = nm_lora_read_peft(l, weights, config.data);
    nm_str_free(&config);
    return err;
}

static nm_err read_folder(nm_lora *l, const char *folder)
{
    nm_str weights = {0};
    if (!exists(folder, "adapter_model.safetensors") && exists(folder, "adapter_model.bin"))
        return nm_fail(NM_REFUSED, "%s: adapter_model.bin is a Python pickle, which may run code: save the adapter as safetensors", folder);
    nm_err err = nm_str_printf(&weights, "%s/adapter_model.safetensors", folder);
    if (err == NM_OK) err = read_beside(l, folder, (int)strlen(folder), weights.data);
    nm_str_free(&weights);
    return err;
}

nm_err nm_lora_read(nm_lora *l, const char *path)
{
    struct stat st;
    nm_map map;
    *l = (nm_lora){0};
    if (!stat(path, &st) && S_ISDIR(st.st_mode)) return read_folder(l, path);
    NM_TRY(nm_map_open(&map, path));
    bool gguf = is_gguf(&map);
    nm_map_close(&map);
    if (gguf) return nm_lora_read_gguf(l, path);
    const char *slash = strrchr(path, '/');
    return slash ? read_beside(l, path, slash > path ? (int)(slash - path) : 1, path) : read_beside(l, ".", 1, path);
}

void nm_lora_set_format(nm_lora *lora, const char *name)
{
    size_t n = name ? strlen(name) : 0;
    bool word = n && n < sizeof lora->prompt_format && !name[strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-")];
    memset(lora->prompt_format, 0, sizeof lora->prompt_format);
    if (word) memcpy(lora->prompt_format, name, n);
}
