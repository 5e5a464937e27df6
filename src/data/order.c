/* The order of training. An epoch's list is made anew whenever another epoch is asked for: from the seed and the epoch's number, nothing else. */
#include <math.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "data/data.h"

struct nm_order {
    const nm_dataset *d;
    nm_order_options options;
    uint32_t *items;            /* of the epoch at hand */
    size_t count;               /* of every epoch */
    int64_t epoch;              /* -1: none made yet */
    int64_t steps, per_epoch;
    uint32_t *parts;            /* ready batches: of the step at hand */
};

/* ---- Epochs ------------------------------------------------------------------------------------------------------------------------------ */

/* How often a source's n samples are drawn in an epoch: whole rounds, and the first `rest` of a shuffled one. */
static void draws(double weight, size_t n, size_t *rounds, size_t *rest)
{
    *rounds = (size_t)weight;
    *rest = (size_t)((weight - (double)*rounds) * (double)n + 0.5);
}

static size_t source_size(const nm_dataset *d, size_t source)
{
    size_t n = 0;
    for (size_t i = 0; i < d->n_train; i++) n += d->entries[i].source == (int32_t)source;
    return n;
}

static nm_err count_epoch(nm_order *o)
{
    for (size_t s = 0; s < o->d->n_sources; s++) {
        size_t rounds, rest, n = source_size(o->d, s), all;
        draws(o->d->weights[s], n, &rounds, &rest);
        if (nm_mul_overflow(n, rounds, &all) || nm_add_overflow(o->count, all + rest, &o->count)) return nm_fail_memory(SIZE_MAX);
    }
    return o->count ? NM_OK : nm_fail(NM_USAGE, "the weights leave no row of the training data to be drawn: raise them");
}

/* Appends a source's samples, in the order of the files. */
static size_t list_source(const nm_order *o, size_t source, uint32_t *out)
{
    size_t n = 0;
    for (size_t i = 0; i < o->d->n_train; i++)
        if (o->d->entries[i].source == (int32_t)source) out[n++] = (uint32_t)i;
    return n;
}

static nm_err draw_source(const nm_order *o, int64_t epoch, size_t source, size_t *at)
{
    size_t rounds, rest, n = source_size(o->d, source);
    draws(o->d->weights[source], n, &rounds, &rest);
    for (size_t r = 0; r < rounds; r++) *at += list_source(o, source, o->items + *at);
    if (!rest) return NM_OK;
    uint32_t *all = nm_calloc(n, sizeof *all);
    if (!all) return nm_fail_memory(n * sizeof *all);
    list_source(o, source, all);
    nm_data_shuffle(all, n, o->options.seed, NM_DATA_STREAM(NM_DRAW_SHARE, (uint64_t)epoch << 16 | source));
    memcpy(o->items + *at, all, rest * sizeof *all);
    *at += rest;
    nm_free(all);
    return NM_OK;
}

static nm_err make_epoch(nm_order *o, int64_t epoch)
{
    size_t at = 0;
    if (o->epoch == epoch) return NM_OK;
    o->epoch = -1;
    for (size_t s = 0; s < o->d->n_sources; s++) NM_TRY(draw_source(o, epoch, s, &at));
    if (!o->options.in_order) nm_data_shuffle(o->items, o->count, o->options.seed, NM_DATA_STREAM(NM_DRAW_ORDER, (uint64_t)epoch));
    o->epoch = epoch;
    return NM_OK;
}

/* ---- Opening ----------------------------------------------------------------------------------------------------------------------------- */

