/* A training pass. Keys and values lie in the pages of sessions that never remember a token: fp32, so that what backward reads is exact. */
#include "train/pass.h"

#include <math.h>
#include <string.h>

#include "base/cancel.h"
#include "base/err.h"
#include "base/mem.h"
#include "train/prefix.h"

struct nm_pass {
    const nm_model *model;
    nm_train_options options;
    nm_plan plan;
    nm_walk walk;
    nm_session **session;       /* [max_sequences] */
    nm_row *row;                /* [max_rows] */
    nm_seq *seq;                /* [max_sequences] */
    nm_prefix prefix;
    int64_t rows;               /* of the pass */
    /* Supervised rows, in order. */
    int32_t *out_row, *target;  /* [max_rows] */
    float *weight, *nll;
    int32_t outs;
    int32_t first;              /* of the chunk in work */
    float scale;
    const nm_stack *stack;      /* of this pass's rows */
    float *before;              /* the anchor's logits without what is trained: [max_anchor][vocabulary] */
    size_t before_bytes;
    const volatile sig_atomic_t *cancel;
};

/* ---- Opening ---------------------------------------------------------------------------------------------------------------------- */

static nm_err allocate(nm_pass *p)
{
    size_t rows = (size_t)p->options.max_rows, sequences = (size_t)p->options.max_sequences;
    p->session = nm_calloc(sequences, sizeof *p->session);
    p->row = nm_calloc(rows, sizeof *p->row);
    p->seq = nm_calloc(sequences, sizeof *p->seq);
    p->out_row = nm_calloc(rows, sizeof *p->out_row);
    p->target = nm_calloc(rows, sizeof *p->target);
    p->weight = nm_calloc(rows, sizeof *p->weight);
    p->nll = nm_calloc(rows, sizeof *p->nll);
    NM_TRY(nm_prefix_open(&p->prefix, p->options.max_rows, p->options.max_sequences));
    p->before_bytes = (size_t)p->options.max_anchor * (size_t)p->model->config.n_vocab * sizeof *p->before;
    if (p->before_bytes && !(p->before = nm_alloc_sparse(p->before_bytes))) return nm_fail_memory(p->before_bytes);
    return p->session && p->row && p->seq && p->out_row && p->target && p->weight && p->nll ? NM_OK : nm_fail_memory(rows * sizeof *p->row);
}

static nm_err open_sessions(nm_pass *p)
{
    nm_session_options options = {.context = p->options.max_length, .kv = NM_KV_F32, .compute = NM_COMPUTE_F32};
    for (int32_t i = 0; i < p->options.max_sequences; i++) NM_TRY(nm_session_open(&p->session[i], p->model, &options));
    return NM_OK;
}

static nm_err open_pass(nm_pass *p)
{
    nm_train_plan train = {.trained = p->options.trained, .rank = p->options.rank, .bf16 = p->options.bf16, .remake = p->options.remake};
    NM_TRY(nm_plan_make_training(&p->plan, &p->model->program, p->model->weight, &train, p->options.max_rows, p->options.max_out,
        p->options.stack ? p->options.stack->max_rank : 0));
    NM_TRY(nm_walk_open(&p->walk, &p->plan, p->model->weight));
    NM_TRY(allocate(p));
    p->walk.exec.loss_arg = p;
    if (p->model->kept.data && !p->options.beside) {
        p->walk.map = &p->model->kept;
        p->walk.settled = nm_map_settle(&p->model->kept);
    }
    return open_sessions(p);
}

nm_err nm_pass_open(nm_pass **out, const nm_model *model, const nm_train_options *options)
{
    *out = NULL;
    if (!model->info.has_weights) return nm_fail(NM_USAGE, "%s: opened for its metadata only", model->name);
    if (options->max_rows < 1 || options->max_sequences < 1 || options->max_out < 1 || options->max_anchor < 0)
        return nm_fail(NM_USAGE, "a training pass without rows makes no sense");
    nm_pass *p = nm_calloc(1, sizeof *p);
    if (!p) return nm_fail_memory(sizeof *p);
    p->model = model;
    p->options = *options;
    if (!p->options.max_length) p->options.max_length = options->max_rows;
    nm_err err = open_pass(p);
    if (err != NM_OK) nm_pass_close(&p);
    *out = p;
    return err;
}

