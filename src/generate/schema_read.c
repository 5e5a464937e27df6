/* Owns the reading of schemas: which keywords there are and what they must look like, references, and the forms of a conjunction of schemas. A keyword that is not in
 * the table is refused with its place, and so is what the table has no kind for. */
#include "generate/schema.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>


/* ---- Keywords ----------------------------------------------------------------------------------------------------------------------- */

typedef enum value_shape { NOTE, ANY_VALUE, COUNT, NUMBER, POSITIVE, TEXT, SCHEMA, SCHEMAS, SCHEMA_MAP, NAMES, VALUES, TYPES, FALSE_ALONE } value_shape;
static const struct { const char *name; value_shape shape; } keywords[] = {
    {"type", TYPES}, {"enum", VALUES}, {"const", ANY_VALUE},
    {"properties", SCHEMA_MAP}, {"required", NAMES}, {"additionalProperties", SCHEMA},
    {"items", SCHEMA}, {"prefixItems", SCHEMAS}, {"minItems", COUNT}, {"maxItems", COUNT}, {"uniqueItems", FALSE_ALONE},
    {"minLength", COUNT}, {"maxLength", COUNT}, {"pattern", TEXT}, {"format", TEXT},
    {"minimum", NUMBER}, {"maximum", NUMBER}, {"exclusiveMinimum", NUMBER}, {"exclusiveMaximum", NUMBER}, {"multipleOf", POSITIVE},
    {"anyOf", SCHEMAS}, {"oneOf", SCHEMAS}, {"allOf", SCHEMAS}, {"$ref", TEXT}, {"$defs", SCHEMA_MAP}, {"definitions", SCHEMA_MAP},
    {"title", NOTE}, {"description", NOTE}, {"default", NOTE}, {"examples", NOTE}, {"$schema", NOTE}, {"$id", NOTE}, {"$comment", NOTE},
    {"deprecated", NOTE}, {"readOnly", NOTE}, {"writeOnly", NOTE},
};
enum { N_KEYWORDS = sizeof keywords / sizeof *keywords };

static bool is_schema(const nm_json *j) { return j->kind == NM_JSON_OBJECT || j->kind == NM_JSON_BOOL; }
static bool is_number(const nm_json *j) { return j->kind == NM_JSON_INT || j->kind == NM_JSON_WIDE || j->kind == NM_JSON_REAL; }
static bool is_string(const nm_json *j) { return j->kind == NM_JSON_STRING; }

static bool is_positive(const nm_json *j)
{
    return j->kind == NM_JSON_WIDE || (j->kind == NM_JSON_INT && j->integer > 0) || (j->kind == NM_JSON_REAL && j->real > 0);
}

static bool is_count(const nm_json *j)
{
    return j->kind == NM_JSON_WIDE || (j->kind == NM_JSON_INT && j->integer >= 0) || (j->kind == NM_JSON_REAL && j->real >= 0 && j->real == floor(j->real));
}

static const struct { const char *name; unsigned types; } type_names[] = {
    {"null", NM_IS_NULL}, {"boolean", NM_IS_BOOL}, {"number", NM_IS_NUMBER}, {"integer", NM_IS_NUMBER}, {"string", NM_IS_STRING}, {"array", NM_IS_ARRAY}, {"object", NM_IS_OBJECT}};
enum { N_TYPES = sizeof type_names / sizeof *type_names };

/* 0 for a name that is none of a type's. */
static unsigned type_of(const nm_json *name)
{
    for (size_t i = 0; is_string(name) && i < N_TYPES; i++)
        if (!strcmp(name->string.bytes, type_names[i].name)) return type_names[i].types;
    return 0;
}

static bool is_type(const nm_json *j) { return type_of(j) != 0; }

static bool all_items(const nm_json *j, bool (*fits)(const nm_json *))
{
    if (j->kind != NM_JSON_ARRAY) return false;
    for (size_t i = 0; i < j->array.count; i++)
        if (!fits(&j->array.items[i])) return false;
    return true;
}

