/* Steps of the automaton: from a state and a byte to the next state, and forgetting. */
#include "generate/automaton.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"

/* ---- Sets of pairs --------------------------------------------------------------------------------------------------------------- */

static uint64_t pair_key(nm_pair p) { return (uint64_t)p.node << 32 | p.stack; }

static int by_key(const void *a, const void *b)
{
    uint64_t x = pair_key(*(const nm_pair *)a), y = pair_key(*(const nm_pair *)b);
    return (x > y) - (x < y);
}

/* Puts them in order, each once; returns how many. Most sets are of one to three. */
static size_t arrange(nm_pair *p, size_t n)
{
    size_t kept = 0;
    if (n > 16) qsort(p, n, sizeof *p, by_key);
    for (size_t i = 1; n <= 16 && i < n; i++) {
        nm_pair moving = p[i];
        size_t at = i;
        for (; at && pair_key(p[at - 1]) > pair_key(moving); at--) p[at] = p[at - 1];
        p[at] = moving;
    }
    for (size_t i = 0; i < n; i++)
        if (!kept || pair_key(p[kept - 1]) != pair_key(p[i])) p[kept++] = p[i];
    return kept;
}

static uint32_t hash_pairs(const nm_pair *p, size_t n)
{
    uint64_t h = n;
    for (size_t i = 0; i < n; i++) h = nm_hash_word(h, pair_key(p[i]));
    return (uint32_t)(h ^ h >> 32);
}

/* At most half full, so that a search ends. */
static nm_err grow_slots(nm_pairs *s)
{
    if (2 * (s->n_lists + 1) <= s->n_slots) return NM_OK;
    size_t n = s->n_slots ? 2 * s->n_slots : 64;
    uint32_t *slot = nm_calloc(n, sizeof *slot);
    if (!slot) return nm_fail_memory(n * sizeof *slot);
    for (uint32_t i = 1; i < s->n_lists; i++) {
        size_t k = s->list[i].hash & (n - 1);
        while (slot[k]) k = (k + 1) & (n - 1);
        slot[k] = i;
    }
    nm_free(s->slot);
    s->slot = slot;
    s->n_slots = n;
    return NM_OK;
}

/* The set of these pairs, which are in order. */
static nm_err intern(nm_pairs *s, const nm_pair *p, size_t n, uint32_t *index)
{
    *index = 0;
    if (!n) return NM_OK;
    NM_TRY(grow_slots(s));
    uint32_t hash = hash_pairs(p, n);
    size_t k = hash & (s->n_slots - 1);
    for (; s->slot[k]; k = (k + 1) & (s->n_slots - 1)) {
        const nm_pair_list *l = &s->list[s->slot[k]];
        *index = s->slot[k];
        if (l->hash == hash && l->count == n && !memcmp(s->pair + l->first, p, n * sizeof *p)) return NM_OK;
    }
    NM_TRY(NM_GROW(s->pair, s->pairs_capacity, s->n_pairs + n));
    NM_TRY(NM_GROW(s->list, s->lists_capacity, s->n_lists + 1));
    memcpy(s->pair + s->n_pairs, p, n * sizeof *p);
    *index = (uint32_t)s->n_lists;
    s->list[s->n_lists++] = (nm_pair_list){(uint32_t)s->n_pairs, (uint32_t)n, hash};
    s->n_pairs += n;
    s->slot[k] = *index;
    return NM_OK;
}

static nm_err open_pairs(nm_pairs *s)
{
    NM_TRY(NM_GROW(s->list, s->lists_capacity, 1));
    s->list[0] = (nm_pair_list){0};
    s->n_lists = 1;
    return NM_OK;
}

static void free_pairs(nm_pairs *s)
{
    nm_free(s->pair);
    nm_free(s->list);
    nm_free(s->slot);
}

/* ---- One step --------------------------------------------------------------------------------------------------------------------- */

static nm_err too_much(void)
{
    return nm_fail(NM_FAILED, "the grammar can be read in too many ways at once here: give its choices beginnings that differ, or repeat fewer times");
}

static nm_err grow_seen(nm_automaton *a)
{
    if (2 * (a->n_seen + 1) <= a->seen_capacity) return NM_OK;
    size_t n = a->seen_capacity ? 2 * a->seen_capacity : 64;
    nm_seen *seen = nm_calloc(n, sizeof *seen);
    if (!seen) return nm_fail_memory(n * sizeof *seen);
    for (size_t i = 0; i < a->seen_capacity; i++) {
        if (a->seen[i].round != a->round) continue;
        size_t k = nm_hash_word(0, a->seen[i].key) & (n - 1);
        while (seen[k].round) k = (k + 1) & (n - 1);
        seen[k] = a->seen[i];
    }
    nm_free(a->seen);
    a->seen = seen;
    a->seen_capacity = n;
    return NM_OK;
}

