/* Owns what Python's str knows about single characters (Unicode 14): classes, case, and the bits by which text is cut.
 * Refuses locales. */
#ifndef NM_TEXT_TEMPLATE_CHARS_H
#define NM_TEXT_TEMPLATE_CHARS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum nm_char_flag {     /* the order is that of tools/make_template_chars.py */
    NM_CHAR_ALPHA = 1, NM_CHAR_DECIMAL = 2, NM_CHAR_DIGIT = 4, NM_CHAR_NUMERIC = 8, NM_CHAR_SPACE = 16, NM_CHAR_PRINTABLE = 32,
    NM_CHAR_LOWER = 64, NM_CHAR_UPPER = 128, NM_CHAR_TITLE = 256, NM_CHAR_CASED = 512, NM_CHAR_IGNORABLE = 1024,
    NM_CHAR_START = 2048, NM_CHAR_CONTINUE = 4096,
    NM_CHAR_ALNUM = NM_CHAR_ALPHA | NM_CHAR_DECIMAL | NM_CHAR_DIGIT | NM_CHAR_NUMERIC
};

typedef enum nm_char_case { NM_CASE_UPPER, NM_CASE_LOWER, NM_CASE_TITLE, NM_CASE_FOLD } nm_char_case;

unsigned nm_char_flags(int32_t code);
/* The character's form in another case: 1 to 3 code points into out; returns how many. */
int nm_char_to(int32_t code, nm_char_case form, int32_t out[3]);
static inline bool nm_char_is(int32_t code, unsigned flags) { return (nm_char_flags(code) & flags) != 0; }

/* What follows takes valid UTF-8. */
static inline size_t nm_utf8_width(char lead)
{
    unsigned char c = (unsigned char)lead;
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}
/* The character that ends before s + end (end > 0): where it begins. */
static inline size_t nm_utf8_back(const char *s, size_t end)
{
    do end--; while (end && ((unsigned char)s[end] & 0xc0) == 0x80);
    return end;
}
int32_t nm_utf8_at(const char *s);                              /* the code point at s */
size_t nm_utf8_count(const char *s, size_t length);             /* code points */
size_t nm_utf8_offset(const char *s, size_t length, size_t n);  /* byte at which code point n begins; length if there are fewer */

#endif