static bool all_members(const nm_json *j, bool (*fits)(const nm_json *))
{
    if (j->kind != NM_JSON_OBJECT) return false;
    for (size_t i = 0; i < j->object.count; i++)
        if (!fits(&j->object.values[i])) return false;
    return true;
}

/* NULL if the value has the keyword's shape, else what it must be. */
static const char *misshapen(value_shape shape, const nm_json *j)
{
    switch (shape) {
    case NOTE: case ANY_VALUE: return NULL;
    case COUNT: return is_count(j) ? NULL : "must be a whole number, 0 or more";
    case NUMBER: return is_number(j) ? NULL : "must be a number";
    case POSITIVE: return is_positive(j) ? NULL : "must be a number above 0";
    case TEXT: return is_string(j) ? NULL : "must be a string";
    case SCHEMA: return is_schema(j) ? NULL : "must be a schema: an object or a boolean";
    case SCHEMAS: return all_items(j, is_schema) && j->array.count ? NULL : "must be an array of schemas";
    case SCHEMA_MAP: return all_members(j, is_schema) ? NULL : "must be an object of schemas";
    case NAMES: return all_items(j, is_string) ? NULL : "must be an array of strings";
    case VALUES: return j->kind == NM_JSON_ARRAY ? NULL : "must be an array";
    case TYPES: return is_type(j) || (j->kind == NM_JSON_ARRAY && j->array.count && j->array.count <= N_TYPES && all_items(j, is_type)) ? NULL :
        "must be a type's name or an array of them, each once";
    case FALSE_ALONE: return j->kind == NM_JSON_BOOL && !j->boolean ? NULL : "the keyword is not supported: leave it away";
    }
    return NULL;
}

static nm_err check_keywords(nm_schema *s, const nm_json *schema)
{
    for (size_t i = 0; i < schema->object.count; i++) {
        const char *key = schema->object.keys[i], *fault = "the keyword is not supported: leave it away";
        NM_TRY(nm_schema_work(s, 1));
        for (size_t k = 0; k < N_KEYWORDS; k++)
            if (!strcmp(key, keywords[k].name)) fault = misshapen(keywords[k].shape, &schema->object.values[i]);
        if (!strcmp(key, "$id") && schema != s->root) fault = "an $id below the root would move references: leave it away";
        if (fault) return nm_schema_fail(s, schema, key, "%s", fault);
    }
    return NM_OK;
}

/* ---- References --------------------------------------------------------------------------------------------------------------------- */

static int hex_value(char c) { return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1; }

static const char *read_step(const char *at, nm_str *step, nm_err *err)
{
    step->length = 0;
    *err = nm_str_puts(step, "");
    while (*at && *at != '/' && *err == NM_OK) {
        char c = *at++;
        if (c == '%' && hex_value(at[0]) >= 0 && hex_value(at[1]) >= 0) {
            c = (char)(hex_value(at[0]) * 16 + hex_value(at[1]));
            at += 2;
        }
        if (c == '~' && (*at == '0' || *at == '1')) c = *at++ == '0' ? '~' : '/';
        *err = nm_str_putc(step, c);
    }
    return at;
}

static const nm_json *child_of(const nm_json *tree, const char *step)
{
    if (tree->kind != NM_JSON_ARRAY) return nm_json_get(tree, step);
    char *end;
    unsigned long i = strtoul(step, &end, 10);
    return *step >= '0' && *step <= '9' && !*end && i < tree->array.count ? &tree->array.items[i] : NULL;
}

