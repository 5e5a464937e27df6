/* See random_model.h. */
#include "random_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "quant/quant.h"

#include "gguf_writer.c"

/* ---- What each architecture's file holds ----------------------------------------------------------------------------- */

enum {
    RM_FUSED = 1 << 0,          /* attn_qkv */
    RM_QKV_BIAS = 1 << 1,
    RM_OUT_BIAS = 1 << 2,
    RM_HEAD_NORM = 1 << 3,      /* attn_q_norm, attn_k_norm of a head */
    RM_ROW_NORM = 1 << 4,       /* the same of whole rows */
    RM_PRE_NORM = 1 << 5,       /* attn_norm */
    RM_FFN_NORM = 1 << 6,
    RM_POST_NORM = 1 << 7,
    RM_NORM_BIAS = 1 << 8,      /* layer norms */
    RM_GATE = 1 << 9,
    RM_FFN_BIAS = 1 << 10,
    RM_POSITIONS = 1 << 11,     /* learned */
    RM_LLAMA = RM_PRE_NORM | RM_FFN_NORM | RM_GATE
};

static const struct { const char *name; unsigned parts; } rm_archs[] = {
    {"llama", RM_LLAMA}, {"qwen2", RM_LLAMA | RM_QKV_BIAS}, {"qwen3", RM_LLAMA | RM_HEAD_NORM}, {"gemma2", RM_LLAMA | RM_POST_NORM},
    {"gemma3", RM_LLAMA | RM_POST_NORM | RM_HEAD_NORM}, {"smollm3", RM_LLAMA}, {"olmo2", RM_POST_NORM | RM_ROW_NORM | RM_GATE},
    {"granite", RM_LLAMA}, {"stablelm", RM_LLAMA | RM_NORM_BIAS}, {"falcon", RM_FUSED | RM_PRE_NORM | RM_NORM_BIAS},
    {"gpt2", RM_FUSED | RM_QKV_BIAS | RM_OUT_BIAS | RM_PRE_NORM | RM_FFN_NORM | RM_NORM_BIAS | RM_FFN_BIAS | RM_POSITIONS},
    {"gptneox", RM_FUSED | RM_QKV_BIAS | RM_OUT_BIAS | RM_PRE_NORM | RM_FFN_NORM | RM_NORM_BIAS | RM_FFN_BIAS},
};

static unsigned rm_parts(const char *arch)
{
    for (size_t i = 0; i < sizeof rm_archs / sizeof *rm_archs; i++) if (strcmp(rm_archs[i].name, arch) == 0) return rm_archs[i].parts;
    return RM_LLAMA;
}

random_model rm_default(const char *arch)
{
    return (random_model){.arch = arch, .layers = 2, .embd = 256, .ff = 512, .heads = 8, .heads_kv = 2, .head = 32, .vocab = 64, .context = 256,
        .type = NM_F32, .embd_type = NM_F32, .seed = 1};
}

/* ---- Values ------------------------------------------------------------------------------------------------------------- */

/* Uniform with variance 1 / k, so that activations keep their size. */
static void rm_floats(const random_model *d, uint64_t stream, int64_t count, double spread, double middle, float *out)
{
    for (int64_t i = 0; i < count; i++) out[i] = (float)(middle + spread * (2 * nm_rng_unit(d->seed, stream, (uint64_t)i) - 1));
}

