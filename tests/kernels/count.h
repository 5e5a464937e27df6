/* Counting of instructions: `test_kernels --count`, part of test_kernels.c, runs some kernels on fixed sizes, each once inside counted_kernel, and prints a line for
 * each: tier, kernel and multiply-adds. Callgrind counts what happens inside (tests/kernels/instructions.sh). It knows no AVX-512: plain C and AVX2. */
#ifndef NM_TEST_COUNT_H
#define NM_TEST_COUNT_H

typedef struct counted { enum { COUNT_LINEAR, COUNT_GEMM, COUNT_ATTENTION } kind; const void *job; void (*kernel)(void); } counted;

static void counted_kernel(const counted *c)
{
    switch (c->kind) {
    case COUNT_LINEAR: ((void (*)(const nm_linear_job *))c->kernel)(c->job); break;
    case COUNT_GEMM: ((void (*)(const nm_gemm_job *))c->kernel)(c->job); break;
    case COUNT_ATTENTION: ((void (*)(const nm_attention_job *))c->kernel)(c->job); break;
    }
}
/* Through a pointer that anything might change, so that the function keeps its name and is not inlined. */
static void (*volatile run_counted)(const counted *) = counted_kernel;

static void count_one(const char *name, double multiply_adds, counted c)
{
    run_counted(&c);
    printf("%s %s %.0f\n", nm_kernels_tier(), name, multiply_adds);
}

static void count_linear(nm_dtype id, int64_t rows, bool int8)
{
    const nm_type *type = nm_type_of(id);
    int64_t n = 64, k = 1024;
    weight w = make_weight(type, n, k, ORDINARY);
    activations a = make_activations(rows, k, GAUSS);
    tiled xq = in_tiles(&a, nm_kernels_get(), rows);
    guard y = guard_open((size_t)(rows * n) * 4, 64), scratch = guard_open(nm_linear_scratch(&w.packed, rows), 64);
    nm_linear_job job = {.w = &w.packed, .p0 = 0, .p1 = w.packed.panels, .rows = rows, .xq = &xq.rows, .x = a.f, .ldx = a.ldx, .y = y.p, .ldy = (size_t)n,
        .scratch = scratch.p};
    char name[64];
    snprintf(name, sizeof name, "linear_%s-%s-rows-%d", int8 ? "q8" : "f32", type->name, (int)rows);
    count_one(name, (double)(n * k * rows), (counted){COUNT_LINEAR, &job, (void (*)(void))(int8 ? nm_kernels_get()->linear_q8 : nm_kernels_get()->linear_f32)});
    guard_close(&y);
    guard_close(&scratch);
    free_tiled(&xq);
    free_activations(&a);
    free_weight(&w);
}

static void count_gemm(void)
{
    enum { M = 64, N = 64, K = 128 };
    static float a[M * K], b[K * N], c[M * N];
    fill_random(a, M * K, 1);
    fill_random(b, K * N, 1);
    nm_gemm_job job = {.m = M, .n = N, .k = K, .a = a, .a_row = K, .a_k = 1, .b = b, .ldb = N, .c = c, .ldc = N};
    count_one("gemm", (double)M * N * K, (counted){COUNT_GEMM, &job, (void (*)(void))nm_kernels_get()->gemm});
}

static void count_attention(int queries)
{
    enum { D = 64 };
    attention_case c = make_attention(NM_KV_F16, D, D, queries, GAUSS);
    memset(c.first, 0, sizeof c.first);
    memset(c.last, 64, sizeof c.last);
    guard m = guard_open((size_t)queries * 4, 64), l = guard_open((size_t)queries * 4, 64), o = guard_open((size_t)queries * D * 4, 64);
    guard scratch = guard_open(nm_attention_scratch(D, D), 64);
    for (int i = 0; i < queries; i++) {
        ((float *)m.p)[i] = -INFINITY;
        ((float *)l.p)[i] = 0;
    }
    nm_attention_job job = {.k = c.k.p, .v = c.v.p, .d_k = D, .d_v = D, .queries = queries, .q = c.query, .first = c.first, .last = c.last,
                            .scale = 0.125f, .m = m.p, .l = l.p, .o = o.p, .ldo = D, .scratch = scratch.p};
    char name[64];
    snprintf(name, sizeof name, "attention-f16-queries-%d", queries);
    count_one(name, (double)queries * NM_PAGE * 2 * D, (counted){COUNT_ATTENTION, &job, (void (*)(void))nm_kernels_get()->attention[NM_KV_F16]});
    guard *all[] = {&m, &l, &o, &scratch};
    for (int i = 0; i < 4; i++) guard_close(all[i]);
    free_attention(&c);
}

static int count(void)
{
    static const nm_dtype ids[] = {NM_Q4_0, NM_Q4_K, NM_Q6_K, NM_Q8_0};
    static const int rows[] = {1, 4, 64};
    nm_kernels_ref(&reference);
    for (uint32_t bit = NM_CPU_C; bit <= NM_CPU_AVX2; bit <<= 1) {
        if (nm_set_kernels(nm_cpu_tier_name(bit)) != NM_OK || strcmp(nm_kernels_tier(), nm_cpu_tier_name(bit))) continue;
        begin_draws(FIXED_SEED);
        for (int i = 0; i < 12; i++) count_linear(ids[i / 3], rows[i % 3], true);
        count_linear(NM_F32, 64, false);
        count_gemm();
        count_attention(6);
        count_attention(64);
    }
    return 0;
}

#endif
