/* Owns the masks of dropout on what goes into a trained adapter (Srivastava et al. 2014, as PEFT's lora_dropout): a value is kept with probability 1 - p and
 * then divided by it. A mask is a function of the seed, step, map, sequence and position alone, so neither threads nor passes nor a second computation
 * change it. Refuses to know which rows are masked: without a probability nothing is. */
#ifndef NM_DROPOUT_H
#define NM_DROPOUT_H

#include "base/rng.h"

typedef struct nm_dropout {
    float p;                    /* 0 = none */
    uint64_t seed;
    int64_t step;               /* of training, from 1 */
    int64_t first;              /* what the pass's first sequence is of the step */
} nm_dropout;

/* y[i] = x[i] / (1 - p) where column c0 + i is kept, else 0. Column c has bits [16 (c % 4), 16 (c % 4) + 16) of draw c / 4 of its row, and is dropped where
 * they are below p x 65536. map: the weight's id. c0 is a multiple of 4; y may be x. */
static inline void nm_dropout_row(const nm_dropout *d, int32_t map, int64_t sequence, int32_t position, int64_t c0, int64_t count, const float *x, float *y)
{
    uint64_t row = nm_rng_u64(nm_rng_u64(d->seed, (uint64_t)d->step, (uint64_t)map), (uint64_t)sequence, (uint64_t)position);
    const uint32_t dropped = (uint32_t)(d->p * 65536 + 0.5f);
    const float scale = 1 / (1 - d->p);
    for (int64_t i = 0; i < count; i += 4) {
        uint64_t bits = nm_rng_u64(row, 0, (uint64_t)(c0 + i) / 4);
        for (int64_t j = i; j < i + 4 && j < count; j++, bits >>= 16) y[j] = (bits & 0xffff) < dropped ? 0 : x[j] * scale;
    }
}

#endif
