/* Granite 3 (IBM 2024): Llama with four scalars: on embeddings, attention scores, residuals, and (as a divisor) logits. Here the key
 * rope.scaling.finetuned is the switch of the rotation: false means none. */
#include "arch/arch.h"
#include "base/err.h"

static nm_err read_keys(nm_config *c, const nm_gguf *g)
{
    float divisor = 1, scale = 0;
    bool rotated = true;
    NM_TRY(nm_config_bool(c, g, "rope.scaling.finetuned", &rotated));
    c->unrotated = !rotated;
    NM_TRY(nm_config_f32(c, g, "embedding_scale", &c->embedding_scale));
    NM_TRY(nm_config_f32(c, g, "residual_scale", &c->residual_scale));
    NM_TRY(nm_config_f32(c, g, "attention.scale", &scale));
    NM_TRY(nm_config_f32(c, g, "logit_scale", &divisor));
    if (divisor == 0) return nm_fail(NM_BAD_FILE, "granite.logit_scale is 0");
    if (scale != 0) c->attention_scale = scale;
    c->logit_scale = 1.0f / divisor;
    return NM_OK;
}

static void build(nm_builder *b, const nm_config *c)
{
    int32_t table = c->unrotated ? NM_NONE : nm_build_rope_table(b, &c->rope), x = nm_block_embed(b, c);
    nm_attention_spec spec = {.table = table, .rope = &c->rope};
    for (b->layer = 0; b->layer < c->n_layer; b->layer++) {
        x = nm_block_add(b, x, nm_block_attention(b, c, nm_block_rms(b, c, x, "attn_norm"), &spec), c->residual_scale);
        x = nm_build_add(b, x, nm_block_glu(b, c, nm_block_rms(b, c, x, "ffn_norm"), NM_ACT_SILU, NM_BIAS_OPTIONAL), c->residual_scale);
    }
    nm_block_head(b, c, nm_block_rms(b, c, nm_block_top(b, x), "output_norm"));
}

const nm_arch nm_arch_granite = {.name = "granite", .read = read_keys, .build = build};
