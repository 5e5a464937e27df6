/* Binding the names that an architecture asks for to tensors of the file, and packing them. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/pool.h"
#include "model/model.h"

static nm_err bad_shape(const nm_gguf_tensor *t, int64_t n, int64_t k)
{
    if (k) return nm_fail(NM_BAD_FILE, "tensor %s is %lld x %lld (rank %d), expected %lld x %lld", t->name, (long long)t->dim[0], (long long)t->dim[1],
        t->rank, (long long)k, (long long)n);
    return nm_fail(NM_BAD_FILE, "tensor %s has %lld values, expected %lld", t->name, (long long)(t->dim[0] * t->dim[1]), (long long)n);
}

static nm_err check_shape(const nm_gguf_tensor *t, int64_t n, int64_t k)
{
    if (!t->type->to_float) return nm_fail(NM_BAD_FILE, "tensor %s holds %s, which are no weights", t->name, t->type->name);
    bool fits = k ? t->dim[0] == k && t->dim[1] == n && t->dim[2] == 1 && t->dim[3] == 1
                  : t->dim[2] == 1 && t->dim[3] == 1 && n % t->dim[0] == 0 && t->dim[1] == n / t->dim[0];
    return fits ? NM_OK : bad_shape(t, n, k);
}

static nm_err copy_vector(nm_model *m, const nm_gguf_tensor *t, nm_weight *w)
{
    NM_TRY(NM_GROW(m->vector, m->vector_capacity, m->vectors + 1));
    float *v = nm_calloc((size_t)w->n, sizeof *v);
    if (!v) return nm_fail_memory((size_t)w->n * sizeof *v);
    m->vector[m->vectors++] = v;
    w->vector = v;
    t->type->to_float(t->data, w->n, v);
    for (int64_t i = 0; i < w->n; i++)
        if (!__builtin_isfinite(v[i])) return nm_fail(NM_BAD_FILE, "tensor %s: value %lld is not finite", t->name, (long long)i);
    return NM_OK;
}

nm_err nm_model_bind(void *model, const char *name, int64_t n, int64_t k, bool optional, int32_t *id)
{
    nm_model *m = model;
    const nm_gguf_tensor *t = nm_gguf_tensor_find(m->gguf, name);
    *id = NM_NONE;
    if (!t) return optional ? NM_OK : nm_fail(NM_BAD_FILE, "the tensor %s is missing", name);
    NM_TRY(check_shape(t, n, k));
    NM_TRY(NM_GROW(m->weight, m->weight_capacity, m->weights + 1));
    nm_weight *w = &m->weight[m->weights];
    *w = (nm_weight){.id = (int32_t)m->weights, .n = n, .k = k, .name = nm_strndup(name, strlen(name))};
    if (!w->name) return nm_fail_memory(strlen(name));
    *id = (int32_t)m->weights++;
    m->bound[nm_gguf_tensor_index(m->gguf, t)] = true;
    if (!k) return copy_vector(m, t, w);
    uint64_t row_bytes;
    NM_TRY(nm_type_bytes(t->type, k, &row_bytes));
    w->panels = (nm_panels){.type = t->type, .n = n, .k = k, .panels = (n + NM_PANEL - 1) / NM_PANEL, .rows = t->data, .row_bytes = row_bytes};
    return NM_OK;
}

/* What a file may hold besides the weights of its language model. */
static bool may_stay_unread(const char *name)
{
    static const char *const whole[] = {
        "rope_freqs.weight",        /* read with the configuration; old files repeat there what the base gives */
        "cls.output.weight",        /* the extra head of rerankers */
    };
    static const char *const begins[] = {"v.", "mm."};      /* an image tower in the same file: its tokens cannot be given here */
    static const char end[] = ".attn_rot_embd.weight";      /* old Llama files: the frequencies that the base gives */
    size_t length = strlen(name);
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) if (strcmp(name, whole[i]) == 0) return true;
    for (size_t i = 0; i < sizeof begins / sizeof *begins; i++) if (strncmp(name, begins[i], strlen(begins[i])) == 0) return true;
    return length >= sizeof end && strcmp(name + length - (sizeof end - 1), end) == 0;
}

nm_err nm_model_check_bound(const nm_model *m)
{
    for (size_t i = 0; i < nm_gguf_tensor_count(m->gguf); i++) {
        const char *name = nm_gguf_tensor_at(m->gguf, i)->name;
        if (m->bound[i] || may_stay_unread(name)) continue;
        return nm_fail(NM_REFUSED, "the tensor %.80s has no place in the architecture \"%s\" as it is known here: without it every answer would be wrong",
            name, m->config.arch->name);
    }
    return NM_OK;
}

/* ---- Packing ------------------------------------------------------------------------------------------------------------------------ */

