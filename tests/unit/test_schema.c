/* JSON schemas as grammars: what is written for each keyword, what is refused and where, the published test suite, random schemas against a validator of our own,
 * hostile schemas, and each allocation failing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <regex.h>

#include "base/mem.h"
#include "base/rng.h"
#include "format/json.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- Helpers ---------------------------------------------------------------------------------------------------------------------- */

static nm_grammar *open_schema(const char *schema)
{
    char *gbnf;
    size_t length;
    nm_grammar *grammar;
    if (nm_schema_grammar(&gbnf, &length, schema, schema ? strlen(schema) : 0) != NM_OK) return NULL;
    if (nm_grammar_open(&grammar, gbnf, length) != NM_OK) fail_msg("%s: its grammar: %s\n%s", schema, nm_error_text(), gbnf);
    nm_free(gbnf);
    return grammar;
}

static bool matches(const nm_grammar *grammar, const char *text, size_t length)
{
    bool fits;
    if (nm_grammar_matches(grammar, text, length, &fits) != NM_OK) fail_msg("%s: %s", text, nm_error_text());
    return fits;
}

/* Documents are separated by blanks outside of strings and brackets; those behind "!" must not fit. */
static void check(const char *schema, const char *documents)
{
    nm_grammar *grammar = open_schema(schema);
    bool expected = true;
    if (!grammar) fail_msg("%s: %s", schema, nm_error_text());
    for (const char *at = documents; *at;) {
        size_t n = 0;
        bool quoted = false;
        int depth = 0;
        for (; at[n] && (quoted || depth > 0 || at[n] != ' '); n++) {
            if (quoted && at[n] == '\\') n++;
            else if (at[n] == '"') quoted = !quoted;
            else if (!quoted) depth += (at[n] == '[' || at[n] == '{') - (at[n] == ']' || at[n] == '}');
        }
        if (n == 1 && *at == '!') expected = false;
        else if (n && matches(grammar, at, n) != expected) fail_msg("%s: %.*s: expected %d", schema, (int)n, at, expected);
        at += n + (at[n] == ' ');
    }
    nm_grammar_close(&grammar);
}

static void refuse(const char *schema, const char *expected)
{
    char *gbnf;
    size_t length;
    int64_t alive = nm_mem_alive();
    nm_err err = nm_schema_grammar(&gbnf, &length, schema, strlen(schema));
    if (err != NM_USAGE || gbnf || !strstr(nm_error_text(), expected)) fail_msg("%.200s: expected \"%s\", got %d \"%s\"", schema, expected, err, err ? nm_error_text() : gbnf);
    assert_int_equal(nm_mem_alive(), alive);
}

/* ---- Keywords ----------------------------------------------------------------------------------------------------------------------- */

static void test_types(void **state)
{
    (void)state;
    check("{}", "null true false 0 -1.5 1e9 \"\" [] [1,[2]] {} {\"a\":{\"b\":[]}} ! nul tru 01 1. .5 {a:1} {\"a\"} 1e ] [");
    check("true", "1 [] {}");
    check("{\"type\":\"null\"}", "null ! 0 \"\" nullnull");
    check("{\"type\":[\"boolean\",\"integer\"]}", "true false 0 -12 ! null 1.5 -0 00 1e3 \"\"");
    check("{\"type\":[\"integer\",\"number\"]}", "1 1.5 ! \"1\"");
    check("{\"type\":\"number\"}", "1 -0 0.25 1.5e-7 1E+30 ! +1 1.e5 0x10 NaN");
    check("{\"type\":\"string\"}", "\"\" \"a\xc3\xa9\" \"\\n\\u00e9\\ud83d\\ude00\" ! \"\\x\" \"\\ud83d\" \"\\ude00\" \"\\ud83d\\u0020\" \"\x01\"");
    check("{\"minLength\":3,\"type\":\"integer\"}", "1 ! \"abc\"");
    check("{\"minLength\":3}", "1 \"abc\" {} null ! \"ab\"");
    check(NULL, "{} {\"a\":1} ! [] 1 \"\" null");
}

static void test_values(void **state)
{
    (void)state;
    check("{\"enum\":[\"a\",1,null,[1,{\"k\":\"\\u0001\"}],1.5]}", "\"a\" 1 null [1,{\"k\":\"\\u0001\"}] 1.5 ! \"b\" 2 1.50 [1] true");
    check("{\"const\":\"\\\"\\\\\\n/\"}", "\"\\\"\\\\\\n/\" ! \"\\\"\" \"a\"");
    check("{\"enum\":[1,2,\"x\",3.5],\"type\":\"integer\",\"minimum\":2}", "2 ! 1 \"x\" 3.5");
    check("{\"enum\":[\"ab\",\"abc\",\"x\"],\"pattern\":\"^a\",\"maxLength\":2}", "\"ab\" ! \"abc\" \"x\"");
    check("{\"enum\":[{\"a\":1},{\"a\":\"s\"},{}],\"properties\":{\"a\":{\"type\":\"string\"}},\"required\":[\"a\"]}", "{\"a\":\"s\"} ! {\"a\":1} {}");
    check("{\"enum\":[[1],[1,2],[\"a\"]],\"items\":{\"type\":\"integer\"},\"minItems\":2}", "[1,2] ! [1] [\"a\"]");
    check("{\"const\":1.0,\"enum\":[1,2]}", "1 ! 2 1.0");
    check("{\"const\":1e21}", "1000000000000000000000 ! 1");
    check("{\"const\":18446744073709551615}", "18446744073709551615 ! 18446744073709551614");
    check("{\"const\":{\"a\":[1,2]}}", "{\"a\":[1,2]} { \"a\": [ 1, 2 ] } ! {\"a\":[2,1]}");
}

static void test_numbers(void **state)
{
    (void)state;
    check("{\"type\":\"integer\",\"minimum\":-12,\"maximum\":105}", "-12 -1 0 9 10 99 100 105 ! -13 106 1050 -0 1.0 007");
    check("{\"type\":\"integer\",\"exclusiveMinimum\":0,\"exclusiveMaximum\":10}", "1 9 ! 0 10 -1");
    check("{\"type\":\"integer\",\"minimum\":1.5}", "2 100000 ! 1 0 -2");
    check("{\"type\":\"integer\",\"multipleOf\":7,\"minimum\":10,\"maximum\":1000}", "14 994 ! 7 15 1001");
    check("{\"type\":\"integer\",\"multipleOf\":1000}", "0 1000 -23000 ! 100 1001");
    check("{\"allOf\":[{\"multipleOf\":4},{\"multipleOf\":6}],\"type\":\"integer\"}", "12 24 0 ! 4 6 18");
    check("{\"minimum\":-1.25,\"exclusiveMaximum\":0.5}", "-1.25 -1.2 -0 0 0.49999 \"x\" ! -1.26 0.5 0.50 1");
    check("{\"type\":\"number\",\"minimum\":0}", "0 0.0 12.75 ! -0 -0.5 -1");
    check("{\"type\":\"number\",\"exclusiveMinimum\":0}", "0.01 1 ! 0 0.00 -1");
    check("{\"type\":\"number\",\"maximum\":-3}", "-3 -3.5 -100 ! -2.99 0 3 -0");
    check("{\"type\":\"number\",\"multipleOf\":0.01}", "1 1.5 1.25 1.250 -7.77 ! 1.255");
    check("{\"type\":\"number\",\"maximum\":1e30}", "1 1000000000000000000000000000000 ! 1000000000000000000000000000001");
    check("{\"type\":\"integer\",\"minimum\":9223372036854775808}", "9223372036854775808 ! 9223372036854775807");
    refuse("{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", "admits no document");
    refuse("{\"type\":\"integer\",\"exclusiveMinimum\":3,\"exclusiveMaximum\":4}", "admits no document");
    refuse("{\"multipleOf\":99991}", "#/multipleOf: needs an automaton");
    refuse("{\"multipleOf\":1e-30}", "#/multipleOf: is too large or too fine");
    refuse("{\"multipleOf\":0}", "#/multipleOf: must be a number above 0");
}

