/* The engine's promises, to the bit: a row's result depends neither on the number of threads, nor on who else is in the batch, nor on how
 * the prompt was cut, nor on what became of the session in between (fork, truncate, save, load). Uses the tiny models of the test data. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "nomoat.h"

enum { PROMPT = 300, VOCAB = 512 };
static int32_t prompt[PROMPT];
static float reference[PROMPT][VOCAB], got[PROMPT][VOCAB];


typedef struct setting { const char *name; nm_kv_type kv; nm_compute compute; } setting;
static const setting settings[] = {
    {"llama3", NM_KV_F16, NM_COMPUTE_DEFAULT}, {"gemma3", NM_KV_F32, NM_COMPUTE_F32}, {"falcon", NM_KV_Q8_0, NM_COMPUTE_DEFAULT},
    {"gemma2", NM_KV_F16, NM_COMPUTE_DEFAULT},
};

static nm_model *open_model(const char *name)
{
    char path[4096];
    nm_model *model;
    const char *folder = getenv("NOMOAT_TEST_DATA");
    if (!folder) {
        print_message("skipped: the engine on %s: NOMOAT_TEST_DATA is not set\n", name);
        skip();
    }
    snprintf(path, sizeof path, "%s/tiny/%s.gguf", folder, name);
    if (nm_model_open(&model, path, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    return model;
}

static nm_err keep(void *arg, int32_t index, const float *logits, int32_t n_vocab)
{
    memcpy((float *)arg + (size_t)index * VOCAB, logits, (size_t)n_vocab * sizeof *logits);
    return NM_OK;
}

static int32_t length_for(const nm_model *m) { return nm_model_describe(m)->n_context < PROMPT ? nm_model_describe(m)->n_context : PROMPT; }

static nm_session *open_session(const nm_model *m, const setting *x)
{
    nm_session *s;
    assert_int_equal(nm_session_open(&s, m, &(nm_session_options){.kv = x->kv, .compute = x->compute}), NM_OK);
    return s;
}

static nm_runner *open_runner(const nm_model *m, const setting *x, int32_t rows)
{
    nm_runner *r;
    assert_int_equal(nm_runner_open(&r, m, &(nm_runner_options){.compute = x->compute, .max_rows = rows, .max_logits = rows > 3 ? 7 : 0}), NM_OK);
    return r;
}

/* Runs prompt[from, to) and keeps every row's logits in out[from...]. */
static void feed(nm_runner *r, nm_session *s, int32_t from, int32_t to, float (*out)[VOCAB])
{
    nm_item item = {.session = s, .tokens = prompt + from, .count = to - from, .want = NM_WANT_ALL, .on_logits = keep, .arg = out[from]};
    if (nm_run(r, &item, 1, NULL) != NM_OK) fail_msg("%s", nm_error_text());
}

static void same(int32_t from, int32_t to, const char *what)
{
    for (int32_t i = from; i < to; i++)
        if (memcmp(reference[i], got[i], sizeof got[i])) fail_msg("%s: row %d differs", what, (int)i);
}

static void make_reference(const nm_model *m, const setting *x)
{
    for (int32_t i = 0; i < PROMPT; i++) prompt[i] = (int32_t)((unsigned)i * 7919u % VOCAB);
    nm_session *s = open_session(m, x);
    nm_runner *r = open_runner(m, x, 512);
    nm_set_threads(1);
    feed(r, s, 0, length_for(m), reference);
    nm_runner_close(&r);
    nm_session_close(&s);
}

