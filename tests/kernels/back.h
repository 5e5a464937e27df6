/* The kernels of backward: part of test_kernels.c. Each tier against the reference to the bit, and the reference against finite differences. */
#ifndef NM_TEST_BACK_H
#define NM_TEST_BACK_H

/* ---- The product ---- */

static void products(void **state)
{
    for (int trial = 0; trial < (SANITIZED ? 60 : 500); trial++) {
        draw_mask();
        int64_t m = odd_size(random_below(3) ? 30 : 150), n = odd_size(random_below(3) ? 40 : 160), k = trial % 11 ? odd_size(random_below(3) ? 40 : 300) : 0;
        bool turned = random_below(2), add = random_below(2);
        int64_t lda = (turned ? m : k) + random_below(20), ldb = n + random_below(20), ldc = n + random_below(20);
        int64_t sizes[] = {k && m ? ((turned ? k : m) - 1) * lda + (turned ? m : k) : 0, k ? (k - 1) * ldb + n : 0}, of_c = (m - 1) * ldc + n;
        guard a = guard_open((size_t)sizes[0] * 4, 4), b = guard_open((size_t)sizes[1] * 4, 4), c[2];
        inputs kind = trial % 3 ? GAUSS : trial / 3 % INPUTS;
        for (int i = 0; k && i < 2; i++) make_inputs(i ? b.p : a.p, sizes[i], kind);
        float *start = malloc((size_t)of_c * 4);
        fill_random(start, of_c, 1);
        if (trial % 10 == 9) for (int64_t i = 0; i < sizes[0]; i++) ((float *)a.p)[i] *= 0x1p-126f;
        if (trial % 20 == 19) for (int64_t i = 0; i < of_c; i++) start[i] *= 0x1p-126f;
        for (int t = 0; t < 2 * tiers; t++) {
            const nm_kernels *of_tier = &tier[t / 2].k, rounds = bf16_reference(of_tier), *k_of[] = {t % 2 ? &rounds : &reference, of_tier};
            if (t % 2 && of_tier->gemm_bf16 == reference.gemm_bf16) continue;
            for (int j = 0; j < 2; j++) {
                c[j] = guard_open((size_t)of_c * 4, 4);
                memcpy(c[j].p, start, (size_t)of_c * 4);
                nm_gemm_job job = {.m = m, .n = n, .k = k, .a = a.p, .a_row = turned ? 1 : (size_t)lda, .a_k = turned ? (size_t)lda : 1,
                                   .b = b.p, .ldb = (size_t)ldb, .c = c[j].p, .ldc = (size_t)ldc, .add = add};
                (t % 2 ? k_of[j]->gemm_bf16 : k_of[j]->gemm)(&job);
            }
            expect_same((float *)c[0].p, (float *)c[1].p, of_c, "%s gemm%s %d x %d x %d inputs %d%s%s", tier[t / 2].name, t % 2 ? "_bf16" : "", (int)m, (int)n, (int)k, kind,
                        turned ? " turned" : "", add ? " adding" : "");
            guard_close(&c[0]);
            guard_close(&c[1]);
        }
        free(start);
        guard_close(&a);
        guard_close(&b);
    }
}

/* ---- Products in bf16 ---- */

/* Rounding, either way, of every tier that has its own. */
static void roundings(void **state)
{
    for (int trial = 0; trial < (SANITIZED ? 20 : 120); trial++) {
        draw_mask();
        int64_t rows = 1 + random_below(16), k = odd_size(150), ld = k + random_below(40);
        guard x = guard_open((size_t)((rows - 1) * ld + k) * 4, 4), want[2], got;
        for (int64_t r = 0; r < rows; r++) make_inputs((float *)x.p + r * ld, k, trial % INPUTS);
        for (int way = 0; way < 2; way++) {
            want[way] = in_bf16(way ? reference.round_lines : reference.round_rows, x.p, (size_t)ld, rows, k);
            for (int t = 0; t < tiers; t++) {
                if (tier[t].k.round_rows == reference.round_rows) continue;
                got = in_bf16(way ? tier[t].k.round_lines : tier[t].k.round_rows, x.p, (size_t)ld, rows, k);
                if (memcmp(want[way].p, got.p, nm_bf16_bytes(rows, k))) fail_msg("%s: %d rows of %d rounded to %s, inputs %d", tier[t].name, (int)rows, (int)k, way ? "lines" : "rows", trial % INPUTS);
                guard_close(&got);
            }
            guard_close(&want[way]);
        }
        guard_close(&x);
    }
}

