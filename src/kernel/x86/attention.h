/* Template: attention over one page, and the stores into it, on v16. Included once per tier after a v16 backend, v16_math.h and
 * kernel/layout.h. Parameters:
 *   TILE_KEYS    vectors of 16 keys (or of 16 outputs) that one register tile is wide; a tile has TILE_QUERIES queries
 * The arithmetic is kernel.h's: chains over d for scores, over j for outputs, so tiles only choose what is computed side by side.
 * Many queries: the page is converted to fp32 once, then read as F32. Few: converted on the fly. */
#ifndef NM_X86_ATTENTION_H
#define NM_X86_ATTENTION_H

enum { TILE_QUERIES = 6, KEY_VECTORS = NM_PAGE / 16 };

/* One page as the tiles read it: the cache's own type, or fp32 in scratch. */
typedef struct page {
    nm_kv_type k_type, v_type;
    const void *k, *v;
    int d_k, d_v, v_stride;     /* stride of V's rows in values */
} page;

/* Where the tiles keep what outlives registers. */
typedef struct attention_scratch {
    float *k, *v;               /* [d_k][64], [64][d_v rounded to 16] */
    float *p;                   /* [TILE_QUERIES][64] scores, then probabilities */
    float *o;                   /* [TILE_QUERIES][d_v rounded to 16] */
} attention_scratch;

V16_INLINE v16 load_k(nm_kv_type type, const page *g, int d, int j)
{
    size_t at = (size_t)d * NM_PAGE + (size_t)j;
    if (type == NM_KV_F32) return v_load((const float *)g->k + at);
    if (type == NM_KV_F16) return v_load_half((const uint16_t *)g->k + at);
    const int8_t *q = g->k;
    return v_mul(v_load_half((const uint16_t *)(q + g->d_k * NM_PAGE) + d / 32 * NM_PAGE + j), v_load_int8(q + at));
}

/* d is a multiple of 16 and d + 16 <= v_stride. */
V16_INLINE v16 load_v(nm_kv_type type, const page *g, int j, int d)
{
    size_t at = (size_t)j * (size_t)g->v_stride + (size_t)d;
    if (type == NM_KV_F32) return v_load((const float *)g->v + at);
    if (type == NM_KV_F16) return v_load_half((const uint16_t *)g->v + at);
    const int8_t *q = g->v;
    const uint16_t *scale = (const uint16_t *)(q + g->d_v * NM_PAGE) + j * ((g->d_v + 31) / 32) + d / 32;
    return v_mul(v_set(_cvtsh_ss(*scale)), v_load_int8(q + at));
}

/* Scores of `queries` queries and 16 * vectors keys from j on, scaled: p[i][j]. */
V16_INLINE void score_tile(nm_kv_type type, int queries, int vectors, const page *g, const float *const *q, int j, float scale, float *p)
{
    v16 s[TILE_QUERIES][KEY_VECTORS];
    _Pragma("GCC unroll 6") for (int i = 0; i < queries; i++)
        _Pragma("GCC unroll 4") for (int c = 0; c < vectors; c++) s[i][c] = v_set(0.0f);
    for (int d = 0; d < g->d_k; d++) {
        v16 k[KEY_VECTORS];
        _Pragma("GCC unroll 4") for (int c = 0; c < vectors; c++) k[c] = load_k(type, g, d, j + 16 * c);
        _Pragma("GCC unroll 6") for (int i = 0; i < queries; i++) {
            v16 x = v_set(q[i][d]);
            _Pragma("GCC unroll 4") for (int c = 0; c < vectors; c++) s[i][c] = v_fma(x, k[c], s[i][c]);
        }
    }
    _Pragma("GCC unroll 6") for (int i = 0; i < queries; i++)
        _Pragma("GCC unroll 4") for (int c = 0; c < vectors; c++) v_store(p + i * NM_PAGE + j + 16 * c, v_mul(s[i][c], v_set(scale)));
}

