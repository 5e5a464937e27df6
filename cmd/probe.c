/* Loops that keep one kind of execution unit busy, and one that reads memory, timed on all threads together. The inner loops are assembly,
 * so that no compiler's mood enters a limit. */
#include "probe.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/pool.h"
#include "nm_config.h"
#include "os/clock.h"
#include "os/machine.h"
#include "term.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

typedef void (*loop_fn)(long n);
typedef struct peak { loop_fn loop; double operations; } peak;     /* operations in one turn of the loop */

/* ---- Plain C: for tier "c" and for processors without assembly here ------------------------------------------------------------- */

typedef float v4f __attribute__((vector_size(16)));
typedef int16_t v8s __attribute__((vector_size(16)));
enum { CHAINS = 8 };    /* enough independent sums to hide the latency of an addition */

/* Keeps the compiler from folding turns of a loop, with the value in a register where we know its kind. */
#if defined(__x86_64__)
#define KEEP(v) __asm__ volatile("" : "+x"(v))
#elif defined(__aarch64__)
#define KEEP(v) __asm__ volatile("" : "+w"(v))
#else
#define KEEP(v) __asm__ volatile("" : "+m"(v))
#endif

static void fp32_c(long n)
{
    v4f sum[CHAINS], x = {1e-30f, 1e-30f, 1e-30f, 1e-30f}, y = {0.5f, 0.5f, 0.5f, 0.5f};
    for (int i = 0; i < CHAINS; i++) sum[i] = x;
    while (n--) {
#pragma GCC unroll 8
        for (int i = 0; i < CHAINS; i++) {
            sum[i] = sum[i] * y + x;
            KEEP(sum[i]);
        }
    }
}

static void int8_c(long n)
{
    v8s sum[CHAINS], x = {1, 2, 3, 4, 5, 6, 7, 8};
    for (int i = 0; i < CHAINS; i++) sum[i] = x;
    while (n--) {
#pragma GCC unroll 8
        for (int i = 0; i < CHAINS; i++) {
            sum[i] = sum[i] + sum[i] * x;
            KEEP(sum[i]);
        }
    }
}

static void read_c(const char *at, size_t bytes)
{
    typedef uint64_t v2u __attribute__((vector_size(16), may_alias));
    v2u a = {0}, b = {0}, c = {0}, d = {0};
    for (const v2u *p = (const v2u *)(const void *)at, *end = p + bytes / sizeof *p; p < end; p += 4) {
        a |= p[0]; b |= p[1]; c |= p[2]; d |= p[3];
    }
    a |= b | c | d;
    __asm__ volatile("" : : "m"(a));
}

/* ---- x86-64 --------------------------------------------------------------------------------------------------------------------- */

#if defined(__x86_64__)

#define CLOBBER_VECTORS "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", \
    "xmm14", "xmm15"
#define TWICE(x) x x

/* A loop over registers 0 to 13, twice, with 14 and 15 zero: 28 times what `op` does. 14 chains hide a latency of 4 on two units. */
#define ALL_14(op) op("0") op("1") op("2") op("3") op("4") op("5") op("6") op("7") op("8") op("9") op("10") op("11") op("12") op("13")
#define LOOP_14(name, op) static void name(long n) { \
    __asm__ volatile("vpxor %%xmm14,%%xmm14,%%xmm14\n vpxor %%xmm15,%%xmm15,%%xmm15\n" \
        "1:\n" TWICE(ALL_14(op)) "dec %0\n jnz 1b\n vzeroupper\n" : "+r"(n) : : CLOBBER_VECTORS); }

#define FMA_YMM(r) "vfmadd231ps %%ymm14,%%ymm15,%%ymm" r "\n"
#define FMA_ZMM(r) "vfmadd231ps %%zmm14,%%zmm15,%%zmm" r "\n"
#define BF16_ZMM(r) "vdpbf16ps %%zmm14,%%zmm15,%%zmm" r "\n"
#if NM_EMULATE_AVXVNNI
#define VNNI_YMM(r) "%{evex%} vpdpbusd %%ymm14,%%ymm15,%%ymm" r "\n"
#else
#define VNNI_YMM(r) "%{vex%} vpdpbusd %%ymm14,%%ymm15,%%ymm" r "\n"
#endif
#define VNNI_ZMM(r) "vpdpbusd %%zmm14,%%zmm15,%%zmm" r "\n"
LOOP_14(fp32_avx2, FMA_YMM)
LOOP_14(fp32_avx512, FMA_ZMM)
LOOP_14(bf16_avx512, BF16_ZMM)
LOOP_14(int8_avxvnni, VNNI_YMM)
LOOP_14(int8_vnni, VNNI_ZMM)

