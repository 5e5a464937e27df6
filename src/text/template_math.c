/* Python's arithmetic operators. Integers have 64 bits: what would need more is an error, not a wrap. */
#include <math.h>

#include "text/template_value.h"

static nm_err bad_operands(nm_render *r, char op, nm_tv a, nm_tv b)
{
    const char *name = op == 'f' ? "//" : op == 'p' ? "** or pow()" : (char[]){op, 0};
    if (a.kind == NM_TV_UNDEFINED) return nm_tv_fail_undefined(r, a);
    if (b.kind == NM_TV_UNDEFINED) return nm_tv_fail_undefined(r, b);
    return nm_rt_fail(r, "unsupported operand type(s) for %s: '%s' and '%s'", name, nm_tv_kind_name(a), nm_tv_kind_name(b));
}

static nm_err too_large(nm_render *r) { return nm_rt_fail(r, "an integer beyond 64 bits; use smaller numbers"); }

static bool power_overflows(int64_t base, int64_t exponent, int64_t *out)
{
    int64_t result = 1;
    while (exponent) {
        if (exponent & 1 && __builtin_mul_overflow(result, base, &result)) return true;
        exponent >>= 1;
        if (exponent && __builtin_mul_overflow(base, base, &base)) return true;
    }
    *out = result;
    return false;
}

static nm_err int_power(nm_render *r, int64_t a, int64_t b, nm_tv *out)
{
    int64_t c;
    if (b < 0) {
        if (a == 0) return nm_rt_fail(r, "0.0 cannot be raised to a negative power");
        *out = nm_tv_float(pow((double)a, (double)b));
        return NM_OK;
    }
    if (power_overflows(a, b, &c)) return too_large(r);
    *out = nm_tv_int(c);
    return NM_OK;
}

/* // and %: rounded down, the remainder has the divisor's sign */
static nm_err int_divide(nm_render *r, char op, int64_t a, int64_t b, nm_tv *out)
{
    if (b == 0) return nm_rt_fail(r, "integer division or modulo by zero");
    if (b == -1) {      /* INT64_MIN / -1 traps */
        int64_t negated;
        if (op == 'f' && __builtin_sub_overflow(0, a, &negated)) return too_large(r);
        *out = nm_tv_int(op == 'f' ? -a : 0);
        return NM_OK;
    }
    int64_t quotient = a / b, rest = a % b;
    if (rest && (rest < 0) != (b < 0)) {
        quotient--;
        rest += b;
    }
    *out = nm_tv_int(op == 'f' ? quotient : rest);
    return NM_OK;
}

static nm_err int_arith(nm_render *r, char op, int64_t a, int64_t b, nm_tv *out)
{
    int64_t c;
    bool over = false;
    switch (op) {
    case '+': over = __builtin_add_overflow(a, b, &c); break;
    case '-': over = __builtin_sub_overflow(a, b, &c); break;
    case '*': over = __builtin_mul_overflow(a, b, &c); break;
    case 'p': return int_power(r, a, b, out);
    case '/':
        if (b == 0) return nm_rt_fail(r, "division by zero");
        *out = nm_tv_float((double)a / (double)b);
        return NM_OK;
    default: return int_divide(r, op, a, b, out);
    }
    if (over) return too_large(r);
    *out = nm_tv_int(c);
    return NM_OK;
}

static nm_err float_power(nm_render *r, double a, double b, nm_tv *out)
{
    if (a == 0 && b < 0) return nm_rt_fail(r, "0.0 cannot be raised to a negative power");
    if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b)) return nm_rt_fail(r, "a negative number to a fractional power");
    double c = pow(a, b);
    if (isinf(c) && isfinite(a) && isfinite(b)) return nm_rt_fail(r, "numerical result out of range");
    *out = nm_tv_float(c);
    return NM_OK;
}

/* // and % of floats: the remainder first, exact, with the divisor's sign; the quotient from it */
static nm_err float_divide(nm_render *r, char op, double a, double b, nm_tv *out)
{
    if (b == 0) return nm_rt_fail(r, op == '%' ? "float modulo" : "float floor division by zero");
    double rest = fmod(a, b), quotient = (a - rest) / b;
    if (rest != 0) {
        if ((b < 0) != (rest < 0)) {
            rest += b;
            quotient -= 1;
        }
    } else {
        rest = copysign(0, b);
    }
    if (quotient != 0) {
        double whole = floor(quotient);
        quotient = quotient - whole > 0.5 ? whole + 1 : whole;
    } else {
        quotient = copysign(0, a / b);
    }
    *out = nm_tv_float(op == '%' ? rest : quotient);
    return NM_OK;
}

static nm_err float_arith(nm_render *r, char op, double a, double b, nm_tv *out)
{
    switch (op) {
    case '+': *out = nm_tv_float(a + b); return NM_OK;
    case '-': *out = nm_tv_float(a - b); return NM_OK;
    case '*': *out = nm_tv_float(a * b); return NM_OK;
    case 'p': return float_power(r, a, b, out);
    case '/':
        if (b == 0) return nm_rt_fail(r, "float division by zero");
        *out = nm_tv_float(a / b);
        return NM_OK;
    default: return float_divide(r, op, a, b, out);
    }
}

static nm_err repeat(nm_render *r, nm_tv v, int64_t times, nm_tv *out)
{
    if (v.kind == NM_TV_STRING) {
        nm_sb sb = {r, NULL};
        nm_sb_repeat(&sb, v.s->s, v.s->n, times);
        NM_TRY(nm_sb_done(&sb, out));
        out->flag = v.flag & NM_TV_MARKUP;
        return NM_OK;
    }
    nm_lb lb = {NULL};
    for (int64_t i = 0; v.l->n && i < times; i++)
        for (size_t k = 0; k < v.l->n; k++) NM_TRY(nm_lb_add(r, &lb, v.l->items[k]));
    return nm_lb_done(r, &lb, v.kind, out);
}

nm_err nm_tv_arith(nm_render *r, char op, nm_tv a, nm_tv b, nm_tv *out)
{
    bool a_repeats = a.kind == NM_TV_STRING || nm_tv_is_list(a), b_repeats = b.kind == NM_TV_STRING || nm_tv_is_list(b);
    if (nm_tv_is_int(a) && nm_tv_is_int(b)) return int_arith(r, op, nm_tv_as_int(a), nm_tv_as_int(b), out);
    if (nm_tv_is_number(a) && nm_tv_is_number(b)) return float_arith(r, op, nm_tv_as_float(a), nm_tv_as_float(b), out);
    if (op == '+' && a.kind == NM_TV_STRING && b.kind == NM_TV_STRING) return nm_tv_concat(r, a, b, out);
    if (op == '+' && nm_tv_is_list(a) && a.kind == b.kind) return nm_tv_list_concat(r, a, b, out);
    if (op == '*' && a_repeats && nm_tv_is_int(b)) return repeat(r, a, nm_tv_as_int(b), out);
    if (op == '*' && b_repeats && nm_tv_is_int(a)) return repeat(r, b, nm_tv_as_int(a), out);
    if (op == '%' && a.kind == NM_TV_STRING) return nm_tv_percent(r, a, b, out);
    return bad_operands(r, op, a, b);
}
