/* In place of chats.c where the program is built without SQLite: no conversations are kept, and the page is told so. The routes are there, and refuse (desk.c). */
#include "base/err.h"
#include "server/desk.h"

static nm_err none(void) { return nm_fail(NM_REFUSED, "conversations are not kept: this nomoat was built without SQLite"); }

nm_err nm_chats_open(nm_chats **out, const char *path, nm_chats_move move, void *arg)
{
    (void)path, (void)move, (void)arg;
    *out = NULL;
    return none();
}

void nm_chats_close(nm_chats **chats) { *chats = NULL; }

nm_err nm_chats_list(nm_chats *c, const char *search, json_t **out) { (void)c, (void)search, (void)out; return none(); }
nm_err nm_chats_get(nm_chats *c, const char *id, json_t **out) { (void)c, (void)id, (void)out; return none(); }
nm_err nm_chats_put(nm_chats *c, const char *id, const json_t *chat) { (void)c, (void)id, (void)chat; return none(); }
nm_err nm_chats_delete(nm_chats *c, const char *id) { (void)c, (void)id; return none(); }
nm_err nm_chats_vote(nm_chats *c, const json_t *vote) { (void)c, (void)vote; return none(); }
nm_err nm_chats_tally(nm_chats *c, json_t **out) { (void)c, (void)out; return none(); }
nm_err nm_chats_counts(nm_chats *c, json_t **out) { (void)c, (void)out; return none(); }
nm_err nm_chats_export(nm_chats *c, const char *what, const char *chat, nm_str *out) { (void)c, (void)what, (void)chat, (void)out; return none(); }
