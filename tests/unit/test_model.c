/* Opening models that lie: each fault is one line that names the file and the place, leaves nothing behind, and has its exit code. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "format/gguf.h"
#include "nomoat.h"

#include "../random_model.c"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define NAME "bad.gguf"

/* ---- Helpers -------------------------------------------------------------------------------------------------------------- */

static void check_line(const char *expected, const char *file)
{
    const char *text = nm_error_text();
    char said[1200];
    snprintf(said, sizeof said, "expected \"%s\", got \"%s\"", expected, text);
    if (!strstr(text, expected)) fail_msg("%s", said);
    if (file && !strstr(text, file)) fail_msg("no file's name in \"%s\"", text);
    for (const char *p = text; *p; p++) assert_true((unsigned char)*p >= 32);
}

static void refuse_bytes(const void *file, size_t size, nm_err code, const char *expected)
{
    nm_model *model = (nm_model *)1;
    int64_t alive = nm_mem_alive();
    nm_err err = nm_model_open_memory(&model, file, size, NAME, NULL);
    if (err != code) fail_msg("expected \"%s\", got code %d, %s", expected, err, nm_error_text());
    assert_null(model);
    assert_int_equal(nm_mem_alive(), alive);
    check_line(expected, NAME);
}

static void refuse(const random_model *d, nm_err code, const char *expected)
{
    size_t size;
    void *file = rm_make(d, &size);
    refuse_bytes(file, size, code, expected);
    free(file);
}

static nm_model *open_good(const random_model *d, void **file, nm_model_options *options)
{
    nm_model *model;
    size_t size;
    *file = rm_make(d, &size);
    if (nm_model_open_memory(&model, *file, size, "good.gguf", options) != NM_OK) fail_msg("%s: %s", d->arch, nm_error_text());
    return model;
}

static nm_err keep(void *arg, int32_t index, const float *row, int32_t n_vocab)
{
    memcpy(arg, row, (size_t)n_vocab * sizeof *row);
    return NM_OK;
}

static nm_err run_tokens(const nm_model *model, const nm_session_options *o, const int32_t *tokens, int32_t count, float *last)
{
    nm_session *s = NULL;
    nm_runner *r = NULL;
    nm_err err = nm_session_open(&s, model, o);
    if (err == NM_OK) err = nm_runner_open(&r, model, &(nm_runner_options){.max_rows = 40});
    nm_item item = {.session = s, .tokens = tokens, .count = count, .want = last ? NM_WANT_LAST : NM_WANT_NONE, .on_logits = keep, .arg = last};
    if (err == NM_OK) err = nm_run(r, &item, 1, NULL);
    nm_runner_close(&r);
    nm_session_close(&s);
    return err;
}

/* ---- Good models ------------------------------------------------------------------------------------------------------------ */

static void test_architectures(void **state)
{
    int32_t tokens[80];
    float logits[64];
    void *file;
    for (int i = 0; i < 80; i++) tokens[i] = i * 7 % 64;
    for (size_t a = 0; a < COUNT(rm_archs); a++) {
        random_model d = rm_default(rm_archs[a].name);
        d.window = strncmp(d.arch, "gemma", 5) == 0 ? 32 : 0;
        d.vocab = a % 2 ? 300 : 64;
        d.vocabulary = a % 2 ? RM_VOCAB_SPM : RM_VOCAB_BPE;
        nm_model *model = open_good(&d, &file, NULL);
        const nm_model_info *info = nm_model_describe(model);
        assert_string_equal(info->architecture, d.arch);
        assert_int_equal(info->n_vocab, d.vocab);
        assert_int_equal(info->n_layer, 2);
        assert_non_null(nm_model_tokenizer(model));
        float row[300];
        if (run_tokens(model, NULL, tokens, 80, row) != NM_OK) fail_msg("%s: %s", d.arch, nm_error_text());
        memcpy(logits, row, sizeof logits);
        for (int v = 0; v < 64; v++) assert_true(isfinite(logits[v]));
        nm_model_close(&model);
        free(file);
    }
}

static void test_metadata_only(void **state)
{
    random_model d = rm_default("llama");
    d.vocabulary = RM_VOCAB_SPM;
    d.vocab = 300;
    void *file;
    nm_session *s;
    nm_runner *r;
    nm_model *model = open_good(&d, &file, &(nm_model_options){.metadata_only = true});
    assert_false(nm_model_describe(model)->has_weights);
    assert_int_equal(nm_session_open(&s, model, NULL), NM_USAGE);
    assert_int_equal(nm_runner_open(&r, model, NULL), NM_USAGE);
    assert_true(nm_session_bytes(model, NULL) == 0);
    nm_model_close(&model);
    free(file);

    gguf_writer w = {0};            /* no tensors at all: keys and tokenizer are there, sizes as far as keys tell */
    size_t size;
    rm_keys(&w, &d);
    file = gw_finish(&w, &size);
    if (nm_model_open_memory(&model, file, size, NAME, &(nm_model_options){.metadata_only = true}) != NM_OK) fail_msg("%s", nm_error_text());
    assert_int_equal(nm_model_tensor_count(model), 0);
    assert_int_equal(nm_model_describe(model)->n_layer, 2);
    assert_int_equal(nm_model_describe(model)->n_embd, 256);
    assert_int_equal(nm_model_describe(model)->n_vocab, 300);
    assert_int_equal(nm_token_count(nm_model_tokenizer(model)), 300);
    nm_model_close(&model);
    refuse_bytes(file, size, NM_BAD_FILE, "token_embd.weight is missing");
    free(file);
}

static void put_whole_numbers(gguf_writer *w, const random_model *d)
{
    gw_u64(w, "test.u64", UINT64_MAX);
    gw_i64(w, "test.i64", INT64_MIN);
    gw_array(w, "test.array", NM_META_I64, (int64_t[]){((int64_t)1 << 53) + 1, -3}, 2);
    gw_bool(w, "test.bool", true);
    gw_f32(w, "test.f32", 7);
}

static void test_exact_metadata(void **state)
{
    static const struct { const char *key; uint64_t item; bool integer; int64_t value; } cases[] = {{"test.u64", 0, true, -1}, {"test.i64", 0, true, INT64_MIN},
        {"test.array", 0, true, ((int64_t)1 << 53) + 1}, {"test.array", 1, true, -3}, {"test.array", 2, false, 0}, {"test.bool", 0, true, 1},
        {"test.f32", 0, false, 0}, {"general.architecture", 0, false, 0}};
    random_model d = rm_default("llama");
    void *file;
    d.instead = put_whole_numbers;
    nm_model *model = open_good(&d, &file, &(nm_model_options){.metadata_only = true});
    for (size_t i = 0; i < COUNT(cases); i++) {
        int64_t value = 7;
        assert_true(nm_model_meta_integer(model, nm_model_meta_find(model, cases[i].key), cases[i].item, &value) == cases[i].integer);
        assert_true(value == cases[i].value);
    }
    nm_model_close(&model);
    free(file);
}

