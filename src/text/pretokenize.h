/* Owns the cutting of text into pre-tokens for byte-level BPE: a row per name of tokenizer.ggml.pre, each row a sequence of
 * stages, each stage a scanner written by hand for the regular expression that the model's tokenizer.json has there. Merges never
 * cross a cut. Refuses names it does not know rather than guess: a wrong cut gives wrong ids without any sign. */
#ifndef NM_TEXT_PRETOKENIZE_H
#define NM_TEXT_PRETOKENIZE_H

#include "nomoat.h"
#include "text/pretokenize_scan.h"

enum { NM_MAX_STAGES = 6 };
typedef struct nm_stage { nm_scan_fn scan; const void *spec; } nm_stage;

typedef struct nm_pretokenizer {
    nm_stage stage[NM_MAX_STAGES];      /* up to the first without scan; what a stage does not match stays one piece */
    bool nfc;                           /* text is put into NFC first */
    bool whole_words;                   /* a pre-token that is in the vocabulary is taken whole, whatever the merges say */
    bool add_bos;                       /* where the file does not say */
    bool may_prefix;                    /* tokenizer.ggml.add_space_prefix is obeyed */
} nm_pretokenizer;

/* NULL if the name is not known. */
const nm_pretokenizer *nm_pretokenizer_find(const char *name, size_t length);
/* The known names in turn; NULL behind the last. */
const char *nm_pretokenizer_name(size_t index);
/* The name for files without one (made before the key existed), from general.architecture; "default" if that says nothing. */
const char *nm_pretokenizer_for_architecture(const char *architecture, size_t length);

/* Calls piece for every pre-token in order; together they are the text. Linear in length. */
typedef nm_err (*nm_piece_fn)(void *arg, const char *piece, size_t length);
nm_err nm_pretokenize(const nm_pretokenizer *how, const char *text, size_t length, nm_piece_fn piece, void *arg);

#endif
