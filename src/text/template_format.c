/* Text by pattern: str % values, str.format, and strftime. Refuses to reach behind values: a field of str.format sees what a template
 * sees. Names of days and months are English, whatever the locale. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "text/template_chars.h"
#include "text/template_value.h"

enum { MOST_WIDTH = 1 << 28 };

/* How a number or string is laid out: both pattern languages come down to it. */
typedef struct layout {
    const char *fill;       /* one character, fill_n bytes */
    size_t fill_n;
    char align;             /* < > ^ or = (between sign and digits), 0: default */
    char sign;              /* '+', ' ' or 0 */
    bool alternate, zero;
    char group;             /* ',' or '_' or 0 */
    int64_t width, precision;   /* -1: not given */
    char type;
} layout;

/* Pads body (behind sign and prefix) to the width. */
static void put_padded(nm_sb *sb, const layout *l, const char *sign, const char *body, size_t n, char dflt)
{
    char align = l->align ? l->align : dflt;
    int64_t have = (int64_t)(strlen(sign) + nm_utf8_count(body, n)), pad = l->width > have ? l->width - have : 0;
    int64_t left = align == '>' ? pad : align == '^' ? pad / 2 : 0;
    nm_sb_repeat(sb, l->fill, l->fill_n, left);
    nm_sb_puts(sb, sign);
    if (align == '=') nm_sb_repeat(sb, l->fill, l->fill_n, pad);
    nm_sb_put(sb, body, n);
    if (align == '<' || align == '^') nm_sb_repeat(sb, l->fill, l->fill_n, pad - left);
}

static const char *sign_of(const layout *l, bool negative) { return negative ? "-" : l->sign == '+' ? "+" : l->sign == ' ' ? " " : ""; }

/* Groups of three (four for hex) from the right, zeros in front so that the whole reaches `least` characters. */
static void put_grouped(nm_sb *sb, const char *digits, size_t n, char group, int size, int64_t least)
{
    size_t whole = 0;
    while (whole < n && ((digits[whole] >= '0' && digits[whole] <= '9') || (size == 4 && (digits[whole] | 32) >= 'a' && (digits[whole] | 32) <= 'f'))) whole++;
    int64_t rest = (int64_t)(n - whole), total = (int64_t)whole;
    while (least > 0 && total + (total - 1) / size + rest < least) total++;
    for (int64_t i = 0; i < total && sb->r->err == NM_OK; i++) {
        int64_t from_right = total - i;
        if (i && from_right % size == 0) nm_sb_put(sb, &group, 1);
        if (from_right > (int64_t)whole) nm_sb_puts(sb, "0");
        else nm_sb_put(sb, digits + whole - from_right, 1);
    }
    nm_sb_put(sb, digits + whole, n - whole);
}

static void put_number(nm_sb *sb, const layout *l, const char *sign, const char *digits, size_t n, int group_size)
{
    nm_sb body = {sb->r, NULL};
    int64_t least = l->zero && !l->align ? l->width - (int64_t)strlen(sign) : 0;
    if (l->group) {
        put_grouped(&body, digits, n, l->group, group_size, least);
    } else {
        nm_sb_repeat(&body, "0", 1, least - (int64_t)n);
        nm_sb_put(&body, digits, n);
    }
    if (sb->r->err == NM_OK) put_padded(sb, l, sign, body.buffer ? body.buffer->data : "", nm_sb_length(&body), '>');
}