static void save_half(const char *path, int index)
{
    gguf_writer w = {0};
    static const float zeros[4096];
    gw_split(&w, index, 2, 2);
    if (index == 0) gw_string(&w, "general.architecture", "llama");
    gw_tensor_values(&w, index ? "b" : "a", NM_F32, 1, (int64_t[]){4096}, zeros);
    gw_save(&w, path);
}

/* Of a split, too, every part must hold its tensors, as import asks. */
static void test_whole_split(void **state)
{
    static const char *const parts[] = {"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"};
    char folder[] = "/tmp/nomoat-test-XXXXXX", path[2][96];
    nm_model_options whole = {.metadata_only = true, .whole = true}, any = {.metadata_only = true};
    nm_model *model;
    assert_non_null(mkdtemp(folder));
    for (int i = 0; i < 2; i++) {
        snprintf(path[i], sizeof path[i], "%s/%s", folder, parts[i]);
        save_half(path[i], i);
    }
    if (nm_model_open(&model, path[0], &whole) != NM_OK) fail_msg("%s", nm_error_text());
    nm_model_close(&model);
    assert_int_equal(truncate(path[1], 10000), 0);
    assert_int_equal(nm_model_open(&model, path[0], &whole), NM_BAD_FILE);
    check_line(parts[1], NULL);
    assert_int_equal(nm_model_open(&model, path[0], &any), NM_OK);
    nm_model_close(&model);
    unlink(path[1]);
    assert_int_not_equal(nm_model_open(&model, path[0], &whole), NM_OK);
    assert_int_equal(nm_model_open(&model, path[0], &any), NM_OK);
    nm_model_close(&model);
    unlink(path[0]);
    rmdir(folder);
}

/* Metadata alone may be cut anywhere behind the header, unless the whole file is asked for. */
static void test_whole(void **state)
{
    random_model d = rm_default("llama");
    nm_model *model;
    size_t size;
    void *file = rm_make(&d, &size);
    nm_model_options o = {.metadata_only = true};
    assert_int_equal(nm_model_open_memory(&model, file, size - 1, NAME, &o), NM_OK);
    nm_model_close(&model);
    o.whole = true;
    assert_int_equal(nm_model_open_memory(&model, file, size - 1, NAME, &o), NM_BAD_FILE);
    assert_int_equal(nm_model_open_memory(&model, file, size, NAME, &o), NM_OK);
    assert_false(nm_model_describe(model)->has_weights);
    nm_model_close(&model);
    free(file);
}

/* ---- Keys ---------------------------------------------------------------------------------------------------------------------- */

static int64_t wrong_int;
static double wrong_float;
static const char *wrong_key;

static void put_int(gguf_writer *w, const random_model *d) { gw_i64(w, wrong_key, wrong_int); }
static void put_float(gguf_writer *w, const random_model *d) { gw_f32(w, wrong_key, (float)wrong_float); }
static void put_string(gguf_writer *w, const random_model *d) { gw_string(w, wrong_key, "seven"); }
static void put_array(gguf_writer *w, const random_model *d) { gw_array(w, wrong_key, NM_META_I32, (int32_t[]){1, 2}, 2); }

static void refuse_int(const char *key, int64_t value, const char *expected)
{
    random_model d = rm_default("llama");
    wrong_int = value;
    d.leave_out = wrong_key = key;
    d.instead = put_int;
    refuse(&d, NM_BAD_FILE, expected);
}

static void test_sizes(void **state)
{
    static const char *const keys[] = {"llama.block_count", "llama.embedding_length", "llama.feed_forward_length", "llama.context_length",
        "llama.attention.head_count", "llama.attention.head_count_kv", "llama.attention.key_length", "llama.attention.value_length"};
    static const int64_t values[] = {0, -1, INT32_MIN, INT64_MIN, (int64_t)1 << 31, (int64_t)1 << 32, (int64_t)1 << 62, INT64_MAX};
    for (size_t k = 0; k < COUNT(keys); k++)
        for (size_t v = 0; v < COUNT(values); v++) refuse_int(keys[k], values[v], keys[k]);
    for (size_t v = 1; v < COUNT(values); v++) refuse_int("llama.rope.dimension_count", values[v], "llama.rope.dimension_count");
    for (size_t k = 0; k < 5; k++) {                /* the first five must be there */
        random_model d = rm_default("llama");
        d.leave_out = keys[k];
        refuse(&d, NM_BAD_FILE, keys[k]);
    }
    for (size_t k = 0; k < COUNT(keys); k++) {      /* of another kind */
        random_model d = rm_default("llama");
        d.leave_out = wrong_key = keys[k];
        d.instead = put_string;
        refuse(&d, NM_BAD_FILE, keys[k]);
        d.instead = put_array;
        refuse(&d, k == 2 || k == 4 || k == 5 ? NM_REFUSED : NM_BAD_FILE, keys[k]);     /* sizes that may differ from layer to layer */
    }
}

static void test_sizes_that_do_not_fit(void **state)
{
    refuse_int("llama.attention.head_count_kv", 3, "8 heads cannot share 3 KV heads");
    refuse_int("llama.attention.head_count", 6, "");
    refuse_int("llama.rope.dimension_count", 34, "up to the head's 32");
    refuse_int("llama.rope.dimension_count", 31, "an even number");
    refuse_int("llama.block_count", 3, "blk.2.attn_norm.weight is missing");
    refuse_int("llama.embedding_length", 128, "token_embd.weight is 256 x 64, expected 128");
    refuse_int("llama.feed_forward_length", 511, "blk.0.ffn_gate.weight is 256 x 512 (rank 2), expected 256 x 511");
    refuse_int("llama.attention.key_length", 16, "up to the head's 16");
    refuse_int("llama.attention.key_length", 48, "blk.0.attn_q.weight is 256 x 256 (rank 2), expected 256 x 384");
    refuse_int("llama.attention.value_length", 16, "blk.0.attn_v.weight");
    random_model d = rm_default("llama");           /* without key_length the width must divide */
    d.heads = 12;
    d.head = 21;
    d.leave_out = "llama.attention.key_length";
    refuse(&d, NM_BAD_FILE, "256 does not divide into 12 heads");
    d = rm_default("llama");
    d.instead = put_int;
    wrong_key = "llama.expert_count";
    wrong_int = 8;
    refuse(&d, NM_REFUSED, "8 experts");
    d = rm_default("nonesuch");
    refuse(&d, NM_REFUSED, "\"nonesuch\" is not known; known are llama");
    d = rm_default("llama");
    d.leave_out = "general.architecture";
    refuse(&d, NM_BAD_FILE, "general.architecture");
}

