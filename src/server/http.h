/* Owns HTTP as the server speaks it (RFC 9110, 9112, by libmicrohttpd): who may ask at all (Host, Origin, key), bounds, routes, answers whole and in streams.
 * Refuses to know what is asked: that is a dialect's. Handlers run on the HTTP thread and must not block; answers may come from any thread. */
#ifndef NM_SERVER_HTTP_H
#define NM_SERVER_HTTP_H

#include <stdbool.h>
#include <stddef.h>

#include "nomoat.h"

typedef struct nm_http nm_http;             /* one listening server */
typedef struct nm_exchange nm_exchange;     /* one request with its answer; counted */

typedef enum nm_dialect { NM_DIALECT_OPENAI, NM_DIALECT_ANTHROPIC, NM_DIALECT_OLLAMA, NM_DIALECT_LLAMACPP, NM_DIALECT_OURS, NM_DIALECT_COUNT } nm_dialect;

/* What answers a path. Adding one is a line in a table. */
typedef struct nm_route {
    const char *method;         /* "GET", "POST", "DELETE"; HEAD is answered from GET, OPTIONS by the server; NULL ends a table */
    const char *path;           /* "/v1/models", or with a tail: "/v1/models/" + '*' at the end takes everything below, unescaped, as nm_exchange_tail */
    nm_dialect dialect;         /* whose shape errors have */
    bool open;                  /* answers without a key, too (/health, the page's own files) */
    size_t most_body;           /* bytes; 0 = the server's bound */
    void (*handle)(nm_exchange *x, void *context);     /* must see to exactly one answer, then or later (holding x) */
} nm_route;

typedef struct nm_http_options {
    const char *host;           /* address to listen on */
    int port;                   /* 0 = any free one */
    const char *key;            /* NULL = none is asked for; required by nm_http_open for an address that is not loopback */
    const char *const *allow_hosts;     /* names that Host may have besides loopback's, IP literals, the machine's own and host.docker.internal; ends with NULL; may be NULL */
    const char *const *cors;    /* origins that may read answers; ends with NULL; "*" is any; may be NULL */
    const nm_route *const *routes;      /* tables, the first that fits wins; ends with NULL */
    void *context;              /* for handlers */
    size_t most_body;           /* 0 = 32 MiB */
    int most_connections;       /* 0 = 256 */
    int idle_seconds;           /* of a connection on which nothing moves, and in which headers and body must have come; 0 = 60 */
    size_t most_pending;        /* bytes of a stream that its client has not taken; beyond, it is dropped; 0 = 4 MiB */
} nm_http_options;

/* Listens and serves on a thread of its own. NM_REFUSED: another address than loopback without a key; NM_FAILED: the port is taken (the line says by whom where
 * that can be told, and what to type). */
nm_err nm_http_open(nm_http **out, const nm_http_options *options);
int nm_http_port(const nm_http *http);
/* No new connections; those that are open go on. */
void nm_http_quiesce(nm_http *http);
/* Waits until all that came whole has been answered to the last byte; so many seconds at most. */
void nm_http_drain(nm_http *http, double seconds);
/* Ends everything. Handlers' answers that still come are dropped. */
void nm_http_close(nm_http **http);

/* ---- The request. Valid while x is held. ---- */
const char *nm_exchange_method(const nm_exchange *x);
const char *nm_exchange_path(const nm_exchange *x);
const char *nm_exchange_tail(const nm_exchange *x);                     /* what '*' took, "" else */
const char *nm_exchange_query(const nm_exchange *x, const char *key);   /* unescaped; NULL if absent */
const char *nm_exchange_header(const nm_exchange *x, const char *name); /* NULL if absent */
const char *nm_exchange_body(const nm_exchange *x, size_t *length);     /* zero-terminated */
unsigned long long nm_exchange_id(const nm_exchange *x);                /* unlike any other's of this process */
/* Which key the client came with, as a number that tells clients apart (a hash of key and address): for fairness. */
unsigned long long nm_exchange_client(const nm_exchange *x);

/* A handler that answers later holds the exchange and lets it go afterwards. */
nm_exchange *nm_exchange_hold(nm_exchange *x);
void nm_exchange_release(nm_exchange **x);

/* ---- The answer. From any thread; after the first of reply and begin, a second is a fault of the program. ---- */
/* Adds a header to the answer; before reply or begin. */
void nm_exchange_add_header(nm_exchange *x, const char *name, const char *value);
/* Whole: body is copied. */
void nm_exchange_reply(nm_exchange *x, int status, const char *type, const char *body, size_t length);
/* In a stream (chunked): begin, then any number of writes, then end. */
void nm_exchange_begin(nm_exchange *x, int status, const char *type);
void nm_exchange_write(nm_exchange *x, const char *bytes, size_t length);
void nm_exchange_end(nm_exchange *x);
/* True once the client has left or was dropped: what is written goes nowhere, and the work may end. Cheap; any thread. */
bool nm_exchange_gone(const nm_exchange *x);
/* Called at most once, on any thread and under no lock, when the client leaves before the answer has ended; set before the handler returns. Not called, nor running any more, once
 * nm_exchange_forget, reply, end or fail has returned (they wait for it, except within it): what arg points to may then be freed. So call these with no lock held that fn takes. */
void nm_exchange_on_gone(nm_exchange *x, void (*fn)(void *arg), void *arg);
void nm_exchange_forget(nm_exchange *x);

/* An error in the shape of the exchange's dialect: error_shape.c. `type` may be NULL: chosen by status. code: a short word for programs, e.g. "model_not_found"; may be NULL.
 * In a stream that has begun it becomes that dialect's error event, and the stream ends. */
void nm_exchange_fail(nm_exchange *x, int status, const char *type, const char *code, const char *message);
/* The same from an error of the library (nm_error_text of the calling thread): NM_USAGE 400, NM_NOT_FOUND 404, NM_REFUSED 403, NM_NO_MEMORY 503, NM_INTERRUPTED 499, a full
 * disk 507, others 500. */
void nm_exchange_fail_err(nm_exchange *x, nm_err err);

#endif
