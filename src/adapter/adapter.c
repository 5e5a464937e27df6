/* Adapters that are open against a model, and stacks of them: names become weight ids, half maps become panels, once and for all; a stack
 * is two short arrays. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapter/dora.h"
#include "adapter/lora.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/pool.h"

typedef struct changed {        /* a map of the model that an adapter changes */
    int32_t weight;
    nm_slot slot;
    float *m;                   /* DoRA's magnitudes [n], or NULL */
    nm_dora_sums sums;          /* in one block of memory, which is sums.w */
} changed;

struct nm_adapter {
    const nm_model *model;
    nm_adapter_info info;
    char *path, *base, base_type[16], prompt_format[16];
    changed *map;               /* [info.n_maps], by ascending weight */
    uint64_t hash;
    uint8_t *memory;            /* of all slots' panels and rows */
    size_t bytes;               /* of memory */
};

/* ---- Which weight a pair means ------------------------------------------------------------------------------------------------------------ */

/* Embedding and head have ids of their own, tied or not: what counts is how a step uses the weight. */
static bool means(const nm_model *m, const nm_step *s, const nm_pair *p)
{
    const char *name = m->weight[nm_weight_of(m->program.operand, s, 0)].name;
    size_t n = strlen(p->name);
    if (s->op == NM_OP_EMBED) return p->embedding && !strcmp(p->name, s->args.embed.positions ? "position_embd" : "token_embd");
    if (s->op != NM_OP_LINEAR || p->embedding) return false;
    if (!strcmp(p->name, "output") && !strcmp(name, "token_embd.weight")) return true;
    return !strncmp(name, p->name, n) && !strcmp(name + n, ".weight");
}

static const nm_weight *weight_of(const nm_model *m, const nm_pair *p)
{
    for (size_t i = 0; i < m->program.steps; i++)
        if (m->program.step[i].n_weight && means(m, &m->program.step[i], p))
            return &m->weight[nm_weight_of(m->program.operand, &m->program.step[i], 0)];
    return NULL;
}

/* A weight is [n outputs, k inputs]; a table that is looked up [n entries, k columns]. */
static nm_err check_shape(const nm_lora *l, const nm_pair *p, const nm_weight *w)
{
    int64_t in = p->embedding ? w->n : w->k, out = p->embedding ? w->k : w->n;
    if (p->in == in && p->out == out) return NM_OK;
    return nm_fail(NM_BAD_FILE, "%s: %.120s: the adapter maps %lld to %lld, and the model's %s %lld to %lld: it belongs to another model", l->path, p->name,
                   (long long)p->in, (long long)p->out, w->name, (long long)in, (long long)out);
}

/* ---- Panels --------------------------------------------------------------------------------------------------------------------------------- */

/* The smallest float type that holds the values exactly: what a file kept in 16 bits is half as much to read for each token. */
static const nm_type *exact_type(const float *values, int64_t count)
{
    enum { AT_ONCE = 256 };
    static const nm_dtype small[] = {NM_F16, NM_BF16};
    for (size_t t = 0; t < sizeof small / sizeof *small; t++) {
        const nm_type *type = nm_type_of(small[t]);
        bool exact = true;
        for (int64_t i = 0, n; exact && i < count; i += n) {
            uint8_t narrow[AT_ONCE * 2];
            float back[AT_ONCE];
            n = count - i < AT_ONCE ? count - i : AT_ONCE;
            type->from_float(values + i, n, narrow);
            type->to_float(narrow, n, back);
            exact = !memcmp(back, values + i, (size_t)n * sizeof *back);
        }
        if (exact) return type;
    }
    return nm_type_of(NM_F32);
}

static nm_panels panels_of(const nm_type *type, int64_t n, int64_t k)
{
    return (nm_panels){.type = type, .n = n, .k = k, .panels = (n + NM_PANEL - 1) / NM_PANEL, .panel_bytes = nm_pack_bytes(type, k)};
}

static size_t round64(size_t n) { return (n + 63) & ~(size_t)63; }
static size_t panels_bytes(const nm_panels *p) { return p->panel_bytes * (size_t)p->panels; }
static size_t rows_bytes(const nm_pair *p) { return (size_t)(p->in * p->rank) * sizeof *p->a; }

