/* The thread that works on what the page keeps. */
#include "server/desk.h"

#include <pthread.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "os/thread.h"
#include "server/fields.h"
#include "server/json_write.h"
#include "server/page_personas.h"

enum { WAITING_MOST = 256 };        /* requests; each holds its body */

/* Lines that another thread of the server waits for. */
typedef struct wanted { const char *what; nm_str *lines; bool over; nm_fault fault; } wanted;
typedef struct errand { nm_exchange *x; nm_desk_fn fn; wanted *wanted; } errand;        /* wanted: instead of the others */

struct nm_desk {
    nm_engine *engine;
    nm_chats *chats;                /* NULL: `why` not */
    char *why;
    pthread_t thread;
    bool started, closing;
    pthread_mutex_t lock;
    pthread_cond_t more, done;
    errand queue[WAITING_MOST];     /* a ring */
    size_t first, count;
};

static void reply(nm_exchange *x, const nm_desk_answer *a)
{
    nm_json_out o = {0};
    if (a->lines.data) {
        nm_exchange_reply(x, 200, "application/jsonl; charset=utf-8", a->lines.data, a->lines.length);
        return;
    }
    nm_json_raw(&o, NULL, "{}", a->json ? 0 : 2);
    if (a->json) nm_json_value(&o, NULL, a->json);
    if (o.err == NM_OK) nm_exchange_reply(x, 200, "application/json", o.text.data, o.text.length);
    else nm_exchange_fail_err(x, o.err);
    nm_json_free_out(&o);
}

static void run(const nm_desk *desk, errand *e)
{
    nm_desk_answer a = {0};
    nm_err err = e->fn(&(nm_desk_work){e->x, desk->engine, desk->chats}, &a);
    if (err == NM_OK) reply(e->x, &a);
    else if (a.status) nm_exchange_fail(e->x, a.status, NULL, NULL, nm_error_text());
    else nm_exchange_fail_err(e->x, err);
    json_decref(a.json);
    nm_str_free(&a.lines);
    nm_exchange_release(&e->x);
}

static void fetch(nm_desk *desk, wanted *w)
{
    nm_err err = nm_chats_export(desk->chats, w->what, NULL, w->lines);
    pthread_mutex_lock(&desk->lock);
    nm_fault_keep(&w->fault, err);
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
        else run(desk, &e);
        pthread_mutex_lock(&desk->lock);
    }
    pthread_mutex_unlock(&desk->lock);
    return NULL;
}

static nm_err start(nm_desk *desk)
{
    desk->started = !nm_thread_start(&desk->thread, work_off, desk);
    return desk->started ? NM_OK : nm_fail(NM_FAILED, "cannot start a thread for what the page keeps");
}

nm_err nm_desk_open(nm_desk **out, const char *path, nm_engine *engine)
{
    nm_desk *desk = *out = nm_calloc(1, sizeof *desk);
    if (!desk) return nm_fail_memory(sizeof *desk);
    pthread_mutex_init(&desk->lock, NULL);
    pthread_cond_init(&desk->more, NULL);
    pthread_cond_init(&desk->done, NULL);
    desk->engine = engine;
    NM_TRY(start(desk));
    nm_err err = nm_chats_open(&desk->chats, path, nm_page_persona_move, engine);
    if (err != NM_OK) desk->why = nm_strndup(nm_error_text(), strlen(nm_error_text()));
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

static bool put_exchange(nm_desk *desk, nm_exchange *x, nm_desk_fn fn)
{
    nm_exchange *held = nm_exchange_hold(x);
    pthread_mutex_lock(&desk->lock);
    bool room = put_in(desk, (errand){.x = held, .fn = fn});
    pthread_mutex_unlock(&desk->lock);
    if (!room) nm_exchange_release(&held);
    return room;
}

static const char *why_not(const nm_desk *desk) { return desk && desk->why ? desk->why : "this server keeps nothing for the page"; }

nm_err nm_desk_export(nm_desk *desk, const char *what, nm_str *lines)
{
    wanted w = {.what = what, .lines = lines};
    if (!desk || !desk->started || !desk->chats) return nm_fail(NM_REFUSED, "%s", why_not(desk));
    pthread_mutex_lock(&desk->lock);
    bool room = put_in(desk, (errand){.wanted = &w});
    while (room && !w.over) pthread_cond_wait(&desk->done, &desk->lock);
    pthread_mutex_unlock(&desk->lock);
    if (!room) return nm_fail(NM_NO_MEMORY, "the disk does not keep up: try again");
    return nm_fault_tell(&w.fault);
}

void nm_desk_take(nm_exchange *x, void *server, nm_desk_fn fn, bool chats)
{
    nm_desk *desk = ((nm_server *)server)->desk;
    bool kept = desk && desk->started && (desk->chats || !chats);
    if (!kept) nm_exchange_fail(x, 503, NULL, "not_kept", why_not(desk));
    else if (!put_exchange(desk, x, fn)) nm_exchange_fail(x, 503, NULL, "queue_full", "the disk does not keep up: try again");
}

nm_err nm_desk_body(const nm_desk_work *work, json_t **body)
{
    size_t length;
    const char *text = nm_exchange_body(work->exchange, &length);
    return nm_body_object(body, text, length);
}
