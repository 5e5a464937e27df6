/* From ids back to bytes, whole or as a stream that never shows half a character. */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "text/tokenizer_impl.h"

struct nm_decoder {
    const nm_tokenizer *t;
    unsigned flags;
    bool begun;         /* something has been shown, or stands before (NM_TEXT_CONTINUES) */
    nm_str text;        /* [0, shown) was handed out by the last call */
    size_t shown;
};

/* The bytes of a byte-level token; one with a character outside the alphabet stands for itself. */
static nm_err put_bytes(nm_str *out, const char *s, size_t length)
{
    size_t before = out->length;
    for (size_t i = 0; i < length;) {
        int used, byte = nm_code_to_byte(nm_utf8_decode(s + i, length - i, &used));
        if (byte < 0) {
            out->length = before;
            return nm_str_append(out, s, length);
        }
        NM_TRY(nm_str_putc(out, (char)byte));
        i += (size_t)used;
    }
    return NM_OK;
}

static nm_err put_spm(nm_str *out, const char *s, size_t length)
{
    int byte = nm_byte_token_value(s, length);
    if (byte >= 0) return nm_str_putc(out, (char)byte);
    for (size_t i = 0; i < length;) {
        bool space = length - i >= 3 && !memcmp(s + i, NM_SPM_SPACE, 3);
        NM_TRY(nm_str_putc(out, space ? ' ' : s[i]));
        i += space ? 3 : 1;
    }
    return NM_OK;
}

/* Words with spaces between them, but none before what the reference's clean-up pulls to the word before it. */
static nm_err put_word(nm_str *out, const nm_tokenizer *t, const char *s, size_t length, bool first)
{
    static const char *const close[] = {".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"};
    bool marked = t->hash_words ? !strncmp(s, "##", 2) && length > 2 : !strncmp(s, NM_SPM_SPACE, 3);
    size_t mark = marked ? (t->hash_words ? 2 : 3) : 0;
    bool begins = marked != t->hash_words;
    for (size_t i = 0; i < sizeof close / sizeof *close; i++)
        if (!strncmp(s + mark, close[i], strlen(close[i]))) begins = false;
    if (begins && !first) NM_TRY(nm_str_putc(out, ' '));
    return nm_str_append(out, s + mark, length - mark);
}

static bool is_special(const nm_tokenizer *t, int32_t id)
{
    nm_token_type type = t->type[id];
    return type == NM_TOKEN_CONTROL || type == NM_TOKEN_UNKNOWN || type == NM_TOKEN_UNUSED;
}

/* A token that is not special, as it stands behind others; not of WordPiece. */
static nm_err put_plain(nm_str *out, const nm_tokenizer *t, int32_t id)
{
    const char *s = nm_vocab_text(t, id);
    size_t length = nm_vocab_length(t, id);
    if (t->kind != NM_VOCAB_BYTES) return put_spm(out, s, length);
    return t->type[id] == NM_TOKEN_USER ? nm_str_append(out, s, length) : put_bytes(out, s, length);
}

nm_err nm_token_bytes(const nm_tokenizer *t, int32_t id, nm_str *out)
{
    return is_special(t, id) ? NM_OK : put_plain(out, t, id);
}

bool nm_tokenizer_drops_space(const nm_tokenizer *t) { return t->kind == NM_VOCAB_SPM && t->add_space; }

/* Appends what a token shows. */
static nm_err put_token(nm_decoder *d, int32_t id)
{
    const nm_tokenizer *t = d->t;
    if (id < 0 || id >= t->n) return nm_fail(NM_USAGE, "token %d is outside the vocabulary of %d tokens", (int)id, (int)t->n);
    const char *s = nm_vocab_text(t, id);
    size_t length = nm_vocab_length(t, id), before = d->text.length;
    bool special = is_special(t, id);
    if (special && !(d->flags & NM_TEXT_SPECIAL)) return NM_OK;
    if (t->kind == NM_VOCAB_WORDPIECE) NM_TRY(put_word(&d->text, t, s, length, !d->begun));
    else if (special) NM_TRY(nm_str_append(&d->text, s, length));
    else NM_TRY(put_plain(&d->text, t, id));
    if (d->text.length == before) return NM_OK;
    /* The space that the encoder put before the text. */
    if (!d->begun && !special && nm_tokenizer_drops_space(t) && d->text.data[before] == ' ') {
        memmove(d->text.data + before, d->text.data + before + 1, d->text.length - before);
        d->text.length--;
    }
    d->begun = true;
    return NM_OK;
}

nm_err nm_detokenize(const nm_tokenizer *tokenizer, const int32_t *ids, size_t count, unsigned flags, char **text, size_t *length)
{
    nm_decoder d = {.t = tokenizer, .flags = flags, .begun = flags & NM_TEXT_CONTINUES};
    *text = NULL;
    *length = 0;
    nm_err err = nm_str_append(&d.text, "", 0);
    for (size_t i = 0; i < count && err == NM_OK; i++) err = put_token(&d, ids[i]);
    if (err != NM_OK) nm_str_free(&d.text);
    else *text = nm_str_take(&d.text, length);
    return err;
}

/* ---- Streaming ------------------------------------------------------------------------------------------------------------ */

/* Bytes at the end that may yet become a character: 0 to 3. */
static size_t incomplete(const char *text, size_t length)
{
    for (size_t k = 1; k <= 3 && k <= length; k++) {
        if (((unsigned char)text[length - k] & 0xc0) == 0x80) continue;
        return nm_utf8_begins(text + length - k, k) ? k : 0;
    }
    return 0;
}

nm_err nm_decoder_open(nm_decoder **out, const nm_tokenizer *tokenizer, unsigned flags)
{
    *out = NULL;
    nm_decoder *d = nm_calloc(1, sizeof *d);
    if (!d) return nm_fail_memory(sizeof *d);
    *d = (nm_decoder){.t = tokenizer, .flags = flags, .begun = flags & NM_TEXT_CONTINUES};
    *out = d;
    return NM_OK;
}

void nm_decoder_close(nm_decoder **decoder)
{
    if (!*decoder) return;
    nm_str_free(&(*decoder)->text);
    nm_free(*decoder);
    *decoder = NULL;
}

nm_err nm_decoder_push(nm_decoder *decoder, int32_t id, const char **text, size_t *length)
{
    nm_decoder *d = decoder;
    *text = "";
    *length = 0;
    if (d->shown) {     /* forget what the last call gave */
        memmove(d->text.data, d->text.data + d->shown, d->text.length - d->shown);
        d->text.length -= d->shown;
        d->shown = 0;
    }
    size_t before = d->text.length;
    nm_err err = id >= 0 ? put_token(d, id) : NM_OK;
    if (err != NM_OK) {     /* as if it had not been asked */
        d->text.length = before;
        return err;
    }
    if (!d->text.length) return NM_OK;
    d->shown = d->text.length - (id < 0 ? 0 : incomplete(d->text.data, d->text.length));
    *text = d->text.data;
    *length = d->shown;
    return NM_OK;
}
