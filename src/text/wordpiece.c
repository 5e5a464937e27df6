/* WordPiece as BERT uses it: clean, spaces round CJK, NFD without accents, lower case; split at white space and punctuation; then the
 * longest pieces from the left, or the unknown token for the whole word. Categories are those of Unicode 8, as in the reference. */
#include <string.h>

#include "base/err.h"
#include "text/tokenizer_impl.h"
#include "text/unicode.h"

enum { LONGEST_WORD = 100 };    /* characters; longer words are unknown */

static bool is_cjk(int32_t c)
{
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b81f) ||
           (c >= 0x2b920 && c <= 0x2ceaf) || (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

static bool is_punct(int32_t c)
{
    if (c < 0x80) return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
    return nm_unicode_kind(c) & NM_KIND_OLD_PUNCT;
}

static bool is_space(int32_t c) { return nm_unicode_kind(c) & NM_KIND_SPACE; }

/* Control and format characters go (so does what is no UTF-8), white space becomes a space, CJK gets spaces round it. */
static nm_err clean(nm_str *out, const char *text, size_t length)
{
    for (size_t i = 0; i < length;) {
        int used;
        int32_t c = nm_utf8_decode(text + i, length - i, &used);
        bool blank = c == '\t' || c == '\n' || c == '\r';
        if (c <= 0 || c == 0xfffd || (!blank && nm_unicode_kind(c) & NM_KIND_OLD_OTHER)) {
            i += (size_t)used;
            continue;
        }
        if (is_cjk(c)) NM_TRY(nm_str_putc(out, ' '));
        NM_TRY(is_space(c) ? nm_str_putc(out, ' ') : nm_str_append(out, text + i, (size_t)used));
        if (is_cjk(c)) NM_TRY(nm_str_putc(out, ' '));
        i += (size_t)used;
    }
    return NM_OK;
}

/* Drops nonspacing marks and lowers case. */
static nm_err fold(nm_str *out, const char *text, size_t length)
{
    for (size_t i = 0; i < length;) {
        int used;
        int32_t c = nm_utf8_decode(text + i, length - i, &used), lower[2];
        i += (size_t)used;
        if (nm_unicode_kind(c) & NM_KIND_OLD_MN) continue;
        int n = nm_unicode_to_lower(c, lower);
        for (int k = 0; k < n; k++) {
            char bytes[4];
            NM_TRY(nm_str_append(out, bytes, (size_t)nm_utf8_encode((uint32_t)lower[k], bytes)));
        }
    }
    return NM_OK;
}

/* The text of a piece in the vocabulary's manner, first of a word or not. */
static int32_t find_piece(nm_encoder *e, const char *piece, size_t length, bool first, nm_err *err)
{
    *err = NM_OK;
    /* A piece inside a word is not one that begins words, even where the text has that very mark. */
    if (!e->t->hash_words && !first && length >= 3 && !memcmp(piece, NM_SPM_SPACE, 3)) return -1;
    const char *mark = e->t->hash_words ? (first ? "" : "##") : first ? NM_SPM_SPACE : "";
    e->word.length = 0;
    *err = nm_str_puts(&e->word, mark);
    if (*err == NM_OK) *err = nm_str_append(&e->word, piece, length);
    if (*err != NM_OK) return -1;
    int32_t id = nm_vocab_find(e->t, e->word.data, e->word.length);
    return id >= 0 && nm_vocab_plain(e->t, id) ? id : -1;
}

/* Bytes of the longest piece at the start of word that ends between characters, 0 if there is none. */
static nm_err longest_piece(nm_encoder *e, const char *word, size_t length, bool first, int32_t *id, size_t *taken)
{
    nm_err err = NM_OK;
    for (*taken = length < e->t->longest ? length : e->t->longest; *taken; (*taken)--) {
        if (*taken < length && ((unsigned char)word[*taken] & 0xc0) == 0x80) continue;
        e->steps++;
        *id = find_piece(e, word, *taken, first, &err);
        if (err != NM_OK || *id >= 0) return err;
    }
    return NM_OK;
}

static nm_err encode_word(nm_encoder *e, const char *word, size_t length, size_t chars)
{
    size_t before = e->n_ids, at = 0;
    NM_TRY(nm_encoder_check(e, 0));
    while (at < length && chars <= LONGEST_WORD) {
        int32_t id = -1;
        size_t taken = 0;
        NM_TRY(longest_piece(e, word + at, length - at, at == 0, &id, &taken));
        if (!taken) break;
        NM_TRY(nm_encoder_put_at(e, id, 0));
        at += taken;
    }
    if (at == length) return NM_OK;
    e->n_ids = before;
    return nm_encoder_put_at(e, e->t->unk, 0);
}

static nm_err encode_words(nm_encoder *e, const char *text, size_t length)
{
    size_t start = 0, chars = 0;
    for (size_t i = 0; i < length;) {
        int used;
        int32_t c = nm_utf8_decode(text + i, length - i, &used);
        bool punct = is_punct(c);
        if (punct || is_space(c)) {
            if (i > start) NM_TRY(encode_word(e, text + start, i - start, chars));
            if (punct) NM_TRY(encode_word(e, text + i, (size_t)used, 1));
            start = i + (size_t)used;
            chars = 0;
        } else {
            chars++;
        }
        i += (size_t)used;
    }
    return length > start ? encode_word(e, text + start, length - start, chars) : NM_OK;
}

nm_err nm_encode_wordpiece(nm_encoder *e, const char *text, size_t length)
{
    nm_str cleaned = {0}, decomposed = {0};
    nm_err err;
    e->normal.length = 0;
    NM_GOTO(clean(&cleaned, text, length));
    NM_GOTO(nm_unicode_normalize(&decomposed, cleaned.data, cleaned.length, NM_NFD));
    NM_GOTO(fold(&e->normal, decomposed.data, decomposed.length));
    err = encode_words(e, e->normal.data, e->normal.length);
out:
    nm_str_free(&cleaned);
    nm_str_free(&decomposed);
    return err;
}
