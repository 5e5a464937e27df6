/* Methods of strings, as Python's str has them. Positions and widths count characters. A marked string (|safe) gives marked results and
 * escapes what is put into it. Refuses encode, translate and maketrans: there are no bytes and no tables here. */
#include <string.h>

#include "text/template_chars.h"
#include "text/template_value.h"

static nm_err want_text(nm_render *r, nm_tv v)
{
    if (v.kind == NM_TV_STRING) return NM_OK;
    if (v.kind == NM_TV_UNDEFINED) return nm_rt_fail(r, "expected a string, got an undefined value");
    return nm_rt_fail(r, "expected a string, got %s", nm_tv_kind_name(v));
}

static nm_err marked(nm_err err, nm_tv v, nm_tv *out)
{
    if (err == NM_OK) out->flag = v.flag & NM_TV_MARKUP;
    return err;
}

/* An argument that becomes part of the result. */
static nm_err want_part(nm_render *r, nm_tv v, nm_tv arg, nm_tv *out)
{
    NM_TRY(want_text(r, arg));
    *out = arg;
    return v.flag & NM_TV_MARKUP ? nm_tv_escape(r, arg, out) : NM_OK;
}

/* ---- Case -------------------------------------------------------------------------------------------------------------------------------- */

/* A sigma at the end of a word has a form of its own. */
static bool final_sigma(const nm_tv_string *s, size_t at)
{
    size_t before = at, after = at + 2;
    int32_t c = 0;
    while (before) {
        before = nm_utf8_back(s->s, before);
        c = nm_utf8_at(s->s + before);
        if (!nm_char_is(c, NM_CHAR_IGNORABLE)) break;
        c = 0;
    }
    if (!nm_char_is(c, NM_CHAR_CASED)) return false;
    for (; after < s->n; after += nm_utf8_width(s->s[after])) {
        c = nm_utf8_at(s->s + after);
        if (!nm_char_is(c, NM_CHAR_IGNORABLE)) return !nm_char_is(c, NM_CHAR_CASED);
    }
    return true;
}

static void put_case(nm_sb *sb, const nm_tv_string *s, size_t at, nm_char_case form)
{
    int32_t out[3], c = nm_utf8_at(s->s + at);
    int n = nm_char_to(c, form, out);
    if (c == 0x3a3 && form == NM_CASE_LOWER) {
        out[0] = final_sigma(s, at) ? 0x3c2 : 0x3c3;
        n = 1;
    }
    for (int i = 0; i < n; i++) nm_sb_code(sb, out[i]);
}

/* Each character in the form that pick chooses from the state it keeps. */
typedef nm_char_case (*case_picker)(int32_t c, bool *state);

static nm_char_case pick_upper(int32_t c, bool *state) { (void)c; (void)state; return NM_CASE_UPPER; }
static nm_char_case pick_lower(int32_t c, bool *state) { (void)c; (void)state; return NM_CASE_LOWER; }
static nm_char_case pick_fold(int32_t c, bool *state) { (void)c; (void)state; return NM_CASE_FOLD; }

static nm_char_case pick_swapped(int32_t c, bool *state)
{
    (void)state;
    return nm_char_is(c, NM_CHAR_UPPER) ? NM_CASE_LOWER : NM_CASE_UPPER;
}

static nm_char_case pick_title(int32_t c, bool *inside)
{
    nm_char_case form = *inside ? NM_CASE_LOWER : NM_CASE_TITLE;
    *inside = nm_char_is(c, NM_CHAR_CASED);
    return form;
}

static nm_char_case pick_first(int32_t c, bool *begun)
{
    nm_char_case form = *begun ? NM_CASE_LOWER : NM_CASE_TITLE;
    (void)c;
    *begun = true;
    return form;
}

static bool all_ascii(const nm_tv_string *s)
{
    unsigned char bits = 0;
    for (size_t i = 0; i < s->n; i++) bits |= (unsigned char)s->s[i];
    return bits < 0x80;
}

