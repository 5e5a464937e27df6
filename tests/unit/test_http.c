/* HTTP as the server speaks it, over real sockets: guards, attacks, clients that leave or are slow, streams, memory that fails. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "os/clock.h"
#include "server/http.h"
#include "server/http_guard.h"
#include "server/http_private.h"
#include "server/server.h"

enum { PATIENCE = 60000 };  /* milliseconds until what must come is given up: the machine may do other things as well */

/* ---- The server under test ---- */

static atomic_int workers, started, left;
static atomic_bool held;        /* handlers that take their time go on once it is false */

static void *in_thread(void *(*fn)(void *), nm_exchange *x)
{
    pthread_t t;
    atomic_fetch_add(&workers, 1);
    nm_exchange_hold(x);
    if (pthread_create(&t, NULL, fn, x) != 0) {
        atomic_fetch_sub(&workers, 1);
        nm_exchange_fail(x, 503, NULL, NULL, "no thread");
        nm_exchange_release(&x);
    } else {
        pthread_detach(t);
    }
    return NULL;
}

static void *done(nm_exchange *x)
{
    nm_exchange_release(&x);
    atomic_fetch_sub(&workers, 1);
    return NULL;
}

static void nap(int ms) { usleep((useconds_t)ms * 1000); }
static void wait_while_held(void) { while (atomic_load(&held)) nap(1); }

static void now(nm_exchange *x, void *context) { nm_exchange_reply(x, 200, "text/plain", "now", 3); }

static void echo(nm_exchange *x, void *context)
{
    size_t n;
    const char *body = nm_exchange_body(x, &n);
    nm_exchange_reply(x, 200, "application/octet-stream", body, n);
}

static void *reply_later(void *arg)
{
    nap(30);
    nm_exchange_reply(arg, 200, "text/plain", "later", 5);
    return done(arg);
}
static void later(nm_exchange *x, void *context) { in_thread(reply_later, x); }

/* A handler that takes its time, as one does that has much to take apart; `now` and others must not wait for it. */
static void dwell(nm_exchange *x, void *context)
{
    atomic_fetch_add(&started, 1);
    wait_while_held();
    echo(x, context);
}

static void *write_events(void *arg)
{
    char text[64];
    nm_exchange_begin(arg, 200, "text/event-stream");
    for (int i = 0; i < 20; i++) {
        int n = snprintf(text, sizeof text, "data: %d\n\n", i);
        nm_exchange_write(arg, text, (size_t)n);
        nap(2);
    }
    nm_exchange_end(arg);
    return done(arg);
}
static void events(nm_exchange *x, void *context) { in_thread(write_events, x); }

static void *write_much(void *arg)
{
    static char block[64 << 10];
    nm_exchange_begin(arg, 200, "application/octet-stream");
    while (!nm_exchange_gone(arg)) nm_exchange_write(arg, block, sizeof block);
    nm_exchange_write(arg, block, sizeof block);
    nm_exchange_end(arg);
    atomic_fetch_add(&left, 1);
    return done(arg);
}
static void flood(nm_exchange *x, void *context)
{
    atomic_fetch_add(&started, 1);
    in_thread(write_much, x);
}

static void when_gone(void *arg)
{
    nm_exchange *x = arg;
    assert_true(nm_exchange_gone(x));
    nm_exchange_reply(x, 200, NULL, "", 0);     /* goes nowhere, and may be called from here */
    nm_exchange_release(&x);
    atomic_fetch_add(&left, 1);
}
static void never(nm_exchange *x, void *context)
{
    nm_exchange_on_gone(x, when_gone, nm_exchange_hold(x));
    atomic_fetch_add(&started, 1);
}
static void begun(nm_exchange *x, void *context)
{
    nm_exchange_begin(x, 200, "text/event-stream");
    nm_exchange_write(x, "data: first\n\n", 13);
    never(x, context);
}
static void fail_in_stream(nm_exchange *x, void *context)
{
    nm_exchange_begin(x, 200, "text/event-stream");
    nm_exchange_write(x, "data: one\n\n", 11);
    nm_exchange_fail(x, 500, NULL, NULL, "it broke");
    nm_exchange_write(x, "data: two\n\n", 11);
}
static void busy(nm_exchange *x, void *context) { nm_exchange_fail(x, 503, NULL, NULL, "busy"); }
static void html(nm_exchange *x, void *context)
{
    nm_exchange_add_header(x, "X-One", "1");
    nm_exchange_add_header(x, "X-Bad", "1\r\nX-Split: 1");
    nm_exchange_reply(x, 200, "text/html; charset=utf-8", "<p>", 3);
}
static void tell(nm_exchange *x, void *context)
{
    char text[2048];
    const char *q = nm_exchange_query(x, "q"), *h = nm_exchange_header(x, "x-test");
    int n = snprintf(text, sizeof text, "%s|%s|%s|%s|%s|%s", nm_exchange_method(x), nm_exchange_path(x), nm_exchange_tail(x), q ? q : "-", h ? h : "-", (char *)context);
    nm_exchange_reply(x, 200, "text/plain", text, (size_t)n);
}

static void client_number(nm_exchange *x, void *context)
{
    char text[32];
    int n = snprintf(text, sizeof text, "%llu", nm_exchange_client(x));
    nm_exchange_reply(x, 200, "text/plain", text, (size_t)n);
}

/* A worker whose memory goes once its answer has ended, whatever its client does. */
typedef struct risk { nm_exchange *x; int marks; } risk;
static void mark(void *arg) { ((risk *)arg)->marks++; }
static void *work_at_risk(void *arg)
{
    risk *r = arg;
    nm_exchange *x = r->x;
    unsigned bits = (unsigned)nm_exchange_id(x);
    if (bits % 3) nm_exchange_begin(x, 200, "text/event-stream");
    for (int i = 0; bits % 3 && i < 10; i++) {
        nm_exchange_write(x, "data: x\n\n", 9);
        usleep(bits * 7919 % 3000);
    }
    if (bits % 3 == 0) {
        usleep(bits * 7919 % 30000);
        nm_exchange_reply(x, 200, NULL, "x", 1);
    } else if (bits % 3 == 1) {
        nm_exchange_end(x);
    } else {
        nm_exchange_fail(x, 500, NULL, NULL, "x");
    }
    assert_in_range(r->marks, 0, 1);
    memset(r, 0xff, sizeof *r);
    free(r);
    return done(x);
}
static void at_risk(nm_exchange *x, void *context)
{
    risk *r = calloc(1, sizeof *r);
    pthread_t t;
    r->x = nm_exchange_hold(x);
    nm_exchange_on_gone(x, mark, r);
    atomic_fetch_add(&workers, 1);
    if (pthread_create(&t, NULL, work_at_risk, r) != 0) abort();
    pthread_detach(t);
}

static const nm_route openai[] = {
    {"GET", "/now", NM_DIALECT_OPENAI, false, 0, now}, {"POST", "/echo", NM_DIALECT_OPENAI, false, 0, echo}, {"POST", "/small", NM_DIALECT_OPENAI, false, 16, echo},
    {"GET", "/later", NM_DIALECT_OPENAI, false, 0, later}, {"GET", "/events", NM_DIALECT_OPENAI, false, 0, events}, {"GET", "/flood", NM_DIALECT_OPENAI, false, 0, flood},
    {"GET", "/never", NM_DIALECT_OPENAI, false, 0, never}, {"GET", "/begun", NM_DIALECT_OPENAI, false, 0, begun}, {"GET", "/breaks", NM_DIALECT_OPENAI, false, 0, fail_in_stream},
    {"GET", "/risk", NM_DIALECT_OPENAI, false, 0, at_risk}, {"GET", "/busy", NM_DIALECT_OPENAI, false, 0, busy},
    {"GET", "/client", NM_DIALECT_OPENAI, false, 0, client_number}, {"POST", "/dwell", NM_DIALECT_OPENAI, false, 0, dwell}, {0}};
