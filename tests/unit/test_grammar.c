/* Grammars and what is held to them: the notation and its refusals, matching against a plain reading of random grammars, masks against each token by itself,
 * characters that tokens split, random logits that must end in a document, draws, biases, bounds, failing memory. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "generate/automaton.h"
#include "text/tokenizer.h"
#include "text/trie.h"

#include "../gguf_writer.c"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const char json[] =
    "root   ::= object\n"
    "value  ::= object | array | string | number | (\"true\" | \"false\" | \"null\") ws\n"
    "object ::=\n  \"{\" ws (\n    string \":\" ws value\n    (\",\" ws string \":\" ws value)*\n  )? \"}\" ws\n"
    "array  ::= \"[\" ws ( value (\",\" ws value)* )? \"]\" ws\n"
    "string ::= \"\\\"\" ( [^\"\\\\\\x7F\\x00-\\x1F] | \"\\\\\" ([\"\\\\bfnrt] | \"u\" [0-9a-fA-F]{4}) )* \"\\\"\" ws   # escapes\n"
    "number ::= (\"-\"? ([0-9] | [1-9] [0-9]{0,15})) (\".\" [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws\n"
    "ws     ::= | \" \" | \"\\n\" [ \\t]{0,20}\n";

static nm_grammar *open_grammar(const char *gbnf)
{
    nm_grammar *g;
    if (nm_grammar_open(&g, gbnf, strlen(gbnf)) != NM_OK) fail_msg("%s: %s", gbnf, nm_error_text());
    return g;
}

static bool matches_n(const nm_grammar *g, const char *text, size_t length)
{
    bool yes;
    if (nm_grammar_matches(g, text, length, &yes) != NM_OK) fail_msg("%s", nm_error_text());
    return yes;
}

static void expect(const char *gbnf, const char *text, bool want)
{
    nm_grammar *g = open_grammar(gbnf);
    if (matches_n(g, text, strlen(text)) != want) fail_msg("%s: \"%s\" %s", gbnf, text, want ? "does not match" : "matches");
    nm_grammar_close(&g);
    assert_null(g);
}

/* ---- The notation ------------------------------------------------------------------------------------------------------------- */

