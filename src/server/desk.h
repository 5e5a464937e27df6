/* Owns the one thread that works on what the page keeps: a disk may be slow, and HTTP's thread must not wait. Requests are worked off in the order in which they came.
 * Refuses to know what they ask for (chats_routes.c, page_personas.c). */
#ifndef NM_SERVER_DESK_H
#define NM_SERVER_DESK_H

#include "base/str.h"
#include "server/chats.h"
#include "server/server.h"

#define NM_DESK_BODY_MOST ((size_t)8 << 20)

typedef struct nm_desk_work { nm_exchange *exchange; nm_engine *engine; nm_chats *chats; } nm_desk_work;
typedef struct nm_desk_answer {
    json_t *json;                   /* new; or lines. Neither is {} */
    nm_str lines;
    int status;                     /* of a refusal for which HTTP has a word of its own; 0: as the error says */
} nm_desk_answer;
typedef nm_err (*nm_desk_fn)(const nm_desk_work *work, nm_desk_answer *answer);

/* For handlers. chats: where no conversations are kept, the request is refused. */
void nm_desk_take(nm_exchange *x, void *server, nm_desk_fn fn, bool chats);
/* The body, which must be an object; the caller's. */
nm_err nm_desk_body(const nm_desk_work *work, json_t **body);

#endif
