/* The engine as its callers see it: opening, requests, their end, counts. */
#include <string.h>
#include <time.h>

#include "os/clock.h"
#include "os/machine.h"
#include "os/thread.h"
#include "server/engine_impl.h"

enum { PARALLEL = 16, QUEUE = 256, N_MOST = 128, KEPT_MOST = 1000 * 1000 * 1000 };

void nm_engine_note(nm_engine *e, const char *line) { if (e->options.note) e->options.note(e->options.note_arg, line); }

/* ---- Jobs ---------------------------------------------------------------------------------------------------------------- */

static void free_job(nm_job *j)
{
    for (int32_t i = 0; j->lane && i < j->n; i++) nm_lane_close(&j->lane[i]);
    nm_free(j->lane);
    for (size_t i = 0; i < j->n_texts; i++) nm_free(j->texts[i]);
    nm_free(j->texts);
    nm_free(j->lengths);
    nm_free(j->vectors);
    nm_grammar_close(&j->grammar);
    nm_ask_free(&j->ask);
    nm_free(j->prompt);
    nm_free(j->ids);
    nm_free(j->echo);
    nm_free(j->echo_top);
    nm_free(j->failure);
    nm_free(j);
}

void nm_job_release(nm_job **job)
{
    nm_job *j = *job;
    *job = NULL;
    if (j && atomic_fetch_sub(&j->refs, 1) == 1) free_job(j);
}

bool nm_job_stops_pass(const nm_engine *e, const nm_job *j)
{
    bool stays = false;
    for (size_t i = 0; i < e->n_running; i++) stays |= !nm_cancelled(&e->running[i]->cancelled);
    return !stays || (j->in_pass && atomic_load(&e->may_interrupt));
}

void nm_job_cancel(nm_job *j)
{
    nm_engine *e = j->engine;
    nm_cancel(&j->cancelled, true);
    pthread_mutex_lock(&e->lock);
    if (nm_job_stops_pass(e, j)) nm_cancel(&e->interrupt, true);
    pthread_cond_broadcast(&e->work);
    pthread_mutex_unlock(&e->lock);
}

static void count_end(nm_engine *e, const nm_job *j, const nm_ended *end)
{
    pthread_mutex_lock(&e->lock);
    if (end->err == NM_INTERRUPTED) e->counts.cancelled++;
    else if (end->err != NM_OK) e->counts.failed++;
    e->counts.prompt_tokens += (uint64_t)(j->answering ? end->prompt_tokens - end->cached_tokens : 0);
    e->counts.cached_tokens += (uint64_t)end->cached_tokens;
    e->counts.tokens += (uint64_t)end->tokens;
    e->counts.prompt_seconds += end->prompt_seconds;
    e->counts.seconds += end->seconds;
    pthread_mutex_unlock(&e->lock);
}

static void tell_end(nm_job *j, const nm_ended *end)
{
    int32_t width = j->variant ? nm_model_describe(j->variant->base->model)->n_embd : 0;
    if (j->kind == NM_JOB_EMBED) j->embed(j->listener.arg, end->err == NM_OK ? j->vectors : NULL, j->n_texts, width, end->prompt_tokens, end);
    else if (j->listener.ended) j->listener.ended(j->listener.arg, end);
}

/* Of the last request that was work: its own word, or else the server's. */
static double keep_alive_of(const nm_job *j)
{
    double ours = j->engine->options.keep_alive > 0 ? j->engine->options.keep_alive : -1;
    return j->kind == NM_JOB_CALL ? NM_ASK_REAL : isnan(j->ask.keep_alive) ? ours : j->ask.keep_alive;
}

