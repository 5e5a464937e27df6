/* Training sequences on a terminal. */
#include "show_mask.h"

#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "term.h"
#include "tune/tune.h"

/* What opens and closes a trained run. */
typedef struct marks { const char *on, *off; } marks;
static const marks coloured = {"\x1b[1;32m", "\x1b[0m"}, bracketed = {"[[", "]]"};

static nm_err heading(nm_str *out, const nm_sample *sample)
{
    char file[1024];
    nm_escape_terminal(file, sizeof file, sample->file, strlen(sample->file));
    return nm_str_printf(out, "%s:%llu: %d tokens, %d of them trained\n", file, (unsigned long long)sample->line, (int)sample->count, (int)sample->trained);
}

typedef struct shown { nm_str *out; nm_safe safe; const marks *marks; } shown;

static nm_err show_piece(void *arg, const char *text, size_t length, bool trained)
{
    shown *s = arg;
    if (trained) NM_TRY(nm_str_puts(s->out, s->marks->on));
    NM_TRY(nm_safe_push(&s->safe, s->out, text, length));
    return trained ? nm_str_puts(s->out, s->marks->off) : NM_OK;
}

nm_err nm_show_mask_text(nm_str *out, const nm_tokenizer *tokenizer, const nm_sample *sample, bool colour)
{
    shown s = {.out = out, .marks = colour ? &coloured : &bracketed};
    NM_TRY(heading(out, sample));
    NM_TRY(nm_tune_pieces(tokenizer, sample, show_piece, &s));
    NM_TRY(nm_safe_end(&s.safe, out));
    return nm_str_putc(out, '\n');
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
