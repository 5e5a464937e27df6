/* Growable strings, UTF-8, and text made safe for terminals. */
#include "base/str.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"

static nm_err reserve(nm_str *s, size_t more)
{
    size_t need;
    if (nm_add_overflow(s->length, more, &need) || nm_add_overflow(need, 1, &need)) return nm_fail_memory(SIZE_MAX);
    return NM_GROW(s->data, s->capacity, need);
}

nm_err nm_str_append(nm_str *s, const char *bytes, size_t length)
{
    NM_TRY(reserve(s, length));
    if (length) memcpy(s->data + s->length, bytes, length);
    s->length += length;
    s->data[s->length] = 0;
    return NM_OK;
}

nm_err nm_str_puts(nm_str *s, const char *text) { return nm_str_append(s, text, strlen(text)); }
nm_err nm_str_putc(nm_str *s, char c) { return nm_str_append(s, &c, 1); }

nm_err nm_str_vprintf(nm_str *s, const char *format, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, format, ap);
    nm_err err = n < 0 ? nm_fail(NM_FAILED, "cannot format text") : reserve(s, (size_t)n);
    if (err == NM_OK) {
        vsnprintf(s->data + s->length, (size_t)n + 1, format, again);
        s->length += (size_t)n;
    }
    va_end(again);
    return err;
}

nm_err nm_str_printf(nm_str *s, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    nm_err err = nm_str_vprintf(s, format, ap);
    va_end(ap);
    return err;
}

void nm_str_free(nm_str *s)
{
    nm_free(s->data);
    *s = (nm_str){0};
}

char *nm_str_take(nm_str *s, size_t *length)
{
    char *data = s->data;
    if (length) *length = s->length;
    *s = (nm_str){0};
    return data;
}

int32_t nm_utf8_decode(const char *text, size_t length, int *used)
{
    const unsigned char *s = (const unsigned char *)text;
    *used = 1;
    if (s[0] < 0x80) return s[0];
    int n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    static const int32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (s[0] < 0xc2 || s[0] > 0xf4 || (size_t)n > length) return -1;
    int32_t code = s[0] & (0xff >> (n + 1));
    for (int i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) return -1;
        code = code << 6 | (s[i] & 0x3f);
    }
    if (code < least[n] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return -1;
    *used = n;
    return code;
}

bool nm_utf8_begins(const char *s, size_t length)
{
    unsigned char lead = (unsigned char)s[0];
    size_t whole = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    char padded[4];
    int used;
    if (lead < 0xc2 || lead > 0xf4 || length >= whole) return false;
    if (length == 1) return true;
    memset(padded, 0x80, sizeof padded);        /* the second byte decides; the least continuation does for the rest */
    memcpy(padded, s, length);
    return nm_utf8_decode(padded, whole, &used) >= 0;
}

int nm_utf8_encode(uint32_t c, char out[4])
{
    if (c < 0x80) { out[0] = (char)c; return 1; }
    if (c < 0x800) { out[0] = (char)(0xc0 | c >> 6); out[1] = (char)(0x80 | (c & 63)); return 2; }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12); out[1] = (char)(0x80 | (c >> 6 & 63)); out[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18); out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63)); out[3] = (char)(0x80 | (c & 63));
    return 4;
}

nm_err nm_str_json(nm_str *s, const char *bytes, size_t length)
{
    NM_TRY(nm_str_putc(s, '"'));
    for (size_t i = 0; i < length;) {
        int used;
        int32_t c = nm_utf8_decode(bytes + i, length - i, &used);
        if (c < 0) NM_TRY(nm_str_puts(s, "\xef\xbf\xbd"));
        else if (c == '"' || c == '\\') NM_TRY(nm_str_printf(s, "\\%c", (char)c));
        else if (c == '\n') NM_TRY(nm_str_puts(s, "\\n"));
        else if (c == '\t') NM_TRY(nm_str_puts(s, "\\t"));
        else if (c == '\r') NM_TRY(nm_str_puts(s, "\\r"));
        else if (c < 0x20 || (c >= 0x7f && c < 0xa0)) NM_TRY(nm_str_printf(s, "\\u%04x", (unsigned)c));
        else NM_TRY(nm_str_append(s, bytes + i, (size_t)used));
        i += (size_t)used;
    }
    return nm_str_putc(s, '"');
}

static bool turns_order(int32_t c) { return (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069); }

size_t nm_escape_char(char out[NM_ESCAPE_MOST], const char *text, size_t length, bool line, int *used)
{
    char piece[NM_ESCAPE_MOST + 1];
    int32_t c = nm_utf8_decode(text, length, used);
    int n;
    if (c < 0) n = snprintf(piece, sizeof piece, "\\x%02x", (unsigned char)text[0]);
    else if (line && (c == '\n' || c == '\t')) n = snprintf(piece, sizeof piece, c == '\n' ? "\\n" : "\\t");
    else if (c != '\n' && c != '\t' && (c < 0x20 || (c >= 0x7f && c < 0xa0))) n = snprintf(piece, sizeof piece, "\\x%02x", (unsigned)c & 0xff);
    else if (line && turns_order(c)) n = snprintf(piece, sizeof piece, "\\u{%04x}", (unsigned)c & 0xffff);
    else memcpy(piece, text, (size_t)(n = *used));
    memcpy(out, piece, (size_t)n);
    return (size_t)n;
}

size_t nm_escape_terminal(char *out, size_t out_size, const char *text, size_t length)
{
    size_t n = 0;
    if (!out_size) return 0;
    for (size_t i = 0; i < length;) {
        int used;
        char piece[NM_ESCAPE_MOST];
        size_t put = nm_escape_char(piece, text + i, length - i, true, &used);
        if (n + put >= out_size) break;
        memcpy(out + n, piece, put);
        n += put;
        i += (size_t)used;
    }
    out[n] = 0;
    return n;
}
