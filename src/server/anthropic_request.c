/* Owns reading Anthropic's requests: messages made of blocks, tools and settings become what the engine takes. Refuses images, documents that are no text, and tools
 * that run at Anthropic's, each by name; what only bills or caches there (metadata, cache_control, service_tier) is passed over. */
#include "server/anthropic.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "server/fields.h"

static nm_err no_memory(void) { return nm_fail(NM_NO_MEMORY, "there is no memory for the messages"); }

/* Appends a value that is taken over; NULL is want of memory. */
static nm_err push(json_t *array, json_t *value) { return value && json_array_append_new(array, value) == 0 ? NM_OK : no_memory(); }

/* ---- Messages ------------------------------------------------------------------------------------------------------------------------ */

typedef struct turn {               /* a message of theirs, which may become several */
    json_t *out;                    /* all messages so far */
    json_t *names;                  /* of tools by the id of their call */
    const char *role;
    nm_str text, reasoning;
    json_t *calls;
    bool assistant;
} turn;

/* What has gathered becomes a message. */
static nm_err flush(turn *t)
{
    json_t *content = NULL, *reasoning = NULL;
    if (!t->text.data && !t->calls && !t->reasoning.data) return NM_OK;
    bool any = t->text.data != NULL || !t->calls;
    nm_err err = nm_text_value(&content, &t->text);
    if (err == NM_OK && t->reasoning.data) err = nm_text_value(&reasoning, &t->reasoning);
    if (err == NM_OK) {
        json_t *message = json_pack("{ss so so* sO*}", "role", t->role, "content", any ? json_incref(content) : json_null(), "reasoning_content", reasoning,
            "tool_calls", t->calls);
        reasoning = NULL;
        err = push(t->out, message);
    }
    json_decref(content);
    json_decref(reasoning);
    json_decref(t->calls);
    t->calls = NULL;
    return err;
}

static nm_err block_text(turn *t, json_t *block, const char *where)
{
    json_t *text = json_object_get(block, "text");
    if (!json_is_string(text)) return nm_fail(NM_USAGE, "%s.text must be a string", where);
    return nm_text_line(&t->text, json_string_value(text), json_string_length(text));
}

static nm_err block_thinking(turn *t, json_t *block, const char *where)
{
    json_t *text = json_object_get(block, "thinking");
    if (!t->assistant) return nm_fail(NM_USAGE, "%s: only the assistant's messages have blocks of thinking", where);
    if (!json_is_string(text)) return nm_fail(NM_USAGE, "%s.thinking must be a string", where);
    return nm_text_line(&t->reasoning, json_string_value(text), json_string_length(text));
}

static nm_err block_redacted(turn *t, json_t *block, const char *where) { return NM_OK; }

static nm_err block_tool_use(turn *t, json_t *block, const char *where)
{
    json_t *id = json_object_get(block, "id"), *name = json_object_get(block, "name"), *input = json_object_get(block, "input");
    if (!t->assistant) return nm_fail(NM_USAGE, "%s: only the assistant's messages have blocks of tool_use", where);
    if (!json_is_string(id) || !json_is_string(name)) return nm_fail(NM_USAGE, "%s must have \"id\" and \"name\", both strings", where);
    if (!json_is_object(input)) return nm_fail(NM_USAGE, "%s.input must be an object", where);
    if (!t->calls && !(t->calls = json_array())) return no_memory();
    if (json_object_set(t->names, json_string_value(id), name) != 0) return no_memory();
    return push(t->calls, json_pack("{sO ss s{sO sO}}", "id", id, "type", "function", "function", "name", name, "arguments", input));
}

