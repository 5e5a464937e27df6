/* nomoat bench: tokens per second of prefill and decode by depth, batch and number of adapters, beside limits of the machine that are probed in between. What is
 * timed is nm_run on forks of one session, so that every repetition starts from the same past; tests take turns, so that those that are compared are neighbours. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "bench_tune.h"
#include "commands.h"
#include "common.h"
#include "tune/count.h"
#include "os/clock.h"
#include "os/machine.h"
#include "probe.h"
#include "stack.h"

static const char TUNE_BATCH[] = "4";
enum { MOST_REPEATS = 100, MOST_LIST = 32, MOST_BATCH = 256, MOST_DEPTH = 1 << 24, MOST_ADAPTERS = 16, TOKEN_SEED = 1 };

typedef struct settings {
    nm_common common;
    const char *depth, *batch, *adapters;
    int32_t prompt, generate, repeat, kv, rank, length;
    bool tune;
    nm_stack_options stack;
} settings;

typedef struct sample {
    double seconds, rate;           /* of all passes; tokens per second */
    double share, int8;             /* least time that the limits around it allow, over its own: of all work; of the products with quantised weights alone */
    nm_limits limits;
} sample;

typedef struct test {
    char name[40];
    nm_session *base;
    bool prefill;
    int32_t depth, adapters, sequences, rows, passes;
    int32_t tokens;                 /* of one pass, over all sequences */
    double bytes, quantised, floats, attention;     /* of one pass: bytes read; operations on quantised weights, on floats, and within attention */
    double kv;                      /* bytes of keys and values that were alive, with those of other tests */
    uint64_t resident;
    sample sample[MOST_REPEATS];
    int count;
} test;


typedef struct bench {
    const settings *set;
    const nm_model *model;
    const nm_stack *stack;
    nm_runner *runner;
    nm_probe probe;
    nm_costs costs;
    int32_t depths[MOST_LIST], batches[MOST_LIST], counts[MOST_LIST + 1];   /* counts: of adapters; the first is 0 */
    int n_depths, n_batches, n_counts;
    nm_kv_type kv;
    int32_t *tokens;                /* enough for the longest run */
    nm_adapter *adapter[MOST_ADAPTERS];
    nm_stack *stacks[MOST_LIST + 1];   /* by counts; NULL for 0 */
    nm_session *base[MOST_LIST * (MOST_LIST + 1)];
    int bases;
    test *tests;
    size_t n_tests, capacity;
    uint64_t resident;              /* at the end of the latest passes */
} bench;

/* ---- Settings ------------------------------------------------------------------------------------------------------------------- */

/* "1,8,64": at most MOST_LIST whole numbers within least..most. */
static nm_err read_list(int32_t *list, int *count, const char *text, const char *option, long least, long most)
{
    *count = 0;
    for (const char *at = text;;) {
        char *end;
        long v = *at >= '0' && *at <= '9' ? strtol(at, &end, 10) : LONG_MIN;
        if (v < least || v > most || (*end && *end != ',') || *count == MOST_LIST)
            return nm_fail(NM_USAGE, "%s %s: give up to %d whole numbers from %ld to %ld, separated by commas", option, text, MOST_LIST, least, most);
        list[(*count)++] = (int32_t)v;
        if (!*end) return NM_OK;
        at = end + 1;
    }
}

static int32_t most_of(const int32_t *list, int count)
{
    int32_t most = 0;
    for (int i = 0; i < count; i++) most = list[i] > most ? list[i] : most;
    return most;
}

/* ---- What a pass costs ------------------------------------------------------------------------------------------------------------ */

static double kv_bytes(const bench *b, int32_t length)
{
    nm_session_options o = {.context = length, .kv = b->kv, .compute = (nm_compute)b->set->common.compute};
    return length > 0 ? (double)nm_session_bytes(b->model, &o) : 0;
}

