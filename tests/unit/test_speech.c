/* What an answer is made of: reasoning, content and calls of every family, the same however the text is cut; what is no call stays content. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
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
    nm_speech *within;
    assert_int_equal(nm_speech_open(&within, &(nm_speech_options){.reasoning_open = true}), NM_OK);
    assert_string_equal(nm_speech_closing(within, "x[THINK]", 8), "[/THINK]");
    assert_null(nm_speech_closing(within, "x", 1));
    nm_speech_close(&within);
    assert_false(nm_speech_reasoning_open("x<think></think>", 16));
    assert_false(nm_speech_reasoning_open("", 0));
}

/* As the text goes on, whether it is reasoning is known. */
static void reasons(const char *template_text, const char *text, bool open, bool expected)
{
    nm_speech *s;
    heard h = {0};
    assert_int_equal(nm_speech_open(&s, &(nm_speech_options){.template_text = template_text, .reasoning_open = open}), NM_OK);
    assert_int_equal(nm_speech_push(s, text, strlen(text), hear, &h), NM_OK);
    assert_int_equal(nm_speech_reasons(s), expected);
    nm_speech_close(&s);
    forget(&h);
}

static void test_reasons(void **state)
{
    (void)state;
    static const char harmony[] = "<|channel|><|message|>";
    reasons(NULL, "", false, false);
    reasons(NULL, "", true, true);
    reasons(NULL, "<think>", false, true);
    reasons(NULL, "<think>a</think>", false, false);
    reasons(NULL, "a <think>", false, false);
    reasons(harmony, "<|channel|>analysis", false, false);
    reasons(harmony, "<|channel|>analysis<|message|>", false, true);
    reasons(harmony, "<|channel|>analysis<|message|>a<|end|>", false, false);
    reasons(harmony, "<|channel|>final<|message|>", false, false);
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
    /* As Qwen2.5-Coder calls, whatever its template says. */
    family(t, "<think>hm</think>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}", "r(hm)0:get_weather{\"city\": \"Paris\"}");
    family(t, "```json\n{\n  \"name\": \"now\",\n  \"arguments\": {}\n}\n```", "0:now{}");
    family(t, "{\"name\": \"rm\", \"arguments\": {}}", "c({\"name\": \"rm\", \"arguments\": {}})");
    family(t, "So: {\"name\": \"now\", \"arguments\": {}}", "c(So: {\"name\": \"now\", \"arguments\": {}})");
#undef CALL
}

static void test_parameters(void **state)
{
    (void)state;
    static const char coder[] = "<tool_call>\n<function=example>", glm[] = "<tool_call>{name}\n<arg_key>", dsml[] = "｜DSML｜ <invoke name=";
    family(coder, "<tool_call>\n<function=get_weather>\n<parameter=city>\n  New \"York\"\n\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>",
        "0:get_weather{\"city\": \"  New \\\"York\\\"\\n\", \"days\": 2}");
    family(coder, "So:\n<tool_call>\n<function=get_weather>\n<parameter=tags>\n[\"a\",\n\"b\"]\n</parameter>\n<parameter=near>\nnull\n</parameter>\n<parameter=warm>\nTrue\n"
        "</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>", "c(So:)0:get_weather{\"tags\": [\"a\",\n\"b\"], \"near\": null, \"warm\": true}1:now{}");
    family(coder, "<function=get_weather><parameter=city>a </b> c</parameter></function></tool_call>", "0:get_weather{\"city\": \"a </b> c\"}");
    family(coder, "<tool_call><function=get_weather><parameter=near>12</parameter><parameter=days>two</parameter>", "0:get_weather{\"near\": \"12\", \"days\": \"two\"}");
    family(coder, "<tool_call><function=get_weather><parameter=city>Par</para", "0:get_weather{\"city\": \"Par</para");
    family(coder, "<tool_call><function=get_weather><parameter=city>x</parameter>?", "0:get_weather{\"city\": \"x\"}c(?)");
    family(coder, "<tool_call>\n<function=rm>\n</function>", "c(<tool_call>\n<function=rm>\n</function>)");
    family(glm, "ok\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris\n</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
        "c(ok)0:get_weather{\"city\": \"Paris\\n\", \"days\": 3}");
    family(glm, "<tool_call>now</tool_call><tool_call>now\n</tool_call>", "0:now{}1:now{}");
    family(dsml, "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"get_weather\">\n<｜DSML｜parameter name=\"city\" string=\"true\">12</｜DSML｜parameter>\n"
        "<｜DSML｜parameter name=\"near\" string=\"false\">12</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke name=\"now\">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
        "0:get_weather{\"city\": \"12\", \"near\": 12}1:now{}");
    family("<atem:invoke <atem:parameter", "<atem:function_calls>\n<atem:invoke name=\"get_weather\">\n<atem:parameter name=\"city\">Rome</atem:parameter>\n</atem:invoke>\n</atem:function_calls>\n",
        "0:get_weather{\"city\": \"Rome\"}");
}

