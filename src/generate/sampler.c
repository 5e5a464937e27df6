/* Owns the choice of the next token from logits: bias, penalties, filters, temperature, draw, in the order that docs/sampling.md explains.
 * A draw depends on the settings, the logits, the tokens accepted and the number of draws before it, and on nothing else. A draw within a
 * constraint counts as one where its first token may come, and else as two; with temperature 0 as none.
 * Refuses NaN. Never sorts a vocabulary: the filters take candidates one at a time from a heap until they have enough. */
#include <math.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "generate/constraint.h"

typedef struct candidate { float logit, key; int32_t id; } candidate;   /* key: what the heap orders by */

struct nm_sampler {
    nm_sampling with;
    int32_t n_vocab;
    uint64_t draws;
    candidate *candidates, *spare;      /* n_vocab each */
    float *bias;                        /* n_vocab; NULL without */
    /* Penalties: how often each token occurs among the last ones, and these, in a ring where their number is limited. */
    int32_t *occurs;                    /* n_vocab; NULL when no penalty is on */
    int32_t *recent;
    size_t n_recent, oldest, capacity;
};

static bool has_penalties(const nm_sampling *w)
{
    return w->penalty_last != 0 && (w->repeat_penalty != 1 || w->presence_penalty != 0 || w->frequency_penalty != 0);
}

static nm_err check_settings(const nm_sampling *w)
{
    if (!(w->temperature >= 0) || isinf(w->temperature))
        return nm_fail(NM_USAGE, "temperature is %g: give 0 or more", (double)w->temperature);
    if (w->top_k < 0) return nm_fail(NM_USAGE, "top-k is %d: give 0 (off) or more", w->top_k);
    if (!(w->top_p >= 0 && w->top_p <= 1)) return nm_fail(NM_USAGE, "top-p is %g: give 0 to 1 (off)", (double)w->top_p);
    if (!(w->min_p >= 0 && w->min_p <= 1)) return nm_fail(NM_USAGE, "min-p is %g: give 0 (off) to 1", (double)w->min_p);
    if (!(w->typical >= 0 && w->typical <= 1)) return nm_fail(NM_USAGE, "typical is %g: give 0 to 1 (off)", (double)w->typical);
    if (!(w->repeat_penalty > 0) || isinf(w->repeat_penalty))
        return nm_fail(NM_USAGE, "repeat penalty is %g: give more than 0, 1 is off", (double)w->repeat_penalty);
    if (!isfinite(w->presence_penalty) || !isfinite(w->frequency_penalty)) return nm_fail(NM_USAGE, "a penalty is not a number: 0 is off");
    if (w->penalty_last < -1) return nm_fail(NM_USAGE, "penalties look at %d tokens: give -1 (all) or more", w->penalty_last);
    return NM_OK;
}

nm_err nm_sampler_open(nm_sampler **out, const nm_sampling *sampling, int32_t n_vocab)
{
    *out = NULL;
    NM_TRY(check_settings(sampling));
    if (n_vocab <= 0) return nm_fail(NM_USAGE, "a sampler for %d tokens makes no sense", n_vocab);
    nm_sampler *s = nm_calloc(1, sizeof *s);
    if (!s) return nm_fail_memory(sizeof *s);
    s->with = *sampling;
    s->n_vocab = n_vocab;
    bool penalties = has_penalties(sampling);
    s->candidates = nm_calloc((size_t)n_vocab, sizeof *s->candidates);
    s->spare = nm_calloc((size_t)n_vocab, sizeof *s->spare);
    s->occurs = penalties ? nm_calloc((size_t)n_vocab, sizeof *s->occurs) : NULL;
    if (!s->candidates || !s->spare || (penalties && !s->occurs)) {
        nm_sampler_close(&s);
        return nm_fail_memory((size_t)n_vocab * (2 * sizeof *s->candidates + sizeof *s->occurs));
    }
    *out = s;
    return NM_OK;
}

void nm_sampler_close(nm_sampler **sampler)
{
    nm_sampler *s = *sampler;
    if (!s) return;
    nm_free(s->candidates);
    nm_free(s->spare);
    nm_free(s->bias);
    nm_free(s->occurs);
    nm_free(s->recent);
    nm_free(s);
    *sampler = NULL;
}

static nm_err check_bias(const nm_sampler *s, const int32_t *ids, const float *bias, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= s->n_vocab) return nm_fail(NM_USAGE, "a bias for token %d, outside the vocabulary of %d", ids[i], s->n_vocab);
        if (isnan(bias[i]) || bias[i] == INFINITY)
            return nm_fail(NM_USAGE, "the bias of token %d is %g: give a number, or minus infinity to forbid it", ids[i], (double)bias[i]);
    }
    return NM_OK;
}

