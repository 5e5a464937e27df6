/* Teaching over HTTP, in a server of its own on a small model of random weights: files, lessons that are refused, previews, a run beside requests whose answers stay as they were,
 * stopping, going on to the same bits, a server that begins anew, keeping and discarding. */
#include <arpa/inet.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "../instrumented.h"
#include "../random_model.c"

#include "base/str.h"
#include "os/clock.h"
#include "os/file.h"
#include "server/server.h"
#include "server/teach.h"

/* ---- The server under test ----------------------------------------------------------------------------------------------------------- */

static char folder[64], model_path[128];
static nm_server *server;
static const char *models[1];
static nm_engine_options options;

/* Lessons ask for idle priority, and are denied it here: it would make them wait for all else that the machine does, for as long as it does. */
static atomic_int asked_for_idle;
int __wrap_pthread_setschedparam(pthread_t thread, int policy, const struct sched_param *param);
int __wrap_pthread_setschedparam(pthread_t thread, int policy, const struct sched_param *param)
{
    if (policy == SCHED_IDLE) atomic_fetch_add(&asked_for_idle, 1);
    return 0;
}

static void note(void *arg, const char *line) { print_message("# %s\n", line); }

static void with_template(gguf_writer *w, const random_model *d)
{
    gw_string(w, "tokenizer.chat_template",
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}");
}

static void begin_server_within(uint64_t memory)
{
    models[0] = model_path;
    options = (nm_engine_options){.models = models, .n_models = 1, .note = note, .memory = memory};
    nm_err err = nm_server_open(&server, &options, (nm_http_options){.host = "127.0.0.1"});
    if (err != NM_OK) print_error("%s\n", nm_error_text());
    assert_int_equal(err, NM_OK);
}

static void begin_server(void) { begin_server_within(2000000000); }

static void end_server(void) { nm_server_close(&server, 10); }

static void remove_folder(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
}

static int set_up(void **state)
{
    random_model d = rm_default("llama");
    size_t size;
    snprintf(folder, sizeof folder, "/tmp/nomoat-teach-XXXXXX");
    assert_non_null(mkdtemp(folder));
    setenv("XDG_DATA_HOME", folder, 1);
    setenv("XDG_CACHE_HOME", folder, 1);
    setenv("HF_HOME", folder, 1);
    snprintf(model_path, sizeof model_path, "%s/tiny.gguf", folder);
    d.embd = 64, d.ff = 128, d.heads = 4, d.vocabulary = RM_VOCAB_SPM, d.vocab = 300, d.context = 512;
    d.instead = with_template;
    void *model = rm_make(&d, &size);
    assert_int_equal(nm_file_write(model_path, model, size), NM_OK);
    free(model);
    begin_server();
    return 0;
}

static int tear_down(void **state)
{
    end_server();
    remove_folder();
    return 0;
}

/* ---- A client --------------------------------------------------------------------------------------------------------------------------- */

static int dial(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)nm_http_port(server->http)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof at) == 0);
    return fd;
}

/* Single quotes stand for double ones. */
static void send_request(int fd, const char *method, const char *path, const char *body)
{
    nm_str s = {0};
    assert_int_equal(nm_str_printf(&s, "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n", method, path, strlen(body)), NM_OK);
    size_t head = s.length;
    assert_int_equal(nm_str_puts(&s, body), NM_OK);
    for (size_t i = head; i < s.length; i++)
        if (s.data[i] == '\'') s.data[i] = '"';
    for (size_t at = 0; at < s.length;) {
        ssize_t n = write(fd, s.data + at, s.length - at);
        assert_true(n > 0);
        at += (size_t)n;
    }
    nm_str_free(&s);
}

