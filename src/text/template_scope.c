/* Gives every name its slot before anything runs. jinja2 decides at compile time whether a name in a scope means the scope's own
 * variable, one further out or one of the rendering's; templates depend on it in their corners (a name set later in a scope hides
 * the variable of that name in loops before it; what a branch sets keeps its old value where the branch is not taken). So the same
 * decision is made here, in the same two passes: first all loads and stores of a scope, then the scopes inside it. */
#include "base/mem.h"
#include "text/template.h"

/* A Python function of the compiled template: the root, a macro, a call block, a recursive loop, a loop's condition. */
typedef struct function { int depth; uint32_t n_slots; } function;

typedef struct symbol_state { bool referenced, stored, loads; nm_load_kind kind; nm_ref from; } symbol_state;
typedef struct symbol { uint32_t scope; const nm_name *name; uint16_t slot; symbol_state now; struct symbol *next; } symbol;
typedef struct scope { struct scope *parent; function *function; uint32_t id; bool in_loop; symbol *first, *last; } scope;

typedef struct change { symbol *symbol; symbol_state state; } change;
typedef struct changes { change *items; size_t n, capacity; } changes;

typedef struct scoper {
    nm_parser *p;
    symbol **table;             /* hash of (scope, name) */
    size_t n, buckets;
    uint32_t n_scopes;
    changes log, kept;          /* what branches changed: states before, and states after */
} scoper;

/* ---- Symbols of a scope ------------------------------------------------------------------------------------------------------------ */

static size_t bucket_of(const scoper *x, uint32_t scope_id, const nm_name *name)
{
    uint64_t h = (scope_id * 0x9e3779b97f4a7c15u) ^ (name->id * 0xd1b54a32d192ed03u);
    size_t at = (h ^ h >> 29) & (x->buckets - 1);
    while (x->table[at] && (x->table[at]->scope != scope_id || x->table[at]->name != name)) at = (at + 1) & (x->buckets - 1);
    return at;
}

static bool table_grow(scoper *x)
{
    size_t old_n = x->buckets;
    symbol **old = x->table;
    size_t want = old_n ? old_n * 2 : 256;
    symbol **table = nm_parse_alloc(x->p, want, sizeof *table);
    if (!table) return false;
    x->table = table;
    x->buckets = want;
    for (size_t i = 0; i < old_n; i++) if (old[i]) table[bucket_of(x, old[i]->scope, old[i]->name)] = old[i];
    return true;
}

static symbol *find_own(const scoper *x, const scope *s, const nm_name *name)
{
    symbol *found = x->buckets ? x->table[bucket_of(x, s->id, name)] : NULL;
    return found && found->now.referenced ? found : NULL;
}

/* The symbol that the name means here, and the scope it belongs to. */
static symbol *find(const scoper *x, const scope *s, const nm_name *name, const scope **where)
{
    for (; s; s = s->parent) {
        symbol *found = find_own(x, s, name);
        *where = s;
        if (found) return found;
    }
    return NULL;
}

static nm_ref ref_to(const scope *from, const scope *where, const symbol *found)
{
    return (nm_ref){(uint16_t)(from->function->depth - where->function->depth), found->slot};
}

/* The scope's symbol of this name, made if need be; it keeps its slot through all branches. */
static symbol *own_symbol(scoper *x, scope *s, const nm_name *name)
{
    if (x->n * 2 >= x->buckets && !table_grow(x)) return NULL;
    size_t at = bucket_of(x, s->id, name);
    if (x->table[at]) return x->table[at];
    symbol *made = nm_parse_alloc(x->p, 1, sizeof *made);
    if (!made) return NULL;
    if (s->function->n_slots == UINT16_MAX) {
        nm_parse_fail(x->p, 1, "more than %d variables in one macro", UINT16_MAX);
        return NULL;
    }
    made->scope = s->id;
    made->name = name;
    made->slot = (uint16_t)s->function->n_slots++;
    if (s->last) s->last->next = made;
    else s->first = made;
    s->last = made;
    x->n++;
    return x->table[at] = made;
}

static void log_add(scoper *x, changes *log, symbol *of, symbol_state state)
{
    if (x->p->err != NM_OK || (x->p->err = NM_GROW(log->items, log->capacity, log->n + 1)) != NM_OK) return;
    log->items[log->n++] = (change){of, state};
}

static void set_state(scoper *x, symbol *of, symbol_state state)
{
    if (!of) return;
    log_add(x, &x->log, of, of->now);
    of->now = state;
}

