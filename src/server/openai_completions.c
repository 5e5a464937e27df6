/* POST /v1/completions: texts or tokens that are continued, one or many prompts in a request. Each prompt is a job of its own, a few at a time, so that a long list of them
 * neither fills the queue nor keeps others out. Choice i * n + k is answer k to prompt i. */
#include <math.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/mem.h"
#include "server/fields.h"
#include "server/openai.h"
#include "server/sse.h"

enum { PROMPTS_MOST = 4096, ANSWERS_MOST = 128, TOP_MOST = 20, AT_ONCE = 16, KEPT_MOST = 64 << 20 };

/* Four lists of a choice's logprobs, elements without their brackets. */
typedef struct probabilities { nm_json_out tokens, logprobs, top, offsets; } probabilities;

typedef struct choice {
    nm_str text;
    probabilities probabilities;
    int64_t offset;             /* characters so far */
    const char *finish;
} choice;

typedef struct completions completions;
typedef struct prompt {         /* what a job's callbacks get */
    completions *all;
    size_t index;
    const char *text;
    size_t length;
    int32_t *ids;               /* in place of text */
    size_t n_ids;
    const nm_tokenizer *tokenizer;
} prompt;

struct completions {
    nm_request base;
    nm_engine *engine;
    json_t *body;               /* what ask borrows from */
    nm_openai_ask a;
    char id[NM_REQUEST_NAME];
    int64_t created;
    char *model;
    bool stream, usage, echo, begun, over;
    int32_t top;                /* -1: no probabilities */
    prompt *prompts;
    size_t n_prompts, asked, ended;
    choice *choices;            /* n_prompts x n */
    size_t kept;                /* bytes in them */
    nm_json_out out;
    nm_ended total;             /* sums of all */
    int32_t reasoning_tokens;
    nm_err err;
    bool failed;
    nm_openai_error error;      /* of the first job that failed; its strings are ours */
    char *message, *code;
};

static void free_probabilities(probabilities *p)
{
    nm_json_free_out(&p->tokens);
    nm_json_free_out(&p->logprobs);
    nm_json_free_out(&p->top);
    nm_json_free_out(&p->offsets);
}

static void free_completions(nm_request *base)
{
    completions *c = (completions *)base;
    size_t n = c->choices ? c->n_prompts * (size_t)c->a.ask.n : 0;
    for (size_t i = 0; i < n; i++) {
        nm_str_free(&c->choices[i].text);
        free_probabilities(&c->choices[i].probabilities);
    }
    for (size_t i = 0; c->prompts && i < c->n_prompts; i++) nm_free(c->prompts[i].ids);
    nm_free(c->choices);
    nm_free(c->prompts);
    nm_free(c->model);
    nm_free(c->message);
    nm_free(c->code);
    nm_json_free_out(&c->out);
    nm_openai_ask_free(&c->a);
    json_decref(c->body);
    nm_free(c);
}

/* ---- The request ------------------------------------------------------------------------------------------------- */

static nm_err read_ids(prompt *p, const json_t *list)
{
    size_t i;
    json_t *item;
    p->n_ids = json_array_size(list);
    if (!p->n_ids) return nm_fail(NM_USAGE, "\"prompt\" has an empty list of tokens");
    p->ids = nm_calloc(p->n_ids, sizeof *p->ids);
    if (!p->ids) return nm_fail_memory(p->n_ids * sizeof *p->ids);
    json_array_foreach(list, i, item) {
        json_int_t id = json_is_integer(item) ? json_integer_value(item) : -1;
        if (id < 0 || id > INT32_MAX) return nm_fail(NM_USAGE, "\"prompt\" has in a list of tokens what is no token's id");
        p->ids[i] = (int32_t)id;
    }
    return NM_OK;
}

static nm_err read_prompt(prompt *p, const json_t *value)
{
    if (json_is_array(value)) return read_ids(p, value);
    if (!json_is_string(value)) return nm_fail(NM_USAGE, "\"prompt\" must be a string, a list of tokens, or an array of one kind of these");
    p->text = json_string_value(value);
    p->length = json_string_length(value);
    return NM_OK;
}