static void put_integer(nm_sb *sb, const layout *l, int64_t value)
{
    char digits[72], sign[8];
    uint64_t rest = value < 0 ? -(uint64_t)value : (uint64_t)value;
    unsigned base = l->type == 'x' || l->type == 'X' ? 16 : l->type == 'o' ? 8 : l->type == 'b' ? 2 : 10;
    size_t at = sizeof digits;
    int64_t n;
    do digits[--at] = (l->type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[rest % base]; while (rest /= base);
    n = (int64_t)(sizeof digits - at);
    snprintf(sign, sizeof sign, "%s%s", sign_of(l, value < 0), l->alternate && base != 10 ? (char[]){'0', l->type, 0} : "");
    if (l->precision > n) {      /* % only: at least so many digits */
        nm_sb body = {sb->r, NULL};
        nm_sb_repeat(&body, "0", 1, l->precision - n);
        nm_sb_put(&body, digits + at, (size_t)n);
        if (sb->r->err == NM_OK) put_number(sb, l, sign, body.buffer->data, body.buffer->used, 3);
        return;
    }
    put_number(sb, l, sign, digits + at, (size_t)n, base == 10 ? 3 : 4);
}

static void upper_ascii(nm_sb *sb)
{
    for (size_t i = 0; i < nm_sb_length(sb); i++)
        if (sb->buffer->data[i] >= 'a' && sb->buffer->data[i] <= 'z') sb->buffer->data[i] -= 32;
}

static void put_float(nm_sb *sb, const layout *l, double f)
{
    nm_sb body = {sb->r, NULL};
    char type = l->type ? l->type : 'r', lower = (char)(type | 32);
    int precision = l->precision < 0 ? 6 : (int)l->precision;
    layout plain = *l;
    if (type == 'r' && l->precision < 0) nm_sb_float(&body, fabs(f));
    else if (type == '%') nm_sb_double(&body, f * 100, 'f', precision, l->alternate);
    else nm_sb_double(&body, f, lower == 'r' || lower == 'n' ? 'g' : lower, precision, l->alternate);
    if (type == '%') nm_sb_puts(&body, "%");
    if (type >= 'A' && type <= 'Z') upper_ascii(&body);
    if (sb->r->err != NM_OK) return;
    if (!isfinite(f)) plain.group = 0;
    put_number(sb, &plain, sign_of(l, signbit(f) && !isnan(f)), body.buffer->data, body.buffer->used, 3);
}

/* Cuts a string to the precision (characters) and pads it. */
static void put_text(nm_sb *sb, const layout *l, nm_tv text, char dflt)
{
    size_t n = l->precision < 0 ? text.s->n : nm_utf8_offset(text.s->s, text.s->n, (size_t)l->precision);
    put_padded(sb, l, "", text.s->s, n, dflt);
}

/* ---- % ------------------------------------------------------------------------------------------------------------------------------------ */

typedef struct percent { nm_render *r; nm_tv arg; size_t at; bool used_name; const char *s; size_t n, i; bool escapes; } percent;

static nm_err next_arg(percent *p, nm_tv *out)
{
    if (p->arg.kind == NM_TV_TUPLE) {
        if (p->at >= p->arg.l->n) return nm_rt_fail(p->r, "not enough arguments for format string");
        *out = p->arg.l->items[p->at++];
        return NM_OK;
    }
    if (p->at++) return nm_rt_fail(p->r, "not enough arguments for format string");
    *out = p->arg;
    return NM_OK;
}

static nm_err named_arg(percent *p, nm_tv *out)
{
    size_t from = ++p->i, depth = 1;
    if (p->arg.kind != NM_TV_DICT) return nm_rt_fail(p->r, "format requires a mapping");
    for (; p->i < p->n; p->i++) {
        depth += p->s[p->i] == '(';
        depth -= p->s[p->i] == ')';
        if (!depth) break;
    }
    if (depth) return nm_rt_fail(p->r, "incomplete format key");
    NM_TRY(nm_tv_dict_text(p->r, p->arg.d, p->s + from, p->i - from, out));
    if (!nm_tv_given(*out)) return nm_rt_fail(p->r, "no key '%.*s' to format", (int)(p->i - from < 100 ? p->i - from : 100), p->s + from);
    p->i++;
    p->used_name = true;
    return NM_OK;
}

/* digits or * */
static nm_err percent_number(percent *p, int64_t *out)
{
    nm_tv v;
    *out = 0;
    if (p->i < p->n && p->s[p->i] == '*') {
        p->i++;
        NM_TRY(next_arg(p, &v));
        if (!nm_tv_is_int(v)) return nm_rt_fail(p->r, "* wants int");
        *out = nm_tv_as_int(v);
        return *out > MOST_WIDTH || *out < -MOST_WIDTH ? nm_rt_fail(p->r, "a width or precision too large") : NM_OK;
    }
    for (; p->i < p->n && p->s[p->i] >= '0' && p->s[p->i] <= '9'; p->i++) {
        *out = *out * 10 + (p->s[p->i] - '0');
        if (*out > MOST_WIDTH) return nm_rt_fail(p->r, "a width or precision too large");
    }
    return NM_OK;
}

static nm_err percent_layout(percent *p, layout *l)
{
    *l = (layout){.fill = " ", .fill_n = 1, .precision = -1};
    for (; p->i < p->n && strchr("-+ #0", p->s[p->i]) && p->s[p->i]; p->i++) {
        char c = p->s[p->i];
        if (c == '-') l->align = '<';
        else if (c == '+') l->sign = '+';
        else if (c == ' ' && !l->sign) l->sign = ' ';
        else if (c == '#') l->alternate = true;
        else if (c == '0') l->zero = true;
    }
    NM_TRY(percent_number(p, &l->width));
    if (l->width < 0) {
        l->align = '<';
        l->width = -l->width;
    }
    if (p->i < p->n && p->s[p->i] == '.') {
        p->i++;
        NM_TRY(percent_number(p, &l->precision));
        if (l->precision < 0) l->precision = 0;
    }
    while (p->i < p->n && (p->s[p->i] == 'h' || p->s[p->i] == 'l' || p->s[p->i] == 'L')) p->i++;
    return NM_OK;
}

static nm_err percent_text(percent *p, nm_sb *sb, layout *l, nm_tv v)
{
    nm_sb repr = {p->r, NULL};
    nm_tv text;
    if (l->type == 's') NM_TRY(nm_tv_soft(p->r, v, &text));
    else {
        nm_sb_repr(&repr, v);
        NM_TRY(nm_sb_done(&repr, &text));
    }
    if (p->escapes) NM_TRY(nm_tv_escape(p->r, text, &text));
    put_text(sb, l, text, '>');
    return p->r->err;
}

static nm_err percent_character(percent *p, nm_sb *sb, layout *l, nm_tv v)
{
    char bytes[4];
    l->precision = -1;
    if (v.kind == NM_TV_STRING && nm_utf8_count(v.s->s, v.s->n) == 1) {
        put_text(sb, l, v, '>');
    } else if (nm_tv_is_int(v) && nm_tv_as_int(v) >= 0 && nm_tv_as_int(v) <= 0x10ffff && (nm_tv_as_int(v) < 0xd800 || nm_tv_as_int(v) > 0xdfff)) {
        put_padded(sb, l, "", bytes, (size_t)nm_utf8_encode((uint32_t)nm_tv_as_int(v), bytes), '>');
    } else {
        return nm_rt_fail(p->r, "%%c requires int or char");
    }
    return p->r->err;
}

static nm_err percent_integer(percent *p, nm_sb *sb, layout *l, nm_tv v)
{
    bool decimal = l->type == 'd' || l->type == 'i' || l->type == 'u';
    if (v.kind == NM_TV_FLOAT && decimal) {
        if (!(fabs(v.f) < 0x1p63)) return nm_rt_fail(p->r, "a number beyond 64 bits in a format");
        v = nm_tv_int((int64_t)v.f);
    }
    if (v.kind == NM_TV_UNDEFINED) return nm_tv_fail_undefined(p->r, v);
    if (!nm_tv_is_int(v)) return nm_rt_fail(p->r, "%%%c format: a %s is required, not %s", l->type, decimal ? "real number" : "integer", nm_tv_kind_name(v));
    if (decimal) l->type = 'd';
    if (l->precision > MOST_WIDTH) return nm_rt_fail(p->r, "a width or precision too large");
    put_integer(sb, l, nm_tv_as_int(v));
    return p->r->err;
}

static nm_err percent_one(percent *p, nm_sb *sb)
{
    layout l;
    nm_tv v = {0};
    if (p->i < p->n && p->s[p->i] == '(') NM_TRY(named_arg(p, &v));
    NM_TRY(percent_layout(p, &l));
    if (p->i >= p->n) return nm_rt_fail(p->r, "incomplete format");
    l.type = p->s[p->i++];
    if (l.type == '%') {
        nm_sb_puts(sb, "%");
        return p->r->err;
    }
    if (!strchr("srcdiuxXoeEfFgGa", l.type) || !l.type) return nm_rt_fail(p->r, "unsupported format character '%c'", l.type);
    if (!nm_tv_given(v)) NM_TRY(next_arg(p, &v));
    if (l.type == 's' || l.type == 'r' || l.type == 'a') return percent_text(p, sb, &l, v);
    if (l.type == 'c') return percent_character(p, sb, &l, v);
    if (strchr("diuxXo", l.type)) return percent_integer(p, sb, &l, v);
    if (v.kind == NM_TV_UNDEFINED) return nm_tv_fail_undefined(p->r, v);
    if (!nm_tv_is_number(v)) return nm_rt_fail(p->r, "must be real number, not %s", nm_tv_kind_name(v));
    put_float(sb, &l, nm_tv_as_float(v));
    return p->r->err;
}

nm_err nm_tv_percent(nm_render *r, nm_tv format, nm_tv arg, nm_tv *out)
{
    percent p = {.r = r, .arg = arg, .s = format.s->s, .n = format.s->n, .escapes = format.flag & NM_TV_MARKUP};
    nm_sb sb = {r, NULL};
    while (p.i < p.n) {
        const char *found = memchr(p.s + p.i, '%', p.n - p.i);
        size_t to = found ? (size_t)(found - p.s) : p.n;
        nm_sb_put(&sb, p.s + p.i, to - p.i);
        p.i = to + 1;
        if (found) NM_TRY(percent_one(&p, &sb));
    }
    bool left_over = arg.kind == NM_TV_TUPLE ? p.at < arg.l->n : !p.at && arg.kind != NM_TV_DICT && arg.kind != NM_TV_LIST && arg.kind != NM_TV_UNDEFINED;
    if (left_over && !p.used_name) return nm_rt_fail(r, "not all arguments converted during string formatting");
    NM_TRY(nm_sb_done(&sb, out));
    out->flag = format.flag & NM_TV_MARKUP;
    return NM_OK;
}

/* ---- str.format ---------------------------------------------------------------------------------------------------------------------------- */

typedef struct formatter { nm_render *r; const nm_args *args; int64_t automatic; bool manual, escapes; } formatter;   /* automatic: next {} */

static nm_err format_into(formatter *x, nm_sb *sb, const char *s, size_t n, int level);

/* [[fill]align][sign][#][0][width][,][.precision][type] */
static nm_err spec_layout(nm_render *r, const char *s, size_t n, layout *l)
{
    size_t i = 0, first = n ? nm_utf8_width(s[0]) : 0;
    *l = (layout){.fill = " ", .fill_n = 1, .precision = -1};
    if (n > first && strchr("<>^=", s[first])) {
        l->fill = s;
        l->fill_n = first;
        l->align = s[first];
        i = first + 1;
    } else if (n && strchr("<>^=", s[0])) {
        l->align = s[i++];
    }
    if (i < n && (s[i] == '+' || s[i] == '-' || s[i] == ' ')) l->sign = s[i++];
    if (l->sign == '-') l->sign = 0;
    if (i < n && s[i] == '#') l->alternate = ++i;
    if (i < n && s[i] == '0') l->zero = ++i;
    for (; i < n && s[i] >= '0' && s[i] <= '9' && l->width <= MOST_WIDTH; i++) l->width = l->width * 10 + (s[i] - '0');
    if (i < n && (s[i] == ',' || s[i] == '_')) l->group = s[i++];
    if (i < n && s[i] == '.') {
        size_t from = ++i;
        for (l->precision = 0; i < n && s[i] >= '0' && s[i] <= '9' && l->precision <= MOST_WIDTH; i++) l->precision = l->precision * 10 + (s[i] - '0');
        if (i == from) return nm_rt_fail(r, "format specifier missing precision");
    }
    if (i < n) l->type = s[i++];
    if (i < n || l->width > MOST_WIDTH || l->precision > MOST_WIDTH) return nm_rt_fail(r, "invalid format specifier");
    if (l->zero && l->align) {       /* an alignment wins over 0, which then only fills */
        if (l->fill_n == 1 && *l->fill == ' ' && l->fill != s) l->fill = "0";
        l->zero = false;
    }
    return NM_OK;
}

static nm_err spec_text(nm_render *r, nm_sb *sb, layout *l, nm_tv v)
{
    if (l->type && l->type != 's') return nm_rt_fail(r, "unknown format code '%c' for object of type 'str'", l->type);
    if (l->sign || l->group || l->align == '=' || l->alternate) return nm_rt_fail(r, "sign, grouping, # or '=' in the format of a string");
    if (l->zero && l->width) {
        l->align = '<';
        l->fill = "0";
    }
    put_text(sb, l, v, '<');
    return r->err;
}

static nm_err spec_number(nm_render *r, nm_sb *sb, layout *l, nm_tv v)
{
    bool integer = nm_tv_is_int(v);
    if (integer && l->type && strchr("eEfFgG%", l->type)) integer = false;
    if (integer && l->type == 'c') {
        char bytes[4];
        int64_t code = nm_tv_as_int(v);
        if (code < 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return nm_rt_fail(r, "%%c arg not in range(0x110000)");
        put_padded(sb, l, "", bytes, (size_t)nm_utf8_encode((uint32_t)code, bytes), '<');
        return r->err;
    }
    if (l->type && !strchr(integer ? "bdoxXn" : "eEfFgGn%", l->type))
        return nm_rt_fail(r, "unknown format code '%c' for object of type '%s'", l->type, nm_tv_kind_name(v));
    if (integer && l->precision >= 0) return nm_rt_fail(r, "precision not allowed in integer format specifier");
    if (integer && l->group == ',' && l->type && l->type != 'd') return nm_rt_fail(r, "cannot specify ',' with '%c'", l->type);
    if (integer) put_integer(sb, l, nm_tv_as_int(v));
    else put_float(sb, l, nm_tv_as_float(v));
    return r->err;
}

/* format(v, spec) */
static nm_err format_value(formatter *x, nm_sb *sb, nm_tv v, const char *spec, size_t n)
{
    nm_sb plain = {x->r, NULL}, *to = x->escapes ? &plain : sb;
    nm_tv text;
    layout l;
    if (x->escapes && v.kind == NM_TV_STRING && v.flag & NM_TV_MARKUP) {
        if (n) return nm_rt_fail(x->r, "unsupported format specification for Markup");
        nm_sb_str(sb, v);
        return x->r->err;
    }
    if (v.kind == NM_TV_BOOL && !n) nm_sb_str(to, v);
    else if (v.kind == NM_TV_STRING || nm_tv_is_number(v)) {
        NM_TRY(spec_layout(x->r, spec, n, &l));
        NM_TRY(v.kind == NM_TV_STRING ? spec_text(x->r, to, &l, v) : spec_number(x->r, to, &l, v));
    } else if (n) {
        return nm_rt_fail(x->r, "unsupported format string passed to %s.__format__", nm_tv_kind_name(v));
    } else {
        nm_sb_str(to, v);
    }
    if (!x->escapes) return x->r->err;
    NM_TRY(nm_sb_done(&plain, &text));
    NM_TRY(nm_tv_escape(x->r, text, &text));
    nm_sb_str(sb, text);
    return x->r->err;
}

static bool all_digits(const char *s, size_t n, int64_t *out)
{
    *out = 0;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9' || *out > MOST_WIDTH) return false;
        *out = *out * 10 + (s[i] - '0');
    }
    return n > 0;
}

/* The first part of a field's name: nothing, a number, or a keyword. */
static nm_err field_argument(formatter *x, const char *s, size_t n, nm_tv *out)
{
    int64_t index;
    bool numbered = all_digits(s, n, &index);
    if (!n || numbered) {
        if ((n != 0) != x->manual && x->automatic) return nm_rt_fail(x->r, "cannot switch between manual and automatic field numbering");
        x->manual = n != 0;
        x->automatic++;
        if (!n) index = x->automatic - 1;
        if (index >= (int64_t)x->args->n) return nm_rt_fail(x->r, "replacement index %lld out of range for positional args tuple", (long long)index);
        *out = x->args->pos[index];
        return NM_OK;
    }
    for (size_t i = 0; i < x->args->n_kw; i++)
        if (x->args->names[i].s->n == n && !memcmp(x->args->names[i].s->s, s, n)) {
            *out = x->args->values[i];
            return NM_OK;
        }
    return nm_rt_fail(x->r, "no argument '%.*s' to format", (int)(n < 100 ? n : 100), s);
}

/* .name or [key] */
static nm_err field_step(formatter *x, const char *s, size_t n, size_t *i, nm_tv *v)
{
    bool attribute = s[*i] == '.';
    size_t from = ++*i;
    int64_t index;
    while (*i < n && (attribute ? s[*i] != '.' && s[*i] != '[' : s[*i] != ']')) ++*i;
    if (*i == from || (!attribute && *i >= n)) return nm_rt_fail(x->r, "empty attribute in format string");
    size_t length = *i - from;
    if (!attribute) ++*i;
    if (attribute) return nm_tv_getattr(x->r, *v, s + from, length, v);
    nm_tv key;
    if (all_digits(s + from, length, &index)) key = nm_tv_int(index);
    else NM_TRY(nm_tv_string_of(x->r, s + from, length, NULL, &key));
    return nm_tv_getitem(x->r, *v, key, v);
}

static nm_err field_value(formatter *x, const char *s, size_t n, nm_tv *out)
{
    size_t i = 0;
    while (i < n && s[i] != '.' && s[i] != '[') i++;
    NM_TRY(field_argument(x, s, i, out));
    while (i < n) {
        if (s[i] != '.' && s[i] != '[') return nm_rt_fail(x->r, "only '.' or '[' may follow ']' in format field specifier");
        NM_TRY(field_step(x, s, n, &i, out));
    }
    return NM_OK;
}

/* What stands between braces: name!conversion:spec */
static nm_err format_field(formatter *x, nm_sb *sb, const char *s, size_t n, int level)
{
    size_t name = 0, spec;
    bool bracket = false;
    nm_tv v, text;
    nm_sb repr = {x->r, NULL}, inner = {x->r, NULL};
    for (; name < n && (bracket || (s[name] != '!' && s[name] != ':')); name++) bracket = s[name] == '[' || (bracket && s[name] != ']');
    NM_TRY(field_value(x, s, name, &v));
    spec = name;
    if (spec < n && s[spec] == '!') {
        char how = spec + 1 < n ? s[spec + 1] : 0;
        if ((how != 'r' && how != 's' && how != 'a') || (spec + 2 < n && s[spec + 2] != ':'))
            return nm_rt_fail(x->r, "unknown conversion specifier in format string");
        if (how == 's') nm_sb_str(&repr, v);
        else nm_sb_repr(&repr, v);
        NM_TRY(nm_sb_done(&repr, &v));
        spec += 2;
    }
    if (spec < n) spec++;
    NM_TRY(format_into(x, &inner, s + spec, n - spec, level + 1));
    NM_TRY(nm_sb_done(&inner, &text));
    return format_value(x, sb, v, text.s->s, text.s->n);
}

static nm_err format_into(formatter *x, nm_sb *sb, const char *s, size_t n, int level)
{
    if (level > 2) return nm_rt_fail(x->r, "max string recursion exceeded");
    for (size_t i = 0; i < n; i++) {
        size_t from = i, depth = 1;
        if (s[i] != '{' && s[i] != '}') {
            while (i + 1 < n && s[i + 1] != '{' && s[i + 1] != '}') i++;
            nm_sb_put(sb, s + from, i + 1 - from);
            continue;
        }
        if (i + 1 < n && s[i + 1] == s[i]) {
            nm_sb_put(sb, s + i++, 1);
            continue;
        }
        if (s[i] == '}') return nm_rt_fail(x->r, "single '}' encountered in format string");
        for (i++; i < n && depth; i++) {
            depth += s[i] == '{';
            depth -= s[i] == '}';
        }
        if (depth) return nm_rt_fail(x->r, "expected '}' before end of string");
        i--;
        NM_TRY(format_field(x, sb, s + from + 1, i - from - 1, level));
    }
    return x->r->err;
}

nm_err nm_tv_format(nm_render *r, nm_tv format, const nm_args *args, nm_tv *out)
{
    formatter x = {.r = r, .args = args, .escapes = format.flag & NM_TV_MARKUP};
    nm_sb sb = {r, NULL};
    NM_TRY(format_into(&x, &sb, format.s->s, format.s->n, 0));
    NM_TRY(nm_sb_done(&sb, out));
    out->flag = format.flag & NM_TV_MARKUP;
    return NM_OK;
}

/* ---- strftime -------------------------------------------------------------------------------------------------------------------------------- */

static const char *const day_names[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
static const char *const month_names[] = {"January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
                                          "November", "December"};

static bool leap(int year) { return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0; }

/* ISO 8601: weeks begin on Monday, the first holds January 4th. */
static int iso_week(const struct tm *t, int *year)
{
    int monday_based = (t->tm_wday + 6) % 7, week = (t->tm_yday - monday_based + 10) / 7;
    *year = t->tm_year + 1900;
    int jan1 = (monday_based - t->tm_yday % 7 + 7) % 7, days = leap(*year) ? 366 : 365;     /* weekday of January 1st */
    bool long_year = jan1 == 3 || (jan1 == 2 && days == 366);
    if (week < 1) {
        --*year;
        int before = (jan1 - (leap(*year) ? 366 : 365) % 7 + 7) % 7;
        return before == 3 || (before == 2 && leap(*year)) ? 53 : 52;
    }
    if (week == 53 && !long_year) {
        ++*year;
        return 1;
    }
    return week;
}

/* One number of a directive: least digits, what pads it. */
typedef struct date_field { int64_t value; int digits; char pad; } date_field;

static bool date_number(const struct tm *t, int64_t now, char c, date_field *f)
{
    int iso_year, week = iso_week(t, &iso_year), hour12 = t->tm_hour % 12 ? t->tm_hour % 12 : 12;
    switch (c) {
    case 'd': *f = (date_field){t->tm_mday, 2, '0'}; return true;
    case 'e': *f = (date_field){t->tm_mday, 2, ' '}; return true;
    case 'm': *f = (date_field){t->tm_mon + 1, 2, '0'}; return true;
    case 'y': *f = (date_field){(t->tm_year % 100 + 100) % 100, 2, '0'}; return true;
    case 'Y': *f = (date_field){t->tm_year + 1900, 1, '0'}; return true;
    case 'C': *f = (date_field){(t->tm_year + 1900) / 100, 2, '0'}; return true;
    case 'H': *f = (date_field){t->tm_hour, 2, '0'}; return true;
    case 'k': *f = (date_field){t->tm_hour, 2, ' '}; return true;
    case 'I': *f = (date_field){hour12, 2, '0'}; return true;
    case 'l': *f = (date_field){hour12, 2, ' '}; return true;
    case 'M': *f = (date_field){t->tm_min, 2, '0'}; return true;
    case 'S': *f = (date_field){t->tm_sec, 2, '0'}; return true;
    case 'f': *f = (date_field){0, 6, '0'}; return true;
    case 'j': *f = (date_field){t->tm_yday + 1, 3, '0'}; return true;
    case 'w': *f = (date_field){t->tm_wday, 1, '0'}; return true;
    case 'u': *f = (date_field){t->tm_wday ? t->tm_wday : 7, 1, '0'}; return true;
    case 'U': *f = (date_field){(t->tm_yday + 7 - t->tm_wday) / 7, 2, '0'}; return true;
    case 'W': *f = (date_field){(t->tm_yday + 7 - (t->tm_wday + 6) % 7) / 7, 2, '0'}; return true;
    case 'V': *f = (date_field){week, 2, '0'}; return true;
    case 'G': *f = (date_field){iso_year, 1, '0'}; return true;
    case 'g': *f = (date_field){iso_year % 100, 2, '0'}; return true;
    case 's': *f = (date_field){now, 1, '0'}; return true;
    default: return false;
    }
}

static const char *date_pattern(char c)
{
    switch (c) {
    case 'c': return "%a %b %e %H:%M:%S %Y";
    case 'x': case 'D': return "%m/%d/%y";
    case 'X': case 'T': return "%H:%M:%S";
    case 'R': return "%H:%M";
    case 'F': return "%Y-%m-%d";
    case 'r': return "%I:%M:%S %p";
    default: return NULL;
    }
}

static void put_cased(nm_sb *sb, const char *text, size_t n, char flag)
{
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        bool lower = c >= 'a' && c <= 'z', upper = c >= 'A' && c <= 'Z';
        if (flag == '^' && lower) c -= 32;
        else if (flag == '#' && lower) c -= 32;
        else if (flag == 'l' && upper) c += 32;
        nm_sb_put(sb, &c, 1);
    }
}

static void date_into(nm_sb *sb, const struct tm *t, int64_t now, const char *s, size_t n);

/* One directive behind its % and flag; false if there is none of that letter. */
static bool put_directive(nm_sb *sb, const struct tm *t, int64_t now, char flag, char c)
{
    date_field f;
    const char *pattern = date_pattern(c);
    if (date_number(t, now, c, &f)) {
        char pad = flag == '_' ? ' ' : flag == '0' ? '0' : f.pad;
        char digits[24];
        int length = snprintf(digits, sizeof digits, "%lld", (long long)f.value);
        if (flag != '-') nm_sb_repeat(sb, &pad, 1, f.digits - length);
        nm_sb_puts(sb, digits);
    } else if (pattern) {
        date_into(sb, t, now, pattern, strlen(pattern));
    } else if (c == 'a' || c == 'A') {
        put_cased(sb, day_names[t->tm_wday], c == 'a' ? 3 : strlen(day_names[t->tm_wday]), flag);
    } else if (c == 'b' || c == 'B' || c == 'h') {
        put_cased(sb, month_names[t->tm_mon], c == 'B' ? strlen(month_names[t->tm_mon]) : 3, flag);
    } else if (c == 'p' || c == 'P') {
        put_cased(sb, t->tm_hour < 12 ? "AM" : "PM", 2, c == 'P' || flag == '#' ? 'l' : flag);
    } else if (c == 'n' || c == 't' || c == '%') {
        nm_sb_puts(sb, c == 'n' ? "\n" : c == 't' ? "\t" : "%");
    } else {
        return c == 'z' || c == 'Z';        /* the reference's time knows no zone: nothing */
    }
    return true;
}

static void date_into(nm_sb *sb, const struct tm *t, int64_t now, const char *s, size_t n)
{
    for (size_t i = 0; i < n && sb->r->err == NM_OK; i++) {
        size_t from = i;
        char flag = 0;
        if (s[i] != '%') {
            nm_sb_put(sb, s + i, 1);
            continue;
        }
        if (i + 1 < n && s[i + 1] && strchr("-_0^#", s[i + 1])) flag = s[++i];
        if (i + 1 < n && put_directive(sb, t, now, flag, s[i + 1])) i++;
        else nm_sb_put(sb, s + from, i + 1 - from);
    }
}

nm_err nm_tv_strftime(nm_render *r, const char *format, size_t n, nm_tv *out)
{
    bool clock = r->now == INT64_MIN;
    time_t now = clock ? time(NULL) : (time_t)r->now;
    struct tm t;
    nm_sb sb = {r, NULL};
    if (!(clock ? localtime_r(&now, &t) : gmtime_r(&now, &t))) return nm_rt_fail(r, "strftime_now: the time is out of range");
    date_into(&sb, &t, (int64_t)now, format, n);
    return nm_sb_done(&sb, out);
}
