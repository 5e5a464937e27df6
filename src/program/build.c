/* The builder: appends values and steps, keeps the first error. */
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "program/program.h"

static bool failed(nm_builder *b, nm_err err)
{
    if (b->err == NM_OK) b->err = err;
    return b->err != NM_OK;
}

static int32_t new_value(nm_builder *b, nm_rows rows, int64_t dim)
{
    nm_program *p = b->program;
    if (dim < 1) {
        failed(b, nm_fail(NM_BAD_FILE, "layer %d: a width of %lld makes no sense", (int)b->layer, (long long)dim));
        return NM_NONE;
    }
    if (failed(b, NM_GROW(p->value, p->value_capacity, p->values + 1))) return NM_NONE;
    p->value[p->values] = (nm_value){.rows = rows, .dim = dim, .parent = NM_NONE, .first = -1, .last = -1, .q_first = -1, .q_last = -1,
        .g_first = -1, .g_last = -1};
    return (int32_t)p->values++;
}

static nm_rows rows_of(const nm_builder *b, int32_t v) { return nm_owner(b->program->value, v)->rows; }
static int64_t dim_of(const nm_builder *b, int32_t v) { return b->program->value[v].dim; }

static void add_operand(nm_builder *b, int32_t index) { b->program->operand[b->program->operands++] = index; }

/* One step with up to three inputs and two weights; those that are NM_NONE are left out. */
static int32_t add_step(nm_builder *b, nm_opcode op, const int32_t in[3], const int32_t weight[2], nm_rows rows, int64_t dim, nm_op_args args)
{
    nm_program *p = b->program;
    if (b->err != NM_OK) return NM_NONE;
    int32_t out = new_value(b, rows, dim);
    if (failed(b, NM_GROW(p->step, p->step_capacity, p->steps + 1)) || failed(b, NM_GROW(p->operand, p->operand_capacity, p->operands + 6))) return NM_NONE;
    nm_step *s = &p->step[p->steps++];
    *s = (nm_step){.op = op, .n_out = 1, .operand = (int32_t)p->operands, .layer = b->layer, .ticket = p->tickets++, .args = args};
    for (int i = 0; i < 3; i++) if (in[i] != NM_NONE) { add_operand(b, in[i]); s->n_in++; }
    add_operand(b, out);
    for (int i = 0; i < 2; i++) if (weight[i] != NM_NONE) { add_operand(b, weight[i]); s->n_weight++; }
    return out;
}

#define IN(...) (const int32_t[3]){__VA_ARGS__}
#define WEIGHTS(...) (const int32_t[2]){__VA_ARGS__}

/* ---- Weights ------------------------------------------------------------------------------------------------------------------ */

static int32_t bind(nm_builder *b, const char *suffix, int64_t n, int64_t k, bool optional)
{
    char name[128];
    int32_t id = NM_NONE;
    if (b->err != NM_OK) return NM_NONE;
    if (b->layer >= 0) snprintf(name, sizeof name, "blk.%d.%s", (int)b->layer, suffix);
    else snprintf(name, sizeof name, "%s", suffix);
    failed(b, b->bind(b->bind_arg, name, n, k, optional, &id));
    return id;
}

int32_t nm_build_map(nm_builder *b, const char *suffix, int64_t n, int64_t k) { return bind(b, suffix, n, k, false); }
int32_t nm_build_map_optional(nm_builder *b, const char *suffix, int64_t n, int64_t k) { return bind(b, suffix, n, k, true); }
int32_t nm_build_vector(nm_builder *b, const char *suffix, int64_t n) { return bind(b, suffix, n, 0, false); }
int32_t nm_build_vector_optional(nm_builder *b, const char *suffix, int64_t n) { return bind(b, suffix, n, 0, true); }

/* ---- Steps -------------------------------------------------------------------------------------------------------------------- */

int32_t nm_build_embed(nm_builder *b, int32_t weight, int64_t dim, float scale, bool positions)
{
    return add_step(b, NM_OP_EMBED, IN(-1, -1, -1), WEIGHTS(weight, -1), NM_ROWS_BATCH, dim,
        (nm_op_args){.embed = {.positions = positions, .scale = scale}});
}

static int32_t norm(nm_builder *b, int32_t x, int32_t weight, int32_t bias, float eps, int32_t group, bool layer)
{
    if (b->err != NM_OK) return NM_NONE;
    return add_step(b, NM_OP_NORM, IN(x, -1, -1), WEIGHTS(weight, bias), rows_of(b, x), dim_of(b, x),
        (nm_op_args){.norm = {.eps = eps, .layer = layer, .group = group}});
}

int32_t nm_build_rms_norm(nm_builder *b, int32_t x, int32_t weight, float eps, int32_t group) { return norm(b, x, weight, NM_NONE, eps, group, false); }

int32_t nm_build_layer_norm(nm_builder *b, int32_t x, int32_t weight, int32_t bias, float eps, int32_t group)
{
    return norm(b, x, weight, bias, eps, group, true);
}

