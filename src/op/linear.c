/* A linear map with the slots of the stack (law 6): y = x W' + b, then for each slot in stack order y = fma(s, (x A') B', y) on the
 * unquantised x; scale 0 is skipped, so it equals the base to the bit. A slot with a gain (DoRA) then stretches what there is, without the bias:
 * y = (y - b) * gain + b, so that the slots below are stretched with the base, as PEFT does in running and merging.
 * inputs: x; outputs: y; weights: W [n, k], bias [n] (optional). In training the adapter that is being trained is the last slot.
 * Work is split by panels of outputs, handed out by ticket because cores are uneven; K is never split.
 *
 * Adjoint, in fp32 on exactly dequantised weights (dy W in bf16 where the forward's x W' is): dx = dy W as one chain over the outputs ascending, then for
 * each slot in stack order dx = fma(s, (dy B) A, dx). For the trained slot t = s x A' and u = s dy B; da and db are left folds over the rows: da += u' x,
 * db += dy' t. Behind a gain dy is dy * gain; before, the magnitudes' gradient is folded from it and from y, dm += dy ((y - b) / m), and the bias's. With
 * dropout the trained slot reads a masked x, and what it adds to dx is masked alike. */
#include "base/pool.h"
#include "op/op.h"

enum { SLOT_ROWS = 24, SHARE_ROWS = 48 };      /* rows of one stack handled together: whole tiles of every tier; and what is shared out, of bf16's tiles too */

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

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* What training takes of a thread's scratch: a block of unpacked weights beside the unpacker's own, and a block of slots' outputs. */
enum { BACK_OUTPUTS = 128, BACK_INPUTS = NM_UNPACK_INPUTS, BACK_ROWS = 256, BACK_BF16_ROWS = 1024 };      /* rows of a ticket */
enum { BACK_LD = BACK_INPUTS + 16 };    /* of the weights' block: an odd number of lines, or its rows would crowd into a few sets of the first level */

static size_t train_scratch(const nm_shape *c, const nm_weight *w)
{
    size_t block = BACK_OUTPUTS * BACK_LD + BACK_ROWS * BACK_INPUTS, slot = SLOT_ROWS * (size_t)(c->train_rank + w->n + w->k);
    return nm_linear_scratch(&w->panels, 1) + larger(block, slot) * sizeof(float);
}

static size_t scratch(const nm_shape *c, const nm_step *s, int64_t max_rows)
{
    const nm_weight *w = &c->weight[nm_weight_of(c->operand, s, 0)];
    size_t base = c->bf16 ? nm_linear_bf16_scratch(max_rows) : nm_linear_scratch(&w->panels, max_rows);
    size_t slots = c->max_rank ? slot_scratch(w->n, w->k, c->max_rank) : 0;
    size_t train = c->trained ? train_scratch(c, w) : 0, back = c->trained && c->bf16 ? nm_back_bf16_scratch(max_rows < BACK_BF16_ROWS ? max_rows : BACK_BF16_ROWS) : 0;
    return larger(larger(base, slots), larger(train, back));
}

enum { MANY_ROWS = 17 };        /* from here on kernels unpack panels for all rows, by whole tiles of panels */

/* Panels of one ticket: small enough that the last one does not keep the others waiting for long, large enough that what a kernel does
 * once per call (laying activations side by side, starting to stream) is small beside the panels: 32 KB of weights for few rows, and
 * for many rows a quarter of a thread's part. Kernels take WHOLE_TILE panels at a time of many rows, and of the slots' outer maps always. */
static int64_t grain_of(const nm_panels *w, int64_t rows, int threads, bool slots)
{
    enum { BYTES = 32 << 10, WHOLE_TILE = 4 };
    int64_t bytes = (int64_t)(w->data ? w->panel_bytes : NM_PANEL * w->row_bytes), parts = (int64_t)threads * (rows < MANY_ROWS ? 8 : 4);
    int64_t least = rows < MANY_ROWS ? BYTES / (bytes + 1) + 1 : WHOLE_TILE, grain = w->panels / parts;
    if (grain < least) grain = least;
    return rows < MANY_ROWS && !slots ? grain : (grain + WHOLE_TILE - 1) / WHOLE_TILE * WHOLE_TILE;
}

/* Panels [p0, p1) of a ticket, or none: false. The last grain of each thread goes in thirds where few rows allow it, so that threads end together. */
static bool panels_of_ticket(int64_t panels, int64_t grain, int64_t rows, int threads, bool slots, int64_t ticket, int64_t *p0, int64_t *p1)
{
    int64_t last = rows < MANY_ROWS && !slots && grain >= 3 ? grain / 3 : grain, whole = panels / grain - threads;
    if (whole < 0) whole = 0;
    *p0 = ticket < whole ? ticket * grain : whole * grain + (ticket - whole) * last;
    *p1 = *p0 + (ticket < whole ? grain : last);
    if (*p1 > panels) *p1 = panels;
    return *p0 < panels;
}

