/* Owns decimal numbers, exactly as they are written, and the automaton of numbers within bounds that are multiples of another: over their digits, from the left, so that it
 * need only know how the digits so far compare with those of each bound, how many there are (beyond the bounds' only where there is no remainder to know), and the
 * remainder. Such numbers are written without exponent. Refuses multiples whose remainders are too many to keep apart (by the bound of nm_dfa_explore). */
#include "generate/schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIGITS = 20 };       /* before and after the point, unless a bound has more: a model cannot write digits for ever */

/* ---- Decimals ----------------------------------------------------------------------------------------------------------------------- */

/* From "-123.45" or "1.5e-7", as printf writes them. */
static void read_text(nm_decimal *out, const char *text)
{
    char digits[64];
    size_t n = 0, point = 0;
    *out = (nm_decimal){.negative = *text == '-'};
    text += *text == '-';
    for (; *text && *text != 'e'; text++) {
        if (*text == '.') point = n;
        else if (n < sizeof digits) digits[n++] = *text;
        if (*text != '.' && !point && (text[1] == 0 || text[1] == 'e')) point = n;
    }
    long shift = (long)point + (*text == 'e' ? strtol(text + 1, NULL, 10) : 0);
    for (long i = shift < 0 ? shift : 0; i < (long)n || i < shift; i++) {
        char digit = i >= 0 && i < (long)n ? digits[i] : '0';
        if (i < shift) {
            if (out->n_whole || digit != '0') out->whole[out->n_whole++] = digit;
        } else {
            out->part[out->n_part++] = digit;
        }
    }
    while (out->n_part && out->part[out->n_part - 1] == '0') out->n_part--;
    if (!out->n_whole) out->whole[out->n_whole++] = '0';
    if (out->whole[0] == '0' && !out->n_part) out->negative = false;
}

void nm_decimal_read(nm_decimal *out, const nm_json *number)
{
    char text[64];
    if (number->kind == NM_JSON_INT) snprintf(text, sizeof text, "%lld", (long long)number->integer);
    else if (number->kind == NM_JSON_WIDE) snprintf(text, sizeof text, "%llu", (unsigned long long)number->wide);
    else for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, number->real);
        if (strtod(text, NULL) == number->real) break;
    }
    read_text(out, text);
}

static int compare_digits(const char *a, size_t n_a, const char *b, size_t n_b)
{
    int order = memcmp(a, b, n_a < n_b ? n_a : n_b);
    return order ? order : (n_a > n_b) - (n_a < n_b);
}

int nm_decimal_compare(const nm_decimal *a, const nm_decimal *b)
{
    if (a->negative != b->negative) return a->negative ? -1 : 1;
    int order = (a->n_whole > b->n_whole) - (a->n_whole < b->n_whole);
    if (!order) order = memcmp(a->whole, b->whole, a->n_whole);
    if (!order) order = compare_digits(a->part, a->n_part, b->part, b->n_part);
    return a->negative ? -order : order;
}

nm_err nm_decimal_write(nm_str *out, const nm_decimal *d)
{
    return nm_str_printf(out, "%s%.*s%s%.*s", d->negative ? "-" : "", (int)d->n_whole, d->whole, d->n_part ? "." : "", (int)d->n_part, d->part);
}

/* ---- What a number must fulfil ------------------------------------------------------------------------------------------------------ */

void nm_number_bind(nm_number *n, bool high, bool exclusive, const nm_decimal *at)
{
    nm_bound *b = high ? &n->high : &n->low;
    int order = b->at ? nm_decimal_compare(at, b->at) : 0;
    if (b->at && (high ? order > 0 : order < 0)) return;
    exclusive |= b->at && !order && b->exclusive;
    *b = (nm_bound){at, exclusive};
}

