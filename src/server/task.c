/* Requests that are answered later, and JSON on the wire. */
#include "server/task.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "server/fields.h"
#include "server/sse.h"

/* Enough digits that a float32 comes back as it was. */
static const size_t DUMP = JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9);

static void free_all(nm_request *r)
{
    nm_task *t = (nm_task *)r;
    if (t->drop) t->drop(t);
    nm_free(t);
}

void *nm_task_new_asking(nm_exchange *x, nm_server *server, size_t size, void (*drop)(void *task), size_t jobs)
{
    nm_task *t = nm_calloc(1, size);
    nm_err err = t ? nm_request_open(&t->base, x, jobs, free_all) : nm_fail_memory(size);
    if (err != NM_OK) {
        nm_exchange_fail_err(x, err);
        nm_free(t);
        return NULL;
    }
    t->server = server;
    t->drop = drop;
    return t;
}

void *nm_task_new(nm_exchange *x, nm_server *server, size_t size, void (*drop)(void *task)) { return nm_task_new_asking(x, server, size, drop, 1); }

void nm_task_release(void *task) { nm_request_release(task); }

void nm_task_ask(nm_task *t, const nm_ask *ask, nm_listener listener)
{
    listener.arg = t;
    nm_err err = nm_request_ask(&t->base, t->server->engine, t->asked++, ask, &listener);
    if (err != NM_OK) nm_task_fail(t, err);
}

void nm_task_call(nm_task *t, const char *model, nm_call_fn fn)
{
    atomic_fetch_add(&t->base.refs, 1);
    size_t bytes;
    nm_exchange_body(t->base.x, &bytes);
    nm_err err = nm_engine_call_text(t->server->engine, model, bytes, fn, t, NULL);
    if (err == NM_OK) return;
    nm_task_fail(t, err);
    nm_task_release(t);
}

/* ---- Answers --------------------------------------------------------------------------------------------------------------------------- */

static int append(const char *bytes, size_t length, void *arg) { return nm_str_append(arg, bytes, length) == NM_OK ? 0 : -1; }

/* The text of a value, which is taken over. False without memory. */
static bool dump(nm_str *out, json_t *value)
{
    bool good = value && json_dump_callback(value, append, out, DUMP) == 0;
    json_decref(value);
    return good;
}

static void fail_memory(nm_task *t) { nm_task_fail(t, nm_fail(NM_NO_MEMORY, "there is no memory for the answer")); }

void nm_reply_json(nm_exchange *x, json_t *value)
{
    nm_str s = {0};
    if (dump(&s, value)) nm_exchange_reply(x, 200, "application/json; charset=utf-8", s.data, s.length);
    else nm_exchange_fail_err(x, nm_fail(NM_NO_MEMORY, "there is no memory for the answer"));
    nm_str_free(&s);
}

void nm_reply_text(nm_exchange *x, const char *text) { nm_exchange_reply(x, 200, "text/plain; charset=utf-8", text, strlen(text)); }

void nm_task_reply(nm_task *t, json_t *value)
{
    if (t->over) json_decref(value);
    else nm_reply_json(t->base.x, value);
    t->over = true;
}

void nm_task_begin_lines(nm_task *t)
{
    if (t->over) return;
    nm_exchange_begin(t->base.x, 200, "application/x-ndjson");
    t->begun = true;
}

void nm_task_begin_events(nm_task *t)
{
    if (t->over) return;
    nm_sse_begin(t->base.x);
    t->begun = true;
}

void nm_task_line(nm_task *t, json_t *value)
{
    nm_str s = {0};
    if (!dump(&s, value) || nm_str_putc(&s, '\n') != NM_OK) fail_memory(t);
    else if (!t->over) nm_exchange_write(t->base.x, s.data, s.length);
    nm_str_free(&s);
}

void nm_task_event(nm_task *t, const char *event, json_t *value)
{
    nm_str s = {0};
    if (!dump(&s, value) || (!t->over && nm_sse_send(t->base.x, event, s.data, s.length) != NM_OK)) fail_memory(t);
    nm_str_free(&s);
}

void nm_task_end(nm_task *t)
{
    if (!t->over) nm_exchange_end(t->base.x);
    t->over = true;
}

void nm_task_fail(nm_task *t, nm_err err)
{
    if (!t->over) nm_exchange_fail_err(t->base.x, err);
    t->over = true;
    nm_request_cancel(&t->base);
}

/* A client that has gone reads nothing: for one that is there, what was interrupted is the server's end of it. */
static int status_of(const nm_ended *e)
{
    static const struct { const char *code; int status; } by_code[] = {{"model_not_found", 404}, {"queue_full", 429}, {"exceed_context_size_error", 400}};
    for (size_t i = 0; e->code && i < sizeof by_code / sizeof *by_code; i++)
        if (!strcmp(e->code, by_code[i].code)) return by_code[i].status;
    switch (e->err) {
    case NM_USAGE: return 400;
    case NM_NOT_FOUND: return 404;
    case NM_REFUSED: return 403;
    case NM_NO_MEMORY: case NM_INTERRUPTED: return 503;
    default: return 500;
    }
}

void nm_task_fail_ended(nm_task *t, const nm_ended *e)
{
    if (!t->over) nm_exchange_fail(t->base.x, status_of(e), NULL, e->code, e->error && *e->error ? e->error : "the work on this request was ended");
    t->over = true;
}

/* ---- Pieces of JSON ------------------------------------------------------------------------------------------------------------------ */

