/* Changing a store, of models or of adapters: under a lock, in a temporary folder, by one rename. And what a name in it may be. */
#include "hub/hub.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "os/file.h"

enum { PIECE = 1 << 20 };

/* ---- Names ------------------------------------------------------------------------------------------------------- */

/* Letters, digits and "._-:" with a letter or digit in front: no slash, no '+' (stacks), nothing hidden. */
static nm_err check_name(const char *name)
{
    size_t n = strlen(name);
    bool good = n > 0 && n <= NM_NAME_LONGEST && isalnum((unsigned char)name[0]);
    for (size_t i = 0; good && i < n; i++) good = isalnum((unsigned char)name[i]) || strchr("._-:", name[i]);
    if (good) return NM_OK;
    return nm_fail(NM_USAGE, "'%s' cannot be a name: use up to %d letters, digits and . _ - : beginning with a letter or digit",
                   name, NM_NAME_LONGEST);
}

/* "NAME:latest" is NAME. */
nm_err nm_store_plain_name(char **out, const char *name)
{
    size_t n = strlen(name);
    if (n > 7 && !strcmp(name + n - 7, ":latest")) n -= 7;
    *out = nm_strndup(name, n);
    if (!*out) return nm_fail_memory(n);
    nm_err err = check_name(*out);
    if (err != NM_OK) {
        nm_free(*out);
        *out = NULL;
    }
    return err;
}

/* A name made from a file's: without folder, split number and ".gguf"; what a name may not hold becomes '-'. "model" if nothing is left. */
nm_err nm_name_from_file(char **out, const char *file)
{
    const char *base = strrchr(file, '/');
    int number, count;
    size_t n;
    base = base ? base + 1 : file;
    if (!nm_split_name(base, &number, &count, &n)) {
        n = strlen(base);
        if (n > 5 && !strcasecmp(base + n - 5, ".gguf")) n -= 5;
    }
    while (n && !isalnum((unsigned char)*base)) base++, n--;
    if (n > NM_NAME_LONGEST) n = NM_NAME_LONGEST;
    char *name = n ? nm_strndup(base, n) : nm_strndup("model", 5);
    if (!name) return nm_fail_memory(n);
    for (char *c = name; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("._-", *c)) *c = '-';
    *out = name;
    return NM_OK;
}

/* ---- Changing ---------------------------------------------------------------------------------------------------- */

const nm_change nm_no_change = {.lock = -1};

static int delete_entry(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st, (void)kind, (void)at;
    remove(path);
    return 0;
}

/* Deletes a folder with all that lies in it: a file manager or a killed process may have left hidden files and folders there. Links are
 * not followed. What cannot be deleted stays, and is tried again by the next change. */
static void delete_folder(const char *folder) { nftw(folder, delete_entry, 16, FTW_DEPTH | FTW_PHYS); }

void nm_change_end(nm_change *w)
{
    if (w->temporary) delete_folder(w->temporary);
    if (w->lock >= 0) close(w->lock);
    nm_free(w->temporary);
    nm_free(w->store);
    *w = nm_no_change;
}

static nm_err take_lock(nm_change *w, const char *path, nm_wait_fn wait)
{
    const struct timespec pause = {.tv_nsec = 50000000};
    w->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    while (w->lock < 0 || flock(w->lock, wait ? LOCK_EX | LOCK_NB : LOCK_EX)) {
        if (w->lock < 0 || (errno != EWOULDBLOCK && errno != EINTR))
            return nm_fail_system(NM_FAILED, errno, "%s: the store cannot be locked", path);
        if (wait && wait()) return nm_fail(NM_INTERRUPTED, "interrupted while waiting for the store");
        if (wait) nanosleep(&pause, NULL);
    }
    return NM_OK;
}

/* One temporary name for all is enough under the lock, and what an ended process left there goes away with it. */
nm_err nm_change_begin(nm_change *w, char *store, nm_wait_fn wait)
{
    char *path = NULL;
    nm_err err = NM_OK;
    *w = (nm_change){.lock = -1, .store = store};
    NM_GOTO(nm_folder_make(w->store, 0700));
    NM_GOTO(nm_format(&path, "%s/.lock", w->store));
    NM_GOTO(take_lock(w, path, wait));
    NM_GOTO(nm_format(&w->temporary, "%s/.tmp", w->store));
    delete_folder(w->temporary);
    if (mkdir(w->temporary, 0700)) NM_GOTO(nm_fail_system(NM_FAILED, errno, "%s: cannot be made", w->temporary));
out:
    nm_free(path);
    if (err != NM_OK) nm_change_end(w);
    return err;
}

