/* Owns Anthropic's dialect: POST /v1/messages whole and in events, /v1/messages/count_tokens, and the list of models in their shape. Reading requests is anthropic_request.c's. */
#include "server/anthropic.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"

enum { KIND_NONE, KIND_TEXT, KIND_THINKING, KIND_TOOL };

typedef struct answer {
    nm_task task;
    nm_anthropic request;
    char id[NM_REQUEST_NAME];
    char *model;
    int32_t prompt_tokens, tokens;
    int kind;                       /* of the block that is open */
    int32_t index;                  /* its number; -1 before the first */
    int32_t call;                   /* of the engine's, where the block is a tool's */
    json_t *block, *blocks;         /* whole answers: the open one without its text, those that are closed */
    nm_str text;                    /* of the open one */
    nm_finish finish;
    char *stop;
} answer;

static void drop(void *task)
{
    answer *a = task;
    nm_anthropic_free(&a->request);
    nm_free(a->model);
    nm_free(a->stop);
    json_decref(a->block);
    json_decref(a->blocks);
    nm_str_free(&a->text);
}

static answer *begin(nm_exchange *x, nm_server *server, bool counting)
{
    size_t length;
    answer *a = nm_task_new(x, server, sizeof *a, drop);
    if (!a) return NULL;
    const char *body = nm_exchange_body(x, &length);
    nm_err err = nm_anthropic_read(&a->request, body, length, counting);
    if (err == NM_OK) return a;
    nm_task_fail(&a->task, err);
    nm_task_release(a);
    return NULL;
}

/* ---- Blocks -------------------------------------------------------------------------------------------------------------------------- */

static json_t *new_block(const answer *a, const nm_piece *p)
{
    if (a->kind == KIND_TEXT) return json_pack("{ss ss}", "type", "text", "text", "");
    if (a->kind == KIND_THINKING) return json_pack("{ss ss ss}", "type", "thinking", "thinking", "", "signature", "");
    return json_pack("{ss ss ss s{}}", "type", "tool_use", "id", p->id ? p->id : "", "name", p->name ? p->name : "", "input");
}

static void delta(answer *a, const char *type, const char *member, json_t *value)
{
    nm_task_event(&a->task, "content_block_delta",
        json_pack("{ss si s{ss so}}", "type", "content_block_delta", "index", a->index, "delta", "type", type, member, value));
}

/* What a tool is given, as an object; text that is none, as of a call that was cut, is kept under a name of its own. */
static json_t *input_of(const nm_str *text)
{
    if (!text->length) return json_object();
    json_t *value = json_loadb(text->data, text->length, 0, NULL);
    if (json_is_object(value)) return value;
    json_decref(value);
    return json_pack("{so}", "partial_json", nm_wire_text(text->data, text->length));
}

static void keep_block(answer *a)
{
    const char *member = a->kind == KIND_TEXT ? "text" : a->kind == KIND_THINKING ? "thinking" : "input";
    json_t *value = a->kind == KIND_TOOL ? input_of(&a->text) : nm_wire_text(a->text.data ? a->text.data : "", a->text.length);
    bool good = value && json_object_set_new(a->block, member, value) == 0;
    if (good && a->kind == KIND_THINKING) good = json_object_set_new(a->block, "signature", json_string(a->id)) == 0;
    if (!good || json_array_append(a->blocks, a->block) != 0) nm_task_fail(&a->task, nm_fail(NM_NO_MEMORY, "there is no memory for the answer"));
    json_decref(a->block);
    a->block = NULL;
    a->text.length = 0;
}

/* The signature says whose thinking it was, so that it can be told from others' when it comes back; nothing here checks it. */
static void close_block(answer *a)
{
    if (a->kind == KIND_NONE) return;
    if (a->request.stream) {
        if (a->kind == KIND_THINKING) delta(a, "signature_delta", "signature", json_string(a->id));
        nm_task_event(&a->task, "content_block_stop", json_pack("{ss si}", "type", "content_block_stop", "index", a->index));
    } else keep_block(a);
    a->kind = KIND_NONE;
}

