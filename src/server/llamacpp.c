/* Owns what llama.cpp's clients ask of a server beside text: health, properties, slots, figures for Prometheus, adapters; vLLM's loading of adapters; the table of routes. */
#include "server/llamacpp.h"

#include <math.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "server/fields.h"

enum { PARALLEL = 16 };             /* of nm_engine_options, where nothing is said */

static int32_t slots_of(const nm_server *server) { return server->options->parallel ? server->options->parallel : PARALLEL; }

static void health(nm_exchange *x, void *context) { nm_reply_json(x, json_pack("{ss}", "status", "ok")); }

/* ---- Properties ------------------------------------------------------------------------------------------------------------------------------ */

static const char *raw_token(const nm_tokenizer *t, int32_t id) { return t && id >= 0 ? nm_token_raw(t, id) : ""; }

static json_t *default_settings(const nm_served *served)
{
    nm_llamacpp none = {0};
    nm_ask_init(&none.ask);
    return json_pack("{si si sb sb so ss}", "id", 0, "n_ctx", served->context, "speculative", 0, "is_processing", 0, "params", nm_llamacpp_settings(&none, served->model),
        "prompt", "");
}

static void props_with(void *arg, const nm_served *served, nm_err err)
{
    nm_task *t = arg;
    if (err != NM_OK) nm_task_fail(t, err);
    else {
        const nm_tokenizer *tokenizer = nm_model_tokenizer(served->model);
        nm_task_reply(t, json_pack("{so si ss ss ss s{sb sb} ss ss ss sb}", "default_generation_settings", default_settings(served), "total_slots", slots_of(t->server),
            "model_alias", served->name, "model_path", served->name, "chat_template", served->template_text ? served->template_text : "",
            "modalities", "vision", 0, "audio", 0, "bos_token", raw_token(tokenizer, tokenizer ? nm_token_bos(tokenizer) : -1),
            "eos_token", raw_token(tokenizer, tokenizer ? nm_token_eos(tokenizer) : -1), "build_info", "nomoat " NM_VERSION, "is_sleeping", 0));
    }
    nm_task_release(t);
}

static void props(nm_exchange *x, void *context)
{
    nm_task *t = nm_task_new(x, context, sizeof *t, NULL);
    if (!t) return;
    nm_task_call(t, nm_exchange_query(x, "model"), props_with);
    nm_task_release(t);
}

static void set_props(nm_exchange *x, void *context)
{
    nm_exchange_fail(x, 501, NULL, "not_supported_error", "settings are each request's own here: there are none to set for all");
}

/* ---- Slots ------------------------------------------------------------------------------------------------------------------------------------- */

/* A request under way has a slot while it is; the rest of the places that there are is shown idle, as clients expect. */
static json_t *slot(const json_t *of, int32_t id)
{
    const char *state = json_string_value(json_object_get(of, "state"));
    json_int_t context = json_integer_value(json_object_get(of, "context")), tokens = json_integer_value(json_object_get(of, "tokens"));
    json_t *one = json_pack("{si sI sb sb s{sI sb}}", "id", id, "n_ctx", context, "speculative", 0, "is_processing", of != NULL, "next_token", "n_decoded", tokens,
        "has_next_token", of != NULL);
    if (!one || !of) return one;
    json_t *more = json_pack("{sO* sO* ss* sO*}", "id_task", json_object_get(of, "id"), "model", json_object_get(of, "model"), "state", state,
        "n_prompt_tokens", json_object_get(of, "prompt_tokens"));
    nm_wire_merge(one, more);
    return one;
}

static bool runs(const json_t *of)
{
    const char *state = json_string_value(json_object_get(of, "state"));
    return state && strcmp(state, "waiting") != 0;
}

static void slots(nm_exchange *x, void *context)
{
    const nm_server *server = context;
    json_t *all = nm_engine_slots(server->engine), *list = all ? json_array() : NULL;
    int32_t n = 0;
    for (size_t i = 0; list && i < json_array_size(all); i++)
        if (runs(json_array_get(all, i))) json_array_append_new(list, slot(json_array_get(all, i), n++));
    json_decref(all);
    if (list && n >= slots_of(server) && nm_exchange_query(x, "fail_on_no_slot")) {
        json_decref(list);
        nm_exchange_fail(x, 503, NULL, "unavailable_error", "all slots are taken");
        return;
    }
    for (; list && n < slots_of(server); n++) json_array_append_new(list, slot(NULL, n));
    nm_reply_json(x, list);
}

/* ---- Figures ----------------------------------------------------------------------------------------------------------------------------------- */

