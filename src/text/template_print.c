/* The text of values: Python's str and repr, json.dumps, pprint, and HTML escaping. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/template.h"
#include "text/template_chars.h"

/* ---- Floats --------------------------------------------------------------------------------------------------------------------------- */

/* snprintf and strtod obey the locale's decimal point: digits are taken out of the one and put into the other without a point. */

/* |f| in %e form: `count` digits into digits, the decimal exponent into *exponent. count is at most 800. */
static void float_digits(double f, int count, char *digits, int *exponent)
{
    char text[840];
    int n = 0;
    snprintf(text, sizeof text, "%.*e", count - 1, fabs(f));
    char *e = strchr(text, 'e');
    for (char *c = text; c < e; c++) if (*c >= '0' && *c <= '9') digits[n++] = *c;
    digits[n] = 0;
    *exponent = (int)strtol(e + 1, NULL, 10);
}

static double from_digits(const char *digits, int exponent)
{
    char text[840];
    snprintf(text, sizeof text, "%se%d", digits, exponent - (int)strlen(digits) + 1);
    return strtod(text, NULL);
}

static void put_exponent(nm_sb *sb, int exponent) { nm_sb_printf(sb, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent)); }

void nm_sb_float(nm_sb *sb, double f)
{
    char digits[32];
    int exponent, count = 1;
    if (signbit(f) && !isnan(f)) nm_sb_puts(sb, "-");
    if (isnan(f) || isinf(f)) {
        nm_sb_puts(sb, isnan(f) ? "nan" : "inf");
        return;
    }
    do float_digits(f, count, digits, &exponent); while (from_digits(digits, exponent) != fabs(f) && ++count <= 17);
    int n = (int)strlen(digits);
    if (exponent < -4 || exponent >= 16) {
        nm_sb_put(sb, digits, 1);
        if (n > 1) nm_sb_printf(sb, ".%s", digits + 1);
        put_exponent(sb, exponent);
    } else if (exponent < 0) {
        nm_sb_puts(sb, "0.");
        nm_sb_repeat(sb, "0", 1, -exponent - 1);
        nm_sb_puts(sb, digits);
    } else {
        nm_sb_put(sb, digits, (size_t)(n < exponent + 1 ? n : exponent + 1));
        nm_sb_repeat(sb, "0", 1, exponent + 1 - n);
        nm_sb_printf(sb, ".%s", n > exponent + 1 ? digits + exponent + 1 : "0");
    }
}

static void put_fixed(nm_sb *sb, double f, int precision, bool point)
{
    char text[800];
    snprintf(text, sizeof text, "%.*f", precision, fabs(f));
    size_t n = strspn(text, "0123456789");
    nm_sb_put(sb, text, n);
    if (precision || point) nm_sb_puts(sb, ".");
    if (precision) nm_sb_puts(sb, text + strlen(text) - (size_t)precision);
}

static void put_scientific(nm_sb *sb, double f, int precision, bool point)
{
    char digits[840];
    int exponent;
    float_digits(f, precision + 1, digits, &exponent);
    nm_sb_put(sb, digits, 1);
    if (precision || point) nm_sb_puts(sb, ".");
    nm_sb_puts(sb, digits + 1);
    put_exponent(sb, exponent);
}

/* %g: the shorter of both, without trailing zeros unless `alternate` */
static void put_general(nm_sb *sb, double f, int precision, bool alternate)
{
    char digits[840];
    int exponent, keep;
    if (precision == 0) precision = 1;
    float_digits(f, precision, digits, &exponent);
    for (keep = precision; !alternate && keep > 1 && digits[keep - 1] == '0';) keep--;
    digits[keep] = 0;
    if (exponent < -4 || exponent >= precision) {
        nm_sb_put(sb, digits, 1);
        if (keep > 1 || alternate) nm_sb_printf(sb, ".%s", digits + 1);
        put_exponent(sb, exponent);
    } else if (exponent < 0) {
        nm_sb_puts(sb, "0.");
        nm_sb_repeat(sb, "0", 1, -exponent - 1);
        nm_sb_puts(sb, digits);
    } else {
        int whole = exponent + 1;
        nm_sb_put(sb, digits, (size_t)(keep < whole ? keep : whole));
        nm_sb_repeat(sb, "0", 1, whole - keep);
        if (keep > whole || alternate) nm_sb_printf(sb, ".%s", keep > whole ? digits + whole : "");
    }
}

