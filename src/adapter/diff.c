/* Looking at adapters: what a file holds, and which maps it changes how much, against the base or against another adapter. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapter/lora.h"
#include "base/err.h"
#include "base/mem.h"

nm_err nm_adapter_inspect(nm_adapter_facts *out, const char *path)
{
    nm_lora l;
    *out = (nm_adapter_facts){0};
    NM_TRY(nm_lora_read(&l, path));
    out->format = l.format;
    snprintf(out->base, sizeof out->base, "%s", l.base);
    snprintf(out->base_type, sizeof out->base_type, "%s", l.identity.type);
    snprintf(out->prompt_format, sizeof out->prompt_format, "%s", l.prompt_format);
    out->sketched = l.identity.known;
    out->dora = l.pairs && l.pair->m;
    out->n_maps = (int32_t)l.pairs;
    out->min_rank = INT32_MAX;
    out->min_scale = INFINITY;
    out->max_scale = -INFINITY;
    for (size_t i = 0; i < l.pairs; i++) {
        const nm_pair *p = &l.pair[i];
        out->n_parameters += (uint64_t)(p->rank * (p->in + p->out) + (p->m ? p->out : 0));
        if (p->rank < out->min_rank) out->min_rank = (int32_t)p->rank;
        if (p->rank > out->max_rank) out->max_rank = (int32_t)p->rank;
        out->min_scale = fminf(out->min_scale, p->scale);
        out->max_scale = fmaxf(out->max_scale, p->scale);
    }
    nm_lora_free(&l);
    return NM_OK;
}

/* ---- Differences --------------------------------------------------------------------------------------------------------------------------------- */

static double weight_norm(const nm_model *m, const char *name, float *row)
{
    double square = 0;
    size_t n = strlen(name);
    for (size_t i = 0; i < m->weights; i++) {
        const nm_weight *w = &m->weight[i];
        if (!w->k || strncmp(w->name, name, n) || strcmp(w->name + n, ".weight")) continue;
        for (int64_t r = 0; r < w->n; r++) {
            nm_panels_row(&w->panels, r, row);
            for (int64_t k = 0; k < w->k; k++) square += (double)row[k] * (double)row[k];
        }
        break;
    }
    return sqrt(square);
}

/* |a - b| by the norm of both side by side: B of b gets the minus sign. */
static nm_err distance(const nm_pair *a, const nm_pair *b, double *out)
{
    nm_lora both = {.path = (char *)"diff"};
    nm_pair *p;
    nm_err err = nm_lora_add(&both, a->name, a->name, a->embedding, a->in, a->out, a->rank + b->rank, &p);
    if (err == NM_OK) {
        nm_pair_append(p, 0, a, 1);
        nm_pair_append(p, a->rank, b, -1);
        *out = nm_pair_norm(p);
    }
    both.path = NULL;
    nm_lora_free(&both);
    return err;
}

static nm_err compare(const nm_lora *first, const nm_lora *second, const char *name, const nm_model *base, float *row, nm_map_change *out)
{
    const nm_pair *a = nm_lora_find(first, name), *b = second ? nm_lora_find(second, name) : NULL;
    *out = (nm_map_change){.name = name, .first = a ? nm_pair_norm(a) : 0, .second = b ? nm_pair_norm(b) : 0};
    if (a && b && (a->in != b->in || a->out != b->out || a->embedding != b->embedding))
        return nm_fail(NM_BAD_FILE, "%s: %.120s is of another shape than in %s: they belong to different models", second->path, name, first->path);
    out->distance = out->first + out->second;
    if (a && b) NM_TRY(distance(a, b, &out->distance));
    double whole = base && base->info.has_weights ? weight_norm(base, name, row) : 0;
    out->relative = whole > 0 ? out->distance / whole : NAN;
    return NM_OK;
}

static nm_err each(const nm_lora *first, const nm_lora *second, const nm_model *base, float *row, nm_change_fn fn, void *arg)
{
    nm_map_change change;
    for (size_t i = 0; i < first->pairs; i++) {
        NM_TRY(compare(first, second, first->pair[i].name, base, row, &change));
        NM_TRY(fn(arg, &change));
    }
    for (size_t i = 0; second && i < second->pairs; i++) {
        if (nm_lora_find(first, second->pair[i].name)) continue;
        NM_TRY(compare(first, second, second->pair[i].name, base, row, &change));
        NM_TRY(fn(arg, &change));
    }
    return NM_OK;
}

static int64_t widest(const nm_model *m)
{
    int64_t k = 1;
    for (size_t i = 0; m && i < m->weights; i++) if (m->weight[i].k > k) k = m->weight[i].k;
    return k;
}

nm_err nm_adapter_diff(const char *a, const char *b, const nm_model *base, nm_change_fn fn, void *arg)
{
    nm_lora first = {0}, second = {0};
    float *row = nm_calloc((size_t)widest(base), sizeof *row);
    nm_err err = row ? NM_OK : nm_fail_memory((size_t)widest(base) * sizeof *row);
    if (err == NM_OK) err = nm_lora_read(&first, a);
    if (err == NM_OK && b) err = nm_lora_read(&second, b);
    if (err == NM_OK) err = nm_lora_need_plain(&first, "B A alone does not tell what it changes");
    if (err == NM_OK) err = nm_lora_need_plain(&second, "B A alone does not tell what it changes");
    if (err == NM_OK && base) err = nm_lora_to_gguf(&first, &base->config);
    if (err == NM_OK && base && b) err = nm_lora_to_gguf(&second, &base->config);
    if (err == NM_OK && b && first.naming != second.naming) err = nm_fail(NM_USAGE, "%s and %s are of different formats: give --base MODEL", a, b);
    if (err == NM_OK) err = each(&first, b ? &second : NULL, base, row, fn, arg);
    nm_lora_free(&first);
    nm_lora_free(&second);
    nm_free(row);
    return err;
}
