/* The plan: groups phases into regions (law 4), finds out how long each value lives, and places it (law 5). */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "program/schedule.h"

/* ---- Schedule ------------------------------------------------------------------------------------------------------------------
 * Walks the steps in order. Row phases join the open region of row phases (each row's phases follow each other on one thread, so no
 * barrier is needed between them); wide phases join the open region of wide phases unless they read what it writes. Everything else opens a
 * region, and a barrier stands between regions. */

static int64_t task_dim(const nm_plan *p, const nm_task *t)
{
    if (t->step < 0) return p->value[t->value].dim;
    return p->value[nm_out(p->program->operand, &p->program->step[t->step], 0)].dim;
}

static bool task_columns(const nm_plan *p, const nm_task *t)
{
    return t->kind == NM_TASK_QUANTIZE || (t->kind == NM_TASK_FORWARD && nm_ops[p->program->step[t->step].op]->columns);
}

static nm_err open_region(nm_plan *p, bool wide, nm_rows rows, bool back)
{
    NM_TRY(NM_GROW(p->region, p->region_capacity, p->regions + 1));
    p->region[p->regions++] = (nm_region){.task = (int32_t)p->tasks, .wide = wide, .columns = !wide && !back, .rows = rows, .back = back};
    return NM_OK;
}

/* True if the region writes a value that the step reads. */
static bool depends(const nm_plan *p, const nm_region *r, const nm_step *s)
{
    const nm_program *g = p->program;
    for (int32_t t = r->task; t < r->task + r->tasks; t++) {
        int32_t made = nm_out(g->operand, &g->step[p->task[t].step], 0);
        for (int i = 0; i < s->n_in; i++) if (nm_owner(g->value, nm_in(g->operand, s, i)) == nm_owner(g->value, made)) return true;
    }
    return false;
}

/* Wide phases of the backward walk have a region each: they add to gradients that their neighbours set. */
nm_err nm_schedule_task(nm_plan *p, bool wide, nm_rows rows, bool back, nm_task task)
{
    nm_region *r = p->regions ? &p->region[p->regions - 1] : NULL;
    if (!r || r->wide != wide || r->rows != rows || r->back != back || (wide && (back || depends(p, r, &p->program->step[task.step])))) {
        NM_TRY(open_region(p, wide, rows, back));
        r = &p->region[p->regions - 1];
    }
    if (!wide && r->tasks && task_dim(p, &p->task[r->task]) != task_dim(p, &task)) r->columns = false;
    if (!wide && !task_columns(p, &task)) r->columns = false;
    NM_TRY(NM_GROW(p->task, p->task_capacity, p->tasks + 1));
    p->task[p->tasks++] = task;
    r->tasks++;
    return NM_OK;
}

static nm_err schedule_step(nm_plan *p, const nm_shape *shape, int32_t i)
{
    const nm_program *g = p->program;
    const nm_step *s = &g->step[i];
    const nm_op *op = nm_ops[s->op];
    nm_rows out_rows = nm_owner(g->value, nm_out(g->operand, s, 0))->rows;
    if (out_rows == NM_ROWS_OUT && p->head < 0) {
        /* The head's backward runs in chunks of rows and adds to these gradients. */
        p->body = (int32_t)p->regions;
        if (p->owed) NM_TRY(open_region(p, false, NM_ROWS_BATCH, false));
        for (size_t k = (size_t)i; p->owed && k < g->steps; k++) {
            const nm_step *select = &g->step[k];
            if (select->op != NM_OP_SELECT || !p->owed[k].wants) continue;
            NM_TRY(nm_schedule_task(p, false, NM_ROWS_BATCH, false, (nm_task){NM_TASK_ZERO, -1, nm_in(g->operand, select, 0)}));
        }
        p->head = (int32_t)p->regions;
    }
    if (op->reads_int8 && op->reads_int8(shape, s)) {
        int32_t x = nm_in(g->operand, s, 0);
        if (!p->value[x].quantized) NM_TRY(nm_schedule_task(p, false, nm_owner(g->value, x)->rows, false, (nm_task){NM_TASK_QUANTIZE, -1, x}));
        p->value[x].quantized = true;
    }
    if (op->row) NM_TRY(nm_schedule_task(p, false, out_rows, false, (nm_task){.step = i}));
    if (op->wide) NM_TRY(nm_schedule_task(p, true, out_rows, false, (nm_task){.step = i}));
    if (s->op == NM_OP_LINEAR && nm_in(g->operand, s, 0) == g->hidden) p->logits = (int32_t)p->regions - 1;
    return NM_OK;
}

nm_err nm_schedule_forward(nm_plan *p, const nm_shape *shape)
{
    p->head = -1;
    for (size_t i = 0; i < p->program->steps; i++) NM_TRY(schedule_step(p, shape, (int32_t)i));
    if (p->head < 0) p->body = p->head = (int32_t)p->regions;
    return NM_OK;
}

/* ---- Lifetimes ------------------------------------------------------------------------------------------------------------------
 * Counted in regions, because the phases of one region overlap in time. */

