/* Kept prefixes in files: what memory has no more room for, and what is kept when the server ends, is found again by a later prompt, also of another process. A file is
 * what nm_session_save writes, which tells by itself whose it is; its name tells what it begins with, so that looking up opens nothing. Either way takes some 0.1 s for
 * 2,000 tokens of a small model (47 MB): saving has a thread of its own, looking up and loading are the clerk's, and the loop waits for neither. What goes wrong here is
 * told, and costs an answer nothing but its head start. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"
#include "os/clock.h"
#include "os/file.h"
#include "os/thread.h"
#include "server/engine_impl.h"

enum {
    LENGTH_LEAST = 256,         /* tokens of a session that is worth a file */
    WORTH = 64,                 /* tokens that a file must know more than memory does */
    LEVEL = 64, LEVELS = 10,    /* a name tells of the first 64, 128, ... 32768 tokens */
    WAITING_MOST = 16,          /* sessions to be saved; their memory is not free yet */
    CLOSING_SECONDS = 10,       /* that saving may take when the server ends */
    LEFT_SECONDS = 3600,        /* after which what is half written was left by a server that is no more */
    NAME = 256
};
#define SIZE ((uint64_t)4000000000)
#define SUFFIX ".session"

typedef struct label {          /* what a file's name tells */
    uint64_t key, whole;        /* of model, stack and kind of session; of all its tokens */
    uint32_t level[LEVELS];
    int32_t levels, length;
} label;

struct nm_shelf {
    char *folder;
    uint64_t most;              /* bytes of all files */
    pthread_t thread;
    /* Under the engine's lock: */
    nm_kept waiting[WAITING_MOST];      /* the first is at work */
    size_t count;
    uint64_t bytes;             /* of those that wait */
    bool closes, told;
    double until;               /* when closing */
};

/* ---- Names ------------------------------------------------------------------------------------------------------------------------ */

static uint64_t key_of(const nm_engine *e, const nm_variant *v)
{
    uint64_t h = nm_hash(0, v->name, strlen(v->name));
    h = nm_hash_word(h, (uint64_t)e->options.kv);
    h = nm_hash_word(h, (uint64_t)e->options.compute);
    return nm_hash_word(h, (uint64_t)v->base->context);
}

static uint64_t add_token(uint64_t h, int32_t id) { return nm_hash_word(h, (uint32_t)id); }

static uint64_t hash_tokens(const int32_t *ids, int32_t n)
{
    uint64_t h = 0;
    for (int32_t i = 0; i < n; i++) h = add_token(h, ids[i]);
    return h;
}

static label label_of(uint64_t key, const int32_t *ids, int32_t n)
{
    label l = {.key = key, .length = n};
    for (int32_t i = 0; i < n; i++) {
        l.whole = add_token(l.whole, ids[i]);
        if (l.levels < LEVELS && i + 1 == LEVEL << l.levels) l.level[l.levels++] = (uint32_t)(l.whole >> 32);
    }
    return l;
}

static void write_name(char name[NAME], const label *l, const char *suffix)
{
    int n = snprintf(name, NAME, "%016" PRIx64 "-", l->key);
    for (int32_t i = 0; i < l->levels; i++) n += snprintf(name + n, NAME - (size_t)n, "%08" PRIx32, l->level[i]);
    snprintf(name + n, NAME - (size_t)n, "-%016" PRIx64 "-%" PRId32 "%s", l->whole, l->length, suffix);
}

/* So many hexadecimal digits and, with `end`, that character behind them. */
static bool read_hex(const char **at, int digits, char end, uint64_t *value)
{
    for (*value = 0; digits; digits--, ++*at) {
        const char *all = "0123456789abcdef", *found = **at ? strchr(all, **at) : NULL;
        if (!found) return false;
        *value = *value << 4 | (uint64_t)(found - all);
    }
    return !end || *(*at)++ == end;
}