static void test_mistral(void **state)
{
    (void)state;
    static const char old[] = "[TOOL_CALLS][", args[] = "[TOOL_CALLS] [ARGS]", ids[] = "[TOOL_CALLS] [CALL_ID] [ARGS]";
    family(old, "[TOOL_CALLS] [{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}, \"id\": \"abcdefghi\"}, {\"name\": \"now\", \"arguments\": {}}]",
        "0:get_weather{\"city\": \"Paris\"}1:now{}");
    family(old, "Hm [TOOL_CALLS][{\"name\": \"rm\", \"arguments\": {}}]", "c(Hm [TOOL_CALLS][{\"name\": \"rm\", \"arguments\": {}}])");
    family(old, "[TOOL_CALLS][{\"name\": \"now\", \"arguments\": {}}, 3]", "0:now{}c(, 3])");
    family(args, "[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Paris\"}[TOOL_CALLS]now[ARGS]{}", "0:get_weather{\"city\": \"Paris\"}1:now{}");
    family(args, "[TOOL_CALLS][{\"name\": \"now\"}]", "0:now{}");
    family(ids, "[TOOL_CALLS]get_weather[CALL_ID]123456789[ARGS]{\"city\": 1}", "0:get_weather{\"city\": 1}");
    family(ids, "[TOOL_CALLS]now[ARGS] {}", "0:now{}");
    family(ids, "[TOOL_CALLS]now{}", "c([TOOL_CALLS]now{})");
}