/* The answer's JSON, the caller's. */
static json_t *ask(const char *method, const char *path, const char *body, int expected)
{
    int fd = dial();
    nm_str s = {0};
    char some[8192];
    send_request(fd, method, path, body);
    for (ssize_t n; (n = read(fd, some, sizeof some)) > 0;) assert_int_equal(nm_str_append(&s, some, (size_t)n), NM_OK);
    close(fd);
    assert_non_null(s.data);
    char *at = strstr(s.data, "\r\n\r\n");
    assert_non_null(at);
    if (atoi(s.data + 9) != expected) fail_msg("%s %s: %s", method, path, s.data);
    json_t *json = json_loads(at + 4, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    nm_str_free(&s);
    return json;
}

static const char *text_of(const json_t *json, const char *key)
{
    const char *text = json_string_value(json_object_get(json, key));
    return text ? text : "";
}

static int64_t number_of(const json_t *json, const char *key) { return (int64_t)json_number_value(json_object_get(json, key)); }

/* The error's word, and that its message has `part`. */
static void refused(const char *method, const char *path, const char *body, int status, const char *code, const char *part)
{
    json_t *json = ask(method, path, body, status), *error = json_object_get(json, "error");
    assert_non_null(error);
    if (*code) assert_string_equal(text_of(error, "code"), code);
    if (!strstr(text_of(error, "message"), part)) fail_msg("%s: \"%s\" has no \"%s\"", path, text_of(error, "message"), part);
    assert_null(strstr(text_of(error, "message"), folder));
    json_decref(json);
}

/* ---- Lessons --------------------------------------------------------------------------------------------------------------------------------- */

enum { ROWS = 30 };

static void upload(char id[NM_TEACH_ID], const char *name)
{
    nm_str rows = {0};
    char path[128];
    for (int i = 0; i < ROWS; i++)
        assert_int_equal(nm_str_printf(&rows, "{'messages': [{'role': 'user', 'content': 'What-is-%d?'},"
            " {'role': 'assistant', 'content': 'It-is-%d,-and-no-more.'}]}\n", i, i), NM_OK);
    snprintf(path, sizeof path, "/nm/teach/files?name=%s", name);
    json_t *file = ask("POST", path, rows.data, 201);
    assert_string_equal(text_of(file, "name"), name);
    assert_int_equal(number_of(file, "bytes"), rows.length);
    assert_int_equal(strlen(text_of(file, "file")), NM_TEACH_ID - 1);
    snprintf(id, NM_TEACH_ID, "%s", text_of(file, "file"));
    json_decref(file);
    nm_str_free(&rows);
}

static const char *lesson(const char *file, const char *settings, const char *rest)
{
    static char text[1024];
    snprintf(text, sizeof text, "{'model': 'tiny', 'sources': [{'file': '%s'}], 'settings': {%s}%s}", file, settings, rest);
    return text;
}

static json_t *state_of(void) { return ask("GET", "/nm/teach", "", 200); }

enum { PATIENCE = 600 };        /* seconds: the machine may do other things as well */

/* Waits until the state is `word`, and is no longer in it. */
static json_t *wait_for(const char *word)
{
    double until = nm_clock_seconds() + PATIENCE;
    for (;;) {
        json_t *state = state_of();
        if (!strcmp(text_of(state, "state"), word)) return state;
        if (!strcmp(text_of(state, "state"), "failed")) fail_msg("failed: %s", text_of(state, "error"));
        if (nm_clock_seconds() > until) fail_msg("%s in place of %s", text_of(state, "state"), word);
        json_decref(state);
        usleep(5000);
    }
}

static void wait_for_step(int64_t step)
{
    double until = nm_clock_seconds() + PATIENCE;
    while (nm_clock_seconds() < until) {
        json_t *state = state_of();
        bool there = number_of(state, "step") >= step;
        if (!strcmp(text_of(state, "state"), "failed")) fail_msg("failed: %s", text_of(state, "error"));
        json_decref(state);
        if (there) return;
        usleep(1000);
    }
    fail_msg("step %lld did not come", (long long)step);
}

static void begin_run(const char *file, const char *settings, const char *name)
{
    char rest[64];
    snprintf(rest, sizeof rest, ", 'name': '%s'", name);
    json_t *state = ask("POST", "/nm/teach", lesson(file, settings, rest), 202);
    assert_string_equal(text_of(state, "name"), name);
    assert_string_equal(text_of(state, "model"), "tiny");
    json_decref(state);
}

static char *weights_of(const char *name, size_t *size)
{
    char path[256], *data;
    snprintf(path, sizeof path, "%s/nomoat/adapters/%s/adapter_model.safetensors", folder, name);
    assert_int_equal(nm_file_read(path, 64 << 20, &data, size), NM_OK);
    return data;
}

static bool is_there(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/nomoat/adapters/%s", folder, name);
    return !access(path, F_OK);
}

static json_t *answer(const char *model)
{
    char body[512];
    snprintf(body, sizeof body, "{'model': '%s', 'messages': [{'role': 'user', 'content': 'What-is-7?'}], 'max_tokens': 24, 'temperature': 0}", model);
    json_t *json = ask("POST", "/v1/chat/completions", body, 200);
    json_t *text = json_incref(json_object_get(json_object_get(json_array_get(json_object_get(json, "choices"), 0), "message"), "content"));
    json_decref(json);
    return text;
}

static bool lists(const char *name)
{
    json_t *json = ask("GET", "/v1/models", "", 200), *m;
    bool found = false;
    size_t i;
    json_array_foreach(json_object_get(json, "data"), i, m) found |= !strcmp(text_of(m, "id"), name);
    json_decref(json);
    return found;
}

/* Long enough to be stopped, on any machine. */
#define LONG "'epochs': 60, 'rank': 4, 'batch': 4, 'save_every': 20, 'meter': 512, 'patience': 1000000, 'val': 0.1"
#define SHORT "'max_steps': 12, 'rank': 4, 'batch': 4, 'save_every': 4, 'meter': 512, 'val': 0.1"

/* ---- Tests ------------------------------------------------------------------------------------------------------------------------------------- */

static void test_files(void **state)
{
    char id[NM_TEACH_ID], path[128];
    upload(id, "talks.jsonl");
    refused("POST", "/nm/teach/files", "x", 400, "", "name");
    refused("POST", "/nm/teach/files?name=..%2Ftalks.jsonl", "x", 400, "", "name");
    refused("POST", "/nm/teach/files?name=talks.exe", "x", 400, "", ".jsonl");
    refused("POST", "/nm/teach/files?name=talks.jsonl", "", 400, "", "empty");
    refused("DELETE", "/nm/teach/files/..%2F..%2Fstate.json", "", 400, "", "dots");
    refused("DELETE", "/nm/teach/files/state.json", "", 404, "", "no file");
    end_server();
    begin_server();
    json_t *list = ask("GET", "/nm/teach/files", "", 200), *files = json_object_get(list, "files");
    assert_int_equal(json_array_size(files), 1);
    assert_string_equal(text_of(json_array_get(files, 0), "file"), id);
    assert_string_equal(text_of(json_array_get(files, 0), "name"), "talks.jsonl");
    json_decref(list);
    snprintf(path, sizeof path, "/nm/teach/files/%s", id);
    json_decref(ask("DELETE", path, "", 200));
    refused("DELETE", path, "", 404, "", "no file");
    list = ask("GET", "/nm/teach/files", "", 200);
    assert_int_equal(json_array_size(json_object_get(list, "files")), 0);
    json_decref(list);
}

/* Of JSON's allocations the one that fails; -1: none. */
static int failing = -1;
static void *fail_once(size_t bytes) { return failing >= 0 && failing-- == 0 ? NULL : malloc(bytes); }

/* A server that begins while memory lacks for a moment removes nothing that is whole; what never came to be whole goes. */
static void test_files_stay(void **state)
{
    enum { MOST = 50 };
    static const char half[] = "0123456789abcdef0123456789abcdef.jsonl";
    char id[NM_TEACH_ID], place[96], path[256], left[256];
    nm_teach_files f;
    upload(id, "talks.jsonl");
    end_server();
    snprintf(place, sizeof place, "%s/nomoat/teach", folder);
    snprintf(path, sizeof path, "%s/files/%s.jsonl", place, id);
    snprintf(left, sizeof left, "%s/files/%s", place, half);
    json_set_alloc_funcs(fail_once, free);
    for (int i = 0; i < MOST; i++) {
        failing = i;
        assert_int_equal(nm_teach_files_open(&f, place), NM_OK);
        nm_teach_files_close(&f);
        assert_int_equal(access(path, F_OK), 0);
    }
    json_set_alloc_funcs(malloc, free);
    assert_int_equal(nm_file_write(left, "x", 1), NM_OK);
    assert_int_equal(nm_teach_files_open(&f, place), NM_OK);
    assert_int_equal(f.count, 1);
    nm_teach_files_close(&f);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_not_equal(access(left, F_OK), 0);
    begin_server();
}

static void test_lessons_refused(void **state)
{
    char id[NM_TEACH_ID];
    upload(id, "talks.jsonl");
    static const char *const settings[][2] = {
        {"'epoch': 1", "settings.epoch"}, {"'output': '/tmp/x'", "settings.output"}, {"'log': 'x'", "settings.log"}, {"'init': '/etc/passwd'", "settings.init"},
        {"'config': 'x'", "settings.config"}, {"'anchor_data': 'x'", "settings.anchor_data"}, {"'keep': 'x'", "settings.keep"}, {"'template': 'x'", "settings.template"},
        {"'val': '/etc/passwd'", "settings.val"}, {"'rank': 'many'", "settings.rank"}, {"'rank': 0", "settings.rank"}, {"'rank': [1]", "settings.rank"},
        {"'minutes': -1", "settings.minutes"}, {"'resume': true", "settings.resume"}, {"'batches': 'x'", "settings.batches"}, {"'report': 'x'", "settings.report"},
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) refused("POST", "/nm/teach/preview", lesson(id, settings[i][0], ""), 400, "", settings[i][1]);
    refused("POST", "/nm/teach/preview", lesson(id, "", ", 'recipe': 'x'"), 400, "", "recipe");
    refused("POST", "/nm/teach/preview", lesson("0123", "", ""), 404, "", "no file");
    refused("POST", "/nm/teach/preview", "{'model': 'tiny', 'sources': []}", 400, "", "sources");
    refused("POST", "/nm/teach/preview", "{'model': 'tiny', 'sources': [{'file': '/etc/passwd'}]}", 404, "", "no file");
    refused("POST", "/nm/teach/preview", "{'model': 'tiny', 'sources': [{'chats': 'secrets'}]}", 400, "", "corrections");
    refused("POST", "/nm/teach/preview", "{'model': 'tiny', 'sources': [{'chats': 'liked', 'path': 'x'}]}", 400, "", "path");
    refused("POST", "/nm/teach/preview", "{'sources': [{'chats': 'liked'}]}", 400, "", "model");
    refused("POST", "/nm/teach/preview", "[1]", 400, "", "object");
    refused("POST", "/nm/teach", lesson(id, "", ""), 400, "", "name");
    refused("POST", "/nm/teach", lesson(id, "", ", 'name': '../x'"), 400, "", "name");
    refused("POST", "/nm/teach", lesson(id, "", ", 'name': 'a+b'"), 400, "", "name");
    refused("POST", "/nm/teach", "{'model': 'nothing', 'sources': [{'chats': 'liked'}], 'name': 'x'}", 404, "model_not_found", "nothing");
    const char *const nothing[] = {"/nm/teach/stop", "/nm/teach/resume", "/nm/teach/keep", "/nm/teach/discard"};
    for (size_t i = 0; i < 4; i++) refused("POST", nothing[i], "", 409, "", "");
    json_t *idle = state_of();
    assert_string_equal(text_of(idle, "state"), "idle");
    json_decref(idle);
}

static void test_bad_rows(void **state)
{
    json_t *file = ask("POST", "/nm/teach/files?name=bad.jsonl",
        "{'messages': [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Yes'}]}\n{'nothing': 1}\n", 201);
    refused("POST", "/nm/teach/preview", lesson(text_of(file, "file"), "", ""), 400, "", "bad.jsonl:2");
    json_t *preview = ask("POST", "/nm/teach/preview", lesson(text_of(file, "file"), "'skip_bad': true", ""), 200);
    assert_int_equal(number_of(preview, "bad"), 1);
    assert_int_equal(number_of(preview, "rows"), 1);
    json_decref(preview);
    json_decref(file);
}

static void test_preview(void **state)
{
    char id[NM_TEACH_ID];
    upload(id, "talks.jsonl");
    json_t *preview = ask("POST", "/nm/teach/preview", lesson(id, "'max_length': 256", ""), 200), *piece;
    json_t *samples = json_object_get(preview, "samples"), *sample = json_array_get(samples, 2);
    assert_int_equal(number_of(preview, "rows"), ROWS);
    assert_int_equal(json_array_size(samples), 8);
    assert_string_equal(text_of(sample, "where"), "talks.jsonl:3");
    nm_str all = {0}, trained = {0};
    size_t i;
    json_array_foreach(json_object_get(sample, "pieces"), i, piece) {
        assert_int_equal(nm_str_puts(&all, text_of(piece, "text")), NM_OK);
        if (json_is_true(json_object_get(piece, "trained"))) assert_int_equal(nm_str_puts(&trained, text_of(piece, "text")), NM_OK);
    }
    assert_non_null(strstr(all.data, "What-is-2?"));
    assert_non_null(strstr(trained.data, "It-is-2,-and-no-more."));
    assert_null(strstr(trained.data, "What"));
    assert_null(strstr(json_string_value(json_array_get(json_object_get(preview, "notes"), 0)), folder));
    nm_str_free(&all);
    nm_str_free(&trained);
    json_decref(preview);
}

static void test_forecast(void **state)
{
    char id[NM_TEACH_ID];
    upload(id, "talks.jsonl");
    json_t *f = ask("POST", "/nm/teach/forecast", lesson(id, SHORT, ""), 200), *choice;
    assert_int_equal(number_of(f, "steps"), 12);
    assert_true(json_number_value(json_object_get(f, "seconds")) > 0);
    assert_true(json_is_true(json_object_get(f, "fits")));
    assert_true(json_is_object(json_object_get(f, "parts")));
    bool rank = false;
    size_t i;
    json_array_foreach(json_object_get(f, "choices"), i, choice) {
        const json_t *setting = json_object_get(choice, "setting");
        assert_int_equal(json_object_size(setting), 1);
        rank |= number_of(setting, "rank") == 8 && !strcmp(text_of(choice, "name"), "--rank 8");
    }
    assert_true(rank);
    json_decref(f);
}

/* What is asked while something is taught is answered as it would be otherwise, and what was taught can be asked at once. */
static void test_run(void **state)
{
    char id[NM_TEACH_ID], path[128];
    json_t *before = answer("tiny"), *done, *during = NULL;
    upload(id, "talks.jsonl");
    begin_run(id, LONG, "style");
    wait_for_step(1);
    assert_true(atomic_load(&asked_for_idle) > 0);
    refused("POST", "/nm/teach", lesson(id, SHORT, ", 'name': 'other'"), 409, "already_running", "");
    refused("POST", "/nm/teach/preview", lesson(id, "", ""), 409, "already_running", "");
    refused("POST", "/nm/teach/keep", "", 409, "already_running", "");
    refused("POST", "/nm/teach/resume", "", 409, "already_running", "");
    snprintf(path, sizeof path, "/nm/teach/files/%s", id);
    refused("DELETE", path, "", 409, "in_use", "");
    int asked = 0;
    for (;; asked++) {
        during = answer("tiny");
        assert_true(json_equal(during, before));
        json_decref(during);
        json_t *now = state_of();
        bool over = strcmp(text_of(now, "state"), "training") != 0;
        json_decref(now);
        if (over) break;
    }
    assert_true(asked > 0);
    done = wait_for("done");
    const json_t *result = json_object_get(done, "result"), *curve = json_object_get(done, "curve");
    assert_string_equal(text_of(result, "adapter"), "style");
    assert_int_equal(number_of(done, "step"), number_of(done, "steps"));
    assert_true(json_number_value(json_object_get(result, "last_loss")) < json_number_value(json_object_get(result, "first_loss")));
    assert_true(json_array_size(json_object_get(curve, "losses")) > 10);
    assert_true(json_array_size(json_object_get(done, "looks")) > 1);
    assert_true(json_array_size(json_object_get(result, "samples")) > 0);
    assert_true(json_is_null(json_object_get(done, "decided")));
    json_decref(done);
    assert_true(lists("style"));
    json_t *after = answer("tiny+style");
    assert_false(json_equal(after, before));
    json_decref(after);
    refused("POST", "/nm/teach", lesson(id, SHORT, ", 'name': 'style'"), 409, "name_taken", "");
    /* It is asked about still by a server that begins anew. */
    end_server();
    begin_server();
    done = wait_for("done");
    assert_true(json_is_null(json_object_get(done, "decided")));
    assert_true(json_array_size(json_object_get(json_object_get(done, "curve"), "losses")) > 10);
    json_decref(done);
    done = ask("POST", "/nm/teach/keep", "", 200);
    assert_string_equal(text_of(done, "decided"), "kept");
    json_decref(done);
    refused("POST", "/nm/teach/discard", "", 409, "decided", "");
    assert_true(is_there("style"));
    json_decref(ask("DELETE", path, "", 200));
    json_decref(before);
}

/* A lesson that has written nothing has nothing to discard: what has its name by then is somebody's. */
static void test_nothing_written(void **state)
{
    char path[256];
    json_t *file = ask("POST", "/nm/teach/files?name=none.jsonl", "{'nothing': 1}\n", 201);
    begin_run(text_of(file, "file"), SHORT, "others");
    json_decref(wait_for("failed"));
    snprintf(path, sizeof path, "%s/nomoat/adapters/others", folder);
    assert_int_equal(nm_folder_make(path, 0700), NM_OK);
    json_decref(ask("POST", "/nm/teach/discard", "", 200));
    assert_true(is_there("others"));
    assert_int_equal(rmdir(path), 0);
    json_decref(file);
}

/* The same of one that was stopped before it wrote anything, though it can go on. */
static void test_stopped_early(void **state)
{
    char id[NM_TEACH_ID], path[256];
    upload(id, "talks.jsonl");
    begin_run(id, LONG, "others");
    json_decref(ask("POST", "/nm/teach/stop", "", 202));
    json_decref(wait_for("stopped"));
    assert_false(is_there("others"));
    snprintf(path, sizeof path, "%s/nomoat/adapters/others", folder);
    assert_int_equal(nm_folder_make(path, 0700), NM_OK);
    json_decref(ask("POST", "/nm/teach/discard", "", 200));
    assert_true(is_there("others"));
    assert_int_equal(rmdir(path), 0);
}

/* One server at a time teaches in a folder; the other answers all the same. */
static void test_two_servers(void **state)
{
    nm_server *other;
    nm_engine_options alike = options;
    assert_int_equal(nm_server_open(&other, &alike, (nm_http_options){.host = "127.0.0.1"}), NM_OK);
    assert_non_null(server->teach);
    assert_null(other->teach);
    nm_server_close(&other, 10);
}

static void test_discard(void **state)
{
    char id[NM_TEACH_ID];
    upload(id, "talks.jsonl");
    begin_run(id, LONG, "gone");
    json_decref(wait_for("done"));
    json_t *first = answer("tiny+gone"), *again;
    json_decref(ask("POST", "/nm/teach/discard", "", 200));
    assert_false(is_there("gone"));
    assert_false(lists("gone"));
    refused("POST", "/v1/chat/completions", "{'model': 'tiny+gone', 'messages': [{'role': 'user', 'content': 'x'}]}", 404, "model_not_found", "gone");
    /* Another one of that name is another one. */
    begin_run(id, "'max_steps': 1, 'rank': 2, 'meter': 0, 'no_anchor': true", "gone");
    json_decref(wait_for("done"));
    again = answer("tiny+gone");
    assert_false(json_equal(first, again));
    json_decref(ask("POST", "/nm/teach/discard", "", 200));
    json_decref(first);
    json_decref(again);
}

/* Stopped twice, once by a request and once by the server's end: the same bits as in one go. */
static void test_stop_and_resume(void **state)
{
    char id[NM_TEACH_ID];
    size_t size, other;
    upload(id, "talks.jsonl");
    begin_run(id, LONG, "whole");
    json_decref(wait_for("done"));
    json_decref(ask("POST", "/nm/teach/keep", "", 200));
    begin_run(id, LONG, "parts");
    wait_for_step(25);
    json_decref(ask("POST", "/nm/teach/stop", "", 202));
    json_t *stopped = wait_for("stopped");
    assert_true(json_is_true(json_object_get(stopped, "resumable")));
    int64_t at = number_of(stopped, "step");
    assert_true(at >= 25 && at < number_of(stopped, "steps"));
    json_decref(stopped);
    refused("POST", "/nm/teach", lesson(id, SHORT, ", 'name': 'third'"), 409, "undecided", "");
    json_decref(ask("POST", "/nm/teach/resume", "", 202));
    wait_for_step(at + 20);
    end_server();
    begin_server();
    stopped = wait_for("stopped");
    assert_true(json_is_true(json_object_get(stopped, "resumable")));
    assert_true(number_of(stopped, "step") >= at + 20);
    json_decref(stopped);
    json_decref(ask("POST", "/nm/teach/resume", "", 202));
    json_decref(wait_for("done"));
    char *whole = weights_of("whole", &size), *parts = weights_of("parts", &other);
    assert_int_equal(size, other);
    assert_memory_equal(whole, parts, size);
    nm_free(whole);
    nm_free(parts);
    json_decref(ask("POST", "/nm/teach/discard", "", 200));
}

#define ENDLESS "'epochs': 3000, 'rank': 4, 'batch': 4, 'meter': 512, 'patience': 1000000, 'val': 0.1"

/* Minutes that so many steps take as the machine is now. */
static double minutes_of(const char *id, int steps)
{
    char settings[256];
    snprintf(settings, sizeof settings, "'max_steps': %d, " ENDLESS, steps);
    json_t *f = ask("POST", "/nm/teach/forecast", lesson(id, settings, ""), 200);
    double seconds = json_number_value(json_object_get(f, "seconds"));
    json_decref(f);
    return seconds / 60;
}

/* A time that is given chooses steps once: a lesson that is stopped goes on with those that were chosen, to the bits of one that is told so many from the start. */
static void test_minutes(void **state)
{
    enum { STEPS = 300 };       /* some: what else the machine does may make it ten times as many, or a tenth */
    if (NM_INSTRUMENTED) {
        print_message("# skipped under a sanitizer: three lessons of their own, on paths that others go\n");
        skip();
    }
    char id[NM_TEACH_ID], settings[256];
    size_t size, other;
    upload(id, "talks.jsonl");
    snprintf(settings, sizeof settings, "'minutes': %.5f, " ENDLESS, minutes_of(id, STEPS));
    begin_run(id, settings, "hasty");
    wait_for_step(5);
    json_decref(ask("POST", "/nm/teach/stop", "", 202));
    json_t *stopped = wait_for("stopped");
    int64_t steps = number_of(stopped, "steps"), every = number_of(stopped, "every"), at = number_of(stopped, "step");
    assert_true(steps > at && steps < 10000 && every > 0);
    assert_true(json_is_true(json_object_get(stopped, "resumable")));
    json_decref(stopped);
    double from = nm_clock_seconds();
    json_decref(ask("POST", "/nm/teach/resume", "", 202));
    json_t *done = wait_for("done");
    double took = nm_clock_seconds() - from;
    assert_int_equal(number_of(done, "steps"), steps);
    assert_int_equal(number_of(done, "step"), steps);
    print_message("# %lld of %lld steps were left, and took %.1f s\n", (long long)(steps - at), (long long)steps, took);
    json_decref(done);
    json_decref(ask("POST", "/nm/teach/keep", "", 200));
    snprintf(settings, sizeof settings, "'max_steps': %lld, 'save_every': %lld, " ENDLESS, (long long)steps, (long long)every);
    begin_run(id, settings, "told");
    json_decref(wait_for("done"));
    char *hasty = weights_of("hasty", &size), *told = weights_of("told", &other);
    assert_int_equal(size, other);
    assert_memory_equal(hasty, told, size);
    nm_free(hasty);
    nm_free(told);
    json_decref(ask("POST", "/nm/teach/discard", "", 200));
}

/* A process that is killed: what the disk holds then is copied away while a run is under way, and another server begins with it. */
static void test_killed(void **state)
{
    char id[NM_TEACH_ID], command[256];
    size_t size, other;
    upload(id, "talks.jsonl");
    begin_run(id, LONG, "sudden");
    wait_for_step(45);
    snprintf(command, sizeof command, "cp -a %s/nomoat %s/then 2>/dev/null || test -d %s/then", folder, folder, folder);     /* names of what is being written may go meanwhile */
    assert_int_equal(system(command), 0);
    json_decref(wait_for("done"));
    char *whole = weights_of("sudden", &size);
    end_server();
    snprintf(command, sizeof command, "rm -rf %s/nomoat && mv %s/then %s/nomoat", folder, folder, folder);
    assert_int_equal(system(command), 0);
    begin_server();
    json_t *stopped = wait_for("stopped");
    assert_true(json_is_true(json_object_get(stopped, "resumable")));
    json_decref(stopped);
    json_decref(ask("POST", "/nm/teach/resume", "", 202));
    json_decref(wait_for("done"));
    char *parts = weights_of("sudden", &other);
    assert_int_equal(size, other);
    assert_memory_equal(whole, parts, size);
    nm_free(whole);
    nm_free(parts);
    json_decref(ask("POST", "/nm/teach/discard", "", 200));
}

static void test_events(void **state)
{
    char id[NM_TEACH_ID], some[65536];
    int states = 0;
    bool done = false;
    upload(id, "talks.jsonl");
    int fd = dial();
    double from = nm_clock_seconds();
    send_request(fd, "GET", "/nm/teach/events", "");
    begin_run(id, LONG, "heard");
    nm_str s = {0};
    for (ssize_t n; !done && (n = read(fd, some, sizeof some)) > 0;) {
        assert_int_equal(nm_str_append(&s, some, (size_t)n), NM_OK);
        done = strstr(s.data, "data: {\"state\":\"done\"") != NULL;
    }
    assert_true(done);
    double seconds = nm_clock_seconds() - from;
    for (const char *at = s.data; (at = strstr(at, "data: {")); at++) states++;
    assert_true(states >= 2 && states <= 3 + (int)(seconds * 4));
    nm_str_free(&s);
    /* The stream ends with the server, which does not wait for it. */
    from = nm_clock_seconds();
    nm_server_close(&server, 2 * PATIENCE);
    assert_true(nm_clock_seconds() - from < PATIENCE);
    close(fd);
    begin_server();
    json_decref(ask("POST", "/nm/teach/discard", "", 200));
}

/* Built without SQLite: what would be kept is refused with that reason, and nothing else is. */
static void nothing_is_kept(void)
{
    static const char *const routes[][2] = {{"GET", "/nm/chats"}, {"GET", "/nm/chats?search=x"}, {"GET", "/nm/chats/c1"}, {"PUT", "/nm/chats/c1"}, {"DELETE", "/nm/chats/c1"},
        {"GET", "/nm/votes"}, {"POST", "/nm/votes"}, {"GET", "/nm/feedback"}, {"GET", "/nm/export?what=liked"}};
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) refused(routes[i][0], routes[i][1], "{}", 503, "not_kept", "built without SQLite");
    refused("POST", "/nm/teach/preview", "{'model': 'tiny', 'sources': [{'chats': 'liked'}]}", 400, "", "built without SQLite");
    refused("DELETE", "/nm/votes", "", 405, "", "");
    refused("PUT", "/nm/teach", "{}", 405, "", "");
    refused("GET", "/nm/nothing", "", 404, "", "");
    json_decref(ask("PUT", "/nm/personas/terse", "{'model': 'tiny', 'system': 'S', 'settings': {'max_tokens': 3}}", 200));
    assert_true(lists("terse"));
    json_decref(answer("terse"));
    json_decref(ask("DELETE", "/nm/personas/terse", "", 200));
}

