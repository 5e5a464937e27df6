/* Owns the way from rules to nodes, from the last part of a choice to its first, and the order of rules that refuses left recursion. */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "generate/grammar_build.h"

#define NOWHERE UINT32_MAX      /* no text leads on from here */

nm_err nm_grammar_node(nm_build *b, nm_node node, size_t at, uint32_t *index)
{
    nm_grammar *g = b->g;
    if (g->n_nodes >= NM_GRAMMAR_NODES)
        return nm_grammar_fault(b, at, "the grammar takes more than %d steps: repeat fewer times, or write * for any number", NM_GRAMMAR_NODES);
    NM_TRY(NM_GROW(g->nodes, g->nodes_capacity, g->n_nodes + 1));
    *index = (uint32_t)g->n_nodes;
    g->nodes[g->n_nodes++] = node;
    return NM_OK;
}

/* One time of a part. */
static nm_err once(nm_build *b, const nm_part *p, uint32_t next, uint32_t *entry)
{
    return nm_grammar_node(b, (nm_node){p->is_rule ? NM_NODE_CALL : NM_NODE_CHAR, p->what, next}, p->at, entry);
}

/* Two ways; NOWHERE is none. */
static nm_err either(nm_build *b, uint32_t x, uint32_t y, size_t at, uint32_t *entry)
{
    if (x == NOWHERE || y == NOWHERE) {
        *entry = x == NOWHERE ? y : x;
        return NM_OK;
    }
    return nm_grammar_node(b, (nm_node){NM_NODE_SPLIT, x, y}, at, entry);
}

/* From none to p->most times: `all` may be passed by, `some` reads at least once. */
static nm_err optional(nm_build *b, const nm_part *p, uint32_t most, uint32_t next, uint32_t *all, uint32_t *some)
{
    if (most == NM_FOREVER) {
        uint32_t loop = 0;
        NM_TRY(nm_grammar_node(b, (nm_node){NM_NODE_SPLIT, next, next}, p->at, &loop));
        NM_TRY(once(b, p, loop, some));
        b->g->nodes[loop].what = *some;
        *all = loop;
        return NM_OK;
    }
    *all = *some = next;
    for (uint32_t i = 0; i < most; i++) {
        NM_TRY(once(b, p, *all, some));
        NM_TRY(nm_grammar_node(b, (nm_node){NM_NODE_SPLIT, *some, next}, p->at, all));
    }
    return NM_OK;
}

/* Where a choice stands, from its end on: after something was read, and before (where its end is no end). */
typedef struct places { uint32_t read, unread; } places;

static nm_err part(nm_build *b, const nm_part *p, places *at)
{
    bool empty = p->is_rule && b->rules[p->what].empty;
    uint32_t all = 0, some = 0, least = empty ? 0 : p->least, most = p->most == NM_FOREVER ? NM_FOREVER : p->most - least;
    if (p->is_rule && !b->rules[p->what].reads) return NM_OK;       /* nothing, and nothing else */
    NM_TRY(optional(b, p, most, at->read, &all, &some));
    at->read = all;
    if (least) {
        for (uint32_t i = 0; i < least; i++) NM_TRY(once(b, p, at->read, &at->read));
        at->unread = at->read;
        return NM_OK;
    }
    return either(b, some, at->unread, p->at, &at->unread);
}

static nm_err choice(nm_build *b, uint32_t index, uint32_t *entry)
{
    size_t n = 0;
    for (uint32_t p = b->choices[index].first; p; p = b->parts[p].next) {
        NM_TRY(NM_GROW(b->list, b->list_capacity, n + 1));
        b->list[n++] = p;
    }
    places at = {NM_END, NOWHERE};
    while (n) NM_TRY(part(b, &b->parts[b->list[--n]], &at));
    *entry = at.unread;
    return NM_OK;
}

static nm_err rule(nm_build *b, uint32_t index, uint32_t *entry)
{
    *entry = NOWHERE;
    for (uint32_t c = b->rules[index].choice, one; c; c = b->choices[c].next) {
        NM_TRY(choice(b, c, &one));
        NM_TRY(either(b, *entry, one, b->rules[index].at, entry));
    }
    return NM_OK;
}

/* ---- The order of rules --------------------------------------------------------------------------------------------------------- */

/* Which rules begin with which. All arrays are in one block. */
typedef struct order {
    uint32_t *first, *before, *from, *place, *queue, *seen, *stack;     /* n_rules each, but first (+ 1) and the last two: n_nodes */
    uint32_t *to;           /* callees of rule i: to[first[i]] .. to[first[i + 1]] */
    size_t n_to, to_capacity;
} order;

