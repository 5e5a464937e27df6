/* AVX-512 without VNNI, all but the int8 linear maps (avx512_q8.c): everything in fp32, and quantising activations. */
#include "kernel/x86/blocks512.h"
#include "kernel/v16_math.h"
#include "kernel/elementwise_back.h"

#define TILE_KEYS 4
#include "kernel/x86/attention.h"

NM_LAYOUTS(DEFINE_UNPACK512)
static void (*const unpackers[NM_LAYOUT_COUNT])(const uint8_t *, int64_t, int64_t, const nm_u *) = {NM_LAYOUTS(UNPACK512_ENTRY)};

#define unpack_chunk nm_unpack_chunk_avx512
void unpack_chunk(const nm_panels *w, int64_t p, int64_t b0, int64_t blocks, const nm_u *u)
{
    if (w->data) unpackers[nm_layout_of(w->type)](w->data + (size_t)p * w->panel_bytes, b0, blocks, u);
    else nm_unpack_c(w, p, b0, blocks, 0x80, u);
}

enum { F32_ROWS = 6, F32_PANELS = 4, F32_PASS = 256 };
#define F32_NARROW 12
#include "kernel/x86/linear_f32.h"

#define GEMM_VECTORS 4
#define GEMM_NARROW 12
#include "kernel/x86/gemm.h"

/* One block of 32: see kernel/ref/ref.c for the rule. */
static void quantize_block(const float *x, int8_t *q, float *scale, int32_t *sum)
{
    __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i most = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(a), magnitude), _mm512_and_si512(_mm512_castps_si512(b), magnitude));
    int32_t bits = _mm512_reduce_max_epi32(most);
    float amax, smallest = NM_SMALLEST_AMAX;
    memcpy(&amax, &bits, 4);
    __m512i qa = _mm512_setzero_si512(), qb = qa;
    if (bits >= 0x7f800000) *scale = NAN;
    else if (amax < smallest) *scale = 0;
    else {
        *scale = amax / 127.0f;
        const __m512 inverse = _mm512_set1_ps(127.0f / amax);
        qa = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));     /* to nearest even */
        qb = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
    }
    _mm_storeu_si128((__m128i *)q, _mm512_cvtsepi32_epi8(qa));
    _mm_storeu_si128((__m128i *)(q + 16), _mm512_cvtsepi32_epi8(qb));
    sum[0] = _mm512_reduce_add_epi32(qa);
    sum[1] = _mm512_reduce_add_epi32(qb);
}

#include "kernel/x86/quantize.h"

void nm_kernels_avx512(nm_kernels *table)
{
    fill_elementwise(table);
    fill_elementwise_back(table);
    fill_gemm(table);
    fill_attention(table);
    table->linear_f32 = linear_f32;
    table->linear_q8 = nm_linear_q8_avx512;
    table->quantize = quantize;
    table->tile_rows = NM_TILE_ROWS_AVX512;
    table->few_rows = NM_QTILE_FEW;
}
