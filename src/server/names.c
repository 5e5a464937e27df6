/* What a request's name means: bases, adapters, stacks, aliases; opened when asked for, closed when idle. A client's names are looked up in lists (what was given on the
 * command line, the store, the Hugging Face cache) and are never taken as paths. */
#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "hub/hub.h"
#include "os/clock.h"
#include "os/file.h"
#include "server/engine_impl.h"

enum { NAME_LONGEST = 1024, ADDED_MOST = 1024, VARIANTS_MOST = 64, STACK_MOST = 64, CONTEXT_UNKNOWN = 4096, CONTEXT_LEAST = 512 };

/* One adapter of a name. */
typedef struct part { nm_named_adapter a; float scale; char *mark; } part;
typedef struct parts {
    part part[STACK_MOST];
    size_t count;
    nm_persona *persona;        /* that stands at the front of the name; NULL */
    size_t own;                 /* the first so many are the persona's */
} parts;

static void free_parts(parts *p)
{
    for (size_t i = 0; i < p->count; i++) nm_free(p->part[i].a.name), nm_free(p->part[i].a.path), nm_free(p->part[i].mark);
    nm_persona_free(p->persona);
    p->persona = NULL;
    p->count = 0;
}

/* ---- Lists ------------------------------------------------------------------------------------------------------------- */

/* What a model or adapter is called: by the owner, or for a path what 'nomoat import' would call it. */
static nm_err served_name(char **name, const char *path, const char *known, nm_place place)
{
    struct stat st;
    if (place != NM_PLACE_PATH) {
        *name = nm_strndup(known, strlen(known));
        return *name ? NM_OK : nm_fail_memory(strlen(known));
    }
    char *real = !stat(path, &st) && S_ISDIR(st.st_mode) ? realpath(path, NULL) : NULL;     /* of "." and "x/"; a file may be a link to one without a name */
    nm_err err = nm_name_from_file(name, real ? real : path);
    free(real);
    return err;
}

/* Takes `found` over. as: given, hidden. */
static nm_err add_base(nm_engine *e, nm_found *found, nm_base as, nm_base **out)
{
    nm_base *b = nm_calloc(1, sizeof *b);
    char *name = NULL;
    nm_err err = b ? served_name(&name, found->path, found->name, found->place) : nm_fail_memory(sizeof *b);
    pthread_mutex_lock(&e->lock);
    if (err == NM_OK) err = NM_GROW(e->base, e->base_capacity, e->bases + 1);
    if (err == NM_OK) {
        *b = (nm_base){.name = name, .found = *found, .given = as.given, .hidden = as.hidden, .keep_alive = e->options.keep_alive};
        *found = (nm_found){0};
        e->base[e->bases++] = b;
    }
    pthread_mutex_unlock(&e->lock);
    if (err != NM_OK) {
        nm_free(name);
        nm_free(b);
        b = NULL;
    }
    *out = b;
    return err;
}

static size_t plain_length(const char *name, size_t n) { return n > 7 && !strncmp(name + n - 7, ":latest", 7) ? n - 7 : n; }

static bool same(const char *a, const char *name, size_t n) { return strlen(a) == n && !strncasecmp(a, name, n); }

static nm_base *known_base(const nm_engine *e, const char *name, size_t n)
{
    for (size_t i = 0; i < e->bases; i++)
        if (!e->base[i]->hidden && same(e->base[i]->name, name, n)) return e->base[i];
    return NULL;
}

nm_base *nm_names_at(const nm_engine *e, const char *path)
{
    for (size_t i = 0; i < e->bases; i++)
        if (nm_file_same(e->base[i]->found.path, path)) return e->base[i];
    return NULL;
}

/* A base by its name, also from the store and the cache; *out stays NULL where there is none. */
static nm_err find_base(nm_engine *e, const char *name, size_t n, nm_base **out)
{
    nm_found *list;
    size_t count;
    nm_err err = NM_OK;
    n = plain_length(name, n);
    *out = known_base(e, name, n);
    if (*out) return NM_OK;
    NM_TRY(nm_found_list(&list, &count, NULL));
    for (size_t i = 0; !*out && err == NM_OK && i < count; i++)
        if (same(list[i].name, name, n)) err = add_base(e, &list[i], (nm_base){0}, out);
    nm_found_list_free(list, count);
    return err;
}

static nm_err copy_named(nm_named_adapter *to, const char *name, const char *path)
{
    to->name = nm_strndup(name, strlen(name));
    to->path = nm_strndup(path, strlen(path));
    if (to->name && to->path) return NM_OK;
    nm_free(to->name);
    nm_free(to->path);
    *to = (nm_named_adapter){0};
    return nm_fail_memory(strlen(path));
}

static nm_err remember_adapter(nm_engine *e, const char *name, const char *path)
{
    pthread_mutex_lock(&e->lock);
    nm_err err = NM_GROW(e->added, e->added_capacity, e->n_added + 1);
    if (err == NM_OK) err = copy_named(&e->added[e->n_added], name, path);
    if (err == NM_OK) e->n_added++;
    pthread_mutex_unlock(&e->lock);
    return err;
}

