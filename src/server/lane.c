/* One answer under way: the draw of its next token, and the way from tokens to pieces of text. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "os/clock.h"
#include "server/engine_impl.h"

/* ---- Opening ---------------------------------------------------------------------------------------------------------------- */

static nm_err open_drawing(nm_lane *l, const nm_job *j)
{
    const nm_model *m = j->variant->base->model;
    nm_sampling s = j->sampling;
    s.seed += (uint64_t)l->index;
    NM_TRY(nm_sampler_open(&l->sampler, &s, nm_model_describe(m)->n_vocab));
    if (j->ask.n_bias) NM_TRY(nm_sampler_bias(l->sampler, j->ask.bias_id, j->ask.bias, j->ask.n_bias));
    if (j->grammar) NM_TRY(nm_constraint_open(&l->constraint, j->grammar, nm_model_tokenizer(m)));
    for (size_t i = 0; i < j->n_ids; i++) NM_TRY(nm_sampler_accept(l->sampler, j->ids[i]));
    return NM_OK;
}

static nm_err open_text(nm_lane *l, const nm_job *j)
{
    bool chat = j->ask.messages != NULL;
    char *tools = chat && json_array_size(j->ask.tools) ? json_dumps(j->ask.tools, JSON_COMPACT) : NULL;
    nm_speech_options so = {.template_text = chat ? j->variant->template_text : NULL, .tools = tools, .reasoning_open = j->reasoning_open,
        .must_call = j->binds_reasoning, .seed = j->sampling.seed + (uint64_t)l->index};
    nm_err err = nm_decoder_open(&l->decoder, nm_model_tokenizer(j->variant->base->model), (chat && !j->ask.continue_last) || j->grammar ? 0 : NM_TEXT_CONTINUES);
    if (err == NM_OK) err = nm_stop_open(&l->stop, j->ask.stop, j->ask.n_stop);
    if (err == NM_OK && chat) err = nm_speech_open(&l->speech, &so);
    free(tools);
    return err;
}

nm_err nm_lane_open(nm_lane *l, nm_job *j, int32_t index)
{
    *l = (nm_lane){.job = j, .index = index, .waits = index > 0};
    NM_TRY(NM_GROW(l->ids, l->capacity, j->n_ids + 1));
    memcpy(l->ids, j->ids, j->n_ids * sizeof *l->ids);
    l->n_ids = j->n_ids;
    NM_TRY(open_drawing(l, j));
    return open_text(l, j);
}

void nm_lane_close(nm_lane *l)
{
    nm_session_close(&l->session);
    nm_sampler_close(&l->sampler);
    nm_decoder_close(&l->decoder);
    nm_stop_close(&l->stop);
    nm_speech_close(&l->speech);
    nm_constraint_close(&l->constraint);
    nm_free(l->ids);
    nm_free(l->mark);
    *l = (nm_lane){0};
}

/* ---- Probabilities ---------------------------------------------------------------------------------------------------------- */

static double log_total(const float *logits, int32_t n)
{
    float most = -INFINITY;
    double total = 0;
    for (int32_t i = 0; i < n; i++) most = logits[i] > most ? logits[i] : most;
    for (int32_t i = 0; i < n; i++) total += exp((double)logits[i] - (double)most);
    return (double)most + log(total);
}

/* The `most` largest logits, best first, by insertion: few of a vocabulary get in. */
static int32_t best_of(const float *logits, int32_t n, int32_t most, nm_logprob *top)
{
    int32_t have = 0;
    for (int32_t i = 0; i < n && most > 0; i++) {
        if (have == most && !((double)logits[i] > top[have - 1].logprob)) continue;
        int32_t at = have < most ? have++ : have - 1;
        for (; at > 0 && (double)logits[i] > top[at - 1].logprob; at--) top[at] = top[at - 1];
        top[at] = (nm_logprob){i, (double)logits[i]};
    }
    return have;
}

