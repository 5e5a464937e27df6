/* GPT-2 (Radford et al. 2019): learned positions, layer norms with biases, one map for q, k and v. */
#include "arch/arch.h"

static void build(nm_builder *b, const nm_config *c)
{
    int32_t positions = nm_build_map(b, "position_embd.weight", c->n_context, c->n_embd);
    int32_t x = nm_build_add(b, nm_block_embed(b, c), nm_build_embed(b, positions, c->n_embd, 1, true), 1);
    nm_attention_spec spec = {.bias = NM_BIAS_REQUIRED, .out_bias = NM_BIAS_REQUIRED, .table = NM_NONE};
    for (b->layer = 0; b->layer < c->n_layer; b->layer++) {
        x = nm_block_add(b, x, nm_block_attention_fused(b, c, nm_block_layer_norm(b, c, x, "attn_norm"), &spec), 1);
        x = nm_build_add(b, x, nm_block_mlp(b, c, nm_block_layer_norm(b, c, x, "ffn_norm"), NM_ACT_GELU_TANH, NM_BIAS_REQUIRED), 1);
    }
    nm_block_head(b, c, nm_block_layer_norm(b, c, nm_block_top(b, x), "output_norm"));
}

const nm_arch nm_arch_gpt2 = {.name = "gpt2", .build = build};
