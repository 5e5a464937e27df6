/* Starting threads. */
#include "os/thread.h"

#include <signal.h>
#include <stddef.h>

int nm_thread_start(pthread_t *id, void *(*fn)(void *arg), void *arg)
{
    static const int own[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    sigset_t outside, before;
    sigfillset(&outside);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) sigdelset(&outside, own[i]);
    pthread_sigmask(SIG_BLOCK, &outside, &before);      /* the thread inherits it */
    int why = pthread_create(id, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return why;
}
