/* POST /v1/chat/completions: whole, or in chunks as server-sent events. */
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/mem.h"
#include "server/fields.h"
#include "server/openai.h"
#include "server/sse.h"

enum { ANSWERS_MOST = 128 };

typedef struct tool_call { char *id, *name; nm_str arguments; } tool_call;

typedef struct choice {
    nm_str content, reasoning;                  /* of an answer that is sent whole */
    nm_json_out logprobs, reasoning_logprobs;   /* elements without their brackets */
    tool_call *calls;
    size_t n_calls, capacity;
    const char *finish;
} choice;

typedef struct chat {
    nm_request base;
    char id[NM_REQUEST_NAME];
    int64_t created;
    char *model;
    const nm_tokenizer *tokenizer;
    bool stream, usage, logprobs, functions, begun;
    int32_t n, reasoning_tokens;
    choice *choices;
    nm_json_out out;        /* the chunk that is being written */
    nm_err err;             /* of a callback: memory */
} chat;

static void free_choice(choice *c)
{
    nm_str_free(&c->content);
    nm_str_free(&c->reasoning);
    nm_json_free_out(&c->logprobs);
    nm_json_free_out(&c->reasoning_logprobs);
    for (size_t i = 0; i < c->n_calls; i++) {
        nm_free(c->calls[i].id);
        nm_free(c->calls[i].name);
        nm_str_free(&c->calls[i].arguments);
    }
    nm_free(c->calls);
}

static void free_chat(nm_request *base)
{
    chat *c = (chat *)base;
    for (int32_t i = 0; c->choices && i < c->n; i++) free_choice(&c->choices[i]);
    nm_free(c->choices);
    nm_free(c->model);
    nm_json_free_out(&c->out);
    nm_free(c);
}

/* ---- The request ------------------------------------------------------------------------------------------------- */

static nm_err refuse_audio(const json_t *body)
{
    json_t *list = NULL, *item;
    size_t i;
    NM_TRY(nm_field_array(body, "modalities", &list));
    json_array_foreach(list, i, item)
        if (!json_is_string(item) || strcmp(json_string_value(item), "text")) return nm_fail(NM_USAGE, "\"modalities\" may hold \"text\" alone: nothing else is answered here");
    return NM_OK;
}

static nm_err read_logprobs(chat *c, nm_ask *ask, const json_t *body)
{
    int32_t top = -1;
    NM_TRY(nm_field_bool(body, "logprobs", &c->logprobs));
    NM_TRY(nm_field_int32(body, "top_logprobs", 0, 20, &top));
    if (top > 0 && !c->logprobs) return nm_fail(NM_USAGE, "\"top_logprobs\" needs \"logprobs\": true beside it");
    if (c->logprobs) ask->top_logprobs = top < 0 ? 0 : top;
    return NM_OK;
}

static nm_err read_template(nm_ask *ask, const json_t *body)
{
    json_t *kwargs = NULL;
    NM_TRY(nm_field_object(body, "chat_template_kwargs", &kwargs));
    ask->template_kwargs = kwargs;
    return nm_field_bool(body, "continue_final_message", &ask->continue_last);
}

static nm_err read_chat(chat *c, nm_openai_ask *a, const json_t *body)
{
    NM_TRY(nm_openai_ask_read(a, body));
    NM_TRY(nm_openai_read_messages(&a->messages, json_object_get(body, "messages")));
    a->ask.messages = a->messages;
    NM_TRY(refuse_audio(body));
    NM_TRY(nm_openai_read_tools(a, body));
    NM_TRY(nm_openai_read_format(a, json_object_get(body, "response_format"), "response_format", "json_schema"));
    NM_TRY(nm_openai_read_effort(a, body, "reasoning_effort"));
    NM_TRY(nm_openai_read_most(a, body, "max_tokens"));
    NM_TRY(nm_openai_read_most(a, body, "max_completion_tokens"));
    NM_TRY(nm_field_int32(body, "n", 1, ANSWERS_MOST, &a->ask.n));
    NM_TRY(read_logprobs(c, &a->ask, body));
    NM_TRY(read_template(&a->ask, body));
    NM_TRY(nm_openai_read_stream(body, &c->stream, &c->usage));
    c->n = a->ask.n;
    c->functions = a->functions;
    c->choices = nm_calloc((size_t)c->n, sizeof *c->choices);
    return c->choices ? NM_OK : nm_fail_memory((size_t)c->n * sizeof *c->choices);
}

/* ---- Chunks ------------------------------------------------------------------------------------------------------ */