/* The slot without its memory. An embedding's halves are F32, as its op reads them. */
static nm_slot slot_of(const nm_pair *p)
{
    const nm_type *f32 = nm_type_of(NM_F32);
    nm_slot s = {.b = panels_of(p->embedding ? f32 : exact_type(p->b, p->out * p->rank), p->out, p->rank), .scale = p->scale};
    if (p->embedding)
        s.a = (nm_panels){.type = f32, .n = p->in, .k = p->rank, .panels = (p->in + NM_PANEL - 1) / NM_PANEL, .row_bytes = (size_t)p->rank * sizeof *p->a};
    else s.a = panels_of(exact_type(p->a, p->rank * p->in), p->rank, p->in);
    return s;
}

static size_t slot_bytes(const nm_pair *p, const nm_slot *s) { return (p->embedding ? round64(rows_bytes(p)) : panels_bytes(&s->a)) + panels_bytes(&s->b); }

static nm_err pack(nm_panels *panels, const float *values, uint8_t **memory)
{
    size_t row = (size_t)panels->k * (size_t)panels->type->bytes;
    uint8_t *rows = nm_calloc((size_t)panels->n, row);
    if (!rows) return nm_fail_memory((size_t)panels->n * row);
    panels->type->from_float(values, panels->n * panels->k, rows);
    panels->data = *memory;
    for (int64_t i = 0; i < panels->panels; i++)
        nm_pack_panel(panels->type, panels->n, panels->k, rows, row, i, *memory + (size_t)i * panels->panel_bytes);
    *memory += panels_bytes(panels);
    nm_free(rows);
    return NM_OK;
}

static nm_err fill_slot(nm_slot *s, const nm_pair *p, uint8_t **memory)
{
    if (!p->embedding) {
        NM_TRY(pack(&s->a, p->a, memory));
        return pack(&s->b, p->b, memory);
    }
    s->a.rows = *memory;
    memcpy(*memory, p->a, rows_bytes(p));
    *memory += round64(rows_bytes(p));
    return pack(&s->b, p->b, memory);
}

/* ---- Lengths of rows (DoRA) ------------------------------------------------------------------------------------------------------------------ */

typedef struct lengths { nm_adapter *adapter; const nm_lora *lora; atomic_int_fast64_t ticket; uint8_t *scratch; size_t each; } lengths;

static void find_lengths(void *arg, int thread, int threads)
{
    lengths *j = arg;
    for (int64_t i; (i = atomic_fetch_add(&j->ticket, 1)) < (int64_t)j->lora->pairs;) {
        const nm_pair *p = &j->lora->pair[i];
        const changed *c = &j->adapter->map[i];
        if (!p->m) continue;
        nm_dora_map map = {.w = &j->adapter->model->weight[c->weight].panels, .rank = p->rank, .a = p->a, .b = p->b};
        nm_dora_sum(&map, &c->sums, j->scratch + (size_t)thread * j->each);
    }
}

/* Magnitudes and sums of the pairs that have them; maps stand in the pairs' order still. A map is one thread's. */
static nm_err make_lengths(nm_adapter *a, const nm_lora *l)
{
    lengths j = {.adapter = a, .lora = l};
    bool any = false;
    for (size_t i = 0; i < l->pairs; i++) {
        const nm_pair *p = &l->pair[i];
        changed *c = &a->map[i];
        size_t n = (size_t)p->out, scratch = (nm_dora_scratch(&a->model->weight[c->weight].panels) + 63) & ~(size_t)63;
        if (!p->m) continue;
        c->m = nm_calloc(n, sizeof *c->m);
        c->sums.w = nm_calloc(3 * n, sizeof *c->sums.w);
        if (!c->m || !c->sums.w) return nm_fail_memory(4 * n * sizeof *c->sums.w);
        c->sums.wb = c->sums.w + n;
        c->sums.bb = c->sums.wb + n;
        memcpy(c->m, p->m, n * sizeof *c->m);
        if (scratch > j.each) j.each = scratch;
        any = true;
    }
    if (!any) return NM_OK;
    size_t bytes = j.each * (size_t)nm_threads();
    if (!(j.scratch = nm_alloc_aligned(bytes))) return nm_fail_memory(bytes);
    nm_err err = nm_pool_run(find_lengths, &j);
    nm_free_aligned(j.scratch, bytes);
    return err;
}

