/* AVX-512 VNNI: int8 linear maps. vpdpbusd multiplies a line of unsigned weight bytes (16 rows x 4 inputs) by four activation bytes
 * broadcast to all rows, and adds to 16 int32 sums: no shuffles anywhere. */
#include "kernel/x86/blocks512.h"
#include "kernel/x86/q8_rows.h"

enum { DIRECT_ROWS = 16, TILE_ROWS = 4, TILE_PANELS = 3, TILE_SUMS = 12, UNPACKED_BYTES = 1, UNROLLED_BLOCKS = 4 };

V16_INLINE int direct_whole(const nm_layout *l) { return DIRECT_TWO; }

/* ---- Straight from the packed panel ---------------------------------------------------------------------------------------------- */

/* Where row r of two tiles has its part of an array that holds ld values a row; at: of row 0. */
V16_INLINE size_t place(int tile, int r, size_t ld, size_t at) { return (size_t)(r / tile * tile) * ld + at * (size_t)tile + (size_t)(r % tile); }

V16_INLINE void direct_block(const nm_layout *l, int tile, int rows, int h0, int h1, const uint8_t *super, int b, const q8_rows *x, size_t at, v16 *acc)
{
    int groups = nm_layout_groups(l), steps = NM_STEPS / groups;
    prefetch_header(l, super, b, x);
    _Pragma("GCC unroll 2") for (int h = 0; h < groups; h++) {
        size_t g = at * (size_t)groups + (size_t)h;
        __m512i sum[DIRECT_TWO];
        _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) sum[r] = _mm512_set1_epi32(x->start[place(tile, r, x->ldg, g)]);
        _Pragma("GCC unroll 8") for (int v = h * steps; v < (h + 1) * steps; v++) {
            prefetch_step(l, super, b, v, x);
            __m512i u = step512(l, super, b, v);
            _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++)
                sum[r] = _mm512_dpbusd_epi32(sum[r], u, four_bytes(x->q + 4 * place(tile, r, x->ldq / 4, at * NM_STEPS + (size_t)v)));
        }
        __m512 scale = scale512(l, super, b * groups + h);
        __m512 min = nm_layout_has_min(l) ? min512(l, super, b * groups + h) : scale;
        _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) {
            __m512 s = _mm512_mul_ps(scale, _mm512_set1_ps(x->scale[place(tile, r, x->lds, at)]));
            acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r]), s, acc[r]);
            if (nm_layout_has_min(l)) acc[r] = _mm512_fmadd_ps(min, _mm512_set1_ps(x->sums[place(tile, r, x->ldg, g)]), acc[r]);
        }
    }
}

#define DIRECT_PAIRS
#include "kernel/x86/direct.h"

NM_LAYOUTS(DEFINE_UNPACK512)
static const unpack_fn unpackers[NM_LAYOUT_COUNT] = {NM_LAYOUTS(UNPACK512_ENTRY)};

/* ---- Tiles of the U form --------------------------------------------------------------------------------------------------------------- */

/* `rows` rows of each of `tiles` tiles by `panels` panels over `blocks` blocks. acc: [panel][row][16]. Of the 11 or 12 vector operations that an output
 * and a group of 32 take, two a cycle, 8 are products and the rest is scaling: that binds a tile, and 12 outputs hide the latencies. */
V16_INLINE void tile512(int groups, bool has_min, int tiles, int rows, int panels, const nm_u *u, int64_t blocks, const q8_rows *from, float *out, size_t stride)
{
    const q8_rows x = *from;
    const int steps = NM_STEPS / groups, all = tiles * rows;
    const size_t tile = rows == TILE_ROWS ? TILE_ROWS : (size_t)x.tile;
    __m512 acc[TILE_SUMS][TILE_PANELS];
    _Pragma("GCC unroll 8") for (int r = 0; r < all; r++)
        _Pragma("GCC unroll 3") for (int p = 0; p < panels; p++) acc[r][p] = _mm512_load_ps(out + (size_t)p * stride + NM_PANEL * r);
    for (size_t g = 0; g < (size_t)(blocks * groups); g++) {
        __m512i sum[TILE_SUMS][TILE_PANELS];
        const int8_t *next = x.q + tile * x.ldq + g * (size_t)steps * tile * 4;
        _mm_prefetch((const char *)next, _MM_HINT_T0);
        if (groups == 1) _mm_prefetch((const char *)next + 64, _MM_HINT_T0);
        _Pragma("GCC unroll 8") for (int r = 0; r < all; r++)
            _Pragma("GCC unroll 3") for (int p = 0; p < panels; p++)
                sum[r][p] = _mm512_set1_epi32(x.start[(size_t)(r / rows) * tile * x.ldg + g * tile + (size_t)(r % rows)]);
        _Pragma("GCC unroll 8") for (size_t v = 0; v < (size_t)steps; v++) {
            __m512i line[TILE_PANELS];
            _Pragma("GCC unroll 3") for (int p = 0; p < panels; p++) line[p] = line_at(u[p].q + (g * (size_t)steps + v) * NM_LINE);
            _Pragma("GCC unroll 8") for (int r = 0; r < all; r++) {
                __m512i four = four_bytes(x.q + (size_t)(r / rows) * tile * x.ldq + ((g * (size_t)steps + v) * tile + (size_t)(r % rows)) * 4);
                __asm__("" : "+v"(four));       /* one broadcast for all panels, not one from memory for each */
                _Pragma("GCC unroll 3") for (int p = 0; p < panels; p++) sum[r][p] = _mm512_dpbusd_epi32(sum[r][p], line[p], four);
            }
        }
        _Pragma("GCC unroll 8") for (int r = 0; r < all; r++)
            _Pragma("GCC unroll 3") for (int p = 0; p < panels; p++) {
                const size_t t = (size_t)(r / rows) * tile, i = (size_t)(r % rows);
                __m512 s = _mm512_mul_ps(_mm512_load_ps(u[p].scale + g * NM_PANEL), _mm512_set1_ps(x.scale[t * x.lds + g / (size_t)groups * tile + i]));
                acc[r][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][p]), s, acc[r][p]);
                if (has_min)
                    acc[r][p] = _mm512_fmadd_ps(_mm512_load_ps(u[p].min + g * NM_PANEL), _mm512_set1_ps(x.sums[t * x.ldg + g * tile + i]), acc[r][p]);
            }
    }
    _Pragma("GCC unroll 8") for (int r = 0; r < all; r++)
        _Pragma("GCC unroll 3") for (int p = 0; p < panels; p++) _mm512_store_ps(out + (size_t)p * stride + NM_PANEL * r, acc[r][p]);
}

