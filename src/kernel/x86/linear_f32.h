/* Template: linear maps in fp32 on v16: float weights always, every type under compute f32. Included once per tier. Parameters: those of chunks_f32.h, and
 *   F32_ROWS, F32_NARROW     rows of a register tile of F32_PANELS panels; and of one panel that is left alone (the whole of a LoRA's inner map), which has
 *                            registers to spare
 *   F32_PASS                 inputs, at most, of a pass of some panels over the rows: what a tile reads is to stay in the first-level cache. A multiple of 64, 256
 *                            or more
 * One chain of fma in ascending K: kernel.h. */
#ifndef NM_X86_LINEAR_F32_H
#define NM_X86_LINEAR_F32_H

#include "kernel/x86/chunks_f32.h"

_Static_assert((int)F32_PASS % 64 == 0 && (int)F32_PASS >= 256 && (int)F32_PASS <= (int)NM_CHUNK && (int)F32_PANELS <= (int)NM_TILE_PANELS, "nm_linear_scratch has room for it");

/* A pass of a group of panels over the rows: inputs [k0, k0 + n). Accumulators wait in acc ([panel][row][16]) from one pass for the next: the first begins with
 * zeros, the last ends in y. */
typedef struct f32_pass {
    const nm_linear_job *job;
    const float *f[F32_PANELS]; /* [n][16] each */
    int64_t p, k0, n;           /* p: the first panel */
    float *acc;
} f32_pass;

/* rows x panels of y from row t on. lanes: outputs of the last panel. */
V16_INLINE void f32_store(int rows, int panels, int lanes, const f32_pass *s, int64_t t, v16 (*a)[F32_PANELS])
{
    const nm_linear_job *job = s->job;
    float *y = job->y + (size_t)t * job->ldy + (size_t)s->p * NM_PANEL;
    for (int p = 0; p < panels; p++, y += NM_PANEL) {
        int count = p + 1 < panels ? NM_PANEL : lanes;
        v16 scale = v_set(job->add), bias = job->bias ? v_load_n(job->bias + (s->p + p) * NM_PANEL, count) : scale;
        for (int r = 0; r < rows; r++) {
            float *to = y + (size_t)r * job->ldy;
            v16 x = a[r][p];
            if (job->add != 0) x = v_fma(scale, x, v_load_n(to, count));
            else if (job->bias) x = v_add(x, bias);
            if (count == NM_PANEL) v_store(to, x);
            else v_store_n(to, x, count);
        }
    }
}

/* rows x panels accumulators, from row t on, continue their chains. */
V16_INLINE void f32_tile(int rows, int panels, const f32_pass *s, int64_t t)
{
    const nm_linear_job *job = s->job;
    const float *x = job->x + s->k0 + (size_t)t * job->ldx;
    const size_t ldx = job->ldx, stride = (size_t)job->rows * NM_PANEL;
    float *acc = s->acc + NM_PANEL * t;
    v16 a[F32_NARROW][F32_PANELS];
    if (s->k0 == 0) {
        _Pragma("GCC unroll 16") for (int r = 0; r < rows; r++)
            _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++) a[r][p] = v_set(0.0f);
    } else {
        _Pragma("GCC unroll 16") for (int r = 0; r < rows; r++)
            _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++) a[r][p] = v_load(acc + (size_t)p * stride + NM_PANEL * r);
    }
    _Pragma("GCC unroll 4") for (int64_t k = 0; k < s->n; k++) {
        v16 w[F32_PANELS];
        _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++) w[p] = v_load(s->f[p] + k * NM_PANEL);
        _Pragma("GCC unroll 16") for (int r = 0; r < rows; r++) {
            v16 b = v_set(x[(size_t)r * ldx + (size_t)k]);
            _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++) a[r][p] = v_fma(w[p], b, a[r][p]);
        }
    }
    if (s->k0 + s->n == job->w->k) {
        v16 out[F32_NARROW][F32_PANELS];
        int64_t left = job->w->n - (s->p + panels - 1) * NM_PANEL;
        _Pragma("GCC unroll 16") for (int r = 0; r < rows; r++)
            _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++) out[r][p] = a[r][p];
        f32_store(rows, panels, left < NM_PANEL ? (int)left : NM_PANEL, s, t, out);
        return;
    }
    _Pragma("GCC unroll 16") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++) v_store(acc + (size_t)p * stride + NM_PANEL * r, a[r][p]);
}