static void test_floats(void **state)
{
    static const char *const keys[] = {"llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base", "llama.rope.scaling.factor"};
    static const double values[] = {NAN, INFINITY, -INFINITY, -1};
    random_model d = rm_default("llama");
    d.instead = put_float;
    for (size_t k = 0; k < COUNT(keys); k++)
        for (size_t v = 0; v < COUNT(values); v++) {
            d.leave_out = wrong_key = keys[k];
            wrong_float = values[v];
            refuse(&d, NM_BAD_FILE, keys[k]);
        }
    d.instead = NULL;
    d.leave_out = keys[0];
    refuse(&d, NM_BAD_FILE, "layer_norm_rms_epsilon or layer_norm_epsilon is missing");
    d.instead = put_float;
    d.leave_out = wrong_key = "llama.rope.freq_base";
    wrong_float = 0;
    refuse(&d, NM_BAD_FILE, wrong_key);
    d.leave_out = wrong_key = "llama.attention.layer_norm_rms_epsilon";
    refuse(&d, NM_BAD_FILE, wrong_key);
}

static void put_scaling(gguf_writer *w, const random_model *d)
{
    gw_string(w, "llama.rope.scaling.type", wrong_key);
    gw_f32(w, "llama.rope.scaling.factor", (float)wrong_float);
    gw_f32(w, "llama.rope.scaling.yarn_beta_fast", 0);
}

static void test_scaling(void **state)
{
    random_model d = rm_default("llama");
    d.instead = put_scaling;
    wrong_key = "sideways\x1b[31m";
    wrong_float = 2;
    refuse(&d, NM_REFUSED, "\"sideways\\x1b[31m\" is not known");
    wrong_key = "yarn";
    refuse(&d, NM_BAD_FILE, "yarn_beta_");
}

/* ---- Keys that change what is computed ------------------------------------------------------------------------------------------ */

/* What put_keys writes besides, up to the first without a name. items: an array of bool or u32 of two. */
static struct { const char *key; char kind; double value; uint32_t items[2]; } extra[4];

static void put_keys(gguf_writer *w, const random_model *d)
{
    for (size_t i = 0; i < COUNT(extra) && extra[i].key; i++) {
        const uint8_t truths[2] = {extra[i].items[0] != 0, extra[i].items[1] != 0};
        switch (extra[i].kind) {
        case 'i': gw_u32(w, extra[i].key, (uint32_t)extra[i].value); break;
        case 'f': gw_f32(w, extra[i].key, (float)extra[i].value); break;
        case 'b': gw_bool(w, extra[i].key, extra[i].value != 0); break;
        case 's': gw_string(w, extra[i].key, "yarn"); break;
        case 'B': gw_array(w, extra[i].key, NM_META_BOOL, truths, 2); break;
        default: gw_array(w, extra[i].key, NM_META_U32, extra[i].items, 2); break;
        }
    }
}

static random_model with_keys(const char *arch)
{
    random_model d = rm_default(arch);
    d.instead = put_keys;
    memset(extra, 0, sizeof extra);
    return d;
}

#define EXTRA(i, k, t, ...) (extra[i].key = (k), extra[i].kind = (t), extra[i].value = (__VA_ARGS__))
#define EXTRA_ITEMS(i, k, t, a, b) (extra[i].key = (k), extra[i].kind = (t), extra[i].items[0] = (a), extra[i].items[1] = (b))

/* The last logits of 40 tokens; `early` is the fifth. */
static void run_long(const random_model *d, int32_t early, float *logits)
{
    int32_t tokens[40];
    void *file;
    nm_model *model = open_good(d, &file, NULL);
    for (int i = 0; i < 40; i++) tokens[i] = i * 7 % 64;
    tokens[4] = early;
    if (run_tokens(model, NULL, tokens, 40, logits) != NM_OK) fail_msg("%s: %s", d->arch, nm_error_text());
    nm_model_close(&model);
    free(file);
}

static void long_same(const random_model *a, int32_t early, const float *expected, bool same)
{
    float logits[64];
    run_long(a, early, logits);
    if (!memcmp(logits, expected, sizeof logits) != same) fail_msg("%s with %s: %s", a->arch, extra[0].key ? extra[0].key : "nothing", same ? "differs" : "is the same");
}

/* OLMo 3: with a window, what lies before it cannot be seen; which layers have it, the pattern says. */
static void test_windows_olmo(void **state)
{
    float plain[64], windowed[64];
    random_model d = with_keys("olmo2");
    run_long(&d, 1, plain);
    long_same(&d, 2, plain, false);
    EXTRA(0, "olmo2.attention.sliding_window", 'i', 8);
    run_long(&d, 1, windowed);                      /* layers 0 and 1 of 4 slide */
    long_same(&d, 2, windowed, true);
    long_same(&d, 1, plain, false);
    EXTRA_ITEMS(1, "olmo2.attention.sliding_window_pattern", 'B', 1, 1);
    long_same(&d, 1, windowed, true);
    EXTRA_ITEMS(1, "olmo2.attention.sliding_window_pattern", 'I', 0, 0);
    long_same(&d, 1, plain, true);
    EXTRA_ITEMS(1, "olmo2.attention.sliding_window_pattern", 'B', 0, 1);
    long_same(&d, 2, windowed, false);
    EXTRA(1, "olmo2.attention.sliding_window_pattern", 'i', 1);
    long_same(&d, 1, plain, true);
    EXTRA(1, "olmo2.attention.sliding_window_pattern", 'i', 0);
    long_same(&d, 1, windowed, true);
    EXTRA(2, "olmo2.rope.scaling.factor", 'f', 4);  /* layers with the window turn unscaled */
    long_same(&d, 1, windowed, true);
    EXTRA(1, "olmo2.attention.sliding_window_pattern", 'i', 1);
    long_same(&d, 1, plain, false);
    EXTRA(0, "olmo2.attention.sliding_window", 'i', 0);
    extra[1].key = NULL;
    long_same(&d, 1, plain, true);
    d.layers = 3;
    EXTRA_ITEMS(0, "olmo2.attention.sliding_window_pattern", 'B', 1, 1);
    refuse(&d, NM_BAD_FILE, "olmo2.attention.sliding_window_pattern has 2 items for 3 layers");
}

