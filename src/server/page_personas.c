/* The page's personas: those of the store (hub/personas.h), in the page's words. */
#include "server/page_personas.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "hub/personas.h"
#include "os/file.h"
#include "server/desk.h"
#include "server/fields.h"

/* ---- Settings -------------------------------------------------------------------------------------------------------------------------- */

typedef enum setting_kind { REAL, WHOLE, SEED, THINK } setting_kind;
/* What page and Modelfile both know. Bounds are those of requests: the page sends along what it reads here. */
static const struct setting { const char *name; setting_kind kind; size_t offset; double least, most; } settings[] = {
    {"temperature", REAL, offsetof(nm_modelfile, temperature), 0, 100}, {"top_p", REAL, offsetof(nm_modelfile, top_p), 0, 1},
    {"top_k", WHOLE, offsetof(nm_modelfile, top_k), -1, INT32_MAX}, {"min_p", REAL, offsetof(nm_modelfile, min_p), 0, 1},
    {"presence_penalty", REAL, offsetof(nm_modelfile, presence_penalty), -2, 2}, {"max_tokens", WHOLE, offsetof(nm_modelfile, predict), 1, INT32_MAX},
    {"seed", SEED, 0, 0, 0}, {"think", THINK, 0, 0, 0},
};
enum { SETTINGS = sizeof settings / sizeof *settings };

static nm_err read_seed(nm_modelfile *m, const json_t *given)
{
    int64_t seed = -1;
    NM_TRY(nm_field_int(given, "seed", 0, INT64_MAX, &seed));
    if (seed >= 0) m->seeded = true, m->seed = (uint64_t)seed;
    return NM_OK;
}

static nm_err read_think(nm_modelfile *m, const json_t *given)
{
    bool think = m->think == 1;
    NM_TRY(nm_field_bool(given, "think", &think));
    if (json_is_boolean(json_object_get(given, "think"))) m->think = think;
    return NM_OK;
}

static nm_err read_setting(nm_modelfile *m, const struct setting *s, const json_t *given)
{
    char *to = (char *)m + s->offset;
    switch (s->kind) {
    case REAL: return nm_field_real(given, s->name, s->least, s->most, (double *)to);
    case WHOLE: return nm_field_int32(given, s->name, (int32_t)s->least, (int32_t)s->most, (int32_t *)to);
    case SEED: return read_seed(m, given);
    default: return read_think(m, given);
    }
}

/* "probabilities" is how the page looks, not what a model answers. */
static nm_err check_known(const json_t *given)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)given, key, value) {
        size_t i = 0;
        while (i < SETTINGS && strcmp(key, settings[i].name)) i++;
        if (i == SETTINGS && strcmp(key, "probabilities")) return nm_fail(NM_USAGE, "\"settings\" has \"%.60s\", which no persona keeps", key);
    }
    return NM_OK;
}

static nm_err read_settings(nm_modelfile *m, const json_t *given)
{
    NM_TRY(check_known(given));
    for (size_t i = 0; i < SETTINGS; i++) NM_TRY(read_setting(m, &settings[i], given));
    return NM_OK;
}

/* What the page has a word for, not given any more. */
static void forget_settings(nm_modelfile *m)
{
    for (size_t i = 0; i < SETTINGS; i++) {
        if (settings[i].kind == REAL) *(double *)((char *)m + settings[i].offset) = NM_MODELFILE_REAL;
        if (settings[i].kind == WHOLE) *(int32_t *)((char *)m + settings[i].offset) = NM_MODELFILE_INT;
    }
    m->seeded = false;
    m->think = -1;
}

static json_t *setting_value(const nm_modelfile *m, const struct setting *s)
{
    const char *from = (const char *)m + s->offset;
    double value = s->kind == REAL ? *(const double *)from : s->kind == WHOLE ? *(const int32_t *)from : 0;
    bool given = value >= s->least && value <= s->most;     /* what is not given is NAN, or the least integer */
    switch (s->kind) {
    case REAL: return given ? json_real(value) : NULL;
    case WHOLE: return given ? json_integer((json_int_t)value) : NULL;
    case SEED: return m->seeded && m->seed <= INT64_MAX ? json_integer((json_int_t)m->seed) : NULL;
    default: return m->think >= 0 ? json_boolean(m->think) : NULL;
    }
}

static json_t *settings_object(const nm_modelfile *m)
{
    json_t *object = json_object();
    for (size_t i = 0; i < SETTINGS; i++) {
        json_t *value = setting_value(m, &settings[i]);
        if (value) json_object_set_new(object, settings[i].name, value);
    }
    return object;
}

