/* Owns the run of a grammar over bytes: an automaton with a stack, made deterministic as far as it is used.
 *
 * A state is a set of pairs: a node that reads, and what its rule may return to. The latter is a stack set: again a set of pairs of a node and a stack set.
 * All calls of a rule at one place share one stack set (Scott and Johnstone 2010 do so in GLL), so that choices which begin alike cost no more than their
 * number however deep they nest. Equal sets are one set: states that were met are remembered with where each byte leads. */
#ifndef NM_GENERATE_AUTOMATON_H
#define NM_GENERATE_AUTOMATON_H

#include "generate/grammar.h"

enum {
    NM_STATE_DEAD = 0,          /* the empty set: no text goes on from here */
    NM_STATES_MOST = 8192,      /* remembered, a kilobyte each; beyond them, and beyond pairs, what is not needed is forgotten */
    NM_PAIRS_MOST = 1 << 20,
    NM_WORK_MOST = 1 << 24      /* pairs looked at within one call, a quarter of a second or so: more is refused */
};
#define NM_STATE_UNKNOWN UINT32_MAX

typedef struct nm_pair { uint32_t node, stack; } nm_pair;
typedef struct nm_pair_list { uint32_t first, count, hash; } nm_pair_list;
/* Sets of pairs, each in order and there once. The set 0 is empty; a set is younger than those that its pairs name. */
typedef struct nm_pairs {
    nm_pair *pair;
    size_t n_pairs, pairs_capacity;
    nm_pair_list *list;
    size_t n_lists, lists_capacity;
    uint32_t *slot;             /* hash -> list, 0 is free; a power of two */
    size_t n_slots;
} nm_pairs;

typedef struct nm_call { nm_pair to; uint32_t next; } nm_call;
typedef struct nm_seen { uint64_t key; uint32_t round; } nm_seen;

typedef struct nm_automaton {
    const nm_grammar *g;
    nm_pairs stacks, states;
    uint32_t *next;             /* state x 256 + byte -> state */
    size_t next_capacity;
    uint32_t begin;
    uint64_t work;              /* pairs looked at since its owner set it to 0 */
    /* Of a step: what is to be followed, what was followed before, what was found, calls by rule. */
    nm_pair *todo;
    size_t n_todo, todo_capacity;
    nm_seen *seen;
    size_t n_seen, seen_capacity;
    uint32_t round;
    nm_pair *found;
    size_t n_found, found_capacity;
    nm_call *calls;             /* from 1 */
    size_t n_calls, calls_capacity;
    uint32_t *head;             /* of each rule */
    uint64_t *pending;          /* bit per rule */
    nm_pair *frames;
    size_t n_frames, frames_capacity;
} nm_automaton;

nm_err nm_automaton_open(nm_automaton **out, const nm_grammar *grammar);
void nm_automaton_close(nm_automaton **automaton);
static inline uint32_t nm_automaton_start(const nm_automaton *a) { return a->begin; }
/* True where the text may end. */
static inline bool nm_automaton_accepts(const nm_automaton *a, uint32_t state)
{
    const nm_pair_list *l = &a->states.list[state];
    return l->count && a->states.pair[l->first].node == NM_ACCEPT;
}
/* True where the text can go on. */
static inline bool nm_automaton_reads(const nm_automaton *a, uint32_t state) { return a->states.list[state].count > (nm_automaton_accepts(a, state) ? 1 : 0); }

nm_err nm_automaton_find(nm_automaton *a, uint32_t state, unsigned char byte, uint32_t *next);
/* Where a byte leads. NM_FAILED where the grammar allows so many ways that following them would take too long. */
static inline nm_err nm_automaton_next(nm_automaton *a, uint32_t state, unsigned char byte, uint32_t *next)
{
    uint32_t known = a->next[(size_t)state << 8 | byte];
    if (known == NM_STATE_UNKNOWN) return nm_automaton_find(a, state, byte, next);
    *next = known;
    return NM_OK;
}
static inline bool nm_automaton_full(const nm_automaton *a)
{
    return a->states.n_lists > NM_STATES_MOST || a->states.n_pairs > NM_PAIRS_MOST || a->stacks.n_pairs > NM_PAIRS_MOST || a->stacks.n_lists > NM_PAIRS_MOST;
}
/* Forgets all but these states and the first one; they are named anew. NM_FAILED if that leaves it full, or was done too often within one call: what is looked
 * at is work, too. */
nm_err nm_automaton_collect(nm_automaton *a, uint32_t *states, size_t count);

#endif
