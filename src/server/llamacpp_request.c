/* Owns reading llama.cpp's requests for text: prompts of text and tokens, samplers, biases in their three forms, and gaps with the files around them. Refuses several
 * prompts in one request. Samplers that this program does not have (mirostat, DRY, XTC, ...) and hints about slots are passed over. */
#include "server/llamacpp.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "server/facts.h"
#include "server/fields.h"

/* ---- Settings ---------------------------------------------------------------------------------------------------------------------------- */

static nm_err read_sampling(nm_llamacpp *r)
{
    nm_ask *a = &r->ask;
    int64_t seed = -1;
    NM_TRY(nm_field_real(r->body, "temperature", -1e3, 1e3, &a->temperature));
    if (a->temperature < 0) a->temperature = 0;
    NM_TRY(nm_field_real(r->body, "top_p", 0, 1, &a->top_p));
    NM_TRY(nm_field_real(r->body, "min_p", 0, 1, &a->min_p));
    NM_TRY(nm_field_real(r->body, "typical_p", 0, 1, &a->typical));
    NM_TRY(nm_field_real(r->body, "repeat_penalty", 1e-3, 1e3, &a->repeat_penalty));
    NM_TRY(nm_field_real(r->body, "presence_penalty", -1e3, 1e3, &a->presence_penalty));
    NM_TRY(nm_field_real(r->body, "frequency_penalty", -1e3, 1e3, &a->frequency_penalty));
    NM_TRY(nm_field_int32(r->body, "top_k", -1, INT32_MAX, &a->top_k));
    if (a->top_k == -1) a->top_k = 0;
    NM_TRY(nm_field_int32(r->body, "repeat_last_n", -1, INT32_MAX, &a->penalty_last));
    NM_TRY(nm_field_int(r->body, "seed", -1, INT64_MAX, &seed));
    a->seeded = seed >= 0 && seed != UINT32_MAX;    /* theirs for "any" is -1 in 32 bits */
    a->seed = a->seeded ? (uint64_t)seed : 0;
    return NM_OK;
}

static nm_err read_output(nm_llamacpp *r)
{
    nm_ask *a = &r->ask;
    bool cache = true, after = false;
    NM_TRY(nm_field_int32(r->body, "max_tokens", -2, INT32_MAX, &a->max_tokens));
    NM_TRY(nm_field_int32(r->body, "n_predict", -2, INT32_MAX, &a->max_tokens));
    if (a->max_tokens < 0) a->max_tokens = NM_ASK_INT;
    NM_TRY(nm_field_texts(r->body, "stop", 64, &r->stop, &a->n_stop));
    a->stop = r->stop;
    NM_TRY(nm_field_int32(r->body, "n_probs", 0, 20, &r->n_probs));
    NM_TRY(nm_field_bool(r->body, "post_sampling_probs", &after));
    if (after && r->n_probs) return nm_fail(NM_USAGE, "\"post_sampling_probs\" is not offered: \"n_probs\" tells the model's own distribution, before samplers");
    NM_TRY(nm_field_bool(r->body, "return_tokens", &r->return_tokens));
    a->top_logprobs = r->n_probs > 0 ? r->n_probs : r->return_tokens ? 0 : -1;
    NM_TRY(nm_field_bool(r->body, "stream", &r->stream));
    NM_TRY(nm_field_bool(r->body, "ignore_eos", &a->ignore_eos));
    NM_TRY(nm_field_bool(r->body, "cache_prompt", &cache));
    a->no_cache = !cache;
    NM_TRY(nm_field_text(r->body, "grammar", &a->grammar));
    if (a->grammar && !*a->grammar) a->grammar = NULL;
    NM_TRY(nm_field_object(r->body, "json_schema", &a->schema));
    if (a->schema && !json_object_size(a->schema)) a->json = true, a->schema = NULL;
    return a->grammar && (a->schema || a->json) ? nm_fail(NM_USAGE, "\"grammar\" and \"json_schema\" exclude each other: give one") : NM_OK;
}

/* One of "+ADAPTER=SCALE" of a full name. */
static json_t *part_of_stack(const char *part, size_t length)
{
    size_t name = length;
    for (size_t i = 0; i < length; i++) if (part[i] == '=') name = i;
    return json_pack("{ss% sf}", "name", part, name, "scale", name < length ? strtod(part + name + 1, NULL) : 1.0);
}

/* The model that is meant where none is named. */
static const json_t *default_model(const json_t *models)
{
    for (size_t i = 0; i < json_array_size(models); i++)
        if (json_is_true(json_object_get(json_array_get(models, i), "default"))) return json_array_get(models, i);
    return json_array_get(models, 0);
}

