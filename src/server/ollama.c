/* Owns Ollama's dialect as it answers: chats and prompts in lines or whole, embeddings, the table of routes. Reading requests is ollama_request.c's, telling of models
 * ollama_models.c's. Refuses to fetch, make, copy or remove models: those answer 501 with what to type instead. */
#include "server/ollama.h"

#include <math.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "os/clock.h"
#include "server/fields.h"

/* Whose shapes these are, as clients ask before they use what is newer. */
#define OLLAMA_VERSION "0.12.11"

typedef struct answer {
    nm_task task;
    nm_ollama request;
    const nm_tokenizer *tokenizer;
    uint64_t begun;                 /* the clock's nanoseconds */
    nm_str text, thinking;          /* of an answer that is given whole */
    json_t *calls, *logprobs;
    char *call_id, *call_name;      /* of a call whose arguments are still coming; name NULL: none is */
    nm_str arguments;
    int32_t call;
    nm_finish finish;
} answer;

static void drop(void *task)
{
    answer *a = task;
    nm_ollama_free(&a->request);
    nm_str_free(&a->text);
    nm_str_free(&a->thinking);
    nm_str_free(&a->arguments);
    json_decref(a->calls);
    json_decref(a->logprobs);
    nm_free(a->call_id);
    nm_free(a->call_name);
}

static json_int_t nanoseconds(double seconds) { return seconds > 0 && seconds < 9e9 ? (json_int_t)llround(seconds * 1e9) : 0; }
static json_int_t since(uint64_t begun) { return (json_int_t)(nm_clock_ns() - begun); }

/* ---- One line of an answer ----------------------------------------------------------------------------------------------------------- */

/* Text, thinking and calls, each taken over; all but text may be NULL. */
static json_t *line(const answer *a, json_t *text, json_t *thinking, json_t *calls, bool done)
{
    json_t *time = nm_wire_time(-1);
    if (!a->request.chat)
        return json_pack("{ss so so so* so* sb}", "model", a->request.name, "created_at", time, "response", text, "thinking", thinking, "tool_calls", calls, "done", done);
    return json_pack("{ss so s{ss so so* so*} sb}", "model", a->request.name, "created_at", time, "message", "role", "assistant", "content", text, "thinking", thinking,
        "tool_calls", calls, "done", done);
}

static json_t *ending(answer *a, json_t *of, const char *reason, const nm_ended *e)
{
    if (!of || json_object_set_new(of, "done_reason", json_string(reason)) != 0) return json_decref(of), NULL;
    if (!e) return of;
    json_t *figures = json_pack("{sI sI si sI si sI}", "total_duration", since(a->begun), "load_duration", nanoseconds(e->load_seconds), "prompt_eval_count", e->prompt_tokens,
        "prompt_eval_duration", nanoseconds(e->prompt_seconds), "eval_count", e->tokens, "eval_duration", nanoseconds(e->seconds));
    return nm_wire_merge(of, figures) ? of : (json_decref(of), NULL);
}

static json_t *one_logprob(const answer *a, int32_t id, double logprob)
{
    return json_pack("{so sf so}", "token", nm_wire_token(a->tokenizer, id), "logprob", nm_wire_logprob(logprob), "bytes", nm_wire_token_bytes(a->tokenizer, id));
}

static json_t *logprobs_of(const answer *a, const nm_piece *p)
{
    json_t *list = json_array();
    for (size_t i = 0; i < p->n_tokens; i++) {
        const nm_token_out *t = &p->token[i];
        json_t *one = one_logprob(a, t->id, t->logprob), *top = json_array();
        for (int32_t k = 0; k < t->n_top; k++) json_array_append_new(top, one_logprob(a, t->top[k].id, t->top[k].logprob));
        if (t->n_top) json_object_set(one, "top_logprobs", top);
        json_decref(top);
        json_array_append_new(list, one);
    }
    return list;
}

/* ---- Calls, which are told in one piece ------------------------------------------------------------------------------------------------ */

/* Arguments that were cut are no object: they are kept under a name of their own. */
static json_t *call_value(const answer *a)
{
    json_t *arguments = a->arguments.length ? json_loadb(a->arguments.data, a->arguments.length, 0, NULL) : json_object();
    if (!json_is_object(arguments)) {
        json_decref(arguments);
        arguments = json_pack("{so}", "partial_json", nm_wire_text(a->arguments.data, a->arguments.length));
    }
    return json_pack("{ss s{si ss so}}", "id", a->call_id ? a->call_id : "", "function", "index", a->call, "name", a->call_name, "arguments", arguments);
}

static void flush_call(answer *a)
{
    if (!a->call_name) return;
    json_t *value = call_value(a);
    if (a->request.stream) nm_task_line(&a->task, line(a, json_string(""), NULL, json_pack("[o]", value), false));
    else json_array_append_new(a->calls, value);
    nm_free(a->call_name);
    nm_free(a->call_id);
    a->call_name = a->call_id = NULL;
    a->arguments.length = 0;
}

