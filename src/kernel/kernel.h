/* Owns the contract between ops and arithmetic: panels of weights, quantised activation rows, pages of keys and values, and the
 * table of kernels that compute on them. The plain C reference (ref/) defines every result to the bit; each ISA overwrites slots of
 * the table, weakest to strongest, with what the CPU and the OS support and the mask allows. Refuses to know sessions, programs or threads:
 * every kernel is a pure function of its job and runs on the thread that calls it.
 *
 * The arithmetic (law 9). K is never split; each output is one chain in ascending K. fma(a, b, c) rounds once.
 *   quantised weights, default compute, groups g of 16 or 32 values (quant.h), activations int8 with one scale per 32 values:
 *       acc = fma((float)isum_g, s_w[g] * s_x[g*group/32], acc);      isum_g = sum of q_w * q_x over the group, exact int32
 *       acc = fma(min_w[g], s_x * (float)xsum_g, acc)                 where the type has a minimum; xsum_g = sum of q_x over the group
 *   compute f32, and F32 F16 BF16 weights always:   acc = fma(w[k], x[k], acc),  w[k] = (scale * q) + min as quant.h says
 *   bf16 (training, where the ISA has it), w and x rounded to bf16 (nearest even; NaN stays NaN), beyond K zero up to a whole block of 32, every denormal on the way
 *   in or out being zero. Two arithmetics, for the instructions there are (nm_kernels.bf16 says which):
 *       "bf16", by VDPBF16PS:       acc = fma(w[k+1], x[k+1], acc);  acc = fma(w[k], x[k], acc)      k even
 *       "amx-bf16", by TDPBF16PS:   acc = acc + (e + o) for each block of 32: e = fma(w[k], x[k], e) over its even k from 0, o over its odd ones
 *   bias: y = acc + bias, after the chain.
 *   attention: see nm_attention_job.   norms: 16 virtual lanes (lane i takes elements i, i+16, ...; a short tail leaves lanes untouched), then
 *   the fixed tree lane[i] += lane[i+8], +4, +2, +1.
 * Because no result depends on the vector width, all ISAs give the same bits and tests compare with memcmp.
 */
#ifndef NM_KERNEL_H
#define NM_KERNEL_H

#include "nomoat.h"
#include "quant/quant.h"

enum { NM_PANEL = 16, NM_PAGE = 64, NM_QUERIES = 128, NM_UNPACK_INPUTS = 256 };  /* output rows of a panel; positions of a KV page; most queries of a job; see unpack_rows */

/* ---- Weights in panels ------------------------------------------------------------------------------------------------- */

/* A linear map's weight, n outputs by k inputs. Packed: 16-row panels, 64-byte aligned, the last one padded with zero scales; a
 * panel holds the same bits as its rows (at most 3 % more bytes; Q3_K 6 %). Types without a packed layout, and everything under no_pack, stay as rows of the
 * file and are unpacked into scratch by the kernel just before use. */
typedef struct nm_panels {
    const nm_type *type;
    int64_t n, k;
    int64_t panels;             /* ceil(n / 16) */
    const uint8_t *data;        /* packed panels, or NULL */
    size_t panel_bytes;
    const uint8_t *rows;        /* rows as in the file, or NULL */
    size_t row_bytes;
} nm_panels;

/* Bytes of one packed panel of k inputs, or 0 if the type has no packed layout. */
size_t nm_pack_bytes(const nm_type *type, int64_t k);
/* Packs rows [16 p, 16 p + 16) of the source (n rows in all, those beyond n become zero) to out (nm_pack_bytes, 64-byte aligned).
 * The one function that makes panels; the same layout serves every ISA. */
void nm_pack_panel(const nm_type *type, int64_t n, int64_t k, const uint8_t *rows, size_t row_bytes, int64_t p, uint8_t *out);
/* Says what panels are, for those who keep them: a hash of what nm_pack_panel makes of the same rows of each type, so that it changes when that does. */
uint64_t nm_pack_layout(void);
/* One row as floats (quant.h's values, exact), from panels or rows: embedding lookups, adapters' sketches. */
void nm_panels_row(const nm_panels *w, int64_t row, float *out);

