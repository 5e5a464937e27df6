/* jinja2's filters on text: one row each. */
#include <math.h>
#include <string.h>

#include "text/template_chars.h"
#include "text/template_value.h"

/* Filters that are a method of the value's text. */
static nm_err as_method(nm_render *r, nm_tv v, const char *name, nm_tv *pos, size_t n, nm_tv *out)
{
    NM_TRY(nm_tv_soft(r, v, &v));
    return nm_tv_method(r, v, name, pos, n, out);
}

static nm_err f_upper(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)p; return as_method(r, v, "upper", NULL, 0, out); }
static nm_err f_lower(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)p; return as_method(r, v, "lower", NULL, 0, out); }
static nm_err f_capitalize(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out) { (void)p; return as_method(r, v, "capitalize", NULL, 0, out); }

static nm_err f_trim(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_tv chars = nm_tv_given(p[0]) ? p[0] : nm_tv_none();
    return as_method(r, v, "strip", &chars, 1, out);
}

static nm_err f_center(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_tv width = nm_tv_given(p[0]) ? p[0] : nm_tv_int(80);
    return as_method(r, v, "center", &width, 1, out);
}

static nm_err f_replace(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_tv pos[3] = {p[0], p[1], nm_tv_int(-1)};
    NM_TRY(nm_tv_str(r, v, &v));
    NM_TRY(nm_tv_str(r, p[0], &pos[0]));
    NM_TRY(nm_tv_str(r, p[1], &pos[1]));
    if (nm_tv_given(p[2]) && p[2].kind != NM_TV_NONE) pos[2] = p[2];
    return nm_tv_method(r, v, "replace", pos, 3, out);
}

static nm_err f_format(nm_render *r, nm_tv v, const nm_args *args, nm_tv *out)
{
    nm_tv values;
    if (args->n && args->n_kw) return nm_rt_fail(r, "positional and keyword arguments cannot both be formatted");
    NM_TRY(nm_tv_soft(r, v, &v));
    if (!args->n_kw) NM_TRY(nm_tv_list_of(r, NM_TV_TUPLE, args->pos, args->n, &values));
    else NM_TRY(nm_tv_dict_of(r, NM_TV_DICT, &values));
    for (size_t i = 0; i < args->n_kw; i++) NM_TRY(nm_tv_dict_set(r, values.d, args->names[i], args->values[i]));
    return nm_tv_percent(r, v, values, out);
}

/* Words begin behind blanks, - ( { [ and <. */
static bool between_words(const char *s) { return nm_char_is(nm_utf8_at(s), NM_CHAR_SPACE) || (*s && strchr("-({[<", *s)); }

static nm_err f_title(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_sb sb = {r, NULL};
    (void)p;
    NM_TRY(nm_tv_soft(r, v, &v));
    for (size_t i = 0; i < v.s->n;) {
        size_t from = i, first = from + nm_utf8_width(v.s->s[from]);
        nm_tv head, tail;
        bool between = between_words(v.s->s + i);
        while (i < v.s->n && between_words(v.s->s + i) == between) i += nm_utf8_width(v.s->s[i]);
        NM_TRY(nm_tv_slice_text(r, v, from, first, &head));
        NM_TRY(nm_tv_slice_text(r, v, first, i, &tail));
        NM_TRY(nm_tv_method(r, head, "upper", NULL, 0, &head));
        NM_TRY(nm_tv_method(r, tail, "lower", NULL, 0, &tail));
        nm_sb_str(&sb, head);
        nm_sb_str(&sb, tail);
    }
    return nm_sb_done(&sb, out);
}

static bool word_character(int32_t c) { return c == '_' || nm_char_is(c, NM_CHAR_ALNUM); }

static nm_err f_wordcount(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    int64_t words = 0;
    bool inside = false;
    (void)p;
    NM_TRY(nm_tv_soft(r, v, &v));
    NM_TRY(nm_rt_steps(r, v.s->n >> 4));
    for (size_t i = 0; i < v.s->n; i += nm_utf8_width(v.s->s[i])) {
        bool is_word = word_character(nm_utf8_at(v.s->s + i));
        words += is_word && !inside;
        inside = is_word;
    }
    *out = nm_tv_int(words);
    return NM_OK;
}

static nm_err want_text(nm_render *r, nm_tv v)
{
    if (v.kind == NM_TV_STRING) return NM_OK;
    return v.kind == NM_TV_UNDEFINED ? nm_tv_fail_undefined(r, v) : nm_rt_fail(r, "expected a string, got %s", nm_tv_kind_name(v));
}

