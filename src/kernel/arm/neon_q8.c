/* NEON without dot products: int8 linear maps. Products of bytes add up in pairs in int16, which -128 * 127 * 2 fits, and those in int32. */
#include "kernel/arm/v16_neon.h"

V16_INLINE int32x4_t same_four(int32x4_t x, int lane)
{
    return lane == 0 ? vdupq_laneq_s32(x, 0) : lane == 1 ? vdupq_laneq_s32(x, 1) : lane == 2 ? vdupq_laneq_s32(x, 2) : vdupq_laneq_s32(x, 3);
}

V16_INLINE int32x4_t dot_lane(int32x4_t sum, int8x16_t w, int8x16_t x, int lane)
{
    int8x16_t four = vreinterpretq_s8_s32(same_four(vreinterpretq_s32_s8(x), lane));
    return vpadalq_s16(sum, vpaddq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(four)), vmull_high_s8(w, four)));
}

#include "kernel/arm/linear_dot.h"

void nm_linear_q8_neon(const nm_linear_job *job) { linear_q8(job); }
