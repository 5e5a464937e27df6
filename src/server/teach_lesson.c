/* Lessons as clients write them. Every member is known here or refused by its name, and none of them is a path: what tune's options name files by is not among the settings. */
#include "server/teach.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "os/file.h"
#include "server/fields.h"

enum { SOURCES_MOST = 64, SETTING_LONGEST = 4096 };

/* Those of tune's settings that a client may choose, as tune calls them. */
static const char *const settings[] = {
    "map", "format", "train-on", "max-length", "skip-bad", "rank", "alpha", "rslora", "dora", "targets", "init-lora", "dropout", "optimizer", "lr", "loraplus",
    "schedule", "warmup", "weight-decay", "clip", "epochs", "max-steps", "batch", "seed", "anchor", "no-anchor", "ease", "meter", "max-forget", "save-every", "patience",
    "memory",
};
enum { SETTINGS = sizeof settings / sizeof *settings };
static const char *const conversations[] = {"corrections", "liked", "chats"};
enum { CONVERSATIONS = sizeof conversations / sizeof *conversations };

/* "max_length" is "max-length". */
static bool same_name(const char *option, const char *member)
{
    while (*option && *member && (*option == *member || (*option == '-' && *member == '_'))) option++, member++;
    return !*option && !*member;
}

static const char *kind_of(const char *chats)
{
    for (size_t i = 0; i < CONVERSATIONS; i++)
        if (!strcmp(conversations[i], chats)) return conversations[i];
    return NULL;
}

/* ---- Settings ------------------------------------------------------------------------------------------------------------------------------ */

static nm_err keep_text(nm_lesson *l, const char *text, const char **kept)
{
    NM_TRY(NM_GROW(l->text, l->capacity, l->texts + 1));
    char *copy = nm_strndup(text, strlen(text));
    if (!copy) return nm_fail_memory(strlen(text));
    l->text[l->texts++] = copy;
    *kept = copy;
    return NM_OK;
}

nm_err nm_lesson_set(nm_lesson *l, const char *option, const char *value)
{
    const char *kept = NULL;
    NM_TRY(keep_text(l, value, &kept));
    return nm_option_set(nm_tune_options, option, kept, &l->set);
}

/* The share of the rows that is kept: in tune's words also a file, and here a number alone. */
static nm_err set_validation(nm_lesson *l, const json_t *value)
{
    char text[32];
    double share = json_number_value(value);
    if (!json_is_number(value) || !(share >= 0 && share < 1)) return nm_fail(NM_USAGE, "settings.val must be the share of the rows kept for validation, 0 to 1: 0.05");
    snprintf(text, sizeof text, "%.9g", share);
    return nm_lesson_set(l, "val", text);
}

/* A time that the run is to fit: tune's "fit". */
static nm_err set_minutes(nm_lesson *l, const json_t *value)
{
    char text[48];
    double minutes = json_number_value(value);
    if (!json_is_number(value) || !(minutes >= 0.01 && minutes <= 1e6)) return nm_fail(NM_USAGE, "settings.minutes must be a number of minutes, 0.01 to 1000000");
    snprintf(text, sizeof text, "%.9g min", minutes);
    return nm_lesson_set(l, "fit", text);
}

static nm_err set_one(nm_lesson *l, const char *option, const char *name, const json_t *value)
{
    char number[40] = "";
    const char *text = number;
    if (json_is_integer(value)) snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value)) snprintf(number, sizeof number, "%.17g", json_real_value(value));
    else if (json_is_true(value)) text = "true";
    else if (json_is_string(value) && json_string_length(value) <= SETTING_LONGEST) text = json_string_value(value);
    else return nm_fail(NM_USAGE, "settings.%s must be a number, a string or true", name);
    if (nm_lesson_set(l, option, text) == NM_OK) return NM_OK;
    char why[512];
    snprintf(why, sizeof why, "%s", nm_error_text());
    return nm_fail(NM_USAGE, "settings.%s: %s", name, why);
}

static nm_err read_settings(nm_lesson *l, const json_t *object)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)object, name, value) {
        size_t i = 0;
        if (json_is_null(value) || json_is_false(value)) continue;
        if (!strcmp(name, "minutes")) { NM_TRY(set_minutes(l, value)); continue; }
        if (!strcmp(name, "val")) { NM_TRY(set_validation(l, value)); continue; }
        while (i < SETTINGS && !same_name(settings[i], name)) i++;
        if (i == SETTINGS) return nm_fail(NM_USAGE, "settings.%.64s: there is no such setting here", name);
        NM_TRY(set_one(l, settings[i], name, value));
    }
    return NM_OK;
}

