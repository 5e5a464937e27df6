/* Template: linear maps in fp32 on v16: float weights always, every type under compute f32. Included once per tier after a v16 backend and
 * kernel/layout.h. Parameters:
 *   F32_ROWS, F32_PANELS     a register tile is F32_ROWS activation rows by F32_PANELS panels of 16 outputs
 *   F32_NARROW               rows of the tile for a panel that is left alone (the whole of a LoRA's inner map), which has registers to spare
 *   unpack_chunk(w, p, b0, blocks, u)      the tier's unpacker to the U form; u's offset is chunk_offset(w) of q8_rows.h
 * A chunk of K of a few panels becomes [k][16] fp32 in scratch once, then all rows pass over it; each output's accumulator waits in scratch
 * between chunks. w = (scale * q) + min in two roundings, then one chain of fma in ascending K: kernel.h. */
#ifndef NM_X86_LINEAR_F32_H
#define NM_X86_LINEAR_F32_H

#include "kernel/x86/q8_rows.h"

enum { F32_CHUNK = 256 };       /* inputs: 16 KB of fp32 a panel */

/* rows x panels accumulators continue their chains over n inputs. f: [panels] -> [n][16]; acc: [panel][row][16], panels acc_stride apart. */
V16_INLINE void f32_tile(int rows, int panels, const float *const *f, int64_t n, const float *x, size_t ldx, float *acc, size_t acc_stride)
{
    v16 a[F32_NARROW][F32_PANELS];
    _Pragma("GCC unroll 16") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++) a[r][p] = v_load(acc + (size_t)p * acc_stride + 16 * r);
    for (int64_t k = 0; k < n; k++) {
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

/* Inputs [k0, k0 + n) of panel p to fp32 [n][16]; gives where they are: float weights need no copy. */
static const float *f32_panel(const nm_panels *w, int64_t p, int64_t k0, int64_t n, float *out, const nm_u *u)
{
    if (!w->type->group) {
        const uint8_t *from = w->data ? w->data + (size_t)p * w->panel_bytes + (size_t)(k0 * NM_PANEL * w->type->bytes) : NULL;
        if (from && w->type->id == NM_F32) return (const float *)from;
        if (!from) nm_unpack_plain(w, p, k0, n, out);
        else for (int64_t i = 0; i < n; i++)
            v_store(out + 16 * i, w->type->id == NM_F16 ? v_load_half((const uint16_t *)from + 16 * i) : v_load_bf16((const uint16_t *)from + 16 * i));
        return out;
    }
    int offset = chunk_offset(w), groups = NM_BLOCK / w->type->group, steps = NM_STEPS / groups;
    bool has_min = w->type->has_min;
    unpack_chunk(w, p, k0 / NM_BLOCK, n / NM_BLOCK, u);
    for (int64_t g = 0; g < n / w->type->group; g++) {
        v16 scale = v_load(u->scale + 16 * g), min = has_min ? v_load(u->min + 16 * g) : scale;
        for (int v = 0; v < steps; v++)
            for (int i = 0; i < 4; i++) {
                v16 value = v_mul(scale, v_line_byte(u->q + (g * steps + v) * NM_LINE, i, offset));
                v_store(out + ((g * steps + v) * 4 + i) * 16, has_min ? v_add(value, min) : value);
            }
    }
    return out;
}

static void f32_rows(const float *const *f, int64_t n, const nm_linear_job *job, int64_t k0, float *acc, bool alone)
{
    static const struct { f32_tile_fn run; int64_t rows; } tiles[2][3] = {
        {{f32_tile_full, F32_ROWS}, {f32_tile_3, 3}, {f32_tile_1, 1}}, {{f32_alone_full, F32_NARROW}, {f32_alone_3, 3}, {f32_alone_1, 1}}};
    size_t stride = (size_t)job->rows * 16;
    int64_t t = 0;
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

V16_INLINE void f32_direct(nm_dtype id, int rows, const uint8_t *panel, int64_t n, const float *x, size_t ldx, float *out)
{
    const int bytes = id == NM_F32 ? 64 : 32;       /* of one input's 16 weights */
    v16 a[F32_FEW];
    _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) a[r] = v_set(0.0f);
    for (int64_t k = 0; k < n; k++) {
        if (bytes == 64 || k % 2 == 0) prefetch_line(panel + k * bytes);
        v16 w = load_weight(id, panel, k);
        _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) a[r] = v_fma(w, v_set(x[(size_t)r * ldx + (size_t)k]), a[r]);
    }
    _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) v_store(out + 16 * r, a[r]);
}

typedef void (*f32_direct_fn)(const uint8_t *panel, int64_t n, const float *x, size_t ldx, float *out);
#define F32_DIRECT(type, rows) \
    static void f32_direct_##type##_##rows(const uint8_t *panel, int64_t n, const float *x, size_t ldx, float *out) \
    { f32_direct(NM_##type, rows, panel, n, x, ldx, out); }
#define F32_DIRECT_ROWS(type) F32_DIRECT(type, 1) F32_DIRECT(type, 2) F32_DIRECT(type, 3) F32_DIRECT(type, 4)
F32_DIRECT_ROWS(F32) F32_DIRECT_ROWS(F16) F32_DIRECT_ROWS(BF16)
#define F32_DIRECT_ENTRY(type) {f32_direct_##type##_1, f32_direct_##type##_2, f32_direct_##type##_3, f32_direct_##type##_4}
static const f32_direct_fn f32_few_f32[F32_FEW] = F32_DIRECT_ENTRY(F32), f32_few_f16[F32_FEW] = F32_DIRECT_ENTRY(F16),
                           f32_few_bf16[F32_FEW] = F32_DIRECT_ENTRY(BF16);

static void linear_few(const nm_linear_job *job)
{
    const nm_panels *w = job->w;
    const f32_direct_fn *few = w->type->id == NM_F32 ? f32_few_f32 : w->type->id == NM_F16 ? f32_few_f16 : f32_few_bf16;
    for (int64_t p = job->p0; p < job->p1; p++) {
        float acc[F32_FEW * NM_PANEL];
        few[job->rows - 1](w->data + (size_t)p * w->panel_bytes, w->k, job->x, job->ldx, acc);
        store_outputs(job, p, acc, job->rows);
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
    float *values = job->scratch;                                   /* [F32_PANELS][F32_CHUNK][16] */
    float *acc = values + F32_PANELS * F32_CHUNK * 16;              /* [F32_PANELS][rows][16] */
    nm_u u;
    u.scale = acc + (size_t)F32_PANELS * (size_t)job->rows * 16;
    u.min = u.scale + F32_CHUNK / 16 * 16;
    u.q = (uint8_t *)(u.min + F32_CHUNK / 16 * 16);
    for (int64_t p = job->p0, count; p < job->p1; p += count) {
        count = job->p1 - p < F32_PANELS ? 1 : F32_PANELS;
        memset(acc, 0, (size_t)count * (size_t)job->rows * 16 * sizeof *acc);
        for (int64_t k = 0; k < w->k; k += F32_CHUNK) {
            int64_t n = w->k - k < F32_CHUNK ? w->k - k : F32_CHUNK;
            const float *f[F32_PANELS];
            for (int i = 0; i < count; i++) f[i] = f32_panel(w, p + i, k, n, values + i * F32_CHUNK * 16, &u);
            f32_rows(f, n, job, k, acc, count == 1);
        }
        for (int i = 0; i < count; i++) store_outputs(job, p + i, acc + (size_t)i * (size_t)job->rows * 16, job->rows);
    }
}

#endif
