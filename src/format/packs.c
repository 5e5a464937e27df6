/* The folder of kept packs. */
#include "format/packs.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/cancel.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "os/file.h"
#include "os/thread.h"

static const char kept[] = ".pack", unfinished[] = ".tmp";

nm_err nm_packs_folder(char **path)
{
    char *cache;
    nm_str s = {0};
    *path = NULL;
    NM_TRY(nm_folder_find(NM_FOLDER_CACHE, &cache));
    nm_err err = nm_str_printf(&s, "%s/packs", cache);
    if (err == NM_OK) *path = nm_str_take(&s, NULL);
    nm_str_free(&s);
    nm_free(cache);
    return err;
}

/* FOLDER/KEY.pack or .tmp */
static nm_err name_of(char **path, const char *folder, uint64_t key, const char *suffix)
{
    nm_str s = {0};
    nm_err err = nm_str_printf(&s, "%s/%016llx%s", folder, (unsigned long long)key, suffix);
    *path = err == NM_OK ? nm_str_take(&s, NULL) : NULL;
    nm_str_free(&s);
    return err;
}

/* ---- What lies there ------------------------------------------------------------------------------------------------------- */

void nm_packs_list_free(nm_packs_entry *list, size_t count)
{
    for (size_t i = 0; i < count; i++) nm_free(list[i].path);
    nm_free(list);
}

static int by_use(const void *a, const void *b)
{
    const nm_packs_entry *x = a, *y = b;
    return x->used_ns < y->used_ns ? -1 : x->used_ns > y->used_ns;
}

static nm_err list_folder(nm_packs_entry **list, size_t *count, const char *folder)
{
    char **names;
    size_t n, capacity = 0;
    *list = NULL;
    *count = 0;
    NM_TRY(nm_folder_names(&names, &n, folder, kept));
    nm_err err = NM_OK;
    for (size_t i = 0; i < n && err == NM_OK; i++) {
        struct stat st;
        nm_str s = {0};
        err = nm_str_printf(&s, "%s/%s", folder, names[i]);
        if (err == NM_OK && stat(s.data, &st) == 0 && S_ISREG(st.st_mode) && (err = NM_GROW(*list, capacity, *count + 1)) == NM_OK) {
            (*list)[*count] = (nm_packs_entry){.bytes = (uint64_t)st.st_size, .used_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec};
            (*list)[(*count)++].path = nm_str_take(&s, NULL);
        }
        nm_str_free(&s);
    }
    nm_names_free(names, n);
    if (err == NM_OK && *count) qsort(*list, *count, sizeof **list, by_use);
    if (err == NM_OK) return NM_OK;
    nm_packs_list_free(*list, *count);
    *list = NULL;
    *count = 0;
    return err;
}

nm_err nm_packs_list(nm_packs_entry **list, size_t *count)
{
    char *folder;
    *list = NULL;
    *count = 0;
    NM_TRY(nm_packs_folder(&folder));
    nm_err err = list_folder(list, count, folder);
    nm_free(folder);
    return err;
}

/* Locks an unfinished pack for as long as the descriptor lives. False if somebody else has it, or it cannot be had; then *fd is -1 and errno says why. */
static bool lock_unfinished(int *fd, const char *path, int flags)
{
    struct stat mine, there;
    *fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (*fd < 0) return false;
    /* What was locked may have been renamed or removed meanwhile: the name must still mean it. */
    int why = flock(*fd, LOCK_EX | LOCK_NB) ? errno : 0;
    if (!why && !fstat(*fd, &mine) && !stat(path, &there) && mine.st_ino == there.st_ino && mine.st_dev == there.st_dev) return true;
    if (why && why != EWOULDBLOCK && why != EINTR && flags & O_CREAT) unlink(path);     /* a file system without locks: nobody could ever tell whose it is */
    close(*fd);
    *fd = -1;
    errno = why ? why : EWOULDBLOCK;
    return false;
}

static void remove_left_behind(const char *folder)
{
    char **names;
    size_t n;
    if (nm_folder_names(&names, &n, folder, unfinished) != NM_OK) return;
    for (size_t i = 0; i < n; i++) {
        nm_str s = {0};
        int fd;
        if (nm_str_printf(&s, "%s/%s", folder, names[i]) == NM_OK && lock_unfinished(&fd, s.data, O_RDWR)) {
            unlink(s.data);
            close(fd);
        }
        nm_str_free(&s);
    }
    nm_names_free(names, n);
}