static const nm_route others[] = {
    {"GET", "/html", NM_DIALECT_OURS, true, 0, html}, {"GET", "/tell/*", NM_DIALECT_OLLAMA, false, 0, tell}, {"DELETE", "/tell/*", NM_DIALECT_OLLAMA, false, 0, tell},
    {"POST", "/v1/messages", NM_DIALECT_ANTHROPIC, false, 0, echo}, {0}};
static const nm_route *const tables[] = {openai, others, NULL};

static nm_http *http;
static int64_t alive;

static nm_http_options plain(void) { return (nm_http_options){.host = "127.0.0.1", .routes = tables, .context = (void *)"context"}; }

static void open_with(nm_http_options o)
{
    alive = nm_mem_alive();
    atomic_store(&started, 0);
    atomic_store(&left, 0);
    assert_int_equal(nm_http_open(&http, &o), NM_OK);
}

static int ms_since(uint64_t begin) { return (int)((nm_clock_ns() - begin) / 1000000); }

static bool soon(atomic_int *what, int value)
{
    for (uint64_t begin = nm_clock_ns(); atomic_load(what) != value && ms_since(begin) < PATIENCE;) nap(1);
    return atomic_load(what) == value;
}

static void shut(void)
{
    nm_http_close(&http);
    assert_null(http);
    assert_true(soon(&workers, 0));
    assert_int_equal(nm_mem_alive(), alive);
}

/* ---- A client of its own ---- */

static int dial(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)nm_http_port(http)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static int dial_from(const char *address)
{
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)nm_http_port(http)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(inet_pton(AF_INET, address, &from.sin_addr), 1);
    assert_int_equal(bind(fd, (struct sockaddr *)&from, sizeof from), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static bool put_bytes(int fd, const char *bytes, size_t length)
{
    while (length) {
        ssize_t n = send(fd, bytes, length, MSG_NOSIGNAL);
        if (n <= 0) return false;
        bytes += n;
        length -= (size_t)n;
    }
    return true;
}

static bool put(int fd, const char *text) { return put_bytes(fd, text, strlen(text)); }

/* What comes within ms; at most until `until` is seen in it. Gives the bytes; *closed: the server closed. */
static char got[1 << 20];
static size_t take_within(int ms, int fd, const char *until, bool *closed)
{
    size_t n = 0;
    uint64_t begin = nm_clock_ns();
    *closed = false;
    got[0] = 0;
    while (n < sizeof got - 1 && ms_since(begin) < ms && !(until && strstr(got, until))) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 10) <= 0) continue;
        ssize_t k = recv(fd, got + n, sizeof got - 1 - n, 0);
        if (k <= 0) {
            *closed = true;
            break;
        }
        n += (size_t)k;
        got[n] = 0;
    }
    return n;
}

static size_t take(int fd, const char *until, bool *closed) { return take_within(PATIENCE, fd, until, closed); }

/* A request on a connection of its own, to the end of the connection or of patience. */
static const char *talk_bytes(const char *request, size_t length)
{
    bool closed;
    int fd = dial();
    assert_true(fd >= 0);
    put_bytes(fd, request, length);
    take(fd, NULL, &closed);
    if (!closed) print_message("# stays open: %s\n# got: %s\n", request, got);
    assert_true(closed);
    close(fd);
    return got;
}

static const char *talk(const char *request) { return talk_bytes(request, strlen(request)); }
static int status_of(const char *answer) { return strncmp(answer, "HTTP/1.1 ", 9) == 0 ? atoi(answer + 9) : 0; }

static int count(const char *text, const char *what)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what)) n++;
    return n;
}

#define HOST "Host: localhost\r\n"
#define ENDS "Connection: close\r\n\r\n"
#define GET(path) "GET " path " HTTP/1.1\r\n" HOST ENDS
#define GET_WITH(path, headers) "GET " path " HTTP/1.1\r\n" HOST headers ENDS
#define POST_WITH(path, headers) "POST " path " HTTP/1.1\r\n" HOST headers "Content-Length: 2\r\n" ENDS "{}"

#define assert_status(request, status) assert_int_equal(status_of(talk(request)), status)
#define assert_has(what) assert_non_null(strstr(got, what))
#define assert_lacks(what) assert_null(strstr(got, what))

/* ---- Plain answers ---- */

static void test_answers(void **state)
{
    open_with(plain());
    assert_status(GET("/now"), 200);
    assert_has("\r\n\r\nnow");
    assert_has("Content-Length: 3\r\n");
    assert_has("X-Content-Type-Options: nosniff\r\n");
    assert_has("Referrer-Policy: no-referrer\r\n");
    assert_lacks("Content-Security-Policy");
    assert_lacks("Access-Control");
    assert_status(GET("/later"), 200);
    assert_has("\r\n\r\nlater");
    assert_status(POST_WITH("/echo", ""), 200);
    assert_has("\r\n\r\n{}");
    assert_status(POST_WITH("/echo", "Content-Type: text/plain\r\n"), 200);
    assert_status("POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n" ENDS "3\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: 1\r\n\r\n", 200);
    assert_has("\r\n\r\nabcde");
    assert_status("GET /now HTTP/1.0\r\n" HOST "\r\n", 200);
    shut();
}

/* A client that asks for leave before it sends its body. */
static void test_continue(void **state)
{
    bool closed;
    open_with(plain());
    int fd = dial();
    put(fd, "POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 2\r\n" ENDS);
    take(fd, "\r\n\r\n", &closed);
    assert_int_equal(status_of(got), 100);
    put(fd, "{}");
    take(fd, NULL, &closed);
    assert_int_equal(status_of(got), 200);
    assert_has("\r\n\r\n{}");
    close(fd);
    shut();
}

static void test_heads(void **state)
{
    open_with(plain());
    assert_status("HEAD /now HTTP/1.1\r\n" HOST ENDS, 200);
    assert_has("Content-Length: 3\r\n");
    assert_null(strstr(got, "\r\n\r\nnow"));
    assert_status("HEAD /events HTTP/1.1\r\n" HOST ENDS, 200);
    assert_lacks("data:");
    assert_status(GET("/html"), 200);
    assert_has("Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; frame-ancestors 'none'; "
               "base-uri 'none'; form-action 'none'\r\n");
    assert_has("X-One: 1\r\n");
    assert_lacks("X-Bad");
    assert_lacks("X-Split");
    shut();
}

/* Four thousand arguments, as many as a target has room for. */
#define TEN "a&b&c&d&e&f&g&h&i&j&"
#define HUNDRED TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN
#define THOUSAND HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED
#define MANY THOUSAND THOUSAND THOUSAND THOUSAND

