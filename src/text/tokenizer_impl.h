/* Owns what the files of the tokenizer share. Nobody else includes it. */
#ifndef NM_TEXT_TOKENIZER_IMPL_H
#define NM_TEXT_TOKENIZER_IMPL_H

#include <stdatomic.h>

#include "base/str.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"
#include "text/trie.h"

#define NM_SPM_SPACE "\xe2\x96\x81"     /* U+2581, how SentencePiece writes a space */
#define NM_REPLACEMENT "\xef\xbf\xbd"   /* U+FFFD */

/* tokenizer.ggml.token_type */
typedef enum nm_token_type {
    NM_TOKEN_UNDEFINED, NM_TOKEN_NORMAL, NM_TOKEN_UNKNOWN, NM_TOKEN_CONTROL, NM_TOKEN_USER, NM_TOKEN_UNUSED, NM_TOKEN_BYTE, NM_N_TOKEN_TYPES
} nm_token_type;

/* How text becomes tokens. */
typedef enum nm_vocab_kind {
    NM_VOCAB_BYTES,     /* "gpt2": byte-level BPE, merges given */
    NM_VOCAB_SPM,       /* "llama": SentencePiece BPE, merges follow from scores */
    NM_VOCAB_SPM_BPE,   /* "gemma4": SentencePiece's text rules, merges given */
    NM_VOCAB_WORDPIECE  /* "bert" */
} nm_vocab_kind;

enum { NM_ADDED_LSTRIP = 1, NM_ADDED_RSTRIP = 2, NM_TOKEN_ENDS = 4 };   /* flags of a token: takes white space before, behind; ends a turn */

typedef struct nm_slot { uint32_t hash; int32_t id; } nm_slot;                  /* id -1 = free */
typedef struct nm_merge { uint64_t pair; int32_t rank, id; } nm_merge;          /* id -1 = free */

struct nm_tokenizer {
    nm_vocab_kind kind;
    const nm_pretokenizer *pre;         /* NM_VOCAB_BYTES */
    int32_t n;
    char *text;                         /* token i: text + at[i], zero-terminated */
    uint32_t *at;                       /* n + 1 */
    uint8_t *type, *flags;              /* n each */
    float *score;                       /* NM_VOCAB_SPM: n */
    nm_slot *slot;                      /* text -> id; n_slots is a power of two */
    size_t n_slots;
    nm_merge *merge;                    /* (left id, right id) -> rank, id of the result */
    size_t n_merge_slots;
    uint32_t longest;                   /* bytes of the longest token */
    int32_t byte_id[256];               /* -1 where there is none */
    bool byte_gaps;                     /* some byte_id is -1 */
    int32_t *added;                     /* control and user-defined tokens, sorted by text */
    int32_t n_added;
    int32_t added_from[257];            /* by first byte */
    int32_t bos, eos, pad, unk, sep;
    bool add_bos, add_eos, add_sep, add_space, squeeze_spaces;
    _Atomic(nm_trie *) *trie;           /* made when first asked for (trie.c); holds NULL until then */
    bool hash_words;                    /* WordPiece: "##" marks the parts that continue a word; else U+2581 those that begin one */
};

static inline const char *nm_vocab_text(const nm_tokenizer *t, int32_t id) { return t->text + t->at[id]; }
static inline uint32_t nm_vocab_length(const nm_tokenizer *t, int32_t id) { return t->at[id + 1] - t->at[id] - 1; }
/* Id of a text, or -1. */
int32_t nm_vocab_find(const nm_tokenizer *t, const char *text, size_t length);
uint32_t nm_vocab_hash(const char *text, size_t length);
int32_t nm_vocab_find_hashed(const nm_tokenizer *t, const char *text, size_t length, uint32_t hash);
/* For loading: says that a hash, or a pair, will be looked up soon. */
void nm_vocab_fetch(const nm_tokenizer *t, uint32_t hash);
void nm_vocab_merge_fetch(const nm_tokenizer *t, int32_t left, int32_t right);
/* The merge of two tokens, or NULL; -1 merges with nothing. */
const nm_merge *nm_vocab_merge(const nm_tokenizer *t, int32_t left, int32_t right);
/* For loading: the slot of a pair, free or taken. */
nm_merge *nm_vocab_merge_slot(const nm_tokenizer *t, int32_t left, int32_t right);
/* Can text that is not special become this token? */
static inline bool nm_vocab_plain(const nm_tokenizer *t, int32_t id)
{
    return t->type[id] == NM_TOKEN_NORMAL || t->type[id] == NM_TOKEN_USER || t->type[id] == NM_TOKEN_UNDEFINED;
}