static void test_windows_gemma(void **state)
{
    float global[64], other[64];
    random_model d = with_keys("gemma3");           /* without the key every layer is global, with the global base */
    run_long(&d, 1, global);
    EXTRA(0, "gemma3.rope.freq_base_swa", 'f', 500);
    long_same(&d, 1, global, true);
    long_same(&d, 2, global, false);
    EXTRA(1, "gemma3.attention.sliding_window", 'i', 0);
    long_same(&d, 1, global, true);
    EXTRA(1, "gemma3.attention.sliding_window", 'i', 8);
    run_long(&d, 1, other);
    long_same(&d, 1, global, false);
    long_same(&d, 2, other, true);
    EXTRA(2, "gemma3.attention.sliding_window_pattern", 'i', 2);
    long_same(&d, 2, other, false);
    EXTRA_ITEMS(2, "gemma3.attention.sliding_window_pattern", 'B', 0, 0);
    long_same(&d, 1, global, true);
    d = with_keys("gemma2");                        /* whose window is 4096 where nothing is said */
    EXTRA(0, "gemma2.attention.sliding_window", 'i', 4096);
    run_long(&d, 1, global);
    extra[0].key = NULL;
    long_same(&d, 1, global, true);
}

/* The first Mistral: every layer has it. */
static void test_window_of_llama(void **state)
{
    float plain[64];
    random_model d = with_keys("llama");
    run_long(&d, 1, plain);
    EXTRA(0, "llama.attention.sliding_window", 'i', 256);
    long_same(&d, 1, plain, true);
    EXTRA(0, "llama.attention.sliding_window", 'i', 8);
    long_same(&d, 1, plain, false);
}

/* Everywhere else a window that would matter is refused by its key. */
static void test_windows_unknown(void **state)
{
    char key[96];
    float plain[64];
    for (size_t a = 0; a < COUNT(rm_archs); a++) {
        const char *name = rm_archs[a].name;
        if (!strncmp(name, "gemma", 5) || !strcmp(name, "olmo2") || !strcmp(name, "llama")) continue;
        random_model d = with_keys(name);
        run_long(&d, 1, plain);
        snprintf(key, sizeof key, "%s.attention.sliding_window", name);
        EXTRA(0, key, 'i', 255);
        refuse(&d, NM_REFUSED, key);
        EXTRA(0, key, 'i', 256);
        long_same(&d, 1, plain, true);
        EXTRA(0, key, 'i', 0);
        long_same(&d, 1, plain, true);
    }
}

static void test_granite_unrotated(void **state)
{
    float turned[64], plain[64];
    random_model d = with_keys("granite");
    run_long(&d, 1, turned);
    EXTRA(0, "granite.rope.scaling.finetuned", 'b', 1);
    long_same(&d, 1, turned, true);
    EXTRA(0, "granite.rope.scaling.finetuned", 'b', 0);
    run_long(&d, 1, plain);
    long_same(&d, 1, turned, false);
    EXTRA(1, "granite.rope.scaling.factor", 'f', 8);
    long_same(&d, 1, plain, true);
    extra[0].key = "granite.rope.scaling.other";
    long_same(&d, 1, turned, false);
}

static void test_yarn(void **state)
{
    static const struct { const char *key; double value; bool same; } keys[] = {{"llama.rope.scaling.yarn_attn_factor", 1, true},
        {"llama.rope.scaling.yarn_attn_factor", -1, true}, {"llama.rope.scaling.yarn_attn_factor", 1.2079441, true},
        {"llama.rope.scaling.yarn_attn_factor", 1.5, false}, {"llama.rope.scaling.attn_factor", 1, true}, {"llama.rope.scaling.attn_factor", 1.5, false},
        {"llama.rope.scaling.yarn_beta_fast", 32, true}, {"llama.rope.scaling.yarn_beta_fast", 4, false}, {"llama.rope.scaling.yarn_beta_slow", 1, true},
        {"llama.rope.scaling.yarn_beta_slow", 3, false}, {"llama.rope.scaling.yarn_ext_factor", 1, true}, {"llama.rope.scaling.yarn_ext_factor", -1, true},
        {"llama.rope.scaling.yarn_log_multiplier", 0, true}};
    float usual[64], a[64], b[64];
    random_model d = with_keys("llama");
    EXTRA(1, "llama.rope.scaling.type", 's', 0);
    EXTRA(2, "llama.rope.scaling.factor", 'f', 8);
    EXTRA(0, "llama.rope.scaling.nothing", 'f', 0);
    run_long(&d, 1, usual);
    for (size_t i = 0; i < COUNT(keys); i++) {
        EXTRA(0, keys[i].key, 'f', keys[i].value);
        long_same(&d, 1, usual, keys[i].same);
    }
    EXTRA(0, "llama.rope.scaling.yarn_ext_factor", 'f', 0);
    refuse(&d, NM_REFUSED, "llama.rope.scaling.yarn_ext_factor is 0: only 1 is supported");
    EXTRA(0, "llama.rope.scaling.yarn_log_multiplier", 'f', 0.1);
    refuse(&d, NM_REFUSED, "llama.rope.scaling.yarn_log_multiplier is 0.1");
    EXTRA(0, "llama.rope.scaling.attn_factor", 'f', -1);
    refuse(&d, NM_BAD_FILE, "llama.rope.scaling.attn_factor is negative");
    EXTRA(0, "llama.rope.scaling.attn_factor", 'f', 1.25);      /* times the usual 0.1 ln 8 + 1; the other is the magnitude itself */
    run_long(&d, 1, a);
    EXTRA(0, "llama.rope.scaling.yarn_attn_factor", 'f', 1.25f * (0.1f * logf(8) + 1));
    run_long(&d, 1, b);
    for (int i = 0; i < 64; i++) assert_true(fabsf(a[i] - b[i]) < 1e-4f);
    EXTRA(2, "llama.rope.scaling.factor", 'f', 0);              /* without YaRN its keys say nothing */
    extra[1].key = "llama.rope.scaling.kind";
    EXTRA(0, "llama.rope.scaling.yarn_ext_factor", 'f', 0);
    void *file;
    nm_model *model = open_good(&d, &file, NULL);
    nm_model_close(&model);
    free(file);
}

