/* Owns reading a packed panel with 128-bit vectors: quarter 0..3 is which 16 bytes of a line, rows 4 * quarter .. + 3. Everything folds to a
 * few instructions because callers pass a constant layout. */
#ifndef NM_ARM_BLOCKS_NEON_H
#define NM_ARM_BLOCKS_NEON_H

#include "kernel/layout.h"
#include "kernel/arm/v16_neon.h"

enum { NM_TILE_ROWS_ARM = 4 };      /* the rows whose fours fill a vector of activations, on every ARM tier */

/* The bits of field `bits` wide of step v, moved to bit `to` of each byte. */
V16_INLINE uint8x16_t field_neon(const uint8_t *lines, int bits, int v, int to, int quarter)
{
    int per = 8 / bits, line = bits == 4 ? v % 4 : v / per, at = bits == 4 ? v / 4 * 4 : v % per * bits;
    uint8x16_t x = vld1q_u8(lines + line * NM_LINE + 16 * quarter);
    if (at > to) x = x >> vdupq_n_u8((uint8_t)(at - to));
    if (at < to) x = x << vdupq_n_u8((uint8_t)(to - at));
    bool alone = (to == 0 && at + bits == 8) || (at == 0 && to + bits == 8);      /* the shift has left nothing else */
    return alone ? x : vandq_u8(x, vdupq_n_u8((uint8_t)(((1 << bits) - 1) << to)));
}

/* Step v of block b as bytes u ^ flip. flip: 0, or 0x80 for layouts of offset 128, which makes u the signed value. */
V16_INLINE uint8x16_t step_neon(const nm_layout *l, uint8_t flip, const uint8_t *super, int b, int v, int quarter)
{
    const uint8_t *low = nm_layout_low(l, super, b);
    if (l->low == 8) {
        uint8x16_t u = vld1q_u8(low + v * NM_LINE + 16 * quarter);
        return flip ? veorq_u8(u, vdupq_n_u8(flip)) : u;
    }
    uint8x16_t u = field_neon(low, l->low, v, 0, quarter);
    if (l->high) u = vorrq_u8(u, field_neon(nm_layout_high(l, super, b), l->high, v, l->low, quarter));
    if (l->codes != NM_CODES_NONE) {
        uint8x16_t codes = vld1q_u8(nm_codebooks[l->codes]);
        u = vqtbl1q_u8(flip ? veorq_u8(codes, vdupq_n_u8(flip)) : codes, u);
    }
    return u;
}

/* Four bytes, widened. */
V16_INLINE uint32x4_t bytes_neon(const uint8_t *p)
{
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)))));
}

V16_INLINE float32x4_t signed_neon(const uint8_t *p)
{
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four))))));
}

V16_INLINE float32x4_t e8m0_neon(const uint8_t *p)
{
    uint32x4_t e = bytes_neon(p), normal = vshlq_n_u32(vsubq_u32(e, vdupq_n_u32(1)), 23);
    uint32x4_t tiny = vshlq_u32(vdupq_n_u32(0x00200000), vreinterpretq_s32_u32(e));
    return vreinterpretq_f32_u32(vbslq_u32(vcltq_u32(e, vdupq_n_u32(2)), tiny, normal));
}

/* Scale of group g of a superblock, 4 rows. */
V16_INLINE float32x4_t scale_neon(const nm_layout *l, const uint8_t *super, int g, int quarter)
{
    const uint8_t *d = super + quarter * 8;
    int at = g * 16 + quarter * 4;
    switch (l->scales) {
    case NM_SCALE_HALF:
    case NM_SCALE_HALF_MIN: return half4((const uint16_t *)(d + g * 32));
    case NM_SCALE_SUPER: return vmulq_f32(half4((const uint16_t *)d), signed_neon(super + 32 + at));
    case NM_SCALE_SUPER_MIN: return vmulq_f32(half4((const uint16_t *)d), vcvtq_f32_u32(bytes_neon(super + 64 + at)));
    case NM_SCALE_NIBBLES: return vmulq_f32(half4((const uint16_t *)d), vcvtq_f32_u32(vandq_u32(bytes_neon(super + 64 + at), vdupq_n_u32(15))));
    case NM_SCALE_E8M0: break;
    }
    return e8m0_neon(super + at);
}

