/* What libmicrohttpd calls, on its one thread: a request from its first line to its handler. Refuses what could be read in two ways before anything looks at it. */
#include <arpa/inet.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"
#include "os/clock.h"
#include "server/http_private.h"

/* ---- Connections ---- */

/* A client whose machine vanished shows as an error within a minute, also while there is nothing to send. */
static void probe(int fd)
{
    int on = 1, idle = 30, interval = 10, times = 3;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof times);
}

static nm_connection *connection_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

/* Those of a network in IPv6 are one host's, as each has millions. */
static void read_address(nm_connection *c, struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *a = info ? info->client_addr : NULL;
    if (a && a->sa_family == AF_INET) memcpy(c->address, &((const struct sockaddr_in *)(const void *)a)->sin_addr, sizeof(struct in_addr));
    if (!a || a->sa_family != AF_INET6) return;
    const struct in6_addr *six = &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;
    bool mapped = IN6_IS_ADDR_V4MAPPED(six);
    memcpy(c->address, six->s6_addr + (mapped ? 12 : 0), mapped ? 4 : 8);
}

static bool same_client(const nm_connection *a, const nm_connection *b) { return memcmp(a->address, b->address, sizeof a->address) == 0; }

void nm_http_shut(nm_http *http, nm_connection *c)
{
    if (c->shut) return;
    c->shut = true;
    http->open--;
    shutdown(c->fd, SHUT_RDWR);
}

/* 0: nobody's work is lost with it; 1: only what of a request has come; 2: it has all come. */
static int worth(const nm_connection *c) { return !c->deadline ? 2 : c->x && c->x->phase != NM_PHASE_HEAD ? 1 : 0; }

/* Under http.lock: how many connections of c's client are worth no more than c. */
static int crowd(const nm_http *http, const nm_connection *c)
{
    int n = 0;
    for (const nm_connection *o = http->connections; o; o = o->next) n += !o->shut && same_client(o, c) && worth(o) <= worth(c);
    return n;
}

/* Under http.lock: ends what is worth least, of the client that has most of that, where nothing has moved for longest; `but` stays. The requests that have come whole stay, too. */
static void make_place(nm_http *http, const nm_connection *but)
{
    nm_connection *least = NULL;
    int most = 0;
    for (nm_connection *c = http->connections; c; c = c->next) {
        if (c->shut || c == but || worth(c) > 1 || (least && worth(c) > worth(least))) continue;
        int n = least && same_client(c, least) && worth(c) == worth(least) ? most : crowd(http, c);
        bool better = !least || worth(c) < worth(least) || n > most || (n == most && c->moved < least->moved);
        if (better) least = c, most = n;
    }
    if (least) nm_http_shut(http, least);
}

static void connect_it(nm_http *http, struct MHD_Connection *connection, void **context)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    nm_connection *c = info ? nm_calloc(1, sizeof *c) : NULL;
    if (!c) return;     /* its requests are closed unheard */
    c->fd = info->connect_fd;
    probe(c->fd);
    read_address(c, connection);
    c->moved = nm_clock_ns();
    c->deadline = c->moved + http->idle_ns;
    pthread_mutex_lock(&http->lock);
    if (++http->open > http->most_connections) make_place(http, c);
    c->next = http->connections;
    c->link = &http->connections;
    if (c->next) c->next->link = &c->next;
    http->connections = c;
    if (!c->next) pthread_cond_signal(&http->wake);
    pthread_mutex_unlock(&http->lock);
    *context = c;
}

static void disconnect(nm_http *http, void **context)
{
    nm_connection *c = *context;
    if (!c) return;
    *context = NULL;
    pthread_mutex_lock(&http->lock);
    *c->link = c->next;
    if (c->next) c->next->link = c->link;
    http->open -= !c->shut;
    pthread_mutex_unlock(&http->lock);
    nm_free(c);
}

void nm_http_on_connection(void *http, struct MHD_Connection *connection, void **context, enum MHD_ConnectionNotificationCode what)
{
    if (what == MHD_CONNECTION_NOTIFY_STARTED) connect_it(http, connection, context);
    else disconnect(http, context);
}

