/* The loop: one pass after the other over all answers under way. A pass takes the next token of every answer and some of the prompts that are being read, so that nobody
 * waits behind a long one. What an answer is does not depend on who shares its passes (law 9). */
#include <string.h>
#include <time.h>

#include "os/clock.h"
#include "server/engine_impl.h"

enum {
    ROWS_MOST = NM_PASS_ROWS,
    ROWS_LEAST = 32,            /* of prompts in a pass, however slow the machine */
    ROWS_FIRST = 128,           /* before the machine's speed is known */
    PARTS_BESIDE = 8,           /* so many of the answers at once there may be one more of, for clients that have none */
    ROWS_WHOLE = 8,             /* of prompts in a pass that is not broken off, however slow the machine */
    RESERVED = 1024             /* tokens of an answer that memory is reserved for at a time: most say no bound, and end soon */
};
#define SECONDS_BESIDE 0.10     /* of a pass with prompts in it, where others wait for their next token */
#define SECONDS_ALONE 0.25      /* where nobody does: what a newcomer may have to wait for */
#define SECONDS_WHOLE 0.03      /* of one that is not broken off for a client that leaves */

typedef struct share { nm_lane *lane; int32_t from, count; bool drawn; } share;     /* a lane's part in a pass; count 0: it has all it needs */
typedef struct pass { nm_base *base; share *share; nm_item *item; size_t count, capacity, item_capacity; int32_t prompt_rows; } pass;

static int32_t lacks(const nm_lane *l) { return (int32_t)l->n_ids - nm_session_length(l->session); }

/* ---- Who begins ------------------------------------------------------------------------------------------------------------------ */

/* Texts to embed are read one by one. */
static int32_t lanes_of(const nm_job *j) { return j->kind == NM_JOB_EMBED ? 1 : j->n; }

/* One that asks for more answers than there is room for has all of it. */
static int32_t room_of(const nm_engine *e, const nm_job *j) { return lanes_of(j) < e->options.parallel ? lanes_of(j) : e->options.parallel; }

static int32_t room_taken(const nm_engine *e)
{
    int32_t n = 0;
    for (size_t i = 0; i < e->n_running; i++) n += room_of(e, e->running[i]);
    return n;
}

static int32_t taken_by(const nm_engine *e, unsigned long long client)
{
    int32_t n = 0;
    for (size_t i = 0; i < e->n_running; i++)
        if (e->running[i]->ask.client == client) n += room_of(e, e->running[i]);
    return n;
}

/* Whether another prompt at work begins as this one does, and much of that is still to come: then it is computed once, and taken over. */
static bool should_wait(const nm_engine *e, const nm_job *j)
{
    if (j->kind != NM_JOB_ANSWER || j->ask.no_cache || j->ask.echo_logprobs) return false;
    for (size_t i = 0; i < e->n_running; i++) {
        nm_job *other = e->running[i];
        if (other->kind != NM_JOB_ANSWER || other->variant != j->variant || other->ask.no_cache || !other->lane || !other->lane[0].session || other->lane[0].ended) continue;
        size_t done = (size_t)nm_session_length(other->lane[0].session), n = other->n_ids < j->n_ids ? other->n_ids : j->n_ids, same = 0;
        while (same < n && other->ids[same] == j->ids[same]) same++;
        if (done >= other->n_ids || same < done + NM_WORTH_KNOWING) continue;
        if (other->variant->base->slides && (!other->fork_at || same < other->fork_at)) other->fork_at = same;
        return true;
    }
    return false;
}

/* An answer that fails does so by itself: the others in the pass go on. */
static void fail_lane(nm_lane *l, nm_err failed)
{
    nm_job *j = l->job;
    l->ended = true;
    if (j->failed != NM_OK) return;
    j->failed = failed;
    j->failure = nm_strndup(nm_error_text(), strlen(nm_error_text()));
}

/* ---- Memory ---------------------------------------------------------------------------------------------------------------------- */

