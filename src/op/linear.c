/* A linear map with the slots of the stack (law 6): y = x W' + b, then for each slot in stack order y = fma(s, (x A') B', y) on the
 * unquantised x; scale 0 is skipped, so it equals the base to the bit.
 * inputs: x; outputs: y; weights: W [n, k], bias [n] (optional).
 * Work is split by panels of outputs, handed out by ticket because cores are uneven; K is never split. */
#include "base/pool.h"
#include "op/op.h"

enum { SLOT_ROWS = 16 };        /* rows of one stack handled together */

static nm_err shape(const nm_shape *c, const nm_step *s)
{
    const nm_weight *w = &c->weight[nm_weight_of(c->operand, s, 0)];
    int64_t in = c->value[nm_in(c->operand, s, 0)].dim, out = c->value[nm_out(c->operand, s, 0)].dim;
    if (w->k != in) return nm_bad_shape(s, "inputs", in, w->k);
    if (w->n != out) return nm_bad_shape(s, "outputs", out, w->n);
    if (s->n_weight > 1 && c->weight[nm_weight_of(c->operand, s, 1)].n != out)
        return nm_bad_shape(s, "length of the bias", c->weight[nm_weight_of(c->operand, s, 1)].n, out);
    return NM_OK;
}

static bool is_int8(nm_compute compute, const nm_weight *w) { return compute == NM_COMPUTE_DEFAULT && w->panels.type->group > 0; }

static bool reads_int8(const nm_shape *c, const nm_step *s) { return is_int8(c->compute, &c->weight[nm_weight_of(c->operand, s, 0)]); }

static nm_panels half_map(int64_t n, int64_t k) { return (nm_panels){.type = nm_type_of(NM_F32), .n = n, .k = k, .panels = (n + NM_PANEL - 1) / NM_PANEL}; }

/* Scratch of the two half maps of a slot, which follow each other in the same memory. */
static size_t slot_scratch(int64_t n, int64_t k, int64_t rank)
{
    nm_panels a = half_map(rank, k), b = half_map(n, rank);
    size_t inner = nm_linear_scratch(&a, SLOT_ROWS), outer = nm_linear_scratch(&b, SLOT_ROWS);
    return ((inner > outer ? inner : outer) + 63) & ~(size_t)63;
}

static size_t scratch(const nm_shape *c, const nm_step *s, int64_t max_rows)
{
    const nm_weight *w = &c->weight[nm_weight_of(c->operand, s, 0)];
    size_t base = nm_linear_scratch(&w->panels, max_rows);
    size_t slots = c->max_rank ? slot_scratch(w->n, w->k, c->max_rank) + SLOT_ROWS * (size_t)(c->max_rank + w->n) * sizeof(float) : 0;
    return base > slots ? base : slots;
}

/* Panels of one ticket: small enough that the last one does not keep the others waiting for long, large enough that what a kernel does
 * once per call (laying activations side by side, starting to stream) is small beside the panels: 32 KB of weights for few rows, and
 * for many rows a quarter of a thread's part. */
static int64_t grain_of(const nm_panels *w, int64_t rows, int threads)
{
    enum { BYTES = 32 << 10, MANY_ROWS = 16, WHOLE_TILE = 4 };
    int64_t bytes = (int64_t)(w->data ? w->panel_bytes : NM_PANEL * w->row_bytes), parts = (int64_t)threads * (rows < MANY_ROWS ? 8 : 4);
    int64_t least = rows < MANY_ROWS ? BYTES / (bytes + 1) + 1 : WHOLE_TILE, grain = w->panels / parts;
    if (grain < least) grain = least;
    return rows < MANY_ROWS ? grain : (grain + WHOLE_TILE - 1) / WHOLE_TILE * WHOLE_TILE;
}