static void declare_parameter(scoper *x, scope *s, const nm_name *name)
{
    set_state(x, own_symbol(x, s, name), (symbol_state){true, true, true, NM_LOAD_PARAMETER, {0, 0}});
}

static void load(scoper *x, scope *s, const nm_name *name)
{
    const scope *where;
    if (!find(x, s, name, &where)) set_state(x, own_symbol(x, s, name), (symbol_state){true, false, true, NM_LOAD_RESOLVE, {0, 0}});
}

static void store(scoper *x, scope *s, const nm_name *name)
{
    symbol *own = own_symbol(x, s, name), *outer;
    const scope *where;
    if (!own) return;
    symbol_state state = own->now;
    state.stored = true;
    if (!state.referenced) {
        state.referenced = state.loads = true;
        outer = find(x, s->parent, name, &where);
        state.kind = outer ? NM_LOAD_ALIAS : NM_LOAD_UNDEFINED;
        if (outer) state.from = ref_to(s, where, outer);
    }
    set_state(x, own, state);
}

/* ---- First pass: what a scope loads and stores, in order, without the scopes inside it ------------------------------------------ */

static void analyze(scoper *x, scope *s, nm_node *node);

static void analyze_list(scoper *x, scope *s, nm_node **list, size_t n)
{
    for (size_t i = 0; i < n; i++) analyze(x, s, list[i]);
}

static void analyze_args(scoper *x, scope *s, const nm_call_args *args)
{
    if (!args) return;
    analyze_list(x, s, args->pos, args->n);
    analyze_list(x, s, args->values, args->n_kw);
    analyze(x, s, args->more);
    analyze(x, s, args->more_named);
}

static void store_target(scoper *x, scope *s, nm_node *target, bool parameter)
{
    if (target->kind == NM_N_TUPLE) {
        for (uint32_t i = 0; i < target->n; i++) store_target(x, s, target->list[i], parameter);
    } else if (target->kind == NM_N_NSREF) {
        load(x, s, target->name);
    } else if (parameter) {
        declare_parameter(x, s, target->name);
    } else {
        if (s->in_loop && target->name == x->p->loop_name) nm_parse_fail(x->p, target->line, "cannot assign to the special variable 'loop' inside a loop");
        store(x, s, target->name);
    }
}

/* Undoes what a branch did since `from`, keeping the states it ended with. */
static void end_branch(scoper *x, size_t from)
{
    for (size_t i = x->log.n; i-- > from;) {
        change *c = &x->log.items[i];
        log_add(x, &x->kept, c->symbol, c->symbol->now);
        c->symbol->now = c->state;
    }
    x->log.n = from;
}

/* After all branches: what any of them referenced is referenced; what any of them newly stored keeps its outer value elsewhere. */
static void merge_branches(scoper *x, scope *s, size_t from)
{
    for (size_t i = from; i < x->kept.n; i++) {
        symbol *of = x->kept.items[i].symbol, *outer;
        symbol_state after = x->kept.items[i].state, merged = of->now;
        const scope *where;
        bool newly = after.stored && !merged.stored;
        if (!merged.referenced && after.referenced) merged = after;
        if (newly) {
            outer = find(x, s->parent, of->name, &where);
            merged.stored = merged.loads = true;
            merged.kind = outer ? NM_LOAD_ALIAS : NM_LOAD_RESOLVE;
            if (outer) merged.from = ref_to(s, where, outer);
        }
        set_state(x, of, merged);
    }
    x->kept.n = from;
}

static void analyze_if(scoper *x, scope *s, nm_node *node)
{
    size_t kept = x->kept.n, start;
    analyze(x, s, node->list[0]);
    start = x->log.n;
    analyze(x, s, node->list[1]);
    end_branch(x, start);
    for (uint32_t i = 2; i + 1 < node->n; i += 2) {     /* the elifs are one branch that holds an if each */
        size_t inner_kept = x->kept.n, inner;
        analyze(x, s, node->list[i]);
        inner = x->log.n;
        analyze(x, s, node->list[i + 1]);
        end_branch(x, inner);
        merge_branches(x, s, inner_kept);
    }
    end_branch(x, start);
    analyze(x, s, node->c);
    end_branch(x, start);
    merge_branches(x, s, kept);
}

static void analyze_statement(scoper *x, scope *s, nm_node *node)
{
    switch ((nm_node_kind)node->kind) {
    case NM_N_IF: analyze_if(x, s, node); break;
    case NM_N_FOR: analyze(x, s, node->b); break;
    case NM_N_SET:
        analyze(x, s, node->b);
        store_target(x, s, node->a, false);
        break;
    case NM_N_SET_BLOCK: store_target(x, s, node->a, false); break;
    case NM_N_WITH:
        for (uint32_t i = 1; i < node->n; i += 2) analyze(x, s, node->list[i]);
        break;
    case NM_N_FILTER_BLOCK: analyze(x, s, node->b); break;
    case NM_N_MACRO: store(x, s, node->macro->name); break;
    case NM_N_CALL_BLOCK: analyze(x, s, node->a); break;
    default: break;
    }
}

