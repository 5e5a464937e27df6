/* What 'effect' found, on a terminal and as JSON. */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "common.h"
#include "effect.h"

/* ---- Words ----------------------------------------------------------------------------------------------------------- */

nm_err nm_effect_pieces_make(nm_effect_pieces *out, const nm_effect *e, const int32_t *ids, size_t count)
{
    nm_decoder *decoder = NULL;
    nm_err err = NM_OK;
    *out = (nm_effect_pieces){.count = count, .end = nm_calloc(count + 1, sizeof *out->end)};
    if (!out->end) return nm_fail_memory(count * sizeof *out->end);
    NM_GOTO(nm_str_append(&out->text, "", 0));
    NM_GOTO(nm_decoder_open(&decoder, e->talk->tokenizer, e->talk->tmpl ? 0 : NM_TEXT_CONTINUES));
    for (size_t i = 0; i <= count; i++) {
        const char *text;
        size_t length;
        NM_GOTO(nm_decoder_push(decoder, i < count ? ids[i] : -1, &text, &length));
        NM_GOTO(nm_str_append(&out->text, text, length));
        out->end[i < count ? i : count ? count - 1 : 0] = out->text.length;
    }
out:
    nm_decoder_close(&decoder);
    if (err != NM_OK) nm_effect_pieces_free(out);
    return err;
}

void nm_effect_pieces_free(nm_effect_pieces *p)
{
    nm_str_free(&p->text);
    nm_free(p->end);
    *p = (nm_effect_pieces){0};
}

nm_err nm_effect_token_name(nm_str *out, const nm_effect *e, int32_t id)
{
    char *text, safe[256];
    size_t length;
    if (nm_token_is_control(e->talk->tokenizer, id)) {
        const char *raw = nm_token_raw(e->talk->tokenizer, id);
        nm_escape_terminal(safe, sizeof safe, raw, strlen(raw));
        return nm_str_puts(out, safe);
    }
    NM_TRY(nm_detokenize(e->talk->tokenizer, &id, 1, NM_TEXT_CONTINUES | NM_TEXT_SPECIAL, &text, &length));
    nm_escape_terminal(safe, sizeof safe, text, length);
    nm_free(text);
    return nm_str_printf(out, "\"%s\"", safe);
}

nm_err nm_effect_label(nm_str *out, const nm_effect *e, const nm_effect_point *p)
{
    for (size_t i = 0; i < e->swept; i++) {
        const char *name = e->talk->stacked.found.adapter[e->which[i]].name, *slash = strrchr(name, '/');
        NM_TRY(nm_str_printf(out, "%s%s=%g", i ? " " : "", slash && slash[1] ? slash + 1 : name, (double)p->scale[i]));
    }
    return NM_OK;
}

/* ---- A terminal, or a pipe ------------------------------------------------------------------------------------------- */

static const char bold[] = "\x1b[1m", plain[] = "\x1b[0m";

/* The colour of a change of log-probability: green up, red down, bold beyond one nat; "" for what is next to nothing. */
static const char *shade(double change)
{
    if (change >= 1) return "\x1b[1;32m";
    if (change >= 0.1) return "\x1b[32m";
    if (change <= -1) return "\x1b[1;31m";
    return change <= -0.1 ? "\x1b[31m" : "";
}

static nm_err print_label(const nm_effect *e, const nm_effect_point *p, int width)
{
    nm_str s = {0};
    nm_err err = nm_effect_label(&s, e, p);
    if (err == NM_OK) err = nm_out_name(s.data);
    if (err == NM_OK && (int)s.length < width) err = nm_out_printf("%*s", width - (int)s.length, "");
    nm_str_free(&s);
    return err;
}

static nm_err label_width(const nm_effect *e, int *width)
{
    *width = 5;
    for (size_t i = 0; i < e->points; i++) {
        nm_str s = {0};
        nm_err err = nm_effect_label(&s, e, &e->point[i]);
        if (err == NM_OK && (int)s.length > *width) *width = (int)s.length;
        nm_str_free(&s);
        NM_TRY(err);
    }
    return NM_OK;
}

