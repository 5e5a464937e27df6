/* Reads a vocabulary from a GGUF file and checks all of it: types, lengths, UTF-8, duplicates, merges that name no token, ids
 * outside. Refuses unigram and other kinds of tokenizer by name. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "text/tokenizer_impl.h"

#define KEY(name) "tokenizer.ggml." name

static nm_err bad(const nm_gguf *g, const char *key, uint64_t index, const char *what)
{
    return nm_fail(NM_BAD_FILE, "%s: key %s, item %llu: %s; the file is damaged or was made wrongly", nm_gguf_name(g), key,
                   (unsigned long long)index, what);
}

/* Does a string that may be absent (NULL) equal text? */
static bool is_text(const char *s, size_t length, const char *text) { return s && strlen(text) == length && !memcmp(s, text, length); }

static size_t power_of_two(size_t least)
{
    size_t n = 16;
    while (n < least) n *= 2;
    return n;
}

/* ---- Tokens ------------------------------------------------------------------------------------------------------------- */

static bool valid_utf8(const char *s, size_t length)
{
    for (size_t i = 0; i < length;) {
        int used;
        if (nm_utf8_decode(s + i, length - i, &used) < 0) return false;
        i += (size_t)used;
    }
    return true;
}

/* An array beside the tokens must have as many items. */
static nm_err same_length(const nm_tokenizer *t, const nm_gguf *g, const char *key, const nm_gguf_value *v)
{
    if (!v || v->count == (uint64_t)t->n) return NM_OK;
    return nm_fail(NM_BAD_FILE, "%s: key %s has %llu items, expected %d as there are tokens; the file must be made again", nm_gguf_name(g), key,
                   (unsigned long long)v->count, (int)t->n);
}

static nm_err read_types(nm_tokenizer *t, const nm_gguf *g)
{
    const nm_gguf_value *v = nm_gguf_find(g, KEY("token_type"));
    NM_TRY(nm_gguf_opt_array(g, KEY("token_type"), v && v->item == NM_META_U32 ? NM_META_U32 : NM_META_I32, &v));
    NM_TRY(same_length(t, g, KEY("token_type"), v));
    t->type = nm_calloc((size_t)t->n, 1);
    if (!t->type) return nm_fail_memory((size_t)t->n);
    for (int32_t i = 0; i < t->n; i++) {
        int64_t type = v ? nm_gguf_int(v, (uint64_t)i) : NM_TOKEN_NORMAL;
        if (type < 0 || type >= NM_N_TOKEN_TYPES) return bad(g, KEY("token_type"), (uint64_t)i, "not a type of token (0 to 6)");
        t->type[i] = (uint8_t)type;
    }
    return NM_OK;
}

/* SentencePiece's user-defined runs of spaces are merged before all else rather than looked for in the text, so they are kept as
 * it writes them. (llama.cpp's converter writes plain spaces.) */
static bool is_space_run(const nm_tokenizer *t, int32_t i, const char *s, size_t length)
{
    if (t->kind != NM_VOCAB_SPM || t->type[i] != NM_TOKEN_USER || !length) return false;
    for (size_t k = 0; k < length; k++)
        if (s[k] != ' ') return false;
    return true;
}

static nm_err allocate_tokens(nm_tokenizer *t, const nm_gguf *g, const nm_gguf_value *tokens)
{
    uint64_t total = 0;
    for (int32_t i = 0; i < t->n; i++) {
        size_t length;
        const char *s = nm_gguf_string(g, tokens, (uint64_t)i, &length);
        if (length > UINT32_MAX / 8 || total > UINT32_MAX / 4) return bad(g, KEY("tokens"), (uint64_t)i, "the vocabulary has more than 1 GiB");
        total += (is_space_run(t, i, s, length) ? 3 * length : length) + 1;
    }
    size_t n = (size_t)t->n;
    t->text = nm_malloc((size_t)total);
    t->at = nm_calloc(n + 1, sizeof *t->at);
    t->flags = nm_calloc(n, 1);
    return t->text && t->at && t->flags ? NM_OK : nm_fail_memory((size_t)total + n * 5);
}

