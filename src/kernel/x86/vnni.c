/* AVX-512 VNNI: int8 linear maps. vpdpbusd multiplies a line of unsigned weight bytes (16 rows x 4 inputs) by four activation bytes
 * broadcast to all rows, and adds to 16 int32 sums: no shuffles anywhere. */
#include "kernel/x86/blocks512.h"
#include "kernel/x86/q8_rows.h"

enum { DIRECT_TILE = 4, DIRECT_ROWS = 8, TILE_ROWS = 6, UNPACKED_BYTES = 1 };

V16_INLINE __m512i four_bytes(const int8_t *p) { int32_t v; memcpy(&v, p, 4); return _mm512_set1_epi32(v); }

/* ---- Straight from the packed panel ---------------------------------------------------------------------------------------------- */

V16_INLINE void direct_block(const nm_layout *l, int rows, const uint8_t *super, int b, const q8_rows *x, size_t at, __m512 acc[DIRECT_TILE])
{
    int groups = nm_layout_groups(l), steps = NM_STEPS / groups;
    prefetch_header(l, super, b);
    _Pragma("GCC unroll 2") for (int h = 0; h < groups; h++) {
        size_t g = at * (size_t)groups + (size_t)h;
        __m512i sum[DIRECT_TILE];
        _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) sum[r] = _mm512_set1_epi32(x->start[g * x->ld + (size_t)r]);
        _Pragma("GCC unroll 8") for (int v = h * steps; v < (h + 1) * steps; v++) {
            prefetch_step(l, super, b, v);
            __m512i u = step512(l, super, b, v);
            _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++)
                sum[r] = _mm512_dpbusd_epi32(sum[r], u, four_bytes(x->q + (size_t)r * x->ldq + at * NM_BLOCK + 4 * v));
        }
        __m512 scale = scale512(l, super, b * groups + h);
        __m512 min = nm_layout_has_min(l) ? min512(l, super, b * groups + h) : scale;
        _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) {
            __m512 s = _mm512_mul_ps(scale, _mm512_set1_ps(x->scale[at * x->ld + (size_t)r]));
            acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r]), s, acc[r]);
            if (nm_layout_has_min(l)) acc[r] = _mm512_fmadd_ps(min, _mm512_set1_ps(x->sums[g * x->ld + (size_t)r]), acc[r]);
        }
    }
}

V16_INLINE void direct512(const nm_layout *l, int rows, const uint8_t *super, int64_t blocks, const q8_rows *from, float *out)
{
    const q8_rows x = *from;
    __m512 acc[DIRECT_TILE];
    _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) acc[r] = _mm512_setzero_ps();
    int64_t at = 0;
    for (; at + l->blocks <= blocks; at += l->blocks, super += nm_layout_super(l)) {
        if (l->blocks <= 4) {
            _Pragma("GCC unroll 4") for (int b = 0; b < l->blocks; b++) direct_block(l, rows, super, b, &x, (size_t)(at + b), acc);
        } else {
            _Pragma("GCC unroll 1") for (int b = 0; b < l->blocks; b++) direct_block(l, rows, super, b, &x, (size_t)(at + b), acc);
        }
    }
    for (int b = 0; at + b < blocks; b++) direct_block(l, rows, super, b, &x, (size_t)(at + b), acc);
    _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) _mm512_storeu_ps(out + NM_PANEL * r, acc[r]);
}

#define DIRECT(TYPE, ROWS, ...) \
    static void direct_##TYPE##_##ROWS(const uint8_t *panel, int64_t blocks, const q8_rows *x, float *acc) \
    { \
        static const nm_layout l = NM_LAYOUT_ROW(TYPE, __VA_ARGS__); \
        direct512(&l, ROWS, panel, blocks, x, acc); \
    }
#define DIRECT_ALL(TYPE, ...) DIRECT(TYPE, 1, __VA_ARGS__) DIRECT(TYPE, 2, __VA_ARGS__) DIRECT(TYPE, 3, __VA_ARGS__) DIRECT(TYPE, 4, __VA_ARGS__)
NM_LAYOUTS(DIRECT_ALL)
NM_LAYOUTS(DEFINE_UNPACK512)

#define DIRECT_ENTRY(TYPE, ...) [NM_LAYOUT_##TYPE] = {direct_##TYPE##_1, direct_##TYPE##_2, direct_##TYPE##_3, direct_##TYPE##_4},
static const direct_fn direct_tiles[NM_LAYOUT_COUNT][DIRECT_TILE] = {NM_LAYOUTS(DIRECT_ENTRY)};
static const unpack_fn unpackers[NM_LAYOUT_COUNT] = {NM_LAYOUTS(UNPACK512_ENTRY)};

/* ---- Tiles of the U form --------------------------------------------------------------------------------------------------------------- */

