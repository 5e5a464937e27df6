/* Tokenizers: the ids of Hugging Face's library, llama.cpp's cases, bytes that come back as they went, and vocabularies that lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>
#include <time.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"

#include "../data/tokenizer/golden.h"
#include "../gguf_writer.c"

#define COUNT(array) (sizeof(array) / sizeof *(array))
enum { MAX_TOKENS = 600 };

/* ---- Small vocabularies ----------------------------------------------------------------------------------------------------- */

typedef struct vocab {
    char text[MAX_TOKENS][32];
    const char *token[MAX_TOKENS];
    int32_t type[MAX_TOKENS];
    float score[MAX_TOKENS];
    int n;
    const char *merge[MAX_TOKENS];
    int n_merges;
} vocab;

static int add(vocab *v, const char *text, int type, float score)
{
    snprintf(v->text[v->n], sizeof v->text[0], "%s", text);
    v->token[v->n] = v->text[v->n];
    v->type[v->n] = type;
    v->score[v->n] = score;
    return v->n++;
}

/* GPT-2's alphabet, derived here once more: printable Latin-1 as itself, the rest from U+0100 on. */
static void add_byte_alphabet(vocab *v)
{
    uint32_t next = 0x100;
    for (unsigned b = 0; b < 256; b++) {
        bool prints = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        char text[8] = {0};
        nm_utf8_encode(prints ? b : next++, text);
        add(v, text, 1, 0);
    }
}

static void make_bytes(vocab *v)
{
    static const char *const merges[] = {"a a", "aa aa", "aaaa aaaa", "h e", "l l", "he ll", "hell o", "\xc4\xa0 w", "o r", "\xc4\xa0w or", "\xc3\xa2 \xc4\x81"};
    *v = (vocab){0};
    add_byte_alphabet(v);
    for (size_t i = 0; i < COUNT(merges); i++) {
        char joined[32];
        const char *space = strchr(merges[i] + 1, ' ');
        snprintf(joined, sizeof joined, "%.*s%s", (int)(space - merges[i]), merges[i], space + 1);
        add(v, joined, 1, 0);
        v->merge[v->n_merges++] = merges[i];
    }
    add(v, "<|im_start|>", 3, 0);
    add(v, "<|im_end|>", 3, 0);
    add(v, "<|im", 3, 0);
    add(v, "<tool>", 4, 0);
    add(v, "\n\n", 4, 0);
}

static void make_spm(vocab *v)
{
    static const char *const pieces[] = {"\xe2\x96\x81h", "el", "lo", "\xe2\x96\x81hel", "\xe2\x96\x81hello", "aa", "aaaa", "\xe2\x96\x81", "a", "h", "e", "l", "o", "\xc3\xa9", "\n"};
    *v = (vocab){0};
    add(v, "<unk>", 2, 0);
    add(v, "<s>", 3, 0);
    add(v, "</s>", 3, 0);
    for (int b = 0; b < 256; b++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)b);
        add(v, text, 6, 0);
    }
    for (size_t i = 0; i < COUNT(pieces); i++) add(v, pieces[i], 1, -(float)i);
    add(v, "  ", 4, -1000);
    add(v, "   ", 4, -1000);
    add(v, "<b>", 4, -1000);
}

static void make_words(vocab *v, bool hash)
{
    static const char *const words[] = {"hello", "wor", "##ld", "##s", "!", ",", "'", "the", "\xe4\xbd\xa0", "cafe", "i", "##ng", "."};
    *v = (vocab){0};
    for (const char *const *s = (const char *const[]){"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", NULL}; *s; s++) add(v, *s, 3, 0);
    for (size_t i = 0; i < COUNT(words); i++) {
        bool inside = !strncmp(words[i], "##", 2);
        char text[32];
        snprintf(text, sizeof text, "%s%s", hash || inside ? "" : "\xe2\x96\x81", hash || !inside ? words[i] : words[i] + 2);
        add(v, text, 1, 0);
    }
}

static void write_vocab(gguf_writer *w, const vocab *v, const char *model, const char *pre)
{
    gw_string(w, "general.architecture", "llama");
    gw_string(w, "tokenizer.ggml.model", model);
    if (pre) gw_string(w, "tokenizer.ggml.pre", pre);
    gw_strings(w, "tokenizer.ggml.tokens", v->token, (uint64_t)v->n);
    gw_array(w, "tokenizer.ggml.token_type", NM_META_I32, v->type, (uint64_t)v->n);
    if (!strcmp(model, "llama")) gw_array(w, "tokenizer.ggml.scores", NM_META_F32, v->score, (uint64_t)v->n);
    if (v->n_merges) gw_strings(w, "tokenizer.ggml.merges", v->merge, (uint64_t)v->n_merges);
}

static nm_err open_bytes(nm_tokenizer **t, const void *bytes, size_t size)
{
    nm_gguf *g = NULL;
    *t = NULL;
    nm_err err = nm_gguf_open_memory(&g, bytes, size, "test.gguf", true);
    if (err == NM_OK) err = nm_tokenizer_open(t, g);
    nm_gguf_close(&g);
    return err;
}

static nm_err open_writer(nm_tokenizer **t, gguf_writer *w)
{
    size_t size;
    void *bytes = gw_finish(w, &size);
    nm_err err = open_bytes(t, bytes, size);
    free(bytes);    /* the tokenizer keeps nothing of it */
    return err;
}

static nm_tokenizer *open_vocab(const vocab *v, const char *model, const char *pre, void (*more)(gguf_writer *))
{
    gguf_writer w = {0};
    nm_tokenizer *t = NULL;
    write_vocab(&w, v, model, pre);
    if (more) more(&w);
    if (open_writer(&t, &w) != NM_OK) fail_msg("%s", nm_error_text());
    assert_non_null(t);
    return t;
}

