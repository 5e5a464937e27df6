/* Owns rules below values: characters in JSON's notation, sets of them, automata as rules, one a state unless it has one way in and one out, and the rules that all
 * schemas share. A bound string writes each character in one way: as itself, or by its short escape, or by \u00XX; a free one may use every escape. */
#include "generate/schema.h"

#include <string.h>

#include "base/mem.h"

/* ---- Literals ------------------------------------------------------------------------------------------------------------------------- */

nm_err nm_write_literal(nm_str *out, const char *text, size_t length)
{
    NM_TRY(nm_str_putc(out, '"'));
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '"' || text[i] == '\\') NM_TRY(nm_str_putc(out, '\\'));
        NM_TRY(nm_str_putc(out, text[i]));
    }
    return nm_str_putc(out, '"');
}

/* The letter of a short escape, or 0. */
static char short_escape(uint32_t code)
{
    switch (code) {
    case '"': case '\\': return (char)code;
    case '\b': return 'b';
    case '\f': return 'f';
    case '\n': return 'n';
    case '\r': return 'r';
    case '\t': return 't';
    default: return 0;
    }
}

static nm_err put_character(nm_str *out, uint32_t code)
{
    char bytes[4], letter = short_escape(code);
    if (letter) return nm_str_printf(out, "\\%c", letter);
    if (code < 0x20) return nm_str_printf(out, "\\u%04x", (unsigned)code);
    return nm_str_append(out, bytes, (size_t)nm_utf8_encode(code, bytes));
}

nm_err nm_write_json_string(nm_str *json, const char *text, size_t length)
{
    NM_TRY(nm_str_putc(json, '"'));
    for (size_t i = 0; i < length;) {
        int used;
        int32_t code = nm_utf8_decode(text + i, length - i, &used);
        NM_TRY(put_character(json, code < 0 ? 0xfffd : (uint32_t)code));
        i += (size_t)used;
    }
    return nm_str_putc(json, '"');
}

nm_err nm_write_times(nm_str *out, size_t least, size_t most)
{
    if (least == 1 && most == 1) return NM_OK;
    if (least == 0 && most == 1) return nm_str_putc(out, '?');
    if (most == SIZE_MAX && least <= 1) return nm_str_putc(out, least ? '+' : '*');
    if (most == SIZE_MAX) return nm_str_printf(out, "{%zu,}", least);
    return least == most ? nm_str_printf(out, "{%zu}", least) : nm_str_printf(out, "{%zu,%zu}", least, most);
}

nm_err nm_check_size(const nm_schema *s)
{
    size_t length = s->rules.length + s->parts.length + s->classes.length;
    return length <= NM_SCHEMA_TEXT ? NM_OK : nm_fail(NM_USAGE, "the schema's grammar is larger than %d MiB: make the schema smaller", NM_SCHEMA_TEXT >> 20);
}

/* ---- Rules that are shared ------------------------------------------------------------------------------------------------------------- */

#define USES(which) (1u << NM_SHARED_##which)
static const struct { const char *name, *body; unsigned uses; } shared_rules[NM_SHARED_COUNT] = {
    [NM_SHARED_VALUE] = {"value", "object | array | string | number | boolean | \"null\"", USES(OBJECT) | USES(ARRAY) | USES(STRING) | USES(NUMBER) | USES(BOOLEAN)},
    [NM_SHARED_OBJECT] = {"object", "\"{\" ws (string \":\" ws value (\",\" ws string \":\" ws value)* ws)? \"}\"", USES(STRING) | USES(VALUE) | USES(SPACE)},
    [NM_SHARED_ARRAY] = {"array", "\"[\" ws (value (\",\" ws value)* ws)? \"]\"", USES(VALUE) | USES(SPACE)},
    [NM_SHARED_STRING] = {"string", "\"\\\"\" char* \"\\\"\"", USES(CHAR)},
    /* As many digits as a double or a 64-bit integer can tell apart: a model cannot write digits for ever. */
    [NM_SHARED_NUMBER] = {"number", "\"-\"? (\"0\" | [1-9] [0-9]{0,19}) (\".\" [0-9]{1,20})? ([eE] (\"+\" | \"-\")? [0-9]{1,3})?", 0},
    [NM_SHARED_INTEGER] = {"integer", "\"0\" | \"-\"? [1-9] [0-9]{0,19}", 0},
    [NM_SHARED_BOOLEAN] = {"boolean", "\"true\" | \"false\"", 0},
    [NM_SHARED_CHAR] = {"char", "[^\"\\\\\\x00-\\x1F] | \"\\\\\" ([\"\\\\/bfnrt] | \"u\" code)", USES(CODE)},
    [NM_SHARED_CODE] = {"code", "[0-9A-CEFa-cef] hex{3} | [Dd] [0-7] hex{2} | [Dd] [89ABab] hex{2} \"\\\\u\" [Dd] [C-Fc-f] hex{2}", USES(HEX)},
    [NM_SHARED_HEX] = {"hex", "[0-9A-Fa-f]", 0},
    /* Bounded, so that a model cannot lose itself in white space. */
    [NM_SHARED_SPACE] = {"ws", "(\" \" | \"\\n\" [ \\t]{0,40})?", 0},
};

