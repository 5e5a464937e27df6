/* Walks the tree: statements write, expressions give values. Recursion in C is bounded by the height of the tree, which the parser
 * bounds, and by the depth of calls, which nm_rt_enter counts in heights. */
#include <string.h>

#include "base/mem.h"
#include "text/template.h"

typedef enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE, FLOW_ERROR } flow;

static nm_err eval(nm_render *r, nm_frame *f, const nm_node *node, nm_tv *out);
static flow exec(nm_render *r, nm_frame *f, const nm_node *node);

static nm_tv *slot_of(nm_frame *f, nm_ref ref)
{
    for (int i = 0; i < ref.up; i++) f = f->up;
    return &f->slots[ref.slot];
}

static nm_frame *new_frame(nm_render *r, nm_frame *up, size_t n_slots)
{
    nm_frame *f = nm_rt_alloc(r, sizeof *f + n_slots * sizeof *f->slots);
    if (!f) return NULL;
    f->up = up;
    memset(f->slots, 0, n_slots * sizeof *f->slots);
    return f;
}

/* ---- Scopes -------------------------------------------------------------------------------------------------------------------------- */

static nm_err enter_scope(nm_render *r, nm_frame *f, const nm_scope *scope)
{
    NM_TRY(nm_rt_steps(r, scope->n >> 3));
    for (size_t i = 0; i < scope->n; i++) {
        const nm_load *load = &scope->loads[i];
        nm_tv *slot = &f->slots[load->slot];
        if (load->kind == NM_LOAD_ALIAS) *slot = *slot_of(f, load->from);
        if (load->kind == NM_LOAD_UNDEFINED) *slot = (nm_tv){0};
        if (load->kind != NM_LOAD_RESOLVE) continue;
        NM_TRY(nm_tv_dict_text(r, r->variables.d, load->name->s, load->name->n, slot));
        if (!nm_tv_given(*slot)) NM_TRY(nm_global(r, load->name->s, load->name->n, slot));
    }
    return r->err;
}

static void leave_scope(nm_frame *f, const nm_scope *scope)
{
    for (size_t i = 0; i < scope->n; i++) f->slots[scope->loads[i].slot] = (nm_tv){0};
}

/* ---- Expressions ---------------------------------------------------------------------------------------------------------------------- */

static nm_err eval_list(nm_render *r, nm_frame *f, const nm_node *node, nm_tv *out)
{
    nm_tv_list *list;
    nm_tv *items = NULL;
    NM_RT_NEW(r, list, 1);
    if (node->n) NM_RT_NEW(r, items, node->n);
    for (uint32_t i = 0; i < node->n; i++) NM_TRY(eval(r, f, node->list[i], &items[i]));
    *list = (nm_tv_list){items, node->n, NULL};
    *out = (nm_tv){.kind = node->kind == NM_N_LIST ? NM_TV_LIST : NM_TV_TUPLE, .l = list};
    return NM_OK;
}

static nm_err eval_dict(nm_render *r, nm_frame *f, const nm_node *node, nm_tv *out)
{
    NM_TRY(nm_tv_dict_of(r, NM_TV_DICT, out));
    for (uint32_t i = 0; i + 1 < node->n; i += 2) {
        nm_tv key, value;
        NM_TRY(eval(r, f, node->list[i], &key));
        NM_TRY(eval(r, f, node->list[i + 1], &value));
        NM_TRY(nm_tv_dict_set(r, out->d, key, value));
    }
    return NM_OK;
}

static nm_err eval_concat(nm_render *r, nm_frame *f, const nm_node *node, nm_tv *out)
{
    nm_tv joined, next;
    NM_TRY(eval(r, f, node->list[0], &joined));
    NM_TRY(nm_tv_str(r, joined, &joined));
    for (uint32_t i = 1; i < node->n; i++) {
        NM_TRY(eval(r, f, node->list[i], &next));
        NM_TRY(nm_tv_str(r, next, &next));
        NM_TRY(nm_tv_concat(r, joined, next, &joined));
    }
    *out = joined;
    return NM_OK;
}

