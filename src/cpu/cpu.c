/* Features of the processor. On x86 a register file counts only if XCR0 says that the OS saves it, and AMX only once Linux has
 * granted this process the use of tile data (arch_prctl; it is a request to the kernel, not to the CPU). On ARM Linux names what it lets programs use. */
#include "cpu/cpu.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "base/err.h"
#include "nm_config.h"

static const char *const tier_names[] = {"c", "avx2", "avxvnni", "avx512", "vnni", "bf16", "amx", "neon", "dotprod", "i8mm"};
enum { TIERS = sizeof tier_names / sizeof *tier_names };

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

typedef struct leaf { uint32_t a, b, c, d; } leaf;

static leaf cpuid(uint32_t number, uint32_t sub)
{
    leaf r = {0, 0, 0, 0};
    if (number <= (uint32_t)__get_cpuid_max(0, NULL)) __cpuid_count(number, sub, r.a, r.b, r.c, r.d);
    return r;
}

static uint64_t xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static bool amx_permitted(void)
{
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { REQ_XCOMP_PERM = 0x1023, XFEATURE_TILEDATA = 18 };
    return syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XFEATURE_TILEDATA) == 0;
#else
    return false;
#endif
}

/* Its cores take two cycles for a vdpbf16ps and half of one for an fma (measured on Emerald Rapids): bf16 without AMX would be half as fast as fp32. */
static bool is_intel(void)
{
    leaf zero = cpuid(0, 0);
    return zero.b == signature_INTEL_ebx && zero.c == signature_INTEL_ecx && zero.d == signature_INTEL_edx;
}

static bool has(uint32_t reg, uint32_t bits) { return (reg & bits) == bits; }

static uint32_t detect(void)
{
    /* Leaf 7, edx; its subleaf 1, eax: not all named in clang 14's cpuid.h. */
    const uint32_t amx_bf16 = 1u << 22, amx_tile = 1u << 24, amx_int8 = 1u << 25, avx512_bf16 = 1u << 5, avx_vnni = 1u << 4;
    enum { YMM = 0x6, ZMM = 0xe6, TILES = 0x60000 };    /* XCR0: SSE, AVX; + opmask, ZMM_Hi256, Hi16_ZMM; tile configuration and data */
    uint32_t set = NM_CPU_C;
    leaf one = cpuid(1, 0), seven = cpuid(7, 0), more = {0, 0, 0, 0};
    if (!has(one.c, bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C) || !has(seven.b, bit_AVX2)) return set;
    uint64_t saved = xcr0();
    if ((saved & YMM) != YMM) return set;
    set |= NM_CPU_AVX2;
    if (seven.a >= 1) more = cpuid(7, 1);
    if (has(more.a, avx_vnni) && !NM_EMULATE_AVXVNNI) set |= NM_CPU_AVXVNNI;
    if ((saved & ZMM) != ZMM || !has(seven.b, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL)) return set;
    set |= NM_CPU_AVX512;
    if (!has(seven.c, bit_AVX512VNNI)) return set;
    set |= NM_CPU_VNNI;
    if (NM_EMULATE_AVXVNNI) set |= NM_CPU_AVXVNNI;
    if (NM_EMULATE_BF16 || (has(more.a, avx512_bf16) && !is_intel())) set |= NM_CPU_BF16;
    if ((saved & TILES) == TILES && has(seven.d, amx_tile | amx_int8 | amx_bf16) && has(more.a, avx512_bf16) && amx_permitted()) set |= NM_CPU_AMX;
    return set;
}
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

static uint32_t detect(void)
{
    const unsigned long advanced_simd = 1ul << 1, dotprod = 1ul << 20, i8mm = 1ul << 13;   /* the first two in AT_HWCAP, i8mm in AT_HWCAP2 */
    unsigned long cap = getauxval(AT_HWCAP);
    uint32_t set = NM_CPU_C;
    if (!(cap & advanced_simd)) return set;
    set |= NM_CPU_NEON;
    if (!(cap & dotprod)) return set;
    set |= NM_CPU_DOTPROD;
    if (getauxval(AT_HWCAP2) & i8mm) set |= NM_CPU_I8MM;
    return set;
}
#else
static uint32_t detect(void) { return NM_CPU_C; }
#endif

static uint32_t features;
static void detect_once(void) { features = detect(); }

uint32_t nm_cpu_features(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, detect_once);
    return features;
}

const char *nm_cpu_tier_name(uint32_t tier)
{
    for (int i = 0; i < TIERS; i++)
        if (tier == 1u << i) return tier_names[i];
    return NULL;
}

/* The tier whose name is the first `length` bytes of text, or 0. */
static uint32_t tier_named(const char *text, size_t length)
{
    for (int i = 0; i < TIERS; i++)
        if (strlen(tier_names[i]) == length && !memcmp(tier_names[i], text, length)) return 1u << i;
    return length == 3 && !memcmp(text, "all", 3) ? NM_CPU_ALL : 0;
}

nm_err nm_cpu_parse(const char *mask, uint32_t *allowed)
{
    uint32_t set = NM_CPU_C;
    for (const char *p = mask;; p++) {
        size_t length = strcspn(p, ",");
        uint32_t tier = tier_named(p, length);
        if (!tier) return nm_fail(NM_USAGE, "kernels \"%s\": no tier is called \"%.*s\"; use all, or a list of c, avx2, avxvnni, avx512, vnni, bf16, amx, neon, dotprod, i8mm",
                                  mask, (int)(length < 40 ? length : 40), p);
        set |= tier;
        p += length;
        if (!*p) break;
    }
    *allowed = set;
    return NM_OK;
}