/* [1, 2] is one prompt in tokens; ["a", "b"] and [[1], [2]] are two. */
static nm_err read_prompts(completions *c, const json_t *value)
{
    bool many = json_is_array(value) && !json_is_integer(json_array_get(value, 0));
    size_t n = many ? json_array_size(value) : 1;
    if (!value || json_is_null(value)) return nm_fail(NM_USAGE, "\"prompt\" is missing: a string, or tokens");
    if (!n || n > PROMPTS_MOST) return nm_fail(NM_USAGE, "\"prompt\" has %zu prompts: give 1 to %d", n, PROMPTS_MOST);
    c->prompts = nm_calloc(n, sizeof *c->prompts);
    if (!c->prompts) return nm_fail_memory(n * sizeof *c->prompts);
    c->n_prompts = n;
    for (size_t i = 0; i < n; i++) {
        c->prompts[i].all = c;
        c->prompts[i].index = i;
        NM_TRY(read_prompt(&c->prompts[i], many ? json_array_get(value, i) : value));
    }
    return NM_OK;
}

static nm_err read_suffix(completions *c)
{
    nm_ask *ask = &c->a.ask;
    NM_TRY(nm_field_text(c->body, "suffix", &ask->suffix));
    if (ask->suffix && !*ask->suffix) ask->suffix = NULL;
    if (ask->suffix && c->prompts[0].ids) return nm_fail(NM_USAGE, "\"suffix\" needs a \"prompt\" of text, not of tokens");
    if (ask->suffix && c->echo) return nm_fail(NM_USAGE, "\"echo\" does not go with \"suffix\"");
    return NM_OK;
}

static nm_err read_answers(completions *c)
{
    nm_ask *ask = &c->a.ask;
    int32_t best = 0;
    NM_TRY(nm_field_int32(c->body, "n", 1, ANSWERS_MOST, &ask->n));
    NM_TRY(nm_field_int32(c->body, "best_of", 1, ANSWERS_MOST, &best));
    if (best && best != ask->n) return nm_fail(NM_USAGE, "\"best_of\" is %d and n is %d: only as many as are returned are made", best, ask->n);
    c->choices = nm_calloc(c->n_prompts * (size_t)ask->n, sizeof *c->choices);
    return c->choices ? NM_OK : nm_fail_memory(c->n_prompts * sizeof *c->choices);
}

static nm_err read_completions(completions *c)
{
    nm_ask *ask = &c->a.ask;
    NM_TRY(nm_openai_ask_read(&c->a, c->body));
    NM_TRY(read_prompts(c, json_object_get(c->body, "prompt")));
    NM_TRY(nm_field_bool(c->body, "echo", &c->echo));
    NM_TRY(nm_field_int32(c->body, "logprobs", 0, TOP_MOST, &c->top));
    NM_TRY(read_suffix(c));
    NM_TRY(nm_openai_read_format(&c->a, json_object_get(c->body, "response_format"), "response_format", "json_schema"));
    ask->max_tokens = 16;       /* OpenAI's own default here */
    NM_TRY(nm_openai_read_most(&c->a, c->body, "max_tokens"));
    NM_TRY(nm_openai_read_stream(c->body, &c->stream, &c->usage));
    ask->top_logprobs = c->top;
    ask->echo_logprobs = c->echo && c->top >= 0;
    return read_answers(c);
}

/* ---- Probabilities ----------------------------------------------------------------------------------------------- */

static int64_t characters(const char *text, size_t length)
{
    int64_t n = 0;
    for (size_t i = 0; i < length; i++) n += ((unsigned char)text[i] & 0xc0) != 0x80;
    return n;
}

