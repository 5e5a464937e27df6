/* Owns reading Ollama's requests: chats and prompts with their options become what the engine takes. Refuses images, templates in Go's notation and other servers' contexts;
 * options that only tell another engine how to use the machine (num_gpu, num_thread, use_mmap, ...) are passed over. */
#include "server/ollama.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "server/fields.h"

static nm_err no_memory(void) { return nm_fail(NM_NO_MEMORY, "there is no memory for the messages"); }

static nm_err push(json_t *array, json_t *value) { return value && json_array_append_new(array, value) == 0 ? NM_OK : no_memory(); }

/* ---- Durations ----------------------------------------------------------------------------------------------------------------------- */

/* One number with its unit, as Go writes durations; moves *at behind it. */
static bool read_part(const char **at, double *seconds)
{
    static const struct { const char *name; double seconds; } units[] = {{"ns", 1e-9}, {"us", 1e-6}, {"\xc2\xb5s", 1e-6}, {"ms", 1e-3}, {"s", 1}, {"m", 60}, {"h", 3600}};
    double whole = 0, digit = 1;
    size_t digits = 0;
    for (bool point = false; (**at >= '0' && **at <= '9') || (**at == '.' && !point); ++*at) {
        if (**at == '.') point = true;
        else if (digits++, point) whole += (digit /= 10) * (**at - '0');
        else whole = whole * 10 + (**at - '0');
    }
    if (!digits || digits > 15) return false;
    if (!**at) return *seconds += whole, true;      /* seconds without a unit, which Ollama takes as well */
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        size_t n = strlen(units[i].name);
        bool fits = !strncmp(*at, units[i].name, n) && (!(*at)[n] || (*at)[n] == '.' || ((*at)[n] >= '0' && (*at)[n] <= '9'));
        if (!fits) continue;
        *at += n;
        *seconds += whole * units[i].seconds;
        return true;
    }
    return false;
}

static bool read_duration(const char *text, double *seconds)
{
    bool minus = *text == '-';
    if (minus || *text == '+') text++;
    *seconds = 0;
    if (!*text) return false;
    while (*text) if (!read_part(&text, seconds)) return false;
    if (minus && *seconds > 0) *seconds = -*seconds;
    return true;
}

nm_err nm_ollama_keep_alive(const json_t *body, double *seconds)
{
    const json_t *given = json_object_get(body, "keep_alive");
    double value = 0;
    if (!given || json_is_null(given)) return NM_OK;
    if (json_is_number(given)) value = json_number_value(given);
    else if (!json_is_string(given) || !read_duration(json_string_value(given), &value))
        return nm_fail(NM_USAGE, "\"keep_alive\" must be a number of seconds or a duration such as \"5m\"; below zero is for ever");
    *seconds = value < 0 ? INFINITY : value;
    return NM_OK;
}

/* ---- Messages ------------------------------------------------------------------------------------------------------------------------ */

static nm_err refuse_images(const json_t *object, const char *where)
{
    const json_t *images = json_object_get(object, "images");
    if (!images || json_is_null(images) || (json_is_array(images) && !json_array_size(images))) return NM_OK;
    return nm_fail(NM_USAGE, "%s has \"images\": the models served here read text alone", where);
}

static nm_err read_call(json_t *out, const json_t *call, size_t at, size_t number)
{
    json_t *function = json_object_get(call, "function"), *name = json_object_get(function, "name"), *arguments = json_object_get(function, "arguments");
    json_t *id = json_object_get(call, "id");
    if (!json_is_string(name) || !json_is_object(arguments))
        return nm_fail(NM_USAGE, "messages[%zu].tool_calls[%zu] must be {\"function\": {\"name\", \"arguments\": an object}}", at, number);
    json_t *own = json_is_string(id) ? json_incref(id) : json_sprintf("call_%zu_%zu", at, number);
    return push(out, json_pack("{so ss s{sO sO}}", "id", own, "type", "function", "function", "name", name, "arguments", arguments));
}

