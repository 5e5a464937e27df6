/* Tokenizers: opening, encoding a text with its special tokens, and questions about tokens. */
#include "text/tokenizer.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "text/tokenizer_impl.h"
#include "text/unicode.h"

enum { LONGEST_TEXT = 1 << 30 };    /* bytes; positions are 32 bits, and text may grow by three before it is cut */

static bool has_tokenizer(const nm_gguf *gguf)
{
    const nm_gguf_value *v = nm_gguf_find(gguf, "tokenizer.ggml.model");
    if (!v) return nm_gguf_find(gguf, "tokenizer.ggml.tokens") != NULL;
    if (v->type != NM_META_STRING) return true;
    size_t length;
    const char *s = nm_gguf_string(gguf, v, 0, &length);
    return !(length == 4 && !memcmp(s, "none", 4)) && !(length == 8 && !memcmp(s, "no_vocab", 8));
}

nm_err nm_tokenizer_open(nm_tokenizer **out, const nm_gguf *gguf)
{
    *out = NULL;
    if (!has_tokenizer(gguf)) return NM_OK;
    nm_tokenizer *t = nm_calloc(1, sizeof *t);
    if (!t) return nm_fail_memory(sizeof *t);
    t->trie = nm_calloc(1, sizeof *t->trie);
    nm_err err = t->trie ? nm_tokenizer_load(t, gguf) : nm_fail_memory(sizeof *t->trie);
    if (err != NM_OK) nm_tokenizer_close(&t);
    *out = t;
    return err;
}

void nm_tokenizer_close(nm_tokenizer **tokenizer)
{
    nm_tokenizer *t = *tokenizer;
    *tokenizer = NULL;
    if (!t) return;
    nm_trie_free(t->trie ? atomic_load(t->trie) : NULL);
    nm_free(t->trie);
    nm_free(t->text);
    nm_free(t->at);
    nm_free(t->type);
    nm_free(t->flags);
    nm_free(t->score);
    nm_free(t->slot);
    nm_free(t->merge);
    nm_free(t->added);
    nm_free(t);
}

/* ---- Special tokens in the text ------------------------------------------------------------------------------------------- */

static bool is_active(const nm_tokenizer *t, int32_t id, unsigned flags) { return t->type[id] == NM_TOKEN_USER || flags & NM_TEXT_SPECIAL; }

