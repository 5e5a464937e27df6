/* Allocation, counted so that tests can make each one fail and see that none is lost. */
#include "base/mem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/err.h"

static atomic_int_fast64_t mem_count, mem_alive, mem_fail_at = -1;

void nm_mem_fail_after(int64_t n) { atomic_store(&mem_fail_at, n < 0 ? -1 : atomic_load(&mem_count) + n); }
int64_t nm_mem_count(void) { return atomic_load(&mem_count); }
int64_t nm_mem_alive(void) { return atomic_load(&mem_alive); }

static bool must_fail(void)
{
    int64_t at = atomic_load_explicit(&mem_fail_at, memory_order_relaxed);
    int64_t now = atomic_fetch_add_explicit(&mem_count, 1, memory_order_relaxed);
    return at >= 0 && now >= at;
}

static void *counted(void *p)
{
    if (p) atomic_fetch_add_explicit(&mem_alive, 1, memory_order_relaxed);
    return p;
}

void *nm_malloc(size_t bytes) { return must_fail() ? NULL : counted(malloc(bytes ? bytes : 1)); }

void *nm_calloc(size_t count, size_t size)
{
    if (must_fail()) return NULL;
    return counted(calloc(count ? count : 1, size ? size : 1));
}

void *nm_realloc_array(void *old, size_t count, size_t size)
{
    size_t bytes;
    if (must_fail() || nm_mul_overflow(count, size, &bytes)) return NULL;
    void *p = realloc(old, bytes ? bytes : 1);
    return old ? p : counted(p);
}

char *nm_strndup(const char *s, size_t length)
{
    size_t bytes;
    if (nm_add_overflow(length, 1, &bytes)) return NULL;
    char *p = nm_malloc(bytes);
    if (!p) return NULL;
    if (length) memcpy(p, s, length);
    p[length] = 0;
    return p;
}

void nm_free(void *pointer)
{
    if (!pointer) return;
    atomic_fetch_sub_explicit(&mem_alive, 1, memory_order_relaxed);
    free(pointer);
}

/* From this size on a block gets its own mapping, so that huge pages can back it and freeing returns it to the system. */
enum { OWN_MAPPING = 4 << 20 };

static void *alloc_zeroed(size_t bytes, bool huge)
{
    size_t rounded;
    if (must_fail() || nm_add_overflow(bytes, 63, &rounded)) return NULL;
    rounded &= ~(size_t)63;
    if (!rounded) rounded = 64;
    if (rounded >= OWN_MAPPING) {
        void *p = mmap(NULL, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) return NULL;
        madvise(p, rounded, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
        return counted(p);
    }
    void *p = aligned_alloc(64, rounded);
    if (p) memset(p, 0, rounded);
    return counted(p);
}

void *nm_alloc_aligned(size_t bytes) { return alloc_zeroed(bytes, true); }
void *nm_alloc_sparse(size_t bytes) { return alloc_zeroed(bytes, false); }

void nm_rest_aligned(void *pointer, size_t bytes)
{
    size_t rounded = (bytes + 63) & ~(size_t)63;
    if (pointer && rounded >= OWN_MAPPING) madvise(pointer, rounded, MADV_DONTNEED);
}

void nm_free_aligned(void *pointer, size_t bytes)
{
    if (!pointer) return;
    size_t rounded = (bytes + 63) & ~(size_t)63;
    atomic_fetch_sub_explicit(&mem_alive, 1, memory_order_relaxed);
    if (rounded >= OWN_MAPPING) munmap(pointer, rounded);
    else free(pointer);
}

size_t nm_grown(size_t capacity, size_t need)
{
    if (need <= capacity) return capacity;
    if (!capacity) capacity = 16;
    while (capacity < need)
        if (nm_mul_overflow(capacity, 2, &capacity)) return SIZE_MAX;
    return capacity;
}

nm_err nm_grow(void **array, size_t *capacity, size_t need, size_t size)
{
    if (need <= *capacity) return NM_OK;
    size_t want = nm_grown(*capacity, need);
    if (want == SIZE_MAX) return nm_fail_memory(SIZE_MAX);
    void *p = nm_realloc_array(*array, want, size);
    if (!p) return nm_fail_memory(want * size);
    *array = p;
    *capacity = want;
    return NM_OK;
}