static void test_threads_and_cuts(void **state)
{
    const setting *x = *state;
    nm_model *m = open_model(x->name);
    int32_t n = length_for(m);
    make_reference(m, x);
    static const int threads[] = {1, 2, 3, 7};
    static const int32_t cuts[] = {1, 2, 3, 5, 16, 63, 64, 65, 512};
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
        nm_set_threads(threads[t]);
        for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
            nm_session *s = open_session(m, x);
            nm_runner *r = open_runner(m, x, cuts[c]);
            char what[64];
            snprintf(what, sizeof what, "%d threads, passes of %d", threads[t], (int)cuts[c]);
            feed(r, s, 0, cuts[c] < 3 ? n / 4 : n, got);
            same(0, cuts[c] < 3 ? n / 4 : n, what);
            nm_runner_close(&r);
            nm_session_close(&s);
        }
    }
    nm_set_threads(2);
    nm_model_close(&m);
}

/* Many sessions in one batch, at different depths, each fed a token or a few at a time beside the others. */
static void test_batches(void **state)
{
    const setting *x = *state;
    enum { SESSIONS = 64 };
    nm_model *m = open_model(x->name);
    static float kept[SESSIONS][VOCAB];
    make_reference(m, x);
    nm_set_threads(3);
    for (int32_t batch = 1; batch <= SESSIONS; batch = batch < 4 ? batch + 1 : batch * 2) {
        nm_runner *r = open_runner(m, x, 100);
        nm_session *s[SESSIONS];
        nm_item item[SESSIONS];
        for (int32_t i = 0; i < batch; i++) {
            s[i] = open_session(m, x);
            item[i] = (nm_item){.session = s[i], .tokens = prompt, .count = 3 * i + 1, .want = NM_WANT_NONE};
        }
        assert_int_equal(nm_run(r, item, (size_t)batch, NULL), NM_OK);
        for (int32_t step = 0; step < 3; step++) {
            for (int32_t i = 0; i < batch; i++)
                item[i] = (nm_item){.session = s[i], .tokens = prompt + nm_session_length(s[i]), .count = 1 + i % 3, .want = NM_WANT_LAST,
                    .on_logits = keep, .arg = kept[i] - (size_t)(i % 3) * VOCAB};
            assert_int_equal(nm_run(r, item, (size_t)batch, NULL), NM_OK);
            for (int32_t i = 0; i < batch; i++) assert_memory_equal(kept[i], reference[nm_session_length(s[i]) - 1], sizeof kept[i]);
        }
        for (int32_t i = 0; i < batch; i++) nm_session_close(&s[i]);
        nm_runner_close(&r);
    }
    nm_set_threads(2);
    nm_model_close(&m);
}