static nm_err compare_once(nm_render *r, int op, nm_tv a, nm_tv b, bool *out)
{
    static const char *const names[] = {[NM_TOK_LT] = "<", [NM_TOK_LE] = "<=", [NM_TOK_GT] = ">", [NM_TOK_GE] = ">="};
    int c;
    if (op == 'i' || op == 'n' || op == NM_TOK_EQ || op == NM_TOK_NE) {
        NM_TRY(op == 'i' || op == 'n' ? nm_tv_contains(r, b, a, out) : nm_tv_equal(r, a, b, out));
        *out ^= op == 'n' || op == NM_TOK_NE;
        return NM_OK;
    }
    NM_TRY(nm_tv_compare(r, a, b, names[op], &c));
    *out = op == NM_TOK_LT ? c == -1 : op == NM_TOK_LE ? c == -1 || c == 0 : op == NM_TOK_GT ? c == 1 : c == 1 || c == 0;
    return NM_OK;
}

static nm_err eval_compare(nm_render *r, nm_frame *f, const nm_node *node, nm_tv *out)
{
    nm_tv left, right;
    bool holds = true;
    NM_TRY(eval(r, f, node->a, &left));
    for (uint32_t i = 0; holds && i < node->n; i++, left = right) {
        NM_TRY(eval(r, f, node->list[i], &right));
        NM_TRY(compare_once(r, node->compare_ops[i], left, right, &holds));
    }
    *out = nm_tv_bool(holds);
    return NM_OK;
}

static nm_err eval_truth(nm_render *r, nm_frame *f, const nm_node *node, bool *out)
{
    nm_tv v;
    NM_TRY(eval(r, f, node, &v));
    return nm_tv_truth(r, v, out);
}

/* and, or: one of the operands */
static nm_err eval_logic(nm_render *r, nm_frame *f, const nm_node *node, nm_tv *out)
{
    bool truth;
    NM_TRY(eval(r, f, node->a, out));
    NM_TRY(nm_tv_truth(r, *out, &truth));
    return truth == (node->kind == NM_N_AND) ? eval(r, f, node->b, out) : NM_OK;
}

static nm_err eval_unary(nm_render *r, nm_frame *f, const nm_node *node, nm_tv *out)
{
    nm_tv v;
    bool truth;
    int64_t negated;
    NM_TRY(eval(r, f, node->a, &v));
    if (node->kind == NM_N_NOT) {
        NM_TRY(nm_tv_truth(r, v, &truth));
        *out = nm_tv_bool(!truth);
        return NM_OK;
    }
    if (v.kind == NM_TV_UNDEFINED) return nm_tv_fail_undefined(r, v);
    if (!nm_tv_is_number(v)) return nm_rt_fail(r, "bad operand type for unary %c: '%s'", node->kind == NM_N_NEG ? '-' : '+', nm_tv_kind_name(v));
    if (node->kind == NM_N_POS) *out = nm_tv_is_int(v) ? nm_tv_int(nm_tv_as_int(v)) : v;
    else if (v.kind == NM_TV_FLOAT) *out = nm_tv_float(-v.f);
    else if (__builtin_sub_overflow(0, nm_tv_as_int(v), &negated)) return nm_rt_fail(r, "an integer beyond 64 bits; use smaller numbers");
    else *out = nm_tv_int(negated);
    return NM_OK;
}

static nm_err eval_cond(nm_render *r, nm_frame *f, const nm_node *node, nm_tv *out)
{
    bool truth;
    NM_TRY(eval_truth(r, f, node->a, &truth));
    if (truth) return eval(r, f, node->b, out);
    if (node->c) return eval(r, f, node->c, out);
    return nm_tv_undefined_of(r, "the inline if-expression evaluated to false and no else section was defined", NULL, 0, out);
}

static nm_err eval_slice(nm_render *r, nm_frame *f, const nm_node *node, nm_tv *out)
{
    nm_tv of, part[3] = {nm_tv_none(), nm_tv_none(), nm_tv_none()};
    NM_TRY(eval(r, f, node->a, &of));
    for (int i = 0; i < 3; i++) if (node->list[i]) NM_TRY(eval(r, f, node->list[i], &part[i]));
    return nm_tv_slice(r, of, part[0], part[1], part[2], out);
}

