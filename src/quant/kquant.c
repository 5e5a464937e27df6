/* The 256-value superblock formats: Q2_K to Q6_K. A half-precision d (and dmin) scales small integer scales (and minima) of 8 or 16
 * groups. The quantisers are plain ones: nearest values for the scale and minimum that span each group, no search. */
#include "quant/codec.h"

enum { SUPER = 256 };

/* Byte offsets of the fields in a block. */
enum { Q2_K_SCALES = 0, Q2_K_QS = 16, Q2_K_D = 80, Q2_K_DMIN = 82, Q2_K_BYTES = 84 };
enum { Q3_K_HIGH = 0, Q3_K_QS = 32, Q3_K_SCALES = 96, Q3_K_D = 108, Q3_K_BYTES = 110 };
enum { Q4_K_D = 0, Q4_K_DMIN = 2, Q4_K_SCALES = 4, Q4_K_QS = 16, Q4_K_BYTES = 144 };
enum { Q5_K_D = 0, Q5_K_DMIN = 2, Q5_K_SCALES = 4, Q5_K_HIGH = 16, Q5_K_QS = 48, Q5_K_BYTES = 176 };
enum { Q6_K_LOW = 0, Q6_K_HIGH = 128, Q6_K_SCALES = 192, Q6_K_D = 208, Q6_K_BYTES = 210 };

/* ---- Reading -------------------------------------------------------------------------------------------------------- */

/* 64 bytes to 256 two-bit values: each 32 bytes hold four runs of 32, lowest bits first. */
static inline void unpack2(const uint8_t *qs, int8_t *q)
{
    for (int run = 0; run < 8; run++) {
        const uint8_t *from = qs + run / 4 * 32;
        int shift = run % 4 * 2;
        for (int i = 0; i < 32; i++) q[run * 32 + i] = (int8_t)(from[i] >> shift & 3);
    }
}

/* 128 bytes to 256 four-bit values: each `run` bytes hold a run of low halves, then one of high halves. */
static inline void unpack4(const uint8_t *qs, int run, int8_t *q)
{
    for (int at = 0; at < SUPER / 2; at += run, qs += run, q += 2 * run) {
        for (int i = 0; i < run; i++) q[i] = (int8_t)(qs[i] & 15);
        for (int i = 0; i < run; i++) q[run + i] = (int8_t)(qs[i] >> 4);
    }
}

/* The 12 bytes of Q4_K and Q5_K: 8 scales and 8 minima of 6 bits. The first four of each lie whole in bytes 0-3 and 4-7; the others have
 * their low four bits in bytes 8-11 and their high two above those of the first four. */
static void unpack_scales6(const uint8_t *p, uint8_t scale[8], uint8_t min[8])
{
    for (int i = 0; i < 4; i++) {
        scale[i] = p[i] & 63;
        min[i] = p[4 + i] & 63;
        scale[4 + i] = (uint8_t)((p[8 + i] & 15) | (p[i] >> 6) << 4);
        min[4 + i] = (uint8_t)(p[8 + i] >> 4 | (p[4 + i] >> 6) << 4);
    }
}

/* Q3_K's 16 scales: low four bits in 8 bytes (first half low, second half high), high two bits in 4 bytes, less 32. */
static void unpack_scales3(const uint8_t *p, int8_t scale[16])
{
    for (int i = 0; i < 16; i++) {
        int low = i < 8 ? p[i] & 15 : p[i - 8] >> 4, high = p[8 + i % 4] >> (i / 4 * 2) & 3;
        scale[i] = (int8_t)((low | high << 4) - 32);
    }
}

NM_CODEC_GROUPS(q2_k)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += Q2_K_BYTES, q += SUPER, scale += 16, min += 16) {
        float d = nm_load_half(p + Q2_K_D), dmin = nm_load_half(p + Q2_K_DMIN);
        for (int g = 0; g < 16; g++) {
            scale[g] = d * (float)(p[Q2_K_SCALES + g] & 15);
            min[g] = -(dmin * (float)(p[Q2_K_SCALES + g] >> 4));
        }
        unpack2(p + Q2_K_QS, q);
    }
}

NM_CODEC_GROUPS(q3_k)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += Q3_K_BYTES, q += SUPER, scale += 16) {
        int8_t sc[16];
        float d = nm_load_half(p + Q3_K_D);
        unpack_scales3(p + Q3_K_SCALES, sc);
        for (int g = 0; g < 16; g++) scale[g] = d * (float)sc[g];
        unpack2(p + Q3_K_QS, q);
        for (int run = 0; run < 8; run++)   /* a set third bit means 0, a clear one -4 */
            for (int i = 0; i < 32; i++) q[run * 32 + i] = (int8_t)(q[run * 32 + i] + (p[Q3_K_HIGH + i] >> run & 1) * 4 - 4);
    }
}