/* An adapter by its name, or by its number among those given; out->name stays NULL where there is none. */
static nm_err find_adapter(nm_engine *e, const char *name, size_t n, nm_named_adapter *out)
{
    nm_found_adapter *list;
    size_t count;
    char *end;
    nm_err err = NM_OK;
    *out = (nm_named_adapter){0};
    n = plain_length(name, n);
    pthread_mutex_lock(&e->lock);
    for (size_t i = 0; !out->name && err == NM_OK && i < e->n_added; i++)
        if (same(e->added[i].name, name, n)) err = copy_named(out, e->added[i].name, e->added[i].path);
    unsigned long at = n && isdigit((unsigned char)*name) ? strtoul(name, &end, 10) : ULONG_MAX;
    if (!out->name && err == NM_OK && at < e->n_added && (size_t)(end - name) == n) err = copy_named(out, e->added[at].name, e->added[at].path);
    pthread_mutex_unlock(&e->lock);
    if (err != NM_OK || out->name) return err;
    NM_TRY(nm_adapter_list(&list, &count));
    for (size_t i = 0; !out->name && err == NM_OK && i < count; i++)
        if (same(list[i].name, name, n)) err = copy_named(out, list[i].name, list[i].path);
    nm_found_adapters_free(list, count);
    return err;
}

/* What clients may call an adapter: a number would hide the adapter of that place, and a name means one thing. */
static nm_err check_new_name(nm_engine *e, const char *name)
{
    if (!*name || strpbrk(name, "+=:/")) return nm_fail(NM_USAGE, "\"%s\" cannot be an adapter's name: leave + = : / away", name);
    if (!name[strspn(name, "0123456789")]) return nm_fail(NM_USAGE, "\"%s\" cannot be an adapter's name: numbers are the places of those that are loaded", name);
    bool taken = false;
    pthread_mutex_lock(&e->lock);
    bool full = e->n_added >= ADDED_MOST;
    for (size_t i = 0; i < e->n_added; i++) taken |= same(e->added[i].name, name, strlen(name));
    taken |= known_base(e, name, strlen(name)) != NULL;
    pthread_mutex_unlock(&e->lock);
    if (full) return nm_fail(NM_USAGE, "%d adapters have names already: unload some", ADDED_MOST);
    return taken ? nm_fail(NM_USAGE, "The lora adapter '%s' has already been loaded.", name) : NM_OK;
}

/* What others call another adapter stays that one. */
static nm_err remember_stored(nm_engine *e, const char *name, const nm_found_adapter *list, size_t count, const char *path)
{
    for (size_t i = 0; i < count; i++)
        if (same(list[i].name, name, strlen(name)) && strcmp(list[i].path, path)) return nm_fail(NM_USAGE, "\"%s\" is the name of another adapter of the store", name);
    return remember_adapter(e, name, path);
}

nm_err nm_engine_add_adapter(nm_engine *e, const char *name, const char *path)
{
    nm_found_adapter *list;
    size_t count;
    bool known = false;
    NM_TRY(check_new_name(e, name));
    NM_TRY(nm_adapter_list(&list, &count));
    nm_err err = NM_OK;
    for (size_t i = 0; !known && i < count; i++)
        if (!strcmp(list[i].path, path) || !strcmp(list[i].name, path)) {
            known = true;
            err = remember_stored(e, name, list, count, list[i].path);
        }
    nm_found_adapters_free(list, count);
    if (err == NM_OK && !known) return nm_fail(NM_REFUSED, "%s: only adapters of the store can be loaded by clients: 'nomoat import' it first", path);
    return err;
}

nm_err nm_engine_remove_adapter(nm_engine *e, const char *name)
{
    nm_err err = NM_NOT_FOUND;
    pthread_mutex_lock(&e->lock);
    for (size_t i = e->n_added_given; err != NM_OK && i < e->n_added; i++) {
        if (strcmp(e->added[i].name, name)) continue;
        nm_free(e->added[i].name);
        nm_free(e->added[i].path);
        memmove(&e->added[i], &e->added[i + 1], (--e->n_added - i) * sizeof *e->added);
        err = NM_OK;
    }
    pthread_mutex_unlock(&e->lock);
    return err == NM_OK ? NM_OK : nm_fail(NM_NOT_FOUND, "no adapter \"%s\" was loaded", name);
}

/* ---- From a name to base and adapters ------------------------------------------------------------------------------------ */

/* '*' in the pattern is anything. */
static bool fits(const char *pattern, size_t n, const char *name)
{
    if (!n) return !*name;
    if (*pattern != '*') return *name && tolower((unsigned char)*pattern) == tolower((unsigned char)*name) && fits(pattern + 1, n - 1, name + 1);
    for (;; name++) {
        if (fits(pattern + 1, n - 1, name)) return true;
        if (!*name) return false;
    }
}

/* The name with what its base is an alias for in the base's place. */
static nm_err unalias(const nm_engine *e, const char *name, char out[NAME_LONGEST])
{
    size_t n = strcspn(name, "+");
    char base[NAME_LONGEST];
    if (strlen(name) >= NAME_LONGEST) return nm_fail(NM_NOT_FOUND, "No model has a name of %zu bytes: GET /v1/models lists those that there are", strlen(name));
    memcpy(base, name, n);
    base[n] = 0;
    const char *means = base;
    for (size_t i = 0; i < e->options.n_aliases && means == base; i++) {
        const char *text = e->options.aliases[i], *equals = strchr(text, '=');
        if (equals && fits(text, (size_t)(equals - text), base)) means = equals + 1;
    }
    if (snprintf(out, NAME_LONGEST, "%s%s", means, name + n) < NAME_LONGEST) return NM_OK;
    return nm_fail(NM_NOT_FOUND, "The model \"%.100s...\" does not exist: its name is too long", name);
}

