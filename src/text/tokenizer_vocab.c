/* The vocabulary as the encoders see it: text to id, pairs to merges, bytes to tokens. Built once, read by all threads. */
#include <string.h>

#include "text/tokenizer_impl.h"

/* ---- GPT-2's alphabet ------------------------------------------------------------------------------------------------- */

/* Bytes that print in Latin-1 stand for themselves; the others, in order, for U+0100 and up. */
static bool prints(unsigned b) { return (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae; }

uint32_t nm_byte_to_code(unsigned char byte)
{
    unsigned b = byte;
    if (prints(b)) return b;
    if (b <= 0x20) return 0x100 + b;                    /* 0x00-0x20 are the first 33 */
    if (b <= 0xa0) return 0x100 + 33 + (b - 0x7f);      /* 0x7f-0xa0 the next 34 */
    return 0x100 + 67;                                  /* 0xad, the soft hyphen */
}

int nm_code_to_byte(int32_t code)
{
    if (code < 0) return -1;
    if (code < 0x100) return prints((unsigned)code) ? code : -1;
    int32_t k = code - 0x100;
    return k <= 0x20 ? k : k < 67 ? k - 33 + 0x7f : k == 67 ? 0xad : -1;
}

static int hex_digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

int nm_byte_token_value(const char *text, size_t length)
{
    if (length != 6 || memcmp(text, "<0x", 3) || text[5] != '>') return -1;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* ---- Hashes ------------------------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t h)
{
    h = (h ^ h >> 32) * 0xd6e8feb86659fd93u;
    return (h ^ h >> 32) * 0xd6e8feb86659fd93u;
}

uint32_t nm_vocab_hash(const char *text, size_t length)
{
    uint64_t h = length * 0x9e3779b97f4a7c15u;
    for (; length >= 8; text += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        h = mix(h ^ word);
    }
    uint64_t word = 0;
    memcpy(&word, text, length);
    h = mix(h ^ word);
    return (uint32_t)(h ^ h >> 32);
}

int32_t nm_vocab_find_hashed(const nm_tokenizer *t, const char *text, size_t length, uint32_t hash)
{
    if (!length || length > t->longest) return -1;
    for (size_t i = hash & (t->n_slots - 1);; i = (i + 1) & (t->n_slots - 1)) {
        const nm_slot *s = &t->slot[i];
        if (s->id < 0) return -1;
        if (s->hash == hash && nm_vocab_length(t, s->id) == length && !memcmp(nm_vocab_text(t, s->id), text, length)) return s->id;
    }
}

int32_t nm_vocab_find(const nm_tokenizer *t, const char *text, size_t length)
{
    return length > t->longest ? -1 : nm_vocab_find_hashed(t, text, length, nm_vocab_hash(text, length));
}

void nm_vocab_fetch(const nm_tokenizer *t, uint32_t hash) { __builtin_prefetch(&t->slot[hash & (t->n_slots - 1)]); }

static uint64_t pair_of(int32_t left, int32_t right) { return (uint64_t)(uint32_t)left << 32 | (uint32_t)right; }

void nm_vocab_merge_fetch(const nm_tokenizer *t, int32_t left, int32_t right)
{
    __builtin_prefetch(&t->merge[mix(pair_of(left, right)) & (t->n_merge_slots - 1)]);
}

nm_merge *nm_vocab_merge_slot(const nm_tokenizer *t, int32_t left, int32_t right)
{
    uint64_t pair = pair_of(left, right);
    for (size_t i = mix(pair) & (t->n_merge_slots - 1);; i = (i + 1) & (t->n_merge_slots - 1)) {
        nm_merge *m = &t->merge[i];
        if (m->id < 0 || m->pair == pair) return m;
    }
}

const nm_merge *nm_vocab_merge(const nm_tokenizer *t, int32_t left, int32_t right)
{
    if (left < 0 || right < 0 || !t->n_merge_slots) return NULL;
    const nm_merge *m = nm_vocab_merge_slot(t, left, right);
    return m->id < 0 ? NULL : m;
}