/* Tokens that each session of the job will have when it next asks for memory. */
static size_t tokens_ahead(const nm_job *j)
{
    size_t now = j->n_ids, most = j->n_ids + (size_t)j->most;
    if (j->kind == NM_JOB_EMBED) {
        for (int32_t i = now = 0; i < j->n; i++) now = j->lane[i].n_ids > now ? j->lane[i].n_ids : now;
        return now;
    }
    if (j->reserved > now) now = j->reserved;
    most = most < (size_t)j->limit ? most : (size_t)j->limit;
    return now + RESERVED < most ? now + RESERVED : most > now ? most : now;
}

/* Sessions that a job has or will have. */
static uint64_t sessions_of(const nm_job *j)
{
    uint64_t n = 0;
    for (int32_t i = 0; j->lane && i < j->n; i++) n += !j->lane[i].rests && (!j->lane[i].ended || j->lane[i].session);
    return j->kind == NM_JOB_EMBED ? 1 : j->lane ? n : (uint64_t)j->n;
}

static uint64_t bytes_at_work(const nm_engine *e, const nm_job *but)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < e->n_running; i++)
        if (e->running[i] != but) bytes += sessions_of(e->running[i]) * nm_session_need(e, e->running[i]->variant->base, e->running[i]->reserved);
    return bytes;
}

/* Whether there is memory for a job's sessions of so many tokens beside the others', kept prefixes and models that nobody uses making room for them. */
static bool fits_memory(nm_engine *e, const nm_job *j, size_t tokens)
{
    uint64_t sessions = bytes_at_work(e, j) + sessions_of(j) * nm_session_need(e, j->variant->base, tokens);
    while (nm_names_bytes(e) + sessions > e->memory)
        if (!nm_names_close_unused(e)) return false;
    uint64_t used = nm_names_bytes(e) + sessions;
    if (used + nm_kept_bytes(e) > e->memory) nm_kept_trim(e, e->memory - used, NULL);
    return true;
}

static size_t longest_of(const nm_job *j)
{
    size_t n = 0;
    for (int32_t i = 0; i < j->n; i++)
        if (!j->lane[i].ended && !j->lane[i].rests && j->lane[i].n_ids > n) n = j->lane[i].n_ids;
    return n;
}

/* Answers that have used what was reserved for them get more, those that began first before the others, or stand still until there is room. */
static void reserve_more(nm_engine *e)
{
    pthread_mutex_lock(&e->lock);
    for (size_t i = 0; i < e->n_running; i++) {
        nm_job *j = e->running[i];
        j->starves = false;
        if (j->kind == NM_JOB_EMBED || longest_of(j) <= j->reserved) continue;
        size_t ahead = tokens_ahead(j);
        j->starves = !fits_memory(e, j, ahead);
        if (!j->starves) j->reserved = ahead;
    }
    e->at_work = bytes_at_work(e, NULL);
    pthread_mutex_unlock(&e->lock);
}

/* Tokens that each session of the job will have once this answer of it, which rests, is at work again. */
static size_t tokens_awake(const nm_lane *l)
{
    const nm_job *j = l->job;
    size_t most = j->n_ids + (size_t)j->most, ahead = l->n_ids + RESERVED;
    most = most < (size_t)j->limit ? most : (size_t)j->limit;
    if (ahead > most) ahead = most > l->n_ids ? most : l->n_ids;
    return ahead > j->reserved ? ahead : j->reserved;
}

/* Gives it its memory; false where there is none, unless it must be. */
static bool may_wake(nm_engine *e, nm_lane *l, bool must)
{
    size_t tokens = tokens_awake(l);
    l->rests = false;
    l->rests = !fits_memory(e, l->job, tokens) && !must;
    if (!l->rests) l->job->reserved = tokens;
    return !l->rests;
}

/* The first answer that rests and may go on. */
static nm_lane *next_awake(nm_engine *e, bool must)
{
    for (size_t i = 0; i < e->n_running; i++) {
        nm_job *j = e->running[i];
        for (int32_t k = 0; j->kind == NM_JOB_ANSWER && j->answering && k < j->n; k++)
            if (j->lane[k].rests && !j->lane[k].ended) return may_wake(e, &j->lane[k], must) ? &j->lane[k] : NULL;
    }
    return NULL;
}

