/* Owns opening and closing grammars, and whole texts against them. */
#include "generate/grammar.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "generate/automaton.h"
#include "generate/grammar_build.h"
#include "text/trie.h"

static void free_build(nm_build *b)
{
    nm_free(b->rules);
    nm_free(b->choices);
    nm_free(b->parts);
    nm_free(b->names);
    nm_free(b->set_slots);
    nm_free(b->ranges);
    nm_free(b->list);
}

static nm_err build(nm_build *b)
{
    uint32_t index;
    NM_TRY(nm_grammar_node(b, (nm_node){.kind = NM_NODE_STOP}, 0, &index));
    NM_TRY(nm_grammar_node(b, (nm_node){.kind = NM_NODE_STOP}, 0, &index));
    NM_TRY(nm_grammar_parse(b));
    NM_TRY(nm_grammar_check(b));
    return nm_grammar_compile(b);
}

nm_err nm_grammar_open(nm_grammar **out, const char *gbnf, size_t length)
{
    *out = NULL;
    if (length > NM_GRAMMAR_TEXT) return nm_fail(NM_USAGE, "a grammar of %zu bytes is too long (%d at most)", length, NM_GRAMMAR_TEXT);
    nm_grammar *g = nm_calloc(1, sizeof *g);
    if (!g) return nm_fail_memory(sizeof *g);
    nm_build b = {.g = g, .text = length ? gbnf : "", .length = length};
    nm_err err = build(&b);
    free_build(&b);
    if (err != NM_OK) nm_grammar_close(&g);
    *out = g;
    return err;
}

void nm_grammar_close(nm_grammar **grammar)
{
    nm_grammar *g = *grammar;
    if (!g) return;
    nm_free(g->nodes);
    nm_free(g->sets);
    nm_free(g->edges);
    nm_free(g->entry);
    nm_free(g);
    *grammar = NULL;
}

nm_err nm_grammar_matches(const nm_grammar *grammar, const char *text, size_t length, bool *matches)
{
    nm_automaton *a;
    *matches = false;
    if (length && memchr(text, NM_TRIE_CONTROL, length)) return NM_OK;      /* no text: a control token is none */
    NM_TRY(nm_automaton_open(&a, grammar));
    uint32_t state = nm_automaton_start(a);
    nm_err err = NM_OK;
    for (size_t i = 0; i < length && state != NM_STATE_DEAD && err == NM_OK; i++) {
        a->work = 0;
        if (nm_automaton_full(a)) err = nm_automaton_collect(a, &state, 1);
        if (err == NM_OK) err = nm_automaton_next(a, state, (unsigned char)text[i], &state);
    }
    *matches = err == NM_OK && nm_automaton_accepts(a, state);
    nm_automaton_close(&a);
    return err;
}