/* Lengths of a map's rows where the sums do not tell them: from its half maps. */
static nm_err lengths_directly(const nm_panels *w, const nm_slot *s, float *length)
{
    int64_t rank = s->a.n;
    size_t scratch = nm_dora_scratch(w);
    float *a = nm_calloc((size_t)rank, (size_t)w->k * sizeof *a), *b = nm_calloc((size_t)rank, (size_t)w->n * sizeof *b);
    void *own = nm_alloc_aligned(scratch);
    nm_err err = a && b && own ? NM_OK : nm_fail_memory((size_t)rank * (size_t)(w->k + w->n) * sizeof *a);
    for (int64_t r = 0; err == NM_OK && r < rank; r++) nm_panels_row(&s->a, r, a + r * w->k);
    for (int64_t n = 0; err == NM_OK && n < w->n; n++) nm_panels_row(&s->b, n, b + n * rank);
    if (err == NM_OK) nm_dora_lengths(&(nm_dora_map){.w = w, .rank = rank, .a = a, .b = b}, s->scale, length, own);
    nm_free(a);
    nm_free(b);
    nm_free_aligned(own, scratch);
    return err;
}

/* gain[n] = m / |W + s B A|, for the slot's scale. */
static nm_err make_gain(const nm_adapter *a, const changed *c, const nm_slot *s, float *gain)
{
    const nm_weight *w = &a->model->weight[c->weight];
    if (nm_dora_lengths_of(&c->sums, s->scale, w->n, gain)) NM_TRY(lengths_directly(&w->panels, s, gain));
    bool bad = false;
    for (int64_t n = 0; n < w->n; n++) bad |= !(gain[n] > 0 && gain[n] < INFINITY);
    if (bad) return nm_fail(NM_BAD_FILE, "%s: %s: a row of the base with the adapter has no length, and DoRA divides by it: the adapter does not fit this base", a->path, w->name);
    for (int64_t n = 0; n < w->n; n++) gain[n] = c->m[n] / gain[n];
    return NM_OK;
}

/* ---- Opening -------------------------------------------------------------------------------------------------------------------------------- */

static int by_weight(const void *a, const void *b) { return ((const changed *)a)->weight - ((const changed *)b)->weight; }

static nm_err find_weights(nm_adapter *a, const nm_lora *l)
{
    for (size_t i = 0; i < l->pairs; i++) {
        const nm_weight *w = weight_of(a->model, &l->pair[i]);
        if (!w) return nm_fail(NM_BAD_FILE, "%s: the adapter changes %.120s, which the model does not have: it belongs to another model", l->path, l->pair[i].name);
        NM_TRY(check_shape(l, &l->pair[i], w));
        a->map[i].weight = w->id;
    }
    return NM_OK;
}

static nm_err make_slots(nm_adapter *a, const nm_lora *l)
{
    for (size_t i = 0; i < l->pairs; i++) {
        a->map[i].slot = slot_of(&l->pair[i]);
        a->bytes += slot_bytes(&l->pair[i], &a->map[i].slot);
    }
    if (!(a->memory = nm_alloc_aligned(a->bytes))) return nm_fail_memory(a->bytes);
    a->info.bytes = a->bytes;
    uint8_t *at = a->memory;
    for (size_t i = 0; i < l->pairs; i++) {
        const nm_pair *p = &l->pair[i];
        NM_TRY(fill_slot(&a->map[i].slot, p, &at));
        a->info.n_parameters += (uint64_t)(p->rank * (p->in + p->out) + (p->m ? p->out : 0));
        if (p->m) a->info.bytes += (uint64_t)p->out * (sizeof *p->m + 3 * sizeof *a->map->sums.w);
        if (p->rank > a->info.max_rank) a->info.max_rank = (int32_t)p->rank;
    }
    NM_TRY(make_lengths(a, l));
    qsort(a->map, l->pairs, sizeof *a->map, by_weight);
    return NM_OK;
}