static nm_err copy_bytes(int from, int to, const char *path, uint64_t *done, uint64_t total, const nm_import_options *o)
{
    char *piece = nm_malloc(PIECE);
    nm_err err = piece ? NM_OK : nm_fail_memory(PIECE);
    while (err == NM_OK) {
        ssize_t got = read(from, piece, PIECE), put = 0;
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) err = nm_fail(NM_FAILED, "%s: cannot be read: %s", path, strerror(errno));
        if (got <= 0) break;
        for (ssize_t n; put < got; put += n) {
            n = write(to, piece + put, (size_t)(got - put));
            if (n < 0 && errno == EINTR) n = 0;
            if (n < 0) break;
        }
        if (put < got) err = nm_fail_system(NM_FAILED, errno, "%s: its copy cannot be written", path);
        *done += (uint64_t)got;
        if (err == NM_OK && o->progress && o->progress(o->progress_arg, *done, total))
            err = nm_fail(NM_INTERRUPTED, "%s: copying was interrupted", path);
    }
    if (err == NM_OK && fsync(to)) err = nm_fail_system(NM_FAILED, errno, "%s: its copy cannot be written", path);
    nm_free(piece);
    return err;
}

/* Brings the file at `from` to `to`, as cheaply as the file system can. */
nm_err nm_change_bring(const char *from, const char *to, nm_stored_as *as, uint64_t *done, uint64_t total, const nm_import_options *o)
{
    int in = open(from, O_RDONLY | O_CLOEXEC), out = -1;
    nm_err err = NM_OK;
    if (in < 0) return nm_fail(errno == ENOENT ? NM_NOT_FOUND : NM_FAILED, "%s: cannot be opened: %s", from, strerror(errno));
    *as = NM_STORED_CLONE;
    out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (out < 0) NM_GOTO(nm_fail_system(NM_FAILED, errno, "%s: cannot be made", to));
#ifdef FICLONE
    if (!o->copy && !ioctl(out, FICLONE, in)) {
        if (fsync(out)) err = nm_fail_system(NM_FAILED, errno, "%s: its clone cannot be written", from);
        goto out;
    }
#endif
    *as = NM_STORED_LINK;
    if (!o->copy && !unlink(to) && !link(from, to)) goto out;
    *as = NM_STORED_COPY;
    close(out);
    out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (out < 0) NM_GOTO(nm_fail_system(NM_FAILED, errno, "%s: cannot be made", to));
    err = copy_bytes(in, out, from, done, total, o);
out:
    close(in);
    if (out >= 0) close(out);
    return err;
}

/* The rename by which the entry appears; replacing swaps the two folders, and nm_change_end deletes the old one. */
nm_err nm_change_appear(const nm_change *w, const char *name, const char *what, bool replace)
{
    char *final;
    nm_err err = NM_OK;
    NM_TRY(nm_format(&final, "%s/%s", w->store, name));
    bool done = !renameat2(AT_FDCWD, w->temporary, AT_FDCWD, final, RENAME_NOREPLACE);
    if (!done && (errno == EINVAL || errno == ENOSYS) && access(final, F_OK)) done = !rename(w->temporary, final);
    if (!done && errno == EEXIST && replace) done = !renameat2(AT_FDCWD, w->temporary, AT_FDCWD, final, RENAME_EXCHANGE);
    if (!done && errno == EEXIST)
        err = nm_fail(NM_REFUSED, "%s: the store has %s of that name: 'nomoat rm %s' first, or --force, or another --name", name, what, name);
    else if (!done) err = nm_fail_system(NM_FAILED, errno, "%s: cannot be put into the store", final);
    else err = nm_folder_flush(w->store);
    nm_free(final);
    return err;
}

/* Refuses a taken name before anything is copied. */
nm_err nm_change_free(const nm_change *w, const char *name, const char *what, bool replace)
{
    char *final;
    NM_TRY(nm_format(&final, "%s/%s", w->store, name));
    bool taken = !access(final, F_OK);
    nm_free(final);
    if (!taken || replace) return NM_OK;
    return nm_fail(NM_REFUSED, "%s: the store has %s of that name: 'nomoat rm %s' first, or --force, or another --name", name, what, name);
}

nm_err nm_change_remove(const nm_change *w, const char *entry)
{
    char *from, *to = NULL;
    NM_TRY(nm_format(&from, "%s/%s", w->store, entry));
    nm_err err = nm_format(&to, "%s/gone", w->temporary);
    if (err == NM_OK && rename(from, to)) err = nm_fail(errno == ENOENT ? NM_NOT_FOUND : NM_FAILED, "%s: cannot be removed: %s", from, strerror(errno));
    if (err == NM_OK) err = nm_folder_flush(w->store);
    nm_free(to);
    nm_free(from);
    return err;
}