static nm_err begin_call(answer *a, const nm_piece *p)
{
    const char *name = p->name ? p->name : "", *id = p->id ? p->id : "";
    flush_call(a);
    a->call = p->call;
    a->call_id = nm_strndup(id, strlen(id));
    a->call_name = nm_strndup(name, strlen(name));
    return a->call_id && a->call_name ? NM_OK : nm_fail_memory(strlen(id) + strlen(name));
}

/* ---- The answer ---------------------------------------------------------------------------------------------------------------------- */

static void on_started(void *arg, const nm_started *s)
{
    answer *a = arg;
    a->tokenizer = s->tokenizer;
    if (a->request.stream) nm_task_begin_lines(&a->task);
}

static void stream_text(answer *a, const nm_piece *p)
{
    bool thinking = p->kind == NM_PIECE_REASONING;
    if (!p->length && !p->n_tokens) return;
    json_t *text = nm_wire_text(p->text, p->length), *value = line(a, thinking ? json_string("") : text, thinking ? text : NULL, NULL, false);
    if (value && p->n_tokens) json_object_set_new(value, "logprobs", logprobs_of(a, p));
    nm_task_line(&a->task, value);
}

static nm_err keep_text(answer *a, const nm_piece *p)
{
    if (p->n_tokens) {
        json_t *more = logprobs_of(a, p);
        json_array_extend(a->logprobs, more);
        json_decref(more);
    }
    return nm_str_append(p->kind == NM_PIECE_REASONING ? &a->thinking : &a->text, p->text, p->length);
}

static void on_piece(void *arg, const nm_piece *p)
{
    answer *a = arg;
    nm_err err = NM_OK;
    if (a->task.over || p->kind == NM_PIECE_PROMPT) return;
    if (p->kind == NM_PIECE_CALL) err = begin_call(a, p);
    else if (p->kind == NM_PIECE_ARGUMENTS) err = nm_str_append(&a->arguments, p->text, p->length);
    else {
        flush_call(a);
        if (a->request.stream) stream_text(a, p);
        else err = keep_text(a, p);
    }
    if (err != NM_OK) nm_task_fail(&a->task, err);
}

static void on_answered(void *arg, const nm_answer_end *e)
{
    answer *a = arg;
    a->finish = e->finish;
}

/* Everything in one object. */
static json_t *whole(answer *a)
{
    json_t *text = nm_wire_text(a->text.data ? a->text.data : "", a->text.length);
    json_t *thinking = a->thinking.length ? nm_wire_text(a->thinking.data, a->thinking.length) : NULL;
    json_t *value = line(a, text, thinking, json_array_size(a->calls) ? json_incref(a->calls) : NULL, true);
    if (value && json_array_size(a->logprobs)) json_object_set(value, "logprobs", a->logprobs);
    return value;
}

static void on_ended(void *arg, const nm_ended *e)
{
    answer *a = arg;
    const char *reason = a->finish == NM_FINISH_LENGTH ? "length" : "stop";
    if (e->err != NM_OK) nm_task_fail_ended(&a->task, e);
    if (!a->task.over) {
        flush_call(a);
        if (a->request.stream) {
            nm_task_line(&a->task, ending(a, line(a, json_string(""), NULL, NULL, true), reason, e));
            nm_task_end(&a->task);
        } else nm_task_reply(&a->task, ending(a, whole(a), reason, e));
    }
    nm_task_release(a);
}

/* ---- Opening and closing a model --------------------------------------------------------------------------------------------------------- */

/* Theirs unloads with a keep_alive of 0. */
static const char *reason_of(const answer *a) { return a->request.ask.keep_alive == 0 ? "unload" : "load"; }

static void reply_loaded(answer *a) { nm_task_reply(&a->task, ending(a, line(a, json_string(""), NULL, NULL, true), reason_of(a), NULL)); }

static void settled(void *arg, const nm_ended *e)
{
    answer *a = arg;
    if (e->err != NM_OK) nm_task_fail_ended(&a->task, e);
    else reply_loaded(a);
    nm_task_release(a);
}

/* How long a model stays is said with a request: one that reads a token and says nothing. */
static void settle(answer *a)
{
    static const int32_t token = 0;
    nm_ask ask;
    nm_ask_init(&ask);
    ask.model = a->request.name;
    ask.ids = &token;
    ask.n_ids = 1;
    ask.max_tokens = 0;
    ask.no_cache = true;
    ask.keep_alive = a->request.ask.keep_alive;
    nm_task_ask(&a->task, &ask, (nm_listener){.ended = settled});
}

