/* The clerks: two threads that make requests ready. They render and encode its prompt, compile its grammar, and look whether there is room. The slow one opens what names mean
 * and takes what is long, so that what is short and finds all open never waits for that. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "os/clock.h"
#include "server/engine_impl.h"

/* ---- What may come out ------------------------------------------------------------------------------------------------------- */

/* Names go into prompts and grammars as they are. */
static nm_err check_tools(const json_t *tools)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:-";
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const char *name = json_string_value(json_object_get(json_object_get(json_array_get(tools, i), "function"), "name"));
        if (!name || !*name || strlen(name) > 128 || name[strspn(name, letters)])
            return nm_fail(NM_USAGE, "tool %zu: its name must be 1 to 128 letters, digits and _ . : -", i);
    }
    return NM_OK;
}

/* GBNF of what a tool_choice demands, or NULL where it demands nothing. */
static nm_err tool_grammar(nm_job *j, char **gbnf, size_t *length)
{
    const char *word = json_string_value(j->ask.tool_choice), *name = NULL;
    const json_t *function = json_object_get(j->ask.tool_choice, "function");
    if (function) name = json_string_value(json_object_get(function, "name"));
    if (!j->ask.messages || (!name && !(word && !strcmp(word, "required")))) return NM_OK;
    if (!json_array_size(j->ask.tools)) return nm_fail(NM_USAGE, "\"tool_choice\" asks for a call, and there are no \"tools\"");
    if (j->ask.grammar || j->ask.schema || j->ask.json) return nm_fail(NM_USAGE, "\"tool_choice\" asks for a call, and the answer's form for something else: give one of them");
    if (!j->variant->template_text) return nm_fail(NM_USAGE, "%s has no chat template: it cannot call tools", j->variant->name);
    char *tools = json_dumps(j->ask.tools, JSON_COMPACT);
    if (!tools) return nm_fail_memory(0);
    nm_err err = nm_speech_grammar(gbnf, length, j->variant->template_text, tools, name, j->ask.one_call || name, j->reasoning_open);
    j->binds_reasoning = true;
    free(tools);
    return err;
}

static nm_err schema_grammar(const json_t *schema, char **gbnf, size_t *length)
{
    char *text = json_dumps(schema, JSON_COMPACT | JSON_ENCODE_ANY);
    if (!text) return nm_fail_memory(0);
    nm_err err = nm_schema_grammar(gbnf, length, text, strlen(text));
    free(text);
    return err;
}

/* A tokenizer's first constraint makes a tree of its vocabulary, which takes a while: here, where no other answer waits for it. */
static nm_err warm_vocabulary(const nm_job *j)
{
    nm_constraint *trial;
    NM_TRY(nm_constraint_open(&trial, j->grammar, nm_model_tokenizer(j->variant->base->model)));
    nm_constraint_close(&trial);
    return NM_OK;
}

static nm_err open_grammar(nm_job *j)
{
    char *gbnf = NULL;
    size_t length = 0;
    nm_err err = NM_OK;
    NM_TRY(check_tools(j->ask.tools));
    NM_TRY(tool_grammar(j, &gbnf, &length));
    if (j->ask.grammar) err = nm_grammar_open(&j->grammar, j->ask.grammar, strlen(j->ask.grammar));
    else if (j->ask.schema) err = schema_grammar(j->ask.schema, &gbnf, &length);
    else if (j->ask.json) err = nm_schema_grammar(&gbnf, &length, NULL, 0);
    if (err == NM_OK && gbnf) err = nm_grammar_open(&j->grammar, gbnf, length);
    nm_free(gbnf);
    return err == NM_OK && j->grammar ? warm_vocabulary(j) : err;
}

/* ---- Numbers ------------------------------------------------------------------------------------------------------------------- */

static void overlay(float *value, double given) { if (!isnan(given)) *value = (float)given; }

static nm_err choose_sampling(nm_job *j)
{
    const nm_ask *a = &j->ask;
    nm_sampling s = nm_sampling_defaults(j->variant->base->model);
    overlay(&s.temperature, a->temperature);
    overlay(&s.top_p, a->top_p);
    overlay(&s.min_p, a->min_p);
    overlay(&s.typical, a->typical);
    overlay(&s.repeat_penalty, a->repeat_penalty);
    overlay(&s.presence_penalty, a->presence_penalty);
    overlay(&s.frequency_penalty, a->frequency_penalty);
    if (a->top_k != NM_ASK_INT) s.top_k = a->top_k < 0 ? 0 : a->top_k;
    if (a->penalty_last != NM_ASK_INT) s.penalty_last = a->penalty_last;
    if (a->seeded) s.seed = a->seed;
    else if (getrandom(&s.seed, sizeof s.seed, 0) != sizeof s.seed) s.seed = (uint64_t)(j->asked * 1e9);
    j->sampling = s;
    nm_sampler *trial;      /* what is wrong with them is said now */
    NM_TRY(nm_sampler_open(&trial, &s, 1));
    nm_sampler_close(&trial);
    return NM_OK;
}

static void choose_limits(nm_job *j)
{
    const nm_ask *a = &j->ask;
    j->limit = j->variant->base->context;
    if (a->context != NM_ASK_INT && a->context > 0 && a->context < j->limit) j->limit = a->context;
    j->most = a->max_tokens == NM_ASK_INT ? j->limit : a->max_tokens;
}