nm_err nm_write_shared(nm_schema *s, nm_str *out, nm_shared which)
{
    s->shared |= 1u << which;
    return nm_str_puts(out, shared_rules[which].name);
}

nm_err nm_write_shared_rules(nm_schema *s, nm_str *out)
{
    for (unsigned before = 0; before != s->shared;) {
        before = s->shared;
        for (int i = 0; i < NM_SHARED_COUNT; i++)
            if (before & 1u << i) s->shared |= shared_rules[i].uses;
    }
    for (int i = 0; i < NM_SHARED_COUNT; i++)
        if (s->shared & 1u << i) NM_TRY(nm_str_printf(out, "%s ::= %s\n", shared_rules[i].name, shared_rules[i].body));
    return NM_OK;
}

/* ---- Sets of characters ---------------------------------------------------------------------------------------------------------------- */

static nm_err put_in_class(nm_str *out, uint32_t code)
{
    if (code < 0x80 && code > ' ' && !strchr("\"\\[]^-", (int)code)) return nm_str_putc(out, (char)code);
    if (code < 0x80) return nm_str_printf(out, "\\x%02X", (unsigned)code);
    return code < 0x10000 ? nm_str_printf(out, "\\u%04X", (unsigned)code) : nm_str_printf(out, "\\U%08X", (unsigned)code);
}

static nm_err put_ranges(nm_str *out, const nm_spans *r)
{
    for (size_t i = 0; i < r->count; i++) {
        NM_TRY(put_in_class(out, r->items[i].low));
        if (r->items[i].high > r->items[i].low + 1) NM_TRY(nm_str_putc(out, '-'));
        if (r->items[i].high > r->items[i].low) NM_TRY(put_in_class(out, r->items[i].high));
    }
    return NM_OK;
}

/* [...] or [^...], whichever is shorter. */
static nm_err put_class(nm_schema *s, nm_str *out, const nm_spans *r)
{
    nm_spans inverse = {0};
    for (size_t i = 0; i < r->count; i++) NM_TRY(nm_spans_add(s, &inverse, r->items[i].low, r->items[i].high));
    NM_TRY(nm_spans_negate(s, &inverse));
    bool negate = r->items[r->count - 1].high == NM_CODE_MOST && inverse.count && inverse.count <= r->count;
    NM_TRY(nm_str_puts(out, negate ? "[^" : "["));
    NM_TRY(put_ranges(out, negate ? &inverse : r));
    return nm_str_putc(out, ']');
}

/* Of the set, those that JSON writes as themselves, in plain, and the letters and last digits of escapes of the others. */
typedef struct notation { nm_spans plain; char letters[16], low[32], high[32]; } notation;

static void add_control(notation *n, uint32_t code)
{
    static const char digits[] = "0123456789aAbBcCdDeEfF";
    char *to = code < 0x10 ? n->low : n->high;
    size_t at = strlen(to), digit = code % 16;
    if (digit < 10) {
        to[at] = digits[digit];
        return;
    }
    to[at] = digits[10 + 2 * (digit - 10)];
    to[at + 1] = digits[11 + 2 * (digit - 10)];
}

static nm_err split_set(nm_schema *s, notation *n, const nm_spans *set)
{
    *n = (notation){0};
    for (size_t i = 0; i < set->count; i++) {
        for (uint32_t c = set->items[i].low; c <= set->items[i].high; c++) {
            char letter = short_escape(c);
            if (letter) n->letters[strlen(n->letters)] = letter;
            else if (c < 0x20) add_control(n, c);
            else if (c > '\\') {
                NM_TRY(nm_spans_add(s, &n->plain, c, set->items[i].high));
                break;
            } else NM_TRY(nm_spans_add(s, &n->plain, c, c));
        }
    }
    nm_spans_tidy(&n->plain);
    return NM_OK;
}