static void write_head(chat *c, nm_json_out *o, const char *object)
{
    nm_json_text(o, "id", c->id);
    nm_json_text(o, "object", object);
    nm_json_int(o, "created", c->created);
    nm_json_text(o, "model", c->model);
    nm_json_text(o, "system_fingerprint", NM_OPENAI_FINGERPRINT);
}

static nm_json_out *chunk_begin(chat *c)
{
    nm_json_clear(&c->out);
    nm_json_begin_object(&c->out, NULL);
    write_head(c, &c->out, "chat.completion.chunk");
    nm_json_begin_array(&c->out, "choices");
    return &c->out;
}

/* Behind the choices' end. */
static void chunk_send(chat *c)
{
    nm_json_end_object(&c->out);
    nm_err err = c->out.err == NM_OK ? nm_sse_send(c->base.x, NULL, c->out.text.data, c->out.text.length) : c->out.err;
    if (err != NM_OK) c->err = err;
}

/* A chunk of one choice, up to within its delta. */
static nm_json_out *delta_begin(chat *c, int32_t index)
{
    nm_json_out *o = chunk_begin(c);
    nm_json_begin_object(o, NULL);
    nm_json_int(o, "index", index);
    nm_json_begin_object(o, "delta");
    return o;
}

/* The arrays of a piece's probabilities; both may be empty. */
static void write_choice_logprobs(chat *c, nm_json_out *o, const nm_json_out *content, const nm_json_out *reasoning)
{
    if (!c->logprobs) {
        nm_json_null(o, "logprobs");
        return;
    }
    nm_json_begin_object(o, "logprobs");
    nm_json_begin_array(o, "content");
    nm_json_raw(o, NULL, content->text.data, content->text.length);
    nm_json_end_array(o);
    nm_json_null(o, "refusal");
    if (reasoning->text.length) {
        nm_json_begin_array(o, "reasoning_content");
        nm_json_raw(o, NULL, reasoning->text.data, reasoning->text.length);
        nm_json_end_array(o);
    }
    nm_json_end_object(o);
}

static void delta_send(chat *c, const nm_piece *p, const char *finish)
{
    nm_json_out *o = &c->out;
    nm_json_out content = {0}, reasoning = {0};
    nm_json_end_object(o);
    if (p && c->logprobs && p->kind == NM_PIECE_CONTENT) nm_openai_write_logprobs(&content, c->tokenizer, p->token, p->n_tokens);
    if (p && c->logprobs && p->kind == NM_PIECE_REASONING) nm_openai_write_logprobs(&reasoning, c->tokenizer, p->token, p->n_tokens);
    if (p && (content.text.length || reasoning.text.length)) write_choice_logprobs(c, o, &content, &reasoning);
    else nm_json_null(o, "logprobs");
    nm_json_text(o, "finish_reason", finish);
    nm_json_end_object(o);
    nm_json_end_array(o);
    if (c->usage) nm_json_null(o, "usage");
    if (content.err != NM_OK || reasoning.err != NM_OK) c->err = NM_NO_MEMORY;
    nm_json_free_out(&content);
    nm_json_free_out(&reasoning);
    chunk_send(c);
}

static void write_call_delta(chat *c, nm_json_out *o, const nm_piece *p)
{
    if (c->functions) {
        nm_json_begin_object(o, "function_call");
    } else {
        nm_json_begin_array(o, "tool_calls");
        nm_json_begin_object(o, NULL);
        nm_json_int(o, "index", p->call);
        if (p->kind == NM_PIECE_CALL) nm_json_text(o, "id", p->id);
        if (p->kind == NM_PIECE_CALL) nm_json_text(o, "type", "function");
        nm_json_begin_object(o, "function");
    }
    if (p->kind == NM_PIECE_CALL) nm_json_text(o, "name", p->name);
    nm_json_bytes(o, "arguments", p->text ? p->text : "", p->kind == NM_PIECE_CALL ? 0 : p->length);
    nm_json_end_object(o);
    if (c->functions) return;
    nm_json_end_object(o);
    nm_json_end_array(o);
}

static void send_piece(chat *c, const nm_piece *p)
{
    bool call = p->kind == NM_PIECE_CALL || p->kind == NM_PIECE_ARGUMENTS;
    if (!call && !p->length && !p->n_tokens) return;
    if (call && c->functions && p->call > 0) return;
    nm_json_out *o = delta_begin(c, p->index);
    if (call) write_call_delta(c, o, p);
    else nm_json_bytes(o, p->kind == NM_PIECE_CONTENT ? "content" : "reasoning_content", p->text ? p->text : "", p->length);
    delta_send(c, p, NULL);
}

