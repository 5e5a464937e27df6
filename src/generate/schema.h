/* Owns what the parts of the translation from JSON schema to GBNF share. A schema is read into nodes, each the conjunction of some schemas of the document; a node has
 * forms, one per choice among anyOf and oneOf; a form says per type what a value may be. Strings and numbers that are bound become minimal automata over characters
 * (schema_dfa.c), from patterns (schema_pattern.c), lengths, names and ranges of numbers (schema_number.c). schema_read.c makes forms, schema_prove.c judges
 * values and emptiness, schema_write.c writes rules. Everything lives in one arena that ends with the translation; its size, the number of steps, nodes, states
 * and the length of the text are bounded, so that no schema takes the process along. */
#ifndef NM_GENERATE_SCHEMA_H
#define NM_GENERATE_SCHEMA_H

#include <stdint.h>

#include "base/err.h"
#include "base/str.h"
#include "format/json.h"

enum {
    NM_SCHEMA_ARENA = 64 << 20,    /* bytes */
    NM_SCHEMA_WORK = 8000000,       /* steps: about a second */
    NM_SCHEMA_NODES = 20000,
    NM_SCHEMA_EXPLORED = 30000,     /* states of an automaton before it is made minimal */
    NM_SCHEMA_STATES = 6000,        /* and after */
    NM_SCHEMA_TEXT = 4 << 20,       /* bytes of grammar */
    NM_SCHEMA_COUNT = 20000,        /* the largest number of a repetition: minLength, maxItems ... */
    NM_SCHEMA_FORMS = 1000          /* choices of one place */
};

/* ---- schema_base.c: memory, interned keys, errors with their place ------------------------------------------------------------- */

typedef struct nm_intern {          /* byte strings, numbered as they come; keys stay where they are */
    struct { const char *bytes; size_t length; uint64_t hash; } *entries;
    size_t count, capacity;
    uint32_t *slots;                /* 1 + entry, 0 is empty */
    size_t n_slots;
} nm_intern;

typedef struct nm_schema nm_schema;
typedef struct nm_block nm_block;

/* Zeroed; freed with the translation. NM_USAGE when the arena is full. */
nm_err nm_schema_take(nm_schema *s, void **out, size_t count, size_t size);
#define NM_TAKE(s, out, count) nm_schema_take((s), (void **)&(out), (count), sizeof *(out))
nm_err nm_schema_more(nm_schema *s, void **array, size_t *capacity, size_t need, size_t size);
#define NM_MORE(s, array, capacity, need) nm_schema_more((s), (void **)&(array), &(capacity), (need), sizeof *(array))
void nm_schema_release(nm_schema *s);
/* What was taken after the mark goes; nothing of it may be used again. */
typedef struct nm_mark { nm_block *block; size_t used; } nm_mark;
nm_mark nm_schema_mark(const nm_schema *s);
void nm_schema_forget(nm_schema *s, nm_mark mark);
nm_err nm_schema_work(nm_schema *s, size_t steps);
/* The key's number; *fresh tells whether it is new, and then its bytes are copied. */
nm_err nm_intern_add(nm_schema *s, nm_intern *in, const void *key, size_t length, uint32_t *number, bool *fresh);
/* NM_USAGE: "schema: #/place/key: ...". key may be NULL. */
nm_err nm_schema_fail(nm_schema *s, const nm_json *at, const char *key, const char *format, ...) __attribute__((format(printf, 4, 5)));
/* Puts that place before the recorded message. */
nm_err nm_schema_fail_in(nm_schema *s, nm_err err, const nm_json *at, const char *key);

/* ---- schema_dfa.c: sets of code points and deterministic automata over them ------------------------------------------------------ */

enum { NM_CODE_MOST = 0x10ffff };
typedef struct nm_span { uint32_t low, high; } nm_span;
typedef struct nm_spans { nm_span *items; size_t count, capacity; } nm_spans;      /* sorted, apart, unless under way */

nm_err nm_spans_add(nm_schema *s, nm_spans *r, uint32_t low, uint32_t high);
void nm_spans_tidy(nm_spans *r);
nm_err nm_spans_negate(nm_schema *s, nm_spans *r);                                   /* tidies first */

typedef struct nm_dfa_edge { uint32_t low, high, to; } nm_dfa_edge;
typedef struct nm_dfa_state { size_t first, count; bool accepts; } nm_dfa_state;
/* State 0 begins. Edges of a state are sorted and apart; what has no edge fails. No states: nothing is accepted. */
typedef struct nm_dfa { nm_dfa_state *states; size_t n_states, states_capacity; nm_dfa_edge *edges; size_t n_edges, edges_capacity; } nm_dfa;