/* Minimum of group g; only for layouts that have one. -(dmin * m) is (-dmin) * m. */
V16_INLINE float32x4_t min_neon(const nm_layout *l, const uint8_t *super, int g, int quarter)
{
    int all = l->blocks * nm_layout_groups(l), at = g * 16 + quarter * 4;
    if (l->scales == NM_SCALE_HALF_MIN) return half4((const uint16_t *)(super + (all + g) * 32 + quarter * 8));
    uint32x4_t m = l->scales == NM_SCALE_NIBBLES ? vshrq_n_u32(bytes_neon(super + 64 + at), 4) : bytes_neon(super + 64 + all * 16 + at);
    return vmulq_f32(vnegq_f32(half4((const uint16_t *)(super + 32 + quarter * 8))), vcvtq_f32_u32(m));
}

/* Scales and minima of the groups of n blocks of a superblock to the U form. */
V16_INLINE void unpack_scales_neon(const nm_layout *l, const uint8_t *super, int groups, float *scale, float *min)
{
    for (int g = 0; g < groups; g++)
        _Pragma("GCC unroll 4") for (int quarter = 0; quarter < 4; quarter++) {
            vst1q_f32(scale + 16 * g + 4 * quarter, scale_neon(l, super, g, quarter));
            if (nm_layout_has_min(l)) vst1q_f32(min + 16 * g + 4 * quarter, min_neon(l, super, g, quarter));
        }
}

/* Step v as signed values (is_signed), or as u. */
V16_INLINE uint8x16_t unpacked_step(const nm_layout *l, bool is_signed, const uint8_t *super, int b, int v, int quarter)
{
    if (!is_signed || !l->offset) return step_neon(l, 0, super, b, v, quarter);
    if (l->offset == 128) return step_neon(l, 0x80, super, b, v, quarter);
    return vsubq_u8(step_neon(l, 0, super, b, v, quarter), vdupq_n_u8((uint8_t)l->offset));
}

/* Blocks [b0, b0 + count) of a panel to the U form. paired: each two steps' rows side by side, [2 rows][8 inputs] a vector, as smmla takes them. */
V16_INLINE void unpack_neon(const nm_layout *l, bool is_signed, bool paired, const uint8_t *panel, int64_t b0, int64_t count, const nm_u *u)
{
    int groups = nm_layout_groups(l);
    const uint8_t *super = panel + (size_t)(b0 / l->blocks) * (size_t)nm_layout_super(l);
    uint8_t *q = u->q;
    float *scale = u->scale, *min = u->min;
    for (int64_t left = count; left > 0; left -= l->blocks, super += nm_layout_super(l)) {
        int n = left < l->blocks ? (int)left : l->blocks;
        for (int b = 0; b < n; b++, q += NM_STEPS * NM_LINE)
            _Pragma("GCC unroll 4") for (int v = 0; v < NM_STEPS; v += 2)
                _Pragma("GCC unroll 4") for (int quarter = 0; quarter < 4; quarter++) {
                    uint32x4_t x = vreinterpretq_u32_u8(unpacked_step(l, is_signed, super, b, v, quarter));
                    uint32x4_t y = vreinterpretq_u32_u8(unpacked_step(l, is_signed, super, b, v + 1, quarter));
                    uint8_t *to = q + v * NM_LINE + (paired ? 32 : 16) * quarter;
                    vst1q_u8(to, vreinterpretq_u8_u32(paired ? vzip1q_u32(x, y) : x));
                    vst1q_u8(to + (paired ? 16 : NM_LINE), vreinterpretq_u8_u32(paired ? vzip2q_u32(x, y) : y));
                }
        unpack_scales_neon(l, super, n * groups, scale, min);
        scale += n * groups * 16;
        min += n * groups * 16;
    }
}

/* An unpacker for a type; is_signed and paired as macros of the includer's own. */
#define DEFINE_UNPACK_NEON(TYPE, ...) \
    static void unpack_##TYPE(const uint8_t *panel, int64_t b0, int64_t count, const nm_u *u) \
    { \
        static const nm_layout l = NM_LAYOUT_ROW(TYPE, __VA_ARGS__); \
        unpack_neon(&l, UNPACK_SIGNED, UNPACK_PAIRED, panel, b0, count, u); \
    }
#define UNPACK_NEON_ENTRY(TYPE, ...) [NM_LAYOUT_##TYPE] = unpack_##TYPE,

/* The int8 linear maps of the weaker tiers. */
void nm_linear_q8_neon(const nm_linear_job *job);
void nm_linear_q8_dotprod(const nm_linear_job *job);

#endif