static nm_err no_model(const char *name)
{
    return nm_fail(NM_NOT_FOUND, "The model \"%s\" does not exist: GET /v1/models lists those that do", name);
}

static nm_err check_scale(double scale)
{
    return scale >= -1000 && scale <= 1000 ? NM_OK : nm_fail(NM_USAGE, "an adapter's scale is %g: give -1000 to 1000", scale);
}

static nm_err add_part(nm_engine *e, parts *p, const char *name, size_t n, double scale)
{
    part *to = &p->part[p->count];
    if (p->count == STACK_MOST) return nm_fail(NM_USAGE, "a stack has at most %d adapters", STACK_MOST);
    NM_TRY(check_scale(scale));
    NM_TRY(find_adapter(e, name, n, &to->a));
    if (!to->a.name) return nm_fail(NM_NOT_FOUND, "The adapter \"%.*s\" does not exist: GET /v1/models lists those that do", (int)(n < 200 ? n : 200), name);
    to->scale = (float)scale;
    p->count++;
    return NM_OK;
}

/* "ADAPTER[=SCALE]" or "ADAPTER:0.8", n bytes. */
static nm_err add_adapter_text(nm_engine *e, parts *p, const char *text, size_t n)
{
    size_t at = n;
    double scale = 1;
    for (size_t i = 0; i < n; i++)
        if (text[i] == '=' || (text[i] == ':' && i + 1 < n && (isdigit((unsigned char)text[i + 1]) || strchr(".-", text[i + 1])))) at = i;
    if (at < n) {
        char number[32], *end;
        snprintf(number, sizeof number, "%.*s", (int)(n - at - 1 < 31 ? n - at - 1 : 31), text + at + 1);
        scale = strtod(number, &end);
        if (end == number || *end || n - at - 1 > 31) return nm_fail(NM_USAGE, "\"%.*s\": the scale is no number", (int)(n < 200 ? n : 200), text);
    }
    return add_part(e, p, text, at, scale);
}

/* An adapter as the owner of the machine named it. */
static nm_err add_found(parts *p, const nm_found_adapter *f)
{
    part *to = &p->part[p->count];
    if (p->count == STACK_MOST) return nm_fail(NM_USAGE, "a stack has at most %d adapters", STACK_MOST);
    NM_TRY(copy_named(&to->a, f->name, f->path));
    to->scale = f->scale;
    p->count++;
    return NM_OK;
}

/* What a persona stands on, which may lie anywhere: clients get at it by the persona's name alone. Takes the first adapters of `found`, its model and the persona. */
static nm_err stand_on(nm_engine *e, nm_found_stack *found, nm_base **base, parts *p)
{
    nm_err err = NM_OK;
    for (size_t i = 0; err == NM_OK && i < found->persona_adapters; i++) err = add_found(p, &found->adapter[i]);
    p->own = p->count;
    p->persona = found->persona;
    found->persona = NULL;
    *base = nm_names_at(e, found->model.path);
    if (err != NM_OK || *base) return err;
    bool hidden = found->model.place == NM_PLACE_PATH || known_base(e, found->model.name, strlen(found->model.name));
    return add_base(e, &found->model, (nm_base){.hidden = hidden}, base);
}

/* A persona by its name; *base stays NULL where there is none. */
static nm_err find_persona(nm_engine *e, const char *name, size_t n, nm_base **base, parts *p)
{
    nm_persona *persona;
    nm_found_stack found;
    char *copy = nm_strndup(name, n);
    if (!copy) return nm_fail_memory(n);
    nm_err err = nm_persona_find(&persona, copy);
    nm_free(copy);
    if (err != NM_OK || !persona) return err;
    NM_TRY(nm_persona_stack(&found, persona));
    err = stand_on(e, &found, base, p);
    nm_found_stack_free(&found);
    return err;
}

/* The longest front of the name that is a base or a persona, and what follows it. A name that is an adapter alone stands on the first base. */
static nm_err parse_name(nm_engine *e, const char *name, nm_base **base, parts *p)
{
    size_t n = strlen(name), end = n;
    *base = NULL;
    for (;;) {
        NM_TRY(find_base(e, name, end, base));
        if (!*base) NM_TRY(find_persona(e, name, end, base, p));
        if (*base) break;
        while (end && name[end - 1] != '+') end--;
        if (!end) break;
        end--;
    }
    const char *rest = *base ? name + end : name;
    if (!*base) {       /* "+ADAPTER", or an adapter's name */
        nm_named_adapter a;
        NM_TRY(find_adapter(e, name, strcspn(name, "+=:"), &a));
        bool is = a.name != NULL;
        nm_free(a.name);
        nm_free(a.path);
        if ((!is && *name != '+') || !e->bases) return no_model(name);
        *base = e->base[0];
    }
    while (*rest) {
        if (*rest == '+') rest++;
        size_t length = strcspn(rest, "+");
        NM_TRY(add_adapter_text(e, p, rest, length));
        rest += length;
    }
    return NM_OK;
}

static nm_err variant_name(char **out, const nm_base *b, const parts *p)
{
    nm_str s = {0};
    nm_err err = nm_str_puts(&s, p->persona ? p->persona->name : b->name);
    for (size_t i = p->persona ? p->own : 0; err == NM_OK && i < p->count; i++) {
        err = nm_str_printf(&s, "+%s", p->part[i].a.name);
        if (err == NM_OK && p->part[i].scale != 1) err = nm_str_printf(&s, "=%.9g", (double)p->part[i].scale);
    }
    if (err == NM_OK) *out = nm_str_take(&s, NULL);
    nm_str_free(&s);
    return err;
}