static void test_chats(void **state)
{
    nm_str lines = {0};
    if (nm_desk_export(server->desk, "liked", &lines) == NM_REFUSED) {
        nothing_is_kept();
        return;
    }
    nm_str_free(&lines);
    refused("POST", "/nm/teach/preview", "{'model': 'tiny', 'sources': [{'chats': 'liked'}]}", 400, "", "no liked");
    json_decref(ask("PUT", "/nm/chats/c1", "{'title': 't', 'model': 'tiny', 'leaf': 'm2', 'messages': [{'id': 'm1', 'role': 'user', 'content': 'Hello', 'created': 1},"
        "{'id': 'm2', 'parent': 'm1', 'role': 'assistant', 'content': 'Good day', 'rating': 1, 'created': 2}]}", 200));
    json_t *preview = ask("POST", "/nm/teach/preview", "{'model': 'tiny', 'sources': [{'chats': 'liked'}]}", 200);
    assert_int_equal(number_of(preview, "rows"), 1);
    assert_string_equal(text_of(json_array_get(json_object_get(preview, "samples"), 0), "where"), "liked.jsonl:1");
    json_decref(preview);
}

/* A lesson on a stack is told as the command would take it, and the new adapter stands on the one below. */
static void test_stack(void **state)
{
    char id[NM_TEACH_ID], path[256], *text;
    size_t size;
    upload(id, "talks.jsonl");
    begin_run(id, LONG, "style");
    json_decref(wait_for("done"));
    json_decref(ask("POST", "/nm/teach/keep", "", 200));
    snprintf(path, sizeof path, "{'model': 'tiny+style=0.5', 'name': 'second', 'sources': [{'file': '%s'}], 'settings': {" SHORT "}}", id);
    json_t *state_now = ask("POST", "/nm/teach", path, 202);
    assert_string_equal(text_of(state_now, "model"), "tiny+style=0.5");
    json_decref(state_now);
    json_decref(wait_for("done"));
    snprintf(path, sizeof path, "%s/nomoat/adapters/second/nomoat.json", folder);
    assert_int_equal(nm_file_read(path, 1 << 20, &text, &size), NM_OK);
    json_t *card = json_loadb(text, size, 0, NULL), *settings = json_object_get(json_object_get(card, "provenance"), "settings");
    assert_non_null(settings);
    assert_string_equal(json_string_value(json_array_get(json_object_get(settings, "lora-scaled"), 0)), "style:0.5");
    assert_int_equal(json_array_size(json_object_get(settings, "lora-scaled")), 1);
    json_decref(card);
    nm_free(text);
    json_decref(answer("tiny+style=0.5+second"));
    json_decref(ask("POST", "/nm/teach/discard", "", 200));
}

