/* GGUF files: everything a good one may hold, and every way a bad one can lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <math.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/rng.h"
#include "format/gguf.h"

#include "../gguf_writer.c"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- Helpers -------------------------------------------------------------------------------------------------------- */

static const int64_t dims4[4] = {64, 3, 2, 2};
static float values768[768];

static int setup(void **state)
{
    for (int i = 0; i < 768; i++) values768[i] = (float)nm_rng_unit(1, 0, (uint64_t)i) - 0.5f;
    return 0;
}

/* A small model-like file with some of everything. */
static void *make_sample(uint32_t version, uint32_t alignment, size_t *size)
{
    gguf_writer w = {.version = version, .alignment = alignment};
    gw_string(&w, "general.architecture", "llama");
    gw_string(&w, "general.name", "caf\xc3\xa9");
    gw_u32(&w, "llama.block_count", 2);
    gw_f32(&w, "llama.rope.freq_base", 10000);
    gw_bool(&w, "tokenizer.ggml.add_bos_token", true);
    gw_strings(&w, "tokenizer.ggml.tokens", (const char *const[]){"<unk>", "", "a\xff" "b", "\xe2\x96\x81the"}, 4);
    gw_array(&w, "tokenizer.ggml.scores", NM_META_F32, (float[]){0, -1, -2, -3.5f}, 4);
    gw_array(&w, "tokenizer.ggml.token_type", NM_META_I32, (int32_t[]){2, 1, 1, 1}, 4);
    gw_tensor_values(&w, "token_embd.weight", NM_F32, 2, (int64_t[]){64, 4}, values768);
    gw_tensor_values(&w, "blk.0.attn_q.weight", NM_Q4_0, 2, (int64_t[]){64, 3}, values768);
    gw_tensor_values(&w, "output_norm.weight", NM_F16, 1, (int64_t[]){7}, values768);
    gw_tensor_values(&w, "blk.0.ffn_gate_exps.weight", NM_Q8_0, 4, dims4, values768);
    return gw_finish(&w, size);
}

static nm_err open_bytes(nm_gguf **g, const void *bytes, size_t size) { return nm_gguf_open_memory(g, bytes, size, "test.gguf", false); }

/* The file is refused with a line that names it, says `expected` and leaves nothing behind. */
static void refuse_bytes(const void *bytes, size_t size, const char *expected)
{
    nm_gguf *g = (nm_gguf *)1;
    int64_t alive = nm_mem_alive();
    nm_err err = open_bytes(&g, bytes, size);
    if (err != NM_BAD_FILE) fail_msg("expected \"%s\", got code %d, %s", expected, err, nm_error_text());
    assert_null(g);
    assert_int_equal(nm_mem_alive(), alive);
    if (strncmp(nm_error_text(), "test.gguf: ", 11) || !strstr(nm_error_text(), expected) || strchr(nm_error_text(), '\n'))
        fail_msg("expected \"%s\", got: %s", expected, nm_error_text());
}

/* An exact copy in its own block, so that the sanitizer sees a read past the end. */
static void refuse_copy(const void *bytes, size_t size, const char *expected)
{
    void *copy = malloc(size ? size : 1);
    memcpy(copy, bytes, size);
    refuse_bytes(copy, size, expected);
    free(copy);
}

static void refuse(gguf_writer *w, const char *expected)
{
    size_t size;
    void *bytes = gw_finish(w, &size);
    refuse_copy(bytes, size, expected);
    free(bytes);
}

/* ---- What good files hold ------------------------------------------------------------------------------------------- */

static void check_sample(const nm_gguf *g, const uint8_t *bytes, size_t size)
{
    const nm_gguf_value *v = nm_gguf_find(g, "tokenizer.ggml.tokens");
    size_t length;
    const char *text;
    assert_int_equal(nm_gguf_file_bytes(g), size);
    assert_non_null(v);
    assert_int_equal(v->count, 4);
    text = nm_gguf_string(g, v, 2, &length);
    assert_int_equal(length, 3);
    assert_memory_equal(text, "a\xff" "b", 3);
    nm_gguf_string(g, v, 1, &length);
    assert_int_equal(length, 0);
    assert_memory_equal(bytes + v->string_at[3] + 8, "\xe2\x96\x81the", 6);
    assert_int_equal(nm_gguf_get_string(g, "general.name", &text, &length), NM_OK);
    assert_int_equal(length, 5);
    const nm_gguf_tensor *t = nm_gguf_tensor_find(g, "blk.0.attn_q.weight");
    assert_non_null(t);
    assert_int_equal(t->rank, 2);
    assert_int_equal(t->dim[0], 64);
    assert_int_equal(t->dim[3], 1);
    assert_int_equal(t->bytes, 108);
    assert_ptr_equal(t->data, bytes + t->offset);
    float back[192];
    t->type->to_float(t->data, 192, back);
    for (int i = 0; i < 192; i++) assert_true(fabsf(back[i] - values768[i]) < 0.1f);
    t = nm_gguf_tensor_find(g, "blk.0.ffn_gate_exps.weight");
    assert_int_equal(t->dim[3], 2);
    assert_null(nm_gguf_tensor_find(g, "blk.0"));
    assert_null(nm_gguf_find(g, ""));
    assert_int_equal(nm_gguf_tensor_count(g), 4);
    assert_string_equal(nm_gguf_tensor_at(g, 2)->name, "output_norm.weight");
    assert_string_equal(nm_gguf_value_at(g, 2)->key, "llama.block_count");
    nm_gguf_forget(g, t->data, t->bytes);
}

