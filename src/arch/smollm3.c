/* SmolLM 3: Llama whose every fourth layer has no rotary embedding (NoPE, Yang et al. 2025). */
#include "arch/arch.h"

static void build(nm_builder *b, const nm_config *c)
{
    int32_t table = nm_build_rope_table(b, &c->rope), x = nm_block_embed(b, c);
    for (b->layer = 0; b->layer < c->n_layer; b->layer++) {
        nm_attention_spec spec = {.table = b->layer % 4 == 3 ? NM_NONE : table, .rope = &c->rope};
        x = nm_block_add(b, x, nm_block_attention(b, c, nm_block_rms(b, c, x, "attn_norm"), &spec), 1);
        x = nm_build_add(b, x, nm_block_glu(b, c, nm_block_rms(b, c, x, "ffn_norm"), NM_ACT_SILU, NM_BIAS_OPTIONAL), 1);
    }
    nm_block_head(b, c, nm_block_rms(b, c, nm_block_top(b, x), "output_norm"));
}

const nm_arch nm_arch_smollm3 = {.name = "smollm3", .build = build};