typedef void (*tile_fn)(const nm_u *, int64_t, const q8_rows *, float *, size_t);
#define TILE(groups, min, tiles, rows, panels) \
    static void tile_##groups##_##min##_##tiles##_##rows##_##panels(const nm_u *u, int64_t blocks, const q8_rows *x, float *acc, size_t stride) \
    { tile512(groups, min, tiles, rows, panels, u, blocks, x, acc, stride); }
#define TILE_KINDS(X, ...) X(1, 0, __VA_ARGS__) X(1, 1, __VA_ARGS__) X(2, 0, __VA_ARGS__) X(2, 1, __VA_ARGS__)
TILE_KINDS(TILE, 1, 4, 3) TILE_KINDS(TILE, 1, 4, 2) TILE_KINDS(TILE, 1, 4, 1) TILE_KINDS(TILE, 2, 4, 1)
TILE_KINDS(TILE, 1, 3, 3) TILE_KINDS(TILE, 1, 2, 3) TILE_KINDS(TILE, 1, 1, 3)
TILE_KINDS(TILE, 1, 3, 1) TILE_KINDS(TILE, 1, 2, 1) TILE_KINDS(TILE, 1, 1, 1)
/* part: [rows - 1][three panels, or one] of less than a tile; whole: [panels] of one; two: of two tiles by one panel. */
typedef struct tile_kind { tile_fn part[TILE_ROWS - 1][2], whole[TILE_PANELS + 1], two; } tile_kind;
#define KIND(groups, min) { \
    {{tile_##groups##_##min##_1_1_1, tile_##groups##_##min##_1_1_3}, {tile_##groups##_##min##_1_2_1, tile_##groups##_##min##_1_2_3}, \
     {tile_##groups##_##min##_1_3_1, tile_##groups##_##min##_1_3_3}}, \
    {NULL, tile_##groups##_##min##_1_4_1, tile_##groups##_##min##_1_4_2, tile_##groups##_##min##_1_4_3}, tile_##groups##_##min##_2_4_1}
static const tile_kind kinds[2][2] = {{KIND(1, 0), KIND(1, 1)}, {KIND(2, 0), KIND(2, 1)}};     /* [groups - 1][has_min] */

static void q8_tiles(const nm_panels *w, const nm_u *u, int panels, int64_t blocks, const q8_rows *x, int64_t rows, float *acc, size_t stride)
{
    int groups = NM_BLOCK / w->type->group;
    const tile_kind *kind = &kinds[groups - 1][w->type->has_min];
    for (int64_t t = 0, n; t < rows; t += n) {
        q8_rows from = rows_from(x, t, 0, groups);
        float *to = acc + NM_PANEL * t;
        n = rows - t < x->tile ? rows - t : x->tile;
        if (n == TILE_ROWS && panels == 1 && rows - t >= 2 * TILE_ROWS) {
            kind->two(u, blocks, &from, to, stride);
            n = 2 * TILE_ROWS;
        } else if (n == TILE_ROWS) {
            kind->whole[panels](u, blocks, &from, to, stride);
        } else {
            bool together = panels == TILE_PANELS;
            for (int p = 0; p < (together ? 1 : panels); p++) kind->part[n - 1][together](u + p, blocks, &from, to + (size_t)p * stride, stride);
        }
    }
}

static void unpack_chunk(const nm_panels *w, int64_t p, int64_t b0, int64_t blocks, const nm_u *u)
{
    if (w->data) unpackers[nm_layout_of(w->type)](w->data + (size_t)p * w->panel_bytes, b0, blocks, u);
    else nm_unpack_c(w, p, b0, blocks, 0x80, u);
}

#include "kernel/x86/linear_q8.h"

void nm_linear_q8_vnni(const nm_linear_job *job) { linear_q8(job); }

void nm_kernels_vnni(nm_kernels *table)
{
    table->linear_q8 = nm_linear_q8_vnni;
    table->tile_rows = TILE_ROWS;
    table->few_rows = DIRECT_ROWS;
}
