/* Source to tokens, with jinja2's white space rules: trim_blocks (the newline behind a block tag or comment goes), lstrip_blocks
 * (blanks before one on its own line go), - and + on either side. Refuses invalid UTF-8. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/template.h"
#include "text/template_chars.h"

enum { NESTED_BRACKETS = 512 };

typedef struct lexer {
    nm_parser *p;
    const char *s;              /* newlines are \n */
    size_t n, at;
    uint32_t line;
    bool line_starting;         /* the last thing read ended in a newline */
    char closing[NESTED_BRACKETS];
    size_t open;
} lexer;

static bool space_at(const lexer *x, size_t at, size_t *width)
{
    if (at >= x->n) return false;
    *width = nm_utf8_width(x->s[at]);
    return nm_char_is(nm_utf8_at(x->s + at), NM_CHAR_SPACE);
}

static size_t skip_space(const lexer *x, size_t at)
{
    size_t width;
    while (space_at(x, at, &width)) at += width;
    return at;
}

static bool looking_at(const lexer *x, size_t at, const char *text)
{
    size_t n = strlen(text);
    return at <= x->n && n <= x->n - at && !memcmp(x->s + at, text, n);
}

static void advance(lexer *x, size_t to)
{
    for (size_t i = x->at; i < to; i++) x->line += x->s[i] == '\n';
    if (to > x->at) x->line_starting = x->s[to - 1] == '\n';
    x->at = to;
}

static nm_err add_token(lexer *x, nm_token token)
{
    nm_tokens *t = &x->p->tokens;
    if (!token.line) token.line = x->line;
    if ((x->p->err = NM_GROW(t->items, t->capacity, t->n + 1)) != NM_OK) return x->p->err;
    t->items[t->n++] = token;
    return NM_OK;
}

/* Length of the closing tag at `at`, with what it swallows behind itself; 0 if there is none. */
static size_t closing_tag(const lexer *x, size_t at, const char *end, bool trims)
{
    size_t mark = at < x->n && (x->s[at] == '-' || (x->s[at] == '+' && trims));
    if (!looking_at(x, at + mark, end)) return 0;
    size_t to = at + mark + 2;
    if (mark && x->s[at] == '-') to = skip_space(x, to);
    else if (!mark && trims && looking_at(x, to, "\n")) to++;
    return to - at;
}

/* ---- Text outside tags ---------------------------------------------------------------------------------------------------- */

static nm_err add_data(lexer *x, size_t from, size_t to)
{
    if (from == to) return NM_OK;
    return add_token(x, (nm_token){.kind = NM_TOK_DATA, .s = x->s + from, .n = to - from});
}

/* Where the text before a tag ends once the tag's sign and lstrip_blocks have had their way. */
static size_t strip_before(const lexer *x, size_t from, size_t to, char sign, bool lstrips)
{
    size_t at = to, width;
    while (at > from) {
        size_t before = nm_utf8_back(x->s, at);
        if (!space_at(x, before, &width) || (sign != '-' && x->s[before] == '\n')) break;
        at = before;
    }
    if (sign == '-') return at;
    if (sign == '+' || !lstrips) return to;
    return at > from ? (x->s[at - 1] == '\n' ? at : to) : x->line_starting ? at : to;
}

/* {% raw %} at `at`: the end of its opening tag, or 0. */
static size_t raw_begin(const lexer *x, size_t at)
{
    if (!looking_at(x, at, "{%")) return 0;
    size_t i = at + 2;
    if (i < x->n && (x->s[i] == '-' || x->s[i] == '+')) i++;
    i = skip_space(x, i);
    if (!looking_at(x, i, "raw")) return 0;
    i = skip_space(x, i + 3);
    if (looking_at(x, i, "-%}")) return skip_space(x, i + 3);
    return looking_at(x, i, "%}") ? i + 2 : 0;
}

/* {% endraw %} at `at`: the end of the tag, or 0. */
static size_t raw_end(const lexer *x, size_t at)
{
    if (!looking_at(x, at, "{%")) return 0;
    size_t i = at + 2;
    if (i < x->n && (x->s[i] == '-' || x->s[i] == '+')) i++;
    i = skip_space(x, i);
    if (!looking_at(x, i, "endraw")) return 0;
    i = skip_space(x, i + 6);
    size_t length = closing_tag(x, i, "%}", true);
    return length ? i + length : 0;
}

static char sign_at(const lexer *x, size_t at) { return at < x->n && (x->s[at] == '-' || x->s[at] == '+') ? x->s[at] : 0; }

