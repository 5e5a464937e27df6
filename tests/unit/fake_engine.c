/* An engine by script. */
#include "fake_engine.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../gguf_writer.c"
#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"

enum { FAKE_ASKS = 5000 };

struct nm_job {
    atomic_int refs;
    atomic_bool cancelled;
    nm_listener listener;
    fake_script script;
    int32_t n;
};

fake_state fake;
static struct { pthread_mutex_t lock; pthread_cond_t change; int running; json_t *asked[FAKE_ASKS]; } fake_own = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, {0}};

static const nm_model *fake_model(void)
{
    static nm_model *model;
    static char text[263][16];
    const char *tokens[263];
    float score[263];
    int32_t type[263];
    size_t size;
    if (model) return model;
    for (int i = 0; i < 263; i++) {
        if (i < 3) snprintf(text[i], sizeof *text, "%s", (const char *const[]){"<unk>", "<s>", "</s>"}[i]);
        else if (i < 259) snprintf(text[i], sizeof *text, "<0x%02X>", (unsigned)(i - 3));
        else snprintf(text[i], sizeof *text, "%s", (const char *const[]){"\u2581Hello", "\u2581world", "!", "\u20ac"}[i - 259]);
        tokens[i] = text[i];
        score[i] = -(float)i;
        type[i] = i == 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1;
    }
    gguf_writer w = {0};
    gw_string(&w, "general.architecture", "llama");
    gw_string(&w, "tokenizer.ggml.model", "llama");
    gw_strings(&w, "tokenizer.ggml.tokens", tokens, 263);
    gw_array(&w, "tokenizer.ggml.token_type", NM_META_I32, type, 263);
    gw_array(&w, "tokenizer.ggml.scores", NM_META_F32, score, 263);
    gw_u32(&w, "tokenizer.ggml.bos_token_id", 1);
    gw_u32(&w, "tokenizer.ggml.eos_token_id", 2);
    static void *bytes;         /* the model reads from it while it lives */
    bytes = gw_finish(&w, &size);
    if (nm_model_open_memory(&model, bytes, size, "fake.gguf", &(nm_model_options){.metadata_only = true}) != NM_OK) {
        fprintf(stderr, "# %s\n", nm_error_text());
        abort();
    }
    return model;
}

const nm_tokenizer *fake_tokenizer(void) { return nm_model_tokenizer(fake_model()); }

/* Waits until something has changed; false once patience has come to its end. Under the lock. */
static bool fake_waits(const struct timespec *until) { return pthread_cond_timedwait(&fake_own.change, &fake_own.lock, until) != ETIMEDOUT; }

static struct timespec fake_patience(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 60;
    return until;
}

bool fake_idle(void)
{
    struct timespec until = fake_patience();
    pthread_mutex_lock(&fake_own.lock);
    while (fake_own.running && fake_waits(&until)) continue;
    bool idle = !fake_own.running;
    pthread_mutex_unlock(&fake_own.lock);
    return idle;
}

bool fake_busy(void)
{
    struct timespec until = fake_patience();
    pthread_mutex_lock(&fake_own.lock);
    while (!fake_own.running && fake_waits(&until)) continue;
    bool busy = fake_own.running > 0;
    pthread_mutex_unlock(&fake_own.lock);
    return busy;
}

void fake_reset(void)
{
    fake_idle();
    for (size_t i = 0; i < FAKE_ASKS; i++) {
        json_decref(fake_own.asked[i]);
        fake_own.asked[i] = NULL;
    }
    pthread_mutex_lock(&fake_own.lock);     /* HTTP's thread may count a cancel of the request before */
    fake = (fake_state){0};
    pthread_mutex_unlock(&fake_own.lock);
}

const json_t *fake_asked(size_t i) { return i < FAKE_ASKS ? fake_own.asked[i] : NULL; }

/* ---- What was asked ---------------------------------------------------------------------------------------------- */

