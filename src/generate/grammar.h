/* Owns a compiled grammar: nodes over bytes, to be run by the automaton. Text is seen as bytes, so that tokens may end within a character;
 * characters and classes of them have become sets of bytes that follow each other as UTF-8 has it.
 *
 * Every rule is compiled to what it stands for less the empty text: where a rule may be empty, its callers go round the call. So a call always
 * reads something, no loop is without end, and a rule begins with itself only where the grammar is left-recursive, which is refused. */
#ifndef NM_GENERATE_GRAMMAR_H
#define NM_GENERATE_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nomoat.h"

typedef enum nm_node_kind {
    NM_NODE_CHAR,       /* reads a byte of set `what` and goes on at `next` */
    NM_NODE_CALL,       /* runs rule `what`, then goes on at `next` */
    NM_NODE_SPLIT,      /* goes on at `what` and at `next` */
    NM_NODE_STOP        /* NM_END: of a rule; NM_ACCEPT: of the text */
} nm_node_kind;
enum { NM_END, NM_ACCEPT, NM_FIRST_NODE };      /* the first nodes */
typedef struct nm_node { uint32_t kind, what, next; } nm_node;

/* The bytes that may be read at a place: those that end a character, and those behind which more bytes of it follow. */
typedef struct nm_byte_edge { uint32_t node; uint8_t low, high; } nm_byte_edge;     /* node: a CHAR before NM_END */
typedef struct nm_byte_set {
    uint32_t done[8];           /* bit b % 32 of word b / 32 */
    uint32_t edge, n_edges;     /* into edges */
    uint32_t node;              /* CHAR of this set before NM_END; 0: none yet */
} nm_byte_set;

struct nm_grammar {
    nm_node *nodes;
    size_t n_nodes, nodes_capacity;
    nm_byte_set *sets;
    size_t n_sets, sets_capacity;
    nm_byte_edge *edges;
    size_t n_edges, edges_capacity;
    uint32_t *entry;            /* of each rule; a rule begins only with calls of rules behind it */
    uint32_t n_rules, root;
    bool root_reads, root_empty;    /* root stands for some text that is not empty; for the empty one */
};

static inline bool nm_byte_set_has(const nm_byte_set *s, unsigned byte) { return s->done[byte >> 5] >> (byte & 31) & 1; }

#endif