/* dx of a job by one table; columns and rows outside stay as they were. */
static guard run_back_bf16(const nm_kernels *k, nm_back_job job, const float *start, int64_t n)
{
    guard dx = guard_open((size_t)(job.rows * n) * 4, 4), scratch = guard_open(nm_back_bf16_scratch(job.rows), 64);
    memcpy(dx.p, start, (size_t)(job.rows * n) * 4);
    job.dx = (float *)dx.p + job.k0;
    job.ldx = (size_t)n;
    job.scratch = scratch.p;
    k->back_bf16(&job);
    guard_close(&scratch);
    return dx;
}

static void back_in_bf16(void **state)
{
    for (int i = 0; nm_type_at(i); i++) {
        const nm_type *type = nm_type_at(i);
        if (!holds_weights(type)) continue;
        for (int trial = 0; trial < (SANITIZED ? 1 : 6); trial++) {
            draw_mask();
            inputs kind = trial ? trial % INPUTS : BROKEN;
            int64_t n = odd_size(trial % 2 ? 300 : 65), k = inputs_for(type, quantised(type) ? 32 * odd_size(20) : odd_size(400)), rows = odd_size(trial % 3 ? 18 : 70);
            weight w = make_weight(type, n, k, trial % WEIGHTS);
            int64_t chunks = (k + NM_UNPACK_INPUTS - 1) / NM_UNPACK_INPUTS, k0 = random_below((int)chunks) * NM_UNPACK_INPUTS;
            float *dy = malloc((size_t)(rows * n) * 4), *start = malloc((size_t)(rows * k) * 4);
            make_inputs(dy, rows * n, kind);
            fill_random(start, rows * k, 1);
            guard lines = in_bf16(reference.round_lines, dy, (size_t)n, rows, n);
            nm_back_job job = {.k0 = k0, .inputs = k - k0 < NM_UNPACK_INPUTS ? k - k0 : NM_UNPACK_INPUTS, .rows = rows, .dy = lines.p, .add = random_below(2)};
            for (int t = 0; t < tiers; t++)
                for (int packed = 0; packed < 2; packed++) {
                    if (tier[t].k.back_bf16 == reference.back_bf16 || (packed && !w.packed.data)) continue;
                    nm_kernels c = bf16_reference(&tier[t].k);
                    job.w = packed ? &w.packed : &w.rows;
                    guard want = run_back_bf16(&c, job, start, k), got = run_back_bf16(&tier[t].k, job, start, k);
                    expect_same((float *)want.p, (float *)got.p, rows * k, "%s %s backward in %s, %s, n %d k %d rows %d inputs %d%s", tier[t].name, type->name, c.bf16,
                                packed ? "packed" : "rows", (int)n, (int)k, (int)rows, kind, job.add ? " adding" : "");
                    guard_close(&want);
                    guard_close(&got);
                }
            guard_close(&lines);
            free(dy);
            free(start);
            free_weight(&w);
        }
    }
}

/* ---- Unpacking ---- */