static void test_strings(void **state)
{
    (void)state;
    check("{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", "\"ab\" \"\xc3\xa9\xf0\x9f\x98\x80\" \"\\u00e9\\n\\\"\" \"\\ud83d\\ude00x\" ! \"a\" \"abcd\" \"\"");
    check("{\"type\":\"string\",\"maxLength\":0}", "\"\" ! \"a\"");
    check("{\"type\":\"string\",\"maxLength\":20000}", "\"\" \"a\"");
    check("{\"type\":\"string\",\"pattern\":\"b\"}", "\"b\" \"abc\" \"\\nb\" ! \"\" \"ac\"");
    check("{\"type\":\"string\",\"pattern\":\"^a|c$\"}", "\"ab\" \"bc\" \"a\" ! \"ba\" \"cb\"");
    check("{\"type\":\"string\",\"pattern\":\"^(?:\\\\d{3}|[^a-z]{2,3}?)\\\\.$\"}", "\"123.\" \"AB.\" \"\\n\\t.\" ! \"12a.\" \"a.\"");
    check("{\"type\":\"string\",\"pattern\":\"^[\\\\w.-]+@(?<host>\\\\w+\\\\.)+\\\\w{2,}$\"}", "\"a.b@c.de\" ! \"a@b\" \"@c.de\"");
    check("{\"type\":\"string\",\"pattern\":\"^\\\\u{1F600}\\\\uD83D\\\\uDE00\\\\x41\\\\cJ$\"}", "\"\xf0\x9f\x98\x80\xf0\x9f\x98\x80" "A\\n\" ! \"A\"");
    check("{\"type\":\"string\",\"pattern\":\"^\\\\S\\\\s\\\\D\\\\W$\"}", "\"a b!\" ! \"ab b\"");
    check("{\"type\":\"string\",\"pattern\":\"^(a*)*b?$\",\"minLength\":2,\"maxLength\":3}", "\"aa\" \"aab\" \"aaa\" ! \"b\" \"aaaa\" \"aba\"");
    check("{\"allOf\":[{\"pattern\":\"^a\"},{\"pattern\":\"z$\"}],\"type\":\"string\"}", "\"az\" \"abz\" ! \"a\" \"z\"");
    check("{\"type\":\"string\",\"pattern\":\"^.$\"}", "\"a\" \"\\\"\" \"\\\\\" \"\xe2\x82\xac\" ! \"\\n\" \"\xe2\x80\xa8\" \"\\u0061\"");
    check("{\"type\":\"string\",\"pattern\":\"^(?:[^\\\\u0000-\\\\uD7FF]a|[\\\\uE000-\\\\u{10FFFF}]b)$\"}", "\"\xee\x80\x80" "a\" \"\xee\x80\x80" "b\" ! \"aa\"");
    check("{\"type\":\"string\",\"format\":\"date\"}", "\"2024-02-29\" \"2000-02-29\" ! \"2023-02-29\" \"1900-02-29\" \"2024-04-31\" \"2024-13-01\" \"24-01-01\"");
    check("{\"type\":\"string\",\"format\":\"date-time\"}", "\"2024-02-29T23:59:59.123Z\" \"2024-01-01T00:00:00+01:00\" ! \"2024-01-01\" \"2024-01-01T24:00:00Z\"");
    check("{\"type\":\"string\",\"format\":\"uuid\"}", "\"123e4567-e89b-12d3-a456-426614174000\" ! \"123e4567e89b12d3a456426614174000\"");
    check("{\"type\":\"string\",\"format\":\"email\"}", "\"joe.bloggs@example.com\" ! \"joe\" \".a@b.de\" \"a@-b.de\"");
    refuse("{\"type\":\"string\",\"pattern\":\"^a$\",\"minLength\":2}", "admits no document");
}

static void test_arrays(void **state)
{
    (void)state;
    check("{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":1,\"maxItems\":3}", "[1] [1,2,3] [ 1, 2] [1,\n2] ! [] [1,2,3,4] [\"a\"] [1,] [,1]");
    check("{\"type\":\"array\",\"prefixItems\":[{\"const\":1},{\"const\":2},{\"const\":3}],\"items\":false}", "[] [1] [1,2] [1,2,3] ! [2] [1,3] [1,2,3,4]");
    check("{\"type\":\"array\",\"prefixItems\":[{\"const\":1},{\"const\":2}],\"items\":{\"const\":0},\"minItems\":3,\"maxItems\":4}", "[1,2,0] [1,2,0,0] ! [1,2] [1,2,0,0,0] [1,2,1]");
    check("{\"type\":\"array\",\"prefixItems\":[{\"const\":1},{\"const\":2},{}],\"minItems\":1}", "[1] [1,2] [1,2,{}] [1,2,3,4,5] ! [] [2]");
    check("{\"items\":false}", "[] 1 {} ! [1]");
    check("{\"type\":\"array\",\"maxItems\":0}", "[] [ ] ! [1]");
    check("{\"allOf\":[{\"prefixItems\":[{\"minimum\":1}]},{\"items\":{\"type\":\"integer\"}}],\"type\":\"array\"}", "[] [1,0] ! [0] [1,\"a\"]");
    refuse("{\"type\":\"array\",\"minItems\":2,\"prefixItems\":[true,false]}", "admits no document");
}

static void test_objects(void **state)
{
    (void)state;
    check("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"string\"},\"c\":true},\"required\":[\"b\"],\"additionalProperties\":false}",
          "{\"b\":\"\"} {\"a\":1,\"b\":\"\"} {\"b\":\"\",\"c\":[]} {\"a\":1,\"b\":\"\",\"c\":0} { \"a\": 1, \"b\": \"x\" } ! {} {\"a\":1} {\"b\":1} {\"b\":\"\",\"a\":1} {\"b\":\"\",\"d\":1} "
          "{\"b\":\"\",} {\"b\":\"\",\"b\":\"\"} [] 1");
    check("{\"type\":\"object\",\"properties\":{\"a\":{\"const\":1},\"b\":{\"const\":2}},\"additionalProperties\":{\"type\":\"null\"}}",
          "{} {\"a\":1} {\"b\":2} {\"a\":1,\"b\":2} {\"x\":null} {\"b\":2,\"aa\":null,\"\":null} ! {\"a\":null} {\"x\":1} {\"x\":null,\"a\":1} {\"\\u0061\":null}");
    check("{\"properties\":{\"a\":{\"const\":1}}}", "1 [] \"s\" null {\"a\":1} {\"b\":2} ! {\"a\":2}");
    check("{\"type\":\"object\",\"required\":[\"x\",\"y\"]}", "{\"x\":1,\"y\":2} {\"x\":1,\"y\":2,\"z\":3} ! {} {\"x\":1} {\"y\":1}");
    check("{\"type\":\"object\",\"properties\":{\"a\":false,\"b\":true},\"additionalProperties\":false}", "{} {\"b\":1} ! {\"a\":1}");
    check("{\"type\":\"object\",\"properties\":{\"\\\"q\\\\\":true},\"additionalProperties\":{\"type\":\"null\"}}", "{\"\\\"q\\\\\":1} {\"\\\"q\":null} ! {\"\\\"q\":1}");
    check("{\"type\":\"object\",\"additionalProperties\":false}", "{} { } ! {\"a\":1}");
    check("{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}", "{} {\"a\":1,\"b\":2} ! {\"a\":\"\"}");
    refuse("{\"type\":\"object\",\"properties\":{\"a\":{}},\"required\":[\"b\"],\"additionalProperties\":false}", "admits no document");
}

