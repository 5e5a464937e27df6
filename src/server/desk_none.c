/* In place of desk.c where the program is built without SQLite: nothing is kept, and the page is told so. */
#include "base/err.h"
#include "server/server.h"

static const char why[] = "this nomoat was built without SQLite";

nm_err nm_desk_open(nm_desk **out, const char *path)
{
    (void)path;
    *out = NULL;
    return nm_fail(NM_REFUSED, "conversations are not kept: %s", why);
}

void nm_desk_close(nm_desk **desk) { *desk = NULL; }

nm_err nm_desk_export(nm_desk *desk, const char *what, nm_str *lines)
{
    (void)desk, (void)what, (void)lines;
    return nm_fail(NM_REFUSED, "no conversations are kept: %s", why);
}

static void refuse(nm_exchange *x, void *context)
{
    (void)context;
    nm_exchange_fail(x, 503, NULL, "not_kept", why);
}

#define ROUTE(method_, path_) {.method = method_, .path = path_, .dialect = NM_DIALECT_OURS, .handle = refuse}
const nm_route nm_routes_chats[] = {ROUTE("GET", "/nm/*"), ROUTE("PUT", "/nm/*"), ROUTE("POST", "/nm/*"), ROUTE("DELETE", "/nm/*"), {.method = NULL}};
