/* Holds every kernel of every tier that this machine can run, and of random masks of them, to the plain C reference, bit for bit, between guard pages
 * (guard.h): odd sizes, saturated values, denormal, huge and broken ones. And the reference to its definition and to libm. Numbers are random;
 * NM_SEED=N repeats a run, and a test's name as argument runs it alone. The same kernels are timed by `test_kernels --bench` (bench.h) and their instructions counted by `--count` (count.h). */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "../bf16.h"
#include "guard.h"
#include "cpu/cpu.h"
#include "kernel/layout.h"
#include "kernel/v16_c.h"
#include "kernel/v16_math.h"

/* Instrumented builds run fewer trials of everything: they look for bad accesses, not for rare bits. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif
#else
enum { SANITIZED = 0 };
#endif

/* ---- Random numbers and comparisons -------------------------------------------------------------------------------------------------- */

enum { FIXED_SEED = 20260101 };
static uint64_t run_seed, seed = FIXED_SEED, draws;
/* splitmix64: most of the time would otherwise go into drawing. */
static uint64_t random_u64(void)
{
    uint64_t z = seed + ++draws * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
static int random_below(int n) { return (int)(random_u64() % (uint64_t)n); }
static float random_float(float range) { return (float)((int64_t)random_u64() >> 32) * 0x1p-31f * range; }
static void fill_random(float *x, int64_t n, float range) { for (int64_t i = 0; i < n; i++) x[i] = random_float(range); }

/* 1 .. most, most often around the sizes where kernels change their ways. */
static int odd_size(int most)
{
    int kind = random_below(6), n = kind < 3 ? 1 + random_below(17) : kind == 3 ? 31 + random_below(3) : kind == 4 ? 63 + random_below(3) : 1 + random_below(most);
    return n <= most ? n : 1 + random_below(most);
}

static void begin_draws(uint64_t from)
{
    seed = from;
    draws = 0;
    guard_state = from * 2 + 1;
}

/* Before each test: the run's numbers, whichever tests run before; or, where a tolerance is held, always the same ones. */
static int drawn_anew(void **state) { begin_draws(run_seed); return 0; }
static int drawn_alike(void **state) { begin_draws(FIXED_SEED); return 0; }

/* NM_SEED, or a number from the clock, kept short enough to be typed. */
static void choose_seed(void)
{
    const char *given = getenv("NM_SEED");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    run_seed = given ? strtoull(given, NULL, 10) : ((uint64_t)now.tv_sec * 1000000007u + (uint64_t)now.tv_nsec) % 1000000000u;
    print_message("NM_SEED=%llu repeats these numbers\n", (unsigned long long)run_seed);
}

static bool same(float a, float b) { return !memcmp(&a, &b, sizeof a) || (isnan(a) && isnan(b)); }

/* Equal bits, or NaN in both (which NaN depends on the order of operands, which is free). */
#define expect_same(want, got, n, ...) do { \
        for (int64_t at_ = 0; at_ < (int64_t)(n); at_++) \
            if (!same((want)[at_], (got)[at_])) { \
                print_error(__VA_ARGS__); \
                print_error(": value %lld is %.9g (%a), reference %.9g (%a)\n", (long long)at_, \
                            (double)(got)[at_], (double)(got)[at_], (double)(want)[at_], (double)(want)[at_]); \
                fail(); \
            } \
    } while (0)

/* ---- Tiers ------------------------------------------------------------------------------------------------------------------------------ */

static nm_kernels reference;

/* Tables to test: each tier alone over the reference, all together, those of which only the instructions are emulated, and the last: a mask drawn anew
 * for each trial. A new tier costs a name here only if it is emulated. */
typedef struct tier_table { char name[64]; nm_kernels k; } tier_table;
static tier_table tier[16];
static int tiers, alone;        /* the first `alone` are single tiers, weakest first */

#if defined(__x86_64__)
/* The AVX-VNNI tier's own source with AVX-512 VNNI's instruction. */
void nm_kernels_avxvnni_emulated(nm_kernels *table);

static void add_emulated(uint32_t needs, const char *name, void (*fill)(nm_kernels *))
{
    if ((nm_cpu_features() & needs) != needs) return;
    snprintf(tier[tiers].name, sizeof tier[tiers].name, "%s", name);
    tier[tiers].k = *nm_kernels_get();
    fill(&tier[tiers++].k);
}
#endif

static void use_mask(tier_table *t, const char *mask)
{
    assert_int_equal(nm_set_kernels(mask), NM_OK);
    snprintf(t->name, sizeof t->name, "%s", mask);
    t->k = *nm_kernels_get();
}

/* The single tiers whose bits are set, as a mask. */
static void use_tiers(tier_table *t, unsigned set)
{
    char mask[sizeof t->name] = "c";
    size_t used = 1;
    for (int i = 0; i < alone; i++)
        if (set >> i & 1) used += (size_t)snprintf(mask + used, sizeof mask - used, ",%s", tier[i].name);
    use_mask(t, mask);
}

static void draw_mask(void) { use_tiers(&tier[tiers - 1], (unsigned)random_below(1 << alone)); }

static int find_tiers(void **state)
{
    nm_kernels_ref(&reference);
    for (uint32_t bit = NM_CPU_C << 1; bit < NM_CPU_ALL; bit <<= 1) {
        const char *name = nm_cpu_tier_name(bit);
        if (nm_cpu_features() & bit) use_mask(&tier[tiers++], name);
        else print_message("tier %s is not on this machine: not tested here\n", name);
    }
    alone = tiers;
    use_mask(&tier[tiers++], "all");
#if defined(__x86_64__)
    add_emulated(NM_CPU_AVX512, "bf16 emulated", nm_kernels_bf16_emulated);
    add_emulated(NM_CPU_AVX512, "amx-bf16 emulated", nm_kernels_amx_bf16_emulated);
    add_emulated(NM_CPU_VNNI, "avxvnni emulated", nm_kernels_avxvnni_emulated);
#endif
    for (int i = 0; i < tiers; i++) print_message("tier %s against the reference\n", tier[i].name);
    return 0;
}

static int begin(void **state)
{
    choose_seed();
    find_tiers(state);
    tiers++;
    use_tiers(&tier[tiers - 1], 0);
    return 0;
}

static void masks(void **state)
{
    assert_int_equal(nm_set_kernels("c"), NM_OK);
    assert_string_equal(nm_kernels_tier(), "c");
    assert_ptr_equal(nm_kernels_get()->linear_q8, reference.linear_q8);
    assert_int_equal(nm_set_kernels("avx9"), NM_USAGE);
    assert_int_equal(nm_set_kernels(""), NM_USAGE);
    assert_int_equal(nm_set_kernels("c,"), NM_USAGE);
    assert_string_equal(nm_kernels_tier(), "c");
    assert_int_equal(nm_set_kernels("c,avx2"), NM_OK);
    assert_string_equal(nm_kernels_tier(), nm_cpu_features() & NM_CPU_AVX2 ? "avx2" : "c");
    assert_int_equal(nm_set_kernels("all"), NM_OK);
    assert_non_null(strstr(nm_kernels_describe(), nm_kernels_tier()));
}

