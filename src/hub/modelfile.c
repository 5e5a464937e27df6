/* Modelfiles: INSTRUCTION value, one a line; instructions in any case of letters, '#' begins a line of comment. A value that begins with a quote, or with three, goes
 * on to the line that ends in the same: what stands between, quotes and lines included, is the value. */
#include "hub/modelfile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/err.h"
#include "base/mem.h"

/* Parameters that are one number, by Ollama's names. */
typedef struct number { const char *name; size_t offset; bool whole; double least, most; } number;     /* whole: an int32_t, else a double */
#define AT(member) offsetof(nm_modelfile, member)
static const number numbers[] = {
    {"temperature", AT(temperature), false, 0, 1000},
    {"top_k", AT(top_k), true, -1, INT32_MAX},
    {"top_p", AT(top_p), false, 0, 1},
    {"min_p", AT(min_p), false, 0, 1},
    {"typical_p", AT(typical), false, 0, 1},
    {"repeat_penalty", AT(repeat_penalty), false, 0.01, 100},
    {"repeat_last_n", AT(repeat_last), true, -1, INT32_MAX},
    {"presence_penalty", AT(presence_penalty), false, -100, 100},
    {"frequency_penalty", AT(frequency_penalty), false, -100, 100},
    {"num_ctx", AT(context), true, 0, INT32_MAX},
    {"num_predict", AT(predict), true, -2, INT32_MAX},
};
enum { NUMBERS = sizeof numbers / sizeof *numbers };

/* How Ollama's machine is to work, not what a model answers: the machine here is set by the program's own options. */
static const char *const machine[] = {"num_batch", "num_gpu", "num_keep", "num_thread", "main_gpu", "use_mmap", "use_mlock", "low_vram", "numa", "f16_kv"};
static const char *const roles[] = {"system", "user", "assistant"};

void nm_modelfile_init(nm_modelfile *m)
{
    *m = (nm_modelfile){.think = -1};
    for (const number *n = numbers; n < numbers + NUMBERS; n++) {
        if (n->whole) *(int32_t *)((char *)m + n->offset) = NM_MODELFILE_INT;
        else *(double *)((char *)m + n->offset) = NM_MODELFILE_REAL;
    }
}

void nm_modelfile_free(nm_modelfile *m)
{
    nm_free(m->from.text);
    for (size_t i = 0; i < m->adapters; i++) nm_free(m->adapter[i].text);
    for (size_t i = 0; i < m->messages; i++) nm_free(m->message[i].content);
    for (size_t i = 0; i < m->stops; i++) nm_free(m->stop[i]);
    nm_free(m->adapter);
    nm_free(m->message);
    nm_free(m->stop);
    nm_free(m->system);
    nm_free(m->tmpl);
    nm_modelfile_init(m);
}

/* ---- Lines and values ------------------------------------------------------------------------------------------------------------------- */

typedef struct reader { const char *text, *name; size_t length, at; int line; nm_modelfile *out; } reader;     /* line: of what is being read */

static bool blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }
static bool white(char c) { return blank(c) || c == '\n'; }
static void skip_blanks(reader *r) { while (r->at < r->length && blank(r->text[r->at])) r->at++; }

/* To the next instruction, past empty lines and comments; false at the end. */
static bool next_instruction(reader *r)
{
    for (; r->at < r->length; r->at++) {
        char c = r->text[r->at];
        if (c == '#') while (r->at < r->length && r->text[r->at] != '\n') r->at++;
        else if (!white(c)) return true;
        if (r->at < r->length && r->text[r->at] == '\n') r->line++;
    }
    return false;
}

/* A word of this line, which may be empty. */
static size_t read_word(reader *r, const char **word)
{
    skip_blanks(r);
    size_t from = r->at;
    while (r->at < r->length && !white(r->text[r->at])) r->at++;
    *word = r->text + from;
    return r->at - from;
}

static bool is(const char *word, size_t n, const char *name) { return strlen(name) == n && !strncasecmp(word, name, n); }