/* The request under way on a connection, from `x` on; NULL: none, it may idle as long as one may be slow to come. */
static void set_request(nm_http *http, nm_connection *c, nm_exchange *x)
{
    pthread_mutex_lock(&http->lock);
    if (c->waiting) http->waiting--;
    c->waiting = false;
    c->x = x;
    c->moved = nm_clock_ns();
    c->deadline = c->moved + http->idle_ns;
    c->probed = 0;
    if (!x && http->open > http->most_connections) make_place(http, NULL);
    pthread_mutex_unlock(&http->lock);
}

/* All of the request has come. waits: its answer has not, so that the client is to be watched. */
static void set_received(nm_http *http, nm_connection *c, bool waits)
{
    pthread_mutex_lock(&http->lock);
    c->deadline = 0;
    if (waits && !c->waiting) {
        c->waiting = true;
        if (http->waiting++ == 0) pthread_cond_signal(&http->wake);
    }
    pthread_mutex_unlock(&http->lock);
}

/* ---- The request's head ---- */

void *nm_http_on_target(void *http, const char *target, struct MHD_Connection *connection)
{
    nm_connection *c = connection_of(connection);
    nm_exchange *x = c ? nm_exchange_new(http) : NULL;
    if (!x) return NULL;
    x->on = c;
    x->raw = target;
    if (nm_str_puts(&x->target, target) != NM_OK) {
        nm_exchange_release(&x);
        return NULL;
    }
    /* The buffer is the connection's own. Of what stands behind the '?' libmicrohttpd would make a list, and where its memory is too small for that it closes without an answer. */
    char *query = strchr(target, '?');
    if (query) query[1] = 0;
    set_request(http, c, x);
    return x;
}

typedef struct head { nm_exchange *x; const char *at; int count; bool strict, memory; } head;

/* An old libmicrohttpd leaves headers in the buffer where they came, so that what lies between tells what it was lenient about: a line that goes on in the next one, blanks
 * before the colon, a lone line feed, a zero that hides the rest. */
static bool lies_close(head *h, const char *name, size_t name_length, const char *value, size_t value_length)
{
    if (name != h->at || value <= name + name_length) return false;
    for (const char *p = name + name_length + 1; p < value; p++)
        if (*p != ' ' && *p != '\t') return false;
    h->at = value + value_length + 2;
    return true;
}

static enum MHD_Result read_header(void *arg, enum MHD_ValueKind kind, const char *name, size_t name_length, const char *value, size_t value_length)
{
    head *h = arg;
    h->strict = value && nm_is_token(name, name_length) && nm_is_field_value(value, value_length);
    if (h->strict && h->x->http->lenient) h->strict = lies_close(h, name, name_length, value, value_length);
    if (!h->strict) return MHD_NO;
    while (value_length && (value[value_length - 1] == ' ' || value[value_length - 1] == '\t')) value_length--;
    h->memory = nm_list_put(&h->x->headers, name, name_length, value, value_length) == NM_OK;
    return h->memory && ++h->count <= NM_HTTP_HEADERS_MOST ? MHD_YES : MHD_NO;
}

static void refuse(nm_exchange *x, int status, const char *message)
{
    x->fatal = true;
    nm_exchange_fail(x, status, NULL, NULL, message);
}

/* The first line is a method, a target and a version with one space between. */
static bool is_first_line(const nm_exchange *x, const char *method, const char *version)
{
    if (!nm_is_token(method, strlen(method)) || strpbrk(x->target.data, " \t")) return false;
    return !x->http->lenient || (x->raw == method + strlen(method) + 1 && x->raw + x->target.length + 1 == version);
}

/* Copies the head; false: it was answered. */
static bool read_head(nm_exchange *x, struct MHD_Connection *connection, const char *method, const char *version)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    size_t size = info ? info->header_size : 0;
    head h = {x, version + strlen(version) + 2, 0, is_first_line(x, method, version), true};
    h.memory = nm_str_puts(&x->method, method) == NM_OK;
    if (h.strict && h.memory) MHD_get_connection_values_n(connection, MHD_HEADER_KIND, &read_header, &h);
    if (!h.memory) refuse(x, 503, "there is no memory for the request");
    else if (x->target.length > NM_HTTP_TARGET_MOST) refuse(x, 414, "the request's target is too long");
    else if (size > NM_HTTP_HEAD_MOST || h.count > NM_HTTP_HEADERS_MOST) refuse(x, 431, "the request's headers are too many or too long");
    else if (!h.strict || (x->http->lenient && h.at + 2 != method + size)) refuse(x, 400, "the request's head is malformed");
    return !x->answered;
}