void nm_logprobs(const float *logits, int32_t n_vocab, int32_t id, int32_t most, nm_token_out *out, nm_logprob *top)
{
    double total = log_total(logits, n_vocab);
    *out = (nm_token_out){.id = id, .logprob = (double)logits[id] - total, .top = top, .n_top = best_of(logits, n_vocab, most, top)};
    for (int32_t i = 0; i < out->n_top; i++) top[i].logprob -= total;
}

/* ---- From a token to pieces --------------------------------------------------------------------------------------------------- */

/* The token at work goes with the first piece that it makes. */
static void tell(nm_lane *l, nm_piece *p)
{
    const nm_listener *to = &l->job->listener;
    if (l->job->ask.top_logprobs >= 0 && !l->given && l->token.id >= 0) p->token = &l->token, p->n_tokens = 1;
    l->given = true;
    p->index = l->index;
    if (to->piece) to->piece(to->arg, p);
}

static nm_err on_speech(void *arg, const nm_speech_piece *s)
{
    static const nm_piece_kind kinds[] = {[NM_SPEECH_CONTENT] = NM_PIECE_CONTENT, [NM_SPEECH_REASONING] = NM_PIECE_REASONING, [NM_SPEECH_CALL] = NM_PIECE_CALL,
        [NM_SPEECH_ARGUMENTS] = NM_PIECE_ARGUMENTS};
    nm_lane *l = arg;
    nm_piece p = {.kind = kinds[s->kind], .text = s->text, .length = s->length, .call = s->call, .id = s->id, .name = s->name};
    l->called |= s->kind == NM_SPEECH_CALL;
    tell(l, &p);
    return NM_OK;
}

/* text NULL: the end. */
static nm_err speak(nm_lane *l, const char *text, size_t length)
{
    if (l->speech) return nm_speech_push(l->speech, text, length, on_speech, l);
    nm_piece p = {.kind = NM_PIECE_CONTENT, .text = text, .length = length};
    if (length) tell(l, &p);
    return NM_OK;
}

static nm_err push_text(nm_lane *l, const char *text, size_t length)
{
    const char *out;
    size_t n;
    NM_TRY(nm_stop_push(l->stop, text, length, &out, &n, &l->stopped));
    return n ? speak(l, out, n) : NM_OK;
}

static nm_err push_token(nm_lane *l, int32_t id)
{
    const nm_tokenizer *t = nm_model_tokenizer(l->job->variant->base->model);
    const char *text = nm_token_raw(t, id);
    size_t length;
    if (l->speech && nm_token_is_control(t, id) && nm_speech_is_mark(text)) length = strlen(text);
    else NM_TRY(nm_decoder_push(l->decoder, id, &text, &length));
    return length ? push_text(l, text, length) : NM_OK;
}

/* What decoder, stop rules and speech still hold. */
static nm_err flush(nm_lane *l)
{
    const char *text;
    size_t length;
    NM_TRY(nm_decoder_push(l->decoder, -1, &text, &length));
    if (length) NM_TRY(push_text(l, text, length));
    NM_TRY(nm_stop_push(l->stop, NULL, 0, &text, &length, &l->stopped));
    if (length) NM_TRY(speak(l, text, length));
    return speak(l, NULL, 0);
}

nm_err nm_lane_finish(nm_lane *l, nm_finish finish)
{
    const nm_listener *to = &l->job->listener;
    l->token.id = -1;
    nm_err err = finish == NM_FINISH_ERROR ? NM_OK : flush(l);
    if (finish == NM_FINISH_STOP && l->stopped) finish = NM_FINISH_STOP_STRING;     /* by what was held back */
    if (finish == NM_FINISH_STOP && l->called) finish = NM_FINISH_TOOL_CALLS;
    l->ended = true;
    l->finish = finish;
    nm_answer_end end = {.index = l->index, .tokens = l->tokens, .reasoning_tokens = l->reasoning_tokens, .finish = finish, .stop = l->stopped ? nm_stop_met(l->stop) : NULL};
    if (err == NM_OK && to->answered) to->answered(to->arg, &end);
    return err;
}

/* ---- Drawing --------------------------------------------------------------------------------------------------------------------- */

