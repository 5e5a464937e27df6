/* What the page keeps: every call and every route's function, files that are damaged or not ours, a full disk, a process that is killed, failing memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include <jansson.h>
#include <sqlite3.h>

#include "base/err.h"
#include "base/mem.h"
#include "os/file.h"
#include "hub/personas.h"
#include "server/chats_sql.h"
#include "server/page_personas.h"
#include "server/server.h"

static char root[] = "/tmp/nomoat-test-XXXXXX";
static char file[64];

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(root) || chdir(root)) return -1;
    snprintf(file, sizeof file, "%s/chats.db", root);
    setenv("XDG_DATA_HOME", root, 1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return chdir("/") || system(command);
}

static int empty(void **state)
{
    (void)state;
    return system("rm -rf ./*");
}

static json_t *json(const char *text)
{
    json_error_t e;
    json_t *value = json_loads(text, 0, &e);
    if (!value) fail_msg("%s in %s", e.text, text);
    return value;
}

static nm_chats *opened(void)
{
    nm_chats *c;
    if (nm_chats_open(&c, file, NULL, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    return c;
}

static nm_err put(nm_chats *c, const char *id, const char *text)
{
    json_t *chat = json(text);
    nm_err err = nm_chats_put(c, id, chat);
    json_decref(chat);
    return err;
}

#define A_CHAT \
    "{\"title\": \"The Moon\", \"model\": \"base+a=0.5\", \"system\": \"Be brief.\", \"settings\": {\"top_p\": 0.5}, \"created\": 5, \"updated\": 9, \"leaf\": \"a2\", \"messages\": [" \
    "{\"id\": \"u1\", \"parent\": null, \"role\": \"user\", \"content\": \"How far is the caf\xc3\xa9?\", \"created\": 1}," \
    "{\"id\": \"a1\", \"parent\": \"u1\", \"role\": \"assistant\", \"content\": \"Miles \\\"away\\\"\", \"rating\": -1, \"model\": \"base\", \"extra\": {\"seconds\": 1.5}, \"created\": 2}," \
    "{\"id\": \"a2\", \"parent\": \"u1\", \"role\": \"assistant\", \"content\": \"Two miles\", \"rating\": 1, \"corrects\": \"a1\", \"reasoning\": \"hm\", \"created\": 3}]}"

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

static void goes_in_and_out(void **state)
{
    (void)state;
    nm_chats *c = opened();
    assert_int_equal(put(c, "one", A_CHAT), NM_OK);
    nm_chats_close(&c);
    c = opened();
    json_t *chat;
    assert_int_equal(nm_chats_get(c, "one", &chat), NM_OK);
    assert_string_equal(text_of(chat, "title"), "The Moon");
    assert_string_equal(text_of(chat, "leaf"), "a2");
    assert_true(json_real_value(json_object_get(json_object_get(chat, "settings"), "top_p")) == 0.5);
    json_t *messages = json_object_get(chat, "messages"), *last = json_array_get(messages, 2);
    assert_int_equal(json_array_size(messages), 3);
    assert_string_equal(text_of(last, "corrects"), "a1");
    assert_string_equal(text_of(last, "reasoning"), "hm");
    assert_int_equal(json_integer_value(json_object_get(last, "rating")), 1);
    assert_true(json_is_null(json_object_get(json_array_get(messages, 0), "parent")));
    assert_true(json_real_value(json_object_get(json_object_get(json_array_get(messages, 1), "extra"), "seconds")) == 1.5);
    json_decref(chat);
    nm_chats_close(&c);
    struct stat st;
    assert_int_equal(stat(file, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

/* Messages that are not given stay; a message's place in the tree does not change. */
static void is_merged(void **state)
{
    (void)state;
    nm_chats *c = opened();
    json_t *chat;
    assert_int_equal(put(c, "one", A_CHAT), NM_OK);
    assert_int_equal(put(c, "one", "{\"title\": \"New\", \"leaf\": \"u2\", \"messages\": [{\"id\": \"a2\", \"parent\": \"a1\", \"role\": \"assistant\", \"content\": \"Three\", \"rating\": 0},"
        "{\"id\": \"u2\", \"parent\": \"a2\", \"role\": \"user\", \"content\": \"Sure?\"}]}"), NM_OK);
    assert_int_equal(nm_chats_get(c, "one", &chat), NM_OK);
    json_t *messages = json_object_get(chat, "messages");
    assert_int_equal(json_array_size(messages), 4);
    assert_string_equal(text_of(json_array_get(messages, 2), "content"), "Three");
    assert_string_equal(text_of(json_array_get(messages, 2), "parent"), "u1");
    assert_string_equal(text_of(chat, "title"), "New");
    json_decref(chat);
    /* The same ids in another conversation are other messages. */
    assert_int_equal(put(c, "two", A_CHAT), NM_OK);
    assert_int_equal(nm_chats_delete(c, "one"), NM_OK);
    assert_int_equal(nm_chats_get(c, "one", &chat), NM_NOT_FOUND);
    assert_int_equal(nm_chats_delete(c, "one"), NM_NOT_FOUND);
    assert_int_equal(nm_chats_get(c, "two", &chat), NM_OK);
    assert_int_equal(json_array_size(json_object_get(chat, "messages")), 3);
    json_decref(chat);
    nm_chats_close(&c);
}

static size_t found(nm_chats *c, const char *search, const char *id, const char *snippet)
{
    json_t *list;
    if (nm_chats_list(c, search, &list) != NM_OK) fail_msg("%s: %s", search, nm_error_text());
    json_t *chats = json_object_get(list, "chats");
    size_t n = json_array_size(chats);
    if (id) assert_string_equal(text_of(json_array_get(chats, 0), "id"), id);
    if (snippet) assert_non_null(strstr(text_of(json_array_get(chats, 0), "snippet"), snippet));
    json_decref(list);
    return n;
}

