/* The table of kernels in use: the reference first, then each tier that the CPU offers, the OS saves and the mask allows, weakest to
 * strongest. Also the sizes of what callers hand to kernels, which are the same on every tier. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "cpu/cpu.h"
#include "kernel/layout.h"

static const struct { uint32_t tier; void (*fill)(nm_kernels *); } fillers[] = {
    {NM_CPU_C, nm_kernels_ref},
#if defined(__x86_64__)
    {NM_CPU_AVX2, nm_kernels_avx2},
    {NM_CPU_AVXVNNI, nm_kernels_avxvnni},
    {NM_CPU_AVX512, nm_kernels_avx512},
    {NM_CPU_VNNI, nm_kernels_vnni},
    {NM_CPU_BF16, nm_kernels_bf16},
    {NM_CPU_AMX, nm_kernels_amx},
#elif defined(__aarch64__)
    {NM_CPU_NEON, nm_kernels_neon},
    {NM_CPU_DOTPROD, nm_kernels_dotprod},
    {NM_CPU_I8MM, nm_kernels_i8mm},
#endif
};
enum { FILLERS = sizeof fillers / sizeof *fillers };

static nm_kernels table;
static uint32_t allowed = NM_CPU_ALL;
static char description[160];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void describe(uint32_t offered)
{
    int used = snprintf(description, sizeof description, "offered:");
    for (int i = 0; i < FILLERS; i++)
        if (offered & fillers[i].tier) used += snprintf(description + used, sizeof description - (size_t)used, " %s", nm_cpu_tier_name(fillers[i].tier));
    snprintf(description + used, sizeof description - (size_t)used, "; in use: %s", table.tier);
}

static void fill(void)
{
    uint32_t offered = nm_cpu_features(), set = (offered & allowed) | NM_CPU_C;
    for (int i = 0; i < FILLERS; i++) {
        if (!(set & fillers[i].tier)) continue;
        fillers[i].fill(&table);
        table.tier = nm_cpu_tier_name(fillers[i].tier);
    }
    describe(offered);
}

const nm_kernels *nm_kernels_get(void)
{
    pthread_once(&once, fill);
    return &table;
}

nm_err nm_set_kernels(const char *mask)
{
    uint32_t set;
    NM_TRY(nm_cpu_parse(mask, &set));
    nm_kernels_get();
    pthread_mutex_lock(&lock);
    allowed = set;
    fill();
    pthread_mutex_unlock(&lock);
    return NM_OK;
}

const char *nm_kernels_tier(void) { return nm_kernels_get()->tier; }

const char *nm_kernels_describe(void)
{
    nm_kernels_get();
    return description;
}

/* ---- Sizes --------------------------------------------------------------------------------------------------------------------------------- */

static size_t align64(size_t n) { return (n + 63) & ~(size_t)63; }

static size_t whole_tiles(int64_t rows) { return (size_t)rows + NM_QTILE_MOST - 1; }      /* whatever the tile */

size_t nm_qrows_bytes(int64_t rows, int64_t k)
{
    size_t n = whole_tiles(rows), ldq = align64((size_t)k), lds = ldq / NM_BLOCK;
    return n * ldq + 3 * align64(n * lds * 4) + align64(n * lds * 2 * 4);
}

nm_qrows nm_qrows_at(void *memory, int64_t rows, int64_t k, int tile)
{
    nm_qrows x = {.q = memory, .ldq = align64((size_t)k), .tile = tile};
    size_t n = whole_tiles(rows);
    x.lds = x.ldq / NM_BLOCK;
    x.scale = (float *)(x.q + n * x.ldq);
    x.sum = (int32_t *)((uint8_t *)x.scale + align64(n * x.lds * 4));
    x.shift = (float *)((uint8_t *)x.sum + align64(n * x.lds * 4));
    x.half = (int32_t *)((uint8_t *)x.shift + align64(n * x.lds * 4));
    return x;
}

size_t nm_kv_k_bytes(nm_kv_type type, int d_k)
{
    size_t d = (size_t)d_k;
    if (type == NM_KV_Q8_0) return align64(d * NM_PAGE + (d + 31) / 32 * NM_PAGE * 2);
    return d * NM_PAGE * (type == NM_KV_F32 ? 4 : 2);
}

size_t nm_kv_v_bytes(nm_kv_type type, int d_v) { return nm_kv_k_bytes(type, d_v); }

/* Room for the widest user (kernel/x86): a page's keys or values as fp32, their scales, probabilities of all queries, outputs of a tile's block. */
size_t nm_attention_scratch(int d_k, int d_v)
{
    size_t wide = ((size_t)d_v + 15) / 16 * 16, most = (size_t)d_k > wide ? (size_t)d_k : wide;
    return ((most + (most + 31) / 32 + NM_QUERIES) * NM_PAGE + 6 * wide) * sizeof(float);
}

/* Room for the widest user (kernel/x86): unpacked chunks of NM_TILE_PANELS panels as 16-bit or as fp32 values, their scales, one accumulator
 * per row and output of those panels, per row and group of inputs three words made from its scale and sum, and the rows (AMX wants them one by one). */
size_t nm_linear_scratch(const nm_panels *w, int64_t rows)
{
    size_t groups = align64((size_t)w->k) / 16, n = (size_t)rows + 32;     /* the x86 tiers pad the rows */
    size_t chunk = NM_TILE_PANELS * (NM_CHUNK * NM_PANEL * sizeof(float) + 2 * NM_CHUNK / 16 * NM_PANEL * sizeof(float));
    size_t q8 = (n < NM_TILE_ROWS ? n : NM_TILE_ROWS) * NM_GROUP_PANELS, f32 = n * NM_TILE_PANELS;
    return chunk + (q8 > f32 ? q8 : f32) * NM_PANEL * sizeof(float) + 3 * align64(n * groups * sizeof(float)) + n * align64((size_t)w->k) + 64 * 1024;
}

/* Room for kernel/x86/bf16_maps.h: unpacked chunks of NM_TILE_PANELS panels as fp32 and rounded, their scales, and accumulators of whole tiles of rows. */
size_t nm_linear_bf16_scratch(int64_t rows)
{
    size_t chunk = NM_TILE_PANELS * NM_UNPACK_INPUTS * NM_PANEL;
    return 3 * chunk * sizeof(float) + NM_TILE_PANELS * ((size_t)(rows + 15) / 16) * 1024 + 64 * 1024;
}

/* A block of NM_UNPACK_INPUTS x NM_UNPACK_INPUTS weights, rounded; two panels of them as fp32, and accumulators. */
size_t nm_back_bf16_scratch(int64_t rows)
{
    return NM_UNPACK_INPUTS * NM_UNPACK_INPUTS * 2 + 3 * NM_UNPACK_INPUTS * NM_PANEL * sizeof(float) + NM_UNPACK_INPUTS / 16 * ((size_t)(rows + 15) / 16) * 1024 + 64 * 1024;
}