static nm_tokenizer *open_data(const char *name)
{
    char path[1024];
    const char *folder = getenv("NOMOAT_TEST_DATA");
    if (!folder) {
        print_message("skipped: vocabularies of real models (NOMOAT_TEST_DATA is not set)\n");
        skip();
    }
    snprintf(path, sizeof path, "%s/tokenizers/ggml-vocab-%s.gguf", folder, name);
    nm_gguf *g = NULL;
    nm_tokenizer *t = NULL;
    if (nm_gguf_open(&g, path, true) != NM_OK || nm_tokenizer_open(&t, g) != NM_OK) fail_msg("%s", nm_error_text());
    nm_gguf_close(&g);
    return t;
}

/* ---- Comparing ---------------------------------------------------------------------------------------------------------------- */

static int32_t *encode(const nm_tokenizer *t, const char *text, size_t length, unsigned flags, size_t *count)
{
    int32_t *ids;
    if (nm_tokenize(t, text, length, flags, &ids, count) != NM_OK) fail_msg("%s", nm_error_text());
    return ids;
}

/* want: ids as decimal numbers, separated by spaces, up to the end of the line. */
static void expect_ids(const nm_tokenizer *t, const char *text, size_t length, unsigned flags, const char *want, const char *where)
{
    size_t count, i = 0;
    int32_t *ids = encode(t, text, length, flags, &count);
    for (char *end;; want = end, i++) {
        while (*want == ' ') want++;
        if (!*want || *want == '\n') break;
        long id = strtol(want, &end, 10);
        if (i >= count || ids[i] != id) fail_msg("%s, text \"%.60s\": id %zu is %d, expected %ld", where, text, i, i < count ? (int)ids[i] : -1, id);
    }
    if (i != count) fail_msg("%s, text \"%.60s\": %zu ids, expected %zu", where, text, count, i);
    nm_free(ids);
}

/* The same by the tokens' texts, separated by |. */
static void expect_tokens(const nm_tokenizer *t, const char *text, unsigned flags, const char *want)
{
    size_t count;
    int32_t *ids = encode(t, text, strlen(text), flags, &count);
    nm_str got = {0};
    assert_int_equal(nm_str_puts(&got, ""), NM_OK);
    for (size_t i = 0; i < count; i++) assert_int_equal(nm_str_printf(&got, "%s%s", i ? "|" : "", nm_token_raw(t, ids[i])), NM_OK);
    assert_string_equal(got.data, want);
    nm_str_free(&got);
    nm_free(ids);
}

static void expect_text(const nm_tokenizer *t, const int32_t *ids, size_t count, unsigned flags, const char *want, size_t want_length)
{
    char *text;
    size_t length;
    if (nm_detokenize(t, ids, count, flags, &text, &length) != NM_OK) fail_msg("%s", nm_error_text());
    assert_int_equal(length, want_length);
    assert_memory_equal(text, want, length);
    assert_int_equal(text[length], 0);
    nm_free(text);
}

/* Streamed pieces are whole characters wherever the text has any, and add up to the text. */
static void expect_stream(const nm_tokenizer *t, const int32_t *ids, size_t count, unsigned flags, const char *want, size_t want_length)
{
    nm_decoder *d;
    nm_str all = {0};
    assert_int_equal(nm_decoder_open(&d, t, flags), NM_OK);
    assert_int_equal(nm_str_append(&all, "", 0), NM_OK);
    for (size_t i = 0; i <= count; i++) {
        const char *text;
        size_t length, before = all.length;
        assert_int_equal(nm_decoder_push(d, i < count ? ids[i] : -1, &text, &length), NM_OK);
        assert_int_equal(nm_str_append(&all, text, length), NM_OK);
        /* No cut inside a valid character: one that begins before the cut and ends behind it. */
        for (size_t k = 1; k <= 3 && k <= before && i < count; k++) {
            int used;
            if (nm_utf8_decode(want + before - k, want_length - (before - k), &used) >= 0) assert_true((size_t)used <= k);
        }
    }
    assert_int_equal(all.length, want_length);
    assert_memory_equal(all.data, want, want_length);
    nm_str_free(&all);
    nm_decoder_close(&d);
    assert_null(d);
}

static void expect_round_trip(const nm_tokenizer *t, const char *text, size_t length)
{
    size_t count;
    int32_t *ids = encode(t, text, length, 0, &count);
    expect_text(t, ids, count, 0, text, length);
    expect_stream(t, ids, count, 0, text, length);
    nm_free(ids);
}

/* ---- Against the reference ---------------------------------------------------------------------------------------------------- */

typedef struct lengths { size_t at[4096]; size_t n; } lengths;
static nm_err note_length(void *arg, const char *piece, size_t length)
{
    lengths *l = arg;
    (void)piece;
    assert_true(l->n < COUNT(l->at));
    l->at[l->n++] = length;
    return NM_OK;
}

static void test_golden_pieces(void **state)
{
    static lengths got;
    for (size_t p = 0; p < COUNT(golden_pieces); p++) {
        const nm_pretokenizer *how = nm_pretokenizer_find(golden_pieces[p].name, strlen(golden_pieces[p].name));
        assert_non_null(how);
        for (int i = 0; i < N_TEXTS; i++) {
            got.n = 0;
            assert_int_equal(nm_pretokenize(how, golden_texts[i].bytes, golden_texts[i].length, note_length, &got), NM_OK);
            const char *want = golden_pieces[p].lengths[i];
            for (size_t k = 0; k < got.n; k++) {
                char *end;
                if (strtoul(want, &end, 10) != got.at[k]) fail_msg("%s, text %d, piece %zu: %zu bytes, expected%s", golden_pieces[p].name, i, k, got.at[k], want);
                want = end;
            }
            assert_string_equal(want, "");
        }
    }
}