/* Some writers give sizes per layer. */
static void test_sizes_per_layer(void **state)
{
    static const char *const keys[] = {"llama.attention.head_count", "llama.attention.head_count_kv", "llama.feed_forward_length"};
    static const uint32_t values[] = {8, 2, 512};
    float plain[64];
    random_model d = with_keys("llama");
    run_long(&d, 1, plain);
    for (size_t i = 0; i < COUNT(keys); i++) {
        d.leave_out = keys[i];
        EXTRA_ITEMS(0, keys[i], 'I', values[i], values[i]);
        long_same(&d, 1, plain, true);
        EXTRA_ITEMS(0, keys[i], 'I', values[i], 0);
        refuse(&d, NM_REFUSED, "layers of different shapes");
        check_line(keys[i], NAME);
        EXTRA_ITEMS(0, keys[i], 'I', 0, 0);
        refuse(&d, NM_BAD_FILE, keys[i]);
        EXTRA_ITEMS(0, keys[i], 'B', 1, 1);
        refuse(&d, NM_BAD_FILE, keys[i]);
        d.layers = 1;
        EXTRA_ITEMS(0, keys[i], 'I', values[i], values[i]);
        refuse(&d, NM_BAD_FILE, "has 2 items for 1 layers");
        d.layers = 2;
    }
}

/* ---- Tensors ------------------------------------------------------------------------------------------------------------------ */

static const char *wrong_tensor;
static int wrong_type;
static int64_t wrong_dim[4];
static int wrong_rank;

static void put_tensor(gguf_writer *w, const random_model *d)
{
    static uint8_t zeros[1 << 20];
    int64_t values = 1;
    uint64_t bytes;
    for (int i = 0; i < wrong_rank; i++) values *= wrong_dim[i];
    if (nm_type_bytes(nm_type_of(wrong_type), values, &bytes) != NM_OK || bytes > sizeof zeros) abort();
    gw_tensor(w, wrong_tensor, wrong_type, wrong_rank, wrong_dim, zeros, (size_t)bytes);
}

static void refuse_tensor(const char *name, int type, int rank, int64_t d0, int64_t d1, int64_t d2, const char *expected)
{
    random_model d = rm_default("llama");
    d.leave_out = wrong_tensor = name;
    d.instead = put_tensor;
    wrong_type = type;
    wrong_rank = rank;
    memcpy(wrong_dim, (int64_t[]){d0, d1, d2, 1}, sizeof wrong_dim);
    refuse(&d, NM_BAD_FILE, expected);
}

/* Every tensor of every architecture is left out in turn: it is named, or it was optional. */
static void test_missing(void **state)
{
    for (size_t a = 0; a < COUNT(rm_archs); a++) {
        random_model d = rm_default(rm_archs[a].name);
        void *file;
        nm_model *model = open_good(&d, &file, &(nm_model_options){.metadata_only = true}), *less;
        for (size_t t = 0; t < nm_model_tensor_count(model); t++) {
            const char *name = nm_model_tensor(model, t).name;
            size_t size;
            d.leave_out = name;
            void *cut = rm_make(&d, &size);
            nm_err err = nm_model_open_memory(&less, cut, size, NAME, NULL);
            bool optional = strstr(name, ".bias") || strcmp(name, "output.weight") == 0;
            if (err == NM_OK ? !optional : err != NM_BAD_FILE) fail_msg("%s without %s: %d %s", d.arch, name, err, nm_error_text());
            if (err != NM_OK) check_line(name, NAME);
            nm_model_close(&less);
            free(cut);
        }
        nm_model_close(&model);
        free(file);
    }
}

static void test_misshapen(void **state)
{
    refuse_tensor("blk.0.attn_q.weight", NM_F32, 2, 256, 255, 1, "blk.0.attn_q.weight is 256 x 255 (rank 2), expected 256 x 256");
    refuse_tensor("blk.1.ffn_down.weight", NM_F32, 2, 256, 512, 1, "blk.1.ffn_down.weight is 256 x 512 (rank 2), expected 512 x 256");
    refuse_tensor("blk.0.attn_k.weight", NM_F32, 1, 256, 1, 1, "blk.0.attn_k.weight is 256 x 1 (rank 1), expected 256 x 64");
    refuse_tensor("blk.0.attn_k.weight", NM_F32, 3, 256, 64, 2, "blk.0.attn_k.weight");
    refuse_tensor("blk.0.attn_norm.weight", NM_F32, 1, 255, 1, 1, "blk.0.attn_norm.weight has 255 values, expected 256");
    refuse_tensor("output_norm.weight", NM_F32, 2, 256, 2, 1, "output_norm.weight has 512 values, expected 256");
    refuse_tensor("token_embd.weight", NM_F32, 1, 256, 1, 1, "token_embd.weight is 256 x 1, expected 256 x vocabulary");
    refuse_tensor("output.weight", NM_F32, 2, 256, 63, 1, "output.weight is 256 x 63 (rank 2), expected 256 x 64");
    static const int integers[] = {NM_I8, NM_I16, NM_I32, NM_I64};
    for (size_t i = 0; i < COUNT(integers); i++) {
        refuse_tensor("blk.0.attn_v.weight", integers[i], 2, 256, 64, 1, "which are no weights");
        refuse_tensor("blk.0.ffn_norm.weight", integers[i], 1, 256, 1, 1, "which are no weights");
    }
}

/* ---- Tensors that no builder asks for ------------------------------------------------------------------------------------------ */

static void test_unread(void **state)
{
    static const char *const refused[] = {"blk.0.attn_q.scale", "blk.1.ffn_down.input_scale", "blk.0.attn_sinks.weight", "blk.2.attn_q.weight",
        "blk.0.attn_norm.bias", "rope_factors_long.weight", "attn_rot_embd.weight", "vision.weight"};
    static const char *const ignored[] = {"blk.0.attn_rot_embd.weight", "blk.1.attn_rot_embd.weight", "v.blk.0.attn_q.weight", "mm.input_projection.weight",
        "cls.output.weight"};
    random_model d = rm_default("llama");
    nm_model *model;
    size_t size;
    d.instead = put_tensor;
    wrong_type = NM_F32;
    wrong_rank = 1;
    wrong_dim[0] = 16;
    for (size_t i = 0; i < COUNT(refused); i++) {
        wrong_tensor = refused[i];
        refuse(&d, NM_REFUSED, refused[i]);
    }
    for (size_t i = 0; i < COUNT(ignored); i++) {
        wrong_tensor = ignored[i];
        void *file = rm_make(&d, &size);
        if (nm_model_open_memory(&model, file, size, NAME, NULL) != NM_OK) fail_msg("%s: %s", ignored[i], nm_error_text());
        nm_model_close(&model);
        free(file);
    }
}