json_t *nm_llamacpp_stack(nm_server *server, char **base)
{
    json_t *models = nm_engine_models(server->engine), *list = models ? json_array() : NULL;
    const json_t *model = default_model(models);
    const char *name = json_string_value(json_object_get(model, "name")), *bare = json_string_value(json_object_get(model, "base"));
    size_t n = bare ? strlen(bare) : 0;
    if (base) *base = bare ? nm_strndup(bare, n) : NULL;
    const char *at = name && bare && !strncmp(name, bare, n) ? name + n : "";
    while (list && *at == '+') {
        size_t length = strcspn(++at, "+");
        json_array_append_new(list, part_of_stack(at, length));
        at += length;
    }
    json_decref(models);
    return list;
}

/* Adapters by number are those of the default model's stack, and what is not named is off: so the stack is said anew, on the base. */
static nm_err read_model(nm_llamacpp *r, nm_server *server)
{
    const json_t *first_id = json_object_get(json_array_get(json_object_get(r->body, "lora"), 0), "id");
    NM_TRY(nm_field_text(r->body, "model", &r->ask.model));
    if (json_is_integer(first_id)) {
        r->adapters = nm_llamacpp_stack(server, &r->base);
        r->ask.model = r->base;
    }
    NM_TRY(nm_field_lora(r->body, r->adapters, &r->lora, &r->ask.n_lora));
    r->ask.lora = r->lora;
    return NM_OK;
}

/* One prompt, whatever it is wrapped in; text alone goes to the engine as it is. */
static nm_err read_prompt(nm_llamacpp *r)
{
    json_t *p = json_object_get(r->body, "prompt");
    if (json_is_array(p) && json_array_size(p) == 1 && !json_is_integer(json_array_get(p, 0))) p = json_array_get(p, 0);
    if (json_is_object(p)) {
        if (json_array_size(json_object_get(p, "multimodal_data"))) return nm_fail(NM_USAGE, "\"prompt\" has \"multimodal_data\": the models served here read text alone");
        p = json_object_get(p, "prompt_string");
    }
    bool tokens = false;
    for (size_t i = 0; json_is_array(p) && i < json_array_size(p); i++) tokens = tokens || json_is_integer(json_array_get(p, i));
    if (!json_is_string(p) && !tokens) return nm_fail(NM_USAGE, "\"prompt\" must be a string, an array of tokens, or one of strings and tokens mixed; one prompt a request");
    r->prompt = p;
    r->ask.text = json_string_value(p);
    r->ask.text_length = json_string_length(p);
    return NM_OK;
}

static nm_err read_gap(nm_llamacpp *r)
{
    const char *text = NULL;
    json_t *extra = NULL;
    NM_TRY(nm_field_text(r->body, "input_prefix", &text));
    NM_TRY(nm_field_text(r->body, "input_suffix", &text));
    if (!text) return nm_fail(NM_USAGE, "\"input_prefix\" and \"input_suffix\" must say what stands around the gap");
    NM_TRY(nm_field_text(r->body, "prompt", &text));
    NM_TRY(nm_field_array(r->body, "input_extra", &extra));
    for (size_t i = 0; i < json_array_size(extra); i++) {
        const json_t *file = json_array_get(extra, i), *name = json_object_get(file, "filename");
        if (!json_is_string(json_object_get(file, "text")) || (name && !json_is_string(name)))
            return nm_fail(NM_USAGE, "\"input_extra\" must be an array of {\"filename\", \"text\"}, both strings");
    }
    return NM_OK;
}

nm_err nm_llamacpp_read(nm_llamacpp *out, nm_server *server, const char *body, size_t length, bool infill)
{
    nm_ask_init(&out->ask);
    out->infill = infill;
    NM_TRY(nm_body_object(&out->body, body, length));
    NM_TRY(read_model(out, server));
    NM_TRY(read_sampling(out));
    NM_TRY(read_output(out));
    out->bias = json_object_get(out->body, "logit_bias");
    return infill ? read_gap(out) : read_prompt(out);
}

void nm_llamacpp_free(nm_llamacpp *r)
{
    json_decref(r->body);
    json_decref(r->adapters);
    nm_free(r->base);
    nm_free(r->stop);
    nm_free(r->lora);
    nm_free(r->ids);
    nm_free(r->bias_id);
    nm_free(r->bias_value);
    *r = (nm_llamacpp){0};
}

/* ---- What needs the vocabulary ----------------------------------------------------------------------------------------------------------- */

static nm_err add_id(nm_llamacpp *r, int32_t id)
{
    NM_TRY(NM_GROW(r->ids, r->ids_capacity, r->n_ids + 1));
    r->ids[r->n_ids++] = id;
    return NM_OK;
}