static nm_err eval_item(nm_render *r, nm_frame *f, const nm_node *node, nm_tv *out)
{
    nm_tv of, key;
    NM_TRY(eval(r, f, node->a, &of));
    NM_TRY(eval(r, f, node->b, &key));
    r->line = node->line;
    return nm_tv_getitem(r, of, key, out);
}

/* ---- Calls --------------------------------------------------------------------------------------------------------------------------- */

static nm_err spread_positional(nm_render *r, nm_frame *f, const nm_node *more, nm_args *args)
{
    nm_tv v, list;
    NM_TRY(eval(r, f, more, &v));
    if (!nm_tv_iterable(v)) return nm_rt_fail(r, "argument after * must be an iterable, not %s", nm_tv_kind_name(v));
    NM_TRY(nm_iter_collect(r, v, &list));
    nm_tv *all;
    NM_RT_NEW(r, all, args->n + list.l->n);
    if (args->n) memcpy(all, args->pos, args->n * sizeof *all);
    if (list.l->n) memcpy(all + args->n, list.l->items, list.l->n * sizeof *all);
    args->pos = all;
    args->n += list.l->n;
    return NM_OK;
}

static nm_err add_named(nm_render *r, nm_args *args, nm_tv name, nm_tv value)
{
    for (size_t i = 0; i < args->n_kw; i++) {
        bool equal;
        NM_TRY(nm_tv_equal(r, args->names[i], name, &equal));
        if (equal) return nm_rt_fail(r, "got multiple values for keyword argument '%.*s'", (int)(name.s->n < 100 ? name.s->n : 100), name.s->s);
    }
    args->names[args->n_kw] = name;
    args->values[args->n_kw++] = value;
    return NM_OK;
}

static nm_err spread_named(nm_render *r, nm_frame *f, const nm_node *more, nm_tv *v)
{
    NM_TRY(eval(r, f, more, v));
    if (v->kind != NM_TV_DICT) return nm_rt_fail(r, "argument after ** must be a mapping, not %s", nm_tv_kind_name(*v));
    for (size_t i = 0; i < v->d->n; i++) if (v->d->keys[i].kind != NM_TV_STRING) return nm_rt_fail(r, "keywords must be strings");
    return NM_OK;
}

/* caller: MISSING, or the value of one more keyword */
static nm_err eval_args(nm_render *r, nm_frame *f, const nm_call_args *from, nm_tv caller, nm_args *args)
{
    nm_tv named = {0}, name;
    *args = (nm_args){.n = from->n};
    if (from->n) NM_RT_NEW(r, args->pos, from->n);
    for (int i = 0; i < from->n; i++) NM_TRY(eval(r, f, from->pos[i], &args->pos[i]));
    if (from->more) NM_TRY(spread_positional(r, f, from->more, args));
    if (from->more_named) NM_TRY(spread_named(r, f, from->more_named, &named));
    size_t n = from->n_kw + nm_tv_given(caller) + (nm_tv_given(named) ? named.d->n : 0);
    if (!n) return NM_OK;
    NM_RT_NEW(r, args->names, n);
    NM_RT_NEW(r, args->values, n);
    for (int i = 0; i < from->n_kw; i++) {
        nm_tv value;
        NM_TRY(nm_tv_string_of(r, from->names[i]->s, from->names[i]->n, NULL, &name));
        NM_TRY(eval(r, f, from->values[i], &value));
        NM_TRY(add_named(r, args, name, value));
    }
    for (size_t i = 0; nm_tv_given(named) && i < named.d->n; i++) NM_TRY(add_named(r, args, named.d->keys[i], named.d->values[i]));
    if (!nm_tv_given(caller)) return NM_OK;
    NM_TRY(nm_tv_text(r, "caller", &name));
    return add_named(r, args, name, caller);
}

static nm_err eval_call(nm_render *r, nm_frame *f, const nm_node *node, nm_tv caller, nm_tv *out)
{
    nm_tv callee;
    nm_args args;
    NM_TRY(eval(r, f, node->a, &callee));
    NM_TRY(eval_args(r, f, node->args, caller, &args));
    r->line = node->line;
    return nm_tv_call(r, callee, &args, out);
}