static void test_notation(void **state)
{
    (void)state;
    static const struct { const char *gbnf, *yes[6], *no[6]; } cases[] = {
        {"root ::= \"abc\"", {"abc"}, {"", "ab", "abcd", "Abc"}},
        {"root ::= \"a\\n\\t\\r\\\"\\\\\\x41\\u00e9\\U0001F999\"", {"a\n\t\r\"\\A\xc3\xa9\xf0\x9f\xa6\x99"}, {"a"}},
        {"root ::= [a-cx]", {"a", "b", "c", "x"}, {"d", "", "ab"}},
        {"root ::= [^a-c]", {"d", "\n", "\xc3\xa9", "\xf0\x9f\xa6\x99"}, {"a", "b", "", "\x80", "\xc3"}},
        {"root ::= [\\]\\[\\-\\^\\\\]", {"]", "[", "-", "^", "\\"}, {"a"}},
        {"root ::= [-a] [a-]", {"-a", "a-", "--"}, {"b-"}},
        {"root ::= [\xc3\xa0-\xc3\xbc]+", {"\xc3\xa9\xc3\xbc"}, {"a", "\xc3\xbd"}},
        {"root ::= [\\u0000-\\U0010FFFF]", {"a", "\xef\xbf\xbf", "\xf4\x8f\xbf\xbf"}, {"\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\x80", "\xe0\x80\x80", "ab"}},
        {"root ::= .", {"a", "\n", "\xe2\x82\xac"}, {"", "ab", "\xff"}},
        {"root ::= \"a\" | \"b\" | \"\"", {"a", "b", ""}, {"ab"}},
        {"root ::= (\"a\" |\n \"b\") # one\n\n\n# two\n", {"a", "b"}, {""}},
        {"root ::=\n  \"a\"\n  | \"b\"\n", {"a", "b"}, {"ab"}},
        {"root ::= x-1 X_2\r\nx-1 ::= \"a\"\r\nX_2::=\"b\"", {"ab"}, {"a"}},
        {"root ::= \"ab\"*", {"", "ab", "abab"}, {"a", "aba"}},
        {"root ::= \"a\"+ \"b\"?", {"a", "aab"}, {"", "b", "abb"}},
        {"root ::= \"a\"{2}", {"aa"}, {"a", "aaa"}},
        {"root ::= \"a\"{2,}", {"aa", "aaaaa"}, {"a"}},
        {"root ::= \"a\"{ 1 , 3 }", {"a", "aaa"}, {"", "aaaa"}},
        {"root ::= \"a\"{0} \"b\"{0,1}", {"", "b"}, {"a", "ab"}},
        {"root ::= \"ab\"{0}", {""}, {"a", "ab"}},
        {"root ::= \"ab\"+{0} | (\"a\" | x){0}\nx ::= \"x\"", {""}, {"a", "ab", "x"}},
        {"root ::= \"a\" (\"x\" e{0} \"y\" ((e)*){0}) \"b\"{0}\ne ::= \"\"", {"axy"}, {"a", "ax", "axyb"}},
        {"root ::= ((\"a\"?)*)+ (\"b\"*){2,3}", {"", "a", "aabbbb", "b"}, {"ba"}},
        {"root ::= \"a\"?*", {"", "aaa"}, {"b"}},
        {"root ::= \"\"+ x* \nx ::= \"\"", {""}, {"a"}},
        {"root ::= x{3}\nx ::= \"a\" | \"\"", {"", "a", "aaa"}, {"aaaa"}},
        {"root ::= \"(\" root \")\" | \"\"", {"", "(())"}, {"(()", "())"}},
        {"root ::= \"a\" root \"x\" | \"a\" root \"y\" | \"a\" root | \"\"", {"", "aaxy", "aaa", "aay"}, {"axx"}},
        {"root ::= e\ne ::= t \"+\" e | t \"-\" e | t\nt ::= [0-9] | \"(\" e \")\"", {"1", "((1+2)-(3))"}, {"1+", "(1"}},
        {"root ::= a\na ::= b \"x\" | \"\"\nb ::= c? \"y\"\nc ::= \"z\"", {"", "yx", "zyx"}, {"zx"}},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        for (size_t k = 0; k < 6 && cases[i].yes[k]; k++) expect(cases[i].gbnf, cases[i].yes[k], true);
        for (size_t k = 0; k < 6 && cases[i].no[k]; k++) expect(cases[i].gbnf, cases[i].no[k], false);
    }
    nm_grammar *g = open_grammar("root ::= [\\x00-\\x01] \"\\x00\"");
    assert_true(matches_n(g, "\x01\0", 2));
    assert_false(matches_n(g, "\x01", 1));
    nm_grammar_close(&g);
    nm_grammar_close(&g);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct { const char *gbnf, *error; } cases[] = {
        {"", "no rule of the name 'root'"}, {"rot ::= \"a\"", "no rule of the name 'root'"},
        {"root ::= x", "line 1, column 10: there is no rule of the name 'x'"},
        {"root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: a second rule"},
        {"root = \"a\"", "column 6: '::='"}, {"root ::= \"a", "column 10: a literal that is never closed"},
        {"root ::= [a", "column 10: a class that is never closed"}, {"root ::= (\"a\"", "column 10: a group that is never closed"},
        {"root ::= (\"a\" ]", "column 15: ']'"}, {"root ::= \"a\" )", "column 14: ')'"}, {"root ::= *", "column 10: '*'"}, {"root ::= <think>", "column 10: '<'"},
        {"root ::= []", "class without any character"}, {"root ::= [^\\x00-\\U0010FFFF]", "class without any character"},
        {"root ::= [b-a]", "column 11: a range that ends"}, {"root ::= \"\\q\"", "column 11: an unknown escape"}, {"root ::= \"\\", "column 11: an unknown escape"},
        {"root ::= \"\\x4\"", "2 hexadecimal digits"}, {"root ::= \"\\U00110000\"", "no character"}, {"root ::= \"\\ud800\"", "half of a pair"},
        {"root ::= \"\xff\"", "not UTF-8"}, {"root ::= \"a\"{x}", "a number is expected"}, {"root ::= \"a\"{2,1}", "at least 2 and at most 1"},
        {"root ::= \"a\"{1", "'}' is expected"}, {"root ::= \"a\"{100001}", "more than 100000 times"}, {"root ::= \"a\"{99999999999999999999}", "more than 100000 times"},
        {"root ::= \"a\" root", "line 1, column 1: the rule 'root' can never end"}, {"root ::= \"a\"\nloop ::= (\"b\" loop)", "line 2, column 1: the rule 'loop' can never end"},
        {"root ::= root \"a\" | \"b\"", "the rule 'root' begins with itself"},
        {"root ::= \"x\" a\na ::= w b\nb ::= a \"x\" | \"y\"\nw ::= \" \"*", "begins with itself"},
        {"root ::= \"x\"\ne ::= (e \"+\")? \"1\"", "the rule 'e' begins with itself"},
        {"root ::= @a", "column 11: a literal is expected"}, {"root ::= @\"a", "never closed"}, {"\xc3\xa9", "line 1, column 1: '\xc3\xa9'"}, {"root ::= \"\xc3\xa9\xc3\xa9\" !", "line 1, column 15: '!'"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        nm_grammar *g;
        nm_err err = nm_grammar_open(&g, cases[i].gbnf, strlen(cases[i].gbnf));
        if (err != NM_USAGE || !strstr(nm_error_text(), cases[i].error)) fail_msg("%s: %d, %s", cases[i].gbnf, err, err ? nm_error_text() : "");
        assert_null(g);
    }
}

/* ---- Bounds -------------------------------------------------------------------------------------------------------------------- */

static void put(nm_str *s, const char *text, size_t times)
{
    for (size_t i = 0; i < times; i++) assert_int_equal(nm_str_puts(s, text), NM_OK);
}

static void refuse(nm_str *s, const char *error)
{
    nm_grammar *g;
    assert_int_equal(nm_grammar_open(&g, s->data, s->length), NM_USAGE);
    if (!strstr(nm_error_text(), error)) fail_msg("%s", nm_error_text());
    nm_str_free(s);
}

static void test_bounds(void **state)
{
    (void)state;
    nm_str s = {0};
    put(&s, "root ::= ", 1);
    put(&s, "(", 201);
    refuse(&s, "more than 200 deep");
    put(&s, "root ::= \"a\"", 1);
    put(&s, " (\"b\")", 70000);
    refuse(&s, "more than 65536 rules");
    put(&s, "root ::= \"a\"", 1);
    put(&s, " \"b\"{100000}", 11);
    refuse(&s, "more than 1048576 steps");
    put(&s, " ", 1048577);
    refuse(&s, "too long");
    expect("root ::= (((\"a\"{1000}){1000}){1000}){1000} | \"b\"", "b", true);     /* the sum of the numbers, not their product */
    expect("root ::= (\"a\"?){0,100000} \"b\"", "aab", true);
    expect("root ::= ((\"a\"*)*)* \"b\"", "aab", true);
}

/* Long and deep texts: states are forgotten on the way. */
static void test_long_texts(void **state)
{
    (void)state;
    enum { N = 20000 };
    nm_str s = {0};
    put(&s, "a", N);
    expect("root ::= [a-z]{0,100000}", s.data, true);
    expect("root ::= [a-z]{20001}", s.data, false);
    s.length = 0;
    put(&s, "[", N);
    put(&s, "]", N);
    expect("root ::= \"[\" root \"]\" | \"\"", s.data, true);
    s.data[N] = '[';
    expect("root ::= \"[\" root \"]\" | \"\"", s.data, false);
    s.length = 0;
    put(&s, "(", 3000);
    put(&s, "1", 1);
    put(&s, ")", 3000);
    expect("root ::= t \"+\" root | t \"-\" root | t\nt ::= \"1\" | \"(\" root \")\"", s.data, true);
    nm_str_free(&s);
}

/* Ways that multiply are refused while they are followed, not followed for ever. */
static void test_too_many_ways(void **state)
{
    (void)state;
    nm_str s = {0};
    bool yes;
    put(&s, "root ::= x{50000}\nx ::= y{1,40000}\ny ::= \"a\" | ", 1);
    put(&s, "\"a\"{1,1000}", 1);
    nm_grammar *g = open_grammar(s.data);
    s.length = 0;
    put(&s, "a", 20000);
    nm_err err = nm_grammar_matches(g, s.data, 200, &yes);
    assert_true(err == NM_OK || err == NM_FAILED);
    nm_grammar_close(&g);
    nm_str_free(&s);
}

/* ---- Random grammars against a plain reading of them ---------------------------------------------------------------------------------- */

typedef struct expression { int kind, a, b, least, most; } expression;     /* 0 text a, 1 sequence, 2 choice, 3 repetition, 4 rule a behind a letter, 5 nothing */
typedef struct random_grammar { expression e[64]; int n, rule[3]; uint64_t seed, drawn; } random_grammar;

static int pick(random_grammar *r, int n) { return (int)(nm_rng_u64(r->seed, 1, r->drawn++) % (uint64_t)n); }

static int make(random_grammar *r, int depth)
{
    int at = r->n++, kind = depth > 3 || r->n > 40 ? 0 : pick(r, 6);
    expression e = {.kind = kind, .a = pick(r, 3)};
    if (kind >= 1 && kind <= 3) e.a = make(r, depth + 1);
    if (kind == 1 || kind == 2) e.b = make(r, depth + 1);
    e.least = pick(r, 3);
    e.most = pick(r, 3) ? e.least + pick(r, 2) : -1;
    if (!e.most) e.most = 1;
    r->e[at] = e;
    return at;
}

static const char *const letters[3] = {"a", "b", "\xc3\xa9"};

static void print(const random_grammar *r, int at, nm_str *s)
{
    const expression *e = &r->e[at];
    if (e->kind == 0) { nm_str_printf(s, e->a == 1 ? "[%s]" : "\"%s\"", letters[e->a]); return; }
    if (e->kind == 4) { nm_str_printf(s, "\"a\" r%d", e->a); return; }
    if (e->kind == 5) { nm_str_puts(s, "\"\""); return; }
    nm_str_puts(s, "(");
    print(r, e->a, s);
    if (e->kind == 3) {
        nm_str_printf(s, e->most < 0 ? "){%d,}" : "){%d,%d}", e->least, e->most);
        return;
    }
    nm_str_puts(s, e->kind == 1 ? " " : " | ");
    print(r, e->b, s);
    nm_str_puts(s, ")");
}

/* Where expression `at` may end that begins at one of the places in `from`, as bits. */
static uint32_t ends_at(const random_grammar *r, int at, const char *text, uint32_t from)
{
    const expression *e = &r->e[at];
    uint32_t to = 0, all;
    if (!from) return 0;
    switch (e->kind) {
    case 0: case 4: {
        const char *word = letters[e->kind ? 0 : e->a];
        for (size_t i = 0; i <= strlen(text); i++)
            if (from >> i & 1 && !strncmp(text + i, word, strlen(word))) to |= 1u << (i + strlen(word));
        return e->kind ? ends_at(r, r->rule[e->a], text, to) : to;
    }
    case 1: return ends_at(r, e->b, text, ends_at(r, e->a, text, from));
    case 2: return ends_at(r, e->a, text, from) | ends_at(r, e->b, text, from);
    case 3:
        for (int i = 0; i < e->least; i++) from = ends_at(r, e->a, text, from);
        all = from;
        for (int i = e->least; e->most < 0 || i < e->most; i++) {
            from = ends_at(r, e->a, text, from);
            if ((all | from) == all) break;
            all |= from;
        }
        return all;
    default: return from;
    }
}

static bool plain_match(const random_grammar *r, const char *text) { return ends_at(r, r->rule[0], text, 1) >> strlen(text) & 1; }

static void test_random_grammars(void **state)
{
    (void)state;
    int opened = 0, matched = 0;
    for (uint64_t seed = 0; seed < 1000; seed++) {
        random_grammar r = {.seed = seed};
        nm_str s = {0};
        nm_grammar *g;
        for (int i = 0; i < 3; i++) r.rule[i] = make(&r, 0);
        nm_str_puts(&s, "root ::= r0\n");
        for (int i = 0; i < 3; i++) {
            nm_str_printf(&s, "r%d ::= ", i);
            print(&r, r.rule[i], &s);
            nm_str_puts(&s, "\n");
        }
        nm_err err = nm_grammar_open(&g, s.data, s.length);
        for (int n = 0; err == NM_OK && n < 1 + 3 + 9 + 27 + 81 + 243; n++) {
            char text[16] = "";
            for (int k = n; k; k = (k - 1) / 3) strcat(text, letters[(k - 1) % 3]);
            bool want = plain_match(&r, text);
            if (matches_n(g, text, strlen(text)) != want) fail_msg("%s: \"%s\" should %smatch", s.data, text, want ? "" : "not ");
            matched += want;
        }
        if (err != NM_OK && !strstr(nm_error_text(), "can never end")) fail_msg("%s: %s", s.data, nm_error_text());
        opened += err == NM_OK;
        nm_grammar_close(&g);
        nm_str_free(&s);
    }
    print_message("%d grammars opened, %d texts matched\n", opened, matched);
    assert_true(opened > 200 && matched > 1000);
}

/* ---- Vocabularies ------------------------------------------------------------------------------------------------------------------ */

enum { MOST_TOKENS = 600 };
typedef struct vocab { char text[MOST_TOKENS][32]; const char *token[MOST_TOKENS]; int32_t type[MOST_TOKENS]; float score[MOST_TOKENS]; int n; } vocab;

static int add(vocab *v, const char *text, int type)
{
    snprintf(v->text[v->n], sizeof v->text[0], "%s", text);
    v->token[v->n] = v->text[v->n];
    v->type[v->n] = type;
    return v->n++;
}

static nm_tokenizer *open_vocab(const vocab *v, const char *model, int eos)
{
    gguf_writer w = {0};
    nm_gguf *g = NULL;
    nm_tokenizer *t = NULL;
    size_t size;
    gw_string(&w, "general.architecture", "llama");
    gw_string(&w, "tokenizer.ggml.model", model);
    if (!strcmp(model, "gpt2")) gw_string(&w, "tokenizer.ggml.pre", "gpt-2");
    gw_strings(&w, "tokenizer.ggml.tokens", v->token, (uint64_t)v->n);
    gw_array(&w, "tokenizer.ggml.token_type", NM_META_I32, v->type, (uint64_t)v->n);
    if (!strcmp(model, "llama")) gw_array(&w, "tokenizer.ggml.scores", NM_META_F32, v->score, (uint64_t)v->n);
    else gw_strings(&w, "tokenizer.ggml.merges", (const char *const[]){"a b"}, 1);
    gw_u32(&w, "tokenizer.ggml.eos_token_id", (uint32_t)eos);
    void *bytes = gw_finish(&w, &size);
    if (nm_gguf_open_memory(&g, bytes, size, "test.gguf", true) != NM_OK || nm_tokenizer_open(&t, g) != NM_OK) fail_msg("%s", nm_error_text());
    nm_gguf_close(&g);
    free(bytes);
    return t;
}

/* Bytes as GPT-2 writes them, words, half characters, and what shows nothing. */
static nm_tokenizer *byte_vocab(void)
{
    static const char *const more[] = {"ab", "abc", "{\"", "\":", "\"}", "\xc4\xa0\x61", "\xc3\x83\xc2\xa9", "\xc3\xb0\xc5\x81", "\xc2\xa6\xc4\xbb", "aa", "aaa", "b\xc3\x83"};
    vocab *v = calloc(1, sizeof *v);
    uint32_t next = 0x100;
    for (unsigned b = 0; b < 256; b++) {
        bool prints = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        char text[8] = {0};
        nm_utf8_encode(prints ? b : next++, text);
        add(v, text, 1);
    }
    for (size_t i = 0; i < COUNT(more); i++) add(v, more[i], 1);
    int end = add(v, "<|im_end|>", 3);
    add(v, "<|im_start|>", 3);
    add(v, "a{", 4);
    nm_tokenizer *t = open_vocab(v, "gpt2", end);
    free(v);
    return t;
}

static nm_tokenizer *spm_vocab(void)
{
    static const char *const pieces[] = {"\xe2\x96\x81", "\xe2\x96\x81\x61", "a", "b", "ab", "\xe2\x96\x81\xe2\x96\x81", "\xc3\xa9", "\n", "\xe2\x96\x81\x61\x62"};
    vocab *v = calloc(1, sizeof *v);
    add(v, "<unk>", 2);
    add(v, "<s>", 3);
    add(v, "</s>", 3);
    for (int b = 0; b < 256; b++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)b);
        add(v, text, 6);
    }
    for (size_t i = 0; i < COUNT(pieces); i++) add(v, pieces[i], 1);
    nm_tokenizer *t = open_vocab(v, "llama", 2);
    free(v);
    return t;
}

