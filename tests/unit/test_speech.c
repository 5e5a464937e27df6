/* What an answer is made of: reasoning, content and calls of every family, the same however the text is cut; what is no call stays content. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/str.h"
#include "format/json.h"
#include "nomoat.h"

static const char tools[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"parameters\":{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"},\"days\":{\"type\":\"integer\"},"
    "\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}},\"near\":{\"type\":[\"string\",\"null\"]},\"warm\":{\"type\":\"boolean\"}},\"required\":[\"city\"]}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"now\",\"description\":\"the time\"}}]";

/* What pieces join to: "r(...)", "c(...)", "m(...)", and a call as "NUMBER:NAME{...}"; ids are kept apart. */
typedef struct heard { nm_str text, ids; nm_speech_kind last; int32_t call; bool any; } heard;

static nm_err hear(void *arg, const nm_speech_piece *p)
{
    heard *h = arg;
    bool same = h->any && h->last == p->kind && p->kind != NM_SPEECH_CALL && (p->kind != NM_SPEECH_ARGUMENTS || h->call == p->call);
    static const char *const opens[] = {[NM_SPEECH_CONTENT] = "c(", [NM_SPEECH_REASONING] = "r(", [NM_SPEECH_CALL] = "", [NM_SPEECH_ARGUMENTS] = "", [NM_SPEECH_MARK] = "m("};
    if (!same) {
        if (h->any && h->last != NM_SPEECH_CALL && h->last != NM_SPEECH_ARGUMENTS && nm_str_puts(&h->text, ")") != NM_OK) return NM_NO_MEMORY;
        if (nm_str_puts(&h->text, opens[p->kind]) != NM_OK) return NM_NO_MEMORY;
    }
    h->any = true;
    h->last = p->kind;
    h->call = p->call;
    if (p->kind != NM_SPEECH_CALL) return nm_str_append(&h->text, p->text, p->length);
    if (nm_str_printf(&h->ids, "%s ", p->id) != NM_OK) return NM_NO_MEMORY;
    return nm_str_printf(&h->text, "%d:%s", p->call, p->name);
}

static nm_err feed(heard *h, const nm_speech_options *options, const char *text, size_t length, size_t step)
{
    nm_speech *s;
    nm_err err = nm_speech_open(&s, options);
    if (err != NM_OK) return err;
    for (size_t i = 0; err == NM_OK && i < length; i += step) err = nm_speech_push(s, text + i, length - i < step ? length - i : step, hear, h);
    if (err == NM_OK) err = nm_speech_push(s, NULL, 0, hear, h);
    if (err == NM_OK) err = nm_str_puts(&h->text, h->any && h->last != NM_SPEECH_CALL && h->last != NM_SPEECH_ARGUMENTS ? ")" : "");
    nm_speech_close(&s);
    return err;
}

static void forget(heard *h)
{
    nm_str_free(&h->text);
    nm_str_free(&h->ids);
}

/* In pieces of every size; and with each allocation failing in turn, which leaves nothing behind. */
static void expect(const nm_speech_options *options, const char *text, const char *expected)
{
    size_t length = strlen(text);
    int64_t alive = nm_mem_alive();
    for (size_t step = 1; step <= length + 1; step = step < 9 ? step + 1 : step * 2 > length && step <= length ? length + 1 : step * 2) {
        heard h = {0};
        assert_int_equal(feed(&h, options, text, length, step), NM_OK);
        assert_string_equal(h.text.data, expected);
        forget(&h);
    }
    nm_err err = NM_NO_MEMORY;
    for (int64_t n = 0; err != NM_OK; n++) {
        heard h = {0};
        nm_mem_fail_after(n);
        err = feed(&h, options, text, length, 7);
        nm_mem_fail_after(-1);
        assert_true(err == NM_OK || err == NM_NO_MEMORY);
        if (err == NM_OK) assert_string_equal(h.text.data, expected);
        forget(&h);
    }
    assert_int_equal(nm_mem_alive(), alive);
}

/* ---- Reasoning ------------------------------------------------------------------------------------------------------ */

static void plain(const char *text, bool open, const char *expected) { expect(&(nm_speech_options){.reasoning_open = open}, text, expected); }
static void marked(const char *text, bool open, const char *expected) { expect(&(nm_speech_options){.reasoning_open = open, .marks = true}, text, expected); }

