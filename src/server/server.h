/* Owns the server as a whole: its engine, its HTTP, and each dialect's table of routes. A dialect is one or a few files, a line here and one in server.c. */
#ifndef NM_SERVER_SERVER_H
#define NM_SERVER_SERVER_H

#include "base/str.h"
#include "server/engine.h"
#include "server/http.h"

typedef struct nm_server {          /* the context of every handler */
    nm_engine *engine;
    nm_http *http;
    int64_t started;                /* seconds since 1970 */
    const nm_engine_options *options;
    const char *host;
    bool keyed;                     /* a key is asked for */
    struct nm_desk *desk;           /* what the page keeps; NULL: nothing is kept */
    struct nm_teach *teach;         /* what is taught (teach.h) */
} nm_server;

/* Opens what the page keeps (path NULL: chats.db in the user's data folder), and works on it on a thread of its own. After an error, which is to be told to the
 * user and no reason to end, *out is still to be closed: the page is told why no conversations are kept; personas are. To be closed after HTTP and before the engine. */
typedef struct nm_desk nm_desk;
nm_err nm_desk_open(nm_desk **out, const char *path, nm_engine *engine);
void nm_desk_close(nm_desk **desk);
/* nm_chats_export of all conversations, for other threads of the server: waits for the desk's. desk may be NULL. */
nm_err nm_desk_export(nm_desk *desk, const char *what, nm_str *lines);

/* Files to teach from and the one run of teaching, kept in the user's data folder. An error is to be told to the user and no reason to end: nothing is taught then. */
typedef struct nm_teach nm_teach;
nm_err nm_teach_open(nm_teach **out, struct nm_server *server);
/* What is being taught stops, with its checkpoint; streams of its events end. Returns at once; teach may be NULL. */
void nm_teach_end(nm_teach *teach);
/* To be closed after HTTP and before the engine. */
void nm_teach_close(nm_teach **teach);

extern const nm_route nm_routes_openai[], nm_routes_anthropic[], nm_routes_ollama[], nm_routes_llamacpp[], nm_routes_page[], nm_routes_personas[], nm_routes_chats[],
    nm_routes_teach[];

/* Answers GET / with the page where HTML is accepted: that route is dialect_ollama.c's. */
void nm_page_index(nm_exchange *x, void *context);

/* Opens the engine and listens; options' routes and context are set here. Both must outlive the server. */
nm_err nm_server_open(nm_server **out, const nm_engine_options *engine, nm_http_options http);
/* What is under way goes on to its end first, for so many seconds at most. */
void nm_server_close(nm_server **server, double seconds);

/* A line for clients: paths within the user's folders (data, cache, configuration, state) begin behind them. New text (nm_free), NULL without memory. The calling thread's error
 * line may be another afterwards. */
char *nm_told(const char *line);
/* The body of an error in a dialect's shape, as error_shape.c knows it; type and code may be NULL. event: as the last event of a stream. New text (nm_free), NULL without
 * memory. */
char *nm_error_body(nm_dialect dialect, int status, const char *type, const char *code, const char *message, bool event);

#endif
