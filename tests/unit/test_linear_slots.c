/* Law 6: a linear map is its base and the slots of the stack. Made-up slots against a direct computation in double; scale 0 is the base to
 * the bit; rows of different stacks in one batch are what each is alone, to the bit, for every number of threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/pool.h"
#include "base/rng.h"
#include "op/op.h"

enum { K = 96, N = 52, ROWS = 37, MOST_RANK = 24, RANKS = 38, STACKS = 3, MOST_SLOTS = 4 };     /* RANKS: of four slots together */
/* Of the largest output: fp32 chains of 96 and 24 products. */
static const double TOLERANCE = 1e-5;

typedef struct matrix { float *v; int64_t n, k; void *packed; size_t bytes; nm_panels panels; } matrix;

static matrix make_matrix(const nm_type *type, int64_t n, int64_t k, uint64_t stream)
{
    matrix m = {.v = malloc((size_t)(n * k) * sizeof(float)), .n = n, .k = k};
    size_t row = (size_t)(k / type->block * type->bytes);
    uint8_t *rows = malloc((size_t)n * row);
    for (int64_t i = 0; i < n * k; i++) m.v[i] = (float)(2 * nm_rng_unit(7, stream, (uint64_t)i) - 1) * 0.3f;
    type->from_float(m.v, n * k, rows);
    type->to_float(rows, n * k, m.v);
    m.panels = (nm_panels){.type = type, .n = n, .k = k, .panels = (n + NM_PANEL - 1) / NM_PANEL, .panel_bytes = nm_pack_bytes(type, k)};
    m.bytes = m.panels.panel_bytes * (size_t)m.panels.panels;
    m.packed = nm_alloc_aligned(m.bytes);
    for (int64_t p = 0; p < m.panels.panels; p++) nm_pack_panel(type, n, k, rows, row, p, (uint8_t *)m.packed + (size_t)p * m.panels.panel_bytes);
    m.panels.data = m.packed;
    free(rows);
    return m;
}

static void free_matrix(matrix *m)
{
    nm_free_aligned(m->packed, m->bytes);
    free(m->v);
}

/* A step y = x W' + bias over weight id 1 of 2 (id 2 is its bias), and three stacks: one slot, four with a zero scale, none for this weight. */
typedef struct bench {
    nm_compute compute;
    matrix w, a[STACKS][MOST_SLOTS], b[STACKS][MOST_SLOTS];
    nm_slot slot[STACKS][MOST_SLOTS];
    int32_t first[STACKS][4];
    nm_stack stack[STACKS];
    nm_weight weight[3];
    nm_value value[2];
    int32_t operand[4];
    nm_step step;
    nm_row row[ROWS];
    int32_t out_row[ROWS];
    nm_exec exec;
    atomic_int ticket[NM_TICKETS];
    float bias[N];
    size_t memory_bytes;
} bench;

static void make_stacks(bench *t)
{
    static const int count[STACKS] = {1, 4, 0}, rank[MOST_SLOTS] = {8, 1, MOST_RANK, 5};
    static const float scale[MOST_SLOTS] = {0.75f, -2, 0, 1.0f / 3};
    for (int s = 0; s < STACKS; s++) {
        for (int i = 0; i < count[s]; i++) {
            t->a[s][i] = make_matrix(nm_type_of(NM_F32), rank[i], K, (uint64_t)(100 + 10 * s + i));
            t->b[s][i] = make_matrix(nm_type_of(NM_F32), N, rank[i], (uint64_t)(200 + 10 * s + i));
            t->slot[s][i] = (nm_slot){.a = t->a[s][i].panels, .b = t->b[s][i].panels, .scale = scale[i]};
        }
        memcpy(t->first[s], (int32_t[]){0, 0, count[s], count[s]}, sizeof t->first[s]);
        t->stack[s] = (nm_stack){.first = t->first[s], .slot = t->slot[s], .max_rank = RANKS};
    }
}

