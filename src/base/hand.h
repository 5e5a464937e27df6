/* Owns a thread behind the others (nm_thread_background) that does the work of a common one, which waits for it meanwhile and does for it what takes locks that others wait for:
 * a thread at idle priority that is preempted with a lock in its hands may not run again for seconds, and has no way back, as the system lets nobody without privileges out of
 * that priority, nor lends it that of who waits. The two meet by semaphores that nobody else knows of. Refuses more than one piece of work at a time. */
#ifndef NM_BASE_HAND_H
#define NM_BASE_HAND_H

#include "nomoat.h"

typedef struct nm_hand nm_hand;
typedef nm_err (*nm_hand_fn)(void *arg);

nm_err nm_hand_open(nm_hand **out);
void nm_hand_close(nm_hand **hand);
/* fn(arg) on the hand's thread; returns what it returned, with its message. */
nm_err nm_hand_do(nm_hand *hand, nm_hand_fn fn, void *arg);
/* Within that fn: fn(arg) on the thread that called nm_hand_do. Two switches of threads; not within itself. */
nm_err nm_hand_ask(nm_hand *hand, nm_hand_fn fn, void *arg);

#endif