static void test_golden_ids(void **state)
{
    for (size_t v = 0; v < COUNT(golden_ids); v++) {
        nm_tokenizer *t = open_data(golden_ids[v].vocabulary);
        for (int i = 0; i < N_TEXTS; i++) expect_ids(t, golden_texts[i].bytes, golden_texts[i].length, 0, golden_ids[v].ids[i], golden_ids[v].vocabulary);
        nm_tokenizer_close(&t);
        assert_null(t);
    }
}

static char *read_file(const char *vocabulary, const char *suffix, size_t *size)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/tokenizers/ggml-vocab-%s.gguf%s", getenv("NOMOAT_TEST_DATA"), vocabulary, suffix);
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("%s cannot be opened", path);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    char *text = malloc(*size + 1);
    assert_int_equal(fread(text, 1, *size, f), *size);
    fclose(f);
    text[*size] = 0;
    return text;
}

/* The texts and ids that come with llama.cpp's vocabularies. */
static void test_llama_cpp_cases(void **state)
{
    static const char *const names[] = {"bert-bge", "deepseek-coder", "gemma-4", "gpt-2", "llama-bpe", "llama-spm", "mpt", "phi-3", "qwen2", "refact"};
    static const char line[] = "\n__ggml_vocab_test__\n";
    for (size_t v = 0; v < COUNT(names); v++) {
        nm_tokenizer *t = open_data(names[v]);
        size_t size;
        char *inp = read_file(names[v], ".inp", &size), *out = read_file(names[v], ".out", &size);
        const char *text = inp, *want = out;
        int cases = 0;
        for (char *end; want && *want; cases++) {
            end = strstr(text, line);
            size_t length = end ? (size_t)(end - text) : strlen(text);
            expect_ids(t, text, length, 0, want, names[v]);
            if (strcmp(names[v], "bert-bge") != 0) expect_round_trip(t, text, length);
            want = strchr(want, '\n');
            if (want) want++;
            if (!end) { cases++; break; }
            text = end + sizeof line - 1;
        }
        assert_true(cases >= 40);
        free(inp);
        free(out);
        nm_tokenizer_close(&t);
    }
}

/* ---- Where tokens begin --------------------------------------------------------------------------------------------------------- */

/* Each token stands for the text from where it begins to where the next one does. */
static void expect_starts(const nm_tokenizer *t, const char *text, size_t length, const char *what)
{
    int32_t *ids, *plain;
    uint32_t *starts;
    size_t n, n_plain;
    assert_int_equal(nm_tokenize_starts(t, text, length, NM_TEXT_SPECIAL, &ids, &starts, &n), NM_OK);
    assert_int_equal(nm_tokenize(t, text, length, NM_TEXT_SPECIAL, &plain, &n_plain), NM_OK);
    assert_int_equal(n, n_plain);
    assert_memory_equal(ids, plain, n * sizeof *ids);
    for (size_t i = 0; i < n; i++) {
        char *got;
        size_t got_length, from = starts[i], to = i + 1 < n ? starts[i + 1] : length;
        assert_true(from <= to && to <= length);
        assert_int_equal(nm_detokenize(t, ids + i, 1, NM_TEXT_SPECIAL, &got, &got_length), NM_OK);
        if (from < to && (got_length != to - from || memcmp(got, text + from, got_length))) {
            bool space = got_length + 1 == to - from && text[from] == ' ';      /* the decoder takes a first space for the encoder's */
            if (!space || memcmp(got, text + from + 1, got_length))
                fail_msg("%s: token %zu is \"%s\", the text there \"%.*s\"", what, i, got, (int)(to - from), text + from);
        }
        nm_free(got);
    }
    nm_free(ids);
    nm_free(plain);
    nm_free(starts);
}

static void test_starts(void **state)
{
    static const char *const names[] = {"qwen2", "llama-bpe", "gpt-2", "llama-spm", "phi-3", "gemma-4", "deepseek-coder"};
    static const char *const texts[] = {"Hello, World!  two\n\n three", " lead", "Z\xc3\xbcrich \xf0\x9f\x98\x80 \xe4\xbd\xa0\xe5\xa5\xbd.", "a", "", "   ",
                                        "<|im_start|>user\nhi<|im_end|>\nok", "1234567 12.5%"};
    for (size_t v = 0; v < COUNT(names); v++) {
        nm_tokenizer *t = open_data(names[v]);
        for (size_t i = 0; i < COUNT(texts); i++) expect_starts(t, texts[i], strlen(texts[i]), names[v]);
        nm_tokenizer_close(&t);
    }
}

/* Normal form melts "e" and an accent into one character: it begins where they do, and what follows is not shifted. */
static void test_starts_under_nfc(void **state)
{
    static const char text[] = "caf\x65\xcc\x81 x";
    nm_tokenizer *t = open_data("qwen2");
    int32_t *ids;
    uint32_t *starts;
    size_t n;
    assert_int_equal(nm_tokenize_starts(t, text, sizeof text - 1, 0, &ids, &starts, &n), NM_OK);
    assert_true(n >= 2);
    assert_int_equal(starts[0], 0);
    assert_int_equal(starts[n - 1], 6);     /* " x" */
    nm_free(ids);
    nm_free(starts);
    nm_tokenizer_close(&t);
}

/* BOS exactly once, whoever puts it, and nothing behind. */
static void test_prompts(void **state)
{
    nm_tokenizer *t = open_data("llama-spm");
    static const char *const texts[] = {"Hi", "<s>Hi"};
    for (size_t i = 0; i < COUNT(texts); i++) {
        size_t n;
        int32_t *ids = encode(t, texts[i], strlen(texts[i]), NM_TEXT_PROMPT, &n);
        assert_int_equal(ids[0], nm_token_bos(t));
        assert_int_equal(n, 2);
        nm_free(ids);
    }
    nm_tokenizer_close(&t);
}

