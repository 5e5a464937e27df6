/* Owns how threads are started. */
#ifndef NM_OS_THREAD_H
#define NM_OS_THREAD_H

#include <pthread.h>

/* pthread_create, and its errors, for a thread to which signals from outside do not go: they are the main thread's, and one that another takes would not wake a caller who
 * waits for input, or for a lock. What a thread's own work raises (SIGBUS of a file that is cut) reaches it. */
int nm_thread_start(pthread_t *id, void *(*fn)(void *arg), void *arg);

#endif
