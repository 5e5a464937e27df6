/* Names of maps: Hugging Face's module paths and GGUF's tensors, and how the rows of a map differ between the two. A row per family of
 * architectures; the last one serves every architecture that no other row names, so that a new one in Llama's mould costs nothing here. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapter/lora.h"
#include "base/err.h"
#include "base/mem.h"

/* GGUF's converters reorder the rows of some maps, and so of B and of magnitudes:
 *   Q, K   where rotation pairs neighbours (no NeoX pairs), row (head, half, j) comes to (head, j, half)
 *   FUSED  groups (q of the group's heads, k, v) come to all q, all k, all v */
typedef enum rows { ROWS_SAME, ROWS_Q, ROWS_K, ROWS_FUSED } rows;

typedef struct map_name { const char *hf, *gguf; rows rows; } map_name;

typedef struct family {
    const char *archs;              /* general.architecture, separated by spaces; NULL: all others */
    const char *prefix, *layers;    /* "model." and "layers" of "model.layers.7.mlp.up_proj" */
    const char *embedding, *positions, *head;   /* head stands without the prefix; positions may be NULL */
    map_name map[8];                /* in a layer */
} family;

static const family families[] = {
    {"gpt2", "transformer.", "h", "wte", "wpe", "lm_head",
     {{"attn.c_attn", "attn_qkv", ROWS_SAME}, {"attn.c_proj", "attn_output", ROWS_SAME}, {"mlp.c_fc", "ffn_up", ROWS_SAME},
      {"mlp.c_proj", "ffn_down", ROWS_SAME}}},
    {"gptneox", "gpt_neox.", "layers", "embed_in", NULL, "embed_out",
     {{"attention.query_key_value", "attn_qkv", ROWS_FUSED}, {"attention.dense", "attn_output", ROWS_SAME},
      {"mlp.dense_h_to_4h", "ffn_up", ROWS_SAME}, {"mlp.dense_4h_to_h", "ffn_down", ROWS_SAME}}},
    {"falcon", "transformer.", "h", "word_embeddings", NULL, "lm_head",
     {{"self_attention.query_key_value", "attn_qkv", ROWS_FUSED}, {"self_attention.dense", "attn_output", ROWS_SAME},
      {"mlp.dense_h_to_4h", "ffn_up", ROWS_SAME}, {"mlp.dense_4h_to_h", "ffn_down", ROWS_SAME}}},
    {NULL, "model.", "layers", "embed_tokens", NULL, "lm_head",
     {{"self_attn.q_proj", "attn_q", ROWS_Q}, {"self_attn.k_proj", "attn_k", ROWS_K}, {"self_attn.v_proj", "attn_v", ROWS_SAME},
      {"self_attn.o_proj", "attn_output", ROWS_SAME}, {"mlp.gate_proj", "ffn_gate", ROWS_SAME}, {"mlp.up_proj", "ffn_up", ROWS_SAME},
      {"mlp.down_proj", "ffn_down", ROWS_SAME}}},
};
enum { FAMILIES = sizeof families / sizeof *families, MAPS = sizeof families->map / sizeof *families->map };

static const family *family_of(const nm_config *c)
{
    const family *f = families;
    while (f->archs && strcmp(f->archs, c->arch->name)) f++;
    return f;
}

/* ---- Names -------------------------------------------------------------------------------------------------------------------------------- */

/* Wrappers that stand before the text model's own modules: PEFT's, and those of heads and of models that see as well. */
static const char *skip_wrappers(const char *module)
{
    static const char *const wrappers[] = {"base_model.", "model.", "language_model.", "text_model.", "transformer.", "gpt_neox."};
    for (size_t i = 0; i < sizeof wrappers / sizeof *wrappers;) {
        size_t n = strlen(wrappers[i]);
        if (strncmp(module, wrappers[i], n)) i++;
        else { module += n; i = 0; }
    }
    return module;
}