static nm_err f_indent(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_sb sb = {r, NULL}, blanks = {r, NULL};
    nm_tv lines, width = p[0], text;
    bool first, blank;
    int64_t n;
    NM_TRY(want_text(r, v));
    if (width.kind != NM_TV_STRING) {
        NM_TRY(nm_arg_int(r, width, 4, &n));
        nm_sb_repeat(&blanks, " ", 1, n);
        NM_TRY(nm_sb_done(&blanks, &width));
    }
    NM_TRY(nm_arg_truth(r, p[1], false, &first));
    NM_TRY(nm_arg_truth(r, p[2], false, &blank));
    nm_sb_str(&sb, v);
    nm_sb_puts(&sb, "\n");
    NM_TRY(nm_sb_done(&sb, &text));
    NM_TRY(nm_tv_method(r, text, "splitlines", NULL, 0, &lines));
    sb = (nm_sb){r, NULL};
    for (size_t i = 0; i < lines.l->n; i++) {
        nm_tv line = lines.l->items[i];
        if (i) nm_sb_puts(&sb, "\n");
        if (i ? blank || line.s->n : first) nm_sb_str(&sb, width);
        nm_sb_str(&sb, line);
    }
    NM_TRY(nm_sb_done(&sb, out));
    out->flag = v.flag & NM_TV_MARKUP;
    return NM_OK;
}

static nm_err f_truncate(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    int64_t length, leeway, n;
    bool kill;
    nm_tv end = p[2], head, cut[2] = {{0}, nm_tv_int(1)};
    NM_TRY(nm_arg_int(r, p[0], 255, &length));
    NM_TRY(nm_arg_truth(r, p[1], false, &kill));
    NM_TRY(nm_arg_int(r, p[3].kind == NM_TV_NONE ? (nm_tv){0} : p[3], 5, &leeway));
    if (!nm_tv_given(end)) NM_TRY(nm_tv_text(r, "...", &end));
    NM_TRY(want_text(r, end));
    NM_TRY(nm_tv_length(r, end, &n));
    if (length < n || leeway < 0) return nm_rt_fail(r, "expected a length of at least %lld and a leeway of at least 0", (long long)n);
    length -= n;
    NM_TRY(nm_tv_length(r, v, &n));
    *out = v;
    int64_t end_n;
    NM_TRY(nm_tv_length(r, end, &end_n));
    if (leeway > INT64_MAX - length - end_n || n <= length + end_n + leeway) return NM_OK;
    NM_TRY(want_text(r, v));
    NM_TRY(nm_tv_slice(r, v, nm_tv_none(), nm_tv_int(length), nm_tv_none(), &head));
    if (!kill) {
        NM_TRY(nm_tv_text(r, " ", &cut[0]));
        NM_TRY(nm_tv_method(r, head, "rsplit", cut, 2, &head));
        head = head.l->items[0];
    }
    return nm_tv_concat(r, head, end, out);
}

/* ---- wordwrap: Python's textwrap ------------------------------------------------------------------------------------------------------------ */

typedef struct wrapper { nm_render *r; int64_t width; bool breaks, hyphens; nm_sb out; const char *between; size_t between_n; bool any; } wrapper;

static bool wrap_space(char c) { return c && strchr("\t\n\v\f\r ", c); }
static bool letter(const char *s, size_t n, size_t at) { return at < n && nm_char_is(nm_utf8_at(s + at), NM_CHAR_ALPHA); }

static bool letter_before(const char *s, size_t *at)
{
    if (!*at) return false;
    *at = nm_utf8_back(s, *at);
    return nm_char_is(nm_utf8_at(s + *at), NM_CHAR_ALPHA);
}

/* A hyphen at `at` where a word may be broken: two letters (or a letter, a hyphen, a letter) before it, the same behind it. */
static bool breaking_hyphen(const char *s, size_t n, size_t at)
{
    size_t before = at, after = at + 1;
    if (!letter_before(s, &before)) return false;
    size_t again = before;
    bool dashed = before && s[before - 1] == '-';
    if (dashed) again = before - 1;
    if (!letter_before(s, &again)) return false;
    if (!letter(s, n, after)) return false;
    after += nm_utf8_width(s[after]);
    if (after < n && s[after] == '-') after++;
    return letter(s, n, after);
}

static bool dash_before(const char *s, size_t at)
{
    size_t before = nm_utf8_back(s, at);
    return word_character(nm_utf8_at(s + before)) || (s[before] && strchr("!\"'&.,?", s[before]));
}

