/* The table of tensor types: one row per type, and the conversion to float that every block format shares. Adding a type costs its
 * `groups` and `from_float`, a number in quant.h and a row here. */
#include "base/err.h"
#include "quant/codec.h"

enum { BLOCK_MOST = 256, GROUPS_MOST = BLOCK_MOST / 16 };

/* value = (scale * q) + min, each rounded to fp32: the definition in quant.h, a block at a time. */
static void groups_to_float(const nm_type *type, const void *blocks, int64_t k, float *out)
{
    int8_t q[BLOCK_MOST];
    float scale[GROUPS_MOST], min[GROUPS_MOST];
    const uint8_t *p = blocks;
    int block = type->block, group = type->group;
    for (int64_t b = 0; b < k / block; b++, p += type->bytes) {
        type->groups(p, block, q, scale, min);
        for (int g = 0; g < block / group; g++, out += group) {
            for (int i = 0; i < group; i++) out[i] = scale[g] * (float)q[g * group + i];
            for (int i = 0; i < group && type->has_min; i++) out[i] = out[i] + min[g];
        }
    }
}

/* Block formats: X(name, function stem, values and bytes of a block, group, has a minimum, how many halves scale a block and the byte
 * where they stand; 0: the scale is no plain half). */
#define BLOCK_TYPES(X) \
    X(Q4_0, q4_0, 32, 18, 32, false, 1, 0) \
    X(Q4_1, q4_1, 32, 20, 32, true, 2, 0) \
    X(Q5_0, q5_0, 32, 22, 32, false, 1, 0) \
    X(Q5_1, q5_1, 32, 24, 32, true, 2, 0) \
    X(Q8_0, q8_0, 32, 34, 32, false, 1, 0) \
    X(Q2_K, q2_k, 256, 84, 16, true, 2, 80) \
    X(Q3_K, q3_k, 256, 110, 16, false, 1, 108) \
    X(Q4_K, q4_k, 256, 144, 32, true, 2, 0) \
    X(Q5_K, q5_k, 256, 176, 32, true, 2, 0) \
    X(Q6_K, q6_k, 256, 210, 16, false, 1, 208) \
    X(IQ2_XXS, iq2_xxs, 256, 66, 32, false, 1, 0) \
    X(IQ2_XS, iq2_xs, 256, 74, 16, false, 1, 0) \
    X(IQ3_XXS, iq3_xxs, 256, 98, 32, false, 1, 0) \
    X(IQ1_S, iq1_s, 256, 50, 32, false, 1, 0) \
    X(IQ4_NL, iq4_nl, 32, 18, 32, false, 1, 0) \
    X(IQ3_S, iq3_s, 256, 110, 32, false, 1, 0) \
    X(IQ2_S, iq2_s, 256, 82, 16, false, 1, 0) \
    X(IQ4_XS, iq4_xs, 256, 136, 32, false, 1, 0) \
    X(IQ1_M, iq1_m, 256, 56, 16, false, 0, 0) \
    X(TQ1_0, tq1_0, 256, 54, 32, false, 1, 52) \
    X(TQ2_0, tq2_0, 256, 66, 32, false, 1, 64) \
    X(MXFP4, mxfp4, 32, 17, 32, false, 0, 0) \
    X(NVFP4, nvfp4, 64, 36, 16, false, 0, 0)

#define DECLARE(NAME, stem, ...) static void stem##_to_float(const void *blocks, int64_t k, float *out);
BLOCK_TYPES(DECLARE)
#undef DECLARE

static const nm_type types[] = {
    {.name = "F32", .id = NM_F32, .block = 1, .bytes = 4, .to_float = nm_f32_row_to_float, .from_float = nm_f32_row_from_float},
    {.name = "F16", .id = NM_F16, .block = 1, .bytes = 2, .to_float = nm_f16_row_to_float, .from_float = nm_f16_row_from_float},
    {.name = "BF16", .id = NM_BF16, .block = 1, .bytes = 2, .to_float = nm_bf16_row_to_float, .from_float = nm_bf16_row_from_float},
    {.name = "F64", .id = NM_F64, .block = 1, .bytes = 8, .to_float = nm_f64_row_to_float},
    {.name = "I8", .id = NM_I8, .block = 1, .bytes = 1},
    {.name = "I16", .id = NM_I16, .block = 1, .bytes = 2},
    {.name = "I32", .id = NM_I32, .block = 1, .bytes = 4},
    {.name = "I64", .id = NM_I64, .block = 1, .bytes = 8},
#define ROW(NAME, stem, values, size, per_group, with_min, n_halves, at) \
    {#NAME, NM_##NAME, values, size, per_group, with_min, nm_##stem##_groups, stem##_to_float, \
        nm_##stem##_from_float, n_halves, at},
    BLOCK_TYPES(ROW)
#undef ROW
};
enum { TYPE_COUNT = sizeof types / sizeof *types };

#define DEFINE(NAME, stem, ...) \
    static void stem##_to_float(const void *blocks, int64_t k, float *out) { groups_to_float(nm_type_of(NM_##NAME), blocks, k, out); }
BLOCK_TYPES(DEFINE)
#undef DEFINE

const nm_type *nm_type_at(int index) { return index >= 0 && index < TYPE_COUNT ? &types[index] : NULL; }

const nm_type *nm_type_of(int id)
{
    for (int i = 0; i < TYPE_COUNT; i++) if ((int)types[i].id == id) return &types[i];
    return NULL;
}

nm_err nm_type_bytes(const nm_type *type, int64_t values, uint64_t *bytes)
{
    if (values < 0 || values % type->block)
        return nm_fail(NM_BAD_FILE, "%lld values are no whole number of %s blocks of %d", (long long)values, type->name, type->block);
    if (__builtin_mul_overflow((uint64_t)(values / type->block), (uint64_t)type->bytes, bytes))
        return nm_fail(NM_BAD_FILE, "%lld values of %s are more than any file can hold", (long long)values, type->name);
    return NM_OK;
}

static bool half_finite(const uint8_t *p) { return (nm_load_u16(p) & 0x7c00) != 0x7c00; }

static bool floats_finite(const nm_type *type, const uint8_t *p, int64_t k)
{
    float part[BLOCK_MOST];     /* a whole number of every type's blocks */
    for (int64_t i = 0; i < k; i += BLOCK_MOST) {
        int64_t n = k - i < BLOCK_MOST ? k - i : BLOCK_MOST;
        uint32_t most = 0;
        type->to_float(p + i / type->block * type->bytes, n, part);
        for (int64_t j = 0; j < n; j++) {
            uint32_t bits;
            memcpy(&bits, &part[j], sizeof bits);
            bits &= 0x7fffffff;
            if (bits > most) most = bits;
        }
        if (most >= 0x7f800000) return false;
    }
    return true;
}

bool nm_type_finite(const nm_type *type, const void *blocks, int64_t k)
{
    const uint8_t *p = blocks;
    if (!type->halves) return floats_finite(type, p, k);
    for (int64_t b = 0; b < k / type->block; b++, p += type->bytes) {
        for (int i = 0; i < type->halves; i++) if (!half_finite(p + type->half_at + 2 * i)) return false;
    }
    return true;
}
