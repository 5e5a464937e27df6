/* NEON as every AArch64 has it, all but the int8 linear maps (neon_q8.c): fp32 linear maps, attention, norms and activations, quantising rows.
 * The templates of kernel/x86 know only v16. */
#define UNPACK_SIGNED false
#define UNPACK_PAIRED false
#include "kernel/arm/blocks_neon.h"
#include "kernel/v16_math.h"
#include "kernel/elementwise_back.h"

#define TILE_KEYS 1
#include "kernel/x86/attention.h"

NM_LAYOUTS(DEFINE_UNPACK_NEON)
static void (*const unpackers[NM_LAYOUT_COUNT])(const uint8_t *, int64_t, int64_t, const nm_u *) = {NM_LAYOUTS(UNPACK_NEON_ENTRY)};

static void unpack_chunk(const nm_panels *w, int64_t p, int64_t b0, int64_t blocks, const nm_u *u)
{
    if (w->data) unpackers[nm_layout_of(w->type)](w->data + (size_t)p * w->panel_bytes, b0, blocks, u);
    else nm_unpack_c(w, p, b0, blocks, 0x80, u);
}

/* 24 of the 32 registers are sums, four a line of weights. */
enum { F32_ROWS = 6, F32_PANELS = 1, F32_PASS = 256 };
#define F32_NARROW 6
#include "kernel/x86/linear_f32.h"

#define GEMM_VECTORS 1
#define GEMM_NARROW 6
#include "kernel/x86/gemm.h"

V16_INLINE uint32x4_t magnitude4(const float *x) { return vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x))); }

V16_INLINE uint32x4_t magnitude16(const float *x)
{
    return vmaxq_u32(vmaxq_u32(magnitude4(x), magnitude4(x + 4)), vmaxq_u32(magnitude4(x + 8), magnitude4(x + 12)));
}

/* Four values, to nearest even. */
V16_INLINE int32x4_t rounded(const float *x, float inverse) { return vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x), inverse)); }

/* Sixteen values to int8 at q; the sum of what they became. */
V16_INLINE int16_t quantize16(const float *x, float inverse, int8_t *q)
{
    int16x8_t a = vqmovn_high_s32(vqmovn_s32(rounded(x, inverse)), rounded(x + 4, inverse));
    int16x8_t b = vqmovn_high_s32(vqmovn_s32(rounded(x + 8, inverse)), rounded(x + 12, inverse));
    vst1q_s8(q, vqmovn_high_s16(vqmovn_s16(a), b));
    return vaddvq_s16(vaddq_s16(a, b));
}

/* One block of 32: see kernel/ref/ref.c for the rule. */
static void quantize_block(const float *x, int8_t *q, float *scale, int32_t *sum)
{
    uint32_t bits = vmaxvq_u32(vmaxq_u32(magnitude16(x), magnitude16(x + 16)));
    float amax, smallest = NM_SMALLEST_AMAX;
    memcpy(&amax, &bits, 4);
    if (bits >= 0x7f800000u || amax < smallest) {
        *scale = bits >= 0x7f800000u ? NAN : 0;
        memset(q, 0, NM_BLOCK);
        sum[0] = sum[1] = 0;
        return;
    }
    *scale = amax / 127.0f;
    const float inverse = 127.0f / amax;
    sum[0] = quantize16(x, inverse, q);
    sum[1] = quantize16(x + 16, inverse, q + 16);
}

#include "kernel/x86/quantize.h"

void nm_kernels_neon(nm_kernels *table)
{
    fill_elementwise(table);
    fill_elementwise_back(table);
    fill_gemm(table);
    fill_attention(table);
    table->linear_f32 = linear_f32;
    table->linear_q8 = nm_linear_q8_neon;
    table->quantize = quantize;
    table->tile_rows = NM_TILE_ROWS_ARM;
    table->few_rows = NM_QTILE_FEW;
}
