/* Files that clients brought to be taught from: kept under names of ours, ID.jsonl, with what the client calls them in ID.about beside. A file without the latter never came to
 * be whole, and goes. */
#include "server/teach.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "os/file.h"

enum { ABOUT_MOST = 4096 };
static const char about[] = ".about";
static const char *const suffixes[] = {".jsonl", ".json", ".csv", ".txt", ".jsonl.gz", ".json.gz", ".csv.gz", ".txt.gz"};
enum { SUFFIXES = sizeof suffixes / sizeof *suffixes };

void nm_teach_id(char out[NM_TEACH_ID])
{
    uint8_t chance[NM_TEACH_ID / 2];
    struct timespec now;
    if (getrandom(chance, sizeof chance, 0) != sizeof chance) {     /* before the machine has any: unlike those of other moments is enough */
        clock_gettime(CLOCK_REALTIME, &now);
        for (size_t i = 0; i < sizeof chance; i++) chance[i] = (uint8_t)((unsigned long)now.tv_nsec >> i % 8);
    }
    for (size_t i = 0; i < sizeof chance; i++) snprintf(out + 2 * i, 3, "%02x", chance[i]);
}

static const char *suffix_of(const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < SUFFIXES; i++) {
        size_t m = strlen(suffixes[i]);
        if (n > m && !strcasecmp(name + n - m, suffixes[i])) return suffixes[i];
    }
    return NULL;
}

static nm_err check_name(const char *name)
{
    size_t n = name ? strlen(name) : 0;
    int used;
    bool good = n > 0 && n <= NM_TEACH_NAME_LONGEST;
    for (size_t i = 0; good && i < n; i += (size_t)used) {
        int32_t c = nm_utf8_decode(name + i, n - i, &used);
        good = c >= ' ' && c != 0x7f && c != '/' && c != '\\';
    }
    if (!good) return nm_fail(NM_USAGE, "\"name\" must be a file's name of up to %d bytes, without a folder: ?name=talks.jsonl", NM_TEACH_NAME_LONGEST);
    return suffix_of(name) ? NM_OK : nm_fail(NM_USAGE, "\"name\": files to teach from end in .jsonl, .json, .csv or .txt, or in one of these and .gz");
}

static nm_err path_of(const nm_teach_files *f, const char *id, const char *suffix, char **path)
{
    nm_str s = {0};
    nm_err err = nm_str_printf(&s, "%s/files/%s%s", f->folder, id, suffix);
    if (err == NM_OK) *path = nm_str_take(&s, NULL);
    nm_str_free(&s);
    return err;
}

/* ---- The list: under the lock ---------------------------------------------------------------------------------------------------- */

static nm_teach_file *find(nm_teach_files *f, const char *id)
{
    for (size_t i = 0; i < f->count; i++)
        if (!strcmp(f->list[i].id, id)) return &f->list[i];
    return NULL;
}

static nm_err push(nm_teach_files *f, const char *id, const char *name, uint64_t bytes, int64_t created)
{
    NM_TRY(NM_GROW(f->list, f->capacity, f->count + 1));
    nm_teach_file *one = &f->list[f->count];
    *one = (nm_teach_file){.name = nm_strndup(name, strlen(name)), .suffix = suffix_of(name), .bytes = bytes, .created = created};
    if (!one->name) return nm_fail_memory(strlen(name));
    snprintf(one->id, sizeof one->id, "%s", id);
    f->count++;
    return NM_OK;
}

static json_t *told(const nm_teach_file *f)
{
    return json_pack("{s:s, s:s, s:I, s:I}", "file", f->id, "name", f->name, "bytes", (json_int_t)f->bytes, "created", (json_int_t)f->created);
}

json_t *nm_teach_files_list(nm_teach_files *f)
{
    json_t *list = json_array();
    pthread_mutex_lock(&f->lock);
    for (size_t i = 0; list && i < f->count; i++) json_array_append_new(list, told(&f->list[i]));
    pthread_mutex_unlock(&f->lock);
    return list ? json_pack("{s:o}", "files", list) : NULL;
}

nm_err nm_teach_files_path(nm_teach_files *f, const char *id, char **path)
{
    pthread_mutex_lock(&f->lock);
    const nm_teach_file *one = find(f, id);
    nm_err err = one ? path_of(f, one->id, one->suffix, path) : nm_fail(NM_NOT_FOUND, "there is no file \"%.64s\" here: GET /nm/teach/files lists those that there are", id);
    pthread_mutex_unlock(&f->lock);
    return err;
}