static void test_sample(void **state)
{
    static const uint32_t alignments[] = {32, 1, 2, 8, 64, 4096};
    for (uint32_t version = 2; version <= 3; version++) {
        for (size_t a = 0; a < COUNT(alignments); a++) {
            size_t size;
            nm_gguf *g;
            uint8_t *bytes = make_sample(version, alignments[a], &size);
            assert_int_equal(open_bytes(&g, bytes, size), NM_OK);
            assert_string_equal(nm_gguf_name(g), "test.gguf");
            check_sample(g, bytes, size);
            nm_gguf_close(&g);
            assert_null(g);
            free(bytes);
        }
    }
    nm_gguf_close(&(nm_gguf *){NULL});
}

static void test_scalars(void **state)
{
    gguf_writer w = {0};
    size_t size;
    nm_gguf *g;
    gw_u8(&w, "u8", 255);
    gw_i8(&w, "i8", -128);
    gw_u16(&w, "u16", 65535);
    gw_i16(&w, "i16", -32768);
    gw_u32(&w, "u32", UINT32_MAX);
    gw_i32(&w, "i32", INT32_MIN);
    gw_u64(&w, "u64", 1ull << 63);
    gw_i64(&w, "i64", INT64_MIN);
    gw_f32(&w, "f32", 0.1f);
    gw_f64(&w, "f64", 0.1);
    gw_bool(&w, "bool", true);
    gw_string_n(&w, "string", "a\0b", 3);
    void *bytes = gw_finish(&w, &size);
    assert_int_equal(open_bytes(&g, bytes, size), NM_OK);
    static const struct { const char *key; int64_t integer; } integers[] = {
        {"u8", 255}, {"i8", -128}, {"u16", 65535}, {"i16", -32768}, {"u32", UINT32_MAX}, {"i32", INT32_MIN}, {"i64", INT64_MIN}
    };
    for (size_t i = 0; i < COUNT(integers); i++) {
        int64_t value;
        assert_int_equal(nm_gguf_get_i64(g, integers[i].key, INT64_MIN, INT64_MAX, &value), NM_OK);
        assert_int_equal(value, integers[i].integer);
        assert_true(nm_gguf_number(nm_gguf_find(g, integers[i].key), 0) == (double)integers[i].integer);
    }
    assert_true(nm_gguf_number(nm_gguf_find(g, "u64"), 0) == 0x1p63);
    assert_true(nm_gguf_number(nm_gguf_find(g, "f32"), 0) == 0.1f);
    assert_true(nm_gguf_number(nm_gguf_find(g, "f64"), 0) == 0.1);
    assert_true(isnan(nm_gguf_number(nm_gguf_find(g, "string"), 0)));
    assert_int_equal(nm_gguf_int(nm_gguf_find(g, "bool"), 0), 1);
    size_t length;
    assert_memory_equal(nm_gguf_string(g, nm_gguf_find(g, "string"), 0, &length), "a\0b", 3);
    assert_int_equal(length, 3);
    nm_gguf_close(&g);
    free(bytes);
}

static void test_arrays(void **state)
{
    static const nm_meta_type items[] = {NM_META_U8, NM_META_I8, NM_META_U16, NM_META_I16, NM_META_U32, NM_META_I32, NM_META_F32, NM_META_BOOL,
        NM_META_U64, NM_META_I64, NM_META_F64};
    static const uint8_t ones[24] = {1, 0, 1};
    for (size_t i = 0; i < COUNT(items); i++) {
        for (uint64_t count = 0; count <= 3; count += 3) {
            gguf_writer w = {0};
            size_t size;
            nm_gguf *g;
            const nm_gguf_value *v;
            gw_array(&w, "a", items[i], ones, count);
            void *bytes = gw_finish(&w, &size);
            assert_int_equal(open_bytes(&g, bytes, size), NM_OK);
            assert_int_equal(nm_gguf_opt_array(g, "a", items[i], &v), NM_OK);
            assert_non_null(v);
            assert_int_equal(v->count, count);
            assert_null(v->string_at);
            if (count && items[i] != NM_META_F32 && items[i] != NM_META_F64) assert_true(nm_gguf_number(v, 0) == (double)nm_gguf_int(v, 0));
            nm_gguf_close(&g);
            free(bytes);
        }
    }
}