/* ---- Models and adapters by the names that clients know ---------------------------------------------------------------------------------- */

static const char *text_of(const json_t *entry, const char *member)
{
    const char *text = json_string_value(json_object_get(entry, member));
    return text ? text : "";
}

/* The listed model or adapter of a file; NULL. */
static const json_t *listed_at(const json_t *models, const char *kind, const char *path)
{
    size_t i;
    json_t *entry;
    json_array_foreach(models, i, entry)
        if (!strcmp(text_of(entry, "kind"), kind) && nm_file_same(text_of(entry, "path"), path)) return entry;
    return NULL;
}

static const json_t *listed(const json_t *models, const char *kind, const char *name, size_t n)
{
    size_t i;
    json_t *entry;
    json_array_foreach(models, i, entry)
        if (!strcmp(text_of(entry, "kind"), kind) && strlen(text_of(entry, "name")) == n && !strncasecmp(text_of(entry, "name"), name, n)) return entry;
    return NULL;
}

/* The longest front of the text that is a model or a persona. *n: its length. */
static const json_t *listed_front(const json_t *models, const char *text, size_t *n)
{
    const json_t *entry = NULL;
    for (*n = strlen(text); !entry; --*n) {
        entry = listed(models, "model", text, *n);
        if (!entry) entry = listed(models, "persona", text, *n);
        if (entry) return entry;
        while (*n && text[*n - 1] != '+') --*n;
        if (!*n) return NULL;
    }
    return NULL;
}

static nm_err put_part(nm_str *s, const json_t *models, const nm_found_adapter *a)
{
    const json_t *entry = listed_at(models, "adapter", a->path);
    if (!entry) return NM_NOT_FOUND;
    NM_TRY(nm_str_printf(s, "+%s", text_of(entry, "name")));
    return a->scale == 1 ? NM_OK : nm_str_printf(s, "=%.9g", (double)a->scale);
}

/* "MODEL{+ADAPTER[=SCALE]}"; NM_NOT_FOUND where clients have no names for them. */
static nm_err put_names(nm_str *s, const json_t *models, const nm_found_stack *found)
{
    const json_t *entry = listed_at(models, "model", found->model.path);
    if (!entry) return NM_NOT_FOUND;
    NM_TRY(nm_str_puts(s, text_of(entry, "name")));
    for (size_t i = 0; i < found->count; i++) NM_TRY(put_part(s, models, &found->adapter[i]));
    return NM_OK;
}

/* Whether model, system message and settings are all that is in it. */
static bool is_plain(const nm_modelfile *m)
{
    bool numbers = !isnan(m->typical) || !isnan(m->repeat_penalty) || !isnan(m->frequency_penalty);
    return !numbers && m->repeat_last == NM_MODELFILE_INT && m->context == NM_MODELFILE_INT && !m->tmpl && !m->messages && !m->stops;
}

/* What the page asks for in the persona's name: its stack where that says it all, else the persona itself, with what the page has no word for. Takes the persona over. */
static nm_err model_text(nm_str *s, const json_t *models, nm_persona *p)
{
    nm_found_stack found;
    nm_str own = {0};
    bool plain = is_plain(&p->file);
    nm_err err = nm_str_puts(&own, p->name);
    if (err == NM_OK) err = nm_persona_stack(&found, p);
    else nm_persona_free(p);
    if (err == NM_OK) {
        err = plain ? put_names(s, models, &found) : NM_NOT_FOUND;
        nm_found_stack_free(&found);
    }
    if (err != NM_OK && err != NM_NO_MEMORY) {
        s->length = 0;
        err = nm_str_puts(s, own.data);
    }
    nm_str_free(&own);
    return err;
}

/* ---- Listing ------------------------------------------------------------------------------------------------------------------------------ */

/* Takes the persona over. */
static nm_err add_persona(json_t *list, const json_t *models, nm_persona *p)
{
    nm_str model = {0};
    json_t *entry = json_pack("{s:s, s:s, s:o}", "name", p->name, "system", p->file.system ? p->file.system : "", "settings", settings_object(&p->file));
    nm_err err = model_text(&model, models, p);
    if (err == NM_OK && json_object_set_new(entry, "model", json_string(model.data))) err = nm_fail_memory(0);
    if (err == NM_OK) err = json_array_append(list, entry) ? nm_fail_memory(0) : NM_OK;
    json_decref(entry);
    nm_str_free(&model);
    return err;
}

