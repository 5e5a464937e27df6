/* Template: many rows of an int8 linear map. Included once per tier after it has defined
 *   UNPACKED_BYTES                     bytes of a value in its U form
 *   unpack_chunk(w, p, b0, blocks, u)
 *   q8_tiles(w, u, panels, blocks, x, rows, acc, stride)      all rows over one chunk of `panels` panels; acc: [panel][row][16] */
#ifndef NM_X86_LINEAR_TILES_H
#define NM_X86_LINEAR_TILES_H

#include "kernel/x86/q8_rows.h"

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

#endif