/* The calls that a rule may begin with. */
static nm_err find_calls(nm_build *b, order *o, uint32_t index)
{
    const nm_grammar *g = b->g;
    size_t n = 0;
    o->first[index] = (uint32_t)o->n_to;
    if (g->entry[index] != NOWHERE) o->stack[n++] = g->entry[index];
    while (n) {
        uint32_t at = o->stack[--n];
        const nm_node *node = &g->nodes[at];
        if (node->kind == NM_NODE_CALL) {
            NM_TRY(NM_GROW(o->to, o->to_capacity, o->n_to + 1));
            o->to[o->n_to++] = node->what;
            o->before[node->what]++;
        }
        if (node->kind != NM_NODE_SPLIT) continue;
        for (int i = 0; i < 2; i++) {
            uint32_t next = i ? node->what : node->next;
            if (o->seen[next] == index) continue;
            o->seen[next] = index;
            o->stack[n++] = next;
        }
    }
    return NM_OK;
}

/* Some rule that begins with itself: going from a rule to one that begins with it, among those that have no place, ends in a circle. */
static nm_err left_recursion(nm_build *b, order *o)
{
    uint32_t at = 0;
    for (uint32_t i = 1; i < b->n_rules; i++) {
        if (!o->before[i]) continue;
        at = i;
    }
    for (uint32_t i = 1; i < b->n_rules; i++)
        for (uint32_t k = o->first[i]; o->before[i] && k < o->first[i + 1]; k++) o->from[o->to[k]] = i;
    for (uint32_t i = 0; i < b->n_rules; i++) at = o->from[at];
    const nm_rule *owner = &b->rules[b->rules[at].owner];
    return nm_grammar_fault(b, b->rules[at].at, "the rule '%.*s' begins with itself, which this program cannot follow: write it as a repetition, item (\",\" item)*",
                            nm_rule_shown(owner), b->text + owner->at);
}

/* Callers before those they begin with (Kahn 1962). */
static nm_err sort_rules(nm_build *b, order *o)
{
    nm_grammar *g = b->g;
    uint32_t n = 0;
    for (uint32_t i = 1; i < b->n_rules; i++) NM_TRY(find_calls(b, o, i));
    o->first[b->n_rules] = (uint32_t)o->n_to;
    for (uint32_t i = 1; i < b->n_rules; i++)
        if (!o->before[i]) o->queue[n++] = i;
    for (uint32_t i = 0; i < n; i++) {
        o->place[o->queue[i]] = i;
        for (uint32_t k = o->first[o->queue[i]]; k < o->first[o->queue[i] + 1]; k++)
            if (!--o->before[o->to[k]]) o->queue[n++] = o->to[k];
    }
    if (n + 1 < b->n_rules) return left_recursion(b, o);
    for (uint32_t i = 1; i < b->n_rules; i++) o->from[o->place[i]] = g->entry[i];
    memcpy(g->entry, o->from, n * sizeof *g->entry);
    for (size_t i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].kind == NM_NODE_CALL) g->nodes[i].what = o->place[g->nodes[i].what];
    g->root = o->place[g->root];
    g->n_rules = n;
    return NM_OK;
}

static nm_err put_in_order(nm_build *b)
{
    size_t rules = b->n_rules + 1, nodes = b->g->n_nodes;
    order o = {0};
    uint32_t *block = nm_calloc(5 * rules + 2 * nodes, sizeof *block);
    if (!block) return nm_fail_memory((5 * rules + 2 * nodes) * sizeof *block);
    o.first = block;
    o.before = o.first + rules;
    o.from = o.before + rules;
    o.place = o.from + rules;
    o.queue = o.place + rules;
    o.seen = o.queue + rules;
    o.stack = o.seen + nodes;
    nm_err err = sort_rules(b, &o);
    nm_free(o.to);
    nm_free(block);
    return err;
}

nm_err nm_grammar_compile(nm_build *b)
{
    nm_grammar *g = b->g;
    g->entry = nm_calloc(b->n_rules, sizeof *g->entry);
    if (!g->entry) return nm_fail_memory(b->n_rules * sizeof *g->entry);
    for (uint32_t i = 1; i < b->n_rules; i++) NM_TRY(rule(b, i, &g->entry[i]));
    g->root_empty = b->rules[g->root].empty;
    g->root_reads = b->rules[g->root].reads;
    return put_in_order(b);
}
