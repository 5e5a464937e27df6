/* Names of adapters and stacks: DATA/adapters/NAME is a PEFT folder, a folder with one GGUF file, or NAME.gguf; and the one place that reads
 * MODEL{+ADAPTER[=SCALE]}. */
#include "hub/hub.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "format/gguf.h"
#include "format/json.h"
#include "hub/personas.h"
#include "os/file.h"

enum { CONFIG_MOST = 4 << 20 };

nm_err nm_adapter_folder(char **path)
{
    char *data;
    NM_TRY(nm_folder_find(NM_FOLDER_DATA, &data));
    nm_err err = nm_format(path, "%s/adapters", data);
    nm_free(data);
    return err;
}

void nm_found_adapter_free(nm_found_adapter *a)
{
    nm_free(a->name);
    nm_free(a->path);
    nm_free(a->base);
    *a = (nm_found_adapter){0};
}

void nm_found_adapters_free(nm_found_adapter *list, size_t count)
{
    for (size_t i = 0; i < count; i++) nm_found_adapter_free(&list[i]);
    nm_free(list);
}

void nm_found_stack_free(nm_found_stack *s)
{
    nm_found_free(&s->model);
    nm_found_adapters_free(s->adapter, s->count);
    nm_persona_free(s->persona);
    *s = (nm_found_stack){0};
}

/* ---- What an adapter's files say ---------------------------------------------------------------------------------------------------------- */

/* base_model_name_or_path; "" for a configuration that cannot be read: a list shows what it can. */
static nm_err peft_base(char **base, const char *folder)
{
    char *path, *text = NULL;
    size_t size;
    nm_json config = {0};
    NM_TRY(nm_format(&path, "%s/adapter_config.json", folder));
    bool good = nm_file_read(path, CONFIG_MOST, &text, &size) == NM_OK && nm_json_parse(&config, text, size) == NM_OK;
    const nm_json *v = good ? nm_json_get(&config, "base_model_name_or_path") : NULL;
    nm_err err = nm_format(base, "%s", v && v->kind == NM_JSON_STRING ? v->string.bytes : "");
    nm_json_free(&config);
    nm_free(text);
    nm_free(path);
    return err;
}

static nm_err gguf_base(char **base, const char *path)
{
    nm_gguf *g;
    const char *text = "";
    size_t length = 0;
    if (nm_gguf_open(&g, path, true) != NM_OK) return nm_format(base, "%s", "");
    (void)nm_gguf_opt_string(g, "general.base_model.0.name", &text, &length);
    nm_err err = nm_format(base, "%.*s", (int)length, text);
    nm_gguf_close(&g);
    return err;
}

static uint64_t file_bytes(const char *path)
{
    struct stat st;
    return stat(path, &st) ? 0 : (uint64_t)st.st_size;
}

/* Size and base of the adapter at a path. */
static nm_err look(nm_found_adapter *a)
{
    struct stat st;
    char *weights;
    if (stat(a->path, &st)) return nm_fail(NM_NOT_FOUND, "%s: %s", a->path, strerror(errno));
    if (!S_ISDIR(st.st_mode)) {
        a->bytes = (uint64_t)st.st_size;
        return gguf_base(&a->base, a->path);
    }
    NM_TRY(nm_format(&weights, "%s/adapter_model.safetensors", a->path));
    a->bytes = file_bytes(weights);
    nm_free(weights);
    return peft_base(&a->base, a->path);
}

/* ---- The store ------------------------------------------------------------------------------------------------------------------------------ */

/* What an entry of the store is: its path stays NULL if that is no adapter. */
static nm_err describe(nm_found_adapter *a, const char *store, const char *entry)
{
    char *path, **files = NULL;
    size_t count = 0, n = strlen(entry);
    struct stat st;
    bool gguf = n > 5 && !strcasecmp(entry + n - 5, ".gguf");
    *a = (nm_found_adapter){.place = NM_PLACE_STORE, .scale = 1, .scale_to = 1};
    NM_TRY(nm_format(&path, "%s/%s/adapter_config.json", store, entry));
    bool peft = !stat(path, &st);
    path[strlen(path) - strlen("/adapter_config.json")] = 0;
    nm_err err = peft || gguf ? NM_OK : nm_folder_names(&files, &count, path, ".gguf");
    if (err == NM_OK && (peft || gguf)) err = nm_format(&a->path, "%s", path);
    else if (err == NM_OK && count == 1) err = nm_format(&a->path, "%s/%s", path, files[0]);
    if (err == NM_OK && a->path) err = nm_format(&a->name, "%.*s", (int)(gguf ? n - 5 : n), entry);
    if (err == NM_OK && a->path) err = look(a);
    nm_names_free(files, count);
    nm_free(path);
    if (err != NM_OK) nm_found_adapter_free(a);
    return err;
}