/* From what is known of its tokens. */
static bool wake(nm_engine *e, bool must)
{
    int32_t known;
    pthread_mutex_lock(&e->lock);
    nm_lane *l = next_awake(e, must);
    e->at_work = bytes_at_work(e, NULL);
    pthread_mutex_unlock(&e->lock);
    nm_err err = l ? nm_kept_session(e, l, &l->session, &known) : NM_OK;
    if (err != NM_OK) fail_lane(l, err);
    return l != NULL;
}

/* Whether an answer that has begun stands still. Those of a request for many that have no more yet than the token which is drawn from the prompt of all keep nobody out. */
static bool any_starves(const nm_engine *e)
{
    for (size_t i = 0; i < e->n_running; i++) {
        const nm_job *j = e->running[i];
        if (j->starves) return true;
        for (int32_t k = 0; j->kind == NM_JOB_ANSWER && k < j->n; k++)
            if (j->lane[k].rests && !j->lane[k].ended && j->lane[k].n_ids > j->n_ids + 1) return true;
    }
    return false;
}

/* The next to begin, off the list: of the client with least at work, the one that came first. NULL if none may. Where all room is taken there is some more for those who have
 * nothing at work, so that nobody waits for the end of others' long answers. */
static nm_job *take_ready(nm_engine *e)
{
    nm_job **best = NULL;
    bool starves = any_starves(e);      /* what is under way comes first */
    int32_t fewest = INT32_MAX, room = e->options.parallel - room_taken(e);
    for (nm_job **at = &e->ready; *at; at = &(*at)->next) {
        int32_t n = taken_by(e, (*at)->ask.client);
        bool cancelled = nm_cancelled(&(*at)->cancelled);
        if (!cancelled && (starves || should_wait(e, *at))) continue;
        if (cancelled || n < fewest) best = at, fewest = cancelled ? -1 : n;
    }
    /* Whose turn it is waits until there is room, and others with it, or one that asks for many answers would never begin. */
    if (fewest == 0) room += e->options.parallel / PARTS_BESIDE;
    nm_job *j = best && (fewest < 0 || !e->n_running || (room_of(e, *best) <= room && fits_memory(e, *best, tokens_ahead(*best)))) ? *best : NULL;
    if (j) {
        *best = j->next;
        j->next = NULL;
        j->reserved = tokens_ahead(j);
        e->waiting--;
    }
    return j;
}

static void close_lanes(nm_job *j)
{
    for (int32_t i = 0; j->lane && i < j->n; i++) nm_lane_close(&j->lane[i]);
    nm_free(j->lane);
    j->lane = NULL;
}

static nm_err try_lanes(nm_engine *e, nm_job *j)
{
    j->lane = nm_calloc((size_t)j->n, sizeof *j->lane);
    if (!j->lane) return nm_fail_memory((size_t)j->n * sizeof *j->lane);
    for (int32_t i = 0; i < j->n; i++) NM_TRY(nm_lane_open(&j->lane[i], j, i));
    return nm_kept_session(e, &j->lane[0], &j->lane[0].session, &j->cached);
}

static bool forget_kept(nm_engine *e)
{
    pthread_mutex_lock(&e->lock);
    bool some = e->n_kept > 0;
    nm_kept_forget(e);
    pthread_mutex_unlock(&e->lock);
    return some;
}

static nm_err open_lanes(nm_engine *e, nm_job *j)
{
    nm_err err = try_lanes(e, j);
    if (err != NM_NO_MEMORY || !forget_kept(e)) return err;
    close_lanes(j);
    return try_lanes(e, j);
}

/* Of many answers as many begin as there is memory for; the others rest until there is. */
static void rest_beyond(nm_engine *e, nm_job *j)
{
    pthread_mutex_lock(&e->lock);
    for (int32_t k = j->n; k-- > 1 && !fits_memory(e, j, j->reserved);) j->lane[k].rests = true;
    pthread_mutex_unlock(&e->lock);
}