/* False for a file that is not ours. */
static bool read_name(label *l, const char *name)
{
    uint64_t level;
    *l = (label){0};
    if (!read_hex(&name, 16, '-', &l->key)) return false;
    for (; *name != '-'; l->level[l->levels++] = (uint32_t)level)
        if (l->levels == LEVELS || !read_hex(&name, 8, 0, &level)) return false;
    name++;
    if (!read_hex(&name, 16, '-', &l->whole) || *name < '1' || *name > '9') return false;
    char *end;
    long length = strtol(name, &end, 10);
    l->length = length > 0 && length <= INT32_MAX ? (int32_t)length : 0;
    return l->length && !strcmp(end, SUFFIX);
}

/* How many of the first n tokens a file has, as far as its name tells; `of` is their own label. */
static int32_t known_by(const label *file, const label *of, const int32_t *ids)
{
    int32_t known = 0;
    if (file->key != of->key) return 0;
    for (int32_t i = 0; i < file->levels && i < of->levels && file->level[i] == of->level[i]; i++) known = LEVEL << i;
    return known && file->length <= of->length && hash_tokens(ids, file->length) == file->whole ? file->length : known;
}

/* ---- Files ------------------------------------------------------------------------------------------------------------------------- */

/* New text (nm_free), or NULL without memory. */
static char *path_of(const nm_shelf *s, const char *name)
{
    nm_str path = {0};
    nm_err err = nm_str_printf(&path, "%s/%s", s->folder, name);
    if (err != NM_OK) nm_str_free(&path);
    return nm_str_take(&path, NULL);
}

static void remove_file(const nm_shelf *s, const char *name)
{
    char *path = path_of(s, name);
    if (path) unlink(path);
    nm_free(path);
}

typedef struct on_disk { const char *name; uint64_t bytes; struct timespec used; } on_disk;

static int by_use(const void *a, const void *b)
{
    const struct timespec *x = &((const on_disk *)a)->used, *y = &((const on_disk *)b)->used;
    if (x->tv_sec != y->tv_sec) return x->tv_sec < y->tv_sec ? -1 : 1;
    return (x->tv_nsec > y->tv_nsec) - (x->tv_nsec < y->tv_nsec);
}

/* Files of ours with their sizes, those that were longest not used first. */
static nm_err measure(const nm_shelf *s, char **names, size_t n, on_disk **out, size_t *count)
{
    label l;
    struct stat st;
    *count = 0;
    *out = nm_calloc(n + 1, sizeof **out);
    if (!*out) return nm_fail_memory(n * sizeof **out);
    for (size_t i = 0; i < n; i++) {
        char *path = read_name(&l, names[i]) ? path_of(s, names[i]) : NULL;
        if (path && !lstat(path, &st)) (*out)[(*count)++] = (on_disk){names[i], (uint64_t)st.st_size, st.st_mtim};
        nm_free(path);
    }
    qsort(*out, *count, sizeof **out, by_use);
    return NM_OK;
}

/* Removes what was longest not used until `most` bytes are left. */
static nm_err trim(const nm_shelf *s, char **names, size_t n)
{
    on_disk *file;
    size_t count;
    uint64_t have = 0;
    NM_TRY(measure(s, names, n, &file, &count));
    for (size_t i = 0; i < count; i++) have += file[i].bytes;
    for (size_t i = 0; i < count && have > s->most; have -= file[i++].bytes) remove_file(s, file[i].name);
    nm_free(file);
    return NM_OK;
}

/* Files that the new one begins with say nothing more, unless its window has dropped pages that they still have. */
static void remove_fronts(const nm_shelf *s, const label *of, const nm_session *session, char **names, size_t n)
{
    const int32_t *ids = nm_session_tokens(session);
    label l;
    for (size_t i = 0; i < n; i++)
        if (read_name(&l, names[i]) && l.length < of->length && known_by(&l, of, ids) == l.length && nm_session_reach(session, l.length) == l.length) remove_file(s, names[i]);
}

