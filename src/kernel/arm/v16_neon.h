/* v16 over four NEON registers; see kernel/v16_c.h for what each function means. */
#ifndef NM_V16_NEON_H
#define NM_V16_NEON_H

#include <arm_neon.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef struct v16 { float32x4_t a, b, c, d; } v16;

#define V16_INLINE static inline __attribute__((always_inline))
/* f of each register of x; of x and y; of x, y and z. */
#define V16_EACH1(f, x) return (v16){f((x).a), f((x).b), f((x).c), f((x).d)}
#define V16_EACH2(f, x, y) return (v16){f((x).a, (y).a), f((x).b, (y).b), f((x).c, (y).c), f((x).d, (y).d)}
#define V16_EACH3(f, x, y, z) return (v16){f((x).a, (y).a, (z).a), f((x).b, (y).b, (z).b), f((x).c, (y).c, (z).c), f((x).d, (y).d, (z).d)}

V16_INLINE v16 v_load(const float *p) { return (v16){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
V16_INLINE void v_store(float *p, v16 x)
{
    vst1q_f32(p, x.a);
    vst1q_f32(p + 4, x.b);
    vst1q_f32(p + 8, x.c);
    vst1q_f32(p + 12, x.d);
}
/* Part of a vector goes through memory: NEON has no masks. n may be any number. */
V16_INLINE v16 v_load_n(const float *p, int n)
{
    if (n >= 16) return v_load(p);
    float lanes[16] = {0};
    for (int i = 0; i < n; i++) lanes[i] = p[i];
    return v_load(lanes);
}
V16_INLINE void v_store_n(float *p, v16 x, int n)
{
    if (n >= 16) {
        v_store(p, x);
        return;
    }
    float lanes[16];
    v_store(lanes, x);
    for (int i = 0; i < n; i++) p[i] = lanes[i];
}
V16_INLINE v16 v_set(float f) { float32x4_t x = vdupq_n_f32(f); return (v16){x, x, x, x}; }
V16_INLINE v16 v_add(v16 x, v16 y) { V16_EACH2(vaddq_f32, x, y); }
V16_INLINE v16 v_sub(v16 x, v16 y) { V16_EACH2(vsubq_f32, x, y); }
V16_INLINE v16 v_mul(v16 x, v16 y) { V16_EACH2(vmulq_f32, x, y); }
V16_INLINE v16 v_div(v16 x, v16 y) { V16_EACH2(vdivq_f32, x, y); }
V16_INLINE v16 v_fma(v16 x, v16 y, v16 z) { V16_EACH3(vfmaq_f32, z, x, y); }
/* Not vminq and vmaxq, which give NaN where either is. */
V16_INLINE float32x4_t least4(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
V16_INLINE float32x4_t most4(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
V16_INLINE v16 v_min(v16 x, v16 y) { V16_EACH2(least4, x, y); }
V16_INLINE v16 v_max(v16 x, v16 y) { V16_EACH2(most4, x, y); }
V16_INLINE v16 v_neg(v16 x) { V16_EACH1(vnegq_f32, x); }
V16_INLINE v16 v_abs(v16 x) { V16_EACH1(vabsq_f32, x); }
V16_INLINE float32x4_t copysign4(float32x4_t x, float32x4_t y) { return vbslq_f32(vdupq_n_u32(0x80000000u), y, x); }
V16_INLINE v16 v_copysign(v16 x, v16 y) { V16_EACH2(copysign4, x, y); }
V16_INLINE v16 v_less(v16 x, v16 y, v16 then, v16 other)
{
    return (v16){vbslq_f32(vcltq_f32(x.a, y.a), then.a, other.a), vbslq_f32(vcltq_f32(x.b, y.b), then.b, other.b),
                 vbslq_f32(vcltq_f32(x.c, y.c), then.c, other.c), vbslq_f32(vcltq_f32(x.d, y.d), then.d, other.d)};
}
V16_INLINE v16 v_keep_n(v16 x, int n)
{
    static const float lane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return n >= 16 ? x : v_less(v_load(lane), v_set((float)n), x, v_set(0.0f));
}
V16_INLINE float32x4_t pow2_4(float32x4_t t)
{
    return vreinterpretq_f32_s32(vaddq_s32(vshlq_n_s32(vreinterpretq_s32_f32(t), 23), vdupq_n_s32(0x3f800000)));
}
V16_INLINE v16 v_pow2(v16 t) { V16_EACH1(pow2_4, t); }
V16_INLINE void v_load2(const float *p, v16 *x, v16 *y, int n)
{
    float pairs[32] = {0};
    if (n < 16) {
        for (int i = 0; i < 2 * n; i++) pairs[i] = p[i];
        p = pairs;
    }
    float32x4x2_t a = vld2q_f32(p), b = vld2q_f32(p + 8), c = vld2q_f32(p + 16), d = vld2q_f32(p + 24);
    *x = (v16){a.val[0], b.val[0], c.val[0], d.val[0]};
    *y = (v16){a.val[1], b.val[1], c.val[1], d.val[1]};
}
V16_INLINE void v_store2(float *p, v16 x, v16 y, int n)
{
    float pairs[32], *to = n < 16 ? pairs : p;
    vst2q_f32(to, (float32x4x2_t){{x.a, y.a}});
    vst2q_f32(to + 8, (float32x4x2_t){{x.b, y.b}});
    vst2q_f32(to + 16, (float32x4x2_t){{x.c, y.c}});
    vst2q_f32(to + 24, (float32x4x2_t){{x.d, y.d}});
    if (n < 16) for (int i = 0; i < 2 * n; i++) p[i] = pairs[i];
}
V16_INLINE float v_sum(v16 x)
{
    float32x4_t s4 = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
    float32x2_t s2 = vadd_f32(vget_low_f32(s4), vget_high_f32(s4));
    return vget_lane_f32(s2, 0) + vget_lane_f32(s2, 1);
}
V16_INLINE float v_max_of(v16 x)
{
    float32x4_t m4 = most4(most4(x.a, x.c), most4(x.b, x.d));
    float32x2_t low = vget_low_f32(m4), high = vget_high_f32(m4), m2 = vbsl_f32(vcgt_f32(low, high), low, high);
    float a = vget_lane_f32(m2, 0), b = vget_lane_f32(m2, 1);
    return a > b ? a : b;
}

/* Up to four lines of 4 values, 16 apart, turned: out[r * ldo + i], i < n. */
V16_INLINE void transpose4(const float *in, int n, float *out, size_t ldo)
{
    float32x4_t x[4], y[4];
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) x[i] = i < n ? vld1q_f32(in + 16 * i) : vdupq_n_f32(0);
    y[0] = vzip1q_f32(x[0], x[2]);
    y[1] = vzip2q_f32(x[0], x[2]);
    y[2] = vzip1q_f32(x[1], x[3]);
    y[3] = vzip2q_f32(x[1], x[3]);
    float32x4_t rows[4] = {vzip1q_f32(y[0], y[2]), vzip2q_f32(y[0], y[2]), vzip1q_f32(y[1], y[3]), vzip2q_f32(y[1], y[3])};
    _Pragma("GCC unroll 4") for (int r = 0; r < 4; r++) {
        float lanes[4], *to = out + (size_t)r * ldo;
        vst1q_f32(n >= 4 ? to : lanes, rows[r]);
        if (n < 4) memcpy(to, lanes, (size_t)n * sizeof *to);
    }
}
/* A square of 16 x 16 turned: out[r * ldo + i] = in[16 * i + r] for i < n; rows are written n wide. */
V16_INLINE void v_transpose(const float *in, int n, float *out, size_t ldo)
{
    for (int i = 0; i < n; i += 4)
        for (int r = 0; r < 16; r += 4) transpose4(in + 16 * i + r, n - i, out + (size_t)r * ldo + i, ldo);
}

/* ---- More than the reference needs: conversions, for the templates of kernel/x86 ---- */

V16_INLINE float32x4_t half4(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
V16_INLINE v16 v_load_half(const uint16_t *p) { return (v16){half4(p), half4(p + 4), half4(p + 8), half4(p + 12)}; }
V16_INLINE float32x4_t bf16_4(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
V16_INLINE v16 v_load_bf16(const uint16_t *p) { return (v16){bf16_4(p), bf16_4(p + 4), bf16_4(p + 8), bf16_4(p + 12)}; }
V16_INLINE float32x4_t low_floats(int16x8_t x) { return vcvtq_f32_s32(vmovl_s16(vget_low_s16(x))); }
V16_INLINE float32x4_t high_floats(int16x8_t x) { return vcvtq_f32_s32(vmovl_high_s16(x)); }
V16_INLINE v16 v_load_int8(const int8_t *p)
{
    int8x16_t x = vld1q_s8(p);
    int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_high_s8(x);
    return (v16){low_floats(low), high_floats(low), low_floats(high), high_floats(high)};
}
V16_INLINE void v_store_half(uint16_t *p, v16 x)
{
    vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(x.a), x.b)));
    vst1q_u16(p + 8, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(x.c), x.d)));
}
V16_INLINE float v_from_half(uint16_t h) { return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(h))), 0); }
V16_INLINE uint16_t v_to_half(float f) { return vget_lane_u16(vreinterpret_u16_f16(vcvt_f16_f32(vdupq_n_f32(f))), 0); }
/* Byte i (0..3) of each dword of a line of u, minus offset, as floats. */
V16_INLINE float32x4_t byte4(const uint8_t *line, int i, int offset)
{
    uint32x4_t x = vreinterpretq_u32_u8(vld1q_u8(line));
    x = vandq_u32(x >> vdupq_n_u32((uint32_t)(8 * i)), vdupq_n_u32(255));
    return vcvtq_f32_s32(vsubq_s32(vreinterpretq_s32_u32(x), vdupq_n_s32(offset)));
}
V16_INLINE v16 v_line_byte(const uint8_t *line, int i, int offset)
{
    return (v16){byte4(line, i, offset), byte4(line + 16, i, offset), byte4(line + 32, i, offset), byte4(line + 48, i, offset)};
}

#endif
