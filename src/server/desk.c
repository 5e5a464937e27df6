/* The routes of the page's own store (/nm/...), and the one thread that works on it: a disk may be slow, and HTTP's thread must not wait. Requests are worked off
 * in the order in which they came. Refuses SQL (chats*.c). */
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "server/chats.h"
#include "server/fields.h"
#include "server/server.h"

enum { WAITING_MOST = 256 };        /* requests; each holds its body */
#define BODY_MOST ((size_t)8 << 20)

typedef struct answer { json_t *json; nm_str lines; } answer;   /* one of them; neither is {} */
typedef nm_err (*work_fn)(nm_chats *c, nm_exchange *x, answer *a);
/* Lines that another thread of the server waits for. */
typedef struct wanted { const char *what; nm_str *lines; bool over; nm_err err; char why[512]; } wanted;
typedef struct errand { nm_exchange *x; work_fn work; wanted *wanted; } errand;     /* wanted: instead of the others */

struct nm_desk {
    nm_chats *chats;                /* NULL: `why` not */
    char *why;
    pthread_t thread;
    bool started, closing;
    pthread_mutex_t lock;
    pthread_cond_t more, done;
    errand queue[WAITING_MOST];     /* a ring */
    size_t first, count;
};

static void reply(nm_exchange *x, const answer *a)
{
    nm_str text = {0};
    if (a->lines.data) {
        nm_exchange_reply(x, 200, "application/jsonl; charset=utf-8", a->lines.data, a->lines.length);
        return;
    }
    nm_err err = a->json ? nm_chats_text(a->json, &text) : nm_str_puts(&text, "{}");
    if (err == NM_OK) nm_exchange_reply(x, 200, "application/json", text.data, text.length);
    else nm_exchange_fail_err(x, err);
    nm_str_free(&text);
}

static void run(nm_chats *c, errand *e)
{
    answer a = {0};
    nm_err err = e->work(c, e->x, &a);
    if (err == NM_OK) reply(e->x, &a);
    else nm_exchange_fail_err(e->x, err);
    json_decref(a.json);
    nm_str_free(&a.lines);
    nm_exchange_release(&e->x);
}

static void fetch(nm_desk *desk, wanted *w)
{
    nm_err err = nm_chats_export(desk->chats, w->what, NULL, w->lines);
    pthread_mutex_lock(&desk->lock);
    w->err = err;
    if (err != NM_OK) strncpy(w->why, nm_error_text(), sizeof w->why - 1);
    w->over = true;
    pthread_cond_broadcast(&desk->done);
    pthread_mutex_unlock(&desk->lock);
}

static void *work_off(void *arg)
{
    nm_desk *desk = arg;
    pthread_mutex_lock(&desk->lock);
    for (;;) {
        while (!desk->count && !desk->closing) pthread_cond_wait(&desk->more, &desk->lock);
        if (!desk->count) break;
        errand e = desk->queue[desk->first];
        desk->first = (desk->first + 1) % WAITING_MOST;
        desk->count--;
        pthread_mutex_unlock(&desk->lock);
        if (e.wanted) fetch(desk, e.wanted);
        else run(desk->chats, &e);
        pthread_mutex_lock(&desk->lock);
    }
    pthread_mutex_unlock(&desk->lock);
    return NULL;
}

static nm_err start(nm_desk *desk)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);      /* signals are the main thread's */
    desk->started = !pthread_create(&desk->thread, NULL, work_off, desk);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return desk->started ? NM_OK : nm_fail(NM_FAILED, "cannot start a thread for the conversations");
}

nm_err nm_desk_open(nm_desk **out, const char *path)
{
    nm_desk *desk = *out = nm_calloc(1, sizeof *desk);
    if (!desk) return nm_fail_memory(sizeof *desk);
    pthread_mutex_init(&desk->lock, NULL);
    pthread_cond_init(&desk->more, NULL);
    pthread_cond_init(&desk->done, NULL);
    nm_err err = nm_chats_open(&desk->chats, path);
    if (err == NM_OK) err = start(desk);
    if (err == NM_OK) return NM_OK;
    nm_chats_close(&desk->chats);
    desk->why = nm_strndup(nm_error_text(), strlen(nm_error_text()));
    return err;
}

void nm_desk_close(nm_desk **out)
{
    nm_desk *desk = *out;
    if (!desk) return;
    pthread_mutex_lock(&desk->lock);
    desk->closing = true;
    pthread_cond_signal(&desk->more);
    pthread_mutex_unlock(&desk->lock);
    if (desk->started) pthread_join(desk->thread, NULL);
    nm_chats_close(&desk->chats);
    pthread_mutex_destroy(&desk->lock);
    pthread_cond_destroy(&desk->more);
    pthread_cond_destroy(&desk->done);
    nm_free(desk->why);
    nm_free(desk);
    *out = NULL;
}

/* Under the lock. */
static bool put_in(nm_desk *desk, errand e)
{
    if (desk->count == WAITING_MOST || desk->closing) return false;
    desk->queue[(desk->first + desk->count++) % WAITING_MOST] = e;
    pthread_cond_signal(&desk->more);
    return true;
}

