/* Samplers and stop strings: every setting against a plain computation of what it means, determinism, bad logits, failing memory. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "nomoat.h"

static const nm_sampling plain = {.temperature = 1, .top_p = 1, .typical = 1, .repeat_penalty = 1, .penalty_last = 64, .seed = 7};

/* How often each of the tokens is drawn in `draws` draws. */
static void count_draws(const nm_sampling *with, const float *logits, int32_t n, int draws, int *seen)
{
    nm_sampler *s;
    assert_int_equal(nm_sampler_open(&s, with, n), NM_OK);
    memset(seen, 0, (size_t)n * sizeof *seen);
    for (int i = 0; i < draws; i++) {
        int32_t token = -1;
        assert_int_equal(nm_sampler_draw(s, logits, &token), NM_OK);
        assert_in_range(token, 0, n - 1);
        seen[token]++;
    }
    nm_sampler_close(&s);
    assert_null(s);
}

static void assert_support(const int *seen, int n, const char *expected)
{
    for (int i = 0; i < n; i++) assert_int_equal(seen[i] > 0, expected[i] == '1');
}

static void test_greedy(void **state)
{
    (void)state;
    float logits[] = {1, 5, -3, 5, 4};
    nm_sampling with = plain;
    int seen[5];
    with.temperature = 0;
    count_draws(&with, logits, 5, 3, seen);
    assert_int_equal(seen[1], 3);       /* the lower id of two equals */
}

static void test_distribution(void **state)
{
    (void)state;
    enum { N = 4, DRAWS = 200000 };
    float logits[N] = {logf(0.1f), logf(0.2f), logf(0.3f), logf(0.4f)};
    int seen[N];
    count_draws(&plain, logits, N, DRAWS, seen);
    for (int i = 0; i < N; i++) assert_true(fabs(seen[i] / (double)DRAWS - 0.1 * (i + 1)) < 0.005);
    nm_sampling hot = plain;
    hot.temperature = 2;
    double total = sqrt(0.1) + sqrt(0.2) + sqrt(0.3) + sqrt(0.4);
    count_draws(&hot, logits, N, DRAWS, seen);
    for (int i = 0; i < N; i++) assert_true(fabs(seen[i] / (double)DRAWS - sqrt(0.1 * (i + 1)) / total) < 0.005);
}

static void test_filters(void **state)
{
    (void)state;
    float logits[6] = {logf(0.30f), logf(0.05f), logf(0.25f), logf(0.02f), logf(0.20f), logf(0.18f)};
    int seen[6];
    nm_sampling with = plain;
    with.top_k = 2;
    count_draws(&with, logits, 6, 2000, seen);
    assert_support(seen, 6, "101000");
    with = plain;
    with.top_p = 0.6f;      /* 0.30 + 0.25 is short of it, 0.20 reaches it */
    count_draws(&with, logits, 6, 2000, seen);
    assert_support(seen, 6, "101010");
    with.top_p = 0;         /* one always stays */
    count_draws(&with, logits, 6, 100, seen);
    assert_support(seen, 6, "100000");
    with = plain;
    with.min_p = 0.5f;      /* at least 0.15 */
    count_draws(&with, logits, 6, 2000, seen);
    assert_support(seen, 6, "101011");
    with = plain;
    with.typical = 0.3f;    /* entropy 1.57: the surprise of 0.20 (1.61) is nearest, then that of 0.18 (1.71) */
    count_draws(&with, logits, 6, 2000, seen);
    assert_support(seen, 6, "000011");
}

/* Filters on a vocabulary of real size agree with sorting it. */
static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static void test_large_vocabulary(void **state)
{
    (void)state;
    enum { N = 50000 };
    float *logits = malloc(N * sizeof *logits), *sorted = malloc(N * sizeof *sorted);
    int *seen = malloc(N * sizeof *seen);
    for (int i = 0; i < N; i++) logits[i] = (float)(nm_rng_unit(3, 0, (uint64_t)i) * 8);
    memcpy(sorted, logits, N * sizeof *sorted);
    qsort(sorted, N, sizeof *sorted, compare_floats);
    nm_sampling with = plain;
    with.top_k = 40;
    count_draws(&with, logits, N, 500, seen);
    for (int i = 0; i < N; i++) assert_true(!seen[i] || logits[i] >= sorted[39]);
    with.top_k = 0;
    with.top_p = 0.2f;
    double total = 0, have = 0;
    for (int i = 0; i < N; i++) total += exp((double)sorted[i]);
    int kept = 0;
    while (have < (double)0.2f * total) have += exp((double)sorted[kept++]);
    count_draws(&with, logits, N, 500, seen);
    for (int i = 0; i < N; i++) assert_true(!seen[i] || logits[i] >= sorted[kept - 1]);
    free(logits);
    free(sorted);
    free(seen);
}