static nm_err print_summary(const nm_effect *e)
{
    int width;
    NM_TRY(label_width(e, &width));
    NM_TRY(nm_out_printf("%-*s  %9s  %9s  %s\n", width, "scale", "mean KL", "log p", "as the base"));
    for (size_t i = 0; i < e->points; i++) {
        const nm_effect_point *p = &e->point[i];
        NM_TRY(print_label(e, p, width));
        NM_TRY(nm_out_printf("  %9.4f  %9.4f  %zu of %zu tokens\n", p->mean_kl, p->mean_logprob, p->same, p->count));
    }
    return nm_out_puts("(KL from the base and log-probability, nats a token, on the answer at the last scale)\n");
}

/* Text with what is marked in colour, else in brackets; a mark never stands within a character, as the decoder gives whole ones. */
static nm_err print_marked(const nm_effect *e, const int32_t *ids, size_t count, const char *(*mark)(const void *arg, size_t i), const void *arg)
{
    nm_effect_pieces pieces;
    nm_safe safe = {{0}, 0};
    nm_str s = {0};
    const char *on = "";
    bool colour = nm_term_colour(STDOUT_FILENO);
    NM_TRY(nm_effect_pieces_make(&pieces, e, ids, count));
    nm_err err = NM_OK;
    for (size_t i = 0, at = 0; i < count; at = pieces.end[i], i++) {
        const char *want = mark(arg, i);
        if (pieces.end[i] == at) continue;
        if (want != on) {
            if (*on) NM_GOTO(nm_str_puts(&s, colour ? plain : "]]"));
            if (*want) NM_GOTO(nm_str_puts(&s, colour ? want : "[["));
        }
        on = want;
        NM_GOTO(nm_safe_push(&safe, &s, pieces.text.data + at, pieces.end[i] - at));
    }
    NM_GOTO(nm_safe_end(&safe, &s));
    if (*on) NM_GOTO(nm_str_puts(&s, colour ? plain : "]]"));
    NM_GOTO(nm_str_putc(&s, '\n'));
    err = nm_out(s.data, s.length);
out:
    nm_str_free(&s);
    nm_effect_pieces_free(&pieces);
    return err;
}

static const char *changed_mark(const void *arg, size_t i) { return ((const nm_effect_point *)arg)->changed[i] ? "\x1b[1;33m" : ""; }

static nm_err print_answers(const nm_effect *e)
{
    bool colour = nm_term_colour(STDOUT_FILENO);
    NM_TRY(nm_out_printf("\n%sbase%s\n", colour ? bold : "", colour ? plain : ""));
    NM_TRY(print_marked(e, e->base.ids, e->base.count, changed_mark, &e->base));
    for (size_t i = 0; i < e->points; i++) {
        NM_TRY(nm_out_puts(colour ? "\n\x1b[1m" : "\n"));
        NM_TRY(print_label(e, &e->point[i], 0));
        NM_TRY(nm_out_puts(colour ? "\x1b[0m\n" : "\n"));
        NM_TRY(print_marked(e, e->point[i].ids, e->point[i].count, changed_mark, &e->point[i]));
    }
    return NM_OK;
}

static const char *shift_mark(const void *arg, size_t i)
{
    const nm_effect *e = arg;
    return shade(e->point[e->points - 1].token[i].logprob - e->base.token[i].logprob);
}

/* "\" sun\" 61 %, \" sky\" 20 %" */
static nm_err put_top(nm_str *s, const nm_effect *e, const nm_effect_token *t)
{
    for (int i = 0; i < NM_EFFECT_TOP && t->top[i] >= 0; i++) {
        if (i) NM_TRY(nm_str_puts(s, ", "));
        NM_TRY(nm_effect_token_name(s, e, t->top[i]));
        NM_TRY(nm_str_printf(s, " %.0f %%", exp(t->top_logprob[i]) * 100));
    }
    return NM_OK;
}