static void scales_and_mins(const uint8_t *p, float *scale, float *min)
{
    uint8_t sc[8], mn[8];
    float d = nm_load_half(p), dmin = nm_load_half(p + 2);
    unpack_scales6(p + 4, sc, mn);
    for (int g = 0; g < 8; g++) {
        scale[g] = d * (float)sc[g];
        min[g] = -(dmin * (float)mn[g]);
    }
}

NM_CODEC_GROUPS(q4_k)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += Q4_K_BYTES, q += SUPER, scale += 8, min += 8) {
        scales_and_mins(p, scale, min);
        unpack4(p + Q4_K_QS, 32, q);
    }
}

NM_CODEC_GROUPS(q5_k)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += Q5_K_BYTES, q += SUPER, scale += 8, min += 8) {
        scales_and_mins(p, scale, min);
        unpack4(p + Q5_K_QS, 32, q);
        for (int run = 0; run < 8; run++)
            for (int i = 0; i < 32; i++) q[run * 32 + i] = (int8_t)(q[run * 32 + i] | (p[Q5_K_HIGH + i] >> run & 1) << 4);
    }
}

NM_CODEC_GROUPS(q6_k)
{
    const uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += Q6_K_BYTES, q += SUPER, scale += 16) {
        int8_t high[SUPER];
        float d = nm_load_half(p + Q6_K_D);
        for (int g = 0; g < 16; g++) scale[g] = d * (float)(int8_t)p[Q6_K_SCALES + g];
        unpack4(p + Q6_K_LOW, 64, q);
        unpack2(p + Q6_K_HIGH, high);
        for (int i = 0; i < SUPER; i++) q[i] = (int8_t)((q[i] | high[i] << 4) - 32);
    }
}

/* ---- Quantising ----------------------------------------------------------------------------------------------------- */

typedef struct super {              /* a superblock before its bits are packed */
    uint16_t d, dmin;
    int scale[16], min[16];
    uint8_t q[SUPER];
} super;

/* value = d * scale * q - dmin * min, q in 0..most, scale and min in 0..steps; the range of each group includes 0. */
static void quantise_with_min(const float *x, int group, int most, int steps, super *s)
{
    float span[16], low[16], widest = 0, deepest = 0;
    int n = SUPER / group;
    for (int g = 0; g < n; g++) {
        float min = 0, max = 0;
        for (int i = 0; i < group; i++) {
            if (x[g * group + i] < min) min = x[g * group + i];
            if (x[g * group + i] > max) max = x[g * group + i];
        }
        span[g] = (max - min) / (float)most;
        low[g] = -min;
        if (span[g] > widest) widest = span[g];
        if (low[g] > deepest) deepest = low[g];
    }
    s->d = nm_float_to_half(widest / (float)steps);
    s->dmin = nm_float_to_half(deepest / (float)steps);
    float d = nm_half_to_float(s->d), dmin = nm_half_to_float(s->dmin);
    for (int g = 0; g < n; g++) {
        s->scale[g] = nm_clamp_int(rintf(span[g] * nm_inverse(d)), 0, steps);
        s->min[g] = nm_clamp_int(rintf(low[g] * nm_inverse(dmin)), 0, steps);
        float inverse = nm_inverse(d * (float)s->scale[g]), min = dmin * (float)s->min[g];
        for (int i = g * group; i < (g + 1) * group; i++) s->q[i] = (uint8_t)nm_clamp_int(rintf((x[i] + min) * inverse), 0, most);
    }
}

/* value = d * scale * (q - half), scale in -steps..steps-1, groups of 16. */
static void quantise_signed(const float *x, int half, int steps, super *s)
{
    float unit[16];
    for (int g = 0; g < 16; g++) unit[g] = nm_extreme(x + 16 * g, 16) / (float)-half;
    s->d = nm_float_to_half(nm_extreme(unit, 16) / (float)-steps);
    float d = nm_half_to_float(s->d);
    for (int g = 0; g < 16; g++) {
        s->scale[g] = nm_clamp_int(rintf(unit[g] * nm_inverse(d)), -steps, steps - 1);
        float inverse = nm_inverse(d * (float)s->scale[g]);
        for (int i = 16 * g; i < 16 * g + 16; i++) s->q[i] = (uint8_t)(nm_clamp_int(rintf(x[i] * inverse), -half, half - 1) + half);
    }
}

