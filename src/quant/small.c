/* The smallest formats: ternary (TQ1_0, TQ2_0) and 4-bit floats with a shared exponent or scale (MXFP4, NVFP4). */
#include "quant/codec.h"

enum { SUPER = 256, TQ1_0_BYTES = 54, TQ2_0_BYTES = 66, MXFP4_BYTES = 17, NVFP4_BYTES = 36 };

/* ---- Ternary -------------------------------------------------------------------------------------------------------- */

/* A byte holds up to five ternary digits as a fraction of 256: times 3^digit, modulo 256, its first digit is the one wanted. */
static const uint8_t powers_of_3[5] = {1, 3, 9, 27, 81};

/* The three fields of a TQ1_0 block: `width` bytes at `at` hold `digits` runs of `width` values. */
static const struct { uint8_t at, width, digits; } tq1_fields[3] = {{0, 32, 5}, {32, 16, 5}, {48, 4, 4}};

static inline void put_digits(const uint8_t *p, int width, int digit, int8_t *q)
{
    for (int i = 0; i < width; i++) q[i] = (int8_t)(((uint8_t)(p[i] * powers_of_3[digit]) * 3 >> 8) - 1);
}

NM_CODEC_GROUPS(tq1_0)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += TQ1_0_BYTES) {
        float d = nm_load_half(p + 52);
        for (int g = 0; g < 8; g++) *scale++ = d;
        for (int f = 0; f < 3; f++)
            for (int digit = 0; digit < tq1_fields[f].digits; digit++, q += tq1_fields[f].width)
                put_digits(p + tq1_fields[f].at, tq1_fields[f].width, digit, q);
    }
}

/* Two times 32 bytes; each holds four runs of 32, lowest bits first. */
NM_CODEC_GROUPS(tq2_0)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += TQ2_0_BYTES) {
        float d = nm_load_half(p + 64);
        for (int g = 0; g < 8; g++, q += 32) {
            *scale++ = d;
            for (int i = 0; i < 32; i++) q[i] = (int8_t)((p[g / 4 * 32 + i] >> (g % 4 * 2) & 3) - 1);
        }
    }
}

/* 256 digits 0..2 with d = the largest magnitude. */
static float ternary_digits(const float *x, uint8_t *digit)
{
    float d = fabsf(nm_extreme(x, SUPER)), inverse = nm_inverse(d);
    for (int i = 0; i < SUPER; i++) digit[i] = (uint8_t)(nm_clamp_int(roundf(x[i] * inverse), -1, 1) + 1);
    return d;
}

NM_CODEC_FROM_FLOAT(tq1_0)
{
    uint8_t *p = blocks, digit[SUPER];
    for (int64_t b = 0; b < k / SUPER; b++, p += TQ1_0_BYTES) {
        const uint8_t *from = digit;
        nm_store_u16(p + 52, nm_float_to_half(ternary_digits(values + SUPER * b, digit)));
        for (int f = 0; f < 3; f++) {
            int width = tq1_fields[f].width, digits = tq1_fields[f].digits;
            for (int i = 0; i < width; i++) {
                int number = 0;
                for (int j = 0; j < digits; j++) number += from[j * width + i] * powers_of_3[4 - j];
                p[tq1_fields[f].at + i] = (uint8_t)((number * 256 + 242) / 243);    /* rounded up, so that the digits come back */
            }
            from += width * digits;
        }
    }
}

NM_CODEC_FROM_FLOAT(tq2_0)
{
    uint8_t *p = blocks, digit[SUPER];
    for (int64_t b = 0; b < k / SUPER; b++, p += TQ2_0_BYTES) {
        nm_store_u16(p + 64, nm_float_to_half(ternary_digits(values + SUPER * b, digit)));
        memset(p, 0, 64);
        for (int i = 0; i < SUPER; i++) p[i / 128 * 32 + i % 32] |= (uint8_t)(digit[i] << (i / 32 % 4 * 2));
    }
}

/* ---- Four-bit floats -------------------------------------------------------------------------------------------------- */