/* A row's attention to `length` positions: each of their keys and values is an operand of a multiply-add for every query head that shares it. */
static double attention_operations(const bench *b, int32_t length)
{
    static const double bytes[] = {[NM_KV_F16] = 2, [NM_KV_F32] = 4, [NM_KV_Q8_0] = 34.0 / 32};
    const nm_model_info *info = nm_model_describe(b->model);
    return info->n_head_kv > 0 ? 2 * kv_bytes(b, length) / bytes[b->kv] * info->n_head / info->n_head_kv : 0;
}

static void set_costs(const bench *b, test *t)
{
    const nm_costs *c = &b->costs;
    int32_t length = t->depth + t->rows * t->passes / 2;
    double slots = 0;
    for (int i = 0; i < t->adapters; i++) slots += (double)nm_adapter_describe(b->adapter[i])->n_parameters;
    t->tokens = t->rows * t->sequences;
    t->bytes = c->body_bytes + c->head_bytes + kv_bytes(b, length) * t->sequences;
    for (int i = 0; i < t->adapters; i++) t->bytes += (double)nm_adapter_describe(b->adapter[i])->bytes;
    t->quantised = c->body_quantised * t->tokens + c->head_quantised * t->sequences;
    t->floats = (c->body_floats + 2 * slots) * t->tokens + c->head_floats * t->sequences;
    t->attention = attention_operations(b, length) * t->tokens;
}

static bool has_tiles(const nm_limits *l) { return l->amx_int8_gops > l->int8_gops; }

static double quantised_seconds(const nm_limits *l, const test *t) { return t->quantised / ((has_tiles(l) ? l->amx_int8_gops : l->int8_gops) * 1e9); }

/* The least seconds that the limits allow for one pass, and the name of the limit that binds. */
static double bound(const nm_limits *l, const test *t, const char **name)
{
    double read = t->bytes / (l->read_gb_per_s * 1e9), quantised = quantised_seconds(l, t), floats = (t->floats + t->attention) / (l->fp32_gflops * 1e9);
    *name = quantised > floats ? (has_tiles(l) ? "amx_int8_gops" : "int8_gops") : "fp32_gflops";
    if (read > quantised + floats) *name = "read_gb_per_s";
    return read > quantised + floats ? read : quantised + floats;
}

/* ---- Medians ------------------------------------------------------------------------------------------------------------------------ */

typedef struct spread { double median, least, most; } spread;

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts them. */
static spread spread_of(double *value, int count)
{
    if (!count) return (spread){0};
    qsort(value, (size_t)count, sizeof *value, compare_doubles);
    return (spread){count % 2 ? value[count / 2] : (value[count / 2 - 1] + value[count / 2]) / 2, value[0], value[count - 1]};
}

static double rate_of(const test *t, const test *twin, int i) { return t->sample[i].rate; }
static double share_of(const test *t, const test *twin, int i) { return t->sample[i].share; }
static double int8_of(const test *t, const test *twin, int i) { return t->sample[i].int8; }

/* Of the same repetition of both: time of one over the other's. */
static double times_of(const test *t, const test *twin, int i) { return t->sample[i].seconds / twin->sample[i].seconds; }
/* The share of the fp32 limit at which the attention was computed that t has beyond its twin, if the rest took as long. */
static double attention_of(const test *t, const test *twin, int i)
{
    double more = (t->attention - twin->attention) * t->passes, seconds = t->sample[i].seconds - twin->sample[i].seconds;
    return seconds > 0 ? more / (t->sample[i].limits.fp32_gflops * 1e9) / seconds : 0;
}

static spread over_samples(const test *t, const test *twin, double (*of)(const test *, const test *, int))
{
    double value[MOST_REPEATS];
    for (int i = 0; i < t->count; i++) value[i] = of(t, twin, i);
    return spread_of(value, t->count);
}

/* The test that differs from t by its depth or its adapters alone; NULL if there is none, or it is t. */
static const test *twin_of(const bench *b, const test *t, int32_t depth, int32_t adapters)
{
    for (size_t i = 0; i < b->n_tests; i++) {
        const test *o = &b->tests[i];
        if (o != t && o->prefill == t->prefill && o->depth == depth && o->adapters == adapters && o->sequences == t->sequences) return o;
    }
    return NULL;
}

/* ---- Running ---------------------------------------------------------------------------------------------------------------------- */

