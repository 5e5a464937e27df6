/* Template: the order of work of an int8 linear map, the same on every tier: which rows go straight from packed panels, and how chunks of
 * unpacked panels meet tiles of rows. Included once per tier, at its end. The tier defines before:
 *   DIRECT_ROWS, DIRECT_TILE           at most so many rows read the packed panel directly; so many in one pass
 *   UNPACKED_BYTES                     bytes of a value in its U form
 *   direct_tiles[layout][rows - 1]     direct_fn for 1 .. DIRECT_TILE rows
 *   unpack_chunk(w, p, b0, blocks, u)
 *   q8_tiles(w, u, panels, blocks, x, rows, acc, stride)      all rows over one chunk of `panels` panels; acc: [panel][row][16]
 * Arithmetic: kernel.h. Stored values are unsigned, u = q + offset, so isum = sum(u * x) - offset * sum(x), exact in int32; the second
 * term is prepared per row and group (`start`) and is where the integer accumulators begin. */
#ifndef NM_X86_LINEAR_Q8_H
#define NM_X86_LINEAR_Q8_H

#include "kernel/x86/q8_rows.h"

/* A few rows: each panel is read once from memory, the later passes from the first-level cache. */
static void linear_direct(const nm_linear_job *job, const q8_rows *x, const direct_fn *direct)
{
    const nm_panels *w = job->w;
    for (int64_t p = job->p0; p < job->p1; p++) {
        float acc[DIRECT_ROWS * NM_PANEL] __attribute__((aligned(64)));
        for (int64_t t = 0; t < job->rows; t += DIRECT_TILE) {
            int64_t rows = job->rows - t < DIRECT_TILE ? job->rows - t : DIRECT_TILE;
            q8_rows from = rows_from(x, t, 0, 1);
            direct[rows - 1](w->data + (size_t)p * w->panel_bytes, w->k / NM_BLOCK, &from, acc + t * NM_PANEL);
        }
        store_outputs(job, p, acc, job->rows);
    }
}

/* Many rows: NM_TILE_PANELS panels at a time, a chunk of K unpacked once, all rows over it. acc: [panel][rows][16]. */
static void linear_tiles(const nm_linear_job *job, const q8_rows *x, uint8_t *scratch)
{
    const nm_panels *w = job->w;
    int groups = NM_BLOCK / w->type->group;
    int64_t blocks = w->k / NM_BLOCK;
    size_t acc_stride = (size_t)job->rows * NM_PANEL;
    nm_u u[NM_TILE_PANELS];
    for (int i = 0; i < NM_TILE_PANELS; i++) {
        u[i].q = scratch;
        u[i].scale = (float *)(scratch + NM_CHUNK * NM_PANEL * UNPACKED_BYTES);
        u[i].min = u[i].scale + NM_CHUNK / 16 * NM_PANEL;
        scratch = (uint8_t *)(u[i].min + NM_CHUNK / 16 * NM_PANEL);
    }
    float *acc = (float *)scratch;
    for (int64_t p = job->p0; p < job->p1; p += NM_TILE_PANELS) {
        int count = job->p1 - p < NM_TILE_PANELS ? (int)(job->p1 - p) : NM_TILE_PANELS;
        memset(acc, 0, (size_t)count * acc_stride * sizeof *acc);
        for (int64_t b = 0; b < blocks; b += NM_CHUNK_BLOCKS) {
            int64_t n = blocks - b < NM_CHUNK_BLOCKS ? blocks - b : NM_CHUNK_BLOCKS;
            for (int i = 0; i < count; i++) unpack_chunk(w, p + i, b, n, &u[i]);
            q8_rows from = rows_from(x, 0, b, groups);
            q8_tiles(w, u, count, n, &from, job->rows, acc, acc_stride);
        }
        for (int i = 0; i < count; i++) store_outputs(job, p + i, acc + (size_t)i * acc_stride, job->rows);
    }
}

static void linear_q8(const nm_linear_job *job)
{
    const nm_panels *w = job->w;
    q8_rows x = prepare_rows(job, chunk_offset(w), job->scratch);
    if (w->data && job->rows <= DIRECT_ROWS) linear_direct(job, &x, direct_tiles[nm_layout_of(w->type)]);
    else linear_tiles(job, &x, (uint8_t *)job->scratch + prepared_bytes(w, job->rows));
}

#endif
