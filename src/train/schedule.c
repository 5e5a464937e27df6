/* Learning rates. */
#include "train/schedule.h"

#include <math.h>

float nm_schedule_rate(nm_schedule schedule, float lr, int64_t warmup, int64_t steps, int64_t step)
{
    if (step <= warmup) return (float)((double)lr * (double)step / (double)warmup);
    double left = steps > warmup ? (double)(steps - step + 1) / (double)(steps - warmup) : 1;
    switch (schedule) {
    case NM_SCHEDULE_LINEAR: return (float)((double)lr * left);
    case NM_SCHEDULE_COSINE: return (float)((double)lr * 0.5 * (1 - cos(M_PI * left)));
    default: return lr;
    }
}