static nm_err ignore_logits(void *arg, int32_t index, const float *logits, int32_t n_vocab) { return NM_OK; }

static void close_all(nm_session **sessions, int32_t count)
{
    for (int32_t i = 0; i < count; i++) nm_session_close(&sessions[i]);
}

/* Appends a test's tokens to forks of its base, `passes` times; seconds of the passes alone. */
static nm_err time_passes(bench *b, const test *t, int32_t passes, double *seconds)
{
    nm_session *fork[MOST_BATCH] = {NULL};
    nm_item items[MOST_BATCH];
    nm_err err = NM_OK;
    for (int32_t i = 0; i < t->sequences; i++) {
        NM_GOTO(nm_session_fork(&fork[i], t->base));
        items[i] = (nm_item){.session = fork[i], .count = t->rows, .want = NM_WANT_LAST, .on_logits = ignore_logits};
    }
    double from = nm_clock_seconds();
    for (int32_t pass = 0; pass < passes; pass++) {
        for (int32_t i = 0; i < t->sequences; i++) items[i].tokens = b->tokens + pass + i;
        NM_GOTO(nm_run(b->runner, items, (size_t)t->sequences, &nm_interrupted));
    }
    *seconds = nm_clock_seconds() - from;
    b->resident = nm_machine_resident();
out:
    close_all(fork, t->sequences);
    return err;
}

static nm_err add_test(bench *b, nm_session *base, bool prefill, int32_t sequences, int32_t adapters)
{
    NM_TRY(NM_GROW(b->tests, b->capacity, b->n_tests + 1));
    test *t = &b->tests[b->n_tests++];
    *t = (test){.base = base, .prefill = prefill, .depth = nm_session_length(base), .adapters = adapters, .sequences = sequences,
        .rows = prefill ? b->set->prompt : 1, .passes = prefill ? 1 : b->set->generate};
    char together[16] = "", stacked[16] = "";
    if (sequences > 1) snprintf(together, sizeof together, "@%d", sequences);
    if (adapters) snprintf(stacked, sizeof stacked, "+%d", adapters);
    snprintf(t->name, sizeof t->name, "%s%d%s%s", prefill ? "pp" : "tg", t->rows * t->passes, together, stacked);
    set_costs(b, t);
    return NM_OK;
}

/* A past of this depth, and the tests that start from it. */
static nm_err open_base(bench *b, int32_t depth, int count)
{
    const settings *set = b->set;
    int32_t longest = set->prompt > set->generate ? set->prompt : set->generate, adapters = b->counts[count];
    nm_session_options o = {.context = depth + longest, .kv = b->kv, .compute = (nm_compute)set->common.compute, .stack = adapters ? b->stacks[count] : b->stack};
    nm_session **base = &b->base[b->bases];
    NM_TRY(nm_session_open(base, b->model, &o));
    b->bases++;
    if (depth) {
        nm_item fill = {.session = *base, .tokens = b->tokens, .count = depth, .want = NM_WANT_NONE};
        NM_TRY(nm_run(b->runner, &fill, 1, &nm_interrupted));
    }
    if (set->prompt && !adapters) NM_TRY(add_test(b, *base, true, 1, 0));
    for (int i = 0; i < b->n_batches && set->generate; i++) NM_TRY(add_test(b, *base, false, b->batches[i], adapters));
    return NM_OK;
}

/* Adapters of no meaning, each with its own halves in memory: a trainer's before its first step. */
static nm_err open_adapters(bench *b)
{
    int32_t most = most_of(b->counts, b->n_counts);
    nm_trainer_options o = {.rank = b->set->rank, .compute = (nm_compute)b->set->common.compute, .max_length = 8, .batch = 1, .steps = 1, .weight_decay = -1};
    nm_trainer *trainer = NULL;
    nm_err err = most ? nm_trainer_open(&trainer, b->model, &o) : NM_OK;
    for (int32_t i = 0; i < most && err == NM_OK; i++) err = nm_trainer_adapter(trainer, &b->adapter[i]);
    nm_trainer_close(&trainer);
    for (int i = 0; i < b->n_counts && err == NM_OK; i++) {
        const nm_adapter *adapters[MOST_ADAPTERS];
        float scales[MOST_ADAPTERS];
        for (int32_t k = 0; k < b->counts[i]; k++) {
            adapters[k] = b->adapter[k];
            scales[k] = 1;
        }
        if (b->counts[i]) err = nm_stack_open(&b->stacks[i], b->model, adapters, scales, (size_t)b->counts[i]);
    }
    return err;
}