/* Every mask: each slot of the table holds what the strongest of its tiers that fills it holds alone. */
static void every_mask(void **state)
{
    enum { WORDS = sizeof(nm_kernels) / sizeof(uintptr_t) };
    for (unsigned set = 0; set < 1u << alone; set++) {
        uintptr_t want[WORDS], got[WORDS], one[WORDS], plain[WORDS];
        memcpy(plain, &reference, sizeof plain);
        memcpy(want, plain, sizeof want);
        for (int i = 0; i < alone; i++) {
            memcpy(one, &tier[i].k, sizeof one);
            for (int w = 0; w < WORDS && set >> i & 1; w++) if (one[w] != plain[w]) want[w] = one[w];
        }
        tier_table t;
        use_tiers(&t, set);
        memcpy(got, &t.k, sizeof got);
        for (size_t w = 0; w < WORDS; w++)
            if (got[w] != want[w] && w != offsetof(nm_kernels, tier) / sizeof *got) fail_msg("mask %s: word %zu of the table is of another tier", t.name, w);
    }
    assert_int_equal(nm_set_kernels("all"), NM_OK);
}

/* ---- Weights --------------------------------------------------------------------------------------------------------------------------------- */

/* ALL_ONES to EXTREMES: stored values at their ends (0xff, 0, 0x80, 0x7f, each byte one of these); BIG, SMALL: scales at the ends of half; WILD: any bits, NaN
 * and infinite scales too. */
typedef enum weights { ORDINARY, ALL_ONES, ALL_ZEROS, HIGH_BITS, LOW_BITS, EXTREMES, BIG, SMALL, WILD, WEIGHTS } weights;

static bool sane(const nm_type *type, const uint8_t *block)
{
    int8_t q[256];
    float scale[16], min[16];
    if (type->group == 0) {
        float f;
        type->to_float(block, 1, &f);
        return fabsf(f) < 8 || f == 0;
    }
    type->groups(block, type->block, q, scale, min);
    for (int g = 0; g < type->block / type->group; g++)
        if (!(fabsf(scale[g]) < 16) || (type->has_min && !(fabsf(min[g]) < 64))) return false;
    return true;
}

/* A value of a plain type, or the scales of a block, at the ends of what they can be. */
static void scale_block(const nm_type *type, weights kind, uint8_t *block)
{
    const nm_layout *l = nm_layout_of(type) < 0 ? NULL : &nm_layout_table[nm_layout_of(type)];
    if (type->from_float && type->group == 0) type->from_float(&(float){kind == BIG ? random_float(3e38f) : random_float(0x1p-126f)}, 1, block);
    if (!l) return;
    uint16_t half = (uint16_t)(kind == BIG ? 0x7bff : 1 + random_below(0x3ff)) | (uint16_t)(random_below(2) << 15);
    if (l->scales == NM_SCALE_E8M0) block[l->d_at] = kind == BIG ? 254 : (uint8_t)random_below(3);
    else memcpy(block + l->d_at, &half, 2);
    if (nm_layout_has_min(l)) memcpy(block + l->dmin_at, &half, 2);
}

/* A block's values at their ends, its scales as they are. */
static void saturate_block(const nm_layout *l, weights kind, uint8_t *block, int bytes)
{
    static const uint8_t pattern[] = {[ALL_ONES] = 0xff, [ALL_ZEROS] = 0x00, [HIGH_BITS] = 0x80, [LOW_BITS] = 0x7f};
    uint8_t kept[2][2];
    memcpy(kept[0], block + l->d_at, 2);
    memcpy(kept[1], block + l->dmin_at, 2);
    for (int i = 0; i < bytes; i++) block[i] = pattern[kind == EXTREMES ? ALL_ONES + (unsigned)random_below(4) : kind];
    if (l->scales == NM_SCALE_E8M0) block[l->d_at] = 128;
    else memcpy(block + l->d_at, kept[0], 2);
    if (nm_layout_has_min(l)) memcpy(block + l->dmin_at, kept[1], 2);
}

static void random_block(const nm_type *type, weights kind, uint8_t *block)
{
    do for (int i = 0; i < type->bytes; i += 8) memcpy(block + i, &(uint64_t){random_u64()}, (size_t)(type->bytes - i < 8 ? type->bytes - i : 8));
    while (kind != WILD && !sane(type, block));
    if (kind == BIG || kind == SMALL) scale_block(type, kind, block);
    else if (kind != ORDINARY && kind != WILD && nm_layout_of(type) >= 0) saturate_block(&nm_layout_table[nm_layout_of(type)], kind, block, type->bytes);
}

typedef struct weight { nm_panels rows, packed; guard file, panels; } weight;

static weight make_weight(const nm_type *type, int64_t n, int64_t k, weights kind)
{
    weight w = {0};
    size_t row = (size_t)(k / type->block) * (size_t)type->bytes;
    w.file = guard_open(row * (size_t)n, 1);
    for (size_t at = 0; at < row * (size_t)n; at += (size_t)type->bytes) random_block(type, kind, (uint8_t *)w.file.p + at);
    w.rows = (nm_panels){.type = type, .n = n, .k = k, .panels = (n + 15) / 16, .rows = w.file.p, .row_bytes = row};
    w.packed = w.rows;
    size_t panel = nm_pack_bytes(type, k);
    if (!panel) return w;
    w.panels = guard_open(panel * (size_t)w.rows.panels, 64);
    for (int64_t p = 0; p < w.rows.panels; p++)
        nm_pack_panel(type, n, k, w.file.p, row, p, (uint8_t *)w.panels.p + (size_t)p * panel);
    w.packed.data = w.panels.p;
    w.packed.panel_bytes = panel;
    w.packed.rows = NULL;
    return w;
}

static void free_weight(weight *w)
{
    guard_close(&w->file);
    if (w->packed.data) guard_close(&w->panels);
}

static bool quantised(const nm_type *type) { return type->group != 0; }
static bool holds_weights(const nm_type *type) { return type->to_float != NULL; }
/* A K that the type takes: at least one of its blocks. */
static int64_t inputs_for(const nm_type *type, int64_t k) { return (k + type->block - 1) / type->block * type->block; }