nm_err nm_lesson_name(nm_str *s, const char *option)
{
    if (!strcmp(option, "fit")) return nm_str_puts(s, "minutes");
    for (; *option; option++) NM_TRY(nm_str_putc(s, *option == '-' ? '_' : *option));
    return NM_OK;
}

static json_t *setting(const char *name, const char *value)
{
    char *end;
    double number = strtod(value, &end);
    if (!strcmp(value, "true")) return json_pack("{s:b}", name, 1);
    if (!*value || *end) return json_pack("{s:s}", name, value);
    return number == floor(number) && fabs(number) < 1e15 ? json_pack("{s:I}", name, (json_int_t)number) : json_pack("{s:f}", name, number);
}

json_t *nm_lesson_setting(const char *option, const char *value)
{
    nm_str name = {0};
    json_t *json = nm_lesson_name(&name, option) == NM_OK ? setting(name.data, value) : NULL;
    nm_str_free(&name);
    return json;
}

/* ---- Members --------------------------------------------------------------------------------------------------------------------------------- */

static nm_err only(const json_t *object, const char *const *known, const char *what)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)object, name, value) {
        size_t i = 0;
        while (known[i] && strcmp(known[i], name)) i++;
        if (!known[i]) return nm_fail(NM_USAGE, "\"%.64s\": %s has no such member", name, what);
    }
    return NM_OK;
}

static nm_err check_source(const json_t *source, size_t at)
{
    static const char *const known[] = {"file", "chats", "weight", NULL};
    const char *file = NULL, *chats = NULL;
    char what[32];
    double weight = 1;
    snprintf(what, sizeof what, "sources[%zu]", at);
    if (!json_is_object(source)) return nm_fail(NM_USAGE, "%s must be {\"file\": ID} or {\"chats\": \"corrections\"}", what);
    NM_TRY(only(source, known, what));
    NM_TRY(nm_field_text(source, "file", &file));
    NM_TRY(nm_field_text(source, "chats", &chats));
    NM_TRY(nm_field_real(source, "weight", 1e-6, 1e6, &weight));
    if (!file == !chats) return nm_fail(NM_USAGE, "%s must have either a \"file\" or \"chats\"", what);
    if (chats && !kind_of(chats)) return nm_fail(NM_USAGE, "%s: \"chats\" is \"corrections\", \"liked\" or \"chats\"", what);
    return NM_OK;
}

static nm_err check_sources(const json_t *sources)
{
    size_t n = json_array_size(sources);
    if (!n || n > SOURCES_MOST) return nm_fail(NM_USAGE, "\"sources\" must be an array of 1 to %d files or kinds of conversations", SOURCES_MOST);
    for (size_t i = 0; i < n; i++) NM_TRY(check_source(json_array_get(sources, i), i));
    return NM_OK;
}

static nm_err hold(nm_lesson *l, const json_t *body)
{
    static const char *const known[] = {"model", "sources", "settings"};
    l->json = json_object();
    for (size_t i = 0; i < 3 && l->json; i++) {
        json_t *value = json_object_get(body, known[i]);
        if (value && !json_is_null(value) && json_object_set(l->json, known[i], value)) return nm_fail_memory(0);
    }
    return l->json ? NM_OK : nm_fail_memory(0);
}

nm_err nm_lesson_read(nm_lesson *l, const json_t *body, nm_teach_files *files)
{
    static const char *const known[] = {"model", "sources", "settings", "name", NULL};
    json_t *sources = NULL, *chosen = NULL;
    *l = (nm_lesson){.set = nm_tune_defaults};
    NM_TRY(only(body, known, "a lesson"));
    NM_TRY(hold(l, body));
    NM_TRY(nm_field_text(l->json, "model", &l->model));
    if (!l->model || !*l->model) return nm_fail(NM_USAGE, "\"model\" must be given: what is taught, as MODEL or MODEL+ADAPTER");
    NM_TRY(nm_field_array(l->json, "sources", &sources));
    NM_TRY(check_sources(sources));
    NM_TRY(nm_lesson_has_files(l->json, files));
    NM_TRY(nm_field_object(l->json, "settings", &chosen));
    return chosen ? read_settings(l, chosen) : NM_OK;
}