/* Every type of the table, with its own block size. */
static void test_tensor_types(void **state)
{
    static const uint8_t zeros[4096];
    for (int i = 0; nm_type_at(i); i++) {
        const nm_type *type = nm_type_at(i);
        gguf_writer w = {0};
        size_t size;
        nm_gguf *g;
        gw_tensor(&w, "t", (int)type->id, 2, (int64_t[]){type->block, 3}, zeros, (size_t)type->bytes * 3);
        void *bytes = gw_finish(&w, &size);
        assert_int_equal(open_bytes(&g, bytes, size), NM_OK);
        assert_ptr_equal(nm_gguf_tensor_at(g, 0)->type, type);
        assert_int_equal(nm_gguf_tensor_at(g, 0)->bytes, type->bytes * 3);
        nm_gguf_close(&g);
        refuse_copy(bytes, size - 1, "ends beyond");
        free(bytes);
        if (type->block == 1) continue;
        gw_tensor(&w, "t", (int)type->id, 2, (int64_t[]){type->block / 2, 2}, zeros, (size_t)type->bytes);
        refuse(&w, "no whole number of");
    }
}

static void test_many_strings(void **state)
{
    enum { N = 262144 };
    gguf_writer w = {0};
    size_t size, length;
    nm_gguf *g;
    gw_key(&w, "tokens", NM_META_ARRAY);
    gw_put_u32(&w.keys, NM_META_STRING);
    gw_put_u64(&w.keys, N);
    for (unsigned i = 0; i < N; i++) gw_put_string(&w.keys, "0123456789", i % 11);
    void *bytes = gw_finish(&w, &size);
    assert_int_equal(open_bytes(&g, bytes, size), NM_OK);
    for (unsigned i = 0; i < N; i++) {
        nm_gguf_string(g, nm_gguf_find(g, "tokens"), i, &length);
        assert_int_equal(length, i % 11);
    }
    nm_gguf_close(&g);
    free(bytes);
}

/* Names chosen to be as alike as can be; all are found, and the only price is the sort. */
static void test_many_keys(void **state)
{
    enum { N = 100000 };
    gguf_writer w = {0};
    size_t size;
    nm_gguf *g;
    char name[40];
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "a.long.common.beginning.%06d", (int)((int64_t)i * 7919 % N));
        gw_u32(&w, name, (uint32_t)i);
    }
    void *bytes = gw_finish(&w, &size);
    assert_int_equal(open_bytes(&g, bytes, size), NM_OK);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "a.long.common.beginning.%06d", (int)((int64_t)i * 7919 % N));
        assert_int_equal(nm_gguf_int(nm_gguf_find(g, name), 0), i);
    }
    nm_gguf_close(&g);
    free(bytes);
}

/* ---- Typed access --------------------------------------------------------------------------------------------------- */

static void expect_error(nm_err err, const char *expected)
{
    assert_int_equal(err, NM_BAD_FILE);
    if (!strstr(nm_error_text(), "test.gguf: ") || !strstr(nm_error_text(), expected))
        fail_msg("expected \"%s\", got: %s", expected, nm_error_text());
}

static void test_typed_access(void **state)
{
    gguf_writer w = {0};
    size_t size, length = 99;
    nm_gguf *g;
    int64_t i64 = 7;
    float f32 = 8;
    bool boolean = true;
    const char *text = "untouched";
    const nm_gguf_value *v;
    gw_u32(&w, "n", 5);
    gw_u64(&w, "huge", UINT64_MAX);
    gw_f32(&w, "nan", NAN);
    gw_f64(&w, "wide", 1e300);
    gw_f64(&w, "half", 0.5);
    gw_string(&w, "s", "text");
    gw_array(&w, "a", NM_META_I32, (int32_t[]){1}, 1);
    gw_u8(&w, "byte", 1);
    void *bytes = gw_finish(&w, &size);
    assert_int_equal(open_bytes(&g, bytes, size), NM_OK);
    expect_error(nm_gguf_get_i64(g, "absent", 0, 1, &i64), "key 'absent' is missing");
    expect_error(nm_gguf_get_f32(g, "absent", &f32), "key 'absent' is missing");
    expect_error(nm_gguf_get_string(g, "absent", &text, &length), "key 'absent' is missing");
    expect_error(nm_gguf_get_i64(g, "n", 6, 9, &i64), "byte 37: key 'n' is 5, expected 6 to 9");
    expect_error(nm_gguf_get_i64(g, "n", 0, 4, &i64), "key 'n' is 5, expected 0 to 4");
    expect_error(nm_gguf_get_i64(g, "huge", 0, INT64_MAX, &i64), "key 'huge' is 18446744073709551615");
    expect_error(nm_gguf_get_i64(g, "s", 0, 4, &i64), "key 's' is of type string, expected an integer");
    expect_error(nm_gguf_get_i64(g, "nan", 0, 4, &i64), "key 'nan' is of type f32, expected an integer");
    expect_error(nm_gguf_opt_i64(g, "a", 0, 4, &i64), "key 'a' is an array of i32, expected an integer");
    expect_error(nm_gguf_get_f32(g, "nan", &f32), "expected a finite number");
    expect_error(nm_gguf_get_f32(g, "wide", &f32), "expected a finite number");
    expect_error(nm_gguf_opt_f32(g, "n", &f32), "key 'n' is of type u32, expected f32");
    expect_error(nm_gguf_opt_bool(g, "byte", &boolean), "expected bool");
    expect_error(nm_gguf_opt_string(g, "n", &text, &length), "expected string");
    expect_error(nm_gguf_opt_array(g, "s", NM_META_STRING, &v), "expected an array of string");
    expect_error(nm_gguf_opt_array(g, "a", NM_META_F32, &v), "key 'a' is an array of i32, expected an array of f32");
    assert_true(i64 == 7 && f32 == 8 && boolean && length == 99 && strcmp(text, "untouched") == 0);
    assert_int_equal(nm_gguf_opt_i64(g, "absent", 0, 1, &i64), NM_OK);
    assert_int_equal(nm_gguf_opt_f32(g, "absent", &f32), NM_OK);
    assert_int_equal(nm_gguf_opt_bool(g, "absent", &boolean), NM_OK);
    assert_int_equal(nm_gguf_opt_string(g, "absent", &text, &length), NM_OK);
    assert_int_equal(nm_gguf_opt_array(g, "absent", NM_META_I32, &v), NM_OK);
    assert_true(i64 == 7 && f32 == 8 && boolean && length == 99 && !v);
    assert_int_equal(nm_gguf_get_f32(g, "half", &f32), NM_OK);
    assert_true(f32 == 0.5f);
    nm_gguf_close(&g);
    free(bytes);
}

