/* From a request to the tokens of its prompt. Text of the client's stays text: where it holds what the vocabulary has as a control token ("<|im_end|>"), that is marked
 * before the template sees it, and read as ordinary characters afterwards, so that nobody ends a turn or begins another's from inside a message. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "server/engine_impl.h"
#include "server/facts.h"

enum { MARK = 24, DEPTH_MOST = 128 };       /* bytes of a mark */

/* The two marks of a request: private-use characters round random digits, which templates neither trim nor change the case of. */
typedef struct marks { char open[MARK], close[MARK]; const nm_base *base; const volatile sig_atomic_t *cancel; bool used; } marks;

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Whatever a text could end a turn with, or begin another. */
static bool is_control(const nm_tokenizer *t, int32_t id)
{
    return *nm_token_raw(t, id) && (nm_token_is_control(t, id) || nm_token_ends(t, id) || id == nm_token_unk(t));
}

nm_err nm_prompt_controls(nm_base *b, const nm_tokenizer *t)
{
    int32_t n = nm_token_count(t);
    size_t capacity = 0;
    for (int32_t id = 0; id < n; id++) {
        if (!is_control(t, id)) continue;
        NM_TRY(NM_GROW(b->control, capacity, b->controls + 1));
        b->control[b->controls++] = (char *)nm_token_raw(t, id);
    }
    if (b->controls) qsort(b->control, b->controls, sizeof *b->control, by_text);
    return NM_OK;
}

