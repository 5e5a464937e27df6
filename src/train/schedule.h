/* Owns learning rates over the steps of a run. */
#ifndef NM_TRAIN_SCHEDULE_H
#define NM_TRAIN_SCHEDULE_H

#include "nomoat.h"

/* The rate of step `step` (from 1) of `steps`: a linear warm-up of `warmup` steps from lr / warmup on, then constant, or down to 0 in a straight line or
 * along half a cosine (Loshchilov and Hutter 2017), as transformers' schedulers of these names do. */
float nm_schedule_rate(nm_schedule schedule, float lr, int64_t warmup, int64_t steps, int64_t step);

#endif
