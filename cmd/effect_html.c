/* What 'effect' found, as a page that stands alone: nothing is loaded, no script runs. The scale is chosen by radio buttons; a reader without style
 * sheets sees one scale below the other. */
#include <math.h>
#include <string.h>

#include "common.h"
#include "effect.h"

static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n<title>What an adapter changes</title>\n<style>\n"
    ":root { color-scheme: light dark }\n"
    "body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }\n"
    "h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin: 1.6rem 0 .4rem } h3 { font-size: 1rem; margin: 1.2rem 0 .3rem }\n"
    ".text { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid #8886; border-radius: 6px; padding: .6rem .8rem }\n"
    "mark { background: #fc06; color: inherit; border-radius: 3px }\n"
    ".heat span { border-radius: 3px }\n"
    "table { border-collapse: collapse; font-size: .88rem } td, th { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #8884 }\n"
    "td.w, th.w { text-align: left; font-family: ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere }\n"
    ".bar { display: inline-block; height: .6rem; background: #48c; border-radius: 2px } .wide { overflow-x: auto }\n"
    ".sweep > input { position: absolute; opacity: 0 }\n"
    ".sweep > label { display: inline-block; padding: .25rem .8rem; margin: 0 .2rem .3rem 0; border: 1px solid #8886; border-radius: 99px; cursor: pointer }\n"
    ".sweep > input:checked + label { background: #48c; color: #fff } .sweep > input:focus-visible + label { outline: 2px solid #fa0 }\n"
    ".sweep > section { display: none }\n";

/* ---- Text ------------------------------------------------------------------------------------------------------------ */

static nm_err put_escaped(nm_str *s, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        switch (text[i]) {
        case '&': NM_TRY(nm_str_puts(s, "&amp;")); break;
        case '<': NM_TRY(nm_str_puts(s, "&lt;")); break;
        case '>': NM_TRY(nm_str_puts(s, "&gt;")); break;
        case '"': NM_TRY(nm_str_puts(s, "&quot;")); break;
        case '\'': NM_TRY(nm_str_puts(s, "&#39;")); break;
        default: NM_TRY(nm_str_putc(s, text[i]));
        }
    return NM_OK;
}

/* Foreign text: whole characters of valid UTF-8, nothing that is markup. */
static nm_err put_text(nm_str *s, const char *text, size_t length)
{
    nm_safe safe = {{0}, 0};
    nm_str t = {0};
    nm_err err = nm_safe_push(&safe, &t, text, length);
    if (err == NM_OK) err = nm_safe_end(&safe, &t);
    if (err == NM_OK) err = put_escaped(s, t.data ? t.data : "", t.length);
    nm_str_free(&t);
    return err;
}

/* What another function writes, escaped. */
static nm_err put_label(nm_str *s, const nm_effect *e, const nm_effect_point *p)
{
    nm_str t = {0};
    nm_err err = nm_effect_label(&t, e, p);
    if (err == NM_OK) err = put_text(s, t.data, t.length);
    nm_str_free(&t);
    return err;
}

static nm_err put_name(nm_str *s, const nm_effect *e, int32_t id)
{
    nm_str t = {0};
    nm_err err = nm_effect_token_name(&t, e, id);
    if (err == NM_OK) err = put_escaped(s, t.data, t.length);
    nm_str_free(&t);
    return err;
}

/* ---- Pieces of the page ---------------------------------------------------------------------------------------------- */

static nm_err put_answer(nm_str *s, const nm_effect *e, const nm_effect_point *p)
{
    nm_effect_pieces pieces;
    NM_TRY(nm_effect_pieces_make(&pieces, e, p->ids, p->count));
    nm_err err = nm_str_puts(s, "<div class=\"text\">");
    for (size_t i = 0, at = 0; err == NM_OK && i < p->count; at = pieces.end[i], i++) {
        if (pieces.end[i] == at) continue;
        if (p->changed[i]) err = nm_str_puts(s, "<mark>");
        if (err == NM_OK) err = put_text(s, pieces.text.data + at, pieces.end[i] - at);
        if (err == NM_OK && p->changed[i]) err = nm_str_puts(s, "</mark>");
    }
    nm_effect_pieces_free(&pieces);
    return err == NM_OK ? nm_str_puts(s, "</div>\n") : err;
}

