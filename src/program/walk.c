/* Running a plan: every thread walks the same regions and meets the others between them. */
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

static void walk_thread(void *arg, int thread, int threads)
{
    nm_walk *w = arg;
    for (int32_t i = w->at; i < w->end; i++) {
        const nm_region *r = &w->plan->region[i];
        if (r->wide) run_wide(w, r, thread, threads);
        else run_rows(w, r, thread, threads);
        if (thread == 0 && w->stop && i + 1 < w->end && w->stop(w->stop_arg)) atomic_store(&w->stopped, i + 1);
        nm_pool_barrier();
        /* Equality, not truth: by the time that a slow thread looks here, thread 0 may have asked for a stop after the next region. */
        if (atomic_load_explicit(&w->stopped, memory_order_relaxed) == i + 1) return;
    }
}

nm_err nm_walk_some(nm_walk *w, bool *done)
{
    atomic_store(&w->stopped, 0);
    nm_err err = nm_pool_run(walk_thread, w);
    int32_t at = atomic_load(&w->stopped);
    w->at = at ? at : w->end;
    *done = err == NM_OK && w->at == w->end;
    return err;
}