/* ---- The first one's scales ---------------------------------------------------------------------------------------------- */

/* The name that the first one has with other scales. */
static nm_err scaled_name(nm_engine *e, const double *scales, size_t count, char **name)
{
    parts p = {.count = 0};
    nm_base *base;
    nm_err err = parse_name(e, e->options.models[0], &base, &p);
    if (err == NM_OK && p.count - p.own != count) err = nm_fail(NM_USAGE, "%s has %zu adapters whose scales can be set, not %zu", e->options.models[0], p.count - p.own, count);
    for (size_t i = 0; err == NM_OK && i < count; i++) {
        err = check_scale(scales[i]);
        p.part[p.own + i].scale = (float)scales[i];
    }
    if (err == NM_OK) err = variant_name(name, base, &p);
    free_parts(&p);
    return err;
}

nm_err nm_engine_set_scales(nm_engine *e, const double *scales, size_t count)
{
    char *name = NULL;
    const char **first = (const char **)e->options.models;
    pthread_mutex_lock(&e->naming);
    nm_err err = scaled_name(e, scales, count, &name);
    if (err == NM_OK) {
        pthread_mutex_lock(&e->lock);
        char *old = (char *)*first;
        *first = name;
        pthread_mutex_unlock(&e->lock);
        name = old;
    }
    pthread_mutex_unlock(&e->naming);
    nm_free(name);
    return err;
}

char *nm_engine_first(nm_engine *e)
{
    pthread_mutex_lock(&e->lock);
    char *name = nm_strndup(e->options.models[0], strlen(e->options.models[0]));
    pthread_mutex_unlock(&e->lock);
    return name;
}

/* ---- Opening -------------------------------------------------------------------------------------------------------------- */

uint64_t nm_base_bytes(const nm_base *b) { return nm_model_describe(b->model)->weight_bytes + b->runner_bytes; }

uint64_t nm_names_bytes(const nm_engine *e)
{
    uint64_t bytes = e->reserved + e->opening;
    for (size_t i = 0; i < e->bases; i++)
        if (e->base[i]->model) bytes += nm_base_bytes(e->base[i]);
    return bytes;
}

/* Pages of a window are counted as far as they are kept: a short session takes more a token than a long one. */
uint64_t nm_session_need(const nm_engine *e, const nm_base *b, size_t tokens)
{
    nm_session_options o = {.context = tokens < (size_t)b->context ? (int32_t)tokens : b->context, .kv = e->options.kv, .compute = e->options.compute};
    return tokens ? nm_session_bytes(b->model, &o) : 0;
}

static void wait_for_room(nm_engine *e)
{
    while (e->want_room && !e->closes && e->loop_runs) pthread_cond_wait(&e->work, &e->lock);
}

/* One after the other: somebody else's wish is seen to first. */
void nm_names_make_room(nm_engine *e, uint64_t bytes)
{
    wait_for_room(e);
    e->want_room = bytes;
    pthread_cond_broadcast(&e->work);
    wait_for_room(e);
}

/* Under the lock: bytes of models that cannot be closed now, and of what is done with them; `ever`: of those that stay open when all that is under way has ended. */
static uint64_t bytes_in_use(const nm_engine *e, bool ever)
{
    uint64_t bytes = e->reserved + (ever ? 0 : e->at_work);
    for (size_t i = 0; i < e->bases; i++)
        if (e->base[i]->model && (ever ? e->base[i]->held : e->base[i]->users)) bytes += nm_base_bytes(e->base[i]);
    return bytes;
}

/* Under the lock: the bound is a guess, and one model is always tried. */
static bool fits_beside(const nm_engine *e, const nm_base *b, uint64_t used) { return !used || used + b->found.bytes <= e->memory; }

/* Under the lock: answers of other models come to their end first. Whoever asks for these meanwhile comes behind, or clients of two models that do not fit together would keep
 * each other out. */
static nm_err wait_for_others(nm_engine *e, const nm_base *b, const volatile sig_atomic_t *cancel)
{
    while (!fits_beside(e, b, bytes_in_use(e, false))) {
        if (nm_cancelled(&e->ends) || nm_cancelled(cancel)) return nm_fail(NM_INTERRUPTED, "cancelled");
        if (!fits_beside(e, b, bytes_in_use(e, true)))
            return nm_fail(NM_NO_MEMORY, "there is no memory for %s beside what is being taught: try again later, or serve with a larger --memory", b->name);
        pthread_cond_wait(&e->work, &e->lock);
    }
    return NM_OK;
}

/* Under the lock. While the loop made room, answers that are under way may have taken more: their end is waited for, too. */
static nm_err wait_for_bytes(nm_engine *e, const nm_base *b, const volatile sig_atomic_t *cancel)
{
    do {
        NM_TRY(wait_for_others(e, b, cancel));
        nm_names_make_room(e, b->found.bytes);
        if (fits_beside(e, b, nm_names_bytes(e) + e->at_work)) return NM_OK;
    } while (!fits_beside(e, b, bytes_in_use(e, false)));
    return nm_fail(NM_NO_MEMORY, "there is no memory for %s beside the models at work: try again later, or serve with a larger --memory", b->name);
}

static nm_err make_room(nm_engine *e, const nm_base *b, const volatile sig_atomic_t *cancel)
{
    pthread_mutex_lock(&e->lock);
    e->changes = true;
    nm_err err = wait_for_bytes(e, b, cancel);
    if (err == NM_OK) e->opening = b->found.bytes;
    e->changes = false;
    pthread_mutex_unlock(&e->lock);
    return err;
}

