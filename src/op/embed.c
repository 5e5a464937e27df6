/* Embedding: y = scale * W[token], or W[position] for learned positions. Reads the row from the same panels that the head uses
 * when the two are tied. Adjoint: dW[token] += scale * dy. */
#include "op/op.h"

static nm_err shape(const nm_shape *c, const nm_step *s)
{
    const nm_weight *w = &c->weight[nm_weight_of(c->operand, s, 0)];
    int64_t dim = c->value[nm_out(c->operand, s, 0)].dim;
    return w->k == dim ? NM_OK : nm_bad_shape(s, "width", dim, w->k);
}

static void row(const nm_exec *e, const nm_step *s, int64_t r, int64_t c0, int64_t c1)
{
    const nm_weight *w = nm_step_weight(e, s, 0);
    const nm_row *at = &e->row[r];
    float *y = nm_at_out(e, s, 0, r);
    nm_panels_row(&w->panels, s->args.embed.positions ? at->position : at->token, y);
    if (s->args.embed.scale != 1.0f) e->kernel->scale(y, s->args.embed.scale, w->k, y);
}

/* Rows of one token meet in one row of the gradient: the first thread adds them in order. */
static void back_wide(nm_exec *e, const nm_step *s, int thread, int threads)
{
    const nm_weight *w = nm_step_weight(e, s, 0);
    float *dw = e->train->grad[w->id];
    if (thread || !dw) return;
    for (int64_t r = 0; r < e->rows[NM_ROWS_BATCH]; r++) {
        float *to = dw + (s->args.embed.positions ? e->row[r].position : e->row[r].token) * w->k;
        e->kernel->add_scaled(to, nm_grad_out(e, s, 0, r), s->args.embed.scale, w->k, to);
    }
}

const nm_op nm_op_embed = {.name = "embed", .shape = shape, .row = row, .back_wide = back_wide};
