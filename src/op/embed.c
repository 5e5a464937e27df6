/* Embedding: y = scale * W[token], or W[position] for learned positions. Reads the row from the same panels that the head uses
 * when the two are tied. Slots of the stack come before the scale: y = fma(s, (onehot A') B', y), where onehot A' is a column of A.
 * Adjoint: dW[token] += scale * dy. */
#include <string.h>

#include "op/op.h"

static nm_err shape(const nm_shape *c, const nm_step *s)
{
    const nm_weight *w = &c->weight[nm_weight_of(c->operand, s, 0)];
    int64_t dim = c->value[nm_out(c->operand, s, 0)].dim;
    return w->k == dim ? NM_OK : nm_bad_shape(s, "width", dim, w->k);
}

/* Chains over the rank, 16 outputs (a panel of B) at a time. */
static void add_slot(const nm_exec *e, const nm_slot *slot, int64_t id, float *y)
{
    const float *t = (const float *)(const void *)(slot->a.rows + (size_t)id * slot->a.row_bytes);
    for (int64_t p = 0; p < slot->b.panels; p++) {
        const float *b = (const float *)(const void *)(slot->b.data + (size_t)p * slot->b.panel_bytes);
        int64_t n = slot->b.n - p * NM_PANEL < NM_PANEL ? slot->b.n - p * NM_PANEL : NM_PANEL;
        float u[NM_PANEL];
        memset(u, 0, sizeof u);
        for (int64_t r = 0; r < slot->b.k; r++) e->kernel->add_scaled(u, b + r * NM_PANEL, t[r], NM_PANEL, u);
        e->kernel->add_scaled(y + p * NM_PANEL, u, slot->scale, n, y + p * NM_PANEL);
    }
}

static void add_slots(const nm_exec *e, const nm_stack *stack, int32_t weight, int64_t id, float *y)
{
    for (int32_t i = stack->first[weight]; i < stack->first[weight + 1]; i++)
        if (stack->slot[i].scale != 0) add_slot(e, &stack->slot[i], id, y);
}

static void row(const nm_exec *e, const nm_step *s, int64_t r, int64_t c0, int64_t c1)
{
    const nm_weight *w = nm_step_weight(e, s, 0);
    const nm_row *at = &e->row[r];
    float *y = nm_at_out(e, s, 0, r);
    int64_t id = s->args.embed.positions ? at->position : at->token;
    nm_panels_row(&w->panels, id, y);
    if (at->stack) add_slots(e, at->stack, w->id, id, y);
    if (s->args.embed.scale != 1.0f) e->kernel->scale(y, s->args.embed.scale, w->k, y);
}

/* Rows of one token meet in one row of the gradient: the first thread adds them in order. */
static void back_wide(nm_exec *e, const nm_step *s, int thread, int threads)
{
    const nm_weight *w = nm_step_weight(e, s, 0);
    float *dw = nm_weight_grad(e, s, 0);
    if (thread || !dw) return;
    for (int64_t r = 0; r < e->rows[NM_ROWS_BATCH]; r++) {
        float *to = dw + (s->args.embed.positions ? e->row[r].position : e->row[r].token) * w->k;
        e->kernel->add_scaled(to, nm_grad_out(e, s, 0, r), s->args.embed.scale, w->k, to);
    }
}

const nm_op nm_op_embed = {.name = "embed", .shape = shape, .row = row, .back_wide = back_wide};
