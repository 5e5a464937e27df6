/* Plain floating-point types: F32, F16, BF16, F64. Integer code only for the 16-bit conversions, so that they give the same bits on
 * every machine and in every rounding or flush-to-zero mode. */
#include "quant/codec.h"

static inline float bits_to_float(uint32_t bits) { float f; memcpy(&f, &bits, sizeof f); return f; }
static inline uint32_t float_to_bits(float f) { uint32_t bits; memcpy(&bits, &f, sizeof bits); return bits; }

float nm_half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest >= 0x7c00) return bits_to_float(sign | 0x7f800000 | rest << 13);       /* infinity, NaN with its payload */
    if (rest >= 0x0400) return bits_to_float(sign | ((rest << 13) + (112u << 23))); /* exponent bias 15 becomes 127 */
    if (rest == 0) return bits_to_float(sign);
    int shift = __builtin_clz(rest) - 21;       /* subnormal: bring the leading bit to where a normal half has its hidden one */
    return bits_to_float(sign | (uint32_t)(113 - shift) << 23 | ((rest << shift) & 0x3ff) << 13);
}

uint16_t nm_float_to_half(float f)
{
    uint32_t bits = float_to_bits(f), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (rest >> 13 & 0x3ff));
    if (rest >= 0x47800000) return (uint16_t)(sign | 0x7c00);       /* 65536 and above; what rounds up to it gets there by carry below */
    if (rest >= 0x38800000) return (uint16_t)(sign | (rest - (112u << 23) + 0xfff + (rest >> 13 & 1)) >> 13);
    if (rest < 0x33000000) return (uint16_t)sign;                   /* under half the smallest subnormal, 2^-25 */
    int shift = 126 - (int)(rest >> 23);                            /* 14 to 24: the significand in units of 2^-24 */
    uint32_t m = (rest & 0x7fffff) | 0x800000, odd = m >> shift & 1;
    return (uint16_t)(sign | (m + (1u << (shift - 1)) - 1 + odd) >> shift);
}

uint16_t nm_float_to_bf16(float f)
{
    uint32_t bits = float_to_bits(f);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

NM_CODEC_TO_FLOAT(f32_row) { if (k) memcpy(out, blocks, (size_t)k * sizeof *out); }
NM_CODEC_FROM_FLOAT(f32_row) { if (k) memcpy(blocks, values, (size_t)k * sizeof *values); }

NM_CODEC_TO_FLOAT(f16_row)
{
    const uint8_t *p = blocks;
    for (int64_t i = 0; i < k; i++) out[i] = nm_half_to_float(nm_load_u16(p + 2 * i));
}

NM_CODEC_FROM_FLOAT(f16_row)
{
    uint8_t *p = blocks;
    for (int64_t i = 0; i < k; i++) nm_store_u16(p + 2 * i, nm_float_to_half(values[i]));
}

NM_CODEC_TO_FLOAT(bf16_row)
{
    const uint8_t *p = blocks;
    for (int64_t i = 0; i < k; i++) out[i] = nm_bf16_to_float(nm_load_u16(p + 2 * i));
}

NM_CODEC_FROM_FLOAT(bf16_row)
{
    uint8_t *p = blocks;
    for (int64_t i = 0; i < k; i++) nm_store_u16(p + 2 * i, nm_float_to_bf16(values[i]));
}

NM_CODEC_TO_FLOAT(f64_row)
{
    const uint8_t *p = blocks;
    for (int64_t i = 0; i < k; i++) {
        double d;
        memcpy(&d, p + 8 * i, sizeof d);
        out[i] = (float)d;
    }
}
