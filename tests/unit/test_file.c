/* Whole files: bounds, errors and their codes, atomic replacement, folders by the XDG rules; every allocation fails in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "os/file.h"

static char root[256], path[300];

static const char *at(const char *name)
{
    snprintf(path, sizeof path, "%s/%s", root, name);
    return path;
}

static int make_root(void **state)
{
    const char *base = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/nomoat-file-XXXXXX", base ? base : "/tmp");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

static int entries(void)
{
    DIR *d = opendir(root);
    int n = 0;
    assert_non_null(d);
    while (readdir(d)) n++;
    closedir(d);
    return n - 2;
}

static void assert_holds(const char *name, const char *text)
{
    char *data;
    size_t size;
    assert_int_equal(nm_file_read(at(name), 1000, &data, &size), NM_OK);
    assert_int_equal(size, strlen(text));
    assert_string_equal(data, text);
    nm_free(data);
}

static void test_write_and_read(void **state)
{
    char *data;
    size_t size;
    assert_int_equal(nm_file_write(at("a"), "hello", 5), NM_OK);
    assert_holds("a", "hello");
    assert_int_equal(nm_file_write(at("a"), "", 0), NM_OK);
    assert_holds("a", "");
    assert_int_equal(nm_file_write(at("a"), "123456", 6), NM_OK);
    assert_int_equal(nm_file_read(at("a"), 6, &data, &size), NM_OK);
    nm_free(data);
    assert_int_equal(nm_file_read(at("a"), 5, &data, &size), NM_BAD_FILE);
    assert_null(data);
    assert_int_equal(nm_file_read("/dev/zero", 100000, &data, &size), NM_BAD_FILE);
    assert_int_equal(nm_file_read("/dev/null", 0, &data, &size), NM_OK);
    nm_free(data);
    assert_int_equal(entries(), 1);
}

static void test_errors(void **state)
{
    char *data;
    size_t size;
    assert_int_equal(nm_file_read(at("none"), 10, &data, &size), NM_NOT_FOUND);
    assert_non_null(strstr(nm_error_text(), "none"));
    assert_int_equal(nm_file_read(root, 10, &data, &size), NM_BAD_FILE);
    assert_int_equal(nm_file_write(at("none/a"), "x", 1), NM_NOT_FOUND);
    assert_int_equal(nm_file_write(root, "x", 1), NM_USAGE);
    assert_int_equal(nm_file_write("/dev/null", "x", 1), NM_USAGE);
    assert_int_equal(nm_file_write("", "x", 1), NM_NOT_FOUND);
    assert_int_equal(entries(), 0);
}

static void test_new_file(void **state)
{
    nm_new_file file = {0};
    struct stat st;
    nm_new_file_abandon(&file);
    assert_int_equal(nm_file_write(at("m"), "old", 3), NM_OK);
    assert_int_equal(chmod(at("m"), 0600), 0);
    assert_int_equal(nm_new_file_open(&file, at("m")), NM_OK);
    assert_int_equal(nm_new_file_write(&file, "ne", 2), NM_OK);
    assert_int_equal(nm_new_file_write(&file, "w", 1), NM_OK);
    assert_holds("m", "old");                       /* unseen until it is whole */
    assert_int_equal(nm_new_file_commit(&file), NM_OK);
    assert_holds("m", "new");
    assert_int_equal(stat(at("m"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(nm_new_file_open(&file, at("m")), NM_OK);
    assert_int_equal(entries(), 2);
    nm_new_file_abandon(&file);
    assert_int_equal(entries(), 1);
    assert_holds("m", "new");
}

static void test_relative(void **state)
{
    char before[4096];
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(root), 0);
    assert_int_equal(nm_file_write("bare", "1", 1), NM_OK);
    assert_int_equal(nm_folder_make("x/y", 0777), NM_OK);
    assert_int_equal(nm_file_write("x/y/z", "2", 1), NM_OK);
    assert_int_equal(chdir(before), 0);
    assert_holds("bare", "1");
    assert_holds("x/y/z", "2");
}

static void test_full_disk(void **state)
{
    nm_new_file file;
    assert_int_equal(nm_new_file_open(&file, at("full")), NM_OK);
    close(file.fd);
    file.fd = open("/dev/full", O_WRONLY);
    assert_true(file.fd >= 0);
    assert_int_equal(nm_new_file_write(&file, "x", 1), NM_FAILED);
    assert_non_null(strstr(nm_error_text(), "full"));
    nm_new_file_abandon(&file);
    assert_int_equal(entries(), 0);
}

static void test_folders(void **state)
{
    char *folder;
    assert_int_equal(nm_folder_make(at("p//q/r/"), 0777), NM_OK);
    assert_int_equal(nm_folder_make(at("p/q/r"), 0777), NM_OK);
    assert_int_equal(nm_file_write(at("f"), "", 0), NM_OK);
    assert_int_equal(nm_folder_make(at("f"), 0777), NM_FAILED);
    assert_int_equal(nm_folder_make(at("f/g"), 0777), NM_FAILED);
    assert_int_equal(nm_folder_make("", 0777), NM_USAGE);
    assert_int_equal(nm_folder_make("/", 0777), NM_OK);
    assert_int_equal(nm_folder_flush(root), NM_OK);

    setenv("XDG_CACHE_HOME", at("cache"), 1);
    assert_int_equal(nm_folder_open(NM_FOLDER_CACHE, &folder), NM_OK);
    assert_string_equal(folder, at("cache/nomoat"));
    assert_int_equal(access(folder, W_OK), 0);
    nm_free(folder);
    setenv("XDG_DATA_HOME", "relative/is/ignored", 1);
    setenv("HOME", "/home/somebody", 1);
    assert_int_equal(nm_folder_find(NM_FOLDER_DATA, &folder), NM_OK);
    assert_string_equal(folder, "/home/somebody/.local/share/nomoat");
    nm_free(folder);
    unsetenv("XDG_STATE_HOME");
    assert_int_equal(nm_folder_find(NM_FOLDER_STATE, &folder), NM_OK);
    assert_string_equal(folder, "/home/somebody/.local/state/nomoat");
    nm_free(folder);
    unsetenv("HOME");
    assert_int_equal(nm_folder_find(NM_FOLDER_CONFIG, &folder), NM_OK);     /* from the password database */
    assert_true(folder[0] == '/');
    nm_free(folder);
}

static nm_err everything(void)
{
    char *data = NULL, *folder = NULL;
    size_t size;
    nm_err err = nm_file_write(at("a"), "hello", 5);
    if (err == NM_OK) err = nm_file_read(at("a"), 100, &data, &size);
    if (err == NM_OK) err = nm_folder_open(NM_FOLDER_CACHE, &folder);
    nm_free(data);
    nm_free(folder);
    return err;
}

static void test_allocations_fail(void **state)
{
    setenv("XDG_CACHE_HOME", at("c"), 1);
    int64_t alive = nm_mem_alive();
    nm_err err = NM_FAILED;
    for (int64_t n = 0; err != NM_OK; n++) {
        nm_mem_fail_after(n);
        err = everything();
        nm_mem_fail_after(-1);
        assert_true(err == NM_OK || err == NM_NO_MEMORY);
        assert_int_equal(nm_mem_alive(), alive);
        assert_true(n < 1000);
    }
    assert_int_equal(entries(), 2);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, make_root, remove_root)
    const struct CMUnitTest tests[] = {CASE(test_write_and_read), CASE(test_errors), CASE(test_new_file), CASE(test_relative),
        CASE(test_full_disk), CASE(test_folders), CASE(test_allocations_fail)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
