/* Owns sets of code points and deterministic automata over code points: made by exploring states that exist only as keys, kept minimal, and combined. Refuses
 * automata of more than NM_SCHEMA_STATES states. */
#include "generate/schema.h"

#include <stdlib.h>
#include <string.h>

/* ---- Sets --------------------------------------------------------------------------------------------------------------------------- */

nm_err nm_spans_add(nm_schema *s, nm_spans *r, uint32_t low, uint32_t high)
{
    NM_TRY(NM_MORE(s, r->items, r->capacity, r->count + 1));
    r->items[r->count++] = (nm_span){low, high};
    return NM_OK;
}

static int by_low(const void *a, const void *b)
{
    uint32_t x = ((const nm_span *)a)->low, y = ((const nm_span *)b)->low;
    return x < y ? -1 : x > y;
}

void nm_spans_tidy(nm_spans *r)
{
    size_t n = 0;
    if (r->count) qsort(r->items, r->count, sizeof *r->items, by_low);
    for (size_t i = 0; i < r->count; i++) {
        nm_span next = r->items[i];
        if (n && next.low <= r->items[n - 1].high + 1) {
            if (next.high > r->items[n - 1].high) r->items[n - 1].high = next.high;
        } else {
            r->items[n++] = next;
        }
    }
    r->count = n;
}

nm_err nm_spans_negate(nm_schema *s, nm_spans *r)
{
    nm_spans out = {0};
    uint32_t next = 0;
    nm_spans_tidy(r);
    for (size_t i = 0; i < r->count; i++) {
        if (r->items[i].low > next) NM_TRY(nm_spans_add(s, &out, next, r->items[i].low - 1));
        next = r->items[i].high + 1;
    }
    if (next <= NM_CODE_MOST) NM_TRY(nm_spans_add(s, &out, next, NM_CODE_MOST));
    *r = out;
    return NM_OK;
}

/* ---- Minimal automata --------------------------------------------------------------------------------------------------------------- */

/* Marks the states from which something can be accepted. States come in the order of their discovery, so that going backwards needs few rounds. */
static nm_err find_live(nm_schema *s, const nm_dfa *a, bool *live)
{
    for (bool changed = true; changed;) {
        changed = false;
        NM_TRY(nm_schema_work(s, 1 + a->n_edges / 8));
        for (size_t i = a->n_states; i-- > 0;) {
            bool lives = a->states[i].accepts;
            for (size_t e = 0; e < a->states[i].count && !lives; e++) lives = live[a->edges[a->states[i].first + e].to];
            if (lives && !live[i]) changed = live[i] = true;
        }
    }
    return NM_OK;
}

/* The edges of a state to live states, by class and joined where they touch. Returns how many. */
static size_t fold_edges(const nm_dfa *a, size_t state, const bool *live, const uint32_t *class, nm_dfa_edge *out)
{
    size_t n = 0;
    for (size_t i = 0; i < a->states[state].count; i++) {
        nm_dfa_edge e = a->edges[a->states[state].first + i];
        if (!live[e.to]) continue;
        e.to = class[e.to];
        if (n && out[n - 1].to == e.to && out[n - 1].high + 1 == e.low) out[n - 1].high = e.high;
        else out[n++] = e;
    }
    return n;
}

typedef struct minimiser { bool *live; uint32_t *class, *next; nm_dfa_edge *folded; size_t n_classes; } minimiser;

/* One round of Moore's refinement: states stay together whose class and edges to classes agree. The round's keys go: numbers alone are kept. */
static nm_err refine(nm_schema *s, const nm_dfa *a, minimiser *m)
{
    nm_mark mark = nm_schema_mark(s);
    nm_intern keys = {0};
    for (size_t i = 0; i < a->n_states; i++) {
        if (!m->live[i]) continue;
        bool fresh;
        size_t n = fold_edges(a, i, m->live, m->class, m->folded + 1);
        NM_TRY(nm_schema_work(s, 1 + a->states[i].count / 4));
        m->folded[0] = (nm_dfa_edge){m->class[i], 0, 0};
        NM_TRY(nm_intern_add(s, &keys, m->folded, (n + 1) * sizeof *m->folded, &m->next[i], &fresh));
    }
    memcpy(m->class, m->next, a->n_states * sizeof *m->class);
    m->n_classes = keys.count;
    nm_schema_forget(s, mark);
    return NM_OK;
}

