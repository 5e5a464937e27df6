/* What a template may see of a value, by attribute, subscript and call. The tables here and in template_string.c are all there is:
 * no attribute of Python's or of a C object is reachable. Refuses what the sandbox refuses: methods that would change a list or dict. */
#include <math.h>
#include <string.h>

#include "text/template.h"
#include "text/template_chars.h"

/* ---- Binding arguments to parameters -------------------------------------------------------------------------------------------------- */

typedef struct parameter { const char *name; size_t n; bool optional; } parameter;

/* Splits "a ?b" into parameters; returns how many. */
static size_t read_params(const char *params, parameter out[NM_MAX_PARAMS])
{
    size_t count = 0;
    if (*params == '/') params++;
    while (*params && count < NM_MAX_PARAMS) {
        bool optional = *params == '?';
        size_t n = strcspn(params += optional, " ");
        out[count++] = (parameter){params, n, optional};
        params += n + (params[n] == ' ');
    }
    return count;
}

static nm_err bind_keywords(nm_render *r, const nm_callable *c, const parameter *params, size_t count, const nm_args *args, nm_tv *bound)
{
    for (size_t i = 0; i < args->n_kw; i++) {
        const nm_tv_string *name = args->names[i].s;
        size_t k = 0;
        while (k < count && (params[k].n != name->n || memcmp(params[k].name, name->s, name->n))) k++;
        int shown = name->n < 100 ? (int)name->n : 100;
        if (k == count || *c->params == '/') return nm_rt_fail(r, "%s() got an unexpected keyword argument '%.*s'", c->name, shown, name->s);
        if (nm_tv_given(bound[k])) return nm_rt_fail(r, "%s() got multiple values for argument '%.*s'", c->name, shown, name->s);
        bound[k] = args->values[i];
    }
    return NM_OK;
}

nm_err nm_callable_call(nm_render *r, const nm_callable *c, nm_tv v, const nm_args *args, nm_tv *out)
{
    parameter params[NM_MAX_PARAMS];
    nm_tv bound[NM_MAX_PARAMS] = {{0}};
    if (c->open) return c->open(r, v, args, out);
    size_t count = read_params(c->params, params);
    if (args->n > count) return nm_rt_fail(r, "%s() takes at most %zu argument(s) (%zu given)", c->name, count, args->n);
    for (size_t i = 0; i < args->n; i++) bound[i] = args->pos[i];
    NM_TRY(bind_keywords(r, c, params, count, args, bound));
    for (size_t i = 0; i < count; i++)
        if (!params[i].optional && !nm_tv_given(bound[i])) return nm_rt_fail(r, "%s() is missing the argument '%.*s'", c->name, (int)params[i].n, params[i].name);
    return c->bound(r, v, bound, out);
}

const nm_callable *nm_callable_find(const nm_callable *table, size_t count, const char *name, size_t n)
{
    for (size_t i = 0; i < count; i++)
        if (strlen(table[i].name) == n && !memcmp(table[i].name, name, n)) return &table[i];
    return NULL;
}

nm_err nm_arg_int(nm_render *r, nm_tv v, int64_t dflt, int64_t *out)
{
    *out = dflt;
    if (!nm_tv_given(v)) return NM_OK;
    if (v.kind == NM_TV_UNDEFINED) return nm_tv_fail_undefined(r, v);
    if (!nm_tv_is_int(v)) return nm_rt_fail(r, "'%s' object cannot be interpreted as an integer", nm_tv_kind_name(v));
    *out = nm_tv_as_int(v);
    return NM_OK;
}

nm_err nm_arg_truth(nm_render *r, nm_tv v, bool dflt, bool *out)
{
    *out = dflt;
    return nm_tv_given(v) ? nm_tv_truth(r, v, out) : NM_OK;
}

/* ---- Methods of lists, tuples and ranges --------------------------------------------------------------------------------------------------- */

