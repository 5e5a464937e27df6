/* Owns following one notation of calls through held text: the shapes of a row (speech.h) item by item, the object that holds a name and arguments, and what comes between calls.
 * A call is announced when its name is a tool's and its arguments begin; until then its text is held and may yet be content, from then on the text is used up as it comes. */
#include "generate/speech.h"

#include <string.h>

enum { BEGIN, CALL, BEHIND };
enum { OPEN, KEY, IN_KEY, COLON, VALUE, NAME, ARGUMENTS, ARGUMENTS_TEXT, SKIP, NEXT };      /* of an object */

void nm_caller_arguments(nm_speech *s, const char *text, size_t length)
{
    s->caller.opened = true;
    nm_speech_say(s, NM_SPEECH_ARGUMENTS, text, length);
}

void nm_caller_keep(nm_speech *s, const char *text, size_t length)
{
    if (s->err == NM_OK) s->err = nm_str_append(&s->caller.value, text, length);
}

static void begin_call(nm_caller *c)
{
    c->part = CALL;
    c->at = c->row->call;
    c->tool = NULL;
    c->name_length = c->value.length = 0;
    c->committed = c->opened = c->ended = c->any = c->begun = false;
    c->forced = c->depth = 0;
    c->quote = 0;
    c->slash = false;
    c->object = (nm_object){0};
    c->scan = (nm_json_scan){0};
}

void nm_caller_begin(nm_speech *s, const nm_family *row, size_t mark)
{
    nm_caller *c = &s->caller;
    c->row = row;
    c->first = s->calls;
    c->mark = c->pos = mark;
    begin_call(c);
    c->part = BEGIN;
    c->at = row->begin;
}

/* ---- Literal text ---------------------------------------------------------------------------------------------------- */

static bool is_item(const char *shape) { return *shape == '%' && shape[1] != '_'; }

nm_fit nm_shape_fit(const char **shape, const char *text, size_t length, size_t *used)
{
    const char *s = *shape;
    size_t i = 0;
    while (*s && !is_item(s)) {
        if (*s == '%' || nm_speech_space(*s)) {
            s += *s == '%' ? 2 : 1;
            while (i < length && nm_speech_space(text[i])) i++;
            continue;
        }
        if (i == length) return NM_FIT_MORE;
        if (text[i++] != *s++) return NM_FIT_FAIL;
    }
    *shape = s;
    *used = i;
    return NM_FIT_DONE;
}

static const char *rest(const nm_speech *s, size_t *length)
{
    *length = nm_speech_left(s) - s->caller.pos;
    return nm_speech_text(s) + s->caller.pos;
}

static nm_fit literal(nm_speech *s)
{
    size_t length, used = 0;
    const char *text = rest(s, &length);
    nm_fit fit = nm_shape_fit(&s->caller.at, text, length, &used);
    s->caller.pos += used;
    return fit;
}

static nm_fit pass_space(nm_speech *s)
{
    size_t length;
    const char *text = rest(s, &length);
    size_t n = 0;
    while (n < length && nm_speech_space(text[n])) n++;
    s->caller.pos += n;
    return n < length ? NM_FIT_DONE : NM_FIT_MORE;
}

/* ---- Names and other words ---------------------------------------------------------------------------------------------- */

static bool is_word(char c, char item)
{
    bool digit = c >= '0' && c <= '9', letter = (c | 32) >= 'a' && (c | 32) <= 'z';
    if (item == 'd') return digit;
    return digit || letter || (item == 'n' && (c == '_' || c == '-' || c == '.' || c == '/' || (unsigned char)c >= 0x80));
}

/* A word and the character behind it. */
static nm_fit word(nm_speech *s, char item, const char **start, size_t *n)
{
    size_t length;
    const char *text;
    if (pass_space(s) != NM_FIT_DONE) return NM_FIT_MORE;
    *start = text = rest(s, &length);
    for (*n = 0; *n < length && is_word(text[*n], item);) ++*n;
    if (*n >= NM_SPEECH_NAME) return NM_FIT_FAIL;
    if (*n == length) return NM_FIT_MORE;
    s->caller.pos += *n;
    return *n ? NM_FIT_DONE : NM_FIT_FAIL;
}

static nm_fit name(nm_speech *s)
{
    const char *start;
    size_t n;
    nm_fit fit = word(s, 'n', &start, &n);
    if (fit != NM_FIT_DONE) return fit;
    s->caller.tool = nm_tools_find(&s->tools, start, n);
    return s->caller.tool ? NM_FIT_DONE : NM_FIT_FAIL;
}

