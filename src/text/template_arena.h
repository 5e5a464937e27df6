/* Owns the memory of one template or one rendering: taken piece by piece, bounded, given back all at once. Refuses to free pieces. */
#ifndef NM_TEXT_TEMPLATE_ARENA_H
#define NM_TEXT_TEMPLATE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

typedef struct nm_arena_chunk nm_arena_chunk;
typedef struct nm_arena {
    nm_arena_chunk *chunks;     /* the newest first */
    size_t used, size;          /* of the newest */
    size_t taken, limit;        /* bytes in all chunks, and the most there may be */
    bool at_limit;              /* the last NULL came from the limit, not from the system */
} nm_arena;

/* 16-byte aligned, not zeroed; NULL when the limit or the system says no. */
void *nm_arena_alloc(nm_arena *arena, size_t bytes);
void nm_arena_free(nm_arena *arena);

#endif