static const float *bias_of(const nm_exec *e, const nm_step *s) { return s->n_weight > 1 ? nm_step_weight(e, s, 1)->vector : NULL; }

/* y = (y - bias) * gain + bias */
static void stretch(const nm_kernels *k, const float *bias, const float *gain, int64_t n, float *y)
{
    if (bias) k->add_scaled(y, bias, -1, n, y);
    k->mul(y, gain, n, y);
    if (bias) k->add_scaled(y, bias, 1, n, y);
}

static nm_rows rows_kind(const nm_exec *e, const nm_step *s) { return nm_owner(e->value, nm_in(e->operand, s, 0))->rows; }

static bool drops(const nm_exec *e) { return e->train->dropout.p > 0; }

/* Columns [c0, c0 + count) of rows [r, r + rows) with the mask that belongs to them, from x, the first of these rows at c0; y may be x. */
static void drop(const nm_exec *e, const nm_step *s, int64_t r, int64_t rows, int64_t c0, int64_t count, const float *x, size_t ldx, float *y, size_t ldy)
{
    const nm_dropout *d = &e->train->dropout;
    for (int64_t i = 0; i < rows; i++) {
        const nm_row *row = &e->row[rows_kind(e, s) == NM_ROWS_OUT ? e->out_row[r + i] : r + i];
        nm_dropout_row(d, nm_step_weight(e, s, 0)->id, d->first + row->seq, row->position, c0, count, x + (size_t)i * ldx, y + (size_t)i * ldy);
    }
}

/* t = x A' of the trained slot for rows [r0, r1); with dropout at most SLOT_ROWS of them, whose masked inputs go to `masked`. */
static void into_slot(const nm_exec *e, const nm_step *s, const nm_train_slot *slot, int64_t r0, int64_t r1, float *t, size_t ldt, float *masked)
{
    int32_t v = nm_in(e->operand, s, 0);
    const float *x = nm_at(e, v, r0);
    size_t ldx = nm_ld(e->value, v);
    int64_t k = nm_step_weight(e, s, 0)->k;
    if (drops(e)) {
        drop(e, s, r0, r1 - r0, 0, k, x, ldx, masked, (size_t)k);
        x = masked;
        ldx = (size_t)k;
    }
    e->kernel->gemm(&(nm_gemm_job){.m = r1 - r0, .n = slot->rank, .k = k, .a = x, .a_row = ldx, .a_k = 1, .b = slot->a_t, .ldb = (size_t)slot->rank,
        .c = t, .ldc = ldt});
}

static const nm_train_slot *trained_slot(const nm_exec *e, const nm_step *s)
{
    const nm_train_slot *slot = e->train && e->train->slot ? &e->train->slot[nm_step_weight(e, s, 0)->id] : NULL;
    return slot && slot->rank && slot->scale != 0 ? slot : NULL;
}

static const nm_stack *stack_of(const nm_exec *e, nm_rows kind, int64_t r)
{
    return e->row[kind == NM_ROWS_OUT ? e->out_row[r] : r].stack;
}

/* The end of the run of rows from r on, at most `most` of them and before `to`, that have one stack. */
static int64_t same_stack(const nm_exec *e, nm_rows kind, int64_t r, int64_t to, int64_t most)
{
    int64_t end = r + 1;
    while (end < to && end - r < most && stack_of(e, kind, end) == stack_of(e, kind, r)) end++;
    return end;
}

/* ---- Slots in forward ---------------------------------------------------------------------------------------------------------------------------
 * The inner products x A' are tickets before the map's panels. Whoever has computed panels of y adds the slots' B to them as soon as all inner
 * products are there, while they are in its cache: no barrier stands between. */

/* One slot on a run of rows with one stack. Begins as zeros; next_slot goes through the runs of a step's rows, and in each through the slots that count, in
 * stack order, the trained one last. */
typedef struct slot_run {
    int64_t from, to;           /* rows, at most SLOT_ROWS */
    const nm_slot *slot;        /* NULL: the trained one */
    int64_t rank, column;       /* where a row's inner products have this slot's */
    const nm_slot *next, *end;  /* of the stack */
    bool trained;               /* the trained one is still to come */
} slot_run;

static bool next_slot(const nm_exec *e, const nm_step *s, const nm_train_slot *trained, slot_run *at)
{
    nm_rows kind = rows_kind(e, s);
    int32_t w = nm_step_weight(e, s, 0)->id;
    for (at->column += at->rank;;) {
        for (at->slot = at->next; at->slot < at->end && at->slot->scale == 0; at->slot++) {}
        if (at->slot < at->end) {
            at->next = at->slot + 1;
            at->rank = at->slot->a.n;
            return true;
        }
        at->next = at->end = at->slot = NULL;
        if (at->trained) {
            at->trained = false;
            at->rank = trained->rank;
            return true;
        }
        at->from = at->to;
        if (at->from == e->rows[kind]) return false;
        const nm_stack *stack = stack_of(e, kind, at->from);
        at->to = same_stack(e, kind, at->from, e->rows[kind], SLOT_ROWS);
        at->column = at->rank = 0;
        at->trained = trained != NULL;
        if (!stack) continue;
        at->next = stack->slot + stack->first[w];
        at->end = stack->slot + stack->first[w + 1];
    }
}