/* Ids that any vocabulary has, the same on every machine. */
static nm_err make_tokens(bench *b)
{
    int32_t vocabulary = nm_model_describe(b->model)->n_vocab;
    size_t n = (size_t)most_of(b->depths, b->n_depths) + (size_t)b->set->prompt + (size_t)b->set->generate + MOST_BATCH;
    b->tokens = nm_calloc(n, sizeof *b->tokens);
    if (!b->tokens) return nm_fail_memory(n * sizeof *b->tokens);
    for (size_t i = 0; i < n && vocabulary > 0; i++) b->tokens[i] = (int32_t)(nm_rng_u64(TOKEN_SEED, 0, i) % (uint64_t)vocabulary);
    return NM_OK;
}

static double mean(double a, double b) { return (a + b) / 2; }

/* The limits around a test: what they were before it and after it. */
static nm_limits between(const nm_limits *a, const nm_limits *b)
{
    return (nm_limits){mean(a->read_gb_per_s, b->read_gb_per_s), mean(a->fp32_gflops, b->fp32_gflops), mean(a->bf16_gflops, b->bf16_gflops),
        mean(a->int8_gops, b->int8_gops), mean(a->amx_int8_gops, b->amx_int8_gops), mean(a->amx_bf16_gflops, b->amx_bf16_gflops)};
}

static nm_err run_test(bench *b, test *t, nm_limits *limits)
{
    nm_limits before = *limits;
    sample *s = &t->sample[t->count];
    const char *name;
    NM_TRY(time_passes(b, t, t->passes, &s->seconds));
    NM_TRY(nm_probe_round(&b->probe, limits));
    s->limits = between(&before, limits);
    s->rate = (double)t->tokens * t->passes / s->seconds;
    s->share = bound(&s->limits, t, &name) * t->passes / s->seconds;
    s->int8 = quantised_seconds(&s->limits, t) * t->passes / s->seconds;
    if (!t->count++) t->resident = b->resident > b->probe.bytes ? b->resident - b->probe.bytes : 0;
    return NM_OK;
}

/* What is alive while a test runs: all bases, and what its forks append. */
static void set_alive(const bench *b, test *t)
{
    t->kv = t->sequences * (kv_bytes(b, t->depth + t->rows * t->passes) - kv_bytes(b, t->depth));
    for (int i = 0; i < b->bases; i++) t->kv += kv_bytes(b, nm_session_length(b->base[i]));
}

/* Each test once for a short while that is not counted (a prefill with a past has had that by filling it), then all of them in turn. */
static nm_err measure(bench *b)
{
    nm_runner_options o = {.compute = (nm_compute)b->set->common.compute};
    nm_limits limits;
    double seconds;
    NM_TRY(nm_runner_open(&b->runner, b->model, &o));
    NM_TRY(make_tokens(b));
    NM_TRY(nm_probe_open(&b->probe));
    NM_TRY(open_adapters(b));
    for (int i = 0; i < b->n_depths; i++) for (int k = 0; k < b->n_counts; k++) NM_TRY(open_base(b, b->depths[i], k));
    for (size_t i = 0; i < b->n_tests; i++) {
        test *t = &b->tests[i];
        set_alive(b, t);
        if (!t->prefill || !t->depth) NM_TRY(time_passes(b, t, t->passes < 8 ? t->passes : 8, &seconds));
    }
    NM_TRY(nm_probe_round(&b->probe, &limits));
    for (int32_t r = 0; r < b->set->repeat; r++) for (size_t i = 0; i < b->n_tests; i++) NM_TRY(run_test(b, &b->tests[i], &limits));
    return NM_OK;
}

/* ---- Output ----------------------------------------------------------------------------------------------------------------------- */