static nm_err put_token(nm_str *s, const nm_effect *e, size_t i, bool colour)
{
    const nm_effect_token *was = &e->base.token[i], *is = &e->point[e->points - 1].token[i];
    const char *on = colour ? shade(is->logprob - was->logprob) : "";
    NM_TRY(nm_str_printf(s, "%9.3f %9.3f  %s%+9.3f  %8.3f  ", was->logprob, is->logprob, on, is->logprob - was->logprob, is->kl));
    size_t from = s->length;
    NM_TRY(nm_effect_token_name(s, e, e->text[i]));
    if (*on) NM_TRY(nm_str_puts(s, plain));
    if (was->top[0] != is->top[0]) {
        NM_TRY(nm_str_printf(s, "%*s  base ", s->length - from < 16 ? (int)(16 - (s->length - from)) : 0, ""));
        NM_TRY(put_top(s, e, was));
        NM_TRY(nm_str_puts(s, "; here "));
        NM_TRY(put_top(s, e, is));
    }
    return nm_str_putc(s, '\n');
}

static nm_err print_tokens(const nm_effect *e)
{
    bool colour = nm_term_colour(STDOUT_FILENO);
    NM_TRY(nm_out_puts("\nThe answer at "));
    NM_TRY(print_label(e, &e->point[e->points - 1], 0));
    NM_TRY(nm_out_puts(", token by token: log-probability for the base and here\n"));
    if (colour) NM_TRY(print_marked(e, e->text, e->point[e->points - 1].count, shift_mark, e));
    NM_TRY(nm_out_printf("%9s %9s  %9s  %8s  %s\n", "base", "here", "change", "KL", "token"));
    for (size_t i = 0; i < e->text_count; i++) {
        nm_str s = {0};
        nm_err err = put_token(&s, e, i, colour);
        if (err == NM_OK) err = nm_out(s.data, s.length);
        nm_str_free(&s);
        NM_TRY(err);
    }
    return NM_OK;
}

nm_err nm_effect_print(const nm_effect *e)
{
    NM_TRY(print_summary(e));
    NM_TRY(print_answers(e));
    return print_tokens(e);
}

/* ---- JSON ------------------------------------------------------------------------------------------------------------ */

static nm_err json_answer(nm_str *s, const nm_effect *e, const nm_effect_point *p)
{
    nm_effect_pieces pieces;
    NM_TRY(nm_json_key(s, "answer"));
    NM_TRY(nm_str_puts(s, "{\"text\": "));
    NM_TRY(nm_effect_pieces_make(&pieces, e, p->ids, p->count));
    nm_err err = nm_str_json(s, pieces.text.data, pieces.text.length);
    nm_effect_pieces_free(&pieces);
    NM_TRY(err);
    NM_TRY(nm_json_key(s, "ids"));
    NM_TRY(nm_json_ids(s, p->ids, p->count));
    NM_TRY(nm_json_string(s, "finish_reason", p->ended ? "stop" : "length"));
    NM_TRY(nm_json_whole(s, "as_base", p->same));
    NM_TRY(nm_json_key(s, "changed"));
    NM_TRY(nm_str_putc(s, '['));
    for (size_t i = 0; i < p->count; i++) NM_TRY(nm_str_printf(s, "%s%d", i ? ", " : "", p->changed[i]));
    return nm_str_puts(s, "]}");
}

static nm_err json_top(nm_str *s, const nm_effect_token *t)
{
    NM_TRY(nm_json_key(s, "top"));
    NM_TRY(nm_str_putc(s, '['));
    for (int i = 0; i < NM_EFFECT_TOP && t->top[i] >= 0; i++) {
        NM_TRY(nm_str_printf(s, "%s{\"id\": %d, \"logprob\": ", i ? ", " : "", t->top[i]));
        NM_TRY(nm_json_double(s, t->top_logprob[i]));
        NM_TRY(nm_str_putc(s, '}'));
    }
    return nm_str_putc(s, ']');
}

