/* Owns the inside of models, sessions and runners: binding names to weights, packing, pages of keys and values. Refuses to change a
 * model once it is open (law 1). */
#ifndef NM_MODEL_H
#define NM_MODEL_H

#include <stdatomic.h>

#include "arch/arch.h"
#include "format/packs.h"

/* Raised whenever the canonical arithmetic or the layout of pages changes: saved sessions carry it and others are refused. */
enum { NM_ARITHMETIC = 1 };

struct nm_model {
    nm_gguf *gguf;
    nm_tokenizer *tokenizer;
    nm_model_info info;
    char *name, *architecture;      /* zero-terminated copies of the file's strings */
    struct { char *name, *source; } *tmpl;  /* chat templates; the default one's name is "" */
    size_t tmpls;
    nm_config config;
    nm_program program;             /* NM_MODE_INFER */
    nm_weight *weight;
    size_t weights, weight_capacity;
    bool *bound;                    /* [tensors of the file]: some weight reads it */
    bool no_pack;
    uint64_t maps_hash;             /* of all rows of all maps, made while they are packed */
    uint8_t *packed;                /* one block for all packed panels; NULL where they are a kept pack's */
    size_t packed_bytes;
    nm_map kept;                    /* the pack from the cache folder that panels are read from */
    nm_packs_writer *keeping;       /* one that is being kept, of `packed` */
    const volatile sig_atomic_t *cancel;    /* of that */
    char *not_kept;
    float **vector;                 /* floats of norms and biases, owned */
    size_t vectors, vector_capacity;
};

/* nm_bind_fn of model opening: arg is the nm_model. */
nm_err nm_model_bind(void *model, const char *name, int64_t n, int64_t k, bool optional, int32_t *id);
/* After the program is built: NM_REFUSED naming a tensor that nothing reads, since without it the model would be another one. */
nm_err nm_model_check_bound(const nm_model *model);
/* Gives every bound map its panels, kept ones or new, whose values are all finite, and lets go of the file's pages. */
nm_err nm_model_pack(nm_model *model, const nm_model_options *options);
/* A hash of the configuration and of names, shapes, types and bytes of every weight: identity for saved sessions, the same whether the
 * weights are packed or not. */
uint64_t nm_model_fingerprint(const nm_model *model);

/* ---- Pages --------------------------------------------------------------------------------------------------------------------- */

/* A page of one group: 64 positions of all its slots. Shared by reference count; written only while it has one owner. */
typedef struct nm_page_list {
    uint8_t **page;                 /* [count]; NULL where dropped or not yet needed */
    size_t count, capacity;         /* grows with the session, so that a huge context costs nothing until it is used */
    int64_t dropped;                /* pages [0, dropped) are gone */
} nm_page_list;

struct nm_session {
    const nm_model *model;
    nm_session_options options;
    nm_kv_layout layout;
    int32_t *token;                 /* [length] */
    size_t token_capacity;
    int32_t length;
    nm_page_list list[NM_MAX_GROUPS];
    bool in_run;                    /* while nm_run checks that no session is named twice */
};

/* Makes room for `count` more tokens: pages for positions [length, length + count) that this session alone owns. */
nm_err nm_session_reserve(nm_session *session, int32_t count);
/* The same with the list of pages alone, empty up to page `count`: for loading. */
nm_err nm_session_reserve_list(nm_session *session, int32_t group, size_t count);
/* False if a window has dropped pages that a query at position n would see. */
bool nm_session_reachable(const nm_session *session, int32_t n);
/* Tokens were computed: they belong to the session now, and pages that fell out of every window go. */
void nm_session_commit(nm_session *session, const int32_t *tokens, int32_t count);
size_t nm_page_bytes(const nm_session *session, int32_t group);
nm_err nm_page_new(uint8_t **page, size_t bytes);

#endif
