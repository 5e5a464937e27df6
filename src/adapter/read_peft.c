/* LoRA adapters as PEFT writes them: adapter_config.json says rank, alpha and what kind of adapter this is, adapter_model.safetensors holds
 * base_model.model.MODULE.lora_A.weight [r, in] and .lora_B.weight [out, r], of embeddings lora_embedding_A [r, in] and
 * lora_embedding_B [out, r]; of DoRA also .lora_magnitude_vector [out]. fan_in_fan_out concerns merging into transposed weights alone: halves look the
 * same. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapter/lora.h"
#include "base/err.h"
#include "base/mem.h"
#include "format/safetensors.h"
#include "os/file.h"

enum { CONFIG_MOST = 4 << 20, MODULE_MOST = 256, DEFAULT_RANK = 8, DEFAULT_ALPHA = 8 };

typedef struct peft_config {
    const char *path;
    nm_json json;
    int64_t rank;
    double alpha;
    bool rank_stabilised, dora;
} peft_config;

/* ---- The configuration -------------------------------------------------------------------------------------------------------------------- */

static bool is_number(const nm_json *v) { return v->kind == NM_JSON_INT || v->kind == NM_JSON_REAL; }
static double number(const nm_json *v) { return v->kind == NM_JSON_INT ? (double)v->integer : v->real; }

/* null, false, "", [] and {} are Python's ways to say no. */
static bool is_set(const nm_json *v)
{
    if (!v) return false;
    switch (v->kind) {
    case NM_JSON_NULL: return false;
    case NM_JSON_BOOL: return v->boolean;
    case NM_JSON_STRING: return v->string.length > 0;
    case NM_JSON_ARRAY: return v->array.count > 0;
    case NM_JSON_OBJECT: return v->object.count > 0;
    default: return number(v) != 0;
    }
}

static const char *text_of(const nm_json *object, const char *key)
{
    const nm_json *v = nm_json_get(object, key);
    return v && v->kind == NM_JSON_STRING ? v->string.bytes : NULL;
}

/* What makes an adapter more than y += scale (x A') B', with DoRA's gains or without. */
static const struct { const char *key, *what; } beyond_lora[] = {
    {"modules_to_save", "it replaces whole modules of the base"},
    {"lora_bias", "B has a bias"}, {"use_qalora", "QA-LoRA pools its inputs"}, {"use_bdlora", "its halves are block-diagonal"},
    {"layer_replication", "it repeats layers of the base"}, {"trainable_token_indices", "it replaces rows of the embedding"},
    {"target_parameters", "it changes parameters that are no modules"}, {"alora_invocation_tokens", "it is switched on by tokens"},
    {"arrow_config", "it routes between adapters"}, {"kasa_config", "it cuts the base's singular values"},
    {"monteclora_config", "it draws its weights"},
};

static nm_err check_kind(const peft_config *c)
{
    const char *kind = text_of(&c->json, "peft_type"), *bias = text_of(&c->json, "bias");
    if (!kind) return nm_fail(NM_BAD_FILE, "%s: \"peft_type\" is missing: it is no PEFT adapter's configuration", c->path);
    if (strcmp(kind, "LORA")) return nm_fail(NM_REFUSED, "%s: an adapter of the kind %.40s: only LORA can be run", c->path, kind);
    if (bias && strcmp(bias, "none")) return nm_fail(NM_REFUSED, "%s: bias is \"%.40s\": only adapters without biases can be run", c->path, bias);
    for (size_t i = 0; i < sizeof beyond_lora / sizeof *beyond_lora; i++)
        if (is_set(nm_json_get(&c->json, beyond_lora[i].key)))
            return nm_fail(NM_REFUSED, "%s: %s is set (%s): only plain LoRA and DoRA can be run", c->path, beyond_lora[i].key, beyond_lora[i].what);
    return NM_OK;
}

/* Some ways to begin take their share out of the base, which then is not the model's any more. PEFT can convert them. */
static nm_err check_start(const peft_config *c)
{
    static const char *const changing[] = {"pissa", "olora", "corda", "loftq", "lora_ga"};
    const char *start = text_of(&c->json, "init_lora_weights");
    for (size_t i = 0; start && i < sizeof changing / sizeof *changing; i++)
        if (!strncmp(start, changing[i], strlen(changing[i])))
            return nm_fail(NM_REFUSED, "%s: init_lora_weights is \"%.40s\", which changed the base: save it with path_initial_model_for_weight_conversion", c->path, start);
    return NM_OK;
}