void *rm_values(const random_model *d, int type, int64_t n, int64_t k, uint64_t stream, size_t *bytes)
{
    enum { POOL = 64 };          /* some quantisers search long */
    const nm_type *t = nm_type_of(type);
    if (!t || k % t->block) abort();
    int64_t blocks = n * (k / t->block), pool = blocks < POOL ? blocks : POOL;
    float *values = gw_must(malloc((size_t)(pool * t->block) * sizeof *values));
    uint8_t *made = gw_must(malloc((size_t)(pool * t->bytes))), *all = gw_must(malloc((size_t)(blocks * t->bytes)));
    rm_floats(d, stream, pool * t->block, sqrt(3.0 / (double)k), 0, values);
    if (t->from_float) t->from_float(values, pool * t->block, made);
    else for (int64_t i = 0; i < pool; i++) memcpy(made + 8 * i, &(double){values[i]}, 8);        /* F64 */
    for (int64_t i = 0; i < blocks; i++) {
        int64_t from = i < pool ? i : (int64_t)(nm_rng_u64(d->seed, stream + 1, (uint64_t)i) % (uint64_t)pool);
        memcpy(all + i * t->bytes, made + from * t->bytes, (size_t)t->bytes);
    }
    free(values);
    free(made);
    *bytes = (size_t)(blocks * t->bytes);
    return all;
}

/* ---- Tensors ------------------------------------------------------------------------------------------------------------ */

/* Tensors go to memory; or, with `file`, first all records, then all data in the same order. */
typedef struct rm_sink {
    const random_model *d;
    gguf_writer *w;
    FILE *file;
    uint64_t stream, at;        /* at: end of the data so far */
    bool records;               /* file: this round writes records only */
} rm_sink;

