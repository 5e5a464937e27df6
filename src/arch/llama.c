/* Llama (Touvron et al. 2023; Llama 3.1's RoPE factors come as the tensor rope_freqs), and what shares its file format: Mistral, SmolLM2.
 * The file's rows of q and k are permuted so that pairs are neighbours. Where a file has a window (the first Mistral), every layer has it. */
#include "arch/arch.h"

static nm_err read_keys(nm_config *c, const nm_gguf *g) { return nm_config_window(c, g, 0, 0); }

static void build(nm_builder *b, const nm_config *c)
{
    int32_t table = nm_build_rope_table(b, &c->rope), x = nm_block_embed(b, c);
    for (b->layer = 0; b->layer < c->n_layer; b->layer++) {
        nm_attention_spec spec = {.table = table, .rope = &c->rope, .window = nm_config_slides(c, b->layer) ? c->window : 0};
        x = nm_block_add(b, x, nm_block_attention(b, c, nm_block_rms(b, c, x, "attn_norm"), &spec), 1);
        x = nm_build_add(b, x, nm_block_glu(b, c, nm_block_rms(b, c, x, "ffn_norm"), NM_ACT_SILU, NM_BIAS_OPTIONAL), 1);
    }
    nm_block_head(b, c, nm_block_rms(b, c, nm_block_top(b, x), "output_norm"));
}

const nm_arch nm_arch_llama = {.name = "llama", .read = read_keys, .build = build};
