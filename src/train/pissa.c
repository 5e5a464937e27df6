/* PiSSA: the start of the halves, and the stack that subtracts it. Maps are handed out to threads; each map is one thread's. */
#include "train/pissa.h"

#include <math.h>
#include <string.h>

#include "base/cancel.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/pool.h"

/* ---- The triplets ------------------------------------------------------------------------------------------------------------------------------ */

typedef struct starting {
    nm_train_lora *lora;
    float scale;
    atomic_int_fast64_t ticket;
    uint8_t *scratch;           /* [threads][bytes] */
    size_t bytes;               /* most_bytes */
    const volatile sig_atomic_t *cancel;
} starting;

static size_t round64(size_t n) { return (n + 63) & ~(size_t)63; }

static size_t start_bytes(const nm_train_lora *l, const nm_train_map *m)
{
    size_t halves = (size_t)m->rank * (size_t)(m->n + m->k + 1) * sizeof(float);
    return round64(halves) + nm_triplets_bytes(&l->model->weight[m->weight].panels, m->rank);
}

static void start_map(const starting *t, const nm_train_map *m, uint8_t *scratch)
{
    int64_t rank = m->rank;
    float *u = (float *)scratch, *v = u + rank * m->n, *s = v + rank * m->k, *a = t->lora->p + m->at, *b = a + rank * m->k;
    nm_triplets(&t->lora->model->weight[m->weight].panels, rank, scratch + round64((size_t)rank * (size_t)(m->n + m->k + 1) * sizeof(float)), u, s, v);
    for (int64_t r = 0; r < rank; r++) {
        float root = sqrtf(s[r] / t->scale);
        for (int64_t i = 0; i < m->k; i++) a[r * m->k + i] = root * v[i * rank + r];
        for (int64_t i = 0; i < m->n; i++) b[r * m->n + i] = root * u[i * rank + r];
    }
}

static void start_maps(void *arg, int thread, int threads)
{
    starting *t = arg;
    for (int64_t i; !nm_cancelled(t->cancel) && (i = atomic_fetch_add(&t->ticket, 1)) < (int64_t)t->lora->maps;)
        start_map(t, &t->lora->map[i], t->scratch + (size_t)thread * t->bytes);
}

static size_t most_bytes(const nm_train_lora *l)
{
    size_t most = 0;
    for (size_t i = 0; i < l->maps; i++) {
        size_t bytes = round64(start_bytes(l, &l->map[i]));
        if (bytes > most) most = bytes;
    }
    return most;
}

size_t nm_pissa_scratch(const nm_train_lora *l) { return most_bytes(l) * (size_t)nm_threads(); }

static nm_err start(nm_train_lora *l, float scale, const volatile sig_atomic_t *cancel)
{
    starting t = {.lora = l, .scale = scale, .cancel = cancel, .bytes = most_bytes(l)};
    size_t all = nm_pissa_scratch(l);
    if (!(t.scratch = nm_alloc_aligned(all))) return nm_fail_memory(all);
    nm_err err = nm_pool_run(start_maps, &t);
    nm_free_aligned(t.scratch, all);
    if (err == NM_OK && nm_cancelled(cancel)) err = nm_fail(NM_INTERRUPTED, "interrupted");
    return err == NM_OK ? nm_train_lora_derive(l) : err;
}

/* ---- The stack -------------------------------------------------------------------------------------------------------------------------------------- */

static nm_panels panels_of(int64_t n, int64_t k)
{
    const nm_type *f32 = nm_type_of(NM_F32);
    return (nm_panels){.type = f32, .n = n, .k = k, .panels = (n + NM_PANEL - 1) / NM_PANEL, .panel_bytes = nm_pack_bytes(f32, k)};
}

static size_t bytes_of(const nm_panels *p) { return p->panel_bytes * (size_t)p->panels; }