/* ---- Bytes ------------------------------------------------------------------------------------------------------------------- */

static void any_bytes(const nm_tokenizer *t)
{
    static char text[2000];
    for (int b = 0; b < 256; b++) {
        char one[3] = {'a', (char)b, 'b'};
        expect_round_trip(t, one + 1, 1);
        expect_round_trip(t, one, 3);
    }
    for (uint64_t k = 0; k < 40; k++) {
        size_t length = (size_t)(nm_rng_u64(5, k, 0) % sizeof text);
        for (size_t i = 0; i < length; i++) {
            uint64_t r = nm_rng_u64(5, k, i + 1);
            text[i] = r % 3 ? "\xe2\x82\xac\xf0\x9f\x98\x80\xc3 a\n"[r / 3 % 11] : (char)(r >> 32);
        }
        expect_round_trip(t, text, length);
    }
    expect_round_trip(t, NULL, 0);
}

static void no_prefix(gguf_writer *w) { gw_bool(w, "tokenizer.ggml.add_space_prefix", false); }

static void test_any_bytes_come_back(void **state)
{
    static const char *const pres[] = {"gpt-2", "llama-bpe", "gpt-4o", "deepseek-v3", "deepseek-llm", "falcon", "bloom", "refact", "kimi-k2", "tiny_aya"};
    static vocab v;
    make_bytes(&v);
    for (size_t i = 0; i < COUNT(pres); i++) {
        nm_tokenizer *t = open_vocab(&v, "gpt2", pres[i], NULL);
        any_bytes(t);
        nm_tokenizer_close(&t);
    }
    make_spm(&v);
    nm_tokenizer *t = open_vocab(&v, "llama", NULL, NULL);
    any_bytes(t);
    nm_tokenizer_close(&t);
    t = open_vocab(&v, "llama", NULL, no_prefix);
    any_bytes(t);
    nm_tokenizer_close(&t);
}

static void test_missing_bytes(void **state)
{
    static vocab v;
    make_bytes(&v);
    v.type[0xf5] = 4;       /* now a token for the character that GPT-2 writes this byte as */
    snprintf(v.text[0x13], sizeof v.text[0], "gone");
    nm_tokenizer *t = open_vocab(&v, "gpt2", "gpt-2", NULL);
    expect_tokens(t, "\xc3\xb5", 0, "\xc3\xb5");                                /* the character, found as it stands */
    expect_tokens(t, "\xf5", 0, "\xc3\xaf|\xc2\xbf|\xc2\xbd");                  /* the byte: U+FFFD */
    expect_tokens(t, "a\x13" "b", 0, "a|b");                                    /* as the reference: nothing */
    nm_tokenizer_close(&t);
}

/* ---- Special tokens ------------------------------------------------------------------------------------------------------------ */

static void chat_keys(gguf_writer *w)
{
    gw_u32(w, "tokenizer.ggml.bos_token_id", 267);
    gw_u32(w, "tokenizer.ggml.eos_token_id", 'z');
    gw_u32(w, "tokenizer.ggml.padding_token_id", 0);
    gw_bool(w, "tokenizer.ggml.add_bos_token", true);
    gw_bool(w, "tokenizer.ggml.add_eos_token", true);
}

static void test_special_tokens(void **state)
{
    static vocab v;
    make_bytes(&v);
    nm_tokenizer *t = open_vocab(&v, "gpt2", "gpt-2", chat_keys);
    expect_tokens(t, "<|im_start|>hello", NM_TEXT_SPECIAL, "<|im_start|>|hello");
    expect_tokens(t, "<|im_end|><|im_endless", NM_TEXT_SPECIAL, "<|im_end|>|<|im|_|e|n|d|l|e|s|s");     /* the longest first */
    expect_tokens(t, "<|im", 0, "<|||i|m");
    expect_tokens(t, "hello<tool>\n\n\n", 0, "hello|<tool>|\n\n|\xc4\x8a");                             /* always */
    expect_tokens(t, "a", NM_TEXT_BOS, "<|im_start|>|a|z");
    expect_tokens(t, "a", NM_TEXT_FORCE_BOS, "<|im_start|>|a");
    expect_tokens(t, "", NM_TEXT_BOS, "<|im_start|>|z");
    static const int32_t ids[] = {267, 262, 270, 268};
    expect_text(t, ids, 4, 0, "hello<tool>", 11);
    expect_text(t, ids, 4, NM_TEXT_SPECIAL, "<|im_start|>hello<tool><|im_end|>", 33);
    assert_int_equal(nm_token_bos(t), 267);
    assert_int_equal(nm_token_eos(t), 'z');
    assert_int_equal(nm_token_pad(t), 0);
    assert_int_equal(nm_token_unk(t), -1);
    assert_int_equal(nm_token_count(t), v.n);
    assert_true(nm_token_ends(t, 268) && nm_token_ends(t, 'z') && !nm_token_ends(t, 267) && !nm_token_ends(t, -1) && !nm_token_ends(t, v.n));
    assert_true(nm_token_is_control(t, 267) && !nm_token_is_control(t, 270) && !nm_token_is_control(t, 1 << 30));
    assert_string_equal(nm_token_raw(t, -1), "");
    nm_tokenizer_close(&t);
    t = open_vocab(&v, "gpt2", "gpt-2", NULL);
    expect_tokens(t, "a", NM_TEXT_BOS | NM_TEXT_FORCE_BOS, "a");
    nm_tokenizer_close(&t);
}

