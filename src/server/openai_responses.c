/* /v1/responses: an answer as items (reasoning, message, calls), whole or as events, kept so that a later request can go on from it. One that goes wrong after its stream has
 * begun ends with response.failed. */
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/mem.h"
#include "server/fields.h"
#include "server/openai.h"
#include "server/openai_input.h"
#include "server/openai_store.h"
#include "server/sse.h"

typedef enum item_kind { ITEM_REASONING, ITEM_MESSAGE, ITEM_CALL } item_kind;

typedef struct item {
    item_kind kind;
    char id[NM_REQUEST_NAME];
    char *call_id, *name;
    const char *space, *plain;  /* of a function in a namespace, as the request has them; else NULL */
    nm_str text;                /* arguments of a call */
    nm_json_out logprobs;       /* elements without their brackets */
    bool done;
} item;

typedef struct response {
    nm_request base;
    json_t *body;
    nm_openai_ask a;
    json_t *conversation;       /* without instructions */
    char id[NM_REQUEST_NAME];
    int64_t created;
    char *model;
    const nm_tokenizer *tokenizer;
    bool stream, begun, store, logprobs;
    item *items;
    size_t n_items, capacity;
    int32_t reasoning_tokens;
    bool cut;                   /* by the bound on tokens */
    int64_t sequence;
    nm_json_out out;
    nm_err err;
} response;

static void free_response(nm_request *base)
{
    response *r = (response *)base;
    for (size_t i = 0; i < r->n_items; i++) {
        nm_free(r->items[i].call_id);
        nm_free(r->items[i].name);
        nm_str_free(&r->items[i].text);
        nm_json_free_out(&r->items[i].logprobs);
    }
    nm_free(r->items);
    nm_free(r->model);
    nm_json_free_out(&r->out);
    nm_openai_ask_free(&r->a);
    json_decref(r->conversation);
    json_decref(r->body);
    nm_free(r);
}

/* ---- The request ------------------------------------------------------------------------------------------------- */

/* What would change the answer and is not to be had here. */
static nm_err refuse_others(const json_t *body)
{
    static const char *const names[] = {"conversation", "prompt"};
    bool background = false;
    NM_TRY(nm_field_bool(body, "background", &background));
    if (background) return nm_fail(NM_USAGE, "\"background\" is not offered here: wait for the answer, or stream it");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const json_t *value = json_object_get(body, names[i]);
        if (value && !json_is_null(value)) return nm_fail(NM_USAGE, "\"%s\" is not offered here: give \"input\", and \"previous_response_id\" to go on", names[i]);
    }
    return NM_OK;
}

static nm_err read_include(response *r)
{
    json_t *list = NULL, *one;
    size_t i;
    int32_t top = -1;
    NM_TRY(nm_field_array(r->body, "include", &list));
    NM_TRY(nm_field_int32(r->body, "top_logprobs", 0, 20, &top));
    json_array_foreach(list, i, one) {
        const char *name = json_string_value(one);
        if (!name) return nm_fail(NM_USAGE, "\"include\" must be an array of strings");
        if (!strcmp(name, "message.output_text.logprobs")) r->logprobs = true;
    }
    if (top > 0) r->logprobs = true;
    if (r->logprobs) r->a.ask.top_logprobs = top < 0 ? 0 : top;
    return NM_OK;
}

static nm_err read_settings(response *r)
{
    json_t *text = NULL, *reasoning = NULL, *kwargs = NULL, *metadata = NULL;
    bool usage = false;
    NM_TRY(nm_field_object(r->body, "metadata", &metadata));       /* which the answer has again */
    NM_TRY(nm_field_object(r->body, "text", &text));
    NM_TRY(nm_openai_read_format(&r->a, json_object_get(text, "format"), "text.format", NULL));
    NM_TRY(nm_field_object(r->body, "reasoning", &reasoning));
    NM_TRY(nm_openai_read_effort(&r->a, reasoning, "effort"));
    NM_TRY(nm_openai_read_most(&r->a, r->body, "max_output_tokens"));
    NM_TRY(nm_field_object(r->body, "chat_template_kwargs", &kwargs));
    r->a.ask.template_kwargs = kwargs;
    NM_TRY(nm_openai_read_response_tools(&r->a, r->body));
    NM_TRY(read_include(r));
    return nm_openai_read_stream(r->body, &r->stream, &usage);
}