static nm_err read_numbers(peft_config *c)
{
    const nm_json *r = nm_json_get(&c->json, "r"), *alpha = nm_json_get(&c->json, "lora_alpha");
    c->rank = DEFAULT_RANK;
    c->alpha = DEFAULT_ALPHA;
    c->rank_stabilised = is_set(nm_json_get(&c->json, "use_rslora"));
    c->dora = is_set(nm_json_get(&c->json, "use_dora"));
    if (r && (r->kind != NM_JSON_INT || r->integer < 1 || r->integer > NM_MOST_RANK))
        return nm_fail(NM_BAD_FILE, "%s: \"r\" is no whole number from 1 to %d", c->path, NM_MOST_RANK);
    if (alpha && (!is_number(alpha) || !isfinite(number(alpha)))) return nm_fail(NM_BAD_FILE, "%s: \"lora_alpha\" is no number", c->path);
    if (r) c->rank = r->integer;
    if (alpha) c->alpha = number(alpha);
    return NM_OK;
}

static nm_err read_config(peft_config *c, const char *path)
{
    char *text;
    size_t size;
    c->path = path;
    NM_TRY(nm_file_read(path, CONFIG_MOST, &text, &size));
    nm_err err = nm_json_parse(&c->json, text, size);
    nm_free(text);
    if (err != NM_OK) return err == NM_USAGE ? nm_fail_in(NM_BAD_FILE, path) : err;
    if (c->json.kind != NM_JSON_OBJECT) return nm_fail(NM_BAD_FILE, "%s: no JSON object", path);
    NM_TRY(check_kind(c));
    NM_TRY(check_start(c));
    return read_numbers(c);
}

/* The value of a module in rank_pattern or alpha_pattern: of the first key that means it; NULL if none does. */
static nm_err find_pattern(const peft_config *c, const char *key, const char *module, const nm_json **value)
{
    const nm_json *patterns = nm_json_get(&c->json, key);
    *value = NULL;
    for (size_t i = 0; is_set(patterns) && patterns->kind == NM_JSON_OBJECT && i < patterns->object.count; i++) {
        bool matches;
        nm_err err = nm_peft_pattern(patterns->object.keys[i], module, &matches);
        if (err != NM_OK) return nm_fail_in(err, c->path);
        if (!matches) continue;
        *value = &patterns->object.values[i];
        return is_number(*value) && isfinite(number(*value)) ? NM_OK : nm_fail(NM_BAD_FILE, "%s: \"%s\" holds what is no number", c->path, key);
    }
    return NM_OK;
}

/* alpha / r, or alpha / sqrt(r); and the rank must be the one that the configuration gives to the module. */
static nm_err module_scale(const peft_config *c, const char *module, int64_t rank, float *scale)
{
    const nm_json *own_rank, *own_alpha;
    NM_TRY(find_pattern(c, "rank_pattern", module, &own_rank));
    NM_TRY(find_pattern(c, "alpha_pattern", module, &own_alpha));
    double expected = own_rank ? number(own_rank) : (double)c->rank, alpha = own_alpha ? number(own_alpha) : c->alpha;
    if ((double)rank != expected)
        return nm_fail(NM_BAD_FILE, "%s: %.120s is of rank %lld in the weights, and the configuration says %.0f", c->path, module, (long long)rank, expected);
    *scale = (float)(alpha / (c->rank_stabilised ? sqrt(expected) : expected));
    return isfinite(*scale) ? NM_OK : nm_fail(NM_BAD_FILE, "%s: alpha %g is too large", c->path, alpha);
}

/* ---- Weights ------------------------------------------------------------------------------------------------------------------------------ */

typedef enum part { PART_A, PART_B, PART_M } part;
typedef struct half { const nm_safe_tensor *tensor; part part; bool embedding; char module[MODULE_MOST]; } half;

static const struct { const char *name; part part; bool embedding; } halves[] = {
    {".lora_A", PART_A, false}, {".lora_B", PART_B, false}, {".lora_embedding_A", PART_A, true}, {".lora_embedding_B", PART_B, true},
    {".lora_magnitude_vector", PART_M, false}};