static void compare_rows(const weight *w, const nm_panels *panels, int64_t p, int64_t k0, int64_t count)
{
    const nm_type *type = w->rows.type;
    float *row = malloc((size_t)w->rows.k * 4);
    guard scratch = guard_open(nm_linear_scratch(panels, 1), 64);
    for (int t = -1; t < tiers; t++) {
        guard out = guard_open((size_t)(NM_PANEL * count) * 4, 4);
        (t < 0 ? &reference : &tier[t].k)->unpack_rows(panels, p, k0, count, out.p, (size_t)count, scratch.p);
        for (int64_t r = 0; r < NM_PANEL; r++) {
            bool real = NM_PANEL * p + r < w->rows.n;
            if (real) type->to_float(w->rows.rows + (size_t)(NM_PANEL * p + r) * w->rows.row_bytes, w->rows.k, row);
            else for (int64_t i = 0; i < count; i++) row[k0 + i] = ((float *)out.p)[r * count + i] == 0 ? ((float *)out.p)[r * count + i] : 1;
            expect_same(row + k0, (float *)out.p + r * count, count, "%s %s unpacked to rows, %s, panel %d row %d inputs %d + %d",
                        t < 0 ? "c" : tier[t].name, type->name, panels->data ? "packed" : "rows", (int)p, (int)r, (int)k0, (int)count);
        }
        guard_close(&out);
    }
    guard_close(&scratch);
    free(row);
}

static void rows_of_panels(void **state)
{
    for (int i = 0; nm_type_at(i); i++) {
        const nm_type *type = nm_type_at(i);
        if (!holds_weights(type)) continue;
        for (int trial = 0; trial < (SANITIZED ? 1 : 4); trial++) {
            draw_mask();
            int64_t n = odd_size(65), k = inputs_for(type, quantised(type) ? 32 * odd_size(33) : odd_size(700));
            weight w = make_weight(type, n, k, trial == 1 ? WILD : trial == 2 ? SMALL : ORDINARY);
            int64_t p = random_below((int)w.rows.panels), chunks = (k + NM_UNPACK_INPUTS - 1) / NM_UNPACK_INPUTS, k0 = random_below((int)chunks) * NM_UNPACK_INPUTS;
            int64_t most = k - k0, count = most > NM_UNPACK_INPUTS && random_below(2) ? NM_UNPACK_INPUTS : most;
            compare_rows(&w, &w.rows, p, k0, count);
            if (w.packed.data) compare_rows(&w, &w.packed, p, k0, count);
            free_weight(&w);
        }
    }
}

/* ---- Elementwise ---- */

static void run_back(const nm_kernels *k, int f, const float *a, const float *b, const float *c, int n, float *y)
{
    float m = 0, l = 0;
    memcpy(y, c, (size_t)n * 4);
    switch (f) {
    case 0: k->silu_back(a, b, n, y); break;
    case 1: k->gelu_tanh_back(a, b, n, y); break;
    case 2: k->gelu_erf_back(a, b, n, y); break;
    case 3: k->softcap_back(a, b, 30, n, y); break;
    case 4: k->softmax(a, n, y, &m, &l); y[0] += m + l; break;
    case 5: k->softmax_back(a, b, 0.3f, 0.7f, n, y); break;
    case 6: y[0] = k->dot(a, b, n); break;
    case 7: k->rms_norm_back(a, b, c, 1e-5f, n, y, false); break;
    case 8: k->rms_norm_back(a, NULL, b, 1e-5f, n, y, true); break;
    case 9: k->layer_norm_back(a, b, c, 1e-5f, n, y, false); break;
    case 10: k->layer_norm_back(a, NULL, b, 1e-5f, n, y, true); break;
    case 11: k->norm_facts(a, 1e-5f, n % 2, n, &m, &l); k->norm_back_weight(a, m, l, b, n, y); break;
    }
}