static void open_block(answer *a, int kind, const nm_piece *p)
{
    close_block(a);
    a->kind = kind;
    a->call = p->call;
    a->index++;
    json_t *block = new_block(a, p);
    if (!a->request.stream) {
        a->block = block;
        return;
    }
    nm_task_event(&a->task, "content_block_start", json_pack("{ss si so}", "type", "content_block_start", "index", a->index, "content_block", block));
    if (a->index == 0) nm_task_event(&a->task, "ping", json_pack("{ss}", "type", "ping"));
}

static void add(answer *a, const nm_piece *p)
{
    static const char *const types[] = {"", "text_delta", "thinking_delta", "input_json_delta"}, *const members[] = {"", "text", "thinking", "partial_json"};
    if (a->request.stream) delta(a, types[a->kind], members[a->kind], nm_wire_text(p->text, p->length));
    else if (nm_str_append(&a->text, p->text, p->length) != NM_OK) nm_task_fail(&a->task, NM_NO_MEMORY);
}

/* ---- The answer ---------------------------------------------------------------------------------------------------------------------- */

static json_t *usage(const answer *a, int32_t cached)
{
    return json_pack("{si si si si}", "input_tokens", a->prompt_tokens - cached, "cache_creation_input_tokens", 0, "cache_read_input_tokens", cached,
        "output_tokens", a->tokens);
}

static json_t *message(const answer *a, json_t *content, const char *reason, int32_t cached)
{
    return json_pack("{ss ss ss ss so ss? ss? so}", "id", a->id, "type", "message", "role", "assistant", "model", a->model ? a->model : "", "content", content,
        "stop_reason", reason, "stop_sequence", reason && a->finish == NM_FINISH_STOP_STRING ? a->stop : NULL, "usage", usage(a, cached));
}

static void on_started(void *arg, const nm_started *s)
{
    answer *a = arg;
    a->prompt_tokens = s->prompt_tokens;
    a->model = nm_strndup(s->model, strlen(s->model));
    if (!a->request.stream) return;
    nm_task_begin_events(&a->task);
    nm_task_event(&a->task, "message_start", json_pack("{ss so}", "type", "message_start", "message", message(a, json_array(), NULL, 0)));
}

static void on_piece(void *arg, const nm_piece *p)
{
    answer *a = arg;
    if (a->task.over) return;
    int kind = p->kind == NM_PIECE_CONTENT ? KIND_TEXT : p->kind == NM_PIECE_REASONING ? KIND_THINKING : KIND_TOOL;
    if (p->kind == NM_PIECE_PROMPT || (kind == KIND_THINKING && !a->request.thinking)) return;
    if (p->kind == NM_PIECE_CALL) open_block(a, KIND_TOOL, p);
    if (!p->length) return;
    if (kind != a->kind || (kind == KIND_TOOL && p->call != a->call)) open_block(a, kind, p);
    add(a, p);
}

static void on_answered(void *arg, const nm_answer_end *e)
{
    answer *a = arg;
    a->tokens = e->tokens;
    a->finish = e->finish;
    if (e->stop) a->stop = nm_strndup(e->stop, strlen(e->stop));
}

static const char *reason_of(nm_finish finish)
{
    switch (finish) {
    case NM_FINISH_STOP_STRING: return "stop_sequence";
    case NM_FINISH_LENGTH: return "max_tokens";
    case NM_FINISH_TOOL_CALLS: return "tool_use";
    default: return "end_turn";
    }
}

static void end_stream(answer *a, int32_t cached)
{
    nm_task_event(&a->task, "message_delta", json_pack("{ss s{ss ss?} so}", "type", "message_delta", "delta", "stop_reason", reason_of(a->finish), "stop_sequence",
        a->finish == NM_FINISH_STOP_STRING ? a->stop : NULL, "usage", usage(a, cached)));
    nm_task_event(&a->task, "message_stop", json_pack("{ss}", "type", "message_stop"));
    nm_task_end(&a->task);
}

