/* --keep: rows of what the model should go on doing, mixed into every step. One kept sequence comes with each eight that are trained (or fewer, in a small
 * step); which one follows from the seed and the step's number alone. */
#include <math.h>

#include "tune/tune_impl.h"

enum { TRAINED_TO_KEPT = 8 };
static const uint64_t KEEP_STREAM = 0x9e3779b97f4a7c15u;      /* their order is not that of the trained rows */

nm_err nm_tune_open_replay(nm_tune *t)
{
    const nm_tune_settings *set = t->set;
    if (!set->keep) return NM_OK;
    if (set->batches) return nm_fail(NM_USAGE, "--batches are used as they are: leave --keep away");
    NM_TRY(nm_tune_open_rows(t, &t->replay, &(nm_dataset_options){.sources = &set->keep, .n_sources = 1}));
    double count = (double)nm_dataset_count(t->replay, NM_SPLIT_TRAIN), steps = (double)nm_order_steps(t->order);
    t->replays = (set->batch + TRAINED_TO_KEPT - 1) / TRAINED_TO_KEPT;
    nm_order_options o = {.batch = t->replays, .epochs = ceil(steps / ceil(count / t->replays)), .seed = set->seed.value ^ KEEP_STREAM};
    NM_TRY(nm_order_open(&t->replay_order, t->replay, &o));
    nm_tune_note(t, "%.0f sequences of %s are kept in mind: %d of them in every step", count, set->keep, (int)t->replays);
    return NM_OK;
}

/* Puts the step's kept sequences behind the *count trained ones. */
nm_err nm_tune_add_replay(nm_tune *t, int64_t step, size_t *count)
{
    nm_order_step s;
    if (!t->replay) return NM_OK;
    NM_TRY(nm_order_step_at(t->replay_order, step, &s));
    for (size_t i = 0; i < s.count; i++) t->sample[(*count)++] = nm_dataset_sample(t->replay, NM_SPLIT_TRAIN, s.samples[i]);
    return NM_OK;
}
