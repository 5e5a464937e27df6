/* Owns llama.cpp's /tokenize, /detokenize and /apply-template, the first two also as vLLM's clients have them, and vLLM's /tokenizer_info: text, tokens and prompts without a
 * word from the model. */
#include "server/llamacpp.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "server/fields.h"
#include "server/openai.h"

typedef struct text_task {
    nm_task task;
    json_t *body;
    const char *model;
    const char *content;            /* to be tokenized */
    size_t length;
    bool special, parse, pieces;
    bool vllm;                      /* the text came as vLLM's "prompt" */
    json_t *tokens;                 /* to be text again; borrowed */
    nm_openai_ask chat;             /* to be a prompt */
} text_task;

static void drop(void *task)
{
    text_task *t = task;
    nm_openai_ask_free(&t->chat);
    json_decref(t->body);
}

static void run(nm_exchange *x, void *context, nm_err (*read)(text_task *t), nm_call_fn with)
{
    size_t length;
    text_task *t = nm_task_new(x, context, sizeof *t, drop);
    if (!t) return;
    const char *body = nm_exchange_body(x, &length);
    nm_err err = nm_body_object(&t->body, body, length);
    if (err == NM_OK) err = nm_field_text(t->body, "model", &t->model);
    if (err == NM_OK) err = read(t);
    if (err == NM_OK) nm_task_call(&t->task, t->model, with);
    else nm_task_fail(&t->task, err);
    nm_task_release(t);
}

static void finish(text_task *t, nm_err err, json_t *value)
{
    if (err != NM_OK) nm_task_fail(&t->task, err);
    else nm_task_reply(&t->task, value);
    nm_task_release(t);
}

static nm_err need_tokenizer(const nm_tokenizer **out, const nm_served *served, nm_err err)
{
    NM_TRY(err);
    *out = nm_model_tokenizer(served->model);
    return *out ? NM_OK : nm_fail(NM_REFUSED, "%s has no vocabulary in its file", served->name);
}

/* ---- Text to tokens -------------------------------------------------------------------------------------------------------------------------- */

static nm_err read_vllm_tokenize(text_task *t)
{
    NM_TRY(nm_field_text(t->body, "prompt", &t->content));
    if (!t->content) return nm_fail(NM_USAGE, "\"content\" is missing: the text to be made tokens");
    t->vllm = t->special = true;
    return nm_field_bool(t->body, "add_special_tokens", &t->special);
}

static nm_err read_tokenize(text_task *t)
{
    t->parse = true;
    NM_TRY(nm_field_text(t->body, "content", &t->content));
    if (!t->content) NM_TRY(read_vllm_tokenize(t));
    t->length = strlen(t->content);
    NM_TRY(nm_field_bool(t->body, "add_special", &t->special));
    NM_TRY(nm_field_bool(t->body, "parse_special", &t->parse));
    return nm_field_bool(t->body, "with_pieces", &t->pieces);
}

/* Theirs: a string, or the bytes where they are no characters by themselves. */
static json_t *piece_of(const nm_tokenizer *tokenizer, int32_t id)
{
    char *text = NULL;
    size_t length = 0;
    if (nm_detokenize(tokenizer, &id, 1, NM_TEXT_SPECIAL | NM_TEXT_CONTINUES, &text, &length) != NM_OK) return NULL;
    json_t *value = json_stringn(text, length);
    nm_free(text);
    return json_pack("{si so}", "id", id, "piece", value ? value : nm_wire_token_bytes(tokenizer, id));
}

/* A token takes some hundred bytes of memory with its piece, and some ten without. */
static nm_err check_count(const text_task *t, size_t count)
{
    size_t most = t->pieces ? (size_t)1 << 18 : (size_t)1 << 22;
    return count <= most ? NM_OK : nm_fail(NM_USAGE, "the text has %zu tokens: give at most %zu at a time%s", count, most, t->pieces ? ", or leave \"with_pieces\" away" : "");
}

static json_t *list_of(const text_task *t, const nm_tokenizer *tokenizer, const int32_t *ids, size_t count)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) json_array_append_new(list, t->pieces ? piece_of(tokenizer, ids[i]) : json_integer(ids[i]));
    return list;
}

static void tokenize_with(void *arg, const nm_served *served, nm_err err)
{
    text_task *t = arg;
    const nm_tokenizer *tokenizer;
    int32_t *ids = NULL;
    size_t count = 0;
    err = need_tokenizer(&tokenizer, served, err);
    unsigned flags = (t->parse ? NM_TEXT_SPECIAL : 0u) | (t->special ? NM_TEXT_BOS : 0u);
    if (err == NM_OK) err = nm_tokenize_within(tokenizer, t->content, t->length, flags, &(nm_tokenize_options){.cancel = &t->task.base.gone}, &ids, &count);
    if (err == NM_OK) err = check_count(t, count);
    json_t *value = err == NM_OK ? json_pack("{so}", "tokens", list_of(t, tokenizer, ids, count)) : NULL;
    nm_free(ids);
    if (value && t->vllm) nm_wire_merge(value, json_pack("{sI si}", "count", (json_int_t)count, "max_model_len", served->context));
    finish(t, err, value);
}