static nm_err read_calls(json_t *message, const json_t *given, size_t at)
{
    json_t *list = NULL;
    NM_TRY(nm_field_array(given, "tool_calls", &list));
    size_t n = json_array_size(list);
    if (!n) return NM_OK;
    json_t *calls = json_array();
    if (!calls || json_object_set_new(message, "tool_calls", calls) != 0) return no_memory();
    for (size_t i = 0; i < n; i++) NM_TRY(read_call(calls, json_array_get(list, i), at, i));
    return NM_OK;
}

static nm_err copy_text(json_t *to, const char *as, const json_t *from, const char *name)
{
    const char *text = NULL;
    NM_TRY(nm_field_text(from, name, &text));
    return !text || json_object_set(to, as, json_object_get(from, name)) == 0 ? NM_OK : no_memory();
}

static nm_err read_message(json_t *out, const json_t *given, size_t at)
{
    const char *role = json_string_value(json_object_get(given, "role")), *content = "";
    char where[48];
    snprintf(where, sizeof where, "messages[%zu]", at);
    if (!role || (strcmp(role, "user") && strcmp(role, "assistant") && strcmp(role, "system") && strcmp(role, "tool")))
        return nm_fail(NM_USAGE, "%s.role must be \"system\", \"user\", \"assistant\" or \"tool\"", where);
    NM_TRY(refuse_images(given, where));
    NM_TRY(nm_field_text(given, "content", &content));
    json_t *message = json_pack("{ss ss}", "role", role, "content", content);
    NM_TRY(push(out, message));
    NM_TRY(copy_text(message, "reasoning_content", given, "thinking"));
    NM_TRY(copy_text(message, "name", given, "tool_name"));
    NM_TRY(copy_text(message, "tool_call_id", given, "tool_call_id"));
    return read_calls(message, given, at);
}

static nm_err read_tool(json_t *out, json_t *tool, size_t at)
{
    json_t *function = json_object_get(tool, "function");
    if (!json_is_string(json_object_get(function, "name"))) return nm_fail(NM_USAGE, "tools[%zu] must be {\"type\": \"function\", \"function\": {\"name\", ...}}", at);
    return push(out, json_pack("{ss sO}", "type", "function", "function", function));
}

static nm_err read_tools(nm_ollama *r)
{
    enum { MOST = 1024 };
    json_t *given = NULL;
    NM_TRY(nm_field_array(r->body, "tools", &given));
    size_t n = json_array_size(given);
    if (!n) return NM_OK;
    if (n > MOST) return nm_fail(NM_USAGE, "\"tools\" has %zu: give at most %d", n, MOST);
    if (!(r->tools = json_array())) return no_memory();
    for (size_t i = 0; i < n; i++) NM_TRY(read_tool(r->tools, json_array_get(given, i), i));
    r->ask.tools = r->tools;
    return NM_OK;
}

/* Ollama has no word for it. As clients pass unknown options on, OpenAI's is taken there. */
static nm_err read_choice(nm_ollama *r)
{
    json_t *choice = json_object_get(json_object_get(r->body, "options"), "tool_choice");
    const char *word = json_string_value(choice);
    if (!choice || json_is_null(choice) || !r->tools) return NM_OK;
    bool known = word && (!strcmp(word, "auto") || !strcmp(word, "none") || !strcmp(word, "required"));
    if (!known && !json_is_string(json_object_get(json_object_get(choice, "function"), "name")))
        return nm_fail(NM_USAGE, "\"tool_choice\" must be \"auto\", \"none\", \"required\" or {\"type\": \"function\", \"function\": {\"name\"}}");
    r->ask.tool_choice = choice;
    return NM_OK;
}

/* Theirs is Go's. */
static nm_err refuse_template(const json_t *body, const char *instead)
{
    const char *tmpl = "";
    NM_TRY(nm_field_text(body, "template", &tmpl));
    return *tmpl ? nm_fail(NM_USAGE, "\"template\" is in Go's notation, which is not read here: %s", instead) : NM_OK;
}