static nm_err lex_raw(lexer *x, size_t begin_end)
{
    advance(x, begin_end);
    for (size_t i = x->at; i < x->n; i++) {
        size_t end = x->s[i] == '{' ? raw_end(x, i) : 0;
        if (!end) continue;
        NM_TRY(add_data(x, x->at, strip_before(x, x->at, i, sign_at(x, i + 2), true)));
        advance(x, end);
        return NM_OK;
    }
    return nm_parse_fail(x->p, x->line, "missing end of raw directive: write {%% endraw %%}");
}

static nm_err lex_comment(lexer *x, size_t begin_end)
{
    advance(x, begin_end);
    for (size_t i = x->at; i < x->n; i++) {
        if (x->s[i] != '#' && x->s[i] != '-' && x->s[i] != '+') continue;
        size_t length = closing_tag(x, i, "#}", true);
        if (!length) continue;
        advance(x, i + length);
        return NM_OK;
    }
    return nm_parse_fail(x->p, x->line, "missing end of comment tag: write #}");
}

/* ---- Inside tags ----------------------------------------------------------------------------------------------------------- */

static bool digit_at(const lexer *x, size_t at, int base)
{
    if (at >= x->n) return false;
    unsigned char c = (unsigned char)x->s[at];
    int value = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : 99;
    return value < base;
}

/* digits with single underscores between them; returns the end */
static size_t digits_end(const lexer *x, size_t at, int base)
{
    if (!digit_at(x, at, base)) return at;
    for (;;) {
        if (digit_at(x, at + 1, base)) at++;
        else if (at + 1 < x->n && x->s[at + 1] == '_' && digit_at(x, at + 2, base)) at += 2;
        else return at + 1;
    }
}

/* End of a float at x->at, or 0. */
static size_t float_end(const lexer *x)
{
    size_t whole = digits_end(x, x->at, 10), end = whole;
    bool fraction = false;
    if (whole == x->at || (x->at && x->s[x->at - 1] == '.')) return 0;
    if (looking_at(x, whole, ".") && digit_at(x, whole + 1, 10)) {
        end = digits_end(x, whole + 1, 10);
        fraction = true;
    }
    if (end < x->n && (x->s[end] == 'e' || x->s[end] == 'E')) {
        size_t i = end + 1 + (end + 1 < x->n && (x->s[end + 1] == '+' || x->s[end + 1] == '-'));
        if (digit_at(x, i, 10)) return digits_end(x, i, 10);
    }
    return fraction ? end : 0;
}

static nm_err lex_float(lexer *x, size_t end)
{
    bool ok;
    double f = nm_parse_double(x->s + x->at, end - x->at, &ok);
    if (!ok) return nm_parse_fail(x->p, x->line, "bad number");
    NM_TRY(add_token(x, (nm_token){.kind = NM_TOK_FLOAT, .f = f}));
    advance(x, end);
    return NM_OK;
}

static nm_err lex_int(lexer *x)
{
    static const struct { char letter; int base; } bases[] = {{'b', 2}, {'o', 8}, {'x', 16}};
    size_t from = x->at, end;
    int base = 10;
    if (x->s[from] == '0' && from + 1 < x->n)
        for (int i = 0; i < 3; i++) {
            size_t first = from + 2 + (from + 2 < x->n && x->s[from + 2] == '_');
            if ((x->s[from + 1] | 32) != bases[i].letter || !digit_at(x, first, bases[i].base)) continue;
            base = bases[i].base;
            from = first;
        }
    end = digits_end(x, from, base);
    if (base == 10 && x->s[from] == '0') end = digits_end(x, from, 1);      /* 007 reads as 0, then 7 */
    int64_t value = 0;
    for (size_t i = from; i < end; i++) {
        if (x->s[i] == '_') continue;
        int digit = x->s[i] <= '9' ? x->s[i] - '0' : (x->s[i] | 32) - 'a' + 10;
        if (__builtin_mul_overflow(value, base, &value) || __builtin_add_overflow(value, digit, &value))
            return nm_parse_fail(x->p, x->line, "an integer beyond 64 bits; use a smaller number");
    }
    NM_TRY(add_token(x, (nm_token){.kind = NM_TOK_INT, .i = value}));
    advance(x, end);
    return NM_OK;
}

static int hex_value(const char *s, size_t n, uint32_t *out)
{
    *out = 0;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        int v = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (v < 0) return -1;
        *out = *out << 4 | (uint32_t)v;
    }
    return 0;
}

