/* Rotary embedding (Su et al. 2021). ROPE_TABLE makes cos and sin of each row's position once a pass; ROPE turns the heads of q or k by
 * them. A constant of the positions, so the table has no adjoint; ROPE's adjoint turns back by the same angles.
 * The angle is position * frequency in fp32, as the models were trained with. */
#include <math.h>
#include <string.h>

#include "op/op.h"

static nm_err table_shape(const nm_shape *c, const nm_step *s)
{
    int64_t dim = c->value[nm_out(c->operand, s, 0)].dim;
    return dim == 2 * s->args.table.pairs ? NM_OK : nm_bad_shape(s, "width", dim, 2 * s->args.table.pairs);
}

static void table_row(const nm_exec *e, const nm_step *s, int64_t r, int64_t c0, int64_t c1)
{
    float *cosines = nm_at_out(e, s, 0, r), *sines = cosines + s->args.table.pairs;
    float position = (float)e->row[r].position;
    for (int i = 0; i < s->args.table.pairs; i++) {
        float angle = position * s->args.table.frequency[i];
        cosines[i] = cosf(angle) * s->args.table.magnitude;
        sines[i] = sinf(angle) * s->args.table.magnitude;
    }
}

const nm_op nm_op_rope_table = {.name = "rope_table", .shape = table_shape, .row = table_row, .constant = true};

enum { MOST_PAIRS = 512 };

static nm_err rope_shape(const nm_shape *c, const nm_step *s)
{
    int64_t dim = c->value[nm_in(c->operand, s, 0)].dim, table = c->value[nm_in(c->operand, s, 1)].dim;
    if (s->args.rope.head < 1 || dim % s->args.rope.head) return nm_bad_shape(s, "width", dim, s->args.rope.head);
    if (s->args.rope.n_rot > s->args.rope.head || s->args.rope.n_rot % 2) return nm_bad_shape(s, "rotated columns", s->args.rope.n_rot, s->args.rope.head);
    if (s->args.rope.n_rot > 2 * MOST_PAIRS) return nm_bad_shape(s, "rotated columns", s->args.rope.n_rot, 2 * MOST_PAIRS);
    if (table != s->args.rope.n_rot) return nm_bad_shape(s, "width of the table", table, s->args.rope.n_rot);
    return NM_OK;
}

static void rope_row(const nm_exec *e, const nm_step *s, int64_t r, int64_t c0, int64_t c1)
{
    int64_t dim = e->value[nm_in(e->operand, s, 0)].dim;
    const float *x = nm_at_in(e, s, 0, r), *cosines = nm_at_in(e, s, 1, r), *sines = cosines + s->args.rope.n_rot / 2;
    float *y = nm_at_out(e, s, 0, r);
    memcpy(y, x, (size_t)dim * sizeof *y);
    for (int64_t c = 0; c < dim; c += s->args.rope.head) e->kernel->rope(y + c, cosines, sines, s->args.rope.n_rot, s->args.rope.neox);
}

/* Turns dy back where it stands, which nobody reads after this, and hands it on. */
static void rope_back(const nm_exec *e, const nm_step *s, int64_t r)
{
    int64_t dim = e->value[nm_in(e->operand, s, 0)].dim;
    const float *cosines = nm_at_in(e, s, 1, r), *sines = cosines + s->args.rope.n_rot / 2;
    float *dy = nm_grad_out(e, s, 0, r), back[MOST_PAIRS];
    for (int i = 0; i < s->args.rope.n_rot / 2; i++) back[i] = -sines[i];
    for (int64_t c = 0; c < dim; c += s->args.rope.head) e->kernel->rope(dy + c, cosines, back, s->args.rope.n_rot, s->args.rope.neox);
    nm_grad_put(e, s, 0, r, 0, dy, dim);
}

const nm_op nm_op_rope = {.name = "rope", .shape = rope_shape, .row = rope_row, .back_row = rope_back, .saves = 2};
