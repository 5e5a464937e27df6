/* Owns the values that a template computes with: Python's, as far as jinja2's sandbox shows them. All of them live in the arena of
 * one rendering. Refuses attributes of C objects: a template sees what the tables of template_object.c name, and nothing else. */
#ifndef NM_TEXT_TEMPLATE_VALUE_H
#define NM_TEXT_TEMPLATE_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"
#include "text/template_arena.h"

typedef enum nm_tv_kind {
    NM_TV_MISSING,      /* no value at all: an unset slot, an argument not given, the end of an iteration */
    NM_TV_UNDEFINED, NM_TV_NONE, NM_TV_BOOL, NM_TV_INT, NM_TV_FLOAT, NM_TV_STRING, NM_TV_LIST, NM_TV_TUPLE, NM_TV_DICT, NM_TV_RANGE,
    NM_TV_VIEW,         /* dict.keys(), .values(), .items() */
    NM_TV_ITER,         /* a generator: can be walked once */
    NM_TV_NAMESPACE, NM_TV_MACRO, NM_TV_FUNCTION, NM_TV_METHOD, NM_TV_LOOP, NM_TV_CYCLER, NM_TV_JOINER,
    NM_TV_KINDS
} nm_tv_kind;

enum {
    NM_TV_MARKUP = 1,   /* strings: made by |safe or |escape; + and the methods escape what joins them */
    NM_TV_GROUP = 2     /* tuples: made by |groupby; has .grouper and .list */
};

typedef struct nm_tv nm_tv;
/* Bytes that strings share. A string whose end is the end of its buffer grows in place; others never notice. Lists likewise. */
typedef struct nm_tv_buffer { size_t used, capacity; _Alignas(16) char data[]; } nm_tv_buffer;
typedef struct nm_tv_string { const char *s; size_t n; nm_tv_buffer *buffer; } nm_tv_string;   /* valid UTF-8, may hold zeros; buffer may be NULL */
typedef struct nm_tv_list { nm_tv *items; size_t n; nm_tv_buffer *buffer; } nm_tv_list;
typedef struct nm_tv_dict nm_tv_dict;
typedef struct nm_tv_range { int64_t start, stop, step; size_t n; } nm_tv_range;
typedef struct nm_tv_undefined nm_tv_undefined;
typedef struct nm_tv_iter nm_tv_iter;
typedef struct nm_macro nm_macro;
typedef struct nm_loop nm_loop;
typedef struct nm_cycler nm_cycler;
typedef struct nm_bound nm_bound;
typedef struct nm_callable nm_callable;

struct nm_tv {
    uint8_t kind;
    uint8_t flag;
    uint16_t view;          /* NM_TV_VIEW: 0 keys, 1 values, 2 items */
    union {
        bool b; int64_t i; double f;
        const nm_tv_string *s; const nm_tv_list *l; nm_tv_dict *d; const nm_tv_range *r; const nm_tv_undefined *u; nm_tv_iter *it;
        nm_macro *macro; nm_loop *loop; nm_cycler *cycler; const nm_bound *bound; const nm_callable *call;
    };
};

struct nm_tv_dict { nm_tv *keys, *values; size_t n, capacity; uint32_t *index; size_t buckets; };     /* in order of insertion */
struct nm_tv_undefined { const char *what; const char *name; size_t length; };  /* what: NULL "NAME is undefined", else a kind or a sentence */
struct nm_cycler { nm_tv *items; size_t n, at; nm_tv separator; bool used; };      /* cycler, and joiner */

typedef struct nm_template nm_template;
/* Bytes [from, to) of a rendering's text. */
typedef struct nm_mark { size_t from, to; } nm_mark;
/* One rendering. err is sticky: once set, everything returns it. */
typedef struct nm_render {
    const nm_template *tmpl;
    nm_arena arena;
    nm_err err;
    uint32_t line;
    int depth, max_depth;
    uint64_t steps, max_steps;
    size_t max_output;
    nm_str out;
    struct nm_sb *capture;  /* where output goes: NULL = out */
    nm_tv variables;        /* dict */
    nm_tv block_text;       /* what the enclosing filter or set block captured */
    nm_mark *marks;         /* what generation blocks wrote; not in the arena: they outlive the rendering */
    size_t n_marks, marks_capacity;
    bool mark_lost;         /* a generation block wrote into a capture: where that went in the text is not known */
    int64_t now;
} nm_render;