/* ---- Finding --------------------------------------------------------------------------------------------------------------- */

nm_err nm_packs_open(nm_map *map, nm_packfile *file, uint64_t key)
{
    char *folder, *path = NULL;
    *map = (nm_map){.slot = -1};
    *file = (nm_packfile){0};
    NM_TRY(nm_packs_folder(&folder));
    remove_left_behind(folder);
    nm_err err = name_of(&path, folder, key, kept);
    if (err == NM_OK && nm_map_open_huge(map, path) != NM_OK) err = NM_NOT_FOUND;
    if (err == NM_OK && map->owner != geteuid() && map->owner != 0) err = NM_NOT_FOUND;
    else if (err == NM_OK && (err = nm_packfile_read(file, map->data, map->size)) != NM_OK) {
        if (err == NM_BAD_FILE) unlink(path);       /* another version's may be another program's */
        err = NM_NOT_FOUND;
    }
    if (err == NM_OK) utimensat(AT_FDCWD, path, NULL, 0);       /* where it may not be written nobody removes from it either */
    else nm_map_close(map);
    nm_free(path);
    nm_free(folder);
    return err;
}

nm_err nm_packs_verify(const char *path, char **source, nm_progress_fn progress, void *arg)
{
    nm_map map;
    nm_packfile file;
    *source = NULL;
    nm_err err = nm_map_open_huge(&map, path);     /* so that what is read from the disk lies in huge pages, for later */
    if (err == NM_OK) err = nm_packfile_read(&file, map.data, map.size);
    if (err == NM_OK && !(*source = nm_strndup(file.path, strlen(file.path)))) err = nm_fail_memory(strlen(file.path));
    if (err == NM_OK) err = nm_packfile_verify(&file, progress, arg);
    if (err == NM_BAD_FILE) unlink(path);
    nm_map_close(&map);
    return err;
}

nm_err nm_packs_clear(size_t *count, uint64_t *bytes)
{
    nm_packs_entry *list;
    size_t n;
    char *folder;
    *count = 0;
    *bytes = 0;
    NM_TRY(nm_packs_folder(&folder));
    remove_left_behind(folder);
    nm_err err = list_folder(&list, &n, folder);
    nm_free(folder);
    NM_TRY(err);
    for (size_t i = 0; i < n; i++) {
        if (unlink(list[i].path)) {
            if (errno != ENOENT && err == NM_OK) err = nm_fail(NM_FAILED, "%s: cannot be removed: %s", list[i].path, strerror(errno));
            continue;
        }
        ++*count;
        *bytes += list[i].bytes;
    }
    nm_packs_list_free(list, n);
    return err;
}

/* ---- The bound --------------------------------------------------------------------------------------------------------------- */

static nm_err parse_limit(const char *text, uint64_t *bytes)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    const char *units = "KMGT", *unit = isalpha((unsigned char)*end) ? strchr(units, *end & ~0x20) : NULL;
    for (const char *u = units; unit && u <= unit; u++) value *= 1000;
    if (errno || end == text || !(value >= 0 && value < 0x1p63) || end[unit ? 1 : 0])
        return nm_fail(NM_USAGE, "NOMOAT_PACK_LIMIT is '%s': give a number of bytes, with K, M, G or T, or 0", text);
    *bytes = (uint64_t)value;
    return NM_OK;
}

/* Of the file system of a folder that may not exist yet. */
static uint64_t free_bytes(const char *folder)
{
    struct statvfs v;
    char path[4096];
    snprintf(path, sizeof path, "%s", folder);
    while (statvfs(path, &v)) {
        char *slash = strrchr(path, '/');
        if (errno != ENOENT || !slash || slash == path) return 0;
        *slash = 0;
    }
    return (uint64_t)v.f_bavail * v.f_frsize;
}

static nm_err limit_of(uint64_t *bytes, const char *folder, uint64_t ours)
{
    const char *set = getenv("NOMOAT_PACK_LIMIT");
    if (set && *set) return parse_limit(set, bytes);
    *bytes = (free_bytes(folder) + ours) / 2;
    return NM_OK;
}

static uint64_t sum_of(const nm_packs_entry *list, size_t count)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) sum += list[i].bytes;
    return sum;
}

