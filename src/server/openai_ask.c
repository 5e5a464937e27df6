/* From a request of OpenAI's kind to an nm_ask: what chat, completions and responses name alike, with the further members that local servers have come to take. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "server/fields.h"
#include "server/openai.h"

enum { STOP_MOST = 16, LORA_MOST = 64 };

void nm_openai_ask_free(nm_openai_ask *a)
{
    nm_free(a->stop);
    nm_free(a->lora);
    nm_free(a->bias_id);
    nm_free(a->bias);
    json_decref(a->messages);
    json_decref(a->tools);
    json_decref(a->tool_choice);
    json_decref(a->schema);
    nm_free(a->gbnf);
    *a = (nm_openai_ask){0};
}

static nm_err read_sampling(nm_ask *ask, const json_t *body)
{
    NM_TRY(nm_field_real(body, "temperature", 0, 100, &ask->temperature));
    NM_TRY(nm_field_real(body, "top_p", 0, 1, &ask->top_p));
    NM_TRY(nm_field_real(body, "min_p", 0, 1, &ask->min_p));
    NM_TRY(nm_field_real(body, "typical_p", 0, 1, &ask->typical));
    NM_TRY(nm_field_real(body, "repetition_penalty", 0.01, 100, &ask->repeat_penalty));
    NM_TRY(nm_field_real(body, "repeat_penalty", 0.01, 100, &ask->repeat_penalty));
    NM_TRY(nm_field_real(body, "presence_penalty", -2, 2, &ask->presence_penalty));
    NM_TRY(nm_field_real(body, "frequency_penalty", -2, 2, &ask->frequency_penalty));
    NM_TRY(nm_field_int32(body, "top_k", -1, INT32_MAX, &ask->top_k));
    if (ask->top_k == -1) ask->top_k = 0;
    return nm_field_int32(body, "repeat_last_n", -1, INT32_MAX, &ask->penalty_last);
}

/* -1 asks for a seed by chance, as it does of other local servers. */
static nm_err read_seed(nm_ask *ask, const json_t *body)
{
    int64_t seed = -1;
    NM_TRY(nm_field_int(body, "seed", INT64_MIN, INT64_MAX, &seed));
    ask->seeded = seed != -1;
    ask->seed = (uint64_t)seed;
    return NM_OK;
}

/* Empty strings would end every answer at once: clients that send them mean none. */
static nm_err read_stop(nm_openai_ask *a, const json_t *body)
{
    size_t n = 0, kept = 0;
    NM_TRY(nm_field_texts(body, "stop", STOP_MOST, &a->stop, &n));
    for (size_t i = 0; i < n; i++)
        if (*a->stop[i]) a->stop[kept++] = a->stop[i];
    a->ask.stop = a->stop;
    a->ask.n_stop = kept;
    return NM_OK;
}

static nm_err bias_id(const char *key, int32_t *id)
{
    char *end;
    long value = *key >= '0' && *key <= '9' ? strtol(key, &end, 10) : -1;
    if (value < 0 || value > INT32_MAX || *end) return nm_fail(NM_USAGE, "\"logit_bias\" has \"%s\": its members are token ids, whole numbers in quotes", key);
    *id = (int32_t)value;
    return NM_OK;
}

/* -100, OpenAI's least, is documented as a ban, and false is llama.cpp's word for one: both forbid. */
static nm_err bias_value(const char *key, const json_t *value, float *bias)
{
    double real = json_is_false(value) ? -100 : json_is_number(value) ? json_number_value(value) : NAN;
    if (!(real >= -100 && real <= 100)) return nm_fail(NM_USAGE, "\"logit_bias\" has for token %s what is no number from -100 to 100", key);
    *bias = real == -100 ? -INFINITY : (float)real;
    return NM_OK;
}

static nm_err read_bias(nm_openai_ask *a, const json_t *body)
{
    json_t *object = NULL, *value;
    const char *key;
    NM_TRY(nm_field_object(body, "logit_bias", &object));
    size_t n = json_object_size(object), i = 0;
    if (!n) return NM_OK;
    a->bias_id = nm_calloc(n, sizeof *a->bias_id);
    a->bias = nm_calloc(n, sizeof *a->bias);
    if (!a->bias_id || !a->bias) return nm_fail_memory(n * sizeof *a->bias);
    json_object_foreach(object, key, value) {
        NM_TRY(bias_id(key, &a->bias_id[i]));
        NM_TRY(bias_value(key, value, &a->bias[i++]));
    }
    a->ask.bias_id = a->bias_id;
    a->ask.bias = a->bias;
    a->ask.n_bias = n;
    return NM_OK;
}

static nm_err read_one_lora(nm_ask_lora *out, const json_t *item)
{
    out->scale = 1;
    if (!json_is_object(item) || !json_is_string(json_object_get(item, "id")))
        return nm_fail(NM_USAGE, "\"lora\" must be an array of {\"id\": an adapter's name, \"scale\": a number}");
    out->id = json_string_value(json_object_get(item, "id"));
    nm_err err = nm_field_real(item, "scale", -1000, 1000, &out->scale);
    return err == NM_OK ? err : nm_fail(NM_USAGE, "\"lora\" has for \"%s\" a scale that is no number from -1000 to 1000", out->id);
}

