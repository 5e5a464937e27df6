/* The table of pre-tokenizers, and the machine that runs their stages. The regular expressions stand beside the scanners. */
#include "text/pretokenize.h"

#include <string.h>

#include "base/err.h"
#include "text/unicode.h"

static const nm_words_spec llama3 = {.letters = NM_U_LETTER, .digits = 3, .tail = "\r\n"};
static const nm_words_spec qwen2 = {.letters = NM_U_LETTER, .digits = 1, .tail = "\r\n"};
static const nm_words_spec qwen35 = {.letters = NM_U_LETTER | NM_U_MARK, .digits = 1, .tail = "\r\n"};
static const nm_words_spec seed_coder = {.letters = NM_U_LETTER, .digits = 1, .tail = ""};
static const nm_words_spec exaone_moe = {.letters = NM_U_LETTER, .digits = 1, .tail = "\r\n/", .tail_once = true, .joined = true};
static const nm_words_spec gpt4o = {.letters = NM_U_LETTER, .digits = 3, .tail = "\r\n/"};
static const nm_words_spec youtu = {.letters = NM_U_LETTER, .digits = 1, .tail = "\r\n/"};
static const nm_words_spec tekken = {.letters = NM_U_LETTER, .digits = 1, .tail = "\r\n/", .no_suffix = true};
static const nm_words_spec kimi = {.letters = NM_U_LETTER, .digits = 3, .tail = "\r\n", .han = true};

#define RANGES(name) .ranges = name, .n_ranges = sizeof name / sizeof *name
static const uint32_t break_ranges[][2] = {{'\n', '\n'}, {'\r', '\r'}};
/* CJK as DeepSeek writes it: U+4E00-9FA5, U+0800-4E00, U+AC00-D7FF. */
static const uint32_t deepseek_cjk[][2] = {{0x800, 0x9fa5}, {0xac00, 0xd7ff}};
static const uint32_t kana_han[][2] = {{0x3040, 0x30ff}, {0x4e00, 0x9fa5}};
static const uint32_t deepseek_signs[][2] = {{0x21, 0x2f}, {0x3a, 0x7e}, {0x2018, 0x201f}, {0x3000, 0x3002}, {0xff01, 0xff0f}, {0xff1a, 0xff5e}};
/* Latin, Greek, Cyrillic, Armenian, Georgian ... letters with case, as DeepSeek LLM lists them. */
static const uint32_t deepseek_letters[][2] = {
    {0x41, 0x5a}, {0x61, 0x7a}, {0xb5, 0xb5}, {0xc0, 0xd6}, {0xd8, 0xf6}, {0xf8, 0x1ba}, {0x1bc, 0x1bf}, {0x1c4, 0x293}, {0x295, 0x2af},
    {0x370, 0x373}, {0x376, 0x377}, {0x37b, 0x37d}, {0x37f, 0x37f}, {0x386, 0x386}, {0x388, 0x38a}, {0x38c, 0x38c}, {0x38e, 0x3a1},
    {0x3a3, 0x3f5}, {0x3f7, 0x481}, {0x48a, 0x52f}, {0x531, 0x556}, {0x10a0, 0x10c5}, {0x13a0, 0x13f5}, {0x13f8, 0x13fd}, {0x1c90, 0x1cba},
    {0x1cbd, 0x1cbf}, {0x1d00, 0x1d2b}, {0x1d6b, 0x1d77}, {0x1d79, 0x1d9a}, {0x1e00, 0x1f15}, {0x1f18, 0x1f1d}, {0x1f20, 0x1f45},
    {0x1f48, 0x1f4d}, {0x1f50, 0x1f57}, {0x1f59, 0x1f59}, {0x1f5b, 0x1f5b}, {0x1f5d, 0x1f5d}, {0x1f5f, 0x1f7d}, {0x1f80, 0x1fb4},
    {0x1fb6, 0x1fbc}, {0x1fbe, 0x1fbe}, {0x1fc2, 0x1fc4}, {0x1fc6, 0x1fcc}, {0x1fd0, 0x1fd3}, {0x1fd6, 0x1fdb}, {0x1fe0, 0x1fec},
    {0x1ff2, 0x1ff4}, {0x1ff6, 0x1ffc}, {0x2102, 0x2102}, {0x2107, 0x2107}, {0x210a, 0x2113}, {0x2115, 0x2115}, {0x2119, 0x211d},
    {0x2124, 0x2124}, {0x2126, 0x2126}, {0x2128, 0x2128}, {0x212a, 0x212d}, {0x212f, 0x2134}, {0x2139, 0x2139}, {0x213c, 0x213f},
    {0x2145, 0x2149}, {0x214e, 0x214e}, {0x2183, 0x2184}, {0x2c00, 0x2c7b}, {0x2c7e, 0x2ce4}, {0x2ceb, 0x2cee}, {0x2cf2, 0x2cf3},
    {0xa640, 0xa66d}, {0xa680, 0xa69b}, {0xa722, 0xa76f}, {0xa771, 0xa787}, {0xa78b, 0xa78e}, {0xab70, 0xabbf}, {0xfb00, 0xfb06},
    {0xfb13, 0xfb17}, {0xff21, 0xff3a}, {0xff41, 0xff5a}, {0x10400, 0x1044f}, {0x104b0, 0x104d3}, {0x104d8, 0x104fb}, {0x10c80, 0x10cb2},
    {0x10cc0, 0x10cf2}, {0x118a0, 0x118df}, {0x1e900, 0x1e943}};