nm_err nm_packs_limit(uint64_t *bytes)
{
    nm_packs_entry *list = NULL;
    size_t count = 0;
    char *folder;
    NM_TRY(nm_packs_folder(&folder));
    nm_err err = list_folder(&list, &count, folder);
    if (err == NM_OK) err = limit_of(bytes, folder, sum_of(list, count));
    nm_packs_list_free(list, count);
    nm_free(folder);
    return err;
}

/* Removes those unused longest until `need` bytes more are within the bound. *wanted is false where the user wants none kept. */
static nm_err make_room(const char *folder, uint64_t need, bool *wanted)
{
    nm_packs_entry *list;
    size_t count;
    uint64_t limit = 0;
    NM_TRY(list_folder(&list, &count, folder));
    uint64_t ours = sum_of(list, count);
    nm_err err = limit_of(&limit, folder, ours);
    *wanted = limit > 0;
    if (err == NM_OK && limit && need > limit)
        err = nm_fail(NM_REFUSED, "%s: packed weights of %llu MB are more than may be kept there, %llu MB", folder,
            (unsigned long long)(need / 1000000), (unsigned long long)(limit / 1000000));
    for (size_t i = 0; i < count && err == NM_OK && limit && ours > limit - need; i++) {
        if (unlink(list[i].path) == 0 || errno == ENOENT) ours -= list[i].bytes;
    }
    nm_packs_list_free(list, count);
    return err;
}

/* ---- Keeping ----------------------------------------------------------------------------------------------------------------- */

struct nm_packs_writer {
    pthread_t thread;
    int fd;                         /* of the unfinished file, locked */
    char *folder, *temporary, *final;
    void *head;
    const uint8_t *data;
    size_t head_bytes, data_bytes;
    atomic_bool stop;
};

static void free_writer(nm_packs_writer *w)
{
    if (w->fd >= 0) close(w->fd);
    nm_free(w->folder);
    nm_free(w->temporary);
    nm_free(w->final);
    nm_free(w->head);
    nm_free(w);
}

static bool write_piece(nm_packs_writer *w, const uint8_t *data, size_t bytes, uint64_t at)
{
    while (bytes) {
        ssize_t put = pwrite(w->fd, data, bytes, (off_t)at);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return false;
        data += put;
        bytes -= (size_t)put;
        at += (uint64_t)put;
    }
    return true;
}

/* False where bytes were lost: a descriptor tells of that once, here, and fsync would then know nothing of it. File systems that cannot do this are no failure. */
static bool sync_range(int fd, uint64_t from, uint64_t to, unsigned how)
{
    return sync_file_range(fd, (off_t)from, (off_t)(to - from), how) == 0 || (errno != EIO && errno != ENOSPC && errno != EDQUOT);
}

/* Each piece reaches the disk before the next but one is written: so no more than two are dirty, and giving up is never far away. Pieces begin at
 * multiples of their size, which gives the file huge pages. */
static bool write_all(nm_packs_writer *w)
{
    enum { PIECE = 16 << 20 };
    if (!write_piece(w, w->head, w->head_bytes, 0)) return false;
    uint64_t end = w->head_bytes + w->data_bytes;
    for (uint64_t at = w->head_bytes, next, last = 0; at < end; last = at, at = next) {
        next = (at / PIECE + 1) * PIECE;
        if (next > end) next = end;
        if (atomic_load(&w->stop) || !write_piece(w, w->data + (at - w->head_bytes), (size_t)(next - at), at)) return false;
        if (!sync_range(w->fd, at, next, SYNC_FILE_RANGE_WRITE)) return false;
        if (at > last && !sync_range(w->fd, last, at, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER)) return false;
    }
    return fsync(w->fd) == 0;
}

/* Another state of the same file: same path and device, and yet not the same words. */
static bool is_replaced(const nm_packfile *old, const nm_packfile *now)
{
    uint64_t words = now->head->words;
    return *old->path && strcmp(old->path, now->path) == 0 && old->head->words && words && old->word[0] == now->word[0] &&
        (old->head->words != words || memcmp(old->word, now->word, (size_t)words * sizeof *now->word) != 0);
}

static void remove_replaced(const nm_packs_writer *w)
{
    nm_packs_entry *list;
    size_t count;
    nm_packfile now = {.head = w->head};
    now.word = (const uint64_t *)(now.head + 1);
    now.path = (const char *)((const nm_packfile_tensor *)(now.word + now.head->words) + now.head->tensors);
    if (list_folder(&list, &count, w->folder) != NM_OK) return;
    for (size_t i = 0; i < count; i++) {
        nm_map map;
        nm_packfile old;
        if (strcmp(list[i].path, w->final) == 0 || nm_map_open(&map, list[i].path) != NM_OK) continue;
        if (nm_packfile_read(&old, map.data, map.size) == NM_OK && is_replaced(&old, &now)) unlink(list[i].path);
        nm_map_close(&map);
    }
    nm_packs_list_free(list, count);
}

