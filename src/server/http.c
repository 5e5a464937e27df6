/* The listening server: opens and closes, and watches for clients that left or are too slow to ask. Requests are http_request.c's, answers http_exchange.c's. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "os/clock.h"
#include "os/thread.h"
#include "server/http_private.h"

/* ---- The watcher ---- */

/* Under http.lock: asks the system what became of the first n. */
static void look_at(nm_http *http, int n)
{
    if (n && poll(http->polls, (nfds_t)n, 0) <= 0)
        for (int i = 0; i < n; i++) http->polls[i].revents = 0;
}

/* Under http.lock: those whose client is watched, with a hold on each. Ends connections whose request is overdue. */
static int gather(nm_http *http, uint64_t now)
{
    int n = 0;
    for (nm_connection *c = http->connections; c; c = c->next) {
        if (c->deadline && now > c->deadline) nm_http_shut(http, c);
        if (!c->waiting || n == http->most_connections + NM_HTTP_SPARE) continue;
        http->polls[n] = (struct pollfd){.fd = c->fd, .events = POLLRDHUP};
        http->polled[n++] = nm_exchange_hold(c->x);
    }
    /* Now, as these are open while the lock is held. */
    look_at(http, n);
    return n;
}

/* Under http.lock: probes those who closed their side; who has left altogether, and is near, shows as gone at once, others at the next look. */
static void probe(nm_http *http, int n, uint64_t now)
{
    bool any = false;
    for (int i = 0; i < n; i++) {
        nm_connection *c = http->polled[i]->on;
        bool half = (http->polls[i].revents & (POLLRDHUP | POLLHUP | POLLERR)) == POLLRDHUP;
        if (!half || (c->probed && now - c->probed < (uint64_t)NM_HTTP_PROBE_MS * 1000000)) continue;
        nm_exchange_probe(http->polled[i]);
        c->probed = now;
        any = true;
    }
    if (any) look_at(http, n);
}

static void look(nm_http *http)
{
    uint64_t now = nm_clock_ns();
    int n = gather(http, now);
    probe(http, n, now);
    pthread_mutex_unlock(&http->lock);
    for (int i = 0; i < n; i++) {
        if (http->polls[i].revents & (POLLHUP | POLLERR)) nm_exchange_leave(http->polled[i]);
        else nm_exchange_ping(http->polled[i], now - http->idle_ns / 4);
        nm_exchange_release(&http->polled[i]);
    }
    pthread_mutex_lock(&http->lock);
}

static void *watch(void *arg)
{
    nm_http *http = arg;
    pthread_mutex_lock(&http->lock);
    while (!http->stop) {
        if (!http->connections) {
            pthread_cond_wait(&http->wake, &http->lock);
            continue;
        }
        uint64_t until = nm_clock_ns() + (uint64_t)(http->waiting ? NM_HTTP_WATCH_MS : NM_HTTP_IDLE_MS) * 1000000;
        struct timespec t = {.tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000)};
        pthread_cond_timedwait(&http->wake, &http->lock, &t);
        if (!http->stop) look(http);
    }
    pthread_mutex_unlock(&http->lock);
    return NULL;
}

/* ---- Opening ---- */

static void free_list(char **list)
{
    for (char **s = list; s && *s; s++) nm_free(*s);
    nm_free(list);
}

static nm_err copy_list(char ***out, const char *const *list)
{
    size_t n = 0;
    while (list && list[n]) n++;
    if (!(*out = nm_calloc(n + 1, sizeof **out))) return nm_fail_memory((n + 1) * sizeof **out);
    for (size_t i = 0; i < n; i++)
        if (!((*out)[i] = nm_strndup(list[i], strlen(list[i])))) return nm_fail_memory(strlen(list[i]));
    return NM_OK;
}

static nm_err copy_guard(nm_guard *g, const nm_http_options *o)
{
    if (o->key && o->key[0] && !(g->key = nm_strndup(o->key, strlen(o->key)))) return nm_fail_memory(strlen(o->key));
    NM_TRY(copy_list(&g->allow, o->allow_hosts));
    NM_TRY(copy_list(&g->cors, o->cors));
    if (gethostname(g->own, sizeof g->own - 1) != 0) g->own[0] = 0;
    return NM_OK;
}

static nm_err copy_options(nm_http *http, const nm_http_options *o)
{
    size_t n = 0;
    while (o->routes[n]) n++;
    http->context = o->context;
    http->most_body = o->most_body ? o->most_body : (size_t)32 << 20;
    http->most_pending = o->most_pending ? o->most_pending : (size_t)4 << 20;
    http->most_connections = o->most_connections > 0 ? o->most_connections : 256;
    http->idle_seconds = o->idle_seconds > 0 ? o->idle_seconds : 60;
    http->idle_ns = (uint64_t)http->idle_seconds * 1000000000u;
    http->most_of_one = http->most_connections - http->most_connections / 8;
    http->routes = nm_calloc(n + 1, sizeof *http->routes);
    http->polls = nm_calloc((size_t)http->most_connections + NM_HTTP_SPARE, sizeof *http->polls);
    http->polled = nm_calloc((size_t)http->most_connections + NM_HTTP_SPARE, sizeof(nm_exchange *));
    if (!http->routes || !http->polls || !http->polled) return nm_fail_memory((size_t)http->most_connections * sizeof *http->polls);
    memcpy(http->routes, o->routes, n * sizeof *http->routes);
    return copy_guard(&http->guard, o);
}

/* Targets are decoded here, once, and not by libmicrohttpd. */
static size_t as_it_is(void *arg, struct MHD_Connection *connection, char *text) { return strlen(text); }

