/* Buffers that end, or begin, at a page nobody may touch: a kernel that reads or writes one byte too far dies on the spot. */
#ifndef NM_TEST_GUARD_H
#define NM_TEST_GUARD_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct guard { void *p; uint8_t *map; size_t mapped; } guard;

/* bytes bytes aligned to `align` (a power of two). at_end: flush against the page behind, as closely as the alignment lets it be;
 * else flush against the page before. Filled with 0xa5. */
static inline guard guard_open(size_t bytes, size_t align, int at_end)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (bytes + page - 1) / page * page;
    if (!body) body = page;
    guard g = {.mapped = body + 2 * page};
    g.map = mmap(NULL, g.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g.map == MAP_FAILED || mprotect(g.map, page, PROT_NONE) || mprotect(g.map + page + body, page, PROT_NONE)) {
        perror("guard_open");
        abort();
    }
    memset(g.map + page, 0xa5, body);
    g.p = g.map + page + (at_end ? (body - bytes) / align * align : 0);
    return g;
}

static inline void guard_close(guard *g)
{
    munmap(g->map, g->mapped);
    g->p = NULL;
}

#endif
