/* The database of the page: opening it, its schema, statements. */
#include "server/chats_sql.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "os/file.h"

enum { VERSION = 2, APPLICATION = 0x6e6d6f61 };     /* "nmoa" in the file's head */
enum { READ_MOST = 256 << 20 };

static const char schema[] =
    "CREATE TABLE chat (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, model TEXT NOT NULL, system TEXT NOT NULL, settings TEXT NOT NULL, leaf TEXT,"
    " created INTEGER NOT NULL, updated INTEGER NOT NULL) STRICT;"
    "CREATE INDEX chat_updated ON chat (updated);"
    "CREATE TABLE message (n INTEGER PRIMARY KEY, chat INTEGER NOT NULL REFERENCES chat (n) ON DELETE CASCADE, id TEXT NOT NULL, parent TEXT,"
    " role TEXT NOT NULL CHECK (role IN ('user', 'assistant')), content TEXT NOT NULL, reasoning TEXT, model TEXT, rating INTEGER NOT NULL CHECK (rating BETWEEN -1 AND 1),"
    " corrects TEXT, extra TEXT, created INTEGER NOT NULL, UNIQUE (chat, id)) STRICT;"
    "CREATE INDEX message_parent ON message (chat, parent);"
    "CREATE TABLE vote (n INTEGER PRIMARY KEY, messages TEXT NOT NULL, a_model TEXT NOT NULL, a_content TEXT NOT NULL, b_model TEXT NOT NULL, b_content TEXT NOT NULL,"
    " choice TEXT NOT NULL CHECK (choice IN ('a', 'b', 'both', 'neither')), created INTEGER NOT NULL) STRICT;"
    "PRAGMA application_id = 0x6e6d6f61; PRAGMA user_version = 2;";

/* Apart from the schema: SQLite may have been built without it, and a file made so gets it when it is opened by one that was not. */
static const char text_index[] =
    "CREATE VIRTUAL TABLE message_text USING fts5 (content, content = 'message', content_rowid = 'n', tokenize = 'unicode61 remove_diacritics 2');"
    "CREATE TRIGGER message_text_new AFTER INSERT ON message BEGIN INSERT INTO message_text (rowid, content) VALUES (new.n, new.content); END;"
    "CREATE TRIGGER message_text_old AFTER DELETE ON message BEGIN INSERT INTO message_text (message_text, rowid, content) VALUES ('delete', old.n, old.content); END;"
    "CREATE TRIGGER message_text_change AFTER UPDATE OF content ON message WHEN old.content IS NOT new.content BEGIN"
    " INSERT INTO message_text (message_text, rowid, content) VALUES ('delete', old.n, old.content);"
    " INSERT INTO message_text (rowid, content) VALUES (new.n, new.content); END;"
    "INSERT INTO message_text (message_text) VALUES ('rebuild');";

/* A disk that is full is SQLITE_FULL, but where the index in memory, which is a file to the system, was to be enlarged. */
static nm_err fail_io(nm_chats *c)
{
    nm_err err = nm_fail(NM_FAILED, "%s: %s", c->path, sqlite3_errmsg(c->db));
    return sqlite3_extended_errcode(c->db) == SQLITE_IOERR_SHMSIZE ? nm_fail_full(err) : err;
}

nm_err nm_sql_fail(nm_chats *c)
{
    switch (sqlite3_errcode(c->db)) {
    case SQLITE_NOMEM: return nm_fail_memory(0);
    case SQLITE_CORRUPT: case SQLITE_NOTADB:
        return nm_fail(NM_BAD_FILE, "%s, which keeps the conversations, is damaged: move it away (sqlite3 FILE .recover may save what it holds)", c->path);
    case SQLITE_FULL: return nm_fail_full(nm_fail(NM_FAILED, "%s: the disk is full", c->path));
    case SQLITE_IOERR: return fail_io(c);
    case SQLITE_BUSY: case SQLITE_LOCKED: return nm_fail(NM_FAILED, "%s: another program is writing in it; try again", c->path);
    default: return nm_fail(NM_FAILED, "%s: %s", c->path, sqlite3_errmsg(c->db));
    }
}

static nm_err run_text(nm_chats *c, const char *sql) { return sqlite3_exec(c->db, sql, NULL, NULL, NULL) == SQLITE_OK ? NM_OK : nm_sql_fail(c); }

