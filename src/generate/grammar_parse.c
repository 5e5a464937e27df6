/* Owns the notation: from the text of a grammar to rules, choices and parts. Refuses what is not notation with line and column. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/str.h"
#include "generate/grammar_build.h"
#include "text/trie.h"

nm_err nm_grammar_fault(const nm_build *b, size_t at, const char *format, ...)
{
    char what[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(what, sizeof what, format, ap);
    va_end(ap);
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at && i < b->length; i++) {
        if (b->text[i] == '\n') { line++; column = 1; }
        else if (((unsigned char)b->text[i] & 0xc0) != 0x80) column++;
    }
    return nm_fail(NM_USAGE, "grammar, line %zu, column %zu: %s", line, column, what);
}

static nm_err unexpected(const nm_build *b)
{
    char here[NM_ESCAPE_MOST + 1] = {0};
    int used;
    nm_escape_char(here, b->text + b->at, b->length - b->at, true, &used);
    return nm_grammar_fault(b, b->at, "'%s' is not expected here: a rule is NAME ::= and then literals \"...\", classes [...], '.', names, groups (...), '|' and "
                                      "repetitions", here);
}

/* ---- Characters --------------------------------------------------------------------------------------------------------------- */

static int peek(const nm_build *b) { return b->at < b->length ? (unsigned char)b->text[b->at] : -1; }
static bool is_name(int c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_'; }
static bool is_digit(int c) { return c >= '0' && c <= '9'; }

static bool take(nm_build *b, const char *word)
{
    size_t n = strlen(word);
    if (b->length - b->at < n || memcmp(b->text + b->at, word, n) != 0) return false;
    b->at += n;
    return true;
}

/* Spaces and comments; with `lines` newlines, too. */
static void skip_space(nm_build *b, bool lines)
{
    for (int c; (c = peek(b)) >= 0; b->at++) {
        if (c == '#') {
            while (b->at + 1 < b->length && b->text[b->at + 1] != '\n' && b->text[b->at + 1] != '\r') b->at++;
        } else if (c != ' ' && c != '\t' && !(lines && (c == '\n' || c == '\r'))) {
            return;
        }
    }
}

static nm_err hex_escape(nm_build *b, int digits, uint32_t *code)
{
    size_t from = b->at - 2;
    *code = 0;
    for (int i = 0; i < digits; i++, b->at++) {
        int c = peek(b), lower = c | 0x20;
        bool letter = lower >= 'a' && lower <= 'f';
        if (!is_digit(c) && !letter) return nm_grammar_fault(b, from, "\\%c is followed by %d hexadecimal digits", b->text[from + 1], digits);
        *code = *code << 4 | (uint32_t)(letter ? lower - 'a' + 10 : c - '0');
    }
    if (*code > 0x10ffff) return nm_grammar_fault(b, from, "U+%X is no character: the last one is U+10FFFF", (unsigned)*code);
    return NM_OK;
}

static nm_err escape(nm_build *b, uint32_t *code)
{
    b->at++;
    int c = peek(b);
    if (c >= 0) b->at++;
    switch (c) {
    case 'n': *code = '\n'; return NM_OK;
    case 'r': *code = '\r'; return NM_OK;
    case 't': *code = '\t'; return NM_OK;
    case '\\': case '"': case '[': case ']': case '-': case '^': *code = (uint32_t)c; return NM_OK;
    case 'x': return hex_escape(b, 2, code);
    case 'u': return hex_escape(b, 4, code);
    case 'U': return hex_escape(b, 8, code);
    default: return nm_grammar_fault(b, b->at - (c >= 0 ? 2 : 1), "an unknown escape: there are \\n \\r \\t \\\\ \\\" \\[ \\] \\- \\^ \\xNN \\uNNNN \\UNNNNNNNN");
    }
}

/* One character of a literal or class that was opened at byte `open`. */
static nm_err character(nm_build *b, size_t open, uint32_t *code)
{
    int used;
    if (peek(b) < 0) return nm_grammar_fault(b, open, "a %s that is never closed", b->text[open] == '"' ? "literal" : "class");
    if (peek(b) == '\\') return escape(b, code);
    int32_t c = nm_utf8_decode(b->text + b->at, b->length - b->at, &used);
    if (c < 0) return nm_grammar_fault(b, b->at, "a byte that is not UTF-8: write it as \\xNN if its character is meant");
    b->at += (size_t)used;
    *code = (uint32_t)c;
    return NM_OK;
}

/* ---- Rules and their names ------------------------------------------------------------------------------------------------------ */

static nm_err add_rule(nm_build *b, nm_rule rule, uint32_t *index)
{
    if (b->n_rules >= NM_GRAMMAR_RULES) return nm_grammar_fault(b, b->at, "more than %d rules and groups: make the grammar smaller", NM_GRAMMAR_RULES);
    NM_TRY(NM_GROW(b->rules, b->rules_capacity, b->n_rules + 1));
    *index = (uint32_t)b->n_rules;
    b->rules[b->n_rules++] = rule;
    return NM_OK;
}

static size_t name_slot(const nm_build *b, const uint32_t *names, size_t capacity, size_t at, size_t length)
{
    size_t k = nm_hash(0, b->text + at, length) & (capacity - 1);
    for (; names[k]; k = (k + 1) & (capacity - 1)) {
        const nm_rule *r = &b->rules[names[k]];
        if (r->length == length && !memcmp(b->text + r->at, b->text + at, length)) break;
    }
    return k;
}

/* At most half full, so that a search ends. */
static nm_err grow_names(nm_build *b)
{
    if (2 * (b->n_names + 1) <= b->names_capacity) return NM_OK;
    size_t n = b->names_capacity ? 2 * b->names_capacity : 64;
    uint32_t *names = nm_calloc(n, sizeof *names);
    if (!names) return nm_fail_memory(n * sizeof *names);
    for (uint32_t i = 1; i < b->n_rules; i++)
        if (b->rules[i].length) names[name_slot(b, names, n, b->rules[i].at, b->rules[i].length)] = i;
    nm_free(b->names);
    b->names = names;
    b->names_capacity = n;
    return NM_OK;
}

/* The rule of the name that stands here. */
static nm_err name(nm_build *b, uint32_t *rule)
{
    size_t at = b->at;
    while (is_name(peek(b))) b->at++;
    NM_TRY(grow_names(b));
    size_t k = name_slot(b, b->names, b->names_capacity, at, b->at - at);
    *rule = b->names[k];
    if (*rule) return NM_OK;
    NM_TRY(add_rule(b, (nm_rule){.at = (uint32_t)at, .length = (uint32_t)(b->at - at), .owner = (uint32_t)b->n_rules}, rule));
    b->names[k] = *rule;
    b->n_names++;
    return NM_OK;
}

static nm_err add_choice(nm_build *b, uint32_t rule, uint32_t *choice)
{
    NM_TRY(NM_GROW(b->choices, b->choices_capacity, b->n_choices + 1));
    *choice = (uint32_t)b->n_choices++;
    b->choices[*choice] = (nm_choice){.rule = rule};
    nm_rule *r = &b->rules[rule];
    if (r->last_choice) b->choices[r->last_choice].next = *choice;
    else r->choice = *choice;
    r->last_choice = *choice;
    return NM_OK;
}

static void append(nm_build *b, uint32_t choice, uint32_t part)
{
    nm_choice *c = &b->choices[choice];
    if (c->last) b->parts[c->last].next = part;
    else c->first = part;
    c->last = part;
    b->parts[part].choice = choice;
}

static nm_err add_part(nm_build *b, uint32_t choice, bool is_rule, uint32_t what, size_t at)
{
    NM_TRY(NM_GROW(b->parts, b->parts_capacity, b->n_parts + 1));
    uint32_t part = (uint32_t)b->n_parts++;
    b->parts[part] = (nm_part){.what = what, .least = 1, .most = 1, .at = (uint32_t)at, .is_rule = is_rule};
    append(b, choice, part);
    return NM_OK;
}

/* ---- What a sequence is made of --------------------------------------------------------------------------------------------------- */

static nm_err literal(nm_build *b, uint32_t choice)
{
    size_t open = b->at++;
    for (uint32_t code, set; !take(b, "\"");) {
        size_t at = b->at;
        char bytes[4];
        NM_TRY(character(b, open, &code));
        if (code >= 0xd800 && code <= 0xdfff) return nm_grammar_fault(b, at, "U+%X is half of a pair, no character: write \\UNNNNNNNN", (unsigned)code);
        int n = nm_utf8_encode(code, bytes);
        for (int i = 0; i < n; i++) {
            NM_TRY(nm_grammar_byte(b, (unsigned char)bytes[i], &set));
            NM_TRY(add_part(b, choice, false, set, at));
        }
    }
    return NM_OK;
}

static nm_err control_byte(nm_build *b, uint32_t choice)
{
    uint32_t set;
    NM_TRY(nm_grammar_byte(b, NM_TRIE_CONTROL, &set));
    return add_part(b, choice, false, set, b->at);
}

/* @"text": the control token of this text, as it stands in the tree of the vocabulary. */
static nm_err control(nm_build *b, uint32_t choice)
{
    b->at++;
    if (peek(b) != '"') return nm_grammar_fault(b, b->at, "a literal is expected behind '@': the text of a control token");
    NM_TRY(control_byte(b, choice));
    NM_TRY(literal(b, choice));
    return control_byte(b, choice);
}

static nm_err add_range(nm_build *b, uint32_t low, uint32_t high)
{
    NM_TRY(NM_GROW(b->ranges, b->ranges_capacity, b->n_ranges + 1));
    b->ranges[b->n_ranges++] = (nm_range){low, high};
    return NM_OK;
}

static nm_err class_ranges(nm_build *b, size_t open)
{
    b->n_ranges = 0;
    for (uint32_t low = 0, high = 0; !take(b, "]");) {
        size_t at = b->at;
        NM_TRY(character(b, open, &low));
        high = low;
        bool range = peek(b) == '-' && b->at + 1 < b->length && b->text[b->at + 1] != ']';
        if (range) {
            b->at++;
            NM_TRY(character(b, open, &high));
        }
        if (high < low) return nm_grammar_fault(b, at, "a range that ends (U+%04X) before it begins (U+%04X)", (unsigned)high, (unsigned)low);
        NM_TRY(add_range(b, low, high));
    }
    return NM_OK;
}

static nm_err class(nm_build *b, uint32_t choice)
{
    size_t open = b->at++;
    bool others = take(b, "^");
    uint32_t set;
    NM_TRY(class_ranges(b, open));
    NM_TRY(nm_grammar_class(b, others, &set));
    static const uint32_t nothing[8];
    const nm_byte_set *s = &b->g->sets[set];
    if (!s->n_edges && !memcmp(s->done, nothing, sizeof nothing)) return nm_grammar_fault(b, open, "a class without any character");
    return add_part(b, choice, false, set, open);
}

static nm_err any_character(nm_build *b, uint32_t choice)
{
    uint32_t set;
    size_t at = b->at++;
    b->n_ranges = 0;
    NM_TRY(nm_grammar_class(b, true, &set));
    return add_part(b, choice, false, set, at);
}

static nm_err choices(nm_build *b, uint32_t rule, int depth);

static nm_err group(nm_build *b, uint32_t choice, int depth)
{
    size_t open = b->at++;
    uint32_t rule = 0;
    if (depth >= NM_GRAMMAR_DEPTH) return nm_grammar_fault(b, open, "groups within groups, more than %d deep: name some of them", NM_GRAMMAR_DEPTH);
    NM_TRY(add_rule(b, (nm_rule){.at = (uint32_t)open, .owner = b->rules[b->choices[choice].rule].owner, .defined = true}, &rule));
    NM_TRY(choices(b, rule, depth + 1));
    if (b->at == b->length) return nm_grammar_fault(b, open, "a group that is never closed");
    if (!take(b, ")")) return unexpected(b);
    return add_part(b, choice, true, rule, open);
}

/* ---- Repetitions ---------------------------------------------------------------------------------------------------------------- */

static nm_err number(nm_build *b, uint32_t *value)
{
    size_t at = b->at;
    if (!is_digit(peek(b))) return nm_grammar_fault(b, at, "a number is expected: {m}, {m,} or {m,n}");
    for (*value = 0; is_digit(peek(b)); b->at++) {
        *value = *value * 10 + (uint32_t)(peek(b) - '0');
        if (*value > NM_GRAMMAR_REPEAT) return nm_grammar_fault(b, at, "a repetition of more than %d times: write * for any number", NM_GRAMMAR_REPEAT);
    }
    skip_space(b, false);
    return NM_OK;
}

static nm_err counts(nm_build *b, uint32_t *least, uint32_t *most)
{
    size_t open = b->at++;
    skip_space(b, false);
    NM_TRY(number(b, least));
    *most = *least;
    if (take(b, ",")) {
        skip_space(b, false);
        *most = NM_FOREVER;
        if (peek(b) != '}') NM_TRY(number(b, most));
    }
    if (!take(b, "}")) return nm_grammar_fault(b, b->at, "'}' is expected: a repetition is {m}, {m,} or {m,n}");
    if (*most < *least) return nm_grammar_fault(b, open, "a repetition of at least %u and at most %u times", (unsigned)*least, (unsigned)*most);
    return NM_OK;
}

/* Puts the parts of the choice behind `before` (0: all) into a group of their own. */
static nm_err wrap(nm_build *b, uint32_t choice, uint32_t before, size_t at)
{
    uint32_t rule = 0, inner, first = before ? b->parts[before].next : b->choices[choice].first;
    NM_TRY(add_rule(b, (nm_rule){.at = (uint32_t)at, .owner = b->rules[b->choices[choice].rule].owner, .defined = true}, &rule));
    NM_TRY(add_choice(b, rule, &inner));
    b->choices[inner].first = first;
    b->choices[inner].last = b->choices[choice].last;
    for (uint32_t p = first; p; p = b->parts[p].next) b->parts[p].choice = inner;
    b->choices[choice].last = before;
    if (before) b->parts[before].next = 0;
    else b->choices[choice].first = 0;
    return add_part(b, choice, true, rule, at);
}

/* Takes away the parts of the choice behind `before`, which are the last that were made. */
static void drop(nm_build *b, uint32_t choice, uint32_t before)
{
    b->n_parts = before ? b->parts[before].next : b->choices[choice].first;
    b->choices[choice].last = before;
    if (before) b->parts[before].next = 0;
    else b->choices[choice].first = 0;
}

/* Applies what stands behind a symbol, whose parts are those behind `before`. */
static nm_err repetition(nm_build *b, uint32_t choice, uint32_t before, size_t at)
{
    uint32_t least = 0, most = NM_FOREVER;
    if (peek(b) == '{') {
        NM_TRY(counts(b, &least, &most));
    } else {
        if (peek(b) == '+') least = 1;
        if (peek(b) == '?') most = 1;
        b->at++;
    }
    uint32_t first = before ? b->parts[before].next : b->choices[choice].first;
    if (!first) return NM_OK;       /* nothing, any number of times */
    if (!most) {
        drop(b, choice, before);
        return NM_OK;
    }
    const nm_part *p = &b->parts[first];
    if (p->next || p->least != 1 || p->most != 1) {
        NM_TRY(wrap(b, choice, before, at));
        first = b->choices[choice].last;
    }
    b->parts[first].least = least;
    b->parts[first].most = most;
    return NM_OK;
}

/* ---- Sequences, choices, rules ----------------------------------------------------------------------------------------------------- */

static nm_err symbol(nm_build *b, uint32_t choice, int depth)
{
    uint32_t rule = 0;
    size_t at = b->at;
    switch (peek(b)) {
    case '"': return literal(b, choice);
    case '@': return control(b, choice);
    case '[': return class(b, choice);
    case '(': return group(b, choice, depth);
    case '.': return any_character(b, choice);
    }
    NM_TRY(name(b, &rule));
    return add_part(b, choice, true, rule, at);
}

static bool begins_symbol(int c) { return c >= 0 && (is_name(c) || strchr("\"@[(.", c)) && c; }
static bool begins_repetition(int c) { return c > 0 && strchr("*+?{", c); }

static nm_err sequence(nm_build *b, uint32_t choice, int depth)
{
    for (skip_space(b, depth > 0); begins_symbol(peek(b)); skip_space(b, depth > 0)) {
        uint32_t before = b->choices[choice].last;
        size_t at = b->at;
        NM_TRY(symbol(b, choice, depth));
        for (skip_space(b, depth > 0); begins_repetition(peek(b)); skip_space(b, depth > 0)) NM_TRY(repetition(b, choice, before, at));
    }
    return NM_OK;
}

/* Recursion is bounded by `group`. A line that begins with '|' goes on with the rule above it. */
static nm_err choices(nm_build *b, uint32_t rule, int depth)
{
    for (;;) {
        uint32_t choice;
        NM_TRY(add_choice(b, rule, &choice));
        NM_TRY(sequence(b, choice, depth));
        size_t end = b->at;
        skip_space(b, true);
        if (!take(b, "|")) {
            if (!depth) b->at = end;
            return NM_OK;
        }
        skip_space(b, true);
    }
}

static nm_err rule_line(nm_build *b)
{
    size_t at = b->at;
    uint32_t rule = 0;
    if (!is_name(peek(b))) return unexpected(b);
    NM_TRY(name(b, &rule));
    skip_space(b, false);
    if (!take(b, "::=")) return nm_grammar_fault(b, b->at, "'::=' is expected behind the name of a rule");
    if (b->rules[rule].defined) return nm_grammar_fault(b, at, "a second rule of the name '%.*s'", nm_rule_shown(&b->rules[rule]), b->text + at);
    b->rules[rule].defined = true;
    b->rules[rule].at = (uint32_t)at;
    skip_space(b, true);
    NM_TRY(choices(b, rule, 0));
    return b->at < b->length && peek(b) != '\n' && peek(b) != '\r' ? unexpected(b) : NM_OK;
}

nm_err nm_grammar_parse(nm_build *b)
{
    nm_rule none = {0};
    uint32_t index;
    NM_TRY(add_rule(b, none, &index));
    NM_TRY(NM_GROW(b->choices, b->choices_capacity, 1));
    NM_TRY(NM_GROW(b->parts, b->parts_capacity, 1));
    b->n_choices = b->n_parts = 1;      /* 0 is none */
    for (skip_space(b, true); b->at < b->length; skip_space(b, true)) NM_TRY(rule_line(b));
    return NM_OK;
}
