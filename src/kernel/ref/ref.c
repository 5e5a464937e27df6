/* The reference: plain C that defines every kernel's result to the bit (kernel.h states the expressions). Written to be read, kept for
 * ever, and what runs where no faster tier is allowed. fmaf() rounds once whatever the compiler and the CPU. */
#include <math.h>
#include <string.h>

#include "kernel/layout.h"
#include "kernel/v16_c.h"
#include "kernel/v16_math.h"
#include "kernel/elementwise_back.h"

/* ---- Linear maps ----------------------------------------------------------------------------------------------------------------- */

static int outputs_of(const nm_panels *w, int64_t p)
{
    int64_t left = w->n - NM_PANEL * p;
    return left < NM_PANEL ? (int)left : NM_PANEL;
}

static void start_outputs(const nm_linear_job *job, int64_t p)
{
    for (int64_t t = 0; t < job->rows; t++)
        for (int r = 0; r < outputs_of(job->w, p); r++) job->y[(size_t)t * job->ldy + (size_t)(NM_PANEL * p + r)] = 0;
}

static void add_bias(const nm_linear_job *job, int64_t p)
{
    for (int64_t t = 0; t < job->rows && job->bias; t++)
        for (int64_t o = NM_PANEL * p; o < NM_PANEL * p + outputs_of(job->w, p); o++) job->y[(size_t)t * job->ldy + (size_t)o] += job->bias[o];
}

/* One output's chain over the groups of one stretch of K. */
static float chain_q8(const nm_type *type, const int8_t *q, const float *scale, const float *min, int groups,
                      const int8_t *x, const float *sx, float acc)
{
    int group = type->group;
    for (int g = 0; g < groups; g++, q += group, x += group) {
        int32_t isum = 0, xsum = 0;
        for (int i = 0; i < group; i++) {
            isum += q[i] * x[i];
            xsum += x[i];
        }
        float s = sx[g * group / NM_BLOCK];
        acc = fmaf((float)isum, scale[g] * s, acc);
        if (type->has_min) acc = fmaf(min[g], s * (float)xsum, acc);
    }
    return acc;
}

/* `blocks` blocks of a row of activations from b on, one after the other. */
static void activations_at(const nm_qrows *from, int64_t row, int64_t b, int64_t blocks, int8_t *q, float *scale)
{
    for (int64_t i = 0; i < blocks * NM_STEPS; i++) memcpy(q + 4 * i, nm_qrows_four(from, row, b * NM_BLOCK + 4 * i), 4);
    for (int64_t i = 0; i < blocks; i++) scale[i] = from->scale[nm_qrows_block(from, row, b + i, 1)];
}

static void linear_q8(const nm_linear_job *job)
{
    const nm_panels *w = job->w;
    int64_t blocks = w->k / NM_BLOCK, step = w->type->block > NM_BLOCK ? w->type->block / NM_BLOCK : 1;
    for (int64_t p = job->p0; p < job->p1; p++) {
        start_outputs(job, p);
        for (int64_t b = 0; b < blocks; b += step)
            for (int64_t o = NM_PANEL * p; o < NM_PANEL * p + outputs_of(w, p); o++) {
                int8_t q[8 * NM_BLOCK], x[8 * NM_BLOCK];
                float scale[16], min[16], sx[8];
                nm_unpack_row(w, o, b, step, q, scale, min);
                for (int64_t t = 0; t < job->rows; t++) {
                    float *y = &job->y[(size_t)t * job->ldy + (size_t)o];
                    bool flat = job->xq->tile == 1;
                    if (!flat) activations_at(job->xq, t, b, step, x, sx);
                    *y = chain_q8(w->type, q, scale, min, (int)step * NM_BLOCK / w->type->group, flat ? nm_qrows_four(job->xq, t, b * NM_BLOCK) : x,
                                  flat ? job->xq->scale + nm_qrows_block(job->xq, t, b, 1) : sx, *y);
                }
            }
        add_bias(job, p);
    }
}