static char bias_name[96];
static int64_t bias_length;

static void put_bias(gguf_writer *w, const random_model *d)
{
    float values[600];
    for (int64_t i = 0; i < bias_length; i++) values[i] = (float)(i % 7) * 0.1f - 0.3f;
    gw_tensor(w, bias_name, NM_F32, 1, &bias_length, values, (size_t)bias_length * sizeof *values);
}

static void run_once(const random_model *d, float *logits)
{
    void *file;
    nm_model *model = open_good(d, &file, NULL);
    if (run_tokens(model, NULL, (int32_t[]){5, 9, 33, 12}, 4, logits) != NM_OK) fail_msg("%s: %s", d->arch, nm_error_text());
    nm_model_close(&model);
    free(file);
}

/* Every map of a layer may have a bias, in every architecture, and it counts. */
static void test_biases(void **state)
{
    for (size_t a = 0; a < COUNT(rm_archs); a++) {
        random_model d = rm_default(rm_archs[a].name);
        float plain[64], with[64];
        void *file;
        run_once(&d, plain);
        d.instead = put_bias;
        d.leave_out = bias_name;
        nm_model *model = open_good(&(random_model){.arch = d.arch, .layers = 2, .embd = 256, .ff = 512, .heads = 8, .heads_kv = 2, .head = 32, .vocab = 64,
            .context = 256, .type = NM_F32, .embd_type = NM_F32, .seed = 1}, &file, &(nm_model_options){.metadata_only = true});
        for (size_t t = 0; t < nm_model_tensor_count(model); t++) {
            nm_tensor_info info = nm_model_tensor(model, t);
            if (info.rank != 2 || strncmp(info.name, "blk.1.", 6)) continue;
            snprintf(bias_name, sizeof bias_name, "%.*sbias", (int)strlen(info.name) - 6, info.name);
            bias_length = info.dim[1];
            run_once(&d, with);
            if (!memcmp(plain, with, sizeof plain)) fail_msg("%s: %s changes nothing", d.arch, bias_name);
        }
        nm_model_close(&model);
        free(file);
    }
}

/* StableLM: a file that says "parallel" is sequential all the same where it has the norm between the two. */
static void put_parallel(gguf_writer *w, const random_model *d) { gw_bool(w, "stablelm.use_parallel_residual", true); }

static void test_parallel_residual(void **state)
{
    random_model d = rm_default("stablelm");
    float sequential[64], said[64];
    run_once(&d, sequential);
    d.instead = put_parallel;
    run_once(&d, said);
    assert_memory_equal(sequential, said, sizeof said);
}

static void put_factors(gguf_writer *w, const random_model *d)
{
    float f[16];
    for (int i = 0; i < 16; i++) f[i] = 1;
    f[5] = (float)wrong_float;
    gw_tensor(w, "rope_freqs.weight", NM_F32, 1, (int64_t[]){wrong_int}, f, (size_t)wrong_int * sizeof *f);
}

static void test_factors(void **state)
{
    random_model d = rm_default("llama");
    d.instead = put_factors;
    wrong_float = 1;
    wrong_int = 15;
    refuse(&d, NM_BAD_FILE, "rope_freqs.weight: F32 of 15, expected F32 of 16");
    static const double values[] = {0, -1, NAN, INFINITY};
    wrong_int = 16;
    for (size_t i = 0; i < COUNT(values); i++) {
        wrong_float = values[i];
        refuse(&d, NM_BAD_FILE, "rope_freqs.weight[5]");
    }
}

static void test_vocabulary(void **state)
{
    random_model d = rm_default("llama");
    d.vocabulary = RM_VOCAB_BPE;
    d.tokens = 65;
    refuse(&d, NM_BAD_FILE, "the tokenizer has 65 tokens, but token_embd.weight only 64 rows");
    d.tokens = 40;                                  /* fewer is padding, and fine */
    void *file;
    nm_model *model = open_good(&d, &file, NULL);
    static const int32_t outside[] = {-1, 64, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < COUNT(outside); i++) {
        assert_int_equal(run_tokens(model, NULL, (int32_t[]){3, outside[i]}, 2, NULL), NM_USAGE);
        check_line("at place 1 is outside the vocabulary of 64", NULL);
    }
    assert_int_equal(run_tokens(model, NULL, (int32_t[]){63}, 1, NULL), NM_OK);
    nm_model_close(&model);
    free(file);
}

/* ---- Identity ------------------------------------------------------------------------------------------------------------------ */

/* Bytes of the tensor's row in the file. */
static uint8_t *row_at(void *file, size_t size, const char *name, int64_t row)
{
    nm_gguf *g;
    assert_int_equal(nm_gguf_open_memory(&g, file, size, NAME, false), NM_OK);
    const nm_gguf_tensor *t = nm_gguf_tensor_find(g, name);
    uint8_t *at = (uint8_t *)file + t->offset + (size_t)row * (size_t)(t->dim[0] / t->type->block) * (size_t)t->type->bytes;
    nm_gguf_close(&g);
    return at;
}

static nm_err load_with(const void *file, size_t size, const nm_model_options *options, const char *path)
{
    nm_model *model;
    nm_session *session = NULL;
    if (nm_model_open_memory(&model, file, size, NAME, options) != NM_OK) fail_msg("%s", nm_error_text());
    nm_err err = nm_session_load(&session, model, NULL, path);
    nm_session_close(&session);
    nm_model_close(&model);
    return err;
}