static void packing_keeps_every_value(void **state)
{
    for (int i = 0; nm_type_at(i); i++) {
        const nm_type *type = nm_type_at(i);
        if (!holds_weights(type)) continue;
        for (int variant = 0; variant < WEIGHTS; variant++) {
            int64_t n = odd_size(65), k = inputs_for(type, quantised(type) ? 32 * odd_size(33) : odd_size(90));
            weight w = make_weight(type, n, k, variant);
            float *want = malloc((size_t)k * 4), *got = malloc((size_t)k * 4);
            for (int64_t r = 0; r < n; r++) {
                type->to_float(w.rows.rows + (size_t)r * w.rows.row_bytes, k, want);
                nm_panels_row(&w.packed, r, got);
                expect_same(want, got, k, "%s packed, k %d row %d", type->name, (int)k, (int)r);
                nm_panels_row(&w.rows, r, got);
                expect_same(want, got, k, "%s rows, k %d row %d", type->name, (int)k, (int)r);
            }
            free(want);
            free(got);
            free_weight(&w);
        }
        if (nm_pack_bytes(type, 256 * 16))
            assert_true((double)nm_pack_bytes(type, 256 * 16) <= 1.06 * 16 * 256 * 16 / type->block * type->bytes);
    }
}

/* ---- Linear maps -------------------------------------------------------------------------------------------------------------------------------- */

/* EXTREME to ALTERNATE: quantised, +-127 with random signs, all +127, all -127, by turns; DENORMAL: on both sides of 2^-126, ties in bf16 among them; BROKEN: NaN
 * and infinities. */
typedef enum inputs { GAUSS, EXTREME, ZEROS, TINY, DENORMAL, PLUS, MINUS, ALTERNATE, LARGE, BROKEN, INPUTS } inputs;

static float an_input(int64_t i, inputs kind)
{
    float v = kind == PLUS || kind == MINUS || kind == ALTERNATE ? 0 : random_float(1) + random_float(1) + random_float(1);
    switch (kind) {
    case EXTREME: return v < 0 ? -1 : 1;
    case ZEROS: return i / 32 % 3 == 0 ? 0 : v;
    case TINY: return v * 0x1p-97f;
    case DENORMAL: return random_below(3) ? v * 0x1p-126f : nm_bf16_to_float((uint16_t)random_below(0x180)) * (1 + 0x1p-8f);
    case PLUS: return 1;
    case MINUS: return -1;
    case ALTERNATE: return i % 2 ? -1 : 1;
    case LARGE: return v * 1e38f;
    default: return v;
    }
}

static void make_inputs(float *x, int64_t n, inputs kind)
{
    for (int64_t i = 0; i < n; i++) x[i] = an_input(i, kind);
    if (kind != BROKEN) return;
    x[random_below((int)n)] = NAN;
    x[random_below((int)n)] = INFINITY;
    x[random_below((int)n)] = -INFINITY;
}

/* Quantised rows, each array between guards. */
typedef struct tiled { nm_qrows rows; guard q, scale, sum, half, shift; } tiled;
/* The fp32 rows, and their quantised form, row after row, made by the reference. */
typedef struct activations { guard x; tiled flat; float *f; size_t ldx; } activations;

static tiled open_tiled(int64_t rows, int64_t k, int tile)
{
    tiled t = {.rows = nm_qrows_at(NULL, rows, k, tile)};
    size_t n = (size_t)((rows + tile - 1) / tile * tile), blocks = n * t.rows.lds;
    t.q = guard_open(n * t.rows.ldq, 64);
    t.scale = guard_open(blocks * 4, 4);
    t.sum = guard_open(blocks * 4, 4);
    t.half = guard_open(blocks * 8, 4);
    t.shift = guard_open(blocks * 4, 4);
    t.rows.q = t.q.p;
    t.rows.scale = t.scale.p;
    t.rows.sum = t.sum.p;
    t.rows.half = t.half.p;
    t.rows.shift = t.shift.p;
    return t;
}

static void free_tiled(tiled *t)
{
    guard *all[] = {&t->q, &t->scale, &t->sum, &t->half, &t->shift};
    if (!t->q.p) return;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guard_close(all[i]);
}

/* The quantised form of the first `rows` rows in a table's tiles. */
static tiled in_tiles(const activations *a, const nm_kernels *kernels, int64_t rows)
{
    tiled t = open_tiled(rows, (int64_t)a->ldx, nm_qrows_tile(kernels, rows));
    for (int64_t r = 0; r < rows; r++) reference.quantize(a->f + (size_t)r * a->ldx, (int64_t)a->ldx, &t.rows, r, 0);
    return t;
}

static activations make_activations(int64_t rows, int64_t k, inputs kind)
{
    activations a = {.ldx = (size_t)k};
    a.x = guard_open((size_t)rows * a.ldx * 4, 4);
    a.f = a.x.p;
    make_inputs(a.f, rows * k, kind);
    if (k % 32) return a;
    a.flat = in_tiles(&a, &reference, rows);
    return a;
}

static void free_activations(activations *a)
{
    guard_close(&a->x);
    free_tiled(&a->flat);
}

typedef enum arithmetic { FP32, INT8, BF16 } arithmetic;
static const char *const arithmetic_name[] = {"f32", "int8", "bf16"};

/* Floats [rows][ld] as tiles in bf16, by a table's own rounding; guarded. */
static guard in_bf16(void (*round)(const float *x, size_t ldx, int64_t rows, int64_t k, uint32_t *tile), const float *x, size_t ldx, int64_t rows, int64_t k)
{
    guard g = guard_open(nm_bf16_bytes(rows, k), 64);
    for (int64_t t = 0; t < rows; t += 16)
        round(x + (size_t)t * ldx, ldx, rows - t < 16 ? rows - t : 16, k, (uint32_t *)g.p + (size_t)(t / 16) * nm_bf16_tile(k));
    return g;
}

static void fill_pattern(float *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++) out[i] = (float)(i % 97) * 0.37f - 9;
}

/* Runs one table's linear kernel into a fresh guarded output, on rows in its tiles; the columns outside the job must stay as they were. */
static void run_linear(const nm_kernels *k, arithmetic with, const nm_panels *w, const activations *a, int64_t rows, int64_t p0, int64_t p1,
                       const float *bias, float add, guard *out)
{
    tiled xq = {0};
    if (with == INT8) xq = in_tiles(a, k, rows);
    bool bf16 = with == BF16;
    guard scratch = guard_open(bf16 ? nm_linear_bf16_scratch(rows) : nm_linear_scratch(w, rows), 64), xb = {0};
    if (bf16) xb = in_bf16(reference.round_rows, a->f, a->ldx, rows, w->k);
    *out = guard_open((size_t)(rows * w->n) * 4, 4);
    if (add != 0) fill_pattern(out->p, rows * w->n);
    nm_linear_job job = {.w = w, .p0 = p0, .p1 = p1, .rows = rows, .xq = with == INT8 ? &xq.rows : NULL, .x = a->f, .ldx = a->ldx,
                         .xb = xb.p, .y = out->p, .ldy = (size_t)w->n, .bias = bias, .add = add, .scratch = scratch.p};
    (with == INT8 ? k->linear_q8 : bf16 ? k->linear_bf16 : k->linear_f32)(&job);
    if (bf16) guard_close(&xb);
    guard_close(&scratch);
    free_tiled(&xq);
}