static void note_real(json_t *o, const char *key, double v) { if (!isnan(v)) json_object_set_new(o, key, json_real(v)); }
static void note_int(json_t *o, const char *key, int64_t v, int64_t none) { if (v != none) json_object_set_new(o, key, json_integer(v)); }
static void note_text(json_t *o, const char *key, const char *v) { if (v) json_object_set_new(o, key, json_string(v)); }
static void note_value(json_t *o, const char *key, json_t *v) { if (v) json_object_set_new(o, key, json_deep_copy(v)); }
static void note_true(json_t *o, const char *key, bool v) { if (v) json_object_set_new(o, key, json_true()); }

static void note_lists(json_t *o, const nm_ask *a)
{
    json_t *ids = json_array(), *stop = json_array(), *lora = json_array(), *bias = json_object();
    for (size_t i = 0; i < a->n_ids; i++) json_array_append_new(ids, json_integer(a->ids[i]));
    for (size_t i = 0; i < a->n_stop; i++) json_array_append_new(stop, json_string(a->stop[i]));
    for (size_t i = 0; i < a->n_lora; i++) json_array_append_new(lora, json_pack("{s:s, s:f}", "id", a->lora[i].id, "scale", a->lora[i].scale));
    for (size_t i = 0; i < a->n_bias; i++) {
        char key[16];
        snprintf(key, sizeof key, "%d", a->bias_id[i]);
        json_object_set_new(bias, key, isinf(a->bias[i]) ? json_string("-inf") : json_real(a->bias[i]));
    }
    if (a->n_ids) json_object_set(o, "ids", ids);
    if (a->n_stop) json_object_set(o, "stop", stop);
    if (a->n_lora) json_object_set(o, "lora", lora);
    if (a->n_bias) json_object_set(o, "bias", bias);
    json_decref(ids), json_decref(stop), json_decref(lora), json_decref(bias);
}

static json_t *note_ask(const nm_ask *a)
{
    json_t *o = json_object();
    note_text(o, "model", a->model);
    note_value(o, "messages", a->messages);
    if (a->text) json_object_set_new(o, "text", json_stringn(a->text, a->text_length));
    note_text(o, "suffix", a->suffix);
    note_value(o, "tools", a->tools);
    note_value(o, "tool_choice", a->tool_choice);
    note_true(o, "one_call", a->one_call);
    note_value(o, "template_kwargs", a->template_kwargs);
    note_int(o, "think", a->think, -1);
    note_text(o, "effort", a->effort);
    note_int(o, "think_most", a->think_most, NM_ASK_INT);
    note_true(o, "continue_last", a->continue_last);
    note_text(o, "grammar", a->grammar);
    note_value(o, "schema", a->schema);
    note_true(o, "json", a->json);
    note_int(o, "max_tokens", a->max_tokens, NM_ASK_INT);
    note_true(o, "ignore_eos", a->ignore_eos);
    note_real(o, "temperature", a->temperature);
    note_real(o, "top_p", a->top_p);
    note_real(o, "min_p", a->min_p);
    note_real(o, "typical", a->typical);
    note_real(o, "repeat_penalty", a->repeat_penalty);
    note_real(o, "presence_penalty", a->presence_penalty);
    note_real(o, "frequency_penalty", a->frequency_penalty);
    note_int(o, "top_k", a->top_k, NM_ASK_INT);
    note_int(o, "penalty_last", a->penalty_last, NM_ASK_INT);
    if (a->seeded) note_int(o, "seed", (int64_t)a->seed, INT64_MIN);
    note_int(o, "top_logprobs", a->top_logprobs, -1);
    note_true(o, "echo_logprobs", a->echo_logprobs);
    note_int(o, "context", a->context, NM_ASK_INT);
    note_int(o, "n", a->n, 1);
    note_true(o, "no_cache", a->no_cache);
    note_real(o, "keep_alive", a->keep_alive);
    note_lists(o, a);
    return o;
}

/* ---- Requests ---------------------------------------------------------------------------------------------------- */

void nm_ask_init(nm_ask *ask)
{
    *ask = (nm_ask){.think = -1, .think_most = NM_ASK_INT, .max_tokens = NM_ASK_INT, .temperature = NM_ASK_REAL, .top_p = NM_ASK_REAL, .min_p = NM_ASK_REAL, .typical = NM_ASK_REAL,
                    .repeat_penalty = NM_ASK_REAL, .presence_penalty = NM_ASK_REAL, .frequency_penalty = NM_ASK_REAL, .top_k = NM_ASK_INT, .penalty_last = NM_ASK_INT,
                    .top_logprobs = -1, .context = NM_ASK_INT, .n = 1, .keep_alive = NM_ASK_REAL};
}