/* Without the lock. */
static void begin(nm_engine *e, nm_job *j)
{
    nm_err err = nm_cancelled(&j->cancelled) ? nm_fail(NM_INTERRUPTED, "cancelled") : NM_OK;
    if (err == NM_OK && j->kind == NM_JOB_ANSWER) err = open_lanes(e, j);
    if (err == NM_OK && j->kind == NM_JOB_ANSWER) rest_beyond(e, j);
    j->begun = nm_clock_seconds();
    if (err == NM_OK) {
        pthread_mutex_lock(&e->lock);
        err = NM_GROW(e->running, e->running_capacity, e->n_running + 1);
        if (err == NM_OK) e->running[e->n_running++] = j;
        pthread_mutex_unlock(&e->lock);
    }
    if (err != NM_OK) {
        nm_job_end(j, err, NULL);
        return;
    }
    nm_started s = {.model = j->variant->name, .prompt_tokens = (int32_t)j->n_ids, .context = j->limit, .tokenizer = nm_model_tokenizer(j->variant->base->model)};
    if (j->listener.started) j->listener.started(j->listener.arg, &s);
}

/* ---- Who ends -------------------------------------------------------------------------------------------------------------------- */

static void end_job(nm_engine *e, size_t at, nm_err err, const char *code)
{
    nm_job *j = e->running[at];
    pthread_mutex_lock(&e->lock);
    for (int32_t i = 0; j->lane && i < j->n; i++) {
        nm_session *s = j->lane[i].session;
        j->lane[i].session = NULL;
        if (!s) continue;
        if (j->ask.no_cache || j->kind == NM_JOB_EMBED || err == NM_NO_MEMORY) nm_session_close(&s);
        else nm_kept_put(e, j->variant, s);
    }
    memmove(&e->running[at], &e->running[at + 1], (--e->n_running - at) * sizeof *e->running);
    e->at_work = bytes_at_work(e, NULL);
    pthread_cond_broadcast(&e->work);
    pthread_mutex_unlock(&e->lock);
    nm_job_end(j, err, code);
}

static bool all_ended(const nm_job *j)
{
    for (int32_t i = 0; i < j->n; i++)
        if (!j->lane[i].ended) return false;
    return true;
}

static void sweep(nm_engine *e)
{
    for (size_t i = e->n_running; i-- > 0;) {
        nm_job *j = e->running[i];
        if (nm_cancelled(&j->cancelled)) end_job(e, i, nm_fail(NM_INTERRUPTED, "cancelled"), NULL);
        else if (j->failed != NM_OK) end_job(e, i, nm_fail(j->failed, "%s", j->failure ? j->failure : "the answer failed"), NULL);
        else if (all_ended(j)) end_job(e, i, NM_OK, NULL);
    }
}

/* ---- A pass ---------------------------------------------------------------------------------------------------------------------- */

static void tell_echo(nm_job *j)
{
    nm_piece p = {.kind = NM_PIECE_PROMPT, .text = j->prompt ? j->prompt : "", .length = j->prompt_length, .token = j->echo, .n_tokens = j->n_ids};
    if (j->listener.piece) j->listener.piece(j->listener.arg, &p);
}

/* Gives back what answers leave behind that have ended while others of their request go on. */
static bool close_ended(nm_engine *e)
{
    bool any = false;
    for (size_t i = 0; i < e->n_running; i++) {
        nm_job *j = e->running[i];
        for (int32_t k = 0; j->kind == NM_JOB_ANSWER && k < j->n; k++) {
            any |= j->lane[k].ended && j->lane[k].session;
            if (j->lane[k].ended) nm_session_close(&j->lane[k].session);
        }
    }
    return any;
}

/* Where all stand still for want of memory, the youngest answer gives its session back, which is computed again when there is room; one alone goes on, since its context fits. */
static void end_starving(nm_engine *e)
{
    nm_lane *youngest = NULL;
    uint64_t others = 0;
    for (size_t i = 0; i < e->n_running; i++) {
        nm_job *j = e->running[i];
        for (int32_t k = 0; k < j->n; k++) {
            if (j->lane[k].ended || j->lane[k].rests) continue;
            if (!j->starves) return;
            others += youngest != NULL;
            youngest = &j->lane[k];
        }
    }
    if (!e->n_running || close_ended(e)) return;
    if (others) {
        nm_session_close(&youngest->session);
        youngest->rests = true;
        if (!sessions_of(youngest->job)) youngest->job->reserved = 0;
    } else if (youngest) {
        youngest->job->reserved = tokens_ahead(youngest->job);
        youngest->job->starves = false;
    } else wake(e, true);
}