nm_err nm_adapter_list(nm_found_adapter **list, size_t *count)
{
    char *store, **names = NULL;
    size_t n = 0, capacity = 0;
    *list = NULL;
    *count = 0;
    NM_TRY(nm_adapter_folder(&store));
    nm_err err = nm_folder_names(&names, &n, store, "");
    for (size_t i = 0; err == NM_OK && i < n; i++) {
        err = NM_GROW(*list, capacity, *count + 1);
        if (err == NM_OK) err = describe(&(*list)[*count], store, names[i]);
        if (err == NM_OK && (*list)[*count].path) ++*count;
    }
    nm_names_free(names, n);
    nm_free(store);
    if (err == NM_OK) return NM_OK;
    nm_found_adapters_free(*list, *count);
    *list = NULL;
    *count = 0;
    return err;
}

nm_err nm_adapter_stored(nm_found_adapter *out, const char *name)
{
    nm_found_adapter *list;
    size_t count, at = SIZE_MAX, n = strlen(name);
    int alike = 0;
    *out = (nm_found_adapter){0};
    if (n > 7 && !strcmp(name + n - 7, ":latest")) n -= 7;
    NM_TRY(nm_adapter_list(&list, &count));
    for (size_t i = 0; i < count; i++) {
        if (strlen(list[i].name) != n || strncasecmp(list[i].name, name, n)) continue;
        bool exact = !strncmp(list[i].name, name, n);
        at = i;
        alike = exact ? 1 : alike + 1;
        if (exact) break;
    }
    if (alike == 1) {
        *out = list[at];
        list[at] = (nm_found_adapter){0};
    }
    nm_found_adapters_free(list, count);
    return NM_OK;
}

/* ---- One adapter ---------------------------------------------------------------------------------------------------------------------------- */

static bool exists(const char *path)
{
    struct stat st;
    return !stat(path, &st);
}

static nm_err found_path(nm_found_adapter *out, const char *path)
{
    *out = (nm_found_adapter){.place = NM_PLACE_PATH, .scale = 1, .scale_to = 1};
    nm_err err = nm_format(&out->name, "%s", path);
    if (err == NM_OK) err = nm_format(&out->path, "%s", path);
    if (err == NM_OK) err = look(out);
    if (err != NM_OK) nm_found_adapter_free(out);
    return err;
}

nm_err nm_adapter_find(nm_found_adapter *out, const char *name)
{
    *out = (nm_found_adapter){0};
    if (!*name) return nm_fail(NM_USAGE, "an adapter's name is empty: give a folder, a file or a name that 'nomoat list' shows");
    if (exists(name)) return found_path(out, name);
    NM_TRY(nm_adapter_stored(out, name));
    if (out->path) return NM_OK;
    return nm_fail(NM_NOT_FOUND, "%s: no file and no adapter of that name: 'nomoat adapter list' shows the names", name);
}

/* A decimal number that takes the whole text: no hexadecimal, no "inf". */
static bool read_number(const char *text, size_t length, float *number)
{
    char copy[64], *end;
    if (!length || length >= sizeof copy || strspn(text, "+-.0123456789eE") < length) return false;
    memcpy(copy, text, length);
    copy[length] = 0;
    *number = strtof(copy, &end);
    return end != copy && !*end && isfinite(*number);
}

/* SCALE, or LOW..HIGH. */
static bool read_scales(const char *text, float *from, float *to)
{
    const char *dots = strstr(text, "..");
    if (dots) return read_number(text, (size_t)(dots - text), from) && read_number(dots + 2, strlen(dots + 2), to);
    if (!read_number(text, strlen(text), from)) return false;
    *to = *from;
    return true;
}

static nm_err check_range(const char *name, float from, float to, bool ranges)
{
    if (from == to) return NM_OK;
    if (!ranges) return nm_fail(NM_USAGE, "%s=%g..%g: one scale is needed here; 'nomoat effect' shows what a range of them does", name, (double)from, (double)to);
    return from < to ? NM_OK : nm_fail(NM_USAGE, "%s=%g..%g: a range goes up: give %s=%g..%g", name, (double)from, (double)to, name, (double)to, (double)from);
}