static nm_err find_tokens(nm_tokenizer *t, const nm_gguf *g, const nm_gguf_value **tokens)
{
    NM_TRY(nm_gguf_opt_array(g, KEY("tokens"), NM_META_STRING, tokens));
    if (!*tokens) return nm_fail(NM_BAD_FILE, "%s: key " KEY("tokens") " is missing; the file must be made again", nm_gguf_name(g));
    if (!(*tokens)->count) return nm_fail(NM_BAD_FILE, "%s: key " KEY("tokens") " is empty; the file has no vocabulary", nm_gguf_name(g));
    if ((*tokens)->count > INT32_MAX / 4) return bad(g, KEY("tokens"), (*tokens)->count, "more tokens than can be numbered");
    t->n = (int32_t)(*tokens)->count;
    return NM_OK;
}

/* Needs the types. */
static nm_err read_tokens(nm_tokenizer *t, const nm_gguf *g, const nm_gguf_value *tokens)
{
    NM_TRY(allocate_tokens(t, g, tokens));
    uint32_t at = 0;
    for (int32_t i = 0; i < t->n; i++) {
        size_t length;
        const char *s = nm_gguf_string(g, tokens, (uint64_t)i, &length);
        if (!valid_utf8(s, length)) return bad(g, KEY("tokens"), (uint64_t)i, "the token is not valid UTF-8");
        t->at[i] = at;
        if (is_space_run(t, i, s, length)) {
            for (size_t k = 0; k < length; k++, at += 3) memcpy(t->text + at, NM_SPM_SPACE, 3);
        } else {
            memcpy(t->text + at, s, length);
            at += (uint32_t)length;
        }
        t->text[at++] = 0;
        if (at - t->at[i] - 1 > t->longest) t->longest = at - t->at[i] - 1;
    }
    t->at[t->n] = at;
    return NM_OK;
}

static nm_err read_scores(nm_tokenizer *t, const nm_gguf *g)
{
    const nm_gguf_value *v;
    NM_TRY(nm_gguf_opt_array(g, KEY("scores"), NM_META_F32, &v));
    NM_TRY(same_length(t, g, KEY("scores"), v));
    if (t->kind != NM_VOCAB_SPM) return NM_OK;
    if (!v) return nm_fail(NM_BAD_FILE, "%s: key " KEY("scores") " is missing; the file must be made again", nm_gguf_name(g));
    t->score = nm_calloc((size_t)t->n, sizeof *t->score);
    if (!t->score) return nm_fail_memory((size_t)t->n * sizeof *t->score);
    for (int32_t i = 0; i < t->n; i++) {
        t->score[i] = (float)nm_gguf_number(v, (uint64_t)i);
        if (!isfinite(t->score[i])) return bad(g, KEY("scores"), (uint64_t)i, "the score is not a finite number");
    }
    return NM_OK;
}

/* Tables of a large vocabulary are larger than the second level of caches, and every entry goes elsewhere: so they are filled in blocks, first where each entry goes,
 * which is fetched meanwhile, then what it is. */
enum { BLOCK = 64 };

/* Puts token i into the index under its text. */
static nm_err index_token(nm_tokenizer *t, const nm_gguf *g, int32_t i, uint32_t hash)
{
    uint32_t length = nm_vocab_length(t, i);
    if (!length) return NM_OK;      /* never found; some files have such holes */
    size_t at = hash & (t->n_slots - 1);
    for (; t->slot[at].id >= 0; at = (at + 1) & (t->n_slots - 1)) {
        int32_t other = t->slot[at].id;
        if (t->slot[at].hash != hash || nm_vocab_length(t, other) != length || memcmp(nm_vocab_text(t, other), nm_vocab_text(t, i), length) != 0) continue;
        char what[80];
        snprintf(what, sizeof what, "the same text as token %d", (int)other);
        return bad(g, KEY("tokens"), (uint64_t)i, what);
    }
    t->slot[at] = (nm_slot){hash, i};
    return NM_OK;
}

