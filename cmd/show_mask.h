/* Owns how a training sequence is shown: its text, trained tokens in colour, or in [[ ]] where there is no colour. Text of the data reaches a terminal
 * escaped. */
#ifndef NM_CMD_SHOW_MASK_H
#define NM_CMD_SHOW_MASK_H

#include "base/str.h"
#include "nomoat.h"

/* Appends a heading ("FILE:LINE: 132 tokens, 94 of them trained") and the text, special tokens visible, control characters but line breaks and tabs as
 * \xNN. A character whose bytes are several tokens counts to the last of them. */
nm_err nm_show_mask_text(nm_str *out, const nm_tokenizer *tokenizer, const nm_sample *sample, bool colour);
/* Prints the first n training sequences, in colour if standard output is a terminal that has some. */
nm_err nm_show_mask(const nm_dataset *dataset, const nm_tokenizer *tokenizer, size_t n);

#endif