static void test_combinations(void **state)
{
    (void)state;
    check("{\"anyOf\":[{\"type\":\"string\",\"maxLength\":1},{\"type\":\"integer\"},{\"type\":\"string\",\"pattern\":\"^x\"}]}", "\"a\" \"xyz\" 1 ! \"ab\" null");
    check("{\"type\":\"object\",\"properties\":{\"k\":{\"type\":\"string\"}},\"required\":[\"k\"],\"anyOf\":[{\"required\":[\"a\"]},{\"required\":[\"b\"]}]}",
          "{\"k\":\"\",\"a\":1} {\"k\":\"\",\"b\":1} ! {\"k\":\"\"} {\"a\":1}");
    check("{\"oneOf\":[{\"properties\":{\"t\":{\"const\":\"a\"},\"x\":{\"type\":\"integer\"}},\"required\":[\"t\",\"x\"],\"type\":\"object\"},"
          "{\"type\":\"object\",\"properties\":{\"t\":{\"enum\":[\"b\",\"c\"]}},\"required\":[\"t\"]}]}", "{\"t\":\"a\",\"x\":1} {\"t\":\"c\"} ! {\"t\":\"a\"} {\"t\":\"d\"}");
    check("{\"oneOf\":[{\"type\":\"null\"},{\"type\":\"string\"},{\"type\":\"integer\",\"maximum\":3},{\"minimum\":4,\"type\":\"integer\"}]}", "null \"\" 3 4 ! 1.5 []");
    check("{\"oneOf\":[{\"enum\":[1,2]},{\"const\":3},{\"type\":\"string\",\"pattern\":\"^a\"},{\"type\":\"string\",\"pattern\":\"^b\"}]}", "1 3 \"a\" \"b\" ! 4 \"c\"");
    check("{\"allOf\":[{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"]},{\"properties\":{\"b\":true,\"a\":{\"minimum\":3}},\"required\":[\"b\"]}]}",
          "{\"a\":3,\"b\":0} {\"a\":3,\"b\":0,\"c\":0} ! {\"a\":2,\"b\":0} {\"a\":3}");
    check("{\"allOf\":[{\"additionalProperties\":{\"type\":\"integer\"}},{\"properties\":{\"a\":{}}}],\"type\":\"object\"}", "{\"a\":1} {\"b\":1} ! {\"a\":\"\"} {\"b\":\"\"}");
    refuse("{\"oneOf\":[{\"type\":\"integer\"},{\"minimum\":2}]}", "#/oneOf: alternatives 0 and 1 may hold at once");
    refuse("{\"oneOf\":[{\"type\":\"object\",\"properties\":{\"t\":{\"const\":1}}},{\"type\":\"object\",\"properties\":{\"t\":{\"const\":2}}}]}", "#/oneOf: alternatives 0 and 1");
}

static void test_references(void **state)
{
    (void)state;
    check("{\"$ref\":\"#/$defs/t\",\"$defs\":{\"t\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"next\":{\"anyOf\":[{\"$ref\":\"#/$defs/t\"},{\"type\":\"null\"}]}},"
          "\"required\":[\"v\",\"next\"],\"additionalProperties\":false}}}", "{\"v\":1,\"next\":null} {\"v\":1,\"next\":{\"v\":2,\"next\":null}} ! {\"v\":1} {\"v\":1,\"next\":{}}");
    check("{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}", "[] [[],[[]]] ! [1]");
    check("{\"definitions\":{\"a/b~c%\":{\"const\":1},\"l\":{\"prefixItems\":[{\"const\":5}]}},\"prefixItems\":[{\"$ref\":\"#/definitions/a~1b~0c%25\"},"
          "{\"$ref\":\"#/definitions/l/prefixItems/0\"}],\"type\":\"array\"}", "[1,5] ! [2] [1,6]");
    check("{\"$ref\":\"#/$defs/a\",\"maximum\":5,\"$defs\":{\"a\":{\"type\":\"integer\",\"minimum\":3}}}", "3 5 ! 2 6");
    check("{\"type\":\"object\",\"properties\":{\"c\":{\"$ref\":\"#\"},\"a\":{\"type\":\"integer\"}},\"additionalProperties\":false}", "{} {\"c\":{\"c\":{}},\"a\":1} ! {\"c\":1}");
    refuse("{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"$ref\":\"#/$defs/b\"},\"b\":{\"$ref\":\"#/$defs/a\"}}}", "refers to itself");
    refuse("{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}", "refers to itself");
    refuse("{\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"],\"type\":\"object\"}", "admits no document that has an end");
    refuse("{\"$ref\":\"http://example.org/x\"}", "#/$ref: only references within");
    refuse("{\"$ref\":\"#/$defs/none\"}", "#/$ref: there is no schema");
}

static void test_refusals(void **state)
{
    static const char *const keywords[] = {"not", "if", "then", "else", "contains", "dependentRequired", "dependentSchemas", "propertyNames", "patternProperties", "minProperties",
        "maxProperties", "unevaluatedProperties", "unevaluatedItems", "minContains", "$dynamicRef", "$anchor", "nullable", "x-mine", "additionalItems"};
    char schema[300], expected[100];
    (void)state;
    for (size_t i = 0; i < COUNT(keywords); i++) {
        snprintf(schema, sizeof schema, "{\"type\":\"object\",\"properties\":{\"a/b\":{\"items\":{\"%s\":{}}}}}", keywords[i]);
        snprintf(expected, sizeof expected, "#/properties/a~1b/items/%s: the keyword is not supported", keywords[i]);
        refuse(schema, expected);
    }
    refuse("{\"uniqueItems\":true}", "#/uniqueItems: the keyword is not supported");
    check("{\"uniqueItems\":false,\"title\":1,\"description\":2,\"default\":3,\"examples\":4,\"$schema\":5,\"$id\":6,\"$comment\":7,\"deprecated\":8,\"readOnly\":9,\"writeOnly\":10,\"type\":\"null\"}",
          "null ! 1");
    refuse("{\"type\":\"str\"}", "#/type: must be a type's name");
    refuse("{\"type\":[]}", "#/type");
    refuse("{\"minLength\":-1}", "#/minLength: must be a whole number");
    refuse("{\"maxItems\":1.5}", "#/maxItems: must be a whole number");
    refuse("{\"maxLength\":20001}", "minLength or maxLength is above");
    refuse("{\"items\":[{}]}", "#/items: must be a schema");
    refuse("{\"anyOf\":[]}", "#/anyOf: must be an array of schemas");
    refuse("{\"required\":[1]}", "#/required: must be an array of strings");
    refuse("{\"format\":\"uri\"}", "#/format: the format 'uri'");
    check("{\"type\":\"integer\",\"format\":\"int64\",\"pattern\":\"(?=a)\",\"properties\":{\"a\":{\"not\":{}}}}", "1 ! {}");      /* bind no integer */
    refuse("false", "admits no document");
    refuse("[]", "must be an object or a boolean");
    refuse("{", "bad JSON");
    refuse("{\"items\":{\"$id\":\"x\"}}", "#/items/$id");
}

