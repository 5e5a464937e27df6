/* Qwen 3: Llama with RMS norms on the heads of q and k, no biases, NeoX-style rotation. */
#include "arch/arch.h"

static nm_err read_keys(nm_config *c, const nm_gguf *g)
{
    c->rope.neox = true;
    return NM_OK;
}

static void build(nm_builder *b, const nm_config *c)
{
    int32_t table = nm_build_rope_table(b, &c->rope), x = nm_block_embed(b, c);
    nm_attention_spec spec = {.head_norm = true, .table = table, .rope = &c->rope};
    for (b->layer = 0; b->layer < c->n_layer; b->layer++) {
        x = nm_block_add(b, x, nm_block_attention(b, c, nm_block_rms(b, c, x, "attn_norm"), &spec), 1);
        x = nm_build_add(b, x, nm_block_glu(b, c, nm_block_rms(b, c, x, "ffn_norm"), NM_ACT_SILU, NM_BIAS_OPTIONAL), 1);
    }
    nm_block_head(b, c, nm_block_rms(b, c, nm_block_top(b, x), "output_norm"));
}

const nm_arch nm_arch_qwen3 = {.name = "qwen3", .read = read_keys, .build = build};
