/* Owns the way from the root's schema to the grammar: nodes are read from it until there are no new ones, those that no finite document fits are found and left out, and
 * a rule is written for each that is reached. Objects are written in the order in which their properties are named, further ones last. */
#include "generate/schema.h"

#include <string.h>

#include "base/mem.h"

/* ---- Nodes ------------------------------------------------------------------------------------------------------------------------------ */

static nm_err find_node(nm_schema *s, const nm_seed *seed, uint32_t *node)
{
    bool fresh;
    const void *key = seed->never ? (const void *)"never" : (const void *)seed->list;
    NM_TRY(nm_intern_add(s, &s->seeds, key, seed->never ? 5 : seed->count * sizeof *seed->list, node, &fresh));
    if (!fresh) return NM_OK;
    if (s->n_nodes == NM_SCHEMA_NODES) return nm_fail(NM_USAGE, "the schema leads to more than %d rules: make it smaller", NM_SCHEMA_NODES);
    NM_TRY(NM_MORE(s, s->nodes, s->nodes_capacity, s->n_nodes + 1));
    s->nodes[s->n_nodes++] = (nm_scheme){.seed = *seed};
    return NM_OK;
}

static const nm_json *place_of(const nm_schema *s, const nm_scheme *node) { return node->seed.count ? node->seed.list[0] : s->root; }

static bool too_many(size_t least, size_t most) { return least > NM_SCHEMA_COUNT || (most != SIZE_MAX && most > NM_SCHEMA_COUNT); }

/* A rule for what s->key names; the automaton is only written when it is new. */
static nm_err add_leaf(nm_schema *s, const nm_dfa *dfa, char prefix, bool quoted, uint32_t *leaf)
{
    bool fresh;
    NM_TRY(nm_intern_add(s, &s->leaves, s->key.data, s->key.length, leaf, &fresh));
    return fresh ? nm_write_dfa(s, dfa, prefix, quoted, *leaf) : NM_OK;
}

static nm_err read_text(nm_schema *s, nm_form *form, const nm_json *place)
{
    nm_text *t = &form->text;
    if (t->least > t->most) form->types &= ~(unsigned)NM_IS_STRING;
    if (too_many(t->least, t->most)) return nm_schema_fail(s, place, NULL, "minLength or maxLength is above %d: leave it away", NM_SCHEMA_COUNT);
    if (nm_text_is_free(t) || t->least > t->most) return NM_OK;
    NM_TRY(nm_text_dfa(s, t));
    if (!t->dfa->n_states) {
        form->types &= ~(unsigned)NM_IS_STRING;
        return NM_OK;
    }
    s->key.length = 0;
    NM_TRY(nm_str_printf(&s->key, "string %zu %zu", t->least, t->most));
    for (size_t i = 0; i < t->n_patterns; i++) NM_TRY(nm_str_printf(&s->key, " %zu:%s", t->patterns[i].length, t->patterns[i].pattern));
    return add_leaf(s, t->dfa, 's', true, &form->text_leaf);
}

static nm_err read_number(nm_schema *s, nm_form *form, const nm_json *place)
{
    if (nm_number_is_free(&form->number)) return NM_OK;
    nm_err err = nm_form_number_dfa(s, form);
    if (err != NM_OK) return nm_schema_fail_in(s, err, place, form->number.multiple ? "multipleOf" : "minimum, maximum");
    if (!form->number_dfa->n_states) {
        form->types &= ~(unsigned)NM_IS_NUMBER;
        return NM_OK;
    }
    s->key.length = 0;
    NM_TRY(nm_number_key(&s->key, &form->number));
    return add_leaf(s, form->number_dfa, 'd', false, &form->number_leaf);
}

static nm_err read_list(nm_schema *s, nm_form *form, const nm_json *place)
{
    nm_list *l = &form->list;
    if (too_many(l->least, l->most)) return nm_schema_fail(s, place, NULL, "minItems or maxItems is above %d: leave it away", NM_SCHEMA_COUNT);
    for (size_t i = 0; i < l->n_prefix; i++) NM_TRY(find_node(s, &l->prefix[i], &l->prefix_nodes[i]));
    return find_node(s, &l->rest, &l->rest_node);
}

