/* Running a plan: every thread walks the same regions and meets the others between them. */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/pool.h"
#include "program/program.h"

enum { COLUMNS = 64 };          /* unit in which a row is split: two int8 blocks, four cache lines */

static void quantize(const nm_exec *e, int32_t v, int64_t row, int64_t c0, int64_t c1)
{
    nm_qrows q = nm_at_q(e, v);
    e->kernel->quantize(nm_at(e, v, row) + c0, c1 - c0, &q, row, c0);
}

static const nm_exec *exec_of(const nm_walk *w, const nm_region *r) { return r->back ? &w->back : &w->exec; }

static void run_row(const nm_walk *w, const nm_region *r, int thread, int64_t row, int64_t c0, int64_t c1)
{
    const nm_plan *p = w->plan;
    const nm_exec *e = exec_of(w, r);
    for (int32_t t = r->task; t < r->task + r->tasks; t++) {
        const nm_task *task = &p->task[t];
        const nm_step *s = task->step < 0 ? NULL : &p->program->step[task->step];
        int64_t dim = p->value[s ? nm_out(p->program->operand, s, 0) : task->value].dim, end = c1 < 0 ? dim : c1;
        switch (task->kind) {
        case NM_TASK_FORWARD: nm_ops[s->op]->row(e, s, row, c0, end); break;
        case NM_TASK_QUANTIZE: quantize(e, task->value, row, c0, end); break;
        case NM_TASK_ZERO: memset(nm_grad(e, task->value, row), 0, (size_t)dim * sizeof(float)); break;
        case NM_TASK_LOSS:
            e->loss(e->loss_arg, row, nm_at(e, task->value, row), dim, nm_grad(e, task->value, row), (float *)(e->scratch + (size_t)thread * e->scratch_bytes));
            break;
        case NM_TASK_BACK: nm_ops[s->op]->back_row(e, s, row); break;
        }
    }
}

/* Columns of a region of row phases that may be shared out by them. */
static int64_t columns_of(const nm_walk *w, const nm_region *r)
{
    const nm_task *task = &w->plan->task[r->task];
    return w->plan->value[task->step < 0 ? task->value : nm_out(w->plan->program->operand, &w->plan->program->step[task->step], 0)].dim;
}

static void run_columns(const nm_walk *w, const nm_region *r, int thread, int threads)
{
    int64_t from, to;
    nm_share(columns_of(w, r), COLUMNS, thread, threads, &from, &to);
    if (from < to) for (int64_t row = 0; row < w->exec.rows[r->rows]; row++) run_row(w, r, thread, row, from, to);
}

/* True if the region had better be shared out by columns: there are fewer rows than threads, or than tiles of quantised rows have room for (threads whose rows lie
 * side by side in one tile take its lines from each other: a block of 32 then took 222 cycles instead of 46), and columns enough for all. */
static bool by_columns(const nm_walk *w, const nm_region *r, int threads)
{
    int64_t rows = w->exec.rows[r->rows];
    return rows < threads || (rows < NM_QTILE_FEW * threads && columns_of(w, r) >= 2 * COLUMNS * threads);
}

/* Rows are shared out whole, or by columns if every phase allows it; if only the int8 copy at the region's end does, it alone is, behind a barrier of its own. */
static void run_rows(const nm_walk *w, const nm_region *r, int thread, int threads)
{
    int64_t rows = w->exec.rows[r->rows], from, to;
    nm_region whole = *r, copy = *r;
    if (!r->tasks) return;
    if (r->columns && by_columns(w, r, threads)) {
        run_columns(w, r, thread, threads);
        return;
    }
    copy.task += r->tasks - 1;
    copy.tasks = rows > 1 && w->plan->task[copy.task].kind == NM_TASK_QUANTIZE && by_columns(w, &copy, threads);
    whole.tasks -= copy.tasks;
    nm_share(rows, 1, thread, threads, &from, &to);
    for (int64_t row = from; row < to; row++) run_row(w, &whole, thread, row, 0, -1);
    if (!copy.tasks) return;
    nm_pool_barrier();
    run_columns(w, &copy, thread, threads);
}

static void run_wide(nm_walk *w, const nm_region *r, int thread, int threads)
{
    nm_exec *e = r->back ? &w->back : &w->exec;
    for (int32_t t = r->task; t < r->task + r->tasks; t++) {
        const nm_task *task = &w->plan->task[t];
        const nm_step *s = &w->plan->program->step[task->step];
        (task->kind == NM_TASK_BACK ? nm_ops[s->op]->back_wide : nm_ops[s->op]->wide)(e, s, thread, threads);
    }
}

/* Thread 0's question after a region that ran whole. */
static void ask(nm_walk *w, int32_t next)
{
    nm_exec *e = &w->exec;
    if (e->stop && next < w->end && !atomic_load_explicit(&e->stopped, memory_order_relaxed) && e->stop(e->stop_arg)) atomic_store(&e->stopped, next);
}

