/* Template: rows of activations to int8. Included once per tier after it has defined
 *   quantize_block(x, q, scale, sum)     32 inputs; sum: of the first 16 and of the last */
#ifndef NM_X86_QUANTIZE_H
#define NM_X86_QUANTIZE_H

#include "kernel/layout.h"

static void quantize(const float *x, int64_t k, const nm_qrows *to, int64_t row, int64_t at)
{
    int8_t q[NM_BLOCK] __attribute__((aligned(32)));
    float scale;
    int32_t sum[2];
    for (int64_t b = 0; b < k / NM_BLOCK; b++) {
        quantize_block(x + b * NM_BLOCK, q, &scale, sum);
        nm_qrows_put(to, row, at / NM_BLOCK + b, q, scale, sum[0], sum[1]);
    }
    if (k % 64 == 0) return;
    memset(q, 0, sizeof q);
    nm_qrows_put(to, row, (at + k) / NM_BLOCK, q, 0, 0, 0);
}

#endif