static nm_err build(nm_adapter *a, nm_lora *l, bool force)
{
    NM_TRY(nm_lora_to_gguf(l, &a->model->config));
    if (!(a->map = nm_calloc(l->pairs, sizeof *a->map))) return nm_fail_memory(l->pairs * sizeof *a->map);
    a->info.n_maps = (int32_t)l->pairs;
    NM_TRY(find_weights(a, l));
    nm_err err = nm_identity_match(&l->identity, a->model, force, &a->info.match, &a->info.correlation);
    if (err != NM_OK) return err == NM_REFUSED ? nm_fail_in(err, l->path) : err;
    NM_TRY(make_slots(a, l));
    a->hash = nm_lora_hash(l);
    snprintf(a->info.hash, sizeof a->info.hash, "%016llx", (unsigned long long)a->hash);
    return NM_OK;
}

static nm_err describe(nm_adapter *a, const nm_lora *l, const char *path)
{
    a->path = nm_strndup(path, strlen(path));
    a->base = nm_strndup(l->base, strlen(l->base));
    if (!a->path || !a->base) return nm_fail_memory(strlen(path));
    a->info.path = a->path;
    a->info.base = a->base;
    a->info.format = l->format;
    memcpy(a->base_type, l->identity.type, sizeof a->base_type);
    a->info.base_type = a->base_type;
    memcpy(a->prompt_format, l->prompt_format, sizeof a->prompt_format);
    a->info.prompt_format = a->prompt_format;
    return NM_OK;
}

static nm_err make(nm_adapter **out, const nm_model *model, nm_lora *l, const char *path, bool force)
{
    *out = NULL;
    if (!model->info.has_weights) return nm_fail(NM_USAGE, "%s: opened for its metadata only", model->name);
    nm_adapter *a = nm_calloc(1, sizeof *a);
    if (!a) return nm_fail_memory(sizeof *a);
    a->model = model;
    nm_err err = describe(a, l, path);
    if (err == NM_OK) err = build(a, l, force);
    if (err != NM_OK) nm_adapter_close(&a);
    *out = a;
    return err;
}

nm_err nm_adapter_make(nm_adapter **out, const nm_model *model, nm_lora *lora) { return make(out, model, lora, lora->path, false); }

nm_err nm_adapter_open(nm_adapter **out, const nm_model *model, const char *path, bool force)
{
    nm_lora l;
    *out = NULL;
    NM_TRY(nm_lora_read(&l, path));
    nm_err err = make(out, model, &l, path, force);
    nm_lora_free(&l);
    return err;
}

void nm_adapter_close(nm_adapter **adapter)
{
    nm_adapter *a = *adapter;
    *adapter = NULL;
    if (!a) return;
    for (int32_t i = 0; a->map && i < a->info.n_maps; i++) {
        nm_free(a->map[i].m);
        nm_free(a->map[i].sums.w);
    }
    nm_free_aligned(a->memory, a->bytes);
    nm_free(a->map);
    nm_free(a->path);
    nm_free(a->base);
    nm_free(a);
}

const nm_adapter_info *nm_adapter_describe(const nm_adapter *a) { return &a->info; }

/* ---- Stacks --------------------------------------------------------------------------------------------------------------------------------- */

typedef struct owned_stack {    /* what a stack's pointers point to */
    nm_stack stack;             /* first: an nm_stack is one of these */
    int32_t *first;
    nm_slot *slot;
    float *gain;                /* of all slots that have one */
} owned_stack;

typedef struct origin { const nm_adapter *adapter; const changed *map; } origin;      /* of a slot */

static nm_err check_adapters(const nm_model *model, const nm_adapter *const *adapters, const float *scales, size_t count, size_t *slots)
{
    *slots = 0;
    for (size_t i = 0; i < count; i++) {
        if (adapters[i]->model != model) return nm_fail(NM_USAGE, "%s was opened against another model than the stack's", adapters[i]->path);
        if (!isfinite(scales[i])) return nm_fail(NM_USAGE, "%s: a scale of %g makes no sense", adapters[i]->path, (double)scales[i]);
        *slots += (size_t)adapters[i]->info.n_maps;
    }
    return *slots <= INT32_MAX ? NM_OK : nm_fail(NM_USAGE, "a stack of %zu maps is too large", *slots);
}

