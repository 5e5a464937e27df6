/* Merging a stack into a model: a whole GGUF file whose changed tensors are W + sum of scale x B A (of DoRA the row so far x gain), quantised again, and whose other tensors are
 * the base's bytes. What quantisation loses is measured: beside the change it may be large, which is why stacks are computed beside the base. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "adapter/lora.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/pool.h"
#include "format/gguf_write.h"

enum { BLOCK_ROWS = 256 };          /* rows in work at a time */
/* Sums of squares: what was meant, the stack's change, and the error of quantising, in all and in tensors that the stack changes. */
enum { MEANT, CHANGE, ERROR, ERROR_CHANGED, SUMS };

typedef struct target {             /* a tensor to be written */
    const nm_gguf_tensor *from;
    const char *name;
    const nm_type *type;
    int32_t weight;                 /* whose slots change it, or NM_NONE */
    bool embedding;
} target;

typedef struct work {
    const nm_model *model;
    const nm_stack *stack;
    const target *t;
    int64_t row, rows;              /* the block */
    float *base, *changed;          /* [BLOCK_ROWS][k] */
    uint8_t *out;
    double *sum;                    /* [threads][SUMS] */
} work;

/* ---- One tensor -------------------------------------------------------------------------------------------------------------------------------- */

static bool has_slots(const nm_stack *s, int32_t weight)
{
    if (!s || weight == NM_NONE) return false;
    for (int32_t i = s->first[weight]; i < s->first[weight + 1]; i++) if (s->slot[i].scale != 0) return true;
    return false;
}

/* row[k] += scale * sum over r of left[r] * (row r of `right`, or for an embedding output k's row of it). */
static void add_slot(const nm_slot *s, bool embedding, int64_t row, float *out, int64_t k, float *left, float *right)
{
    int64_t rank = embedding ? s->a.k : s->a.n;
    nm_panels_row(embedding ? &s->a : &s->b, row, left);
    if (embedding) {                /* W[token][c] += s * sum_r A'[token][r] B[c][r] */
        for (int64_t c = 0; c < k; c++) {
            nm_panels_row(&s->b, c, right);
            double sum = 0;
            for (int64_t r = 0; r < rank; r++) sum += (double)left[r] * (double)right[r];
            out[c] += s->scale * (float)sum;
        }
        return;
    }
    for (int64_t r = 0; r < rank; r++) {
        nm_panels_row(&s->a, r, right);
        for (int64_t c = 0; c < k; c++) out[c] += s->scale * left[r] * right[c];
    }
    for (int64_t c = 0; s->gain && c < k; c++) out[c] *= s->gain[row];
}

static void merge_row(const work *w, int64_t i, float *scratch)
{
    const target *t = w->t;
    int64_t k = t->from->dim[0];
    size_t row_bytes = (size_t)(k / t->from->type->block) * (size_t)t->from->type->bytes;
    float *base = w->base + i * k, *changed = w->changed + i * k;
    t->from->type->to_float((const uint8_t *)t->from->data + (size_t)(w->row + i) * row_bytes, k, base);
    memcpy(changed, base, (size_t)k * sizeof *changed);
    if (!w->stack || t->weight == NM_NONE) return;
    for (int32_t s = w->stack->first[t->weight]; s < w->stack->first[t->weight + 1]; s++)
        if (w->stack->slot[s].scale != 0) add_slot(&w->stack->slot[s], t->embedding, w->row + i, changed, k, scratch, scratch + NM_MOST_RANK);
}

/* Quantises the row, and measures what came of it against what was meant. */
static void finish_row(const work *w, int64_t i, double sum[SUMS])
{
    const nm_type *type = w->t->type;
    int64_t k = w->t->from->dim[0];
    uint8_t *out = w->out + (size_t)i * (size_t)(k / type->block) * (size_t)type->bytes;
    float *base = w->base + i * k, *changed = w->changed + i * k;
    type->from_float(changed, k, out);
    for (int64_t c = 0; c < k; c++) {
        double change = (double)changed[c] - (double)base[c];
        sum[MEANT] += (double)changed[c] * (double)changed[c];
        sum[CHANGE] += change * change;
    }
    type->to_float(out, k, base);
    double error = 0;
    for (int64_t c = 0; c < k; c++) error += ((double)base[c] - (double)changed[c]) * ((double)base[c] - (double)changed[c]);
    sum[ERROR] += error;
    if (has_slots(w->stack, w->t->weight)) sum[ERROR_CHANGED] += error;
}