static nm_err add_text(nm_llamacpp *r, const nm_tokenizer *t, const char *text, size_t length, unsigned flags)
{
    int32_t *ids = NULL;
    size_t count = 0;
    NM_TRY(nm_tokenize(t, text, length, flags, &ids, &count));
    nm_err err = NM_GROW(r->ids, r->ids_capacity, r->n_ids + count + 1);
    if (err == NM_OK && count) memcpy(r->ids + r->n_ids, ids, count * sizeof *ids);
    if (err == NM_OK) r->n_ids += count;
    nm_free(ids);
    return err;
}

static nm_err token_of(int32_t *id, const json_t *value, const nm_tokenizer *t, const char *member)
{
    json_int_t n = json_integer_value(value);
    if (n < 0 || n >= nm_token_count(t)) return nm_fail(NM_USAGE, "\"%s\" has token %lld: the vocabulary has 0 to %d", member, (long long)n, nm_token_count(t) - 1);
    *id = (int32_t)n;
    return NM_OK;
}

static nm_err mixed_prompt(nm_llamacpp *r, const nm_tokenizer *t)
{
    int32_t id = 0;
    for (size_t i = 0; i < json_array_size(r->prompt); i++) {
        const json_t *part = json_array_get(r->prompt, i);
        if (json_is_string(part)) NM_TRY(add_text(r, t, json_string_value(part), json_string_length(part), i ? NM_TEXT_SPECIAL : NM_TEXT_PROMPT));
        else if (!json_is_integer(part)) return nm_fail(NM_USAGE, "\"prompt\" must be an array of strings and tokens");
        else {
            NM_TRY(token_of(&id, part, t, "prompt"));
            NM_TRY(add_id(r, id));
        }
    }
    return NM_OK;
}

static nm_err add_bias(nm_llamacpp *r, int32_t id, float value)
{
    NM_TRY(NM_GROW(r->bias_id, r->bias_id_capacity, r->n_bias + 1));
    NM_TRY(NM_GROW(r->bias_value, r->bias_value_capacity, r->n_bias + 1));
    r->bias_id[r->n_bias] = id;
    r->bias_value[r->n_bias++] = value;
    return NM_OK;
}

/* Every token of a text. */
static nm_err bias_text(nm_llamacpp *r, const nm_tokenizer *t, const char *text, size_t length, float value)
{
    int32_t *ids = NULL;
    size_t count = 0;
    NM_TRY(nm_tokenize(t, text, length, NM_TEXT_SPECIAL, &ids, &count));
    nm_err err = NM_OK;
    for (size_t i = 0; err == NM_OK && i < count; i++) err = add_bias(r, ids[i], value);
    nm_free(ids);
    return err;
}

/* A number, or false for never. */
static bool bias_value(const json_t *given, float *value)
{
    *value = json_is_false(given) ? -INFINITY : (float)json_number_value(given);
    return json_is_false(given) || (json_is_number(given) && isfinite(*value));
}

static nm_err bias_fault(void)
{
    return nm_fail(NM_USAGE, "\"logit_bias\" must be an array of [token or text, number or false], or an object of such numbers by token or text");
}

static nm_err bias_pairs(nm_llamacpp *r, const nm_tokenizer *t)
{
    for (size_t i = 0; i < json_array_size(r->bias); i++) {
        const json_t *pair = json_array_get(r->bias, i), *what = json_array_get(pair, 0);
        float value;
        int32_t id = 0;
        if (json_array_size(pair) != 2 || !bias_value(json_array_get(pair, 1), &value) || (!json_is_integer(what) && !json_is_string(what))) return bias_fault();
        if (json_is_string(what)) NM_TRY(bias_text(r, t, json_string_value(what), json_string_length(what), value));
        else {
            NM_TRY(token_of(&id, what, t, "logit_bias"));
            NM_TRY(add_bias(r, id, value));
        }
    }
    return NM_OK;
}

static nm_err bias_members(nm_llamacpp *r, const nm_tokenizer *t)
{
    const char *key;
    json_t *given;
    json_object_foreach(r->bias, key, given) {
        float value;
        char *end;
        long id = strtol(key, &end, 10);
        if (!bias_value(given, &value)) return bias_fault();
        if (*end || end == key) NM_TRY(bias_text(r, t, key, strlen(key), value));
        else if (id < 0 || id >= nm_token_count(t)) return nm_fail(NM_USAGE, "\"logit_bias\" has token %ld: the vocabulary has 0 to %d", id, nm_token_count(t) - 1);
        else NM_TRY(add_bias(r, (int32_t)id, value));
    }
    return NM_OK;
}

static nm_err read_bias(nm_llamacpp *r, const nm_tokenizer *t)
{
    if (!r->bias || json_is_null(r->bias)) return NM_OK;
    if (!json_is_array(r->bias) && !json_is_object(r->bias)) return bias_fault();
    NM_TRY(json_is_array(r->bias) ? bias_pairs(r, t) : bias_members(r, t));
    r->ask.bias_id = r->bias_id;
    r->ask.bias = r->bias_value;
    r->ask.n_bias = r->n_bias;
    return NM_OK;
}