static nm_err follow(nm_schema *s, const nm_json *schema, const nm_json **target)
{
    const char *at = nm_json_get(schema, "$ref")->string.bytes;
    nm_str step = {0};
    nm_err err = NM_OK;
    if (at[0] != '#' || (at[1] && at[1] != '/')) return nm_schema_fail(s, schema, "$ref", "only references within the schema are followed: write #/$defs/NAME");
    *target = s->root;
    for (at++; *at && *target && err == NM_OK;) {
        at = read_step(at + 1, &step, &err);
        if (err == NM_OK) err = nm_schema_work(s, 1 + (step.length + ((*target)->kind == NM_JSON_OBJECT ? (*target)->object.count : 0)) / 8);
        if (err == NM_OK) *target = child_of(*target, step.data);
    }
    nm_str_free(&step);
    if (err != NM_OK) return err;
    return *target && is_schema(*target) ? NM_OK : nm_schema_fail(s, schema, "$ref", "there is no schema at this place");
}

/* ---- Seeds: sets of schemas --------------------------------------------------------------------------------------------------------- */

/* A schema that is a reference and no more is its target. One that leads to itself stays, to be found by add_member. */
static nm_err skip_references(nm_schema *s, const nm_json **schema)
{
    for (int i = 0; i < 64; i++) {
        if ((*schema)->kind != NM_JSON_OBJECT || (*schema)->object.count != 1 || strcmp((*schema)->object.keys[0], "$ref")) return NM_OK;
        NM_TRY(check_keywords(s, *schema));
        NM_TRY(follow(s, *schema, schema));
    }
    return NM_OK;
}

nm_err nm_seed_add(nm_schema *s, nm_seed *seed, const nm_json *schema)
{
    NM_TRY(skip_references(s, &schema));
    if (schema->kind == NM_JSON_BOOL) {
        seed->never |= !schema->boolean;
        return NM_OK;
    }
    NM_TRY(nm_schema_work(s, 1 + seed->count / 4));
    for (size_t i = 0; i < seed->count; i++)
        if (seed->list[i] == schema) return NM_OK;
    if (!schema->object.count) return NM_OK;
    NM_TRY(NM_MORE(s, seed->list, seed->capacity, seed->count + 1));
    seed->list[seed->count++] = schema;
    return NM_OK;
}

/* ---- Conjunctions: seeds with all that $ref and allOf bring in ------------------------------------------------------------------------ */

enum { NOBODY = UINT32_MAX, CHOSEN_ANY = 1, CHOSEN_ONE = 2, MOST_CHOICES = 64 };
typedef struct member { const nm_json *schema; uint32_t from; unsigned chosen; } member;      /* from: the member that names it in place */
typedef struct conjunction { member *members; size_t count, capacity, opened; bool never; } conjunction;

static nm_err add_member(nm_schema *s, conjunction *c, const nm_json *schema, uint32_t from)
{
    if (schema->kind == NM_JSON_BOOL) {
        c->never |= !schema->boolean;
        return NM_OK;
    }
    NM_TRY(nm_schema_work(s, 1 + c->count / 4));
    for (uint32_t at = from; at != NOBODY; at = c->members[at].from)
        if (c->members[at].schema == schema) return nm_schema_fail(s, schema, NULL, "refers to itself without a step into a value");
    for (size_t i = 0; i < c->count; i++)
        if (c->members[i].schema == schema) return NM_OK;
    NM_TRY(check_keywords(s, schema));
    NM_TRY(NM_MORE(s, c->members, c->capacity, c->count + 1));
    c->members[c->count++] = (member){schema, from, 0};
    return NM_OK;
}

/* Brings in what the members that were not yet opened name. */
static nm_err open_members(nm_schema *s, conjunction *c)
{
    for (; c->opened < c->count; c->opened++) {
        const nm_json *schema = c->members[c->opened].schema, *target, *all = nm_json_get(schema, "allOf");
        if (nm_json_get(schema, "$ref")) {
            NM_TRY(follow(s, schema, &target));
            NM_TRY(add_member(s, c, target, (uint32_t)c->opened));
        }
        for (size_t i = 0; all && i < all->array.count; i++) NM_TRY(add_member(s, c, &all->array.items[i], (uint32_t)c->opened));
    }
    return NM_OK;
}

