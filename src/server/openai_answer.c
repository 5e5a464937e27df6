/* What answers of OpenAI's dialect have in common: errors, usage, timings, probabilities of tokens. */
#include <math.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "server/openai.h"

/* ---- Errors ------------------------------------------------------------------------------------------------------ */

static const char *type_of(int status)
{
    switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 429: return "rate_limit_error";
    case 501: return "not_supported_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

/* What refuses a member begins with its name in quotes. */
static void write_param(nm_json_out *o, const nm_openai_error *e)
{
    const char *end = *e->message == '"' && e->status == 400 ? strchr(e->message + 1, '"') : NULL;
    if (e->param || !end) nm_json_text(o, "param", e->param);
    else nm_json_bytes(o, "param", e->message + 1, (size_t)(end - e->message - 1));
}

void nm_openai_write_error(nm_json_out *o, const nm_openai_error *e)
{
    nm_json_begin_object(o, "error");
    nm_json_text(o, "message", e->message);
    nm_json_text(o, "type", e->type ? e->type : type_of(e->status));
    write_param(o, e);
    nm_json_text(o, "code", e->code);
    if (e->context) nm_json_int(o, "n_prompt_tokens", e->prompt_tokens);
    if (e->context) nm_json_int(o, "n_ctx", e->context);
    nm_json_end_object(o);
}

void nm_openai_fail(nm_exchange *x, const nm_openai_error *e)
{
    static const char last[] = "{\"error\":{\"message\":\"there is no memory left\",\"type\":\"server_error\",\"param\":null,\"code\":null}}";
    nm_json_out o = {0};
    nm_json_begin_object(&o, NULL);
    nm_openai_write_error(&o, e);
    nm_json_end_object(&o);
    if (e->status == 429) nm_exchange_add_header(x, "Retry-After", "1");
    if (o.err == NM_OK) nm_exchange_reply(x, e->status, "application/json", o.text.data, o.text.length);
    else nm_exchange_reply(x, 503, "application/json", last, sizeof last - 1);
    nm_json_free_out(&o);
}

static int status_of(nm_err err)
{
    switch (err) {
    case NM_USAGE: return 400;
    case NM_NOT_FOUND: return 404;
    case NM_REFUSED: return 403;
    case NM_NO_MEMORY: return 503;
    case NM_INTERRUPTED: return 499;
    default: return 500;
    }
}

void nm_openai_fail_err(nm_exchange *x, nm_err err)
{
    nm_openai_error e = {.status = status_of(err), .message = nm_error_text()};
    nm_openai_fail(x, &e);
}

nm_openai_error nm_openai_error_of(const nm_ended *ended)
{
    const char *code = ended->code ? ended->code : "";
    nm_openai_error e = {.status = status_of(ended->err), .code = ended->code, .message = ended->error ? ended->error : "the work on this request was ended"};
    if (!strcmp(code, "model_not_found")) {
        e.status = 404;
        e.param = "model";
    } else if (!strcmp(code, "queue_full")) {
        e.status = 429;
    } else if (!strcmp(code, "exceed_context_size_error")) {
        e.status = 400;
        e.type = code;
        e.prompt_tokens = ended->prompt_tokens;
        e.context = ended->context;
    } else if (ended->err == NM_INTERRUPTED) {
        e.status = 503;     /* a client that has gone reads nothing: for one that is there, it is the server that ends */
    }
    return e;
}

/* ---- Numbers ----------------------------------------------------------------------------------------------------- */

const char *nm_openai_finish(nm_finish finish, bool functions)
{
    if (finish == NM_FINISH_LENGTH) return "length";
    if (finish == NM_FINISH_TOOL_CALLS) return functions ? "function_call" : "tool_calls";
    return "stop";
}

void nm_openai_write_usage(nm_json_out *o, const nm_ended *ended, int32_t reasoning_tokens)
{
    nm_json_begin_object(o, "usage");
    nm_json_int(o, "prompt_tokens", ended->prompt_tokens);
    nm_json_int(o, "completion_tokens", ended->tokens);
    nm_json_int(o, "total_tokens", (int64_t)ended->prompt_tokens + ended->tokens);
    nm_json_begin_object(o, "prompt_tokens_details");
    nm_json_int(o, "cached_tokens", ended->cached_tokens);
    nm_json_end_object(o);
    nm_json_begin_object(o, "completion_tokens_details");
    nm_json_int(o, "reasoning_tokens", reasoning_tokens);
    nm_json_end_object(o);
    nm_json_end_object(o);
}

static void write_speed(nm_json_out *o, const char *const keys[4], int32_t n, double seconds)
{
    nm_json_int(o, keys[0], n);
    nm_json_real(o, keys[1], seconds * 1000);
    nm_json_real(o, keys[2], n > 0 ? seconds * 1000 / n : 0);
    nm_json_real(o, keys[3], seconds > 0 ? n / seconds : 0);
}

void nm_openai_write_timings(nm_json_out *o, const nm_ended *ended)
{
    static const char *const prompt[] = {"prompt_n", "prompt_ms", "prompt_per_token_ms", "prompt_per_second"};
    static const char *const predicted[] = {"predicted_n", "predicted_ms", "predicted_per_token_ms", "predicted_per_second"};
    nm_json_begin_object(o, "timings");
    nm_json_int(o, "cache_n", ended->cached_tokens);
    write_speed(o, prompt, ended->prompt_tokens - ended->cached_tokens, ended->prompt_seconds);
    write_speed(o, predicted, ended->tokens, ended->seconds);
    nm_json_end_object(o);
}

/* ---- Probabilities ----------------------------------------------------------------------------------------------- */

double nm_openai_logprob(double logprob) { return logprob > -9999.0 ? logprob : -9999.0; }

nm_err nm_openai_token_text(const nm_tokenizer *tokenizer, int32_t id, char **text, size_t *length)
{
    return nm_detokenize(tokenizer, &id, 1, NM_TEXT_SPECIAL | NM_TEXT_CONTINUES, text, length);
}

/* The members "token", "logprob", "bytes" of the object that is open. */
static void write_token(nm_json_out *o, const nm_tokenizer *tokenizer, int32_t id, double logprob)
{
    char *text = NULL;
    size_t length = 0;
    nm_err err = nm_openai_token_text(tokenizer, id, &text, &length);
    if (err != NM_OK && o->err == NM_OK) o->err = err;
    nm_json_bytes(o, "token", text ? text : "", length);
    nm_json_real(o, "logprob", nm_openai_logprob(logprob));
    nm_json_begin_array(o, "bytes");
    for (size_t i = 0; i < length; i++) nm_json_int(o, NULL, (unsigned char)text[i]);
    nm_json_end_array(o);
    nm_free(text);
}

void nm_openai_write_logprobs(nm_json_out *o, const nm_tokenizer *tokenizer, const nm_token_out *tokens, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        nm_json_begin_object(o, NULL);
        write_token(o, tokenizer, tokens[i].id, tokens[i].logprob);
        nm_json_begin_array(o, "top_logprobs");
        for (int32_t t = 0; t < tokens[i].n_top; t++) {
            nm_json_begin_object(o, NULL);
            write_token(o, tokenizer, tokens[i].top[t].id, tokens[i].top[t].logprob);
            nm_json_end_object(o);
        }
        nm_json_end_array(o);
        nm_json_end_object(o);
    }
}