static nm_tokenizer *open_file(const char *path)
{
    nm_gguf *g = NULL;
    nm_tokenizer *t = NULL;
    if (nm_gguf_open(&g, path, true) != NM_OK || nm_tokenizer_open(&t, g) != NM_OK) fail_msg("%s", nm_error_text());
    nm_gguf_close(&g);
    return t;
}

static int32_t id_of(const nm_tokenizer *t, const char *raw)
{
    for (int32_t i = 0; i < nm_token_count(t); i++)
        if (!strcmp(nm_token_raw(t, i), raw)) return i;
    fail_msg("no token %s", raw);
    return -1;
}

static nm_constraint *open_constraint(const nm_grammar *g, const nm_tokenizer *t)
{
    nm_constraint *c;
    if (nm_constraint_open(&c, g, t) != NM_OK) fail_msg("%s", nm_error_text());
    return c;
}

/* The mask says of each token what it by itself is told; returns how many may come. */
static int check_mask(nm_constraint *c, const nm_tokenizer *t)
{
    int32_t n = nm_token_count(t);
    int allowed = 0;
    uint32_t *mask = malloc(((size_t)n + 31) / 32 * sizeof *mask);
    for (int round = 0; round < 2; round++) {       /* the second time from memory */
        allowed = 0;
        if (nm_constraint_mask(c, mask) != NM_OK) fail_msg("%s", nm_error_text());
        for (int32_t i = 0; i < n; i++) {
            bool yes = mask[i / 32] >> i % 32 & 1;
            if (yes != nm_constraint_allows(c, i)) fail_msg("token %d (%s): mask says %d", i, nm_token_raw(t, i), yes);
            allowed += yes;
        }
        for (int32_t i = n; i % 32; i++) assert_false(mask[i / 32] >> i % 32 & 1);
    }
    assert_false(nm_constraint_allows(c, -1));
    assert_false(nm_constraint_allows(c, n));
    free(mask);
    return allowed;
}

