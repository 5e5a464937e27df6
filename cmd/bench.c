/* nomoat bench: tokens per second of prefill and decode by depth and batch, beside limits of the machine that are probed in between. What is
 * timed is nm_run on forks of one session, so that every repetition starts from the same past. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "bench_tune.h"
#include "commands.h"
#include "common.h"
#include "os/clock.h"
#include "os/machine.h"
#include "probe.h"
#include "stack.h"

static const char TUNE_BATCH[] = "4";
enum { MOST_REPEATS = 100, MOST_LIST = 32, MOST_BATCH = 256, MOST_DEPTH = 1 << 24, TOKEN_SEED = 1 };

typedef struct settings {
    nm_common common;
    const char *depth, *batch;
    int32_t prompt, generate, repeat, kv, rank, length;
    bool tune;
    nm_stack_options stack;
} settings;

typedef struct result {
    char name[40];
    int32_t depth;
    double rate[MOST_REPEATS];      /* tokens per second, sorted */
    int count;
    double bytes, quantised, floats;    /* of one pass: bytes read; operations on quantised weights and on floats */
    int32_t tokens;                 /* of one pass, over all sequences */
    uint64_t resident;
} result;

/* What one pass through the weights costs. head: the rows that make logits. */
typedef struct costs { double body_bytes, head_bytes, body_quantised, head_quantised, body_floats, head_floats; } costs;