/* ---- Activations --------------------------------------------------------------------------------------------------------- */

/* Rows quantised to int8: symmetric, scale = amax / 127 per 32 values, q = round to nearest even of x * (127 / amax). Where amax is below
 * 2^-100 (127 / amax might overflow) q and scale are 0. k is a multiple of 32. Non-finite input gives a NaN scale and q = 0, so that NaN
 * reaches the logits and is reported. */
#define NM_SMALLEST_AMAX 0x1p-100f

/* They lie in tiles of `tile` rows side by side, so that a register tile reads one stream: the fours of inputs that one integer dot product takes,
 * of row 0, row 1, ... of the tile, then the next four of each. Rows beyond the last, up to a whole tile, are anything. */
enum { NM_QTILE_FEW = 4, NM_QTILE_MOST = 8 };
typedef struct nm_qrows {
    int8_t *q;                  /* [tiles][ldq / 4][tile][4], zero from k up to ldq */
    float *scale;               /* [tiles][lds][tile] */
    int32_t *sum;               /* [tiles][lds][tile]: sums of q over 32 values */
    int32_t *half;              /* [tiles][2 * lds][tile]: over 16 */
    float *shift;               /* [tiles][lds][tile]: scale * sum, rounded */
    size_t ldq, lds;            /* ldq = k rounded up to 64; lds = ldq / 32 */
    int tile;
} nm_qrows;
/* Bytes for `rows` rows of k inputs in tiles of any size, and the layout of such a block of memory (64-byte aligned). */
size_t nm_qrows_bytes(int64_t rows, int64_t k);
nm_qrows nm_qrows_at(void *memory, int64_t rows, int64_t k, int tile);
/* Inputs [k, k + 4) of a row (k a multiple of 4); the row's next four are 4 * tile bytes on. And the index of a row's block of 32 inputs in `scale`,
 * `sum` and `shift`; the row's next one is `tile` on. In `half` block b's two are 2 * b and 2 * b + 1 of twice as many. */
static inline int8_t *nm_qrows_four(const nm_qrows *x, int64_t row, int64_t k)
{
    size_t tile = (size_t)x->tile, r = (size_t)row % tile;
    return x->q + ((size_t)row - r) * x->ldq + (size_t)k * tile + 4 * r;
}
static inline size_t nm_qrows_block(const nm_qrows *x, int64_t row, int64_t b, int halves)
{
    size_t tile = (size_t)x->tile, r = (size_t)row % tile;
    return ((size_t)row - r) * x->lds * (size_t)halves + (size_t)b * tile + r;
}

/* Rows rounded to bf16: a dword is a pair of inputs, the even one low. Tiles of 16 rows, in blocks of 32 inputs, rows and inputs beyond the last zero:
 *   rows    [tile][block][16 rows][16 pairs]
 *   lines   [tile][block][16 pairs][16 rows]
 * Dwords of a tile of k inputs, and bytes of so many rows. */
static inline size_t nm_bf16_tile(int64_t k) { return ((size_t)k + 31) / 32 * 256; }
static inline size_t nm_bf16_bytes(int64_t rows, int64_t k) { return ((size_t)rows + 15) / 16 * nm_bf16_tile(k) * sizeof(uint32_t); }

/* ---- Jobs ------------------------------------------------------------------------------------------------------------------ */

typedef struct nm_linear_job {
    const nm_panels *w;
    int64_t p0, p1;             /* panels to compute */
    int64_t rows;
    const nm_qrows *xq;         /* default compute of quantised types; row 0 is the job's first row */
    const float *x;             /* otherwise: [rows][ldx] */
    size_t ldx;
    const uint32_t *xb;         /* of linear_bf16, in place of x: rows */
    float *y;                   /* [rows][ldy], the map's column 0; columns [16 p0, min(16 p1, n)) are written */
    size_t ldy;
    const float *bias;          /* [n] or NULL */
    float add;                  /* linear_f32 alone: unless 0, y = fma(add, acc, y) takes the place of y = acc + bias: a slot, whose scale it is */
    void *scratch;              /* nm_linear_scratch bytes (linear_bf16: nm_linear_bf16_scratch), 64-byte aligned, this thread's own */
} nm_linear_job;
size_t nm_linear_scratch(const nm_panels *w, int64_t rows);
size_t nm_linear_bf16_scratch(int64_t rows);