/* The escape whose letter stands at s[0] (n > 0 bytes are left): writes it, returns the bytes read, 0 for a bad one. */
static size_t unescape(const char *s, size_t n, char *out, size_t *length)
{
    static const char letters[] = "abfnrtv\\'\"", values[] = "\a\b\f\n\r\t\v\\'\"";
    const char *simple = strchr(letters, s[0]);
    size_t digits = s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : s[0] == 'U' ? 8 : 0;
    uint32_t code = 0;
    *length = 0;
    if (s[0] == '\n') return 1;
    if (s[0] && simple) {
        out[(*length)++] = values[simple - letters];
        return 1;
    }
    if (digits) {
        if (n <= digits || hex_value(s + 1, digits, &code) || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return 0;
        *length = (size_t)nm_utf8_encode(code, out);
        return digits + 1;
    }
    if (s[0] == 'N') return 0;      /* names of characters */
    size_t i = 0;
    for (; i < 3 && i < n && s[i] >= '0' && s[i] <= '7'; i++) code = code * 8 + (uint32_t)(s[i] - '0');
    if (i) {
        *length = (size_t)nm_utf8_encode(code, out);
        return i;
    }
    out[(*length)++] = '\\';
    if ((unsigned char)s[0] >= 0x80) {      /* jinja2 has written it as \xE9 or \u1234 by now; the backslash before it is spent */
        int32_t c = nm_utf8_at(s);
        static const char hex[] = "0123456789abcdef";
        int places = c < 0x100 ? 2 : c < 0x10000 ? 4 : 8;
        out[(*length)++] = "xuU"[places == 2 ? 0 : places == 4 ? 1 : 2];
        for (int k = places - 1; k >= 0; k--) out[(*length)++] = hex[c >> (4 * k) & 15];
        return nm_utf8_width(s[0]);
    }
    out[(*length)++] = s[0];
    return 1;
}

static nm_err lex_string(lexer *x)
{
    char quote = x->s[x->at];
    size_t end = x->at + 1, n = 0;
    while (end < x->n && x->s[end] != quote) end += x->s[end] == '\\' ? 2 : 1;
    if (end >= x->n) return nm_parse_fail(x->p, x->line, "a string without its closing %c", quote);
    size_t most;    /* an escape grows to at most 11 bytes from 4 */
    if (nm_mul_overflow(end - x->at, 3, &most) || nm_add_overflow(most, 16, &most)) return x->p->err = nm_fail_memory(SIZE_MAX);
    char *text = nm_parse_alloc(x->p, most, 1);
    if (!text) return x->p->err;
    for (size_t i = x->at + 1; i < end;) {
        if (x->s[i] != '\\') {
            text[n++] = x->s[i++];
            continue;
        }
        size_t length, used = unescape(x->s + i + 1, end - i - 1, text + n, &length);
        if (!used) return nm_parse_fail(x->p, x->line, "a bad or unsupported escape in a string");
        n += length;
        i += 1 + used;
    }
    NM_TRY(add_token(x, (nm_token){.kind = NM_TOK_STRING, .s = text, .n = n}));
    advance(x, end + 1);
    return NM_OK;
}

static nm_err lex_name(lexer *x)
{
    size_t end = x->at, width;
    while (end < x->n && nm_char_is(nm_utf8_at(x->s + end), NM_CHAR_CONTINUE)) {
        width = nm_utf8_width(x->s[end]);
        end += width;
    }
    NM_TRY(add_token(x, (nm_token){.kind = NM_TOK_NAME, .s = x->s + x->at, .n = end - x->at}));
    advance(x, end);
    return NM_OK;
}

static nm_err balance(lexer *x, nm_token_kind kind)
{
    static const char closers[] = {[NM_TOK_LPAREN] = ')', [NM_TOK_LBRACKET] = ']', [NM_TOK_LBRACE] = '}'};
    char c = x->s[x->at];
    if (kind == NM_TOK_LPAREN || kind == NM_TOK_LBRACKET || kind == NM_TOK_LBRACE) {
        if (x->open == NESTED_BRACKETS) return nm_parse_fail(x->p, x->line, "brackets nested deeper than %d", NESTED_BRACKETS);
        x->closing[x->open++] = closers[kind];
    } else if (kind == NM_TOK_RPAREN || kind == NM_TOK_RBRACKET || kind == NM_TOK_RBRACE) {
        if (!x->open) return nm_parse_fail(x->p, x->line, "unexpected '%c'", c);
        if (x->closing[--x->open] != c) return nm_parse_fail(x->p, x->line, "unexpected '%c', expected '%c'", c, x->closing[x->open]);
    }
    return NM_OK;
}

static nm_err lex_operator(lexer *x)
{
    static const struct { char text[3]; nm_token_kind kind; } operators[] = {     /* the longer ones first */
        {"//", NM_TOK_FLOORDIV}, {"**", NM_TOK_POW}, {"==", NM_TOK_EQ}, {"!=", NM_TOK_NE}, {">=", NM_TOK_GE}, {"<=", NM_TOK_LE},
        {"+", NM_TOK_ADD}, {"-", NM_TOK_SUB}, {"*", NM_TOK_MUL}, {"/", NM_TOK_DIV}, {"%", NM_TOK_MOD}, {"~", NM_TOK_TILDE},
        {">", NM_TOK_GT}, {"<", NM_TOK_LT}, {"=", NM_TOK_ASSIGN}, {".", NM_TOK_DOT}, {",", NM_TOK_COMMA}, {":", NM_TOK_COLON},
        {";", NM_TOK_SEMICOLON}, {"|", NM_TOK_PIPE}, {"(", NM_TOK_LPAREN}, {")", NM_TOK_RPAREN}, {"[", NM_TOK_LBRACKET},
        {"]", NM_TOK_RBRACKET}, {"{", NM_TOK_LBRACE}, {"}", NM_TOK_RBRACE}
    };
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        if (!looking_at(x, x->at, operators[i].text)) continue;
        NM_TRY(balance(x, operators[i].kind));
        NM_TRY(add_token(x, (nm_token){.kind = operators[i].kind}));
        advance(x, x->at + strlen(operators[i].text));
        return NM_OK;
    }
    return nm_parse_fail(x->p, x->line, "unexpected character '%.*s'", (int)nm_utf8_width(x->s[x->at]), x->s + x->at);
}

