/* Template: linear maps in fp32 on v16: float weights always, every type under compute f32. Included once per tier. Parameters: those of chunks_f32.h, and
 *   F32_ROWS, F32_NARROW     rows of a register tile of F32_PANELS panels; and of one panel that is left alone (the whole of a LoRA's inner map), which has
 *                            registers to spare
 * One chain of fma in ascending K: kernel.h. */
#ifndef NM_X86_LINEAR_F32_H
#define NM_X86_LINEAR_F32_H

#include "kernel/x86/chunks_f32.h"

/* rows x panels accumulators continue their chains over n inputs. f: [panels] -> [n][16]; acc: [panel][row][16], panels acc_stride apart. */
V16_INLINE void f32_tile(int rows, int panels, const float *const *f, int64_t n, const float *x, size_t ldx, float *acc, size_t acc_stride)
{
    v16 a[F32_NARROW][F32_PANELS];
    _Pragma("GCC unroll 16") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++) a[r][p] = v_load(acc + (size_t)p * acc_stride + 16 * r);
    _Pragma("GCC unroll 4") for (int64_t k = 0; k < n; k++) {
        v16 w[F32_PANELS];
        _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++) w[p] = v_load(f[p] + k * 16);
        _Pragma("GCC unroll 16") for (int r = 0; r < rows; r++) {
            v16 b = v_set(x[(size_t)r * ldx + (size_t)k]);
            _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++) a[r][p] = v_fma(w[p], b, a[r][p]);
        }
    }
    _Pragma("GCC unroll 16") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++) v_store(acc + (size_t)p * acc_stride + 16 * r, a[r][p]);
}

#define F32_TILE(name, rows, panels) \
    static void name(const float *const *f, int64_t n, const float *x, size_t ldx, float *acc, size_t acc_stride) \
    { f32_tile(rows, panels, f, n, x, ldx, acc, acc_stride); }
F32_TILE(f32_tile_full, F32_ROWS, F32_PANELS)
F32_TILE(f32_tile_3, 3, F32_PANELS)
F32_TILE(f32_tile_1, 1, F32_PANELS)
F32_TILE(f32_alone_full, F32_NARROW, 1)
F32_TILE(f32_alone_3, 3, 1)
F32_TILE(f32_alone_1, 1, 1)
typedef void (*f32_tile_fn)(const float *const *f, int64_t n, const float *x, size_t ldx, float *acc, size_t acc_stride);

static void f32_rows(const float *const *f, int panels, int64_t n, const nm_linear_job *job, int64_t k0, float *acc)
{
    static const struct { f32_tile_fn run; int64_t rows; } tiles[2][3] = {
        {{f32_tile_full, F32_ROWS}, {f32_tile_3, 3}, {f32_tile_1, 1}}, {{f32_alone_full, F32_NARROW}, {f32_alone_3, 3}, {f32_alone_1, 1}}};
    size_t stride = (size_t)job->rows * 16;
    int64_t t = 0;
    bool alone = panels == 1;
    for (int i = 0; i < 3; i++)
        for (int64_t rows = tiles[alone][i].rows; t + rows <= job->rows; t += rows)
            tiles[alone][i].run(f, n, job->x + k0 + (size_t)t * job->ldx, job->ldx, acc + 16 * t, stride);
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

static void linear_f32(const nm_linear_job *job)
{
    const nm_panels *w = job->w;
    if (w->data && !w->type->group && job->rows <= F32_FEW) {
        linear_few(job);
        return;
    }
    linear_chunks(job, job->scratch, f32_rows);
}

#endif
