/* What the teacher does: a preview, a forecast, a run, each on a model that is held open and on memory that is spoken for. Functions that say so are the hand's: they take no lock,
 * and ask the teacher where one is needed. */
#include "server/teach.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "os/clock.h"
#include "server/task.h"

enum { SAMPLES = 8, ANSWERS = 4 };

typedef struct work {
    nm_teach *t;
    const nm_lesson *lesson;
    nm_tune_settings set;
    nm_held *held;
    nm_str stacked;                 /* nm_tune_base.settings */
    nm_lesson_sources sources;
    nm_tune *tune;
    json_t *notes;                  /* of a look; a run's are in its state */
    int32_t looks;                  /* of the run, that are on the disk */
    bool begun, forecast;
    json_t **answer;                /* of a look */
    nm_tune_result result;          /* of a run */
    json_t *samples;
} work;

/* ---- What is heard of it --------------------------------------------------------------------------------------------------------------- */

/* What the hand asks for; each asks for one of them. */
typedef struct asked { work *w; const char *line; char **told; const nm_tune *tune; uint64_t bytes; } asked;

static nm_err ask(work *w, nm_hand_fn fn, asked a)
{
    a.w = w;
    return nm_hand_ask(w->t->hand, fn, &a);
}

static nm_err do_tell(void *arg)
{
    asked *a = arg;
    return nm_teach_files_told(&a->w->t->files, a->line, a->told);
}

/* The hand's. *told: nm_free. */
static nm_err tell(work *w, const char *line, char **told) { return ask(w, do_tell, (asked){.line = line, .told = told}); }

static nm_err do_note(void *arg)
{
    asked *a = arg;
    work *w = a->w;
    char *told;
    NM_TRY(nm_teach_files_told(&w->t->files, a->line, &told));
    if (w->notes) json_array_append_new(w->notes, nm_wire_text(told, strlen(told)));
    else {
        pthread_mutex_lock(&w->t->lock);
        nm_teach_run_note(&w->t->run, told);
        nm_teach_changed(w->t);
        pthread_mutex_unlock(&w->t->lock);
    }
    nm_free(told);
    return NM_OK;
}

static void note(void *arg, const char *line) { ask(arg, do_note, (asked){.line = line}); }

static nm_err do_reserve(void *arg)
{
    asked *a = arg;
    return nm_held_reserve(a->w->held, a->bytes);
}

static nm_err need(void *arg, uint64_t bytes) { return ask(arg, do_reserve, (asked){.bytes = bytes}); }

/* Under the lock. */
static void take_where(nm_teach_run *r, const nm_tune_state *where)
{
    r->where = *where;
    r->where.folder = r->where.ended = NULL;
    if (where->seconds > 0) r->speed = where->tokens / where->seconds;
}

/* What has come to be since the last checkpoint is on the disk is written behind it: if the process ends in between, the run goes on from there all the same. */
static nm_err do_step(void *arg)
{
    asked *a = arg;
    work *w = a->w;
    nm_teach *t = w->t;
    pthread_mutex_lock(&t->lock);
    take_where(&t->run, nm_tune_where(a->tune));
    if (t->run.phase == NM_TEACH_PREPARING) t->run.phase = NM_TEACH_TRAINING;
    int32_t looks = t->run.where.history.looks;
    nm_teach_changed(t);
    pthread_mutex_unlock(&t->lock);
    if (looks == w->looks && w->begun) return NM_OK;
    w->looks = looks;
    w->begun = true;
    return nm_teach_save(t);
}

/* A disk that is full ends the run by its checkpoint. */
static void step(void *arg, const nm_tune *tune, const nm_train_report *report)
{
    (void)report;
    ask(arg, do_step, (asked){.tune = tune});
}

/* ---- Opening ------------------------------------------------------------------------------------------------------------------------------ */

/* The adapters of BASE{+ADAPTER=SCALE}, as the command's options would put them on BASE. */
static nm_err list_adapters(const nm_served *served, nm_str *s)
{
    const char *at = served->name + strlen(served->name);
    for (size_t n = 0; n < served->n_adapters && at > served->name; n += *--at == '+') {}
    for (size_t i = 0; i < served->n_adapters; i++) {
        size_t n = strcspn(++at, "=+");
        nm_str text = {0};
        nm_err err = nm_str_printf(&text, "%.*s:%.9g", (int)n, at, (double)served->scales[i]);
        if (err == NM_OK) err = nm_str_puts(s, i ? ", " : "\"lora-scaled\": [");
        if (err == NM_OK) err = nm_str_json(s, text.data, text.length);
        nm_str_free(&text);
        NM_TRY(err);
        at += strcspn(at, "+");
    }
    return served->n_adapters ? nm_str_puts(s, "]") : NM_OK;
}