static void is_found(void **state)
{
    (void)state;
    nm_chats *c = opened();
    assert_int_equal(put(c, "one", A_CHAT), NM_OK);
    assert_int_equal(put(c, "two", "{\"title\": \"100% wool\", \"updated\": 10, \"messages\": [{\"id\": \"u\", \"role\": \"user\", \"content\": \"SELECT * FROM sheep_x; it is 5+5\"}]}"), NM_OK);
    assert_int_equal(found(c, NULL, "two", NULL), 2);
    assert_int_equal(found(c, "mile", "one", "\x01"), 1);      /* a word's beginning */
    assert_int_equal(found(c, "far cafe", "one", "caf\xc3\xa9"), 1);     /* words in any order, accents aside */
    assert_int_equal(found(c, "MOON", "one", NULL), 1);         /* a title */
    assert_int_equal(found(c, "0% w", "two", NULL), 1);
    assert_int_equal(found(c, "eep_", "two", "sheep_x"), 1);    /* a part of a word: by reading all */
    assert_int_equal(found(c, "5+5", "two", NULL), 1);
    static const char *const nothing[] = {"zebra", "mile\" OR \"sheep", "NEAR(mile sheep)", "*", "\"", "'; DROP TABLE chat; --", "content:", "^", "{content}: a", "AND", "\xff\xfe", "%%", "a_b"};
    for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++)
        if (strcmp(nothing[i], "*") && strcmp(nothing[i], "\"")) assert_int_equal(found(c, nothing[i], NULL, NULL), 0);
        else assert_int_equal(found(c, nothing[i], NULL, NULL), 1);     /* they stand in a text */
    char *longest = calloc(1, 1002);
    memset(longest, 'a', 1001);
    json_t *list;
    assert_int_equal(nm_chats_list(c, longest, &list), NM_USAGE);
    assert_int_equal(found(c, longest + 1, NULL, NULL), 0);
    free(longest);
    assert_int_equal(nm_chats_delete(c, "one"), NM_OK);
    assert_int_equal(found(c, "mile", NULL, NULL), 0);
    nm_chats_close(&c);
}

static void wrong_forms(void **state)
{
    (void)state;
    nm_chats *c = opened();
    static const char *const bad[] = {
        "{\"title\": 5}", "{\"settings\": []}", "{\"messages\": {}}", "{\"messages\": [5]}", "{\"messages\": [{}]}", "{\"messages\": [{\"id\": \"a b\", \"role\": \"user\"}]}",
        "{\"messages\": [{\"id\": \"a\", \"role\": \"system\"}]}", "{\"messages\": [{\"id\": \"a\", \"role\": \"user\", \"rating\": 2}]}",
        "{\"messages\": [{\"id\": \"a\", \"role\": \"user\", \"parent\": \"a\"}]}", "{\"messages\": [{\"id\": \"a\", \"role\": \"user\", \"parent\": \"u9\"}]}",
        "{\"messages\": [{\"id\": \"a\", \"role\": \"user\", \"corrects\": \"u9\"}]}", "{\"leaf\": \"u9\"}", "{\"created\": -1}", "{\"created\": 1e300}",
        "{\"messages\": [{\"id\": \"a\", \"role\": \"user\", \"content\": \"well\"}, {\"id\": \"b\", \"role\": \"user\", \"content\": 5}]}"};
    json_t *out;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (put(c, "one", bad[i]) != NM_USAGE) fail_msg("taken: %s", bad[i]);
    assert_int_equal(nm_chats_get(c, "one", &out), NM_NOT_FOUND);      /* nothing of them is stored */
    assert_int_equal(put(c, "", "{}"), NM_USAGE);
    assert_int_equal(put(c, "../x", "{}"), NM_USAGE);
    assert_int_equal(put(c, "a-very-long-name-that-goes-on-and-on-for-more-than-64-characters-", "{}"), NM_USAGE);
    assert_int_equal(put(c, "one", A_CHAT), NM_OK);
    assert_int_equal(put(c, "two", "{\"leaf\": \"u1\"}"), NM_USAGE);   /* of another conversation */
    nm_str lines = {0};
    assert_int_equal(nm_chats_export(c, "everything", NULL, &lines), NM_USAGE);
    nm_str_free(&lines);
    nm_chats_close(&c);
}

static nm_err vote(nm_chats *c, const char *text)
{
    json_t *object = json(text);
    nm_err err = nm_chats_vote(c, object);
    json_decref(object);
    return err;
}

#define VOTE(a, b, choice) "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"a\": {\"model\": \"" a "\", \"content\": \"from a\"}, \"b\": {\"model\": \"" b "\", \"content\": \"from b\"}, " \
    "\"choice\": \"" choice "\"}"

static void votes(void **state)
{
    (void)state;
    nm_chats *c = opened();
    json_t *out;
    assert_int_equal(vote(c, VOTE("x", "y", "a")), NM_OK);
    assert_int_equal(vote(c, VOTE("y", "x", "a")), NM_OK);
    assert_int_equal(vote(c, VOTE("y", "x", "b")), NM_OK);
    assert_int_equal(vote(c, VOTE("y", "x", "both")), NM_OK);
    assert_int_equal(vote(c, VOTE("y", "x", "c")), NM_USAGE);
    assert_int_equal(vote(c, "{\"messages\": [], \"choice\": \"a\"}"), NM_USAGE);
    assert_int_equal(vote(c, "{\"messages\": [{\"role\": \"user\", \"content\": [] }], \"choice\": \"a\"}"), NM_USAGE);
    assert_int_equal(vote(c, "{\"messages\": [{\"role\": \"user\", \"content\": \"\" }], \"choice\": \"a\", \"a\": {\"model\": \"m\"}}"), NM_USAGE);
    assert_int_equal(nm_chats_tally(c, &out), NM_OK);
    json_t *row = json_array_get(json_object_get(out, "tally"), 0);
    assert_int_equal(json_array_size(json_object_get(out, "tally")), 1);
    assert_string_equal(text_of(row, "a"), "x");
    assert_int_equal(json_integer_value(json_object_get(row, "a_wins")), 2);
    assert_int_equal(json_integer_value(json_object_get(row, "b_wins")), 1);
    assert_int_equal(json_integer_value(json_object_get(row, "equal")), 1);
    json_decref(out);
    nm_chats_close(&c);
}