/* As it is at run time: one name of the library covers both. */
static bool is_lenient(void)
{
    int major = 0, minor = 0, patch = 0;
    return sscanf(MHD_get_version(), "%d.%d.%d", &major, &minor, &patch) == 3 && major == 0 && minor == 9 && patch < 77;
}

/* With poll rather than epoll, whose edges libmicrohttpd 0.9.75 loses where the end of what a client sends comes together with a request: such a connection would stay open. */
static nm_err start_daemon(nm_http *http)
{
    http->daemon = MHD_start_daemon(MHD_USE_POLL | MHD_USE_INTERNAL_POLLING_THREAD | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, &nm_http_on_call, http,
        MHD_OPTION_LISTEN_SOCKET, http->listen_fd,
        MHD_OPTION_STRICT_FOR_CLIENT, http->lenient ? 0 : 1,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)http->most_connections + NM_HTTP_SPARE,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)http->idle_seconds,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)NM_HTTP_POOL,
        MHD_OPTION_UNESCAPE_CALLBACK, &as_it_is, NULL,
        MHD_OPTION_URI_LOG_CALLBACK, &nm_http_on_target, http,
        MHD_OPTION_NOTIFY_COMPLETED, &nm_http_on_completed, http,
        MHD_OPTION_NOTIFY_CONNECTION, &nm_http_on_connection, http,
        MHD_OPTION_END);
    if (!http->daemon) return nm_fail(NM_FAILED, "cannot start serving on port %d: the system grants no thread or no descriptor more", http->port);
    return NM_OK;
}

/* Signals are for the program's own thread: libmicrohttpd's takes over what is blocked here, ours are started so. */
static nm_err start_threads(nm_http *http)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    nm_err err = start_daemon(http);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err == NM_OK && nm_thread_start(&http->watcher, watch, http)) err = nm_fail(NM_FAILED, "cannot start serving: the system grants no thread more");
    else if (err == NM_OK) http->watched = true;
    if (err == NM_OK) err = nm_http_start_reader(http);
    return err;
}

static void init_locks(nm_http *http)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&http->lock, NULL);
    pthread_cond_init(&http->wake, &monotonic);
    pthread_cond_init(&http->given, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

nm_err nm_http_open(nm_http **out, const nm_http_options *options)
{
    *out = NULL;
    nm_http *http = nm_calloc(1, sizeof *http);
    if (!http) return nm_fail_memory(sizeof *http);
    http->listen_fd = -1;
    atomic_init(&http->closing, false);
    http->lenient = is_lenient();
    init_locks(http);
    nm_err err = copy_options(http, options);
    if (err == NM_OK) err = nm_http_listen(&http->listen_fd, &http->port, options->host, options->port, http->guard.key != NULL);
    if (err == NM_OK) err = start_threads(http);
    if (err == NM_OK) *out = http;
    else nm_http_close(&http);
    return err;
}

int nm_http_port(const nm_http *http) { return http->port; }

/* ---- Closing ---- */

void nm_http_quiesce(nm_http *http)
{
    if (http->quiesced) return;
    http->quiesced = true;
    /* The socket is closed at the end, when no thread can use it; until then the system turns clients away. */
    if (MHD_quiesce_daemon(http->daemon) != MHD_INVALID_SOCKET) shutdown(http->listen_fd, SHUT_RDWR);
}

/* A request that is still coming is nobody's work yet. */
static bool is_answering(nm_http *http)
{
    bool found = false;
    pthread_mutex_lock(&http->lock);
    for (const nm_connection *c = http->connections; c && !found; c = c->next) found = c->x && !c->deadline;
    pthread_mutex_unlock(&http->lock);
    return found;
}

void nm_http_drain(nm_http *http, double seconds)
{
    static const struct timespec pause = {.tv_nsec = NM_HTTP_WATCH_MS * 1000000 / 4};
    double until = nm_clock_seconds() + seconds;
    while (is_answering(http) && nm_clock_seconds() < until) nanosleep(&pause, NULL);
}

/* libmicrohttpd must not be stopped while connections sleep. None falls asleep once `closing` is set: it is read under the lock under which they do. */
static void wake_all(nm_http *http)
{
    int n = 0;
    pthread_mutex_lock(&http->lock);
    for (nm_connection *c = http->connections; c && n < http->most_connections + NM_HTTP_SPARE; c = c->next)
        if (c->x) http->polled[n++] = nm_exchange_hold(c->x);
    pthread_mutex_unlock(&http->lock);
    for (int i = 0; i < n; i++) {
        nm_exchange_leave(http->polled[i]);
        nm_exchange_release(&http->polled[i]);
    }
}

static void stop_threads(nm_http *http)
{
    pthread_mutex_lock(&http->lock);
    http->stop = true;
    pthread_cond_signal(&http->wake);
    pthread_cond_signal(&http->given);
    pthread_mutex_unlock(&http->lock);
    if (http->watched) pthread_join(http->watcher, NULL);
}

void nm_http_close(nm_http **opened)
{
    nm_http *http = *opened;
    *opened = NULL;
    if (!http) return;
    atomic_store(&http->closing, true);
    stop_threads(http);
    wake_all(http);
    if (http->daemon) MHD_stop_daemon(http->daemon);
    nm_http_stop_reader(http);
    if (http->listen_fd >= 0 && (!http->daemon || http->quiesced)) close(http->listen_fd);
    nm_free(http->guard.key);
    free_list(http->guard.allow);
    free_list(http->guard.cors);
    nm_free(http->routes);
    nm_free(http->polls);
    nm_free(http->polled);
    pthread_cond_destroy(&http->wake);
    pthread_cond_destroy(&http->given);
    pthread_mutex_destroy(&http->lock);
    nm_free(http);
}
