#!/usr/bin/env python3
"""Writes src/text/template_chars_table.h from Python's Unicode data: what str.upper, str.isalpha, repr and the like need to know.
The bits of `flags` are those of enum nm_char_flag in template_chars.h, in this order.

Usage: tools/make_template_chars.py > src/text/template_chars_table.h
"""
import sys
import unicodedata

SHIFT = 7


def ignorable(c):
    """Case_Ignorable, seen through str.lower: a final sigma stays final across it."""
    return ("A" + "\u03a3" + c).lower()[1] == "\u03c2" and ("A\u03a3" + c + "A").lower()[1] == "\u03c3"


def cased(c):
    return (c + "\u03a3").lower()[-1] == "\u03c2"


def flags(c):
    tests = [c.isalpha(), c.isdecimal(), c.isdigit(), c.isnumeric(), c.isspace(), c.isprintable(), c.islower(), c.isupper(),
             unicodedata.category(c) == "Lt", cased(c), ignorable(c), c.isidentifier(), ("a" + c).isidentifier()]
    return sum(1 << i for i, t in enumerate(tests) if t)


def main():
    records, record_of, special = [(0, 0, 0, 0, 0)], {(0, 0, 0, 0, 0): 0}, []
    special_of, blocks, block_of, index = {}, [], {}, []

    def mapped(c, text):
        if len(text) == 1:
            return ord(text) - ord(c)
        key = tuple(map(ord, text))
        if key not in special_of:
            special_of[key] = len(special)
            special.extend((len(key),) + key)
        return (1 << 24) + special_of[key]

    for start in range(0, 0x110000, 1 << SHIFT):
        row = []
        for code in range(start, start + (1 << SHIFT)):
            c = chr(code)
            if 0xd800 <= code < 0xe000:
                row.append(0)
                continue
            lower = c.lower() if code != 0x3a3 else "\u03c3"
            record = (flags(c), mapped(c, c.upper()), mapped(c, lower), mapped(c, c.title()), mapped(c, c.casefold()))
            if record not in record_of:
                record_of[record] = len(records)
                records.append(record)
            row.append(record_of[record])
        row = tuple(row)
        if row not in block_of:
            block_of[row] = len(blocks)
            blocks.append(row)
        index.append(block_of[row])

    out = sys.stdout.write
    out(f"/* Made by tools/make_template_chars.py from Unicode {unicodedata.unidata_version}; do not edit. */\n")
    out(f"enum {{ CHAR_SHIFT = {SHIFT}, CHAR_SPECIAL = 1 << 24 }};\n\n")
    out("/* flags; then upper, lower, title and folded form: a distance, or CHAR_SPECIAL + index into char_special. */\n")
    out("static const struct char_record { uint16_t flags; int32_t to[4]; } char_records[] = {\n")
    for r in records:
        out("    {%d, {%d, %d, %d, %d}},\n" % r)
    out("};\n\n/* Forms of several characters: how many, then which. */\nstatic const uint16_t char_special[] = {")
    emit(out, special)
    out("};\n\nstatic const uint16_t char_block[] = {")
    emit(out, index)
    out(f"}};\n\nstatic const uint16_t char_index[][{1 << SHIFT}] = {{\n")
    for row in blocks:
        out("{")
        emit(out, row)
        out("},\n")
    out("};\n")


def emit(out, numbers):
    for i, n in enumerate(numbers):
        out(("\n    " if i % 32 == 0 else " ") + f"{n},")
    out("\n")


if __name__ == "__main__":
    main()