/* kernel.h's expression, written out from the rows of the file, in the most obvious way. */
static float by_definition(const nm_type *type, const uint8_t *row, int64_t k, const float *x, const int8_t *xq, const float *sx)
{
    float acc = 0;
    if (!xq) {
        float *w = malloc((size_t)k * 4);
        type->to_float(row, k, w);
        for (int64_t i = 0; i < k; i++) acc = fmaf(w[i], x[i], acc);
        free(w);
        return acc;
    }
    int8_t *q = malloc((size_t)k);
    int64_t groups = k / type->group;
    float *scale = malloc((size_t)groups * 4), *min = malloc((size_t)groups * 4);
    type->groups(row, k, q, scale, min);
    for (int64_t g = 0; g < groups; g++) {
        int32_t isum = 0, xsum = 0;
        for (int64_t i = g * type->group; i < (g + 1) * type->group; i++) {
            isum += q[i] * xq[i];
            xsum += xq[i];
        }
        float s = sx[g * type->group / 32], product = scale[g] * s;
        acc = fmaf((float)isum, product, acc);
        if (type->has_min) {
            float shifted = s * (float)xsum;
            acc = fmaf(min[g], shifted, acc);
        }
    }
    free(q);
    free(scale);
    free(min);
    return acc;
}

static void reference_is_the_definition(void **state)
{
    for (int i = 0; nm_type_at(i); i++) {
        const nm_type *type = nm_type_at(i);
        if (!holds_weights(type)) continue;
        int64_t n = 21, k = inputs_for(type, 544), rows = 3;
        weight w = make_weight(type, n, k, ORDINARY);
        activations a = make_activations(rows, k, GAUSS);
        for (int int8 = 0; int8 <= quantised(type); int8++)
            for (int packed = 0; packed < 2; packed++) {
                guard y;
                run_linear(&reference, int8 ? INT8 : FP32, packed ? &w.packed : &w.rows, &a, rows, 0, 2, NULL, 0, &y);
                for (int64_t t = 0; t < rows; t++)
                    for (int64_t o = 0; o < n; o++) {
                        float want = by_definition(type, w.rows.rows + (size_t)o * w.rows.row_bytes, k, a.f + (size_t)t * a.ldx,
                                                   int8 ? a.flat.rows.q + (size_t)t * a.flat.rows.ldq : NULL, int8 ? a.flat.rows.scale + (size_t)t * a.flat.rows.lds : NULL);
                        expect_same(&want, (float *)y.p + t * n + o, 1, "%s %s %s", type->name, int8 ? "int8" : "f32", packed ? "packed" : "rows");
                    }
                guard_close(&y);
            }
        free_activations(&a);
        free_weight(&w);
    }
}

static void compare_linear(const nm_type *type, arithmetic with, int64_t n, int64_t k, int64_t rows, weights kind, inputs x_kind)
{
    draw_mask();
    weight w = make_weight(type, n, k, kind);
    activations a = make_activations(rows, k, x_kind);
    guard bias = guard_open((size_t)n * 4, 4);
    fill_random(bias.p, n, 1);
    int64_t panels = w.rows.panels, p0 = random_below((int)panels), p1 = p0 + 1 + random_below((int)(panels - p0));
    const float *b = random_below(2) ? bias.p : NULL;
    guard want, got, want_amx = {0};
    float add = with == FP32 && random_below(3) == 0 ? -0.7f : 0;       /* as a slot */
    run_linear(&reference, with, &w.packed, &a, rows, p0, p1, b, add, &want);
    nm_kernels amx = reference;
    nm_kernels_ref_amx_bf16(&amx);
    if (with == BF16) run_linear(&amx, BF16, &w.packed, &a, rows, p0, p1, b, add, &want_amx);
    for (int i = 0; i < tiers; i++)
        for (int packed = 0; packed < 2; packed++) {
            if ((!packed && !w.packed.data) || (with == BF16 && tier[i].k.linear_bf16 == reference.linear_bf16)) continue;
            run_linear(&tier[i].k, with, packed ? &w.packed : &w.rows, &a, rows, p0, p1, b, add, &got);
            bool other = with == BF16 && bf16_reference(&tier[i].k).linear_bf16 == amx.linear_bf16;
            expect_same((float *)(other ? &want_amx : &want)->p, (float *)got.p, rows * n, "%s %s %s %s n %d k %d rows %d panels %d-%d weights %d inputs %d", tier[i].name,
                        type->name, arithmetic_name[with], packed ? "packed" : "rows", (int)n, (int)k, (int)rows, (int)p0, (int)p1, kind, x_kind);
            guard_close(&got);
        }
    guard_close(&want);
    if (with == BF16) guard_close(&want_amx);
    guard_close(&bias);
    free_activations(&a);
    free_weight(&w);
}

/* Every kind of weights with random inputs, rows from 1 to 12 at least once; then a larger map and a broken one. */
static void sweep_linear(arithmetic with)
{
    for (int i = 0; nm_type_at(i); i++) {
        const nm_type *type = nm_type_at(i);
        if (!holds_weights(type) || (with == INT8 && !quantised(type))) continue;
        bool packed = nm_pack_bytes(type, type->block) != 0;
        for (int trial = 0; trial < (packed ? 26 : 8); trial += SANITIZED ? 5 : 1) {
            weights kind = trial % WEIGHTS;
            inputs of = trial == 0 ? BROKEN : random_below(INPUTS);
            bool slow = with != INT8 && (kind == SMALL || of == TINY || of == DENORMAL);      /* a denormal result takes a processor 150 cycles */
            int64_t rows = trial < 12 ? 1 + trial : odd_size(slow ? 17 : 70), n = odd_size(slow ? 33 : 100);
            int64_t k = inputs_for(type, quantised(type) ? 32 * odd_size(slow ? 8 : 48) : odd_size(slow ? 65 : 700));
            if (trial == 12 && !SANITIZED) compare_linear(type, with, 16 * 9 + odd_size(65), inputs_for(type, 32 * (65 + odd_size(65))), odd_size(17), ORDINARY, GAUSS);
            else compare_linear(type, with, n, k, rows, kind, of);
        }
    }
}