static void loaded(void *arg, const nm_served *served, nm_err err)
{
    answer *a = arg;
    if (err != NM_OK) nm_task_fail(&a->task, err);
    else if (isnan(a->request.ask.keep_alive)) reply_loaded(a);
    else settle(a);
    nm_task_release(a);
}

/* A model that is known and closed need not be opened to be closed. */
static bool is_closed(nm_server *server, const char *name)
{
    json_t *models = nm_engine_models(server->engine);
    bool closed = false;
    for (size_t i = 0; i < json_array_size(models); i++) {
        const json_t *one = json_array_get(models, i);
        const char *known = json_string_value(json_object_get(one, "name"));
        closed = closed || (known && !strcmp(known, name) && json_is_false(json_object_get(one, "loaded")));
    }
    json_decref(models);
    return closed;
}

static answer *begin(nm_exchange *x, nm_server *server, bool chat)
{
    size_t length;
    answer *a = nm_task_new(x, server, sizeof *a, drop);
    if (!a) return NULL;
    a->begun = nm_clock_ns();
    a->calls = json_array();
    a->logprobs = json_array();
    const char *body = nm_exchange_body(x, &length);
    nm_err err = nm_ollama_read(&a->request, body, length, chat);
    if (err == NM_OK) return a;
    nm_task_fail(&a->task, err);
    nm_task_release(a);
    return NULL;
}

static void answer_to(nm_exchange *x, void *context, bool chat)
{
    answer *a = begin(x, context, chat);
    if (!a) return;
    if (a->request.nothing && a->request.ask.keep_alive == 0 && is_closed(context, a->request.name)) reply_loaded(a);
    else if (a->request.nothing) nm_task_call(&a->task, a->request.name, loaded);
    else nm_task_ask(&a->task, &a->request.ask, (nm_listener){.started = on_started, .piece = on_piece, .answered = on_answered, .ended = on_ended});
    nm_task_release(a);
}

static void chat(nm_exchange *x, void *context) { answer_to(x, context, true); }
static void generate(nm_exchange *x, void *context) { answer_to(x, context, false); }

/* ---- Embeddings ------------------------------------------------------------------------------------------------------------------------ */

typedef struct embedding {
    nm_task task;
    json_t *body;
    const char *model, **texts;
    size_t *lengths, n;
    int32_t dimensions;             /* 0: all */
    bool old;                       /* /api/embeddings: one prompt */
    bool cuts;                      /* texts that are longer than the context */
    uint64_t begun;
} embedding;

static void drop_embedding(void *task)
{
    embedding *e = task;
    json_decref(e->body);
    nm_free(e->texts);
    nm_free(e->lengths);
}

/* The first columns of a vector, of length 1 again. */
static json_t *vector(const float *v, int32_t n, bool cut)
{
    json_t *list = json_array();
    double square = 0;
    for (int32_t i = 0; i < n; i++) square += (double)v[i] * v[i];
    double scale = cut && square > 0 ? 1 / sqrt(square) : 1;
    for (int32_t i = 0; i < n; i++) json_array_append_new(list, json_real(v[i] * scale));
    return list;
}

static void embedded(void *arg, const float *vectors, size_t n, int32_t n_embd, int32_t tokens, const nm_ended *ended)
{
    embedding *e = arg;
    json_t *list = json_array();
    bool cut = e->dimensions > 0 && e->dimensions < n_embd;
    if (ended->err != NM_OK) nm_task_fail_ended(&e->task, ended);
    for (size_t i = 0; !e->task.over && i < n; i++) json_array_append_new(list, vector(vectors + i * (size_t)n_embd, cut ? e->dimensions : n_embd, cut));
    if (e->task.over) json_decref(list);
    else if (e->old) {
        nm_task_reply(&e->task, json_pack("{sO}", "embedding", json_array_get(list, 0)));
        json_decref(list);
    } else nm_task_reply(&e->task, json_pack("{ss so sI sI si}", "model", e->model, "embeddings", list, "total_duration", since(e->begun), "load_duration",
        nanoseconds(ended->load_seconds), "prompt_eval_count", tokens));
    nm_task_release(e);
}

static nm_err read_embedding(embedding *e, const char *body, size_t length)
{
    enum { MOST = 2048 };
    const char *name = e->old ? "prompt" : "input";
    NM_TRY(nm_body_object(&e->body, body, length));
    NM_TRY(nm_field_text(e->body, "model", &e->model));
    if (!e->model || !*e->model) return nm_fail(NM_USAGE, "\"model\" is missing: GET /api/tags lists those that are served");
    NM_TRY(nm_field_int32(e->body, "dimensions", 1, INT32_MAX, &e->dimensions));
    NM_TRY(nm_field_bool(e->body, "truncate", &e->cuts));
    double unused;
    NM_TRY(nm_ollama_keep_alive(e->body, &unused));
    if (e->old && json_is_array(json_object_get(e->body, name))) return nm_fail(NM_USAGE, "\"prompt\" must be a string");
    NM_TRY(nm_field_texts(e->body, name, MOST, &e->texts, &e->n));
    e->lengths = nm_calloc(e->n, sizeof *e->lengths);
    if (!e->lengths) return nm_fail_memory(e->n * sizeof *e->lengths);
    for (size_t i = 0; i < e->n; i++) e->lengths[i] = strlen(e->texts[i]);
    return NM_OK;
}

