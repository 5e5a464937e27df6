/* A dataset's entries: adding, splitting, counting, questions. */
#include <string.h>

#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "data/data.h"

/* ---- Adding ---------------------------------------------------------------------------------------------------------------------------- */

nm_err nm_data_add_file(nm_dataset *d, const char *name)
{
    NM_TRY(NM_GROW(d->files, d->files_capacity, d->n_files + 1));
    if (!(d->files[d->n_files] = nm_strndup(name, strlen(name)))) return nm_fail_memory(strlen(name));
    d->n_files++;
    d->stats.files++;
    return NM_OK;
}

enum { TOKEN_BYTES = sizeof(int32_t) + 1 };     /* with its mask */
static size_t block_size(size_t least) { return least > NM_DATA_BLOCK ? least : NM_DATA_BLOCK; }

/* Blocks never move: entries point into them. */
static nm_err add_block(nm_dataset *d, size_t least)
{
    NM_TRY(NM_GROW(d->blocks, d->blocks_capacity, d->n_blocks + 1));
    nm_data_block *b = &d->blocks[d->n_blocks];
    *b = (nm_data_block){.capacity = block_size(least)};
    b->ids = nm_calloc(b->capacity, sizeof *b->ids);
    b->mask = b->ids ? nm_malloc(b->capacity) : NULL;
    if (b->mask) {
        d->n_blocks++;
        d->block_bytes += b->capacity * TOKEN_BYTES;
        return NM_OK;
    }
    nm_free(b->ids);
    return nm_fail_memory(b->capacity * sizeof *b->ids);
}

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* Slots of the table in which sequences are looked up: half of them stay free at least. */
static size_t table_slots(size_t n)
{
    size_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    return slots;
}

typedef struct seen { uint64_t hash; uint32_t entry; } seen;     /* entry: 1 + index; 0 = free */

/* Of a run's order and of one that a forecast weighs, and the share of a source that is drawn for one of them. */
static uint64_t order_bytes(const nm_dataset *d) { return (uint64_t)((2 * d->draws + (double)d->n_entries) * sizeof(uint32_t)); }

/* What comes once all are read takes its memory one after the other: the split (units are no more than entries), the table of sequences, orders. */
static uint64_t later_bytes(const nm_dataset *d)
{
    uint64_t split = d->n_entries * (sizeof(uint32_t) + 1 + sizeof(nm_data_entry)), table = table_slots(d->n_entries) * sizeof(seen);
    return larger(larger(split, table), order_bytes(d));
}

/* Whether there is room for `tokens` in a new block (0: in one that there is) and for another entry, whose list lies there twice while it grows. */
static nm_err check_room(const nm_dataset *d, size_t tokens, uint64_t line)
{
    uint64_t list = nm_grown(d->entries_capacity, d->n_entries + 1) * sizeof(nm_data_entry), old = d->entries_capacity * sizeof(nm_data_entry);
    uint64_t need = d->block_bytes + (tokens ? block_size(tokens) * TOKEN_BYTES : 0) + list + larger(list > old ? old : 0, later_bytes(d));
    if (!d->memory || need <= d->memory) return NM_OK;
    return nm_fail(NM_NO_MEMORY, "%s:%llu: up to here the data needs %.2f MB of memory, with what splitting and ordering it takes, and %.2f MB are left for it: "
        "give fewer or shorter rows, smaller weights, or more memory", d->files[d->n_files - 1], (unsigned long long)line, (double)need * 1e-6, (double)d->memory * 1e-6);
}

uint64_t nm_data_left(const nm_dataset *d)
{
    uint64_t held = d->block_bytes + d->entries_capacity * sizeof *d->entries;
    return !d->memory ? 0 : held < d->memory ? d->memory - held : 1;
}