/* ---- Whole ------------------------------------------------------------------------------------------------------- */

static nm_err keep_call(choice *to, const nm_piece *p)
{
    NM_TRY(NM_GROW(to->calls, to->capacity, to->n_calls + 1));
    tool_call *k = &to->calls[to->n_calls++];
    *k = (tool_call){.id = nm_strndup(p->id ? p->id : "", strlen(p->id ? p->id : "")), .name = nm_strndup(p->name ? p->name : "", strlen(p->name ? p->name : ""))};
    return k->id && k->name ? nm_str_append(&k->arguments, "", 0) : nm_fail_memory(0);
}

static nm_err keep_piece(chat *c, const nm_piece *p)
{
    choice *to = &c->choices[p->index];
    switch (p->kind) {
    case NM_PIECE_CONTENT:
        if (c->logprobs) nm_openai_write_logprobs(&to->logprobs, c->tokenizer, p->token, p->n_tokens);
        NM_TRY(to->logprobs.err);
        return nm_str_append(&to->content, p->text, p->length);
    case NM_PIECE_REASONING:
        if (c->logprobs) nm_openai_write_logprobs(&to->reasoning_logprobs, c->tokenizer, p->token, p->n_tokens);
        NM_TRY(to->reasoning_logprobs.err);
        return nm_str_append(&to->reasoning, p->text, p->length);
    case NM_PIECE_CALL:
        return keep_call(to, p);
    case NM_PIECE_ARGUMENTS:
        return p->call >= 0 && (size_t)p->call < to->n_calls ? nm_str_append(&to->calls[p->call].arguments, p->text, p->length) : NM_OK;
    default:
        return NM_OK;
    }
}

static void write_function(nm_json_out *o, const char *key, const tool_call *k)
{
    nm_json_begin_object(o, key);
    nm_json_text(o, "name", k->name);
    nm_json_bytes(o, "arguments", k->arguments.data, k->arguments.length);
    nm_json_end_object(o);
}

static void write_calls(const chat *c, nm_json_out *o, const choice *from)
{
    if (!from->n_calls) return;
    if (c->functions) {
        write_function(o, "function_call", &from->calls[0]);
        return;
    }
    nm_json_begin_array(o, "tool_calls");
    for (size_t i = 0; i < from->n_calls; i++) {
        nm_json_begin_object(o, NULL);
        nm_json_text(o, "id", from->calls[i].id);
        nm_json_text(o, "type", "function");
        write_function(o, "function", &from->calls[i]);
        nm_json_end_object(o);
    }
    nm_json_end_array(o);
}

static void write_choice(chat *c, nm_json_out *o, int32_t index)
{
    const choice *from = &c->choices[index];
    nm_json_begin_object(o, NULL);
    nm_json_int(o, "index", index);
    nm_json_begin_object(o, "message");
    nm_json_text(o, "role", "assistant");
    if (from->content.length || !from->n_calls) nm_json_bytes(o, "content", from->content.data ? from->content.data : "", from->content.length);
    else nm_json_null(o, "content");
    nm_json_null(o, "refusal");
    if (from->reasoning.length) nm_json_bytes(o, "reasoning_content", from->reasoning.data, from->reasoning.length);
    write_calls(c, o, from);
    nm_json_end_object(o);
    write_choice_logprobs(c, o, &from->logprobs, &from->reasoning_logprobs);
    nm_json_text(o, "finish_reason", from->finish ? from->finish : "stop");
    nm_json_end_object(o);
}

static void reply_whole(chat *c, const nm_ended *e)
{
    nm_json_out *o = &c->out;
    nm_json_clear(o);
    nm_json_begin_object(o, NULL);
    write_head(c, o, "chat.completion");
    nm_json_begin_array(o, "choices");
    for (int32_t i = 0; i < c->n; i++) write_choice(c, o, i);
    nm_json_end_array(o);
    nm_openai_write_usage(o, e, c->reasoning_tokens);
    nm_openai_write_timings(o, e);
    nm_json_end_object(o);
    if (o->err == NM_OK) nm_exchange_reply(c->base.x, 200, "application/json", o->text.data, o->text.length);
    else nm_openai_fail_err(c->base.x, o->err);
}

/* ---- What the engine calls back ---------------------------------------------------------------------------------- */

