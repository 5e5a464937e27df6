/* The public side of chat templates: open parses once, render runs with one object of variables. Everything a rendering makes lies in
 * its own arena, so that nothing can leak and the bound on memory is one number. */
#include "text/template.h"

#include <string.h>

#include "base/mem.h"
#include "text/template_chars.h"

enum {
    SOURCE_MOST = 4 << 20,              /* bytes of a template; the largest known has 20 KB */
    TREE_MEMORY = 256 << 20,            /* bytes for tokens and tree: about 50 for one of source */
    RENDER_MEMORY = 256 << 20,          /* bytes for all values of one rendering */
    RENDER_STEPS = 100 * 1000 * 1000,   /* about a second; a conversation of 1,000 turns takes about a million */
    RENDER_OUTPUT = 64 << 20,
    RENDER_DEPTH = 2400                 /* levels of tree and values in one another: 0.3 to 1 KB of stack each */
};

/* ---- Opening ---------------------------------------------------------------------------------------------------------------------------- */

nm_err nm_template_open(nm_template **out, const char *source, size_t length, const char *name)
{
    *out = NULL;
    if (!name) name = "template";
    nm_template *tmpl = nm_calloc(1, sizeof *tmpl);
    if (!tmpl) return nm_fail_memory(sizeof *tmpl);
    nm_parser p = {.tmpl = tmpl};
    tmpl->arena.limit = TREE_MEMORY;
    tmpl->name = nm_strndup(name, strlen(name));
    if (!tmpl->name) p.err = nm_fail_memory(strlen(name) + 1);
    else if (length > SOURCE_MOST) nm_parse_fail(&p, 1, "the template is larger than %d bytes", SOURCE_MOST);
    if (p.err == NM_OK && nm_template_lex(&p, source, length) == NM_OK && nm_template_parse(&p) == NM_OK) nm_template_scope(&p);
    nm_free(p.tokens.items);
    if (p.err != NM_OK) {
        nm_template_close(&tmpl);
        return p.err;
    }
    *out = tmpl;
    return NM_OK;
}

void nm_template_close(nm_template **tmpl)
{
    if (!*tmpl) return;
    nm_arena_free(&(*tmpl)->arena);
    nm_free((*tmpl)->name);
    nm_free(*tmpl);
    *tmpl = NULL;
}

/* ---- Variables ------------------------------------------------------------------------------------------------------------------------ */

/* Strings are not copied: the JSON tree outlives the rendering. Its depth is bounded by nm_json_parse. */
static nm_err from_json(nm_render *r, const nm_json *j, nm_tv *out);

static nm_err from_array(nm_render *r, const nm_json *j, nm_tv *out)
{
    nm_tv *items = NULL;
    nm_tv_list *list;
    NM_RT_NEW(r, list, 1);
    if (j->array.count) NM_RT_NEW(r, items, j->array.count);
    for (size_t i = 0; i < j->array.count; i++) NM_TRY(from_json(r, &j->array.items[i], &items[i]));
    *list = (nm_tv_list){items, j->array.count, NULL};
    *out = (nm_tv){.kind = NM_TV_LIST, .l = list};
    return NM_OK;
}

static nm_err from_object(nm_render *r, const nm_json *j, nm_tv *out)
{
    NM_TRY(nm_tv_dict_of(r, NM_TV_DICT, out));
    for (size_t i = 0; i < j->object.count; i++) {
        nm_tv key, value;
        NM_TRY(nm_tv_text(r, j->object.keys[i], &key));
        NM_TRY(from_json(r, &j->object.values[i], &value));
        NM_TRY(nm_tv_dict_set(r, out->d, key, value));
    }
    return NM_OK;
}

static nm_err from_json(nm_render *r, const nm_json *j, nm_tv *out)
{
    switch (j->kind) {
    case NM_JSON_NULL: *out = nm_tv_none(); return NM_OK;
    case NM_JSON_BOOL: *out = nm_tv_bool(j->boolean); return NM_OK;
    case NM_JSON_INT: *out = nm_tv_int(j->integer); return NM_OK;
    case NM_JSON_REAL: *out = nm_tv_float(j->real); return NM_OK;
    case NM_JSON_STRING: return nm_tv_string_of(r, j->string.bytes, j->string.length, NULL, out);
    case NM_JSON_ARRAY: return from_array(r, j, out);
    default: return from_object(r, j, out);
    }
}

/* ---- Rendering -------------------------------------------------------------------------------------------------------------------------- */

static nm_err render(nm_render *r, const nm_json *vars)
{
    NM_TRY(from_json(r, vars, &r->variables));
    r->steps = 0;       /* the bound is on the template, not on the conversation */
    NM_TRY(nm_template_run(r));
    return r->err = nm_str_append(&r->out, "", 0);
}

bool nm_template_marks(const nm_template *tmpl) { return tmpl->marks; }

void nm_rendered_free(nm_rendered *rendered)
{
    nm_free(rendered->text);
    nm_free(rendered->marks);
    *rendered = (nm_rendered){0};
}

nm_err nm_template_render_tree(const nm_template *tmpl, const nm_json *vars, const nm_template_options *options, nm_rendered *out)
{
    nm_render r = {.tmpl = tmpl, .line = 1, .max_steps = RENDER_STEPS, .max_output = RENDER_OUTPUT, .max_depth = RENDER_DEPTH, .now = INT64_MIN};
    *out = (nm_rendered){0};
    r.arena.limit = RENDER_MEMORY;
    if (options) {
        r.now = options->now;
        if (options->max_steps) r.max_steps = options->max_steps;
        if (options->max_output) r.max_output = options->max_output;
    }
    render(&r, vars);
    if (r.err == NM_OK) {
        out->text = nm_str_take(&r.out, &out->length);
        out->marks = r.marks;
        out->n_marks = r.n_marks;
        out->mark_lost = r.mark_lost;
    } else {
        nm_free(r.marks);
    }
    nm_str_free(&r.out);
    nm_arena_free(&r.arena);
    return r.err;
}

nm_err nm_template_render(const nm_template *tmpl, const char *vars, size_t vars_length, const nm_template_options *options, char **text, size_t *length)
{
    nm_rendered rendered;
    nm_json json;
    *text = NULL;
    *length = 0;
    NM_TRY(nm_json_parse(&json, vars, vars_length));
    nm_err err = json.kind == NM_JSON_OBJECT ? nm_template_render_tree(tmpl, &json, options, &rendered)
                                             : nm_fail(NM_USAGE, "bad JSON: the variables of a template are one object, e.g. {\"messages\": []}");
    nm_json_free(&json);
    NM_TRY(err);
    *text = rendered.text;
    *length = rendered.length;
    nm_free(rendered.marks);
    return NM_OK;
}