static nm_err copy_conjunction(nm_schema *s, conjunction *out, const conjunction *c)
{
    *out = *c;
    out->capacity = c->count;
    NM_TRY(NM_TAKE(s, out->members, c->count));
    if (c->count) memcpy(out->members, c->members, c->count * sizeof *c->members);
    return NM_OK;
}

/* ---- Forms: strings and numbers ------------------------------------------------------------------------------------------------------ */

static nm_err bind_number(nm_schema *s, nm_form *form, const nm_json *schema)
{
    static const struct { const char *key; bool high, exclusive; } bounds[] = {
        {"minimum", false, false}, {"maximum", true, false}, {"exclusiveMinimum", false, true}, {"exclusiveMaximum", true, true}};
    nm_decimal d, *at;
    for (size_t i = 0; i < 4; i++) {
        const nm_json *j = nm_json_get(schema, bounds[i].key);
        if (!j) continue;
        NM_TRY(NM_TAKE(s, at, 1));
        nm_decimal_read(at, j);
        nm_number_bind(&form->number, bounds[i].high, bounds[i].exclusive, at);
    }
    const nm_json *multiple = nm_json_get(schema, "multipleOf");
    if (!multiple) return NM_OK;
    nm_decimal_read(&d, multiple);
    return nm_number_multiply(&form->number, &d) ? NM_OK : nm_schema_fail(s, schema, "multipleOf", "is too large or too fine to keep count of in a grammar");
}

static void bind_count(const nm_json *schema, const char *least, const char *most, size_t *from, size_t *to)
{
    for (int i = 0; i < 2; i++) {
        const nm_json *j = nm_json_get(schema, i ? most : least);
        if (!j) continue;
        size_t n = j->kind == NM_JSON_INT ? (size_t)j->integer : j->kind == NM_JSON_REAL && j->real < 1e18 ? (size_t)j->real : SIZE_MAX - 1;
        if (i && n < *to) *to = n;
        if (!i && n > *from) *from = n;
    }
}

/* "YYYY-MM-DD" with the days that the month has, 29 February in leap years. */
#define LEAP "(?:\\d\\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
#define DATE "(?:\\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))|" LEAP "-02-29)"
/* RFC 3339 in capital letters; without leap seconds, since whether one was then is no matter of notation. */
#define TIME "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,9})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)"
#define ATOM "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
#define LABEL "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
#define BYTE "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
static const struct { const char *name, *pattern; } formats[] = {
    {"date", "^" DATE "$"},
    {"time", "^" TIME "$"},
    {"date-time", "^" DATE "T" TIME "$"},
    {"uuid", "^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$"},
    {"email", "^" ATOM "+(?:\\." ATOM "+)*@" LABEL "(?:\\." LABEL ")+$"},
    {"ipv4", "^" BYTE "(?:\\." BYTE "){3}$"},
};

static nm_err add_pattern(nm_schema *s, nm_text *t, const char *pattern, const nm_json *schema, const char *key)
{
    NM_TRY(NM_MORE(s, t->patterns, t->capacity, t->n_patterns + 1));
    t->patterns[t->n_patterns].pattern = pattern;
    t->patterns[t->n_patterns].length = strlen(pattern);
    t->patterns[t->n_patterns].schema = schema;
    t->patterns[t->n_patterns++].key = key;
    return NM_OK;
}

static nm_err bind_text(nm_schema *s, nm_form *form, const nm_json *schema)
{
    const nm_json *pattern = nm_json_get(schema, "pattern"), *format = nm_json_get(schema, "format");
    bind_count(schema, "minLength", "maxLength", &form->text.least, &form->text.most);
    if (pattern && strlen(pattern->string.bytes) < pattern->string.length) return nm_schema_fail(s, schema, "pattern", "holds a zero byte: write \\0");
    if (pattern) NM_TRY(add_pattern(s, &form->text, pattern->string.bytes, schema, "pattern"));
    if (!format) return NM_OK;
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (!strcmp(format->string.bytes, formats[i].name)) return add_pattern(s, &form->text, formats[i].pattern, schema, "format");
    return nm_schema_fail(s, schema, "format", "the format '%.40s' is not supported: leave it away or write a pattern", format->string.bytes);
}

