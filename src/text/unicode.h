/* Owns what the tokenizers know of Unicode: categories, a few properties, NFC and NFD, lower case. By tables, never by locale.
 * Refuses nothing: a byte that is not part of valid UTF-8 counts as the character U+FFFD and is kept as it is. */
#ifndef NM_TEXT_UNICODE_H
#define NM_TEXT_UNICODE_H

#include <stdbool.h>

#include "base/str.h"
#include "nomoat.h"
#include "text/unicode_tables.h"

/* General categories as bits of a set, in the order of the tables. */
enum {
    NM_U_CN = 1 << 0, NM_U_CC = 1 << 1, NM_U_CF = 1 << 2, NM_U_CO = 1 << 3, NM_U_CS = 1 << 4,
    NM_U_LL = 1 << 5, NM_U_LM = 1 << 6, NM_U_LO = 1 << 7, NM_U_LT = 1 << 8, NM_U_LU = 1 << 9,
    NM_U_MC = 1 << 10, NM_U_ME = 1 << 11, NM_U_MN = 1 << 12, NM_U_ND = 1 << 13, NM_U_NL = 1 << 14, NM_U_NO = 1 << 15,
    NM_U_PC = 1 << 16, NM_U_PD = 1 << 17, NM_U_PE = 1 << 18, NM_U_PF = 1 << 19, NM_U_PI = 1 << 20, NM_U_PO = 1 << 21, NM_U_PS = 1 << 22,
    NM_U_SC = 1 << 23, NM_U_SK = 1 << 24, NM_U_SM = 1 << 25, NM_U_SO = 1 << 26, NM_U_ZL = 1 << 27, NM_U_ZP = 1 << 28, NM_U_ZS = 1 << 29,
    NM_U_SPACE = 1 << 30,       /* the property White_Space; Z* and some of Cc have it */
    NM_U_LETTER = NM_U_LL | NM_U_LM | NM_U_LO | NM_U_LT | NM_U_LU,
    NM_U_MARK = NM_U_MC | NM_U_ME | NM_U_MN,
    NM_U_NUMBER = NM_U_ND | NM_U_NL | NM_U_NO,
    NM_U_PUNCT = NM_U_PC | NM_U_PD | NM_U_PE | NM_U_PF | NM_U_PI | NM_U_PO | NM_U_PS,
    NM_U_SYMBOL = NM_U_SC | NM_U_SK | NM_U_SM | NM_U_SO
};

/* Bits of a kind beside the category. */
enum {
    NM_KIND_CATEGORY = 31, NM_KIND_SPACE = 1 << 5, NM_KIND_HAN = 1 << 6,
    NM_KIND_OLD_PUNCT = 1 << 7, NM_KIND_OLD_MN = 1 << 8, NM_KIND_OLD_OTHER = 1 << 9,   /* as of Unicode 8: P*, Mn, C* without Cn */
    NM_KIND_NFC = 1 << 10       /* text without any such character is in NFC */
};

/* Kind of a code point; anything outside Unicode, as nm_utf8_decode's -1, has that of U+FFFD. */
static inline uint32_t nm_unicode_kind(int32_t c)
{
    uint32_t u = c < 0 || c > 0x10ffff ? 0xfffd : (uint32_t)c;
    return nm_unicode_kinds[nm_unicode_stage2[nm_unicode_stage1[u / NM_UNICODE_BLOCK] * NM_UNICODE_BLOCK + u % NM_UNICODE_BLOCK]];
}

/* The category as one bit, with NM_U_SPACE beside it. */
static inline uint32_t nm_unicode_set(int32_t c)
{
    uint32_t kind = nm_unicode_kind(c);
    return 1u << (kind & NM_KIND_CATEGORY) | (kind & NM_KIND_SPACE ? NM_U_SPACE : 0);
}

/* False only if NFC would leave the text as it is. */
bool nm_unicode_may_change(const char *text, size_t length);
typedef enum nm_unicode_form { NM_NFC, NM_NFD } nm_unicode_form;
/* Appends the normal form of text to out. O(n) for any text. Characters younger than Unicode 9 neither reorder nor compose. */
nm_err nm_unicode_normalize(nm_str *out, const char *text, size_t length, nm_unicode_form form);
/* Writes the lower case of c, one or two code points, and returns how many. */
int nm_unicode_to_lower(int32_t c, int32_t out[2]);

#endif