/* Each time that it is opened: positions that a model has never seen cost answers their sense, and nothing else tells why. */
static void note_beyond(const nm_engine *e, const nm_model *m, int32_t context)
{
    char line[200];
    if (!e->options.note) return;
    snprintf(line, sizeof line, "--context %d is more than the %d tokens that %.80s was trained for: expect worse answers beyond them", context, nm_model_describe(m)->n_context,
        nm_model_describe(m)->name);
    e->options.note(e->options.note_arg, line);
}

static int32_t choose_context(const nm_engine *e, const nm_model *m)
{
    int32_t trained = nm_model_describe(m)->n_context;
    nm_session_options o = {.context = e->options.context > 0 ? e->options.context : trained > 0 ? trained : CONTEXT_UNKNOWN, .kv = e->options.kv, .compute = e->options.compute};
    if (trained > 0 && o.context > trained) note_beyond(e, m, o.context);
    if (!nm_session_bytes(m, &o) && trained > 0) o.context = trained;       /* positions that were learned end there */
    while (o.context > CONTEXT_LEAST && nm_session_bytes(m, &o) > e->memory / 2) o.context /= 2;
    return o.context;
}

/* A window shows in what sessions need: it does not grow with their tokens everywhere. */
static bool has_window(const nm_model *m)
{
    enum { LONG = 1 << 24 };
    return nm_session_bytes(m, &(nm_session_options){.context = 2 * LONG}) < 2 * nm_session_bytes(m, &(nm_session_options){.context = LONG});
}

static nm_err open_base(nm_engine *e, nm_base *b, const volatile sig_atomic_t *cancel)
{
    nm_model_options mo = {.no_pack = e->options.no_pack, .keep = e->options.keep, .cancel = &e->ends};
    nm_runner_options ro = {.compute = e->options.compute, .max_rows = NM_PASS_ROWS};
    nm_model *model = NULL;
    nm_runner *runner = NULL;
    NM_TRY(make_room(e, b, cancel));
    NM_TRY(nm_model_open(&model, b->found.path, &mo));
    nm_err err = nm_runner_open(&runner, model, &ro);
    nm_session_options so = {.kv = e->options.kv, .compute = e->options.compute};
    if (err == NM_OK && !nm_model_tokenizer(model)) err = nm_fail(NM_REFUSED, "%s has no tokenizer", b->name);
    if (err == NM_OK) err = nm_prompt_controls(b, nm_model_tokenizer(model));
    if (err == NM_OK) {
        so.context = choose_context(e, model);
        pthread_mutex_lock(&e->lock);
        e->opening = 0;
        b->model = model;
        b->runner = runner;
        b->runner_bytes = nm_runner_bytes(runner);
        b->context = so.context;
        b->slides = has_window(model);
        b->last_used = nm_clock_seconds();
        pthread_mutex_unlock(&e->lock);
    } else {
        nm_free(b->control);
        b->control = NULL;
        b->controls = 0;
        nm_runner_close(&runner);
        nm_model_close(&model);
    }
    return err;
}

/* ---- Adapters and stacks ---------------------------------------------------------------------------------------------------- */

/* What tells one contents of a path from another without reading it: a file that is written whole and renamed has another inode or time. */
static nm_err adapter_mark(char **mark, const char *path)
{
    nm_str s = {0};
    struct stat st = {0};
    nm_err err = nm_str_printf(&s, "%s/adapter_model.safetensors", path);
    if (err == NM_OK && stat(s.data, &st) && stat(path, &st)) st = (struct stat){0};
    s.length = 0;
    if (err == NM_OK) err = nm_str_printf(&s, "%llx-%llx-%llx-%llx.%lx", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino, (unsigned long long)st.st_size,
        (unsigned long long)st.st_mtim.tv_sec, (unsigned long)st.st_mtim.tv_nsec);
    if (err == NM_OK) *mark = nm_str_take(&s, NULL);
    nm_str_free(&s);
    return err;
}

static void close_adapter(nm_open_adapter *a)
{
    nm_adapter_close(&a->adapter);
    nm_free(a->path);
    nm_free(a->mark);
    nm_free(a);
}

/* Under the lock: what the path held up to now, whoever still uses it. mark NULL: whatever it holds. */
static void make_stale(nm_base *b, const char *path, const char *mark)
{
    for (size_t i = 0; i < b->adapters; i++)
        if (!strcmp(b->adapter[i]->path, path) && (!mark || strcmp(b->adapter[i]->mark, mark))) b->adapter[i]->stale = true;
}

void nm_engine_forget_adapter(nm_engine *e, const char *path)
{
    pthread_mutex_lock(&e->lock);
    for (size_t i = 0; i < e->bases; i++) make_stale(e->base[i], path, NULL);
    pthread_cond_broadcast(&e->work);
    pthread_mutex_unlock(&e->lock);
}

/* With one user more; NULL if it is not open. */
static nm_open_adapter *known_adapter(nm_engine *e, nm_base *b, const char *path, const char *mark)
{
    nm_open_adapter *found = NULL;
    pthread_mutex_lock(&e->lock);
    for (size_t i = 0; !found && i < b->adapters; i++)
        if (!b->adapter[i]->stale && !strcmp(b->adapter[i]->path, path) && !strcmp(b->adapter[i]->mark, mark)) found = b->adapter[i];
    if (found) found->users++;
    pthread_mutex_unlock(&e->lock);
    return found;
}

