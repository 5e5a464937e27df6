/* Building the tree of a vocabulary's bytes: tokens in order of their bytes, each adds what it does not share with the one before. */
#include "text/trie.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "text/tokenizer_impl.h"

static uint32_t length_of(const nm_trie *t, int32_t id) { return t->at[id + 1] - t->at[id]; }

/* What is sorted: the first eight bytes decide nearly always. */
typedef struct entry { uint64_t begin; int32_t id; } entry;

static uint64_t begin_of(const nm_trie *t, int32_t id)
{
    uint64_t begin = 0;
    uint32_t n = length_of(t, id);
    for (uint32_t i = 0; i < 8; i++) begin = begin << 8 | (i < n ? (uint8_t)t->text[t->at[id] + i] : 0);
    return begin;
}

static int by_bytes(const void *a, const void *b, void *arg)
{
    const nm_trie *t = arg;
    const entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    uint32_t n = length_of(t, x->id), m = length_of(t, y->id);
    int c = memcmp(t->text + t->at[x->id], t->text + t->at[y->id], n < m ? n : m);
    if (c) return c;
    return n != m ? (n > m) - (n < m) : (x->id > y->id) - (x->id < y->id);
}

static nm_err sort_tokens(nm_trie *t)
{
    entry *e = nm_calloc((size_t)t->n_ids, sizeof *e);
    if (!e) return nm_fail_memory((size_t)t->n_ids * sizeof *e);
    for (int32_t i = 0; i < t->n_ids; i++) e[i] = (entry){begin_of(t, t->ids[i]), t->ids[i]};
    if (t->n_ids) qsort_r(e, (size_t)t->n_ids, sizeof *e, by_bytes, t);
    for (int32_t i = 0; i < t->n_ids; i++) t->ids[i] = e[i].id;
    nm_free(e);
    return NM_OK;
}

static nm_err read_token(nm_str *text, const nm_tokenizer *tokenizer, int32_t id)
{
    size_t before = text->length;
    if (!nm_token_is_control(tokenizer, id)) {
        NM_TRY(nm_token_bytes(tokenizer, id, text));
        if (text->length > before && memchr(text->data + before, NM_TRIE_CONTROL, text->length - before)) text->length = before;
        return NM_OK;
    }
    if (!nm_vocab_length(tokenizer, id)) return NM_OK;
    NM_TRY(nm_str_putc(text, (char)NM_TRIE_CONTROL));
    NM_TRY(nm_str_append(text, nm_vocab_text(tokenizer, id), nm_vocab_length(tokenizer, id)));
    return nm_str_putc(text, (char)NM_TRIE_CONTROL);
}

/* The bytes of all tokens. */
static nm_err read_tokens(nm_trie *t, const nm_tokenizer *tokenizer)
{
    nm_str text = {0};
    nm_err err = nm_str_append(&text, "", 0);
    for (int32_t i = 0; i < t->n && err == NM_OK; i++) {
        t->at[i] = (uint32_t)text.length;
        if (nm_token_ends(tokenizer, i)) t->ends[t->n_ends++] = i;
        else err = read_token(&text, tokenizer, i);
        if (text.length > UINT32_MAX) err = nm_fail(NM_REFUSED, "a vocabulary of more than 4 GiB of text");
        if (err == NM_OK && text.length > t->at[i]) t->ids[t->n_ids++] = i;
    }
    if (err != NM_OK) {
        nm_str_free(&text);
        return err;
    }
    t->at[t->n] = (uint32_t)text.length;
    t->text = nm_str_take(&text, NULL);
    return NM_OK;
}

static nm_err grow_nodes(nm_trie *t)
{
    size_t c = t->nodes_capacity, need = (size_t)t->n_nodes + 2;
    size_t byte = c, depth = c, skip = c;
    NM_TRY(NM_GROW(t->byte, byte, need));
    NM_TRY(NM_GROW(t->depth, depth, need));
    NM_TRY(NM_GROW(t->skip, skip, need));
    NM_TRY(NM_GROW(t->first, c, need));
    t->nodes_capacity = c;
    return NM_OK;
}

