/* v16 over one zmm register; see kernel/v16_c.h for what each function means. */
#ifndef NM_V16_AVX512_H
#define NM_V16_AVX512_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef __m512 v16;

#define V16_INLINE static inline __attribute__((always_inline))

/* The first n of 16 lanes; n <= 0 none, n >= 16 all. */
V16_INLINE __mmask16 lanes16(int n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }

V16_INLINE v16 v_load(const float *p) { return _mm512_loadu_ps(p); }
V16_INLINE void v_store(float *p, v16 x) { _mm512_storeu_ps(p, x); }
V16_INLINE v16 v_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps(lanes16(n), p); }
V16_INLINE void v_store_n(float *p, v16 x, int n) { _mm512_mask_storeu_ps(p, lanes16(n), x); }
V16_INLINE v16 v_keep_n(v16 x, int n) { return _mm512_maskz_mov_ps(lanes16(n), x); }
V16_INLINE v16 v_set(float f) { return _mm512_set1_ps(f); }
V16_INLINE v16 v_add(v16 x, v16 y) { return _mm512_add_ps(x, y); }
V16_INLINE v16 v_sub(v16 x, v16 y) { return _mm512_sub_ps(x, y); }
V16_INLINE v16 v_mul(v16 x, v16 y) { return _mm512_mul_ps(x, y); }
V16_INLINE v16 v_div(v16 x, v16 y) { return _mm512_div_ps(x, y); }
V16_INLINE v16 v_fma(v16 x, v16 y, v16 z) { return _mm512_fmadd_ps(x, y, z); }
V16_INLINE v16 v_min(v16 x, v16 y) { return _mm512_min_ps(x, y); }
V16_INLINE v16 v_max(v16 x, v16 y) { return _mm512_max_ps(x, y); }
V16_INLINE v16 v_neg(v16 x) { return _mm512_xor_ps(x, _mm512_set1_ps(-0.0f)); }
V16_INLINE v16 v_abs(v16 x) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), x); }
V16_INLINE v16 v_copysign(v16 x, v16 y)
{
    __m512i s = _mm512_set1_epi32((int)0x80000000u);    /* bit-select: s ? y : x */
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(s, _mm512_castps_si512(y), _mm512_castps_si512(x), 0xca));
}
V16_INLINE v16 v_less(v16 x, v16 y, v16 then, v16 other)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), other, then);
}
V16_INLINE v16 v_pow2(v16 t)
{
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(_mm512_castps_si512(t), 23), _mm512_set1_epi32(0x3f800000)));
}
V16_INLINE void v_load2(const float *p, v16 *x, v16 *y, int n)
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
    v16 low = v_load_n(p, 2 * n), high = v_load_n(p + 16, 2 * n - 16);
    *x = _mm512_permutex2var_ps(low, even, high);
    *y = _mm512_permutex2var_ps(low, odd, high);
}
V16_INLINE void v_store2(float *p, v16 x, v16 y, int n)
{
    const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    v_store_n(p, _mm512_permutex2var_ps(x, first, y), 2 * n);
    v_store_n(p + 16, _mm512_permutex2var_ps(x, second, y), 2 * n - 16);
}
V16_INLINE float v_sum(v16 x)
{
    __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
V16_INLINE float v_max_of(v16 x)
{
    __m256 s8 = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}

/* A square of 16 x 16 turned: out[r * ldo + i] = in[16 * i + r] for i < n; rows are written n wide. */
V16_INLINE void v_transpose(const float *in, int n, float *out, size_t ldo)
{
    __m512 x[16], y[16];
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) x[i] = i < n ? _mm512_loadu_ps(in + 16 * i) : _mm512_setzero_ps();
    _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) {       /* pairs of lines: 2 x 2 in each 128 bits */
        y[2 * i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        y[2 * i + 1] = _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {       /* fours of lines: x[4 i + c] has column 4 b + c in its 128 bits b */
        x[4 * i] = _mm512_shuffle_ps(y[4 * i], y[4 * i + 2], 0x44);
        x[4 * i + 1] = _mm512_shuffle_ps(y[4 * i], y[4 * i + 2], 0xee);
        x[4 * i + 2] = _mm512_shuffle_ps(y[4 * i + 1], y[4 * i + 3], 0x44);
        x[4 * i + 3] = _mm512_shuffle_ps(y[4 * i + 1], y[4 * i + 3], 0xee);
    }
    _Pragma("GCC unroll 4") for (int c = 0; c < 4; c++) {       /* and the 128 bits of four such to their rows */
        __m512 a = _mm512_shuffle_f32x4(x[c], x[4 + c], 0x44), b = _mm512_shuffle_f32x4(x[8 + c], x[12 + c], 0x44);
        __m512 d = _mm512_shuffle_f32x4(x[c], x[4 + c], 0xee), e = _mm512_shuffle_f32x4(x[8 + c], x[12 + c], 0xee);
        v_store_n(out + (size_t)c * ldo, _mm512_shuffle_f32x4(a, b, 0x88), n);
        v_store_n(out + (size_t)(4 + c) * ldo, _mm512_shuffle_f32x4(a, b, 0xdd), n);
        v_store_n(out + (size_t)(8 + c) * ldo, _mm512_shuffle_f32x4(d, e, 0x88), n);
        v_store_n(out + (size_t)(12 + c) * ldo, _mm512_shuffle_f32x4(d, e, 0xdd), n);
    }
}

/* ---- More than the reference needs: converting loads and stores, for the templates of this folder ---- */

V16_INLINE v16 v_load_half(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
V16_INLINE v16 v_load_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
V16_INLINE v16 v_load_int8(const int8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p))); }
V16_INLINE void v_store_half(uint16_t *p, v16 x)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
V16_INLINE float v_from_half(uint16_t h) { return _cvtsh_ss(h); }
V16_INLINE uint16_t v_to_half(float f) { return _cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* Byte i (0..3) of each dword of a line of u, minus offset, as floats. */
V16_INLINE v16 v_line_byte(const uint8_t *line, int i, int offset)
{
    __m512i v = _mm512_and_si512(_mm512_srli_epi32(_mm512_load_si512(line), (unsigned)(8 * i)), _mm512_set1_epi32(255));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(v, _mm512_set1_epi32(offset)));
}

#endif
