/* What a run shows of its effect: some rows answered by what was and by the adapter in the folder, greedily. */
#include <stdio.h>
#include <string.h>

#include "os/clock.h"
#include "tune/measure.h"
#include "tune/tune_impl.h"

enum { ANSWER_MOST = 96, TEXT_PROMPT = 32 };     /* tokens of an answer; of a text, where every token is trained, that are taken for a prompt */

typedef struct player {
    nm_runner *runner;
    const nm_tokenizer *tokenizer;
    int32_t best;
} player;

static nm_err on_logits(void *arg, int32_t index, const float *logits, int32_t n)
{
    player *p = arg;
    (void)index;
    p->best = nm_best_token(logits, n);
    return NM_OK;
}

static nm_err text_of(const player *p, const int32_t *ids, size_t count, unsigned flags, char **out)
{
    size_t length;
    return nm_detokenize(p->tokenizer, ids, count, flags, out, &length);
}

static nm_err play(player *p, const nm_tune *t, const nm_stack *stack, const int32_t *prompt, int32_t n, char **out)
{
    nm_session_options o = {.context = n + ANSWER_MOST + 1, .compute = t->set->compute, .stack = stack};
    int32_t ids[ANSWER_MOST], count = 0;
    nm_session *session = NULL;
    NM_TRY(nm_choose_kv(&o.kv, o.compute, -1));
    NM_TRY(nm_session_open(&session, t->base.model, &o));
    nm_item item = {.session = session, .tokens = prompt, .count = n, .want = NM_WANT_LAST, .on_logits = on_logits, .arg = p};
    nm_err err = nm_run(p->runner, &item, 1, t->listener.cancel);
    while (err == NM_OK && count < ANSWER_MOST && !nm_token_ends(p->tokenizer, p->best)) {
        ids[count++] = p->best;
        item.tokens = &ids[count - 1];
        item.count = 1;
        err = nm_run(p->runner, &item, 1, t->listener.cancel);
    }
    nm_session_close(&session);
    return err == NM_OK ? text_of(p, ids, (size_t)count, 0, out) : err;
}

/* Where the last trained answer begins and ends; of text that is trained from its beginning, behind some tokens. */
static bool find_answer(const nm_sample *s, int32_t *from, int32_t *to)
{
    for (*to = s->count; *to > 1 && !s->mask[*to - 1]; --*to) {}
    for (*from = *to; *from > 1 && s->mask[*from - 1]; --*from) {}
    if (*from <= 1 && *to > 1) *from = *to / 2 < TEXT_PROMPT ? *to / 2 : TEXT_PROMPT;
    return *from >= 1 && *from < *to;
}

static nm_err answer(player *p, const nm_tune *t, const nm_stack *after, const nm_sample *s, nm_tune_answer *a)
{
    int32_t from, to;
    nm_str where = {0};
    if (!find_answer(s, &from, &to)) return NM_OK;
    NM_TRY(nm_str_printf(&where, "%s:%llu", s->file ? s->file : "", (unsigned long long)s->line));
    a->where = nm_str_take(&where, NULL);
    bool ends = nm_token_ends(p->tokenizer, s->ids[to - 1]);
    NM_TRY(text_of(p, s->ids, (size_t)from, NM_TEXT_SPECIAL, &a->prompt));
    NM_TRY(text_of(p, s->ids + from, (size_t)(to - from - ends), 0, &a->reference));
    NM_TRY(play(p, t, t->base.stack, s->ids, from, &a->before));
    return play(p, t, after, s->ids, from, &a->after);
}

/* Rows spread over the validation data, or over the training data where there is none. */
static nm_sample pick(const nm_tune *t, size_t i, size_t most)
{
    nm_split split = nm_dataset_count(t->data, NM_SPLIT_VALIDATION) ? NM_SPLIT_VALIDATION : NM_SPLIT_TRAIN;
    size_t all = nm_dataset_count(t->data, split);
    return nm_dataset_sample(t->data, split, all <= most ? i : i * all / most);
}

/* ---- What it costs ------------------------------------------------------------------------------------------------------------------------------ */