static void test_fork_truncate_save(void **state)
{
    const setting *x = *state;
    nm_model *m = open_model(x->name);
    int32_t n = length_for(m), saved[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    char path[] = "/tmp/nomoat-session-XXXXXX";
    make_reference(m, x);
    nm_runner *r = open_runner(m, x, 128);
    nm_session *s = open_session(m, x), *fork = NULL, *loaded = NULL;
    feed(r, s, 0, 100, got);
    assert_int_equal(nm_session_fork(&fork, s), NM_OK);
    nm_item other = {.session = fork, .tokens = saved, .count = 8};    /* the fork goes its own way: the page is copied */
    assert_int_equal(nm_run(r, &other, 1, NULL), NM_OK);
    feed(r, s, 100, 150, got);
    same(0, 150, "beside a fork");
    assert_int_equal(nm_session_truncate(fork, 100), 100);
    feed(r, fork, 100, n, got);
    same(100, n, "a truncated fork");

    for (int32_t cut = 149; cut > 60; cut -= 11) {
        int32_t reach = nm_session_reach(s, cut), at = nm_session_truncate(s, cut);
        assert_int_equal(at, reach);
        assert_true(at == cut || at == 0);
        feed(r, s, at, 150, got);
        same(at, 150, "after truncation");
    }
    close(mkstemp(path));
    assert_int_equal(nm_session_save(s, path), NM_OK);
    if (nm_session_load(&loaded, m, NULL, path) != NM_OK) fail_msg("%s", nm_error_text());
    assert_int_equal(nm_session_length(loaded), 150);
    assert_memory_equal(nm_session_tokens(loaded), prompt, 150 * sizeof *prompt);
    feed(r, loaded, 150, n, got);
    same(150, n, "after loading");
    unlink(path);
    nm_session_close(&loaded);
    nm_session_close(&fork);
    nm_session_close(&s);
    nm_runner_close(&r);
    nm_model_close(&m);
}

static void test_damaged_session(void **state)
{
    nm_model *m = open_model("llama3"), *other = open_model("llama");
    const setting x = {"llama3", NM_KV_F16, NM_COMPUTE_DEFAULT};
    nm_runner *r = open_runner(m, &x, 64);
    nm_session *s = open_session(m, &x), *loaded;
    char path[] = "/tmp/nomoat-session-XXXXXX";
    static char whole[1 << 20];
    feed(r, s, 0, 70, got);
    close(mkstemp(path));
    assert_int_equal(nm_session_save(s, path), NM_OK);
    FILE *f = fopen(path, "rb");
    size_t size = fread(whole, 1, sizeof whole, f);
    fclose(f);
    assert_true(size > 1000 && size < sizeof whole);
    assert_int_equal(nm_session_load(&loaded, other, NULL, path), NM_REFUSED);
    for (size_t cut = 1; cut < size; cut += cut < 300 ? 1 : 997) {
        f = fopen(path, "wb");
        fwrite(whole, 1, cut, f);
        fclose(f);
        assert_int_equal(nm_session_load(&loaded, m, NULL, path), NM_BAD_FILE);
        assert_null(loaded);
    }
    for (size_t at = 0; at < size; at += at < 300 ? 1 : 499) {
        whole[at] ^= 0x41;
        f = fopen(path, "wb");
        fwrite(whole, 1, size, f);
        fclose(f);
        assert_int_not_equal(nm_session_load(&loaded, m, NULL, path), NM_OK);
        whole[at] ^= 0x41;
    }
    unlink(path);
    nm_session_close(&s);
    nm_runner_close(&r);
    nm_model_close(&other);
    nm_model_close(&m);
}

static void test_refusals(void **state)
{
    nm_model *m = open_model("llama3");
    const setting x = {"llama3", NM_KV_F16, NM_COMPUTE_DEFAULT};
    nm_runner *r = open_runner(m, &x, 64), *f32;
    nm_session *s = open_session(m, &x), *small;
    int32_t bad = VOCAB, good[9] = {0};
    nm_item item = {.session = s, .tokens = &bad, .count = 1};
    assert_int_equal(nm_run(r, &item, 1, NULL), NM_USAGE);
    bad = -1;
    assert_int_equal(nm_run(r, &item, 1, NULL), NM_USAGE);
    assert_int_equal(nm_session_length(s), 0);
    nm_item twice[2] = {{.session = s, .tokens = good, .count = 1}, {.session = s, .tokens = good, .count = 1}};
    assert_int_equal(nm_run(r, twice, 2, NULL), NM_USAGE);
    assert_int_equal(nm_run(r, twice, 1, NULL), NM_OK);
    assert_int_equal(nm_session_open(&small, m, &(nm_session_options){.context = 8}), NM_OK);
    nm_item full = {.session = small, .tokens = good, .count = 9};
    assert_int_equal(nm_run(r, &full, 1, NULL), NM_USAGE);
    assert_int_equal(nm_runner_open(&f32, m, &(nm_runner_options){.compute = NM_COMPUTE_F32}), NM_OK);
    assert_int_equal(nm_run(f32, twice, 1, NULL), NM_REFUSED);
    nm_session_close(&small);
    assert_int_equal(nm_session_open(&small, m, &(nm_session_options){.context = -5}), NM_USAGE);
    nm_runner_close(&f32);
    nm_session_close(&s);
    nm_runner_close(&r);
    nm_model_close(&m);
}

static void test_cancel(void **state)
{
    nm_model *m = open_model("llama3");
    const setting x = {"llama3", NM_KV_F16, NM_COMPUTE_DEFAULT};
    nm_runner *r = open_runner(m, &x, 64);
    nm_session *s = open_session(m, &x);
    volatile sig_atomic_t cancel = 1;
    make_reference(m, &x);
    nm_item item = {.session = s, .tokens = prompt, .count = 200};
    assert_int_equal(nm_run(r, &item, 1, &cancel), NM_INTERRUPTED);
    cancel = 0;
    int32_t at = nm_session_length(s);
    feed(r, s, at, 300, got);
    same(at, 300, "after an interruption");
    nm_session_close(&s);
    nm_runner_close(&r);
    nm_model_close(&m);
}

/* Every allocation on the way from a file to logits fails in turn. */
static nm_err whole_way(const char *path, const char *saved)
{
    nm_model *m = NULL;
    nm_session *s = NULL, *fork = NULL, *loaded = NULL;
    nm_runner *r = NULL;
    nm_err err = nm_model_open(&m, path, NULL);
    if (err == NM_OK) err = nm_session_open(&s, m, NULL);
    if (err == NM_OK) err = nm_runner_open(&r, m, NULL);
    nm_item item = {.session = s, .tokens = prompt, .count = 70};
    if (err == NM_OK) err = nm_run(r, &item, 1, NULL);
    if (err == NM_OK) err = nm_session_fork(&fork, s);
    item.session = fork;
    item.count = 1;
    if (err == NM_OK) err = nm_run(r, &item, 1, NULL);
    if (err == NM_OK) err = nm_session_save(s, saved);
    if (err == NM_OK) err = nm_session_load(&loaded, m, NULL, saved);
    nm_session_close(&loaded);
    nm_session_close(&fork);
    nm_session_close(&s);
    nm_runner_close(&r);
    nm_model_close(&m);
    return err;
}

static void test_allocations(void **state)
{
    char path[4096], saved[] = "/tmp/nomoat-session-XXXXXX";
    nm_model *m = open_model("gemma3");
    nm_model_close(&m);
    snprintf(path, sizeof path, "%s/tiny/gemma3.gguf", getenv("NOMOAT_TEST_DATA"));
    close(mkstemp(saved));
    memset(prompt, 0, sizeof prompt);
    int64_t alive = nm_mem_alive(), before = nm_mem_count();
    assert_int_equal(whole_way(path, saved), NM_OK);
    int64_t count = nm_mem_count() - before;
    assert_int_equal(nm_mem_alive(), alive);
    for (int64_t i = 0; i < count; i += i < 400 ? 1 : 7) {
        nm_mem_fail_after(i);
        nm_err err = whole_way(path, saved);
        nm_mem_fail_after(-1);
        if (err != NM_NO_MEMORY) fail_msg("allocation %lld: %d %s", (long long)i, err, nm_error_text());
        if (nm_mem_alive() != alive) fail_msg("allocation %lld leaks", (long long)i);
    }
    print_message("%lld allocations failed in turn\n", (long long)count);
    unlink(saved);
}

int main(void)
{
    enum { SETTINGS = sizeof settings / sizeof *settings };
    struct CMUnitTest tests[3 * SETTINGS + 4];
    int n = 0;
    for (int i = 0; i < SETTINGS; i++) {
        void *state = (void *)(uintptr_t)&settings[i];
        tests[n++] = (struct CMUnitTest){"threads and cuts", test_threads_and_cuts, NULL, NULL, state};
        tests[n++] = (struct CMUnitTest){"batches", test_batches, NULL, NULL, state};
        tests[n++] = (struct CMUnitTest){"fork, truncate, save", test_fork_truncate_save, NULL, NULL, state};
    }
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_damaged_session);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_refusals);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_cancel);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_allocations);
    return _cmocka_run_group_tests("engine", tests, (size_t)n, NULL, NULL);
}