static nm_err figure(nm_str *s, const char *kind, const char *name, const char *help, double value)
{
    return nm_str_printf(s, "# HELP %s %s\n# TYPE %s %s\n%s %.10g\n", name, help, name, kind, name, value);
}

/* Prompt tokens are those that were computed, as llama.cpp counts them; what came from kept prefixes is a figure of ours. */
static nm_err figures(nm_str *s, const nm_engine_counts *c)
{
    double read = (double)c->prompt_tokens;
    const struct { const char *kind, *name, *help; double value; } all[] = {
        {"counter", "llamacpp:prompt_tokens_total", "Prompt tokens read.", read},
        {"counter", "llamacpp:prompt_seconds_total", "Seconds of reading prompts.", c->prompt_seconds},
        {"counter", "llamacpp:tokens_predicted_total", "Tokens generated.", (double)c->tokens},
        {"counter", "llamacpp:tokens_predicted_seconds_total", "Seconds of generating.", c->seconds},
        {"gauge", "llamacpp:prompt_tokens_seconds", "Mean prompt tokens a second.", c->prompt_seconds > 0 ? read / c->prompt_seconds : 0},
        {"gauge", "llamacpp:predicted_tokens_seconds", "Mean generated tokens a second.", c->seconds > 0 ? (double)c->tokens / c->seconds : 0},
        {"gauge", "llamacpp:requests_processing", "Requests under way.", c->running},
        {"gauge", "llamacpp:requests_deferred", "Requests that wait.", c->waiting},
        {"counter", "nomoat:requests_total", "Requests taken.", (double)c->requests},
        {"counter", "nomoat:requests_failed_total", "Requests that ended with an error.", (double)c->failed},
        {"counter", "nomoat:requests_cancelled_total", "Requests whose client left.", (double)c->cancelled},
        {"counter", "nomoat:cached_tokens_total", "Prompt tokens that came from kept prefixes.", (double)c->cached_tokens},
        {"gauge", "nomoat:cache_bytes", "Bytes of kept prefixes.", (double)c->cache_bytes},
        {"gauge", "nomoat:cache_entries", "Kept prefixes.", (double)c->cache_entries},
        {"gauge", "nomoat:models_loaded", "Models that are open.", (double)c->models_loaded},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) NM_TRY(figure(s, all[i].kind, all[i].name, all[i].help, all[i].value));
    return NM_OK;
}

static void metrics(nm_exchange *x, void *context)
{
    const nm_server *server = context;
    nm_engine_counts counts;
    nm_str s = {0};
    nm_engine_count(server->engine, &counts);
    nm_err err = figures(&s, &counts);
    if (err == NM_OK) nm_exchange_reply(x, 200, "text/plain; version=0.0.4", s.data, s.length);
    else nm_exchange_fail_err(x, err);
    nm_str_free(&s);
}

/* ---- Adapters ---------------------------------------------------------------------------------------------------------------------------------- */

static json_t *adapter(const json_t *of, size_t id)
{
    const json_t *scale = json_object_get(of, "scale");
    return json_pack("{si sO sf ss ss}", "id", (int)id, "path", json_object_get(of, "name"), "scale", json_is_number(scale) ? json_number_value(scale) : 1.0,
        "task_name", "", "prompt_prefix", "");
}

static void adapters(nm_exchange *x, void *context)
{
    json_t *stack = nm_llamacpp_stack(context, NULL), *list = stack ? json_array() : NULL;
    for (size_t i = 0; list && i < json_array_size(stack); i++) json_array_append_new(list, adapter(json_array_get(stack, i), i));
    json_decref(stack);
    nm_reply_json(x, list);
}

/* Scales by place; what is not named is off. */
static nm_err read_scales(const json_t *list, double *scales, size_t count)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) {
        int64_t id = -1;
        double scale = NAN;
        if (json_is_object(item)) NM_TRY(nm_field_int(item, "id", 0, INT32_MAX, &id));
        if (json_is_object(item)) NM_TRY(nm_field_real(item, "scale", -1e6, 1e6, &scale));
        if (id < 0 || isnan(scale)) return nm_fail(NM_USAGE, "[%zu] must be an object with \"id\" and \"scale\", two numbers", i);
        if ((size_t)id >= count) return nm_fail(NM_USAGE, "[%zu]: there is no adapter %lld: GET /lora-adapters lists those that there are", i, (long long)id);
        scales[id] = scale;
    }
    return NM_OK;
}

