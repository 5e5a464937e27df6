/* Owns reading a packed panel with 256-bit vectors: `half` 0 or 1 is which 32 bytes of a line, rows 8 * half .. + 7. Everything folds to a
 * few instructions because callers pass a constant layout. */
#ifndef NM_X86_BLOCKS256_H
#define NM_X86_BLOCKS256_H

#include "kernel/layout.h"
#include "kernel/x86/v16_avx2.h"

/* Rows of activations in a register tile: 12 sums, 2 of weights, activations, a product; and rows up to which packed panels are read directly. */
enum { NM_TILE_ROWS_AVX2 = 6, NM_DIRECT_ROWS_AVX2 = 16 };

/* Four activations, for all eight rows of half a line; and the half of 16 outputs that belongs to it. */
V16_INLINE __m256i four_bytes(const int8_t *p) { int32_t v; memcpy(&v, p, 4); return _mm256_set1_epi32(v); }
V16_INLINE __m256 *half_of(v16 *x, int half) { return half ? &x->b : &x->a; }

V16_INLINE __m256i half_line(const uint8_t *line, int half) { return _mm256_load_si256((const __m256i *)(line + 32 * half)); }

/* The bits of field `bits` wide of step v, moved to bit `to` of each byte. */
V16_INLINE __m256i field256(const uint8_t *lines, int bits, int v, int to, int half)
{
    int per = 8 / bits, line = bits == 4 ? v % 4 : v / per, at = bits == 4 ? v / 4 * 4 : v % per * bits;
    __m256i x = half_line(lines + line * NM_LINE, half);
    if (at > to) x = _mm256_srli_epi16(x, at - to);
    if (at < to) x = _mm256_slli_epi16(x, to - at);
    return _mm256_and_si256(x, _mm256_set1_epi8((char)(((1 << bits) - 1) << to)));
}

/* Step v of block b as unsigned bytes u. */
V16_INLINE __m256i step256(const nm_layout *l, const uint8_t *super, int b, int v, int half)
{
    const uint8_t *low = nm_layout_low(l, super, b);
    if (l->low == 8) return half_line(low + v * NM_LINE, half);
    __m256i u = field256(low, l->low, v, 0, half);
    if (l->high) u = _mm256_or_si256(u, field256(nm_layout_high(l, super, b), l->high, v, l->low, half));
    if (l->codes != NM_CODES_NONE)
        u = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)nm_codebooks[l->codes])), u);
    return u;
}

V16_INLINE __m256 half256(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }

V16_INLINE __m256 bytes256(const uint8_t *p, bool is_signed)
{
    __m128i x = _mm_loadl_epi64((const __m128i *)p);
    return _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(x) : _mm256_cvtepu8_epi32(x));
}

V16_INLINE __m256 nibbles256(const uint8_t *p, int shift)
{
    __m256i x = _mm256_srli_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)), shift);
    return _mm256_cvtepi32_ps(_mm256_and_si256(x, _mm256_set1_epi32(15)));
}

V16_INLINE __m256 e8m0_256(const uint8_t *p)
{
    __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
    __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    __m256i tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, tiny, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e)));
}

/* Scale of group g of a superblock, 8 rows. */
V16_INLINE __m256 scale256(const nm_layout *l, const uint8_t *super, int g, int half)
{
    const uint8_t *d = super + half * 16;
    int at = g * 16 + half * 8;
    switch (l->scales) {
    case NM_SCALE_HALF:
    case NM_SCALE_HALF_MIN: return half256(d + g * 32);
    case NM_SCALE_SUPER: return _mm256_mul_ps(half256(d), bytes256(super + 32 + at, true));
    case NM_SCALE_SUPER_MIN: return _mm256_mul_ps(half256(d), bytes256(super + 64 + at, false));
    case NM_SCALE_NIBBLES: return _mm256_mul_ps(half256(d), nibbles256(super + 64 + at, 0));
    case NM_SCALE_E8M0: break;
    }
    return e8m0_256(super + at);
}

/* Minimum of group g; only for layouts that have one. -(dmin * m) is (-dmin) * m. */
V16_INLINE __m256 min256(const nm_layout *l, const uint8_t *super, int g, int half)
{
    int all = l->blocks * nm_layout_groups(l), at = g * 16 + half * 8;
    if (l->scales == NM_SCALE_HALF_MIN) return half256(super + (all + g) * 32 + half * 16);
    __m256 m = l->scales == NM_SCALE_NIBBLES ? nibbles256(super + 64 + at, 4) : bytes256(super + 64 + all * 16 + at, false);
    return _mm256_mul_ps(_mm256_xor_ps(half256(super + 32 + half * 16), _mm256_set1_ps(-0.0f)), m);
}

/* Blocks [b0, b0 + count) of a panel to the U form. */
V16_INLINE void unpack256(const nm_layout *l, const uint8_t *panel, int64_t b0, int64_t count, const nm_u *u)
{
    int groups = nm_layout_groups(l);
    const uint8_t *super = panel + (size_t)(b0 / l->blocks) * (size_t)nm_layout_super(l);
    uint8_t *q = u->q;
    float *scale = u->scale, *min = u->min;
    for (int64_t left = count; left > 0; left -= l->blocks, super += nm_layout_super(l)) {
        int n = left < l->blocks ? (int)left : l->blocks;
        for (int b = 0; b < n; b++, q += NM_STEPS * NM_LINE)
            _Pragma("GCC unroll 16") for (int i = 0; i < 2 * NM_STEPS; i++)
                _mm256_store_si256((__m256i *)(q + i * 32), step256(l, super, b, i / 2, i % 2));
        for (int g = 0; g < n * groups; g++, scale += 16, min += 16)
            for (int half = 0; half < 2; half++) {
                _mm256_store_ps(scale + 8 * half, scale256(l, super, g, half));
                if (nm_layout_has_min(l)) _mm256_store_ps(min + 8 * half, min256(l, super, g, half));
            }
    }
}

#define DEFINE_UNPACK256(TYPE, ...) \
    static void unpack_##TYPE(const uint8_t *panel, int64_t b0, int64_t count, const nm_u *u) \
    { \
        static const nm_layout l = NM_LAYOUT_ROW(TYPE, __VA_ARGS__); \
        unpack256(&l, panel, b0, count, u); \
    }
#define UNPACK256_ENTRY(TYPE, ...) [NM_LAYOUT_##TYPE] = unpack_##TYPE,

/* The table of unpackers, shared by the two files of this tier. */
typedef void (*nm_unpack256_fn)(const uint8_t *panel, int64_t b0, int64_t count, const nm_u *u);
extern const nm_unpack256_fn nm_unpackers_avx2[NM_LAYOUT_COUNT];

void nm_linear_q8_avx2(const nm_linear_job *job);

#endif
