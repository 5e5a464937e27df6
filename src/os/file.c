/* Whole files and folders. */
#include "os/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"

/* ---- Reading ------------------------------------------------------------------------------------------------------------ */

static nm_err fail_errno(const char *path, const char *what)
{
    nm_err code = errno == ENOENT || errno == ENOTDIR ? NM_NOT_FOUND : errno == EISDIR ? NM_BAD_FILE : NM_FAILED;
    return nm_fail_system(code, errno, "%s: %s", path, what);
}

nm_err nm_fd_some(int fd, const char *name, void *buffer, size_t room, size_t *got)
{
    for (*got = 0;;) {
        ssize_t n = read(fd, buffer, room);
        if (n >= 0) {
            *got = (size_t)n;
            return NM_OK;
        }
        if (errno == EAGAIN) poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, -1);    /* somebody made the pipe non-blocking */
        else if (errno != EINTR) return fail_errno(name, "cannot be read");
    }
}

/* Reads fd to its end into text. Asks for one byte more than is allowed, to know that there is one. */
static nm_err read_all(int fd, const char *path, size_t most, nm_str *text)
{
    char piece[16384];
    for (size_t got;;) {
        NM_TRY(nm_fd_some(fd, path, piece, sizeof piece, &got));
        if (got == 0) return nm_str_append(text, "", 0);
        if (got > most - text->length) return nm_fail(NM_BAD_FILE, "%s: larger than %zu bytes, the most that is read here", path, most);
        NM_TRY(nm_str_append(text, piece, got));
    }
}

nm_err nm_fd_read(int fd, const char *name, size_t most, char **data, size_t *size)
{
    nm_str text = {0};
    *data = NULL;
    *size = 0;
    nm_err err = read_all(fd, name, most, &text);
    if (err == NM_OK) *data = nm_str_take(&text, size);
    nm_str_free(&text);
    return err;
}

nm_err nm_fd_open(int *fd, const char *path)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    return *fd < 0 ? fail_errno(path, "cannot be opened") : NM_OK;
}

nm_err nm_file_read(const char *path, size_t most, char **data, size_t *size)
{
    int fd;
    *data = NULL;
    *size = 0;
    NM_TRY(nm_fd_open(&fd, path));
    nm_err err = nm_fd_read(fd, path, most, data, size);
    close(fd);
    return err;
}

/* ---- Writing ------------------------------------------------------------------------------------------------------------ */

/* The folder part of path, with its slash; "" for a bare name. */
static size_t folder_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash + 1 - path) : 0;
}

static nm_err name_temporary(nm_new_file *file, const char *path)
{
    static atomic_uint counter;
    nm_str name = {0};
    unsigned n = atomic_fetch_add(&counter, 1);
    size_t folder = folder_length(path);
    nm_err err = nm_str_append(&name, path, folder);
    if (err == NM_OK) err = nm_str_printf(&name, ".nomoat-%ld-%u.tmp", (long)getpid(), n);
    if (err != NM_OK) nm_str_free(&name);
    nm_free(file->temporary);
    file->temporary = nm_str_take(&name, NULL);
    return err;
}

/* Opens a temporary name that nobody has: one left by a killed process of the same id is stepped over. */
static nm_err open_temporary(nm_new_file *file, const char *path)
{
    for (int tries = 0; tries < 1000; tries++) {
        NM_TRY(name_temporary(file, path));
        int fd = open(file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0) {
            file->fd = fd;
            return NM_OK;
        }
        if (errno != EEXIST) break;
    }
    nm_err err = fail_errno(path, "cannot be written");
    nm_free(file->temporary);   /* not ours to remove */
    file->temporary = NULL;
    return err;
}