/* The step's inner products: [rows][slot_ranks]. Steps of one region, whose tickets are neighbours, have a place each. */
static size_t inner_bytes(int64_t rows, size_t ranks) { return ((size_t)rows * ranks * sizeof(float) + 63) & ~(size_t)63; }

static float *inner_at(const nm_exec *e, const nm_step *s, const slot_run *at)
{
    size_t place = (size_t)(s->ticket % e->together) * inner_bytes(e->max_rows[rows_kind(e, s)], e->slot_ranks);
    return (float *)(e->shared + place) + (size_t)at->from * e->slot_ranks + at->column;
}

static void inner(const nm_exec *e, const nm_step *s, const nm_train_slot *trained, const slot_run *at, void *own)
{
    int32_t x = nm_in(e->operand, s, 0);
    float *t = inner_at(e, s, at);
    if (at->slot)
        e->kernel->linear_f32(&(nm_linear_job){.w = &at->slot->a, .p1 = at->slot->a.panels, .rows = at->to - at->from, .x = nm_at(e, x, at->from),
            .ldx = nm_ld(e->value, x), .y = t, .ldy = e->slot_ranks, .scratch = own});
    else into_slot(e, s, trained, at->from, at->to, t, e->slot_ranks, own);
}

/* Adds a slot to panels [p0, p1) of y. */
static void outer(const nm_exec *e, const nm_step *s, const nm_train_slot *trained, const slot_run *at, int64_t p0, int64_t p1, uint8_t *own)
{
    const nm_weight *w = nm_step_weight(e, s, 0);
    int32_t y = nm_out(e->operand, s, 0);
    size_t ld = nm_ld(e->value, y);
    int64_t c = p0 * NM_PANEL, n = (p1 * NM_PANEL < w->n ? p1 * NM_PANEL : w->n) - c, rows = at->to - at->from;
    const float *t = inner_at(e, s, at), *gain = at->slot ? at->slot->gain : trained->gain, *bias = bias_of(e, s);
    float *out = nm_at(e, y, at->from);
    if (at->slot)
        e->kernel->linear_f32(&(nm_linear_job){.w = &at->slot->b, .p0 = p0, .p1 = p1, .rows = rows, .x = t, .ldx = e->slot_ranks, .y = out, .ldy = ld,
            .add = at->slot->scale, .scratch = own});
    else {
        float *u = (float *)own;
        e->kernel->gemm(&(nm_gemm_job){.m = rows, .n = n, .k = at->rank, .a = t, .a_row = e->slot_ranks, .a_k = 1, .b = trained->b_t + c, .ldb = (size_t)w->n,
            .c = u, .ldc = (size_t)n});
        for (int64_t r = 0; r < rows; r++) e->kernel->add_scaled(out + (size_t)r * ld + c, u + r * n, trained->scale, n, out + (size_t)r * ld + c);
    }
    for (int64_t r = 0; gain && r < rows; r++) stretch(e->kernel, bias ? bias + c : NULL, gain + c, n, out + (size_t)r * ld + c);
}

/* Ranges of panels that wait for inner products. */
enum { MOST_LATER = 8 };
typedef struct later { int count; struct { int64_t p0, p1; } range[MOST_LATER]; } later;

static void add_later(nm_exec *e, const nm_step *s, const nm_train_slot *trained, int inners, later *l, uint8_t *own)
{
    if (!l->count || !nm_pool_wait(nm_ticket(e, s, 1), inners, &e->stopped)) return;
    for (int i = 0; i < l->count; i++)
        for (slot_run at = {0}; next_slot(e, s, trained, &at);) outer(e, s, trained, &at, l->range[i].p0, l->range[i].p1, own);
    l->count = 0;
}

/* Asks for what panels [p0, p1) of the slots' B are to read before the map's own panels are computed: a few KB in other places, which the processor would not
 * foresee. For few rows, which wait for memory. */
static void fetch(const nm_exec *e, const nm_step *s, int64_t p0, int64_t p1)
{
    enum { LINE = 64 };
    for (slot_run at = {0}; next_slot(e, s, NULL, &at);)
        for (size_t i = (size_t)p0 * at.slot->b.panel_bytes; i < (size_t)p1 * at.slot->b.panel_bytes; i += LINE) __builtin_prefetch(at.slot->b.data + i, 0, 2);
}

/* ---- Rows in bf16 ---- */

enum { ROUND_ROWS = 64 };       /* of a ticket: whole tiles */

/* The step's rounded rows of x, in shared memory behind the inner products: a place for each step of a region, as large as the largest needs, since `shared` asked
 * for as many places of each step's size as steps stand together. */