void nm_sb_double(nm_sb *sb, double f, char form, int precision, bool alternate)
{
    if (isnan(f) || isinf(f)) nm_sb_puts(sb, isnan(f) ? "nan" : "inf");
    else if (precision > 400) nm_rt_fail(sb->r, "a precision of more than 400 digits");
    else if (form == 'f') put_fixed(sb, f, precision, alternate);
    else if (form == 'e') put_scientific(sb, f, precision, alternate);
    else put_general(sb, f, precision, alternate);
}

static bool word_is(const char *s, size_t n, const char *word)
{
    if (n != strlen(word)) return false;
    for (size_t i = 0; i < n; i++) if ((s[i] | 32) != word[i]) return false;
    return true;
}

/* "e-12", added to *exponent; false if it is not that */
static bool read_exponent(const char *s, size_t n, long *exponent)
{
    size_t i = 1;
    long e = 0;
    bool negative = n > 1 && s[1] == '-';
    if ((s[0] | 32) != 'e') return false;
    if (n > 1 && (s[1] == '-' || s[1] == '+')) i++;
    if (i >= n) return false;
    for (size_t first = i; i < n; i++) {
        if (s[i] == '_' && i > first && i + 1 < n && s[i + 1] != '_') continue;
        if (s[i] < '0' || s[i] > '9') return false;
        if (e < 100000000) e = e * 10 + (s[i] - '0');
    }
    *exponent += negative ? -e : e;
    return true;
}

enum { DECIMAL_DIGITS = 1100 };      /* more cannot change a double, but for one that is not zero */

/* "1_000.5e-3" to plain digits and an exponent; false where Python's grammar says no. digits holds DECIMAL_DIGITS + 2 bytes. */
static bool read_decimal(const char *s, size_t n, char *digits, long *exponent)
{
    size_t i = 0, kept = 0;
    bool point = false, digit = false, any = false, more = false;
    *exponent = 0;
    for (; i < n; i++) {
        if (s[i] >= '0' && s[i] <= '9') {
            if (kept < DECIMAL_DIGITS && (kept || s[i] != '0')) digits[kept++] = s[i];
            else if (kept) more |= s[i] != '0', *exponent += 1;
            *exponent -= point;
            any = digit = true;
        } else if (s[i] == '_') {
            if (!digit || i + 1 >= n || s[i + 1] < '0' || s[i + 1] > '9') return false;
        } else if (s[i] == '.' && !point) {
            point = true;
            digit = false;
        } else {
            break;
        }
    }
    if (!kept) digits[kept++] = '0';
    if (more) digits[kept++] = '1', *exponent -= 1;
    digits[kept] = 0;
    return any && (i == n || read_exponent(s + i, n - i, exponent));
}

double nm_parse_double(const char *s, size_t n, bool *ok)
{
    while (n && nm_char_is(nm_utf8_at(s), NM_CHAR_SPACE)) {
        size_t width = nm_utf8_width(*s);
        s += width;
        n -= width;
    }
    while (n && nm_char_is(nm_utf8_at(s + nm_utf8_back(s, n)), NM_CHAR_SPACE)) n = nm_utf8_back(s, n);
    bool negative = n && *s == '-';
    if (n && (*s == '-' || *s == '+')) s++, n--;
    *ok = true;
    if (word_is(s, n, "inf") || word_is(s, n, "infinity")) return negative ? -INFINITY : INFINITY;
    if (word_is(s, n, "nan")) return NAN;
    char text[DECIMAL_DIGITS + 32];
    long exponent;
    if (!(*ok = read_decimal(s, n, text, &exponent))) return 0;
    snprintf(text + strlen(text), 24, "e%ld", exponent);
    double value = strtod(text, NULL);
    return negative ? -value : value;
}

