/* The server put together. */
#include "server/server.h"

#include <stdio.h>
#include <time.h>

#include "base/err.h"
#include "base/mem.h"
#include "os/clock.h"

/* The first that fits a path wins. */
static const nm_route *const tables[] = {nm_routes_openai, nm_routes_anthropic, nm_routes_ollama, nm_routes_llamacpp, nm_routes_page, nm_routes_personas, nm_routes_teach,
    nm_routes_chats, NULL};

/* Why nothing is kept, or taught: no reason not to serve. The user is told once the server is there, for where it cannot be, that alone is of interest; and the page is. */
typedef struct faults { char desk[1024], teach[1024]; } faults;

static void open_desk(nm_server *s, faults *f)
{
    if (nm_desk_open(&s->desk, NULL, s->engine) != NM_OK) snprintf(f->desk, sizeof f->desk, "%s", nm_error_text());
    if (nm_teach_open(&s->teach, s) != NM_OK) snprintf(f->teach, sizeof f->teach, "%s", nm_error_text());
}

static void tell(const nm_server *s, const char *fault)
{
    if (*fault && s->options->note) s->options->note(s->options->note_arg, fault);
}

/* Closing ends what the engine has begun with errors of its own: the one that is the reason stays the one that is told. */
static nm_err give_up(nm_server **s, nm_err err)
{
    char text[1024];
    snprintf(text, sizeof text, "%s", nm_error_text());
    nm_server_close(s, 0);
    return nm_fail(err, "%s", text);
}

nm_err nm_server_open(nm_server **out, const nm_engine_options *engine, nm_http_options http)
{
    nm_server *s = nm_calloc(1, sizeof *s);
    faults f = {0};
    *out = NULL;
    if (!s) return nm_fail_memory(sizeof *s);
    *s = (nm_server){.started = (int64_t)time(NULL), .options = engine, .host = http.host, .keyed = http.key != NULL};
    http.routes = tables;
    http.context = s;
    nm_err err = nm_engine_open(&s->engine, engine);
    if (err == NM_OK) open_desk(s, &f);
    if (err == NM_OK) err = nm_http_open(&s->http, &http);
    if (err != NM_OK) return give_up(&s, err);
    tell(s, f.desk);
    tell(s, f.teach);
    json_decref(nm_engine_models(s->engine));      /* notes what of it nobody can ask for */
    *out = s;
    return NM_OK;
}

/* The engine's work first; then what has been written of it is on its way to clients still. */
static void drain(nm_server *s, double seconds)
{
    double until = nm_clock_seconds() + seconds;
    nm_engine_drain(s->engine, seconds);
    nm_http_drain(s->http, until - nm_clock_seconds());
}

void nm_server_close(nm_server **server, double seconds)
{
    nm_server *s = *server;
    *server = NULL;
    if (!s) return;
    if (s->http) nm_http_quiesce(s->http);
    nm_teach_end(s->teach);
    if (s->http && seconds > 0) drain(s, seconds);
    nm_http_close(&s->http);
    if (s->engine) nm_engine_break_off(s->engine);       /* or the teacher would wait until the model is open that it has asked for */
    nm_teach_close(&s->teach);
    nm_desk_close(&s->desk);
    nm_engine_close(&s->engine);
    nm_free(s);
}