typedef struct nm_explorer { nm_schema *s; nm_dfa *dfa; nm_intern keys; } nm_explorer;
/* Adds all edges of the state that `key` stands for, in order of characters, and says whether it accepts. */
typedef nm_err (*nm_expand_fn)(void *arg, nm_explorer *e, const void *key, size_t length, bool *accepts);
nm_err nm_explorer_edge(nm_explorer *e, uint32_t low, uint32_t high, const void *key, size_t length);
/* The automaton of all states that can be reached from the key `start`, made minimal. */
nm_err nm_dfa_explore(nm_schema *s, nm_dfa *out, const void *start, size_t length, nm_expand_fn expand, void *arg);
nm_err nm_dfa_both(nm_schema *s, nm_dfa *out, const nm_dfa *a, const nm_dfa *b);
nm_err nm_dfa_not(nm_schema *s, nm_dfa *out, const nm_dfa *a);
/* Of its words those of least to most characters; most SIZE_MAX: no limit. */
nm_err nm_dfa_between(nm_schema *s, nm_dfa *out, const nm_dfa *a, size_t least, size_t most);
bool nm_dfa_accepts(const nm_dfa *a, const char *text, size_t length);                 /* UTF-8 */

/* ---- schema_pattern.c ------------------------------------------------------------------------------------------------------------- */

/* Strings in which an ECMA-262 pattern (u flag) matches somewhere. NM_USAGE names what cannot be expressed. */
nm_err nm_pattern_dfa(nm_schema *s, nm_dfa *out, const char *pattern, size_t length);
/* Strings that are one of the names; count may be 0. */
nm_err nm_names_dfa(nm_schema *s, nm_dfa *out, const char *const *names, size_t count);

/* ---- schema_number.c -------------------------------------------------------------------------------------------------------------- */

enum { NM_DECIMAL_DIGITS = 400 };
typedef struct nm_decimal {
    bool negative;                  /* never for zero */
    size_t n_whole, n_part;         /* at least 1; at least 0, and then the last is none of 0 */
    char whole[NM_DECIMAL_DIGITS], part[NM_DECIMAL_DIGITS];
} nm_decimal;
typedef struct nm_bound { const nm_decimal *at; bool exclusive; } nm_bound;      /* at NULL: no bound */
typedef struct nm_number {
    bool integer;
    nm_bound low, high;
    uint64_t multiple;              /* of multiple / 10^places; 0: any */
    size_t places;
} nm_number;

void nm_decimal_read(nm_decimal *out, const nm_json *number);
int nm_decimal_compare(const nm_decimal *a, const nm_decimal *b);
nm_err nm_decimal_write(nm_str *out, const nm_decimal *d);
void nm_number_bind(nm_number *n, bool high, bool exclusive, const nm_decimal *at);     /* which stays where it is */
/* False if it cannot be kept count of. */
bool nm_number_multiply(nm_number *n, const nm_decimal *of);
bool nm_number_is_free(const nm_number *n);        /* nothing but perhaps that it is an integer */
bool nm_number_accepts(const nm_number *n, const nm_decimal *value);
nm_err nm_number_dfa(nm_schema *s, nm_dfa *out, const nm_number *n);
nm_err nm_number_key(nm_str *out, const nm_number *n);

/* ---- schema_read.c: nodes and forms ------------------------------------------------------------------------------------------------ */

typedef struct nm_seed { const nm_json **list; size_t count, capacity; bool never; } nm_seed;   /* schemas that all hold; none: anything */
typedef enum nm_type { NM_IS_NULL = 1, NM_IS_BOOL = 2, NM_IS_NUMBER = 4, NM_IS_STRING = 8, NM_IS_ARRAY = 16, NM_IS_OBJECT = 32, NM_IS_ANY = 63 } nm_type;

typedef struct nm_text {
    size_t least, most;             /* SIZE_MAX: no limit */
    struct { const char *pattern; size_t length; const nm_json *schema; const char *key; } *patterns;
    size_t n_patterns, capacity;
    nm_dfa *dfa;                    /* NULL until nm_text_dfa */
} nm_text;
typedef struct nm_list { nm_seed *prefix; size_t n_prefix; nm_seed rest; size_t least, most; uint32_t *prefix_nodes, rest_node; } nm_list;
typedef struct nm_property { const char *name; nm_seed seed; bool required; uint32_t node; } nm_property;
typedef struct nm_record_form { nm_property *properties; size_t count, capacity; nm_seed extra; uint32_t extra_node; } nm_record_form;

