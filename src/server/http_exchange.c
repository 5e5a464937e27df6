/* One request with its answer: what handlers see and say, from whichever thread, and how that reaches libmicrohttpd. A connection sleeps in libmicrohttpd ("suspended")
 * while there is nothing to send; whoever has something wakes it. Both happen under the exchange's lock, so that no wake is lost. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/err.h"
#include "base/mem.h"
#include "os/clock.h"
#include "server/http_private.h"
#include "server/server.h"

static atomic_ullong last_id;

nm_exchange *nm_exchange_new(nm_http *http)
{
    nm_exchange *x = nm_calloc(1, sizeof *x);
    if (!x) return NULL;
    atomic_init(&x->holds, 1);
    atomic_init(&x->gone, false);
    pthread_mutex_init(&x->lock, NULL);
    pthread_cond_init(&x->told, NULL);
    x->id = atomic_fetch_add(&last_id, 1) + 1;
    x->http = http;
    x->most_pending = http->most_pending;
    x->dialect = NM_DIALECT_OURS;
    x->tail = "";
    return x;
}

nm_exchange *nm_exchange_hold(nm_exchange *x)
{
    atomic_fetch_add(&x->holds, 1);
    return x;
}

void nm_exchange_release(nm_exchange **held)
{
    nm_exchange *x = *held;
    *held = NULL;
    if (!x || atomic_fetch_sub(&x->holds, 1) != 1) return;
    nm_str *const strings[] = {&x->target, &x->method, &x->path, &x->query, &x->headers, &x->body, &x->added, &x->out};
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) nm_str_free(strings[i]);
    nm_free(x->type);
    pthread_cond_destroy(&x->told);
    pthread_mutex_destroy(&x->lock);
    nm_free(x);
}

/* ---- The request ---- */

const char *nm_exchange_method(const nm_exchange *x) { return x->method.data; }
const char *nm_exchange_path(const nm_exchange *x) { return x->path.data; }
const char *nm_exchange_tail(const nm_exchange *x) { return x->tail; }
const char *nm_exchange_query(const nm_exchange *x, const char *key) { return nm_list_get(&x->query, key, false, 0); }
const char *nm_exchange_header(const nm_exchange *x, const char *name) { return nm_list_get(&x->headers, name, true, 0); }
unsigned long long nm_exchange_id(const nm_exchange *x) { return x->id; }
unsigned long long nm_exchange_client(const nm_exchange *x) { return x->client; }

const char *nm_exchange_body(const nm_exchange *x, size_t *length)
{
    *length = x->body.length;
    return x->body.data ? x->body.data : "";
}

/* ---- The answer. What follows is called under the lock where it says so. ---- */

/* Under the lock. */
static void wake(nm_exchange *x)
{
    if (!x->suspended) return;
    x->suspended = false;
    MHD_resume_connection(x->connection);
}

/* Under the lock: the client gets nothing more. libmicrohttpd finds the socket shut, and detaches. */
static void drop(nm_exchange *x)
{
    atomic_store(&x->gone, true);
    nm_str_free(&x->out);
    x->taken = 0;
    if (!x->connection) return;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (info) shutdown(info->connect_fd, SHUT_RDWR);
    wake(x);
}

/* Under the lock: on_gone is not called any more, nor runs, unless this is called from it. */
static void forget(nm_exchange *x)
{
    x->on_gone = NULL;
    while (x->telling && !pthread_equal(x->teller, pthread_self())) pthread_cond_wait(&x->told, &x->lock);
}

/* Takes and gives back the lock. */
static void tell(nm_exchange *x)
{
    void (*fn)(void *) = x->on_gone;
    void *arg = x->gone_arg;
    if (fn) {
        x->on_gone = NULL;
        x->telling = true;
        x->teller = pthread_self();
        pthread_mutex_unlock(&x->lock);
        fn(arg);
        pthread_mutex_lock(&x->lock);
        x->telling = false;
        pthread_cond_broadcast(&x->told);
    }
}

