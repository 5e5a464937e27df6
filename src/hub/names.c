/* Names of files and models: splits, folders' contents, and the way from what a person types to a file. */
#include "hub/hub.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"

nm_err nm_format(char **out, const char *format, ...)
{
    va_list ap, again;
    va_start(ap, format);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, format, ap);
    va_end(ap);
    *out = n < 0 ? NULL : nm_malloc((size_t)n + 1);
    if (*out) vsnprintf(*out, (size_t)n + 1, format, again);
    va_end(again);
    return *out ? NM_OK : nm_fail_memory(n < 0 ? 0 : (size_t)n + 1);
}

void nm_found_free(nm_found *found)
{
    nm_free(found->name);
    nm_free(found->path);
    *found = (nm_found){0};
}

void nm_found_list_free(nm_found *list, size_t count)
{
    for (size_t i = 0; i < count; i++) nm_found_free(&list[i]);
    nm_free(list);
}

/* Five digits to a number, or -1. */
static int five_digits(const char *s)
{
    int v = 0;
    for (int i = 0; i < 5; i++) {
        if (s[i] < '0' || s[i] > '9') return -1;
        v = v * 10 + s[i] - '0';
    }
    return v;
}

bool nm_split_name(const char *file, int *number, int *count, size_t *stem)
{
    enum { TAIL = 20 };     /* "-00001-of-00003.gguf" */
    size_t n = strlen(file);
    if (n <= TAIL) return false;
    const char *tail = file + n - TAIL;
    if (tail[0] != '-' || strncmp(tail + 6, "-of-", 4) || strcmp(tail + 15, ".gguf")) return false;
    *number = five_digits(tail + 1);
    *count = five_digits(tail + 10);
    *stem = n - TAIL;
    return *number > 0 && *count >= *number;
}

nm_err nm_found_list(nm_found **out, size_t *count)
{
    size_t capacity = 0;
    *out = NULL;
    *count = 0;
    nm_err err = nm_store_list(out, count, &capacity);
    if (err == NM_OK) err = nm_hf_list(out, count, &capacity);
    if (err == NM_OK) return NM_OK;
    nm_found_list_free(*out, *count);
    *out = NULL;
    *count = 0;
    return err;
}

/* ---- From what was typed to a file ------------------------------------------------------------------------------------------------ */

static nm_err found_path(nm_found *out, const char *path, const struct stat *st)
{
    out->place = NM_PLACE_PATH;
    out->bytes = S_ISREG(st->st_mode) ? (uint64_t)st->st_size : 0;
    out->files = 1;
    out->name = nm_strndup(path, strlen(path));
    out->path = nm_strndup(path, strlen(path));
    if (out->name && out->path) return NM_OK;
    nm_found_free(out);
    return nm_fail_memory(strlen(path));
}

/* The stored model of that name: spelt so, else the only one that differs in letter case alone. None: out stays empty. */
static nm_err find_stored(nm_found *out, const char *name)
{
    nm_found *list = NULL;
    size_t count = 0, capacity = 0, at = SIZE_MAX;
    int alike = 0;
    nm_err err = nm_store_list(&list, &count, &capacity);
    for (size_t i = 0; err == NM_OK && i < count; i++) {
        bool exact = !strcmp(list[i].name, name);
        if (!exact && strcasecmp(list[i].name, name)) continue;
        at = i;
        alike = exact ? 1 : alike + 1;
        if (exact) break;
    }
    if (err == NM_OK && alike == 1) {
        *out = list[at];
        list[at] = (nm_found){0};
    }
    nm_found_list_free(list, count);
    return err;
}

/* A name of a model file, whatever its case. */
static bool is_gguf(const char *name)
{
    size_t n = strlen(name);
    return n >= 5 && !strcasecmp(name + n - 5, ".gguf");
}

static bool looks_like_path(const char *model)
{
    return model[0] == '/' || model[0] == '.' || model[0] == '~' || is_gguf(model);
}

nm_err nm_model_find(nm_found *out, const char *model)
{
    struct stat st;
    size_t length = strlen(model);
    *out = (nm_found){0};
    if (!length) return nm_fail(NM_USAGE, "the model's name is empty: give a file or a name that 'nomoat list' shows");
    if (!stat(model, &st)) return found_path(out, model, &st);
    if (errno == EACCES) return nm_fail(NM_FAILED, "%s: it cannot be reached: %s", model, strerror(errno));
    if (length > 7 && !strcmp(model + length - 7, ":latest")) length -= 7;
    char *name = nm_strndup(model, length);
    if (!name) return nm_fail_memory(length);
    nm_err err = find_stored(out, name);
    if (err == NM_OK && !out->path) err = nm_hf_find(out, name);
    nm_free(name);
    if (err != NM_OK || out->path) return err;
    if (looks_like_path(model)) return nm_fail(NM_NOT_FOUND, "%s: no such file: check the path, or see 'nomoat list' for names", model);
    return nm_fail(NM_NOT_FOUND, "%s: no file and no model of that name: 'nomoat list' shows the names, 'nomoat import FILE' adds one",
                   model);
}