static void test_routes(void **state)
{
    open_with(plain());
    assert_status(GET_WITH("/tell/a%2Fb%20c?p=1&q=%41+b&q=2", "X-Test:  v w \r\n"), 200);
    assert_has("\r\n\r\nGET|/tell/a/b c|a/b c|A b|v w|context");
    assert_status(GET_WITH("/tell/a?" MANY "q=9", ""), 200);
    assert_has("|9|");
    assert_status("DELETE /tell/ HTTP/1.1\r\n" HOST ENDS, 200);
    assert_has("DELETE|/tell/||-|-|context");
    assert_status("GET http://localhost/tell/x HTTP/1.1\r\n" HOST ENDS, 200);
    assert_status("GET http://elsewhere/tell/x HTTP/1.1\r\n" HOST ENDS, 400);
    assert_status(GET("/nothing"), 404);
    assert_has("{\"error\":{\"message\":\"there is nothing at this path\",\"type\":\"not_found_error\",\"param\":null,\"code\":\"unknown_path\"}}");
    assert_status(GET("/v1/nothing"), 404);     /* as the first route below the same segment has it */
    assert_has("{\"type\":\"error\",\"error\":{\"type\":\"not_found_error\"");
    assert_status("PUT /tell/x HTTP/1.1\r\n" HOST ENDS, 405);
    assert_has("Allow: GET, HEAD, DELETE\r\n");
    assert_has("\r\n\r\n{\"error\":\"this path takes GET, HEAD, DELETE\"}");
    assert_status("OPTIONS /echo HTTP/1.1\r\n" HOST ENDS, 204);
    assert_has("Allow: POST\r\n");
    assert_status(GET("/busy"), 503);
    assert_has("Retry-After: 1\r\n");
    shut();
}

/* ---- Guards ---- */

