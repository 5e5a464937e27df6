/* Elementwise steps: sums, scales, soft caps, activations and gated units (Shazeer 2020), and the choice of rows for the head. */
#include <string.h>

#include "op/op.h"

static nm_err same_width(const nm_shape *c, const nm_step *s)
{
    int64_t dim = c->value[nm_out(c->operand, s, 0)].dim;
    for (int i = 0; i < s->n_in; i++) {
        int64_t in = c->value[nm_in(c->operand, s, i)].dim;
        if (in != dim) return nm_bad_shape(s, "width", in, dim);
    }
    return NM_OK;
}

static void add_row(const nm_exec *e, const nm_step *s, int64_t r, int64_t c0, int64_t c1)
{
    e->kernel->add_scaled(nm_at_in(e, s, 0, r) + c0, nm_at_in(e, s, 1, r) + c0, s->args.add.alpha, c1 - c0, nm_at_out(e, s, 0, r) + c0);
}
const nm_op nm_op_add = {.name = "add", .shape = same_width, .row = add_row, .columns = true};

static void scale_row(const nm_exec *e, const nm_step *s, int64_t r, int64_t c0, int64_t c1)
{
    e->kernel->scale(nm_at_in(e, s, 0, r) + c0, s->args.scale.factor, c1 - c0, nm_at_out(e, s, 0, r) + c0);
}
const nm_op nm_op_scale = {.name = "scale", .shape = same_width, .row = scale_row, .columns = true};

static void softcap_row(const nm_exec *e, const nm_step *s, int64_t r, int64_t c0, int64_t c1)
{
    e->kernel->softcap(nm_at_in(e, s, 0, r) + c0, s->args.softcap.cap, c1 - c0, nm_at_out(e, s, 0, r) + c0);
}
const nm_op nm_op_softcap = {.name = "softcap", .shape = same_width, .row = softcap_row, .columns = true, .saves = 2};

static void activate(const nm_exec *e, nm_activation act, const float *x, int64_t n, float *y)
{
    switch (act) {
    case NM_ACT_SILU: e->kernel->silu(x, n, y); break;
    case NM_ACT_GELU_TANH: e->kernel->gelu_tanh(x, n, y); break;
    case NM_ACT_GELU_ERF: e->kernel->gelu_erf(x, n, y); break;
    }
}

static void act_row(const nm_exec *e, const nm_step *s, int64_t r, int64_t c0, int64_t c1)
{
    activate(e, s->args.act.act, nm_at_in(e, s, 0, r) + c0, c1 - c0, nm_at_out(e, s, 0, r) + c0);
}
const nm_op nm_op_act = {.name = "activation", .shape = same_width, .row = act_row, .columns = true, .saves = 1};

/* y = act(gate) * up */
static void glu_row(const nm_exec *e, const nm_step *s, int64_t r, int64_t c0, int64_t c1)
{
    float *y = nm_at_out(e, s, 0, r) + c0;
    activate(e, s->args.act.act, nm_at_in(e, s, 0, r) + c0, c1 - c0, y);
    e->kernel->mul(y, nm_at_in(e, s, 1, r) + c0, c1 - c0, y);
}
const nm_op nm_op_glu = {.name = "glu", .shape = same_width, .row = glu_row, .columns = true, .saves = 3};

/* Copies the rows that want logits, so that the head computes nothing else. */
static void select_row(const nm_exec *e, const nm_step *s, int64_t r, int64_t c0, int64_t c1)
{
    memcpy(nm_at_out(e, s, 0, r), nm_at_in(e, s, 0, e->out_row[r]), (size_t)e->value[nm_out(e->operand, s, 0)].dim * sizeof(float));
}
const nm_op nm_op_select = {.name = "select", .shape = same_width, .row = select_row};