/* Stored values and activations at their ends, all signs against all: sums that do not fit what a kernel keeps them in show here. */
static void saturation(void **state)
{
    static const inputs of[] = {PLUS, MINUS, ALTERNATE, EXTREME};
    for (int i = 0; nm_type_at(i); i++) {
        const nm_type *type = nm_type_at(i);
        if (!holds_weights(type) || nm_layout_of(type) < 0) continue;
        for (weights kind = ALL_ONES; kind <= EXTREMES; kind++)
            for (int j = 0; j < 4; j++) {
                compare_linear(type, INT8, odd_size(33), inputs_for(type, 32 * odd_size(17)), 1 + random_below(8), kind, of[j]);
                if (!SANITIZED) compare_linear(type, INT8, odd_size(33), inputs_for(type, 32 * odd_size(33)), 9 + odd_size(24), kind, of[j]);
            }
    }
}

static void linear_int8(void **state) { sweep_linear(INT8); }
static void linear_fp32(void **state) { sweep_linear(FP32); }
static void linear_bf16(void **state) { sweep_linear(BF16); }

/* kernel.h's words about bf16, one by one: a map of one output with weights of 1. */
static void bf16_is_the_definition(void **state)
{
    static const struct { int k; float x[4], y, amx; } cases[] = {
        {1, {1 + 0x1p-8f}, 1, 1}, {1, {1 + 0x3p-8f}, 1 + 0x1p-6f, 1 + 0x1p-6f}, {1, {1 + 0x1p-8f + 0x1p-20f}, 1 + 0x1p-7f, 1 + 0x1p-7f},
        {1, {-1 - 0x3p-8f}, -1 - 0x1p-6f, -1 - 0x1p-6f},                                    /* nearest, ties to even */
        {1, {FLT_MAX}, INFINITY, INFINITY}, {1, {-INFINITY}, -INFINITY, -INFINITY}, {1, {NAN}, NAN, NAN},
        {1, {0x1p-127f}, 0, 0}, {1, {0x1.fffffcp-127f}, 0, 0}, {1, {0x1p-126f}, 0x1p-126f, 0x1p-126f},      /* denormals are zero, also those that would round up */
        {2, {-0x1p-126f, 0x1.8p-126f}, 0, 0},                                               /* results too */
        {4, {1, 0, -0x1p24f, 0x1p24f}, 0, 1},                                               /* (1 + 2^24) - 2^24: the odd one first; or two chains */
        {4, {3, 0x1p24f, 1, -0x1p24f}, 5, 4},
        {3, {0x1p24f, 1, 1}, 0x1p24f, 0x1p24f},                                             /* a rounding each; the last has no partner */
    };
    float ones[4] = {1, 1, 1, 1};
    nm_panels w = {.type = nm_type_of(NM_F32), .n = 1, .panels = 1, .rows = (const uint8_t *)ones, .row_bytes = sizeof ones};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int t = -1; t < tiers; t++) {
            const nm_kernels *k = t < 0 ? &reference : &tier[t].k;
            w.k = cases[i].k;
            activations a = {.f = (float *)cases[i].x, .ldx = 4};
            guard y;
            if (t >= 0 && k->linear_bf16 == reference.linear_bf16) continue;
            bool amx = !strcmp(k->bf16, "amx-bf16");
            const float *want = amx ? &cases[i].amx : &cases[i].y;
            run_linear(k, BF16, &w, &a, 1, 0, 1, NULL, 0, &y);
            expect_same(want, (float *)y.p, 1, "%s linear_bf16, case %d", t < 0 ? "c" : tier[t].name, (int)i);
            guard_close(&y);
        }
}

/* A row's bits depend on no other row: 70 rows at once, and each alone. */
static void rows_do_not_meet(void **state)
{
    static const nm_dtype ids[] = {NM_Q4_0, NM_Q4_K, NM_Q6_K, NM_Q8_0, NM_F16};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        draw_mask();
        const nm_type *type = nm_type_of(ids[i]);
        int64_t n = 48, k = 512, rows = SANITIZED ? 19 : 70;
        weight w = make_weight(type, n, k, ORDINARY);
        activations a = make_activations(rows, k, GAUSS);
        for (int j = 0; j < 2 * tiers; j++) {
            const nm_kernels *kernels = &tier[j / 2].k;
            arithmetic with = j % 2 ? BF16 : quantised(type) ? INT8 : FP32;
            guard all, one;
            run_linear(kernels, with, &w.packed, &a, rows, 0, 3, NULL, 0, &all);
            for (int64_t t = 0; t < rows; t++) {
                activations single = a;
                single.f += (size_t)t * a.ldx;
                run_linear(kernels, with, &w.packed, &single, 1, 0, 3, NULL, 0, &one);
                expect_same((float *)all.p + t * n, (float *)one.p, n, "%s %s%s row %d", tier[j / 2].name, type->name, j % 2 ? " bf16" : "", (int)t);
                guard_close(&one);
            }
            guard_close(&all);
        }
        free_activations(&a);
        free_weight(&w);
    }
}

/* ---- Quantising activations ------------------------------------------------------------------------------------------------------------------------ */

static void quantising(void **state)
{
    for (int trial = 0; trial < 200; trial++) {
        draw_mask();
        int64_t k = 32 * odd_size(65), padded = (k + 63) / 64 * 64;
        guard x = guard_open((size_t)k * 4, 4);
        make_inputs(x.p, k, trial % INPUTS);
        if (trial % 7 == 0) ((float *)x.p)[random_below((int)k)] = FLT_MAX;
        if (trial % 7 == 1) for (int64_t i = 0; i < k; i++) ((float *)x.p)[i] = (float)(random_below(255) - 127) * 0.5f;   /* ties */
        int tile = 1 + random_below(NM_QTILE_MOST);
        int64_t row = random_below(2 * tile), rows = row + 1, from = random_below(2) ? k / 2 / 64 * 64 : 0;     /* whole, or in two parts */
        for (int i = 0; i < tiers; i++) {
            tiled t[2];
            for (int j = 0; j < 2; j++) {
                const nm_kernels *table = j ? &tier[i].k : &reference;
                t[j] = open_tiled(rows, k, tile);
                if (from) table->quantize(x.p, from, &t[j].rows, row, 0);
                table->quantize((float *)x.p + from, k - from, &t[j].rows, row, from);
            }
            const nm_qrows *want = &t[0].rows, *got = &t[1].rows;
            for (int64_t at = 0; at < padded; at += 4) assert_memory_equal(nm_qrows_four(want, row, at), nm_qrows_four(got, row, at), 4);
            for (int64_t block = 0; block < padded / 32; block++) {
                size_t at = nm_qrows_block(want, row, block, 1);
                expect_same(want->scale + at, got->scale + at, 1, "%s quantize k %d trial %d", tier[i].name, (int)k, trial);
                expect_same(want->shift + at, got->shift + at, 1, "%s quantize k %d trial %d", tier[i].name, (int)k, trial);
                assert_int_equal(want->sum[at], got->sum[at]);
                for (int64_t h = 2 * block; h < 2 * block + 2; h++)
                    assert_int_equal(want->half[nm_qrows_block(want, row, h, 2)], got->half[nm_qrows_block(got, row, h, 2)]);
            }
            for (int j = 0; j < 2; j++) free_tiled(&t[j]);
        }
        guard_close(&x);
    }
}