nm_answer_tokens nm_tune_answer_tokens(const nm_tune *t, size_t most)
{
    nm_answer_tokens all = {0};
    for (size_t i = 0; i < most; i++) {
        int32_t from, to;
        nm_sample s = pick(t, i, most);
        if (s.count < 2 || !find_answer(&s, &from, &to)) continue;
        all.read += 2.0 * from;
        all.said += ANSWER_MOST + (to - from < ANSWER_MOST ? to - from : ANSWER_MOST);      /* who was taught ends like the reference; who was not may go on */
    }
    return all;
}

static nm_err time_run(const nm_tune *t, player *p, nm_session *session, const int32_t *tokens, int32_t n, double *seconds)
{
    nm_item item = {.session = session, .tokens = tokens, .count = n, .want = NM_WANT_LAST, .on_logits = on_logits, .arg = p};
    double from = nm_clock_seconds();
    NM_TRY(nm_run(p->runner, &item, 1, t->listener.cancel));
    *seconds = (nm_clock_seconds() - from) / n;
    return NM_OK;
}

/* The first token that is said wakes what reading has not. */
static nm_err time_answer(const nm_tune *t, player *p, const nm_sample *s, double *read, double *say)
{
    enum { TOKENS = 6 };
    int32_t n = s->count < ANSWER_MOST ? s->count : ANSWER_MOST;
    nm_session_options o = {.context = n + TOKENS + 1, .compute = t->set->compute, .stack = t->base.stack};
    nm_session *session = NULL;
    double sum = 0, each;
    NM_TRY(nm_choose_kv(&o.kv, o.compute, -1));
    NM_TRY(nm_session_open(&session, t->base.model, &o));
    nm_err err = time_run(t, p, session, s->ids, n, read);
    for (int i = 0; err == NM_OK && i < TOKENS; i++) {
        err = time_run(t, p, session, &p->best, 1, &each);
        if (i) sum += each;
    }
    nm_session_close(&session);
    *say = sum / (TOKENS - 1);
    return err;
}

nm_err nm_tune_probe_answer(const nm_tune *t, double *read, double *say)
{
    player p = {.tokenizer = nm_model_tokenizer(t->base.model)};
    nm_runner_options o = {.compute = t->set->compute};
    nm_sample s = pick(t, 0, 1);
    *read = *say = 0;
    if (!p.tokenizer || s.count < 2) return NM_OK;
    NM_TRY(nm_runner_open(&p.runner, t->base.model, &o));
    nm_err err = time_answer(t, &p, &s, read, say);
    nm_runner_close(&p.runner);
    return err;
}

/* ---- Answering ---------------------------------------------------------------------------------------------------------------------------------- */

nm_err nm_tune_answers(nm_tune *t, nm_tune_answer *answers, size_t most, size_t *count)
{
    player p = {.tokenizer = nm_model_tokenizer(t->base.model)};
    nm_runner_options o = {.compute = t->set->compute};
    nm_adapter *adapter = NULL;
    nm_stack *after = NULL;
    *count = 0;
    if (!p.tokenizer) return NM_OK;
    nm_err err = nm_runner_open(&p.runner, t->base.model, &o);
    if (err == NM_OK) err = nm_adapter_open(&adapter, t->base.model, t->folder, false);
    if (err == NM_OK) err = nm_tune_stack_with(t, adapter, &after);
    for (size_t i = 0; err == NM_OK && i < most; i++) {
        nm_sample s = pick(t, i, most);
        if (s.count < 2) continue;
        answers[*count] = (nm_tune_answer){0};
        err = answer(&p, t, after, &s, &answers[*count]);
        if (err == NM_OK && answers[*count].after) ++*count;
        else nm_tune_answers_free(&answers[*count], 1);
    }
    nm_stack_close(&after);
    nm_adapter_close(&adapter);
    nm_runner_close(&p.runner);
    return err;
}

void nm_tune_answers_free(nm_tune_answer *a, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        nm_free(a[i].where);
        nm_free(a[i].prompt);
        nm_free(a[i].before);
        nm_free(a[i].after);
        nm_free(a[i].reference);
        a[i] = (nm_tune_answer){0};
    }
}