/* ---- What bad files say ----------------------------------------------------------------------------------------------- */

static void test_bad_beginnings(void **state)
{
    size_t size;
    uint8_t *bytes = make_sample(3, 32, &size);
    refuse_copy(bytes, 0, "not a GGUF file");
    refuse_copy("GGML", 4, "not a GGUF file");
    static const struct { uint8_t version[4]; const char *expected; } versions[] = {
        {{0, 0, 0, 0}, "version 0 is unknown"}, {{1, 0, 0, 0}, "version 1 is no longer read"}, {{4, 0, 0, 0}, "version 4 is unknown"},
        {{0, 0, 0, 3}, "big-endian"}, {{0, 0, 0, 2}, "big-endian"}, {{255, 255, 255, 255}, "version 4294967295 is unknown"}
    };
    for (size_t i = 0; i < COUNT(versions); i++) {
        memcpy(bytes + 4, versions[i].version, 4);
        refuse_copy(bytes, size, versions[i].expected);
    }
    bytes[4] = 3;
    memset(bytes + 5, 0, 3);
    static const uint64_t counts[] = {1000, 1ull << 31, 1ull << 32, 1ull << 63, UINT64_MAX};
    for (size_t i = 0; i < COUNT(counts); i++) {
        uint64_t good[2];
        memcpy(good, bytes + 8, sizeof good);
        memcpy(bytes + 8, &counts[i], 8);
        refuse_copy(bytes, size, "byte 8: the header claims");
        memcpy(bytes + 8, good, sizeof good);
        memcpy(bytes + 16, &counts[i], 8);
        refuse_copy(bytes, size, "byte 16: the header claims");
        memcpy(bytes + 8, good, sizeof good);
    }
    free(bytes);
}

static void test_bad_keys(void **state)
{
    gguf_writer w = {0};
    char *name = calloc(1, 70000);
    gw_u8(&w, "twice", 1);
    gw_u8(&w, "other", 1);
    gw_u8(&w, "twice", 1);
    refuse(&w, "byte 60: key 'twice' is there twice, first at byte 24");
    gw_u8(&w, "a\xff", 1);
    refuse(&w, "byte 33: the name of a key is not valid UTF-8");
    gw_put_string(&w.keys, "a\0b", 3);
    gw_put(&w.keys, "\0\0\0\0\1", 5);
    w.n_keys = 1;
    refuse(&w, "has a zero byte in it");
    memset(name, 'k', 65536);
    gw_u8(&w, name, 1);
    refuse(&w, "the name of a key claims 65536 bytes");
    name[65535] = 0;
    size_t size;
    nm_gguf *g;
    gw_u8(&w, name, 1);
    gw_u8(&w, "", 1);
    void *bytes = gw_finish(&w, &size);
    assert_int_equal(open_bytes(&g, bytes, size), NM_OK);
    assert_non_null(nm_gguf_find(g, name));
    nm_gguf_close(&g);
    free(bytes);
    free(name);
    static const uint32_t types[] = {13, 14, 255, 1u << 31, UINT32_MAX};
    for (size_t i = 0; i < COUNT(types); i++) {
        gw_key(&w, "k", types[i]);
        gw_put_u64(&w.keys, 0);
        refuse(&w, "byte 33: key 'k' has the unknown value type");
        gw_key(&w, "k", NM_META_ARRAY);
        gw_put_u32(&w.keys, types[i]);
        gw_put_u64(&w.keys, 0);
        refuse(&w, "byte 37: key 'k' has the unknown value type");
    }
}