static nm_err plan_epochs(nm_order *o)
{
    const nm_order_options *g = &o->options;
    if (g->batch < 1) return nm_fail(NM_USAGE, "a step of %d sequences: give --batch 1 or more", (int)g->batch);
    if (!(g->epochs > 0 && g->epochs <= 1e6)) return nm_fail(NM_USAGE, "%g epochs: give a number above 0", g->epochs);
    NM_TRY(count_epoch(o));
    if (o->count > UINT32_MAX) return nm_fail(NM_USAGE, "an epoch of more than 2^32 sequences: lower the weights");
    if (!(o->items = nm_calloc(o->count, sizeof *o->items))) return nm_fail_memory(o->count * sizeof *o->items);
    o->per_epoch = ((int64_t)o->count + g->batch - 1) / g->batch;
    o->steps = (int64_t)ceil(g->epochs * (double)o->per_epoch - 1e-9);
    if (g->max_steps > 0 && g->max_steps < o->steps) o->steps = g->max_steps;
    return NM_OK;
}

/* The recorded order: every sequence once. */
static nm_err plan_batches(nm_order *o)
{
    size_t n = o->d->n_entries;
    if (!(o->items = nm_calloc(n, sizeof *o->items))) return nm_fail_memory(n * sizeof *o->items);
    if (!(o->parts = nm_calloc(o->d->n_parts, sizeof *o->parts))) return nm_fail_memory(o->d->n_parts * sizeof *o->parts);
    for (size_t i = 0; i < n; i++) o->items[i] = (uint32_t)i;
    o->steps = o->per_epoch = (int64_t)o->d->n_steps;
    if (o->options.max_steps > 0 && o->options.max_steps < o->steps) o->steps = o->options.max_steps;
    return NM_OK;
}

nm_err nm_order_open(nm_order **out, const nm_dataset *dataset, const nm_order_options *options)
{
    *out = NULL;
    if (!options && !dataset->steps) return nm_fail(NM_USAGE, "an order of training needs a batch size and epochs");
    nm_order *o = nm_calloc(1, sizeof *o);
    if (!o) return nm_fail_memory(sizeof *o);
    *o = (nm_order){.d = dataset, .epoch = -1};
    if (options) o->options = *options;
    nm_err err = dataset->steps ? plan_batches(o) : plan_epochs(o);
    if (err != NM_OK) nm_order_close(&o);
    *out = o;
    return err;
}

void nm_order_close(nm_order **order)
{
    if (!*order) return;
    nm_free((*order)->items);
    nm_free((*order)->parts);
    nm_free(*order);
    *order = NULL;
}

int64_t nm_order_steps(const nm_order *o) { return o->steps; }
int64_t nm_order_steps_per_epoch(const nm_order *o) { return o->per_epoch; }

/* ---- Steps -------------------------------------------------------------------------------------------------------------------------------- */

static void batch_at(nm_order *o, size_t step, nm_order_step *out)
{
    const nm_dataset *d = o->d;
    uint32_t first_part = step ? d->steps[step - 1] : 0, first = first_part ? d->parts[first_part - 1] : 0;
    size_t n = d->steps[step] - first_part;
    for (size_t i = 0; i < n; i++) o->parts[i] = d->parts[first_part + i] - first;
    *out = (nm_order_step){.samples = o->items + first, .count = o->parts[n - 1], .parts = o->parts, .n_parts = n};
}

nm_err nm_order_step_at(nm_order *o, int64_t step, nm_order_step *out)
{
    *out = (nm_order_step){0};
    if (step < 0 || step >= o->steps) return nm_fail(NM_USAGE, "there is no step %lld: the order has %lld", (long long)step, (long long)o->steps);
    if (o->d->steps) {
        batch_at(o, (size_t)step, out);
        return NM_OK;
    }
    NM_TRY(make_epoch(o, step / o->per_epoch));
    size_t from = (size_t)(step % o->per_epoch) * (size_t)o->options.batch, left = o->count - from;
    out->samples = o->items + from;
    out->count = left < (size_t)o->options.batch ? left : (size_t)o->options.batch;
    return NM_OK;
}

size_t nm_order_pack(const nm_dataset *d, const uint32_t *samples, size_t count, int32_t max_rows)
{
    int64_t rows = 0;
    size_t n = 0;
    for (; n < count; n++) {
        rows += d->entries[samples[n]].count;
        if (n && rows > max_rows) break;
    }
    return n;
}