/* A token as this endpoint names it: its text, or where that is no text by itself, "bytes:\x.." as OpenAI writes it, so that no two have one name. */
static nm_err name_token(nm_str *out, const nm_tokenizer *tokenizer, int32_t id, int64_t *length)
{
    char *text = NULL;
    size_t bytes = 0;
    bool valid = true;
    NM_TRY(nm_openai_token_text(tokenizer, id, &text, &bytes));
    for (size_t i = 0; i < bytes && valid;) {
        int used;
        valid = nm_utf8_decode(text + i, bytes - i, &used) >= 0;
        i += (size_t)used;
    }
    nm_err err = nm_str_puts(out, valid ? "" : "bytes:");
    if (err == NM_OK && valid) err = nm_str_append(out, text, bytes);
    for (size_t i = 0; err == NM_OK && !valid && i < bytes; i++) err = nm_str_printf(out, "\\x%02x", (unsigned char)text[i]);
    *length = characters(text, bytes);
    nm_free(text);
    return err;
}

static void write_one_top(nm_json_out *o, const nm_tokenizer *tokenizer, int32_t id, double logprob)
{
    nm_str name = {0};
    int64_t length;
    nm_err err = name_token(&name, tokenizer, id, &length);
    if (err != NM_OK && o->err == NM_OK) o->err = err;
    if (err == NM_OK) nm_json_real(o, name.data, nm_openai_logprob(logprob));
    nm_str_free(&name);
}

/* The alternatives, and the token itself where it is none of them. */
static void write_top(nm_json_out *o, const nm_tokenizer *tokenizer, const nm_token_out *t)
{
    bool among = false;
    nm_json_begin_object(o, NULL);
    for (int32_t i = 0; i < t->n_top; i++) {
        write_one_top(o, tokenizer, t->top[i].id, t->top[i].logprob);
        among = among || t->top[i].id == t->id;
    }
    if (!among) write_one_top(o, tokenizer, t->id, t->logprob);
    nm_json_end_object(o);
}

static nm_err add_token(probabilities *p, int64_t *offset, const nm_tokenizer *tokenizer, const nm_token_out *t)
{
    nm_str name = {0};
    int64_t length = 0;
    nm_err err = name_token(&name, tokenizer, t->id, &length);
    if (err == NM_OK) nm_json_bytes(&p->tokens, NULL, name.data, name.length);
    nm_str_free(&name);
    NM_TRY(err);
    if (isnan(t->logprob)) nm_json_null(&p->logprobs, NULL);
    else nm_json_real(&p->logprobs, NULL, nm_openai_logprob(t->logprob));
    if (isnan(t->logprob)) nm_json_null(&p->top, NULL);
    else write_top(&p->top, tokenizer, t);
    nm_json_int(&p->offsets, NULL, *offset);
    *offset += length;
    NM_TRY(p->tokens.err);
    NM_TRY(p->logprobs.err);
    NM_TRY(p->top.err);
    return p->offsets.err;
}

static void write_list(nm_json_out *o, const char *key, const nm_json_out *list)
{
    nm_json_begin_array(o, key);
    nm_json_raw(o, NULL, list->text.data, list->text.length);
    nm_json_end_array(o);
}

static void write_probabilities(const completions *c, nm_json_out *o, const probabilities *p)
{
    if (c->top < 0) {
        nm_json_null(o, "logprobs");
        return;
    }
    nm_json_begin_object(o, "logprobs");
    write_list(o, "tokens", &p->tokens);
    write_list(o, "token_logprobs", &p->logprobs);
    if (c->top > 0) write_list(o, "top_logprobs", &p->top);
    else nm_json_null(o, "top_logprobs");
    write_list(o, "text_offset", &p->offsets);
    nm_json_end_object(o);
}

/* ---- Writing ----------------------------------------------------------------------------------------------------- */

static nm_json_out *begin(completions *c)
{
    nm_json_out *o = &c->out;
    nm_json_clear(o);
    nm_json_begin_object(o, NULL);
    nm_json_text(o, "id", c->id);
    nm_json_text(o, "object", "text_completion");
    nm_json_int(o, "created", c->created);
    nm_json_text(o, "model", c->model);
    nm_json_text(o, "system_fingerprint", NM_OPENAI_FINGERPRINT);
    nm_json_begin_array(o, "choices");
    return o;
}

