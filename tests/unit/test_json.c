/* JSON in: what is read, in which order, and what is refused with its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "format/json.h"

static nm_json parse(const char *text)
{
    nm_json j;
    if (nm_json_parse(&j, text, strlen(text)) != NM_OK) fail_msg("%s: %s", text, nm_error_text());
    return j;
}

static void refuse(const char *text, size_t length, nm_err code, const char *expected)
{
    nm_json j;
    int64_t alive = nm_mem_alive();
    nm_err err = nm_json_parse(&j, text, length);
    if (err != code || !strstr(nm_error_text(), expected)) fail_msg("%.60s: expected %d \"%s\", got %d \"%s\"", text, code, expected, err, nm_error_text());
    assert_int_equal(nm_mem_alive(), alive);
}

static void test_values(void **state)
{
    nm_json j = parse(" {\"z\": null, \"a\": [true, false, -9223372036854775808, 1.5e3, \"x\\u0000\\u00e9\\ud83d\\ude00\"], \"\": {}} ");
    (void)state;
    assert_int_equal(j.kind, NM_JSON_OBJECT);
    assert_int_equal(j.object.count, 3);
    assert_string_equal(j.object.keys[0], "z");     /* in the order of the text */
    assert_string_equal(j.object.keys[1], "a");
    assert_string_equal(j.object.keys[2], "");
    const nm_json *a = nm_json_get(&j, "a");
    assert_int_equal(a->array.count, 5);
    assert_true(a->array.items[0].boolean);
    assert_true(a->array.items[2].integer == INT64_MIN);
    assert_true(a->array.items[3].kind == NM_JSON_REAL && a->array.items[3].real == 1500);
    assert_int_equal(a->array.items[4].string.length, 8);
    assert_memory_equal(a->array.items[4].string.bytes, "x\0\xc3\xa9\xf0\x9f\x98\x80", 9);
    assert_null(nm_json_get(&j, "b"));
    assert_null(nm_json_get(a, "b"));
    nm_json_free(&j);
    nm_json_free(&j);
    j = parse("7");
    assert_int_equal(j.integer, 7);
    nm_json_free(&j);
}

static void test_many_keys_keep_their_order(void **state)
{
    nm_str s = {0};
    (void)state;
    for (int i = 0; i < 500; i++) assert_int_equal(nm_str_printf(&s, "%s\"k%d\": %d", i ? "," : "{", (i * 7919) % 500, i), NM_OK);
    assert_int_equal(nm_str_puts(&s, "}"), NM_OK);
    nm_json j = parse(s.data);
    for (int i = 0; i < 500; i++) assert_int_equal(j.object.values[i].integer, i);
    nm_json_free(&j);
    nm_str_free(&s);
}

static void test_refusals(void **state)
{
    static const struct { const char *text, *expected; } bad[] = {
        {"", "line 1"}, {"{", "line 1"}, {"[1,]", "line 1, column 4"}, {"{\"a\": 1,\n \"a\": 2}", "line 2"}, {"1 2", "line 1"}, {"[1] x", "line 1"},
        {"\"\\ud800\"", "line 1"}, {"\"\xff\"", "line 1"}, {"18446744073709551616", "too big"}, {"-9223372036854775809", "too"}, {"09223372036854775808", "line 1"}, {"9223372036854775808 x", "line 1"}, {"1e999", "overflow"}, {"NaN", "line 1"}, {"'a'", "line 1"},
        {"{\"a\\u0000b\": 1}", "line 1"}, {"\"\n\"", "line"}, {"01", "line 1"}, {"// x\n1", "line 1"}
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refuse(bad[i].text, strlen(bad[i].text), NM_USAGE, bad[i].expected);
    refuse("1\0", 2, NM_USAGE, "line 1");
}

/* Integers from 2^63 to 2^64 - 1 keep every bit, wherever they stand; what looks like them in strings is text. */
static void test_wide(void **state)
{
    nm_json j = parse("[1, 18446744073709551615, \"18446744073709551615\", {\"9223372036854775808\": -1.5e3, \"b\\\"7\": 9223372036854775808}, 9223372036854775807, "
                      "9223372036854775808.5, [18446744073709551614]]");
    (void)state;
    const nm_json *a = j.array.items;
    assert_int_equal(j.array.count, 7);
    assert_int_equal(a[0].integer, 1);
    assert_true(a[1].kind == NM_JSON_WIDE && a[1].wide == UINT64_MAX);
    assert_string_equal(a[2].string.bytes, "18446744073709551615");
    assert_true(a[3].object.values[0].kind == NM_JSON_REAL && a[3].object.values[1].kind == NM_JSON_WIDE);
    assert_true(a[3].object.values[1].wide == (uint64_t)1 << 63);
    assert_true(a[4].kind == NM_JSON_INT && a[4].integer == INT64_MAX);
    assert_true(a[5].kind == NM_JSON_REAL);
    assert_true(a[6].array.items[0].wide == UINT64_MAX - 1);
    nm_json_free(&j);
    j = parse("18446744073709551615");
    assert_true(j.kind == NM_JSON_WIDE);
    nm_json_free(&j);
}

static void test_depth(void **state)
{
    enum { DEEP = 100000 };
    char *text = malloc(2 * DEEP);
    nm_json j;
    (void)state;
    memset(text, '[', DEEP);
    memset(text + DEEP, ']', DEEP);
    refuse(text, 2 * DEEP, NM_USAGE, "line 1, column 513: nested deeper than 512");
    refuse(text, DEEP, NM_USAGE, "nested deeper");
    assert_int_equal(nm_json_parse(&j, text + DEEP - 512, 1024), NM_OK);
    nm_json_free(&j);
    assert_int_equal(nm_json_parse(&j, "[\"[[[[\\\"]]\"]", 12), NM_OK);      /* brackets in strings do not count */
    nm_json_free(&j);
    free(text);
}

static void test_each_allocation_fails(void **state)
{
    static const char text[] = "{\"a\": [1, \"x\", {\"b\": [9223372036854775809]}], \"c\": {}}";
    int64_t alive = nm_mem_alive();
    nm_json j;
    (void)state;
    for (int64_t n = 0;; n++) {
        nm_mem_fail_after(n);
        nm_err err = nm_json_parse(&j, text, strlen(text));
        nm_mem_fail_after(-1);
        if (err == NM_OK) break;
        assert_int_equal(err, NM_NO_MEMORY);
        assert_int_equal(nm_mem_alive(), alive);
    }
    nm_json_free(&j);
    assert_int_equal(nm_mem_alive(), alive);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values), cmocka_unit_test(test_many_keys_keep_their_order), cmocka_unit_test(test_refusals), cmocka_unit_test(test_wide), cmocka_unit_test(test_depth),
        cmocka_unit_test(test_each_allocation_fails)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