/* ---- Coming and going -------------------------------------------------------------------------------------------------------------- */

static nm_err write_about(const char *path, const char *name, int64_t created)
{
    json_t *json = json_pack("{s:s, s:I}", "name", name, "created", (json_int_t)created);
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    nm_err err = text ? nm_file_write(path, text, strlen(text)) : nm_fail_memory(0);
    free(text);
    json_decref(json);
    return err;
}

static nm_err write_both(const nm_teach_files *f, const char *id, const char *name, int64_t created, const char *data, size_t length)
{
    char *path = NULL, *beside = NULL;
    nm_err err = path_of(f, id, suffix_of(name), &path);
    if (err == NM_OK) err = path_of(f, id, about, &beside);
    if (err == NM_OK) err = nm_file_write(path, data, length);
    if (err == NM_OK) {
        err = write_about(beside, name, created);
        if (err != NM_OK) unlink(path);
    }
    nm_free(path);
    nm_free(beside);
    return err;
}

static void unlink_both(const nm_teach_files *f, const char *id, const char *suffix)
{
    const char *const parts[] = {about, suffix};
    char *path;
    for (size_t i = 0; i < 2; i++) {
        if (path_of(f, id, parts[i], &path) != NM_OK) continue;
        unlink(path);
        nm_free(path);
    }
}

nm_err nm_teach_files_add(nm_teach_files *f, const char *name, const char *data, size_t length, json_t **out)
{
    char id[NM_TEACH_ID];
    int64_t now = (int64_t)time(NULL);
    NM_TRY(check_name(name));
    if (!length) return nm_fail(NM_USAGE, "the body is the file, and it is empty");
    pthread_mutex_lock(&f->lock);
    bool full = f->count >= NM_TEACH_FILES_MOST;
    uint64_t bytes = length;
    for (size_t i = 0; i < f->count; i++) bytes += f->list[i].bytes;
    pthread_mutex_unlock(&f->lock);
    if (bytes > NM_TEACH_FILES_BYTES) return nm_fail(NM_USAGE, "the files would be more than %d GB together: delete some", (int)(NM_TEACH_FILES_BYTES >> 30));
    if (full) return nm_fail(NM_USAGE, "there are %d files already: delete some", NM_TEACH_FILES_MOST);
    nm_teach_id(id);
    NM_TRY(write_both(f, id, name, now, data, length));
    pthread_mutex_lock(&f->lock);
    nm_err err = push(f, id, name, length, now);
    *out = err == NM_OK ? told(&f->list[f->count - 1]) : NULL;
    pthread_mutex_unlock(&f->lock);
    if (err != NM_OK) unlink_both(f, id, suffix_of(name));
    return err;
}

nm_err nm_teach_files_take(nm_teach_files *f, const char *id, nm_teach_file *out)
{
    pthread_mutex_lock(&f->lock);
    nm_teach_file *one = find(f, id);
    if (one) {
        *out = *one;
        memmove(one, one + 1, (size_t)(&f->list[--f->count] - one) * sizeof *one);
    }
    pthread_mutex_unlock(&f->lock);
    return one ? NM_OK : nm_fail(NM_NOT_FOUND, "there is no file \"%.64s\" here", id);
}

void nm_teach_files_delete(const nm_teach_files *f, nm_teach_file *taken)
{
    unlink_both(f, taken->id, taken->suffix);
    nm_free(taken->name);
    *taken = (nm_teach_file){0};
}

/* ---- What lies there ------------------------------------------------------------------------------------------------------------------ */

static bool is_id(const char *text, size_t n) { return n == NM_TEACH_ID - 1 && strspn(text, "0123456789abcdef") >= n; }

/* What cannot be read is left out: it is no reason not to serve. */
static void recall(nm_teach_files *f, const char *entry)
{
    size_t n = strlen(entry) - strlen(about), size = 0;
    char id[NM_TEACH_ID], *path = NULL, *text = NULL;
    json_t *json = NULL;
    if (!is_id(entry, n)) return;
    snprintf(id, sizeof id, "%.*s", (int)n, entry);
    if (path_of(f, id, about, &path) == NM_OK && nm_file_read(path, ABOUT_MOST, &text, &size) == NM_OK) json = json_loadb(text, size, 0, NULL);
    const char *name = json_string_value(json_object_get(json, "name"));
    nm_free(path);
    path = NULL;
    if (name && check_name(name) == NM_OK && path_of(f, id, suffix_of(name), &path) == NM_OK) {
        FILE *data = fopen(path, "re");
        if (data && !fseek(data, 0, SEEK_END)) push(f, id, name, (uint64_t)ftell(data), (int64_t)json_integer_value(json_object_get(json, "created")));
        if (data) fclose(data);
    }
    json_decref(json);
    nm_free(text);
    nm_free(path);
}

