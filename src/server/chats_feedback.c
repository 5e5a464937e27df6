/* Votes, and what of all that is kept can be taught: exports as JSON lines. */
#include "server/chats.h"

#include <string.h>
#include <time.h>

#include "base/err.h"
#include "server/chats_sql.h"
#include "server/fields.h"

enum { PATH_LONGEST = 10000 };

/* ---- votes ---- */

static nm_err add_vote_row(json_t *list, sqlite3_stmt *st)
{
    static const char *const names[] = {"a", "b", "a_wins", "b_wins", "equal"};
    json_t *row = json_object();
    NM_TRY(nm_sql_put(list, NULL, row));
    for (int k = 0; k < 5; k++) NM_TRY(nm_sql_put(row, names[k], nm_sql_json(st, k)));
    return NM_OK;
}

static nm_err add_rows(nm_chats *c, sqlite3_stmt *st, json_t *list, nm_err (*add)(json_t *list, sqlite3_stmt *st))
{
    for (bool row = true;;) {
        NM_TRY(nm_sql_step(c, st, &row));
        if (!row) return NM_OK;
        nm_err err = add(list, st);
        if (err == NM_OK) continue;
        nm_sql_done(st);
        return err;
    }
}

/* {"NAME": [a row's object, ...]} */
static nm_err rows_object(nm_chats *c, const char *sql, const char *name, nm_err (*add)(json_t *list, sqlite3_stmt *st), json_t **out)
{
    sqlite3_stmt *st;
    NM_TRY(nm_sql(c, &st, sql, ""));
    json_t *object = json_object(), *list = json_array();
    nm_err err = nm_sql_put(object, name, list);
    if (err == NM_OK) err = add_rows(c, st, list, add);
    if (err == NM_OK) *out = object;
    else json_decref(object);
    return err;
}

static nm_err check_messages(const json_t *messages)
{
    size_t i;
    json_t *message;
    if (!json_array_size(messages)) return nm_fail(NM_USAGE, "\"messages\" must be an array with a message at least");
    json_array_foreach(messages, i, message)
        if (!json_string_value(json_object_get(message, "role")) || !json_string_value(json_object_get(message, "content")))
            return nm_fail(NM_USAGE, "\"messages\" must have \"role\" and \"content\" as strings");
    return NM_OK;
}

static nm_err read_answer(const json_t *vote, const char *name, const char **model, const char **content)
{
    json_t *answer = NULL;
    NM_TRY(nm_field_object(vote, name, &answer));
    if (answer) NM_TRY(nm_field_text(answer, "model", model));
    if (answer) NM_TRY(nm_field_text(answer, "content", content));
    if (!*model || !*content) return nm_fail(NM_USAGE, "\"%s\" must be {\"model\", \"content\"}", name);
    return NM_OK;
}

