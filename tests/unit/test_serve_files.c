/* The engine of the server keeps prefixes in files: what comes of them is what would come without, whatever became of the files meanwhile. On a real model. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/str.h"
#include "os/clock.h"
#include "os/file.h"
#include "server/engine_impl.h"

#include "smollm.h"

static char folder[64];

static char **files(size_t *count)
{
    char **names;
    assert_int_equal(nm_folder_names(&names, count, folder, ".session"), NM_OK);
    return names;
}

static size_t count_files(void)
{
    size_t n;
    char **names = files(&n);
    nm_names_free(names, n);
    return n;
}

static void empty_folder(void)
{
    char path[400], **names;
    size_t n;
    assert_int_equal(nm_folder_names(&names, &n, folder, ""), NM_OK);
    for (size_t i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        assert_int_equal(unlink(path), 0);
    }
    nm_names_free(names, n);
}

static void remove_folder(void)
{
    empty_folder();
    assert_int_equal(rmdir(folder), 0);
    *folder = 0;
}

static int notes;
static void count_note(void *arg, const char *line)
{
    (void)arg;
    print_message("# %s\n", line);
    notes++;
}

static void make_folder(void)
{
    snprintf(folder, sizeof folder, "/tmp/nomoat-test-shelf-%ld", (long)getpid());
    notes = 0;
}

static nm_engine *open_with_folder(const char *model, uint64_t most)
{
    nm_engine *e;
    nm_engine_options o = {.models = &model, .n_models = 1, .kept_folder = folder, .kept = most, .note = count_note, .kept_folder_bytes = most};
    nm_err err = nm_engine_open(&e, &o);
    if (err != NM_OK) print_error("%s\n", nm_error_text());
    assert_int_equal(err, NM_OK);
    return e;
}

/* About 820 tokens, of which all but the last few are one for all numbers of a letter. */
static void long_prompt(nm_str *s, char letter, int number)
{
    s->length = 0;
    for (int i = 0; i < 60; i++) assert_int_equal(nm_str_printf(s, "%c: line %d says that %d is a number. ", letter, i, i * i), NM_OK);
    assert_int_equal(nm_str_printf(s, "So the answer to question %d is", number), NM_OK);
}

/* The answer to the prompt; how many of its tokens were known. */
static int32_t asked(nm_engine *e, const nm_str *prompt, bool no_cache, char *out, size_t size, int32_t *prompt_tokens)
{
    client c = {0};
    nm_ask a = ask_text(prompt->data, 16);
    a.no_cache = no_cache;
    begin(e, &c, &a);
    finish(&c);
    assert_int_equal(c.end.err, NM_OK);
    snprintf(out, size, "%s", text_of(&c, 0));
    int32_t known = c.end.cached_tokens;
    if (prompt_tokens) *prompt_tokens = c.end.prompt_tokens;
    forget(&c);
    return known;
}

/* Serves once with the folder, and ends in good order. */
static int32_t served(const char *model, const nm_str *prompt, char *out, size_t size, int32_t *prompt_tokens)
{
    nm_engine *e = open_with_folder(model, 0);
    int32_t known = asked(e, prompt, false, out, size, prompt_tokens);
    nm_engine_close(&e);
    return known;
}

static void damage_first(void)
{
    char path[400], **names;
    size_t n;
    names = files(&n);
    assert_true(n > 0);
    snprintf(path, sizeof path, "%s/%s", folder, names[0]);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, 4000000, SEEK_SET), 0);
    int c = fgetc(f);
    assert_int_equal(fseek(f, 4000000, SEEK_SET), 0);
    fputc(c ^ 1, f);
    assert_int_equal(fclose(f), 0);
    nm_names_free(names, n);
}

