/* The text of a training sequence in pieces, trained or not. */
#include "base/err.h"
#include "base/str.h"
#include "tune/tune.h"

typedef struct run { nm_str text; bool trained; nm_tune_piece_fn each; void *arg; } run;

static nm_err give(run *r)
{
    if (!r->text.length) return NM_OK;
    nm_err err = r->each(r->arg, r->text.data, r->text.length, r->trained);
    r->text.length = 0;
    return err;
}

/* A run never ends within a character, as the decoder gives whole ones. */
static nm_err take_tokens(run *r, nm_decoder *decoder, const nm_sample *sample)
{
    for (int32_t i = 0; i <= sample->count; i++) {
        const char *text;
        size_t length;
        bool end = i == sample->count, trained = !end && sample->mask[i];
        NM_TRY(nm_decoder_push(decoder, end ? -1 : sample->ids[i], &text, &length));
        if (!length) continue;
        if (!end && trained != r->trained) {
            NM_TRY(give(r));
            r->trained = trained;
        }
        NM_TRY(nm_str_append(&r->text, text, length));
    }
    return give(r);
}

nm_err nm_tune_pieces(const nm_tokenizer *tokenizer, const nm_sample *sample, nm_tune_piece_fn each, void *arg)
{
    run r = {.each = each, .arg = arg};
    nm_decoder *decoder;
    NM_TRY(nm_decoder_open(&decoder, tokenizer, NM_TEXT_SPECIAL));
    nm_err err = take_tokens(&r, decoder, sample);
    nm_decoder_close(&decoder);
    nm_str_free(&r.text);
    return err;
}
