/* In place of chats*.c where the program is built without SQLite: no conversations are kept, and the page is told so. */
#include "base/err.h"
#include "server/desk.h"

nm_err nm_chats_open(nm_chats **out, const char *path, nm_chats_move move, void *arg)
{
    (void)path, (void)move, (void)arg;
    *out = NULL;
    return nm_fail(NM_REFUSED, "conversations are not kept: this nomoat was built without SQLite");
}

void nm_chats_close(nm_chats **chats) { *chats = NULL; }

nm_err nm_chats_export(nm_chats *c, const char *what, const char *chat, nm_str *out)
{
    (void)c, (void)what, (void)chat, (void)out;
    return nm_fail(NM_REFUSED, "no conversations are kept");
}

static void refuse(nm_exchange *x, void *context) { nm_desk_take(x, context, NULL, true); }

#define ROUTE(method_, path_) {.method = method_, .path = path_, .dialect = NM_DIALECT_OURS, .handle = refuse}
const nm_route nm_routes_chats[] = {ROUTE("GET", "/nm/*"), ROUTE("PUT", "/nm/*"), ROUTE("POST", "/nm/*"), ROUTE("DELETE", "/nm/*"), {.method = NULL}};