static void accept(nm_constraint *c, int32_t id)
{
    if (nm_constraint_accept(c, id) != NM_OK) fail_msg("%s", nm_error_text());
}

/* Every token that begins a rest of the grammar's only text, and no other. */
static void test_masks(void **state)
{
    (void)state;
    static const char text[] = "abc{\" a\":\xc3\xa9\xf0\x9f\xa6\x99\"}";
    nm_tokenizer *t = byte_vocab();
    nm_grammar *g = open_grammar("root ::= \"abc{\\\" a\\\":\xc3\xa9\xf0\x9f\xa6\x99\\\"}\"");
    for (size_t at = 0; at <= strlen(text); at++) {
        nm_constraint *c = open_constraint(g, t);
        for (size_t i = 0; i < at; i++) {
            int32_t id = 0;
            char *shown = NULL;
            size_t n = 0;
            for (;; id++, nm_free(shown)) {
                assert_int_equal(nm_detokenize(t, &id, 1, 0, &shown, &n), NM_OK);
                if (n == 1 && *shown == text[i]) break;
            }
            nm_free(shown);
            accept(c, id);
        }
        int want = at == strlen(text);
        for (int32_t id = 0; id < nm_token_count(t); id++) {
            char *shown;
            size_t n;
            assert_int_equal(nm_detokenize(t, &id, 1, 0, &shown, &n), NM_OK);
            bool fits = n ? n <= strlen(text) - at && !memcmp(shown, text + at, n) : nm_token_ends(t, id) && at == strlen(text);
            assert_int_equal(nm_constraint_allows(c, id), fits);
            want += fits && n;
            nm_free(shown);
        }
        assert_int_equal(check_mask(c, t), want);
        assert_int_equal(nm_constraint_ended(c), at == strlen(text));
        nm_constraint_close(&c);
        assert_null(c);
    }
    nm_grammar_close(&g);
    nm_tokenizer_close(&t);
}

