/* Owns the sampling settings that a model's file recommends (general.sampling.*). Values out of range are left aside. */
#include <math.h>

#include "nomoat.h"

static void overlay_real(const nm_model *model, const char *key, double least, double most, float *value)
{
    size_t at = nm_model_meta_find(model, key);
    double v = at == SIZE_MAX ? NAN : nm_model_meta_number(model, at, 0);
    if (v >= least && v <= most) *value = (float)v;
}

static void overlay_int(const nm_model *model, const char *key, double least, int32_t *value)
{
    size_t at = nm_model_meta_find(model, key);
    double v = at == SIZE_MAX ? NAN : nm_model_meta_number(model, at, 0);
    if (v >= least && v <= INT32_MAX) *value = (int32_t)v;
}

nm_sampling nm_sampling_defaults(const nm_model *model)
{
    nm_sampling s = {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f, .typical = 1, .repeat_penalty = 1,
                     .penalty_last = 64};
    if (!model) return s;
    overlay_real(model, "general.sampling.temp", 0, 100, &s.temperature);
    overlay_int(model, "general.sampling.top_k", -1, &s.top_k);
    if (s.top_k < 0) s.top_k = 0;       /* llama.cpp's "off", too */
    overlay_real(model, "general.sampling.top_p", 0, 1, &s.top_p);
    overlay_real(model, "general.sampling.min_p", 0, 1, &s.min_p);
    overlay_real(model, "general.sampling.penalty_repeat", 0.01, 100, &s.repeat_penalty);
    overlay_int(model, "general.sampling.penalty_last_n", -1, &s.penalty_last);
    return s;
}
