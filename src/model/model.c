/* Opening a model: the file, its text side, its configuration, its program and its weights, in that order, so that the cheapest
 * check refuses first. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "text/tokenizer.h"

/* ---- Text and facts -------------------------------------------------------------------------------------------------------------------- */

static nm_err copy_string(char **out, const char *text, size_t length)
{
    *out = nm_strndup(text, length);
    return *out ? NM_OK : nm_fail_memory(length);
}

/* The last part of a path. */
static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static nm_err read_names(nm_model *m)
{
    const char *text = base_name(nm_gguf_name(m->gguf));
    size_t length = strlen(text);
    NM_TRY(nm_gguf_opt_string(m->gguf, "general.name", &text, &length));
    NM_TRY(copy_string(&m->name, text, length));
    text = "";
    length = 0;
    NM_TRY(nm_gguf_opt_string(m->gguf, "general.architecture", &text, &length));
    return copy_string(&m->architecture, text, length);
}

/* "tokenizer.chat_template" is the default; "tokenizer.chat_template.<name>" are others. */
static nm_err read_templates(nm_model *m)
{
    static const char key[] = "tokenizer.chat_template";
    size_t count = nm_gguf_value_count(m->gguf), capacity = 0;
    for (size_t i = 0; i < count; i++) {
        const nm_gguf_value *v = nm_gguf_value_at(m->gguf, i);
        const char *rest = v->key + sizeof key - 1, *text;
        size_t length;
        if (strncmp(v->key, key, sizeof key - 1) || (*rest && *rest != '.')) continue;
        NM_TRY(nm_gguf_get_string(m->gguf, v->key, &text, &length));
        NM_TRY(NM_GROW(m->tmpl, capacity, m->tmpls + 1));
        m->tmpl[m->tmpls].name = m->tmpl[m->tmpls].source = NULL;
        m->tmpls++;
        NM_TRY(copy_string(&m->tmpl[m->tmpls - 1].name, *rest ? rest + 1 : "", strlen(*rest ? rest + 1 : "")));
        NM_TRY(copy_string(&m->tmpl[m->tmpls - 1].source, text, length));
    }
    return NM_OK;
}

/* The type that holds most bytes of the tensors. */
static const char *main_type(const nm_gguf *g)
{
    const nm_type *best = NULL;
    uint64_t most = 0;
    for (int i = 0; nm_type_at(i); i++) {
        uint64_t bytes = 0;
        for (size_t t = 0; t < nm_gguf_tensor_count(g); t++) if (nm_gguf_tensor_at(g, t)->type == nm_type_at(i)) bytes += nm_gguf_tensor_at(g, t)->bytes;
        if (bytes > most) { most = bytes; best = nm_type_at(i); }
    }
    return best ? best->name : "";
}

static void describe_file(nm_model *m)
{
    nm_model_info *info = &m->info;
    info->name = m->name;
    info->architecture = m->architecture;
    info->file_type = main_type(m->gguf);
    info->file_bytes = nm_gguf_file_bytes(m->gguf);
    for (size_t i = 0; i < nm_gguf_tensor_count(m->gguf); i++) {
        const nm_gguf_tensor *t = nm_gguf_tensor_at(m->gguf, i);
        info->n_parameters += (uint64_t)(t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3]);
    }
    if (m->tokenizer) info->n_vocab = nm_token_count(m->tokenizer);
}

static void describe_config(nm_model *m)
{
    const nm_config *c = &m->config;
    nm_model_info *info = &m->info;
    info->n_layer = (int32_t)c->n_layer;
    info->n_embd = (int32_t)c->n_embd;
    info->n_head = c->heads;
    info->n_head_kv = c->heads_kv;
    info->n_vocab = (int32_t)c->n_vocab;
    info->n_context = (int32_t)c->n_context;
}

static void describe_weights(nm_model *m)
{
    m->info.has_weights = true;
    m->info.weight_bytes = m->packed_bytes;
    for (size_t i = 0; i < m->weights; i++) {
        const nm_weight *w = &m->weight[i];
        if (w->vector) m->info.weight_bytes += (uint64_t)w->n * sizeof(float);
        else if (w->panels.rows) m->info.weight_bytes += w->panels.row_bytes * (uint64_t)w->n;
    }
}

