/* Owns llama.cpp's /completion and /infill as they answer: whole, or in events without names, of which the last has what holds for it all. */
#include "server/llamacpp.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"

typedef struct answer {
    nm_task task;
    nm_llamacpp request;
    const nm_tokenizer *tokenizer;
    json_t *settings, *probabilities, *tokens;
    char *model, *stop;
    int32_t prompt_tokens;
    nm_str text;                    /* of an answer that is given whole */
    bool new_line;
    nm_finish finish;
} answer;

static void drop(void *task)
{
    answer *a = task;
    nm_llamacpp_free(&a->request);
    json_decref(a->settings);
    json_decref(a->probabilities);
    json_decref(a->tokens);
    nm_free(a->model);
    nm_free(a->stop);
    nm_str_free(&a->text);
}

/* ---- Probabilities ------------------------------------------------------------------------------------------------------------------------- */

static json_t *one_probability(const answer *a, int32_t id, double logprob)
{
    return json_pack("{si so so sf}", "id", id, "token", nm_wire_token(a->tokenizer, id), "bytes", nm_wire_token_bytes(a->tokenizer, id), "logprob", nm_wire_logprob(logprob));
}

static json_t *probabilities_of(const answer *a, const nm_piece *p)
{
    json_t *list = json_array();
    for (size_t i = 0; i < p->n_tokens; i++) {
        json_t *one = one_probability(a, p->token[i].id, p->token[i].logprob), *top = json_array();
        for (int32_t k = 0; k < p->token[i].n_top; k++) json_array_append_new(top, one_probability(a, p->token[i].top[k].id, p->token[i].top[k].logprob));
        json_object_set_new(one, "top_logprobs", top);
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *tokens_of(const nm_piece *p)
{
    json_t *list = json_array();
    for (size_t i = 0; i < p->n_tokens; i++) json_array_append_new(list, json_integer(p->token[i].id));
    return list;
}

/* ---- The end ------------------------------------------------------------------------------------------------------------------------------- */

static double per(double a, double b) { return b > 0 ? a / b : 0; }

static json_t *timings(const nm_ended *e)
{
    int32_t read = e->prompt_tokens - e->cached_tokens;
    double prompt_ms = e->prompt_seconds * 1e3, ms = e->seconds * 1e3;
    return json_pack("{si si sf sf sf si sf sf sf}", "cache_n", e->cached_tokens, "prompt_n", read, "prompt_ms", prompt_ms, "prompt_per_token_ms", per(prompt_ms, read),
        "prompt_per_second", per(read, e->prompt_seconds), "predicted_n", e->tokens, "predicted_ms", ms, "predicted_per_token_ms", per(ms, e->tokens),
        "predicted_per_second", per(e->tokens, e->seconds));
}

static const char *stop_type(const answer *a)
{
    switch (a->finish) {
    case NM_FINISH_LENGTH: return "limit";
    case NM_FINISH_STOP_STRING: return "word";
    case NM_FINISH_STOP: case NM_FINISH_TOOL_CALLS: return "eos";
    default: return "none";
    }
}

/* What the last event tells, or the whole answer; content is taken over. */
static json_t *ending(answer *a, json_t *content, const nm_ended *e)
{
    json_t *value = json_pack("{si so sO si sb ss si si sO sO sb sb ss ss si so}", "index", 0, "content", content, "tokens", a->tokens, "id_slot", 0, "stop", 1,
        "model", a->model ? a->model : "", "tokens_predicted", e->tokens, "tokens_evaluated", e->prompt_tokens, "generation_settings", a->settings,
        "prompt", a->request.prompt ? a->request.prompt : json_object_get(a->request.body, "input_prefix"), "has_new_line", a->new_line, "truncated", 0,
        "stop_type", stop_type(a), "stopping_word", a->finish == NM_FINISH_STOP_STRING && a->stop ? a->stop : "", "tokens_cached", e->cached_tokens, "timings", timings(e));
    if (value && a->request.n_probs && !a->request.stream) json_object_set(value, "completion_probabilities", a->probabilities);
    return value;
}

/* Of a prompt that does not fit, with how long it is. */
static void fail_ended(answer *a, const nm_ended *e)
{
    nm_str s = {0};
    bool fits = a->task.over || a->task.begun || !e->code || strcmp(e->code, "exceed_context_size_error") != 0;
    nm_err err = NM_OK;
    if (!fits) err = nm_str_puts(&s, "{\"error\":{\"code\":400,\"message\":");
    if (!fits && err == NM_OK) err = nm_str_json(&s, e->error, strlen(e->error));
    if (!fits && err == NM_OK) err = nm_str_printf(&s, ",\"type\":\"%s\",\"n_prompt_tokens\":%d,\"n_ctx\":%d}}", e->code, e->prompt_tokens, e->context);
    if (fits || err != NM_OK) nm_task_fail_ended(&a->task, e);
    else {
        nm_exchange_reply(a->task.base.x, 400, "application/json; charset=utf-8", s.data, s.length);
        a->task.over = true;
    }
    nm_str_free(&s);
}

/* ---- What the engine calls ----------------------------------------------------------------------------------------------------------------- */

static void on_started(void *arg, const nm_started *s)
{
    answer *a = arg;
    a->tokenizer = s->tokenizer;
    a->prompt_tokens = s->prompt_tokens;
    a->model = nm_strndup(s->model, strlen(s->model));
    if (a->request.stream) nm_task_begin_events(&a->task);
}

static void stream_piece(answer *a, const nm_piece *p)
{
    json_t *value = json_pack("{si so so sb si si}", "index", 0, "content", nm_wire_text(p->text, p->length), "tokens", tokens_of(p), "stop", 0, "id_slot", 0,
        "tokens_evaluated", a->prompt_tokens);
    if (value && a->request.n_probs) json_object_set_new(value, "completion_probabilities", probabilities_of(a, p));
    nm_task_event(&a->task, NULL, value);
}

static nm_err keep_piece(answer *a, const nm_piece *p)
{
    json_t *more = tokens_of(p);
    json_array_extend(a->tokens, more);
    json_decref(more);
    if (a->request.n_probs) {
        more = probabilities_of(a, p);
        json_array_extend(a->probabilities, more);
        json_decref(more);
    }
    return nm_str_append(&a->text, p->text, p->length);
}

static void on_piece(void *arg, const nm_piece *p)
{
    answer *a = arg;
    nm_err err = NM_OK;
    if (a->task.over || p->kind == NM_PIECE_PROMPT || (!p->length && !p->n_tokens)) return;
    a->new_line = a->new_line || memchr(p->text, '\n', p->length);
    if (a->request.stream) stream_piece(a, p);
    else err = keep_piece(a, p);
    if (err != NM_OK) nm_task_fail(&a->task, err);
}

static void on_answered(void *arg, const nm_answer_end *e)
{
    answer *a = arg;
    a->finish = e->finish;
    if (e->stop) a->stop = nm_strndup(e->stop, strlen(e->stop));
}

static void on_ended(void *arg, const nm_ended *e)
{
    answer *a = arg;
    if (e->err != NM_OK) fail_ended(a, e);
    else if (a->request.stream) {
        nm_task_event(&a->task, NULL, ending(a, json_string(""), e));
        nm_task_end(&a->task);
    } else nm_task_reply(&a->task, ending(a, nm_wire_text(a->text.data ? a->text.data : "", a->text.length), e));
    nm_task_release(a);
}

/* With the vocabulary at hand the request is made whole, and asked. */
static void ask_with(void *arg, const nm_served *served, nm_err err)
{
    answer *a = arg;
    if (err == NM_OK) err = nm_llamacpp_prepare(&a->request, served);
    if (err == NM_OK) {
        a->settings = nm_llamacpp_settings(&a->request, served->model);
        nm_task_ask(&a->task, &a->request.ask, (nm_listener){.started = on_started, .piece = on_piece, .answered = on_answered, .ended = on_ended});
    } else nm_task_fail(&a->task, err);
    nm_task_release(a);
}

static void complete(nm_exchange *x, void *context, bool infill)
{
    size_t length;
    answer *a = nm_task_new(x, context, sizeof *a, drop);
    if (!a) return;
    a->tokens = json_array();
    a->probabilities = json_array();
    const char *body = nm_exchange_body(x, &length);
    nm_err err = nm_llamacpp_read(&a->request, context, body, length, infill);
    if (err == NM_OK) nm_task_call(&a->task, a->request.ask.model, ask_with);
    else nm_task_fail(&a->task, err);
    nm_task_release(a);
}

void nm_llamacpp_completion(nm_exchange *x, void *context) { complete(x, context, false); }
void nm_llamacpp_infill(nm_exchange *x, void *context) { complete(x, context, true); }
