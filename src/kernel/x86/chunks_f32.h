/* Template: the weights of a job as fp32, some panels and a chunk of K at a time, for kernels whose tiles multiply floats. Included after a v16 backend.
 * Parameters:
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

#endif