nm_err nm_new_file_open(nm_new_file *file, const char *path)
{
    struct stat st;
    *file = (nm_new_file){.fd = -1};
    bool exists = lstat(path, &st) == 0;
    if (exists && !S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
        return nm_fail(NM_USAGE, "%s: is there and is no regular file; name another", path);
    file->path = nm_strndup(path, strlen(path));
    nm_err err = file->path ? open_temporary(file, path) : nm_fail_memory(strlen(path));
    if (err == NM_OK && exists && S_ISREG(st.st_mode) && fchmod(file->fd, st.st_mode & 0777) != 0) err = fail_errno(path, "cannot set permissions");
    if (err != NM_OK) nm_new_file_abandon(file);
    return err;
}

nm_err nm_new_file_write(nm_new_file *file, const void *data, size_t size)
{
    const char *at = data;
    while (size) {
        ssize_t put = write(file->fd, at, size < 1u << 30 ? size : 1u << 30);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return fail_errno(file->path, "cannot be written");
        at += put;
        size -= (size_t)put;
    }
    return NM_OK;
}

void nm_new_file_abandon(nm_new_file *file)
{
    if (file->temporary) {
        if (file->fd >= 0) close(file->fd);
        unlink(file->temporary);
    }
    nm_free(file->temporary);
    nm_free(file->path);
    *file = (nm_new_file){0};
}

/* Closing is where a network file system tells of a full disk, so its result counts. */
static nm_err flush_and_rename(nm_new_file *file)
{
    if (fsync(file->fd) != 0) return fail_errno(file->path, "cannot be flushed to disk");
    int closed = close(file->fd);
    file->fd = -1;
    if (closed != 0) return fail_errno(file->path, "cannot be closed");
    if (rename(file->temporary, file->path) != 0) return fail_errno(file->path, "cannot be put in place");
    nm_free(file->temporary);
    file->temporary = NULL;
    return NM_OK;
}

nm_err nm_new_file_commit(nm_new_file *file)
{
    nm_err err = flush_and_rename(file);
    if (err == NM_OK) {
        file->path[folder_length(file->path)] = 0;
        err = nm_folder_flush(file->path);
    }
    nm_new_file_abandon(file);
    return err;
}

nm_err nm_file_write(const char *path, const void *data, size_t size)
{
    nm_new_file file;
    NM_TRY(nm_new_file_open(&file, path));
    nm_err err = nm_new_file_write(&file, data, size);
    if (err == NM_OK) return nm_new_file_commit(&file);
    nm_new_file_abandon(&file);
    return err;
}

bool nm_file_same(const char *a, const char *b)
{
    struct stat one, other;
    return !stat(a, &one) && !stat(b, &other) && one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

/* ---- Folders ------------------------------------------------------------------------------------------------------------ */

static nm_err make_one(const char *path, unsigned mode)
{
    struct stat st;
    if (mkdir(path, mode) == 0) return NM_OK;
    int why = errno;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return NM_OK;  /* also where the parent is read-only */
    if (why == EEXIST) return nm_fail(NM_FAILED, "%s: is there and is no folder", path);
    return nm_fail_system(NM_FAILED, why, "%s: cannot make this folder", path);
}

nm_err nm_folder_make(const char *path, unsigned mode)
{
    char *copy = nm_strndup(path, strlen(path));
    if (!copy) return nm_fail_memory(strlen(path));
    nm_err err = *copy ? NM_OK : nm_fail(NM_USAGE, "a folder without a name cannot be made");
    for (char *at = copy; err == NM_OK && *at; at++) {
        if (*at != '/' || at == copy || at[-1] == '/') continue;
        *at = 0;
        err = make_one(copy, mode);
        *at = '/';
    }
    if (err == NM_OK) err = make_one(copy, mode);
    nm_free(copy);
    return err;
}

nm_err nm_folder_flush(const char *path)
{
    int fd = open(*path ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == EACCES) return NM_OK;    /* a folder that may be written but not read cannot be flushed by us */
    if (fd < 0) return fail_errno(path, "cannot open this folder");
    int bad = fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP && errno != EROFS;
    int why = errno;
    close(fd);
    errno = why;
    return bad ? fail_errno(path, "cannot flush this folder") : NM_OK;
}

/* The home folder: $HOME, else the password database. */
static nm_err append_home(nm_str *path)
{
    const char *home = getenv("HOME");
    if (home && home[0] == '/') return nm_str_puts(path, home);
    struct passwd entry, *found = NULL;
    char text[4096];
    if (getpwuid_r(getuid(), &entry, text, sizeof text, &found) == 0 && found && found->pw_dir && found->pw_dir[0] == '/')
        return nm_str_puts(path, found->pw_dir);
    return nm_fail(NM_NOT_FOUND, "no home folder is known; set HOME");
}

nm_err nm_folder_find(nm_folder which, char **out)
{
    static const struct { const char *variable, *fallback; } rules[] = {
        [NM_FOLDER_DATA] = {"XDG_DATA_HOME", "/.local/share"}, [NM_FOLDER_CACHE] = {"XDG_CACHE_HOME", "/.cache"},
        [NM_FOLDER_CONFIG] = {"XDG_CONFIG_HOME", "/.config"}, [NM_FOLDER_STATE] = {"XDG_STATE_HOME", "/.local/state"}};
    nm_str path = {0};
    *out = NULL;
    const char *set = getenv(rules[which].variable);
    nm_err err = set && set[0] == '/' ? nm_str_puts(&path, set) : append_home(&path);
    if (err == NM_OK && !(set && set[0] == '/')) err = nm_str_puts(&path, rules[which].fallback);
    if (err == NM_OK) err = nm_str_puts(&path, "/nomoat");
    if (err == NM_OK) *out = nm_str_take(&path, NULL);
    nm_str_free(&path);
    return err;
}

nm_err nm_folder_open(nm_folder which, char **path)
{
    NM_TRY(nm_folder_find(which, path));
    nm_err err = nm_folder_make(*path, 0700);
    if (err != NM_OK) {
        nm_free(*path);
        *path = NULL;
    }
    return err;
}

/* ---- What a folder holds -------------------------------------------------------------------------------------------------- */

static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

void nm_names_free(char **names, size_t count)
{
    for (size_t i = 0; i < count; i++) nm_free(names[i]);
    nm_free(names);
}

static bool ends_in(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);
    return n >= m && !strcasecmp(name + n - m, suffix);
}

nm_err nm_folder_names(char ***names, size_t *count, const char *folder, const char *suffix)
{
    size_t capacity = 0;
    nm_err err = NM_OK;
    *names = NULL;
    *count = 0;
    DIR *dir = opendir(folder);
    if (!dir && (errno == ENOENT || errno == ENOTDIR)) return NM_OK;
    if (!dir) return nm_fail(NM_FAILED, "%s: the folder cannot be read: %s", folder, strerror(errno));
    for (struct dirent *e; (e = readdir(dir));) {
        if (e->d_name[0] == '.' || !ends_in(e->d_name, suffix)) continue;
        NM_GOTO(NM_GROW(*names, capacity, *count + 1));
        (*names)[*count] = nm_strndup(e->d_name, strlen(e->d_name));
        if (!(*names)[*count]) NM_GOTO(nm_fail_memory(strlen(e->d_name)));
        ++*count;
    }
    if (*count) qsort(*names, *count, sizeof **names, compare_names);
out:
    closedir(dir);
    if (err == NM_OK) return NM_OK;
    nm_names_free(*names, *count);
    *names = NULL;
    *count = 0;
    return err;
}