/* rows x panels outputs over `blocks` blocks. acc: [panel][row][16]. */
V16_INLINE void tile512(int groups, bool has_min, int rows, int panels, const nm_u *u, int64_t blocks, const q8_rows *from, float *out, size_t stride)
{
    const q8_rows x = *from;
    const int steps = NM_STEPS / groups;
    __m512 acc[TILE_ROWS][2];
    _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 2") for (int p = 0; p < panels; p++) acc[r][p] = _mm512_load_ps(out + (size_t)p * stride + NM_PANEL * r);
    for (int64_t g = 0; g < blocks * groups; g++) {
        __m512i sum[TILE_ROWS][2];
        _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++)
            _Pragma("GCC unroll 2") for (int p = 0; p < panels; p++) sum[r][p] = _mm512_set1_epi32(x.start[(size_t)g * x.ld + (size_t)r]);
        _Pragma("GCC unroll 8") for (int v = 0; v < steps; v++) {
            __m512i line[2];
            _Pragma("GCC unroll 2") for (int p = 0; p < panels; p++) line[p] = line_at(u[p].q + (g * steps + v) * NM_LINE);
            _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++) {
                __m512i four = four_bytes(x.q + (size_t)r * x.ldq + (g * steps + v) * 4);
                __asm__("" : "+v"(four));       /* one broadcast for both panels, not one from memory for each */
                _Pragma("GCC unroll 2") for (int p = 0; p < panels; p++) sum[r][p] = _mm512_dpbusd_epi32(sum[r][p], line[p], four);
            }
        }
        _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++)
            _Pragma("GCC unroll 2") for (int p = 0; p < panels; p++) {
                __m512 s = _mm512_mul_ps(_mm512_load_ps(u[p].scale + g * NM_PANEL), _mm512_set1_ps(x.scale[(size_t)(g / groups) * x.ld + (size_t)r]));
                acc[r][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][p]), s, acc[r][p]);
                if (has_min)
                    acc[r][p] = _mm512_fmadd_ps(_mm512_load_ps(u[p].min + g * NM_PANEL), _mm512_set1_ps(x.sums[(size_t)g * x.ld + (size_t)r]), acc[r][p]);
            }
    }
    _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 2") for (int p = 0; p < panels; p++) _mm512_store_ps(out + (size_t)p * stride + NM_PANEL * r, acc[r][p]);
}

typedef void (*tile_fn)(const nm_u *, int64_t, const q8_rows *, float *, size_t);
#define TILE(groups, min, rows, panels) \
    static void tile_##groups##_##min##_##rows##_##panels(const nm_u *u, int64_t blocks, const q8_rows *x, float *acc, size_t stride) \
    { tile512(groups, min, rows, panels, u, blocks, x, acc, stride); }
#define TILE_KINDS(X, rows, panels) X(1, 0, rows, panels) X(1, 1, rows, panels) X(2, 0, rows, panels) X(2, 1, rows, panels)
TILE_KINDS(TILE, 6, 2) TILE_KINDS(TILE, 3, 2) TILE_KINDS(TILE, 1, 2)
TILE_KINDS(TILE, 6, 1) TILE_KINDS(TILE, 3, 1) TILE_KINDS(TILE, 1, 1)
/* [groups - 1][has_min][panels - 1][rows 6, 3, 1] */
#define SIZES(groups, min, panels) {tile_##groups##_##min##_6_##panels, tile_##groups##_##min##_3_##panels, tile_##groups##_##min##_1_##panels}
static const tile_fn tiles[2][2][2][3] = {
    {{SIZES(1, 0, 1), SIZES(1, 0, 2)}, {SIZES(1, 1, 1), SIZES(1, 1, 2)}},
    {{SIZES(2, 0, 1), SIZES(2, 0, 2)}, {SIZES(2, 1, 1), SIZES(2, 1, 2)}}};

static void q8_tiles(const nm_panels *w, const nm_u *u, int panels, int64_t blocks, const q8_rows *x, int64_t rows, float *acc, size_t stride)
{
    int groups = NM_BLOCK / w->type->group;
    for (int64_t t = 0; t < rows;) {
        int size = rows - t >= 6 ? 0 : rows - t >= 3 ? 1 : 2;
        q8_rows from = rows_from(x, t, 0, groups);
        for (int p = 0; p < panels; p += 2) {
            int pair = panels - p >= 2 ? 2 : 1;
            tiles[groups - 1][w->type->has_min][pair - 1][size](u + p, blocks, &from, acc + (size_t)p * stride + NM_PANEL * t, stride);
        }
        t += size == 0 ? 6 : size == 1 ? 3 : 1;
    }
}

static void unpack_chunk(const nm_panels *w, int64_t p, int64_t b0, int64_t blocks, const nm_u *u)
{
    if (w->data) unpackers[nm_layout_of(w->type)](w->data + (size_t)p * w->panel_bytes, b0, blocks, u);
    else nm_unpack_c(w, p, b0, blocks, 0x80, u);
}

#include "kernel/x86/linear_q8.h"

void nm_linear_q8_vnni(const nm_linear_job *job) { linear_q8(job); }

void nm_kernels_vnni(nm_kernels *table) { table->linear_q8 = nm_linear_q8_vnni; }
