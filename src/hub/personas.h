/* Owns the store of personas: a model with its adapters under a name, with a system message, sampling, a template and the beginning of a conversation. Each is a
 * Modelfile, DATA/personas/NAME, written whole or not at all. Refuses names that a stored model or adapter has. */
#ifndef NM_HUB_PERSONAS_H
#define NM_HUB_PERSONAS_H

#include "hub/modelfile.h"
#include "hub/store.h"

typedef struct nm_persona {
    char *name, *path;
    char *text;             /* the Modelfile */
    size_t length;
    nm_modelfile file;
} nm_persona;
void nm_persona_free(nm_persona *persona);      /* NULL is fine */

/* The persona of that name (":latest" ignored, letter case only where it decides). *out is NULL if there is none; NM_BAD_FILE if it cannot be read. Never taken as a path. */
nm_err nm_persona_find(nm_persona **out, const char *name);
/* All of them, sorted. One that cannot be read is left out, and `skipped` (may be NULL) is told. */
nm_err nm_persona_list(nm_persona ***list, size_t *count, nm_skipped_fn skipped);
void nm_persona_list_free(nm_persona **list, size_t count);
/* Stores a Modelfile under a name. NM_USAGE: a bad name; NM_BAD_FILE: the text is no Modelfile; NM_REFUSED: the name is taken, by a persona unless `replace`. wait may be NULL. */
nm_err nm_persona_save(const char *name, const char *text, size_t length, bool replace, nm_wait_fn wait);
/* What FROM and ADAPTER say of what was found: a name stays one, a path becomes an absolute one. NM_NOT_FOUND: it is gone. */
nm_err nm_place_write(nm_str *s, nm_place place, const char *name, const char *path);
nm_err nm_adapter_write(nm_str *s, const nm_found_adapter *adapter);      /* with "=SCALE" */
/* NM_NOT_FOUND. The name may differ in letter case. */
nm_err nm_persona_remove(const char *name, nm_wait_fn wait);

#endif
