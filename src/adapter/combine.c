/* Adapters made from adapters: written again in the other format, or combined. The exact sum of scale x B A concatenates: B's beside each
 * other, A's below each other, ranks add. PEFT's other ways add halves, which brings cross terms in; they are here because people know them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapter/lora.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"

static const float DEFAULT_DENSITY = 0.5f;

/* ---- Bringing files to one naming ------------------------------------------------------------------------------------------------------------ */

static nm_err need_config(const nm_lora *l, const nm_model *base)
{
    if (!base) return nm_fail(NM_USAGE, "%s: the base is needed to translate names: give --base MODEL", l->path);
    if (!base->config.arch || base->config.heads < 1) return nm_fail(NM_USAGE, "%s: %s does not tell its architecture: give another --base", l->path, base->name);
    return NM_OK;
}

static nm_err bring(nm_lora *l, nm_naming naming, const nm_model *base)
{
    if (l->naming == naming) return NM_OK;
    NM_TRY(need_config(l, base));
    return naming == NM_NAMES_GGUF ? nm_lora_to_gguf(l, &base->config) : nm_lora_to_hf(l, &base->config);
}

static nm_err write_as(nm_lora *l, const nm_model *base, const char *out, bool gguf, const nm_adapter_card *card)
{
    if (base && base->info.has_weights) NM_TRY(nm_identity_of(&l->identity, base));
    return gguf ? nm_lora_write_gguf(l, out, card) : nm_lora_write_peft(l, out, card);
}

nm_err nm_adapter_export(const char *path, const nm_model *base, const char *out, bool gguf, const nm_adapter_card *card)
{
    nm_lora l;
    NM_TRY(nm_lora_read(&l, path));
    nm_err err = bring(&l, gguf ? NM_NAMES_GGUF : NM_NAMES_HF, base);
    if (err == NM_OK) err = write_as(&l, base, out, gguf, card);
    nm_lora_free(&l);
    return err;
}

/* ---- The exact sum ----------------------------------------------------------------------------------------------------------------------------- */

typedef struct part { const nm_pair *pair; float weight; } part;       /* one adapter's share of a map */

static nm_err add_exact(nm_lora *out, const part *p, size_t count, nm_pair **made)
{
    int64_t rank = 0, at = 0;
    for (size_t i = 0; i < count; i++) rank += p[i].pair->rank;
    NM_TRY(nm_lora_add(out, p->pair->name, p->pair->name, p->pair->embedding, p->pair->in, p->pair->out, rank, made));
    for (size_t i = 0; i < count; at += p[i++].pair->rank) nm_pair_append(*made, at, p[i].pair, p[i].weight);
    return NM_OK;
}

/* ---- Sums of halves ---------------------------------------------------------------------------------------------------------------------------- */

/* One half of each part as a list of values, with the factor that it gets: the square root of the scale, its sign on A's side. */
typedef struct halves { const float *const *value; const float *factor; size_t count; int64_t values; } halves;

static void add_linear(const halves *h, float *out)
{
    for (size_t i = 0; i < h->count; i++)
        for (int64_t k = 0; k < h->values; k++) out[k] += h->factor[i] * h->value[i][k];
}

/* The part of the values that stays is drawn by number, so that a seed gives the same result everywhere. */
static void add_dare(const halves *h, const nm_combine_options *o, uint64_t stream, float *out)
{
    for (size_t i = 0; i < h->count; i++)
        for (int64_t k = 0; k < h->values; k++)
            if (nm_rng_unit(o->seed, stream * 64 + i, (uint64_t)k) < (double)o->density) out[k] += h->factor[i] / o->density * h->value[i][k];
}

