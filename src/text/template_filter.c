/* jinja2's filters on values and sequences: one row each. Those on text are in template_filter_text.c. Refuses random (a template's
 * text must not depend on chance), pprint and urlize. */
#include <math.h>
#include <string.h>

#include "text/template_chars.h"
#include "text/template_value.h"

/* ---- Attribute paths: "a.b.0" --------------------------------------------------------------------------------------------------------- */

/* What a filter looks at in each item: the path's parts as getitem keys, then lower case if asked. */
typedef struct getter { nm_tv *parts; size_t n; nm_tv dflt; bool fold; } getter;

static nm_err path_part(nm_render *r, const char *s, size_t n, nm_tv *out)
{
    int64_t index = 0;
    bool number = n > 0 && n < 18;
    for (size_t i = 0; number && i < n; i++) {
        number = s[i] >= '0' && s[i] <= '9';
        index = index * 10 + (s[i] - '0');
    }
    *out = nm_tv_int(index);
    return number ? NM_OK : nm_tv_string_of(r, s, n, NULL, out);
}

static nm_err path_parts(nm_render *r, const char *s, size_t n, getter *g)
{
    size_t count = 1;
    for (size_t i = 0; i < n; i++) count += s[i] == '.';
    NM_RT_NEW(r, g->parts, count);
    for (size_t from = 0, to; g->n < count; from = to + 1) {
        for (to = from; to < n && s[to] != '.'; to++) {}
        NM_TRY(path_part(r, s + from, to - from, &g->parts[g->n++]));
    }
    return NM_OK;
}

/* attribute: MISSING or none for the item itself, a path, or a single key */
static nm_err getter_of(nm_render *r, nm_tv attribute, bool fold, getter *g)
{
    *g = (getter){.fold = fold};
    if (!nm_tv_given(attribute) || attribute.kind == NM_TV_NONE) return NM_OK;
    if (attribute.kind == NM_TV_STRING) return path_parts(r, attribute.s->s, attribute.s->n, g);
    NM_RT_NEW(r, g->parts, 1);
    g->parts[g->n++] = attribute;
    return NM_OK;
}

static nm_err folded(nm_render *r, nm_tv v, nm_tv *out)
{
    *out = v;
    return v.kind == NM_TV_STRING ? nm_tv_method(r, v, "lower", NULL, 0, out) : NM_OK;
}

static nm_err get(nm_render *r, const getter *g, nm_tv item, nm_tv *out)
{
    bool has_default = nm_tv_given(g->dflt) && g->dflt.kind != NM_TV_NONE;
    *out = item;
    for (size_t i = 0; i < g->n; i++) {
        NM_TRY(nm_tv_getitem(r, *out, g->parts[i], out));
        if (has_default && out->kind == NM_TV_UNDEFINED) *out = g->dflt;
    }
    return g->fold ? folded(r, *out, out) : NM_OK;
}

/* The key of each item, in an array. */
static nm_err get_all(nm_render *r, const getter *g, nm_tv list, nm_tv **keys)
{
    NM_RT_NEW(r, *keys, list.l->n);
    for (size_t i = 0; i < list.l->n; i++) NM_TRY(get(r, g, list.l->items[i], &(*keys)[i]));
    return NM_OK;
}

/* A list of its own, to be changed in place. */
static nm_err own_list(nm_render *r, nm_tv v, nm_tv *out)
{
    NM_TRY(nm_iter_collect(r, v, out));
    return nm_tv_list_of(r, NM_TV_LIST, out->l->items, out->l->n, out);
}

/* ---- Sorting and grouping --------------------------------------------------------------------------------------------------------------- */

/* jinja2 sorts by a list of keys, one per path of "a,b": lists compare item by item. */
static nm_err sort_keys(nm_render *r, nm_tv attribute, bool fold, nm_tv list, nm_tv *keys)
{
    getter g;
    for (size_t i = 0; i < list.l->n; i++) NM_TRY(nm_tv_list_of(r, NM_TV_LIST, NULL, 0, &keys[i]));
    bool paths = attribute.kind == NM_TV_STRING;
    for (size_t from = 0, to = 0; from == 0 || (paths && from <= attribute.s->n); from = to + 1) {
        nm_tv path = attribute, key, single;
        for (to = from; paths && to < attribute.s->n && attribute.s->s[to] != ','; to++) {}
        if (paths) NM_TRY(nm_tv_slice_text(r, attribute, from, to, &path));
        NM_TRY(getter_of(r, path, fold, &g));
        for (size_t i = 0; i < list.l->n; i++) {
            NM_TRY(get(r, &g, list.l->items[i], &key));
            NM_TRY(nm_tv_list_of(r, NM_TV_LIST, &key, 1, &single));
            NM_TRY(nm_tv_list_concat(r, keys[i], single, &keys[i]));
        }
        if (!paths) break;
    }
    return NM_OK;
}

