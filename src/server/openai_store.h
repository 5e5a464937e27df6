/* Owns responses that a client may come back to: their conversations and their JSON, in memory, within a bound on number and bytes; the oldest go first. Refuses disks: what a
 * client says is kept nowhere longer than the process runs. Any thread. */
#ifndef NM_SERVER_OPENAI_STORE_H
#define NM_SERVER_OPENAI_STORE_H

#include <jansson.h>
#include <stdbool.h>

#include "nomoat.h"

/* messages: the conversation up to and with the answer, as nm_ask takes it; held, and not to be changed any more. text is copied. One that is beyond the bound by itself
 * is not kept. */
nm_err nm_openai_store_put(const char *id, json_t *messages, const char *text, size_t length);
/* False if it is not there (any more), or without memory. Either of messages (a new array) and text (nm_free) may be NULL. */
bool nm_openai_store_get(const char *id, json_t **messages, char **text, size_t *length);
bool nm_openai_store_delete(const char *id);
void nm_openai_store_clear(void);

#endif