/* Keys of further properties: all strings but the names. */
static nm_err read_keys(nm_schema *s, nm_form *form, const nm_json *place)
{
    nm_record_form *r = &form->record;
    nm_dfa names, others;
    const char **list;
    NM_TRY(NM_TAKE(s, list, r->count));
    s->key.length = 0;
    NM_TRY(nm_str_puts(&s->key, "keys"));
    for (size_t i = 0; i < r->count; i++) {
        list[i] = r->properties[i].name;
        NM_TRY(nm_str_printf(&s->key, " %zu:%s", strlen(list[i]), list[i]));
    }
    nm_err err = nm_names_dfa(s, &names, list, r->count);
    if (err == NM_OK) err = nm_dfa_not(s, &others, &names);
    if (err != NM_OK) return nm_schema_fail_in(s, err, place, "properties beside further ones (write \"additionalProperties\": false)");
    return add_leaf(s, &others, 'k', true, &form->key_leaf);
}

static nm_err read_record(nm_schema *s, nm_form *form, const nm_json *place)
{
    nm_record_form *r = &form->record;
    for (size_t i = 0; i < r->count; i++) NM_TRY(find_node(s, &r->properties[i].seed, &r->properties[i].node));
    NM_TRY(find_node(s, &r->extra, &r->extra_node));
    return r->count && !r->extra.never ? read_keys(s, form, place) : NM_OK;
}

static nm_err read_form(nm_schema *s, nm_form *form, const nm_json *place)
{
    NM_TRY(nm_schema_work(s, 1));
    if (form->n_lists) return nm_form_values(s, form, &form->values, &form->n_values);
    if (form->types & NM_IS_STRING) NM_TRY(read_text(s, form, place));
    if (form->types & NM_IS_NUMBER) NM_TRY(read_number(s, form, place));
    if (form->types & NM_IS_ARRAY) NM_TRY(read_list(s, form, place));
    return form->types & NM_IS_OBJECT ? read_record(s, form, place) : NM_OK;
}

static nm_err read_nodes(nm_schema *s)
{
    for (size_t n = 0; n < s->n_nodes; n++) {
        nm_forms forms;
        NM_TRY(nm_schema_forms(s, &forms, &s->nodes[n].seed));
        for (size_t i = 0; i < forms.count; i++) NM_TRY(read_form(s, forms.items[i], place_of(s, &s->nodes[n])));
        s->nodes[n].forms = forms;      /* nodes may have moved meanwhile */
    }
    return NM_OK;
}

/* ---- What some finite document fits ------------------------------------------------------------------------------------------------------ */

/* How many items an array can have, as far as is known. */
static size_t most_items(const nm_schema *s, const nm_list *l)
{
    size_t i = 0;
    while (i < l->n_prefix && s->nodes[l->prefix_nodes[i]].productive) i++;
    if (i == l->n_prefix && s->nodes[l->rest_node].productive) return l->most;
    return i < l->most ? i : l->most;
}

static bool record_is_productive(const nm_schema *s, const nm_record_form *r)
{
    for (size_t i = 0; i < r->count; i++)
        if (r->properties[i].required && !s->nodes[r->properties[i].node].productive) return false;
    return true;
}

static unsigned productive_types(const nm_schema *s, const nm_form *form)
{
    unsigned types = form->types;
    if ((types & NM_IS_ARRAY) && form->list.least > most_items(s, &form->list)) types &= ~(unsigned)NM_IS_ARRAY;
    if ((types & NM_IS_OBJECT) && !record_is_productive(s, &form->record)) types &= ~(unsigned)NM_IS_OBJECT;
    return types;
}

static bool form_is_productive(const nm_schema *s, const nm_form *form)
{
    return form->n_lists ? form->n_values > 0 : productive_types(s, form) != 0;
}

/* The least fixed point. Those that others ask about come later, so that going backwards needs few rounds. */
static nm_err find_productive(nm_schema *s)
{
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t n = s->n_nodes; n-- > 0;) {
            nm_scheme *node = &s->nodes[n];
            NM_TRY(nm_schema_work(s, 1 + node->forms.count));
            for (size_t i = 0; i < node->forms.count && !node->productive; i++)
                changed |= node->productive = form_is_productive(s, node->forms.items[i]);
        }
    }
    return NM_OK;
}

