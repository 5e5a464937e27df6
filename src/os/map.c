/* Read-only maps of regular files. */
#include "os/map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"

/* A fixed table with atomic fields, because a signal handler reads it. A file beyond it maps all the same, but is not named. */
enum { MAP_SLOTS = 256 };
static struct { atomic_uintptr_t from, end; _Atomic(const char *) name; } map_table[MAP_SLOTS];

const char *nm_mapped_file_at(const void *address)
{
    uintptr_t at = (uintptr_t)address;
    for (int i = 0; i < MAP_SLOTS; i++) {
        uintptr_t from = atomic_load(&map_table[i].from);
        if (from > 1 && at >= from && at < atomic_load(&map_table[i].end)) return atomic_load(&map_table[i].name);
    }
    return NULL;
}

static int take_slot(const nm_map *map)
{
    for (int i = 0; i < MAP_SLOTS; i++) {
        uintptr_t none = 0;
        if (!atomic_compare_exchange_strong(&map_table[i].from, &none, 1)) continue;
        atomic_store(&map_table[i].end, (uintptr_t)map->data + map->size);
        atomic_store(&map_table[i].name, map->name);
        atomic_store(&map_table[i].from, (uintptr_t)map->data);
        return i;
    }
    return -1;
}

static nm_err open_regular(const char *path, int *fd, size_t *size)
{
    struct stat st;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0 && (errno == ENOENT || errno == ENOTDIR)) return nm_fail(NM_NOT_FOUND, "%s: no such file", path);
    if (*fd < 0) return nm_fail(NM_FAILED, "%s: cannot be opened: %s", path, strerror(errno));
    if (fstat(*fd, &st) != 0) return nm_fail(NM_FAILED, "%s: cannot be examined: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode)) return nm_fail(NM_BAD_FILE, "%s: is a folder, not a file: name a file in it", path);
    if (!S_ISREG(st.st_mode)) return nm_fail(NM_BAD_FILE, "%s: is not a regular file: copy what it gives into a file first", path);
    if (st.st_size == 0) return nm_fail(NM_BAD_FILE, "%s: the file is empty: fetch it again", path);
    *size = (size_t)st.st_size;
    return NM_OK;
}

nm_err nm_map_open(nm_map *map, const char *path)
{
    int fd = -1;
    *map = (nm_map){.slot = -1};
    nm_err err = open_regular(path, &fd, &map->size);
    if (err == NM_OK && !(map->name = nm_strndup(path, strlen(path)))) err = nm_fail_memory(strlen(path));
    if (err == NM_OK) {
        void *p = mmap(NULL, map->size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED && errno == ENOMEM)
            err = nm_fail(NM_NO_MEMORY, "%s: no room for a map of %zu bytes: a limit on address space (ulimit -v) is too low", path, map->size);
        else if (p == MAP_FAILED) err = nm_fail(NM_FAILED, "%s: cannot be mapped: %s", path, strerror(errno));
        else map->data = p;
    }
    if (fd >= 0) close(fd);
    if (err == NM_OK) map->slot = take_slot(map);
    else nm_map_close(map);
    return err;
}

void nm_map_close(nm_map *map)
{
    if (map->slot >= 0) {
        atomic_store(&map_table[map->slot].end, 0);
        atomic_store(&map_table[map->slot].name, NULL);
        atomic_store(&map_table[map->slot].from, 0);
    }
    if (map->data) munmap((void *)map->data, map->size);
    nm_free(map->name);
    *map = (nm_map){.slot = -1};
}

void nm_map_forget(const nm_map *map, const void *from, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE) - 1, a = ((uintptr_t)from + page) & ~page, b = ((uintptr_t)from + bytes) & ~page;
    if (map->data && b > a) madvise((void *)a, b - a, MADV_DONTNEED);
}
