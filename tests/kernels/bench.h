/* Timing of the kernels that test_kernels checks: `test_kernels --bench [NAME [ROWS [TIER]]]`, part of test_kernels.c. One thread, its processor time
 * (what others run on the machine counts only through the memory they share), median of several passes. Rows of few go over more weights
 * than caches hold, beside a read probe in turn; the others count multiply-adds as two operations. */
#ifndef NM_TEST_BENCH_H
#define NM_TEST_BENCH_H

#include <time.h>

enum { BENCH_PASSES = 7, BENCH_STREAM = 192 << 20 };    /* bytes walked by a memory-bound case */

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}

static const char *bench_tier = "";
static bool benched(int i) { return !*bench_tier || !strcmp(bench_tier, tier[i].name); }

static uint64_t bench_sink;

/* Seconds to read `bytes` (of 64 a turn): as they come or, if `ahead`, with requests as far ahead as the kernels', which some memories need. */
static double read_once(const uint8_t *p, size_t bytes, bool ahead)
{
    typedef uint64_t pair __attribute__((vector_size(16), may_alias));
    double start = cpu_seconds();
    pair a = {0}, b = a, c = a, d = a;
    for (const uint8_t *end = p + bytes; p < end; p += 64) {
        const pair *line = (const pair *)(const void *)p;
        if (ahead) {
            __builtin_prefetch(p + 6784, 0, 2);
            __builtin_prefetch(p + 1024, 0, 3);
        }
        a |= line[0]; b |= line[1]; c |= line[2]; d |= line[3];
    }
    a |= b | c | d;
    bench_sink += a[0] | a[1];
    return cpu_seconds() - start;
}

static double read_probe(const uint8_t *p, size_t bytes) { return fmin(read_once(p, bytes, false), read_once(p, bytes, true)); }

typedef struct bench_linear_case { const char *type; int64_t n, k; int rows; bool int8; } bench_linear_case;

static void bench_linear(const bench_linear_case *c)
{
    const nm_type *type = NULL;
    for (int i = 0; nm_type_at(i); i++)
        if (!strcmp(nm_type_at(i)->name, c->type)) type = nm_type_at(i);
    size_t panel = nm_pack_bytes(type, c->k), map = panel * (size_t)(c->n / 16);
    int64_t maps = c->rows <= 8 ? (int64_t)(BENCH_STREAM / map) + 1 : 1;
    nm_panels w = {.type = type, .n = c->n * maps, .k = c->k, .panels = c->n / 16 * maps, .panel_bytes = panel};
    size_t row = (size_t)(c->k / type->block) * (size_t)type->bytes, bytes = map * (size_t)maps;
    uint8_t *rows = malloc(row * 16), *data = aligned_alloc(2 << 20, (bytes + (2 << 20)) & ~(size_t)((2 << 20) - 1));
    madvise(data, bytes, MADV_HUGEPAGE);
    if (type->group) for (size_t at = 0; at < row * 16; at += (size_t)type->bytes) random_block(type, ORDINARY, rows + at);
    else for (int64_t at = 0; at < 16 * c->k; at++) type->from_float(&(float){random_float(1)}, 1, rows + at * type->bytes);
    nm_pack_panel(type, 16, c->k, rows, row, 0, data);
    for (int64_t p = 1; p < w.panels; p++) memcpy(data + (size_t)p * panel, data, panel);
    w.data = data;
    activations a = make_activations(c->rows, c->k, GAUSS);
    size_t ldy = (size_t)w.n, scratch_bytes = nm_linear_scratch(&w, c->rows);
    float *y = malloc(ldy * (size_t)c->rows * 4);
    memset(y, 0, ldy * (size_t)c->rows * 4);
    void *scratch = aligned_alloc(64, (scratch_bytes + 63) & ~(size_t)63);
    memset(scratch, 0, scratch_bytes);
    for (int i = 0; i < tiers; i++) {
        void (*kernel)(const nm_linear_job *) = c->int8 ? tier[i].k.linear_q8 : tier[i].k.linear_f32;
        if (!benched(i) || kernel == reference.linear_q8 || kernel == reference.linear_f32) continue;
        double t[BENCH_PASSES], probe[BENCH_PASSES];
        tiled xq = in_tiles(&a, &tier[i].k, c->rows);
        for (int pass = 0; pass < BENCH_PASSES; pass++) {
            probe[pass] = c->rows <= 8 ? read_probe(data, bytes) : 1;
            nm_linear_job job = {.w = &w, .p0 = 0, .p1 = w.panels, .rows = c->rows, .xq = &xq.rows, .x = a.f, .ldx = a.ldx, .y = y, .ldy = ldy, .scratch = scratch};
            double start = cpu_seconds();
            kernel(&job);
            t[pass] = cpu_seconds() - start;
        }
        free_tiled(&xq);
        double s = median(t, BENCH_PASSES), r = median(probe, BENCH_PASSES), ops = 2.0 * (double)(w.n * c->k * c->rows);
        printf("%-16s linear_%s %-5s %5d x %-5d rows %-4d %8.1f GOP/s", tier[i].name, c->int8 ? "q8 " : "f32", c->type, (int)c->k, (int)c->n, c->rows, ops / s * 1e-9);
        if (c->rows <= 8) printf("  %6.2f GB/s, read probe %6.2f, share %.2f", (double)bytes / s * 1e-9, (double)bytes / r * 1e-9, r / s);
        printf("\n");
    }
    free(rows);
    free(data);
    free(y);
    free(scratch);
    free_activations(&a);
}

