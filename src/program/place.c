/* Placement of values in one block of memory by their lifetimes. Knows nothing of programs, so that its test can plan made-up graphs. */
#include <stdlib.h>

#include "base/err.h"
#include "base/mem.h"
#include "program/program.h"

typedef struct order { const nm_extent *extent; size_t index; } order;

static int larger_first(const void *a, const void *b)
{
    const order *x = a, *y = b;
    if (x->extent->bytes != y->extent->bytes) return x->extent->bytes < y->extent->bytes ? 1 : -1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static bool together(const nm_extent *a, const nm_extent *b) { return a->first <= b->last && b->first <= a->last; }

/* The lowest offset where e fits beside those of placed[0..count) that live with it; placed is sorted by offset. */
static size_t lowest_gap(const nm_extent *e, nm_extent *const *placed, size_t count)
{
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        if (!together(e, placed[i])) continue;
        if (placed[i]->offset >= at + e->bytes) break;
        if (placed[i]->offset + placed[i]->bytes > at) at = placed[i]->offset + placed[i]->bytes;
    }
    return at;
}

static void insert(nm_extent **placed, size_t count, nm_extent *e)
{
    for (; count && placed[count - 1]->offset > e->offset; count--) placed[count] = placed[count - 1];
    placed[count] = e;
}

nm_err nm_place(nm_extent *extent, size_t count, size_t *total)
{
    order *by_size = nm_calloc(count, sizeof *by_size);
    nm_extent **placed = nm_calloc(count, sizeof *placed);
    size_t done = 0;
    *total = 0;
    if (by_size && placed) {
        for (size_t i = 0; i < count; i++) by_size[i] = (order){&extent[i], i};
        qsort(by_size, count, sizeof *by_size, larger_first);
        for (size_t i = 0; i < count && by_size[i].extent->bytes; i++) {
            nm_extent *e = &extent[by_size[i].index];
            e->offset = lowest_gap(e, placed, done);
            insert(placed, done++, e);
            if (e->offset + e->bytes > *total) *total = e->offset + e->bytes;
        }
    }
    bool got = by_size && placed;
    nm_free(by_size);
    nm_free(placed);
    return got ? NM_OK : nm_fail_memory(count * (sizeof *by_size + sizeof *placed));
}