static void test_penalties(void **state)
{
    (void)state;
    float logits[3] = {2.0f, 1.5f, -1.0f};
    nm_sampling with = plain;
    nm_sampler *s;
    int32_t token;
    with.temperature = 0;
    with.repeat_penalty = 2;
    with.penalty_last = 2;
    assert_int_equal(nm_sampler_open(&s, &with, 3), NM_OK);
    assert_int_equal(nm_sampler_accept(s, 0), NM_OK);
    nm_sampler_draw(s, logits, &token);
    assert_int_equal(token, 1);     /* 2 / 2 < 1.5 */
    nm_sampler_accept(s, 2);
    nm_sampler_accept(s, 2);        /* 0 has left the window */
    nm_sampler_draw(s, logits, &token);
    assert_int_equal(token, 0);
    assert_int_equal(nm_sampler_accept(s, 3), NM_USAGE);
    assert_int_equal(nm_sampler_accept(s, -1), NM_USAGE);
    nm_sampler_close(&s);
    with.repeat_penalty = 1;
    with.frequency_penalty = 0.3f;
    with.presence_penalty = 0.05f;
    with.penalty_last = -1;
    assert_int_equal(nm_sampler_open(&s, &with, 3), NM_OK);
    nm_sampler_accept(s, 0);
    nm_sampler_draw(s, logits, &token);
    assert_int_equal(token, 0);     /* 2 - 0.35 */
    nm_sampler_accept(s, 0);
    nm_sampler_draw(s, logits, &token);
    assert_int_equal(token, 1);     /* 2 - 0.65 */
    nm_sampler_close(&s);
}

static void test_determinism(void **state)
{
    (void)state;
    enum { N = 1000, DRAWS = 200 };
    float logits[N];
    int32_t first[DRAWS], token;
    nm_sampling with = nm_sampling_defaults(NULL);
    with.seed = 42;
    for (int i = 0; i < N; i++) logits[i] = (float)nm_rng_unit(9, 1, (uint64_t)i) * 4;
    for (int round = 0; round < 3; round++) {
        nm_sampler *s;
        int different = 0;
        if (round == 2) with.seed = 43;
        assert_int_equal(nm_sampler_open(&s, &with, N), NM_OK);
        for (int i = 0; i < DRAWS; i++) {
            assert_int_equal(nm_sampler_draw(s, logits, &token), NM_OK);
            if (!round) first[i] = token;
            different += token != first[i];
        }
        assert_int_equal(different > 0, round == 2);
        nm_sampler_close(&s);
    }
}

static void test_bad_logits(void **state)
{
    (void)state;
    float with_nan[3] = {1, NAN, 2}, nothing[3] = {-INFINITY, -INFINITY, -INFINITY}, endless[3] = {1, INFINITY, 3};
    for (int greedy = 0; greedy < 2; greedy++) {
        nm_sampling with = plain;
        nm_sampler *s;
        int32_t token;
        with.top_k = 2;
        with.top_p = 0.9f;
        with.typical = 0.9f;
        if (greedy) with.temperature = 0;
        assert_int_equal(nm_sampler_open(&s, &with, 3), NM_OK);
        assert_int_equal(nm_sampler_draw(s, with_nan, &token), NM_FAILED);
        assert_int_equal(nm_sampler_draw(s, nothing, &token), NM_FAILED);
        assert_int_equal(nm_sampler_draw(s, endless, &token), NM_OK);
        assert_int_equal(token, 1);
        nm_sampler_close(&s);
    }
}

static void test_bad_settings(void **state)
{
    (void)state;
    nm_sampling bad[12];
    for (int i = 0; i < 12; i++) bad[i] = plain;
    bad[0].temperature = -1; bad[1].temperature = NAN; bad[2].top_k = -1; bad[3].top_p = 1.5f;
    bad[4].min_p = -0.1f; bad[5].typical = NAN; bad[6].repeat_penalty = 0; bad[7].repeat_penalty = INFINITY;
    bad[8].presence_penalty = NAN; bad[9].frequency_penalty = INFINITY; bad[10].penalty_last = -2; bad[11].top_p = NAN;
    for (int i = 0; i < 12; i++) {
        nm_sampler *s;
        assert_int_equal(nm_sampler_open(&s, &bad[i], 10), NM_USAGE);
        assert_null(s);
    }
    nm_sampler *s;
    assert_int_equal(nm_sampler_open(&s, &plain, 0), NM_USAGE);
}

/* ---- Stop strings ---------------------------------------------------------------------------------------------------------------- */

