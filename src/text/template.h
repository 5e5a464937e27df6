/* Owns a parsed template: tokens, the syntax tree, and where each name lives. Immutable once open, so that any number of renderings
 * may share it. Refuses include, import, extends, block and autoescape: a chat template stands alone. */
#ifndef NM_TEXT_TEMPLATE_H
#define NM_TEXT_TEMPLATE_H

#include "format/json.h"
#include "nomoat.h"
#include "text/template_value.h"

/* ---- For training ---------------------------------------------------------------------------------------------------------- */

/* A rendered text, and what its generation blocks wrote, in order. mark_lost: one stands within a macro, a set or a filter block, so that
 * where its text ends up is not known. */
typedef struct nm_rendered { char *text; size_t length; nm_mark *marks; size_t n_marks; bool mark_lost; } nm_rendered;
/* nm_template_render with the variables as a tree, which is only read. *out needs no clean-up after a failure. */
nm_err nm_template_render_tree(const nm_template *tmpl, const nm_json *vars, const nm_template_options *options, nm_rendered *out);
void nm_rendered_free(nm_rendered *rendered);
/* True if the template has a generation block at all. */
bool nm_template_marks(const nm_template *tmpl);

/* ---- Tokens ------------------------------------------------------------------------------------------------------------- */

typedef enum nm_token_kind {
    NM_TOK_EOF, NM_TOK_DATA, NM_TOK_VAR_BEGIN, NM_TOK_VAR_END, NM_TOK_BLOCK_BEGIN, NM_TOK_BLOCK_END, NM_TOK_NAME, NM_TOK_STRING,
    NM_TOK_INT, NM_TOK_FLOAT,
    NM_TOK_ADD, NM_TOK_SUB, NM_TOK_MUL, NM_TOK_DIV, NM_TOK_FLOORDIV, NM_TOK_MOD, NM_TOK_POW, NM_TOK_TILDE, NM_TOK_EQ, NM_TOK_NE,
    NM_TOK_LT, NM_TOK_LE, NM_TOK_GT, NM_TOK_GE, NM_TOK_ASSIGN, NM_TOK_DOT, NM_TOK_COMMA, NM_TOK_COLON, NM_TOK_SEMICOLON, NM_TOK_PIPE,
    NM_TOK_LPAREN, NM_TOK_RPAREN, NM_TOK_LBRACKET, NM_TOK_RBRACKET, NM_TOK_LBRACE, NM_TOK_RBRACE
} nm_token_kind;

typedef struct nm_token { nm_token_kind kind; uint32_t line; const char *s; size_t n; int64_t i; double f; } nm_token;
typedef struct nm_tokens { nm_token *items; size_t n, capacity; } nm_tokens;

/* ---- Tree ------------------------------------------------------------------------------------------------------------------ */

typedef struct nm_name { const char *s; size_t n; uint32_t id; } nm_name;      /* one per distinct name */

typedef enum nm_node_kind {
    /* expressions */
    NM_N_CONST,         /* value */
    NM_N_NAME,          /* name, ref */
    NM_N_NSREF,         /* name, ref, attr: target of set only */
    NM_N_TUPLE, NM_N_LIST,      /* list */
    NM_N_DICT,          /* list: key, value, key, value ... */
    NM_N_BINARY,        /* a op b: + - * / % f p */
    NM_N_CONCAT,        /* list */
    NM_N_COMPARE,       /* a, then list: the operands, compare_ops[i] before the i-th */
    NM_N_AND, NM_N_OR,  /* a, b */
    NM_N_NOT, NM_N_NEG, NM_N_POS,       /* a */
    NM_N_COND,          /* b if a else c (c may be NULL) */
    NM_N_ATTR,          /* a.attr */
    NM_N_ITEM,          /* a[b] */
    NM_N_SLICE,         /* a[list[0]:list[1]:list[2]], each may be NULL */
    NM_N_CALL,          /* a(args) */
    NM_N_FILTER,        /* a | attr(args); a NULL: what the enclosing block captured */
    NM_N_TEST,          /* a is attr(args) */
    /* statements */
    NM_N_OUTPUT,        /* list: data (constants) and expressions */
    NM_N_IF,            /* list: condition, body, condition, body ...; c: else */
    NM_N_FOR,           /* a target, b iterable, c else, d body, test; recursive */
    NM_N_SET,           /* a = b */
    NM_N_SET_BLOCK,     /* a, b filters or NULL, d body */
    NM_N_WITH,          /* list: target, value ...; d body */
    NM_N_FILTER_BLOCK,  /* b filters, d body */
    NM_N_MACRO,         /* macro */
    NM_N_CALL_BLOCK,    /* a call, macro */
    NM_N_GENERATION,    /* macro without arguments, called at once */
    NM_N_BREAK, NM_N_CONTINUE,
    NM_N_BODY           /* list of statements */
} nm_node_kind;

