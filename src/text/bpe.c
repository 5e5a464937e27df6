/* Merging by priority, for byte-level BPE and SentencePiece alike, and byte-level BPE itself.
 *
 * The text starts as one symbol per byte or character. The pair of neighbours with the lowest key (rank, or best score) merges
 * first, of equal ones the leftmost, until no pair can. A heap and a linked list make that O(n log n) for any text: each merge
 * takes one symbol away and offers at most two new pairs. */
#include <string.h>

#include "base/cancel.h"
#include "base/err.h"
#include "base/mem.h"
#include "text/tokenizer_impl.h"
#include "text/unicode.h"

enum { NONE = -1, CHECK_EVERY = 4096 };

/* No token takes more bytes than the longest; a second BOS may go at the end. */
nm_err nm_encoder_check(nm_encoder *e, size_t bytes)
{
    if (nm_cancelled(e->cancel)) return nm_fail(NM_INTERRUPTED, "cancelled");
    size_t least = e->n_ids + bytes / (e->t->longest + 1u);
    if (!e->most || least <= e->most + 1) return NM_OK;
    e->least = least - 1;
    return NM_INTERRUPTED;
}

nm_err nm_encoder_put_at(nm_encoder *e, int32_t id, size_t at)
{
    NM_TRY(NM_GROW(e->ids, e->ids_capacity, e->n_ids + 1));
    if (e->want_starts) {
        NM_TRY(NM_GROW(e->starts, e->starts_capacity, e->n_ids + 1));
        e->starts[e->n_ids] = (uint32_t)at;
    }
    e->ids[e->n_ids++] = id;
    return NM_OK;
}

nm_err nm_encoder_put(nm_encoder *e, int32_t id, const char *begin)
{
    size_t at = e->want_starts ? (size_t)(begin - e->fragment) : 0;
    if (at < e->n_origin) at = e->origin[at];
    return nm_encoder_put_at(e, id, e->fragment_at + at);
}

nm_err nm_encoder_origin(nm_encoder *e, size_t at, size_t count)
{
    if (!e->want_starts) return NM_OK;
    NM_TRY(NM_GROW(e->origin, e->origin_capacity, e->n_origin + count));
    while (count--) e->origin[e->n_origin++] = (uint32_t)at;
    return NM_OK;
}

nm_err nm_encoder_symbol(nm_encoder *e, uint32_t start, uint32_t length, int32_t id)
{
    NM_TRY(NM_GROW(e->symbols, e->symbols_capacity, e->n_symbols + 1));
    uint32_t i = (uint32_t)e->n_symbols++;
    e->symbols[i] = (nm_symbol){.start = start, .length = length, .chars = 1, .id = id, .prev = i - 1, .next = i + 1};
    return NM_OK;
}

/* ---- The heap ----------------------------------------------------------------------------------------------------------- */

static bool before(const nm_candidate *a, const nm_candidate *b) { return a->key < b->key || (a->key == b->key && a->left < b->left); }

static nm_err heap_push(nm_encoder *e, nm_candidate c)
{
    NM_TRY(NM_GROW(e->heap, e->heap_capacity, e->n_heap + 1));
    size_t i = e->n_heap++;
    for (; i && before(&c, &e->heap[(i - 1) / 2]); i = (i - 1) / 2, e->steps++) e->heap[i] = e->heap[(i - 1) / 2];
    e->heap[i] = c;
    return NM_OK;
}

static nm_candidate heap_pop(nm_encoder *e)
{
    nm_candidate top = e->heap[0], last = e->heap[--e->n_heap];
    size_t i = 0;
    for (size_t child = 1; child < e->n_heap; child = 2 * i + 1, e->steps++) {
        if (child + 1 < e->n_heap && before(&e->heap[child + 1], &e->heap[child])) child++;
        if (!before(&e->heap[child], &last)) break;
        e->heap[i] = e->heap[child];
        i = child;
    }
    e->heap[i] = last;
    return top;
}