static void test_deepseek(void **state)
{
    (void)state;
    static const char r1[] = "<｜tool▁calls▁begin｜> ```json", v31[] = "<｜tool▁calls▁begin｜>";
    family(r1, "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{\"city\": \"Paris\"}\n```<｜tool▁call▁end｜>\n"
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{\n}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>", "0:get_weather{\"city\": \"Paris\"}1:now{\n}");
    family(v31, "Yes.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"city\": \"京\"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>", "c(Yes.)0:get_weather{\"city\": \"京\"}1:now{}");
    family(v31, "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>rm<｜tool▁sep｜>{}", "c(<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>rm<｜tool▁sep｜>{})");
}

static void test_llama(void **state)
{
    (void)state;
    static const char json[] = "ipython {\"name\": function name, \"parameters\": dictionary}", python[] = "[func_name1(params_name1=params_value1)]";
    family(json, "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Paris\"}}", "0:get_weather{\"city\": \"Paris\"}");
    family(json, "{\"name\": \"now\", \"parameters\": {}}; {\"name\": \"now\", \"parameters\": {}}", "0:now{}1:now{}");
    family(json, "\n {\"type\": \"function\", \"function\": \"now\", \"parameters\": {}}", "0:now{}");
    family(json, "<|python_tag|>{\"name\": \"now\", \"parameters\": {}}; {\"name\": \"now\", \"parameters\": {}}", "0:now{}1:now{}");
    family(json, "{\"name\": \"Bob\", \"age\": 3}", "c({\"name\": \"Bob\", \"age\": 3})");
    family(json, "{\"age\": 3}", "c({\"age\": 3})");
    family(json, "Call {\"name\": \"now\", \"parameters\": {}}", "c(Call {\"name\": \"now\", \"parameters\": {}})");
    family(python, "[get_weather(city='Par\\'is \"x\"', days=2, tags=[\"a\", 'b,)'], near=None, warm=True), now()]",
        "0:get_weather{\"city\": \"Par'is \\\"x\\\"\", \"days\": 2, \"tags\": [\"a\", \"b,)\"], \"near\": null, \"warm\": true}1:now{}");
    family(python, "[1, 2] is a list", "c([1, 2] is a list)");
    family(python, "[now](http://a)", "c([now](http://a))");
    family(python, "[get_weather(3)]", "c([get_weather(3)])");
}

static void test_others(void **state)
{
    (void)state;
    family("<|START_ACTION|>", "<|START_THINKING|>hm<|END_THINKING|><|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"now\", \"parameters\": {}},\n"
        "    {\"tool_call_id\": \"1\", \"tool_name\": \"get_weather\", \"parameters\": {\"city\": \"a\"}}\n]<|END_ACTION|>", "r(hm)0:now{}1:get_weather{\"city\": \"a\"}");
    family("Action: ```json", "Action:\n```json\n[\n {\n \"tool_name\": \"now\",\n \"parameters\": {}\n }\n]```\n", "0:now{}");
    family("<|tool_call|> <|/tool_call|>", "<|tool_call|>[{\"name\": \"now\", \"arguments\": {}}]<|/tool_call|>", "0:now{}");
    family("<|tool|> <|/tool|>", "<|tool_call|>[{\"name\": \"now\", \"parameters\": {}}]<|/tool_call|>", "0:now{}");
    family("<|tool_call|>", "<|tool_call|> [{\"name\": \"now\", \"arguments\": {}}, {\"name\": \"now\", \"arguments\": {}}]", "0:now{}1:now{}");
    family("<|tool_call|>", "<tool_call>[{\"name\": \"now\", \"arguments\": {}}]", "0:now{}");
    family("<tool_calls>[{", "a\n<tool_calls>[{\"name\": \"now\", \"arguments\": {}}]</tool_calls>", "c(a)0:now{}");
    family("<tool_calls>\n", "<tool_calls>\n{\"name\": \"now\", \"arguments\": {}}\n{\"name\": \"now\", \"arguments\": {}}\n</tool_calls>", "0:now{}1:now{}");
    family("functools[", " functools[{\"name\": \"now\", \"arguments\": {}}]", "0:now{}");
    family("<|function_call|>", "<|function_call|>{\"name\": \"now\", \"arguments\": {\"a\": 1}}", "0:now{\"a\": 1}");
    family("<|tool_calls_section_begin|>", "I will.<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
        "<|tool_call_begin|>functions.get_weather:1<|tool_call_argument_begin|>{\"city\":\"x\"}<|tool_call_end|><|tool_calls_section_end|>", "c(I will.)0:now{}1:get_weather{\"city\":\"x\"}");
    family("<|tool_call_start|>", "<|tool_call_start|>[get_weather(city=\"Paris\")]<|tool_call_end|>Checking.", "0:get_weather{\"city\": \"Paris\"}c(Checking.)");
    family("<function= </function>", "<function=get_weather>{\"city\": \"x\"}</function><function=now>{}</function>", "0:get_weather{\"city\": \"x\"}1:now{}");
    family("<|tool_call>call:", "<|channel>thought\nhm\n<channel|><|tool_call>call:get_weather{city:<|\"|>a, \"}\" <b<|\"|>,days:2,tags:[<|\"|>x}<|\"|>, <|\"|>y<|\"|>],warm:true}<tool_call|>"
        "<|tool_call>call:now{}<tool_call|>", "r(hm)0:get_weather{\"city\": \"a, \\\"}\\\" <b\", \"days\": 2, \"tags\": [\"x}\", \"y\"], \"warm\": true}1:now{}");
    family("no tools", "```json\n{\"tool_call\": {\"name\": \"now\", \"arguments\": {}}}\n```", "0:now{}");
    family("no tools", "```json\n{\"a\": 1}\n```", "c(```json\n{\"a\": 1}\n```)");
    family("no tools", "{\"name\": \"now\", \"arguments\": {\"a\": [1.5e3, -0, true]}}", "0:now{\"a\": [1.5e3, -0, true]}");
}

static void test_harmony(void **state)
{
    (void)state;
    static const char t[] = "<|start|><|channel|><|message|>";
    family(t, "<|channel|>analysis<|message|>Need it.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\": \"Paris\"}<|call|>",
        "r(Need it.)0:get_weather{\"city\": \"Paris\"}");
    family(t, "<|channel|>final<|message|>Hello <b>.", "c(Hello <b>.)");
    family(t, "<|start|>assistant to=functions.now<|channel|>commentary json<|message|>{}", "0:now{}");
    family(t, "<|channel|>commentary<|message|>First:\n<|end|><|start|>assistant<|channel|>commentary to=functions.now<|message|> {} <|call|>", "c(First:\n)0:now{}");
    family(t, "<|channel|>commentary to=functions.rm<|message|>{}", "c(<|channel|>commentary to=functions.rm<|message|>{})");
    family(t, "plain <|ch", "c(plain <|ch)");
    family(t, "<|channel|>analysis<|message|>never ended", "r(never ended)");
    family(t, "<|channel|>fin", "c(<|channel|>fin)");
    expect(&(nm_speech_options){.template_text = t}, "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b", "r(a)c(b)");
}

/* Ids are of the seed and the number; nine letters and digits where templates ask for it. */
static void test_ids(void **state)
{
    (void)state;
    static const char two[] = "[TOOL_CALLS][{\"name\": \"now\"}, {\"name\": \"now\"}]", hermes[] = "<tool_call>{\"name\": \"now\"}</tool_call><tool_call>{\"name\": \"now\"}</tool_call>";
    heard a = {0}, b = {0}, c = {0}, d = {0};
    nm_speech_options o = {.template_text = "<tool_call>", .tools = tools, .seed = 5};
    assert_int_equal(feed(&a, &o, hermes, sizeof hermes - 1, 3), NM_OK);
    assert_int_equal(feed(&b, &o, hermes, sizeof hermes - 1, 50), NM_OK);
    o.seed = 6;
    assert_int_equal(feed(&c, &o, hermes, sizeof hermes - 1, 50), NM_OK);
    o.template_text = "[TOOL_CALLS]";
    assert_int_equal(feed(&d, &o, two, sizeof two - 1, 50), NM_OK);
    assert_string_equal(a.ids.data, b.ids.data);
    assert_string_not_equal(a.ids.data, c.ids.data);
    assert_int_equal(strlen(a.ids.data), 2 * (29 + 1));
    assert_memory_equal(a.ids.data, "call_", 5);
    assert_memory_not_equal(a.ids.data, a.ids.data + 30, 29);
    assert_int_equal(strlen(d.ids.data), 2 * (9 + 1));
    forget(&a), forget(&b), forget(&c), forget(&d);
}

/* Deep and long: bounded, and still nothing is lost. */
static void test_bounds(void **state)
{
    (void)state;
    static char text[700000];
    nm_speech_options o = {.template_text = "<tool_call>", .tools = tools};
    heard h = {0};
    size_t n = (size_t)snprintf(text, sizeof text, "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": ");
    memset(text + n, '[', 5000);
    assert_int_equal(feed(&h, &o, text, n + 5000, 100), NM_OK);
    assert_memory_equal(h.text.data, "0:now{\"a\": [", 11);
    assert_int_equal(strlen(h.text.data), strlen("0:now{\"a\": c()") + 5000);
    forget(&h);
    h = (heard){0};
    n = (size_t)snprintf(text, sizeof text, "<tool_call>{\"arguments\": {\"a\": \"");
    memset(text + n, 'x', sizeof text - n);
    assert_int_equal(feed(&h, &o, text, sizeof text, 1000), NM_OK);
    assert_int_equal(h.text.length, sizeof text + 3);
    forget(&h);
    h = (heard){0};
    memset(text, '\n', sizeof text);
    assert_int_equal(feed(&h, &o, text, sizeof text, 1000), NM_OK);
    assert_int_equal(h.text.length, sizeof text + 3);
    forget(&h);
}

static void test_bad_tools(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "{}", "[1]", "[{}]", "[{\"function\": {\"name\": 3}}]", "[{\"function\": {\"name\": \"\"}}]", "[{"};
    nm_speech *s;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(nm_speech_open(&s, &(nm_speech_options){.template_text = "<tool_call>", .tools = bad[i]}), NM_USAGE);
        assert_null(s);
    }
    expect(&(nm_speech_options){.template_text = "<tool_call>", .tools = "[]"}, "<tool_call> ", "c(<tool_call> )");
}

