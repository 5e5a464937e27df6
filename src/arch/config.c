/* Reading the keys that all architectures share, and checking that they fit together. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "arch/arch.h"
#include "base/err.h"
#include "base/str.h"

#define NM_ARCH(symbol) extern const nm_arch symbol;
#include "arch/archs.def"
#undef NM_ARCH

static const nm_arch *const archs[] = {
#define NM_ARCH(symbol) &symbol,
#include "arch/archs.def"
#undef NM_ARCH
    NULL
};

nm_err nm_arch_find(const char *name, size_t length, const nm_arch **arch)
{
    char known[512] = "";
    size_t used = 0;
    for (int i = 0; archs[i]; i++) {
        *arch = archs[i];
        if (strlen(archs[i]->name) == length && memcmp(archs[i]->name, name, length) == 0) return NM_OK;
        if (used < sizeof known) used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", archs[i]->name);
    }
    *arch = NULL;
    return nm_fail(NM_REFUSED, "the architecture \"%.*s\" is not known; known are %s", length > 64 ? 64 : (int)length, name, known);
}

/* ---- Keys ------------------------------------------------------------------------------------------------------------------------ */

enum { KEY_SIZE = 160 };

static const char *key_of(char out[KEY_SIZE], const nm_config *c, const char *suffix)
{
    snprintf(out, KEY_SIZE, "%s.%s", c->arch->name, suffix);
    return out;
}

nm_err nm_config_i64(const nm_config *c, const nm_gguf *g, const char *suffix, int64_t least, int64_t most, int64_t *out)
{
    char key[KEY_SIZE];
    return nm_gguf_opt_i64(g, key_of(key, c, suffix), least, most, out);
}

nm_err nm_config_f32(const nm_config *c, const nm_gguf *g, const char *suffix, float *out)
{
    char key[KEY_SIZE];
    return nm_gguf_opt_f32(g, key_of(key, c, suffix), out);
}

nm_err nm_config_bool(const nm_config *c, const nm_gguf *g, const char *suffix, bool *out)
{
    char key[KEY_SIZE];
    return nm_gguf_opt_bool(g, key_of(key, c, suffix), out);
}

static nm_err need_i64(const nm_config *c, const nm_gguf *g, const char *suffix, int64_t least, int64_t most, int64_t *out)
{
    char key[KEY_SIZE];
    return nm_gguf_get_i64(g, key_of(key, c, suffix), least, most, out);
}

static nm_err opt_i32(const nm_config *c, const nm_gguf *g, const char *suffix, int64_t least, int64_t most, int32_t *out)
{
    int64_t wide = *out;
    NM_TRY(nm_config_i64(c, g, suffix, least, most, &wide));
    *out = (int32_t)wide;
    return NM_OK;
}

/* Bounds are generous, but small enough that products of two of them cannot overflow. */
enum { MOST_WIDTH = 1 << 24, MOST_HEADS = 1 << 14, MOST_HEAD = 1 << 13 };

/* A size that some writers give per layer: an array of equal items, one for each layer, is as good as the item. */
static nm_err read_size(const nm_config *c, const nm_gguf *g, const char *suffix, bool needed, int64_t most, int64_t *out)
{
    char key[KEY_SIZE];
    const nm_gguf_value *v = nm_gguf_find(g, key_of(key, c, suffix));
    bool array = v && v->type == NM_META_ARRAY && v->item != NM_META_STRING && v->item != NM_META_F32 && v->item != NM_META_F64 && v->item != NM_META_BOOL;
    if (!array) return needed ? nm_gguf_get_i64(g, key, 1, most, out) : nm_gguf_opt_i64(g, key, 1, most, out);
    if (v->count != (uint64_t)c->n_layer)
        return nm_fail(NM_BAD_FILE, "%s has %llu items for %lld layers", key, (unsigned long long)v->count, (long long)c->n_layer);
    int64_t first = nm_gguf_int(v, 0);
    for (uint64_t i = 1; i < v->count; i++) {
        int64_t item = nm_gguf_int(v, i);
        if (item != first)
            return nm_fail(NM_REFUSED, "layers of different shapes are not supported: %s is %lld in layer 0 and %lld in layer %llu", key,
                (long long)first, (long long)item, (unsigned long long)i);
    }
    if (first < 1 || first > most) return nm_fail(NM_BAD_FILE, "%s is %lld in every layer, expected 1 to %lld", key, (long long)first, (long long)most);
    *out = first;
    return NM_OK;
}