/* Upper or lower case of ASCII, the common case. */
static nm_err recased_ascii(nm_render *r, nm_tv v, char first, nm_tv *out)
{
    nm_sb sb = {r, NULL};
    char *room = nm_sb_room(&sb, v.s->n);
    for (size_t i = 0; room && i < v.s->n; i++) {
        char c = v.s->s[i];
        room[i] = c >= first && c < first + 26 ? c ^ 32 : c;
    }
    return marked(nm_sb_done(&sb, out), v, out);
}

static nm_err recased(nm_render *r, nm_tv v, case_picker pick, nm_tv *out)
{
    nm_sb sb = {r, NULL};
    bool state = false;
    if ((pick == pick_upper || pick == pick_lower) && all_ascii(v.s)) return recased_ascii(r, v, pick == pick_upper ? 'a' : 'A', out);
    for (size_t i = 0; i < v.s->n && r->err == NM_OK; i += nm_utf8_width(v.s->s[i])) {
        int32_t c = nm_utf8_at(v.s->s + i);
        nm_char_case form = pick(c, &state);
        if (form == NM_CASE_UPPER && pick == pick_swapped && !nm_char_is(c, NM_CHAR_LOWER)) nm_sb_code(&sb, c);
        else put_case(&sb, v.s, i, form);
    }
    NM_TRY(nm_rt_steps(r, v.s->n >> 1));
    return marked(nm_sb_done(&sb, out), v, out);
}

#define CASE_METHOD(name, pick) \
    static nm_err name(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)p; return recased(r, v, pick, out); }
CASE_METHOD(str_upper, pick_upper)
CASE_METHOD(str_lower, pick_lower)
CASE_METHOD(str_casefold, pick_fold)
CASE_METHOD(str_swapcase, pick_swapped)
CASE_METHOD(str_title, pick_title)
CASE_METHOD(str_capitalize, pick_first)

/* ---- Questions ------------------------------------------------------------------------------------------------------------------------------ */

/* True if the string is not empty and every character has one of the flags. */
static nm_err every(nm_render *r, nm_tv v, unsigned flags, bool empty, nm_tv *out)
{
    bool all = v.s->n || empty;
    for (size_t i = 0; all && i < v.s->n; i += nm_utf8_width(v.s->s[i])) all = nm_char_is(nm_utf8_at(v.s->s + i), flags);
    *out = nm_tv_bool(all);
    return nm_rt_steps(r, v.s->n >> 4);
}

#define EVERY_METHOD(name, flags, empty) \
    static nm_err name(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)p; return every(r, v, flags, empty, out); }
EVERY_METHOD(str_isalpha, NM_CHAR_ALPHA, false)
EVERY_METHOD(str_isdecimal, NM_CHAR_DECIMAL, false)
EVERY_METHOD(str_isdigit, NM_CHAR_DIGIT, false)
EVERY_METHOD(str_isnumeric, NM_CHAR_NUMERIC, false)
EVERY_METHOD(str_isalnum, NM_CHAR_ALNUM, false)
EVERY_METHOD(str_isspace, NM_CHAR_SPACE, false)
EVERY_METHOD(str_isprintable, NM_CHAR_PRINTABLE, true)

static nm_err str_isascii(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    (void)p;
    *out = nm_tv_bool(all_ascii(v.s));
    return nm_rt_steps(r, v.s->n >> 6);
}

static nm_err str_isidentifier(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    NM_TRY(every(r, v, NM_CHAR_CONTINUE, false, out));
    (void)p;
    out->b = out->b && nm_char_is(nm_utf8_at(v.s->s), NM_CHAR_START);
    return NM_OK;
}

/* Some character is cased and none has the unwanted case. */
static nm_err single_case(nm_render *r, nm_tv v, unsigned wanted, unsigned unwanted, nm_tv *out)
{
    bool some = false, other = false;
    for (size_t i = 0; !other && i < v.s->n; i += nm_utf8_width(v.s->s[i])) {
        unsigned flags = nm_char_flags(nm_utf8_at(v.s->s + i));
        some |= (flags & wanted) != 0;
        other = (flags & unwanted) != 0;
    }
    *out = nm_tv_bool(some && !other);
    return nm_rt_steps(r, v.s->n >> 4);
}

