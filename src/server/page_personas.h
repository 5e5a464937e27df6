/* Owns the store's personas (hub/personas.h) as the page has them: {"name", "model", "system", "settings"}, with model and adapters by the names that clients know. What the
 * page has no word for (TEMPLATE, MESSAGE, LICENSE, stop strings, comments, ...) stays in the Modelfile as it is. Refuses paths from clients, and to know SQLite. */
#ifndef NM_SERVER_PAGE_PERSONAS_H
#define NM_SERVER_PAGE_PERSONAS_H

#include <jansson.h>

#include "server/engine.h"

/* {"personas": [...]}, sorted by name. "model" is the persona's stack where the page can say all of it, else the persona's own name. */
nm_err nm_page_personas(nm_engine *engine, json_t **out);
/* Takes one without "name", and makes or changes the persona. "model" may be another persona, with adapters on top: the new one then has what that has and is not said anew.
 * NM_USAGE: another form, a bad name, a model that is not there; NM_REFUSED: a model or an adapter has the name. */
nm_err nm_page_persona_put(nm_engine *engine, const char *name, const json_t *persona);
/* Takes one over from a file in which earlier versions kept them, under a name that is free. The engine comes as a pointer to anything: an nm_chats_move (chats.h). */
nm_err nm_page_persona_move(void *engine, const char *name, const json_t *persona);

#endif