static uint32_t *rounded_at(const nm_exec *e, const nm_step *s)
{
    size_t inners = (size_t)e->together * inner_bytes(e->max_rows[rows_kind(e, s)], e->slot_ranks), each = (e->shared_bytes - inners) / (size_t)e->together;
    return (uint32_t *)(e->shared + inners + (size_t)(s->ticket % e->together) * (each & ~(size_t)63));
}

typedef void (*round_fn)(const float *x, size_t ldx, int64_t rows, int64_t k, uint32_t *tile);

/* Rows [r0, r1) of x to tiles, from those of row 0 on; r0 begins a tile. */
static void round_to(round_fn round, const float *x, size_t ldx, int64_t r0, int64_t r1, int64_t k, uint32_t *tiles)
{
    for (int64_t r = r0; r < r1; r += 16) round(x + (size_t)r * ldx, ldx, r1 - r < 16 ? r1 - r : 16, k, tiles + (size_t)(r / 16) * nm_bf16_tile(k));
}

/* All threads round x together: a ticket is ROUND_ROWS of it. False if the walk stopped meanwhile. */
static bool round_x(nm_exec *e, const nm_step *s)
{
    int32_t x = nm_in(e->operand, s, 0);
    int64_t rows = e->rows[rows_kind(e, s)];
    int blocks = (int)((rows + ROUND_ROWS - 1) / ROUND_ROWS), block;
    while ((block = atomic_fetch_add_explicit(nm_ticket(e, s, 2), 1, memory_order_relaxed)) < blocks) {
        int64_t r = (int64_t)block * ROUND_ROWS;
        round_to(e->kernel->round_rows, nm_at(e, x, 0), nm_ld(e->value, x), r, rows - r < ROUND_ROWS ? rows : r + ROUND_ROWS, nm_step_weight(e, s, 0)->k, rounded_at(e, s));
        atomic_fetch_add_explicit(nm_ticket(e, s, 3), 1, memory_order_release);
    }
    return nm_pool_wait(nm_ticket(e, s, 3), blocks, &e->stopped);
}

static void wide(nm_exec *e, const nm_step *s, int thread, int threads)
{
    const nm_weight *w = nm_step_weight(e, s, 0);
    const nm_train_slot *trained = trained_slot(e, s);
    int32_t x = nm_in(e->operand, s, 0), y = nm_out(e->operand, s, 0);
    bool int8 = is_int8(e->compute, w), slots = e->stacked || trained;
    int64_t rows = e->rows[rows_kind(e, s)], panels = w->panels.panels, grain = grain_of(&w->panels, rows, threads, slots);
    void (*kernel)(const nm_linear_job *) = int8 ? e->kernel->linear_q8 : e->bf16 ? e->kernel->linear_bf16 : e->kernel->linear_f32;
    uint8_t *own = e->scratch + (size_t)thread * e->scratch_bytes;
    nm_qrows q = {0};
    if (int8) q = nm_at_q(e, x);
    nm_linear_job job = {.w = &w->panels, .rows = rows, .xq = int8 ? &q : NULL, .x = nm_at(e, x, 0), .ldx = nm_ld(e->value, x),
        .xb = e->bf16 ? rounded_at(e, s) : NULL, .y = nm_at(e, y, 0), .ldy = nm_ld(e->value, y), .bias = bias_of(e, s), .scratch = own};
    slot_run at = {0};
    later wait = {0};
    int inners = 0;             /* how many there are, once they have all been counted */
    if (e->bf16 && !round_x(e, s)) return;
    while (rows && !nm_halted(e, thread)) {
        int ticket = atomic_fetch_add_explicit(nm_ticket(e, s, 0), 1, memory_order_relaxed);
        while (slots && inners <= ticket && (slots = next_slot(e, s, trained, &at))) inners++;
        if (ticket < inners) {
            inner(e, s, trained, &at, own);
            atomic_fetch_add_explicit(nm_ticket(e, s, 1), 1, memory_order_release);
            continue;
        }
        if (!panels_of_ticket(panels, grain, rows, threads, inners > 0, ticket - inners, &job.p0, &job.p1)) break;
        if (inners && rows < MANY_ROWS && !trained) fetch(e, s, job.p0, job.p1);
        kernel(&job);
        if (!inners) continue;
        wait.range[wait.count].p0 = job.p0;
        wait.range[wait.count++].p1 = job.p1;
        if (wait.count == MOST_LATER || atomic_load_explicit(nm_ticket(e, s, 1), memory_order_acquire) == inners) add_later(e, s, trained, inners, &wait, own);
    }
    add_later(e, s, trained, inners, &wait, own);
}

/* ---- Backward ---------------------------------------------------------------------------------------------------------------------------------- */