typedef struct bench {
    const settings *set;
    const nm_model *model;
    const nm_stack *stack;
    nm_runner *runner;
    nm_limits limits;
    nm_read_probe probe;
    costs costs;
    int32_t depths[MOST_LIST], batches[MOST_LIST];
    int n_depths, n_batches;
    nm_kv_type kv;
    int32_t *tokens;                /* enough for the longest run */
    result *results;
    size_t n_results, capacity;
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

static bool is_float_type(const char *type) { return !strcmp(type, "F32") || !strcmp(type, "F16") || !strcmp(type, "BF16"); }

/* What is multiplied by the rows that want logits alone: the head (a tied embedding serves as one), and the last layer behind its attention. */
static bool is_of_head(const nm_model *model, const char *name, bool untied)
{
    char last[32];
    int n = snprintf(last, sizeof last, "blk.%d.", (int)nm_model_describe(model)->n_layer - 1);
    if (!strncmp(name, last, (size_t)n)) return !strncmp(name + n, "attn_output", 11) || !strncmp(name + n, "ffn_", 4);
    return !strcmp(name, "output.weight") || (!untied && !strcmp(name, "token_embd.weight"));
}

/* Other matrices are multiplied by every row; an embedding that is not the head, too, is only looked up. */
static costs count_costs(const nm_model *model, nm_compute compute)
{
    costs c = {0};
    bool untied = false;
    double all = 0;
    size_t n = nm_model_tensor_count(model);
    for (size_t i = 0; i < n; i++) untied |= !strcmp(nm_model_tensor(model, i).name, "output.weight");
    for (size_t i = 0; i < n; i++) {
        nm_tensor_info t = nm_model_tensor(model, i);
        bool embedding = !strcmp(t.name, "token_embd.weight"), looked_up = (embedding && untied) || strstr(t.name, "position_embd");
        bool head = is_of_head(model, t.name, untied);
        all += (double)t.bytes;
        if (t.rank < 2 || looked_up) continue;
        double operations = 2;
        for (int d = 0; d < t.rank; d++) operations *= (double)t.dim[d];
        bool floats = compute == NM_COMPUTE_F32 || is_float_type(t.type);
        *(head ? &c.head_bytes : &c.body_bytes) += (double)t.bytes;
        *(head ? (floats ? &c.head_floats : &c.head_quantised) : (floats ? &c.body_floats : &c.body_quantised)) += operations;
    }
    double packed = (double)nm_model_describe(model)->weight_bytes;
    if (all > 0 && packed > 0) {        /* resident weights differ a little from the file's */
        c.body_bytes *= packed / all;
        c.head_bytes *= packed / all;
    }
    return c;
}

void nm_count_maps(const nm_model *model, double *maps, double *head)
{
    costs c = count_costs(model, NM_COMPUTE_F32);
    *maps = c.body_floats / 2;
    *head = c.head_floats / 2;
}

static double kv_bytes(const bench *b, int32_t length)
{
    nm_session_options o = {.context = length, .kv = b->kv, .compute = (nm_compute)b->set->common.compute};
    return length > 0 ? (double)nm_session_bytes(b->model, &o) : 0;
}

static void set_costs(const bench *b, result *r, int32_t rows, int32_t sequences, int32_t length)
{
    const costs *c = &b->costs;
    r->tokens = rows * sequences;
    r->bytes = c->body_bytes + c->head_bytes + kv_bytes(b, length) * sequences;
    r->quantised = c->body_quantised * r->tokens + c->head_quantised * sequences;
    r->floats = c->body_floats * r->tokens + c->head_floats * sequences;
}

/* The least seconds that the limits allow for one pass, and the name of the limit that binds. Attention's own arithmetic is left out. */
static double bound(const bench *b, const result *r, const char **name)
{
    bool tiles = b->limits.amx_int8_gops > b->limits.int8_gops;
    double read = r->bytes / (nm_read_probe_result(&b->probe) * 1e9);
    double quantised = r->quantised / ((tiles ? b->limits.amx_int8_gops : b->limits.int8_gops) * 1e9);
    double floats = r->floats / (b->limits.fp32_gflops * 1e9);
    *name = quantised > floats ? (tiles ? "amx_int8_gops" : "int8_gops") : "fp32_gflops";
    if (read > quantised + floats) *name = "read_gb_per_s";
    return read > quantised + floats ? read : quantised + floats;
}

static double median(const result *r) { return r->count % 2 ? r->rate[r->count / 2] : (r->rate[r->count / 2 - 1] + r->rate[r->count / 2]) / 2; }

static double share(const bench *b, const result *r, const char **name) { return bound(b, r, name) * median(r) / r->tokens; }

/* ---- Running ---------------------------------------------------------------------------------------------------------------------- */

static nm_err ignore_logits(void *arg, int32_t index, const float *logits, int32_t n_vocab) { return NM_OK; }

static void close_all(nm_session **sessions, int32_t count)
{
    for (int32_t i = 0; i < count; i++) nm_session_close(&sessions[i]);
}

/* Appends `rows` tokens to each of `sequences` forks of base, `passes` times; seconds of the passes alone. */
static nm_err time_passes(bench *b, nm_session *base, int32_t sequences, int32_t rows, int32_t passes, double *seconds)
{
    nm_session *fork[MOST_BATCH] = {NULL};
    nm_item items[MOST_BATCH];
    nm_err err = NM_OK;
    for (int32_t i = 0; i < sequences; i++) {
        NM_GOTO(nm_session_fork(&fork[i], base));
        items[i] = (nm_item){.session = fork[i], .count = rows, .want = NM_WANT_LAST, .on_logits = ignore_logits};
    }
    double from = nm_clock_seconds();
    for (int32_t pass = 0; pass < passes; pass++) {
        for (int32_t i = 0; i < sequences; i++) items[i].tokens = b->tokens + pass + i;
        NM_GOTO(nm_run(b->runner, items, (size_t)sequences, &nm_interrupted));
    }
    *seconds = nm_clock_seconds() - from;
out:
    close_all(fork, sequences);
    return err;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One test with its repetitions, after a short one that is not counted; a round of the memory probe follows each. */
static nm_err run_test(bench *b, nm_session *base, const char *kind, int32_t sequences, int32_t rows, int32_t passes)
{
    double seconds;
    NM_TRY(NM_GROW(b->results, b->capacity, b->n_results + 1));
    result *r = &b->results[b->n_results];
    *r = (result){.depth = nm_session_length(base)};
    snprintf(r->name, sizeof r->name, sequences > 1 ? "%s%d@%d" : "%s%d", kind, rows * passes, sequences);
    set_costs(b, r, rows, sequences, r->depth + rows * passes / 2);
    NM_TRY(time_passes(b, base, sequences, rows, passes < 8 ? passes : 8, &seconds));
    for (; r->count < b->set->repeat; r->count++) {
        NM_TRY(time_passes(b, base, sequences, rows, passes, &seconds));
        r->rate[r->count] = (double)r->tokens * passes / seconds;
    }
    qsort(r->rate, (size_t)r->count, sizeof r->rate[0], compare_doubles);
    uint64_t resident = nm_machine_resident();
    r->resident = resident > b->probe.bytes ? resident - b->probe.bytes : 0;
    b->n_results++;
    return nm_read_probe_round(&b->probe);
}

static nm_err run_depth(bench *b, int32_t depth)
{
    int32_t longest = b->set->prompt > b->set->generate ? b->set->prompt : b->set->generate;
    nm_session_options o = {.context = depth + longest, .kv = b->kv, .compute = (nm_compute)b->set->common.compute, .stack = b->stack};
    nm_session *base = NULL;
    nm_err err = NM_OK;
    NM_GOTO(nm_session_open(&base, b->model, &o));
    if (depth) {
        nm_item fill = {.session = base, .tokens = b->tokens, .count = depth, .want = NM_WANT_NONE};
        NM_GOTO(nm_run(b->runner, &fill, 1, &nm_interrupted));
    }
    if (b->set->prompt) NM_GOTO(run_test(b, base, "pp", 1, b->set->prompt, 1));
    for (int i = 0; i < b->n_batches && b->set->generate; i++) NM_GOTO(run_test(b, base, "tg", b->batches[i], 1, b->set->generate));
out:
    nm_session_close(&base);
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

static nm_err measure(bench *b)
{
    nm_runner_options o = {.compute = (nm_compute)b->set->common.compute};
    NM_TRY(nm_runner_open(&b->runner, b->model, &o));
    NM_TRY(make_tokens(b));
    NM_TRY(nm_read_probe_open(&b->probe));
    NM_TRY(nm_read_probe_round(&b->probe));
    NM_TRY(nm_probe_peaks(&b->limits));
    for (int i = 0; i < b->n_depths; i++) NM_TRY(run_depth(b, b->depths[i]));
    b->limits.read_gb_per_s = nm_read_probe_result(&b->probe);
    return NM_OK;
}

/* ---- Output ----------------------------------------------------------------------------------------------------------------------- */

static nm_err json_figure(nm_str *s, const char *key, double value)
{
    NM_TRY(nm_json_key(s, key));
    return value > 0 ? nm_str_printf(s, "%.6g", value) : nm_str_puts(s, "null");
}

static nm_err json_result(nm_str *s, const bench *b, const result *r)
{
    const char *limit;
    double part = share(b, r, &limit);
    NM_TRY(nm_str_putc(s, '{'));
    NM_TRY(nm_json_text(s, "name", r->name));
    NM_TRY(nm_json_whole(s, "depth", (uint64_t)r->depth));
    NM_TRY(nm_json_key(s, "tokens_per_second"));
    NM_TRY(nm_str_printf(s, "{\"median\": %.6g, \"min\": %.6g, \"max\": %.6g}", median(r), r->rate[0], r->rate[r->count - 1]));
    NM_TRY(nm_json_text(s, "limit", limit));
    NM_TRY(nm_json_key(s, "share"));
    NM_TRY(nm_str_printf(s, "%.4f", part));
    NM_TRY(nm_json_key(s, "resident_mb"));
    return nm_str_printf(s, "%.1f}", (double)r->resident * 1e-6);
}

static nm_err json_report(nm_str *s, const bench *b)
{
    const nm_limits *l = &b->limits;
    NM_TRY(nm_str_putc(s, '{'));
    NM_TRY(nm_json_text(s, "tier", nm_kernels_tier()));
    NM_TRY(nm_json_whole(s, "threads", (uint64_t)nm_threads()));
    NM_TRY(nm_json_key(s, "limits"));
    NM_TRY(nm_str_putc(s, '{'));
    NM_TRY(json_figure(s, "read_gb_per_s", l->read_gb_per_s));
    NM_TRY(json_figure(s, "fp32_gflops", l->fp32_gflops));
    NM_TRY(json_figure(s, "bf16_gflops", l->bf16_gflops));
    NM_TRY(json_figure(s, "int8_gops", l->int8_gops));
    NM_TRY(json_figure(s, "amx_int8_gops", l->amx_int8_gops));
    NM_TRY(json_figure(s, "amx_bf16_gflops", l->amx_bf16_gflops));
    NM_TRY(nm_str_putc(s, '}'));
    NM_TRY(nm_json_key(s, "tests"));
    NM_TRY(nm_str_putc(s, '['));
    for (size_t i = 0; i < b->n_results; i++) {
        if (i) NM_TRY(nm_str_puts(s, ", "));
        NM_TRY(json_result(s, b, &b->results[i]));
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

static nm_err print_report(const bench *b)
{
    const nm_model_info *info = nm_model_describe(b->model);
    NM_TRY(nm_out_puts("model       "));
    NM_TRY(nm_out_name(info->name));
    NM_TRY(nm_out_puts(", "));
    NM_TRY(nm_out_name(info->file_type));
    NM_TRY(nm_out_printf(", %.0f M parameters, %.1f MB\n", (double)info->n_parameters * 1e-6, (double)info->file_bytes * 1e-6));
    NM_TRY(nm_out_printf("kernels     %s, %d thread%s\n", nm_kernels_tier(), nm_threads(), nm_threads() == 1 ? "" : "s"));
    NM_TRY(print_limits(&b->limits));
    NM_TRY(nm_out_printf("%-12s %6s %10s  %-19s %-22s %s\n", "test", "depth", "tokens/s", "    min       max", "of the limit", "resident"));
    for (size_t i = 0; i < b->n_results; i++) {
        const result *r = &b->results[i];
        const char *limit;
        double part = share(b, r, &limit);
        NM_TRY(nm_out_printf("%-12s %6d %10.2f  %9.2f %9.2f %3.0f %% of %-15s %.0f MB\n", r->name, r->depth, median(r), r->rate[0],
            r->rate[r->count - 1], part * 100, limit, (double)r->resident * 1e-6));
    }
    return NM_OK;
}

/* ---- The command ------------------------------------------------------------------------------------------------------------------ */

/* The longest past and what is appended to it, once for every sequence. A tenth of memory is left alone, as by run. */
static nm_err check_memory(const bench *b)
{
    int32_t longest = b->set->prompt > b->set->generate ? b->set->prompt : b->set->generate, depth = most_of(b->depths, b->n_depths);
    double need = kv_bytes(b, depth + longest) + (most_of(b->batches, b->n_batches) - 1) * kv_bytes(b, b->set->generate);
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
        b->costs = count_costs(b->model, (nm_compute)b->set->common.compute);
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
    nm_read_probe_close(&b->probe);
    nm_runner_close(&b->runner);
    nm_stacked_close(&stacked);
    return err;
}

static int run(void *arg, int count, char **operands)
{
    bench b = {.set = arg};
    if (!b.set->tune && !b.set->prompt && !b.set->generate) return nm_fail(NM_USAGE, "bench: nothing to measure: give -p or -n a number above 0");
    NM_TRY(read_list(b.depths, &b.n_depths, b.set->depth, "--depth", 0, MOST_DEPTH));
    NM_TRY(read_list(b.batches, &b.n_batches, b.set->batch ? b.set->batch : b.set->tune ? TUNE_BATCH : "1", "--batch", 1, MOST_BATCH));
    if (b.set->tune && b.n_batches > 1) return nm_fail(NM_USAGE, "bench --tune: give one --batch");
    NM_TRY(nm_choose_kv(&b.kv, (nm_compute)b.set->common.compute, b.set->kv));
    nm_err err = bench_model(&b, operands[0]);
    nm_free(b.results);
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
    NM_STACK_OPTIONS(settings, stack),
    {"--tune", NULL, "measure a step of training instead", offsetof(settings, tune), NM_OPTION_FLAG, 0, 0},
    {"--rank --lora-r", "N", "with --tune: rank of the adapter on all maps (16)", offsetof(settings, rank), NM_OPTION_INT, 1, 1 << 14},
    {"--max-length --cutoff-len --max-seq-length", "N", "with --tune: tokens of a sequence (512)", offsetof(settings, length), NM_OPTION_INT, 8, 1 << 20},
    {0}
};

static const settings defaults = {.depth = "0", .prompt = 512, .generate = 128, .repeat = 5, .kv = -1, .rank = 16, .length = 512};

static const nm_example examples[] = {
    {"nomoat bench smollm2", "prefill of 512 tokens and decode of 128"},
    {"nomoat bench smollm2 --depth 0,2048 --batch 1,8", "with a long past, and 8 sequences at once"},
    {"nomoat bench smollm2 --tune", "tokens per second of teaching, rank 16, 4 sequences of 512"},
    {"nomoat bench smollm2 -n 256 -p 0 --json", "decode only, for a script"},
    {NULL, NULL}
};

const nm_command nm_command_bench = {
    .name = "bench", .operands = "MODEL", .summary = "measure tokens per second beside the machine's limits",
    .details = "ppN is the prefill of N tokens, tgN the decode of N tokens one by one, tgN@B of B sequences together (tokens of all of them count). The "
        "limits are probed in the same run: reading memory, and products on floats and bytes, on the same threads and instructions. The share says how "
        "near a test came to the limit that binds it: the bytes it must read, or the products it must form, whichever takes longer.\n\n"
        "--tune times steps of training, every token trained, without anchor: 4 operations for each parameter of the maps and the head, held against "
        "the fp32 limit, or bf16's where that is trained in.",
    .examples = examples, .options = options, .settings_size = sizeof(settings), .defaults = &defaults,
    .least_operands = 1, .most_operands = 1, .run = run
};