static nm_err read_sizes(nm_config *c, const nm_gguf *g)
{
    int64_t heads = 0;
    NM_TRY(need_i64(c, g, "block_count", 1, NM_MOST_LAYERS, &c->n_layer));
    NM_TRY(need_i64(c, g, "embedding_length", 1, MOST_WIDTH, &c->n_embd));
    NM_TRY(read_size(c, g, "feed_forward_length", true, MOST_WIDTH, &c->n_ff));
    NM_TRY(need_i64(c, g, "context_length", 1, INT32_MAX, &c->n_context));
    NM_TRY(read_size(c, g, "attention.head_count", true, MOST_HEADS, &heads));
    int64_t heads_kv = heads;
    NM_TRY(read_size(c, g, "attention.head_count_kv", false, MOST_HEADS, &heads_kv));
    c->heads = (int32_t)heads;
    c->heads_kv = (int32_t)heads_kv;
    if (c->heads % c->heads_kv) return nm_fail(NM_BAD_FILE, "%d heads cannot share %d KV heads", (int)c->heads, (int)c->heads_kv);
    int64_t head = c->n_embd / c->heads;
    c->d_k = c->d_v = head <= MOST_HEAD ? (int32_t)head : 0;
    NM_TRY(opt_i32(c, g, "attention.key_length", 1, MOST_HEAD, &c->d_k));
    NM_TRY(opt_i32(c, g, "attention.value_length", 1, MOST_HEAD, &c->d_v));
    char key[KEY_SIZE];
    if (!nm_gguf_find(g, key_of(key, c, "attention.key_length")) && c->n_embd % c->heads)
        return nm_fail(NM_BAD_FILE, "a width of %lld does not divide into %d heads", (long long)c->n_embd, (int)c->heads);
    return c->d_k && c->d_v ? NM_OK : nm_fail(NM_BAD_FILE, "heads of %lld columns are too wide", (long long)head);
}

static nm_err read_eps(nm_config *c, const nm_gguf *g)
{
    float rms = 0, layer = 0;
    NM_TRY(nm_config_f32(c, g, "attention.layer_norm_rms_epsilon", &rms));
    NM_TRY(nm_config_f32(c, g, "attention.layer_norm_epsilon", &layer));
    c->eps = rms > 0 ? rms : layer;
    if (c->eps > 0 && c->eps < 1) return NM_OK;
    return nm_fail(NM_BAD_FILE, "%s.attention.layer_norm_rms_epsilon or layer_norm_epsilon is missing or no small positive number", c->arch->name);
}

/* ---- Rotary embedding ---------------------------------------------------------------------------------------------------------------- */

/* A key of YaRN whose only value that is computed here is `known`; what is below zero says "unset". */
static nm_err only_known(const nm_config *c, const nm_gguf *g, const char *suffix, float known)
{
    float value = known;
    NM_TRY(nm_config_f32(c, g, suffix, &value));
    return value == known || value < 0 ? NM_OK : nm_fail(NM_REFUSED, "%s.%s is %g: only %g is supported", c->arch->name, suffix, (double)value, (double)known);
}

/* The magnitude is 0.1 ln(factor) + 1 unless a key says otherwise. yarn_attn_factor is the magnitude itself (the "attention_factor" of the
 * models' own configuration), attn_factor multiplies it. Writers put 1 into either for "not set", and llama.cpp computes the usual one then. */
static nm_err read_magnitude(nm_config *c, const nm_gguf *g)
{
    nm_rope *r = &c->rope;
    float whole = 1, times = 1, usual = r->yarn_factor > 1 ? 0.1f * logf(r->yarn_factor) + 1 : 1;
    NM_TRY(nm_config_f32(c, g, "rope.scaling.yarn_attn_factor", &whole));
    NM_TRY(nm_config_f32(c, g, "rope.scaling.attn_factor", &times));
    if (times < 0) return nm_fail(NM_BAD_FILE, "%s.rope.scaling.attn_factor is negative", c->arch->name);
    if (whole <= 0 || fabsf(whole - usual) < 1e-3f) whole = 1;
    if (times == 0) times = 1;
    if (whole != 1) usual = whole;
    if (whole != 1 || times != 1) r->yarn_magnitude = usual * times;
    return NM_OK;
}