static nm_err add_member(nm_llamacpp *r, const nm_tokenizer *t, const char *name)
{
    const json_t *text = json_object_get(r->body, name);
    return json_is_string(text) ? add_text(r, t, json_string_value(text), json_string_length(text), 0) : NM_OK;
}

/* Other files before the gap's: by the tokens that models know for it, else as plain text. */
static nm_err add_files(nm_llamacpp *r, const nm_tokenizer *t, const nm_fim *fim)
{
    const json_t *extra = json_object_get(r->body, "input_extra");
    for (size_t i = 0; i < json_array_size(extra); i++) {
        const json_t *file = json_array_get(extra, i), *name = json_object_get(file, "filename"), *text = json_object_get(file, "text");
        if (fim->file >= 0) NM_TRY(add_id(r, fim->file));
        if (json_is_string(name)) NM_TRY(add_text(r, t, json_string_value(name), json_string_length(name), 0));
        if (json_is_string(name)) NM_TRY(add_text(r, t, "\n", 1, 0));
        NM_TRY(add_text(r, t, json_string_value(text), json_string_length(text), 0));
        if (fim->file < 0) NM_TRY(add_text(r, t, "\n\n", 2, 0));
    }
    return NM_OK;
}

/* Prefix, suffix, middle, in which order most models were taught; special tokens in a person's files stay text. */
static nm_err fill_gap(nm_llamacpp *r, const nm_served *served, const nm_tokenizer *t)
{
    nm_fim fim;
    if (!nm_fim_find(&fim, served->model)) return nm_fail(NM_USAGE, "%s was not taught to fill gaps: its vocabulary has no tokens for it", served->name);
    NM_TRY(add_text(r, t, "", 0, NM_TEXT_PROMPT));
    NM_TRY(add_files(r, t, &fim));
    NM_TRY(add_id(r, fim.prefix));
    NM_TRY(add_member(r, t, "input_prefix"));
    NM_TRY(add_id(r, fim.suffix));
    NM_TRY(add_member(r, t, "input_suffix"));
    NM_TRY(add_id(r, fim.middle));
    return add_member(r, t, "prompt");
}

nm_err nm_llamacpp_prepare(nm_llamacpp *r, const nm_served *served)
{
    const nm_tokenizer *t = nm_model_tokenizer(served->model);
    if (!t) return nm_fail(NM_REFUSED, "%s has no vocabulary in its file", served->name);
    NM_TRY(read_bias(r, t));
    if (!r->infill && r->ask.text) return NM_OK;
    NM_TRY(r->infill ? fill_gap(r, served, t) : mixed_prompt(r, t));
    r->ask.ids = r->ids;
    r->ask.n_ids = r->n_ids;
    return NM_OK;
}

/* ---- Settings, told ------------------------------------------------------------------------------------------------------------------------ */

/* Defaults are floats: told in the digits that they have. */
static double real_or(double given, float otherwise)
{
    char text[32];
    snprintf(text, sizeof text, "%.6g", (double)otherwise);
    return isnan(given) ? strtod(text, NULL) : given;
}
static int32_t int_or(int32_t given, int32_t otherwise) { return given == NM_ASK_INT ? otherwise : given; }

static json_t *stops_of(const nm_ask *a)
{
    json_t *list = json_array();
    for (size_t i = 0; i < a->n_stop; i++) json_array_append_new(list, json_string(a->stop[i]));
    return list;
}

json_t *nm_llamacpp_settings(const nm_llamacpp *r, const nm_model *model)
{
    const nm_ask *a = &r->ask;
    nm_sampling with = nm_sampling_defaults(model);
    return json_pack("{sI sf si sf sf sf si sf sf sf si so si sb sb si sb ss}", "seed", (json_int_t)(a->seeded ? a->seed : UINT32_MAX),
        "temperature", real_or(a->temperature, with.temperature), "top_k", int_or(a->top_k, with.top_k), "top_p", real_or(a->top_p, with.top_p),
        "min_p", real_or(a->min_p, with.min_p), "typical_p", real_or(a->typical, with.typical), "repeat_last_n", int_or(a->penalty_last, with.penalty_last),
        "repeat_penalty", real_or(a->repeat_penalty, with.repeat_penalty), "presence_penalty", real_or(a->presence_penalty, with.presence_penalty),
        "frequency_penalty", real_or(a->frequency_penalty, with.frequency_penalty), "n_predict", int_or(a->max_tokens, -1), "stop", stops_of(a),
        "max_tokens", int_or(a->max_tokens, -1), "ignore_eos", a->ignore_eos, "stream", r->stream, "n_probs", r->n_probs, "cache_prompt", !a->no_cache,
        "grammar", a->grammar ? a->grammar : "");
}
