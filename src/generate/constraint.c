/* Owns a text under way within a grammar: which tokens may come next. The text is what nm_detokenize makes of the tokens without flags: the space that
 * SentencePiece puts before a text is left out, and special tokens show nothing. So they never may come, but for control tokens where the grammar names them:
 * their bytes in the tree (text/trie.h) are none that text could have.
 *
 * One token is looked at byte by byte. A mask of all is a walk over the tree of the vocabulary, and kept with its state, so that within a string, say, it is
 * made once. */
#include "generate/constraint.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "generate/automaton.h"
#include "text/tokenizer.h"
#include "text/trie.h"

enum { MASK_BYTES = 8 << 20 };      /* of masks that are kept */

struct nm_constraint {
    nm_automaton *a;
    const nm_trie *t;
    const nm_tokenizer *tokenizer;
    uint32_t at;                /* state */
    bool begun, closed;         /* text was written; a token that ends came */
    bool drops_space;           /* the text's first space is left out */
    size_t words;               /* of a mask */
    uint32_t **mask;            /* by state; NULL where there is none */
    size_t mask_capacity, n_masks;
    uint32_t *loose;            /* the mask before the text has begun, where that is another one; after the end */
    uint32_t *path;             /* states from the root of the tree down */
};

static size_t masks_most(const nm_constraint *c)
{
    size_t n = MASK_BYTES / (c->words * sizeof **c->mask);
    return n ? n : 1;
}

nm_err nm_constraint_open(nm_constraint **out, const nm_grammar *grammar, const nm_tokenizer *tokenizer)
{
    *out = NULL;
    const nm_trie *t;
    NM_TRY(nm_tokenizer_trie(tokenizer, &t));
    nm_constraint *c = nm_calloc(1, sizeof *c);
    if (!c) return nm_fail_memory(sizeof *c);
    c->t = t;
    c->tokenizer = tokenizer;
    c->drops_space = nm_tokenizer_drops_space(tokenizer);
    c->words = ((size_t)t->n + 31) / 32;
    c->loose = nm_calloc(c->words, sizeof *c->loose);
    c->path = nm_calloc((size_t)t->deepest + 1, sizeof *c->path);
    nm_err err = c->loose && c->path ? nm_automaton_open(&c->a, grammar) : nm_fail_memory(c->words * sizeof *c->loose);
    if (err == NM_OK) c->at = nm_automaton_start(c->a);
    else nm_constraint_close(&c);
    *out = c;
    return err;
}

static void forget_masks(nm_constraint *c)
{
    for (size_t i = 0; i < c->mask_capacity; i++) {
        nm_free(c->mask[i]);
        c->mask[i] = NULL;
    }
    c->n_masks = 0;
}

void nm_constraint_close(nm_constraint **constraint)
{
    nm_constraint *c = *constraint;
    if (!c) return;
    forget_masks(c);
    nm_free(c->mask);
    nm_free(c->loose);
    nm_free(c->path);
    nm_automaton_close(&c->a);
    nm_free(c);
    *constraint = NULL;
}

/* ---- One token ---------------------------------------------------------------------------------------------------------------------- */

/* Makes room where there is none; path[0] is the state that the text has reached, path[0 .. n) are kept. */
static nm_err make_room(nm_constraint *c, size_t n)
{
    if (!nm_automaton_full(c->a)) return NM_OK;
    forget_masks(c);
    nm_err err = nm_automaton_collect(c->a, c->path, n);
    c->at = c->path[0];
    return err;
}

static nm_err begin(nm_constraint *c)
{
    c->a->work = 0;
    c->path[0] = c->at;
    return make_room(c, 1);
}

static bool has_bytes(const nm_constraint *c, int32_t id) { return id >= 0 && id < c->t->n && c->t->at[id + 1] > c->t->at[id]; }

/* The state behind a token of the tree; NM_STATE_DEAD if it may not come. */
static nm_err walk(nm_constraint *c, int32_t id, uint32_t *state)
{
    const char *s = c->t->text + c->t->at[id], *end = c->t->text + c->t->at[id + 1];
    NM_TRY(begin(c));
    *state = c->at;
    if (!c->begun && c->drops_space && *s == ' ') s++;
    for (; s < end && *state != NM_STATE_DEAD; s++) NM_TRY(nm_automaton_next(c->a, *state, (unsigned char)*s, state));
    return NM_OK;
}

bool nm_constraint_allows(nm_constraint *c, int32_t id)
{
    uint32_t state;
    if (c->closed) return false;
    if (nm_token_ends(c->tokenizer, id)) return nm_automaton_accepts(c->a, c->at);
    return has_bytes(c, id) && walk(c, id, &state) == NM_OK && state != NM_STATE_DEAD;
}

static nm_err refuse(const nm_constraint *c, int32_t id)
{
    return nm_fail(NM_USAGE, "token %d ('%.64s') may not come here: the grammar has no text that goes on so", (int)id, nm_token_raw(c->tokenizer, id));
}