static void test_host_names(void **state)
{
    char *allow[] = {(char *)"nomoat.example", NULL};
    nm_guard g = {.allow = allow, .own = "machine.example.org"};
    static const struct { const char *host; bool known, valid; } cases[] = {
        {"localhost", true, true}, {"LocalHost:11500", true, true}, {"a.localhost", true, true}, {"127.0.0.1:1", true, true}, {"[::1]:80", true, true}, {"[::1]", true, true},
        {"192.168.1.7", true, true}, {"host.docker.internal:11500", true, true}, {"machine", true, true}, {"machine.example.org", true, true}, {"machine.local", true, true},
        {"nomoat.example:8080", true, true}, {"localhost.", true, true}, {"evil.example", false, true}, {"localhost.evil.example", false, true}, {"127.0.0.1.evil.example", false, true},
        {"xlocalhost", false, true}, {"machine.evil.example", false, true}, {"example.org", false, true}, {"", false, false}, {"localhost:", false, false}, {"localhost:x", false, false},
        {"localhost:1:2", false, false}, {"a b", false, false}, {"user@localhost", false, false}, {"[::1", false, false}, {"[evil.example]", false, false}, {"::1", false, false},
        {"localhost:123456", false, false}, {"localhost/x", false, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool valid;
        assert_int_equal(nm_guard_host(&g, cases[i].host, &valid), cases[i].known);
        assert_int_equal(valid, cases[i].valid);
    }
}

static void test_host(void **state)
{
    static const char *const allow[] = {"nomoat.example", NULL};
    nm_http_options o = plain();
    o.allow_hosts = allow;
    open_with(o);
    assert_status("GET /now HTTP/1.1\r\nHost: evil.example\r\n" ENDS, 403);
    assert_has("--allow-host HOST");
    assert_status("GET /now HTTP/1.1\r\nHost: nomoat.example:99\r\n" ENDS, 200);
    assert_status("GET /now HTTP/1.1\r\n" ENDS, 400);
    assert_status("GET /now HTTP/1.0\r\n" ENDS, 400);
    assert_status("GET /now HTTP/1.1\r\n" HOST HOST ENDS, 400);
    assert_status("GET /now HTTP/1.1\r\nHost: local host\r\n" ENDS, 400);
    shut();
}

static void test_origin(void **state)
{
    static const char *const cors[] = {"https://page.example", NULL};
    nm_http_options o = plain();
    o.cors = cors;
    open_with(o);
    assert_status(POST_WITH("/echo", "Origin: http://localhost\r\n"), 200);
    assert_status("POST /echo HTTP/1.1\r\nHost: localhost:80\r\nOrigin: http://localhost\r\nContent-Length: 0\r\n" ENDS, 200);
    assert_status(POST_WITH("/echo", "Origin: http://localhost:3000\r\n"), 403);
    assert_has("--cors ORIGIN");
    assert_status(POST_WITH("/echo", "Origin: https://localhost\r\n"), 403);
    assert_status(POST_WITH("/echo", "Origin: null\r\n"), 403);
    assert_status(POST_WITH("/echo", "Origin: http://localhost\r\nOrigin: http://evil.example\r\n"), 403);
    assert_status("DELETE /tell/x HTTP/1.1\r\n" HOST "Origin: http://evil.example\r\n" ENDS, 403);
    assert_status(GET_WITH("/now", "Origin: http://evil.example\r\n"), 200);
    assert_lacks("Access-Control");
    assert_status("OPTIONS /echo HTTP/1.1\r\n" HOST "Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n" ENDS, 403);
    assert_lacks("Access-Control");
    assert_status("OPTIONS /echo HTTP/1.1\r\n" HOST "Origin: https://page.example\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\n" ENDS, 204);
    assert_has("Access-Control-Allow-Origin: https://page.example\r\n");
    assert_has("Access-Control-Allow-Methods: POST\r\n");
    assert_has("Access-Control-Allow-Headers: content-type\r\n");
    assert_has("Vary: Origin\r\n");
    assert_status(POST_WITH("/echo", "Origin: https://page.example\r\n"), 200);
    assert_has("Access-Control-Allow-Origin: https://page.example\r\n");
    shut();
}

static void test_key(void **state)
{
    nm_http_options o = plain();
    o.key = "secret-key";
    open_with(o);
    assert_status(GET("/now"), 401);
    assert_has("WWW-Authenticate: Bearer\r\n");
    assert_has("\"type\":\"authentication_error\"");
    assert_status(GET("/nothing"), 401);
    assert_status(GET("/html"), 200);       /* an open route */
    assert_status(GET_WITH("/now", "Authorization: Bearer secret-key\r\n"), 200);
    assert_status(GET_WITH("/now", "authorization: bearer  secret-key\r\n"), 200);
    assert_status(GET_WITH("/now", "x-api-key: secret-key\r\n"), 200);
    assert_status(GET_WITH("/now", "x-api-key: secret-kez\r\n"), 401);
    assert_status(GET_WITH("/now", "x-api-key: secret-key2\r\n"), 401);
    assert_status(GET_WITH("/now", "x-api-key: secret-ke\r\n"), 401);
    assert_status(GET_WITH("/now", "x-api-key:\r\n"), 401);
    assert_status(GET_WITH("/now", "x-api-key: none\r\nAuthorization: Bearer secret-key\r\n"), 200);
    assert_status(GET_WITH("/now", "Authorization: Basic secret-key\r\n"), 401);
    assert_status(POST_WITH("/v1/messages", ""), 401);
    assert_has("{\"type\":\"error\",\"error\":{\"type\":\"authentication_error\"");
    shut();
}

/* Who asks, as a number: words in place of a key tell programs of one computer apart; where there is a key, nobody becomes many by showing others beside it. */
static unsigned long long number_of(const char *request, const char *from)
{
    bool closed;
    int fd = dial_from(from);
    put(fd, request);
    take(fd, NULL, &closed);
    close(fd);
    assert_int_equal(status_of(got), 200);
    return strtoull(strstr(got, "\r\n\r\n") + 4, NULL, 10);
}

static void test_clients(void **state)
{
    nm_http_options o = plain();
    open_with(o);
    unsigned long long bare = number_of(GET("/client"), "127.0.0.1"), one = number_of(GET_WITH("/client", "x-api-key: one\r\n"), "127.0.0.1");
    assert_true(bare == number_of(GET("/client"), "127.0.0.1"));
    assert_true(bare != number_of(GET("/client"), "127.0.0.2"));
    assert_true(bare != one && one == number_of(GET_WITH("/client", "Authorization: Bearer one\r\n"), "127.0.0.1"));
    assert_true(one != number_of(GET_WITH("/client", "x-api-key: two\r\n"), "127.0.0.1"));
    shut();
    o.key = "k";
    open_with(o);
    one = number_of(GET_WITH("/client", "x-api-key: k\r\n"), "127.0.0.1");
    assert_true(one == number_of(GET_WITH("/client", "x-api-key: k\r\nAuthorization: Bearer 1\r\n"), "127.0.0.1"));
    assert_true(one == number_of(GET_WITH("/client", "x-api-key: 2\r\nAuthorization: Bearer k\r\n"), "127.0.0.1"));
    assert_true(one != number_of(GET_WITH("/client", "x-api-key: k\r\n"), "127.0.0.2"));
    shut();
}

static void test_listening(void **state)
{
    nm_http *second = NULL;
    nm_http_options o = plain();
    char number[32];
    o.host = "0.0.0.0";
    assert_int_equal(nm_http_open(&second, &o), NM_REFUSED);
    o.key = "";
    assert_int_equal(nm_http_open(&second, &o), NM_REFUSED);
    o.key = "k";
    open_with(o);
    assert_status(GET_WITH("/now", "x-api-key: k\r\n"), 200);
    shut();
    open_with(plain());
    o = plain();
    o.port = nm_http_port(http);
    assert_int_equal(nm_http_open(&second, &o), NM_FAILED);
    assert_null(second);
    snprintf(number, sizeof number, "(process %d)", getpid());
    assert_non_null(strstr(nm_error_text(), number));
    assert_non_null(strstr(nm_error_text(), "--port "));
    shut();
    o.port = 70000;
    assert_int_equal(nm_http_open(&second, &o), NM_USAGE);
    o.port = 0;
    o.host = "no such host";
    assert_int_equal(nm_http_open(&second, &o), NM_USAGE);
    o.host = "::1";
    if (nm_http_open(&second, &o) == NM_OK) nm_http_close(&second);
}

/* ---- Attacks ---- */

static void test_targets(void **state)
{
    static const struct { const char *target, *path; } cases[] = {
        {"/a/b", "/a/b"}, {"/a%20b", "/a b"}, {"/%252e%252e/", "/%2e%2e/"}, {"/a/.b/..c/...", "/a/.b/..c/..."}, {"http://h", "/"}, {"http://h?x", "/"}, {"http://h/y?x", "/y"}, {"*", "*"}, {"/../x", NULL}, {"/a/..", NULL},
        {"/a/./b", NULL}, {"/%2e%2e/x", NULL}, {"/a%2f..%2fb", NULL}, {"/a\\..\\b", NULL}, {"/a%5c..%5cb", NULL}, {"/%00", NULL}, {"/a%0d%0a", NULL}, {"/%7f", NULL}, {"/%", NULL},
        {"/%4", NULL}, {"/%zz", NULL}, {"x", NULL}, {"", NULL}, {"/a b", NULL}, {"/\xff", NULL}, {"/a#b", NULL}, {"http://other/", NULL}, {"/?q=%00", NULL}, {"/?q=%", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nm_str path = {0}, query = {0};
        nm_err err = nm_guard_target(cases[i].target, "h", &path, &query);
        assert_int_equal(err, cases[i].path ? NM_OK : NM_USAGE);
        if (cases[i].path) assert_string_equal(path.data, cases[i].path);
        nm_str_free(&path);
        nm_str_free(&query);
    }
    open_with(plain());
    assert_status(GET("/tell/../now"), 400);
    assert_status(GET("/tell/%2e%2e/now"), 400);
    assert_status(GET("/tell/%00"), 400);
    shut();
}

#define HIDDEN "GET /now HTTP/1.1\r\n" HOST "\r\n"
#define AND(literal) literal, sizeof literal - 1

/* Whatever could be read in two ways gets a refusal and the end of its connection; what is hidden behind it is not heard. */
static void test_smuggling(void **state)
{
    static const struct { const char *request; size_t length; } cases[] = {
        {AND("POST /echo HTTP/1.1\r\n" HOST "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" HIDDEN)},
        {AND("POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" HIDDEN)},
        {AND("POST /echo HTTP/1.1\r\n" HOST "Content-Length: 0\r\nContent-Length: 50\r\n\r\n" HIDDEN)},
        {AND("POST /echo HTTP/1.1\r\n" HOST "Content-Length: 0, 0\r\n\r\n" HIDDEN)},
        {AND("POST /echo HTTP/1.1\r\n" HOST "Content-Length: +0\r\n\r\n" HIDDEN)},
        {AND("POST /echo HTTP/1.1\r\n" HOST "Content-Length: -1\r\n\r\n" HIDDEN)},
        {AND("POST /echo HTTP/1.1\r\n" HOST "Content-Length: 0x0\r\n\r\n" HIDDEN)},
        {AND("POST /echo HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\n" HIDDEN)},
        {AND("POST /echo HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999999\r\n\r\n" HIDDEN)},
        {AND("POST /echo HTTP/1.1\r\n" HOST "Content-Length : 0\r\n\r\n" HIDDEN)},
        {AND("POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" HIDDEN)},
        {AND("POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" HIDDEN)},
        {AND("POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" HIDDEN)},
        {AND("POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" HIDDEN)},
        {AND("POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding:\x0b" "chunked\r\n\r\n0\r\n\r\n" HIDDEN)},
        {AND("POST /echo HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" HIDDEN)},
        {AND("POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n" HIDDEN)},
        {AND("POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" HIDDEN)},
        {AND("POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n" HIDDEN)},
        {AND("POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" HIDDEN)},
        {AND("GET /now HTTP/1.1\r\n" HOST "X: 1\r\n folded: 2\r\n\r\n" HIDDEN)},
        {AND("GET /now HTTP/1.1\r\n" HOST "Transfer-Enco\r\n\tding: chunked\r\n\r\n" HIDDEN)},
        {AND("GET /now HTTP/1.1\r\n folded: 2\r\n" HOST "\r\n" HIDDEN)},
        {AND("GET /now HTTP/1.1\r\n" HOST "X: 1\nY: 2\r\n\r\n" HIDDEN)},
        {AND("GET /now HTTP/1.1\n" HOST "\r\n" HIDDEN)},
        {AND("GET /now HTTP/1.1\r\n" HOST "X: 1\0\r\n\r\n" HIDDEN)},
        {AND("GET /now HTTP/1.1\r\n" HOST "\0hidden: 1\r\n\r\n" HIDDEN)},
        {AND("GET /now HTTP/1.1\r\n" HOST "X\0: 1\r\n\r\n" HIDDEN)},
        {AND("GET /now\0 HTTP/1.1\r\n" HOST "\r\n" HIDDEN)},
        {AND("GE\0T /now HTTP/1.1\r\n" HOST "\r\n" HIDDEN)},
        {AND("GET  /now HTTP/1.1\r\n" HOST "\r\n" HIDDEN)},
        {AND("GET /now  HTTP/1.1\r\n" HOST "\r\n" HIDDEN)},
        {AND("GET /no w HTTP/1.1\r\n" HOST "\r\n" HIDDEN)},
        {AND("GET /now HTTP/1.1 \r\n" HOST "\r\n" HIDDEN)},
        {AND("GET /now HTTP/2.0\r\n" HOST "\r\n" HIDDEN)},
        {AND("GET /now HTTP/0.9\r\n" HOST "\r\n" HIDDEN)},
        {AND("GET /now\r\n" HOST "\r\n" HIDDEN)},
        {AND("GET /now HTTP/1.1\r\n" HOST "no colon\r\n\r\n" HIDDEN)},
        {AND("GET /now HTTP/1.1\r\n" HOST ": no name\r\n\r\n" HIDDEN)},
        {AND("GET /now HTTP/1.1\r\n" HOST "X: a\rb\r\n\r\n" HIDDEN)},
        {AND("GET /now HTTP/1.1\r\n" HOST "X: \x01\r\n\r\n" HIDDEN)},
        {AND("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")}, {AND("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")}};
    open_with(plain());
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *answer = talk_bytes(cases[i].request, cases[i].length);
        int status = status_of(answer);
        if (strstr(answer, "HTTP/1.1 2")) print_message("# case %zu: %s\n", i, answer);
        assert_true(status == 0 || (status >= 400 && status < 600));
        assert_lacks("HTTP/1.1 2");
    }
    assert_status(GET("/now"), 200);
    shut();
}

static char *repeated(const char *before, char c, size_t n, const char *after)
{
    size_t b = strlen(before), a = strlen(after);
    char *text = malloc(b + n + a + 1);
    memcpy(text, before, b);
    memset(text + b, c, n);
    memcpy(text + b + n, after, a + 1);
    return text;
}

static void assert_long(const char *before, size_t n, const char *after, int status)
{
    char *text = repeated(before, 'a', n, after);
    int answer = status_of(talk(text));
    if (n > 60000) assert_true(answer == status || answer == 0);     /* the rest, unread, may reset the connection */
    else assert_int_equal(answer, status);
    free(text);
}

static void test_sizes(void **state)
{
    nm_http_options o = plain();
    o.most_body = 1000;
    open_with(o);
    assert_long("GET /tell/", 300, " HTTP/1.1\r\n" HOST ENDS, 200);
    assert_long("GET /tell/", 9000, " HTTP/1.1\r\n" HOST ENDS, 414);
    assert_long("GET /tell/", 200000, " HTTP/1.1\r\n" HOST ENDS, 414);
    assert_long("GET /now HTTP/1.1\r\n" HOST "X: ", 30000, "\r\n" ENDS, 200);
    assert_long("GET /now HTTP/1.1\r\n" HOST "X: ", 33000, "\r\n" ENDS, 431);
    assert_long("GET /now HTTP/1.1\r\n" HOST "X: ", 200000, "\r\n" ENDS, 431);
    assert_long("POST /echo HTTP/1.1\r\n" HOST "Content-Length: 1000\r\n" ENDS, 1000, "", 200);
    assert_long("POST /echo HTTP/1.1\r\n" HOST "Content-Length: 1001\r\n" ENDS, 1001, "", 413);
    assert_long("POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n" ENDS "3e9\r\n", 1001, "\r\n0\r\n\r\n", 413);
    assert_status("POST /echo HTTP/1.1\r\n" HOST "Content-Length: 999999999999\r\n" ENDS, 413);
    assert_status("POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 1001\r\n" ENDS, 413);
    assert_long("POST /small HTTP/1.1\r\n" HOST "Content-Length: 16\r\n" ENDS, 16, "", 200);
    assert_long("POST /small HTTP/1.1\r\n" HOST "Content-Length: 17\r\n" ENDS, 17, "", 413);
    char many[4000] = "GET /now HTTP/1.1\r\n" HOST;
    for (int i = 0; i < 200; i++) snprintf(many + strlen(many), sizeof many - strlen(many), "X: %d\r\n", i);
    strncat(many, ENDS, sizeof many - strlen(many) - 1);
    assert_status(many, 431);
    shut();
}

enum { LARGE = 100000 };
#define LARGE_TO(path, length) "POST " path " HTTP/1.1\r\n" HOST "Content-Length: " length "\r\n" ENDS

/* So many bytes of a body that was told to be one longer. */
static int send_large(const char *head, size_t n)
{
    char *text = repeated(head, 'a', n, "");
    int fd = dial();
    assert_true(put(fd, text));
    free(text);
    return fd;
}

/* Large requests that wait for their turn, and whose clients are still there. */
static int queued(void)
{
    int n = 0;
    pthread_mutex_lock(&http->lock);
    for (const nm_exchange *x = http->large; x; x = x->next) n += !nm_exchange_gone(x);
    pthread_mutex_unlock(&http->lock);
    return n;
}

static bool soon_queued(int n)
{
    for (uint64_t begin = nm_clock_ns(); queued() != n && ms_since(begin) < PATIENCE;) nap(1);
    return queued() == n;
}

/* Fills fd with large requests, of which the first is at work until it is let go; the others wait behind it. */
static void hold_large(int *fd, int n)
{
    int before = atomic_load(&started);
    atomic_store(&held, true);
    fd[0] = send_large(LARGE_TO("/dwell", "100000"), LARGE);
    assert_true(soon(&started, before + 1));
    for (int i = 1; i < n; i++) fd[i] = send_large(LARGE_TO("/dwell", "100000"), LARGE);
    assert_true(soon_queued(n - 1));
}

static void *let_go_later(void *arg)
{
    nap(50);
    atomic_store(&held, false);
    return NULL;
}

/* Whose body is large waits for others' like it; nobody else does. What has left by its turn is not begun. */
static void test_large_bodies(void **state)
{
    enum { N = 3 };
    int fd[N];
    bool closed;
    pthread_t later;
    open_with(plain());
    hold_large(fd, N);
    assert_status(GET("/now"), 200);
    assert_int_equal(atomic_load(&started), 1);
    close(fd[1]);
    assert_true(soon_queued(N - 2));
    atomic_store(&held, false);
    for (int i = 0; i < N; i += 2) {
        take(fd[i], NULL, &closed);
        assert_true(closed);
        assert_int_equal(status_of(got), 200);
        close(fd[i]);
    }
    assert_int_equal(atomic_load(&started), 2);
    hold_large(fd, N);
    assert_int_equal(pthread_create(&later, NULL, let_go_later, NULL), 0);      /* while the server closes */
    shut();
    pthread_join(later, NULL);
    for (int i = 0; i < N; i++) close(fd[i]);
}

static int large_echo(void)
{
    bool closed;
    int fd = send_large(LARGE_TO("/echo", "100000"), LARGE);
    take(fd, NULL, &closed);
    close(fd);
    return status_of(got);
}

/* Bodies that are there at the same time have a bound together; small ones are taken all the same, and those that go make room. */
static void test_many_bodies(void **state)
{
    enum { N = 11 };        /* and one more is too many: four times the longest, of each what is beyond 64 KiB */
    int fd[N], status = 200;
    nm_http_options o = plain();
    o.most_body = LARGE;
    open_with(o);
    for (int i = 0; i < N; i++) fd[i] = send_large(LARGE_TO("/echo", "100000"), LARGE - 1);
    uint64_t begin = nm_clock_ns();
    while (status == 200 && ms_since(begin) < PATIENCE) nap(20), status = large_echo();
    assert_int_equal(status, 503);
    assert_has("Retry-After: 1\r\n");
    assert_status(POST_WITH("/echo", ""), 200);
    for (int i = 0; i < N; i++) close(fd[i]);
    begin = nm_clock_ns();
    while (status == 503 && ms_since(begin) < PATIENCE) nap(20), status = large_echo();
    assert_int_equal(status, 200);
    shut();
}

/* Bodies of clients that have left hold no memory while they wait for their turn: they count no more. */
static void test_left_bodies(void **state)
{
    enum { N = 20 };
    int busy, fd[N];
    open_with(plain());
    hold_large(&busy, 1);
    int64_t before = nm_mem_alive();
    for (int i = 0; i < N; i++) fd[i] = send_large(LARGE_TO("/dwell", "100000"), LARGE);
    assert_true(soon_queued(N));
    assert_true(nm_mem_alive() >= before + N);
    for (int i = 0; i < N; i++) close(fd[i]);
    for (uint64_t begin = nm_clock_ns(); nm_mem_alive() > before && ms_since(begin) < PATIENCE;) nap(1);
    assert_true(nm_mem_alive() <= before);
    assert_int_equal(atomic_load(&started), 1);
    atomic_store(&held, false);
    close(busy);
    shut();
}

/* Bytes that come one by one, for as long as the server takes them; milliseconds until it closes. */
static int drip(const char *first)
{
    int fd = dial();
    uint64_t begin = nm_clock_ns();
    bool closed = false;
    put(fd, first);
    while (!closed && ms_since(begin) < PATIENCE) {
        take_within(50, fd, NULL, &closed);
        if (!closed && !put(fd, "a")) closed = true;
    }
    close(fd);
    return closed ? ms_since(begin) : -1;
}

static void test_slow_requests(void **state)
{
    nm_http_options o = plain();
    o.idle_seconds = 1;
    open_with(o);
    assert_in_range(drip("G"), 500, PATIENCE);
    assert_in_range(drip("GET /now HTTP/1.1\r\nX: "), 500, PATIENCE);
    assert_in_range(drip("POST /echo HTTP/1.1\r\n" HOST "Content-Length: 100000\r\n\r\n"), 500, PATIENCE);
    bool closed;
    int fd = dial();        /* nothing at all */
    take(fd, NULL, &closed);
    assert_true(closed);
    close(fd);
    shut();
}

/* ---- Streams, and clients that leave ---- */

static void test_stream(void **state)
{
    open_with(plain());
    assert_status(GET("/events"), 200);
    assert_has("Content-Type: text/event-stream\r\n");
    assert_has("Cache-Control: no-cache\r\n");
    assert_has("X-Accel-Buffering: no\r\n");
    assert_has("Transfer-Encoding: chunked\r\n");
    assert_int_equal(count(got, "data: "), 20);
    assert_has("\r\n0\r\n\r\n");
    assert_status("GET /events HTTP/1.0\r\n" HOST "\r\n", 200);
    assert_int_equal(count(got, "data: "), 20);
    assert_lacks("Transfer-Encoding");
    assert_status(GET("/breaks"), 200);
    assert_has("data: one\n\n");
    assert_has("data: {\"error\":{\"message\":\"it broke\",\"type\":\"server_error\",\"param\":null,\"code\":null}}\n\n");
    assert_lacks("two");
    shut();
}

static void *write_at_once(void *arg)
{
    nm_exchange_begin(arg, 200, "text/event-stream");
    for (int i = 0; i < 30; i++) {
        char text[32];
        int n = snprintf(text, sizeof text, "%020llu\n", (unsigned long long)nm_clock_ns());
        nm_exchange_write(arg, text, (size_t)n);
        nap(10);
    }
    nm_exchange_end(arg);
    return done(arg);
}
static void clocked(nm_exchange *x, void *context) { in_thread(write_at_once, x); }

/* How many of 28 pieces have come some milliseconds after they were written. */
static int prompt_pieces(void)
{
    int fd = dial(), prompt = 0;
    bool closed;
    put(fd, GET("/clock"));
    take(fd, "\r\n\r\n", &closed);
    for (int i = 0; i < 28; i++) {
        take(fd, "\n\r\n", &closed);
        uint64_t arrived = nm_clock_ns();
        const char *digits = strstr(got, "0000");
        if (digits && arrived - strtoull(digits, NULL, 10) < 8000000) prompt++;
    }
    close(fd);
    return prompt;
}

/* Pieces travel when they are written: no algorithm of TCP holds them back (40 ms, where one does, and always). A machine that does other things may, for a time. */
static void test_promptness(void **state)
{
    static const nm_route route[] = {{"GET", "/clock", NM_DIALECT_OURS, true, 0, clocked}, {0}};
    const nm_route *const table[] = {route, NULL};
    nm_http_options o = plain();
    o.routes = table;
    open_with(o);
    int prompt = 0;
    for (int i = 0; i < 20 && prompt < 14; i++) prompt = prompt_pieces();
    assert_true(prompt >= 14);
    shut();
}

static void test_keep_alive(void **state)
{
    bool closed;
    open_with(plain());
    int fd = dial();
    for (int i = 0; i < 20; i++) {
        static const char *const requests[] = {"GET /now HTTP/1.1\r\n" HOST "\r\n", "GET /later HTTP/1.1\r\n" HOST "\r\n", "GET /nothing HTTP/1.1\r\n" HOST "\r\n",
            "POST /small HTTP/1.1\r\n" HOST "Content-Length: 20\r\n\r\n01234567890123456789", "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\nok",
            "POST /echo HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 2\r\n\r\nok"};
        static const char *const answers[] = {"now", "later", "unknown_path\"}}", "body_too_large\"}}", "ok", "\"code\":null}}"};
        static const int statuses[] = {200, 200, 404, 413, 200, 403};
        put(fd, requests[i % 6]);
        take(fd, answers[i % 6], &closed);
        assert_false(closed);
        assert_int_equal(status_of(got), statuses[i % 6]);
        assert_has(answers[i % 6]);
    }
    put(fd, "GET /events HTTP/1.1\r\n" HOST "\r\n");
    take(fd, "\r\n0\r\n\r\n", &closed);
    assert_int_equal(count(got, "data: "), 20);
    put(fd, "GET /later HTTP/1.1\r\n" HOST "\r\nGET /now HTTP/1.1\r\n" HOST "\r\nGET /now HTTP/1.1\r\n" HOST ENDS);    /* without waiting */
    take(fd, NULL, &closed);
    assert_true(closed);
    assert_int_equal(count(got, "HTTP/1.1 200 OK"), 3);
    close(fd);
    shut();
}

enum { CLOSED, HALF, RESET };
static int leave(const char *request, int how)
{
    int fd = dial(), before = atomic_load(&left), begun_before = atomic_load(&started);
    put(fd, request);
    assert_true(soon(&started, begun_before + 1));
    if (how == HALF) shutdown(fd, SHUT_WR);
    if (how == RESET) setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
    uint64_t begin = nm_clock_ns();
    assert_int_equal(atomic_load(&left), before);
    close(fd);
    assert_true(soon(&left, before + 1));
    return ms_since(begin);
}

/* Within 50 ms, and as many for what else the machine does: it may do more than that for a while. */
static void test_leaving(void **state)
{
    enum { NOTICED = 100, TRIES = 30 };
    int leavers = 0;
    open_with(plain());
    static const char *const requests[] = {GET("/never"), GET("/begun")};
    for (int i = 0; i < 4; i++) {
        int best = PATIENCE;
        for (int k = 0; k < 3 || (best > NOTICED && k < TRIES); k++, leavers++) {
            int ms = leave(requests[i / 2], i % 2 ? RESET : CLOSED);
            if (ms < best) best = ms;
        }
        assert_in_range(best, 0, NOTICED);
    }
    assert_int_equal(atomic_load(&left), leavers);      /* each once */
    shut();
    assert_int_equal(atomic_load(&left), leavers);
}

static const char *ask_and_half_close(const char *request)
{
    bool closed;
    int fd = dial();
    put(fd, request);
    shutdown(fd, SHUT_WR);
    take(fd, NULL, &closed);
    assert_true(closed);
    close(fd);
    return got;
}

static void *write_slowly(void *arg)
{
    nm_exchange_begin(arg, 200, "text/event-stream");
    nm_exchange_write(arg, "data: first\n\n", 13);
    wait_while_held();
    for (int i = 0; i < 3; i++) {
        nap(100);
        nm_exchange_write(arg, "data: x\n\n", 9);
    }
    nap(100);
    nm_exchange_end(arg);
    return done(arg);
}
static void slowly(nm_exchange *x, void *context) { in_thread(write_slowly, x); }

/* A client that asks, and half closes, is answered where the answer is there, or is a stream that has begun. */
static void test_half_closed(void **state)
{
    static const nm_route route[] = {{"GET", "/slowly", NM_DIALECT_OURS, true, 0, slowly}, {0}};
    const nm_route *const table[] = {openai, route, NULL};
    nm_http_options o = plain();
    o.routes = table;
    open_with(o);
    assert_int_equal(status_of(ask_and_half_close("GET /now HTTP/1.1\r\n" HOST "\r\n")), 200);
    assert_has("now");
    int fd = dial();
    bool closed;
    atomic_store(&held, true);
    put(fd, "GET /slowly HTTP/1.1\r\n" HOST "\r\n");
    take(fd, "first", &closed);
    assert_has("HTTP/1.1 200 OK\r\n");
    shutdown(fd, SHUT_WR);
    atomic_store(&held, false);
    take(fd, NULL, &closed);
    close(fd);
    assert_int_equal(count(got, "data: x\n\n"), 3);
    assert_has("0\r\n\r\n");
    shut();
}

static void *write_after_silence(void *arg)
{
    nm_exchange_begin(arg, 200, "text/event-stream");
    wait_while_held();
    nm_exchange_write(arg, "data: x\n\n", 9);
    nm_exchange_end(arg);
    return done(arg);
}
static void silently(nm_exchange *x, void *context) { in_thread(write_after_silence, x); }

/* A stream that is silent until it has said so twice, not before its time. */
static void hear_silence(const char *request, const char *sign)
{
    bool closed;
    int fd = dial();
    uint64_t begin = nm_clock_ns();
    atomic_store(&held, true);
    put(fd, request);
    for (int i = 0; i < 2; i++) {
        take(fd, sign, &closed);
        assert_has(sign);
    }
    assert_in_range(ms_since(begin), 450, 2 * PATIENCE);
    atomic_store(&held, false);
    take(fd, NULL, &closed);
    assert_true(closed);
    assert_int_equal(count(got, "data: x\n\n"), 1);
    close(fd);
}

/* A stream that is silent for a quarter of the idle time says that it is alive, in its dialect. */
static void test_silence(void **state)
{
    static const nm_route route[] = {{"GET", "/silently", NM_DIALECT_OURS, true, 0, silently}, {"GET", "/anthropic", NM_DIALECT_ANTHROPIC, true, 0, silently}, {0}};
    const nm_route *const table[] = {openai, route, NULL};
    nm_http_options o = plain();
    o.routes = table;
    o.idle_seconds = 1;
    open_with(o);
    hear_silence("GET /silently HTTP/1.1\r\n" HOST ENDS, "3\r\n:\n\n\r\n");
    hear_silence("GET /anthropic HTTP/1.1\r\n" HOST ENDS, "event: ping\ndata: {\"type\":\"ping\"}\n\n");
    shut();
}

static void test_slow_reader(void **state)
{
    nm_http_options o = plain();
    o.most_pending = 1 << 20;
    open_with(o);
    int fd = dial();
    put(fd, GET("/flood"));
    assert_true(soon(&left, 1));
    close(fd);
    shut();
}

static void test_many_streams(void **state)
{
    enum { N = 64 };
    int fd[N];
    bool closed;
    open_with(plain());
    for (int i = 0; i < N; i++) assert_true((fd[i] = dial()) >= 0);
    for (int i = 0; i < N; i++) put(fd[i], GET("/events"));
    for (int i = 0; i < N; i++) {
        take(fd[i], NULL, &closed);
        assert_true(closed);
        const char *at = got;
        for (int k = 0; k < 20; k++) {
            char piece[32];
            snprintf(piece, sizeof piece, "data: %d\n\n", k);
            assert_non_null(at = strstr(at, piece));
        }
        close(fd[i]);
    }
    shut();
}

static void test_close_under_way(void **state)
{
    enum { N = 24 };
    int fd[N];
    bool closed;
    static const char *const requests[] = {GET("/never"), GET("/begun"), GET("/flood"), "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 100\r\n\r\nabc"};
    open_with(plain());
    for (int i = 0; i < N; i++) {
        assert_true((fd[i] = dial()) >= 0);
        put(fd[i], requests[i % 4]);
    }
    assert_true(soon(&started, N / 4 * 3));
    shut();
    for (int i = 0; i < N; i++) {
        while (take(fd[i], NULL, &closed) && !closed) continue;
        assert_true(closed);
        close(fd[i]);
    }
    assert_int_equal(atomic_load(&left), N / 4 * 3);
}

/* Clients that leave at any moment of an answer, and a server that ends under them. */
static void test_races(void **state)
{
    enum { N = 24, ROUNDS = 12 };
    int fd[N];
    open_with(plain());
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < N; i++) {
            assert_true((fd[i] = dial()) >= 0);
            put(fd[i], i % 2 ? GET("/risk") : "GET /risk HTTP/1.1\r\n" HOST "\r\nGET /risk HTTP/1.1\r\n" HOST "\r\n");
        }
        for (int i = 0; i < N; i++) {
            usleep((unsigned)(i * 7919 + round * 104729) % 2000);
            if (i % 3 == 0) shutdown(fd[i], SHUT_WR);
            else close(fd[i]);
        }
        for (int i = 0; i < N; i += 3) close(fd[i]);
    }
    for (int i = 0; i < N; i++) put(fd[i] = dial(), GET("/risk"));
    nap(10);
    shut();
    for (int i = 0; i < N; i++) close(fd[i]);
}

