/* What a client asks, as a value of its own. */
#include <string.h>

#include "server/engine_impl.h"

void nm_ask_init(nm_ask *ask)
{
    *ask = (nm_ask){.think = -1, .think_most = NM_ASK_INT, .max_tokens = NM_ASK_INT, .temperature = NM_ASK_REAL, .top_p = NM_ASK_REAL, .min_p = NM_ASK_REAL, .typical = NM_ASK_REAL,
        .repeat_penalty = NM_ASK_REAL,
        .presence_penalty = NM_ASK_REAL, .frequency_penalty = NM_ASK_REAL, .top_k = NM_ASK_INT, .penalty_last = NM_ASK_INT, .top_logprobs = -1, .context = NM_ASK_INT, .n = 1,
        .keep_alive = NM_ASK_REAL};
}

static nm_err copy_bytes(const void *from, size_t bytes, const void **to)
{
    *to = NULL;
    if (!from) return NM_OK;
    void *copy = nm_malloc(bytes);
    if (!copy) return nm_fail_memory(bytes);
    memcpy(copy, from, bytes);
    *to = copy;
    return NM_OK;
}

static nm_err copy_text(const char **text) { return copy_bytes(*text, *text ? strlen(*text) + 1 : 0, (const void **)text); }

static nm_err copy_texts(const char *const **list, size_t *count)
{
    const char *const *from = *list;
    size_t n = *count;
    const char **to = n ? nm_calloc(n, sizeof *to) : NULL;
    *list = to;
    *count = 0;
    if (n && !to) return nm_fail_memory(n * sizeof *to);
    for (size_t i = 0; i < n; i++) {
        to[i] = from[i];
        NM_TRY(copy_text(&to[i]));
        *count = i + 1;
    }
    return NM_OK;
}

static nm_err copy_loras(nm_ask *a)
{
    const nm_ask_lora *from = a->lora;
    size_t n = a->n_lora;
    nm_ask_lora *to = n ? nm_calloc(n, sizeof *to) : NULL;
    a->lora = to;
    a->n_lora = 0;
    if (n && !to) return nm_fail_memory(n * sizeof *to);
    for (size_t i = 0; i < n; i++) {
        to[i] = from[i];
        NM_TRY(copy_text(&to[i].id));
        a->n_lora = i + 1;
    }
    return NM_OK;
}

/* Every pointer becomes the copy's own or NULL before anything can fail, so that nm_ask_free may follow at any time. */
nm_err nm_ask_copy(nm_ask *to, const nm_ask *from)
{
    *to = *from;
    const char **texts[] = {&to->model, &to->suffix, &to->effort, &to->grammar}, *old[4];
    for (int i = 0; i < 4; i++) { old[i] = *texts[i]; *texts[i] = NULL; }
    json_incref(to->messages), json_incref(to->tools), json_incref(to->tool_choice), json_incref(to->template_kwargs), json_incref(to->schema);
    to->text = NULL, to->ids = NULL, to->bias_id = NULL, to->bias = NULL, to->lora = NULL, to->stop = NULL;
    to->n_lora = to->n_stop = 0;
    for (int i = 0; i < 4; i++) {
        *texts[i] = old[i];
        nm_err err = copy_text(texts[i]);
        for (int k = i + 1; err != NM_OK && k < 4; k++) *texts[k] = NULL;
        NM_TRY(err);
    }
    if (from->text) {
        to->text = nm_strndup(from->text, from->text_length);
        if (!to->text) return nm_fail_memory(from->text_length);
    }
    NM_TRY(copy_bytes(from->ids, from->n_ids * sizeof *from->ids, (const void **)&to->ids));
    NM_TRY(copy_bytes(from->bias_id, from->n_bias * sizeof *from->bias_id, (const void **)&to->bias_id));
    NM_TRY(copy_bytes(from->bias, from->n_bias * sizeof *from->bias, (const void **)&to->bias));
    to->lora = from->lora, to->n_lora = from->n_lora;
    NM_TRY(copy_loras(to));
    to->stop = from->stop, to->n_stop = from->n_stop;
    return copy_texts(&to->stop, &to->n_stop);
}

static void fill_real(double *to, double from) { if (isnan(*to)) *to = from; }
static void fill_int(int32_t *to, int32_t from) { if (*to == NM_ASK_INT) *to = from; }

/* Both say "not given" alike: NAN, and the least integer. No limit (-1) and the model's own context (0) are not given, too. */
nm_err nm_ask_fill(nm_ask *a, const nm_persona *persona)
{
    const nm_modelfile *f = &persona->file;
    fill_real(&a->temperature, f->temperature);
    fill_real(&a->top_p, f->top_p);
    fill_real(&a->min_p, f->min_p);
    fill_real(&a->typical, f->typical);
    fill_real(&a->repeat_penalty, f->repeat_penalty);
    fill_real(&a->presence_penalty, f->presence_penalty);
    fill_real(&a->frequency_penalty, f->frequency_penalty);
    fill_int(&a->top_k, f->top_k);
    fill_int(&a->penalty_last, f->repeat_last);
    fill_int(&a->max_tokens, f->predict >= 0 ? f->predict : NM_ASK_INT);
    fill_int(&a->context, f->context > 0 ? f->context : NM_ASK_INT);
    if (!a->seeded && f->seeded) a->seeded = true, a->seed = f->seed;
    if (a->think < 0 && !a->effort) a->think = f->think;
    if (a->n_stop) return NM_OK;
    a->stop = (const char *const *)f->stop, a->n_stop = f->stops;
    return copy_texts(&a->stop, &a->n_stop);
}

void nm_ask_free(nm_ask *a)
{
    for (size_t i = 0; i < a->n_lora; i++) nm_free((void *)a->lora[i].id);
    for (size_t i = 0; i < a->n_stop; i++) nm_free((void *)a->stop[i]);
    const void *all[] = {a->model, a->suffix, a->effort, a->grammar, a->text, a->ids, a->bias_id, a->bias, a->lora, a->stop};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) nm_free((void *)all[i]);
    json_decref(a->messages), json_decref(a->tools), json_decref(a->tool_choice), json_decref(a->template_kwargs), json_decref(a->schema);
    *a = (nm_ask){0};
}