/* A saved session belongs to weights of these very bytes, in whatever row; how they are held, and by how many threads, is no part of that. */
static void test_fingerprint(void **state)
{
    static const struct { const char *name; int64_t row; } places[] = {{"blk.1.ffn_up.weight", 77}, {"blk.0.attn_k.weight", 1}, {"blk.0.attn_q.weight", 254},
        {"token_embd.weight", 40}, {"output.weight", 62}, {"blk.1.attn_norm.weight", 0}};
    static const int types[] = {NM_F32, NM_Q4_K, NM_IQ2_S};
    for (size_t t = 0; t < COUNT(types); t++) {
        char path[] = "/tmp/nomoat-session-XXXXXX";
        random_model d = rm_default("llama");
        nm_session *session;
        void *file;
        size_t size;
        d.type = d.embd_type = types[t];
        free(rm_make(&d, &size));
        nm_model *model = open_good(&d, &file, NULL);
        close(mkstemp(path));
        assert_int_equal(nm_session_open(&session, model, NULL), NM_OK);
        assert_int_equal(nm_session_save(session, path), NM_OK);
        nm_session_close(&session);
        nm_model_close(&model);
        assert_int_equal(load_with(file, size, NULL, path), NM_OK);
        assert_int_equal(load_with(file, size, &(nm_model_options){.no_pack = true}, path), NM_OK);
        nm_set_threads(1);
        assert_int_equal(load_with(file, size, NULL, path), NM_OK);
        nm_set_threads(2);
        for (size_t p = 0; p < COUNT(places); p++) {
            uint8_t *at = row_at(file, size, places[p].name, places[p].row) + 8;
            *at ^= 1;
            assert_int_equal(load_with(file, size, NULL, path), NM_REFUSED);
            check_line("saved with other weights", path);
            *at ^= 1;
        }
        unlink(path);
        free(file);
    }
}

/* ---- Values that are not finite ------------------------------------------------------------------------------------------------ */

/* Makes the block's value or a scale NaN or infinite; false if no bits of the type can be. */
static bool poison(const nm_type *type, uint8_t *block, bool infinite)
{
    uint16_t half = infinite ? 0x7c00 : 0x7e01;
    float f = infinite ? -INFINITY : NAN;
    double wide = f;
    switch (type->id) {
    case NM_F32: memcpy(block, &f, 4); return true;
    case NM_F64: memcpy(block, &wide, 8); return true;
    case NM_F16: memcpy(block, &half, 2); return true;
    case NM_BF16: half = infinite ? 0x7f80 : 0x7fc1; memcpy(block, &half, 2); return true;
    case NM_IQ1_M: case NM_MXFP4: case NM_NVFP4: return false;      /* no plain half: test_quant has those that can be */
    default: memcpy(block + type->half_at + 2 * (type->halves - 1), &half, 2); return type->halves > 0;
    }
}

static void test_not_finite(void **state)
{
    static const struct { const char *name; int64_t row; } places[] = {{"blk.1.ffn_up.weight", 0}, {"blk.0.attn_q.weight", 255}, {"token_embd.weight", 17}};
    for (int i = 0; nm_type_at(i); i++) {
        const nm_type *type = nm_type_at(i);
        random_model d = rm_default("llama");
        size_t size;
        if (!type->to_float) continue;
        d.type = d.embd_type = type->id;
        void *file = rm_make(&d, &size);
        for (size_t p = 0; p < COUNT(places); p++)
            for (int infinite = 0; infinite < 2; infinite++) {
                char expected[128];
                uint8_t *at = row_at(file, size, places[p].name, places[p].row), saved[256];
                memcpy(saved, at, (size_t)type->bytes);
                snprintf(expected, sizeof expected, "tensor %s: row %lld holds a value or scale that is not finite", places[p].name, (long long)places[p].row);
                if (poison(type, at, infinite)) refuse_bytes(file, size, NM_BAD_FILE, expected);
                memcpy(at, saved, (size_t)type->bytes);
            }
        free(file);
    }
    random_model d = rm_default("llama");
    size_t size;
    void *file = rm_make(&d, &size);
    poison(nm_type_of(NM_F32), row_at(file, size, "blk.1.ffn_norm.weight", 0) + 40, false);
    refuse_bytes(file, size, NM_BAD_FILE, "blk.1.ffn_norm.weight: value 10 is not finite");
    free(file);
}

/* ---- Contexts ------------------------------------------------------------------------------------------------------------------ */

static void test_contexts(void **state)
{
    random_model d = rm_default("llama"), learned = rm_default("gpt2");
    void *file, *file2;
    nm_session *s;
    int32_t tokens[70] = {0};
    nm_model *model = open_good(&d, &file, NULL), *gpt2 = open_good(&learned, &file2, NULL);
    nm_session_options o = {.context = INT32_MAX};
    uint64_t page = 2 * 2 * 2 * 32 * 64 * 2, pages = (uint64_t)INT32_MAX / 64 + 1;      /* layers, K and V, heads, width, positions, F16 */
    uint64_t bytes = nm_session_bytes(model, &o);
    assert_true(bytes > pages * page && bytes < pages * (page + 64) + 5 * (uint64_t)INT32_MAX);
    assert_int_equal(nm_session_open(&s, model, &o), NM_OK);        /* memory follows the tokens */
    assert_int_equal(nm_session_context(s), INT32_MAX);
    nm_session_close(&s);
    assert_int_equal(run_tokens(model, &o, tokens, 70, NULL), NM_OK);
    o.context = 69;
    assert_int_equal(run_tokens(model, &o, tokens, 70, NULL), NM_USAGE);
    check_line("70 tokens do not fit: 0 of the context of 69 are taken", NULL);
    o.context = 256;
    assert_int_equal(run_tokens(gpt2, &o, tokens, 70, NULL), NM_OK);
    o.context = 257;
    assert_int_equal(run_tokens(gpt2, &o, tokens, 70, NULL), NM_USAGE);
    check_line("has learned 256 positions: a context of 257 does not fit", NULL);
    o.context = -1;
    assert_int_equal(nm_session_open(&s, model, &o), NM_USAGE);
    assert_null(s);
    nm_model_close(&model);
    nm_model_close(&gpt2);
    free(file);
    free(file2);
}

/* A file that claims a context of 2^31 - 1 opens, and a runner on it takes no more memory for that. */
static void test_trained_for_ever(void **state)
{
    random_model d = rm_default("llama");
    d.context = INT32_MAX;
    void *file;
    nm_runner *r;
    nm_model *model = open_good(&d, &file, NULL);
    assert_int_equal(nm_runner_open(&r, model, NULL), NM_OK);
    assert_true(nm_runner_bytes(r) < (uint64_t)256 << 20);
    nm_runner_close(&r);
    assert_int_equal(run_tokens(model, NULL, (int32_t[]){1, 2, 3}, 3, NULL), NM_OK);
    nm_model_close(&model);
    free(file);
}

static void test_runner_options(void **state)
{
    random_model d = rm_default("llama");
    void *file;
    nm_runner *r;
    nm_model *model = open_good(&d, &file, NULL);
    static const nm_runner_options bad[] = {{.max_rows = -1}, {.max_logits = -1}, {.max_rows = INT32_MAX}, {.compute = (nm_compute)7}};
    for (size_t i = 0; i < COUNT(bad); i++) {
        assert_int_equal(nm_runner_open(&r, model, &bad[i]), NM_USAGE);
        assert_null(r);
    }
    nm_model_close(&model);
    free(file);
}

