/* The engine of the server with adapters: stacks in one batch, their names, their scales for everybody. On a real model. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "os/file.h"
#include "server/engine_impl.h"

#include "smollm.h"

/* A data folder with the adapters a and b in its store, on which XDG_DATA_HOME points; `last` is b's path in the store. */
static void make_store(char *root, const char *data, char last[300])
{
    char target[500];
    assert_non_null(mkdtemp(root));
    setenv("XDG_DATA_HOME", root, 1);
    snprintf(last, 300, "%s/nomoat/adapters", root);
    assert_int_equal(nm_folder_make(last, 0700), NM_OK);
    for (int i = 0; i < 2; i++) {
        snprintf(target, sizeof target, "%s/oracle/lora_%c/final", data, 'a' + i);
        snprintf(last, 300, "%s/nomoat/adapters/%c", root, 'a' + i);
        assert_int_equal(symlink(target, last), 0);
    }
}

typedef struct heard { char text[1024]; double sum; int32_t cached; } heard;
static void hear(heard *h, client *c)
{
    finish(c);
    assert_int_equal(c->end.err, NM_OK);
    *h = (heard){.sum = c->logprob_sum, .cached = c->end.cached_tokens};
    snprintf(h->text, sizeof h->text, "%s", text_of(c, 0));
    forget(c);
}

/* Requests with different stacks share passes, and what is kept is kept by stack, its scales and its order: each answer is, to the bit, what it is alone. */
static void test_stacks_together(void **state)
{
    static const char *const stacks[] = {"", "+a", "+b", "+a=0.5", "+a+b", "+b+a", "+a+b=0.25"};
    enum { N = sizeof stacks / sizeof *stacks };
    char root[] = "/tmp/nomoat-test-stacks-XXXXXX", last[300], names[N][100];
    const char *data = getenv("NOMOAT_TEST_DATA");
    (void)state;
    NEED_MODEL();
    if (!data) skip();
    make_store(root, data, last);
    nm_engine *e = open_engine((nm_engine_options){0});
    nm_ask a = ask_text("Once upon a time there was a small house at the end of a long road, and in it lived a man who had", 12);
    heard single[N], together;
    client c[N] = {{.pieces = 0}};
    a.top_logprobs = 0;
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "smollm2-135m-instruct-q4_1%s", stacks[i]);
        a.model = names[i], a.no_cache = true;
        begin(e, &c[i], &a);
        hear(&single[i], &c[i]);
    }
    for (int round = 0; round < 2; round++) {
        a.no_cache = false;
        for (int i = 0; i < N; i++) a.model = names[i], begin(e, &c[i], &a);
        for (int i = 0; i < N; i++) {
            hear(&together, &c[i]);
            assert_string_equal(together.text, single[i].text);
            assert_memory_equal(&together.sum, &single[i].sum, sizeof together.sum);
            assert_true(round ? together.cached > 20 : together.cached == 0);
        }
    }
    for (int i = 1; i < N; i++)
        for (int k = 0; k < i; k++) assert_true(single[i].sum != single[k].sum || (i == 5 && k == 4));      /* the order need not show */
    nm_engine_close(&e);
    unsetenv("XDG_DATA_HOME");
}

static heard ask_for(nm_engine *e, const char *model)
{
    nm_ask a = ask_text("Once upon a time there was a small house at the end of a long road, and in it lived a man who had", 12);
    client c = {0};
    heard h;
    a.top_logprobs = 0;
    a.model = model;
    begin(e, &c, &a);
    hear(&h, &c);
    return h;
}

static void assert_same(const heard *a, const heard *b)
{
    assert_string_equal(a->text, b->text);
    assert_memory_equal(&a->sum, &b->sum, sizeof a->sum);
}

/* A name means one thing: else clients, and the stack itself, would get the first of two. */
static void test_two_of_a_name(void **state)
{
    char given[2400];
    const char *data = getenv("NOMOAT_TEST_DATA");
    (void)state;
    NEED_MODEL();
    if (!data) skip();
    nm_engine *e;
    const char *models[] = {given};
    nm_engine_options o = {.models = models, .n_models = 1};
    snprintf(given, sizeof given, "%s+%s/oracle/lora_a/final+%s/oracle/lora_b/final", model_path, data, data);
    assert_int_equal(nm_engine_open(&e, &o), NM_USAGE);
    assert_non_null(strstr(nm_error_text(), "two adapters are called final"));
    snprintf(given, sizeof given, "%s+%s/oracle/lora_a/final/+%s/oracle/lora_a/final/=0.5", model_path, data, data);
    if (nm_engine_open(&e, &o) != NM_OK) fail_msg("%s", nm_error_text());
    char *first = nm_engine_first(e);
    assert_string_equal(first, "smollm2-135m-instruct-q4_1+final+final=0.5");
    nm_free(first);
    nm_engine_close(&e);
}