static void rm_put_file(rm_sink *s, const char *name, int type, int rank, const int64_t *dim, const void *data, size_t bytes)
{
    uint64_t start = (s->at + 31) & ~(uint64_t)31;
    if (s->records) gw_tensor_record(s->w, name, (uint32_t)type, (uint32_t)rank, dim, start);
    else fwrite("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 1, (size_t)(start - s->at), s->file), fwrite(data, 1, bytes, s->file);
    s->at = start + bytes;
}

static void rm_put(rm_sink *s, const char *name, int type, int rank, const int64_t *dim, const void *data, size_t bytes)
{
    if (s->file) rm_put_file(s, name, type, rank, dim, data, bytes);
    else gw_tensor(s->w, name, type, rank, dim, data, bytes);
}

static bool rm_left_out(const random_model *d, const char *name) { return d->leave_out && strcmp(d->leave_out, name) == 0; }

static void rm_map(rm_sink *s, const char *name, int type, int64_t n, int64_t k)
{
    size_t bytes = (size_t)(n * (k / nm_type_of(type)->block)) * (size_t)nm_type_of(type)->bytes;
    s->stream += 2;
    if (rm_left_out(s->d, name)) return;
    void *data = s->records ? NULL : rm_values(s->d, type, n, k, s->stream, &bytes);
    if (s->d->as_f32 && data) {
        float *floats = gw_must(malloc((size_t)(n * k) * sizeof *floats));
        nm_type_of(type)->to_float(data, n * k, floats);
        free(data);
        data = floats;
    }
    if (s->d->as_f32) {
        type = NM_F32;
        bytes = (size_t)(n * k) * sizeof(float);
    }
    rm_put(s, name, type, 2, (int64_t[]){k, n}, data, bytes);
    free(data);
}

static void rm_vector(rm_sink *s, const char *name, int64_t n, double middle)
{
    s->stream += 2;
    if (rm_left_out(s->d, name)) return;
    float *values = gw_must(malloc((size_t)n * sizeof *values));
    rm_floats(s->d, s->stream, n, 0.25, middle, values);
    rm_put(s, name, NM_F32, 1, &n, values, (size_t)n * sizeof *values);
    free(values);
}

static const char *rm_name(char out[96], int64_t layer, const char *part, const char *ending)
{
    if (layer < 0) snprintf(out, 96, "%s.%s", part, ending);
    else snprintf(out, 96, "blk.%lld.%s.%s", (long long)layer, part, ending);
    return out;
}

static void rm_linear(rm_sink *s, int64_t layer, const char *part, int64_t n, int64_t k, bool bias)
{
    char name[96];
    rm_map(s, rm_name(name, layer, part, "weight"), s->d->type, n, k);
    if (bias) rm_vector(s, rm_name(name, layer, part, "bias"), n, 0);
}

static void rm_norm(rm_sink *s, int64_t layer, const char *part, int64_t n, bool bias)
{
    char name[96];
    rm_vector(s, rm_name(name, layer, part, "weight"), n, 1);
    if (bias) rm_vector(s, rm_name(name, layer, part, "bias"), n, 0);
}

static void rm_layer(rm_sink *s, int64_t i, unsigned has)
{
    const random_model *d = s->d;
    int64_t q = d->heads * d->head, kv = d->heads_kv * d->head;
    bool norm_bias = has & RM_NORM_BIAS, qkv_bias = has & RM_QKV_BIAS;
    if (has & RM_PRE_NORM) rm_norm(s, i, "attn_norm", d->embd, norm_bias);
    if (has & RM_FUSED) {
        rm_linear(s, i, "attn_qkv", q + 2 * kv, d->embd, qkv_bias);
    } else {
        rm_linear(s, i, "attn_q", q, d->embd, qkv_bias);
        rm_linear(s, i, "attn_k", kv, d->embd, qkv_bias);
        rm_linear(s, i, "attn_v", kv, d->embd, qkv_bias);
    }
    if (has & (RM_HEAD_NORM | RM_ROW_NORM)) {
        rm_norm(s, i, "attn_q_norm", has & RM_HEAD_NORM ? d->head : q, false);
        rm_norm(s, i, "attn_k_norm", has & RM_HEAD_NORM ? d->head : kv, false);
    }
    rm_linear(s, i, "attn_output", d->embd, q, has & RM_OUT_BIAS);
    if (has & RM_POST_NORM) rm_norm(s, i, "post_attention_norm", d->embd, false);
    if (has & RM_FFN_NORM) rm_norm(s, i, "ffn_norm", d->embd, norm_bias);
    if (has & RM_GATE) rm_linear(s, i, "ffn_gate", d->ff, d->embd, has & RM_FFN_BIAS);
    rm_linear(s, i, "ffn_up", d->ff, d->embd, has & RM_FFN_BIAS);
    rm_linear(s, i, "ffn_down", d->embd, d->ff, has & RM_FFN_BIAS);
    if (has & RM_POST_NORM) rm_norm(s, i, "post_ffw_norm", d->embd, false);
}

static void rm_tensors(rm_sink *s)
{
    const random_model *d = s->d;
    unsigned has = rm_parts(d->arch);
    rm_map(s, "token_embd.weight", d->embd_type, d->vocab, d->embd);
    if (has & RM_POSITIONS) rm_map(s, "position_embd.weight", NM_F32, d->context, d->embd);
    for (int64_t i = 0; i < d->layers; i++) rm_layer(s, i, has);
    rm_norm(s, -1, "output_norm", d->embd, has & RM_NORM_BIAS);
    if (!d->tied) rm_map(s, "output.weight", d->embd_type, d->vocab, d->embd);
}

/* ---- Keys --------------------------------------------------------------------------------------------------------------- */

static const char *rm_key(char out[96], const random_model *d, const char *suffix)
{
    snprintf(out, 96, "%s.%s", d->arch, suffix);
    return out;
}

static void rm_int(gguf_writer *w, const random_model *d, const char *suffix, int64_t value)
{
    char key[96];
    if (!rm_left_out(d, rm_key(key, d, suffix))) gw_u32(w, key, (uint32_t)value);
}

static void rm_float(gguf_writer *w, const random_model *d, const char *suffix, float value)
{
    char key[96];
    if (!rm_left_out(d, rm_key(key, d, suffix))) gw_f32(w, key, value);
}

/* Bytes first, then made-up words; special tokens at the front. */
static void rm_tokens(gguf_writer *w, const random_model *d)
{
    bool spm = d->vocabulary == RM_VOCAB_SPM;
    int64_t n = d->tokens ? d->tokens : d->vocab;
    char (*text)[32] = gw_must(malloc((size_t)n * sizeof *text));
    const char **texts = gw_must(malloc((size_t)n * sizeof *texts));
    float *score = gw_must(malloc((size_t)n * sizeof *score));
    int32_t *type = gw_must(malloc((size_t)n * sizeof *type));
    for (int64_t i = 0; i < n; i++) {
        if (i < 3) snprintf(text[i], sizeof *text, "%s", (const char *const[]){"<unk>", "<s>", "</s>"}[i]);
        else if (spm && i < 259) snprintf(text[i], sizeof *text, "<0x%02X>", (unsigned)(i - 3));
        else if (i < 29) snprintf(text[i], sizeof *text, "%c", (int)('a' + i - 3));
        else snprintf(text[i], sizeof *text, "w%lld", (long long)i);
        texts[i] = text[i];
        score[i] = -(float)i;
        type[i] = i == 0 ? 2 : i < 3 ? 3 : spm && i < 259 ? 6 : 1;
    }
    gw_string(w, "tokenizer.ggml.model", spm ? "llama" : "gpt2");
    if (!spm) gw_string(w, "tokenizer.ggml.pre", "gpt-2");
    gw_strings(w, "tokenizer.ggml.tokens", texts, (uint64_t)n);
    gw_array(w, "tokenizer.ggml.token_type", NM_META_I32, type, (uint64_t)n);
    if (spm) gw_array(w, "tokenizer.ggml.scores", NM_META_F32, score, (uint64_t)n);
    else gw_strings(w, "tokenizer.ggml.merges", (const char *const[]){"a b"}, 0);
    gw_u32(w, "tokenizer.ggml.bos_token_id", 1);
    gw_u32(w, "tokenizer.ggml.eos_token_id", 2);
    free(text);
    free(texts);
    free(score);
    free(type);
}

static void rm_keys(gguf_writer *w, const random_model *d)
{
    bool layer_norm = rm_parts(d->arch) & RM_NORM_BIAS;
    if (!rm_left_out(d, "general.architecture")) gw_string(w, "general.architecture", d->arch);
    rm_int(w, d, "block_count", d->layers);
    rm_int(w, d, "embedding_length", d->embd);
    rm_int(w, d, "feed_forward_length", d->ff);
    rm_int(w, d, "context_length", d->context);
    rm_int(w, d, "attention.head_count", d->heads);
    rm_int(w, d, "attention.head_count_kv", d->heads_kv);
    rm_int(w, d, "attention.key_length", d->head);
    rm_int(w, d, "attention.value_length", d->head);
    rm_int(w, d, "rope.dimension_count", d->head);
    rm_float(w, d, "rope.freq_base", 10000);
    rm_float(w, d, layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 1e-5f);
    if (d->window) rm_int(w, d, "attention.sliding_window", d->window);
    if (d->vocabulary != RM_VOCAB_NONE) rm_tokens(w, d);
}

void *rm_make(const random_model *d, size_t *size)
{
    gguf_writer w = {.alignment = d->alignment};
    rm_sink s = {.d = d, .w = &w};
    rm_keys(&w, d);
    rm_tensors(&s);
    if (d->instead) d->instead(&w, d);
    return gw_finish(&w, size);
}

bool rm_save(const random_model *d, const char *path)
{
    gguf_writer w = {0};
    rm_sink s = {.d = d, .w = &w, .file = fopen(path, "wb"), .records = true};
    size_t size;
    if (!s.file) return false;
    rm_keys(&w, d);
    rm_tensors(&s);
    uint64_t end = s.at;
    void *head = gw_finish(&w, &size);
    fwrite(head, 1, size, s.file);
    fwrite("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 1, (32 - size % 32) % 32, s.file);
    free(head);
    s = (rm_sink){.d = d, .w = &w, .file = s.file};
    rm_tensors(&s);
    bool whole = !ferror(s.file) && s.at == end;
    return fclose(s.file) == 0 && whole;
}