/* A grammar binds what is said, not what is thought before. */
static bool is_bound(const nm_lane *l) { return l->constraint && (l->job->binds_reasoning || !l->speech || !nm_speech_reasons(l->speech)); }

/* Where reasoning has had its tokens, the mark that ends it is what comes next. */
static nm_err begin_mark(nm_lane *l)
{
    const nm_job *j = l->job;
    if (l->mark_at < l->n_mark || j->ask.think_most == NM_ASK_INT || l->reasoning_tokens < j->ask.think_most || !l->speech || !nm_speech_reasons(l->speech)) return NM_OK;
    const char *mark = nm_speech_closing(l->speech, j->prompt, j->prompt_length);
    nm_free(l->mark);
    l->mark = NULL;
    l->mark_at = l->n_mark = 0;
    return mark ? nm_tokenize(nm_model_tokenizer(j->variant->base->model), mark, strlen(mark), NM_TEXT_SPECIAL, &l->mark, &l->n_mark) : NM_OK;
}

/* The mark's next token; false where there is none, or where the grammar has no place for it. */
static bool take_mark(nm_lane *l, int32_t *id)
{
    if (l->mark_at < l->n_mark && is_bound(l) && !nm_constraint_allows(l->constraint, l->mark[l->mark_at])) l->n_mark = 0;
    if (l->mark_at >= l->n_mark) return false;
    *id = l->mark[l->mark_at++];
    return true;
}

static nm_err draw(nm_lane *l, const float *logits, int32_t *id)
{
    if (is_bound(l)) return nm_sampler_draw_within(l->sampler, logits, l->constraint, id);
    return nm_sampler_draw(l->sampler, logits, id);
}

static nm_err take(nm_lane *l, int32_t id, bool bound)
{
    NM_TRY(nm_sampler_accept(l->sampler, id));
    if (bound) NM_TRY(nm_constraint_accept(l->constraint, id));
    NM_TRY(NM_GROW(l->ids, l->capacity, l->n_ids + 1));
    l->ids[l->n_ids++] = id;
    l->tokens++;
    if (l->speech && nm_speech_reasons(l->speech)) l->reasoning_tokens++;
    return push_token(l, id);
}

/* The token at work, if no piece has taken it along: its probability is told now, its text, if it has any, with a later one. */
static void tell_token(nm_lane *l)
{
    nm_piece p = {.kind = NM_PIECE_CONTENT, .text = ""};
    if (!l->given && l->job->ask.top_logprobs >= 0) tell(l, &p);
}

/* What ends a text is a token of it, whose probability counts: clients that score texts drop the last one, whichever it is. A message only ends. */
static nm_err end(nm_lane *l)
{
    if (!l->speech) tell_token(l);
    return nm_lane_finish(l, NM_FINISH_STOP);
}

nm_err nm_lane_draw(nm_lane *l, const float *logits, int32_t n_vocab)
{
    const nm_job *j = l->job;
    int32_t id;
    bool bound = is_bound(l);
    NM_TRY(begin_mark(l));
    bool marks = take_mark(l, &id);
    if (!marks) NM_TRY(draw(l, logits, &id));
    l->token = (nm_token_out){.id = id, .logprob = (double)NAN};
    l->given = false;
    if (j->ask.top_logprobs >= 0) nm_logprobs(logits, n_vocab, id, j->ask.top_logprobs, &l->token, l->top);
    if (!marks && !j->ask.ignore_eos && nm_token_ends(nm_model_tokenizer(j->variant->base->model), id)) return end(l);
    NM_TRY(take(l, id, bound));
    tell_token(l);
    if (l->stopped) return nm_lane_finish(l, NM_FINISH_STOP_STRING);
    if (bound && nm_constraint_ended(l->constraint)) return nm_lane_finish(l, NM_FINISH_STOP);
    if (l->tokens >= j->most || l->n_ids >= (size_t)j->limit) return nm_lane_finish(l, NM_FINISH_LENGTH);
    return NM_OK;
}