/* How the command asks for the stack, for those who do it again with the adapter's nomoat.json. */
static nm_err tell_stack(work *w)
{
    nm_str *s = &w->stacked;
    s->length = 0;
    NM_TRY(list_adapters(nm_held_served(w->held), s));
    return w->set.force ? nm_str_printf(s, "%s\"force\": true", s->length ? ", " : "") : nm_str_puts(s, "");
}

/* The hand's. */
static nm_err open_tune(work *w)
{
    const nm_served *served = nm_held_served(w->held);
    nm_tune_base base = {.model = served->model, .stack = served->stack, .adapters = served->adapters, .scales = served->scales, .count = served->n_adapters, .name = served->name,
        .settings = w->stacked.data};
    nm_tune_listener listener = {.note = note, .step = step, .need = need, .cancel = &w->t->cancel, .arg = w};
    nm_tune_close(&w->tune);
    if (w->notes) json_array_clear(w->notes);
    return nm_tune_open(&w->tune, &w->set, &base, (const char *const *)w->sources.path, w->sources.count, &listener);
}

static nm_err open_all(work *w, const char *where, bool again)
{
    const nm_engine_options *o = w->t->server->options;
    w->set = w->lesson->set;
    w->set.compute = o->compute;
    w->set.force = o->force;
    w->set.beside = true;
    w->set.answers = ANSWERS;
    NM_TRY(nm_engine_hold(w->t->server->engine, w->lesson->model, &w->t->cancel, &w->held));
    w->set.room = nm_held_room(w->held);
    if (!w->set.room) w->set.room = 1;      /* 0 would be no limit */
    if (nm_held_served(w->held)->persona) return nm_fail(NM_USAGE, "%s is a persona: name the model that is to be taught", w->lesson->model);
    NM_TRY(tell_stack(w));
    return nm_lesson_gather(&w->sources, w->lesson, &w->t->files, w->t->server->desk, where, again);
}

static void close_all(work *w)
{
    nm_tune_close(&w->tune);
    nm_lesson_sources_free(&w->sources);
    nm_held_release(&w->held);
    nm_str_free(&w->stacked);
    json_decref(w->notes);
    w->notes = NULL;
}

/* The hand's. Prepares within the room that there is beside what is served: less of it is slower, to the same results. */
static nm_err prepare(work *w)
{
    NM_TRY(nm_tune_prepare(w->tune));
    return w->set.fit ? nm_tune_fit(w->tune) : NM_OK;
}

/* ---- A preview ------------------------------------------------------------------------------------------------------------------------------- */

static nm_err add_piece(void *list, const char *text, size_t length, bool trained)
{
    return json_array_append_new(list, json_pack("{s:o, s:b}", "text", nm_wire_text(text, length), "trained", trained)) ? nm_fail_memory(length) : NM_OK;
}

static nm_err add_sample(work *w, json_t *list, const nm_sample *s)
{
    nm_str where = {0};
    char *told = NULL;
    json_t *pieces = json_array();
    nm_err err = nm_tune_pieces(nm_model_tokenizer(nm_held_served(w->held)->model), s, add_piece, pieces);
    if (err == NM_OK) err = nm_str_printf(&where, "%s:%llu", s->file, (unsigned long long)s->line);
    if (err == NM_OK) err = tell(w, where.data, &told);
    if (err == NM_OK) {
        json_t *sample = json_pack("{s:o, s:i, s:i, s:o}", "where", nm_wire_text(told, strlen(told)), "tokens", s->count, "trained", s->trained, "pieces", pieces);
        pieces = NULL;
        if (json_array_append_new(list, sample)) err = nm_fail_memory(0);
    }
    json_decref(pieces);
    nm_free(told);
    nm_str_free(&where);
    return err;
}