#define SINGLE_CASE_METHOD(name, wanted, unwanted) \
    static nm_err name(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)p; return single_case(r, v, wanted, unwanted, out); }
SINGLE_CASE_METHOD(str_islower, NM_CHAR_LOWER, NM_CHAR_UPPER | NM_CHAR_TITLE)
SINGLE_CASE_METHOD(str_isupper, NM_CHAR_UPPER, NM_CHAR_LOWER | NM_CHAR_TITLE)

static nm_err str_istitle(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    bool inside = false, some = false, good = true;
    (void)p;
    for (size_t i = 0; good && i < v.s->n; i += nm_utf8_width(v.s->s[i])) {
        unsigned flags = nm_char_flags(nm_utf8_at(v.s->s + i));
        if (flags & (NM_CHAR_UPPER | NM_CHAR_TITLE)) {
            good = !inside;
            inside = some = true;
        } else if (flags & NM_CHAR_LOWER) {
            good = inside;
            inside = some = true;
        } else {
            inside = false;
        }
    }
    *out = nm_tv_bool(good && some);
    return nm_rt_steps(r, v.s->n >> 4);
}

/* ---- Stripping ------------------------------------------------------------------------------------------------------------------------------ */

/* chars: NULL for white space */
static bool strips(const char *s, const nm_tv_string *chars)
{
    size_t width = nm_utf8_width(*s);
    if (!chars) return nm_char_is(nm_utf8_at(s), NM_CHAR_SPACE);
    for (size_t i = 0; i < chars->n; i += nm_utf8_width(chars->s[i]))
        if (nm_utf8_width(chars->s[i]) == width && !memcmp(chars->s + i, s, width)) return true;
    return false;
}

static nm_err stripped(nm_render *r, nm_tv v, nm_tv chars, bool left, bool right, nm_tv *out)
{
    const nm_tv_string *set = NULL;
    size_t from = 0, to = v.s->n;
    if (nm_tv_given(chars) && chars.kind != NM_TV_NONE) {
        NM_TRY(want_text(r, chars));
        set = chars.s;
    }
    const size_t cost = 1 + (set ? set->n / 8 : 0);
    for (; left && from < to && strips(v.s->s + from, set); from += nm_utf8_width(v.s->s[from])) NM_TRY(nm_rt_steps(r, cost));
    for (; right && to > from && strips(v.s->s + nm_utf8_back(v.s->s, to), set); to = nm_utf8_back(v.s->s, to)) NM_TRY(nm_rt_steps(r, cost));
    return nm_tv_slice_text(r, v, from, to, out);
}

static nm_err str_strip(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return stripped(r, v, p[0], true, true, out); }
static nm_err str_lstrip(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return stripped(r, v, p[0], true, false, out); }
static nm_err str_rstrip(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return stripped(r, v, p[0], false, true, out); }

static nm_err str_removeprefix(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    NM_TRY(want_text(r, p[0]));
    size_t n = p[0].s->n <= v.s->n && !memcmp(v.s->s, p[0].s->s, p[0].s->n) ? p[0].s->n : 0;
    return nm_tv_slice_text(r, v, n, v.s->n, out);
}

static nm_err str_removesuffix(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    NM_TRY(want_text(r, p[0]));
    size_t n = p[0].s->n <= v.s->n && !memcmp(v.s->s + v.s->n - p[0].s->n, p[0].s->s, p[0].s->n) ? p[0].s->n : 0;
    return nm_tv_slice_text(r, v, 0, v.s->n - n, out);
}

/* ---- Searching ------------------------------------------------------------------------------------------------------------------------------ */

