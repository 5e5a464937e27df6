/* A model held open for work beside requests, and the memory that is spoken for. */
#include "server/engine_impl.h"

struct nm_held {
    nm_engine *engine;
    nm_served served;
    nm_variant *variant;            /* with a user more, and its base */
    uint64_t bytes;                 /* reserved */
};

typedef struct wish {               /* for the clerk: one thread waits for it */
    pthread_mutex_t lock;
    pthread_cond_t met;
    nm_held *held;
    bool over;
    nm_fault fault;
} wish;

/* On the clerk's thread. */
static void take(void *arg, const nm_served *served, nm_err err)
{
    wish *w = arg;
    nm_held *h = w->held;
    if (err == NM_OK) {
        h->served = *served;
        h->variant = (nm_variant *)served->variant;
        pthread_mutex_lock(&h->engine->lock);
        h->variant->users++;
        h->variant->base->users++;
        h->variant->base->held++;
        pthread_mutex_unlock(&h->engine->lock);
    }
    pthread_mutex_lock(&w->lock);
    nm_fault_keep(&w->fault, err);
    w->over = true;
    pthread_cond_signal(&w->met);
    pthread_mutex_unlock(&w->lock);
}

/* Whoever cancels sets a flag and wakes nobody, so it is looked at now and then. */
static nm_err wait_for(wish *w, nm_job *job, const volatile sig_atomic_t *cancel)
{
    enum { LOOK_NS = 50000000, SECOND_NS = 1000000000 };
    struct timespec at;
    pthread_mutex_lock(&w->lock);
    while (!w->over) {
        clock_gettime(CLOCK_REALTIME, &at);
        at.tv_nsec += LOOK_NS;
        if (at.tv_nsec >= SECOND_NS) at.tv_sec++, at.tv_nsec -= SECOND_NS;
        pthread_cond_timedwait(&w->met, &w->lock, &at);
        if (w->over || !cancel || !nm_cancelled(cancel)) continue;
        cancel = NULL;
        pthread_mutex_unlock(&w->lock);
        nm_job_cancel(job);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return nm_fault_tell(&w->fault);
}

nm_err nm_engine_hold(nm_engine *e, const char *name, const volatile sig_atomic_t *cancel, nm_held **out)
{
    nm_held *h = nm_calloc(1, sizeof *h);
    *out = NULL;
    if (!h) return nm_fail_memory(sizeof *h);
    h->engine = e;
    wish w = {.lock = PTHREAD_MUTEX_INITIALIZER, .met = PTHREAD_COND_INITIALIZER, .held = h};
    nm_job *job = NULL;
    nm_err err = nm_engine_call_text(e, name, 0, take, &w, &job);
    if (err == NM_OK) err = wait_for(&w, job, cancel);
    nm_job_release(&job);
    pthread_mutex_destroy(&w.lock);
    pthread_cond_destroy(&w.met);
    if (err == NM_OK) *out = h;
    else nm_free(h);
    return err;
}

const nm_served *nm_held_served(const nm_held *h) { return &h->served; }

/* Under the lock. */
static void give_back(nm_held *h)
{
    h->engine->reserved -= h->bytes;
    h->bytes = 0;
}

nm_err nm_held_reserve(nm_held *h, uint64_t bytes)
{
    nm_engine *e = h->engine;
    pthread_mutex_lock(&e->lock);
    uint64_t before = h->bytes;
    give_back(h);
    nm_names_make_room(e, bytes);
    uint64_t used = nm_names_bytes(e) + e->at_work, left = used < e->memory ? e->memory - used : 0;
    bool fits = bytes <= left;
    e->reserved += h->bytes = fits ? bytes : before;
    pthread_mutex_unlock(&e->lock);
    return fits ? NM_OK : nm_fail(NM_NO_MEMORY, "%.0f MB are needed and %.0f MB are left beside the models that are served: close programs, or let the server take more",
        (double)bytes * 1e-6, (double)left * 1e-6);
}

/* Models that nobody uses make room; a part is left for the contexts of answers. */
uint64_t nm_held_room(const nm_held *h)
{
    enum { PARTS = 8 };
    nm_engine *e = h->engine;
    pthread_mutex_lock(&e->lock);
    uint64_t used = e->reserved - h->bytes + e->opening;
    for (size_t i = 0; i < e->bases; i++)
        if (e->base[i]->model && e->base[i]->users) used += nm_base_bytes(e->base[i]);
    uint64_t left = used < e->memory ? e->memory - used : 0;
    pthread_mutex_unlock(&e->lock);
    return left - left / PARTS;
}

void nm_held_release(nm_held **held)
{
    nm_held *h = *held;
    *held = NULL;
    if (!h) return;
    pthread_mutex_lock(&h->engine->lock);
    give_back(h);
    h->variant->base->held--;
    pthread_mutex_unlock(&h->engine->lock);
    nm_names_leave(h->engine, h->variant, NM_ASK_REAL);
    nm_free(h);
}