/* A block of memory that threads share: per row, the trained slot's t and u, and for each slot of the row's stack g = dy B; and dy as lines of bf16. */
typedef struct slot_rows { float *t, *u, *g; size_t ld; uint32_t *dy; } slot_rows;

/* In bf16 dy follows them, rounded. */
static size_t slots_bytes(int64_t rows, size_t train_rank, size_t ranks) { return ((size_t)rows * (2 * train_rank + ranks) * sizeof(float) + 63) & ~(size_t)63; }

static size_t shared(const nm_shape *c, const nm_step *s, int64_t max_rows, int64_t context)
{
    const nm_weight *w = &c->weight[nm_weight_of(c->operand, s, 0)];
    size_t ranks = (size_t)c->max_rank + (size_t)c->train_rank;
    size_t forward = (size_t)c->together * (inner_bytes(max_rows, ranks) + (c->bf16 ? nm_bf16_bytes(max_rows, w->k) : 0));
    size_t back = c->trained ? slots_bytes(max_rows, (size_t)c->train_rank, ranks) + (c->bf16 ? nm_bf16_bytes(max_rows, w->n) : 0) : 0;
    return larger(forward, back);
}

static slot_rows slot_rows_at(const nm_exec *e, const nm_step *s, int32_t rank)
{
    size_t rows = (size_t)e->rows[rows_kind(e, s)];
    slot_rows x = {.t = (float *)e->shared, .ld = e->slot_ranks};
    x.u = x.t + rows * (size_t)rank;
    x.g = x.u + rows * (size_t)rank;
    x.dy = (uint32_t *)(e->shared + slots_bytes((int64_t)rows, (size_t)rank, e->slot_ranks));
    return x;
}

/* x[rows][k0, k0 + count) (+)= y W: the chain over W's outputs ascending, a block of them unpacked at a time. own: this thread's scratch. */
static void product_back(const nm_exec *e, const nm_panels *w, const float *y, size_t ldy, int64_t rows, int64_t k0,
    int64_t count, float *x, size_t ldx, bool add, float *own)
{
    float *block = own;
    void *unpacker = block + BACK_OUTPUTS * BACK_LD + BACK_ROWS * BACK_INPUTS;
    for (int64_t n = 0; n < w->n; n += BACK_OUTPUTS) {
        int64_t outputs = w->n - n < BACK_OUTPUTS ? w->n - n : BACK_OUTPUTS;
        for (int64_t p = 0; p * NM_PANEL < outputs; p++)
            e->kernel->unpack_rows(w, n / NM_PANEL + p, k0, count, block + p * NM_PANEL * BACK_LD, BACK_LD, unpacker);
        e->kernel->gemm(&(nm_gemm_job){.m = rows, .n = count, .k = outputs, .a = y + n, .a_row = ldy, .a_k = 1, .b = block, .ldb = BACK_LD,
            .c = x, .ldc = ldx, .add = add || n > 0});
    }
}

/* True if a slot of some row's stack has a gain here. */
static bool stack_gains(const nm_exec *e, const nm_step *s)
{
    nm_rows kind = rows_kind(e, s);
    const nm_stack *last = NULL;
    for (int64_t r = 0; e->stacked && r < e->rows[kind]; r++) {
        const nm_stack *stack = stack_of(e, kind, r);
        if (stack == last || !stack || !stack->gains) continue;
        last = stack;
        for (int32_t w = nm_step_weight(e, s, 0)->id, i = stack->first[w]; i < stack->first[w + 1]; i++) if (stack->slot[i].gain) return true;
    }
    return false;
}

/* Before anything else where there are gains, columns shared out: the gradients of the bias and of the trained slot's magnitudes, then dy *= gain. */
static void gain_back(const nm_exec *e, const nm_step *s, const nm_train_slot *slot, int thread, int threads)
{
    const nm_weight *w = nm_step_weight(e, s, 0);
    const float *bias = bias_of(e, s);
    float *db = nm_weight_grad(e, s, 1);
    int32_t y = nm_out(e->operand, s, 0);
    int64_t from, to;
    nm_share(w->n, NM_PANEL, thread, threads, &from, &to);
    for (int64_t r = 0; from < to && r < e->rows[rows_kind(e, s)]; r++) {
        const float *out = nm_at(e, y, r);
        float *dy = nm_grad(e, y, r);
        if (db) e->kernel->add_scaled(db + from, dy + from, 1, to - from, db + from);
        if (!slot || !slot->gain) continue;
        for (int64_t n = from; n < to; n++) slot->dm[n] += dy[n] * ((out[n] - (bias ? bias[n] : 0)) * slot->inverse[n]);
        e->kernel->mul(dy + from, slot->gain + from, to - from, dy + from);
    }
}