void nm_job_end(nm_job *j, nm_err err, const char *code)
{
    nm_engine *e = j->engine;
    double now = nm_clock_seconds();
    char text[1024] = "";
    if (err != NM_OK) strncpy(text, nm_error_text(), sizeof text - 1);
    nm_ended end = {.err = err, .error = text, .code = code, .prompt_tokens = (int32_t)j->n_ids, .cached_tokens = j->cached, .context = j->limit, .load_seconds = j->load_seconds};
    for (int32_t i = 0; j->lane && i < j->n; i++) end.tokens += j->lane[i].tokens;
    end.wait_seconds = (j->begun ? j->begun : now) - j->asked - j->load_seconds;
    if (j->begun) end.prompt_seconds = (j->first ? j->first : now) - j->begun;
    if (j->first) end.seconds = now - j->first;
    nm_session_close(&j->shelved);
    count_end(e, j, &end);
    if (j->kind != NM_JOB_CALL) tell_end(j, &end);
    else if (j->refusal) j->call(j->listener.arg, NULL, err);
    if (j->variant) nm_names_leave(e, j->variant, keep_alive_of(j));
    j->variant = NULL;
    nm_job_release(&j);
    pthread_mutex_lock(&e->lock);
    e->unfinished--;
    pthread_cond_broadcast(&e->work);
    pthread_mutex_unlock(&e->lock);
}

/* Puts it at the end of a clerk's list, or has the loop end it: nothing is called back on the calling thread. */
static nm_err submit(nm_engine *e, nm_job *j, nm_job **handle)
{
    int32_t most = (e->options.queue > 0 ? e->options.queue : QUEUE) + e->options.parallel;
    pthread_mutex_lock(&e->lock);
    if (e->drains) j->refusal = "shutting_down";
    else if (e->waiting + (int32_t)e->n_running >= most) j->refusal = "queue_full";
    nm_job **end = j->refusal ? &e->refused : j->long_text ? &e->slow : &e->fresh;
    while (*end) end = &(*end)->next;
    *end = j;
    j->id = ++e->next_id;
    e->unfinished++;
    if (!j->refusal) e->waiting++;
    e->counts.requests += j->kind != NM_JOB_CALL;
    if (handle) atomic_fetch_add(&j->refs, 1), *handle = j;
    pthread_cond_broadcast(&e->work);
    pthread_mutex_unlock(&e->lock);
    return NM_OK;
}

void nm_job_refuse(nm_job *j)
{
    bool full = !strcmp(j->refusal, "queue_full");
    nm_job_end(j, nm_fail(NM_NO_MEMORY, full ? "as many requests as may wait are waiting already: try again later" : "the server is going down"), j->refusal);
}

static nm_job *new_job(nm_engine *e, nm_job_kind kind)
{
    nm_job *j = nm_calloc(1, sizeof *j);
    if (!j) return NULL;
    atomic_init(&j->refs, 1);
    j->engine = e;
    j->kind = kind;
    j->asked = nm_clock_seconds();
    j->n = 1;
    nm_ask_init(&j->ask);
    return j;
}

static nm_err check_ask(const nm_ask *a)
{
    int prompts = (a->messages != NULL) + (a->text != NULL) + (a->ids != NULL), forms = (a->grammar != NULL) + (a->schema != NULL) + a->json;
    if (prompts != 1) return nm_fail(NM_USAGE, "a request has one prompt: messages, text or tokens");
    if (forms > 1) return nm_fail(NM_USAGE, "a grammar, a JSON schema and JSON mode exclude each other: give one of them");
    if (a->n < 1 || a->n > N_MOST) return nm_fail(NM_USAGE, "\"n\" is %d: give 1 to %d", a->n, N_MOST);
    if (a->top_logprobs > NM_TOP_MOST) return nm_fail(NM_USAGE, "%d alternatives of a token are asked for: %d at most", a->top_logprobs, NM_TOP_MOST);
    if (a->max_tokens != NM_ASK_INT && a->max_tokens < 0) return nm_fail(NM_USAGE, "%d tokens make no sense", a->max_tokens);
    if (a->suffix && !a->text) return nm_fail(NM_USAGE, "a suffix goes with text, not with messages or tokens");
    if (a->messages && !json_is_array(a->messages)) return nm_fail(NM_USAGE, "\"messages\" must be an array");
    return NM_OK;
}

static size_t json_bytes(const json_t *value)
{
    const char *key;
    json_t *item;
    size_t bytes = json_string_length(value);
    for (size_t i = 0; i < json_array_size(value); i++) bytes += json_bytes(json_array_get(value, i));
    json_object_foreach((json_t *)value, key, item) bytes += strlen(key) + json_bytes(item);
    return bytes;
}

