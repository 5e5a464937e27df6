/* Writes the seeds of fuzz_tokenizer into a folder: a small vocabulary of each kind, and texts.
 * Build: cc -Iinclude -Isrc tests/fuzz/make_tokenizer_corpus.c libnomoat.a -lm; run: make_tokenizer_corpus tests/fuzz/corpus/tokenizer */
#include <stdio.h>

#include "../data/tokenizer/golden.h"
#include "../gguf_writer.c"

static const char *const spm[] = {"<unk>", "<s>", "</s>", "<0x41>", "\xe2\x96\x81", "a", "b", "ab", "\xe2\x96\x81" "a", "  ", "<b>"};
static const int32_t spm_types[] = {2, 3, 3, 6, 1, 1, 1, 1, 1, 4, 4};
static const float spm_scores[] = {0, 0, 0, 0, -1, -2, -3, -4, -5, -1000, -1000};
static const char *const bytes[] = {"a", "b", "\xc4\xa0", "ab", "\xc4\xa0" "ab", "<|im_end|>", "<t>"};
static const int32_t byte_types[] = {1, 1, 1, 1, 1, 3, 4};
static const char *const words[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "ab", "##b", "a", "!"};
static const int32_t word_types[] = {3, 3, 3, 3, 1, 1, 1, 1};

static void vocabulary(gguf_writer *w, const char *model, const char *const *tokens, const int32_t *types, uint64_t n)
{
    gw_string(w, "general.architecture", "llama");
    gw_string(w, "tokenizer.ggml.model", model);
    gw_strings(w, "tokenizer.ggml.tokens", tokens, n);
    gw_array(w, "tokenizer.ggml.token_type", NM_META_I32, types, n);
    gw_u32(w, "tokenizer.ggml.bos_token_id", 1);
    gw_bool(w, "tokenizer.ggml.add_bos_token", true);
}

static void save(gguf_writer *w, const char *folder, const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s.gguf", folder, name);
    gw_save(w, path);
}

static void save_text(const char *folder, int i)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/text%02d", folder, i);
    FILE *f = fopen(path, "wb");
    if (!f) abort();
    fwrite(golden_texts[i].bytes, 1, golden_texts[i].length, f);
    fclose(f);
}

int main(int argc, char **argv)
{
    static const char *const merges[] = {"a b", "\xc4\xa0 ab"}, *const spm_merges[] = {"a b", "\xe2\x96\x81 a"};
    gguf_writer w = {0};
    if (argc != 2) return 2;
    (void)golden_nfc, (void)golden_nfd, (void)golden_pieces, (void)golden_ids;
    vocabulary(&w, "gpt2", bytes, byte_types, 7);
    gw_string(&w, "tokenizer.ggml.pre", "qwen2");
    gw_strings(&w, "tokenizer.ggml.merges", merges, 2);
    save(&w, argv[1], "bytes");
    vocabulary(&w, "llama", spm, spm_types, 11);
    gw_array(&w, "tokenizer.ggml.scores", NM_META_F32, spm_scores, 11);
    save(&w, argv[1], "spm");
    vocabulary(&w, "gemma4", spm, spm_types, 11);
    gw_strings(&w, "tokenizer.ggml.merges", spm_merges, 2);
    save(&w, argv[1], "gemma4");
    vocabulary(&w, "bert", words, word_types, 8);
    save(&w, argv[1], "bert");
    for (int i = 1; i < 22; i++) save_text(argv[1], i);
    return 0;
}