static void draw_for(nm_lane *l, const float *logits, int32_t n_vocab)
{
    nm_err err = l->job->most > 0 ? nm_lane_draw(l, logits, n_vocab) : nm_lane_finish(l, NM_FINISH_LENGTH);
    if (err == NM_FAILED && (l->job->ask.n_bias || l->constraint)) err = nm_fail(NM_USAGE, "%s", nm_error_text());      /* nothing is left to be drawn */
    if (err != NM_OK) fail_lane(l, err);
}

/* The prompt's last logits serve all answers of its request. */
static nm_err on_logits(void *arg, int32_t index, const float *logits, int32_t n_vocab)
{
    share *s = arg;
    nm_lane *l = s->lane;
    nm_job *j = l->job;
    size_t next = (size_t)(s->from + index) + 1;
    int32_t top = j->ask.top_logprobs > 0 ? j->ask.top_logprobs : 0;
    if (j->echo && next < j->n_ids) nm_logprobs(logits, n_vocab, j->ids[next], top, &j->echo[next], j->echo_top + next * (size_t)top);
    if (next < l->n_ids) return NM_OK;
    s->drawn = true;
    if (j->answering) {
        draw_for(l, logits, n_vocab);
        return NM_OK;
    }
    j->answering = true;
    j->first = nm_clock_seconds();
    if (j->echo) tell_echo(j);
    for (int32_t i = 0; i < j->n; i++) draw_for(&j->lane[i], logits, n_vocab);
    return NM_OK;
}

static nm_err on_hidden(void *arg, int32_t index, const float *hidden, int32_t n_embd)
{
    share *s = arg;
    nm_embed_add(s->lane, s->from + index, hidden, n_embd);
    return NM_OK;
}

static nm_err add_share(pass *p, nm_lane *l, int32_t count)
{
    NM_TRY(NM_GROW(p->share, p->capacity, p->count + 1));
    p->share[p->count++] = (share){.lane = l, .from = nm_session_length(l->session), .count = count};
    return NM_OK;
}

static bool at_work(const nm_lane *l) { return !l->ended && !l->waits && !l->rests; }

/* The lane that reads for a job, if it has to: its prompt, or what an answer has lost while it rested. */
static nm_lane *reader(nm_engine *e, nm_job *j)
{
    nm_err err = NM_OK;
    if (j->kind == NM_JOB_EMBED) {
        nm_lane *l = nm_embed_lane(e, j, &err);
        if (err != NM_OK) fail_lane(&j->lane[0], err);
        return l && !l->ended && lacks(l) ? l : NULL;
    }
    for (int32_t i = 0; i < j->n; i++)
        if (at_work(&j->lane[i]) && lacks(&j->lane[i]) >= 2) return &j->lane[i];
    return NULL;
}

/* What it is to read at a time: to the place where others go on otherwise, if a session of it is kept there, and from there on. */
static int32_t to_read(const nm_lane *l)
{
    int32_t at = nm_session_length(l->session), to = (int32_t)l->job->fork_at;
    return l->index == 0 && to > at ? to - at : lacks(l);
}

/* The lane whose prompt has least left, or the one that came first, of those that are not in the pass yet. */
static nm_lane *next_prompt(nm_engine *e, const pass *p, bool oldest)
{
    nm_lane *found = NULL;
    for (size_t i = 0; i < e->n_running; i++) {
        nm_lane *l = e->running[i]->variant->base == p->base && !e->running[i]->starves ? reader(e, e->running[i]) : NULL;
        if (!l) continue;
        bool in = false;
        for (size_t k = 0; k < p->count; k++) in |= p->share[k].lane == l;
        if (in) continue;
        if (!found || (!oldest && lacks(l) < lacks(found))) found = l;
    }
    return found;
}