/* Arguments of a call: positional ones, then keywords. */
typedef struct nm_args { nm_tv *pos; size_t n; nm_tv *names, *values; size_t n_kw; } nm_args;

/* ---- Errors, bounds, memory ------------------------------------------------------------------------------------------- */

/* Sets and returns r->err; the message is put behind the template's name and line. */
nm_err nm_rt_fail(nm_render *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
nm_err nm_rt_raise(nm_render *r, nm_err code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Counts work; NM_FAILED beyond the bound. */
nm_err nm_rt_steps(nm_render *r, size_t n);
/* That many levels deeper for as long as a C function recurses; pair with nm_rt_leave when it succeeded. */
nm_err nm_rt_enter(nm_render *r, int levels);
static inline void nm_rt_leave(nm_render *r, int levels) { r->depth -= levels; }
/* NULL after setting r->err. */
void *nm_rt_alloc(nm_render *r, size_t bytes);
void *nm_rt_array(nm_render *r, size_t count, size_t size);
#define NM_RT_NEW(r, pointer, count) do { if (!((pointer) = nm_rt_array(r, count, sizeof *(pointer)))) return (r)->err; } while (0)

/* ---- Strings under construction ----------------------------------------------------------------------------------------- */

/* Errors are sticky in the rendering; nm_sb_done reports them. */
typedef struct nm_sb { nm_render *r; nm_tv_buffer *buffer; } nm_sb;
void nm_sb_put(nm_sb *sb, const char *bytes, size_t n);
void nm_sb_puts(nm_sb *sb, const char *text);
void nm_sb_code(nm_sb *sb, int32_t code);
char *nm_sb_room(nm_sb *sb, size_t n);      /* n more bytes, to be filled at once; NULL after an error */
void nm_sb_repeat(nm_sb *sb, const char *bytes, size_t n, int64_t times);
void nm_sb_printf(nm_sb *sb, const char *format, ...) __attribute__((format(printf, 2, 3)));
static inline size_t nm_sb_length(const nm_sb *sb) { return sb->buffer ? sb->buffer->used : 0; }
nm_err nm_sb_done(nm_sb *sb, nm_tv *out);

/* ---- Values ---------------------------------------------------------------------------------------------------------------- */

static inline nm_tv nm_tv_none(void) { return (nm_tv){.kind = NM_TV_NONE}; }
static inline nm_tv nm_tv_bool(bool b) { return (nm_tv){.kind = NM_TV_BOOL, .b = b}; }
static inline nm_tv nm_tv_int(int64_t i) { return (nm_tv){.kind = NM_TV_INT, .i = i}; }
static inline nm_tv nm_tv_float(double f) { return (nm_tv){.kind = NM_TV_FLOAT, .f = f}; }
static inline bool nm_tv_is_int(nm_tv v) { return v.kind == NM_TV_INT || v.kind == NM_TV_BOOL; }
static inline int64_t nm_tv_as_int(nm_tv v) { return v.kind == NM_TV_BOOL ? v.b : v.i; }
static inline bool nm_tv_is_number(nm_tv v) { return nm_tv_is_int(v) || v.kind == NM_TV_FLOAT; }
static inline double nm_tv_as_float(nm_tv v) { return v.kind == NM_TV_FLOAT ? v.f : (double)nm_tv_as_int(v); }
/* The item is within 64 bits, the product on the way to it need not be. */
static inline nm_tv nm_tv_range_item(const nm_tv_range *range, size_t index)
{
    return nm_tv_int((int64_t)((uint64_t)range->start + (uint64_t)index * (uint64_t)range->step));
}
static inline bool nm_tv_is_list(nm_tv v) { return v.kind == NM_TV_LIST || v.kind == NM_TV_TUPLE; }
static inline bool nm_tv_given(nm_tv v) { return v.kind != NM_TV_MISSING; }
static inline bool nm_tv_text_is(nm_tv v, const char *text)
{
    return v.kind == NM_TV_STRING && v.s->n == __builtin_strlen(text) && !__builtin_memcmp(v.s->s, text, v.s->n);
}

const char *nm_tv_kind_name(nm_tv v);       /* as Python's type(v).__name__ */

/* The bytes are not copied and must outlive the rendering (or be parts of another string: pass its buffer). */
nm_err nm_tv_string_of(nm_render *r, const char *s, size_t n, nm_tv_buffer *buffer, nm_tv *out);
nm_err nm_tv_text(nm_render *r, const char *text, nm_tv *out);
nm_err nm_tv_slice_text(nm_render *r, nm_tv whole, size_t from, size_t to, nm_tv *out);   /* bytes; keeps NM_TV_MARKUP */
nm_err nm_tv_concat(nm_render *r, nm_tv left, nm_tv right, nm_tv *out);
nm_err nm_tv_undefined_of(nm_render *r, const char *what, const char *name, size_t length, nm_tv *out);
nm_err nm_tv_fail_undefined(nm_render *r, nm_tv v);

nm_err nm_tv_list_of(nm_render *r, nm_tv_kind kind, const nm_tv *items, size_t n, nm_tv *out);   /* copies the items */
nm_err nm_tv_pair(nm_render *r, nm_tv a, nm_tv b, nm_tv *out);                                   /* a tuple of two */
nm_err nm_tv_list_concat(nm_render *r, nm_tv left, nm_tv right, nm_tv *out);
/* A list under construction. */
typedef struct nm_lb { nm_tv_buffer *buffer; } nm_lb;
nm_err nm_lb_add(nm_render *r, nm_lb *lb, nm_tv item);
nm_err nm_lb_done(nm_render *r, nm_lb *lb, nm_tv_kind kind, nm_tv *out);
static inline size_t nm_lb_count(const nm_lb *lb) { return lb->buffer ? lb->buffer->used / sizeof(nm_tv) : 0; }
static inline nm_tv *nm_lb_items(const nm_lb *lb) { return lb->buffer ? (nm_tv *)lb->buffer->data : NULL; }

nm_err nm_tv_dict_of(nm_render *r, nm_tv_kind kind, nm_tv *out);                                 /* empty dict or namespace */
nm_err nm_tv_dict_set(nm_render *r, nm_tv_dict *d, nm_tv key, nm_tv value);                      /* TypeError for unhashable keys */
nm_err nm_tv_dict_get(nm_render *r, const nm_tv_dict *d, nm_tv key, nm_tv *out);                 /* MISSING if absent; unhashable: fails */
nm_err nm_tv_dict_text(nm_render *r, const nm_tv_dict *d, const char *key, size_t n, nm_tv *out);

nm_err nm_tv_truth(nm_render *r, nm_tv v, bool *out);
nm_err nm_tv_equal(nm_render *r, nm_tv a, nm_tv b, bool *out);
bool nm_tv_same(nm_tv a, nm_tv b);                                  /* Python's `is` */
/* -1, 0, 1; 2 for NaN; fails where Python has no order. op is for the message. */
nm_err nm_tv_compare(nm_render *r, nm_tv a, nm_tv b, const char *op, int *out);
nm_err nm_tv_contains(nm_render *r, nm_tv seq, nm_tv item, bool *out);
nm_err nm_tv_length(nm_render *r, nm_tv v, int64_t *out);           /* len(v) */

/* Arithmetic: op is one of + - * / % and 'f' (//), 'p' (**). */
nm_err nm_tv_arith(nm_render *r, char op, nm_tv a, nm_tv b, nm_tv *out);

/* ---- Text of values (template_print.c) ---------------------------------------------------------------------------------- */

nm_err nm_tv_str(nm_render *r, nm_tv v, nm_tv *out);                /* str(v); strings lose NM_TV_MARKUP */
nm_err nm_tv_soft(nm_render *r, nm_tv v, nm_tv *out);               /* markupsafe.soft_str: strings stay as they are */
void nm_sb_str(nm_sb *sb, nm_tv v);
void nm_sb_repr(nm_sb *sb, nm_tv v);
void nm_sb_float(nm_sb *sb, double f);                              /* repr(float) */
typedef struct nm_json_style { bool ascii, sort, pretty; nm_tv indent, item_separator, key_separator; } nm_json_style;
void nm_sb_json(nm_sb *sb, nm_tv v, const nm_json_style *style);
nm_err nm_tv_escape(nm_render *r, nm_tv v, nm_tv *out);             /* markupsafe.escape */
/* |f| by %.{precision}f, e or g, correctly rounded, whatever the locale; alternate is printf's #. */
void nm_sb_double(nm_sb *sb, double f, char form, int precision, bool alternate);
double nm_parse_double(const char *s, size_t n, bool *ok);          /* Python's float(str) */

/* ---- Formatting (template_format.c) --------------------------------------------------------------------------------------- */

nm_err nm_tv_percent(nm_render *r, nm_tv format, nm_tv arg, nm_tv *out);                        /* str % arg */
nm_err nm_tv_format(nm_render *r, nm_tv format, const nm_args *args, nm_tv *out);               /* str.format */
nm_err nm_tv_strftime(nm_render *r, const char *format, size_t n, nm_tv *out);

/* ---- Iteration (template_iter.c) -------------------------------------------------------------------------------------------- */

struct nm_tv_iter {
    nm_err (*next)(nm_render *r, nm_tv_iter *it, nm_tv *out);      /* MISSING at the end */
    nm_tv source;
    size_t at;
    nm_tv_iter *inner;
    void *state;
    const char *name;       /* as Python names the generator */
};
bool nm_tv_iterable(nm_tv v);
nm_err nm_iter_next(nm_render *r, nm_tv_iter *it, nm_tv *out);     /* it->next, counted and bounded in depth */
nm_err nm_iter_init(nm_render *r, nm_tv v, nm_tv_iter *it);         /* iter(v); fails where Python does */
/* A generator value that calls next with this state. */
nm_err nm_iter_value(nm_render *r, const char *name, nm_err (*next)(nm_render *, nm_tv_iter *, nm_tv *), nm_tv source, void *state, nm_tv *out);
nm_err nm_iter_over(nm_render *r, const char *name, nm_tv list, nm_tv *out);     /* a generator of a list's items */
nm_err nm_iter_collect(nm_render *r, nm_tv v, nm_tv *out);          /* list(v) */
nm_err nm_iter_reversed(nm_render *r, nm_tv v, nm_tv *out);         /* reversed(v); MISSING where Python has no reversed */
/* Sorted list by keys (same length; NULL: by the items): stable; descending keeps equal ones in order, as Python. */
nm_err nm_tv_sort(nm_render *r, nm_tv *items, nm_tv *keys, size_t n, bool descending);

/* ---- Objects (template_object.c) -------------------------------------------------------------------------------------------- */

nm_err nm_tv_getattr(nm_render *r, nm_tv v, const char *name, size_t n, nm_tv *out);             /* v.name */
nm_err nm_tv_attribute(nm_render *r, nm_tv v, const char *name, size_t n, nm_tv *out);           /* without a dict's items; MISSING */
nm_err nm_tv_getitem(nm_render *r, nm_tv v, nm_tv key, nm_tv *out);                              /* v[key] */
nm_err nm_tv_slice(nm_render *r, nm_tv v, nm_tv start, nm_tv stop, nm_tv step, nm_tv *out);
nm_err nm_tv_call(nm_render *r, nm_tv callee, const nm_args *args, nm_tv *out);
bool nm_tv_callable(nm_tv v);
nm_err nm_global(nm_render *r, const char *name, size_t n, nm_tv *out);                          /* MISSING if there is none */

/* ---- Tables of callables ------------------------------------------------------------------------------------------------------ */

/* One row per filter, test, function or method. params names the parameters in order, separated by blanks: "a" is required, "?a"
 * optional, a leading "/" forbids keywords for all. "*" passes the arguments as they are. v is what the filter is applied to or
 * the method belongs to; p the bound parameters, MISSING where not given. */
enum { NM_MAX_PARAMS = 8 };
struct nm_callable {
    const char *name, *params;
    nm_err (*bound)(nm_render *r, nm_tv v, const nm_tv *p, nm_tv *out);
    nm_err (*open)(nm_render *r, nm_tv v, const nm_args *args, nm_tv *out);    /* where params is "*" */
};
struct nm_bound { nm_tv self; const nm_callable *call; };
nm_err nm_callable_call(nm_render *r, const nm_callable *c, nm_tv v, const nm_args *args, nm_tv *out);
const nm_callable *nm_callable_find(const nm_callable *table, size_t count, const char *name, size_t n);

const nm_callable *nm_filter_find(const char *name, size_t n);
const nm_callable *nm_test_find(const char *name, size_t n);
const nm_callable *nm_text_filter(const char *name, size_t n);      /* those of template_filter_text.c */
const nm_callable *nm_string_method(const char *name, size_t n);
/* text.name(*pos) for a method of strings */
nm_err nm_tv_method(nm_render *r, nm_tv text, const char *name, nm_tv *pos, size_t n, nm_tv *out);
/* Integer parameters: dflt where not given; fails with a TypeError for other kinds. */
nm_err nm_arg_int(nm_render *r, nm_tv v, int64_t dflt, int64_t *out);
nm_err nm_arg_truth(nm_render *r, nm_tv v, bool dflt, bool *out);

#endif