/* Bytes [from, to) that start and end (characters, clamped as in slices) cut out; false where start lies behind the end. */
static nm_err cut(nm_render *r, nm_tv v, nm_tv start, nm_tv end, size_t *from, size_t *to, bool *valid)
{
    int64_t n = (int64_t)nm_utf8_count(v.s->s, v.s->n), a, b;
    NM_TRY(nm_rt_steps(r, v.s->n >> 6));
    NM_TRY(nm_arg_int(r, start.kind == NM_TV_NONE ? (nm_tv){0} : start, 0, &a));
    NM_TRY(nm_arg_int(r, end.kind == NM_TV_NONE ? (nm_tv){0} : end, n, &b));
    if (a < 0) a = a < -n ? 0 : a + n;
    if (b < 0) b = b < -n ? 0 : b + n;
    if (b > n) b = n;
    *valid = a <= n && a <= b;
    *from = nm_utf8_offset(v.s->s, v.s->n, (size_t)(a > n ? n : a));
    *to = nm_utf8_offset(v.s->s, v.s->n, (size_t)b);
    if (!*valid) *to = *from;
    return NM_OK;
}

/* The first place of part (m > 0 bytes). One byte, the common case, needs no preparation. */
static const char *first_of(const char *s, size_t n, const char *part, size_t m)
{
    return m == 1 ? memchr(s, *part, n) : memmem(s, n, part, m);
}

static const char *last_of(const char *s, size_t n, const char *part, size_t m)
{
    for (size_t i = n >= m ? n - m + 1 : 0; i-- > 0;) if (!memcmp(s + i, part, m)) return s + i;
    return NULL;
}

/* Characters before the first or last place of p[0], -1 if there is none. */
static nm_err search(nm_render *r, nm_tv v, const nm_tv *p, bool last, int64_t *out)
{
    size_t from, to;
    bool valid;
    NM_TRY(want_text(r, p[0]));
    NM_TRY(cut(r, v, p[1], p[2], &from, &to, &valid));
    const nm_tv_string *part = p[0].s;
    const char *found = NULL;
    if (last) NM_TRY(nm_rt_steps(r, (to - from) / 16 * (1 + part->n / 16)));
    if (valid) found = last ? last_of(v.s->s + from, to - from, part->s, part->n)
                            : part->n ? first_of(v.s->s + from, to - from, part->s, part->n) : v.s->s + from;
    *out = found ? (int64_t)nm_utf8_count(v.s->s, (size_t)(found - v.s->s)) : -1;
    return NM_OK;
}

static nm_err search_value(nm_render *r, nm_tv v, const nm_tv *p, bool last, bool must, nm_tv *out)
{
    int64_t at;
    NM_TRY(search(r, v, p, last, &at));
    if (at < 0 && must) return nm_rt_fail(r, "substring not found");
    *out = nm_tv_int(at);
    return NM_OK;
}

static nm_err str_find(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return search_value(r, v, p, false, false, out); }
static nm_err str_rfind(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return search_value(r, v, p, true, false, out); }
static nm_err str_index(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return search_value(r, v, p, false, true, out); }
static nm_err str_rindex(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return search_value(r, v, p, true, true, out); }

static nm_err str_count(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    size_t from, to;
    bool valid;
    int64_t n = 0;
    NM_TRY(want_text(r, p[0]));
    NM_TRY(cut(r, v, p[1], p[2], &from, &to, &valid));
    if (!p[0].s->n) {
        *out = nm_tv_int(valid ? (int64_t)nm_utf8_count(v.s->s + from, to - from) + 1 : 0);
        return NM_OK;
    }
    for (const char *at = v.s->s + from, *end = v.s->s + to; (at = first_of(at, (size_t)(end - at), p[0].s->s, p[0].s->n)); at += p[0].s->n) n++;
    *out = nm_tv_int(n);
    return NM_OK;
}

static nm_err tail_matches(nm_render *r, nm_tv v, nm_tv part, size_t from, size_t to, bool start, bool *out)
{
    NM_TRY(want_text(r, part));
    size_t n = part.s->n;
    *out = n <= to - from && !memcmp(v.s->s + (start ? from : to - n), part.s->s, n);
    return nm_rt_steps(r, 1 + (n >> 6));
}

