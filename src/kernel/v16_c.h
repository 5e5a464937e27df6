/* Owns v16, sixteen floats side by side, in plain C: what a 512-bit register holds, one operation on each lane. The x86 folders have the
 * same names over ymm and zmm registers; the templates (elementwise.h) are written once on top. Refuses anything that rounds differently
 * on another backend: every function is one IEEE operation a lane, or bit work.
 * min and max give the second operand where one is NaN, as x86 does. */
#ifndef NM_V16_C_H
#define NM_V16_C_H

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef struct v16 { float f[16]; } v16;

#define V16_EACH(expression) do { v16 r; for (int i = 0; i < 16; i++) r.f[i] = (expression); return r; } while (0)

static inline uint32_t v16_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
static inline float v16_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }

static inline v16 v_load(const float *p) { v16 r; memcpy(&r, p, sizeof r); return r; }
static inline void v_store(float *p, v16 a) { memcpy(p, &a, sizeof a); }
/* The first n lanes (0..16); the others read as +0 and are not written. */
static inline v16 v_load_n(const float *p, int n) { v16 r = {{0}}; memcpy(&r, p, (size_t)n * 4); return r; }
static inline void v_store_n(float *p, v16 a, int n) { memcpy(p, &a, (size_t)n * 4); }
static inline v16 v_keep_n(v16 a, int n) { V16_EACH(i < n ? a.f[i] : 0); }
static inline v16 v_set(float x) { V16_EACH(x); }
static inline v16 v_add(v16 a, v16 b) { V16_EACH(a.f[i] + b.f[i]); }
static inline v16 v_sub(v16 a, v16 b) { V16_EACH(a.f[i] - b.f[i]); }
static inline v16 v_mul(v16 a, v16 b) { V16_EACH(a.f[i] * b.f[i]); }
static inline v16 v_div(v16 a, v16 b) { V16_EACH(a.f[i] / b.f[i]); }
static inline v16 v_fma(v16 a, v16 b, v16 c) { V16_EACH(fmaf(a.f[i], b.f[i], c.f[i])); }
static inline v16 v_min(v16 a, v16 b) { V16_EACH(a.f[i] < b.f[i] ? a.f[i] : b.f[i]); }
static inline v16 v_max(v16 a, v16 b) { V16_EACH(a.f[i] > b.f[i] ? a.f[i] : b.f[i]); }
static inline v16 v_neg(v16 a) { V16_EACH(v16_float(v16_bits(a.f[i]) ^ 0x80000000u)); }
static inline v16 v_abs(v16 a) { V16_EACH(v16_float(v16_bits(a.f[i]) & 0x7fffffffu)); }
/* |a| with the sign of b. */
static inline v16 v_copysign(v16 a, v16 b) { V16_EACH(v16_float((v16_bits(a.f[i]) & 0x7fffffffu) | (v16_bits(b.f[i]) & 0x80000000u))); }
/* a < b ? x : y */
static inline v16 v_less(v16 a, v16 b, v16 x, v16 y) { V16_EACH(a.f[i] < b.f[i] ? x.f[i] : y.f[i]); }
/* 2^n for t = n + 1.5 * 2^23, -126 <= n <= 127: the sum's low bits are n, moved into the exponent. */
static inline v16 v_pow2(v16 t) { V16_EACH(v16_float((v16_bits(t.f[i]) << 23) + 0x3f800000u)); }
/* Pairs p[0], p[1], p[2] ...: even ones to *a, odd ones to *b; n pairs (1..16). */
static inline void v_load2(const float *p, v16 *a, v16 *b, int n)
{
    for (int i = 0; i < 16; i++) {
        a->f[i] = i < n ? p[2 * i] : 0;
        b->f[i] = i < n ? p[2 * i + 1] : 0;
    }
}
static inline void v_store2(float *p, v16 a, v16 b, int n)
{
    for (int i = 0; i < n; i++) {
        p[2 * i] = a.f[i];
        p[2 * i + 1] = b.f[i];
    }
}
/* The fixed tree: lane[i] += lane[i + 8], then + 4, + 2, + 1. */
static inline float v_sum(v16 a)
{
    for (int h = 8; h; h /= 2)
        for (int i = 0; i < h; i++) a.f[i] += a.f[i + h];
    return a.f[0];
}
static inline float v_max_of(v16 a)
{
    for (int h = 8; h; h /= 2)
        for (int i = 0; i < h; i++) a.f[i] = a.f[i] > a.f[i + h] ? a.f[i] : a.f[i + h];
    return a.f[0];
}

#endif