typedef void (*f32_tile_fn)(const f32_pass *s, int64_t t);
#define F32_TILE(name, rows, panels) static void name##_##rows(const f32_pass *s, int64_t t) { f32_tile(rows, panels, s, t); }
#define F32_TILES(name, panels) \
    F32_TILE(name, 1, panels) F32_TILE(name, 2, panels) F32_TILE(name, 3, panels) F32_TILE(name, 4, panels) F32_TILE(name, 5, panels) F32_TILE(name, 6, panels)
F32_TILES(f32_wide, F32_PANELS)
static const f32_tile_fn f32_wide[] = {NULL, f32_wide_1, f32_wide_2, f32_wide_3, f32_wide_4, f32_wide_5, f32_wide_6};
#if F32_NARROW > 6
F32_TILES(f32_alone, 1)
F32_TILE(f32_alone, 12, 1)
static const f32_tile_fn f32_alone[] = {NULL, f32_alone_1, f32_alone_2, f32_alone_3, f32_alone_4, f32_alone_5, f32_alone_6, [F32_NARROW] = f32_alone_12};
#else
#define f32_alone f32_wide
#endif

/* The last rows are shared by two tiles of F32_ROWS, since a low one's chains wait for each other. */
static void f32_rows(const f32_pass *s, bool alone)
{
    const f32_tile_fn *tile = alone ? f32_alone : f32_wide;
    const int64_t rows = s->job->rows, most = alone ? F32_NARROW : F32_ROWS;
    for (int64_t t = 0, n; t < rows; t += n) {
        int64_t left = rows - t;
        n = left >= 2 * F32_ROWS ? (left >= most ? most : F32_ROWS) : left > F32_ROWS ? (left + 1) / 2 : left;
        tile[n](s, t);
    }
}

/* ---- A few rows of float weights, straight from the packed panel: bound by memory ---- */

enum { F32_FEW = 4 };

V16_INLINE v16 load_weight(nm_dtype id, const uint8_t *from, int64_t k)
{
    if (id == NM_F32) return v_load((const float *)from + 16 * k);
    return id == NM_F16 ? v_load_half((const uint16_t *)from + 16 * k) : v_load_bf16((const uint16_t *)from + 16 * k);
}

/* One row, some panels of a short K (a LoRA's outer map) side by side, whose chains would else wait for themselves; or some rows of one panel. */
V16_INLINE void f32_direct(nm_dtype id, int rows, int panels, const uint8_t *panel, size_t panel_bytes, int64_t n, const float *x, size_t ldx, float *out)
{
    const int bytes = id == NM_F32 ? 64 : 32;       /* of one input's 16 weights */
    v16 a[F32_FEW];
    _Pragma("GCC unroll 4") for (int i = 0; i < F32_FEW; i++) a[i] = v_set(0.0f);
    for (int64_t k = 0; k < n; k++) {
        if (panels == 1 && (bytes == 64 || k % 2 == 0)) prefetch_line(panel + k * bytes);
        v16 w = load_weight(id, panel, k);
        _Pragma("GCC unroll 4") for (int i = 0; i < rows * panels; i++)
            a[i] = v_fma(panels == 1 ? w : load_weight(id, panel + (size_t)i * panel_bytes, k), v_set(x[(panels == 1 ? (size_t)i * ldx : 0) + (size_t)k]), a[i]);
    }
    _Pragma("GCC unroll 4") for (int i = 0; i < rows * panels; i++) v_store(out + 16 * i, a[i]);
}

enum { F32_SHORT = 64 };        /* inputs up to which panels lie so close that the processor's own prefetching serves */