static const char *header(const nm_exchange *x, const char *name, int nth) { return nm_list_get(&x->headers, name, true, nth); }

/* Where the body ends must be told once, in one way (RFC 9112, 6.3). False: it was answered. */
static bool check_framing(nm_exchange *x, const char *version)
{
    const char *coding = header(x, "Transfer-Encoding", 0), *length = header(x, "Content-Length", 0);
    if (coding && length) refuse(x, 400, "the request has both Transfer-Encoding and Content-Length");
    else if (header(x, "Content-Length", 1) || header(x, "Transfer-Encoding", 1)) refuse(x, 400, "the request tells the length of its body more than once");
    else if (coding && (strcasecmp(coding, "chunked") != 0 || strcmp(version, "HTTP/1.1") != 0)) refuse(x, 501, "the request's Transfer-Encoding must be chunked, in HTTP/1.1");
    else if (length && (!*length || strspn(length, "0123456789") != strlen(length))) refuse(x, 400, "the request's Content-Length is no number");
    return !x->answered;
}

/* ---- Who asks ---- */

static bool check_host(nm_exchange *x)
{
    const char *host = header(x, "Host", 0);
    char message[512];
    bool valid;
    if (!host || header(x, "Host", 1)) refuse(x, 400, "the request must have one header Host");
    else if (!nm_guard_host(&x->http->guard, host, &valid)) {
        snprintf(message, sizeof message, "this server does not answer to the name \"%.256s\": if it should, start it with --allow-host HOST", host);
        nm_exchange_fail(x, valid ? 403 : 400, NULL, NULL, valid ? message : "the request's header Host is malformed");
    }
    return !x->answered;
}

/* The dialect of the first route whose path begins with the same segment: for errors where no route fits. */
static nm_dialect guess_dialect(const nm_http *http, const char *path)
{
    size_t n = path[0] == '/' ? 1 + strcspn(path + 1, "/?") : 0;
    for (const nm_route *const *table = http->routes; n && *table; table++)
        for (const nm_route *r = *table; r->method; r++)
            if (strncmp(r->path, path, n) == 0 && (r->path[n] == '/' || r->path[n] == 0)) return r->dialect;
    return NM_DIALECT_OURS;
}

static bool fits(const nm_route *r, const char *path, const char **tail)
{
    size_t n = strlen(r->path);
    bool open = n && r->path[n - 1] == '*';
    if (open ? strncmp(r->path, path, n - 1) != 0 : strcmp(r->path, path) != 0) return false;
    *tail = open ? path + n - 1 : "";
    return true;
}

/* Finds the route; what methods the path has goes into allow where none fits. */
static nm_err find_route(nm_exchange *x, nm_str *allow)
{
    const char *method = strcmp(x->method.data, "HEAD") == 0 ? "GET" : x->method.data, *tail;
    for (const nm_route *const *table = x->http->routes; *table; table++)
        for (const nm_route *r = *table; r->method; r++) {
            if (!fits(r, x->path.data, &tail)) continue;
            if (!allow->length) x->dialect = r->dialect;
            if (strcmp(r->method, method) == 0) {
                x->dialect = r->dialect;
                x->route = r;
                x->tail = tail;
                return NM_OK;
            }
            NM_TRY(nm_str_printf(allow, "%s%s%s", allow->length ? ", " : "", r->method, strcmp(r->method, "GET") == 0 ? ", HEAD" : ""));
        }
    return NM_OK;
}

/* What may be asked here; and by a page of a named origin, which asks this first ("preflight"). */
static void answer_options(nm_exchange *x, bool named, const nm_str *allow)
{
    const char *method = header(x, "Access-Control-Request-Method", 0), *headers = header(x, "Access-Control-Request-Headers", 0);
    if (named && method) {
        nm_exchange_add_header(x, "Access-Control-Allow-Methods", method);
        if (headers) nm_exchange_add_header(x, "Access-Control-Allow-Headers", headers);
        if (header(x, "Access-Control-Request-Private-Network", 0)) nm_exchange_add_header(x, "Access-Control-Allow-Private-Network", "true");
        nm_exchange_add_header(x, "Access-Control-Max-Age", "600");
    }
    if (allow->length) nm_exchange_add_header(x, "Allow", allow->data);
    nm_exchange_reply(x, 204, NULL, "", 0);
}