/* Scales for everybody are those of requests that name no model; names go on to mean what they say. */
static void test_scales_for_all(void **state)
{
    char root[] = "/tmp/nomoat-test-scales-XXXXXX", last[300], given[1200];
    const char *data = getenv("NOMOAT_TEST_DATA");
    (void)state;
    NEED_MODEL();
    if (!data) skip();
    make_store(root, data, last);
    snprintf(given, sizeof given, "%s+a+b=0.5", model_path);
    nm_engine *e;
    const char *models[] = {given};
    nm_engine_options o = {.models = models, .n_models = 1};
    if (nm_engine_open(&e, &o) != NM_OK) fail_msg("%s", nm_error_text());
    heard before = ask_for(e, NULL), half = ask_for(e, "smollm2-135m-instruct-q4_1+a=0.25+b"), one = ask_for(e, "smollm2-135m-instruct-q4_1+b"), now;
    assert_int_equal(nm_engine_set_scales(e, (double[]){0.25, 1}, 2), NM_OK);
    now = ask_for(e, NULL);
    assert_same(&now, &half);
    assert_int_equal(nm_engine_set_scales(e, (double[]){0, 1}, 2), NM_OK);
    now = ask_for(e, NULL);
    assert_string_equal(now.text, one.text);
    char *first = nm_engine_first(e);
    assert_string_equal(first, "smollm2-135m-instruct-q4_1+a=0+b");      /* places stay */
    nm_free(first);
    assert_int_equal(nm_engine_set_scales(e, (double[]){1}, 1), NM_USAGE);
    assert_int_equal(nm_engine_set_scales(e, (double[]){1, 1001}, 2), NM_USAGE);
    assert_int_equal(nm_engine_set_scales(e, (double[]){1, (double)NAN}, 2), NM_USAGE);
    now = ask_for(e, "smollm2-135m-instruct-q4_1+a+b=0.5");
    assert_same(&now, &before);
    assert_int_equal(nm_engine_set_scales(e, (double[]){1, 0.5}, 2), NM_OK);
    now = ask_for(e, NULL);
    assert_same(&now, &before);
    nm_engine_close(&e);
    unsetenv("XDG_DATA_HOME");
}

/* Names that clients give: within the store, none that somebody else would be misled by, and none of the command line's is taken away. */
static void test_added_adapters(void **state)
{
    char root[] = "/tmp/nomoat-test-added-XXXXXX", path[300], target[500], given[1200];
    const char *data = getenv("NOMOAT_TEST_DATA");
    (void)state;
    NEED_MODEL();
    if (!data) skip();
    make_store(root, data, path);
    snprintf(target, sizeof target, "%s/oracle/lora_b/final", data);
    snprintf(given, sizeof given, "%s+%s=0.5", model_path, target);
    nm_engine *e;
    const char *models[] = {given};
    nm_engine_options o = {.models = models, .n_models = 1};
    if (nm_engine_open(&e, &o) != NM_OK) fail_msg("%s", nm_error_text());
    static const char *const outside[] = {"/etc/passwd", "../adapters/a", "a/../b", "/", "", "a/", "./a"};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) assert_int_equal(nm_engine_add_adapter(e, "x", outside[i]), NM_REFUSED);
    static const char *const bad[] = {"", "7", "a+b", "a=1", "a:1", "../x", "x/y", "final", "FINAL"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(nm_engine_add_adapter(e, bad[i], "a"), NM_USAGE);
    assert_int_equal(nm_engine_add_adapter(e, "b", "a"), NM_USAGE);         /* another's name */
    assert_int_equal(nm_engine_add_adapter(e, "a", path), NM_USAGE);        /* b's path */
    assert_int_equal(nm_engine_add_adapter(e, "a", "a"), NM_OK);
    assert_int_equal(nm_engine_add_adapter(e, "x", "a"), NM_OK);
    assert_int_equal(nm_engine_remove_adapter(e, "x"), NM_OK);
    assert_int_equal(nm_engine_remove_adapter(e, "x"), NM_NOT_FOUND);
    assert_int_equal(nm_engine_remove_adapter(e, "final"), NM_NOT_FOUND);   /* the command line's */
    client c = {0};
    nm_ask a = ask_text("The capital of France is", 2);
    begin(e, &c, &a);
    finish(&c);
    assert_int_equal(c.end.err, NM_OK);
    assert_non_null(strstr(c.model, "+final=0.5"));
    forget(&c);
    nm_engine_close(&e);
    unsetenv("XDG_DATA_HOME");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stacks_together), cmocka_unit_test(test_two_of_a_name), cmocka_unit_test(test_scales_for_all), cmocka_unit_test(test_added_adapters)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