/* "WORD.12.rest": the number and the rest; false for anything else. Numbers have no sign and no leading zeros. */
static bool in_layer(const char *text, const char *word, long *layer, const char **rest)
{
    size_t n = strlen(word);
    if (strncmp(text, word, n) || text[n] != '.' || text[n + 1] < '0' || text[n + 1] > '9') return false;
    char *end;
    *layer = strtol(text + n + 1, &end, 10);
    *rest = end + 1;
    return *end == '.' && *layer < 100000 && (text[n + 1] != '0' || end == text + n + 2);
}

static nm_err layer_name(char **out, const char *prefix, const char *word, long layer, const char *rest)
{
    nm_str s = {0};
    nm_err err = nm_str_printf(&s, "%s%s.%ld.%s", prefix, word, layer, rest);
    *out = err == NM_OK ? nm_str_take(&s, NULL) : NULL;
    nm_str_free(&s);
    return err;
}

static nm_err plain_name(char **out, const char *prefix, const char *name)
{
    nm_str s = {0};
    nm_err err = nm_str_printf(&s, "%s%s", prefix, name);
    *out = err == NM_OK ? nm_str_take(&s, NULL) : NULL;
    nm_str_free(&s);
    return err;
}

nm_err nm_name_to_gguf(char **out, const nm_config *c, const char *hf)
{
    const family *f = family_of(c);
    const char *own = skip_wrappers(hf), *rest;
    long layer;
    *out = NULL;
    if (!strcmp(own, f->embedding)) return plain_name(out, "", "token_embd");
    if (f->positions && !strcmp(own, f->positions)) return plain_name(out, "", "position_embd");
    if (!strcmp(own, f->head)) return plain_name(out, "", "output");
    if (in_layer(own, f->layers, &layer, &rest))
        for (int i = 0; i < MAPS && f->map[i].hf; i++)
            if (!strcmp(rest, f->map[i].hf)) return layer_name(out, "", "blk", layer, f->map[i].gguf);
    return nm_fail(NM_REFUSED, "the adapter changes %.120s, which a %s model here does not have: it belongs to another architecture", hf, c->arch->name);
}

nm_err nm_name_to_hf(char **out, const nm_config *c, const char *gguf)
{
    const family *f = family_of(c);
    const char *rest;
    long layer;
    *out = NULL;
    if (!strcmp(gguf, "token_embd")) return plain_name(out, f->prefix, f->embedding);
    if (f->positions && !strcmp(gguf, "position_embd")) return plain_name(out, f->prefix, f->positions);
    if (!strcmp(gguf, "output")) return plain_name(out, "", f->head);
    if (in_layer(gguf, "blk", &layer, &rest))
        for (int i = 0; i < MAPS && f->map[i].hf; i++)
            if (!strcmp(rest, f->map[i].gguf)) return layer_name(out, f->prefix, f->layers, layer, f->map[i].hf);
    return nm_fail(NM_REFUSED, "the adapter changes %.120s, which has no Hugging Face name in a %s model", gguf, c->arch->name);
}

/* ---- Rows --------------------------------------------------------------------------------------------------------------------------------- */

static rows rows_of(const nm_config *c, const char *gguf)
{
    const family *f = family_of(c);
    const char *rest;
    long layer;
    if (!in_layer(gguf, "blk", &layer, &rest)) return ROWS_SAME;
    for (int i = 0; i < MAPS && f->map[i].hf; i++) {
        if (strcmp(rest, f->map[i].gguf)) continue;
        bool turned = f->map[i].rows == ROWS_Q || f->map[i].rows == ROWS_K;
        return turned && c->rope.neox ? ROWS_SAME : f->map[i].rows;
    }
    return ROWS_SAME;
}

/* Where row `row` of Hugging Face's map is in GGUF's. */
static int64_t turned_row(int64_t row, int64_t head)
{
    int64_t at = row % head, half = at / (head / 2), j = at % (head / 2);
    return row - at + 2 * j + half;
}