/* Outputs of `queries` queries over keys [first, last): o[i] continues its chain. */
V16_INLINE void output_tile(nm_kv_type type, int queries, int vectors, const page *g, const float *p, int first, int last, int d, float *o, int ldo)
{
    v16 s[TILE_QUERIES][KEY_VECTORS];
    _Pragma("GCC unroll 6") for (int i = 0; i < queries; i++)
        _Pragma("GCC unroll 4") for (int c = 0; c < vectors; c++) s[i][c] = v_load(o + i * ldo + d + 16 * c);
    for (int j = first; j < last; j++) {
        v16 v[KEY_VECTORS];
        _Pragma("GCC unroll 4") for (int c = 0; c < vectors; c++) v[c] = load_v(type, g, j, d + 16 * c);
        _Pragma("GCC unroll 6") for (int i = 0; i < queries; i++) {
            v16 x = v_set(p[i * NM_PAGE + j]);
            _Pragma("GCC unroll 4") for (int c = 0; c < vectors; c++) s[i][c] = v_fma(x, v[c], s[i][c]);
        }
    }
    _Pragma("GCC unroll 6") for (int i = 0; i < queries; i++)
        _Pragma("GCC unroll 4") for (int c = 0; c < vectors; c++) v_store(o + i * ldo + d + 16 * c, s[i][c]);
}

