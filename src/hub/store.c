/* The store on disk: list, import, remove, verify. Its layout is in store.h. */
#include "hub/hub.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "os/file.h"

enum { SUMS_MAX = 1 << 20 };
static const char sums_name[] = "SHA256SUMS";

nm_err nm_store_folder(char **path)
{
    char *data;
    NM_TRY(nm_folder_find(NM_FOLDER_DATA, &data));
    nm_err err = nm_format(path, "%s/models", data);
    nm_free(data);
    return err;
}

/* ---- Listing ----------------------------------------------------------------------------------------------------- */

/* Reads a folder's SHA256SUMS; *text is NULL where there is none. */
static nm_err read_sums(char **text, const char *folder)
{
    char *path;
    size_t size;
    *text = NULL;
    NM_TRY(nm_format(&path, "%s/%s", folder, sums_name));
    nm_err err = nm_file_read(path, SUMS_MAX, text, &size);
    nm_free(path);
    return err == NM_NOT_FOUND ? NM_OK : err;
}

/* Takes the next "HASH  FILE" from the text, in place; false at its end. Lines of another form are passed over. */
static bool next_sum(char **at, const char **hex, const char **file)
{
    while (**at) {
        char *line = *at;
        size_t length = strcspn(line, "\n");
        *at = line + length + (line[length] == '\n');
        line[length] = 0;
        if (length <= 66 || strspn(line, "0123456789abcdef") != 64 || line[64] != ' ' || strchr(line + 66, '/')) continue;
        line[64] = 0;
        *hex = line;
        *file = line + 66;
        return true;
    }
    return false;
}

/* The recorded hash of a file; "" if there is none. */
static nm_err recorded_hash(char hex[65], const char *folder, const char *wanted)
{
    char *text;
    const char *found, *file;
    hex[0] = 0;
    NM_TRY(read_sums(&text, folder));
    for (char *at = text; at && next_sum(&at, &found, &file);)
        if (!strcmp(file, wanted)) memcpy(hex, found, 65);
    nm_free(text);
    return NM_OK;
}

/* What a model's folder holds; out->path stays NULL if that is no model. */
static nm_err describe(nm_found *out, const char *store, const char *name)
{
    char *folder, **files = NULL;
    size_t count = 0;
    *out = (nm_found){.place = NM_PLACE_STORE};
    NM_TRY(nm_format(&folder, "%s/%s", store, name));
    nm_err err = nm_folder_names(&files, &count, folder, ".gguf");
    if (err == NM_OK && count) {
        out->files = (int)count;
        err = recorded_hash(out->sha256, folder, files[0]);
        if (err == NM_OK) err = nm_format(&out->path, "%s/%s", folder, files[0]);
        if (err == NM_OK) err = nm_format(&out->name, "%s", name);
    }
    for (size_t i = 0; err == NM_OK && i < count; i++) {
        char *path;
        struct stat st;
        err = nm_format(&path, "%s/%s", folder, files[i]);
        if (err != NM_OK) break;
        if (!stat(path, &st)) out->bytes += (uint64_t)st.st_size;
        nm_free(path);
    }
    nm_names_free(files, count);
    nm_free(folder);
    if (err != NM_OK) nm_found_free(out);
    return err;
}

nm_err nm_store_list(nm_found **list, size_t *count, size_t *capacity, nm_skipped_fn skipped)
{
    char *store, **names = NULL;
    size_t n = 0;
    NM_TRY(nm_store_folder(&store));
    nm_err err = nm_folder_names(&names, &n, store, "");
    for (size_t i = 0; err == NM_OK && i < n; i++) {
        err = NM_GROW(*list, *capacity, *count + 1);
        if (err == NM_OK) err = nm_skip(describe(&(*list)[*count], store, names[i]), skipped);
        if (err == NM_OK && (*list)[*count].path) ++*count;
    }
    nm_names_free(names, n);
    nm_free(store);
    return err;
}

/* The entry of the store that a name means; *entry stays NULL where there is none, or only several that differ in letter case. */
static nm_err resolve(char **entry, const char *store, const char *name)
{
    char *path, **names;
    size_t n, alike = 0, at = 0;
    *entry = NULL;
    if (!*name || *name == '.' || strchr(name, '/')) return NM_OK;
    NM_TRY(nm_format(&path, "%s/%s", store, name));
    bool exact = !access(path, F_OK);
    nm_free(path);
    if (exact) return nm_format(entry, "%s", name);
    NM_TRY(nm_folder_names(&names, &n, store, ""));
    for (size_t i = 0; i < n; i++) {
        if (strcasecmp(names[i], name)) continue;
        at = i;
        alike++;
    }
    nm_err err = alike == 1 ? nm_format(entry, "%s", names[at]) : NM_OK;
    nm_names_free(names, n);
    return err;
}