/* Harmony's <|end|> only ends a part of a turn. */
static void test_parts_of_turns(void **state)
{
    static vocab v;
    make_bytes(&v);
    int end = add(&v, "<|end|>", 3, 0), back = add(&v, "<|return|>", 3, 0), call = add(&v, "<|call|>", 3, 0);
    nm_tokenizer *t = open_vocab(&v, "gpt2", "gpt-4o", NULL);
    assert_true(!nm_token_ends(t, end) && nm_token_ends(t, back) && nm_token_ends(t, call));
    nm_tokenizer_close(&t);
    v.n -= 2;
    t = open_vocab(&v, "gpt2", "gpt-4o", NULL);
    assert_true(nm_token_ends(t, end));
    nm_tokenizer_close(&t);
}

static void test_phi3_strips(void **state)
{
    nm_tokenizer *t = open_data("phi-3");
    expect_tokens(t, "<|user|> \n\nHi<|end|>\n<|assistant|>", NM_TEXT_SPECIAL, "<|user|>|\xe2\x96\x81Hi|<|end|>|<|assistant|>");
    assert_true(nm_token_ends(t, 32007) && nm_token_ends(t, 32000) && !nm_token_ends(t, 2));
    nm_tokenizer_close(&t);
}

/* ---- SentencePiece and WordPiece ------------------------------------------------------------------------------------------------- */

static void squeeze(gguf_writer *w) { gw_bool(w, "tokenizer.ggml.remove_extra_whitespaces", true); }

static void test_sentencepiece(void **state)
{
    static vocab v;
    make_spm(&v);
    nm_tokenizer *t = open_vocab(&v, "llama", "default", NULL);
    expect_tokens(t, "hello", 0, "\xe2\x96\x81hello");
    expect_tokens(t, "", 0, "");
    expect_tokens(t, "hello", NM_TEXT_BOS, "<s>|\xe2\x96\x81hello");
    expect_tokens(t, "</s>hello", NM_TEXT_SPECIAL, "</s>|\xe2\x96\x81hello");
    expect_tokens(t, "x\xc3\xa9", 0, "\xe2\x96\x81|<0x78>|\xc3\xa9");
    expect_tokens(t, "aaaaaa", 0, "\xe2\x96\x81|aaaa|aa");
    expect_tokens(t, "<b>hello", 0, "<b>|\xe2\x96\x81hello");
    expect_tokens(t, "   a", 0, "\xe2\x96\x81\xe2\x96\x81\xe2\x96\x81|\xe2\x96\x81|a");    /* runs of spaces before all others */
    size_t count;
    int32_t *ids = encode(t, "hello a", 7, 0, &count);
    expect_text(t, ids, count, 0, "hello a", 7);
    expect_text(t, ids, count, NM_TEXT_CONTINUES, " hello a", 8);   /* "aa" + " hello a" */
    expect_stream(t, ids, count, NM_TEXT_CONTINUES, " hello a", 8);
    nm_free(ids);
    nm_tokenizer_close(&t);
    t = open_vocab(&v, "llama", "default", squeeze);
    expect_tokens(t, "  hello   a ", 0, "\xe2\x96\x81hello|\xe2\x96\x81|a");
    nm_tokenizer_close(&t);
    for (int b = 0; b < 256; b++) v.type[3 + b] = 5;        /* bytes that are not to be used */
    for (int b = 0; b < 256; b++) snprintf(v.text[3 + b], sizeof v.text[0], "unused%d", b);
    t = open_vocab(&v, "llama", "default", NULL);
    expect_tokens(t, "xyzax", 0, "\xe2\x96\x81|<unk>|a|<unk>");
    nm_tokenizer_close(&t);
}

static void test_wordpiece(void **state)
{
    static vocab v;
    for (int hash = 0; hash < 2; hash++) {
        make_words(&v, hash);
        nm_tokenizer *t = open_vocab(&v, "bert", NULL, NULL);
        expect_ids(t, "HELLO, worlds!", 14, 0, "5 10 6 7 8 9", "bert");
        expect_ids(t, "Caf\xc3\xa9 \xe4\xbd\xa0\xe4\xbd\xa0 xyz", 17, 0, "14 13 13 1", "bert");
        expect_ids(t, "the [MASK]", 10, NM_TEXT_SPECIAL | NM_TEXT_BOS, "2 12 4 3", "bert");
        expect_ids(t, "\xe2\x96\x81the hello\xe2\x96\x81the", 18, 0, "1 1", "bert");
        expect_ids(t, "in\x01g\tings\xff", 10, 0, "15 16 15 16 8", "bert");
        static const int32_t ids[] = {2, 5, 10, 6, 7, 8, 9, 3};
        expect_text(t, ids, 8, 0, "hello, worlds!", 14);
        expect_stream(t, ids, 8, 0, "hello, worlds!", 14);
        expect_text(t, ids, 8, NM_TEXT_CONTINUES, " hello, worlds!", 15);
        nm_tokenizer_close(&t);
    }
}

/* ---- Files that lie --------------------------------------------------------------------------------------------------------------- */

static void expect_refused(gguf_writer *w, nm_err code, const char *expected)
{
    nm_tokenizer *t = (nm_tokenizer *)1;
    size_t size;
    void *bytes = gw_finish(w, &size);
    int64_t alive = nm_mem_alive();
    nm_err err = open_bytes(&t, bytes, size);
    if (err != code || !strstr(nm_error_text(), expected) || !strstr(nm_error_text(), "test.gguf"))
        fail_msg("expected code %d and \"%s\", got code %d, %s", code, expected, err, nm_error_text());
    assert_null(t);
    assert_int_equal(nm_mem_alive(), alive);
    free(bytes);
}