/* Room for the model, and for little beside it: what is asked is refused before it is taken, and what fits goes on. */
static void test_memory(void **state)
{
    char id[NM_TEACH_ID];
    nm_str rows = {0};
    end_server();
    begin_server_within(60000000);
    upload(id, "few.jsonl");
    json_decref(ask("POST", "/nm/teach/preview", lesson(id, SHORT, ""), 200));
    for (int i = 0; i < 150000; i++) assert_int_equal(nm_str_printf(&rows, "{'prompt': '%d', 'completion': 'It-is-%d.'}\n", i, i), NM_OK);
    json_t *file = ask("POST", "/nm/teach/files?name=many.jsonl", rows.data, 201);
    nm_str_free(&rows);
    const char *const looks[] = {"/nm/teach/preview", "/nm/teach/forecast"};
    for (size_t i = 0; i < 2; i++) refused("POST", looks[i], lesson(text_of(file, "file"), SHORT, ""), 503, "no_memory", "many.jsonl:");
    refused("POST", "/nm/teach/preview", lesson(text_of(file, "file"), SHORT ", 'memory': '8G'", ""), 503, "no_memory", "are left for it");
    char rest[] = ", 'name': 'large'";
    json_decref(ask("POST", "/nm/teach", lesson(text_of(file, "file"), SHORT, rest), 202));
    for (;;) {
        json_t *now = state_of();
        bool failed = !strcmp(text_of(now, "state"), "failed");
        if (failed && !strstr(text_of(now, "error"), "many.jsonl:")) fail_msg("%s", text_of(now, "error"));
        json_decref(now);
        if (failed) break;
        usleep(5000);
    }
    json_decref(ask("POST", "/nm/teach/discard", "", 200));
    json_decref(file);
    begin_run(id, SHORT, "small");
    json_decref(wait_for("done"));
    json_decref(ask("POST", "/nm/teach/discard", "", 200));
}