/* Bytes that the clerk has to read. */
static size_t ask_bytes(const nm_ask *a)
{
    size_t bytes = json_bytes(a->messages) + json_bytes(a->tools) + json_bytes(a->template_kwargs) + json_bytes(a->schema);
    if (a->text) bytes += a->text_length;
    if (a->suffix) bytes += strlen(a->suffix);
    if (a->grammar) bytes += strlen(a->grammar);
    return bytes;
}

nm_err nm_engine_ask(nm_engine *e, const nm_ask *ask, const nm_listener *listener, nm_job **job)
{
    if (job) *job = NULL;
    NM_TRY(check_ask(ask));
    nm_job *j = new_job(e, NM_JOB_ANSWER);
    if (!j) return nm_fail_memory(sizeof *j);
    nm_err err = nm_ask_copy(&j->ask, ask);
    if (err != NM_OK) {
        free_job(j);
        return err;
    }
    j->listener = *listener;
    j->n = ask->n;
    j->long_text = ask_bytes(ask) > NM_TEXT_LONG;
    return submit(e, j, job);
}

nm_err nm_engine_call_text(nm_engine *e, const char *name, size_t bytes, nm_call_fn fn, void *arg, nm_job **job)
{
    if (job) *job = NULL;
    nm_job *j = new_job(e, NM_JOB_CALL);
    if (!j) return nm_fail_memory(sizeof *j);
    j->call = fn;
    j->long_text = bytes > NM_TEXT_LONG;
    j->listener.arg = arg;
    if (name) {
        j->ask.model = nm_strndup(name, strlen(name));
        if (!j->ask.model) {
            free_job(j);
            return nm_fail_memory(strlen(name));
        }
    }
    return submit(e, j, job);
}

nm_err nm_engine_call(nm_engine *e, const char *name, nm_call_fn fn, void *arg) { return nm_engine_call_text(e, name, 0, fn, arg, NULL); }

static nm_err copy_texts(nm_job *j, const char *model, const char *const *texts, const size_t *lengths, size_t n)
{
    size_t bytes = 0;
    j->texts = nm_calloc(n, sizeof *j->texts);
    j->lengths = nm_calloc(n, sizeof *j->lengths);
    if (!j->texts || !j->lengths) return nm_fail_memory(n * sizeof *j->texts);
    if (model && !(j->ask.model = nm_strndup(model, strlen(model)))) return nm_fail_memory(strlen(model));
    for (; j->n_texts < n; j->n_texts++) {
        j->texts[j->n_texts] = nm_strndup(texts[j->n_texts], lengths[j->n_texts]);
        if (!j->texts[j->n_texts]) return nm_fail_memory(lengths[j->n_texts]);
        j->lengths[j->n_texts] = lengths[j->n_texts];
        bytes += lengths[j->n_texts];
    }
    j->long_text = bytes > NM_TEXT_LONG;
    return NM_OK;
}

nm_err nm_engine_embed(nm_engine *e, const char *model, const char *const *texts, const size_t *lengths, size_t n, bool cut, nm_embed_fn fn, void *arg, nm_job **job)
{
    if (job) *job = NULL;
    if (!n) return nm_fail(NM_USAGE, "there is no text to embed");
    nm_job *j = new_job(e, NM_JOB_EMBED);
    if (!j) return nm_fail_memory(sizeof *j);
    nm_err err = copy_texts(j, model, texts, lengths, n);
    if (err != NM_OK) {
        free_job(j);
        return err;
    }
    j->embed = fn;
    j->cuts = cut;
    j->listener.arg = arg;
    return submit(e, j, job);
}

/* ---- Opening and closing --------------------------------------------------------------------------------------------------- */

static nm_err start(nm_engine *e)
{
    if (nm_thread_start(&e->loop, nm_loop_main, e)) return nm_fail(NM_FAILED, "no thread for the engine could be started");
    e->loop_runs = true;
    if (nm_thread_start(&e->clerk, nm_clerk_main, e)) return nm_fail(NM_FAILED, "no thread for the engine could be started");
    e->clerk_runs = true;
    if (nm_thread_start(&e->slow_clerk, nm_slow_clerk_main, e)) return nm_fail(NM_FAILED, "no thread for the engine could be started");
    e->slow_clerk_runs = true;
    return NM_OK;
}

