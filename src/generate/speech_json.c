/* Owns telling, byte by byte, whether text is the beginning of one JSON value (RFC 8259), and where it ends. Keeps nothing of it. Refuses nesting beyond a bound; lets raw control
 * characters in strings pass, which models write and the caller escapes. */
#include "generate/speech.h"

enum { VALUE, FIRST_ITEM, FIRST_KEY, KEY, COLON, BEHIND_VALUE, STRING, ESCAPE, HEX, NUMBER, WORD };
enum { MINUS, ZERO, DIGITS, POINT, FRACTION, EXPONENT, SIGN, POWER };

bool nm_json_scan_in_string(const nm_json_scan *j) { return j->state == STRING || j->state == ESCAPE || j->state == HEX; }

static bool digit(char c) { return c >= '0' && c <= '9'; }

static nm_fit value_done(nm_json_scan *j)
{
    j->state = BEHIND_VALUE;
    return j->depth ? NM_FIT_MORE : NM_FIT_DONE;
}

static nm_fit go(nm_json_scan *j, uint8_t state)
{
    j->state = state;
    return NM_FIT_MORE;
}

static nm_fit descend(nm_json_scan *j, bool array)
{
    if (j->depth == NM_SPEECH_DEPTH) return NM_FIT_FAIL;
    uint64_t bit = (uint64_t)1 << j->depth % 64, *word = &j->arrays[j->depth / 64];
    *word = array ? *word | bit : *word & ~bit;
    j->depth++;
    return go(j, array ? FIRST_ITEM : FIRST_KEY);
}

static nm_fit ascend(nm_json_scan *j)
{
    j->depth--;
    return value_done(j);
}

static bool in_array(const nm_json_scan *j) { return j->arrays[(j->depth - 1) / 64] >> (j->depth - 1) % 64 & 1; }

static nm_fit begin_value(nm_json_scan *j, char c)
{
    if (c == '{' || c == '[') return descend(j, c == '[');
    if (c == '"') {
        j->key = false;
        return go(j, STRING);
    }
    if (c == '-' || digit(c)) {
        j->number = c == '-' ? MINUS : c == '0' ? ZERO : DIGITS;
        return go(j, NUMBER);
    }
    j->word = c == 't' ? "rue" : c == 'f' ? "alse" : c == 'n' ? "ull" : NULL;
    return j->word ? go(j, WORD) : NM_FIT_FAIL;
}

static nm_fit in_word(nm_json_scan *j, char c)
{
    if (c != *j->word++) return NM_FIT_FAIL;
    return *j->word ? NM_FIT_MORE : value_done(j);
}

static nm_fit in_string(nm_json_scan *j, char c)
{
    if (c == '\\') return go(j, ESCAPE);
    if (c != '"') return NM_FIT_MORE;
    return j->key ? go(j, COLON) : value_done(j);
}

static nm_fit in_escape(nm_json_scan *j, char c)
{
    if (c == 'u') {
        j->left = 4;
        return go(j, HEX);
    }
    for (const char *known = "\"\\/bfnrt"; *known; known++)
        if (c == *known) return go(j, STRING);
    return NM_FIT_FAIL;
}

static nm_fit in_hex(nm_json_scan *j, char c)
{
    if (!digit(c) && !((c | 32) >= 'a' && (c | 32) <= 'f')) return NM_FIT_FAIL;
    if (!--j->left) j->state = STRING;
    return NM_FIT_MORE;
}

/* What a number goes on with; -1 where it does not. */
static int next_number(int state, char c)
{
    bool d = digit(c), point = c == '.', e = (c | 32) == 'e';
    switch (state) {
    case MINUS: return d ? c == '0' ? ZERO : DIGITS : -1;
    case ZERO: return point ? POINT : e ? EXPONENT : -1;
    case DIGITS: return d ? DIGITS : point ? POINT : e ? EXPONENT : -1;
    case POINT: return d ? FRACTION : -1;
    case FRACTION: return d ? FRACTION : e ? EXPONENT : -1;
    case EXPONENT: return d ? POWER : c == '+' || c == '-' ? SIGN : -1;
    default: return d ? POWER : -1;
    }
}

static nm_fit structure(nm_json_scan *j, char c)
{
    if (nm_speech_space(c)) return NM_FIT_MORE;
    switch (j->state) {
    case FIRST_ITEM: return c == ']' ? ascend(j) : begin_value(j, c);
    case FIRST_KEY: case KEY:
        if (c == '}' && j->state == FIRST_KEY) return ascend(j);
        j->key = true;
        return c == '"' ? go(j, STRING) : NM_FIT_FAIL;
    case COLON: return c == ':' ? go(j, VALUE) : NM_FIT_FAIL;
    case BEHIND_VALUE:
        if (!j->depth) return NM_FIT_FAIL;
        if (c == ',') return go(j, in_array(j) ? VALUE : KEY);
        return c == (in_array(j) ? ']' : '}') ? ascend(j) : NM_FIT_FAIL;
    default: return begin_value(j, c);
    }
}

static nm_fit in_number(nm_json_scan *j, char c, bool *behind)
{
    int next = next_number(j->number, c);
    if (next >= 0) {
        j->number = (uint8_t)next;
        return NM_FIT_MORE;
    }
    if (j->number != ZERO && j->number != DIGITS && j->number != FRACTION && j->number != POWER) return NM_FIT_FAIL;
    if (value_done(j) == NM_FIT_MORE) return structure(j, c);
    *behind = true;
    return NM_FIT_DONE;
}

nm_fit nm_json_scan_byte(nm_json_scan *j, char c, bool *behind)
{
    *behind = false;
    switch (j->state) {
    case STRING: return in_string(j, c);
    case ESCAPE: return in_escape(j, c);
    case HEX: return in_hex(j, c);
    case NUMBER: return in_number(j, c, behind);
    case WORD: return in_word(j, c);
    default: return structure(j, c);
    }
}
