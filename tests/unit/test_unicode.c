/* Unicode tables and normal forms, against what Hugging Face's library makes of the same texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "text/unicode.h"

#include "../data/tokenizer/golden.h"

static void normal(const char *text, size_t length, nm_unicode_form form, nm_str *out)
{
    out->length = 0;
    assert_int_equal(nm_str_append(out, "", 0), NM_OK);
    assert_int_equal(nm_unicode_normalize(out, text, length, form), NM_OK);
}

static void expect(const char *text, size_t length, nm_unicode_form form, const char *want, size_t want_length)
{
    nm_str out = {0};
    normal(text, length, form, &out);
    assert_int_equal(out.length, want_length);
    assert_memory_equal(out.data, want, want_length);
    nm_str_free(&out);
}

static void test_golden_forms(void **state)
{
    for (int i = 0; i < N_TEXTS; i++) {
        expect(golden_texts[i].bytes, golden_texts[i].length, NM_NFC, golden_nfc[i].bytes, golden_nfc[i].length);
        expect(golden_texts[i].bytes, golden_texts[i].length, NM_NFD, golden_nfd[i].bytes, golden_nfd[i].length);
        bool same = golden_texts[i].length == golden_nfc[i].length && !memcmp(golden_texts[i].bytes, golden_nfc[i].bytes, golden_nfc[i].length);
        if (!same) assert_true(nm_unicode_may_change(golden_texts[i].bytes, golden_texts[i].length));
    }
    assert_false(nm_unicode_may_change("plain \xc3\xa9 \xe4\xbd\xa0", 11));
}

/* For every character: NFC of NFC is NFC, NFC of NFD too, and what cannot change does not. */
static void test_all_characters(void **state)
{
    nm_str once = {0}, twice = {0}, apart = {0}, again = {0};
    for (uint32_t c = 0; c < 0x110000; c++) {
        if (c >= 0xd800 && c < 0xe000) continue;
        char bytes[4];
        size_t n = (size_t)nm_utf8_encode(c, bytes);
        if (!nm_unicode_may_change(bytes, n) && (nm_unicode_kind((int32_t)c) & NM_KIND_CATEGORY) == 0) continue;
        normal(bytes, n, NM_NFC, &once);
        normal(once.data, once.length, NM_NFC, &twice);
        normal(bytes, n, NM_NFD, &apart);
        normal(apart.data, apart.length, NM_NFC, &again);
        if (strcmp(once.data, twice.data) || strcmp(once.data, again.data)) fail_msg("U+%04X", (unsigned)c);
        if (!nm_unicode_may_change(bytes, n)) assert_true(once.length == n && !memcmp(once.data, bytes, n));
    }
    nm_str_free(&once);
    nm_str_free(&twice);
    nm_str_free(&apart);
    nm_str_free(&again);
}

/* Unicode 16's own numbers. */
static void test_categories(void **state)
{
    static const struct { uint32_t set; int count; } want[] = {
        {NM_U_LETTER, 141028}, {NM_U_NUMBER, 1911}, {NM_U_PUNCT, 855}, {NM_U_SYMBOL, 8514}, {NM_U_MARK, 2501}, {NM_U_LU, 1858}, {NM_U_LL, 2258},
        {NM_U_LT, 31}, {NM_U_LM, 404}, {NM_U_LO, 136477}, {NM_U_ND, 760}, {NM_U_SPACE, 25}};
    for (size_t k = 0; k < sizeof want / sizeof *want; k++) {
        int count = 0;
        for (int32_t c = 0; c < 0x110000; c++) count += (nm_unicode_set(c) & want[k].set) != 0;
        assert_int_equal(count, want[k].count);
    }
    assert_true(nm_unicode_set(-1) == NM_U_SO);     /* what is no UTF-8 is U+FFFD */
    assert_true(nm_unicode_set(0x110000) == NM_U_SO);
    assert_true(nm_unicode_kind(0x4e00) & NM_KIND_HAN);
    assert_false(nm_unicode_kind(0x3042) & NM_KIND_HAN);
}

static void test_lower_case(void **state)
{
    static const int32_t pairs[][2] = {{'A', 'a'}, {'z', 'z'}, {0xc4, 0xe4}, {0x3a3, 0x3c3}, {0x416, 0x436}, {0x1e9e, 0xdf}, {0x10400, 0x10428}, {0x4e00, 0x4e00}};
    int32_t out[2];
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        assert_int_equal(nm_unicode_to_lower(pairs[i][0], out), 1);
        assert_int_equal(out[0], pairs[i][1]);
    }
    assert_int_equal(nm_unicode_to_lower(0x130, out), 2);
    assert_int_equal(out[0], 'i');
    assert_int_equal(out[1], 0x307);
    assert_int_equal(nm_unicode_to_lower(-1, out), 1);
}

static void test_raw_bytes_stay(void **state)
{
    static const char raw[] = "a\xff\xc3\xcc\x81\xe2\x82 e\xcc\x81\xed\xa0\x80\xf5";
    static const char want[] = "a\xff\xc3\xcc\x81\xe2\x82 \xc3\xa9\xed\xa0\x80\xf5";
    expect(raw, sizeof raw - 1, NM_NFC, want, sizeof want - 1);
}

/* Two classes in turn, very often: sorted, and in linear time (a quadratic sort would not end here). */
static void test_many_marks(void **state)
{
    enum { N = 1 << 20 };
    nm_str text = {0}, out = {0};
    assert_int_equal(nm_str_putc(&text, 'x'), NM_OK);
    for (int i = 0; i < N; i++) assert_int_equal(nm_str_append(&text, i % 2 ? "\xcc\xa3" : "\xcc\x81", 2), NM_OK);
    normal(text.data, text.length, NM_NFD, &out);
    assert_int_equal(out.length, text.length);
    for (int i = 0; i < N; i++) assert_memory_equal(out.data + 1 + 2 * i, i < N / 2 ? "\xcc\xa3" : "\xcc\x81", 2);
    nm_str_free(&text);
    nm_str_free(&out);
}

static void test_failing_allocations(void **state)
{
    static const char text[] = "\xcc\x81\xcc\xa3 o\xcc\x88\xcc\xa3 e\xcc\x81";
    int64_t alive = nm_mem_alive();
    nm_err err = NM_NO_MEMORY;
    for (int64_t n = 0; err != NM_OK; n++) {
        nm_str out = {0};
        nm_mem_fail_after(n);
        err = nm_unicode_normalize(&out, text, sizeof text - 1, NM_NFC);
        nm_mem_fail_after(-1);
        assert_true(err == NM_OK || err == NM_NO_MEMORY);
        nm_str_free(&out);
        assert_int_equal(nm_mem_alive(), alive);
    }
}

int main(void)
{
    (void)golden_pieces;
    (void)golden_ids;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_forms), cmocka_unit_test(test_all_characters), cmocka_unit_test(test_categories), cmocka_unit_test(test_lower_case),
        cmocka_unit_test(test_raw_bytes_stay), cmocka_unit_test(test_many_marks), cmocka_unit_test(test_failing_allocations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
