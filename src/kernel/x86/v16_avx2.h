/* v16 over two ymm registers; see kernel/v16_c.h for what each function means. */
#ifndef NM_V16_AVX2_H
#define NM_V16_AVX2_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef struct v16 { __m256 a, b; } v16;

#define V16_INLINE static inline __attribute__((always_inline))
#define V16_BOTH(call_a, call_b) return (v16){call_a, call_b}

/* All ones in the first n of 8 lanes. */
V16_INLINE __m256i lanes8(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

V16_INLINE v16 v_load(const float *p) { V16_BOTH(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
V16_INLINE void v_store(float *p, v16 x) { _mm256_storeu_ps(p, x.a); _mm256_storeu_ps(p + 8, x.b); }
V16_INLINE v16 v_load_n(const float *p, int n)
{
    V16_BOTH(_mm256_maskload_ps(p, lanes8(n)), _mm256_maskload_ps(p + 8, lanes8(n - 8)));
}
V16_INLINE void v_store_n(float *p, v16 x, int n)
{
    _mm256_maskstore_ps(p, lanes8(n), x.a);
    _mm256_maskstore_ps(p + 8, lanes8(n - 8), x.b);
}
V16_INLINE v16 v_keep_n(v16 x, int n)
{
    V16_BOTH(_mm256_and_ps(x.a, _mm256_castsi256_ps(lanes8(n))), _mm256_and_ps(x.b, _mm256_castsi256_ps(lanes8(n - 8))));
}
V16_INLINE v16 v_set(float f) { __m256 x = _mm256_set1_ps(f); V16_BOTH(x, x); }
V16_INLINE v16 v_add(v16 x, v16 y) { V16_BOTH(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)); }
V16_INLINE v16 v_sub(v16 x, v16 y) { V16_BOTH(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)); }
V16_INLINE v16 v_mul(v16 x, v16 y) { V16_BOTH(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)); }
V16_INLINE v16 v_div(v16 x, v16 y) { V16_BOTH(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)); }
V16_INLINE v16 v_fma(v16 x, v16 y, v16 z) { V16_BOTH(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)); }
V16_INLINE v16 v_min(v16 x, v16 y) { V16_BOTH(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)); }
V16_INLINE v16 v_max(v16 x, v16 y) { V16_BOTH(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)); }
V16_INLINE v16 v_neg(v16 x) { __m256 s = _mm256_set1_ps(-0.0f); V16_BOTH(_mm256_xor_ps(x.a, s), _mm256_xor_ps(x.b, s)); }
V16_INLINE v16 v_abs(v16 x) { __m256 s = _mm256_set1_ps(-0.0f); V16_BOTH(_mm256_andnot_ps(s, x.a), _mm256_andnot_ps(s, x.b)); }
V16_INLINE v16 v_copysign(v16 x, v16 y)
{
    __m256 s = _mm256_set1_ps(-0.0f);
    V16_BOTH(_mm256_or_ps(_mm256_andnot_ps(s, x.a), _mm256_and_ps(s, y.a)), _mm256_or_ps(_mm256_andnot_ps(s, x.b), _mm256_and_ps(s, y.b)));
}
V16_INLINE v16 v_less(v16 x, v16 y, v16 then, v16 other)
{
    V16_BOTH(_mm256_blendv_ps(other.a, then.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
             _mm256_blendv_ps(other.b, then.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)));
}
V16_INLINE __m256 pow2_8(__m256 t)
{
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(t), 23), _mm256_set1_epi32(0x3f800000)));
}
V16_INLINE v16 v_pow2(v16 t) { V16_BOTH(pow2_8(t.a), pow2_8(t.b)); }
/* Sixteen consecutive floats to their eight even and eight odd ones. */
V16_INLINE void split8(__m256 x, __m256 y, __m256 *even, __m256 *odd)
{
    __m256 e = _mm256_shuffle_ps(x, y, 0x88), o = _mm256_shuffle_ps(x, y, 0xdd);
    *even = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(e), 0xd8));
    *odd = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(o), 0xd8));
}
V16_INLINE void join8(__m256 even, __m256 odd, __m256 *x, __m256 *y)
{
    __m256 low = _mm256_unpacklo_ps(even, odd), high = _mm256_unpackhi_ps(even, odd);
    *x = _mm256_permute2f128_ps(low, high, 0x20);
    *y = _mm256_permute2f128_ps(low, high, 0x31);
}
V16_INLINE void v_load2(const float *p, v16 *x, v16 *y, int n)
{
    v16 low = v_load_n(p, 2 * n), high = v_load_n(p + 16, 2 * n - 16);
    split8(low.a, low.b, &x->a, &y->a);
    split8(high.a, high.b, &x->b, &y->b);
}
V16_INLINE void v_store2(float *p, v16 x, v16 y, int n)
{
    v16 low, high;
    join8(x.a, y.a, &low.a, &low.b);
    join8(x.b, y.b, &high.a, &high.b);
    v_store_n(p, low, 2 * n);
    v_store_n(p + 16, high, 2 * n - 16);
}
V16_INLINE float v_sum(v16 x)
{
    __m256 s8 = _mm256_add_ps(x.a, x.b);
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
V16_INLINE float v_max_of(v16 x)
{
    __m256 s8 = _mm256_max_ps(x.a, x.b);
    __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}

/* Up to eight lines of 8 values, 16 apart, turned: out[r * ldo + i], i < n. */
V16_INLINE void transpose8(const float *in, int n, float *out, size_t ldo)
{
    __m256 x[8], y[8];
    _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) x[i] = i < n ? _mm256_loadu_ps(in + 16 * i) : _mm256_setzero_ps();
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
        y[2 * i] = _mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        y[2 * i + 1] = _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
    _Pragma("GCC unroll 2") for (int i = 0; i < 2; i++) {
        x[4 * i] = _mm256_shuffle_ps(y[4 * i], y[4 * i + 2], 0x44);
        x[4 * i + 1] = _mm256_shuffle_ps(y[4 * i], y[4 * i + 2], 0xee);
        x[4 * i + 2] = _mm256_shuffle_ps(y[4 * i + 1], y[4 * i + 3], 0x44);
        x[4 * i + 3] = _mm256_shuffle_ps(y[4 * i + 1], y[4 * i + 3], 0xee);
    }
    _Pragma("GCC unroll 4") for (int c = 0; c < 4; c++) {
        _mm256_maskstore_ps(out + (size_t)c * ldo, lanes8(n), _mm256_permute2f128_ps(x[c], x[4 + c], 0x20));
        _mm256_maskstore_ps(out + (size_t)(4 + c) * ldo, lanes8(n), _mm256_permute2f128_ps(x[c], x[4 + c], 0x31));
    }
}
/* A square of 16 x 16 turned: out[r * ldo + i] = in[16 * i + r] for i < n; rows are written n wide. */
V16_INLINE void v_transpose(const float *in, int n, float *out, size_t ldo)
{
    transpose8(in, n, out, ldo);
    transpose8(in + 8, n, out + 8 * ldo, ldo);
    if (n <= 8) return;
    transpose8(in + 16 * 8, n - 8, out + 8, ldo);
    transpose8(in + 16 * 8 + 8, n - 8, out + 8 * ldo + 8, ldo);
}

