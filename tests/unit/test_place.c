/* The planner of memory on made-up graphs: nothing that lives at the same time overlaps, and little is wasted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "program/program.h"

static bool overlap(const nm_extent *a, const nm_extent *b)
{
    bool time = a->first <= b->last && b->first <= a->last;
    return a->bytes && b->bytes && time && a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes;
}

/* Most bytes that live at one time: no plan can do with less. */
static size_t least(const nm_extent *e, size_t count)
{
    size_t most = 0;
    for (size_t i = 0; i < count; i++) {
        size_t now = 0;
        for (size_t j = 0; j < count; j++) if (e[j].first <= e[i].first && e[i].first <= e[j].last) now += e[j].bytes;
        if (now > most) most = now;
    }
    return most;
}

static size_t place(nm_extent *e, size_t count)
{
    size_t total;
    assert_int_equal(nm_place(e, count, &total), NM_OK);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(e[i].offset % 64, 0);
        assert_true(e[i].offset + e[i].bytes <= total);
        for (size_t j = 0; j < i; j++) if (overlap(&e[i], &e[j])) fail_msg("extents %zu and %zu overlap", j, i);
    }
    assert_true(total >= least(e, count));
    return total;
}

static void test_nothing(void **state)
{
    nm_extent none[2] = {{.bytes = 0, .first = 0, .last = 9}, {.bytes = 0, .first = 3, .last = 4}};
    assert_int_equal(place(none, 0), 0);
    assert_int_equal(place(none, 2), 0);
}

static void test_chain(void **state)            /* each value is read by the next step: two live at a time */
{
    nm_extent e[40];
    for (int i = 0; i < 40; i++) e[i] = (nm_extent){.bytes = 4096, .first = i, .last = i + 1};
    assert_int_equal(place(e, 40), 2 * 4096);
}

static void test_residual(void **state)         /* one value lives through; the others come and go beside it */
{
    nm_extent e[21];
    for (int i = 0; i < 20; i++) e[i] = (nm_extent){.bytes = 64 * (size_t)(1 + i % 5), .first = i, .last = i};
    e[20] = (nm_extent){.bytes = 1024, .first = 0, .last = 19};
    assert_int_equal(place(e, 21), 1024 + 5 * 64);
}

static void test_all_at_once(void **state)
{
    nm_extent e[10];
    for (int i = 0; i < 10; i++) e[i] = (nm_extent){.bytes = 64 << i % 4, .first = 0, .last = 0};
    assert_int_equal(place(e, 10), least(e, 10));
}

/* A gap between two that live on is filled by one that fits, and left by one that does not. */
static void test_gap(void **state)
{
    nm_extent e[4] = {{.bytes = 640, .first = 0, .last = 1}, {.bytes = 512, .first = 0, .last = 9}, {.bytes = 640, .first = 2, .last = 9},
        {.bytes = 576, .first = 2, .last = 2}};
    assert_int_equal(place(e, 4), 640 + 512 + 576);
    assert_int_equal(e[2].offset, 0);
}

static void test_random(void **state)
{
    enum { MOST = 300 };
    static nm_extent e[MOST];
    double worst = 1;
    for (uint64_t seed = 0; seed < 200; seed++) {
        size_t count = 1 + nm_rng_u64(seed, 0, 0) % MOST;
        for (size_t i = 0; i < count; i++) {
            int32_t first = (int32_t)(nm_rng_u64(seed, 1, i) % 200), length = (int32_t)(nm_rng_u64(seed, 2, i) % (i % 10 ? 8 : 200));
            e[i] = (nm_extent){.bytes = 64 * (nm_rng_u64(seed, 3, i) % 500), .first = first, .last = first + length};
        }
        double waste = (double)place(e, count) / (double)(least(e, count) ? least(e, count) : 1);
        if (waste > worst) worst = waste;
    }
    print_message("at worst %.2f times the least that could do\n", worst);
    assert_true(worst < 1.5);
}

static void test_same_answer(void **state)      /* equal sizes: the order of the list decides, not the sort */
{
    nm_extent a[64], b[64];
    for (int i = 0; i < 64; i++) a[i] = b[i] = (nm_extent){.bytes = 128, .first = i / 4, .last = i / 4 + i % 3};
    assert_int_equal(place(a, 64), place(b, 64));
    for (int i = 0; i < 64; i++) assert_int_equal(a[i].offset, b[i].offset);
}

static void test_memory_fails(void **state)
{
    nm_extent e[3] = {{.bytes = 64}, {.bytes = 64}, {.bytes = 64}};
    size_t total;
    int64_t alive = nm_mem_alive();
    for (int i = 0; i < 2; i++) {
        nm_mem_fail_after(i);
        assert_int_equal(nm_place(e, 3, &total), NM_NO_MEMORY);
        nm_mem_fail_after(-1);
        assert_int_equal(nm_mem_alive(), alive);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing), cmocka_unit_test(test_chain), cmocka_unit_test(test_residual), cmocka_unit_test(test_all_at_once),
        cmocka_unit_test(test_gap), cmocka_unit_test(test_random), cmocka_unit_test(test_same_answer), cmocka_unit_test(test_memory_fails),
    };
    return cmocka_run_group_tests_name("place", tests, NULL, NULL);
}