/* Adds the slots of `stack` to rows [r0, r1), at most SLOT_ROWS of them. */
static void add_slots(const nm_exec *e, const nm_step *s, const nm_stack *stack, int64_t r0, int64_t r1, uint8_t *own)
{
    const nm_weight *w = nm_step_weight(e, s, 0);
    int32_t x = nm_in(e->operand, s, 0), y = nm_out(e->operand, s, 0);
    for (int32_t i = stack->first[w->id]; i < stack->first[w->id + 1]; i++) {
        const nm_slot *slot = &stack->slot[i];
        if (slot->scale == 0) continue;
        int64_t rank = slot->a.n;
        float *t = (float *)(own + slot_scratch(w->n, w->k, rank)), *u = t + SLOT_ROWS * rank;
        nm_linear_job a = {.w = &slot->a, .p0 = 0, .p1 = slot->a.panels, .rows = r1 - r0, .x = nm_at(e, x, r0), .ldx = nm_ld(e->value, x),
            .y = t, .ldy = (size_t)rank, .scratch = own};
        nm_linear_job b = {.w = &slot->b, .p0 = 0, .p1 = slot->b.panels, .rows = r1 - r0, .x = t, .ldx = (size_t)rank,
            .y = u, .ldy = (size_t)w->n, .scratch = own};
        e->kernel->linear_f32(&a);
        e->kernel->linear_f32(&b);
        for (int64_t r = r0; r < r1; r++) {
            float *out = nm_at(e, y, r);
            e->kernel->add_scaled(out, u + (r - r0) * w->n, slot->scale, w->n, out);
        }
    }
}

static const nm_stack *stack_of(const nm_exec *e, nm_rows kind, int64_t r)
{
    return e->row[kind == NM_ROWS_OUT ? e->out_row[r] : r].stack;
}

static void stacks(const nm_exec *e, const nm_step *s, int thread, int threads)
{
    nm_rows kind = nm_owner(e->value, nm_in(e->operand, s, 0))->rows;
    int64_t from, to;
    nm_share(e->rows[kind], 1, thread, threads, &from, &to);
    for (int64_t r = from, end; r < to; r = end) {
        const nm_stack *stack = stack_of(e, kind, r);
        for (end = r + 1; end < to && end - r < SLOT_ROWS && stack_of(e, kind, end) == stack;) end++;
        if (stack) add_slots(e, s, stack, r, end, e->scratch + (size_t)thread * e->scratch_bytes);
    }
}

static void wide(nm_exec *e, const nm_step *s, int thread, int threads)
{
    const nm_weight *w = nm_step_weight(e, s, 0);
    int32_t x = nm_in(e->operand, s, 0), y = nm_out(e->operand, s, 0);
    int64_t rows = e->rows[nm_owner(e->value, x)->rows], panels = w->panels.panels, grain = grain_of(&w->panels, rows, threads);
    bool int8 = is_int8(e->compute, w);
    nm_qrows q = {0};
    if (int8) q = nm_at_q(e, x);
    nm_linear_job job = {.w = &w->panels, .rows = rows, .xq = int8 ? &q : NULL, .x = nm_at(e, x, 0), .ldx = nm_ld(e->value, x),
        .y = nm_at(e, y, 0), .ldy = nm_ld(e->value, y), .bias = s->n_weight > 1 ? nm_step_weight(e, s, 1)->vector : NULL,
        .scratch = e->scratch + (size_t)thread * e->scratch_bytes};
    if (rows == 0) return;
    while (!nm_halted(e, thread)) {
        job.p0 = atomic_fetch_add_explicit(&e->ticket[s->ticket], (int)grain, memory_order_relaxed);
        if (job.p0 >= panels) break;
        job.p1 = job.p0 + grain < panels ? job.p0 + grain : panels;
        if (int8) e->kernel->linear_q8(&job);
        else e->kernel->linear_f32(&job);
    }
    if (!e->stacked) return;
    nm_pool_barrier();
    stacks(e, s, thread, threads);
}

const nm_op nm_op_linear = {.name = "linear", .shape = shape, .reads_int8 = reads_int8, .wide = wide, .scratch = scratch, .saves = 1};
