/* Any bytes as an answer: without tools nothing is lost but what is a mark, and that is told; with tools of any family all cuts agree, and without a call nothing is lost either.
 * The first byte chooses the family; the last, as a list of tools, is what a grammar is made of. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "nomoat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const templates[] = {
    NULL, "<|channel|><|message|>", "｜DSML｜ invoke name=", "<｜tool▁calls▁begin｜> ```json", "<｜tool▁calls▁begin｜>", "<|tool_calls_section_begin|>", "<tool_call> <function=",
    "<tool_call> <arg_key>", "<tool_call>", "<function=", "[TOOL_CALLS] [CALL_ID] [ARGS]", "[TOOL_CALLS]", "<|START_ACTION|>", "<|tool_call|>", "<tool_calls>", "<|tool_call_start|>",
    "func_name1(", "ipython \"parameters\"", "none",
};
enum { N_TEMPLATES = sizeof templates / sizeof *templates };
static const char tools[] = "[{\"function\":{\"name\":\"f\",\"parameters\":{\"properties\":{\"s\":{\"type\":\"string\"},\"i\":{\"type\":\"integer\"}}}}},{\"name\":\"g\"}]";

typedef struct heard { nm_str all, kinds[NM_SPEECH_MARK + 1]; bool called; } heard;

static nm_err hear(void *arg, const nm_speech_piece *p)
{
    heard *h = arg;
    if (p->kind == NM_SPEECH_CALL) {
        h->called = true;
        return nm_str_printf(&h->kinds[NM_SPEECH_ARGUMENTS], "\n%d %s %s ", p->call, p->id, p->name);
    }
    if (nm_str_append(&h->kinds[p->kind], p->text, p->length) != NM_OK) abort();
    return nm_str_append(&h->all, p->text, p->length);
}

static void feed(heard *h, const nm_speech_options *options, const char *text, size_t size, size_t step)
{
    nm_speech *s;
    if (nm_speech_open(&s, options) != NM_OK) abort();
    for (size_t i = 0; i < size; i += step)
        if (nm_speech_push(s, text + i, size - i < step ? size - i : step, hear, h) != NM_OK) abort();
    if (nm_speech_push(s, NULL, 0, hear, h) != NM_OK) abort();
    nm_speech_close(&s);
}

static bool same(const nm_str *a, const nm_str *b) { return a->length == b->length && (!a->length || !memcmp(a->data, b->data, a->length)); }

static void compare(const nm_speech_options *options, const char *text, size_t size, size_t step)
{
    heard whole = {0}, cut = {0};
    feed(&whole, options, text, size, size + 1);
    feed(&cut, options, text, size, step);
    for (int i = 0; i <= NM_SPEECH_MARK; i++)
        if (!same(&whole.kinds[i], &cut.kinds[i])) abort();
    if (!whole.called && !same(&whole.all, &(nm_str){(char *)text, size, 0})) abort();
    nm_str_free(&whole.all);
    nm_str_free(&cut.all);
    for (int i = 0; i <= NM_SPEECH_MARK; i++) nm_str_free(&whole.kinds[i]), nm_str_free(&cut.kinds[i]);
}

static void make_grammar(const char *text, size_t size, const char *template_text)
{
    char *list = nm_strndup(text, size), *gbnf;
    size_t length;
    nm_grammar *g;
    if (nm_speech_grammar(&gbnf, &length, template_text, list, NULL, false, false) == NM_OK) {
        (void)nm_grammar_open(&g, gbnf, length);
        nm_grammar_close(&g);
        nm_free(gbnf);
    }
    nm_free(list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size) return 0;
    int64_t alive = nm_mem_alive();
    const char *text = (const char *)data + 1, *chosen = templates[data[0] % N_TEMPLATES];
    nm_speech_options o = {.template_text = chosen, .tools = tools, .marks = true, .reasoning_open = data[0] & 128};
    if (size > 1 && text[size - 2] == ']' && *text == '[') make_grammar(text, size - 1, chosen);
    compare(&o, text, size - 1, 1);
    compare(&o, text, size - 1, 1 + size % 7);
    if (nm_mem_alive() != alive) abort();
    return 0;
}