/* ASCII that Falcon's Punctuation takes beside the category P; llama.cpp's default leaves out the backtick. */
static const uint32_t falcon_signs[][2] = {{'$', '$'}, {'+', '+'}, {'<', '>'}, {'^', '^'}, {'`', '`'}, {'|', '|'}, {'~', '~'}};
static const uint32_t default_signs[][2] = {{'$', '$'}, {'+', '+'}, {'<', '>'}, {'^', '^'}, {'|', '|'}, {'~', '~'}};

static const nm_set_spec breaks = {RANGES(break_ranges), .most = 1};
static const nm_set_spec one_number = {.set = NM_U_NUMBER, .most = 1};
static const nm_set_spec three_numbers = {.set = NM_U_NUMBER, .most = 3};
static const nm_set_spec numbers = {.set = NM_U_NUMBER};
static const nm_set_spec spaced_letters = {.set = NM_U_LETTER, .space_before = true};
static const nm_set_spec spaced_punct = {.set = NM_U_PUNCT, .space_before = true};
static const nm_set_spec spaced_cased = {RANGES(deepseek_letters), .space_before = true};
static const nm_set_spec spaced_signs = {RANGES(deepseek_signs), .space_before = true};
static const nm_set_spec cjk = {RANGES(deepseek_cjk)};
static const nm_set_spec kana_or_han = {RANGES(kana_han)};
static const nm_set_spec falcon_punct = {RANGES(falcon_signs), .kind = NM_KIND_OLD_PUNCT};
static const nm_set_spec default_punct = {.set = NM_U_PUNCT, RANGES(default_signs)};

/* Youtu: four classes, each in runs of its own; no two share a character, so a stage each cuts as one alternation does. */
static const uint32_t youtu_hangul[][2] = {{0x3131, 0x318e}, {0xac00, 0xd7a3}};
static const uint32_t youtu_signs[][2] = {{0x2014, 0x2014}, {0x2018, 0x2019}, {0x201c, 0x201d}, {0x2026, 0x2026}, {0x3001, 0x303f},
                                          {0xfe30, 0xfe4f}, {0xff01, 0xff01}, {0xff0c, 0xff0c}, {0xff1a, 0xff1b}};
static const uint32_t youtu_bopomofo[][2] = {{0x3105, 0x312f}};
static const nm_set_spec hangul_run = {RANGES(youtu_hangul)}, sign_run = {RANGES(youtu_signs)}, bopomofo_run = {RANGES(youtu_bopomofo)};

enum family {
    GPT2, GPT2_NFC, LLAMA3, CHATGLM, QWEN2, QWEN2_PLAIN, QWEN35, SEED_CODER, EXAONE_MOE, GPT4O, TEKKEN, KIMI, YOUTU, TINY_AYA, DEEPSEEK_LLM,
    DEEPSEEK_CODER, DEEPSEEK3, FALCON, STARCODER, COMMAND_R, BLOOM, VIKING, DEFAULT
};