static nm_err refuse_tensor(const nm_safetensors *f, const char *name)
{
    const char *why = strstr(name, ".bias") ? "is a bias" : "is a whole weight of the base";
    return nm_fail(NM_REFUSED, "%s: tensor %.160s %s: only plain LoRA and DoRA can be run", nm_safetensors_name(f), name, why);
}

/* "base_model.model.MODULE.lora_A.weight", perhaps with the adapter's name "default" before ".weight"; magnitudes have a ".weight" or not. */
static nm_err read_name(const nm_safetensors *f, const nm_safe_tensor *t, half *h)
{
    static const char prefix[] = "base_model.model.";
    const char *module = strncmp(t->name, prefix, sizeof prefix - 1) ? t->name : t->name + sizeof prefix - 1, *dot = strstr(module, ".lora_");
    *h = (half){.tensor = t};
    for (size_t i = 0; dot && i < sizeof halves / sizeof *halves; i++) {
        size_t n = strlen(halves[i].name), length = (size_t)(dot - module);
        const char *rest = dot + n;
        if (strncmp(dot, halves[i].name, n)) continue;
        if (!strncmp(rest, ".default", 8)) rest += 8;
        if (strcmp(rest, ".weight") && !(*rest == 0 && (halves[i].embedding || halves[i].part == PART_M))) continue;
        if (!length || length >= MODULE_MOST) break;
        h->part = halves[i].part;
        h->embedding = halves[i].embedding;
        memcpy(h->module, module, length);
        h->module[length] = 0;
        return NM_OK;
    }
    return refuse_tensor(f, t->name);
}

static int by_module(const void *a, const void *b)
{
    const half *x = a, *y = b;
    int order = strcmp(x->module, y->module);
    return order ? order : (int)x->part - (int)y->part;
}

static nm_err take(const nm_safetensors *f, const nm_safe_tensor *t, float *out)
{
    t->type->to_float(t->data, t->values, out);
    for (int64_t i = 0; i < t->values; i++)
        if (!isfinite(out[i])) return nm_fail(NM_BAD_FILE, "%s: tensor %.160s: value %lld is not finite", nm_safetensors_name(f), t->name, (long long)i);
    return NM_OK;
}

/* A of an embedding is kept by entries: each token reads its own. */
static nm_err take_transposed(const nm_safetensors *f, const nm_safe_tensor *t, float *out)
{
    int64_t rank = t->dim[0], in = t->dim[1];
    float *rows = nm_calloc((size_t)rank, (size_t)in * sizeof *rows);
    if (!rows) return nm_fail_memory((size_t)(rank * in) * sizeof *rows);
    nm_err err = take(f, t, rows);
    for (int64_t i = 0; i < in; i++)
        for (int64_t r = 0; r < rank; r++) out[i * rank + r] = rows[r * in + i];
    nm_free(rows);
    return err;
}

static nm_err add_pair(nm_lora *l, const nm_safetensors *f, const peft_config *c, const half *a, const half *b)
{
    const nm_safe_tensor *x = a->tensor, *y = b->tensor;
    nm_pair *p;
    if (x->rank != 2 || y->rank != 2) return nm_fail(NM_BAD_FILE, "%s: %.160s: its halves are no matrices", l->path, a->module);
    if (x->dim[0] != y->dim[1])
        return nm_fail(NM_BAD_FILE, "%s: %.160s: lora_A is %lld x %lld and lora_B %lld x %lld: their ranks do not meet", l->path, a->module,
                       (long long)x->dim[0], (long long)x->dim[1], (long long)y->dim[0], (long long)y->dim[1]);
    NM_TRY(nm_lora_add(l, a->module, a->module, a->embedding, x->dim[1], y->dim[0], x->dim[0], &p));
    NM_TRY(module_scale(c, a->module, p->rank, &p->scale));
    NM_TRY(a->embedding ? take_transposed(f, x, p->a) : take(f, x, p->a));
    return take(f, y, p->b);
}

