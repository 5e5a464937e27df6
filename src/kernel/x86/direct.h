/* Template: a few rows straight from the packed panel. Included once per tier after it has defined
 *   UNROLLED_BLOCKS      superblocks of at most so many blocks are unrolled whole; more would leave the op cache
 *   direct_block(l, tile, rows, super, b, x, at, acc)      block b of a superblock, which is block `at` of K, added to acc; tile: rows that lie side by side
 *                        in x, of which `rows` are asked for
 * Gives direct_tiles (linear_q8.h). */
#ifndef NM_X86_DIRECT_H
#define NM_X86_DIRECT_H

#include "kernel/x86/q8_rows.h"

V16_INLINE void direct_panel(const nm_layout *l, int tile, int rows, const uint8_t *super, int64_t blocks, const q8_rows *from, float *out)
{
    const q8_rows x = *from;
    v16 acc[NM_QTILE_FEW];
    _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) acc[r] = v_set(0.0f);
    int64_t at = 0;
    for (; at + l->blocks <= blocks; at += l->blocks, super += nm_layout_super(l)) {
        if (l->blocks <= UNROLLED_BLOCKS) {
            _Pragma("GCC unroll 4") for (int b = 0; b < l->blocks; b++) direct_block(l, tile, rows, super, b, &x, (size_t)(at + b), acc);
        } else {
            _Pragma("GCC unroll 1") for (int b = 0; b < l->blocks; b++) direct_block(l, tile, rows, super, b, &x, (size_t)(at + b), acc);
        }
    }
    for (int b = 0; at + b < blocks; b++) direct_block(l, tile, rows, super, b, &x, (size_t)(at + b), acc);
    _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) v_store(out + NM_PANEL * r, acc[r]);
}

#define DIRECT(TYPE, TILE, ROWS, ...) \
    static void direct_##TYPE##_##TILE##_##ROWS(const uint8_t *panel, int64_t blocks, const q8_rows *x, float *acc) \
    { \
        static const nm_layout l = NM_LAYOUT_ROW(TYPE, __VA_ARGS__); \
        direct_panel(&l, TILE, ROWS, panel, blocks, x, acc); \
    }
#define DIRECT_ALL(TYPE, ...) DIRECT_KINDS_OF(DIRECT, TYPE, __VA_ARGS__)
NM_LAYOUTS(DIRECT_ALL)
static const direct_fn direct_tiles[NM_LAYOUT_COUNT][1 + NM_QTILE_FEW] = {NM_LAYOUTS(DIRECT_ENTRY)};

#endif
