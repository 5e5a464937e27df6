/* NEON with dot products (sdot, Armv8.2 and later): int8 linear maps. */
#include "kernel/arm/v16_neon.h"

V16_INLINE int32x4_t dot_lane(int32x4_t sum, int8x16_t w, int8x16_t x, int lane)
{
    return lane == 0 ? vdotq_laneq_s32(sum, w, x, 0) : lane == 1 ? vdotq_laneq_s32(sum, w, x, 1)
         : lane == 2 ? vdotq_laneq_s32(sum, w, x, 2) : vdotq_laneq_s32(sum, w, x, 3);
}

#include "kernel/arm/linear_dot.h"

void nm_linear_q8_dotprod(const nm_linear_job *job) { linear_q8(job); }

void nm_kernels_dotprod(nm_kernels *table)
{
    table->linear_q8 = nm_linear_q8_dotprod;
    table->tile_rows = NM_TILE_ROWS_ARM;
    table->few_rows = NM_QTILE_FEW;
}