static nm_err json_figure(nm_str *s, const char *key, double value)
{
    NM_TRY(nm_json_key(s, key));
    return value > 0 ? nm_str_printf(s, "%.6g", value) : nm_str_puts(s, "null");
}

static nm_err json_spread(nm_str *s, const char *key, spread x)
{
    NM_TRY(nm_json_key(s, key));
    return nm_str_printf(s, "{\"median\": %.6g, \"min\": %.6g, \"max\": %.6g}", x.median, x.least, x.most);
}

/* What the extra bytes of adapters are of their twin's. */
static double bytes_share(const test *t, const test *twin) { return t->bytes / twin->bytes - 1; }

static nm_err json_twins(nm_str *s, const bench *b, const test *t)
{
    const test *shallow = t->depth ? twin_of(b, t, 0, t->adapters) : NULL, *plain = t->adapters ? twin_of(b, t, t->depth, 0) : NULL;
    if (shallow) NM_TRY(json_spread(s, "times_depth_0", over_samples(t, shallow, times_of)));
    if (shallow && t->prefill) NM_TRY(json_spread(s, "attention_share", over_samples(t, shallow, attention_of)));
    if (!plain) return NM_OK;
    NM_TRY(json_spread(s, "times_without_adapters", over_samples(t, plain, times_of)));
    NM_TRY(nm_json_key(s, "adapters_of_bytes"));
    return nm_str_printf(s, "%.4f", bytes_share(t, plain));
}

static nm_err json_test(nm_str *s, const bench *b, const nm_limits *l, const test *t)
{
    const char *limit;
    spread share = over_samples(t, NULL, share_of);
    bound(l, t, &limit);
    NM_TRY(nm_str_putc(s, '{'));
    NM_TRY(nm_json_string(s, "name", t->name));
    NM_TRY(nm_json_whole(s, "depth", (uint64_t)t->depth));
    NM_TRY(json_spread(s, "tokens_per_second", over_samples(t, NULL, rate_of)));
    NM_TRY(nm_json_string(s, "limit", limit));
    NM_TRY(nm_json_key(s, "share"));
    NM_TRY(nm_str_printf(s, "%.4f, \"share_min\": %.4f, \"share_max\": %.4f", share.median, share.least, share.most));
    if (t->prefill) NM_TRY(nm_str_printf(s, ", \"int8_share\": %.4f", over_samples(t, NULL, int8_of).median));
    NM_TRY(json_twins(s, b, t));
    double rest = (double)t->resident - (double)nm_model_describe(b->model)->weight_bytes - t->kv;
    return nm_str_printf(s, ", \"resident_mb\": %.1f, \"kv_mb\": %.1f, \"rest_mb\": %.1f}", (double)t->resident * 1e-6, t->kv * 1e-6, rest * 1e-6);
}

static nm_err json_report(nm_str *s, const bench *b)
{
    nm_limits l = nm_probe_result(&b->probe);
    NM_TRY(nm_str_putc(s, '{'));
    NM_TRY(nm_json_string(s, "tier", nm_kernels_tier()));
    NM_TRY(nm_json_whole(s, "threads", (uint64_t)nm_threads()));
    NM_TRY(nm_json_key(s, "limits"));
    NM_TRY(nm_str_putc(s, '{'));
    NM_TRY(json_figure(s, "read_gb_per_s", l.read_gb_per_s));
    NM_TRY(json_figure(s, "fp32_gflops", l.fp32_gflops));
    NM_TRY(json_figure(s, "bf16_gflops", l.bf16_gflops));
    NM_TRY(json_figure(s, "int8_gops", l.int8_gops));
    NM_TRY(json_figure(s, "amx_int8_gops", l.amx_int8_gops));
    NM_TRY(json_figure(s, "amx_bf16_gflops", l.amx_bf16_gflops));
    NM_TRY(nm_str_putc(s, '}'));
    NM_TRY(nm_json_key(s, "packed_mb"));
    NM_TRY(nm_str_printf(s, "%.1f", (double)nm_model_describe(b->model)->weight_bytes * 1e-6));
    NM_TRY(nm_json_key(s, "tests"));
    NM_TRY(nm_str_putc(s, '['));
    for (size_t i = 0; i < b->n_tests; i++) {
        if (i) NM_TRY(nm_str_puts(s, ", "));
        NM_TRY(json_test(s, b, &l, &b->tests[i]));
    }
    return nm_str_puts(s, "]}");
}