/* The hand's. */
static nm_err preview(work *w, json_t **answer)
{
    const nm_dataset *data = nm_tune_data(w->tune);
    const nm_dataset_stats *s = nm_dataset_describe(data);
    size_t n = nm_dataset_count(data, NM_SPLIT_TRAIN);
    json_t *samples = json_array();
    nm_err err = NM_OK;
    for (size_t i = 0; i < n && i < SAMPLES && err == NM_OK; i++) {
        nm_sample sample = nm_dataset_sample(data, NM_SPLIT_TRAIN, i);
        err = add_sample(w, samples, &sample);
    }
    *answer = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:O, s:o}", "rows", (json_int_t)s->rows, "sequences", (json_int_t)n,
        "validation", (json_int_t)nm_dataset_count(data, NM_SPLIT_VALIDATION), "tokens", (json_int_t)s->tokens, "trained", (json_int_t)s->trained, "cut", (json_int_t)s->long_rows,
        "bad", (json_int_t)s->bad_rows, "notes", w->notes, "samples", samples);
    return err;
}

/* ---- A forecast ---------------------------------------------------------------------------------------------------------------------------------- */

static json_t *choices(const nm_tune_plan_report *p)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < p->choices; i++) {
        const nm_tune_choice *c = &p->choice[i];
        json_array_append_new(list, json_pack("{s:s, s:o, s:f, s:I}", "name", c->name, "setting", nm_lesson_setting(c->option, c->value), "seconds", c->forecast.seconds,
            "bytes", (json_int_t)c->forecast.bytes));
    }
    return list;
}

/* The hand's. */
static nm_err forecast(work *w, json_t **answer)
{
    nm_tune_plan_report p;
    NM_TRY(prepare(w));
    NM_TRY(nm_tune_plan(w->tune, &p));
    const nm_tune_forecast *f = &p.now;
    bool fits = f->bytes + nm_dataset_describe(nm_tune_data(w->tune))->bytes <= w->set.room;
    json_t *parts = json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "training", f->training, "anchor", f->anchor, "update", f->update, "validation", f->validation,
        "meter", f->meter, "saving", f->saving, "answers", f->answers, "begin", f->begin);
    *answer = json_pack("{s:f, s:I, s:f, s:f, s:I, s:I, s:s, s:b, s:o, s:o, s:O}", "seconds", f->seconds, "steps", (json_int_t)f->steps, "epochs", f->epochs, "tokens", f->tokens,
        "bytes", (json_int_t)f->bytes, "peak_bytes", (json_int_t)f->peak, "arithmetic", f->arithmetic, "fits", fits, "parts", parts, "choices", choices(&p),
        "notes", w->notes);
    return NM_OK;
}

/* The hand's. */
static nm_err look(void *arg)
{
    work *w = arg;
    NM_TRY(open_tune(w));
    return w->forecast ? forecast(w, w->answer) : preview(w, w->answer);
}

nm_err nm_teach_do_look(nm_teach *t, const nm_teach_look *l, json_t **answer)
{
    work w = {.t = t, .lesson = &l->lesson, .notes = json_array(), .forecast = l->forecast, .answer = answer};
    nm_fault fault;
    char *why;
    nm_err err = w.notes ? open_all(&w, "look", false) : nm_fail_memory(0);
    if (err == NM_OK) err = nm_hand_do(t->hand, look, &w);
    nm_fault_keep(&fault, err);
    close_all(&w);
    nm_lesson_forget(&t->files, "look");
    if (err == NM_OK || nm_teach_files_told(&t->files, fault.text, &why) != NM_OK) return err;
    snprintf(fault.text, sizeof fault.text, "%s", why);
    nm_free(why);
    return nm_fault_tell(&fault);
}

/* ---- A run ------------------------------------------------------------------------------------------------------------------------------------------ */

static bool has_checkpoint(const nm_teach *t)
{
    char *path;
    if (nm_teach_adapter_path(t->run.name, "checkpoint.safetensors", &path) != NM_OK) return false;
    bool there = !access(path, R_OK);
    nm_free(path);
    return there;
}

/* From a checkpoint the run goes on as it was; what a fit had chosen stands in the state. */
static void go_on(work *w)
{
    w->set.resume = true;
    if (!w->set.fit) return;
    w->set.fit = NULL;
    w->set.max_steps = (int32_t)w->t->run.where.steps;
    w->set.save_every = (int32_t)w->t->run.where.every;
}

static json_t *told_text(work *w, const char *text)
{
    char *told = NULL;
    if (!text || tell(w, text, &told) != NM_OK) return json_null();
    json_t *value = nm_wire_text(told, strlen(told));
    nm_free(told);
    return value;
}

