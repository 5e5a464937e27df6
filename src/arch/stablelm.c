/* StableLM 2 (Bellagente et al. 2024): layer norms, partial rotation; the 12B norms the heads of q and k and runs attention and
 * feed-forward side by side from one norm. */
#include "arch/arch.h"
#include "base/err.h"

static nm_err read_keys(nm_config *c, const nm_gguf *g)
{
    c->rope.neox = true;
    return nm_config_bool(c, g, "use_parallel_residual", &c->parallel);
}

static void build(nm_builder *b, const nm_config *c)
{
    int32_t table = nm_build_rope_table(b, &c->rope), x = nm_block_embed(b, c);
    nm_attention_spec spec = {.bias = NM_BIAS_OPTIONAL, .head_layer_norm = true, .table = table, .rope = &c->rope};
    for (b->layer = 0; b->layer < c->n_layer; b->layer++) {
        int32_t n = nm_block_layer_norm(b, c, x, "attn_norm"), a = nm_block_attention(b, c, n, &spec), y = nm_build_add(b, x, a, 1);
        int32_t f = nm_block_glu(b, c, c->parallel ? n : nm_block_layer_norm(b, c, y, "ffn_norm"), NM_ACT_SILU, NM_BIAS_NONE);
        x = nm_build_add(b, y, f, 1);
    }
    nm_block_head(b, c, nm_block_layer_norm(b, c, nm_block_select(b, x), "output_norm"));
}

const nm_arch nm_arch_stablelm = {.name = "stablelm", .read = read_keys, .build = build};