static nm_err read_lora(nm_openai_ask *a, const json_t *body)
{
    json_t *list = NULL;
    NM_TRY(nm_field_array(body, "lora", &list));
    size_t n = json_array_size(list);
    if (!n) return NM_OK;
    if (n > LORA_MOST) return nm_fail(NM_USAGE, "\"lora\" has %zu adapters: give at most %d", n, LORA_MOST);
    a->lora = nm_calloc(n, sizeof *a->lora);
    if (!a->lora) return nm_fail_memory(n * sizeof *a->lora);
    for (size_t i = 0; i < n; i++) NM_TRY(read_one_lora(&a->lora[i], json_array_get(list, i)));
    a->ask.lora = a->lora;
    a->ask.n_lora = n;
    return NM_OK;
}

nm_err nm_openai_ask_read(nm_openai_ask *out, const json_t *body)
{
    bool cache = true;
    *out = (nm_openai_ask){0};
    nm_ask_init(&out->ask);
    out->ask.n = 1;
    NM_TRY(nm_field_text(body, "model", &out->ask.model));
    NM_TRY(read_lora(out, body));
    NM_TRY(read_sampling(&out->ask, body));
    NM_TRY(read_seed(&out->ask, body));
    NM_TRY(read_stop(out, body));
    NM_TRY(read_bias(out, body));
    NM_TRY(nm_openai_read_constraint(out, body));
    NM_TRY(nm_field_bool(body, "ignore_eos", &out->ask.ignore_eos));
    NM_TRY(nm_field_bool(body, "cache_prompt", &cache));
    out->ask.no_cache = !cache;
    return NM_OK;
}

static nm_err read_schema(nm_openai_ask *a, const json_t *format, const char *name, const char *schema_in)
{
    const json_t *holder = schema_in ? json_object_get(format, schema_in) : format;
    json_t *schema = json_object_get(holder, "schema");
    const char *dot = schema_in ? "." : "", *in = schema_in ? schema_in : "";
    if (!json_is_object(schema)) return nm_fail(NM_USAGE, "\"%s%s%s.schema\" must be an object: the JSON schema that answers follow", name, dot, in);
    a->ask.schema = schema;
    return NM_OK;
}

nm_err nm_openai_read_format(nm_openai_ask *a, const json_t *format, const char *name, const char *schema_in)
{
    if (!format || json_is_null(format)) return NM_OK;
    const char *type = json_string_value(json_object_get(format, "type"));
    if (!type) return nm_fail(NM_USAGE, "\"%s\" must be an object with \"type\": \"text\", \"json_object\" or \"json_schema\"", name);
    if (!strcmp(type, "text")) return NM_OK;
    if (a->ask.grammar || a->ask.schema || a->ask.json)
        return nm_fail(NM_USAGE, "\"%s\" and another member (\"grammar\", \"json_schema\", \"guided_...\") both say what may come out: give one of them", name);
    if (!strcmp(type, "json_schema")) return read_schema(a, format, name, schema_in);
    if (strcmp(type, "json_object")) return nm_fail(NM_USAGE, "\"%s.type\" is \"%s\": give \"text\", \"json_object\" or \"json_schema\"", name, type);
    a->ask.schema = json_object_get(format, "schema");      /* llama.cpp's way of giving one */
    if (a->ask.schema && !json_is_object(a->ask.schema)) return nm_fail(NM_USAGE, "\"%s.schema\" must be an object", name);
    a->ask.json = !a->ask.schema;
    return NM_OK;
}

nm_err nm_openai_read_effort(nm_openai_ask *a, const json_t *object, const char *name)
{
    static const char *const known[] = {"none", "minimal", "low", "medium", "high", "xhigh", "max"};
    const char *effort = NULL;
    NM_TRY(nm_field_text(object, name, &effort));
    if (!effort) return NM_OK;
    size_t i = 0, n = sizeof known / sizeof *known;
    while (i < n && strcmp(effort, known[i])) i++;
    if (i == n) return nm_fail(NM_USAGE, "\"%s\" is \"%s\": give none, minimal, low, medium, high, xhigh or max", name, effort);
    a->ask.effort = effort;
    a->ask.think = i > 0;
    return NM_OK;
}

nm_err nm_openai_read_most(nm_openai_ask *a, const json_t *body, const char *name)
{
    int32_t most = NM_ASK_INT;
    NM_TRY(nm_field_int32(body, name, -1, INT32_MAX, &most));
    if (most != NM_ASK_INT) a->ask.max_tokens = most < 0 ? NM_ASK_INT : most;
    return NM_OK;
}

nm_err nm_openai_read_stream(const json_t *body, bool *stream, bool *usage)
{
    json_t *options = NULL;
    NM_TRY(nm_field_bool(body, "stream", stream));
    NM_TRY(nm_field_object(body, "stream_options", &options));
    if (!options) return NM_OK;
    nm_err err = nm_field_bool(options, "include_usage", usage);
    return err == NM_OK ? err : nm_fail(NM_USAGE, "\"stream_options.include_usage\" must be true or false");
}