static void assert_export(nm_chats *c, const char *what, const char *chat, const char *expected)
{
    nm_str lines = {0};
    assert_int_equal(nm_chats_export(c, what, chat, &lines), NM_OK);
    assert_string_equal(lines.data, expected);
    nm_str_free(&lines);
}

#define SYSTEM "{\"role\": \"system\", \"content\": \"Be brief.\"}, "
#define ASKED SYSTEM "{\"role\": \"user\", \"content\": \"How far is the caf\xc3\xa9?\"}"
#define GOOD "{\"role\": \"assistant\", \"content\": \"Two miles\"}"
#define BAD "{\"role\": \"assistant\", \"content\": \"Miles \\\"away\\\"\"}"

static void exports(void **state)
{
    (void)state;
    nm_chats *c = opened();
    assert_int_equal(put(c, "one", A_CHAT), NM_OK);
    assert_int_equal(put(c, "two", "{\"leaf\": \"u\", \"messages\": [{\"id\": \"u\", \"role\": \"user\", \"content\": \"No answer yet\"}]}"), NM_OK);
    assert_int_equal(vote(c, VOTE("x", "y", "b")), NM_OK);
    assert_int_equal(vote(c, VOTE("x", "y", "neither")), NM_OK);
    assert_export(c, "chats", NULL, "{\"messages\": [" ASKED ", " GOOD "]}\n");
    assert_export(c, "liked", NULL, "{\"messages\": [" ASKED ", " GOOD "]}\n");
    assert_export(c, "corrections", "one", "{\"messages\": [" ASKED ", " GOOD "]}\n");
    assert_export(c, "chats", "two", "");
    assert_export(c, "chats", "three", "");
    assert_export(c, "pairs", "one", "{\"prompt\": [" ASKED "], \"chosen\": [" GOOD "], \"rejected\": [" BAD "]}\n");
    assert_export(c, "pairs", NULL, "{\"prompt\": [" ASKED "], \"chosen\": [" GOOD "], \"rejected\": [" BAD "]}\n"
        "{\"prompt\": [{\"role\":\"user\",\"content\":\"Hi\"}], \"chosen\": [{\"role\": \"assistant\", \"content\": \"from b\"}], \"rejected\": [{\"role\": \"assistant\", \"content\": \"from a\"}]}\n");
    /* A question behind the last answer is no training data. */
    assert_int_equal(put(c, "one", "{\"system\": \"Be brief.\", \"leaf\": \"u2\", \"messages\": [{\"id\": \"u2\", \"parent\": \"a2\", \"role\": \"user\", \"content\": \"And back?\"}]}"), NM_OK);
    assert_export(c, "chats", "one", "{\"messages\": [" ASKED ", " GOOD "]}\n");
    nm_str lines = {0};
    assert_int_equal(nm_chats_export(c, "votes", NULL, &lines), NM_OK);
    json_t *first = json_loadb(lines.data, lines.length, JSON_DISABLE_EOF_CHECK, NULL), *counts;
    assert_string_equal(text_of(first, "choice"), "b");
    assert_string_equal(text_of(json_object_get(first, "b"), "content"), "from b");
    json_decref(first);
    nm_str_free(&lines);
    assert_int_equal(nm_chats_counts(c, &counts), NM_OK);
    static const struct { const char *name; int n; } expected[] = {{"chats", 2}, {"liked", 1}, {"corrections", 1}, {"pairs", 2}, {"votes", 2}};
    for (size_t i = 0; i < 5; i++) assert_int_equal(json_integer_value(json_object_get(counts, expected[i].name)), expected[i].n);
    json_decref(counts);
    nm_chats_close(&c);
}

/* A conversation of n answers: below one another, or beside each other with thumbs up and down. */
static nm_err put_many(nm_chats *c, int n, bool beside)
{
    nm_str s = {0};
    assert_int_equal(nm_str_puts(&s, "{\"messages\": ["), NM_OK);
    for (int i = 0; i < n; i++) {
        assert_int_equal(nm_str_printf(&s, "%s{\"id\": \"a%d\", \"role\": \"assistant\", \"content\": \"%d\", \"rating\": %d", i ? ", " : "", i, i, beside && i % 2 ? -1 : 1), NM_OK);
        if (i && !beside) assert_int_equal(nm_str_printf(&s, ", \"parent\": \"a%d\"", i - 1), NM_OK);
        assert_int_equal(nm_str_putc(&s, '}'), NM_OK);
    }
    assert_int_equal(nm_str_puts(&s, "]}"), NM_OK);
    nm_err err = put(c, beside ? "beside" : "below", s.data);
    nm_str_free(&s);
    return err;
}

static int64_t count_of(nm_chats *c, const char *name)
{
    json_t *counts;
    assert_int_equal(nm_chats_counts(c, &counts), NM_OK);
    int64_t n = json_integer_value(json_object_get(counts, name));
    json_decref(counts);
    return n;
}

#define ANSWER(id, content, more) "{\"id\": \"" id "\", \"role\": \"assistant\", \"content\": \"" content "\"" more "}"

