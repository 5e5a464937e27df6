/* Owns a vocabulary as the bytes that its tokens show, as a tree of shared beginnings: what can be said of a beginning is said once for all tokens that have it. */
#ifndef NM_TEXT_TRIE_H
#define NM_TEXT_TRIE_H

#include <stdint.h>

#include "nomoat.h"

/* Stands before and behind the text of a control token, which shows nothing and so must not be met as text. No character has this byte; tokens that show it are not in the tree. */
enum { NM_TRIE_CONTROL = 0xff };

/* Nodes in the order of a walk that goes down first; the root is not among them. Tokens that end a turn and those without text are not in it. */
typedef struct nm_trie {
    uint32_t n_nodes, deepest;
    uint8_t *byte;              /* of each node */
    uint32_t *depth;            /* from 1 */
    uint32_t *skip;             /* the next node that is not below */
    uint32_t *first;            /* n_nodes + 1: the tokens that end at node i are ids[first[i]] .. ids[first[i + 1] - 1] */
    int32_t *ids;
    size_t nodes_capacity;
    char *text;                 /* of all tokens; token i: text + at[i] .. text + at[i + 1] */
    uint32_t *at;
    int32_t *ends;              /* tokens that end a turn */
    int32_t n, n_ids, n_ends;   /* n: of the vocabulary */
} nm_trie;

/* Made once, by the first who asks, and kept until the tokenizer is closed; any number of threads may ask. NM_REFUSED for WordPiece, whose tokens show
 * something else at each place. */
nm_err nm_tokenizer_trie(const nm_tokenizer *tokenizer, const nm_trie **trie);
void nm_trie_free(nm_trie *trie);

#endif