static nm_err sequence_count(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_tv_iter it;
    nm_tv item;
    int64_t n = 0;
    NM_TRY(nm_iter_init(r, v, &it));
    for (;;) {
        bool equal;
        NM_TRY(nm_iter_next(r, &it, &item));
        if (!nm_tv_given(item)) break;
        NM_TRY(nm_tv_equal(r, item, p[0], &equal));
        n += equal;
    }
    *out = nm_tv_int(n);
    return NM_OK;
}

/* start and stop as slices clamp them */
static void clamp(int64_t *at, int64_t n)
{
    if (*at < 0) *at = *at < -n ? 0 : *at + n;
    if (*at > n) *at = n;
}

static nm_err sequence_index(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_tv list;
    int64_t start, stop;
    NM_TRY(nm_iter_collect(r, v, &list));
    NM_TRY(nm_arg_int(r, p[1], 0, &start));
    NM_TRY(nm_arg_int(r, p[2], INT64_MAX, &stop));
    clamp(&start, (int64_t)list.l->n);
    clamp(&stop, (int64_t)list.l->n);
    for (int64_t i = start; i < stop; i++) {
        bool equal;
        NM_TRY(nm_tv_equal(r, list.l->items[i], p[0], &equal));
        if (!equal) continue;
        *out = nm_tv_int(i);
        return NM_OK;
    }
    return nm_rt_fail(r, "the value is not in the %s", nm_tv_kind_name(v));
}

static nm_err copy_same(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    (void)r;
    (void)p;
    *out = v;       /* lists and dicts never change here: a copy is the thing itself */
    return NM_OK;
}

static const nm_callable list_methods[] = {
    {"count", "/value", sequence_count, NULL}, {"index", "/value ?start ?stop", sequence_index, NULL}, {"copy", "/", copy_same, NULL}
};

/* ---- Methods of dicts ---------------------------------------------------------------------------------------------------------------------- */

static nm_err dict_get(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    NM_TRY(nm_tv_dict_get(r, v.d, p[0], out));
    if (!nm_tv_given(*out)) *out = nm_tv_given(p[1]) ? p[1] : nm_tv_none();
    return NM_OK;
}

static nm_err dict_view(nm_tv v, uint16_t view, nm_tv *out)
{
    *out = (nm_tv){.kind = NM_TV_VIEW, .view = view, .d = v.d};
    return NM_OK;
}

static nm_err dict_keys(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)r; (void)p; return dict_view(v, 0, out); }
static nm_err dict_values(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)r; (void)p; return dict_view(v, 1, out); }
static nm_err dict_items(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)r; (void)p; return dict_view(v, 2, out); }

static const nm_callable dict_methods[] = {
    {"get", "/key ?default", dict_get, NULL}, {"items", "/", dict_items, NULL}, {"keys", "/", dict_keys, NULL}, {"values", "/", dict_values, NULL},
    {"copy", "/", copy_same, NULL}
};