/* Weights that only embedding reads are looked up row by row: they stay in the file, where only the rows in use become resident. */
static bool is_multiplied(const nm_model *m, int32_t id)
{
    const nm_program *p = &m->program;
    for (size_t i = 0; i < p->steps; i++) {
        if (p->step[i].op != NM_OP_LINEAR) continue;
        if (nm_weight_of(p->operand, &p->step[i], 0) == id) return true;
    }
    return false;
}

/* The same tensor bound twice (a tied head): the first binding, which both use. */
static nm_weight *same_tensor(nm_model *m, const nm_weight *w)
{
    for (size_t i = 0; i < m->weights; i++)
        if (m->weight[i].k && m->weight[i].panels.rows == w->panels.rows) return &m->weight[i];
    return NULL;
}

typedef struct packer {
    nm_model *model;
    const nm_model_options *options;
    const size_t *place;            /* [weights]: offset of a weight's panels in model->packed, or UNPACKED */
    atomic_int_fast64_t ticket;     /* counts panels of the weight in work */
    atomic_int_fast64_t bad_row;    /* first row with a value that is not finite, or -1 */
    atomic_uint_fast64_t done, hash;
    uint64_t total;
    const nm_weight *bad;
    bool stopped;
} packer;

enum { PACK_GRAIN = 8 };
static const size_t UNPACKED = SIZE_MAX;

static void check_row(packer *p, const nm_panels *w, int64_t row)
{
    if (nm_type_finite(w->type, w->rows + (size_t)row * w->row_bytes, w->k)) return;
    int64_t first = atomic_load(&p->bad_row);
    while ((first < 0 || row < first) && !atomic_compare_exchange_weak(&p->bad_row, &first, row)) continue;
}

/* One panel: checked, hashed, and packed if there is a target. What it adds to the fingerprint is returned: panels are added up, so that it
 * does not matter which thread comes first. */
static uint64_t pack_panel(packer *p, const nm_weight *w, int64_t panel, uint8_t *target)
{
    const nm_panels *s = &w->panels;
    int64_t row = panel * NM_PANEL, end = row + NM_PANEL < s->n ? row + NM_PANEL : s->n;
    size_t bytes = (size_t)(end - row) * s->row_bytes;
    const uint8_t *rows = s->rows + (size_t)row * s->row_bytes;
    for (int64_t r = row; r < end; r++) check_row(p, s, r);
    if (target) nm_pack_panel(s->type, s->n, s->k, s->rows, s->row_bytes, panel, target + (size_t)panel * nm_pack_bytes(s->type, s->k));
    return nm_hash_wide(nm_hash_word((uint64_t)w->id, (uint64_t)panel), rows, bytes);
}

static void pack_weight(packer *p, const nm_weight *w, uint8_t *target)
{
    const nm_panels *s = &w->panels;
    for (int64_t from; (from = atomic_fetch_add(&p->ticket, PACK_GRAIN)) < s->panels;) {
        int64_t to = from + PACK_GRAIN < s->panels ? from + PACK_GRAIN : s->panels, end = to * NM_PANEL < s->n ? to * NM_PANEL : s->n;
        size_t bytes = (size_t)(end - from * NM_PANEL) * s->row_bytes;
        uint64_t hash = 0;
        for (int64_t i = from; i < to; i++) hash += pack_panel(p, w, i, target);
        nm_gguf_forget(p->model->gguf, s->rows + (size_t)(from * NM_PANEL) * s->row_bytes, bytes);
        atomic_fetch_add(&p->hash, hash);
        atomic_fetch_add(&p->done, bytes);
    }
}

static void pack_thread(void *arg, int thread, int threads)
{
    packer *p = arg;
    for (size_t i = 0; i < p->model->weights; i++) {
        nm_weight *w = &p->model->weight[i];
        if (!w->k || same_tensor(p->model, w) != w) continue;
        pack_weight(p, w, p->place[i] == UNPACKED ? NULL : p->model->packed + p->place[i]);
        nm_pool_barrier();
        if (thread == 0) {
            /* Once more as a whole: a fault maps the file's pages around it too, those that another thread has let go included. */
            nm_gguf_forget(p->model->gguf, w->panels.rows, (size_t)w->n * w->panels.row_bytes);
            atomic_store(&p->ticket, 0);
            if (!p->bad && atomic_load(&p->bad_row) >= 0) p->bad = w;
            if (p->options && p->options->progress) p->stopped = p->options->progress(p->options->progress_arg, atomic_load(&p->done), p->total);
        }
        nm_pool_barrier();
        if (p->bad || p->stopped) return;
    }
}

/* Some map of the program multiplies by this tensor, perhaps under another id. */
static bool wants_panels(const nm_model *m, const nm_weight *w)
{
    for (size_t i = 0; i < m->weights; i++)
        if (m->weight[i].k && m->weight[i].panels.rows == w->panels.rows && is_multiplied(m, m->weight[i].id)) return true;
    return false;
}