/* Green where the text's token became likelier, red where less; full at three nats. */
static nm_err put_colour(nm_str *s, double change)
{
    double strength = fmin(fabs(change) / 3, 1) * 0.6;
    return nm_str_printf(s, " style=\"background: rgba(%s, %.2f)\"", change >= 0 ? "0, 170, 80" : "220, 40, 40", strength);
}

static nm_err put_heat(nm_str *s, const nm_effect *e, const nm_effect_point *p)
{
    nm_effect_pieces pieces;
    NM_TRY(nm_effect_pieces_make(&pieces, e, e->text, e->text_count));
    nm_err err = nm_str_puts(s, "<div class=\"text heat\">");
    for (size_t i = 0, at = 0; err == NM_OK && i < e->text_count; at = pieces.end[i], i++) {
        double change = p->token[i].logprob - e->base.token[i].logprob;
        if (pieces.end[i] == at) continue;
        err = nm_str_puts(s, "<span");
        if (err == NM_OK) err = put_colour(s, change);
        if (err == NM_OK) err = nm_str_printf(s, " title=\"%+.3f nats, KL %.3f\">", change, p->token[i].kl);
        if (err == NM_OK) err = put_text(s, pieces.text.data + at, pieces.end[i] - at);
        if (err == NM_OK) err = nm_str_puts(s, "</span>");
    }
    nm_effect_pieces_free(&pieces);
    return err == NM_OK ? nm_str_puts(s, "</div>\n") : err;
}

static nm_err put_top(nm_str *s, const nm_effect *e, const nm_effect_token *t)
{
    NM_TRY(nm_str_puts(s, "<td class=\"w\">"));
    for (int i = 0; i < NM_EFFECT_TOP && t->top[i] >= 0; i++) {
        if (i) NM_TRY(nm_str_puts(s, "  "));
        NM_TRY(put_name(s, e, t->top[i]));
        NM_TRY(nm_str_printf(s, " %.0f&#8239;%%", exp(t->top_logprob[i]) * 100));
    }
    return nm_str_puts(s, "</td>");
}

static nm_err put_tokens(nm_str *s, const nm_effect *e, const nm_effect_point *p)
{
    NM_TRY(nm_str_puts(s, "<div class=\"wide\"><table><tr><th class=\"w\">token</th><th>base</th><th>here</th><th>change</th><th>KL</th>"
                          "<th class=\"w\">the base's likeliest</th><th class=\"w\">here</th></tr>\n"));
    for (size_t i = 0; i < e->text_count; i++) {
        const nm_effect_token *was = &e->base.token[i], *is = &p->token[i];
        NM_TRY(nm_str_puts(s, "<tr><td class=\"w\">"));
        NM_TRY(put_name(s, e, e->text[i]));
        NM_TRY(nm_str_printf(s, "</td><td>%.3f</td><td>%.3f</td><td", was->logprob, is->logprob));
        NM_TRY(put_colour(s, is->logprob - was->logprob));
        NM_TRY(nm_str_printf(s, ">%+.3f</td><td>%.3f</td>", is->logprob - was->logprob, is->kl));
        NM_TRY(put_top(s, e, was));
        NM_TRY(put_top(s, e, is));
        NM_TRY(nm_str_puts(s, "</tr>\n"));
    }
    return nm_str_puts(s, "</table></div>\n");
}

