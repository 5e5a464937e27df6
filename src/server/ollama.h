/* Owns what the files of Ollama's dialect share: a request of theirs as the engine takes it, and the handlers of the other files. */
#ifndef NM_SERVER_OLLAMA_H
#define NM_SERVER_OLLAMA_H

#include "server/task.h"

typedef struct nm_ollama {          /* a body of /api/chat or /api/generate, read; ask borrows from the rest */
    nm_ask ask;
    json_t *body, *messages, *tools;
    const char **stop;
    nm_ask_lora *lora;
    const char *name;               /* of the model, as it was asked for */
    bool chat, stream;
    bool nothing;                   /* nothing is to be said: the model is to be opened, or closed */
} nm_ollama;

/* Free it also after a failure. */
nm_err nm_ollama_read(nm_ollama *out, const char *body, size_t length, bool chat);
void nm_ollama_free(nm_ollama *request);
/* "keep_alive": seconds as a number, or "5m", "1h30m", "-1"; below zero is for ever. */
nm_err nm_ollama_keep_alive(const json_t *body, double *seconds);

/* ollama_models.c */
void nm_ollama_tags(nm_exchange *x, void *context);
void nm_ollama_show(nm_exchange *x, void *context);
void nm_ollama_ps(nm_exchange *x, void *context);

/* The page at "/": room of the page. */
void nm_page_index(nm_exchange *x, void *context);

#endif