static bench *make_bench(int type, nm_compute compute)
{
    bench *t = calloc(1, sizeof *t);
    t->compute = compute;
    t->w = make_matrix(nm_type_of(type), N, K, 1);
    for (int i = 0; i < N; i++) t->bias[i] = (float)nm_rng_unit(7, 2, (uint64_t)i);
    make_stacks(t);
    t->weight[1] = (nm_weight){.id = 1, .n = N, .k = K, .panels = t->w.panels};
    t->weight[2] = (nm_weight){.id = 2, .n = N, .vector = t->bias};
    size_t x = ROWS * K * sizeof(float), y = ROWS * N * sizeof(float);
    t->value[0] = (nm_value){.dim = K, .parent = -1, .quantized = true, .q_offset = (x + y + 63) & ~(size_t)63};
    t->value[1] = (nm_value){.dim = N, .parent = -1, .offset = x};
    t->memory_bytes = t->value[0].q_offset + nm_qrows_bytes(ROWS, K);
    memcpy(t->operand, (int32_t[]){0, 1, 1, 2}, sizeof t->operand);
    t->step = (nm_step){.op = NM_OP_LINEAR, .n_in = 1, .n_out = 1, .n_weight = 2};
    nm_shape shape = {.value = t->value, .operand = t->operand, .weight = t->weight, .compute = compute, .max_rank = RANKS, .together = 1};
    assert_int_equal(nm_ops[NM_OP_LINEAR]->shape(&shape, &t->step), NM_OK);
    size_t scratch = (nm_ops[NM_OP_LINEAR]->scratch(&shape, &t->step, ROWS) + 63) & ~(size_t)63;
    size_t shared = nm_ops[NM_OP_LINEAR]->shared(&shape, &t->step, ROWS, 0);
    t->exec = (nm_exec){.kernel = nm_kernels_get(), .compute = compute, .value = t->value, .operand = t->operand, .weight = t->weight,
        .memory = nm_alloc_aligned(t->memory_bytes), .scratch = nm_alloc_aligned(8 * scratch), .scratch_bytes = scratch,
        .max_rows = {ROWS, ROWS}, .row = t->row, .out_row = t->out_row, .stacked = true, .ticket = t->ticket,
        .shared = nm_alloc_aligned(shared), .shared_bytes = shared, .together = 1, .slot_ranks = RANKS};
    return t;
}

static void free_bench(bench *t)
{
    for (int s = 0; s < STACKS; s++)
        for (int i = 0; i < MOST_SLOTS; i++) {
            if (t->a[s][i].packed) free_matrix(&t->a[s][i]);
            if (t->b[s][i].packed) free_matrix(&t->b[s][i]);
        }
    free_matrix(&t->w);
    nm_free_aligned(t->exec.memory, t->memory_bytes);
    nm_free_aligned(t->exec.scratch, 8 * t->exec.scratch_bytes);
    nm_free_aligned(t->exec.shared, t->exec.shared_bytes);
    free(t);
}

static float input(int64_t row, int64_t k) { return (float)(2 * nm_rng_unit(7, 3, (uint64_t)(row * K + k)) - 1); }

static void run_thread(void *arg, int thread, int threads)
{
    bench *t = arg;
    nm_ops[NM_OP_LINEAR]->wide(&t->exec, &t->step, thread, threads);
}

/* Runs the inputs [from, from + rows) and gives their outputs; stack[i] belongs to row i of these. */
static void run(bench *t, int64_t from, int64_t rows, const nm_stack *const *stack, int threads, float *out)
{
    nm_qrows q = nm_qrows_at(t->exec.memory + t->value[0].q_offset, ROWS, K, nm_qrows_tile(t->exec.kernel, rows));
    float *x = (float *)t->exec.memory, *y = (float *)(t->exec.memory + t->value[1].offset);
    t->exec.rows[NM_ROWS_BATCH] = rows;
    t->exec.stacked = false;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t k = 0; k < K; k++) x[r * K + k] = input(from + r, k);
        t->exec.kernel->quantize(x + r * K, K, &q, r, 0);
        t->row[r].stack = stack[r];
        if (stack[r]) t->exec.stacked = true;
    }
    for (int i = 0; i < NM_TICKETS; i++) atomic_store(&t->ticket[i], 0);
    nm_set_threads(threads);
    assert_int_equal(nm_pool_run(run_thread, t), NM_OK);
    memcpy(out, y, (size_t)(rows * N) * sizeof *y);
}