static nm_err number_of(nm_chats *c, const char *sql, int64_t *out)
{
    sqlite3_stmt *st;
    bool row;
    NM_TRY(nm_sql(c, &st, sql, ""));
    NM_TRY(nm_sql_step(c, st, &row));
    *out = row ? sqlite3_column_int64(st, 0) : 0;
    nm_sql_done(st);
    return NM_OK;
}

static nm_err make_index(nm_chats *c)
{
    int64_t there;
    NM_TRY(number_of(c, "SELECT count(*) FROM sqlite_schema WHERE name = 'message_text'", &there));
    c->indexed = sqlite3_compileoption_used("ENABLE_FTS5");
    return c->indexed && !there ? run_text(c, text_index) : NM_OK;
}

static nm_err move_one(sqlite3_stmt *st, nm_chats_move move, void *arg)
{
    json_t *persona = json_object();
    nm_err err = nm_sql_put(persona, "model", nm_sql_json(st, 1));
    if (err == NM_OK) err = nm_sql_put(persona, "system", nm_sql_json(st, 2));
    if (err == NM_OK) err = nm_sql_put(persona, "settings", nm_sql_parsed(st, 3));
    if (err == NM_OK) err = move(arg, nm_sql_text(st, 0), persona);
    json_decref(persona);
    return err;
}

/* Version 1 kept the page's personas, which are the store's now. */
static nm_err move_personas(nm_chats *c, nm_chats_move move, void *arg)
{
    sqlite3_stmt *st;
    NM_TRY(nm_sql(c, &st, "SELECT name, model, system, settings FROM persona ORDER BY name", ""));
    for (bool row = true;;) {
        NM_TRY(nm_sql_step(c, st, &row));
        if (!row) break;
        nm_err err = move_one(st, move, arg);
        if (err == NM_OK) continue;
        nm_sql_done(st);
        return err;
    }
    return run_text(c, "DROP TABLE persona; PRAGMA user_version = 2;");
}

/* In one transaction: two servers may open a new file at the same time. */
static nm_err make_schema(nm_chats *c, nm_chats_move move, void *arg)
{
    int64_t version, tables, application;
    NM_TRY(number_of(c, "PRAGMA user_version", &version));
    NM_TRY(number_of(c, "PRAGMA application_id", &application));
    NM_TRY(number_of(c, "SELECT count(*) FROM sqlite_schema", &tables));
    if (version > VERSION) return nm_fail(NM_REFUSED, "%s was written by a newer nomoat: use that, or move the file away", c->path);
    if (tables && application != APPLICATION) return nm_fail(NM_REFUSED, "%s is a database of another program: move it away", c->path);
    if (!version) NM_TRY(run_text(c, schema));
    if (version == 1) NM_TRY(move_personas(c, move, arg));
    return make_index(c);
}