static void test_kept_in_files(void **state)
{
    (void)state;
    NEED_MODEL();
    make_folder();
    nm_str prompt = {0};
    char expected[1024], other[1024], text[1024];
    int32_t n;
    nm_engine *e = open_engine((nm_engine_options){0});
    long_prompt(&prompt, 'a', 2);
    asked(e, &prompt, true, other, sizeof other, NULL);
    long_prompt(&prompt, 'a', 1);
    asked(e, &prompt, true, expected, sizeof expected, NULL);
    nm_engine_close(&e);
    assert_int_equal(served(model_path, &prompt, text, sizeof text, NULL), 0);
    assert_string_equal(text, expected);
    struct stat st;
    char path[400], **names = files(&(size_t){0});
    assert_int_equal(stat(folder, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    snprintf(path, sizeof path, "%s/%s", folder, names[0]);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    nm_names_free(names, 1);
    /* Again, and what begins in the same way: as if it were computed. */
    assert_true(served(model_path, &prompt, text, sizeof text, &n) == n - 1);
    assert_string_equal(text, expected);
    long_prompt(&prompt, 'a', 2);
    assert_true(served(model_path, &prompt, text, sizeof text, NULL) > n - 30);
    assert_string_equal(text, other);
    assert_int_equal(notes, 0);
    /* A file that is damaged is removed, said so, and nothing else. */
    long_prompt(&prompt, 'a', 1);
    empty_folder();
    served(model_path, &prompt, text, sizeof text, NULL);
    damage_first();
    assert_int_equal(served(model_path, &prompt, text, sizeof text, NULL), 0);
    assert_string_equal(text, expected);
    assert_int_equal(notes, 1);
    assert_int_equal(count_files(), 1);
    assert_true(served(model_path, &prompt, text, sizeof text, &n) == n - 1);
    assert_int_equal(notes, 1);
    nm_str_free(&prompt);
    remove_folder();
}

/* Half files of a server that was killed go, but not those that another may be writing. */
static void test_left_files(void **state)
{
    static const char *const before[] = {"0123", ".nomoat-7-", "other"}, *const behind[] = {".part", ".tmp", ""};
    char path[2][3][200];
    (void)state;
    NEED_MODEL();
    make_folder();
    assert_int_equal(nm_folder_make(folder, 0700), NM_OK);
    for (int old = 0; old < 2; old++)
        for (int i = 0; i < 3; i++) {
            snprintf(path[old][i], sizeof path[old][i], "%s/%s%d%s", folder, before[i], old, behind[i]);
            assert_int_equal(nm_file_write(path[old][i], "x", 1), NM_OK);
            struct timespec then[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};
            if (old) assert_int_equal(utimensat(AT_FDCWD, path[old][i], then, 0), 0);
        }
    nm_engine *e = open_with_folder(model_path, 0);
    nm_engine_close(&e);
    for (int old = 0; old < 2; old++)
        for (int i = 0; i < 3; i++) {
            bool there = !access(path[old][i], F_OK);
            assert_int_equal(there, !old || i == 2);
            if (there) unlink(path[old][i]);
        }
    remove_folder();
}

/* Two stacks of one name: what was kept of the one is nothing for the other. */
static void test_files_of_other_stacks(void **state)
{
    (void)state;
    NEED_MODEL();
    const char *data = getenv("NOMOAT_TEST_DATA");
    char stack[2][800], at[2][80], target[500], link[200], text[1024], expected[1024];
    nm_str prompt = {0};
    int32_t n;
    if (!data) {
        print_message("needs NOMOAT_TEST_DATA\n");
        skip();
    }
    make_folder();
    for (int i = 0; i < 2; i++) {
        snprintf(at[i], sizeof at[i], "/tmp/nomoat-test-stack-%ld-%d", (long)getpid(), i);
        snprintf(target, sizeof target, "%s/oracle/lora_%c/final", data, 'a' + i);
        snprintf(link, sizeof link, "%s/taste", at[i]);
        assert_int_equal(mkdir(at[i], 0700), 0);
        assert_int_equal(symlink(target, link), 0);
        snprintf(stack[i], sizeof stack[i], "%s+%s", model_path, link);
    }
    long_prompt(&prompt, 'b', 1);
    assert_int_equal(served(stack[0], &prompt, text, sizeof text, NULL), 0);
    assert_int_equal(served(model_path, &prompt, text, sizeof text, NULL), 0);      /* another name: not looked at */
    assert_int_equal(notes, 0);
    assert_int_equal(count_files(), 2);
    assert_int_equal(served(stack[1], &prompt, expected, sizeof expected, NULL), 0);
    assert_int_equal(notes, 1);
    assert_int_equal(count_files(), 2);
    assert_true(served(stack[1], &prompt, text, sizeof text, &n) == n - 1);
    assert_string_equal(text, expected);
    for (int i = 0; i < 2; i++) {
        snprintf(link, sizeof link, "%s/taste", at[i]);
        assert_int_equal(unlink(link), 0);
        assert_int_equal(rmdir(at[i]), 0);
    }
    nm_str_free(&prompt);
    remove_folder();
}

/* Memory for one: the other goes into a file while the engine works, and the folder has room for one as well. */
static void test_files_while_serving(void **state)
{
    (void)state;
    NEED_MODEL();
    make_folder();
    nm_str prompt = {0};
    char expected[1024], text[1024];
    nm_engine *e = open_with_folder(model_path, 30000000);
    long_prompt(&prompt, 'c', 1);
    asked(e, &prompt, false, expected, sizeof expected, NULL);
    long_prompt(&prompt, 'd', 1);
    asked(e, &prompt, false, text, sizeof text, NULL);
    double until = nm_clock_seconds() + 120;       /* the machine may do other things as well */
    while (!count_files() && nm_clock_seconds() < until) usleep(5000);
    assert_int_equal(count_files(), 1);
    long_prompt(&prompt, 'c', 1);
    assert_true(asked(e, &prompt, false, text, sizeof text, NULL) > 500);
    assert_string_equal(text, expected);
    nm_engine_close(&e);
    assert_int_equal(count_files(), 1);
    assert_int_equal(notes, 0);
    remove_folder();
    /* A folder that cannot be is no reason not to serve. */
    snprintf(folder, sizeof folder, "/dev/null/nowhere");
    prompt.length = 0;
    assert_int_equal(nm_str_puts(&prompt, "x"), NM_OK);
    assert_int_equal(served(model_path, &prompt, text, sizeof text, NULL), 0);
    assert_int_equal(notes, 1);
    nm_str_free(&prompt);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept_in_files), cmocka_unit_test(test_left_files), cmocka_unit_test(test_files_of_other_stacks), cmocka_unit_test(test_files_while_serving),
    };
    return cmocka_run_group_tests_name("serve_files", tests, NULL, NULL);
}
