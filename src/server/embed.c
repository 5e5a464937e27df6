/* Embeddings: each text of a request is read as a prompt is, in the same passes as everybody's, and what the last norm makes of its tokens becomes one vector of length 1:
 * their mean, or the last token's where the model's file says so (general.architecture.pooling_type, as llama.cpp numbers them). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "server/engine_impl.h"

enum { POOLING_LAST = 3 };

static bool pools_last(const nm_model *m)
{
    char key[128];
    int64_t kind;
    snprintf(key, sizeof key, "%s.pooling_type", nm_model_describe(m)->architecture);
    size_t at = nm_model_meta_find(m, key);
    return at != SIZE_MAX && nm_model_meta_integer(m, at, 0, &kind) && kind == POOLING_LAST;
}

/* Bytes that hold a context's tokens, up to the end of a character. */
static size_t enough(const char *text, size_t length, size_t context)
{
    enum { BYTES = 64 };        /* of a token, in the mean of as many; few vocabularies have one that is longer */
    if (length / BYTES <= context) return length;
    for (length = context * BYTES; length && ((unsigned char)text[length] & 0xc0) == 0x80; length--) {}
    return length;
}

static nm_err read_text(nm_job *j, nm_lane *l, size_t i, const char **code)
{
    const nm_base *b = j->variant->base;
    nm_tokenize_options within = {.most = j->cuts ? 0 : (size_t)b->context * NM_CONTEXTS_COUNTED, .cancel = &j->cancelled};
    size_t length = j->cuts ? enough(j->texts[i], j->lengths[i], (size_t)b->context) : j->lengths[i];
    NM_TRY(nm_tokenize_within(nm_model_tokenizer(b->model), j->texts[i], length, NM_TEXT_BOS, &within, &l->ids, &l->n_ids));
    if (j->cuts && l->n_ids > (size_t)b->context) l->n_ids = (size_t)b->context;
    if (!l->n_ids) return nm_fail(NM_USAGE, "text %zu is empty: there is nothing to embed", i);
    j->n_ids += l->n_ids;
    if (l->n_ids <= (size_t)b->context) return NM_OK;
    *code = "exceed_context_size_error";
    j->n_ids = l->n_ids;
    return nm_fail(NM_USAGE, "text %zu has %s%zu tokens, and the context holds %d: shorten it", i, l->ids ? "" : "at least ", l->n_ids, b->context);
}

nm_err nm_embed_ready(nm_job *j, const char **code)
{
    size_t width = (size_t)nm_model_describe(j->variant->base->model)->n_embd;
    j->limit = j->variant->base->context;
    j->pools_last = pools_last(j->variant->base->model);
    j->lane = nm_calloc(j->n_texts, sizeof *j->lane);
    j->vectors = nm_calloc(j->n_texts * width, sizeof *j->vectors);
    if (!j->lane || !j->vectors) return nm_fail_memory(j->n_texts * width * sizeof *j->vectors);
    j->n = (int32_t)j->n_texts;
    for (size_t i = 0; i < j->n_texts; i++) {
        if (nm_cancelled(&j->cancelled)) return nm_fail(NM_INTERRUPTED, "cancelled");
        j->lane[i] = (nm_lane){.job = j, .index = (int32_t)i};
        NM_TRY(read_text(j, &j->lane[i], i, code));
    }
    return NM_OK;
}

nm_lane *nm_embed_lane(nm_engine *e, nm_job *j, nm_err *err)
{
    nm_session_options so = {.context = j->variant->base->context, .kv = e->options.kv, .compute = e->options.compute, .stack = j->variant->stack};
    for (int32_t i = 0; i < j->n; i++) {
        nm_lane *l = &j->lane[i];
        if (l->ended) continue;
        if (!l->session) *err = nm_session_open(&l->session, j->variant->base->model, &so);
        return *err == NM_OK ? l : NULL;
    }
    return NULL;
}

void nm_embed_add(nm_lane *l, int32_t index, const float *hidden, int32_t n)
{
    float *v = l->job->vectors + (size_t)l->index * (size_t)n;
    if (l->job->pools_last && (size_t)index + 1 < l->n_ids) return;
    for (int32_t i = 0; i < n; i++) v[i] += hidden[i];
}

void nm_embed_again(nm_lane *l, int32_t from)
{
    size_t n = (size_t)nm_model_describe(l->job->variant->base->model)->n_embd;
    if (nm_session_length(l->session) == from) return;
    nm_session_truncate(l->session, 0);
    memset(l->job->vectors + (size_t)l->index * n, 0, n * sizeof *l->job->vectors);
}

void nm_embed_finish(nm_lane *l)
{
    int32_t n = nm_model_describe(l->job->variant->base->model)->n_embd;
    float *v = l->job->vectors + (size_t)l->index * (size_t)n;
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += (double)v[i] * (double)v[i];
    for (int32_t i = 0; sum > 0 && i < n; i++) v[i] = (float)((double)v[i] / sqrt(sum));
    nm_session_close(&l->session);
    l->ended = true;
}
