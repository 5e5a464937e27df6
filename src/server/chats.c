/* Conversations: list, search, get, put, delete. */
#include "server/chats.h"

#include <string.h>

#include "base/err.h"
#include "server/chats_sql.h"
#include "server/fields.h"

enum { ID_LONGEST = 64, TITLE_LONGEST = 1000, NAME_LONGEST = 1000, LIST_MOST = 2000, FOUND_MOST = 200, WORDS_MOST = 16, BRANCHES_MOST = 1000 };
#define TIME_MOST INT64_C(9007199254740991)     /* milliseconds since 1970: the largest whole number that every reader of JSON keeps */

static nm_err check_id(const char *id, const char *what)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    size_t length = strlen(id);
    if (length && length <= ID_LONGEST && strspn(id, allowed) == length) return NM_OK;
    return nm_fail(NM_USAGE, "%s must have 1 to %d letters, digits, '-' or '_'", what, ID_LONGEST);
}

static nm_err chat_number(nm_chats *c, const char *id, int64_t *n)
{
    sqlite3_stmt *st;
    bool row;
    *n = 0;
    NM_TRY(nm_sql(c, &st, "SELECT n FROM chat WHERE id = ?1", "s", id));
    NM_TRY(nm_sql_step(c, st, &row));
    if (!row) return nm_fail(NM_NOT_FOUND, "there is no such conversation: it may have been deleted");
    *n = sqlite3_column_int64(st, 0);
    nm_sql_done(st);
    return NM_OK;
}

/* ---- list and search ---- */

/* Adds a row's conversation (id, title, updated, snippet or null), unless it is in already. */
static nm_err add_found(json_t *list, sqlite3_stmt *st)
{
    size_t i;
    json_t *other;
    json_array_foreach(list, i, other)
        if (sqlite3_column_count(st) > 3 && !strcmp(json_string_value(json_object_get(other, "id")), nm_sql_text(st, 0))) return NM_OK;
    json_t *chat = json_object();
    nm_err err = nm_sql_put(list, NULL, chat);
    static const char *const names[] = {"id", "title", "updated", "snippet"};
    for (int k = 0; k < sqlite3_column_count(st) && err == NM_OK; k++)
        if (sqlite3_column_type(st, k) != SQLITE_NULL) err = nm_sql_put(chat, names[k], nm_sql_json(st, k));
    return err;
}

static nm_err add_all(nm_chats *c, json_t *list, sqlite3_stmt *st)
{
    for (bool row = true;;) {
        NM_TRY(nm_sql_step(c, st, &row));
        if (!row) return NM_OK;
        nm_err err = add_found(list, st);
        if (err == NM_OK) continue;
        nm_sql_done(st);
        return err;
    }
}

/* "blue moo" to "\"blue\"* \"moo\"*": words in quotes, of which none is an operator of the index. */
static nm_err index_query(const char *search, nm_str *out)
{
    int words = 0;
    for (const char *p = search; *p && words < WORDS_MOST; words++) {
        p += strspn(p, " \t\r\n");
        size_t length = strcspn(p, " \t\r\n");
        if (!length) break;
        NM_TRY(nm_str_puts(out, words ? " \"" : "\""));
        for (size_t i = 0; i < length; i++) NM_TRY(p[i] == '"' ? nm_str_puts(out, "\"\"") : nm_str_putc(out, p[i]));
        NM_TRY(nm_str_puts(out, "\"*"));
        p += length;
    }
    return NM_OK;
}

/* Anything around the text, for LIKE with '\' as its escape. */
static nm_err like_pattern(const char *search, nm_str *out)
{
    NM_TRY(nm_str_putc(out, '%'));
    for (const char *p = search; *p; p++) {
        if (strchr("%_\\", *p)) NM_TRY(nm_str_putc(out, '\\'));
        NM_TRY(nm_str_putc(out, *p));
    }
    return nm_str_putc(out, '%');
}

static nm_err search_index(nm_chats *c, const char *query, json_t *list)
{
    sqlite3_stmt *st;
    NM_TRY(nm_sql(c, &st, "SELECT chat.id, chat.title, chat.updated, snippet(message_text, 0, char(1), char(2), '…', 14) FROM message_text"
        " JOIN message ON message.n = message_text.rowid JOIN chat ON chat.n = message.chat WHERE message_text MATCH ?1 ORDER BY rank LIMIT ?2", "si", query, (int64_t)FOUND_MOST));
    return add_all(c, list, st);
}