/* Quotes that the text begins with: 3, 1 or none. */
static size_t quotes(const char *text, size_t n)
{
    if (n >= 3 && !memcmp(text, "\"\"\"", 3)) return 3;
    return n >= 1 && *text == '"';
}

/* What is left of the line, or what stands in the quotes that it opens. `text` is allocated. */
static nm_err read_value(reader *r, nm_modelfile_value *out)
{
    skip_blanks(r);
    size_t from = r->at, last = from, q = quotes(r->text + from, r->length - from);     /* last: behind the last character that is not white */
    int first = r->line;
    for (;; r->at++) {
        bool end = r->at == r->length;
        if (end || r->text[r->at] == '\n') {
            if (!q || (last - from >= 2 * q && !memcmp(r->text + last - q, "\"\"\"", q))) break;
            if (end) return nm_fail(NM_BAD_FILE, "%s:%d: the quotes that open here are never closed: end the text with %s", r->name, first, q == 3 ? "\"\"\"" : "\"");
            r->line++;
        } else if (!white(r->text[r->at])) last = r->at + 1;
    }
    *out = (nm_modelfile_value){.text = nm_strndup(r->text + from + q, last - from - 2 * q), .at = from, .length = last - from};
    return out->text ? NM_OK : nm_fail_memory(last - from);
}

/* The same where nothing is a mistake. */
static nm_err read_something(reader *r, const char *what, const char *example, nm_modelfile_value *out)
{
    int line = r->line;
    NM_TRY(read_value(r, out));
    if (*out->text) return NM_OK;
    nm_free(out->text);
    out->text = NULL;
    return nm_fail(NM_BAD_FILE, "%s:%d: %s needs a value, as in: %s", r->name, line, what, example);
}

/* ---- Parameters --------------------------------------------------------------------------------------------------------------------------- */

static nm_err set_number(reader *r, const number *n, const char *text)
{
    char *end, *to = (char *)r->out + n->offset;
    double value = strtod(text, &end);
    bool plain = end != text && !*end && strspn(text, "+-.0123456789eE") == strlen(text);
    if (!plain || !(value >= n->least && value <= n->most) || (n->whole && value != (double)(int64_t)value))
        return nm_fail(NM_BAD_FILE, "%s:%d: PARAMETER %s is '%.60s': give a %snumber from %g to %g", r->name, r->line, n->name, text, n->whole ? "whole " : "", n->least, n->most);
    if (n->whole) *(int32_t *)to = (int32_t)value;
    else *(double *)to = value;
    return NM_OK;
}

/* Below zero: a random one, as for --seed. */
static nm_err set_seed(reader *r, const char *text)
{
    char *end;
    bool negative = *text == '-';
    errno = 0;
    unsigned long long seed = strtoull(text + negative, &end, 10);
    if (end == text + negative || *end || errno || text[negative] < '0' || text[negative] > '9')
        return nm_fail(NM_BAD_FILE, "%s:%d: PARAMETER seed is '%.60s': give a whole number; -1 is a random one", r->name, r->line, text);
    r->out->seeded = !negative;
    r->out->seed = negative ? 0 : seed;
    return NM_OK;
}

static nm_err set_think(reader *r, const char *text)
{
    bool on = !strcasecmp(text, "true");
    if (!on && strcasecmp(text, "false")) return nm_fail(NM_BAD_FILE, "%s:%d: PARAMETER think is '%.60s': give true or false", r->name, r->line, text);
    r->out->think = on;
    return NM_OK;
}

/* Takes the text over. */
static nm_err add_stop(reader *r, char **text)
{
    NM_TRY(NM_GROW(r->out->stop, r->out->stop_capacity, r->out->stops + 1));
    r->out->stop[r->out->stops++] = *text;
    *text = NULL;
    return NM_OK;
}

static bool is_machine(const char *word, size_t n)
{
    for (size_t i = 0; i < sizeof machine / sizeof *machine; i++)
        if (is(word, n, machine[i])) return true;
    return false;
}