/* The count of pairs is made another way than they are. */
static void pairs_are_counted(void **state)
{
    (void)state;
    nm_chats *c = opened();
    nm_str lines = {0};
    assert_int_equal(put(c, "one", "{\"messages\": [" ANSWER("a", "x", ", \"rating\": -1") ", " ANSWER("b", "y", ", \"rating\": 1") ", " ANSWER("c", "x", ", \"rating\": 1") ", "
        ANSWER("d", "z", ", \"rating\": -1") ", " ANSWER("e", "y", ", \"rating\": -1") ", " ANSWER("f", "", ", \"rating\": -1") ", " ANSWER("g", "w", ", \"corrects\": \"a\"") ", "
        ANSWER("h", "v", ", \"corrects\": \"a\", \"rating\": 1") ", " ANSWER("i", "x", ", \"corrects\": \"c\"") ", " ANSWER("j", "u", ", \"parent\": \"a\", \"rating\": -1") "]}"), NM_OK);
    assert_int_equal(nm_chats_export(c, "pairs", NULL, &lines), NM_OK);
    int n = 0;
    for (size_t i = 0; i < lines.length; i++) n += lines.data[i] == '\n';
    assert_int_equal(n, 8);
    assert_int_equal(count_of(c, "pairs"), n);
    nm_str_free(&lines);
    nm_chats_close(&c);
}

/* What is exported may be a square of what is kept: a request's memory and time are bounded all the same. */
static void squares_are_bounded(void **state)
{
    (void)state;
    nm_chats *c = opened();
    nm_str lines = {0};
    assert_int_equal(put_many(c, 1001, true), NM_USAGE);
    assert_non_null(strstr(nm_error_text(), "at most 1000"));
    assert_int_equal(put_many(c, 1000, true), NM_OK);
    assert_int_equal(put_many(c, 1000, true), NM_OK);
    assert_int_equal(put_many(c, 1500, false), NM_OK);
    assert_int_equal(count_of(c, "pairs"), 500 * 500);
    assert_int_equal(nm_chats_export(c, "liked", NULL, &lines), NM_OK);
    nm_str_free(&lines);
    c->read_most = 1 << 20;
    static const char *const squares[] = {"liked", "pairs"};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(nm_chats_export(c, squares[i], NULL, &lines), NM_USAGE);
        assert_non_null(strstr(nm_error_text(), "larger than 1 MiB"));
        assert_true(lines.length < 2 << 20);
        nm_str_free(&lines);
    }
    assert_int_equal(nm_chats_export(c, "chats", NULL, &lines), NM_OK);
    nm_str_free(&lines);
    nm_chats_close(&c);
}

/* ---- files ---- */

