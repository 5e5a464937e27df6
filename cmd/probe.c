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

/* bytes: a multiple of 256. What reads fastest on all machines so far: each line is asked for twice, into the second level 8 KB ahead and into the first 1 KB
 * ahead (plain loads reach 0.87 of it with 32 bytes and 0.94 with 64). The last lines ask beyond the buffer, which does no harm. */
#define AHEAD(at) "prefetcht1 8192+" at "(%0)\n prefetcht0 1024+" at "(%0)\n"
#define READ(name, from) static void name(const char *at, size_t bytes) { \
    __asm__ volatile("vpxor %%xmm0,%%xmm0,%%xmm0\n vpxor %%xmm1,%%xmm1,%%xmm1\n vpxor %%xmm2,%%xmm2,%%xmm2\n vpxor %%xmm3,%%xmm3,%%xmm3\n" \
        "1:\n" AHEAD("0") AHEAD("64") AHEAD("128") AHEAD("192") from "add $256,%0\n sub $256,%1\n jnz 1b\n vzeroupper\n" \
        : "+r"(at), "+r"(bytes) : : CLOBBER_VECTORS, "memory"); }
#define FROM_ZMM(r, at) "vporq " at "(%0),%%zmm" r ",%%zmm" r "\n"
#define FROM_YMM(r, at) "vpor " at "(%0),%%ymm" r ",%%ymm" r "\n"
READ(read_avx512, FROM_ZMM("0", "0") FROM_ZMM("1", "64") FROM_ZMM("2", "128") FROM_ZMM("3", "192"))
READ(read_avx2, FROM_YMM("0", "0") FROM_YMM("1", "32") FROM_YMM("2", "64") FROM_YMM("3", "96")
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

/* ---- arm64 ----------------------------------------------------------------------------------------------------------------------- */

#if defined(__aarch64__)

#define CLOBBER_ARM "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", \
    "v20", "v21", "v22", "v23", "v24", "v25", "v30", "v31"

/* 24 sums: enough for a latency of 4 on four units and some over. */
#define ALL_8(op, a) op(a "0") op(a "1") op(a "2") op(a "3") op(a "4") op(a "5") op(a "6") op(a "7")
#define ALL_24(op) ALL_8(op, "") op("8") op("9") ALL_8(op, "1") op("18") op("19") op("20") op("21") op("22") op("23")
#define LOOP_ARM(name, arch, op) __attribute__((target(arch))) static void name(long n) { \
    __asm__ volatile("movi v30.16b,#0\n movi v31.16b,#0\n1:\n" ALL_24(op) "subs %0,%0,#1\n b.ne 1b\n" : "+r"(n) : : CLOBBER_ARM); }
#define FMLA(r) "fmla v" r ".4s,v30.4s,v31.4s\n"
#define SDOT(r) "sdot v" r ".4s,v30.16b,v31.16b\n"
#define SMMLA(r) "smmla v" r ".4s,v30.16b,v31.16b\n"
LOOP_ARM(fp32_neon, "arch=armv8-a", FMLA)
LOOP_ARM(int8_dotprod, "arch=armv8.2-a+dotprod", SDOT)
LOOP_ARM(int8_i8mm, "arch=armv8.2-a+i8mm", SMMLA)

/* Without sdot a product of bytes is two multiplications to 16 bits and two pairwise additions to 32. */
#define PAIR_NEON(r) "smull v24.8h,v30.8b,v31.8b\n smull2 v25.8h,v30.16b,v31.16b\n sadalp v" r ".4s,v24.8h\n sadalp v" r ".4s,v25.8h\n"
LOOP_ARM(int8_neon, "arch=armv8-a", PAIR_NEON)

/* bytes: a multiple of 256. */
static void read_neon(const char *at, size_t bytes)
{
    __asm__ volatile("1:\n prfm pldl2strm,[%0,#8192]\n prfm pldl2strm,[%0,#8256]\n prfm pldl2strm,[%0,#8320]\n prfm pldl2strm,[%0,#8384]\n"
        "ldp q0,q1,[%0]\n ldp q2,q3,[%0,#32]\n ldp q4,q5,[%0,#64]\n ldp q6,q7,[%0,#96]\n"
        "ldp q0,q1,[%0,#128]\n ldp q2,q3,[%0,#160]\n ldp q4,q5,[%0,#192]\n ldp q6,q7,[%0,#224]\n"
        "add %0,%0,#256\n subs %1,%1,#256\n b.ne 1b\n" : "+r"(at), "+r"(bytes) : : CLOBBER_ARM, "memory");
}