/* First of added[lo, hi), which share their first `depth` bytes, whose next byte is at least c. */
static int32_t narrow(const nm_tokenizer *t, int32_t lo, int32_t hi, uint32_t depth, int c)
{
    while (lo < hi) {
        int32_t mid = lo + (hi - lo) / 2;
        if ((unsigned char)nm_vocab_text(t, t->added[mid])[depth] < c) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

/* The longest active token that stands at the start of text, or -1. */
static int32_t added_at(const nm_tokenizer *t, const char *text, size_t length, unsigned flags)
{
    unsigned char c = (unsigned char)text[0];
    int32_t lo = t->added_from[c], hi = t->added_from[c + 1], found = -1;
    for (uint32_t depth = 1; lo < hi; depth++) {
        if (nm_vocab_length(t, t->added[lo]) == depth) {    /* shorter sorts first, and texts are unique */
            if (is_active(t, t->added[lo], flags)) found = t->added[lo];
            lo++;
        }
        if (depth == length) break;
        c = (unsigned char)text[depth];
        lo = narrow(t, lo, hi, depth, c);
        hi = narrow(t, lo, hi, depth, c + 1);
    }
    return found;
}

/* text stands at byte `at` of the whole. */
static nm_err encode_fragment(nm_encoder *e, const char *text, size_t length, size_t at)
{
    NM_TRY(nm_encoder_check(e, 0));
    if (!length) return NM_OK;
    e->fragment = text;
    e->fragment_at = (uint32_t)at;
    e->n_origin = 0;
    switch (e->t->kind) {
    case NM_VOCAB_BYTES: return nm_encode_bytes(e, text, length);
    case NM_VOCAB_WORDPIECE: return nm_encode_wordpiece(e, text, length);
    default: return nm_encode_spm(e, text, length);
    }
}

/* Length without white space at the end. */
static size_t trim_end(const char *text, size_t length)
{
    for (size_t i = length; i; length = i) {
        do i--; while (i && length - i < 4 && ((unsigned char)text[i] & 0xc0) == 0x80);
        int used;
        int32_t c = nm_utf8_decode(text + i, length - i, &used);
        if (c < 0 || (size_t)used != length - i || !(nm_unicode_kind(c) & NM_KIND_SPACE)) break;
    }
    return length;
}

static size_t skip_space(const char *text, size_t at, size_t length)
{
    while (at < length) {
        int used;
        int32_t c = nm_utf8_decode(text + at, length - at, &used);
        if (c < 0 || !(nm_unicode_kind(c) & NM_KIND_SPACE)) break;
        at += (size_t)used;
    }
    return at;
}

/* An added token of n bytes at `at` would touch a guarded part of the text. Those that lie before are left behind. */
static bool is_guarded(nm_encoder *e, size_t at, size_t n)
{
    while (e->n_guards && e->guards[1] <= at) e->guards += 2, e->n_guards--;
    return e->n_guards && e->guards[0] < at + n;
}

static nm_err encode_all(nm_encoder *e, const char *text, size_t length, unsigned flags)
{
    const nm_tokenizer *t = e->t;
    size_t from = 0, at = 0;
    while (at < length) {
        int32_t id = t->n_added ? added_at(t, text + at, length - at, flags) : -1;
        if (id >= 0 && is_guarded(e, at, nm_vocab_length(t, id))) id = -1;
        if (id < 0) { at++; continue; }
        size_t end = t->flags[id] & NM_ADDED_LSTRIP ? trim_end(text + from, at - from) : at - from;
        NM_TRY(encode_fragment(e, text + from, end, from));
        NM_TRY(nm_encoder_put_at(e, id, at));
        at += nm_vocab_length(t, id);
        if (t->flags[id] & NM_ADDED_RSTRIP) at = skip_space(text, at, length);
        from = at;
    }
    return encode_fragment(e, text + from, length - from, from);
}

/* A prompt that its template begins with BOS has one already. */
static void drop_second_bos(nm_encoder *e)
{
    int32_t bos = e->t->bos;
    if (e->n_ids < 2 || bos < 0 || e->ids[0] != bos || e->ids[1] != bos) return;
    e->n_ids--;
    memmove(e->ids, e->ids + 1, e->n_ids * sizeof *e->ids);
    if (e->want_starts) memmove(e->starts, e->starts + 1, e->n_ids * sizeof *e->starts);
}

/* The text with what belongs round it. */
static nm_err encode_whole(nm_encoder *e, const char *text, size_t length, unsigned flags)
{
    const nm_tokenizer *t = e->t;
    bool prompt = flags & NM_TEXT_PROMPT, begins = prompt || flags & NM_TEXT_BOS, ends = flags & NM_TEXT_BOS && !prompt;
    if (prompt) flags |= NM_TEXT_SPECIAL;
    NM_TRY(NM_GROW(e->ids, e->ids_capacity, length / 4 + 4));
    if (t->bos >= 0 && ((begins && t->add_bos) || flags & NM_TEXT_FORCE_BOS)) NM_TRY(nm_encoder_put_at(e, t->bos, 0));
    NM_TRY(encode_all(e, text, length, flags));
    if (t->eos >= 0 && ends && t->add_eos) NM_TRY(nm_encoder_put_at(e, t->eos, length));
    if (t->sep >= 0 && ends && t->add_sep) NM_TRY(nm_encoder_put_at(e, t->sep, length));
    if (prompt) drop_second_bos(e);
    return NM_OK;
}

static void free_encoder(nm_encoder *e)
{
    nm_free(e->symbols);
    nm_free(e->heap);
    nm_free(e->origin);
    nm_str_free(&e->normal);
    nm_str_free(&e->fitted);
    nm_str_free(&e->word);
}

/* The encoder as it begins. starts NULL: not wanted. */
static nm_err tokenize(nm_encoder e, const char *text, size_t length, unsigned flags, int32_t **ids, uint32_t **starts, size_t *count, uint64_t *steps)
{
    *ids = NULL;
    *count = 0;
    if (length > LONGEST_TEXT) return nm_fail(NM_USAGE, "a text of %zu bytes is too long to encode at once (1 GiB); split it", length);
    nm_err err = encode_whole(&e, length ? text : "", length, flags);
    free_encoder(&e);
    if (err != NM_OK) {
        nm_free(e.ids);
        nm_free(e.starts);
        *count = e.least;
        return e.least ? NM_OK : err;
    }
    *ids = e.ids;
    *count = e.n_ids;
    if (starts) *starts = e.starts;
    if (steps) *steps = e.steps;
    return NM_OK;
}

nm_err nm_tokenize_counted(const nm_tokenizer *tokenizer, const char *text, size_t length, unsigned flags, int32_t **ids, size_t *count,
                           uint64_t *steps)
{
    return tokenize((nm_encoder){.t = tokenizer}, text, length, flags, ids, NULL, count, steps);
}

nm_err nm_tokenize_starts(const nm_tokenizer *tokenizer, const char *text, size_t length, unsigned flags, int32_t **ids, uint32_t **starts,
                          size_t *count)
{
    *starts = NULL;
    if (tokenizer->kind == NM_VOCAB_WORDPIECE)
        return nm_fail(NM_REFUSED, "a WordPiece vocabulary does not keep the places of its tokens: it cannot be trained on answers");
    return tokenize((nm_encoder){.t = tokenizer, .want_starts = true}, text, length, flags, ids, starts, count, NULL);
}

nm_err nm_tokenize(const nm_tokenizer *tokenizer, const char *text, size_t length, unsigned flags, int32_t **ids, size_t *count)
{
    return tokenize((nm_encoder){.t = tokenizer}, text, length, flags, ids, NULL, count, NULL);
}

nm_err nm_tokenize_guarded(const nm_tokenizer *tokenizer, const char *text, size_t length, unsigned flags, const size_t *guards, size_t n_guards, int32_t **ids,
                           size_t *count)
{
    return tokenize((nm_encoder){.t = tokenizer, .guards = guards, .n_guards = n_guards}, text, length, flags, ids, NULL, count, NULL);
}

nm_err nm_tokenize_within(const nm_tokenizer *tokenizer, const char *text, size_t length, unsigned flags, const nm_tokenize_options *options, int32_t **ids,
                          size_t *count)
{
    nm_tokenize_options o = options ? *options : (nm_tokenize_options){0};
    nm_encoder e = {.t = tokenizer, .guards = o.guards, .n_guards = o.n_guards, .most = o.most, .cancel = o.cancel};
    NM_TRY(tokenize(e, text, length, flags, ids, NULL, count, NULL));
    if (!o.most || *count <= o.most) return NM_OK;
    nm_free(*ids);      /* the last few over the bound were not in the way */
    *ids = NULL;
    return NM_OK;
}

/* ---- Questions ------------------------------------------------------------------------------------------------------------ */

static bool is_token(const nm_tokenizer *t, int32_t id) { return id >= 0 && id < t->n; }

int32_t nm_token_count(const nm_tokenizer *t) { return t->n; }
int32_t nm_token_bos(const nm_tokenizer *t) { return t->bos; }
int32_t nm_token_eos(const nm_tokenizer *t) { return t->eos; }
int32_t nm_token_pad(const nm_tokenizer *t) { return t->pad; }
int32_t nm_token_unk(const nm_tokenizer *t) { return t->unk; }
bool nm_token_ends(const nm_tokenizer *t, int32_t id) { return is_token(t, id) && t->flags[id] & NM_TOKEN_ENDS; }
const char *nm_token_raw(const nm_tokenizer *t, int32_t id) { return is_token(t, id) ? nm_vocab_text(t, id) : ""; }
bool nm_token_is_control(const nm_tokenizer *t, int32_t id) { return is_token(t, id) && t->type[id] == NM_TOKEN_CONTROL; }
