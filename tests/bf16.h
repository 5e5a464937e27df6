/* bf16 in tests: training as if the instruction set had it, and which kernels give the reference's bits. */
#ifndef NM_TESTS_BF16_H
#define NM_TESTS_BF16_H

#include <string.h>

#include "cpu/cpu.h"
#include "kernel/kernel.h"
#include "nm_config.h"

/* The bf16 tier's own source, and AMX's, with their instructions emulated, for all machines with AVX-512 (src/kernel/meson.build). */
void nm_kernels_bf16_emulated(nm_kernels *table);
void nm_kernels_amx_bf16_emulated(nm_kernels *table);

/* Gives the kernels in use bf16 until nm_set_kernels: emulated where the instruction set lacks it, or in plain C. */
static inline void bf16_pretend(void)
{
    nm_kernels *k = (nm_kernels *)nm_kernels_get();
#if defined(__x86_64__)
    if (!k->has_bf16 && (nm_cpu_features() & NM_CPU_AVX512) && strcmp(k->tier, "c")) nm_kernels_bf16_emulated(k);
#endif
    k->has_bf16 = true;
}

/* In plain C a few steps take a minute. */
static inline bool bf16_is_slow(void)
{
    nm_kernels reference;
    nm_kernels_ref(&reference);
    return nm_kernels_get()->linear_bf16 == reference.linear_bf16;
}

/* Gives the kernels in use a table, until nm_set_kernels. */
static inline void bf16_use(const nm_kernels *k) { *(nm_kernels *)nm_kernels_get() = *k; }

/* The plain C of the arithmetic in bf16 that a table has. */
static inline nm_kernels bf16_reference(const nm_kernels *k)
{
    nm_kernels r;
    nm_kernels_ref(&r);
    if (!strcmp(k->bf16, "amx-bf16")) nm_kernels_ref_amx_bf16(&r);
    return r;
}

#endif