static nm_err store_vote(nm_chats *c, const json_t *vote, const json_t *messages, const char *choice)
{
    const char *a = NULL, *b = NULL, *a_text = NULL, *b_text = NULL;
    nm_str text = {0};
    NM_TRY(read_answer(vote, "a", &a, &a_text));
    NM_TRY(read_answer(vote, "b", &b, &b_text));
    NM_TRY(nm_chats_text(messages, &text));
    sqlite3_stmt *st;
    nm_err err = nm_sql(c, &st, "INSERT INTO vote (messages, a_model, a_content, b_model, b_content, choice, created) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        "ssssssi", text.data, a, a_text, b, b_text, choice, (int64_t)time(NULL) * 1000);
    if (err == NM_OK) err = nm_sql_run(c, st);
    nm_str_free(&text);
    return err;
}

nm_err nm_chats_vote(nm_chats *c, const json_t *vote)
{
    json_t *messages = NULL;
    const char *choice = "";
    NM_TRY(nm_field_array(vote, "messages", &messages));
    NM_TRY(check_messages(messages));
    NM_TRY(nm_field_text(vote, "choice", &choice));
    static const char *const choices[] = {"a", "b", "both", "neither"};
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
        if (!strcmp(choice, choices[i])) return store_vote(c, vote, messages, choice);
    return nm_fail(NM_USAGE, "\"choice\" must be \"a\", \"b\", \"both\" or \"neither\"");
}

nm_err nm_chats_tally(nm_chats *c, json_t **out)
{
    return rows_object(c, "SELECT min(a_model, b_model) AS one, max(a_model, b_model) AS two, sum(choice = CASE WHEN a_model <= b_model THEN 'a' ELSE 'b' END),"
        " sum(choice = CASE WHEN a_model <= b_model THEN 'b' ELSE 'a' END), sum(choice IN ('both', 'neither')) FROM vote GROUP BY one, two ORDER BY max(n) DESC LIMIT 200",
        "tally", add_vote_row, out);
}

/* ---- exports ---- */

/* A better and a worse answer to the same: a correction with what it corrects, and thumbs up and down below one message. */
#define PAIRS \
    "SELECT good.chat AS chat, good.parent AS parent, good.content AS good, bad.content AS bad FROM message AS good JOIN message AS bad ON bad.chat = good.chat" \
    " AND good.role = 'assistant' AND bad.role = 'assistant' AND good.parent IS bad.parent AND good.content <> bad.content AND good.content <> '' AND bad.content <> ''" \
    " AND (good.corrects = bad.id OR (good.rating = 1 AND bad.rating = -1))"

/* How many rows PAIRS has, without making them: thumbs up times thumbs down for each message, less those of one text; and corrections that no such pair is already. */
#define COUNT_RATED \
    "SELECT coalesce(sum(pairs), 0) FROM (SELECT sum(up) * sum(down) - sum(up * down) AS pairs FROM (SELECT chat, parent, sum(rating = 1) AS up, sum(rating = -1) AS down" \
    " FROM message WHERE role = 'assistant' AND rating <> 0 AND content <> '' GROUP BY chat, parent, content) GROUP BY chat, parent)"
#define COUNT_CORRECTED \
    "SELECT count(*) FROM message AS good JOIN message AS bad ON bad.chat = good.chat AND bad.id = good.corrects WHERE good.role = 'assistant' AND bad.role = 'assistant'" \
    " AND good.parent IS bad.parent AND good.content <> bad.content AND good.content <> '' AND bad.content <> '' AND NOT (good.rating = 1 AND bad.rating = -1)"

nm_err nm_chats_counts(nm_chats *c, json_t **out)
{
    static const char *const names[] = {"chats", "liked", "corrections", "pairs", "votes"};
    sqlite3_stmt *st;
    bool row;
    NM_TRY(nm_sql(c, &st, "SELECT (SELECT count(*) FROM chat), (SELECT count(*) FROM message WHERE rating = 1 AND role = 'assistant'),"
        " (SELECT count(*) FROM message WHERE corrects IS NOT NULL), (" COUNT_RATED ") + (" COUNT_CORRECTED ") + (SELECT count(*) FROM vote WHERE choice IN ('a', 'b')),"
        " (SELECT count(*) FROM vote)", ""));
    NM_TRY(nm_sql_step(c, st, &row));
    json_t *object = json_object();
    nm_err err = object ? NM_OK : nm_fail_memory(0);
    for (int k = 0; k < 5 && err == NM_OK; k++) err = nm_sql_put(object, names[k], nm_sql_json(st, k));
    nm_sql_done(st);
    if (err == NM_OK) *out = object;
    else json_decref(object);
    return err;
}

/* A message belongs to as many lines as there are below it: an export is bounded by what it reads, not by what is kept. */
static nm_err count_read(nm_chats *c, const char *content)
{
    enum { ROW = 64 };
    c->read += ROW + strlen(content);
    return c->read <= c->read_most ? NM_OK : nm_fail(NM_USAGE, "the export is larger than %zu MiB: give one conversation at a time by \"chat\"", c->read_most >> 20);
}

static nm_err put_message(nm_str *out, bool first, const char *role, const char *content)
{
    NM_TRY(nm_str_puts(out, first ? "{\"role\": " : ", {\"role\": "));
    NM_TRY(nm_str_json(out, role, strlen(role)));
    NM_TRY(nm_str_puts(out, ", \"content\": "));
    NM_TRY(nm_str_json(out, content, strlen(content)));
    return nm_str_putc(out, '}');
}

/* The system prompt as the first message, if there is one. */
static nm_err put_system(nm_chats *c, int64_t chat, nm_str *out, bool *first)
{
    sqlite3_stmt *st;
    bool row;
    NM_TRY(nm_sql(c, &st, "SELECT system FROM chat WHERE n = ?1 AND trim(system) <> ''", "i", chat));
    NM_TRY(nm_sql_step(c, st, &row));
    nm_err err = row ? put_message(out, true, "system", nm_sql_text(st, 0)) : NM_OK;
    *first = !row;
    nm_sql_done(st);
    return err;
}

/* The messages from the first to `leaf`, in brackets. to_answer: it ends with the last answer that has text; *any tells whether there is one. */
static nm_err put_path(nm_chats *c, int64_t chat, const char *leaf, bool to_answer, nm_str *out, bool *any)
{
    sqlite3_stmt *st;
    bool first;
    nm_err err = NM_OK;
    *any = false;
    NM_TRY(nm_str_putc(out, '['));
    NM_TRY(put_system(c, chat, out, &first));
    size_t end = out->length;
    NM_TRY(nm_sql(c, &st, "WITH RECURSIVE up (parent, role, content, depth) AS (SELECT parent, role, content, 0 FROM message WHERE chat = ?1 AND id = ?2 UNION ALL"
        " SELECT message.parent, message.role, message.content, depth + 1 FROM message JOIN up ON message.id = up.parent WHERE message.chat = ?1 AND depth < ?3)"
        " SELECT role, content FROM up ORDER BY depth DESC", "isi", chat, leaf, (int64_t)PATH_LONGEST));
    for (bool row = true; err == NM_OK;) {
        NM_TRY(nm_sql_step(c, st, &row));
        if (!row) break;
        bool assistant = !strcmp(nm_sql_text(st, 0), "assistant"), answered = assistant && *nm_sql_text(st, 1);
        err = count_read(c, nm_sql_text(st, 1));
        if (err != NM_OK || (assistant && !answered)) continue;       /* it failed: there is nothing to learn */
        err = put_message(out, first, nm_sql_text(st, 0), nm_sql_text(st, 1));
        first = false;
        *any = *any || answered;
        if (answered || !to_answer) end = out->length;
    }
    nm_sql_done(st);
    if (err != NM_OK) return err;
    out->length = end;
    return nm_str_putc(out, ']');
}

/* {"messages": [...]}, or nothing where no answer is in it. */
static nm_err put_line(nm_chats *c, int64_t chat, const char *leaf, nm_str *out)
{
    bool any;
    size_t before = out->length;
    NM_TRY(nm_str_puts(out, "{\"messages\": "));
    NM_TRY(put_path(c, chat, leaf, true, out, &any));
    if (any) return nm_str_puts(out, "}\n");
    out->length = before;
    return NM_OK;
}

static nm_err put_answers(nm_str *out, const char *chosen, const char *rejected)
{
    NM_TRY(nm_str_puts(out, ", \"chosen\": ["));
    NM_TRY(put_message(out, true, "assistant", chosen));
    NM_TRY(nm_str_puts(out, "], \"rejected\": ["));
    NM_TRY(put_message(out, true, "assistant", rejected));
    return nm_str_puts(out, "]}\n");
}

/* Rows: chat, id. */
static nm_err line_row(nm_chats *c, sqlite3_stmt *st, nm_str *out) { return put_line(c, sqlite3_column_int64(st, 0), nm_sql_text(st, 1), out); }

/* Rows: chat, parent, good, bad. */
static nm_err pair_row(nm_chats *c, sqlite3_stmt *st, nm_str *out)
{
    bool any;
    NM_TRY(count_read(c, nm_sql_text(st, 2)));
    NM_TRY(count_read(c, nm_sql_text(st, 3)));
    NM_TRY(nm_str_puts(out, "{\"prompt\": "));
    NM_TRY(put_path(c, sqlite3_column_int64(st, 0), nm_sql_text(st, 1), false, out, &any));
    return put_answers(out, nm_sql_text(st, 2), nm_sql_text(st, 3));
}

/* Rows: messages, good, bad. */
static nm_err vote_pair_row(nm_chats *c, sqlite3_stmt *st, nm_str *out)
{
    (void)c;
    NM_TRY(nm_str_printf(out, "{\"prompt\": %s", nm_sql_text(st, 0)));
    return put_answers(out, nm_sql_text(st, 1), nm_sql_text(st, 2));
}

/* Rows: messages, a's model and content, b's, choice. */
static nm_err vote_row(nm_chats *c, sqlite3_stmt *st, nm_str *out)
{
    static const char *const before[] = {", \"a\": {\"model\": ", ", \"content\": ", "}, \"b\": {\"model\": ", ", \"content\": ", "}, \"choice\": "};
    (void)c;
    NM_TRY(nm_str_printf(out, "{\"messages\": %s", nm_sql_text(st, 0)));
    for (int k = 0; k < 5; k++) {
        NM_TRY(nm_str_puts(out, before[k]));
        NM_TRY(nm_str_json(out, nm_sql_text(st, k + 1), strlen(nm_sql_text(st, k + 1))));
    }
    return nm_str_puts(out, "}\n");
}

typedef nm_err (*put_row)(nm_chats *c, sqlite3_stmt *st, nm_str *out);
/* ?1 is the conversation's id or null; votes belong to none. */
static const struct { const char *what, *sql; put_row put; } exports[] = {
    {"chats", "SELECT n, leaf FROM chat WHERE leaf IS NOT NULL AND (?1 IS NULL OR id = ?1) ORDER BY n", line_row},
    {"liked", "SELECT message.chat, message.id FROM message JOIN chat ON chat.n = message.chat WHERE rating = 1 AND role = 'assistant' AND (?1 IS NULL OR chat.id = ?1)"
        " ORDER BY message.n", line_row},
    {"corrections", "SELECT message.chat, message.id FROM message JOIN chat ON chat.n = message.chat WHERE corrects IS NOT NULL AND (?1 IS NULL OR chat.id = ?1)"
        " ORDER BY message.n", line_row},
    {"pairs", "SELECT * FROM (" PAIRS ") WHERE ?1 IS NULL OR chat = (SELECT n FROM chat WHERE id = ?1)", pair_row},
    {"pairs", "SELECT messages, iif(choice = 'a', a_content, b_content), iif(choice = 'a', b_content, a_content) FROM vote WHERE choice IN ('a', 'b') AND a_content <> b_content"
        " AND a_content <> '' AND b_content <> '' AND ?1 IS NULL ORDER BY n", vote_pair_row},
    {"votes", "SELECT messages, a_model, a_content, b_model, b_content, choice FROM vote WHERE ?1 IS NULL ORDER BY n", vote_row},
};

static nm_err export_rows(nm_chats *c, const char *sql, put_row put, const char *chat, nm_str *out)
{
    sqlite3_stmt *st;
    NM_TRY(nm_sql(c, &st, sql, "s", chat));
    for (bool row = true;;) {
        NM_TRY(nm_sql_step(c, st, &row));
        if (!row) return NM_OK;
        nm_err err = put(c, st, out);
        if (err == NM_OK) continue;
        nm_sql_done(st);
        return err;
    }
}

nm_err nm_chats_export(nm_chats *c, const char *what, const char *chat, nm_str *out)
{
    bool known = false;
    c->read = 0;
    for (size_t i = 0; i < sizeof exports / sizeof *exports; i++) {
        if (strcmp(what, exports[i].what)) continue;
        known = true;
        NM_TRY(export_rows(c, exports[i].sql, exports[i].put, chat, out));
    }
    return known ? nm_str_append(out, "", 0) : nm_fail(NM_USAGE, "\"what\" must be chats, liked, corrections, pairs or votes");
}