static void analyze(scoper *x, scope *s, nm_node *node)
{
    if (!node || x->p->err != NM_OK) return;
    switch ((nm_node_kind)node->kind) {
    case NM_N_CONST: break;
    case NM_N_NAME: case NM_N_NSREF: load(x, s, node->name); break;
    case NM_N_CALL: case NM_N_FILTER: case NM_N_TEST:
        analyze(x, s, node->a);
        analyze_args(x, s, node->args);
        break;
    case NM_N_IF: case NM_N_FOR: case NM_N_SET: case NM_N_SET_BLOCK: case NM_N_WITH: case NM_N_FILTER_BLOCK: case NM_N_MACRO:
    case NM_N_CALL_BLOCK: case NM_N_GENERATION: case NM_N_BREAK: case NM_N_CONTINUE:
        analyze_statement(x, s, node);
        break;
    default:
        analyze(x, s, node->a);
        analyze(x, s, node->b);
        analyze(x, s, node->c);
        analyze_list(x, s, node->list, node->n);
        break;
    }
}

/* ---- Does a macro's body use caller, kwargs or varargs? ------------------------------------------------------------------------- */

enum { USES_CALLER = 1, USES_KWARGS = 2, USES_VARARGS = 4 };
typedef struct uses { const nm_parser *p; unsigned open, found; } uses;    /* open: not yet hidden by a variable of that name */

static unsigned special_bit(const nm_parser *p, const nm_name *name)
{
    for (unsigned i = 0; i < 3; i++) if (name == p->special[i]) return 1u << i;
    return 0;
}

static void find_uses(uses *u, const nm_node *node);

static void hide_target(uses *u, const nm_node *target)
{
    if (target->kind == NM_N_NAME) u->open &= ~special_bit(u->p, target->name);
    for (uint32_t i = 0; target->kind == NM_N_TUPLE && i < target->n; i++) hide_target(u, target->list[i]);
}

static void uses_in_macro(uses *u, const nm_macro_node *macro)
{
    for (int i = 0; i < macro->n_params; i++) u->open &= ~special_bit(u->p, macro->params[i]);
    for (int i = 0; i < macro->n_defaults; i++) find_uses(u, macro->defaults[i]);
    find_uses(u, macro->body);
}

static void uses_in_children(uses *u, const nm_node *node)
{
    const nm_node *own[] = {node->a, node->b, node->d, node->c};
    for (int i = 0; i < 4; i++) find_uses(u, own[i]);
    for (uint32_t i = 0; i < node->n; i++) find_uses(u, node->list[i]);
}

static void find_uses(uses *u, const nm_node *node)
{
    if (!node) return;
    switch ((nm_node_kind)node->kind) {
    case NM_N_NAME: u->found |= special_bit(u->p, node->name) & u->open; break;
    case NM_N_CALL: case NM_N_FILTER: case NM_N_TEST:
        find_uses(u, node->a);
        for (int i = 0; i < node->args->n; i++) find_uses(u, node->args->pos[i]);
        for (int i = 0; i < node->args->n_kw; i++) find_uses(u, node->args->values[i]);
        find_uses(u, node->args->more);
        find_uses(u, node->args->more_named);
        break;
    case NM_N_SET: case NM_N_SET_BLOCK: case NM_N_FOR:
        hide_target(u, node->a);
        find_uses(u, node->b);
        find_uses(u, node->d);
        find_uses(u, node->c);
        if (node->kind == NM_N_FOR) find_uses(u, node->loop->test);
        break;
    case NM_N_WITH:
        for (uint32_t i = 0; i < node->n; i += 2) hide_target(u, node->list[i]);
        for (uint32_t i = 1; i < node->n; i += 2) find_uses(u, node->list[i]);
        find_uses(u, node->d);
        break;
    case NM_N_MACRO: case NM_N_CALL_BLOCK: case NM_N_GENERATION:
        find_uses(u, node->a);
        uses_in_macro(u, node->macro);
        break;
    default: uses_in_children(u, node); break;
    }
}

/* ---- Second pass: references, and the scopes inside --------------------------------------------------------------------------------- */

static void resolve(scoper *x, scope *s, nm_node *node, bool soft);