static void test_bad_tokens(void **state)
{
    static vocab v;
    gguf_writer w = {0};
    gw_string(&w, "tokenizer.ggml.model", "gpt2");
    expect_refused(&w, NM_BAD_FILE, "tokenizer.ggml.tokens is missing");
    gw_strings(&w, "tokenizer.ggml.tokens", (const char *const[]){"a"}, 1);
    expect_refused(&w, NM_BAD_FILE, "tokenizer.ggml.model");
    gw_string(&w, "tokenizer.ggml.model", "gpt2");
    gw_strings(&w, "tokenizer.ggml.tokens", NULL, 0);
    expect_refused(&w, NM_BAD_FILE, "tokenizer.ggml.tokens is empty");
    make_bytes(&v);
    v.token[300 - 40] = "\xff\xfe";
    write_vocab(&w, &v, "gpt2", "gpt-2");
    expect_refused(&w, NM_BAD_FILE, "tokens, item 260: the token is not valid UTF-8");
    make_bytes(&v);
    v.token[70] = v.token[60];
    write_vocab(&w, &v, "gpt2", "gpt-2");
    expect_refused(&w, NM_BAD_FILE, "tokens, item 70: the same text as token 60");
    make_bytes(&v);
    v.type[5] = 7;
    write_vocab(&w, &v, "gpt2", "gpt-2");
    expect_refused(&w, NM_BAD_FILE, "token_type, item 5");
    v.type[5] = -1;
    write_vocab(&w, &v, "gpt2", "gpt-2");
    expect_refused(&w, NM_BAD_FILE, "token_type, item 5");
    make_words(&v, true);
    v.token[1] = "[NOT]";
    write_vocab(&w, &v, "bert", NULL);
    expect_refused(&w, NM_BAD_FILE, "[UNK]");
}

static void test_bad_lengths(void **state)
{
    static vocab v;
    for (int wrong = -1; wrong <= 1; wrong += 2) {
        gguf_writer w = {0};
        make_spm(&v);
        gw_string(&w, "tokenizer.ggml.model", "llama");
        gw_strings(&w, "tokenizer.ggml.tokens", v.token, (uint64_t)v.n);
        gw_array(&w, "tokenizer.ggml.scores", NM_META_F32, v.score, (uint64_t)(v.n + wrong));
        expect_refused(&w, NM_BAD_FILE, "tokenizer.ggml.scores has");
        gw_string(&w, "tokenizer.ggml.model", "llama");
        gw_strings(&w, "tokenizer.ggml.tokens", v.token, (uint64_t)v.n);
        gw_array(&w, "tokenizer.ggml.token_type", NM_META_I32, v.type, (uint64_t)(v.n + wrong));
        expect_refused(&w, NM_BAD_FILE, "tokenizer.ggml.token_type has");
        gw_string(&w, "tokenizer.ggml.model", "llama");
        gw_strings(&w, "tokenizer.ggml.tokens", v.token, (uint64_t)v.n);
        expect_refused(&w, NM_BAD_FILE, "tokenizer.ggml.scores is missing");
        v.score[9] = wrong > 0 ? NAN : INFINITY;
        write_vocab(&w, &v, "llama", NULL);
        expect_refused(&w, NM_BAD_FILE, "scores, item 9");
    }
    gguf_writer w = {0};
    gw_string(&w, "tokenizer.ggml.model", "llama");
    gw_array(&w, "tokenizer.ggml.tokens", NM_META_F32, v.score, 3);
    expect_refused(&w, NM_BAD_FILE, "tokenizer.ggml.tokens");
    gw_string(&w, "tokenizer.ggml.model", "llama");
    gw_strings(&w, "tokenizer.ggml.tokens", v.token, (uint64_t)v.n);
    gw_strings(&w, "tokenizer.ggml.scores", v.token, (uint64_t)v.n);
    expect_refused(&w, NM_BAD_FILE, "tokenizer.ggml.scores");
}

static void test_bad_merges(void **state)
{
    static const char *const merges[] = {"", " ", "a", "aa", " a", "a ", "nosuch a", "a nosuch", "a z", "a b c", "\xff a", "a  a"};
    static vocab v;
    for (size_t i = 0; i < COUNT(merges); i++) {
        gguf_writer w = {0};
        make_bytes(&v);
        v.merge[3] = merges[i];
        write_vocab(&w, &v, "gpt2", "gpt-2");
        expect_refused(&w, NM_BAD_FILE, "merges, item 3");
    }
    gguf_writer w = {0};
    make_bytes(&v);
    v.n_merges = 0;
    write_vocab(&w, &v, "gpt2", "gpt-2");
    expect_refused(&w, NM_BAD_FILE, "merges is missing");
}

static void test_bad_ids(void **state)
{
    static const char *const keys[] = {"bos", "eos", "padding", "unknown", "seperator", "eot", "eom"};
    static vocab v;
    make_bytes(&v);
    for (size_t i = 0; i < COUNT(keys); i++)
        for (int k = 0; k < 3; k++) {
            char key[64];
            gguf_writer w = {0};
            snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", keys[i]);
            write_vocab(&w, &v, "gpt2", "gpt-2");
            if (k == 0) gw_u32(&w, key, (uint32_t)v.n);
            else if (k == 1) gw_i32(&w, key, -1);
            else gw_u64(&w, key, UINT64_MAX);
            expect_refused(&w, NM_BAD_FILE, key);
        }
}

