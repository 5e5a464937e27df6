/* Any bytes as a target, Host, Origin and query, and as what a client sends to a listening server: whatever comes back begins as an answer of HTTP, and the server goes on. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "os/clock.h"
#include "server/http.h"
#include "server/http_guard.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void echo(nm_exchange *x, void *context)
{
    size_t n;
    const char *body = nm_exchange_body(x, &n);
    if (strlen(nm_exchange_tail(x)) > strlen(nm_exchange_path(x)) || body[n]) abort();
    (void)nm_exchange_query(x, "q");
    nm_exchange_reply(x, 200, "application/octet-stream", body, n);
}

static void stream(nm_exchange *x, void *context)
{
    nm_exchange_begin(x, 200, "text/event-stream");
    nm_exchange_write(x, "data: 1\n\n", 9);
    nm_exchange_end(x);
}

static const nm_route routes[] = {
    {"GET", "/s", NM_DIALECT_OPENAI, false, 0, stream}, {"POST", "/e", NM_DIALECT_ANTHROPIC, false, 64, echo}, {"GET", "/t/*", NM_DIALECT_OLLAMA, true, 0, echo}, {0}};

static nm_http *open_server(void)
{
    static const char *const cors[] = {"http://page", NULL};
    static const nm_route *const tables[] = {routes, NULL};
    nm_http *http;
    nm_http_options o = {.host = "127.0.0.1", .routes = tables, .cors = cors, .most_body = 4096};
    if (nm_http_open(&http, &o) != NM_OK) abort();
    return http;
}

static void decide(const char *text)
{
    char *list[] = {(char *)"page", NULL};
    nm_guard g = {.key = (char *)"key", .allow = list, .cors = list, .own = "machine.example"};
    nm_str path = {0}, query = {0};
    bool valid;
    if (nm_guard_host(&g, text, &valid) && !valid) abort();
    (void)nm_guard_origin(&g, text, "page");
    if (nm_guard_key(&g, text) != (strcmp(text, "key") == 0)) abort();
    if (nm_guard_target(text, "h", &path, &query) == NM_OK) {
        if (strlen(path.data) != path.length || strstr(path.data, "/../")) abort();
        (void)nm_list_get(&query, "q", false, 1);
    }
    nm_str_free(&path);
    nm_str_free(&query);
}

/* From many addresses in turn: ports of one would run out while the system remembers those that were used. */
static int dial(int port)
{
    static unsigned turn;
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f010001u + turn++ % 60000)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct linger at_once = {.l_onoff = 1};
    for (int on = 1;;) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0) abort();
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(fd, (struct sockaddr *)&from, sizeof from) != 0) abort();
        if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0) return fd;
        if (errno != EINTR) abort();    /* libFuzzer's alarm, which watches the time, comes as a signal */
        close(fd);
    }
}

/* A system that tracks connections remembers each for two minutes, and once its table is full (65,536 on small machines) lets none begin: dialing would hang. */
static bool may_dial(void)
{
    enum { AT_ONCE = 40000, A_SECOND = 200 };
    static double begin, dialed;
    double now = nm_clock_seconds();
    if (begin == 0) begin = now;
    if (dialed >= AT_ONCE + A_SECOND * (now - begin)) return false;
    dialed++;
    return true;
}

static void send_to(int port, const uint8_t *data, size_t size)
{
    char answer[4096];
    size_t n = 0;
    ssize_t k;
    int fd = dial(port);
    if (send(fd, data, size, MSG_NOSIGNAL) == (ssize_t)size) shutdown(fd, SHUT_WR);
    while ((k = recv(fd, answer + n, sizeof answer - n, 0)) > 0)
        if ((n += (size_t)k) == sizeof answer) break;
    if (n >= 9 && memcmp(answer, "HTTP/1.1 ", 9) != 0) abort();
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static nm_http *http;
    if (!http) http = open_server();
    char *text = nm_strndup((const char *)data, size);
    if (text) decide(text);
    nm_free(text);
    if (size && may_dial()) send_to(nm_http_port(http), data, size);
    return 0;
}