/* ---- References to nodes ------------------------------------------------------------------------------------------------------------------ */

static bool is_free_list(const nm_list *l) { return !l->n_prefix && !l->rest.count && !l->rest.never && !l->least && l->most == SIZE_MAX; }
static bool is_free_record(const nm_record_form *r) { return !r->count && !r->extra.count && !r->extra.never; }
static bool is_free_text(const nm_text *t) { return nm_text_is_free(t) && !t->least && t->most == SIZE_MAX; }

/* The shared rule for the type if nothing binds it, or NM_SHARED_COUNT. */
static nm_shared shared_type(const nm_form *form, unsigned type)
{
    switch (type) {
    case NM_IS_BOOL: return NM_SHARED_BOOLEAN;
    case NM_IS_NUMBER: return !nm_number_is_free(&form->number) ? NM_SHARED_COUNT : form->number.integer ? NM_SHARED_INTEGER : NM_SHARED_NUMBER;
    case NM_IS_STRING: return is_free_text(&form->text) ? NM_SHARED_STRING : NM_SHARED_COUNT;
    case NM_IS_ARRAY: return is_free_list(&form->list) ? NM_SHARED_ARRAY : NM_SHARED_COUNT;
    case NM_IS_OBJECT: return is_free_record(&form->record) ? NM_SHARED_OBJECT : NM_SHARED_COUNT;
    default: return NM_SHARED_COUNT;
    }
}

/* The shared rule that says all of a node, or NM_SHARED_COUNT. */
static nm_shared shared_node(const nm_scheme *node)
{
    if (node->forms.count != 1 || node->forms.items[0]->n_lists) return NM_SHARED_COUNT;
    const nm_form *form = node->forms.items[0];
    unsigned types = form->types;
    if (types && !(types & (types - 1))) return shared_type(form, types);
    for (unsigned type = NM_IS_BOOL; type <= NM_IS_OBJECT; type <<= 1)
        if (!(types & type) || shared_type(form, type) == NM_SHARED_COUNT) return NM_SHARED_COUNT;
    return (types & NM_IS_NULL) && !form->number.integer ? NM_SHARED_VALUE : NM_SHARED_COUNT;
}

static nm_err put_name(nm_str *out, uint32_t node) { return node ? nm_str_printf(out, "n%u", (unsigned)node) : nm_str_puts(out, "root"); }

static nm_err put_node(nm_schema *s, nm_str *out, uint32_t node)
{
    nm_shared shared = shared_node(&s->nodes[node]);
    if (shared != NM_SHARED_COUNT) return nm_write_shared(s, out, shared);
    if (!s->nodes[node].written) {
        NM_TRY(NM_MORE(s, s->queue, s->queue_capacity, s->n_queue + 1));
        s->queue[s->n_queue++] = node;
        s->nodes[node].written = true;
    }
    return put_name(out, node);
}

static nm_err put_space(nm_schema *s, nm_str *out, const char *before, const char *after)
{
    NM_TRY(nm_str_puts(out, before));
    NM_TRY(nm_write_shared(s, out, NM_SHARED_SPACE));
    return nm_str_puts(out, after);
}

/* ---- Values ------------------------------------------------------------------------------------------------------------------------------- */

/* Ends the literal under way with the given text, and puts white space behind it. */
static nm_err break_literal(nm_schema *s, nm_str *out, const char *text)
{
    NM_TRY(nm_str_puts(&s->literal, text));
    if (s->literal.length) NM_TRY(nm_write_literal(out, s->literal.data, s->literal.length));
    NM_TRY(put_space(s, out, s->literal.length ? " " : "", " "));
    s->literal.length = 0;
    return NM_OK;
}

static nm_err put_value(nm_schema *s, nm_str *out, const nm_json *value);

