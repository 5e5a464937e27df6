/* Opens any bytes as a grammar. A zero byte ends it; what follows is a text to match, once as it comes and once with all that can be forgotten forgotten at
 * every byte, which must not matter. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "generate/automaton.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST_TEXT = 256 };

/* False where the grammar can be read in too many ways. */
static bool run(nm_automaton *a, const char *text, size_t n, uint32_t *state)
{
    for (size_t i = 0; i < n; i++) {
        a->work = 0;
        if (nm_automaton_next(a, *state, (unsigned char)text[i], state) != NM_OK || nm_automaton_collect(a, state, 1) != NM_OK) return false;
    }
    return true;
}

static void match(const nm_grammar *g, const char *text, size_t n)
{
    nm_automaton *a;
    bool whole;
    if (nm_grammar_matches(g, text, n, &whole) != NM_OK || nm_automaton_open(&a, g) != NM_OK) return;
    uint32_t state = nm_automaton_start(a);
    if (run(a, text, n, &state)) {
        if (nm_automaton_accepts(a, state) != whole) abort();
        if (state != NM_STATE_DEAD && !whole && !nm_automaton_reads(a, state)) abort();
    }
    nm_automaton_close(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t alive = nm_mem_alive();
    const char *source = (const char *)data, *end = size ? memchr(data, 0, size) : NULL;
    size_t n = end ? (size_t)(end - source) : size, rest = end ? size - n - 1 : 0;
    nm_grammar *g;
    if (nm_grammar_open(&g, source, n) == NM_OK) match(g, end ? end + 1 : "", rest < MOST_TEXT ? rest : MOST_TEXT);
    nm_grammar_close(&g);
    /* Once more with an allocation failing, which one depends on the input. */
    bool whole;
    nm_mem_fail_after(size ? data[size / 2] % 32 : 0);
    if (nm_grammar_open(&g, source, n) == NM_OK) (void)nm_grammar_matches(g, end ? end + 1 : "", rest < MOST_TEXT ? rest : MOST_TEXT, &whole);
    nm_mem_fail_after(-1);
    nm_grammar_close(&g);
    if (nm_mem_alive() != alive) abort();
    return 0;
}
