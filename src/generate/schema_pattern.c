/* Owns ECMA-262 patterns: read by recursive descent into a nondeterministic automaton, then made deterministic. Anchors hold only at the ends of the string, so "^" is a
 * way that is open before the first character and "$" one that is open after the last. A counted repetition reads its atom's text again for each copy. Refuses, by
 * name, what is no regular expression or depends on neighbours: lookaround, back references, \b, \p. Whether a quantifier is lazy does not change which strings match. */
#include "generate/schema.h"

#include <stdlib.h>
#include <string.h>

enum { PATTERN_NODES = 100000, PATTERN_DEPTH = 60, PATTERN_REPEATS = 2000, NONE = UINT32_MAX, UNBOUNDED = INT32_MAX };

typedef enum way { WAY_FREE, WAY_START, WAY_END, WAY_SET, WAY_ACCEPT } way;
typedef struct place { way kind; uint32_t next[2]; nm_spans set; } place;     /* WAY_FREE: both; else next[0] */
typedef struct net { place *places; size_t count, capacity; } net;
typedef struct piece { uint32_t first, last; } piece;                          /* last: WAY_FREE with a way open */

typedef struct reader {
    nm_schema *s;
    const char *text;
    size_t length, at;
    int depth;
    net net;
} reader;

static nm_err add_place(reader *r, way kind, uint32_t a, uint32_t b, uint32_t *out)
{
    *out = 0;
    if (r->net.count >= PATTERN_NODES) return nm_fail(NM_USAGE, "the pattern is too large: repeat less");
    NM_TRY(NM_MORE(r->s, r->net.places, r->net.capacity, r->net.count + 1));
    r->net.places[r->net.count] = (place){.kind = kind, .next = {a, b}};
    *out = (uint32_t)r->net.count++;
    return NM_OK;
}

static void join(reader *r, uint32_t last, uint32_t next)
{
    uint32_t *ways = r->net.places[last].next;
    ways[ways[0] != NONE] = next;
}

static nm_err empty_piece(reader *r, piece *out)
{
    NM_TRY(add_place(r, WAY_FREE, NONE, NONE, &out->first));
    out->last = out->first;
    return NM_OK;
}

/* One step of the given kind. */
static nm_err step_piece(reader *r, way kind, nm_spans set, piece *out)
{
    NM_TRY(add_place(r, WAY_FREE, NONE, NONE, &out->last));
    NM_TRY(add_place(r, kind, out->last, NONE, &out->first));
    r->net.places[out->first].set = set;
    return NM_OK;
}

/* ---- Characters and classes --------------------------------------------------------------------------------------------------------- */

static nm_err named_class(reader *r, char name, nm_spans *set)
{
    static const nm_span digits[] = {{'0', '9'}}, words[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}},
        spaces[] = {{9, 13}, {' ', ' '}, {0xa0, 0xa0}, {0x1680, 0x1680}, {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000},
        {0xfeff, 0xfeff}};
    const nm_span *from = (name | 32) == 'd' ? digits : (name | 32) == 'w' ? words : spaces;
    size_t n = (name | 32) == 'd' ? 1 : (name | 32) == 'w' ? 4 : sizeof spaces / sizeof *spaces;
    nm_spans all = {0};
    for (size_t i = 0; i < n; i++) NM_TRY(nm_spans_add(r->s, &all, from[i].low, from[i].high));
    if (name < 'a') NM_TRY(nm_spans_negate(r->s, &all));
    for (size_t i = 0; i < all.count; i++) NM_TRY(nm_spans_add(r->s, set, all.items[i].low, all.items[i].high));
    return NM_OK;
}

static nm_err any_but_lines(reader *r, nm_spans *set)
{
    NM_TRY(nm_spans_add(r->s, set, '\n', '\n'));
    NM_TRY(nm_spans_add(r->s, set, '\r', '\r'));
    NM_TRY(nm_spans_add(r->s, set, 0x2028, 0x2029));
    return nm_spans_negate(r->s, set);
}

