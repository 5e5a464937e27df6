/* Owns what the files of Anthropic's dialect share: a request of theirs as the engine takes it. */
#ifndef NM_SERVER_ANTHROPIC_H
#define NM_SERVER_ANTHROPIC_H

#include "server/task.h"

typedef struct nm_anthropic {       /* a body of /v1/messages, read; ask borrows from the rest */
    nm_ask ask;
    json_t *body, *messages, *tools, *choice;
    const char **stop;
    nm_ask_lora *lora;
    bool stream;
    bool thinking;                  /* reasoning was asked for: the others do not get to see it */
} nm_anthropic;

/* counting: as /v1/messages/count_tokens has it, without max_tokens. Free it also after a failure. */
nm_err nm_anthropic_read(nm_anthropic *out, const char *body, size_t length, bool counting);
void nm_anthropic_free(nm_anthropic *request);

/* GET /v1/models and /v1/models/NAME for clients that send anthropic-version: the path is OpenAI's, which calls this. */
void nm_anthropic_models(nm_exchange *x, nm_server *server);

#endif
