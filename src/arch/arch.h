/* Owns what the library knows of architectures: the sizes that a file's keys give, and one builder per architecture that turns them
 * into a program. Adding an architecture costs one file and one line in archs.def (docs/add-an-architecture.md). Refuses keys that contradict
 * each other before any memory is taken. */
#ifndef NM_ARCH_H
#define NM_ARCH_H

#include "format/gguf.h"
#include "program/program.h"

typedef struct nm_arch nm_arch;

enum { NM_MOST_LAYERS = 4096 };

/* Everything that a builder reads. Scales that an architecture does not have are 1, caps and windows 0. */
typedef struct nm_config {
    const nm_arch *arch;
    int64_t n_layer, n_embd, n_ff, n_vocab, n_context;
    int32_t heads, heads_kv, d_k, d_v;
    float eps;
    nm_rope rope, rope_local;           /* rope_local: of sliding-window layers where they have their own base */
    int32_t window;                     /* of the layers that have one; 0 = none has */
    bool reads_window;                  /* the architecture asked for its windows (nm_config_window) */
    uint8_t slides[NM_MOST_LAYERS / 8]; /* a bit per layer: it has the window (nm_config_slides) */
    bool unrotated;                     /* Granite: no rotary embedding at all */
    float attention_scale, attention_cap, logit_cap;
    float embedding_scale, residual_scale, logit_scale;     /* logits are multiplied by logit_scale */
    bool parallel;                      /* attention and feed-forward read the same input */
} nm_config;

struct nm_arch {
    const char *name;                   /* general.architecture */
    /* Reads what is this architecture's own; the common keys are already in the configuration. May be NULL. */
    nm_err (*read)(nm_config *config, const nm_gguf *gguf);
    void (*build)(nm_builder *b, const nm_config *config);
};

/* NM_REFUSED naming the architecture, and those that are known, if there is none of that name. */
nm_err nm_arch_find(const char *name, size_t length, const nm_arch **arch);
/* Reads and checks the configuration of a file. */
nm_err nm_config_read(nm_config *config, const nm_gguf *gguf);

/* A key of the architecture: "<arch>.<suffix>". */
nm_err nm_config_i64(const nm_config *c, const nm_gguf *g, const char *suffix, int64_t least, int64_t most, int64_t *out);   /* optional */
nm_err nm_config_f32(const nm_config *c, const nm_gguf *g, const char *suffix, float *out);                                   /* optional */
nm_err nm_config_bool(const nm_config *c, const nm_gguf *g, const char *suffix, bool *out);                                   /* optional */
/* Reads attention.sliding_window and its pattern: a period p (the first p - 1 layers of each p slide; 0: all do), or an array with a truth
 * value per layer. `window` and `period` are what holds where the keys are absent. */
nm_err nm_config_window(nm_config *c, const nm_gguf *g, int64_t window, int64_t period);
bool nm_config_slides(const nm_config *c, int64_t layer);

/* ---- Blocks that architectures share (blocks.c) -------------------------------------------------------------------------------- */

/* No map is without one for certain: variants of most families add biases, and a file that has one means it. */
typedef enum nm_bias { NM_BIAS_OPTIONAL, NM_BIAS_REQUIRED } nm_bias;

/* y = x W' (+ bias); name without ".weight". */
int32_t nm_block_linear(nm_builder *b, int32_t x, const char *name, int64_t n, int64_t k, nm_bias bias);
/* Norm over the whole row; name without ".weight". */
int32_t nm_block_rms(nm_builder *b, const nm_config *c, int32_t x, const char *name);
int32_t nm_block_layer_norm(nm_builder *b, const nm_config *c, int32_t x, const char *name);

typedef struct nm_attention_spec {
    nm_bias bias, out_bias;             /* of q, k and v; of the output map */
    bool head_norm;                     /* RMS norm of each head of q and k ("attn_q_norm", "attn_k_norm") before rope */
    bool row_norm;                      /* RMS norm of the whole rows of q and k (OLMo 2) */
    bool head_layer_norm;               /* layer norm of each head, a weight of its own per head, where the file has it (StableLM 2 12B) */
    int32_t table;                      /* rope table, or NM_NONE */
    const nm_rope *rope;
    int32_t window;
} nm_attention_spec;
/* q, k, v maps, norms, rope, attention, output map: in the last layer the latter only of the rows that want logits, and so is all that is computed of it. */
int32_t nm_block_attention(nm_builder *b, const nm_config *c, int32_t x, const nm_attention_spec *spec);
/* The same with q, k and v in one map "attn_qkv". */
int32_t nm_block_attention_fused(nm_builder *b, const nm_config *c, int32_t x, const nm_attention_spec *spec);
int32_t nm_block_glu(nm_builder *b, const nm_config *c, int32_t x, nm_activation act, nm_bias bias);
/* up, activation, down */
int32_t nm_block_mlp(nm_builder *b, const nm_config *c, int32_t x, nm_activation act, nm_bias bias);
int32_t nm_block_embed(nm_builder *b, const nm_config *c);
/* Of x the rows that y has, which attention made. */
int32_t nm_block_match(nm_builder *b, int32_t x, int32_t y);
/* x + alpha y, of the rows that y has: the residual behind attention. */
int32_t nm_block_add(nm_builder *b, int32_t x, int32_t y, float alpha);
/* Leaves the layers, with the rows that want logits; the output norm comes after it. */
int32_t nm_block_top(nm_builder *b, int32_t x);
/* The head: "output.weight", or the embedding where that is absent; scale and cap; the result. */
void nm_block_head(nm_builder *b, const nm_config *c, int32_t x);

#endif