static void test_refused_patterns(void **state)
{
    static const struct { const char *pattern, *expected; } cases[] = {
        {"(?=a)", "lookahead"}, {"(?!a)", "lookahead"}, {"(?<=a)", "lookbehind"}, {"(?<!a)", "lookbehind"}, {"(a)\\\\1", "back reference"}, {"\\\\k<n>", "back reference"},
        {"\\\\ba", "boundary"}, {"\\\\p{L}", "property"}, {"\\\\A", "escape \\A"}, {"a{3000}", "repetition of more than"}, {"(((((a{99}){99}){99}){99}){99})", "too large"},
        {"(a|b)*a(a|b){18}$", "automaton"}, {"a**", "nothing to repeat"}, {"*", "nothing to repeat"}, {"[", "[ without ]"}, {"(", "( without )"}, {")", ") without ("}, {"[b-a]", "out of order"},
        {"a{2,1}", "out of order"}, {"a{x}", "{ without"}, {"\\\\", "backslash"}, {"\\\\uD83D", "\\u without"}, {"(?i)a", "(?i"}, {"(?<n", "(?< without"}};
    char schema[300];
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        snprintf(schema, sizeof schema, "{\"items\":{\"pattern\":\"%s\"}}", cases[i].pattern);
        refuse(schema, cases[i].expected);
        assert_non_null(strstr(nm_error_text(), "schema: #/items/pattern: "));
    }
}

/* What tries to take time, memory or stack: refused, or done within the bounds. */
/* Seconds of this processor that a schema takes, whatever comes of it. */
static double seconds_of(const nm_str *schema)
{
    char *gbnf;
    size_t length;
    clock_t begin = clock();
    nm_err err = nm_schema_grammar(&gbnf, &length, schema->data, schema->length);
    assert_true(err == NM_OK || err == NM_USAGE);
    nm_free(gbnf);
    return (double)(clock() - begin) / CLOCKS_PER_SEC;
}

/* Values that are compared with each other: numbers that must be written out for it, and objects whose members are looked for. */
static void test_cost_of_values(void **state)
{
    nm_str s = {0};
    (void)state;
    for (int k = 0; k < 2; k++) {
        nm_str_puts(&s, k ? ",{\"enum\":[0.25" : "{\"allOf\":[{\"enum\":[0.25");
        for (int i = 0; i < 2000; i++) nm_str_printf(&s, ",%d.1234567890123%d", i, k + 1);
        nm_str_puts(&s, "]}");
    }
    nm_str_puts(&s, "]}");
    assert_true(seconds_of(&s) < 20);
    s.length = 0;
    for (int k = 0; k < 2; k++) {
        nm_str_puts(&s, k ? ",{\"enum\":[{" : "{\"allOf\":[{\"enum\":[{");
        for (int i = 0; i < 10000; i++) nm_str_printf(&s, "%s\"k%d\":1", i ? "," : "", k ? 9999 - i : i);
        nm_str_puts(&s, "}]}");
    }
    nm_str_puts(&s, "]}");
    refuse(s.data, "too complex");
    s.length = 0;
    for (int i = 0; i < 20000; i++) nm_str_printf(&s, "%s\"v%d\"", i ? "," : "{\"enum\":[", i);
    nm_str_puts(&s, "]}");
    nm_grammar *grammar = open_schema(s.data);      /* a list is not compared with itself */
    assert_non_null(grammar);
    nm_grammar_close(&grammar);
    nm_str_free(&s);
}

/* References that are looked for among many definitions, by way of others, again and again; and lists of types. */
static void test_cost_of_references(void **state)
{
    nm_str s = {0};
    (void)state;
    nm_str_puts(&s, "{\"$defs\":{");
    for (int i = 0; i < 20000; i++) nm_str_printf(&s, "\"d%d\":{},", i);
    for (int i = 0; i < 60; i++) nm_str_printf(&s, "\"r%d\":{\"$ref\":\"#/$defs/r%d\"},", i, i + 1);
    nm_str_puts(&s, "\"r60\":{\"type\":\"null\"}},\"prefixItems\":[{}");
    for (int i = 0; i < 2000; i++) nm_str_puts(&s, ",{\"$ref\":\"#/$defs/r0\"}");
    nm_str_puts(&s, "]}");
    refuse(s.data, "too complex");
    s.length = 0;
    nm_str_puts(&s, "{\"type\":[\"null\"");
    for (int i = 0; i < 50000; i++) nm_str_puts(&s, ",\"string\"");
    nm_str_puts(&s, "]}");
    refuse(s.data, "#/type: must be a type's name");
    check("{\"type\":[\"null\",\"boolean\",\"number\",\"integer\",\"string\",\"array\",\"object\"]}", "null true 1.5 1 \"\" [] {}");
    nm_str_free(&s);
}

/* Sets of many single characters, which each state of an automaton asks for. */
static void test_cost_of_sets(void **state)
{
    nm_str s = {0};
    (void)state;
    nm_str_puts(&s, "{\"pattern\":\"^[");
    for (int i = 0; i < 8000; i++) nm_str_printf(&s, "\\\\u%04x", 0x4e00 + 2 * i);
    nm_str_puts(&s, "]{100}$\"}");
    assert_true(seconds_of(&s) < 3);
    nm_str_free(&s);
}

static void test_hostile(void **state)
{
    nm_str s = {0};
    (void)state;
    for (int i = 0; i < 20; i++) nm_str_printf(&s, "%s{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"integer\"},{\"minimum\":%d}]}", i ? "," : "{\"allOf\":[", i);
    nm_str_puts(&s, "]}");
    refuse(s.data, "choices");
    s.length = 0;
    for (int i = 0; i < 500; i++) nm_str_puts(&s, "{\"items\":");
    nm_str_puts(&s, "{\"not\":{}}");
    for (int i = 0; i < 500; i++) nm_str_puts(&s, "}");
    refuse(s.data, "schema: #/items/items");
    s.length = 0;
    nm_str_puts(&s, "{\"$defs\":{");
    for (int i = 0; i < 60; i++) nm_str_printf(&s, "\"d%d\":{\"allOf\":[{\"items\":{\"$ref\":\"#/$defs/d%d\"}},{\"items\":{\"$ref\":\"#/$defs/d%d\"}}]},", i, (i * 7 + 1) % 60, (i * 11 + 3) % 60);
    nm_str_puts(&s, "\"z\":{}},\"$ref\":\"#/$defs/d0\"}");
    char *gbnf;
    size_t length;
    nm_err err = nm_schema_grammar(&gbnf, &length, s.data, s.length);
    assert_true(err == NM_OK || err == NM_USAGE);
    nm_free(gbnf);
    s.length = 0;
    for (int i = 0; i < 3000; i++) nm_str_printf(&s, "%s{\"type\":\"object\",\"properties\":{\"t\":{\"const\":%d}},\"required\":[\"t\"]}", i ? "," : "{\"oneOf\":[", i);
    nm_str_puts(&s, "]}");
    refuse(s.data, "schema");
    s.length = 0;
    for (int i = 0; i < 400; i++) nm_str_printf(&s, "%s{\"type\":\"string\",\"pattern\":\"^(a|b)*a(a|b){9}%d$\"}", i ? "," : "{\"prefixItems\":[", i);
    nm_str_puts(&s, "]}");
    refuse(s.data, "make");
    nm_str_free(&s);
}

