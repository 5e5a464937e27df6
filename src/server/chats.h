/* Owns what the page keeps: conversations as trees of messages, with thumbs and corrections; votes between two answers. One SQLite file in the user's
 * data folder, in WAL mode: what a call has stored survives the process's sudden end. Refuses HTTP (desk.c) and anything else that is no plain JSON.
 *
 * One thread at a time. JSON that is taken is the caller's; *out is new, the caller's too (json_decref). NM_USAGE: what was given has another form; NM_NOT_FOUND;
 * NM_BAD_FILE: the file is damaged; NM_FAILED: the disk is full, or the system says no. After an error nothing of the call is stored. */
#ifndef NM_SERVER_CHATS_H
#define NM_SERVER_CHATS_H

#include <jansson.h>

#include "base/str.h"
#include "nomoat.h"

typedef struct nm_chats nm_chats;

/* Takes what files of earlier versions kept here and this one keeps elsewhere: personas, {"model", "system", "settings"}. After an error the file stays as it was; what was taken
 * before it may come again. */
typedef nm_err (*nm_chats_move)(void *arg, const char *name, const json_t *persona);
/* path NULL: chats.db in the user's data folder, which is made. NM_REFUSED: a newer nomoat has written it, or another program. */
nm_err nm_chats_open(nm_chats **out, const char *path, nm_chats_move move, void *arg);
void nm_chats_close(nm_chats **chats);

/* Conversations, the newest first: {"chats": [{"id", "title", "updated"}]}; search not NULL or "": those that have its words, in "snippet" between U+0001 and U+0002. */
nm_err nm_chats_list(nm_chats *c, const char *search, json_t **out);
/* {"id", "title", "model", "system", "settings": {}, "leaf", "created", "updated", "messages": [{"id", "parent", "role", "content", "reasoning", "model", "rating",
 *  "corrects", "extra", "created"}]}: parents before children. */
nm_err nm_chats_get(nm_chats *c, const char *id, json_t **out);
/* The same, without "id", makes or changes a conversation. Messages that are not given stay; of one that is there its place in the tree, role and time stay.
 * NM_USAGE: more than 1,000 would follow one. */
nm_err nm_chats_put(nm_chats *c, const char *id, const json_t *chat);
nm_err nm_chats_delete(nm_chats *c, const char *id);

/* {"messages": [{"role", "content"}], "a": {"model", "content"}, "b": {...}, "choice": "a"|"b"|"both"|"neither"} */
nm_err nm_chats_vote(nm_chats *c, const json_t *vote);
/* {"tally": [{"a", "b", "a_wins", "b_wins", "equal"}]}: by pair of stacks, a before b by name. */
nm_err nm_chats_tally(nm_chats *c, json_t **out);
/* {"chats", "liked", "corrections", "pairs", "votes"}: how many lines an export has at most. */
nm_err nm_chats_counts(nm_chats *c, json_t **out);

/* JSON lines. what: "chats", "liked" (up to an answer with thumb up), "corrections" (up to a corrected answer): {"messages": [...]} as `tune` takes it; "pairs":
 * {"prompt": [...], "chosen": [message], "rejected": [message]}; "votes". chat: of this conversation alone; NULL. Appended to *out. NM_USAGE: more than 256 MiB of messages
 * would be read for it. */
nm_err nm_chats_export(nm_chats *c, const char *what, const char *chat, nm_str *out);

/* The JSON's text; *out is to be freed by nm_str_free. */
nm_err nm_chats_text(const json_t *json, nm_str *out);

#endif
