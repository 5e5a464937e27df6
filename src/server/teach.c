/* The teacher's and the usher's threads, and what may follow on what: a run begins, is stopped, goes on, is kept or discarded. */
#include "server/teach.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/cancel.h"
#include "base/err.h"
#include "base/mem.h"
#include "hub/store.h"
#include "os/clock.h"
#include "os/file.h"
#include "os/thread.h"
#include "server/sse.h"
#include "server/task.h"

enum { STATE_MOST = 16 << 20 };
static const double TELL_EVERY = 0.25, BREATHE_EVERY = 15;      /* seconds between two states, and without any */

static bool refuse(nm_teach_refusal *no, const char *code, const char *message)
{
    *no = (nm_teach_refusal){code, message};
    return false;
}

static const char at_work[] = "something is being taught already: it can be stopped by POST /nm/teach/stop";

/* ---- State: under the lock ----------------------------------------------------------------------------------------------------------- */

void nm_teach_changed(nm_teach *t)
{
    t->version++;
    if (t->listeners) pthread_cond_signal(&t->news);
}

static void set_phase(nm_teach *t, nm_teach_phase phase)
{
    t->run.phase = phase;
    nm_teach_changed(t);
}

json_t *nm_teach_state(nm_teach *t)
{
    pthread_mutex_lock(&t->lock);
    json_t *state = nm_teach_run_json(&t->run);
    pthread_mutex_unlock(&t->lock);
    return state;
}

