/* POST /v1/embeddings: texts, or tokens that are read back as text, to vectors of length 1. */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "server/fields.h"
#include "server/openai.h"

enum { INPUTS_MOST = 2048 };

typedef struct input { const json_t *ids; char *text; size_t length; } input;     /* ids: until text is known */

typedef struct embeddings {
    nm_request base;
    nm_engine *engine;
    json_t *body;
    const char *model;
    char *first;                /* the first model's name, where none is given */
    bool base64, tokens;        /* tokens: some input is of ids */
    int32_t dimensions;         /* 0: not said */
    input *inputs;
    size_t n;
} embeddings;

static void free_embeddings(nm_request *base)
{
    embeddings *e = (embeddings *)base;
    for (size_t i = 0; e->inputs && i < e->n; i++) nm_free(e->inputs[i].text);
    nm_free(e->inputs);
    json_decref(e->body);
    nm_free(e->first);
    nm_free(e);
}

/* ---- The request ------------------------------------------------------------------------------------------------- */

static nm_err read_one(embeddings *e, input *in, const json_t *value)
{
    if (json_is_string(value) && json_string_length(value)) {
        in->length = json_string_length(value);
        in->text = nm_strndup(json_string_value(value), in->length);
        return in->text ? NM_OK : nm_fail_memory(in->length);
    }
    if (json_is_string(value) || (json_is_array(value) && !json_array_size(value))) return nm_fail(NM_USAGE, "\"input\" has an empty text: there is nothing to embed");
    if (!json_is_array(value)) return nm_fail(NM_USAGE, "\"input\" must be a string, a list of tokens, or an array of one kind of these");
    in->ids = value;
    e->tokens = true;
    return NM_OK;
}

static nm_err read_inputs(embeddings *e, const json_t *value)
{
    bool many = json_is_array(value) && !json_is_integer(json_array_get(value, 0));
    size_t n = many ? json_array_size(value) : 1;
    if (!value || json_is_null(value)) return nm_fail(NM_USAGE, "\"input\" is missing: what is to be embedded");
    if (!n || n > INPUTS_MOST) return nm_fail(NM_USAGE, "\"input\" has %zu texts: give 1 to %d", n, INPUTS_MOST);
    e->inputs = nm_calloc(n, sizeof *e->inputs);
    if (!e->inputs) return nm_fail_memory(n * sizeof *e->inputs);
    e->n = n;
    for (size_t i = 0; i < n; i++) NM_TRY(read_one(e, &e->inputs[i], many ? json_array_get(value, i) : value));
    return NM_OK;
}

static nm_err read_embeddings(embeddings *e)
{
    const char *format = "float";
    NM_TRY(nm_field_text(e->body, "model", &e->model));
    NM_TRY(nm_field_text(e->body, "encoding_format", &format));
    e->base64 = !strcmp(format, "base64");
    if (!e->base64 && strcmp(format, "float")) return nm_fail(NM_USAGE, "\"encoding_format\" is \"%s\": give float or base64", format);
    NM_TRY(nm_field_int32(e->body, "dimensions", 1, INT32_MAX, &e->dimensions));
    return read_inputs(e, json_object_get(e->body, "input"));
}

/* ---- The answer -------------------------------------------------------------------------------------------------- */

/* The floats' bytes, least significant first (RFC 4648, section 4). */
static void write_base64(nm_json_out *o, const float *v, int32_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t bytes = (size_t)n * 4, length = 0;
    char *text = nm_malloc((bytes + 2) / 3 * 4 + 1);
    if (!text) {
        o->err = nm_fail_memory(bytes);
        return;
    }
    for (size_t i = 0; i < bytes; i += 3) {
        uint32_t group = 0;
        for (size_t k = 0; k < 3; k++) {
            uint32_t word = 0;
            if (i + k < bytes) memcpy(&word, &v[(i + k) / 4], 4);
            group = group << 8 | (word >> 8 * ((i + k) % 4) & 0xff);
        }
        for (size_t k = 0; k < 4; k++) text[length++] = i + k <= bytes ? digits[group >> (18 - 6 * k) & 63] : '=';
    }
    nm_json_bytes(o, "embedding", text, length);
    nm_free(text);
}

static void write_vector(nm_json_out *o, const embeddings *e, size_t index, const float *v, int32_t n)
{
    nm_json_begin_object(o, NULL);
    nm_json_text(o, "object", "embedding");
    nm_json_int(o, "index", (int64_t)index);
    if (e->base64) {
        write_base64(o, v, n);
    } else {
        nm_json_begin_array(o, "embedding");
        for (int32_t i = 0; i < n; i++) nm_json_float(o, NULL, v[i]);
        nm_json_end_array(o);
    }
    nm_json_end_object(o);
}

static void write_all(nm_json_out *o, const embeddings *e, const float *vectors, int32_t n_embd, int32_t tokens)
{
    nm_json_begin_object(o, NULL);
    nm_json_text(o, "object", "list");
    nm_json_begin_array(o, "data");
    for (size_t i = 0; i < e->n; i++) write_vector(o, e, i, vectors + i * (size_t)n_embd, n_embd);
    nm_json_end_array(o);
    nm_json_text(o, "model", e->model ? e->model : "");
    nm_json_begin_object(o, "usage");
    nm_json_int(o, "prompt_tokens", tokens);
    nm_json_int(o, "total_tokens", tokens);
    nm_json_end_object(o);
    nm_json_end_object(o);
}