/* Pages of other origins may read nothing unless named, and change nothing. False: it was answered. */
static bool check_origin(nm_exchange *x, const nm_str *allow)
{
    const char *origin = header(x, "Origin", 0), *method = x->method.data;
    bool reads = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    nm_origin kind = origin ? nm_guard_origin(&x->http->guard, origin, header(x, "Host", 0)) : NM_ORIGIN_SAME;
    if (header(x, "Origin", 1) || (kind == NM_ORIGIN_FOREIGN && !reads)) {
        nm_exchange_fail(x, 403, NULL, NULL, "pages of another origin may not ask this server: if this one should, start it with --cors ORIGIN");
        return false;
    }
    if (kind == NM_ORIGIN_NAMED) {
        nm_exchange_add_header(x, "Access-Control-Allow-Origin", origin);
        nm_exchange_add_header(x, "Access-Control-Expose-Headers", "*");
        nm_exchange_add_header(x, "Vary", "Origin");
    }
    if (strcmp(method, "OPTIONS") != 0) return true;
    answer_options(x, kind == NM_ORIGIN_NAMED, allow);
    return false;
}

static bool check_key(nm_exchange *x)
{
    const char *bearer = nm_guard_bearer(header(x, "Authorization", 0)), *other = header(x, "x-api-key", 0);
    if ((x->route && x->route->open) || nm_guard_key(&x->http->guard, bearer) || nm_guard_key(&x->http->guard, other)) return true;
    nm_exchange_add_header(x, "WWW-Authenticate", "Bearer");
    nm_exchange_fail(x, 401, NULL, "invalid_api_key", bearer || other ? "this is not the key of this server" : "this server asks for a key: give it as Authorization: Bearer KEY");
    return false;
}

/* A number for each client: of its address. Where any word does for a key, those of the programs on one computer tell them apart; where one key is asked for, whoever shows others
 * beside it must not be many. */
static unsigned long long client_of(const nm_exchange *x)
{
    const char *bearer = nm_guard_bearer(header(x, "Authorization", 0)), *shown = bearer ? bearer : header(x, "x-api-key", 0);
    bool tells = shown && !x->http->guard.key;
    return nm_hash(tells ? nm_hash(1, shown, strlen(shown)) : 0, x->on->address, sizeof x->on->address);
}

static void no_route(nm_exchange *x, const nm_str *allow)
{
    char message[256];
    if (allow->length) {
        nm_exchange_add_header(x, "Allow", allow->data);
        snprintf(message, sizeof message, "this path takes %.200s", allow->data);
        nm_exchange_fail(x, 405, NULL, "method_not_allowed", message);
    } else {
        nm_exchange_fail(x, 404, NULL, "unknown_path", "there is nothing at this path");
    }
}

/* Some of the table is for others. */
static bool check_share(nm_exchange *x)
{
    nm_http *http = x->http;
    int n = 0;
    pthread_mutex_lock(&http->lock);
    for (const nm_connection *c = http->connections; c; c = c->next) n += !c->shut && c->x && same_client(c, x->on);
    pthread_mutex_unlock(&http->lock);
    if (n > http->most_of_one) refuse(x, 429, "as many requests as one address may have are under way: try again later");
    return !x->answered;
}

/* All that can be decided before the body. Whatever refuses has answered. */
static void admit(nm_exchange *x, nm_str *allow)
{
    x->dialect = guess_dialect(x->http, x->target.data);
    if (!check_share(x) || !check_host(x)) return;
    nm_err err = nm_guard_target(x->target.data, header(x, "Host", 0), &x->path, &x->query);
    if (err == NM_OK) err = find_route(x, allow);
    if (err != NM_OK) {
        nm_exchange_fail_err(x, err);
        return;
    }
    x->client = client_of(x);
    if (check_origin(x, allow) && check_key(x) && !x->route) no_route(x, allow);
}

/* ---- The body ---- */

static void too_large(nm_exchange *x)
{
    char message[128];
    snprintf(message, sizeof message, "the request's body is larger than the %zu bytes that are taken here", x->most_body);
    nm_exchange_fail(x, 413, NULL, "body_too_large", message);
}

/* What Content-Length says; 0 without, ULLONG_MAX beyond all bounds. */
static unsigned long long told_length(const nm_exchange *x)
{
    const char *length = header(x, "Content-Length", 0);
    if (!length) return 0;
    return strlen(length) > 18 ? ULLONG_MAX : strtoull(length, NULL, 10);
}

