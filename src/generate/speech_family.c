/* Owns the table of families: how each writes a call, and by which words of the chat template it is known; and the marks of reasoning. A new family is a row. */
#include "generate/speech.h"

#include <string.h>

const nm_reasoning nm_reasonings[] = {
    {"<think>", "</think>"}, {"<thinking>", "</thinking>"}, {"<thought>", "</thought>"}, {"<reasoning>", "</reasoning>"}, {"[THINK]", "[/THINK]"},
    {"<|START_THINKING|>", "<|END_THINKING|>"}, {"<seed:think>", "</seed:think>"}, {"<|begin_of_thought|>", "<|end_of_thought|>"},
    {"<|channel>thought", "<channel|>"}, {NULL, NULL},
};

/* The first row whose words stand in the template tells the family, so the more particular come first. Sources of the notations: the models' own templates. */
static const nm_family families[] = {
    {.name = "harmony", .tells = {"<|channel|>", "<|message|>"}, .begin = "",
     .call = "<|channel|>commentary to=functions.%n <|constrain|>json<|message|>%a", .between = "", .end = "", .harmony = true, .alone = true},
    {.name = "deepseek-dsml", .tells = {"｜DSML｜", "invoke name="}, .begin = "<｜DSML｜tool_calls>\n",
     .call = "<｜DSML｜invoke name=\"%n\">\n%(<｜DSML｜parameter name=\"%k\" string=\"%s\">%v</｜DSML｜parameter>\n%)</｜DSML｜invoke>",
     .between = "\n", .end = "\n</｜DSML｜tool_calls>"},
    {.name = "deepseek-r1", .tells = {"<｜tool▁calls▁begin｜>", "```json"}, .begin = "<｜tool▁calls▁begin｜>",
     .call = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>%n\n```json\n%a\n```%_<｜tool▁call▁end｜>", .between = "\n", .end = "<｜tool▁calls▁end｜>"},
    {.name = "deepseek", .tells = {"<｜tool▁calls▁begin｜>", NULL}, .begin = "<｜tool▁calls▁begin｜>",
     .call = "<｜tool▁call▁begin｜>%n<｜tool▁sep｜>%a%_<｜tool▁call▁end｜>", .between = "%_", .end = "%_<｜tool▁calls▁end｜>"},
    {.name = "kimi", .tells = {"<|tool_calls_section_begin|>", NULL}, .begin = "<|tool_calls_section_begin|>",
     .call = "%_<|tool_call_begin|>%_functions.%n:%d%_<|tool_call_argument_begin|>%a%_<|tool_call_end|>", .between = "%_", .end = "%_<|tool_calls_section_end|>"},
    {.name = "qwen-coder", .tells = {"<tool_call>", "<function="}, .begin = "",
     .call = "<tool_call>\n<function=%n>\n%(<parameter=%k>%V</parameter>\n%)</function>\n</tool_call>", .between = "\n", .end = ""},
    {.name = "qwen-coder", .tells = {"<tool_call>", "<function="}, .begin = "",
     .call = "<function=%n>\n%(<parameter=%k>%V</parameter>\n%)</function>%_</tool_call>", .between = "\n", .end = ""},
    {.name = "glm", .tells = {"<tool_call>", "<arg_key>"}, .begin = "",
     .call = "<tool_call>%n\n%(<arg_key>%k</arg_key>\n<arg_value>%v</arg_value>\n%)</tool_call>", .between = "\n", .end = ""},
    {.name = "atem", .tells = {"<atem:invoke", "<atem:parameter"}, .begin = "<atem:function_calls>\n",
     .call = "<atem:invoke name=\"%n\">\n%(<atem:parameter name=\"%k\">%v</atem:parameter>\n%)</atem:invoke>", .between = "\n", .end = "\n</atem:function_calls>"},
    {.name = "hermes", .tells = {"<tool_call>", NULL}, .begin = "", .call = "<tool_call>\n%j\n</tool_call>", .between = "\n", .end = ""},
    {.name = "hermes", .tells = {"<tool_call>", NULL}, .begin = "", .call = "%j", .between = "\n", .end = "", .whole = true},      /* as Qwen2.5-Coder does, told otherwise */
    {.name = "hermes", .tells = {"<tool_call>", NULL}, .begin = "", .call = "```json\n%j\n```", .between = "\n", .end = "", .whole = true},
    {.name = "functionary", .tells = {"<function=", NULL}, .begin = "", .call = "<function=%n>%a%_</function>", .between = "%_", .end = ""},
    {.name = "functionary", .tells = {"</function>", NULL}, .begin = "", .call = "<function=%n>%a%_</function>", .between = "%_", .end = ""},
    {.name = "mistral-args", .tells = {"[TOOL_CALLS]", "[CALL_ID]"}, .begin = "", .call = "[TOOL_CALLS]%_%n[CALL_ID]%i[ARGS]%a", .between = "%_", .end = "", .short_ids = true},
    {.name = "mistral-args", .tells = {"[TOOL_CALLS]", "[ARGS]"}, .begin = "", .call = "[TOOL_CALLS]%_%n[ARGS]%a", .between = "%_", .end = "", .short_ids = true},
    {.name = "mistral-args", .tells = {"[TOOL_CALLS]", "[ARGS]"}, .begin = "[TOOL_CALLS]%_[", .call = "%j", .between = ", ", .end = "%_]", .short_ids = true},
    {.name = "mistral", .tells = {"[TOOL_CALLS]", NULL}, .begin = "[TOOL_CALLS]%_[", .call = "%j", .between = ", ", .end = "%_]", .short_ids = true},
    {.name = "command-r", .tells = {"<|START_ACTION|>", NULL}, .begin = "<|START_ACTION|>[\n", .call = "%c", .between = ",\n", .end = "\n]%_<|END_ACTION|>"},
    {.name = "command-r-plus", .tells = {"Action:", "```json"}, .begin = "Action:%_```json\n[\n", .call = "%c", .between = ",\n", .end = "\n]%_```"},
    {.name = "gigachat", .tells = {"<|function_call|>", NULL}, .begin = "", .call = "<|function_call|>%j", .between = "%_", .end = "", .alone = true},
    {.name = "gemma", .tells = {"<|tool_call>call:", NULL}, .begin = "", .call = "<|tool_call>call:%n{%g<tool_call|>", .between = "%_", .end = ""},
    {.name = "phi", .tells = {"<|tool_call|>", "<|/tool_call|>"}, .begin = "<|tool_call|>[", .call = "%j", .between = ", ", .end = "%_]%_<|/tool_call|>"},
    {.name = "phi", .tells = {"<|tool|>", "<|/tool|>"}, .begin = "<|tool_call|>[", .call = "%j", .between = ", ", .end = "%_]%_<|/tool_call|>"},
    {.name = "granite", .tells = {"<|tool_call|>", NULL}, .begin = "<|tool_call|>%_[", .call = "%j", .between = ", ", .end = "%_]"},
    {.name = "granite", .tells = {"<|tool_call|>", NULL}, .begin = "<tool_call>%_[", .call = "%j", .between = ", ", .end = "%_]"},
    {.name = "tool-calls-list", .tells = {"<tool_calls>[", NULL}, .begin = "<tool_calls>%_[", .call = "%j", .between = ", ", .end = "%_]%_</tool_calls>"},
    {.name = "tool-calls", .tells = {"<tool_calls>", NULL}, .begin = "<tool_calls>\n", .call = "%j", .between = "\n", .end = "\n</tool_calls>"},
    {.name = "functools", .tells = {"functools[", NULL}, .begin = "functools[", .call = "%j", .between = ", ", .end = "%_]"},
    {.name = "lfm", .tells = {"<|tool_call_start|>", NULL}, .begin = "<|tool_call_start|>%_[", .call = "%f", .between = ", ", .end = "%_]%_<|tool_call_end|>"},
    {.name = "lfm", .tells = {"<|tool_list_start|>", NULL}, .begin = "<|tool_call_start|>%_[", .call = "%f", .between = ", ", .end = "%_]%_<|tool_call_end|>"},
    {.name = "pythonic", .tells = {"func_name1(", NULL}, .begin = "[", .call = "%f", .between = ", ", .end = "%_]", .whole = true},
    {.name = "pythonic", .tells = {"func_name1(", NULL}, .begin = "<|python_start|>%_[", .call = "%f", .between = ", ", .end = "%_]%_<|python_end|>"},
    {.name = "llama", .tells = {"ipython", "\"parameters\""}, .begin = "", .call = "%p", .between = ";%_", .end = "", .whole = true, .alone = true},
    {.name = "llama", .tells = {"ipython", "\"parameters\""}, .begin = "<|python_tag|>%_", .call = "%p", .between = ";%_", .end = ""},
    /* A template that knows no tools: the notations that models know from elsewhere. */
    {.name = "generic", .tells = {NULL, NULL}, .begin = "", .call = "<tool_call>\n%j\n</tool_call>", .between = "\n", .end = ""},
    {.name = "generic", .tells = {NULL, NULL}, .begin = "", .call = "%j", .between = "\n", .end = "", .whole = true},
    {.name = "generic", .tells = {NULL, NULL}, .begin = "", .call = "```json\n%j\n```", .between = "\n", .end = "", .whole = true},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

static bool tells(const nm_family *f, const char *text)
{
    for (int i = 0; i < 2; i++)
        if (f->tells[i] && !strstr(text, f->tells[i])) return false;
    return true;
}

int nm_family_rows(const char *template_text, const nm_family *rows[NM_SPEECH_ROWS])
{
    int n = 0;
    for (int i = 0; i < N_FAMILIES && n < NM_SPEECH_ROWS; i++) {
        if (n && strcmp(families[i].name, rows[0]->name)) break;
        if (tells(&families[i], template_text)) rows[n++] = &families[i];
    }
    return n;
}

const char *nm_family_lead(const nm_family *row, size_t *length)
{
    const char *shape = *row->begin ? row->begin : row->call;
    while (!strncmp(shape, "%_", 2)) shape += 2;
    *length = strcspn(shape, "% \n");
    if (*length) return shape;
    *length = 1;
    return "{";
}

/* A token of its own stands in brackets of some kind, and in a shape. */
bool nm_speech_is_mark(const char *text)
{
    size_t n = strlen(text);
    if (nm_harmony_is_mark(text) || !strcmp(text, NM_SPEECH_QUOTE)) return true;
    bool framed = n > 2 && (((*text == '<') && text[n - 1] == '>') || (*text == '[' && text[n - 1] == ']') || !strncmp(text, "｜", strlen("｜")));
    for (const nm_reasoning *r = nm_reasonings; framed && r->open; r++)
        if (strstr(r->open, text) || strstr(r->close, text)) return true;
    for (int i = 0; framed && i < N_FAMILIES; i++)
        if (strstr(families[i].begin, text) || strstr(families[i].call, text) || strstr(families[i].end, text)) return true;
    return false;
}
