/* Owns how a tokenizer comes to be: from the tokenizer.* keys of a GGUF file. Its use is in nomoat.h ("Text"). */
#ifndef NM_TEXT_TOKENIZER_H
#define NM_TEXT_TOKENIZER_H

#include "base/str.h"
#include "format/gguf.h"
#include "nomoat.h"

/* *out is NULL, with NM_OK, if the file has no tokenizer. Everything is copied: the file may go. NM_BAD_FILE names file, key and
 * index; NM_REFUSED: a kind of tokenizer or pre-tokenizer that is not known here. */
nm_err nm_tokenizer_open(nm_tokenizer **out, const nm_gguf *gguf);
void nm_tokenizer_close(nm_tokenizer **tokenizer);

/* nm_tokenize that also says where each token begins: starts[i] is a byte of the text (allocated, like *ids); BOS is at 0, EOS at the end. A token whose
 * first bytes the tokenizer put there itself (the space before a text) begins at the byte behind them; one of several bytes that normal form
 * melted together begins at their first character. NM_REFUSED for WordPiece, which drops what it cannot place. */
nm_err nm_tokenize_starts(const nm_tokenizer *tokenizer, const char *text, size_t length, unsigned flags, int32_t **ids, uint32_t **starts,
                          size_t *count);

/* nm_tokenize that also counts its steps (look-ups, heap moves), for tests that hold it to n log n. steps may be NULL. */
nm_err nm_tokenize_counted(const nm_tokenizer *tokenizer, const char *text, size_t length, unsigned flags, int32_t **ids, size_t *count,
                           uint64_t *steps);

/* Appends the bytes that a token of the vocabulary shows behind other tokens: none for special ones. Not for WordPiece. */
nm_err nm_token_bytes(const nm_tokenizer *tokenizer, int32_t id, nm_str *out);
/* Whether nm_detokenize leaves out a space at the beginning. */
bool nm_tokenizer_drops_space(const nm_tokenizer *tokenizer);

#endif