nm_err nm_data_add(nm_dataset *d, const int32_t *ids, const uint8_t *mask, size_t count, uint64_t line, int32_t source, uint64_t unit)
{
    nm_data_block *b = d->n_blocks ? &d->blocks[d->n_blocks - 1] : NULL;
    if (count > INT32_MAX || d->n_entries >= UINT32_MAX) return nm_fail(NM_USAGE, "more than 2^31 tokens in a sequence, or 2^32 sequences: give less data");
    bool full = !b || b->capacity - b->used < count;
    NM_TRY(check_room(d, full ? count : 0, line));
    if (full) {
        NM_TRY(add_block(d, count));
        b = &d->blocks[d->n_blocks - 1];
    }
    NM_TRY(NM_GROW(d->entries, d->entries_capacity, d->n_entries + 1));
    memcpy(b->ids + b->used, ids, count * sizeof *ids);
    memcpy(b->mask + b->used, mask, count);
    nm_data_entry *e = &d->entries[d->n_entries++];
    *e = (nm_data_entry){.ids = b->ids + b->used, .mask = b->mask + b->used, .count = (uint32_t)count, .file = (uint32_t)(d->n_files - 1),
                         .source = source, .line = line, .unit = unit};
    for (size_t i = 0; i < count; i++) e->trained += mask[i];
    b->used += count;
    if (source >= 0) d->draws += d->weights ? d->weights[source] : 1;
    return NM_OK;
}

void nm_dataset_close(nm_dataset **dataset)
{
    nm_dataset *d = *dataset;
    *dataset = NULL;
    if (!d) return;
    for (size_t i = 0; i < d->n_blocks; i++) {
        nm_free(d->blocks[i].ids);
        nm_free(d->blocks[i].mask);
    }
    for (size_t i = 0; i < d->n_files; i++) nm_free(d->files[i]);
    nm_free(d->blocks);
    nm_free(d->files);
    nm_free(d->entries);
    nm_free(d->weights);
    nm_free(d->steps);
    nm_free(d->parts);
    nm_free(d->first_bad);
    nm_free(d->first_duplicate);
    nm_free(d);
}

/* ---- Split ----------------------------------------------------------------------------------------------------------------------------- */

void nm_data_shuffle(uint32_t *items, size_t count, uint64_t seed, uint64_t stream)
{
    for (size_t i = count; i > 1; i--) {
        size_t j = (size_t)(nm_rng_u64(seed, stream, i) % i);
        uint32_t t = items[i - 1];
        items[i - 1] = items[j];
        items[j] = t;
    }
}

/* Entries of chosen units go behind the others; both keep their order. */
static nm_err part(nm_dataset *d, const uint8_t *chosen)
{
    nm_data_entry *moved = nm_calloc(d->n_entries, sizeof *moved);
    size_t n = 0, kept = 0;
    if (!moved) return nm_fail_memory(d->n_entries * sizeof *moved);
    for (size_t i = 0; i < d->n_entries; i++) {
        if (chosen[d->entries[i].unit]) moved[n++] = d->entries[i];
        else d->entries[kept++] = d->entries[i];
    }
    memcpy(d->entries + kept, moved, n * sizeof *moved);
    d->n_train = kept;
    nm_free(moved);
    return NM_OK;
}

static size_t count_chosen(const nm_dataset *d, const uint8_t *chosen)
{
    size_t n = 0;
    for (size_t i = 0; i < d->n_entries; i++) n += chosen[d->entries[i].unit];
    return n;
}

nm_err nm_data_split(nm_dataset *d, double fraction, uint64_t seed, size_t least, size_t most)
{
    if (d->units < 2 && least) return NM_OK;
    if (d->units < 2 || d->units > UINT32_MAX) return nm_fail(NM_USAGE, "a validation split needs two rows at least: give --val a file of its own");
    size_t n = (size_t)d->units, keep = (size_t)((double)n * fraction + 0.5);
    if (most && keep > most) keep = most;
    if (keep < 1) keep = 1;
    if (keep > n - 1) keep = n - 1;
    uint32_t *order = nm_calloc(n, sizeof *order);
    uint8_t *chosen = nm_calloc(n, 1);
    nm_err err = order && chosen ? NM_OK : nm_fail_memory(n * sizeof *order);
    if (err == NM_OK) {
        for (size_t i = 0; i < n; i++) order[i] = (uint32_t)i;
        nm_data_shuffle(order, n, seed, NM_DATA_STREAM(NM_DRAW_SPLIT, 0));
        for (size_t i = 0; i < keep; i++) chosen[order[i]] = 1;
        if (count_chosen(d, chosen) >= least) err = part(d, chosen);
    }
    nm_free(order);
    nm_free(chosen);
    return err;
}

