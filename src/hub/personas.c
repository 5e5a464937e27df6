/* The store of personas: a folder of Modelfiles. */
#include "hub/personas.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/mem.h"
#include "hub/hub.h"
#include "os/file.h"

static nm_err store_folder(char **path)
{
    char *data;
    NM_TRY(nm_folder_find(NM_FOLDER_DATA, &data));
    nm_err err = nm_format(path, "%s/personas", data);
    nm_free(data);
    return err;
}

void nm_persona_free(nm_persona *p)
{
    if (!p) return;
    nm_modelfile_free(&p->file);
    nm_free(p->name);
    nm_free(p->path);
    nm_free(p->text);
    nm_free(p);
}

void nm_persona_list_free(nm_persona **list, size_t count)
{
    for (size_t i = 0; i < count; i++) nm_persona_free(list[i]);
    nm_free(list);
}

/* ---- Reading ------------------------------------------------------------------------------------------------------------------------ */

static nm_err read_entry(nm_persona **out, const char *store, const char *entry)
{
    nm_persona *p = nm_calloc(1, sizeof *p);
    *out = NULL;
    if (!p) return nm_fail_memory(sizeof *p);
    nm_modelfile_init(&p->file);
    nm_err err = nm_format(&p->name, "%s", entry);
    if (err == NM_OK) err = nm_format(&p->path, "%s/%s", store, entry);
    if (err == NM_OK) err = nm_file_read(p->path, NM_MODELFILE_MOST, &p->text, &p->length);
    if (err == NM_OK) err = nm_modelfile_parse(&p->file, p->text, p->length, p->path);
    if (err == NM_OK) *out = p;
    else nm_persona_free(p);
    return err;
}

/* The entry spelt so, else the only one that differs in letter case alone; NULL. */
static const char *pick(char **names, size_t count, const char *name, size_t n)
{
    const char *found = NULL;
    int alike = 0;
    for (size_t i = 0; i < count; i++) {
        if (strlen(names[i]) != n || strncasecmp(names[i], name, n)) continue;
        if (!strncmp(names[i], name, n)) return names[i];
        found = names[i];
        alike++;
    }
    return alike == 1 ? found : NULL;
}

/* *entry is allocated; NULL if there is none. */
static nm_err resolve(char **entry, const char *store, const char *name)
{
    char **names;
    size_t count, n = strlen(name);
    *entry = NULL;
    if (n > 7 && !strcmp(name + n - 7, ":latest")) n -= 7;
    NM_TRY(nm_folder_names(&names, &count, store, ""));
    const char *found = pick(names, count, name, n);
    nm_err err = found ? nm_format(entry, "%s", found) : NM_OK;
    nm_names_free(names, count);
    return err;
}

nm_err nm_persona_find(nm_persona **out, const char *name)
{
    char *store, *entry = NULL;
    *out = NULL;
    NM_TRY(store_folder(&store));
    nm_err err = resolve(&entry, store, name);
    if (err == NM_OK && entry) err = read_entry(out, store, entry);
    nm_free(entry);
    nm_free(store);
    return err;
}

static nm_err read_all(nm_persona ***list, size_t *count, const char *store, char **names, size_t n, nm_skipped_fn skipped)
{
    *list = nm_calloc(n, sizeof **list);
    if (!*list) return nm_fail_memory(n * sizeof **list);
    for (size_t i = 0; i < n; i++) {
        nm_err err = read_entry(&(*list)[*count], store, names[i]);
        if (err == NM_OK) ++*count;
        else NM_TRY(nm_skip(err, skipped));
    }
    return NM_OK;
}

nm_err nm_persona_list(nm_persona ***list, size_t *count, nm_skipped_fn skipped)
{
    char *store, **names = NULL;
    size_t n = 0;
    *list = NULL;
    *count = 0;
    NM_TRY(store_folder(&store));
    nm_err err = nm_folder_names(&names, &n, store, "");
    if (err == NM_OK) err = read_all(list, count, store, names, n, skipped);
    nm_names_free(names, n);
    nm_free(store);
    if (err == NM_OK) return NM_OK;
    nm_persona_list_free(*list, *count);
    *list = NULL;
    *count = 0;
    return err;
}

/* ---- Changing ----------------------------------------------------------------------------------------------------------------------- */

/* A model would win over the persona wherever the name is typed, and an adapter's name alone has a meaning to the server. */
static nm_err check_others(const char *name)
{
    nm_found model = {0};
    nm_found_adapter adapter = {0};
    NM_TRY(nm_store_find(&model, name));
    nm_err err = model.path ? nm_fail(NM_REFUSED, "%s: the store has a model of that name: take another", name) : nm_adapter_stored(&adapter, name);
    if (err == NM_OK && adapter.path) err = nm_fail(NM_REFUSED, "%s: the store has an adapter of that name: take another", name);
    nm_found_free(&model);
    nm_found_adapter_free(&adapter);
    return err;
}

/* Under the store's lock. A name that differs in letter case alone is the same name. */
static nm_err put(const nm_change *w, const char *name, const char *text, size_t length, bool replace)
{
    char *entry, *path = NULL;
    NM_TRY(resolve(&entry, w->store, name));
    nm_err err = entry && !replace ? nm_fail(NM_REFUSED, "%s: there is a persona of that name: give --replace, or another name", entry) : NM_OK;
    if (err == NM_OK) err = nm_format(&path, "%s/%s", w->store, entry ? entry : name);
    if (err == NM_OK) err = nm_file_write(path, text, length);
    nm_free(path);
    nm_free(entry);
    return err;
}

nm_err nm_place_write(nm_str *s, nm_place place, const char *name, const char *path)
{
    if (place != NM_PLACE_PATH) return nm_str_puts(s, name);
    char *real = realpath(path, NULL);
    nm_err err = real ? nm_str_puts(s, real) : nm_fail(NM_NOT_FOUND, "%s: it is gone", path);
    free(real);
    return err;
}

nm_err nm_adapter_write(nm_str *s, const nm_found_adapter *a)
{
    NM_TRY(nm_place_write(s, a->place, a->name, a->path));
    return a->scale == 1 ? NM_OK : nm_str_printf(s, "=%.9g", (double)a->scale);
}

nm_err nm_persona_save(const char *name, const char *text, size_t length, bool replace, nm_wait_fn wait)
{
    nm_modelfile file;
    nm_change w = nm_no_change;
    char *plain, *store;
    NM_TRY(nm_modelfile_parse(&file, text, length, name));
    nm_modelfile_free(&file);
    NM_TRY(nm_store_plain_name(&plain, name));
    nm_err err = check_others(plain);
    if (err == NM_OK) err = store_folder(&store);
    if (err == NM_OK) err = nm_change_begin(&w, store, wait);
    if (err == NM_OK) err = put(&w, plain, text, length, replace);
    nm_change_end(&w);
    nm_free(plain);
    return err;
}

nm_err nm_persona_remove(const char *name, nm_wait_fn wait)
{
    nm_change w = nm_no_change;
    char *store, *entry = NULL;
    NM_TRY(store_folder(&store));
    nm_err err = nm_change_begin(&w, store, wait);
    if (err == NM_OK) err = resolve(&entry, w.store, name);
    if (err == NM_OK) err = entry ? nm_change_remove(&w, entry) : nm_fail(NM_NOT_FOUND, "%s: there is no persona of that name: 'nomoat list' shows them", name);
    nm_change_end(&w);
    nm_free(entry);
    return err;
}