/* Lets go of the map's pages each time that regions have used a part of it: weight by weight, the system calls would cost a hundredth of a small model's step. */
static void forget_weights(nm_walk *w, const nm_region *r)
{
    enum { PARTS = 8 };
    for (int32_t t = r->task; t < r->task + r->tasks; t++) {
        const nm_step *s = &w->plan->program->step[w->plan->task[t].step];
        for (int i = 0; i < s->n_weight; i++) w->used += (size_t)nm_step_weight(&w->exec, s, i)->panels.panels * nm_step_weight(&w->exec, s, i)->panels.panel_bytes;
    }
    if (w->used < w->map->size / PARTS) return;
    nm_map_forget(w->map, (const uint8_t *)w->map->data + w->settled, w->map->size - w->settled);
    w->used = 0;
}

static void walk_thread(void *arg, int thread, int threads)
{
    nm_walk *w = arg;
    for (int32_t i = w->at; i < w->end; i++) {
        const nm_region *r = &w->plan->region[i];
        if (thread == 0) w->exec.region = i;
        if (r->wide) run_wide(w, r, thread, threads);
        else run_rows(w, r, thread, threads);
        if (thread == 0) ask(w, i + 1);
        nm_pool_barrier();
        if (thread == 0 && w->map && r->wide) forget_weights(w, r);
        /* Equality, not truth: by the time that a slow thread looks here, thread 0 may have stopped in or after the next region. */
        int stopped = atomic_load_explicit(&w->exec.stopped, memory_order_relaxed);
        if (stopped == i + 1 || stopped == -(i + 1)) return;
    }
}

/* Work of these regions is handed out from the start. The backward walk runs forward phases too: all begin anew. */
static void reset_tickets(nm_walk *w)
{
    const nm_plan *p = w->plan;
    if (p->owed) {
        for (int32_t t = 0; t < (NM_TICKETS + NM_BACK_TICKETS) * p->program->tickets; t++) atomic_store_explicit(&w->exec.ticket[t], 0, memory_order_relaxed);
        return;
    }
    for (int32_t t = p->region[w->at].task; t < p->region[w->end - 1].task + p->region[w->end - 1].tasks; t++)
        for (int i = 0; i < NM_TICKETS && p->task[t].step >= 0; i++)
            atomic_store_explicit(nm_ticket(&w->exec, &p->program->step[p->task[t].step], i), 0, memory_order_relaxed);
}

nm_err nm_walk_some(nm_walk *w, bool *done)
{
    *done = w->at >= w->end;
    if (*done) return NM_OK;
    atomic_store(&w->exec.stopped, 0);
    reset_tickets(w);
    w->back = w->exec;
    w->back.value = w->plan->back_value;
    w->back.stop = NULL;        /* its regions add to gradients: one that was left half done could not run again */
    NM_TRY(nm_pool_run(walk_thread, w));
    int stopped = atomic_load(&w->exec.stopped);
    w->at = stopped > 0 ? stopped : stopped < 0 ? -stopped - 1 : w->end;
    *done = w->at == w->end;
    return NM_OK;
}

/* ---- Memory -------------------------------------------------------------------------------------------------------------------- */

nm_err nm_walk_open(nm_walk *w, const nm_plan *plan, const nm_weight *weight)
{
    nm_exec *e = &w->exec;
    size_t tickets = (size_t)plan->program->tickets;
    *w = (nm_walk){.plan = plan};
    e->compute = plan->compute;
    e->bf16 = plan->bf16;
    e->value = plan->value;
    e->operand = plan->program->operand;
    e->step = plan->program->step;
    e->owed = plan->owed;
    e->weight = weight;
    e->tickets = (int32_t)tickets;
    e->scratch_bytes = plan->scratch_bytes;
    e->shared_bytes = plan->shared_bytes;
    e->together = plan->together;
    e->slot_ranks = plan->slot_ranks;
    memcpy(e->max_rows, plan->max_rows, sizeof e->max_rows);
    if (!(e->memory = nm_alloc_sparse(plan->memory_bytes))) return nm_fail_memory(plan->memory_bytes);
    if (!(e->shared = nm_alloc_sparse(plan->shared_bytes))) return nm_fail_memory(plan->shared_bytes);
    tickets *= plan->owed ? NM_TICKETS + NM_BACK_TICKETS : NM_TICKETS;
    if (!(e->ticket = nm_calloc(tickets, sizeof *e->ticket))) return nm_fail_memory(tickets * sizeof *e->ticket);
    return nm_walk_fit(w);
}

nm_err nm_walk_fit(nm_walk *w)
{
    size_t bytes = w->plan->scratch_bytes * (size_t)nm_threads();
    if (w->exec.scratch && w->scratch_total == bytes) return NM_OK;
    uint8_t *scratch = nm_alloc_sparse(bytes);
    if (!scratch) return nm_fail_memory(bytes);
    nm_free_aligned(w->exec.scratch, w->scratch_total);
    w->exec.scratch = scratch;
    w->scratch_total = bytes;
    return NM_OK;
}

void nm_walk_close(nm_walk *w)
{
    if (!w->plan) return;
    nm_free_aligned(w->exec.memory, w->plan->memory_bytes);
    nm_free_aligned(w->exec.shared, w->plan->shared_bytes);
    nm_free_aligned(w->exec.scratch, w->scratch_total);
    nm_free(w->exec.ticket);
    *w = (nm_walk){0};
}