/* sorted(reverse=...) takes integers only */
static nm_err arg_reverse(nm_render *r, nm_tv v, bool *out)
{
    int64_t reverse;
    NM_TRY(nm_arg_int(r, v, 0, &reverse));
    *out = reverse != 0;
    return NM_OK;
}

static nm_err f_sort(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    bool reverse, sensitive;
    nm_tv *keys;
    NM_TRY(arg_reverse(r, p[0], &reverse));
    NM_TRY(nm_arg_truth(r, p[1], false, &sensitive));
    NM_TRY(own_list(r, v, out));
    NM_RT_NEW(r, keys, out->l->n);
    NM_TRY(sort_keys(r, p[2], !sensitive, *out, keys));
    return nm_tv_sort(r, out->l->items, keys, out->l->n, reverse);
}

static nm_err f_dictsort(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    bool sensitive, reverse, by_value = nm_tv_text_is(p[1], "value");
    nm_tv view = {.kind = NM_TV_VIEW, .view = 2, .d = v.d}, *keys;
    if (nm_tv_given(p[1]) && !by_value && !nm_tv_text_is(p[1], "key")) return nm_rt_fail(r, "you can only sort by either \"key\" or \"value\"");
    if (v.kind == NM_TV_UNDEFINED) return nm_tv_fail_undefined(r, v);
    if (v.kind != NM_TV_DICT) return nm_rt_fail(r, "'%s' object has no items to sort", nm_tv_kind_name(v));
    NM_TRY(nm_arg_truth(r, p[0], false, &sensitive));
    NM_TRY(arg_reverse(r, p[2], &reverse));
    NM_TRY(nm_iter_collect(r, view, out));
    NM_RT_NEW(r, keys, v.d->n);
    for (size_t i = 0; i < v.d->n; i++) {
        keys[i] = by_value ? v.d->values[i] : v.d->keys[i];
        if (!sensitive) NM_TRY(folded(r, keys[i], &keys[i]));
    }
    return nm_tv_sort(r, out->l->items, keys, out->l->n, reverse);
}

static nm_err f_groupby(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    bool sensitive;
    getter g;
    nm_tv list, *keys, group[2];
    nm_lb groups = {NULL};
    NM_TRY(nm_arg_truth(r, p[2], false, &sensitive));
    NM_TRY(getter_of(r, p[0], !sensitive, &g));
    g.dflt = p[1];
    NM_TRY(own_list(r, v, &list));
    NM_TRY(get_all(r, &g, list, &keys));
    NM_TRY(nm_tv_sort(r, list.l->items, keys, list.l->n, false));
    NM_TRY(get_all(r, &g, list, &keys));
    g.fold = false;
    for (size_t from = 0, to; from < list.l->n; from = to) {
        bool equal = true;
        for (to = from + 1; to < list.l->n; to += equal) {
            NM_TRY(nm_tv_equal(r, keys[from], keys[to], &equal));
            if (!equal) break;
        }
        NM_TRY(get(r, &g, list.l->items[from], &group[0]));
        NM_TRY(nm_tv_list_of(r, NM_TV_LIST, list.l->items + from, to - from, &group[1]));
        nm_tv pair;
        NM_TRY(nm_tv_list_of(r, NM_TV_TUPLE, group, 2, &pair));
        pair.flag = NM_TV_GROUP;
        NM_TRY(nm_lb_add(r, &groups, pair));
    }
    return nm_lb_done(r, &groups, NM_TV_LIST, out);
}

typedef struct seen { getter g; nm_tv keys; } seen;

static nm_err next_unique(nm_render *r, nm_tv_iter *it, nm_tv *out)
{
    seen *s = it->state;
    for (;;) {
        nm_tv key, found;
        NM_TRY(nm_iter_next(r, it->inner, out));
        if (!nm_tv_given(*out)) return NM_OK;
        NM_TRY(get(r, &s->g, *out, &key));
        NM_TRY(nm_tv_dict_get(r, s->keys.d, key, &found));
        if (nm_tv_given(found)) continue;
        return nm_tv_dict_set(r, s->keys.d, key, nm_tv_none());
    }
}

/* What jinja2 writes as a generator function begins to run, and to fail, when its first item is asked for. */
typedef struct deferred {
    nm_err (*bound)(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out);
    nm_err (*open)(nm_render *r, nm_tv v, const nm_args *args, nm_tv *out);
    nm_tv p[NM_MAX_PARAMS];
    nm_args args;
    bool begun;
    nm_tv_iter items;
} deferred;