nm_err nm_page_personas(nm_engine *e, json_t **out)
{
    nm_persona **personas;
    size_t count;
    NM_TRY(nm_persona_list(&personas, &count, NULL));
    json_t *models = nm_engine_models(e), *list = json_array();
    nm_err err = models && list ? NM_OK : nm_fail_memory(0);
    for (size_t i = 0; err == NM_OK && i < count; i++) {
        err = add_persona(list, models, personas[i]);
        personas[i] = NULL;
    }
    nm_persona_list_free(personas, count);
    json_decref(models);
    if (err == NM_OK && !(*out = json_pack("{s:O}", "personas", list))) err = nm_fail_memory(0);
    json_decref(list);
    return err;
}

/* ---- From the page's form to a Modelfile ---------------------------------------------------------------------------------------------------- */

/* What is changed: the persona of that name, or the one that the model's name begins with; with neither, a new one. */
typedef struct draft {
    nm_modelfile file;
    nm_persona *basis;          /* whose text stays but for what the page says; NULL */
    bool another;               /* than the one of that name: what is not said stays as it is there */
    const json_t *models;
} draft;

static void clear_stack(nm_modelfile *m)
{
    nm_free(m->from.text);
    m->from.text = NULL;
    for (size_t i = 0; i < m->adapters; i++) nm_free(m->adapter[i].text);
    m->adapters = 0;
}

static nm_err set_model(nm_modelfile *m, const json_t *entry)
{
    nm_found found;
    nm_str s = {0};
    const char *path = text_of(entry, "path");
    nm_err err = nm_model_find(&found, text_of(entry, "name"));     /* a name may be one on this server's command line alone */
    bool named = err == NM_OK && nm_file_same(found.path, path);
    if (err == NM_NO_MEMORY) return err;
    err = nm_place_write(&s, named ? found.place : NM_PLACE_PATH, text_of(entry, "name"), path);
    nm_found_free(&found);
    clear_stack(m);
    if (err == NM_OK) m->from.text = nm_str_take(&s, NULL);
    nm_str_free(&s);
    return err;
}

/* "ADAPTER[=SCALE]", n bytes. */
static nm_err add_adapter(draft *d, const char *text, size_t n)
{
    nm_modelfile *m = &d->file;
    size_t name = 0;
    nm_found_adapter found;
    nm_str s = {0};
    while (name < n && text[name] != '=') name++;
    const json_t *entry = listed(d->models, "adapter", text, name);
    char *end = NULL;
    double scale = name < n ? strtod(text + name + 1, &end) : 1;
    if (!entry) return nm_fail(NM_USAGE, "\"model\": there is no adapter \"%.*s\"", (int)(name < 200 ? name : 200), text);
    if (end && (end != text + n || !(scale >= -1000 && scale <= 1000)))
        return nm_fail(NM_USAGE, "\"model\": the scale of %s is no number from -1000 to 1000", text_of(entry, "name"));
    nm_err err = nm_adapter_find(&found, text_of(entry, "name"));
    bool named = err == NM_OK && found.place != NM_PLACE_PATH && nm_file_same(found.path, text_of(entry, "path"));
    if (err == NM_OK) nm_found_adapter_free(&found);
    if (err == NM_NO_MEMORY) return err;
    nm_found_adapter as = {.name = (char *)text_of(entry, "name"), .path = (char *)text_of(entry, "path"), .place = named ? NM_PLACE_STORE : NM_PLACE_PATH, .scale = (float)scale};
    err = nm_adapter_write(&s, &as);
    if (err == NM_OK) err = NM_GROW(m->adapter, m->adapter_capacity, m->adapters + 1);
    if (err == NM_OK) m->adapter[m->adapters++] = (nm_modelfile_value){.text = nm_str_take(&s, NULL)};
    nm_str_free(&s);
    return err;
}

static nm_err add_adapters(draft *d, const char *rest)
{
    while (*rest == '+') {
        size_t n = strcspn(++rest, "+");
        NM_TRY(add_adapter(d, rest, n));
        rest += n;
    }
    return NM_OK;
}

/* The basis is taken over. */
static nm_err stand_on(draft *d, nm_persona *basis)
{
    nm_persona_free(d->basis);
    nm_modelfile_free(&d->file);
    d->basis = basis;
    return nm_modelfile_parse(&d->file, basis->text, basis->length, basis->path);
}

/* A persona stands on another's model, with its adapters and whatever else it has. */
static nm_err take_persona(draft *d, const char *name)
{
    nm_persona *other;
    if (d->basis && !strcasecmp(d->basis->name, name)) return NM_OK;
    NM_TRY(nm_persona_find(&other, name));
    d->another = true;
    return other ? stand_on(d, other) : nm_fail(NM_NOT_FOUND, "\"model\": there is no persona \"%s\"", name);
}