/* ---- Attention ----------------------------------------------------------------------------------------------------------------------------------------- */

static const char *const kv_name[] = {[NM_KV_F16] = "f16", [NM_KV_F32] = "f32", [NM_KV_Q8_0] = "q8_0"};

static void kv_stores(void **state)
{
    for (int trial = 0; trial < 90; trial++)
        for (int type = 0; type < 3; type++)
            for (int i = 0; i < tiers; i++) {
                if (i == 0) draw_mask();
                int d = odd_size(150), slot = random_below(64);
                guard x = guard_open((size_t)d * 4, 4);
                make_inputs(x.p, d, trial % INPUTS);
                if (trial % 9 == 0) ((float *)x.p)[0] = 70000;
                for (int v = 0; v < 2; v++) {
                    size_t bytes = v ? nm_kv_v_bytes(type, d) : nm_kv_k_bytes(type, d);
                    guard want = guard_open(bytes, 64), got = guard_open(bytes, 64);
                    (v ? reference.kv_store_v : reference.kv_store_k)[type](want.p, d, slot, x.p);
                    (v ? tier[i].k.kv_store_v : tier[i].k.kv_store_k)[type](got.p, d, slot, x.p);
                    if (trial % INPUTS != BROKEN) assert_memory_equal(want.p, got.p, bytes);
                    guard_close(&want);
                    guard_close(&got);
                }
                guard_close(&x);
            }
}

typedef struct attention_case {
    int d_k, d_v, queries, ldo;
    uint8_t first[NM_QUERIES], last[NM_QUERIES];
    guard k, v, q, o, m, l;
    const float *query[NM_QUERIES];
} attention_case;

static attention_case make_attention(nm_kv_type type, int d_k, int d_v, int queries, inputs kind)
{
    attention_case c = {.d_k = d_k, .d_v = d_v, .queries = queries, .ldo = d_v + random_below(3)};
    c.k = guard_open(nm_kv_k_bytes(type, d_k), 64);
    c.v = guard_open(nm_kv_v_bytes(type, d_v), 64);
    c.q = guard_open((size_t)(queries * d_k) * 4, 4);
    make_inputs(c.q.p, queries * d_k, kind);
    int style = random_below(4), from = random_below(64), to = from + random_below(65 - from);
    for (int j = 0; j < 64; j++) {
        float row[1024];
        make_inputs(row, d_k, kind == BROKEN && j != 5 ? GAUSS : kind);
        reference.kv_store_k[type](c.k.p, d_k, j, row);
        make_inputs(row, d_v, kind == BROKEN && j != 6 ? GAUSS : kind);
        reference.kv_store_v[type](c.v.p, d_v, j, row);
    }
    for (int i = 0; i < queries; i++) {
        c.query[i] = (const float *)c.q.p + i * d_k;
        c.first[i] = (uint8_t)(style == 0 ? 0 : style == 1 ? from : style == 2 ? random_below(64) : 0);
        c.last[i] = (uint8_t)(style == 0 ? 64 : style == 1 ? to : style == 2 ? c.first[i] + random_below(65 - c.first[i]) : 1 + i % 64);
    }
    return c;
}

static void free_attention(attention_case *c)
{
    guard_close(&c->k);
    guard_close(&c->v);
    guard_close(&c->q);
}

/* Runs a page onto a running state that is empty for every third query. */
static void run_attention(void (*kernel)(const nm_attention_job *), attention_case *c, float cap, guard *m, guard *l, guard *o)
{
    *m = guard_open((size_t)c->queries * 4, 4);
    *l = guard_open((size_t)c->queries * 4, 4);
    *o = guard_open(((size_t)(c->queries - 1) * (size_t)c->ldo + (size_t)c->d_v) * 4, 4);
    guard scratch = guard_open(nm_attention_scratch(c->d_k, c->d_v), 64);
    for (int i = 0; i < c->queries; i++) {
        ((float *)m->p)[i] = i % 3 == 0 ? -INFINITY : (float)(i % 5) - 2;
        ((float *)l->p)[i] = i % 3 == 0 ? 0 : 1.5f;
        for (int d = 0; d < c->d_v; d++) ((float *)o->p)[i * c->ldo + d] = (float)(d % 7) - 3;
    }
    nm_attention_job job = {.k = c->k.p, .v = c->v.p, .d_k = c->d_k, .d_v = c->d_v, .queries = c->queries, .q = c->query, .first = c->first,
                            .last = c->last, .scale = 1 / sqrtf((float)c->d_k), .cap = cap, .m = m->p, .l = l->p, .o = o->p,
                            .ldo = (size_t)c->ldo, .scratch = scratch.p};
    kernel(&job);
    guard_close(&scratch);
}

static void attention_pages(void **state)
{
    static const int ds[] = {64, 128, 16, 32, 80, 96, 256, 40, 10, 1};
    for (int trial = 0; trial < (SANITIZED ? 20 : 90); trial++)
        for (int type = 0; type < 3; type++) {
            draw_mask();
            int d_k = trial % 3 ? ds[trial % 10] : odd_size(300), d_v = random_below(4) ? d_k : odd_size(300), queries = trial % 3 ? 1 + random_below(14) : odd_size(NM_QUERIES);
            inputs kind = trial % 2 ? GAUSS : trial / 2 % INPUTS;
            attention_case c = make_attention(type, d_k, d_v, queries, kind);
            float cap = trial % 4 == 3 ? 2.0f : 0;
            guard m[2], l[2], o[2];
            run_attention(reference.attention[type], &c, cap, &m[0], &l[0], &o[0]);
            for (int i = 0; i < tiers; i++) {
                run_attention(tier[i].k.attention[type], &c, cap, &m[1], &l[1], &o[1]);
                expect_same((float *)m[0].p, (float *)m[1].p, queries, "%s attention %s m, d %d queries %d inputs %d", tier[i].name, kv_name[type], d_k, queries, kind);
                expect_same((float *)l[0].p, (float *)l[1].p, queries, "%s attention %s l, d %d queries %d inputs %d", tier[i].name, kv_name[type], d_k,
                            queries, kind);
                expect_same((float *)o[0].p, (float *)o[1].p, (queries - 1) * c.ldo + d_v, "%s attention %s o, d_v %d ldo %d queries %d inputs %d", tier[i].name,
                            kv_name[type], d_v, c.ldo, queries, kind);
                guard_close(&m[1]);
                guard_close(&l[1]);
                guard_close(&o[1]);
            }
            guard_close(&m[0]);
            guard_close(&l[0]);
            guard_close(&o[0]);
            free_attention(&c);
        }
}