/* An answer that is bound to calls, cut anywhere: calls as far as they came, and never content. */
static void test_cut(void **state)
{
    (void)state;
    static const struct { const char *template_text, *text, *expected; } all[] = {
        {"<tool_call>", "<tool_c", ""}, {"<tool_call>", "<tool_call>\n{\"name\": \"now\", \"argu", ""}, {"<tool_call> <think>", "<thi", ""},
        {"<tool_call>", "<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a", "0:now{\"a"}, {"<tool_call>", "<think>hm</think>\n\n<tool_", "r(hm)"},
        {"<tool_call>", "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"na", "0:now{}"},
        {"<tool_call>", "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</too", "0:now{}"},
        {"<tool_call> <function=", "<tool_call>\n<function=get_w", ""}, {"<tool_call> <function=", "<tool_call>\n<function=get_weather>\n<parameter=city>\nPar", "0:get_weather{\"city\": \"Par"},
        {"[TOOL_CALLS]", "[TOOL_CA", ""}, {"[TOOL_CALLS]", "[TOOL_CALLS][{\"name\": \"now\", \"arguments\": {}}, {\"name", "0:now{}"},
        {"ipython \"parameters\"", "{\"name\": \"no", ""}, {"Action: ```json", "Action:```js", ""},
        {"<|channel|><|message|>", "<|channel|>commentary to=functions.now <|constr", ""}, {"<|channel|><|message|>", "<|chan", ""},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        expect(&(nm_speech_options){.template_text = all[i].template_text, .tools = tools, .must_call = true}, all[i].text, all[i].expected);
    family("<tool_call>", "<tool_c", "c(<tool_c)");
}

/* A header that is longer than any counts for text, in one piece as in many. */
static void test_long_header(void **state)
{
    (void)state;
    nm_speech_options o = {.template_text = "<|channel|><|message|>", .tools = tools};
    for (int n = 480; n < 520; n++) {
        char text[600], expected[600];
        int shown = n + 11 <= 512 ? 0 : n;
        memset(text, 'x', sizeof text);
        memcpy(text, "<|channel|>", 11);
        snprintf(text + n, sizeof text - (size_t)n, "<|message|>hi");
        snprintf(expected, sizeof expected, "c(%.*shi)", shown, text);
        heard whole = {0}, cut = {0};
        assert_int_equal(feed(&whole, &o, text, strlen(text), sizeof text), NM_OK);
        assert_int_equal(feed(&cut, &o, text, strlen(text), 1), NM_OK);
        assert_string_equal(whole.text.data, expected);
        assert_string_equal(cut.text.data, expected);
        forget(&whole);
        forget(&cut);
    }
}

/* ---- Grammars of calls ------------------------------------------------------------------------------------------------ */

static const char asked[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"parameters\":{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"},\"days\":{\"type\":\"integer\"},"
    "\"unit\":{\"type\":\"string\",\"enum\":[\"C\",\"F\"]},\"at\":{\"$ref\":\"#/$defs/place\"}},\"required\":[\"city\"],\"additionalProperties\":false,"
    "\"$defs\":{\"place\":{\"type\":\"array\",\"items\":{\"type\":\"number\"}}}}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"now\"}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"set\",\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"boolean\"},\"b\":{\"type\":\"integer\"}}}}}]";

typedef struct bound { const char *template_text, *choice; bool one, open; nm_grammar *grammar; } bound;

static void bind(bound *b, const char *template_text, const char *choice, bool one, bool open)
{
    char *gbnf;
    size_t length;
    *b = (bound){template_text, choice, one, open, NULL};
    assert_int_equal(nm_speech_grammar(&gbnf, &length, template_text, asked, choice, one, open), NM_OK);
    assert_int_equal(strlen(gbnf), length);
    nm_err err = nm_grammar_open(&b->grammar, gbnf, length);
    if (err != NM_OK) print_message("%s\n%s\n", nm_error_text(), gbnf);
    assert_int_equal(err, NM_OK);
    nm_free(gbnf);
}

static bool fits(const bound *b, const char *text)
{
    bool matches;
    assert_int_equal(nm_grammar_matches(b->grammar, text, strlen(text), &matches), NM_OK);
    return matches;
}

/* What the grammar admits is heard as calls, and as nothing else. */
static void admits(const bound *b, const char *text, const char *expected)
{
    assert_true(fits(b, text));
    expect(&(nm_speech_options){.template_text = b->template_text, .tools = asked, .reasoning_open = b->open}, text, expected);
}

static void test_grammar_hermes(void **state)
{
    (void)state;
    bound b;
    bind(&b, "<tool_call> <think>", NULL, false, false);
    admits(&b, "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>", "0:now{}");
    admits(&b, "<think>\nhm <b>\n</thin></think>\n\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
        "r(hm <b>\n</thin>)0:now{}1:now{}");
    assert_true(fits(&b, "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\":\"Paris\"}}\n</tool_call>"));
    assert_false(fits(&b, ""));
    assert_false(fits(&b, "Hello"));
    assert_false(fits(&b, "<think>\nhm</think>"));
    assert_false(fits(&b, "<tool_call>\n{\"name\": \"rm\", \"arguments\": {}}\n</tool_call>"));
    assert_false(fits(&b, "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {}}\n</tool_call>"));
    assert_false(fits(&b, "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\":3}}\n</tool_call>"));
    nm_grammar_close(&b.grammar);
    bind(&b, "<tool_call> <think>", "get_weather", true, true);
    admits(&b, "hm</think>\n\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\":\"Paris\"}}\n</tool_call>", "r(hm)0:get_weather{\"city\":\"Paris\"}");
    assert_false(fits(&b, "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\":\"Paris\"}}\n</tool_call>"));
    assert_false(fits(&b, "</think><tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>"));
    assert_false(fits(&b, "</think><tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\":\"\"}}\n</tool_call>\n"
        "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\":\"\"}}\n</tool_call>"));
    nm_grammar_close(&b.grammar);
}

static void test_grammar_parameters(void **state)
{
    (void)state;
    bound b;
    bind(&b, "<tool_call> <function=", NULL, false, false);
    admits(&b, "<tool_call>\n<function=get_weather>\n<parameter=city>\nNew </par York\n</parameter>\n<parameter=days>\n-2\n</parameter>\n</function>\n</tool_call>",
        "0:get_weather{\"city\": \"New </par York\", \"days\": -2}");
    admits(&b, "<tool_call>\n<function=get_weather>\n<parameter=city>\n<<</</p</parameter\n</parameter>\n<parameter=unit>\nC\n</parameter>\n<parameter=at>\n[1]\n</parameter>\n"
        "</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>", "0:get_weather{\"city\": \"<<</</p</parameter\", \"unit\": \"C\", \"at\": [1]}1:now{}");
    assert_false(fits(&b, "<tool_call>\n<function=get_weather>\n</function>\n</tool_call>"));
    assert_false(fits(&b, "<tool_call>\n<function=get_weather>\n<parameter=city>\na\n</parameter>\n<parameter=days>\ntwo\n</parameter>\n</function>\n</tool_call>"));
    assert_false(fits(&b, "<tool_call>\n<function=get_weather>\n<parameter=city>\na\n</parameter>\n<parameter=unit>\nK\n</parameter>\n</function>\n</tool_call>"));
    nm_grammar_close(&b.grammar);
    bind(&b, "<tool_call> <arg_key>", NULL, false, false);
    admits(&b, "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>", "0:get_weather{\"city\": \"Paris\"}1:now{}");
    nm_grammar_close(&b.grammar);
    bind(&b, "｜DSML｜ invoke name=", NULL, false, false);
    admits(&b, "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"get_weather\">\n<｜DSML｜parameter name=\"city\" string=\"true\">a｜D</｜DSML</｜DSML｜parameter>\n"
        "<｜DSML｜parameter name=\"days\" string=\"false\">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>", "0:get_weather{\"city\": \"a｜D</｜DSML\", \"days\": 3}");
    nm_grammar_close(&b.grammar);
    bind(&b, "<|tool_call>call:", NULL, false, false);
    admits(&b, "<|tool_call>call:get_weather{city:<|\"|>a <b<|\"|>,unit:<|\"|>C<|\"|>,at:[1,2]}<tool_call|>", "0:get_weather{\"city\": \"a <b\", \"unit\": \"C\", \"at\": [1,2]}");
    admits(&b, "<|tool_call>call:set{a:true}<tool_call|>", "0:set{\"a\": true}");
    assert_false(fits(&b, "<|tool_call>call:get_weather{}<tool_call|>"));
    nm_grammar_close(&b.grammar);
    bind(&b, "func_name1(", NULL, false, false);
    admits(&b, "[get_weather(city=\"Paris\", unit=\"F\"), now()]", "0:get_weather{\"city\": \"Paris\", \"unit\": \"F\"}1:now{}");
    admits(&b, "[set(), set(b=1), set(a=true, b=2)]", "0:set{}1:set{\"b\": 1}2:set{\"a\": true, \"b\": 2}");
    assert_false(fits(&b, "[]"));
    assert_false(fits(&b, "[get_weather(days=2)]"));
    assert_false(fits(&b, "[set(, b=1)]"));
    nm_grammar_close(&b.grammar);
}

/* A whole answer for every further family. */
static void test_grammar_families(void **state)
{
    (void)state;
    static const struct { const char *template_text, *answer; } all[] = {
        {"<|channel|><|message|>", "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}"},
        {"<｜tool▁calls▁begin｜> ```json", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"},
        {"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"},
        {"<|tool_calls_section_begin|>", "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"},
        {"<atem:invoke <atem:parameter", "<atem:function_calls>\n<atem:invoke name=\"now\">\n</atem:invoke>\n</atem:function_calls>"},
        {"<function=", "<function=now>{}</function>"},
        {"[TOOL_CALLS] [CALL_ID]", "[TOOL_CALLS]now[CALL_ID]abc123XYZ[ARGS]{}"},
        {"[TOOL_CALLS] [ARGS]", "[TOOL_CALLS]now[ARGS]{}"},
        {"[TOOL_CALLS]", "[TOOL_CALLS][{\"name\": \"now\", \"arguments\": {}}]"},
        {"<|START_ACTION|>", "<|START_ACTION|>[\n{\"tool_call_id\": \"0\", \"tool_name\": \"now\", \"parameters\": {}}\n]<|END_ACTION|>"},
        {"Action: ```json", "Action:```json\n[\n{\"tool_name\": \"now\", \"parameters\": {}}\n]```"},
        {"<|function_call|>", "<|function_call|>{\"name\": \"now\", \"arguments\": {}}"},
        {"<|tool|><|/tool|>", "<|tool_call|>[{\"name\": \"now\", \"arguments\": {}}]<|/tool_call|>"},
        {"<|tool_call|>", "<|tool_call|>[{\"name\": \"now\", \"arguments\": {}}]"},
        {"<|tool_call>call:", "<|tool_call>call:now{}<tool_call|>"},
        {"<tool_calls>[", "<tool_calls>[{\"name\": \"now\", \"arguments\": {}}]</tool_calls>"},
        {"<tool_calls>", "<tool_calls>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_calls>"},
        {"functools[", "functools[{\"name\": \"now\", \"arguments\": {}}]"},
        {"<|tool_call_start|>", "<|tool_call_start|>[now()]<|tool_call_end|>"},
        {"ipython \"parameters\"", "{\"name\": \"now\", \"parameters\": {}}"},
        {"no tools", "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        bound b;
        bind(&b, all[i].template_text, NULL, false, false);
        admits(&b, all[i].answer, "0:now{}");
        assert_false(fits(&b, "now"));
        nm_grammar_close(&b.grammar);
    }
    bound b;
    bind(&b, "<|channel|><|message|>", NULL, false, false);
    admits(&b, "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}", "r(hm)0:now{}");
    nm_grammar_close(&b.grammar);
}

/* Marks of the notation may be control tokens; names, values and free text never. */
static void test_grammar_marks(void **state)
{
    (void)state;
    static const struct { const char *template_text, *marks[4]; } all[] = {
        {"[TOOL_CALLS] [ARGS]", {"@\"[TOOL_CALLS]\"", "@\"[ARGS]\""}}, {"<tool_call> <think>", {"@\"<think>\"", "@\"</think>\"", "@\"<tool_call>\"", "@\"</tool_call>\""}},
        {"｜DSML｜ invoke name=", {"\"<\" ( @\"｜DSML｜\"", "@\"<｜DSML｜tool_calls>\""}}, {"<|tool_call>call:", {"@\"<|\\\"|>\"", "@\"<|tool_call>\"", "@\"<tool_call|>\""}},
        {"<｜tool▁calls▁begin｜>", {"@\"<｜tool▁calls▁begin｜>\"", "@\"<｜tool▁sep｜>\""}},
    };
    static const char named[] = "[{\"name\":\"f\",\"parameters\":{\"type\":\"object\",\"properties\":{\"<think>\":{\"const\":\"<tool_call>\"}}}}]";
    char *gbnf;
    size_t length;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        assert_int_equal(nm_speech_grammar(&gbnf, &length, all[i].template_text, asked, NULL, false, false), NM_OK);
        for (size_t k = 0; k < 4 && all[i].marks[k]; k++)
            if (!strstr(gbnf, all[i].marks[k])) fail_msg("%s: no %s in\n%s", all[i].template_text, all[i].marks[k], gbnf);
        nm_free(gbnf);
    }
    assert_int_equal(nm_speech_grammar(&gbnf, &length, "[TOOL_CALLS]", named, NULL, false, false), NM_OK);
    assert_null(strstr(gbnf, "@\"<"));
    nm_free(gbnf);
    assert_true(nm_speech_is_mark("[TOOL_CALLS]") && nm_speech_is_mark("<|python_tag|>") && nm_speech_is_mark("<|channel>") && nm_speech_is_mark("</think>"));
    assert_false(nm_speech_is_mark("<|im_end|>") || nm_speech_is_mark("think") || nm_speech_is_mark("<"));
}

/* Parameters that are strings by other words than "type": "string": the grammar writes them as JSON, and so they are read. */
static void test_grammar_strings(void **state)
{
    (void)state;
    static const char paint[] = "[{\"name\":\"paint\",\"parameters\":{\"type\":\"object\",\"required\":[\"a\",\"b\",\"c\",\"d\"],\"properties\":{\"a\":{\"enum\":[\"red\",\"blue\"]},"
        "\"b\":{\"type\":[\"string\"]},\"c\":{\"anyOf\":[{\"const\":\"x\"},{\"type\":\"string\"}]},\"d\":{\"type\":\"string\"}}}}]";
    static const struct { const char *template_text, *text, *plain; } all[] = {
        {"<tool_call> <function=", "<tool_call>\n<function=paint>\n<parameter=a>\n\"red\"\n</parameter>\n<parameter=b>\n\"x y\"\n</parameter>\n<parameter=c>\n\"x\"\n</parameter>\n"
            "<parameter=d>\n\"d\"\n</parameter>\n</function>\n</tool_call>", "<tool_call>\n<function=paint>\n<parameter=a>\nred\n</parameter>\n"},
        {"<tool_call> <arg_key>", "<tool_call>paint\n<arg_key>a</arg_key>\n<arg_value>\"red\"</arg_value>\n<arg_key>b</arg_key>\n<arg_value>\"x y\"</arg_value>\n<arg_key>c</arg_key>\n"
            "<arg_value>\"x\"</arg_value>\n<arg_key>d</arg_key>\n<arg_value>\"d\"</arg_value>\n</tool_call>", "<tool_call>paint\n<arg_key>a</arg_key>\n<arg_value>red</arg_value>\n"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        nm_speech_options o = {.template_text = all[i].template_text, .tools = paint};
        char *gbnf;
        size_t length;
        bound b = {0};
        assert_int_equal(nm_speech_grammar(&gbnf, &length, all[i].template_text, paint, NULL, true, false), NM_OK);
        assert_int_equal(nm_grammar_open(&b.grammar, gbnf, length), NM_OK);
        assert_true(fits(&b, all[i].text));
        expect(&o, all[i].text, "0:paint{\"a\": \"red\", \"b\": \"x y\", \"c\": \"x\", \"d\": \"\\\"d\\\"\"}");
        expect(&o, all[i].plain, "0:paint{\"a\": \"red\"}");
        nm_grammar_close(&b.grammar);
        nm_free(gbnf);
    }
}

/* Strings that stand between marks are bound as those in JSON are, and never hold the mark. */
static void test_grammar_bound_strings(void **state)
{
    (void)state;
    static const struct { const char *schema, *yes[4], *no[6]; } all[] = {
        {"{\"type\":\"string\"}", {"", "a\nb<b>\"\\", "</param</p", "<</parameter"}, {"</parameter>", "a</parameter>b", "</</parameter>"}},
        {"{\"type\":\"string\",\"pattern\":\"^[a-z<]+$\"}", {"a", "a<b"}, {"", "A", "a b"}},
        {"{\"type\":\"string\",\"pattern\":\"b\"}", {"b", "abc\n"}, {"", "a", "b</parameter>"}},
        {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", {"ab", "a<\xc3\xa9"}, {"", "a", "abcd"}},
        {"{\"type\":\"string\",\"maxLength\":2,\"pattern\":\"^a*$\"}", {"", "a", "aa"}, {"aaa", "b"}},
        {"{\"type\":\"string\",\"minLength\":1,\"maxLength\":400}", {"a", "abc"}, {"", "</parameter>"}},
        {"{\"type\":\"string\",\"format\":\"date\"}", {"2026-11-27"}, {"2026-13-27", "today", "\"2026-11-27\""}},
        {"{\"type\":\"string\",\"enum\":[\"\",\"a b\",3,\"</parameter>\"]}", {"", "a b"}, {"a", "3", "</parameter>"}},
        {"{\"type\":\"string\",\"const\":\"x\\ny\"}", {"x\ny"}, {"x", "x\\ny"}},
        {"{\"type\":\"string\",\"anyOf\":[{\"const\":\"x\"},{\"pattern\":\"^y+$\"}]}", {"x", "yy"}, {"", "xy"}},
        {"{\"type\":\"string\",\"$ref\":\"#/$defs/d\"}", {"0", "12"}, {"", "a"}},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char list[1000], text[200], *gbnf;
        size_t length;
        bound b = {0};
        snprintf(list, sizeof list, "[{\"name\":\"f\",\"parameters\":{\"$defs\":{\"d\":{\"pattern\":\"^[0-9]+$\"}},\"type\":\"object\",\"required\":[\"a\"],\"properties\":{\"a\":%s}}}]", all[i].schema);
        assert_int_equal(nm_speech_grammar(&gbnf, &length, "<tool_call> <function=", list, NULL, true, false), NM_OK);
        if (nm_grammar_open(&b.grammar, gbnf, length) != NM_OK) fail_msg("%s: %s", all[i].schema, nm_error_text());
        for (int k = 0; k < 10; k++) {
            const char *value = k < 4 ? all[i].yes[k] : all[i].no[k - 4];
            if (!value) continue;
            snprintf(text, sizeof text, "<tool_call>\n<function=f>\n<parameter=a>\n%s\n</parameter>\n</function>\n</tool_call>", value);
            if (fits(&b, text) != (k < 4)) fail_msg("%s: %s", all[i].schema, value);
        }
        nm_grammar_close(&b.grammar);
        nm_free(gbnf);
    }
}

static void test_grammar_faults(void **state)
{
    (void)state;
    char *gbnf;
    size_t length;
    int64_t alive = nm_mem_alive();
    assert_int_equal(nm_speech_grammar(&gbnf, &length, "<tool_call>", asked, "rm", true, false), NM_USAGE);
    assert_int_equal(nm_speech_grammar(&gbnf, &length, "<tool_call>", "[]", NULL, true, false), NM_USAGE);
    assert_int_equal(nm_speech_grammar(&gbnf, &length, NULL, NULL, NULL, true, false), NM_USAGE);
    assert_int_equal(nm_speech_grammar(&gbnf, &length, "", "[{\"name\": \"a\", \"parameters\": {\"type\": \"colour\"}}]", NULL, true, false), NM_USAGE);
    static const char *const none[] = {"{\"type\": \"string\", \"maxLength\": 20000}", "{\"type\": \"string\", \"minLength\": 1000}", "{\"type\": \"string\", \"format\": \"colour\"}", "{\"type\": \"string\", \"const\": \"a</parameter>\"}", "{\"type\": \"string\", \"minLength\": 2, \"maxLength\": 1}"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        char list[300];
        snprintf(list, sizeof list, "[{\"name\": \"f\", \"parameters\": {\"properties\": {\"a\": %s}}}]", none[i]);
        assert_int_equal(nm_speech_grammar(&gbnf, &length, "<tool_call> <function=", list, NULL, true, false), NM_USAGE);
        assert_non_null(strstr(nm_error_text(), "f: "));
    }
    assert_null(gbnf);
    nm_err err = NM_NO_MEMORY;
    for (int64_t n = 0; err != NM_OK; n += 1 + n / 16) {
        nm_mem_fail_after(n);
        err = nm_speech_grammar(&gbnf, &length, "<tool_call> <function=", asked, NULL, true, false);
        nm_mem_fail_after(-1);
        assert_true(err == NM_OK || (err == NM_NO_MEMORY && !gbnf));
    }
    nm_free(gbnf);
    assert_int_equal(nm_mem_alive(), alive);
}

/* ---- The templates themselves ------------------------------------------------------------------------------------------- */

static char *read_file(const char *folder, const char *name, size_t *length)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/templates/%s", folder, name);
    FILE *file = fopen(path, "rb");
    char *text = nm_malloc(1 << 20);
    assert_non_null(text);
    *length = file ? fread(text, 1, (1 << 20) - 1, file) : 0;
    text[*length] = 0;
    if (file) fclose(file);
    return text;
}

/* What a template wrote of a call in its history is heard as that call, by the words that stand in it. Llama's is one only where it begins the answer. */
static int hear_rendered(const char *folder, const char *name, const char *rendered)
{
    char file[256];
    size_t length;
    const char *from = strstr(rendered, "weather in Paris?"), *next;
    while (from && (next = strstr(from + 1, "weather in Paris?"))) from = next;
    const char *call = from ? strstr(from, "get_weather") : NULL, *llama = from ? strstr(from, "{\"name\": \"get_weather\", \"parameters\"") : NULL;
    if (!call || !strstr(call, "days")) return 0;
    snprintf(file, sizeof file, "%s.jinja", name);
    char *template_text = read_file(folder, file, &length);
    from = llama ? llama : from + strlen("weather in Paris?");
    heard h = {0};
    assert_int_equal(feed(&h, &(nm_speech_options){.template_text = template_text, .tools = tools}, from, strlen(from), 5), NM_OK);
    bool good = strstr(h.text.data, "0:get_weather{\"city\": \"Paris\", \"days\": 2}") != NULL;
    if (!good) print_message("%s: %s\n", name, h.text.data);
    forget(&h);
    nm_free(template_text);
    return good ? 1 : -100;
}

static void test_templates(void **state)
{
    (void)state;
    const char *folder = getenv("NOMOAT_TEST_DATA");
    size_t length;
    nm_json all;
    if (!folder) skip();
    char *text = read_file(folder, "expected.json", &length);
    if (!length) {
        nm_free(text);
        skip();
    }
    assert_int_equal(nm_json_parse(&all, text, length), NM_OK);
    int heard_calls = 0;
    for (size_t i = 0; i < all.object.count; i++) {
        const nm_json *rendered = nm_json_get(nm_json_get(&all.object.values[i], "tool_call"), "text");
        if (rendered && rendered->kind == NM_JSON_STRING) heard_calls += hear_rendered(folder, all.object.keys[i], rendered->string.bytes);
    }
    assert_in_range(heard_calls, 25, 100);
    nm_json_free(&all);
    nm_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reasoning),
        cmocka_unit_test(test_reasons),
        cmocka_unit_test(test_marks),
        cmocka_unit_test(test_hermes),
        cmocka_unit_test(test_parameters),
        cmocka_unit_test(test_mistral),
        cmocka_unit_test(test_deepseek),
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_others),
        cmocka_unit_test(test_harmony),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_bad_tools),
        cmocka_unit_test(test_grammar_hermes),
        cmocka_unit_test(test_grammar_parameters),
        cmocka_unit_test(test_grammar_families),
        cmocka_unit_test(test_cut), cmocka_unit_test(test_long_header), cmocka_unit_test(test_grammar_marks), cmocka_unit_test(test_grammar_strings), cmocka_unit_test(test_grammar_bound_strings), cmocka_unit_test(test_grammar_faults),
        cmocka_unit_test(test_templates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