static nm_err search_titles(nm_chats *c, const char *pattern, json_t *list)
{
    sqlite3_stmt *st;
    NM_TRY(nm_sql(c, &st, "SELECT id, title, updated, NULL FROM chat WHERE title LIKE ?1 ESCAPE '\\' ORDER BY updated DESC LIMIT ?2", "si", pattern, (int64_t)FOUND_MOST));
    return add_all(c, list, st);
}

/* Reads every message: where there is no index, and for what its words cannot have, such as signs or a part of a word. */
static nm_err search_all(nm_chats *c, const char *pattern, const char *search, json_t *list)
{
    sqlite3_stmt *st;
    NM_TRY(nm_sql(c, &st, "SELECT chat.id, chat.title, chat.updated, substr(content, max(1, instr(lower(content), lower(?2)) - 40), 120) FROM message"
        " JOIN chat ON chat.n = message.chat WHERE content LIKE ?1 ESCAPE '\\' ORDER BY message.n DESC LIMIT ?3", "ssi", pattern, search, (int64_t)FOUND_MOST));
    return add_all(c, list, st);
}

static nm_err search_with(nm_chats *c, const char *search, nm_str *query, nm_str *pattern, json_t *list)
{
    NM_TRY(index_query(search, query));
    NM_TRY(like_pattern(search, pattern));
    NM_TRY(search_titles(c, pattern->data, list));
    if (c->indexed && query->length) NM_TRY(search_index(c, query->data, list));
    return json_array_size(list) ? NM_OK : search_all(c, pattern->data, search, list);
}

static nm_err search_chats(nm_chats *c, const char *search, json_t *list)
{
    nm_str query = {0}, pattern = {0};
    nm_err err = search_with(c, search, &query, &pattern, list);
    nm_str_free(&query);
    nm_str_free(&pattern);
    return err;
}

static nm_err all_chats(nm_chats *c, json_t *list)
{
    sqlite3_stmt *st;
    NM_TRY(nm_sql(c, &st, "SELECT id, title, updated FROM chat ORDER BY updated DESC, n DESC LIMIT ?1", "i", (int64_t)LIST_MOST));
    return add_all(c, list, st);
}

nm_err nm_chats_list(nm_chats *c, const char *search, json_t **out)
{
    if (search && strlen(search) > TITLE_LONGEST) return nm_fail(NM_USAGE, "the search is too long: give at most %d bytes", TITLE_LONGEST);
    json_t *object = json_object(), *list = json_array();
    nm_err err = nm_sql_put(object, "chats", list);
    if (err == NM_OK) err = search && *search ? search_chats(c, search, list) : all_chats(c, list);
    if (err == NM_OK) *out = object;
    else json_decref(object);
    return err;
}

/* ---- get ---- */

static nm_err get_head(nm_chats *c, int64_t n, json_t *chat)
{
    static const char *const names[] = {"id", "title", "model", "system", "leaf", "created", "updated"};
    sqlite3_stmt *st;
    bool row;
    NM_TRY(nm_sql(c, &st, "SELECT id, title, model, system, leaf, created, updated, settings FROM chat WHERE n = ?1", "i", n));
    NM_TRY(nm_sql_step(c, st, &row));
    nm_err err = row ? nm_sql_put(chat, "settings", nm_sql_parsed(st, 7)) : NM_OK;
    for (int k = 0; row && k < 7 && err == NM_OK; k++) err = nm_sql_put(chat, names[k], nm_sql_json(st, k));
    nm_sql_done(st);
    return err;
}

static nm_err add_message(json_t *list, sqlite3_stmt *st)
{
    static const char *const names[] = {"id", "parent", "role", "content", "reasoning", "model", "rating", "corrects", "created"};
    json_t *message = json_object();
    NM_TRY(nm_sql_put(list, NULL, message));
    for (int k = 0; k < 9; k++) NM_TRY(nm_sql_put(message, names[k], nm_sql_json(st, k)));
    return nm_sql_put(message, "extra", nm_sql_parsed(st, 9));
}