/* What cannot be written is told as that, in the shape of the route, without where it would have been; and is kept once there is room. */
static void test_full_disk(void **state)
{
    struct rlimit before, small;
    nm_str big = {0}, chat = {0};
    char id[NM_TEACH_ID];
    upload(id, "talks.jsonl");
    for (int i = 0; i < 20000; i++) assert_int_equal(nm_str_puts(&big, "{'prompt': 'Who?', 'completion': 'Me.'}\n"), NM_OK);
    assert_int_equal(nm_str_puts(&chat, "{'title': 't', 'model': 'tiny', 'leaf': 'm1', 'messages': [{'id': 'm1', 'role': 'user', 'created': 1, 'content': '"), NM_OK);
    for (int i = 0; i < 100000; i++) assert_int_equal(nm_str_puts(&chat, "long text "), NM_OK);
    assert_int_equal(nm_str_puts(&chat, "'}]}"), NM_OK);
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    signal(SIGXFSZ, SIG_IGN);
    small.rlim_cur = 4000;
    setrlimit(RLIMIT_FSIZE, &small);
    refused("POST", "/nm/teach/files?name=big.jsonl", big.data, 507, "disk_full", "disk is full");
    if (server->desk) refused("PUT", "/nm/chats/c1", chat.data, 500, "", "disk I/O error");      /* SQLite tells a full disk from this limit */
    refused("PUT", "/nm/personas/wide", "{'model': 'tiny', 'system': 'Be as wide as can be. "
#define WIDE "And then again as wide as can be, and wider, and wider than that, so that it takes more room. "
#define WIDER WIDE WIDE WIDE WIDE WIDE WIDE WIDE WIDE
        WIDER WIDER WIDER WIDER WIDER WIDER "'}", 507, "disk_full", "disk is full");
    json_decref(ask("POST", "/nm/teach", lesson(id, SHORT, ", 'name': 'full'"), 202));
    for (;;) {
        json_t *now = state_of();
        bool failed = !strcmp(text_of(now, "state"), "failed");
        if (failed) {
            assert_null(strstr(text_of(now, "error"), folder));
            assert_non_null(strstr(text_of(now, "error"), "cannot be written"));
        }
        json_decref(now);
        if (failed) break;
        usleep(5000);
    }
    setrlimit(RLIMIT_FSIZE, &before);
    json_decref(ask("POST", "/nm/teach/discard", "", 200));
    json_decref(ask("POST", "/nm/teach/files?name=big.jsonl", big.data, 201));
    if (server->desk) json_decref(ask("PUT", "/nm/chats/c1", chat.data, 200));
    nm_str_free(&big);
    nm_str_free(&chat);
}