static nm_err put_members(nm_schema *s, nm_str *out, const nm_json *value)
{
    bool object = value->kind == NM_JSON_OBJECT;
    size_t n = object ? value->object.count : value->array.count;
    NM_TRY(break_literal(s, out, object ? "{" : "["));
    for (size_t i = 0; i < n; i++) {
        if (i) NM_TRY(break_literal(s, out, ","));
        if (object) {
            NM_TRY(nm_write_json_string(&s->literal, value->object.keys[i], strlen(value->object.keys[i])));
            NM_TRY(break_literal(s, out, ":"));
        }
        NM_TRY(put_value(s, out, object ? &value->object.values[i] : &value->array.items[i]));
    }
    if (n) NM_TRY(break_literal(s, out, ""));
    return nm_str_putc(&s->literal, object ? '}' : ']');
}

/* Apart, since decimals are too large for the frames of a recursion. */
__attribute__((noinline)) static nm_err put_number(nm_schema *s, const nm_json *value)
{
    nm_decimal d;
    nm_decimal_read(&d, value);
    return nm_decimal_write(&s->literal, &d);
}

static nm_err put_value(nm_schema *s, nm_str *out, const nm_json *value)
{
    switch (value->kind) {
    case NM_JSON_NULL: return nm_str_puts(&s->literal, "null");
    case NM_JSON_BOOL: return nm_str_puts(&s->literal, value->boolean ? "true" : "false");
    case NM_JSON_STRING: return nm_write_json_string(&s->literal, value->string.bytes, value->string.length);
    case NM_JSON_ARRAY: case NM_JSON_OBJECT: return put_members(s, out, value);
    default: return put_number(s, value);
    }
}

static nm_err put_values(nm_schema *s, nm_str *out, const nm_form *form, const char **between)
{
    for (size_t i = 0; i < form->n_values; i++) {
        s->literal.length = 0;
        NM_TRY(nm_str_puts(out, *between));
        NM_TRY(put_value(s, out, form->values[i]));
        NM_TRY(nm_write_literal(out, s->literal.data, s->literal.length));
        *between = " | ";
    }
    return NM_OK;
}

/* ---- Arrays -------------------------------------------------------------------------------------------------------------------------------- */

typedef struct array { uint32_t node; size_t form; const nm_list *list; size_t most, n_prefix; } array;

/* Items from number i on, where i - 1 stands before: those that must be there, and the rule for those that may. */
static nm_err put_items(nm_schema *s, nm_str *out, const array *a, size_t i)
{
    for (; i < a->n_prefix && i < a->list->least; i++) {
        NM_TRY(put_space(s, out, " \",\" ", " "));
        NM_TRY(put_node(s, out, a->list->prefix_nodes[i]));
    }
    if (i < a->n_prefix) {
        NM_TRY(nm_str_putc(out, ' '));
        NM_TRY(put_name(out, a->node));
        return nm_str_printf(out, "-%zu-a%zu", a->form, i);
    }
    if (i >= a->most) return NM_OK;
    NM_TRY(put_space(s, out, " (\",\" ", " "));
    NM_TRY(put_node(s, out, a->list->rest_node));
    NM_TRY(nm_str_putc(out, ')'));
    return nm_write_times(out, a->list->least > i ? a->list->least - i : 0, a->most == SIZE_MAX ? SIZE_MAX : a->most - i);
}

/* Rules for items of the prefix that may be left out: each with all behind it. */
static nm_err write_tails(nm_schema *s, const array *a)
{
    for (size_t i = a->list->least > 1 ? a->list->least : 1; i < a->n_prefix; i++) {
        NM_TRY(put_name(&s->parts, a->node));
        NM_TRY(nm_str_printf(&s->parts, "-%zu-a%zu ::= ", a->form, i));
        NM_TRY(put_space(s, &s->parts, "(\",\" ", " "));
        NM_TRY(put_node(s, &s->parts, a->list->prefix_nodes[i]));
        NM_TRY(put_items(s, &s->parts, a, i + 1));
        NM_TRY(nm_str_puts(&s->parts, ")?\n"));
    }
    return NM_OK;
}

