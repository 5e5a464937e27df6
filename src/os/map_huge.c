/* Giving a map huge pages where its file system has none: copies take the place of its pages, behind the backs of those who read them. */
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "os/machine.h"
#include "os/map.h"
#include "os/thread.h"

enum { HUGE_PAGE = 2 << 20, LEAST = 16 << 20, MOST_PIECES = 512, LATER_MS = 500 };

struct nm_map_copier {
    pthread_t thread;
    char *data;
    size_t size;
    sem_t stop;
    pthread_mutex_t lock;       /* held while a piece is replaced */
    size_t copied;
    bool settled;
};

/* Bytes of the range that are mapped by huge pages now; SIZE_MAX where that cannot be told. */
static size_t huge_bytes(const char *data)
{
    char line[512];
    unsigned long long from, to, kib = 0;
    bool here = false, told = false;
    FILE *f = fopen("/proc/self/smaps", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%llx-%llx ", &from, &to) == 2 && strchr(line, '-') < strchr(line, ' ')) {
            if (told) break;
            here = from == (uintptr_t)data;
        } else if (here && sscanf(line, "FilePmdMapped: %llu", &kib) == 1) {
            told = true;
        }
    }
    if (f) fclose(f);
    return told ? (size_t)kib << 10 : SIZE_MAX;
}

static bool system_has_huge_pages(void)
{
    char text[128] = "";
    FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
    bool has = f && fgets(text, sizeof text, f) && !strstr(text, "[never]");
    if (f) fclose(f);
    return has;
}

/* The copy moves to the address of what it copies in one system call; whoever reads there meanwhile waits for it. */
static bool replace(char *at, size_t bytes)
{
    char *all = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) return false;
    size_t before = -(uintptr_t)all & (HUGE_PAGE - 1);
    char *copy = all + before;
    if (before) munmap(all, before);
    munmap(copy + bytes, HUGE_PAGE - before);
    madvise(copy, bytes, MADV_HUGEPAGE);
    memcpy(copy, at, bytes);
    if (mprotect(copy, bytes, PROT_READ) == 0 && mremap(copy, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at) == at) return true;
    munmap(copy, bytes);
    return false;
}

/* The first answer comes first: it begins when that is probably out, and steps back behind other threads. */
static bool is_stopped_before_it_begins(nm_map_copier *c)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += LATER_MS * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    setpriority(PRIO_PROCESS, (id_t)gettid(), 10);
    return sem_timedwait(&c->stop, &until) == 0;
}

/* Replaces the piece at `at`, unless the copies are to end. */
static bool copy_piece(nm_map_copier *c, size_t at, size_t bytes)
{
    pthread_mutex_lock(&c->lock);
    bool done = !c->settled && replace(c->data + at, bytes);
    if (done) c->copied = at + bytes;
    pthread_mutex_unlock(&c->lock);
    return done;
}

static void *copy_all(void *arg)
{
    nm_map_copier *c = arg;
    if (is_stopped_before_it_begins(c)) return NULL;
    size_t piece = (c->size / MOST_PIECES / HUGE_PAGE + 1) * HUGE_PAGE;     /* each is an area of the process, of which the system allows some 65,000 */
    for (size_t at = 0, n; at < c->size; at += n) {             /* in pieces, so that a cold disk does not keep whoever closes the map waiting */
        n = c->size - at < piece ? c->size - at : piece;
        if (sem_trywait(&c->stop) == 0 || madvise(c->data + at, n, MADV_POPULATE_READ)) return NULL;
    }
    if (huge_bytes(c->data) >= c->size / 16 * 15) return NULL;
    for (size_t at = 0; at + piece <= c->size && sem_trywait(&c->stop) != 0; at += piece)
        if (nm_machine_memory_available() < (c->size - at) / 4 * 5 || !copy_piece(c, at, piece)) break;     /* others may have taken what was there */
    return NULL;
}

static void free_copier(nm_map_copier *c)
{
    sem_destroy(&c->stop);
    pthread_mutex_destroy(&c->lock);
    nm_free(c);
}

void nm_map_hasten(nm_map *map)
{
    if (!map->data || map->hastened || map->size < LEAST || (uintptr_t)map->data % HUGE_PAGE || !system_has_huge_pages()) return;
    if (nm_machine_memory_available() < map->size / 4 * 5) return;
    nm_map_copier *c = nm_calloc(1, sizeof *c);
    if (!c) return;
    c->data = (char *)(uintptr_t)map->data;
    c->size = map->size;
    sem_init(&c->stop, 0, 0);
    pthread_mutex_init(&c->lock, NULL);
    map->hastened = nm_thread_start(&c->thread, copy_all, c) == 0;
    if (map->hastened) map->copier = c;
    else free_copier(c);
}

size_t nm_map_settle(const nm_map *map)
{
    nm_map_copier *c = map->copier;
    if (!c) return map->copied;
    pthread_mutex_lock(&c->lock);
    c->settled = true;
    sem_post(&c->stop);        /* it would fill the map, too */
    size_t copied = c->copied;
    pthread_mutex_unlock(&c->lock);
    return copied;
}

void nm_map_hasten_end(nm_map *map)
{
    if (!map->copier) return;
    sem_post(&map->copier->stop);
    pthread_join(map->copier->thread, NULL);
    map->copied = map->copier->copied;
    free_copier(map->copier);
    map->copier = NULL;
}