static json_t *plain(const char *text) { return text ? nm_wire_text(text, strlen(text)) : json_null(); }

/* The hand's. Few, so that people see what was learnt. A stop ends them and nothing else: the run is over. */
static json_t *answers_of(work *w)
{
    nm_tune_answer a[ANSWERS] = {0};
    size_t n = 0;
    json_t *list = json_array();
    nm_tune_answers(w->tune, a, ANSWERS, &n);
    for (size_t i = 0; list && i < n; i++)
        json_array_append_new(list, json_pack("{s:o, s:o, s:o, s:o, s:o}", "where", told_text(w, a[i].where), "prompt", plain(a[i].prompt), "before", plain(a[i].before),
            "after", plain(a[i].after), "reference", plain(a[i].reference)));
    nm_tune_answers_free(a, n);
    return list;
}

static json_t *real(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static json_t *result_of(work *w, const nm_tune_result *r, double seconds)
{
    char *ended = NULL;
    nm_teach_files_told(&w->t->files, r->ended ? r->ended : "", &ended);
    json_t *result = json_pack("{s:s, s:I, s:o, s:o, s:o, s:o, s:f, s:s, s:o}", "adapter", w->t->run.name, "step", (json_int_t)r->kept, "val_loss", real(r->validation),
        "forgetting", real(r->forgetting), "first_loss", real(r->first_loss), "last_loss", real(r->last_loss), "seconds", seconds, "ended", ended ? ended : "",
        "samples", w->samples);
    nm_free(ended);
    return result;
}

/* The hand's. */
static nm_err run(void *arg)
{
    work *w = arg;
    NM_TRY(open_tune(w));
    NM_TRY(prepare(w));
    NM_TRY(nm_tune_run(w->tune, &w->result));
    w->samples = answers_of(w);
    return w->samples ? NM_OK : nm_fail_memory(0);
}

static nm_err taught(work *w, bool again, double before, json_t **result)
{
    double from = nm_clock_seconds();
    NM_TRY(open_all(w, "run", again));
    w->set.output = w->t->run.name;
    if (again && has_checkpoint(w->t)) go_on(w);
    NM_TRY(nm_hand_do(w->t->hand, run, w));
    *result = result_of(w, &w->result, before + nm_clock_seconds() - from);
    return *result ? NM_OK : nm_fail_memory(0);
}

/* Under the lock. */
static void end_run(work *w, nm_err err, char *why, json_t *result)
{
    nm_teach_run *r = &w->t->run;
    if (err != NM_OK && w->t->closing) err = NM_INTERRUPTED;        /* whatever failed of it: the engine takes no work any more */
    if (w->tune && nm_tune_where(w->tune)->steps) take_where(r, nm_tune_where(w->tune));
    r->spent += nm_clock_seconds() - r->begun;
    r->begun = 0;
    r->phase = err == NM_OK ? NM_TEACH_DONE : err == NM_INTERRUPTED ? NM_TEACH_STOPPED : NM_TEACH_FAILED;
    r->resumable = err == NM_INTERRUPTED || (err != NM_OK && has_checkpoint(w->t));
    r->result = result;
    r->error = err == NM_OK || err == NM_INTERRUPTED ? NULL : why;
    if (r->error != why) nm_free(why);
    nm_teach_changed(w->t);
}

static void begin_run(nm_teach *t)
{
    pthread_mutex_lock(&t->lock);
    t->run.begun = nm_clock_seconds();
    nm_teach_changed(t);
    pthread_mutex_unlock(&t->lock);
    nm_teach_save(t);
}

void nm_teach_do_run(nm_teach *t, bool again)
{
    nm_lesson lesson;
    json_t *result = NULL;
    char *why = NULL;
    work w = {.t = t, .lesson = &lesson};
    if (!again) nm_lesson_forget(&t->files, "run");
    begin_run(t);
    nm_err err = nm_lesson_read(&lesson, t->run.lesson, &t->files);
    if (err == NM_OK) err = taught(&w, again, t->run.spent, &result);
    if (err != NM_OK && nm_teach_files_told(&t->files, nm_error_text(), &why) != NM_OK) why = NULL;
    pthread_mutex_lock(&t->lock);
    end_run(&w, err, why, result);
    pthread_mutex_unlock(&t->lock);
    nm_teach_save(t);
    close_all(&w);
    nm_lesson_free(&lesson);
}
