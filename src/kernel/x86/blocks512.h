/* Owns reading a packed panel with 512-bit vectors: one line is one register. Everything folds to a few instructions because callers pass a
 * constant layout. Shared by the AVX-512 tiers. */
#ifndef NM_X86_BLOCKS512_H
#define NM_X86_BLOCKS512_H

#include "kernel/layout.h"
#include "kernel/x86/v16_avx512.h"

enum { NM_TILE_ROWS_AVX512 = 8 };   /* rows of activations in a register tile without VNNI */

V16_INLINE __m512i line_at(const uint8_t *p) { return _mm512_load_si512(p); }
/* Four activations, for all 16 rows of a line. */
V16_INLINE __m512i four_bytes(const int8_t *p) { int32_t v; memcpy(&v, p, 4); return _mm512_set1_epi32(v); }

/* The bits of field `bits` wide of step v, moved to bit `to` of each byte. */
V16_INLINE __m512i field512(const uint8_t *lines, int bits, int v, int to)
{
    int per = 8 / bits, line = bits == 4 ? v % 4 : v / per, at = bits == 4 ? v / 4 * 4 : v % per * bits;
    __m512i x = line_at(lines + line * NM_LINE);
    if (at > to) x = _mm512_srli_epi16(x, (unsigned)(at - to));
    if (at < to) x = _mm512_slli_epi16(x, (unsigned)(to - at));
    return _mm512_and_si512(x, _mm512_set1_epi8((char)(((1 << bits) - 1) << to)));
}

/* Step v of block b as unsigned bytes u. */
V16_INLINE __m512i step512(const nm_layout *l, const uint8_t *super, int b, int v)
{
    const uint8_t *low = nm_layout_low(l, super, b);
    if (l->low == 8) return line_at(low + v * NM_LINE);
    __m512i u = field512(low, l->low, v, 0);
    if (l->high) u = _mm512_or_si512(u, field512(nm_layout_high(l, super, b), l->high, v, l->low));
    if (l->codes != NM_CODES_NONE)
        u = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)nm_codebooks[l->codes])), u);
    return u;
}

V16_INLINE __m512 bytes512(const uint8_t *p, bool is_signed)
{
    __m128i x = _mm_loadu_si128((const __m128i *)p);
    return _mm512_cvtepi32_ps(is_signed ? _mm512_cvtepi8_epi32(x) : _mm512_cvtepu8_epi32(x));
}

V16_INLINE __m512 half512(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }

V16_INLINE __m512 nibbles512(const uint8_t *p, int shift)
{
    __m512i x = _mm512_srli_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)), (unsigned)shift);
    return _mm512_cvtepi32_ps(_mm512_and_si512(x, _mm512_set1_epi32(15)));
}

V16_INLINE __m512 e8m0_512(const uint8_t *p)
{
    __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
    __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    __m512i tiny = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
    return _mm512_castsi512_ps(_mm512_mask_blend_epi32(_mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2)), normal, tiny));
}

/* Scale of group g of a superblock, 16 rows. */
V16_INLINE __m512 scale512(const nm_layout *l, const uint8_t *super, int g)
{
    switch (l->scales) {
    case NM_SCALE_HALF:
    case NM_SCALE_HALF_MIN: return half512(super + g * 32);
    case NM_SCALE_SUPER: return _mm512_mul_ps(half512(super), bytes512(super + 32 + g * 16, true));
    case NM_SCALE_SUPER_MIN: return _mm512_mul_ps(half512(super), bytes512(super + 64 + g * 16, false));
    case NM_SCALE_NIBBLES: return _mm512_mul_ps(half512(super), nibbles512(super + 64 + g * 16, 0));
    case NM_SCALE_E8M0: break;
    }
    return e8m0_512(super + g * 16);
}

/* Minimum of group g; only for layouts that have one. -(dmin * m) is (-dmin) * m. */
V16_INLINE __m512 min512(const nm_layout *l, const uint8_t *super, int g)
{
    int all = l->blocks * nm_layout_groups(l);
    if (l->scales == NM_SCALE_HALF_MIN) return half512(super + (all + g) * 32);
    __m512 m = l->scales == NM_SCALE_NIBBLES ? nibbles512(super + 64 + g * 16, 4) : bytes512(super + 64 + (all + g) * 16, false);
    return _mm512_mul_ps(v_neg(half512(super + 32)), m);
}

/* Blocks [b0, b0 + count) of a panel to the U form, each byte less `bias`: 0, or the layout's offset for signed values. */
V16_INLINE void unpack512(const nm_layout *l, int bias, const uint8_t *panel, int64_t b0, int64_t count, const nm_u *u)
{
    int groups = nm_layout_groups(l);
    const uint8_t *super = panel + (size_t)(b0 / l->blocks) * (size_t)nm_layout_super(l);
    uint8_t *q = u->q;
    float *scale = u->scale, *min = u->min;
    for (int64_t left = count; left > 0; left -= l->blocks, super += nm_layout_super(l)) {
        int n = left < l->blocks ? (int)left : l->blocks;
        for (int b = 0; b < n; b++, q += NM_STEPS * NM_LINE)
            _Pragma("GCC unroll 8") for (int v = 0; v < NM_STEPS; v++)
                _mm512_store_si512(q + v * NM_LINE, _mm512_sub_epi8(step512(l, super, b, v), _mm512_set1_epi8((char)bias)));
        for (int g = 0; g < n * groups; g++, scale += 16, min += 16) {
            _mm512_store_ps(scale, scale512(l, super, g));
            if (nm_layout_has_min(l)) _mm512_store_ps(min, min512(l, super, g));
        }
    }
}

#define DEFINE_UNPACK512(TYPE, ...) \
    static void unpack_##TYPE(const uint8_t *panel, int64_t b0, int64_t count, const nm_u *u) \
    { \
        static const nm_layout l = NM_LAYOUT_ROW(TYPE, __VA_ARGS__); \
        unpack512(&l, 0, panel, b0, count, u); \
    }
#define DEFINE_UNPACK512_SIGNED(TYPE, ...) \
    static void unpack_##TYPE(const uint8_t *panel, int64_t b0, int64_t count, const nm_u *u) \
    { \
        static const nm_layout l = NM_LAYOUT_ROW(TYPE, __VA_ARGS__); \
        unpack512(&l, l.offset, panel, b0, count, u); \
    }
#define UNPACK512_ENTRY(TYPE, ...) [NM_LAYOUT_##TYPE] = unpack_##TYPE,

/* Blocks [b0, b0 + blocks) of panel p to the U form, packed or rows of the file, by the AVX-512 tier (avx512.c); u's offset is chunk_offset(w). */
void nm_unpack_chunk_avx512(const nm_panels *w, int64_t p, int64_t b0, int64_t blocks, const nm_u *u);
/* The int8 linear map of the AVX-512 tier (avx512_q8.c). */
void nm_linear_q8_avx512(const nm_linear_job *job);
/* The int8 linear map of the VNNI tier (vnni.c), which AMX leaves small batches to. */
void nm_linear_q8_vnni(const nm_linear_job *job);

#endif