static void put_int(nm_sb *sb, int64_t value)
{
    char digits[24];
    size_t at = sizeof digits;
    uint64_t rest = value < 0 ? -(uint64_t)value : (uint64_t)value;
    do digits[--at] = (char)('0' + rest % 10); while (rest /= 10);
    if (value < 0) digits[--at] = '-';
    nm_sb_put(sb, digits + at, sizeof digits - at);
}

/* ---- str and repr ------------------------------------------------------------------------------------------------------------------------ */

const char *nm_tv_kind_name(nm_tv v)
{
    static const char *const names[NM_TV_KINDS] = {
        "missing", "Undefined", "NoneType", "bool", "int", "int", "float", "str", "list", "tuple", "dict", "range", "dict_view", "generator",
        "Namespace", "Macro", "function", "builtin_function_or_method", "LoopContext", "Cycler", "Joiner"
    };
    return names[v.kind];
}

static void repr_character(nm_sb *sb, const char *s, size_t width, char quote)
{
    int32_t c = nm_utf8_at(s);
    if (c == quote || c == '\\') nm_sb_printf(sb, "\\%c", (char)c);
    else if (c == '\n') nm_sb_puts(sb, "\\n");
    else if (c == '\r') nm_sb_puts(sb, "\\r");
    else if (c == '\t') nm_sb_puts(sb, "\\t");
    else if (nm_char_is(c, NM_CHAR_PRINTABLE)) nm_sb_put(sb, s, width);
    else if (c < 0x100) nm_sb_printf(sb, "\\x%02x", (unsigned)c);
    else if (c < 0x10000) nm_sb_printf(sb, "\\u%04x", (unsigned)c);
    else nm_sb_printf(sb, "\\U%08x", (unsigned)c);
}

static void repr_string(nm_sb *sb, const nm_tv_string *s, bool markup)
{
    bool single = s->n && memchr(s->s, '\'', s->n), twice = s->n && memchr(s->s, '"', s->n);
    char quote = single && !twice ? '"' : '\'';
    if (markup) nm_sb_puts(sb, "Markup(");
    nm_sb_put(sb, &quote, 1);
    for (size_t i = 0; i < s->n && sb->r->err == NM_OK;) {
        size_t width = nm_utf8_width(s->s[i]);
        repr_character(sb, s->s + i, width, quote);
        i += width;
    }
    nm_sb_put(sb, &quote, 1);
    if (markup) nm_sb_puts(sb, ")");
}

static void repr_items(nm_sb *sb, nm_tv v)
{
    const char *brackets = v.kind == NM_TV_LIST ? "[]" : "()";
    nm_sb_put(sb, brackets, 1);
    for (size_t i = 0; i < v.l->n && sb->r->err == NM_OK; i++) {
        if (i) nm_sb_puts(sb, ", ");
        nm_sb_repr(sb, v.l->items[i]);
    }
    if (v.kind == NM_TV_TUPLE && v.l->n == 1) nm_sb_puts(sb, ",");
    nm_sb_put(sb, brackets + 1, 1);
}

static void repr_dict(nm_sb *sb, const nm_tv_dict *d)
{
    nm_sb_puts(sb, "{");
    for (size_t i = 0; i < d->n && sb->r->err == NM_OK; i++) {
        if (i) nm_sb_puts(sb, ", ");
        nm_sb_repr(sb, d->keys[i]);
        nm_sb_puts(sb, ": ");
        nm_sb_repr(sb, d->values[i]);
    }
    nm_sb_puts(sb, "}");
}

