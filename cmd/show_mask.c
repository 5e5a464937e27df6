/* Training sequences on a terminal. */
#include "show_mask.h"

#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "term.h"

/* What opens and closes a trained run. */
typedef struct marks { const char *on, *off; } marks;
static const marks coloured = {"\x1b[1;32m", "\x1b[0m"}, bracketed = {"[[", "]]"};

static nm_err heading(nm_str *out, const nm_sample *sample)
{
    char file[1024];
    nm_escape_terminal(file, sizeof file, sample->file, strlen(sample->file));
    return nm_str_printf(out, "%s:%llu: %d tokens, %d of them trained\n", file, (unsigned long long)sample->line, (int)sample->count, (int)sample->trained);
}

/* A run of text; a mark never stands within a character, as the decoder gives whole ones. */
static nm_err show_tokens(nm_str *out, nm_decoder *decoder, const nm_sample *sample, const marks *m)
{
    nm_safe safe = {{0}, 0};
    bool on = false;
    for (int32_t i = 0; i <= sample->count; i++) {
        const char *text;
        size_t length;
        bool end = i == sample->count, trained = !end && sample->mask[i];
        NM_TRY(nm_decoder_push(decoder, end ? -1 : sample->ids[i], &text, &length));
        if (length && !end && trained != on) NM_TRY(nm_str_puts(out, trained ? m->on : m->off));
        if (length && !end) on = trained;
        NM_TRY(nm_safe_push(&safe, out, text, length));
    }
    NM_TRY(nm_safe_end(&safe, out));
    return on ? nm_str_puts(out, m->off) : NM_OK;
}

nm_err nm_show_mask_text(nm_str *out, const nm_tokenizer *tokenizer, const nm_sample *sample, bool colour)
{
    nm_decoder *decoder;
    NM_TRY(heading(out, sample));
    NM_TRY(nm_decoder_open(&decoder, tokenizer, NM_TEXT_SPECIAL));
    nm_err err = show_tokens(out, decoder, sample, colour ? &coloured : &bracketed);
    nm_decoder_close(&decoder);
    return err == NM_OK ? nm_str_putc(out, '\n') : err;
}

nm_err nm_show_mask(const nm_dataset *dataset, const nm_tokenizer *tokenizer, size_t n)
{
    size_t count = nm_dataset_count(dataset, NM_SPLIT_TRAIN);
    for (size_t i = 0; i < n && i < count; i++) {
        nm_sample sample = nm_dataset_sample(dataset, NM_SPLIT_TRAIN, i);
        nm_str text = {0};
        nm_err err = nm_show_mask_text(&text, tokenizer, &sample, nm_term_colour(STDOUT_FILENO));
        if (err == NM_OK) err = nm_out(text.data, text.length);
        nm_str_free(&text);
        NM_TRY(err);
    }
    return nm_out_flush();
}
