/* Owns random numbers: counter-based, so that a draw depends on (seed, stream, index) alone and never on who drew before. */
#ifndef NM_BASE_RNG_H
#define NM_BASE_RNG_H

#include <stdint.h>

/* SplitMix64's finaliser (Steele, Lea, Flood 2014) over a mixed counter. */
static inline uint64_t nm_rng_u64(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint64_t z = seed + 0x9e3779b97f4a7c15u * (index + 1) + 0xd1b54a32d192ed03u * stream;
    for (int i = 0; i < 2; i++) {
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        z ^= z >> 31;
    }
    return z;
}

/* Uniform in [0, 1) with 53 bits. */
static inline double nm_rng_unit(uint64_t seed, uint64_t stream, uint64_t index)
{
    return (double)(nm_rng_u64(seed, stream, index) >> 11) * 0x1p-53;
}

#endif