/* Closes the open nodes deeper than `depth`: what comes next is not below them. */
static void close_to(nm_trie *t, const uint32_t *open, uint32_t *n_open, uint32_t depth)
{
    while (*n_open > depth) t->skip[open[--*n_open]] = t->n_nodes;
}

/* Token number k of the order; open: the nodes of the one before, by depth. */
static nm_err add_token(nm_trie *t, int32_t k, uint32_t *open, uint32_t *n_open)
{
    const char *s = t->text + t->at[t->ids[k]];
    uint32_t n = length_of(t, t->ids[k]), shared = 0;
    while (shared < *n_open && shared < n && t->byte[open[shared]] == (uint8_t)s[shared]) shared++;
    close_to(t, open, n_open, shared);
    for (; *n_open < n; t->n_nodes++) {
        if (t->n_nodes + 2 > t->nodes_capacity) NM_TRY(grow_nodes(t));
        t->byte[t->n_nodes] = (uint8_t)s[*n_open];
        t->first[t->n_nodes] = (uint32_t)k;
        open[(*n_open)++] = t->n_nodes;
        t->depth[t->n_nodes] = *n_open;
    }
    return NM_OK;
}

static nm_err add_tokens(nm_trie *t)
{
    for (int32_t i = 0; i < t->n_ids; i++)
        if (length_of(t, t->ids[i]) > t->deepest) t->deepest = length_of(t, t->ids[i]);
    NM_TRY(sort_tokens(t));
    NM_TRY(grow_nodes(t));
    uint32_t *open = nm_calloc(t->deepest, sizeof *open), n_open = 0;
    nm_err err = open ? NM_OK : nm_fail_memory(t->deepest * sizeof *open);
    for (int32_t k = 0; k < t->n_ids && err == NM_OK; k++) err = add_token(t, k, open, &n_open);
    if (err == NM_OK) {
        close_to(t, open, &n_open, 0);
        t->first[t->n_nodes] = (uint32_t)t->n_ids;
    }
    nm_free(open);
    return err;
}

static nm_err build(nm_trie **out, const nm_tokenizer *tokenizer)
{
    size_t n = (size_t)tokenizer->n;
    nm_trie *t = nm_calloc(1, sizeof *t);
    if (!t) return nm_fail_memory(sizeof *t);
    t->n = tokenizer->n;
    t->at = nm_calloc(n + 1, sizeof *t->at);
    t->ids = nm_calloc(n, sizeof *t->ids);
    t->ends = nm_calloc(n, sizeof *t->ends);
    nm_err err = t->at && t->ids && t->ends ? read_tokens(t, tokenizer) : nm_fail_memory(n * sizeof *t->at);
    if (err == NM_OK) err = add_tokens(t);
    *out = t;
    if (err == NM_OK) return NM_OK;
    nm_trie_free(t);
    *out = NULL;
    return err;
}

void nm_trie_free(nm_trie *t)
{
    if (!t) return;
    nm_free(t->byte);
    nm_free(t->depth);
    nm_free(t->skip);
    nm_free(t->first);
    nm_free(t->ids);
    nm_free(t->text);
    nm_free(t->at);
    nm_free(t->ends);
    nm_free(t);
}

/* Two that ask at once may both build; one tree is kept. */
nm_err nm_tokenizer_trie(const nm_tokenizer *tokenizer, const nm_trie **trie)
{
    *trie = atomic_load(tokenizer->trie);
    if (*trie) return NM_OK;
    if (tokenizer->kind == NM_VOCAB_WORDPIECE) return nm_fail(NM_REFUSED, "a WordPiece vocabulary does not write text: its output cannot be held to a grammar");
    nm_trie *made = NULL, *other = NULL;
    NM_TRY(build(&made, tokenizer));
    if (!atomic_compare_exchange_strong(tokenizer->trie, &other, made)) {
        nm_trie_free(made);
        made = other;
    }
    *trie = made;
    return NM_OK;
}
