/* The codebook formats: IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S (an index picks 4 or 8 values at once from a grid) and
 * IQ4_NL, IQ4_XS (a four-bit index picks one of 16 uneven steps). Grid values are small integers, so value = scale * q holds exactly. */
#include "quant/codec.h"
#include "quant/iq_grids.h"

enum { SUPER = 256 };
enum { IQ1_S_BYTES = 50, IQ1_M_BYTES = 56, IQ2_XXS_BYTES = 66, IQ2_XS_BYTES = 74, IQ2_S_BYTES = 82, IQ3_XXS_BYTES = 98,
       IQ3_S_BYTES = 110, IQ4_NL_BYTES = 18, IQ4_XS_BYTES = 136 };

const int8_t nm_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* Seven sign bits stand for eight: the eighth makes the number of minus signs even. */
static inline unsigned signs_of_7(unsigned index) { return index | (unsigned)__builtin_parity(index) << 7; }

/* n values of a grid row, negated where the bit of `signs` is set. */
static inline void put_signed(const int8_t *row, int n, unsigned signs, int8_t *q)
{
    for (int i = 0; i < n; i++) q[i] = (int8_t)(row[i] * (1 - (int)(signs >> i & 1) * 2));
}

static inline unsigned nibble(const uint8_t *p, int index) { return p[index / 2] >> (index % 2 * 4) & 15; }

/* The scale of the IQ2 types and of IQ3_XXS, in the order of roundings of the reference. */
static inline float half_step_scale(float d, unsigned step, float unit) { return d * (0.5f + (float)step) * unit; }

/* Group of 32: four grid indices of a byte each, then a word with four times seven signs and the scale on top. */
NM_CODEC_GROUPS(iq2_xxs)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += IQ2_XXS_BYTES) {
        float d = nm_load_half(p);
        for (int g = 0; g < 8; g++, q += 32) {
            const uint8_t *index = p + 2 + 8 * g;
            uint32_t word = nm_load_u32(index + 4);
            *scale++ = half_step_scale(d, word >> 28, 0.25f);
            for (int i = 0; i < 4; i++) put_signed(nm_iq2_xxs_grid[index[i]], 8, signs_of_7(word >> 7 * i & 127), q + 8 * i);
        }
    }
}

/* Group of 16: two 16-bit fields of nine index and seven sign bits. */
NM_CODEC_GROUPS(iq2_xs)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += IQ2_XS_BYTES) {
        float d = nm_load_half(p);
        for (int g = 0; g < 16; g++) *scale++ = half_step_scale(d, nibble(p + 66, g), 0.25f);
        for (int i = 0; i < 32; i++, q += 8) {
            unsigned field = nm_load_u16(p + 2 + 2 * i);
            put_signed(nm_iq2_xs_grid[field & 511], 8, signs_of_7(field >> 9), q);
        }
    }
}

/* Index of ten bits: eight at 2, two at 66; all eight signs at 34; scales of groups of 16 at 74. */
NM_CODEC_GROUPS(iq2_s)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += IQ2_S_BYTES) {
        float d = nm_load_half(p);
        for (int g = 0; g < 16; g++) *scale++ = half_step_scale(d, nibble(p + 74, g), 0.25f);
        for (int i = 0; i < 32; i++, q += 8) {
            unsigned high = p[66 + i / 4] >> (i % 4 * 2) & 3;
            put_signed(nm_iq2_s_grid[p[2 + i] | high << 8], 8, p[34 + i], q);
        }
    }
}

/* Group of 32: eight indices into a grid of four values; signs and scale as in IQ2_XXS, in words at 66. */
NM_CODEC_GROUPS(iq3_xxs)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += IQ3_XXS_BYTES) {
        float d = nm_load_half(p);
        for (int g = 0; g < 8; g++) {
            uint32_t word = nm_load_u32(p + 66 + 4 * g);
            *scale++ = half_step_scale(d, word >> 28, 0.5f);
            for (int i = 0; i < 8; i++, q += 4) {
                unsigned signs = signs_of_7(word >> i / 2 * 7 & 127) >> (i % 2 * 4);
                put_signed(nm_iq3_xxs_grid[p[2 + 8 * g + i]], 4, signs, q);
            }
        }
    }
}

/* Index of nine bits: eight at 2, one at 66; signs at 74; scales of groups of 32 at 106. */
NM_CODEC_GROUPS(iq3_s)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += IQ3_S_BYTES) {
        float d = nm_load_half(p);
        for (int g = 0; g < 8; g++) *scale++ = d * (float)(1 + 2 * nibble(p + 106, g));
        for (int i = 0; i < 64; i++, q += 4) {
            unsigned high = p[66 + i / 8] >> i % 8 & 1;
            put_signed(nm_iq3_s_grid[p[2 + i] | high << 8], 4, (unsigned)p[74 + i / 2] >> (i % 2 * 4), q);
        }
    }
}

/* The IQ1 types shift each grid value (-1, 0, 1) by an eighth up or down. In eighths that is the integer 8 * value +- 1, and a scale
 * of an eighth, being a power of two, rounds nothing. */
