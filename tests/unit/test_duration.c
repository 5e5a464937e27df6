/* Spans of time and sizes as people write and read them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/duration.h"

static void reads(void **state)
{
    static const struct { const char *text; double seconds; } good[] = {{"3h", 10800}, {"90m", 5400}, {"2h30m", 9000}, {"45 min", 2700}, {"1.5 hours", 5400}, {"1d 12h", 129600},
        {"20s", 20}, {"2 h 30 min", 9000}, {"10", 600}, {"2H", 7200}, {" 1h ", 3600}, {".5h", 1800}, {"1d2h3m4s", 93784}, {"0h5m", 300}};
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        double v = 0;
        assert_int_equal(nm_read_duration(good[i].text, "--fit", &v), NM_OK);
        assert_true(fabs(v - good[i].seconds) < 1e-6);
    }
}

static void refuses(void **state)
{
    static const char *const bad[] = {"", " ", "h", "3x", "-1h", "0", "0m", "30m2h", "2h2h", "2h30", "nan", "inf", "1e30h", "0x10m", "3 weeks", "3h,", "+3h", "hhhhhhhhhhhhhhhhhhhhhhhh", "3 hhhhhhhhhhhhhhhhhh",
        "\xff", "3\xc3\xa9"};
    double v = 7;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(nm_read_duration(bad[i], "--fit", &v), NM_USAGE);
        assert_non_null(strstr(nm_error_text(), "--fit"));
    }
    assert_true(v > 6.9 && v < 7.1);
}

static void writes(void **state)
{
    char out[32];
    (void)state;
    assert_string_equal(nm_duration_text(12.4, out), "12 s");
    assert_string_equal(nm_duration_text(240, out), "4 min");
    assert_string_equal(nm_duration_text(12600, out), "3.5 h");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(reads), cmocka_unit_test(refuses), cmocka_unit_test(writes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
