/* Owns a client of the server's engine, for tests: it asks, keeps what it is told and waits for the end. Test code: it asserts. Tests include asker.h, once, behind cmocka. */
#ifndef NM_TESTS_ASKER_H
#define NM_TESTS_ASKER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "base/str.h"
#include "server/engine.h"

enum { MOST_N = 4 };
typedef struct client {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    nm_str text[MOST_N], reasoning;
    nm_str bits[MOST_N];    /* where logprobs were asked for: of each token its id and its logprob, as they are in memory */
    int started, ended, pieces, answered;
    nm_finish finish[MOST_N];
    nm_ended end;
    char error[512], code[64], model[128];
    double logprob_sum;
    int logprobs, echoed, reasoned;     /* reasoned: tokens of reasoning */
    pthread_t loop;         /* the engine's thread, once it has started */
    double worked;          /* the processor's seconds that this thread had used at the end */
    nm_job *job;
    int cancel_after;       /* pieces */
    void (*at_first)(void *arg);        /* with its first piece, on the engine's thread; may ask for more */
    void *at_first_arg;
    int answered_at[MOST_N], ended_at;  /* in the order in which things were told, of all clients */
    bool deaf;              /* keeps no text: memory may fail */
} client;

static atomic_int told;

static void on_started(void *arg, const nm_started *s)
{
    client *c = arg;
    pthread_mutex_lock(&c->lock);
    c->started++;
    c->loop = pthread_self();
    snprintf(c->model, sizeof c->model, "%s", s->model);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static void keep_bits(nm_str *bits, const nm_token_out *token)
{
    assert_int_equal(nm_str_append(bits, (const char *)&token->id, sizeof token->id), NM_OK);
    assert_int_equal(nm_str_append(bits, (const char *)&token->logprob, sizeof token->logprob), NM_OK);
}

static void on_piece(void *arg, const nm_piece *p)
{
    client *c = arg;
    pthread_mutex_lock(&c->lock);
    if (c->deaf) c->pieces++;
    else if (p->kind == NM_PIECE_PROMPT) c->echoed += (int)p->n_tokens;
    else {
        assert_int_equal(nm_str_append(p->kind == NM_PIECE_REASONING ? &c->reasoning : &c->text[p->index], p->text, p->length), NM_OK);
        for (size_t i = 0; i < p->n_tokens; i++) keep_bits(&c->bits[p->index], &p->token[i]), c->logprob_sum += p->token[i].logprob, c->logprobs++;
        c->pieces++;
    }
    nm_job *job = c->cancel_after && c->pieces == c->cancel_after ? c->job : NULL;
    bool first = c->at_first && c->pieces == 1;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    if (job) nm_job_cancel(job);
    if (first) c->at_first(c->at_first_arg);
}

static void on_answered(void *arg, const nm_answer_end *a)
{
    client *c = arg;
    int at = atomic_fetch_add(&told, 1);
    if (a->index < MOST_N) c->finish[a->index] = a->finish;     /* the deaf ask for more */
    if (c->answered < MOST_N) c->answered_at[c->answered] = at;
    c->reasoned += a->reasoning_tokens;
    c->answered++;
}

/* The processor's seconds that a thread has used. */
static double worked_by(clockid_t clock)
{
    struct timespec t;
    assert_int_equal(clock_gettime(clock, &t), 0);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void on_ended(void *arg, const nm_ended *e)
{
    client *c = arg;
    double worked = worked_by(CLOCK_THREAD_CPUTIME_ID);
    pthread_mutex_lock(&c->lock);
    c->ended++;
    c->ended_at = atomic_fetch_add(&told, 1);
    c->end = *e;
    c->worked = worked;
    snprintf(c->error, sizeof c->error, "%s", e->error);
    snprintf(c->code, sizeof c->code, "%s", e->code ? e->code : "");
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static void begin(nm_engine *e, client *c, const nm_ask *ask)
{
    nm_listener l = {on_started, on_piece, on_answered, on_ended, c};
    *c = (client){.cancel_after = c->cancel_after, .deaf = c->deaf, .at_first = c->at_first, .at_first_arg = c->at_first_arg};
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    pthread_mutex_lock(&c->lock);
    nm_err err = nm_engine_ask(e, ask, &l, &c->job);
    pthread_mutex_unlock(&c->lock);
    if (err != NM_OK) print_error("%s\n", nm_error_text());
    assert_int_equal(err, NM_OK);
}

static void finish(client *c)
{
    pthread_mutex_lock(&c->lock);
    while (!c->ended) pthread_cond_wait(&c->changed, &c->lock);
    pthread_mutex_unlock(&c->lock);
    nm_job_release(&c->job);
}

static void forget(client *c)
{
    nm_str_free(&c->reasoning);
    for (int i = 0; i < MOST_N; i++) nm_str_free(&c->text[i]), nm_str_free(&c->bits[i]);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->changed);
}

static const char *text_of(const client *c, int i) { return c->text[i].data ? c->text[i].data : ""; }

#endif
