/* Owns whole models of random weights as GGUF files in memory, for tests: any architecture of archs.def, any tensor type, any size, with a small
 * vocabulary if asked for; and on demand models with something left out, replaced or poisoned. The same description always gives the same bytes.
 * Test code: it aborts when memory runs out. Tests include random_model.c itself (which includes gguf_writer.c).
 *
 *     random_model d = rm_default("llama");
 *     d.type = NM_Q4_K;
 *     void *file = rm_make(&d, &size);         the caller's (free)
 */
#ifndef NM_TESTS_RANDOM_MODEL_H
#define NM_TESTS_RANDOM_MODEL_H

#include "gguf_writer.h"

typedef enum rm_vocabulary { RM_VOCAB_NONE, RM_VOCAB_SPM, RM_VOCAB_BPE } rm_vocabulary;

typedef struct random_model {
    const char *arch;
    int64_t layers, embd, ff, heads, heads_kv, head, vocab, context;    /* head: columns of a head */
    int64_t window;                 /* 0: no key */
    int type, embd_type;            /* of the maps; of token_embd and output */
    bool tied;                      /* no output.weight */
    bool as_f32;                    /* every value as `type` gives it back, but stored as F32 */
    rm_vocabulary vocabulary;
    int64_t tokens;                 /* of the vocabulary; 0 = vocab */
    uint64_t seed;
    uint32_t alignment;             /* 0 = 32 */
    const char *leave_out;          /* a key or tensor that is not written */
    void (*instead)(gguf_writer *w, const struct random_model *d);      /* what is written in its place, or besides; may be NULL */
} random_model;

/* Two layers, 256 wide, 8 heads, 2 KV heads, 64 tokens, F32, context 256. */
random_model rm_default(const char *arch);
void *rm_make(const random_model *d, size_t *size);
/* The same into a file, tensor by tensor, so that hundreds of megabytes cost no memory. False if the file cannot be written. */
bool rm_save(const random_model *d, const char *path);
/* Bytes of a row-major matrix of random values of the type ([n][k], quantised from a few dozen random blocks); malloc'ed. */
void *rm_values(const random_model *d, int type, int64_t n, int64_t k, uint64_t stream, size_t *bytes);

#endif