/* Slots by weight, and for each weight in the order of the adapters. first[w + 1] counts w's slots, then w's end; while they are filled
 * it is where the next one goes. */
static void fill(owned_stack *s, const nm_model *model, const nm_adapter *const *adapters, const float *scales, size_t count, origin *from)
{
    for (size_t i = 0; i < count; i++)
        for (int32_t k = 0; k < adapters[i]->info.n_maps; k++) s->first[adapters[i]->map[k].weight + 1]++;
    for (size_t w = 0; w <= model->weights; w++) s->first[w + 1] += s->first[w];
    for (size_t i = count; i-- > 0;)        /* from the back, so that ends become beginnings */
        for (int32_t k = adapters[i]->info.n_maps; k-- > 0;) {
            nm_slot *slot = &s->slot[--s->first[adapters[i]->map[k].weight + 1]];
            *slot = adapters[i]->map[k].slot;
            slot->scale *= scales[i];
            from[slot - s->slot] = (origin){adapters[i], &adapters[i]->map[k]};
        }
}

/* Gains of the slots of DoRA's kind. Those whose scale is 0 are skipped in running, and have none. */
static nm_err fill_gains(owned_stack *s, const origin *from, size_t slots)
{
    size_t room = 0;
    for (size_t i = 0; i < slots; i++) if (from[i].map->m) room += (size_t)s->slot[i].b.n;
    if (!room) return NM_OK;
    float *at = s->gain = nm_malloc(room * sizeof *s->gain);
    if (!at) return nm_fail_memory(room * sizeof *at);
    for (size_t i = 0; i < slots; i++) {
        if (!from[i].map->m || s->slot[i].scale == 0) continue;
        NM_TRY(make_gain(from[i].adapter, from[i].map, &s->slot[i], at));
        s->slot[i].gain = at;
        at += s->slot[i].b.n;
        s->stack.gains = true;
    }
    return NM_OK;
}

static uint64_t identity_of(const nm_adapter *const *adapters, const float *scales, size_t count)
{
    uint64_t h = 0;
    for (size_t i = 0; i < count; i++) {
        h = nm_hash(h, &adapters[i]->hash, sizeof adapters[i]->hash);
        h = nm_hash(h, &scales[i], sizeof scales[i]);
    }
    return h;
}

static nm_err build_stack(owned_stack *s, const nm_model *model, const nm_adapter *const *adapters, const float *scales, size_t count, size_t slots)
{
    origin *from = nm_calloc(slots, sizeof *from);
    s->first = nm_calloc(model->weights + 2, sizeof *s->first);
    s->slot = nm_calloc(slots, sizeof *s->slot);
    nm_err err = from && s->first && s->slot ? NM_OK : nm_fail_memory(slots * sizeof *s->slot);
    if (err == NM_OK) {
        fill(s, model, adapters, scales, count, from);
        s->stack = (nm_stack){.first = s->first + 1, .slot = s->slot, .owner = model, .identity = identity_of(adapters, scales, count)};
        s->stack.max_rank = nm_stack_rank(&s->stack, model->weights);
        err = fill_gains(s, from, slots);
    }
    nm_free(from);
    return err;
}

nm_err nm_stack_open(nm_stack **out, const nm_model *model, const nm_adapter *const *adapters, const float *scales, size_t count)
{
    size_t slots;
    *out = NULL;
    NM_TRY(check_adapters(model, adapters, scales, count, &slots));
    owned_stack *s = nm_calloc(1, sizeof *s);
    if (!s) return nm_fail_memory(sizeof *s);
    nm_err err = build_stack(s, model, adapters, scales, count, slots);
    nm_stack *made = &s->stack;
    if (err != NM_OK) nm_stack_close(&made);
    *out = made;
    return err;
}

void nm_stack_close(nm_stack **stack)
{
    owned_stack *s = (owned_stack *)*stack;
    *stack = NULL;
    if (!s) return;
    nm_free(s->first);
    nm_free(s->slot);
    nm_free(s->gain);
    nm_free(s);
}