/* ---- Merging ------------------------------------------------------------------------------------------------------------ */

/* What symbol i and its successor would merge to; id NONE if they do not. */
static nm_candidate candidate(nm_encoder *e, uint32_t i)
{
    const nm_symbol *left = &e->symbols[i];
    e->steps++;
    if (left->next >= e->n_symbols) return (nm_candidate){.id = NONE};
    const nm_symbol *right = &e->symbols[left->next];
    if (e->t->kind == NM_VOCAB_SPM) return nm_spm_candidate(e, i);
    const nm_merge *m = nm_vocab_merge(e->t, left->id, right->id);
    return m ? (nm_candidate){(uint64_t)m->rank, i, m->id} : (nm_candidate){.id = NONE};
}

static nm_err offer(nm_encoder *e, uint32_t i)
{
    nm_candidate c = candidate(e, i);
    return c.id == NONE ? NM_OK : heap_push(e, c);
}

static void join(nm_encoder *e, uint32_t i, int32_t id)
{
    nm_symbol *left = &e->symbols[i], *right = &e->symbols[left->next];
    left->id = id;
    left->length += right->length;
    left->chars += right->chars;
    left->next = right->next;
    right->length = 0;      /* no longer there */
    if (left->next < e->n_symbols) e->symbols[left->next].prev = i;
}

nm_err nm_encoder_merge(nm_encoder *e, nm_missing_fn missing)
{
    e->n_heap = 0;
    for (uint32_t i = 0; i + 1 < e->n_symbols; i++) {
        NM_TRY(nm_encoder_check(e, 0));
        NM_TRY(offer(e, i));
    }
    while (e->n_heap) {
        NM_TRY(nm_encoder_check(e, 0));
        nm_candidate c = heap_pop(e);
        /* Out of date if either side has merged since, unless they still make the same token. */
        if (!e->symbols[c.left].length || candidate(e, c.left).id != c.id) continue;
        join(e, c.left, c.id);
        if (c.left) NM_TRY(offer(e, e->symbols[c.left].prev));
        NM_TRY(offer(e, c.left));
    }
    for (uint32_t i = 0; i < e->n_symbols; i = e->symbols[i].next) {
        const nm_symbol *s = &e->symbols[i];
        NM_TRY(s->id >= 0 ? nm_encoder_put(e, s->id, e->text + s->start) : missing(e, s));
    }
    e->n_symbols = 0;
    return NM_OK;
}

/* ---- Byte-level BPE ----------------------------------------------------------------------------------------------------- */

/* Never: encode_piece makes no symbol without a token. */
static nm_err no_token(nm_encoder *e, const nm_symbol *s)
{
    return nm_fail(NM_FAILED, "byte 0x%02x of the text has no token", (unsigned)(unsigned char)e->text[s->start]);
}

/* Id of a whole pre-token as it stands in the vocabulary, or NONE. */
static nm_err whole_word(nm_encoder *e, const char *piece, size_t length, int32_t *id)
{
    *id = NONE;
    if (length > e->t->longest) return NM_OK;
    e->word.length = 0;
    for (size_t i = 0; i < length; i++) {
        char bytes[4];
        NM_TRY(nm_str_append(&e->word, bytes, (size_t)nm_utf8_encode(nm_byte_to_code((unsigned char)piece[i]), bytes)));
    }
    *id = nm_vocab_find(e->t, e->word.data, e->word.length);
    if (*id >= 0 && !nm_vocab_plain(e->t, *id)) *id = NONE;
    return NM_OK;
}

