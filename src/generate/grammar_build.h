/* Owns what the parts of the grammar's compiler share: rules as they were written. Nobody else includes it. */
#ifndef NM_GENERATE_GRAMMAR_BUILD_H
#define NM_GENERATE_GRAMMAR_BUILD_H

#include "generate/grammar.h"

/* Bounds. Memory grows with each of them linearly: a repetition of a repetition is two rules, not their product. */
enum {
    NM_GRAMMAR_TEXT = 1 << 20,      /* bytes */
    NM_GRAMMAR_RULES = 1 << 16,     /* with those that groups become */
    NM_GRAMMAR_NODES = 1 << 20,
    NM_GRAMMAR_REPEAT = 100000,     /* the largest number of a repetition */
    NM_GRAMMAR_DEPTH = 200          /* of groups */
};
#define NM_FOREVER UINT32_MAX

typedef struct nm_range { uint32_t low, high; } nm_range;      /* of code points */

/* A sequence of parts is a choice, the choices of a name are a rule. All are told by index, 0 is none. */
typedef struct nm_part {
    uint32_t what;              /* set or rule */
    uint32_t least, most;       /* times, most at least 1 */
    uint32_t next, choice;
    uint32_t next_use;          /* the next part that stands for the same rule */
    uint32_t at;                /* byte of the text */
    bool is_rule;
} nm_part;
typedef struct nm_choice { uint32_t first, last, next, rule; } nm_choice;
typedef struct nm_rule {
    uint32_t at, length;        /* its name, where it is made or else first met; length 0: a group */
    uint32_t owner;             /* the rule with a name that it stands in */
    uint32_t choice, last_choice, use;
    bool defined, empty, reads, ends;   /* may be empty; may stand for more than nothing; stands for any text at all */
} nm_rule;

typedef struct nm_build {
    nm_grammar *g;
    const char *text;
    size_t length, at;
    nm_rule *rules;
    size_t n_rules, rules_capacity;
    nm_choice *choices;
    size_t n_choices, choices_capacity;
    nm_part *parts;
    size_t n_parts, parts_capacity;
    uint32_t *names;            /* hash of names -> rule */
    size_t n_names, names_capacity;
    uint32_t *set_slots;        /* hash of sets -> set + 1 */
    size_t set_slots_capacity;
    nm_range *ranges;           /* of the class that is read */
    size_t n_ranges, ranges_capacity;
    uint32_t any[4];            /* node of so many further bytes of any character; 0: none yet */
    uint32_t floor;             /* least code point that as many bytes may stand for */
    uint32_t *list;             /* for whoever needs one */
    size_t list_capacity;
} nm_build;

/* How many bytes of its name a message shows. */
static inline int nm_rule_shown(const nm_rule *r) { return r->length < 64 ? (int)r->length : 64; }

/* NM_USAGE with line and column of a byte of the text. */
nm_err nm_grammar_fault(const nm_build *b, size_t at, const char *format, ...) __attribute__((format(printf, 3, 4)));

nm_err nm_grammar_parse(nm_build *b);       /* grammar_parse.c: fills rules, choices, parts, sets */
nm_err nm_grammar_check(nm_build *b);       /* grammar_check.c: sets empty, reads, ends of each rule; refuses what never ends */
nm_err nm_grammar_compile(nm_build *b);     /* grammar_compile.c: makes nodes of them, and puts rules into order */

/* grammar_set.c: the set of one byte; of the characters in b->ranges, in any order and overlapping, or of all others. */
nm_err nm_grammar_byte(nm_build *b, unsigned char byte, uint32_t *set);
nm_err nm_grammar_class(nm_build *b, bool others, uint32_t *set);

/* Appends a node. NM_USAGE, naming byte `at`, beyond NM_GRAMMAR_NODES. */
nm_err nm_grammar_node(nm_build *b, nm_node node, size_t at, uint32_t *index);

#endif
