/* Owns what the files of one format family share with the table in type.c: loads of unaligned fields, rounding, and the list of codecs.
 * Nothing outside src/quant includes it. */
#ifndef NM_QUANT_CODEC_H
#define NM_QUANT_CODEC_H

#include <math.h>
#include <string.h>

#include "quant/quant.h"

/* Blocks lie anywhere in a mapped file (alignment 1 is legal), so every field wider than a byte goes through these. Little-endian
 * hosts only. */
static inline uint16_t nm_load_u16(const void *p) { uint16_t v; memcpy(&v, p, sizeof v); return v; }
static inline uint32_t nm_load_u32(const void *p) { uint32_t v; memcpy(&v, p, sizeof v); return v; }
static inline void nm_store_u16(void *p, uint16_t v) { memcpy(p, &v, sizeof v); }
static inline void nm_store_u32(void *p, uint32_t v) { memcpy(p, &v, sizeof v); }
static inline float nm_load_half(const void *p) { return nm_half_to_float(nm_load_u16(p)); }

/* v, already rounded to a whole number, as an integer within [least, most]; NaN gives least, so that no float makes the cast
 * undefined. */
static inline int nm_clamp_int(float v, int least, int most)
{
    if (!(v > (float)least)) return least;
    return v < (float)most ? (int)v : most;
}

/* 1 / d, and 0 for 0: the multiplier with which a block of zeros quantises to zeros. */
static inline float nm_inverse(float d) { return d != 0 ? 1 / d : 0; }

/* The value of largest magnitude, with its sign; the first of equals. */
static inline float nm_extreme(const float *x, int n)
{
    float best = x[0];
    for (int i = 1; i < n; i++) if (fabsf(x[i]) > fabsf(best)) best = x[i];
    return best;
}

/* The codebook of IQ4_NL and IQ4_XS, ascending. */
extern const int8_t nm_iq4_values[16];

#define NM_CODEC_GROUPS(name) void nm_##name##_groups(const void *blocks, int64_t k, int8_t *q, float *scale, float *min)
#define NM_CODEC_TO_FLOAT(name) void nm_##name##_to_float(const void *blocks, int64_t k, float *out)
#define NM_CODEC_FROM_FLOAT(name) void nm_##name##_from_float(const float *values, int64_t k, void *blocks)

NM_CODEC_TO_FLOAT(f32_row);  NM_CODEC_FROM_FLOAT(f32_row);
NM_CODEC_TO_FLOAT(f16_row);  NM_CODEC_FROM_FLOAT(f16_row);
NM_CODEC_TO_FLOAT(bf16_row); NM_CODEC_FROM_FLOAT(bf16_row);
NM_CODEC_TO_FLOAT(f64_row);

NM_CODEC_GROUPS(q4_0); NM_CODEC_FROM_FLOAT(q4_0);
NM_CODEC_GROUPS(q4_1); NM_CODEC_FROM_FLOAT(q4_1);
NM_CODEC_GROUPS(q5_0); NM_CODEC_FROM_FLOAT(q5_0);
NM_CODEC_GROUPS(q5_1); NM_CODEC_FROM_FLOAT(q5_1);
NM_CODEC_GROUPS(q8_0); NM_CODEC_FROM_FLOAT(q8_0);

NM_CODEC_GROUPS(q2_k); NM_CODEC_FROM_FLOAT(q2_k);
NM_CODEC_GROUPS(q3_k); NM_CODEC_FROM_FLOAT(q3_k);
NM_CODEC_GROUPS(q4_k); NM_CODEC_FROM_FLOAT(q4_k);
NM_CODEC_GROUPS(q5_k); NM_CODEC_FROM_FLOAT(q5_k);
NM_CODEC_GROUPS(q6_k); NM_CODEC_FROM_FLOAT(q6_k);

NM_CODEC_GROUPS(iq1_s); NM_CODEC_FROM_FLOAT(iq1_s);
NM_CODEC_GROUPS(iq1_m); NM_CODEC_FROM_FLOAT(iq1_m);
NM_CODEC_GROUPS(iq2_xxs); NM_CODEC_FROM_FLOAT(iq2_xxs);
NM_CODEC_GROUPS(iq2_xs); NM_CODEC_FROM_FLOAT(iq2_xs);
NM_CODEC_GROUPS(iq2_s); NM_CODEC_FROM_FLOAT(iq2_s);
NM_CODEC_GROUPS(iq3_xxs); NM_CODEC_FROM_FLOAT(iq3_xxs);
NM_CODEC_GROUPS(iq3_s); NM_CODEC_FROM_FLOAT(iq3_s);
NM_CODEC_GROUPS(iq4_nl); NM_CODEC_FROM_FLOAT(iq4_nl);
NM_CODEC_GROUPS(iq4_xs); NM_CODEC_FROM_FLOAT(iq4_xs);

NM_CODEC_GROUPS(tq1_0); NM_CODEC_FROM_FLOAT(tq1_0);
NM_CODEC_GROUPS(tq2_0); NM_CODEC_FROM_FLOAT(tq2_0);
NM_CODEC_GROUPS(mxfp4); NM_CODEC_FROM_FLOAT(mxfp4);
NM_CODEC_GROUPS(nvfp4); NM_CODEC_FROM_FLOAT(nvfp4);

#endif