static nm_err build_index(nm_tokenizer *t, const nm_gguf *g)
{
    uint32_t hash[BLOCK];
    t->n_slots = power_of_two((size_t)t->n * 3 / 2);
    t->slot = nm_calloc(t->n_slots, sizeof *t->slot);
    if (!t->slot) return nm_fail_memory(t->n_slots * sizeof *t->slot);
    memset(t->slot, 0xff, t->n_slots * sizeof *t->slot);     /* ids of -1 */
    for (int32_t from = 0; from < t->n; from += BLOCK) {
        int32_t count = t->n - from < BLOCK ? t->n - from : BLOCK;
        for (int32_t i = 0; i < count; i++) {
            hash[i] = nm_vocab_hash(nm_vocab_text(t, from + i), nm_vocab_length(t, from + i));
            nm_vocab_fetch(t, hash[i]);
        }
        for (int32_t i = 0; i < count; i++) NM_TRY(index_token(t, g, from + i, hash[i]));
    }
    return NM_OK;
}

/* ---- Bytes and merges ----------------------------------------------------------------------------------------------------- */

static void find_bytes(nm_tokenizer *t)
{
    for (int b = 0; b < 256; b++) {
        char text[8];
        int n = t->kind == NM_VOCAB_BYTES ? nm_utf8_encode(nm_byte_to_code((unsigned char)b), text) : snprintf(text, sizeof text, "<0x%02X>", (unsigned)b);
        t->byte_id[b] = nm_vocab_find(t, text, (size_t)n);
        /* DeepSeek Coder has user-defined tokens that look like the bytes which its vocabulary lacks; they stand for characters. */
        int32_t id = t->byte_id[b];
        if (t->kind == NM_VOCAB_BYTES && id >= 0 && (b < 0x80 ? !nm_vocab_plain(t, id) : t->type[id] > NM_TOKEN_NORMAL)) t->byte_id[b] = -1;
        if (t->byte_id[b] < 0) t->byte_gaps = true;
    }
}

/* A merge on its way into the table: its text, "LEFT RIGHT", and what that means. */
typedef struct reading { const char *left, *right; size_t n_left, n_right; uint32_t hash[2]; int32_t id[2], whole; } reading;

/* Splits a merge at the first space that is not its first character. */
static nm_err split_merge(const nm_tokenizer *t, const nm_gguf *g, const nm_gguf_value *merges, uint64_t i, reading *r)
{
    size_t length;
    const char *s = nm_gguf_string(g, merges, i, &length);
    const char *space = length > 2 ? memchr(s + 1, ' ', length - 2) : NULL;
    if (!space) return bad(g, KEY("merges"), i, "not two parts with a space between them");
    *r = (reading){.left = s, .right = space + 1, .n_left = (size_t)(space - s), .n_right = length - (size_t)(space - s) - 1};
    r->hash[0] = nm_vocab_hash(r->left, r->n_left);
    r->hash[1] = nm_vocab_hash(r->right, r->n_right);
    for (int k = 0; k < 2; k++) nm_vocab_fetch(t, r->hash[k]);
    return NM_OK;
}

/* The token of a merge's result. Most vocabularies list them in the order of their merges, so the one behind the last is tried first. */
static nm_err find_result(const nm_tokenizer *t, const reading *r, nm_str *joined, int32_t last, int32_t *id)
{
    *id = last + 1;
    if (*id < t->n && nm_vocab_length(t, *id) == r->n_left + r->n_right && !memcmp(nm_vocab_text(t, *id), r->left, r->n_left) &&
        !memcmp(nm_vocab_text(t, *id) + r->n_left, r->right, r->n_right)) return NM_OK;
    joined->length = 0;
    NM_TRY(nm_str_append(joined, r->left, r->n_left));
    NM_TRY(nm_str_append(joined, r->right, r->n_right));
    *id = nm_vocab_find(t, joined->data, joined->length);
    return NM_OK;
}