void nm_exchange_leave(nm_exchange *x)
{
    pthread_mutex_lock(&x->lock);
    if (!x->ended) drop(x);
    pthread_mutex_unlock(&x->lock);
}

/* A zero in front of the next chunk's length makes no other number of it, and a stream that sleeps has sent all there was before. Where it does not sleep libmicrohttpd is sending,
 * which probes as well. Before an answer begins nothing helps: libmicrohttpd 0.9.75, when woken, reads the end of what the client sends first, and closes. */
void nm_exchange_probe(nm_exchange *x)
{
    pthread_mutex_lock(&x->lock);
    if (x->suspended && !(x->stream && x->chunked)) drop(x);
    else if (x->suspended && !x->probed) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        x->probed = true;
        if (!info || send(info->connect_fd, "0", 1, MSG_NOSIGNAL | MSG_DONTWAIT) != 1) drop(x);
    }
    pthread_mutex_unlock(&x->lock);
}

void nm_exchange_detach(nm_exchange *x)
{
    pthread_mutex_lock(&x->lock);
    x->connection = NULL;
    x->suspended = false;
    atomic_store(&x->gone, true);
    nm_str_free(&x->out);
    x->taken = 0;
    if (!x->ended) tell(x);
    pthread_mutex_unlock(&x->lock);
}

bool nm_exchange_gone(const nm_exchange *x) { return atomic_load_explicit(&x->gone, memory_order_relaxed); }

void nm_exchange_on_gone(nm_exchange *x, void (*fn)(void *arg), void *arg)
{
    pthread_mutex_lock(&x->lock);
    if (!x->ended) {
        x->on_gone = fn;
        x->gone_arg = arg;
        if (!x->connection) tell(x);    /* it is too late for nm_exchange_detach to do it */
    }
    pthread_mutex_unlock(&x->lock);
}

void nm_exchange_forget(nm_exchange *x)
{
    pthread_mutex_lock(&x->lock);
    forget(x);
    pthread_mutex_unlock(&x->lock);
}

void nm_exchange_add_header(nm_exchange *x, const char *name, const char *value)
{
    size_t n = strlen(name), v = strlen(value);
    if (!nm_is_token(name, n) || !nm_is_field_value(value, v)) return;
    pthread_mutex_lock(&x->lock);
    size_t before = x->added.length;
    if (!x->answered && nm_list_put(&x->added, name, n, value, v) != NM_OK) x->added.length = before;     /* no half header */
    pthread_mutex_unlock(&x->lock);
}

/* Under the lock. False: there is an answer already. */
static bool take_answer(nm_exchange *x, int status, const char *type)
{
    if (x->answered) return false;
    x->answered = true;
    x->status = status;
    x->type = type && nm_is_field_value(type, strlen(type)) ? nm_strndup(type, strlen(type)) : NULL;
    return true;
}

void nm_exchange_reply(nm_exchange *x, int status, const char *type, const char *body, size_t length)
{
    pthread_mutex_lock(&x->lock);
    if (take_answer(x, status, type)) {
        if (!x->gone && nm_str_append(&x->out, body, length) != NM_OK) x->status = 503;   /* without a body: there is no memory for one */
        x->ended = true;
        wake(x);
    }
    forget(x);
    pthread_mutex_unlock(&x->lock);
}

void nm_exchange_begin(nm_exchange *x, int status, const char *type)
{
    pthread_mutex_lock(&x->lock);
    if (take_answer(x, status, type)) {
        x->stream = true;
        x->said = nm_clock_ns();
        wake(x);
    }
    pthread_mutex_unlock(&x->lock);
}