void nm_llamacpp_tokenize(nm_exchange *x, void *context) { run(x, context, read_tokenize, tokenize_with); }

/* As template and vocabulary have them: what a client needs that renders and counts by itself. */
static void info_with(void *arg, const nm_served *served, nm_err err)
{
    nm_task *t = arg;
    const nm_tokenizer *tokenizer;
    err = need_tokenizer(&tokenizer, served, err);
    if (err != NM_OK) nm_task_fail(t, err);
    else {
        int32_t bos = nm_token_bos(tokenizer), eos = nm_token_eos(tokenizer);
        nm_task_reply(t, json_pack("{ss* ss* ss* si}", "bos_token", bos >= 0 ? nm_token_raw(tokenizer, bos) : NULL, "eos_token", eos >= 0 ? nm_token_raw(tokenizer, eos) : NULL,
            "chat_template", served->template_text, "model_max_length", served->context));
    }
    nm_task_release(t);
}

void nm_llamacpp_tokenizer_info(nm_exchange *x, void *context)
{
    nm_task *t = nm_task_new(x, context, sizeof *t, NULL);
    if (!t) return;
    nm_task_call(t, nm_exchange_query(x, "model"), info_with);
    nm_task_release(t);
}

/* ---- Tokens to text -------------------------------------------------------------------------------------------------------------------------- */

static nm_err read_detokenize(text_task *t)
{
    NM_TRY(nm_field_array(t->body, "tokens", &t->tokens));
    if (!t->tokens) return nm_fail(NM_USAGE, "\"tokens\" is missing: an array of whole numbers");
    for (size_t i = 0; i < json_array_size(t->tokens); i++) {
        const json_t *one = json_array_get(t->tokens, i);
        if (!json_is_integer(one) || json_integer_value(one) < 0 || json_integer_value(one) > INT32_MAX)
            return nm_fail(NM_USAGE, "\"tokens\" must be an array of tokens: whole numbers");
    }
    return NM_OK;
}

static nm_err text_of(const nm_tokenizer *tokenizer, const json_t *tokens, char **text, size_t *length)
{
    size_t n = json_array_size(tokens);
    int32_t *ids = nm_calloc(n, sizeof *ids);
    if (!ids) return nm_fail_memory(n * sizeof *ids);
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(tokens, i));
    nm_err err = nm_detokenize(tokenizer, ids, n, NM_TEXT_SPECIAL, text, length);
    nm_free(ids);
    return err;
}

static void detokenize_with(void *arg, const nm_served *served, nm_err err)
{
    text_task *t = arg;
    const nm_tokenizer *tokenizer;
    char *text = NULL;
    size_t length = 0;
    err = need_tokenizer(&tokenizer, served, err);
    if (err == NM_OK) err = text_of(tokenizer, t->tokens, &text, &length);
    json_t *value = err == NM_OK ? nm_wire_text(text, length) : NULL;
    finish(t, err, value ? json_pack("{sO so}", "prompt", value, "content", value) : NULL);     /* vLLM's name and theirs */
    nm_free(text);
}

void nm_llamacpp_detokenize(nm_exchange *x, void *context) { run(x, context, read_detokenize, detokenize_with); }

/* ---- Messages to a prompt -------------------------------------------------------------------------------------------------------------------- */

/* What stands in it is what their /v1/chat/completions takes. */
static nm_err read_chat(text_task *t)
{
    NM_TRY(nm_openai_ask_read(&t->chat, t->body));
    NM_TRY(nm_openai_read_messages(&t->chat.messages, json_object_get(t->body, "messages")));
    NM_TRY(nm_openai_read_tools(&t->chat, t->body));
    NM_TRY(nm_field_object(t->body, "chat_template_kwargs", &t->chat.ask.template_kwargs));
    t->chat.ask.messages = t->chat.messages;
    return NM_OK;
}

static void prompt_with(void *arg, const nm_served *served, nm_err err)
{
    text_task *t = arg;
    char *text = NULL;
    size_t length = 0, count = 0;
    int32_t *ids = NULL;
    if (err == NM_OK) err = nm_served_prompt(served, &t->chat.ask, &t->task.base.gone, &text, &length, &ids, &count);
    finish(t, err, err == NM_OK ? json_pack("{so}", "prompt", nm_wire_text(text ? text : "", length)) : NULL);
    nm_free(text);
    nm_free(ids);
}

void nm_llamacpp_apply_template(nm_exchange *x, void *context) { run(x, context, read_chat, prompt_with); }