static void write_file(const void *bytes, size_t size)
{
    FILE *f = fopen(file, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    fclose(f);
}

static void run_sql(const char *sql)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(file, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void files_not_ours(void **state)
{
    (void)state;
    nm_chats *c;
    char noise[5000];
    memset(noise, 'x', sizeof noise);
    write_file(noise, sizeof noise);
    assert_int_equal(nm_chats_open(&c, file, NULL, NULL), NM_BAD_FILE);
    assert_null(c);
    remove(file);
    run_sql("CREATE TABLE recipe (x)");
    assert_int_equal(nm_chats_open(&c, file, NULL, NULL), NM_REFUSED);
    remove(file);
    c = opened();
    nm_chats_close(&c);
    run_sql("PRAGMA user_version = 3");
    assert_int_equal(nm_chats_open(&c, file, NULL, NULL), NM_REFUSED);
    assert_non_null(strstr(nm_error_text(), "newer"));
    assert_int_equal(nm_chats_open(&c, root, NULL, NULL), NM_FAILED);
    assert_int_equal(nm_chats_open(&c, "/nonexistent/chats.db", NULL, NULL), NM_FAILED);
    assert_int_equal(nm_chats_open(&c, NULL, NULL, NULL), NM_OK);      /* in the user's folder */
    nm_chats_close(&c);
    assert_int_equal(access("nomoat/chats.db", F_OK), 0);
}

static void use_all(nm_chats *c)
{
    json_t *out;
    nm_str lines = {0};
    if (nm_chats_list(c, NULL, &out) == NM_OK) json_decref(out);
    if (nm_chats_list(c, "mile", &out) == NM_OK) json_decref(out);
    if (nm_chats_get(c, "one", &out) == NM_OK) json_decref(out);
    if (nm_chats_counts(c, &out) == NM_OK) json_decref(out);
    if (nm_chats_export(c, "pairs", NULL, &lines) == NM_OK) assert_non_null(lines.data);
    nm_str_free(&lines);
    put(c, "new", A_CHAT);
}

/* Whatever bytes turn, calls end with an error or a result. */
static void damage(void **state)
{
    (void)state;
    nm_chats *c = opened();
    char *bytes;
    size_t size;
    assert_int_equal(put(c, "one", A_CHAT), NM_OK);
    nm_chats_close(&c);
    assert_int_equal(nm_file_read(file, 1 << 24, &bytes, &size), NM_OK);
    for (size_t at = 0; at < size; at += at < 200 ? 3 : 487) {
        char was = bytes[at];
        bytes[at] ^= 0x55;
        assert_int_equal(system("rm -f chats.db-wal chats.db-shm"), 0);
        write_file(bytes, size);
        bytes[at] = was;
        if (nm_chats_open(&c, file, NULL, NULL) == NM_OK) use_all(c);
        nm_chats_close(&c);
    }
    for (size_t cut = 0; cut < size; cut += 1500) {
        assert_int_equal(system("rm -f chats.db-wal chats.db-shm"), 0);
        write_file(bytes, cut);
        if (nm_chats_open(&c, file, NULL, NULL) == NM_OK) use_all(c);
        nm_chats_close(&c);
    }
    nm_free(bytes);
}

static void full_disk(void **state)
{
    (void)state;
    nm_chats *c = opened();
    json_t *out;
    assert_int_equal(put(c, "one", A_CHAT), NM_OK);
    char *big = malloc(3000000);
    assert_non_null(big);
    int head = sprintf(big, "{\"messages\": [{\"id\": \"u\", \"role\": \"user\", \"content\": \"");
    memset(big + head, 'a', 2500000);
    strcpy(big + head + 2500000, "\"}]}");
    struct rlimit before, small;
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 400000;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    nm_err err = put(c, "big", big);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(err, NM_FAILED);
    assert_int_equal(nm_chats_get(c, "big", &out), NM_NOT_FOUND);
    assert_int_equal(nm_chats_get(c, "one", &out), NM_OK);
    json_decref(out);
    assert_int_equal(put(c, "big", big), NM_OK);    /* there is room again */
    assert_int_equal(sqlite3_exec(c->db, "PRAGMA max_page_count = 1", NULL, NULL, NULL), SQLITE_OK);      /* raised to as many as there are */
    assert_int_equal(put(c, "more", big), NM_FAILED);
    assert_true(nm_error_is_full());
    free(big);
    nm_chats_close(&c);
}

static void survives_a_kill(void **state)
{
    (void)state;
    int ends[2];
    char byte;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        nm_chats *c;
        json_t *chat = json_loads(A_CHAT, 0, NULL);
        if (nm_chats_open(&c, file, NULL, NULL) == NM_OK && nm_chats_put(c, "one", chat) == NM_OK && write(ends[1], "x", 1) == 1) pause();
        _exit(1);
    }
    assert_int_equal(read(ends[0], &byte, 1), 1);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(ends[0]);
    close(ends[1]);
    nm_chats *c = opened();
    json_t *out;
    assert_int_equal(nm_chats_get(c, "one", &out), NM_OK);
    assert_int_equal(json_array_size(json_object_get(out, "messages")), 3);
    json_decref(out);
    nm_chats_close(&c);
}

/* ---- memory: SQLite's and jansson's allocations fail in turn with ours ---- */

static int64_t allowed = -1;       /* allocations until they fail; -1: never */
static sqlite3_mem_methods usual;

static bool refused(void)
{
    if (allowed < 0) return false;
    if (!allowed) return true;
    allowed--;
    return false;
}
static void *sql_malloc(int n) { return refused() ? NULL : usual.xMalloc(n); }
static void *sql_realloc(void *p, int n) { return refused() ? NULL : usual.xRealloc(p, n); }
static void *plain_malloc(size_t n) { return refused() ? NULL : malloc(n); }

static int count_allocations(void)
{
    if (sqlite3_config(SQLITE_CONFIG_GETMALLOC, &usual) != SQLITE_OK) return -1;
    sqlite3_mem_methods own = usual;
    own.xMalloc = sql_malloc;
    own.xRealloc = sql_realloc;
    json_set_alloc_funcs(plain_malloc, free);
    return sqlite3_config(SQLITE_CONFIG_MALLOC, &own) == SQLITE_OK ? 0 : -1;
}

static nm_err work_once(const json_t *chat, const json_t *a_vote)
{
    nm_chats *c;
    json_t *out = NULL;
    nm_str lines = {0};
    nm_err err = nm_chats_open(&c, file, NULL, NULL);
    if (err == NM_OK) err = nm_chats_put(c, "two", chat);
    if (err == NM_OK) err = nm_chats_get(c, "two", &out);
    if (err == NM_OK) { json_decref(out); err = nm_chats_list(c, "mile", &out); }
    if (err == NM_OK) { json_decref(out); err = nm_chats_vote(c, a_vote); }
    if (err == NM_OK) err = nm_chats_tally(c, &out);
    if (err == NM_OK) { json_decref(out); err = nm_chats_export(c, "pairs", NULL, &lines); }
    nm_str_free(&lines);
    nm_chats_close(&c);
    return err;
}

static void memory_fails(void **state)
{
    (void)state;
    json_t *chat = json(A_CHAT), *a_vote = json(VOTE("x", "y", "a"));
    nm_err err = NM_NO_MEMORY;
    int64_t alive = nm_mem_alive(), n = 0;
    for (; err != NM_OK && n < 100000; n += n < 400 ? 1 : 37) {
        allowed = n;
        err = work_once(chat, a_vote);
        allowed = -1;
        if (err != NM_OK && err != NM_NO_MEMORY && err != NM_FAILED) fail_msg("after %d allocations: %d, %s", (int)n, err, nm_error_text());
        assert_int_equal(nm_mem_alive(), alive);
    }
    assert_int_equal(err, NM_OK);
    for (err = NM_NO_MEMORY, n = 0; err != NM_OK && n < 1000; n++) {
        nm_mem_fail_after(n);
        err = work_once(chat, a_vote);
        nm_mem_fail_after(-1);
        assert_true(err == NM_OK || err == NM_NO_MEMORY);
        assert_int_equal(nm_mem_alive(), alive);
    }
    assert_int_equal(err, NM_OK);
    json_decref(chat);
    json_decref(a_vote);
}

/* ---- personas: the store's, in the page's words ---- */

json_t *nm_engine_models(nm_engine *engine)
{
    (void)engine;
    char model[96], adapter[96];
    snprintf(model, sizeof model, "%s/here.gguf", root);
    snprintf(adapter, sizeof adapter, "%s/nomoat/adapters/style", root);
    json_t *list = json_pack("[{s:s, s:s, s:s, s:b}, {s:s, s:s, s:s}]", "name", "here", "kind", "model", "path", model, "default", 1, "name", "style", "kind", "adapter", "path", adapter);
    nm_persona **personas;
    size_t count;
    assert_int_equal(nm_persona_list(&personas, &count, NULL), NM_OK);
    for (size_t i = 0; i < count; i++) json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "name", personas[i]->name, "kind", "persona", "path", personas[i]->path));
    nm_persona_list_free(personas, count);
    return list;
}