static void elementwise_back(void **state)
{
    static const char *const names[] = {"silu_back", "gelu_tanh_back", "gelu_erf_back", "softcap_back", "softmax", "softmax_back", "dot", "rms_norm_back",
        "rms_norm_back adding", "layer_norm_back", "layer_norm_back adding", "norm_back_weight"};
    for (int trial = 0; trial < (SANITIZED ? 60 : 400); trial++) {
        draw_mask();
        int n = odd_size(130);
        guard in[3], out[2];
        for (int i = 0; i < 3; i++) {
            in[i] = guard_open((size_t)n * 4, 4);
            for (int j = 0; j < n; j++) ((float *)in[i].p)[j] = wide_float();
            if (trial % 3) fill_random(in[i].p, n, 3);
        }
        for (int t = 0; t < tiers; t++)
            for (int f = 0; f < (int)(sizeof names / sizeof *names); f++) {
                for (int j = 0; j < 2; j++) {
                    out[j] = guard_open((size_t)n * 4, 4);
                    run_back(j ? &tier[t].k : &reference, f, in[0].p, in[1].p, in[2].p, n, out[j].p);
                }
                expect_same((float *)out[0].p, (float *)out[1].p, n, "%s %s n %d", tier[t].name, names[f], n);
                guard_close(&out[0]);
                guard_close(&out[1]);
            }
        for (int i = 0; i < 3; i++) guard_close(&in[i]);
    }
}

/* Slopes in double, from the functions' definitions. */
static double slope_of(int f, double x)
{
    double e = 1e-5, y[2];
    for (int i = 0; i < 2; i++) {
        double v = x + (i ? e : -e);
        y[i] = f == 0 ? v / (1 + exp(-v)) : f == 1 ? 0.5 * v * (1 + tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)))
             : f == 2 ? 0.5 * v * (1 + erf(v / sqrt(2))) : 30 * tanh(v / 30);
    }
    return (y[1] - y[0]) / (2 * e);
}

static void slopes(void **state)
{
    enum { N = 512 };
    float x[N], dy[N], y[N], dx[N];
    fill_random(x, N, 8);
    fill_random(dy, N, 1);
    reference.softcap(x, 30, N, y);
    for (int f = 0; f < 4; f++) {
        if (f == 0) reference.silu_back(x, dy, N, dx);
        if (f == 1) reference.gelu_tanh_back(x, dy, N, dx);
        if (f == 2) reference.gelu_erf_back(x, dy, N, dx);
        if (f == 3) reference.softcap_back(y, dy, 30, N, dx);
        for (int i = 0; i < N; i++) assert_true(fabs(dx[i] - dy[i] * slope_of(f, x[i])) < 2e-6 * (1 + fabs(dy[i])));
    }
}

/* y = norm(x) w, in double; gives sum(dy * y). */
static double norm_loss(const double *x, const float *w, const float *dy, int n, bool layer)
{
    double mean = 0, squares = 0, loss = 0;
    for (int i = 0; layer && i < n; i++) mean += x[i] / n;
    for (int i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean) / n;
    for (int i = 0; i < n; i++) loss += dy[i] * (x[i] - mean) / sqrt(squares + 1e-5) * w[i];
    return loss;
}

static void norm_slopes(void **state)
{
    for (int n = 1; n <= 77; n += 19)
        for (int layer = 0; layer < 2; layer++) {
            float x[77], w[77], dy[77], dx[77], dw[77] = {0}, mean, r;
            double wide[77], e = 1e-5;
            fill_random(x, n, 3);
            fill_random(w, n, 1);
            fill_random(dy, n, 1);
            if (layer) reference.layer_norm_back(x, w, dy, 1e-5f, n, dx, false);
            else reference.rms_norm_back(x, w, dy, 1e-5f, n, dx, false);
            reference.norm_facts(x, 1e-5f, layer, n, &mean, &r);
            reference.norm_back_weight(x, mean, r, dy, n, dw);
            for (int i = 0; i < n; i++) wide[i] = x[i];
            for (int i = 0; i < n; i++) {
                wide[i] = x[i] + e;
                double up = norm_loss(wide, w, dy, n, layer);
                wide[i] = x[i] - e;
                double down = norm_loss(wide, w, dy, n, layer);
                wide[i] = x[i];
                assert_true(n == 1 || fabs(dx[i] - (up - down) / (2 * e)) < 1e-5);
                assert_true(fabs(dw[i] - dy[i] * (x[i] - mean) * r) < 1e-5);
            }
        }
}

#endif