/* The inverses of the unpackers above. */
static void pack2(const uint8_t *q, uint8_t *qs)
{
    memset(qs, 0, 64);
    for (int i = 0; i < SUPER; i++) qs[i / 128 * 32 + i % 32] |= (uint8_t)((q[i] & 3) << (i / 32 % 4 * 2));
}

static void pack4(const uint8_t *q, int run, uint8_t *qs)
{
    for (int at = 0; at < SUPER / 2; at++) {
        const uint8_t *low = q + at / run * 2 * run + at % run;
        qs[at] = (uint8_t)((low[0] & 15) | (low[run] & 15) << 4);
    }
}

/* Bit `bit` of value 32 * run + i goes to bit `run` of byte i. */
static void pack_high(const uint8_t *q, int bit, uint8_t *high)
{
    memset(high, 0, 32);
    for (int i = 0; i < SUPER; i++) high[i % 32] |= (uint8_t)((q[i] >> bit & 1) << (i / 32));
}

static void pack_scales6(const super *s, uint8_t *p)
{
    for (int i = 0; i < 4; i++) {
        p[i] = (uint8_t)(s->scale[i] | (s->scale[4 + i] >> 4) << 6);
        p[4 + i] = (uint8_t)(s->min[i] | (s->min[4 + i] >> 4) << 6);
        p[8 + i] = (uint8_t)((s->scale[4 + i] & 15) | (s->min[4 + i] & 15) << 4);
    }
}

static void pack_scales3(const super *s, uint8_t *p)
{
    memset(p, 0, 12);
    for (int i = 0; i < 16; i++) {
        int v = s->scale[i] + 32;
        p[i % 8] |= (uint8_t)((v & 15) << (i / 8 * 4));
        p[8 + i % 4] |= (uint8_t)(v >> 4 << (i / 4 * 2));
    }
}

NM_CODEC_FROM_FLOAT(q2_k)
{
    super s;
    uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += Q2_K_BYTES) {
        quantise_with_min(values + SUPER * b, 16, 3, 15, &s);
        for (int g = 0; g < 16; g++) p[Q2_K_SCALES + g] = (uint8_t)(s.scale[g] | s.min[g] << 4);
        pack2(s.q, p + Q2_K_QS);
        nm_store_u16(p + Q2_K_D, s.d);
        nm_store_u16(p + Q2_K_DMIN, s.dmin);
    }
}

NM_CODEC_FROM_FLOAT(q3_k)
{
    super s;
    uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += Q3_K_BYTES) {
        quantise_signed(values + SUPER * b, 4, 32, &s);
        pack_high(s.q, 2, p + Q3_K_HIGH);
        pack2(s.q, p + Q3_K_QS);
        pack_scales3(&s, p + Q3_K_SCALES);
        nm_store_u16(p + Q3_K_D, s.d);
    }
}

NM_CODEC_FROM_FLOAT(q4_k)
{
    super s;
    uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += Q4_K_BYTES) {
        quantise_with_min(values + SUPER * b, 32, 15, 63, &s);
        nm_store_u16(p + Q4_K_D, s.d);
        nm_store_u16(p + Q4_K_DMIN, s.dmin);
        pack_scales6(&s, p + Q4_K_SCALES);
        pack4(s.q, 32, p + Q4_K_QS);
    }
}

NM_CODEC_FROM_FLOAT(q5_k)
{
    super s;
    uint8_t *p = blocks;
    for (int64_t b = 0; b < k / SUPER; b++, p += Q5_K_BYTES) {
        quantise_with_min(values + SUPER * b, 32, 31, 63, &s);
        nm_store_u16(p + Q5_K_D, s.d);
        nm_store_u16(p + Q5_K_DMIN, s.dmin);
        pack_scales6(&s, p + Q5_K_SCALES);
        pack_high(s.q, 4, p + Q5_K_HIGH);
        pack4(s.q, 32, p + Q5_K_QS);
    }
}

NM_CODEC_FROM_FLOAT(q6_k)
{
    super s;
    uint8_t *p = blocks, high[SUPER];
    for (int64_t b = 0; b < k / SUPER; b++, p += Q6_K_BYTES) {
        quantise_signed(values + SUPER * b, 32, 128, &s);
        pack4(s.q, 64, p + Q6_K_LOW);
        for (int i = 0; i < SUPER; i++) high[i] = s.q[i] >> 4;
        pack2(high, p + Q6_K_HIGH);
        for (int g = 0; g < 16; g++) p[Q6_K_SCALES + g] = (uint8_t)s.scale[g];
        nm_store_u16(p + Q6_K_D, s.d);
    }
}