static nm_err read_yarn(nm_config *c, const nm_gguf *g)
{
    nm_rope *r = &c->rope;
    r->yarn_fast = 32;
    r->yarn_slow = 1;
    r->yarn_context = c->n_context;
    NM_TRY(nm_config_f32(c, g, "rope.scaling.yarn_beta_fast", &r->yarn_fast));
    NM_TRY(nm_config_f32(c, g, "rope.scaling.yarn_beta_slow", &r->yarn_slow));
    NM_TRY(only_known(c, g, "rope.scaling.yarn_ext_factor", 1));
    NM_TRY(only_known(c, g, "rope.scaling.yarn_log_multiplier", 0));
    NM_TRY(read_magnitude(c, g));
    NM_TRY(nm_config_i64(c, g, "rope.scaling.original_context_length", 1, INT32_MAX, &r->yarn_context));
    return r->yarn_fast > 0 && r->yarn_slow > 0 ? NM_OK : nm_fail(NM_BAD_FILE, "%s.rope.scaling.yarn_beta_*: positive numbers are needed", c->arch->name);
}

static nm_err read_scaling(nm_config *c, const nm_gguf *g)
{
    char key[KEY_SIZE];
    const char *type = "";
    size_t length = 0;
    float factor = 0, legacy = 0;
    NM_TRY(nm_gguf_opt_string(g, key_of(key, c, "rope.scaling.type"), &type, &length));
    NM_TRY(nm_config_f32(c, g, "rope.scaling.factor", &factor));
    NM_TRY(nm_config_f32(c, g, "rope.scale_linear", &legacy));
    if (factor == 0) factor = legacy;
    if (factor < 0) return nm_fail(NM_BAD_FILE, "%s.rope.scaling.factor is negative", c->arch->name);
    if (length == 4 && memcmp(type, "yarn", 4) == 0) {
        c->rope.yarn_factor = factor > 0 ? factor : 1;
        return read_yarn(c, g);
    }
    bool linear = (length == 6 && memcmp(type, "linear", 6) == 0) || length == 0;
    if (linear && factor > 0) c->rope.linear = factor;
    if (linear || (length == 4 && memcmp(type, "none", 4) == 0)) return NM_OK;
    return nm_fail(NM_REFUSED, "%s.rope.scaling.type \"%.*s\" is not known", c->arch->name, length > 32 ? 32 : (int)length, type);
}

/* Divisors of the frequencies as a tensor (Llama 3.1). F32 is what every writer stores; a file may align it to one byte. */
static nm_err read_factors(nm_config *c, const nm_gguf *g)
{
    const nm_gguf_tensor *t = nm_gguf_tensor_find(g, "rope_freqs.weight");
    if (!t || !t->data) return NM_OK;
    if (t->type->id != NM_F32 || t->rank != 1 || t->dim[0] != c->rope.n_rot / 2)
        return nm_fail(NM_BAD_FILE, "rope_freqs.weight: %s of %lld, expected F32 of %d", t->type->name, (long long)t->dim[0], (int)c->rope.n_rot / 2);
    c->rope.factors = t->data;
    for (int i = 0; i < c->rope.n_rot / 2; i++) {
        float f;
        memcpy(&f, (const char *)t->data + (size_t)i * sizeof f, sizeof f);
        if (!(f > 0) || !isfinite(f)) return nm_fail(NM_BAD_FILE, "rope_freqs.weight[%d] is no positive number", i);
    }
    return NM_OK;
}

static nm_err read_rope(nm_config *c, const nm_gguf *g)
{
    c->rope = (nm_rope){.n_rot = c->d_k, .base = 10000, .linear = 1};
    NM_TRY(opt_i32(c, g, "rope.dimension_count", 0, INT32_MAX, &c->rope.n_rot));
    if (c->rope.n_rot > c->d_k || c->rope.n_rot % 2)
        return nm_fail(NM_BAD_FILE, "%s.rope.dimension_count is %d: an even number up to the head's %d is needed", c->arch->name, (int)c->rope.n_rot, (int)c->d_k);
    NM_TRY(nm_config_f32(c, g, "rope.freq_base", &c->rope.base));
    if (!(c->rope.base > 0)) return nm_fail(NM_BAD_FILE, "%s.rope.freq_base is no positive number", c->arch->name);
    NM_TRY(read_scaling(c, g));
    NM_TRY(read_factors(c, g));
    c->rope_local = c->rope;
    return NM_OK;
}

/* ---- Windows ---------------------------------------------------------------------------------------------------------------------------- */

bool nm_config_slides(const nm_config *c, int64_t layer) { return c->window > 0 && (c->slides[layer / 8] >> layer % 8 & 1); }

