/* Owns what the parts of nm_speech share: the table of families that call tools (speech_family.c), the stream and its pieces (speech.c), one notation followed byte by byte
 * (speech_call.c) with its JSON (speech_json.c) and other values (speech_value.c), channels (speech_harmony.c). Refuses to know templates beyond words that stand in them. */
#ifndef NM_GENERATE_SPEECH_H
#define NM_GENERATE_SPEECH_H

#include "base/str.h"
#include "format/json.h"

enum {
    NM_SPEECH_NAME = 256,           /* bytes of a function's or parameter's name, at most */
    NM_SPEECH_ROWS = 4,             /* notations of one family */
    NM_SPEECH_HELD = 1 << 18,       /* bytes that may wait to become a call, and of a value that must be whole before it is given */
    NM_SPEECH_SPACE = 64,           /* white space that waits to be trimmed before a mark */
    NM_SPEECH_DEPTH = 256           /* nesting of arguments */
};

/* ---- Families (speech_family.c) ---- */

/* A notation of calls. The answer has `begin`, then one or more `call` with `between` between them, then `end`: shapes, in which
 *   white space  is any, or none; a grammar writes it as it stands        %_   is any white space; a grammar writes none
 *   %n           the function's name                                      %a   its arguments as a JSON object
 *   %j           {"name": ..., "arguments": ...}                          %p   {"name": ..., "parameters": ...}
 *   %c           {"tool_call_id": ..., "tool_name": ..., "parameters": ...}
 *   %( ... %)    parameters one by one: %k a name, %v its value as it stands, %V the same with a line break at either end, %s "true" where the value is a string
 *   %f           name(key=value, ...) as in Python                        %g   key:value, ...} with strings in NM_SPEECH_QUOTE
 *   %d           digits                                                   %i   letters and digits
 * and all else is itself. */
typedef struct nm_family {
    const char *name;               /* rows of one name, one behind the other, are one family; grammars take the first */
    const char *tells[2];           /* each stands in the chat template */
    const char *begin, *call, *between, *end;
    bool whole;                     /* only where an answer, reasoning apart, begins with it */
    bool harmony;                   /* read by speech_harmony.c; the shapes are for grammars */
    bool alone;                     /* grammars admit one call an answer */
    bool short_ids;                 /* ids of nine letters and digits */
} nm_family;

/* The rows of the template's family, at most NM_SPEECH_ROWS; always one at least. */
int nm_family_rows(const char *template_text, const nm_family *rows[NM_SPEECH_ROWS]);
/* The text that every answer of this notation begins with. */
const char *nm_family_lead(const nm_family *row, size_t *length);

typedef struct nm_reasoning { const char *open, *close; } nm_reasoning;
extern const nm_reasoning nm_reasonings[];      /* the last has no open */

#define NM_SPEECH_QUOTE "<|\"|>"

static inline bool nm_speech_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* ---- Tools (speech_tools.c) ---- */

/* NM_USAGE unless it is an array of functions with names. */
nm_err nm_tools_read(nm_json *out, const char *tools);
/* The function's object, or NULL. */
const nm_json *nm_tools_find(const nm_json *tools, const char *name, size_t length);
const nm_json *nm_tools_function(const nm_json *tool);      /* {"type", "function": {...}} or the function itself */
nm_err nm_json_write(nm_str *s, const nm_json *value);

/* ---- JSON as it comes (speech_json.c) ---- */

typedef enum nm_fit { NM_FIT_FAIL, NM_FIT_MORE, NM_FIT_DONE } nm_fit;
typedef struct nm_json_scan {
    uint8_t state, number, left;    /* left: hexadecimal digits that must follow */
    bool key;                       /* the string is a member's name */
    uint16_t depth;
    const char *word;
    uint64_t arrays[NM_SPEECH_DEPTH / 64];      /* bit: this level is an array */
} nm_json_scan;                     /* all zero: before a value */
/* One byte more. DONE: the value ends with it, or, *behind, before it. Raw control characters in strings pass. */
nm_fit nm_json_scan_byte(nm_json_scan *scan, char c, bool *behind);
bool nm_json_scan_in_string(const nm_json_scan *scan);

/* ---- A call under way (speech_call.c) ---- */