static const uint64_t lying_lengths[] = {5, 100, 1ull << 31, 1ull << 32, 1ull << 61, (1ull << 61) + 1, 1ull << 63, UINT64_MAX - 7, UINT64_MAX};

static void test_bad_values(void **state)
{
    gguf_writer w = {0};
    for (size_t i = 0; i < COUNT(lying_lengths); i++) {
        gw_key(&w, "k", NM_META_STRING);
        gw_put_u64(&w.keys, lying_lengths[i]);
        gw_put(&w.keys, "four", 4);
        refuse(&w, "byte 37: a string of key 'k' claims");
        gw_put_u64(&w.keys, lying_lengths[i] + (lying_lengths[i] < 100 ? 100 : 0));
        gw_put(&w.keys, "key name", 8);
        w.n_keys = 1;
        refuse(&w, "the name of a key");
        for (uint32_t item = NM_META_U8; item <= NM_META_F64; item++) {
            gw_key(&w, "k", NM_META_ARRAY);
            gw_put_u32(&w.keys, item);
            gw_put_u64(&w.keys, lying_lengths[i]);
            gw_put(&w.keys, "\0\0\0\0", 4);
            refuse(&w, item == NM_META_ARRAY ? "byte 37: key 'k' is an array of arrays" : "byte 49: key 'k' claims");
        }
    }
    gw_key(&w, "k", NM_META_ARRAY);     /* enough bytes for the count, not for what the second string claims */
    gw_put_u32(&w.keys, NM_META_STRING);
    gw_put_u64(&w.keys, 2);
    gw_put_string(&w.keys, "abcdefghijklmnop", 16);
    gw_put_u64(&w.keys, 1);
    refuse(&w, "byte 73: a string of key 'k' claims 1 bytes, 0 are left");
    gw_key(&w, "k", NM_META_BOOL);
    gw_put(&w.keys, "\2", 1);
    refuse(&w, "byte 37: key 'k' has the byte 2 where a bool is 0 or 1");
    gw_array(&w, "k", NM_META_BOOL, "\0\1\377", 3);
    refuse(&w, "byte 51: key 'k' has the byte 255 where a bool is 0 or 1");
}

static void test_bad_alignment(void **state)
{
    static const uint64_t values[] = {0, 3, 33, 1ull << 63, UINT64_MAX};
    gguf_writer w = {0};
    for (size_t i = 0; i < COUNT(values); i++) {
        gw_u64(&w, "general.alignment", values[i]);
        gw_tensor(&w, "t", NM_F32, 1, (int64_t[]){1}, "four", 4);
        refuse(&w, "key 'general.alignment' is");
    }
    gw_i32(&w, "general.alignment", -32);
    refuse(&w, "key 'general.alignment' is -32");
    gw_string(&w, "general.alignment", "32");
    refuse(&w, "key 'general.alignment' is of type string, expected an integer");
    gw_u64(&w, "general.alignment", 1ull << 62);
    gw_tensor(&w, "t", NM_F32, 1, (int64_t[]){1}, "four", 4);
    refuse(&w, "ends beyond the file");
    gw_u32(&w, "general.alignment", 64);
    gw_tensor(&w, "t", NM_F32, 1, (int64_t[]){1}, "four", 4);
    gw_tensor(&w, "u", NM_F32, 1, (int64_t[]){1}, "four", 4);   /* at 32 */
    refuse(&w, "tensor 'u' has offset 32, which is no multiple of the alignment 64");
}

static void test_bad_tensors(void **state)
{
    static const int64_t bad_dims[] = {0, -1, INT64_MIN, 1ll << 31, 1ll << 32, 1ll << 62, INT64_MAX};
    gguf_writer w = {0};
    for (size_t i = 0; i < COUNT(bad_dims); i++) {
        for (int place = 0; place < 4; place++) {
            int64_t dim[4] = {32, 2, 2, 2};
            dim[place] = bad_dims[i];
            gw_tensor_record(&w, "t", NM_F32, 4, dim, 0);
            gw_put(&w.data, values768, 1024);
            refuse(&w, "tensor 't' ");
            gw_tensor_record(&w, "t", NM_Q4_0, 4, dim, 0);
            gw_put(&w.data, values768, 1024);
            refuse(&w, "tensor 't' ");
        }
    }
    gw_tensor_record(&w, "t", NM_F32, 2, (int64_t[]){1ll << 32, 1ll << 31}, 0);
    refuse(&w, "product overflows");
    gw_tensor_record(&w, "t", NM_F64, 2, (int64_t[]){1ll << 31, 1ll << 31}, 0);
    refuse(&w, "larger than any file");
    gw_tensor_record(&w, "t", NM_F32, 2, (int64_t[]){4, -4}, 0);
    refuse(&w, "byte 45: tensor 't' has a dimension of -4");
    static const uint32_t ranks[] = {0, 5, 8, 1u << 31, UINT32_MAX};
    for (size_t i = 0; i < COUNT(ranks); i++) {
        gw_tensor_record(&w, "t", NM_F32, 1, (int64_t[]){8}, 0);
        memcpy(w.tensors.data + 9, &ranks[i], 4);
        refuse(&w, "byte 33: tensor 't' has ");
    }
    static const uint32_t types[] = {4, 5, 9, 15, 31, 36, 41, 255, 1u << 31, UINT32_MAX};
    for (size_t i = 0; i < COUNT(types); i++) {
        gw_tensor_record(&w, "t", types[i], 1, (int64_t[]){256}, 0);
        gw_put(&w.data, values768, 1024);
        refuse(&w, "byte 45: tensor 't' has the unknown type");
    }
    gw_tensor(&w, "t\xc0\x80", NM_F32, 1, (int64_t[]){1}, "four", 4);
    refuse(&w, "the name of a tensor is not valid UTF-8");
    gw_tensor(&w, "t", NM_F32, 1, (int64_t[]){1}, "four", 4);
    gw_tensor(&w, "u", NM_F32, 1, (int64_t[]){1}, "four", 4);
    gw_tensor(&w, "t", NM_F32, 1, (int64_t[]){1}, "four", 4);
    refuse(&w, "tensor 't' is there twice");
}