/* Phase one, rows shared out: t = s x A', u = s dy B of the trained slot; g = dy B of the stack's. */
static void slot_back(const nm_exec *e, const nm_step *s, const nm_train_slot *slot, const slot_rows *z, int64_t r0, int64_t r1, float *own)
{
    const nm_weight *w = nm_step_weight(e, s, 0);
    int32_t y = nm_out(e->operand, s, 0);
    int64_t rank = slot->rank, count = (r1 - r0) * rank, step = drops(e) ? SLOT_ROWS : r1 - r0;
    float *t = z->t + r0 * rank, *u = z->u + r0 * rank;
    for (int64_t r = r0; r < r1; r += step) into_slot(e, s, slot, r, r1 - r < step ? r1 : r + step, z->t + r * rank, (size_t)rank, own);
    e->kernel->gemm(&(nm_gemm_job){.m = r1 - r0, .n = rank, .k = w->n, .a = nm_grad(e, y, r0), .a_row = nm_ld(e->value, y), .a_k = 1,
        .b = slot->b, .ldb = (size_t)rank, .c = u, .ldc = (size_t)rank});
    e->kernel->scale(t, slot->scale, count, t);
    e->kernel->scale(u, slot->scale, count, u);
}

/* Slots from the last to the first, since dy of one is behind the gains of those above; what is left of dy is the base's. */
static void stack_back(const nm_exec *e, const nm_step *s, const slot_rows *z, int64_t from, int64_t to, float *own)
{
    const nm_weight *w = nm_step_weight(e, s, 0);
    nm_rows kind = rows_kind(e, s);
    int32_t y = nm_out(e->operand, s, 0);
    for (int64_t r = from, end; r < to; r = end) {
        const nm_stack *stack = stack_of(e, kind, r);
        float *g = z->g + (size_t)r * z->ld;
        end = same_stack(e, kind, r, to, BACK_ROWS);
        for (int32_t i = stack ? stack->first[w->id] : 0; stack && i < stack->first[w->id + 1]; i++) g += stack->slot[i].b.k;
        for (int32_t i = stack ? stack->first[w->id + 1] : 0; stack && i-- > stack->first[w->id];) {
            const nm_slot *slot = &stack->slot[i];
            g -= slot->b.k;
            if (slot->scale == 0) continue;
            for (int64_t row = r; slot->gain && row < end; row++) e->kernel->mul(nm_grad(e, y, row), slot->gain, w->n, nm_grad(e, y, row));
            for (int64_t k0 = 0, rank = slot->b.k; k0 < rank; k0 += BACK_INPUTS)
                product_back(e, &slot->b, nm_grad(e, y, r), nm_ld(e->value, y), end - r, k0, rank - k0 < BACK_INPUTS ? rank - k0 : BACK_INPUTS,
                    g + k0, z->ld, false, own);
        }
    }
}

/* Inputs [k0, k0 + count) of the rows' stacks into dx. */
static void add_stack_back(const nm_exec *e, const nm_step *s, const slot_rows *z, int64_t from, int64_t to, int64_t k0, int64_t count, float *own)
{
    const nm_weight *w = nm_step_weight(e, s, 0);
    nm_rows kind = rows_kind(e, s);
    float *block = own + BACK_OUTPUTS * BACK_LD;
    for (int64_t r = from, end; r < to; r = end) {
        const nm_stack *stack = stack_of(e, kind, r);
        const float *g = z->g + (size_t)r * z->ld;
        end = same_stack(e, kind, r, to, BACK_ROWS);
        for (int32_t i = stack ? stack->first[w->id] : 0; stack && i < stack->first[w->id + 1]; g += stack->slot[i++].b.k) {
            const nm_slot *slot = &stack->slot[i];
            if (slot->scale == 0) continue;
            product_back(e, &slot->a, g, z->ld, end - r, k0, count, block, BACK_INPUTS, false, own);
            for (int64_t row = r; row < end; row++) {
                float *dx = nm_grad_in(e, s, 0, row) + k0;
                e->kernel->add_scaled(dx, block + (row - r) * BACK_INPUTS, slot->scale, count, dx);
            }
        }
    }
}

/* dx += u A of the trained slot, masked as x was. */
static void slot_inputs(const nm_exec *e, const nm_step *s, const nm_train_slot *slot, const slot_rows *z, int64_t r, int64_t rows, int64_t k0, int64_t count,
    float *dx, size_t ld, float *block)
{
    nm_gemm_job job = {.m = rows, .n = count, .k = slot->rank, .a = z->u + r * slot->rank, .a_row = (size_t)slot->rank, .a_k = 1, .b = slot->a + k0,
        .ldb = (size_t)nm_step_weight(e, s, 0)->k, .c = dx, .ldc = ld, .add = true};
    if (drops(e)) {
        job.c = block;
        job.ldc = BACK_INPUTS;
        job.add = false;
    }
    e->kernel->gemm(&job);
    if (!drops(e)) return;
    drop(e, s, r, rows, k0, count, block, BACK_INPUTS, block, BACK_INPUTS);
    for (int64_t i = 0; i < rows; i++) e->kernel->add_scaled(dx + (size_t)i * ld, block + i * BACK_INPUTS, 1, count, dx + (size_t)i * ld);
}