nm_err nm_constraint_accept(nm_constraint *c, int32_t id)
{
    uint32_t state;
    bool ends = nm_token_ends(c->tokenizer, id);
    if (c->closed || (ends ? !nm_automaton_accepts(c->a, c->at) : !has_bytes(c, id))) return refuse(c, id);
    if (ends) {
        c->closed = true;
        return NM_OK;
    }
    NM_TRY(walk(c, id, &state));
    if (state == NM_STATE_DEAD) return refuse(c, id);
    c->at = state;
    if (!nm_token_is_control(c->tokenizer, id)) c->begun = true;
    return NM_OK;
}

bool nm_constraint_ended(nm_constraint *c) { return c->closed || !nm_automaton_reads(c->a, c->at); }

/* ---- All tokens --------------------------------------------------------------------------------------------------------------------- */

static void set_bit(uint32_t *mask, int32_t id) { mask[(uint32_t)id / 32] |= 1u << (uint32_t)id % 32; }

/* The state of a node below path[depth - 1], where it was not met before. */
static nm_err enter(nm_constraint *c, uint32_t depth, unsigned char byte)
{
    uint32_t next;
    NM_TRY(make_room(c, depth));
    NM_TRY(nm_automaton_next(c->a, c->path[depth - 1], byte, &next));
    c->path[depth] = next;
    return NM_OK;
}

/* Node i and all below it. */
static nm_err fill_below(nm_constraint *c, uint32_t i, uint32_t *mask)
{
    const nm_trie *t = c->t;
    for (uint32_t end = t->skip[i]; i < end;) {
        uint32_t depth = t->depth[i];
        c->path[depth] = c->a->next[(size_t)c->path[depth - 1] << 8 | t->byte[i]];
        if (c->path[depth] == NM_STATE_UNKNOWN) NM_TRY(enter(c, depth, t->byte[i]));
        if (c->path[depth] == NM_STATE_DEAD) {
            i = t->skip[i];
            continue;
        }
        for (uint32_t k = t->first[i]; k < t->first[i + 1]; k++) set_bit(mask, t->ids[k]);
        i++;
    }
    return NM_OK;
}

/* The space of the beginning, which shows nothing, and all behind it. */
static nm_err fill_space(nm_constraint *c, uint32_t i, uint32_t *mask)
{
    const nm_trie *t = c->t;
    for (uint32_t k = t->first[i]; k < t->first[i + 1]; k++) set_bit(mask, t->ids[k]);
    c->path[1] = c->path[0];
    for (uint32_t end = t->skip[i++]; i < end; i = t->skip[i]) NM_TRY(fill_below(c, i, mask));
    return NM_OK;
}

static nm_err fill(nm_constraint *c, uint32_t *mask)
{
    const nm_trie *t = c->t;
    bool drops = !c->begun && c->drops_space;
    memset(mask, 0, c->words * sizeof *mask);
    for (int32_t i = 0; i < t->n_ends && nm_automaton_accepts(c->a, c->at); i++) set_bit(mask, t->ends[i]);
    for (uint32_t i = 0; i < t->n_nodes; i = t->skip[i]) NM_TRY(drops && t->byte[i] == ' ' ? fill_space(c, i, mask) : fill_below(c, i, mask));
    return NM_OK;
}

/* Keeps a mask with its state, in place of all others where they take too much. */
static nm_err keep(nm_constraint *c, uint32_t *mask)
{
    size_t before = c->mask_capacity;
    NM_TRY(NM_GROW(c->mask, c->mask_capacity, (size_t)c->at + 1));
    for (size_t i = before; i < c->mask_capacity; i++) c->mask[i] = NULL;
    if (c->n_masks >= masks_most(c)) forget_masks(c);
    c->mask[c->at] = mask;
    c->n_masks++;
    return NM_OK;
}

static nm_err make_mask(nm_constraint *c, const uint32_t **mask)
{
    uint32_t *made = nm_malloc(c->words * sizeof *made);
    if (!made) return nm_fail_memory(c->words * sizeof *made);
    nm_err err = fill(c, made);
    if (err == NM_OK) err = keep(c, made);
    if (err != NM_OK) nm_free(made);
    *mask = made;
    return err;
}

nm_err nm_constraint_view(nm_constraint *c, const uint32_t **mask, int32_t *count)
{
    *count = c->t->n;
    *mask = c->loose;
    if (c->closed) {
        memset(c->loose, 0, c->words * sizeof *c->loose);
        return NM_OK;
    }
    NM_TRY(begin(c));
    if (!c->begun && c->drops_space) return fill(c, c->loose);
    if (c->at < c->mask_capacity && c->mask[c->at]) {
        *mask = c->mask[c->at];
        return NM_OK;
    }
    return make_mask(c, mask);
}

nm_err nm_constraint_mask(nm_constraint *c, uint32_t *mask)
{
    const uint32_t *view;
    int32_t count;
    NM_TRY(nm_constraint_view(c, &view, &count));
    memcpy(mask, view, c->words * sizeof *mask);
    return NM_OK;
}