/* Without VNNI a product of bytes is maddubs, madd and an addition: 12 sums, of which the renamed register 12 carries the way there. */
#define ALL_12(op) op("0") op("1") op("2") op("3") op("4") op("5") op("6") op("7") op("8") op("9") op("10") op("11")
#define LOOP_12(name, op) static void name(long n) { \
    __asm__ volatile("vpxor %%xmm13,%%xmm13,%%xmm13\n vpxor %%xmm14,%%xmm14,%%xmm14\n" \
        "1:\n" TWICE(ALL_12(op)) "dec %0\n jnz 1b\n vzeroupper\n" : "+r"(n) : : CLOBBER_VECTORS); }

#define PAIR_YMM(r) "vpmaddubsw %%ymm14,%%ymm14,%%ymm12\n vpmaddwd %%ymm13,%%ymm12,%%ymm12\n vpaddd %%ymm12,%%ymm" r ",%%ymm" r "\n"
#define PAIR_ZMM(r) "vpmaddubsw %%zmm14,%%zmm14,%%zmm12\n vpmaddwd %%zmm13,%%zmm12,%%zmm12\n vpaddd %%zmm12,%%zmm" r ",%%zmm" r "\n"
LOOP_12(int8_avx2, PAIR_YMM)
LOOP_12(int8_avx512, PAIR_ZMM)

/* Tiles: 4 sums of 16 x 16, fed by 2 x 2 operands of 16 x 64 bytes, as a matrix product would. The whole 64 bytes are an operand: the
 * compiler must have stored all of them. */
typedef struct tile_config { uint8_t palette, start, reserved[14]; uint16_t row_bytes[16]; uint8_t rows[16]; } tile_config;

static void tiles_begin(void)
{
    tile_config config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = 16;
    }
    __asm__ volatile("ldtilecfg %0\n tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n tilezero %%tmm3\n"
        "tilezero %%tmm4\n tilezero %%tmm5\n tilezero %%tmm6\n tilezero %%tmm7\n" : : "m"(config) : "memory");
}

#define TILES(product) product " %%tmm6,%%tmm4,%%tmm0\n" product " %%tmm7,%%tmm4,%%tmm1\n" product " %%tmm6,%%tmm5,%%tmm2\n" product " %%tmm7,%%tmm5,%%tmm3\n"
#define LOOP_TILES(name, product) static void name(long n) { \
    tiles_begin(); \
    __asm__ volatile("1:\n" TWICE(TILES(product)) "dec %0\n jnz 1b\n tilerelease\n" : "+r"(n) : : "cc", "memory"); }
LOOP_TILES(int8_amx, "tdpbusd")
LOOP_TILES(bf16_amx, "tdpbf16ps")

/* bytes: a multiple of 256. */
#define READ(name, width, from) static void name(const char *at, size_t bytes) { \
    __asm__ volatile("vpxor %%xmm0,%%xmm0,%%xmm0\n vpxor %%xmm1,%%xmm1,%%xmm1\n vpxor %%xmm2,%%xmm2,%%xmm2\n vpxor %%xmm3,%%xmm3,%%xmm3\n" \
        "1:\n" from "add $256,%0\n sub $256,%1\n jnz 1b\n vzeroupper\n" : "+r"(at), "+r"(bytes) : : CLOBBER_VECTORS, "memory"); }
#define FROM_ZMM(r, at) "vporq " at "(%0),%%zmm" r ",%%zmm" r "\n"
#define FROM_YMM(r, at) "vpor " at "(%0),%%ymm" r ",%%ymm" r "\n"
READ(read_avx512, zmm, FROM_ZMM("0", "0") FROM_ZMM("1", "64") FROM_ZMM("2", "128") FROM_ZMM("3", "192"))
READ(read_avx2, ymm, FROM_YMM("0", "0") FROM_YMM("1", "32") FROM_YMM("2", "64") FROM_YMM("3", "96")
    FROM_YMM("0", "128") FROM_YMM("1", "160") FROM_YMM("2", "192") FROM_YMM("3", "224"))

