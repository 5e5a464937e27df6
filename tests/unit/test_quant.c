/* Tensor types against the `gguf` package's conversions, bit for bit (recorded by tests/make_quant_vectors.py), and the quantisers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "base/rng.h"
#include "quant/quant.h"

#include "../data/quant/vectors.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const int block_most = 256;

static uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : bits;    /* which NaN it is does not matter */
}

static void random_bytes(uint64_t stream, uint8_t *out, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) out[i] = (uint8_t)(nm_rng_u64(VECTOR_SEED, stream, i / 8) >> i % 8 * 8);
}

/* As random_floats of make_quant_vectors.py. */
static void random_floats(uint64_t stream, float *out, int blocks, int block)
{
    for (int b = 0; b < blocks; b++) {
        int exponent = (int)(nm_rng_u64(VECTOR_SEED, stream + 1, (uint64_t)b) % 32) - 24;
        for (int i = 0; i < block; i++) {
            int64_t m = (int64_t)(nm_rng_u64(VECTOR_SEED, stream, (uint64_t)(b * block + i)) >> 40) - (1 << 23);
            out[b * block + i] = b % 16 ? ldexpf((float)m, exponent - 23) : 0;
        }
    }
}

static void *must(size_t bytes)
{
    void *p = malloc(bytes);
    assert_non_null(p);
    return p;
}

/* Says which block differs from the recorded one and where. */
static void compare_shown(const nm_type *type, const char *hex, const char *expected)
{
    uint8_t block[256];
    float out[256];
    for (int i = 0; i < type->bytes; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        block[i] = (uint8_t)byte;
    }
    type->to_float(block, type->block, out);
    for (int i = 0; i < type->block; i++) {
        unsigned want;
        assert_int_equal(sscanf(expected + 8 * i, "%8x", &want), 1);
        if (bits_of(out[i]) != want) fail_msg("%s: value %d is %08x, expected %08x", type->name, i, bits_of(out[i]), want);
    }
}

static void test_to_float(void **state)
{
    float *out = must((size_t)VECTOR_BLOCKS * (size_t)block_most * sizeof *out);
    uint8_t *raw = must((size_t)VECTOR_BLOCKS * 256);
    for (size_t v = 0; v < COUNT(dequantised); v++) {
        const nm_type *type = nm_type_of(dequantised[v].id);
        assert_non_null(type);
        assert_string_equal(type->name, dequantised[v].type);
        compare_shown(type, dequantised[v].block, dequantised[v].floats);
        random_bytes((uint64_t)type->id, raw, (size_t)(VECTOR_BLOCKS * type->bytes));
        type->to_float(raw, VECTOR_BLOCKS * type->block, out);
        uint64_t sum = 0;
        for (int i = 0; i < VECTOR_BLOCKS * type->block; i++) sum += nm_rng_u64(bits_of(out[i]), 0, (uint64_t)i);
        if (sum != dequantised[v].sum) fail_msg("%s: checksum %016llx", type->name, (unsigned long long)sum);
    }
    free(raw);
    free(out);
}

/* Every type of the enum that holds weights has a recorded vector or is plain. */
static void test_every_type_is_tested(void **state)
{
    int block_types = 0;
    for (int i = 0; nm_type_at(i); i++) {
        const nm_type *type = nm_type_at(i);
        assert_ptr_equal(nm_type_of((int)type->id), type);
        assert_true(type->block <= block_most && type->bytes > 0);
        if (!type->group) assert_true(type->block == 1 && !type->groups);
        else assert_true(type->groups && type->to_float && type->block % type->group == 0 && (type->group == 16 || type->group == 32));
        block_types += type->group > 0;
    }
    assert_int_equal(block_types, COUNT(dequantised));
}

static void test_from_float(void **state)
{
    float *values = must((size_t)VECTOR_BLOCKS * (size_t)block_most * sizeof *values);
    uint8_t *raw = must((size_t)VECTOR_BLOCKS * 256);
    for (size_t v = 0; v < COUNT(quantised); v++) {
        const nm_type *type = nm_type_of(quantised[v].id);
        random_floats(1000 + (uint64_t)type->id, values, VECTOR_BLOCKS, type->block);
        type->from_float(values, VECTOR_BLOCKS * type->block, raw);
        uint64_t sum = 0;
        for (int i = 0; i < VECTOR_BLOCKS * type->bytes; i++) sum += nm_rng_u64(raw[i], 0, (uint64_t)i);
        if (sum != quantised[v].sum) fail_msg("%s: checksum %016llx", type->name, (unsigned long long)sum);
    }
    free(raw);
    free(values);
}

