/* The store and the names of models, in a temporary home: import, list, find, remove, verify, the Hugging Face cache, failing memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "hub/hub.h"
#include "nm_config.h"
#include "nomoat.h"
#include "os/file.h"

static char root[] = "/tmp/nomoat-test-XXXXXX";

static void shell(const char *format, ...)
{
    char command[1024];
    va_list ap;
    va_start(ap, format);
    vsnprintf(command, sizeof command, format, ap);
    va_end(ap);
    assert_int_equal(system(command), 0);
}

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(root) || chdir(root)) return -1;
    setenv("HOME", root, 1);
    unsetenv("XDG_DATA_HOME");
    unsetenv("XDG_CACHE_HOME");
    unsetenv("HF_HOME");
    unsetenv("HF_HUB_CACHE");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return chdir("/") || system(command);
}

static int empty_home(void **state)
{
    (void)state;
    return system("rm -rf ./* .local .cache");
}

static nm_err import(const char *path, const char *name, const nm_import_options *o)
{
    nm_found found;
    nm_stored_as as;
    nm_err err = nm_store_import(&found, &as, path, name, o);
    nm_found_free(&found);
    return err;
}

static void assert_found(const char *model, const char *path_end, nm_place place)
{
    nm_found f;
    assert_int_equal(nm_model_find(&f, model), NM_OK);
    size_t n = strlen(f.path), m = strlen(path_end);
    assert_true(n >= m);
    assert_string_equal(f.path + n - m, path_end);
    assert_int_equal(f.place, place);
    nm_found_free(&f);
}

static void assert_missing(const char *model, nm_err expected)
{
    nm_found f;
    assert_int_equal(nm_model_find(&f, model), expected);
    assert_null(f.path);
    assert_true(nm_error_text()[0] && !strchr(nm_error_text(), '\n'));
}

static void test_import(void **state)
{
    (void)state;
    nm_found f, *list;
    nm_stored_as as;
    size_t count;
    shell("printf abc > 'My model.Q4_0.gguf'");
    assert_int_equal(nm_store_import(&f, &as, "My model.Q4_0.gguf", NULL, NULL), NM_OK);
    assert_string_equal(f.name, "My-model.Q4_0");
    assert_int_equal(f.bytes, 3);
    if (NM_HAVE_OPENSSL) assert_string_equal(f.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    nm_found_free(&f);
    assert_int_equal(import("My model.Q4_0.gguf", NULL, NULL), NM_REFUSED);
    assert_int_equal(import("My model.Q4_0.gguf", "b:7b", &(nm_import_options){.copy = true}), NM_OK);
    assert_int_equal(nm_found_list(&list, &count), NM_OK);
    assert_int_equal(count, 2);
    assert_string_equal(list[0].name, "My-model.Q4_0");
    assert_string_equal(list[1].name, "b:7b");
    nm_found_list_free(list, count);
    assert_found("b:7b", "/.local/share/nomoat/models/b:7b/My-model.Q4_0.gguf", NM_PLACE_STORE);
    assert_found("b:7b:latest", ".gguf", NM_PLACE_STORE);
    assert_found("B:7B", ".gguf", NM_PLACE_STORE);
    shell("test -z \"$(ls -d .local/share/nomoat/models/.tmp 2>/dev/null)\"");
    if (NM_HAVE_OPENSSL) shell("cd .local/share/nomoat/models/b:7b && sha256sum -c --quiet SHA256SUMS");
}

static void test_replace_and_remove(void **state)
{
    (void)state;
    nm_found f;
    shell("printf abc > a.gguf; printf xyzzy > b.gguf");
    assert_int_equal(import("a.gguf", "m", NULL), NM_OK);
    assert_int_equal(import("b.gguf", "m", &(nm_import_options){.replace = true}), NM_OK);
    assert_int_equal(nm_model_find(&f, "m"), NM_OK);
    assert_int_equal(f.bytes, 5);
    nm_found_free(&f);
    assert_int_equal(nm_store_remove("m:latest"), NM_OK);
    assert_int_equal(nm_store_remove("m"), NM_NOT_FOUND);
    assert_int_equal(nm_store_remove("../m"), NM_USAGE);
    assert_missing("m", NM_NOT_FOUND);
    shell("test -f a.gguf -a -f b.gguf");
    shell("test \"$(ls -A .local/share/nomoat/models)\" = .lock");
}

static void test_split(void **state)
{
    (void)state;
    nm_found f;
    shell("for i in 1 2 3; do printf abc > x-0000$i-of-00003.gguf; done");
    assert_int_equal(import("x-00002-of-00003.gguf", NULL, NULL), NM_USAGE);
    assert_int_equal(import("x-00001-of-00003.gguf", "s", NULL), NM_OK);
    assert_int_equal(nm_model_find(&f, "s"), NM_OK);
    assert_int_equal(f.files, 3);
    assert_int_equal(f.bytes, 9);
    nm_found_free(&f);
    shell("rm x-00003*");
    assert_int_equal(import("x-00001-of-00003.gguf", "t", NULL), NM_NOT_FOUND);
    assert_missing("t", NM_NOT_FOUND);
}

static void test_sources(void **state)
{
    (void)state;
    shell("mkdir d two none; printf abc > d/only.gguf; printf a > two/a.gguf; printf b > two/b.gguf; ln -s d/only.gguf link.gguf; mkfifo "
          "pipe.gguf");
    assert_int_equal(import("d", NULL, NULL), NM_OK);
    assert_found("only", "only.gguf", NM_PLACE_STORE);
    assert_int_equal(import("two", NULL, NULL), NM_USAGE);
    assert_int_equal(import("none", NULL, NULL), NM_REFUSED);
    assert_int_equal(import("missing.gguf", NULL, NULL), NM_NOT_FOUND);
    assert_int_equal(import("pipe.gguf", NULL, NULL), NM_BAD_FILE);
    assert_int_equal(import("link.gguf", "linked", NULL), NM_OK);
    shell("test ! -L .local/share/nomoat/models/linked/link.gguf");
    static const char *const bad[] = {"", "-x", ".x", "a/b", "a+b", "a b", "..", "a\nb"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(import("d", bad[i], NULL), NM_USAGE);
}

static void test_verify(void **state)
{
    (void)state;
    nm_found f;
    if (!NM_HAVE_OPENSSL) {
        print_message("verify needs OpenSSL\n");
        skip();
    }
    shell("printf abc > a.gguf");
    assert_int_equal(import("a.gguf", "a", &(nm_import_options){.copy = true}), NM_OK);
    assert_int_equal(nm_model_find(&f, "a"), NM_OK);
    assert_int_equal(nm_store_verify(&f, NULL, NULL), NM_OK);
    shell("printf abd > .local/share/nomoat/models/a/a.gguf");
    assert_int_equal(nm_store_verify(&f, NULL, NULL), NM_BAD_FILE);
    shell("rm .local/share/nomoat/models/a/a.gguf");
    assert_int_equal(nm_store_verify(&f, NULL, NULL), NM_BAD_FILE);
    shell("rm .local/share/nomoat/models/a/SHA256SUMS");
    assert_int_equal(nm_store_verify(&f, NULL, NULL), NM_REFUSED);
    nm_found_free(&f);
}

static bool ask_stop(void *arg, uint64_t done, uint64_t total)
{
    assert_true(done <= total);
    return ++*(int *)arg > 1;
}

static void test_interrupted(void **state)
{
    (void)state;
    int calls = 0;
    if (!NM_HAVE_OPENSSL) skip();
    shell("head -c 3000000 /dev/zero > a.gguf; mkdir -p .local/share/nomoat/models/.tmp; printf x > "
          ".local/share/nomoat/models/.tmp/left.gguf");
    nm_import_options o = {.copy = true, .progress = ask_stop, .progress_arg = &calls};
    assert_int_equal(import("a.gguf", "a", &o), NM_INTERRUPTED);
    assert_missing("a", NM_NOT_FOUND);
    shell("test \"$(ls -A .local/share/nomoat/models)\" = .lock");
}

static void test_paths_win(void **state)
{
    (void)state;
    shell("printf abc > a.gguf");
    assert_int_equal(import("a.gguf", "m", NULL), NM_OK);
    shell("printf path > m; printf x > m+a");
    assert_found("m", "m", NM_PLACE_PATH);
    assert_found("m+a", "m+a", NM_PLACE_PATH);
    assert_missing("m+b=0.5", NM_NOT_FOUND);
    assert_missing("", NM_USAGE);
    assert_missing("nothing", NM_NOT_FOUND);
    assert_missing("./nothing.gguf", NM_NOT_FOUND);
    assert_missing("a\n\x1b[31m", NM_NOT_FOUND);
}

static void test_hf_cache(void **state)
{
    (void)state;
    nm_found *list;
    size_t count;
    shell("h=.cache/huggingface/hub; mkdir -p $h/models--o--one/snapshots/c1 $h/models--o--one/refs $h/models--o--one/blobs "
          "$h/models--o--many/snapshots/old"
          " $h/models--o--many/snapshots/new/sub $h/models--o--many/refs; printf abc > $h/models--o--one/blobs/b; ln -s ../../blobs/b "
          "$h/models--o--one/snapshots/c1/One.gguf;"
          "printf c1 > $h/models--o--one/refs/main; printf old > $h/models--o--many/snapshots/old/old.gguf; printf new > "
          "$h/models--o--many/refs/main;"
          "for q in Q4_K_M Q8_0; do printf $q > $h/models--o--many/snapshots/new/many-$q.gguf; done; printf p > "
          "$h/models--o--many/snapshots/new/mmproj-x.gguf;"
          "for i in 1 2; do printf p > $h/models--o--many/snapshots/new/sub/big-BF16-0000$i-of-00002.gguf; done; mkdir $h/models--o--none "
          "$h/datasets--o--d");
    assert_found("o/one", "snapshots/c1/One.gguf", NM_PLACE_HF_CACHE);
    assert_found("o/one:latest", "One.gguf", NM_PLACE_HF_CACHE);
    assert_found("o/many", "new/many-Q4_K_M.gguf", NM_PLACE_HF_CACHE);
    assert_found("o/many:q8_0", "many-Q8_0.gguf", NM_PLACE_HF_CACHE);
    assert_found("o/many:many-Q8_0.gguf", "many-Q8_0.gguf", NM_PLACE_HF_CACHE);
    assert_found("o/many/many-Q8_0.gguf", "many-Q8_0.gguf", NM_PLACE_HF_CACHE);
    assert_found("o/many:BF16", "sub/big-BF16-00001-of-00002.gguf", NM_PLACE_HF_CACHE);
    assert_missing("o/many:many", NM_USAGE);
    assert_missing("o/many:Q2_K", NM_NOT_FOUND);
    assert_non_null(strstr(nm_error_text(), "many-Q8_0.gguf"));
    assert_missing("o/none", NM_NOT_FOUND);
    assert_missing("o/missing", NM_NOT_FOUND);
    assert_missing("o/../one", NM_NOT_FOUND);
    assert_int_equal(nm_found_list(&list, &count), NM_OK);
    assert_int_equal(count, 4);
    assert_string_equal(list[0].name, "o/many:many-Q4_K_M.gguf");
    assert_string_equal(list[2].name, "o/many:sub/big-BF16-00001-of-00002.gguf");
    assert_int_equal(list[2].bytes, 2);
    assert_string_equal(list[3].name, "o/one");
    for (size_t i = 0; i < count; i++) assert_found(list[i].name, strrchr(list[i].path, '/'), NM_PLACE_HF_CACHE);
    nm_found_list_free(list, count);
    shell("mv .cache/huggingface/hub elsewhere");
    setenv("HF_HUB_CACHE", "elsewhere", 1);
    assert_found("o/one", "One.gguf", NM_PLACE_HF_CACHE);
    unsetenv("HF_HUB_CACHE");
    shell("mkdir home; mv elsewhere home/hub");
    setenv("HF_HOME", "home", 1);
    assert_found("o/one", "One.gguf", NM_PLACE_HF_CACHE);
    unsetenv("HF_HOME");
}

static void test_split_names(void **state)
{
    (void)state;
    int number, count;
    size_t stem;
    assert_true(nm_split_name("a-00002-of-00010.gguf", &number, &count, &stem));
    assert_int_equal(number * 100 + count, 210);
    assert_int_equal(stem, 1);
    static const char *const no[] = {"a.gguf", "-00001-of-00002.gguf", "a-00000-of-00002.gguf", "a-00003-of-00002.gguf",
                                     "a-0001-of-00002.gguf",
        "a-00001_of-00002.gguf", "a-00001-of-00002.gguf2", "a-0000x-of-00002.gguf", ""};
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) assert_false(nm_split_name(no[i], &number, &count, &stem));
}

/* Every allocation fails in turn: no leak, no crash, nothing half-made in the store. */
static void test_failing_memory(void **state)
{
    (void)state;
    shell("mkdir -p .cache/huggingface/hub/models--o--one/snapshots/c1; printf a > "
          ".cache/huggingface/hub/models--o--one/snapshots/c1/x.gguf; printf abc > a.gguf");
    for (int n = 0, done = 0; !done; n++) {
        nm_found f = {0}, g = {0}, *list = NULL;
        nm_stored_as as;
        size_t count = 0;
        int64_t alive = nm_mem_alive();
        assert_true(n < 1000);
        nm_mem_fail_after(n);
        nm_err err = nm_store_import(&f, &as, "a.gguf", "m", NULL);
        bool stored = err == NM_OK;
        if (err == NM_OK) err = nm_found_list(&list, &count);
        if (err == NM_OK) err = nm_model_find(&g, "o/one");
        if (err == NM_OK && NM_HAVE_OPENSSL) err = nm_store_verify(&f, NULL, NULL);
        if (err == NM_OK) err = nm_store_remove("m");
        nm_mem_fail_after(-1);
        assert_true(err == NM_OK || err == NM_NO_MEMORY);
        done = err == NM_OK;
        nm_found_free(&f);
        nm_found_free(&g);
        nm_found_list_free(list, count);
        assert_int_equal(nm_mem_alive(), alive);
        if (!done && (stored || !access(".local/share/nomoat/models/m", F_OK))) nm_store_remove("m");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_import, empty_home), cmocka_unit_test_teardown(test_replace_and_remove, empty_home),
        cmocka_unit_test_teardown(test_split, empty_home), cmocka_unit_test_teardown(test_sources, empty_home),
        cmocka_unit_test_teardown(test_verify, empty_home), cmocka_unit_test_teardown(test_interrupted, empty_home),
        cmocka_unit_test_teardown(test_paths_win, empty_home), cmocka_unit_test_teardown(test_hf_cache, empty_home),
        cmocka_unit_test(test_split_names), cmocka_unit_test_teardown(test_failing_memory, empty_home),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