static nm_err block_tool_result(turn *t, json_t *block, const char *where)
{
    json_t *id = json_object_get(block, "tool_use_id"), *content = json_object_get(block, "content"), *text;
    nm_str s = {0};
    char place[128];
    if (t->assistant) return nm_fail(NM_USAGE, "%s: only the user's messages have blocks of tool_result", where);
    if (!json_is_string(id)) return nm_fail(NM_USAGE, "%s.tool_use_id must be a string", where);
    NM_TRY(flush(t));
    snprintf(place, sizeof place, "%s.content", where);
    nm_err err = content && !json_is_null(content) ? nm_text_add(&s, content, place) : NM_OK;
    if (err == NM_OK) err = nm_text_value(&text, &s);
    nm_str_free(&s);
    NM_TRY(err);
    return push(t->out, json_pack("{ss so sO sO*}", "role", "tool", "content", text, "tool_call_id", id, "name", json_object_get(t->names, json_string_value(id))));
}

/* A document whose source is text is read as such. */
static nm_err block_document(turn *t, json_t *block, const char *where)
{
    json_t *source = json_object_get(block, "source"), *data = json_object_get(source, "data");
    const char *type = json_string_value(json_object_get(source, "type"));
    if (!type || strcmp(type, "text") || !json_is_string(data)) return nm_fail(NM_USAGE, "%s: of documents only those whose source is of type \"text\" are read", where);
    return nm_text_line(&t->text, json_string_value(data), json_string_length(data));
}

static const struct { const char *type; nm_err (*read)(turn *t, json_t *block, const char *where); } blocks[] = {
    {"text", block_text}, {"thinking", block_thinking}, {"redacted_thinking", block_redacted}, {"tool_use", block_tool_use},
    {"tool_result", block_tool_result}, {"document", block_document},
};

static nm_err read_block(turn *t, json_t *block, const char *where)
{
    const char *type = json_string_value(json_object_get(block, "type"));
    for (size_t i = 0; type && i < sizeof blocks / sizeof *blocks; i++)
        if (!strcmp(type, blocks[i].type)) return blocks[i].read(t, block, where);
    if (type && !strcmp(type, "image")) return nm_fail(NM_USAGE, "%s is of type \"image\": the models served here read text alone", where);
    return nm_fail(NM_USAGE, "%s is of type \"%.40s\": text, thinking, tool_use, tool_result and documents of text are read", where, type ? type : "(none)");
}

static nm_err read_content(turn *t, json_t *content, size_t at)
{
    char where[96];
    if (json_is_string(content)) return nm_text_line(&t->text, json_string_value(content), json_string_length(content));
    if (!json_is_array(content)) return nm_fail(NM_USAGE, "messages[%zu].content must be a string or an array of blocks", at);
    for (size_t i = 0; i < json_array_size(content); i++) {
        snprintf(where, sizeof where, "messages[%zu].content[%zu]", at, i);
        NM_TRY(read_block(t, json_array_get(content, i), where));
    }
    return NM_OK;
}

static nm_err read_message(json_t *out, json_t *names, json_t *message, size_t at)
{
    turn t = {.out = out, .names = names, .role = json_string_value(json_object_get(message, "role"))};
    if (!t.role || (strcmp(t.role, "user") && strcmp(t.role, "assistant") && strcmp(t.role, "system")))
        return nm_fail(NM_USAGE, "messages[%zu].role must be \"user\", \"assistant\" or \"system\"", at);
    t.assistant = !strcmp(t.role, "assistant");
    nm_err err = read_content(&t, json_object_get(message, "content"), at);
    if (err == NM_OK) err = flush(&t);
    nm_str_free(&t.text);
    nm_str_free(&t.reasoning);
    json_decref(t.calls);
    return err;
}

static nm_err read_system(json_t *out, const json_t *system)
{
    nm_str s = {0};
    json_t *text = NULL;
    if (!system || json_is_null(system)) return NM_OK;
    nm_err err = nm_text_add(&s, system, "system");
    if (err == NM_OK && !s.length) return nm_str_free(&s), NM_OK;
    if (err == NM_OK) err = nm_text_value(&text, &s);
    nm_str_free(&s);
    NM_TRY(err);
    return push(out, json_pack("{ss so}", "role", "system", "content", text));
}

