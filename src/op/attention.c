/* Attention over a session's pages: grouped and multi-query heads, causal, with an optional window and soft cap.
 * inputs: q [heads * d_k], k [heads_kv * d_k], v [heads_kv * d_v]; outputs: o [heads * d_v].
 *
 * The row phase writes k and v into the page of the row's position, rounded to the cache's type; the wide phase reads pages only.
 * Arithmetic (law 9): pages of 64 keys are merged in ascending order into the state of their chunk of CHUNK pages, and chunks, in
 * ascending order, into the total (kernel.h has both rules). Chunks are anchored at position 0. So one query can be spread over threads by chunks, and 512
 * queries can be walked page by page, and both give the same bits. */
#include <math.h>
#include <string.h>

#include "base/pool.h"
#include "op/op.h"

enum {
    CHUNK = 4,              /* pages whose states merge first: 256 keys, enough work to hand to a thread */
    TILE = NM_QUERIES,      /* queries of one kernel call */
    BACK_ROWS = 64,         /* rows of a tile of backward */
    SPREAD_ROWS = 4,        /* batches up to this size are spread over threads by chunks */
    SPREAD_BYTES = 64 << 20 /* most memory for the states of their chunks: what needs more goes by tiles. A context of 2^31 would ask for gigabytes */
};

#define ARGS s->args.attention

static nm_err shape(const nm_shape *c, const nm_step *s)
{
    int64_t q = c->value[nm_in(c->operand, s, 0)].dim, k = c->value[nm_in(c->operand, s, 1)].dim, v = c->value[nm_in(c->operand, s, 2)].dim;
    int64_t o = c->value[nm_out(c->operand, s, 0)].dim;
    if (ARGS.heads < 1 || ARGS.heads_kv < 1 || ARGS.heads % ARGS.heads_kv) return nm_bad_shape(s, "number of KV heads", ARGS.heads_kv, ARGS.heads);
    if (q != (int64_t)ARGS.heads * ARGS.d_k) return nm_bad_shape(s, "width of q", q, (int64_t)ARGS.heads * ARGS.d_k);
    if (k != (int64_t)ARGS.heads_kv * ARGS.d_k) return nm_bad_shape(s, "width of k", k, (int64_t)ARGS.heads_kv * ARGS.d_k);
    if (v != (int64_t)ARGS.heads_kv * ARGS.d_v) return nm_bad_shape(s, "width of v", v, (int64_t)ARGS.heads_kv * ARGS.d_v);
    if (o != (int64_t)ARGS.heads * ARGS.d_v) return nm_bad_shape(s, "width of the output", o, (int64_t)ARGS.heads * ARGS.d_v);
    return NM_OK;
}

static uint8_t *head_of(const nm_exec *e, const nm_step *s, const nm_seq *seq, int64_t page, int32_t head)
{
    const nm_kv_slot *slot = &e->kv->slot[ARGS.slot];
    return seq->pages[slot->group][page] + slot->offset + (size_t)head * slot->head_bytes;
}

static void store_at(const nm_exec *e, const nm_step *s, int64_t r, int32_t seq)
{
    const nm_kv_slot *slot = &e->kv->slot[ARGS.slot];
    int32_t position = e->row[r].position;
    for (int32_t h = 0; h < ARGS.heads_kv; h++) {
        uint8_t *at = head_of(e, s, &e->seq[seq], position / NM_PAGE, h);
        e->kernel->kv_store_k[e->kv->type](at, ARGS.d_k, position % NM_PAGE, nm_at_in(e, s, 1, r) + h * ARGS.d_k);
        e->kernel->kv_store_v[e->kv->type](at + slot->v_offset, ARGS.d_v, position % NM_PAGE, nm_at_in(e, s, 2, r) + h * ARGS.d_v);
    }
}

static void store_row(const nm_exec *e, const nm_step *s, int64_t r, int64_t c0, int64_t c1)
{
    store_at(e, s, r, e->row[r].seq);
    if (!e->copy_from) return;
    for (int32_t i = e->copy_from[r]; i < e->copy_from[r + 1]; i++) store_at(e, s, r, e->copy_seq[i]);
}