nm_err nm_text_dfa(nm_schema *s, nm_text *t)
{
    nm_dfa *all;
    if (t->dfa) return NM_OK;
    NM_TRY(NM_TAKE(s, all, 1));
    for (size_t i = 0; i < t->n_patterns; i++) {
        nm_dfa next;
        nm_err err = nm_pattern_dfa(s, &next, t->patterns[i].pattern, t->patterns[i].length);
        if (err == NM_OK) err = i ? nm_dfa_both(s, all, &(nm_dfa){.states = all->states, .n_states = all->n_states, .edges = all->edges}, &next) : NM_OK;
        if (err != NM_OK) return nm_schema_fail_in(s, err, t->patterns[i].schema, t->patterns[i].key);
        if (!i) *all = next;
    }
    if (t->least || t->most != SIZE_MAX) {
        nm_dfa whole = *all;
        nm_err err = nm_dfa_between(s, all, &whole, t->least, t->most);
        if (err != NM_OK) return nm_schema_fail_in(s, err, t->patterns[0].schema, "minLength, maxLength with pattern or format");
    }
    t->dfa = all;
    return NM_OK;
}

nm_err nm_form_number_dfa(nm_schema *s, nm_form *form)
{
    if (form->number_dfa) return NM_OK;
    nm_dfa *dfa;
    NM_TRY(NM_TAKE(s, dfa, 1));
    NM_TRY(nm_number_dfa(s, dfa, &form->number));
    form->number_dfa = dfa;
    return NM_OK;
}

/* ---- Forms: arrays and objects -------------------------------------------------------------------------------------------------------- */

static nm_err bind_list(nm_schema *s, nm_list *list, const conjunction *c)
{
    for (size_t m = 0; m < c->count; m++) {
        const nm_json *prefix = nm_json_get(c->members[m].schema, "prefixItems");
        if (prefix && prefix->array.count > list->n_prefix) list->n_prefix = prefix->array.count;
        bind_count(c->members[m].schema, "minItems", "maxItems", &list->least, &list->most);
    }
    NM_TRY(NM_TAKE(s, list->prefix, list->n_prefix));
    NM_TRY(NM_TAKE(s, list->prefix_nodes, list->n_prefix));
    for (size_t m = 0; m < c->count; m++) {
        const nm_json *prefix = nm_json_get(c->members[m].schema, "prefixItems"), *items = nm_json_get(c->members[m].schema, "items");
        for (size_t i = 0; i < list->n_prefix; i++) {
            const nm_json *item = prefix && i < prefix->array.count ? &prefix->array.items[i] : items;
            if (item) NM_TRY(nm_seed_add(s, &list->prefix[i], item));
        }
        if (items) NM_TRY(nm_seed_add(s, &list->rest, items));
    }
    return NM_OK;
}

/* The property's place, in the order in which names come up. */
static nm_err find_property(nm_schema *s, nm_record_form *r, const char *name, nm_property **out)
{
    NM_TRY(nm_schema_work(s, 1 + r->count / 8));
    for (size_t i = 0; i < r->count; i++) {
        *out = &r->properties[i];
        if (!strcmp(r->properties[i].name, name)) return NM_OK;
    }
    NM_TRY(NM_MORE(s, r->properties, r->capacity, r->count + 1));
    *out = &r->properties[r->count++];
    **out = (nm_property){.name = name};
    return NM_OK;
}