/* Feeds text in pieces of `step` bytes; returns what came out, and whether it stopped. */
static char *through(const char *const *stops, size_t n, const char *text, size_t step, bool *stopped)
{
    nm_stop *s;
    nm_str all = {0};
    const char *out;
    size_t length, size = strlen(text);
    assert_int_equal(nm_stop_open(&s, stops, n), NM_OK);
    assert_int_equal(nm_str_puts(&all, ""), NM_OK);
    *stopped = false;
    for (size_t i = 0; i < size && !*stopped; i += step) {
        assert_int_equal(nm_stop_push(s, text + i, size - i < step ? size - i : step, &out, &length, stopped), NM_OK);
        assert_int_equal(nm_str_append(&all, out, length), NM_OK);
    }
    bool ignored;
    assert_int_equal(nm_stop_push(s, NULL, 0, &out, &length, &ignored), NM_OK);
    assert_int_equal(nm_str_append(&all, out, length), NM_OK);
    nm_stop_close(&s);
    assert_null(s);
    return nm_str_take(&all, NULL);
}

static void test_stop(void **state)
{
    (void)state;
    const char *const stops[] = {"\n\nUser:", "END", "ENDLESS", "aab"};
    static const struct { const char *text, *out; bool stopped; } cases[] = {
        {"hello\n\nUser: hi", "hello", true}, {"hello\n\nUse", "hello\n\nUse", false}, {"THE END.", "THE ", true},
        {"EN EN END", "EN EN ", true}, {"ENDLESS", "", true}, {"aaab", "a", true}, {"aaaa", "aaaa", false}, {"", "", false},
        {"E", "E", false}, {"\n\n\n\nUser:", "\n\n", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t step = 1; step < 12; step++) {
            bool stopped;
            char *out = through(stops, 4, cases[i].text, step, &stopped);
            assert_string_equal(out, cases[i].out);
            assert_int_equal(stopped, cases[i].stopped);
            nm_free(out);
        }
    }
    /* Whichever is whole first, however the text is cut; of two that end together the longer. */
    const char *const within[] = {"abc", "b", "xyz", "z"};
    for (size_t step = 1; step < 8; step++) {
        bool stopped;
        char *first = through(within, 4, "-abc", step, &stopped), *longer = through(within, 4, "-xyz", step, &stopped);
        assert_string_equal(first, "-a");
        assert_string_equal(longer, "-");
        nm_free(first);
        nm_free(longer);
    }
    bool stopped;
    char *out = through(NULL, 0, "anything", 3, &stopped);
    assert_string_equal(out, "anything");
    nm_free(out);
}

static void test_stop_held_and_reset(void **state)
{
    (void)state;
    const char *const stops[] = {"STOP"}, *const empty[] = {"a", ""};
    const char *out;
    size_t length;
    bool stopped;
    nm_stop *s;
    assert_int_equal(nm_stop_open(&s, empty, 2), NM_USAGE);
    assert_null(s);
    assert_int_equal(nm_stop_open(&s, stops, 1), NM_OK);
    nm_stop_push(s, "go ST", 5, &out, &length, &stopped);
    assert_int_equal(length, 3);
    nm_stop_push(s, "OP now", 6, &out, &length, &stopped);
    assert_true(stopped && length == 0);
    nm_stop_push(s, "more", 4, &out, &length, &stopped);
    assert_true(stopped && length == 0);
    nm_stop_reset(s);
    nm_stop_push(s, "more", 4, &out, &length, &stopped);
    assert_true(!stopped && length == 4);
    nm_stop_close(&s);
}

static void test_failing_memory(void **state)
{
    (void)state;
    const char *const stops[] = {"one", "two"};
    for (int n = 0; n < 12; n++) {
        int64_t alive = nm_mem_alive();
        nm_sampling with = plain;
        nm_sampler *s = NULL;
        nm_stop *stop = NULL;
        const char *out;
        size_t length;
        bool stopped;
        with.presence_penalty = 1;
        nm_mem_fail_after(n);
        nm_err err = nm_sampler_open(&s, &with, 100);
        if (err == NM_OK) err = nm_sampler_accept(s, 5);
        if (err == NM_OK) err = nm_stop_open(&stop, stops, 2);
        if (err == NM_OK) err = nm_stop_push(stop, "abc", 3, &out, &length, &stopped);
        nm_mem_fail_after(-1);
        assert_int_equal(err, n < 11 ? NM_NO_MEMORY : NM_OK);
        nm_sampler_close(&s);
        nm_stop_close(&stop);
        assert_int_equal(nm_mem_alive(), alive);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy), cmocka_unit_test(test_distribution), cmocka_unit_test(test_filters),
        cmocka_unit_test(test_large_vocabulary), cmocka_unit_test(test_penalties), cmocka_unit_test(test_determinism),
        cmocka_unit_test(test_bad_logits), cmocka_unit_test(test_bad_settings), cmocka_unit_test(test_stop),
        cmocka_unit_test(test_stop_held_and_reset), cmocka_unit_test(test_failing_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