static scope *new_scope(scoper *x, scope *parent, function *f)
{
    scope *s = nm_parse_alloc(x->p, 1, sizeof *s);
    if (s) *s = (scope){.parent = parent, .function = f, .id = x->n_scopes++, .in_loop = parent && parent->in_loop};
    return s;
}

/* Writes down what entering the scope must do. */
static void finish_scope(scoper *x, const scope *s, nm_scope *out)
{
    size_t n = 0;
    for (symbol *i = s->first; i; i = i->next) n++;
    nm_load *loads = nm_parse_alloc(x->p, n, sizeof *loads);
    if (!loads) return;
    n = 0;
    for (symbol *i = s->first; i; i = i->next)
        if (i->now.loads) loads[n++] = (nm_load){i->now.kind, i->slot, i->now.from, i->name};
    *out = (nm_scope){loads, n};
}

static void resolve_list(scoper *x, scope *s, nm_node **list, size_t n, bool soft)
{
    for (size_t i = 0; i < n; i++) resolve(x, s, list[i], soft);
}

static void resolve_call(scoper *x, scope *s, nm_node *node, bool soft)
{
    resolve(x, s, node->a, soft);
    resolve_list(x, s, node->args->pos, node->args->n, soft);
    resolve_list(x, s, node->args->values, node->args->n_kw, soft);
    resolve(x, s, node->args->more, soft);
    resolve(x, s, node->args->more_named, soft);
    if (node->kind != NM_N_CALL && !node->callable && !soft)
        nm_parse_fail(x->p, node->line, "no %s named '%.*s'", node->kind == NM_N_TEST ? "test" : "filter", (int)node->callee->n, node->callee->s);
}

static void resolve_name(scoper *x, const scope *s, nm_node *node)
{
    const scope *where;
    const symbol *found = find(x, s, node->name, &where);
    if (found) node->ref = ref_to(s, where, found);
    else nm_parse_fail(x->p, node->line, "the name '%.*s' cannot be used here", (int)node->name->n, node->name->s);
}

static bool assigns(const nm_node *target, const nm_name *name)
{
    if (target->kind == NM_N_NAME) return target->name == name;
    for (uint32_t i = 0; target->kind == NM_N_TUPLE && i < target->n; i++) if (assigns(target->list[i], name)) return true;
    return false;
}

static void resolve_condition(scoper *x, scope *s, nm_node *node)
{
    nm_for_node *loop = node->loop;
    function f = {s->function->depth + 1, 0};
    scope *inner = loop->test ? new_scope(x, s, &f) : NULL;
    if (!inner) return;
    store_target(x, inner, loop->test_target, true);
    analyze(x, inner, loop->test);
    resolve(x, inner, loop->test_target, false);
    resolve(x, inner, loop->test, false);
    finish_scope(x, inner, &loop->test_scope);
    loop->test_slots = (uint16_t)f.n_slots;
}

static uint16_t declare_special(scoper *x, scope *s, const nm_name *name)
{
    declare_parameter(x, s, name);
    const symbol *found = find_own(x, s, name);
    return found ? found->slot : 0;
}

static void resolve_for(scoper *x, scope *s, nm_node *node, bool soft)
{
    nm_for_node *loop = node->loop;
    function own = {s->function->depth + 1, 0}, *f = loop->recursive ? &own : s->function;
    scope *body = new_scope(x, s, f), *otherwise = new_scope(x, s, f);
    if (!body || !otherwise) return;
    body->in_loop = otherwise->in_loop = true;
    if (assigns(node->a, x->p->loop_name)) nm_parse_fail(x->p, node->line, "cannot assign to the special variable 'loop'");
    resolve_condition(x, s, node);
    loop->loop_slot = declare_special(x, body, x->p->loop_name);
    store_target(x, body, node->a, true);
    analyze(x, body, node->d);
    analyze(x, otherwise, node->c);
    resolve(x, body, node->a, false);
    resolve(x, body, node->d, false);
    resolve(x, otherwise, node->c, false);
    resolve(x, s, node->b, soft);
    finish_scope(x, body, &loop->scope);
    finish_scope(x, otherwise, &loop->else_scope);
    loop->n_slots = (uint16_t)own.n_slots;
}

