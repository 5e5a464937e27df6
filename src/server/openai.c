/* OpenAI's dialect: its paths, the list of models, and the document that describes all paths. */
#include "server/openai.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "server/anthropic.h"
#include "server/openapi.h"

/* ---- Models ------------------------------------------------------------------------------------------------------ */

static void write_model(nm_json_out *o, const char *id, const json_t *m)
{
    static const char *const more[] = {"kind", "base", "adapters", "bytes", "loaded", "default"};
    nm_json_begin_object(o, NULL);
    nm_json_text(o, "id", id);
    nm_json_text(o, "object", "model");
    nm_json_int(o, "created", json_is_number(json_object_get(m, "modified")) ? (int64_t)json_number_value(json_object_get(m, "modified")) : 0);
    nm_json_text(o, "owned_by", "nomoat");
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        if (json_object_get(m, more[i])) nm_json_value(o, more[i], json_object_get(m, more[i]));
    nm_json_end_object(o);
}

static void send(nm_exchange *x, nm_json_out *o)
{
    if (o->err == NM_OK) nm_exchange_reply(x, 200, "application/json", o->text.data, o->text.length);
    else nm_openai_fail_err(x, o->err);
    nm_json_free_out(o);
}

/* The path is Anthropic's as well; their clients say so. */
static bool is_anthropics(const nm_exchange *x) { return nm_exchange_header(x, "anthropic-version") != NULL; }

static void handle_models(nm_exchange *x, void *context)
{
    const nm_server *server = context;
    if (is_anthropics(x)) {
        nm_anthropic_models(x, context);
        return;
    }
    json_t *models = nm_engine_models(server->engine), *m;
    nm_json_out o = {0};
    size_t i;
    nm_json_begin_object(&o, NULL);
    nm_json_text(&o, "object", "list");
    nm_json_begin_array(&o, "data");
    json_array_foreach(models, i, m) write_model(&o, json_string_value(json_object_get(m, "name")), m);
    nm_json_end_array(&o);
    nm_json_end_object(&o);
    if (!models) o.err = nm_fail_memory(0);
    send(x, &o);
    json_decref(models);
}

static const json_t *find_model(const json_t *models, const char *name, size_t length)
{
    size_t i;
    json_t *m;
    json_array_foreach(models, i, m) {
        const json_t *have = json_object_get(m, "name");
        if (json_string_length(have) == length && !memcmp(json_string_value(have), name, length)) return m;
    }
    return NULL;
}

/* Whether an adapter of this name is among the models, by itself or behind a '+' of a name. */
static bool knows_adapter(const json_t *models, const char *name, size_t length)
{
    size_t i;
    json_t *m;
    if (find_model(models, name, length)) return true;
    json_array_foreach(models, i, m) {
        const char *have = json_string_value(json_object_get(m, "name")), *plus = have ? strrchr(have, '+') : NULL;
        if (plus && strlen(plus + 1) == length && !memcmp(plus + 1, name, length)) return true;
    }
    return false;
}

/* A stack that is not listed as such, but whose parts are: MODEL{+ADAPTER[=SCALE]}. Returns the base. */
static const json_t *find_stack(const json_t *models, const char *name)
{
    size_t length = strcspn(name, "+");
    const json_t *base = find_model(models, name, length);
    for (const char *at = name + length; base && *at; at += length) {
        at++;
        length = strcspn(at, "+");
        size_t bare = strcspn(at, "+=");
        if (!bare || !knows_adapter(models, at, bare)) return NULL;
    }
    return base;
}

static void no_such_model(nm_exchange *x, const char *name)
{
    nm_fail(NM_NOT_FOUND, "there is no model \"%s\" here: GET /v1/models lists those that there are", name);
    nm_openai_error e = {.status = 404, .code = "model_not_found", .param = "model", .message = nm_error_text()};
    nm_openai_fail(x, &e);
}

static void handle_model(nm_exchange *x, void *context)
{
    const nm_server *server = context;
    if (is_anthropics(x)) {
        nm_anthropic_models(x, context);
        return;
    }
    const char *name = nm_exchange_tail(x);
    json_t *models = nm_engine_models(server->engine);
    const json_t *m = find_model(models, name, strlen(name));
    nm_json_out o = {0};
    if (!m) m = find_stack(models, name);
    if (m) {
        write_model(&o, name, m);
        send(x, &o);
    } else {
        no_such_model(x, name);
    }
    json_decref(models);
}

/* ---- The document ------------------------------------------------------------------------------------------------ */

static void handle_document(nm_exchange *x, void *context)
{
    size_t length;
    const char *text = nm_openapi_document(&length);
    nm_exchange_reply(x, 200, "application/json", text, length);
}

const nm_route nm_routes_openai[] = {
    {"GET", "/v1/models", NM_DIALECT_OPENAI, false, 0, handle_models},
    {"GET", "/models", NM_DIALECT_OPENAI, false, 0, handle_models},
    {"GET", "/v1/models/*", NM_DIALECT_OPENAI, false, 0, handle_model},
    {"GET", "/models/*", NM_DIALECT_OPENAI, false, 0, handle_model},
    {"POST", "/v1/chat/completions", NM_DIALECT_OPENAI, false, 0, nm_openai_chat},
    {"POST", "/chat/completions", NM_DIALECT_OPENAI, false, 0, nm_openai_chat},
    {"POST", "/v1/completions", NM_DIALECT_OPENAI, false, 0, nm_openai_completions},
    {"POST", "/v1/embeddings", NM_DIALECT_OPENAI, false, 0, nm_openai_embeddings},
    {"POST", "/embeddings", NM_DIALECT_OPENAI, false, 0, nm_openai_embeddings},
    {"POST", "/v1/responses", NM_DIALECT_OPENAI, false, 0, nm_openai_responses},
    {"POST", "/responses", NM_DIALECT_OPENAI, false, 0, nm_openai_responses},
    {"GET", "/v1/responses/*", NM_DIALECT_OPENAI, false, 0, nm_openai_response_get},
    {"DELETE", "/v1/responses/*", NM_DIALECT_OPENAI, false, 0, nm_openai_response_delete},
    {"GET", "/openapi.json", NM_DIALECT_OPENAI, true, 0, handle_document},
    {0},
};