static nm_err collect_names(nm_schema *s, nm_record_form *r, const conjunction *c)
{
    nm_property *property;
    for (size_t m = 0; m < c->count; m++) {
        const nm_json *named = nm_json_get(c->members[m].schema, "properties");
        for (size_t i = 0; named && i < named->object.count; i++) NM_TRY(find_property(s, r, named->object.keys[i], &property));
    }
    for (size_t m = 0; m < c->count; m++) {
        const nm_json *required = nm_json_get(c->members[m].schema, "required");
        for (size_t i = 0; required && i < required->array.count; i++) {
            const nm_json *name = &required->array.items[i];
            if (strlen(name->string.bytes) < name->string.length) return nm_schema_fail(s, c->members[m].schema, "required", "a name holds a zero byte");
            NM_TRY(find_property(s, r, name->string.bytes, &property));
            property->required = true;
        }
    }
    return NM_OK;
}

/* A schema speaks of a property by its name or, if it does not name it, by additionalProperties. */
static nm_err bind_record(nm_schema *s, nm_record_form *r, const conjunction *c)
{
    NM_TRY(collect_names(s, r, c));
    for (size_t m = 0; m < c->count; m++) {
        const nm_json *schema = c->members[m].schema, *named = nm_json_get(schema, "properties"), *extra = nm_json_get(schema, "additionalProperties");
        for (size_t i = 0; i < r->count && (named || extra); i++) {
            const nm_json *child = nm_json_get(named, r->properties[i].name);
            NM_TRY(nm_schema_work(s, 1 + (named ? named->object.count / 8 : 0)));
            if (child || extra) NM_TRY(nm_seed_add(s, &r->properties[i].seed, child ? child : extra));
        }
        if (extra) NM_TRY(nm_seed_add(s, &r->extra, extra));
    }
    return NM_OK;
}

/* ---- Forms ---------------------------------------------------------------------------------------------------------------------------- */

/* The types that the schema's "type" names, all if it has none, and whether of numbers it means whole ones. */
static unsigned types_of(const nm_json *schema, bool *integer)
{
    const nm_json *type = nm_json_get(schema, "type");
    unsigned types = 0;
    bool whole = false, any = false;
    size_t n = !type ? 0 : type->kind == NM_JSON_ARRAY ? type->array.count : 1;
    for (size_t i = 0; i < n; i++) {
        const nm_json *name = type->kind == NM_JSON_ARRAY ? &type->array.items[i] : type;
        types |= type_of(name);
        whole |= !strcmp(name->string.bytes, "integer");
        any |= !strcmp(name->string.bytes, "number");
    }
    *integer = whole && !any;
    return type ? types : (unsigned)NM_IS_ANY;
}

static unsigned common_types(const conjunction *c)
{
    unsigned types = NM_IS_ANY;
    bool integer;
    for (size_t m = 0; m < c->count; m++) types &= types_of(c->members[m].schema, &integer);
    return types;
}

static nm_err add_list(nm_schema *s, nm_form *form, const nm_json *list, bool single)
{
    if (!list) return NM_OK;
    NM_TRY(NM_MORE(s, form->lists, form->lists_capacity, form->n_lists + 1));
    NM_TRY(NM_MORE(s, form->single, form->single_capacity, form->n_lists + 1));
    form->single[form->n_lists] = single;
    form->lists[form->n_lists++] = list;
    return NM_OK;
}

static nm_err make_form(nm_schema *s, nm_forms *out, const conjunction *c)
{
    nm_form *form;
    if (out->count == NM_SCHEMA_FORMS)
        return nm_schema_fail(s, c->count ? c->members[0].schema : s->root, NULL, "anyOf and oneOf leave more than %d choices", NM_SCHEMA_FORMS);
    NM_TRY(NM_TAKE(s, form, 1));
    form->types = common_types(c);
    form->text.most = form->list.most = SIZE_MAX;
    for (size_t m = 0; m < c->count; m++) {
        const nm_json *schema = c->members[m].schema;
        bool integer;
        types_of(schema, &integer);
        form->number.integer |= integer;
        NM_TRY(add_list(s, form, nm_json_get(schema, "const"), true));
        NM_TRY(add_list(s, form, nm_json_get(schema, "enum"), false));
        if (form->types & NM_IS_NUMBER) NM_TRY(bind_number(s, form, schema));
        if (form->types & NM_IS_STRING) NM_TRY(bind_text(s, form, schema));
    }
    if (form->types & NM_IS_ARRAY) NM_TRY(bind_list(s, &form->list, c));
    if (form->types & NM_IS_OBJECT) NM_TRY(bind_record(s, &form->record, c));
    NM_TRY(NM_MORE(s, out->items, out->capacity, out->count + 1));
    out->items[out->count++] = form;
    return NM_OK;
}

