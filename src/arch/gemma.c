/* Gemma 2 and 3: norms before and after each block, GELU-gated feed-forward, embeddings scaled by sqrt(width), sliding windows.
 *   Gemma 2: every even layer has the window; soft caps on attention scores and logits.
 *   Gemma 3: all layers but each sixth have the window, with a rotation base of their own; RMS norms on the heads of q and k. A file without
 *   the window's key has none, and its layers are all global. */
#include <math.h>

#include "arch/arch.h"
#include "base/err.h"

static void set_common(nm_config *c, int64_t scaled_by_width)
{
    c->rope.neox = true;
    c->embedding_scale = sqrtf((float)c->n_embd);
    /* The 27B of either generation divides its scores by sqrt(width / heads); no key of the file tells, its depth does. */
    if (c->n_layer == scaled_by_width) c->attention_scale = 1.0f / sqrtf((float)c->n_embd / (float)c->heads);
}

static nm_err read2(nm_config *c, const nm_gguf *g)
{
    c->attention_cap = 50;
    c->logit_cap = 30;
    NM_TRY(nm_config_f32(c, g, "attn_logit_softcapping", &c->attention_cap));
    NM_TRY(nm_config_f32(c, g, "final_logit_softcapping", &c->logit_cap));
    set_common(c, 46);
    return nm_config_window(c, g, 4096, 2);
}

static nm_err read3(nm_config *c, const nm_gguf *g)
{
    NM_TRY(nm_config_f32(c, g, "final_logit_softcapping", &c->logit_cap));
    set_common(c, 62);
    /* Scaling of positions applies to the global layers alone. */
    c->rope_local = (nm_rope){.n_rot = c->rope.n_rot, .neox = true, .base = 10000, .linear = 1};
    NM_TRY(nm_config_f32(c, g, "rope.freq_base_swa", &c->rope_local.base));
    if (!(c->rope_local.base > 0)) return nm_fail(NM_BAD_FILE, "gemma3.rope.freq_base_swa is no positive number");
    return nm_config_window(c, g, 0, 6);
}

static int32_t layer(nm_builder *b, const nm_config *c, int32_t x, const nm_attention_spec *spec)
{
    int32_t a = nm_block_attention(b, c, nm_block_rms(b, c, x, "attn_norm"), spec);
    x = nm_block_add(b, x, nm_block_rms(b, c, a, "post_attention_norm"), 1);
    int32_t f = nm_block_glu(b, c, nm_block_rms(b, c, x, "ffn_norm"), NM_ACT_GELU_TANH, NM_BIAS_OPTIONAL);
    return nm_build_add(b, x, nm_block_rms(b, c, f, "post_ffw_norm"), 1);
}

static void build2(nm_builder *b, const nm_config *c)
{
    int32_t table = nm_build_rope_table(b, &c->rope), x = nm_block_embed(b, c);
    for (b->layer = 0; b->layer < c->n_layer; b->layer++)
        x = layer(b, c, x, &(nm_attention_spec){.table = table, .rope = &c->rope, .window = nm_config_slides(c, b->layer) ? c->window : 0});
    nm_block_head(b, c, nm_block_rms(b, c, nm_block_top(b, x), "output_norm"));
}

static void build3(nm_builder *b, const nm_config *c)
{
    int32_t global = nm_build_rope_table(b, &c->rope), local = c->window ? nm_build_rope_table(b, &c->rope_local) : global, x = nm_block_embed(b, c);
    for (b->layer = 0; b->layer < c->n_layer; b->layer++) {
        bool sliding = nm_config_slides(c, b->layer);
        nm_attention_spec spec = {.head_norm = true, .table = sliding ? local : global, .rope = sliding ? &c->rope_local : &c->rope,
            .window = sliding ? c->window : 0};
        x = layer(b, c, x, &spec);
    }
    nm_block_head(b, c, nm_block_rms(b, c, nm_block_top(b, x), "output_norm"));
}

const nm_arch nm_arch_gemma2 = {.name = "gemma2", .read = read2, .build = build2};
const nm_arch nm_arch_gemma3 = {.name = "gemma3", .read = read3, .build = build3};
