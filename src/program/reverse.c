/* The plan for training: the forward schedule, the loss, and the same steps walked in reverse (law 3). It finds out whose gradient is asked
 * for, so that nothing is computed that nobody reads, and which values of the forward are kept for backward or made again (law 5). */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "program/schedule.h"

typedef struct reverse {
    nm_plan *plan;
    const nm_shape *shape;
    nm_remake remake;
    int32_t *producer;          /* by value: the step that makes it, or -1 */
    struct facts {
        bool flows;             /* its gradient is asked for */
        bool reached;           /* a later step has set its gradient */
        bool viewed;            /* other values are columns of it */
        bool saved;             /* backward reads it */
        bool crosses;           /* a step of another layer reads it */
        bool kept, remade;
    } *value;                   /* by value; of owners */
} reverse;

static int32_t owner(const reverse *r, int32_t v)
{
    const nm_value *x = &r->plan->program->value[v];
    return x->parent < 0 ? v : x->parent;
}

static struct facts *facts_of(const reverse *r, int32_t v) { return &r->value[owner(r, v)]; }

/* NM_TRAIN_* of all weights of the step together. */
static int is_trained(const nm_shape *shape, const nm_step *s)
{
    int how = 0;
    for (int i = 0; i < s->n_weight; i++) how |= nm_trained(shape, nm_weight_of(shape->operand, s, i));
    return how;
}

uint32_t nm_schedule_saves(const nm_shape *shape, const nm_step *s)
{
    const nm_op *op = nm_ops[s->op];
    int trained = is_trained(shape, s);
    return op->saves | (trained ? op->saves_trained : 0) | (trained & NM_TRAIN_GAIN ? op->saves_gain : 0);
}

/* ---- Facts about values --------------------------------------------------------------------------------------------------------- */

/* In the order of the program: a gradient is asked for where a trained weight, or a value whose gradient is asked for, goes in. */
static void find_flow(reverse *r)
{
    const nm_program *g = r->plan->program;
    for (size_t i = 0; i < g->steps; i++) {
        const nm_step *s = &g->step[i];
        bool flows = is_trained(r->shape, s);
        for (int k = 0; k < s->n_in; k++) {
            struct facts *x = facts_of(r, nm_in(g->operand, s, k));
            int32_t made = r->producer[owner(r, nm_in(g->operand, s, k))];
            if (x->flows) {
                flows = true;
                r->plan->owed[i].wants |= (uint8_t)(1u << k);
            }
            if (made >= 0 && g->step[made].layer != s->layer) x->crosses = true;
        }
        if (nm_ops[s->op]->constant) r->plan->owed[i].wants = 0;
        else if (flows) facts_of(r, nm_out(g->operand, s, 0))->flows = true;
        r->producer[owner(r, nm_out(g->operand, s, 0))] = (int32_t)i;
    }
    for (size_t v = 0; v < g->values; v++) if (g->value[v].parent >= 0) r->value[g->value[v].parent].viewed = true;
}

static bool has_backward(const reverse *r, size_t i)
{
    const nm_step *s = &r->plan->program->step[i];
    return facts_of(r, nm_out(r->plan->program->operand, s, 0))->flows && (r->plan->owed[i].wants || is_trained(r->shape, s));
}

static nm_err find_saved(reverse *r)
{
    const nm_program *g = r->plan->program;
    for (size_t i = 0; i < g->steps; i++) {
        const nm_step *s = &g->step[i];
        const nm_op *op = nm_ops[s->op];
        if (!has_backward(r, i)) continue;
        if (!op->back_row && !op->back_wide) return nm_fail(NM_REFUSED, "layer %d: %s cannot be trained through yet", (int)s->layer, op->name);
        uint32_t saves = nm_schedule_saves(r->shape, s);
        for (int k = 0; k < s->n_in + s->n_out; k++) if (saves >> k & 1) facts_of(r, g->operand[s->operand + k])->saved = true;
    }
    return NM_OK;
}

/* True if a row phase alone makes it, of values that are there for backward in any case. */
static bool is_cheap(const reverse *r, const nm_step *s)
{
    const nm_op *op = nm_ops[s->op];
    if (op->wide || op->constant) return false;
    for (int k = 0; k < s->n_in; k++) if (!facts_of(r, nm_in(r->plan->program->operand, s, k))->saved) return false;
    return true;
}

static void choose_kept(reverse *r)
{
    const nm_program *g = r->plan->program;
    for (size_t i = 0; i < g->steps; i++) {
        const nm_step *s = &g->step[i];
        const nm_value *v = &g->value[owner(r, nm_out(g->operand, s, 0))];
        struct facts *y = &r->value[v - g->value];
        switch (r->remake) {
        case NM_REMAKE_NOTHING: y->kept = true; break;
        case NM_REMAKE_ROWS: y->kept = !is_cheap(r, s) || v->keep; break;
        case NM_REMAKE_LAYERS: y->kept = y->crosses || v->keep || v->rows == NM_ROWS_OUT; break;
        }
    }
}

/* ---- The walk back --------------------------------------------------------------------------------------------------------------- */

static nm_rows rows_of(const reverse *r, const nm_step *s)
{
    return nm_owner(r->plan->program->value, nm_out(r->plan->program->operand, s, 0))->rows;
}

