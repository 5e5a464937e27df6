/* Hand-written scanners. Sets of characters are bit sets over general categories (text/unicode.h). */
#include "text/pretokenize_scan.h"

#include <string.h>

#include "text/unicode.h"

/* One character: its set of bits, or AT_END alone behind the last. */
#define AT_END (1u << 31)
typedef struct ch { uint32_t set; int32_t code; size_t next; } ch;

static inline ch char_at(const char *s, size_t at, size_t end)
{
    if (at >= end) return (ch){AT_END, -2, at};
    unsigned char b = (unsigned char)s[at];
    if (b < 0x80) return (ch){nm_unicode_set(b), b, at + 1};
    int used;
    int32_t code = nm_utf8_decode(s + at, end - at, &used);
    return (ch){nm_unicode_set(code), code, at + (size_t)used};
}

static size_t run_of(const char *s, size_t at, size_t end, uint32_t set)
{
    for (ch c = char_at(s, at, end); c.set & set; c = char_at(s, at, end)) at = c.next;
    return at;
}

static size_t run_not(const char *s, size_t at, size_t end, uint32_t set)
{
    for (ch c = char_at(s, at, end); !(c.set & (set | AT_END)); c = char_at(s, at, end)) at = c.next;
    return at;
}

static size_t run_at_most(const char *s, size_t at, size_t end, uint32_t set, unsigned most)
{
    for (ch c = char_at(s, at, end); c.set & set && most; c = char_at(s, at, end), most--) at = c.next;
    return at;
}

static bool is_break(int32_t code) { return code == '\r' || code == '\n'; }

static nm_span span(size_t start, size_t end) { return (nm_span){start, end}; }
static nm_span no_match(size_t next) { return (nm_span){next, next}; }

/* 's|'t|'re|'ve|'m|'ll|'d ; any_case: (?i:...), where U+017F folds to s. Returns its end, or at. */
static size_t contraction(const char *s, size_t at, size_t end, bool any_case)
{
    if (at >= end || s[at] != '\'') return at;
    int32_t letter[2] = {0, 0};
    ch c = char_at(s, at + 1, end);
    size_t after[2] = {c.next, c.next};
    for (int i = 0; i < 2 && !(c.set & AT_END); i++) {
        letter[i] = c.code;
        if (any_case && c.code >= 'A' && c.code <= 'Z') letter[i] += 'a' - 'A';
        if (any_case && c.code == 0x17f) letter[i] = 's';
        after[i] = c.next;
        c = char_at(s, c.next, end);
    }
    if (letter[0] == 's' || letter[0] == 't' || letter[0] == 'm' || letter[0] == 'd') return after[0];
    if ((letter[0] == 'r' || letter[0] == 'v') && letter[1] == 'e') return after[1];
    return letter[0] == 'l' && letter[1] == 'l' ? after[1] : at;
}