static nm_err set_scales(nm_server *server, const json_t *list)
{
    json_t *stack = nm_llamacpp_stack(server, NULL);
    size_t n = json_array_size(stack);
    double *scales = nm_calloc(n + 1, sizeof *scales);
    nm_err err = stack && scales ? read_scales(list, scales, n) : nm_fail_memory(n * sizeof *scales);
    if (err == NM_OK) err = nm_engine_set_scales(server->engine, scales, n);
    nm_free(scales);
    json_decref(stack);
    return err;
}

static void set_adapters(nm_exchange *x, void *context)
{
    size_t length;
    const char *text = nm_exchange_body(x, &length);
    json_t *list = NULL;
    nm_err err = nm_body_array(&list, text, length);
    if (err == NM_OK) err = set_scales(context, list);
    if (err == NM_OK) nm_reply_json(x, json_pack("{sb}", "success", 1));
    else nm_exchange_fail_err(x, err);
    json_decref(list);
}

/* ---- vLLM's ------------------------------------------------------------------------------------------------------------------------------------ */

static nm_err read_adapter(json_t **body, nm_exchange *x, const char **name, const char **path)
{
    size_t length;
    const char *text = nm_exchange_body(x, &length);
    NM_TRY(nm_body_object(body, text, length));
    NM_TRY(nm_field_text(*body, "lora_name", name));
    return nm_field_text(*body, "lora_path", path);
}

static void reply_adapter(nm_exchange *x, nm_err err, const char *name, const char *done)
{
    nm_str s = {0};
    if (err == NM_OK) err = nm_str_printf(&s, "Success: LoRA adapter '%s' %s successfully.", name, done);
    if (err == NM_OK) nm_exchange_reply(x, 200, "text/plain; charset=utf-8", s.data, s.length);
    else nm_exchange_fail_err(x, err);
    nm_str_free(&s);
}

static void load_adapter(nm_exchange *x, void *context)
{
    const nm_server *server = context;
    const char *name = NULL, *path = NULL;
    json_t *body = NULL;
    nm_err err = read_adapter(&body, x, &name, &path);
    if (err == NM_OK && (!name || !*name || !path || !*path)) err = nm_fail(NM_USAGE, "\"lora_name\" and \"lora_path\" must both be given");
    if (err == NM_OK) err = nm_engine_add_adapter(server->engine, name, path);
    reply_adapter(x, err, name, "added");
    json_decref(body);
}

static void unload_adapter(nm_exchange *x, void *context)
{
    const nm_server *server = context;
    const char *name = NULL, *path = NULL;
    json_t *body = NULL;
    nm_err err = read_adapter(&body, x, &name, &path);
    if (err == NM_OK && (!name || !*name)) err = nm_fail(NM_USAGE, "\"lora_name\" must be given");
    if (err == NM_OK) err = nm_engine_remove_adapter(server->engine, name);
    reply_adapter(x, err, name, "removed");
    json_decref(body);
}

const nm_route nm_routes_llamacpp[] = {
    {"GET", "/health", NM_DIALECT_LLAMACPP, true, 0, health},
    {"GET", "/v1/health", NM_DIALECT_LLAMACPP, true, 0, health},
    {"GET", "/props", NM_DIALECT_LLAMACPP, false, 0, props},
    {"POST", "/props", NM_DIALECT_LLAMACPP, false, 0, set_props},
    {"GET", "/slots", NM_DIALECT_LLAMACPP, false, 0, slots},
    {"GET", "/metrics", NM_DIALECT_LLAMACPP, false, 0, metrics},
    {"POST", "/tokenize", NM_DIALECT_LLAMACPP, false, 0, nm_llamacpp_tokenize},
    {"POST", "/detokenize", NM_DIALECT_LLAMACPP, false, 0, nm_llamacpp_detokenize},
    {"GET", "/tokenizer_info", NM_DIALECT_LLAMACPP, false, 0, nm_llamacpp_tokenizer_info},
    {"POST", "/apply-template", NM_DIALECT_LLAMACPP, false, 0, nm_llamacpp_apply_template},
    {"POST", "/completion", NM_DIALECT_LLAMACPP, false, 0, nm_llamacpp_completion},
    {"POST", "/completions", NM_DIALECT_LLAMACPP, false, 0, nm_llamacpp_completion},
    {"POST", "/infill", NM_DIALECT_LLAMACPP, false, 0, nm_llamacpp_infill},
    {"GET", "/lora-adapters", NM_DIALECT_LLAMACPP, false, 0, adapters},
    {"POST", "/lora-adapters", NM_DIALECT_LLAMACPP, false, 0, set_adapters},
    {"POST", "/v1/load_lora_adapter", NM_DIALECT_OPENAI, false, 0, load_adapter},
    {"POST", "/v1/unload_lora_adapter", NM_DIALECT_OPENAI, false, 0, unload_adapter},
    {0}
};