static nm_err set_parameter(reader *r, const char *word, size_t n, char **text)
{
    if (is(word, n, "stop")) return add_stop(r, text);
    if (is(word, n, "seed")) return set_seed(r, *text);
    if (is(word, n, "think")) return set_think(r, *text);
    for (const number *p = numbers; p < numbers + NUMBERS; p++)
        if (is(word, n, p->name)) return set_number(r, p, *text);
    if (is_machine(word, n)) return NM_OK;
    return nm_fail(NM_BAD_FILE, "%s:%d: there is no PARAMETER %.*s here: take the line out", r->name, r->line, (int)(n < 60 ? n : 60), word);
}

static nm_err read_parameter(reader *r)
{
    const char *word;
    nm_modelfile_value value;
    size_t n = read_word(r, &word);
    NM_TRY(read_something(r, "PARAMETER", "PARAMETER temperature 0.7", &value));
    nm_err err = set_parameter(r, word, n, &value.text);
    nm_free(value.text);
    return err;
}

/* ---- Instructions ------------------------------------------------------------------------------------------------------------------------- */

static nm_err read_from(reader *r)
{
    if (r->out->from.text) return nm_fail(NM_BAD_FILE, "%s:%d: a second FROM: there is one model", r->name, r->line);
    return read_something(r, "FROM", "FROM smollm2", &r->out->from);
}

static nm_err read_adapter(reader *r)
{
    nm_modelfile *m = r->out;
    NM_TRY(NM_GROW(m->adapter, m->adapter_capacity, m->adapters + 1));
    NM_TRY(read_something(r, "ADAPTER", "ADAPTER style=0.8", &m->adapter[m->adapters]));
    m->adapters++;
    return NM_OK;
}

static nm_err read_message(reader *r)
{
    const char *word, *role = NULL;
    nm_modelfile_value value;
    nm_modelfile *m = r->out;
    size_t n = read_word(r, &word);
    for (size_t i = 0; i < 3; i++)
        if (is(word, n, roles[i])) role = roles[i];
    if (!role) return nm_fail(NM_BAD_FILE, "%s:%d: MESSAGE '%.*s': the role is system, user or assistant", r->name, r->line, (int)(n < 60 ? n : 60), word);
    NM_TRY(NM_GROW(m->message, m->message_capacity, m->messages + 1));
    NM_TRY(read_something(r, "MESSAGE", "MESSAGE user Who are you?", &value));
    m->message[m->messages++] = (nm_modelfile_message){role, value.text};
    return NM_OK;
}

/* The last one counts. */
static nm_err read_text(reader *r, char **to)
{
    nm_modelfile_value value;
    NM_TRY(read_value(r, &value));
    nm_free(*to);
    *to = value.text;
    return NM_OK;
}

/* Go's names of variables begin with a point, its conditions stand in double braces: neither is Jinja. */
static bool is_go(const char *t)
{
    static const char *const words[] = {".", "$", "if ", "range ", "block ", "template "};
    for (const char *at = t; (at = strstr(at, "{{"));) {
        at += 2;
        at += *at == '-';
        while (white(*at)) at++;
        for (size_t i = 0; i < sizeof words / sizeof *words; i++)
            if (!strncmp(at, words[i], strlen(words[i]))) return true;
    }
    return false;
}

static nm_err read_template(reader *r)
{
    int line = r->line;
    nm_modelfile *m = r->out;
    NM_TRY(read_text(r, &m->tmpl));
    bool go = is_go(m->tmpl), jinja = !go && (strstr(m->tmpl, "{{") || strstr(m->tmpl, "{%"));
    if (!go && !jinja && *m->tmpl) return nm_fail(NM_BAD_FILE, "%s:%d: TEMPLATE is a Jinja template's text, and this one prints nothing", r->name, line);
    m->foreign = go;
    if (jinja) return NM_OK;
    nm_free(m->tmpl);
    m->tmpl = NULL;
    return NM_OK;
}

