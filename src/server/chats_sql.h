/* Owns what the files of chats.h share: the database with its prepared statements, and how rows and errors of SQLite become ours. */
#ifndef NM_SERVER_CHATS_SQL_H
#define NM_SERVER_CHATS_SQL_H

#include <sqlite3.h>
#include <stdbool.h>

#include "server/chats.h"

enum { NM_STATEMENTS = 48 };
struct nm_chats {
    sqlite3 *db;
    char *path;
    bool indexed;       /* full-text search */
    struct { const char *sql; sqlite3_stmt *statement; } prepared[NM_STATEMENTS];
    size_t n_prepared;
    size_t read, read_most;     /* bytes of messages that an export has read, and may */
};

/* The statement of a text that lives as long as the program: prepared at its first use, and kept. Its values are bound by `types`, one letter for each:
 * s const char * (NULL is null), i int64_t. What is bound must live until the statement is done. */
nm_err nm_sql(nm_chats *c, sqlite3_stmt **out, const char *sql, const char *types, ...);
/* One row more; *row false at the end, at which, as after an error, the statement is done. */
nm_err nm_sql_step(nm_chats *c, sqlite3_stmt *statement, bool *row);
/* Ends a statement before its last row. */
void nm_sql_done(sqlite3_stmt *statement);
/* For statements without rows that are of interest: binds and runs. */
#define NM_SQL_RUN(c, sql, types, ...) do { \
        sqlite3_stmt *run_; \
        NM_TRY(nm_sql(c, &run_, sql, types, ##__VA_ARGS__)); \
        NM_TRY(nm_sql_run(c, run_)); \
    } while (0)
nm_err nm_sql_run(nm_chats *c, sqlite3_stmt *statement);
/* What went wrong last, as an error of ours. */
nm_err nm_sql_fail(nm_chats *c);

/* A column as JSON: null, number or string (text that is no UTF-8, which no call of ours stores, is U+FFFD). NULL without memory. */
json_t *nm_sql_json(sqlite3_stmt *statement, int column);
/* A column that holds JSON; null where it holds none. */
json_t *nm_sql_parsed(sqlite3_stmt *statement, int column);
const char *nm_sql_text(sqlite3_stmt *statement, int column);   /* "" for null; until the next step */
/* Takes the value over, and puts it into the object or at the end of the array (key NULL). NM_NO_MEMORY, also for a value that is NULL. */
nm_err nm_sql_put(json_t *into, const char *key, json_t *value);

#endif