static void test_unknown_kinds(void **state)
{
    static const char *const models[] = {"t5", "rwkv", "plamo2", "", "gpt2 "};
    static vocab v;
    make_bytes(&v);
    for (size_t i = 0; i < COUNT(models); i++) {
        gguf_writer w = {0};
        write_vocab(&w, &v, models[i], "gpt-2");
        expect_refused(&w, NM_REFUSED, "tokenizer.ggml.model");
    }
    gguf_writer w = {0};
    write_vocab(&w, &v, "gpt2", "no-such-thing");
    expect_refused(&w, NM_REFUSED, "qwen2");
    for (size_t i = 0; nm_pretokenizer_name(i); i++) {      /* every name it lists, it takes */
        nm_tokenizer *t = open_vocab(&v, "gpt2", nm_pretokenizer_name(i), NULL);
        nm_tokenizer_close(&t);
    }
    static const char *const none[] = {"none", "no_vocab"};
    for (size_t i = 0; i < COUNT(none); i++) {
        nm_tokenizer *t = (nm_tokenizer *)1;
        gw_string(&w, "tokenizer.ggml.model", none[i]);
        assert_int_equal(open_writer(&t, &w), NM_OK);
        assert_null(t);
    }
    nm_tokenizer *t = (nm_tokenizer *)1;
    assert_int_equal(open_writer(&t, &w), NM_OK);
    assert_null(t);
}

static void test_bad_calls(void **state)
{
    static vocab v;
    make_bytes(&v);
    nm_tokenizer *t = open_vocab(&v, "gpt2", "gpt-2", NULL);
    char *text;
    const char *piece;
    size_t length;
    nm_decoder *d;
    assert_int_equal(nm_decoder_open(&d, t, 0), NM_OK);
    for (int i = 0; i < 3; i++) {
        int32_t id = (int32_t[]){-1, v.n, INT32_MAX}[i];
        assert_int_equal(nm_detokenize(t, &id, 1, 0, &text, &length), NM_USAGE);
        assert_null(text);
        if (id > 0) assert_int_equal(nm_decoder_push(d, id, &piece, &length), NM_USAGE);
    }
    assert_int_equal(nm_decoder_push(d, 0xe2, &piece, &length), NM_OK);     /* half a character stays in */
    assert_int_equal(length, 0);
    assert_int_equal(nm_decoder_push(d, v.n, &piece, &length), NM_USAGE);
    assert_int_equal(nm_decoder_push(d, -1, &piece, &length), NM_OK);       /* and comes out raw */
    assert_int_equal(length, 1);
    assert_int_equal(nm_decoder_push(d, -1, &piece, &length), NM_OK);
    assert_int_equal(length, 0);
    nm_decoder_close(&d);
    nm_decoder_close(&d);
    int32_t *ids;
    assert_int_equal(nm_tokenize(t, "", ((size_t)1 << 30) + 1, 0, &ids, &length), NM_USAGE);
    nm_tokenizer_close(&t);
    nm_tokenizer_close(&t);
}

/* ---- Memory and work ----------------------------------------------------------------------------------------------------------- */

static nm_err use_all(const void *bytes, size_t size)
{
    static const char text[] = "<|im_start|>hello wor aaaa o\xcc\x88\xf5 [MASK]</s>  x";
    nm_tokenizer *t = NULL;
    int32_t *ids = NULL;
    nm_decoder *d = NULL;
    char *back = NULL;
    const char *piece;
    size_t count, length;
    nm_err err = open_bytes(&t, bytes, size);
    if (err == NM_OK) err = nm_tokenize(t, text, sizeof text - 1, NM_TEXT_SPECIAL | NM_TEXT_BOS, &ids, &count);
    if (err == NM_OK) err = nm_detokenize(t, ids, count, NM_TEXT_SPECIAL, &back, &length);
    if (err == NM_OK) err = nm_decoder_open(&d, t, 0);
    for (size_t i = 0; err == NM_OK && i < count; i++) err = nm_decoder_push(d, ids[i], &piece, &length);
    nm_decoder_close(&d);
    nm_free(back);
    nm_free(ids);
    nm_tokenizer_close(&t);
    return err;
}

static void test_failing_allocations(void **state)
{
    static vocab v;
    static const char *const models[] = {"gpt2", "llama", "bert"};
    for (size_t m = 0; m < COUNT(models); m++) {
        gguf_writer w = {0};
        size_t size;
        if (m == 0) make_bytes(&v);
        else if (m == 1) make_spm(&v);
        else make_words(&v, true);
        write_vocab(&w, &v, models[m], m ? NULL : "qwen2");
        void *bytes = gw_finish(&w, &size);
        int64_t alive = nm_mem_alive();
        nm_err err = NM_NO_MEMORY;
        for (int64_t n = 0; err != NM_OK; n++) {
            nm_mem_fail_after(n);
            err = use_all(bytes, size);
            nm_mem_fail_after(-1);
            if (err != NM_OK && err != NM_NO_MEMORY) fail_msg("allocation %d: code %d, %s", (int)n, err, nm_error_text());
            assert_int_equal(nm_mem_alive(), alive);
        }
        free(bytes);
    }
}

enum { MEGABYTE = 1 << 20, PART = 1 << 17 };

/* Encodes a unit repeated to about `size` bytes (NULL: random bytes) and holds the work to n log n. Returns steps a byte. */
static double encode_much(const nm_tokenizer *t, size_t size, const char *unit, size_t unit_length)
{
    static char text[MEGABYTE];
    size_t length = size / unit_length * unit_length, count;
    for (size_t i = 0; i < length; i++) text[i] = unit ? unit[i % unit_length] : (char)nm_rng_u64(7, 0, i);
    int32_t *ids;
    uint64_t steps;
    if (nm_tokenize_counted(t, text, length, NM_TEXT_SPECIAL, &ids, &count, &steps) != NM_OK) fail_msg("%s", nm_error_text());
    assert_true((double)steps < 4 * (double)length * log2((double)size));
    nm_free(ids);
    return (double)steps / (double)length;
}