/* ---- A set of queries that share a KV head and a session ---------------------------------------------------------------------- */

typedef struct tile {
    int queries;
    const float *q[TILE];
    int32_t from[TILE], to[TILE];       /* keys that each sees: [from, to) */
    float m[TILE], l[TILE];             /* running states; o is [TILE][d_v] behind */
} tile;

/* The thread's scratch: two tiles' worth of state (chunk and total), then the kernel's own. */
typedef struct work { tile *t; float *m, *l, *chunk_o, *total_o; void *kernel; } work;

static size_t work_bytes(int d_k, int d_v)
{
    size_t state = sizeof(tile) + 2 * TILE * sizeof(float) + 2 * (size_t)TILE * (size_t)d_v * sizeof(float);
    return ((state + 63) & ~(size_t)63) + nm_attention_scratch(d_k, d_v);
}

static work work_at(uint8_t *scratch, int d_v)
{
    work w = {.t = (tile *)scratch};
    w.m = (float *)(w.t + 1);
    w.l = w.m + TILE;
    w.chunk_o = w.l + TILE;
    w.total_o = w.chunk_o + (size_t)TILE * (size_t)d_v;
    w.kernel = (void *)(((uintptr_t)(w.total_o + (size_t)TILE * (size_t)d_v) + 63) & ~(uintptr_t)63);
    return w;
}

static void add_query(const nm_exec *e, const nm_step *s, tile *t, int64_t r, int32_t head)
{
    int32_t position = e->row[r].position, i = t->queries++;
    t->q[i] = nm_at_in(e, s, 0, r) + (int64_t)head * ARGS.d_k;
    t->to[i] = position + 1;
    t->from[i] = ARGS.window && position >= ARGS.window ? position - ARGS.window + 1 : 0;
}

static int64_t end_page(const tile *t)
{
    int32_t to = t->to[0];
    for (int i = 1; i < t->queries; i++) if (t->to[i] > to) to = t->to[i];
    return (to + NM_PAGE - 1) / NM_PAGE;
}

/* Computes the state of one chunk for the tile's queries into m, l, o. */
static void run_chunk(const nm_exec *e, const nm_step *s, const nm_seq *seq, int32_t head, int64_t chunk, const tile *t, float *m, float *l, float *o, void *scratch)
{
    const nm_kv_slot *slot = &e->kv->slot[ARGS.slot];
    const int64_t pages = end_page(t);
    for (int i = 0; i < t->queries; i++) { m[i] = -INFINITY; l[i] = 0; }
    for (int64_t page = chunk * CHUNK; page < (chunk + 1) * CHUNK && page < pages; page++) {
        uint8_t first[TILE], last[TILE];
        int64_t base = page * NM_PAGE;
        bool any = false;
        for (int i = 0; i < t->queries; i++) {
            int64_t a = t->from[i] - base, b = t->to[i] - base;
            first[i] = (uint8_t)(a < 0 ? 0 : a > NM_PAGE ? NM_PAGE : a);
            last[i] = (uint8_t)(b < 0 ? 0 : b > NM_PAGE ? NM_PAGE : b);
            if (first[i] < last[i]) any = true;
            else first[i] = last[i] = 0;
        }
        if (!any) continue;
        uint8_t *k = head_of(e, s, seq, page, head);
        nm_attention_job job = {.k = k, .v = k + slot->v_offset, .next = page + 1 < pages ? head_of(e, s, seq, page + 1, head) : NULL,
            .d_k = ARGS.d_k, .d_v = ARGS.d_v, .queries = t->queries, .q = t->q,
            .first = first, .last = last, .scale = ARGS.scale, .cap = ARGS.cap, .m = m, .l = l, .o = o, .ldo = (size_t)ARGS.d_v, .scratch = scratch};
        e->kernel->attention[e->kv->type](&job);
    }
}

static int64_t first_chunk(const tile *t)
{
    int32_t from = t->from[0];
    for (int i = 1; i < t->queries; i++) if (t->from[i] < from) from = t->from[i];
    return from / (CHUNK * NM_PAGE);
}

static int64_t end_chunk(const tile *t) { return (end_page(t) + CHUNK - 1) / CHUNK; }