/* Who leaves can break a pass off, but not two in turn, or those who leave would stop those who stay: the second is short instead. */
static int32_t rows_for_prompts(const nm_engine *e, const nm_base *b, int32_t beside)
{
    double rows = b->rate * (e->broken ? SECONDS_WHOLE : beside ? SECONDS_BESIDE : SECONDS_ALONE);
    int32_t least = e->broken ? ROWS_WHOLE : ROWS_LEAST;
    int32_t n = b->rate == 0 ? (e->broken ? ROWS_WHOLE : ROWS_FIRST) : rows < least ? least : rows > ROWS_MOST ? ROWS_MOST : (int32_t)rows;
    return n > ROWS_MOST - beside ? ROWS_MOST - beside : n;
}

/* A quarter goes to the prompt that has waited longest, the rest to those that are soonest done. */
static nm_err add_prompts(nm_engine *e, pass *p)
{
    int32_t room = rows_for_prompts(e, p->base, (int32_t)p->count);
    nm_lane *oldest = next_prompt(e, p, true);
    if (!oldest) return NM_OK;
    int32_t part = room / 4 < to_read(oldest) ? room / 4 : to_read(oldest);
    size_t first = p->count;
    if (part) NM_TRY(add_share(p, oldest, part));
    p->prompt_rows = part;
    for (nm_lane *l; p->prompt_rows < room && (l = next_prompt(e, p, false));) {
        int32_t n = room - p->prompt_rows < to_read(l) ? room - p->prompt_rows : to_read(l);
        NM_TRY(add_share(p, l, n));
        p->prompt_rows += n;
    }
    if (part && p->prompt_rows < room) {        /* what nobody else needs */
        int32_t n = to_read(oldest) - part < room - p->prompt_rows ? to_read(oldest) - part : room - p->prompt_rows;
        p->share[first].count += n;
        p->prompt_rows += n;
    }
    return NM_OK;
}

static nm_err add_answers(nm_engine *e, pass *p)
{
    for (size_t i = 0; i < e->n_running; i++) {
        nm_job *j = e->running[i];
        for (int32_t k = 0; j->kind == NM_JOB_ANSWER && !j->starves && j->variant->base == p->base && k < j->n; k++)
            if (at_work(&j->lane[k]) && lacks(&j->lane[k]) == 1 && p->count < ROWS_MOST) NM_TRY(add_share(p, &j->lane[k], 1));
    }
    return NM_OK;
}

static nm_err make_items(pass *p, size_t first, size_t count)
{
    NM_TRY(NM_GROW(p->item, p->item_capacity, p->count));
    for (size_t i = first; i < first + count; i++) {
        share *s = &p->share[i];
        bool whole = s->count == lacks(s->lane), embeds = s->lane->job->kind == NM_JOB_EMBED;
        nm_want want = s->lane->job->echo || embeds ? NM_WANT_ALL : whole ? NM_WANT_LAST : NM_WANT_NONE;
        p->item[i] = (nm_item){.session = s->lane->session, .tokens = s->lane->ids + s->from, .count = s->count, .want = want, .on_logits = embeds ? NULL : on_logits,
            .on_hidden = embeds ? on_hidden : NULL, .arg = s};
    }
    return NM_OK;
}

/* Marks who is in the pass, so that a client who leaves can end it. */
static void mark(nm_engine *e, const pass *p, bool in)
{
    pthread_mutex_lock(&e->lock);
    if (in && !e->closes) nm_cancel(&e->interrupt, false);
    atomic_store(&e->may_interrupt, in && !e->broken && (p->base->rate == 0 || p->prompt_rows > SECONDS_WHOLE * p->base->rate));
    if (!in) p->base->runner_bytes = nm_runner_bytes(p->base->runner);
    for (size_t i = 0; i < p->count; i++) p->share[i].lane->job->in_pass = false;
    for (size_t i = 0; in && i < p->count; i++) {
        nm_job *j = p->share[i].lane->job;
        j->in_pass |= p->share[i].count > 1;
        if (nm_cancelled(&j->cancelled) && nm_job_stops_pass(e, j)) nm_cancel(&e->interrupt, true);
    }
    pthread_mutex_unlock(&e->lock);
}