/* The first of control[lo, hi), which share their first `depth` bytes, whose next byte is at least c. */
static size_t first_from(const nm_base *b, size_t lo, size_t hi, size_t depth, int c)
{
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if ((unsigned char)b->control[mid][depth] < c) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

/* Length of the longest control token that the text begins with; 0 = none. The list is sorted: it is narrowed byte by byte. */
static size_t control_at(const nm_base *b, const char *text, size_t length)
{
    size_t lo = 0, hi = b->controls, found = 0;
    for (size_t depth = 0; lo < hi && depth < length && text[depth]; depth++) {
        int c = (unsigned char)text[depth];
        lo = first_from(b, lo, hi, depth, c);
        hi = first_from(b, lo, hi, depth, c + 1);
        if (lo < hi && !b->control[lo][depth + 1]) found = depth + 1;
    }
    return found;
}

/* The text with marks round control tokens in `out`; *any is false, and `out` empty, where it has none. */
static nm_err mark_text(const marks *m, const char *text, size_t length, nm_str *out, bool *any)
{
    size_t from = 0;
    *any = false;
    for (size_t at = 0; at < length;) {
        if (nm_cancelled(m->cancel)) return nm_fail(NM_INTERRUPTED, "cancelled");
        size_t n = control_at(m->base, text + at, length - at);
        if (!n) { at++; continue; }
        *any = true;
        NM_TRY(nm_str_append(out, text + from, at - from));
        NM_TRY(nm_str_puts(out, m->open));
        NM_TRY(nm_str_append(out, text + at, n));
        NM_TRY(nm_str_puts(out, m->close));
        from = at += n;
    }
    return *any ? nm_str_append(out, text + from, length - from) : NM_OK;
}

static nm_err marked(marks *m, const json_t *value, int depth, json_t **out);

static nm_err marked_string(marks *m, const json_t *value, json_t **out)
{
    nm_str s = {0};
    bool any;
    nm_err err = mark_text(m, json_string_value(value), json_string_length(value), &s, &any);
    if (err == NM_OK) *out = any ? json_stringn(s.data, s.length) : json_copy((json_t *)value);
    if (err == NM_OK && !*out) err = nm_fail_memory(s.length);
    m->used |= any;
    nm_str_free(&s);
    return err;
}

static nm_err add_member(marks *m, json_t *object, const char *key, const json_t *value, int depth)
{
    nm_str s = {0};
    json_t *copy = NULL;
    bool any;
    nm_err err = mark_text(m, key, strlen(key), &s, &any);
    m->used |= any;
    if (err == NM_OK) err = marked(m, value, depth + 1, &copy);
    if (err == NM_OK && json_object_set_new(object, any ? s.data : key, copy)) err = nm_fail_memory(0);
    nm_str_free(&s);
    return err;
}

/* A copy of a tree whose strings and keys are marked: templates print tools, and calls' arguments, keys and all. */
static nm_err marked(marks *m, const json_t *value, int depth, json_t **out)
{
    const char *key;
    json_t *item;
    nm_err err = NM_OK;
    if (depth > DEPTH_MOST) return nm_fail(NM_USAGE, "the messages are nested more than %d deep", DEPTH_MOST);
    if (json_is_string(value)) return marked_string(m, value, out);
    *out = json_is_object(value) ? json_object() : json_is_array(value) ? json_array() : json_copy((json_t *)value);
    if (!*out) return nm_fail_memory(0);
    for (size_t i = 0; err == NM_OK && i < json_array_size(value); i++) {
        json_t *copy = NULL;
        err = marked(m, json_array_get(value, i), depth + 1, &copy);
        if (err == NM_OK && json_array_append_new(*out, copy)) err = nm_fail_memory(0);
    }
    json_object_foreach((json_t *)value, key, item)
        if (err == NM_OK) err = add_member(m, *out, key, item, depth);
    if (err == NM_OK) return NM_OK;
    json_decref(*out);
    *out = NULL;
    return err;
}

static void begin_marks(marks *m, const nm_base *base, const volatile sig_atomic_t *cancel)
{
    unsigned long long n = 0;
    if (getrandom(&n, sizeof n, 0) != sizeof n) n = (unsigned long long)(uintptr_t)m;
    *m = (marks){.base = base, .cancel = cancel};
    snprintf(m->open, sizeof m->open, "\xee\x80\x80%016llu", n % 10000000000000000u);
    snprintf(m->close, sizeof m->close, "\xee\x80\x81%016llu", n % 10000000000000000u);
}

/* ---- Rendering -------------------------------------------------------------------------------------------------------------- */

static nm_err set(json_t *vars, const char *key, json_t *value)
{
    return value && !json_object_set_new(vars, key, value) ? NM_OK : nm_fail_memory(0);
}

static nm_err set_default(json_t *vars, const char *key, json_t *value)
{
    if (!json_object_get(vars, key)) return set(vars, key, value);
    json_decref(value);
    return NM_OK;
}

static nm_err set_token(json_t *vars, const char *key, const nm_tokenizer *t, int32_t id)
{
    return id >= 0 ? set_default(vars, key, json_string(nm_token_raw(t, id))) : NM_OK;
}

/* What the client gives the template by name: text of its, too. */
static nm_err begin_vars(marks *m, const nm_ask *ask, json_t **vars)
{
    json_t *given = ask->template_kwargs ? json_copy(ask->template_kwargs) : json_object();
    nm_err err = given ? NM_OK : nm_fail_memory(0);
    if (err == NM_OK && ask->effort) err = set_default(given, "reasoning_effort", json_string(ask->effort));
    if (err == NM_OK) err = marked(m, given, 0, vars);
    json_decref(given);
    return err;
}

/* The variables that transformers gives to every template, and what the request says. `messages` and `tools` are taken over. */
static nm_err fill_vars(json_t *vars, const nm_served *served, const nm_ask *ask, json_t *messages, json_t *tools)
{
    const nm_tokenizer *t = nm_model_tokenizer(served->model);
    nm_err err = set(vars, "messages", messages), more = set(vars, "tools", tools ? tools : json_null());
    NM_TRY(err);
    NM_TRY(more);
    NM_TRY(set(vars, "add_generation_prompt", json_true()));
    NM_TRY(set_default(vars, "documents", json_null()));
    if (ask->think >= 0) {      /* the two names that models' templates use */
        NM_TRY(set_default(vars, "enable_thinking", json_boolean(ask->think)));
        NM_TRY(set_default(vars, "thinking", json_boolean(ask->think)));
    }
    NM_TRY(set_token(vars, "bos_token", t, nm_token_bos(t)));
    NM_TRY(set_token(vars, "eos_token", t, nm_token_eos(t)));
    NM_TRY(set_token(vars, "pad_token", t, nm_token_pad(t)));
    return set_token(vars, "unk_token", t, nm_token_unk(t));
}

/* The last message's content where it is to be continued; it is taken off. */
static nm_err take_last(json_t *messages, json_t **content)
{
    size_t n = json_array_size(messages);
    const json_t *last = json_array_get(messages, n - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    *content = json_incref(json_object_get(last, "content"));
    if (!n || !role || strcmp(role, "assistant") || !json_is_string(*content)) return nm_fail(NM_USAGE, "only a last message of the assistant's with text can be continued");
    json_array_remove(messages, n - 1);
    return NM_OK;
}

static bool is_system(const json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    return role && (!strcmp(role, "system") || !strcmp(role, "developer"));
}

static bool add_message(json_t *all, const char *role, const char *content)
{
    return !json_array_append_new(all, json_pack("{s:s, s:s}", "role", role, "content", content));
}

/* The request's messages behind the persona's: its system message, unless they have one; those that each conversation begins with, behind the system message. NULL without
 * memory. */
static json_t *all_messages(const nm_persona *p, json_t *messages)
{
    size_t n = json_array_size(messages), front = 0;
    bool own = false;
    if (!p) return json_incref(messages);
    for (size_t i = 0; i < n; i++) own = own || is_system(json_array_get(messages, i));
    while (is_system(json_array_get(messages, front))) front++;
    json_t *all = json_array();
    bool good = all;
    if (good && !own && p->file.system && *p->file.system) good = add_message(all, "system", p->file.system);
    for (size_t i = 0; good && i < front; i++) good = !json_array_append(all, json_array_get(messages, i));
    for (size_t i = 0; good && i < p->file.messages; i++) good = add_message(all, p->file.message[i].role, p->file.message[i].content);
    for (size_t i = front; good && i < n; i++) good = !json_array_append(all, json_array_get(messages, i));
    if (good) return all;
    json_decref(all);
    return NULL;
}

static nm_err render_with(marks *m, const nm_served *served, const nm_template *tmpl, const nm_ask *ask, json_t *vars, nm_str *out)
{
    json_t *messages = NULL, *tools = NULL, *last = NULL, *all = all_messages(served->persona, ask->messages);
    char *text = NULL;
    size_t length = 0;
    const char *choice = json_string_value(ask->tool_choice);
    bool with_tools = json_array_size(ask->tools) > 0 && !(choice && !strcmp(choice, "none"));
    nm_err err = all ? marked(m, all, 0, &messages) : nm_fail_memory(0);
    json_decref(all);
    if (err == NM_OK && with_tools) err = marked(m, ask->tools, 0, &tools);
    if (err == NM_OK && !nm_template_knows_tools(served->template_text)) {
        err = nm_tools_as_text(messages, tools);
        json_decref(tools);
        tools = NULL;
    }
    if (err == NM_OK && ask->continue_last) err = take_last(messages, &last);
    if (err == NM_OK) err = fill_vars(vars, served, ask, messages, tools);
    else json_decref(messages), json_decref(tools);
    if (err == NM_OK) err = nm_turns_render(tmpl, vars, m->cancel, &text, &length);
    if (err == NM_OK) err = nm_str_append(out, text, length);
    if (err == NM_OK && last) err = nm_str_append(out, json_string_value(last), json_string_length(last));
    json_decref(last);
    nm_free(text);
    return err;
}

static nm_err render(marks *m, const nm_served *served, const nm_template *tmpl, const nm_ask *ask, nm_str *out)
{
    if (!tmpl) return nm_fail(NM_USAGE, "%s has no chat template: send text to /v1/completions instead", served->name);
    json_t *vars = NULL;
    NM_TRY(begin_vars(m, ask, &vars));
    nm_err err = render_with(m, served, tmpl, ask, vars, out);
    json_decref(vars);
    return err;
}

/* ---- Taking the marks off --------------------------------------------------------------------------------------------------------- */

typedef struct guards { size_t *at; size_t count, capacity; } guards;       /* pairs: from, to */

/* Moves the text together over its marks. Only what stands between a mark and its mate as it was put there is guarded: a template that took a string apart leaves single
 * marks behind. */
static nm_err unmark(const marks *m, nm_str *s, guards *g)
{
    size_t n = strlen(m->open), to = 0;
    for (size_t at = 0; at < s->length;) {
        bool open = s->length - at >= n && !memcmp(s->data + at, m->open, n), close = s->length - at >= n && !memcmp(s->data + at, m->close, n);
        if (!open && !close) { s->data[to++] = s->data[at++]; continue; }
        at += n;
        size_t control = open ? control_at(m->base, s->data + at, s->length - at) : 0;
        if (!control || s->length - at - control < n || memcmp(s->data + at + control, m->close, n)) continue;
        NM_TRY(NM_GROW(g->at, g->capacity, g->count + 2));
        g->at[g->count++] = to;
        g->at[g->count++] = to + control;
        memmove(s->data + to, s->data + at, control);
        to += control;
        at += control + n;
    }
    s->length = to;
    s->data[to] = 0;
    return NM_OK;
}

/* ---- A gap to be filled ----------------------------------------------------------------------------------------------------------- */

static nm_err append_ids(int32_t **ids, size_t *count, size_t *capacity, const int32_t *more, size_t n)
{
    NM_TRY(NM_GROW(*ids, *capacity, *count + n));
    if (n) memcpy(*ids + *count, more, n * sizeof *more);
    *count += n;
    return NM_OK;
}

/* PRE text SUF suffix MID, as models for code were taught (Bavarian et al. 2022), behind BOS where the model wants one. */
static nm_err make_gap(const nm_served *served, const nm_ask *ask, const nm_tokenize_options *within, int32_t **ids, size_t *count)
{
    nm_fim fim;
    if (!nm_fim_find(&fim, served->model)) return nm_fail(NM_USAGE, "%s was not made to fill gaps (\"suffix\"): its vocabulary has no tokens for that", served->name);
    const char *text[] = {"", ask->text, ask->suffix};
    size_t length[] = {0, ask->text_length, strlen(ask->suffix)}, n[3] = {0}, capacity = 0;
    int32_t behind[] = {fim.prefix, fim.suffix, fim.middle}, *part[3] = {NULL};
    nm_err err = NM_OK;
    for (int i = 0; i < 3 && err == NM_OK; i++)
        err = nm_tokenize_within(nm_model_tokenizer(served->model), text[i], length[i], i ? 0 : NM_TEXT_PROMPT, within, &part[i], &n[i]);
    bool fits = part[0] && part[1] && part[2];
    if (!fits) *count = n[0] + n[1] + n[2];
    for (int i = 0; i < 3 && err == NM_OK && fits; i++) {
        err = append_ids(ids, count, &capacity, part[i], n[i]);
        if (err == NM_OK) err = append_ids(ids, count, &capacity, &behind[i], 1);
    }
    for (int i = 0; i < 3; i++) nm_free(part[i]);
    return err;
}

/* ---- All of it -------------------------------------------------------------------------------------------------------------------- */

static nm_err check_ids(const nm_tokenizer *t, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= nm_token_count(t))
            return nm_fail(NM_USAGE, "token %d at place %zu of the prompt is outside the vocabulary of %d", ids[i], i, nm_token_count(t));
    return NM_OK;
}

static nm_err make_chat(marks *m, const nm_served *served, const nm_template *tmpl, const nm_ask *ask, nm_tokenize_options within, nm_str *s, int32_t **ids, size_t *count)
{
    guards g = {0};
    nm_err err = render(m, served, tmpl, ask, s);
    if (err == NM_OK && m->used) err = unmark(m, s, &g);
    within.guards = g.at, within.n_guards = g.count / 2;
    if (err == NM_OK) err = nm_tokenize_within(nm_model_tokenizer(served->model), s->data, s->length, NM_TEXT_PROMPT, &within, ids, count);
    nm_free(g.at);
    return err;
}

nm_err nm_prompt_make(const nm_variant *v, const nm_ask *ask, const nm_tokenize_options *within, char **text, size_t *length, int32_t **ids, size_t *count)
{
    nm_served served = nm_variant_served(v);
    const nm_tokenizer *t = nm_model_tokenizer(served.model);
    nm_str s = {0};
    marks m;
    nm_err err = NM_OK;
    size_t capacity = 0;
    *text = NULL, *ids = NULL, *length = *count = 0;
    if (ask->ids) {
        err = check_ids(t, ask->ids, ask->n_ids);
        if (err == NM_OK) err = append_ids(ids, count, &capacity, ask->ids, ask->n_ids);
    } else if (ask->messages) {
        begin_marks(&m, v->base, within->cancel);
        err = make_chat(&m, &served, v->tmpl, ask, *within, &s, ids, count);
    } else {
        err = nm_str_append(&s, ask->text ? ask->text : "", ask->text_length);
        if (err == NM_OK && ask->suffix) err = make_gap(&served, ask, within, ids, count);
        else if (err == NM_OK) err = nm_tokenize_within(t, s.data, s.length, NM_TEXT_PROMPT, within, ids, count);
    }
    if (err == NM_OK && s.data) *text = nm_str_take(&s, length);
    nm_str_free(&s);
    if (err != NM_OK) {
        nm_free(*ids);
        *ids = NULL;
    }
    return err;
}

nm_served nm_variant_served(const nm_variant *v)
{
    return (nm_served){.model = v->base->model, .stack = v->stack, .name = v->name, .template_text = v->template_text, .context = v->base->context, .persona = v->persona,
        .adapters = v->adapter, .scales = v->scale, .n_adapters = v->parts, .variant = v};
}

nm_err nm_served_prompt(const nm_served *served, const nm_ask *ask, const volatile sig_atomic_t *cancel, char **text, size_t *length, int32_t **ids, size_t *count)
{
    return nm_prompt_make(served->variant, ask, &(nm_tokenize_options){.cancel = cancel}, text, length, ids, count);
}