/* Keys and values of one KV head and 64 positions (a page's part). K is stored transposed, V as rows:
 *   F16, F32:  K[d_k][64], V[64][d_v]
 *   Q8_0:      K: int8 [d_k][64], then half scale[ceil(d_k/32)][64];  V: int8 [64][d_v], then half scale[64][ceil(d_v/32)]
 * (Q8_0: 32 consecutive values of one position share a scale amax/127 rounded to half, q = rint(x / scale-as-float), clamped.) */
size_t nm_kv_k_bytes(nm_kv_type type, int d_k);     /* multiples of 64 */
size_t nm_kv_v_bytes(nm_kv_type type, int d_v);

/* One page of one KV head against a set of queries. For query i, over keys j in [first[i], last[i]) of the page, with K and V as
 * they read back from the cache's type in fp32:
 *   s_j = chain over d ascending fma(q[d], K[d][j], s), then * scale, then cap * tanh(s / cap) if cap > 0
 *   m_b = max s_j (NaN is passed over, -0 counts as +0);  p_j = exp(s_j - m_b);
 *   l_b = sum of p_j over 16 virtual lanes (j mod 16) and the fixed tree;  o_b = chain over j ascending fma(p_j, V[j], o)
 * and merged into the running state of the query (m = -inf and l = 0: the state is empty and becomes the block):
 *   m_b <= m:  c = exp(m_b - m);  l = fma(l_b, c, l);  o = fma(o_b, c, o)
 *   m_b >  m:  c = exp(m - m_b);  l = fma(l, c, l_b);  o = fma(o, c, o_b);  m = m_b
 * Queries with an empty range are left alone. The final output is o / l (a true division). */
typedef struct nm_attention_job {
    const void *k, *v;
    const void *next;           /* what will be read after v, to be fetched ahead: the K of the next page; or NULL */
    int d_k, d_v;
    int queries;                /* at most NM_QUERIES */
    const float *const *q;      /* queries pointers to d_k floats */
    const uint8_t *first, *last;
    float scale, cap;
    float *m, *l;               /* [queries] */
    float *o;                   /* [queries][ldo] */
    size_t ldo;
    void *scratch;              /* nm_attention_scratch bytes, 64-byte aligned */
} nm_attention_job;
size_t nm_attention_scratch(int d_k, int d_v);

/* ---- Backward ------------------------------------------------------------------------------------------------------------------- */

/* c[i][j] = chain over k ascending of fma(a[i][k], b[k][j], c), from what c holds if `add`, else from 0. a by strides, so that either
 * operand of a product may be read transposed; b and c by rows. Everything that backward multiplies in fp32 goes through this one kernel: gradients of
 * inputs (b: unpacked weights), of weights (k: rows of the batch, so that a step's samples are one left fold), and attention's. With k 0, c is left or zeroed. */
typedef struct nm_gemm_job {
    int64_t m, n, k;
    const float *a;
    size_t a_row, a_k;          /* a[i * a_row + k * a_k] */
    const float *b;
    size_t ldb;
    float *c;
    size_t ldc;
    bool add;
} nm_gemm_job;

/* dx[i][j] = the bf16 chain over W's outputs ascending of w[o][k0 + j] and dy[i][o], from what dx holds if `add`, else from 0. */
typedef struct nm_back_job {
    const nm_panels *w;
    int64_t k0, inputs;         /* multiples of NM_UNPACK_INPUTS and at most that, or `inputs` reaches the row's end */
    int64_t rows;
    const uint32_t *dy;         /* lines: [rows][w->n] */
    float *dx;                  /* [rows][ldx], from input k0 on */
    size_t ldx;
    bool add;
    void *scratch;              /* nm_back_bf16_scratch bytes, 64-byte aligned */
} nm_back_job;
size_t nm_back_bf16_scratch(int64_t rows);