static nm_err read_license(reader *r)
{
    char *text = NULL;
    NM_TRY(read_text(r, &text));
    nm_free(text);
    return NM_OK;
}

static nm_err read_instruction(reader *r)
{
    const char *word;
    size_t n = read_word(r, &word);
    if (is(word, n, "FROM")) return read_from(r);
    if (is(word, n, "ADAPTER")) return read_adapter(r);
    if (is(word, n, "PARAMETER")) return read_parameter(r);
    if (is(word, n, "SYSTEM")) return read_text(r, &r->out->system);
    if (is(word, n, "TEMPLATE")) return read_template(r);
    if (is(word, n, "MESSAGE")) return read_message(r);
    if (is(word, n, "LICENSE")) return read_license(r);
    return nm_fail(NM_BAD_FILE, "%s:%d: '%.*s' is no instruction: there are FROM, ADAPTER, PARAMETER, SYSTEM, TEMPLATE, MESSAGE and LICENSE; "
                                "a text of several lines stands in \"\"\"", r->name, r->line, (int)(n < 60 ? n : 60), word);
}

/* Texts become C strings and JSON. */
static nm_err check_bytes(const reader *r)
{
    int line = 1, used;
    if (r->length > NM_MODELFILE_MOST) return nm_fail(NM_BAD_FILE, "%s: more than %d bytes are no Modelfile", r->name, NM_MODELFILE_MOST);
    for (size_t at = 0; at < r->length; at += (size_t)used) {
        if (nm_utf8_decode(r->text + at, r->length - at, &used) <= 0) return nm_fail(NM_BAD_FILE, "%s:%d: no text in UTF-8", r->name, line);
        line += r->text[at] == '\n';
    }
    return NM_OK;
}

nm_err nm_modelfile_parse(nm_modelfile *out, const char *text, size_t length, const char *name)
{
    reader r = {.text = text, .name = name, .length = length, .line = 1, .out = out};
    nm_modelfile_init(out);
    NM_TRY(check_bytes(&r));
    if (length >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) r.at = 3;      /* a byte order mark */
    nm_err err = NM_OK;
    while (err == NM_OK && next_instruction(&r)) err = read_instruction(&r);
    if (err == NM_OK && !out->from.text) err = nm_fail(NM_BAD_FILE, "%s: it has no FROM: name the model, as in: FROM smollm2", name);
    if (err != NM_OK) nm_modelfile_free(out);
    return err;
}

/* ---- Writing ------------------------------------------------------------------------------------------------------------------------------ */

/* True if a line of the text, but the last, ends in these quotes (white space behind them does not count): the value would end there. */
static bool ends_early(const char *text, size_t q)
{
    size_t run = 0;     /* quotes at the end so far; the opening ones stand before the first line */
    for (; *text; text++) {
        if (*text == '\n' && run >= q) return true;
        if (*text == '"') run++;
        else if (!white(*text)) run = 0;
    }
    return false;
}

static bool needs_quotes(const char *value)
{
    size_t n = strlen(value);
    return !n || *value == '"' || white(value[0]) || white(value[n - 1]) || strchr(value, '\n');
}

nm_err nm_modelfile_quote(nm_str *s, const char *value)
{
    if (!needs_quotes(value)) return nm_str_puts(s, value);
    if (!ends_early(value, 3)) return nm_str_printf(s, "\"\"\"%s\"\"\"", value);
    return nm_fail(NM_USAGE, "a text with a line that ends in \"\"\" cannot stand in a Modelfile: put something behind the quotes");
}

static nm_err write_line(nm_str *s, const char *instruction, const char *value)
{
    if (!value) return NM_OK;
    NM_TRY(nm_str_printf(s, "%s ", instruction));
    NM_TRY(nm_modelfile_quote(s, value));
    return nm_str_putc(s, '\n');
}

/* In the fewest digits that give the number back. */
static nm_err write_real(nm_str *s, const char *name, double value)
{
    char text[32];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    return nm_str_printf(s, "PARAMETER %s %s\n", name, text);
}

