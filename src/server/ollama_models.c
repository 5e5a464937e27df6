/* Owns telling of models in Ollama's shapes: the list of those that are served, one in full, those that are open. */
#include "server/ollama.h"

#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/hash.h"
#include "base/str.h"
#include "hub/personas.h"
#include "server/facts.h"
#include "server/fields.h"

/* ---- Lists ------------------------------------------------------------------------------------------------------------------------------ */

/* Sixty-four digits that stand for a model, as theirs do; made of what is known of it without reading the file. */
static json_t *digest_of(const json_t *model)
{
    const char *name = json_string_value(json_object_get(model, "name")), *path = json_string_value(json_object_get(model, "path"));
    double figures[2] = {json_number_value(json_object_get(model, "bytes")), json_number_value(json_object_get(model, "modified"))};
    uint64_t h[4];
    for (size_t i = 0; i < 4; i++) {
        h[i] = nm_hash(i + 1, name ? name : "", name ? strlen(name) : 0);
        h[i] = nm_hash(h[i], path ? path : "", path ? strlen(path) : 0);
        h[i] = nm_hash(h[i], figures, sizeof figures);
    }
    return json_sprintf("%016llx%016llx%016llx%016llx", (unsigned long long)h[0], (unsigned long long)h[1], (unsigned long long)h[2], (unsigned long long)h[3]);
}