/* Chooses what gets packed and where in the one block; returns its size. */
static size_t lay_out(nm_model *m, size_t *place)
{
    size_t total = 0;
    for (size_t i = 0; i < m->weights; i++) {
        nm_weight *w = &m->weight[i];
        place[i] = UNPACKED;
        if (!w->k || m->no_pack || same_tensor(m, w) != w || !wants_panels(m, w)) continue;
        if (!(w->panels.panel_bytes = nm_pack_bytes(w->panels.type, w->k))) continue;
        place[i] = total;
        total += w->panels.panel_bytes * (size_t)w->panels.panels;
    }
    return total;
}

/* Panels take the place of the file's rows, first for the bindings that own them, then for those that share them. */
static void adopt(nm_model *m, const size_t *place)
{
    for (size_t i = 0; i < m->weights; i++)
        if (place[i] != UNPACKED) m->weight[i].panels.data = m->packed + place[i];
    for (size_t i = 0; i < m->weights; i++)
        if (m->weight[i].k) m->weight[i].panels = same_tensor(m, &m->weight[i])->panels;
    for (size_t i = 0; i < m->weights; i++)
        if (m->weight[i].panels.data) m->weight[i].panels.rows = NULL;
}

static nm_err run_packer(nm_model *m, packer *p)
{
    for (size_t i = 0; i < m->weights; i++)
        if (m->weight[i].k && same_tensor(m, &m->weight[i]) == &m->weight[i]) p->total += (uint64_t)m->weight[i].n * m->weight[i].panels.row_bytes;
    atomic_store(&p->bad_row, -1);
    NM_TRY(nm_pool_run(pack_thread, p));
    if (p->bad) return nm_fail(NM_BAD_FILE, "tensor %s: row %lld holds a value or scale that is not finite", p->bad->name, (long long)atomic_load(&p->bad_row));
    m->maps_hash = atomic_load(&p->hash);
    return p->stopped ? nm_fail(NM_INTERRUPTED, "interrupted while the weights were made ready") : NM_OK;
}

nm_err nm_model_pack(nm_model *m, const nm_model_options *options)
{
    size_t *place = nm_calloc(m->weights, sizeof *place);
    if (!place) return nm_fail_memory(m->weights * sizeof *place);
    m->no_pack = options && options->no_pack;
    nm_err err = NM_OK;
    size_t total = lay_out(m, place);
    if (total && !(m->packed = nm_alloc_aligned(total))) err = nm_fail_memory(total);
    m->packed_bytes = m->packed ? total : 0;
    if (err == NM_OK) {
        packer p = {.model = m, .options = options, .place = place};
        err = run_packer(m, &p);
    }
    if (err == NM_OK) adopt(m, place);
    nm_free(place);
    return err;
}

/* ---- Identity -------------------------------------------------------------------------------------------------------------------------- */

/* What the architecture does with the weights: heads, scales, windows, and the tables of rotation. */
static uint64_t hash_config(uint64_t h, const nm_model *m)
{
    const nm_config *c = &m->config;
    const int32_t heads[] = {c->heads, c->heads_kv, c->d_k, c->d_v, c->parallel};
    const float scalars[] = {c->eps, c->attention_scale, c->attention_cap, c->logit_cap, c->embedding_scale, c->residual_scale, c->logit_scale};
    h = nm_hash(h, c->arch->name, strlen(c->arch->name));
    h = nm_hash(h, heads, sizeof heads);
    h = nm_hash(h, scalars, sizeof scalars);
    h = nm_hash(h, m->program.window, sizeof m->program.window);
    h = nm_hash(h, c->slides, sizeof c->slides);
    for (size_t i = 0; i < m->program.steps; i++) {
        const nm_step *s = &m->program.step[i];
        if (s->op != NM_OP_ROPE_TABLE) continue;
        h = nm_hash(h, s->args.table.frequency, (size_t)s->args.table.pairs * sizeof(float));
        h = nm_hash(h, &s->args.table.magnitude, sizeof s->args.table.magnitude);
    }
    return h;
}

uint64_t nm_model_fingerprint(const nm_model *m)
{
    uint64_t h = nm_hash_word(hash_config(0, m), m->maps_hash);
    for (size_t i = 0; i < m->weights; i++) {
        const nm_weight *w = &m->weight[i];
        h = nm_hash(h, w->name, strlen(w->name) + 1);
        h = nm_hash(h, &w->n, sizeof w->n);
        h = nm_hash(h, &w->k, sizeof w->k);
        if (w->vector) h = nm_hash(h, w->vector, (size_t)w->n * sizeof *w->vector);
        else h = nm_hash(h, &w->panels.type->id, sizeof w->panels.type->id);
    }
    return h;
}