/* ---- The table --------------------------------------------------------------------------------------------------------------- */

typedef struct nm_kernels {
    const char *tier;           /* strongest tier in the table, e.g. "avx2" */
    /* Any type; picks by w->type and by panels or rows. */
    void (*linear_q8)(const nm_linear_job *);       /* quantised types, job->xq */
    void (*linear_f32)(const nm_linear_job *);      /* any type, job->x, exact dequantised weights */
    /* Products in bf16. Sums of maps are in `bf16`'s arithmetic. */
    const char *bf16;
    bool has_bf16;              /* the ISA has such products, and they are meant to be faster than fp32's: worth it, not only defined */
    void (*round_rows)(const float *x, size_t ldx, int64_t rows, int64_t k, uint32_t *tile);    /* up to 16 rows, a tile of them */
    void (*round_lines)(const float *x, size_t ldx, int64_t rows, int64_t k, uint32_t *tile);
    void (*linear_bf16)(const nm_linear_job *);     /* any type, job->xb; scratch: nm_linear_bf16_scratch */
    void (*back_bf16)(const nm_back_job *);
    /* x: k inputs of a row, which are those from `at` on (multiples of 32; at one of 64); pads to 64. */
    void (*quantize)(const float *x, int64_t k, const nm_qrows *to, int64_t row, int64_t at);
    int few_rows;               /* two and more rows up to this number are read by linear_q8 in tiles of NM_QTILE_FEW */
    int tile_rows;              /* the tile in which it reads more; 1: it reads rows as they are, of any number */
    void (*attention[3])(const nm_attention_job *); /* by nm_kv_type */
    /* Merges state b (m, l, o of a later block) into state a by the rule above; an empty b changes nothing. */
    void (*attention_merge)(float *m, float *l, float *o, float m_b, float l_b, const float *o_b, int d_v);
    void (*kv_store_k[3])(void *k_page, int d_k, int slot, const float *k);     /* slot: position & 63 */
    void (*kv_store_v[3])(void *v_page, int d_v, int slot, const float *v);
    /* y may be x. w (and b) may be NULL: no weight. y = (x * (1/sqrt(mean(x^2) + eps))) * w */
    void (*rms_norm)(const float *x, const float *w, float eps, int64_t n, float *y);
    /* mean, then variance of (x - mean) (two passes), y = ((x - mean) * (1/sqrt(var + eps))) * w + b (each step rounded) */
    void (*layer_norm)(const float *x, const float *w, const float *b, float eps, int64_t n, float *y);
    /* y = a + alpha * b as fma(alpha, b, a); y may be a or b */
    void (*add_scaled)(const float *a, const float *b, float alpha, int64_t n, float *y);
    void (*scale)(const float *x, float alpha, int64_t n, float *y);
    void (*mul)(const float *a, const float *b, int64_t n, float *y);
    void (*silu)(const float *x, int64_t n, float *y);          /* x / (1 + exp(-x)) */
    void (*gelu_tanh)(const float *x, int64_t n, float *y);     /* tanh approximation */
    void (*gelu_erf)(const float *x, int64_t n, float *y);      /* x/2 * (1 + erf(x/sqrt 2)) */
    void (*softcap)(const float *x, float cap, int64_t n, float *y);    /* cap * tanh(x / cap) */
    /* Rotates n_rot/2 pairs of one head in place: pairs (i, i + n_rot/2) if neox, else (2i, 2i+1), by cos[i], sin[i]:
     * a' = fma(a, c, -(b * s)), b' = fma(b, c, a * s) */
    void (*rope)(float *x, const float *cos, const float *sin, int n_rot, bool neox);

    /* ---- What backward needs beside them */
    void (*gemm)(const nm_gemm_job *);
    /* The same where a step is in bf16. With "bf16", its arithmetic over pairs of k, an odd k filled up with one zero, and a by rows (a_k 1) or turned (a_row 1) alone;
     * with "amx-bf16" it is gemm. */
    void (*gemm_bf16)(const nm_gemm_job *);
    /* Inputs [k0, k0 + count) of panel p as rows: out[r * ldo + i], exact fp32, rows beyond n zero of either sign. k0 is a multiple of NM_UNPACK_INPUTS, and so
     * is count, or it reaches the row's end. scratch: nm_linear_scratch. */
    void (*unpack_rows)(const nm_panels *w, int64_t p, int64_t k0, int64_t count, float *out, size_t ldo, void *scratch);
    /* y = e^(x - m) / l with m = max x, l = the 16-lane sum; y may be x. */
    void (*softmax)(const float *x, int64_t n, float *y, float *m, float *l);
    /* y = (p * (dp - d)) * scale: the gradient of the scores behind a softmax; y may be dp. */
    void (*softmax_back)(const float *p, const float *dp, float d, float scale, int64_t n, float *y);
    float (*dot)(const float *a, const float *b, int64_t n);    /* 16 virtual lanes of fma, and the tree */
    /* Gradients of an input from those of the output, `add` adding to what dx holds. Norms: g = dy * w, r as in the forward,
     *   RMS norm    dx = fma(g, r, -(x * ((dot(g, x) * r) * r * r / n)))
     *   layer norm  h = (x - mean) * r;  dx = r * ((g - sum(g) / n) - h * (dot(g, h) / n)) */
    void (*rms_norm_back)(const float *x, const float *w, const float *dy, float eps, int64_t n, float *dx, bool add);
    void (*layer_norm_back)(const float *x, const float *w, const float *dy, float eps, int64_t n, float *dx, bool add);
    /* mean (0 for RMS norm) and r of a row, and the weight's gradient over some of its columns: dw = fma(dy, (x - mean) * r, dw) */
    void (*norm_facts)(const float *x, float eps, bool layer, int64_t n, float *mean, float *r);
    void (*norm_back_weight)(const float *x, float mean, float r, const float *dy, int64_t n, float *dw);
    /* dx = dy * f'(x); dx may be dy */
    void (*silu_back)(const float *x, const float *dy, int64_t n, float *dx);
    void (*gelu_tanh_back)(const float *x, const float *dy, int64_t n, float *dx);
    void (*gelu_erf_back)(const float *x, const float *dy, int64_t n, float *dx);
    void (*softcap_back)(const float *y, const float *dy, float cap, int64_t n, float *dx);     /* from the output y */
} nm_kernels;