static void *keep(void *arg)
{
    nm_packs_writer *w = arg;
    if (write_all(w) && rename(w->temporary, w->final) == 0) {
        nm_folder_flush(w->folder);
        remove_replaced(w);
    } else {
        unlink(w->temporary);
    }
    return NULL;
}

static nm_err cannot_keep(const nm_packs_writer *w) { return nm_fail(NM_FAILED, "%s: packed weights cannot be kept there: %s", w->folder, strerror(errno)); }

/* The blocks of the whole file at once: a disk that is too full says so now. */
static nm_err reserve(nm_packs_writer *w)
{
    struct rlimit most;
    uint64_t need = w->head_bytes + w->data_bytes;
    if (getrlimit(RLIMIT_FSIZE, &most) == 0 && most.rlim_cur != RLIM_INFINITY && need > most.rlim_cur) {
        errno = EFBIG;
        return cannot_keep(w);
    }
    if (ftruncate(w->fd, 0)) return cannot_keep(w);
    if (fallocate(w->fd, 0, 0, (off_t)need) == 0) return NM_OK;
    if (errno != EOPNOTSUPP && errno != ENOSYS) return cannot_keep(w);
    if (free_bytes(w->folder) >= need) return NM_OK;
    errno = ENOSPC;
    return cannot_keep(w);
}

static nm_err start(nm_packs_writer *w)
{
    int why = nm_thread_start(&w->thread, keep, w);     /* which is not ended by the signal of a file that is too long */
    return why ? nm_fail(NM_FAILED, "cannot start a thread that keeps packed weights: %s", strerror(why)) : NM_OK;
}

/* *busy: somebody else writes this pack, or the user wants none. */
static nm_err prepare(nm_packs_writer *w, uint64_t key, bool *busy)
{
    char *cache;
    bool wanted = true;
    *busy = false;
    NM_TRY(nm_folder_open(NM_FOLDER_CACHE, &cache));
    nm_free(cache);
    NM_TRY(nm_packs_folder(&w->folder));
    NM_TRY(nm_folder_make(w->folder, 0700));
    NM_TRY(name_of(&w->final, w->folder, key, kept));
    NM_TRY(name_of(&w->temporary, w->folder, key, unfinished));
    if (!lock_unfinished(&w->fd, w->temporary, O_RDWR | O_CREAT)) {
        *busy = errno == EWOULDBLOCK;
        return *busy ? NM_OK : cannot_keep(w);
    }
    nm_err err = make_room(w->folder, w->head_bytes + w->data_bytes, &wanted);
    if (err == NM_OK && wanted) err = reserve(w);
    if (err != NM_OK || !wanted) unlink(w->temporary);
    *busy = !wanted;
    return err;
}

nm_err nm_packs_begin(nm_packs_writer **out, uint64_t key, void *head, const void *data, size_t data_bytes)
{
    bool busy = false;
    *out = NULL;
    nm_packs_writer *w = nm_calloc(1, sizeof *w);
    if (!w) {
        nm_free(head);
        return nm_fail_memory(sizeof *w);
    }
    *w = (nm_packs_writer){.fd = -1, .head = head, .head_bytes = (size_t)((nm_packfile_head *)head)->data_at, .data = data, .data_bytes = data_bytes};
    nm_err err = prepare(w, key, &busy);
    if (err == NM_OK && !busy && (err = start(w)) != NM_OK) unlink(w->temporary);
    if (err == NM_OK && !busy) *out = w;
    else free_writer(w);
    return err;
}

void nm_packs_end(nm_packs_writer **writer, const volatile sig_atomic_t *cancel)
{
    nm_packs_writer *w = *writer;
    *writer = NULL;
    if (!w) return;
    for (bool ended = false; !ended;) {
        struct timespec until;
        if (nm_cancelled(cancel)) atomic_store(&w->stop, true);
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 50000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000;
        }
        ended = pthread_timedjoin_np(w->thread, NULL, &until) != ETIMEDOUT;
    }
    free_writer(w);
}