/* Answers of one request go on from the one that read the prompt. */
static void fork_waiting(nm_job *j)
{
    for (int32_t i = 1; i < j->n; i++) {
        nm_lane *l = &j->lane[i];
        if (!l->waits || !j->answering) continue;
        l->waits = false;
        nm_err err = l->ended || l->rests ? NM_OK : nm_session_fork(&l->session, j->lane[0].session);
        if (err != NM_OK) fail_lane(l, err);
    }
}

/* Rows that were computed, but whose logits were not handed out: they are computed again. */
static void take_back(share *shares, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const share *s = &shares[i];
        nm_session *session = s->lane->session;
        if (s->drawn) continue;
        if (s->lane->job->kind == NM_JOB_EMBED) nm_embed_again(s->lane, s->from);
        else if (s->lane->job->echo) nm_session_truncate(session, s->from);
        else if (nm_session_length(session) == (int32_t)s->lane->n_ids) nm_session_truncate(session, (int32_t)s->lane->n_ids - 1);
    }
}

/* Memory lacks: kept prefixes go; if there are none, the answer that began last. */
static void make_room(nm_engine *e, const nm_base *base, nm_err err)
{
    char why[256];
    snprintf(why, sizeof why, "%s", nm_error_text());
    if (forget_kept(e)) return;
    for (size_t i = e->n_running; i-- > 0;) {
        nm_job *j = e->running[i];
        if (j->variant->base != base || j->failed != NM_OK || all_ended(j)) continue;
        nm_fail(err, "%s", why);
        for (int32_t k = 0; k < j->n; k++) fail_lane(&j->lane[k], err);
        return;
    }
}

/* What is still to be done of these shares, after a pass of them ended in between. */
static void renew(share *shares, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        share *s = &shares[i];
        int32_t left = s->drawn || s->lane->ended ? 0 : lacks(s->lane);
        s->from = nm_session_length(s->lane->session);
        if (s->count > left) s->count = left;
    }
}

/* One pass; where it fails, its halves by themselves, and so on: in the end only what cannot be computed fails. */
static nm_err run_shares(nm_engine *e, pass *p, size_t first, size_t count)
{
    nm_err err = make_items(p, first, count);
    if (err == NM_OK) err = nm_run(p->base->runner, p->item + first, count, &e->interrupt);
    if (err == NM_OK) return NM_OK;
    take_back(p->share + first, count);
    if (err == NM_INTERRUPTED) return err;
    if (err == NM_NO_MEMORY) make_room(e, p->base, err);
    else if (count == 1) fail_lane(p->share[first].lane, err);
    else {
        renew(p->share + first, count);
        if (run_shares(e, p, first, count / 2) == NM_INTERRUPTED) return NM_INTERRUPTED;
        if (run_shares(e, p, first + count / 2, count - count / 2) == NM_INTERRUPTED) return NM_INTERRUPTED;
    }
    return err;
}

/* Where others go on otherwise, and a window would drop what they need: what is known up to here is kept by itself. */
static void keep_fork(nm_engine *e, nm_lane *l)
{
    nm_job *j = l->job;
    nm_session *s;
    if (l->index || !j->fork_at || !l->session || (size_t)nm_session_length(l->session) < j->fork_at) return;
    bool there = (size_t)nm_session_length(l->session) == j->fork_at;
    j->fork_at = 0;
    if (!there || j->ask.no_cache || nm_session_fork(&s, l->session) != NM_OK) return;
    pthread_mutex_lock(&e->lock);
    nm_kept_put(e, j->variant, s);
    pthread_mutex_unlock(&e->lock);
}

static void measure(nm_base *b, int32_t rows, double seconds)
{
    double rate = (double)rows / seconds;
    b->rate = b->rate == 0 ? rate : 0.75 * b->rate + 0.25 * rate;
}

static void run(nm_engine *e, pass *p)
{
    double from = nm_clock_seconds();
    mark(e, p, true);
    nm_err err = run_shares(e, p, 0, p->count);
    mark(e, p, false);
    e->broken = err == NM_INTERRUPTED;
    if (err == NM_OK && p->prompt_rows > ROWS_LEAST) measure(p->base, p->prompt_rows, nm_clock_seconds() - from);
    for (size_t i = 0; i < p->count; i++) {
        nm_lane *l = p->share[i].lane;
        if (l->job->kind == NM_JOB_ANSWER) fork_waiting(l->job), keep_fork(e, l);
        else if (!l->ended && !lacks(l)) nm_embed_finish(l);
    }
}

