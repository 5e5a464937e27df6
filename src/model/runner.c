/* The runner: turns items (sessions and the tokens to append) into passes over the plan, and hands out logits. Memory is planned when it
 * opens, and anew before a run whose sessions' stacks have a larger rank than any before; a pass allocates nothing but pages. */
#include <string.h>

#include "base/cancel.h"
#include "base/err.h"
#include "base/mem.h"
#include "model/model.h"

enum { DEFAULT_ROWS = 512, DEFAULT_LOGITS = 16, MOST_ROWS = 1 << 16, RANK_STEP = 16 };

struct nm_runner {
    const nm_model *model;
    nm_plan plan;
    int32_t max_rank;               /* of slots that the plan has room for */
    nm_walk walk;
    nm_row *row;
    int32_t *out_row;
    nm_seq *seq;
    struct part { nm_item *item; int32_t from, count; } *part;     /* an item's tokens in this pass; as seq */
    int32_t parts, outs;
    const volatile sig_atomic_t *cancel;
};

/* ---- Opening ------------------------------------------------------------------------------------------------------------------------ */

static nm_err allocate(nm_runner *r, size_t rows)
{
    r->row = nm_calloc(rows, sizeof *r->row);
    r->out_row = nm_calloc(rows, sizeof *r->out_row);
    r->seq = nm_calloc(rows, sizeof *r->seq);
    r->part = nm_calloc(rows, sizeof *r->part);
    return r->row && r->out_row && r->seq && r->part ? NM_OK : nm_fail_memory(rows * sizeof *r->row);
}

static void free_plan(nm_runner *r)
{
    nm_walk_close(&r->walk);
    nm_plan_free(&r->plan);
}

/* Plans, and takes the memory for it. On failure the runner keeps what it has. */
static nm_err make_plan(nm_runner *r, nm_compute compute, int64_t max_rows, int64_t max_logits, int32_t max_rank)
{
    const nm_model *m = r->model;
    nm_plan plan;
    nm_walk walk;
    NM_TRY(nm_plan_make(&plan, &m->program, m->weight, compute, max_rows, max_logits, m->config.n_context, max_rank));
    nm_err err = nm_walk_open(&walk, &plan, m->weight);
    if (err != NM_OK) {
        nm_walk_close(&walk);
        nm_plan_free(&plan);
        return err;
    }
    free_plan(r);
    r->plan = plan;
    r->walk = walk;
    r->walk.plan = &r->plan;
    r->max_rank = max_rank;
    return NM_OK;
}

/* Plans anew where a session's stack has a larger rank than the plan has room for; in steps, so that similar stacks do not plan again. */
static nm_err fit_stacks(nm_runner *r, const nm_item *items, size_t count)
{
    int32_t rank = 0;
    for (size_t i = 0; i < count; i++) {
        const nm_stack *stack = items[i].session->options.stack;
        if (stack && stack->max_rank > rank) rank = stack->max_rank;
    }
    if (rank <= r->max_rank) return NM_OK;
    rank = (rank + RANK_STEP - 1) / RANK_STEP * RANK_STEP;
    return make_plan(r, r->plan.compute, r->plan.max_rows[NM_ROWS_BATCH], r->plan.max_rows[NM_ROWS_OUT], rank);
}

nm_err nm_runner_open(nm_runner **out, const nm_model *model, const nm_runner_options *options)
{
    nm_runner_options o = options ? *options : (nm_runner_options){0};
    *out = NULL;
    if (!model->info.has_weights) return nm_fail(NM_USAGE, "%s: opened for its metadata only", model->name);
    if (o.max_rows < 0 || o.max_rows > MOST_ROWS || o.max_logits < 0 || o.max_logits > MOST_ROWS) return nm_fail(NM_USAGE, "a pass takes 1 to %d rows", MOST_ROWS);
    if (!o.max_rows) o.max_rows = DEFAULT_ROWS;
    if (!o.max_logits) o.max_logits = DEFAULT_LOGITS;
    if (o.max_logits > o.max_rows) o.max_logits = o.max_rows;
    if (o.compute > NM_COMPUTE_F32) return nm_fail(NM_USAGE, "unknown arithmetic");
    nm_runner *r = nm_calloc(1, sizeof *r);
    if (!r) return nm_fail_memory(sizeof *r);
    r->model = model;
    nm_err err = make_plan(r, o.compute, o.max_rows, o.max_logits, 0);
    if (err == NM_OK) err = allocate(r, (size_t)o.max_rows);
    if (err != NM_OK) nm_runner_close(&r);
    *out = r;
    return err;
}

