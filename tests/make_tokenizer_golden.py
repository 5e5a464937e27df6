#!/usr/bin/env python3
"""Writes tests/data/tokenizer/golden.h: texts, hostile ones among them, and what Hugging Face's tokenizers library makes of them.

Usage: NOMOAT_TEST_DATA=FOLDER make_tokenizer_golden.py > tests/data/tokenizer/golden.h
Needs: pip install tokenizers==0.23.3 gguf. The tokenizers are built from the vocabularies in FOLDER/tokenizers and the settings of
the models' own tokenizer.json files, which stand in PRE below.
"""
import os
import random

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers as N, pre_tokenizers as P

FOLDER = os.path.join(os.environ["NOMOAT_TEST_DATA"], "tokenizers")


def read(name):
    r = gguf.GGUFReader(os.path.join(FOLDER, name))
    field = lambda key: r.fields.get("tokenizer.ggml." + key)
    strings = lambda key: [bytes(field(key).parts[i]).decode() for i in field(key).data] if field(key) else None
    numbers = lambda key: [field(key).parts[i][0] for i in field(key).data] if field(key) else None
    return strings("tokens"), numbers("token_type"), strings("merges"), numbers("scores")


def split(regex):
    return P.Split(Regex(regex), "isolated")


def bytes_only():
    return P.ByteLevel(add_prefix_space=False, use_regex=False)


def gpt2():
    return P.ByteLevel(add_prefix_space=False, use_regex=True)


def cl100k(letters, digits, symbols, tail):
    return split("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?" + letters + "+|\\p{N}{1," + str(digits) + "}| ?[^\\s" + symbols +
                 "\\p{N}]+" + tail + "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")


UPPER, LOWER = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}%s]", "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}%s]"
SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"


def o200k(digits, tail, suffix=SUFFIX, but="", first=""):
    upper, lower = UPPER % but, LOWER % but
    return split(first + "[^\\r\\n\\p{L}\\p{N}]?" + upper + "*" + lower + "+" + suffix + "|[^\\r\\n\\p{L}\\p{N}]?" + upper + "+" + lower + "*" + suffix +
                 "|\\p{N}{1," + str(digits) + "}| ?[^\\s\\p{L}\\p{N}]+" + tail + "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")


DEEPSEEK_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝ\u1f5f-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌ"
    "\u1fd0-\u1fd3\u1fd6-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-\u212dℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃")
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
DEEPSEEK3 = ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
             "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")
GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
BREAKS = "[\\r\\n]*"
PRE = {     # name: (normalizer, stages)
    "gpt-2": (None, [gpt2()]),
    "mpt": (N.NFC(), [gpt2()]),
    "gpt-neox": (N.NFC(), [gpt2()]),
    "llama-bpe": (None, [cl100k("\\p{L}", 3, "\\p{L}", BREAKS), bytes_only()]),
    "qwen2": (N.NFC(), [cl100k("\\p{L}", 1, "\\p{L}", BREAKS), bytes_only()]),
    "qwen35": (N.NFC(), [cl100k("[\\p{L}\\p{M}]", 1, "\\p{L}\\p{M}", BREAKS), bytes_only()]),
    "seed-coder": (None, [cl100k("\\p{L}", 1, "\\p{L}", ""), bytes_only()]),
    "bailingmoe": (None, [split("'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]"
                                "|\\s+(?!\\S)|\\s+"), bytes_only()]),
    "exaone-moe": (None, [split("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}"
                                "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"), bytes_only()]),
    "gpt-4o": (None, [o200k(3, "[\\r\\n/]*"), bytes_only()]),
    "tekken": (None, [o200k(1, "[\\r\\n/]*", ""), bytes_only()]),
    "kimi-k2": (None, [o200k(3, BREAKS, but="&&[^\\p{Han}]", first="[\\p{Han}]+|"), bytes_only()]),
    "youtu": (None, [split("[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"), o200k(1, "[\\r\\n/]*"), bytes_only()]),
    "tiny_aya": (None, [split("\\d{1,3}(?=(?:\\d{3})*\\b)"), o200k(3, "[\\r\\n/]*"), bytes_only()]),
    "deepseek-llm": (None, [split("[\r\n]"), split("\\s?[" + DEEPSEEK_LETTERS + "]+"), split("\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+"), split("\\s+$"),
                            split(CJK), P.Digits(True), bytes_only()]),
    "deepseek-coder": (None, [split("[\r\n]"), split("\\s?\\p{L}+"), split("\\s?\\p{P}+"), split(CJK), P.Digits(True), bytes_only()]),
    "deepseek-v3": (None, [split("\\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK3), bytes_only()]),
    "falcon": (None, [P.Punctuation("contiguous"), gpt2(), P.Digits(False), split("[0-9][0-9][0-9]")]),
    "starcoder": (None, [P.Digits(True), gpt2()]),
    "refact": (None, [P.Digits(True), gpt2()]),
    "command-r": (N.NFC(), [P.Digits(True), gpt2()]),
    "bloom": (None, [split(" ?[^(\\s|.,!?…。，、।۔،)]+"), bytes_only()]),
    "viking": (None, [split(" ?[^(\\s|.,!?…。，、।۔،)]+"), P.Digits(True), bytes_only()]),
    "default": (None, [split("[\\p{P}\\$\\+<=>\\^~\\|]+"), split(GPT2), split("\\p{N}+"), split("[0-9][0-9][0-9]"), bytes_only()]),
}


def special(t, tokens, types):
    t.add_special_tokens([AddedToken(x, special=True, normalized=False) for x, y in zip(tokens, types) if y == 3])
    t.encode_special_tokens = True      # not parsed in text
    return t


def byte_level(name, pre):
    tokens, types, merges, _ = read(name)
    normalizer, stages = PRE[pre]
    t = Tokenizer(models.BPE({x: i for i, x in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges], ignore_merges=pre == "llama-bpe"))
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = P.Sequence(stages)
    special(t, tokens, types)
    t.add_tokens([AddedToken(x, special=False, normalized=True) for x, y in zip(tokens, types) if y == 4])
    return t


def merges_from_scores(vocabulary, scores):
    """As transformers' converter makes them."""
    out = []
    for piece, score in scores.items():
        cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in vocabulary and piece[i:] in vocabulary]
        out += [(left, right, score) for left, right in sorted(cuts, key=lambda c: (vocabulary[c[0]], vocabulary[c[1]]))]
    return [m[:2] for m in sorted(out, key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)]


def sentencepiece(name, prefix):
    tokens, types, merges, scores = read(name)
    vocabulary = {x: i for i, x in enumerate(tokens)}
    if merges:
        pairs = [tuple(m.split(" ")) for m in merges]
    else:
        pairs = merges_from_scores(vocabulary, {x: float(s) for x, s, y in zip(tokens, scores, types) if y in (1, 4)})
    t = Tokenizer(models.BPE(vocabulary, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = N.Sequence(([N.Prepend("▁")] if prefix else []) + [N.Replace(" ", "▁")])
    special(t, tokens, types)
    t.add_tokens([AddedToken(x, special=False, normalized=False, rstrip=x == "</s>") for x, y in zip(tokens, types) if y == 4])
    return t


def wordpiece(name):
    tokens, types, _, _ = read(name)
    plain = {x if y == 3 else x[1:] if x.startswith("▁") else "##" + x: i for i, (x, y) in enumerate(zip(tokens, types))}
    t = Tokenizer(models.WordPiece(plain, unk_token="[UNK]", max_input_chars_per_word=100))
    t.normalizer = N.BertNormalizer()
    t.pre_tokenizer = P.BertPreTokenizer()
    return special(t, tokens, types)


VOCABULARIES = {
    "gpt-2": lambda f: byte_level(f, "gpt-2"), "gpt-neox": lambda f: byte_level(f, "gpt-neox"), "mpt": lambda f: byte_level(f, "mpt"),
    "llama-bpe": lambda f: byte_level(f, "llama-bpe"), "qwen2": lambda f: byte_level(f, "qwen2"), "refact": lambda f: byte_level(f, "refact"),
    "deepseek-coder": lambda f: byte_level(f, "deepseek-coder"), "llama-spm": lambda f: sentencepiece(f, True),
    "phi-3": lambda f: sentencepiece(f, True), "gemma-4": lambda f: sentencepiece(f, False), "bert-bge": wordpiece}

TEXTS = [
    "", " ", "Hello, world!", "I'll've DON'T 'S 'ſ it'd WE'RE y'all 'VE", "1 12 123 1234 12345678 ½ ²³ Ⅻ ٣٤٥ ३ x²", "\r\n\r\n \n\t \n  x\n\n\n   \r y \u00a0\u2003 z\u3000",
    " " * 40 + "x" + " " * 31 + "\n" * 35, "CamelCase XMLHttpRequest snake_case HTMLs aB Ab ABc ǅa ʰA 漢A", "e\u0301 o\u0308\u0323 A\u030a \u1100\u1161\u11a8 가각힣ㅎ \u2126\u212b\u037e \u0f71\u0f72 か\u3099",
    "👨‍👩‍👧‍👦 🏳️‍🌈🇩🇪❤️👍🏽☃", "你好，世界。日本語カタカナ、ひらがな！한국어 ไทย العربية، עברית। हिन्दी நிலை ქართული", "Ελληνικά Σς Привет Ґ Straße İı ﬁ ſ",
    "<|im_start|> <|endoftext|> <s> </s> [MASK] <0x0A> ▁▁x ##ing <unk>", "$x += `a|b`^~ <= => != // /* */\n\t#include <x>\r\n{};()[]...…", "\x00\x01\x13\x1c\x7f\x80\x85\u200b\u200d\u2028\ufeff\ufffd",
    "õ ÷ ø ÿ ÁÁ", "a" * 130, "the the  the   the\u0301\u0345\u0323", "\u0300\u0300", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐐀𐐨 𠀀𫝀 \U000e0041\ue000", "http://x.y/z?a=b&c=d#e f@g.h 3.14e-10 0xDEAD 1,000,000",
]

SCRIPTS = [(0x20, 0x7f)] * 6 + [
    (0xa0, 0x250), (0x250, 0x370), (0x370, 0x400), (0x400, 0x530), (0x531, 0x600), (0x600, 0x700), (0x900, 0x980), (0xe00, 0xe80), (0xf00, 0x1000),
    (0x1100, 0x1200), (0x1780, 0x1800), (0x1e00, 0x2000), (0x2000, 0x2190), (0x2190, 0x2600), (0x2e80, 0x3100), (0x3130, 0x3200), (0x4e00, 0xa000),
    (0xac00, 0xd7a4), (0xf900, 0xfb50), (0xfe00, 0xfff0), (0x10000, 0x10200), (0x1d100, 0x1d800), (0x1f000, 0x1faff), (0x20000, 0x2a000)]


def random_text(r):
    out = []
    for _ in range(r.choice([2, 4, 7])):
        first, end = r.choice(SCRIPTS)
        out.append("".join(chr(r.randrange(first, end)) for _ in range(r.choice([1, 2, 3, 6]))))
        out.append(r.choice(["", " ", "\n", "  ", "'s", "12", "'LL", "e\u0301", ".", "A", "a"]))
    return "".join(out)


def c_string(data):
    return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\?' else "\\%03o" % b for b in data) + '"'


def numbers(values):
    return '"' + " ".join(map(str, values)) + '"'


def main():
    r = random.Random(20260102)
    texts = TEXTS + [random_text(r) for _ in range(40)]
    print("/* Generated by tests/make_tokenizer_golden.py with Hugging Face's tokenizers: do not edit. */")
    print("enum { N_TEXTS = %d };" % len(texts))
    print("static const struct { const char *bytes; size_t length; } golden_texts[N_TEXTS] = {")
    for text in texts:
        print("    {%s, %d}," % (c_string(text.encode()), len(text.encode())))
    print("};\n")
    for name, form in (("golden_nfc", N.NFC()), ("golden_nfd", N.NFD())):
        print("static const struct { const char *bytes; size_t length; } %s[N_TEXTS] = {" % name)
        for text in texts:
            data = form.normalize_str(text).encode()
            print("    {%s, %d}," % (c_string(data), len(data)))
        print("};\n")
    print("/* Bytes of each pre-token. */")
    print("static const struct { const char *name, *lengths[N_TEXTS]; } golden_pieces[] = {")
    for name, (_, stages) in PRE.items():
        rows = [[len(x) for x, _ in P.Sequence(stages).pre_tokenize_str(text)] for text in texts]
        print('    {"%s", {%s}},' % (name, ",\n        ".join(map(numbers, rows))))
    print("};\n")
    print("/* Ids without BOS, special tokens not parsed. */")
    print("static const struct { const char *vocabulary, *ids[N_TEXTS]; } golden_ids[] = {")
    for name, build in VOCABULARIES.items():
        t = build("ggml-vocab-%s.gguf" % name)
        print('    {"%s", {%s}},' % (name, ",\n        ".join(numbers(t.encode(text, add_special_tokens=False).ids) for text in texts)))
    print("};")


if __name__ == "__main__":
    main()