static void test_ends(void **state)
{
    (void)state;
    nm_tokenizer *t = byte_vocab();
    nm_grammar *g = open_grammar("root ::= \"a\"+ | \"<|im_start|>\"");
    nm_constraint *c = open_constraint(g, t);
    int32_t end = id_of(t, "<|im_end|>"), start = id_of(t, "<|im_start|>"), a = id_of(t, "a");
    assert_false(nm_constraint_allows(c, end));
    assert_false(nm_constraint_allows(c, start));       /* it shows nothing */
    assert_int_equal(nm_constraint_accept(c, end), NM_USAGE);
    assert_int_equal(nm_constraint_accept(c, id_of(t, "b")), NM_USAGE);
    assert_int_equal(nm_constraint_accept(c, -1), NM_USAGE);
    assert_int_equal(nm_constraint_accept(c, nm_token_count(t)), NM_USAGE);
    accept(c, a);
    assert_true(nm_constraint_allows(c, end) && nm_constraint_allows(c, a) && !nm_constraint_ended(c));
    accept(c, end);
    assert_true(nm_constraint_ended(c) && !nm_constraint_allows(c, a) && !nm_constraint_allows(c, end));
    assert_int_equal(nm_constraint_accept(c, a), NM_USAGE);
    assert_int_equal(check_mask(c, t), 0);
    nm_constraint_close(&c);
    nm_grammar_close(&g);
    nm_tokenizer_close(&t);
}

/* A control token comes where the grammar names it, and neither by its characters, nor by any text, nor by bytes that no text has. */
static void test_control_tokens(void **state)
{
    (void)state;
    nm_tokenizer *t = byte_vocab();
    nm_grammar *g = open_grammar("root ::= (@\"<|im_start|>\" | \"<|im_start|>\") [^b]* \"b\" @\"<|im_start|>\"{2} @\"none\"?");
    nm_constraint *c = open_constraint(g, t);
    int32_t start = id_of(t, "<|im_start|>"), a = id_of(t, "a"), no_text = id_of(t, "\xc3\xbf");
    assert_int_equal(check_mask(c, t), 2);      /* it, and '<' */
    assert_false(nm_constraint_allows(c, no_text));
    accept(c, start);
    assert_true(nm_constraint_allows(c, a) && nm_constraint_allows(c, id_of(t, "<")));
    assert_false(nm_constraint_allows(c, start) || nm_constraint_allows(c, no_text));
    check_mask(c, t);
    accept(c, a);
    accept(c, id_of(t, "b"));
    assert_int_equal(check_mask(c, t), 1);
    accept(c, start);
    assert_false(nm_constraint_allows(c, id_of(t, "<|im_end|>")));
    accept(c, start);
    assert_true(nm_constraint_allows(c, id_of(t, "<|im_end|>")) && !nm_constraint_allows(c, start));
    nm_constraint_close(&c);
    assert_false(matches_n(g, "\xff<|im_start|>\xff" "b", 16));
    nm_grammar_close(&g);
    nm_tokenizer_close(&t);
}

/* More states than are remembered: what is forgotten, also in the middle of a mask, is found again. */
static void test_forgetting_constraint(void **state)
{
    (void)state;
    enum { TIMES = 9000 };
    nm_tokenizer *t = byte_vocab();
    nm_grammar *g = open_grammar("root ::= [ac]{9000} \"b\"");
    nm_constraint *c = open_constraint(g, t);
    int32_t aaa = id_of(t, "aaa"), b = id_of(t, "b");
    for (int i = 0; i < TIMES; i += 3) {
        bool near = i > NM_STATES_MOST - 60 && i < NM_STATES_MOST + 60;
        if (near || i % 600 == 0) assert_int_equal(check_mask(c, t), 4);     /* a, c, aa, aaa */
        assert_false(nm_constraint_allows(c, b));
        accept(c, aaa);
    }
    assert_int_equal(check_mask(c, t), 1);
    accept(c, b);
    assert_true(nm_constraint_ended(c));
    nm_constraint_close(&c);
    nm_grammar_close(&g);
    nm_tokenizer_close(&t);
}

/* The space that SentencePiece puts before a text is none of the text's. */
static void test_first_space(void **state)
{
    (void)state;
    nm_tokenizer *t = spm_vocab();
    nm_grammar *g = open_grammar("root ::= \"a\" \" a\"? \"\xc3\xa9\"?");
    nm_constraint *c = open_constraint(g, t);
    int32_t a = id_of(t, "a"), space_a = id_of(t, "\xe2\x96\x81\x61"), space = id_of(t, "\xe2\x96\x81");
    assert_int_equal(check_mask(c, t), 5);      /* a, its byte, space a, space and its byte */
    assert_true(nm_constraint_allows(c, a) && nm_constraint_allows(c, space_a) && nm_constraint_allows(c, space));
    accept(c, space);
    assert_int_equal(check_mask(c, t), 2);
    accept(c, a);
    assert_true(nm_constraint_allows(c, space_a) && nm_constraint_allows(c, id_of(t, "<0xC3>")) && nm_constraint_allows(c, id_of(t, "\xc3\xa9")));
    accept(c, id_of(t, "<0xC3>"));
    assert_int_equal(check_mask(c, t), 1);
    accept(c, id_of(t, "<0xA9>"));
    assert_true(nm_constraint_ended(c));
    nm_constraint_close(&c);
    nm_grammar_close(&g);
    nm_tokenizer_close(&t);
}