/* GPT-2's alphabet: every byte as a printable character. */
uint32_t nm_byte_to_code(unsigned char byte);
int nm_code_to_byte(int32_t code);      /* -1 if it stands for none */
/* "<0xAB>" as a number, or -1. */
int nm_byte_token_value(const char *text, size_t length);

/* Reads everything into *t (tokenizer_load.c). */
nm_err nm_tokenizer_load(nm_tokenizer *t, const nm_gguf *gguf);

/* One encoding in progress. */
typedef struct nm_symbol { uint32_t start, length, chars; int32_t id; uint32_t prev, next; } nm_symbol;
typedef struct nm_candidate { uint64_t key; uint32_t left; int32_t id; } nm_candidate;
typedef struct nm_encoder {
    const nm_tokenizer *t;
    const char *text;                   /* that symbols point into */
    int32_t *ids;
    size_t n_ids, ids_capacity;
    const size_t *guards;               /* pairs of places, n_guards: within them no special token is read */
    size_t n_guards;
    size_t most;                        /* ids; 0 = as many as come */
    size_t least;                       /* so many there are, which is more than `most`: nothing further is encoded; 0 = not known yet */
    const volatile sig_atomic_t *cancel;
    bool want_starts;
    uint32_t *starts;                   /* per id, its first byte in the whole text; kept only if wanted, as is what follows */
    size_t starts_capacity;
    uint32_t fragment_at;               /* where the fragment begins in the whole text */
    const char *fragment;               /* the fragment as it is cut: itself, or its normal form */
    uint32_t *origin;                   /* where byte i of the normal form comes from in the fragment; n_origin 0: it is unchanged */
    size_t n_origin, origin_capacity;
    nm_symbol *symbols;
    size_t n_symbols, symbols_capacity;
    nm_candidate *heap;
    size_t n_heap, heap_capacity;
    nm_str normal, fitted;              /* the fragment put into normal form; with bytes replaced that have no token */
    nm_str word;                        /* a name to look up */
    uint64_t steps;
} nm_encoder;

/* Where `bytes` more of the text are known to become tokens: NM_INTERRUPTED if that makes too many (e->least), or when cancelled. */
nm_err nm_encoder_check(nm_encoder *e, size_t bytes);
/* Appends an id that begins at byte `at` of the whole text. */
nm_err nm_encoder_put_at(nm_encoder *e, int32_t id, size_t at);
/* The same for one that begins at a byte of e->fragment. */
nm_err nm_encoder_put(nm_encoder *e, int32_t id, const char *begin);
/* The next byte of the normal form comes from byte `at` of the fragment. Does nothing where starts are not wanted. */
nm_err nm_encoder_origin(nm_encoder *e, size_t at, size_t count);
/* Merges e->symbols by priority, lowest key first, then leftmost; puts what remains. missing is called for a symbol without id. */
typedef nm_err (*nm_missing_fn)(nm_encoder *e, const nm_symbol *symbol);
nm_err nm_encoder_merge(nm_encoder *e, nm_missing_fn missing);
/* What symbol i and the next one would merge to by score; id -1 if they do not (spm.c). */
nm_candidate nm_spm_candidate(nm_encoder *e, uint32_t i);
/* Appends a symbol of e->text. */
nm_err nm_encoder_symbol(nm_encoder *e, uint32_t start, uint32_t length, int32_t id);

/* Encode a fragment of text between special tokens. */
nm_err nm_encode_bytes(nm_encoder *e, const char *text, size_t length);         /* bpe.c */
nm_err nm_encode_spm(nm_encoder *e, const char *text, size_t length);           /* spm.c */
nm_err nm_encode_wordpiece(nm_encoder *e, const char *text, size_t length);     /* wordpiece.c */

#endif