/* CPUID leaf 7: what the tiers' names do not say. */
static bool cpu_has_bf16(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5);
}

static bool cpu_has_amx_bf16(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & 1u << 22);
}

#endif

/* ---- Choice --------------------------------------------------------------------------------------------------------------------- */

typedef struct loops { peak fp32, bf16, int8, amx_int8, amx_bf16; void (*read)(const char *, size_t); } loops;

/* The loops of the tier in use; a peak without loop is one that it lacks. */
static loops choose_loops(void)
{
    loops l = {.fp32 = {fp32_c, CHAINS * 4 * 2.0}, .int8 = {int8_c, CHAINS * 8 * 2.0}, .read = read_c};
#if defined(__x86_64__)
    static const char *const tiers[] = {"avx2", "avxvnni", "avx512", "vnni", "bf16", "amx"};
    const char *tier = nm_kernels_tier();
    int rank = 0;
    for (int i = 0; i < 6; i++) {
        if (strcmp(tier, tiers[i]) == 0) rank = i + 1;
    }
    if (rank >= 1) {
        l.fp32 = (peak){fp32_avx2, 28 * 8 * 2.0};
        l.int8 = (peak){int8_avx2, 24 * 32 * 2.0};
        l.read = read_avx2;
    }
    if (rank == 2) l.int8 = (peak){int8_avxvnni, 28 * 32 * 2.0};
    if (rank >= 3) {
        l.fp32 = (peak){fp32_avx512, 28 * 16 * 2.0};
        l.int8 = (peak){int8_avx512, 24 * 64 * 2.0};
        l.read = read_avx512;
        if (cpu_has_bf16()) l.bf16 = (peak){bf16_avx512, 28 * 32 * 2.0};
    }
    if (rank >= 4) l.int8 = (peak){int8_vnni, 28 * 64 * 2.0};
    if (rank >= 6) {
        l.amx_int8 = (peak){int8_amx, 8 * 16 * 16 * 64 * 2.0};
        if (cpu_has_amx_bf16()) l.amx_bf16 = (peak){bf16_amx, 8 * 16 * 16 * 32 * 2.0};
    }
#endif
    return l;
}

/* ---- Products ------------------------------------------------------------------------------------------------------------------- */

typedef struct timing { loop_fn loop; long turns; double seconds; int threads; } timing;

static void run_loop(void *arg, int thread, int threads)
{
    timing *t = arg;
    nm_pool_barrier();
    double from = nm_clock_seconds();
    t->loop(t->turns);
    nm_pool_barrier();
    if (thread) return;
    t->seconds = nm_clock_seconds() - from;
    t->threads = threads;
}

static nm_err interrupted(void) { return nm_fail(NM_INTERRUPTED, "interrupted while probing the machine's limits"); }

/* 1e9 operations a second on all threads: the best of nine runs, since whatever disturbs one only lowers it. */
static nm_err measure_peak(peak p, double *result)
{
    enum { RUNS = 9 };
    const double wanted = 0.02;
    timing t = {.loop = p.loop, .turns = 1000};
    *result = 0;
    if (!p.loop) return NM_OK;
    do {
        t.turns *= 4;
        NM_TRY(nm_pool_run(run_loop, &t));
        if (nm_interrupted) return interrupted();
    } while (t.seconds < wanted / 4);
    t.turns = (long)((double)t.turns * wanted / t.seconds) + 1;
    for (int i = 0; i < RUNS; i++) {
        NM_TRY(nm_pool_run(run_loop, &t));
        if (nm_interrupted) return interrupted();
        double rate = p.operations * (double)t.turns * t.threads / t.seconds * 1e-9;
        if (rate > *result) *result = rate;
    }
    return NM_OK;
}