static nm_err print_limits(const nm_limits *l)
{
    NM_TRY(nm_out_printf("limits      read %.1f GB/s, fp32 %.0f GFLOP/s", l->read_gb_per_s, l->fp32_gflops));
    if (l->bf16_gflops > 0) NM_TRY(nm_out_printf(", bf16 %.0f GFLOP/s", l->bf16_gflops));
    NM_TRY(nm_out_printf(", int8 %.0f GOP/s", l->int8_gops));
    if (l->amx_int8_gops > 0) NM_TRY(nm_out_printf(", AMX int8 %.0f GOP/s", l->amx_int8_gops));
    if (l->amx_bf16_gflops > 0) NM_TRY(nm_out_printf(", AMX bf16 %.0f GFLOP/s", l->amx_bf16_gflops));
    return nm_out_puts("\n\n");
}

static nm_err print_test(const bench *b, const nm_limits *l, const test *t)
{
    const char *limit;
    spread rate = over_samples(t, NULL, rate_of), share = over_samples(t, NULL, share_of);
    bound(l, t, &limit);
    NM_TRY(nm_out_printf("%-12s %6d %10.2f  %9.2f %9.2f  %3.0f %% (%.0f to %.0f) of %-13s %.0f MB\n", t->name, t->depth, rate.median, rate.least, rate.most,
        share.median * 100, share.least * 100, share.most * 100, limit, (double)t->resident * 1e-6));
    return NM_OK;
}

/* How a test stands to the same one without its past, or without its adapters. */
static nm_err print_twins(const bench *b, const test *t)
{
    const test *shallow = t->depth ? twin_of(b, t, 0, t->adapters) : NULL, *plain = t->adapters ? twin_of(b, t, t->depth, 0) : NULL;
    if (shallow) {
        spread times = over_samples(t, shallow, times_of);
        NM_TRY(nm_out_printf("%-12s %6d  %.2f (%.2f to %.2f) times the time at depth 0", t->name, t->depth, times.median, times.least, times.most));
        if (t->prefill) NM_TRY(nm_out_printf(", attention at %.0f %% of fp32", over_samples(t, shallow, attention_of).median * 100));
        NM_TRY(nm_out_puts("\n"));
    }
    if (plain) {
        spread times = over_samples(t, plain, times_of);
        NM_TRY(nm_out_printf("%-12s %6d  %+.1f %% (%.1f to %.1f) of time for %+.1f %% of bytes\n", t->name, t->depth, (times.median - 1) * 100, (times.least - 1) * 100,
            (times.most - 1) * 100, bytes_share(t, plain) * 100));
    }
    return NM_OK;
}

static nm_err print_report(const bench *b)
{
    const nm_model_info *info = nm_model_describe(b->model);
    nm_limits l = nm_probe_result(&b->probe);
    NM_TRY(nm_out_puts("model       "));
    NM_TRY(nm_out_name(info->name));
    NM_TRY(nm_out_puts(", "));
    NM_TRY(nm_out_name(info->file_type));
    NM_TRY(nm_out_printf(", %.0f M parameters, %.1f MB, packed %.1f MB\n", (double)info->n_parameters * 1e-6, (double)info->file_bytes * 1e-6, (double)info->weight_bytes * 1e-6));
    NM_TRY(nm_out_printf("kernels     %s, %d thread%s\n", nm_kernels_tier(), nm_threads(), nm_threads() == 1 ? "" : "s"));
    NM_TRY(print_limits(&l));
    NM_TRY(nm_out_printf("%-12s %6s %10s  %-19s  %-32s %s\n", "test", "depth", "tokens/s", "    min       max", "of the limit", "resident"));
    for (size_t i = 0; i < b->n_tests; i++) NM_TRY(print_test(b, &l, &b->tests[i]));
    if (b->n_depths > 1 || b->n_counts > 1) NM_TRY(nm_out_puts("\n"));
    for (size_t i = 0; i < b->n_tests; i++) NM_TRY(print_twins(b, &b->tests[i]));
    return NM_OK;
}