static const nm_pretokenizer families[] = {
    [GPT2] = {.stage = {{nm_scan_gpt2, NULL}}, .may_prefix = true},
    [GPT2_NFC] = {.stage = {{nm_scan_gpt2, NULL}}, .may_prefix = true, .nfc = true},
    [LLAMA3] = {.stage = {{nm_scan_cl100k, &llama3}}, .whole_words = true, .add_bos = true},
    [CHATGLM] = {.stage = {{nm_scan_cl100k, &llama3}}},
    [QWEN2] = {.stage = {{nm_scan_cl100k, &qwen2}}, .nfc = true},
    [QWEN2_PLAIN] = {.stage = {{nm_scan_cl100k, &qwen2}}},
    [QWEN35] = {.stage = {{nm_scan_cl100k, &qwen35}}, .nfc = true},
    [SEED_CODER] = {.stage = {{nm_scan_cl100k, &seed_coder}}},
    [EXAONE_MOE] = {.stage = {{nm_scan_cl100k, &exaone_moe}}},
    [GPT4O] = {.stage = {{nm_scan_o200k, &gpt4o}}},
    [TEKKEN] = {.stage = {{nm_scan_o200k, &tekken}}, .whole_words = true, .add_bos = true},
    [KIMI] = {.stage = {{nm_scan_o200k, &kimi}}},
    [YOUTU] = {.stage = {{nm_scan_set, &hangul_run}, {nm_scan_set, &sign_run}, {nm_scan_set, &bopomofo_run}, {nm_scan_set, &kana_or_han},
                         {nm_scan_o200k, &youtu}}, .whole_words = true},
    [TINY_AYA] = {.stage = {{nm_scan_thousands, NULL}, {nm_scan_o200k, &gpt4o}}},
    [DEEPSEEK_LLM] = {.stage = {{nm_scan_set, &breaks}, {nm_scan_set, &spaced_cased}, {nm_scan_set, &spaced_signs}, {nm_scan_final_space, NULL},
                                {nm_scan_set, &cjk}, {nm_scan_set, &one_number}}},
    [DEEPSEEK_CODER] = {.stage = {{nm_scan_set, &breaks}, {nm_scan_set, &spaced_letters}, {nm_scan_set, &spaced_punct}, {nm_scan_set, &cjk},
                                  {nm_scan_set, &one_number}}},
    [DEEPSEEK3] = {.stage = {{nm_scan_set, &three_numbers}, {nm_scan_set, &kana_or_han}, {nm_scan_deepseek3, NULL}}},
    [FALCON] = {.stage = {{nm_scan_set, &falcon_punct}, {nm_scan_gpt2, NULL}, {nm_scan_mapped_digits, NULL}, {nm_scan_three_digits, NULL}}},
    [STARCODER] = {.stage = {{nm_scan_set, &one_number}, {nm_scan_gpt2, NULL}}},
    [COMMAND_R] = {.stage = {{nm_scan_set, &one_number}, {nm_scan_gpt2, NULL}}, .nfc = true},
    [BLOOM] = {.stage = {{nm_scan_bloom, NULL}}},
    [VIKING] = {.stage = {{nm_scan_bloom, NULL}, {nm_scan_set, &one_number}}},
    [DEFAULT] = {.stage = {{nm_scan_set, &default_punct}, {nm_scan_gpt2, NULL}, {nm_scan_set, &numbers}, {nm_scan_three_digits, NULL}}},
};