/* Those that say nothing, or drip a head or a body, keep nobody out; not what an address has that keeps itself alive beside them. */
static void test_crowd(void **state)
{
    enum { N = 300 };
    static const char *const slow[] = {"", "G", "GET /now HTTP/1.1\r\nX: ", "GET /now HTTP/1.1\r\n" HOST "\r\n", "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 9\r\n\r\na"};
    int fd[N], kept;
    bool closed;
    open_with(plain());
    kept = dial_from("127.0.0.3");
    put(kept, "GET /now HTTP/1.1\r\n" HOST "\r\n");
    take(kept, "\r\n\r\nnow", &closed);
    for (int i = 0; i < N; i++) put(fd[i] = dial_from("127.0.0.2"), slow[i % 5]);
    for (int i = 0; i < 3; i++) {
        uint64_t begin = nm_clock_ns();
        assert_status(GET("/later"), 200);
        assert_in_range(ms_since(begin), 0, PATIENCE / 4);      /* none of those had to be given up */
    }
    put(kept, "GET /now HTTP/1.1\r\n" HOST "\r\n");
    take(kept, "\r\n\r\nnow", &closed);
    assert_int_equal(status_of(got), 200);
    for (int i = 0; i < N; i++) close(fd[i]);
    close(kept);
    shut();
}

