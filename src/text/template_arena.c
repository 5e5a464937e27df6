/* Chunks that double in size; a large request gets a chunk of its own behind the newest. */
#include "text/template_arena.h"

#include "base/mem.h"

enum { ARENA_ALIGN = 16, ARENA_FIRST = 16 << 10, ARENA_MOST = 1 << 20 };

struct nm_arena_chunk { _Alignas(16) nm_arena_chunk *next; };

static nm_arena_chunk *new_chunk(nm_arena *a, size_t bytes)
{
    a->at_limit = bytes > a->limit || a->taken > a->limit - bytes;
    if (a->at_limit) return NULL;
    nm_arena_chunk *chunk = nm_malloc(sizeof *chunk + bytes);
    if (chunk) a->taken += bytes;
    return chunk;
}

void *nm_arena_alloc(nm_arena *a, size_t bytes)
{
    if (bytes > a->limit) {
        a->at_limit = true;
        return NULL;
    }
    bytes = (bytes + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    if (a->chunks && bytes <= a->size - a->used) {
        void *p = (char *)(a->chunks + 1) + a->used;
        a->used += bytes;
        return p;
    }
    size_t next = a->size < ARENA_FIRST ? ARENA_FIRST : a->size < ARENA_MOST ? a->size * 2 : ARENA_MOST;
    bool own = bytes > next / 4 && a->chunks;
    nm_arena_chunk *chunk = new_chunk(a, own || bytes > next ? bytes : next);
    if (!chunk) return NULL;
    if (own) {
        chunk->next = a->chunks->next;
        a->chunks->next = chunk;
        return chunk + 1;
    }
    chunk->next = a->chunks;
    a->chunks = chunk;
    a->size = bytes > next ? bytes : next;
    a->used = bytes;
    return chunk + 1;
}

void nm_arena_free(nm_arena *a)
{
    for (nm_arena_chunk *c = a->chunks, *next; c; c = next) {
        next = c->next;
        nm_free(c);
    }
    *a = (nm_arena){.limit = a->limit};
}
