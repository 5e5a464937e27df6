/* Binding the names that an architecture asks for to tensors of the file, and what the bound weights are as a whole. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"
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