static nm_err read_pattern(nm_config *c, const nm_gguf_value *v, const char *key)
{
    bool integers = v->item <= NM_META_I32 || v->item == NM_META_U64 || v->item == NM_META_I64;
    if (!integers && v->item != NM_META_BOOL) return nm_fail(NM_BAD_FILE, "%s: a truth value for each layer is needed", key);
    if (v->count != (uint64_t)c->n_layer)
        return nm_fail(NM_BAD_FILE, "%s has %llu items for %lld layers", key, (unsigned long long)v->count, (long long)c->n_layer);
    for (int64_t i = 0; i < c->n_layer; i++) if (nm_gguf_int(v, (uint64_t)i)) c->slides[i / 8] |= (uint8_t)(1 << i % 8);
    return NM_OK;
}

nm_err nm_config_window(nm_config *c, const nm_gguf *g, int64_t window, int64_t period)
{
    char key[KEY_SIZE];
    NM_TRY(nm_config_i64(c, g, "attention.sliding_window", 0, INT32_MAX, &window));
    c->window = (int32_t)window;
    c->reads_window = true;
    const nm_gguf_value *v = nm_gguf_find(g, key_of(key, c, "attention.sliding_window_pattern"));
    if (v && v->type == NM_META_ARRAY) return read_pattern(c, v, key);
    NM_TRY(nm_gguf_opt_i64(g, key, 0, INT32_MAX, &period));
    for (int64_t i = 0; i < c->n_layer; i++) if (period == 0 || i % period < period - 1) c->slides[i / 8] |= (uint8_t)(1 << i % 8);
    return NM_OK;
}

/* A window in a file of an architecture that has none here: it would change nothing only if it were as wide as the context. */
static nm_err refuse_window(const nm_config *c, const nm_gguf *g)
{
    int64_t window = 0;
    NM_TRY(nm_config_i64(c, g, "attention.sliding_window", 0, INT64_MAX, &window));
    if (window == 0 || window >= c->n_context) return NM_OK;
    return nm_fail(NM_REFUSED, "%s.attention.sliding_window is %lld: sliding windows are not supported for this architecture", c->arch->name, (long long)window);
}

/* ---- Everything -------------------------------------------------------------------------------------------------------------------------- */

static nm_err read_vocabulary(nm_config *c, const nm_gguf *g)
{
    const nm_gguf_tensor *t = nm_gguf_tensor_find(g, "token_embd.weight");
    if (!t) return nm_fail(NM_BAD_FILE, "the tensor token_embd.weight is missing");
    if (t->rank != 2 || t->dim[0] != c->n_embd || t->dim[1] > INT32_MAX)
        return nm_fail(NM_BAD_FILE, "token_embd.weight is %lld x %lld, expected %lld x vocabulary", (long long)t->dim[0], (long long)t->dim[1], (long long)c->n_embd);
    c->n_vocab = t->dim[1];
    return NM_OK;
}

static nm_err refuse_experts(const nm_config *c, const nm_gguf *g)
{
    int64_t experts = 0;
    NM_TRY(nm_config_i64(c, g, "expert_count", 0, 1 << 16, &experts));
    return experts ? nm_fail(NM_REFUSED, "a mixture of %lld experts: not supported yet", (long long)experts) : NM_OK;
}

/* An adapter's file names its base's architecture, and would be found to lack one key of it after the other. */
static nm_err refuse_adapter(const nm_gguf *g)
{
    const char *type = "";
    size_t length = 0;
    NM_TRY(nm_gguf_opt_string(g, "general.type", &type, &length));
    if (length != 7 || memcmp(type, "adapter", 7)) return NM_OK;
    return nm_fail(NM_REFUSED, "%s: an adapter, not a model: put it on its model, as MODEL+%s", nm_gguf_name(g), nm_gguf_name(g));
}

nm_err nm_config_read(nm_config *c, const nm_gguf *g)
{
    const char *name;
    size_t length;
    *c = (nm_config){.embedding_scale = 1, .residual_scale = 1, .logit_scale = 1};
    NM_TRY(refuse_adapter(g));
    NM_TRY(nm_gguf_get_string(g, "general.architecture", &name, &length));
    NM_TRY(nm_arch_find(name, length, &c->arch));
    NM_TRY(refuse_experts(c, g));
    NM_TRY(read_sizes(c, g));
    NM_TRY(read_vocabulary(c, g));
    NM_TRY(read_eps(c, g));
    NM_TRY(read_rope(c, g));
    c->attention_scale = 1.0f / sqrtf((float)c->d_k);
    if (c->arch->read) NM_TRY(c->arch->read(c, g));
    return c->reads_window ? NM_OK : refuse_window(c, g);
}
