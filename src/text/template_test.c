/* jinja2's tests ("x is ..."): one row each. */
#include <string.h>

#include "text/template_chars.h"
#include "text/template_value.h"

static nm_err answer(bool b, nm_tv *out)
{
    *out = nm_tv_bool(b);
    return NM_OK;
}

#define KIND_TEST(name, condition) \
    static nm_err name(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)r; (void)p; return answer(condition, out); }
KIND_TEST(t_defined, v.kind != NM_TV_UNDEFINED)
KIND_TEST(t_undefined, v.kind == NM_TV_UNDEFINED)
KIND_TEST(t_none, v.kind == NM_TV_NONE)
KIND_TEST(t_boolean, v.kind == NM_TV_BOOL)
KIND_TEST(t_true, v.kind == NM_TV_BOOL && v.b)
KIND_TEST(t_false, v.kind == NM_TV_BOOL && !v.b)
KIND_TEST(t_integer, v.kind == NM_TV_INT || v.kind == NM_TV_WIDE)
KIND_TEST(t_float, v.kind == NM_TV_FLOAT)
KIND_TEST(t_number, nm_tv_is_number(v) || v.kind == NM_TV_WIDE)
KIND_TEST(t_string, v.kind == NM_TV_STRING)
KIND_TEST(t_mapping, v.kind == NM_TV_DICT)
KIND_TEST(t_sequence, v.kind == NM_TV_STRING || nm_tv_is_list(v) || v.kind == NM_TV_DICT || v.kind == NM_TV_RANGE || v.kind == NM_TV_UNDEFINED)
KIND_TEST(t_iterable, nm_tv_iterable(v) || v.kind == NM_TV_LOOP)
KIND_TEST(t_callable, nm_tv_callable(v))
KIND_TEST(t_escaped, v.kind == NM_TV_STRING && v.flag & NM_TV_MARKUP)

/* Is there a filter or test of that name? */
static nm_err is_known(nm_render *r, nm_tv v, const nm_callable *(*find)(const char *, size_t), nm_tv *out)
{
    if (v.kind == NM_TV_LIST || v.kind == NM_TV_DICT) return nm_rt_fail(r, "unhashable type: '%s'", nm_tv_kind_name(v));
    return answer(v.kind == NM_TV_STRING && find(v.s->s, v.s->n), out);
}

static nm_err t_filter(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)p; return is_known(r, v, nm_filter_find, out); }
static nm_err t_test(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)p; return is_known(r, v, nm_test_find, out); }

static nm_err t_sameas(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    NM_TRY(nm_rt_steps(r, v.kind == NM_TV_STRING ? v.s->n >> 6 : 0));
    return answer(nm_tv_same(v, p[0]), out);
}

static nm_err remainder_is(nm_render *r, nm_tv v, nm_tv by, int64_t wanted, nm_tv *out)
{
    bool equal;
    NM_TRY(nm_tv_arith(r, '%', v, by, &v));
    NM_TRY(nm_tv_equal(r, v, nm_tv_int(wanted), &equal));
    return answer(equal, out);
}

static nm_err t_odd(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)p; return remainder_is(r, v, nm_tv_int(2), 1, out); }
static nm_err t_even(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)p; return remainder_is(r, v, nm_tv_int(2), 0, out); }
static nm_err t_divisibleby(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return remainder_is(r, v, p[0], 0, out); }

static nm_err text_is(nm_render *r, nm_tv v, const char *method, nm_tv *out)
{
    NM_TRY(nm_tv_str(r, v, &v));
    return nm_tv_method(r, v, method, NULL, 0, out);
}

static nm_err t_lower(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)p; return text_is(r, v, "islower", out); }
static nm_err t_upper(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)p; return text_is(r, v, "isupper", out); }

static nm_err t_in(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    bool found;
    NM_TRY(nm_tv_contains(r, p[0], v, &found));
    return answer(found, out);
}

static nm_err equals(nm_render *r, nm_tv v, nm_tv other, bool wanted, nm_tv *out)
{
    bool equal;
    NM_TRY(nm_tv_equal(r, v, other, &equal));
    return answer(equal == wanted, out);
}

static nm_err t_eq(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return equals(r, v, p[0], true, out); }
static nm_err t_ne(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return equals(r, v, p[0], false, out); }

/* The order is `a` or `b`: -1, 0, 1. */
static nm_err ordered(nm_render *r, nm_tv v, nm_tv other, const char *op, int a, int b, nm_tv *out)
{
    int c;
    NM_TRY(nm_tv_compare(r, v, other, op, &c));
    return answer(c == a || c == b, out);
}

static nm_err t_lt(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return ordered(r, v, p[0], "<", -1, -1, out); }
static nm_err t_le(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return ordered(r, v, p[0], "<=", -1, 0, out); }
static nm_err t_gt(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return ordered(r, v, p[0], ">", 1, 1, out); }
static nm_err t_ge(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return ordered(r, v, p[0], ">=", 1, 0, out); }

const nm_callable *nm_test_find(const char *name, size_t n)
{
    static const nm_callable table[] = {
        {"odd", "/", t_odd, NULL}, {"even", "/", t_even, NULL}, {"divisibleby", "num", t_divisibleby, NULL}, {"defined", "/", t_defined, NULL},
        {"undefined", "/", t_undefined, NULL}, {"none", "/", t_none, NULL}, {"boolean", "/", t_boolean, NULL}, {"true", "/", t_true, NULL},
        {"false", "/", t_false, NULL}, {"integer", "/", t_integer, NULL}, {"float", "/", t_float, NULL}, {"number", "/", t_number, NULL},
        {"string", "/", t_string, NULL}, {"mapping", "/", t_mapping, NULL}, {"sequence", "/", t_sequence, NULL}, {"iterable", "/", t_iterable, NULL},
        {"callable", "/", t_callable, NULL}, {"escaped", "/", t_escaped, NULL}, {"sameas", "other", t_sameas, NULL}, {"filter", "/", t_filter, NULL},
        {"test", "/", t_test, NULL}, {"lower", "/", t_lower, NULL}, {"upper", "/", t_upper, NULL}, {"in", "seq", t_in, NULL},
        {"==", "/b", t_eq, NULL}, {"eq", "/b", t_eq, NULL}, {"equalto", "/b", t_eq, NULL}, {"!=", "/b", t_ne, NULL}, {"ne", "/b", t_ne, NULL},
        {"<", "/b", t_lt, NULL}, {"lt", "/b", t_lt, NULL}, {"lessthan", "/b", t_lt, NULL}, {"<=", "/b", t_le, NULL}, {"le", "/b", t_le, NULL},
        {">", "/b", t_gt, NULL}, {"gt", "/b", t_gt, NULL}, {"greaterthan", "/b", t_gt, NULL}, {">=", "/b", t_ge, NULL}, {"ge", "/b", t_ge, NULL}
    };
    return nm_callable_find(table, sizeof table / sizeof *table, name, n);
}