static char peek(const reader *r, size_t ahead) { return r->at + ahead < r->length ? r->text[r->at + ahead] : 0; }

static int hex_value(char c) { return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1; }

static bool hex_digits(reader *r, int n, uint32_t *code)
{
    *code = 0;
    for (int i = 0; i < n; i++) {
        int v = hex_value(peek(r, (size_t)i));
        if (v < 0) return false;
        *code = *code * 16 + (uint32_t)v;
    }
    r->at += (size_t)n;
    return true;
}

static bool braced_code(reader *r, uint32_t *code)
{
    *code = 0;
    for (r->at++; hex_value(peek(r, 0)) >= 0 && *code <= NM_CODE_MOST; r->at++) *code = *code * 16 + (uint32_t)hex_value(peek(r, 0));
    return peek(r, 0) == '}' && r->text[r->at - 1] != '{' && *code <= NM_CODE_MOST && r->at++ < r->length;
}

/* After "\u". A pair of surrogates is one character. */
static nm_err unicode_escape(reader *r, uint32_t *code)
{
    uint32_t low;
    bool read = peek(r, 0) == '{' ? braced_code(r, code) : hex_digits(r, 4, code);
    if (read && *code >= 0xd800 && *code < 0xdc00 && peek(r, 0) == '\\' && peek(r, 1) == 'u') {
        r->at += 2;
        read = hex_digits(r, 4, &low) && low >= 0xdc00 && low < 0xe000;
        if (read) *code = 0x10000 + ((*code - 0xd800) << 10) + (low - 0xdc00);
    }
    return read && (*code < 0xd800 || *code > 0xdfff) ? NM_OK : nm_fail(NM_USAGE, "\\u without a character's digits at byte %zu", r->at);
}

/* After a backslash: a class of its own into set, or one character into *code. */
static nm_err read_escape(reader *r, bool in_class, nm_spans *set, uint32_t *code)
{
    static const char letters[] = "t\tn\nv\vf\fr\r";
    char c = peek(r, 0);
    if (r->at >= r->length) return nm_fail(NM_USAGE, "the pattern ends in a backslash");
    r->at++;
    *code = NONE;
    if (strchr("dDwWsS", c)) return named_class(r, c, set);
    for (const char *l = letters; *l; l += 2)
        if (*l == c) *code = (uint32_t)(unsigned char)l[1];
    if (*code != NONE) return NM_OK;
    if (c == 'b' && in_class) *code = '\b';
    else if (c == '0' && !(peek(r, 0) >= '0' && peek(r, 0) <= '9')) *code = 0;
    else if (c == 'c' && (peek(r, 0) | 32) >= 'a' && (peek(r, 0) | 32) <= 'z') *code = (uint32_t)r->text[r->at++] % 32;
    else if (c == 'x' && hex_digits(r, 2, code)) return NM_OK;
    else if (c == 'u') return unicode_escape(r, code);
    else if (strchr("^$\\.*+?()[]{}|/-", c) || strchr("\"'#%&,:;<=>@`~! _", c)) *code = (uint32_t)(unsigned char)c;
    else if (c == 'b' || c == 'B') return nm_fail(NM_USAGE, "\\%c (a word's boundary) cannot be expressed in a grammar", c);
    else if (c == 'p' || c == 'P') return nm_fail(NM_USAGE, "\\%c (a property of Unicode) is not supported", c);
    else if ((c >= '1' && c <= '9') || c == 'k') return nm_fail(NM_USAGE, "\\%c (a back reference) cannot be expressed in a grammar", c);
    else return nm_fail(NM_USAGE, "the escape \\%c is not known", c);
    return NM_OK;
}

