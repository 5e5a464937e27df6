/* Owns what the files of HTTP share: the listening server, its connections, and the exchange with what guards which of its parts. Seen by http*.c and error_shape.c alone.
 *
 * Threads: libmicrohttpd's one thread ("the HTTP thread") calls everything in http_request.c; the watcher looks for clients that left; the reader runs the handlers of large
 * requests; answers come from anywhere.
 * Locks, in the order in which they may be taken: http.lock, exchange.lock, libmicrohttpd's own. No handler and no on_gone runs under any of them. */
#ifndef NM_SERVER_HTTP_PRIVATE_H
#define NM_SERVER_HTTP_PRIVATE_H

#include <microhttpd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/str.h"
#include "server/http.h"
#include "server/http_guard.h"

enum {
    NM_HTTP_TARGET_MOST = 8 << 10,      /* bytes of a request's target */
    NM_HTTP_HEAD_MOST = 32 << 10,       /* bytes of its first line and headers */
    NM_HTTP_HEADERS_MOST = 100,
    NM_HTTP_POOL = 64 << 10,            /* of libmicrohttpd a connection: the head, and what is read and written at a time */
    NM_HTTP_WATCH_MS = 20,              /* between two looks at clients that wait */
    NM_HTTP_IDLE_MS = 200,              /* the same where none waits: for what is slow to come */
    NM_HTTP_PROBE_MS = 1000,            /* between two probes of a client that has closed its side */
    NM_HTTP_BODY_LARGE = 64 << 10,      /* bytes that a handler takes apart in some thousandth of a second */
    NM_HTTP_BODIES = 4,                 /* so many large ones of the longest that is taken may be there together */
    NM_HTTP_SPARE = 16                  /* connections beyond the bound, while those that make place for them close */
};

/* A connection of TCP. Under http.lock, in which it also leaves the list before its socket is closed. */
typedef struct nm_connection {
    struct nm_connection *next, **link;
    int fd;
    uint64_t deadline;                  /* in nm_clock_ns: when the request under way must have come; 0: it has */
    nm_exchange *x;                     /* the request under way; lives as long as it stands here */
    bool waiting;                       /* x's answer is to come: the client is watched */
    bool shut;                          /* by us: libmicrohttpd is about to close it */
    unsigned char address[16];          /* its client's: IPv4's, or the network part of IPv6's */
    uint64_t moved;                     /* in nm_clock_ns: when a request last came forward or ended; the HTTP thread's */
    uint64_t probed;                    /* the same: when the client was last probed; 0: it was not */
} nm_connection;

struct nm_http {
    nm_guard guard;
    const nm_route **routes;            /* tables; ends with NULL */
    void *context;
    size_t most_body, most_pending;
    int most_connections, idle_seconds;
    int most_of_one;                    /* requests that one address may have under way */
    uint64_t idle_ns;
    int listen_fd, port;
    bool quiesced, watched;
    bool lenient;                       /* libmicrohttpd is older than 0.9.77: what it puts up with in a head is found here */
    struct MHD_Daemon *daemon;
    atomic_bool closing;                /* nothing may wait any more */
    pthread_mutex_t lock;
    pthread_cond_t wake;                /* of the watcher */
    pthread_t watcher;
    bool stop;                          /* of both */
    nm_connection *connections;
    size_t bodies;                      /* bytes of large ones; the HTTP thread's */
    pthread_t reader;
    bool reads;
    pthread_cond_t given;               /* to the reader */
    nm_exchange *large;                 /* requests that it will see to, the first come first */
    int waiting, open;                  /* connections whose client is watched; that are not shut */
    struct pollfd *polls;               /* the watcher's own, most_connections and NM_HTTP_SPARE of each */
    nm_exchange **polled;
};

typedef enum nm_phase { NM_PHASE_HEAD, NM_PHASE_BODY, NM_PHASE_ANSWER } nm_phase;

struct nm_exchange {
    atomic_int holds;
    atomic_bool gone;

