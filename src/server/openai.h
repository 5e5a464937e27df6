/* Owns what the files of OpenAI's dialect share: reading requests into an nm_ask, the parts that several answers have, errors with their `param`. Refuses to be included by
 * anything but openai*.c, their tests and llama.cpp's /apply-template, which takes the same messages. The wire is that of the API
 * reference, as the `openai` package for Python types it. */
#ifndef NM_SERVER_OPENAI_H
#define NM_SERVER_OPENAI_H

#include <jansson.h>

#include "server/engine.h"
#include "server/json_write.h"
#include "server/request.h"
#include "server/server.h"

#define NM_OPENAI_FINGERPRINT "fp_nomoat_" NM_VERSION

/* ---- Errors ---- */
typedef struct nm_openai_error {
    int status;
    const char *type, *code, *param, *message;      /* type NULL: by status; code may be NULL, and param, which then is what the message begins
                                                     * with in quotes */
    int32_t prompt_tokens, context;                 /* of exceed_context_size_error; else 0 */
} nm_openai_error;
void nm_openai_fail(nm_exchange *x, const nm_openai_error *e);
/* From the thread's error line. */
void nm_openai_fail_err(nm_exchange *x, nm_err err);
/* What an ending with an error is on the wire. The strings are of `ended`. */
nm_openai_error nm_openai_error_of(const nm_ended *ended);
/* The members of {"error": ...}: appended to an object that is open. */
void nm_openai_write_error(nm_json_out *o, const nm_openai_error *e);

/* ---- Requests ---- */
typedef struct nm_openai_ask {
    nm_ask ask;
    const char **stop;
    nm_ask_lora *lora;
    int32_t *bias_id;
    float *bias;
    json_t *messages, *tools, *tool_choice, *schema;    /* ours; everything else is the body's */
    char *gbnf;                                     /* ours: of choices and patterns */
    bool functions;                                 /* tools came in the old form, and calls are told in it */
} nm_openai_ask;
/* What chat, completions and responses name alike: model, lora, sampling, stop, grammar. out is to be freed also after a failure. */
nm_err nm_openai_ask_read(nm_openai_ask *out, const json_t *body);
void nm_openai_ask_free(nm_openai_ask *a);
/* What chat, completions and responses say of what may come out beside a format: grammar, json_schema, guided_*, structured_outputs. */
nm_err nm_openai_read_constraint(nm_openai_ask *a, const json_t *body);
/* {"type": "text" | "json_object" | "json_schema", ...}; schema_in is where the latter's "schema" stands: "json_schema" for chat, NULL for the object itself. name: for errors. */
nm_err nm_openai_read_format(nm_openai_ask *a, const json_t *format, const char *name, const char *schema_in);
nm_err nm_openai_read_effort(nm_openai_ask *a, const json_t *object, const char *name);
/* "max_tokens" and the like; -1 is no limit. */
nm_err nm_openai_read_most(nm_openai_ask *a, const json_t *body, const char *name);
/* "stream", and of "stream_options" "include_usage". */
nm_err nm_openai_read_stream(const json_t *body, bool *stream, bool *usage);
/* "tools", "tool_choice", "parallel_tool_calls", and the old "functions", "function_call" in their place. */
nm_err nm_openai_read_tools(nm_openai_ask *a, const json_t *body);
/* The array "messages" as templates take it: text parts joined, arguments as objects, "developer" as "system", "function" as "tool". */
nm_err nm_openai_read_messages(json_t **out, const json_t *messages);
/* Of one content: a string, null, or an array of parts that are text, joined by newlines. *out: a string or null, the caller's. where is for errors. */
nm_err nm_openai_read_content(json_t **out, const json_t *content, const char *where);
/* Arguments of a call: a string that holds a JSON object becomes it; "" is {}; another string stays. New reference, NULL without memory. */
json_t *nm_openai_arguments(const json_t *arguments);

/* ---- Answers ---- */
const char *nm_openai_finish(nm_finish finish, bool functions);
void nm_openai_write_usage(nm_json_out *o, const nm_ended *ended, int32_t reasoning_tokens);      /* the member "usage" */
void nm_openai_write_timings(nm_json_out *o, const nm_ended *ended);                              /* the member "timings", as llama.cpp's server has it */
/* What a token stands for, in bytes; may be part of a character. *text: nm_free. */
nm_err nm_openai_token_text(const nm_tokenizer *tokenizer, int32_t id, char **text, size_t *length);
/* Elements of chat's logprobs.content, appended to the array that is open. */
void nm_openai_write_logprobs(nm_json_out *o, const nm_tokenizer *tokenizer, const nm_token_out *tokens, size_t n);
/* OpenAI's place for what is impossible: JSON knows no infinity. */
double nm_openai_logprob(double logprob);

/* ---- Handlers ---- */
void nm_openai_chat(nm_exchange *x, void *context);
void nm_openai_completions(nm_exchange *x, void *context);
void nm_openai_embeddings(nm_exchange *x, void *context);
void nm_openai_responses(nm_exchange *x, void *context);
void nm_openai_response_get(nm_exchange *x, void *context);
void nm_openai_response_delete(nm_exchange *x, void *context);

#endif