/* Inputs [k0, k0 + count) of panel p as exact fp32. */
static void panel_floats(const nm_panels *w, int64_t p, int64_t k0, int64_t count, float *out)
{
    if (!w->type->group) {
        nm_unpack_plain(w, p, k0, count, out);
        return;
    }
    int8_t q[8 * NM_BLOCK];
    float scale[16], min[16];
    for (int r = 0; r < outputs_of(w, p); r++) {
        nm_unpack_row(w, NM_PANEL * p + r, k0 / NM_BLOCK, count / NM_BLOCK, q, scale, min);
        for (int64_t i = 0; i < count; i++) {
            int64_t g = i / w->type->group;
            float v = scale[g] * (float)q[i];
            out[i * NM_PANEL + r] = w->type->has_min ? v + min[g] : v;
        }
    }
}

/* n inputs of one output's chain, `at` and `bt` apart. */
static float chain_f32(const float *a, size_t at, const float *b, size_t bt, int64_t n, float acc)
{
    for (; n > 0; n--, a += at, b += bt) acc = fmaf(*a, *b, acc);
    return acc;
}

static void linear(const nm_linear_job *job)
{
    const nm_panels *w = job->w;
    int64_t step = w->type->block > NM_BLOCK ? w->type->block : NM_BLOCK;
    for (int64_t p = job->p0; p < job->p1; p++) {
        start_outputs(job, p);
        for (int64_t k = 0; k < w->k; k += step) {
            float f[8 * NM_BLOCK * NM_PANEL];
            int64_t count = w->k - k < step ? w->k - k : step;
            panel_floats(w, p, k, count, f);
            for (int64_t t = 0; t < job->rows; t++)
                for (int r = 0; r < outputs_of(w, p); r++) {
                    float *y = &job->y[(size_t)t * job->ldy + (size_t)(NM_PANEL * p + r)];
                    *y = chain_f32(f + r, NM_PANEL, job->x + (size_t)t * job->ldx + k, 1, count, *y);
                }
        }
        add_bias(job, p);
    }
}

static void add_f32(const nm_linear_job *job, int64_t p, int64_t t)
{
    const nm_panels *w = job->w;
    float acc[NM_PANEL] = {0}, f[8 * NM_BLOCK * NM_PANEL];
    const int64_t step = 8 * NM_BLOCK;
    for (int64_t k = 0; k < w->k; k += step) {
        int64_t count = w->k - k < step ? w->k - k : step;
        panel_floats(w, p, k, count, f);
        for (int r = 0; r < NM_PANEL; r++) acc[r] = chain_f32(f + r, NM_PANEL, job->x + (size_t)t * job->ldx + k, 1, count, acc[r]);
    }
    for (int r = 0; r < outputs_of(w, p); r++) {
        float *y = &job->y[(size_t)t * job->ldy + (size_t)(NM_PANEL * p + r)];
        *y = fmaf(job->add, acc[r], *y);
    }
}

static void linear_f32(const nm_linear_job *job)
{
    if (job->add == 0) linear(job);
    for (int64_t p = job->p0; p < job->p1 && job->add != 0; p++) for (int64_t t = 0; t < job->rows; t++) add_f32(job, p, t);
}

/* ---- Products in bf16 ---------------------------------------------------------------------------------------------------------------- */

static float no_denormal(float f) { return fabsf(f) < 0x1p-126f ? copysignf(0, f) : f; }

static uint16_t to_bf16(float f) { return nm_float_to_bf16(no_denormal(f)); }

/* What counts as denormal is the result rounded as if exponents had no end: so much below 2^-126 does not. There, the sum is exact in double. */
static float fma_bf16(float a, float b, float c)
{
    float r = fmaf(a, b, no_denormal(c));
    return fabs((double)a * (double)b + (double)no_denormal(c)) < 0x1p-126 - 0x1p-151 ? copysignf(0, r) : r;
}

static float sum_bf16(float a, float b) { return no_denormal(no_denormal(a) + no_denormal(b)); }

/* A block of 32 inputs of one output's chain: sixteen pairs, the even input low; those of b `step` apart. */
typedef float (*block_fn)(const uint32_t *a, const uint32_t *b, size_t step, float acc);

static float low(uint32_t pair) { return nm_bf16_to_float((uint16_t)pair); }
static float high(uint32_t pair) { return nm_bf16_to_float((uint16_t)(pair >> 16)); }

