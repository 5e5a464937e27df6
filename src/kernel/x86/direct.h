/* Template: a few rows straight from the packed panel. Included once per tier after it has defined
 *   UNROLLED_BLOCKS      superblocks of at most so many blocks are unrolled whole; more would leave the op cache
 *   direct_whole(l)      rows that one pass takes whole: a kernel of more goes over the halves of a panel's outputs one after the other, since the registers do not
 *                        hold both (where it is as many as any kernel has, none does)
 *   direct_block(l, tile, rows, h0, h1, super, b, x, at, acc)      block b of a superblock, which is block `at` of K, added to halves [h0, h1) of acc; tile:
 *                        rows that lie side by side in x, of which `rows` are asked for (of two tiles where it is DIRECT_TWO)
 *   DIRECT_PAIRS         if two tiles are taken in one pass
 * Gives direct_tiles (linear_q8.h). */
#ifndef NM_X86_DIRECT_H
#define NM_X86_DIRECT_H

#include "kernel/x86/q8_rows.h"

V16_INLINE void direct_half(const nm_layout *l, int tile, int rows, int h0, int h1, const uint8_t *super, int64_t at, int64_t blocks, const q8_rows *from, float *out)
{
    q8_rows x = *from;
    if (tile == 1) { x.far = PREFETCH_FAR; x.near = PREFETCH_NEAR; }    /* a lone row has one pass: constants */
    const int64_t end = at + blocks;
    v16 acc[DIRECT_TWO];
    _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) acc[r] = v_load(out + NM_PANEL * r);
    for (; at + l->blocks <= end; at += l->blocks, super += nm_layout_super(l)) {
        if (l->blocks <= UNROLLED_BLOCKS) {
            _Pragma("GCC unroll 4") for (int b = 0; b < l->blocks; b++) direct_block(l, tile, rows, h0, h1, super, b, &x, (size_t)(at + b), acc);
        } else {
            _Pragma("GCC unroll 1") for (int b = 0; b < l->blocks; b++) direct_block(l, tile, rows, h0, h1, super, b, &x, (size_t)(at + b), acc);
        }
    }
    for (int b = 0; at + b < end; b++) direct_block(l, tile, rows, h0, h1, super, b, &x, (size_t)(at + b), acc);
    _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) v_store(out + NM_PANEL * r, acc[r]);
}

V16_INLINE void direct_chunk(const nm_layout *l, int tile, int rows, const uint8_t *super, int64_t at, int64_t blocks, const q8_rows *x, float *out)
{
    if (rows <= direct_whole(l)) {
        direct_half(l, tile, rows, 0, 2, super, at, blocks, x, out);
    } else {
        direct_half(l, tile, rows, 0, 1, super, at, blocks, x, out);
        direct_half(l, tile, rows, 1, 2, super, at, blocks, x, out);
    }
}

#define DIRECT(TYPE, TILE, ROWS, ...) \
    static void direct_##TYPE##_##TILE##_##ROWS(const uint8_t *super, int64_t at, int64_t blocks, const q8_rows *x, float *acc) \
    { \
        static const nm_layout l = NM_LAYOUT_ROW(TYPE, __VA_ARGS__); \
        direct_chunk(&l, TILE, ROWS, super, at, blocks, x, acc); \
    }
#ifdef DIRECT_PAIRS
#define DIRECT_ALL(TYPE, ...) DIRECT_KINDS_OF(DIRECT, TYPE, __VA_ARGS__) DIRECT(TYPE, 4, 8, __VA_ARGS__)
#define DIRECT_ROW(TYPE, ...) [NM_LAYOUT_##TYPE] = {DIRECT_KINDS(TYPE), direct_##TYPE##_4_8},
#else
#define DIRECT_ALL(TYPE, ...) DIRECT_KINDS_OF(DIRECT, TYPE, __VA_ARGS__)
#define DIRECT_ROW DIRECT_ENTRY
#endif
NM_LAYOUTS(DIRECT_ALL)
static const direct_fns direct_tiles[NM_LAYOUT_COUNT] = {NM_LAYOUTS(DIRECT_ROW)};

#endif
