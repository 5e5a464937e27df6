/* Owns buffers that end, or begin, at a page nobody may touch: a kernel that reads or writes one byte too far dies on the spot. Which of the two it
 * is is drawn for each buffer, so that repeated trials look on both sides; on the other side, up to the page's end, lies a pattern that must still be
 * there at the end. */
#ifndef NM_TEST_GUARD_H
#define NM_TEST_GUARD_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct guard { void *p; uint8_t *map; size_t mapped, bytes; } guard;

static uint64_t guard_state = 1;        /* xorshift; set it before a test to make a run repeatable */

static inline size_t guard_page(void) { return (size_t)sysconf(_SC_PAGESIZE); }

/* bytes bytes aligned to `align` (a power of two), filled with 0xa5: flush against the page behind, as closely as the alignment lets it be, or against
 * the page before. */
static inline guard guard_open(size_t bytes, size_t align)
{
    size_t page = guard_page(), body = (bytes + page - 1) / page * page;
    if (!body) body = page;
    guard g = {.mapped = body + 2 * page, .bytes = bytes};
    g.map = mmap(NULL, g.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g.map == MAP_FAILED || mprotect(g.map, page, PROT_NONE) || mprotect(g.map + page + body, page, PROT_NONE)) {
        perror("guard_open");
        abort();
    }
    memset(g.map + page, 0xa5, body);
    guard_state ^= guard_state << 13;
    guard_state ^= guard_state >> 7;
    guard_state ^= guard_state << 17;
    g.p = g.map + page + (guard_state >> 32 & 1 ? (body - bytes) / align * align : 0);
    return g;
}

/* The pattern from `from` to `to` is whole. */
static inline int guard_whole(const uint8_t *from, const uint8_t *to)
{
    for (; from < to; from++) if (*from != 0xa5) return 0;
    return 1;
}

static inline void guard_close(guard *g)
{
    const uint8_t *begin = g->map + guard_page(), *end = g->map + g->mapped - guard_page(), *p = g->p;
    if (!guard_whole(begin, p) || !guard_whole(p + g->bytes, end)) {
        fprintf(stderr, "a kernel wrote %s its buffer of %zu bytes\n", guard_whole(begin, p) ? "behind" : "before", g->bytes);
        abort();
    }
    munmap(g->map, g->mapped);
    g->p = NULL;
}

#endif