/* What a value may be once all choices are made: of any type in `types`, with what the type asks for, and in each list of values. */
typedef struct nm_form {
    unsigned types;
    const nm_json **lists;          /* arrays of enum, or values of const */
    bool *single;                   /* lists[i] is one value */
    size_t n_lists, lists_capacity, single_capacity;
    nm_number number;
    nm_text text;
    nm_list list;
    nm_record_form record;
    nm_dfa *number_dfa;
    const nm_json **values;         /* those of the lists that fit, where there are lists */
    size_t n_values;
    uint32_t number_leaf, text_leaf, key_leaf;      /* rules for what is bound: numbers, strings, keys of further properties */
} nm_form;
typedef struct nm_forms { nm_form **items; size_t count, capacity; } nm_forms;

/* All forms of the conjunction; none: nothing is admitted, as far as one sees. Refuses what is not supported. */
nm_err nm_schema_forms(nm_schema *s, nm_forms *out, const nm_seed *seed);
nm_err nm_seed_add(nm_schema *s, nm_seed *seed, const nm_json *schema);
nm_err nm_text_dfa(nm_schema *s, nm_text *text);
nm_err nm_form_number_dfa(nm_schema *s, nm_form *form);
static inline bool nm_text_is_free(const nm_text *t) { return !t->n_patterns; }     /* lengths at most */

/* ---- schema_prove.c ---------------------------------------------------------------------------------------------------------------- */

nm_err nm_form_admits(nm_schema *s, nm_form *form, const nm_json *value, bool *admits);
/* The values of a form that has lists. */
nm_err nm_form_values(nm_schema *s, nm_form *form, const nm_json ***values, size_t *count);
/* True only if no value at all fits; false also where that is not seen, as deep down. */
nm_err nm_form_is_empty(nm_schema *s, nm_form *form, int depth, bool *empty);

/* ---- schema_rules.c: rules for characters, strings and numbers ------------------------------------------------------------------------ */

/* Rules that any schema may use; those used are written at the end. */
typedef enum nm_shared { NM_SHARED_VALUE, NM_SHARED_OBJECT, NM_SHARED_ARRAY, NM_SHARED_STRING, NM_SHARED_NUMBER, NM_SHARED_INTEGER, NM_SHARED_BOOLEAN, NM_SHARED_CHAR,
    NM_SHARED_CODE, NM_SHARED_HEX, NM_SHARED_SPACE, NM_SHARED_COUNT } nm_shared;
nm_err nm_write_shared(nm_schema *s, nm_str *out, nm_shared which);    /* its name */
nm_err nm_write_shared_rules(nm_schema *s, nm_str *out);
/* A literal of the grammar; and a JSON string, each character in its one notation. */
nm_err nm_write_literal(nm_str *out, const char *text, size_t length);
nm_err nm_write_json_string(nm_str *json, const char *text, size_t length);
nm_err nm_write_times(nm_str *out, size_t least, size_t most);         /* ?, *, +, {m,n}; most SIZE_MAX: no limit */
/* Rules whose first is PREFIX followed by the leaf's number: the automaton's words, as JSON strings if quoted. The same key gives the same leaf. */
nm_err nm_write_dfa(nm_schema *s, const nm_dfa *dfa, char prefix, bool quoted, uint32_t leaf);
nm_err nm_check_size(const nm_schema *s);

/* ---- schema_write.c: nodes, and rules for them ---------------------------------------------------------------------------------------- */

/* GBNF of the strings that a schema (an object) admits as they stand between marks, without quotes and escapes: none has the closing mark in it. NM_USAGE as
 * nm_schema_grammar, for a minLength or maxLength alone of more than some hundred characters, and where no string is left. *gbnf: nm_free. */
nm_err nm_schema_text_grammar(char **gbnf, size_t *gbnf_length, const char *schema, size_t length, const char *mark, size_t mark_length);

typedef struct nm_scheme {          /* a node */
    nm_seed seed;
    nm_forms forms;
    bool productive, written;       /* some finite document fits; its rule is on its way */
} nm_scheme;

struct nm_schema {
    const nm_json *root;
    nm_block *blocks;
    size_t used, work;
    int proving;                    /* above 0: whether a form is empty is asked, and a oneOf counts as an anyOf */
    nm_intern seeds, leaves;        /* of nodes; of rules for strings, numbers and classes */
    nm_scheme *nodes;
    size_t n_nodes, nodes_capacity;
    uint32_t *queue;                /* nodes whose rules are to be written */
    size_t n_queue, queue_capacity;
    nm_str rules, parts, classes;   /* text: of nodes, of what they are made of, of sets of characters */
    nm_str literal, key;            /* under way */
    unsigned shared;                /* bits of nm_shared that are in use */
};

/* From the root's schema to the whole grammar, in s->rules. */
nm_err nm_schema_write(nm_schema *s);

#endif