/* The tiles with their sizes as constants: 6, 3, 2 or 1 queries of each type. */
#define TILE_SIZES(X, type) X(type, 6) X(type, 3) X(type, 2) X(type, 1)
#define DEFINE_TILES(type, n) \
    static void scores_##type##_##n(const page *g, const float *const *q, int first, int last, float scale, float *p) \
    { \
        int j = first / 16 * 16; \
        for (; TILE_KEYS > 1 && j + 16 * TILE_KEYS <= (last + 15) / 16 * 16; j += 16 * TILE_KEYS) score_tile(NM_KV_##type, n, TILE_KEYS, g, q, j, scale, p); \
        for (; j < last; j += 16) score_tile(NM_KV_##type, n, 1, g, q, j, scale, p); \
    } \
    static void outputs_##type##_##n(const page *g, const float *p, int first, int last, float *o, int ldo) \
    { \
        int d = 0; \
        for (; TILE_KEYS > 1 && d + 16 * TILE_KEYS <= ldo; d += 16 * TILE_KEYS) output_tile(NM_KV_##type, n, TILE_KEYS, g, p, first, last, d, o, ldo); \
        for (; d < ldo; d += 16) output_tile(NM_KV_##type, n, 1, g, p, first, last, d, o, ldo); \
    }
TILE_SIZES(DEFINE_TILES, F16)
TILE_SIZES(DEFINE_TILES, F32)
TILE_SIZES(DEFINE_TILES, Q8_0)
#undef DEFINE_TILES

typedef void (*scores_fn)(const page *, const float *const *, int, int, float, float *);
typedef void (*outputs_fn)(const page *, const float *, int, int, float *, int);
#define SIZES_OF(stem, type) {[1] = stem##_##type##_1, [2] = stem##_##type##_2, [3] = stem##_##type##_3, [6] = stem##_##type##_6}
static const scores_fn score_tiles[3][TILE_QUERIES + 1] = {
    [NM_KV_F16] = SIZES_OF(scores, F16), [NM_KV_F32] = SIZES_OF(scores, F32), [NM_KV_Q8_0] = SIZES_OF(scores, Q8_0)};
static const outputs_fn output_tiles[3][TILE_QUERIES + 1] = {
    [NM_KV_F16] = SIZES_OF(outputs, F16), [NM_KV_F32] = SIZES_OF(outputs, F32), [NM_KV_Q8_0] = SIZES_OF(outputs, Q8_0)};

static int tile_of(int queries) { return queries >= 6 ? 6 : queries >= 3 ? 3 : queries; }

/* Scores to probabilities in place for one query; gives m_b and l_b. */
static void soften(const nm_attention_job *job, float *p, int first, int last, float *m_out, float *l_out)
{
    static const float lane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const v16 none = v_set(-INFINITY), cap = v_set(job->cap), low = v_set((float)first), high = v_set((float)last);
    v16 most = none, sum = v_set(0.0f);
    int begin = first / 16 * 16;
    for (int j = begin; j < last; j += 16) {
        v16 s = v_load(p + j), index = v_add(v_load(lane), v_set((float)j));
        if (job->cap > 0) s = v_mul(cap, v_tanh(v_div(s, cap)));
        s = v_less(index, low, none, v_less(index, high, s, none));
        v_store(p + j, s);
        most = v_max(s, most);
    }
    const float m = v_max_of(most) + 0.0f;
    for (int j = begin; j < last; j += 16) {
        v16 e = v_exp(v_sub(v_load(p + j), v_set(m)));
        v_store(p + j, e);
        sum = v_add(sum, e);
    }
    *m_out = m;
    *l_out = v_sum(sum);
}

/* y[i] = fma(y[i], cy, o[i]) if grow, else fma(o[i], cy, y[i]), over n values. */
static void blend(float *y, const float *o, float c, bool grow, int n)
{
    for (int i = 0; i < n; i += 16) {
        int left = n - i < 16 ? n - i : 16;
        v16 a = v_load_n(y + i, left), b = v_load(o + i);
        v_store_n(y + i, grow ? v_fma(a, v_set(c), b) : v_fma(b, v_set(c), a), left);
    }
}

static float exp_of(float x)
{
    float lanes[16];
    v_store(lanes, v_exp(v_set(x)));
    return lanes[0];
}

static void merge(float *m, float *l, float *y, float m_b, float l_b, const float *o, int n)
{
    if (*m == -INFINITY && *l == 0) {
        *m = m_b;
        *l = l_b;
        memcpy(y, o, (size_t)n * sizeof *y);
    } else if (m_b > *m) {
        float c = exp_of(*m - m_b);
        *l = fmaf(*l, c, l_b);
        *m = m_b;
        blend(y, o, c, true, n);
    } else {
        float c = exp_of(m_b - *m);
        *l = fmaf(l_b, c, *l);
        blend(y, o, c, false, n);
    }
}

/* Outputs of a tile whose queries may see different keys: together where all do, each for itself at its edges, in ascending order. */
static void outputs_of_ranges(const page *g, const uint8_t *first, const uint8_t *last, int queries, const float *p, float *o, int ldo)
{
    const outputs_fn *tiles = output_tiles[g->v_type];
    int from = 0, to = NM_PAGE;
    for (int i = 0; i < queries; i++) {
        from = first[i] > from ? first[i] : from;
        to = last[i] < to ? last[i] : to;
    }
    memset(o, 0, (size_t)queries * (size_t)ldo * sizeof *o);
    bool common = from < to;
    for (int i = 0; i < queries; i++) {
        int end = common ? from : last[i];
        if (first[i] < end) tiles[1](g, p + i * NM_PAGE, first[i], end, o + i * ldo, ldo);
    }
    if (!common) return;
    tiles[queries](g, p, from, to, o, ldo);
    for (int i = 0; i < queries; i++)
        if (to < last[i]) tiles[1](g, p + i * NM_PAGE, to, last[i], o + i * ldo, ldo);
}

static void attend_tile(const nm_attention_job *job, const page *g, const attention_scratch *z, int i0, int queries)
{
    int low = NM_PAGE, high = 0, ldo = (job->d_v + 15) / 16 * 16;
    for (int i = i0; i < i0 + queries; i++) {
        low = job->first[i] < low ? job->first[i] : low;
        high = job->last[i] > high ? job->last[i] : high;
    }
    score_tiles[g->k_type][queries](g, job->q + i0, low, high, job->scale, z->p);
    float m[TILE_QUERIES], l[TILE_QUERIES];
    for (int i = 0; i < queries; i++) soften(job, z->p + i * NM_PAGE, job->first[i0 + i], job->last[i0 + i], m + i, l + i);
    outputs_of_ranges(g, job->first + i0, job->last + i0, queries, z->p, z->o, ldo);
    for (int i = 0; i < queries; i++)
        merge(job->m + i0 + i, job->l + i0 + i, job->o + (size_t)(i0 + i) * job->ldo, m[i], l[i], z->o + i * ldo, job->d_v);
}

static void convert_k(const page *g, float *out)
{
    for (int d = 0; d < g->d_k; d++)
        for (int j = 0; j < NM_PAGE; j += 16) v_store(out + d * NM_PAGE + j, load_k(g->k_type, g, d, j));
}

/* Rows padded to 16 values; the last vector of a row that is no multiple of 16 is read value by value. */
static void convert_v(const page *g, float *out, int stride)
{
    for (int j = 0; j < NM_PAGE; j++) {
        int d = 0;
        for (; d + 16 <= g->d_v; d += 16) v_store(out + j * stride + d, load_v(g->v_type, g, j, d));
        for (; d < stride; d++) {
            size_t at = (size_t)j * (size_t)g->d_v + (size_t)d;
            float x = 0;
            if (d >= g->d_v) x = 0;
            else if (g->v_type == NM_KV_F32) x = ((const float *)g->v)[at];
            else if (g->v_type == NM_KV_F16) x = _cvtsh_ss(((const uint16_t *)g->v)[at]);
            else x = _cvtsh_ss(((const uint16_t *)((const int8_t *)g->v + g->d_v * NM_PAGE))[j * ((g->d_v + 31) / 32) + d / 32])
                     * (float)((const int8_t *)g->v)[at];
            out[j * stride + d] = x;
        }
    }
}

static attention_scratch attention_scratch_at(const nm_attention_job *job)
{
    attention_scratch z;
    float *at = job->scratch;
    int stride = (job->d_v + 15) / 16 * 16;
    z.k = at;
    z.v = z.k + (size_t)job->d_k * NM_PAGE;
    z.p = z.v + (size_t)stride * NM_PAGE;
    z.o = z.p + TILE_QUERIES * NM_PAGE;
    return z;
}

static void attention(nm_kv_type type, const nm_attention_job *job)
{
    attention_scratch z = attention_scratch_at(job);
    page g = {type, type, job->k, job->v, job->d_k, job->d_v, job->d_v};
    bool many = job->queries > TILE_QUERIES;
    if (many && type != NM_KV_F32) {
        convert_k(&g, z.k);
        g.k_type = NM_KV_F32;
        g.k = z.k;
    }
    if ((many && type != NM_KV_F32) || job->d_v % 16) {
        int stride = (job->d_v + 15) / 16 * 16;
        convert_v(&g, z.v, stride);
        g.v_type = NM_KV_F32;
        g.v = z.v;
        g.v_stride = stride;
    }
    for (int i = 0; i < job->queries;) {
        if (job->first[i] >= job->last[i]) {
            i++;
            continue;
        }
        int run = 1;                    /* a tile has no empty query in it */
        while (run < TILE_QUERIES && i + run < job->queries && job->first[i + run] < job->last[i + run]) run++;
        run = tile_of(run);
        attend_tile(job, &g, &z, i, run);
        i += run;
    }
}

static void attention_f16(const nm_attention_job *job) { attention(NM_KV_F16, job); }
static void attention_f32(const nm_attention_job *job) { attention(NM_KV_F32, job); }
static void attention_q8_0(const nm_attention_job *job) { attention(NM_KV_Q8_0, job); }

/* ---- Stores that convert; the others stay with the reference ---- */

static void store_k_f16(void *page_of, int d_k, int slot, const float *k)
{
    uint16_t *to = (uint16_t *)page_of + slot;
    for (int d = 0; d < d_k; d++) to[d * NM_PAGE] = _cvtss_sh(k[d], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static void store_v_f16(void *page_of, int d_v, int slot, const float *v)
{
    uint16_t *to = (uint16_t *)page_of + slot * d_v;
    int d = 0;
    for (; d + 16 <= d_v; d += 16) v_store_half(to + d, v_load(v + d));
    for (; d < d_v; d++) to[d] = _cvtss_sh(v[d], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static void fill_attention(nm_kernels *table)
{
    table->attention[NM_KV_F16] = attention_f16;
    table->attention[NM_KV_F32] = attention_f32;
    table->attention[NM_KV_Q8_0] = attention_q8_0;
    table->kv_store_k[NM_KV_F16] = store_k_f16;
    table->kv_store_v[NM_KV_F16] = store_v_f16;
}

#endif