/* The model's text, as the page has it, unless it is what the persona has already. */
static nm_err take_model(draft *d, const char *text)
{
    nm_persona *again = NULL;
    nm_str before = {0};
    size_t n = 0;
    if (d->basis) NM_TRY(nm_persona_find(&again, d->basis->name));
    nm_err err = again ? model_text(&before, d->models, again) : NM_OK;
    bool same = before.data && !strcmp(before.data, text);
    nm_str_free(&before);
    if (err != NM_OK || same) return err;
    const json_t *entry = listed_front(d->models, text, &n);
    if (!entry) return nm_fail(NM_USAGE, "\"model\": there is no model \"%.200s\": GET /v1/models lists those that there are", text);
    NM_TRY(!strcmp(text_of(entry, "kind"), "persona") ? take_persona(d, text_of(entry, "name")) : set_model(&d->file, entry));
    return add_adapters(d, text + n);
}

static nm_err take_system(nm_modelfile *m, const char *system)
{
    nm_free(m->system);
    m->system = *system ? nm_strndup(system, strlen(system)) : NULL;
    return *system && !m->system ? nm_fail_memory(strlen(system)) : NM_OK;
}

static const char *default_name(const json_t *models)
{
    size_t i;
    json_t *entry;
    json_array_foreach(models, i, entry)
        if (json_is_true(json_object_get(entry, "default"))) return text_of(entry, "name");
    return "";
}

static nm_err fill(draft *d, const char *name, const json_t *persona)
{
    const char *model = "", *system = "";
    json_t *given = NULL;
    nm_persona *own;
    NM_TRY(nm_field_text(persona, "model", &model));
    NM_TRY(nm_field_text(persona, "system", &system));
    NM_TRY(nm_field_object(persona, "settings", &given));
    NM_TRY(nm_persona_find(&own, name));
    if (own) NM_TRY(stand_on(d, own));
    NM_TRY(take_model(d, *model ? model : default_name(d->models)));
    if (!d->another) forget_settings(&d->file);
    if (!d->another || *system) NM_TRY(take_system(&d->file, system));
    return read_settings(&d->file, given);
}

/* A model wins over a persona of its name wherever that is asked for, and an adapter's name means the adapter. What the store has, nm_persona_save refuses. */
static nm_err check_served(const json_t *models, const char *name)
{
    char *plain;
    NM_TRY(nm_store_plain_name(&plain, name));
    const char *kind = listed(models, "model", plain, strlen(plain)) ? "a model" : listed(models, "adapter", plain, strlen(plain)) ? "an adapter" : NULL;
    nm_err err = kind ? nm_fail(NM_REFUSED, "%s: the server has %s of that name: take another", plain, kind) : NM_OK;
    nm_free(plain);
    return err;
}

static nm_err write_file(const draft *d, nm_str *text)
{
    return d->basis ? nm_modelfile_revise(text, d->basis->text, d->basis->length, &d->file) : nm_modelfile_write(text, &d->file);
}

nm_err nm_page_persona_put(nm_engine *e, const char *name, const json_t *persona)
{
    json_t *models = nm_engine_models(e);
    draft d = {.models = models};
    nm_str text = {0};
    if (!models) return nm_fail_memory(0);
    nm_modelfile_init(&d.file);
    nm_err err = check_served(models, name);
    if (err == NM_OK) err = fill(&d, name, persona);
    if (err == NM_OK) err = write_file(&d, &text);
    if (err == NM_OK) err = nm_persona_save(name, text.data, text.length, true, NULL);
    nm_str_free(&text);
    nm_modelfile_free(&d.file);
    nm_persona_free(d.basis);
    json_decref(models);
    return err;
}

/* ---- From older files of the page's ---------------------------------------------------------------------------------------------------------- */

enum { NAME_MOST = 100, SUFFIX_MOST = 1000 };       /* bytes, so that a suffix finds room in a name of the store; names tried */

/* Of any text: letters, digits and "._-" stay, anything else is a '-', of which one is enough. */
static void plain_name(char out[NAME_MOST + 1], const char *text, const char *otherwise)
{
    size_t n = 0;
    for (; *text && n < NAME_MOST; text++) {
        bool keep = isalnum((unsigned char)*text) || (n && strchr("._-", *text));
        if (keep) out[n++] = *text;
        else if (n && out[n - 1] != '-') out[n++] = '-';
    }
    while (n && out[n - 1] == '-') n--;
    out[n] = 0;
    if (!n) snprintf(out, NAME_MOST + 1, "%s", otherwise);
}

