/* Owns the two instructions of AVX512_BF16 that the kernels take, or under NM_EMULATE_BF16 the same bits by AVX-512 alone, so that every machine with that
 * can test what runs around them. bf16x32: 32 numbers, or 16 pairs. */
#ifndef NM_X86_BF16_LANES_H
#define NM_X86_BF16_LANES_H

#include "kernel/x86/v16_avx512.h"

typedef __m512i bf16x32;

#if !NM_EMULATE_BF16

/* Sixteen numbers of `low`, then sixteen of `high`, rounded. */
V16_INLINE bf16x32 bf16_round(v16 low, v16 high) { return (bf16x32)_mm512_cvtne2ps_pbh(high, low); }
/* Each lane's pair of products, added to it. */
V16_INLINE v16 bf16_dot(v16 acc, bf16x32 w, bf16x32 x) { return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)x); }

/* The products' own treatment of denormals holds between these. */
V16_INLINE unsigned bf16_begin(void) { return 0; }
V16_INLINE void bf16_end(unsigned mode) {}

#else

V16_INLINE __m256i bf16_round16(v16 x)
{
    const __m512i one = _mm512_set1_epi32(1), half = _mm512_set1_epi32(0x7fff), exponent = _mm512_set1_epi32(0x7f800000);
    __m512i bits = _mm512_castps_si512(x), cut = _mm512_srli_epi32(bits, 16);
    __m512i r = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, half), _mm512_and_si512(cut, one)), 16);
    r = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), cut, _mm512_set1_epi32(0x40));
    r = _mm512_mask_and_epi32(r, _mm512_testn_epi32_mask(bits, exponent), cut, _mm512_set1_epi32(0x8000));
    return _mm512_cvtepi32_epi16(r);
}

V16_INLINE bf16x32 bf16_round(v16 low, v16 high)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(bf16_round16(low)), bf16_round16(high), 1);
}

V16_INLINE v16 bf16_dot(v16 acc, bf16x32 w, bf16x32 x)
{
    const __m512i odd = _mm512_set1_epi32((int)0xffff0000u);
    acc = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(w, odd)), _mm512_castsi512_ps(_mm512_and_si512(x, odd)), acc);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(w, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)), acc);
}

/* Flushing by MXCSR. What tiles load and store cannot pass these, and so neither can what they compute in between. */
V16_INLINE unsigned bf16_begin(void)
{
    enum { FLUSH_TO_ZERO = 0x8000, DENORMALS_ARE_ZERO = 0x40 };
    unsigned mode, flush;
    __asm__ volatile("stmxcsr %0" : "=m"(mode) : : "memory");
    flush = mode | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO;
    __asm__ volatile("ldmxcsr %0" : : "m"(flush) : "memory");
    return mode;
}
V16_INLINE void bf16_end(unsigned mode) { __asm__ volatile("ldmxcsr %0" : : "m"(mode) : "memory"); }

#endif

#endif