static void pack(nm_panels *p, const float *values, uint8_t **memory)
{
    p->data = *memory;
    for (int64_t i = 0; i < p->panels; i++) nm_pack_panel(p->type, p->n, p->k, (const uint8_t *)values, (size_t)p->k * sizeof *values, i, *memory + (size_t)i * p->panel_bytes);
    *memory += bytes_of(p);
}

/* All but the panels' memory. */
static nm_err allocate(nm_pissa *p, const nm_train_lora *l, const nm_stack *below)
{
    size_t slots = l->maps + (below ? (size_t)below->first[l->model->weights] : 0);
    for (size_t i = 0; i < l->maps; i++) {
        nm_panels a = panels_of(l->map[i].rank, l->map[i].k), b = panels_of(l->map[i].n, l->map[i].rank);
        p->bytes += bytes_of(&a) + bytes_of(&b);
    }
    p->first = nm_calloc(l->model->weights + 1, sizeof *p->first);
    p->slot = nm_calloc(slots, sizeof *p->slot);
    return p->first && p->slot ? NM_OK : nm_fail_memory(slots * sizeof *p->slot);
}

/* Each weight's slots below, then what is subtracted of it. Maps lie by ascending weight. */
static void fill(nm_pissa *p, const nm_train_lora *l, float scale, const nm_stack *below)
{
    int32_t slots = 0;
    for (size_t w = 0, map = 0; w < l->model->weights; w++) {
        p->first[w] = slots;
        for (int32_t i = below ? below->first[w] : 0; below && i < below->first[w + 1]; i++) p->slot[slots++] = below->slot[i];
        if (map == l->maps || l->map[map].weight != (int32_t)w) continue;
        const nm_train_map *m = &l->map[map++];
        p->slot[slots++] = (nm_slot){.a = panels_of(m->rank, m->k), .b = panels_of(m->n, m->rank), .scale = -scale};
    }
    p->first[l->model->weights] = slots;
}

nm_err nm_pissa_list(nm_pissa *p, const nm_train_lora *l, float scale, const nm_stack *below)
{
    *p = (nm_pissa){0};
    if (!(scale > 0)) return nm_fail(NM_USAGE, "PiSSA begins at the model's own values: a scale of %g makes no sense", (double)scale);
    nm_err err = allocate(p, l, below);
    if (err != NM_OK) {
        nm_pissa_close(p);
        return err;
    }
    fill(p, l, scale, below);
    if (below) p->stack = *below;
    p->stack.first = p->first;
    p->stack.slot = p->slot;
    p->stack.owner = l->model;
    p->stack.identity = 0;
    p->stack.max_rank = nm_stack_rank(&p->stack, l->model->weights);
    return NM_OK;
}

/* The values that the halves begin with, as what is subtracted. */
static nm_err keep_start(nm_pissa *p, const nm_train_lora *l)
{
    uint8_t *at = p->memory = nm_alloc_aligned(p->bytes);
    if (!at) return nm_fail_memory(p->bytes);
    for (size_t i = 0; i < l->maps; i++) {
        int32_t w = l->map[i].weight;
        nm_slot *slot = &p->slot[p->first[w + 1] - 1];
        pack(&slot->a, l->slot[w].a, &at);
        pack(&slot->b, l->slot[w].b, &at);
    }
    return NM_OK;
}

nm_err nm_pissa_open(nm_pissa *p, nm_train_lora *l, float scale, const nm_stack *below, const volatile sig_atomic_t *cancel)
{
    NM_TRY(nm_pissa_list(p, l, scale, below));
    nm_err err = start(l, scale, cancel);
    if (err == NM_OK) err = keep_start(p, l);
    if (err != NM_OK) nm_pissa_close(p);
    return err;
}

void nm_pissa_close(nm_pissa *p)
{
    nm_free_aligned(p->memory, p->bytes);
    nm_free(p->first);
    nm_free(p->slot);
    *p = (nm_pissa){0};
}

const nm_slot *nm_pissa_slot(const nm_pissa *p, int32_t weight) { return &p->slot[p->first[weight + 1] - 1]; }