/* last: the result of the merge before, then of this one. */
static nm_err resolve_merge(const nm_tokenizer *t, const nm_gguf *g, uint64_t i, reading *r, nm_str *joined, int32_t *last)
{
    r->id[0] = nm_vocab_find_hashed(t, r->left, r->n_left, r->hash[0]);
    r->id[1] = nm_vocab_find_hashed(t, r->right, r->n_right, r->hash[1]);
    NM_TRY(find_result(t, r, joined, *last, &r->whole));
    if (r->id[0] < 0 || r->id[1] < 0 || r->whole < 0) return bad(g, KEY("merges"), i, "it names a token that the vocabulary does not have");
    *last = r->whole;
    nm_vocab_merge_fetch(t, r->id[0], r->id[1]);
    return NM_OK;
}

/* Merges [from, from + count). */
static nm_err read_block(nm_tokenizer *t, const nm_gguf *g, const nm_gguf_value *merges, uint64_t from, int count, nm_str *joined, int32_t *last)
{
    reading r[BLOCK];
    for (int i = 0; i < count; i++) NM_TRY(split_merge(t, g, merges, from + (uint64_t)i, &r[i]));
    for (int i = 0; i < count; i++) NM_TRY(resolve_merge(t, g, from + (uint64_t)i, &r[i], joined, last));
    for (int i = 0; i < count; i++)
        *nm_vocab_merge_slot(t, r[i].id[0], r[i].id[1]) = (nm_merge){(uint64_t)(uint32_t)r[i].id[0] << 32 | (uint32_t)r[i].id[1], (int32_t)(from + (uint64_t)i), r[i].whole};
    return NM_OK;
}

static nm_err read_merges(nm_tokenizer *t, const nm_gguf *g)
{
    const nm_gguf_value *merges;
    NM_TRY(nm_gguf_opt_array(g, KEY("merges"), NM_META_STRING, &merges));
    if (t->kind != NM_VOCAB_BYTES && t->kind != NM_VOCAB_SPM_BPE) return NM_OK;
    if (!merges) return nm_fail(NM_BAD_FILE, "%s: key " KEY("merges") " is missing; the file must be made again", nm_gguf_name(g));
    if (merges->count > INT32_MAX) return bad(g, KEY("merges"), merges->count, "more merges than can be numbered");
    t->n_merge_slots = power_of_two((size_t)merges->count * 3 / 2);
    t->merge = nm_calloc(t->n_merge_slots, sizeof *t->merge);
    if (!t->merge) return nm_fail_memory(t->n_merge_slots * sizeof *t->merge);
    memset(t->merge, 0xff, t->n_merge_slots * sizeof *t->merge);     /* ids of -1 */
    nm_str joined = {0};
    int32_t last = -1;
    nm_err err = NM_OK;
    for (uint64_t from = 0; from < merges->count && err == NM_OK; from += BLOCK)
        err = read_block(t, g, merges, from, merges->count - from < BLOCK ? (int)(merges->count - from) : BLOCK, &joined, &last);
    nm_str_free(&joined);
    return err;
}

/* ---- Special tokens ------------------------------------------------------------------------------------------------------- */

static nm_err read_id(const nm_tokenizer *t, const nm_gguf *g, const char *key, int32_t *id)
{
    int64_t value = *id;
    NM_TRY(nm_gguf_opt_i64(g, key, 0, t->n - 1, &value));
    *id = (int32_t)value;
    return NM_OK;
}

/* A well-known text that ends a turn, if it is a control token, or a user-defined one as older conversions have it. "</s>" may be plain text
 * in the latter case (Phi-3's is). */