/* A fault of ours in a callback: the work is of no use any more. */
static void check(chat *c)
{
    if (c->err != NM_OK) nm_request_cancel(&c->base);
}

static void on_started(void *arg, const nm_started *s)
{
    chat *c = arg;
    c->tokenizer = s->tokenizer;
    c->model = nm_strndup(s->model, strlen(s->model));
    if (!c->model) c->err = nm_fail_memory(strlen(s->model));
    if (c->stream && c->err == NM_OK) {
        nm_sse_begin(c->base.x);
        c->begun = true;
    }
    for (int32_t i = 0; c->begun && i < c->n; i++) {
        nm_json_out *o = delta_begin(c, i);
        nm_json_text(o, "role", "assistant");
        nm_json_text(o, "content", "");
        delta_send(c, NULL, NULL);
    }
    check(c);
}

static void on_piece(void *arg, const nm_piece *p)
{
    chat *c = arg;
    if (c->err != NM_OK || p->index < 0 || p->index >= c->n || p->kind == NM_PIECE_PROMPT) return;
    if (c->begun) send_piece(c, p);
    else c->err = keep_piece(c, p);
    check(c);
}

static void on_answered(void *arg, const nm_answer_end *a)
{
    chat *c = arg;
    if (c->err != NM_OK || a->index < 0 || a->index >= c->n) return;
    c->reasoning_tokens += a->reasoning_tokens;
    c->choices[a->index].finish = nm_openai_finish(a->finish, c->functions);
    if (!c->begun || a->finish == NM_FINISH_ERROR || a->finish == NM_FINISH_CANCELLED) return;
    delta_begin(c, a->index);
    delta_send(c, NULL, c->choices[a->index].finish);
    check(c);
}

static void send_usage(chat *c, const nm_ended *e)
{
    nm_json_end_array(chunk_begin(c));
    nm_openai_write_usage(&c->out, e, c->reasoning_tokens);
    nm_openai_write_timings(&c->out, e);
    chunk_send(c);
}

/* The end of a stream that has begun; an error is its last event. */
static void end_stream(chat *c, const nm_ended *e, const nm_openai_error *error)
{
    if (error) {
        nm_json_clear(&c->out);
        nm_json_begin_object(&c->out, NULL);
        nm_openai_write_error(&c->out, error);
        chunk_send(c);
    } else {
        if (c->usage) send_usage(c, e);
        nm_sse_send(c->base.x, NULL, "[DONE]", 6);
    }
    nm_exchange_end(c->base.x);
}

static void on_ended(void *arg, const nm_ended *e)
{
    chat *c = arg;
    nm_openai_error error = nm_openai_error_of(e);
    bool failed = e->err != NM_OK || c->err != NM_OK;
    if (c->err != NM_OK) error = (nm_openai_error){.status = 503, .message = "there was no memory for the answer"};
    if (c->begun) end_stream(c, e, failed ? &error : NULL);
    else if (failed) nm_openai_fail(c->base.x, &error);
    else reply_whole(c, e);
    nm_request_done(&c->base);
}

/* ---- The handler ------------------------------------------------------------------------------------------------- */

static void ask_engine(chat *c, nm_server *server, nm_exchange *x, const nm_ask *ask)
{
    nm_listener listener = {.started = on_started, .piece = on_piece, .answered = on_answered, .ended = on_ended, .arg = c};
    nm_request_name(c->id, "chatcmpl-");
    c->created = (int64_t)time(NULL);
    nm_err err = nm_request_ask(&c->base, server->engine, 0, ask, &listener);
    if (err != NM_OK) nm_openai_fail_err(x, err);
    nm_request_release(&c->base);
}

void nm_openai_chat(nm_exchange *x, void *context)
{
    json_t *body = NULL;
    nm_openai_ask a = {0};
    size_t length;
    const char *text = nm_exchange_body(x, &length);
    chat *c = nm_calloc(1, sizeof *c);
    nm_err err = c ? NM_OK : nm_fail_memory(sizeof *c);
    if (err == NM_OK) err = nm_body_object(&body, text, length);
    if (err == NM_OK) err = read_chat(c, &a, body);
    if (err == NM_OK) err = nm_request_open(&c->base, x, 1, free_chat);
    a.ask.client = nm_exchange_client(x);
    if (err == NM_OK) {
        ask_engine(c, context, x, &a.ask);
    } else {
        nm_openai_fail_err(x, err);
        if (c) free_chat(&c->base);
    }
    nm_openai_ask_free(&a);
    json_decref(body);
}