/* Under the lock: room for `length` bytes more; what was sent makes place first. */
static bool make_room(nm_exchange *x, size_t length)
{
    size_t left = x->out.length - x->taken;
    if (length > x->most_pending || left > x->most_pending - length) return false;
    if (x->taken > left) {      /* a byte is moved at most once for each that was sent */
        memmove(x->out.data, x->out.data + x->taken, left);
        x->out.length = left;
        x->taken = 0;
    }
    return true;
}

/* Under the lock. */
static void say(nm_exchange *x, const char *bytes, size_t length)
{
    x->said = nm_clock_ns();
    if (make_room(x, length) && nm_str_append(&x->out, bytes, length) == NM_OK) wake(x);
    else drop(x);
}

void nm_exchange_write(nm_exchange *x, const char *bytes, size_t length)
{
    pthread_mutex_lock(&x->lock);
    if (length && x->stream && !x->ended && !x->gone) say(x, bytes, length);
    pthread_mutex_unlock(&x->lock);
}

/* Anthropic's clients know an event for it, others a comment. */
void nm_exchange_ping(nm_exchange *x, uint64_t since)
{
    const char *text = x->dialect == NM_DIALECT_ANTHROPIC ? "event: ping\ndata: {\"type\":\"ping\"}\n\n" : ":\n\n";
    pthread_mutex_lock(&x->lock);
    bool events = x->stream && x->type && !strcmp(x->type, "text/event-stream");
    if (events && x->suspended && !x->ended && !x->gone && x->said < since) say(x, text, strlen(text));
    pthread_mutex_unlock(&x->lock);
}

void nm_exchange_end(nm_exchange *x)
{
    pthread_mutex_lock(&x->lock);
    if (x->stream && !x->ended) {
        x->ended = true;
        wake(x);
    }
    forget(x);
    pthread_mutex_unlock(&x->lock);
}

/* ---- Errors ---- */

void nm_exchange_fail(nm_exchange *x, int status, const char *type, const char *code, const char *message)
{
    pthread_mutex_lock(&x->lock);
    bool stream = x->stream, answered = x->answered, retry = nm_list_get(&x->added, "Retry-After", true, 0) != NULL;
    pthread_mutex_unlock(&x->lock);
    char *body = answered && !stream ? NULL : nm_error_body(x->dialect, status, type, code, message, stream);
    if (stream) {
        if (body) nm_exchange_write(x, body, strlen(body));
        nm_exchange_end(x);
    } else {
        if ((status == 429 || status == 503) && !retry) nm_exchange_add_header(x, "Retry-After", "1");
        nm_exchange_reply(x, body ? status : 503, "application/json; charset=utf-8", body ? body : "", body ? strlen(body) : 0);
    }
    nm_free(body);
}

void nm_exchange_fail_err(nm_exchange *x, nm_err err)
{
    int status = 500;
    if (err == NM_FAILED && nm_error_is_full()) {
        nm_exchange_fail(x, 507, NULL, "disk_full", "the disk is full: nothing of this was kept. Make room and try again");
        return;
    }
    if (err == NM_USAGE) status = 400;
    else if (err == NM_NOT_FOUND) status = 404;
    else if (err == NM_REFUSED) status = 403;
    else if (err == NM_NO_MEMORY) status = 503;
    else if (err == NM_INTERRUPTED) status = 499;
    nm_exchange_fail(x, status, NULL, NULL, nm_error_text());
}

/* ---- To libmicrohttpd, on its thread ---- */

/* Under the lock. */
static void sleep_on(nm_exchange *x)
{
    x->suspended = true;
    MHD_suspend_connection(x->connection);
}

static ssize_t read_stream(void *exchange, uint64_t position, char *to, size_t room)
{
    nm_exchange *x = exchange;
    ssize_t got = 0;
    pthread_mutex_lock(&x->lock);
    size_t left = x->out.length - x->taken;
    if (x->gone) got = MHD_CONTENT_READER_END_WITH_ERROR;
    else if (left) {
        got = (ssize_t)(left < room ? left : room);
        memcpy(to, x->out.data + x->taken, (size_t)got);
        x->taken += (size_t)got;
        x->probed = false;
        if ((size_t)got == left) x->taken = x->out.length = 0;
    } else if (x->ended) got = MHD_CONTENT_READER_END_OF_STREAM;
    else if (atomic_load(&x->http->closing)) got = MHD_CONTENT_READER_END_WITH_ERROR;
    else sleep_on(x);
    pthread_mutex_unlock(&x->lock);
    return got;
}

