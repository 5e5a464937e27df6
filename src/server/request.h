/* Owns what every request that asks the engine needs, whatever its dialect: its exchange held, its jobs, their end when the client goes, and when it may all be freed.
 * Refuses to know what is asked.
 *
 *     typedef struct chat { nm_request base; ... } chat;      base comes first; the memory is nm_calloc's
 *     nm_request_open(&c->base, x, 1, free_chat);             the handler's reference
 *     nm_request_ask(&c->base, engine, 0, &ask, &listener);   one more, until nm_request_done in `ended`
 *     nm_request_release(&c->base);                           the handler's, as it returns */
#ifndef NM_SERVER_REQUEST_H
#define NM_SERVER_REQUEST_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/cancel.h"
#include "server/engine.h"
#include "server/http.h"

typedef struct nm_request {
    nm_exchange *x;
    pthread_mutex_t lock;           /* for callbacks of several jobs, which may come at once */
    atomic_int refs;
    atomic_bool cancelled;
    volatile sig_atomic_t gone;     /* the same for work without a job, inside an nm_call_fn */
    _Atomic(nm_job *) *jobs;        /* n_jobs; NULL until asked */
    size_t n_jobs;
    void (*free_all)(struct nm_request *r);     /* what is the dialect's, and the memory itself */
    struct nm_request *next;        /* among those under way */
    uintptr_t id;
} nm_request;

/* On failure (NM_NO_MEMORY) nothing is held, and the memory stays the caller's. The client's going cancels all jobs. */
nm_err nm_request_open(nm_request *r, nm_exchange *x, size_t n_jobs, void (*free_all)(nm_request *r));
void nm_request_release(nm_request *r);
/* nm_engine_ask with the job in its place. On failure nothing will be called back. */
nm_err nm_request_ask(nm_request *r, nm_engine *engine, size_t job, const nm_ask *ask, const nm_listener *listener);
/* The same of texts to embed; fn's argument is r. */
nm_err nm_request_embed(nm_request *r, nm_engine *engine, const char *model, const char *const *texts, const size_t *lengths, size_t n, bool cut, nm_embed_fn fn);
/* At the end of `ended`, whose job this was. */
void nm_request_done(nm_request *r);
/* Ends all jobs, also those that are only now being asked for. */
void nm_request_cancel(nm_request *r);

enum { NM_REQUEST_NAME = 48 };      /* bytes with the zero */
/* PREFIX and 32 digits that nobody can guess, and that none has again after another start: clients tell answers apart by it. */
void nm_request_name(char out[NM_REQUEST_NAME], const char *prefix);

#endif