static void declare_specials(scoper *x, scope *s, nm_node *node)
{
    nm_macro_node *macro = node->macro;
    unsigned declared = 0;
    uses u = {x->p, USES_CALLER | USES_KWARGS | USES_VARARGS, 0};
    find_uses(&u, macro->body);
    for (int i = 0; i < macro->n_params; i++) {
        unsigned bit = special_bit(x->p, macro->params[i]);
        declared |= bit;
        if (bit & USES_CALLER & u.found && i < macro->n_params - macro->n_defaults)
            nm_parse_fail(x->p, node->line, "the special parameter 'caller' needs a default");
    }
    macro->explicit_caller = declared & USES_CALLER;
    macro->has_caller = u.found & USES_CALLER;
    macro->has_kwargs = u.found & ~declared & USES_KWARGS;
    macro->has_varargs = u.found & ~declared & USES_VARARGS;
    if (macro->has_caller && !macro->explicit_caller) macro->caller_slot = declare_special(x, s, x->p->special[0]);
    if (macro->has_kwargs) macro->kwargs_slot = declare_special(x, s, x->p->special[1]);
    if (macro->has_varargs) macro->varargs_slot = declare_special(x, s, x->p->special[2]);
}

static void resolve_macro(scoper *x, scope *s, nm_node *node, bool soft)
{
    nm_macro_node *macro = node->macro;
    function f = {s->function->depth + 1, 0};
    scope *inner = new_scope(x, s, &f);
    uint16_t *slots = nm_parse_alloc(x->p, macro->n_params, sizeof *slots);
    if (!inner || !slots) return;
    for (int i = 0; i < macro->n_params; i++) slots[i] = declare_special(x, inner, macro->params[i]);
    analyze_list(x, inner, macro->defaults, macro->n_defaults);
    analyze(x, inner, macro->body);
    declare_specials(x, inner, node);
    resolve_list(x, inner, macro->defaults, macro->n_defaults, false);
    resolve(x, inner, macro->body, false);
    finish_scope(x, inner, &macro->scope);
    macro->param_slots = slots;
    macro->n_slots = (uint16_t)f.n_slots;
    if (node->kind == NM_N_CALL_BLOCK) resolve(x, s, node->a, soft);
    if (node->kind != NM_N_MACRO) return;
    const scope *where;
    const symbol *self = find(x, s, macro->name, &where);
    if (self) macro->self = ref_to(s, where, self);
}

/* with, set block, filter block: a scope in the same function */
static void resolve_block(scoper *x, scope *s, nm_node *node, bool soft)
{
    scope *inner = new_scope(x, s, s->function);
    if (!inner) return;
    if (node->kind == NM_N_WITH) {
        for (uint32_t i = 0; i < node->n; i += 2) store_target(x, inner, node->list[i], true);
        for (uint32_t i = 1; i < node->n; i += 2) resolve(x, s, node->list[i], soft);
    }
    analyze(x, inner, node->d);
    analyze(x, inner, node->b);
    if (node->kind == NM_N_WITH) for (uint32_t i = 0; i < node->n; i += 2) resolve(x, inner, node->list[i], false);
    else if (node->kind == NM_N_SET_BLOCK) resolve(x, s, node->a, false);
    resolve(x, inner, node->b, false);
    resolve(x, inner, node->d, false);
    finish_scope(x, inner, &node->scope);
}

static void resolve(scoper *x, scope *s, nm_node *node, bool soft)
{
    if (!node || x->p->err != NM_OK) return;
    switch ((nm_node_kind)node->kind) {
    case NM_N_CONST: break;
    case NM_N_NAME: case NM_N_NSREF: resolve_name(x, s, node); break;
    case NM_N_CALL: case NM_N_FILTER: case NM_N_TEST: resolve_call(x, s, node, soft); break;
    case NM_N_FOR: resolve_for(x, s, node, soft); break;
    case NM_N_MACRO: case NM_N_CALL_BLOCK: case NM_N_GENERATION: resolve_macro(x, s, node, soft); break;
    case NM_N_WITH: case NM_N_SET_BLOCK: case NM_N_FILTER_BLOCK: resolve_block(x, s, node, soft); break;
    default:
        soft = soft || node->kind == NM_N_IF || node->kind == NM_N_COND;
        resolve(x, s, node->a, soft);
        resolve(x, s, node->b, soft);
        resolve(x, s, node->c, soft);
        resolve_list(x, s, node->list, node->n, soft);
        break;
    }
}

nm_err nm_template_scope(nm_parser *p)
{
    scoper x = {.p = p};
    function root = {0, 0};
    scope *s = new_scope(&x, NULL, &root);
    analyze(&x, s, p->tmpl->body);
    resolve(&x, s, p->tmpl->body, false);
    if (p->err == NM_OK) finish_scope(&x, s, &p->tmpl->scope);
    p->tmpl->n_slots = (uint16_t)root.n_slots;
    nm_free(x.log.items);
    nm_free(x.kept.items);
    return p->err;
}