    /* The request: the HTTP thread's until the handler runs, fixed from then on. */
    nm_http *http;                      /* the HTTP thread's alone: it ends before the exchange may */
    nm_exchange *next;                  /* in http->large */
    unsigned long long id, client;
    const nm_route *route;
    nm_dialect dialect;
    nm_str target;                      /* as it came */
    const char *raw;                    /* where that lay in libmicrohttpd's buffer */
    nm_str method, path, query, headers, body;      /* query, headers: name, zero, value, zero, ... */
    const char *tail;
    nm_phase phase;
    bool chunked;                       /* HTTP/1.1: streams come in chunks */
    bool fatal;                         /* what follows on this connection cannot be told from the body */
    size_t most_body, swallowed;
    size_t counted;                     /* bytes of the body, of http->bodies */
    nm_connection *on;

    pthread_mutex_t lock;
    /* The answer, under lock. */
    struct MHD_Connection *connection;  /* NULL once libmicrohttpd is done with it */
    bool suspended, answered, stream, ended;
    bool probed;                        /* by a zero before the length of the next chunk */
    uint64_t said;                      /* in nm_clock_ns: when the stream last said something */
    int status;
    char *type;
    nm_str added;                       /* headers: name, zero, value, zero, ... */
    nm_str out;                         /* the whole answer, or what of the stream is not sent */
    size_t taken, most_pending;
    void (*on_gone)(void *arg);
    void *gone_arg;
    bool telling;                       /* on_gone runs, on the thread `teller` */
    pthread_t teller;
    pthread_cond_t told;
};

/* ---- http_exchange.c ---- */
nm_exchange *nm_exchange_new(nm_http *http);
/* The HTTP thread: gives libmicrohttpd the answer, or lets the connection sleep until there is one. MHD_NO: the connection must end. */
enum MHD_Result nm_exchange_deliver(nm_exchange *x);
/* The client has left: what waits is woken and ends. Nothing if the answer has ended. */
void nm_exchange_leave(nm_exchange *x);
/* The client has closed its side, or all of the connection, which it does not tell: what is sent to it now has no meaning, and draws a reset in the second case. */
void nm_exchange_probe(nm_exchange *x);
/* Says something without meaning in a stream of events that has said nothing since then: clients and proxies give up on silence, and reading a long prompt takes minutes. */
void nm_exchange_ping(nm_exchange *x, uint64_t since);
/* libmicrohttpd is done with the exchange, of which it took everything or not: calls on_gone where the answer had not ended. */
void nm_exchange_detach(nm_exchange *x);

/* ---- http_request.c: what libmicrohttpd calls ---- */
void *nm_http_on_target(void *http, const char *target, struct MHD_Connection *connection);
enum MHD_Result nm_http_on_call(void *http, struct MHD_Connection *connection, const char *url, const char *method, const char *version, const char *upload, size_t *upload_size,
    void **x);
void nm_http_on_completed(void *http, struct MHD_Connection *connection, void **x, enum MHD_RequestTerminationCode how);
void nm_http_on_connection(void *http, struct MHD_Connection *connection, void **context, enum MHD_ConnectionNotificationCode what);

/* Under http.lock: ends a connection; libmicrohttpd finds its socket shut, and closes it. */
void nm_http_shut(nm_http *http, nm_connection *c);

/* ---- http_reader.c ---- */
nm_err nm_http_start_reader(nm_http *http);
void nm_http_stop_reader(nm_http *http);        /* when http->stop is set, and `given` told */
/* Has the exchange handled, which holds it. */
void nm_http_give_reader(nm_http *http, nm_exchange *x);
/* Lets go of one that has not had its turn: its client is gone, and its body counts no more. */
void nm_http_take_back(nm_http *http, nm_exchange *x);

/* ---- http_listen.c ---- */
/* A listening socket and the port that it has. NM_REFUSED: not loopback, and no key. */
nm_err nm_http_listen(int *fd, int *port, const char *host, int wanted, bool keyed);

#endif