/* Three quotes at a line's end are what no Modelfile can hold: they become single ones. */
static void soften(char *text)
{
    for (char *at = text; at && (at = strstr(at, "\"\"\"")); at += 3) memcpy(at, "'''", 3);
}

/* As far as it can be read: a persona that a person has made is not lost for a number. A model that is not known by now may be again, but never is a path. */
static nm_err fill_moved(draft *d, const json_t *persona)
{
    const char *model = text_of(persona, "model");
    char name[NAME_MOST + 1];
    nm_err err = take_model(d, *model ? model : default_name(d->models));
    if (err == NM_NO_MEMORY) return err;
    if (err != NM_OK) {
        plain_name(name, model, "model");
        clear_stack(&d->file);
        if (!(d->file.from.text = nm_strndup(name, strlen(name)))) return nm_fail_memory(strlen(name));
    }
    NM_TRY(take_system(&d->file, text_of(persona, "system")));
    for (size_t i = 0; i < SETTINGS; i++) (void)read_setting(&d->file, &settings[i], json_object_get(persona, "settings"));
    return NM_OK;
}

/* Under the first of NAME, NAME-2, NAME-3, ... that is free, or that has this text already: it was moved before by a process that ended too soon. */
static nm_err save_free(const json_t *models, const char *name, const nm_str *text)
{
    char plain[NAME_MOST + 1], numbered[NAME_MOST + 16];
    plain_name(plain, name, "persona");
    nm_err err = NM_REFUSED;
    for (int i = 1; i <= SUFFIX_MOST && err == NM_REFUSED; i++) {
        nm_persona *there;
        if (i > 1) snprintf(numbered, sizeof numbered, "%s-%d", plain, i);
        const char *now = i > 1 ? numbered : plain;
        bool same = nm_persona_find(&there, now) == NM_OK && there && there->length == text->length && !memcmp(there->text, text->data, text->length);
        nm_persona_free(there);
        if (same) return NM_OK;
        err = check_served(models, now);
        if (err == NM_OK) err = nm_persona_save(now, text->data, text->length, false, NULL);
    }
    return err;
}

nm_err nm_page_persona_move(void *engine, const char *name, const json_t *persona)
{
    json_t *models = nm_engine_models(engine);
    draft d = {.models = models};
    nm_str text = {0};
    if (!models) return nm_fail_memory(0);
    nm_modelfile_init(&d.file);
    nm_err err = fill_moved(&d, persona);
    if (err == NM_OK) err = nm_modelfile_write(&text, &d.file);
    if (err == NM_USAGE) {
        text.length = 0;
        soften(d.file.system);
        err = nm_modelfile_write(&text, &d.file);
    }
    if (err == NM_OK) err = save_free(models, name, &text);
    nm_str_free(&text);
    nm_modelfile_free(&d.file);
    nm_persona_free(d.basis);
    json_decref(models);
    return err;
}

/* ---- Routes ----------------------------------------------------------------------------------------------------------------------------------- */

static nm_err list(const nm_desk_work *w, nm_desk_answer *a) { return nm_page_personas(w->engine, &a->json); }

static nm_err put(const nm_desk_work *w, nm_desk_answer *a)
{
    json_t *body;
    NM_TRY(nm_desk_body(w, &body));
    nm_err err = nm_page_persona_put(w->engine, nm_exchange_tail(w->exchange), body);
    if (err == NM_REFUSED) a->status = 409;
    json_decref(body);
    return err;
}

static nm_err erase(const nm_desk_work *w, nm_desk_answer *a)
{
    (void)a;
    return nm_persona_remove(nm_exchange_tail(w->exchange), NULL);
}

static void handle_list(nm_exchange *x, void *context) { nm_desk_take(x, context, list, false); }
static void handle_put(nm_exchange *x, void *context) { nm_desk_take(x, context, put, false); }
static void handle_erase(nm_exchange *x, void *context) { nm_desk_take(x, context, erase, false); }

const nm_route nm_routes_personas[] = {
    {.method = "GET", .path = "/nm/personas", .dialect = NM_DIALECT_OURS, .handle = handle_list},
    {.method = "PUT", .path = "/nm/personas/*", .dialect = NM_DIALECT_OURS, .most_body = NM_MODELFILE_MOST, .handle = handle_put},
    {.method = "DELETE", .path = "/nm/personas/*", .dialect = NM_DIALECT_OURS, .handle = handle_erase},
    {.method = NULL},
};