nm_err nm_teach_save(nm_teach *t)
{
    pthread_mutex_lock(&t->disk);
    json_t *state = nm_teach_state(t);
    char *text = state ? json_dumps(state, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    nm_err err = text ? nm_file_write(t->state, text, strlen(text)) : nm_fail_memory(0);
    pthread_mutex_unlock(&t->disk);
    free(text);
    json_decref(state);
    return err;
}

/* ---- The adapter ------------------------------------------------------------------------------------------------------------------------- */

nm_err nm_teach_adapter_path(const char *name, const char *file, char **path)
{
    char *store;
    nm_str s = {0};
    NM_TRY(nm_adapter_folder(&store));
    nm_err err = nm_str_printf(&s, "%s/%s%s%s", store, name, *file ? "/" : "", file);
    if (err == NM_OK) *path = nm_str_take(&s, NULL);
    nm_str_free(&s);
    nm_free(store);
    return err;
}

/* A folder, or NAME.gguf beside it. */
static bool is_taken(const char *name)
{
    char *path = NULL;
    nm_str file = {0};
    bool taken = nm_teach_adapter_path(name, "", &path) == NM_OK && !access(path, F_OK);
    if (path && !taken) taken = nm_str_printf(&file, "%s.gguf", path) == NM_OK && !access(file.data, F_OK);
    nm_str_free(&file);
    nm_free(path);
    return taken;
}

static bool has_file(const char *name, const char *file)
{
    char *path;
    if (!name || nm_teach_adapter_path(name, file, &path) != NM_OK) return false;
    bool there = !access(path, F_OK);
    nm_free(path);
    return there;
}

static void unlink_checkpoint(const char *name)
{
    char *path;
    if (nm_teach_adapter_path(name, "checkpoint.safetensors", &path) != NM_OK) return;
    unlink(path);
    nm_free(path);
}

/* Whether there is an adapter, or a checkpoint alone. */
static nm_err remove_adapter(nm_teach *t, const char *name)
{
    char *path;
    NM_TRY(nm_teach_adapter_path(name, "", &path));
    nm_err err = nm_adapter_remove(name, NULL);
    if (err == NM_NOT_FOUND) {
        unlink_checkpoint(name);
        rmdir(path);
        err = NM_OK;
    }
    if (err == NM_OK) nm_engine_forget_adapter(t->server->engine, path);
    nm_free(path);
    return err;
}

/* ---- What may follow on what ------------------------------------------------------------------------------------------------------------ */

static bool may_begin(const nm_teach *t, const char *name, nm_teach_refusal *no)
{
    if (t->closing) return refuse(no, "shutting_down", "the server is going down");
    if (nm_teach_at_work(&t->run)) return refuse(no, "already_running", at_work);
    if (t->deciding) return refuse(no, "undecided", "the lesson before is being kept or discarded at this moment: try again");
    if (t->run.resumable && t->run.decided == NM_TEACH_UNDECIDED)
        return refuse(no, "undecided", "a lesson was stopped and can go on: resume, keep or discard it first");
    if (is_taken(name)) return refuse(no, "name_taken", "the store has an adapter of that name: choose another, or remove it first");
    return true;
}

/* Looks make place for the run: what they measure would be wrong, and it waits for them. */
static void start(nm_teach *t, bool again)
{
    t->wanted = true;
    t->again = again;
    if (t->look) nm_cancel(&t->cancel, true);
    set_phase(t, NM_TEACH_PREPARING);
    pthread_cond_signal(&t->work);
}

static nm_err fresh_run(nm_teach_run *r, json_t *lesson, const char *name, const char *model)
{
    *r = (nm_teach_run){.lesson = json_incref(lesson), .name = nm_strndup(name, strlen(name)), .model = nm_strndup(model, strlen(model))};
    nm_teach_id(r->id);
    if (r->name && r->model) return NM_OK;
    nm_teach_run_free(r);
    return nm_fail_memory(strlen(name));
}

nm_err nm_teach_begin(nm_teach *t, json_t *lesson, const char *name, const char *model, nm_teach_refusal *no)
{
    nm_teach_run fresh, old = {0};
    NM_TRY(fresh_run(&fresh, lesson, name, model));
    pthread_mutex_lock(&t->lock);
    nm_err err = nm_lesson_has_files(lesson, &t->files);
    if (err == NM_OK && may_begin(t, name, no)) {
        old = t->run;
        t->run = fresh;
        fresh = (nm_teach_run){0};
        start(t, false);
    }
    pthread_mutex_unlock(&t->lock);
    nm_teach_run_free(&old);
    nm_teach_run_free(&fresh);
    return err;
}

/* The question and the answer are one to whoever begins a run with it meanwhile. */
nm_err nm_teach_remove_file(nm_teach *t, const char *id, nm_teach_refusal *no)
{
    nm_teach_file file;
    nm_err err = NM_OK;
    pthread_mutex_lock(&t->lock);
    bool used = (nm_teach_at_work(&t->run) || t->run.resumable) && nm_lesson_uses(t->run.lesson, id);
    if (used) refuse(no, "in_use", "a lesson that is under way, or can go on, needs this file");
    else err = nm_teach_files_take(&t->files, id, &file);
    pthread_mutex_unlock(&t->lock);
    if (!used && err == NM_OK) nm_teach_files_delete(&t->files, &file);
    return err;
}

bool nm_teach_stop_run(nm_teach *t, nm_teach_refusal *no)
{
    pthread_mutex_lock(&t->lock);
    bool good = nm_teach_at_work(&t->run) || refuse(no, "not_running", "nothing is being taught");
    if (good) {
        if (!t->look) nm_cancel(&t->cancel, true);
        set_phase(t, NM_TEACH_STOPPING);
    }
    pthread_mutex_unlock(&t->lock);
    return good;
}

bool nm_teach_resume(nm_teach *t, nm_teach_refusal *no)
{
    pthread_mutex_lock(&t->lock);
    bool good = t->closing ? refuse(no, "shutting_down", "the server is going down") : nm_teach_at_work(&t->run) ? refuse(no, "already_running", at_work) :
        t->run.resumable && t->run.decided == NM_TEACH_UNDECIDED ? true : refuse(no, "not_resumable", "there is no lesson that was stopped and can go on");
    if (good) {
        nm_free(t->run.error);
        t->run.error = NULL;
        t->run.resumable = false;
        start(t, true);
    }
    pthread_mutex_unlock(&t->lock);
    return good;
}

/* A run that has come to its end, or was stopped behind a look that left an adapter. */
static bool may_decide(const nm_teach_run *r, nm_teach_decision decision, bool there, nm_teach_refusal *no)
{
    if (nm_teach_at_work(r)) return refuse(no, "already_running", at_work);
    if (r->phase == NM_TEACH_IDLE) return refuse(no, "nothing_taught", "nothing was taught yet");
    if (r->decided != NM_TEACH_UNDECIDED) return refuse(no, "decided", "that was decided before: 'nomoat rm' removes adapters that were kept");
    if (decision == NM_TEACH_KEPT && !there) return refuse(no, "nothing_to_keep", "the lesson has left no adapter yet: resume or discard it");
    return true;
}

nm_err nm_teach_decide(nm_teach *t, nm_teach_decision decision, nm_teach_refusal *no)
{
    char *name = NULL;
    pthread_mutex_lock(&t->lock);
    bool named = t->run.name;
    if (named) name = nm_strndup(t->run.name, strlen(t->run.name));
    pthread_mutex_unlock(&t->lock);
    if (named && !name) return nm_fail_memory(0);
    bool there = has_file(name, "adapter_model.safetensors"), begun = has_file(name, "checkpoint.safetensors");
    pthread_mutex_lock(&t->lock);
    bool ours = t->run.result || (t->run.resumable && begun) || t->run.where.kept > 0;      /* else it has written nothing, and what has its name now is somebody's */
    bool good = t->deciding ? refuse(no, "decided", "that is being decided already") : may_decide(&t->run, decision, there, no);
    if (good) {
        t->deciding = true;
        t->run.decided = decision;
        t->run.resumable = false;
        nm_teach_changed(t);
    }
    pthread_mutex_unlock(&t->lock);
    nm_err err = NM_OK;
    if (good && decision == NM_TEACH_DISCARDED) err = ours ? remove_adapter(t, name) : NM_OK;
    else if (good) unlink_checkpoint(name);
    bool done = err == NM_OK;
    if (good && done) {
        nm_lesson_forget(&t->files, "run");
        err = nm_teach_save(t);
    }
    if (good) {
        pthread_mutex_lock(&t->lock);
        if (!done) t->run.decided = NM_TEACH_UNDECIDED;
        t->deciding = false;
        pthread_mutex_unlock(&t->lock);
    }
    nm_free(name);
    return err;
}

/* ---- Looks and errands --------------------------------------------------------------------------------------------------------------------- */

void nm_teach_look_free(nm_teach_look *l)
{
    if (!l) return;
    nm_lesson_free(&l->lesson);
    nm_exchange_release(&l->x);
    nm_free(l);
}

bool nm_teach_take_look(nm_teach *t, nm_teach_look *l, nm_teach_refusal *no)
{
    pthread_mutex_lock(&t->lock);
    bool good = t->closing ? refuse(no, "shutting_down", "the server is going down") : nm_teach_at_work(&t->run) ? refuse(no, "already_running", at_work) :
        t->n_looks == NM_TEACH_LOOKS ? refuse(no, "queue_full", "others wait already: try again") : true;
    if (good) {
        nm_teach_look **end = &t->looks;
        while (*end) end = &(*end)->next;
        *end = l;
        t->n_looks++;
        pthread_cond_signal(&t->work);
    }
    pthread_mutex_unlock(&t->lock);
    return good;
}

bool nm_teach_send(nm_teach *t, nm_exchange *x, nm_teach_errand_fn work)
{
    nm_teach_errand *e = nm_calloc(1, sizeof *e);
    if (!e) return false;
    *e = (nm_teach_errand){.x = nm_exchange_hold(x), .work = work};
    pthread_mutex_lock(&t->lock);
    bool good = !t->closing && t->n_errands < NM_TEACH_ERRANDS;
    if (good) {
        nm_teach_errand **end = &t->errands;
        while (*end) end = &(*end)->next;
        *end = e;
        t->n_errands++;
        pthread_cond_signal(&t->news);
    }
    pthread_mutex_unlock(&t->lock);
    if (good) return true;
    nm_exchange_release(&e->x);
    nm_free(e);
    return false;
}

bool nm_teach_listen(nm_teach *t, nm_exchange *x)
{
    pthread_mutex_lock(&t->lock);
    bool good = !t->closing && t->listeners < NM_TEACH_LISTENERS;
    if (good) {
        nm_sse_begin(x);
        t->listener[t->listeners++] = nm_exchange_hold(x);
        nm_teach_changed(t);        /* it hears at once where things stand */
    }
    pthread_mutex_unlock(&t->lock);
    return good;
}

/* ---- The teacher ----------------------------------------------------------------------------------------------------------------------------- */

/* What a look failed of because the run was to begin is no fault of its lesson. */
static void answer_look(nm_teach *t, nm_teach_look *l, nm_err err, json_t *answer)
{
    pthread_mutex_lock(&t->lock);
    bool closing = t->closing, pushed = err == NM_INTERRUPTED && (t->wanted || closing);
    pthread_mutex_unlock(&t->lock);
    if (pushed && closing) nm_teach_refuse(l->x, &(nm_teach_refusal){"shutting_down", "the server is going down"});
    else if (pushed) nm_teach_refuse(l->x, &(nm_teach_refusal){"already_running", "something began to be taught"});
    else if (err != NM_OK) nm_teach_fail(l->x, err);
    else nm_teach_reply(l->x, 200, answer);
    if (err != NM_OK || pushed) json_decref(answer);
    nm_teach_look_free(l);
}

/* Under the lock, which is let go meanwhile. */
static void see_to_look(nm_teach *t)
{
    nm_teach_look *l = t->looks;
    json_t *answer = NULL;
    t->looks = l->next;
    t->n_looks--;
    t->look = l;
    nm_cancel(&t->cancel, l->gone || t->wanted || t->closing);
    pthread_mutex_unlock(&t->lock);
    nm_err err = nm_teach_do_look(t, l, &answer);
    pthread_mutex_lock(&t->lock);
    t->look = NULL;
    pthread_mutex_unlock(&t->lock);
    answer_look(t, l, err, answer);
    pthread_mutex_lock(&t->lock);
}

static void see_to_run(nm_teach *t)
{
    bool again = t->again;
    t->wanted = false;
    nm_cancel(&t->cancel, t->closing || t->run.phase == NM_TEACH_STOPPING);
    pthread_mutex_unlock(&t->lock);
    nm_teach_do_run(t, again);
    pthread_mutex_lock(&t->lock);
}

static void *teach(void *arg)
{
    nm_teach *t = arg;
    pthread_mutex_lock(&t->lock);
    for (;;) {
        while (!t->closing && !t->wanted && !t->looks) pthread_cond_wait(&t->work, &t->lock);
        if (t->looks) see_to_look(t);
        else if (t->wanted) see_to_run(t);
        else break;
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

/* ---- The usher --------------------------------------------------------------------------------------------------------------------------------- */

static void run_errand(nm_teach *t, nm_teach_errand *e)
{
    json_t *answer = NULL;
    int status = 200;
    nm_err err = e->work(t, e->x, &status, &answer);
    if (err == NM_OK && status) nm_teach_reply(e->x, status, json_incref(answer));      /* 0: it has answered */
    else if (err != NM_OK) nm_teach_fail(e->x, err);
    json_decref(answer);
    nm_exchange_release(&e->x);
    nm_free(e);
}

/* Under the lock: those who are there still, with a hold on each. */
static size_t gather(nm_teach *t, nm_exchange *to[NM_TEACH_LISTENERS])
{
    size_t n = 0;
    for (size_t i = 0; i < t->listeners; i++) {
        if (nm_exchange_gone(t->listener[i])) nm_exchange_release(&t->listener[i]);
        else t->listener[n++] = t->listener[i];
    }
    t->listeners = n;
    for (size_t i = 0; i < n; i++) to[i] = nm_exchange_hold(t->listener[i]);
    return n;
}

/* Under the lock, which is let go meanwhile. */
static void tell(nm_teach *t, bool changed)
{
    static const char breath[] = ":\n\n";
    nm_exchange *to[NM_TEACH_LISTENERS];
    size_t n = gather(t, to);
    json_t *state = changed && n ? nm_teach_run_json(&t->run) : NULL;
    t->told = t->version;
    pthread_mutex_unlock(&t->lock);
    char *text = state ? json_dumps(state, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    for (size_t i = 0; i < n; i++) {
        if (!changed) nm_exchange_write(to[i], breath, sizeof breath - 1);
        else if (text) nm_sse_send(to[i], NULL, text, strlen(text));
        nm_exchange_release(&to[i]);
    }
    free(text);
    json_decref(state);
    pthread_mutex_lock(&t->lock);
}

static void wait_until(nm_teach *t, double when)
{
    struct timespec at = {.tv_sec = (time_t)when, .tv_nsec = (long)((when - (double)(time_t)when) * 1e9)};
    pthread_cond_timedwait(&t->news, &t->lock, &at);
}

static void pop_errand(nm_teach *t)
{
    nm_teach_errand *e = t->errands;
    t->errands = e->next;
    t->n_errands--;
    pthread_mutex_unlock(&t->lock);
    run_errand(t, e);
    pthread_mutex_lock(&t->lock);
}

static void *usher(void *arg)
{
    nm_teach *t = arg;
    double last = 0;
    pthread_mutex_lock(&t->lock);
    while (!t->closing || t->errands) {
        double now = nm_clock_seconds();
        bool changed = t->listeners && t->told != t->version;
        if (t->errands) pop_errand(t);
        else if (t->listeners && now >= last + (changed ? TELL_EVERY : BREATHE_EVERY)) tell(t, changed), last = now;
        else if (t->listeners) wait_until(t, last + (changed ? TELL_EVERY : BREATHE_EVERY));
        else pthread_cond_wait(&t->news, &t->lock);
    }
    for (size_t i = 0; i < t->listeners; i++) {
        nm_exchange_end(t->listener[i]);
        nm_exchange_release(&t->listener[i]);
    }
    t->listeners = 0;
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

/* ---- Opening and closing ------------------------------------------------------------------------------------------------------------------------ */

/* What makes no sense was nobody's run that could go on. What cannot be read at the moment may be one, which the next would write over: then nothing is taught. */
static nm_err recall(nm_teach *t)
{
    char *text;
    size_t size;
    nm_err err = nm_file_read(t->state, STATE_MOST, &text, &size);
    if (err == NM_NOT_FOUND || err == NM_BAD_FILE) return NM_OK;
    NM_TRY(err);
    json_t *json = json_loadb(text, size, 0, NULL);
    if (!json || nm_teach_run_read(&t->run, json) != NM_OK) nm_teach_run_free(&t->run);
    json_decref(json);
    nm_free(text);
    return NM_OK;
}

/* Where nothing can be locked nothing is. */
static nm_err own(nm_teach *t, const char *folder)
{
    t->owner = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (t->owner < 0 || !flock(t->owner, LOCK_EX | LOCK_NB) || errno != EWOULDBLOCK) return NM_OK;
    return nm_fail(NM_REFUSED, "%s: another nomoat serves with this folder, and teaches there", folder);
}

static nm_err find_folder(nm_teach *t)
{
    char *data = NULL;
    nm_str s = {0};
    NM_TRY(nm_folder_open(NM_FOLDER_DATA, &data));
    nm_err err = nm_str_printf(&s, "%s/teach", data);
    if (err == NM_OK) err = nm_folder_make(s.data, 0700);
    if (err == NM_OK) err = own(t, s.data);
    if (err == NM_OK) err = nm_teach_files_open(&t->files, s.data);
    if (err == NM_OK) err = nm_str_puts(&s, "/state.json");
    if (err == NM_OK) t->state = nm_str_take(&s, NULL);
    nm_str_free(&s);
    nm_free(data);
    return err;
}

static nm_err start_threads(nm_teach *t)
{
    NM_TRY(nm_hand_open(&t->hand));
    t->teaching = !nm_thread_start(&t->teacher, teach, t);
    t->ushering = t->teaching && !nm_thread_start(&t->usher, usher, t);
    return t->ushering ? NM_OK : nm_fail(NM_FAILED, "cannot start a thread for teaching");
}

nm_err nm_teach_open(nm_teach **out, nm_server *server)
{
    nm_teach *t = nm_calloc(1, sizeof *t);
    pthread_condattr_t monotonic;
    *out = NULL;
    if (!t) return nm_fail_memory(sizeof *t);
    t->server = server;
    t->owner = -1;
    pthread_mutex_init(&t->lock, NULL);
    pthread_mutex_init(&t->disk, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&t->work, &monotonic);
    pthread_cond_init(&t->news, &monotonic);
    pthread_condattr_destroy(&monotonic);
    nm_err err = find_folder(t);
    if (err == NM_OK) err = recall(t);
    if (err == NM_OK) {
        nm_lesson_forget(&t->files, "look");
        err = start_threads(t);
    }
    if (err == NM_OK) *out = t;
    else nm_teach_close(&t);
    return err;
}

void nm_teach_end(nm_teach *t)
{
    if (!t) return;
    pthread_mutex_lock(&t->lock);
    t->closing = true;
    nm_cancel(&t->cancel, true);
    pthread_cond_broadcast(&t->work);
    pthread_cond_broadcast(&t->news);
    pthread_mutex_unlock(&t->lock);
}

void nm_teach_close(nm_teach **teach)
{
    nm_teach *t = *teach;
    *teach = NULL;
    if (!t) return;
    nm_teach_end(t);
    if (t->teaching) pthread_join(t->teacher, NULL);
    if (t->ushering) pthread_join(t->usher, NULL);
    nm_hand_close(&t->hand);
    nm_teach_run_free(&t->run);
    nm_teach_files_close(&t->files);
    if (t->owner >= 0) close(t->owner);
    nm_free(t->state);
    pthread_cond_destroy(&t->work);
    pthread_cond_destroy(&t->news);
    pthread_mutex_destroy(&t->lock);
    pthread_mutex_destroy(&t->disk);
    nm_free(t);
}