static nm_err lex_inside(lexer *x)
{
    char c = x->s[x->at];
    size_t end;
    if (c >= '0' && c <= '9') return (end = float_end(x)) ? lex_float(x, end) : lex_int(x);
    if (c == '\'' || c == '"') return lex_string(x);
    if (nm_char_is(nm_utf8_at(x->s + x->at), NM_CHAR_START)) return lex_name(x);
    return lex_operator(x);
}

/* A tag's inside, from behind its opening to behind its closing. */
static nm_err lex_tag(lexer *x, bool block)
{
    x->open = 0;
    for (;;) {
        size_t length = x->open ? 0 : closing_tag(x, x->at, block ? "%}" : "}}", block);
        if (length) {
            NM_TRY(add_token(x, (nm_token){.kind = block ? NM_TOK_BLOCK_END : NM_TOK_VAR_END}));
            advance(x, x->at + length);
            return NM_OK;
        }
        size_t next = skip_space(x, x->at);
        if (next != x->at) {
            advance(x, next);
            continue;
        }
        if (x->at >= x->n) return nm_parse_fail(x->p, x->line, "unexpected end of template inside a tag");
        NM_TRY(lex_inside(x));
    }
}

/* ---- The whole -------------------------------------------------------------------------------------------------------------- */

static nm_err lex_from_tag(lexer *x, size_t tag)
{
    char mark = x->s[tag + 1];
    size_t raw = raw_begin(x, tag);
    char sign = sign_at(x, tag + 2);
    NM_TRY(add_data(x, x->at, strip_before(x, x->at, tag, sign, mark != '{')));
    advance(x, tag);
    if (raw) return lex_raw(x, raw);
    if (mark == '#') return lex_comment(x, tag + 2 + (sign != 0));
    NM_TRY(add_token(x, (nm_token){.kind = mark == '{' ? NM_TOK_VAR_BEGIN : NM_TOK_BLOCK_BEGIN}));
    advance(x, tag + 2 + (sign != 0));
    return lex_tag(x, mark == '%');
}

/* Copies the source with every line end as \n and without the last one; checks that it is UTF-8. */
static nm_err normalise(nm_parser *p, const char *source, size_t length, char **out, size_t *n)
{
    char *copy = nm_parse_alloc(p, length + 1, 1);
    uint32_t line = 1;
    if (!copy) return p->err;
    *n = 0;
    for (size_t i = 0; i < length;) {
        int used;
        if (nm_utf8_decode(source + i, length - i, &used) < 0) return nm_parse_fail(p, line, "invalid UTF-8 at byte %zu", i);
        if (source[i] == '\r') {
            copy[(*n)++] = '\n';
            if (i + 1 < length && source[i + 1] == '\n') i++;
        } else {
            memcpy(copy + *n, source + i, (size_t)used);
            *n += (size_t)used;
        }
        line += source[i] == '\n' || source[i] == '\r';
        i += (size_t)used;
    }
    if (*n && copy[*n - 1] == '\n') --*n;
    *out = copy;
    return NM_OK;
}

nm_err nm_template_lex(nm_parser *p, const char *source, size_t length)
{
    lexer x = {.p = p, .line = 1, .line_starting = true};
    char *copy = NULL;
    NM_TRY(normalise(p, source, length, &copy, &x.n));
    x.s = copy;
    for (size_t i = 0; i < x.n;) {
        if (x.s[i] == '{' && i + 1 < x.n && strchr("{%#", x.s[i + 1]) && x.s[i + 1]) {
            NM_TRY(lex_from_tag(&x, i));
            i = x.at;
        } else {
            i++;
        }
    }
    NM_TRY(add_data(&x, x.at, x.n));
    return add_token(&x, (nm_token){.kind = NM_TOK_EOF});
}
