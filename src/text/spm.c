/* SentencePiece BPE: spaces written as U+2581, whole fragments merged at once, bytes for characters that have no piece.
 *
 * Order of merges. A vocabulary with scores merges the pair whose result scores best. Hugging Face turns scores into a list of
 * merges sorted by (score, length of left part, length of right part), all descending, and then takes the leftmost; that order is kept
 * here, as its ids are the truth. Both parts must be pieces themselves. */
#include <string.h>

#include "base/err.h"
#include "text/tokenizer_impl.h"

/* A float as an integer of the same order. */
static uint32_t ordered(float score)
{
    uint32_t bits;
    score += 0.0f;      /* -0 becomes 0 */
    memcpy(&bits, &score, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static uint64_t sixteen_bits(uint32_t n) { return n < 0xffff ? n : 0xffff; }

nm_candidate nm_spm_candidate(nm_encoder *e, uint32_t i)
{
    const nm_tokenizer *t = e->t;
    const nm_symbol *left = &e->symbols[i], *right = &e->symbols[left->next];
    nm_candidate none = {.id = -1};
    if (left->id < 0 || right->id < 0) return none;
    int32_t id = nm_vocab_find(t, e->text + left->start, (size_t)left->length + right->length);
    if (id < 0 || !nm_vocab_plain(t, id)) return none;
    uint32_t score = t->type[id] == NM_TOKEN_USER ? UINT32_MAX : ordered(t->score[id]);
    uint64_t good = (uint64_t)score << 32 | sixteen_bits(left->chars) << 16 | sixteen_bits(right->chars);
    return (nm_candidate){~good, i, id};
}

/* A character without a piece: its bytes, if all have tokens, else one unknown token for a run of such characters. */
static nm_err fall_back(nm_encoder *e, const nm_symbol *s)
{
    const nm_tokenizer *t = e->t;
    bool all = true;
    for (uint32_t i = 0; i < s->length; i++) all = all && t->byte_id[(unsigned char)e->text[s->start + i]] >= 0;
    if (all) {
        for (const char *p = e->text + s->start; p < e->text + s->start + s->length; p++)
            NM_TRY(nm_encoder_put(e, t->byte_id[(unsigned char)*p], p));
        return NM_OK;
    }
    if (t->unk < 0) return nm_fail(NM_REFUSED, "this model's vocabulary has neither a token for a character of the text nor an unknown token");
    return e->n_ids && e->ids[e->n_ids - 1] == t->unk ? NM_OK : nm_encoder_put(e, t->unk, e->text + s->start);
}

static nm_err put_space(nm_encoder *e, size_t at)
{
    NM_TRY(nm_encoder_origin(e, at, strlen(NM_SPM_SPACE)));
    return nm_str_puts(&e->normal, NM_SPM_SPACE);
}

/* Spaces become U+2581; one comes before the text if the model wants it. squeeze: runs become one, those at the ends go. */
static nm_err escape(nm_encoder *e, const char *text, size_t length)
{
    const nm_tokenizer *t = e->t;
    size_t i = 0;
    e->normal.length = 0;
    if (t->squeeze_spaces) {
        while (i < length && text[i] == ' ') i++;
        while (length > i && text[length - 1] == ' ') length--;
    }
    if (i < length && t->add_space) NM_TRY(put_space(e, i));
    while (i < length) {
        size_t n = 0;
        while (i + n < length && text[i + n] != ' ') NM_TRY(nm_encoder_origin(e, i + n++, 1));
        NM_TRY(nm_str_append(&e->normal, text + i, n));
        i += n;
        for (n = 0; i < length && text[i] == ' '; i++, n++)
            if (!n || !t->squeeze_spaces) NM_TRY(put_space(e, i));
    }
    return NM_OK;
}

nm_err nm_encode_spm(nm_encoder *e, const char *text, size_t length)
{
    const nm_tokenizer *t = e->t;
    NM_TRY(escape(e, text, length));
    e->text = e->fragment = e->normal.data;
    NM_TRY(nm_encoder_check(e, t->byte_gaps ? 0 : e->normal.length));       /* without bytes, runs of any length are one unknown token */
    for (size_t i = 0; i < e->normal.length;) {
        int used;
        NM_TRY(nm_encoder_check(e, 0));
        nm_utf8_decode(e->text + i, e->normal.length - i, &used);
        int32_t id = nm_vocab_find(t, e->text + i, (size_t)used);
        NM_TRY(nm_encoder_symbol(e, (uint32_t)i, (uint32_t)used, id >= 0 && nm_vocab_plain(t, id) ? id : -1));
        i += (size_t)used;
    }
    return nm_encoder_merge(e, fall_back);
}