static json_t *details(const char *family, json_t *parameters, const char *type)
{
    return json_pack("{ss ss ss s[s] so ss}", "parent_model", "", "format", "gguf", "family", family, "families", family, "parameter_size", parameters,
        "quantization_level", type);
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* Of a model that may not be open: as much as the engine tells. */
static json_t *entry(const json_t *model)
{
    const json_t *parameters = json_object_get(model, "parameters");
    json_t *size = json_is_number(parameters) ? nm_parameter_size((uint64_t)json_number_value(parameters)) : json_string("");
    const char *name = text_of(model, "name");
    return json_pack("{ss ss so sI so so}", "name", name, "model", name, "modified_at", nm_wire_modified(model), "size",
        (json_int_t)json_number_value(json_object_get(model, "bytes")), "digest", digest_of(model),
        "details", details(text_of(model, "architecture"), size, text_of(model, "file_type")));
}

static void reply_list(nm_exchange *x, json_t *list)
{
    nm_reply_json(x, list ? json_pack("{so}", "models", list) : NULL);
}

void nm_ollama_tags(nm_exchange *x, void *context)
{
    nm_server *server = context;
    json_t *models = nm_engine_models(server->engine), *list = models ? json_array() : NULL;
    for (size_t i = 0; list && i < json_array_size(models); i++) json_array_append_new(list, entry(json_array_get(models, i)));
    json_decref(models);
    reply_list(x, list);
}

/* Without a bound on idleness models stay: theirs is then told as far away. */
static json_t *open_entry(const json_t *model, const nm_server *server)
{
    const int64_t century = 100 * INT64_C(31556952);
    double keep = server->options->keep_alive;
    int64_t context = server->options->context;
    json_t *one = entry(model), *told = json_object_get(model, "context");
    if (json_is_integer(told)) context = json_integer_value(told);
    json_t *more = json_pack("{so si}", "expires_at", nm_wire_time((int64_t)time(NULL) + (keep > 0 && keep < 1e9 ? (int64_t)keep : century)), "size_vram", 0);
    if (context && more) json_object_set_new(more, "context_length", json_integer(context));
    if (one) nm_wire_merge(one, more);
    return one;
}

void nm_ollama_ps(nm_exchange *x, void *context)
{
    nm_server *server = context;
    json_t *models = nm_engine_models(server->engine), *list = models ? json_array() : NULL;
    for (size_t i = 0; list && i < json_array_size(models); i++)
        if (json_is_true(json_object_get(json_array_get(models, i), "loaded"))) json_array_append_new(list, open_entry(json_array_get(models, i), server));
    json_decref(models);
    reply_list(x, list);
}

/* ---- One model -------------------------------------------------------------------------------------------------------------------------- */

typedef struct show {
    nm_task task;
    json_t *body, *modified;
    bool verbose;
} show;

static void drop(void *task)
{
    show *s = task;
    json_decref(s->body);
    json_decref(s->modified);
}

/* As a Modelfile's PARAMETER lines have them. */
static json_t *parameters_of(const nm_model *model)
{
    nm_sampling with = nm_sampling_defaults(model);
    return json_sprintf("temperature %g\ntop_k %d\ntop_p %g\nmin_p %g\nrepeat_penalty %g", (double)with.temperature, with.top_k, (double)with.top_p, (double)with.min_p,
        (double)with.repeat_penalty);
}

static json_t *capabilities_of(const nm_served *served)
{
    nm_fim fim;
    json_t *list = json_pack("[ss]", "completion", "embedding");
    if (nm_knows_tools(served->template_text)) json_array_append_new(list, json_string("tools"));
    if (nm_knows_thinking(served->template_text)) json_array_append_new(list, json_string("thinking"));
    if (nm_fim_find(&fim, served->model)) json_array_append_new(list, json_string("insert"));
    return list;
}

static json_t *license_of(const nm_model *model)
{
    size_t at = nm_model_meta_find(model, "general.license"), length;
    const char *text = at == SIZE_MAX ? NULL : nm_model_meta_string(model, at, 0, &length);
    return text ? json_stringn(text, length) : NULL;
}

static json_t *description(const show *s, const nm_served *served)
{
    const nm_model_info *info = nm_model_describe(served->model);
    json_t *keys = nm_meta_json(served->model, s->verbose);
    json_object_set_new(keys, "general.parameter_count", json_integer((json_int_t)info->n_parameters));
    const nm_persona *persona = served->persona;
    return json_pack("{so* so ss* so ss so so so so*}", "license", license_of(served->model),
        "modelfile", persona ? json_stringn(persona->text, persona->length) : json_sprintf("FROM %s\n", served->name), "system", persona ? persona->file.system : NULL,
        "parameters", parameters_of(served->model), "template", served->template_text ? served->template_text : "",
        "details", details(info->architecture, nm_parameter_size(info->n_parameters), info->file_type), "model_info", keys, "capabilities", capabilities_of(served),
        "modified_at", json_incref(s->modified));
}

static void show_with(void *arg, const nm_served *served, nm_err err)
{
    show *s = arg;
    if (err != NM_OK) nm_task_fail(&s->task, err);
    else nm_task_reply(&s->task, description(s, served));
    nm_task_release(s);
}

static json_t *modified_of(nm_server *server, const char *name)
{
    json_t *models = nm_engine_models(server->engine), *found = NULL;
    for (size_t i = 0; !found && i < json_array_size(models); i++)
        if (!strcmp(text_of(json_array_get(models, i), "name"), name)) found = nm_wire_modified(json_array_get(models, i));
    json_decref(models);
    return found;
}

static nm_err read_show(show *s, const char **name, const char *body, size_t length)
{
    NM_TRY(nm_body_object(&s->body, body, length));
    NM_TRY(nm_field_text(s->body, "name", name));       /* as it was once called */
    NM_TRY(nm_field_text(s->body, "model", name));
    NM_TRY(nm_field_bool(s->body, "verbose", &s->verbose));
    return *name && **name ? NM_OK : nm_fail(NM_USAGE, "\"model\" is missing: GET /api/tags lists those that are served");
}

void nm_ollama_show(nm_exchange *x, void *context)
{
    size_t length;
    const char *name = NULL;
    show *s = nm_task_new(x, context, sizeof *s, drop);
    if (!s) return;
    const char *body = nm_exchange_body(x, &length);
    nm_err err = read_show(s, &name, body, length);
    if (err != NM_OK) nm_task_fail(&s->task, err);
    else {
        s->modified = modified_of(context, name);
        nm_task_call(&s->task, name, show_with);
    }
    nm_task_release(s);
}