static int32_t end_token(const nm_tokenizer *t, const char *text)
{
    int32_t id = nm_vocab_find(t, text, strlen(text));
    bool ends = id >= 0 && (t->type[id] == NM_TOKEN_CONTROL || (t->type[id] == NM_TOKEN_USER && strcmp(text, "</s>") != 0));
    return ends ? id : -1;
}

static nm_err read_special_ids(nm_tokenizer *t, const nm_gguf *g)
{
    t->bos = t->eos = t->pad = t->unk = t->sep = -1;
    if (t->kind == NM_VOCAB_SPM && t->n > 2) {      /* SentencePiece's own defaults */
        t->unk = 0;
        t->bos = 1;
        t->eos = 2;
    }
    if (t->kind == NM_VOCAB_WORDPIECE) {
        t->unk = nm_vocab_find(t, "[UNK]", 5);
        t->bos = nm_vocab_find(t, "[CLS]", 5);
        t->sep = nm_vocab_find(t, "[SEP]", 5);
        NM_TRY(read_id(t, g, KEY("cls_token_id"), &t->bos));
    }
    NM_TRY(read_id(t, g, KEY("bos_token_id"), &t->bos));
    NM_TRY(read_id(t, g, KEY("eos_token_id"), &t->eos));
    NM_TRY(read_id(t, g, KEY("padding_token_id"), &t->pad));
    NM_TRY(read_id(t, g, KEY("unknown_token_id"), &t->unk));
    NM_TRY(read_id(t, g, KEY("seperator_token_id"), &t->sep));      /* so spelt in the format */
    return read_id(t, g, KEY("separator_token_id"), &t->sep);
}

/* Tokens that end a turn or a text, whatever the keys say. */
static const char *const end_texts[] = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>",
    "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
    "<\xef\xbd\x9c" "end" NM_SPM_SPACE "of" NM_SPM_SPACE "sentence\xef\xbd\x9c>"};

static nm_err mark_ends(nm_tokenizer *t, const nm_gguf *g)
{
    int32_t id[3] = {t->eos, -1, -1};
    NM_TRY(read_id(t, g, KEY("eot_token_id"), &id[1]));
    NM_TRY(read_id(t, g, KEY("eom_token_id"), &id[2]));
    for (size_t i = 0; i < sizeof end_texts / sizeof *end_texts; i++) {
        int32_t k = end_token(t, end_texts[i]);
        if (k >= 0) t->flags[k] |= NM_TOKEN_ENDS;
    }
    /* Where a turn has parts (Harmony, Solar Open), <|end|> only ends a part. */
    int32_t part = end_token(t, "<|end|>");
    bool has_call = end_token(t, "<|call|>") >= 0 || end_token(t, "<|calls|>") >= 0;
    if (part >= 0 && has_call && (end_token(t, "<|return|>") >= 0 || end_token(t, "<|flush|>") >= 0)) t->flags[part] &= (uint8_t)~NM_TOKEN_ENDS;
    /* Gemma 4 hands a tool call over with this token, which is not typed as control. */
    int32_t response = end_token(t, "<turn|>") >= 0 ? nm_vocab_find(t, "<|tool_response>", 16) : -1;
    if (response >= 0) t->flags[response] |= NM_TOKEN_ENDS;
    for (int i = 0; i < 3; i++)
        if (id[i] >= 0) t->flags[id[i]] |= NM_TOKEN_ENDS;
    return NM_OK;
}

