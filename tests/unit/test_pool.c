/* The compute pool: every thread runs, barriers hold, counts change, machines are oversubscribed. Meant
 * to run under ThreadSanitizer too. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "base/err.h"
#include "base/hand.h"
#include "base/pool.h"
#include "base/rng.h"

enum { MOST = 9, ROUNDS = 300 };

typedef struct board {
    int threads;                        /* as the run says */
    int64_t cell[MOST], sum[MOST];      /* plain on purpose: barriers alone order them */
    atomic_int ran[MOST];
    bool wrong;
} board;

/* Each round: write the own cell, meet, add up all cells, meet. */
static void add_up(void *arg, int thread, int threads)
{
    board *b = arg;
    if (thread == 0) b->threads = threads;
    atomic_fetch_add(&b->ran[thread], 1);
    for (int round = 0; round < ROUNDS; round++) {
        b->cell[thread] = (int64_t)(nm_rng_u64(1, (uint64_t)thread, (uint64_t)round) >> 32);
        nm_pool_barrier();
        int64_t sum = 0;
        for (int i = 0; i < threads; i++) sum += b->cell[i];
        b->sum[thread] = sum;
        nm_pool_barrier();
        for (int i = 0; i < threads; i++) if (b->sum[i] != sum) b->wrong = true;
    }
}

static void run_board(int threads)
{
    board b;
    memset(&b, 0, sizeof b);
    assert_int_equal(nm_set_threads(threads), NM_OK);
    assert_int_equal(nm_threads(), threads);
    assert_int_equal(nm_pool_run(add_up, &b), NM_OK);
    assert_int_equal(b.threads, threads);
    assert_false(b.wrong);
    for (int i = 0; i < threads; i++) assert_int_equal(atomic_load(&b.ran[i]), 1);
}

static void test_counts(void **state)
{
    for (int threads = 1; threads <= MOST; threads++) run_board(threads);
    for (int i = 0; i < 30; i++) run_board(1 + (int)(nm_rng_u64(2, 0, (uint64_t)i) % MOST));
}

static void test_stop_and_start(void **state)
{
    for (int i = 0; i < 10; i++) {
        run_board(1 + i % 4);
        nm_pool_stop();
    }
    nm_pool_stop();             /* twice is fine */
}

static void count(void *arg, int thread, int threads) { atomic_fetch_add((atomic_long *)arg, 1); }

static void test_many_short_runs(void **state)
{
    atomic_long n = 0;
    nm_set_threads(3);
    for (int i = 0; i < 5000; i++) assert_int_equal(nm_pool_run(count, &n), NM_OK);
    assert_int_equal(atomic_load(&n), 15000);
}

/* One at a time: a second caller waits its turn. */
static void *call_often(void *arg)
{
    for (int i = 0; i < 300; i++) if (nm_pool_run(count, arg) != NM_OK) return arg;
    return NULL;
}

static void test_callers(void **state)
{
    enum { CALLERS = 4 };
    pthread_t caller[CALLERS];
    atomic_long n = 0;
    nm_set_threads(2);
    for (int i = 0; i < CALLERS; i++) assert_int_equal(pthread_create(&caller[i], NULL, call_often, &n), 0);
    for (int i = 0; i < CALLERS; i++) {
        void *failed;
        pthread_join(caller[i], &failed);
        assert_null(failed);
    }
    assert_int_equal(atomic_load(&n), CALLERS * 300 * 2);
}

/* A thread in the background has workers of its own, all of them at idle priority, while another's runs go on. */
static void note_policy(void *arg, int thread, int threads)
{
    if (sched_getscheduler(0) == SCHED_IDLE) atomic_fetch_add((atomic_int *)arg, 1);
    nm_pool_barrier();
}

typedef struct behind { board board; atomic_int idle; nm_err err; } behind;

static void *run_behind(void *arg)
{
    behind *b = arg;
    b->err = nm_thread_background();
    for (int i = 0; i < 3; i++) if (nm_pool_run(add_up, &b->board) != NM_OK) return arg;
    return nm_pool_run(note_policy, &b->idle) == NM_OK ? NULL : arg;
}

static void test_background(void **state)
{
    pthread_t thread;
    behind b;
    void *failed;
    atomic_int here = 0;
    memset(&b, 0, sizeof b);
    assert_int_equal(nm_set_threads(3), NM_OK);
    assert_int_equal(pthread_create(&thread, NULL, run_behind, &b), 0);
    for (int i = 0; i < 3; i++) run_board(3);
    assert_int_equal(nm_pool_run(note_policy, &here), NM_OK);
    pthread_join(thread, &failed);
    assert_null(failed);
    assert_false(b.board.wrong);
    assert_int_equal(atomic_load(&here), 0);
    if (b.err == NM_OK) assert_int_equal(atomic_load(&b.idle), 3);
}