static void repr_view(nm_sb *sb, nm_tv v)
{
    static const char *const names[] = {"dict_keys([", "dict_values([", "dict_items(["};
    nm_tv_iter it;
    nm_tv item;
    nm_sb_puts(sb, names[v.view]);
    if (nm_iter_init(sb->r, v, &it) != NM_OK) return;
    for (bool first = true; nm_iter_next(sb->r, &it, &item) == NM_OK && nm_tv_given(item); first = false) {
        if (!first) nm_sb_puts(sb, ", ");
        nm_sb_repr(sb, item);
    }
    nm_sb_puts(sb, "])");
}

static void repr_range(nm_sb *sb, const nm_tv_range *range)
{
    nm_sb_printf(sb, "range(%lld, %lld", (long long)range->start, (long long)range->stop);
    if (range->step != 1) nm_sb_printf(sb, ", %lld", (long long)range->step);
    nm_sb_puts(sb, ")");
}

static void repr_macro(nm_sb *sb, const nm_macro *macro)
{
    const nm_name *name = macro->node->name;
    nm_sb_puts(sb, "<Macro ");
    if (name) repr_string(sb, &(nm_tv_string){name->s, name->n, NULL}, false);
    else nm_sb_puts(sb, "anonymous");
    nm_sb_puts(sb, ">");
}

static void repr_loop(nm_sb *sb, nm_loop *loop)
{
    int64_t length;
    if (nm_loop_length(sb->r, loop, &length) == NM_OK)
        nm_sb_printf(sb, "<LoopContext %lld/%lld>", (long long)loop->index0 + 1, (long long)length);
}

/* Objects without a text of their own: Python would print an address. */
static void repr_object(nm_sb *sb, nm_tv v)
{
    if (v.kind == NM_TV_ITER) nm_sb_printf(sb, "<generator object %s>", v.it->name ? v.it->name : "iterator");
    else if (v.kind == NM_TV_FUNCTION) nm_sb_printf(sb, "<function %s>", v.call->name);
    else if (v.kind == NM_TV_METHOD) nm_sb_printf(sb, "<built-in method %s of %s object>", v.bound->call->name, nm_tv_kind_name(v.bound->self));
    else nm_sb_printf(sb, "<%s object>", nm_tv_kind_name(v));
}

static void repr_deep(nm_sb *sb, nm_tv v)
{
    switch ((nm_tv_kind)v.kind) {
    case NM_TV_LIST: case NM_TV_TUPLE: repr_items(sb, v); break;
    case NM_TV_DICT: repr_dict(sb, v.d); break;
    case NM_TV_VIEW: repr_view(sb, v); break;
    case NM_TV_NAMESPACE:
        nm_sb_puts(sb, "<Namespace ");
        repr_dict(sb, v.d);
        nm_sb_puts(sb, ">");
        break;
    default: repr_object(sb, v); break;
    }
}

void nm_sb_repr(nm_sb *sb, nm_tv v)
{
    if (nm_rt_steps(sb->r, 1) != NM_OK) return;
    switch ((nm_tv_kind)v.kind) {
    case NM_TV_UNDEFINED: nm_sb_puts(sb, "Undefined"); break;
    case NM_TV_NONE: nm_sb_puts(sb, "None"); break;
    case NM_TV_BOOL: nm_sb_puts(sb, v.b ? "True" : "False"); break;
    case NM_TV_INT: put_int(sb, v.i); break;
    case NM_TV_WIDE: nm_sb_printf(sb, "%llu", (unsigned long long)v.w); break;
    case NM_TV_FLOAT: nm_sb_float(sb, v.f); break;
    case NM_TV_STRING: repr_string(sb, v.s, v.flag & NM_TV_MARKUP); break;
    case NM_TV_RANGE: repr_range(sb, v.r); break;
    case NM_TV_MACRO: repr_macro(sb, v.macro); break;
    case NM_TV_LOOP: repr_loop(sb, v.loop); break;
    default:
        if (nm_rt_enter(sb->r, 2) != NM_OK) return;
        repr_deep(sb, v);
        nm_rt_leave(sb->r, 2);
        break;
    }
}

void nm_sb_str(nm_sb *sb, nm_tv v)
{
    if (v.kind == NM_TV_STRING) nm_sb_put(sb, v.s->s, v.s->n);
    else if (v.kind != NM_TV_UNDEFINED) nm_sb_repr(sb, v);
}