static nm_err read_character(reader *r, uint32_t *code)
{
    int used;
    int32_t c = nm_utf8_decode(r->text + r->at, r->length - r->at, &used);
    if (c < 0) return nm_fail(NM_USAGE, "the pattern is not UTF-8");
    *code = (uint32_t)c;
    r->at += (size_t)used;
    return NM_OK;
}

/* One member of a class: *code is NONE for a class of its own. */
static nm_err read_member(reader *r, nm_spans *set, uint32_t *code)
{
    if (peek(r, 0) != '\\') return read_character(r, code);
    r->at++;
    return read_escape(r, true, set, code);
}

static nm_err read_class(reader *r, piece *out)
{
    nm_spans set = {0};
    bool negated = peek(r, 0) == '^';
    r->at += negated;
    while (r->at < r->length && peek(r, 0) != ']') {
        uint32_t low, high;
        NM_TRY(read_member(r, &set, &low));
        high = low;
        if (low != NONE && peek(r, 0) == '-' && peek(r, 1) && peek(r, 1) != ']') {
            r->at++;
            NM_TRY(read_member(r, &set, &high));
            if (high == NONE || high < low) return nm_fail(NM_USAGE, "a range in [...] is out of order before byte %zu", r->at);
        }
        if (low != NONE) NM_TRY(nm_spans_add(r->s, &set, low, high));
    }
    if (r->at >= r->length) return nm_fail(NM_USAGE, "[ without ]");
    r->at++;
    if (negated) NM_TRY(nm_spans_negate(r->s, &set));
    nm_spans_tidy(&set);
    return step_piece(r, WAY_SET, set, out);
}

/* ---- Atoms, terms, alternatives ----------------------------------------------------------------------------------------------------- */

static nm_err read_choice(reader *r, piece *out);

static nm_err group_opening(reader *r)
{
    if (peek(r, 0) != '?') return NM_OK;
    char c = peek(r, 1), d = peek(r, 2);
    if (c == ':') {
        r->at += 2;
    } else if (c == '<' && d != '=' && d != '!') {
        const char *end = memchr(r->text + r->at, '>', r->length - r->at);
        if (!end) return nm_fail(NM_USAGE, "(?< without >");
        r->at = (size_t)(end - r->text) + 1;
    } else if (c == '=' || c == '!' || c == '<') {
        return nm_fail(NM_USAGE, "(?%c%s...) (look%s) cannot be expressed in a grammar", c, c != '<' ? "" : d == '=' ? "=" : "!", c == '<' ? "behind" : "ahead");
    } else {
        return nm_fail(NM_USAGE, "(?%c is not known", c ? c : ' ');
    }
    return NM_OK;
}

static nm_err read_group(reader *r, piece *out)
{
    if (++r->depth > PATTERN_DEPTH) return nm_fail(NM_USAGE, "groups are nested deeper than %d", PATTERN_DEPTH);
    NM_TRY(group_opening(r));
    NM_TRY(read_choice(r, out));
    if (peek(r, 0) != ')') return nm_fail(NM_USAGE, "( without )");
    r->at++;
    r->depth--;
    return NM_OK;
}

static nm_err read_atom(reader *r, piece *out)
{
    nm_spans set = {0};
    uint32_t code = NONE;
    char c = peek(r, 0);
    NM_TRY(nm_schema_work(r->s, 1));
    if (c == '*' || c == '+' || c == '?' || c == '{') return nm_fail(NM_USAGE, "nothing to repeat before '%c' at byte %zu", c, r->at);
    if (strchr("([^$.\\", c) && c) r->at++;
    if (c == '(') return read_group(r, out);
    if (c == '[') return read_class(r, out);
    if (c == '^') return step_piece(r, WAY_START, set, out);
    if (c == '$') return step_piece(r, WAY_END, set, out);
    if (c == '.') NM_TRY(any_but_lines(r, &set));
    else if (c == '\\') NM_TRY(read_escape(r, false, &set, &code));
    else NM_TRY(read_character(r, &code));
    if (code != NONE) NM_TRY(nm_spans_add(r->s, &set, code, code));
    nm_spans_tidy(&set);
    return step_piece(r, WAY_SET, set, out);
}