/* States of any kind, empty ones and NaN among them. */
static void attention_merges(void **state)
{
    static const float sums[] = {-INFINITY, -3, -0.0f, 0, 2, 2.5f, 90, NAN};
    for (int trial = 0; trial < 400; trial++)
        for (int i = 0; i < tiers; i++) {
            int d = 1 + random_below(150);
            float m = sums[trial % 8], l = trial % 8 == 0 && trial % 3 ? 0 : random_float(1) + 2, m_b = sums[trial / 8 % 8], l_b = trial % 5 ? random_float(1) + 2 : 0;
            float ms[2] = {m, m}, ls[2] = {l, l};
            guard b = guard_open((size_t)d * 4, 4), o[2];
            fill_random(b.p, d, 3);
            for (int j = 0; j < 2; j++) {
                o[j] = guard_open((size_t)d * 4, 4);
                for (int k = 0; k < d; k++) ((float *)o[j].p)[k] = (float)(k % 7) - 3;
                (j ? tier[i].k.attention_merge : reference.attention_merge)(ms + j, ls + j, o[j].p, m_b, l_b, b.p, d);
            }
            expect_same(ms, ms + 1, 1, "%s merge m", tier[i].name);
            expect_same(ls, ls + 1, 1, "%s merge l", tier[i].name);
            expect_same((float *)o[0].p, (float *)o[1].p, d, "%s merge o, d %d", tier[i].name, d);
            guard_close(&b);
            for (int j = 0; j < 2; j++) guard_close(&o[j]);
        }
}

/* Of numbers that are not positive v_exp has a shorter form; all 2^31 of them were compared once. */
static void exp_below_is_exp(void **state)
{
    for (int64_t bits = 0x80000000; bits <= 0xffffffff; bits += SANITIZED ? 1000003 : 40009) {
        float x = v16_float((uint32_t)bits), want = v_exp(v_set(x)).f[0], got = v_exp_below(v_set(x)).f[0];
        expect_same(&want, &got, 1, "e^%a", (double)x);
    }
    assert_true(v_exp_below(v_set(0)).f[0] == 1 && v_exp_below(v_set(-INFINITY)).f[0] == 0);
}

/* Softmax attention over two pages in double: what the chain of blocks must come to. */
static void attention_is_softmax(void **state)
{
    enum { D = 64, N = 128 };
    static float k[N][D], v[N][D], q[D], o[D];
    double p[N], sum = 0, most = -1e9;
    fill_random(q, D, 1);
    guard kp[2], vp[2];
    for (int b = 0; b < 2; b++) {
        kp[b] = guard_open(nm_kv_k_bytes(NM_KV_F32, D), 64);
        vp[b] = guard_open(nm_kv_v_bytes(NM_KV_F32, D), 64);
    }
    for (int j = 0; j < N; j++) {
        fill_random(k[j], D, 2);
        fill_random(v[j], D, 1);
        reference.kv_store_k[NM_KV_F32](kp[j / 64].p, D, j % 64, k[j]);
        reference.kv_store_v[NM_KV_F32](vp[j / 64].p, D, j % 64, v[j]);
        p[j] = 0;
        for (int d = 0; d < D; d++) p[j] += (double)q[d] * k[j][d];
        p[j] /= 8;
        if (p[j] > most) most = p[j];
    }
    for (int j = 0; j < N; j++) sum += p[j] = exp(p[j] - most);
    float m = -INFINITY, l = 0;
    const float *query[1] = {q};
    uint8_t first[1] = {0}, last[1] = {64};
    void *scratch = aligned_alloc(64, nm_attention_scratch(D, D));
    for (int b = 0; b < 2; b++) {
        nm_attention_job job = {.k = kp[b].p, .v = vp[b].p, .d_k = D, .d_v = D, .queries = 1, .q = query, .first = first, .last = last,
                                .scale = 0.125f, .m = &m, .l = &l, .o = o, .ldo = D, .scratch = scratch};
        reference.attention[NM_KV_F32](&job);
        guard_close(&kp[b]);
        guard_close(&vp[b]);
    }
    free(scratch);
    for (int d = 0; d < D; d++) {
        double want = 0;
        for (int j = 0; j < N; j++) want += p[j] / sum * v[j][d];
        assert_true(fabs(want - o[d] / l) < 1e-6);
    }
}

/* ---- Elementwise ----------------------------------------------------------------------------------------------------------------------------------------- */

/* Values where functions change their ways, and everything between. */
static float wide_float(void)
{
    static const float special[] = {0, -0.0f, INFINITY, -INFINITY, NAN, 1e-45f, -1e-39f, FLT_MAX, -FLT_MAX, 0.65f, -0.65f, 1, -1, 88.72f, 88.8f,
                                    -86.9f, -86.90001f, -87.4f, -104, 0.34657359f, 4.1f, 9.01f};
    switch (random_below(6)) {
    case 0: return special[random_below(sizeof special / sizeof *special)];
    case 1: return random_float(100);
    case 2: return random_float(1e-3f);
    case 3: {
        uint32_t bits = (uint32_t)random_u64();
        float f;
        memcpy(&f, &bits, 4);
        return f;
    }
    default: return random_float(6);
    }
}

static void elementwise(void **state)
{
    for (int trial = 0; trial < (SANITIZED ? 60 : 400); trial++) {
        draw_mask();
        int n = odd_size(130);
        guard in[3], out[2];
        for (int i = 0; i < 3; i++) {
            in[i] = guard_open((size_t)n * 4, 4);
            for (int j = 0; j < n; j++) ((float *)in[i].p)[j] = wide_float();
        }
        if (trial % 3) for (int i = 0; i < 3; i++) fill_random(in[i].p, n, 3);
        const float *a = in[0].p, *b = in[1].p, *c = in[2].p;
        for (int t = 0; t < tiers; t++)
            for (int f = 0; f < 12; f++) {
                static const char *const names[] = {"rms_norm", "rms_norm without weight", "layer_norm", "layer_norm plain", "add_scaled", "scale", "mul",
                                                    "silu", "gelu_tanh", "gelu_erf", "softcap", "add_scaled in place"};
                for (int j = 0; j < 2; j++) {
                    const nm_kernels *k = j ? &tier[t].k : &reference;
                    out[j] = guard_open((size_t)n * 4, 4);
                    float *y = out[j].p;
                    switch (f) {
                    case 0: k->rms_norm(a, b, 1e-5f, n, y); break;
                    case 1: k->rms_norm(a, NULL, 1e-6f, n, y); break;
                    case 2: k->layer_norm(a, b, c, 1e-5f, n, y); break;
                    case 3: k->layer_norm(a, NULL, NULL, 1e-5f, n, y); break;
                    case 4: k->add_scaled(a, b, 0.37f, n, y); break;
                    case 5: k->scale(a, 0.37f, n, y); break;
                    case 6: k->mul(a, b, n, y); break;
                    case 7: k->silu(a, n, y); break;
                    case 8: k->gelu_tanh(a, n, y); break;
                    case 9: k->gelu_erf(a, n, y); break;
                    case 10: k->softcap(a, 30, n, y); break;
                    case 11: memcpy(y, a, (size_t)n * 4); k->add_scaled(y, b, -1.5f, n, y); break;
                    }
                }
                expect_same((float *)out[0].p, (float *)out[1].p, n, "%s %s n %d", tier[t].name, names[f], n);
                guard_close(&out[0]);
                guard_close(&out[1]);
            }
        for (int i = 0; i < 3; i++) guard_close(&in[i]);
    }
}