static nm_err put_escapes(nm_str *out, const char *before, const char *characters, bool *any)
{
    if (!*characters) return NM_OK;
    NM_TRY(nm_str_puts(out, *any ? " | " : ""));
    NM_TRY(nm_write_literal(out, before, strlen(before)));
    NM_TRY(nm_str_puts(out, " ["));
    for (const char *c = characters; *c; c++) NM_TRY(put_in_class(out, (unsigned char)*c));
    *any = true;
    return nm_str_putc(out, ']');
}

/* Appends what stands for one character of the set; what is more than one class is a rule of its own, the same for equal sets. */
static nm_err put_set(nm_schema *s, nm_str *out, const nm_spans *set, bool quoted)
{
    notation n;
    uint32_t leaf;
    bool fresh, any = false;
    if (!quoted) return put_class(s, out, set);
    NM_TRY(split_set(s, &n, set));
    if (n.plain.count && !*n.letters && !*n.low && !*n.high) return put_class(s, out, &n.plain);
    s->key.length = 0;
    if (n.plain.count) NM_TRY(put_class(s, &s->key, &n.plain));
    any = n.plain.count;
    NM_TRY(put_escapes(&s->key, "\\", n.letters, &any));
    NM_TRY(put_escapes(&s->key, "\\u000", n.low, &any));
    NM_TRY(put_escapes(&s->key, "\\u001", n.high, &any));
    NM_TRY(nm_intern_add(s, &s->leaves, s->key.data, s->key.length, &leaf, &fresh));
    if (fresh) NM_TRY(nm_str_printf(&s->classes, "c%u ::= %s\n", (unsigned)leaf, s->key.data));
    return nm_str_printf(out, "c%u", (unsigned)leaf);
}

/* ---- Automata as rules ------------------------------------------------------------------------------------------------------------------ */

typedef struct way { uint32_t to; nm_spans set; } way;
typedef struct ways { way *items; size_t count, capacity, entries; } ways;      /* entries: ways that lead here from other states */
typedef struct writer {
    nm_schema *s;
    const nm_dfa *dfa;
    ways *ways;                     /* of each state, one for each state they lead to */
    bool *queued;
    uint32_t *queue;
    size_t n_queue;
    char prefix;
    bool quoted;
    uint32_t leaf;
    nm_str *out;
    const nm_spans *last;          /* a set that was read `times`, not yet written; s->literal comes before it */
    size_t times;
    bool begun;                     /* something stands in the sequence */
} writer;

static nm_err find_ways(writer *w)
{
    const nm_dfa *a = w->dfa;
    NM_TRY(NM_TAKE(w->s, w->ways, a->n_states));
    for (size_t i = 0; i < a->n_states; i++) {
        ways *all = &w->ways[i];
        for (size_t e = 0; e < a->states[i].count; e++) {
            const nm_dfa_edge *edge = &a->edges[a->states[i].first + e];
            size_t at = 0;
            NM_TRY(nm_schema_work(w->s, 1 + all->count / 4));
            while (at < all->count && all->items[at].to != edge->to) at++;
            if (at == all->count) {
                NM_TRY(NM_MORE(w->s, all->items, all->capacity, all->count + 1));
                all->items[all->count++] = (way){.to = edge->to};
                if (edge->to != i) w->ways[edge->to].entries++;
            }
            NM_TRY(nm_spans_add(w->s, &all->items[at].set, edge->low, edge->high));
        }
    }
    return NM_OK;
}

static bool same_set(const nm_spans *a, const nm_spans *b)
{
    return a->count == b->count && !memcmp(a->items, b->items, a->count * sizeof *a->items);
}

static nm_err flush(writer *w, bool space)
{
    w->begun |= w->s->literal.length || w->times;
    if (w->s->literal.length) NM_TRY(nm_write_literal(w->out, w->s->literal.data, w->s->literal.length));
    if (w->s->literal.length && w->times) NM_TRY(nm_str_putc(w->out, ' '));
    w->s->literal.length = 0;
    if (w->times) {
        NM_TRY(put_set(w->s, w->out, w->last, w->quoted));
        NM_TRY(nm_write_times(w->out, w->times, w->times));
        w->times = 0;
    }
    return space && w->begun ? nm_str_putc(w->out, ' ') : NM_OK;
}

static nm_err put_plain(nm_str *out, uint32_t code)
{
    char bytes[4];
    return nm_str_append(out, bytes, (size_t)nm_utf8_encode(code, bytes));
}

static nm_err put_one(writer *w, const nm_spans *set)
{
    bool single = set->count == 1 && set->items[0].low == set->items[0].high;
    if (w->times && (single || !same_set(set, w->last))) NM_TRY(flush(w, true));
    if (single) return w->quoted ? put_character(&w->s->literal, set->items[0].low) : put_plain(&w->s->literal, set->items[0].low);
    w->last = set;
    w->times++;
    return NM_OK;
}