/* A file that goes between a lesson's reading and its beginning: one of the two happens, and not both. */
static void test_file_is_gone(void **state)
{
    char id[NM_TEACH_ID];
    nm_teach_refusal no = {0};
    upload(id, "talks.jsonl");
    json_t *json = json_pack("{s:s, s:[{s:s}]}", "model", "tiny", "sources", "file", id);
    assert_int_equal(nm_teach_remove_file(server->teach, id, &no), NM_OK);
    assert_null(no.code);
    assert_int_equal(nm_teach_begin(server->teach, json, "late", "tiny", &no), NM_NOT_FOUND);
    json_t *idle = state_of();
    assert_string_equal(text_of(idle, "state"), "idle");
    json_decref(idle);
    json_decref(json);
}

/* Settings are called as lessons call them, and paths begin where clients know of something. */
static void test_words(void **state)
{
    static const char *const said[][2] = {{"were cut: --max-length 96 keeps all", "were cut: max_length 96 keeps all"}, {"--fit 3 min: all", "minutes 3 min: all"},
        {"give '--no-anchor', or --tensors", "give 'no_anchor', or --tensors"}, {"a--rank", "a--rank"}, {"--", "--"}, {"-- --rank", "-- rank"}, {"", ""}};
    char id[NM_TEACH_ID], line[512], *told;
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        assert_int_equal(nm_teach_files_told(&server->teach->files, said[i][0], &told), NM_OK);
        assert_string_equal(told, said[i][1]);
        nm_free(told);
    }
    upload(id, "talks.jsonl");
    snprintf(line, sizeof line, "%s/nomoat/teach/files/%s.jsonl:3: bad; %s/nomoat/adapters/x: no; %s/nomoat; %s/nomoats", folder, id, folder, folder, folder);
    assert_int_equal(nm_teach_files_told(&server->teach->files, line, &told), NM_OK);
    snprintf(line, sizeof line, "talks.jsonl:3: bad; adapters/x: no; the data folder; %s/nomoats", folder);
    assert_string_equal(told, line);
    nm_free(told);
    json_t *preview = ask("POST", "/nm/teach/preview", lesson(id, "'max_length': 48", ""), 200), *one;
    bool found = false;
    size_t i;
    json_array_foreach(json_object_get(preview, "notes"), i, one) {
        assert_null(strstr(json_string_value(one), "--"));
        found |= strstr(json_string_value(one), "max_length ") != NULL;
    }
    if (!found) fail_msg("no note of what was cut");
    json_decref(preview);
}

