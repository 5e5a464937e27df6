/* Template: many rows of an int8 linear map. Included once per tier after it has defined
 *   UNPACKED_BYTES                     bytes of a value in its U form
 *   TILE_PANELS                        panels that share one pass over the rows: their U forms and a tile of rows should fit the first-level cache
 *   unpack_chunk(w, p, b0, blocks, u)
 *   q8_tiles(w, u, panels, blocks, x, rows, acc, stride)      all rows over one chunk of `panels` panels; acc: [panel][row][16] */
#ifndef NM_X86_LINEAR_TILES_H
#define NM_X86_LINEAR_TILES_H

#include "kernel/x86/q8_rows.h"

/* Work is cut so that what is used again stays near: a chunk of K of NM_TILE_ROWS rows (264 KB) and the accumulators of NM_GROUP_PANELS panels (198 KB) in the
 * second-level cache; the U forms of TILE_PANELS panels in the first. */
typedef struct tile_memory { nm_u u[TILE_PANELS]; float *acc; } tile_memory;

static void tile_memory_at(tile_memory *m, uint8_t *scratch)
{
    for (int i = 0; i < TILE_PANELS; i++) {
        m->u[i].q = scratch;
        m->u[i].scale = (float *)(scratch + NM_CHUNK * NM_PANEL * UNPACKED_BYTES);
        m->u[i].min = m->u[i].scale + NM_CHUNK / 16 * NM_PANEL;
        scratch = (uint8_t *)(m->u[i].min + NM_CHUNK / 16 * NM_PANEL);
    }
    m->acc = (float *)scratch;
}

/* Blocks of a chunk: K in equal parts of at most NM_CHUNK, each of whole blocks of the type and superblocks of the layout. */
static int64_t chunk_blocks(const nm_panels *w)
{
    int64_t blocks = w->k / NM_BLOCK, parts = (blocks + NM_CHUNK_BLOCKS - 1) / NM_CHUNK_BLOCKS, unit = w->type->block / NM_BLOCK;
    if (w->data) unit = nm_layout_table[nm_layout_of(w->type)].blocks;
    if (unit < 1) unit = 1;
    return ((blocks + parts - 1) / parts + unit - 1) / unit * unit;
}

/* Rows [t, t + rows) of panels [p, p + panels). */
static void tile_block(const nm_linear_job *job, const q8_rows *x, int64_t t, int64_t rows, int64_t p, int panels, const tile_memory *m)
{
    const nm_panels *w = job->w;
    int64_t blocks = w->k / NM_BLOCK, chunk = chunk_blocks(w);
    size_t stride = (size_t)rows * NM_PANEL;
    memset(m->acc, 0, (size_t)panels * stride * sizeof *m->acc);
    for (int64_t b = 0; b < blocks; b += chunk) {
        int64_t n = blocks - b < chunk ? blocks - b : chunk;
        q8_rows from = rows_from(x, t, b, NM_BLOCK / w->type->group);
        for (int i = 0; i < panels; i += TILE_PANELS) {
            int count = panels - i < TILE_PANELS ? panels - i : TILE_PANELS;
            for (int j = 0; j < count; j++) unpack_chunk(w, p + i + j, b, n, &m->u[j]);
            q8_tiles(w, m->u, count, n, &from, rows, m->acc + (size_t)i * stride, stride);
        }
    }
    for (int64_t r = 0; r < rows; r++)
        for (int i = 0; i < panels; i++) store_output(job, p + i, t + r, m->acc + (size_t)i * stride + r * NM_PANEL);
}

static void linear_tiles(const nm_linear_job *job, const q8_rows *x, uint8_t *scratch)
{
    tile_memory m __attribute__((aligned(64)));     /* gcc 12 would align it unsaid, which AddressSanitizer's stack does not know */
    tile_memory_at(&m, scratch);
    int64_t parts = (job->rows + NM_TILE_ROWS - 1) / NM_TILE_ROWS, most = (job->rows + parts - 1) / parts;
    most = (most + NM_TILE_GRAIN - 1) / NM_TILE_GRAIN * NM_TILE_GRAIN;
    for (int64_t p = job->p0; p < job->p1; p += NM_GROUP_PANELS) {
        int panels = job->p1 - p < NM_GROUP_PANELS ? (int)(job->p1 - p) : NM_GROUP_PANELS;
        for (int64_t t = 0; t < job->rows; t += most) tile_block(job, x, t, job->rows - t < most ? job->rows - t : most, p, panels, &m);
    }
}

#endif