int32_t nm_build_linear(nm_builder *b, int32_t x, int32_t weight, int32_t bias, int64_t n)
{
    if (b->err != NM_OK) return NM_NONE;
    return add_step(b, NM_OP_LINEAR, IN(x, -1, -1), WEIGHTS(weight, bias), rows_of(b, x), n, (nm_op_args){0});
}

int32_t nm_build_table(nm_builder *b, const float *frequency, int32_t pairs, float magnitude)
{
    return add_step(b, NM_OP_ROPE_TABLE, IN(-1, -1, -1), WEIGHTS(-1, -1), NM_ROWS_BATCH, 2 * (int64_t)pairs,
        (nm_op_args){.table = {.frequency = frequency, .pairs = pairs, .magnitude = magnitude}});
}

int32_t nm_build_rope(nm_builder *b, int32_t x, int32_t table, const nm_rope *rope, int32_t head)
{
    if (b->err != NM_OK) return NM_NONE;
    return add_step(b, NM_OP_ROPE, IN(x, table, -1), WEIGHTS(-1, -1), rows_of(b, x), dim_of(b, x),
        (nm_op_args){.rope = {.head = head, .n_rot = rope->n_rot, .neox = rope->neox}});
}

/* Slots with the same window share pages. */
static int32_t group_of(nm_builder *b, int32_t window)
{
    nm_program *p = b->program;
    for (int32_t g = 0; g < p->groups; g++) if (p->window[g] == window) return g;
    if (p->groups == NM_MAX_GROUPS) {
        failed(b, nm_fail(NM_REFUSED, "layer %d: more than %d different attention windows", (int)b->layer, NM_MAX_GROUPS));
        return 0;
    }
    p->window[p->groups] = window;
    return p->groups++;
}

int32_t nm_build_attention(nm_builder *b, int32_t q, int32_t k, int32_t v, int32_t heads, int32_t heads_kv, int32_t d_k, int32_t d_v,
    int32_t window, float scale, float cap)
{
    nm_program *p = b->program;
    if (b->err != NM_OK || failed(b, NM_GROW(p->slot, p->slot_capacity, p->slots + 1))) return NM_NONE;
    p->slot[p->slots] = (nm_kv_slot){.group = group_of(b, window), .heads = heads_kv, .d_k = d_k, .d_v = d_v};
    return add_step(b, NM_OP_ATTENTION, IN(q, k, v), WEIGHTS(-1, -1), rows_of(b, q), (int64_t)heads * d_v,
        (nm_op_args){.attention = {.slot = (int32_t)p->slots++, .heads = heads, .heads_kv = heads_kv, .d_k = d_k, .d_v = d_v,
            .window = window, .scale = scale, .cap = cap}});
}

static int32_t elementwise(nm_builder *b, nm_opcode op, int32_t x, int32_t y, nm_op_args args)
{
    if (b->err != NM_OK) return NM_NONE;
    return add_step(b, op, IN(x, y, -1), WEIGHTS(-1, -1), rows_of(b, x), dim_of(b, x), args);
}

int32_t nm_build_glu(nm_builder *b, int32_t gate, int32_t up, nm_activation act) { return elementwise(b, NM_OP_GLU, gate, up, (nm_op_args){.act = {act}}); }
int32_t nm_build_act(nm_builder *b, int32_t x, nm_activation act) { return elementwise(b, NM_OP_ACT, x, NM_NONE, (nm_op_args){.act = {act}}); }
int32_t nm_build_add(nm_builder *b, int32_t x, int32_t y, float alpha) { return elementwise(b, NM_OP_ADD, x, y, (nm_op_args){.add = {alpha}}); }

int32_t nm_build_scale(nm_builder *b, int32_t x, float factor)
{
    return factor == 1.0f ? x : elementwise(b, NM_OP_SCALE, x, NM_NONE, (nm_op_args){.scale = {factor}});
}

int32_t nm_build_softcap(nm_builder *b, int32_t x, float cap)
{
    return cap == 0 ? x : elementwise(b, NM_OP_SOFTCAP, x, NM_NONE, (nm_op_args){.softcap = {cap}});
}

int32_t nm_build_select(nm_builder *b, int32_t x)
{
    if (b->err != NM_OK) return NM_NONE;
    const nm_program *p = b->program;
    for (size_t i = p->steps; i > 0; i--)
        if (p->step[i - 1].op == NM_OP_SELECT && nm_in(p->operand, &p->step[i - 1], 0) == x) return nm_out(p->operand, &p->step[i - 1], 0);
    b->program->value[x].keep = true;       /* every pass of the head reads it again */
    return add_step(b, NM_OP_SELECT, IN(x, -1, -1), WEIGHTS(-1, -1), NM_ROWS_OUT, dim_of(b, x), (nm_op_args){0});
}

bool nm_build_selected(const nm_builder *b, int32_t x) { return b->err == NM_OK && rows_of(b, x) == NM_ROWS_OUT; }

