/* Owns judgements: whether a value fits a form (for enum and const beside other keywords) and whether none can (for oneOf). The first is exact; the second may say
 * "not that I see", never "empty" where something fits. */
#include "generate/schema.h"

#include <string.h>

enum { PROOF_DEPTH = 6 };

static bool is_number(const nm_json *j) { return j->kind == NM_JSON_INT || j->kind == NM_JSON_WIDE || j->kind == NM_JSON_REAL; }

static nm_err same(nm_schema *s, const nm_json *a, const nm_json *b, bool *is);

static nm_err same_objects(nm_schema *s, const nm_json *a, const nm_json *b, bool *is)
{
    *is = a->object.count == b->object.count;
    for (size_t i = 0; i < a->object.count && *is; i++) {
        const nm_json *other = nm_json_get(b, a->object.keys[i]);
        NM_TRY(nm_schema_work(s, 1 + b->object.count / 8));
        *is = other != NULL;
        if (other) NM_TRY(same(s, &a->object.values[i], other, is));
    }
    return NM_OK;
}

static nm_err same_arrays(nm_schema *s, const nm_json *a, const nm_json *b, bool *is)
{
    *is = a->array.count == b->array.count;
    for (size_t i = 0; i < a->array.count && *is; i++) NM_TRY(same(s, &a->array.items[i], &b->array.items[i], is));
    return nm_schema_work(s, *is ? a->array.count : 1);
}

enum { DECIMAL_WORK = 64 };     /* steps that reading a decimal takes, as printf is tried with up to 17 digits */

/* Decimals are too large for the frames of a recursion. */
__attribute__((noinline)) static bool same_decimals(const nm_json *a, const nm_json *b)
{
    nm_decimal x, y;
    nm_decimal_read(&x, a);
    nm_decimal_read(&y, b);
    return nm_decimal_compare(&x, &y) == 0;
}

static nm_err same_numbers(nm_schema *s, const nm_json *a, const nm_json *b, bool *is)
{
    if (a->kind == NM_JSON_INT && b->kind == NM_JSON_INT) *is = a->integer == b->integer;
    else if (a->kind == NM_JSON_REAL && b->kind == NM_JSON_REAL) *is = a->real == b->real;
    else {
        *is = same_decimals(a, b);
        return nm_schema_work(s, 2 * DECIMAL_WORK);
    }
    return NM_OK;
}

__attribute__((noinline)) static bool number_admits(const nm_number *n, const nm_json *value)
{
    nm_decimal d;
    nm_decimal_read(&d, value);
    return nm_number_accepts(n, &d);
}

/* Numbers by value, objects in any order. */
static nm_err same(nm_schema *s, const nm_json *a, const nm_json *b, bool *is)
{
    if (is_number(a) && is_number(b)) return same_numbers(s, a, b, is);
    *is = a->kind == b->kind;
    if (!*is) return NM_OK;
    switch (a->kind) {
    case NM_JSON_OBJECT: return same_objects(s, a, b, is);
    case NM_JSON_ARRAY: return same_arrays(s, a, b, is);
    case NM_JSON_BOOL: *is = a->boolean == b->boolean; return NM_OK;
    case NM_JSON_STRING:
        *is = a->string.length == b->string.length && !memcmp(a->string.bytes, b->string.bytes, a->string.length);
        return a->string.length == b->string.length ? nm_schema_work(s, a->string.length / 64) : NM_OK;
    default: return NM_OK;
    }
}

/* ---- Values --------------------------------------------------------------------------------------------------------------------------- */

static nm_err seed_admits(nm_schema *s, const nm_seed *seed, const nm_json *value, bool *admits)
{
    nm_forms forms;
    *admits = !seed->never && !seed->count;
    if (*admits || seed->never) return NM_OK;
    NM_TRY(nm_schema_forms(s, &forms, seed));
    for (size_t i = 0; i < forms.count && !*admits; i++) NM_TRY(nm_form_admits(s, forms.items[i], value, admits));
    return NM_OK;
}

static nm_err text_admits(nm_schema *s, nm_text *t, const nm_json *value, bool *admits)
{
    size_t characters = 0;
    for (size_t i = 0; i < value->string.length; i++) characters += (value->string.bytes[i] & 0xc0) != 0x80;
    *admits = characters >= t->least && characters <= t->most;
    if (!*admits || nm_text_is_free(t)) return NM_OK;
    NM_TRY(nm_text_dfa(s, t));
    *admits = nm_dfa_accepts(t->dfa, value->string.bytes, value->string.length);
    return nm_schema_work(s, characters);
}

static nm_err list_admits(nm_schema *s, const nm_list *l, const nm_json *value, bool *admits)
{
    *admits = value->array.count >= l->least && value->array.count <= l->most;
    for (size_t i = 0; i < value->array.count && *admits; i++)
        NM_TRY(seed_admits(s, i < l->n_prefix ? &l->prefix[i] : &l->rest, &value->array.items[i], admits));
    return NM_OK;
}

static nm_err record_admits(nm_schema *s, const nm_record_form *r, const nm_json *value, bool *admits)
{
    *admits = true;
    for (size_t i = 0; i < r->count && *admits; i++) {
        const nm_json *child = nm_json_get(value, r->properties[i].name);
        NM_TRY(nm_schema_work(s, 1 + value->object.count / 8));
        if (child) NM_TRY(seed_admits(s, &r->properties[i].seed, child, admits));
        else *admits = !r->properties[i].required;
    }
    for (size_t i = 0; i < value->object.count && *admits; i++) {
        bool named = false;
        NM_TRY(nm_schema_work(s, 1 + r->count / 8));
        for (size_t p = 0; p < r->count && !named; p++) named = !strcmp(r->properties[p].name, value->object.keys[i]);
        if (!named) NM_TRY(seed_admits(s, &r->extra, &value->object.values[i], admits));
    }
    return NM_OK;
}