/* Two hyphens or more at `at` with a word behind them: how many, else 0. */
static size_t em_dash(const wrapper *w, const char *s, size_t n, size_t at)
{
    size_t count = 0;
    while (at + count < n && s[at + count] == '-') count++;
    if (nm_rt_steps(w->r, count >> 4) != NM_OK) return 0;
    return count >= 2 && at + count < n && word_character(nm_utf8_at(s + at + count)) ? count : 0;
}

/* End of the chunk that begins at `at`: blanks, a dash, or a word up to a place where it may be broken. */
static size_t chunk_end(const wrapper *w, const char *s, size_t n, size_t at)
{
    size_t i = at;
    if (wrap_space(s[i])) {
        while (i < n && wrap_space(s[i])) i++;
        return i;
    }
    if (w->hyphens && at && s[at] == '-' && em_dash(w, s, n, at) && dash_before(s, at)) return at + em_dash(w, s, n, at);
    for (i += nm_utf8_width(s[i]); i < n && !wrap_space(s[i]) && w->r->err == NM_OK; i += nm_utf8_width(s[i])) {
        if (!w->hyphens || s[i] != '-') continue;
        if (breaking_hyphen(s, n, i)) return i + 1;
        if (em_dash(w, s, n, i) && dash_before(s, i)) return i;
    }
    return i;
}

static void put_line(wrapper *w, const char *s, size_t from, size_t to)
{
    if (w->any) nm_sb_put(&w->out, w->between, w->between_n);
    w->any = true;
    nm_sb_put(&w->out, s + from, to - from);
}

/* Where a chunk too long for the line is cut, with `room` characters left. */
static size_t cut_long(const wrapper *w, const char *s, size_t at, size_t end, int64_t room)
{
    size_t to = at + nm_utf8_offset(s + at, end - at, (size_t)room);
    if (!w->hyphens || to >= end) return to;
    bool word = false;
    for (size_t i = to; i-- > at + 1;) {
        if (s[i] != '-') continue;
        for (size_t k = at; k < i; k++) word |= s[k] != '-';
        return word ? i + 1 : to;
    }
    return to;
}

/* One line of input into lines of at most w->width characters. */
static void wrap_line(wrapper *w, const char *s, size_t n)
{
    bool lines = false, full = false;
    for (size_t at = 0; at < n && w->r->err == NM_OK;) {
        size_t from = at, to = at, end;
        int64_t used = 0;
        if (lines && wrap_space(s[at])) from = to = at = chunk_end(w, s, n, at);
        for (; at < n; at = end) {
            end = chunk_end(w, s, n, at);
            int64_t length = (int64_t)nm_utf8_count(s + at, end - at);
            if (nm_rt_steps(w->r, 1 + ((end - at) >> 4)) != NM_OK) return;
            if (used + length <= w->width) {
                used += length;
                to = end;
                continue;
            }
            full = length > w->width && w->breaks && used == w->width;
            if (length > w->width && w->breaks) to = at = cut_long(w, s, at, end, w->width - used);
            else if (length > w->width && !used) to = at = end;
            break;
        }
        size_t shown = to, back = to;
        while (back > from && wrap_space(s[back - 1])) back--;
        /* Blanks at the end of a line go; but where a long word had no room at all, textwrap takes its empty piece for them. */
        if (!full) shown = back;
        full = false;
        if (shown == from) continue;
        put_line(w, s, from, shown);
        lines = true;
    }
}

static nm_err f_wordwrap(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    wrapper w = {.r = r, .out = {r, NULL}, .between = "\n", .between_n = 1};
    nm_tv lines;
    NM_TRY(want_text(r, v));
    NM_TRY(nm_arg_int(r, p[0], 79, &w.width));
    NM_TRY(nm_arg_truth(r, p[1], true, &w.breaks));
    NM_TRY(nm_arg_truth(r, p[3], true, &w.hyphens));
    if (nm_tv_given(p[2]) && p[2].kind != NM_TV_NONE) {
        NM_TRY(want_text(r, p[2]));
        w.between = p[2].s->s;
        w.between_n = p[2].s->n;
    }
    if (w.width <= 0) return nm_rt_fail(r, "invalid width %lld (must be > 0)", (long long)w.width);
    NM_TRY(nm_tv_method(r, v, "splitlines", NULL, 0, &lines));
    for (size_t i = 0; i < lines.l->n; i++) {
        if (i) nm_sb_put(&w.out, w.between, w.between_n);
        w.any = false;
        wrap_line(&w, lines.l->items[i].s->s, lines.l->items[i].s->n);
    }
    return nm_sb_done(&w.out, out);
}

