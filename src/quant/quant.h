/* Owns the tensor types of GGUF files: one traits row per type, and the one definition of what its bits mean.
 *
 * Every block-quantised type is read as groups of `group` (16 or 32) consecutive values that share a float scale and, for some
 * types, a float minimum:   value = (scale * q) + min,  q an int8, two roundings in fp32, no fused multiply-add.
 * That is bit for bit what the reference conversions of the `gguf` package give. The canonical int8 arithmetic (law 9) and the fp32
 * arithmetic both start from these groups, so a type is defined in one place. Codebook types (IQ*, MXFP4) fit too: their grid values are small integers.
 */
#ifndef NM_QUANT_H
#define NM_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nomoat.h"

typedef enum nm_dtype {         /* numbers of the GGUF format */
    NM_F32 = 0, NM_F16 = 1, NM_Q4_0 = 2, NM_Q4_1 = 3, NM_Q5_0 = 6, NM_Q5_1 = 7, NM_Q8_0 = 8,
    NM_Q2_K = 10, NM_Q3_K = 11, NM_Q4_K = 12, NM_Q5_K = 13, NM_Q6_K = 14,
    NM_IQ2_XXS = 16, NM_IQ2_XS = 17, NM_IQ3_XXS = 18, NM_IQ1_S = 19, NM_IQ4_NL = 20, NM_IQ3_S = 21, NM_IQ2_S = 22, NM_IQ4_XS = 23,
    NM_I8 = 24, NM_I16 = 25, NM_I32 = 26, NM_I64 = 27, NM_F64 = 28, NM_IQ1_M = 29, NM_BF16 = 30, NM_TQ1_0 = 34, NM_TQ2_0 = 35, NM_MXFP4 = 39,
    NM_NVFP4 = 40
} nm_dtype;

typedef struct nm_type {
    const char *name;           /* as people write it: "Q4_K" */
    nm_dtype id;
    int block, bytes;           /* values per block, bytes per block; 1 and the element's size for plain types */
    int group;                  /* 16 or 32; 0 for plain types */
    bool has_min;
    /* One row (or any whole number of blocks) of k values: q[k], scale[k / group], min[k / group] (untouched without has_min). NULL for plain types. */
    void (*groups)(const void *blocks, int64_t k, int8_t *q, float *scale, float *min);
    /* k values to fp32. NULL for the integer types, which hold no weights. */
    void (*to_float)(const void *blocks, int64_t k, float *out);
    /* Reference quantiser, round to nearest, no importance weights; NULL for F64 and the integer types. */
    void (*from_float)(const float *values, int64_t k, void *blocks);
    int halves, half_at;        /* consecutive halves that scale a block, and the byte where they stand; 0: no plain half does */
} nm_type;

/* NULL for an unknown number. */
const nm_type *nm_type_of(int id);
const nm_type *nm_type_at(int index);       /* all rows in order, NULL past the end: for tests and tables */
/* Bytes of `values` consecutive values; NM_BAD_FILE if they are no whole number of blocks or overflow. */
nm_err nm_type_bytes(const nm_type *type, int64_t values, uint64_t *bytes);

/* False if a scale or a value among k is NaN or infinite. k is a whole number of blocks; the type must have to_float. */
bool nm_type_finite(const nm_type *type, const void *blocks, int64_t k);

/* IEEE half and bfloat16, round to nearest even, in portable C; NaN stays NaN. */
float nm_half_to_float(uint16_t h);
uint16_t nm_float_to_half(float f);
static inline float nm_bf16_to_float(uint16_t h) { union { uint32_t u; float f; } v = {(uint32_t)h << 16}; return v.f; }
uint16_t nm_float_to_bf16(float f);

#endif