/* ---- Statistics ------------------------------------------------------------------------------------------------------------------------- */

static uint64_t hash_of(const nm_data_entry *e) { return nm_hash(0, e->ids, e->count * sizeof *e->ids); }

static bool same_ids(const nm_data_entry *a, const nm_data_entry *b) { return a->count == b->count && !memcmp(a->ids, b->ids, a->count * sizeof *a->ids); }

static nm_err note_duplicate(nm_dataset *d, const nm_data_entry *a, const nm_data_entry *b)
{
    nm_str s = {0};
    if (d->stats.duplicates++) return NM_OK;
    NM_TRY(nm_str_printf(&s, "%s:%llu is also %s:%llu", d->files[a->file], (unsigned long long)a->line, d->files[b->file], (unsigned long long)b->line));
    d->stats.first_duplicate = d->first_duplicate = nm_str_take(&s, NULL);
    return NM_OK;
}

/* A hash table of the trained sequences, asked for each of validation. */
static nm_err find_duplicates(nm_dataset *d)
{
    size_t slots = table_slots(d->n_train);
    if (d->n_train == d->n_entries) return NM_OK;
    seen *table = nm_calloc(slots, sizeof *table);
    nm_err err = table ? NM_OK : nm_fail_memory(slots * sizeof *table);
    for (size_t i = 0; i < d->n_entries && err == NM_OK; i++) {
        const nm_data_entry *e = &d->entries[i];
        uint64_t h = hash_of(e);
        size_t at = h & (slots - 1);
        while (table[at].entry && !(table[at].hash == h && same_ids(&d->entries[table[at].entry - 1], e))) at = (at + 1) & (slots - 1);
        if (i < d->n_train && !table[at].entry) table[at] = (seen){h, (uint32_t)i + 1};
        else if (i >= d->n_train && table[at].entry) err = note_duplicate(d, e, &d->entries[table[at].entry - 1]);
    }
    nm_free(table);
    return err;
}

nm_err nm_data_finish(nm_dataset *d)
{
    for (size_t i = 0; i < d->n_entries; i++) {
        const nm_data_entry *e = &d->entries[i];
        d->stats.samples++;
        d->stats.tokens += e->count;
        d->stats.trained += e->trained;
        if ((int32_t)e->count > d->stats.longest) d->stats.longest = (int32_t)e->count;
    }
    d->stats.bytes = d->block_bytes + d->entries_capacity * sizeof *d->entries + order_bytes(d);
    return find_duplicates(d);
}

/* ---- Questions ---------------------------------------------------------------------------------------------------------------------------- */

size_t nm_dataset_count(const nm_dataset *d, nm_split split) { return split == NM_SPLIT_TRAIN ? d->n_train : d->n_entries - d->n_train; }
const nm_dataset_stats *nm_dataset_describe(const nm_dataset *d) { return &d->stats; }

nm_sample nm_dataset_sample(const nm_dataset *d, nm_split split, size_t index)
{
    if (index >= nm_dataset_count(d, split)) return (nm_sample){0};
    const nm_data_entry *e = &d->entries[split == NM_SPLIT_TRAIN ? index : d->n_train + index];
    return (nm_sample){.ids = e->ids, .mask = e->mask, .count = (int32_t)e->count, .trained = (int32_t)e->trained, .file = d->files[e->file],
                       .line = e->line, .source = e->source};
}
