/* The parser of command lines: spellings, values, faults, suggestions, every real table without clashes. Takes in args.c, which is part of
 * the program and not of the library. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "../../cmd/args.c"

typedef struct settings {
    nm_common common;
    const char *text;
    nm_list list;
    int32_t number, kv;
    double real;
    nm_seed seed;
    bool flag;
} settings;

static const nm_option options[] = {
    {"-n --max-tokens --predict", "N", "", offsetof(settings, number), NM_OPTION_INT, -1, 100},
    {"--temperature --temp", "X", "", offsetof(settings, real), NM_OPTION_REAL, 0, 2},
    {"-sys --system", "TEXT", "", offsetof(settings, text), NM_OPTION_TEXT, 0, 0},
    {"--stop", "TEXT", "", offsetof(settings, list), NM_OPTION_LIST, 0, 0},
    {"-s --seed", "N", "", offsetof(settings, seed), NM_OPTION_SEED, 0, 0},
    {"--kv -ctk", "f16|f32|q8_0", "", offsetof(settings, kv), NM_OPTION_CHOICE, 0, 0},
    {"--raw", NULL, "", offsetof(settings, flag), NM_OPTION_FLAG, 0, 0},
    {0}
};
static const settings defaults = {.number = -1, .real = NAN};
static const nm_command command = {
    .name = "test", .operands = "MODEL [PROMPT]", .options = options, .settings_size = sizeof(settings), .defaults = &defaults,
    .least_operands = 1, .most_operands = 2,
};

/* Parses the words; settings and operands as they come out. */
static nm_err parse(settings *s, char **operands, int *count, int argc, const char **argv)
{
    *s = defaults;
    return nm_args_parse(&command, argc, (char **)argv, s, operands, count);
}
#define PARSE(...) parse(&s, operands, &count, (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), (const char *[]){__VA_ARGS__})
#define SETUP settings s; char *operands[16]; int count; (void)state

static void test_spellings(void **state)
{
    SETUP;
    static const char *const same[][2] = {{"--max-tokens=7", NULL}, {"--max_tokens=7", NULL}, {"--predict", "7"}, {"-n", "7"},
                                           {"-n7", NULL}, {"-n=7", NULL}};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        const char *argv[] = {"m", same[i][0], same[i][1]};
        assert_int_equal(parse(&s, operands, &count, same[i][1] ? 3 : 2, argv), NM_OK);
        assert_int_equal(s.number, 7);
        assert_int_equal(count, 1);
    }
    assert_int_equal(PARSE("m", "-sys", "be_brief", "--temp", "0.5", "--raw", "-ctk", "q8_0", "-s", "18446744073709551615"), NM_OK);
    assert_string_equal(s.text, "be_brief");
    assert_true(s.real == 0.5 && s.flag && s.kv == 2 && s.seed.given && s.seed.value == UINT64_MAX);
    assert_int_equal(PARSE("m", "--seed", "-1"), NM_OK);
    assert_false(s.seed.given);
    assert_int_equal(PARSE("m", "-t2", "--compute=f32", "-q"), NM_OK);
    assert_true(s.common.threads == 2 && s.common.compute == NM_COMPUTE_F32 && s.common.quiet);
    assert_int_equal(PARSE("m", "--system=", "--system", "--raw"), NM_OK);     /* a value may look like an option */
    assert_string_equal(s.text, "--raw");
    assert_false(s.flag);
}

static void test_operands(void **state)
{
    SETUP;
    assert_int_equal(PARSE("--raw", "m", "-"), NM_OK);
    assert_int_equal(count, 2);
    assert_string_equal(operands[1], "-");
    assert_int_equal(PARSE("m", "--", "--raw"), NM_OK);
    assert_string_equal(operands[1], "--raw");
    assert_int_equal(PARSE("m", ""), NM_OK);
    assert_int_equal(count, 2);
    assert_int_equal(PARSE("--raw"), NM_USAGE);
    assert_int_equal(PARSE("a", "b", "c"), NM_USAGE);
    assert_int_equal(PARSE("--help"), NM_OK);
    assert_true(s.common.help);
}