/* ---- Real vocabularies ---------------------------------------------------------------------------------------------------------------- */

static const char document[] = "{\"name\": \"Zo\xc3\xab \xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e \xf0\x9f\xa6\x99\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x9a\x80\",\n\t\"n\": [1, -2.5e11, null, true], \"a\": {\"b\": \"\\u00e9\\n\"}}";

/* Feeds a document as the tokenizer cuts it. Masks are held to each token at some of the places. */
static void check_document(const nm_tokenizer *t, const nm_grammar *g, int every)
{
    int32_t *ids;
    size_t n;
    nm_constraint *c = open_constraint(g, t);
    assert_int_equal(nm_tokenize(t, document, strlen(document), 0, &ids, &n), NM_OK);
    assert_true(n > 10);
    for (size_t i = 0; i < n; i++) {
        if (!nm_constraint_allows(c, ids[i])) fail_msg("token %zu, %s, is refused", i, nm_token_raw(t, ids[i]));
        if (i % (size_t)every == 0) check_mask(c, t);
        accept(c, ids[i]);
    }
    for (int32_t i = 0; i < nm_token_count(t); i++)
        if (nm_token_ends(t, i)) assert_true(nm_constraint_allows(c, i));
    nm_constraint_close(&c);
    nm_free(ids);
}

static void test_real_vocabularies(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt-2", "llama-spm", "llama-bpe", "qwen2", "gemma-4", "phi-3"};
    const char *folder = getenv("NOMOAT_TEST_DATA");
    if (!folder) {
        print_message("skipped: vocabularies of real models (NOMOAT_TEST_DATA is not set)\n");
        skip();
    }
    nm_grammar *g = open_grammar(json);
    assert_true(matches_n(g, document, strlen(document)));
    for (size_t i = 0; i < COUNT(names); i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/tokenizers/ggml-vocab-%s.gguf", folder, names[i]);
        nm_tokenizer *t = open_file(path);
        check_document(t, g, 9);
        nm_tokenizer_close(&t);
    }
    char path[1024];
    snprintf(path, sizeof path, "%s/tokenizers/ggml-vocab-bert-bge.gguf", folder);
    nm_tokenizer *words = open_file(path);
    nm_constraint *c;
    assert_int_equal(nm_constraint_open(&c, g, words), NM_REFUSED);
    nm_tokenizer_close(&words);
    nm_grammar_close(&g);
}

/* Logits by chance, of which those of closing brackets and of the end grow: whatever comes out must be a document. */
static void random_document(const nm_tokenizer *t, const nm_grammar *g, uint64_t seed)
{
    int32_t n = nm_token_count(t), *ids = malloc(4000 * sizeof *ids), token;
    float *logits = malloc((size_t)n * sizeof *logits);
    int32_t closers[3], count = 0;
    nm_sampling with = {.temperature = 1, .top_k = 40, .top_p = 0.9f, .typical = 1, .repeat_penalty = 1, .seed = seed};
    nm_sampler *s;
    nm_constraint *c = open_constraint(g, t);
    assert_int_equal(nm_sampler_open(&s, &with, n), NM_OK);
    for (int k = 0; k < 3; k++) closers[k] = id_of(t, (const char *const[]){"\"", "}", "]"}[k]);
    while (!nm_constraint_ended(c)) {
        assert_true(count < 4000);
        for (int32_t i = 0; i < n; i++) logits[i] = (float)(nm_rng_u64(seed, (uint64_t)count, (uint64_t)i) >> 40) * 0x1p-21f + (nm_token_ends(t, i) ? 8 : 0);
        for (int k = 0; k < 3; k++) logits[closers[k]] += (float)count / 8;
        if (nm_sampler_draw_within(s, logits, c, &token) != NM_OK) fail_msg("%s", nm_error_text());
        accept(c, token);
        ids[count++] = token;
    }
    char *text;
    size_t length;
    assert_int_equal(nm_detokenize(t, ids, (size_t)count, 0, &text, &length), NM_OK);
    if (!matches_n(g, text, length)) fail_msg("seed %d: %s", (int)seed, text);
    nm_free(text);
    nm_constraint_close(&c);
    nm_sampler_close(&s);
    free(ids);
    free(logits);
}

static void test_random_documents(void **state)
{
    (void)state;
    const char *models = getenv("NOMOAT_TEST_MODELS");
    nm_tokenizer *t = byte_vocab();
    nm_grammar *g = open_grammar(json);
    for (uint64_t seed = 0; seed < 40; seed++) random_document(t, g, seed);
    nm_tokenizer_close(&t);
    if (models) {
        char path[1024];
        snprintf(path, sizeof path, "%s/smollm2-135m-instruct-q4_1.gguf", models);
        t = open_file(path);
        check_document(t, g, 5);
        for (uint64_t seed = 0; seed < 3; seed++) random_document(t, g, seed);
        nm_tokenizer_close(&t);
    } else {
        print_message("skipped: SmolLM2's vocabulary (NOMOAT_TEST_MODELS is not set)\n");
    }
    nm_grammar_close(&g);
}

/* ---- Draws ---------------------------------------------------------------------------------------------------------------------------- */