static nm_err next_deferred(nm_render *r, nm_tv_iter *it, nm_tv *out)
{
    deferred *d = it->state;
    nm_tv made;
    if (!d->begun) {
        NM_TRY(d->bound ? d->bound(r, it->source, d->p, &made) : d->open(r, it->source, &d->args, &made));
        NM_TRY(nm_iter_init(r, made, &d->items));
        d->begun = true;
    }
    return nm_iter_next(r, &d->items, out);
}

static nm_err defer(nm_render *r, const char *name, nm_tv v, deferred what, nm_tv *out)
{
    deferred *d;
    NM_RT_NEW(r, d, 1);
    *d = what;
    return nm_iter_value(r, name, next_deferred, v, d, out);
}

static nm_err defer_bound(nm_render *r, const char *name, nm_tv v, nm_err (*make)(nm_render *, nm_tv, const nm_tv *, nm_tv *), const nm_tv *p, nm_tv *out)
{
    deferred what = {.bound = make};
    memcpy(what.p, p, sizeof what.p);
    return defer(r, name, v, what, out);
}

/* A generator over v with a state. */
static nm_err lazily(nm_render *r, const char *name, nm_err (*next)(nm_render *, nm_tv_iter *, nm_tv *), nm_tv v, void *state, nm_tv *out)
{
    nm_tv_iter *inner;
    NM_RT_NEW(r, inner, 1);
    NM_TRY(nm_iter_init(r, v, inner));
    NM_TRY(nm_iter_value(r, name, next, v, state, out));
    out->it->inner = inner;
    return NM_OK;
}

static nm_err make_unique(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    bool sensitive;
    seen *s;
    NM_RT_NEW(r, s, 1);
    NM_TRY(nm_arg_truth(r, p[0], false, &sensitive));
    NM_TRY(getter_of(r, p[1], !sensitive, &s->g));
    NM_TRY(nm_tv_dict_of(r, NM_TV_DICT, &s->keys));
    return lazily(r, "unique", next_unique, v, s, out);
}

static nm_err f_unique(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return defer_bound(r, "unique", v, make_unique, p, out); }

static nm_err least(nm_render *r, nm_tv v, const nm_tv *p, int wanted, nm_tv *out)
{
    bool sensitive;
    getter g;
    nm_tv_iter it;
    nm_tv item, key, best = {0};
    NM_TRY(nm_arg_truth(r, p[0], false, &sensitive));
    NM_TRY(getter_of(r, p[1], !sensitive, &g));
    NM_TRY(nm_iter_init(r, v, &it));
    *out = (nm_tv){0};
    for (;;) {
        int c = wanted;
        NM_TRY(nm_iter_next(r, &it, &item));
        if (!nm_tv_given(item)) break;
        NM_TRY(get(r, &g, item, &key));
        if (nm_tv_given(best)) NM_TRY(nm_tv_compare(r, key, best, wanted < 0 ? "<" : ">", &c));
        if (c != wanted) continue;
        best = key;
        *out = item;
    }
    return nm_tv_given(*out) ? NM_OK : nm_tv_undefined_of(r, "no aggregated item, sequence was empty", NULL, 0, out);
}

static nm_err f_min(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return least(r, v, p, -1, out); }
static nm_err f_max(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return least(r, v, p, 1, out); }

/* ---- map, select, reject ------------------------------------------------------------------------------------------------------------------- */

typedef struct applied { getter g; const nm_callable *call; nm_args args; bool negated; } applied;

static nm_err next_mapped(nm_render *r, nm_tv_iter *it, nm_tv *out)
{
    applied *a = it->state;
    nm_tv item;
    NM_TRY(nm_iter_next(r, it->inner, &item));
    *out = item;
    if (!nm_tv_given(item)) return NM_OK;
    return a->call ? nm_callable_call(r, a->call, item, &a->args, out) : get(r, &a->g, item, out);
}

/* map(attribute=..., default=...) */
static nm_err map_attribute(nm_render *r, const nm_args *args, applied *a)
{
    nm_tv attribute = {0}, dflt = {0};
    for (size_t i = 0; i < args->n_kw; i++) {
        if (nm_tv_text_is(args->names[i], "attribute")) attribute = args->values[i];
        else if (nm_tv_text_is(args->names[i], "default")) dflt = args->values[i];
        else return nm_rt_fail(r, "map() got an unexpected keyword argument");
    }
    if (!nm_tv_given(attribute)) return nm_rt_fail(r, "map requires a filter argument");
    NM_TRY(getter_of(r, attribute, false, &a->g));
    a->g.dflt = dflt;
    return NM_OK;
}

static nm_err named_callable(nm_render *r, const char *what, nm_tv name, const nm_callable *(*find)(const char *, size_t), applied *a)
{
    if (name.kind == NM_TV_STRING) a->call = find(name.s->s, name.s->n);
    if (a->call) return NM_OK;
    if (name.kind == NM_TV_STRING) return nm_rt_fail(r, "no %s named '%.*s'", what, (int)(name.s->n < 100 ? name.s->n : 100), name.s->s);
    return nm_rt_fail(r, "no %s of that name; did you forget to quote it?", what);
}