/* ---- Files --------------------------------------------------------------------------------------------------------------------- */

static void refuse_path(const char *path, nm_err code, const char *expected)
{
    nm_model *model = (nm_model *)1;
    int64_t alive = nm_mem_alive();
    nm_err err = nm_model_open(&model, path, NULL);
    if (err != code) fail_msg("%s: expected %d, got %d, %s", path, code, err, nm_error_text());
    assert_null(model);
    assert_int_equal(nm_mem_alive(), alive);
    check_line(expected, path);
}

static void test_no_files(void **state)
{
    char folder[] = "/tmp/nomoat-model-XXXXXX", path[128];
    assert_non_null(mkdtemp(folder));
    refuse_path(folder, NM_BAD_FILE, "");
    refuse_path("/dev/null", NM_BAD_FILE, "");
    refuse_path("/dev/zero", NM_BAD_FILE, "");
    snprintf(path, sizeof path, "%s/none.gguf", folder);
    refuse_path(path, NM_NOT_FOUND, "");
    snprintf(path, sizeof path, "%s/pipe.gguf", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    refuse_path(path, NM_BAD_FILE, "");
    unlink(path);
    snprintf(path, sizeof path, "%s/empty.gguf", folder);
    fclose(fopen(path, "wb"));
    refuse_path(path, NM_BAD_FILE, "");
    if (geteuid() != 0) {
        chmod(path, 0);
        refuse_path(path, NM_FAILED, "");
    }
    unlink(path);
    rmdir(folder);
}

static void test_cuts(void **state)
{
    random_model d = rm_default("llama");
    d.vocabulary = RM_VOCAB_BPE;
    d.type = NM_Q8_0;
    size_t size;
    uint8_t *file = rm_make(&d, &size);
    for (size_t cut = 0; cut < size; cut += cut < 9000 ? 1 : 4001) {
        void *part = malloc(cut + 1);               /* its own block, so that a sanitizer sees a byte too far */
        memcpy(part, file, cut);
        refuse_bytes(part, cut, NM_BAD_FILE, "");
        free(part);
    }
    refuse_bytes(file, size - 1, NM_BAD_FILE, "");
    free(file);
}

/* Any byte of the header may be anything: never a crash, and a model that opens runs. */
static void test_flips(void **state)
{
    random_model d = rm_default("gemma3");
    d.vocabulary = RM_VOCAB_SPM;
    d.vocab = 300;
    d.window = 32;
    d.ff = 256;
    d.type = d.embd_type = NM_Q4_0;
    size_t size;
    uint8_t *file = rm_make(&d, &size);
    int64_t alive = nm_mem_alive();
    for (size_t at = 0; at < 16000 && at < size; at += 3) {
        nm_model *model;
        uint8_t saved = file[at];
        file[at] = (uint8_t)nm_rng_u64(9, 0, at);
        if (nm_model_open_memory(&model, file, size, NAME, NULL) == NM_OK) {
            run_tokens(model, NULL, (int32_t[]){1, 2, 3}, 3, NULL);
            nm_model_close(&model);
        } else {
            check_line("", NULL);
        }
        file[at] = saved;
        if (nm_mem_alive() != alive) fail_msg("a change of byte %zu leaks", at);
    }
    free(file);
}

static void test_allocations(void **state)
{
    random_model d = rm_default("gemma2");
    d.vocabulary = RM_VOCAB_BPE;
    d.window = 32;
    d.type = NM_Q4_0;
    size_t size;
    void *file = rm_make(&d, &size);
    nm_model *model;
    int64_t alive = nm_mem_alive(), before = nm_mem_count();
    assert_int_equal(nm_model_open_memory(&model, file, size, NAME, NULL), NM_OK);
    nm_model_close(&model);
    int64_t count = nm_mem_count() - before;
    for (int64_t i = 0; i < count; i++) {
        nm_mem_fail_after(i);
        nm_err err = nm_model_open_memory(&model, file, size, NAME, NULL);
        nm_mem_fail_after(-1);
        if (err != NM_NO_MEMORY) fail_msg("allocation %lld: %d %s", (long long)i, err, nm_error_text());
        assert_null(model);
        if (nm_mem_alive() != alive) fail_msg("allocation %lld leaks", (long long)i);
    }
    free(file);
}

static bool stop_at_once(void *arg, uint64_t done, uint64_t total)
{
    assert_true(done <= total);
    return ++*(int *)arg == 3;
}

static void test_progress(void **state)
{
    random_model d = rm_default("llama");
    size_t size;
    void *file = rm_make(&d, &size);
    nm_model *model;
    int calls = 0;
    int64_t alive = nm_mem_alive();
    assert_int_equal(nm_model_open_memory(&model, file, size, NAME, &(nm_model_options){.progress = stop_at_once, .progress_arg = &calls}), NM_INTERRUPTED);
    assert_null(model);
    assert_int_equal(calls, 3);
    assert_int_equal(nm_mem_alive(), alive);
    nm_model_close(&model);         /* closing nothing is fine */
    nm_session_close(&(nm_session *){NULL});
    nm_runner_close(&(nm_runner *){NULL});
    free(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_architectures), cmocka_unit_test(test_metadata_only), cmocka_unit_test(test_exact_metadata),
        cmocka_unit_test(test_whole), cmocka_unit_test(test_whole_split), cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_sizes_that_do_not_fit), cmocka_unit_test(test_floats), cmocka_unit_test(test_scaling), cmocka_unit_test(test_windows_olmo), cmocka_unit_test(test_windows_gemma),
        cmocka_unit_test(test_window_of_llama), cmocka_unit_test(test_windows_unknown), cmocka_unit_test(test_granite_unrotated), cmocka_unit_test(test_yarn), cmocka_unit_test(test_sizes_per_layer),
        cmocka_unit_test(test_missing),
        cmocka_unit_test(test_misshapen), cmocka_unit_test(test_unread), cmocka_unit_test(test_biases), cmocka_unit_test(test_parallel_residual),
        cmocka_unit_test(test_factors), cmocka_unit_test(test_vocabulary), cmocka_unit_test(test_fingerprint), cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_contexts), cmocka_unit_test(test_trained_for_ever), cmocka_unit_test(test_runner_options), cmocka_unit_test(test_no_files),
        cmocka_unit_test(test_cuts), cmocka_unit_test(test_flips), cmocka_unit_test(test_allocations), cmocka_unit_test(test_progress),
    };
    nm_set_threads(2);
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