/* Sees to it that v is there: makes it again, and first what it is made of, unless it was kept. */
static nm_err need(reverse *r, int32_t v)
{
    const nm_program *g = r->plan->program;
    struct facts *x = facts_of(r, v);
    int32_t made = r->producer[owner(r, v)];
    if (x->kept || x->remade || made < 0) return NM_OK;
    const nm_step *s = &g->step[made];
    const nm_op *op = nm_ops[s->op];
    for (int k = 0; k < s->n_in; k++) if (!op->again || op->again >> k & 1) NM_TRY(need(r, nm_in(g->operand, s, k)));
    x->remade = true;
    if (op->row && !op->again) NM_TRY(nm_schedule_task(r->plan, false, rows_of(r, s), true, (nm_task){.step = made}));
    if (op->wide) NM_TRY(nm_schedule_task(r->plan, true, rows_of(r, s), true, (nm_task){.step = made}));
    return NM_OK;
}

/* Who sets a gradient and who adds to it. One that is set by parts, through views, begins with zeros. */
static nm_err owe(reverse *r, size_t i)
{
    const nm_program *g = r->plan->program;
    nm_owed *owed = &r->plan->owed[i];
    for (int k = 0; k < g->step[i].n_in; k++) {
        int32_t v = nm_in(g->operand, &g->step[i], k);
        struct facts *x = facts_of(r, v);
        if (!(owed->wants >> k & 1)) continue;
        if (!x->reached && x->viewed) NM_TRY(nm_schedule_task(r->plan, false, g->value[owner(r, v)].rows, true, (nm_task){NM_TASK_ZERO, -1, owner(r, v)}));
        if (x->reached || x->viewed) owed->adds |= (uint8_t)(1u << k);
        x->reached = true;
    }
    return NM_OK;
}

static nm_err reverse_step(reverse *r, size_t i)
{
    const nm_program *g = r->plan->program;
    const nm_step *s = &g->step[i];
    const nm_op *op = nm_ops[s->op];
    uint32_t saves = nm_schedule_saves(r->shape, s), wants = r->plan->owed[i].wants;
    if (!has_backward(r, i) || !facts_of(r, nm_out(g->operand, s, 0))->reached) return NM_OK;
    for (int k = 0; k < s->n_in + s->n_out; k++) if (saves >> k & 1) NM_TRY(need(r, g->operand[s->operand + k]));
    NM_TRY(owe(r, i));
    nm_task task = {NM_TASK_BACK, (int32_t)i, -1};
    if (op->back_row && wants) NM_TRY(nm_schedule_task(r->plan, false, rows_of(r, s), true, task));
    if (op->back_wide && (is_trained(r->shape, s) || (wants && !op->back_row))) NM_TRY(nm_schedule_task(r->plan, true, rows_of(r, s), true, task));
    return NM_OK;
}

static nm_err schedule_backward(reverse *r)
{
    nm_plan *p = r->plan;
    const nm_program *g = p->program;
    size_t i = g->steps;
    p->loss = (int32_t)p->regions;
    NM_TRY(nm_schedule_task(p, false, NM_ROWS_OUT, true, (nm_task){NM_TASK_LOSS, -1, g->result}));
    facts_of(r, g->result)->reached = true;
    for (; i > 0 && rows_of(r, &g->step[i - 1]) == NM_ROWS_OUT; i--) NM_TRY(reverse_step(r, i - 1));
    p->back = (int32_t)p->regions;
    for (; i > 0; i--) NM_TRY(reverse_step(r, i - 1));
    return NM_OK;
}

static nm_err schedule(reverse *r)
{
    const nm_program *g = r->plan->program;
    nm_plan *p = r->plan;
    p->owed = nm_calloc(g->steps, sizeof *p->owed);
    p->back_value = nm_calloc(g->values, sizeof *p->back_value);
    r->producer = nm_calloc(g->values, sizeof *r->producer);
    r->value = nm_calloc(g->values, sizeof *r->value);
    if (!p->owed || !p->back_value || !r->producer || !r->value) return nm_fail_memory(g->values * sizeof *p->back_value);
    memcpy(p->back_value, g->value, g->values * sizeof *p->back_value);
    for (size_t v = 0; v < g->values; v++) r->producer[v] = -1;
    find_flow(r);
    NM_TRY(find_saved(r));
    choose_kept(r);
    for (size_t i = 0; i < g->steps; i++)       /* the plan sets them to zero before the head */
        if (g->step[i].op == NM_OP_SELECT) facts_of(r, nm_in(g->operand, &g->step[i], 0))->reached = true;
    NM_TRY(nm_schedule_forward(p, r->shape));
    return schedule_backward(r);
}

nm_err nm_plan_make_training(nm_plan *p, const nm_program *program, const nm_weight *weight, const nm_train_plan *train, int64_t max_rows,
    int64_t max_out, int32_t max_rank)
{
    NM_TRY(nm_schedule_start(p, program, NM_COMPUTE_F32, max_rows, max_out));
    nm_shape shape = {.value = p->value, .operand = program->operand, .weight = weight, .compute = NM_COMPUTE_F32, .bf16 = train->bf16, .max_rank = max_rank,
        .trained = train->trained, .train_rank = train->rank};
    p->bf16 = train->bf16;
    reverse r = {.plan = p, .shape = &shape, .remake = train->remake};
    nm_err err = schedule(&r);
    if (err == NM_OK) err = nm_schedule_place(p, &shape, max_rows);
    nm_free(r.producer);
    nm_free(r.value);
    if (err != NM_OK) nm_plan_free(p);
    return err;
}
