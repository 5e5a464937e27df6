/* Owns the process's compute threads: workers that run a function together and meet at barriers. Refuses to queue: one
 * caller at a time (a second waits), but for a thread of nm_thread_background, whose runs have workers of their own, at idle priority.
 * Waiting spins for a few microseconds, then sleeps; no thread spins between runs. */
#ifndef NM_BASE_POOL_H
#define NM_BASE_POOL_H

#include <stdatomic.h>

#include "nomoat.h"

/* Runs fn(arg, thread, threads) once on each thread; the caller is thread 0. Returns when all have ended. NM_NO_MEMORY or
 * NM_FAILED if the workers cannot be started (then nothing ran). */
typedef void (*nm_pool_fn)(void *arg, int thread, int threads);
nm_err nm_pool_run(nm_pool_fn fn, void *arg);
/* Inside fn only: waits until all threads of the run are here. What was written before is seen by all after. */
void nm_pool_barrier(void);
/* Inside fn only: waits until *count is at least n, where other threads of the run are at work on what is lacking, and wait themselves for nothing or for what began
 * before; false: *leave fell below 0 first. What was written before *count rose (with release) is seen after. */
bool nm_pool_wait(atomic_int *count, int n, atomic_int *leave);
/* Ends and joins the workers (tests, and before a fork); the next run starts them again. */
void nm_pool_stop(void);

#endif