static float block_bf16(const uint32_t *a, const uint32_t *b, size_t step, float acc)
{
    for (int i = 0; i < 16; i++, b += step) acc = fma_bf16(low(a[i]), low(*b), fma_bf16(high(a[i]), high(*b), acc));
    return acc;
}

static float block_amx(const uint32_t *a, const uint32_t *b, size_t step, float acc)
{
    float even = 0, odd = 0;
    for (int i = 0; i < 16; i++, b += step) {
        even = fma_bf16(low(a[i]), low(*b), even);
        odd = fma_bf16(high(a[i]), high(*b), odd);
    }
    return sum_bf16(acc, sum_bf16(even, odd));
}

static void round_tile(const float *x, size_t ldx, int64_t rows, int64_t k, uint32_t *tile, size_t row_step, size_t pair_step)
{
    memset(tile, 0, nm_bf16_tile(k) * sizeof *tile);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < k; i++)
            tile[i / 32 * 256 + r * (int64_t)row_step + i % 32 / 2 * (int64_t)pair_step] |= (uint32_t)to_bf16(x[(size_t)r * ldx + (size_t)i]) << i % 2 * 16;
}

static void round_rows(const float *x, size_t ldx, int64_t rows, int64_t k, uint32_t *tile) { round_tile(x, ldx, rows, k, tile, 16, 1); }
static void round_lines(const float *x, size_t ldx, int64_t rows, int64_t k, uint32_t *tile) { round_tile(x, ldx, rows, k, tile, 1, 16); }

/* n values `step` apart to so many pairs. */
static void round_pairs(const float *f, size_t step, int64_t n, int64_t count, uint32_t *pairs)
{
    memset(pairs, 0, (size_t)count * sizeof *pairs);
    for (int64_t i = 0; i < n && i < 2 * count; i++) pairs[i / 2] |= (uint32_t)to_bf16(f[(size_t)i * step]) << i % 2 * 16;
}

static void linear_rounded(const nm_linear_job *job, block_fn block)
{
    const nm_panels *w = job->w;
    const int64_t step = 8 * NM_BLOCK;
    for (int64_t p = job->p0; p < job->p1; p++) {
        start_outputs(job, p);
        for (int64_t k = 0; k < w->k; k += step) {
            float f[8 * NM_BLOCK * NM_PANEL];
            int64_t count = w->k - k < step ? w->k - k : step;
            panel_floats(w, p, k, count, f);
            for (int64_t b = 0; b * 32 < count; b++)
                for (int r = 0; r < outputs_of(w, p); r++) {
                    uint32_t pairs[16];
                    round_pairs(f + b * 32 * NM_PANEL + r, NM_PANEL, count - b * 32, 16, pairs);
                    for (int64_t t = 0; t < job->rows; t++) {
                        float *y = &job->y[(size_t)t * job->ldy + (size_t)(NM_PANEL * p + r)];
                        *y = block(pairs, job->xb + (size_t)(t / 16) * nm_bf16_tile(w->k) + (k / 32 + b) * 256 + t % 16 * 16, 1, *y);
                    }
                }
        }
        add_bias(job, p);
    }
}

/* The block of outputs that two panels hold, for all inputs of the job. */
static void back_block(const nm_back_job *job, int64_t b, block_fn block)
{
    float f[2 * NM_UNPACK_INPUTS * NM_PANEL] = {0}, column[32];
    const nm_panels *w = job->w;
    for (int i = 0; i < 2 && 2 * b + i < w->panels; i++) panel_floats(w, 2 * b + i, job->k0, job->inputs, f + i * NM_UNPACK_INPUTS * NM_PANEL);
    for (int64_t i = 0; i < job->inputs; i++) {
        uint32_t pairs[16];
        for (int o = 0; o < 32; o++) column[o] = f[(o / 16 * NM_UNPACK_INPUTS + i) * NM_PANEL + o % 16];
        round_pairs(column, 1, w->n - 32 * b, 16, pairs);
        for (int64_t t = 0; t < job->rows; t++) {
            float *dx = &job->dx[(size_t)t * job->ldx + (size_t)i];
            *dx = block(pairs, job->dy + (size_t)(t / 16) * nm_bf16_tile(w->n) + b * 256 + t % 16, 16, b || job->add ? *dx : 0);
        }
    }
}

