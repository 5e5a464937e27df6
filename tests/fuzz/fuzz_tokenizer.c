/* Any bytes as a GGUF file with a tokenizer, which then encodes the very same bytes, decodes them, and is asked about its tokens.
 * A built-in vocabulary with one of several pre-tokenizers encodes them too, and must give them back. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "text/tokenizer.h"

#include "../gguf_writer.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_PRE = 8, MOST_TEXT = 1 << 14 };

/* Streamed output must be the whole output. */
static void decode(const nm_tokenizer *t, const int32_t *ids, size_t count, unsigned flags)
{
    char *whole;
    size_t length, at = 0;
    nm_decoder *d;
    if (nm_detokenize(t, ids, count, flags, &whole, &length) != NM_OK || nm_decoder_open(&d, t, flags) != NM_OK) abort();
    for (size_t i = 0; i <= count; i++) {
        const char *text;
        size_t n;
        if (nm_decoder_push(d, i < count ? ids[i] : -1, &text, &n) != NM_OK) abort();
        if (n > length - at || memcmp(whole + at, text, n) != 0) abort();
        at += n;
    }
    if (at != length) abort();
    nm_decoder_close(&d);
    nm_free(whole);
}

static void use(const nm_tokenizer *t, const char *text, size_t length, bool exact)
{
    for (unsigned flags = 0; flags < 8; flags += 3) {
        int32_t *ids;
        size_t count;
        if (nm_tokenize(t, text, length, flags, &ids, &count) != NM_OK) continue;
        for (size_t i = 0; i < count; i++)
            if (ids[i] < 0 || ids[i] >= nm_token_count(t)) abort();
        decode(t, ids, count, flags);
        if (exact && !flags) {
            char *back;
            size_t n;
            if (nm_detokenize(t, ids, count, 0, &back, &n) != NM_OK || n != length || memcmp(back, text, n) != 0) abort();
            nm_free(back);
        }
        nm_free(ids);
    }
}

/* All bytes, a few merges. */
static nm_tokenizer *byte_vocabulary(const char *pre)
{
    static char text[260][16];
    const char *tokens[260], *merges[] = {"a a", "\xc4\xa0 \xc4\xa0", "\xc3\xb0 \xc5\x81"};
    uint32_t next = 0x100;
    int n = 0;
    for (unsigned b = 0; b < 256; b++, n++) {
        bool prints = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        text[n][nm_utf8_encode(prints ? b : next++, text[n])] = 0;
        tokens[n] = text[n];
    }
    tokens[n++] = "aa";
    tokens[n++] = "\xc4\xa0\xc4\xa0";
    tokens[n++] = "\xc3\xb0\xc5\x81";
    gguf_writer w = {0};
    gw_string(&w, "tokenizer.ggml.model", "gpt2");
    gw_string(&w, "tokenizer.ggml.pre", pre);
    gw_strings(&w, "tokenizer.ggml.tokens", tokens, (uint64_t)n);
    gw_strings(&w, "tokenizer.ggml.merges", merges, 3);
    size_t size;
    void *file = gw_finish(&w, &size);
    nm_gguf *g;
    nm_tokenizer *t;
    if (nm_gguf_open_memory(&g, file, size, "fuzz", true) != NM_OK || nm_tokenizer_open(&t, g) != NM_OK) abort();
    nm_gguf_close(&g);
    free(file);
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const pre[N_PRE] = {"gpt-2", "llama-bpe", "gpt-4o", "kimi-k2", "deepseek-v3", "deepseek-llm", "falcon", "tiny_aya"};
    static nm_tokenizer *fixed[N_PRE];
    for (int i = 0; i < N_PRE; i++)
        if (!fixed[i]) fixed[i] = byte_vocabulary(pre[i]);
    const char *text = (const char *)data;
    size_t length = size < MOST_TEXT ? size : MOST_TEXT;
    int64_t alive = nm_mem_alive();
    use(fixed[size ? data[size - 1] % N_PRE : 0], text, length, true);
    for (int failing = 0; failing < 2; failing++) {     /* the second time an allocation fails, which one depends on the input */
        nm_gguf *g;
        nm_tokenizer *t = NULL;
        nm_mem_fail_after(failing ? (size ? data[size / 2] % 32 : 0) : -1);
        if (nm_gguf_open_memory(&g, data, size, "fuzz", true) == NM_OK && nm_tokenizer_open(&t, g) == NM_OK && t && !failing) use(t, text, length, false);
        nm_mem_fail_after(-1);
        nm_tokenizer_close(&t);
        nm_gguf_close(&g);
    }
    if (nm_mem_alive() != alive) abort();
    return 0;
}