nm_err nm_store_find(nm_found *out, const char *name)
{
    char *store, *entry = NULL;
    *out = (nm_found){0};
    NM_TRY(nm_store_folder(&store));
    nm_err err = resolve(&entry, store, name);
    if (err == NM_OK && entry) err = describe(out, store, entry);
    nm_free(entry);
    nm_free(store);
    return err;
}

/* The model's files: one, or the parts of a split, as real paths (links followed) and the names they go by. */
typedef struct sources { char **paths, **names; size_t count; uint64_t bytes; } sources;

static void sources_free(sources *s)
{
    if (s->paths) nm_names_free(s->paths, s->count);
    if (s->names) nm_names_free(s->names, s->count);
}

/* Adds a file under a name of ours; the name is taken over. */
static nm_err add_source(sources *s, const char *path, char *name)
{
    struct stat st;
    char *real = realpath(path, NULL);
    nm_err err = NM_OK;
    if (!real || stat(real, &st)) NM_GOTO(nm_fail(errno == ENOENT ? NM_NOT_FOUND : NM_FAILED, "%s: %s", path, strerror(errno)));
    if (!S_ISREG(st.st_mode)) NM_GOTO(nm_fail(NM_BAD_FILE, "%s: not a regular file: give a GGUF file", path));
    s->paths[s->count] = nm_strndup(real, strlen(real));
    if (!s->paths[s->count]) NM_GOTO(nm_fail_memory(strlen(real)));
    s->names[s->count++] = name;
    s->bytes += (uint64_t)st.st_size;
out:
    if (err != NM_OK) nm_free(name);
    free(real);
    return err;
}

/* stem: what the stored files are called, without number and ".gguf". */
static nm_err find_sources(sources *s, const char *path, const char *stem)
{
    int number = 1, parts = 1;
    size_t before;
    bool split = nm_split_name(path, &number, &parts, &before);
    char *part, *name;
    if (split && number != 1) return nm_fail(NM_USAGE, "%s: part %d of a split model: give the first part", path, number);
    s->paths = nm_calloc((size_t)parts, sizeof *s->paths);
    s->names = nm_calloc((size_t)parts, sizeof *s->names);
    if (!s->paths || !s->names) return nm_fail_memory((size_t)parts * sizeof *s->paths);
    if (!split) {
        NM_TRY(nm_format(&name, "%s.gguf", stem));
        return add_source(s, path, name);
    }
    for (int i = 1; i <= parts; i++) {
        NM_TRY(nm_format(&name, "%s-%05d-of-%05d.gguf", stem, i, parts));
        nm_err err = nm_format(&part, "%.*s-%05d-of-%05d.gguf", (int)before, path, i, parts);
        if (err == NM_OK && access(part, F_OK))
            err = nm_fail(NM_NOT_FOUND, "%s: part %d of %d is missing: put all parts into one folder, and fetch what lacks", part, i, parts);
        if (err == NM_OK) err = add_source(s, part, name);
        else nm_free(name);
        nm_free(part);
        NM_TRY(err);
    }
    return NM_OK;
}

nm_err nm_store_source(char **file, const char *path)
{
    struct stat st;
    char **names;
    size_t count, models = 0, first = 0;
    *file = NULL;
    if (stat(path, &st)) return nm_fail(errno == ENOENT ? NM_NOT_FOUND : NM_FAILED, "%s: %s: give a GGUF file", path, strerror(errno));
    if (!S_ISDIR(st.st_mode)) return nm_format(file, "%s", path);
    NM_TRY(nm_folder_names(&names, &count, path, ".gguf"));
    for (size_t i = count; i-- > 0;) {
        int number, parts;
        size_t stem;
        if (nm_split_name(names[i], &number, &parts, &stem) && number > 1) continue;
        models++;
        first = i;
    }
    nm_err err;
    if (models == 1) err = nm_format(file, "%s/%s", path, names[first]);
    else if (models) err = nm_fail(NM_USAGE, "%s: %zu models lie in it: give one file, as %s", path, models, names[first]);
    else err = nm_fail(NM_REFUSED, "%s: no GGUF file lies in it: this version reads GGUF only", path);
    nm_names_free(names, count);
    return err;
}

/* Brings and hashes all files into the temporary folder, SHA256SUMS last. */
static nm_err fill(const nm_change *w, const sources *s, nm_stored_as *as, const nm_import_options *o)
{
    nm_str sums = {0};
    char *to = NULL, hex[65];
    uint64_t done = 0, total = 2 * s->bytes;
    nm_err err = NM_OK;
    for (size_t i = 0; i < s->count; i++) {
        nm_free(to);
        NM_GOTO(nm_format(&to, "%s/%s", w->temporary, s->names[i]));
        NM_GOTO(nm_change_bring(s->paths[i], to, as, &done, total, o));
        if (i == 0 && *as != NM_STORED_COPY) total = s->bytes;     /* nothing is copied, all is hashed */
        NM_GOTO(nm_hash_file(hex, to, &done, total, o->progress, o->progress_arg));
        if (hex[0]) NM_GOTO(nm_str_printf(&sums, "%s  %s\n", hex, s->names[i]));
    }
    if (sums.length) {
        nm_free(to);
        NM_GOTO(nm_format(&to, "%s/%s", w->temporary, sums_name));
        NM_GOTO(nm_file_write(to, sums.data, sums.length));
    }
    err = nm_folder_flush(w->temporary);
out:
    nm_free(to);
    nm_str_free(&sums);
    return err;
}