/* %a: nothing but an object. */
static nm_fit arguments(nm_speech *s)
{
    size_t length;
    if (!s->caller.committed) {
        if (pass_space(s) != NM_FIT_DONE) return NM_FIT_MORE;
        if (*rest(s, &length) != '{') return NM_FIT_FAIL;
        nm_caller_commit(s);
    }
    nm_fit fit = nm_value_json(s, nm_caller_arguments);
    s->caller.ended = fit == NM_FIT_DONE;
    return fit;
}

/* ---- An object with a name and arguments ---------------------------------------------------------------------------------- */

static bool key_is(const nm_object *o, const char *const *names)
{
    for (; *names; names++)
        if (strlen(*names) == o->key_length && !memcmp(*names, o->key, o->key_length)) return true;
    return false;
}

/* By the member's name and the value's first character; every family's names serve all. An object with other members is not a call, but just JSON. */
static nm_fit choose_value(nm_speech *s, char c)
{
    static const char *const names[] = {"name", "tool_name", "function", "tool", NULL}, *const arguments_[] = {"arguments", "parameters", NULL},
                      *const wraps[] = {"function", "tool_call", NULL}, *const others[] = {"id", "type", "tool_call_id", "call_id", NULL};
    enum { WRAPPED_MOST = 2 };
    nm_caller *call = &s->caller;
    nm_object *o = &call->object;
    call->scan = (nm_json_scan){0};
    if (c == '"' && key_is(o, names) && !call->tool) {
        call->pos++;
        call->name_length = 0;
        o->state = NAME;
    } else if (c == '{' && key_is(o, wraps) && o->wrapped < WRAPPED_MOST) {
        call->pos++;
        o->wrapped++;
        o->state = KEY;
    } else if ((c == '{' || c == '"') && key_is(o, arguments_) && !call->ended) {
        o->state = c == '{' ? ARGUMENTS : ARGUMENTS_TEXT;
        if (call->tool && c == '{') nm_caller_commit(s);
    } else {
        if (!key_is(o, others) && !(c == 'n' && key_is(o, arguments_))) return NM_FIT_FAIL;
        o->state = SKIP;
    }
    return NM_FIT_MORE;
}

/* Arguments that waited for the name; none at all are an empty object. */
static void give_kept(nm_speech *s)
{
    nm_caller *c = &s->caller;
    if (c->opened) return;
    nm_caller_commit(s);
    if (c->value.length) nm_caller_arguments(s, c->value.data, c->value.length);
    else nm_caller_arguments(s, "{}", 2);
    c->ended = true;
}

static nm_fit object_name(nm_speech *s, char c)
{
    nm_caller *call = &s->caller;
    call->pos++;
    if (c != '"') {
        if (c == '\\' || call->name_length == NM_SPEECH_NAME) return NM_FIT_FAIL;
        call->name[call->name_length++] = c;
        return NM_FIT_MORE;
    }
    call->tool = nm_tools_find(&s->tools, call->name, call->name_length);
    if (!call->tool) return NM_FIT_FAIL;
    if (call->ended) give_kept(s);
    call->object.state = NEXT;
    return NM_FIT_MORE;
}

static nm_fit object_arguments(nm_speech *s)
{
    nm_caller *c = &s->caller;
    nm_fit fit = nm_value_json(s, c->committed ? nm_caller_arguments : nm_caller_keep);
    if (fit != NM_FIT_DONE) return fit;
    c->ended = true;
    c->object.state = NEXT;
    return NM_FIT_DONE;
}

/* Arguments as a string that holds JSON: taken out of it, whole. */
static nm_fit object_arguments_text(nm_speech *s)
{
    nm_caller *c = &s->caller;
    nm_json text = {0}, object = {0};
    nm_fit fit = nm_value_json(s, nm_caller_keep);
    if (fit != NM_FIT_DONE || s->err != NM_OK) return fit;
    bool good = nm_json_parse(&text, c->value.data, c->value.length) == NM_OK && nm_json_parse(&object, text.string.bytes, text.string.length) == NM_OK &&
        object.kind == NM_JSON_OBJECT;
    c->value.length = 0;
    if (good) nm_caller_keep(s, text.string.bytes, text.string.length);
    nm_json_free(&text);
    nm_json_free(&object);
    c->ended = true;
    c->object.state = NEXT;
    if (good && c->tool) give_kept(s);
    return good ? NM_FIT_DONE : NM_FIT_FAIL;
}

static nm_fit object_close(nm_speech *s)
{
    nm_caller *c = &s->caller;
    c->pos++;
    if (c->object.wrapped) {
        c->object.wrapped--;
        c->object.state = NEXT;
        return NM_FIT_MORE;
    }
    if (!c->tool) return NM_FIT_FAIL;
    give_kept(s);
    return NM_FIT_DONE;
}

