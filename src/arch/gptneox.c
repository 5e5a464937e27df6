/* GPT-NeoX (Black et al. 2022), Pythia: attention and feed-forward side by side from two norms of the same input, or one after the other;
 * partial rotation; one map for q, k and v. */
#include "arch/arch.h"
#include "base/err.h"

static nm_err read_keys(nm_config *c, const nm_gguf *g)
{
    c->rope.neox = true;
    c->parallel = true;
    return nm_config_bool(c, g, "use_parallel_residual", &c->parallel);
}

static void build(nm_builder *b, const nm_config *c)
{
    int32_t table = nm_build_rope_table(b, &c->rope), x = nm_block_embed(b, c);
    nm_attention_spec spec = {.bias = NM_BIAS_REQUIRED, .out_bias = NM_BIAS_REQUIRED, .table = table, .rope = &c->rope};
    for (b->layer = 0; b->layer < c->n_layer; b->layer++) {
        int32_t a = nm_block_attention_fused(b, c, nm_block_layer_norm(b, c, x, "attn_norm"), &spec), y = nm_block_add(b, x, a, 1);
        int32_t n = nm_block_layer_norm(b, c, c->parallel ? nm_block_match(b, x, a) : y, "ffn_norm");
        x = nm_build_add(b, y, nm_block_mlp(b, c, n, NM_ACT_GELU_ERF, NM_BIAS_REQUIRED), 1);
    }
    nm_block_head(b, c, nm_block_layer_norm(b, c, nm_block_top(b, x), "output_norm"));
}

const nm_arch nm_arch_gptneox = {.name = "gptneox", .read = read_keys, .build = build};