static nm_err put_array(nm_schema *s, nm_str *out, uint32_t node, size_t form, const nm_list *l)
{
    array a = {.node = node, .form = form, .list = l, .most = most_items(s, l)};
    a.n_prefix = l->n_prefix < a.most ? l->n_prefix : a.most;
    NM_TRY(put_space(s, out, "\"[\" ", " "));
    if (a.most) {
        NM_TRY(nm_str_puts(out, l->least ? "" : "("));
        NM_TRY(put_node(s, out, a.n_prefix ? l->prefix_nodes[0] : l->rest_node));
        NM_TRY(put_items(s, out, &a, 1));
        NM_TRY(put_space(s, out, " ", l->least ? " " : ")? "));
    }
    NM_TRY(nm_str_puts(out, "\"]\""));
    return write_tails(s, &a);
}

/* ---- Objects ------------------------------------------------------------------------------------------------------------------------------- */

/* first: the number of properties before the first that is required. Nothing is known to be written until one of them or that one is. */
typedef struct object { uint32_t node; size_t form; const nm_form *of; const nm_property **properties; size_t count, first; bool extra; } object;

static nm_err put_pair(nm_schema *s, nm_str *out, const object *o, size_t i)
{
    s->literal.length = 0;
    NM_TRY(nm_write_json_string(&s->literal, o->properties[i]->name, strlen(o->properties[i]->name)));
    NM_TRY(nm_str_putc(&s->literal, ':'));
    NM_TRY(nm_write_literal(out, s->literal.data, s->literal.length));
    NM_TRY(put_space(s, out, " ", " "));
    return put_node(s, out, o->properties[i]->node);
}

static nm_err put_extra(nm_schema *s, nm_str *out, const object *o)
{
    if (o->of->record.count) NM_TRY(nm_str_printf(out, "k%u", (unsigned)o->of->key_leaf));
    else NM_TRY(nm_write_shared(s, out, NM_SHARED_STRING));
    NM_TRY(put_space(s, out, " \":\" ", " "));
    return put_node(s, out, o->of->record.extra_node);
}

/* Further properties behind something. */
static nm_err put_extras(nm_schema *s, nm_str *out, const object *o)
{
    if (!o->extra) return NM_OK;
    NM_TRY(put_space(s, out, " (\",\" ", " "));
    NM_TRY(put_extra(s, out, o));
    return nm_str_puts(out, ")*");
}

/* Property i behind something. */
static nm_err put_next(nm_schema *s, nm_str *out, const object *o, size_t i)
{
    bool required = o->properties[i]->required;
    NM_TRY(put_space(s, out, required ? " \",\" " : " (\",\" ", " "));
    NM_TRY(put_pair(s, out, o, i));
    return required ? NM_OK : nm_str_puts(out, ")?");
}

/* All from property i on, behind something. Up to the first that is required each has a rule, since each can be the one that is written first. */
static nm_err put_rest(nm_schema *s, nm_str *out, const object *o, size_t i)
{
    if (i && i < o->count && i <= o->first) {
        NM_TRY(nm_str_putc(out, ' '));
        NM_TRY(put_name(out, o->node));
        return nm_str_printf(out, "-%zu-r%zu", o->form, i);
    }
    for (; i < o->count; i++) NM_TRY(put_next(s, out, o, i));
    return put_extras(s, out, o);
}

static nm_err write_rests(nm_schema *s, const object *o)
{
    for (size_t i = 1; i < o->count && i <= o->first; i++) {
        NM_TRY(put_name(&s->parts, o->node));
        NM_TRY(nm_str_printf(&s->parts, "-%zu-r%zu ::=", o->form, i));
        NM_TRY(put_next(s, &s->parts, o, i));
        NM_TRY(put_rest(s, &s->parts, o, i + 1));
        NM_TRY(nm_str_putc(&s->parts, '\n'));
    }
    return NM_OK;
}

/* Each that can be written first, with the rest behind it. */
static nm_err put_firsts(nm_schema *s, nm_str *out, const object *o)
{
    const char *between = "";
    for (size_t i = 0; i < o->count && i <= o->first; i++) {
        NM_TRY(nm_str_puts(out, between));
        NM_TRY(put_pair(s, out, o, i));
        NM_TRY(put_rest(s, out, o, i + 1));
        between = " | ";
    }
    if (o->first < o->count || !o->extra) return NM_OK;
    NM_TRY(nm_str_puts(out, between));
    NM_TRY(put_extra(s, out, o));
    return put_extras(s, out, o);
}