static void rotations(void **state)
{
    for (int trial = 0; trial < 200; trial++) {
        draw_mask();
        int pairs = odd_size(70);
        guard x[2], cosine = guard_open((size_t)pairs * 4, 4), sine = guard_open((size_t)pairs * 4, 4);
        fill_random(cosine.p, pairs, 1);
        fill_random(sine.p, pairs, 1);
        for (int i = 0; i < tiers; i++)
            for (int neox = 0; neox < 2; neox++) {
                for (int j = 0; j < 2; j++) x[j] = guard_open((size_t)pairs * 8, 4);
                fill_random(x[0].p, 2 * pairs, 2);
                memcpy(x[1].p, x[0].p, (size_t)pairs * 8);
                float before[2] = {((float *)x[0].p)[0], ((float *)x[0].p)[neox ? pairs : 1]};
                reference.rope(x[0].p, cosine.p, sine.p, 2 * pairs, neox);
                tier[i].k.rope(x[1].p, cosine.p, sine.p, 2 * pairs, neox);
                expect_same((float *)x[0].p, (float *)x[1].p, 2 * pairs, "%s rope neox %d pairs %d", tier[i].name, neox, pairs);
                float c = *(float *)cosine.p, s = *(float *)sine.p;
                assert_true(fabsf(((float *)x[0].p)[0] - (before[0] * c - before[1] * s)) < 1e-5f);
                assert_true(fabsf(((float *)x[0].p)[neox ? pairs : 1] - (before[1] * c + before[0] * s)) < 1e-5f);
                guard_close(&x[0]);
                guard_close(&x[1]);
            }
        guard_close(&cosine);
        guard_close(&sine);
    }
}

static double ulps(float got, double want)
{
    double size = fabs(want) < FLT_MIN ? FLT_MIN : fabs(want);
    return fabs(got - want) / (ldexp(1, (int)floor(log2(size)) - 23));
}

/* Against libm in double. Norms and activations are checked through the reference, which the tiers equal. */
static void accuracy(void **state)
{
    enum { N = 4096 };
    static float x[N], silu[N], tangent[N], gelu[N], erf_gelu[N];
    double worst_silu = 0, worst_tanh = 0, worst_gelu = 0, worst_erf = 0;
    for (int round = 0; round < (SANITIZED ? 8 : 128); round++) {
        fill_random(x, N, round % 2 ? 20 : 1);
        reference.silu(x, N, silu);
        reference.softcap(x, 1, N, tangent);
        reference.gelu_tanh(x, N, gelu);
        reference.gelu_erf(x, N, erf_gelu);
        for (int i = 0; i < N; i++) {
            double v = x[i], of_x = fabs(v) + 1e-9;
            worst_silu = fmax(worst_silu, ulps(silu[i], v / (1 + exp(-v))));
            worst_tanh = fmax(worst_tanh, ulps(tangent[i], tanh(v)));
            worst_gelu = fmax(worst_gelu, fabs(gelu[i] - 0.5 * v * (1 + tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)))) / of_x);
            worst_erf = fmax(worst_erf, fabs(erf_gelu[i] - 0.5 * v * (1 + erf(v / sqrt(2)))) / of_x);
        }
    }
    print_message("silu %.2f ulp, tanh %.2f ulp; gelu_tanh %.1e, gelu_erf %.1e of |x|\n", worst_silu, worst_tanh, worst_gelu, worst_erf);
    assert_true(worst_silu < 4 && worst_tanh < 2.5 && worst_gelu < 3e-7 && worst_erf < 2e-7);
}

static void norms_are_norms(void **state)
{
    float x[777], w[777], b[777], y[777];
    for (int n = 1; n <= 777; n += 97) {
        fill_random(x, n, 3);
        fill_random(w, n, 1);
        fill_random(b, n, 1);
        double squares = 0, mean = 0, variance = 0;
        for (int i = 0; i < n; i++) { squares += (double)x[i] * x[i]; mean += x[i]; }
        mean /= n;
        for (int i = 0; i < n; i++) variance += (x[i] - mean) * (x[i] - mean);
        reference.rms_norm(x, w, 1e-5f, n, y);
        for (int i = 0; i < n; i++) assert_true(fabs(y[i] - x[i] / sqrt(squares / n + 1e-5) * w[i]) < 1e-5);
        reference.layer_norm(x, w, b, 1e-5f, n, y);
        for (int i = 0; i < n; i++) assert_true(fabs(y[i] - ((x[i] - mean) / sqrt(variance / n + 1e-5) * w[i] + b[i])) < 1e-4);
    }
}

#include "back.h"
#include "bench.h"
#include "count.h"

#define DRAWN(test) cmocka_unit_test_setup(test, drawn_anew)
#define ALIKE(test) cmocka_unit_test_setup(test, drawn_alike)

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--bench")) return bench(argc > 2 ? argv[2] : "", argc > 3 ? atoi(argv[3]) : 0, argc > 4 ? argv[4] : "");
    if (argc > 1 && !strcmp(argv[1], "--count")) return count();
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        DRAWN(masks), DRAWN(every_mask), DRAWN(packing_keeps_every_value), DRAWN(reference_is_the_definition), DRAWN(linear_int8), DRAWN(linear_fp32), DRAWN(linear_bf16),
        DRAWN(saturation), DRAWN(bf16_is_the_definition), DRAWN(rows_do_not_meet), DRAWN(quantising), DRAWN(kv_stores), DRAWN(attention_pages), DRAWN(attention_merges),
        DRAWN(exp_below_is_exp), ALIKE(attention_is_softmax), DRAWN(elementwise), DRAWN(rotations), ALIKE(accuracy), ALIKE(norms_are_norms), DRAWN(products), DRAWN(roundings), DRAWN(back_in_bf16),
        DRAWN(rows_of_panels), DRAWN(elementwise_back), ALIKE(slopes), ALIKE(norm_slopes),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
