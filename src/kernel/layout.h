/* Owns the packed layouts: one row per type that has one, and the U form that every packed layout and every row of a file unpack to.
 * Private to src/kernel. Refuses layouts per ISA: all kernels read these.
 *
 * A panel is 16 output rows. Its K inputs are cut into superblocks of `blocks` blocks of 32 inputs, the last one padded with zeros. A
 * superblock is, in 64-byte lines:
 *   header   scales, see nm_scale_kind; padded to a whole line
 *   blocks   each `low` lines, the low 2, 4 or 8 bits of each value, then `high` lines, the 1 or 2 bits above them: a block's lines lie together, one stream for
 *            processors' own prefetching
 * Dword r of a line belongs to output row r. The block's 32 inputs are eight steps v of four inputs 4v .. 4v+3 (what one integer dot
 * product instruction takes); byte i of a dword belongs to input 4v + i:
 *   8 bits: line v is step v.   4 bits: line j holds step j in the low and j + 4 in the high nibbles.
 *   2 bits: line h holds step 4h + i in bits 2i, 2i + 1.   1 bit: bit v is step v.
 * What is stored is unsigned: u = q + offset, or an index into a codebook of u.
 */
#ifndef NM_KERNEL_LAYOUT_H
#define NM_KERNEL_LAYOUT_H

#include <string.h>

#include "kernel/kernel.h"

typedef enum nm_scale_kind {    /* g: group of 16 or 32 inputs, r: row */
    NM_SCALE_HALF,              /* half s[g][16] */
    NM_SCALE_HALF_MIN,          /* half s[g][16], min[g][16] */
    NM_SCALE_SUPER,             /* half d[16]; int8 sc[g][16]: scale = d * sc */
    NM_SCALE_SUPER_MIN,         /* half d[16], dmin[16]; uint8 sc[g][16], m[g][16]: scale = d * sc, min = -(dmin * m) */
    NM_SCALE_NIBBLES,           /* the same with sc and m in one byte: m << 4 | sc */
    NM_SCALE_E8M0               /* uint8 e[g][16]: scale = 2^(e - 128) */
} nm_scale_kind;

typedef enum nm_codebook { NM_CODES_NONE, NM_CODES_IQ4, NM_CODES_E2M1 } nm_codebook;

typedef struct nm_layout {
    nm_dtype id;
    int blocks, low, high;
    nm_scale_kind scales;
    int group, offset, most;    /* most: the largest u, which bounds sums in int16 */
    nm_codebook codes;
    int d_at, dmin_at;          /* where a block of the file has its half d (MXFP4: its exponent byte) and dmin */
} nm_layout;

/* One row per packed type, used by the table, the packer and every ISA. */
#define NM_LAYOUTS(X) \
    /* type  blocks low high scales  group offset most codes  d_at dmin_at */ \
    X(Q4_0,   2, 4, 0, HALF,      32,   8,  15, NONE,   0, 0) \
    X(Q4_1,   2, 4, 0, HALF_MIN,  32,   0,  15, NONE,   0, 2) \
    X(Q5_0,   2, 4, 1, HALF,      32,  16,  31, NONE,   0, 0) \
    X(Q5_1,   2, 4, 1, HALF_MIN,  32,   0,  31, NONE,   0, 2) \
    X(Q8_0,   2, 8, 0, HALF,      32, 128, 255, NONE,   0, 0) \
    X(Q2_K,   8, 2, 0, NIBBLES,   16,   0,   3, NONE,  80, 82) \
    X(Q3_K,   8, 2, 1, SUPER,     16,   4,   7, NONE, 108, 0) \
    X(Q4_K,   8, 4, 0, SUPER_MIN, 32,   0,  15, NONE,   0, 2) \
    X(Q5_K,   8, 4, 1, SUPER_MIN, 32,   0,  31, NONE,   0, 2) \
    X(Q6_K,   8, 4, 2, SUPER,     16,  32,  63, NONE, 208, 0) \
    X(IQ4_NL, 2, 4, 0, HALF,      32, 128, 255, IQ4,    0, 0) \
    X(IQ4_XS, 8, 4, 0, SUPER,     32, 128, 255, IQ4,    0, 0) \
    X(MXFP4,  4, 4, 0, E8M0,      32,  12,  24, E2M1,   0, 0)

