/* Owns values of arguments on their way to JSON: JSON itself as it comes, text between marks that the parameter's schema makes a string or something else, and Python's literals.
 * Strings stream; what must be understood first waits for its end. */
#include <string.h>

#include "base/err.h"
#include "generate/speech.h"

enum { STRING = 1, INTEGER = 2, NUMBER = 4, BOOLEAN = 8, OBJECT = 16, ARRAY = 32, NONE = 64 };    /* types that a schema admits */

static const char *rest(const nm_speech *s, size_t *length)
{
    *length = nm_speech_left(s) - s->caller.pos;
    return nm_speech_text(s) + s->caller.pos;
}

/* Text of a string, without quotes. Bytes that are no UTF-8 stay: the decoder gave them so. */
static void put_escaped(nm_speech *s, const char *text, size_t length, nm_put_fn put)
{
    static const char hex[] = "0123456789abcdef";
    size_t from = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        const char *named = c ? strchr("\"\"\\\\\nn\tt\rr", c) : NULL;
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        char out[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
        if (named) out[1] = named[1];
        if (i > from) put(s, text + from, i - from);
        put(s, out, named ? 2 : 6);
        from = i + 1;
    }
    if (length > from) put(s, text + from, length - from);
}

nm_fit nm_value_json(nm_speech *s, nm_put_fn put)
{
    size_t length, from = 0, i = 0;
    const char *text = rest(s, &length);
    nm_fit fit = NM_FIT_MORE;
    bool behind = false;
    for (; i < length && fit == NM_FIT_MORE; i++) {
        fit = nm_json_scan_byte(&s->caller.scan, text[i], &behind);
        if ((unsigned char)text[i] >= 0x20 || !nm_json_scan_in_string(&s->caller.scan) || !put) continue;
        if (i > from) put(s, text + from, i - from);
        put_escaped(s, text + i, 1, put);
        from = i + 1;
    }
    if (fit == NM_FIT_FAIL || behind) i--;
    if (i > from && put) put(s, text + from, i - from);
    s->caller.pos += i;
    return s->caller.value.length > NM_SPEECH_HELD ? NM_FIT_FAIL : fit;
}

void nm_value_key(nm_speech *s)
{
    nm_caller *c = &s->caller;
    nm_caller_arguments(s, c->any ? ", \"" : "{\"", c->any ? 3 : 2);
    put_escaped(s, c->key, c->key_length, nm_caller_arguments);
    nm_caller_arguments(s, "\": ", 3);
    c->any = true;
}

/* ---- What a schema admits ------------------------------------------------------------------------------------------------- */

static int named_type(const nm_json *name)
{
    static const char *const names[] = {"string", "integer", "number", "boolean", "object", "array", "null"};
    for (int i = 0; i < 7 && name->kind == NM_JSON_STRING; i++)
        if (!strcmp(name->string.bytes, names[i])) return 1 << i;
    return 0;
}

static int type_of(const nm_json *value)
{
    switch (value->kind) {
    case NM_JSON_STRING: return STRING;
    case NM_JSON_INT: case NM_JSON_WIDE: return INTEGER | NUMBER;
    case NM_JSON_REAL: return NUMBER;
    case NM_JSON_BOOL: return BOOLEAN;
    case NM_JSON_OBJECT: return OBJECT;
    case NM_JSON_ARRAY: return ARRAY;
    default: return NONE;
    }
}

static int types(const nm_json *schema, int depth);

static int all_of(const nm_json *list, int (*one)(const nm_json *value))
{
    int found = 0;
    for (size_t i = 0; list && list->kind == NM_JSON_ARRAY && i < list->array.count; i++) found |= one(&list->array.items[i]);
    return found;
}

static int branches(const nm_json *list, int depth)
{
    int found = 0;
    for (size_t i = 0; list && list->kind == NM_JSON_ARRAY && i < list->array.count; i++) found |= types(&list->array.items[i], depth + 1);
    return found;
}

/* 0: it does not say. */
static int types(const nm_json *schema, int depth)
{
    enum { DEEP = 4 };
    const nm_json *type = nm_json_get(schema, "type");
    if (type) return type->kind == NM_JSON_ARRAY ? all_of(type, named_type) : named_type(type);
    int found = all_of(nm_json_get(schema, "enum"), type_of);
    if (found || depth == DEEP) return found;
    found = branches(nm_json_get(schema, "anyOf"), depth);
    return found ? found : branches(nm_json_get(schema, "oneOf"), depth);
}