void nm_runner_close(nm_runner **runner)
{
    nm_runner *r = *runner;
    *runner = NULL;
    if (!r) return;
    free_plan(r);
    nm_free(r->row);
    nm_free(r->out_row);
    nm_free(r->seq);
    nm_free(r->part);
    nm_free(r);
}

uint64_t nm_runner_bytes(const nm_runner *r) { return r->plan.memory_bytes + r->plan.shared_bytes + r->walk.scratch_total; }

/* ---- Checks --------------------------------------------------------------------------------------------------------------------------- */

static nm_err check_tokens(const nm_runner *r, const nm_item *item)
{
    for (int32_t i = 0; i < item->count; i++)
        if (item->tokens[i] < 0 || item->tokens[i] >= r->model->config.n_vocab)
            return nm_fail(NM_USAGE, "token %d at place %d is outside the vocabulary of %lld", (int)item->tokens[i], (int)i, (long long)r->model->config.n_vocab);
    return NM_OK;
}

static nm_err check_item(const nm_runner *r, const nm_item *item, const nm_item *first)
{
    const nm_session *s = item->session;
    if (s->model != r->model) return nm_fail(NM_USAGE, "a session belongs to another model than the runner");
    if (s->options.compute != r->plan.compute) return nm_fail(NM_REFUSED, "the session's cache was made by another arithmetic than the runner's");
    if (s->options.kv != first->session->options.kv) return nm_fail(NM_USAGE, "sessions of one run must have caches of one type");
    if (item->count < 0) return nm_fail(NM_USAGE, "%d tokens make no sense", (int)item->count);
    if (item->want != NM_WANT_NONE && item->count > 0 && !item->on_logits && !item->on_hidden) return nm_fail(NM_USAGE, "logits are wanted, but nobody takes them");
    if (item->count > s->options.context - s->length)
        return nm_fail(NM_USAGE, "%d tokens do not fit: %d of the context of %d are taken", (int)item->count, (int)s->length, (int)s->options.context);
    return check_tokens(r, item);
}

static nm_err check_items(const nm_runner *r, nm_item *items, size_t count)
{
    nm_err err = NM_OK;
    size_t marked = 0;
    for (; marked < count && err == NM_OK; marked++) {
        nm_session *s = items[marked].session;
        if (s->in_run) { err = nm_fail(NM_USAGE, "a session stands twice in one run"); break; }
        err = check_item(r, &items[marked], &items[0]);
        s->in_run = true;
    }
    for (size_t i = 0; i < marked; i++) items[i].session->in_run = false;
    return err;
}

/* ---- Passes ---------------------------------------------------------------------------------------------------------------------------- */

static bool wants(const nm_item *item, int32_t index)
{
    return item->want == NM_WANT_ALL || (item->want == NM_WANT_LAST && index == item->count - 1);
}

/* Adds as many of the item's tokens from `from` on as the pass has room for; returns how many. */
static nm_err add_part(nm_runner *r, nm_item *item, int32_t from, int64_t *rows, int32_t *taken)
{
    nm_session *s = item->session;
    int64_t room = r->plan.max_rows[NM_ROWS_BATCH] - *rows;
    int32_t count = item->count - from < room ? item->count - from : (int32_t)room;
    NM_TRY(nm_session_reserve(s, count));
    nm_seq *seq = &r->seq[r->parts];
    *seq = (nm_seq){.row = (int32_t)*rows, .rows = count, .start = s->length};
    for (int32_t g = 0; g < s->layout.groups; g++) seq->pages[g] = s->list[g].page;
    if (s->options.stack) r->walk.exec.stacked = true;
    for (int32_t i = 0; i < count; i++) {
        r->row[*rows + i] = (nm_row){.token = item->tokens[from + i], .position = s->length + i, .seq = r->parts, .stack = s->options.stack};
        if (wants(item, from + i)) r->out_row[r->outs++] = (int32_t)(*rows + i);
    }
    r->part[r->parts++] = (struct part){item, from, count};
    *rows += count;
    *taken = count;
    return NM_OK;
}