/* ---- The published suite -------------------------------------------------------------------------------------------------------------- */

/* Documents are written compactly, whole numbers without a fraction, and objects in the order in which their keys first occur in the schema. */
static size_t rank_of(const nm_json *tree, const char *key, size_t *seen)
{
    size_t n = tree->kind == NM_JSON_OBJECT ? tree->object.count : tree->kind == NM_JSON_ARRAY ? tree->array.count : 0, rank = SIZE_MAX;
    for (size_t i = 0; i < n && rank == SIZE_MAX; i++) {
        ++*seen;
        if (tree->kind == NM_JSON_OBJECT && !strcmp(tree->object.keys[i], key)) rank = *seen;
        else rank = rank_of(tree->kind == NM_JSON_OBJECT ? &tree->object.values[i] : &tree->array.items[i], key, seen);
    }
    return rank;
}

/* Each character in its shortest notation. */
static void write_string(nm_str *s, const char *bytes, size_t length)
{
    static const char escapes[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    nm_str_puts(s, "\"");
    for (size_t i = 0; i < length; i++) {
        const char *escape = escapes;
        while (*escape && *escape != bytes[i]) escape += 2;
        if (*escape) nm_str_printf(s, "\\%c", escape[1]);
        else if ((unsigned char)bytes[i] < 0x20) nm_str_printf(s, "\\u%04x", bytes[i]);
        else nm_str_putc(s, bytes[i]);
    }
    nm_str_puts(s, "\"");
}

static void write_value(nm_str *s, const nm_json *j, const nm_json *schema);

static void write_object(nm_str *s, const nm_json *j, const nm_json *schema)
{
    size_t ranks[64], written = 0;
    assert_true(j->object.count <= COUNT(ranks));
    for (size_t i = 0; i < j->object.count; i++) {
        size_t seen = 0;
        ranks[i] = schema ? rank_of(schema, j->object.keys[i], &seen) : i;
    }
    nm_str_puts(s, "{");
    for (; written < j->object.count; written++) {
        size_t best = 0;
        for (size_t i = 1; i < j->object.count; i++)
            if (ranks[best] == 0 || (ranks[i] && ranks[i] < ranks[best])) best = i;
        if (!schema) best = written;
        ranks[best] = 0;
        if (written) nm_str_puts(s, ",");
        write_string(s, j->object.keys[best], strlen(j->object.keys[best]));
        nm_str_puts(s, ":");
        write_value(s, &j->object.values[best], schema);
    }
    nm_str_puts(s, "}");
}

static void write_value(nm_str *s, const nm_json *j, const nm_json *schema)
{
    switch (j->kind) {
    case NM_JSON_NULL: nm_str_puts(s, "null"); break;
    case NM_JSON_BOOL: nm_str_puts(s, j->boolean ? "true" : "false"); break;
    case NM_JSON_INT: nm_str_printf(s, "%lld", (long long)j->integer); break;
    case NM_JSON_WIDE: nm_str_printf(s, "%llu", (unsigned long long)j->wide); break;
    case NM_JSON_REAL: nm_str_printf(s, j->real == (double)(int64_t)j->real ? "%.0f" : "%.15g", j->real); break;
    case NM_JSON_STRING: write_string(s, j->string.bytes, j->string.length); break;
    case NM_JSON_ARRAY:
        nm_str_puts(s, "[");
        for (size_t i = 0; i < j->array.count; i++) {
            if (i) nm_str_puts(s, ",");
            write_value(s, &j->array.items[i], schema);
        }
        nm_str_puts(s, "]");
        break;
    case NM_JSON_OBJECT: write_object(s, j, schema); break;
    }
}

/* tests/data lies beside this file; the path is as the compiler was given it. */
static nm_json read_suite(const char *name)
{
    char path[1000];
    const char *slash = strrchr(__FILE__, '/');
    snprintf(path, sizeof path, "%.*s/../data/json-schema/%s.json", (int)(slash - __FILE__), __FILE__, name);
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("cannot read %s", path);
    static char bytes[1 << 18];
    size_t size = fread(bytes, 1, sizeof bytes, f);
    nm_json j;
    fclose(f);
    if (nm_json_parse(&j, bytes, size) != NM_OK) fail_msg("%s: %s", path, nm_error_text());
    return j;
}

/* Notations of formats that the grammar does not write (docs/json-schema.md). */
static bool is_not_written(const char *description)
{
    static const char *const notations[] = {"leap second", "case-insensitive", "quoted string", "address-literal"};
    for (size_t i = 0; i < COUNT(notations); i++)
        if (strstr(description, notations[i])) return true;
    return false;
}

static void run_case(const char *file, const nm_json *schema, const nm_grammar *grammar, const nm_json *tests, int *documents)
{
    nm_str text = {0};
    for (size_t i = 0; i < tests->array.count; i++) {
        const nm_json *test = &tests->array.items[i];
        const char *description = nm_json_get(test, "description")->string.bytes;
        bool valid = nm_json_get(test, "valid")->boolean;
        text.length = 0;
        write_value(&text, nm_json_get(test, "data"), schema);
        bool fits = matches(grammar, text.data, text.length);
        if (fits != valid && !(valid && is_not_written(description))) fail_msg("%s: %s: %s: expected %d", file, description, text.data, valid);
        ++*documents;
    }
    nm_str_free(&text);
}

/* For each file: how many schemas are refused, so that refusing is no way to pass. */
static void test_suite(void **state)
{
    static const struct { const char *file; int refused; } files[] = {
        {"additionalProperties", 4}, {"allOf", 2}, {"anyOf", 1}, {"boolean_schema", 1}, {"const", 0}, {"default", 0}, {"enum", 0}, {"exclusiveMaximum", 0}, {"exclusiveMinimum", 0},
        {"infinite-loop-detection", 0}, {"items", 0}, {"maxItems", 0}, {"maxLength", 0}, {"maximum", 0}, {"minItems", 0}, {"minLength", 0}, {"minimum", 0}, {"multipleOf", 1},
        {"not", 9}, {"oneOf", 9}, {"pattern", 0}, {"patternProperties", 5}, {"prefixItems", 0}, {"properties", 1}, {"propertyNames", 6}, {"ref", 17}, {"required", 0}, {"type", 0},
        {"uniqueItems", 3}, {"optional/date", 0}, {"optional/date-time", 0}, {"optional/time", 0}, {"optional/uuid", 0}, {"optional/email", 0}, {"optional/ipv4", 0},
        {"optional/ecmascript-regex", 7}, {"optional/non-bmp-regex", 1}};
    int schemas = 0, documents = 0;
    (void)state;
    for (size_t i = 0; i < COUNT(files); i++) {
        nm_json suite = read_suite(files[i].file);
        int refused = 0;
        for (size_t c = 0; c < suite.array.count; c++) {
            const nm_json *schema = nm_json_get(&suite.array.items[c], "schema");
            nm_str text = {0};
            write_value(&text, schema, NULL);
            nm_grammar *grammar = open_schema(text.data);
            if (grammar) run_case(files[i].file, schema, grammar, nm_json_get(&suite.array.items[c], "tests"), &documents);
            else if (!strstr(nm_error_text(), "schema: #")) fail_msg("%s: refused without a place: %s", text.data, nm_error_text());
            refused += !grammar;
            schemas += grammar != NULL;
            nm_grammar_close(&grammar);
            nm_str_free(&text);
        }
        if (refused != files[i].refused) fail_msg("%s: %d schemas refused, not %d", files[i].file, refused, files[i].refused);
        nm_json_free(&suite);
    }
    print_message("# %d schemas, %d documents\n", schemas, documents);
    assert_true(schemas >= 140 && documents >= 650);
}

/* ---- Random schemas against a validator ------------------------------------------------------------------------------------------------- */

static uint64_t draws;
static uint64_t seed = 6;
static uint32_t below(uint32_t n) { return (uint32_t)(nm_rng_unit(seed, 1, draws++) * n); }
static bool chance(uint32_t percent) { return below(100) < percent; }

/* Extended regular expressions of POSIX mean the same by these. */
static const char *const patterns[] = {"^[a-c]+$", "b", "^a|c$", "^(ab|c){1,2}$", "^.{2}$", "[0-9]", "^[^a]", "x?y*z{0,2}$", "^(a|b)*c?$", "^(a+b?)+$"};
static const char *const words[] = {"", "a", "b", "c", "ab", "abc", "cab", "xyz", "yy", "1", "abab", "cc", "aab", "a1"};
static const char *const names[] = {"a", "b", "c", "d"};
static const char *const types[] = {"null", "boolean", "integer", "number", "string", "array", "object"};

static void random_schema(nm_str *s, int depth);

static void put_counts(nm_str *s, const char *least, const char *most)
{
    if (chance(35)) nm_str_printf(s, ",\"%s\":%u", least, below(3));
    if (chance(35)) nm_str_printf(s, ",\"%s\":%u", most, below(5));
}

/* All names, in one order throughout: documents can then be written in an order that every merge of schemas keeps. */
static void random_object(nm_str *s, int depth)
{
    if (chance(80)) {
        nm_str_puts(s, ",\"properties\":{");
        for (size_t i = 0; i < COUNT(names); i++) {
            nm_str_printf(s, "%s\"%s\":", i ? "," : "", names[i]);
            random_schema(s, depth - 1);
        }
        nm_str_puts(s, "}");
        if (chance(60)) nm_str_printf(s, ",\"required\":[\"%s\",\"%s\"]", names[below(4)], names[below(4)]);
    }
    if (!chance(40)) return;
    nm_str_puts(s, ",\"additionalProperties\":");
    random_schema(s, depth - 1);
}

static void random_array(nm_str *s, int depth)
{
    put_counts(s, "minItems", "maxItems");
    if (chance(60)) nm_str_puts(s, ",\"items\":"), random_schema(s, depth - 1);
    if (!chance(40)) return;
    nm_str_puts(s, ",\"prefixItems\":[");
    random_schema(s, depth - 1);
    nm_str_puts(s, ",");
    random_schema(s, depth - 1);
    nm_str_puts(s, "]");
}

static void random_number(nm_str *s)
{
    static const char *const bounds[] = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"};
    for (size_t i = 0; i < COUNT(bounds); i++)
        if (chance(30)) nm_str_printf(s, ",\"%s\":%g", bounds[i], chance(60) ? (int)below(60) - 30 : ((int)below(240) - 120) / 8.0);
    if (chance(25)) nm_str_printf(s, ",\"multipleOf\":%g", (const double[]){2, 3, 5, 7, 0.5, 0.25, 1.5}[below(7)]);
}

static void random_choice(nm_str *s, int depth)
{
    nm_str_printf(s, ",\"%s\":[", (const char *const[]){"anyOf", "allOf", "oneOf"}[below(3)]);
    random_schema(s, depth - 1);
    nm_str_puts(s, ",");
    random_schema(s, depth - 1);
    nm_str_puts(s, "]");
}

static void random_schema(nm_str *s, int depth)
{
    uint32_t kind = below(depth > 0 ? 12 : 6);
    if (kind == 0) {
        nm_str_puts(s, chance(70) ? "true" : "false");
        return;
    }
    nm_str_puts(s, "{\"title\":0");
    if (kind == 1) nm_str_printf(s, ",\"enum\":[%d,\"%s\",null,[1,\"a\"],{\"a\":\"b\"},0.5]", (int)below(10), words[below(COUNT(words))]);
    if (chance(60)) nm_str_printf(s, ",\"type\":\"%s\"", kind == 1 ? types[below(7)] : kind < 4 ? types[2 + below(2)] : kind < 6 ? "string" : kind < 8 ? "array" : "object");
    if (kind == 2 || kind == 3) random_number(s);
    if (kind == 4 || kind == 5) {
        put_counts(s, "minLength", "maxLength");
        if (chance(50)) nm_str_printf(s, ",\"pattern\":\"%s\"", patterns[below(COUNT(patterns))]);
    }
    if (kind == 6 || kind == 7) random_array(s, depth);
    if (kind == 8 || kind == 9) random_object(s, depth);
    if (kind == 10) random_choice(s, depth);
    if (kind == 11) nm_str_puts(s, ",\"$ref\":\"#/$defs/x\"");
    nm_str_puts(s, "}");
}

static double number_of(const nm_json *j) { return j->kind == NM_JSON_REAL ? j->real : (double)j->integer; }
static bool is_number(const nm_json *j) { return j->kind == NM_JSON_INT || j->kind == NM_JSON_REAL; }

static bool same(const nm_json *a, const nm_json *b)
{
    nm_str x = {0}, y = {0};
    write_value(&x, a, NULL);
    write_value(&y, b, NULL);
    bool equal = !strcmp(x.data, y.data);
    nm_str_free(&x);
    nm_str_free(&y);
    return equal;
}

static bool has_type(const char *type, const nm_json *j)
{
    switch (j->kind) {
    case NM_JSON_NULL: return !strcmp(type, "null");
    case NM_JSON_BOOL: return !strcmp(type, "boolean");
    case NM_JSON_STRING: return !strcmp(type, "string");
    case NM_JSON_ARRAY: return !strcmp(type, "array");
    case NM_JSON_OBJECT: return !strcmp(type, "object");
    default: return !strcmp(type, "number") || (!strcmp(type, "integer") && number_of(j) == (double)(int64_t)number_of(j));
    }
}

static bool valid(const nm_json *root, const nm_json *schema, const nm_json *j);

static bool valid_object(const nm_json *root, const nm_json *schema, const nm_json *j)
{
    const nm_json *required = nm_json_get(schema, "required"), *named = nm_json_get(schema, "properties"), *extra = nm_json_get(schema, "additionalProperties");
    for (size_t i = 0; required && i < required->array.count; i++)
        if (!nm_json_get(j, required->array.items[i].string.bytes)) return false;
    for (size_t i = 0; i < j->object.count; i++) {
        const nm_json *child = nm_json_get(named, j->object.keys[i]);
        if (!child) child = extra;
        if (child && !valid(root, child, &j->object.values[i])) return false;
    }
    return true;
}

static bool count_fits(const nm_json *schema, const char *least, const char *most, size_t n)
{
    const nm_json *from = nm_json_get(schema, least), *to = nm_json_get(schema, most);
    return (!from || n >= (size_t)from->integer) && (!to || n <= (size_t)to->integer);
}

static bool valid_array(const nm_json *root, const nm_json *schema, const nm_json *j)
{
    const nm_json *prefix = nm_json_get(schema, "prefixItems"), *items = nm_json_get(schema, "items");
    for (size_t i = 0; i < j->array.count; i++) {
        const nm_json *child = prefix && i < prefix->array.count ? &prefix->array.items[i] : items;
        if (child && !valid(root, child, &j->array.items[i])) return false;
    }
    return count_fits(schema, "minItems", "maxItems", j->array.count);
}

static bool valid_number(const nm_json *schema, double x)
{
    const nm_json *b;
    if ((b = nm_json_get(schema, "minimum")) && x < number_of(b)) return false;
    if ((b = nm_json_get(schema, "maximum")) && x > number_of(b)) return false;
    if ((b = nm_json_get(schema, "exclusiveMinimum")) && x <= number_of(b)) return false;
    if ((b = nm_json_get(schema, "exclusiveMaximum")) && x >= number_of(b)) return false;
    b = nm_json_get(schema, "multipleOf");
    double times = b ? x / number_of(b) : 0;        /* exact: eighths and small whole numbers; thirds never come near */
    return times - (double)(int64_t)times < 1e-9 && times - (double)(int64_t)times > -1e-9;
}

static bool valid_string(const nm_json *schema, const nm_json *j)
{
    const nm_json *pattern = nm_json_get(schema, "pattern");
    regex_t compiled;
    if (!count_fits(schema, "minLength", "maxLength", j->string.length)) return false;      /* ASCII only */
    if (!pattern) return true;
    assert_int_equal(regcomp(&compiled, pattern->string.bytes, REG_EXTENDED | REG_NOSUB), 0);
    bool found = !regexec(&compiled, j->string.bytes, 0, NULL, 0);
    regfree(&compiled);
    return found;
}

static bool valid_choice(const nm_json *root, const nm_json *schema, const char *key, const nm_json *j)
{
    const nm_json *all = nm_json_get(schema, key);
    size_t good = 0;
    if (!all) return true;
    for (size_t i = 0; i < all->array.count; i++) good += valid(root, &all->array.items[i], j);
    return !strcmp(key, "allOf") ? good == all->array.count : !strcmp(key, "oneOf") ? good == 1 : good > 0;
}

static bool valid(const nm_json *root, const nm_json *schema, const nm_json *j)
{
    const nm_json *type = nm_json_get(schema, "type"), *list = nm_json_get(schema, "enum");
    bool in = !list;
    if (schema->kind == NM_JSON_BOOL) return schema->boolean;
    if (type && !has_type(type->string.bytes, j)) return false;
    for (size_t i = 0; list && i < list->array.count; i++) in |= same(&list->array.items[i], j);
    if (!in || !valid_choice(root, schema, "anyOf", j) || !valid_choice(root, schema, "allOf", j) || !valid_choice(root, schema, "oneOf", j)) return false;
    if (nm_json_get(schema, "$ref") && !valid(root, nm_json_get(nm_json_get(root, "$defs"), "x"), j)) return false;
    if (is_number(j)) return valid_number(schema, number_of(j));
    if (j->kind == NM_JSON_STRING) return valid_string(schema, j);
    if (j->kind == NM_JSON_ARRAY) return valid_array(root, schema, j);
    return j->kind != NM_JSON_OBJECT || valid_object(root, schema, j);
}

static void random_document(nm_str *s, const nm_json *root, const nm_json *schema, int depth);

static void array_document(nm_str *s, const nm_json *root, const nm_json *schema, int depth)
{
    const nm_json *prefix = nm_json_get(schema, "prefixItems");
    uint32_t n = below(4);
    nm_str_puts(s, "[");
    for (uint32_t i = 0; i < n; i++) {
        if (i) nm_str_puts(s, ",");
        random_document(s, root, prefix && i < prefix->array.count ? &prefix->array.items[i] : nm_json_get(schema, "items"), depth - 1);
    }
    nm_str_puts(s, "]");
}

static void object_document(nm_str *s, const nm_json *root, const nm_json *schema, int depth)
{
    static const char *const all[] = {"a", "b", "c", "d", "x", "y"};
    const nm_json *required = nm_json_get(schema, "required");
    bool any = false;
    nm_str_puts(s, "{");
    for (size_t i = 0; i < COUNT(all); i++) {
        bool needed = false;
        for (size_t r = 0; required && r < required->array.count; r++) needed |= !strcmp(required->array.items[r].string.bytes, all[i]);
        if (!(needed && chance(95)) && !chance(i < COUNT(names) ? 40 : 15)) continue;
        const nm_json *child = nm_json_get(nm_json_get(schema, "properties"), all[i]);
        nm_str_printf(s, "%s\"%s\":", any ? "," : "", all[i]);
        any = true;
        random_document(s, root, child ? child : nm_json_get(schema, "additionalProperties"), depth - 1);
    }
    nm_str_puts(s, "}");
}

/* Index into types of what the schema is about. */
static uint32_t likely_type(const nm_json *schema, int depth)
{
    const nm_json *type = nm_json_get(schema, "type");
    uint32_t kind = below(7);
    for (uint32_t i = 0; i < 7; i++)
        if (type && !strcmp(types[i], type->string.bytes) && chance(95)) kind = i;
    if (!type && nm_json_get(schema, "properties")) kind = 6;
    if (!type && nm_json_get(schema, "items")) kind = 5;
    return depth <= 0 && kind > 4 ? below(5) : kind;
}

/* A document that the schema may well admit; NULL: any. */
static void random_document(nm_str *s, const nm_json *root, const nm_json *schema, int depth)
{
    const nm_json *list = nm_json_get(schema, "enum"), *all = nm_json_get(schema, "anyOf");
    if (!all) all = nm_json_get(schema, "oneOf");
    if (!all) all = nm_json_get(schema, "allOf");
    if (all && depth > 0) {
        random_document(s, root, &all->array.items[below((uint32_t)all->array.count)], depth - 1);
        return;
    }
    if (nm_json_get(schema, "$ref") && depth > 0) {
        random_document(s, root, nm_json_get(nm_json_get(root, "$defs"), "x"), depth - 1);
        return;
    }
    if (list && chance(90)) {
        write_value(s, &list->array.items[below((uint32_t)list->array.count)], NULL);
        return;
    }
    const char *word = words[below(COUNT(words))];
    switch (likely_type(schema, depth)) {
    case 0: nm_str_puts(s, "null"); break;
    case 1: nm_str_puts(s, chance(50) ? "true" : "false"); break;
    case 2: nm_str_printf(s, "%d", (int)below(80) - 40); break;
    case 3: nm_str_printf(s, "%g", ((int)below(320) - 160) / 8.0); break;
    case 4: write_string(s, word, strlen(word)); break;
    case 5: array_document(s, root, schema, depth); break;
    default: object_document(s, root, schema, depth);
    }
}

typedef struct tally { int schemas, refused, documents, valid, fit_mutated; } tally;

/* What fits must be JSON that the validator takes, whatever its bytes. Keys that came to be twice the same are no JSON for our reader. */
static void mutate(const nm_json *root, const nm_grammar *grammar, nm_str *text, tally *t)
{
    static const char bytes[] = "0123456789abcdxy\"[]{}:,.- \n\\n/";
    for (int i = 0; i < 6; i++) {
        char *at = &text->data[below((uint32_t)text->length)], before = *at;
        nm_json j;
        *at = bytes[below(sizeof bytes - 1)];
        if (matches(grammar, text->data, text->length)) {
            nm_err err = nm_json_parse(&j, text->data, text->length);
            if (err != NM_OK && !strstr(nm_error_text(), "duplicate")) fail_msg("%s fits: %s", text->data, nm_error_text());
            if (err == NM_OK && !valid(root, root, &j)) fail_msg("%s fits but is not valid", text->data);
            nm_json_free(&j);
            t->fit_mutated++;
        }
        *at = before;
    }
}

static void try_documents(const nm_json *root, const char *schema, const nm_grammar *grammar, tally *t)
{
    nm_str text = {0};
    for (int i = 0; i < 12; i++) {
        nm_json j;
        text.length = 0;
        random_document(&text, root, root, 5);
        assert_int_equal(nm_json_parse(&j, text.data, text.length), NM_OK);
        bool expected = valid(root, root, &j);
        if (matches(grammar, text.data, text.length) != expected) fail_msg("draw %llu: %s: %s: expected %d", (unsigned long long)draws, schema, text.data, expected);
        t->documents++;
        t->valid += expected;
        nm_json_free(&j);
        mutate(root, grammar, &text, t);
    }
    nm_str_free(&text);
}

/* NM_SEED gives other schemas. A value like -0 or 1e1 that a mutation makes is judged like any other. */
static void test_random(void **state)
{
    tally t = {0};
    (void)state;
    if (getenv("NM_SEED")) seed = strtoull(getenv("NM_SEED"), NULL, 10);
    for (; t.schemas < 10000; t.schemas++) {
        nm_str schema = {0};
        nm_json root;
        nm_str_puts(&schema, "{\"$defs\":{\"x\":");
        do random_schema(&schema, 1);
        while (strstr(schema.data, "$ref") && (schema.length = 14, true));       /* x does not lead to itself */
        nm_str_puts(&schema, "},\"allOf\":[");
        random_schema(&schema, 3);
        nm_str_puts(&schema, "]}");
        assert_int_equal(nm_json_parse(&root, schema.data, schema.length), NM_OK);
        nm_grammar *grammar = open_schema(schema.data);
        if (grammar) try_documents(&root, schema.data, grammar, &t);
        else if (!strstr(nm_error_text(), "admits no document") && !strstr(nm_error_text(), "may hold at once")) fail_msg("%s: %s", schema.data, nm_error_text());
        t.refused += !grammar;
        nm_grammar_close(&grammar);
        nm_json_free(&root);
        nm_str_free(&schema);
    }
    print_message("# %d schemas, %d refused; %d documents, %d valid, %d mutated that fit\n", t.schemas, t.refused, t.documents, t.valid, t.fit_mutated);
    assert_true(t.refused < t.schemas / 4 && t.valid > t.documents / 4 && t.valid < t.documents * 9 / 10);
}

/* ---- Memory ------------------------------------------------------------------------------------------------------------------------------ */

static void test_allocations(void **state)
{
    static const char *const schemas[] = {
        "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"pattern\":\"^(ab|c)+\\\\d{2}$\"},\"b\":{\"minimum\":1,\"multipleOf\":3}},\"required\":[\"a\"]}",
        "{\"oneOf\":[{\"const\":{\"a\":[1,2]}},{\"$ref\":\"#/$defs/x\"}],\"$defs\":{\"x\":{\"type\":\"array\",\"items\":{\"$ref\":\"#\"},\"prefixItems\":[{},{}]}}}",
        "{\"properties\":{\"a~/b\":{\"allOf\":[{\"format\":\"date\"},{\"maxLength\":3}]}},\"additionalProperties\":{\"not\":{}}}"};
    (void)state;
    for (size_t i = 0; i < COUNT(schemas); i++) {
        int64_t alive = nm_mem_alive();
        nm_err err = NM_NO_MEMORY;
        for (int64_t n = 0; err == NM_NO_MEMORY; n++) {
            char *gbnf;
            size_t length;
            nm_mem_fail_after(n);
            err = nm_schema_grammar(&gbnf, &length, schemas[i], strlen(schemas[i]));
            nm_mem_fail_after(-1);
            assert_true((gbnf != NULL) == (err == NM_OK));
            nm_free(gbnf);
            assert_int_equal(nm_mem_alive(), alive);
            assert_true(n < 5000);
        }
        assert_int_equal(err, i == 2 ? NM_USAGE : NM_OK);
    }
}

/* A pattern by itself: the whole text fits it, and is no JSON. */
static void check_pattern(const char *pattern, const char *text, bool fits)
{
    char *gbnf;
    size_t length;
    nm_grammar *g;
    bool matches;
    assert_int_equal(nm_pattern_grammar(&gbnf, &length, pattern, strlen(pattern)), NM_OK);
    if (nm_grammar_open(&g, gbnf, length) != NM_OK) fail_msg("%s: %s in %s", pattern, nm_error_text(), gbnf);
    assert_int_equal(nm_grammar_matches(g, text, strlen(text), &matches), NM_OK);
    if (matches != fits) fail_msg("%s: '%s' in %s", pattern, text, gbnf);
    nm_grammar_close(&g);
    nm_free(gbnf);
}

static void test_patterns_alone(void **state)
{
    (void)state;
    check_pattern("[0-9]{2}|x+", "42", true);
    check_pattern("[0-9]{2}|x+", "xxx", true);
    check_pattern("[0-9]{2}|x+", "42x", false);
    check_pattern("[0-9]{2}|x+", "", false);
    check_pattern("^a\\\\b\"\\n?$", "a\\b\"", true);
    check_pattern("^a\\\\b\"\\n?$", "a\\b\"\n", true);
    check_pattern("\\w+@\\w+\\.(com|org)", "me@here.org", true);
    check_pattern("caf\xc3\xa9.", "caf\xc3\xa9!", true);
    check_pattern("[^\"]*", "a\\ \t", true);
    char *gbnf;
    size_t length;
    assert_int_equal(nm_pattern_grammar(&gbnf, &length, "(", 1), NM_USAGE);
    assert_int_equal(nm_pattern_grammar(&gbnf, &length, "a)(b", 4), NM_USAGE);
    for (int64_t n = 0, alive = nm_mem_alive(); n < 200; n++) {
        nm_mem_fail_after(n);
        nm_err err = nm_pattern_grammar(&gbnf, &length, "[ab]+", 5);
        nm_mem_fail_after(-1);
        if (err == NM_OK) nm_free(gbnf);
        assert_true(err == NM_OK || err == NM_NO_MEMORY);
        assert_int_equal(nm_mem_alive(), alive);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patterns_alone),
        cmocka_unit_test(test_types), cmocka_unit_test(test_values), cmocka_unit_test(test_numbers), cmocka_unit_test(test_strings), cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_objects), cmocka_unit_test(test_combinations), cmocka_unit_test(test_references), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_refused_patterns), cmocka_unit_test(test_hostile), cmocka_unit_test(test_cost_of_values),
        cmocka_unit_test(test_cost_of_references), cmocka_unit_test(test_cost_of_sets),
        cmocka_unit_test(test_suite), cmocka_unit_test(test_random), cmocka_unit_test(test_allocations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
