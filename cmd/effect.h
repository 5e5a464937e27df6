/* Owns what 'effect' measures: a stack in which the scale of an adapter, or of several, goes up in steps, against the same stack with it at 0.
 * effect.c sweeps, effect_show.c prints, effect_html.c writes the page. */
#ifndef NM_CMD_EFFECT_H
#define NM_CMD_EFFECT_H

#include "base/str.h"
#include "talk.h"

enum { NM_EFFECT_TOP = 3 };

/* One place of the common text under one stack. */
typedef struct nm_effect_token {
    double logprob, kl;             /* of the text's token; KL(base || here) over the vocabulary; nats */
    int32_t top[NM_EFFECT_TOP];     /* the likeliest, in falling order; of equals the lower id first */
    double top_logprob[NM_EFFECT_TOP];
} nm_effect_token;

/* The stack at one step. */
typedef struct nm_effect_point {
    float *scale;                   /* [swept] */
    int32_t *ids;                   /* greedy answer, [count], and behind it the token that ended it if `ended` */
    uint8_t *changed;               /* [count]: 1 = not among what the base's answer has in the same order */
    size_t count, same;
    bool ended;
    nm_effect_token *token;         /* [text_count] */
    double mean_kl, mean_logprob;
} nm_effect_point;

typedef struct nm_effect {
    nm_talk *talk;
    const char *model;              /* as typed */
    const char *prompt;
    size_t prompt_length;
    size_t *which, swept;           /* indices into talk->stacked.found.adapter */
    nm_effect_point base, *point;   /* base: every swept scale 0 */
    size_t points, prompt_tokens;
    const int32_t *text;            /* the answer at the highest step with its end: what all are measured on */
    size_t text_count;
} nm_effect;

/* Each token's text, and bytes that end no character at the last one's. Control tokens give nothing. */
typedef struct nm_effect_pieces { nm_str text; size_t *end; size_t count; } nm_effect_pieces;   /* piece i: text[end[i - 1], end[i]) */
nm_err nm_effect_pieces_make(nm_effect_pieces *out, const nm_effect *e, const int32_t *ids, size_t count);
void nm_effect_pieces_free(nm_effect_pieces *pieces);
/* A token by itself on one line, safe and in quotes: "\" moon\"", or <|im_end|>. */
nm_err nm_effect_token_name(nm_str *out, const nm_effect *e, int32_t id);
/* "style=0.25", "style=0.25 facts=1": a step's scales. Names raw, of paths the last part. */
nm_err nm_effect_label(nm_str *out, const nm_effect *e, const nm_effect_point *p);

nm_err nm_effect_print(const nm_effect *e);         /* to standard output */
nm_err nm_effect_json(nm_str *out, const nm_effect *e);
nm_err nm_effect_html(nm_str *out, const nm_effect *e);

#endif