static void write_choice(const completions *c, nm_json_out *o, size_t index, const char *text, size_t length, const probabilities *p, const char *finish)
{
    nm_json_begin_object(o, NULL);
    nm_json_bytes(o, "text", text ? text : "", length);
    nm_json_int(o, "index", (int64_t)index);
    write_probabilities(c, o, p);
    nm_json_text(o, "finish_reason", finish);
    nm_json_end_object(o);
}

static void send_choice(completions *c, size_t index, const char *text, size_t length, const probabilities *p, const char *finish)
{
    nm_json_out *o = begin(c);
    write_choice(c, o, index, text, length, p, finish);
    nm_json_end_array(o);
    if (c->usage) nm_json_null(o, "usage");
    nm_json_end_object(o);
    nm_err err = o->err == NM_OK ? nm_sse_send(c->base.x, NULL, o->text.data, o->text.length) : o->err;
    if (err != NM_OK) c->err = err;
}

static size_t bytes_of(const choice *c)
{
    const probabilities *p = &c->probabilities;
    return c->text.length + p->tokens.text.length + p->logprobs.text.length + p->top.text.length + p->offsets.text.length;
}

/* With "echo" each answer has the whole prompt again, whose probabilities are a hundred times as long. */
static void count_kept(completions *c, size_t more)
{
    c->kept += more;
    if (c->kept <= KEPT_MOST || c->failed) return;
    c->failed = true;
    c->error = (nm_openai_error){.status = 400, .message = "the answers would be larger than 64 MiB together: ask for fewer at a time, or without \"echo\", or stream them"};
}

/* Text and tokens of one choice: kept, or sent on. */
static void add(completions *c, const prompt *p, size_t index, const char *text, size_t length, const nm_token_out *tokens, size_t n)
{
    choice *to = &c->choices[index];
    size_t before = bytes_of(to);
    probabilities here = {0}, *in = c->stream ? &here : &to->probabilities;
    nm_err err = NM_OK;
    for (size_t i = 0; c->top >= 0 && err == NM_OK && i < n; i++) err = add_token(in, &to->offset, p->tokenizer, &tokens[i]);
    if (err == NM_OK && !c->stream) err = nm_str_append(&to->text, text ? text : "", length);
    if (err == NM_OK && c->stream && (length || n)) send_choice(c, index, text, length, &here, NULL);
    free_probabilities(&here);
    if (err != NM_OK) c->err = err;
    count_kept(c, bytes_of(to) - before);
}

static void write_usage(completions *c, nm_json_out *o)
{
    nm_openai_write_usage(o, &c->total, c->reasoning_tokens);
    nm_openai_write_timings(o, &c->total);
    nm_json_end_object(o);
}

static void reply_whole(completions *c)
{
    nm_json_out *o = begin(c);
    for (size_t i = 0; i < c->n_prompts * (size_t)c->a.ask.n; i++) {
        const choice *from = &c->choices[i];
        write_choice(c, o, i, from->text.data, from->text.length, &from->probabilities, from->finish ? from->finish : "stop");
    }
    nm_json_end_array(o);
    write_usage(c, o);
    if (o->err == NM_OK) nm_exchange_reply(c->base.x, 200, "application/json", o->text.data, o->text.length);
    else nm_openai_fail_err(c->base.x, o->err);
}

static void end_stream(completions *c)
{
    nm_json_out *o = &c->out;
    if (c->failed) {
        nm_json_clear(o);
        nm_json_begin_object(o, NULL);
        nm_openai_write_error(o, &c->error);
        nm_json_end_object(o);
    } else if (c->usage) {
        nm_json_end_array(begin(c));
        write_usage(c, o);
    }
    if ((c->failed || c->usage) && o->err == NM_OK) nm_sse_send(c->base.x, NULL, o->text.data, o->text.length);
    if (!c->failed) nm_sse_send(c->base.x, NULL, "[DONE]", 6);
    nm_exchange_end(c->base.x);
}