static nm_err read_conversation(response *r)
{
    const char *previous = NULL, *instructions = NULL;
    NM_TRY(nm_field_text(r->body, "previous_response_id", &previous));
    NM_TRY(nm_field_text(r->body, "instructions", &instructions));
    if (previous && !nm_openai_store_get(previous, &r->conversation, NULL, NULL))
        return nm_fail(NM_NOT_FOUND, "previous_response_id %s is not known (any more): send the whole conversation as input", previous);
    if (!r->conversation && !(r->conversation = json_array())) return nm_fail_memory(0);
    NM_TRY(nm_openai_read_input(r->conversation, json_object_get(r->body, "input")));
    r->a.messages = nm_openai_instruct(r->conversation, instructions);
    r->a.ask.messages = r->a.messages;
    return r->a.messages ? NM_OK : nm_fail_memory(0);
}

static nm_err read_response(response *r)
{
    NM_TRY(nm_openai_ask_read(&r->a, r->body));
    NM_TRY(refuse_others(r->body));
    r->store = true;
    NM_TRY(nm_field_bool(r->body, "store", &r->store));
    NM_TRY(read_settings(r));
    return read_conversation(r);
}

/* ---- Items on the wire ------------------------------------------------------------------------------------------- */

static void write_logprob_list(nm_json_out *o, const nm_json_out *list)
{
    nm_json_begin_array(o, "logprobs");
    nm_json_raw(o, NULL, list->text.data, list->text.length);
    nm_json_end_array(o);
}

/* The one part of a message or of reasoning. */
static void write_part(nm_json_out *o, const char *key, const item *i, bool full)
{
    nm_json_begin_object(o, key);
    nm_json_text(o, "type", i->kind == ITEM_MESSAGE ? "output_text" : "reasoning_text");
    nm_json_bytes(o, "text", full ? i->text.data : "", full ? i->text.length : 0);
    if (i->kind == ITEM_MESSAGE) {
        nm_json_begin_array(o, "annotations");
        nm_json_end_array(o);
        write_logprob_list(o, full ? &i->logprobs : &(nm_json_out){0});
    }
    nm_json_end_object(o);
}

static void write_parts(nm_json_out *o, const item *i, bool full)
{
    nm_json_begin_array(o, "content");
    if (full) write_part(o, NULL, i, true);
    nm_json_end_array(o);
}

static void write_name(nm_json_out *o, const item *i)
{
    nm_json_text(o, "name", i->space ? i->plain : i->name);
    if (i->space) nm_json_text(o, "namespace", i->space);
}

static void write_item(nm_json_out *o, const char *key, const item *i, const char *status)
{
    static const char *const types[] = {"reasoning", "message", "function_call"};
    bool full = strcmp(status, "in_progress") != 0;
    nm_json_begin_object(o, key);
    nm_json_text(o, "id", i->id);
    nm_json_text(o, "type", types[i->kind]);
    nm_json_text(o, "status", status);
    if (i->kind == ITEM_CALL) {
        nm_json_text(o, "call_id", i->call_id);
        write_name(o, i);
        nm_json_bytes(o, "arguments", full ? i->text.data : "", full ? i->text.length : 0);
    } else if (i->kind == ITEM_MESSAGE) {
        nm_json_text(o, "role", "assistant");
        write_parts(o, i, full);
    } else {
        nm_json_begin_array(o, "summary");
        nm_json_end_array(o);
        write_parts(o, i, full);
    }
    nm_json_end_object(o);
}

/* ---- The response on the wire ------------------------------------------------------------------------------------ */

static void write_or(nm_json_out *o, const response *r, const char *key, const char *otherwise)
{
    const json_t *value = json_object_get(r->body, key);
    if (value && !json_is_null(value)) nm_json_value(o, key, value);
    else nm_json_raw(o, key, otherwise, strlen(otherwise));
}