/* "NAME", "NAME=0.8" or "NAME:0.8" in text, which may be changed. What exists as it stands wins. */
static nm_err find_scaled(nm_found_adapter *out, char *text, bool ranges)
{
    float from = 1, to = 1;
    char *equals = strrchr(text, '='), *colon = strrchr(text, ':');
    if (exists(text)) return found_path(out, text);
    if (equals && !read_scales(equals + 1, &from, &to))
        return nm_fail(NM_USAGE, "%s: '%s' is no scale: give a number, as in %.*s=0.8", text, equals + 1, (int)(equals - text), text);
    if (!equals && colon && read_scales(colon + 1, &from, &to)) {
        NM_TRY(nm_adapter_stored(out, text));
        if (out->path) return NM_OK;
        equals = colon;
    }
    if (equals) *equals = 0;
    NM_TRY(check_range(text, from, to, ranges));
    NM_TRY(nm_adapter_find(out, text));
    out->scale = from;
    out->scale_to = to;
    return NM_OK;
}

/* ---- Stacks ---------------------------------------------------------------------------------------------------------------------------------- */

nm_err nm_found_stack_push(nm_found_stack *s, const char *adapter, bool scaled)
{
    char *copy;
    NM_TRY(NM_GROW(s->adapter, s->capacity, s->count + 1));
    NM_TRY(nm_format(&copy, "%s", adapter));
    s->adapter[s->count] = (nm_found_adapter){0};
    nm_err err = scaled ? find_scaled(&s->adapter[s->count], copy, s->ranges) : nm_adapter_find(&s->adapter[s->count], copy);
    if (err == NM_OK) s->count++;
    nm_free(copy);
    return err;
}

/* True if the text up to `length`, with or without a scale behind it, is an existing path. */
static bool is_path(char *text, size_t length, bool scale)
{
    char kept = text[length], *equals;
    float from, to;
    text[length] = 0;
    bool found = exists(text);
    equals = strrchr(text, '=') ? strrchr(text, '=') : strrchr(text, ':');
    if (!found && scale && equals && read_scales(equals + 1, &from, &to)) {
        char sign = *equals;
        *equals = 0;
        found = exists(text);
        *equals = sign;
    }
    text[length] = kept;
    return found;
}

/* Where the first part of a stack ends: paths may hold '+', so the longest one that exists wins, else the first '+' ends it. */
static size_t first_part(char *text, bool scale)
{
    size_t length = strlen(text);
    for (size_t n = length; n > 0; n--)
        if ((n == length || text[n] == '+') && is_path(text, n, scale)) return n;
    return strcspn(text, "+");
}

nm_err nm_found_stack_add(nm_found_stack *s, const char *adapters)
{
    char *copy, *at;
    NM_TRY(nm_format(&copy, "%s", adapters));
    nm_err err = NM_OK;
    for (at = copy; err == NM_OK && at;) {
        size_t n = first_part(at, true);
        char *next = at[n] ? at + n + 1 : NULL;
        at[n] = 0;
        err = nm_found_stack_push(s, at, true);
        at = next;
    }
    nm_free(copy);
    return err;
}

static nm_err find_persona(nm_found_stack *out, const char *name);

/* personas: MODEL may be one. */
static nm_err find_stack(nm_found_stack *out, const char *text, bool personas)
{
    char *copy;
    NM_TRY(nm_format(&copy, "%s", text));
    size_t n = first_part(copy, false);
    const char *rest = copy[n] ? copy + n + 1 : NULL;
    copy[n] = 0;
    nm_err err = nm_model_find(&out->model, copy);
    if (err == NM_NOT_FOUND && personas) err = find_persona(out, copy);
    if (err == NM_OK && rest) err = nm_found_stack_add(out, rest);
    nm_free(copy);
    return err;
}

/* What out->persona stands on, which is no persona again. */
static nm_err stand(nm_found_stack *out)
{
    const nm_modelfile *file = &out->persona->file;
    nm_err err = find_stack(out, file->from.text, false);
    for (size_t i = 0; err == NM_OK && i < file->adapters; i++) err = nm_found_stack_push(out, file->adapter[i].text, true);
    out->persona_adapters = out->count;
    return err == NM_OK ? NM_OK : nm_fail_in(err, out->persona->path);
}

/* The recorded error stays where there is none of that name. */
static nm_err find_persona(nm_found_stack *out, const char *name)
{
    char why[1024];
    snprintf(why, sizeof why, "%s", nm_error_text());
    NM_TRY(nm_persona_find(&out->persona, name));
    return out->persona ? stand(out) : nm_fail(NM_NOT_FOUND, "%s", why);
}

nm_err nm_persona_stack(nm_found_stack *out, nm_persona *persona)
{
    *out = (nm_found_stack){.persona = persona};
    nm_err err = stand(out);
    if (err != NM_OK) nm_found_stack_free(out);
    return err;
}

nm_err nm_stack_find(nm_found_stack *out, const char *text, bool ranges)
{
    *out = (nm_found_stack){.ranges = ranges};
    nm_err err = find_stack(out, text, true);
    if (err != NM_OK) nm_found_stack_free(out);
    return err;
}
