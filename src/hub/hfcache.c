/* The Hugging Face cache, read-only: models--ORG--NAME/snapshots/COMMIT/FILE.gguf below HF_HUB_CACHE, else HF_HOME/hub, else
 * XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub. Of several snapshots the one that refs/main names counts, else the
 * newest. */
#include "hub/hub.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "os/file.h"

enum { DEPTH_MAX = 3, COMMIT_MAX = 200 };

/* name = path below the snapshot; broken: the path of a link whose blob is gone, or NULL */
typedef struct file_list { nm_found *items; size_t count, capacity; char *broken; } file_list;

static void file_list_free(file_list *list)
{
    nm_found_list_free(list->items, list->count);
    nm_free(list->broken);
    *list = (file_list){0};
}

static const char *variable(const char *name)
{
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

static nm_err cache_root(char **root)
{
    const char *v;
    if ((v = variable("HF_HUB_CACHE"))) return nm_format(root, "%s", v);
    if ((v = variable("HF_HOME"))) return nm_format(root, "%s/hub", v);
    if ((v = variable("XDG_CACHE_HOME"))) return nm_format(root, "%s/huggingface/hub", v);
    v = variable("HOME");
    return nm_format(root, "%s/.cache/huggingface/hub", v ? v : "");
}

/* The snapshot folder of a repository's folder; NM_NOT_FOUND without a message if it has none. */
static nm_err find_snapshot(char **snapshot, const char *repository)
{
    char *path = NULL, *commit = NULL, **names = NULL;
    size_t size = 0, count = 0;
    struct stat st;
    nm_err err = NM_OK;
    *snapshot = NULL;
    NM_GOTO(nm_format(&path, "%s/refs/main", repository));
    if (nm_file_read(path, COMMIT_MAX, &commit, &size) == NM_OK) {
        commit[strcspn(commit, "\r\n \t")] = 0;
        if (*commit && !strchr(commit, '/')) NM_GOTO(nm_format(snapshot, "%s/snapshots/%s", repository, commit));
        if (*snapshot && !stat(*snapshot, &st) && S_ISDIR(st.st_mode)) goto out;
    }
    nm_free(*snapshot);
    nm_free(path);
    *snapshot = path = NULL;
    NM_GOTO(nm_format(&path, "%s/snapshots", repository));
    NM_GOTO(nm_folder_names(&names, &count, path, ""));
    time_t newest = 0;
    for (size_t i = 0; i < count; i++) {
        char *one;
        NM_GOTO(nm_format(&one, "%s/%s", path, names[i]));
        bool newer = !stat(one, &st) && S_ISDIR(st.st_mode) && (!*snapshot || st.st_mtime > newest);
        if (newer) newest = st.st_mtime;
        nm_free(newer ? *snapshot : one);
        if (newer) *snapshot = one;
    }
    if (!*snapshot) err = NM_NOT_FOUND;
out:
    nm_free(path);
    nm_free(commit);
    nm_names_free(names, count);
    if (err != NM_OK) {
        nm_free(*snapshot);
        *snapshot = NULL;
    }
    return err;
}

/* Adds a file, or counts a further part of a split to its first. Vision projectors (mmproj) are no models of their own. */
static nm_err add_file(file_list *list, const char *snapshot, const char *inside, uint64_t bytes)
{
    int number = 1, parts = 1;
    size_t stem;
    const char *base = strrchr(inside, '/');
    base = base ? base + 1 : inside;
    if (!strncasecmp(base, "mmproj", 6)) return NM_OK;
    bool split = nm_split_name(inside, &number, &parts, &stem);
    if (split && number > 1) {
        if (list->count) list->items[list->count - 1].bytes += bytes;
        return NM_OK;
    }
    NM_TRY(NM_GROW(list->items, list->capacity, list->count + 1));
    nm_found *f = &list->items[list->count];
    *f = (nm_found){.place = NM_PLACE_HF_CACHE, .bytes = bytes, .files = parts};
    nm_err err = nm_format(&f->name, "%s", inside);
    if (err == NM_OK) err = nm_format(&f->path, "%s/%s", snapshot, inside);
    if (err != NM_OK) nm_found_free(f);
    else list->count++;
    return err;
}

/* The GGUF files below snapshot/inside, in order of their names ("" is the snapshot itself). */
static nm_err collect(file_list *list, const char *snapshot, const char *inside, int depth)
{
    char *folder = NULL, **names = NULL;
    size_t count = 0;
    nm_err err = NM_OK;
    NM_GOTO(nm_format(&folder, "%s%s%s", snapshot, *inside ? "/" : "", inside));
    NM_GOTO(nm_folder_names(&names, &count, folder, ""));
    for (size_t i = 0; i < count; i++) {
        char *path, *deeper;
        struct stat st;
        size_t n = strlen(names[i]);
        NM_GOTO(nm_format(&path, "%s/%s", folder, names[i]));
        bool bad = stat(path, &st), broken = bad && !lstat(path, &st) && S_ISLNK(st.st_mode) && !list->broken;
        if (broken && n > 5 && !strcasecmp(names[i] + n - 5, ".gguf")) list->broken = path;
        else nm_free(path);
        if (bad) continue;
        NM_GOTO(nm_format(&deeper, "%s%s%s", inside, *inside ? "/" : "", names[i]));
        if (S_ISDIR(st.st_mode) && depth < DEPTH_MAX) err = collect(list, snapshot, deeper, depth + 1);
        else if (S_ISREG(st.st_mode) && n > 5 && !strcasecmp(names[i] + n - 5, ".gguf"))
            err = add_file(list, snapshot, deeper, (uint64_t)st.st_size);
        nm_free(deeper);
        if (err != NM_OK) goto out;
    }
out:
    nm_free(folder);
    nm_names_free(names, count);
    return err;
}

/* The files of a repository's folder; none is no error. */
static nm_err repository_files(file_list *list, const char *root, const char *folder)
{
    char *repository, *snapshot;
    *list = (file_list){0};
    NM_TRY(nm_format(&repository, "%s/%s", root, folder));
    nm_err err = find_snapshot(&snapshot, repository);
    if (err == NM_OK) err = collect(list, snapshot, "", 0);
    nm_free(repository);
    nm_free(snapshot);
    if (err == NM_OK || err == NM_NOT_FOUND) return NM_OK;
    file_list_free(list);
    return err;
}

/* "models--org--name" to "org/name"; names have no "--" of their own. */
static nm_err repository_name(char **name, const char *folder)
{
    const char *from = folder + strlen("models--"), *cut = strstr(from, "--");
    if (!cut) return nm_format(name, "%s", from);
    return nm_format(name, "%.*s/%s", (int)(cut - from), from, cut + 2);
}

/* Names a repository's files as they are typed, and moves them to the end of *list. */
static nm_err move_files(nm_found **list, size_t *count, size_t *capacity, file_list *files, const char *folder)
{
    char *name;
    NM_TRY(repository_name(&name, folder));
    nm_err err = NM_OK;
    for (size_t i = 0; err == NM_OK && i < files->count; i++) {
        nm_found *f = &files->items[i];
        char *full;
        err = files->count == 1 ? nm_format(&full, "%s", name) : nm_format(&full, "%s:%s", name, f->name);
        if (err != NM_OK) break;
        nm_free(f->name);
        f->name = full;
        err = NM_GROW(*list, *capacity, *count + 1);
        if (err != NM_OK) break;
        (*list)[(*count)++] = *f;
        *f = (nm_found){0};
    }
    nm_free(name);
    return err;
}

nm_err nm_hf_list(nm_found **list, size_t *count, size_t *capacity, nm_skipped_fn skipped)
{
    char *root, **folders = NULL;
    size_t n = 0;
    NM_TRY(cache_root(&root));
    nm_err err = nm_folder_names(&folders, &n, root, "");
    for (size_t i = 0; err == NM_OK && i < n; i++) {
        file_list files;
        if (strncmp(folders[i], "models--", 8)) continue;
        err = nm_skip(repository_files(&files, root, folders[i]), skipped);
        if (err == NM_OK) err = move_files(list, count, capacity, &files, folders[i]);
        file_list_free(&files);
    }
    nm_names_free(folders, n);
    nm_free(root);
    return err;
}

/* ---- Looking up one ----------------------------------------------------------------------------------------------------------------- */

/* Cuts "org/name:TAG" or "org/name/FILE" into the repository's folder name and what is asked of it ("" = anything). */
static nm_err cut_model(char **folder, const char **wanted, const char *model)
{
    size_t length = strcspn(model, ":");
    const char *slash = strchr(model, '/');
    const char *second = slash && slash < model + length ? strchr(slash + 1, '/') : NULL;
    if (second && second < model + length) length = (size_t)(second - model);
    *wanted = model[length] ? model + length + 1 : "";
    if (!slash || slash > model + length) return nm_format(folder, "models--%.*s", (int)length, model);
    return nm_format(folder, "models--%.*s--%.*s", (int)(slash - model), model, (int)(model + length - slash - 1), slash + 1);
}

static bool contains_nocase(const char *text, const char *part)
{
    size_t n = strlen(part);
    for (; *text; text++)
        if (!strncasecmp(text, part, n)) return true;
    return n == 0;
}

/* The file that `wanted` means: its name or the end of its path, else the only one that has it in its name. SIZE_MAX: none or several. */
static size_t pick(const file_list *files, const char *wanted, int *fitting)
{
    size_t at = SIZE_MAX;
    *fitting = 0;
    for (size_t i = 0; i < files->count; i++) {
        const char *name = files->items[i].name, *base = strrchr(name, '/');
        if (*wanted && (!strcmp(name, wanted) || (base && !strcmp(base + 1, wanted)))) return i;
        if (!contains_nocase(name, wanted)) continue;
        at = i;
        ++*fitting;
    }
    return *fitting == 1 ? at : SIZE_MAX;
}

static nm_err several(const file_list *files, const char *model, int fitting)
{
    nm_str text = {0};
    nm_err err = NM_OK;
    for (size_t i = 0; err == NM_OK && i < files->count && i < 12; i++)
        err = nm_str_printf(&text, "%s%s", i ? ", " : "", files->items[i].name);
    if (err == NM_OK && fitting) err = nm_fail(NM_USAGE, "%s: %d files fit: say which, as in NAME:FILE, of %s", model, fitting, text.data);
    else if (err == NM_OK) err = nm_fail(NM_NOT_FOUND, "%s: the cache has no such file of it, but %s", model, text.data);
    nm_str_free(&text);
    return err;
}

nm_err nm_hf_find(nm_found *out, const char *model)
{
    char *root = NULL, *folder = NULL;
    const char *wanted;
    file_list files = {0};
    int fitting;
    nm_err err = NM_OK;
    *out = (nm_found){0};
    NM_GOTO(cache_root(&root));
    NM_GOTO(cut_model(&folder, &wanted, model));
    if (strchr(folder, '/')) goto out;
    NM_GOTO(repository_files(&files, root, folder));
    if (!files.count && files.broken)
        NM_GOTO(nm_fail(NM_NOT_FOUND, "%s: %s is a broken link: what it points to is gone; download it again", model, files.broken));
    if (!files.count) goto out;
    size_t at = pick(&files, wanted, &fitting);
    if (at == SIZE_MAX && !*wanted) at = pick(&files, "Q4_K_M", &(int){0});   /* what llama.cpp takes where nothing is said */
    if (at == SIZE_MAX) NM_GOTO(several(&files, model, fitting));
    *out = files.items[at];
    files.items[at] = (nm_found){0};
    nm_free(out->name);
    err = nm_format(&out->name, "%s", model);
    if (err != NM_OK) nm_found_free(out);
out:
    nm_free(root);
    nm_free(folder);
    file_list_free(&files);
    return err;
}