/* What the request said, or what holds in its place. */
static void write_echo(nm_json_out *o, const response *r)
{
    static const char *const members[][2] = {
        {"instructions", "null"}, {"max_output_tokens", "null"}, {"max_tool_calls", "null"}, {"metadata", "{}"}, {"parallel_tool_calls", "true"},
        {"previous_response_id", "null"}, {"reasoning", "{\"effort\":null,\"summary\":null}"}, {"temperature", "null"},
        {"text", "{\"format\":{\"type\":\"text\"}}"}, {"tool_choice", "\"auto\""}, {"tools", "[]"}, {"top_logprobs", "0"}, {"top_p", "null"}, {"user", "null"},
    };
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) write_or(o, r, members[i][0], members[i][1]);
    nm_json_bool(o, "background", false);
    nm_json_bool(o, "store", r->store);
    nm_json_text(o, "service_tier", "default");
    nm_json_text(o, "truncation", "disabled");
}

static void write_usage(nm_json_out *o, const response *r, const nm_ended *e)
{
    nm_json_begin_object(o, "usage");
    nm_json_int(o, "input_tokens", e->prompt_tokens);
    nm_json_begin_object(o, "input_tokens_details");
    nm_json_int(o, "cached_tokens", e->cached_tokens);
    nm_json_int(o, "cache_write_tokens", 0);
    nm_json_end_object(o);
    nm_json_int(o, "output_tokens", e->tokens);
    nm_json_begin_object(o, "output_tokens_details");
    nm_json_int(o, "reasoning_tokens", r->reasoning_tokens);
    nm_json_end_object(o);
    nm_json_int(o, "total_tokens", (int64_t)e->prompt_tokens + e->tokens);
    nm_json_end_object(o);
}

static void write_failure(nm_json_out *o, const nm_openai_error *error)
{
    if (!error) {
        nm_json_null(o, "error");
        return;
    }
    nm_json_begin_object(o, "error");
    nm_json_text(o, "code", error->status == 429 ? "rate_limit_exceeded" : error->status < 500 ? "invalid_prompt" : "server_error");
    nm_json_text(o, "message", error->message);
    nm_json_end_object(o);
}

static void write_output(nm_json_out *o, const response *r, const char *status)
{
    nm_json_begin_array(o, "output");
    for (size_t i = 0; i < r->n_items && strcmp(status, "in_progress"); i++) {
        bool last = i + 1 == r->n_items && strcmp(status, "completed");
        write_item(o, NULL, &r->items[i], last ? "incomplete" : "completed");
    }
    nm_json_end_array(o);
}

/* e: NULL while it is under way. */
static void write_response(nm_json_out *o, const char *key, const response *r, const char *status, const nm_ended *e, const nm_openai_error *error)
{
    nm_json_begin_object(o, key);
    nm_json_text(o, "id", r->id);
    nm_json_text(o, "object", "response");
    nm_json_int(o, "created_at", r->created);
    nm_json_text(o, "status", status);
    if (!strcmp(status, "completed")) nm_json_int(o, "completed_at", (int64_t)time(NULL));
    write_failure(o, error);
    if (!strcmp(status, "incomplete")) nm_json_raw(o, "incomplete_details", "{\"reason\":\"max_output_tokens\"}", 30);
    else nm_json_null(o, "incomplete_details");
    nm_json_text(o, "model", r->model);
    write_output(o, r, status);
    write_echo(o, r);
    if (e) write_usage(o, r, e);
    else nm_json_null(o, "usage");
    nm_json_end_object(o);
}

/* ---- Events ------------------------------------------------------------------------------------------------------ */

static nm_json_out *event_begin(response *r, const char *type)
{
    nm_json_clear(&r->out);
    nm_json_begin_object(&r->out, NULL);
    nm_json_text(&r->out, "type", type);
    nm_json_int(&r->out, "sequence_number", r->sequence++);
    return &r->out;
}

static void event_send(response *r, const char *type)
{
    nm_json_end_object(&r->out);
    nm_err err = r->out.err == NM_OK ? nm_sse_send(r->base.x, type, r->out.text.data, r->out.text.length) : r->out.err;
    if (err != NM_OK) r->err = err;
}