/* The magnitudes of the pair added last. h: where they stand if they are there. */
static nm_err add_magnitudes(nm_lora *l, const nm_safetensors *f, const peft_config *c, const half *h, const char *module)
{
    nm_pair *p = &l->pair[l->pairs - 1];
    if (c->dora && p->embedding) return nm_fail(NM_REFUSED, "%s: %.120s: DoRA of an embedding cannot be run: train it without", l->path, module);
    if (!c->dora) return h ? nm_fail(NM_REFUSED, "%s: tensor %.160s belongs to DoRA, and use_dora is not set", l->path, h->tensor->name) : NM_OK;
    if (!h) return nm_fail(NM_BAD_FILE, "%s: %.120s: use_dora is set, and its lora_magnitude_vector is missing", l->path, module);
    const nm_safe_tensor *t = h->tensor;
    if (t->rank != 1 || t->dim[0] != p->out)
        return nm_fail(NM_BAD_FILE, "%s: tensor %.160s holds %lld values where the map has %lld outputs", l->path, t->name, (long long)t->values, (long long)p->out);
    NM_TRY(nm_pair_add_magnitudes(p));
    return take(f, t, p->m);
}

/* Sorted by module, the two halves of each stand side by side, and its magnitudes behind them. */
static nm_err add_pairs(nm_lora *l, const nm_safetensors *f, const peft_config *c, half *h, size_t count)
{
    qsort(h, count, sizeof *h, by_module);
    for (size_t i = 0; i < count;) {
        bool pair = i + 1 < count && !strcmp(h[i].module, h[i + 1].module) && h[i].embedding == h[i + 1].embedding && h[i].part == PART_A && h[i + 1].part == PART_B;
        if (!pair) return nm_fail(NM_BAD_FILE, "%s: tensor %.160s has no other half", nm_safetensors_name(f), h[i].tensor->name);
        bool more = i + 2 < count && !strcmp(h[i].module, h[i + 2].module) && h[i + 2].part == PART_M;
        NM_TRY(add_pair(l, f, c, &h[i], &h[i + 1]));
        NM_TRY(add_magnitudes(l, f, c, more ? &h[i + 2] : NULL, h[i].module));
        i += more ? 3 : 2;
    }
    return nm_lora_sort(l);
}

static nm_err read_weights(nm_lora *l, const nm_safetensors *f, const peft_config *c)
{
    size_t count = nm_safetensors_count(f);
    if (!count) return nm_fail(NM_BAD_FILE, "%s: the adapter holds no maps", nm_safetensors_name(f));
    half *h = nm_calloc(count, sizeof *h);
    nm_err err = h ? NM_OK : nm_fail_memory(count * sizeof *h);
    for (size_t i = 0; err == NM_OK && i < count; i++) err = read_name(f, nm_safetensors_at(f, i), &h[i]);
    if (err == NM_OK) err = add_pairs(l, f, c, h, count);
    nm_free(h);
    return err;
}

static nm_err read_identity(nm_identity *out, const nm_safetensors *f)
{
    nm_err err = nm_identity_read(out, nm_safetensors_meta(f, NM_KEY_SKETCH), nm_safetensors_meta(f, NM_KEY_TOKENIZER), nm_safetensors_meta(f, NM_KEY_TYPE));
    return err == NM_BAD_FILE ? nm_fail_in(err, nm_safetensors_name(f)) : err;
}

static nm_err begin(nm_lora *l, const char *weights, const peft_config *c)
{
    const char *base = text_of(&c->json, "base_model_name_or_path");
    l->path = nm_strndup(weights, strlen(weights));
    l->base = nm_strndup(base ? base : "", base ? strlen(base) : 0);
    l->arch = nm_strndup("", 0);
    return l->path && l->base && l->arch ? NM_OK : nm_fail_memory(strlen(weights));
}

nm_err nm_lora_read_peft(nm_lora *l, const char *weights, const char *config)
{
    nm_safetensors *f = NULL;
    peft_config c = {0};
    nm_err err = NM_OK;
    *l = (nm_lora){.format = "peft", .naming = NM_NAMES_HF};
    NM_GOTO(read_config(&c, config));
    NM_GOTO(begin(l, weights, &c));
    NM_GOTO(nm_safetensors_open(&f, weights));
    NM_GOTO(read_identity(&l->identity, f));
    nm_lora_set_format(l, nm_safetensors_meta(f, NM_KEY_FORMAT));
    err = read_weights(l, f, &c);
out:
    nm_safetensors_close(&f);
    nm_json_free(&c.json);
    if (err != NM_OK) nm_lora_free(l);
    return err;
}
