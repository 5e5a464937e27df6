/* LoRA adapters as GGUF files: general.type = "adapter", adapter.type = "lora", adapter.lora.alpha, and for each map tensors NAME.lora_a with
 * ne = [in, r] and NAME.lora_b with ne = [r, out]; of the embedding both have r as their first. The scale is alpha / r; an alpha of 0
 * leaves it to the user alone. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "adapter/lora.h"
#include "base/err.h"
#include "base/mem.h"

enum { NAME_MOST = 192 };

static nm_err need_text(const nm_gguf *g, const char *key, const char *expected)
{
    const char *text = "";
    size_t length = 0;
    NM_TRY(nm_gguf_opt_string(g, key, &text, &length));
    if (length == strlen(expected) && !memcmp(text, expected, length)) return NM_OK;
    return nm_fail(NM_REFUSED, "%s: %s is \"%.*s\", and only \"%s\" can be stacked%s", nm_gguf_name(g), key, length > 40 ? 40 : (int)length, text, expected,
                   length ? "" : ": is this a model?");
}

static nm_err copy_text(const nm_gguf *g, const char *key, char **out)
{
    const char *text = "";
    size_t length = 0;
    NM_TRY(nm_gguf_opt_string(g, key, &text, &length));
    *out = nm_strndup(text, length);
    return *out ? NM_OK : nm_fail_memory(length);
}

static nm_err read_identity(nm_identity *out, const nm_gguf *g)
{
    char *sketch = NULL, *tokenizer = NULL, *type = NULL;
    nm_err err = copy_text(g, NM_KEY_SKETCH, &sketch);
    if (err == NM_OK) err = copy_text(g, NM_KEY_TOKENIZER, &tokenizer);
    if (err == NM_OK) err = copy_text(g, NM_KEY_TYPE, &type);
    if (err == NM_OK) err = nm_identity_read(out, *sketch ? sketch : NULL, tokenizer, type);
    nm_free(sketch);
    nm_free(tokenizer);
    nm_free(type);
    return err == NM_BAD_FILE ? nm_fail_in(err, nm_gguf_name(g)) : err;
}

static bool is_matrix(const nm_gguf_tensor *t)
{
    bool plain = t->type->id == NM_F32 || t->type->id == NM_F16 || t->type->id == NM_BF16;
    return (plain || t->type->group) && t->type->to_float && t->dim[2] == 1 && t->dim[3] == 1;
}

/* Finite floats of a tensor; a quantised one counts as what it dequantises to. */
static nm_err take(const nm_gguf *g, const nm_gguf_tensor *t, float *out)
{
    t->type->to_float(t->data, t->dim[0] * t->dim[1], out);
    for (int64_t i = 0; i < t->dim[0] * t->dim[1]; i++)
        if (!isfinite(out[i])) return nm_fail(NM_BAD_FILE, "%s: tensor %.120s: value %lld is not finite", nm_gguf_name(g), t->name, (long long)i);
    return NM_OK;
}

static nm_err bad_pair(const nm_gguf *g, const char *name, const nm_gguf_tensor *a, const nm_gguf_tensor *b)
{
    return nm_fail(NM_BAD_FILE, "%s: %.120s: lora_a is %lld x %lld and lora_b %lld x %lld: their ranks do not meet", nm_gguf_name(g), name,
                   (long long)a->dim[0], (long long)a->dim[1], (long long)b->dim[0], (long long)b->dim[1]);
}

static nm_err add_pair(nm_lora *l, const nm_gguf *g, const char *name, const nm_gguf_tensor *a, const nm_gguf_tensor *b, float alpha)
{
    bool embedding = !strcmp(name, "token_embd") || !strcmp(name, "position_embd");
    int64_t rank = b->dim[0], in = embedding ? a->dim[1] : a->dim[0];
    nm_pair *p;
    if (!is_matrix(a) || !is_matrix(b)) return nm_fail(NM_BAD_FILE, "%s: %.120s: its halves are no matrices of numbers", nm_gguf_name(g), name);
    if ((embedding ? a->dim[0] : a->dim[1]) != rank) return bad_pair(g, name, a, b);
    NM_TRY(nm_lora_add(l, name, name, embedding, in, b->dim[1], rank, &p));
    p->scale = alpha != 0 ? alpha / (float)rank : 1;
    NM_TRY(take(g, a, p->a));
    return take(g, b, p->b);
}

/* "blk.0.attn_q.weight.lora_a": the length of the map's name; 0 for another tensor. */
static size_t stem_of(const char *tensor, const char *half)
{
    size_t n = strlen(tensor), m = strlen(half);
    return n > m && n - m < NAME_MOST && !strcmp(tensor + n - m, half) ? n - m : 0;
}

static const char A_HALF[] = ".weight.lora_a", B_HALF[] = ".weight.lora_b";

static nm_err read_tensor(nm_lora *l, const nm_gguf *g, const nm_gguf_tensor *t, float alpha)
{
    char name[NAME_MOST], other[NAME_MOST + sizeof A_HALF];
    size_t a = stem_of(t->name, A_HALF), b = stem_of(t->name, B_HALF), n = a ? a : b;
    if (!n) return nm_fail(NM_REFUSED, "%s: tensor %.120s is no half of a LoRA map: only plain LoRA can be run", nm_gguf_name(g), t->name);
    memcpy(name, t->name, n);
    name[n] = 0;
    snprintf(other, sizeof other, "%s%s", name, a ? B_HALF : A_HALF);
    const nm_gguf_tensor *half = nm_gguf_tensor_find(g, other);
    if (!half) return nm_fail(NM_BAD_FILE, "%s: tensor %.120s has no other half (%.140s is missing)", nm_gguf_name(g), t->name, other);
    return a ? add_pair(l, g, name, t, half, alpha) : NM_OK;
}

static nm_err read_format(nm_lora *l, const nm_gguf *g)
{
    char *name = NULL;
    NM_TRY(copy_text(g, NM_KEY_FORMAT, &name));
    nm_lora_set_format(l, name);
    nm_free(name);
    return NM_OK;
}

static nm_err read_all(nm_lora *l, const nm_gguf *g)
{
    float alpha = 0;
    NM_TRY(need_text(g, "general.type", "adapter"));
    NM_TRY(need_text(g, "adapter.type", "lora"));
    NM_TRY(nm_gguf_opt_f32(g, "adapter.lora.alpha", &alpha));
    NM_TRY(copy_text(g, "general.architecture", &l->arch));
    NM_TRY(copy_text(g, "general.base_model.0.name", &l->base));
    NM_TRY(read_identity(&l->identity, g));
    NM_TRY(read_format(l, g));
    for (size_t i = 0; i < nm_gguf_tensor_count(g); i++) NM_TRY(read_tensor(l, g, nm_gguf_tensor_at(g, i), alpha));
    if (!l->pairs) return nm_fail(NM_BAD_FILE, "%s: the adapter holds no maps", nm_gguf_name(g));
    return nm_lora_sort(l);
}

nm_err nm_lora_read_gguf(nm_lora *l, const char *path)
{
    nm_gguf *g = NULL;
    *l = (nm_lora){.format = "gguf", .naming = NM_NAMES_GGUF, .path = nm_strndup(path, strlen(path))};
    nm_err err = l->path ? nm_gguf_open(&g, path, false) : nm_fail_memory(strlen(path));
    if (err == NM_OK) err = read_all(l, g);
    nm_gguf_close(&g);
    if (err != NM_OK) nm_lora_free(l);
    return err;
}
