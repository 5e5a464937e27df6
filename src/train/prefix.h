/* Owns what the sequences of a pass have in common: rows behind the same beginning are the same forward, to the bit, so each is computed once, and what
 * backward reads is then laid where its row is looked for. Of short chats with one system prompt, and of instructions in one template, a third to a half
 * are such rows. Refuses backward itself: there every row has a gradient of its own, and the order of the folds is the pass's. */
#ifndef NM_TRAIN_PREFIX_H
#define NM_TRAIN_PREFIX_H

#include "program/program.h"

typedef struct nm_prefix {      /* memory for max_rows, and max_sequences, of them */
    int64_t rows;               /* that are computed */
    nm_row *row;                /* in the order of the pass */
    nm_seq *seq;                /* a sequence's own rows begin behind what it shares */
    int32_t *at;                /* by row of the pass: the computed row that it is */
    int32_t *copy_from, *copy_seq;  /* for the exec: other sequences whose pages a computed row's key and value go to */
} nm_prefix;

nm_err nm_prefix_open(nm_prefix *prefix, int64_t max_rows, int64_t max_sequences);
void nm_prefix_close(nm_prefix *prefix);
/* Finds what the sequences share. row: of the pass, with one stack for all; every sequence begins at position 0. */
void nm_prefix_find(nm_prefix *prefix, const nm_row *row, const nm_seq *seq, int32_t seqs);
/* Behind the forward walk of the body: rows of all values that the head or backward reads, from where they were computed to where they belong. */
nm_err nm_prefix_spread(const nm_prefix *prefix, const nm_plan *plan, const nm_exec *exec, int64_t rows);

#endif