/* ---- HTML and URLs ---------------------------------------------------------------------------------------------------------------------------- */

/* An entity at s: its character and *used bytes, or -1. The named ones are those that markupsafe writes, and nbsp. */
static int32_t entity_at(const char *s, size_t n, size_t *used)
{
    static const struct { const char *text; int32_t code; } named[] = {
        {"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}, {"&nbsp;", 0xa0}
    };
    for (size_t i = 0; i < sizeof named / sizeof *named; i++) {
        *used = strlen(named[i].text);
        if (*used <= n && !memcmp(s, named[i].text, *used)) return named[i].code;
    }
    if (n < 4 || s[1] != '#') return -1;
    bool hex = (s[2] | 32) == 'x';
    int32_t code = 0;
    size_t i = 2 + hex, first = i;
    for (; i < n && code <= 0x10ffff; i++) {
        int digit = s[i] >= '0' && s[i] <= '9' ? s[i] - '0' : hex && (s[i] | 32) >= 'a' && (s[i] | 32) <= 'f' ? (s[i] | 32) - 'a' + 10 : -1;
        if (digit < 0) break;
        code = code * (hex ? 16 : 10) + digit;
    }
    if (i == first) return -1;
    *used = i + (i < n && s[i] == ';');
    return code == 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? 0xfffd : code;
}

/* Text without tags and comments; a tag that never closes stays. */
static void put_without_tags(nm_sb *sb, const char *s, size_t n)
{
    size_t at = 0;
    for (const char *open; at < n && (open = memchr(s + at, '<', n - at));) {
        size_t start = (size_t)(open - s);
        bool comment = n - start >= 4 && !memcmp(open, "<!--", 4);
        size_t from = comment ? start + 4 : start;
        const char *close = comment ? memmem(s + from, n - from, "-->", 3) : memchr(s + from, '>', n - from);
        if (!close) break;
        nm_sb_put(sb, s + at, start - at);
        at = (size_t)(close - s) + (comment ? 3 : 1);
    }
    nm_sb_put(sb, s + at, n - at);
}

static nm_err f_striptags(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_sb plain = {r, NULL}, sb = {r, NULL};
    nm_tv words, space;
    (void)p;
    NM_TRY(nm_tv_str(r, v, &v));
    put_without_tags(&plain, v.s->s, v.s->n);
    NM_TRY(nm_sb_done(&plain, &v));
    NM_TRY(nm_tv_method(r, v, "split", NULL, 0, &words));
    NM_TRY(nm_tv_text(r, " ", &space));
    NM_TRY(nm_tv_method(r, space, "join", &words, 1, &v));
    for (size_t i = 0; i < v.s->n && r->err == NM_OK;) {
        size_t used = 0;
        int32_t code = v.s->s[i] == '&' ? entity_at(v.s->s + i, v.s->n - i, &used) : -1;
        if (code >= 0) nm_sb_code(&sb, code);
        else nm_sb_put(&sb, v.s->s + i, used = 1);
        i += used;
    }
    return nm_sb_done(&sb, out);
}

static nm_err f_xmlattr(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_sb sb = {r, NULL};
    bool space;
    if (v.kind == NM_TV_UNDEFINED) return nm_tv_fail_undefined(r, v);
    if (v.kind != NM_TV_DICT) return nm_rt_fail(r, "'%s' object has no attribute 'items'", nm_tv_kind_name(v));
    NM_TRY(nm_arg_truth(r, p[0], true, &space));
    for (size_t i = 0; i < v.d->n; i++) {
        nm_tv key = v.d->keys[i], value = v.d->values[i];
        if (value.kind == NM_TV_NONE || value.kind == NM_TV_UNDEFINED) continue;
        NM_TRY(want_text(r, key));
        for (size_t k = 0; k < key.s->n; k++)
            if (strchr(" \t\n\r\f\v/>=", key.s->s[k]) && key.s->s[k]) return nm_rt_fail(r, "invalid character in attribute name");
        NM_TRY(nm_tv_escape(r, key, &key));
        NM_TRY(nm_tv_escape(r, value, &value));
        if (space || nm_sb_length(&sb)) nm_sb_puts(&sb, " ");
        nm_sb_str(&sb, key);
        nm_sb_puts(&sb, "=\"");
        nm_sb_str(&sb, value);
        nm_sb_puts(&sb, "\"");
    }
    return nm_sb_done(&sb, out);
}

static nm_err put_quoted(nm_sb *sb, nm_tv v, bool query)
{
    NM_TRY(nm_tv_str(sb->r, v, &v));
    for (size_t i = 0; i < v.s->n; i++) {
        char c = v.s->s[i];
        bool plain = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || (c && strchr("_.-~", c)) || (c == '/' && !query);
        if (plain) nm_sb_put(sb, &c, 1);
        else if (c == ' ' && query) nm_sb_puts(sb, "+");
        else nm_sb_printf(sb, "%%%02X", (unsigned char)c);
    }
    return sb->r->err;
}

static nm_err f_urlencode(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_sb sb = {r, NULL};
    nm_tv pair, item;
    nm_tv_iter it;
    (void)p;
    if (v.kind == NM_TV_STRING || !nm_tv_iterable(v)) {
        NM_TRY(put_quoted(&sb, v, false));
        return nm_sb_done(&sb, out);
    }
    if (v.kind == NM_TV_DICT) v = (nm_tv){.kind = NM_TV_VIEW, .view = 2, .d = v.d};
    NM_TRY(nm_iter_init(r, v, &it));
    for (bool first = true;; first = false) {
        NM_TRY(nm_iter_next(r, &it, &item));
        if (!nm_tv_given(item)) return nm_sb_done(&sb, out);
        NM_TRY(nm_iter_collect(r, item, &pair));
        if (pair.l->n != 2) return nm_rt_fail(r, "expected pairs to encode");
        if (!first) nm_sb_puts(&sb, "&");
        NM_TRY(put_quoted(&sb, pair.l->items[0], true));
        nm_sb_puts(&sb, "=");
        NM_TRY(put_quoted(&sb, pair.l->items[1], true));
    }
}

static nm_err f_filesizeformat(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out)
{
    nm_sb sb = {r, NULL};
    bool binary, ok = true;
    double bytes;
    NM_TRY(nm_arg_truth(r, p[0], false, &binary));
    if (v.kind == NM_TV_STRING) NM_TRY(nm_rt_steps(r, v.s->n >> 3));
    if (v.kind == NM_TV_STRING) bytes = nm_parse_double(v.s->s, v.s->n, &ok);
    else if (nm_tv_is_number(v)) bytes = nm_tv_as_float(v);
    else return nm_rt_fail(r, "float() argument must be a string or a real number, not '%s'", nm_tv_kind_name(v));
    if (!ok || !(bytes > -1e300 && bytes < 1e300)) return nm_rt_fail(r, "could not convert to a number of bytes");
    double base = binary ? 1024 : 1000, unit = base * base;
    const char *prefix = "kMGTPEZY";
    if (bytes == 1) nm_sb_puts(&sb, "1 Byte");
    else if (bytes < base) nm_sb_printf(&sb, "%.0f Bytes", trunc(bytes) + 0.0);
    if (bytes < base) return nm_sb_done(&sb, out);
    for (; bytes >= unit && prefix[1]; unit *= base) prefix++;
    nm_sb_double(&sb, base * bytes / unit, 'f', 1, false);
    nm_sb_printf(&sb, " %c%sB", *prefix == 'k' && binary ? 'K' : *prefix, binary ? "i" : "");
    return nm_sb_done(&sb, out);
}

const nm_callable *nm_text_filter(const char *name, size_t n)
{
    static const nm_callable table[] = {
        {"capitalize", "/", f_capitalize, NULL}, {"center", "?width", f_center, NULL}, {"filesizeformat", "?binary", f_filesizeformat, NULL},
        {"format", "*", NULL, f_format}, {"indent", "?width ?first ?blank", f_indent, NULL}, {"lower", "/", f_lower, NULL},
        {"replace", "old new ?count", f_replace, NULL}, {"striptags", "/", f_striptags, NULL}, {"title", "/", f_title, NULL},
        {"trim", "?chars", f_trim, NULL}, {"truncate", "?length ?killwords ?end ?leeway", f_truncate, NULL}, {"upper", "/", f_upper, NULL},
        {"urlencode", "/", f_urlencode, NULL}, {"wordcount", "/", f_wordcount, NULL},
        {"wordwrap", "?width ?break_long_words ?wrapstring ?break_on_hyphens", f_wordwrap, NULL}, {"xmlattr", "?autospace", f_xmlattr, NULL}
    };
    return nm_callable_find(table, sizeof table / sizeof *table, name, n);
}
