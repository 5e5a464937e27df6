/* Owns the checksum of our own files and of identities: fast, well mixed, not cryptographic. */
#ifndef NM_BASE_HASH_H
#define NM_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t nm_hash_word(uint64_t h, uint64_t w)
{
    h = (h ^ w) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

/* Continues from `h` (0 to begin). Equal only for equal calls: the split into calls counts. */
static inline uint64_t nm_hash(uint64_t h, const void *data, size_t bytes)
{
    const unsigned char *p = data;
    uint64_t w;
    h = nm_hash_word(h, bytes);
    for (; bytes >= 8; bytes -= 8, p += 8) {
        memcpy(&w, p, 8);
        h = nm_hash_word(h, w);
    }
    w = 0;
    if (bytes) memcpy(&w, p, bytes);
    return nm_hash_word(h, w);
}

/* The same purpose, for gigabytes: sums and sums of sums (Fletcher 1982) in eight chains, mixed at the end, so that it keeps up with memory.
 * Other values than nm_hash's; any change of one word shows, and chance ones of several do. */
static inline uint64_t nm_hash_wide(uint64_t h, const void *data, size_t bytes)
{
    typedef uint64_t pair __attribute__((vector_size(16)));
    const unsigned char *p = data;
    pair sum[4] = {{0}}, sums[4] = {{0}}, w;
    size_t left = bytes;
    for (; left >= 64; left -= 64, p += 64) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            memcpy(&w, p + 16 * i, sizeof w);
            sum[i] += w;
            sums[i] += sum[i];
        }
    }
    h = nm_hash(nm_hash_word(h, bytes), p, left);
    for (int i = 0; i < 8; i++) h = nm_hash_word(nm_hash_word(h, sum[i / 2][i % 2]), sums[i / 2][i % 2]);
    return h;
}

#endif