/* Attributes that exist in Python and that the sandbox will not give: they read as undefined, and calling them fails. */
static bool refused_method(nm_tv v, const char *name, size_t n)
{
    static const char *const lists[] = {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"};
    static const char *const dicts[] = {"clear", "pop", "popitem", "setdefault", "update"};
    const char *const *names = v.kind == NM_TV_LIST ? lists : dicts;
    size_t count = v.kind == NM_TV_LIST ? 8 : v.kind == NM_TV_DICT ? 5 : 0;
    for (size_t i = 0; i < count; i++) if (n == strlen(names[i]) && !memcmp(name, names[i], n)) return true;
    return false;
}

/* ---- Methods of numbers, cyclers ---------------------------------------------------------------------------------------------------------- */

static nm_err int_bit_length(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    int64_t i = nm_tv_as_int(v);
    uint64_t u = i < 0 ? -(uint64_t)i : (uint64_t)i;
    (void)r;
    (void)p;
    *out = nm_tv_int(u ? 64 - __builtin_clzll(u) : 0);
    return NM_OK;
}

static nm_err float_is_integer(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    (void)r;
    (void)p;
    *out = nm_tv_bool(isfinite(v.f) && v.f == floor(v.f));
    return NM_OK;
}

static nm_err cycler_next(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    (void)r;
    (void)p;
    *out = v.cycler->items[v.cycler->at];
    v.cycler->at = (v.cycler->at + 1) % v.cycler->n;
    return NM_OK;
}

static nm_err cycler_reset(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    (void)r;
    (void)p;
    v.cycler->at = 0;
    *out = nm_tv_none();
    return NM_OK;
}

static const nm_callable int_methods[] = {{"bit_length", "/", int_bit_length, NULL}};
static const nm_callable float_methods[] = {{"is_integer", "/", float_is_integer, NULL}};
static const nm_callable cycler_methods[] = {{"next", "/", cycler_next, NULL}, {"reset", "/", cycler_reset, NULL}};

#define FIND(table) nm_callable_find(table, sizeof table / sizeof *table, name, n)

static const nm_callable *find_method(nm_tv v, const char *name, size_t n)
{
    switch ((nm_tv_kind)v.kind) {
    case NM_TV_STRING: return nm_string_method(name, n);
    case NM_TV_LIST: return FIND(list_methods);
    case NM_TV_TUPLE: case NM_TV_RANGE: return n == 4 && !memcmp(name, "copy", 4) ? NULL : FIND(list_methods);
    case NM_TV_DICT: return FIND(dict_methods);
    case NM_TV_INT: case NM_TV_BOOL: return FIND(int_methods);
    case NM_TV_FLOAT: return FIND(float_methods);
    case NM_TV_CYCLER: return FIND(cycler_methods);
    case NM_TV_LOOP: return nm_loop_method(name, n);
    default: return NULL;
    }
}

/* ---- Attributes ------------------------------------------------------------------------------------------------------------------------------ */

static bool is(const char *name, size_t n, const char *word) { return n == strlen(word) && !memcmp(name, word, n); }

/* Data attributes; MISSING if there is none of that name. */
static nm_err data_attribute(nm_render *r, nm_tv v, const char *name, size_t n, nm_tv *out)
{
    *out = (nm_tv){0};
    if (v.kind == NM_TV_NAMESPACE) return nm_tv_dict_text(r, v.d, name, n, out);
    if (v.kind == NM_TV_LOOP) return nm_loop_attr(r, v.loop, name, n, out);
    if (v.kind == NM_TV_CYCLER && is(name, n, "current")) *out = v.cycler->items[v.cycler->at];
    if (v.kind == NM_TV_MACRO && is(name, n, "name") && v.macro->node->name) return nm_tv_string_of(r, v.macro->node->name->s, v.macro->node->name->n, NULL, out);
    if (v.kind == NM_TV_TUPLE && v.flag & NM_TV_GROUP) {
        if (is(name, n, "grouper")) *out = v.l->items[0];
        if (is(name, n, "list")) *out = v.l->items[1];
    }
    if (v.kind == NM_TV_RANGE) {
        if (is(name, n, "start")) *out = nm_tv_int(v.r->start);
        if (is(name, n, "stop")) *out = nm_tv_int(v.r->stop);
        if (is(name, n, "step")) *out = nm_tv_int(v.r->step);
    }
    if (nm_tv_is_number(v) && is(name, n, "real")) *out = nm_tv_is_int(v) ? nm_tv_int(nm_tv_as_int(v)) : v;
    if (nm_tv_is_number(v) && is(name, n, "imag")) *out = nm_tv_is_int(v) ? nm_tv_int(0) : nm_tv_float(0);
    return NM_OK;
}

static bool is_dunder(const char *name, size_t n) { return n > 4 && !memcmp(name, "__", 2) && !memcmp(name + n - 2, "__", 2); }

/* getattr(v, name) as the sandbox gives it: MISSING where Python has no such attribute. */
nm_err nm_tv_attribute(nm_render *r, nm_tv v, const char *name, size_t n, nm_tv *out)
{
    NM_TRY(data_attribute(r, v, name, n, out));
    if (nm_tv_given(*out)) return NM_OK;
    if (refused_method(v, name, n) || is_dunder(name, n))
        return nm_tv_undefined_of(r, "access to this attribute is unsafe: the sandbox refuses what changes a list or dict or reaches behind it", NULL, 0, out);
    const nm_callable *method = find_method(v, name, n);
    if (!method) return NM_OK;
    nm_bound *bound;
    NM_RT_NEW(r, bound, 1);
    *bound = (nm_bound){v, method};
    *out = (nm_tv){.kind = NM_TV_METHOD, .bound = bound};
    return NM_OK;
}

static nm_err item_of_text(nm_render *r, nm_tv v, int64_t index, nm_tv *out)
{
    int64_t n;
    NM_TRY(nm_tv_length(r, v, &n));
    if (index < 0) index += n;
    if (index < 0 || index >= n) return NM_OK;
    size_t from = nm_utf8_offset(v.s->s, v.s->n, (size_t)index);
    return nm_tv_slice_text(r, v, from, from + nm_utf8_width(v.s->s[from]), out);
}

/* v[key]; MISSING for TypeError and LookupError. */
static nm_err item(nm_render *r, nm_tv v, nm_tv key, nm_tv *out)
{
    *out = (nm_tv){0};
    if (v.kind == NM_TV_DICT) {
        if (key.kind == NM_TV_LIST || key.kind == NM_TV_DICT) return NM_OK;
        return nm_tv_dict_get(r, v.d, key, out);
    }
    if (!nm_tv_is_int(key)) return NM_OK;
    int64_t index = nm_tv_as_int(key);
    if (v.kind == NM_TV_STRING) return item_of_text(r, v, index, out);
    size_t n = nm_tv_is_list(v) ? v.l->n : v.kind == NM_TV_RANGE ? v.r->n : 0;
    if (index < 0) index += (int64_t)n;
    if (index < 0 || index >= (int64_t)n) return NM_OK;
    *out = nm_tv_is_list(v) ? v.l->items[index] : nm_tv_range_item(v.r, (size_t)index);
    return NM_OK;
}

nm_err nm_tv_getattr(nm_render *r, nm_tv v, const char *name, size_t n, nm_tv *out)
{
    nm_tv found;
    if (v.kind == NM_TV_UNDEFINED && !is(name, n, "__class__")) return nm_tv_fail_undefined(r, v);
    NM_TRY(nm_tv_attribute(r, v, name, n, &found));
    if (!nm_tv_given(found) && v.kind == NM_TV_DICT) NM_TRY(nm_tv_dict_text(r, v.d, name, n, &found));
    *out = found;
    return nm_tv_given(found) ? NM_OK : nm_tv_undefined_of(r, nm_tv_kind_name(v), name, n, out);
}

nm_err nm_tv_getitem(nm_render *r, nm_tv v, nm_tv key, nm_tv *out)
{
    nm_tv found;
    if (v.kind == NM_TV_UNDEFINED) return nm_tv_fail_undefined(r, v);
    NM_TRY(item(r, v, key, &found));
    if (!nm_tv_given(found) && key.kind == NM_TV_STRING) NM_TRY(nm_tv_attribute(r, v, key.s->s, key.s->n, &found));
    *out = found;
    if (nm_tv_given(found)) return NM_OK;
    if (key.kind == NM_TV_STRING) return nm_tv_undefined_of(r, nm_tv_kind_name(v), key.s->s, key.s->n, out);
    return nm_tv_undefined_of(r, nm_tv_kind_name(v), "[...]", 5, out);
}

/* ---- Slices ---------------------------------------------------------------------------------------------------------------------------------- */

static nm_err slice_bound(nm_render *r, nm_tv v, int64_t dflt, int64_t n, int64_t least, int64_t *out)
{
    *out = dflt;
    if (v.kind == NM_TV_NONE) return NM_OK;
    if (!nm_tv_is_int(v)) return nm_rt_fail(r, "slice indices must be integers or None");
    int64_t at = nm_tv_as_int(v);
    if (at < 0) at = at < -n ? least : at + n;
    *out = at >= n ? n + least : at;
    return NM_OK;
}

static nm_err slice_text(nm_render *r, nm_tv v, int64_t start, int64_t step, int64_t count, nm_tv *out)
{
    nm_sb sb = {r, NULL};
    int64_t first = step > 0 ? start : start + (count - 1) * step, stride = step > 0 ? step : -step;
    size_t at = nm_utf8_offset(v.s->s, v.s->n, (size_t)first);
    if (stride == 1 && step > 0)
        return nm_tv_slice_text(r, v, at, at + nm_utf8_offset(v.s->s + at, v.s->n - at, (size_t)count), out);
    size_t end = at + nm_utf8_offset(v.s->s + at, v.s->n - at, (size_t)((count - 1) * stride + 1));
    for (int64_t i = 0; i < count && r->err == NM_OK; i++) {
        size_t from = step > 0 ? at : nm_utf8_back(v.s->s, end);
        nm_sb_put(&sb, v.s->s + from, nm_utf8_width(v.s->s[from]));
        if (step > 0) at += nm_utf8_offset(v.s->s + at, v.s->n - at, (size_t)stride);
        else for (int64_t k = 0; k < stride && end; k++) end = nm_utf8_back(v.s->s, end);
    }
    NM_TRY(nm_sb_done(&sb, out));
    out->flag = v.flag & NM_TV_MARKUP;
    return NM_OK;
}

static nm_err slice_list(nm_render *r, nm_tv v, int64_t start, int64_t step, int64_t count, nm_tv *out)
{
    nm_lb lb = {NULL};
    for (int64_t i = 0; i < count; i++) NM_TRY(nm_lb_add(r, &lb, v.l->items[start + i * step]));
    return nm_lb_done(r, &lb, v.kind, out);
}

static nm_err new_range(nm_render *r, int64_t start, int64_t stop, int64_t step, int64_t count, nm_tv *out)
{
    nm_tv_range *range;
    NM_RT_NEW(r, range, 1);
    *range = (nm_tv_range){start, stop, step, (size_t)count};
    *out = (nm_tv){.kind = NM_TV_RANGE, .r = range};
    return NM_OK;
}

/* Bounds and step of a slice may lie beyond 64 bits where few items are left: they wrap, and are then only printed. */
static nm_err slice_range(nm_render *r, const nm_tv_range *range, int64_t start, int64_t stop, int64_t step, int64_t count, nm_tv *out)
{
    uint64_t base = (uint64_t)range->start, stride = (uint64_t)range->step;
    return new_range(r, (int64_t)(base + (uint64_t)start * stride), (int64_t)(base + (uint64_t)stop * stride), (int64_t)(stride * (uint64_t)step), count, out);
}

nm_err nm_tv_slice(nm_render *r, nm_tv v, nm_tv start_v, nm_tv stop_v, nm_tv step_v, nm_tv *out)
{
    int64_t n, start, stop, step = 1;
    if (v.kind == NM_TV_UNDEFINED) return nm_tv_fail_undefined(r, v);
    if (v.kind != NM_TV_STRING && !nm_tv_is_list(v) && v.kind != NM_TV_RANGE) return nm_rt_fail(r, "a '%s' cannot be sliced", nm_tv_kind_name(v));
    NM_TRY(nm_tv_length(r, v, &n));
    if (step_v.kind != NM_TV_NONE) NM_TRY(nm_arg_int(r, step_v, 1, &step));
    if (step == 0) return nm_rt_fail(r, "slice step cannot be zero");
    if (step < -n - 1) step = -n - 1;
    if (step > n + 1) step = n + 1;
    NM_TRY(slice_bound(r, start_v, step > 0 ? 0 : n - 1, n, step > 0 ? 0 : -1, &start));
    NM_TRY(slice_bound(r, stop_v, step > 0 ? n : -1, n, step > 0 ? 0 : -1, &stop));
    int64_t count = step > 0 ? (stop > start ? (stop - start - 1) / step + 1 : 0) : (start > stop ? (start - stop - 1) / -step + 1 : 0);
    NM_TRY(nm_rt_steps(r, (size_t)count >> 3));
    if (v.kind == NM_TV_RANGE) return slice_range(r, v.r, start, stop, step, count, out);
    if (nm_tv_is_list(v)) return slice_list(r, v, start, step, count, out);
    return count ? slice_text(r, v, start, step, count, out) : nm_tv_slice_text(r, v, 0, 0, out);
}

/* ---- Global functions ------------------------------------------------------------------------------------------------------------------------ */

static nm_err call_raise(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_tv text;
    (void)v;
    (void)out;
    NM_TRY(nm_tv_str(r, p[0], &text));
    return nm_rt_raise(r, NM_REFUSED, "the template refuses: %.*s", (int)(text.s->n < 700 ? text.s->n : 700), text.s->s);
}

static nm_err call_strftime(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    (void)v;
    if (p[0].kind != NM_TV_STRING) return nm_rt_fail(r, "strftime_now() wants a string");
    return nm_tv_strftime(r, p[0].s->s, p[0].s->n, out);
}

enum { MOST_RANGE = 100000 };       /* jinja2's sandbox has the same bound */

static nm_err call_range(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    int64_t a, b, step;
    (void)v;
    NM_TRY(nm_arg_int(r, p[0], 0, &a));
    NM_TRY(nm_arg_int(r, p[1], 0, &b));
    NM_TRY(nm_arg_int(r, p[2], 1, &step));
    if (!nm_tv_given(p[1])) {
        b = a;
        a = 0;
    }
    if (step == 0) return nm_rt_fail(r, "range() arg 3 must not be zero");
    uint64_t span = step > 0 ? (b > a ? (uint64_t)b - (uint64_t)a : 0) : (a > b ? (uint64_t)a - (uint64_t)b : 0);
    uint64_t stride = step > 0 ? (uint64_t)step : -(uint64_t)step, count = span ? (span - 1) / stride + 1 : 0;
    if (count > MOST_RANGE) return nm_rt_fail(r, "range too big: more than %d items", MOST_RANGE);
    return new_range(r, a, b, step, (int64_t)count, out);
}

/* dict(x, **kw) and namespace(x, **kw) */
static nm_err fill_dict(nm_render *r, nm_tv_dict *d, nm_tv from)
{
    nm_tv_iter it;
    nm_tv item_v, pair;
    if (from.kind == NM_TV_DICT) {
        for (size_t i = 0; i < from.d->n; i++) NM_TRY(nm_tv_dict_set(r, d, from.d->keys[i], from.d->values[i]));
        return NM_OK;
    }
    NM_TRY(nm_iter_init(r, from, &it));
    for (;;) {
        NM_TRY(nm_iter_next(r, &it, &item_v));
        if (!nm_tv_given(item_v)) return NM_OK;
        NM_TRY(nm_iter_collect(r, item_v, &pair));
        if (pair.l->n != 2) return nm_rt_fail(r, "dictionary update sequence element has length %zu; 2 is required", pair.l->n);
        NM_TRY(nm_tv_dict_set(r, d, pair.l->items[0], pair.l->items[1]));
    }
}

static nm_err make_dict(nm_render *r, nm_tv_kind kind, const nm_args *args, nm_tv *out)
{
    NM_TRY(nm_tv_dict_of(r, kind, out));
    if (args->n > 1) return nm_rt_fail(r, "dict expected at most 1 argument, got %zu", args->n);
    if (args->n) NM_TRY(fill_dict(r, out->d, args->pos[0]));
    for (size_t i = 0; i < args->n_kw; i++) NM_TRY(nm_tv_dict_set(r, out->d, args->names[i], args->values[i]));
    return NM_OK;
}

static nm_err call_dict(nm_render *r, nm_tv v, const nm_args *args, nm_tv *out) { (void)v; return make_dict(r, NM_TV_DICT, args, out); }
static nm_err call_namespace(nm_render *r, nm_tv v, const nm_args *args, nm_tv *out) { (void)v; return make_dict(r, NM_TV_NAMESPACE, args, out); }

static nm_err call_cycler(nm_render *r, nm_tv v, const nm_args *args, nm_tv *out)
{
    nm_cycler *c;
    (void)v;
    if (args->n_kw) return nm_rt_fail(r, "cycler() takes no keyword arguments");
    if (!args->n) return nm_rt_fail(r, "at least one item has to be provided");
    NM_RT_NEW(r, c, 1);
    *c = (nm_cycler){.items = args->pos, .n = args->n};
    *out = (nm_tv){.kind = NM_TV_CYCLER, .cycler = c};
    return NM_OK;
}

static nm_err call_joiner(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_cycler *c;
    (void)v;
    NM_RT_NEW(r, c, 1);
    *c = (nm_cycler){.separator = p[0]};
    if (!nm_tv_given(p[0])) NM_TRY(nm_tv_text(r, ", ", &c->separator));
    *out = (nm_tv){.kind = NM_TV_JOINER, .cycler = c};
    return NM_OK;
}

nm_err nm_global(nm_render *r, const char *name, size_t n, nm_tv *out)
{
    static const nm_callable globals[] = {
        {"raise_exception", "message", call_raise, NULL}, {"strftime_now", "format", call_strftime, NULL},
        {"range", "/start ?stop ?step", call_range, NULL}, {"joiner", "?sep", call_joiner, NULL},
        {"dict", "*", NULL, call_dict}, {"namespace", "*", NULL, call_namespace}, {"cycler", "*", NULL, call_cycler}
    };
    const nm_callable *found = FIND(globals);
    (void)r;
    *out = found ? (nm_tv){.kind = NM_TV_FUNCTION, .call = found} : (nm_tv){0};
    return NM_OK;
}

/* ---- Calls ------------------------------------------------------------------------------------------------------------------------------------ */

nm_err nm_tv_method(nm_render *r, nm_tv text, const char *name, nm_tv *pos, size_t n, nm_tv *out)
{
    return nm_callable_call(r, nm_string_method(name, strlen(name)), text, &(nm_args){.pos = pos, .n = n}, out);
}

bool nm_tv_callable(nm_tv v)
{
    return v.kind == NM_TV_UNDEFINED || v.kind == NM_TV_MACRO || v.kind == NM_TV_FUNCTION || v.kind == NM_TV_METHOD || v.kind == NM_TV_LOOP ||
           v.kind == NM_TV_JOINER;
}

static nm_err joiner_call(nm_render *r, nm_cycler *c, const nm_args *args, nm_tv *out)
{
    if (args->n || args->n_kw) return nm_rt_fail(r, "a joiner takes no arguments");
    if (c->used) *out = c->separator;
    else NM_TRY(nm_tv_text(r, "", out));
    c->used = true;
    return NM_OK;
}

nm_err nm_tv_call(nm_render *r, nm_tv callee, const nm_args *args, nm_tv *out)
{
    switch ((nm_tv_kind)callee.kind) {
    case NM_TV_MACRO: return nm_macro_call(r, callee.macro, args, out);
    case NM_TV_FUNCTION: return nm_callable_call(r, callee.call, callee, args, out);
    case NM_TV_METHOD: return nm_callable_call(r, callee.bound->call, callee.bound->self, args, out);
    case NM_TV_LOOP: return nm_loop_call(r, callee.loop, args, out);
    case NM_TV_JOINER: return joiner_call(r, callee.cycler, args, out);
    case NM_TV_UNDEFINED: return nm_tv_fail_undefined(r, callee);
    default: return nm_rt_fail(r, "'%s' object is not callable", nm_tv_kind_name(callee));
    }
}