static void finish(float *out, const float *o, float l, int d_v)
{
    for (int d = 0; d < d_v; d++) out[d] = o[d] / l;
}

/* ---- Many rows: a thread walks all pages for its tile -------------------------------------------------------------------------- */

static void run_tile(const nm_exec *e, const nm_step *s, const nm_seq *seq, int64_t r0, int64_t rows, int32_t head_kv, int32_t head, int32_t heads, work *w)
{
    tile *t = w->t;
    t->queries = 0;
    for (int64_t r = r0; r < r0 + rows; r++)
        for (int32_t h = head; h < head + heads; h++) add_query(e, s, t, r, h);
    for (int i = 0; i < t->queries; i++) { t->m[i] = -INFINITY; t->l[i] = 0; }
    for (int64_t chunk = first_chunk(t); chunk < end_chunk(t); chunk++) {
        run_chunk(e, s, seq, head_kv, chunk, t, w->m, w->l, w->chunk_o, w->kernel);
        for (int i = 0; i < t->queries; i++)
            e->kernel->attention_merge(&t->m[i], &t->l[i], w->total_o + (size_t)i * (size_t)ARGS.d_v, w->m[i], w->l[i], w->chunk_o + (size_t)i * (size_t)ARGS.d_v, ARGS.d_v);
    }
    for (int i = 0; i < t->queries; i++)
        finish(nm_at_out(e, s, 0, r0 + i / heads) + (int64_t)(head + i % heads) * ARGS.d_v, w->total_o + (size_t)i * (size_t)ARGS.d_v, t->l[i], ARGS.d_v);
}

/* The next item of `all` for this thread, or -1. Where sessions have a row each, threads of the first half take items from the front, the others from the back, as
 * their rows were shared out before: what a row stored is in its thread's cache. */
static int64_t next_item(const nm_exec *e, const nm_step *s, int64_t all, int thread, int threads)
{
    enum { BACK = 1 << 16 };                    /* what is taken from the back is counted in the ticket's upper half */
    bool two_ends = e->rows[NM_ROWS_BATCH] == e->seqs && all < BACK / 4, back = two_ends && thread >= (threads + 1) / 2;
    int taken = atomic_fetch_add_explicit(nm_ticket(e, s, 0), back ? BACK : 1, memory_order_relaxed);
    int front = two_ends ? taken % BACK : taken, behind = two_ends ? taken / BACK : 0;
    return front + behind >= all ? -1 : back ? all - 1 - behind : front;
}

/* Items: (session, block of rows, KV head, part of its query heads), numbered so that a ticket finds its own. */
static void run_tiles(nm_exec *e, const nm_step *s, int thread, int threads, work *w)
{
    enum { LEAST_BLOCK = 4, ITEMS = 3 };        /* rows; items a thread, for threads that do not begin or run alike */
    int32_t group = ARGS.heads / ARGS.heads_kv, heads = group < TILE ? group : TILE, parts = (group + heads - 1) / heads, block = TILE / heads;
    while (block > LEAST_BLOCK && e->rows[NM_ROWS_BATCH] / block * ARGS.heads_kv * parts < ITEMS * threads) block = (block + 1) / 2;
    const int64_t per_block = (int64_t)ARGS.heads_kv * parts;
    int64_t all = 0, passed = 0;
    int32_t i = 0;                              /* the session whose first item is `passed` */
    for (int32_t k = 0; k < e->seqs; k++) all += (e->seq[k].rows + block - 1) / block * per_block;
    for (int64_t ticket; !nm_halted(e, thread) && (ticket = next_item(e, s, all, thread, threads)) >= 0;) {
        while (ticket < passed) passed -= (e->seq[--i].rows + block - 1) / block * per_block;
        int64_t items = (e->seq[i].rows + block - 1) / block * per_block;
        for (; ticket >= passed + items; items = (e->seq[i].rows + block - 1) / block * per_block) {
            passed += items;
            i++;
        }
        const nm_seq *seq = &e->seq[i];
        /* The last rows see most keys: they go first, so that no thread is left alone with them. */
        int64_t item = items - 1 - (ticket - passed), at = item / per_block * block;
        int32_t head_kv = (int32_t)(item % per_block) / parts, from = (int32_t)(item % per_block) % parts * heads;
        run_tile(e, s, seq, seq->row + at, seq->rows - at < block ? seq->rows - at : block, head_kv, head_kv * group + from,
            group - from < heads ? group - from : heads, w);
    }
}

