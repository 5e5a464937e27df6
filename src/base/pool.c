/* The compute pool: workers that sleep between runs, spin briefly at barriers, and then sleep there too (a futex), so that an
 * oversubscribed machine loses little. */
#include "base/pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "os/machine.h"

enum {
    POOL_MAX = 256,
    SPIN_NS = 20000,    /* longest spin before sleeping: about the cost of a sleep and a wake-up */
    SPIN_BATCH = 32,    /* pauses between two looks at the clock */
    SPIN_MOST = 1024    /* pauses before the core is offered to others */
};

static struct {
    pthread_mutex_t caller;                 /* one run at a time */
    atomic_int threads;                     /* wanted; 0: not decided yet */
    int running;                            /* workers alive */
    int64_t spin;                           /* nanoseconds before sleeping */
    pthread_t worker[POOL_MAX];
    nm_pool_fn fn;
    void *arg;
    bool stop;
    _Alignas(64) atomic_uint run;           /* counts runs: workers wait for it to change */
    _Alignas(64) atomic_uint phase;         /* counts barriers */
    _Alignas(64) atomic_int arrived;
    atomic_int sleepers;
} pool = {.caller = PTHREAD_MUTEX_INITIALIZER};

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

static void wait_change(atomic_uint *word, unsigned old)
{
    int64_t until = 0;
    for (;;) {
        for (int i = 0; i < SPIN_BATCH; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != old) return;
            pause_cpu();
        }
        int64_t now = clock_ns();
        if (!until) until = now + pool.spin;
        if (now >= until) break;
    }
    atomic_fetch_add(&pool.sleepers, 1);
    while (atomic_load(word) == old) futex(word, FUTEX_WAIT_PRIVATE, old);
    atomic_fetch_sub(&pool.sleepers, 1);
}

static void advance(atomic_uint *word)
{
    atomic_fetch_add(word, 1);
    if (atomic_load(&pool.sleepers) > 0) futex(word, FUTEX_WAKE_PRIVATE, INT_MAX);
}

void nm_pool_barrier(void)
{
    if (pool.running == 0) return;
    unsigned phase = atomic_load_explicit(&pool.phase, memory_order_relaxed);
    if (atomic_fetch_add(&pool.arrived, 1) == pool.running) {
        atomic_store_explicit(&pool.arrived, 0, memory_order_relaxed);
        advance(&pool.phase);
    } else {
        wait_change(&pool.phase, phase);
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
    int thread = (int)(intptr_t)arg;
    for (unsigned seen = 0;; seen++) {      /* workers start when no run is under way, with the counter at zero */
        wait_change(&pool.run, seen);
        if (pool.stop) return NULL;
        pool.fn(pool.arg, thread, pool.running + 1);
        nm_pool_barrier();
    }
}

static void stop_workers(void)
{
    pool.stop = true;
    advance(&pool.run);
    for (int i = 0; i < pool.running; i++) pthread_join(pool.worker[i], NULL);
    pool.running = 0;
    pool.stop = false;
}

/* Signals from outside are the caller's: one that a worker takes would not wake a caller who waits for input, or for a lock. What a
 * thread's own work raises (SIGBUS of a cut file) must reach it. */
static void block_signals(sigset_t *before)
{
    static const int own[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    sigset_t outside;
    sigfillset(&outside);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) sigdelset(&outside, own[i]);
    pthread_sigmask(SIG_BLOCK, &outside, before);
}

static nm_err start_workers(void)
{
    int want = nm_threads() - 1;
    sigset_t before;
    if (want == pool.running) return NM_OK;
    if (pool.running) stop_workers();
    pool.spin = want < nm_machine_cores() ? SPIN_NS : 0;     /* more threads than cores: who spins keeps another from arriving */
    atomic_store(&pool.run, 0);
    block_signals(&before);     /* the workers inherit it */
    /* The workers read `running` only after a run begins, so it may grow while they start. */
    for (int i = 0; i < want; i++) {
        if (pthread_create(&pool.worker[i], NULL, work, (void *)(intptr_t)(i + 1)) != 0) {
            stop_workers();
            pthread_sigmask(SIG_SETMASK, &before, NULL);
            return nm_fail(NM_FAILED, "cannot start %d compute threads: use --threads with a smaller number", want + 1);
        }
        pool.running++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return NM_OK;
}

nm_err nm_pool_run(nm_pool_fn fn, void *arg)
{
    pthread_mutex_lock(&pool.caller);
    nm_err err = start_workers();
    if (err == NM_OK) {
        pool.fn = fn;
        pool.arg = arg;
        if (pool.running) advance(&pool.run);
        fn(arg, 0, pool.running + 1);
        nm_pool_barrier();
    }
    pthread_mutex_unlock(&pool.caller);
    return err;
}

void nm_pool_stop(void)
{
    pthread_mutex_lock(&pool.caller);
    if (pool.running) stop_workers();
    pthread_mutex_unlock(&pool.caller);
}

nm_err nm_set_threads(int threads)
{
    if (threads < 0 || threads > POOL_MAX) return nm_fail(NM_USAGE, "threads must be 1 to %d, or 0 for the machine's cores", POOL_MAX);
    pthread_mutex_lock(&pool.caller);
    atomic_store(&pool.threads, threads);
    pthread_mutex_unlock(&pool.caller);
    return NM_OK;
}

/* Asks the machine once: the answer sizes the scratch of runners, so it must not change behind their backs when a quota does. */
int nm_threads(void)
{
    int threads = atomic_load(&pool.threads);
    if (threads) return threads;
    int cores = nm_machine_cores(), asked = 0;
    cores = cores < 1 ? 1 : cores > POOL_MAX ? POOL_MAX : cores;
    return atomic_compare_exchange_strong(&pool.threads, &asked, cores) ? cores : asked;
}
