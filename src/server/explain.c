/* What a stack changed, token by token: an answer as two stacks would have put it. Each reads the conversation with the answer as a prompt, and tells the probability of every
 * token of it; nothing is generated. */
#include <math.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "server/fields.h"
#include "server/task.h"
#include "server/teach.h"

enum { TOP = 5, SIDES = 2 };

typedef struct side {
    struct explain *of;
    const nm_tokenizer *tokenizer;
    int32_t *id;
    double *logprob;
    json_t *texts, *tops;           /* of each token: its text; [{"text", "logprob"}] */
    size_t count;
} side;

typedef struct explain {
    nm_task base;
    json_t *body, *messages;        /* borrowed from the body */
    const char *name[SIDES];
    size_t length;                  /* bytes of the answer */
    side side[SIDES];
    int sides, at;                  /* 1 where both are the same; the one that is asked */
} explain;

static void drop(void *task)
{
    explain *e = task;
    for (int i = 0; i < SIDES; i++) {
        nm_free(e->side[i].id);
        nm_free(e->side[i].logprob);
        json_decref(e->side[i].texts);
        json_decref(e->side[i].tops);
    }
    json_decref(e->body);
}

/* ---- What the engine tells ----------------------------------------------------------------------------------------------------------------------- */

static void on_started(void *arg, const nm_started *s)
{
    explain *e = arg;
    e->side[e->at].tokenizer = s->tokenizer;
}

/* The answer is the prompt's end: so many of its tokens as have the answer's bytes. The one across its beginning, if there is one, counts. */
static size_t first_of(const side *s, const nm_piece *p, size_t bytes)
{
    size_t at = p->n_tokens;
    for (size_t have = 0; at > 0 && have < bytes; at--) {
        char *text;
        size_t length;
        if (nm_detokenize(s->tokenizer, &p->token[at - 1].id, 1, NM_TEXT_SPECIAL | NM_TEXT_CONTINUES, &text, &length) != NM_OK) break;
        have += length;
        nm_free(text);
    }
    return at;
}

static json_t *top_of(const side *s, const nm_token_out *token)
{
    json_t *list = json_array();
    for (int32_t i = 0; list && i < token->n_top; i++)
        json_array_append_new(list, json_pack("{s:o, s:f}", "text", nm_wire_token(s->tokenizer, token->top[i].id), "logprob", nm_wire_logprob(token->top[i].logprob)));
    return list;
}

static void on_piece(void *arg, const nm_piece *p)
{
    explain *e = arg;
    side *s = &e->side[e->at];
    if (p->kind != NM_PIECE_PROMPT) return;
    size_t from = first_of(s, p, e->length), n = p->n_tokens - from;
    s->id = nm_calloc(n, sizeof *s->id);
    s->logprob = nm_calloc(n, sizeof *s->logprob);
    s->texts = json_array(), s->tops = json_array();
    for (size_t i = 0; s->id && s->logprob && i < n; i++) {
        const nm_token_out *token = &p->token[from + i];
        s->id[i] = token->id;
        s->logprob[i] = token->logprob;
        json_array_append_new(s->texts, nm_wire_token(s->tokenizer, token->id));
        json_array_append_new(s->tops, top_of(s, token));
        s->count = i + 1;
    }
}

/* ---- The answer ------------------------------------------------------------------------------------------------------------------------------------ */

static bool same_tokens(const side *a, const side *b) { return a->count == b->count && a->count && !memcmp(a->id, b->id, a->count * sizeof *a->id); }

static double mean(const side *s)
{
    double sum = 0;
    for (size_t i = 0; i < s->count; i++) sum += nm_wire_logprob(s->logprob[i]);
    return sum / (double)s->count;
}

static json_t *tokens_of(const side *a, const side *b)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < a->count; i++)
        json_array_append_new(list, json_pack("{s:O, s:i, s:f, s:f, s:O, s:O}", "text", json_array_get(a->texts, i), "id", a->id[i], "a", nm_wire_logprob(a->logprob[i]),
            "b", nm_wire_logprob(b->logprob[i]), "top_a", json_array_get(a->tops, i), "top_b", json_array_get(b->tops, i)));
    return list;
}

static void answer(explain *e)
{
    const side *a = &e->side[0], *b = &e->side[e->sides - 1];
    if (!same_tokens(a, b)) {
        nm_task_fail(&e->base, nm_fail(NM_USAGE, "\"a\" and \"b\" read the answer as different tokens: they must stand on models of one vocabulary"));
        return;
    }
    nm_task_reply(&e->base, json_pack("{s:s, s:s, s:o, s:f, s:f}", "a", e->name[0], "b", e->name[1], "tokens", tokens_of(a, b), "mean_a", mean(a), "mean_b", mean(b)));
}

static void ask_side(explain *e);

static void on_ended(void *arg, const nm_ended *ended)
{
    explain *e = arg;
    if (ended->err != NM_OK) nm_task_fail_ended(&e->base, ended);
    else if (++e->at < e->sides) ask_side(e);
    else answer(e);
    nm_task_release(e);
}

static void ask_side(explain *e)
{
    nm_listener listener = {.started = on_started, .piece = on_piece, .ended = on_ended};
    nm_ask ask;
    nm_ask_init(&ask);
    ask.model = e->name[e->at];
    ask.messages = e->messages;
    ask.continue_last = true;
    ask.echo_logprobs = true;
    ask.top_logprobs = TOP;
    ask.max_tokens = 0;
    ask.no_cache = true;
    ask.client = nm_exchange_client(e->base.base.x);
    nm_task_ask(&e->base, &ask, listener);
}

/* ---- The request --------------------------------------------------------------------------------------------------------------------------------------- */

static nm_err read_messages(explain *e)
{
    NM_TRY(nm_field_array(e->body, "messages", &e->messages));
    for (size_t i = 0; i < json_array_size(e->messages); i++) {
        const json_t *m = json_array_get(e->messages, i);
        if (!json_is_string(json_object_get(m, "role")) || !json_is_string(json_object_get(m, "content")))
            return nm_fail(NM_USAGE, "messages[%zu] must have a \"role\" and a \"content\", both strings", i);
    }
    const json_t *last = json_array_get(e->messages, json_array_size(e->messages) - 1);
    e->length = json_string_length(json_object_get(last, "content"));
    if (last && !strcmp(json_string_value(json_object_get(last, "role")), "assistant") && e->length) return NM_OK;
    return nm_fail(NM_USAGE, "the last of \"messages\" must be the assistant's answer that is to be explained");
}

static nm_err read_request(explain *e, nm_exchange *x)
{
    static const char *const names[SIDES] = {"a", "b"};
    size_t length;
    const char *text = nm_exchange_body(x, &length);
    NM_TRY(nm_body_object(&e->body, text, length));
    for (int i = 0; i < SIDES; i++) {
        NM_TRY(nm_field_text(e->body, names[i], &e->name[i]));
        if (!e->name[i] || !*e->name[i]) return nm_fail(NM_USAGE, "\"%s\" must be given: MODEL{+ADAPTER}", names[i]);
    }
    e->sides = strcmp(e->name[0], e->name[1]) ? SIDES : 1;
    return read_messages(e);
}

void nm_explain(nm_exchange *x, void *context)
{
    explain *e = nm_task_new_asking(x, context, sizeof *e, drop, SIDES);
    if (!e) return;
    nm_err err = read_request(e, x);
    if (err == NM_OK) ask_side(e);
    else nm_task_fail(&e->base, err);
    nm_task_release(e);
}