/* ---- The command ------------------------------------------------------------------------------------------------------------------ */

/* All pasts and what is appended to one of them, once for every sequence. A tenth of memory is left alone, as by run. */
static nm_err check_memory(const bench *b)
{
    int32_t longest = b->set->prompt > b->set->generate ? b->set->prompt : b->set->generate, depth = most_of(b->depths, b->n_depths);
    double need = (most_of(b->batches, b->n_batches) - 1) * kv_bytes(b, b->set->generate);
    for (int i = 0; i < b->n_depths; i++) need += kv_bytes(b, b->depths[i] + longest) * b->n_counts;
    uint64_t have = nm_machine_memory_available();
    char text[2][32];
    if (!have || need <= 0.9 * (double)have) return NM_OK;
    return nm_fail(NM_NO_MEMORY, "bench: --depth %d with these tests needs %s for keys and values, and %s are available: give less", depth,
                   nm_bytes_text((uint64_t)need, text[0]), nm_bytes_text(have, text[1]));
}

static nm_err bench_model(bench *b, const char *name)
{
    nm_stacked stacked;
    nm_err err = nm_stacked_open(&stacked, name, &b->set->common, &b->set->stack);
    b->model = stacked.model;
    b->stack = stacked.stack;
    if (err == NM_OK && b->set->tune) {
        nm_interrupts_catch();
        err = nm_bench_tune_run(b->model, b->stack, &(nm_bench_tune){b->set->rank, b->batches[0], b->set->length, b->set->repeat, (nm_compute)b->set->common.compute},
            b->set->common.json);
        nm_stacked_close(&stacked);
        return err;
    }
    if (err == NM_OK) {
        b->costs = nm_count_costs(b->model, (nm_compute)b->set->common.compute);
        nm_interrupts_catch();
        err = check_memory(b);
        if (err == NM_OK) err = measure(b);
    }
    if (err == NM_OK && b->set->common.json) {
        nm_str s = {0};
        err = nm_json_print(&s, json_report(&s, b));
    } else if (err == NM_OK) {
        err = print_report(b);
    }
    for (int i = 0; i < b->bases; i++) nm_session_close(&b->base[i]);
    for (int i = 0; i < b->n_counts; i++) nm_stack_close(&b->stacks[i]);
    for (int i = 0; i < MOST_ADAPTERS; i++) nm_adapter_close(&b->adapter[i]);
    nm_probe_close(&b->probe);
    nm_runner_close(&b->runner);
    nm_stacked_close(&stacked);
    return err;
}

/* Adapters: none at first, then as listed. */
static nm_err read_counts(bench *b)
{
    const settings *set = b->set;
    b->n_counts = 1;
    if (!set->adapters) return NM_OK;
    if (set->tune) return nm_fail(NM_USAGE, "bench --tune trains one adapter: leave --adapters out");
    if (set->stack.lora.count || set->stack.lora_scaled.count) return nm_fail(NM_USAGE, "bench --adapters makes adapters of its own: leave --lora out");
    NM_TRY(read_list(b->counts + 1, &b->n_counts, set->adapters, "--adapters", 1, MOST_ADAPTERS));
    b->n_counts++;
    return NM_OK;
}

static int run(void *arg, int count, char **operands)
{
    bench b = {.set = arg};
    if (!b.set->tune && !b.set->prompt && !b.set->generate) return nm_fail(NM_USAGE, "bench: nothing to measure: give -p or -n a number above 0");
    NM_TRY(read_list(b.depths, &b.n_depths, b.set->depth, "--depth", 0, MOST_DEPTH));
    NM_TRY(read_list(b.batches, &b.n_batches, b.set->batch ? b.set->batch : b.set->tune ? TUNE_BATCH : "1", "--batch", 1, MOST_BATCH));
    if (b.set->tune && b.n_batches > 1) return nm_fail(NM_USAGE, "bench --tune: give one --batch");
    NM_TRY(read_counts(&b));
    NM_TRY(nm_choose_kv(&b.kv, (nm_compute)b.set->common.compute, b.set->kv));
    nm_err err = bench_model(&b, operands[0]);
    nm_free(b.tests);
    nm_free(b.tokens);
    return err;
}

