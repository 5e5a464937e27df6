/* Writing adapters: PEFT folders with only keys that every PEFT knows, and GGUF LoRA files. What else is to be told goes into the metadata
 * of the weights and into nomoat.json, which nobody else reads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapter/lora.h"
#include "base/err.h"
#include "base/mem.h"
#include "format/gguf_write.h"
#include "format/safetensors.h"
#include "os/file.h"

static const nm_adapter_card no_card;

static const char *base_of(const nm_lora *l, const nm_adapter_card *card) { return card->base ? card->base : l->base; }

static const char *format_of(const nm_lora *l, const nm_adapter_card *card) { return card->prompt_format ? card->prompt_format : l->prompt_format; }

static nm_err put_text(nm_str *s, const char *key, const char *text)
{
    NM_TRY(nm_str_printf(s, "  \"%s\": ", key));
    NM_TRY(nm_str_json(s, text, strlen(text)));
    return nm_str_puts(s, ",\n");
}

/* ---- adapter_config.json -------------------------------------------------------------------------------------------------------------------- */

/* The module's last name, which is what people call it; with its parent's where GPT-2 has two of that name. */
static const char *leaf_of(const char *module)
{
    const char *dot = strrchr(module, '.');
    if (!dot || strcmp(dot + 1, "c_proj")) return dot ? dot + 1 : module;
    while (dot > module && dot[-1] != '.') dot--;
    return dot;
}

/* The number of the module's layer: the first part of its path that is a number; -1 outside of layers. */
static long layer_of(const char *module)
{
    for (const char *at = module; (at = strchr(at, '.'));) {
        char *end;
        if (*++at < '0' || *at > '9') continue;
        long layer = strtol(at, &end, 10);
        if (*end == '.') return layer;
    }
    return -1;
}

/* True if every kind of map in layers stands in all of them up to the last one: then the last names tell everything. */
static bool leaves_tell(const nm_lora *l)
{
    long last = -1;
    for (size_t i = 0; i < l->pairs; i++) if (layer_of(l->pair[i].name) > last) last = layer_of(l->pair[i].name);
    for (size_t i = 0; i < l->pairs; i++) {
        long count = 0;
        if (layer_of(l->pair[i].name) < 0) continue;
        for (size_t k = 0; k < l->pairs; k++) count += layer_of(l->pair[k].name) >= 0 && !strcmp(leaf_of(l->pair[k].name), leaf_of(l->pair[i].name));
        if (count != last + 1) return false;
    }
    return true;
}

static nm_err put_targets(nm_str *s, const nm_lora *l)
{
    bool leaves = leaves_tell(l), any = false;
    NM_TRY(nm_str_puts(s, "  \"target_modules\": ["));
    for (size_t i = 0; i < l->pairs; i++) {
        const char *name = leaves ? leaf_of(l->pair[i].name) : l->pair[i].name;
        bool told = false;
        for (size_t k = 0; leaves && k < i && !told; k++) told = !strcmp(leaf_of(l->pair[k].name), name);
        if (told) continue;
        if (any) NM_TRY(nm_str_puts(s, ", "));
        NM_TRY(nm_str_json(s, name, strlen(name)));
        any = true;
    }
    return nm_str_puts(s, "],\n");
}

static double alpha_of(const nm_pair *p) { return (double)p->scale * (double)p->rank; }

/* What differs from the first pair's rank or alpha, module by module. */
static nm_err put_pattern(nm_str *s, const nm_lora *l, const char *key, bool alpha)
{
    bool any = false;
    for (size_t i = 1; i < l->pairs; i++) {
        const nm_pair *p = &l->pair[i];
        if (alpha ? alpha_of(p) == alpha_of(l->pair) : p->rank == l->pair->rank) continue;
        if (any) NM_TRY(nm_str_puts(s, ", "));
        else NM_TRY(nm_str_printf(s, "  \"%s\": {", key));
        NM_TRY(nm_str_json(s, p->name, strlen(p->name)));
        NM_TRY(alpha ? nm_str_printf(s, ": %.9g", alpha_of(p)) : nm_str_printf(s, ": %lld", (long long)p->rank));
        any = true;
    }
    return any ? nm_str_puts(s, "},\n") : NM_OK;
}

/* GPT-2's maps are transposed in its own files, and PEFT wants to be told. */
static bool is_transposed(const nm_lora *l)
{
    for (size_t i = 0; i < l->pairs; i++) if (strstr(l->pair[i].name, ".c_attn") || strstr(l->pair[i].name, ".c_fc") || strstr(l->pair[i].name, ".c_proj")) return true;
    return false;
}