/* To be followed, unless it was. */
static nm_err reach(nm_automaton *a, uint32_t node, uint32_t stack)
{
    nm_pair p = {node, stack};
    if (++a->work > NM_WORK_MOST) return too_much();
    NM_TRY(grow_seen(a));
    uint64_t key = pair_key(p);
    size_t k = nm_hash_word(0, key) & (a->seen_capacity - 1);
    for (; a->seen[k].round == a->round; k = (k + 1) & (a->seen_capacity - 1))
        if (a->seen[k].key == key) return NM_OK;
    NM_TRY(NM_GROW(a->todo, a->todo_capacity, a->n_todo + 1));
    a->seen[k] = (nm_seen){key, a->round};
    a->n_seen++;
    a->todo[a->n_todo++] = p;
    return NM_OK;
}

static nm_err add_call(nm_automaton *a, uint32_t rule, nm_pair to)
{
    if (++a->work > NM_WORK_MOST) return too_much();
    NM_TRY(NM_GROW(a->calls, a->calls_capacity, a->n_calls + 1));
    a->calls[a->n_calls] = (nm_call){to, a->head[rule]};
    a->head[rule] = (uint32_t)a->n_calls++;
    a->pending[rule / 64] |= (uint64_t)1 << rule % 64;
    return NM_OK;
}

/* A call that ends its rule returns to where the rule does, so that lists by recursion do not pile up. */
static nm_err call(nm_automaton *a, const nm_node *node, uint32_t stack)
{
    if (node->next != NM_END) return add_call(a, node->what, (nm_pair){node->next, stack});
    nm_pair_list l = a->stacks.list[stack];
    for (uint32_t i = 0; i < l.count; i++) NM_TRY(add_call(a, node->what, a->stacks.pair[l.first + i]));
    return NM_OK;
}

static nm_err put_found(nm_automaton *a, nm_pair p)
{
    NM_TRY(NM_GROW(a->found, a->found_capacity, a->n_found + 1));
    a->found[a->n_found++] = p;
    return NM_OK;
}

static nm_err follow(nm_automaton *a, nm_pair p)
{
    const nm_node *node = &a->g->nodes[p.node];
    if (p.node == NM_END) {
        nm_pair_list l = a->stacks.list[p.stack];
        for (uint32_t i = 0; i < l.count; i++) NM_TRY(reach(a, a->stacks.pair[l.first + i].node, a->stacks.pair[l.first + i].stack));
        return NM_OK;
    }
    switch (node->kind) {
    case NM_NODE_SPLIT:
        NM_TRY(reach(a, node->next, p.stack));
        return reach(a, node->what, p.stack);
    case NM_NODE_CALL: return call(a, node, p.stack);
    default: return put_found(a, p);    /* it reads, or the text may end */
    }
}

static nm_err follow_all(nm_automaton *a)
{
    while (a->n_todo) NM_TRY(follow(a, a->todo[--a->n_todo]));
    return NM_OK;
}

/* Enters a rule once for all calls of it. */
static nm_err enter(nm_automaton *a, uint32_t rule)
{
    uint32_t stack;
    a->n_frames = 0;
    for (uint32_t c = a->head[rule]; c; c = a->calls[c].next) {
        NM_TRY(NM_GROW(a->frames, a->frames_capacity, a->n_frames + 1));
        a->frames[a->n_frames++] = a->calls[c].to;
    }
    a->head[rule] = 0;
    NM_TRY(intern(&a->stacks, a->frames, arrange(a->frames, a->n_frames), &stack));
    NM_TRY(reach(a, a->g->entry[rule], stack));
    return follow_all(a);
}

/* Rules begin with calls of rules behind them only, and never end before they read: one sweep enters all, each with all its callers known. */
static nm_err enter_all(nm_automaton *a)
{
    for (uint32_t w = 0; w < (a->g->n_rules + 63) / 64; w++) {
        while (a->pending[w]) {
            uint32_t bit = (uint32_t)__builtin_ctzll(a->pending[w]);
            a->pending[w] &= a->pending[w] - 1;
            NM_TRY(enter(a, 64 * w + bit));
        }
    }
    return NM_OK;
}