nm_err nm_probe_peaks(nm_limits *limits)
{
    loops l = choose_loops();
    NM_TRY(measure_peak(l.fp32, &limits->fp32_gflops));
    NM_TRY(measure_peak(l.bf16, &limits->bf16_gflops));
    NM_TRY(measure_peak(l.int8, &limits->int8_gops));
    NM_TRY(measure_peak(l.amx_int8, &limits->amx_int8_gops));
    return measure_peak(l.amx_bf16, &limits->amx_bf16_gflops);
}

/* ---- Memory --------------------------------------------------------------------------------------------------------------------- */

/* 2 GiB leave any cache behind (the largest level 3 caches have half a gigabyte); a machine with less memory gives an eighth of what is free. */
enum { READ_CHUNK = 1 << 20, READ_LEAST = 64, READ_MOST = 2048 };      /* READ_LEAST, READ_MOST: in chunks */
enum { READ_STRETCH = 32 << 20 };       /* bytes between two looks for Ctrl-C: some milliseconds, beside which the look costs nothing */

typedef struct read_job { const nm_read_probe *probe; void (*read)(const char *, size_t); double seconds; } read_job;

/* Where thread `thread` begins; the thread after it ends there. */
static size_t share_from(size_t bytes, int thread, int threads)
{
    return (size_t)((bytes / READ_CHUNK) * (size_t)thread / (size_t)threads) * READ_CHUNK;
}

static void touch(void *arg, int thread, int threads)
{
    const nm_read_probe *p = arg;
    size_t from = share_from(p->bytes, thread, threads), to = share_from(p->bytes, thread + 1, threads);
    for (; from < to && !nm_interrupted; from += READ_CHUNK) memset((char *)p->data + from, 1, READ_CHUNK);
}

static void read_all(void *arg, int thread, int threads)
{
    read_job *job = arg;
    size_t from = share_from(job->probe->bytes, thread, threads), to = share_from(job->probe->bytes, thread + 1, threads);
    nm_pool_barrier();
    double start = nm_clock_seconds();
    for (size_t n; from < to && !nm_interrupted; from += n) {
        n = to - from < READ_STRETCH ? to - from : READ_STRETCH;
        job->read((const char *)job->probe->data + from, n);
    }
    nm_pool_barrier();
    if (thread == 0) job->seconds = nm_clock_seconds() - start;
}

nm_err nm_read_probe_open(nm_read_probe *probe)
{
    uint64_t chunks = nm_machine_memory_available() / 8 / READ_CHUNK;
    *probe = (nm_read_probe){0};
    if (chunks < READ_LEAST) chunks = READ_LEAST;
    if (chunks > READ_MOST) chunks = READ_MOST;
    probe->bytes = (size_t)chunks * READ_CHUNK;
    probe->data = nm_alloc_aligned(probe->bytes);
    if (!probe->data) return nm_fail_memory(probe->bytes);
    nm_err err = nm_pool_run(touch, probe);
    if (err == NM_OK && nm_interrupted) err = interrupted();
    if (err != NM_OK) nm_read_probe_close(probe);
    return err;
}

void nm_read_probe_close(nm_read_probe *probe)
{
    nm_free_aligned(probe->data, probe->bytes);
    probe->data = NULL;
    probe->bytes = 0;
}

nm_err nm_read_probe_round(nm_read_probe *probe)
{
    enum { PASSES = 3, KEPT = sizeof probe->rounds / sizeof probe->rounds[0] };
    read_job job = {.probe = probe, .read = choose_loops().read};
    double best = 0;
    for (int i = 0; i < PASSES; i++) {
        NM_TRY(nm_pool_run(read_all, &job));
        if (nm_interrupted) return interrupted();
        double rate = (double)probe->bytes / job.seconds * 1e-9;
        if (rate > best) best = rate;
    }
    if (probe->n_rounds < KEPT) probe->rounds[probe->n_rounds++] = best;
    return NM_OK;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double nm_read_probe_result(const nm_read_probe *probe)
{
    double sorted[sizeof probe->rounds / sizeof probe->rounds[0]];
    if (!probe->n_rounds) return 0;
    memcpy(sorted, probe->rounds, sizeof sorted);
    qsort(sorted, (size_t)probe->n_rounds, sizeof sorted[0], compare_doubles);
    return sorted[probe->n_rounds / 2];
}