/* Whether all that can follow the state is one set, up to *most times (SIZE_MAX: for ever). */
static bool is_run(const writer *w, uint32_t state, const nm_spans **set, size_t *most)
{
    *set = NULL;
    for (*most = 0;; ++*most) {
        const ways *all = &w->ways[state];
        if (!w->dfa->states[state].accepts || all->count > 1) return false;
        if (!all->count) return true;
        if (*set && !same_set(*set, &all->items[0].set)) return false;
        *set = &all->items[0].set;
        if (all->items[0].to == state) {
            bool whole = *most == 0;
            *most = SIZE_MAX;
            return whole;
        }
        state = all->items[0].to;
        if (*most > NM_SCHEMA_STATES) return false;
    }
}

static nm_err put_end(writer *w)
{
    if (w->times && w->quoted) NM_TRY(flush(w, true));
    if (w->quoted) NM_TRY(nm_str_putc(&w->s->literal, '"'));
    return flush(w, false);
}

/* What follows once the state is reached, as the end of a sequence. */
static nm_err put_state(writer *w, uint32_t state)
{
    const nm_spans *set;
    size_t most;
    NM_TRY(nm_schema_work(w->s, 4));
    if (is_run(w, state, &set, &most)) {
        if (!most) return put_end(w);
        size_t least = w->times && same_set(w->last, set) ? w->times : 0;       /* those before join the run */
        if (least) w->times = 0;
        NM_TRY(flush(w, true));
        NM_TRY(put_set(w->s, w->out, set, w->quoted));
        NM_TRY(nm_write_times(w->out, least, most == SIZE_MAX ? most : least + most));
        w->begun = true;
        if (w->quoted) NM_TRY(nm_str_putc(w->out, ' '));
        return put_end(w);
    }
    NM_TRY(nm_schema_work(w->s, most));
    NM_TRY(flush(w, true));
    if (!w->queued[state]) w->queue[w->n_queue++] = state;
    w->queued[state] = true;
    return nm_str_printf(w->out, "%c%u-%u", w->prefix, (unsigned)w->leaf, (unsigned)state);
}

/* A way, and on through states that have one way in and one out. */
static nm_err put_way(writer *w, const way *from)
{
    for (;;) {
        const ways *next = &w->ways[from->to];
        NM_TRY(put_one(w, &from->set));
        if (w->dfa->states[from->to].accepts || next->count != 1 || next->entries != 1 || from->to == 0 || next->items[0].to == from->to)
            return put_state(w, from->to);
        from = &next->items[0];
    }
}

static nm_err put_rule(writer *w, uint32_t state)
{
    const ways *all = &w->ways[state];
    bool option = w->dfa->states[state].accepts && !w->quoted;
    NM_TRY(nm_str_printf(w->out, "%c%u-%u ::= %s", w->prefix, (unsigned)w->leaf, (unsigned)state, option ? "(" : ""));
    for (size_t i = 0; i < all->count; i++) {
        if (i) NM_TRY(nm_str_puts(w->out, " | "));
        w->begun = false;
        NM_TRY(put_way(w, &all->items[i]));
    }
    if (w->dfa->states[state].accepts && w->quoted) NM_TRY(nm_str_puts(w->out, all->count ? " | \"\\\"\"" : "\"\\\"\""));
    NM_TRY(nm_str_puts(w->out, option ? ")?\n" : "\n"));
    return nm_check_size(w->s);
}

nm_err nm_write_dfa(nm_schema *s, const nm_dfa *dfa, char prefix, bool quoted, uint32_t leaf)
{
    writer w = {.s = s, .dfa = dfa, .prefix = prefix, .quoted = quoted, .leaf = leaf, .out = &s->parts};
    NM_TRY(find_ways(&w));
    NM_TRY(NM_TAKE(s, w.queued, dfa->n_states));
    NM_TRY(NM_TAKE(s, w.queue, dfa->n_states));
    NM_TRY(nm_str_printf(w.out, "%c%u ::= ", prefix, (unsigned)leaf));
    s->literal.length = 0;
    if (quoted) NM_TRY(nm_str_putc(&s->literal, '"'));
    bool straight = !dfa->states[0].accepts && w.ways[0].count == 1 && !w.ways[0].entries && w.ways[0].items[0].to;
    NM_TRY(straight ? put_way(&w, &w.ways[0].items[0]) : put_state(&w, 0));
    NM_TRY(nm_str_putc(w.out, '\n'));
    for (size_t i = 0; i < w.n_queue; i++) NM_TRY(put_rule(&w, w.queue[i]));
    return NM_OK;
}