static inline void put_shifted(const int8_t *row, bool down, int8_t *q)
{
    int shift = down ? -1 : 1;
    for (int i = 0; i < 8; i++) q[i] = (int8_t)(8 * row[i] + shift);
}

/* Group of 32: a 16-bit field with four times three high index bits, three scale bits and the shift. */
NM_CODEC_GROUPS(iq1_s)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += IQ1_S_BYTES) {
        float d = nm_load_half(p);
        for (int g = 0; g < 8; g++) {
            unsigned field = nm_load_u16(p + 34 + 2 * g);
            *scale++ = d * (float)(2 * (field >> 12 & 7) + 1) * 0.125f;
            for (int i = 0; i < 4; i++, q += 8)
                put_shifted(nm_iq1_grid[p[2 + 4 * g + i] | (field >> 3 * i & 7) << 8], field & 0x8000, q);
        }
    }
}

/* Each index has a nibble at 32: three high bits and the shift. Four 16-bit words at 48 hold four 3-bit scales each; their top nibbles
 * make up the half-precision d. */
NM_CODEC_GROUPS(iq1_m)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += IQ1_M_BYTES) {
        unsigned word[4];
        for (int i = 0; i < 4; i++) word[i] = nm_load_u16(p + 48 + 2 * i);
        float d = nm_half_to_float((uint16_t)(word[0] >> 12 | (word[1] >> 12) << 4 | (word[2] >> 12) << 8 | (word[3] >> 12) << 12));
        for (int g = 0; g < 16; g++) *scale++ = d * (float)(2 * (word[g / 4] >> g % 4 * 3 & 7) + 1) * 0.125f;
        for (int i = 0; i < 32; i++, q += 8) {
            unsigned high = nibble(p + 32, i);
            put_shifted(nm_iq1_grid[p[i] | (high & 7) << 8], high & 8, q);
        }
    }
}

/* 16 bytes: value i in the low, value i + 16 in the high half of byte i. */
static inline void put_steps(const uint8_t *qs, int8_t *q)
{
    for (int i = 0; i < 16; i++) q[i] = nm_iq4_values[qs[i] & 15];
    for (int i = 0; i < 16; i++) q[i + 16] = nm_iq4_values[qs[i] >> 4];
}

NM_CODEC_GROUPS(iq4_nl)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / 32; b++, p += IQ4_NL_BYTES, q += 32) {
        scale[b] = nm_load_half(p);
        put_steps(p + 2, q);
    }
}

/* Scales of groups of 32, six bits less 32: four low bits at 4, two high bits at 2. */
NM_CODEC_GROUPS(iq4_xs)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += IQ4_XS_BYTES) {
        float d = nm_load_half(p);
        unsigned high = nm_load_u16(p + 2);
        for (int g = 0; g < 8; g++, q += 32) {
            *scale++ = d * (float)((int)(nibble(p + 4, g) | (high >> 2 * g & 3) << 4) - 32);
            put_steps(p + 8 + 16 * g, q);
        }
    }
}

/* ---- Quantising ----------------------------------------------------------------------------------------------------- */

static uint8_t nearest_step(float x)
{
    int best = 0;
    for (int i = 1; i < 16; i++) if (fabsf(x - nm_iq4_values[i]) < fabsf(x - nm_iq4_values[best])) best = i;
    return (uint8_t)best;
}

static void pack_steps(const float *x, float scale, uint8_t *qs)
{
    float inverse = nm_inverse(scale);
    for (int i = 0; i < 16; i++) qs[i] = (uint8_t)(nearest_step(x[i] * inverse) | nearest_step(x[i + 16] * inverse) << 4);
}

NM_CODEC_FROM_FLOAT(iq4_nl)
{
    uint8_t *p = blocks;
    for (int64_t b = 0; b < k / 32; b++, p += IQ4_NL_BYTES) {
        uint16_t d = nm_float_to_half(nm_extreme(values + 32 * b, 32) / nm_iq4_values[0]);
        nm_store_u16(p, d);
        pack_steps(values + 32 * b, nm_half_to_float(d), p + 2);
    }
}

NM_CODEC_FROM_FLOAT(iq4_xs)
{
    uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += IQ4_XS_BYTES) {
        const float *x = values + SUPER * b;
        float unit[8];
        for (int g = 0; g < 8; g++) unit[g] = nm_extreme(x + 32 * g, 32) / nm_iq4_values[0];
        uint16_t half = nm_float_to_half(nm_extreme(unit, 8) / -32);
        float d = nm_half_to_float(half);
        unsigned high = 0;
        nm_store_u16(p, half);
        memset(p + 4, 0, 4);
        for (int g = 0; g < 8; g++) {
            int step = nm_clamp_int(rintf(unit[g] * nm_inverse(d)), -32, 31);
            p[4 + g / 2] |= (uint8_t)((step + 32) % 16 << (g % 2 * 4));
            high |= (unsigned)(step + 32) / 16 << 2 * g;
            pack_steps(x + 32 * g, d * (float)step, p + 8 + 16 * g);
        }
        nm_store_u16(p + 2, (uint16_t)high);
    }
}
