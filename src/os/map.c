/* Read-only maps of regular files. */
#include "os/map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
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

static uint64_t nanoseconds(const struct timespec *t) { return (uint64_t)t->tv_sec * 1000000000u + (uint64_t)t->tv_nsec; }

static nm_err open_regular(nm_map *map, const char *path, int *fd)
{
    struct stat st;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0 && (errno == ENOENT || errno == ENOTDIR)) return nm_fail(NM_NOT_FOUND, "%s: no such file", path);
    if (*fd < 0) return nm_fail(NM_FAILED, "%s: cannot be opened: %s", path, strerror(errno));
    if (fstat(*fd, &st) != 0) return nm_fail(NM_FAILED, "%s: cannot be examined: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode)) return nm_fail(NM_BAD_FILE, "%s: is a folder, not a file: name a file in it", path);
    if (!S_ISREG(st.st_mode)) return nm_fail(NM_BAD_FILE, "%s: is not a regular file: copy what it gives into a file first", path);
    if (st.st_size == 0) return nm_fail(NM_BAD_FILE, "%s: the file is empty: fetch it again", path);
    map->size = (size_t)st.st_size;
    map->id = (nm_file_id){(uint64_t)st.st_dev, (uint64_t)st.st_ino, (uint64_t)st.st_size, nanoseconds(&st.st_mtim), nanoseconds(&st.st_ctim)};
    map->owner = (uint32_t)st.st_uid;
    return NM_OK;
}

bool nm_file_is_settled(const nm_file_id *id)
{
    enum { GRAIN_NS = 50000000 };       /* the kernel's clock for files ticks every 1 to 10 ms */
    uint64_t grain = id->changed_ns % 1000000000u ? GRAIN_NS : 2000000000u;     /* FAT counts two seconds */
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return id->changed_ns + grain < nanoseconds(&now);
}

enum { HUGE_PAGE = 2 << 20 };

/* A map whose address is a multiple of a huge page: a larger range is reserved, and what is too much of it given back. */
static void *map_huge(int fd, size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (size + page - 1) / page * page;
    if (size > SIZE_MAX - 2 * HUGE_PAGE) return errno = ENOMEM, MAP_FAILED;
    char *all = mmap(NULL, whole + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) return MAP_FAILED;
    size_t before = -(uintptr_t)all & (HUGE_PAGE - 1);
    void *p = mmap(all + before, size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
    int why = errno;
    if (p == MAP_FAILED) {
        munmap(all, whole + HUGE_PAGE);
    } else {
        if (before) munmap(all, before);
        munmap(all + before + whole, HUGE_PAGE - before);
        madvise(p, size, MADV_HUGEPAGE);
    }
    errno = why;
    return p;
}

static nm_err open_map(nm_map *map, const char *path, bool huge)
{
    int fd = -1;
    *map = (nm_map){.slot = -1};
    nm_err err = open_regular(map, path, &fd);
    if (err == NM_OK && !(map->name = nm_strndup(path, strlen(path)))) err = nm_fail_memory(strlen(path));
    if (err == NM_OK) {
        void *p = huge ? map_huge(fd, map->size) : mmap(NULL, map->size, PROT_READ, MAP_SHARED, fd, 0);
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

nm_err nm_map_open(nm_map *map, const char *path) { return open_map(map, path, false); }
nm_err nm_map_open_huge(nm_map *map, const char *path) { return open_map(map, path, true); }

void nm_map_close(nm_map *map)
{
    nm_map_hasten_end(map);
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