nm_err nm_tv_str(nm_render *r, nm_tv v, nm_tv *out)
{
    nm_sb sb = {r, NULL};
    if (v.kind == NM_TV_STRING) {
        *out = v;
        out->flag = 0;
        return NM_OK;
    }
    nm_sb_str(&sb, v);
    return nm_sb_done(&sb, out);
}

nm_err nm_tv_soft(nm_render *r, nm_tv v, nm_tv *out)
{
    if (v.kind != NM_TV_STRING) return nm_tv_str(r, v, out);
    *out = v;
    return NM_OK;
}

/* ---- HTML ---------------------------------------------------------------------------------------------------------------------------------- */

nm_err nm_tv_escape(nm_render *r, nm_tv v, nm_tv *out)
{
    nm_sb sb = {r, NULL};
    if (v.kind == NM_TV_STRING && v.flag & NM_TV_MARKUP) {
        *out = v;
        return NM_OK;
    }
    NM_TRY(nm_tv_str(r, v, &v));
    for (size_t i = 0, from = 0; i <= v.s->n; i++) {
        const char *entity = i == v.s->n ? "" : v.s->s[i] == '&' ? "&amp;" : v.s->s[i] == '<' ? "&lt;" : v.s->s[i] == '>' ? "&gt;" :
                             v.s->s[i] == '"' ? "&#34;" : v.s->s[i] == '\'' ? "&#39;" : NULL;
        if (!entity) continue;
        nm_sb_put(&sb, v.s->s + from, i - from);
        nm_sb_puts(&sb, entity);
        from = i + 1;
    }
    NM_TRY(nm_sb_done(&sb, out));
    out->flag = NM_TV_MARKUP;
    return NM_OK;
}

/* ---- json.dumps ------------------------------------------------------------------------------------------------------------------------------ */

static void json_escape(nm_sb *sb, int32_t c)
{
    static const char plain[] = "\"\\\n\r\t\f\b", letters[] = "\"\\nrtfb";
    const char *found = c && c < 0x80 ? strchr(plain, c) : NULL;
    if (found) {
        nm_sb_printf(sb, "\\%c", letters[found - plain]);
    } else if (c >= 0x10000) {
        c -= 0x10000;
        nm_sb_printf(sb, "\\u%04x\\u%04x", 0xd800u | (unsigned)c >> 10, 0xdc00u | ((unsigned)c & 0x3ff));
    } else {
        nm_sb_printf(sb, "\\u%04x", (unsigned)c);
    }
}

static void json_string(nm_sb *sb, const nm_tv_string *s, bool ascii)
{
    size_t from = 0;
    nm_sb_puts(sb, "\"");
    for (size_t i = 0; i < s->n && sb->r->err == NM_OK;) {
        size_t width = nm_utf8_width(s->s[i]);
        int32_t c = nm_utf8_at(s->s + i);
        if (c < 0x20 || c == '"' || c == '\\' || (ascii && c >= 0x7f)) {
            nm_sb_put(sb, s->s + from, i - from);
            if (c == 0x7f) nm_sb_put(sb, s->s + i, 1);
            else json_escape(sb, c);
            from = i + width;
        }
        i += width;
    }
    nm_sb_put(sb, s->s + from, s->n - from);
    nm_sb_puts(sb, "\"");
}

static void json_value(nm_sb *sb, nm_tv v, const nm_json_style *style, int level);

static void json_newline(nm_sb *sb, const nm_json_style *style, int level)
{
    if (!style->pretty) return;
    nm_sb_puts(sb, "\n");
    nm_sb_repeat(sb, style->indent.s->s, style->indent.s->n, level);
}

static void json_float(nm_sb *sb, double f)
{
    if (isnan(f)) nm_sb_puts(sb, "NaN");
    else if (isinf(f)) nm_sb_puts(sb, f < 0 ? "-Infinity" : "Infinity");
    else nm_sb_float(sb, f);
}