static void test_list(void **state)
{
    SETUP;
    assert_int_equal(PARSE("m", "--stop", "a", "--stop=b", "--stop="), NM_OK);
    assert_int_equal(s.list.count, 3);
    assert_string_equal(s.list.items[2], "");
    nm_args_free(&command, &s);
    assert_null(s.list.items);
}

static void assert_fault(nm_err err, const char *part)
{
    assert_int_equal(err, NM_USAGE);
    if (!strstr(nm_error_text(), part)) fail_msg("'%s' is not in: %s", part, nm_error_text());
}

static void test_faults(void **state)
{
    SETUP;
    assert_fault(PARSE("m", "-n"), "needs a value");
    assert_fault(PARSE("m", "-n", "x"), "'x' is no whole number");
    assert_fault(PARSE("m", "-n", ""), "no whole number");
    assert_fault(PARSE("m", "-n", "1.5"), "no whole number");
    assert_fault(PARSE("m", "-n", "101"), "out of range");
    assert_fault(PARSE("m", "-n", "99999999999999999999"), "out of range");
    assert_fault(PARSE("m", "--temp", "nan"), "no number");
    assert_fault(PARSE("m", "--temp", "-0.1"), "out of range");
    assert_fault(PARSE("m", "--kv", "f64"), "f16|f32|q8_0");
    assert_fault(PARSE("m", "--kv", "f1"), "none of");
    assert_fault(PARSE("m", "--seed", "-2"), "no seed");
    assert_fault(PARSE("m", "--seed", "18446744073709551616"), "no seed");
    assert_fault(PARSE("m", "--raw=1"), "takes no value");
    assert_fault(PARSE("m", "--temprature", "1"), "did you mean --temperature?");
    assert_fault(PARSE("m", "--max_tokns=1"), "did you mean --max-tokens?");
    assert_fault(PARSE("m", "--thread", "1"), "did you mean --threads?");
    assert_fault(PARSE("m", "--zzzzzzzz"), "nomoat help test");
    assert_fault(PARSE("m", "-\x1b[31m"), "\\x1b");
    static char endless[5000];
    memset(endless, '-', sizeof endless - 1);
    endless[100] = 'x';
    assert_int_equal(PARSE("m", endless), NM_USAGE);
}

static void test_set_by_name(void **state)
{
    SETUP;
    (void)operands, (void)count;
    s = defaults;
    assert_int_equal(nm_option_set(options, "temperature", "1.5", &s), NM_OK);
    assert_true(s.real == 1.5);
    assert_int_equal(nm_option_set(options, "temperature", "9", &s), NM_USAGE);
    assert_int_equal(nm_option_set(options, "nothing", "9", &s), NM_USAGE);
}

static void test_nearest(void **state)
{
    (void)state;
    static const char *const words[] = {"run", "show", "list", "import", "tokenize", "detokenize", "perplexity"};
    enum { N = sizeof words / sizeof *words };
    assert_string_equal(nm_nearest("rnu", words, N), "run");
    assert_string_equal(nm_nearest("shwo", words, N), "show");
    assert_string_equal(nm_nearest("perplex", words, N), "perplexity");
    assert_string_equal(nm_nearest("tokenise", words, N), "tokenize");
    assert_null(nm_nearest("x", words, N));
    assert_null(nm_nearest("", words, N));
    assert_null(nm_nearest("quantum", words, N));
}

static void test_common_table(void **state)
{
    (void)state;
    char name[NM_OPTION_NAME_MOST], other[NM_OPTION_NAME_MOST];
    for (const nm_option *a = nm_common_options; a->names; a++)
        for (int i = 0; nm_option_name(a, i, name, sizeof name); i++)
            for (const nm_option *b = a + 1; b->names; b++)
                for (int j = 0; nm_option_name(b, j, other, sizeof other); j++) assert_string_not_equal(name, other);
}

/* ---- Beneath the line */

static const char *beneath_text;

static nm_err from_json(nm_beneath *b, void *at)
{
    nm_json json;
    (void)at;
    assert_int_equal(nm_json_parse(&json, beneath_text, strlen(beneath_text)), NM_OK);
    nm_err err = nm_beneath_json(b, &json, "FILE");
    nm_json_free(&json);
    return err;
}