/* filters and tests */
static nm_err eval_applied(nm_render *r, nm_frame *f, const nm_node *node, nm_tv *out)
{
    nm_tv v = r->block_text;
    nm_args args;
    if (node->a) NM_TRY(eval(r, f, node->a, &v));
    NM_TRY(eval_args(r, f, node->args, (nm_tv){0}, &args));
    r->line = node->line;
    if (!node->callable)
        return nm_rt_fail(r, "no %s named '%.*s'", node->kind == NM_N_TEST ? "test" : "filter", (int)node->callee->n, node->callee->s);
    return nm_callable_call(r, node->callable, v, &args, out);
}

static nm_err eval(nm_render *r, nm_frame *f, const nm_node *node, nm_tv *out)
{
    nm_tv a, b;
    NM_TRY(nm_rt_steps(r, 1));
    switch ((nm_node_kind)node->kind) {
    case NM_N_CONST: *out = node->value; return NM_OK;
    case NM_N_NAME:
        *out = *slot_of(f, node->ref);
        return nm_tv_given(*out) ? NM_OK : nm_tv_undefined_of(r, NULL, node->name->s, node->name->n, out);
    case NM_N_TUPLE: case NM_N_LIST: return eval_list(r, f, node, out);
    case NM_N_DICT: return eval_dict(r, f, node, out);
    case NM_N_BINARY:
        NM_TRY(eval(r, f, node->a, &a));
        NM_TRY(eval(r, f, node->b, &b));
        r->line = node->line;
        return nm_tv_arith(r, (char)node->op, a, b, out);
    case NM_N_CONCAT: return eval_concat(r, f, node, out);
    case NM_N_COMPARE: return eval_compare(r, f, node, out);
    case NM_N_AND: case NM_N_OR: return eval_logic(r, f, node, out);
    case NM_N_NOT: case NM_N_NEG: case NM_N_POS: return eval_unary(r, f, node, out);
    case NM_N_COND: return eval_cond(r, f, node, out);
    case NM_N_ATTR:
        NM_TRY(eval(r, f, node->a, &a));
        r->line = node->line;
        return nm_tv_getattr(r, a, node->attr->s, node->attr->n, out);
    case NM_N_ITEM: return eval_item(r, f, node, out);
    case NM_N_SLICE: return eval_slice(r, f, node, out);
    case NM_N_CALL: return eval_call(r, f, node, (nm_tv){0}, out);
    case NM_N_FILTER: case NM_N_TEST: return eval_applied(r, f, node, out);
    default: return nm_rt_fail(r, "this expression has no value");
    }
}

/* ---- Output ------------------------------------------------------------------------------------------------------------------------------ */

static nm_err emit(nm_render *r, const char *s, size_t n)
{
    if (r->err != NM_OK) return r->err;
    if (r->capture) {
        nm_sb_put(r->capture, s, n);
        return r->err;
    }
    if (n > r->max_output - r->out.length) return nm_rt_fail(r, "the output is larger than %zu bytes", r->max_output);
    NM_TRY(nm_rt_steps(r, n >> 6));
    return r->err = nm_str_append(&r->out, s, n);
}

static nm_err emit_value(nm_render *r, nm_tv v)
{
    nm_tv text;
    NM_TRY(nm_tv_str(r, v, &text));
    return emit(r, text.s->s, text.s->n);
}

static flow exec_output(nm_render *r, nm_frame *f, const nm_node *node)
{
    for (uint32_t i = 0; i < node->n && r->err == NM_OK; i++) {
        nm_tv v;
        r->line = node->list[i]->line;
        if (eval(r, f, node->list[i], &v) == NM_OK) emit_value(r, v);
    }
    return r->err == NM_OK ? FLOW_NEXT : FLOW_ERROR;
}

/* Runs a body with its output kept; *text is set when the body ran to its end. */
static flow exec_captured(nm_render *r, nm_frame *f, const nm_node *body, nm_tv *text)
{
    nm_sb sb = {r, NULL}, *outer = r->capture;
    r->capture = &sb;
    flow how = exec(r, f, body);
    r->capture = outer;
    if (how == FLOW_NEXT && nm_sb_done(&sb, text) != NM_OK) return FLOW_ERROR;
    return how;
}

/* ---- Assignment -------------------------------------------------------------------------------------------------------------------------- */