/* startswith, endswith: p[0] is a string or a tuple of strings */
static nm_err matches(nm_render *r, nm_tv v, const nm_tv *p, bool start, nm_tv *out)
{
    size_t from, to;
    bool valid, found = false;
    NM_TRY(cut(r, v, p[1], p[2], &from, &to, &valid));
    if (p[0].kind != NM_TV_TUPLE && p[0].kind != NM_TV_STRING)
        return nm_rt_fail(r, "%s first arg must be str or a tuple of str, not %s", start ? "startswith" : "endswith", nm_tv_kind_name(p[0]));
    const nm_tv *parts = p[0].kind == NM_TV_TUPLE ? p[0].l->items : p;
    size_t count = p[0].kind == NM_TV_TUPLE ? p[0].l->n : 1;
    for (size_t i = 0; valid && !found && i < count; i++) NM_TRY(tail_matches(r, v, parts[i], from, to, start, &found));
    *out = nm_tv_bool(found);
    return NM_OK;
}

static nm_err str_startswith(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return matches(r, v, p, true, out); }
static nm_err str_endswith(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return matches(r, v, p, false, out); }

/* ---- Splitting and joining -------------------------------------------------------------------------------------------------------------------- */

static nm_err add_part(nm_render *r, nm_lb *lb, nm_tv v, size_t from, size_t to)
{
    nm_tv part;
    NM_TRY(nm_rt_steps(r, 1));
    NM_TRY(nm_tv_slice_text(r, v, from, to, &part));
    return nm_lb_add(r, lb, part);
}

static bool space_at(const nm_tv_string *s, size_t at) { return nm_char_is(nm_utf8_at(s->s + at), NM_CHAR_SPACE); }

static nm_err split_spaces(nm_render *r, nm_tv v, int64_t most, nm_lb *lb)
{
    const nm_tv_string *s = v.s;
    for (size_t i = 0;;) {
        while (i < s->n && space_at(s, i)) i += nm_utf8_width(s->s[i]);
        if (i >= s->n) return NM_OK;
        size_t from = i;
        if (most-- == 0) return add_part(r, lb, v, from, s->n);
        while (i < s->n && !space_at(s, i)) i += nm_utf8_width(s->s[i]);
        NM_TRY(add_part(r, lb, v, from, i));
    }
}

/* From the right; parts come out last first. */
static nm_err rsplit_spaces(nm_render *r, nm_tv v, int64_t most, nm_lb *lb)
{
    const nm_tv_string *s = v.s;
    for (size_t i = s->n;;) {
        while (i && space_at(s, nm_utf8_back(s->s, i))) i = nm_utf8_back(s->s, i);
        if (!i) return NM_OK;
        size_t to = i;
        if (most-- == 0) return add_part(r, lb, v, 0, to);
        while (i && !space_at(s, nm_utf8_back(s->s, i))) i = nm_utf8_back(s->s, i);
        NM_TRY(add_part(r, lb, v, i, to));
    }
}

static nm_err split_at(nm_render *r, nm_tv v, const nm_tv_string *sep, int64_t most, nm_lb *lb)
{
    size_t from = 0;
    for (const char *found; most-- != 0 && (found = first_of(v.s->s + from, v.s->n - from, sep->s, sep->n)); from = (size_t)(found - v.s->s) + sep->n)
        NM_TRY(add_part(r, lb, v, from, (size_t)(found - v.s->s)));
    return add_part(r, lb, v, from, v.s->n);
}

static nm_err rsplit_at(nm_render *r, nm_tv v, const nm_tv_string *sep, int64_t most, nm_lb *lb)
{
    size_t to = v.s->n;
    NM_TRY(nm_rt_steps(r, v.s->n / 16 * (1 + sep->n / 16)));
    for (const char *found; most-- != 0 && (found = last_of(v.s->s, to, sep->s, sep->n)); to = (size_t)(found - v.s->s))
        NM_TRY(add_part(r, lb, v, (size_t)(found - v.s->s) + sep->n, to));
    return add_part(r, lb, v, 0, to);
}

