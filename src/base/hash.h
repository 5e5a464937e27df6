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

#endif