static nm_err assign(nm_render *r, nm_frame *f, const nm_node *target, nm_tv v);

static nm_err assign_tuple(nm_render *r, nm_frame *f, const nm_node *target, nm_tv v)
{
    nm_tv_iter it;
    nm_tv item;
    if (!nm_tv_iterable(v)) return nm_rt_fail(r, "cannot unpack non-iterable %s object", nm_tv_kind_name(v));
    NM_TRY(nm_iter_init(r, v, &it));
    for (uint32_t i = 0; i < target->n; i++) {
        NM_TRY(nm_iter_next(r, &it, &item));
        if (!nm_tv_given(item)) return nm_rt_fail(r, "not enough values to unpack (expected %u, got %u)", target->n, i);
        NM_TRY(assign(r, f, target->list[i], item));
    }
    NM_TRY(nm_iter_next(r, &it, &item));
    return nm_tv_given(item) ? nm_rt_fail(r, "too many values to unpack (expected %u)", target->n) : NM_OK;
}

static nm_err assign(nm_render *r, nm_frame *f, const nm_node *target, nm_tv v)
{
    nm_tv name;
    if (target->kind == NM_N_TUPLE) return assign_tuple(r, f, target, v);
    nm_tv *slot = slot_of(f, target->ref);
    if (target->kind == NM_N_NAME) {
        *slot = v;
        return NM_OK;
    }
    if (slot->kind != NM_TV_NAMESPACE) return nm_rt_fail(r, "cannot assign attribute on non-namespace object '%.*s'", (int)target->name->n, target->name->s);
    NM_TRY(nm_tv_string_of(r, target->attr->s, target->attr->n, NULL, &name));
    return nm_tv_dict_set(r, slot->d, name, v);
}

static nm_err exec_set(nm_render *r, nm_frame *f, const nm_node *node)
{
    nm_tv v;
    NM_TRY(eval(r, f, node->b, &v));
    r->line = node->line;
    return assign(r, f, node->a, v);
}

static flow exec_set_block(nm_render *r, nm_frame *f, const nm_node *node)
{
    nm_tv text;
    if (enter_scope(r, f, &node->scope) != NM_OK) return FLOW_ERROR;
    flow how = exec_captured(r, f, node->d, &text);
    if (how != FLOW_NEXT) return how;
    r->block_text = text;
    if (node->b && eval(r, f, node->b, &text) != NM_OK) return FLOW_ERROR;
    if (assign(r, f, node->a, text) != NM_OK) return FLOW_ERROR;
    leave_scope(f, &node->scope);
    return FLOW_NEXT;
}

static flow exec_filter_block(nm_render *r, nm_frame *f, const nm_node *node)
{
    nm_tv text;
    if (enter_scope(r, f, &node->scope) != NM_OK) return FLOW_ERROR;
    flow how = exec_captured(r, f, node->d, &text);
    if (how != FLOW_NEXT) return how;
    r->block_text = text;
    if (eval(r, f, node->b, &text) != NM_OK || emit_value(r, text) != NM_OK) return FLOW_ERROR;
    leave_scope(f, &node->scope);
    return FLOW_NEXT;
}

static flow exec_with(nm_render *r, nm_frame *f, const nm_node *node)
{
    if (enter_scope(r, f, &node->scope) != NM_OK) return FLOW_ERROR;
    for (uint32_t i = 0; i + 1 < node->n; i += 2) {
        nm_tv v;
        if (eval(r, f, node->list[i + 1], &v) != NM_OK || assign(r, f, node->list[i], v) != NM_OK) return FLOW_ERROR;
    }
    flow how = exec(r, f, node->d);
    if (how != FLOW_ERROR) leave_scope(f, &node->scope);
    return how;
}

/* ---- Macros ------------------------------------------------------------------------------------------------------------------------------ */

static nm_err new_macro(nm_render *r, nm_frame *f, const nm_macro_node *node, nm_tv *out)
{
    nm_macro *macro;
    NM_RT_NEW(r, macro, 1);
    *macro = (nm_macro){node, f};
    *out = (nm_tv){.kind = NM_TV_MACRO, .macro = macro};
    return NM_OK;
}