static nm_err make_map(nm_render *r, nm_tv v, const nm_args *args, nm_tv *out)
{
    applied *a;
    bool some;
    NM_TRY(nm_tv_truth(r, v, &some));
    if (!some) return nm_tv_list_of(r, NM_TV_LIST, NULL, 0, out) != NM_OK ? r->err : nm_iter_over(r, "map", *out, out);
    NM_RT_NEW(r, a, 1);
    *a = (applied){.args = *args};
    if (!args->n) {
        NM_TRY(map_attribute(r, args, a));
    } else {
        NM_TRY(named_callable(r, "filter", args->pos[0], nm_filter_find, a));
        a->args.pos++;
        a->args.n--;
    }
    return lazily(r, "map", next_mapped, v, a, out);
}

static nm_err f_map(nm_render *r, nm_tv v, const nm_args *args, nm_tv *out) { return defer(r, "map", v, (deferred){.open = make_map, .args = *args}, out); }

static nm_err next_selected(nm_render *r, nm_tv_iter *it, nm_tv *out)
{
    applied *a = it->state;
    for (;;) {
        nm_tv looked, answer;
        bool holds;
        NM_TRY(nm_iter_next(r, it->inner, out));
        if (!nm_tv_given(*out)) return NM_OK;
        NM_TRY(get(r, &a->g, *out, &looked));
        answer = looked;
        if (a->call) NM_TRY(nm_callable_call(r, a->call, looked, &a->args, &answer));
        NM_TRY(nm_tv_truth(r, answer, &holds));
        if (holds != a->negated) return NM_OK;
    }
}

static nm_err select_by(nm_render *r, nm_tv v, const nm_args *args, bool attribute, bool negated, nm_tv *out)
{
    applied *a;
    bool some;
    size_t off = attribute;
    NM_TRY(nm_tv_truth(r, v, &some));
    if (!some) return nm_tv_list_of(r, NM_TV_LIST, NULL, 0, out) != NM_OK ? r->err : nm_iter_over(r, "select", *out, out);
    NM_RT_NEW(r, a, 1);
    *a = (applied){.args = *args, .negated = negated};
    if (args->n < off) return nm_rt_fail(r, "missing parameter for attribute name");
    if (attribute) NM_TRY(getter_of(r, args->pos[0], false, &a->g));
    if (args->n > off) {
        NM_TRY(named_callable(r, "test", args->pos[off], nm_test_find, a));
        off++;
    }
    if (off) a->args.pos += off;            /* no arguments: no array to point into */
    a->args.n -= off;
    return lazily(r, "select", next_selected, v, a, out);
}

#define SELECTING(name, attribute, negated) \
    static nm_err make_##name(nm_render *r, nm_tv v, const nm_args *args, nm_tv *out) { return select_by(r, v, args, attribute, negated, out); } \
    static nm_err f_##name(nm_render *r, nm_tv v, const nm_args *args, nm_tv *out) \
    { \
        return defer(r, #name, v, (deferred){.open = make_##name, .args = *args}, out); \
    }
SELECTING(select, false, false)
SELECTING(reject, false, true)
SELECTING(selectattr, true, false)
SELECTING(rejectattr, true, true)

/* ---- Sequences --------------------------------------------------------------------------------------------------------------------------------- */

static nm_err f_list(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)p; return nm_iter_collect(r, v, out); }

static nm_err f_length(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    int64_t n;
    (void)p;
    NM_TRY(nm_tv_length(r, v, &n));
    *out = nm_tv_int(n);
    return NM_OK;
}

static nm_err first_of(nm_render *r, nm_tv v, const char *none, nm_tv *out)
{
    nm_tv_iter it;
    NM_TRY(nm_iter_init(r, v, &it));
    NM_TRY(nm_iter_next(r, &it, out));
    return nm_tv_given(*out) ? NM_OK : nm_tv_undefined_of(r, none, NULL, 0, out);
}

static nm_err f_first(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)p; return first_of(r, v, "no first item, sequence was empty", out); }

static nm_err f_last(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_tv back;
    (void)p;
    NM_TRY(nm_iter_reversed(r, v, &back));
    if (!nm_tv_given(back)) return nm_rt_fail(r, "'%s' object is not reversible", nm_tv_kind_name(v));
    return first_of(r, back, "no last item, sequence was empty", out);
}

static nm_err f_reverse(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    (void)p;
    if (v.kind == NM_TV_STRING) return nm_tv_slice(r, v, nm_tv_none(), nm_tv_none(), nm_tv_int(-1), out);
    NM_TRY(nm_iter_reversed(r, v, out));
    if (nm_tv_given(*out)) return NM_OK;
    NM_TRY(nm_iter_collect(r, v, out));
    return nm_tv_slice(r, *out, nm_tv_none(), nm_tv_none(), nm_tv_int(-1), out);
}