/* ---- Few rows: chunks are spread over threads, their states merged after a barrier ------------------------------------------- */

static size_t state_floats(const nm_step *s) { return (size_t)ARGS.d_v + 2; }

static size_t shared_back(const nm_step *s, int64_t max_rows);

static size_t shared(const nm_shape *c, const nm_step *s, int64_t max_rows, int64_t context)
{
    int64_t rows = max_rows < SPREAD_ROWS ? max_rows : SPREAD_ROWS, chunks = context / (CHUNK * NM_PAGE) + 1;
    size_t bytes = (size_t)(rows * chunks * ARGS.heads) * state_floats(s) * sizeof(float), back = c->trained ? shared_back(s, max_rows) : 0;
    bytes = bytes < SPREAD_BYTES ? bytes : SPREAD_BYTES;
    return bytes > back ? bytes : back;
}

static float *state_at(const nm_exec *e, const nm_step *s, int64_t chunks, int64_t r, int64_t chunk, int32_t head)
{
    return (float *)e->shared + ((size_t)(r * chunks + chunk) * (size_t)ARGS.heads + (size_t)head) * state_floats(s);
}

static void spread_item(const nm_exec *e, const nm_step *s, int64_t chunks, int64_t item, work *w)
{
    int32_t group = ARGS.heads / ARGS.heads_kv, head_kv = (int32_t)(item % ARGS.heads_kv);
    int64_t chunk = item / ARGS.heads_kv % chunks, r = item / ARGS.heads_kv / chunks;
    tile *t = w->t;
    for (int32_t h = 0, n; h < group; h += n) {
        n = group - h < TILE ? group - h : TILE;
        t->queries = 0;
        for (int32_t i = 0; i < n; i++) add_query(e, s, t, r, head_kv * group + h + i);
        if (chunk < first_chunk(t) || chunk >= end_chunk(t)) return;
        run_chunk(e, s, &e->seq[e->row[r].seq], head_kv, chunk, t, w->m, w->l, w->chunk_o, w->kernel);
        for (int32_t i = 0; i < n; i++) {
            float *state = state_at(e, s, chunks, r, chunk, head_kv * group + h + i);
            state[0] = w->m[i];
            state[1] = w->l[i];
            memcpy(state + 2, w->chunk_o + (size_t)i * (size_t)ARGS.d_v, (size_t)ARGS.d_v * sizeof(float));
        }
    }
}

static void spread_merge(const nm_exec *e, const nm_step *s, int64_t chunks, int64_t r, int32_t head, work *w)
{
    float m = -INFINITY, l = 0;
    w->t->queries = 0;
    add_query(e, s, w->t, r, head);
    for (int64_t chunk = first_chunk(w->t); chunk < end_chunk(w->t); chunk++) {
        const float *state = state_at(e, s, chunks, r, chunk, head);
        e->kernel->attention_merge(&m, &l, w->total_o, state[0], state[1], state + 2, ARGS.d_v);
    }
    finish(nm_at_out(e, s, 0, r) + (int64_t)head * ARGS.d_v, w->total_o, l, ARGS.d_v);
}

static void spread(const nm_exec *e, const nm_step *s, int64_t chunks, int thread, int threads, work *w)
{
    int64_t rows = e->rows[NM_ROWS_BATCH], items = rows * chunks * ARGS.heads_kv, item, from, to;
    while ((item = atomic_fetch_add_explicit(nm_ticket(e, s, 0), 1, memory_order_relaxed)) < items) spread_item(e, s, chunks, item, w);
    nm_pool_barrier();
    nm_share(rows * ARGS.heads, 1, thread, threads, &from, &to);
    for (int64_t i = from; i < to; i++) spread_merge(e, s, chunks, i / ARGS.heads, (int32_t)(i % ARGS.heads), w);
}