static nm_err find_object(nm_schema *s, object *o)
{
    const nm_record_form *r = &o->of->record;
    NM_TRY(NM_TAKE(s, o->properties, r->count));
    for (size_t i = 0; i < r->count; i++)
        if (s->nodes[r->properties[i].node].productive) o->properties[o->count++] = &r->properties[i];
    while (o->first < o->count && !o->properties[o->first]->required) o->first++;
    o->extra = !r->extra.never && s->nodes[r->extra_node].productive;
    return NM_OK;
}

static nm_err put_object(nm_schema *s, nm_str *out, uint32_t node, size_t form, const nm_form *of)
{
    object o = {.node = node, .form = form, .of = of};
    NM_TRY(find_object(s, &o));
    bool optional = o.first == o.count, choice = o.first > 0 || optional;
    NM_TRY(put_space(s, out, "\"{\" ", " "));
    if (o.count || o.extra) {
        NM_TRY(nm_str_puts(out, optional ? "((" : choice ? "(" : ""));
        NM_TRY(put_firsts(s, out, &o));
        NM_TRY(put_space(s, out, choice ? ") " : " ", optional ? ")? " : " "));
    }
    NM_TRY(nm_str_puts(out, "\"}\""));
    return write_rests(s, &o);
}

/* ---- Rules ---------------------------------------------------------------------------------------------------------------------------------- */

static nm_err put_text(nm_schema *s, nm_str *out, const nm_form *form)
{
    if (!nm_text_is_free(&form->text)) return nm_str_printf(out, "s%u", (unsigned)form->text_leaf);
    NM_TRY(nm_str_puts(out, "\"\\\"\" "));
    if (form->text.most) {
        NM_TRY(nm_write_shared(s, out, NM_SHARED_CHAR));
        NM_TRY(nm_write_times(out, form->text.least, form->text.most));
    }
    return nm_str_puts(out, " \"\\\"\"");
}

static nm_err put_type(nm_schema *s, nm_str *out, uint32_t node, size_t number, const nm_form *form, unsigned type)
{
    switch (type) {
    case NM_IS_NULL: return nm_str_puts(out, "\"null\"");
    case NM_IS_NUMBER: return nm_str_printf(out, "d%u", (unsigned)form->number_leaf);
    case NM_IS_STRING: return put_text(s, out, form);
    case NM_IS_ARRAY: return put_array(s, out, node, number, &form->list);
    default: return put_object(s, out, node, number, form);
    }
}

/* Appends the form's alternatives. *done: shared rules, and null, that the rule has already. */
static nm_err put_form(nm_schema *s, nm_str *out, uint32_t node, size_t number, const char **between, unsigned *done)
{
    const nm_form *form = s->nodes[node].forms.items[number];
    if (form->n_lists) return put_values(s, out, form, between);
    unsigned types = productive_types(s, form);
    for (unsigned type = NM_IS_OBJECT; type; type >>= 1) {
        nm_shared shared = shared_type(form, type);
        unsigned bit = type == NM_IS_NULL || shared != NM_SHARED_COUNT ? 1u << shared : 0;
        if (!(types & type) || (*done & bit)) continue;
        *done |= bit;
        NM_TRY(nm_str_puts(out, *between));
        NM_TRY(shared != NM_SHARED_COUNT ? nm_write_shared(s, out, shared) : put_type(s, out, node, number, form, type));
        *between = " | ";
    }
    return NM_OK;
}

static nm_err write_node(nm_schema *s, uint32_t node)
{
    const char *between = "";
    unsigned done = 0;
    NM_TRY(put_name(&s->rules, node));
    NM_TRY(nm_str_puts(&s->rules, " ::= "));
    for (size_t i = 0; i < s->nodes[node].forms.count; i++) NM_TRY(put_form(s, &s->rules, node, i, &between, &done));
    NM_TRY(nm_str_putc(&s->rules, '\n'));
    return nm_check_size(s);
}