static nm_err encode_piece(void *arg, const char *piece, size_t length)
{
    nm_encoder *e = arg;
    const nm_tokenizer *t = e->t;
    e->steps += length;
    NM_TRY(nm_encoder_check(e, 0));
    if (t->pre->whole_words) {
        int32_t id;
        NM_TRY(whole_word(e, piece, length, &id));
        if (id != NONE) return nm_encoder_put(e, id, piece);
    }
    e->text = piece;
    for (size_t i = 0; i < length; i++) {
        int32_t id = t->byte_id[(unsigned char)piece[i]];
        if (id >= 0) NM_TRY(nm_encoder_symbol(e, (uint32_t)i, 1, id));
        if (!(i % CHECK_EVERY)) NM_TRY(nm_encoder_check(e, e->n_symbols));      /* each a byte of a token */
    }
    return nm_encoder_merge(e, no_token);
}

/* Is there, at s, a byte that is no part of valid UTF-8 and has no token? */
static bool is_gap(const nm_tokenizer *t, const char *s, size_t length, int *used)
{
    return nm_utf8_decode(s, length, used) < 0 && t->byte_id[(unsigned char)*s] < 0;
}

/* Fills e->origin for the NFC of a text. No ASCII character ever joins what stands before it, so the stretches that begin with one are normalised
 * apart: bytes of a stretch that does not change come from themselves, those of one that does from its first. */
static nm_err trace_nfc(nm_encoder *e, const char *text, size_t length)
{
    nm_str part = {0};
    nm_err err = NM_OK;
    for (size_t i = 0, n; i < length && err == NM_OK; i += n) {
        for (n = 1; i + n < length && (unsigned char)text[i + n] >= 0x80; n++) {}
        part.length = 0;
        err = nm_unicode_normalize(&part, text + i, n, NM_NFC);
        bool same = err == NM_OK && part.length == n && !memcmp(part.data, text + i, n);
        for (size_t k = 0; k < part.length && err == NM_OK; k++) err = nm_encoder_origin(e, same ? i + k : i, 1);
    }
    nm_str_free(&part);
    return err;
}

/* Most vocabularies that lack bytes lack those that valid UTF-8 never has; where one comes, U+FFFD takes its place. (Bytes of valid
 * characters that have no token, as some control characters in SmolLM2, leave no trace, as in the reference.) */
static nm_err replace_gaps(nm_encoder *e, const char **text, size_t *length)
{
    int used;
    size_t i = 0;
    while (i < *length && !is_gap(e->t, *text + i, *length - i, &used)) i += (size_t)used;
    if (i == *length) return NM_OK;
    if (e->want_starts) return nm_fail(NM_REFUSED, "the text is not valid UTF-8: its tokens cannot be placed");
    e->fitted.length = 0;
    NM_TRY(nm_str_append(&e->fitted, *text, i));
    for (; i < *length; i += (size_t)used) {
        bool gap = is_gap(e->t, *text + i, *length - i, &used);
        NM_TRY(nm_str_append(&e->fitted, gap ? NM_REPLACEMENT : *text + i, gap ? 3 : (size_t)used));
    }
    *text = e->fitted.data;
    *length = e->fitted.length;
    return NM_OK;
}

nm_err nm_encode_bytes(nm_encoder *e, const char *text, size_t length)
{
    const nm_pretokenizer *pre = e->t->pre;
    bool prefix = pre->may_prefix && e->t->add_space && text[0] != ' ';
    bool normalize = pre->nfc && nm_unicode_may_change(text, length);
    if (prefix || normalize) {
        e->normal.length = 0;
        if (prefix) NM_TRY(nm_str_putc(&e->normal, ' '));
        if (prefix) NM_TRY(nm_encoder_origin(e, 0, 1));
        if (normalize && e->want_starts) NM_TRY(trace_nfc(e, text, length));
        for (size_t i = 0; i < length && !normalize && e->want_starts; i++) NM_TRY(nm_encoder_origin(e, i, 1));
        NM_TRY(normalize ? nm_unicode_normalize(&e->normal, text, length, NM_NFC) : nm_str_append(&e->normal, text, length));
        text = e->normal.data;
        length = e->normal.length;
    }
    if (e->t->byte_gaps) NM_TRY(replace_gaps(e, &text, &length));
    e->fragment = text;
    return nm_pretokenize(pre, text, length, encode_piece, e);
}