static nm_err split_either(nm_render *r, nm_tv v, const nm_tv *p, bool right, nm_tv *out)
{
    nm_lb lb = {NULL};
    int64_t most;
    NM_TRY(nm_arg_int(r, p[1], -1, &most));
    if (most < 0) most = -1;    /* counted down below: the least number has none under it */
    NM_TRY(nm_rt_steps(r, v.s->n >> 4));
    if (!nm_tv_given(p[0]) || p[0].kind == NM_TV_NONE) {
        NM_TRY(right ? rsplit_spaces(r, v, most, &lb) : split_spaces(r, v, most, &lb));
    } else {
        NM_TRY(want_text(r, p[0]));
        if (!p[0].s->n) return nm_rt_fail(r, "empty separator");
        NM_TRY(right ? rsplit_at(r, v, p[0].s, most, &lb) : split_at(r, v, p[0].s, most, &lb));
    }
    nm_tv *items = nm_lb_items(&lb);
    for (size_t i = 0, n = nm_lb_count(&lb); right && i < n / 2; i++) {
        nm_tv swap = items[i];
        items[i] = items[n - 1 - i];
        items[n - 1 - i] = swap;
    }
    return nm_lb_done(r, &lb, NM_TV_LIST, out);
}

static nm_err str_split(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return split_either(r, v, p, false, out); }
static nm_err str_rsplit(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return split_either(r, v, p, true, out); }

/* Bytes of the line end at s + at, 0 if none stands there. */
static size_t line_end(const nm_tv_string *s, size_t at)
{
    int32_t c = nm_utf8_at(s->s + at);
    if (c == '\r') return at + 1 < s->n && s->s[at + 1] == '\n' ? 2 : 1;
    bool ends = c == '\n' || c == '\v' || c == '\f' || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
    return ends ? nm_utf8_width(s->s[at]) : 0;
}

static nm_err str_splitlines(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_lb lb = {NULL};
    int64_t keep;
    size_t from = 0;
    NM_TRY(nm_arg_int(r, p[0], 0, &keep));
    NM_TRY(nm_rt_steps(r, v.s->n >> 4));
    for (size_t i = 0; i < v.s->n;) {
        size_t end = line_end(v.s, i);
        if (!end) {
            i += nm_utf8_width(v.s->s[i]);
            continue;
        }
        NM_TRY(add_part(r, &lb, v, from, keep ? i + end : i));
        from = i += end;
    }
    if (from < v.s->n) NM_TRY(add_part(r, &lb, v, from, v.s->n));
    return nm_lb_done(r, &lb, NM_TV_LIST, out);
}

static nm_err partition(nm_render *r, nm_tv v, nm_tv sep, bool last, nm_tv *out)
{
    nm_lb lb = {NULL};
    NM_TRY(want_text(r, sep));
    if (!sep.s->n) return nm_rt_fail(r, "empty separator");
    NM_TRY(nm_rt_steps(r, v.s->n / 16 * (last ? 1 + sep.s->n / 16 : 1)));
    const char *found = last ? last_of(v.s->s, v.s->n, sep.s->s, sep.s->n) : first_of(v.s->s, v.s->n, sep.s->s, sep.s->n);
    size_t at = found ? (size_t)(found - v.s->s) : last ? 0 : v.s->n, behind = found ? at + sep.s->n : at;
    NM_TRY(add_part(r, &lb, v, 0, at));
    NM_TRY(add_part(r, &lb, v, at, behind));
    NM_TRY(add_part(r, &lb, v, behind, v.s->n));
    return nm_lb_done(r, &lb, NM_TV_TUPLE, out);
}

static nm_err str_partition(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return partition(r, v, p[0], false, out); }
static nm_err str_rpartition(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return partition(r, v, p[0], true, out); }

static nm_err str_join(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_tv_iter it;
    nm_tv item;
    nm_sb sb = {r, NULL};
    NM_TRY(nm_iter_init(r, p[0], &it));
    for (size_t i = 0;; i++) {
        NM_TRY(nm_iter_next(r, &it, &item));
        if (!nm_tv_given(item)) break;
        if (i) nm_sb_str(&sb, v);
        if (v.flag & NM_TV_MARKUP) NM_TRY(nm_tv_escape(r, item, &item));
        if (item.kind != NM_TV_STRING) return nm_rt_fail(r, "sequence item %zu: expected str instance, %s found", i, nm_tv_kind_name(item));
        nm_sb_str(&sb, item);
    }
    return marked(nm_sb_done(&sb, out), v, out);
}