/* Classes were numbered in the order of their first states, so the class of the beginning is 0. */
static nm_err take_classes(nm_schema *s, nm_dfa *out, const nm_dfa *a, const minimiser *m)
{
    *out = (nm_dfa){0};
    for (size_t i = 0; i < a->n_states; i++) {
        if (!m->live[i] || m->class[i] != out->n_states) continue;
        size_t n = fold_edges(a, i, m->live, m->class, m->folded);
        NM_TRY(NM_MORE(s, out->states, out->states_capacity, out->n_states + 1));
        NM_TRY(NM_MORE(s, out->edges, out->edges_capacity, out->n_edges + n + 1));
        memcpy(out->edges + out->n_edges, m->folded, n * sizeof *m->folded);
        out->states[out->n_states++] = (nm_dfa_state){out->n_edges, n, a->states[i].accepts};
        out->n_edges += n;
    }
    if (out->n_states > NM_SCHEMA_STATES) return nm_fail(NM_USAGE, "needs an automaton of more than %d states: bind it less", NM_SCHEMA_STATES);
    return NM_OK;
}

static nm_err minimise(nm_schema *s, nm_dfa *out, const nm_dfa *a)
{
    minimiser m = {0};
    size_t most = 0, before = 0;
    for (size_t i = 0; i < a->n_states; i++)
        if (a->states[i].count > most) most = a->states[i].count;
    NM_TRY(NM_TAKE(s, m.live, a->n_states));
    NM_TRY(NM_TAKE(s, m.class, a->n_states));
    NM_TRY(NM_TAKE(s, m.next, a->n_states));
    NM_TRY(NM_TAKE(s, m.folded, most + 1));
    NM_TRY(find_live(s, a, m.live));
    *out = (nm_dfa){0};
    if (!m.live[0]) return NM_OK;
    for (size_t i = 0; i < a->n_states; i++) m.class[i] = a->states[i].accepts;
    do {
        before = m.n_classes;
        NM_TRY(refine(s, a, &m));
    } while (m.n_classes != before);
    return take_classes(s, out, a, &m);
}

/* ---- Exploring ---------------------------------------------------------------------------------------------------------------------- */

nm_err nm_explorer_edge(nm_explorer *e, uint32_t low, uint32_t high, const void *key, size_t length)
{
    nm_dfa *a = e->dfa;
    nm_dfa_state *from = &a->states[a->n_states - 1];
    uint32_t to;
    bool fresh;
    NM_TRY(nm_schema_work(e->s, 1));
    if (low >= 0xd800 && high <= 0xdfff) return NM_OK;      /* halves of pairs alone, which no text has and no class of a grammar may be */
    NM_TRY(nm_intern_add(e->s, &e->keys, key, length, &to, &fresh));
    if (e->keys.count > NM_SCHEMA_EXPLORED) return nm_fail(NM_USAGE, "needs an automaton of more than %d states: bind it less", NM_SCHEMA_EXPLORED);
    if (from->count && a->edges[a->n_edges - 1].to == to && a->edges[a->n_edges - 1].high + 1 == low) {
        a->edges[a->n_edges - 1].high = high;
        return NM_OK;
    }
    NM_TRY(NM_MORE(e->s, a->edges, a->edges_capacity, a->n_edges + 1));
    a->edges[a->n_edges++] = (nm_dfa_edge){low, high, to};
    from->count++;
    return NM_OK;
}

nm_err nm_dfa_explore(nm_schema *s, nm_dfa *out, const void *start, size_t length, nm_expand_fn expand, void *arg)
{
    nm_dfa a = {0};
    nm_explorer e = {.s = s, .dfa = &a};
    uint32_t number;
    bool fresh;
    NM_TRY(nm_intern_add(s, &e.keys, start, length, &number, &fresh));
    while (a.n_states < e.keys.count) {
        bool accepts = false;
        NM_TRY(NM_MORE(s, a.states, a.states_capacity, a.n_states + 1));
        a.states[a.n_states++] = (nm_dfa_state){a.n_edges, 0, false};
        NM_TRY(expand(arg, &e, e.keys.entries[a.n_states - 1].bytes, e.keys.entries[a.n_states - 1].length, &accepts));
        a.states[a.n_states - 1].accepts = accepts;
    }
    return minimise(s, out, &a);
}

/* ---- Combinations ------------------------------------------------------------------------------------------------------------------- */

enum { SINK = UINT32_MAX };     /* the state that every other character leads to, in complements */

typedef struct pair { const nm_dfa *a, *b; } pair;