static const nm_option options[] = {
    {"-d --depth", "LIST", "tokens already in the context, e.g. 0,2048", offsetof(settings, depth), NM_OPTION_TEXT, 0, 0},
    {"--batch", "LIST", "sequences decoded together, e.g. 1,8 (1); of a step with --tune (4)", offsetof(settings, batch), NM_OPTION_TEXT, 0, 0},
    {"-p --n-prompt", "N", "tokens of a prefill; 0 leaves it out", offsetof(settings, prompt), NM_OPTION_INT, 0, 1 << 20},
    {"-n --n-gen", "N", "tokens of a decode; 0 leaves it out", offsetof(settings, generate), NM_OPTION_INT, 0, 1 << 20},
    {"-r --repetitions", "N", "times that each test is run", offsetof(settings, repeat), NM_OPTION_INT, 1, MOST_REPEATS},
    {"--kv -ctk -ctv", "f16|f32|q8_0", "type of the cached keys and values (f16; f32 with --compute f32)", offsetof(settings, kv), NM_OPTION_CHOICE, 0, 0},
    {"--adapters", "LIST", "decode also with so many adapters on all maps, e.g. 1,3", offsetof(settings, adapters), NM_OPTION_TEXT, 0, 0},
    NM_STACK_OPTIONS(settings, stack),
    {"--tune", NULL, "measure a step of training instead", offsetof(settings, tune), NM_OPTION_FLAG, 0, 0},
    {"--rank --lora-r", "N", "rank of the adapters of --adapters and --tune (16)", offsetof(settings, rank), NM_OPTION_INT, 1, 1 << 14},
    {"--max-length --cutoff-len --max-seq-length", "N", "with --tune: tokens of a sequence (512)", offsetof(settings, length), NM_OPTION_INT, 8, 1 << 20},
    {0}
};

static const settings defaults = {.common.alone = true, .depth = "0", .prompt = 512, .generate = 128, .repeat = 5, .kv = -1, .rank = 16, .length = 512};

static const nm_example examples[] = {
    {"nomoat bench smollm2", "prefill of 512 tokens and decode of 128"},
    {"nomoat bench smollm2 --depth 0,2048 --batch 1,8", "with a long past, and 8 sequences at once"},
    {"nomoat bench smollm2 -p 0 --adapters 1,3", "what one and three adapters of rank 16 cost in decode"},
    {"nomoat bench smollm2 --tune", "tokens per second of teaching, rank 16, 4 sequences of 512"},
    {"nomoat bench smollm2 -n 256 -p 0 --json", "decode only, for a script"},
    {NULL, NULL}
};

const nm_command nm_command_bench = {
    .name = "bench", .operands = "MODEL", .summary = "measure tokens per second beside the machine's limits",
    .details = "ppN is the prefill of N tokens, tgN the decode of N tokens one by one, tgN@B of B sequences together (tokens of all of them count), tgN+A with A "
        "adapters of no meaning. Tests take turns, as often as -r says; before and after each the limits are probed: reading memory, and products on floats and "
        "bytes, on the same threads and instructions. The share says how near a test came to the limit that binds it: the bytes it must read (packed "
        "weights, keys and values, adapters), or the products it must form, attention's on floats among them, whichever takes longer.\n\n"
        "Where depth 0 is measured, too, a depth's time stands beside it, with attention's share of the fp32 limit in the time that was added. Adapters' time "
        "stands beside the bytes that they add.\n\n"
        "--tune times steps of training, every token trained, without anchor: 4 operations for each parameter of the maps and the head, held against "
        "the fp32 limit, or bf16's where that is trained in.",
    .examples = examples, .options = options, .settings_size = sizeof(settings), .defaults = &defaults,
    .least_operands = 1, .most_operands = 1, .run = run
};