static void back_rounded(const nm_back_job *job, block_fn block)
{
    for (int64_t b = 0; 2 * b < job->w->panels; b++) back_block(job, b, block);
}

static void linear_bf16(const nm_linear_job *job) { linear_rounded(job, block_bf16); }
static void back_bf16(const nm_back_job *job) { back_rounded(job, block_bf16); }
static void linear_amx(const nm_linear_job *job) { linear_rounded(job, block_amx); }
static void back_amx(const nm_back_job *job) { back_rounded(job, block_amx); }

void nm_kernels_ref_amx_bf16(nm_kernels *table)
{
    table->bf16 = "amx-bf16";
    table->linear_bf16 = linear_amx;
    table->back_bf16 = back_amx;
    table->gemm_bf16 = table->gemm;
}

/* ---- Activations --------------------------------------------------------------------------------------------------------------------- */

/* Magnitudes compare as integers, so that infinities and NaN are the largest and need no second look. */
static uint32_t largest_bits(const float *x, int n)
{
    uint32_t most = 0;
    for (int i = 0; i < n; i++) {
        uint32_t bits = v16_bits(x[i]) & 0x7fffffffu;
        if (bits > most) most = bits;
    }
    return most;
}

/* Gives the block's scale. */
static float quantize_block(const float *x, int8_t *q)
{
    uint32_t bits = largest_bits(x, NM_BLOCK);
    bool bad = bits >= 0x7f800000u, none = bits < v16_bits(NM_SMALLEST_AMAX);
    float amax = v16_float(bits), inverse = 127.0f / amax;
    for (int i = 0; i < NM_BLOCK; i++) q[i] = bad || none ? 0 : (int8_t)rintf(x[i] * inverse);
    return bad ? NAN : none ? 0 : amax / 127.0f;
}

static void quantize(const float *x, int64_t k, const nm_qrows *to, int64_t row, int64_t at)
{
    for (int64_t b = 0; b < (k + 63) / 64 * 2; b++) {
        int8_t q[NM_BLOCK] = {0};
        float scale = b < k / NM_BLOCK ? quantize_block(x + b * NM_BLOCK, q) : 0;
        int32_t sum[2] = {0, 0};
        for (int i = 0; i < NM_BLOCK; i++) sum[i / 16] += q[i];
        nm_qrows_put(to, row, at / NM_BLOCK + b, q, scale, sum[0], sum[1]);
    }
}

/* ---- Attention ------------------------------------------------------------------------------------------------------------------------- */

/* The canonical exp and tanh of one number: a lane of the sixteen. */
static float exp1(float x) { return v_exp(v_set(x)).f[0]; }
static float tanh1(float x) { return v_tanh(v_set(x)).f[0]; }

static float k_at(nm_kv_type type, const nm_attention_job *job, int d, int j)
{
    size_t at = (size_t)d * NM_PAGE + (size_t)j;
    if (type == NM_KV_F32) return ((const float *)job->k)[at];
    if (type == NM_KV_F16) return nm_half_to_float(((const uint16_t *)job->k)[at]);
    const uint16_t *scale = (const uint16_t *)((const int8_t *)job->k + (size_t)job->d_k * NM_PAGE);
    return nm_half_to_float(scale[d / 32 * NM_PAGE + j]) * (float)((const int8_t *)job->k)[at];
}

static float v_at(nm_kv_type type, const nm_attention_job *job, int j, int d)
{
    size_t at = (size_t)j * (size_t)job->d_v + (size_t)d;
    if (type == NM_KV_F32) return ((const float *)job->v)[at];
    if (type == NM_KV_F16) return nm_half_to_float(((const uint16_t *)job->v)[at]);
    const uint16_t *scale = (const uint16_t *)((const int8_t *)job->v + (size_t)job->d_v * NM_PAGE);
    return nm_half_to_float(scale[j * ((job->d_v + 31) / 32) + d / 32]) * (float)((const int8_t *)job->v)[at];
}