int32_t nm_build_view(nm_builder *b, int32_t x, int64_t column, int64_t dim)
{
    if (b->err != NM_OK) return NM_NONE;
    if (column < 0 || dim < 1 || column + dim > dim_of(b, x)) {
        failed(b, nm_fail(NM_BAD_FILE, "layer %d: columns %lld to %lld of a value of %lld", (int)b->layer, (long long)column,
            (long long)(column + dim), (long long)dim_of(b, x)));
        return NM_NONE;
    }
    int32_t v = new_value(b, rows_of(b, x), dim);
    if (v == NM_NONE) return v;
    const nm_value *of = &b->program->value[x];
    b->program->value[v].parent = of->parent < 0 ? x : of->parent;
    b->program->value[v].column = of->column + column;
    return v;
}

void nm_build_result(nm_builder *b, int32_t hidden, int32_t logits)
{
    b->program->hidden = hidden;
    b->program->result = logits;
}

/* ---- Checks, layout, freeing --------------------------------------------------------------------------------------------------- */

/* All operands of a step have the same rows, but for select, which goes from the whole batch, and from whole values, to the rows that want logits. Nothing of the
 * whole batch stands behind these: the plan cuts the program there. */
static nm_err check_rows(const nm_program *p, const nm_step *s, bool *selected)
{
    bool selects = s->op == NM_OP_SELECT;
    nm_rows out = nm_owner(p->value, nm_out(p->operand, s, 0))->rows;
    for (int k = 0; k < s->n_in; k++) {
        int32_t x = nm_in(p->operand, s, k);
        if (nm_owner(p->value, x)->rows != (selects ? NM_ROWS_BATCH : out) || (selects && p->value[x].parent >= 0))
            return nm_fail(NM_BAD_FILE, "layer %d: %s: rows of the batch and rows that want logits do not go together", (int)s->layer, nm_ops[s->op]->name);
    }
    if (*selected && out == NM_ROWS_BATCH)
        return nm_fail(NM_BAD_FILE, "layer %d: %s: of the whole batch, behind rows that want logits", (int)s->layer, nm_ops[s->op]->name);
    *selected |= selects;
    return NM_OK;
}

nm_err nm_program_check(const nm_program *p, nm_mode mode, const nm_weight *weight)
{
    nm_shape shape = {.value = p->value, .operand = p->operand, .weight = weight};
    bool selected = false;
    for (size_t i = 0; i < p->steps; i++) {
        const nm_op *op = nm_ops[p->step[i].op];
        NM_TRY(op->shape(&shape, &p->step[i]));
        NM_TRY(check_rows(p, &p->step[i], &selected));
        if (mode == NM_MODE_TRAIN && !op->back_row && !op->back_wide && !op->constant)
            return nm_fail(NM_REFUSED, "layer %d: %s cannot be trained through yet", (int)p->step[i].layer, op->name);
    }
    return NM_OK;
}

void nm_program_free(nm_program *p)
{
    for (size_t i = 0; i < p->constants; i++) nm_free(p->constant[i]);
    nm_free(p->constant);
    nm_free(p->value);
    nm_free(p->step);
    nm_free(p->operand);
    nm_free(p->slot);
    *p = (nm_program){0};
}

nm_err nm_program_kv_layout(const nm_program *p, nm_kv_type type, nm_kv_layout *layout)
{
    *layout = (nm_kv_layout){.type = type, .groups = p->groups, .slots = (int32_t)p->slots};
    if (!(layout->slot = nm_calloc(p->slots, sizeof *layout->slot))) return nm_fail_memory(p->slots * sizeof *layout->slot);
    for (int32_t g = 0; g < p->groups; g++) layout->group[g].window = p->window[g];
    for (size_t i = 0; i < p->slots; i++) {
        nm_kv_slot *s = &layout->slot[i];
        *s = p->slot[i];
        s->v_offset = nm_kv_k_bytes(type, s->d_k);
        s->head_bytes = s->v_offset + nm_kv_v_bytes(type, s->d_v);
        s->offset = layout->group[s->group].page_bytes;
        layout->group[s->group].page_bytes += (size_t)s->heads * s->head_bytes;
    }
    return NM_OK;
}

static nm_err dump_step(const nm_program *p, const nm_weight *weight, size_t i, nm_str *out)
{
    const nm_step *s = &p->step[i];
    NM_TRY(nm_str_printf(out, "%zu\tlayer %d\t%s\tv%d =", i, (int)s->layer, nm_ops[s->op]->name, (int)nm_out(p->operand, s, 0)));
    for (int k = 0; k < s->n_in; k++) NM_TRY(nm_str_printf(out, " v%d", (int)nm_in(p->operand, s, k)));
    for (int k = 0; k < s->n_weight; k++) {
        const nm_weight *w = &weight[nm_weight_of(p->operand, s, k)];
        NM_TRY(nm_str_printf(out, " %s[%lld", w->name, (long long)w->n));
        NM_TRY(w->k ? nm_str_printf(out, "x%lld %s]", (long long)w->k, w->panels.type->name) : nm_str_puts(out, "]"));
    }
    return nm_str_printf(out, "\t[%lld]\n", (long long)p->value[nm_out(p->operand, s, 0)].dim);
}

nm_err nm_program_dump(const nm_program *p, const nm_weight *weight, nm_str *out)
{
    for (size_t i = 0; i < p->steps; i++) NM_TRY(dump_step(p, weight, i, out));
    return NM_OK;
}