static void wide(nm_exec *e, const nm_step *s, int thread, int threads)
{
    int64_t rows = e->rows[NM_ROWS_BATCH], longest = 0;
    work w = work_at(e->scratch + (size_t)thread * e->scratch_bytes, ARGS.d_v);
    for (int64_t r = 0; r < rows; r++) if (e->row[r].position >= longest) longest = e->row[r].position + 1;
    int64_t chunks = (longest + CHUNK * NM_PAGE - 1) / (CHUNK * NM_PAGE);
    bool fits = (size_t)(rows * chunks * ARGS.heads) * state_floats(s) * sizeof(float) <= e->shared_bytes;
    bool short_past = chunks == 1 && rows == e->seqs;       /* nothing to spread: a tile for each row and KV head needs no barrier */
    if (rows <= SPREAD_ROWS && fits && threads > 1 && !short_past) spread(e, s, chunks, thread, threads, &w);
    else run_tiles(e, s, thread, threads, &w);
}

/* ---- Backward --------------------------------------------------------------------------------------------------------------------------------------
 * Of whole sequences: a sequence's keys are the rows of the pass. A lane is one KV head of one sequence: its query heads, and tiles of BACK_ROWS rows of each,
 * in ascending order, with the scores of one tile against all keys in scratch: never a T x T matrix. For a tile
 *   P = softmax(S) over the keys that each row sees, 0 elsewhere;  D = dot(dO, O);  dS = (P * (dO V' - D)) * scale, times the cap's slope
 *   dQ = dS K;  dK += dS' Q;  dV += P' dO          chains over keys; over query heads, then rows.
 * Tiles are tickets, lanes in turn. All but dK and dV, the longer part, is a tile's own; for those it waits for the tile before it in its lane. */

/* A thread's: [BACK_ROWS][ld], [BACK_ROWS][ld], [ld]. Threads': V turned, [heads_kv * d_v][ld], and the number of tiles that are done, by lane. */
typedef struct back { float *s, *dp, *capped, *vt; int64_t ld; atomic_int *done; } back;

/* Whole pages, and an odd number of lines: else the rows of a column would share a few sets of the first-level cache. */
static int64_t ld_of(int64_t keys) { return (keys + NM_PAGE - 1) / NM_PAGE * NM_PAGE + 16; }
static size_t back_bytes(int64_t rows) { return (size_t)(2 * BACK_ROWS + 1) * (size_t)ld_of(rows) * sizeof(float); }
static size_t turned_floats(const nm_step *s, int64_t rows) { return (size_t)ARGS.heads_kv * (size_t)ARGS.d_v * (size_t)ld_of(rows); }

/* No more sequences than rows. */
static size_t shared_back(const nm_step *s, int64_t max_rows)
{
    return turned_floats(s, max_rows) * sizeof(float) + (size_t)max_rows * (size_t)ARGS.heads_kv * sizeof(atomic_int);
}

static back back_at(const nm_exec *e, const nm_step *s, uint8_t *scratch)
{
    int64_t rows = e->rows[NM_ROWS_BATCH];
    back b = {.s = (float *)scratch, .ld = ld_of(rows), .vt = (float *)e->shared};
    b.dp = b.s + BACK_ROWS * b.ld;
    b.capped = b.dp + BACK_ROWS * b.ld;
    b.done = (atomic_int *)(b.vt + turned_floats(s, rows));
    return b;
}

/* In the step's arithmetic. In bf16 pairs of rows are the same however sequences are batched: a chain begins in a tile of its own sequence. */
static void product(const nm_exec *e, const nm_gemm_job *job) { (e->bf16 ? e->kernel->gemm_bf16 : e->kernel->gemm)(job); }

/* Products of a tile's rows with keys [0, keys): from the pages, as the forward reads them. */
static void scores_back(const nm_exec *e, const nm_step *s, const nm_seq *seq, int32_t head, int64_t r0, int64_t rows, int64_t keys, const back *b)
{
    int32_t q = nm_in(e->operand, s, 0), head_kv = head / (ARGS.heads / ARGS.heads_kv);
    for (int64_t page = 0; page * NM_PAGE < keys; page++)
        product(e, &(nm_gemm_job){.m = rows, .n = NM_PAGE, .k = ARGS.d_k, .a = nm_at(e, q, r0) + head * ARGS.d_k, .a_row = nm_ld(e->value, q), .a_k = 1,
            .b = (const float *)(const void *)head_of(e, s, seq, page, head_kv), .ldb = NM_PAGE, .c = b->s + page * NM_PAGE, .ldc = (size_t)b->ld});
}

