/* The compute pool: workers that sleep between runs, spin briefly at barriers, and then sleep there too (a futex), so that an
 * oversubscribed machine loses little. Two crews of them: of common work, and of what is done in the background. */
#include "base/pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "os/machine.h"
#include "os/thread.h"

enum {
    POOL_MAX = 256,
    SPIN_NS = 20000,    /* longest spin before sleeping: about the cost of a sleep and a wake-up */
    SPIN_BATCH = 32,    /* pauses between two looks at the clock */
    SPIN_MOST = 1024    /* pauses before the core is offered to others */
};

static atomic_int wanted;       /* threads; 0: not decided yet */

typedef struct worker { pthread_t id; struct crew *crew; int thread; } worker;

typedef struct crew {
    pthread_mutex_t caller;                 /* one run at a time */
    int running;                            /* workers alive */
    int64_t spin;                           /* nanoseconds before sleeping */
    worker worker[POOL_MAX];
    nm_pool_fn fn;
    void *arg;
    bool stop;
    _Alignas(64) atomic_uint run;           /* counts runs: workers wait for it to change */
    _Alignas(64) atomic_uint phase;         /* counts barriers */
    _Alignas(64) atomic_int arrived;
    atomic_int sleepers;
} crew;

/* The threads of common work, and those behind it. What runs on one never waits for what runs on the other: the system's scheduler lets the first go ahead at
 * any instruction, which no check between two tickets could. */
static crew common = {.caller = PTHREAD_MUTEX_INITIALIZER}, behind = {.caller = PTHREAD_MUTEX_INITIALIZER};
static _Thread_local crew *mine = &common;

static void pause_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void futex(atomic_uint *word, int op, unsigned value) { syscall(SYS_futex, word, op, value, NULL, NULL, 0); }

static void wait_change(crew *c, atomic_uint *word, unsigned old)
{
    int64_t until = 0;
    for (;;) {
        for (int i = 0; i < SPIN_BATCH; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != old) return;
            pause_cpu();
        }
        int64_t now = clock_ns();
        if (!until) until = now + c->spin;
        if (now >= until) break;
    }
    atomic_fetch_add(&c->sleepers, 1);
    while (atomic_load(word) == old) futex(word, FUTEX_WAIT_PRIVATE, old);
    atomic_fetch_sub(&c->sleepers, 1);
}

static void advance(crew *c, atomic_uint *word)
{
    atomic_fetch_add(word, 1);
    if (atomic_load(&c->sleepers) > 0) futex(word, FUTEX_WAKE_PRIVATE, INT_MAX);
}

void nm_pool_barrier(void)
{
    crew *c = mine;
    if (c->running == 0) return;
    unsigned phase = atomic_load_explicit(&c->phase, memory_order_relaxed);
    if (atomic_fetch_add(&c->arrived, 1) == c->running) {
        atomic_store_explicit(&c->arrived, 0, memory_order_relaxed);
        advance(c, &c->phase);
    } else {
        wait_change(c, &c->phase, phase);
    }
}

bool nm_pool_wait(atomic_int *count, int n, atomic_int *leave)
{
    for (int spins = 0; atomic_load_explicit(count, memory_order_acquire) < n; spins++) {
        if (atomic_load_explicit(leave, memory_order_relaxed) < 0) return false;
        if (spins < SPIN_MOST) pause_cpu();
        else sched_yield();     /* the one that is waited for may want this core */
    }
    return true;
}

static void *work(void *arg)
{
    const worker *w = arg;
    crew *c = mine = w->crew;
    for (unsigned seen = 0;; seen++) {      /* workers start when no run is under way, with the counter at zero */
        wait_change(c, &c->run, seen);
        if (c->stop) return NULL;
        c->fn(c->arg, w->thread, c->running + 1);
        nm_pool_barrier();
    }
}

static void stop_workers(crew *c)
{
    c->stop = true;
    advance(c, &c->run);
    for (int i = 0; i < c->running; i++) pthread_join(c->worker[i].id, NULL);
    c->running = 0;
    c->stop = false;
}

static nm_err start_workers(crew *c)
{
    int want = nm_threads() - 1;
    if (want == c->running) return NM_OK;
    if (c->running) stop_workers(c);
    c->spin = want < nm_machine_cores() ? SPIN_NS : 0;      /* more threads than cores: who spins keeps another from arriving */
    atomic_store(&c->run, 0);
    /* The workers inherit the caller's priority. They read `running` only after a run begins, so it may grow while they start. */
    for (int i = 0; i < want; i++) {
        worker *w = &c->worker[i];
        w->crew = c;
        w->thread = i + 1;
        if (nm_thread_start(&w->id, work, w) != 0) {
            stop_workers(c);
            return nm_fail(NM_FAILED, "cannot start %d compute threads: use --threads with a smaller number", want + 1);
        }
        c->running++;
    }
    return NM_OK;
}

nm_err nm_pool_run(nm_pool_fn fn, void *arg)
{
    crew *c = mine;
    pthread_mutex_lock(&c->caller);
    nm_err err = start_workers(c);
    if (err == NM_OK) {
        c->fn = fn;
        c->arg = arg;
        if (c->running) advance(c, &c->run);
        fn(arg, 0, c->running + 1);
        nm_pool_barrier();
    }
    pthread_mutex_unlock(&c->caller);
    return err;
}

static void stop(crew *c)
{
    pthread_mutex_lock(&c->caller);
    if (c->running) stop_workers(c);
    pthread_mutex_unlock(&c->caller);
}

void nm_pool_stop(void)
{
    stop(&common);
    stop(&behind);
}

nm_err nm_thread_background(void)
{
    struct sched_param none = {0};
    mine = &behind;
    if (!pthread_setschedparam(pthread_self(), SCHED_IDLE, &none)) return NM_OK;
    return nm_fail(NM_FAILED, "the system does not let a thread work at idle priority: it shares the cores with what should go before");
}

nm_err nm_set_threads(int threads)
{
    if (threads < 0 || threads > POOL_MAX) return nm_fail(NM_USAGE, "threads must be 1 to %d, or 0 for the machine's cores", POOL_MAX);
    atomic_store(&wanted, threads);
    return NM_OK;
}

/* Asks the machine once: the answer sizes the scratch of runners, so it must not change behind their backs when a quota does. */
int nm_threads(void)
{
    int threads = atomic_load(&wanted);
    if (threads) return threads;
    int cores = nm_machine_cores(), asked = 0;
    cores = cores < 1 ? 1 : cores > POOL_MAX ? POOL_MAX : cores;
    return atomic_compare_exchange_strong(&wanted, &asked, cores) ? cores : asked;
}