static void touch(int32_t *first, int32_t *last, int32_t region)
{
    if (*first < 0) *first = region;
    if (region > *last) *last = region;
}

/* A use of v in a region. What the backward walk has made again (its second life has begun by then) is used there. */
static void touch_value(nm_plan *p, int32_t v, int32_t region)
{
    int32_t own = p->value[v].parent < 0 ? v : p->value[v].parent;
    nm_value *again = p->region && region < (int32_t)p->regions && p->region[region].back && p->back_value[own].first >= 0 ? &p->back_value[own] : NULL;
    nm_value *x = again ? again : &p->value[own];
    touch(&x->first, &x->last, region);
}

static void touch_gradient(nm_plan *p, int32_t v, int32_t region)
{
    int32_t own = p->value[v].parent < 0 ? v : p->value[v].parent;
    touch(&p->value[own].g_first, &p->value[own].g_last, region);
}

static void touch_forward(nm_plan *p, const nm_shape *shape, const nm_step *s, int32_t region)
{
    const nm_program *g = p->program;
    const nm_op *op = nm_ops[s->op];
    bool int8 = op->reads_int8 && op->reads_int8(shape, s), back = p->region[region].back;
    for (int i = 0; i < s->n_in; i++) {
        int32_t x = nm_in(g->operand, s, i);
        if (back && op->again && !(op->again >> i & 1)) continue;
        if (i == 0 && int8) touch(&p->value[x].q_first, &p->value[x].q_last, region);
        if (i > 0 || !int8 || shape->max_rank) touch_value(p, x, region);       /* slots read the unquantised input */
    }
    for (int i = 0; i < s->n_out; i++) {
        int32_t y = nm_out(g->operand, s, i);
        if (back) touch(&p->back_value[y].first, &p->back_value[y].last, region);
        else touch_value(p, y, region);
    }
}

static void touch_back(nm_plan *p, const nm_shape *shape, const nm_step *s, int32_t region)
{
    const nm_program *g = p->program;
    uint32_t saves = nm_schedule_saves(shape, s), wants = p->owed[s - g->step].wants;
    for (int i = 0; i < s->n_in + s->n_out; i++) if (saves >> i & 1) touch_value(p, g->operand[s->operand + i], region);
    for (int i = 0; i < s->n_in; i++) if (wants >> i & 1) touch_gradient(p, nm_in(g->operand, s, i), region);
    for (int i = 0; i < s->n_out; i++) touch_gradient(p, nm_out(g->operand, s, i), region);
}

static void touch_task(nm_plan *p, const nm_shape *shape, const nm_task *t, int32_t region)
{
    const nm_step *s = &p->program->step[t->step < 0 ? 0 : t->step];
    switch (t->kind) {
    case NM_TASK_FORWARD: touch_forward(p, shape, s, region); break;
    case NM_TASK_BACK: touch_back(p, shape, s, region); break;
    case NM_TASK_ZERO: touch_gradient(p, t->value, region); break;
    case NM_TASK_LOSS:
        touch_value(p, t->value, region);
        touch_gradient(p, t->value, region);
        break;
    case NM_TASK_QUANTIZE:
        touch_value(p, t->value, region);
        touch(&p->value[t->value].q_first, &p->value[t->value].q_last, region);
    }
}

/* True if backward reads the result itself, as a soft cap does (in the very region of the loss). */
static bool saves_result(const nm_plan *p, const nm_shape *shape)
{
    const nm_program *g = p->program;
    for (size_t t = 0; t < p->tasks; t++) {
        const nm_step *s = &g->step[p->task[t].step < 0 ? 0 : p->task[t].step];
        uint32_t saves = p->task[t].kind == NM_TASK_BACK ? nm_schedule_saves(shape, s) : 0;
        for (int i = 0; i < s->n_in + s->n_out; i++) if (saves >> i & 1 && g->operand[s->operand + i] == g->result) return true;
    }
    return false;
}

static void lifetimes(nm_plan *p, const nm_shape *shape)
{
    int32_t end = p->owed ? p->back : (int32_t)p->regions;
    for (size_t r = 0; r < p->regions; r++)
        for (int32_t t = 0; t < p->region[r].tasks; t++) touch_task(p, shape, &p->task[p->region[r].task + t], (int32_t)r);
    for (size_t v = 0; v < p->program->values; v++) {
        nm_value *own = &p->value[p->value[v].parent < 0 ? (int32_t)v : p->value[v].parent];
        if (p->value[v].keep && own->last < end) own->last = end;
    }
    nm_value *result = &p->value[p->program->result], *hidden = &p->value[p->program->hidden];
    if (hidden->parent >= 0) hidden = &p->value[hidden->parent];
    if (!p->owed && hidden->last < p->logits) hidden->last = p->logits;     /* handed out there */
    p->over = p->owed && result->parent < 0 && !saves_result(p, shape);
    if (result->last < end) result->last = end;
    if (p->over && result->last < result->g_last) result->last = result->g_last;
}

/* ---- Memory -------------------------------------------------------------------------------------------------------------------- */