bool nm_speech_is_text(const nm_json *schema)
{
    const nm_json *type = nm_json_get(schema, "type");
    return type && type->kind == NM_JSON_STRING && !strcmp(type->string.bytes, "string");
}

/* The schema of the parameter whose value comes, or NULL. */
static const nm_json *parameter(const nm_speech *s)
{
    const nm_caller *c = &s->caller;
    const nm_json *all = nm_json_get(nm_json_get(c->tool, "parameters"), "properties");
    for (size_t i = 0; all && all->kind == NM_JSON_OBJECT && i < all->object.count; i++)
        if (strlen(all->object.keys[i]) == c->key_length && !memcmp(all->object.keys[i], c->key, c->key_length)) return &all->object.values[i];
    return NULL;
}

/* ---- Text between marks ----------------------------------------------------------------------------------------------------- */

/* Offset of the mark, or of what may yet become it; *found: it is there. */
static size_t find(const char *text, size_t length, const char *mark, size_t mark_length, bool *found)
{
    for (size_t at = 0; at < length; at++) {
        size_t have = length - at;
        if (text[at] != *mark || memcmp(text + at, mark, have < mark_length ? have : mark_length)) continue;
        *found = have >= mark_length;
        return at;
    }
    *found = false;
    return length;
}

static void put_string(nm_speech *s, const char *text, size_t length)
{
    nm_caller_arguments(s, "\"", 1);
    put_escaped(s, text, length, nm_caller_arguments);
    nm_caller_arguments(s, "\"", 1);
}

static void put_word(nm_speech *s, const char *word) { nm_caller_arguments(s, word, strlen(word)); }

/* What is kept, as JSON if it is any that the parameter may be; else as a string. */
static void put_value(nm_speech *s)
{
    nm_str *kept = &s->caller.value;
    nm_json value = {0};
    int may = s->caller.forced < 0 ? 0 : types(parameter(s), 0);
    const char *text = kept->data;
    size_t length = kept->length;
    while (length && nm_speech_space(*text)) text++, length--;
    while (length && nm_speech_space(text[length - 1])) length--;
    nm_err err = nm_json_parse(&value, text, length);
    if (err == NM_NO_MEMORY) s->err = err;
    else if (err == NM_OK && (!may || !(may & STRING) || type_of(&value) & may)) nm_caller_arguments(s, text, length);
    else if (!(may & STRING) && length == 4 && !memcmp(text, "True", 4)) put_word(s, "true");
    else if (!(may & STRING) && length == 5 && !memcmp(text, "False", 5)) put_word(s, "false");
    else if (!(may & STRING) && length == 4 && !memcmp(text, "None", 4)) put_word(s, "null");
    else put_string(s, kept->data, kept->length);
    nm_json_free(&value);
}

static void begin_value(nm_speech *s)
{
    nm_caller *c = &s->caller;
    c->begun = true;
    c->is_text = c->forced > 0 || (c->forced == 0 && nm_speech_is_text(parameter(s)));
    c->value.length = 0;
    if (s->err == NM_OK) s->err = nm_str_puts(&c->value, "");
    if (c->is_text) nm_caller_arguments(s, "\"", 1);
}

nm_fit nm_value_until(nm_speech *s, const char *close, size_t close_length, bool lines, bool end)
{
    nm_caller *c = &s->caller;
    size_t length;
    bool found;
    const char *text = rest(s, &length);
    if (!length) return NM_FIT_MORE;
    if (!c->begun) {
        begin_value(s);
        if (lines && *text == '\n') text++, length--, c->pos++;
    }
    size_t all = find(text, length, close, close_length, &found), n = all;
    if (end && !found) n = length;
    else if (lines && n && text[n - 1] == '\n') n--;
    if (c->is_text) put_escaped(s, text, n, nm_caller_arguments);
    else nm_caller_keep(s, text, n);
    c->pos += found ? all : n;
    if (!found) return c->value.length > NM_SPEECH_HELD ? NM_FIT_FAIL : NM_FIT_MORE;
    if (c->is_text) nm_caller_arguments(s, "\"", 1);
    else if (s->err == NM_OK) put_value(s);
    c->begun = false;
    return NM_FIT_DONE;
}