static nm_err tidy(const nm_shelf *s, const label *of, const nm_session *session)
{
    char **names;
    size_t n;
    NM_TRY(nm_folder_names(&names, &n, s->folder, SUFFIX));
    remove_fronts(s, of, session, names, n);
    nm_err err = trim(s, names, n);
    nm_names_free(names, n);
    return err;
}

/* ---- Saving -------------------------------------------------------------------------------------------------------------------------- */

/* A new file of mine alone: saving keeps the bits of what is there. Only the whole one gets the name that is looked for. */
static nm_err save_as(const nm_session *session, const char *path, const char *part)
{
    int fd = open(part, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return nm_fail(NM_FAILED, "%s: cannot be written: %s", part, strerror(errno));
    close(fd);
    nm_err err = nm_session_save(session, part);
    if (err == NM_OK && rename(part, path)) err = nm_fail(NM_FAILED, "%s: cannot be put in place: %s", path, strerror(errno));
    if (err != NM_OK) unlink(part);
    return err;
}

static nm_err save(nm_engine *e, const nm_kept *k)
{
    nm_shelf *s = e->shelf;
    const int32_t *ids = nm_session_tokens(k->session);
    label l = label_of(key_of(e, k->variant), ids, nm_session_length(k->session));
    char name[NAME];
    write_name(name, &l, SUFFIX);
    char *path = path_of(s, name);
    write_name(name, &l, ".part");
    char *part = path_of(s, name);
    nm_err err = NM_OK;
    if (!path || !part) err = nm_fail_memory(NAME);
    else if (utimensat(AT_FDCWD, path, NULL, AT_SYMLINK_NOFOLLOW)) {       /* else it is there */
        err = save_as(k->session, path, part);
        if (err == NM_OK) err = tidy(s, &l, k->session);
    }
    nm_free(path);
    nm_free(part);
    return err;
}

/* The first of a row of failures is told: a full disk stays full. */
static void save_and_tell(nm_engine *e, const nm_kept *k)
{
    nm_shelf *s = e->shelf;
    nm_err err = save(e, k);
    if (err != NM_OK && !s->told) nm_engine_note(e, nm_error_text());
    s->told = err != NM_OK;
}

static bool worth_saving(const nm_shelf *s, const nm_kept *k)
{
    return nm_session_length(k->session) >= LENGTH_LEAST && k->bytes <= s->most;
}

bool nm_shelf_put(nm_engine *e, const nm_kept *k)
{
    nm_shelf *s = e->shelf;
    if (!s || s->closes || !worth_saving(s, k) || s->count == WAITING_MOST || (s->count && s->bytes + k->bytes > e->kept_most / 4)) return false;
    s->waiting[s->count++] = *k;
    s->bytes += k->bytes;
    k->variant->base->users++;      /* stays open until it is saved */
    pthread_cond_broadcast(&e->work);
    return true;
}

bool nm_shelf_busy(const nm_engine *e) { return e->shelf && e->shelf->count; }

/* Under the lock: what was first is done with. */
static void done(nm_engine *e)
{
    nm_shelf *s = e->shelf;
    nm_kept k = s->waiting[0];
    s->bytes -= k.bytes;
    nm_session_close(&k.session);
    k.variant->users--;
    k.variant->base->users--;
    memmove(s->waiting, s->waiting + 1, --s->count * sizeof *s->waiting);
    pthread_cond_broadcast(&e->work);       /* perhaps its model is to be closed */
}

static void *shelf_main(void *engine)
{
    nm_engine *e = engine;
    nm_shelf *s = e->shelf;
    pthread_mutex_lock(&e->lock);
    for (;;) {
        while (!s->count && !s->closes) pthread_cond_wait(&e->work, &e->lock);
        if (!s->count) break;
        bool late = s->closes && nm_clock_seconds() > s->until;
        pthread_mutex_unlock(&e->lock);
        if (!late) save_and_tell(e, &s->waiting[0]);
        pthread_mutex_lock(&e->lock);
        done(e);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

/* ---- Looking up ------------------------------------------------------------------------------------------------------------------------ */

static int32_t common(const int32_t *a, size_t n_a, const int32_t *b, size_t n_b)
{
    size_t n = n_a < n_b ? n_a : n_b, same = 0;
    while (same < n && a[same] == b[same]) same++;
    return (int32_t)same;
}

static int32_t longest_in(const nm_job *const *jobs, size_t count, const nm_job *j)
{
    int32_t most = 0;
    for (size_t i = 0; i < count; i++) {
        const nm_job *other = jobs[i];
        if (other->kind != NM_JOB_ANSWER || other->variant != j->variant || other->ask.no_cache) continue;
        int32_t same = common(other->ids, other->n_ids, j->ids, j->n_ids);
        if (same > most) most = same;
    }
    return most;
}

/* What memory has, or will have once those before it are read. A session that is kept is not changed: under the lock it may be read. */
static int32_t known_in_memory(nm_engine *e, const nm_job *j)
{
    pthread_mutex_lock(&e->lock);
    int32_t most = longest_in((const nm_job *const *)e->running, e->n_running, j);
    for (const nm_job *other = e->ready; other; other = other->next) {
        int32_t same = longest_in(&other, 1, j);
        if (same > most) most = same;
    }
    for (size_t i = 0; i < e->n_kept; i++) {
        const nm_session *s = e->kept[i].session;
        int32_t same = e->kept[i].variant == j->variant ? nm_kept_common(s, j->ids, j->n_ids) : 0;
        if (same > most) most = same;
    }
    pthread_mutex_unlock(&e->lock);
    return most;
}

/* Bytes that more may be loaded of: what is loaded for requests that wait counts for nobody yet, so beside one there is a quarter of what may be kept. */
static uint64_t room_to_load(nm_engine *e)
{
    uint64_t loaded = 0;
    pthread_mutex_lock(&e->lock);
    for (const nm_job *j = e->ready; j; j = j->next)
        if (j->shelved) loaded += nm_session_need(e, j->variant->base, (size_t)nm_session_length(j->shelved));
    pthread_mutex_unlock(&e->lock);
    uint64_t most = loaded ? e->kept_most / 4 : e->kept_most;
    return loaded < most ? most - loaded : 0;
}

/* The file of at most so many tokens that knows most of the prompt; NULL where none knows enough. New text (nm_free). */
static nm_err find(const nm_shelf *s, const label *of, const int32_t *ids, int32_t known, int32_t longest, char **found)
{
    char **names;
    size_t n, best = SIZE_MAX;
    int32_t most = known + WORTH - 1;
    label l;
    *found = NULL;
    NM_TRY(nm_folder_names(&names, &n, s->folder, SUFFIX));
    for (size_t i = 0; i < n; i++) {
        int32_t has = read_name(&l, names[i]) && l.length <= longest ? known_by(&l, of, ids) : 0;
        if (has > most) most = has, best = i;
    }
    nm_err err = NM_OK;
    if (best != SIZE_MAX && !(*found = path_of(s, names[best]))) err = nm_fail_memory(NAME);
    nm_names_free(names, n);
    return err;
}

/* What does not belong to this model and stack, or is damaged, is of no use to anybody who would look for it by this name. */
static nm_err load(const nm_job *j, nm_session **out, const char *path)
{
    nm_err err = nm_session_load(out, j->variant->base->model, j->variant->stack, path);
    if (err == NM_NOT_FOUND) return NM_OK;      /* removed meanwhile */
    if (err == NM_REFUSED || err == NM_BAD_FILE) {
        unlink(path);
        return nm_fail(err, "%s; the file is removed", nm_error_text());
    }
    NM_TRY(err);
    if (nm_session_context(*out) != j->variant->base->context) nm_session_close(out);
    else utimensat(AT_FDCWD, path, NULL, AT_SYMLINK_NOFOLLOW);
    return NM_OK;
}

void nm_shelf_find(nm_engine *e, nm_job *j)
{
    int32_t n = (int32_t)j->n_ids - 1;      /* the last token's logits are needed */
    char *path = NULL;
    if (!e->shelf || j->ask.no_cache || j->ask.echo_logprobs || n < LEVEL) return;
    label l = label_of(key_of(e, j->variant), j->ids, n);
    const nm_base *b = j->variant->base;
    uint64_t longest = room_to_load(e) / (nm_session_need(e, b, (size_t)b->context) / (uint64_t)b->context + 1);      /* more would not be kept */
    nm_err err = find(e->shelf, &l, j->ids, known_in_memory(e, j), longest < INT32_MAX ? (int32_t)longest : INT32_MAX, &path);
    if (err == NM_OK && path) err = load(j, &j->shelved, path);
    if (err != NM_OK) nm_engine_note(e, nm_error_text());
    nm_free(path);
}

/* ---- Beginning and end ------------------------------------------------------------------------------------------------------------------- */

/* The two names that a file has before it is whole (save_as, and nm_new_file). */
static bool is_half(const char *name)
{
    size_t n = strlen(name);
    return (n > 5 && !strcmp(name + n - 5, ".part")) || !strncmp(name, ".nomoat-", 8);
}

/* Nothing else would, and they are beside the bound of bytes. */
static void remove_left(const nm_shelf *s)
{
    DIR *dir = opendir(s->folder);
    struct stat st;
    for (struct dirent *d; dir && (d = readdir(dir));) {
        char *path = is_half(d->d_name) ? path_of(s, d->d_name) : NULL;
        if (path && !lstat(path, &st) && S_ISREG(st.st_mode) && st.st_mtime < time(NULL) - LEFT_SECONDS) unlink(path);
        nm_free(path);
    }
    if (dir) closedir(dir);
}

void nm_shelf_open(nm_engine *e)
{
    const char *folder = e->options.kept_folder;
    nm_shelf *s = folder ? nm_calloc(1, sizeof *s) : NULL;
    if (!s) return;
    s->most = e->options.kept_folder_bytes ? e->options.kept_folder_bytes : SIZE;
    s->folder = nm_strndup(folder, strlen(folder));
    nm_err err = s->folder ? nm_folder_make(folder, 0700) : nm_fail_memory(strlen(folder));
    e->shelf = s;
    if (err == NM_OK) remove_left(s);
    if (err == NM_OK && nm_thread_start(&s->thread, shelf_main, e)) err = nm_fail(NM_FAILED, "no thread for kept prefixes could be started");
    if (err == NM_OK) return;
    nm_engine_note(e, nm_error_text());
    nm_free(s->folder);
    nm_free(s);
    e->shelf = NULL;
}

static int newest_first(const void *a, const void *b)
{
    double x = ((const nm_kept *)a)->last_used, y = ((const nm_kept *)b)->last_used;
    return (x < y) - (x > y);
}

/* As much as fits the folder, and the time. */
static void save_kept(nm_engine *e)
{
    const nm_shelf *s = e->shelf;
    uint64_t bytes = 0;
    if (e->n_kept) qsort(e->kept, e->n_kept, sizeof *e->kept, newest_first);
    for (size_t i = 0; i < e->n_kept && nm_clock_seconds() < s->until; i++) {
        if (!worth_saving(s, &e->kept[i])) continue;
        bytes += e->kept[i].bytes;
        if (bytes > s->most) break;
        save_and_tell(e, &e->kept[i]);
    }
}

void nm_shelf_close(nm_engine *e)
{
    nm_shelf *s = e->shelf;
    if (!s) return;
    pthread_mutex_lock(&e->lock);
    s->closes = true;
    s->until = nm_clock_seconds() + CLOSING_SECONDS;
    pthread_cond_broadcast(&e->work);
    pthread_mutex_unlock(&e->lock);
    pthread_join(s->thread, NULL);
    save_kept(e);
    e->shelf = NULL;
    nm_free(s->folder);
    nm_free(s);
}