static nm_err make_items(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_tv list;
    (void)p;
    if (v.kind != NM_TV_UNDEFINED && v.kind != NM_TV_DICT) return nm_rt_fail(r, "can only get item pairs from a mapping");
    if (v.kind == NM_TV_DICT) v = (nm_tv){.kind = NM_TV_VIEW, .view = 2, .d = v.d};
    NM_TRY(nm_iter_collect(r, v, &list));
    return nm_iter_over(r, "items", list, out);
}

static nm_err f_items(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return defer_bound(r, "items", v, make_items, p, out); }

static nm_err make_batch(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_tv_iter it;
    nm_tv item, batch;
    nm_lb rows = {NULL}, row = {NULL};
    int64_t size;
    NM_TRY(nm_arg_int(r, p[0], 0, &size));
    NM_TRY(nm_iter_init(r, v, &it));
    for (;;) {
        NM_TRY(nm_iter_next(r, &it, &item));
        if (!nm_tv_given(item)) break;
        if ((int64_t)nm_lb_count(&row) == size) {
            NM_TRY(nm_lb_done(r, &row, NM_TV_LIST, &batch));
            NM_TRY(nm_lb_add(r, &rows, batch));
            row = (nm_lb){NULL};
        }
        NM_TRY(nm_lb_add(r, &row, item));
    }
    if (nm_lb_count(&row)) {
        bool fills = nm_tv_given(p[1]) && p[1].kind != NM_TV_NONE;
        while (fills && (int64_t)nm_lb_count(&row) < size) NM_TRY(nm_lb_add(r, &row, p[1]));
        NM_TRY(nm_lb_done(r, &row, NM_TV_LIST, &batch));
        NM_TRY(nm_lb_add(r, &rows, batch));
    }
    NM_TRY(nm_lb_done(r, &rows, NM_TV_LIST, out));
    return nm_iter_over(r, "batch", *out, out);
}

static nm_err f_batch(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return defer_bound(r, "batch", v, make_batch, p, out); }

static nm_err make_slice(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_tv list;
    nm_lb rows = {NULL};
    int64_t slices;
    NM_TRY(nm_arg_int(r, p[0], 0, &slices));
    NM_TRY(nm_iter_collect(r, v, &list));
    if (slices == 0) return nm_rt_fail(r, "integer division or modulo by zero");
    int64_t n = (int64_t)list.l->n, each = slices > 0 ? n / slices : 0, extra = slices > 0 ? n % slices : 0;
    for (int64_t i = 0, at = 0; i < slices; i++) {
        nm_tv row, fill;
        int64_t take = each + (i < extra);
        NM_TRY(nm_tv_list_of(r, NM_TV_LIST, list.l->items + at, (size_t)take, &row));
        at += take;
        if (nm_tv_given(p[1]) && p[1].kind != NM_TV_NONE && i >= extra) {
            NM_TRY(nm_tv_list_of(r, NM_TV_LIST, &p[1], 1, &fill));
            NM_TRY(nm_tv_list_concat(r, row, fill, &row));
        }
        NM_TRY(nm_lb_add(r, &rows, row));
    }
    NM_TRY(nm_lb_done(r, &rows, NM_TV_LIST, out));
    return nm_iter_over(r, "slice", *out, out);
}

static nm_err f_slice(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return defer_bound(r, "slice", v, make_slice, p, out); }

static nm_err f_join(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_tv_iter it;
    nm_tv item, between = {0};
    nm_sb sb = {r, NULL};
    getter g;
    NM_TRY(getter_of(r, p[1], false, &g));
    if (nm_tv_given(p[0])) NM_TRY(nm_tv_str(r, p[0], &between));
    NM_TRY(nm_iter_init(r, v, &it));
    for (bool first = true;; first = false) {
        NM_TRY(nm_iter_next(r, &it, &item));
        if (!nm_tv_given(item)) return nm_sb_done(&sb, out);
        if (!first && nm_tv_given(between)) nm_sb_str(&sb, between);
        NM_TRY(get(r, &g, item, &item));
        nm_sb_str(&sb, item);
    }
}

static nm_err f_sum(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_tv_iter it;
    nm_tv item;
    getter g;
    *out = nm_tv_given(p[1]) ? p[1] : nm_tv_int(0);
    if (out->kind == NM_TV_STRING) return nm_rt_fail(r, "sum() cannot sum strings; use join");
    NM_TRY(getter_of(r, p[0], false, &g));
    NM_TRY(nm_iter_init(r, v, &it));
    for (;;) {
        NM_TRY(nm_iter_next(r, &it, &item));
        if (!nm_tv_given(item)) return NM_OK;
        NM_TRY(get(r, &g, item, &item));
        NM_TRY(nm_tv_arith(r, '+', *out, item, out));
    }
}