static int stored(void **state)
{
    return empty(state) || system("mkdir -p nomoat/adapters/style && touch here.gguf nomoat/adapters/style/adapter_config.json nomoat/adapters/style/adapter_model.safetensors");
}

static nm_err put_persona(const char *name, const char *text)
{
    json_t *persona = json(text);
    nm_err err = nm_page_persona_put(NULL, name, persona);
    json_decref(persona);
    return err;
}

/* The file of that name; ROOT stands for the folder. */
static void assert_file(const char *name, const char *expected)
{
    nm_persona *p;
    nm_str s = {0};
    for (const char *at = expected; *at; at++) {
        bool is_root = !strncmp(at, "ROOT", 4);
        assert_int_equal(is_root ? nm_str_puts(&s, root) : nm_str_putc(&s, *at), NM_OK);
        if (is_root) at += 3;
    }
    assert_int_equal(nm_persona_find(&p, name), NM_OK);
    if (!p) fail_msg("no %s", name);
    assert_string_equal(p->text, s.data);
    nm_persona_free(p);
    nm_str_free(&s);
}

static void assert_persona(size_t at, const char *expected)
{
    json_t *out, *wanted = json(expected);
    assert_int_equal(nm_page_personas(NULL, &out), NM_OK);
    json_t *got = json_array_get(json_object_get(out, "personas"), at);
    if (!json_equal(got, wanted)) fail_msg("%s", json_dumps(got, 0));
    json_decref(out);
    json_decref(wanted);
}

static void personas_are_the_stores(void **state)
{
    (void)state;
    static const char poet[] = "{\"model\": \"here+style=0.5\", \"system\": \"Rhyme.\\nAlways.\", \"settings\": {\"seed\": 1, \"temperature\": 0.5, \"max_tokens\": 9, \"think\": false}}";
    assert_int_equal(put_persona("Poet", poet), NM_OK);
    assert_file("Poet", "FROM ROOT/here.gguf\nADAPTER style=0.5\nPARAMETER temperature 0.5\nPARAMETER num_predict 9\nPARAMETER seed 1\nPARAMETER think false\nSYSTEM \"\"\"Rhyme.\nAlways.\"\"\"\n");
    assert_persona(0, "{\"name\": \"Poet\", \"model\": \"here+style=0.5\", \"system\": \"Rhyme.\\nAlways.\", \"settings\": {\"seed\": 1, \"temperature\": 0.5, \"max_tokens\": 9, \"think\": false}}");
    assert_int_equal(put_persona("poet", "{\"settings\": {\"probabilities\": true}}"), NM_OK);        /* the whole of it, on the default */
    assert_file("Poet", "FROM ROOT/here.gguf\n");
    assert_int_equal(put_persona("there", "{\"model\": \"there\"}"), NM_USAGE);
    assert_int_equal(put_persona("Here:latest", "{}"), NM_REFUSED);     /* served under that name, and not the store's */
    assert_non_null(strstr(nm_error_text(), "a model of that name"));
    assert_int_equal(put_persona("x", "{\"model\": \"here+none\"}"), NM_USAGE);
    assert_int_equal(put_persona("x", "{\"model\": \"here+style=much\"}"), NM_USAGE);
    assert_int_equal(put_persona("x", "{\"settings\": {\"top_p\": 2}}"), NM_USAGE);
    assert_int_equal(put_persona("style", "{}"), NM_REFUSED);
}

#define KEPT "# Mine.\nTEMPLATE {{ messages }}\nLICENSE \"\"\"\nfree\n\"\"\"\nPARAMETER num_thread 4\nMESSAGE user Hi\n"

static void what_the_page_has_no_word_for_stays(void **state)
{
    (void)state;
    static const char text[] = "from here.gguf\n" KEPT "SYSTEM Old.\nPARAMETER stop END\nPARAMETER top_k 4\n";
    assert_int_equal(nm_persona_save("full", text, strlen(text), false, NULL), NM_OK);
    assert_persona(0, "{\"name\": \"full\", \"model\": \"full\", \"system\": \"Old.\", \"settings\": {\"top_k\": 4}}");
    assert_int_equal(put_persona("full", "{\"model\": \"full\", \"system\": \"New.\", \"settings\": {\"top_p\": 0.5}}"), NM_OK);
    assert_file("full", "FROM here.gguf\nPARAMETER top_p 0.5\nPARAMETER stop END\nSYSTEM New.\n" KEPT);
    assert_int_equal(put_persona("more", "{\"model\": \"full+style\", \"settings\": {\"seed\": 3}}"), NM_OK);      /* from another one */
    assert_file("more", "FROM here.gguf\nADAPTER style\nPARAMETER top_p 0.5\nPARAMETER seed 3\nPARAMETER stop END\nSYSTEM New.\n" KEPT);
    assert_int_equal(put_persona("full", "{\"model\": \"here+style\"}"), NM_OK);
    assert_file("full", "FROM ROOT/here.gguf\nADAPTER style\nPARAMETER stop END\n" KEPT);
}

static const char old_table[] =
    "DROP TABLE IF EXISTS persona; CREATE TABLE persona (name TEXT PRIMARY KEY, model TEXT NOT NULL, system TEXT NOT NULL, settings TEXT NOT NULL) STRICT; PRAGMA user_version = 1;"
    "INSERT INTO persona VALUES ('Poet ''; --', 'here+style=0.5', 'Rhyme.', '{\"seed\": 1, \"heat\": 2, \"top_p\": 7}'), ('poet', '', 'a \"\"\"\nb', '{}'), ('\xe8\xa9\xa9', '../../etc/passwd', '', '{}'),"
    " ('taken', 'here', 'Mine.', '{}'), ('here', 'here', 'Like it.', '{}')";

