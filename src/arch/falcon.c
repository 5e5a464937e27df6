/* Falcon (Almazrouei et al. 2023): attention and feed-forward side by side; one norm for both (7B), or one each (40B, where the
 * attention's own is attn_norm_2). q, k and v come from one map, grouped in the file as all q, all k, all v. */
#include "arch/arch.h"

static nm_err read_keys(nm_config *c, const nm_gguf *g)
{
    c->rope.neox = true;
    return NM_OK;
}

static void build(nm_builder *b, const nm_config *c)
{
    int32_t table = nm_build_rope_table(b, &c->rope), x = nm_block_embed(b, c);
    nm_attention_spec spec = {.table = table, .rope = &c->rope};
    for (b->layer = 0; b->layer < c->n_layer; b->layer++) {
        int32_t n = nm_block_layer_norm(b, c, x, "attn_norm"), own = nm_build_vector_optional(b, "attn_norm_2.weight", c->n_embd);
        int32_t n2 = own == NM_NONE ? n : nm_build_layer_norm(b, x, own, nm_build_vector_optional(b, "attn_norm_2.bias", c->n_embd), c->eps, 0);
        int32_t a = nm_block_attention_fused(b, c, n2, &spec), f = nm_block_mlp(b, c, nm_block_match(b, n, a), NM_ACT_GELU_ERF, NM_BIAS_OPTIONAL);
        int32_t y = nm_build_add(b, f, a, 1);
        x = nm_build_add(b, y, nm_block_match(b, x, y), 1);
    }
    nm_block_head(b, c, nm_block_layer_norm(b, c, nm_block_top(b, x), "output_norm"));
}

const nm_arch nm_arch_falcon = {.name = "falcon", .read = read_keys, .build = build};