static void test_halves(void **state)
{
    uint64_t sum = 0, half_sum = 0, bf16_sum = 0;
    for (unsigned h = 0; h < 65536; h++) {
        float f = nm_half_to_float((uint16_t)h);
        sum += nm_rng_u64(bits_of(f), 0, h);
        if (isnan(f)) assert_true(isnan(nm_half_to_float(nm_float_to_half(f))));
        else assert_int_equal(nm_float_to_half(f), h);
        float b = nm_bf16_to_float((uint16_t)h);
        if (isnan(b)) assert_true(isnan(nm_bf16_to_float(nm_float_to_bf16(b))));
        else assert_int_equal(nm_float_to_bf16(b), h);
    }
    assert_true(sum == ALL_HALVES_SUM);
    uint32_t n = 1 << 20;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)(nm_rng_u64(VECTOR_SEED, 2000, i / 2) >> i % 2 * 32);
        if ((bits & 0x7fffffff) > 0x7f800000) bits = 0;
        if (i % 2 == 0) bits = (bits & 0x807fffff) | (98 + (bits >> 23) % 48) << 23;
        float f;
        memcpy(&f, &bits, sizeof f);
        half_sum += nm_rng_u64(nm_float_to_half(f), 0, i);
        bf16_sum += nm_rng_u64(nm_float_to_bf16(f), 0, i);
    }
    assert_true(half_sum == TO_HALF_SUM);
    assert_true(bf16_sum == TO_BF16_SUM);
}

/* Root mean square error that each quantiser may leave on uniform values in [-1, 1), whose own is 0.577. About 1.1 x what was seen. */
static const struct { nm_dtype id; double most; } errors[] = {
    {NM_F16, 0.00012}, {NM_BF16, 0.00095}, {NM_Q4_0, 0.042}, {NM_Q4_1, 0.039}, {NM_Q5_0, 0.020}, {NM_Q5_1, 0.019}, {NM_Q8_0, 0.0024},
    {NM_Q2_K, 0.18}, {NM_Q3_K, 0.085}, {NM_Q4_K, 0.039}, {NM_Q5_K, 0.019}, {NM_Q6_K, 0.0093}, {NM_IQ4_NL, 0.044}, {NM_IQ4_XS, 0.044},
    {NM_TQ1_0, 0.32}, {NM_TQ2_0, 0.32}, {NM_MXFP4, 0.092}, {NM_NVFP4, 0.065}, {NM_IQ1_S, 0.285}, {NM_IQ1_M, 0.265},
    {NM_IQ2_XXS, 0.215}, {NM_IQ2_XS, 0.195}, {NM_IQ2_S, 0.156}, {NM_IQ3_XXS, 0.131}, {NM_IQ3_S, 0.086}
};

static void test_error_of_quantisers(void **state)
{
    enum { N = 256 * 64 };
    float *values = must(N * sizeof *values), *back = must(N * sizeof *back);
    uint8_t *raw = must(N * 4);
    int quantisers = 0;
    for (int i = 0; i < N; i++) values[i] = (float)(2 * nm_rng_unit(3, 0, (uint64_t)i) - 1);
    for (int i = 0; nm_type_at(i); i++) quantisers += nm_type_at(i)->from_float && nm_type_at(i)->id != NM_F32;
    assert_int_equal(quantisers, COUNT(errors));
    for (size_t e = 0; e < COUNT(errors); e++) {
        const nm_type *type = nm_type_of((int)errors[e].id);
        double square = 0;
        type->from_float(values, N, raw);
        type->to_float(raw, N, back);
        for (int i = 0; i < N; i++) square += pow((double)back[i] - values[i], 2);
        double rms = sqrt(square / N);
        if (rms > errors[e].most) fail_msg("%s: error %.4f, at most %.4f allowed", type->name, rms, errors[e].most);
    }
    free(values);
    free(back);
    free(raw);
}

/* Zeros stay zeros; infinities, NaN and the ends of the range do nothing undefined (the sanitizers watch). */
static void test_extremes(void **state)
{
    static const float ends[] = {0, -0.0f, INFINITY, -INFINITY, NAN, 3.4e38f, -3.4e38f, 1e-45f, -1e-45f, 65504, 1e-8f, 1};
    float values[256], back[256];
    uint8_t raw[1024];
    for (int t = 0; nm_type_at(t); t++) {
        const nm_type *type = nm_type_at(t);
        if (!type->from_float) continue;
        memset(values, 0, sizeof values);
        type->from_float(values, 256, raw);
        type->to_float(raw, 256, back);
        for (int i = 0; i < 256; i++) assert_true(back[i] == 0);
        for (uint64_t round = 0; round < 200; round++) {
            for (int i = 0; i < 256; i++) values[i] = ends[nm_rng_u64(4, round, (uint64_t)i) % (round % COUNT(ends) + 1)];
            type->from_float(values, 256, raw);
            type->to_float(raw, 256, back);
        }
    }
}