/* Prints the time, which is not tested. */
static void hostile_texts(const nm_tokenizer *t, const char *name, size_t size)
{
    static const char *const units[] = {"a", " ", "\n", "7", "!", "'", "<|im", "\xf0\x9f\x98\x80", "\xe6\xbc\xa2", "\xcc\x81\xcc\xa3", "aA", "the quick brown fox "};
    double most = encode_much(t, size, NULL, 1);
    clock_t before = clock();
    for (size_t i = 0; i < COUNT(units); i++) most = fmax(most, encode_much(t, size, units[i], strlen(units[i])));
    double seconds = (double)(clock() - before) / CLOCKS_PER_SEC;
    print_message("%s: %.1f steps a byte at most, %.2f s a megabyte\n", name, most, seconds / COUNT(units) * MEGABYTE / (double)size);
}

static void test_work_of_a_megabyte(void **state)
{
    static vocab v;
    static const char *const pres[] = {"gpt-2", "qwen2", "tekken", "deepseek-llm", "tiny_aya", "bloom"};
    make_bytes(&v);
    for (size_t i = 0; i < COUNT(pres); i++) {
        nm_tokenizer *t = open_vocab(&v, "gpt2", pres[i], NULL);
        hostile_texts(t, pres[i], i ? PART : MEGABYTE);
        nm_tokenizer_close(&t);
    }
    make_spm(&v);
    nm_tokenizer *t = open_vocab(&v, "llama", NULL, NULL);
    hostile_texts(t, "llama", MEGABYTE);
    nm_tokenizer_close(&t);
    make_words(&v, true);
    t = open_vocab(&v, "bert", NULL, NULL);
    hostile_texts(t, "bert", MEGABYTE);
    nm_tokenizer_close(&t);
}

static void test_work_with_real_vocabularies(void **state)
{
    static const char *const names[] = {"refact", "llama-bpe", "llama-spm", "gemma-4"};
    for (size_t i = 0; i < COUNT(names); i++) {
        nm_tokenizer *t = open_data(names[i]);
        hostile_texts(t, names[i], i ? PART : MEGABYTE);
        nm_tokenizer_close(&t);
    }
}

static void assert_within(const nm_tokenizer *t, const char *text, size_t length, unsigned flags, size_t most)
{
    nm_tokenize_options o = {.most = most};
    int32_t *all, *ids;
    size_t n, count;
    assert_int_equal(nm_tokenize(t, text, length, flags, &all, &n), NM_OK);
    assert_int_equal(nm_tokenize_within(t, text, length, flags, &o, &ids, &count), NM_OK);
    if (most && n > most) {
        assert_null(ids);
        assert_true(count > most && count <= n);
    } else {
        assert_int_equal(count, n);
        assert_memory_equal(ids, all, n * sizeof *ids);
    }
    nm_free(all);
    nm_free(ids);
}

/* A bound stops what exceeds it, and changes nothing of what does not. */
static void texts_within(const nm_tokenizer *t)
{
    static const char *const units[] = {"a", " ", "<|im_start|>", "\xe6\xbc\xa2", "\xff", "the quick brown fox ", "a\xcc\x81 "};
    static const size_t bounds[] = {0, 1, 2, 3, 100, 1000, 4095, 4096, 100000};
    static char text[3 * 4096];
    for (size_t u = 0; u < COUNT(units); u++) {
        size_t n = strlen(units[u]), length = sizeof text / n * n;
        for (size_t i = 0; i < length; i++) text[i] = units[u][i % n];
        for (size_t b = 0; b < COUNT(bounds); b++) {
            assert_within(t, text, length, 0, bounds[b]);
            assert_within(t, text, length, NM_TEXT_PROMPT, bounds[b]);
            assert_within(t, text, bounds[b] % sizeof text / n * n, NM_TEXT_BOS, 1 + bounds[b] / 2);
        }
    }
    const volatile sig_atomic_t cancel = 1;
    int32_t *ids;
    size_t count;
    assert_int_equal(nm_tokenize_within(t, "a b", 3, 0, &(nm_tokenize_options){.cancel = &cancel}, &ids, &count), NM_INTERRUPTED);
    assert_null(ids);
    assert_int_equal(count, 0);
}

static void test_within(void **state)
{
    static const char *const names[] = {"refact", "llama-bpe", "llama-spm", "gemma-4"};
    static vocab v;
    for (size_t i = 0; i < COUNT(names); i++) {
        nm_tokenizer *t = open_data(names[i]);
        texts_within(t);
        nm_tokenizer_close(&t);
    }
    make_spm(&v);
    nm_tokenizer *t = open_vocab(&v, "llama", NULL, NULL);
    texts_within(t);
    nm_tokenizer_close(&t);
    make_words(&v, true);
    t = open_vocab(&v, "bert", NULL, NULL);
    texts_within(t);
    nm_tokenizer_close(&t);
}

int main(void)
{
    (void)golden_nfc;
    (void)golden_nfd;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_pieces), cmocka_unit_test(test_golden_ids), cmocka_unit_test(test_llama_cpp_cases),
        cmocka_unit_test(test_starts), cmocka_unit_test(test_starts_under_nfc), cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_any_bytes_come_back), cmocka_unit_test(test_missing_bytes), cmocka_unit_test(test_special_tokens),
        cmocka_unit_test(test_parts_of_turns), cmocka_unit_test(test_phi3_strips), cmocka_unit_test(test_sentencepiece), cmocka_unit_test(test_wordpiece),
        cmocka_unit_test(test_bad_tokens), cmocka_unit_test(test_bad_lengths), cmocka_unit_test(test_bad_merges), cmocka_unit_test(test_bad_ids),
        cmocka_unit_test(test_unknown_kinds), cmocka_unit_test(test_bad_calls), cmocka_unit_test(test_failing_allocations),
        cmocka_unit_test(test_work_of_a_megabyte), cmocka_unit_test(test_within),
        cmocka_unit_test(test_work_with_real_vocabularies)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