/* Products with keys and dO V' of row i of the tile become P and dS in their places. */
static void row_back(const nm_exec *e, const nm_step *s, int32_t head, int64_t r, int64_t keys, const back *b, int64_t i)
{
    int32_t position = e->row[r].position, from = ARGS.window && position >= ARGS.window ? position - ARGS.window + 1 : 0, n = position + 1 - from;
    float *p = b->s + i * b->ld, *dp = b->dp + i * b->ld, m, l;
    int64_t o = (int64_t)head * ARGS.d_v;
    float d = e->kernel->dot(nm_grad_out(e, s, 0, r) + o, nm_at_out(e, s, 0, r) + o, ARGS.d_v);
    e->kernel->scale(p + from, ARGS.scale, n, p + from);
    if (ARGS.cap > 0) {
        e->kernel->softcap(p + from, ARGS.cap, n, p + from);
        memcpy(b->capped, p + from, (size_t)n * sizeof *p);
    }
    e->kernel->softmax(p + from, n, p + from, &m, &l);
    e->kernel->softmax_back(p + from, dp + from, d, ARGS.scale, n, dp + from);
    if (ARGS.cap > 0) e->kernel->softcap_back(b->capped, dp + from, ARGS.cap, n, dp + from);
    for (int k = 0; k < 2; k++) {
        float *row = k ? dp : p;
        memset(row, 0, (size_t)from * sizeof *row);
        memset(row + from + n, 0, (size_t)(keys - from - n) * sizeof *row);
    }
}

/* One tile of rows of one query head, `before` tiles of whose lane come first. */
static void tile_back(nm_exec *e, const nm_step *s, const nm_seq *seq, int32_t head, int64_t r0, int64_t rows, const back *b, atomic_int *done, int before)
{
    int32_t in[3], out = nm_out(e->operand, s, 0), head_kv = head / (ARGS.heads / ARGS.heads_kv);
    int64_t first = seq->row, keys = r0 - first + rows, q = (int64_t)head * ARGS.d_k, k = (int64_t)head_kv * ARGS.d_k, v = (int64_t)head_kv * ARGS.d_v;
    for (int i = 0; i < 3; i++) in[i] = nm_in(e->operand, s, i);
    const float *d_o = nm_grad(e, out, r0) + (int64_t)head * ARGS.d_v;
    scores_back(e, s, seq, head, r0, rows, keys, b);
    product(e, &(nm_gemm_job){.m = rows, .n = keys, .k = ARGS.d_v, .a = d_o, .a_row = nm_ld(e->value, out), .a_k = 1,
        .b = b->vt + v * b->ld + first, .ldb = (size_t)b->ld, .c = b->dp, .ldc = (size_t)b->ld});
    for (int64_t i = 0; i < rows; i++) row_back(e, s, head, r0 + i, keys, b, i);
    if (nm_wants(e, s, 0)) product(e, &(nm_gemm_job){.m = rows, .n = ARGS.d_k, .k = keys, .a = b->dp, .a_row = (size_t)b->ld, .a_k = 1,
        .b = nm_at(e, in[1], first) + k, .ldb = nm_ld(e->value, in[1]), .c = nm_grad(e, in[0], r0) + q, .ldc = nm_ld(e->value, in[0]), .add = nm_adds(e, s, 0)});
    nm_pool_wait(done, before, &e->stopped);        /* backward is never stopped inside a region (walk.c) */
    if (nm_wants(e, s, 1)) product(e, &(nm_gemm_job){.m = keys, .n = ARGS.d_k, .k = rows, .a = b->dp, .a_row = 1, .a_k = (size_t)b->ld,
        .b = nm_at(e, in[0], r0) + q, .ldb = nm_ld(e->value, in[0]), .c = nm_grad(e, in[1], first) + k, .ldc = nm_ld(e->value, in[1]), .add = true});
    if (nm_wants(e, s, 2)) product(e, &(nm_gemm_job){.m = keys, .n = ARGS.d_v, .k = rows, .a = b->s, .a_row = 1, .a_k = (size_t)b->ld,
        .b = d_o, .ldb = nm_ld(e->value, out), .c = nm_grad(e, in[2], first) + v, .ldc = nm_ld(e->value, in[2]), .add = true});
}