/* Blocks need no alignment, and to_float is scale * q + min of groups. */
static void test_groups_and_alignment(void **state)
{
    uint8_t raw[3 * 256 + 1];
    float want[768], got[768], scale[48], min[48];
    int8_t q[768];
    for (int t = 0; nm_type_at(t); t++) {
        const nm_type *type = nm_type_at(t);
        if (!type->group) continue;
        int k = 3 * type->block;
        random_bytes(77, raw, sizeof raw);
        type->to_float(raw, k, want);
        memmove(raw + 1, raw, sizeof raw - 1);
        type->to_float(raw + 1, k, got);
        for (int i = 0; i < k; i++) assert_int_equal(bits_of(got[i]), bits_of(want[i]));
        type->groups(raw + 1, k, q, scale, type->has_min ? min : NULL);
        for (int i = 0; i < k; i++) {
            int g = i / type->group;
            float value = scale[g] * (float)q[i];
            if (type->has_min) value += min[g];
            assert_int_equal(bits_of(value), bits_of(want[i]));
        }
    }
}

/* nm_type_finite looks at scales where it can; it must agree with looking at every value, for every type, at every place. */
static void test_finite(void **state)
{
    uint8_t raw[3 * 256 * 8];
    float out[768];
    int seen[2] = {0};
    for (int t = 0; nm_type_at(t); t++) {
        const nm_type *type = nm_type_at(t);
        if (!type->to_float) continue;
        int k = 3 * type->block;
        for (uint64_t round = 0; round < 300; round++) {
            random_bytes(5000 + round, raw, (size_t)(3 * type->bytes));
            type->to_float(raw, k, out);
            bool finite = true;
            for (int i = 0; i < k; i++) finite = finite && isfinite(out[i]);
            assert_int_equal(nm_type_finite(type, raw, k), finite);
            seen[finite]++;
        }
    }
    assert_true(seen[0] > 300 && seen[1] > 300);
}

static void test_plain_types(void **state)
{
    double d[2] = {1.5, -1e300};
    float f[2];
    nm_type_of(NM_F64)->to_float(d, 2, f);
    assert_true(f[0] == 1.5f && isinf(f[1]));
    nm_type_of(NM_F32)->to_float(f, 2, (float[2]){0});
    for (int id = NM_I8; id <= NM_I64; id++) assert_null(nm_type_of(id)->to_float);
    static const int unknown[] = {-1, 4, 5, 9, 15, 31, 32, 33, 36, 37, 38, 41, 1000};
    for (size_t i = 0; i < COUNT(unknown); i++) assert_null(nm_type_of(unknown[i]));
    assert_null(nm_type_at(-1));
}

static void test_type_bytes(void **state)
{
    uint64_t bytes;
    assert_int_equal(nm_type_bytes(nm_type_of(NM_Q4_K), 512, &bytes), NM_OK);
    assert_int_equal(bytes, 288);
    assert_int_equal(nm_type_bytes(nm_type_of(NM_Q4_K), 0, &bytes), NM_OK);
    assert_int_equal(bytes, 0);
    assert_int_equal(nm_type_bytes(nm_type_of(NM_Q4_K), 255, &bytes), NM_BAD_FILE);
    assert_int_equal(nm_type_bytes(nm_type_of(NM_Q4_K), -256, &bytes), NM_BAD_FILE);
    assert_int_equal(nm_type_bytes(nm_type_of(NM_F32), INT64_MAX, &bytes), NM_BAD_FILE);
    assert_int_equal(nm_type_bytes(nm_type_of(NM_F16), INT64_MAX, &bytes), NM_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_to_float),
        cmocka_unit_test(test_every_type_is_tested),
        cmocka_unit_test(test_from_float),
        cmocka_unit_test(test_halves),
        cmocka_unit_test(test_error_of_quantisers),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_groups_and_alignment),
        cmocka_unit_test(test_finite),
        cmocka_unit_test(test_plain_types),
        cmocka_unit_test(test_type_bytes),
    };
    return cmocka_run_group_tests_name("quant", tests, NULL, NULL);
}