static void test_draw_within(void **state)
{
    (void)state;
    enum { DRAWS = 40000 };
    nm_tokenizer *t = byte_vocab();
    nm_grammar *g = open_grammar("root ::= [abc]");
    nm_constraint *c = open_constraint(g, t);
    int32_t n = nm_token_count(t), token, first[DRAWS], seen[3] = {0};
    float *logits = calloc((size_t)n + 10, sizeof *logits);     /* a model may have more rows than there are tokens */
    int32_t a = id_of(t, "a");
    logits[a] = logf(60);
    logits[a + 1] = logf(30);
    logits[a + 2] = logf(10);
    nm_sampling with = {.temperature = 1, .top_p = 1, .typical = 1, .repeat_penalty = 1, .seed = 5};
    for (int round = 0; round < 2; round++) {
        nm_sampler *s;
        assert_int_equal(nm_sampler_open(&s, &with, n + 10), NM_OK);
        for (int i = 0; i < DRAWS; i++) {
            assert_int_equal(nm_sampler_draw_within(s, logits, c, &token), NM_OK);
            assert_in_range(token, a, a + 2);
            if (round) assert_int_equal(token, first[i]);
            else seen[token - a]++;
            first[i] = token;
        }
        nm_sampler_close(&s);
    }
    for (int k = 0; k < 3; k++) assert_true(fabs(seen[k] / (double)DRAWS - (double[]){0.6, 0.3, 0.1}[k]) < 0.01);
    with.temperature = 0;
    nm_sampler *s;
    assert_int_equal(nm_sampler_open(&s, &with, n + 10), NM_OK);
    logits[n + 3] = 100;
    logits[a + 5] = 50;
    assert_int_equal(nm_sampler_draw_within(s, logits, c, &token), NM_OK);
    assert_int_equal(token, a);
    assert_int_equal(nm_sampler_bias(s, (int32_t[]){a, a + 2, a + 2}, (float[]){-INFINITY, 2, 2}, 3), NM_OK);
    assert_int_equal(nm_sampler_draw_within(s, logits, c, &token), NM_OK);
    assert_int_equal(token, a + 2);
    assert_int_equal(nm_sampler_bias(s, (int32_t[]){a, a + 1, a + 2}, (float[]){-INFINITY, -INFINITY, -INFINITY}, 3), NM_OK);
    assert_int_equal(nm_sampler_draw_within(s, logits, c, &token), NM_FAILED);
    assert_int_equal(nm_sampler_bias(s, NULL, NULL, 0), NM_OK);
    accept(c, a);
    accept(c, id_of(t, "<|im_end|>"));
    assert_int_equal(nm_sampler_draw_within(s, logits, c, &token), NM_FAILED);
    nm_sampler_close(&s);
    nm_constraint_close(&c);
    nm_grammar_close(&g);
    nm_tokenizer_close(&t);
    free(logits);
}

static void test_bias(void **state)
{
    (void)state;
    float logits[3] = {1, 2, 3};
    nm_sampling with = {.temperature = 0, .top_p = 1, .typical = 1, .repeat_penalty = 1};
    nm_sampler *s;
    int32_t token;
    assert_int_equal(nm_sampler_open(&s, &with, 3), NM_OK);
    assert_int_equal(nm_sampler_bias(s, (int32_t[]){2, 0}, (float[]){-INFINITY, 0.5f}, 2), NM_OK);
    assert_int_equal(nm_sampler_draw(s, logits, &token), NM_OK);
    assert_int_equal(token, 1);
    assert_int_equal(nm_sampler_bias(s, (int32_t[]){0, 3}, (float[]){9, 9}, 2), NM_USAGE);
    assert_int_equal(nm_sampler_bias(s, (int32_t[]){-1}, (float[]){9}, 1), NM_USAGE);
    assert_int_equal(nm_sampler_bias(s, (int32_t[]){0}, (float[]){NAN}, 1), NM_USAGE);
    assert_int_equal(nm_sampler_bias(s, (int32_t[]){0}, (float[]){INFINITY}, 1), NM_USAGE);
    assert_int_equal(nm_sampler_draw(s, logits, &token), NM_OK);
    assert_int_equal(token, 1);     /* what was refused changed nothing */
    assert_int_equal(nm_sampler_bias(s, (int32_t[]){0, 0}, (float[]){1, 1.5f}, 2), NM_OK);
    assert_int_equal(nm_sampler_draw(s, logits, &token), NM_OK);
    assert_int_equal(token, 0);     /* 1 + 1 + 1.5 */
    assert_int_equal(nm_sampler_bias(s, NULL, NULL, 0), NM_OK);
    assert_int_equal(nm_sampler_draw(s, logits, &token), NM_OK);
    assert_int_equal(token, 2);
    nm_sampler_close(&s);
}

/* ---- Threads, memory ------------------------------------------------------------------------------------------------------------------- */

static void *ask(void *tokenizer)
{
    const nm_trie *trie = NULL;
    return nm_tokenizer_trie(tokenizer, &trie) == NM_OK ? (void *)(uintptr_t)trie : NULL;
}

static void test_threads(void **state)
{
    (void)state;
    nm_tokenizer *t = byte_vocab();
    pthread_t thread[8];
    void *trie[8];
    for (int i = 0; i < 8; i++) assert_int_equal(pthread_create(&thread[i], NULL, ask, t), 0);
    for (int i = 0; i < 8; i++) pthread_join(thread[i], &trie[i]);
    for (int i = 0; i < 8; i++) assert_true(trie[i] && trie[i] == trie[0]);
    nm_tokenizer_close(&t);
}

/* All that allocates, once. */
static nm_err everything(const nm_tokenizer *t, const float *logits)
{
    nm_grammar *g = NULL;
    nm_constraint *c = NULL;
    nm_sampler *s = NULL;
    nm_sampling with = {.temperature = 1, .top_p = 1, .typical = 1, .repeat_penalty = 1, .seed = 1};
    uint32_t mask[(MOST_TOKENS + 31) / 32];
    int32_t token;
    bool yes;
    nm_err err = nm_grammar_open(&g, json, strlen(json));
    if (err == NM_OK) err = nm_grammar_matches(g, document, strlen(document), &yes);
    if (err == NM_OK) err = nm_constraint_open(&c, g, t);
    if (err == NM_OK) err = nm_constraint_mask(c, mask);
    if (err == NM_OK) err = nm_sampler_open(&s, &with, nm_token_count(t));
    if (err == NM_OK) err = nm_sampler_bias(s, (int32_t[]){3}, (float[]){1}, 1);
    for (int i = 0; i < 5 && err == NM_OK; i++) {
        err = nm_sampler_draw_within(s, logits, c, &token);
        if (err == NM_OK) err = nm_constraint_accept(c, token);
    }
    nm_sampler_close(&s);
    nm_constraint_close(&c);
    nm_grammar_close(&g);
    return err;
}

