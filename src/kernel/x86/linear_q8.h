/* Template: the choice between a few rows, straight from packed panels, and many, by tiles of unpacked chunks. Included once per tier, at its
 * end, after it has defined what linear_tiles.h wants and
 *   TILE_ROWS                          the table's tile_rows
 *   DIRECT_ROWS                        at most so many rows read the packed panel directly, in passes of a tile of NM_QTILE_FEW, or two: the table's few_rows, or more
 *                                      where its tile_rows is NM_QTILE_FEW, too
 *   direct_whole(l)                    more rows than this take several passes over a chunk (direct.h)
 *   direct_tiles[layout][rows]         direct_fn for 1 .. NM_QTILE_FEW rows of such a tile; [0]: a lone row in a tile of its own; [DIRECT_TWO_AT]: two tiles, or NULL
 * Arithmetic: kernel.h. Stored values are unsigned, u = q + offset, so isum = sum(u * x) - offset * sum(x), exact in int32; the second
 * term is prepared per row and group (`start`) and is where the integer accumulators begin. */
#ifndef NM_X86_LINEAR_Q8_H
#define NM_X86_LINEAR_Q8_H

#include "kernel/x86/linear_tiles.h"

_Static_assert((int)DIRECT_ROWS % (int)NM_QTILE_FEW == 0, "direct kernels know tiles of one row and of NM_QTILE_FEW");

/* Blocks [at, at + blocks) of a panel for all rows, which are in tiles of NM_QTILE_FEW; acc: [rows][16]. */
static void direct_passes(const nm_linear_job *job, const q8_rows *x, const direct_fn *direct, const uint8_t *super, int64_t at, int64_t blocks, float *acc)
{
    int groups = NM_BLOCK / job->w->type->group;
    for (int64_t t = 0, rows; t < job->rows; t += rows) {
        int64_t left = job->rows - t;
        bool two = left >= DIRECT_TWO && direct[DIRECT_TWO_AT];
        q8_rows from = rows_from(x, t, 0, groups);
        if (t) from.far = from.near = 0;
        rows = two ? DIRECT_TWO : left < NM_QTILE_FEW ? left : NM_QTILE_FEW;
        direct[two ? DIRECT_TWO_AT : rows](super, at, blocks, &from, acc + t * NM_PANEL);
    }
}

/* A few rows: each panel is read once from memory. Where there are several passes, all take a few superblocks before the next ones, so that memory is read
 * all the time and not in every panel's first pass alone. */
static void linear_direct(const nm_linear_job *job, const q8_rows *x, const direct_fn *direct)
{
    enum { LEAST_BLOCKS = 4 };
    const nm_panels *w = job->w;
    const nm_layout *l = &nm_layout_table[nm_layout_of(w->type)];
    const int64_t blocks = w->k / NM_BLOCK, supers = l->blocks < LEAST_BLOCKS ? LEAST_BLOCKS / l->blocks : 1;
    const int64_t chunk = job->rows > direct_whole(l) ? supers * l->blocks : blocks;
    const size_t chunk_bytes = (size_t)supers * (size_t)nm_layout_super(l);
    for (int64_t p = job->p0; p < job->p1; p++) {
        const uint8_t *super = w->data + (size_t)p * w->panel_bytes;
        float acc[DIRECT_ROWS * NM_PANEL] __attribute__((aligned(64)));
        memset(acc, 0, (size_t)job->rows * NM_PANEL * sizeof *acc);
        if (x->tile == 1) direct[0](super, 0, blocks, x, acc);
        for (int64_t at = 0; at < blocks && x->tile > 1; at += chunk, super += chunk_bytes)
            direct_passes(job, x, direct, super, at, blocks - at < chunk ? blocks - at : chunk, acc);
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
