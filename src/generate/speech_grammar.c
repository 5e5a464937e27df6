/* Owns grammars of answers that must call a tool: the shapes of the family's row (speech.h) written as GBNF, with the grammar of each function's parameters in them. Refuses to
 * soften a schema: what nm_schema_grammar does not know is an error. */
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "generate/schema.h"
#include "generate/speech.h"

typedef struct maker {
    const nm_family *row;
    nm_str line, more;          /* the rule that is being written and those before it; rules that it needs */
    int grammars;               /* whose rules were added */
    nm_err err;                 /* the first; all else is skipped then */
    /* The call that is being written. */
    const nm_json *function;
    int number;
    const char *key;            /* the parameter */
    const nm_json *schema;
} maker;

static void put(maker *m, const char *text)
{
    if (m->err == NM_OK) m->err = nm_str_puts(&m->line, text);
}

#define PUT(m, ...) do { if ((m)->err == NM_OK) (m)->err = nm_str_printf(&(m)->line, __VA_ARGS__); } while (0)
#define MORE(m, ...) do { if ((m)->err == NM_OK) (m)->err = nm_str_printf(&(m)->more, __VA_ARGS__); } while (0)

/* A literal of the notation, and a space. */
static void put_literal(maker *m, const char *text, size_t length)
{
    if (!length) return;
    put(m, "\"");
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '\n') put(m, "\\n");
        else if (text[i] == '"' || text[i] == '\\') PUT(m, "\\%c", text[i]);
        else if ((unsigned char)text[i] < 0x20) PUT(m, "\\x%02x", (unsigned)text[i]);
        else PUT(m, "%c", text[i]);
    }
    put(m, "\" ");
}

static void put_text(maker *m, const char *text) { put_literal(m, text, strlen(text)); }

/* ---- Marks -------------------------------------------------------------------------------------------------------------------- */

#define BAR "｜"

static size_t bracket(const char *text, size_t length)
{
    if (*text == '<' || *text == '[') return 1;
    return length > strlen(BAR) && !memcmp(text, BAR, strlen(BAR)) ? strlen(BAR) : 0;
}

/* Bytes of the mark that the text begins with; 0: none. */
static size_t mark_length(const char *text, size_t length)
{
    char mark[64];
    size_t open = bracket(text, length);
    const char *close = *text == '<' ? ">" : *text == '[' ? "]" : BAR;
    const char *end = open ? memmem(text + open, length - open, close, strlen(close)) : NULL;
    size_t n = end ? (size_t)(end - text) + strlen(close) : 0;
    if (!n || n >= sizeof mark) return 0;
    memcpy(mark, text, n);
    mark[n] = 0;
    return nm_speech_is_mark(mark) ? n : 0;
}

/* A literal whose marks are characters or, where the vocabulary has it, one control token. A mark may stand within another: each is shorter than the one around it. */
static void put_marked(maker *m, const char *text, size_t length)
{
    size_t from = 0;
    for (size_t at = 0, n; at < length; at += n ? n : 1) {
        n = mark_length(text + at, length - at);
        if (!n) continue;
        size_t open = bracket(text + at, n);
        put_literal(m, text + from, at - from);
        put(m, "( @");
        put_literal(m, text + at, n);
        put(m, "| ");
        put_literal(m, text + at, open);
        put_marked(m, text + at + open, n - open);
        put(m, ") ");
        from = at + n;
    }
    put_literal(m, text + from, length - from);
}

static void put_mark(maker *m, const char *text) { put_marked(m, text, strlen(text)); }

/* ---- Schemas ------------------------------------------------------------------------------------------------------------------ */