nm_err nm_schema_write(nm_schema *s)
{
    nm_seed root = {0};
    uint32_t node;
    NM_TRY(nm_seed_add(s, &root, s->root));
    NM_TRY(find_node(s, &root, &node));
    NM_TRY(read_nodes(s));
    NM_TRY(find_productive(s));
    if (!s->nodes[0].productive) return nm_schema_fail(s, s->root, NULL, "admits no document that has an end");
    NM_TRY(NM_MORE(s, s->queue, s->queue_capacity, 1));
    s->queue[s->n_queue++] = 0;
    s->nodes[0].written = true;
    for (size_t i = 0; i < s->n_queue; i++) NM_TRY(write_node(s, s->queue[i]));
    NM_TRY(nm_str_append(&s->rules, s->parts.data ? s->parts.data : "", s->parts.length));
    NM_TRY(nm_str_append(&s->rules, s->classes.data ? s->classes.data : "", s->classes.length));
    return nm_write_shared_rules(s, &s->rules);
}

/* The grammar, where err is NM_OK; and the end of what made it. */
static nm_err hand_out(nm_schema *s, nm_err err, char **gbnf, size_t *length)
{
    if (err == NM_OK && !(*gbnf = nm_str_take(&s->rules, length))) err = nm_fail_memory(1);
    nm_str_free(&s->rules);
    nm_str_free(&s->parts);
    nm_str_free(&s->classes);
    nm_str_free(&s->literal);
    nm_str_free(&s->key);
    nm_schema_release(s);
    return err;
}

nm_err nm_schema_grammar(char **gbnf, size_t *gbnf_length, const char *schema, size_t length)
{
    static const char any_object[] = "{\"type\":\"object\"}";
    nm_json root;
    nm_schema s = {.root = &root};
    *gbnf = NULL;
    *gbnf_length = 0;
    NM_TRY(nm_json_parse(&root, schema ? schema : any_object, schema ? length : sizeof any_object - 1));
    nm_err err = root.kind == NM_JSON_OBJECT || root.kind == NM_JSON_BOOL ? nm_schema_write(&s) : nm_fail(NM_USAGE, "schema: must be an object or a boolean");
    err = hand_out(&s, err, gbnf, gbnf_length);
    nm_json_free(&root);
    return err;
}

/* Rules of the pattern alone: its anchors are put about it, as the whole text must fit. */
static nm_err write_pattern(nm_schema *s, const char *pattern, size_t length)
{
    nm_dfa *dfa;
    NM_TRY(NM_TAKE(s, dfa, 2));     /* the pattern by itself first: what is put about it hides a bracket too many */
    NM_TRY(nm_pattern_dfa(s, &dfa[0], pattern, length));
    NM_TRY(nm_str_append(&s->key, "^(?:", 4));
    NM_TRY(nm_str_append(&s->key, pattern, length));
    NM_TRY(nm_str_append(&s->key, ")$", 2));
    char *whole = nm_strndup(s->key.data, s->key.length);
    size_t whole_length = s->key.length;
    if (!whole) return nm_fail_memory(whole_length);
    nm_err err = nm_pattern_dfa(s, &dfa[1], whole, whole_length);
    if (err == NM_OK && !dfa[1].n_states) err = nm_fail(NM_USAGE, "no text fits the pattern");
    if (err == NM_OK) err = nm_write_dfa(s, &dfa[1], 't', false, 0);
    nm_free(whole);
    NM_TRY(err);
    NM_TRY(nm_str_puts(&s->rules, "root ::= t0\n"));
    NM_TRY(nm_str_append(&s->rules, s->parts.data, s->parts.length));
    return nm_str_append(&s->rules, s->classes.data ? s->classes.data : "", s->classes.length);
}

nm_err nm_pattern_grammar(char **gbnf, size_t *gbnf_length, const char *pattern, size_t length)
{
    nm_schema s = {0};
    *gbnf = NULL;
    *gbnf_length = 0;
    return hand_out(&s, write_pattern(&s, pattern, length), gbnf, gbnf_length);
}

/* ---- Text between marks ------------------------------------------------------------------------------------------------------------------ */