typedef struct share { work *w; float *scratch; size_t each; } share;

static void merge_thread(void *arg, int thread, int threads)
{
    share *j = arg;
    int64_t from, to;
    nm_share(j->w->rows, 1, thread, threads, &from, &to);
    for (int64_t i = from; i < to; i++) {
        merge_row(j->w, i, j->scratch + (size_t)thread * j->each);
        finish_row(j->w, i, j->w->sum + SUMS * thread);
    }
}

static nm_err merge_blocks(work *w, nm_gguf_writer *out, share *j)
{
    int64_t all = w->t->from->dim[1] * w->t->from->dim[2] * w->t->from->dim[3], k = w->t->from->dim[0];
    size_t row_bytes = (size_t)(k / w->t->type->block) * (size_t)w->t->type->bytes;
    for (w->row = 0; w->row < all; w->row += w->rows) {
        w->rows = all - w->row < BLOCK_ROWS ? all - w->row : BLOCK_ROWS;
        NM_TRY(nm_pool_run(merge_thread, j));
        NM_TRY(nm_gguf_write_data(out, w->out, (size_t)w->rows * row_bytes, w->row + w->rows == all));
    }
    return NM_OK;
}

static nm_err merge_tensor(work *w, nm_gguf_writer *out)
{
    int64_t k = w->t->from->dim[0];
    share j = {.w = w, .each = NM_MOST_RANK + (size_t)(k > NM_MOST_RANK ? k : NM_MOST_RANK)};
    size_t block = BLOCK_ROWS * (size_t)k * sizeof(float);
    w->base = nm_malloc(block);
    w->changed = nm_malloc(block);
    w->out = nm_malloc(2 * block);              /* F64 is the largest type */
    j.scratch = nm_calloc((size_t)nm_threads() * j.each, sizeof *j.scratch);
    nm_err err = w->base && w->changed && w->out && j.scratch ? merge_blocks(w, out, &j) : nm_fail_memory(4 * block);
    nm_free(w->base);
    nm_free(w->changed);
    nm_free(w->out);
    nm_free(j.scratch);
    return err;
}

static nm_err write_target(work *w, nm_gguf_writer *out)
{
    const target *t = w->t;
    bool same = t->type == t->from->type && !has_slots(w->stack, t->weight);
    return same ? nm_gguf_write_data(out, t->from->data, (size_t)t->from->bytes, true) : merge_tensor(w, out);
}

/* ---- The whole file ------------------------------------------------------------------------------------------------------------------------------ */

typedef struct plan { target *t; size_t count; } plan;

static int32_t weight_used_as(const nm_model *m, const char *tensor, bool embedding)
{
    for (size_t i = 0; i < m->program.steps; i++) {
        const nm_step *s = &m->program.step[i];
        if (!s->n_weight || s->op != (embedding ? NM_OP_EMBED : NM_OP_LINEAR)) continue;
        int32_t id = nm_weight_of(m->program.operand, s, 0);
        if (!strcmp(m->weight[id].name, tensor)) return id;
    }
    return NM_NONE;
}

/* Maps and tables are quantised anew; norms, biases and what is no weight stay as they are, and so does what the type's blocks do not fit. */
static const nm_type *type_for(const nm_gguf_tensor *t, const nm_type *wanted)
{
    bool matrix = t->rank > 1 && t->dim[1] > 1 && t->type->to_float;
    return wanted && matrix && t->dim[0] % wanted->block == 0 ? wanted : t->type;
}

/* A tied head that the stack changes becomes a tensor of its own. */
static void add_target(plan *p, const nm_model *m, const nm_stack *stack, const nm_gguf_tensor *from, const nm_type *wanted)
{
    int32_t table = weight_used_as(m, from->name, true), map = weight_used_as(m, from->name, false);
    bool tied = table != NM_NONE && map != NM_NONE && has_slots(stack, map);
    p->t[p->count++] = (target){from, from->name, type_for(from, wanted), table != NM_NONE ? table : map, table != NM_NONE};
    if (tied) p->t[p->count++] = (target){from, "output.weight", type_for(from, wanted), map, false};
}

static nm_err check_writable(const plan *p, const nm_stack *stack)
{
    for (size_t i = 0; i < p->count; i++)
        if (has_slots(stack, p->t[i].weight) && !p->t[i].type->from_float)
            return nm_fail(NM_USAGE, "%s is of type %s, which cannot be written: give --type", p->t[i].name, p->t[i].type->name);
    return NM_OK;
}

