/* Owns the names of instruction-set tiers and the answer to "may this process use them": CPUID *and* what the operating system saves; on ARM
 * what Linux says (the auxiliary vector).
 * Refuses to know kernels: the table (kernel/table.c) asks here and fills itself. */
#ifndef NM_CPU_H
#define NM_CPU_H

#include <stddef.h>
#include <stdint.h>

#include "nomoat.h"

/* Tiers, weakest first; each is one bit of a set. Everything runs NM_CPU_C. */
enum {
    NM_CPU_C = 1 << 0,
    NM_CPU_AVX2 = 1 << 1,       /* AVX2, FMA, F16C */
    NM_CPU_AVXVNNI = 1 << 2,    /* AVX-VNNI on top of the AVX2 tier; under the build option emulate_avxvnni every VNNI counts as it */
    NM_CPU_AVX512 = 1 << 3,     /* AVX-512 F, BW, DQ, VL, and the AVX2 tier's features */
    NM_CPU_VNNI = 1 << 4,       /* AVX512_VNNI on top of the AVX-512 tier */
    NM_CPU_BF16 = 1 << 5,       /* AVX512_BF16 on top of VNNI where it is faster than fp32: not Intel's; under the build option emulate_bf16 every VNNI counts as it */
    NM_CPU_AMX = 1 << 6,        /* AMX tiles with int8 and bf16 on top of VNNI and AVX512_BF16; Linux only, permission is asked for once */
    NM_CPU_NEON = 1 << 7,       /* every AArch64 */
    NM_CPU_DOTPROD = 1 << 8,    /* sdot, Armv8.2 and later */
    NM_CPU_I8MM = 1 << 9,       /* smmla on top of dotprod, Armv8.6 and later */
    NM_CPU_ALL = (1 << 10) - 1
};

/* What this CPU offers and this OS saves. Asked once, then remembered. */
uint32_t nm_cpu_features(void);
/* "avx2" for NM_CPU_AVX2 ...; NULL for a value that is not one tier. */
const char *nm_cpu_tier_name(uint32_t tier);
/* Reads a mask: "all" or a comma-separated list of tier names. The set is exactly what is listed, plus NM_CPU_C. NM_USAGE for an unknown name. */
nm_err nm_cpu_parse(const char *mask, uint32_t *allowed);

#endif