static void attention_merge(float *m, float *l, float *o, float m_b, float l_b, const float *o_b, int d_v)
{
    if (l_b == 0) return;               /* b is empty, and its o was never written */
    if (*m == -INFINITY && *l == 0) {
        *m = m_b;
        *l = l_b;
        memcpy(o, o_b, (size_t)d_v * sizeof *o);
    } else if (m_b > *m) {
        float c = exp1(*m - m_b);
        *l = fmaf(*l, c, l_b);
        for (int d = 0; d < d_v; d++) o[d] = fmaf(o[d], c, o_b[d]);
        *m = m_b;
    } else {
        float c = exp1(m_b - *m);
        *l = fmaf(l_b, c, *l);
        for (int d = 0; d < d_v; d++) o[d] = fmaf(o_b[d], c, o[d]);
    }
}

static float score(nm_kv_type type, const nm_attention_job *job, int i, int j)
{
    float s = 0;
    for (int d = 0; d < job->d_k; d++) s = fmaf(job->q[i][d], k_at(type, job, d, j), s);
    s *= job->scale;
    return job->cap > 0 ? job->cap * tanh1(s / job->cap) : s;
}

static void attend(nm_kv_type type, const nm_attention_job *job, int i)
{
    float p[NM_PAGE], lane[16] = {0}, m = -INFINITY, *o = job->scratch;
    int first = job->first[i], last = job->last[i];
    for (int j = first; j < last; j++) {
        p[j] = score(type, job, i, j);
        m = p[j] > m ? p[j] : m;
    }
    m += 0.0f;                      /* -0 becomes +0: which of two zeros is the larger must not matter */
    for (int j = first; j < last; j++) {
        p[j] = exp1(p[j] - m);
        lane[j % 16] += p[j];
    }
    for (int d = 0; d < job->d_v; d++) {
        o[d] = 0;
        for (int j = first; j < last; j++) o[d] = fmaf(p[j], v_at(type, job, j, d), o[d]);
    }
    attention_merge(job->m + i, job->l + i, job->o + (size_t)i * job->ldo, m, v_sum(v_load(lane)), o, job->d_v);
}

void nm_attention_ref(nm_kv_type type, const nm_attention_job *job)
{
    for (int i = 0; i < job->queries; i++)
        if (job->first[i] < job->last[i]) attend(type, job, i);
}

static void attention_f16(const nm_attention_job *job) { nm_attention_ref(NM_KV_F16, job); }
static void attention_f32(const nm_attention_job *job) { nm_attention_ref(NM_KV_F32, job); }
static void attention_q8_0(const nm_attention_job *job) { nm_attention_ref(NM_KV_Q8_0, job); }

/* ---- Storing keys and values --------------------------------------------------------------------------------------------------------------- */

static void store_k_f32(void *page, int d_k, int slot, const float *k)
{
    for (int d = 0; d < d_k; d++) ((float *)page)[d * NM_PAGE + slot] = k[d];
}

static void store_k_f16(void *page, int d_k, int slot, const float *k)
{
    for (int d = 0; d < d_k; d++) ((uint16_t *)page)[d * NM_PAGE + slot] = nm_float_to_half(k[d]);
}

static void store_v_f32(void *page, int d_v, int slot, const float *v) { memcpy((float *)page + slot * d_v, v, (size_t)d_v * sizeof *v); }

static void store_v_f16(void *page, int d_v, int slot, const float *v)
{
    for (int d = 0; d < d_v; d++) ((uint16_t *)page)[slot * d_v + d] = nm_float_to_half(v[d]);
}

/* Up to 32 values to int8 and their half scale. Values that are not finite, or too large for a half scale, make the scale NaN. */
static uint16_t quantize_kv(const float *x, int n, int8_t *q)
{
    uint32_t bits = largest_bits(x, n);
    uint16_t half = bits >= 0x7f800000u ? 0x7e00 : nm_float_to_half(v16_float(bits) / 127.0f);
    if (half >= 0x7c00) half = 0x7e00;
    float scale = nm_half_to_float(half);
    for (int i = 0; i < n; i++) {
        float v = half == 0 || half == 0x7e00 ? 0 : rintf(x[i] / scale);
        q[i] = (int8_t)(v > 127 ? 127 : v < -127 ? -127 : v);
    }
    return half;
}

