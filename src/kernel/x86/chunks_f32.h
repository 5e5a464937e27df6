/* Template: the weights of a job as fp32, some panels and a chunk of K at a time, for kernels whose tiles multiply floats. Included after a v16 backend.
 * Parameters:
 *   F32_PANELS     panels of 16 outputs that share one pass over the activations
 *   unpack_chunk(w, p, b0, blocks, u)      the tier's unpacker to the U form; u's offset is chunk_offset(w) of q8_rows.h
 * w = (scale * q) + min in two roundings. */
#ifndef NM_X86_CHUNKS_F32_H
#define NM_X86_CHUNKS_F32_H

#include "kernel/x86/q8_rows.h"

enum { F32_CHUNK = 256 };       /* inputs: 16 KB of fp32 a panel */

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

/* Finished accumulators [rows][16] of panel p to y, or added to it by the job's scale. */
static void finish_outputs(const nm_linear_job *job, int64_t p, const float *acc, int64_t rows)
{
    int64_t left = job->w->n - NM_PANEL * p;
    int lanes = left < NM_PANEL ? (int)left : NM_PANEL;
    if (job->add == 0) {
        store_outputs(job, p, acc, rows);
        return;
    }
    v16 scale = v_set(job->add);
    for (int64_t t = 0; t < rows; t++) {
        float *y = job->y + (size_t)t * job->ldy + (size_t)(NM_PANEL * p);
        v_store_n(y, v_fma(scale, v_load(acc + NM_PANEL * t), v_load_n(y, lanes)), lanes);
    }
}

/* All panels of a job: a chunk of F32_PANELS panels, or of one that is left, is unpacked once, then all rows pass over it, and each output's accumulator
 * waits in scratch for the next. rows(f, panels, n, job, k0, acc) continues the chains over inputs [k0, k0 + n). f: [panels] -> [n][16];
 * acc: [panels][row][16]. */
V16_INLINE void linear_chunks(const nm_linear_job *job, void *scratch,
                              void (*rows)(const float *const *f, int panels, int64_t n, const nm_linear_job *job, int64_t k0, float *acc))
{
    const nm_panels *w = job->w;
    float *values = scratch;                                        /* [F32_PANELS][F32_CHUNK][16] */
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
            rows(f, (int)count, n, job, k, acc);
        }
        for (int i = 0; i < count; i++) finish_outputs(job, p + i, acc + (size_t)i * (size_t)job->rows * 16, job->rows);
    }
}

#endif