static void test_explain(void **state)
{
    char id[NM_TEACH_ID];
    upload(id, "talks.jsonl");
    begin_run(id, LONG, "why");
    json_decref(wait_for("done"));
    json_t *e = ask("POST", "/nm/explain", "{'a': 'tiny+why', 'b': 'tiny', 'messages': [{'role': 'user', 'content': 'What-is-7?'}, {'role': 'assistant',"
        " 'content': 'It-is-7,-and-no-more.'}]}", 200), *token;
    nm_str all = {0};
    size_t i;
    json_array_foreach(json_object_get(e, "tokens"), i, token) {
        assert_int_equal(nm_str_puts(&all, text_of(token, "text")), NM_OK);
        assert_true(json_number_value(json_object_get(token, "a")) <= 0);
        assert_int_equal(json_array_size(json_object_get(token, "top_a")), 5);
        assert_int_equal(json_array_size(json_object_get(token, "top_b")), 5);
    }
    assert_string_equal(all.data, "It-is-7,-and-no-more.");
    assert_true(json_number_value(json_object_get(e, "mean_a")) > json_number_value(json_object_get(e, "mean_b")));     /* it was taught so */
    nm_str_free(&all);
    json_decref(e);
    refused("POST", "/nm/explain", "{'a': 'tiny', 'b': 'tiny', 'messages': [{'role': 'user', 'content': 'x'}]}", 400, "", "assistant");
    refused("POST", "/nm/explain", "{'a': 'tiny', 'messages': []}", 400, "", "\"b\"");
    refused("POST", "/nm/explain", "{'a': 'tiny', 'b': 'no-such', 'messages': [{'role': 'assistant', 'content': 'x'}]}", 404, "model_not_found", "no-such");
    json_decref(ask("POST", "/nm/teach/discard", "", 200));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_files), TEST(test_files_stay), TEST(test_lessons_refused), TEST(test_bad_rows), TEST(test_nothing_written), TEST(test_stopped_early), TEST(test_two_servers),
        TEST(test_preview), TEST(test_forecast), TEST(test_run), TEST(test_discard), TEST(test_stop_and_resume), TEST(test_minutes),
        TEST(test_killed), TEST(test_stack), TEST(test_memory), TEST(test_full_disk), TEST(test_file_is_gone), TEST(test_words), TEST(test_events), TEST(test_chats), TEST(test_explain),
    };
    return cmocka_run_group_tests_name("teach", tests, NULL, NULL);
}