/* ---- Single values ------------------------------------------------------------------------------------------------------------------------------ */

static nm_err f_default(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    bool boolean, truth = true;
    NM_TRY(nm_arg_truth(r, p[1], false, &boolean));
    if (boolean) NM_TRY(nm_tv_truth(r, v, &truth));
    *out = v;
    if (v.kind != NM_TV_UNDEFINED && truth) return NM_OK;
    *out = p[0];
    return nm_tv_given(p[0]) ? NM_OK : nm_tv_text(r, "", out);
}

static nm_err f_attr(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    if (v.kind == NM_TV_UNDEFINED) return nm_tv_fail_undefined(r, v);
    if (p[0].kind != NM_TV_STRING) return nm_rt_fail(r, "attribute name must be string, not '%s'", nm_tv_kind_name(p[0]));
    NM_TRY(nm_tv_attribute(r, v, p[0].s->s, p[0].s->n, out));
    return nm_tv_given(*out) ? NM_OK : nm_tv_undefined_of(r, nm_tv_kind_name(v), p[0].s->s, p[0].s->n, out);
}

static nm_err f_abs(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    (void)p;
    if (v.kind == NM_TV_FLOAT) *out = nm_tv_float(fabs(v.f));
    else if (!nm_tv_is_int(v)) return nm_rt_fail(r, "bad operand type for abs(): '%s'", nm_tv_kind_name(v));
    else if (nm_tv_as_int(v) == INT64_MIN) return nm_rt_fail(r, "an integer beyond 64 bits; use smaller numbers");
    else *out = nm_tv_int(nm_tv_as_int(v) < 0 ? -nm_tv_as_int(v) : nm_tv_as_int(v));
    return NM_OK;
}

static int digit_value(char c) { return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'z' ? (c | 32) - 'a' + 10 : 99; }

/* Python's int(text, base): false if the text is not a number in that base. */
static nm_err text_to_int(nm_render *r, nm_tv text, int64_t base, int64_t *out, bool *ok)
{
    NM_TRY(nm_rt_steps(r, text.s->n >> 3));
    NM_TRY(nm_tv_method(r, text, "strip", NULL, 0, &text));
    const char *s = text.s->s, *end = s + text.s->n;
    bool negative = s < end && *s == '-', digit = false, prefixed = false;
    if (s < end && (*s == '-' || *s == '+')) s++;
    *ok = false;
    if ((base < 2 || base > 36) && base != 0) return NM_OK;
    int named = end - s > 2 && *s == '0' ? ((s[1] | 32) == 'x' ? 16 : (s[1] | 32) == 'o' ? 8 : (s[1] | 32) == 'b' ? 2 : 0) : 0;
    if (named && (base == 0 || base == named)) {
        s += 2;
        prefixed = true;
        base = named;
    }
    bool zeros_only = base == 0 && s < end && *s == '0';     /* 010 is no number in base 0 */
    if (base == 0) base = 10;
    for (*out = 0; s < end; s++) {
        if (*s == '_' && (digit || prefixed) && s + 1 < end && s[1] != '_') {
            digit = prefixed = false;
            continue;
        }
        if (digit_value(*s) >= base || (zeros_only && *s != '0')) return NM_OK;
        digit = true;
        if (__builtin_mul_overflow(*out, base, out) || __builtin_sub_overflow(*out, digit_value(*s), out))
            return nm_rt_fail(r, "an integer beyond 64 bits; use smaller numbers");
    }
    *ok = digit;
    if (!negative && __builtin_sub_overflow(0, *out, out)) return nm_rt_fail(r, "an integer beyond 64 bits; use smaller numbers");
    return NM_OK;
}

static nm_err float_to_int(nm_render *r, double f, nm_tv *out)
{
    if (!(fabs(f) < 0x1p63)) return nm_rt_fail(r, "cannot convert the float to an integer of 64 bits");
    *out = nm_tv_int((int64_t)f);
    return NM_OK;
}

/* Decimal digits and spaces of all scripts as their ASCII ones, as Python does before it reads a number. */
static nm_err plain_digits(nm_render *r, nm_tv *text)
{
    const char *s = text->s->s;
    size_t n = text->s->n;
    bool ascii = true;
    for (size_t i = 0; i < n; i++) ascii &= (unsigned char)s[i] < 0x80;
    if (ascii) return NM_OK;
    nm_sb sb = {r, NULL};
    for (size_t i = 0; i < n; i += nm_utf8_width(s[i])) {
        int32_t code = nm_utf8_at(s + i), zero = code;
        NM_TRY(nm_rt_steps(r, 1));
        if (code >= 0x80 && nm_char_is(code, NM_CHAR_DECIMAL)) {    /* they come in tens from zero on, perhaps several tens in a row */
            while (nm_char_is(zero - 1, NM_CHAR_DECIMAL)) zero--;
            nm_sb_code(&sb, '0' + (code - zero) % 10);
        } else if (code >= 0x80 && nm_char_is(code, NM_CHAR_SPACE)) {
            nm_sb_puts(&sb, " ");
        } else {
            nm_sb_put(&sb, s + i, nm_utf8_width(s[i]));
        }
    }
    return nm_sb_done(&sb, text);
}