/* The tile in which linear_q8 of this table reads `rows` rows. */
static inline int nm_qrows_tile(const nm_kernels *k, int64_t rows)
{
    return rows == 1 || k->tile_rows == 1 ? 1 : rows <= k->few_rows ? NM_QTILE_FEW : k->tile_rows;
}

/* The table in use. Valid after the first call; the mask (nm_set_kernels) changes it in place. */
const nm_kernels *nm_kernels_get(void);
/* Fillers, called weakest first; each overwrites the slots that it is better at. */
void nm_kernels_ref(nm_kernels *table);
void nm_kernels_ref_amx_bf16(nm_kernels *table);    /* the reference of the other arithmetic in bf16; in no table */
void nm_kernels_avx2(nm_kernels *table);
void nm_kernels_avxvnni(nm_kernels *table);
void nm_kernels_avx512(nm_kernels *table);
void nm_kernels_vnni(nm_kernels *table);
void nm_kernels_bf16(nm_kernels *table);
void nm_kernels_amx(nm_kernels *table);
void nm_kernels_amx_bf16(nm_kernels *table);        /* what that calls for its part in bf16 */
void nm_kernels_neon(nm_kernels *table);
void nm_kernels_dotprod(nm_kernels *table);
void nm_kernels_i8mm(nm_kernels *table);

#endif
