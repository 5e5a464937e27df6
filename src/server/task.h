/* Owns one request that is answered later: its exchange, its job, who still holds it; and JSON on the wire, whole, in lines and in events. Refuses to know what is
 * asked and in whose words it is answered: those are a dialect's. */
#ifndef NM_SERVER_TASK_H
#define NM_SERVER_TASK_H

#include "base/str.h"
#include "server/request.h"
#include "server/server.h"

/* The first member of a dialect's own struct. */
typedef struct nm_task {
    nm_request base;
    nm_server *server;
    void (*drop)(void *task);       /* frees what the dialect keeps in it; may be NULL */
    size_t asked;                   /* jobs so far */
    bool begun, over;               /* the answer's stream; one thread at a time */
} nm_task;

/* Zeroed, of `size` bytes, held once by its maker; its job ends when the client goes. On failure the exchange has been answered, and NULL comes back. */
void *nm_task_new(nm_exchange *x, nm_server *server, size_t size, void (*drop)(void *task));
/* The same for one that asks the engine `jobs` times, one after the other. */
void *nm_task_new_asking(nm_exchange *x, nm_server *server, size_t size, void (*drop)(void *task), size_t jobs);
void nm_task_release(void *task);
/* Asks the engine; arg of the listener becomes the task, whose `ended` must call nm_task_release. What the engine refuses at once is answered here. */
void nm_task_ask(nm_task *task, const nm_ask *ask, nm_listener listener);
/* Runs fn with the model open and the task as its argument; it must call nm_task_release. What the engine refuses at once is answered here. */
void nm_task_call(nm_task *task, const char *model, nm_call_fn fn);

/* Answers. A value is taken over; NULL, for want of memory, ends the request with an error. After an error or the end nothing is sent. */
void nm_task_reply(nm_task *task, json_t *value);
void nm_task_begin_lines(nm_task *task);
void nm_task_begin_events(nm_task *task);
void nm_task_line(nm_task *task, json_t *value);                        /* one line of JSON Lines */
void nm_task_event(nm_task *task, const char *event, json_t *value);    /* a server-sent event; event NULL: without a name */
void nm_task_end(nm_task *task);
void nm_task_fail(nm_task *task, nm_err err);
/* What went wrong with a job, with the status that its error asks for. */
void nm_task_fail_ended(nm_task *task, const nm_ended *ended);

/* The same for handlers that answer at once. */
void nm_reply_json(nm_exchange *x, json_t *value);
void nm_reply_text(nm_exchange *x, const char *text);

/* A JSON string of bytes that a model wrote: what is no UTF-8 becomes U+FFFD. */
json_t *nm_wire_text(const char *bytes, size_t length);
/* What a token stands for: a JSON string; and its bytes as an array of numbers. NULL without memory. */
json_t *nm_wire_token(const nm_tokenizer *tokenizer, int32_t id);
json_t *nm_wire_token_bytes(const nm_tokenizer *tokenizer, int32_t id);
/* JSON knows no infinity: what is impossible has the place that OpenAI's servers give it. */
double nm_wire_logprob(double logprob);
/* "2026-01-31T12:00:00Z", or with nanoseconds of the clock's for now (seconds negative). */
json_t *nm_wire_time(int64_t seconds);
/* "modified" of nm_engine_models, however it is told. */
json_t *nm_wire_modified(const json_t *model);
/* Adds members of `from` to `to`, taking `from` over. False without memory. */
bool nm_wire_merge(json_t *to, json_t *from);

/* ---- What several dialects take ---- */

/* "lora": [{"id", "scale"}]. *list: nm_free; names are borrowed from the object. A number is that adapter's place in the default model's stack. */
nm_err nm_field_lora(const json_t *object, json_t *adapters, nm_ask_lora **list, size_t *count);
/* A text that grows by lines: a line break stands in front of all but the first. All zero = nothing yet. */
nm_err nm_text_line(nm_str *s, const char *text, size_t length);
/* The text of a message's content, a string or an array of {"type": "text", "text"}. where: for errors, "messages[3].content". */
nm_err nm_text_add(nm_str *s, const json_t *content, const char *where);
/* As a JSON string; s is empty afterwards. */
nm_err nm_text_value(json_t **out, nm_str *s);

#endif