static bool is_name(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_'; }

/* The length of a literal, a set of characters, a count or a comment at the text's beginning; 0 if it is none of them. */
static size_t opaque(const char *text, size_t length)
{
    char close = *text == '"' ? '"' : *text == '[' ? ']' : *text == '{' ? '}' : *text == '#' ? '\n' : 0;
    if (!close) return 0;
    size_t n = 1;
    while (n < length && text[n] != close) n += text[n] == '\\' && close != '\n' && n + 1 < length ? 2 : 1;
    return n < length ? n + 1 : length;
}

/* Rules of another grammar, each name with a prefix, so that they are nobody else's. */
static void add_rules(maker *m, const char *gbnf, size_t length, const char *prefix)
{
    for (size_t at = 0, n; at < length && m->err == NM_OK; at += n) {
        n = opaque(gbnf + at, length - at);
        while (!n && at + n < length && is_name(gbnf[at + n])) {
            size_t end = n + 1;
            while (at + end < length && is_name(gbnf[at + end])) end++;
            n = end;
            MORE(m, "%s", prefix);
        }
        if (!n) n = 1;
        if (m->err == NM_OK) m->err = nm_str_append(&m->more, gbnf + at, n);
    }
    MORE(m, "\n");
}

/* A part of the parameters' schema, with the definitions that it may refer to. */
static nm_err write_schema(nm_str *s, const nm_json *schema, const nm_json *whole)
{
    static const char *const shared[] = {"$defs", "definitions"};
    NM_TRY(nm_json_write(s, schema));
    if (schema == whole || schema->kind != NM_JSON_OBJECT) return NM_OK;
    for (int i = 0; i < 2; i++) {
        const nm_json *definitions = nm_json_get(whole, shared[i]);
        if (!definitions || nm_json_get(schema, shared[i])) continue;
        s->length--;        /* the closing bracket */
        NM_TRY(nm_str_printf(s, "%s\"%s\":", s->length > 1 ? "," : "", shared[i]));
        NM_TRY(nm_json_write(s, definitions));
        NM_TRY(nm_str_putc(s, '}'));
    }
    return NM_OK;
}

static const char *name_of(const nm_json *function) { return nm_json_get(function, "name")->string.bytes; }

/* What the schema of this text admits, as rules of their own: JSON, or up to a closing mark text as it stands. */
static void put_schema_text(maker *m, const char *schema, size_t length, const char *close, size_t close_length)
{
    char prefix[24], *gbnf = NULL;
    size_t n = 0;
    snprintf(prefix, sizeof prefix, "a%d-", m->grammars++);
    PUT(m, "%sroot ", prefix);
    if (m->err != NM_OK) return;
    m->err = close ? nm_schema_text_grammar(&gbnf, &n, schema, length, close, close_length) : nm_schema_grammar(&gbnf, &n, schema, length);
    if (m->err == NM_OK) add_rules(m, gbnf, n, prefix);
    nm_free(gbnf);
}

static void put_schema(maker *m, const nm_json *schema, const char *close, size_t close_length)
{
    nm_str text = {0};
    if (m->err != NM_OK) return;
    m->err = write_schema(&text, schema, nm_json_get(m->function, "parameters"));
    put_schema_text(m, text.data, text.length, close, close_length);
    if (m->err == NM_USAGE) nm_fail_in(m->err, name_of(m->function));
    nm_str_free(&text);
}

static void put_arguments(maker *m)
{
    const nm_json *parameters = nm_json_get(m->function, "parameters");
    if (parameters && parameters->kind != NM_JSON_NULL) put_schema(m, parameters, NULL, 0);
    else put_text(m, "{}");
}

static void put_object(maker *m, char kind)
{
    put_text(m, "{");
    if (kind == 'c') put(m, "(\"\\\"tool_call_id\\\": \\\"\" [0-9]+ \"\\\", \")? ");
    put_text(m, kind == 'c' ? "\"tool_name\": \"" : "\"name\": \"");
    put_text(m, name_of(m->function));
    put_text(m, kind == 'j' ? "\", \"arguments\": " : "\", \"parameters\": ");
    put_arguments(m);
    put_text(m, "}");
}

/* ---- Parameters one by one ------------------------------------------------------------------------------------------------------- */

static bool is_required(const nm_json *parameters, const char *key)
{
    const nm_json *list = nm_json_get(parameters, "required");
    for (size_t i = 0; list && list->kind == NM_JSON_ARRAY && i < list->array.count; i++)
        if (list->array.items[i].kind == NM_JSON_STRING && !strcmp(list->array.items[i].string.bytes, key)) return true;
    return false;
}

/* %v: a string stands as it is, up to the mark; all else as JSON. */
static void put_value(maker *m, const char *close, size_t close_length)
{
    put_schema(m, m->schema, nm_speech_is_text(m->schema) ? close : NULL, close_length);
}

static void put_shape(maker *m, const char *shape, const char *end);

typedef struct parameters { const nm_json *all; size_t count, required; } parameters;

static parameters parameters_of(maker *m)
{
    enum { MOST = 256 };        /* each is looked for among those that are required */
    const nm_json *schema = nm_json_get(m->function, "parameters"), *all = nm_json_get(schema, "properties");
    parameters p = {.all = all, .count = all && all->kind == NM_JSON_OBJECT ? all->object.count : 0};
    if (p.count > MOST && m->err == NM_OK)
        m->err = nm_fail(NM_USAGE, "tools: '%s' has %zu parameters: at most %d can be bound to their notation", name_of(m->function), p.count, MOST);
    if (p.count > MOST) p.count = 0;
    for (size_t i = 0; i < p.count; i++) p.required += is_required(schema, all->object.keys[i]);
    return p;
}

static bool choose(maker *m, const parameters *p, size_t i)
{
    m->key = p->all->object.keys[i];
    m->schema = &p->all->object.values[i];
    return is_required(nm_json_get(m->function, "parameters"), m->key);
}

static void put_loop(maker *m, const char *body, const char *end)
{
    parameters p = parameters_of(m);
    for (size_t i = 0; i < p.count; i++) {
        bool required = choose(m, &p, i);
        if (!required) put(m, "( ");
        put_shape(m, body, end);
        if (!required) put(m, ")? ");
    }
}

/* %g: a string between its marks. */
static void put_quoted(maker *m)
{
    if (nm_speech_is_text(m->schema)) put_mark(m, NM_SPEECH_QUOTE);
    put_value(m, NM_SPEECH_QUOTE, strlen(NM_SPEECH_QUOTE));
    if (nm_speech_is_text(m->schema)) put_mark(m, NM_SPEECH_QUOTE);
}

/* One rule for each parameter of a list. */
static void list_rule(maker *m, size_t i, bool python)
{
    nm_str outer = m->line;
    m->line = (nm_str){0};
    PUT(m, "k%d-%zu ::= ", m->number, i);
    put_text(m, m->key);
    put_text(m, python ? "=" : ":");
    if (python) put_schema(m, m->schema, NULL, 0);
    else put_quoted(m);
    MORE(m, "%s\n", m->line.data);
    nm_str_free(&m->line);
    m->line = outer;
}

/* Those that are required in their order, then others, each behind a comma; without any that is required, whichever is there first has none. */
static void put_list(maker *m, bool python)
{
    parameters p = parameters_of(m);
    const char *comma = python ? "\", \"" : "\",\"";
    size_t first = 0;
    for (size_t i = 0; i < p.count; i++) {
        bool required = choose(m, &p, i);
        list_rule(m, i, python);
        if (required) PUT(m, "%s k%d-%zu ", first++ ? comma : "", m->number, i);
        if (required) MORE(m, "r%d-%zu ::= r%d-%zu\n", m->number, i, m->number, i + 1);
        else MORE(m, "r%d-%zu ::= (%s k%d-%zu)? r%d-%zu\n", m->number, i, comma, m->number, i, m->number, i + 1);
    }
    if (p.count) MORE(m, "r%d-%zu ::= \"\"\n", m->number, p.count);
    if (p.required) PUT(m, "r%d-0 ", m->number);
    for (size_t i = 0; !p.required && i < p.count; i++) PUT(m, "%sk%d-%zu r%d-%zu ", i ? "| " : "( ", m->number, i, m->number, i + 1);
    if (!p.required && p.count) put(m, ")? ");
    put_text(m, python ? ")" : "}");
}

/* ---- Shapes ------------------------------------------------------------------------------------------------------------------------ */

/* Writes the item at shape; returns what is behind it. */
static const char *put_item(maker *m, const char *shape)
{
    const char *behind = shape + 2;
    switch (shape[1]) {
    case 'n': put_text(m, name_of(m->function)); break;
    case 'a': put_arguments(m); break;
    case 'j': case 'p': case 'c': put_object(m, shape[1]); break;
    case 'k': put_text(m, m->key); break;
    case 's': put_text(m, nm_speech_is_text(m->schema) ? "true" : "false"); break;
    case 'f':
        put_text(m, name_of(m->function));
        put_text(m, "(");
        put_list(m, true);
        break;
    case 'g': put_list(m, false); break;
    case 'd': put(m, "[0-9]+ "); break;
    case 'i': put(m, "[0-9A-Za-z]{9} "); break;
    case 'v': put_value(m, behind, strcspn(behind, "%\n ")); break;
    case 'V':
        put_text(m, "\n");
        put_value(m, behind, strcspn(behind, "%\n "));
        put_text(m, "\n");
        break;
    case '(':
        behind = strstr(shape, "%)");
        put_loop(m, shape + 2, behind);
        return behind + 2;
    default: break;
    }
    return behind;
}

static void put_shape(maker *m, const char *shape, const char *end)
{
    while (shape < end) {
        size_t n = strcspn(shape, "%");
        if (n > (size_t)(end - shape)) n = (size_t)(end - shape);
        put_marked(m, shape, n);
        shape += n;
        if (shape < end) shape = put_item(m, shape);
    }
}

static void put_whole_shape(maker *m, const char *shape) { put_shape(m, shape, shape + strlen(shape)); }

/* ---- The whole ------------------------------------------------------------------------------------------------------------------------ */

/* Reasoning first: it may be left away, unless the prompt has opened it. */
static void put_reasoning(maker *m, const char *template_text, bool open)
{
    static const nm_reasoning channel = {"<|channel|>analysis<|message|>", "<|end|>"};
    static const char any_text[] = "{\"type\":\"string\"}";
    const nm_reasoning *r = nm_reasonings;
    while (r->open && !strstr(template_text, r->open)) r++;
    if (m->row->harmony) r = &channel;
    else if (!r->open && open) r = nm_reasonings;
    if (!r->open) return;
    if (!open) {
        put(m, "( ");
        put_mark(m, r->open);
    }
    put_schema_text(m, any_text, sizeof any_text - 1, r->close, strlen(r->close));
    put_mark(m, r->close);
    if (m->row->harmony) put_mark(m, "<|start|>assistant");
    else put(m, "\"\\n\"? \"\\n\"? ");
    if (!open) put(m, ")? ");
}

static void put_calls(maker *m, bool one)
{
    put_whole_shape(m, m->row->begin);
    put(m, "call ");
    if (!one && !m->row->alone) {
        put(m, "( ");
        put_whole_shape(m, m->row->between);
        put(m, "call )* ");
    }
    put_whole_shape(m, m->row->end);
    put(m, "\n");
}

static void put_tools(maker *m, const nm_json *tools, const char *choice)
{
    enum { GRAMMAR_MOST = 8 << 20 };
    int n = 0;
    put(m, "call ::= ");
    for (size_t i = 0; i < tools->array.count; i++)
        if (!choice || !strcmp(choice, name_of(nm_tools_function(&tools->array.items[i])))) PUT(m, "%st%zu ", n++ ? "| " : "", i);
    put(m, "\n");
    if (!n && m->err == NM_OK) m->err = choice ? nm_fail(NM_USAGE, "tools: there is none of the name '%s' that must be called", choice) :
        nm_fail(NM_USAGE, "tools: a call is asked for, and the list is empty");
    for (size_t i = 0; i < tools->array.count; i++) {
        m->function = nm_tools_function(&tools->array.items[i]);
        if (choice && strcmp(choice, name_of(m->function))) continue;
        m->number = (int)i;
        if (m->err == NM_OK && m->line.length + m->more.length > GRAMMAR_MOST)
            m->err = nm_fail(NM_USAGE, "tools: a grammar of all %zu would be too large: offer fewer", tools->array.count);
        if (m->err != NM_OK) return;
        PUT(m, "t%zu ::= ", i);
        put_whole_shape(m, m->row->call);
        put(m, "\n");
    }
}

nm_err nm_speech_grammar(char **gbnf, size_t *gbnf_length, const char *template_text, const char *tools, const char *choice, bool one, bool reasoning_open)
{
    const nm_family *rows[NM_SPEECH_ROWS];
    maker m = {0};
    nm_json list;
    *gbnf = NULL;
    NM_TRY(nm_tools_read(&list, tools ? tools : "[]"));
    nm_family_rows(template_text ? template_text : "", rows);
    m.row = rows[0];
    put(&m, "root ::= ");
    put_reasoning(&m, template_text ? template_text : "", reasoning_open);
    put_calls(&m, one);
    put_tools(&m, &list, choice);
    if (m.err == NM_OK && m.more.length) m.err = nm_str_append(&m.line, m.more.data, m.more.length);
    if (m.err == NM_OK) *gbnf = nm_str_take(&m.line, gbnf_length);
    nm_str_free(&m.line);
    nm_str_free(&m.more);
    nm_json_free(&list);
    return m.err;
}