/* ---- Lists of keys and values, as in Python and otherwise ------------------------------------------------------------------------------------------------------------------- */

enum { NAME, KEY, VALUE };

static bool is_identifier(char c)
{
    return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_' || c == '-' || c == '.' || (unsigned char)c >= 0x80;
}

/* An identifier and the character that must follow it, which is read, too. */
static nm_fit identifier(nm_speech *s, char then, const char **start, size_t *n)
{
    size_t length, at = 0;
    const char *text = rest(s, &length);
    while (at < length && nm_speech_space(text[at])) at++;
    *start = text + at;
    for (*n = 0; at < length && is_identifier(text[at]); at++) ++*n;
    while (at < length && nm_speech_space(text[at])) at++;
    if (*n >= NM_SPEECH_NAME || (at < length && (!*n || text[at] != then))) return NM_FIT_FAIL;
    if (at == length) return NM_FIT_MORE;
    s->caller.pos += at + 1;
    return NM_FIT_DONE;
}

static nm_fit python_name(nm_speech *s)
{
    const char *start;
    size_t n;
    nm_fit fit = identifier(s, '(', &start, &n);
    if (fit != NM_FIT_DONE) return fit;
    s->caller.tool = nm_tools_find(&s->tools, start, n);
    s->caller.object.state = KEY;
    return s->caller.tool ? NM_FIT_MORE : NM_FIT_FAIL;
}

/* A parameter's name with what follows it, or the end. */
static nm_fit list_key(nm_speech *s, bool python)
{
    nm_caller *c = &s->caller;
    size_t length, at = 0, n;
    const char *text = rest(s, &length), *start;
    while (at < length && (nm_speech_space(text[at]) || (c->any && text[at] == ','))) at++;
    if (at == length) return NM_FIT_MORE;
    c->pos += at;
    if (text[at] == (python ? ')' : '}')) {
        c->pos++;
        nm_caller_commit(s);
        nm_caller_arguments(s, c->any ? "}" : "{}", c->any ? 1 : 2);
        c->ended = true;
        return NM_FIT_DONE;
    }
    nm_fit fit = identifier(s, python ? '=' : ':', &start, &n);
    if (fit != NM_FIT_DONE) return fit;
    nm_caller_commit(s);
    memcpy(c->key, start, c->key_length = n);
    nm_value_key(s);
    c->value.length = 0;
    c->object.state = VALUE;
    return NM_FIT_MORE;
}

/* The length of the Python string at text, quotes included; 0 if it does not end. */
static size_t string_length(const char *text, size_t length)
{
    for (size_t i = 1; i < length; i++) {
        if (text[i] == '\\') i++;
        else if (text[i] == *text) return i + 1;
    }
    return 0;
}

static void python_string(nm_speech *s, nm_str *out, const char *text, size_t length)
{
    for (size_t i = 1; i + 1 < length && s->err == NM_OK; i++) {
        if (text[i] == '\\' && text[i + 1] == '\'') i++;
        else if (text[i] == '\\') s->err = nm_str_putc(out, text[i++]);
        else if (text[i] == '"') s->err = nm_str_putc(out, '\\');
        if (s->err == NM_OK) s->err = (unsigned char)text[i] < 0x20 ? nm_str_printf(out, "\\u%04x", (unsigned)text[i]) : nm_str_putc(out, text[i]);
    }
}

/* A token of Python's literals as JSON; returns the bytes it had. */
static size_t python_token(nm_speech *s, nm_str *out, const char *text, size_t length)
{
    static const char *const words[][2] = {{"True", "true"}, {"False", "false"}, {"None", "null"}, {"(", "["}, {")", "]"}};
    size_t n = *text == '"' || *text == '\'' ? string_length(text, length) : 0;
    if (n) {
        s->err = nm_str_putc(out, '"');
        python_string(s, out, text, n);
        if (s->err == NM_OK) s->err = nm_str_putc(out, '"');
        return n;
    }
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        n = strlen(words[i][0]);
        if (length < n || memcmp(text, words[i][0], n)) continue;
        s->err = nm_str_puts(out, words[i][1]);
        return n;
    }
    s->err = nm_str_putc(out, *text);
    return 1;
}