static nm_err f_int(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    int64_t base, value = 0;
    bool ok;
    *out = nm_tv_given(p[0]) ? p[0] : nm_tv_int(0);
    if (v.kind == NM_TV_UNDEFINED) return nm_tv_fail_undefined(r, v);
    if (nm_tv_is_int(v)) *out = nm_tv_int(nm_tv_as_int(v));
    if (v.kind == NM_TV_WIDE) *out = v;
    if (v.kind == NM_TV_FLOAT) return isnan(v.f) ? NM_OK : float_to_int(r, v.f, out);
    if (v.kind != NM_TV_STRING) return NM_OK;
    NM_TRY(plain_digits(r, &v));
    base = !nm_tv_given(p[1]) ? 10 : nm_tv_is_int(p[1]) ? nm_tv_as_int(p[1]) : 1;
    NM_TRY(text_to_int(r, v, base, &value, &ok));
    if (ok) {
        *out = nm_tv_int(value);
        return NM_OK;
    }
    double f = nm_parse_double(v.s->s, v.s->n, &ok);
    return ok && isfinite(f) ? float_to_int(r, f, out) : NM_OK;
}

static nm_err f_float(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    bool ok = false;
    double f = 0;
    if (v.kind == NM_TV_UNDEFINED) return nm_tv_fail_undefined(r, v);
    if (nm_tv_is_number(v)) {
        *out = nm_tv_float(nm_tv_as_float(v));
        return NM_OK;
    }
    if (v.kind == NM_TV_STRING) {
        NM_TRY(nm_rt_steps(r, v.s->n >> 3));
        NM_TRY(plain_digits(r, &v));
        f = nm_parse_double(v.s->s, v.s->n, &ok);
    }
    *out = ok || !nm_tv_given(p[0]) ? nm_tv_float(ok ? f : 0) : p[0];
    return NM_OK;
}

/* round(f, places), half to even on the exact decimal value */
static nm_err round_float(nm_render *r, double f, int64_t places, nm_tv *out)
{
    nm_sb sb = {r, NULL};
    bool ok;
    *out = nm_tv_float(f);
    if (!isfinite(f) || places > 323) return NM_OK;
    if (places < -308) {
        *out = nm_tv_float(copysign(0, f));
        return NM_OK;
    }
    if (places < 0) {
        double unit = pow(10, (double)-places), scaled = rint(f / unit);
        *out = nm_tv_float(scaled * unit);
        return NM_OK;
    }
    nm_sb_double(&sb, f, 'f', (int)places, false);
    NM_TRY(r->err);
    *out = nm_tv_float(copysign(nm_parse_double(sb.buffer->data, sb.buffer->used, &ok), f));
    return NM_OK;
}

/* round(i, places) for places < 0: half to even */
static nm_err round_int(nm_render *r, int64_t i, int64_t places, nm_tv *out)
{
    int64_t unit = 1;
    *out = nm_tv_int(i);
    for (int64_t k = places; k < 0; k++) {
        if (!__builtin_mul_overflow(unit, 10, &unit)) continue;
        *out = nm_tv_int(0);
        return NM_OK;
    }
    int64_t rest = i % unit, down = i - rest, half = unit / 2;
    int64_t away = rest < 0 ? -rest : rest;
    if (away > half || (away == half && unit > 1 && down / unit % 2)) {
        if (__builtin_add_overflow(down, rest < 0 ? -unit : unit, &down)) return nm_rt_fail(r, "an integer beyond 64 bits; use smaller numbers");
    }
    *out = nm_tv_int(down);
    return NM_OK;
}

static nm_err f_round(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    int64_t places;
    bool common = !nm_tv_given(p[1]) || nm_tv_text_is(p[1], "common"), up = nm_tv_text_is(p[1], "ceil");
    NM_TRY(nm_arg_int(r, p[0], 0, &places));
    if (!common && !up && !nm_tv_text_is(p[1], "floor")) return nm_rt_fail(r, "method must be common, ceil or floor");
    if (v.kind == NM_TV_UNDEFINED) return nm_tv_fail_undefined(r, v);
    if (!nm_tv_is_number(v)) return nm_rt_fail(r, "type %s cannot be rounded", nm_tv_kind_name(v));
    if (common) return nm_tv_is_int(v) ? round_int(r, nm_tv_as_int(v), places, out) : round_float(r, v.f, places, out);
    double scale = pow(10, (double)places), scaled = nm_tv_as_float(v) * scale;
    if (!isfinite(scaled) || scale == 0) return nm_rt_fail(r, "the number cannot be rounded");
    *out = nm_tv_float((up ? ceil(scaled) : floor(scaled)) / scale);
    return NM_OK;
}

