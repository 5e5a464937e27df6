/* From what was typed to files. */
#include "data/source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "data/reader.h"
#include "os/file.h"

enum { DEEPEST = 16 };      /* folders within folders: a link that leads back must end */

static bool parse_weight(const char *text, double *weight)
{
    char *end;
    *weight = strtod(text, &end);
    return *text && !*end && strchr("0123456789.", *text) && *weight > 0 && *weight <= 1000;
}

nm_err nm_source_parse(const char *data, char **path, double *weight)
{
    const char *colon = strrchr(data, ':');
    size_t length = strlen(data);
    *path = NULL;
    *weight = 1;
    if (access(data, F_OK) && colon && colon > data) {
        if (parse_weight(colon + 1, weight)) length = (size_t)(colon - data);
        else if (colon[1] && strspn(colon + 1, "-+.0123456789eE") == strlen(colon + 1))
            return nm_fail(NM_USAGE, "%s: the weight is to be above 0 and at most 1000", data);
        else *weight = 1;
    }
    *path = nm_strndup(data, length);
    return *path ? NM_OK : nm_fail_memory(length);
}

static nm_err walk(const char *path, nm_file_fn each, void *arg, int depth);

static nm_err walk_entry(const char *folder, const char *name, nm_file_fn each, void *arg, int depth)
{
    nm_str path = {0};
    struct stat st;
    nm_err err = nm_str_printf(&path, "%s/%s", folder, name);
    if (err == NM_OK && stat(path.data, &st) == 0 && (S_ISDIR(st.st_mode) || nm_reader_knows(name))) err = walk(path.data, each, arg, depth + 1);
    nm_str_free(&path);
    return err;
}

static nm_err walk(const char *path, nm_file_fn each, void *arg, int depth)
{
    struct stat st;
    char **names;
    size_t count;
    if (!strcmp(path, "-")) return each(arg, path);
    if (stat(path, &st) != 0) return nm_fail(NM_NOT_FOUND, "%s: %s: give a file, a folder or -", path, strerror(errno));
    if (!S_ISDIR(st.st_mode)) return each(arg, path);
    if (depth > DEEPEST) return nm_fail(NM_BAD_FILE, "%s: more than %d folders deep: does a link lead back?", path, DEEPEST);
    NM_TRY(nm_folder_names(&names, &count, path, ""));
    nm_err err = NM_OK;
    for (size_t i = 0; i < count && err == NM_OK; i++) err = walk_entry(path, names[i], each, arg, depth);
    nm_names_free(names, count);
    return err;
}

nm_err nm_source_walk(const char *path, nm_file_fn each, void *arg) { return walk(path, each, arg, 0); }