/* The base's own output, then the slots in double from the unquantised inputs. */
static double expected(const bench *t, int64_t row, int64_t n, double base, const nm_stack *stack)
{
    int s = (int)(stack - t->stack);
    for (int i = stack->first[1]; i < stack->first[2]; i++) {
        double sum = 0;
        for (int64_t r = 0; r < t->a[s][i].n; r++) {
            double inner = 0;
            for (int64_t k = 0; k < K; k++) inner += (double)t->a[s][i].v[r * K + k] * input(row, k);
            sum += inner * t->b[s][i].v[n * t->a[s][i].n + r];
        }
        base += (double)t->slot[s][i].scale * sum;
    }
    return base;
}

static const int types[] = {NM_F32, NM_BF16, NM_Q8_0, NM_Q4_0, NM_Q5_1};

static void each_bench(void (*check)(bench *))
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (int compute = NM_COMPUTE_DEFAULT; compute <= NM_COMPUTE_F32; compute++) {
            bench *t = make_bench(types[i], (nm_compute)compute);
            check(t);
            free_bench(t);
        }
}

static void check_double(bench *t)
{
    static float base[ROWS * N], got[ROWS * N];
    const nm_stack *none[ROWS] = {NULL}, *all[ROWS];
    run(t, 0, ROWS, none, 1, base);
    if (t->compute == NM_COMPUTE_F32)
        for (int64_t r = 0; r < ROWS; r++)
            for (int64_t n = 0; n < N; n++) {
                double sum = t->bias[n];
                for (int64_t k = 0; k < K; k++) sum += (double)t->w.v[n * K + k] * input(r, k);
                assert_true(fabs(sum - base[r * N + n]) <= TOLERANCE * 10);
            }
    for (int s = 0; s < STACKS; s++) {
        for (int r = 0; r < ROWS; r++) all[r] = &t->stack[s];
        run(t, 0, ROWS, all, 3, got);
        for (int64_t r = 0; r < ROWS; r++)
            for (int64_t n = 0; n < N; n++) {
                double want = expected(t, r, n, base[r * N + n], all[r]);
                if (!(fabs(want - got[r * N + n]) <= TOLERANCE * (1 + fabs(want)))) fail_msg("stack %d, row %d: %g, expected %g", s, (int)r, got[r * N + n], want);
            }
    }
}

static void test_double(void **state) { each_bench(check_double); }

static void check_zero(bench *t)
{
    static float base[ROWS * N], got[ROWS * N];
    const nm_stack *none[ROWS] = {NULL}, *all[ROWS];
    run(t, 0, ROWS, none, 1, base);
    for (int s = 0; s < STACKS; s++) {
        for (int i = 0; i < MOST_SLOTS; i++) t->slot[s][i].scale = i % 2 ? 0.0f : -0.0f;
        for (int r = 0; r < ROWS; r++) all[r] = &t->stack[s];
        run(t, 0, ROWS, all, 3, got);
        assert_memory_equal(base, got, sizeof base);
    }
}

static void test_zero(void **state) { each_bench(check_zero); }

/* Runs of one stack of every length, and rows without one between them. */
static void check_mixed(bench *t)
{
    static float together[ROWS * N], again[ROWS * N], alone[N];
    const nm_stack *stack[ROWS];
    for (int r = 0; r < ROWS; r++) {
        int which = r < 20 ? 0 : (int)(nm_rng_u64(5, 0, (uint64_t)r) % (STACKS + 1)) - 1;      /* 20 rows of one stack: more than one group */
        stack[r] = which < 0 ? NULL : &t->stack[which];
    }
    run(t, 0, ROWS, stack, 1, together);
    for (int threads = 2; threads <= 7; threads += 5) {
        run(t, 0, ROWS, stack, threads, again);
        assert_memory_equal(together, again, sizeof together);
    }
    for (int r = 0; r < ROWS; r++) {
        run(t, r, 1, &stack[r], 1 + r % 3, alone);
        assert_memory_equal(together + r * N, alone, sizeof alone);
    }
}

static void test_mixed(void **state) { each_bench(check_mixed); }

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_double), cmocka_unit_test(test_zero), cmocka_unit_test(test_mixed)};
    return cmocka_run_group_tests_name("linear slots", tests, NULL, NULL);
}