static nm_err open_adapter(nm_engine *e, nm_base *b, const char *path, const char *mark, nm_open_adapter **out)
{
    nm_open_adapter *a = nm_calloc(1, sizeof *a);
    if (!a) return nm_fail_memory(sizeof *a);
    a->users = 1;
    a->path = nm_strndup(path, strlen(path));
    a->mark = nm_strndup(mark, strlen(mark));
    nm_err err = a->path && a->mark ? nm_adapter_open(&a->adapter, b->model, path, e->options.force) : nm_fail_memory(strlen(path));
    pthread_mutex_lock(&e->lock);
    if (err == NM_OK) err = NM_GROW(b->adapter, b->adapter_capacity, b->adapters + 1);
    if (err == NM_OK) {
        make_stale(b, path, mark);
        b->adapter[b->adapters++] = *out = a;
    }
    pthread_mutex_unlock(&e->lock);
    if (err != NM_OK) close_adapter(a);
    return err;
}

/* The open adapter of this path and these contents, with one user more; opened now if it was not. */
static nm_err need_adapter(nm_engine *e, nm_base *b, const char *path, const char *mark, nm_open_adapter **out)
{
    *out = known_adapter(e, b, path, mark);
    return *out ? NM_OK : open_adapter(e, b, path, mark, out);
}

/* Under the lock. */
static void close_variant(nm_variant *v)
{
    nm_stack_close(&v->stack);
    for (size_t i = 0; i < v->parts; i++) v->part[i]->users--;
    nm_free(v->part);
    nm_free(v->adapter);
    nm_free(v->scale);
    nm_template_close(&v->tmpl);
    nm_persona_free(v->persona);
    nm_free(v->name);
    nm_free(v->key);
    nm_free(v);
}

static void close_base(nm_base *b)
{
    for (size_t i = 0; i < b->variants; i++) close_variant(b->variant[i]);
    for (size_t i = 0; i < b->adapters; i++) close_adapter(b->adapter[i]);
    b->variants = b->adapters = 0;
    nm_free(b->control);
    b->control = NULL;
    b->controls = 0;
    nm_runner_close(&b->runner);
    nm_model_close(&b->model);
}

/* A persona's template comes first, then what adapters were taught in, the last that tells it, then the model's own. */
static nm_err open_template(nm_variant *v, const parts *p)
{
    v->template_text = nm_model_template(v->base->model, NULL);
    for (size_t i = 0; i < p->count; i++) {
        const char *format = nm_adapter_describe(v->adapter[i])->prompt_format;
        if (!*format || p->part[i].scale == 0) continue;
        v->template_text = nm_format_template(format);
        if (!v->template_text) return nm_fail(NM_REFUSED, "%s was taught in the prompt format \"%s\", which this version does not know", p->part[i].a.name, format);
    }
    if (v->persona && v->persona->file.tmpl) v->template_text = v->persona->file.tmpl;
    return v->template_text ? nm_template_open(&v->tmpl, v->template_text, strlen(v->template_text), "the chat template") : NM_OK;
}

static nm_err fill_variant(nm_engine *e, nm_variant *v, const parts *p)
{
    size_t n = p->count;
    v->part = nm_calloc(n, sizeof *v->part);
    v->adapter = nm_calloc(n, sizeof *v->adapter);
    v->scale = nm_calloc(n, sizeof *v->scale);
    if (!v->part || !v->adapter || !v->scale) return nm_fail_memory(n * sizeof *v->part);
    for (size_t i = 0; i < n; i++) {
        nm_err err = need_adapter(e, v->base, p->part[i].a.path, p->part[i].mark, &v->part[i]);
        if (err == NM_BAD_FILE || err == NM_REFUSED) return nm_fail(NM_USAGE, "the adapter \"%s\" does not fit %s", p->part[i].a.name, v->base->name);
        NM_TRY(err);
        v->parts = i + 1;
        v->adapter[i] = v->part[i]->adapter;
        v->scale[i] = p->part[i].scale;
    }
    if (n) NM_TRY(nm_stack_open(&v->stack, v->base->model, v->adapter, v->scale, n));
    return open_template(v, p);
}

/* What a stack is: files, their contents and scales, and a persona's text. A name may come to mean another file, a file be taught further, and a persona be saved anew. */
static nm_err variant_key(char **out, parts *p)
{
    nm_str s = {0};
    for (size_t i = 0; i < p->count; i++) NM_TRY(adapter_mark(&p->part[i].mark, p->part[i].a.path));
    nm_err err = p->persona ? nm_str_printf(&s, "%s\n%s\n", p->persona->name, p->persona->text) : nm_str_puts(&s, "");
    for (size_t i = 0; err == NM_OK && i < p->count; i++) err = nm_str_printf(&s, "%s\n%s\n%.9g\n", p->part[i].a.path, p->part[i].mark, (double)p->part[i].scale);
    if (err == NM_OK) *out = nm_str_take(&s, NULL);
    nm_str_free(&s);
    return err;
}

/* What is open already, with one user more of it and of its base; NULL if it is not, or where others are to have their turn first. */
static nm_variant *take_open(nm_engine *e, nm_base *b, const char *key)
{
    nm_variant *found = NULL;
    pthread_mutex_lock(&e->lock);
    for (size_t i = 0; b->model && !e->changes && !found && i < b->variants; i++)
        if (!strcmp(b->variant[i]->key, key)) found = b->variant[i];
    if (found) found->users++, b->users++;
    pthread_mutex_unlock(&e->lock);
    return found;
}