/* One stack set for each node that was found: the union of what it was found with. */
static nm_err unite(nm_automaton *a)
{
    size_t n = arrange(a->found, a->n_found), kept = 0;
    for (size_t i = 0, end; i < n; i = end) {
        nm_pair p = a->found[i];
        for (end = i + 1; end < n && a->found[end].node == p.node; end++) {}
        a->n_frames = 0;
        for (size_t k = i; k < end && end - i > 1; k++) {
            nm_pair_list l = a->stacks.list[a->found[k].stack];
            NM_TRY(NM_GROW(a->frames, a->frames_capacity, a->n_frames + l.count));
            memcpy(a->frames + a->n_frames, a->stacks.pair + l.first, l.count * sizeof *a->frames);
            a->n_frames += l.count;
            a->work += l.count;
        }
        if (end - i > 1) NM_TRY(intern(&a->stacks, a->frames, arrange(a->frames, a->n_frames), &p.stack));
        a->found[kept++] = p;
    }
    a->n_found = kept;
    return a->work > NM_WORK_MOST ? too_much() : NM_OK;
}

/* The state of what was found. */
static nm_err settle(nm_automaton *a, uint32_t *state)
{
    NM_TRY(follow_all(a));
    NM_TRY(enter_all(a));
    NM_TRY(unite(a));
    size_t before = a->states.n_lists;
    NM_TRY(NM_GROW(a->next, a->next_capacity, (before + 1) * 256));
    NM_TRY(intern(&a->states, a->found, a->n_found, state));
    if (a->states.n_lists > before) memset(a->next + (size_t)*state * 256, 0xff, 256 * sizeof *a->next);
    a->n_calls = 1;
    return NM_OK;
}

/* A step that failed may have left something behind. */
static void begin_step(nm_automaton *a)
{
    if (!++a->round) {      /* the counter went round */
        memset(a->seen, 0, a->seen_capacity * sizeof *a->seen);
        a->round = 1;
    }
    if (a->n_todo || a->n_calls > 1) {
        memset(a->head, 0, a->g->n_rules * sizeof *a->head);
        memset(a->pending, 0, (a->g->n_rules + 63) / 64 * sizeof *a->pending);
    }
    a->n_todo = a->n_seen = a->n_found = 0;
    a->n_calls = 1;
}

/* The node reads a byte. Within a character the way back is kept as after a call. */
static nm_err read_byte(nm_automaton *a, nm_pair p, unsigned char byte)
{
    const nm_node *node = &a->g->nodes[p.node];
    const nm_byte_set *set = &a->g->sets[node->what];
    if (nm_byte_set_has(set, byte)) return reach(a, node->next, p.stack);
    for (uint32_t i = 0; i < set->n_edges; i++) {
        const nm_byte_edge *e = &a->g->edges[set->edge + i];
        if (byte < e->low || byte > e->high) continue;
        uint32_t stack = p.stack;
        if (node->next != NM_END) NM_TRY(intern(&a->stacks, &(nm_pair){node->next, p.stack}, 1, &stack));
        return reach(a, e->node, stack);
    }
    return NM_OK;
}

nm_err nm_automaton_find(nm_automaton *a, uint32_t state, unsigned char byte, uint32_t *next)
{
    nm_pair_list l = a->states.list[state];
    begin_step(a);
    a->work += l.count;
    for (uint32_t i = 0; i < l.count; i++) {
        nm_pair p = a->states.pair[l.first + i];
        if (p.node != NM_ACCEPT) NM_TRY(read_byte(a, p, byte));
    }
    NM_TRY(settle(a, next));
    a->next[(size_t)state << 8 | byte] = *next;
    return NM_OK;
}

/* ---- Opening, closing, forgetting ---------------------------------------------------------------------------------------------------- */

static nm_err first_state(nm_automaton *a)
{
    const nm_grammar *g = a->g;
    uint32_t bottom;
    NM_TRY(open_pairs(&a->stacks));
    NM_TRY(open_pairs(&a->states));
    NM_TRY(NM_GROW(a->next, a->next_capacity, 256));
    memset(a->next, 0, 256 * sizeof *a->next);      /* the dead state stays dead */
    a->head = nm_calloc(g->n_rules, sizeof *a->head);
    a->pending = nm_calloc((g->n_rules + 63) / 64, sizeof *a->pending);
    if (!a->head || !a->pending) return nm_fail_memory(g->n_rules * sizeof *a->head);
    NM_TRY(NM_GROW(a->calls, a->calls_capacity, 1));
    begin_step(a);
    NM_TRY(intern(&a->stacks, &(nm_pair){NM_ACCEPT, 0}, 1, &bottom));
    if (g->root_empty) NM_TRY(reach(a, NM_ACCEPT, 0));
    if (g->root_reads) NM_TRY(add_call(a, g->root, (nm_pair){NM_ACCEPT, 0}));
    return settle(a, &a->begin);
}