static nm_err read_chat(nm_ollama *r)
{
    json_t *given = NULL;
    NM_TRY(refuse_template(r->body, "a persona may have one of its own, or send the whole prompt to /api/generate with \"raw\": true"));
    NM_TRY(nm_field_array(r->body, "messages", &given));
    size_t n = json_array_size(given);
    r->nothing = n == 0;
    if (!(r->messages = json_array())) return no_memory();
    for (size_t i = 0; i < n; i++) NM_TRY(read_message(r->messages, json_array_get(given, i), i));
    const char *last = json_string_value(json_object_get(json_array_get(given, n - 1), "role"));
    r->ask.continue_last = last && !strcmp(last, "assistant") && !json_object_get(json_array_get(r->messages, n - 1), "tool_calls");
    r->ask.messages = r->messages;
    NM_TRY(read_tools(r));
    return read_choice(r);
}

/* ---- Prompts ------------------------------------------------------------------------------------------------------------------------- */

/* "context" is what older servers gave back of a chat: this one gives none, so what comes is another's, whose ids mean other words here. */
static nm_err refuse_context(const json_t *body)
{
    json_t *given = NULL;
    NM_TRY(nm_field_array(body, "context", &given));
    return json_array_size(given) ? nm_fail(NM_USAGE, "\"context\" is not kept here: send what was said as \"messages\" to /api/chat") : NM_OK;
}

static nm_err read_prompt(nm_ollama *r)
{
    const char *prompt = "", *system = NULL, *suffix = NULL;
    bool raw = false;
    NM_TRY(nm_field_text(r->body, "prompt", &prompt));
    NM_TRY(nm_field_text(r->body, "system", &system));
    NM_TRY(nm_field_text(r->body, "suffix", &suffix));
    NM_TRY(nm_field_bool(r->body, "raw", &raw));
    NM_TRY(refuse_images(r->body, "the request"));
    NM_TRY(refuse_context(r->body));
    NM_TRY(refuse_template(r->body, raw ? "\"raw\" takes the prompt as it stands" : "send the whole prompt with \"raw\": true"));
    if (raw && system && *system) return nm_fail(NM_USAGE, "\"raw\" takes the prompt as it stands: put \"system\" into it");
    r->nothing = !*prompt && (!suffix || !*suffix);
    if (raw || (suffix && *suffix)) {
        r->ask.text = prompt;
        r->ask.text_length = strlen(prompt);
        r->ask.suffix = suffix && *suffix ? suffix : NULL;
        return NM_OK;
    }
    r->messages = system && *system ? json_pack("[{ss ss}{ss ss}]", "role", "system", "content", system, "role", "user", "content", prompt)
        : json_pack("[{ss ss}]", "role", "user", "content", prompt);
    r->ask.messages = r->messages;
    return r->messages ? NM_OK : no_memory();
}

/* ---- Settings ------------------------------------------------------------------------------------------------------------------------ */

static nm_err read_sampling(nm_ask *a, const json_t *options)
{
    NM_TRY(nm_field_real(options, "temperature", 0, 1e3, &a->temperature));
    NM_TRY(nm_field_real(options, "top_p", 0, 1, &a->top_p));
    NM_TRY(nm_field_real(options, "min_p", 0, 1, &a->min_p));
    NM_TRY(nm_field_real(options, "typical_p", 0, 1, &a->typical));
    NM_TRY(nm_field_real(options, "repeat_penalty", 1e-3, 1e3, &a->repeat_penalty));
    NM_TRY(nm_field_real(options, "presence_penalty", -1e3, 1e3, &a->presence_penalty));
    NM_TRY(nm_field_real(options, "frequency_penalty", -1e3, 1e3, &a->frequency_penalty));
    NM_TRY(nm_field_int32(options, "top_k", -1, INT32_MAX, &a->top_k));
    if (a->top_k == -1) a->top_k = 0;
    return nm_field_int32(options, "repeat_last_n", -1, INT32_MAX, &a->penalty_last);
}