void nm_pass_close(nm_pass **pass)
{
    nm_pass *p = *pass;
    *pass = NULL;
    if (!p) return;
    for (int32_t i = 0; p->session && i < p->options.max_sequences; i++) nm_session_close(&p->session[i]);
    nm_walk_close(&p->walk);
    nm_plan_free(&p->plan);
    nm_free(p->session);
    nm_free(p->row);
    nm_free(p->seq);
    nm_prefix_close(&p->prefix);
    nm_free(p->out_row);
    nm_free(p->target);
    nm_free(p->weight);
    nm_free(p->nll);
    nm_free_aligned(p->before, p->before_bytes);
    nm_free(p);
}

/* Sequences share the rows of a pass, and each rounds its keys and values up to a page. */
static uint64_t page_bytes(const nm_pass *p)
{
    int64_t sequences = p->options.max_sequences, pages = p->options.max_rows / NM_PAGE + 1;
    nm_session_options options = {.context = p->options.max_rows, .kv = NM_KV_F32, .compute = NM_COMPUTE_F32};
    uint64_t all = nm_session_bytes(p->model, &options);
    return all + all / (uint64_t)pages * (uint64_t)((sequences < pages ? sequences : pages) - 1);
}

uint64_t nm_pass_bytes(const nm_pass *p) { return p->plan.memory_bytes + p->plan.shared_bytes + p->walk.scratch_total + p->before_bytes + page_bytes(p); }

void nm_pass_rest(nm_pass *p)
{
    nm_rest_aligned(p->walk.exec.memory, p->plan.memory_bytes);
    nm_rest_aligned(p->walk.exec.shared, p->plan.shared_bytes);
    nm_rest_aligned(p->walk.exec.scratch, p->walk.scratch_total);
    nm_rest_aligned(p->before, p->before_bytes);
}

const nm_train_options *nm_pass_options(const nm_pass *p) { return &p->options; }

/* ---- The loss --------------------------------------------------------------------------------------------------------------------- */

/* Cross-entropy of one row; its gradient is w (softmax(logits) - onehot(target)). */
static void loss_row(void *arg, int64_t row, const float *logits, int64_t n, float *gradient, float *own)
{
    nm_pass *p = arg;
    const nm_kernels *k = p->walk.exec.kernel;
    int64_t i = p->first + row;
    float m, l, w = p->weight[i] * p->scale, logit = logits[p->target[i]];
    k->softmax(logits, n, gradient, &m, &l);
    k->scale(gradient, w, n, gradient);
    gradient[p->target[i]] -= w;
    p->nll[i] = (m - logit) + logf(l);
}

/* ---- Running ---------------------------------------------------------------------------------------------------------------------- */

static nm_err check_sequence(const nm_pass *p, const nm_sequence *s, int64_t rows)
{
    if (s->count < 1 || s->count > p->options.max_length || s->count > p->options.max_rows - rows)
        return nm_fail(NM_USAGE, "a sequence of %d tokens does not fit a pass of %d", (int)s->count, (int)p->options.max_rows);
    for (int32_t i = 0; i < s->count; i++)
        if (s->ids[i] < 0 || s->ids[i] >= p->model->config.n_vocab)
            return nm_fail(NM_USAGE, "token %d at place %d is outside the vocabulary of %lld", (int)s->ids[i], (int)i, (long long)p->model->config.n_vocab);
    return NM_OK;
}

static nm_err add_sequence(nm_pass *p, int32_t at, const nm_sequence *s)
{
    nm_session *session = p->session[at];
    NM_TRY(check_sequence(p, s, p->rows));
    NM_TRY(nm_session_reserve(session, s->count));
    nm_seq *seq = &p->seq[at];
    *seq = (nm_seq){.row = (int32_t)p->rows, .rows = s->count};
    for (int32_t g = 0; g < session->layout.groups; g++) seq->pages[g] = session->list[g].page;
    for (int32_t i = 0; i < s->count; i++) {
        p->row[p->rows + i] = (nm_row){.token = s->ids[i], .position = i, .seq = at, .stack = p->stack};
        if (i + 1 == s->count || s->weight[i + 1] == 0) continue;
        p->out_row[p->outs] = (int32_t)(p->rows + i);
        p->target[p->outs] = s->ids[i + 1];
        p->weight[p->outs++] = s->weight[i + 1];
    }
    p->rows += s->count;
    return NM_OK;
}

