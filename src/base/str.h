/* Owns growable byte strings, and the one place that makes foreign text safe for a terminal. */
#ifndef NM_BASE_STR_H
#define NM_BASE_STR_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "nomoat.h"

typedef struct nm_str { char *data; size_t length, capacity; } nm_str;   /* all zero = empty; data is zero-terminated once non-NULL */

nm_err nm_str_append(nm_str *s, const char *bytes, size_t length);
nm_err nm_str_puts(nm_str *s, const char *text);
nm_err nm_str_putc(nm_str *s, char c);
nm_err nm_str_vprintf(nm_str *s, const char *format, va_list args) __attribute__((format(printf, 2, 0)));
nm_err nm_str_printf(nm_str *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
void nm_str_free(nm_str *s);
/* Hands the buffer to the caller (nm_free) and empties s. Never NULL after a successful append of anything, even of "". */
char *nm_str_take(nm_str *s, size_t *length);
/* JSON string with quotes; invalid UTF-8 becomes U+FFFD, controls \u00XX. */
nm_err nm_str_json(nm_str *s, const char *bytes, size_t length);

/* One character of foreign text, made safe for a terminal: control characters (C0, DEL, C1) and invalid UTF-8 become \xNN. Within a line of
 * ours (`line`) newline and tab become \n and \t, and what could turn the order of the line round (U+202A to U+202E, U+2066 to U+2069)
 * becomes \u{...}; in text by itself these stay. Returns the bytes written to out; *used: those read. length must be at least 1. */
enum { NM_ESCAPE_MOST = 8 };
size_t nm_escape_char(char out[NM_ESCAPE_MOST], const char *text, size_t length, bool line, int *used);
/* Copies text into out (zero-terminated, cut at a character if too small), each character made safe as within a line. Returns the bytes
 * written without the zero. */
size_t nm_escape_terminal(char *out, size_t out_size, const char *text, size_t length);

/* Decodes one UTF-8 character of at most `length` bytes: its code point and *used bytes, or -1 and *used = 1 where it is
 * invalid (overlong, surrogate, above U+10FFFF, cut). length must be at least 1. */
int32_t nm_utf8_decode(const char *s, size_t length, int *used);
/* True if the bytes begin a valid character that only needs more of them. length must be at least 1. */
bool nm_utf8_begins(const char *s, size_t length);
/* Writes at most 4 bytes, returns how many. */
int nm_utf8_encode(uint32_t code, char out[4]);

#endif