nm_err nm_sampler_bias(nm_sampler *s, const int32_t *ids, const float *bias, size_t count)
{
    NM_TRY(check_bias(s, ids, bias, count));
    float *all = count ? nm_calloc((size_t)s->n_vocab, sizeof *all) : NULL;
    if (count && !all) return nm_fail_memory((size_t)s->n_vocab * sizeof *all);
    for (size_t i = 0; i < count; i++) all[ids[i]] += bias[i];
    nm_free(s->bias);
    s->bias = all;
    return NM_OK;
}

nm_err nm_sampler_accept(nm_sampler *s, int32_t token)
{
    if (token < 0 || token >= s->n_vocab) return nm_fail(NM_USAGE, "token %d is outside the vocabulary of %d", token, s->n_vocab);
    if (!s->occurs) return NM_OK;
    bool full = s->with.penalty_last > 0 && s->n_recent == (size_t)s->with.penalty_last;
    if (full) {
        s->occurs[s->recent[s->oldest]]--;
        s->recent[s->oldest] = token;
        s->oldest = (s->oldest + 1) % s->n_recent;
    } else {
        NM_TRY(NM_GROW(s->recent, s->capacity, s->n_recent + 1));
        s->recent[s->n_recent++] = token;
    }
    s->occurs[token]++;
    return NM_OK;
}

/* ---- The heap: the best candidate on top; equal keys by id, so that the order is total ------------------------------------------- */

static inline bool before(candidate a, candidate b) { return a.key > b.key || (a.key == b.key && a.id < b.id); }

/* Moves heap[at] down until none below it comes before it. With `reverse` the worst is on top. */
static void sift(candidate *heap, size_t n, size_t at, bool reverse)
{
    candidate moving = heap[at];
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(heap[child + 1], heap[child]) != reverse) child++;
        if (before(heap[child], moving) == reverse) break;
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

static void heapify(candidate *heap, size_t n, bool reverse)
{
    for (size_t i = n / 2; i-- > 0;) sift(heap, n, i, reverse);
}

static candidate heap_take(candidate *heap, size_t *n)
{
    candidate top = heap[0];
    heap[0] = heap[--*n];
    if (*n) sift(heap, *n, 0, false);
    return top;
}

/* ---- Logits to candidates ---------------------------------------------------------------------------------------------------------- */

/* As llama.cpp's users know it: the repeat penalty divides positive logits and multiplies others; the other two are taken off. */
static float penalised(const nm_sampler *s, int32_t id, float logit)
{
    int32_t n = s->occurs ? s->occurs[id] : 0;
    if (!n) return logit;
    logit = logit <= 0 ? logit * s->with.repeat_penalty : logit / s->with.repeat_penalty;
    return logit - (float)n * s->with.frequency_penalty - s->with.presence_penalty;
}

enum { STRIDE = 64 };

/* From id on, the first token in whose neighbourhood there may be one above `least`, or a NaN. */
static int32_t skip_below(const float *logits, int32_t id, int32_t among, float least)
{
    for (; among - id >= STRIDE; id += STRIDE) {
        int any = 0;
        for (int i = 0; i < STRIDE; i++) any |= !(logits[id + i] <= least);
        if (any) break;
    }
    return id;
}

/* Takes a candidate among the best k so far, of which the worst is on top once there are k: nearly all later ones lose against that one at once. */
static inline void offer(candidate *c, size_t *n, size_t k, candidate x)
{
    if (*n < k) {
        c[(*n)++] = x;
        if (*n == k) heapify(c, k, true);
    } else if (before(x, c[0])) {
        c[0] = x;
        sift(c, k, 0, true);
    }
}

/* The best k of the tokens that can be drawn among the first `among` of the vocabulary, and where there is a mask among those in it. */
static nm_err gather(nm_sampler *s, const float *logits, const uint32_t *mask, int32_t among, size_t k, size_t *count)
{
    size_t n = 0;
    bool plain = !mask && !s->bias && !s->occurs;
    for (int32_t id = 0; id < among; id++) {
        if (plain && n == k && id % STRIDE == 0) {
            id = skip_below(logits, id, among, s->candidates[0].logit);
            if (id == among) break;
        }
        if (mask && !(mask[id / 32] >> id % 32 & 1)) {
            if (!mask[id / 32]) id |= 31;       /* none of its word */
            continue;
        }
        float logit = penalised(s, id, s->bias ? logits[id] + s->bias[id] : logits[id]);
        if (isnan(logits[id]) || isnan(logit))
            return nm_fail(NM_FAILED, "the logit of token %d is not a number: the model's weights or the computation are broken", id);
        if (logit > -INFINITY) offer(s->candidates, &n, k, (candidate){logit, logit, id});
    }
    if (!n && mask) return nm_fail(NM_FAILED, "no token can be drawn: none that the grammar allows is in the vocabulary, or their logits are minus infinity");
    if (!n) return nm_fail(NM_FAILED, "no token can be drawn: all logits are minus infinity");
    *count = n;
    return NM_OK;
}

