/* Owns the declarations of the generated tables (unicode_tables.c, by tools/make_unicode.py). Only unicode.h and unicode.c read them. */
#ifndef NM_TEXT_UNICODE_TABLES_H
#define NM_TEXT_UNICODE_TABLES_H

#include <stddef.h>
#include <stdint.h>

enum { NM_UNICODE_BLOCK = 128 };
/* decompose: code -> (first, second or 0); compose: code <- (first, second), sorted by them; lower: code -> (first, second or 0). */
typedef struct nm_unicode_pair { uint32_t code, first, second; } nm_unicode_pair;

/* stage1[c / block] numbers a block of stage2; a property byte there is an index into kinds. */
extern const uint16_t nm_unicode_kinds[];
extern const uint16_t nm_unicode_stage1[];
extern const uint8_t nm_unicode_stage2[];
extern const uint16_t nm_unicode_ccc_stage1[];      /* canonical combining class, likewise, without kinds */
extern const uint8_t nm_unicode_ccc_stage2[];
extern const nm_unicode_pair nm_unicode_decompose[], nm_unicode_compose[], nm_unicode_lower[];
extern const size_t nm_unicode_n_decompose, nm_unicode_n_compose, nm_unicode_n_lower;

#endif