static void append_put(nm_speech *s, const char *text, size_t length)
{
    if (s->err == NM_OK) s->err = nm_str_append(s->into, text, length);
}

/* The same of the other notation: a string between marks, or anything. */
static size_t marked_token(nm_speech *s, nm_str *out, const char *text, size_t length)
{
    enum { MARK = sizeof NM_SPEECH_QUOTE - 1 };
    bool found;
    if (length < MARK || memcmp(text, NM_SPEECH_QUOTE, MARK)) {
        s->err = nm_str_putc(out, *text);
        return 1;
    }
    size_t n = find(text + MARK, length - MARK, NM_SPEECH_QUOTE, MARK, &found);
    s->into = out;
    append_put(s, "\"", 1);
    put_escaped(s, text + MARK, n, append_put);
    append_put(s, "\"", 1);
    return found ? n + 2 * MARK : length;
}

/* What is kept, as JSON; what is no literal is a string. */
static void put_literal(nm_speech *s, bool python)
{
    nm_str out = {0};
    nm_json value = {0};
    const nm_str *kept = &s->caller.value;
    for (size_t at = 0; at < kept->length && s->err == NM_OK;)
        at += (python ? python_token : marked_token)(s, &out, kept->data + at, kept->length - at);
    nm_err err = s->err == NM_OK && out.length ? nm_json_parse(&value, out.data, out.length) : NM_USAGE;
    if (err == NM_NO_MEMORY) s->err = err;
    if (err == NM_OK) nm_caller_arguments(s, out.data, out.length);
    else if (s->err == NM_OK) put_string(s, kept->data ? kept->data : "", kept->length);
    nm_json_free(&value);
    nm_str_free(&out);
}

enum { MARKED = 1 };    /* as a quote: a string between marks */

/* One character of a value; true where the value has ended before it. */
static bool list_ends(nm_caller *c, char byte, bool python)
{
    if (c->quote == MARKED) return false;
    if (c->quote) {
        if (!c->slash && byte == c->quote) c->quote = 0;
        c->slash = !c->slash && byte == '\\';
        return false;
    }
    if (!c->depth && (byte == ',' || byte == (python ? ')' : '}'))) return true;
    if (byte == '"' || (python && byte == '\'')) c->quote = byte;
    if (byte == '[' || byte == '{' || byte == '(') c->depth++;
    if ((byte == ']' || byte == '}' || byte == ')') && c->depth) c->depth--;
    return false;
}

/* The length of the quoting mark at text, to be passed over as one; 0 if there is none, -1 if there may yet be. */
static int quoting(nm_caller *c, const char *text, size_t length)
{
    enum { MARK = sizeof NM_SPEECH_QUOTE - 1 };
    if (c->quote > MARKED || memcmp(text, NM_SPEECH_QUOTE, length < MARK ? length : MARK)) return 0;
    if (length < MARK) return -1;
    c->quote = c->quote ? 0 : MARKED;
    return MARK;
}

static nm_fit list_value(nm_speech *s, bool python)
{
    nm_caller *c = &s->caller;
    size_t length, n = 0;
    const char *text = rest(s, &length);
    bool over = false;
    while (n < length && !over) {
        int mark = python ? 0 : quoting(c, text + n, length - n);
        if (mark < 0) break;
        if (!mark && (over = list_ends(c, text[n], python))) break;
        n += mark ? (size_t)mark : 1;
    }
    nm_caller_keep(s, text, n);
    c->pos += n;
    if (!over) return c->value.length > NM_SPEECH_HELD ? NM_FIT_FAIL : NM_FIT_MORE;
    if (s->err == NM_OK) put_literal(s, python);
    c->object.state = KEY;
    return NM_FIT_MORE;
}

nm_fit nm_value_list(nm_speech *s, bool python)
{
    nm_caller *c = &s->caller;
    if (!python && c->object.state == NAME) c->object.state = KEY;
    for (;;) {
        size_t before = c->pos;
        int state = c->object.state;
        nm_fit fit = state == NAME ? python_name(s) : state == KEY ? list_key(s, python) : list_value(s, python);
        if (fit != NM_FIT_MORE || s->err != NM_OK) return fit;
        if (c->pos == before && c->object.state == state) return NM_FIT_MORE;
    }
}