/* An event about an item, up to what is its own. */
static nm_json_out *item_event(response *r, const char *type, const item *i, bool part)
{
    nm_json_out *o = event_begin(r, type);
    nm_json_text(o, "item_id", i->id);
    nm_json_int(o, "output_index", i - r->items);
    if (part) nm_json_int(o, "content_index", 0);
    return o;
}

static void send_item(response *r, const char *type, const item *i, const char *status)
{
    nm_json_out *o = event_begin(r, type);
    nm_json_int(o, "output_index", i - r->items);
    write_item(o, "item", i, status);
    event_send(r, type);
}

static void send_part(response *r, const char *type, const item *i, bool full)
{
    write_part(item_event(r, type, i, true), "part", i, full);
    event_send(r, type);
}

static void send_whole(response *r, const char *type, const char *status, const nm_ended *e, const nm_openai_error *error)
{
    write_response(event_begin(r, type), "response", r, status, e, error);
    event_send(r, type);
}

static void send_delta(response *r, const item *i, const char *text, size_t length, const nm_json_out *logprobs)
{
    static const char *const types[] = {"response.reasoning_text.delta", "response.output_text.delta", "response.function_call_arguments.delta"};
    nm_json_out *o = item_event(r, types[i->kind], i, i->kind != ITEM_CALL);
    nm_json_bytes(o, "delta", text ? text : "", length);
    if (i->kind == ITEM_MESSAGE) write_logprob_list(o, logprobs);
    event_send(r, types[i->kind]);
}

static void send_done(response *r, const item *i, const char *status)
{
    static const char *const types[] = {"response.reasoning_text.done", "response.output_text.done", "response.function_call_arguments.done"};
    nm_json_out *o = item_event(r, types[i->kind], i, i->kind != ITEM_CALL);
    if (i->kind == ITEM_CALL) write_name(o, i);
    nm_json_bytes(o, i->kind == ITEM_CALL ? "arguments" : "text", i->text.data, i->text.length);
    if (i->kind == ITEM_MESSAGE) write_logprob_list(o, &i->logprobs);
    event_send(r, types[i->kind]);
    if (i->kind != ITEM_CALL) send_part(r, "response.content_part.done", i, true);
    send_item(r, "response.output_item.done", i, status);
}

/* ---- From pieces to items ---------------------------------------------------------------------------------------- */

static item *last_item(response *r) { return r->n_items ? &r->items[r->n_items - 1] : NULL; }

static void close_last(response *r, const char *status)
{
    item *i = last_item(r);
    if (!i || i->done) return;
    i->done = true;
    if (r->begun) send_done(r, i, status);
}

static nm_err open_item(response *r, item_kind kind, const char *call_id, const char *name)
{
    static const char *const prefixes[] = {"rs_", "msg_", "fc_"};
    close_last(r, "completed");
    NM_TRY(NM_GROW(r->items, r->capacity, r->n_items + 1));
    item *i = &r->items[r->n_items++];
    *i = (item){.kind = kind};
    nm_request_name(i->id, prefixes[kind]);
    NM_TRY(nm_str_append(&i->text, "", 0));
    if (kind == ITEM_CALL) {
        i->call_id = nm_strndup(call_id ? call_id : i->id, strlen(call_id ? call_id : i->id));
        i->name = nm_strndup(name ? name : "", strlen(name ? name : ""));
        if (!i->call_id || !i->name) return nm_fail_memory(0);
        nm_openai_find_spaced(json_object_get(r->body, "tools"), i->name, &i->space, &i->plain);
    }
    if (r->begun) send_item(r, "response.output_item.added", i, "in_progress");
    if (r->begun && kind != ITEM_CALL) send_part(r, "response.content_part.added", i, false);
    return NM_OK;
}

static nm_err add_text(response *r, const nm_piece *p)
{
    item *i = last_item(r);
    nm_json_out here = {0};
    if (i->kind == ITEM_MESSAGE && r->logprobs) nm_openai_write_logprobs(&here, r->tokenizer, p->token, p->n_tokens);
    nm_err err = here.err;
    if (err == NM_OK && r->begun) send_delta(r, i, p->text, p->length, &here);
    if (err == NM_OK) nm_json_raw(&i->logprobs, NULL, here.text.data, here.text.length);
    if (err == NM_OK) err = i->logprobs.err;
    if (err == NM_OK) err = nm_str_append(&i->text, p->text ? p->text : "", p->length);
    nm_json_free_out(&here);
    return err;
}