static void test_bad_offsets(void **state)
{
    static const uint64_t outside[] = {32, 64, 1ull << 31, 1ull << 40, 1ull << 63, UINT64_MAX & ~31ull};
    gguf_writer w = {0};
    for (size_t i = 0; i < COUNT(outside); i++) {
        gw_tensor_record(&w, "t", NM_F32, 1, (int64_t[]){8}, outside[i]);
        gw_put(&w.data, values768, 63);
        refuse(&w, "tensor 't' of 32 bytes at offset");
    }
    gw_tensor_record(&w, "t", NM_F32, 1, (int64_t[]){8}, 4);
    gw_put(&w.data, values768, 64);
    refuse(&w, "has offset 4, which is no multiple of the alignment 32");
    static const uint64_t second[] = {0, 32, 64};
    for (size_t i = 0; i < COUNT(second); i++) {    /* whichever comes first in the file */
        gw_tensor_record(&w, "low", NM_F32, 1, (int64_t[]){17}, second[i]);
        gw_tensor_record(&w, "high", NM_F32, 1, (int64_t[]){17}, 32);
        gw_put(&w.data, values768, 256);
        refuse(&w, "overlap at byte");
    }
}

/* Cut anywhere, the file is refused; the header cut anywhere, metadata alone is refused too. */
static void test_cut_everywhere(void **state)
{
    size_t size, header = 0;
    uint8_t *bytes = make_sample(3, 32, &size);
    nm_gguf *g;
    assert_int_equal(open_bytes(&g, bytes, size), NM_OK);
    for (size_t i = 0; i < nm_gguf_tensor_count(g); i++)
        if (nm_gguf_tensor_at(g, i)->offset < header || i == 0) header = nm_gguf_tensor_at(g, i)->offset;
    nm_gguf_close(&g);
    for (size_t cut = 0; cut < size; cut++) {
        refuse_copy(bytes, cut, "");
        int64_t alive = nm_mem_alive();
        nm_err err = nm_gguf_open_memory(&g, bytes, cut, "test.gguf", true);
        if (cut >= header) assert_int_equal(err, NM_OK);
        if (cut + 32 <= header) assert_int_equal(err, NM_BAD_FILE);
        if (err == NM_OK) {
            const nm_gguf_tensor *last = nm_gguf_tensor_at(g, 3);
            assert_null(last->data);
            assert_true(last->bytes > 0 && last->offset > 0);
        }
        nm_gguf_close(&g);
        assert_int_equal(nm_mem_alive(), alive);
    }
    free(bytes);
}

/* Any byte of the header changed to anything: opened or refused, never worse. The sanitizers watch. */
static void test_changed_everywhere(void **state)
{
    static const uint8_t changes[] = {0, 1, 2, 8, 9, 12, 13, 0x7f, 0x80, 0xff};
    size_t size;
    uint8_t *bytes = make_sample(3, 32, &size);
    int64_t alive = nm_mem_alive();
    for (size_t at = 0; at < size && at < 1200; at++) {
        uint8_t good = bytes[at];
        for (size_t c = 0; c < COUNT(changes); c++) {
            nm_gguf *g;
            bytes[at] = changes[c];
            nm_err err = open_bytes(&g, bytes, size);
            assert_true(err == NM_OK || err == NM_BAD_FILE);
            nm_gguf_close(&g);
        }
        bytes[at] = good;
    }
    assert_int_equal(nm_mem_alive(), alive);
    free(bytes);
}

static void test_no_memory(void **state)
{
    size_t size;
    uint8_t *bytes = make_sample(3, 32, &size);
    int64_t alive = nm_mem_alive();
    nm_err err = NM_NO_MEMORY;
    for (int64_t n = 0; err == NM_NO_MEMORY; n++) {
        nm_gguf *g;
        nm_mem_fail_after(n);
        err = open_bytes(&g, bytes, size);
        nm_mem_fail_after(-1);
        assert_true(n > 5 || err == NM_NO_MEMORY);
        nm_gguf_close(&g);
        assert_int_equal(nm_mem_alive(), alive);
    }
    assert_int_equal(err, NM_OK);
    free(bytes);
}