static nm_err write_parameters(nm_str *s, const nm_modelfile *m)
{
    for (const number *n = numbers; n < numbers + NUMBERS; n++) {
        const char *from = (const char *)m + n->offset;
        if (n->whole && *(const int32_t *)from != NM_MODELFILE_INT) NM_TRY(nm_str_printf(s, "PARAMETER %s %d\n", n->name, *(const int32_t *)from));
        if (!n->whole && !isnan(*(const double *)from)) NM_TRY(write_real(s, n->name, *(const double *)from));
    }
    if (m->seeded) NM_TRY(nm_str_printf(s, "PARAMETER seed %llu\n", (unsigned long long)m->seed));
    if (m->think >= 0) NM_TRY(nm_str_printf(s, "PARAMETER think %s\n", m->think ? "true" : "false"));
    for (size_t i = 0; i < m->stops; i++) NM_TRY(write_line(s, "PARAMETER stop", m->stop[i]));
    return NM_OK;
}

static nm_err write_stack(nm_str *s, const nm_modelfile *m)
{
    NM_TRY(write_line(s, "FROM", m->from.text));
    for (size_t i = 0; i < m->adapters; i++) NM_TRY(write_line(s, "ADAPTER", m->adapter[i].text));
    return NM_OK;
}

nm_err nm_modelfile_write(nm_str *s, const nm_modelfile *m)
{
    NM_TRY(write_stack(s, m));
    NM_TRY(write_parameters(s, m));
    NM_TRY(write_line(s, "TEMPLATE", m->tmpl));
    NM_TRY(write_line(s, "SYSTEM", m->system));
    for (size_t i = 0; i < m->messages; i++) {
        NM_TRY(nm_str_printf(s, "MESSAGE %s ", m->message[i].role));
        NM_TRY(nm_modelfile_quote(s, m->message[i].content));
        NM_TRY(nm_str_putc(s, '\n'));
    }
    return NM_OK;
}

/* ---- Revising ----------------------------------------------------------------------------------------------------------------------------- */

/* Whether the instruction that begins here is one that a revision writes anew; *from: it is FROM. */
static bool is_revised(const reader *r, bool *from)
{
    reader ahead = *r;
    const char *word;
    size_t n = read_word(&ahead, &word);
    *from = is(word, n, "FROM");
    if (*from || is(word, n, "ADAPTER") || is(word, n, "SYSTEM")) return true;
    if (!is(word, n, "PARAMETER")) return false;
    n = read_word(&ahead, &word);
    return !is_machine(word, n);
}

static nm_err write_revised(nm_str *s, const nm_modelfile *m)
{
    NM_TRY(write_stack(s, m));
    NM_TRY(write_parameters(s, m));
    return write_line(s, "SYSTEM", m->system);
}

/* Instruction by instruction: each is read, that its end is known. */
static nm_err revise(nm_str *s, reader *r, const nm_modelfile *file)
{
    size_t done = 0;
    bool from;
    while (next_instruction(r)) {
        size_t begin = r->at;
        bool goes = is_revised(r, &from);
        NM_TRY(read_instruction(r));
        if (!goes) continue;
        NM_TRY(nm_str_append(s, r->text + done, begin - done));
        if (from) NM_TRY(write_revised(s, file));
        done = r->at + (r->at < r->length);     /* with its line's end */
        r->line += r->at < r->length;
        r->at = done;
    }
    return nm_str_append(s, r->text + done, r->length - done);
}

nm_err nm_modelfile_revise(nm_str *s, const char *text, size_t length, const nm_modelfile *file)
{
    nm_modelfile read;
    reader r = {.text = text, .name = "the Modelfile", .length = length, .line = 1, .out = &read};
    nm_modelfile_init(&read);
    if (length >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) r.at = 3;
    nm_err err = revise(s, &r, file);
    nm_modelfile_free(&read);
    return err;
}