static void fake_say(const nm_job *job, const fake_step *s)
{
    nm_piece p = {.kind = s->kind, .index = s->index, .text = s->text ? s->text : "", .length = s->text ? strlen(s->text) : 0, .call = s->call, .id = s->id, .name = s->name,
                  .token = s->tokens, .n_tokens = s->n_tokens};
    if (job->listener.piece) job->listener.piece(job->listener.arg, &p);
}

static void fake_answer(nm_job *job)
{
    const fake_script *s = &job->script;
    nm_started started = {.model = "fake", .prompt_tokens = s->prompt_tokens, .context = s->context, .tokenizer = fake_tokenizer()};
    if (job->listener.started) job->listener.started(job->listener.arg, &started);
    for (size_t i = 0; i < s->n_steps && !atomic_load(&job->cancelled); i++) {
        fake_say(job, &s->steps[i]);
        while (s->steps[i].wait && !atomic_load(&job->cancelled)) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    for (int32_t k = 0; k < job->n; k++) {
        nm_answer_end a = {.index = k, .tokens = s->tokens, .reasoning_tokens = s->reasoning_tokens, .finish = s->finish, .stop = s->stop};
        if (atomic_load(&job->cancelled)) a.finish = NM_FINISH_CANCELLED;
        else if (s->late) a.finish = NM_FINISH_ERROR;
        if (job->listener.answered) job->listener.answered(job->listener.arg, &a);
    }
}

static void *fake_run(void *arg)
{
    nm_job *job = arg;
    const fake_script *s = &job->script;
    if (!s->early) fake_answer(job);
    nm_ended e = {.err = s->early ? s->early : atomic_load(&job->cancelled) ? NM_INTERRUPTED : s->late, .error = s->error, .code = s->code, .prompt_tokens = s->prompt_tokens,
                  .cached_tokens = s->cached_tokens, .tokens = s->tokens * job->n, .context = s->context, .prompt_seconds = 0.5, .seconds = 0.25};
    if (e.err == NM_INTERRUPTED && !e.error) e.error = "cancelled";
    job->listener.ended(job->listener.arg, &e);
    nm_job_release(&job);
    pthread_mutex_lock(&fake_own.lock);
    fake_own.running--;
    pthread_cond_broadcast(&fake_own.change);
    pthread_mutex_unlock(&fake_own.lock);
    return NULL;
}

static void fake_start(void *(*run)(void *), void *arg)
{
    pthread_t thread;
    pthread_mutex_lock(&fake_own.lock);
    fake_own.running++;
    pthread_cond_broadcast(&fake_own.change);
    pthread_mutex_unlock(&fake_own.lock);
    if (pthread_create(&thread, NULL, run, arg)) abort();
    pthread_detach(thread);
}

nm_err nm_engine_ask(nm_engine *engine, const nm_ask *ask, const nm_listener *listener, nm_job **out)
{
    pthread_mutex_lock(&fake_own.lock);
    size_t i = (size_t)fake.asks++;
    const fake_script *s = fake.n_scripts ? &fake.scripts[i % fake.n_scripts] : &fake.script;
    if (i < FAKE_ASKS) fake_own.asked[i] = note_ask(ask);
    pthread_mutex_unlock(&fake_own.lock);
    if (s->refuse) return nm_fail(s->refuse, "%s", s->error);
    nm_job *job = gw_must(calloc(1, sizeof *job));
    *job = (nm_job){.listener = *listener, .script = *s, .n = ask->n};
    atomic_init(&job->refs, out ? 2 : 1);
    if (out) *out = job;
    fake_start(fake_run, job);
    return NM_OK;
}

void nm_job_cancel(nm_job *job)
{
    if (atomic_exchange(&job->cancelled, true)) return;
    pthread_mutex_lock(&fake_own.lock);
    fake.cancels++;
    pthread_mutex_unlock(&fake_own.lock);
}

void nm_job_release(nm_job **job)
{
    if (*job && atomic_fetch_sub(&(*job)->refs, 1) == 1) free(*job);
    *job = NULL;
}

/* ---- The rest ---------------------------------------------------------------------------------------------------- */

typedef struct fake_call { nm_call_fn call; nm_embed_fn embed; void *arg; size_t n; fake_script script; } fake_call;

static void *fake_run_call(void *arg)
{
    fake_call *c = arg;
    const fake_script *s = &c->script;
    int32_t n_embd = s->n_embd ? s->n_embd : 4;
    float *v = gw_must(calloc(c->n + 1, (size_t)n_embd * sizeof *v));
    for (size_t i = 0; i < c->n; i++)
        for (int32_t k = 0; k < n_embd; k++) v[i * (size_t)n_embd + (size_t)k] = k ? ldexpf(1, -k) : (float)(i + 1);
    nm_ended e = {.err = s->early, .error = s->error, .code = s->code, .prompt_tokens = s->prompt_tokens, .context = s->context};
    nm_served served = {.model = fake_model(), .name = "fake", .template_text = s->template_text, .context = s->context};
    if (c->embed) c->embed(c->arg, s->early ? NULL : v, c->n, n_embd, s->prompt_tokens, &e);
    else if (s->early) c->call(c->arg, NULL, nm_fail(s->early, "%s", s->error));
    else c->call(c->arg, &served, NM_OK);
    free(v);
    free(c);
    pthread_mutex_lock(&fake_own.lock);
    fake_own.running--;
    pthread_cond_broadcast(&fake_own.change);
    pthread_mutex_unlock(&fake_own.lock);
    return NULL;
}

nm_err nm_engine_call_text(nm_engine *engine, const char *name, size_t bytes, nm_call_fn fn, void *arg, nm_job **job)
{
    fake_call *c = gw_must(calloc(1, sizeof *c));
    *c = (fake_call){.call = fn, .arg = arg, .script = fake.script};
    fake_start(fake_run_call, c);
    return NM_OK;
}

nm_err nm_engine_call(nm_engine *engine, const char *name, nm_call_fn fn, void *arg) { return nm_engine_call_text(engine, name, 0, fn, arg, NULL); }

nm_err nm_engine_embed(nm_engine *engine, const char *model, const char *const *texts, const size_t *lengths, size_t n, bool cut, nm_embed_fn fn, void *arg, nm_job **job)
{
    *job = NULL;
    if (fake.script.refuse) return nm_fail(fake.script.refuse, "%s", fake.script.error);
    json_t *asked = json_pack("{s:s*, s:[], s:b}", "model", model, "texts", "cut", cut);
    for (size_t i = 0; i < n; i++) json_array_append_new(json_object_get(asked, "texts"), json_stringn(texts[i], lengths[i]));
    pthread_mutex_lock(&fake_own.lock);
    fake_own.asked[fake.asks++ % FAKE_ASKS] = asked;
    pthread_mutex_unlock(&fake_own.lock);
    fake_call *c = gw_must(calloc(1, sizeof *c));
    *c = (fake_call){.embed = fn, .arg = arg, .n = n, .script = fake.script};
    fake_start(fake_run_call, c);
    return NM_OK;
}

json_t *nm_engine_models(nm_engine *engine) { return fake.models ? json_deep_copy(fake.models) : json_array(); }

char *nm_engine_first(nm_engine *engine) { return nm_strndup("fake", 4); }

/* The roles and texts of all messages, and as many tokens as there are messages. */
nm_err nm_served_prompt(const nm_served *served, const nm_ask *ask, const volatile sig_atomic_t *cancel, char **text, size_t *length, int32_t **ids, size_t *count)
{
    nm_str s = {0};
    for (size_t i = 0; i < json_array_size(ask->messages); i++) {
        const json_t *m = json_array_get(ask->messages, i);
        nm_str_printf(&s, "<%s>%s", json_string_value(json_object_get(m, "role")), json_string_value(json_object_get(m, "content")));
    }
    *count = json_array_size(ask->messages);
    *ids = nm_calloc(*count, sizeof **ids);
    *text = nm_str_take(&s, length);
    return NM_OK;
}