/* One address has seven eighths of the table for its requests: whoever else comes finds a place. */
static void test_share(void **state)
{
    enum { MOST = 16, ITS = 14 };
    int fd[ITS];
    bool closed;
    nm_http_options o = plain();
    o.most_connections = MOST;
    open_with(o);
    for (int i = 0; i < ITS; i++) put(fd[i] = dial_from("127.0.0.2"), GET("/never"));
    assert_true(soon(&started, ITS));
    int more = dial_from("127.0.0.2");
    put(more, GET("/never"));
    take(more, NULL, &closed);
    assert_true(closed);
    assert_int_equal(status_of(got), 429);
    assert_has("Retry-After: 1\r\n");
    close(more);
    assert_status(GET("/now"), 200);
    assert_int_equal(atomic_load(&left), 0);
    for (int i = 0; i < ITS; i++) close(fd[i]);
    shut();
}

/* Beyond the bound the one that has been idle for longest goes. */
static void test_connections(void **state)
{
    enum { MOST = 3 };
    int fd[MOST];
    bool closed;
    nm_http_options o = plain();
    o.most_connections = MOST;
    open_with(o);
    for (int i = 0; i < MOST; i++) {
        put(fd[i] = dial(), "GET /now HTTP/1.1\r\n" HOST "\r\n");
        take(fd[i], "\r\n\r\nnow", &closed);
        assert_int_equal(status_of(got), 200);
    }
    int next = dial();
    put(next, GET("/now"));
    take(next, NULL, &closed);
    assert_int_equal(status_of(got), 200);
    take(fd[0], NULL, &closed);
    assert_true(closed);
    for (int i = 1; i < MOST; i++) {
        put(fd[i], "GET /now HTTP/1.1\r\n" HOST "\r\n");
        take(fd[i], "\r\n\r\nnow", &closed);
        assert_int_equal(status_of(got), 200);
    }
    for (int i = 0; i < MOST; i++) close(fd[i]);
    close(next);
    shut();
}