typedef struct nm_node nm_node;
/* Where a name lives: slot of the function `up` levels out. */
typedef struct nm_ref { uint16_t up; uint16_t slot; } nm_ref;
typedef enum nm_load_kind { NM_LOAD_PARAMETER, NM_LOAD_RESOLVE, NM_LOAD_ALIAS, NM_LOAD_UNDEFINED } nm_load_kind;
/* What happens to a slot when its scope is entered: looked up among the variables, copied from an outer scope, or cleared. */
typedef struct nm_load { nm_load_kind kind; uint16_t slot; nm_ref from; const nm_name *name; } nm_load;
typedef struct nm_scope { nm_load *loads; size_t n; } nm_scope;

typedef struct nm_call_args {
    nm_node **pos;
    const nm_name **names;
    nm_node **values;
    nm_node *more, *more_named;         /* *args, **kwargs; may be NULL */
    uint16_t n, n_kw;
} nm_call_args;

typedef struct nm_macro_node {
    const nm_name *name;                /* NULL: a call block's */
    const nm_name **params;
    nm_node **defaults;                 /* those of the last n_defaults parameters */
    uint16_t n_params, n_defaults, n_slots;
    bool has_caller, has_kwargs, has_varargs, explicit_caller;
    uint16_t *param_slots, caller_slot, kwargs_slot, varargs_slot;
    nm_ref self;                        /* where the macro itself is kept */
    nm_scope scope;
    nm_node *body;
} nm_macro_node;

typedef struct nm_for_node {
    nm_node *test;                      /* condition or NULL, evaluated in a function of its own */
    nm_node *test_target;               /* the target again, with the references of that function */
    bool recursive;                     /* the whole loop is then a function of its own */
    uint16_t n_slots, test_slots, loop_slot;
    nm_scope scope, else_scope, test_scope;
} nm_for_node;

struct nm_node {
    uint8_t kind, op;
    uint16_t height;                    /* 1 + the highest child's: bounds the depth of every walk over the tree */
    uint32_t line, n;
    nm_node *a, *b, *c, *d;
    nm_node **list;
    union {
        nm_tv value;
        struct { const nm_name *name; nm_ref ref; const nm_name *attr; };
        struct { const nm_name *callee; nm_call_args *args; const nm_callable *callable; };
        const uint8_t *compare_ops;     /* nm_token_kind; 'i' in, 'n' not in */
        nm_macro_node *macro;
        nm_for_node *loop;
        nm_scope scope;                 /* with, set block, filter block */
    };
};

struct nm_template {
    char *name;
    nm_arena arena;
    nm_node *body;
    nm_scope scope;
    uint16_t n_slots;
    bool marks;             /* has a generation block */
};

/* While a template is being opened. */
typedef struct nm_parser {
    nm_template *tmpl;
    nm_err err;             /* sticky */
    nm_tokens tokens;
    size_t at;
    int depth;
    int loops;              /* loops around this point within the same function: break and continue need one */
    nm_name **names;        /* hash table of interned names */
    size_t n_names, n_buckets;
    const nm_name *loop_name, *special[3];      /* loop; caller, kwargs, varargs */
} nm_parser;

nm_err nm_parse_fail(nm_parser *p, uint32_t line, const char *format, ...) __attribute__((format(printf, 3, 4)));
void *nm_parse_alloc(nm_parser *p, size_t count, size_t size);      /* zeroed, in the template's arena; NULL after setting p->err */
/* Source to tokens; token texts are copies in the arena. */
nm_err nm_template_lex(nm_parser *p, const char *source, size_t length);
nm_err nm_template_parse(nm_parser *p);
/* Gives every name its slot, as jinja2's compiler scopes them. */
nm_err nm_template_scope(nm_parser *p);

/* ---- Running (template_run.c) ------------------------------------------------------------------------------------------------ */

/* One call of a function: its slots, and the call around its definition. */
typedef struct nm_frame { struct nm_frame *up; nm_tv slots[]; } nm_frame;
struct nm_macro { const nm_macro_node *node; nm_frame *defined_in; };

/* jinja2's LoopContext: looks one item ahead when asked to. */
struct nm_loop {
    nm_tv iterable;
    nm_tv_iter iter;
    nm_tv after, current, before, changed;      /* MISSING where there is none */
    int64_t index0, length, depth0;             /* length: -1 until asked for */
    const nm_node *node;
    nm_frame *outer;                            /* where a recursive loop is defined */
};

nm_err nm_template_run(nm_render *r);
nm_err nm_loop_init(nm_render *r, nm_loop *loop, nm_tv iterable);
nm_err nm_loop_next(nm_render *r, nm_loop *loop, nm_tv *out);           /* MISSING at the end */
nm_err nm_loop_recurse(nm_render *r, const nm_node *node, nm_frame *outer, nm_tv iterable, int64_t depth0, nm_tv *out);
nm_err nm_macro_call(nm_render *r, const nm_macro *macro, const nm_args *args, nm_tv *out);
nm_err nm_loop_length(nm_render *r, nm_loop *loop, int64_t *out);
nm_err nm_loop_attr(nm_render *r, nm_loop *loop, const char *name, size_t n, nm_tv *out);      /* MISSING if there is none */
nm_err nm_loop_call(nm_render *r, nm_loop *loop, const nm_args *args, nm_tv *out);
const nm_callable *nm_loop_method(const char *name, size_t n);

#endif