static nm_err prepare_file(nm_chats *c, nm_chats_move move, void *arg)
{
    sqlite3_busy_timeout(c->db, 2000);
    sqlite3_extended_result_codes(c->db, 0);
    sqlite3_db_config(c->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    NM_TRY(run_text(c, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; PRAGMA cell_size_check = ON;"));
    NM_TRY(run_text(c, "BEGIN IMMEDIATE"));
    nm_err err = make_schema(c, move, arg);
    if (err == NM_OK) err = run_text(c, "COMMIT");
    if (err != NM_OK) sqlite3_exec(c->db, "ROLLBACK", NULL, NULL, NULL);     /* the error line is the first error's */
    return err;
}

/* SQLite would make the file readable for all; what people say to a model is theirs. */
static nm_err make_file(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
    if (fd < 0) return nm_fail_system(NM_FAILED, errno, "%s", path);
    close(fd);
    return NM_OK;
}

static nm_err default_path(char **out)
{
    char *folder;
    nm_str path = {0};
    NM_TRY(nm_folder_open(NM_FOLDER_DATA, &folder));
    nm_err err = nm_str_printf(&path, "%s/chats.db", folder);
    nm_free(folder);
    if (err == NM_OK) *out = nm_str_take(&path, NULL);
    nm_str_free(&path);
    return err;
}

static nm_err open_file(nm_chats *c, const char *path, nm_chats_move move, void *arg)
{
    if (path) {
        c->path = nm_strndup(path, strlen(path));
        if (!c->path) return nm_fail_memory(strlen(path));
    } else {
        NM_TRY(default_path(&c->path));
    }
    NM_TRY(make_file(c->path));
    int rc = sqlite3_open_v2(c->path, &c->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (!c->db) return nm_fail_memory(0);
    return rc == SQLITE_OK ? prepare_file(c, move, arg) : nm_sql_fail(c);
}

nm_err nm_chats_open(nm_chats **out, const char *path, nm_chats_move move, void *arg)
{
    nm_chats *c = *out = nm_calloc(1, sizeof *c);
    if (!c) return nm_fail_memory(sizeof *c);
    c->read_most = READ_MOST;
    nm_err err = open_file(c, path, move, arg);
    if (err != NM_OK) nm_chats_close(out);
    return err;
}

void nm_chats_close(nm_chats **chats)
{
    nm_chats *c = *chats;
    if (!c) return;
    for (size_t i = 0; i < c->n_prepared; i++) sqlite3_finalize(c->prepared[i].statement);
    sqlite3_close(c->db);
    nm_free(c->path);
    nm_free(c);
    *chats = NULL;
}

static nm_err prepared(nm_chats *c, sqlite3_stmt **out, const char *sql)
{
    for (size_t i = 0; i < c->n_prepared; i++)
        if (c->prepared[i].sql == sql) {
            *out = c->prepared[i].statement;
            return NM_OK;
        }
    if (c->n_prepared == NM_STATEMENTS) return nm_fail(NM_FAILED, "more statements than NM_STATEMENTS");
    if (sqlite3_prepare_v3(c->db, sql, -1, SQLITE_PREPARE_PERSISTENT, out, NULL) != SQLITE_OK) return nm_sql_fail(c);
    c->prepared[c->n_prepared].sql = sql;
    c->prepared[c->n_prepared++].statement = *out;
    return NM_OK;
}

nm_err nm_sql(nm_chats *c, sqlite3_stmt **out, const char *sql, const char *types, ...)
{
    NM_TRY(prepared(c, out, sql));
    int rc = SQLITE_OK;
    va_list ap;
    va_start(ap, types);
    for (int i = 0; types[i] && rc == SQLITE_OK; i++)
        rc = types[i] == 'i' ? sqlite3_bind_int64(*out, i + 1, va_arg(ap, int64_t)) : sqlite3_bind_text(*out, i + 1, va_arg(ap, const char *), -1, SQLITE_STATIC);
    va_end(ap);
    return rc == SQLITE_OK ? NM_OK : nm_sql_fail(c);
}

void nm_sql_done(sqlite3_stmt *statement)
{
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
}

nm_err nm_sql_step(nm_chats *c, sqlite3_stmt *statement, bool *row)
{
    int rc = sqlite3_step(statement);
    *row = rc == SQLITE_ROW;
    if (*row) return NM_OK;
    nm_err err = rc == SQLITE_DONE ? NM_OK : nm_sql_fail(c);
    nm_sql_done(statement);
    return err;
}

nm_err nm_sql_run(nm_chats *c, sqlite3_stmt *statement)
{
    bool row = true;
    while (row) NM_TRY(nm_sql_step(c, statement, &row));
    return NM_OK;
}

const char *nm_sql_text(sqlite3_stmt *statement, int column)
{
    const char *text = (const char *)sqlite3_column_text(statement, column);
    return text ? text : "";
}

json_t *nm_sql_json(sqlite3_stmt *statement, int column)
{
    int type = sqlite3_column_type(statement, column);
    if (type == SQLITE_NULL) return json_null();
    if (type == SQLITE_INTEGER) return json_integer(sqlite3_column_int64(statement, column));
    json_t *text = json_string(nm_sql_text(statement, column));
    return text ? text : json_string("\xef\xbf\xbd");
}

json_t *nm_sql_parsed(sqlite3_stmt *statement, int column)
{
    json_t *value = json_loads(nm_sql_text(statement, column), JSON_REJECT_DUPLICATES, NULL);
    return value ? value : json_null();
}

nm_err nm_sql_put(json_t *into, const char *key, json_t *value)
{
    int rc = key ? json_object_set_new(into, key, value) : json_array_append_new(into, value);
    return rc ? nm_fail_memory(0) : NM_OK;
}

static int to_str(const char *bytes, size_t length, void *arg) { return nm_str_append(arg, bytes, length) == NM_OK ? 0 : -1; }

nm_err nm_chats_text(const json_t *json, nm_str *out)
{
    if (!json_dump_callback(json, to_str, out, JSON_COMPACT | JSON_ENCODE_ANY)) return NM_OK;
    nm_str_free(out);
    return nm_fail_memory(0);
}