/* ---- Turns ----------------------------------------------------------------------------------------------------------------------- */

/* Models take turns, pass by pass. */
static nm_base *next_base(nm_engine *e)
{
    nm_base *found = NULL;
    pthread_mutex_lock(&e->lock);
    for (size_t k = 0; !found && k < e->bases; k++) {
        nm_base *b = e->base[(e->turn + k) % e->bases];
        for (size_t i = 0; i < e->n_running; i++)
            if (e->running[i]->variant->base == b) found = b;
        if (found) e->turn = (e->turn + k + 1) % e->bases;
    }
    pthread_mutex_unlock(&e->lock);
    return found;
}

static void step(nm_engine *e, pass *p)
{
    p->base = next_base(e);
    p->count = 0;
    p->prompt_rows = 0;
    if (!p->base) return;
    nm_err err = add_answers(e, p);
    if (err == NM_OK) err = add_prompts(e, p);
    if (err != NM_OK) make_room(e, p->base, err);
    else if (p->count) run(e, p);
}

static void wait_for_work(nm_engine *e)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += 1;
    pthread_cond_timedwait(&e->work, &e->lock, &at);
}

/* Under the lock: what others may read of the answers at work. */
static void show(nm_engine *e)
{
    for (size_t i = 0; i < e->n_running; i++) {
        nm_job *j = e->running[i];
        j->shown_answering = j->answering;
        j->shown_tokens = 0;
        for (int32_t k = 0; j->lane && k < j->n; k++) j->shown_tokens += j->lane[k].tokens;
    }
}

static void tidy(nm_engine *e)
{
    show(e);
    nm_names_reap(e, nm_clock_seconds());
    e->counts.cache_bytes = nm_kept_bytes(e);
    e->counts.cache_entries = e->n_kept;
    if (e->want_room && !nm_shelf_busy(e)) {
        e->want_room = 0;
        pthread_cond_broadcast(&e->work);
    }
}

/* Under the lock, which is let go meanwhile: those who left before a clerk came to them. */
static void end_cancelled(nm_engine *e, nm_job **list)
{
    for (nm_job **at = list; *at;) {
        nm_job *j = *at;
        if (!nm_cancelled(&j->cancelled)) {
            at = &j->next;
            continue;
        }
        *at = j->next;
        e->waiting--;
        pthread_mutex_unlock(&e->lock);
        nm_job_end(j, nm_fail(NM_INTERRUPTED, "cancelled"), NULL);
        pthread_mutex_lock(&e->lock);
        at = list;
    }
}

void *nm_loop_main(void *engine)
{
    nm_engine *e = engine;
    pass p = {0};
    pthread_mutex_lock(&e->lock);
    while (!e->closes) {
        tidy(e);
        end_cancelled(e, &e->fresh);
        end_cancelled(e, &e->slow);
        while (e->refused) {
            nm_job *j = e->refused;
            e->refused = j->next;
            pthread_mutex_unlock(&e->lock);
            nm_job_refuse(j);
            pthread_mutex_lock(&e->lock);
        }
        if (!e->n_running && !e->ready) {
            wait_for_work(e);
            continue;
        }
        for (nm_job *j; (j = take_ready(e));) {
            pthread_mutex_unlock(&e->lock);
            begin(e, j);
            pthread_mutex_lock(&e->lock);
        }
        pthread_mutex_unlock(&e->lock);
        sweep(e);
        reserve_more(e);
        while (wake(e, false)) continue;
        end_starving(e);
        step(e, &p);
        sweep(e);
        pthread_mutex_lock(&e->lock);
    }
    pthread_mutex_unlock(&e->lock);
    while (e->n_running) end_job(e, 0, nm_fail(NM_INTERRUPTED, "the server is going down"), "shutting_down");
    nm_free(p.share);
    nm_free(p.item);
    return NULL;
}
