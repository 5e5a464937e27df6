/* AVX2 with FMA and F16C, all but the int8 linear maps (avx2_q8.c): fp32 linear maps, attention, norms and activations, quantising rows. */
#include "kernel/x86/blocks256.h"
#include "kernel/v16_math.h"
#include "kernel/elementwise_back.h"

#define TILE_KEYS 1
#include "kernel/x86/attention.h"

NM_LAYOUTS(DEFINE_UNPACK256)
const nm_unpack256_fn nm_unpackers_avx2[NM_LAYOUT_COUNT] = {NM_LAYOUTS(UNPACK256_ENTRY)};

static void unpack_chunk(const nm_panels *w, int64_t p, int64_t b0, int64_t blocks, const nm_u *u)
{
    if (w->data) nm_unpackers_avx2[nm_layout_of(w->type)](w->data + (size_t)p * w->panel_bytes, b0, blocks, u);
    else nm_unpack_c(w, p, b0, blocks, 0x80, u);
}

enum { F32_ROWS = 6, F32_PANELS = 1, F32_PASS = 320 };
#define F32_NARROW 6
#include "kernel/x86/linear_f32.h"

#define GEMM_VECTORS 1
#define GEMM_NARROW 6
#include "kernel/x86/gemm.h"

V16_INLINE __m256i magnitude8(const float *x)
{
    return _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x)), _mm256_set1_epi32(0x7fffffff));
}

V16_INLINE int32_t max8(__m256i x)
{
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
}

/* Sixteen values to int8 at q; the sum of what they became. */
V16_INLINE int32_t quantize16(const float *x, __m256 inverse, int8_t *q)
{
    __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), inverse));        /* to nearest even */
    __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8), inverse));
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)q, bytes);
    __m256i pairs = _mm256_add_epi32(a, b);
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

/* One block of 32: see kernel/ref/ref.c for the rule. */
static void quantize_block(const float *x, int8_t *q, float *scale, int32_t *sum)
{
    int32_t bits = max8(_mm256_max_epi32(_mm256_max_epi32(magnitude8(x), magnitude8(x + 8)), _mm256_max_epi32(magnitude8(x + 16), magnitude8(x + 24))));
    float amax, smallest = NM_SMALLEST_AMAX;
    memcpy(&amax, &bits, 4);
    if (bits >= 0x7f800000 || amax < smallest) {
        *scale = bits >= 0x7f800000 ? NAN : 0;
        memset(q, 0, NM_BLOCK);
        sum[0] = sum[1] = 0;
        return;
    }
    *scale = amax / 127.0f;
    __m256 inverse = _mm256_set1_ps(127.0f / amax);
    sum[0] = quantize16(x, inverse, q);
    sum[1] = quantize16(x + 16, inverse, q + 16);
}

#include "kernel/x86/quantize.h"

void nm_kernels_avx2(nm_kernels *table)
{
    fill_elementwise(table);
    fill_elementwise_back(table);
    fill_gemm(table);
    fill_attention(table);
    table->linear_f32 = linear_f32;
    table->linear_q8 = nm_linear_q8_avx2;
    table->quantize = quantize;
    table->tile_rows = NM_TILE_ROWS_AVX2;
    table->few_rows = NM_DIRECT_ROWS_AVX2;
}