/* With one user, and the persona. */
static nm_err open_variant(nm_engine *e, nm_base *b, const char *key, parts *p, nm_variant **out)
{
    nm_variant *v = nm_calloc(1, sizeof *v);
    if (!v) return nm_fail_memory(sizeof *v);
    v->base = b;
    v->users = 1;
    v->persona = p->persona;
    nm_err err = variant_name(&v->name, b, p);
    p->persona = NULL;
    v->key = nm_strndup(key, strlen(key));
    if (err == NM_OK && !v->key) err = nm_fail_memory(strlen(key));
    if (err == NM_OK) err = fill_variant(e, v, p);
    pthread_mutex_lock(&e->lock);
    if (err == NM_OK) err = NM_GROW(b->variant, b->variant_capacity, b->variants + 1);
    if (err == NM_OK) b->variant[b->variants++] = *out = v;
    else close_variant(v);
    pthread_mutex_unlock(&e->lock);
    return err;
}

/* Opens what lacks: the base, or a stack on it. On the slow clerk's thread alone, so nobody else does so meanwhile. */
static nm_err take_closed(nm_engine *e, nm_base *b, const char *key, parts *p, const volatile sig_atomic_t *cancel, nm_variant **out)
{
    pthread_mutex_lock(&e->lock);
    b->users++;
    bool open = b->model != NULL;
    pthread_mutex_unlock(&e->lock);
    nm_err err = open ? NM_OK : open_base(e, b, cancel);
    if (err == NM_OK) err = open_variant(e, b, key, p, out);
    pthread_mutex_lock(&e->lock);
    e->opening = 0;
    if (err != NM_OK) b->users--;
    pthread_mutex_unlock(&e->lock);
    return err;
}

static nm_err look_up(nm_engine *e, const char *name, const nm_ask_lora *lora, size_t n_lora, nm_base **base, parts *p)
{
    char plain[NAME_LONGEST];
    nm_err err = name && *name ? unalias(e, name, plain) : NM_OK;
    pthread_mutex_lock(&e->naming);
    if (err == NM_OK) err = parse_name(e, name && *name ? plain : e->options.models[0], base, p);
    for (size_t i = 0; err == NM_OK && i < n_lora; i++) err = add_part(e, p, lora[i].id, strlen(lora[i].id), lora[i].scale);
    pthread_mutex_unlock(&e->naming);
    return err;
}

nm_err nm_names_take(nm_engine *e, const nm_job *j, bool may_open, nm_variant **out, const char **code)
{
    parts p = {.count = 0};
    nm_base *base = NULL;
    char *key = NULL;
    nm_err err = look_up(e, j->ask.model, j->ask.lora, j->ask.n_lora, &base, &p);
    if (err == NM_NOT_FOUND) *code = "model_not_found";
    if (err == NM_OK) err = variant_key(&key, &p);
    if (err == NM_OK) *out = take_open(e, base, key);
    if (err == NM_OK && !*out && may_open) err = take_closed(e, base, key, &p, &j->cancelled, out);
    nm_free(key);
    free_parts(&p);
    return err;
}

void nm_names_leave(nm_engine *e, nm_variant *v, double keep_alive)
{
    pthread_mutex_lock(&e->lock);
    v->users--;
    v->base->users--;
    v->last_used = v->base->last_used = nm_clock_seconds();
    if (!isnan(keep_alive)) v->base->keep_alive = keep_alive < 0 ? INFINITY : keep_alive == 0 ? 1e-9 : keep_alive;     /* 0: at once */
    pthread_cond_broadcast(&e->work);       /* perhaps its time has come */
    pthread_mutex_unlock(&e->lock);
}

/* ---- Closing ------------------------------------------------------------------------------------------------------------------ */

static bool is_stale(const nm_variant *v)
{
    for (size_t i = 0; i < v->parts; i++)
        if (v->part[i]->stale) return true;
    return false;
}

/* Stacks of adapters that have changed or gone: no name means them any more. */
static void reap_stale(nm_engine *e, nm_base *b)
{
    for (size_t i = b->variants; i-- > 0;) {
        nm_variant *v = b->variant[i];
        if (!is_stale(v)) continue;
        nm_kept_drop(e, v);
        if (v->users) continue;
        close_variant(v);
        b->variant[i] = b->variant[--b->variants];
    }
    for (size_t i = b->adapters; i-- > 0;) {
        if (!b->adapter[i]->stale || b->adapter[i]->users) continue;
        close_adapter(b->adapter[i]);
        b->adapter[i] = b->adapter[--b->adapters];
    }
}

/* Stacks that nobody uses, beyond a number: sliders make many. */
static void reap_variants(nm_base *b)
{
    while (b->variants > VARIANTS_MOST) {
        size_t oldest = SIZE_MAX;
        for (size_t i = 0; i < b->variants; i++)
            if (!b->variant[i]->users && (oldest == SIZE_MAX || b->variant[i]->last_used < b->variant[oldest]->last_used)) oldest = i;
        if (oldest == SIZE_MAX) return;
        close_variant(b->variant[oldest]);
        b->variant[oldest] = b->variant[--b->variants];
    }
}

static nm_base *longest_unused(const nm_engine *e)
{
    nm_base *found = NULL;
    for (size_t i = 0; i < e->bases; i++) {
        nm_base *b = e->base[i];
        if (b->model && !b->users && (!found || b->last_used < found->last_used)) found = b;
    }
    return found;
}