static nm_err str_replace(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_sb sb = {r, NULL};
    nm_tv new_part;
    int64_t most;
    size_t at = 0;
    NM_TRY(want_text(r, p[0]));
    NM_TRY(want_part(r, v, p[1], &new_part));
    NM_TRY(nm_arg_int(r, p[2], -1, &most));
    if (most < 0) most = -1;
    NM_TRY(nm_rt_steps(r, v.s->n >> 4));
    const nm_tv_string *old = p[0].s;
    while (most-- != 0 && r->err == NM_OK) {
        const char *found = old->n ? first_of(v.s->s + at, v.s->n - at, old->s, old->n) : v.s->s + at;
        if (!found) break;
        nm_sb_put(&sb, v.s->s + at, (size_t)(found - v.s->s) - at);
        nm_sb_str(&sb, new_part);
        at = (size_t)(found - v.s->s) + old->n;
        if (old->n) continue;
        if (at >= v.s->n) break;        /* an empty string stands before every character and at the end */
        size_t width = nm_utf8_width(v.s->s[at]);
        nm_sb_put(&sb, v.s->s + at, width);
        at += width;
    }
    nm_sb_put(&sb, v.s->s + at, v.s->n - at);
    return marked(nm_sb_done(&sb, out), v, out);
}

/* ---- Padding -------------------------------------------------------------------------------------------------------------------------------- */

static nm_err padded(nm_render *r, nm_tv v, const nm_tv *p, int how, nm_tv *out)
{
    nm_sb sb = {r, NULL};
    nm_tv fill;
    int64_t width, n = (int64_t)nm_utf8_count(v.s->s, v.s->n), left, pad;
    NM_TRY(nm_rt_steps(r, v.s->n >> 6));
    NM_TRY(nm_arg_int(r, p[0], 0, &width));
    if (nm_tv_given(p[1])) NM_TRY(want_part(r, v, p[1], &fill));
    else NM_TRY(nm_tv_text(r, " ", &fill));
    if (nm_utf8_count(fill.s->s, fill.s->n) != 1) return nm_rt_fail(r, "the fill character must be exactly one character long");
    if (width <= n) {
        *out = v;
        return NM_OK;
    }
    pad = width - n;
    left = how < 0 ? 0 : how > 0 ? pad : pad / 2 + (pad & width & 1);      /* str.center puts the odd one left where the width is odd */
    nm_sb_repeat(&sb, fill.s->s, fill.s->n, left);
    nm_sb_str(&sb, v);
    nm_sb_repeat(&sb, fill.s->s, fill.s->n, pad - left);
    return marked(nm_sb_done(&sb, out), v, out);
}