static void json_list(nm_sb *sb, nm_tv v, const nm_json_style *style, int level)
{
    if (!v.l->n) {
        nm_sb_puts(sb, "[]");
        return;
    }
    nm_sb_puts(sb, "[");
    for (size_t i = 0; i < v.l->n && sb->r->err == NM_OK; i++) {
        if (i) nm_sb_str(sb, style->item_separator);
        json_newline(sb, style, level + 1);
        json_value(sb, v.l->items[i], style, level + 1);
    }
    json_newline(sb, style, level);
    nm_sb_puts(sb, "]");
}

static void json_key(nm_sb *sb, nm_tv key, const nm_json_style *style)
{
    if (key.kind == NM_TV_STRING) {
        json_string(sb, key.s, style->ascii);
    } else if (nm_tv_is_number(key) || key.kind == NM_TV_WIDE || key.kind == NM_TV_NONE) {
        nm_sb_puts(sb, "\"");
        json_value(sb, key, style, 0);
        nm_sb_puts(sb, "\"");
    } else {
        nm_rt_fail(sb->r, "keys must be str, int, float, bool or None, not %s", nm_tv_kind_name(key));
    }
}

/* Entries in the order of their keys, for sort_keys. */
static nm_err sorted_entries(nm_render *r, const nm_tv_dict *d, nm_tv **keys, nm_tv **values)
{
    NM_RT_NEW(r, *keys, d->n);
    NM_RT_NEW(r, *values, d->n);
    memcpy(*values, d->values, d->n * sizeof **values);
    memcpy(*keys, d->keys, d->n * sizeof **keys);
    NM_TRY(nm_tv_sort(r, *values, d->keys, d->n, false));
    return nm_tv_sort(r, *keys, NULL, d->n, false);
}

static void json_dict(nm_sb *sb, const nm_tv_dict *d, const nm_json_style *style, int level)
{
    nm_tv *keys = d->keys, *values = d->values;
    if (!d->n) {
        nm_sb_puts(sb, "{}");
        return;
    }
    if (style->sort && sorted_entries(sb->r, d, &keys, &values) != NM_OK) return;
    nm_sb_puts(sb, "{");
    for (size_t i = 0; i < d->n && sb->r->err == NM_OK; i++) {
        if (i) nm_sb_str(sb, style->item_separator);
        json_newline(sb, style, level + 1);
        json_key(sb, keys[i], style);
        nm_sb_str(sb, style->key_separator);
        json_value(sb, values[i], style, level + 1);
    }
    json_newline(sb, style, level);
    nm_sb_puts(sb, "}");
}

static void json_value(nm_sb *sb, nm_tv v, const nm_json_style *style, int level)
{
    if (nm_rt_steps(sb->r, 1) != NM_OK) return;
    switch ((nm_tv_kind)v.kind) {
    case NM_TV_NONE: nm_sb_puts(sb, "null"); break;
    case NM_TV_BOOL: nm_sb_puts(sb, v.b ? "true" : "false"); break;
    case NM_TV_INT: put_int(sb, v.i); break;
    case NM_TV_WIDE: nm_sb_printf(sb, "%llu", (unsigned long long)v.w); break;
    case NM_TV_FLOAT: json_float(sb, v.f); break;
    case NM_TV_STRING: json_string(sb, v.s, style->ascii); break;
    case NM_TV_LIST: case NM_TV_TUPLE: case NM_TV_DICT:
        if (nm_rt_enter(sb->r, 2) != NM_OK) return;
        if (v.kind == NM_TV_DICT) json_dict(sb, v.d, style, level);
        else json_list(sb, v, style, level);
        nm_rt_leave(sb->r, 2);
        break;
    default: nm_rt_fail(sb->r, "Object of type %s is not JSON serializable", nm_tv_kind_name(v)); break;
    }
}

void nm_sb_json(nm_sb *sb, nm_tv v, const nm_json_style *style) { json_value(sb, v, style, 0); }