static nm_err put_config(nm_str *s, const nm_lora *l, const nm_adapter_card *card)
{
    NM_TRY(nm_str_puts(s, "{\n"));
    NM_TRY(put_pattern(s, l, "alpha_pattern", true));
    NM_TRY(put_text(s, "base_model_name_or_path", base_of(l, card)));
    NM_TRY(put_text(s, "bias", "none"));
    NM_TRY(nm_str_printf(s, "  \"fan_in_fan_out\": %s,\n  \"inference_mode\": true,\n", is_transposed(l) ? "true" : "false"));
    NM_TRY(nm_str_printf(s, "  \"init_lora_weights\": true,\n  \"lora_alpha\": %.9g,\n  \"lora_dropout\": 0.0,\n", alpha_of(l->pair)));
    NM_TRY(nm_str_printf(s, "  \"modules_to_save\": null,\n  \"peft_type\": \"LORA\",\n  \"r\": %lld,\n", (long long)l->pair->rank));
    NM_TRY(put_pattern(s, l, "rank_pattern", false));
    NM_TRY(put_targets(s, l));
    NM_TRY(nm_str_puts(s, "  \"task_type\": \"CAUSAL_LM\",\n"));
    if (l->pair->m) NM_TRY(nm_str_puts(s, "  \"use_dora\": true,\n"));
    return nm_str_puts(s, "  \"use_rslora\": false\n}\n");
}

/* ---- README.md, nomoat.json ------------------------------------------------------------------------------------------------------------------ */

static nm_err put_readme(nm_str *s, const nm_lora *l, const nm_adapter_card *card)
{
    const char *base = base_of(l, card);
    NM_TRY(nm_str_puts(s, "---\nbase_model: "));
    NM_TRY(nm_str_json(s, base, strlen(base)));
    NM_TRY(nm_str_puts(s, "\nlibrary_name: peft\ntags:\n- lora\n---\n\n"));
    NM_TRY(nm_str_puts(s, l->pair->m ? "# A DoRA adapter\n\n" : "# A LoRA adapter\n\n"));
    if (card->summary) NM_TRY(nm_str_printf(s, "%s\n\n", card->summary));
    NM_TRY(nm_str_printf(s, "Changes %zu maps of its base, rank %lld, scale %g. Written by nomoat %s; what is known of how it came to be stands in nomoat.json.\n\n",
                         l->pairs, (long long)l->pair->rank, (double)l->pair->scale, NM_VERSION));
    return nm_str_puts(s, "    nomoat run MODEL+./this-folder\n\n"
                          "    from peft import PeftModel\n    model = PeftModel.from_pretrained(base, \"this-folder\")\n");
}

static nm_err put_provenance(nm_str *s, const nm_lora *l, const nm_adapter_card *card)
{
    NM_TRY(nm_str_puts(s, "{\n"));
    NM_TRY(put_text(s, "nomoat", NM_VERSION));
    NM_TRY(put_text(s, "base", base_of(l, card)));
    if (l->identity.known) {
        nm_str sketch = {0};
        char tokenizer[17];
        nm_err err = nm_identity_write(&l->identity, &sketch, tokenizer);
        if (err == NM_OK) err = put_text(s, "base_type", l->identity.type);
        if (err == NM_OK) err = put_text(s, "tokenizer", tokenizer);
        if (err == NM_OK) err = put_text(s, "sketch", sketch.data);
        nm_str_free(&sketch);
        NM_TRY(err);
    }
    if (*format_of(l, card)) NM_TRY(put_text(s, "prompt_format", format_of(l, card)));
    return nm_str_printf(s, "  \"provenance\": %s\n}\n", card->provenance ? card->provenance : "{}");
}

/* ---- adapter_model.safetensors --------------------------------------------------------------------------------------------------------------- */

typedef struct weights { nm_safe_tensor *tensor; nm_str *name; float **turned; size_t count; } weights;     /* turned: A of embeddings, owned */

static nm_err turn(const nm_pair *p, float **out)
{
    *out = nm_calloc((size_t)p->in, (size_t)p->rank * sizeof **out);
    if (!*out) return nm_fail_memory((size_t)(p->in * p->rank) * sizeof **out);
    for (int64_t i = 0; i < p->in; i++)
        for (int64_t r = 0; r < p->rank; r++) (*out)[r * p->in + i] = p->a[i * p->rank + r];
    return NM_OK;
}

static nm_err add_half(weights *w, const nm_pair *p, bool b)
{
    size_t i = w->count;
    const char *form = p->embedding ? "base_model.model.%s.lora_embedding_%c" : "base_model.model.%s.lora_%c.weight";
    NM_TRY(nm_str_printf(&w->name[i], form, p->name, b ? 'B' : 'A'));
    if (!b && p->embedding) NM_TRY(turn(p, &w->turned[i]));
    w->tensor[i] = (nm_safe_tensor){.name = w->name[i].data, .type = nm_type_of(NM_F32), .rank = 2, .dim = {b ? p->out : p->rank, b ? p->rank : p->in},
        .data = b ? p->b : p->embedding ? w->turned[i] : p->a};
    w->count++;
    return NM_OK;
}