/* The keyword of that name, taken out of args; MISSING if there is none. */
static nm_tv take_keyword(nm_args *args, const char *name, size_t n)
{
    for (size_t i = 0; i < args->n_kw; i++) {
        if (args->names[i].s->n != n || memcmp(args->names[i].s->s, name, n)) continue;
        nm_tv v = args->values[i];
        args->n_kw--;
        memmove(args->names + i, args->names + i + 1, (args->n_kw - i) * sizeof *args->names);
        memmove(args->values + i, args->values + i + 1, (args->n_kw - i) * sizeof *args->values);
        return v;
    }
    return (nm_tv){0};
}

static nm_err bind_caller(nm_render *r, nm_frame *f, const nm_macro_node *m, nm_args *args)
{
    if (!m->has_caller || m->explicit_caller) return NM_OK;
    nm_tv caller = take_keyword(args, "caller", 6);
    if (!nm_tv_given(caller) || caller.kind == NM_TV_NONE) NM_TRY(nm_tv_undefined_of(r, "no caller defined", NULL, 0, &caller));
    f->slots[m->caller_slot] = caller;
    return NM_OK;
}

/* What the parameters left over. */
static nm_err bind_rest(nm_render *r, nm_frame *f, const nm_macro_node *m, const nm_args *args)
{
    size_t over = args->n > m->n_params ? args->n - m->n_params : 0;
    if (m->has_kwargs) {
        nm_tv *kwargs = &f->slots[m->kwargs_slot];
        NM_TRY(nm_tv_dict_of(r, NM_TV_DICT, kwargs));
        for (size_t i = 0; i < args->n_kw; i++) NM_TRY(nm_tv_dict_set(r, kwargs->d, args->names[i], args->values[i]));
    } else if (args->n_kw) {
        return nm_rt_fail(r, "the macro takes no keyword argument '%.*s'", (int)(args->names[0].s->n < 100 ? args->names[0].s->n : 100), args->names[0].s->s);
    }
    if (m->has_varargs) return nm_tv_list_of(r, NM_TV_TUPLE, over ? args->pos + (args->n - over) : NULL, over, &f->slots[m->varargs_slot]);
    return over ? nm_rt_fail(r, "the macro takes not more than %u argument(s)", m->n_params) : NM_OK;
}

static nm_err bind_params(nm_render *r, nm_frame *f, const nm_macro_node *m, nm_args *args)
{
    for (size_t i = 0; i < m->n_params; i++)
        f->slots[m->param_slots[i]] = i < args->n ? args->pos[i] : take_keyword(args, m->params[i]->s, m->params[i]->n);
    NM_TRY(bind_caller(r, f, m, args));
    NM_TRY(bind_rest(r, f, m, args));
    NM_TRY(enter_scope(r, f, &m->scope));
    for (size_t i = 0; i < m->n_params; i++) {
        nm_tv *slot = &f->slots[m->param_slots[i]];
        size_t from = (size_t)m->n_params - m->n_defaults;
        if (nm_tv_given(*slot)) continue;
        if (i >= from) NM_TRY(eval(r, f, m->defaults[i - from], slot));
        else NM_TRY(nm_tv_undefined_of(r, NULL, m->params[i]->s, m->params[i]->n, slot));
    }
    return NM_OK;
}

static int macro_levels(const nm_macro_node *m)
{
    int levels = m->body->height + 1;
    for (int i = 0; i < m->n_defaults; i++) if (m->defaults[i]->height >= levels) levels = m->defaults[i]->height + 1;
    return levels;
}

nm_err nm_macro_call(nm_render *r, const nm_macro *macro, const nm_args *given, nm_tv *out)
{
    const nm_macro_node *m = macro->node;
    nm_args args = *given;
    int levels = macro_levels(m);
    uint32_t line = r->line;
    NM_TRY(nm_rt_enter(r, levels));
    nm_frame *f = new_frame(r, macro->defined_in, m->n_slots);
    if (!f) return r->err;
    NM_TRY(bind_params(r, f, m, &args));
    if (exec_captured(r, f, m->body, out) != FLOW_NEXT) return r->err;
    nm_rt_leave(r, levels);
    r->line = line;
    return NM_OK;
}

