/* StableLM 2 (Bellagente et al. 2024): layer norms, partial rotation; the 12B norms the heads of q and k and runs attention and
 * feed-forward side by side from one norm. */
#include "arch/arch.h"
#include "base/err.h"

static nm_err read_keys(nm_config *c, const nm_gguf *g)
{
    c->rope.neox = true;
    return nm_config_bool(c, g, "use_parallel_residual", &c->parallel);
}

/* use_parallel_residual is true in files of sequential models too, whose configuration left it out: the norm's presence decides there. */
static int32_t ffn_input(nm_builder *b, const nm_config *c, int32_t normed, int32_t y)
{
    if (!c->parallel) return nm_block_layer_norm(b, c, y, "ffn_norm");
    int32_t w = nm_build_vector_optional(b, "ffn_norm.weight", c->n_embd);
    if (w == NM_NONE) return nm_block_match(b, normed, y);
    return nm_build_layer_norm(b, y, w, nm_build_vector_optional(b, "ffn_norm.bias", c->n_embd), c->eps, 0);
}

static void build(nm_builder *b, const nm_config *c)
{
    int32_t table = nm_build_rope_table(b, &c->rope), x = nm_block_embed(b, c);
    nm_attention_spec spec = {.head_layer_norm = true, .table = table, .rope = &c->rope};
    for (b->layer = 0; b->layer < c->n_layer; b->layer++) {
        int32_t n = nm_block_layer_norm(b, c, x, "attn_norm"), a = nm_block_attention(b, c, n, &spec), y = nm_block_add(b, x, a, 1);
        int32_t f = nm_block_glu(b, c, ffn_input(b, c, n, y), NM_ACT_SILU, NM_BIAS_OPTIONAL);
        x = nm_build_add(b, y, f, 1);
    }
    nm_block_head(b, c, nm_block_layer_norm(b, c, nm_block_top(b, x), "output_norm"));
}

const nm_arch nm_arch_stablelm = {.name = "stablelm", .read = read_keys, .build = build};