/* \s+(?!\S)|\s+ at white space: all of it, but the last character goes to the word that follows. */
static size_t spaces(const char *s, size_t at, size_t end)
{
    size_t last = at, p = at;
    for (ch c = char_at(s, p, end); c.set & NM_U_SPACE; c = char_at(s, p, end)) {
        last = p;
        p = c.next;
    }
    return p == end || last == at ? p : last;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ at white space: up to the last line break in it, if there is one. */
static size_t breaks_or_spaces(const char *s, size_t at, size_t end)
{
    size_t after_break = at;
    for (size_t p = at;;) {
        ch c = char_at(s, p, end);
        if (!(c.set & NM_U_SPACE)) break;
        p = c.next;
        if (is_break(c.code)) after_break = p;
    }
    return after_break > at ? after_break : spaces(s, at, end);
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
nm_span nm_scan_gpt2(const char *s, size_t at, size_t end, const void *spec)
{
    (void)spec;
    size_t to = contraction(s, at, end, false);
    if (to > at) return span(at, to);
    size_t p = s[at] == ' ' ? at + 1 : at;
    ch c = char_at(s, p, end);
    if (c.set & NM_U_LETTER) return span(at, run_of(s, p, end, NM_U_LETTER));
    if (c.set & NM_U_NUMBER) return span(at, run_of(s, p, end, NM_U_NUMBER));
    if (!(c.set & (NM_U_SPACE | AT_END))) return span(at, run_not(s, p, end, NM_U_SPACE | NM_U_LETTER | NM_U_NUMBER));
    return span(at, spaces(s, at, end));
}

/* " ?[^\s\p{N}X]+[tail]*" : returns its end, or at. X: the spec's letters. */
static size_t symbols(const nm_words_spec *how, const char *s, size_t at, size_t end)
{
    uint32_t not = NM_U_SPACE | NM_U_NUMBER | how->letters;
    size_t p = at < end && s[at] == ' ' ? at + 1 : at;
    size_t to = run_not(s, p, end, not);
    if (to == p) return at;
    while (to < end && s[to] && strchr(how->tail, s[to])) {
        to++;
        if (how->tail_once) break;
    }
    return to;
}

/* X+ ; joined: (?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+ . Returns its end, or at. */
static size_t word(const nm_words_spec *how, const char *s, size_t at, size_t end)
{
    if (!how->joined) return run_of(s, at, end, how->letters);
    size_t p = at;
    while (char_at(s, p, end).set & NM_U_LETTER) {
        p = run_of(s, char_at(s, p, end).next, end, NM_U_MARK);
        if (p < end && s[p] == ' ' && char_at(s, p + 1, end).set & NM_U_LETTER) p++;
    }
    return p;
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?X+|\p{N}{1,digits}| ?[^\s\p{N}X]+[tail]*|\s*[\r\n]+|\s+(?!\S)|\s+
 * X is \p{L} (Llama 3, Qwen 2) or [\p{L}\p{M}] (Qwen 3.5). */
nm_span nm_scan_cl100k(const char *s, size_t at, size_t end, const void *spec)
{
    const nm_words_spec *how = spec;
    size_t to = contraction(s, at, end, true);
    if (to > at) return span(at, to);
    ch c = char_at(s, at, end);
    if (!(c.set & (NM_U_LETTER | NM_U_NUMBER)) && !is_break(c.code)) {
        to = word(how, s, c.next, end);
        if (to > c.next) return span(at, to);
    }
    to = word(how, s, at, end);
    if (to > at) return span(at, to);
    if (c.set & NM_U_NUMBER) return span(at, run_at_most(s, at, end, NM_U_NUMBER, how->digits));
    to = symbols(how, s, at, end);
    if (to > at) return span(at, to);
    if (c.set & NM_U_SPACE) return span(at, breaks_or_spaces(s, at, end));
    return no_match(c.next);
}

/* A class of o200k's words: without Han characters where those stand alone. */
static bool in_case(const nm_words_spec *how, const ch *c, uint32_t set)
{
    return c->set & set && !(how->han && nm_unicode_kind(c->code) & NM_KIND_HAN);
}

/* U*W+ (need_lower) or U+W*, where U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] and W = [\p{Ll}\p{Lm}\p{Lo}\p{M}]. U* is greedy and gives back
 * until W+ has something: up to the last character that is in both. Returns its end, or at. */
static size_t cased_word(const nm_words_spec *how, const char *s, size_t at, size_t end, bool need_lower)
{
    const uint32_t both = NM_U_LM | NM_U_LO | NM_U_MARK, upper = both | NM_U_LU | NM_U_LT, lower = both | NM_U_LL;
    size_t p = at, after_both = at;
    ch c = char_at(s, p, end);
    for (; in_case(how, &c, upper); c = char_at(s, p, end)) {
        p = c.next;
        if (c.set & both) after_both = p;
    }
    size_t q = p;
    for (; in_case(how, &c, lower); c = char_at(s, q, end)) q = c.next;
    if (need_lower) return q > p ? q : after_both;
    return p > at ? q : at;
}

/* [^\r\n\p{L}\p{N}]?U*W+ or [^\r\n\p{L}\p{N}]?U+W* at c; first with the character before the word, then without. */
static size_t prefixed_word(const nm_words_spec *how, const char *s, size_t at, size_t end, bool need_lower)
{
    ch c = char_at(s, at, end);
    if (!(c.set & (NM_U_LETTER | NM_U_NUMBER | AT_END)) && !is_break(c.code)) {
        size_t to = cased_word(how, s, c.next, end, need_lower);
        if (to > c.next) return to;
    }
    return cased_word(how, s, at, end, need_lower);
}

/* [^\r\n\p{L}\p{N}]?U*W+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?U+W*(?i:...)?|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[tail]*
 * |\s*[\r\n]+|\s+(?!\S)|\s+   and for Kimi before all that [\p{Han}]+, which U and W then leave out. */
nm_span nm_scan_o200k(const char *s, size_t at, size_t end, const void *spec)
{
    const nm_words_spec *how = spec;
    ch c = char_at(s, at, end);
    size_t to = at;
    if (how->han) {
        for (ch h = c; !(h.set & AT_END) && nm_unicode_kind(h.code) & NM_KIND_HAN; h = char_at(s, to, end)) to = h.next;
        if (to > at) return span(at, to);
    }
    to = prefixed_word(how, s, at, end, true);
    if (to == at) to = prefixed_word(how, s, at, end, false);
    if (to > at) return span(at, how->no_suffix ? to : contraction(s, to, end, true));
    if (c.set & NM_U_NUMBER) return span(at, run_at_most(s, at, end, NM_U_NUMBER, how->digits));
    to = symbols(how, s, at, end);
    if (to > at) return span(at, to);
    if (c.set & NM_U_SPACE) return span(at, breaks_or_spaces(s, at, end));
    return no_match(c.next);
}

static bool is_ascii_letter(char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }
static bool is_ascii_punct(char c)
{
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

/* [ASCII punctuation][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
nm_span nm_scan_deepseek3(const char *s, size_t at, size_t end, const void *spec)
{
    (void)spec;
    const uint32_t letters = NM_U_LETTER | NM_U_MARK, signs = NM_U_PUNCT | NM_U_SYMBOL;
    size_t to = at + 1;
    if (is_ascii_punct(s[at])) {
        while (to < end && is_ascii_letter(s[to])) to++;
        if (to > at + 1) return span(at, to);
    }
    ch c = char_at(s, at, end);
    if (!(c.set & (NM_U_LETTER | signs)) && !is_break(c.code)) {
        to = run_of(s, c.next, end, letters);
        if (to > c.next) return span(at, to);
    }
    if (c.set & letters) return span(at, run_of(s, at, end, letters));
    size_t p = s[at] == ' ' ? at + 1 : at;
    to = run_of(s, p, end, signs);
    if (to > p) {
        while (to < end && is_break(s[to])) to++;
        return span(at, to);
    }
    if (c.set & NM_U_SPACE) return span(at, breaks_or_spaces(s, at, end));
    return no_match(c.next);
}

static bool in_set(const nm_set_spec *set, const ch *c)
{
    if (c->set & AT_END) return false;
    if (c->set & set->set || nm_unicode_kind(c->code) & set->kind) return true;
    size_t lo = 0, hi = set->n_ranges;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (c->code < (int32_t)set->ranges[mid][0]) hi = mid;
        else if (c->code > (int32_t)set->ranges[mid][1]) lo = mid + 1;
        else return true;
    }
    return false;
}

/* X+, X{1,most} or \s?X+ */
nm_span nm_scan_set(const char *s, size_t at, size_t end, const void *spec)
{
    const nm_set_spec *set = spec;
    ch c = char_at(s, at, end), first = c;
    size_t p = at;
    if (set->space_before && c.set & NM_U_SPACE) {
        c = char_at(s, c.next, end);
        if (in_set(set, &c)) p = first.next;
        else c = first;
    }
    size_t from = p;
    for (uint32_t n = 0; in_set(set, &c) && (!set->most || n < set->most); n++) {
        p = c.next;
        c = char_at(s, p, end);
    }
    return p > from ? span(at, p) : no_match(first.next);
}

nm_span nm_scan_final_space(const char *s, size_t at, size_t end, const void *spec)
{
    (void)spec;
    size_t to = run_of(s, at, end, NM_U_SPACE);
    if (to > at && to == end) return span(at, to);
    return no_match(to > at ? to : char_at(s, at, end).next);
}

/* " ?[^(\s|.,!?...)]+" with U+2026, U+3002, U+FF0C, U+3001, U+0964, U+06D4 and U+060C among the excluded. */
static bool bloom_excluded(const ch *c)
{
    if (c->set & (NM_U_SPACE | AT_END)) return true;
    if (c->code > 0 && c->code < 0x80) return strchr("(|.,!?)", c->code) != NULL;
    return c->code == 0x2026 || c->code == 0x3002 || c->code == 0xff0c || c->code == 0x3001 || c->code == 0x964 || c->code == 0x6d4 || c->code == 0x60c;
}

nm_span nm_scan_bloom(const char *s, size_t at, size_t end, const void *spec)
{
    (void)spec;
    size_t p = s[at] == ' ' ? at + 1 : at, to = p;
    for (ch c = char_at(s, to, end); !bloom_excluded(&c); c = char_at(s, to, end)) to = c.next;
    return to > p ? span(at, to) : no_match(char_at(s, at, end).next);
}

/* True in the middle of a run of digits; a piece never begins there. */
static bool after_digit(const char *s, size_t at)
{
    size_t p = at;
    while (p && at - p < 4 && (s[--p] & 0xc0) == 0x80) {}
    return at && char_at(s, p, at).set & NM_U_ND && char_at(s, p, at).next == at;
}

/* What Oniguruma's \b takes for part of a word: \w, circled letters, and the superscripts and fractions of Latin-1 alone. */
static bool is_word(const ch *c)
{
    if (c->set & (NM_U_LETTER | NM_U_MARK | NM_U_ND | NM_U_NL | NM_U_PC)) return true;
    if (c->set & NM_U_NO) return c->code < 0x100;
    return (c->code >= 0x24b6 && c->code <= 0x24e9) || (c->code >= 0x1f130 && c->code <= 0x1f149) ||
           (c->code >= 0x1f150 && c->code <= 0x1f169) || (c->code >= 0x1f170 && c->code <= 0x1f189);
}

/* \d{1,3}(?=(?:\d{3})*\b) : the first group takes what is left over, so the rest of a run needs no second look. */
nm_span nm_scan_thousands(const char *s, size_t at, size_t end, const void *spec)
{
    (void)spec;
    size_t to = run_at_most(s, at, end, NM_U_ND, 3);
    if (to == at) return no_match(char_at(s, at, end).next);
    if (after_digit(s, at)) return span(at, to);
    unsigned n = 0;
    size_t p = at;
    for (ch c = char_at(s, p, end); c.set & NM_U_ND; c = char_at(s, p, end), n = (n + 1) % 3) p = c.next;
    ch after = char_at(s, p, end);
    return is_word(&after) ? no_match(p) : span(at, run_at_most(s, at, end, NM_U_ND, n ? n : 3));
}

nm_span nm_scan_three_digits(const char *s, size_t at, size_t end, const void *spec)
{
    (void)spec;
    size_t p = at;
    while (p < end && p < at + 3 && s[p] >= '0' && s[p] <= '9') p++;
    return p == at + 3 ? span(at, p) : no_match(p > at ? p : at + 1);
}

/* Falcon splits digits after its bytes have become the printable alphabet of GPT-2, where six bytes beside 0-9 look like
 * numerals: superscripts and fractions of Latin-1. So it cuts inside characters, and no merge of its vocabulary crosses there. */
static bool is_mapped_digit(unsigned char b)
{
    return (b >= '0' && b <= '9') || b == 0xb2 || b == 0xb3 || b == 0xb9 || b == 0xbc || b == 0xbd || b == 0xbe;
}

nm_span nm_scan_mapped_digits(const char *s, size_t at, size_t end, const void *spec)
{
    (void)spec;
    size_t p = at;
    while (p < end && is_mapped_digit((unsigned char)s[p])) p++;
    return p > at ? span(at, p) : no_match(at + 1);
}