static nm_err json_tokens(nm_str *s, const nm_effect *e, const nm_effect_point *p)
{
    NM_TRY(nm_json_key(s, "tokens"));
    NM_TRY(nm_str_putc(s, '['));
    for (size_t i = 0; i < e->text_count; i++) {
        const nm_effect_token *t = &p->token[i];
        NM_TRY(nm_str_puts(s, i ? ", {" : "{"));
        NM_TRY(nm_json_key(s, "logprob"));
        NM_TRY(nm_json_double(s, t->logprob));
        NM_TRY(nm_json_key(s, "change"));
        NM_TRY(nm_json_double(s, t->logprob - e->base.token[i].logprob));
        NM_TRY(nm_json_key(s, "kl"));
        NM_TRY(nm_json_double(s, t->kl));
        NM_TRY(json_top(s, t));
        NM_TRY(nm_str_putc(s, '}'));
    }
    return nm_str_putc(s, ']');
}

/* An object of its own: the scales of the swept adapters in their order, the answer, the measures on the common text. */
static nm_err json_point(nm_str *s, const nm_effect *e, const nm_effect_point *p)
{
    NM_TRY(nm_str_puts(s, "{\"scales\": ["));
    for (size_t i = 0; i < e->swept; i++) {
        if (i) NM_TRY(nm_str_puts(s, ", "));
        NM_TRY(nm_json_single(s, (double)p->scale[i]));
    }
    NM_TRY(nm_str_putc(s, ']'));
    NM_TRY(nm_json_key(s, "mean_kl"));
    NM_TRY(nm_json_double(s, p->mean_kl));
    NM_TRY(nm_json_key(s, "mean_logprob"));
    NM_TRY(nm_json_double(s, p->mean_logprob));
    NM_TRY(json_answer(s, e, p));
    NM_TRY(json_tokens(s, e, p));
    return nm_str_putc(s, '}');
}

static nm_err json_text(nm_str *s, const nm_effect *e)
{
    NM_TRY(nm_json_key(s, "text"));
    NM_TRY(nm_str_puts(s, "{\"ids\": "));
    NM_TRY(nm_json_ids(s, e->text, e->text_count));
    NM_TRY(nm_json_key(s, "tokens"));
    NM_TRY(nm_str_putc(s, '['));
    for (size_t i = 0; i < e->text_count; i++) {
        const char *raw = nm_token_raw(e->talk->tokenizer, e->text[i]);
        if (i) NM_TRY(nm_str_puts(s, ", "));
        NM_TRY(nm_str_json(s, raw, strlen(raw)));
    }
    return nm_str_puts(s, "]}");
}

nm_err nm_effect_json(nm_str *s, const nm_effect *e)
{
    NM_TRY(nm_str_putc(s, '{'));
    NM_TRY(nm_json_string(s, "model", e->model));
    NM_TRY(nm_json_whole(s, "prompt_tokens", e->prompt_tokens));
    NM_TRY(nm_json_key(s, "adapters"));
    NM_TRY(nm_str_putc(s, '['));
    for (size_t i = 0; i < e->swept; i++) {
        const char *name = e->talk->stacked.found.adapter[e->which[i]].name;
        if (i) NM_TRY(nm_str_puts(s, ", "));
        NM_TRY(nm_str_json(s, name, strlen(name)));
    }
    NM_TRY(nm_str_putc(s, ']'));
    NM_TRY(json_text(s, e));
    NM_TRY(nm_json_key(s, "base"));
    NM_TRY(json_point(s, e, &e->base));
    NM_TRY(nm_json_key(s, "scales"));
    NM_TRY(nm_str_putc(s, '['));
    for (size_t i = 0; i < e->points; i++) {
        if (i) NM_TRY(nm_str_puts(s, ", "));
        NM_TRY(json_point(s, e, &e->point[i]));
    }
    return nm_str_puts(s, "]}");
}
