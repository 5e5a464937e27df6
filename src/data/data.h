/* Owns the inside of a dataset: token sequences, where their rows stand, and the steps of ready batches. What callers see is in nomoat.h
 * ("Training data"); the trainer needs no more than they do. */
#ifndef NM_DATA_DATA_H
#define NM_DATA_DATA_H

#include "nomoat.h"

enum { NM_DATA_BLOCK = 1 << 18 };       /* tokens that are allocated at a time */

/* A block of tokens and their masks. */
typedef struct nm_data_block { int32_t *ids; uint8_t *mask; size_t used, capacity; } nm_data_block;

typedef struct nm_data_entry {
    const int32_t *ids;
    const uint8_t *mask;
    uint32_t count, trained;
    uint32_t file;              /* index into files */
    int32_t source;             /* -1: validation data of its own */
    uint64_t line, unit;        /* entries of one unit (a row) go to the same side of a split */
} nm_data_entry;

struct nm_dataset {
    nm_data_block *blocks;
    size_t n_blocks, blocks_capacity;
    nm_data_entry *entries;     /* in the order of reading; validation behind training once the split is made */
    size_t n_entries, entries_capacity, n_train;
    char **files;
    size_t n_files, files_capacity;
    double *weights;            /* of the sources */
    size_t n_sources;
    uint64_t units;
    uint32_t *steps;            /* ready batches: end of step i among parts; NULL if there are none */
    size_t n_steps, steps_capacity;
    uint32_t *parts;            /* end of micro-batch i among entries */
    size_t n_parts, parts_capacity;
    uint64_t memory;            /* bytes at most; 0 = any number */
    uint64_t block_bytes;
    double draws;               /* entries of an epoch, by the weights */
    nm_dataset_stats stats;
    char *first_bad, *first_duplicate;
};

/* For making one. All zero is an empty dataset; nm_dataset_close frees it at any time. NM_NO_MEMORY before more than `memory` is taken, now or by what is to come. */
nm_err nm_data_add_file(nm_dataset *d, const char *name);      /* what follows is from it */
nm_err nm_data_add(nm_dataset *d, const int32_t *ids, const uint8_t *mask, size_t count, uint64_t line, int32_t source, uint64_t unit);
/* What the rows that there are leave of `memory` to one that is read; 0: there is no bound. */
uint64_t nm_data_left(const nm_dataset *d);
/* Keeps a share of the units for validation, chosen by the seed; none where that makes fewer than `least` entries, `most` units at most (0 = any number). */
nm_err nm_data_split(nm_dataset *d, double fraction, uint64_t seed, size_t least, size_t most);
/* Counts what is equal on both sides, and the rest of the statistics. */
nm_err nm_data_finish(nm_dataset *d);

/* Shuffles by Fisher and Yates; the same for the same seed and stream. */
void nm_data_shuffle(uint32_t *items, size_t count, uint64_t seed, uint64_t stream);
/* Streams of the seed that this folder draws from; others' are below 2^32. */
#define NM_DATA_STREAM(kind, number) ((uint64_t)1 << 63 | (uint64_t)(kind) << 48 | (uint64_t)(number))
enum { NM_DRAW_SPLIT, NM_DRAW_SHARE, NM_DRAW_ORDER };

#endif