/* That it was not opened is told, unless the engine is being closed: then it is no news. */
static void ignore_call(void *arg, const nm_served *served, nm_err err)
{
    nm_engine *e = arg;
    (void)served;
    pthread_mutex_lock(&e->lock);
    bool ends = nm_cancelled(&e->ends);
    pthread_mutex_unlock(&e->lock);
    if (err != NM_OK && !ends) nm_engine_note(e, nm_error_text());
}

nm_err nm_engine_open(nm_engine **out, const nm_engine_options *options)
{
    nm_engine *e = nm_calloc(1, sizeof *e);
    *out = NULL;
    if (!e) return nm_fail_memory(sizeof *e);
    e->options = *options;
    if (!options->n_models) e->options.models = NULL;
    pthread_mutex_init(&e->lock, NULL);
    pthread_mutex_init(&e->naming, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&e->work, &attributes);
    pthread_condattr_destroy(&attributes);
    if (e->options.parallel <= 0) e->options.parallel = PARALLEL;
    uint64_t available = nm_machine_memory_available();
    e->memory = options->memory ? options->memory : available ? available / 5 * 4 : UINT64_MAX;
    e->kept_most = options->kept ? options->kept : e->memory / 8 < KEPT_MOST ? e->memory / 8 : KEPT_MOST;
    nm_err err = options->n_models ? nm_names_open(e) : nm_fail(NM_USAGE, "no model to serve: name one");
    if (err == NM_OK) nm_shelf_open(e);
    if (err == NM_OK) err = start(e);
    if (err == NM_OK) err = nm_engine_call(e, NULL, ignore_call, e);       /* the first is opened at once */
    if (err != NM_OK) nm_engine_close(&e);
    *out = e;
    return err;
}

void nm_engine_drain(nm_engine *e, double seconds)
{
    double until = nm_clock_seconds() + seconds;
    struct timespec at = {.tv_sec = (time_t)until, .tv_nsec = (long)((until - (double)(time_t)until) * 1e9)};
    pthread_mutex_lock(&e->lock);
    e->drains = true;
    while (e->unfinished && !pthread_cond_timedwait(&e->work, &e->lock, &at)) continue;
    pthread_mutex_unlock(&e->lock);
}

void nm_engine_break_off(nm_engine *e)
{
    pthread_mutex_lock(&e->lock);
    e->drains = true;
    nm_cancel(&e->ends, true);
    pthread_cond_broadcast(&e->work);
    pthread_mutex_unlock(&e->lock);
}

static void end_list(nm_job **list)
{
    while (*list) {
        nm_job *j = *list;
        *list = j->next;
        j->refusal = "shutting_down";
        nm_job_end(j, nm_fail(NM_INTERRUPTED, "the server is going down"), "shutting_down");
    }
}

void nm_engine_close(nm_engine **engine)
{
    nm_engine *e = *engine;
    *engine = NULL;
    if (!e) return;
    pthread_mutex_lock(&e->lock);
    e->drains = e->closes = true;
    nm_cancel(&e->ends, true);
    nm_cancel(&e->interrupt, true);
    pthread_cond_broadcast(&e->work);
    pthread_mutex_unlock(&e->lock);
    if (e->clerk_runs) pthread_join(e->clerk, NULL);
    if (e->slow_clerk_runs) pthread_join(e->slow_clerk, NULL);
    if (e->loop_runs) pthread_join(e->loop, NULL);
    while (e->refused) {
        nm_job *j = e->refused;
        e->refused = j->next;
        nm_job_refuse(j);
    }
    end_list(&e->fresh);
    end_list(&e->slow);
    end_list(&e->ready);
    nm_shelf_close(e);
    nm_kept_forget(e);
    nm_names_close(e);
    nm_free(e->kept);
    nm_free(e->running);
    pthread_cond_destroy(&e->work);
    pthread_mutex_destroy(&e->naming);
    pthread_mutex_destroy(&e->lock);
    nm_free(e);
}

void nm_engine_count(nm_engine *e, nm_engine_counts *out)
{
    pthread_mutex_lock(&e->lock);
    *out = e->counts;
    out->running = (int32_t)e->n_running;
    out->waiting = e->waiting;
    for (size_t i = 0; i < e->bases; i++) out->models_loaded += e->base[i]->model != NULL;
    pthread_mutex_unlock(&e->lock);
}