static void refuse_dimensions(const embeddings *e, int32_t n_embd)
{
    nm_fail(NM_USAGE, "\"dimensions\" is %d, and this model's vectors have %d: leave it out", e->dimensions, n_embd);
    nm_openai_fail_err(e->base.x, NM_USAGE);
}

static void on_vectors(void *arg, const float *vectors, size_t n, int32_t n_embd, int32_t tokens, const nm_ended *ended)
{
    embeddings *e = arg;
    nm_json_out o = {0};
    if (ended->err != NM_OK) {
        nm_openai_error error = nm_openai_error_of(ended);
        nm_openai_fail(e->base.x, &error);
    } else if (e->dimensions && e->dimensions != n_embd) {
        refuse_dimensions(e, n_embd);
    } else {
        write_all(&o, e, vectors, n_embd, tokens);
        if (o.err == NM_OK) nm_exchange_reply(e->base.x, 200, "application/json", o.text.data, o.text.length);
        else nm_openai_fail_err(e->base.x, o.err);
    }
    nm_json_free_out(&o);
    nm_request_done(&e->base);
}

/* ---- Asking ------------------------------------------------------------------------------------------------------ */

static nm_err ask_with(embeddings *e, const char **texts, size_t *lengths)
{
    for (size_t i = 0; i < e->n; i++) {
        texts[i] = e->inputs[i].text;
        lengths[i] = e->inputs[i].length;
    }
    return nm_request_embed(&e->base, e->engine, e->model, texts, lengths, e->n, false, on_vectors);
}

static nm_err ask_engine(embeddings *e)
{
    const char **texts = nm_calloc(e->n, sizeof *texts);
    size_t *lengths = nm_calloc(e->n, sizeof *lengths);
    nm_err err = texts && lengths ? ask_with(e, texts, lengths) : nm_fail_memory(e->n * sizeof *lengths);
    nm_free(texts);
    nm_free(lengths);
    return err;
}

static nm_err read_back(input *in, const nm_tokenizer *tokenizer)
{
    size_t n = json_array_size(in->ids);
    int32_t *ids = nm_calloc(n, sizeof *ids);
    nm_err err = ids ? NM_OK : nm_fail_memory(n * sizeof *ids);
    for (size_t i = 0; err == NM_OK && i < n; i++) {
        const json_t *item = json_array_get(in->ids, i);
        json_int_t id = json_is_integer(item) ? json_integer_value(item) : -1;
        if (id < 0 || id >= nm_token_count(tokenizer)) err = nm_fail(NM_USAGE, "\"input\" has in a list of tokens what is no token's id of this model");
        else ids[i] = (int32_t)id;
    }
    if (err == NM_OK) err = nm_detokenize(tokenizer, ids, n, NM_TEXT_SPECIAL, &in->text, &in->length);
    nm_free(ids);
    return err;
}

/* On the engine's thread, with the model open. */
static void with_model(void *arg, const nm_served *served, nm_err err)
{
    embeddings *e = arg;
    const nm_tokenizer *tokenizer = served && served->model ? nm_model_tokenizer(served->model) : NULL;
    if (err == NM_OK && !tokenizer) err = nm_fail(NM_REFUSED, "the model has no tokenizer: send text");
    for (size_t i = 0; err == NM_OK && i < e->n; i++)
        if (e->inputs[i].ids) err = read_back(&e->inputs[i], tokenizer);
    if (err == NM_OK) err = ask_engine(e);
    if (err != NM_OK) nm_openai_fail_err(e->base.x, err);
    nm_request_done(&e->base);
}

static nm_err call_engine(embeddings *e)
{
    atomic_fetch_add(&e->base.refs, 1);
    nm_err err = nm_engine_call(e->engine, e->model, with_model, e);
    if (err != NM_OK) nm_request_release(&e->base);
    return err;
}

static nm_err open_embeddings(embeddings *e, const nm_server *server, nm_exchange *x)
{
    size_t length;
    const char *text = nm_exchange_body(x, &length);
    NM_TRY(nm_body_object(&e->body, text, length));
    NM_TRY(read_embeddings(e));
    e->engine = server->engine;
    if (!e->model || !*e->model) {
        e->first = nm_engine_first(server->engine);
        e->model = e->first;
    }
    return nm_request_open(&e->base, x, 1, free_embeddings);
}

void nm_openai_embeddings(nm_exchange *x, void *context)
{
    embeddings *e = nm_calloc(1, sizeof *e);
    nm_err err = e ? open_embeddings(e, context, x) : nm_fail_memory(sizeof *e);
    if (err != NM_OK) {
        nm_openai_fail_err(x, err);
        if (e) free_embeddings(&e->base);
        return;
    }
    err = e->tokens ? call_engine(e) : ask_engine(e);
    if (err != NM_OK) nm_openai_fail_err(x, err);
    nm_request_release(&e->base);
}