/* ---- Opening ---------------------------------------------------------------------------------------------------------------------------- */

/* A file without tensors still tells its sizes, as far as it has them: what is missing there is no fault. */
static void try_config(nm_model *m)
{
    nm_config_read(&m->config, m->gguf);
    if (!m->config.n_vocab && m->tokenizer) m->config.n_vocab = nm_token_count(m->tokenizer);
    describe_config(m);
}

static nm_err build(nm_model *m)
{
    size_t tensors = nm_gguf_tensor_count(m->gguf);
    m->bound = nm_calloc(tensors, sizeof *m->bound);
    if (!m->bound) return nm_fail_memory(tensors * sizeof *m->bound);
    nm_builder b = {.program = &m->program, .mode = NM_MODE_INFER, .bind = nm_model_bind, .bind_arg = m, .layer = -1};
    m->config.arch->build(&b, &m->config);
    NM_TRY(b.err);
    NM_TRY(nm_model_check_bound(m));
    return nm_program_check(&m->program, NM_MODE_INFER, m->weight);
}

static nm_err check_vocabulary(const nm_model *m)
{
    int32_t tokens = m->tokenizer ? nm_token_count(m->tokenizer) : 0;
    if (tokens <= m->config.n_vocab) return NM_OK;
    return nm_fail(NM_BAD_FILE, "the tokenizer has %d tokens, but token_embd.weight only %lld rows", (int)tokens, (long long)m->config.n_vocab);
}

static nm_err open_weights(nm_model *m, const nm_model_options *options)
{
    NM_TRY(nm_config_read(&m->config, m->gguf));
    describe_config(m);
    NM_TRY(check_vocabulary(m));
    NM_TRY(build(m));
    m->cancel = options ? options->cancel : NULL;
    NM_TRY(nm_model_pack(m, options));
    describe_weights(m);
    return NM_OK;
}

static nm_err open_rest(nm_model *m, const nm_model_options *options)
{
    NM_TRY(read_names(m));
    NM_TRY(read_templates(m));
    NM_TRY(nm_tokenizer_open(&m->tokenizer, m->gguf));
    describe_file(m);
    if (!options || !options->metadata_only) return open_weights(m, options);
    try_config(m);
    return NM_OK;
}

/* Errors of what is in the file get the file's name in front, unless they have it already. */
static nm_err with_name(nm_err err, const char *name)
{
    size_t n = strlen(name);
    bool has = strncmp(nm_error_text(), name, n) == 0;
    return err == NM_OK || has || err == NM_NO_MEMORY || err == NM_INTERRUPTED ? err : nm_fail_in(err, name);
}

static nm_err finish_open(nm_model **out, nm_model *m, nm_err err, const char *name, const nm_model_options *options)
{
    if (err == NM_OK) err = with_name(open_rest(m, options), name);
    if (err != NM_OK) nm_model_close(&m);
    *out = m;
    return err;
}

static bool may_be_cut(const nm_model_options *o) { return o && o->metadata_only && !o->whole; }

nm_err nm_model_open(nm_model **out, const char *path, const nm_model_options *options)
{
    *out = NULL;
    nm_model *m = nm_calloc(1, sizeof *m);
    if (!m) return nm_fail_memory(sizeof *m);
    return finish_open(out, m, nm_gguf_open(&m->gguf, path, may_be_cut(options)), path, options);
}

nm_err nm_model_open_memory(nm_model **out, const void *data, size_t size, const char *name, const nm_model_options *options)
{
    *out = NULL;
    nm_model *m = nm_calloc(1, sizeof *m);
    if (!m) return nm_fail_memory(sizeof *m);
    return finish_open(out, m, nm_gguf_open_memory(&m->gguf, data, size, name, may_be_cut(options)), name, options);
}