static int falling(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* The smallest magnitude among the `density` part of largest ones; infinite where none stays. */
static nm_err threshold(const float *values, int64_t count, float density, float *out)
{
    int64_t keep = (int64_t)((double)density * (double)count);
    float *sorted = nm_calloc((size_t)count, sizeof *sorted);
    if (!sorted) return nm_fail_memory((size_t)count * sizeof *sorted);
    for (int64_t i = 0; i < count; i++) sorted[i] = fabsf(values[i]);
    qsort(sorted, (size_t)count, sizeof *sorted, falling);
    *out = keep > 0 ? sorted[keep - 1] : INFINITY;
    nm_free(sorted);
    return NM_OK;
}

/* The sign of the sum of what stays is elected; the mean of those that agree with it is taken. */
static void elect(const halves *h, const float *least, int64_t k, float *out)
{
    double votes = 0, sum = 0;
    int agree = 0;
    for (size_t i = 0; i < h->count; i++) if (fabsf(h->value[i][k]) >= least[i]) votes += (double)h->value[i][k];
    for (size_t i = 0; i < h->count; i++) {
        float v = h->value[i][k];
        if (fabsf(v) < least[i] || v == 0 || (v > 0) != (votes >= 0)) continue;
        sum += (double)(h->factor[i] * v);
        agree++;
    }
    *out = agree ? (float)(sum / agree) : 0;
}

static nm_err add_ties(const halves *h, float density, float *out)
{
    float *least = nm_calloc(h->count, sizeof *least);
    nm_err err = least ? NM_OK : nm_fail_memory(h->count * sizeof *least);
    for (size_t i = 0; err == NM_OK && i < h->count; i++) err = threshold(h->value[i], h->values, density, &least[i]);
    for (int64_t k = 0; err == NM_OK && k < h->values; k++) elect(h, least, k, &out[k]);
    nm_free(least);
    return err;
}

static nm_err add_half(const halves *h, const nm_combine_options *o, uint64_t stream, float *out)
{
    if (o->method == NM_COMBINE_TIES) return add_ties(h, o->density, out);
    if (o->method == NM_COMBINE_DARE) add_dare(h, o, stream, out);
    else add_linear(h, out);
    return NM_OK;
}

static nm_err add_halves(nm_lora *out, const part *p, size_t count, const nm_combine_options *o, nm_pair **made)
{
    const nm_pair *first = p->pair;
    for (size_t i = 1; i < count; i++)
        if (p[i].pair->rank != first->rank) return nm_fail(NM_USAGE, "%.120s: ranks %lld and %lld: halves of different ranks cannot be added: leave --method away",
            first->name, (long long)first->rank, (long long)p[i].pair->rank);
    NM_TRY(nm_lora_add(out, first->name, first->name, first->embedding, first->in, first->out, first->rank, made));
    const float **value = nm_calloc(count, sizeof(*value));
    float *factor = nm_calloc(count, sizeof *factor);
    nm_err err = value && factor ? NM_OK : nm_fail_memory(count * sizeof *value);
    for (int b = 0; err == NM_OK && b < 2; b++) {
        halves h = {value, factor, count, first->rank * (b ? first->out : first->in)};
        for (size_t i = 0; i < count; i++) {
            float scale = p[i].weight * p[i].pair->scale;
            value[i] = b ? p[i].pair->b : p[i].pair->a;
            factor[i] = b ? sqrtf(fabsf(scale)) : copysignf(sqrtf(fabsf(scale)), scale);
        }
        err = add_half(&h, o, 2 * (uint64_t)out->pairs + (uint64_t)b, b ? (*made)->b : (*made)->a);
    }
    nm_free(value);
    nm_free(factor);
    return err;
}

/* ---- All maps ------------------------------------------------------------------------------------------------------------------------------------ */

typedef struct work {
    nm_lora *in;                /* [count] */
    const float *weight;
    size_t count;
    const nm_combine_options *o;
    part *part;                 /* [count] */
    nm_lora out;
    double energy, kept, ranks;
    int32_t max_rank;
} work;

static nm_err gather(work *w, const char *name, size_t *parts)
{
    *parts = 0;
    for (size_t i = 0; i < w->count; i++) {
        const nm_pair *p = nm_lora_find(&w->in[i], name), *first = w->part[0].pair;
        if (!p) continue;
        if (*parts && (p->in != first->in || p->out != first->out || p->embedding != first->embedding))
            return nm_fail(NM_BAD_FILE, "%s: %.120s maps %lld to %lld, and in %s %lld to %lld: they belong to different models", w->in[i].path, name,
                           (long long)p->in, (long long)p->out, w->in[0].path, (long long)first->in, (long long)first->out);
        w->part[(*parts)++] = (part){p, w->weight[i]};
    }
    return NM_OK;
}

static nm_err combine_map(work *w, const char *name)
{
    size_t parts;
    nm_pair *made;
    nm_spectrum spectrum;
    NM_TRY(gather(w, name, &parts));
    NM_TRY(w->o->method == NM_COMBINE_EXACT ? add_exact(&w->out, w->part, parts, &made) : add_halves(&w->out, w->part, parts, w->o, &made));
    NM_TRY(nm_pair_compress(made, w->o->rank, &spectrum));
    w->energy += spectrum.energy;
    w->kept += spectrum.kept;
    w->ranks += spectrum.effective_rank;
    if (made->rank > w->max_rank) w->max_rank = (int32_t)made->rank;
    return NM_OK;
}

static nm_err combine_all(work *w)
{
    for (size_t i = 0; i < w->count; i++)
        for (size_t k = 0; k < w->in[i].pairs; k++) {
            const char *name = w->in[i].pair[k].name;
            bool done = false;
            for (size_t j = 0; j < i && !done; j++) done = nm_lora_find(&w->in[j], name);
            if (!done) NM_TRY(combine_map(w, name));
        }
    return nm_lora_sort(&w->out);
}

static nm_err copy_text(char **out, const char *text)
{
    *out = nm_strndup(text, strlen(text));
    return *out ? NM_OK : nm_fail_memory(strlen(text));
}

/* The base that the files tell of; NM_REFUSED if that is not one. */
static nm_err one_base(work *w)
{
    nm_identity *known = &w->out.identity;
    for (size_t i = 0; i < w->count; i++) {
        const nm_identity *own = &w->in[i].identity;
        if (own->known && known->known && nm_identity_correlation(own, known) < NM_LEAST_CORRELATION)
            return nm_fail(NM_REFUSED, "%s: made for other weights than those before it: their sum means nothing", w->in[i].path);
        if (own->known && !known->known) *known = *own;
    }
    return NM_OK;
}

/* What the files say of themselves and the result says, too. */
static nm_err inherit(work *w, const char *out)
{
    const nm_lora *told = &w->in[0];
    NM_TRY(one_base(w));
    w->out.naming = told->naming;
    for (size_t i = 0; i < w->count; i++)       /* as in a stack: the last that tells one */
        if (*w->in[i].prompt_format && w->weight[i] != 0) nm_lora_set_format(&w->out, w->in[i].prompt_format);
    NM_TRY(copy_text(&w->out.path, out));
    NM_TRY(copy_text(&w->out.base, told->base));
    return copy_text(&w->out.arch, w->o->base && w->o->base->config.arch ? w->o->base->config.arch->name : told->arch);
}

static nm_err read_all(work *w, const char *const *paths)
{
    for (size_t i = 0; i < w->count; i++) {
        NM_TRY(nm_lora_read(&w->in[i], paths[i]));
        NM_TRY(nm_lora_need_plain(&w->in[i], "a sum of such is no adapter: stack them, MODEL+A+B, or merge them into the model"));
        NM_TRY(bring(&w->in[i], w->o->gguf ? NM_NAMES_GGUF : NM_NAMES_HF, w->o->base));
    }
    return NM_OK;
}

static nm_err check_options(nm_combine_options *o, const float *scales, size_t count)
{
    if (!count) return nm_fail(NM_USAGE, "nothing to combine: name at least one adapter");
    for (size_t i = 0; i < count; i++) if (!isfinite(scales[i])) return nm_fail(NM_USAGE, "a scale of %g makes no sense", (double)scales[i]);
    if (o->density == 0) o->density = DEFAULT_DENSITY;
    if (!(o->density > 0 && o->density <= 1)) return nm_fail(NM_USAGE, "a density of %g makes no sense: give a number above 0 and at most 1", (double)o->density);
    return o->rank >= 0 && o->method <= NM_COMBINE_DARE ? NM_OK : nm_fail(NM_USAGE, "a rank below 0, or an unknown method");
}

nm_err nm_adapter_combine(const char *const *paths, const float *scales, size_t count, const nm_combine_options *options, const char *out,
    const nm_adapter_card *card, nm_combine_report *report)
{
    nm_combine_options o = *options;
    work w = {.weight = scales, .count = count, .o = &o};
    nm_err err = NM_OK;
    NM_TRY(check_options(&o, scales, count));
    w.in = nm_calloc(count, sizeof *w.in);
    w.part = nm_calloc(count, sizeof *w.part);
    if (!w.in || !w.part) NM_GOTO(nm_fail_memory(count * sizeof *w.in));
    NM_GOTO(read_all(&w, paths));
    NM_GOTO(inherit(&w, out));
    NM_GOTO(combine_all(&w));
    *report = (nm_combine_report){.n_maps = (int32_t)w.out.pairs, .max_rank = w.max_rank, .kept_energy = w.energy > 0 ? w.kept / w.energy : 1,
        .effective_rank = w.ranks / (double)w.out.pairs};
    err = write_as(&w.out, o.base, out, o.gguf, card);
out:
    for (size_t i = 0; w.in && i < count; i++) nm_lora_free(&w.in[i]);
    nm_free(w.in);
    nm_free(w.part);
    nm_lora_free(&w.out);
    return err;
}