/* ---- What the engine calls back ---------------------------------------------------------------------------------- */

static void check(completions *c)
{
    if (c->err != NM_OK || c->failed) nm_request_cancel(&c->base);
}

/* Without probabilities the engine does not tell the prompt again. */
static void echo_prompt(completions *c, prompt *p)
{
    char *text = NULL;
    size_t length = p->length;
    if (p->ids) c->err = nm_detokenize(p->tokenizer, p->ids, p->n_ids, NM_TEXT_SPECIAL, &text, &length);
    for (int32_t k = 0; c->err == NM_OK && !c->failed && k < c->a.ask.n; k++)
        add(c, p, p->index * (size_t)c->a.ask.n + (size_t)k, p->ids ? text : p->text, length, NULL, 0);
    nm_free(text);
}

static void started(completions *c, prompt *p, const nm_started *s)
{
    p->tokenizer = s->tokenizer;
    if (!c->model && !(c->model = nm_strndup(s->model, strlen(s->model)))) c->err = nm_fail_memory(strlen(s->model));
    if (c->err == NM_OK && c->stream && !c->begun) {
        nm_sse_begin(c->base.x);
        c->begun = true;
    }
    if (c->err == NM_OK && c->echo && c->top < 0) echo_prompt(c, p);
    check(c);
}

static void on_started(void *arg, const nm_started *s)
{
    prompt *p = arg;
    pthread_mutex_lock(&p->all->base.lock);
    started(p->all, p, s);
    pthread_mutex_unlock(&p->all->base.lock);
}

/* The prompt is every choice's. */
static void piece(completions *c, prompt *p, const nm_piece *q)
{
    int32_t n = c->a.ask.n;
    if (c->err != NM_OK || c->failed || q->index < 0 || q->index >= n || q->kind == NM_PIECE_CALL || q->kind == NM_PIECE_ARGUMENTS) return;
    bool all = q->kind == NM_PIECE_PROMPT;
    for (int32_t k = all ? 0 : q->index; !c->failed && k < (all ? n : q->index + 1); k++)
        add(c, p, p->index * (size_t)n + (size_t)k, q->text, q->length, q->token, q->n_tokens);
    check(c);
}

static void on_piece(void *arg, const nm_piece *q)
{
    prompt *p = arg;
    pthread_mutex_lock(&p->all->base.lock);
    piece(p->all, p, q);
    pthread_mutex_unlock(&p->all->base.lock);
}

static void answered(completions *c, const prompt *p, const nm_answer_end *a)
{
    if (c->err != NM_OK || c->failed || a->index < 0 || a->index >= c->a.ask.n) return;
    size_t index = p->index * (size_t)c->a.ask.n + (size_t)a->index;
    probabilities none = {0};
    c->reasoning_tokens += a->reasoning_tokens;
    c->choices[index].finish = a->finish == NM_FINISH_LENGTH ? "length" : "stop";
    if (c->stream && a->finish != NM_FINISH_ERROR && a->finish != NM_FINISH_CANCELLED) send_choice(c, index, "", 0, &none, c->choices[index].finish);
    check(c);
}

static void on_answered(void *arg, const nm_answer_end *a)
{
    prompt *p = arg;
    pthread_mutex_lock(&p->all->base.lock);
    answered(p->all, p, a);
    pthread_mutex_unlock(&p->all->base.lock);
}

static void sum(nm_ended *total, const nm_ended *e)
{
    total->prompt_tokens += e->prompt_tokens;
    total->cached_tokens += e->cached_tokens;
    total->tokens += e->tokens;
    total->prompt_seconds += e->prompt_seconds;
    total->seconds += e->seconds;
}