static size_t round64(size_t n) { return (n + 63) & ~(size_t)63; }

/* True if the value's gradient takes its place. */
static bool is_over(const nm_plan *p, size_t v) { return p->over && v == (size_t)p->program->result; }

/* Four extents a value: its floats, its int8 copy, its gradient, and its floats once more where backward makes them again. */
static nm_err place_values(nm_plan *p)
{
    size_t n = p->program->values;
    nm_extent *e = nm_calloc(4 * n, sizeof *e);
    if (!e) return nm_fail_memory(4 * n * sizeof *e);
    for (size_t v = 0; v < n; v++) {
        const nm_value *x = &p->value[v], *again = p->back_value ? &p->back_value[v] : NULL;
        int64_t rows = p->max_rows[x->rows];
        size_t bytes = round64((size_t)rows * (size_t)nm_stride(x) * sizeof(float));
        if (x->parent < 0 && x->first >= 0) e[v] = (nm_extent){.bytes = bytes, .first = x->first, .last = x->last};
        if (x->quantized) e[n + v] = (nm_extent){.bytes = round64(nm_qrows_bytes(rows, x->dim)), .first = x->q_first, .last = x->q_last};
        if (x->parent < 0 && x->g_first >= 0 && !is_over(p, v)) e[2 * n + v] = (nm_extent){.bytes = bytes, .first = x->g_first, .last = x->g_last};
        if (again && again->first >= 0) e[3 * n + v] = (nm_extent){.bytes = bytes, .first = again->first, .last = again->last};
    }
    nm_err err = nm_place(e, 4 * n, &p->memory_bytes);
    for (size_t v = 0; v < n; v++) {
        p->value[v].offset = e[v].offset;
        p->value[v].q_offset = e[n + v].offset;
        p->value[v].g_offset = e[is_over(p, v) ? v : 2 * n + v].offset;
        if (!p->back_value) continue;
        int32_t first = p->back_value[v].first;
        p->back_value[v] = p->value[v];
        if (first >= 0) p->back_value[v].offset = e[3 * n + v].offset;
    }
    nm_free(e);
    return err;
}

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

static void measure_scratch(nm_plan *p, nm_shape *shape, int64_t context)
{
    const nm_program *g = p->program;
    p->slot_ranks = (size_t)shape->max_rank + (size_t)shape->train_rank;
    for (size_t i = 0; i < p->regions; i++) {
        const nm_task *first = &p->task[p->region[i].task], *last = first + p->region[i].tasks - 1;
        if (!p->region[i].wide) continue;
        int32_t together = g->step[last->step].ticket - g->step[first->step].ticket + 1;
        if (together > p->together) p->together = together;
    }
    shape->together = p->together;
    for (size_t i = 0; i < g->steps; i++) {
        const nm_step *s = &g->step[i];
        const nm_op *op = nm_ops[s->op];
        int64_t rows = p->max_rows[nm_owner(g->value, nm_out(g->operand, s, 0))->rows];
        if (op->scratch) p->scratch_bytes = most(p->scratch_bytes, round64(op->scratch(shape, s, rows)));
        if (p->owed && nm_out(g->operand, s, 0) == g->result) p->scratch_bytes = most(p->scratch_bytes, round64((size_t)p->value[g->result].dim * sizeof(float)));
        if (op->shared) p->shared_bytes = most(p->shared_bytes, round64(op->shared(shape, s, rows, context)));
    }
}

nm_err nm_schedule_start(nm_plan *p, const nm_program *program, nm_compute compute, int64_t max_rows, int64_t max_out)
{
    *p = (nm_plan){.program = program, .compute = compute, .max_rows = {[NM_ROWS_BATCH] = max_rows, [NM_ROWS_OUT] = max_out}};
    if (!(p->value = nm_calloc(program->values, sizeof *p->value))) return nm_fail_memory(program->values * sizeof *p->value);
    memcpy(p->value, program->value, program->values * sizeof *p->value);
    return NM_OK;
}

nm_err nm_schedule_place(nm_plan *p, nm_shape *shape, int64_t context)
{
    lifetimes(p, shape);
    measure_scratch(p, shape, context);
    return place_values(p);
}

nm_err nm_plan_make(nm_plan *p, const nm_program *program, const nm_weight *weight, nm_compute compute, int64_t max_rows, int64_t max_out,
    int64_t context, int32_t max_rank)
{
    NM_TRY(nm_schedule_start(p, program, compute, max_rows, max_out));
    nm_shape shape = {.value = p->value, .operand = program->operand, .weight = weight, .compute = compute, .max_rank = max_rank};
    nm_err err = nm_schedule_forward(p, &shape);
    if (err == NM_OK) err = nm_schedule_place(p, &shape, context);
    if (err != NM_OK) nm_plan_free(p);
    return err;
}

void nm_plan_free(nm_plan *p)
{
    nm_free(p->value);
    nm_free(p->task);
    nm_free(p->region);
    nm_free(p->back_value);
    nm_free(p->owed);
    *p = (nm_plan){0};
}
