/* Safetensors files: what is written comes back; every lie of the header is refused with its place; cut at every byte; every allocation
 * fails in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/mem.h"
#include "format/safetensors.h"
#include "os/file.h"

static char path[] = "/tmp/nm_test_safetensors_XXXXXX";

static int make_path(void **state)
{
    int fd = mkstemp(path);
    (void)state;
    return fd < 0 ? -1 : close(fd);
}

static int remove_path(void **state)
{
    (void)state;
    return unlink(path);
}

/* A file of this header and `bytes` bytes of data; free. */
static uint8_t *make(const char *header, size_t bytes, size_t *size)
{
    uint64_t length = strlen(header);
    *size = 8 + length + bytes;
    uint8_t *file = calloc(1, *size);
    memcpy(file, &length, 8);
    memcpy(file + 8, header, length);
    for (size_t i = 0; i < bytes; i++) file[8 + length + i] = (uint8_t)i;
    return file;
}

static void refuse(nm_err code, const char *header, size_t bytes, const char *says)
{
    size_t size;
    uint8_t *file = make(header, bytes, &size);
    nm_safetensors *f;
    int64_t alive = nm_mem_alive();
    assert_int_equal(nm_safetensors_open_memory(&f, file, size, "x.safetensors"), code);
    assert_null(f);
    if (!strstr(nm_error_text(), says) || !strstr(nm_error_text(), "x.safetensors")) fail_msg("\"%s\" does not say \"%s\"", nm_error_text(), says);
    assert_int_equal(nm_mem_alive(), alive);
    free(file);
}

#define ONE "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}"
#define ENTRY(rest) "{\"a\":{" rest "}}"

static void test_faults(void **state)
{
    (void)state;
    refuse(NM_BAD_FILE, "[]", 0, "no JSON object");
    refuse(NM_BAD_FILE, "{", 0, "bad JSON");
    refuse(NM_BAD_FILE, ONE, 20, "beyond the file's end");
    refuse(NM_BAD_FILE, ONE, 28, "4 bytes at its end");
    refuse(NM_BAD_FILE, ENTRY("\"dtype\":3,\"shape\":[],\"data_offsets\":[0,4]"), 4, "\"dtype\"");
    refuse(NM_REFUSED, ENTRY("\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]"), 8, "type I64");
    refuse(NM_BAD_FILE, ENTRY("\"dtype\":\"F32\",\"shape\":3,\"data_offsets\":[0,4]"), 4, "\"shape\"");
    refuse(NM_BAD_FILE, ENTRY("\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]"), 4, "no whole number");
    refuse(NM_BAD_FILE, ENTRY("\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]"), 4, "no whole number");
    refuse(NM_BAD_FILE, ENTRY("\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]"), 4, "8 dimensions");
    refuse(NM_BAD_FILE, ENTRY("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]"), 4, "too large");
    refuse(NM_BAD_FILE, ENTRY("\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,4]"), 4, "too large");
    refuse(NM_BAD_FILE, ENTRY("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]"), 4, "data_offsets");
    refuse(NM_BAD_FILE, ENTRY("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]"), 4, "beyond");
    refuse(NM_BAD_FILE, ENTRY("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,3]"), 3, "do not fit its shape");
    refuse(NM_BAD_FILE, "{\"a\":4}", 0, "no object");
    refuse(NM_BAD_FILE, "{\"__metadata__\":{\"a\":1}}", 0, "__metadata__");
    refuse(NM_BAD_FILE, "{\"a\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]},\"a\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[2,4]}}", 4, "duplicate");
    refuse(NM_BAD_FILE, "{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[2,6]}}", 6, "overlaps");
    refuse(NM_BAD_FILE, "{\"a\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[4,6]}}", 6, "belong to no tensor");
}

static void test_header_length(void **state)
{
    (void)state;
    nm_safetensors *f;
    uint8_t file[64] = {0};
    for (int i = 0; i < 8; i++) file[i] = 0xff;
    assert_int_equal(nm_safetensors_open_memory(&f, file, sizeof file, "x"), NM_BAD_FILE);
    assert_non_null(strstr(nm_error_text(), "no safetensors file"));
    memcpy(file, (uint64_t[]){57}, 8);
    assert_int_equal(nm_safetensors_open_memory(&f, file, sizeof file, "x"), NM_BAD_FILE);
    assert_non_null(strstr(nm_error_text(), "cut off"));
}

