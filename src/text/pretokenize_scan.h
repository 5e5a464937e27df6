/* Owns the scanners that pre-tokenizers are made of. Each stands for one regular expression (Oniguruma's dialect, as in
 * tokenizer.json) and says which. Sees only the piece that it is given: look-ahead ends there, as in Hugging Face's sequences. */
#ifndef NM_TEXT_PRETOKENIZE_SCAN_H
#define NM_TEXT_PRETOKENIZE_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A match [start, end). start == end: no match begins before start; look on from there. start >= the place that was asked for,
 * and the scanner moves on: end > that place or start > that place. */
typedef struct nm_span { size_t start, end; } nm_span;
typedef nm_span (*nm_scan_fn)(const char *s, size_t at, size_t end, const void *spec);

/* GPT-2's words; no spec. */
nm_span nm_scan_gpt2(const char *s, size_t at, size_t end, const void *spec);

typedef struct nm_words_spec {      /* spec of cl100k and o200k scanners */
    uint32_t letters;               /* cl100k: set of which words are made */
    uint8_t digits;                 /* most numerals in a group */
    const char *tail;               /* characters that may follow a run of symbols */
    bool tail_once;                 /* only one of them */
    bool joined;                    /* cl100k: single spaces join words (EXAONE MoE) */
    bool han;                       /* o200k: runs of Han characters stand alone (Kimi) */
    bool no_suffix;                 /* o200k: no contraction belongs to a word (Tekken) */
} nm_words_spec;
nm_span nm_scan_cl100k(const char *s, size_t at, size_t end, const void *spec);
nm_span nm_scan_o200k(const char *s, size_t at, size_t end, const void *spec);
nm_span nm_scan_deepseek3(const char *s, size_t at, size_t end, const void *spec);

typedef struct nm_set_spec {        /* spec of nm_scan_set: a run of one class */
    uint32_t set;                   /* categories, or 0 */
    const uint32_t (*ranges)[2];    /* code points beside, ascending; n_ranges of them */
    size_t n_ranges;
    uint32_t kind;                  /* kind bits (NM_KIND_...) beside */
    uint32_t most;                  /* characters in a match, 0 = any number */
    bool space_before;              /* one white space may come first: \s?X+ */
} nm_set_spec;
nm_span nm_scan_set(const char *s, size_t at, size_t end, const void *spec);

/* \s+$ : white space at the end. No spec. */
nm_span nm_scan_final_space(const char *s, size_t at, size_t end, const void *spec);
/* " ?[^X]+" for BLOOM. No spec. */
nm_span nm_scan_bloom(const char *s, size_t at, size_t end, const void *spec);
/* Groups of three decimal digits counted from the right, where a word ends after them. No spec. */
nm_span nm_scan_thousands(const char *s, size_t at, size_t end, const void *spec);
/* [0-9][0-9][0-9]. No spec. */
nm_span nm_scan_three_digits(const char *s, size_t at, size_t end, const void *spec);
/* A run of numerals in the byte-level alphabet. No spec. */
nm_span nm_scan_mapped_digits(const char *s, size_t at, size_t end, const void *spec);

#endif