static bool came_whole(char **names, size_t count, const char *id)
{
    char beside[NM_TEACH_ID + sizeof about];
    snprintf(beside, sizeof beside, "%s%s", id, about);
    for (size_t i = 0; i < count; i++)
        if (!strcmp(names[i], beside)) return true;
    return false;
}

/* What was left out for want of memory or of a file's number is whole all the same, and stays. */
static void sweep(const char *folder, char **names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char id[NM_TEACH_ID];
        nm_str path = {0};
        snprintf(id, sizeof id, "%.32s", names[i]);
        bool half = is_id(names[i], strcspn(names[i], ".")) && !came_whole(names, count, id);
        if (half && nm_str_printf(&path, "%s/%s", folder, names[i]) == NM_OK) unlink(path.data);
        nm_str_free(&path);
    }
}

nm_err nm_teach_files_open(nm_teach_files *f, const char *folder)
{
    nm_str files = {0};
    char **names = NULL;
    size_t count = 0;
    *f = (nm_teach_files){.folder = nm_strndup(folder, strlen(folder))};
    pthread_mutex_init(&f->lock, NULL);
    if (!f->folder) return nm_fail_memory(strlen(folder));
    nm_err err = nm_str_printf(&files, "%s/files", folder);
    if (err == NM_OK) err = nm_folder_make(files.data, 0700);
    if (err == NM_OK) err = nm_folder_names(&names, &count, files.data, about);
    for (size_t i = 0; i < count; i++) recall(f, names[i]);
    nm_names_free(names, count);
    names = NULL, count = 0;
    if (err == NM_OK) err = nm_folder_names(&names, &count, files.data, "");
    if (err == NM_OK) sweep(files.data, names, count);
    nm_names_free(names, count);
    nm_str_free(&files);
    return err;
}

void nm_teach_files_close(nm_teach_files *f)
{
    if (!f->folder) return;
    for (size_t i = 0; i < f->count; i++) nm_free(f->list[i].name);
    nm_free(f->list);
    nm_free(f->folder);
    pthread_mutex_destroy(&f->lock);
    *f = (nm_teach_files){0};
}

/* ---- What people are told ------------------------------------------------------------------------------------------------------------- */

/* "FOLDER/files/ID.jsonl" becomes its name, "FOLDER/run/liked.jsonl" the last part. Returns what was read of it. */
static size_t tell_path(nm_teach_files *f, const char *at, nm_str *s, nm_err *err)
{
    size_t n = strcspn(at, "/"), dot = at[n] ? strcspn(at + n + 1, ".") : 0;
    char id[NM_TEACH_ID];
    const nm_teach_file *one = NULL;
    if (!at[n]) return 0;
    snprintf(id, sizeof id, "%.32s", at + n + 1);
    if (!strncmp(at, "files/", 6) && is_id(at + n + 1, dot)) one = find(f, id);
    if (!one) return n + 1;
    *err = nm_str_puts(s, one->name);
    return n + 1 + dot + strlen(one->suffix);
}

static nm_err tell_names(nm_teach_files *f, const char *line, nm_str *s)
{
    size_t n = strlen(f->folder);
    nm_err err = nm_str_puts(s, "");
    pthread_mutex_lock(&f->lock);
    while (err == NM_OK && *line) {
        if (!strncmp(line, f->folder, n) && line[n] == '/') {
            line += n + 1;
            line += tell_path(f, line, s, &err);
        } else err = nm_str_putc(s, *line++);
    }
    pthread_mutex_unlock(&f->lock);
    return err;
}

nm_err nm_teach_files_told(nm_teach_files *f, const char *line, char **out)
{
    nm_str named = {0}, spelled = {0};
    nm_err err = tell_names(f, line, &named);
    if (err == NM_OK) err = nm_tune_spell(&spelled, named.data, nm_lesson_name);
    if (err == NM_OK && !(*out = nm_told(spelled.data))) err = nm_fail_memory(spelled.length);
    nm_str_free(&named);
    nm_str_free(&spelled);
    return err;
}