static nm_err read_messages(nm_anthropic *r)
{
    json_t *given = NULL;
    NM_TRY(nm_field_array(r->body, "messages", &given));
    size_t n = json_array_size(given);
    if (!n) return nm_fail(NM_USAGE, "\"messages\" must be an array of at least one message");
    json_t *names = json_object();
    r->messages = json_array();
    nm_err err = names && r->messages ? read_system(r->messages, json_object_get(r->body, "system")) : no_memory();
    for (size_t i = 0; err == NM_OK && i < n; i++) err = read_message(r->messages, names, json_array_get(given, i), i);
    json_decref(names);
    NM_TRY(err);
    const json_t *last = json_array_get(r->messages, json_array_size(r->messages) - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    r->ask.continue_last = role && !strcmp(role, "assistant") && !json_object_get(last, "tool_calls");
    r->ask.messages = r->messages;
    return NM_OK;
}

/* ---- Tools --------------------------------------------------------------------------------------------------------------------------- */

static nm_err read_tool(json_t *out, json_t *tool, size_t at)
{
    json_t *name = json_object_get(tool, "name"), *schema = json_object_get(tool, "input_schema"), *description = json_object_get(tool, "description");
    const char *type = json_string_value(json_object_get(tool, "type"));
    if (type && strcmp(type, "custom")) return nm_fail(NM_USAGE, "tools[%zu] is of type \"%.60s\", which runs at Anthropic's: give tools of your own with input_schema", at, type);
    if (!json_is_string(name)) return nm_fail(NM_USAGE, "tools[%zu].name must be a string", at);
    if (!json_is_object(schema)) return nm_fail(NM_USAGE, "tools[%zu].input_schema must be an object", at);
    if (description && !json_is_null(description) && !json_is_string(description)) return nm_fail(NM_USAGE, "tools[%zu].description must be a string", at);
    return push(out, json_pack("{ss s{sO sO* sO}}", "type", "function", "function", "name", name, "description", json_is_string(description) ? description : NULL,
        "parameters", schema));
}

static bool is_tool(const json_t *tools, const char *name)
{
    for (size_t i = 0; i < json_array_size(tools); i++)
        if (!strcmp(json_string_value(json_object_get(json_object_get(json_array_get(tools, i), "function"), "name")), name)) return true;
    return false;
}

/* Theirs in OpenAI's words. */
static nm_err read_choice(nm_anthropic *r)
{
    json_t *given = NULL;
    bool one = false;
    NM_TRY(nm_field_object(r->body, "tool_choice", &given));
    if (!given) return NM_OK;
    const char *type = json_string_value(json_object_get(given, "type"));
    json_t *name = json_object_get(given, "name");
    if (!type) type = "";
    if (!strcmp(type, "auto") || !strcmp(type, "none")) r->choice = json_string(type);
    else if (!strcmp(type, "any")) r->choice = json_string("required");
    else if (json_is_string(name) && !is_tool(r->tools, json_string_value(name)))
        return nm_fail(NM_USAGE, "\"tool_choice\" names \"%.60s\", which is none of the tools", json_string_value(name));
    else if (!strcmp(type, "tool") && json_is_string(name)) r->choice = json_pack("{ss s{sO}}", "type", "function", "function", "name", name);
    else return nm_fail(NM_USAGE, "\"tool_choice\" must be {\"type\": \"auto\" | \"any\" | \"none\"} or {\"type\": \"tool\", \"name\"}");
    if (!r->choice) return no_memory();
    NM_TRY(nm_field_bool(given, "disable_parallel_tool_use", &one));
    r->ask.one_call = one;
    r->ask.tool_choice = r->choice;
    return NM_OK;
}

static nm_err read_tools(nm_anthropic *r)
{
    enum { MOST = 1024 };
    json_t *given = NULL;
    NM_TRY(nm_field_array(r->body, "tools", &given));
    size_t n = json_array_size(given);
    if (!n) return NM_OK;
    if (n > MOST) return nm_fail(NM_USAGE, "\"tools\" has %zu: give at most %d", n, MOST);
    r->tools = json_array();
    if (!r->tools) return no_memory();
    for (size_t i = 0; i < n; i++) NM_TRY(read_tool(r->tools, json_array_get(given, i), i));
    r->ask.tools = r->tools;
    return read_choice(r);
}

/* ---- Settings ------------------------------------------------------------------------------------------------------------------------ */

/* Without a word thinking is off: clients that did not ask for it take the first block for the answer. */
static nm_err read_thinking(nm_anthropic *r)
{
    json_t *given = NULL;
    const char *type = "disabled", *display = "";
    NM_TRY(nm_field_object(r->body, "thinking", &given));
    NM_TRY(nm_field_text(given, "type", &type));
    NM_TRY(nm_field_text(given, "display", &display));
    NM_TRY(nm_field_int32(given, "budget_tokens", 1, INT32_MAX, &r->ask.think_most));
    bool off = !strcmp(type, "disabled"), on = !strcmp(type, "enabled");
    if (!off && !on && strcmp(type, "adaptive") && strcmp(type, "between_tools"))
        return nm_fail(NM_USAGE, "\"thinking\" is of type \"%.40s\": give enabled, disabled or adaptive", type);
    r->ask.think = off ? 0 : on ? 1 : -1;
    r->thinking = !off && strcmp(display, "omitted") != 0;
    return NM_OK;
}

static nm_err read_format(nm_anthropic *r, const json_t *holder, const char *name, const char *full)
{
    json_t *format = NULL, *schema = NULL;
    const char *type = "";
    NM_TRY(nm_field_object(holder, name, &format));
    if (!format) return NM_OK;
    NM_TRY(nm_field_text(format, "type", &type));
    NM_TRY(nm_field_object(format, "schema", &schema));
    if (strcmp(type, "json_schema") || !schema) return nm_fail(NM_USAGE, "\"%s\" must be {\"type\": \"json_schema\", \"schema\"}", full);
    r->ask.schema = schema;
    return NM_OK;
}

/* output_config: {"effort", "format": {"type": "json_schema", "schema"}}; older packages have the format as "output_format". */
static nm_err read_output(nm_anthropic *r)
{
    json_t *config = NULL;
    NM_TRY(read_format(r, r->body, "output_format", "output_format"));
    NM_TRY(nm_field_object(r->body, "output_config", &config));
    if (!config) return NM_OK;
    NM_TRY(nm_field_text(config, "effort", &r->ask.effort));
    return read_format(r, config, "format", "output_config.format");
}

static nm_err read_settings(nm_anthropic *r, bool counting)
{
    nm_ask *a = &r->ask;
    NM_TRY(nm_field_text(r->body, "model", &a->model));
    NM_TRY(nm_field_int32(r->body, "max_tokens", 1, INT32_MAX, &a->max_tokens));
    if (a->max_tokens == NM_ASK_INT && !counting) return nm_fail(NM_USAGE, "\"max_tokens\" is missing: say how many tokens the answer may have");
    NM_TRY(nm_field_texts(r->body, "stop_sequences", 64, &r->stop, &a->n_stop));
    a->stop = r->stop;
    NM_TRY(nm_field_real(r->body, "temperature", 0, 2, &a->temperature));
    NM_TRY(nm_field_real(r->body, "top_p", 0, 1, &a->top_p));
    NM_TRY(nm_field_int32(r->body, "top_k", 0, INT32_MAX, &a->top_k));
    NM_TRY(nm_field_bool(r->body, "stream", &r->stream));
    NM_TRY(nm_field_lora(r->body, NULL, &r->lora, &a->n_lora));
    a->lora = r->lora;
    return NM_OK;
}

nm_err nm_anthropic_read(nm_anthropic *out, const char *body, size_t length, bool counting)
{
    nm_ask_init(&out->ask);
    NM_TRY(nm_body_object(&out->body, body, length));
    NM_TRY(read_settings(out, counting));
    NM_TRY(read_thinking(out));
    NM_TRY(read_output(out));
    NM_TRY(read_messages(out));
    return read_tools(out);
}

void nm_anthropic_free(nm_anthropic *r)
{
    json_decref(r->body);
    json_decref(r->messages);
    json_decref(r->tools);
    json_decref(r->choice);
    nm_free(r->stop);
    nm_free(r->lora);
    *r = (nm_anthropic){0};
}