/* Writes the block's text and remembers where it stands: the tokens that are trained. */
static nm_err exec_generation(nm_render *r, const nm_macro *body)
{
    nm_tv text;
    nm_args none = {0};
    NM_TRY(nm_macro_call(r, body, &none, &text));
    size_t from = r->out.length;
    NM_TRY(emit_value(r, text));
    if (r->capture) {
        r->mark_lost = true;
        return NM_OK;
    }
    NM_TRY(r->err = NM_GROW(r->marks, r->marks_capacity, r->n_marks + 1));
    r->marks[r->n_marks++] = (nm_mark){from, r->out.length};
    return NM_OK;
}

static nm_err exec_call_block(nm_render *r, nm_frame *f, const nm_node *node)
{
    nm_tv macro, text;
    NM_TRY(new_macro(r, f, node->macro, &macro));
    if (node->kind == NM_N_GENERATION) return exec_generation(r, macro.macro);
    NM_TRY(eval_call(r, f, node->a, macro, &text));
    return emit_value(r, text);
}

/* ---- Loops ---------------------------------------------------------------------------------------------------------------------------- */

/* The items that meet the loop's condition, found one at a time. */
typedef struct condition { const nm_node *node; nm_frame *frame; bool begun; } condition;

static nm_err next_meeting(nm_render *r, nm_tv_iter *it, nm_tv *out)
{
    condition *c = it->state;
    const nm_for_node *loop = c->node->loop;
    const int levels = loop->test->height + 1;      /* a condition may ask an outer loop for its next item, and so on outwards */
    bool holds = false;
    NM_TRY(nm_rt_enter(r, levels));
    if (!c->begun) NM_TRY(enter_scope(r, c->frame, &loop->test_scope));
    c->begun = true;
    while (!holds) {
        NM_TRY(nm_iter_next(r, it->inner, out));
        if (!nm_tv_given(*out)) break;
        NM_TRY(assign(r, c->frame, loop->test_target, *out));
        NM_TRY(eval_truth(r, c->frame, loop->test, &holds));
    }
    nm_rt_leave(r, levels);
    return NM_OK;
}

static nm_err only_meeting(nm_render *r, nm_frame *f, const nm_node *node, nm_tv *iterable)
{
    condition *c;
    nm_tv_iter *inner;
    NM_RT_NEW(r, c, 1);
    NM_RT_NEW(r, inner, 1);
    *c = (condition){node, new_frame(r, f, node->loop->test_slots), false};
    NM_TRY(r->err);
    NM_TRY(nm_iter_init(r, *iterable, inner));
    NM_TRY(nm_iter_value(r, "loop filter", next_meeting, *iterable, c, iterable));
    iterable->it->inner = inner;
    return NM_OK;
}

static flow run_body(nm_render *r, nm_frame *f, const nm_node *node, nm_loop *loop, bool *completed)
{
    nm_tv item;
    *completed = false;
    for (;;) {
        r->line = node->line;
        if (nm_loop_next(r, loop, &item) != NM_OK) return FLOW_ERROR;
        if (!nm_tv_given(item)) break;
        if (assign(r, f, node->a, item) != NM_OK) return FLOW_ERROR;
        f->slots[node->loop->loop_slot] = (nm_tv){.kind = NM_TV_LOOP, .loop = loop};
        if (enter_scope(r, f, &node->loop->scope) != NM_OK) return FLOW_ERROR;
        flow how = exec(r, f, node->d);
        if (how == FLOW_ERROR) return how;
        if (how == FLOW_BREAK) break;
        if (how == FLOW_NEXT) *completed = true;    /* jinja2 runs else unless some iteration reached its end */
    }
    leave_scope(f, &node->loop->scope);
    return FLOW_NEXT;
}

/* f: where the loop's own variables live; outer: where its iterable and condition were written. */
static flow run_loop(nm_render *r, nm_frame *f, nm_frame *outer, const nm_node *node, nm_tv iterable, int64_t depth0)
{
    nm_loop *loop = nm_rt_array(r, 1, sizeof *loop);
    bool completed;
    if (!loop) return FLOW_ERROR;
    if (node->loop->test && only_meeting(r, outer, node, &iterable) != NM_OK) return FLOW_ERROR;
    if (nm_loop_init(r, loop, iterable) != NM_OK) return FLOW_ERROR;
    loop->depth0 = depth0;
    loop->node = node;
    loop->outer = outer;
    flow how = run_body(r, f, node, loop, &completed);
    if (how != FLOW_NEXT || completed || !node->c) return how;
    if (enter_scope(r, f, &node->loop->else_scope) != NM_OK) return FLOW_ERROR;
    how = exec(r, f, node->c);
    if (how != FLOW_ERROR) leave_scope(f, &node->loop->else_scope);
    return how;
}