static int64_t one_number(const char *sql)
{
    sqlite3 *db;
    sqlite3_stmt *st;
    assert_int_equal(sqlite3_open(file, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    int64_t n = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    sqlite3_close(db);
    return n;
}

static void make_old(void)
{
    sqlite3 *db;
    nm_chats *c = opened();
    nm_chats_close(&c);
    assert_int_equal(sqlite3_open(file, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, old_table, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static nm_err refuse_second(void *arg, const char *name, const json_t *persona)
{
    if (++*(int *)arg == 2) return nm_fail(NM_FAILED, "no room");
    return nm_page_persona_move(NULL, name, persona);
}

static void old_personas_move(void **state)
{
    (void)state;
    nm_chats *c;
    int moved = 0;
    make_old();
    assert_int_equal(nm_persona_save("taken", "FROM here.gguf\n", 15, false, NULL), NM_OK);
    assert_int_equal(nm_chats_open(&c, file, refuse_second, &moved), NM_FAILED);
    assert_int_equal(one_number("PRAGMA user_version"), 1);         /* nothing is lost: it begins anew */
    for (int i = 0; i < 2; i++) {                                   /* and once it is done it is not done again */
        assert_int_equal(nm_chats_open(&c, file, nm_page_persona_move, NULL), NM_OK);
        nm_chats_close(&c);
        assert_int_equal(one_number("PRAGMA user_version"), 2);
        assert_int_equal(one_number("SELECT count(*) FROM sqlite_schema WHERE name = 'persona'"), 0);
        json_t *out;
        assert_int_equal(nm_page_personas(NULL, &out), NM_OK);
        assert_int_equal(json_array_size(json_object_get(out, "personas")), 6);
        json_decref(out);
    }
    assert_file("taken", "FROM here.gguf\n");
    assert_file("here-2", "FROM ROOT/here.gguf\nSYSTEM Like it.\n");
    assert_file("taken-2", "FROM ROOT/here.gguf\nSYSTEM Mine.\n");
    assert_file("Poet", "FROM ROOT/here.gguf\nADAPTER style=0.5\nPARAMETER seed 1\nSYSTEM Rhyme.\n");
    assert_file("poet-2", "FROM ROOT/here.gguf\nSYSTEM \"\"\"a '''\nb\"\"\"\n");
    assert_file("persona", "FROM etc-passwd\n");
}

/* ---- routes: an exchange of the test's own in place of HTTP ---- */

struct nm_exchange {
    const char *path, *tail, *body, *query_key, *query, *known;
    int status, held;
    char type[64], etag[64], *text;
    size_t length;
};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t answered = PTHREAD_COND_INITIALIZER;

const char *nm_exchange_path(const nm_exchange *x) { return x->path; }
const char *nm_exchange_tail(const nm_exchange *x) { return x->tail ? x->tail : ""; }
const char *nm_exchange_query(const nm_exchange *x, const char *key) { return x->query_key && !strcmp(key, x->query_key) ? x->query : NULL; }
const char *nm_exchange_header(const nm_exchange *x, const char *name) { return strcmp(name, "If-None-Match") ? NULL : x->known; }
const char *nm_exchange_body(const nm_exchange *x, size_t *length) { *length = x->body ? strlen(x->body) : 0; return x->body ? x->body : ""; }
nm_exchange *nm_exchange_hold(nm_exchange *x) { x->held++; return x; }
void nm_exchange_release(nm_exchange **x) { *x = NULL; }
void nm_exchange_add_header(nm_exchange *x, const char *name, const char *value) { if (!strcmp(name, "ETag")) snprintf(x->etag, sizeof x->etag, "%s", value); }
void nm_exchange_reply(nm_exchange *x, int status, const char *type, const char *body, size_t length)
{
    pthread_mutex_lock(&lock);
    x->text = calloc(1, length + 1);
    if (x->text && length) memcpy(x->text, body, length);
    x->length = length;
    snprintf(x->type, sizeof x->type, "%s", type);
    x->status = status;
    pthread_cond_signal(&answered);
    pthread_mutex_unlock(&lock);
}
void nm_exchange_fail(nm_exchange *x, int status, const char *type, const char *code, const char *message) { (void)type; nm_exchange_reply(x, status, code ? code : "", message, strlen(message)); }
void nm_exchange_fail_err(nm_exchange *x, nm_err err) { nm_exchange_fail(x, err == NM_USAGE ? 400 : err == NM_NOT_FOUND ? 404 : 500, NULL, NULL, nm_error_text()); }

static int asked(nm_server *server, const char *method, const char *path, nm_exchange *x)
{
    size_t length = strlen(path);
    for (const nm_route *r = strncmp(path, "/nm/personas", 12) ? nm_routes_chats : nm_routes_personas; r->method; r++) {
        if (strcmp(r->method, method) || strcmp(r->path, path)) continue;
        assert_int_equal(r->dialect, NM_DIALECT_OURS);
        assert_false(r->open);
        if (path[length - 1] == '*' && !x->tail) x->tail = "one";
        r->handle(x, server);
        pthread_mutex_lock(&lock);
        while (!x->status) pthread_cond_wait(&answered, &lock);
        pthread_mutex_unlock(&lock);
        return x->status;
    }
    fail_msg("no route %s %s", method, path);
    return 0;
}

static void routes(void **state)
{
    (void)state;
    nm_server server = {0};
    assert_int_equal(nm_desk_open(&server.desk, file, NULL), NM_OK);
    static const struct { const char *method, *path, *tail, *body, *key, *query; int status; const char *answer; } asks[] = {
        {"PUT", "/nm/chats/*", NULL, A_CHAT, NULL, NULL, 200, "{}"}, {"PUT", "/nm/chats/*", NULL, "{", NULL, NULL, 400, "JSON"}, {"PUT", "/nm/chats/*", NULL, "[]", NULL, NULL, 400, "object"},
        {"PUT", "/nm/chats/*", "a/b", "{}", NULL, NULL, 400, "letters"}, {"GET", "/nm/chats/*", NULL, NULL, NULL, NULL, 200, "\"leaf\":\"a2\""},
        {"GET", "/nm/chats/*", "none", NULL, NULL, NULL, 404, "no such"}, {"GET", "/nm/chats", NULL, NULL, NULL, NULL, 200, "The Moon"},
        {"GET", "/nm/chats", NULL, NULL, "search", "zebra", 200, "{\"chats\":[]}"}, {"PUT", "/nm/personas/*", "P", "{}", NULL, NULL, 200, "{}"},
        {"PUT", "/nm/personas/*", "HERE", "{}", NULL, NULL, 409, "a model of that name"}, {"PUT", "/nm/personas/*", "style", "{}", NULL, NULL, 409, "an adapter"},
        {"PUT", "/nm/personas/*", "a b", "{}", NULL, NULL, 400, "cannot be a name"}, {"PUT", "/nm/personas/*", "Q", "{\"model\": \"/etc/passwd\"}", NULL, NULL, 400, "no model"},
        {"PUT", "/nm/personas/*", "Q", "{\"settings\": {\"heat\": 1}}", NULL, NULL, 400, "heat"}, {"PUT", "/nm/personas/*", "Q", "{\"model\": 1}", NULL, NULL, 400, "model"},
        {"GET", "/nm/personas", NULL, NULL, NULL, NULL, 200, "\"P\""}, {"DELETE", "/nm/personas/*", "P", NULL, NULL, NULL, 200, "{}"},
        {"DELETE", "/nm/personas/*", "P", NULL, NULL, NULL, 404, "no persona"},
        {"POST", "/nm/votes", NULL, VOTE("x", "y", "a"), NULL, NULL, 200, "{}"}, {"GET", "/nm/votes", NULL, NULL, NULL, NULL, 200, "a_wins"},
        {"GET", "/nm/feedback", NULL, NULL, NULL, NULL, 200, "\"votes\":1"}, {"GET", "/nm/export", NULL, NULL, NULL, NULL, 200, "{\"messages\": ["},
        {"GET", "/nm/export", NULL, NULL, "what", "x", 400, "what"}, {"DELETE", "/nm/chats/*", NULL, NULL, NULL, NULL, 200, "{}"}};
    for (size_t i = 0; i < sizeof asks / sizeof *asks; i++) {
        nm_exchange x = {.tail = asks[i].tail, .body = asks[i].body, .query_key = asks[i].key, .query = asks[i].query};
        assert_int_equal(asked(&server, asks[i].method, asks[i].path, &x), asks[i].status);
        if (!strstr(x.text, asks[i].answer)) fail_msg("%s %s: %s", asks[i].method, asks[i].path, x.text);
        free(x.text);
    }
    nm_desk_close(&server.desk);
    write_file("no database at all, though as long as a head would be: ....................................................", 105);
    assert_int_equal(nm_desk_open(&server.desk, file, NULL), NM_BAD_FILE);
    nm_exchange x = {0};
    assert_int_equal(asked(&server, "GET", "/nm/chats", &x), 503);
    assert_non_null(strstr(x.text, "damaged"));
    free(x.text);
    nm_exchange z = {0};
    assert_int_equal(asked(&server, "GET", "/nm/personas", &z), 200);       /* the store's: they need no database */
    free(z.text);
    nm_desk_close(&server.desk);
    nm_exchange y = {0};
    assert_int_equal(asked(&server, "GET", "/nm/votes", &y), 503);
    free(y.text);
}

static void page_files(void **state)
{
    (void)state;
    size_t bytes = 0;
    for (const nm_route *r = nm_routes_page; r->method; r++) {
        nm_exchange x = {.path = r->path};
        assert_true(r->open);
        r->handle(&x, NULL);
        assert_int_equal(x.status, 200);
        assert_true(x.length > 0 && x.etag[0] == '"');
        bytes += x.length;
        nm_exchange again = {.path = r->path, .known = x.etag};
        r->handle(&again, NULL);
        assert_int_equal(again.status, 304);
        assert_int_equal(again.length, 0);
        free(x.text);
        free(again.text);
    }
    assert_true(bytes > 10000 && bytes < 300000);
    nm_exchange x = {.path = "/"};
    nm_page_index(&x, NULL);
    assert_int_equal(x.status, 200);
    assert_string_equal(x.type, "text/html; charset=utf-8");
    free(x.text);
}

int main(void)
{
    if (count_allocations()) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(goes_in_and_out, empty), cmocka_unit_test_setup(is_merged, empty), cmocka_unit_test_setup(is_found, empty), cmocka_unit_test_setup(wrong_forms, empty),
        cmocka_unit_test_setup(votes, empty), cmocka_unit_test_setup(personas_are_the_stores, stored),
        cmocka_unit_test_setup(what_the_page_has_no_word_for_stays, stored), cmocka_unit_test_setup(old_personas_move, stored), cmocka_unit_test_setup(exports, empty), cmocka_unit_test_setup(pairs_are_counted, empty), cmocka_unit_test_setup(squares_are_bounded, empty), cmocka_unit_test_setup(files_not_ours, empty), cmocka_unit_test_setup(damage, empty),
        cmocka_unit_test_setup(full_disk, empty), cmocka_unit_test_setup(survives_a_kill, empty), cmocka_unit_test_setup(memory_fails, empty), cmocka_unit_test_setup(routes, stored),
        cmocka_unit_test_setup(page_files, empty),
    };
    return cmocka_run_group_tests_name("chats", tests, set_up, tear_down);
}