static bool cancelled(void *arg)
{
    const nm_pass *p = arg;
    return nm_cancelled(p->cancel);
}

static nm_err walk(nm_pass *p, int32_t from, int32_t to)
{
    bool done;
    p->walk.at = from;
    p->walk.end = to;
    NM_TRY(nm_walk_some(&p->walk, &done));
    return done ? NM_OK : nm_fail(NM_INTERRUPTED, "interrupted");
}

/* Supervised rows from p->first on, as many as the head takes at a time. */
static void choose_chunk(nm_pass *p)
{
    nm_exec *e = &p->walk.exec;
    int32_t left = p->outs - p->first;
    e->out_row = p->out_row + p->first;
    e->rows[NM_ROWS_OUT] = left < p->options.max_out ? left : p->options.max_out;
}

static nm_err start(nm_pass *p, const nm_stack *stack, const nm_sequence *sequence, int32_t count, float scale, const nm_train *train,
    const volatile sig_atomic_t *cancel)
{
    nm_exec *e = &p->walk.exec;
    p->rows = 0;
    p->outs = 0;
    p->stack = stack;
    if (count < 1 || count > p->options.max_sequences) return nm_fail(NM_USAGE, "%d sequences in a pass of at most %d", (int)count, (int)p->options.max_sequences);
    for (int32_t i = 0; i < count; i++) NM_TRY(add_sequence(p, i, &sequence[i]));
    NM_TRY(nm_walk_fit(&p->walk));
    p->scale = scale;
    p->cancel = cancel;
    e->kernel = nm_kernels_get();
    e->kv = &p->session[0]->layout;
    e->train = train;
    e->stacked = stack != NULL;
    e->stop = cancelled;
    e->stop_arg = p;
    e->seqs = count;
    e->rows[NM_ROWS_OUT] = 0;
    return NM_OK;
}

static void see_all_rows(nm_pass *p)
{
    nm_exec *e = &p->walk.exec;
    e->row = p->row;
    e->seq = p->seq;
    e->copy_from = e->copy_seq = NULL;
    e->rows[NM_ROWS_BATCH] = p->rows;
}

/* The layers, up to where rows that want logits part from the others. With `share` a row behind a beginning that another sequence has as well is computed once. */
static nm_err walk_body(nm_pass *p, bool share)
{
    nm_exec *e = &p->walk.exec;
    see_all_rows(p);
    if (share) {
        e->row = p->prefix.row;
        e->seq = p->prefix.seq;
        e->copy_from = p->prefix.copy_from;
        e->copy_seq = p->prefix.copy_seq;
        e->rows[NM_ROWS_BATCH] = p->prefix.rows;
    }
    return walk(p, 0, p->plan.body);
}

/* Rows are moved where backward looks for them, which costs about what a tenth of them cost to compute; masks of dropout are each sequence's own. */
static nm_err forward(nm_pass *p)
{
    enum { LEAST_SHARE = 6 };
    nm_exec *e = &p->walk.exec;
    bool share = false;
    if (!(e->train->dropout.p > 0)) {
        nm_prefix_find(&p->prefix, p->row, p->seq, e->seqs);
        share = (p->rows - p->prefix.rows) * LEAST_SHARE >= p->rows;
    }
    NM_TRY(walk_body(p, share));
    if (share) NM_TRY(nm_prefix_spread(&p->prefix, &p->plan, e, p->rows));
    see_all_rows(p);
    return NM_OK;
}

