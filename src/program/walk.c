/* Running a plan: every thread walks the same regions and meets the others between them. */
#include "base/err.h"
#include "base/pool.h"
#include "program/program.h"

enum { COLUMNS = 64 };          /* unit in which a row is split: two int8 blocks, four cache lines */

static void quantize(const nm_exec *e, int32_t v, int64_t row, int64_t c0, int64_t c1)
{
    nm_qrows q = nm_at_q(e, v);
    e->kernel->quantize_row(nm_at(e, v, row) + c0, c1 - c0, q.q + (size_t)row * q.ldq + c0, q.scale + (size_t)row * q.lds + c0 / 32,
        q.sum + (size_t)row * 2 * q.lds + c0 / 16);
}

static void run_row(const nm_walk *w, const nm_region *r, int64_t row, int64_t c0, int64_t c1)
{
    const nm_plan *p = w->plan;
    for (int32_t t = r->task; t < r->task + r->tasks; t++) {
        const nm_task *task = &p->task[t];
        const nm_step *s = task->step < 0 ? NULL : &p->program->step[task->step];
        int64_t dim = p->value[s ? nm_out(p->program->operand, s, 0) : task->value].dim, end = c1 < 0 ? dim : c1;
        if (s) nm_ops[s->op]->row(&w->exec, s, row, c0, end);
        else quantize(&w->exec, task->value, row, c0, end);
    }
}

/* Rows are shared out whole; where there are fewer rows than threads, columns are shared if every phase allows it. */
static void run_rows(const nm_walk *w, const nm_region *r, int thread, int threads)
{
    int64_t rows = w->exec.rows[r->rows], from, to;
    if (rows >= threads || !r->columns) {
        nm_share(rows, 1, thread, threads, &from, &to);
        for (int64_t row = from; row < to; row++) run_row(w, r, row, 0, -1);
        return;
    }
    const nm_task *task = &w->plan->task[r->task];
    int32_t v = task->step < 0 ? task->value : nm_out(w->plan->program->operand, &w->plan->program->step[task->step], 0);
    nm_share(w->plan->value[v].dim, COLUMNS, thread, threads, &from, &to);
    if (from < to) for (int64_t row = 0; row < rows; row++) run_row(w, r, row, from, to);
}

static void run_wide(nm_walk *w, const nm_region *r, int thread, int threads)
{
    for (int32_t t = r->task; t < r->task + r->tasks; t++) {
        const nm_step *s = &w->plan->program->step[w->plan->task[t].step];
        nm_ops[s->op]->wide(&w->exec, s, thread, threads);
    }
}

/* Thread 0's question after a region that ran whole. */
static void ask(nm_walk *w, int32_t next)
{
    nm_exec *e = &w->exec;
    if (e->stop && next < w->end && !atomic_load_explicit(&e->stopped, memory_order_relaxed) && e->stop(e->stop_arg)) atomic_store(&e->stopped, next);
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
        /* Equality, not truth: by the time that a slow thread looks here, thread 0 may have stopped in or after the next region. */
        int stopped = atomic_load_explicit(&w->exec.stopped, memory_order_relaxed);
        if (stopped == i + 1 || stopped == -(i + 1)) return;
    }
}

/* Work of these regions is handed out from the start. */
static void reset_tickets(nm_walk *w)
{
    const nm_plan *p = w->plan;
    for (int32_t t = p->region[w->at].task; t < p->region[w->end - 1].task + p->region[w->end - 1].tasks; t++)
        if (p->task[t].step >= 0) atomic_store_explicit(&w->exec.ticket[p->program->step[p->task[t].step].ticket], 0, memory_order_relaxed);
}

nm_err nm_walk_some(nm_walk *w, bool *done)
{
    *done = w->at >= w->end;
    if (*done) return NM_OK;
    atomic_store(&w->exec.stopped, 0);
    reset_tickets(w);
    NM_TRY(nm_pool_run(walk_thread, w));
    int stopped = atomic_load(&w->exec.stopped);
    w->at = stopped > 0 ? stopped : stopped < 0 ? -stopped - 1 : w->end;
    *done = w->at == w->end;
    return NM_OK;
}