void nm_model_close(nm_model **model)
{
    nm_model *m = *model;
    *model = NULL;
    if (!m) return;
    nm_program_free(&m->program);
    for (size_t i = 0; i < m->weights; i++) nm_free(m->weight[i].name);
    for (size_t i = 0; i < m->vectors; i++) nm_free(m->vector[i]);
    for (size_t i = 0; i < m->tmpls; i++) {
        nm_free(m->tmpl[i].name);
        nm_free(m->tmpl[i].source);
    }
    nm_free(m->weight);
    nm_free(m->bound);
    nm_free(m->vector);
    nm_free(m->tmpl);
    nm_packs_end(&m->keeping, m->cancel);
    if (m->kept.data) nm_map_close(&m->kept);
    nm_free_aligned(m->packed, m->packed_bytes);
    nm_free(m->not_kept);
    nm_tokenizer_close(&m->tokenizer);
    nm_gguf_close(&m->gguf);
    nm_free(m->name);
    nm_free(m->architecture);
    nm_free(m);
}

/* ---- What the outside may ask ------------------------------------------------------------------------------------------------------------ */

const nm_model_info *nm_model_describe(const nm_model *m) { return &m->info; }
const nm_tokenizer *nm_model_tokenizer(const nm_model *m) { return m->tokenizer; }

const char *nm_model_template(const nm_model *m, const char *name)
{
    for (size_t i = 0; i < m->tmpls; i++) if (strcmp(m->tmpl[i].name, name ? name : "") == 0) return m->tmpl[i].source;
    return NULL;
}

size_t nm_model_meta_count(const nm_model *m) { return nm_gguf_value_count(m->gguf); }

nm_meta nm_model_meta(const nm_model *m, size_t index)
{
    const nm_gguf_value *v = nm_gguf_value_at(m->gguf, index);
    return (nm_meta){.key = v->key, .type = v->type, .item = v->item, .count = v->count};
}

size_t nm_model_meta_find(const nm_model *m, const char *key)
{
    const nm_gguf_value *found = nm_gguf_find(m->gguf, key);
    for (size_t i = 0; found && i < nm_gguf_value_count(m->gguf); i++) if (nm_gguf_value_at(m->gguf, i) == found) return i;
    return SIZE_MAX;
}

double nm_model_meta_number(const nm_model *m, size_t index, uint64_t item)
{
    const nm_gguf_value *v = nm_gguf_value_at(m->gguf, index);
    nm_meta_type type = v->type == NM_META_ARRAY ? v->item : v->type;
    return item >= v->count || type == NM_META_STRING || type == NM_META_ARRAY ? __builtin_nan("") : nm_gguf_number(v, item);
}

bool nm_model_meta_integer(const nm_model *m, size_t index, uint64_t item, int64_t *value)
{
    const nm_gguf_value *v = nm_gguf_value_at(m->gguf, index);
    nm_meta_type type = v->type == NM_META_ARRAY ? v->item : v->type;
    bool integer = type <= NM_META_I32 || type == NM_META_BOOL || type == NM_META_U64 || type == NM_META_I64;
    *value = item < v->count && integer ? nm_gguf_int(v, item) : 0;
    return item < v->count && integer;
}

const char *nm_model_meta_string(const nm_model *m, size_t index, uint64_t item, size_t *length)
{
    const nm_gguf_value *v = nm_gguf_value_at(m->gguf, index);
    nm_meta_type type = v->type == NM_META_ARRAY ? v->item : v->type;
    *length = 0;
    return item >= v->count || type != NM_META_STRING ? NULL : nm_gguf_string(m->gguf, v, item, length);
}

size_t nm_model_tensor_count(const nm_model *m) { return nm_gguf_tensor_count(m->gguf); }

nm_tensor_info nm_model_tensor(const nm_model *m, size_t index)
{
    const nm_gguf_tensor *t = nm_gguf_tensor_at(m->gguf, index);
    return (nm_tensor_info){.name = t->name, .type = t->type->name, .rank = t->rank, .dim = {t->dim[0], t->dim[1], t->dim[2], t->dim[3]},
        .bytes = t->bytes, .offset = t->offset};
}