/* Phase two: a ticket is BACK_ROWS rows of BACK_INPUTS inputs of dx. */
static void back_inputs(const nm_exec *e, const nm_step *s, const nm_train_slot *slot, const slot_rows *z, float *own)
{
    const nm_weight *w = nm_step_weight(e, s, 0);
    int32_t x = nm_in(e->operand, s, 0), y = nm_out(e->operand, s, 0);
    int64_t rows = e->rows[rows_kind(e, s)], blocks = (rows + BACK_ROWS - 1) / BACK_ROWS, columns = (w->k + BACK_INPUTS - 1) / BACK_INPUTS, ticket;
    while ((ticket = atomic_fetch_add_explicit(nm_back_ticket(e, s, 0), 1, memory_order_relaxed)) < blocks * columns) {
        int64_t r = ticket % blocks * BACK_ROWS, k0 = ticket / blocks * BACK_INPUTS;
        int64_t count = rows - r < BACK_ROWS ? rows - r : BACK_ROWS, inputs = w->k - k0 < BACK_INPUTS ? w->k - k0 : BACK_INPUTS;
        float *dx = nm_grad(e, x, r) + k0;
        size_t ld = nm_ld(e->value, x);
        product_back(e, &w->panels, nm_grad(e, y, r), nm_ld(e->value, y), count, k0, inputs, dx, ld, nm_adds(e, s, 0), own);
        if (e->stacked) add_stack_back(e, s, z, r, r + count, k0, inputs, own);
        if (slot) slot_inputs(e, s, slot, z, r, count, k0, inputs, dx, ld, own);
    }
}

/* The same in bf16. A ticket unpacks and rounds its weights once, so it has as many rows as leave every thread two tickets. */
static void back_inputs_bf16(const nm_exec *e, const nm_step *s, const nm_train_slot *slot, const slot_rows *z, int threads, float *own)
{
    enum { LEAST = 128 };
    const nm_weight *w = nm_step_weight(e, s, 0);
    int32_t x = nm_in(e->operand, s, 0);
    int64_t rows = e->rows[rows_kind(e, s)], columns = (w->k + BACK_INPUTS - 1) / BACK_INPUTS, parts = (2 * threads + columns - 1) / columns, ticket;
    int64_t each = (rows + parts - 1) / parts;
    each = each > BACK_BF16_ROWS ? BACK_BF16_ROWS : each < LEAST ? LEAST : (each + 15) / 16 * 16;
    int64_t blocks = (rows + each - 1) / each;
    while ((ticket = atomic_fetch_add_explicit(nm_back_ticket(e, s, 0), 1, memory_order_relaxed)) < blocks * columns) {
        int64_t from = ticket % blocks * each, to = rows - from < each ? rows : from + each, k0 = ticket / blocks * BACK_INPUTS;
        int64_t inputs = w->k - k0 < BACK_INPUTS ? w->k - k0 : BACK_INPUTS;
        size_t ld = nm_ld(e->value, x);
        e->kernel->back_bf16(&(nm_back_job){.w = &w->panels, .k0 = k0, .inputs = inputs, .rows = to - from, .dy = z->dy + (size_t)(from / 16) * nm_bf16_tile(w->n),
            .dx = nm_grad(e, x, from) + k0, .ldx = ld, .add = nm_adds(e, s, 0), .scratch = own});
        for (int64_t r = from, end; r < to; r = end) {
            end = to - r < BACK_ROWS ? to : r + BACK_ROWS;
            if (e->stacked) add_stack_back(e, s, z, r, end, k0, inputs, own);
            if (slot) slot_inputs(e, s, slot, z, r, end - r, k0, inputs, nm_grad(e, x, r) + k0, ld, own);
        }
    }
}

/* c[m][columns c0 ..] += a' b over the rows of the batch. */
static void fold(const nm_exec *e, const float *a, size_t lda, int64_t m, const float *b, size_t ldb, int64_t rows, int64_t n, float *c, size_t ldc)
{
    e->kernel->gemm(&(nm_gemm_job){.m = m, .n = n, .k = rows, .a = a, .a_row = 1, .a_k = lda, .b = b, .ldb = ldb, .c = c, .ldc = ldc, .add = true});
}

/* Columns [c, c + n) of da += u' x with x masked: the same fold, a block of rows at a time. */
static void fold_masked(const nm_exec *e, const nm_step *s, const nm_train_slot *slot, const slot_rows *z, int64_t rows, int64_t c, int64_t n, float *block)
{
    int32_t x = nm_in(e->operand, s, 0);
    for (int64_t r = 0; r < rows; r += BACK_ROWS) {
        int64_t count = rows - r < BACK_ROWS ? rows - r : BACK_ROWS;
        drop(e, s, r, count, c, n, nm_at(e, x, r) + c, nm_ld(e->value, x), block, BACK_INPUTS);
        fold(e, z->u + r * slot->rank, (size_t)slot->rank, slot->rank, block, BACK_INPUTS, count, n, slot->da + c, (size_t)nm_step_weight(e, s, 0)->k);
    }
}