static void test_reasoning(void **state)
{
    (void)state;
    plain("<think>\nhm\n</think>\n\nYes.", false, "r(hm)c(Yes.)");
    plain("\n <think>a</think>b</think>", false, "r(a)c(b</think>)");
    plain("no <think>tag</think>", false, "c(no <think>tag</think>)");
    plain("<thin", false, "c(<thin)");
    plain(" \n two\n lines \n", false, "c( \n two\n lines \n)");
    plain("<think>never closed </thin", false, "r(never closed </thin)");
    plain("\ninside\n</think>\nout", true, "r(inside)c(out)");
    plain("[THINK]x</think>[/THINK]y", false, "r(x</think>)c(y)");
    plain("", false, "");
    plain("<think>\n\n</think>\n\n4", false, "c(4)");
    plain("<thinking>a</thinking> b", false, "r(a)c(b)");
    plain("<tool_call>\n{\"name\": \"now\"}\n</tool_call>", false, "c(<tool_call>\n{\"name\": \"now\"}\n</tool_call>)");
    marked("<think>\nhm\n</think>\n\nYes.", false, "m(<think>\n)r(hm)m(\n</think>\n\n)c(Yes.)");
    marked("a < b", false, "c(a < b)");
    assert_true(nm_speech_reasoning_open("x<think>\n", 9));
    assert_false(nm_speech_reasoning_open("x<think></think>", 16));
    assert_false(nm_speech_reasoning_open("", 0));
}

static void test_marks(void **state)
{
    (void)state;
    static const char *const yes[] = {"<think>", "</think>", "[TOOL_CALLS]", "[ARGS]", "<tool_call>", "</tool_call>", "<｜tool▁sep｜>", "<|python_tag|>", "<|channel|>", "<|END_ACTION|>"};
    static const char *const no[] = {"", "<", ">", "</s>", "<|im_end|>", "[INST]", "json", "<|eot_id|>"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) assert_true(nm_speech_is_mark(yes[i]));
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) assert_false(nm_speech_is_mark(no[i]));
}

/* ---- Families: words of a template that tell, and answers ------------------------------------------------------------ */

static void family(const char *template_text, const char *text, const char *expected)
{
    expect(&(nm_speech_options){.template_text = template_text, .tools = tools, .seed = 1}, text, expected);
}

static void test_hermes(void **state)
{
    (void)state;
    static const char t[] = "<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";
#define CALL(args) "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": " args "}\n</tool_call>"
    family(t, CALL("{\"city\": \"Paris\", \"days\": 2}"), "0:get_weather{\"city\": \"Paris\", \"days\": 2}");
    family(t, "<think>\nhm\n</think>\n\nLet me look.\n\n" CALL("{\"city\": \"a </tool_call> b\"}") "\n", "r(hm)c(Let me look.)0:get_weather{\"city\": \"a </tool_call> b\"}");
    family(t, CALL("{}") "\n" CALL("{\"city\": [1, {\"a\": null}]}") "\n\nDone.", "0:get_weather{}1:get_weather{\"city\": [1, {\"a\": null}]}c(Done.)");
    family(t, "<tool_call>{\"name\":\"now\"}</tool_call>", "0:now{}");
    family(t, "<tool_call>{\"arguments\":{\"a\":1},\"name\":\"now\",\"id\":\"x\"}</tool_call>", "0:now{\"a\":1}");
    family(t, "<tool_call>{\"name\":\"now\",\"arguments\":\"{\\\"a\\\": 1}\"}</tool_call>", "0:now{\"a\": 1}");
    family(t, "<tool_call>{\"type\":\"function\",\"function\":{\"name\":\"now\",\"arguments\":{}}}</tool_call>", "0:now{}");
    family(t, "<tool_call>{\"name\":\"now\",\"arguments\":null}</tool_call>", "0:now{}");
    family(t, CALL("{\"city\": \"two\nlines\"}"), "0:get_weather{\"city\": \"two\\nlines\"}");
    family(t, CALL("{\"city\": \"Paris\"}") " and " CALL("{}"), "0:get_weather{\"city\": \"Paris\"}c(and)1:get_weather{}");
    /* No such tool, broken, or never ended. */
    family(t, "<tool_call>\n{\"name\": \"rm\", \"arguments\": {}}\n</tool_call>", "c(<tool_call>\n{\"name\": \"rm\", \"arguments\": {}}\n</tool_call>)");
    family(t, "Use <tool_call> so.", "c(Use <tool_call> so.)");
    family(t, "a\n<tool_call>\n{\"name\": \"now\" \"arguments\"", "c(a\n<tool_call>\n{\"name\": \"now\" \"arguments\")");
    family(t, "<tool_call>" CALL("{}"), "c(<tool_call>)0:get_weather{}");
    family(t, CALL("{}") "\n<tool_call>\n{\"name\": \"rm\"}", "0:get_weather{}c(<tool_call>\n{\"name\": \"rm\"})");
    family(t, "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Par", "0:get_weather{\"city\": \"Par");
    family(t, "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\" 3}}", "0:get_weather{\"city\" c(3}})");
    family(t, "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}", "0:now{}");
    family(t, "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool", "0:now{}");
    family(t, "x < y, a <tool", "c(x < y, a <tool)");
#undef CALL
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reasoning),
        cmocka_unit_test(test_marks),
        cmocka_unit_test(test_hermes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
