/* Owns sets of characters as bytes: which byte may come first, which may follow it. Equal sets are one set.
 * Refuses halves of surrogate pairs and overlong forms: what matches is valid UTF-8. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"
#include "generate/grammar_build.h"

enum { LAST = 0x10ffff, FIRST_SURROGATE = 0xd800, LAST_SURROGATE = 0xdfff, MOST_EDGES = 64 };   /* 51 first bytes, or 64 that follow */

/* A set that is being made. */
typedef struct draft { nm_byte_set set; nm_byte_edge edge[MOST_EDGES]; } draft;

static void put_done(draft *d, unsigned byte) { d->set.done[byte >> 5] |= 1u << (byte & 31); }

/* Neighbours that lead to the same node are one edge. */
static void put_edge(draft *d, unsigned byte, uint32_t node)
{
    nm_byte_edge *last = d->set.n_edges ? &d->edge[d->set.n_edges - 1] : NULL;
    if (last && last->node == node && last->high + 1u == byte) last->high++;
    else d->edge[d->set.n_edges++] = (nm_byte_edge){node, (uint8_t)byte, (uint8_t)byte};
}

static uint64_t hash_of(const nm_byte_set *s, const nm_byte_edge *edge)
{
    uint64_t h = nm_hash(0, s->done, sizeof s->done);
    for (uint32_t i = 0; i < s->n_edges; i++) h = nm_hash_word(h, (uint64_t)edge[i].node << 16 | (uint64_t)edge[i].low << 8 | edge[i].high);
    return h;
}

static bool same(const nm_build *b, uint32_t i, const draft *d)
{
    const nm_byte_set *s = &b->g->sets[i];
    if (s->n_edges != d->set.n_edges || memcmp(s->done, d->set.done, sizeof s->done) != 0) return false;
    for (uint32_t k = 0; k < s->n_edges; k++) {
        nm_byte_edge x = b->g->edges[s->edge + k], y = d->edge[k];
        if (x.node != y.node || x.low != y.low || x.high != y.high) return false;
    }
    return true;
}

/* At most half full, so that a search ends. */
static nm_err grow_slots(nm_build *b)
{
    nm_grammar *g = b->g;
    if (2 * (g->n_sets + 1) <= b->set_slots_capacity) return NM_OK;
    size_t n = b->set_slots_capacity ? 2 * b->set_slots_capacity : 512;
    uint32_t *slots = nm_calloc(n, sizeof *slots);
    if (!slots) return nm_fail_memory(n * sizeof *slots);
    for (uint32_t i = 0; i < g->n_sets; i++) {
        size_t k = hash_of(&g->sets[i], g->edges + g->sets[i].edge) & (n - 1);
        while (slots[k]) k = (k + 1) & (n - 1);
        slots[k] = i + 1;
    }
    nm_free(b->set_slots);
    b->set_slots = slots;
    b->set_slots_capacity = n;
    return NM_OK;
}

/* The set like this one. */
static nm_err keep(nm_build *b, draft *d, uint32_t *set)
{
    nm_grammar *g = b->g;
    NM_TRY(grow_slots(b));
    size_t k = hash_of(&d->set, d->edge) & (b->set_slots_capacity - 1);
    for (; b->set_slots[k]; k = (k + 1) & (b->set_slots_capacity - 1)) {
        *set = b->set_slots[k] - 1;
        if (same(b, *set, d)) return NM_OK;
    }
    NM_TRY(NM_GROW(g->sets, g->sets_capacity, g->n_sets + 1));
    NM_TRY(NM_GROW(g->edges, g->edges_capacity, g->n_edges + d->set.n_edges));
    d->set.edge = (uint32_t)g->n_edges;
    if (d->set.n_edges) memcpy(g->edges + g->n_edges, d->edge, d->set.n_edges * sizeof *d->edge);
    g->n_edges += d->set.n_edges;
    *set = (uint32_t)g->n_sets;
    g->sets[g->n_sets++] = d->set;
    b->set_slots[k] = *set + 1;
    return NM_OK;
}

nm_err nm_grammar_byte(nm_build *b, unsigned char byte, uint32_t *set)
{
    draft d = {0};
    put_done(&d, byte);
    return keep(b, &d, set);
}

/* ---- Classes ------------------------------------------------------------------------------------------------------------------ */

static int by_low(const void *a, const void *b)
{
    const nm_range *x = a, *y = b;
    return (x->low > y->low) - (x->low < y->low);
}

/* In order, without touching each other. */
static void merge(nm_build *b)
{
    nm_range *r = b->ranges;
    size_t n = 0;
    if (b->n_ranges) qsort(r, b->n_ranges, sizeof *r, by_low);
    for (size_t i = 0; i < b->n_ranges; i++) {
        if (n && r[i].low <= r[n - 1].high + 1) r[n - 1].high = r[i].high > r[n - 1].high ? r[i].high : r[n - 1].high;
        else r[n++] = r[i];
    }
    b->n_ranges = n;
}

