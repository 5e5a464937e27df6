/* Stored responses: a list, newest first. It is short enough to be searched from its front. */
#include "server/openai_store.h"

#include <pthread.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"

enum { ENTRIES_MOST = 512, BYTES_MOST = 64 << 20 };

typedef struct entry {
    struct entry *next;
    char *id, *text;
    size_t length, bytes;
    json_t *messages;
} entry;

static struct { pthread_mutex_t lock; entry *first; size_t count, bytes; } store = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void free_entry(entry *e)
{
    nm_free(e->id);
    nm_free(e->text);
    json_decref(e->messages);
    nm_free(e);
}

/* Under the lock: takes the entry out of its place. */
static void take_out(entry **at)
{
    entry *e = *at;
    *at = e->next;
    store.count--;
    store.bytes -= e->bytes;
    free_entry(e);
}

static entry **find(const char *id)
{
    entry **at = &store.first;
    while (*at && strcmp((*at)->id, id)) at = &(*at)->next;
    return at;
}

static void shrink(void)
{
    while (store.count > ENTRIES_MOST || store.bytes > BYTES_MOST) {
        entry **last = &store.first;
        while ((*last)->next) last = &(*last)->next;
        take_out(last);
    }
}

nm_err nm_openai_store_put(const char *id, json_t *messages, const char *text, size_t length)
{
    /* Conversations share their messages with those that they go on from; each is counted in full, which is what it takes when the others have gone. */
    size_t bytes = length + json_dumpb(messages, NULL, 0, JSON_COMPACT);
    if (bytes > BYTES_MOST) return NM_OK;
    entry *e = nm_calloc(1, sizeof *e);
    if (!e) return nm_fail_memory(sizeof *e);
    *e = (entry){.id = nm_strndup(id, strlen(id)), .text = nm_strndup(text, length), .length = length, .bytes = bytes, .messages = json_incref(messages)};
    if (!e->id || !e->text) {
        free_entry(e);
        return nm_fail_memory(length);
    }
    pthread_mutex_lock(&store.lock);
    e->next = store.first;
    store.first = e;
    store.count++;
    store.bytes += bytes;
    shrink();
    pthread_mutex_unlock(&store.lock);
    return NM_OK;
}

bool nm_openai_store_get(const char *id, json_t **messages, char **text, size_t *length)
{
    pthread_mutex_lock(&store.lock);
    const entry *e = *find(id);
    bool there = e != NULL;
    if (there && messages) there = (*messages = json_copy(e->messages)) != NULL;
    if (there && text) there = (*text = nm_strndup(e->text, e->length)) != NULL;
    if (there && text) *length = e->length;
    pthread_mutex_unlock(&store.lock);
    return there;
}

bool nm_openai_store_delete(const char *id)
{
    pthread_mutex_lock(&store.lock);
    entry **at = find(id);
    bool there = *at != NULL;
    if (there) take_out(at);
    pthread_mutex_unlock(&store.lock);
    return there;
}

void nm_openai_store_clear(void)
{
    pthread_mutex_lock(&store.lock);
    while (store.first) take_out(&store.first);
    pthread_mutex_unlock(&store.lock);
}