/* Before the tiles, rows shared out: turns V, and clears what tiles add to. */
static void turn_back(const nm_exec *e, const nm_step *s, const back *b, int thread, int threads)
{
    enum { LINE = 16 };
    int64_t from, to, k = (int64_t)ARGS.heads_kv * ARGS.d_k, v = (int64_t)ARGS.heads_kv * ARGS.d_v;
    nm_share(e->rows[NM_ROWS_BATCH], LINE, thread, threads, &from, &to);
    for (int64_t r = from; r < to; r++) {
        const float *value = nm_at_in(e, s, 2, r);
        for (int64_t d = 0; d < v; d++) b->vt[d * b->ld + r] = value[d];
        if (nm_wants(e, s, 1) && !nm_adds(e, s, 1)) memset(nm_grad_in(e, s, 1, r), 0, (size_t)k * sizeof(float));
        if (nm_wants(e, s, 2) && !nm_adds(e, s, 2)) memset(nm_grad_in(e, s, 2, r), 0, (size_t)v * sizeof(float));
    }
    for (int64_t i = 0; thread == 0 && i < (int64_t)e->seqs * ARGS.heads_kv; i++) atomic_init(&b->done[i], 0);
}

static int tiles_of(const nm_step *s, const nm_seq *seq) { return ARGS.heads / ARGS.heads_kv * ((seq->rows + BACK_ROWS - 1) / BACK_ROWS); }

/* Tile `at` of a lane. */
static void lane_back(nm_exec *e, const nm_step *s, int64_t lane, int at, const back *b)
{
    const nm_seq *seq = &e->seq[lane / ARGS.heads_kv];
    int32_t group = ARGS.heads / ARGS.heads_kv, of_head = tiles_of(s, seq) / group, head = (int32_t)(lane % ARGS.heads_kv) * group + at / of_head;
    int64_t r = (int64_t)(at % of_head) * BACK_ROWS;
    tile_back(e, s, seq, head, seq->row + r, seq->rows - r < BACK_ROWS ? seq->rows - r : BACK_ROWS, b, &b->done[lane], at);
    atomic_fetch_add_explicit(&b->done[lane], 1, memory_order_release);
}

static void back_wide(nm_exec *e, const nm_step *s, int thread, int threads)
{
    back b = back_at(e, s, e->scratch + (size_t)thread * e->scratch_bytes);
    int64_t lanes = (int64_t)e->seqs * ARGS.heads_kv, ticket, passed = 0;
    int most = 0;
    turn_back(e, s, &b, thread, threads);
    nm_pool_barrier();
    for (int32_t i = 0; i < e->seqs; i++) if (tiles_of(s, &e->seq[i]) > most) most = tiles_of(s, &e->seq[i]);
    ticket = atomic_fetch_add_explicit(nm_back_ticket(e, s, 0), 1, memory_order_relaxed);
    for (int at = 0; at < most; at++)
        for (int64_t lane = 0; lane < lanes; lane++) {
            if (at >= tiles_of(s, &e->seq[lane / ARGS.heads_kv]) || passed++ != ticket) continue;
            lane_back(e, s, lane, at, &b);
            ticket = atomic_fetch_add_explicit(nm_back_ticket(e, s, 0), 1, memory_order_relaxed);
        }
}

static size_t scratch(const nm_shape *c, const nm_step *s, int64_t max_rows)
{
    size_t forward = work_bytes(ARGS.d_k, ARGS.d_v), backward = c->trained ? back_bytes(max_rows) : 0;
    return forward > backward ? forward : backward;
}

const nm_op nm_op_attention = {.name = "attention", .shape = shape, .row = store_row, .wide = wide, .scratch = scratch, .shared = shared,
    .back_wide = back_wide, .saves = 15, .again = 1};