static void bench_attention(int d, int queries)
{
    for (int type = 0; type < 3; type++) {
        attention_case c = make_attention(type, d, d, queries, GAUSS);
        memset(c.first, 0, sizeof c.first);
        memset(c.last, NM_PAGE, sizeof c.last);
        float *m = calloc(NM_QUERIES, 4), *l = calloc(NM_QUERIES, 4), *o = calloc((size_t)queries * (size_t)d, 4);
        void *scratch = aligned_alloc(64, (nm_attention_scratch(d, d) + 63) & ~(size_t)63);
        for (int i = 0; i < tiers; i++) {
            if (!benched(i) || tier[i].k.attention[type] == reference.attention[type]) continue;
            double t[BENCH_PASSES];
            nm_attention_job job = {.k = c.k.p, .v = c.v.p, .d_k = d, .d_v = d, .queries = queries, .q = c.query, .first = c.first, .last = c.last,
                                    .scale = 0.1f, .m = m, .l = l, .o = o, .ldo = (size_t)d, .scratch = scratch};
            for (int pass = 0; pass < BENCH_PASSES; pass++) {
                double start = cpu_seconds();
                for (int j = 0; j < 2000; j++) tier[i].k.attention[type](&job);
                t[pass] = (cpu_seconds() - start) / 2000;
            }
            double s = median(t, BENCH_PASSES);
            printf("%-16s attention %-4s d %-3d queries %-3d %8.2f us a page, %6.1f GFLOP/s\n", tier[i].name, kv_name[type], d, queries, s * 1e6,
                   4.0 * 64 * d * queries / s * 1e-9);
        }
        free(m);
        free(l);
        free(o);
        free(scratch);
        free_attention(&c);
    }
}

static void bench_elementwise(void)
{
    enum { N = 4096 };
    static float a[N], b[N], y[N];
    static uint8_t memory[4 * N + 65536] __attribute__((aligned(64)));
    nm_qrows q = nm_qrows_at(memory, 1, N, NM_QTILE_FEW);
    fill_random(a, N, 3);
    fill_random(b, N, 3);
    for (int i = 0; i < tiers; i++) {
        const nm_kernels *k = &tier[i].k;
        if (!benched(i) || k->silu == reference.silu) continue;
        static const char *const names[] = {"rms_norm", "silu", "gelu_tanh", "mul", "add_scaled", "quantize", "rope and a copy"};
        for (int f = 0; f < 7; f++) {
            double t[BENCH_PASSES];
            for (int pass = 0; pass < BENCH_PASSES; pass++) {
                double start = cpu_seconds();
                for (int j = 0; j < 500; j++) switch (f) {
                    case 0: k->rms_norm(a, b, 1e-5f, N, y); break;
                    case 1: k->silu(a, N, y); break;
                    case 2: k->gelu_tanh(a, N, y); break;
                    case 3: k->mul(a, b, N, y); break;
                    case 4: k->add_scaled(a, b, 2, N, y); break;
                    case 5: k->quantize(a, N, &q, 0, 0); break;
                    case 6: memcpy(y, a, sizeof y); k->rope(y, a, b, N, true); break;
                    }
                t[pass] = (cpu_seconds() - start) / 500;
            }
            printf("%-16s %-15s %6.3f ns a value\n", tier[i].name, names[f], median(t, BENCH_PASSES) / N * 1e9);
        }
    }
}

static int bench(const char *only, int only_rows, const char *only_tier)
{
    static const char *const types[] = {"Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "Q2_K", "MXFP4"};
    static const int row_counts[] = {1, 2, 4, 8, 16, 512};
    setvbuf(stdout, NULL, _IOLBF, 0);
    find_tiers(NULL);
    bench_tier = only_tier;
    printf("%s\n", nm_kernels_describe());
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (size_t r = 0; r < sizeof row_counts / sizeof *row_counts; r++)
            if ((!*only || !strcmp(only, types[t]) || !strcmp(only, "linear")) && (!only_rows || only_rows == row_counts[r]))
                bench_linear(&(bench_linear_case){types[t], 2048, 1536, row_counts[r], true});
    static const char *const floats[] = {"F32", "F16", "BF16", "Q4_K"};
    for (size_t t = 0; t < 4; t++)
        for (int rows = 1; rows <= 512; rows *= 512)
            if (!*only || !strcmp(only, "f32")) bench_linear(&(bench_linear_case){floats[t], 2048, 1536, rows, false});
    if (!*only || !strcmp(only, "attention")) {
        bench_attention(64, 3);
        bench_attention(128, 6);
        bench_attention(128, 126);
        bench_attention(64, 126);
    }
    if (!*only || !strcmp(only, "elementwise")) bench_elementwise();
    return 0;
}

#endif