static nm_err get_messages(nm_chats *c, int64_t n, json_t *list)
{
    sqlite3_stmt *st;
    NM_TRY(nm_sql(c, &st, "SELECT id, parent, role, content, reasoning, model, rating, corrects, created, extra FROM message WHERE chat = ?1 ORDER BY n", "i", n));
    for (bool row = true;;) {
        NM_TRY(nm_sql_step(c, st, &row));
        if (!row) return NM_OK;
        nm_err err = add_message(list, st);
        if (err == NM_OK) continue;
        nm_sql_done(st);
        return err;
    }
}

nm_err nm_chats_get(nm_chats *c, const char *id, json_t **out)
{
    int64_t n;
    NM_TRY(chat_number(c, id, &n));
    json_t *chat = json_object(), *messages = json_array();
    nm_err err = nm_sql_put(chat, "messages", messages);
    if (err == NM_OK) err = get_head(c, n, chat);
    if (err == NM_OK) err = get_messages(c, n, messages);
    if (err == NM_OK) *out = chat;
    else json_decref(chat);
    return err;
}

/* ---- put ---- */

/* A member's text, at most `most` bytes. */
static nm_err bounded(const json_t *object, const char *name, size_t most, const char **out)
{
    NM_TRY(nm_field_text(object, name, out));
    if (*out && strlen(*out) > most) return nm_fail(NM_USAGE, "\"%s\" is too long: give at most %zu bytes", name, most);
    return NM_OK;
}

/* A member that is an object, as text; *text stays empty (data NULL) where it is absent. */
static nm_err object_text(const json_t *object, const char *name, nm_str *text)
{
    json_t *value = NULL;
    NM_TRY(nm_field_object(object, name, &value));
    return value ? nm_chats_text(value, text) : NM_OK;
}

static nm_err put_head(nm_chats *c, const char *id, const json_t *chat)
{
    const char *title = "", *model = "", *system = "";
    int64_t created = 0, updated = 0;
    nm_str settings = {0};
    NM_TRY(bounded(chat, "title", TITLE_LONGEST, &title));
    NM_TRY(bounded(chat, "model", NAME_LONGEST, &model));
    NM_TRY(nm_field_text(chat, "system", &system));
    NM_TRY(nm_field_int(chat, "created", 0, TIME_MOST, &created));
    NM_TRY(nm_field_int(chat, "updated", 0, TIME_MOST, &updated));
    NM_TRY(object_text(chat, "settings", &settings));
    sqlite3_stmt *st;
    nm_err err = nm_sql(c, &st, "INSERT INTO chat (id, title, model, system, settings, created, updated) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO UPDATE SET"
        " title = excluded.title, model = excluded.model, system = excluded.system, settings = excluded.settings, updated = excluded.updated",
        "sssssii", id, title, model, system, settings.data ? settings.data : "{}", created, updated);
    if (err == NM_OK) err = nm_sql_run(c, st);
    nm_str_free(&settings);
    return err;
}

/* That a message is there in this conversation; NULL is no message, and well. */
static nm_err need_message(nm_chats *c, int64_t chat, const char *id, const char *what)
{
    sqlite3_stmt *st;
    bool row;
    if (!id) return NM_OK;
    NM_TRY(nm_sql(c, &st, "SELECT 1 FROM message WHERE chat = ?1 AND id = ?2", "is", chat, id));
    NM_TRY(nm_sql_step(c, st, &row));
    nm_sql_done(st);
    return row ? NM_OK : nm_fail(NM_USAGE, "\"%s\" names no message of this conversation that comes before", what);
}

/* Room for one message more below its parent: what is paired with what is a square of those. */
static nm_err need_room(nm_chats *c, int64_t chat, const char *id, const char *parent)
{
    sqlite3_stmt *st;
    bool row;
    NM_TRY(nm_sql(c, &st, "SELECT 1 FROM message WHERE chat = ?1 AND parent IS ?2 AND id <> ?3 LIMIT 1 OFFSET ?4", "issi", chat, parent, id, (int64_t)BRANCHES_MOST - 1));
    NM_TRY(nm_sql_step(c, st, &row));
    nm_sql_done(st);
    return row ? nm_fail(NM_USAGE, "a message may have at most %d that follow it", BRANCHES_MOST) : NM_OK;
}

