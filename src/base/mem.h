/* Owns every allocation of the library: overflow-checked, and able to fail on demand in tests. Refuses zero-size surprises: a
 * request for 0 bytes gives a valid pointer. */
#ifndef NM_BASE_MEM_H
#define NM_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nomoat.h"

/* All return NULL on failure; the caller reports it (nm_fail_memory). Freed by nm_free. */
void *nm_malloc(size_t bytes);
void *nm_calloc(size_t count, size_t size);                     /* zeroed; NULL also when count * size overflows */
void *nm_realloc_array(void *old, size_t count, size_t size);   /* old stays valid on failure */
char *nm_strndup(const char *s, size_t length);                 /* zero-terminated copy */

/* 64-byte aligned, zeroed, for tensors; large blocks ask for huge pages. Freed by nm_free_aligned with the same size. */
void *nm_alloc_aligned(size_t bytes);
/* The same for blocks of which little may ever be touched (a runner's rows while it decodes one at a time): large ones stay in small pages. */
void *nm_alloc_sparse(size_t bytes);
/* Gives the pages of such a block back to the system, where it is large enough to have its own; what it held is lost. The block stays. */
void nm_rest_aligned(void *pointer, size_t bytes);
void nm_free_aligned(void *pointer, size_t bytes);

/* Grows an array so that it holds at least `need` elements; amortised doubling. NM_NO_MEMORY leaves it as it was. */
nm_err nm_grow(void **array, size_t *capacity, size_t need, size_t size);
/* The elements that such an array comes to have room for; SIZE_MAX: more than there can be. */
size_t nm_grown(size_t capacity, size_t need);
#define NM_GROW(array, capacity, need) nm_grow((void **)&(array), &(capacity), (need), sizeof *(array))

static inline bool nm_mul_overflow(size_t a, size_t b, size_t *out) { return __builtin_mul_overflow(a, b, out); }
static inline bool nm_add_overflow(size_t a, size_t b, size_t *out) { return __builtin_add_overflow(a, b, out); }

/* Tests only: the n-th allocation from now on (0 = the next) and all later ones fail; -1 = never. Process-wide. */
void nm_mem_fail_after(int64_t n);
/* Tests only: allocations made so far, and blocks alive now. */
int64_t nm_mem_count(void);
int64_t nm_mem_alive(void);

#endif