static nm_err read_options(nm_ollama *r)
{
    nm_ask *a = &r->ask;
    json_t *options = NULL;
    int64_t seed = -1;
    NM_TRY(nm_field_object(r->body, "options", &options));
    if (!options) return NM_OK;
    NM_TRY(read_sampling(a, options));
    NM_TRY(nm_field_int32(options, "num_predict", -2, INT32_MAX, &a->max_tokens));
    if (a->max_tokens < 0) a->max_tokens = NM_ASK_INT;
    NM_TRY(nm_field_int32(options, "num_ctx", 1, INT32_MAX, &a->context));
    NM_TRY(nm_field_int(options, "seed", INT64_MIN, INT64_MAX, &seed));
    a->seeded = json_is_number(json_object_get(options, "seed")) && seed >= 0;
    a->seed = a->seeded ? (uint64_t)seed : 0;
    NM_TRY(nm_field_texts(options, "stop", 64, &r->stop, &a->n_stop));
    a->stop = r->stop;
    return NM_OK;
}

static nm_err read_format(nm_ollama *r)
{
    json_t *format = json_object_get(r->body, "format");
    const char *word = json_string_value(format);
    if (!format || json_is_null(format) || (word && !*word)) return NM_OK;
    if (word && !strcmp(word, "json")) r->ask.json = true;
    else if (json_is_object(format)) r->ask.schema = format;
    else return nm_fail(NM_USAGE, "\"format\" must be \"json\" or a JSON schema");
    return NM_OK;
}

static nm_err read_think(nm_ollama *r)
{
    const json_t *think = json_object_get(r->body, "think");
    const char *word = json_string_value(think);
    if (!think || json_is_null(think)) return NM_OK;
    if (!json_is_boolean(think) && (!word || (strcmp(word, "low") && strcmp(word, "medium") && strcmp(word, "high") && strcmp(word, "max"))))
        return nm_fail(NM_USAGE, "\"think\" must be true, false, \"low\", \"medium\", \"high\" or \"max\"");
    r->ask.think = !json_is_false(think);
    r->ask.effort = word;
    return NM_OK;
}

static nm_err read_logprobs(nm_ollama *r)
{
    bool wanted = false;
    int32_t top = 0;
    NM_TRY(nm_field_bool(r->body, "logprobs", &wanted));
    NM_TRY(nm_field_int32(r->body, "top_logprobs", 0, 20, &top));
    if (wanted) r->ask.top_logprobs = top;
    return NM_OK;
}

static nm_err read_common(nm_ollama *r)
{
    NM_TRY(nm_field_text(r->body, "model", &r->name));
    if (!r->name || !*r->name) return nm_fail(NM_USAGE, "\"model\" is missing: GET /api/tags lists those that are served");
    r->ask.model = r->name;
    NM_TRY(nm_field_bool(r->body, "stream", &r->stream));
    NM_TRY(nm_ollama_keep_alive(r->body, &r->ask.keep_alive));
    NM_TRY(nm_field_lora(r->body, NULL, &r->lora, &r->ask.n_lora));
    r->ask.lora = r->lora;
    NM_TRY(read_options(r));
    NM_TRY(read_format(r));
    NM_TRY(read_think(r));
    return read_logprobs(r);
}

nm_err nm_ollama_read(nm_ollama *out, const char *body, size_t length, bool chat)
{
    nm_ask_init(&out->ask);
    out->chat = chat;
    out->stream = true;
    NM_TRY(nm_body_object(&out->body, body, length));
    NM_TRY(read_common(out));
    return chat ? read_chat(out) : read_prompt(out);
}

void nm_ollama_free(nm_ollama *r)
{
    json_decref(r->body);
    json_decref(r->messages);
    json_decref(r->tools);
    nm_free(r->stop);
    nm_free(r->lora);
    *r = (nm_ollama){0};
}