static nm_err add_magnitudes(weights *w, const nm_pair *p)
{
    size_t i = w->count;
    if (!p->m) return NM_OK;
    NM_TRY(nm_str_printf(&w->name[i], "base_model.model.%s.lora_magnitude_vector", p->name));
    w->tensor[i] = (nm_safe_tensor){.name = w->name[i].data, .type = nm_type_of(NM_F32), .rank = 1, .dim = {p->out}, .data = p->m};
    w->count++;
    return NM_OK;
}

static nm_err write_weights(const nm_lora *l, const weights *w, const char *path, const char *format)
{
    nm_str sketch = {0};
    char tokenizer[17];
    nm_safe_meta meta[5] = {{"format", "pt"}};
    size_t n = 1;
    nm_err err = nm_identity_write(&l->identity, &sketch, tokenizer);
    if (*format) meta[n++] = (nm_safe_meta){NM_KEY_FORMAT, format};
    if (l->identity.known) {
        meta[n++] = (nm_safe_meta){NM_KEY_TYPE, l->identity.type};
        meta[n++] = (nm_safe_meta){NM_KEY_TOKENIZER, tokenizer};
        meta[n++] = (nm_safe_meta){NM_KEY_SKETCH, sketch.data};
    }
    if (err == NM_OK) err = nm_safetensors_write(path, w->tensor, w->count, meta, n);
    nm_str_free(&sketch);
    return err;
}

static nm_err put_weights(const nm_lora *l, const char *path, const char *format)
{
    size_t n = 3 * l->pairs;
    weights w = {nm_calloc(n, sizeof *w.tensor), nm_calloc(n, sizeof *w.name), nm_calloc(n, sizeof *w.turned), 0};
    nm_err err = w.tensor && w.name && w.turned ? NM_OK : nm_fail_memory(n * sizeof *w.tensor);
    for (size_t i = 0; err == NM_OK && i < l->pairs; i++) {
        err = add_half(&w, &l->pair[i], false);
        if (err == NM_OK) err = add_half(&w, &l->pair[i], true);
        if (err == NM_OK) err = add_magnitudes(&w, &l->pair[i]);
    }
    if (err == NM_OK) err = write_weights(l, &w, path, format);
    for (size_t i = 0; i < n; i++) {
        if (w.name) nm_str_free(&w.name[i]);
        if (w.turned) nm_free(w.turned[i]);
    }
    nm_free(w.tensor);
    nm_free(w.name);
    nm_free(w.turned);
    return err;
}

/* ---- The folder ------------------------------------------------------------------------------------------------------------------------------- */

typedef nm_err (*put_fn)(nm_str *s, const nm_lora *l, const nm_adapter_card *card);

static nm_err write_text(const nm_lora *l, const nm_adapter_card *card, const char *folder, const char *name, put_fn fill)
{
    nm_str path = {0}, text = {0};
    nm_err err = nm_str_printf(&path, "%s/%s", folder, name);
    if (err == NM_OK) err = fill(&text, l, card);
    if (err == NM_OK) err = nm_file_write(path.data, text.data, text.length);
    nm_str_free(&path);
    nm_str_free(&text);
    return err;
}

nm_err nm_lora_write_peft(const nm_lora *l, const char *folder, const nm_adapter_card *card)
{
    nm_str path = {0};
    if (!card) card = &no_card;
    if (!l->pairs || l->naming != NM_NAMES_HF) return nm_fail(NM_USAGE, "%s: an adapter without maps, or with GGUF's names, is no PEFT adapter", folder);
    NM_TRY(nm_folder_make(folder, 0755));
    NM_TRY(write_text(l, card, folder, "README.md", put_readme));
    NM_TRY(write_text(l, card, folder, "nomoat.json", put_provenance));
    NM_TRY(write_text(l, card, folder, "adapter_config.json", put_config));
    nm_err err = nm_str_printf(&path, "%s/adapter_model.safetensors", folder);
    if (err == NM_OK) err = put_weights(l, path.data, format_of(l, card));
    nm_str_free(&path);
    return err;
}

/* ---- GGUF -------------------------------------------------------------------------------------------------------------------------------------- */

