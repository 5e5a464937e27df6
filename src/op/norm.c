/* RMS norm (Zhang and Sennrich 2019) and layer norm (Ba et al. 2016) over a row, or over each group of `group` columns (a head).
 * inputs: x; outputs: y; weights: scale [dim or group] (optional), bias [dim or group] (optional). */
#include "op/op.h"

static int64_t group_of(const nm_step *s, int64_t dim) { return s->args.norm.group ? s->args.norm.group : dim; }

static nm_err shape(const nm_shape *c, const nm_step *s)
{
    int64_t dim = c->value[nm_in(c->operand, s, 0)].dim, out = c->value[nm_out(c->operand, s, 0)].dim, group = group_of(s, dim);
    if (out != dim) return nm_bad_shape(s, "width", out, dim);
    if (group < 1 || dim % group) return nm_bad_shape(s, "group", group, dim);
    for (int i = 0; i < s->n_weight; i++) {
        const nm_weight *w = &c->weight[nm_weight_of(c->operand, s, i)];
        if (w->n != dim && w->n != group) return nm_bad_shape(s, "length of the weight", w->n, group);
    }
    return NM_OK;
}

/* The part of a weight vector that belongs to the group at column c; NULL: no such weight. */
static const float *vector_at(const nm_exec *e, const nm_step *s, int i, int64_t c)
{
    if (s->n_weight <= i) return NULL;
    const nm_weight *w = nm_step_weight(e, s, i);
    return w->vector + (w->n == e->value[nm_in(e->operand, s, 0)].dim ? c : 0);
}

static void row(const nm_exec *e, const nm_step *s, int64_t r, int64_t c0, int64_t c1)
{
    int64_t dim = e->value[nm_in(e->operand, s, 0)].dim, group = group_of(s, dim);
    const float *x = nm_at_in(e, s, 0, r);
    float *y = nm_at_out(e, s, 0, r), eps = s->args.norm.eps;
    for (int64_t c = 0; c < dim; c += group) {
        const float *scale = vector_at(e, s, 0, c);
        if (s->args.norm.layer) e->kernel->layer_norm(x + c, scale, vector_at(e, s, 1, c), eps, group, y + c);
        else e->kernel->rms_norm(x + c, scale, eps, group, y + c);
    }
}

static void back_row(const nm_exec *e, const nm_step *s, int64_t r)
{
    int64_t dim = e->value[nm_in(e->operand, s, 0)].dim, group = group_of(s, dim);
    const float *x = nm_at_in(e, s, 0, r), *dy = nm_grad_out(e, s, 0, r);
    float *dx = nm_grad_in(e, s, 0, r);
    if (!nm_wants(e, s, 0)) return;
    for (int64_t c = 0; c < dim; c += group)
        (s->args.norm.layer ? e->kernel->layer_norm_back : e->kernel->rms_norm_back)
            (x + c, vector_at(e, s, 0, c), dy + c, s->args.norm.eps, group, dx + c, nm_adds(e, s, 0));
}

/* Folds one row into the gradients of scale and bias; what several groups share is a fold over them as well. */
static void fold_row(const nm_exec *e, const nm_step *s, int64_t r, float *dw, float *db)
{
    int64_t dim = e->value[nm_in(e->operand, s, 0)].dim, group = group_of(s, dim);
    const float *x = nm_at_in(e, s, 0, r), *dy = nm_grad_out(e, s, 0, r);
    for (int64_t c = 0; c < dim; c += group) {
        int64_t at = nm_step_weight(e, s, 0)->n == dim ? c : 0;
        float mean, scale;
        e->kernel->norm_facts(x + c, s->args.norm.eps, s->args.norm.layer, group, &mean, &scale);
        if (dw) e->kernel->norm_back_weight(x + c, mean, scale, dy + c, group, dw + at);
        if (db) e->kernel->add_scaled(db + at, dy + c, 1, group, db + at);
    }
}

/* Few numbers, and one order: the first thread does it alone. */
static void back_wide(nm_exec *e, const nm_step *s, int thread, int threads)
{
    float *dw = nm_weight_grad(e, s, 0), *db = nm_weight_grad(e, s, 1);
    if (thread || (!dw && !db)) return;
    int64_t rows = e->rows[nm_owner(e->value, nm_in(e->operand, s, 0))->rows];
    for (int64_t r = 0; r < rows; r++) fold_row(e, s, r, dw, db);
}

const nm_op nm_op_norm = {.name = "norm", .shape = shape, .row = row, .back_row = back_row, .back_wide = back_wide, .saves = 1};
