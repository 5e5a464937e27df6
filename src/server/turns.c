/* From messages to text by a chat template, in the turns that it allows. Agents send what some templates refuse: turns that are calls alone, system messages within a
 * conversation, two turns of one side in a row. What is refused is tried again with the same words in other turns, from the least change to the largest. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "server/engine_impl.h"

static const char *role_of(const json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    return role ? role : "";
}

static bool is(const json_t *message, const char *role) { return !strcmp(role_of(message), role); }

static const char *content_of(const json_t *message)
{
    const char *content = json_string_value(json_object_get(message, "content"));
    return content ? content : "";
}

/* Messages that say nothing get empty text in place of null: some templates add up whatever stands there. False where there are none. */
static bool fill_contents(json_t *messages)
{
    bool any = false;
    size_t i;
    json_t *message;
    json_array_foreach(messages, i, message)
        if (json_is_null(json_object_get(message, "content"))) any |= !json_object_set_new(message, "content", json_string(""));
    return any;
}

/* Nothing but words: it can be told together with another one. */
static bool is_plain(const json_t *message) { return !json_object_get(message, "tool_calls") && !json_object_get(message, "tool_call_id"); }

static bool add_content(nm_str *s, const char *content)
{
    bool apart = s->length && *content;
    return nm_str_puts(s, apart ? "\n\n" : "") == NM_OK && nm_str_puts(s, content) == NM_OK;
}

/* The text that was put together, if any was, becomes the message's. */
static bool end_run(json_t *message, nm_str *s)
{
    bool good = !s->data || !json_object_set_new(message, "content", json_stringn(s->data, s->length));
    nm_str_free(s);
    return good;
}

/* Messages that join the one before become one with it, whose role stays. Each text is copied once, however many there are. False where none does. */
static bool join(json_t *messages, bool (*joins)(const json_t *before, const json_t *message))
{
    json_t *out = json_array(), *before = NULL, *message;
    nm_str s = {0};
    bool any = false, good = out;
    size_t i;
    json_array_foreach(messages, i, message) {
        bool joined = good && before && joins(before, message);
        if (joined) {
            any = true;
            good = (s.data || add_content(&s, content_of(before))) && add_content(&s, content_of(message));
        } else {
            good = good && (!before || end_run(before, &s)) && !json_array_append(out, message);
            before = message;
        }
    }
    good = good && any && end_run(before, &s) && !json_array_clear(messages) && !json_array_extend(messages, out);
    nm_str_free(&s);
    json_decref(out);
    return good;
}

static bool of_one_side(const json_t *before, const json_t *message) { return !strcmp(role_of(before), role_of(message)) && is_plain(before) && is_plain(message); }
static bool behind_result(const json_t *before, const json_t *message) { return is(before, "tool") && is(message, "user"); }

/* System messages behind the beginning become the user's, and turns of one side in a row become one. False where there are none. */
static bool join_turns(json_t *messages)
{
    bool any = false;
    for (size_t i = 1; i < json_array_size(messages); i++) {
        json_t *message = json_array_get(messages, i);
        if (is(message, "system") && !is(json_array_get(messages, i - 1), "system")) any |= !json_object_set_new(message, "role", json_string("user"));
    }
    return join(messages, of_one_side) || any;
}

/* What the user says behind a tool's result goes with it: some templates let none but the assistant speak there. False where there is none. */
static bool join_results(json_t *messages) { return join(messages, behind_result); }

/* Mistral's templates want ids of nine letters: others become such, alike wherever they stand. */
static bool shorten_id(json_t *object, const char *key)
{
    enum { LETTERS = 9 };
    const char *id = json_string_value(json_object_get(object, key));
    char own[LETTERS + 1] = {0};
    if (!id || strlen(id) == LETTERS) return false;
    uint64_t h = nm_hash(1, id, strlen(id));
    for (int i = 0; i < LETTERS; i++, h /= 26) own[i] = (char)('a' + h % 26);
    return !json_object_set_new(object, key, json_string(own));
}

static bool shorten_ids(json_t *messages)
{
    bool any = false;
    size_t i, k;
    json_t *message, *call;
    json_array_foreach(messages, i, message) {
        any |= shorten_id(message, "tool_call_id");
        json_array_foreach(json_object_get(message, "tool_calls"), k, call) any |= shorten_id(call, "id");
    }
    return any;
}

static const char *id_of(const json_t *object, const char *key) { return json_string_value(json_object_get(object, key)); }