/* A hand works at idle priority, and has done what takes locks by the thread that waits for it; errors go both ways. */
typedef struct handed { nm_hand *hand; pthread_t owner; int asked; int policy[2]; nm_err answer; } handed;

static nm_err do_for_hand(void *arg)
{
    handed *h = arg;
    h->policy[1] = sched_getscheduler(0);
    if (!pthread_equal(pthread_self(), h->owner)) return nm_fail(NM_FAILED, "another thread");
    return ++h->asked % 2 ? NM_OK : nm_fail_full(nm_fail(NM_REFUSED, "number %d", h->asked));
}

static nm_err work_as_hand(void *arg)
{
    handed *h = arg;
    h->policy[0] = sched_getscheduler(0);
    if (pthread_equal(pthread_self(), h->owner)) return nm_fail(NM_FAILED, "the same thread");
    for (int i = 0; i < 1000 && h->answer == NM_OK; i++) {
        if (nm_hand_ask(h->hand, do_for_hand, h) != NM_OK) return nm_fail(NM_FAILED, "it said %s", nm_error_text());
        h->answer = nm_hand_ask(h->hand, do_for_hand, h);
        if (strcmp(nm_error_text(), "number 2") && i == 0) return nm_fail(NM_FAILED, "it said %s", nm_error_text());
        if (i < 999) h->answer = NM_OK;
    }
    return h->answer;
}

static void test_hand(void **state)
{
    handed h = {.owner = pthread_self()};
    assert_int_equal(nm_hand_open(&h.hand), NM_OK);
    nm_err err = nm_hand_do(h.hand, work_as_hand, &h);
    assert_string_equal(nm_error_text(), "number 2000");
    assert_int_equal(err, NM_REFUSED);
    assert_true(nm_error_is_full());
    assert_int_equal(h.asked, 2000);
    assert_int_equal(h.policy[0], SCHED_IDLE);
    assert_int_equal(h.policy[1], sched_getscheduler(0));
    h = (handed){.hand = h.hand, .owner = h.owner, .asked = 1, .answer = NM_FAILED};
    assert_int_equal(nm_hand_do(h.hand, work_as_hand, &h), NM_FAILED);      /* and again */
    nm_hand_close(&h.hand);
    assert_null(h.hand);
    nm_hand_close(&h.hand);
}

/* Uneven work and sleeping waits: one thread comes late to every barrier. */
static void come_late(void *arg, int thread, int threads)
{
    atomic_int *phase = arg;
    for (int round = 0; round < 20; round++) {
        if (round % threads == thread) {
            struct timespec t = {0, 300000};
            nanosleep(&t, NULL);
            atomic_fetch_add(phase, 1);
        }
        nm_pool_barrier();
        if (atomic_load(phase) != round + 1) atomic_store(phase, -1000);
        nm_pool_barrier();
    }
}

static void test_late(void **state)
{
    for (int threads = 1; threads <= MOST; threads += 2) {
        atomic_int phase = 0;
        nm_set_threads(threads);
        assert_int_equal(nm_pool_run(come_late, &phase), NM_OK);
        assert_int_equal(atomic_load(&phase), 20);
    }
}

static void test_bad_counts(void **state)
{
    assert_int_equal(nm_set_threads(-1), NM_USAGE);
    assert_int_equal(nm_set_threads(257), NM_USAGE);
    assert_int_equal(nm_set_threads(0), NM_OK);
    int threads = nm_threads();
    assert_in_range(threads, 1, 256);
    assert_int_equal(nm_threads(), threads);
}

static void note_mask(void *arg, int thread, int threads)
{
    atomic_int *wrong = arg;
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    bool blocked = sigismember(&mask, SIGINT) && sigismember(&mask, SIGTERM);
    if (blocked != (thread > 0) || sigismember(&mask, SIGBUS)) atomic_fetch_add(wrong, 1);
}

/* A Ctrl-C that a worker takes would not wake the caller's wait for input. */
static void test_signals(void **state)
{
    atomic_int wrong = 0;
    nm_set_threads(3);
    assert_int_equal(nm_pool_run(note_mask, &wrong), NM_OK);
    assert_int_equal(atomic_load(&wrong), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts), cmocka_unit_test(test_stop_and_start), cmocka_unit_test(test_many_short_runs), cmocka_unit_test(test_callers), cmocka_unit_test(test_background), cmocka_unit_test(test_hand),
        cmocka_unit_test(test_late), cmocka_unit_test(test_bad_counts), cmocka_unit_test(test_signals),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