/* Ollama's answer to no text is no vector. */
static bool nothing_to_embed(const embedding *e) { return !e->n || (e->old && !e->lengths[0]); }

static void embed_texts(embedding *e)
{
    nm_err err = nm_request_embed(&e->task.base, e->task.server->engine, e->model, e->texts, e->lengths, e->n, e->cuts, embedded);
    if (err != NM_OK) nm_task_fail(&e->task, err);
}

static void embed_any(nm_exchange *x, void *context, bool old)
{
    size_t length;
    embedding *e = nm_task_new(x, context, sizeof *e, drop_embedding);
    if (!e) return;
    e->old = old;
    e->cuts = true;
    e->begun = nm_clock_ns();
    const char *body = nm_exchange_body(x, &length);
    nm_err err = read_embedding(e, body, length);
    if (err != NM_OK) nm_task_fail(&e->task, err);
    else if (nothing_to_embed(e)) nm_task_reply(&e->task, old ? json_pack("{s[]}", "embedding") : json_pack("{ss s[]}", "model", e->model, "embeddings"));
    else embed_texts(e);
    nm_task_release(e);
}

static void embed(nm_exchange *x, void *context) { embed_any(x, context, false); }
static void embeddings(nm_exchange *x, void *context) { embed_any(x, context, true); }

/* ---- The rest -------------------------------------------------------------------------------------------------------------------------- */

static void version(nm_exchange *x, void *context) { nm_reply_json(x, json_pack("{ss ss}", "version", OLLAMA_VERSION, "nomoat", NM_VERSION)); }

static void root(nm_exchange *x, void *context)
{
    const char *accept = nm_exchange_header(x, "Accept");
    nm_exchange_add_header(x, "Vary", "Accept");
    if (accept && strstr(accept, "text/html")) nm_page_index(x, context);
    else nm_reply_text(x, "Ollama is running");
}

static void refused(nm_exchange *x, void *context)
{
    static const struct { const char *path, *why; } known[] = {
        {"/api/pull", "nothing is fetched here: download the model's GGUF file and type 'nomoat import FILE'"},
        {"/api/push", "nothing is published here: 'nomoat list' shows where models lie"},
        {"/api/create", "models are not made here: type 'nomoat save NAME MODEL+ADAPTER', or 'nomoat import FILE' for a GGUF file"},
        {"/api/copy", "models are not copied here: type 'nomoat save NAME MODEL' for a second name"},
        {"/api/delete", "models are not removed here: type 'nomoat rm NAME'"},
    };
    const char *why = "files are not taken here: type 'nomoat import FILE'";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(nm_exchange_path(x), known[i].path)) why = known[i].why;
    nm_exchange_fail(x, 501, NULL, "not_implemented", why);
}

const nm_route nm_routes_ollama[] = {
    {"GET", "/", NM_DIALECT_OLLAMA, true, 0, root},
    {"GET", "/api/version", NM_DIALECT_OLLAMA, false, 0, version},
    {"GET", "/api/tags", NM_DIALECT_OLLAMA, false, 0, nm_ollama_tags},
    {"GET", "/api/ps", NM_DIALECT_OLLAMA, false, 0, nm_ollama_ps},
    {"POST", "/api/show", NM_DIALECT_OLLAMA, false, 0, nm_ollama_show},
    {"POST", "/api/chat", NM_DIALECT_OLLAMA, false, 0, chat},
    {"POST", "/api/generate", NM_DIALECT_OLLAMA, false, 0, generate},
    {"POST", "/api/embed", NM_DIALECT_OLLAMA, false, 0, embed},
    {"POST", "/api/embeddings", NM_DIALECT_OLLAMA, false, 0, embeddings},
    {"POST", "/api/pull", NM_DIALECT_OLLAMA, false, 0, refused},
    {"POST", "/api/push", NM_DIALECT_OLLAMA, false, 0, refused},
    {"POST", "/api/create", NM_DIALECT_OLLAMA, false, 0, refused},
    {"POST", "/api/copy", NM_DIALECT_OLLAMA, false, 0, refused},
    {"DELETE", "/api/delete", NM_DIALECT_OLLAMA, false, 0, refused},
    {"POST", "/api/blobs/*", NM_DIALECT_OLLAMA, false, 0, refused},
    {0}
};