/* One character between values. MORE: go on; DONE: the object has ended. */
static nm_fit object_structure(nm_speech *s, char c)
{
    nm_caller *call = &s->caller;
    nm_object *o = &call->object;
    if (o->state == IN_KEY) {
        call->pos++;
        if (c == '"') o->state = COLON;
        else if (c == '\\' || o->key_length == sizeof o->key) return NM_FIT_FAIL;
        else o->key[o->key_length++] = c;
        return NM_FIT_MORE;
    }
    if (o->state == NAME) return object_name(s, c);
    if (nm_speech_space(c)) {
        call->pos++;
        return NM_FIT_MORE;
    }
    if (o->state == VALUE) return choose_value(s, c);
    if (c == '}' && (o->state == KEY || o->state == NEXT)) return object_close(s);
    static const char expected[] = {[OPEN] = '{', [KEY] = '"', [COLON] = ':', [NEXT] = ','};
    static const char then[] = {[OPEN] = KEY, [KEY] = IN_KEY, [COLON] = VALUE, [NEXT] = KEY};
    if (c != expected[o->state]) return NM_FIT_FAIL;
    call->pos++;
    o->key_length = o->state == KEY ? 0 : o->key_length;
    o->state = then[o->state];
    return NM_FIT_MORE;
}

static nm_fit object_skip(nm_speech *s)
{
    nm_fit fit = nm_value_json(s, NULL);
    if (fit == NM_FIT_DONE) s->caller.object.state = NEXT;
    return fit;
}

static nm_fit object(nm_speech *s)
{
    nm_object *o = &s->caller.object;
    size_t length;
    for (;;) {
        const char *text = rest(s, &length);
        if (!length) return NM_FIT_MORE;
        nm_fit fit;
        if (o->state == ARGUMENTS) fit = object_arguments(s);
        else if (o->state == ARGUMENTS_TEXT) fit = object_arguments_text(s);
        else if (o->state == SKIP) fit = object_skip(s);
        else if ((fit = object_structure(s, *text)) != NM_FIT_MORE) return fit;
        else continue;
        if (fit != NM_FIT_DONE || s->err != NM_OK) return fit;
    }
}

/* ---- Parameters one by one ------------------------------------------------------------------------------------------------- */

static void end_arguments(nm_speech *s)
{
    nm_caller_commit(s);
    nm_caller_arguments(s, s->caller.any ? "}" : "{}", s->caller.any ? 1 : 2);
    s->caller.ended = true;
}

/* %(: a parameter more, or what stands behind them. */
static nm_fit loop(nm_speech *s)
{
    size_t length, used;
    nm_caller *c = &s->caller;
    nm_caller_commit(s);
    pass_space(s);
    const char *text = rest(s, &length), *body = c->at + 2, *behind = strstr(body, "%)") + 2;
    nm_fit more = nm_shape_fit(&body, text, length, &used);
    if (more == NM_FIT_DONE) {
        c->at = body;
        c->pos += used;
        return NM_FIT_DONE;
    }
    nm_fit over = nm_shape_fit(&behind, text, length, &used);
    if (over == NM_FIT_DONE) {
        end_arguments(s);
        c->at = behind;
        c->pos += used;
        return NM_FIT_DONE;
    }
    if (more == NM_FIT_MORE || over == NM_FIT_MORE) return NM_FIT_MORE;
    end_arguments(s);
    return NM_FIT_FAIL;
}

static nm_fit again(nm_speech *s)
{
    const char *at = s->caller.row->call;
    s->caller.at = strstr(at, "%(");
    return NM_FIT_DONE;
}

/* %k: up to what follows it in the shape. */
static nm_fit key(nm_speech *s)
{
    nm_caller *c = &s->caller;
    size_t length, n = 0;
    const char *text = rest(s, &length);
    while (n < length && text[n] != c->at[2]) n++;
    if (n >= NM_SPEECH_NAME) return NM_FIT_FAIL;
    if (n == length) return NM_FIT_MORE;
    memcpy(c->key, text, c->key_length = n);
    c->pos += n;
    c->forced = 0;
    nm_value_key(s);
    return n ? NM_FIT_DONE : NM_FIT_FAIL;
}

/* %s */
static nm_fit is_string(nm_speech *s)
{
    static const char *const words[] = {"false", "true"};
    size_t length, used;
    const char *text = rest(s, &length);
    bool may = false;
    for (int i = 0; i < 2; i++) {
        const char *word = words[i];
        nm_fit fit = nm_shape_fit(&word, text, length, &used);
        may |= fit == NM_FIT_MORE;
        if (fit != NM_FIT_DONE) continue;
        s->caller.pos += used;
        s->caller.forced = i ? 1 : -1;
        return NM_FIT_DONE;
    }
    return may ? NM_FIT_MORE : NM_FIT_FAIL;
}