#endif

/* ---- Choice --------------------------------------------------------------------------------------------------------------------- */

typedef struct loops { peak fp32, bf16, int8, amx_int8, amx_bf16; void (*read)(const char *, size_t); } loops;

/* Where the tier in use stands among those that `tiers` lists from the weakest: from 1; 0 for another. */
#if defined(__x86_64__) || defined(__aarch64__)
static int rank_among(const char *const *tiers, int count)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(nm_kernels_tier(), tiers[i]) == 0) return i + 1;
    }
    return 0;
}
#endif

/* The loops of the tier in use; a peak without loop is one that it lacks. */
static loops choose_loops(void)
{
    loops l = {.fp32 = {fp32_c, CHAINS * 4 * 2.0}, .int8 = {int8_c, CHAINS * 8 * 2.0}, .read = read_c};
#if defined(__x86_64__)
    static const char *const tiers[] = {"avx2", "avxvnni", "avx512", "vnni", "bf16", "amx"};
    int rank = rank_among(tiers, 6);
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
#elif defined(__aarch64__)
    static const char *const tiers[] = {"neon", "dotprod", "i8mm"};
    int rank = rank_among(tiers, 3);
    if (rank >= 1) {
        l.fp32 = (peak){fp32_neon, 24 * 4 * 2.0};
        l.int8 = (peak){int8_neon, 24 * 16 * 2.0};
        l.read = read_neon;
    }
    if (rank >= 2) l.int8 = (peak){int8_dotprod, 24 * 16 * 2.0};
    if (rank >= 3) l.int8 = (peak){int8_i8mm, 24 * 32 * 2.0};
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

/* How often the loop turns in `wanted` seconds. */
static nm_err calibrate(loop_fn loop, double wanted, long *turns)
{
    timing t = {.loop = loop, .turns = 1000};
    *turns = 0;
    if (!loop) return NM_OK;
    do {
        t.turns *= 4;
        NM_TRY(nm_pool_run(run_loop, &t));
        if (nm_interrupted) return interrupted();
    } while (t.seconds < wanted / 4);
    *turns = (long)((double)t.turns * wanted / t.seconds) + 1;
    return NM_OK;
}

/* 1e9 operations a second on all threads: the best of `runs`, since whatever disturbs one only lowers it. */
static nm_err measure_peak(peak p, long turns, int runs, double *result)
{
    timing t = {.loop = p.loop, .turns = turns};
    *result = 0;
    for (int i = 0; p.loop && i < runs; i++) {
        NM_TRY(nm_pool_run(run_loop, &t));
        if (nm_interrupted) return interrupted();
        double rate = p.operations * (double)turns * t.threads / t.seconds * 1e-9;
        if (rate > *result) *result = rate;
    }
    return NM_OK;
}

static void list_peaks(const loops *l, nm_limits *limits, peak peaks[NM_PROBE_PEAKS], double *results[NM_PROBE_PEAKS])
{
    const peak all[NM_PROBE_PEAKS] = {l->fp32, l->bf16, l->int8, l->amx_int8, l->amx_bf16};
    double *const where[NM_PROBE_PEAKS] = {&limits->fp32_gflops, &limits->bf16_gflops, &limits->int8_gops, &limits->amx_int8_gops, &limits->amx_bf16_gflops};
    memcpy(peaks, all, sizeof all);
    memcpy(results, where, sizeof where);
}

nm_err nm_probe_peaks(nm_limits *limits)
{
    enum { RUNS = 9 };
    loops l = choose_loops();
    peak peaks[NM_PROBE_PEAKS];
    double *results[NM_PROBE_PEAKS];
    list_peaks(&l, limits, peaks, results);
    for (int i = 0; i < NM_PROBE_PEAKS; i++) {
        long turns;
        NM_TRY(calibrate(peaks[i].loop, 0.02, &turns));
        NM_TRY(measure_peak(peaks[i], turns, RUNS, results[i]));
    }
    return NM_OK;
}

/* ---- Memory --------------------------------------------------------------------------------------------------------------------- */

/* 2 GiB leave any cache behind (the largest level 3 caches have half a gigabyte); a machine with less memory gives an eighth of what is free. */
enum { READ_CHUNK = 1 << 20, READ_LEAST = 64, READ_MOST = 2048 };      /* READ_LEAST, READ_MOST: in chunks */
enum { READ_STRETCH = 32 << 20 };       /* bytes between two looks for Ctrl-C: some milliseconds, beside which the look costs nothing */

typedef struct read_job { const nm_probe *probe; void (*read)(const char *, size_t); double seconds; } read_job;

/* Where thread `thread` begins; the thread after it ends there. */
static size_t share_from(size_t bytes, int thread, int threads)
{
    return (size_t)((bytes / READ_CHUNK) * (size_t)thread / (size_t)threads) * READ_CHUNK;
}

static void touch(void *arg, int thread, int threads)
{
    const nm_probe *p = arg;
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

nm_err nm_probe_open(nm_probe *probe)
{
    uint64_t chunks = nm_machine_memory_available() / 8 / READ_CHUNK;
    loops l = choose_loops();
    nm_limits limits;
    peak peaks[NM_PROBE_PEAKS];
    double *results[NM_PROBE_PEAKS];
    *probe = (nm_probe){0};
    if (chunks < READ_LEAST) chunks = READ_LEAST;
    if (chunks > READ_MOST) chunks = READ_MOST;
    probe->bytes = (size_t)chunks * READ_CHUNK;
    probe->data = nm_alloc_aligned(probe->bytes);
    if (!probe->data) return nm_fail_memory(probe->bytes);
    nm_err err = nm_pool_run(touch, probe);
    if (err == NM_OK && nm_interrupted) err = interrupted();
    list_peaks(&l, &limits, peaks, results);
    for (int i = 0; i < NM_PROBE_PEAKS && err == NM_OK; i++) err = calibrate(peaks[i].loop, 0.01, &probe->turns[i]);
    if (err != NM_OK) nm_probe_close(probe);
    return err;
}

void nm_probe_close(nm_probe *probe)
{
    nm_free_aligned(probe->data, probe->bytes);
    probe->data = NULL;
    probe->bytes = 0;
}

nm_err nm_probe_round(nm_probe *probe, nm_limits *now)
{
    enum { READS = 2, RUNS = 3 };
    loops l = choose_loops();
    read_job job = {.probe = probe, .read = l.read};
    peak peaks[NM_PROBE_PEAKS];
    double *results[NM_PROBE_PEAKS];
    *now = (nm_limits){0};
    list_peaks(&l, now, peaks, results);
    for (int i = 0; i < NM_PROBE_PEAKS; i++) NM_TRY(measure_peak(peaks[i], probe->turns[i], RUNS, results[i]));
    for (int i = 0; i < READS; i++) {
        NM_TRY(nm_pool_run(read_all, &job));
        if (nm_interrupted) return interrupted();
        double rate = (double)probe->bytes / job.seconds * 1e-9;
        if (rate > now->read_gb_per_s) now->read_gb_per_s = rate;
    }
    if (probe->rounds < NM_PROBE_KEPT) probe->round[probe->rounds++] = *now;
    return NM_OK;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of the member of all rounds that lies `offset` bytes into nm_limits. */
static double median_of(const nm_probe *probe, size_t offset)
{
    double sorted[NM_PROBE_KEPT];
    for (int i = 0; i < probe->rounds; i++) memcpy(&sorted[i], (const char *)&probe->round[i] + offset, sizeof sorted[i]);
    qsort(sorted, (size_t)probe->rounds, sizeof sorted[0], compare_doubles);
    return probe->rounds ? sorted[probe->rounds / 2] : 0;
}

nm_limits nm_probe_result(const nm_probe *probe)
{
    return (nm_limits){median_of(probe, offsetof(nm_limits, read_gb_per_s)), median_of(probe, offsetof(nm_limits, fp32_gflops)),
        median_of(probe, offsetof(nm_limits, bf16_gflops)), median_of(probe, offsetof(nm_limits, int8_gops)),
        median_of(probe, offsetof(nm_limits, amx_int8_gops)), median_of(probe, offsetof(nm_limits, amx_bf16_gflops))};
}