static void test_empty_tensors(void **state)
{
    (void)state;
    size_t size;
    nm_safetensors *f;
    uint8_t *file = make("{\"b\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]},\"a\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[0,0]},"
                         "\"c\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[2,4]}}   ", 4, &size);
    assert_int_equal(nm_safetensors_open_memory(&f, file, size, "x"), NM_OK);
    assert_int_equal(nm_safetensors_count(f), 3);
    assert_int_equal(nm_safetensors_at(f, 2)->values, 1);
    nm_safetensors_close(&f);
    free(file);
}

static const float values[6] = {1, -2, 3.5f, 0, 1e-30f, 7};
static const nm_safe_meta meta[2] = {{"format", "pt"}, {"odd \" key", "odd\nvalue"}};

static nm_err write_two(void)
{
    const uint16_t halves[2] = {0x3c00, 0xc000};
    const nm_safe_tensor tensor[2] = {
        {.name = "x.weight", .type = nm_type_of(NM_F32), .rank = 2, .dim = {2, 3}, .data = values},
        {.name = "y \"quoted\"", .type = nm_type_of(NM_F16), .rank = 1, .dim = {2}, .data = halves}};
    return nm_safetensors_write(path, tensor, 2, meta, 2);
}

static void check_two(const nm_safetensors *f)
{
    float y[2];
    assert_int_equal(nm_safetensors_count(f), 2);
    const nm_safe_tensor *x = nm_safetensors_at(f, 0);
    assert_string_equal(x->name, "x.weight");
    assert_true(x->rank == 2 && x->dim[0] == 2 && x->dim[1] == 3 && x->type->id == NM_F32);
    assert_memory_equal(x->data, values, sizeof values);
    nm_safetensors_at(f, 1)->type->to_float(nm_safetensors_at(f, 1)->data, 2, y);
    assert_true(y[0] == 1 && y[1] == -2);
    assert_int_equal(nm_safetensors_meta_count(f), 2);
    assert_string_equal(nm_safetensors_meta(f, "odd \" key"), "odd\nvalue");
    assert_null(nm_safetensors_meta(f, "absent"));
}

static void test_round_trip(void **state)
{
    (void)state;
    nm_safetensors *f;
    assert_int_equal(write_two(), NM_OK);
    assert_int_equal(nm_safetensors_open(&f, path), NM_OK);
    check_two(f);
    nm_safetensors_close(&f);
    assert_int_equal(nm_safetensors_open(&f, "/tmp/there is no such file"), NM_NOT_FOUND);
}

/* Of a file that ends early nothing is accepted: neither in the header nor behind it. */
static void test_cut(void **state)
{
    (void)state;
    char *file;
    size_t size;
    assert_int_equal(write_two(), NM_OK);
    assert_int_equal(nm_file_read(path, 1 << 20, &file, &size), NM_OK);
    for (size_t n = 0; n < size; n++) {
        nm_safetensors *f;
        uint8_t *part = malloc(n + !n);     /* of exactly that size, so that a reader behind its end is seen */
        memcpy(part, file, n);
        assert_int_equal(nm_safetensors_open_memory(&f, part, n, "x"), NM_BAD_FILE);
        free(part);
    }
    nm_free(file);
}

static void test_allocations(void **state)
{
    (void)state;
    int64_t alive = nm_mem_alive();
    nm_err err = NM_NO_MEMORY;
    for (int64_t n = 0; err == NM_NO_MEMORY; n++) {
        nm_mem_fail_after(n);
        err = write_two();
        nm_mem_fail_after(-1);
        assert_int_equal(nm_mem_alive(), alive);
    }
    assert_int_equal(err, NM_OK);
    err = NM_NO_MEMORY;
    for (int64_t n = 0; err == NM_NO_MEMORY; n++) {
        nm_safetensors *f;
        nm_mem_fail_after(n);
        err = nm_safetensors_open(&f, path);
        nm_mem_fail_after(-1);
        nm_safetensors_close(&f);
        assert_int_equal(nm_mem_alive(), alive);
    }
    assert_int_equal(err, NM_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_faults), cmocka_unit_test(test_header_length), cmocka_unit_test(test_empty_tensors),
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_cut), cmocka_unit_test(test_allocations)};
    return cmocka_run_group_tests_name("safetensors", tests, make_path, remove_path);
}