#define NM_LAYOUT_ROW(TYPE, blocks, low, high, scales, group, offset, most, codes, d_at, dmin_at) \
    {NM_##TYPE, blocks, low, high, NM_SCALE_##scales, group, offset, most, NM_CODES_##codes, d_at, dmin_at}
#define NM_LAYOUT_INDEX(TYPE, ...) NM_LAYOUT_##TYPE,
enum { NM_LAYOUTS(NM_LAYOUT_INDEX) NM_LAYOUT_COUNT };
#undef NM_LAYOUT_INDEX

extern const nm_layout nm_layout_table[NM_LAYOUT_COUNT];
/* Index of a type's layout, or -1: rows of the file, or a plain type. */
int nm_layout_of(const nm_type *type);
/* What a 4-bit code stands for, as u. */
extern const uint8_t nm_codebooks[3][16];

enum { NM_LINE = 64, NM_BLOCK = 32, NM_STEPS = 8 };     /* bytes; inputs; steps of four inputs in a block */

/* Kernels give these a constant layout, of which nothing must remain but a number: gcc 12 would call them in inner loops. */
#ifndef NM_FOLDED
#define NM_FOLDED static inline __attribute__((always_inline))
#endif

NM_FOLDED int nm_layout_groups(const nm_layout *l) { return NM_BLOCK / l->group; }     /* in a block */
NM_FOLDED bool nm_layout_has_min(const nm_layout *l)
{
    return l->scales == NM_SCALE_HALF_MIN || l->scales == NM_SCALE_SUPER_MIN || l->scales == NM_SCALE_NIBBLES;
}
NM_FOLDED int nm_layout_header(const nm_layout *l)      /* bytes */
{
    int n = l->blocks * nm_layout_groups(l) * NM_PANEL, bytes = 0;
    switch (l->scales) {
    case NM_SCALE_HALF: bytes = 2 * n; break;
    case NM_SCALE_HALF_MIN: bytes = 4 * n; break;
    case NM_SCALE_SUPER: bytes = 32 + n; break;
    case NM_SCALE_SUPER_MIN: bytes = 64 + 2 * n; break;
    case NM_SCALE_NIBBLES: bytes = 64 + n; break;
    case NM_SCALE_E8M0: bytes = n; break;
    }
    return (bytes + NM_LINE - 1) / NM_LINE * NM_LINE;
}
NM_FOLDED int nm_layout_super(const nm_layout *l)       /* bytes of a superblock */
{
    return nm_layout_header(l) + l->blocks * (l->low + l->high) * NM_LINE;
}
/* Lines of block b (0 .. blocks-1) of a superblock. */
NM_FOLDED const uint8_t *nm_layout_low(const nm_layout *l, const uint8_t *super, int b)
{
    return super + nm_layout_header(l) + b * (l->low + l->high) * NM_LINE;
}
NM_FOLDED const uint8_t *nm_layout_high(const nm_layout *l, const uint8_t *super, int b)
{
    return nm_layout_low(l, super, b) + l->low * NM_LINE;
}

/* The U form of some blocks of one panel: a byte per value, a float per scale. 64-byte aligned. */
typedef struct nm_u {
    uint8_t *q;                 /* [blocks][8 steps][16 rows][4 inputs] */
    float *scale, *min;         /* [blocks][32 / group][16 rows]; min untouched for types without */
} nm_u;

/* Inputs in a chunk of K that kernels unpack at once: a multiple of every superblock and block. 16 blocks of one panel are 8 KB of bytes. */
enum { NM_CHUNK = 512, NM_CHUNK_BLOCKS = NM_CHUNK / NM_BLOCK };
/* How the tile kernels cut their work (kernel/x86/linear_tiles.h): at most so many panels share one pass over the activations; panels and rows whose
 * accumulators wait together between chunks; rows come in multiples of the grain, which holds whole tiles of every tier. */
enum { NM_TILE_PANELS = 4, NM_GROUP_PANELS = 6, NM_TILE_ROWS = 528, NM_TILE_GRAIN = 48 };

/* Blocks [b0, b0 + count) of panel p to the U form, with q ^ flip in place of u: flip 0 gives the signed values, 0x80 adds 128. b0 is a multiple
 * of the layout's and the type's block; so is b0 + count, or it is the row's end. Plain C; the only way for rows of the file. */
void nm_unpack_c(const nm_panels *w, int64_t p, int64_t b0, int64_t count, uint8_t flip, const nm_u *u);
/* One row of the same blocks: q[count * 32], scale and min [count * 32 / group]. */
void nm_unpack_row(const nm_panels *w, int64_t row, int64_t b0, int64_t count, int8_t *q, float *scale, float *min);
/* Inputs [k0, k0 + count) of panel p of a plain type as fp32: out [count][16]. */
void nm_unpack_plain(const nm_panels *w, int64_t p, int64_t k0, int64_t count, float *out);

/* Writes block b of a row: 32 quantised inputs, their scale and the sums of the first and last 16. */
static inline void nm_qrows_put(const nm_qrows *to, int64_t row, int64_t b, const int8_t *q, float scale, int32_t first, int32_t last)
{
    int8_t *four = nm_qrows_four(to, row, b * NM_BLOCK);
    for (int i = 0; i < NM_STEPS; i++) memcpy(four + 4 * i * to->tile, q + 4 * i, 4);
    size_t at = nm_qrows_block(to, row, b, 1), half = nm_qrows_block(to, row, 2 * b, 2);
    to->scale[at] = scale;
    to->sum[at] = first + last;
    to->shift[at] = scale * (float)(first + last);
    to->half[half] = first;
    to->half[half + (size_t)to->tile] = last;
}

/* The reference attention for any cache type. */
void nm_attention_ref(nm_kv_type type, const nm_attention_job *job);

#endif
