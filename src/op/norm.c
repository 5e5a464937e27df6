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

static void row(const nm_exec *e, const nm_step *s, int64_t r, int64_t c0, int64_t c1)
{
    int64_t dim = e->value[nm_in(e->operand, s, 0)].dim, group = group_of(s, dim);
    const float *x = nm_at_in(e, s, 0, r);
    float *y = nm_at_out(e, s, 0, r);
    const nm_weight *w = s->n_weight > 0 ? nm_step_weight(e, s, 0) : NULL, *b = s->n_weight > 1 ? nm_step_weight(e, s, 1) : NULL;
    for (int64_t c = 0; c < dim; c += group) {
        const float *scale = w ? w->vector + (w->n == dim ? c : 0) : NULL;
        const float *bias = b ? b->vector + (b->n == dim ? c : 0) : NULL;
        if (s->args.norm.layer) e->kernel->layer_norm(x + c, scale, bias, s->args.norm.eps, group, y + c);
        else e->kernel->rms_norm(x + c, scale, s->args.norm.eps, group, y + c);
    }
}

const nm_op nm_op_norm = {.name = "norm", .shape = shape, .row = row, .saves = 1};
