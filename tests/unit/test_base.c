/* The foundations: error lines, checked allocation, strings, UTF-8, text made safe for terminals, random numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"

static void test_error_lines(void **state)
{
    char longer[5000];
    assert_int_equal(nm_fail(NM_BAD_FILE, "%s: byte %d", "a\nb\x1b[31m\xff", 7), NM_BAD_FILE);
    assert_string_equal(nm_error_text(), "a\\nb\\x1b[31m\\xff: byte 7");
    assert_int_equal(nm_fail_in(NM_BAD_FILE, "file"), NM_BAD_FILE);
    assert_string_equal(nm_error_text(), "file: a\\nb\\x1b[31m\\xff: byte 7");
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = 0;
    nm_fail(NM_FAILED, "%s", longer);
    assert_in_range(strlen(nm_error_text()), 100, 4999);
    assert_int_equal(nm_fail_memory(12), NM_NO_MEMORY);
    assert_non_null(strstr(nm_error_text(), "12 bytes"));
}

static void test_allocation(void **state)
{
    int64_t alive = nm_mem_alive();
    void *p = nm_malloc(0);
    assert_non_null(p);
    nm_free(p);
    assert_null(nm_calloc(SIZE_MAX / 2, 4));
    assert_null(nm_realloc_array(NULL, SIZE_MAX / 2, 4));
    assert_null(nm_alloc_aligned(SIZE_MAX - 10));
    for (size_t bytes = 0; bytes < 40000000; bytes = bytes * 3 + 1) {
        unsigned char *a = nm_alloc_aligned(bytes);
        assert_non_null(a);
        assert_int_equal((uintptr_t)a % 64, 0);
        if (bytes) assert_int_equal(a[0] | a[bytes / 2] | a[bytes - 1], 0);
        nm_free_aligned(a, bytes);
    }
    nm_mem_fail_after(1);
    p = nm_malloc(5);
    assert_non_null(p);
    assert_null(nm_malloc(5));
    assert_null(nm_strndup("x", 1));
    nm_mem_fail_after(-1);
    nm_free(p);
    nm_free(NULL);
    assert_int_equal(nm_mem_alive(), alive);
}

static void test_growing(void **state)
{
    int *array = NULL;
    size_t capacity = 0;
    for (size_t n = 0; n < 1000; n++) {
        assert_int_equal(NM_GROW(array, capacity, n + 1), NM_OK);
        array[n] = (int)n;
    }
    for (size_t n = 0; n < 1000; n++) assert_int_equal(array[n], n);
    size_t before = capacity;
    assert_int_equal(NM_GROW(array, capacity, SIZE_MAX / 2), NM_NO_MEMORY);
    assert_int_equal(NM_GROW(array, capacity, SIZE_MAX), NM_NO_MEMORY);
    assert_int_equal(capacity, before);
    assert_int_equal(array[999], 999);
    nm_free(array);
}

static void test_strings(void **state)
{
    nm_str s = {0};
    size_t length;
    assert_int_equal(nm_str_puts(&s, ""), NM_OK);
    assert_string_equal(s.data, "");
    for (int i = 0; i < 100; i++) assert_int_equal(nm_str_printf(&s, "%d,", i), NM_OK);
    assert_int_equal(nm_str_append(&s, "a\0b", 3), NM_OK);
    char *text = nm_str_take(&s, &length);
    assert_int_equal(length, 10 * 2 + 90 * 3 + 3);
    assert_memory_equal(text + length - 3, "a\0b", 4);
    assert_null(s.data);
    nm_free(text);
    assert_int_equal(nm_str_json(&s, "\"\\\n\t\r\x01\x7f\xc3\xa9\xff\xe2\x82", 12), NM_OK);
    assert_string_equal(s.data, "\"\\\"\\\\\\n\\t\\r\\u0001\\u007f\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    nm_str_free(&s);
}

static void test_utf8(void **state)
{
    static const struct { const char *bytes; int length, used; int32_t code; } cases[] = {
        {"A", 1, 1, 'A'}, {"\0", 1, 1, 0}, {"\xc3\xa9", 2, 2, 0xe9}, {"\xe2\x82\xac", 3, 3, 0x20ac}, {"\xf0\x9f\x98\x80", 4, 4, 0x1f600},
        {"\xf4\x8f\xbf\xbf", 4, 4, 0x10ffff}, {"\x80", 1, 1, -1}, {"\xc0\x80", 2, 1, -1}, {"\xc1\xbf", 2, 1, -1}, {"\xe0\x80\x80", 3, 1, -1},
        {"\xe0\x9f\xbf", 3, 1, -1}, {"\xed\xa0\x80", 3, 1, -1}, {"\xf0\x8f\xbf\xbf", 4, 1, -1}, {"\xf4\x90\x80\x80", 4, 1, -1},
        {"\xf5\x80\x80\x80", 4, 1, -1}, {"\xe2\x82", 2, 1, -1}, {"\xe2", 1, 1, -1}, {"\xc3(", 2, 1, -1}, {"\xff", 1, 1, -1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int used;
        assert_int_equal(nm_utf8_decode(cases[i].bytes, (size_t)cases[i].length, &used), cases[i].code);
        assert_int_equal(used, cases[i].used);
    }
    for (uint32_t code = 0; code <= 0x10ffff; code++) {
        char out[4];
        int used, n = nm_utf8_encode(code, out);
        bool surrogate = code >= 0xd800 && code < 0xe000;
        if (nm_utf8_decode(out, (size_t)n, &used) != (surrogate ? -1 : (int32_t)code)) fail_msg("U+%04X", code);
        if (!surrogate && used != n) fail_msg("U+%04X: length", code);
    }
}

static void test_terminal_escape(void **state)
{
    static const struct { const char *in, *out; } cases[] = {{"plain", "plain"}, {"a\nb\tc", "a\\nb\\tc"}, {"\x1b]0;x\x07", "\\x1b]0;x\\x07"},
        {"\xc2\x9b" "31m", "\\x9b31m"}, {"\x7f\xfe", "\\x7f\\xfe"}, {"gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f"},
        {"a\xe2\x80\xaegpj.exe", "a\\u{202e}gpj.exe"}, {"\xe2\x80\xaa\xe2\x81\xa6\xe2\x81\xa9", "\\u{202a}\\u{2066}\\u{2069}"},
        {"\xe2\x80\xa9\xe2\x80\xaf\xe2\x81\xa5\xd7\x90", "\xe2\x80\xa9\xe2\x80\xaf\xe2\x81\xa5\xd7\x90"}};
    char out[64];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(nm_escape_terminal(out, sizeof out, cases[i].in, strlen(cases[i].in)), strlen(cases[i].out));
        assert_string_equal(out, cases[i].out);
    }
    for (size_t room = 1; room < 8; room++) {       /* cut at a character, never within one or within an escape */
        size_t n = nm_escape_terminal(out, room, "a\xc3\xbc\x1b", 4);
        assert_true(n < room && (n == 0 || n == 1 || n == 3 || n == 7));
        assert_int_equal(out[n], 0);
    }
}

static void test_random_numbers(void **state)
{
    double sum = 0;
    assert_true(nm_rng_u64(1, 2, 3) == nm_rng_u64(1, 2, 3));
    assert_true(nm_rng_u64(1, 2, 3) != nm_rng_u64(1, 2, 4));
    assert_true(nm_rng_u64(1, 2, 3) != nm_rng_u64(1, 3, 3));
    assert_true(nm_rng_u64(1, 2, 3) != nm_rng_u64(2, 2, 3));
    for (uint64_t i = 0; i < 100000; i++) {
        double x = nm_rng_unit(7, 0, i);
        assert_true(x >= 0 && x < 1);
        sum += x;
    }
    assert_true(sum > 49500 && sum < 50500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_error_lines), cmocka_unit_test(test_allocation), cmocka_unit_test(test_growing),
        cmocka_unit_test(test_strings), cmocka_unit_test(test_utf8), cmocka_unit_test(test_terminal_escape), cmocka_unit_test(test_random_numbers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