static nm_fit value(nm_speech *s, bool end)
{
    const char *at = s->caller.at, *close = at + 2;
    return nm_value_until(s, close, strcspn(close, "%\n "), at[1] == 'V', end);
}

/* ---- The whole ----------------------------------------------------------------------------------------------------------------- */

static nm_fit item(nm_speech *s)
{
    const char *start;
    size_t n;
    switch (s->caller.at[1]) {
    case 'n': return name(s);
    case 'a': return arguments(s);
    case 'k': return key(s);
    case 's': return is_string(s);
    case 'v': case 'V': return value(s, false);
    case 'f': case 'g': return nm_value_list(s, s->caller.at[1] == 'f');
    case 'd': case 'i': return word(s, s->caller.at[1], &start, &n);
    default: return object(s);
    }
}

/* The text of calls that were given is used up. */
static void settle(nm_speech *s)
{
    nm_caller *c = &s->caller;
    if (!c->committed) return;
    s->at += c->pos;
    c->pos = c->mark = 0;
}

/* Whether another call may begin with the text: its first mark, or for one without, any character of its kind. */
static nm_fit lead_fit(const char *shape, const char *text, size_t length)
{
    size_t used, n = 0;
    if (!is_item(shape)) return nm_shape_fit(&shape, text, length, &used);
    while (n < length && nm_speech_space(text[n])) n++;
    if (n == length) return NM_FIT_MORE;
    return (shape[1] == 'f' ? is_word(text[n], 'n') : text[n] == '{') ? NM_FIT_DONE : NM_FIT_FAIL;
}

static nm_fit another(nm_speech *s, const char *text, size_t length)
{
    const char *between = s->caller.row->between;
    size_t used;
    nm_fit fit = nm_shape_fit(&between, text, length, &used);
    if (fit == NM_FIT_DONE) fit = lead_fit(s->caller.row->call, text + used, length - used);
    if (fit != NM_FIT_DONE) return fit;
    begin_call(&s->caller);
    s->caller.pos += used;
    return NM_FIT_DONE;
}

/* Behind a call: another, or the end of the block. */
static nm_fit behind(nm_speech *s, bool *over)
{
    size_t length, used = 0;
    const char *text = rest(s, &length), *end = s->caller.row->end;
    nm_fit more = another(s, text, length);
    if (more == NM_FIT_DONE) return more;
    nm_fit close = nm_shape_fit(&end, text, length, &used);
    if (close == NM_FIT_MORE || (close == NM_FIT_DONE && more == NM_FIT_MORE && !*s->caller.row->end)) return NM_FIT_MORE;
    if (close == NM_FIT_FAIL && more == NM_FIT_MORE) return NM_FIT_MORE;
    if (close == NM_FIT_DONE) s->at += used;
    *over = true;
    return NM_FIT_DONE;
}

static nm_fit next_part(nm_speech *s, bool *over)
{
    nm_caller *c = &s->caller;
    if (c->part == BEHIND) return behind(s, over);
    if (c->part == BEGIN) {
        if (*c->row->begin && pass_space(s) != NM_FIT_DONE) return NM_FIT_MORE;
        c->part = CALL;
        c->at = c->row->call;
        return NM_FIT_DONE;
    }
    settle(s);
    c->part = BEHIND;
    c->at = "";
    return NM_FIT_DONE;
}

static nm_fit step(nm_speech *s, bool *over)
{
    nm_caller *c = &s->caller;
    if (!*c->at) return next_part(s, over);
    if (!is_item(c->at)) return literal(s);
    if (c->at[1] == '(') return loop(s);
    if (c->at[1] == ')') return again(s);
    nm_fit fit = item(s);
    if (fit == NM_FIT_DONE) c->at += 2;
    return fit;
}

nm_fit nm_caller_run(nm_speech *s)
{
    bool over = false;
    nm_fit fit = NM_FIT_DONE;
    while (fit == NM_FIT_DONE && !over && s->err == NM_OK) fit = step(s, &over);
    settle(s);
    if (fit == NM_FIT_MORE && !s->caller.committed && nm_speech_left(s) > NM_SPEECH_HELD) fit = NM_FIT_FAIL;
    return fit;
}

void nm_caller_end(nm_speech *s)
{
    nm_caller *c = &s->caller;
    if (c->part != CALL || !c->committed) return;
    if (c->at[0] == '%' && c->at[1] == '(') end_arguments(s);
    if (c->at[0] == '%' && (c->at[1] == 'v' || c->at[1] == 'V')) value(s, true);
    s->at = s->held.length;     /* the beginning of a mark that will not come */
}