static nm_err json_indent(nm_render *r, nm_tv v, nm_json_style *style)
{
    nm_sb sb = {r, NULL};
    int64_t n;
    if (!nm_tv_given(v) || v.kind == NM_TV_NONE) return NM_OK;
    style->pretty = true;
    style->indent = v;
    if (v.kind == NM_TV_STRING) return NM_OK;
    NM_TRY(nm_arg_int(r, v, 0, &n));
    nm_sb_repeat(&sb, " ", 1, n);
    return nm_sb_done(&sb, &style->indent);
}

static nm_err f_tojson(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_json_style style = {0};
    nm_sb sb = {r, NULL};
    nm_tv pair;
    NM_TRY(nm_arg_truth(r, p[0], false, &style.ascii));
    NM_TRY(json_indent(r, p[1], &style));
    NM_TRY(nm_arg_truth(r, p[3], false, &style.sort));
    NM_TRY(nm_tv_text(r, style.pretty ? "," : ", ", &style.item_separator));
    NM_TRY(nm_tv_text(r, ": ", &style.key_separator));
    if (nm_tv_given(p[2]) && p[2].kind != NM_TV_NONE) {
        NM_TRY(nm_iter_collect(r, p[2], &pair));
        if (pair.l->n != 2 || pair.l->items[0].kind != NM_TV_STRING || pair.l->items[1].kind != NM_TV_STRING)
            return nm_rt_fail(r, "separators must be two strings");
        style.item_separator = pair.l->items[0];
        style.key_separator = pair.l->items[1];
    }
    nm_sb_json(&sb, v, &style);
    return nm_sb_done(&sb, out);
}

static nm_err f_string(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)p; return nm_tv_soft(r, v, out); }
static nm_err f_escape(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)p; return nm_tv_escape(r, v, out); }

static nm_err f_forceescape(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    (void)p;
    NM_TRY(nm_tv_str(r, v, &v));
    return nm_tv_escape(r, v, out);
}

static nm_err f_safe(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    (void)p;
    NM_TRY(nm_tv_str(r, v, out));
    out->flag = NM_TV_MARKUP;
    return NM_OK;
}

const nm_callable *nm_filter_find(const char *name, size_t n)
{
    static const nm_callable table[] = {
        {"abs", "/", f_abs, NULL}, {"attr", "name", f_attr, NULL}, {"batch", "linecount ?fill_with", f_batch, NULL}, {"count", "/", f_length, NULL},
        {"d", "?default_value ?boolean", f_default, NULL}, {"default", "?default_value ?boolean", f_default, NULL},
        {"dictsort", "?case_sensitive ?by ?reverse", f_dictsort, NULL}, {"e", "/", f_escape, NULL}, {"escape", "/", f_escape, NULL},
        {"first", "/", f_first, NULL}, {"float", "?default", f_float, NULL}, {"forceescape", "/", f_forceescape, NULL},
        {"groupby", "attribute ?default ?case_sensitive", f_groupby, NULL}, {"int", "?default ?base", f_int, NULL}, {"items", "/", f_items, NULL},
        {"join", "?d ?attribute", f_join, NULL}, {"last", "/", f_last, NULL}, {"length", "/", f_length, NULL}, {"list", "/", f_list, NULL},
        {"map", "*", NULL, f_map}, {"max", "?case_sensitive ?attribute", f_max, NULL}, {"min", "?case_sensitive ?attribute", f_min, NULL},
        {"reject", "*", NULL, f_reject}, {"rejectattr", "*", NULL, f_rejectattr}, {"reverse", "/", f_reverse, NULL},
        {"round", "?precision ?method", f_round, NULL}, {"safe", "/", f_safe, NULL}, {"select", "*", NULL, f_select},
        {"selectattr", "*", NULL, f_selectattr}, {"slice", "slices ?fill_with", f_slice, NULL}, {"sort", "?reverse ?case_sensitive ?attribute", f_sort, NULL},
        {"string", "/", f_string, NULL}, {"sum", "?attribute ?start", f_sum, NULL},
        {"tojson", "?ensure_ascii ?indent ?separators ?sort_keys", f_tojson, NULL}, {"unique", "?case_sensitive ?attribute", f_unique, NULL}
    };
    const nm_callable *found = nm_callable_find(table, sizeof table / sizeof *table, name, n);
    return found ? found : nm_text_filter(name, n);
}