/* ---- Files and splits ------------------------------------------------------------------------------------------------- */

static char folder[] = "/tmp/nm_test_gguf_XXXXXX";

static const char *in_folder(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* Part `index` of three, with two tensors. */
static void save_part(const char *name, int index, int said_index, int said_count, int tensors)
{
    gguf_writer w = {0};
    char tensor[32];
    gw_split(&w, said_index, said_count, tensors);
    if (index == 0) gw_string(&w, "general.architecture", "llama");
    for (int i = 0; i < 2; i++) {
        snprintf(tensor, sizeof tensor, "blk.%d.%c", index, 'b' - i);
        gw_tensor_values(&w, tensor, NM_F32, 1, (int64_t[]){8}, values768 + 8 * (2 * index + i));
    }
    gw_save(&w, in_folder(name));
}

static void save_split(void)
{
    char name[64];
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "m-%05d-of-00003.gguf", i + 1);
        save_part(name, i, i, 3, 6);
    }
}

static void refuse_path(const char *name, nm_err code, const char *expected)
{
    nm_gguf *g;
    int64_t alive = nm_mem_alive();
    nm_err err = nm_gguf_open(&g, in_folder(name), false);
    if (err != code || !strstr(nm_error_text(), expected)) fail_msg("expected %d \"%s\", got %d: %s", code, expected, err, nm_error_text());
    assert_null(g);
    assert_int_equal(nm_mem_alive(), alive);
}

static void test_files(void **state)
{
    nm_gguf *g;
    size_t size;
    void *bytes = make_sample(3, 32, &size);
    FILE *f = fopen(in_folder("one.gguf"), "wb");
    assert_true(f && fwrite(bytes, 1, size, f) == size && fclose(f) == 0);
    assert_int_equal(nm_gguf_open(&g, in_folder("one.gguf"), false), NM_OK);
    check_sample(g, (const uint8_t *)nm_gguf_tensor_at(g, 0)->data - nm_gguf_tensor_at(g, 0)->offset, size);
    assert_string_equal(nm_mapped_file_at(nm_gguf_tensor_at(g, 0)->data), in_folder("one.gguf"));
    nm_gguf_close(&g);
    free(bytes);
    refuse_path("none.gguf", NM_NOT_FOUND, "none.gguf: no such file");
    refuse_path(".", NM_BAD_FILE, "is a folder");
    unlink(in_folder("one.gguf"));
}

static void test_split(void **state)
{
    nm_gguf *g;
    save_split();
    assert_int_equal(nm_gguf_open(&g, in_folder("m-00001-of-00003.gguf"), false), NM_OK);
    assert_int_equal(nm_gguf_tensor_count(g), 6);
    for (int i = 0; i < 6; i++) {
        char name[32];
        snprintf(name, sizeof name, "blk.%d.%c", i / 2, 'b' - i % 2);
        const nm_gguf_tensor *t = nm_gguf_tensor_find(g, name);
        assert_non_null(t);
        assert_int_equal(t->file, i / 2);
        assert_memory_equal(t->data, values768 + 8 * i, 32);
        nm_gguf_forget(g, t->data, t->bytes);
    }
    assert_non_null(nm_gguf_find(g, "general.architecture"));
    assert_true(nm_gguf_file_bytes(g) > 3 * 128);
    nm_gguf_close(&g);
    int64_t alive = nm_mem_alive();
    nm_err err = NM_NO_MEMORY;
    for (int64_t n = 0; err == NM_NO_MEMORY; n++) {
        nm_mem_fail_after(n);
        err = nm_gguf_open(&g, in_folder("m-00001-of-00003.gguf"), false);
        nm_mem_fail_after(-1);
        nm_gguf_close(&g);
        assert_int_equal(nm_mem_alive(), alive);
    }
    assert_int_equal(err, NM_OK);
}