json_t *nm_wire_text(const char *bytes, size_t length)
{
    json_t *value = json_stringn(bytes, length);
    if (value) return value;
    nm_str s = {0};
    nm_err err = NM_OK;
    for (size_t i = 0; i < length && err == NM_OK;) {
        int used;
        bool good = nm_utf8_decode(bytes + i, length - i, &used) >= 0;
        err = good ? nm_str_append(&s, bytes + i, (size_t)used) : nm_str_puts(&s, "\xef\xbf\xbd");
        i += (size_t)used;
    }
    if (err == NM_OK) value = json_stringn(s.data ? s.data : "", s.length);
    nm_str_free(&s);
    return value;
}

static char *token_text(const nm_tokenizer *tokenizer, int32_t id, size_t *length)
{
    char *text = NULL;
    *length = 0;
    return tokenizer && nm_detokenize(tokenizer, &id, 1, NM_TEXT_SPECIAL | NM_TEXT_CONTINUES, &text, length) == NM_OK ? text : NULL;
}

json_t *nm_wire_token(const nm_tokenizer *tokenizer, int32_t id)
{
    size_t length;
    char *text = token_text(tokenizer, id, &length);
    json_t *value = nm_wire_text(text ? text : "", length);
    nm_free(text);
    return value;
}

json_t *nm_wire_token_bytes(const nm_tokenizer *tokenizer, int32_t id)
{
    size_t length;
    char *text = token_text(tokenizer, id, &length);
    json_t *bytes = json_array();
    for (size_t i = 0; i < length; i++) json_array_append_new(bytes, json_integer((unsigned char)text[i]));
    nm_free(text);
    return bytes;
}

double nm_wire_logprob(double logprob) { return isfinite(logprob) ? logprob : -9999; }

json_t *nm_wire_time(int64_t seconds)
{
    struct timespec now = {.tv_sec = (time_t)seconds};
    struct tm parts;
    char text[64];
    if (seconds < 0) clock_gettime(CLOCK_REALTIME, &now);
    if (!gmtime_r(&now.tv_sec, &parts)) return json_string("1970-01-01T00:00:00Z");
    size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
    if (seconds < 0) return json_sprintf("%.*s.%09ldZ", (int)n, text, now.tv_nsec);
    return json_sprintf("%.*sZ", (int)n, text);
}

json_t *nm_wire_modified(const json_t *model)
{
    const json_t *told = json_object_get(model, "modified");
    if (json_is_string(told)) return json_string(json_string_value(told));
    double seconds = json_number_value(told);
    return nm_wire_time(seconds > 0 && seconds < 1e11 ? (int64_t)seconds : 0);
}

bool nm_wire_merge(json_t *to, json_t *from)
{
    bool good = from && to && json_object_update(to, from) == 0;
    json_decref(from);
    return good;
}

/* ---- What several dialects take -------------------------------------------------------------------------------------------------------- */

static nm_err read_lora(const json_t *item, json_t *adapters, nm_ask_lora *out)
{
    const json_t *id = json_object_get(item, "id");
    out->scale = 1;
    if (json_is_integer(id)) id = json_object_get(json_array_get(adapters, json_integer_value(id) < 0 ? SIZE_MAX : (size_t)json_integer_value(id)), "name");
    if (!json_is_string(id)) return nm_fail(NM_USAGE, "\"lora\" must be an array of {\"id\", \"scale\"}: an adapter's name, or its place in what /lora-adapters lists");
    out->id = json_string_value(id);
    return nm_field_real(item, "scale", -1e6, 1e6, &out->scale);
}

nm_err nm_field_lora(const json_t *object, json_t *adapters, nm_ask_lora **list, size_t *count)
{
    enum { MOST = 64 };
    json_t *given = NULL;
    NM_TRY(nm_field_array(object, "lora", &given));
    size_t n = json_array_size(given);
    if (!n) return NM_OK;
    if (n > MOST) return nm_fail(NM_USAGE, "\"lora\" has %zu adapters: give at most %d", n, MOST);
    *list = nm_calloc(n, sizeof **list);
    if (!*list) return nm_fail_memory(n * sizeof **list);
    for (size_t i = 0; i < n; i++) NM_TRY(read_lora(json_array_get(given, i), adapters, &(*list)[i]));
    *count = n;
    return NM_OK;
}

nm_err nm_text_line(nm_str *s, const char *text, size_t length)
{
    if (s->data) NM_TRY(nm_str_putc(s, '\n'));
    return nm_str_append(s, text, length);
}

nm_err nm_text_value(json_t **out, nm_str *s)
{
    *out = json_stringn(s->data ? s->data : "", s->length);
    nm_str_free(s);
    return *out ? NM_OK : nm_fail(NM_NO_MEMORY, "there is no memory for the messages");
}

nm_err nm_text_add(nm_str *s, const json_t *content, const char *where)
{
    if (json_is_string(content)) return nm_text_line(s, json_string_value(content), json_string_length(content));
    if (!json_is_array(content)) return nm_fail(NM_USAGE, "%s must be a string or an array of parts of type \"text\"", where);
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *part = json_array_get(content, i), *text = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!type || strcmp(type, "text")) return nm_fail(NM_USAGE, "%s[%zu] is of type \"%.40s\": only text is read", where, i, type ? type : "(none)");
        if (!json_is_string(text)) return nm_fail(NM_USAGE, "%s[%zu].text must be a string", where, i);
        NM_TRY(nm_text_line(s, json_string_value(text), json_string_length(text)));
    }
    return NM_OK;
}