static bool cancelled(void *arg)
{
    const nm_runner *r = arg;
    return nm_cancelled(r->cancel);
}

static nm_err walk(nm_runner *r, int32_t from, int32_t to)
{
    bool done;
    r->walk.at = from;
    r->walk.end = to;
    r->walk.exec.stop = r->cancel ? cancelled : NULL;
    r->walk.exec.stop_arg = r;
    NM_TRY(nm_walk_some(&r->walk, &done));
    return done ? NM_OK : nm_fail(NM_INTERRUPTED, "interrupted");
}

/* One row of what was asked for: of the head's input, or of the logits. */
static nm_err hand_row(nm_runner *r, int32_t place, int32_t row, bool logits)
{
    const nm_exec *e = &r->walk.exec;
    const nm_program *g = &r->model->program;
    const struct part *p = &r->part[r->row[row].seq];
    const nm_item *item = p->item;
    int32_t index = p->from + row - r->seq[r->row[row].seq].row;
    if (logits) return item->on_logits ? item->on_logits(item->arg, index, nm_at(e, g->result, place), (int32_t)r->model->config.n_vocab) : NM_OK;
    return item->on_hidden ? item->on_hidden(item->arg, index, nm_at(e, g->hidden, place), (int32_t)r->model->config.n_embd) : NM_OK;
}

static nm_err hand_out(nm_runner *r, int32_t first, int32_t count, bool logits)
{
    for (int32_t i = 0; i < count; i++) NM_TRY(hand_row(r, i, r->out_row[first + i], logits));
    return NM_OK;
}

static nm_err run_head(nm_runner *r)
{
    nm_exec *e = &r->walk.exec;
    int32_t most = (int32_t)r->plan.max_rows[NM_ROWS_OUT];
    bool logits = false;
    for (int32_t i = 0; i < r->parts; i++) logits |= r->part[i].item->on_logits != NULL;
    for (int32_t first = 0; first < r->outs; first += most) {
        int32_t count = r->outs - first < most ? r->outs - first : most;
        e->out_row = r->out_row + first;
        e->rows[NM_ROWS_OUT] = count;
        NM_TRY(walk(r, r->plan.head, r->plan.logits));
        NM_TRY(hand_out(r, first, count, false));
        if (!logits) continue;
        NM_TRY(walk(r, r->plan.logits, (int32_t)r->plan.regions));
        NM_TRY(hand_out(r, first, count, true));
    }
    return NM_OK;
}

static nm_err run_pass(nm_runner *r, int64_t rows)
{
    nm_exec *e = &r->walk.exec;
    e->kernel = nm_kernels_get();
    e->kv = &r->part[0].item->session->layout;
    e->row = r->row;
    e->seq = r->seq;
    e->rows[NM_ROWS_BATCH] = rows;
    e->rows[NM_ROWS_OUT] = 0;
    e->seqs = r->parts;
    NM_TRY(walk(r, 0, r->plan.head));
    for (int32_t i = 0; i < r->parts; i++) nm_session_commit(r->part[i].item->session, r->part[i].item->tokens + r->part[i].from, r->part[i].count);
    return run_head(r);
}

nm_err nm_run(nm_runner *r, nm_item *items, size_t count, const volatile sig_atomic_t *cancel)
{
    NM_TRY(check_items(r, items, count));
    NM_TRY(fit_stacks(r, items, count));
    NM_TRY(nm_walk_fit(&r->walk));
    r->cancel = cancel;
    size_t item = 0;
    int32_t from = 0;
    while (item < count) {
        int64_t rows = 0;
        r->parts = r->outs = 0;
        r->walk.exec.stacked = false;
        while (item < count && rows < r->plan.max_rows[NM_ROWS_BATCH]) {
            int32_t taken = 0;
            if (items[item].count > from) NM_TRY(add_part(r, &items[item], from, &rows, &taken));
            from += taken;
            if (from >= items[item].count) { item++; from = 0; }
        }
        if (rows) NM_TRY(run_pass(r, rows));
    }
    return NM_OK;
}