static bool read_count(reader *r, int *count)
{
    size_t start = r->at;
    for (*count = 0; peek(r, 0) >= '0' && peek(r, 0) <= '9'; r->at++)
        if (*count < 1000000) *count = *count * 10 + (peek(r, 0) - '0');
    return r->at > start;
}

/* {least}, {least,}, {least,most}. */
static nm_err read_braces(reader *r, int *least, int *most)
{
    bool good = false;
    r->at++;
    if (read_count(r, least)) {
        good = true;
        *most = *least;
        if (peek(r, 0) == ',') {
            r->at++;
            if (!read_count(r, most)) *most = UNBOUNDED;
        }
    }
    if (!good || peek(r, 0) != '}') return nm_fail(NM_USAGE, "{ without a count and } at byte %zu: write \\{ for the character", r->at);
    r->at++;
    if (*most < *least) return nm_fail(NM_USAGE, "{%d,%d} is out of order", *least, *most);
    if (*least > PATTERN_REPEATS || (*most != UNBOUNDED && *most > PATTERN_REPEATS)) return nm_fail(NM_USAGE, "a repetition of more than %d", PATTERN_REPEATS);
    return NM_OK;
}

static nm_err read_quantifier(reader *r, int *least, int *most)
{
    char c = peek(r, 0);
    *least = *most = 1;
    if (c == '{') {
        NM_TRY(read_braces(r, least, most));
    } else if (c && strchr("*+?", c)) {
        *least = c == '+';
        *most = c == '?' ? 1 : UNBOUNDED;
        r->at++;
    } else {
        return NM_OK;
    }
    if (peek(r, 0) == '?') r->at++;     /* lazy */
    return NM_OK;
}

/* Appends one more copy of the atom: needed, one that may be left out by way of `end`, or (last) one that may come again. */
static nm_err add_copy(reader *r, piece *all, piece copy, bool needed, bool again, uint32_t end)
{
    uint32_t fork;
    if (again) {
        NM_TRY(add_place(r, WAY_FREE, copy.first, NONE, &fork));
        join(r, copy.last, fork);
        join(r, all->last, needed ? copy.first : fork);
        all->last = fork;
        return NM_OK;
    }
    if (needed) {
        join(r, all->last, copy.first);
    } else {
        NM_TRY(add_place(r, WAY_FREE, copy.first, end, &fork));
        join(r, all->last, fork);
    }
    all->last = copy.last;
    return NM_OK;
}

static nm_err read_term(reader *r, piece *out)
{
    size_t start = r->at, after;
    piece copy;
    int least, most;
    uint32_t end;
    NM_TRY(read_atom(r, &copy));
    NM_TRY(read_quantifier(r, &least, &most));
    if (least == 1 && most == 1) {
        *out = copy;
        return NM_OK;
    }
    after = r->at;
    NM_TRY(empty_piece(r, out));
    NM_TRY(add_place(r, WAY_FREE, NONE, NONE, &end));
    int copies = most != UNBOUNDED ? most : least ? least : 1;
    for (int i = 0; i < copies; i++) {
        r->at = start;
        if (i) NM_TRY(read_atom(r, &copy));
        NM_TRY(add_copy(r, out, copy, i < least, most == UNBOUNDED && i == copies - 1, end));
    }
    join(r, out->last, end);
    out->last = end;
    r->at = after;
    return NM_OK;
}

static nm_err read_sequence(reader *r, piece *out)
{
    NM_TRY(empty_piece(r, out));
    while (r->at < r->length && peek(r, 0) != '|' && peek(r, 0) != ')') {
        piece next;
        NM_TRY(read_term(r, &next));
        join(r, out->last, next.first);
        out->last = next.last;
    }
    return NM_OK;
}