/* GGUF does not say which tokens swallow the white space beside them; these are the models known to have such. */
static void mark_strips(nm_tokenizer *t, const char *architecture, size_t architecture_length, const char *pre, size_t pre_length)
{
    if (t->kind == NM_VOCAB_SPM && is_text(architecture, architecture_length, "phi3")) {
        for (int32_t i = 0; i < t->n; i++) {
            const char *s = nm_vocab_text(t, i);
            bool not = !strcmp(s, "<unk>") || !strcmp(s, "<s>") || !strcmp(s, "<|endoftext|>");
            if (t->type[i] == NM_TOKEN_CONTROL && !not) t->flags[i] |= NM_ADDED_RSTRIP;
            if (t->type[i] == NM_TOKEN_USER && !strcmp(s, "</s>")) t->flags[i] |= NM_ADDED_RSTRIP;
        }
    }
    int32_t mask = nm_vocab_find(t, "<mask>", 6);
    bool roberta = is_text(pre, pre_length, "roberta-bpe") || (pre && pre_length > 6 && !memcmp(pre, "jina-v", 6));
    if (mask >= 0 && roberta) t->flags[mask] |= NM_ADDED_LSTRIP;
}

static int compare_added(const void *a, const void *b, void *arg)
{
    const nm_tokenizer *t = arg;
    return strcmp(nm_vocab_text(t, *(const int32_t *)a), nm_vocab_text(t, *(const int32_t *)b));
}

/* Tokens to be found in the text as they stand, sorted. */
static bool is_added(const nm_tokenizer *t, int32_t i)
{
    const char *s = nm_vocab_text(t, i);
    uint32_t length = nm_vocab_length(t, i);
    bool special = t->type[i] == NM_TOKEN_CONTROL || t->type[i] == NM_TOKEN_UNKNOWN;
    if (!special && t->type[i] != NM_TOKEN_USER) return false;
    if (!length || strlen(s) != length) return false;
    if (special) return true;
    if (t->kind != NM_VOCAB_SPM) return true;
    for (uint32_t k = 0; k < length; k += 3)
        if (length % 3 || memcmp(s + k, NM_SPM_SPACE, 3) != 0) return true;
    return false;       /* a run of spaces: the merges make it */
}

static nm_err list_added(nm_tokenizer *t)
{
    int32_t n = 0;
    for (int32_t i = 0; i < t->n; i++) n += is_added(t, i);
    t->added = nm_calloc((size_t)n, sizeof *t->added);
    if (!t->added) return nm_fail_memory((size_t)n * sizeof *t->added);
    for (int32_t i = 0; i < t->n; i++)
        if (is_added(t, i)) t->added[t->n_added++] = i;
    qsort_r(t->added, (size_t)n, sizeof *t->added, compare_added, t);
    for (int32_t b = 0, k = 0; b < 257; b++) {
        while (k < n && (unsigned char)nm_vocab_text(t, t->added[k])[0] < b) k++;
        t->added_from[b] = k;
    }
    return NM_OK;
}

/* ---- The whole ------------------------------------------------------------------------------------------------------------ */

static nm_err choose_kind(nm_tokenizer *t, const nm_gguf *g)
{
    const char *model;
    size_t length;
    NM_TRY(nm_gguf_get_string(g, KEY("model"), &model, &length));
    if (is_text(model, length, "gpt2")) t->kind = NM_VOCAB_BYTES;
    else if (is_text(model, length, "llama")) t->kind = NM_VOCAB_SPM;
    else if (is_text(model, length, "gemma4")) t->kind = NM_VOCAB_SPM_BPE;
    else if (is_text(model, length, "bert")) t->kind = NM_VOCAB_WORDPIECE;
    else if (is_text(model, length, "t5"))
        return nm_fail(NM_REFUSED, "%s: key " KEY("model") " is t5, a SentencePiece unigram model, which nomoat cannot read yet", nm_gguf_name(g));
    else
        return nm_fail(NM_REFUSED, "%s: key " KEY("model") " is \"%.*s\"; nomoat knows gpt2, llama, gemma4 and bert", nm_gguf_name(g),
                       (int)(length < 40 ? length : 40), model);
    return NM_OK;
}