static void store_k_q8_0(void *page, int d_k, int slot, const float *k)
{
    int8_t *to = page, q[32];
    uint16_t *scale = (uint16_t *)(to + d_k * NM_PAGE);
    for (int d = 0; d < d_k; d += 32) {
        int n = d_k - d < 32 ? d_k - d : 32;
        scale[d / 32 * NM_PAGE + slot] = quantize_kv(k + d, n, q);
        for (int i = 0; i < n; i++) to[(d + i) * NM_PAGE + slot] = q[i];
    }
}

static void store_v_q8_0(void *page, int d_v, int slot, const float *v)
{
    int8_t *to = page;
    uint16_t *scale = (uint16_t *)(to + d_v * NM_PAGE) + slot * ((d_v + 31) / 32);
    for (int d = 0; d < d_v; d += 32) scale[d / 32] = quantize_kv(v + d, d_v - d < 32 ? d_v - d : 32, to + slot * d_v + d);
}

/* ---- Backward ---------------------------------------------------------------------------------------------------------------------------------- */

static void gemm(const nm_gemm_job *g)
{
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) {
            float *c = g->c + (size_t)i * g->ldc + j;
            *c = chain_f32(g->a + (size_t)i * g->a_row, g->a_k, g->b + j, g->ldb, g->k, g->add ? *c : 0);
        }
}

/* One output's pairs, the last one filled up with zero. */
static float chain_bf16(const float *a, size_t a_step, const float *b, size_t b_step, int64_t k, float acc)
{
    for (int64_t i = 0; i < k; i += 2) {
        uint32_t x, w;
        round_pairs(a + (size_t)i * a_step, a_step, k - i, 1, &x);
        round_pairs(b + (size_t)i * b_step, b_step, k - i, 1, &w);
        acc = fma_bf16(low(w), low(x), fma_bf16(high(w), high(x), acc));
    }
    return acc;
}

static void gemm_bf16(const nm_gemm_job *g)
{
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) {
            float *c = g->c + (size_t)i * g->ldc + j;
            *c = chain_bf16(g->a + (size_t)i * g->a_row, g->a_k, g->b + j, g->ldb, g->k, g->add ? *c : 0);
        }
}


static void unpack_rows(const nm_panels *w, int64_t p, int64_t k0, int64_t count, float *out, size_t ldo, void *scratch)
{
    float *f = scratch;             /* [NM_UNPACK_INPUTS][16] */
    for (int64_t k = 0; k < count; k += NM_UNPACK_INPUTS) {
        int64_t n = count - k < NM_UNPACK_INPUTS ? count - k : NM_UNPACK_INPUTS;
        memset(f, 0, (size_t)n * NM_PANEL * sizeof *f);
        panel_floats(w, p, k0 + k, n, f);
        for (int r = 0; r < NM_PANEL; r++)
            for (int64_t i = 0; i < n; i++) out[(size_t)r * ldo + (size_t)(k + i)] = f[i * NM_PANEL + r];
    }
}

void nm_kernels_ref(nm_kernels *table)
{
    table->tier = "c";
    table->linear_q8 = linear_q8;
    table->linear_f32 = linear_f32;
    table->bf16 = "bf16";
    table->has_bf16 = false;
    table->round_rows = round_rows;
    table->round_lines = round_lines;
    table->linear_bf16 = linear_bf16;
    table->back_bf16 = back_bf16;
    table->quantize = quantize;
    table->tile_rows = table->few_rows = 1;
    table->attention_merge = attention_merge;
    table->attention[NM_KV_F16] = attention_f16;
    table->attention[NM_KV_F32] = attention_f32;
    table->attention[NM_KV_Q8_0] = attention_q8_0;
    table->kv_store_k[NM_KV_F16] = store_k_f16;
    table->kv_store_k[NM_KV_F32] = store_k_f32;
    table->kv_store_k[NM_KV_Q8_0] = store_k_q8_0;
    table->kv_store_v[NM_KV_F16] = store_v_f16;
    table->kv_store_v[NM_KV_F32] = store_v_f32;
    table->kv_store_v[NM_KV_Q8_0] = store_v_q8_0;
    table->gemm = gemm;
    table->gemm_bf16 = gemm_bf16;
    table->unpack_rows = unpack_rows;
    fill_elementwise(table);
    fill_elementwise_back(table);
}