static uint64_t divisor(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static bool scale(uint64_t *value, size_t times)
{
    for (; times; times--)
        if (__builtin_mul_overflow(*value, 10, value)) return false;
    return true;
}

bool nm_number_multiply(nm_number *n, const nm_decimal *of)
{
    uint64_t value = 0, most = 1000000000000000;
    size_t places = of->n_part;
    if (of->n_whole + of->n_part > 18) return false;
    for (size_t i = 0; i < of->n_whole; i++) value = value * 10 + (uint64_t)(of->whole[i] - '0');
    for (size_t i = 0; i < of->n_part; i++) value = value * 10 + (uint64_t)(of->part[i] - '0');
    if (n->multiple) {
        uint64_t other = n->multiple;
        if (places < n->places && !scale(&value, n->places - places)) return false;
        if (places > n->places && !scale(&other, places - n->places)) return false;
        if (places < n->places) places = n->places;
        if (__builtin_mul_overflow(value / divisor(value, other), other, &value)) return false;
    }
    for (; places && value % 10 == 0; places--) value /= 10;
    n->multiple = value;
    n->places = places;
    return value && value <= most;
}

bool nm_number_is_free(const nm_number *n) { return !n->low.at && !n->high.at && !n->multiple; }

static nm_err put_bound(nm_str *out, const nm_bound *b)
{
    NM_TRY(nm_str_puts(out, !b->at ? "-" : b->exclusive ? "<" : "="));
    return b->at ? nm_decimal_write(out, b->at) : NM_OK;
}

nm_err nm_number_key(nm_str *out, const nm_number *n)
{
    NM_TRY(nm_str_printf(out, "number %d %llu %zu ", n->integer, (unsigned long long)n->multiple, n->places));
    NM_TRY(put_bound(out, &n->low));
    NM_TRY(nm_str_putc(out, ' '));
    return put_bound(out, &n->high);
}

/* ---- Reading digits ----------------------------------------------------------------------------------------------------------------- */

typedef enum phase { AT_START, AT_MINUS, AT_ZERO, AT_WHOLE, AT_POINT, AT_PART } phase;
/* order: how what was read compares with each bound's digits (low, high), where they are as many. */
typedef struct digits { uint32_t phase, negative, n_whole, n_part; int32_t order[2]; uint64_t rest; } digits;

static const nm_bound *bound_of(const nm_number *n, int high) { return high ? &n->high : &n->low; }

static int sign(int x) { return (x > 0) - (x < 0); }

static void add_whole(const nm_number *n, digits *d, char c)
{
    for (int b = 0; b < 2; b++) {
        const nm_bound *bound = bound_of(n, b);
        if (!bound->at) continue;
        if (d->n_whole >= bound->at->n_whole) d->order[b] = 1;
        else if (!d->order[b]) d->order[b] = sign(c - bound->at->whole[d->n_whole]);
    }
    d->n_whole++;
}

/* All digits before the point are read: fewer than the bound has are less, more are more. */
static int whole_order(const nm_bound *bound, const digits *d, int b)
{
    return d->n_whole < bound->at->n_whole ? -1 : d->n_whole > bound->at->n_whole ? 1 : d->order[b];
}

static void add_part(const nm_number *n, digits *d, char c)
{
    for (int b = 0; b < 2; b++) {
        const nm_bound *bound = bound_of(n, b);
        if (bound->at && !d->order[b]) d->order[b] = sign(c - (d->n_part < bound->at->n_part ? bound->at->part[d->n_part] : '0'));
    }
    d->n_part++;
}

static bool read_digit(const nm_number *n, digits *d, char c)
{
    bool part = d->phase == AT_POINT || d->phase == AT_PART;
    if (d->phase == AT_ZERO || (part && n->multiple && d->n_part >= n->places && c != '0')) return false;
    if (n->multiple && (!part || d->n_part < n->places)) d->rest = (d->rest * 10 + (uint64_t)(c - '0')) % n->multiple;
    if (part) add_part(n, d, c);
    else add_whole(n, d, c);
    d->phase = part ? AT_PART : d->phase != AT_WHOLE && c == '0' ? AT_ZERO : AT_WHOLE;
    return true;
}

/* Reads one character; false where it may not come. A minus comes only before what may be below zero. */
static bool read_one(const nm_number *n, digits *d, char c)
{
    if (c >= '0' && c <= '9') return read_digit(n, d, c);
    if (c == '-') {
        if (d->phase != AT_START || (n->low.at && !n->low.at->negative)) return false;
        d->negative = 1;
        d->phase = AT_MINUS;
        return true;
    }
    if (n->integer || (d->phase != AT_ZERO && d->phase != AT_WHOLE)) return false;
    for (int b = 0; b < 2; b++)
        if (bound_of(n, b)->at) d->order[b] = whole_order(bound_of(n, b), d, b);
    d->n_whole = 0;
    d->phase = AT_POINT;
    return true;
}

/* Whether a number of that sign, whose digits compare with the bound's as told, is on the right side of the bound. */
static bool within(const nm_bound *bound, bool high, bool negative, int order)
{
    bool zero = bound->at->whole[0] == '0' && !bound->at->n_part;
    bool side = negative == bound->at->negative || (zero && negative);
    if (!side) return high ? negative : !negative;
    if (!order) return !bound->exclusive;
    return high == negative ? order > 0 : order < 0;
}

static bool may_end(const nm_number *n, const digits *d)
{
    if (d->phase != AT_ZERO && d->phase != AT_WHOLE && d->phase != AT_PART) return false;
    if (n->integer && d->negative && d->phase == AT_ZERO) return false;
    for (int b = 0; b < 2; b++) {
        const nm_bound *bound = bound_of(n, b);
        if (!bound->at) continue;
        int order = d->phase == AT_PART ? d->order[b] : whole_order(bound, d, b);
        if (!order && d->n_part < bound->at->n_part) order = -1;
        if (!within(bound, b, d->negative, order)) return false;
    }
    uint64_t rest = d->rest;
    for (size_t i = d->n_part; n->multiple && i < n->places; i++) rest = rest * 10 % n->multiple;
    return rest == 0;
}

bool nm_number_accepts(const nm_number *n, const nm_decimal *value)
{
    digits d = {0};
    if (n->integer && value->n_part) return false;
    if (value->negative && !read_one(n, &d, '-')) return false;
    for (size_t i = 0; i < value->n_whole; i++)
        if (!read_one(n, &d, value->whole[i])) return false;
    if (value->n_part && !read_one(n, &d, '.')) return false;
    for (size_t i = 0; i < value->n_part; i++)
        if (!read_one(n, &d, value->part[i])) return false;
    return may_end(n, &d);
}

static size_t most_of(size_t a, size_t b) { return a > b ? a : b; }
static size_t whole_of(const nm_bound *b) { return b->at ? b->at->n_whole : 0; }
static size_t part_of(const nm_bound *b) { return b->at ? b->at->n_part : 0; }

static nm_err expand_digits(void *arg, nm_explorer *e, const void *key, size_t length, bool *accepts)
{
    static const char characters[] = "-.0123456789";
    const nm_number *n = arg;
    size_t whole_of_bounds = most_of(whole_of(&n->low), whole_of(&n->high));
    size_t most_whole = most_of(DIGITS, whole_of_bounds);
    size_t most_part = most_of(DIGITS, most_of(n->places, most_of(part_of(&n->low), part_of(&n->high))));
    digits from;
    memcpy(&from, key, sizeof from);
    *accepts = may_end(n, &from);
    for (const char *c = characters; *c; c++) {
        digits to = from;
        bool may = read_one(n, &to, *c);
        if (n->multiple && to.n_whole > whole_of_bounds) to.n_whole = (uint32_t)whole_of_bounds + 1;
        if (may && to.n_whole <= most_whole && to.n_part <= most_part)
            NM_TRY(nm_explorer_edge(e, (uint32_t)*c, (uint32_t)*c, &to, sizeof to));
    }
    return NM_OK;
}

nm_err nm_number_dfa(nm_schema *s, nm_dfa *out, const nm_number *n)
{
    digits start = {0};
    return nm_dfa_explore(s, out, &start, sizeof start, expand_digits, (void *)(uintptr_t)n);
}