nm_err nm_automaton_open(nm_automaton **out, const nm_grammar *grammar)
{
    *out = NULL;
    nm_automaton *a = nm_calloc(1, sizeof *a);
    if (!a) return nm_fail_memory(sizeof *a);
    a->g = grammar;
    nm_err err = first_state(a);
    if (err != NM_OK) nm_automaton_close(&a);
    *out = a;
    return err;
}

void nm_automaton_close(nm_automaton **automaton)
{
    nm_automaton *a = *automaton;
    if (!a) return;
    free_pairs(&a->stacks);
    free_pairs(&a->states);
    nm_free(a->next);
    nm_free(a->todo);
    nm_free(a->seen);
    nm_free(a->found);
    nm_free(a->calls);
    nm_free(a->head);
    nm_free(a->pending);
    nm_free(a->frames);
    nm_free(a);
    *automaton = NULL;
}

static void mark(uint32_t *map, const nm_pairs *s, uint32_t list)
{
    nm_pair_list l = s->list[list];
    for (uint32_t i = 0; i < l.count; i++) map[s->pair[l.first + i].stack] = 1;
}

/* Names a list's stacks anew and puts it into `to`. The order of names stays, so pairs stay in order. */
static nm_err move(nm_automaton *a, const nm_pairs *from, uint32_t list, const uint32_t *map, nm_pairs *to, uint32_t *index)
{
    nm_pair_list l = from->list[list];
    NM_TRY(NM_GROW(a->frames, a->frames_capacity, l.count));
    for (uint32_t i = 0; i < l.count; i++) {
        nm_pair p = from->pair[l.first + i];
        a->frames[i] = (nm_pair){p.node, map[p.stack]};
    }
    return intern(to, a->frames, l.count, index);
}

/* The stacks that are needed, oldest first; map: 1 where one is, then its new name. A stack is younger than those it names. */
static nm_err move_stacks(nm_automaton *a, uint32_t *map, nm_pairs *stacks)
{
    NM_TRY(open_pairs(stacks));
    for (uint32_t i = (uint32_t)a->stacks.n_lists; i-- > 1;)
        if (map[i]) mark(map, &a->stacks, i);
    map[0] = 0;
    for (uint32_t i = 1; i < a->stacks.n_lists; i++)
        if (map[i]) NM_TRY(move(a, &a->stacks, i, map, stacks, &map[i]));
    return NM_OK;
}

/* Into fresh tables; what a failure leaves behind is the caller's to free. roots: the states' new names. */
static nm_err move_all(nm_automaton *a, uint32_t *map, uint32_t *roots, size_t count, nm_pairs *stacks, nm_pairs *states)
{
    for (size_t i = 0; i < count; i++) mark(map, &a->states, roots[i]);
    NM_TRY(move_stacks(a, map, stacks));
    NM_TRY(open_pairs(states));
    for (size_t i = 0; i < count; i++) NM_TRY(move(a, &a->states, roots[i], map, states, &roots[i]));
    return NM_OK;
}

nm_err nm_automaton_collect(nm_automaton *a, uint32_t *states, size_t count)
{
    nm_pairs new_stacks = {0}, new_states = {0};
    uint32_t *map = nm_calloc(a->stacks.n_lists, sizeof *map), *roots = nm_calloc(count + 1, sizeof *roots);
    nm_err err = NM_OK;
    a->work += a->stacks.n_lists + a->stacks.n_pairs;
    if (!map || !roots) NM_GOTO(nm_fail_memory(a->stacks.n_lists * sizeof *map));
    if (count) memcpy(roots, states, count * sizeof *roots);
    roots[count] = a->begin;
    NM_GOTO(move_all(a, map, roots, count + 1, &new_stacks, &new_states));
    nm_pairs old = a->stacks;
    a->stacks = new_stacks;
    new_stacks = old;
    old = a->states;
    a->states = new_states;
    new_states = old;
    if (count) memcpy(states, roots, count * sizeof *roots);
    a->begin = roots[count];
    memset(a->next + 256, 0xff, (a->states.n_lists - 1) * 256 * sizeof *a->next);
    if (nm_automaton_full(a) || a->work > NM_WORK_MOST) err = too_much();
out:
    free_pairs(&new_stacks);
    free_pairs(&new_states);
    nm_free(map);
    nm_free(roots);
    return err;
}