static void test_quiesce(void **state)
{
    bool closed;
    open_with(plain());
    int fd = dial();
    put(fd, "GET /now HTTP/1.1\r\n" HOST "\r\n");
    take(fd, "\r\n\r\nnow", &closed);
    nm_http_quiesce(http);
    nm_http_quiesce(http);
    assert_int_equal(dial(), -1);
    put(fd, "GET /later HTTP/1.1\r\n" HOST "\r\n");
    take(fd, "\r\n\r\nlater", &closed);
    assert_has("later");
    close(fd);
    shut();
}

/* ---- Memory that fails ---- */

static void test_memory(void **state)
{
    static const char *const requests[] = {GET_WITH("/tell/x?q=1", "X-Test: 1\r\n"), POST_WITH("/echo", ""), GET("/nothing"), GET("/later"), GET("/events"), GET("/begun"), GET("/html")};
    nm_http *none;
    nm_http_options o = plain();
    int64_t before = nm_mem_alive();
    nm_err err = NM_NO_MEMORY;
    for (int n = 0; err != NM_OK && n < 100; n++) {
        nm_mem_fail_after(n);
        err = nm_http_open(&none, &o);
        nm_mem_fail_after(-1);
        if (err == NM_OK) nm_http_close(&none);
        else assert_int_equal(err, NM_NO_MEMORY);
        assert_int_equal(nm_mem_alive(), before);
    }
    open_with(plain());
    for (int r = 0; r < 7; r++)
        for (int n = 0; n < 45; n++) {
            bool closed;
            int fd = dial();
            nap(1);
            nm_mem_fail_after(n);
            put(fd, requests[r]);
            take(fd, r == 5 ? "first" : NULL, &closed);
            nm_mem_fail_after(-1);
            assert_true(closed || r == 5);
            assert_true(status_of(got) == 0 || status_of(got) == 200 || status_of(got) >= 400);
            close(fd);
        }
    assert_status(GET("/now"), 200);
    shut();
}