/* The results behind a turn, by the ids of their calls; *end: what comes behind them. */
static json_t *results_by_id(const json_t *messages, size_t at, size_t *end)
{
    json_t *all = json_object();
    for (*end = at + 1; is(json_array_get(messages, *end), "tool"); ++*end) {
        const char *id = id_of(json_array_get(messages, *end), "tool_call_id");
        if (id && !json_object_get(all, id)) json_object_set_new(all, id, json_array());
        if (id) json_array_append(json_object_get(all, id), json_array_get(messages, *end));
    }
    return all;
}

/* One call of a turn as a turn of its own, the first with what was said, and with the results that came to it, which are taken. */
static bool take_call(json_t *out, json_t *results, const json_t *turn, size_t k)
{
    json_t *call = json_array_get(json_object_get(turn, "tool_calls"), k), *own = k ? json_pack("{s:s, s:s}", "role", "assistant", "content", "") : json_copy((json_t *)turn);
    const char *id = id_of(call, "id");
    bool good = own && !json_object_set_new(own, "tool_calls", json_pack("[O]", call)) && !json_array_append(out, own);
    json_decref(own);
    json_t *to_it = id ? json_object_get(results, id) : NULL;
    if (good && to_it) good = !json_array_extend(out, to_it) && !json_object_del(results, id);
    return good;
}

/* The turn at `at`, and behind its calls the results that came to none of them. Each message is looked at once, however many there are. */
static bool split_turn(json_t *out, const json_t *messages, size_t at, size_t *end)
{
    const json_t *turn = json_array_get(messages, at);
    json_t *results = results_by_id(messages, at, end);
    bool good = results;
    for (size_t k = 0; good && k < json_array_size(json_object_get(turn, "tool_calls")); k++) good = take_call(out, results, turn, k);
    for (size_t i = at + 1; good && i < *end; i++) {
        const char *id = id_of(json_array_get(messages, i), "tool_call_id");
        if (!id || json_object_get(results, id)) good = !json_array_append(out, json_array_get(messages, i));
    }
    json_decref(results);
    return good;
}

/* Llama's templates want one call a turn. False where no turn has several. */
static bool split_calls(json_t *messages)
{
    bool any = false, good = true;
    json_t *out = json_array();
    for (size_t i = 0, end; good && i < json_array_size(messages); i = end) {
        bool several = json_array_size(json_object_get(json_array_get(messages, i), "tool_calls")) > 1;
        any |= several;
        end = i + 1;
        good = several ? split_turn(out, messages, i, &end) : !json_array_append(out, json_array_get(messages, i));
    }
    good = good && out && any && !json_array_clear(messages) && !json_array_extend(messages, out);
    json_decref(out);
    return good;
}

static bool set_joined(json_t *message, const char *first, const char *second)
{
    return !json_object_set_new(message, "content", json_pack("s++", first, *first && *second ? "\n\n" : "", second));
}

/* The system message goes in front of what the user says first. False where there is none. */
static bool fold_system(json_t *messages)
{
    json_t *system = json_incref(json_array_get(messages, 0)), *next = json_array_get(messages, 1);
    bool good = is(system, "system");
    if (good && !is(next, "user")) good = !json_object_set_new(system, "role", json_string("user"));
    else if (good) good = set_joined(next, content_of(system), content_of(next)) && !json_array_remove(messages, 0);
    json_decref(system);
    return good;
}

static nm_err render(const nm_template *tmpl, const json_t *vars, const volatile sig_atomic_t *cancel, char **text, size_t *length)
{
    char *json = json_dumps(vars, JSON_COMPACT);
    if (!json) return nm_fail_memory(0);
    nm_template_options o = {.now = INT64_MIN, .cancel = cancel};
    nm_err err = nm_template_render(tmpl, json, strlen(json), &o, text, length);
    free(json);
    return err;
}

nm_err nm_turns_render(const nm_template *tmpl, json_t *vars, const volatile sig_atomic_t *cancel, char **text, size_t *length)
{
    json_t *messages = json_object_get(vars, "messages");
    nm_err err = render(tmpl, vars, cancel, text, length);
    if ((err == NM_FAILED || err == NM_REFUSED) && fill_contents(messages)) err = render(tmpl, vars, cancel, text, length);
    if (err == NM_REFUSED && join_turns(messages)) err = render(tmpl, vars, cancel, text, length);
    if (err == NM_REFUSED && join_results(messages)) err = render(tmpl, vars, cancel, text, length);
    if (err == NM_REFUSED && shorten_ids(messages)) err = render(tmpl, vars, cancel, text, length);
    if (err == NM_REFUSED && split_calls(messages)) err = render(tmpl, vars, cancel, text, length);
    if (err == NM_REFUSED && fold_system(messages)) err = render(tmpl, vars, cancel, text, length);
    if (err == NM_FAILED || err == NM_REFUSED) return nm_fail(NM_USAGE, "%s", nm_error_text());      /* these messages do not go with this template */
    return err;
}