/* All that they leave, in their place; needs room for one more. */
static void complement(nm_build *b)
{
    nm_range *r = b->ranges;
    uint32_t from = 0;
    size_t n = 0;
    for (size_t i = 0; i < b->n_ranges; i++) {
        nm_range here = r[i];
        if (here.low > from) r[n++] = (nm_range){from, here.low - 1};
        from = here.high + 1;
    }
    if (from <= LAST) r[n++] = (nm_range){from, LAST};
    b->n_ranges = n;
}

/* What the ranges hold, or leave, without surrogates: twice turned inside out, with the surrogates put in between. */
static nm_err normalise(nm_build *b, bool others)
{
    NM_TRY(NM_GROW(b->ranges, b->ranges_capacity, b->n_ranges + 3));
    merge(b);
    if (!others) complement(b);
    b->ranges[b->n_ranges++] = (nm_range){FIRST_SURROGATE, LAST_SURROGATE};
    merge(b);
    complement(b);
    return NM_OK;
}

/* How much of [low, high], as far as it may stand in so many bytes, the class holds. */
typedef enum share { NONE, SOME, ALL } share;
static share share_of(const nm_build *b, uint32_t low, uint32_t high)
{
    if (high < b->floor) return NONE;
    bool cut = low < b->floor;
    if (cut) low = b->floor;
    size_t from = 0, to = b->n_ranges;
    while (from < to) {     /* the first range that ends at low or behind it */
        size_t middle = from + (to - from) / 2;
        if (b->ranges[middle].high < low) from = middle + 1;
        else to = middle;
    }
    if (from == b->n_ranges || b->ranges[from].low > high) return NONE;
    return !cut && b->ranges[from].low <= low && b->ranges[from].high >= high ? ALL : SOME;
}

static nm_err node_of(nm_build *b, draft *d, uint32_t *node)
{
    uint32_t set;
    NM_TRY(keep(b, d, &set));
    if (!b->g->sets[set].node) {
        uint32_t made;
        NM_TRY(nm_grammar_node(b, (nm_node){NM_NODE_CHAR, set, NM_END}, b->at, &made));
        b->g->sets[set].node = made;
    }
    *node = b->g->sets[set].node;
    return NM_OK;
}

/* The node of `left` (1 to 3) further bytes of any value. */
static nm_err any_tail(nm_build *b, int left, uint32_t *node)
{
    for (int k = 1; k <= left; k++) {
        if (b->any[k]) continue;
        draft d = {0};
        for (unsigned byte = 0x80; byte < 0xc0; byte++) {
            if (k == 1) put_done(&d, byte);
            else put_edge(&d, byte, b->any[k - 1]);
        }
        NM_TRY(node_of(b, &d, &b->any[k]));
    }
    *node = b->any[left];
    return NM_OK;
}

/* The node of the `left` further bytes of characters from `base` on. At most three deep. */
static nm_err tail(nm_build *b, uint32_t base, int left, uint32_t *node)
{
    uint32_t span = 1u << 6 * (left - 1), next;
    draft d = {0};
    for (unsigned i = 0; i < 64; i++) {
        uint32_t low = base + i * span;
        share have = share_of(b, low, low + span - 1);
        if (have == NONE) continue;
        if (left == 1) {
            put_done(&d, 0x80 + i);
            continue;
        }
        if (have == ALL) NM_TRY(any_tail(b, left - 1, &next));
        else NM_TRY(tail(b, low, left - 1, &next));
        put_edge(&d, 0x80 + i, next);
    }
    return node_of(b, &d, node);
}

/* Characters of left + 1 bytes, that begin with the bytes [first, last]. */
static nm_err lead(nm_build *b, draft *d, unsigned first, unsigned last, int left, uint32_t floor)
{
    unsigned mark = left == 1 ? 0xc0 : left == 2 ? 0xe0 : 0xf0;
    uint32_t span = 1u << 6 * left, node;
    b->floor = floor;
    for (unsigned byte = first; byte <= last; byte++) {
        uint32_t low = (byte - mark) * span;
        share have = share_of(b, low, low + span - 1);
        if (have == NONE) continue;
        if (have == ALL) NM_TRY(any_tail(b, left, &node));
        else NM_TRY(tail(b, low, left, &node));
        put_edge(d, byte, node);
    }
    return NM_OK;
}

nm_err nm_grammar_class(nm_build *b, bool others, uint32_t *set)
{
    draft d = {0};
    NM_TRY(normalise(b, others));
    b->floor = 0;
    for (unsigned byte = 0; byte < 0x80; byte++)
        if (share_of(b, byte, byte) != NONE) put_done(&d, byte);
    NM_TRY(lead(b, &d, 0xc2, 0xdf, 1, 0x80));
    NM_TRY(lead(b, &d, 0xe0, 0xef, 2, 0x800));
    NM_TRY(lead(b, &d, 0xf0, 0xf4, 3, 0x10000));
    return keep(b, &d, set);
}