static nm_err read_choice(reader *r, piece *out)
{
    NM_TRY(read_sequence(r, out));
    while (peek(r, 0) == '|') {
        piece other;
        uint32_t end;
        r->at++;
        NM_TRY(read_sequence(r, &other));
        NM_TRY(add_place(r, WAY_FREE, out->first, other.first, &out->first));
        NM_TRY(add_place(r, WAY_FREE, NONE, NONE, &end));
        join(r, out->last, end);
        join(r, other.last, end);
        out->last = end;
    }
    return NM_OK;
}

/* ---- Making it deterministic -------------------------------------------------------------------------------------------------------- */

typedef struct subset { nm_schema *s; const net *net; uint32_t *stamps, stamp, *stack, *found; size_t n_found; nm_spans cuts; } subset;

/* All places that read a character or accept, and are reached from `from` without reading; "^" and "$" are open as told. */
static nm_err close_over(subset *c, const uint32_t *from, size_t n, bool start, bool end)
{
    size_t depth = 0;
    c->stamp++;
    c->n_found = 0;
    for (size_t i = 0; i < n; i++)
        if (c->stamps[from[i]] != c->stamp) c->stamps[c->stack[depth++] = from[i]] = c->stamp;
    while (depth) {
        uint32_t at = c->stack[--depth];
        const place *p = &c->net->places[at];
        bool open = p->kind == WAY_FREE || (p->kind == WAY_START && start) || (p->kind == WAY_END && end);
        NM_TRY(nm_schema_work(c->s, 1));
        if (!open && !(p->kind == WAY_START && !start)) c->found[c->n_found++] = at;
        for (int i = 0; open && i < 2; i++)
            if (p->next[i] != NONE && c->stamps[p->next[i]] != c->stamp) c->stamps[c->stack[depth++] = p->next[i]] = c->stamp;
    }
    return NM_OK;
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* Places where the sets of these begin, and the first behind where they end: between two cuts all characters are alike. */
static nm_err find_cuts(subset *c, const uint32_t *at, size_t n)
{
    c->cuts.count = 0;
    for (size_t i = 0; i < n; i++) {
        const nm_spans *set = &c->net->places[at[i]].set;
        NM_TRY(nm_schema_work(c->s, set->count));
        for (size_t j = 0; j < set->count; j++) {
            NM_TRY(nm_spans_add(c->s, &c->cuts, set->items[j].low, 0));
            NM_TRY(nm_spans_add(c->s, &c->cuts, set->items[j].high + 1, 0));
        }
    }
    if (c->cuts.count) qsort(c->cuts.items, c->cuts.count, sizeof *c->cuts.items, by_number);
    return NM_OK;
}

static bool holds(const nm_spans *set, uint32_t code)
{
    size_t from = 0, to = set->count;
    while (from < to) {     /* the first span that ends at the code or behind it */
        size_t middle = from + (to - from) / 2;
        if (set->items[middle].high < code) from = middle + 1;
        else to = middle;
    }
    return from < set->count && set->items[from].low <= code;
}

/* A key: the places, sorted, as close_over found them with both anchors shut, behind a word that is 1 for the beginning. */
static nm_err expand_subset(void *arg, nm_explorer *e, const void *key, size_t length, bool *accepts)
{
    subset *c = arg;
    const uint32_t *at = (const uint32_t *)key + 1;
    size_t n = length / sizeof *at - 1;
    uint32_t *next;
    NM_TRY(close_over(c, at, n, ((const uint32_t *)key)[0], true));
    for (size_t i = 0; i < c->n_found; i++) *accepts |= c->net->places[c->found[i]].kind == WAY_ACCEPT;
    NM_TRY(find_cuts(c, at, n));
    NM_TRY(NM_TAKE(c->s, next, n + 1));
    for (size_t i = 0; i + 1 < c->cuts.count; i++) {
        uint32_t low = c->cuts.items[i].low, high = c->cuts.items[i + 1].low - 1;
        size_t m = 0;
        if (i + 1 < c->cuts.count && c->cuts.items[i + 1].low == low) continue;
        NM_TRY(nm_schema_work(c->s, 1 + n / 4));
        for (size_t j = 0; j < n; j++)
            if (holds(&c->net->places[at[j]].set, low)) next[m++] = c->net->places[at[j]].next[0];
        if (!m) continue;
        NM_TRY(close_over(c, next, m, false, false));
        qsort(c->found, c->n_found, sizeof *c->found, by_number);
        memmove(c->found + 1, c->found, c->n_found * sizeof *c->found);
        c->found[0] = 0;
        NM_TRY(nm_explorer_edge(e, low, high, c->found, (c->n_found + 1) * sizeof *c->found));
    }
    return NM_OK;
}

static nm_err determine(nm_schema *s, nm_dfa *out, const net *of, uint32_t first)
{
    subset c = {.s = s, .net = of};
    NM_TRY(NM_TAKE(s, c.stamps, of->count));
    NM_TRY(NM_TAKE(s, c.stack, of->count));
    NM_TRY(NM_TAKE(s, c.found, of->count + 1));
    NM_TRY(close_over(&c, &first, 1, true, false));
    qsort(c.found, c.n_found, sizeof *c.found, by_number);
    memmove(c.found + 1, c.found, c.n_found * sizeof *c.found);
    c.found[0] = 1;
    return nm_dfa_explore(s, out, c.found, (c.n_found + 1) * sizeof *c.found, expand_subset, &c);
}

/* A loop over any characters: what may stand around an unanchored match. */
static nm_err anything(reader *r, piece *out)
{
    nm_spans all = {0};
    uint32_t step;
    NM_TRY(nm_spans_add(r->s, &all, 0, NM_CODE_MOST));
    NM_TRY(empty_piece(r, out));
    NM_TRY(add_place(r, WAY_SET, out->first, NONE, &step));
    r->net.places[step].set = all;
    join(r, out->first, step);
    return NM_OK;
}

nm_err nm_pattern_dfa(nm_schema *s, nm_dfa *out, const char *pattern, size_t length)
{
    reader r = {.s = s, .text = pattern, .length = length};
    piece before, match, after;
    uint32_t accept;
    NM_TRY(anything(&r, &before));
    NM_TRY(read_choice(&r, &match));
    if (r.at < length) return nm_fail(NM_USAGE, ") without ( at byte %zu", r.at);
    NM_TRY(anything(&r, &after));
    NM_TRY(add_place(&r, WAY_ACCEPT, NONE, NONE, &accept));
    join(&r, before.last, match.first);
    join(&r, match.last, after.first);
    join(&r, after.last, accept);
    return determine(s, out, &r.net, before.first);
}

nm_err nm_names_dfa(nm_schema *s, nm_dfa *out, const char *const *names, size_t count)
{
    reader r = {.s = s};
    uint32_t first = NONE, accept;
    NM_TRY(add_place(&r, WAY_ACCEPT, NONE, NONE, &accept));
    for (size_t i = 0; i < count; i++) {
        piece all, next;
        r.text = names[i];
        r.length = strlen(names[i]);
        NM_TRY(empty_piece(&r, &all));
        for (r.at = 0; r.at < r.length;) {
            nm_spans set = {0};
            uint32_t code = 0;
            NM_TRY(read_character(&r, &code));
            NM_TRY(nm_spans_add(s, &set, code, code));
            NM_TRY(step_piece(&r, WAY_SET, set, &next));
            join(&r, all.last, next.first);
            all.last = next.last;
        }
        join(&r, all.last, accept);
        NM_TRY(add_place(&r, WAY_FREE, all.first, first, &first));
    }
    *out = (nm_dfa){0};
    return count ? determine(s, out, &r.net, first) : NM_OK;
}