/* Keeps the first failure: those of jobs that are cancelled because of it say nothing. */
static void keep_error(completions *c, const nm_ended *e)
{
    if (c->failed) return;
    c->failed = true;
    c->error = nm_openai_error_of(e);
    c->message = nm_strndup(c->error.message, strlen(c->error.message));
    c->code = nm_strndup(c->error.code ? c->error.code : "", strlen(c->error.code ? c->error.code : ""));
    c->error.message = c->message ? c->message : "there was no memory for the answer";
    if (c->error.code) c->error.code = c->code;
    if (c->error.type) c->error.type = "exceed_context_size_error";
}

static void finish(completions *c)
{
    if (c->err != NM_OK && !c->failed) {
        c->failed = true;
        c->error = (nm_openai_error){.status = 503, .message = "there was no memory for the answer"};
    }
    if (c->begun) end_stream(c);
    else if (c->failed) nm_openai_fail(c->base.x, &c->error);
    else reply_whole(c);
}

static void on_ended(void *arg, const nm_ended *e);

/* Asks for the next prompt, if there is one. Without the lock: what it asks for may be called back at once. */
static nm_err ask_next(completions *c, bool *more)
{
    pthread_mutex_lock(&c->base.lock);
    size_t i = c->asked;
    *more = i < c->n_prompts && !c->failed && c->err == NM_OK && !atomic_load(&c->base.cancelled);
    if (*more) c->asked++;
    pthread_mutex_unlock(&c->base.lock);
    if (!*more) return NM_OK;
    prompt *p = &c->prompts[i];
    nm_ask ask = c->a.ask;
    nm_listener listener = {.started = on_started, .piece = on_piece, .answered = on_answered, .ended = on_ended, .arg = p};
    ask.text = p->text;
    ask.text_length = p->length;
    ask.ids = p->ids;
    ask.n_ids = p->n_ids;
    return nm_request_ask(&c->base, c->engine, i, &ask, &listener);
}

/* A job is over, whether it ran or could not even be asked for. */
static void job_over(completions *c, const nm_ended *e)
{
    pthread_mutex_lock(&c->base.lock);
    if (e->err == NM_OK) sum(&c->total, e);
    else keep_error(c, e);
    c->ended++;
    check(c);
    pthread_mutex_unlock(&c->base.lock);
}

/* The last of the jobs that were asked for, with none to follow, ends the request. */
static void go_on(completions *c)
{
    bool more;
    nm_err err = ask_next(c, &more);
    if (err != NM_OK) {
        nm_ended e = {.err = err, .error = nm_error_text()};
        job_over(c, &e);
    }
    pthread_mutex_lock(&c->base.lock);
    bool none_left = c->asked == c->n_prompts || c->failed || c->err != NM_OK || atomic_load(&c->base.cancelled);
    bool last = none_left && c->ended == c->asked && !c->over;
    if (last) c->over = true;
    pthread_mutex_unlock(&c->base.lock);
    if (last) finish(c);
}

static void on_ended(void *arg, const nm_ended *e)
{
    completions *c = ((prompt *)arg)->all;
    job_over(c, e);
    go_on(c);
    nm_request_done(&c->base);
}

/* ---- The handler ------------------------------------------------------------------------------------------------- */

static nm_err open_completions(completions *c, nm_server *server, nm_exchange *x)
{
    size_t length;
    const char *text = nm_exchange_body(x, &length);
    c->top = -1;
    NM_TRY(nm_body_object(&c->body, text, length));
    NM_TRY(read_completions(c));
    c->engine = server->engine;
    c->a.ask.client = nm_exchange_client(x);
    c->created = (int64_t)time(NULL);
    nm_request_name(c->id, "cmpl-");
    return nm_request_open(&c->base, x, c->n_prompts, free_completions);
}

void nm_openai_completions(nm_exchange *x, void *context)
{
    completions *c = nm_calloc(1, sizeof *c);
    nm_err err = c ? open_completions(c, context, x) : nm_fail_memory(sizeof *c);
    if (err != NM_OK) {
        nm_openai_fail_err(x, err);
        if (c) free_completions(&c->base);
        return;
    }
    for (size_t i = 0; i < AT_ONCE && i < c->n_prompts; i++) go_on(c);
    nm_request_release(&c->base);
}
