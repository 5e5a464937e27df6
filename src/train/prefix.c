/* Common beginnings of the sequences of a pass. */
#include "train/prefix.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/pool.h"

nm_err nm_prefix_open(nm_prefix *p, int64_t max_rows, int64_t max_sequences)
{
    size_t rows = (size_t)max_rows;
    p->row = nm_calloc(rows, sizeof *p->row);
    p->seq = nm_calloc((size_t)max_sequences, sizeof *p->seq);
    p->at = nm_calloc(rows, sizeof *p->at);
    p->copy_from = nm_calloc(rows + 1, sizeof *p->copy_from);
    p->copy_seq = nm_calloc(rows, sizeof *p->copy_seq);
    return p->row && p->seq && p->at && p->copy_from && p->copy_seq ? NM_OK : nm_fail_memory(rows * sizeof *p->row);
}

void nm_prefix_close(nm_prefix *p)
{
    nm_free(p->row);
    nm_free(p->seq);
    nm_free(p->at);
    nm_free(p->copy_from);
    nm_free(p->copy_seq);
    *p = (nm_prefix){0};
}

/* ---- Finding ---------------------------------------------------------------------------------------------------------------------------- */

static int32_t common(const nm_row *row, const nm_seq *a, const nm_seq *b)
{
    int32_t n = 0, most = a->rows < b->rows ? a->rows : b->rows;
    while (n < most && row[a->row + n].token == row[b->row + n].token) n++;
    return n;
}

/* The sequence before s that shares most with it. */
static int32_t longest(const nm_row *row, const nm_seq *seq, int32_t s, int32_t *of)
{
    int32_t most = 0;
    for (int32_t t = 0; t < s; t++) {
        int32_t n = common(row, &seq[t], &seq[s]);
        if (n <= most) continue;
        most = n;
        *of = t;
    }
    return most;
}

/* Shared rows by the computed row that they are: counted, then listed. */
static void list_copies(nm_prefix *p, const nm_seq *seq, int32_t seqs)
{
    int32_t copies = 0;
    memset(p->copy_from, 0, (size_t)(p->rows + 1) * sizeof *p->copy_from);
    for (int32_t s = 0; s < seqs; copies += p->seq[s++].start)
        for (int32_t i = 0; i < p->seq[s].start; i++) p->copy_from[p->at[seq[s].row + i] + 1]++;
    for (int64_t r = 0; r < p->rows; r++) p->copy_from[r + 1] += p->copy_from[r];
    for (int32_t s = seqs; s-- > 0;)        /* from the last: where a row's list ends becomes where it begins */
        for (int32_t i = 0; i < p->seq[s].start; i++) p->copy_seq[--p->copy_from[p->at[seq[s].row + i] + 1]] = s;
    memmove(p->copy_from, p->copy_from + 1, (size_t)p->rows * sizeof *p->copy_from);
    p->copy_from[p->rows] = copies;
}

void nm_prefix_find(nm_prefix *p, const nm_row *row, const nm_seq *seq, int32_t seqs)
{
    p->rows = 0;
    for (int32_t s = 0; s < seqs; s++) {
        int32_t of = 0, shared = longest(row, seq, s, &of);
        for (int32_t i = 0; i < shared; i++) p->at[seq[s].row + i] = p->at[seq[of].row + i];
        p->seq[s] = seq[s];
        p->seq[s].row = (int32_t)p->rows;
        p->seq[s].rows -= shared;
        p->seq[s].start = shared;
        for (int32_t i = shared; i < seq[s].rows; i++) {
            p->row[p->rows] = row[seq[s].row + i];
            p->at[seq[s].row + i] = (int32_t)p->rows++;
        }
    }
    list_copies(p, seq, seqs);
}

/* ---- Spreading -------------------------------------------------------------------------------------------------------------------------- */

typedef struct spread {
    const nm_prefix *prefix;
    const nm_plan *plan;
    const nm_exec *exec;
    int64_t rows;
} spread;

/* From the last row to the first: no row lies behind where it belongs, so nothing is overwritten that is still to be read. */
static void spread_value(const spread *s, int32_t v, int64_t c0, int64_t c1)
{
    const int32_t *at = s->prefix->at;
    for (int64_t r = s->rows; r-- > 0;)
        if (at[r] != r) memcpy(nm_at(s->exec, v, r) + c0, nm_at(s->exec, v, at[r]) + c0, (size_t)(c1 - c0) * sizeof(float));
}

/* Columns are shared out, whole lines of 64 bytes to a thread. */
static void spread_thread(void *arg, int thread, int threads)
{
    const spread *s = arg;
    for (size_t v = 0; v < s->plan->program->values; v++) {
        const nm_value *x = &s->plan->value[v];
        int64_t from, to;
        if (x->parent >= 0 || x->rows != NM_ROWS_BATCH || x->first < 0 || x->first >= s->plan->body || x->last < s->plan->head) continue;
        nm_share(x->dim, 16, thread, threads, &from, &to);
        if (from < to) spread_value(s, (int32_t)v, from, to);
    }
}

nm_err nm_prefix_spread(const nm_prefix *prefix, const nm_plan *plan, const nm_exec *exec, int64_t rows)
{
    spread s = {prefix, plan, exec, rows};
    return nm_pool_run(spread_thread, &s);
}