static nm_err put_identity(nm_gguf_writer *w, const nm_identity *identity)
{
    nm_str sketch = {0};
    char tokenizer[17];
    if (!identity->known) return NM_OK;
    nm_err err = nm_identity_write(identity, &sketch, tokenizer);
    if (err == NM_OK) err = nm_gguf_write_string(w, NM_KEY_SKETCH, sketch.data);
    if (err == NM_OK) err = nm_gguf_write_string(w, NM_KEY_TOKENIZER, tokenizer);
    if (err == NM_OK) err = nm_gguf_write_string(w, NM_KEY_TYPE, identity->type);
    nm_str_free(&sketch);
    return err;
}

static nm_err put_gguf_keys(nm_gguf_writer *w, const nm_lora *l, const nm_adapter_card *card, float alpha)
{
    NM_TRY(nm_gguf_write_string(w, "general.architecture", l->arch));
    NM_TRY(nm_gguf_write_string(w, "general.type", "adapter"));
    NM_TRY(nm_gguf_write_string(w, "adapter.type", "lora"));
    NM_TRY(nm_gguf_write_f32(w, "adapter.lora.alpha", alpha));
    if (*base_of(l, card)) {
        NM_TRY(nm_gguf_write_u32(w, "general.base_model.count", 1));
        NM_TRY(nm_gguf_write_string(w, "general.base_model.0.name", base_of(l, card)));
    }
    if (card->provenance) NM_TRY(nm_gguf_write_string(w, "nomoat.provenance", card->provenance));
    if (*format_of(l, card)) NM_TRY(nm_gguf_write_string(w, NM_KEY_FORMAT, format_of(l, card)));
    return put_identity(w, &l->identity);
}

static nm_err put_records(nm_gguf_writer *w, const nm_lora *l)
{
    const nm_type *f32 = nm_type_of(NM_F32);
    nm_str name = {0};
    nm_err err = NM_OK;
    for (size_t i = 0; err == NM_OK && i < l->pairs; i++) {
        const nm_pair *p = &l->pair[i];
        const int64_t a[2] = {p->embedding ? p->rank : p->in, p->embedding ? p->in : p->rank}, b[2] = {p->rank, p->out};
        name.length = 0;
        err = nm_str_printf(&name, "%s.weight.lora_a", p->name);
        if (err == NM_OK) err = nm_gguf_write_tensor(w, name.data, f32, 2, a);
        if (err == NM_OK) name.data[name.length - 1] = 'b';
        if (err == NM_OK) err = nm_gguf_write_tensor(w, name.data, f32, 2, b);
    }
    nm_str_free(&name);
    return err;
}

/* A file has one alpha: where a pair's scale is not alpha / rank, the rest goes into its B. */
static nm_err put_b(nm_gguf_writer *w, const nm_pair *p, float alpha)
{
    float own = alpha / (float)p->rank, factor = p->scale / own;
    size_t count = (size_t)(p->out * p->rank);
    if (p->scale == own) return nm_gguf_write_data(w, p->b, count * sizeof *p->b, true);
    float *b = nm_calloc(count, sizeof *b);
    if (!b) return nm_fail_memory(count * sizeof *b);
    for (size_t i = 0; i < count; i++) b[i] = p->b[i] * factor;
    nm_err err = nm_gguf_write_data(w, b, count * sizeof *b, true);
    nm_free(b);
    return err;
}

/* alpha 0 would mean a scale of 1. */
static float file_alpha(const nm_lora *l)
{
    float alpha = l->pair->scale * (float)l->pair->rank;
    return alpha != 0 ? alpha : (float)l->pair->rank;
}

static nm_err write_gguf(nm_gguf_writer *w, const nm_lora *l, const char *path, const nm_adapter_card *card)
{
    float alpha = file_alpha(l);
    NM_TRY(put_gguf_keys(w, l, card, alpha));
    NM_TRY(put_records(w, l));
    NM_TRY(nm_gguf_write_begin(w, path));
    for (size_t i = 0; i < l->pairs; i++) {
        NM_TRY(nm_gguf_write_data(w, l->pair[i].a, (size_t)(l->pair[i].rank * l->pair[i].in) * sizeof(float), true));
        NM_TRY(put_b(w, &l->pair[i], alpha));
    }
    return nm_gguf_write_commit(w);
}

nm_err nm_lora_write_gguf(const nm_lora *l, const char *path, const nm_adapter_card *card)
{
    nm_gguf_writer w = {0};
    if (!l->pairs || l->naming != NM_NAMES_GGUF) return nm_fail(NM_USAGE, "%s: an adapter without maps, or with Hugging Face's names, is no GGUF adapter", path);
    NM_TRY(nm_lora_need_plain(l, "GGUF adapters cannot hold it: keep the PEFT folder, or merge it into the model"));
    nm_err err = write_gguf(&w, l, path, card ? card : &no_card);
    nm_gguf_write_end(&w);
    return err;
}