static unsigned type_of(const nm_json *value)
{
    switch (value->kind) {
    case NM_JSON_NULL: return NM_IS_NULL;
    case NM_JSON_BOOL: return NM_IS_BOOL;
    case NM_JSON_STRING: return NM_IS_STRING;
    case NM_JSON_ARRAY: return NM_IS_ARRAY;
    case NM_JSON_OBJECT: return NM_IS_OBJECT;
    default: return NM_IS_NUMBER;
    }
}

static nm_err in_lists(nm_schema *s, const nm_form *form, const nm_json *value, bool *in)
{
    *in = true;
    for (size_t i = 0; i < form->n_lists && *in; i++) {
        const nm_json *list = form->lists[i], *items = form->single[i] ? list : list->array.items;
        size_t n = form->single[i] ? 1 : list->array.count;
        *in = (uintptr_t)value - (uintptr_t)items < n * sizeof *items;      /* one of the list's own */
        NM_TRY(nm_schema_work(s, *in ? 1 : 1 + n / 4));
        for (size_t j = 0; j < n && !*in; j++) NM_TRY(same(s, &items[j], value, in));
    }
    return NM_OK;
}

nm_err nm_form_admits(nm_schema *s, nm_form *form, const nm_json *value, bool *admits)
{
    unsigned type = type_of(value);
    NM_TRY(nm_schema_work(s, 1));
    *admits = false;
    if (!(form->types & type)) return NM_OK;
    NM_TRY(in_lists(s, form, value, admits));
    if (!*admits) return NM_OK;
    switch (type) {
    case NM_IS_STRING: return text_admits(s, &form->text, value, admits);
    case NM_IS_ARRAY: return list_admits(s, &form->list, value, admits);
    case NM_IS_OBJECT: return record_admits(s, &form->record, value, admits);
    case NM_IS_NUMBER:
        *admits = number_admits(&form->number, value);
        return nm_schema_work(s, DECIMAL_WORK);
    default: return NM_OK;
    }
}

nm_err nm_form_values(nm_schema *s, nm_form *form, const nm_json ***values, size_t *count)
{
    const nm_json *list = form->lists[0], *items = form->single[0] ? list : list->array.items;
    size_t n = form->single[0] ? 1 : list->array.count;
    *count = 0;
    NM_TRY(nm_schema_take(s, (void **)values, n, sizeof **values));
    for (size_t i = 0; i < n; i++) {
        bool admits;
        NM_TRY(nm_form_admits(s, form, &items[i], &admits));
        if (admits) (*values)[(*count)++] = &items[i];
    }
    return NM_OK;
}

/* ---- Emptiness ------------------------------------------------------------------------------------------------------------------------ */

static nm_err seed_is_empty(nm_schema *s, const nm_seed *seed, int depth, bool *empty)
{
    nm_forms forms;
    *empty = seed->never;
    if (seed->never || !seed->count || depth > PROOF_DEPTH) return NM_OK;
    NM_TRY(nm_schema_forms(s, &forms, seed));
    *empty = true;
    for (size_t i = 0; i < forms.count && *empty; i++) NM_TRY(nm_form_is_empty(s, forms.items[i], depth, empty));
    return NM_OK;
}

static nm_err text_is_empty(nm_schema *s, nm_text *t, bool *empty)
{
    *empty = t->least > t->most;
    if (*empty || nm_text_is_free(t)) return NM_OK;
    NM_TRY(nm_text_dfa(s, t));
    *empty = !t->dfa->n_states;
    return NM_OK;
}

static nm_err list_is_empty(nm_schema *s, const nm_list *l, int depth, bool *empty)
{
    *empty = l->least > l->most;
    for (size_t i = 0; i < l->n_prefix && i < l->least && !*empty; i++) NM_TRY(seed_is_empty(s, &l->prefix[i], depth + 1, empty));
    if (l->least > l->n_prefix && !*empty) return seed_is_empty(s, &l->rest, depth + 1, empty);
    return NM_OK;
}

static nm_err record_is_empty(nm_schema *s, const nm_record_form *r, int depth, bool *empty)
{
    *empty = false;
    for (size_t i = 0; i < r->count && !*empty; i++)
        if (r->properties[i].required) NM_TRY(seed_is_empty(s, &r->properties[i].seed, depth + 1, empty));
    return NM_OK;
}

static nm_err number_is_empty(nm_schema *s, nm_form *form, bool *empty)
{
    *empty = false;
    if (nm_number_is_free(&form->number)) return NM_OK;
    NM_TRY(nm_form_number_dfa(s, form));
    *empty = !form->number_dfa->n_states;
    return NM_OK;
}

nm_err nm_form_is_empty(nm_schema *s, nm_form *form, int depth, bool *empty)
{
    NM_TRY(nm_schema_work(s, 1));
    if (form->n_lists) {
        const nm_json **values;
        size_t count;
        NM_TRY(nm_form_values(s, form, &values, &count));
        *empty = !count;
        return NM_OK;
    }
    *empty = !(form->types & (NM_IS_NULL | NM_IS_BOOL));
    if (*empty && (form->types & NM_IS_NUMBER)) NM_TRY(number_is_empty(s, form, empty));
    if (*empty && (form->types & NM_IS_STRING)) NM_TRY(text_is_empty(s, &form->text, empty));
    if (*empty && (form->types & NM_IS_ARRAY)) NM_TRY(list_is_empty(s, &form->list, depth, empty));
    if (*empty && (form->types & NM_IS_OBJECT)) NM_TRY(record_is_empty(s, &form->record, depth, empty));
    return NM_OK;
}