static nm_err put_summary(nm_str *s, const nm_effect *e)
{
    double most = 0;
    for (size_t i = 0; i < e->points; i++) most = fmax(most, e->point[i].mean_kl);
    NM_TRY(nm_str_puts(s, "<table><tr><th class=\"w\">scale</th><th>mean KL</th><th class=\"w\"></th><th>log p</th><th>tokens as the base</th></tr>\n"));
    for (size_t i = 0; i < e->points; i++) {
        const nm_effect_point *p = &e->point[i];
        NM_TRY(nm_str_puts(s, "<tr><td class=\"w\">"));
        NM_TRY(put_label(s, e, p));
        NM_TRY(nm_str_printf(s, "</td><td>%.4f</td><td class=\"w\"><span class=\"bar\" style=\"width: %.2frem\"></span></td><td>%.4f</td><td>%zu of %zu</td></tr>\n", p->mean_kl,
                             most > 0 ? 12 * p->mean_kl / most : 0.0, p->mean_logprob, p->same, p->count));
    }
    return nm_str_puts(s, "</table>\n<p>KL from the base and log-probability in nats a token, on the answer at the last scale.</p>\n");
}

static nm_err put_section(nm_str *s, const nm_effect *e, size_t at)
{
    const nm_effect_point *p = &e->point[at];
    NM_TRY(nm_str_printf(s, "<section id=\"p%zu\">\n<h3>The answer at ", at));
    NM_TRY(put_label(s, e, p));
    NM_TRY(nm_str_printf(s, "; marked is what the base's has not (%zu of %zu tokens)</h3>\n", p->count - p->same, p->count));
    NM_TRY(put_answer(s, e, p));
    NM_TRY(nm_str_puts(s, "<h3>The answer at the last scale, as it looks from here: green is likelier than for the base, red less likely</h3>\n"));
    NM_TRY(put_heat(s, e, p));
    NM_TRY(put_tokens(s, e, p));
    return nm_str_puts(s, "</section>\n");
}

/* Buttons first, then the sections: a checked one shows the section of its number. */
static nm_err put_sweep(nm_str *s, const nm_effect *e)
{
    NM_TRY(nm_str_puts(s, "<div class=\"sweep\">\n"));
    for (size_t i = 0; i < e->points; i++) {
        NM_TRY(nm_str_printf(s, "<input type=\"radio\" name=\"scale\" id=\"s%zu\"%s><label for=\"s%zu\">", i, i + 1 == e->points ? " checked" : "", i));
        NM_TRY(put_label(s, e, &e->point[i]));
        NM_TRY(nm_str_puts(s, "</label>\n"));
    }
    for (size_t i = 0; i < e->points; i++) NM_TRY(put_section(s, e, i));
    return nm_str_puts(s, "</div>\n");
}

nm_err nm_effect_html(nm_str *s, const nm_effect *e)
{
    NM_TRY(nm_str_puts(s, head));
    for (size_t i = 0; i < e->points; i++) NM_TRY(nm_str_printf(s, "%s#s%zu:checked ~ #p%zu", i ? ", " : "", i, i));
    NM_TRY(nm_str_puts(s, " { display: block }\n</style>\n</head>\n<body>\n<h1>What an adapter changes</h1>\n<p>"));
    NM_TRY(put_text(s, e->model, strlen(e->model)));
    NM_TRY(nm_str_printf(s, ", the likeliest token each time, a prompt of %zu tokens:</p>\n<div class=\"text\">", e->prompt_tokens));
    NM_TRY(put_text(s, e->prompt, e->prompt_length));
    NM_TRY(nm_str_puts(s, "</div>\n<h2>How far it goes</h2>\n"));
    NM_TRY(put_summary(s, e));
    NM_TRY(nm_str_puts(s, "<h2>The base's answer</h2>\n"));
    NM_TRY(put_answer(s, e, &e->base));
    NM_TRY(nm_str_puts(s, "<h2>At each scale</h2>\n"));
    NM_TRY(put_sweep(s, e));
    return nm_str_puts(s, "</body>\n</html>\n");
}