static nm_err take_piece(response *r, const nm_piece *p)
{
    static const item_kind kinds[] = {[NM_PIECE_CONTENT] = ITEM_MESSAGE, [NM_PIECE_REASONING] = ITEM_REASONING, [NM_PIECE_ARGUMENTS] = ITEM_CALL};
    const item *last = last_item(r);
    if (p->kind == NM_PIECE_PROMPT) return NM_OK;
    if (p->kind == NM_PIECE_CALL) return open_item(r, ITEM_CALL, p->id, p->name);
    if (!p->length && !p->n_tokens) return NM_OK;
    bool same = last && !last->done && last->kind == kinds[p->kind];
    if (!same && p->kind == NM_PIECE_ARGUMENTS) return NM_OK;
    if (!same) NM_TRY(open_item(r, kinds[p->kind], NULL, NULL));
    return add_text(r, p);
}

/* ---- Keeping it -------------------------------------------------------------------------------------------------- */

static json_t *answer_message(const response *r)
{
    json_t *message = json_pack("{s:s, s:n}", "role", "assistant", "content"), *calls = json_array();
    for (size_t i = 0; message && calls && i < r->n_items; i++) {
        const item *one = &r->items[i];
        json_t *text = nm_openai_string(one->text.data, one->text.length);
        if (one->kind == ITEM_MESSAGE) json_object_set_new(message, "content", text);
        else if (one->kind == ITEM_REASONING) json_object_set_new(message, "reasoning_content", text);
        else json_array_append_new(calls, json_pack("{s:s, s:s, s:{s:s, s:o}}", "id", one->call_id, "type", "function", "function", "name", one->name,
                                                    "arguments", nm_openai_arguments(text)));
        if (one->kind == ITEM_CALL) json_decref(text);
    }
    if (message && json_array_size(calls)) json_object_set(message, "tool_calls", calls);
    json_decref(calls);
    return message;
}

/* What cannot be kept for want of memory is like what was dropped since. */
static void keep(response *r, const char *status, const nm_ended *e)
{
    nm_json_out o = {0};
    write_response(&o, NULL, r, status, e, NULL);
    if (o.err == NM_OK && !json_array_append_new(r->conversation, answer_message(r))) nm_openai_store_put(r->id, r->conversation, o.text.data, o.text.length);
    nm_json_free_out(&o);
}

/* ---- What the engine calls back ---------------------------------------------------------------------------------- */

static void check(response *r)
{
    if (r->err != NM_OK) nm_request_cancel(&r->base);
}

static void on_started(void *arg, const nm_started *s)
{
    response *r = arg;
    r->tokenizer = s->tokenizer;
    r->model = nm_strndup(s->model, strlen(s->model));
    if (!r->model) r->err = nm_fail_memory(strlen(s->model));
    if (r->stream && r->err == NM_OK) {
        nm_sse_begin(r->base.x);
        r->begun = true;
        send_whole(r, "response.created", "in_progress", NULL, NULL);
        send_whole(r, "response.in_progress", "in_progress", NULL, NULL);
    }
    check(r);
}

static void on_piece(void *arg, const nm_piece *p)
{
    response *r = arg;
    if (r->err == NM_OK && p->index == 0) {
        nm_err err = take_piece(r, p);
        if (err != NM_OK) r->err = err;
    }
    check(r);
}

static void on_answered(void *arg, const nm_answer_end *a)
{
    response *r = arg;
    r->reasoning_tokens += a->reasoning_tokens;
    r->cut = a->finish == NM_FINISH_LENGTH;
}

static void reply_whole(response *r, const char *status, const nm_ended *e)
{
    nm_json_clear(&r->out);
    write_response(&r->out, NULL, r, status, e, NULL);
    if (r->out.err == NM_OK) nm_exchange_reply(r->base.x, 200, "application/json", r->out.text.data, r->out.text.length);
    else nm_openai_fail_err(r->base.x, r->out.err);
}