/* e^(logit - most), where an infinite logit outweighs all finite ones. */
static inline double weight(float logit, float most) { return logit == most ? 1 : exp((double)logit - (double)most); }

static float most_of(const candidate *c, size_t n)
{
    float most = c[0].logit;
    for (size_t i = 1; i < n; i++)
        if (c[i].logit > most) most = c[i].logit;
    return most;
}

static double total_weight(const candidate *c, size_t n, float most)
{
    double total = 0;
    for (size_t i = 0; i < n; i++) total += weight(c[i].logit, most);
    return total;
}

/* ---- Filters: each leaves the first n of candidates and returns n, at least 1 ------------------------------------ */

/* The fewest candidates, best keys first, whose probability reaches p. */
static size_t keep_mass(candidate *c, candidate *spare, size_t n, double p)
{
    float most = most_of(c, n);
    double need = p * total_weight(c, n, most), have = 0;
    size_t kept = 0, left = n;
    heapify(c, n, false);
    while (left && (kept == 0 || have < need)) {
        spare[kept] = heap_take(c, &left);
        have += weight(spare[kept++].logit, most);
    }
    memcpy(c, spare, kept * sizeof *c);
    return kept;
}

/* Locally typical (Meister et al. 2022): those whose surprise is nearest to the distribution's entropy. */
static size_t keep_typical(candidate *c, candidate *spare, size_t n, double p)
{
    float most = most_of(c, n);
    double total = total_weight(c, n, most), entropy = 0;
    for (size_t i = 0; i < n; i++) {
        double q = weight(c[i].logit, most) / total;
        if (q > 0) entropy -= q * log(q);
    }
    for (size_t i = 0; i < n; i++) {
        double q = weight(c[i].logit, most) / total;
        c[i].key = q > 0 ? (float)-fabs(-log(q) - entropy) : -INFINITY;
    }
    n = keep_mass(c, spare, n, p);
    for (size_t i = 0; i < n; i++) c[i].key = c[i].logit;
    return n;
}

static size_t keep_min_p(candidate *c, size_t n, double min_p)
{
    float most = most_of(c, n);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (weight(c[i].logit, most) >= min_p) c[kept++] = c[i];
    return kept;
}

static int32_t draw(const nm_sampler *s, const candidate *c, size_t n, double uniform)
{
    float most = most_of(c, n);
    double total = 0, temperature = (double)s->with.temperature;
    for (size_t i = 0; i < n; i++) total += c[i].logit == most ? 1 : exp(((double)c[i].logit - (double)most) / temperature);
    double at = uniform * total;
    int32_t last = c[0].id;
    for (size_t i = 0; i < n; i++) {
        double w = c[i].logit == most ? 1 : exp(((double)c[i].logit - (double)most) / temperature);
        if (w > 0) last = c[i].id;
        if (w > 0 && at < w) return last;
        at -= w;
    }
    return last;    /* rounding left a crumb */
}

/* Among the candidates that `gather` finds. */
static nm_err draw_among(nm_sampler *s, const float *logits, const uint32_t *mask, int32_t among, int32_t *token)
{
    const nm_sampling *w = &s->with;
    candidate *c = s->candidates;
    size_t n = 0;
    NM_TRY(gather(s, logits, mask, among, w->temperature == 0 ? 1 : w->top_k ? (size_t)w->top_k : SIZE_MAX, &n));
    if (w->temperature == 0) {
        *token = c[0].id;
        return NM_OK;
    }
    if (w->typical < 1) n = keep_typical(c, s->spare, n, (double)w->typical);
    if (w->top_p < 1) n = keep_mass(c, s->spare, n, (double)w->top_p);
    if (w->min_p > 0) n = keep_min_p(c, n, (double)w->min_p);
    *token = draw(s, c, n, nm_rng_unit(w->seed, 0, s->draws++));
    return NM_OK;
}

nm_err nm_sampler_draw(nm_sampler *s, const float *logits, int32_t *token) { return draw_among(s, logits, NULL, s->n_vocab, token); }

/* A token that may come has the same chance in the first draw as among its like; so a second draw among those, where the first one's may not come, is
 * what drawing again and again would end with. With filters the second one's apply to what may come, which the first one's may all have left out. */
nm_err nm_sampler_draw_within(nm_sampler *s, const float *logits, nm_constraint *constraint, int32_t *token)
{
    const uint32_t *mask;
    int32_t count, drawn;
    NM_TRY(nm_sampler_draw(s, logits, &drawn));
    if (!nm_constraint_allows(constraint, drawn)) {
        NM_TRY(nm_constraint_view(constraint, &mask, &count));
        NM_TRY(draw_among(s, logits, mask, count < s->n_vocab ? count : s->n_vocab, &drawn));
    }
    *token = drawn;
    return NM_OK;
}