/* ---- Errors in dialects' shapes ---- */

static void assert_error(nm_dialect dialect, int status, bool event, const char *expected)
{
    char *body = nm_error_body(dialect, status, NULL, NULL, "say \"x\"", event);
    assert_string_equal(body, expected);
    nm_free(body);
}

static void test_error_shapes(void **state)
{
    assert_error(NM_DIALECT_OPENAI, 429, false, "{\"error\":{\"message\":\"say \\\"x\\\"\",\"type\":\"rate_limit_error\",\"param\":null,\"code\":null}}");
    assert_error(NM_DIALECT_OPENAI, 418, true, "data: {\"error\":{\"message\":\"say \\\"x\\\"\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":null}}\n\n");
    assert_error(NM_DIALECT_ANTHROPIC, 413, false, "{\"type\":\"error\",\"error\":{\"type\":\"request_too_large\",\"message\":\"say \\\"x\\\"\"}}");
    assert_error(NM_DIALECT_ANTHROPIC, 500, true, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"say \\\"x\\\"\"}}\n\n");
    assert_error(NM_DIALECT_OLLAMA, 404, false, "{\"error\":\"say \\\"x\\\"\"}");
    assert_error(NM_DIALECT_OLLAMA, 404, true, "{\"error\":\"say \\\"x\\\"\"}\n");
    assert_error(NM_DIALECT_LLAMACPP, 503, false, "{\"error\":{\"code\":503,\"message\":\"say \\\"x\\\"\",\"type\":\"unavailable_error\"}}");
    assert_error(NM_DIALECT_LLAMACPP, 500, true, "data: {\"error\":{\"code\":500,\"message\":\"say \\\"x\\\"\",\"type\":\"server_error\"}}\n\n");
    char *body = nm_error_body(NM_DIALECT_OURS, 400, "my_type", "my_code", "m", false);
    assert_string_equal(body, "{\"error\":{\"message\":\"m\",\"type\":\"my_type\",\"param\":null,\"code\":\"my_code\"}}");
    nm_free(body);
    for (int n = 0; n < 8; n++) {
        nm_mem_fail_after(n);
        body = nm_error_body(NM_DIALECT_OPENAI, 400, NULL, NULL, "a message that is long enough to need more than one piece of memory for itself", true);
        nm_mem_fail_after(-1);
        nm_free(body);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_shapes), cmocka_unit_test(test_host_names), cmocka_unit_test(test_targets), cmocka_unit_test(test_answers), cmocka_unit_test(test_continue), cmocka_unit_test(test_heads),
        cmocka_unit_test(test_routes), cmocka_unit_test(test_host), cmocka_unit_test(test_origin), cmocka_unit_test(test_key), cmocka_unit_test(test_clients), cmocka_unit_test(test_listening),
        cmocka_unit_test(test_smuggling), cmocka_unit_test(test_sizes), cmocka_unit_test(test_large_bodies), cmocka_unit_test(test_many_bodies), cmocka_unit_test(test_left_bodies),
        cmocka_unit_test(test_slow_requests), cmocka_unit_test(test_stream), cmocka_unit_test(test_promptness),
        cmocka_unit_test(test_keep_alive), cmocka_unit_test(test_leaving), cmocka_unit_test(test_half_closed), cmocka_unit_test(test_silence), cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_many_streams), cmocka_unit_test(test_close_under_way), cmocka_unit_test(test_races), cmocka_unit_test(test_connections), cmocka_unit_test(test_crowd), cmocka_unit_test(test_share), cmocka_unit_test(test_quiesce), cmocka_unit_test(test_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