nm_err nm_loop_recurse(nm_render *r, const nm_node *node, nm_frame *outer, nm_tv iterable, int64_t depth0, nm_tv *out)
{
    nm_sb sb = {r, NULL}, *captured = r->capture;
    int levels = node->height + 1;
    NM_TRY(nm_rt_enter(r, levels));
    nm_frame *f = new_frame(r, outer, node->loop->n_slots);
    if (!f) return r->err;
    r->capture = &sb;
    run_loop(r, f, outer, node, iterable, depth0);
    r->capture = captured;
    NM_TRY(nm_sb_done(&sb, out));
    nm_rt_leave(r, levels);
    return NM_OK;
}

static flow exec_for(nm_render *r, nm_frame *f, const nm_node *node)
{
    nm_tv iterable, text;
    if (eval(r, f, node->b, &iterable) != NM_OK) return FLOW_ERROR;
    if (!node->loop->recursive) return run_loop(r, f, f, node, iterable, 0);
    if (nm_loop_recurse(r, node, f, iterable, 0, &text) != NM_OK) return FLOW_ERROR;
    return emit_value(r, text) == NM_OK ? FLOW_NEXT : FLOW_ERROR;
}

/* ---- Statements ------------------------------------------------------------------------------------------------------------------------ */

static flow exec_if(nm_render *r, nm_frame *f, const nm_node *node)
{
    for (uint32_t i = 0; i + 1 < node->n; i += 2) {
        bool truth;
        r->line = node->list[i]->line;
        if (eval_truth(r, f, node->list[i], &truth) != NM_OK) return FLOW_ERROR;
        if (truth) return exec(r, f, node->list[i + 1]);
    }
    return node->c ? exec(r, f, node->c) : FLOW_NEXT;
}

static flow exec_body(nm_render *r, nm_frame *f, const nm_node *node)
{
    for (uint32_t i = 0; i < node->n; i++) {
        flow how = exec(r, f, node->list[i]);
        if (how != FLOW_NEXT) return how;
    }
    return FLOW_NEXT;
}

static flow exec(nm_render *r, nm_frame *f, const nm_node *node)
{
    nm_err err;
    if (nm_rt_steps(r, 1) != NM_OK) return FLOW_ERROR;
    if (node->kind != NM_N_BODY) r->line = node->line;
    switch ((nm_node_kind)node->kind) {
    case NM_N_BODY: return exec_body(r, f, node);
    case NM_N_OUTPUT: return exec_output(r, f, node);
    case NM_N_IF: return exec_if(r, f, node);
    case NM_N_FOR: return exec_for(r, f, node);
    case NM_N_SET_BLOCK: return exec_set_block(r, f, node);
    case NM_N_FILTER_BLOCK: return exec_filter_block(r, f, node);
    case NM_N_WITH: return exec_with(r, f, node);
    case NM_N_BREAK: return FLOW_BREAK;
    case NM_N_CONTINUE: return FLOW_CONTINUE;
    case NM_N_SET: err = exec_set(r, f, node); break;
    case NM_N_MACRO: err = new_macro(r, f, node->macro, slot_of(f, node->macro->self)); break;
    case NM_N_CALL_BLOCK: case NM_N_GENERATION: err = exec_call_block(r, f, node); break;
    default: err = nm_rt_fail(r, "an unknown statement"); break;
    }
    return err == NM_OK ? FLOW_NEXT : FLOW_ERROR;
}

nm_err nm_template_run(nm_render *r)
{
    nm_frame *f = new_frame(r, NULL, r->tmpl->n_slots);
    if (!f) return r->err;
    NM_TRY(enter_scope(r, f, &r->tmpl->scope));
    exec(r, f, r->tmpl->body);
    return r->err;
}
