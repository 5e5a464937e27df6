/* OLMo 2 (2025): norms after the blocks instead of before, and RMS norms over the whole rows of q and k. OLMo 3 goes by the same name in files:
 * three of four layers have a window, and on these the rotation is not scaled. */
#include "arch/arch.h"
#include "base/err.h"

static nm_err read_keys(nm_config *c, const nm_gguf *g)
{
    c->rope.neox = true;
    c->rope_local = (nm_rope){.n_rot = c->rope.n_rot, .neox = true, .base = c->rope.base, .linear = 1};
    NM_TRY(nm_config_f32(c, g, "rope.freq_base_swa", &c->rope_local.base));
    if (!(c->rope_local.base > 0)) return nm_fail(NM_BAD_FILE, "olmo2.rope.freq_base_swa is no positive number");
    return nm_config_window(c, g, 0, 4);
}

static void build(nm_builder *b, const nm_config *c)
{
    int32_t table = nm_build_rope_table(b, &c->rope), local = c->window ? nm_build_rope_table(b, &c->rope_local) : table, x = nm_block_embed(b, c);
    for (b->layer = 0; b->layer < c->n_layer; b->layer++) {
        bool slides = nm_config_slides(c, b->layer);
        nm_attention_spec spec = {.row_norm = true, .table = slides ? local : table, .rope = &c->rope, .window = slides ? c->window : 0};
        x = nm_block_add(b, x, nm_block_rms(b, c, nm_block_attention(b, c, x, &spec), "post_attention_norm"), 1);
        x = nm_build_add(b, x, nm_block_rms(b, c, nm_block_glu(b, c, x, NM_ACT_SILU, NM_BIAS_OPTIONAL), "post_ffw_norm"), 1);
    }
    nm_block_head(b, c, nm_block_rms(b, c, nm_block_top(b, x), "output_norm"));
}

const nm_arch nm_arch_olmo2 = {.name = "olmo2", .read = read_keys, .build = build};
