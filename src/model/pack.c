/* Panels of a model's maps: taken as they are kept in the cache folder (format/packs.h), or made on the compute pool, and then kept for the next start. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/pool.h"
#include "model/model.h"

/* ---- Making -------------------------------------------------------------------------------------------------------------------------- */

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
    atomic_uint_fast64_t *sum;      /* [weights]: of its panels (nm_packfile_sum); NULL if they are not to be kept */
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
    if (target) nm_pack_panel(s->type, s->n, s->k, s->rows, s->row_bytes, panel, target + (size_t)panel * s->panel_bytes);
    if (target && p->sum) atomic_fetch_add(&p->sum[w->id], nm_packfile_sum((uint64_t)panel, target + (size_t)panel * s->panel_bytes, s->panel_bytes));
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
static void adopt(nm_model *m, const uint8_t *panels, const size_t *place)
{
    for (size_t i = 0; i < m->weights; i++)
        if (place[i] != UNPACKED) m->weight[i].panels.data = panels + place[i];
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

/* Makes `bytes` of panels in memory. */
static nm_err make_panels(nm_model *m, const nm_model_options *options, const size_t *place, size_t bytes, atomic_uint_fast64_t *sum)
{
    packer p = {.model = m, .options = options, .place = place, .sum = sum};
    if (bytes && !(m->packed = nm_alloc_aligned(bytes))) return nm_fail_memory(bytes);
    NM_TRY(run_packer(m, &p));
    adopt(m, m->packed, place);
    return NM_OK;
}

/* ---- Keeping -------------------------------------------------------------------------------------------------------------------------- */

/* What a pack of this model must say of itself. */
typedef struct wanted {
    nm_packfile_head head;
    uint64_t *word;
    nm_packfile_tensor *tensor;
    char *path;
    uint64_t key;                   /* names the pack in the folder; what it says decides */
} wanted;

static void free_wanted(wanted *w)
{
    nm_free(w->word);
    nm_free(w->tensor);
    nm_free(w->path);
}

static nm_err list_tensors(wanted *w, const nm_model *m, const size_t *place)
{
    w->tensor = nm_calloc(m->weights, sizeof *w->tensor);
    if (!w->tensor) return nm_fail_memory(m->weights * sizeof *w->tensor);
    for (size_t i = 0; i < m->weights; i++) {
        const nm_panels *p = &m->weight[i].panels;
        if (place[i] == UNPACKED) continue;
        w->tensor[w->head.tensors++] = (nm_packfile_tensor){.name = nm_hash(0, m->weight[i].name, strlen(m->weight[i].name)), .type = (uint64_t)p->type->id,
            .n = p->n, .k = p->k, .bytes = p->panel_bytes * (uint64_t)p->panels, .unit = p->panel_bytes};
    }
    return NM_OK;
}

/* head.words stays 0 where nothing says what the weights come from: such a model is not kept. */
static nm_err describe_wanted(wanted *w, const nm_model *m, const size_t *place)
{
    size_t words;
    NM_TRY(nm_gguf_identity(m->gguf, &w->word, &words));
    if (!words) return NM_OK;
    NM_TRY(list_tensors(w, m, place));
    char *path = realpath(nm_gguf_name(m->gguf), NULL);
    w->path = path ? nm_strndup(path, strlen(path)) : nm_strndup("", 0);
    free(path);
    if (!w->path) return nm_fail_memory(0);
    w->head.path_bytes = strlen(w->path) + 1;
    w->head.layout = nm_pack_layout();
    w->head.words = words;
    w->key = nm_hash(nm_hash_word(NM_PACKFILE_VERSION, w->head.layout), w->word, words * sizeof *w->word);
    w->key = nm_hash(w->key, w->tensor, w->head.tensors * sizeof *w->tensor);
    return NM_OK;
}

static bool is_wanted(const nm_packfile *f, const wanted *w)
{
    const nm_packfile_head *h = f->head;
    if (h->layout != w->head.layout || h->words != w->head.words || h->tensors != w->head.tensors) return false;
    if (memcmp(f->word, w->word, (size_t)h->words * sizeof *w->word) != 0) return false;
    for (uint32_t i = 0; i < h->tensors; i++) {
        const nm_packfile_tensor *a = &f->tensor[i], *b = &w->tensor[i];
        if (a->name != b->name || a->type != b->type || a->n != b->n || a->k != b->k || a->bytes != b->bytes || a->unit != b->unit) return false;
    }
    return true;
}

/* True if the panels come from a kept pack now. That all values are finite was seen before it was kept. */
static bool take_kept(nm_model *m, const wanted *w, size_t *place)
{
    nm_packfile f;
    if (nm_packs_open(&m->kept, &f, w->key) != NM_OK) return false;
    if (!is_wanted(&f, w)) {
        nm_map_close(&m->kept);
        return false;
    }
    uint32_t next = 0;
    for (size_t i = 0; i < m->weights; i++)
        if (place[i] != UNPACKED) place[i] = (size_t)f.tensor[next++].at;
    adopt(m, m->kept.data, place);
    m->maps_hash = f.head->source_hash;
    nm_map_hasten(&m->kept);
    return true;
}

static nm_err begin_keeping(nm_model *m, wanted *w, const size_t *place, size_t bytes, const atomic_uint_fast64_t *sum)
{
    void *head;
    size_t head_bytes;
    uint32_t next = 0;
    for (size_t i = 0; i < m->weights; i++)
        if (place[i] != UNPACKED) w->tensor[next++].sum = atomic_load(&sum[i]);
    w->head.source_hash = m->maps_hash;
    NM_TRY(nm_packfile_make(&head, &head_bytes, &(nm_packfile){&w->head, w->word, w->tensor, w->path}));
    return nm_packs_begin(&m->keeping, w->key, head, m->packed, bytes);
}

/* Not being able to is no fault of the model: the reason is put down for who wants to tell it. */
static nm_err make_and_keep(nm_model *m, const nm_model_options *options, wanted *w, const size_t *place, size_t bytes)
{
    atomic_uint_fast64_t *sum = nm_calloc(m->weights, sizeof *sum);
    if (!sum) return nm_fail_memory(m->weights * sizeof *sum);
    nm_err err = make_panels(m, options, place, bytes, sum);
    if (err == NM_OK && begin_keeping(m, w, place, bytes, sum) != NM_OK) m->info.not_kept = m->not_kept = nm_strndup(nm_error_text(), strlen(nm_error_text()));
    nm_free(sum);
    return err;
}

nm_err nm_model_pack(nm_model *m, const nm_model_options *options)
{
    size_t *place = nm_calloc(m->weights, sizeof *place);
    wanted w = {0};
    if (!place) return nm_fail_memory(m->weights * sizeof *place);
    m->no_pack = options && options->no_pack;
    m->packed_bytes = lay_out(m, place);
    nm_err err = NM_OK;
    if (options && options->keep && !m->no_pack) err = describe_wanted(&w, m, place);
    if (err == NM_OK && !w.head.words) err = make_panels(m, options, place, m->packed_bytes, NULL);
    else if (err == NM_OK && !take_kept(m, &w, place)) err = make_and_keep(m, options, &w, place, m->packed_bytes);
    nm_gguf_forget_all(m->gguf);
    free_wanted(&w);
    nm_free(place);
    return err;
}
