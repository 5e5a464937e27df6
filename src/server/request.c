/* Requests under way. A client's going is told on another thread than the one that may be ending the request at this very moment: so what HTTP is given is no
 * pointer but a number, and whoever is no longer in the list is not looked at. */
#include "server/request.h"

#include <stdio.h>
#include <sys/random.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "os/clock.h"

static struct { pthread_mutex_t lock; nm_request *first; uintptr_t last_id; } live = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void enter(nm_request *r)
{
    pthread_mutex_lock(&live.lock);
    r->id = ++live.last_id;
    r->next = live.first;
    live.first = r;
    pthread_mutex_unlock(&live.lock);
}

/* Drops a reference; true for the last one. Under the list's lock, so that nobody finds a request whose last reference has gone. */
static bool leave(nm_request *r)
{
    pthread_mutex_lock(&live.lock);
    bool last = atomic_fetch_sub(&r->refs, 1) == 1;
    nm_request **at = &live.first;
    while (last && *at != r) at = &(*at)->next;
    if (last) *at = r->next;
    pthread_mutex_unlock(&live.lock);
    return last;
}

static nm_request *find(uintptr_t id)
{
    pthread_mutex_lock(&live.lock);
    nm_request *r = live.first;
    while (r && r->id != id) r = r->next;
    if (r) atomic_fetch_add(&r->refs, 1);
    pthread_mutex_unlock(&live.lock);
    return r;
}

static void on_gone(void *arg)
{
    nm_request *r = find((uintptr_t)arg);
    if (!r) return;
    nm_request_cancel(r);
    nm_request_release(r);
}

nm_err nm_request_open(nm_request *r, nm_exchange *x, size_t n_jobs, void (*free_all)(nm_request *r))
{
    r->jobs = nm_calloc(n_jobs, sizeof *r->jobs);
    if (!r->jobs) return nm_fail_memory(n_jobs * sizeof *r->jobs);
    pthread_mutex_init(&r->lock, NULL);
    r->n_jobs = n_jobs;
    r->free_all = free_all;
    atomic_init(&r->refs, 1);
    r->x = nm_exchange_hold(x);
    enter(r);
    nm_exchange_on_gone(x, on_gone, (void *)r->id);
    return NM_OK;
}

void nm_request_release(nm_request *r)
{
    if (!leave(r)) return;
    for (size_t i = 0; i < r->n_jobs; i++) {
        nm_job *job = atomic_load(&r->jobs[i]);
        nm_job_release(&job);
    }
    nm_free(r->jobs);
    nm_exchange_release(&r->x);
    pthread_mutex_destroy(&r->lock);
    r->free_all(r);
}

void nm_request_done(nm_request *r) { nm_request_release(r); }

/* What was asked may have ended by now, but the caller's own reference keeps r. */
static nm_err keep_job(nm_request *r, size_t job, nm_job *made, nm_err err)
{
    if (err != NM_OK) {
        nm_request_release(r);      /* never the last: the caller has one */
        return err;
    }
    atomic_store(&r->jobs[job], made);
    if (made && atomic_load(&r->cancelled)) nm_job_cancel(made);
    return NM_OK;
}

nm_err nm_request_ask(nm_request *r, nm_engine *engine, size_t job, const nm_ask *ask, const nm_listener *listener)
{
    nm_job *made = NULL;
    atomic_fetch_add(&r->refs, 1);
    nm_err err = nm_engine_ask(engine, ask, listener, &made);
    return keep_job(r, job, made, err);
}

nm_err nm_request_embed(nm_request *r, nm_engine *engine, const char *model, const char *const *texts, const size_t *lengths, size_t n, bool cut, nm_embed_fn fn)
{
    nm_job *made = NULL;
    atomic_fetch_add(&r->refs, 1);
    nm_err err = nm_engine_embed(engine, model, texts, lengths, n, cut, fn, r, &made);
    return keep_job(r, 0, made, err);
}

void nm_request_cancel(nm_request *r)
{
    atomic_store(&r->cancelled, true);
    nm_cancel(&r->gone, true);
    for (size_t i = 0; i < r->n_jobs; i++) {
        nm_job *job = atomic_load(&r->jobs[i]);
        if (job) nm_job_cancel(job);
    }
}

/* A kernel that gives no random bytes yet (early at boot, some sandboxes) leaves the clock and the count of ids, which still never meet. */
void nm_request_name(char out[NM_REQUEST_NAME], const char *prefix)
{
    static atomic_ullong made;
    uint64_t bits[2];
    if (getrandom(bits, sizeof bits, GRND_NONBLOCK) != (ssize_t)sizeof bits) {
        uint64_t count = atomic_fetch_add(&made, 1);
        for (int i = 0; i < 2; i++) bits[i] = nm_rng_u64(nm_clock_ns(), (uint64_t)i, count);
    }
    snprintf(out, NM_REQUEST_NAME, "%.15s%016llx%016llx", prefix, (unsigned long long)bits[0], (unsigned long long)bits[1]);
}