static const nm_option beneath_options[] = {
    NM_OPTION_HEADING("Numbers"),
    {"-n --max-tokens --predict", "N", "", offsetof(settings, number), NM_OPTION_INT, -1, 100},
    {"--temperature --temp", "X", "", offsetof(settings, real), NM_OPTION_REAL, 0, 2},
    NM_OPTION_HEADING("Others"),
    {"-sys --system", "TEXT", "", offsetof(settings, text), NM_OPTION_TEXT, 0, 0},
    {"--stop", "TEXT", "", offsetof(settings, list), NM_OPTION_LIST, 0, 0},
    {"-s --seed", "N", "", offsetof(settings, seed), NM_OPTION_SEED, 0, 0},
    {"--kv -ctk", "f16|f32|q8_0", "", offsetof(settings, kv), NM_OPTION_CHOICE, 0, 0},
    {"--raw", NULL, "", offsetof(settings, flag), NM_OPTION_FLAG, 0, 0},
    {"--no-raw", NULL, "", offsetof(settings, flag), NM_OPTION_FLAG, 0, 0},
    {0}
};
static const nm_command over = {.name = "test", .operands = "MODEL", .options = beneath_options, .settings_size = sizeof(settings), .defaults = &defaults,
    .least_operands = 1, .most_operands = 1, .beneath = from_json};

static nm_err parse_over(settings *s, const char *text, int argc, const char **argv)
{
    char *operands[16];
    int count;
    beneath_text = text;
    *s = defaults;
    return nm_args_parse(&over, argc, (char **)argv, s, operands, &count);
}
#define OVER(text, ...) parse_over(&s, text, (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), (const char *[]){__VA_ARGS__})

static void expect_refused(const char *text)
{
    settings s;
    assert_int_equal(OVER(text, "m"), NM_USAGE);
    nm_args_free(&over, &s);
}

static void test_beneath(void **state)
{
    settings s;
    nm_str text = {0};
    (void)state;
    assert_int_equal(OVER("{\"predict\": 5, \"temp\": 0.1, \"system\": [\"a\", \"b\"], \"stop\": [\"x\", \"y\"], \"seed\": 18446744073709551615, \"kv\": \"q8_0\", \"raw\": true}", "m"), NM_OK);
    assert_true(s.number == 5 && s.real == 0.1 && s.seed.value == UINT64_MAX && s.kv == 2 && s.flag && s.list.count == 2);
    assert_string_equal(s.text, "a,b");
    assert_string_equal(s.list.items[1], "y");
    /* What is written sets the same again. */
    assert_int_equal(nm_option_json(&text, over.options, &s, " kv "), NM_OK);
    assert_string_equal(text.data, "{\"max-tokens\": 5, \"temperature\": 0.1, \"system\": \"a,b\", \"stop\": [\"x\", \"y\"], \"seed\": 18446744073709551615, \"raw\": true, \"no-raw\": true}");
    nm_str_free(&text);
    nm_args_free(&over, &s);
    /* The line wins, by whatever spelling, and by the opposite. */
    assert_int_equal(OVER("{\"max_tokens\": 5, \"stop\": [\"x\"], \"raw\": true, \"temperature\": null, \"kv\": \"f32\"}", "m", "-n", "7", "--stop", "z", "--no-raw"), NM_OK);
    assert_true(s.number == 7 && s.list.count == 1 && s.kv == 1 && isnan(s.real));
    assert_string_equal(s.list.items[0], "z");
    nm_args_free(&over, &s);
    expect_refused("{\"temperatur\": 1}");
    assert_non_null(strstr(nm_error_text(), "did you mean \"temperature\"?"));
    expect_refused("{\"temperature\": 3}");
    expect_refused("{\"temperature\": true}");
    expect_refused("{\"raw\": 1}");
    expect_refused("{\"stop\": [null]}");
    expect_refused("{\"kv\": {}}");
    assert_int_equal(OVER("{\"temperatur\": 1}", "--help"), NM_OK);      /* help does not need it */
    nm_args_free(&over, &s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spellings), cmocka_unit_test(test_beneath), cmocka_unit_test(test_operands), cmocka_unit_test(test_list), cmocka_unit_test(test_faults),
        cmocka_unit_test(test_set_by_name), cmocka_unit_test(test_nearest), cmocka_unit_test(test_common_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