static bool put_exchange(nm_desk *desk, nm_exchange *x, work_fn work)
{
    pthread_mutex_lock(&desk->lock);
    bool room = put_in(desk, (errand){.x = nm_exchange_hold(x), .work = work});
    pthread_mutex_unlock(&desk->lock);
    if (!room) nm_exchange_release(&x);
    return room;
}

static nm_err not_kept(const nm_desk *desk) { return nm_fail(NM_REFUSED, "%s", desk && desk->why ? desk->why : "this server keeps no conversations"); }

nm_err nm_desk_export(nm_desk *desk, const char *what, nm_str *lines)
{
    wanted w = {.what = what, .lines = lines};
    if (!desk || !desk->chats) return not_kept(desk);
    pthread_mutex_lock(&desk->lock);
    bool room = put_in(desk, (errand){.wanted = &w});
    while (room && !w.over) pthread_cond_wait(&desk->done, &desk->lock);
    pthread_mutex_unlock(&desk->lock);
    if (!room) return nm_fail(NM_NO_MEMORY, "the disk does not keep up: try again");
    return w.err == NM_OK ? NM_OK : nm_fail(w.err, "%s", w.why);
}

static void take(nm_exchange *x, void *context, work_fn work)
{
    nm_desk *desk = ((nm_server *)context)->desk;
    if (!desk || !desk->chats) {
        not_kept(desk);
        nm_exchange_fail(x, 503, NULL, "not_kept", nm_error_text());
    } else if (!put_exchange(desk, x, work)) nm_exchange_fail(x, 503, NULL, "queue_full", "the disk does not keep up: try again");
}

/* ---- what each route does, on the desk's thread ---- */

static nm_err with_body(nm_chats *c, nm_exchange *x, nm_err (*use)(nm_chats *c, const char *tail, const json_t *body))
{
    size_t length;
    const char *text = nm_exchange_body(x, &length);
    json_t *body;
    NM_TRY(nm_body_object(&body, text, length));
    nm_err err = use(c, nm_exchange_tail(x), body);
    json_decref(body);
    return err;
}

static nm_err vote_untailed(nm_chats *c, const char *tail, const json_t *vote)
{
    (void)tail;
    return nm_chats_vote(c, vote);
}

static nm_err list(nm_chats *c, nm_exchange *x, answer *a) { return nm_chats_list(c, nm_exchange_query(x, "search"), &a->json); }
static nm_err get(nm_chats *c, nm_exchange *x, answer *a) { return nm_chats_get(c, nm_exchange_tail(x), &a->json); }
static nm_err put(nm_chats *c, nm_exchange *x, answer *a) { (void)a; return with_body(c, x, nm_chats_put); }
static nm_err erase(nm_chats *c, nm_exchange *x, answer *a) { (void)a; return nm_chats_delete(c, nm_exchange_tail(x)); }
static nm_err personas(nm_chats *c, nm_exchange *x, answer *a) { (void)x; return nm_chats_personas(c, &a->json); }
static nm_err put_persona(nm_chats *c, nm_exchange *x, answer *a) { (void)a; return with_body(c, x, nm_chats_put_persona); }
static nm_err erase_persona(nm_chats *c, nm_exchange *x, answer *a) { (void)a; return nm_chats_delete_persona(c, nm_exchange_tail(x)); }
static nm_err vote(nm_chats *c, nm_exchange *x, answer *a) { (void)a; return with_body(c, x, vote_untailed); }
static nm_err tally(nm_chats *c, nm_exchange *x, answer *a) { (void)x; return nm_chats_tally(c, &a->json); }
static nm_err counts(nm_chats *c, nm_exchange *x, answer *a) { (void)x; return nm_chats_counts(c, &a->json); }
static nm_err export(nm_chats *c, nm_exchange *x, answer *a)
{
    const char *what = nm_exchange_query(x, "what");
    return nm_chats_export(c, what ? what : "chats", nm_exchange_query(x, "chat"), &a->lines);
}

#define ROUTES(X) \
    X("GET", "/nm/chats", list) X("GET", "/nm/chats/*", get) X("PUT", "/nm/chats/*", put) X("DELETE", "/nm/chats/*", erase) \
    X("GET", "/nm/personas", personas) X("PUT", "/nm/personas/*", put_persona) X("DELETE", "/nm/personas/*", erase_persona) \
    X("GET", "/nm/votes", tally) X("POST", "/nm/votes", vote) X("GET", "/nm/feedback", counts) X("GET", "/nm/export", export)

#define HANDLER(method_, path_, work) static void handle_##work(nm_exchange *x, void *context) { take(x, context, work); }
ROUTES(HANDLER)

#define ROUTE(method_, path_, work) {.method = method_, .path = path_, .dialect = NM_DIALECT_OURS, .most_body = BODY_MOST, .handle = handle_##work},
const nm_route nm_routes_chats[] = {ROUTES(ROUTE){.method = NULL}};
