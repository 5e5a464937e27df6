/* nomoat bench --tune: steps of training on tokens of no meaning, all of them trained. */
#include "bench_tune.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "common.h"
#include "tune/count.h"
#include "os/clock.h"
#include "os/machine.h"
#include "probe.h"

enum { MOST_REPEATS = 100, TOKEN_SEED = 1 };

typedef struct tune_bench {
    const nm_model *model;
    const nm_bench_tune *set;
    nm_trainer *trainer;
    int32_t *ids;               /* [batch x length] */
    uint8_t *mask;              /* [length] */
    nm_sample *sample;          /* [batch] */
    double rate[MOST_REPEATS];  /* tokens per second, sorted at the end */
    int count;
    double operations;          /* 4N of a token */
    nm_limits limits;
    uint64_t peak;
} tune_bench;

/* Parameters of the maps in layers and, for the share of rows that are supervised, of the head: forward and the gradient of the input are two operations
 * each. The adapter's own products are not counted, nor attention's: what they take makes the share smaller. */
static double count_operations(const tune_bench *b)
{
    double maps, head, supervised = (double)(b->set->length - 1) / b->set->length;
    nm_count_maps(b->model, &maps, &head);
    return 4 * (maps + head * supervised);
}

static nm_err make_samples(tune_bench *b)
{
    const nm_bench_tune *o = b->set;
    size_t n = (size_t)o->batch * (size_t)o->length;
    int32_t vocabulary = nm_model_describe(b->model)->n_vocab;
    b->ids = nm_calloc(n, sizeof *b->ids);
    b->mask = nm_calloc((size_t)o->length, 1);
    b->sample = nm_calloc((size_t)o->batch, sizeof *b->sample);
    if (!b->ids || !b->mask || !b->sample) return nm_fail_memory(n * sizeof *b->ids);
    for (size_t i = 0; i < n; i++) b->ids[i] = (int32_t)(nm_rng_u64(TOKEN_SEED, 0, i) % (uint64_t)vocabulary);
    memset(b->mask + 1, 1, (size_t)o->length - 1);
    for (int32_t i = 0; i < o->batch; i++)
        b->sample[i] = (nm_sample){.ids = b->ids + (size_t)i * (size_t)o->length, .mask = b->mask, .count = o->length, .trained = o->length - 1};
    return NM_OK;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The first step touches memory for the first time and is not counted. */
static nm_err measure(tune_bench *b)
{
    nm_train_report r;
    NM_TRY(nm_probe_peaks(&b->limits));
    NM_TRY(nm_trainer_step(b->trainer, b->sample, (size_t)b->set->batch, NULL, 0, 0, &r, &nm_interrupted));
    while (b->count < b->set->repeat) {
        NM_TRY(nm_trainer_step(b->trainer, b->sample, (size_t)b->set->batch, NULL, 0, 0, &r, &nm_interrupted));
        b->rate[b->count++] = (double)r.tokens / r.seconds;
    }
    qsort(b->rate, (size_t)b->count, sizeof b->rate[0], compare_doubles);
    b->peak = nm_machine_resident_peak();
    return NM_OK;
}

static double median(const tune_bench *b) { return b->count % 2 ? b->rate[b->count / 2] : (b->rate[b->count / 2 - 1] + b->rate[b->count / 2]) / 2; }

/* The limit that the products are held against, that of their arithmetic; fp32's where it was not probed. */
static double bf16_limit(const tune_bench *b)
{
    const char *arithmetic = nm_trainer_describe(b->trainer)->arithmetic;
    return !strcmp(arithmetic, "bf16") ? b->limits.bf16_gflops : !strcmp(arithmetic, "amx-bf16") ? b->limits.amx_bf16_gflops : 0;
}
static const char *limit_name(const tune_bench *b)
{
    return !(bf16_limit(b) > 0) ? "fp32" : bf16_limit(b) == b->limits.amx_bf16_gflops ? "amx_bf16" : "bf16";
}
static double limit(const tune_bench *b) { return bf16_limit(b) > 0 ? bf16_limit(b) : b->limits.fp32_gflops; }
static double share(const tune_bench *b) { return median(b) * b->operations / (limit(b) * 1e9); }

static nm_err json_report(nm_str *s, const tune_bench *b)
{
    const nm_trainer_info *i = nm_trainer_describe(b->trainer);
    NM_TRY(nm_str_putc(s, '{'));
    NM_TRY(nm_json_string(s, "tier", nm_kernels_tier()));
    NM_TRY(nm_json_whole(s, "threads", (uint64_t)nm_threads()));
    NM_TRY(nm_str_printf(s, ", \"limits\": {\"fp32_gflops\": %.6g", b->limits.fp32_gflops));
    if (bf16_limit(b) > 0) NM_TRY(nm_str_printf(s, ", \"%s_gflops\": %.6g", limit_name(b), bf16_limit(b)));
    NM_TRY(nm_str_printf(s, "}, \"tune\": {\"rank\": %d, \"maps\": %d, \"batch\": %d, \"length\": %d", i->rank,
        i->maps, b->set->batch, b->set->length));
    NM_TRY(nm_str_printf(s, ", \"tokens_per_second\": {\"median\": %.6g, \"min\": %.6g, \"max\": %.6g}", median(b), b->rate[0], b->rate[b->count - 1]));
    NM_TRY(nm_str_printf(s, ", \"gflop_per_token\": %.6g, \"limit\": \"%s_gflops\", \"share\": %.4f, \"trainer_mb\": %.1f, \"peak_mb\": %.1f", b->operations * 1e-9,
        limit_name(b), share(b), (double)i->bytes * 1e-6, (double)b->peak * 1e-6));
    NM_TRY(nm_json_string(s, "recomputed", i->recomputed));
    return nm_str_puts(s, "}}");
}

static nm_err print_report(const tune_bench *b)
{
    const nm_trainer_info *i = nm_trainer_describe(b->trainer);
    char trainer[32], peak[32];
    NM_TRY(nm_out_puts("model       "));
    NM_TRY(nm_out_name(nm_model_describe(b->model)->name));
    NM_TRY(nm_out_printf("\nkernels     %s, %d thread%s\nlimit       %s %.0f GFLOP/s\n", nm_kernels_tier(), nm_threads(), nm_threads() == 1 ? "" : "s", limit_name(b),
        limit(b)));
    NM_TRY(nm_out_printf("step        %d x %d tokens, rank %d on %d maps, computed again: %s\n", b->set->batch, b->set->length, i->rank, i->maps, i->recomputed));
    NM_TRY(nm_out_printf("speed       %.1f tokens/s (%.1f to %.1f of %d)\n", median(b), b->rate[0], b->rate[b->count - 1], b->count));
    NM_TRY(nm_out_printf("share       %.0f %% of the limit at %.3g GFLOP a token\n", share(b) * 100, b->operations * 1e-9));
    return nm_out_printf("memory      %s at most, model and program included; %s of it to train\n", nm_bytes_text(b->peak, peak), nm_bytes_text(i->bytes, trainer));
}

static nm_err print(const tune_bench *b, bool json)
{
    nm_str s = {0};
    return json ? nm_json_print(&s, json_report(&s, b)) : print_report(b);
}

nm_err nm_bench_tune_run(const nm_model *model, const nm_stack *stack, const nm_bench_tune *set, bool json)
{
    tune_bench b = {.model = model, .set = set};
    nm_trainer_options o = {.rank = set->rank, .below = stack, .compute = set->compute, .max_length = set->length, .batch = set->batch, .steps = set->repeat + 1,
        .weight_decay = -1};
    nm_err err = make_samples(&b);
    b.operations = count_operations(&b);
    if (err == NM_OK) err = nm_trainer_open(&b.trainer, model, &o);
    if (err == NM_OK) err = measure(&b);
    if (err == NM_OK) err = print(&b, json);
    nm_trainer_close(&b.trainer);
    nm_free(b.sample);
    nm_free(b.mask);
    nm_free(b.ids);
    return err;
}
