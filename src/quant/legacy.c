/* The 32-value block formats: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0. Each block opens with half-precision d (and m, the minimum, in the _1
 * types). 4-bit quants: byte i holds value i in its low and value i + 16 in its high half; the fifth bits follow as one 32-bit field.
 * The quantisers are the formats' reference ones, to the bit. */
#include "quant/codec.h"

enum { Q4_0_BYTES = 2 + 16, Q4_1_BYTES = 4 + 16, Q5_0_BYTES = 2 + 4 + 16, Q5_1_BYTES = 4 + 4 + 16, Q8_0_BYTES = 2 + 32 };

/* 16 bytes of low bits to 32 values less `zero`. */
static inline void unpack4(const uint8_t *qs, int zero, int8_t *q)
{
    for (int i = 0; i < 16; i++) q[i] = (int8_t)((qs[i] & 15) - zero);
    for (int i = 0; i < 16; i++) q[i + 16] = (int8_t)((qs[i] >> 4) - zero);
}

static inline void unpack5(const uint8_t *qs, uint32_t high, int zero, int8_t *q)
{
    for (int i = 0; i < 16; i++) q[i] = (int8_t)((int)((qs[i] & 15) | (high >> i & 1) << 4) - zero);
    for (int i = 0; i < 16; i++) q[i + 16] = (int8_t)((int)(qs[i] >> 4 | (high >> (i + 16) & 1) << 4) - zero);
}

static inline void pack4(const uint8_t *q, uint8_t *qs)
{
    for (int i = 0; i < 16; i++) qs[i] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
}

static inline uint32_t fifth_bits(const uint8_t *q)
{
    uint32_t high = 0;
    for (int i = 0; i < 32; i++) high |= (uint32_t)(q[i] >> 4) << i;
    return high;
}

NM_CODEC_GROUPS(q4_0)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / 32; b++, p += Q4_0_BYTES, q += 32) {
        scale[b] = nm_load_half(p);
        unpack4(p + 2, 8, q);
    }
}

NM_CODEC_GROUPS(q4_1)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / 32; b++, p += Q4_1_BYTES, q += 32) {
        scale[b] = nm_load_half(p);
        min[b] = nm_load_half(p + 2);
        unpack4(p + 4, 0, q);
    }
}

NM_CODEC_GROUPS(q5_0)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / 32; b++, p += Q5_0_BYTES, q += 32) {
        scale[b] = nm_load_half(p);
        unpack5(p + 6, nm_load_u32(p + 2), 16, q);
    }
}

NM_CODEC_GROUPS(q5_1)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / 32; b++, p += Q5_1_BYTES, q += 32) {
        scale[b] = nm_load_half(p);
        min[b] = nm_load_half(p + 2);
        unpack5(p + 8, nm_load_u32(p + 4), 0, q);
    }
}

NM_CODEC_GROUPS(q8_0)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / 32; b++, p += Q8_0_BYTES, q += 32) {
        scale[b] = nm_load_half(p);
        memcpy(q, p + 2, 32);
    }
}

/* Symmetric: the value of largest magnitude becomes -half. Returns d in fp32: the quants do not know that the block rounds it. */
static float quantise_symmetric(const float *x, int half, uint8_t *q)
{
    float d = nm_extreme(x, 32) / (float)-half, inverse = nm_inverse(d);
    for (int i = 0; i < 32; i++) q[i] = (uint8_t)nm_clamp_int(truncf(x[i] * inverse + ((float)half + 0.5f)), 0, 2 * half - 1);
    return d;
}

static float quantise_from_min(const float *x, int most, uint8_t *q, float *min)
{
    float low = x[0], high = x[0];
    for (int i = 1; i < 32; i++) {
        if (x[i] < low) low = x[i];
        if (x[i] > high) high = x[i];
    }
    float d = (high - low) / (float)most, inverse = nm_inverse(d);
    for (int i = 0; i < 32; i++) q[i] = (uint8_t)nm_clamp_int(truncf((x[i] - low) * inverse + 0.5f), 0, most);
    *min = low;
    return d;
}

NM_CODEC_FROM_FLOAT(q4_0)
{
    uint8_t *p = blocks, q[32];
    for (int64_t b = 0; b < k / 32; b++, p += Q4_0_BYTES) {
        nm_store_u16(p, nm_float_to_half(quantise_symmetric(values + 32 * b, 8, q)));
        pack4(q, p + 2);
    }
}

NM_CODEC_FROM_FLOAT(q4_1)
{
    uint8_t *p = blocks, q[32];
    for (int64_t b = 0; b < k / 32; b++, p += Q4_1_BYTES) {
        float min;
        nm_store_u16(p, nm_float_to_half(quantise_from_min(values + 32 * b, 15, q, &min)));
        nm_store_u16(p + 2, nm_float_to_half(min));
        pack4(q, p + 4);
    }
}

NM_CODEC_FROM_FLOAT(q5_0)
{
    uint8_t *p = blocks, q[32];
    for (int64_t b = 0; b < k / 32; b++, p += Q5_0_BYTES) {
        nm_store_u16(p, nm_float_to_half(quantise_symmetric(values + 32 * b, 16, q)));
        nm_store_u32(p + 2, fifth_bits(q));
        pack4(q, p + 6);
    }
}

NM_CODEC_FROM_FLOAT(q5_1)
{
    uint8_t *p = blocks, q[32];
    for (int64_t b = 0; b < k / 32; b++, p += Q5_1_BYTES) {
        float min;
        nm_store_u16(p, nm_float_to_half(quantise_from_min(values + 32 * b, 31, q, &min)));
        nm_store_u16(p + 2, nm_float_to_half(min));
        nm_store_u32(p + 4, fifth_bits(q));
        pack4(q, p + 8);
    }
}

NM_CODEC_FROM_FLOAT(q8_0)
{
    uint8_t *p = blocks;
    for (int64_t b = 0; b < k / 32; b++, p += Q8_0_BYTES) {
        const float *x = values + 32 * b;
        float d = fabsf(nm_extreme(x, 32)) / 127, inverse = nm_inverse(d);
        nm_store_u16(p, nm_float_to_half(d));
        for (int i = 0; i < 32; i++) p[2 + i] = (uint8_t)nm_clamp_int(roundf(x[i] * inverse), -127, 127);
    }
}