static void test_failing_memory(void **state)
{
    (void)state;
    nm_err err = NM_NO_MEMORY;
    float logits[MOST_TOKENS] = {0};
    for (int n = 0; err != NM_OK; n++) {
        assert_true(n < 5000);
        int64_t alive = nm_mem_alive();
        nm_tokenizer *t = byte_vocab();
        nm_mem_fail_after(n);
        err = everything(t, logits);
        nm_mem_fail_after(-1);
        if (err != NM_OK) assert_int_equal(err, NM_NO_MEMORY);
        nm_tokenizer_close(&t);
        assert_int_equal(nm_mem_alive(), alive);
    }
}

/* Forgetting with each allocation failing: the automaton goes on as before, or as after. */
static void test_forgetting(void **state)
{
    (void)state;
    nm_grammar *g = open_grammar("root ::= \"[\" (root \",\")* \"]\" | [0-9]{1,30} | .{7}");
    static const char text[] = "[[[12345,77,],[";
    for (int n = 0; n < 30; n++) {
        nm_automaton *a;
        assert_int_equal(nm_automaton_open(&a, g), NM_OK);
        uint32_t at[3] = {nm_automaton_start(a), 0, nm_automaton_start(a)};
        for (size_t i = 0; i < strlen(text); i++) {
            assert_int_equal(nm_automaton_next(a, at[0], (unsigned char)text[i], &at[0]), NM_OK);
            if (i % 4 != 3) continue;
            nm_mem_fail_after(n);
            nm_err err = nm_automaton_collect(a, at, 3);
            nm_mem_fail_after(-1);
            if (err == NM_OK) assert_int_equal(at[2], nm_automaton_start(a));
            if (err == NM_OK) assert_true(a->states.n_lists <= 3);
        }
        for (const char *rest = "5,],],]"; *rest; rest++) assert_int_equal(nm_automaton_next(a, at[0], (unsigned char)*rest, &at[0]), NM_OK);
        assert_true(at[1] == NM_STATE_DEAD && nm_automaton_accepts(a, at[0]));
        nm_automaton_close(&a);
    }
    nm_grammar_close(&g);
}

/* A rule of `length` calls within each other, around an X: of itself or, behind a Y, of the next. */
static void put_chain(nm_str *s, char name, int length, char next)
{
    for (int i = 0; i + 1 < length; i++) nm_str_printf(s, "%c%x::=%c%x\"(\"\n", name, i, name, i + 1);
    nm_str_printf(s, "%c%x::=\"X\"(%c0|\"Y\"%c0)\")\"\n", name, length - 1, name, next);
}

/* Where nearly all that is known is needed, little is gained by forgetting the rest, again and again. */
static void test_forgetting_for_little(void **state)
{
    enum { DEEP = 20, OFTEN = 100 };
    static const int read[] = {17, 61, 51};     /* of the chains, so that some 50 pairs short of NM_PAIRS_MOST are needed */
    nm_str s = {0};
    nm_automaton *a;
    (void)state;
    nm_str_puts(&s, "root::=a0\n");
    put_chain(&s, 'a', 58000, 'b');
    put_chain(&s, 'b', 1000, 'c');
    put_chain(&s, 'c', 30, 't');
    nm_str_puts(&s, "t0::=\"a\"t0\"A\"|\"b\"t0\"B\"|\"1\"\n");
    nm_grammar *g = open_grammar(s.data);
    assert_int_equal(nm_automaton_open(&a, g), NM_OK);
    uint32_t path[DEEP + 1] = {nm_automaton_start(a)};
    for (int chain = 0; chain < 3; chain++)
        for (int i = 0; i <= read[chain]; i++) {
            a->work = 0;
            if (nm_automaton_full(a)) assert_int_equal(nm_automaton_collect(a, path, 1), NM_OK);
            assert_int_equal(nm_automaton_next(a, path[0], i < read[chain] ? 'X' : 'Y', &path[0]), NM_OK);
        }
    nm_err err = NM_OK;
    int forgot = 0;
    for (uint64_t word = a->work = 0; forgot < OFTEN && err == NM_OK; word++)
        for (int k = 0; k < DEEP && forgot < OFTEN && err == NM_OK; k++) {
            if (nm_automaton_full(a)) err = nm_automaton_collect(a, path, (size_t)k + 1), forgot++;
            if (err == NM_OK) err = nm_automaton_next(a, path[k], word >> k & 1 ? 'a' : 'b', &path[k + 1]);
        }
    assert_int_equal(err, NM_FAILED);
    assert_true(forgot < OFTEN);
    nm_automaton_close(&a);
    nm_grammar_close(&g);
    nm_str_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_notation), cmocka_unit_test(test_refusals), cmocka_unit_test(test_bounds), cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_too_many_ways), cmocka_unit_test(test_random_grammars), cmocka_unit_test(test_masks), cmocka_unit_test(test_forgetting_constraint), cmocka_unit_test(test_ends),
        cmocka_unit_test(test_control_tokens),
        cmocka_unit_test(test_first_space), cmocka_unit_test(test_real_vocabularies), cmocka_unit_test(test_random_documents),
        cmocka_unit_test(test_draw_within), cmocka_unit_test(test_bias), cmocka_unit_test(test_threads), cmocka_unit_test(test_failing_memory),
        cmocka_unit_test(test_forgetting), cmocka_unit_test(test_forgetting_for_little),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