typedef struct nm_object {          /* %j, %p, %c */
    int state, wrapped;             /* wrapped: objects around it, as {"function": {...}} */
    char key[32];
    size_t key_length;
} nm_object;
typedef struct nm_caller {
    const nm_family *row;
    int part;                       /* begin, a call, what is behind it */
    int32_t first;                  /* calls given before this block */
    const char *at;                 /* in the part's shape */
    size_t mark;                    /* bytes of the held text before the first mark: white space */
    size_t pos;                     /* bytes of the held text that are read */
    const nm_json *tool;            /* its function, once the name is read */
    char name[NM_SPEECH_NAME];
    size_t name_length;
    bool committed;                 /* the call was given: its text is no content any more */
    bool opened, ended;             /* arguments given: their first byte, and all of them */
    nm_json_scan scan;
    nm_object object;
    /* Parameters one by one. */
    bool any, is_text, begun;       /* any: one was given; is_text: the value is a string, and streams; begun: its first byte was seen */
    int forced;                     /* what %s said: 0 nothing, 1 a string, -1 none */
    char quote;                     /* in %f and %g: what ends the string that is open */
    bool slash;                     /* and whether its next character is escaped */
    int depth;                      /* and brackets */
    char key[NM_SPEECH_NAME];
    size_t key_length;
    nm_str value;                   /* a value that must be whole, or arguments that came before the name */
} nm_caller;

/* ---- The stream (speech.c) ---- */

struct nm_speech {
    nm_json tools;
    const nm_family *rows[NM_SPEECH_ROWS];
    int n_rows, row;                /* row: that is tried */
    bool marks, harmony, must_call;
    bool ending;                    /* no more text comes */
    uint64_t seed;
    int state, tag;
    bool skip_space;                /* white space that comes next belongs to the mark before it */
    bool begun;                     /* content was given */
    nm_str held;                    /* from `at` on: read and not given */
    size_t at;
    nm_caller caller;
    int32_t calls;                  /* given so far */
    char id[32];
    nm_str *into;                   /* where text is put instead of being given (speech_value.c) */
    int channel;                    /* speech_harmony.c */
    nm_speech_fn give;
    void *arg;
    nm_err err;                     /* what memory or the taker of pieces said; the rest is not read then */
};

static inline const char *nm_speech_text(const nm_speech *s) { return s->held.data + s->at; }
static inline size_t nm_speech_left(const nm_speech *s) { return s->held.length - s->at; }
/* Gives text of this kind; nothing where it is empty. */
void nm_speech_say(nm_speech *s, nm_speech_kind kind, const char *text, size_t length);
/* The held text's first bytes, given as this kind and done with. */
void nm_speech_take(nm_speech *s, nm_speech_kind kind, size_t length);

void nm_caller_begin(nm_speech *s, const nm_family *row, size_t mark);
/* Reads on from held text. FAIL: what is held is no call, or no further one; DONE: the block has ended. */
nm_fit nm_caller_run(nm_speech *s);
/* The answer ends within it: what was given stays, and a call that lacks nothing but its last marks is whole. */
void nm_caller_end(nm_speech *s);
/* Announces the call, once. */
void nm_caller_commit(nm_speech *s);
void nm_caller_arguments(nm_speech *s, const char *text, size_t length);
void nm_caller_keep(nm_speech *s, const char *text, size_t length);     /* appends to caller.value */
/* The literal text at the front of a shape. DONE: *shape stands behind it, *used bytes of text are read. */
nm_fit nm_shape_fit(const char **shape, const char *text, size_t length, size_t *used);

/* Values (speech_value.c). Each reads held text from caller.pos on. */
typedef void (*nm_put_fn)(nm_speech *s, const char *text, size_t length);
/* JSON, to its end; control characters in strings are escaped. put NULL: it goes nowhere. */
nm_fit nm_value_json(nm_speech *s, nm_put_fn put);
/* Up to a mark: text if the parameter is one, else JSON. lines: a line break at either end is none of it. */
nm_fit nm_value_until(nm_speech *s, const char *close, size_t close_length, bool lines, bool end);
/* Whether a parameter is a string and nothing else by its "type": its value stands between marks as it is, for grammars and readers alike; all else stands as JSON. */
bool nm_speech_is_text(const nm_json *schema);
/* %f, %g */
nm_fit nm_value_list(nm_speech *s, bool python);
/* Between parameters: "{" or ", ", and the key with its colon. */
void nm_value_key(nm_speech *s);

/* One answer in channels. False: no more can be told without more text. */
bool nm_harmony_step(nm_speech *s, bool end);
bool nm_harmony_is_mark(const char *text);
bool nm_harmony_reasons(const nm_speech *s);

#endif
