/* What can be told of an open model. */
#include "server/facts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* ---- Filling in the middle --------------------------------------------------------------------------------------------------------------- */

/* A key's token, or -1. */
static int32_t token_of_key(const nm_model *model, const char *key)
{
    size_t at = nm_model_meta_find(model, key);
    double value = at == SIZE_MAX ? -1 : nm_model_meta_number(model, at, 0);
    return value >= 0 && value < nm_token_count(nm_model_tokenizer(model)) ? (int32_t)value : -1;
}

/* The one special token of this text, or -1: text that is no special token has several, or one that is no control token. */
static int32_t token_of_text(const nm_tokenizer *tokenizer, const char *text)
{
    int32_t *ids = NULL;
    size_t count = 0;
    int32_t id = -1;
    if (nm_tokenize(tokenizer, text, strlen(text), NM_TEXT_SPECIAL, &ids, &count) == NM_OK && count == 1 && !strcmp(nm_token_raw(tokenizer, ids[0]), text)) id = ids[0];
    nm_free(ids);
    return id;
}

static int32_t find_token(const nm_model *model, const char *const *keys, const char *const *texts, size_t family)
{
    for (; keys && *keys; keys++) {
        int32_t id = token_of_key(model, *keys);
        if (id >= 0) return id;
    }
    return texts[family] ? token_of_text(nm_model_tokenizer(model), texts[family]) : -1;
}

bool nm_fim_find(nm_fim *out, const nm_model *model)
{
    static const char *const prefix_keys[] = {"tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id", NULL};
    static const char *const suffix_keys[] = {"tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id", NULL};
    static const char *const middle_keys[] = {"tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id", NULL};
    static const char *const repository_keys[] = {"tokenizer.ggml.fim_rep_token_id", NULL}, *const file_keys[] = {"tokenizer.ggml.fim_sep_token_id", NULL};
    /* A family a column: Qwen, StarCoder, DeepSeek, SantaCoder, CodeLlama in either spelling. */
    static const char *const prefixes[] = {"<|fim_prefix|>", "<fim_prefix>", "<\xef\xbd\x9c" "fim\xe2\x96\x81" "begin\xef\xbd\x9c>", "<fim-prefix>", "\xe2\x96\x81<PRE>", "<PRE>"};
    static const char *const suffixes[] = {"<|fim_suffix|>", "<fim_suffix>", "<\xef\xbd\x9c" "fim\xe2\x96\x81" "hole\xef\xbd\x9c>", "<fim-suffix>", "\xe2\x96\x81<SUF>", "<SUF>"};
    static const char *const middles[] = {"<|fim_middle|>", "<fim_middle>", "<\xef\xbd\x9c" "fim\xe2\x96\x81" "end\xef\xbd\x9c>", "<fim-middle>", "\xe2\x96\x81<MID>", "<MID>"};
    static const char *const repositories[] = {"<|repo_name|>", "<repo_name>", NULL, "<reponame>", NULL, NULL};
    static const char *const files[] = {"<|file_sep|>", "<file_sep>", NULL, "<filename>", NULL, NULL};
    *out = (nm_fim){-1, -1, -1, -1, -1};
    if (!nm_model_tokenizer(model)) return false;
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        out->prefix = find_token(model, prefix_keys, prefixes, i);
        out->suffix = find_token(model, suffix_keys, suffixes, i);
        out->middle = find_token(model, middle_keys, middles, i);
        out->repository = find_token(model, repository_keys, repositories, i);
        out->file = find_token(model, file_keys, files, i);
        if (out->prefix >= 0 && out->suffix >= 0 && out->middle >= 0) return true;
    }
    return false;
}

/* ---- The template ------------------------------------------------------------------------------------------------------------------------ */

bool nm_knows_tools(const char *text) { return text && strstr(text, "tools"); }

bool nm_knows_thinking(const char *text)
{
    return text && (strstr(text, "<think>") || strstr(text, "enable_thinking") || strstr(text, "reasoning_content") || strstr(text, "reasoning_effort"));
}

/* ---- Keys -------------------------------------------------------------------------------------------------------------------------------- */

static json_t *element(const nm_model *model, size_t index, nm_meta_type type, uint64_t item)
{
    size_t length;
    int64_t integer;
    if (type == NM_META_STRING) {
        const char *text = nm_model_meta_string(model, index, item, &length);
        json_t *value = text ? json_stringn(text, length) : NULL;
        return value ? value : json_null();     /* bytes of a vocabulary need not be UTF-8 */
    }
    if (type == NM_META_BOOL) return json_boolean(nm_model_meta_number(model, index, item) != 0);
    if (nm_model_meta_integer(model, index, item, &integer)) return json_integer(integer);
    double number = nm_model_meta_number(model, index, item);
    char text[32];
    snprintf(text, sizeof text, "%.7g", number);        /* a float in the digits that it has */
    json_t *real = json_real(type == NM_META_F32 ? strtod(text, NULL) : number);
    return real ? real : json_null();           /* JSON knows neither infinity nor NaN */
}

static json_t *array_of(const nm_model *model, size_t index, const nm_meta *meta)
{
    json_t *list = json_array();
    for (uint64_t i = 0; i < meta->count; i++)
        if (json_array_append_new(list, element(model, index, meta->item, i)) != 0) break;
    return list;
}

json_t *nm_meta_json(const nm_model *model, bool arrays)
{
    json_t *all = json_object();
    for (size_t i = 0; all && i < nm_model_meta_count(model); i++) {
        nm_meta meta = nm_model_meta(model, i);
        if (!strncmp(meta.key, "tokenizer.chat_template", strlen("tokenizer.chat_template"))) continue;     /* told by itself */
        json_t *value = meta.type != NM_META_ARRAY ? element(model, i, meta.type, 0) : arrays ? array_of(model, i, &meta) : json_null();
        json_object_set_new(all, meta.key, value);
    }
    return all;
}

json_t *nm_parameter_size(uint64_t n)
{
    if (n >= 1000000000) return json_sprintf("%.1fB", (double)n * 1e-9);
    return n >= 1000000 ? json_sprintf("%.2fM", (double)n * 1e-6) : json_sprintf("%.2fK", (double)n * 1e-3);
}
