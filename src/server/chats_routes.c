/* The routes of the page's conversations, votes and exports (/nm/...). */
#include "server/desk.h"

#include "base/err.h"

typedef const nm_desk_work work;
typedef nm_desk_answer answer;

static nm_err put(work *w, answer *a)
{
    json_t *body;
    (void)a;
    NM_TRY(nm_desk_body(w, &body));
    nm_err err = nm_chats_put(w->chats, nm_exchange_tail(w->exchange), body);
    json_decref(body);
    return err;
}

static nm_err vote(work *w, answer *a)
{
    json_t *body;
    (void)a;
    NM_TRY(nm_desk_body(w, &body));
    nm_err err = nm_chats_vote(w->chats, body);
    json_decref(body);
    return err;
}

static nm_err list(work *w, answer *a) { return nm_chats_list(w->chats, nm_exchange_query(w->exchange, "search"), &a->json); }
static nm_err get(work *w, answer *a) { return nm_chats_get(w->chats, nm_exchange_tail(w->exchange), &a->json); }
static nm_err erase(work *w, answer *a) { (void)a; return nm_chats_delete(w->chats, nm_exchange_tail(w->exchange)); }
static nm_err tally(work *w, answer *a) { return nm_chats_tally(w->chats, &a->json); }
static nm_err counts(work *w, answer *a) { return nm_chats_counts(w->chats, &a->json); }
static nm_err export(work *w, answer *a)
{
    const char *what = nm_exchange_query(w->exchange, "what");
    return nm_chats_export(w->chats, what ? what : "chats", nm_exchange_query(w->exchange, "chat"), &a->lines);
}

#define ROUTES(X) \
    X("GET", "/nm/chats", list) X("GET", "/nm/chats/*", get) X("PUT", "/nm/chats/*", put) X("DELETE", "/nm/chats/*", erase) \
    X("GET", "/nm/votes", tally) X("POST", "/nm/votes", vote) X("GET", "/nm/feedback", counts) X("GET", "/nm/export", export)

#define HANDLER(method_, path_, work) static void handle_##work(nm_exchange *x, void *context) { nm_desk_take(x, context, work, true); }
ROUTES(HANDLER)

#define ROUTE(method_, path_, work) {.method = method_, .path = path_, .dialect = NM_DIALECT_OURS, .most_body = NM_DESK_BODY_MOST, .handle = handle_##work},
const nm_route nm_routes_chats[] = {ROUTES(ROUTE){.method = NULL}};