static void succeed(response *r, const nm_ended *e)
{
    const char *status = r->cut ? "incomplete" : "completed";
    if (!r->n_items) r->err = open_item(r, ITEM_MESSAGE, NULL, NULL);       /* an answer of nothing is one, too */
    close_last(r, status);
    if (r->store && r->err == NM_OK) keep(r, status, e);
    if (r->begun) send_whole(r, r->cut ? "response.incomplete" : "response.completed", status, e, NULL);
    if (r->begun) nm_exchange_end(r->base.x);
    else reply_whole(r, status, e);
}

static void fail(response *r, const nm_ended *e)
{
    nm_openai_error error = nm_openai_error_of(e);
    if (r->err != NM_OK) error = (nm_openai_error){.status = 503, .message = "there was no memory for the answer"};
    if (!r->begun) {
        nm_openai_fail(r->base.x, &error);
        return;
    }
    close_last(r, "incomplete");
    send_whole(r, "response.failed", "failed", e, &error);
    nm_exchange_end(r->base.x);
}

static void on_ended(void *arg, const nm_ended *e)
{
    response *r = arg;
    if (e->err == NM_OK && r->err == NM_OK) succeed(r, e);
    else fail(r, e);
    nm_request_done(&r->base);
}

/* ---- Handlers ---------------------------------------------------------------------------------------------------- */

static nm_err open_response(response *r, nm_exchange *x)
{
    size_t length;
    const char *text = nm_exchange_body(x, &length);
    NM_TRY(nm_body_object(&r->body, text, length));
    NM_TRY(read_response(r));
    r->a.ask.client = nm_exchange_client(x);
    r->created = (int64_t)time(NULL);
    nm_request_name(r->id, "resp_");
    return nm_request_open(&r->base, x, 1, free_response);
}

static void fail_open(nm_exchange *x, nm_err err)
{
    nm_openai_error e = {.status = 404, .code = "previous_response_not_found", .param = "previous_response_id", .message = nm_error_text()};
    if (err == NM_NOT_FOUND) nm_openai_fail(x, &e);
    else nm_openai_fail_err(x, err);
}

void nm_openai_responses(nm_exchange *x, void *context)
{
    nm_server *server = context;
    response *r = nm_calloc(1, sizeof *r);
    nm_err err = r ? open_response(r, x) : nm_fail_memory(sizeof *r);
    if (err != NM_OK) {
        fail_open(x, err);
        if (r) free_response(&r->base);
        return;
    }
    nm_listener listener = {.started = on_started, .piece = on_piece, .answered = on_answered, .ended = on_ended, .arg = r};
    err = nm_request_ask(&r->base, server->engine, 0, &r->a.ask, &listener);
    if (err != NM_OK) nm_openai_fail_err(x, err);
    nm_request_release(&r->base);
}

static void not_stored(nm_exchange *x)
{
    nm_openai_error e = {.status = 404, .code = "not_found", .param = "response_id",
                         .message = "no response of this id is kept: it was not stored, was dropped for newer ones, or the server has been started since"};
    nm_openai_fail(x, &e);
}

void nm_openai_response_get(nm_exchange *x, void *context)
{
    char *text = NULL;
    size_t length;
    if (nm_openai_store_get(nm_exchange_tail(x), NULL, &text, &length)) nm_exchange_reply(x, 200, "application/json", text, length);
    else not_stored(x);
    nm_free(text);
}

void nm_openai_response_delete(nm_exchange *x, void *context)
{
    nm_json_out o = {0};
    if (!nm_openai_store_delete(nm_exchange_tail(x))) {
        not_stored(x);
        return;
    }
    nm_json_begin_object(&o, NULL);
    nm_json_text(&o, "id", nm_exchange_tail(x));
    nm_json_text(&o, "object", "response");
    nm_json_bool(&o, "deleted", true);
    nm_json_end_object(&o);
    if (o.err == NM_OK) nm_exchange_reply(x, 200, "application/json", o.text.data, o.text.length);
    else nm_openai_fail_err(x, o.err);
    nm_json_free_out(&o);
}