static void let_go(nm_engine *e, nm_base *b)
{
    nm_kept_trim(e, 0, b);
    if (!b->users) close_base(b);       /* else when its prefixes are in files */
}

bool nm_names_close_unused(nm_engine *e)
{
    nm_base *b = longest_unused(e);
    if (b) let_go(e, b);
    return b && !b->model;
}

void nm_names_reap(nm_engine *e, double now)
{
    for (size_t i = 0; i < e->bases; i++) {
        nm_base *b = e->base[i];
        reap_stale(e, b);
        reap_variants(b);
        if (b->model && !b->users && b->keep_alive > 0 && now - b->last_used > b->keep_alive) let_go(e, b);
    }
    while (e->want_room && !nm_shelf_busy(e) && nm_names_bytes(e) + nm_kept_bytes(e) + e->at_work + e->want_room > e->memory) {
        nm_base *b = longest_unused(e);
        if (!b) break;
        let_go(e, b);
    }
    uint64_t others = nm_names_bytes(e) + e->at_work + e->want_room;
    if (e->want_room && !nm_shelf_busy(e)) nm_kept_trim(e, others < e->memory ? e->memory - others : 0, NULL);
}

/* ---- Beginning and end ---------------------------------------------------------------------------------------------------------- */

/* The model of the command line gets a name that clients can type. */
static nm_err give_base(nm_engine *e, const char *text, nm_found *found, nm_base **base)
{
    char *own;
    NM_TRY(served_name(&own, found->path, found->name, found->place));
    nm_err err = NM_OK;
    *base = known_base(e, own, strlen(own));
    if (*base && strcmp((*base)->found.path, found->path)) err = nm_fail(NM_USAGE, "%s: two models are called %s: rename one", text, own);
    nm_base *same_file = *base ? NULL : nm_names_at(e, found->path);
    if (same_file && same_file->hidden && !strcmp(same_file->name, own)) *base = same_file;
    if (err == NM_OK && !*base) err = add_base(e, found, (nm_base){.given = true}, base);
    if (err == NM_OK) (*base)->hidden = false;
    nm_free(own);
    return err;
}

/* The adapter that has this name by now, or NULL. Nobody else is there yet. */
static const nm_named_adapter *given_adapter(const nm_engine *e, const char *name)
{
    for (size_t i = 0; i < e->n_added; i++)
        if (same(e->added[i].name, name, strlen(name))) return &e->added[i];
    return NULL;
}

static nm_err give_adapter(nm_engine *e, parts *p, const nm_found_adapter *f)
{
    char *name;
    NM_TRY(served_name(&name, f->path, f->name, f->place));
    const nm_named_adapter *known = given_adapter(e, name);
    nm_err err = NM_OK;
    if (!known) err = remember_adapter(e, name, f->path);
    else if (strcmp(known->path, f->path))
        err = nm_fail(NM_USAGE, "%s and %s: two adapters are called %s: rename one, or import it under a name of its own", known->path, f->path, name);
    if (err == NM_OK) err = add_part(e, p, name, strlen(name), (double)f->scale);
    nm_free(name);
    return err;
}

/* What stands on the command line may be paths; its adapters get names, too, but for those of a persona. options.models[i] becomes the name. */
static nm_err add_given(nm_engine *e, const char *text, char **name, nm_base **given)
{
    nm_found_stack found = {0};
    parts p = {.count = 0};
    nm_base *base = NULL;
    NM_TRY(nm_stack_find(&found, text, false));
    nm_err err = found.persona ? stand_on(e, &found, &base, &p) : give_base(e, text, &found.model, &base);
    for (size_t i = found.persona_adapters; err == NM_OK && i < found.count; i++) err = give_adapter(e, &p, &found.adapter[i]);
    if (err == NM_OK) err = variant_name(name, base, &p);
    *given = base;
    free_parts(&p);
    nm_found_stack_free(&found);
    return err;
}

nm_err nm_names_open(nm_engine *e)
{
    const char *const *given = e->options.models;
    char **names = nm_calloc(e->options.n_models + 1, sizeof *names);
    e->options.models = NULL;       /* what there is from now on is ours to free */
    e->given = nm_calloc(e->options.n_models + 1, sizeof *e->given);
    if (!names || !e->given) {
        nm_free(names);
        return nm_fail_memory(sizeof *names);
    }
    e->options.models = (const char *const *)names;
    for (size_t i = 0; i < e->options.n_models; i++) NM_TRY(add_given(e, given[i], &names[i], &e->given[i]));
    e->n_added_given = e->n_added;
    return NM_OK;
}

void nm_names_close(nm_engine *e)
{
    for (size_t i = 0; i < e->bases; i++) {
        nm_base *b = e->base[i];
        close_base(b);
        nm_free(b->adapter);
        nm_free(b->variant);
        nm_found_free(&b->found);
        nm_free(b->name);
        nm_free(b);
    }
    nm_free(e->base);
    nm_free(e->given);
    for (size_t i = 0; i < e->n_added; i++) nm_free(e->added[i].name), nm_free(e->added[i].path);
    nm_free(e->added);
    for (size_t i = 0; i < e->n_told; i++) nm_free(e->told[i]);
    nm_free(e->told);
    for (size_t i = 0; e->options.models && i < e->options.n_models; i++) nm_free((char *)e->options.models[i]);
    nm_free((void *)e->options.models);
}