/* ---- More than the reference needs: converting loads and a broadcast, for the templates of this folder ---- */

V16_INLINE v16 v_load_half(const uint16_t *p)
{
    V16_BOTH(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8))));
}
V16_INLINE v16 v_load_bf16(const uint16_t *p)
{
    __m256i a = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), b = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p + 8)));
    V16_BOTH(_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16)));
}
V16_INLINE v16 v_load_int8(const int8_t *p)
{
    V16_BOTH(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p))),
             _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8)))));
}
V16_INLINE void v_store_half(uint16_t *p, v16 x)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
V16_INLINE float v_from_half(uint16_t h) { return _cvtsh_ss(h); }
V16_INLINE uint16_t v_to_half(float f) { return _cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* Byte i (0..3) of each dword of a line of u, minus offset, as floats. */
V16_INLINE __m256 byte8(__m256i v, int i, int offset)
{
    v = _mm256_and_si256(_mm256_srli_epi32(v, 8 * i), _mm256_set1_epi32(255));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(v, _mm256_set1_epi32(offset)));
}
V16_INLINE v16 v_line_byte(const uint8_t *line, int i, int offset)
{
    V16_BOTH(byte8(_mm256_load_si256((const __m256i *)line), i, offset), byte8(_mm256_load_si256((const __m256i *)(line + 32)), i, offset));
}

#endif
