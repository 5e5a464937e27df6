/* Owns what the files of llama.cpp's dialect share: their requests for text as the engine takes them, and the handlers of the other files. */
#ifndef NM_SERVER_LLAMACPP_H
#define NM_SERVER_LLAMACPP_H

#include "server/task.h"

typedef struct nm_llamacpp {        /* a body of /completion or /infill, read; ask borrows from the rest */
    nm_ask ask;
    json_t *body, *adapters;        /* adapters: the default model's stack, as `lora` with numbers means it */
    json_t *prompt, *bias;          /* borrowed from the body; of each, what needs the vocabulary is read by nm_llamacpp_prepare */
    char *base;                     /* of the default model, where `lora` has numbers */
    const char **stop;
    nm_ask_lora *lora;
    int32_t *ids, *bias_id;
    float *bias_value;
    size_t n_ids, ids_capacity, n_bias, bias_id_capacity, bias_value_capacity;
    int32_t n_probs;
    bool stream, infill, return_tokens;
} nm_llamacpp;

/* Everything that can be read without the model. Free it also after a failure. */
nm_err nm_llamacpp_read(nm_llamacpp *out, nm_server *server, const char *body, size_t length, bool infill);
/* The rest: prompts of text and tokens mixed, biases of texts, the gap to be filled. */
nm_err nm_llamacpp_prepare(nm_llamacpp *request, const nm_served *served);
void nm_llamacpp_free(nm_llamacpp *request);
/* What holds for the answer, as "generation_settings" tells it. */
json_t *nm_llamacpp_settings(const nm_llamacpp *request, const nm_model *model);

/* The adapters of the default model, [{"name", "scale"}], in their order; its base's name (base may be NULL; nm_free). NULL without memory. */
json_t *nm_llamacpp_stack(nm_server *server, char **base);

/* llamacpp_text.c */
void nm_llamacpp_tokenize(nm_exchange *x, void *context);
void nm_llamacpp_tokenizer_info(nm_exchange *x, void *context);
void nm_llamacpp_detokenize(nm_exchange *x, void *context);
void nm_llamacpp_apply_template(nm_exchange *x, void *context);
/* llamacpp_completion.c */
void nm_llamacpp_completion(nm_exchange *x, void *context);
void nm_llamacpp_infill(nm_exchange *x, void *context);

#endif