static int64_t split_row(int64_t row, int64_t head, int64_t heads, int64_t heads_kv)
{
    int64_t queries = heads / heads_kv, group = row / head / (queries + 2), part = row / head % (queries + 2), at = row % head;
    if (part < queries) return (group * queries + part) * head + at;
    return (heads + (part - queries) * heads_kv + group) * head + at;
}

static int64_t gguf_row(const nm_config *c, rows kind, int64_t out, int64_t row)
{
    switch (kind) {
    case ROWS_Q: return turned_row(row, out / c->heads);
    case ROWS_K: return turned_row(row, out / c->heads_kv);
    case ROWS_FUSED: return split_row(row, out / (c->heads + 2 * c->heads_kv), c->heads, c->heads_kv);
    default: return row;
    }
}

/* Rows that do not divide into heads stay: such a pair does not fit, and is refused for its shape later. */
static bool divides(const nm_config *c, rows kind, int64_t out)
{
    int64_t heads = kind == ROWS_Q ? 2 * c->heads : kind == ROWS_K ? 2 * c->heads_kv : c->heads + 2 * c->heads_kv;
    return out % heads == 0;
}

/* n rows of `columns` floats. */
static nm_err reorder_rows(const nm_config *c, rows kind, float **values, int64_t n, int64_t columns, bool to_gguf)
{
    size_t row_bytes = (size_t)columns * sizeof **values;
    float *out = nm_calloc((size_t)n, row_bytes);
    if (!out) return nm_fail_memory((size_t)n * row_bytes);
    for (int64_t row = 0; row < n; row++) {
        int64_t other = gguf_row(c, kind, n, row), from = to_gguf ? row : other, to = to_gguf ? other : row;
        memcpy(out + to * columns, *values + from * columns, row_bytes);
    }
    nm_free(*values);
    *values = out;
    return NM_OK;
}

static nm_err reorder(const nm_config *c, rows kind, nm_pair *p, bool to_gguf)
{
    if (kind == ROWS_SAME || !divides(c, kind, p->out)) return NM_OK;
    NM_TRY(reorder_rows(c, kind, &p->b, p->out, p->rank, to_gguf));
    return p->m ? reorder_rows(c, kind, &p->m, p->out, 1, to_gguf) : NM_OK;
}

/* ---- Whole adapters ------------------------------------------------------------------------------------------------------------------------ */

static nm_err translate(nm_lora *l, const nm_config *c, bool to_gguf)
{
    for (size_t i = 0; i < l->pairs; i++) {
        nm_pair *p = &l->pair[i];
        char *name;
        nm_err err = to_gguf ? nm_name_to_gguf(&name, c, p->name) : nm_name_to_hf(&name, c, p->name);
        if (err != NM_OK) return err == NM_NO_MEMORY ? err : nm_fail_in(err, l->path);
        err = reorder(c, rows_of(c, to_gguf ? name : p->name), p, to_gguf);
        nm_free(p->name);
        p->name = name;
        NM_TRY(err);
    }
    l->naming = to_gguf ? NM_NAMES_GGUF : NM_NAMES_HF;
    return nm_lora_sort(l);
}

static nm_err check_arch(nm_lora *l, const nm_config *c)
{
    if (*l->arch && strcmp(l->arch, c->arch->name))
        return nm_fail(NM_REFUSED, "%s: the adapter is made for %.40s models, and this one is %s", l->path, l->arch, c->arch->name);
    nm_free(l->arch);
    l->arch = nm_strndup(c->arch->name, strlen(c->arch->name));
    return l->arch ? NM_OK : nm_fail_memory(strlen(c->arch->name));
}

nm_err nm_lora_to_gguf(nm_lora *l, const nm_config *c)
{
    NM_TRY(check_arch(l, c));
    return l->naming == NM_NAMES_GGUF ? NM_OK : translate(l, c, true);
}

nm_err nm_lora_to_hf(nm_lora *l, const nm_config *c)
{
    NM_TRY(check_arch(l, c));
    return l->naming == NM_NAMES_HF ? NM_OK : translate(l, c, false);
}