static void test_bad_splits(void **state)
{
    nm_gguf *g;
    save_split();
    refuse_path("m-00002-of-00003.gguf", NM_BAD_FILE, "is part 2 of 3 of a split; open the first part");
    save_part("m-00002-of-00003.gguf", 1, 2, 3, 6);
    refuse_path("m-00001-of-00003.gguf", NM_BAD_FILE, "m-00002-of-00003.gguf: split.no and split.count are 2 and 3, expected 1 and 3");
    save_part("m-00002-of-00003.gguf", 1, 1, 4, 6);
    refuse_path("m-00001-of-00003.gguf", NM_BAD_FILE, "are 1 and 4, expected 1 and 3");
    save_part("m-00002-of-00003.gguf", 0, 1, 3, 6);
    refuse_path("m-00001-of-00003.gguf", NM_BAD_FILE, "is there twice, first at byte");
    unlink(in_folder("m-00002-of-00003.gguf"));
    refuse_path("m-00001-of-00003.gguf", NM_NOT_FOUND, "m-00002-of-00003.gguf: no such file; it is part 2 of 3");
    assert_int_equal(nm_gguf_open(&g, in_folder("m-00001-of-00003.gguf"), true), NM_OK);
    assert_int_equal(nm_gguf_tensor_count(g), 4);
    nm_gguf_close(&g);
    save_split();
    save_part("m-00001-of-00003.gguf", 0, 0, 3, 7);
    refuse_path("m-00001-of-00003.gguf", NM_BAD_FILE, "split.tensors.count is 7, but the 3 parts hold 6 tensors");
    save_part("m-00001-of-00003.gguf", 0, 3, 3, 6);
    refuse_path("m-00001-of-00003.gguf", NM_BAD_FILE, "key 'split.no' is 3, expected 0 to 2");
    save_part("renamed.gguf", 0, 0, 3, 6);
    refuse_path("renamed.gguf", NM_BAD_FILE, "its name ends in -00001-of-00003.gguf");
    save_part("renamed.gguf", 0, 0, 1, 2);
    assert_int_equal(nm_gguf_open(&g, in_folder("renamed.gguf"), false), NM_OK);
    nm_gguf_close(&g);
    save_part("renamed.gguf", 0, 0, 0, 6);     /* what merging a split leaves behind */
    assert_int_equal(nm_gguf_open(&g, in_folder("renamed.gguf"), false), NM_OK);
    nm_gguf_close(&g);
    gguf_writer w = {0};
    gw_split(&w, 0, 3, 0);
    refuse(&w, "is one of 3 parts of a split and cannot be opened from memory");
}

static int make_folder(void **state)
{
    setup(state);
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));) if (e->d_name[0] != '.') unlink(in_folder(e->d_name));
    if (dir) closedir(dir);
    return rmdir(folder);
}

/* ---- Files of other programs -------------------------------------------------------------------------------------------- */

static void *read_file(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    void *bytes = malloc(*size + 1);
    assert_int_equal(fread(bytes, 1, *size, f), *size);
    fclose(f);
    return bytes;
}

/* The whole file opens; cut at each of 1000 places it does not (a file without tensors may lose its padding at most). */
static void check_file(const char *path)
{
    size_t size, length;
    nm_gguf *g;
    const char *text;
    uint8_t *bytes = read_file(path, &size);
    if (nm_gguf_open(&g, path, false) != NM_OK) fail_msg("%s", nm_error_text());
    assert_int_equal(nm_gguf_get_string(g, "general.architecture", &text, &length), NM_OK);
    size_t slack = nm_gguf_tensor_count(g) ? 0 : 32;
    for (size_t i = 0; i < nm_gguf_tensor_count(g); i++) {
        const nm_gguf_tensor *t = nm_gguf_tensor_at(g, i);
        assert_ptr_equal(nm_gguf_tensor_find(g, t->name), t);
        assert_true(t->data != NULL);
    }
    for (size_t i = 0; i < nm_gguf_value_count(g); i++)
        assert_ptr_equal(nm_gguf_find(g, nm_gguf_value_at(g, i)->key), nm_gguf_value_at(g, i));
    nm_gguf_close(&g);
    for (size_t i = 0; i < 100; i++) {
        size_t cut = i < 50 ? i * 37 : (size - slack) / 50 * (i - 50);
        if (cut >= size - slack - 32) continue;
        assert_int_equal(nm_gguf_open_memory(&g, bytes, cut, path, false), NM_BAD_FILE);
    }
    free(bytes);
}

static void test_published_files(void **state)
{
    static const char *const folders[] = {"tiny", "tokenizers"};
    const char *data = getenv("NOMOAT_TEST_DATA");
    if (!data) {
        print_message("skipped: GGUF files of other programs (NOMOAT_TEST_DATA is not set)\n");
        skip();
    }
    int seen = 0;
    for (size_t f = 0; f < COUNT(folders); f++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", data, folders[f]);
        DIR *dir = opendir(path);
        for (struct dirent *e; dir && (e = readdir(dir));) {
            size_t length = strlen(e->d_name);
            if (length < 5 || strcmp(e->d_name + length - 5, ".gguf")) continue;
            snprintf(path, sizeof path, "%s/%s/%s", data, folders[f], e->d_name);
            check_file(path);
            seen++;
        }
        if (dir) closedir(dir);
    }
    assert_true(seen > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample),
        cmocka_unit_test(test_scalars),
        cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_tensor_types),
        cmocka_unit_test(test_many_strings),
        cmocka_unit_test(test_many_keys),
        cmocka_unit_test(test_typed_access),
        cmocka_unit_test(test_bad_beginnings),
        cmocka_unit_test(test_bad_keys),
        cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_bad_alignment),
        cmocka_unit_test(test_bad_tensors),
        cmocka_unit_test(test_bad_offsets),
        cmocka_unit_test(test_cut_everywhere),
        cmocka_unit_test(test_changed_everywhere),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_bad_splits),
        cmocka_unit_test(test_published_files),
    };
    return cmocka_run_group_tests_name("gguf", tests, make_folder, remove_folder);
}