static nm_err str_center(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return padded(r, v, p, 0, out); }
static nm_err str_ljust(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return padded(r, v, p, -1, out); }
static nm_err str_rjust(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { return padded(r, v, p, 1, out); }

static nm_err str_zfill(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_sb sb = {r, NULL};
    int64_t width, n = (int64_t)nm_utf8_count(v.s->s, v.s->n);
    size_t sign = v.s->n && (*v.s->s == '+' || *v.s->s == '-');
    NM_TRY(nm_arg_int(r, p[0], 0, &width));
    nm_sb_put(&sb, v.s->s, sign);
    if (width > n) nm_sb_repeat(&sb, "0", 1, width - n);
    nm_sb_put(&sb, v.s->s + sign, v.s->n - sign);
    return marked(nm_sb_done(&sb, out), v, out);
}

static nm_err str_expandtabs(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_sb sb = {r, NULL};
    int64_t size, column = 0;
    NM_TRY(nm_arg_int(r, p[0], 8, &size));
    for (size_t i = 0; i < v.s->n && r->err == NM_OK; i += nm_utf8_width(v.s->s[i])) {
        if (v.s->s[i] == '\t') {
            int64_t spaces = size > 0 ? size - column % size : 0;
            nm_sb_repeat(&sb, " ", 1, spaces);
            column += spaces;
            continue;
        }
        column = v.s->s[i] == '\n' || v.s->s[i] == '\r' ? 0 : column + 1;
        nm_sb_put(&sb, v.s->s + i, nm_utf8_width(v.s->s[i]));
    }
    return marked(nm_sb_done(&sb, out), v, out);
}

/* ---- Formatting -------------------------------------------------------------------------------------------------------------------------------- */

static nm_err str_format(nm_render *r, nm_tv v, const nm_args *args, nm_tv *out) { return nm_tv_format(r, v, args, out); }

static nm_err str_format_map(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_args args = {0};
    nm_tv_dict *d = p[0].d;
    if (p[0].kind != NM_TV_DICT) return nm_rt_fail(r, "format_map() wants a mapping");
    NM_RT_NEW(r, args.names, d->n + 1);
    NM_RT_NEW(r, args.values, d->n + 1);
    for (size_t i = 0; i < d->n; i++) {
        if (d->keys[i].kind != NM_TV_STRING) continue;
        args.names[args.n_kw] = d->keys[i];
        args.values[args.n_kw++] = d->values[i];
    }
    return nm_tv_format(r, v, &args, out);
}

static nm_err str_refused(nm_render *r, nm_tv v, const nm_args *args, nm_tv *out)
{
    (void)v;
    (void)args;
    (void)out;
    return nm_rt_fail(r, "encode, translate and maketrans are not supported: templates have text only");
}

const nm_callable *nm_string_method(const char *name, size_t n)
{
    static const nm_callable table[] = {
        {"strip", "/?chars", str_strip, NULL}, {"lstrip", "/?chars", str_lstrip, NULL}, {"rstrip", "/?chars", str_rstrip, NULL},
        {"split", "?sep ?maxsplit", str_split, NULL}, {"rsplit", "?sep ?maxsplit", str_rsplit, NULL},
        {"splitlines", "?keepends", str_splitlines, NULL}, {"join", "/iterable", str_join, NULL}, {"replace", "/old new ?count", str_replace, NULL},
        {"startswith", "/prefix ?start ?end", str_startswith, NULL}, {"endswith", "/suffix ?start ?end", str_endswith, NULL},
        {"upper", "/", str_upper, NULL}, {"lower", "/", str_lower, NULL}, {"title", "/", str_title, NULL}, {"capitalize", "/", str_capitalize, NULL},
        {"swapcase", "/", str_swapcase, NULL}, {"casefold", "/", str_casefold, NULL},
        {"find", "/sub ?start ?end", str_find, NULL}, {"rfind", "/sub ?start ?end", str_rfind, NULL},
        {"index", "/sub ?start ?end", str_index, NULL}, {"rindex", "/sub ?start ?end", str_rindex, NULL},
        {"count", "/sub ?start ?end", str_count, NULL}, {"partition", "/sep", str_partition, NULL}, {"rpartition", "/sep", str_rpartition, NULL},
        {"removeprefix", "/prefix", str_removeprefix, NULL}, {"removesuffix", "/suffix", str_removesuffix, NULL},
        {"center", "/width ?fillchar", str_center, NULL}, {"ljust", "/width ?fillchar", str_ljust, NULL}, {"rjust", "/width ?fillchar", str_rjust, NULL},
        {"zfill", "/width", str_zfill, NULL}, {"expandtabs", "?tabsize", str_expandtabs, NULL},
        {"isalpha", "/", str_isalpha, NULL}, {"isdigit", "/", str_isdigit, NULL}, {"isdecimal", "/", str_isdecimal, NULL},
        {"isnumeric", "/", str_isnumeric, NULL}, {"isalnum", "/", str_isalnum, NULL}, {"isspace", "/", str_isspace, NULL},
        {"isprintable", "/", str_isprintable, NULL}, {"isascii", "/", str_isascii, NULL}, {"isidentifier", "/", str_isidentifier, NULL},
        {"islower", "/", str_islower, NULL}, {"isupper", "/", str_isupper, NULL}, {"istitle", "/", str_istitle, NULL},
        {"format", "*", NULL, str_format}, {"format_map", "/mapping", str_format_map, NULL},
        {"encode", "*", NULL, str_refused}, {"translate", "*", NULL, str_refused}, {"maketrans", "*", NULL, str_refused}
    };
    return nm_callable_find(table, sizeof table / sizeof *table, name, n);
}