nm_err nm_store_import(nm_found *out, nm_stored_as *as, const char *path, const char *name, const nm_import_options *options)
{
    static const nm_import_options none;
    const nm_import_options *o = options ? options : &none;
    char *file = NULL, *stem = NULL, *final = NULL, *folder;
    sources s = {0};
    nm_change w = nm_no_change;
    nm_err err = NM_OK;
    *out = (nm_found){0};
    NM_GOTO(nm_store_source(&file, path));
    NM_GOTO(nm_name_from_file(&stem, file));
    NM_GOTO(find_sources(&s, file, stem));
    NM_GOTO(nm_store_plain_name(&final, name ? name : stem));
    NM_GOTO(nm_store_folder(&folder));
    NM_GOTO(nm_change_begin(&w, folder, o->wait));
    err = nm_change_free(&w, final, "a model", o->replace);
    if (err == NM_OK) err = fill(&w, &s, as, o);
    if (err == NM_OK) err = nm_change_appear(&w, final, "a model", o->replace);
    if (err == NM_OK) err = describe(out, w.store, final);
    nm_change_end(&w);
out:
    nm_free(file);
    nm_free(stem);
    nm_free(final);
    sources_free(&s);
    return err;
}

static nm_err not_stored(const char *name)
{
    return nm_fail(NM_NOT_FOUND, "%s: the store has no model of that name: 'nomoat list' shows them", name);
}

nm_err nm_store_check(const char *name)
{
    char *store = NULL, *plain = NULL, *entry = NULL;
    nm_found cached = {0};
    nm_err err = NM_OK;
    if (strchr(name, '/') && nm_hf_find(&cached, name) == NM_OK && cached.path)
        NM_GOTO(nm_fail(NM_REFUSED, "%s: lies in the Hugging Face cache, which nomoat only reads: delete %s there", name, cached.path));
    NM_GOTO(nm_store_plain_name(&plain, name));
    NM_GOTO(nm_store_folder(&store));
    NM_GOTO(resolve(&entry, store, plain));
    if (!entry) err = not_stored(plain);
out:
    nm_found_free(&cached);
    nm_free(entry);
    nm_free(store);
    nm_free(plain);
    return err;
}

nm_err nm_store_remove(const char *name, nm_wait_fn wait)
{
    char *plain, *entry = NULL, *folder;
    nm_change w = nm_no_change;
    NM_TRY(nm_store_plain_name(&plain, name));
    nm_err err = nm_store_folder(&folder);
    if (err == NM_OK) err = nm_change_begin(&w, folder, wait);
    if (err == NM_OK) err = resolve(&entry, w.store, plain);
    if (err == NM_OK) err = entry ? nm_change_remove(&w, entry) : not_stored(plain);
    nm_change_end(&w);
    nm_free(entry);
    nm_free(plain);
    return err;
}

static nm_err verify_file(const nm_found *m, const char *folder, const char *file, const char *then, uint64_t *done,
                          nm_progress_fn progress, void *arg)
{
    char *path, now[65];
    NM_TRY(nm_format(&path, "%s/%s", folder, file));
    nm_err err = nm_hash_file(now, path, done, m->bytes, progress, arg);
    nm_free(path);
    if (err == NM_NOT_FOUND) return nm_fail(NM_BAD_FILE, "%s: its file %s is missing from the store: import it again", m->name, file);
    NM_TRY(err);
    if (!now[0]) return nm_fail(NM_REFUSED, "%s: this build has no SHA-256: build it with OpenSSL", m->name);
    if (!strcmp(now, then)) return NM_OK;
    return nm_fail(NM_BAD_FILE, "%s: %s has changed since it was imported (SHA-256 %.12s..., was %.12s...): import it again", m->name,
                   file, now, then);
}

nm_err nm_store_verify(const nm_found *stored, nm_progress_fn progress, void *arg)
{
    char *folder, *text;
    const char *hex, *file, *slash = strrchr(stored->path, '/');
    uint64_t done = 0;
    int checked = 0;
    NM_TRY(nm_format(&folder, "%.*s", slash ? (int)(slash - stored->path) : 1, slash ? stored->path : "."));
    nm_err err = read_sums(&text, folder);
    for (char *at = text; err == NM_OK && at && next_sum(&at, &hex, &file); checked++)
        err = verify_file(stored, folder, file, hex, &done, progress, arg);
    if (err == NM_OK && !checked) err = nm_fail(NM_REFUSED, "%s: no hash of it is recorded: import it again", stored->name);
    nm_free(text);
    nm_free(folder);
    return err;
}
