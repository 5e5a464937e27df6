/* Blocks that architectures share. */
#include <stdio.h>

#include "arch/arch.h"

static int32_t bias_of(nm_builder *b, const char *name, int64_t n, nm_bias bias)
{
    char suffix[96];
    snprintf(suffix, sizeof suffix, "%s.bias", name);
    return bias == NM_BIAS_REQUIRED ? nm_build_vector(b, suffix, n) : nm_build_vector_optional(b, suffix, n);
}

static const char *weight_name(char out[96], const char *name)
{
    snprintf(out, 96, "%s.weight", name);
    return out;
}

int32_t nm_block_linear(nm_builder *b, int32_t x, const char *name, int64_t n, int64_t k, nm_bias bias)
{
    char suffix[96];
    int32_t w = nm_build_map(b, weight_name(suffix, name), n, k);
    return nm_build_linear(b, x, w, bias_of(b, name, n, bias), n);
}

int32_t nm_block_rms(nm_builder *b, const nm_config *c, int32_t x, const char *name)
{
    char suffix[96];
    return nm_build_rms_norm(b, x, nm_build_vector(b, weight_name(suffix, name), c->n_embd), c->eps, 0);
}

int32_t nm_block_layer_norm(nm_builder *b, const nm_config *c, int32_t x, const char *name)
{
    char suffix[96];
    int32_t w = nm_build_vector(b, weight_name(suffix, name), c->n_embd);
    return nm_build_layer_norm(b, x, w, bias_of(b, name, c->n_embd, NM_BIAS_OPTIONAL), c->eps, 0);
}

/* The norms of q or k, whichever the architecture has, and its rotation. */
static int32_t turn(nm_builder *b, const nm_config *c, int32_t x, const char *norm, int32_t heads, const nm_attention_spec *spec)
{
    char suffix[96];
    int64_t dim = (int64_t)heads * c->d_k;
    weight_name(suffix, norm);
    if (spec->head_norm) x = nm_build_rms_norm(b, x, nm_build_vector(b, suffix, c->d_k), c->eps, c->d_k);
    if (spec->row_norm) x = nm_build_rms_norm(b, x, nm_build_vector(b, suffix, dim), c->eps, 0);
    if (spec->head_layer_norm) {
        int32_t w = nm_build_vector_optional(b, suffix, dim);
        if (w != NM_NONE) x = nm_build_layer_norm(b, x, w, NM_NONE, c->eps, c->d_k);
    }
    return spec->table == NM_NONE ? x : nm_build_rope(b, x, spec->table, spec->rope, c->d_k);
}

static int32_t attend(nm_builder *b, const nm_config *c, int32_t q, int32_t k, int32_t v, const nm_attention_spec *spec)
{
    q = turn(b, c, q, "attn_q_norm", c->heads, spec);
    k = turn(b, c, k, "attn_k_norm", c->heads_kv, spec);
    int32_t o = nm_build_attention(b, q, k, v, c->heads, c->heads_kv, c->d_k, c->d_v, spec->window, c->attention_scale, c->attention_cap);
    if (b->layer + 1 == c->n_layer) o = nm_build_select(b, o);      /* nothing behind it mixes rows */
    return nm_block_linear(b, o, "attn_output", c->n_embd, (int64_t)c->heads * c->d_v, spec->out_bias);
}

int32_t nm_block_attention(nm_builder *b, const nm_config *c, int32_t x, const nm_attention_spec *spec)
{
    int32_t q = nm_block_linear(b, x, "attn_q", (int64_t)c->heads * c->d_k, c->n_embd, spec->bias);
    int32_t k = nm_block_linear(b, x, "attn_k", (int64_t)c->heads_kv * c->d_k, c->n_embd, spec->bias);
    int32_t v = nm_block_linear(b, x, "attn_v", (int64_t)c->heads_kv * c->d_v, c->n_embd, spec->bias);
    return attend(b, c, q, k, v, spec);
}

int32_t nm_block_attention_fused(nm_builder *b, const nm_config *c, int32_t x, const nm_attention_spec *spec)
{
    int64_t nq = (int64_t)c->heads * c->d_k, nk = (int64_t)c->heads_kv * c->d_k, nv = (int64_t)c->heads_kv * c->d_v;
    int32_t all = nm_block_linear(b, x, "attn_qkv", nq + nk + nv, c->n_embd, spec->bias);
    int32_t q = nm_build_view(b, all, 0, nq), k = nm_build_view(b, all, nq, nk), v = nm_build_view(b, all, nq + nk, nv);
    return attend(b, c, q, k, v, spec);
}

int32_t nm_block_glu(nm_builder *b, const nm_config *c, int32_t x, nm_activation act, nm_bias bias)
{
    int32_t gate = nm_block_linear(b, x, "ffn_gate", c->n_ff, c->n_embd, bias);
    int32_t up = nm_block_linear(b, x, "ffn_up", c->n_ff, c->n_embd, bias);
    return nm_block_linear(b, nm_build_glu(b, gate, up, act), "ffn_down", c->n_embd, c->n_ff, bias);
}

int32_t nm_block_mlp(nm_builder *b, const nm_config *c, int32_t x, nm_activation act, nm_bias bias)
{
    int32_t up = nm_block_linear(b, x, "ffn_up", c->n_ff, c->n_embd, bias);
    return nm_block_linear(b, nm_build_act(b, up, act), "ffn_down", c->n_embd, c->n_ff, bias);
}

int32_t nm_block_embed(nm_builder *b, const nm_config *c)
{
    return nm_build_embed(b, nm_build_map(b, "token_embd.weight", c->n_vocab, c->n_embd), c->n_embd, c->embedding_scale, false);
}

int32_t nm_block_match(nm_builder *b, int32_t x, int32_t y) { return nm_build_selected(b, y) && !nm_build_selected(b, x) ? nm_build_select(b, x) : x; }

int32_t nm_block_add(nm_builder *b, int32_t x, int32_t y, float alpha) { return nm_build_add(b, nm_block_match(b, x, y), y, alpha); }

int32_t nm_block_top(nm_builder *b, int32_t x)
{
    b->layer = -1;
    return nm_build_selected(b, x) ? x : nm_build_select(b, x);
}

void nm_block_head(nm_builder *b, const nm_config *c, int32_t x)
{
    int32_t w = nm_build_map_optional(b, "output.weight", c->n_vocab, c->n_embd);
    if (w == NM_NONE) w = nm_build_map(b, "token_embd.weight", c->n_vocab, c->n_embd);
    int32_t y = nm_build_linear(b, x, w, nm_build_vector_optional(b, "output.bias", c->n_vocab), c->n_vocab);
    nm_build_result(b, x, nm_build_softcap(b, nm_build_scale(b, y, c->logit_scale), c->logit_cap));
}
