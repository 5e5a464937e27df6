/* Template: the choice between a few rows, straight from packed panels, and many, by tiles of unpacked chunks. Included once per tier, at its
 * end, after it has defined what linear_tiles.h wants and
 *   TILE_ROWS                          the table's tile_rows
 *   DIRECT_ROWS                        at most so many rows read the packed panel directly, in passes of one tile of rows
 *   direct_tiles[layout][rows]         direct_fn for 1 .. NM_QTILE_FEW rows of such a tile; [0]: a lone row in a tile of its own
 * Arithmetic: kernel.h. Stored values are unsigned, u = q + offset, so isum = sum(u * x) - offset * sum(x), exact in int32; the second
 * term is prepared per row and group (`start`) and is where the integer accumulators begin. */
#ifndef NM_X86_LINEAR_Q8_H
#define NM_X86_LINEAR_Q8_H

#include "kernel/x86/linear_tiles.h"

_Static_assert((int)DIRECT_ROWS <= (int)NM_QTILE_FEW || (int)TILE_ROWS == (int)NM_QTILE_FEW, "direct kernels know tiles of one row and of NM_QTILE_FEW");

/* A few rows: each panel is read once from memory, the later passes from the first-level cache. */
static void linear_direct(const nm_linear_job *job, const q8_rows *x, const direct_fn *direct)
{
    const nm_panels *w = job->w;
    int groups = NM_BLOCK / w->type->group;
    for (int64_t p = job->p0; p < job->p1; p++) {
        float acc[(DIRECT_ROWS + NM_QTILE_FEW) * NM_PANEL] __attribute__((aligned(64)));
        for (int64_t t = 0; t < job->rows; t += x->tile) {
            int64_t rows = job->rows - t < x->tile ? job->rows - t : x->tile;
            q8_rows from = rows_from(x, t, 0, groups);
            direct[x->tile == 1 ? 0 : rows](w->data + (size_t)p * w->panel_bytes, w->k / NM_BLOCK, &from, acc + t * NM_PANEL);
        }
        store_outputs(job, p, acc, job->rows);
    }
}

static void linear_q8(const nm_linear_job *job)
{
    const nm_panels *w = job->w;
    q8_rows x = prepare_rows(job, chunk_offset(w), job->scratch);
    if (w->data && job->rows <= DIRECT_ROWS) linear_direct(job, &x, direct_tiles[nm_layout_of(w->type)]);
    else linear_tiles(job, &x, (uint8_t *)job->scratch + prepared_bytes(job));
}

#endif
