/* What there is, as JSON: models, adapters, answers under way. */
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "server/engine_impl.h"

static int64_t modified(const char *path)
{
    struct stat st;
    return path && !stat(path, &st) ? (int64_t)st.st_mtime : 0;
}

/* Files are asked for their time here, by their paths, and not under the lock: a disk may sleep. */
static void add_times(json_t *list)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
        json_object_set_new(item, "modified", json_integer((json_int_t)modified(json_string_value(json_object_get(item, "path")))));
}

/* Takes `name` as it is. NULL values where memory lacks: jansson then packs nothing. */
static void add_model(json_t *list, const char *name, const char *base, const char *kind, const char *path, uint64_t bytes, bool loaded, bool first)
{
    json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:I, s:b, s:b}", "name", name, "base", base, "kind", kind, "path", path, "bytes", (json_int_t)bytes,
        "loaded", loaded, "default", first));
}

/* What an open model tells of itself goes to the entry that was added last. */
static void add_facts(json_t *list, const nm_base *b)
{
    if (!b->model) return;
    const nm_model_info *info = nm_model_describe(b->model);
    json_object_update_new(json_array_get(list, json_array_size(list) - 1), json_pack("{s:s, s:I, s:s, s:i}", "architecture", info->architecture,
        "parameters", (json_int_t)info->n_parameters, "file_type", info->file_type, "context", b->context));
}

static bool listed(const json_t *list, const char *name)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
        if (!strcmp(json_string_value(json_object_get(item, "name")), name)) return true;
    return false;
}

/* A stack of the command line, on a model or on a persona, whose name is what comes before the first '+'. */
static void add_given(const nm_engine *e, json_t *list, size_t i)
{
    const nm_base *b = e->given[i];
    const char *name = e->options.models[i];
    size_t n = strlen(b->name);
    bool on_base = !strncmp(name, b->name, n) && name[n] == '+';
    char *front = nm_strndup(name, on_base ? n : strcspn(name, "+"));
    if (front && strlen(front) < strlen(name) && !listed(list, name)) {
        add_model(list, name, front, "stack", b->found.path, b->found.bytes, b->model != NULL, i == 0);
        add_facts(list, b);
    }
    nm_free(front);
}

/* Under the lock: what is open or was given, and the stacks of the command line. */
static void add_known(const nm_engine *e, json_t *list)
{
    for (size_t i = 0; i < e->bases; i++) {
        const nm_base *b = e->base[i];
        if (b->hidden) continue;
        add_model(list, b->name, b->name, "model", b->found.path, b->found.bytes, b->model != NULL, !strcmp(b->name, e->options.models[0]));
        add_facts(list, b);
    }
    for (size_t i = 0; i < e->options.n_models; i++) add_given(e, list, i);
    for (size_t i = 0; i < e->n_added; i++)
        if (!listed(list, e->added[i].name)) add_model(list, e->added[i].name, "", "adapter", e->added[i].path, 0, false, false);
}

static nm_err add_stored(json_t *list)
{
    nm_found *models;
    nm_found_adapter *adapters;
    size_t n;
    NM_TRY(nm_found_list(&models, &n, NULL));
    for (size_t i = 0; i < n; i++)
        if (!listed(list, models[i].name)) add_model(list, models[i].name, models[i].name, "model", models[i].path, models[i].bytes, false, false);
    nm_found_list_free(models, n);
    NM_TRY(nm_adapter_list(&adapters, &n));
    for (size_t i = 0; i < n; i++)
        if (!listed(list, adapters[i].name)) add_model(list, adapters[i].name, adapters[i].base, "adapter", adapters[i].path, adapters[i].bytes, false, false);
    nm_found_adapters_free(adapters, n);
    return NM_OK;
}

/* The model's name; of a path its last part. */
static const char *base_of(const nm_persona *p)
{
    const char *from = p->file.from.text, *slash = *from == '/' ? strrchr(from, '/') : NULL;
    return slash ? slash + 1 : from;
}

/* The file of the model that it stands on; NULL where that is gone. nm_free. */
static char *model_path(const nm_persona *p)
{
    nm_found_stack found;
    if (nm_stack_find(&found, p->file.from.text, false) != NM_OK) return NULL;
    char *path = nm_strndup(found.model.path, strlen(found.model.path));
    nm_found_stack_free(&found);
    return path;
}

static void add_persona(nm_engine *e, json_t *list, const nm_persona *p)
{
    char *path = model_path(p);
    pthread_mutex_lock(&e->lock);
    const nm_base *b = path ? nm_names_at(e, path) : NULL;
    add_model(list, p->name, base_of(p), "persona", p->path, p->length, b && b->model, !strcmp(p->name, e->options.models[0]));
    if (b) add_facts(list, b);
    pthread_mutex_unlock(&e->lock);
    nm_free(path);
}

/* Names mean models in any case of letters, before they mean personas. */
static bool is_hidden(const json_t *list, const char *name)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
        if (!strcmp(json_string_value(json_object_get(item, "kind")), "model") && !strcasecmp(json_string_value(json_object_get(item, "name")), name)) return true;
    return false;
}

/* Whether it was not told before. */
static bool is_news(nm_engine *e, const char *name)
{
    bool told = false;
    char *copy = nm_strndup(name, strlen(name));
    pthread_mutex_lock(&e->lock);
    for (size_t i = 0; !told && i < e->n_told; i++) told = !strcmp(e->told[i], name);
    if (!told && copy && NM_GROW(e->told, e->told_capacity, e->n_told + 1) == NM_OK) {
        e->told[e->n_told++] = copy;
        copy = NULL;
    }
    pthread_mutex_unlock(&e->lock);
    nm_free(copy);
    return !told;
}

/* A persona that was there before the model, or was saved by a program that does not know what this one serves. */
static void note_hidden(nm_engine *e, const char *name)
{
    char line[400];
    if (!e->options.note || !is_news(e, name)) return;
    snprintf(line, sizeof line, "the persona %.255s is hidden by the model of that name: save it under another", name);
    e->options.note(e->options.note_arg, line);
}

static nm_err add_personas(nm_engine *e, json_t *list)
{
    nm_persona **personas;
    size_t n;
    NM_TRY(nm_persona_list(&personas, &n, NULL));
    for (size_t i = 0; i < n; i++) {
        if (is_hidden(list, personas[i]->name)) note_hidden(e, personas[i]->name);
        else if (!listed(list, personas[i]->name)) add_persona(e, list, personas[i]);
    }
    nm_persona_list_free(personas, n);
    return NM_OK;
}

json_t *nm_engine_models(nm_engine *e)
{
    json_t *list = json_array();
    if (!list) return NULL;
    pthread_mutex_lock(&e->lock);
    add_known(e, list);
    pthread_mutex_unlock(&e->lock);
    add_stored(list);       /* a store that cannot be read has nothing to list */
    add_personas(e, list);
    add_times(list);
    return list;
}

json_t *nm_engine_slots(nm_engine *e)
{
    json_t *list = json_array();
    pthread_mutex_lock(&e->lock);
    for (size_t i = 0; list && i < e->n_running; i++) {
        const nm_job *j = e->running[i];
        json_array_append_new(list, json_pack("{s:I, s:s, s:s, s:I, s:i, s:i, s:i}", "id", (json_int_t)j->id, "model", j->variant->name, "state",
            j->shown_answering ? "answer" : "prompt", "prompt_tokens", (json_int_t)j->n_ids, "cached_tokens", j->cached, "tokens", j->shown_tokens, "context", j->limit));
    }
    pthread_mutex_unlock(&e->lock);
    return list;
}