typedef struct message { const char *id, *parent, *role, *content, *reasoning, *model, *corrects; int64_t rating, created; nm_str extra; } message;

static nm_err read_message(const json_t *object, message *m)
{
    if (!json_is_object(object)) return nm_fail(NM_USAGE, "\"messages\" must be an array of objects");
    m->content = "";
    NM_TRY(nm_field_text(object, "id", &m->id));
    NM_TRY(check_id(m->id ? m->id : "", "a message's \"id\""));
    NM_TRY(nm_field_text(object, "parent", &m->parent));
    NM_TRY(nm_field_text(object, "role", &m->role));
    if (!m->role || (strcmp(m->role, "user") && strcmp(m->role, "assistant"))) return nm_fail(NM_USAGE, "\"role\" must be \"user\" or \"assistant\"");
    NM_TRY(nm_field_text(object, "content", &m->content));
    NM_TRY(nm_field_text(object, "reasoning", &m->reasoning));
    NM_TRY(bounded(object, "model", NAME_LONGEST, &m->model));
    NM_TRY(nm_field_text(object, "corrects", &m->corrects));
    NM_TRY(nm_field_int(object, "rating", -1, 1, &m->rating));
    NM_TRY(nm_field_int(object, "created", 0, TIME_MOST, &m->created));
    return object_text(object, "extra", &m->extra);
}

static nm_err store_message(nm_chats *c, int64_t chat, const message *m)
{
    sqlite3_stmt *st;
    NM_TRY(need_message(c, chat, m->parent, "parent"));
    NM_TRY(need_message(c, chat, m->corrects, "corrects"));
    NM_TRY(need_room(c, chat, m->id, m->parent));
    NM_TRY(nm_sql(c, &st, "INSERT INTO message (chat, id, parent, role, content, reasoning, model, rating, corrects, extra, created)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (chat, id) DO UPDATE SET"
        " content = excluded.content, reasoning = excluded.reasoning, model = excluded.model, rating = excluded.rating,"
        " corrects = excluded.corrects, extra = excluded.extra",
        "issssssissi", chat, m->id, m->parent, m->role, m->content, m->reasoning, m->model, m->rating, m->corrects, m->extra.data, m->created));
    return nm_sql_run(c, st);
}

static nm_err put_message(nm_chats *c, int64_t chat, const json_t *object)
{
    message m = {0};
    nm_err err = read_message(object, &m);
    if (err == NM_OK) err = store_message(c, chat, &m);
    nm_str_free(&m.extra);
    return err;
}

static nm_err put_all(nm_chats *c, const char *id, const json_t *chat)
{
    int64_t n;
    size_t i;
    json_t *messages = NULL, *one;
    const char *leaf = NULL;
    NM_TRY(put_head(c, id, chat));
    NM_TRY(chat_number(c, id, &n));
    NM_TRY(nm_field_array(chat, "messages", &messages));
    json_array_foreach(messages, i, one) NM_TRY(put_message(c, n, one));
    NM_TRY(nm_field_text(chat, "leaf", &leaf));
    NM_TRY(need_message(c, n, leaf, "leaf"));
    NM_SQL_RUN(c, "UPDATE chat SET leaf = ?2 WHERE n = ?1", "is", n, leaf);
    return NM_OK;
}

nm_err nm_chats_put(nm_chats *c, const char *id, const json_t *chat)
{
    NM_TRY(check_id(id, "a conversation's id"));
    NM_SQL_RUN(c, "BEGIN IMMEDIATE", "");
    nm_err err = put_all(c, id, chat);
    sqlite3_stmt *commit;
    if (err == NM_OK) err = nm_sql(c, &commit, "COMMIT", "");
    if (err == NM_OK) err = nm_sql_run(c, commit);
    if (err != NM_OK) sqlite3_exec(c->db, "ROLLBACK", NULL, NULL, NULL);
    return err;
}

nm_err nm_chats_delete(nm_chats *c, const char *id)
{
    int64_t n;
    NM_TRY(chat_number(c, id, &n));
    NM_SQL_RUN(c, "DELETE FROM chat WHERE n = ?1", "i", n);
    return NM_OK;
}