static nm_err check_room(const nm_job *j, const char **code)
{
    if (j->n_ids + (j->most > 0) <= (size_t)j->limit) return NM_OK;
    *code = "exceed_context_size_error";
    return nm_fail(NM_USAGE, "the prompt has %s%zu tokens, and the context holds %d: shorten it, or serve with a larger --context", j->ids ? "" : "at least ", j->n_ids, j->limit);
}

/* ---- The prompt ------------------------------------------------------------------------------------------------------------------ */

/* A model begins with something: an empty prompt is its first token, or the one between texts. */
static nm_err fill_empty(nm_job *j)
{
    const nm_tokenizer *t = nm_model_tokenizer(j->variant->base->model);
    int32_t id = nm_token_bos(t) >= 0 ? nm_token_bos(t) : nm_token_eos(t);
    if (j->n_ids) return NM_OK;
    if (id < 0) return nm_fail(NM_USAGE, "the prompt is empty: give some text");
    nm_free(j->ids);
    j->ids = nm_calloc(1, sizeof *j->ids);
    if (!j->ids) return nm_fail_memory(sizeof *j->ids);
    j->ids[0] = id;
    j->n_ids = 1;
    return NM_OK;
}

static nm_err make_echo(nm_job *j)
{
    size_t n = j->n_ids, top = (size_t)(j->ask.top_logprobs > 0 ? j->ask.top_logprobs : 0);
    j->echo = nm_calloc(n, sizeof *j->echo);
    j->echo_top = nm_calloc(n * top + 1, sizeof *j->echo_top);
    if (!j->echo || !j->echo_top) return nm_fail_memory(n * (sizeof *j->echo + top * sizeof *j->echo_top));
    for (size_t i = 0; i < n; i++) j->echo[i] = (nm_token_out){.id = j->ids[i], .logprob = (double)NAN, .top = j->echo_top + i * top};
    return NM_OK;
}

static nm_err make_ready(nm_job *j, const char **code)
{
    if (j->variant->persona) NM_TRY(nm_ask_fill(&j->ask, j->variant->persona));
    choose_limits(j);
    nm_tokenize_options within = {.most = (size_t)j->limit * NM_CONTEXTS_COUNTED, .cancel = &j->cancelled};
    NM_TRY(nm_prompt_make(j->variant, &j->ask, &within, &j->prompt, &j->prompt_length, &j->ids, &j->n_ids));
    NM_TRY(fill_empty(j));
    NM_TRY(check_room(j, code));
    NM_TRY(choose_sampling(j));
    j->reasoning_open = j->ask.messages && j->prompt && nm_speech_reasoning_open(j->prompt, j->prompt_length);
    NM_TRY(open_grammar(j));
    if (j->ask.echo_logprobs) return make_echo(j);
    nm_shelf_find(j->engine, j);
    return NM_OK;
}

/* ---- The threads ------------------------------------------------------------------------------------------------------------------- */

static void pass_on(nm_engine *e, nm_job *j, nm_job **end)
{
    pthread_mutex_lock(&e->lock);
    while (*end) end = &(*end)->next;
    j->next = NULL;
    *end = j;
    pthread_cond_broadcast(&e->work);
    pthread_mutex_unlock(&e->lock);
}

static void stop_waiting(nm_engine *e)
{
    pthread_mutex_lock(&e->lock);
    e->waiting--;
    pthread_cond_broadcast(&e->work);
    pthread_mutex_unlock(&e->lock);
}

static void do_call(nm_job *j)
{
    nm_served served = nm_variant_served(j->variant);
    j->call(j->listener.arg, &served, NM_OK);
}

static void handle(nm_engine *e, nm_job *j, bool slow)
{
    const char *code = NULL;
    double from = nm_clock_seconds();
    nm_err err = nm_cancelled(&j->cancelled) ? nm_fail(NM_INTERRUPTED, "cancelled") : NM_OK;
    if (err == NM_OK) err = nm_names_take(e, j, slow, &j->variant, &code);
    if (err == NM_OK && !j->variant) {
        pass_on(e, j, &e->slow);
        return;
    }
    j->load_seconds = nm_clock_seconds() - from;
    if (err == NM_OK && j->kind == NM_JOB_CALL) do_call(j);
    else if (err == NM_OK) err = j->kind == NM_JOB_EMBED ? nm_embed_ready(j, &code) : make_ready(j, &code);
    if (err == NM_OK && j->kind != NM_JOB_CALL) {
        pass_on(e, j, &e->ready);
        return;
    }
    stop_waiting(e);
    nm_job_end(j, err, code);
}

static void work(nm_engine *e, nm_job **list, bool slow)
{
    for (;;) {
        pthread_mutex_lock(&e->lock);
        while (!*list && !e->closes) pthread_cond_wait(&e->work, &e->lock);
        nm_job *j = e->closes ? NULL : *list;
        if (j) *list = j->next;
        pthread_mutex_unlock(&e->lock);
        if (!j) return;
        j->next = NULL;
        handle(e, j, slow);
    }
}

void *nm_clerk_main(void *engine)
{
    nm_engine *e = engine;
    work(e, &e->fresh, false);
    return NULL;
}

void *nm_slow_clerk_main(void *engine)
{
    nm_engine *e = engine;
    work(e, &e->slow, true);
    return NULL;
}