/* ---- Choices -------------------------------------------------------------------------------------------------------------------------- */

static nm_err choose(nm_schema *s, nm_forms *out, conjunction *c, int depth);

/* The conjunction with alternatives of the member's anyOf or oneOf in the place of the choice. */
static nm_err with_branch(nm_schema *s, conjunction *out, const conjunction *c, uint32_t at, unsigned choice, const nm_json *a, const nm_json *b)
{
    NM_TRY(copy_conjunction(s, out, c));
    out->members[at].chosen |= choice;
    NM_TRY(add_member(s, out, a, at));
    return b ? add_member(s, out, b, at) : NM_OK;
}

/* oneOf is anyOf where no two alternatives can hold at once, and only then a grammar can say it. */
static nm_err check_apart(nm_schema *s, const conjunction *c, uint32_t at, const nm_json *branches, int depth)
{
    for (size_t i = 0; i < branches->array.count; i++) {
        for (size_t j = 0; j < i; j++) {
            nm_mark mark = nm_schema_mark(s);
            conjunction both;
            nm_forms forms = {0};
            bool empty = true;
            NM_TRY(with_branch(s, &both, c, at, CHOSEN_ONE, &branches->array.items[j], &branches->array.items[i]));
            s->proving++;
            nm_err err = choose(s, &forms, &both, depth + 1);
            for (size_t f = 0; err == NM_OK && empty && f < forms.count; f++) err = nm_form_is_empty(s, forms.items[f], 0, &empty);
            s->proving--;
            if (err != NM_OK) return err;
            nm_schema_forget(s, mark);
            if (!empty) return nm_schema_fail(s, c->members[at].schema, "oneOf", "alternatives %zu and %zu may hold at once: make them differ by type or by a "
                                              "const of a required property, or write anyOf", j, i);
        }
    }
    return NM_OK;
}

/* Every alternative of the first choice that is open, and so on until none is. */
static nm_err choose(nm_schema *s, nm_forms *out, conjunction *c, int depth)
{
    NM_TRY(open_members(s, c));
    if (c->never || !common_types(c)) return NM_OK;
    for (uint32_t m = 0; m < c->count; m++) {
        for (unsigned choice = CHOSEN_ANY; choice <= CHOSEN_ONE; choice++) {
            const nm_json *branches = nm_json_get(c->members[m].schema, choice == CHOSEN_ANY ? "anyOf" : "oneOf");
            if (!branches || (c->members[m].chosen & choice)) continue;
            if (depth > MOST_CHOICES) return nm_schema_fail(s, c->members[m].schema, NULL, "more than %d choices within each other", MOST_CHOICES);
            if (choice == CHOSEN_ONE && !s->proving) NM_TRY(check_apart(s, c, m, branches, depth));
            for (size_t i = 0; i < branches->array.count; i++) {
                conjunction next;
                NM_TRY(with_branch(s, &next, c, m, choice, &branches->array.items[i], NULL));
                NM_TRY(choose(s, out, &next, depth + 1));
            }
            return NM_OK;
        }
    }
    return make_form(s, out, c);
}

nm_err nm_schema_forms(nm_schema *s, nm_forms *out, const nm_seed *seed)
{
    conjunction c = {.never = seed->never};
    *out = (nm_forms){0};
    for (size_t i = 0; i < seed->count; i++) NM_TRY(add_member(s, &c, seed->list[i], NOBODY));
    return choose(s, out, &c, 0);
}