/* Forward, the head with its loss and back again some rows at a time, so that the logits of all never exist together, and back. */
static nm_err there_and_back(nm_pass *p, void (*loss)(void *, int64_t, const float *, int64_t, float *, float *), double *sum)
{
    p->walk.exec.loss = loss;
    NM_TRY(forward(p));
    NM_TRY(walk(p, p->plan.body, p->plan.head));
    for (p->first = 0; p->first < p->outs; p->first += p->options.max_out) {
        choose_chunk(p);
        NM_TRY(walk(p, p->plan.head, p->plan.back));
    }
    NM_TRY(walk(p, p->plan.back, (int32_t)p->plan.regions));
    for (int32_t i = 0; i < p->outs; i++) *sum += (double)p->weight[i] * (double)p->nll[i];
    return NM_OK;
}

nm_err nm_pass_run(nm_pass *p, const nm_sequence *sequence, int32_t count, float scale, const nm_train *train, double *loss, float *nll,
    const volatile sig_atomic_t *cancel)
{
    NM_TRY(start(p, p->options.stack, sequence, count, scale, train, cancel));
    NM_TRY(there_and_back(p, loss_row, loss));
    if (nll) memcpy(nll, p->nll, (size_t)p->outs * sizeof *nll);
    return NM_OK;
}

/* ---- The anchor --------------------------------------------------------------------------------------------------------------------- */

double nm_divergence(const float *before, const float *now, int64_t n, float *p_before, float *p_now)
{
    const nm_kernels *k = nm_kernels_get();
    float m, l, m0, l0;
    double kl = 0;
    k->softmax(before, n, p_before, &m0, &l0);
    for (int64_t j = 0; j < n; j++) kl += (double)p_before[j] * ((double)before[j] - (double)now[j]);
    k->softmax(now, n, p_now, &m, &l);                  /* `before` has been read for the last time */
    return kl + ((double)m + log((double)l)) - ((double)m0 + log((double)l0));
}

/* KL(before || now) of one row in nats, in place of an NLL; its gradient is w (softmax(now) - softmax(before)). */
static void anchor_row(void *arg, int64_t row, const float *logits, int64_t n, float *gradient, float *own)
{
    nm_pass *p = arg;
    const nm_kernels *k = p->walk.exec.kernel;
    int64_t i = p->first + row;
    float *before = p->before + i * n;
    p->nll[i] = (float)nm_divergence(before, logits, n, own, before);
    k->add_scaled(before, own, -1, n, gradient);
    k->scale(gradient, p->weight[i] * p->scale, n, gradient);
}

/* Logits of all rows without what is trained. */
static nm_err keep_before(nm_pass *p, const nm_sequence *sequence, int32_t count, const nm_train *none, const volatile sig_atomic_t *cancel)
{
    size_t row = (size_t)p->model->config.n_vocab * sizeof(float);
    NM_TRY(start(p, p->options.before, sequence, count, 0, none, cancel));
    if (p->outs > p->options.max_anchor) return nm_fail(NM_USAGE, "an anchor of %d rows, and there is room for %d", (int)p->outs, (int)p->options.max_anchor);
    nm_prefix_find(&p->prefix, p->row, p->seq, count);
    NM_TRY(walk_body(p, true));
    for (int32_t i = 0; i < p->outs; i++) p->out_row[i] = p->prefix.at[p->out_row[i]];
    for (p->first = 0; p->first < p->outs; p->first += p->options.max_out) {
        choose_chunk(p);
        NM_TRY(walk(p, p->plan.head, p->plan.loss));
        for (int64_t i = 0; i < p->walk.exec.rows[NM_ROWS_OUT]; i++)
            memcpy(p->before + (p->first + i) * p->model->config.n_vocab, nm_at(&p->walk.exec, p->model->program.result, i), row);
    }
    return NM_OK;
}

nm_err nm_pass_anchor(nm_pass *p, const nm_sequence *sequence, int32_t count, float scale, const nm_train *train, double *kl, const volatile sig_atomic_t *cancel)
{
    static const nm_train none;
    NM_TRY(keep_before(p, sequence, count, &none, cancel));
    NM_TRY(start(p, p->options.stack, sequence, count, scale, train, cancel));
    return there_and_back(p, anchor_row, kl);
}