static nm_err expand_both(void *arg, nm_explorer *e, const void *key, size_t length, bool *accepts)
{
    const pair *p = arg;
    uint32_t at[2];
    memcpy(at, key, sizeof at);
    const nm_dfa_state *x = &p->a->states[at[0]], *y = &p->b->states[at[1]];
    *accepts = x->accepts && y->accepts;
    for (size_t i = 0, j = 0; i < x->count && j < y->count;) {
        nm_dfa_edge f = p->a->edges[x->first + i], g = p->b->edges[y->first + j];
        uint32_t low = f.low > g.low ? f.low : g.low, high = f.high < g.high ? f.high : g.high;
        if (low <= high) NM_TRY(nm_explorer_edge(e, low, high, (uint32_t[]){f.to, g.to}, sizeof at));
        if (f.high <= g.high) i++;
        if (g.high <= f.high) j++;
    }
    return NM_OK;
}

nm_err nm_dfa_both(nm_schema *s, nm_dfa *out, const nm_dfa *a, const nm_dfa *b)
{
    pair p = {a, b};
    *out = (nm_dfa){0};
    if (!a->n_states || !b->n_states) return NM_OK;
    return nm_dfa_explore(s, out, (uint32_t[]){0, 0}, 2 * sizeof(uint32_t), expand_both, &p);
}

static nm_err expand_not(void *arg, nm_explorer *e, const void *key, size_t length, bool *accepts)
{
    const nm_dfa *a = arg;
    uint32_t at, sink = SINK, next = 0;
    memcpy(&at, key, sizeof at);
    *accepts = at == SINK || !a->states[at].accepts;
    for (size_t i = 0; at != SINK && i < a->states[at].count; i++) {
        nm_dfa_edge f = a->edges[a->states[at].first + i];
        if (f.low > next) NM_TRY(nm_explorer_edge(e, next, f.low - 1, &sink, sizeof sink));
        NM_TRY(nm_explorer_edge(e, f.low, f.high, &f.to, sizeof f.to));
        next = f.high + 1;
    }
    return next <= NM_CODE_MOST ? nm_explorer_edge(e, next, NM_CODE_MOST, &sink, sizeof sink) : NM_OK;
}

nm_err nm_dfa_not(nm_schema *s, nm_dfa *out, const nm_dfa *a)
{
    return nm_dfa_explore(s, out, a->n_states ? (uint32_t[]){0} : (uint32_t[]){SINK}, sizeof(uint32_t), expand_not, (void *)(uintptr_t)a);
}

typedef struct between { const nm_dfa *a; size_t least, most; } between;

static nm_err expand_between(void *arg, nm_explorer *e, const void *key, size_t length, bool *accepts)
{
    const between *b = arg;
    size_t at[2];
    memcpy(at, key, sizeof at);
    const nm_dfa_state *x = &b->a->states[at[0]];
    size_t count = at[1];
    *accepts = x->accepts && count >= b->least;
    if (b->most != SIZE_MAX ? count == b->most : count >= b->least) {
        if (b->most != SIZE_MAX) return NM_OK;
    } else {
        count++;
    }
    for (size_t i = 0; i < x->count; i++) {
        nm_dfa_edge f = b->a->edges[x->first + i];
        NM_TRY(nm_explorer_edge(e, f.low, f.high, (size_t[]){f.to, count}, sizeof at));
    }
    return NM_OK;
}

nm_err nm_dfa_between(nm_schema *s, nm_dfa *out, const nm_dfa *a, size_t least, size_t most)
{
    between b = {a, least, most};
    *out = (nm_dfa){0};
    if (!a->n_states || least > most) return NM_OK;
    return nm_dfa_explore(s, out, (size_t[]){0, 0}, 2 * sizeof(size_t), expand_between, &b);
}

/* The edge that reads the character, or NULL. */
static const nm_dfa_edge *edge_of(const nm_dfa *a, const nm_dfa_state *state, uint32_t code)
{
    size_t from = state->first, end = state->first + state->count, to = end;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (a->edges[middle].high < code) from = middle + 1;
        else to = middle;
    }
    return from < end && a->edges[from].low <= code ? &a->edges[from] : NULL;
}

bool nm_dfa_accepts(const nm_dfa *a, const char *text, size_t length)
{
    size_t at = 0;
    if (!a->n_states) return false;
    for (size_t i = 0; i < length;) {
        int used;
        int32_t c = nm_utf8_decode(text + i, length - i, &used);
        const nm_dfa_edge *edge = c < 0 ? NULL : edge_of(a, &a->states[at], (uint32_t)c);
        if (!edge) return false;
        at = edge->to;
        i += (size_t)used;
    }
    return a->states[at].accepts;
}
