/* Foreign text on its way to a terminal: the same however a stream is cut. Takes in term.c, which is part of the program and not of the library. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "../../cmd/term.c"
#include "base/duration.h"
#include "base/mem.h"
#include "base/rng.h"

/* The stream in pieces of `step` bytes, made safe. */
static char *safe_in_pieces(const char *text, size_t length, size_t step, size_t *out_length)
{
    nm_safe safe = {{0}, 0};
    nm_str out = {0};
    assert_int_equal(nm_str_puts(&out, ""), NM_OK);
    for (size_t i = 0; i < length; i += step) assert_int_equal(nm_safe_push(&safe, &out, text + i, length - i < step ? length - i : step),
                                                               NM_OK);
    assert_int_equal(nm_safe_end(&safe, &out), NM_OK);
    return nm_str_take(&out, out_length);
}

static void assert_safe(const char *text, size_t length, const char *expected)
{
    for (size_t step = 1; step <= length + 1; step++) {
        size_t n;
        char *out = safe_in_pieces(text, length, step, &n);
        assert_string_equal(out, expected);
        nm_free(out);
    }
}

static void test_safe(void **state)
{
    (void)state;
#define SAFE(text, expected) assert_safe(text, sizeof(text) - 1, expected)
    SAFE("plain\n\ttext", "plain\n\ttext");
    SAFE("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m");
    SAFE("a\rb\bc\x7f\0d", "a\\x0db\\x08c\\x7f\\x00d");
    SAFE("\xc2\x9b" "31m", "\\x9b31m");                         /* CSI as one C1 character */
    SAFE("\x9b" "31m", "\\x9b31m");                             /* and as a bare byte */
    SAFE("\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80", "\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80");
    SAFE("\xf0\x9f\x98", "\\xf0\\x9f\\x98");                    /* cut at the end */
    SAFE("\xf0\x9f\x1b]0;x\x07", "\\xf0\\x9f\\x1b]0;x\\x07");   /* a control inside a character */
    SAFE("\xe2\x82" "a\xc3", "\\xe2\\x82a\\xc3");
    SAFE("\xe2\x80\xaa\xd7\x90\xe2\x80\xac", "\xe2\x80\xaa\xd7\x90\xe2\x80\xac");     /* the order of a text is its own */
    SAFE("\xed\xa0\x80 \xc0\x80 \xff", "\\xed\\xa0\\x80 \\xc0\\x80 \\xff");
}

/* Random bytes: never a control character, whatever the pieces; and all cuts agree. */
static void test_safe_random(void **state)
{
    (void)state;
    static const char alphabet[] = "\x1b\x9b\xc2\xe2\x82\xac\xf0\x9f\x98\x80\xf4\x90 a\n\x7f\xff[";
    for (uint64_t round = 0; round < 300; round++) {
        char text[24];
        size_t n = 1 + nm_rng_u64(1, round, 0) % sizeof text, first_length;
        for (size_t i = 0; i < n; i++) text[i] = alphabet[nm_rng_u64(1, round, i + 1) % (sizeof alphabet - 1)];
        char *first = safe_in_pieces(text, n, n, &first_length);
        for (size_t i = 0; i < first_length;) {
            int used;
            int32_t c = nm_utf8_decode(first + i, first_length - i, &used);
            assert_true(c == '\n' || (c >= 0x20 && c != 0x7f && !(c >= 0x80 && c < 0xa0)));
            i += (size_t)used;
        }
        assert_safe(text, n, first);
        nm_free(first);
    }
}

/* Standard output that does not block, as some programs leave it behind: what a slow reader has no room for waits. */
static void test_slow_reader(void **state)
{
    enum { LINES = 40000 };
    int ends[2], status;
    (void)state;
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(fcntl(ends[1], F_SETFL, O_NONBLOCK), 0);
    pid_t child = fork();
    if (child == 0) {
        nm_err err = NM_OK;
        dup2(ends[1], STDOUT_FILENO);
        for (int i = 0; err == NM_OK && i < LINES; i++) err = nm_out_printf("%07d ", i);
        if (err == NM_OK) err = nm_out_flush();
        _exit(err);
    }
    close(ends[1]);
    usleep(50000);
    static char all[8 * LINES];
    size_t n = 0;
    for (ssize_t got; (got = read(ends[0], all + n, sizeof all - n)) > 0;) n += (size_t)got;
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(n, sizeof all);
    assert_memory_equal(all + n - 8, "0039999 ", 8);
}

static void test_bytes(void **state)
{
    (void)state;
    char t[32];
    assert_string_equal(nm_bytes_text(0, t), "0 B");
    assert_string_equal(nm_bytes_text(999, t), "999 B");
    assert_string_equal(nm_bytes_text(98362432, t), "98.4 MB");
    assert_string_equal(nm_bytes_text(491400064, t), "491 MB");
    assert_string_equal(nm_bytes_text(999960000, t), "1.0 GB");
    assert_string_equal(nm_bytes_text(UINT64_MAX, t), "18.4 EB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_safe), cmocka_unit_test(test_safe_random), cmocka_unit_test(test_slow_reader), cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
