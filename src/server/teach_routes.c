/* The routes of teaching. Handlers read what is asked and put it down for whoever does it. */
#include "server/teach.h"

#include <stdlib.h>
#include <string.h>

#include "base/cancel.h"
#include "base/err.h"
#include "base/mem.h"
#include "hub/store.h"
#include "server/fields.h"
#include "server/task.h"

void nm_teach_reply(nm_exchange *x, int status, json_t *value)
{
    char *text = value ? json_dumps(value, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(value);
    if (text) nm_exchange_reply(x, status, "application/json; charset=utf-8", text, strlen(text));
    else nm_exchange_fail_err(x, nm_fail(NM_NO_MEMORY, "there is no memory for the answer"));
    free(text);
}

/* Rows that cannot be read, and settings that cannot be met, are the client's. */
void nm_teach_fail(nm_exchange *x, nm_err err)
{
    if (err == NM_BAD_FILE || err == NM_REFUSED) nm_exchange_fail(x, 400, NULL, NULL, nm_error_text());
    else if (err == NM_NO_MEMORY) nm_exchange_fail(x, 503, NULL, "no_memory", nm_error_text());
    else nm_exchange_fail_err(x, err);
}

void nm_teach_refuse(nm_exchange *x, const nm_teach_refusal *no)
{
    bool busy = !strcmp(no->code, "shutting_down") || !strcmp(no->code, "queue_full");
    nm_exchange_fail(x, busy ? 503 : 409, NULL, no->code, no->message);
}

/* NULL, once that has been answered, where nothing can be taught. */
static nm_teach *teach_of(nm_exchange *x, void *context)
{
    const nm_server *s = context;
    if (!s->teach) nm_exchange_fail(x, 503, NULL, "not_kept", "this server cannot write into its data folder, and so teaches nothing: it has said why when it began");
    return s->teach;
}

static void send(nm_exchange *x, void *context, nm_teach_errand_fn work)
{
    nm_teach *t = teach_of(x, context);
    if (t && !nm_teach_send(t, x, work)) nm_exchange_fail(x, 503, NULL, "queue_full", "the disk does not keep up: try again");
}

static nm_err read_body(nm_exchange *x, json_t **body)
{
    size_t length;
    const char *text = nm_exchange_body(x, &length);
    return nm_body_object(body, text, length);
}

/* ---- Files ------------------------------------------------------------------------------------------------------------------------------- */

static nm_err add_file(nm_teach *t, nm_exchange *x, int *status, json_t **answer)
{
    size_t length;
    const char *body = nm_exchange_body(x, &length), *name = nm_exchange_query(x, "name");
    *status = 201;
    return nm_teach_files_add(&t->files, name, body, length, answer);
}

static nm_err remove_file(nm_teach *t, nm_exchange *x, int *status, json_t **answer)
{
    nm_teach_refusal no = {0};
    NM_TRY(nm_teach_remove_file(t, nm_exchange_tail(x), &no));
    if (no.code) {
        nm_teach_refuse(x, &no);
        *status = 0;
    } else *answer = json_object();
    return NM_OK;
}

static void post_file(nm_exchange *x, void *context) { send(x, context, add_file); }
static void delete_file(nm_exchange *x, void *context) { send(x, context, remove_file); }

static void get_files(nm_exchange *x, void *context)
{
    nm_teach *t = teach_of(x, context);
    if (t) nm_teach_reply(x, 200, nm_teach_files_list(&t->files));
}

/* ---- Looks ---------------------------------------------------------------------------------------------------------------------------------- */

static void look_is_gone(void *arg)
{
    nm_teach_look *l = arg;
    pthread_mutex_lock(&l->teach->lock);
    l->gone = true;
    if (l->teach->look == l) nm_cancel(&l->teach->cancel, true);
    pthread_mutex_unlock(&l->teach->lock);
}

static nm_err read_look(nm_teach *t, nm_exchange *x, nm_teach_look *l)
{
    json_t *body = NULL;
    NM_TRY(read_body(x, &body));
    nm_err err = nm_lesson_read(&l->lesson, body, &t->files);
    json_decref(body);
    return err;
}

static void look(nm_exchange *x, void *context, bool forecast)
{
    nm_teach *t = teach_of(x, context);
    nm_teach_look *l = t ? nm_calloc(1, sizeof *l) : NULL;
    nm_teach_refusal no;
    if (!t) return;
    if (!l) { nm_teach_fail(x, nm_fail_memory(sizeof *l)); return; }
    *l = (nm_teach_look){.teach = t, .x = nm_exchange_hold(x), .forecast = forecast};
    nm_err err = read_look(t, x, l);
    if (err != NM_OK) {
        nm_teach_fail(x, err);
        nm_teach_look_free(l);
        return;
    }
    nm_exchange_on_gone(x, look_is_gone, l);
    if (nm_teach_take_look(t, l, &no)) return;
    nm_exchange_forget(x);
    nm_teach_refuse(x, &no);
    nm_teach_look_free(l);
}

static void preview(nm_exchange *x, void *context) { look(x, context, false); }
static void forecast(nm_exchange *x, void *context) { look(x, context, true); }

/* ---- The run ----------------------------------------------------------------------------------------------------------------------------------- */

typedef struct start {              /* waits until the model is open */
    nm_task base;
    nm_lesson lesson;
    json_t *body;
    const char *name;               /* borrowed from it */
} start;

static void drop_start(void *task)
{
    start *s = task;
    nm_lesson_free(&s->lesson);
    json_decref(s->body);
}

static nm_err read_start(start *s, nm_teach *t, nm_exchange *x)
{
    NM_TRY(read_body(x, &s->body));
    NM_TRY(nm_lesson_read(&s->lesson, s->body, &t->files));
    NM_TRY(nm_field_text(s->body, "name", &s->name));
    if (s->name && nm_adapter_may_be_called(s->name)) return NM_OK;
    return nm_fail(NM_USAGE, "\"name\" must be the new adapter's: up to %d letters, digits and . _ -, the first a letter or digit", NM_ADAPTER_NAME_LONGEST);
}

static void answer_state(nm_exchange *x, nm_teach *t, bool good, const nm_teach_refusal *no)
{
    if (good) nm_teach_reply(x, 202, nm_teach_state(t));
    else nm_teach_refuse(x, no);
}

static void start_with(void *task, const nm_served *served, nm_err err)
{
    start *s = task;
    nm_exchange *x = s->base.base.x;
    nm_teach *t = s->base.server->teach;
    nm_teach_refusal no = {0};
    bool found = err != NM_NOT_FOUND;
    if (err == NM_OK && served->persona) err = nm_fail(NM_USAGE, "%s is a persona: name the model that is to be taught", served->name);
    if (err == NM_OK) err = nm_teach_begin(t, s->lesson.json, s->name, served->name, &no);
    if (!found) nm_exchange_fail(x, 404, NULL, "model_not_found", nm_error_text());
    else if (err != NM_OK) nm_teach_fail(x, err);
    else answer_state(x, t, !no.code, &no);
    nm_task_release(s);
}

static void post_run(nm_exchange *x, void *context)
{
    nm_teach *t = teach_of(x, context);
    start *s = t ? nm_task_new(x, context, sizeof *s, drop_start) : NULL;
    if (!s) return;
    nm_err err = read_start(s, t, x);
    if (err == NM_OK) nm_task_call(&s->base, s->lesson.model, start_with);
    else nm_teach_fail(x, err);
    nm_task_release(s);
}

static void get_run(nm_exchange *x, void *context)
{
    nm_teach *t = teach_of(x, context);
    if (t) nm_teach_reply(x, 200, nm_teach_state(t));
}

static void stop(nm_exchange *x, void *context)
{
    nm_teach *t = teach_of(x, context);
    nm_teach_refusal no;
    if (t) answer_state(x, t, nm_teach_stop_run(t, &no), &no);
}

static void resume(nm_exchange *x, void *context)
{
    nm_teach *t = teach_of(x, context);
    nm_teach_refusal no;
    if (t) answer_state(x, t, nm_teach_resume(t, &no), &no);
}

static void get_events(nm_exchange *x, void *context)
{
    nm_teach *t = teach_of(x, context);
    if (t && !nm_teach_listen(t, x)) nm_exchange_fail(x, 503, NULL, "queue_full", "as many listen as may: ask GET /nm/teach instead");
}

/* ---- What becomes of it ------------------------------------------------------------------------------------------------------------------------- */

static nm_err decide(nm_teach *t, nm_exchange *x, nm_teach_decision decision, int *status, json_t **answer)
{
    nm_teach_refusal no = {0};
    NM_TRY(nm_teach_decide(t, decision, &no));
    if (no.code) {
        nm_teach_refuse(x, &no);
        *status = 0;
    } else *answer = nm_teach_state(t);
    return NM_OK;
}

static nm_err do_keep(nm_teach *t, nm_exchange *x, int *status, json_t **answer) { return decide(t, x, NM_TEACH_KEPT, status, answer); }
static nm_err do_discard(nm_teach *t, nm_exchange *x, int *status, json_t **answer) { return decide(t, x, NM_TEACH_DISCARDED, status, answer); }

static void keep(nm_exchange *x, void *context) { send(x, context, do_keep); }
static void discard(nm_exchange *x, void *context) { send(x, context, do_discard); }

#define LESSON_MOST ((size_t)1 << 20)
#define OURS(method_, path_, most, fn) {.method = method_, .path = path_, .dialect = NM_DIALECT_OURS, .most_body = most, .handle = fn}
const nm_route nm_routes_teach[] = {
    OURS("POST", "/nm/teach/files", NM_TEACH_FILE_MOST, post_file),
    OURS("GET", "/nm/teach/files", 0, get_files),
    OURS("DELETE", "/nm/teach/files/*", 0, delete_file),
    OURS("POST", "/nm/teach/preview", LESSON_MOST, preview),
    OURS("POST", "/nm/teach/forecast", LESSON_MOST, forecast),
    OURS("POST", "/nm/teach", LESSON_MOST, post_run),
    OURS("GET", "/nm/teach", 0, get_run),
    OURS("GET", "/nm/teach/events", 0, get_events),
    OURS("POST", "/nm/teach/stop", LESSON_MOST, stop),
    OURS("POST", "/nm/teach/resume", LESSON_MOST, resume),
    OURS("POST", "/nm/teach/keep", LESSON_MOST, keep),
    OURS("POST", "/nm/teach/discard", LESSON_MOST, discard),
    OURS("POST", "/nm/explain", 0, nm_explain),
    {.method = NULL}
};