/* All texts in which the mark stands nowhere. */
static nm_err mark_free(nm_schema *s, nm_dfa *out, const char *mark, size_t length)
{
    nm_dfa with;
    nm_str pattern = {0};
    nm_err err = NM_OK;
    for (size_t i = 0; err == NM_OK && i < length; i++) {
        if (strchr("^$\\.*+?()[]{}|/", mark[i])) err = nm_str_putc(&pattern, '\\');
        if (err == NM_OK) err = nm_str_putc(&pattern, mark[i]);
    }
    if (err == NM_OK) err = nm_pattern_dfa(s, &with, pattern.data, pattern.length);
    if (err == NM_OK) err = nm_dfa_not(s, out, &with);
    nm_str_free(&pattern);
    return err;
}

static nm_err listed_text(nm_schema *s, nm_form *form, const nm_dfa *free, nm_dfa *out)
{
    const nm_json **values;
    const char **texts;
    size_t count, n = 0;
    nm_dfa all;
    NM_TRY(nm_form_values(s, form, &values, &count));
    NM_TRY(NM_TAKE(s, texts, count + 1));
    for (size_t i = 0; i < count; i++)
        if (values[i]->kind == NM_JSON_STRING && strlen(values[i]->string.bytes) == values[i]->string.length) texts[n++] = values[i]->string.bytes;
    if (!n) return NM_OK;
    NM_TRY(nm_names_dfa(s, &all, texts, n));
    return nm_dfa_both(s, out, &all, free);
}

/* Each length is kept count of beside how much of a mark there is, so that automata bound them sooner than in JSON. */
static nm_err counted_text(nm_schema *s, const nm_text *t, const nm_dfa *free, nm_dfa *out)
{
    size_t most = NM_SCHEMA_STATES / free->n_states - 1;
    if (t->least > most || (t->most > most && t->most != SIZE_MAX))
        return nm_schema_fail(s, s->root, NULL, "minLength or maxLength is above %zu, which is the most in this model's notation of calls: leave it away", most);
    return nm_dfa_between(s, out, free, t->least, t->most);
}

/* The form's strings among the free ones; without states where there are none. */
static nm_err form_text(nm_schema *s, nm_form *form, const nm_dfa *free, nm_dfa *out)
{
    *out = (nm_dfa){0};
    if (form->n_lists) return listed_text(s, form, free, out);
    if (!(form->types & NM_IS_STRING) || form->text.least > form->text.most) return NM_OK;
    if (nm_text_is_free(&form->text)) return counted_text(s, &form->text, free, out);
    NM_TRY(nm_text_dfa(s, &form->text));
    nm_err err = form->text.dfa->n_states ? nm_dfa_both(s, out, form->text.dfa, free) : NM_OK;
    return err == NM_OK ? NM_OK : nm_schema_fail_in(s, err, s->root, NULL);
}

static nm_err write_text(nm_schema *s, const char *mark, size_t mark_length)
{
    nm_seed root = {0};
    nm_forms forms;
    nm_dfa free, one;
    uint32_t n = 0;
    NM_TRY(nm_seed_add(s, &root, s->root));
    NM_TRY(nm_schema_forms(s, &forms, &root));
    NM_TRY(mark_free(s, &free, mark, mark_length));
    NM_TRY(nm_str_puts(&s->rules, "root ::="));
    for (size_t i = 0; i < forms.count; i++) {
        NM_TRY(form_text(s, forms.items[i], &free, &one));
        if (!one.n_states) continue;
        NM_TRY(nm_str_printf(&s->rules, "%s t%u", n ? " |" : "", (unsigned)n));
        NM_TRY(nm_write_dfa(s, &one, 't', false, n++));
    }
    if (!n) return nm_schema_fail(s, s->root, NULL, "admits no text that %.*s does not end", (int)mark_length, mark);
    NM_TRY(nm_str_printf(&s->rules, "\n%s", s->parts.data));
    return nm_str_puts(&s->rules, s->classes.data ? s->classes.data : "");
}

nm_err nm_schema_text_grammar(char **gbnf, size_t *gbnf_length, const char *schema, size_t length, const char *mark, size_t mark_length)
{
    nm_json root;
    nm_schema s = {.root = &root};
    *gbnf = NULL;
    *gbnf_length = 0;
    NM_TRY(nm_json_parse(&root, schema, length));
    nm_err err = hand_out(&s, write_text(&s, mark, mark_length), gbnf, gbnf_length);
    nm_json_free(&root);
    return err;
}