/* E2M1 (sign, two exponent bits, one of fraction), doubled to be whole; the scales below are halved for it. */
static const int8_t e2m1_doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* Half of 2^(e - 127). Below e = 2 that is a subnormal float. (255 is NaN in the OCP text, but a power of two like any other to the
 * readers of these files.) */
static float e8m0_half(unsigned e)
{
    uint32_t bits = e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Half of an unsigned E4M3 (bias 7; 0x7f is its NaN and counts as 0). The top bit is ignored. */
static float ue4m3_half(unsigned x)
{
    int exponent = x >> 3 & 15, fraction = x & 7;
    if (x == 0 || x == 0x7f) return 0;
    return exponent ? ldexpf((float)(8 + fraction), exponent - 11) : ldexpf((float)fraction, -10);
}

NM_CODEC_GROUPS(mxfp4)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / 32; b++, p += MXFP4_BYTES, q += 32) {
        scale[b] = e8m0_half(p[0]);
        for (int i = 0; i < 16; i++) q[i] = e2m1_doubled[p[1 + i] & 15];
        for (int i = 0; i < 16; i++) q[i + 16] = e2m1_doubled[p[1 + i] >> 4];
    }
}

/* Block of 64: four scales, then four groups of 16 values in 8 bytes. */
NM_CODEC_GROUPS(nvfp4)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / 64; b++, p += NVFP4_BYTES) {
        for (int g = 0; g < 4; g++, q += 16) {
            const uint8_t *qs = p + 4 + 8 * g;
            *scale++ = ue4m3_half(p[g]);
            for (int i = 0; i < 8; i++) q[i] = e2m1_doubled[qs[i] & 15];
            for (int i = 0; i < 8; i++) q[i + 8] = e2m1_doubled[qs[i] >> 4];
        }
    }
}

/* Nearest of the 16; the first of equals, so zero is never the negative one. */
static uint8_t nearest_e2m1(float x, float scale)
{
    int best = 0;
    float least = fabsf(x);
    for (int i = 1; i < 16; i++) {
        float error = fabsf(scale * e2m1_doubled[i] - x);
        if (error < least) { best = i; least = error; }
    }
    return (uint8_t)best;
}

NM_CODEC_FROM_FLOAT(mxfp4)
{
    uint8_t *p = blocks;
    for (int64_t b = 0; b < k / 32; b++, p += MXFP4_BYTES) {
        const float *x = values + 32 * b;
        float largest = fabsf(nm_extreme(x, 32));
        /* The largest value's exponent less that of 4, E2M1's largest power of two. */
        p[0] = (uint8_t)(largest > 0 && isfinite(largest) ? nm_clamp_int((float)(ilogbf(largest) - 2 + 127), 0, 254) : 0);
        float scale = e8m0_half(p[0]);
        for (int i = 0; i < 16; i++) p[1 + i] = (uint8_t)(nearest_e2m1(x[i], scale) | nearest_e2m1(x[i + 16], scale) << 4);
    }
}

/* The scale nearest to x / 6, E2M1's largest value. */
static uint8_t nearest_ue4m3(float x)
{
    int best = 0;
    for (int i = 1; i < 0x7f; i++) if (fabsf(12 * ue4m3_half((unsigned)i) - x) < fabsf(12 * ue4m3_half((unsigned)best) - x)) best = i;
    return (uint8_t)best;
}

NM_CODEC_FROM_FLOAT(nvfp4)
{
    uint8_t *p = blocks;
    for (const float *x = values; x < values + k; p += NVFP4_BYTES) {
        for (int g = 0; g < 4; g++, x += 16) {
            p[g] = nearest_ue4m3(fabsf(nm_extreme(x, 16)));
            float scale = ue4m3_half(p[g]);
            for (int i = 0; i < 8; i++) p[4 + 8 * g + i] = (uint8_t)(nearest_e2m1(x[i], scale) | nearest_e2m1(x[i + 8], scale) << 4);
        }
    }
}