static void on_ended(void *arg, const nm_ended *e)
{
    answer *a = arg;
    if (e->err != NM_OK) nm_task_fail_ended(&a->task, e);
    if (!a->task.over) {
        close_block(a);
        if (a->request.stream) end_stream(a, e->cached_tokens);
        else nm_task_reply(&a->task, message(a, json_incref(a->blocks), reason_of(a->finish), e->cached_tokens));
    }
    nm_task_release(a);
}

static void messages(nm_exchange *x, void *context)
{
    answer *a = begin(x, context, false);
    if (!a) return;
    nm_request_name(a->id, "msg_");
    a->index = -1;
    a->blocks = json_array();
    if (a->blocks) nm_task_ask(&a->task, &a->request.ask, (nm_listener){.started = on_started, .piece = on_piece, .answered = on_answered, .ended = on_ended});
    else nm_task_fail(&a->task, nm_fail(NM_NO_MEMORY, "there is no memory for the answer"));
    nm_task_release(a);
}

/* ---- Counting ------------------------------------------------------------------------------------------------------------------------ */

static void count_with(void *arg, const nm_served *served, nm_err err)
{
    answer *a = arg;
    char *text = NULL;
    int32_t *ids = NULL;
    size_t length, count = 0;
    if (err == NM_OK) err = nm_served_prompt(served, &a->request.ask, &a->task.base.gone, &text, &length, &ids, &count);
    if (err != NM_OK) nm_task_fail(&a->task, err);
    else nm_task_reply(&a->task, json_pack("{sI}", "input_tokens", (json_int_t)count));
    nm_free(text);
    nm_free(ids);
    nm_task_release(a);
}

static void count_tokens(nm_exchange *x, void *context)
{
    answer *a = begin(x, context, true);
    if (!a) return;
    nm_task_call(&a->task, a->request.ask.model, count_with);
    nm_task_release(a);
}

/* ---- Models -------------------------------------------------------------------------------------------------------------------------- */

static json_t *model_info(const json_t *model)
{
    json_t *name = json_object_get(model, "name");
    return json_pack("{ss sO sO so ss}", "type", "model", "id", name, "display_name", name, "created_at", nm_wire_modified(model), "lifecycle", "active");
}

static void one_model(nm_exchange *x, json_t *list, const char *name)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *known = json_string_value(json_object_get(json_array_get(list, i), "name"));
        if (!known || strcmp(known, name)) continue;
        nm_reply_json(x, model_info(json_array_get(list, i)));
        return;
    }
    nm_exchange_fail(x, 404, NULL, "model_not_found", "there is no model of that name: GET /v1/models lists them");
}

void nm_anthropic_models(nm_exchange *x, nm_server *server)
{
    json_t *list = nm_engine_models(server->engine), *data = json_array();
    size_t n = json_array_size(list);
    if (*nm_exchange_tail(x)) one_model(x, list, nm_exchange_tail(x));
    else {
        bool good = list && data;
        for (size_t i = 0; good && i < n; i++) good = json_array_append_new(data, model_info(json_array_get(list, i))) == 0;
        const char *first = json_string_value(json_object_get(json_array_get(data, 0), "id")), *last = json_string_value(json_object_get(json_array_get(data, n - 1), "id"));
        nm_reply_json(x, good ? json_pack("{sO sb ss? ss?}", "data", data, "has_more", 0, "first_id", first, "last_id", last) : NULL);
    }
    json_decref(list);
    json_decref(data);
}

const nm_route nm_routes_anthropic[] = {
    {"POST", "/v1/messages", NM_DIALECT_ANTHROPIC, false, 0, messages},
    {"POST", "/v1/messages/count_tokens", NM_DIALECT_ANTHROPIC, false, 0, count_tokens},
    {0}
};
