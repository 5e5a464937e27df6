/* bf16 in tests: training as if the instruction set had it, and which kernels give the reference's bits. */
#ifndef NM_TESTS_BF16_H
#define NM_TESTS_BF16_H

#include <string.h>

#include "cpu/cpu.h"
#include "kernel/kernel.h"
#include "nm_config.h"

/* The bf16 tier's own source with its instructions emulated, for all machines with AVX-512 (src/kernel/meson.build). */
void nm_kernels_bf16_emulated(nm_kernels *table);

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

/* No machine with the instructions has run this yet, and makers may differ in the order of the two products: what hardware gives is held to a tolerance. */
static inline bool bf16_is_exact(const nm_kernels *k)
{
#if defined(__x86_64__) && !NM_EMULATE_BF16
    nm_kernels own;
    nm_kernels_bf16(&own);
    return k->linear_bf16 != own.linear_bf16;
#else
    return true;
#endif
}

#endif
