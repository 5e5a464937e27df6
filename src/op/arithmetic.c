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

/* Columns handled at a time where a gradient needs a place between. */
enum { PIECE = 256 };
static int64_t piece_of(int64_t left) { return left < PIECE ? left : PIECE; }
static int64_t width_of(const nm_exec *e, const nm_step *s) { return e->value[nm_out(e->operand, s, 0)].dim; }

/* gradient of input i (+)= factor * dy */
static void pass_on(const nm_exec *e, const nm_step *s, int i, int64_t r, float factor)
{
    const float *dy = nm_grad_out(e, s, 0, r);
    float *dx = nm_grad_in(e, s, i, r);
    if (nm_adds(e, s, i)) e->kernel->add_scaled(dx, dy, factor, width_of(e, s), dx);
    else e->kernel->scale(dy, factor, width_of(e, s), dx);
}

static void add_back(const nm_exec *e, const nm_step *s, int64_t r)
{
    if (nm_wants(e, s, 0)) pass_on(e, s, 0, r, 1);
    if (nm_wants(e, s, 1)) pass_on(e, s, 1, r, s->args.add.alpha);
}
const nm_op nm_op_add = {.name = "add", .shape = same_width, .row = add_row, .columns = true, .back_row = add_back};

static void scale_row(const nm_exec *e, const nm_step *s, int64_t r, int64_t c0, int64_t c1)
{
    e->kernel->scale(nm_at_in(e, s, 0, r) + c0, s->args.scale.factor, c1 - c0, nm_at_out(e, s, 0, r) + c0);
}
static void scale_back(const nm_exec *e, const nm_step *s, int64_t r) { pass_on(e, s, 0, r, s->args.scale.factor); }
const nm_op nm_op_scale = {.name = "scale", .shape = same_width, .row = scale_row, .columns = true, .back_row = scale_back};

static void softcap_row(const nm_exec *e, const nm_step *s, int64_t r, int64_t c0, int64_t c1)
{
    e->kernel->softcap(nm_at_in(e, s, 0, r) + c0, s->args.softcap.cap, c1 - c0, nm_at_out(e, s, 0, r) + c0);
}
static void softcap_back(const nm_exec *e, const nm_step *s, int64_t r)
{
    const float *y = nm_at_out(e, s, 0, r), *dy = nm_grad_out(e, s, 0, r);
    float g[PIECE];
    for (int64_t c = 0, n; c < width_of(e, s); c += n) {
        n = piece_of(width_of(e, s) - c);
        e->kernel->softcap_back(y + c, dy + c, s->args.softcap.cap, n, g);
        nm_grad_put(e, s, 0, r, c, g, n);
    }
}
const nm_op nm_op_softcap = {.name = "softcap", .shape = same_width, .row = softcap_row, .columns = true, .back_row = softcap_back, .saves = 2};

static void activate(const nm_exec *e, nm_activation act, const float *x, int64_t n, float *y)
{
    switch (act) {
    case NM_ACT_SILU: e->kernel->silu(x, n, y); break;
    case NM_ACT_GELU_TANH: e->kernel->gelu_tanh(x, n, y); break;
    case NM_ACT_GELU_ERF: e->kernel->gelu_erf(x, n, y); break;
    }
}

static void activate_back(const nm_exec *e, nm_activation act, const float *x, const float *dy, int64_t n, float *dx)
{
    switch (act) {
    case NM_ACT_SILU: e->kernel->silu_back(x, dy, n, dx); break;
    case NM_ACT_GELU_TANH: e->kernel->gelu_tanh_back(x, dy, n, dx); break;
    case NM_ACT_GELU_ERF: e->kernel->gelu_erf_back(x, dy, n, dx); break;
    }
}

static void act_row(const nm_exec *e, const nm_step *s, int64_t r, int64_t c0, int64_t c1)
{
    activate(e, s->args.act.act, nm_at_in(e, s, 0, r) + c0, c1 - c0, nm_at_out(e, s, 0, r) + c0);
}
static void act_back(const nm_exec *e, const nm_step *s, int64_t r)
{
    float g[PIECE];
    for (int64_t c = 0, n; c < width_of(e, s); c += n) {
        n = piece_of(width_of(e, s) - c);
        activate_back(e, s->args.act.act, nm_at_in(e, s, 0, r) + c, nm_grad_out(e, s, 0, r) + c, n, g);
        nm_grad_put(e, s, 0, r, c, g, n);
    }
}
const nm_op nm_op_act = {.name = "activation", .shape = same_width, .row = act_row, .columns = true, .back_row = act_back, .saves = 1};

/* y = act(gate) * up */
static void glu_row(const nm_exec *e, const nm_step *s, int64_t r, int64_t c0, int64_t c1)
{
    float *y = nm_at_out(e, s, 0, r) + c0;
    activate(e, s->args.act.act, nm_at_in(e, s, 0, r) + c0, c1 - c0, y);
    e->kernel->mul(y, nm_at_in(e, s, 1, r) + c0, c1 - c0, y);
}
/* d gate = dy * up * act'(gate);  d up = dy * act(gate) */
static void glu_back(const nm_exec *e, const nm_step *s, int64_t r)
{
    float g[PIECE];
    for (int64_t c = 0, n; c < width_of(e, s); c += n) {
        const float *gate = nm_at_in(e, s, 0, r) + c, *up = nm_at_in(e, s, 1, r) + c, *dy = nm_grad_out(e, s, 0, r) + c;
        n = piece_of(width_of(e, s) - c);
        if (nm_wants(e, s, 0)) {
            e->kernel->mul(dy, up, n, g);
            activate_back(e, s->args.act.act, gate, g, n, g);
            nm_grad_put(e, s, 0, r, c, g, n);
        }
        if (!nm_wants(e, s, 1)) continue;
        activate(e, s->args.act.act, gate, n, g);
        e->kernel->mul(dy, g, n, g);
        nm_grad_put(e, s, 1, r, c, g, n);
    }
}
const nm_op nm_op_glu = {.name = "glu", .shape = same_width, .row = glu_row, .columns = true, .back_row = glu_back, .saves = 3};

/* Copies the rows that want logits, so that the head computes nothing else. */
static void select_row(const nm_exec *e, const nm_step *s, int64_t r, int64_t c0, int64_t c1)
{
    memcpy(nm_at_out(e, s, 0, r), nm_at_in(e, s, 0, e->out_row[r]), (size_t)e->value[nm_out(e->operand, s, 0)].dim * sizeof(float));
}
/* Adds to rows of the whole batch, which the plan has set to zero: the head runs in chunks of rows, and those that want no logits get none. */
static void select_back(const nm_exec *e, const nm_step *s, int64_t r)
{
    float *dx = nm_grad_in(e, s, 0, e->out_row[r]);
    e->kernel->add_scaled(dx, nm_grad_out(e, s, 0, r), 1, width_of(e, s), dx);
}
const nm_op nm_op_select = {.name = "select", .shape = same_width, .row = select_row, .back_row = select_back};
