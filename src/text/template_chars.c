/* Look-ups in the generated character table. */
#include "text/template_chars.h"

#include "base/str.h"
#include "text/template_chars_table.h"

static const struct char_record *record_of(int32_t code)
{
    if (code < 0 || code > 0x10ffff) return &char_records[0];
    return &char_records[char_index[char_block[code >> CHAR_SHIFT]][code & ((1 << CHAR_SHIFT) - 1)]];
}

unsigned nm_char_flags(int32_t code) { return record_of(code)->flags; }

int nm_char_to(int32_t code, nm_char_case form, int32_t out[3])
{
    int32_t to = record_of(code)->to[form];
    if (to < CHAR_SPECIAL) {
        out[0] = code + to;
        return 1;
    }
    const uint16_t *list = char_special + (to - CHAR_SPECIAL);
    for (int i = 0; i < list[0]; i++) out[i] = list[i + 1];
    return list[0];
}

int32_t nm_utf8_at(const char *s)
{
    int used;
    return nm_utf8_decode(s, nm_utf8_width(*s), &used);
}

size_t nm_utf8_count(const char *s, size_t length)
{
    size_t n = 0;
    for (size_t i = 0; i < length; i++) n += ((unsigned char)s[i] & 0xc0) != 0x80;
    return n;
}

size_t nm_utf8_offset(const char *s, size_t length, size_t n)
{
    size_t at = 0;
    while (n-- && at < length) at += nm_utf8_width(s[at]);
    return at;
}
