/* The forecast of a run of `nomoat tune`: what it would take of time and memory. */
#include <stdio.h>

#include "common.h"
#include "tune.h"

enum { PLAN_SECONDS = 4 };

/* Steps on the real data for a few seconds, with a trainer that is thrown away. */
nm_err nm_tune_forecast(nm_tune *t)
{
    double total = 0, measured = 0;
    int64_t taken = 0;
    char time[32], bytes[32];
    for (int64_t i = 0; i < t->steps; i++) {
        nm_order_step s;
        NM_TRY(nm_order_step_at(t->order, i, &s));
        for (size_t k = 0; k < s.count; k++) total += nm_dataset_sample(t->data, NM_SPLIT_TRAIN, s.samples[k]).count;
        total += t->anchor ? NM_ANCHOR_TOKENS : 0;
    }
    for (; taken < t->steps && t->seconds < PLAN_SECONDS; taken++) {
        nm_train_report r;
        NM_TRY(nm_tune_take_step(t, taken, &r));
        measured += (double)r.tokens;
        t->seconds += r.seconds;
    }
    double speed = measured / t->seconds, seconds = total / speed;
    const nm_trainer_info *i = nm_trainer_describe(t->trainer);
    if (!t->set->common.json)
        return nm_out_printf("steps     %lld\ntokens    %.0f\nspeed     %.0f tokens/s\ntime      %s\nmemory    %s beside the model\n", (long long)t->steps, total, speed,
            nm_tune_time_text(seconds, time), nm_bytes_text(i->bytes, bytes));
    nm_str s = {0};
    nm_err err = nm_str_printf(&s, "{\"steps\": %lld, \"tokens\": %.0f, \"tokens_per_second\": %.1f, \"seconds\": %.1f, \"bytes\": %llu}", (long long)t->steps, total,
        speed, seconds, (unsigned long long)i->bytes);
    return nm_json_print(&s, err);
}
