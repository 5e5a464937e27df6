/* A thread that works behind the others while its caller waits. */
#include "base/hand.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>

#include "base/err.h"
#include "base/mem.h"
#include "os/thread.h"

struct nm_hand {
    pthread_t thread;
    sem_t go, back;                 /* for the hand; for its caller */
    nm_hand_fn work, asked;         /* NULL: it is to end; nothing is asked, the work is done */
    void *work_arg, *asked_arg;
    nm_fault fault;                 /* of what was done last */
};

static void wait_for(sem_t *s) { while (sem_wait(s) && errno == EINTR) {} }

static void *serve(void *arg)
{
    nm_hand *h = arg;
    nm_thread_background();         /* where that cannot be, the system's scheduler is fair all the same */
    for (wait_for(&h->go); h->work; wait_for(&h->go)) {
        nm_fault_keep(&h->fault, h->work(h->work_arg));
        h->asked = NULL;
        sem_post(&h->back);
    }
    return NULL;
}

nm_err nm_hand_do(nm_hand *h, nm_hand_fn fn, void *arg)
{
    h->work = fn;
    h->work_arg = arg;
    sem_post(&h->go);
    for (wait_for(&h->back); h->asked; wait_for(&h->back)) {
        nm_fault_keep(&h->fault, h->asked(h->asked_arg));
        sem_post(&h->go);
    }
    return nm_fault_tell(&h->fault);
}

nm_err nm_hand_ask(nm_hand *h, nm_hand_fn fn, void *arg)
{
    h->asked = fn;
    h->asked_arg = arg;
    sem_post(&h->back);
    wait_for(&h->go);
    return nm_fault_tell(&h->fault);
}

nm_err nm_hand_open(nm_hand **out)
{
    nm_hand *h = *out = nm_calloc(1, sizeof *h);
    if (!h) return nm_fail_memory(sizeof *h);
    sem_init(&h->go, 0, 0);
    sem_init(&h->back, 0, 0);
    if (!nm_thread_start(&h->thread, serve, h)) return NM_OK;
    nm_free(h);
    *out = NULL;
    return nm_fail(NM_FAILED, "cannot start a thread for work in the background");
}

void nm_hand_close(nm_hand **hand)
{
    nm_hand *h = *hand;
    *hand = NULL;
    if (!h) return;
    h->work = NULL;
    sem_post(&h->go);
    pthread_join(h->thread, NULL);
    sem_destroy(&h->go);
    sem_destroy(&h->back);
    nm_free(h);
}