/* A body that is refused is swallowed, as a client that still sends would not see the answer; unless it waits for leave, or far too much is to come. */
static bool is_worth_swallowing(const nm_exchange *x)
{
    return !x->fatal && told_length(x) / 4 <= x->http->most_body && !header(x, "Expect", 0);
}

static enum MHD_Result on_head(nm_exchange *x, struct MHD_Connection *connection, const char *method, const char *version)
{
    nm_str allow = {0};
    x->phase = NM_PHASE_BODY;
    pthread_mutex_lock(&x->lock);
    x->connection = connection;
    x->chunked = strcmp(version, "HTTP/1.1") == 0;
    pthread_mutex_unlock(&x->lock);
    if (read_head(x, connection, method, version) && check_framing(x, version)) admit(x, &allow);
    nm_str_free(&allow);
    x->most_body = x->route && x->route->most_body ? x->route->most_body : x->http->most_body;
    if (!x->answered && told_length(x) > x->most_body) too_large(x);
    if (!x->answered || is_worth_swallowing(x)) return MHD_YES;
    x->fatal = true;
    return nm_exchange_deliver(x);
}

/* What counts of a body against all those that are there: whatever is sent and kept back of others, what is small is always taken. */
static size_t beyond(size_t length) { return length > NM_HTTP_BODY_LARGE ? length - NM_HTTP_BODY_LARGE : 0; }

static void drop_body(nm_exchange *x)
{
    x->http->bodies -= beyond(x->counted);
    x->counted = 0;
}

static void add_to_body(nm_exchange *x, const char *bytes, size_t size)
{
    nm_http *http = x->http;
    size_t all = http->bodies - beyond(x->counted) + beyond(x->counted + size);
    if (all > http->bodies && all > http->most_body * NM_HTTP_BODIES) {
        nm_exchange_fail(x, 503, NULL, NULL, "the bodies of the requests under way are as large as they may be together: try again later");
    } else if (nm_str_append(&x->body, bytes, size) != NM_OK) {
        nm_exchange_fail(x, 503, NULL, NULL, "there is no memory for the request");
    } else {
        http->bodies = all;
        x->counted += size;
    }
}

static enum MHD_Result on_body(nm_exchange *x, const char *upload, size_t size)
{
    size_t most = x->http->most_body;
    x->on->moved = nm_clock_ns();
    x->swallowed = x->swallowed > SIZE_MAX - size ? SIZE_MAX : x->swallowed + size;
    if (!x->answered && x->swallowed > x->most_body) too_large(x);
    if (!x->answered) add_to_body(x, upload, size);
    if (x->answered) {
        drop_body(x);
        nm_str_free(&x->body);
    }
    return x->answered && x->swallowed / 4 > most ? MHD_NO : MHD_YES;
}

static enum MHD_Result on_whole(nm_exchange *x)
{
    bool first = x->phase == NM_PHASE_BODY;
    x->phase = NM_PHASE_ANSWER;
    if (first && !x->answered) {
        set_received(x->http, x->on, false);
        if (x->body.length > NM_HTTP_BODY_LARGE) nm_http_give_reader(x->http, x);
        else x->route->handle(x, x->http->context);
    }
    pthread_mutex_lock(&x->lock);
    bool waits = !x->ended;
    pthread_mutex_unlock(&x->lock);
    if (first) set_received(x->http, x->on, waits);
    return nm_exchange_deliver(x);
}

enum MHD_Result nm_http_on_call(void *http, struct MHD_Connection *connection, const char *url, const char *method, const char *version, const char *upload, size_t *upload_size,
    void **context)
{
    nm_exchange *x = *context;
    if (!x) return MHD_NO;
    if (x->phase == NM_PHASE_HEAD) return on_head(x, connection, method, version);
    if (*upload_size == 0) return on_whole(x);
    size_t size = *upload_size;
    *upload_size = 0;
    return on_body(x, upload, size);
}

void nm_http_on_completed(void *http, struct MHD_Connection *connection, void **context, enum MHD_RequestTerminationCode how)
{
    nm_exchange *x = *context;
    *context = NULL;
    if (!x) return;
    set_request(http, x->on, NULL);
    if (x->counted > NM_HTTP_BODY_LARGE) nm_http_take_back(http, x);
    drop_body(x);
    nm_exchange_detach(x);
    nm_exchange_release(&x);
}