void nm_lesson_free(nm_lesson *l)
{
    for (size_t i = 0; i < l->texts; i++) nm_free(l->text[i]);
    nm_free(l->text);
    json_decref(l->json);
    *l = (nm_lesson){0};
}

bool nm_lesson_uses(const json_t *lesson, const char *file)
{
    size_t i;
    json_t *source;
    json_array_foreach(json_object_get(lesson, "sources"), i, source) {
        const char *id = json_string_value(json_object_get(source, "file"));
        if (id && !strcmp(id, file)) return true;
    }
    return false;
}

nm_err nm_lesson_has_files(const json_t *lesson, nm_teach_files *files)
{
    size_t i;
    json_t *source;
    json_array_foreach(json_object_get(lesson, "sources"), i, source) {
        const char *id = json_string_value(json_object_get(source, "file"));
        char *path = NULL;
        if (id) NM_TRY(nm_teach_files_path(files, id, &path));
        nm_free(path);
    }
    return NM_OK;
}

/* ---- Rows -------------------------------------------------------------------------------------------------------------------------------------- */

static nm_err rows_path(const nm_teach_files *files, const char *where, const char *what, bool file, nm_str *s)
{
    return nm_str_printf(s, "%s/%s%s%s%s", files->folder, where, file ? "/" : "", file ? what : "", file ? ".jsonl" : "");
}

static nm_err write_rows(nm_desk *desk, const char *what, const char *path)
{
    nm_str rows = {0};
    nm_err err = nm_desk_export(desk, what, &rows);
    if (err == NM_OK && !rows.length) err = nm_fail(NM_USAGE, "there are no %s yet: answers with a thumb up are liked, edited ones are corrections", what);
    if (err == NM_OK) err = nm_file_write(path, rows.data, rows.length);
    nm_str_free(&rows);
    return err;
}

static nm_err gather_chats(const nm_teach_files *files, nm_desk *desk, const char *where, const char *what, bool again, char **path)
{
    nm_str folder = {0}, file = {0};
    nm_err err = rows_path(files, where, what, false, &folder);
    if (err == NM_OK) err = rows_path(files, where, what, true, &file);
    if (err == NM_OK) err = nm_folder_make(folder.data, 0700);
    if (err == NM_OK && !(again && !access(file.data, R_OK))) err = write_rows(desk, what, file.data);
    if (err == NM_OK) *path = nm_str_take(&file, NULL);
    nm_str_free(&folder);
    nm_str_free(&file);
    return err;
}

static nm_err add_weight(char **path, const json_t *source)
{
    const json_t *weight = json_object_get(source, "weight");
    nm_str s = {0};
    if (!json_is_number(weight)) return NM_OK;
    nm_err err = nm_str_printf(&s, "%s:%.9g", *path, json_number_value(weight));
    if (err == NM_OK) {
        nm_free(*path);
        *path = nm_str_take(&s, NULL);
    }
    nm_str_free(&s);
    return err;
}

nm_err nm_lesson_gather(nm_lesson_sources *out, const nm_lesson *l, nm_teach_files *files, nm_desk *desk, const char *where, bool again)
{
    const json_t *sources = json_object_get(l->json, "sources");
    size_t n = json_array_size(sources);
    *out = (nm_lesson_sources){.path = nm_calloc(n, sizeof *out->path)};
    if (!out->path) return nm_fail_memory(n * sizeof *out->path);
    for (; out->count < n; out->count++) {
        const json_t *source = json_array_get(sources, out->count);
        const char *file = json_string_value(json_object_get(source, "file")), *chats = json_string_value(json_object_get(source, "chats"));
        char **path = &out->path[out->count];
        NM_TRY(file ? nm_teach_files_path(files, file, path) : gather_chats(files, desk, where, kind_of(chats), again, path));
        nm_err err = add_weight(path, source);
        if (err == NM_OK) continue;
        out->count++;
        return err;
    }
    return NM_OK;
}

void nm_lesson_sources_free(nm_lesson_sources *s)
{
    for (size_t i = 0; i < s->count; i++) nm_free(s->path[i]);
    nm_free(s->path);
    *s = (nm_lesson_sources){0};
}

void nm_lesson_forget(const nm_teach_files *files, const char *where)
{
    for (size_t i = 0; i < CONVERSATIONS; i++) {
        nm_str s = {0};
        if (rows_path(files, where, conversations[i], true, &s) == NM_OK) unlink(s.data);
        nm_str_free(&s);
    }
}