static void release_stream(void *exchange)
{
    nm_exchange *x = exchange;
    nm_exchange_release(&x);
}

/* The body is handed over: libmicrohttpd frees it. */
static struct MHD_Response *whole(nm_str body)
{
    if (!body.length) {
        nm_str_free(&body);
        return MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    }
    struct MHD_Response *response = MHD_create_response_from_buffer_with_free_callback(body.length, body.data, &nm_free);
    if (!response) nm_str_free(&body);
    return response;
}

static struct MHD_Response *stream(nm_exchange *x)
{
    enum { BLOCK = 4096 };      /* for clients of HTTP/1.0; chunks are as large as there are bytes */
    struct MHD_Response *response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, &read_stream, nm_exchange_hold(x), &release_stream);
    if (!response) release_stream(x);
    return response;
}

/* Whether the answer has it from the handler. */
static bool has(const nm_exchange *x, const char *name) { return nm_list_get(&x->added, name, true, 0) != NULL; }

static bool add(struct MHD_Response *response, const char *name, const char *value) { return MHD_add_response_header(response, name, value) == MHD_YES; }

/* Headers that every answer has. A page may load what lies beside it and talk to its own server, nothing else. */
static bool add_common(const nm_exchange *x, struct MHD_Response *response)
{
    static const char policy[] = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
                                 "frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
    bool ok = add(response, "Server", "nomoat") && add(response, "X-Content-Type-Options", "nosniff") && add(response, "Referrer-Policy", "no-referrer");
    if (ok && x->type) ok = add(response, "Content-Type", x->type);
    if (ok && x->type && strncmp(x->type, "text/html", 9) == 0) ok = add(response, "Content-Security-Policy", policy);
    if (ok && x->stream && !has(x, "Cache-Control")) ok = add(response, "Cache-Control", "no-cache");
    if (ok && x->stream) ok = add(response, "X-Accel-Buffering", "no");
    if (ok && x->fatal) ok = add(response, "Connection", "close");
    return ok;
}

static bool add_headers(const nm_exchange *x, struct MHD_Response *response)
{
    bool ok = add_common(x, response);
    for (size_t i = 0; ok && i < x->added.length;) {
        const char *name = x->added.data + i, *value = name + strlen(name) + 1;
        ok = add(response, name, value);
        i = (size_t)(value + strlen(value) + 1 - x->added.data);
    }
    return ok;
}

/* Not under the lock: libmicrohttpd takes one of the response's own here, and again around read_stream. */
static enum MHD_Result queue(nm_exchange *x, nm_str body)
{
    struct MHD_Response *response = x->stream ? stream(x) : whole(body);
    if (!response) return MHD_NO;
    enum MHD_Result result = add_headers(x, response) ? MHD_queue_response(x->connection, (unsigned)x->status, response) : MHD_NO;
    MHD_destroy_response(response);
    return result;
}

enum MHD_Result nm_exchange_deliver(nm_exchange *x)
{
    nm_str body = {0};
    pthread_mutex_lock(&x->lock);
    bool ends = x->gone || (!x->answered && atomic_load(&x->http->closing)), answers = !ends && x->answered;
    if (!ends && !answers) sleep_on(x);
    if (answers && !x->stream) {
        body = x->out;
        x->out = (nm_str){0};
    }
    pthread_mutex_unlock(&x->lock);
    if (ends) return MHD_NO;
    return answers ? queue(x, body) : MHD_YES;      /* an answer's head does not change once there is one */
}