/* Phase three: gradients of the slot, a ticket BACK_INPUTS columns of da, then of db. */
static void back_slot(const nm_exec *e, const nm_step *s, const nm_train_slot *slot, const slot_rows *z, float *own)
{
    const nm_weight *w = nm_step_weight(e, s, 0);
    int32_t x = nm_in(e->operand, s, 0), y = nm_out(e->operand, s, 0);
    int64_t rows = e->rows[rows_kind(e, s)], of_a = (w->k + BACK_INPUTS - 1) / BACK_INPUTS, of_b = (w->n + BACK_INPUTS - 1) / BACK_INPUTS, ticket;
    while ((ticket = atomic_fetch_add_explicit(nm_back_ticket(e, s, 1), 1, memory_order_relaxed)) < of_a + of_b) {
        bool in_a = ticket < of_a;
        int64_t c = (in_a ? ticket : ticket - of_a) * BACK_INPUTS, all = in_a ? w->k : w->n, n = all - c < BACK_INPUTS ? all - c : BACK_INPUTS;
        int32_t v = in_a ? x : y;
        if (in_a && drops(e)) fold_masked(e, s, slot, z, rows, c, n, own);
        else fold(e, in_a ? z->u : z->t, (size_t)slot->rank, slot->rank, (in_a ? nm_at(e, v, 0) : nm_grad(e, v, 0)) + c, nm_ld(e->value, v), rows, n,
            (in_a ? slot->da : slot->db_t) + c, (size_t)all);
    }
}

/* Gradients of the map and, if it is not folded yet, its bias as a whole: a ticket is a panel's worth of outputs. */
static void back_weight(const nm_exec *e, const nm_step *s, bool bias)
{
    const nm_weight *w = nm_step_weight(e, s, 0);
    int32_t x = nm_in(e->operand, s, 0), y = nm_out(e->operand, s, 0);
    float *dw = nm_weight_grad(e, s, 0), *db = bias ? nm_weight_grad(e, s, 1) : NULL;
    int64_t rows = e->rows[rows_kind(e, s)], ticket;
    if (!dw && !db) return;
    while ((ticket = atomic_fetch_add_explicit(nm_back_ticket(e, s, 2), 1, memory_order_relaxed)) * NM_PANEL < w->n) {
        int64_t n = ticket * NM_PANEL, outputs = w->n - n < NM_PANEL ? w->n - n : NM_PANEL;
        if (dw) fold(e, nm_grad(e, y, 0) + n, nm_ld(e->value, y), outputs, nm_at(e, x, 0), nm_ld(e->value, x), rows, w->k, dw + n * w->k, (size_t)w->k);
        for (int64_t r = 0; db && r < rows; r++) e->kernel->add_scaled(db + n, nm_grad(e, y, r) + n, 1, outputs, db + n);
    }
}

static void back_wide(nm_exec *e, const nm_step *s, int thread, int threads)
{
    const nm_train_slot *slot = trained_slot(e, s);
    slot_rows z = slot_rows_at(e, s, slot ? slot->rank : 0);
    float *own = (float *)(e->scratch + (size_t)thread * e->scratch_bytes);
    bool below = stack_gains(e, s), gains = below || (slot && slot->gain);
    int32_t y = nm_out(e->operand, s, 0);
    int64_t from, to;
    if (gains) {
        gain_back(e, s, slot, thread, threads);
        nm_pool_barrier();
    }
    bool rounds = e->bf16 && nm_wants(e, s, 0);
    if (slot || e->stacked || rounds) {
        nm_share(e->rows[rows_kind(e, s)], SHARE_ROWS, thread, threads, &from, &to);
        if (slot && from < to) slot_back(e, s, slot, &z, from, to, own);
        if (below) {            /* the trained slot needs dy before the stack's gains */
            nm_pool_barrier();
            if (slot) back_slot(e, s, slot, &z, own);
            nm_pool_barrier();
        }
        if (e->stacked && (below || nm_wants(e, s, 0))) stack_back(e, s, &z, from, to, own);
        if (rounds) round_to(e->kernel->round_lines, nm_grad(e, y, 0), nm_ld(e->value, y), from, to, nm_step_weight(e, s, 0)->n, z.dy);
        nm_pool_barrier();
    }
    if (rounds) back_inputs_bf16(e, s, slot, &z, threads, own);
    else if (nm_wants(e, s, 0)) back_inputs(e, s, slot, &z, own);
    if (slot && !below) back_slot(e, s, slot, &z, own);
    back_weight(e, s, !gains);
}

const nm_op nm_op_linear = {.name = "linear", .shape = shape, .reads_int8 = reads_int8, .wide = wide, .scratch = scratch, .shared = shared,
    .back_wide = back_wide, .saves_trained = 1, .saves_gain = 2};
