/* Conversations: {"messages": [{"role", "content", ...}]} and ShareGPT's {"conversations": [{"from", "value"}]}; either list may use either form.
 * What else a message holds goes through to the template. */
#include <string.h>

#include "base/err.h"
#include "data/shape.h"
#include "data/tree.h"

/* ShareGPT's names, and those of the programs that write its shape. */
static const struct { const char *from, *role; } senders[] = {
    {"human", "user"}, {"user", "user"}, {"gpt", "assistant"}, {"chatgpt", "assistant"}, {"bing", "assistant"}, {"bard", "assistant"},
    {"model", "assistant"}, {"assistant", "assistant"}, {"system", "system"}, {"tool", "tool"}, {"function", "tool"}, {"observation", "tool"},
};

static const char *role_of(const char *from)
{
    for (size_t i = 0; i < sizeof senders / sizeof *senders; i++)
        if (!strcmp(senders[i].from, from)) return senders[i].role;
    return NULL;
}

static nm_err from_sharegpt(nm_json *message, size_t i)
{
    const nm_json *from = nm_tree_string(message, "from");
    const char *role = from ? role_of(from->string.bytes) : NULL;
    if (!role) return nm_fail(NM_BAD_FILE, "message %zu: \"from\" is '%.40s': give human, gpt, system or tool", i + 1, from ? from->string.bytes : "");
    NM_TRY(nm_tree_put_text(message, "role", role, strlen(role)));
    if (!nm_json_get(message, "content")) NM_TRY(nm_tree_put(message, "content", nm_tree_take(message, "value")));
    return NM_OK;
}

static nm_err check(const nm_json *message, size_t i)
{
    const nm_json *role = nm_tree_string(message, "role"), *content = nm_json_get(message, "content");
    if (!role) return nm_fail(NM_BAD_FILE, "message %zu: no \"role\"", i + 1);
    bool calls = nm_json_get(message, "tool_calls") != NULL;
    bool fine = content && (content->kind == NM_JSON_STRING || content->kind == NM_JSON_ARRAY);
    if (fine || (calls && (!content || content->kind == NM_JSON_NULL))) return NM_OK;
    return nm_fail(NM_BAD_FILE, "message %zu: \"content\" is no text", i + 1);
}

static nm_err read_message(nm_record *record, nm_json *item, size_t i)
{
    nm_json message = *item;
    if (message.kind != NM_JSON_OBJECT) return nm_fail(NM_BAD_FILE, "message %zu is no object", i + 1);
    *item = (nm_json){0};       /* ours now */
    nm_err err = nm_json_get(&message, "role") || !nm_json_get(&message, "from") ? NM_OK : from_sharegpt(&message, i);
    if (err == NM_OK) err = check(&message, i);
    if (err == NM_OK && i == 0 && record->messages.array.count && nm_tree_is_text(nm_json_get(&message, "role"), "system"))
        err = nm_fail(NM_BAD_FILE, "\"system\" beside a first message of the system: keep one of them");
    if (err == NM_OK) return nm_tree_push(&record->messages, message);
    nm_json_free(&message);
    return err;
}

static nm_err read_list(nm_record *record, nm_json *list, const char *key)
{
    if (list->kind != NM_JSON_ARRAY || !list->array.count) return nm_fail(NM_BAD_FILE, "\"%s\" is no list of messages", key);
    for (size_t i = 0; i < list->array.count; i++) NM_TRY(read_message(record, &list->array.items[i], i));
    return NM_OK;
}

/* A column of a table holds the list as JSON within a string. */
nm_err nm_shape_messages(nm_record *record, nm_json *row, const nm_shape *shape)
{
    nm_json list = nm_tree_take(row, shape->need[0]), parsed;
    nm_err err = NM_OK;
    if (list.kind == NM_JSON_STRING) {
        err = nm_json_parse(&parsed, list.string.bytes, list.string.length);
        if (err == NM_USAGE) err = nm_fail(NM_BAD_FILE, "\"%s\": %s", shape->need[0], nm_error_text());
        nm_json_free(&list);
        if (err == NM_OK) list = parsed;
    }
    if (err == NM_OK) err = read_list(record, &list, shape->need[0]);
    nm_json_free(&list);
    return err;
}