typedef void (*f32_direct_fn)(const uint8_t *panel, size_t panel_bytes, int64_t n, const float *x, size_t ldx, float *out);
#define F32_DIRECT(type, rows, panels) \
    static void f32_direct_##type##_##rows##_##panels(const uint8_t *panel, size_t panel_bytes, int64_t n, const float *x, size_t ldx, float *out) \
    { f32_direct(NM_##type, rows, panels, panel, panel_bytes, n, x, ldx, out); }
#define F32_DIRECT_ROWS(type) F32_DIRECT(type, 1, 1) F32_DIRECT(type, 2, 1) F32_DIRECT(type, 3, 1) F32_DIRECT(type, 4, 1) F32_DIRECT(type, 1, 4)
F32_DIRECT_ROWS(F32) F32_DIRECT_ROWS(F16) F32_DIRECT_ROWS(BF16)
#define F32_DIRECT_ENTRY(type) {f32_direct_##type##_1_4, f32_direct_##type##_1_1, f32_direct_##type##_2_1, f32_direct_##type##_3_1, f32_direct_##type##_4_1}
static const f32_direct_fn f32_few_f32[1 + F32_FEW] = F32_DIRECT_ENTRY(F32), f32_few_f16[1 + F32_FEW] = F32_DIRECT_ENTRY(F16),
                           f32_few_bf16[1 + F32_FEW] = F32_DIRECT_ENTRY(BF16);

static void linear_few(const nm_linear_job *job)
{
    const nm_panels *w = job->w;
    const f32_direct_fn *few = w->type->id == NM_F32 ? f32_few_f32 : w->type->id == NM_F16 ? f32_few_f16 : f32_few_bf16;
    bool side_by_side = job->rows == 1 && w->k <= F32_SHORT;
    for (int64_t p = job->p0, count; p < job->p1; p += count) {
        float acc[F32_FEW * NM_PANEL];
        count = side_by_side && job->p1 - p >= F32_FEW ? F32_FEW : 1;
        few[count > 1 ? 0 : job->rows](w->data + (size_t)p * w->panel_bytes, w->panel_bytes, w->k, job->x, job->ldx, acc);
        for (int i = 0; i < count; i++) finish_outputs(job, p + i, acc + (size_t)i * NM_PANEL, job->rows);
    }
}

/* ---- Everything else, by tiles ---- */

/* Inputs of a pass: equal parts of K, in whole superblocks and blocks. */
static int64_t f32_inputs(const nm_panels *w)
{
    int layout = nm_layout_of(w->type);
    int64_t super = layout < 0 ? 64 : nm_layout_table[layout].blocks * NM_BLOCK, unit = super > w->type->block ? super : w->type->block;
    int64_t passes = (w->k + F32_PASS - 1) / F32_PASS, n = ((w->k + passes - 1) / passes + unit - 1) / unit * unit;
    return n > F32_PASS ? F32_PASS / unit * unit : n;
}

static void linear_f32(const nm_linear_job *job)
{
    const nm_panels *w = job->w;
    if (w->data && !w->type->group && job->rows <= F32_FEW) {
        linear_few(job);
        return;
    }
    float *values = job->scratch;                                   /* [F32_PANELS][F32_PASS][16] */
    f32_pass s = {.job = job, .p = job->p0, .acc = values + F32_PANELS * F32_PASS * NM_PANEL};
    nm_u u;
    u.scale = s.acc + (size_t)F32_PANELS * (size_t)job->rows * NM_PANEL;
    u.min = u.scale + F32_PASS / 16 * NM_PANEL;
    u.q = (uint8_t *)(u.min + F32_PASS / 16 * NM_PANEL);
    const int64_t inputs = f32_inputs(w);
    for (int64_t count; s.p < job->p1; s.p += count) {
        count = job->p1 - s.p < F32_PANELS ? 1 : F32_PANELS;
        for (s.k0 = 0; s.k0 < w->k; s.k0 += s.n) {
            s.n = w->k - s.k0 < inputs ? w->k - s.k0 : inputs;
            for (int i = 0; i < count; i++) s.f[i] = f32_panel(w, s.p + i, s.k0, s.n, values + i * F32_PASS * NM_PANEL, &u);
            f32_rows(&s, count == 1);
        }
    }
}

#endif