static nm_err unknown_pre(const nm_gguf *g, const char *name, size_t length)
{
    nm_str list = {0};
    nm_err err = NM_OK;
    for (size_t i = 0; nm_pretokenizer_name(i) && err == NM_OK; i++) {
        err = nm_str_putc(&list, ' ');
        if (err == NM_OK) err = nm_str_puts(&list, nm_pretokenizer_name(i));
    }
    if (err == NM_OK)
        err = nm_fail(NM_REFUSED, "%s: key " KEY("pre") " is \"%.*s\", which nomoat does not know; it knows%s", nm_gguf_name(g),
                      (int)(length < 40 ? length : 40), name, list.data);
    nm_str_free(&list);
    return err;
}

/* How text is cut, and what goes before and behind it where the file does not say. */
static nm_err read_settings(nm_tokenizer *t, const nm_gguf *g)
{
    const char *architecture = NULL, *pre = NULL;
    size_t architecture_length = 0, pre_length = 0;
    NM_TRY(nm_gguf_opt_string(g, "general.architecture", &architecture, &architecture_length));
    NM_TRY(nm_gguf_opt_string(g, KEY("pre"), &pre, &pre_length));
    mark_strips(t, architecture, architecture_length, pre, pre_length);
    t->add_bos = t->kind != NM_VOCAB_BYTES;
    t->add_space = t->kind == NM_VOCAB_SPM;
    t->add_sep = t->kind == NM_VOCAB_WORDPIECE;
    if (t->kind == NM_VOCAB_BYTES) {
        const char *from_architecture = nm_pretokenizer_for_architecture(architecture ? architecture : "", architecture_length);
        bool unsaid = !pre || is_text(pre, pre_length, "default");
        t->pre = unsaid ? nm_pretokenizer_find(from_architecture, strlen(from_architecture)) : nm_pretokenizer_find(pre, pre_length);
        if (!t->pre) return unknown_pre(g, pre, pre_length);
        t->add_bos = t->pre->add_bos;
    }
    NM_TRY(nm_gguf_opt_bool(g, KEY("add_bos_token"), &t->add_bos));
    NM_TRY(nm_gguf_opt_bool(g, KEY("add_eos_token"), &t->add_eos));
    NM_TRY(nm_gguf_opt_bool(g, KEY("add_sep_token"), &t->add_sep));
    NM_TRY(nm_gguf_opt_bool(g, KEY("add_space_prefix"), &t->add_space));
    NM_TRY(nm_gguf_opt_bool(g, KEY("remove_extra_whitespaces"), &t->squeeze_spaces));
    if (t->kind == NM_VOCAB_SPM_BPE) t->add_bos = true;     /* many files of Gemma 4 say false; it cannot do without */
    return NM_OK;
}

static bool has_word_marks(const nm_tokenizer *t)
{
    for (int32_t i = 0; i < t->n; i++)
        if (t->type[i] == NM_TOKEN_NORMAL && !strncmp(nm_vocab_text(t, i), NM_SPM_SPACE, 3)) return true;
    return false;
}

nm_err nm_tokenizer_load(nm_tokenizer *t, const nm_gguf *gguf)
{
    const nm_gguf_value *tokens;
    NM_TRY(choose_kind(t, gguf));
    NM_TRY(find_tokens(t, gguf, &tokens));
    NM_TRY(read_types(t, gguf));
    NM_TRY(read_tokens(t, gguf, tokens));
    NM_TRY(read_scores(t, gguf));
    NM_TRY(build_index(t, gguf));
    find_bytes(t);
    NM_TRY(read_merges(t, gguf));
    NM_TRY(read_special_ids(t, gguf));
    NM_TRY(read_settings(t, gguf));
    NM_TRY(mark_ends(t, gguf));
    NM_TRY(list_added(t));
    if (t->kind == NM_VOCAB_WORDPIECE) {
        t->hash_words = !has_word_marks(t);
        if (t->unk < 0) return nm_fail(NM_BAD_FILE, "%s: the vocabulary has no [UNK] token; the file must be made again", nm_gguf_name(gguf));
    }
    return NM_OK;
}