static const struct { const char *name; enum family family; } names[] = {
    {"gpt-2", GPT2}, {"phi-2", GPT2}, {"jina-es", GPT2}, {"jina-de", GPT2}, {"jina-v1-en", GPT2}, {"jina-v2-es", GPT2}, {"jina-v2-de", GPT2},
    {"jina-v2-code", GPT2}, {"roberta-bpe", GPT2}, {"gigachat", GPT2}, {"a.x-4.0", GPT2}, {"mellum", GPT2}, {"modern-bert", GPT2}, {"jais", GPT2},
    {"exaone4", GPT2}, {"trillion", GPT2}, {"granite-docling", GPT2},
    {"mpt", GPT2_NFC}, {"olmo", GPT2_NFC}, {"gpt-neox", GPT2_NFC},
    {"llama-bpe", LLAMA3}, {"llama3", LLAMA3}, {"llama-v3", LLAMA3}, {"falcon3", LLAMA3}, {"falcon-h1", LLAMA3}, {"pixtral", LLAMA3},
    {"midm-2.0", LLAMA3}, {"lfm2", LLAMA3}, {"laguna", LLAMA3}, {"jina-v5-nano", LLAMA3},
    {"smaug-bpe", CHATGLM}, {"dbrx", CHATGLM}, {"chatglm-bpe", CHATGLM}, {"glm4", CHATGLM},
    {"qwen2", QWEN2}, {"deepseek-r1-qwen", QWEN2}, {"megrez", QWEN2}, {"kormo", QWEN2}, {"f2llmv2", QWEN2}, {"openpangu", QWEN2},
    {"stablelm2", QWEN2_PLAIN}, {"hunyuan", QWEN2_PLAIN}, {"grok-2", QWEN2_PLAIN}, {"solar-open", QWEN2_PLAIN}, {"bailingmoe", QWEN2_PLAIN},
    {"bailingmoe2", QWEN2_PLAIN}, {"llada-moe", QWEN2_PLAIN},
    {"qwen35", QWEN35}, {"seed-coder", SEED_CODER}, {"exaone-moe", EXAONE_MOE},
    {"gpt-4o", GPT4O}, {"gpt-oss", GPT4O}, {"o200k", GPT4O}, {"llama4", GPT4O}, {"kanana2", GPT4O}, {"minimax-m2", GPT4O},
    {"tekken", TEKKEN}, {"kimi-k2", KIMI}, {"youtu", YOUTU}, {"tiny_aya", TINY_AYA},
    {"deepseek-llm", DEEPSEEK_LLM}, {"deepseek-coder", DEEPSEEK_CODER},
    {"deepseek-v3", DEEPSEEK3}, {"hunyuan-dense", DEEPSEEK3}, {"joyai-llm", DEEPSEEK3},
    {"falcon", FALCON},
    {"starcoder", STARCODER}, {"refact", STARCODER}, {"smollm", STARCODER}, {"codeshell", STARCODER}, {"exaone", STARCODER},
    {"minerva-7b", STARCODER}, {"mellum2", STARCODER},
    {"command-r", COMMAND_R}, {"cohere2_moe", COMMAND_R},
    {"bloom", BLOOM}, {"poro-chat", BLOOM}, {"gpt3-finnish", BLOOM}, {"viking", VIKING},
    {"default", DEFAULT},
};

const char *nm_pretokenizer_name(size_t index) { return index < sizeof names / sizeof *names ? names[index].name : NULL; }

const nm_pretokenizer *nm_pretokenizer_find(const char *name, size_t length)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i].name) == length && !memcmp(names[i].name, name, length)) return &families[names[i].family];
    return NULL;
}

const char *nm_pretokenizer_for_architecture(const char *architecture, size_t length)
{
    static const char *const known[][2] = {
        {"gpt2", "gpt-2"}, {"phi2", "gpt-2"}, {"gptneox", "gpt-neox"}, {"mpt", "mpt"}, {"olmo", "olmo"}, {"falcon", "falcon"}, {"bloom", "bloom"},
        {"starcoder", "starcoder"}, {"starcoder2", "starcoder"}, {"refact", "refact"}, {"codeshell", "codeshell"}, {"command-r", "command-r"},
        {"qwen", "qwen2"}, {"qwen2", "qwen2"}, {"qwen2moe", "qwen2"}, {"qwen3", "qwen2"}, {"qwen3moe", "qwen2"}, {"dbrx", "dbrx"},
        {"jais", "jais"}, {"chatglm", "chatglm-bpe"}, {"gpt-oss", "gpt-4o"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i][0]) == length && !memcmp(known[i][0], architecture, length)) return known[i][1];
    return "default";
}

typedef struct machine { const nm_pretokenizer *how; nm_piece_fn piece; void *arg; } machine;

/* Cuts one piece by stage k and hands the parts to the next. As deep as there are stages. */
static nm_err run_stage(const machine *m, int k, const char *s, size_t length)
{
    if (!length) return NM_OK;
    if (k == NM_MAX_STAGES || !m->how->stage[k].scan) return m->piece(m->arg, s, length);
    size_t gap = 0;
    for (size_t at = 0; at < length;) {
        nm_span match = m->how->stage[k].scan(s, at, length, m->how->stage[k].spec);
        at = match.end;
        if (match.end == match.start) continue;
        NM_TRY(run_stage(m, k + 1, s + gap, match.start - gap));
        NM_TRY(run_stage(m, k + 1, s + match.start, match.end - match.start));
        gap = match.end;
    }
    return run_stage(m, k + 1, s + gap, length - gap);
}

nm_err nm_pretokenize(const nm_pretokenizer *how, const char *text, size_t length, nm_piece_fn piece, void *arg)
{
    machine m = {how, piece, arg};
    return run_stage(&m, 0, text, length);
}