/* Of a split the parts' numbers go; the type of the whole is no longer what the file's key said where it changes. */
static bool is_copied(const char *key, bool retyped) { return strncmp(key, "split.", 6) && strcmp(key, "general.alignment") && !(retyped && !strcmp(key, "general.file_type")); }

#define KEY_TEMPLATE "tokenizer.chat_template"

static nm_err put_head(nm_gguf_writer *w, const nm_gguf *g, const plan *p, const nm_merge_options *o, bool retyped)
{
    for (size_t i = 0; i < nm_gguf_value_count(g); i++) {
        const nm_gguf_value *v = nm_gguf_value_at(g, i);
        if (o->template_text && !strcmp(v->key, KEY_TEMPLATE)) continue;
        if (is_copied(v->key, retyped) && strcmp(v->key, "nomoat.merged")) NM_TRY(nm_gguf_write_copy(w, g, v));
    }
    if (o->note) NM_TRY(nm_gguf_write_string(w, "nomoat.merged", o->note));
    if (o->template_text) NM_TRY(nm_gguf_write_string(w, KEY_TEMPLATE, o->template_text));
    for (size_t i = 0; i < p->count; i++) NM_TRY(nm_gguf_write_tensor(w, p->t[i].name, p->t[i].type, p->t[i].from->rank, p->t[i].from->dim));
    return NM_OK;
}

static nm_err put_all(nm_gguf_writer *w, work *job, const plan *p, const char *path, const nm_merge_options *o, bool retyped)
{
    NM_TRY(put_head(w, job->model->gguf, p, o, retyped));
    NM_TRY(nm_gguf_write_begin(w, path));
    for (size_t i = 0; i < p->count; i++) {
        job->t = &p->t[i];
        NM_TRY(write_target(job, w));
        if (o->progress && o->progress(o->progress_arg, i + 1, p->count)) return nm_fail(NM_INTERRUPTED, "interrupted while merging");
    }
    return nm_gguf_write_commit(w);
}

static void report(nm_merge_report *out, const work *w, const plan *p)
{
    double sum[SUMS] = {0};
    for (int i = 0; i < SUMS * nm_threads(); i++) sum[i % SUMS] += w->sum[i];
    *out = (nm_merge_report){.relative_error = sum[MEANT] > 0 ? sqrt(sum[ERROR] / sum[MEANT]) : 0,
        .error_to_change = sum[CHANGE] > 0 ? sqrt(sum[ERROR_CHANGED] / sum[CHANGE]) : NAN};
    for (size_t i = 0; i < p->count; i++) out->n_maps += has_slots(w->stack, p->t[i].weight);
}

static const nm_type *type_named(const char *name)
{
    for (int i = 0; nm_type_at(i); i++) if (!strcasecmp(nm_type_at(i)->name, name)) return nm_type_at(i);
    return NULL;
}

nm_err nm_model_merge(const nm_model *model, const nm_stack *stack, const char *path, const nm_merge_options *options, nm_merge_report *out)
{
    const nm_type *wanted = options->type ? type_named(options->type) : NULL;
    size_t tensors = nm_gguf_tensor_count(model->gguf);
    nm_gguf_writer w = {0};
    nm_err err = NM_OK;
    if (!model->info.has_weights) return nm_fail(NM_USAGE, "%s: opened for its metadata only", model->name);
    if (stack && stack->owner != model) return nm_fail(NM_USAGE, "the stack of adapters belongs to another model");
    if (options->type && (!wanted || !wanted->from_float)) return nm_fail(NM_USAGE, "--type %s: no type that can be written: Q4_0, Q4_K, Q8_0, F16 and so on are", options->type);
    plan p = {.t = nm_calloc(tensors + 1, sizeof *p.t)};
    work job = {.model = model, .stack = stack, .sum = nm_calloc(SUMS * (size_t)nm_threads(), sizeof *job.sum)};
    if (!p.t || !job.sum) NM_GOTO(nm_fail_memory(tensors * sizeof *p.t));
    for (size_t i = 0; i < tensors; i++) add_target(&p, model, stack, nm_gguf_tensor_at(model->gguf, i), wanted);
    NM_GOTO(check_writable(&p, stack));
    NM_GOTO(put_all(&w, &job, &p, path, options, wanted));
    report(out, &job, &p);
out:
    nm_gguf_write_end(&w);
    nm_free(p.t);
    nm_free(job.sum);
    return err;
}
