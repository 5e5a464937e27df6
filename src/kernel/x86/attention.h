/* Template: attention over one page, and the stores into it, on v16. Included once per tier after a v16 backend, v16_math.h and
 * kernel/layout.h. Parameters:
 *   TILE_KEYS    vectors of 16 keys (or of 16 outputs) that one register tile is wide; a tile has up to TILE_QUERIES queries
 * The arithmetic is kernel.h's: chains over d for scores, over j for outputs, so tiles only choose what is computed side by side.
 * A page goes in three walks: scores of all queries, their probabilities, outputs of all queries; each of the two products takes a block of columns of K or V
 * past all tiles of queries, so that the block stays in the first-level cache. Many queries: K, later V, are converted to fp32 once, then read as F32.
 * Few: converted on the fly, and what is read next is fetched ahead. */
#ifndef NM_X86_ATTENTION_H
#define NM_X86_ATTENTION_H

enum {
    TILE_QUERIES = 6, KEY_VECTORS = NM_PAGE / 16,
    FEW_QUERIES = 8,                            /* up to so many convert a page on the fly */
    BLOCK = 16 * TILE_KEYS,                     /* columns of a walk of many */
    NEAR = 1024, FAR = 3072                     /* bytes ahead of what is read where lines are fetched to the first and to the second level */
};

/* One page as the tiles read it: the cache's own type, or fp32 in scratch. */
typedef struct page {
    nm_kv_type k_type, v_type;
    const void *k, *v;
    const float *scale;         /* Q8_0: of K [ceil(d_k/32)][64], later of V [64][ceil(d_v/32)] */
    int d_k, d_v, v_stride;     /* stride of V's rows in values */
} page;

/* How a query's outputs of the page go on: into its state by the rule of merging, or into a chain that is not complete. */
enum { EMPTY, GROWS, STAYS, CHAIN };

/* Up to TILE_QUERIES queries of a job, side by side: members [at, at + queries) of the set. */
typedef struct query_tile {
    int at, queries;
    int low, high;              /* keys that any of them sees */
    int from, to;               /* keys that all of them see; from >= to: none */
    bool alike;                 /* all see the same */
} query_tile;

/* The queries of a job that see anything, and what outlives registers. */
typedef struct query_set {
    int n, tiles;
    query_tile tile[NM_QUERIES / TILE_QUERIES + 2];
    uint8_t who[NM_QUERIES];            /* index in the job */
    const float *q[NM_QUERIES];
    float *y[NM_QUERIES];               /* the state's o */
    float m[NM_QUERIES], l[NM_QUERIES]; /* of the page */
    float c[NM_QUERIES];                /* what the smaller side of a merge is multiplied by */
    uint8_t kind[NM_QUERIES];
    float *kv;                          /* [d_k][64] or [64][d_v rounded to 16] */
    float *scale;
    float *p;                           /* [n][64] scores, then probabilities */
    float *o;                           /* [TILE_QUERIES][block] */
    bool few;
} query_set;

V16_INLINE v16 load_k(nm_kv_type type, const page *g, int d, int j)
{
    size_t at = (size_t)d * NM_PAGE + (size_t)j;
    if (type == NM_KV_F32) return v_load((const float *)g->k + at);
    if (type == NM_KV_F16) return v_load_half((const uint16_t *)g->k + at);
    return v_mul(v_load(g->scale + d / 32 * NM_PAGE + j), v_load_int8((const int8_t *)g->k + at));
}

/* Where few queries read a page, memory is what they wait for: each line is asked for twice before value `at` of it is read. K, V and the next head's K are one
 * stretch. What is fp32 is in scratch, or follows itself. */
V16_INLINE void fetch_line(const void *from, nm_kv_type type, int at)
{
    if (type == NM_KV_F32) return;
    const char *p = (const char *)from + (size_t)at * (type == NM_KV_F16 ? 2 : 1);
    __builtin_prefetch(p + NEAR, 0, 3);
    __builtin_prefetch(p + FAR, 0, 2);
}

/* d is a multiple of 16 and d + 16 <= v_stride. */
V16_INLINE v16 load_v(nm_kv_type type, const page *g, int j, int d)
{
    size_t at = (size_t)j * (size_t)g->v_stride + (size_t)d;
    if (type == NM_KV_F32) return v_load((const float *)g->v + at);
    if (type == NM_KV_F16) return v_load_half((const uint16_t *)g->v + at);
    return v_mul(v_set(g->scale[j * ((g->d_v + 31) / 32) + d / 32]), v_load_int8((const int8_t *)g->v + at));
}

/* Scores of `queries` queries and 16 * vectors keys from j on, scaled: p[i][j]. */
V16_INLINE void score_tile(nm_kv_type type, int queries, int vectors, const page *g, const float *const *q, int j, float scale, float *p)
{
    v16 s[TILE_QUERIES][KEY_VECTORS];
    _Pragma("GCC unroll 6") for (int i = 0; i < queries; i++)
        _Pragma("GCC unroll 4") for (int c = 0; c < vectors; c++) s[i][c] = v_set(0.0f);
    _Pragma("GCC unroll 4") for (int d = 0; d < g->d_k; d++) {
        v16 k[KEY_VECTORS];
        _Pragma("GCC unroll 4") for (int c = 0; c < vectors; c++) k[c] = load_k(type, g, d, j + 16 * c);
        _Pragma("GCC unroll 4") for (int c = 0; c < vectors; c += type == NM_KV_F16 ? 2 : 4) fetch_line(g->k, type, d * NM_PAGE + j + 16 * c);
        _Pragma("GCC unroll 6") for (int i = 0; i < queries; i++) {
            v16 x = v_set(q[i][d]);
            _Pragma("GCC unroll 4") for (int c = 0; c < vectors; c++) s[i][c] = v_fma(x, k[c], s[i][c]);
        }
    }
    _Pragma("GCC unroll 6") for (int i = 0; i < queries; i++)
        _Pragma("GCC unroll 4") for (int c = 0; c < vectors; c++) v_store(p + i * NM_PAGE + j + 16 * c, v_mul(s[i][c], v_set(scale)));
}

/* Outputs of `queries` queries over keys [first, last), merged into y[i] as kind[i] and c[i] say; from what y holds if `chain`, and then all are CHAIN. */
V16_INLINE void output_tile(nm_kv_type type, int queries, int vectors, const page *g, const float *p, int first, int last, int d,
    float *const *y, const float *c, const uint8_t *kind)
{
    v16 s[TILE_QUERIES][KEY_VECTORS];
    const bool chain = kind[0] == CHAIN;
    _Pragma("GCC unroll 6") for (int i = 0; i < queries; i++)
        _Pragma("GCC unroll 4") for (int x = 0; x < vectors; x++) s[i][x] = chain ? v_load(y[i] + d + 16 * x) : v_set(0.0f);
    _Pragma("GCC unroll 4") for (int j = first; j < last; j++) {
        v16 v[KEY_VECTORS];
        _Pragma("GCC unroll 4") for (int x = 0; x < vectors; x++) v[x] = load_v(type, g, j, d + 16 * x);
        _Pragma("GCC unroll 4") for (int x = 0; x < vectors; x += type == NM_KV_F16 ? 2 : 4) fetch_line(g->v, type, j * g->v_stride + d + 16 * x);
        _Pragma("GCC unroll 6") for (int i = 0; i < queries; i++) {
            v16 w = v_set(p[i * NM_PAGE + j]);
            _Pragma("GCC unroll 4") for (int x = 0; x < vectors; x++) s[i][x] = v_fma(w, v[x], s[i][x]);
        }
    }
    _Pragma("GCC unroll 6") for (int i = 0; i < queries; i++) {
        float *to = y[i] + d;
        if (kind[i] == STAYS)
            _Pragma("GCC unroll 4") for (int x = 0; x < vectors; x++) v_store(to + 16 * x, v_fma(s[i][x], v_set(c[i]), v_load(to + 16 * x)));
        else if (kind[i] == GROWS)
            _Pragma("GCC unroll 4") for (int x = 0; x < vectors; x++) v_store(to + 16 * x, v_fma(v_load(to + 16 * x), v_set(c[i]), s[i][x]));
        else
            _Pragma("GCC unroll 4") for (int x = 0; x < vectors; x++) v_store(to + 16 * x, s[i][x]);
    }
}

/* The tiles with their sizes as constants: 1 to 6 queries of each type, over keys [first, last) or outputs [d, end). Few queries take wider tiles where registers
 * are there for it: more chains side by side. */
#define WIDTH_OF(n) (TILE_KEYS == 4 || n == 1 ? 4 : n == 2 ? 2 : 1)
#define TILE_SIZES(X, type) X(type, 1) X(type, 2) X(type, 3) X(type, 4) X(type, 5) X(type, 6)
#define DEFINE_TILES(type, n) \
    static void scores_##type##_##n(const page *g, const float *const *q, int first, int last, float scale, float *p) \
    { \
        int j = first / 16 * 16, end = (last + 15) / 16 * 16; \
        for (; WIDTH_OF(n) == 4 && j + 64 <= end; j += 64) score_tile(NM_KV_##type, n, 4, g, q, j, scale, p); \
        for (; WIDTH_OF(n) >= 2 && j + 32 <= end; j += 32) score_tile(NM_KV_##type, n, 2, g, q, j, scale, p); \
        for (; j < end; j += 16) score_tile(NM_KV_##type, n, 1, g, q, j, scale, p); \
    } \
    static void outputs_##type##_##n(const page *g, const float *p, int first, int last, int d, int end, float *const *y, const float *c, const uint8_t *kind) \
    { \
        for (; WIDTH_OF(n) == 4 && d + 64 <= end; d += 64) output_tile(NM_KV_##type, n, 4, g, p, first, last, d, y, c, kind); \
        for (; WIDTH_OF(n) >= 2 && d + 32 <= end; d += 32) output_tile(NM_KV_##type, n, 2, g, p, first, last, d, y, c, kind); \
        for (; d < end; d += 16) output_tile(NM_KV_##type, n, 1, g, p, first, last, d, y, c, kind); \
    }
TILE_SIZES(DEFINE_TILES, F16)
TILE_SIZES(DEFINE_TILES, F32)
TILE_SIZES(DEFINE_TILES, Q8_0)
#undef DEFINE_TILES

typedef void (*scores_fn)(const page *, const float *const *, int, int, float, float *);
typedef void (*outputs_fn)(const page *, const float *, int, int, int, int, float *const *, const float *, const uint8_t *);
#define SIZES_OF(stem, type) {NULL, stem##_##type##_1, stem##_##type##_2, stem##_##type##_3, stem##_##type##_4, stem##_##type##_5, stem##_##type##_6}
static const scores_fn score_tiles[3][TILE_QUERIES + 1] = {
    [NM_KV_F16] = SIZES_OF(scores, F16), [NM_KV_F32] = SIZES_OF(scores, F32), [NM_KV_Q8_0] = SIZES_OF(scores, Q8_0)};
static const outputs_fn output_tiles[3][TILE_QUERIES + 1] = {
    [NM_KV_F16] = SIZES_OF(outputs, F16), [NM_KV_F32] = SIZES_OF(outputs, F32), [NM_KV_Q8_0] = SIZES_OF(outputs, Q8_0)};

/* ---- Probabilities ---- */

/* Scores of a whole page to probabilities in place; gives m_b and l_b. */
__attribute__((flatten)) static void soften_page(float *p, float *m_out, float *l_out)
{
    v16 s[KEY_VECTORS], sum = v_set(0.0f), most = v_set(-INFINITY);
    _Pragma("GCC unroll 4") for (int c = 0; c < KEY_VECTORS; c++) most = v_max(s[c] = v_load(p + 16 * c), most);
    const float m = v_max_of(most) + 0.0f;
    _Pragma("GCC unroll 4") for (int c = 0; c < KEY_VECTORS; c++) {
        s[c] = v_exp_below(v_sub(s[c], v_set(m)));
        v_store(p + 16 * c, s[c]);
        sum = v_add(sum, s[c]);
    }
    *m_out = m;
    *l_out = v_sum(sum);
}

/* The same of keys [first, last), or with a cap. */
static void soften_part(float *p, int first, int last, float cap_at, float *m_out, float *l_out)
{
    static const float lane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const v16 none = v_set(-INFINITY), cap = v_set(cap_at), low = v_set((float)first), high = v_set((float)last);
    v16 most = none, sum = v_set(0.0f);
    int begin = first / 16 * 16;
    for (int j = begin; j < last; j += 16) {
        v16 s = v_load(p + j), index = v_add(v_load(lane), v_set((float)j));
        if (cap_at > 0) s = v_mul(cap, v_tanh(v_div(s, cap)));
        s = v_less(index, low, none, v_less(index, high, s, none));
        v_store(p + j, s);
        most = v_max(s, most);
    }
    const float m = v_max_of(most) + 0.0f;
    for (int j = begin; j < last; j += 16) {
        v16 e = v_exp_below(v_sub(v_load(p + j), v_set(m)));
        v_store(p + j, e);
        sum = v_add(sum, e);
    }
    *m_out = m;
    *l_out = v_sum(sum);
}

/* Merges sixteen queries' m_b and l_b into their m and l, side by side; says how their o have to follow. */
V16_INLINE void merge_sums(float *m, float *l, const float *m_b, const float *l_b, float *c, uint8_t *kind)
{
    float was[16], had[16];
    v16 a = v_load(m), b = v_load(m_b), x = v_load(l), y = v_load(l_b), f = v_exp_below(v_less(a, b, v_sub(a, b), v_sub(b, a)));
    v_store(was, a);
    v_store(had, x);
    v_store(c, f);
    v_store(l, v_less(a, b, v_fma(x, f, y), v_fma(y, f, x)));
    v_store(m, v_less(a, b, b, a));
    for (int i = 0; i < 16; i++) {
        kind[i] = was[i] < m_b[i] ? GROWS : STAYS;
        if (was[i] != -INFINITY || had[i] != 0) continue;
        kind[i] = EMPTY;
        m[i] = m_b[i];
        l[i] = l_b[i];
    }
}

/* y = what `kind` says of y and o, over n values. */
static void blend(float *y, const float *o, float c, int kind, int n)
{
    for (int i = 0; i < n; i += 16) {
        int left = n - i < 16 ? n - i : 16;
        v16 a = v_load_n(y + i, left), b = v_load_n(o + i, left);
        v_store_n(y + i, kind == EMPTY ? b : kind == GROWS ? v_fma(a, v_set(c), b) : v_fma(b, v_set(c), a), left);
    }
}

static void attention_merge(float *m, float *l, float *o, float m_b, float l_b, const float *o_b, int d_v)
{
    /* Aligned by hand: gcc 12 would align them itself, and its AddressSanitizer does not keep that promise. */
    struct { float m[16], l[16], m_b[16], l_b[16], c[16]; } x __attribute__((aligned(64))) = {.m = {*m}, .l = {*l}, .m_b = {m_b}, .l_b = {l_b}};
    uint8_t kind[16];
    if (l_b == 0) return;       /* b is empty, and its o was never written */
    merge_sums(x.m, x.l, x.m_b, x.l_b, x.c, kind);
    *m = x.m[0];
    *l = x.l[0];
    blend(o, o_b, x.c[0], kind[0], d_v);
}

static void soften(const nm_attention_job *job, query_set *z)
{
    float m[NM_QUERIES], l[NM_QUERIES];
    for (int i = z->n; i % 16; i++) m[i] = l[i] = z->m[i] = z->l[i] = 0;
    for (int i = 0; i < z->n; i++) {
        int first = job->first[z->who[i]], last = job->last[z->who[i]];
        if (last - first == NM_PAGE && !(job->cap > 0)) soften_page(z->p + i * NM_PAGE, z->m + i, z->l + i);
        else soften_part(z->p + i * NM_PAGE, first, last, job->cap, z->m + i, z->l + i);
        m[i] = job->m[z->who[i]];
        l[i] = job->l[z->who[i]];
    }
    for (int i = 0; i < z->n; i += 16) merge_sums(m + i, l + i, z->m + i, z->l + i, z->c + i, z->kind + i);
    for (int i = 0; i < z->n; i++) {
        job->m[z->who[i]] = m[i];
        job->l[z->who[i]] = l[i];
    }
}

/* ---- The walks ---- */

static void walk_scores(const nm_attention_job *job, const page *g, const query_set *z)
{
    const int block = z->few ? NM_PAGE : BLOCK;
    for (int j = 0; j < NM_PAGE; j += block)
        for (int i = 0; i < z->tiles; i++) {
            const query_tile *t = &z->tile[i];
            int first = t->low > j ? t->low : j, last = t->high < j + block ? t->high : j + block;
            if (first < last) score_tiles[g->k_type][t->queries](g, z->q + t->at, first, last, job->scale, z->p + t->at * NM_PAGE);
        }
}

/* Outputs [d, end) of a tile whose queries see different keys: together where all do, each for itself at its edges, in ascending order. */
static void outputs_of_ranges(const nm_attention_job *job, const page *g, const query_set *z, const query_tile *t, int d, int end)
{
    static const uint8_t chain[TILE_QUERIES] = {CHAIN, CHAIN, CHAIN, CHAIN, CHAIN, CHAIN};
    const outputs_fn *tiles = output_tiles[g->v_type];
    const float *p = z->p + t->at * NM_PAGE;
    float *o[TILE_QUERIES];
    const int block = end - d;
    memset(z->o, 0, (size_t)(TILE_QUERIES * block) * sizeof *z->o);
    for (int i = 0; i < t->queries; i++) o[i] = z->o + i * block - d;
    for (int edge = 0; edge < 2; edge++) {
        for (int i = 0; i < t->queries; i++) {
            int first = job->first[z->who[t->at + i]], last = job->last[z->who[t->at + i]];
            if (t->from < t->to && edge == 0) last = t->from;
            if (t->from < t->to && edge == 1) first = t->to;
            if (first < last) tiles[1](g, p + i * NM_PAGE, first, last, d, end, o + i, NULL, chain);
        }
        if (t->from >= t->to) break;
        if (edge == 0) tiles[t->queries](g, p, t->from, t->to, d, end, o, NULL, chain);
    }
    for (int i = 0; i < t->queries; i++)
        blend(z->y[t->at + i] + d, z->o + i * block, z->c[t->at + i], z->kind[t->at + i], (job->d_v < end ? job->d_v : end) - d);
}

static void walk_outputs(const nm_attention_job *job, const page *g, const query_set *z)
{
    const int width = (job->d_v + 15) / 16 * 16, block = z->few ? width : BLOCK;
    for (int d = 0; d < width; d += block)
        for (int i = 0; i < z->tiles; i++) {
            const query_tile *t = &z->tile[i];
            int end = d + block < width ? d + block : width;
            if (!t->alike || end > job->d_v) outputs_of_ranges(job, g, z, t, d, end);
            else output_tiles[g->v_type][t->queries](g, z->p + t->at * NM_PAGE, t->low, t->high, d, end, z->y + t->at, z->c + t->at, z->kind + t->at);
        }
}

/* ---- Pages to fp32 ---- */

static void convert_k(const page *g, float *out)
{
    for (int d = 0; d < g->d_k; d++) {
        fetch_line(g->k, g->k_type, d * NM_PAGE);
        if (g->k_type == NM_KV_F16) fetch_line(g->k, g->k_type, d * NM_PAGE + 32);
        _Pragma("GCC unroll 4") for (int j = 0; j < NM_PAGE; j += 16) v_store(out + d * NM_PAGE + j, load_k(g->k_type, g, d, j));
    }
}

/* Rows padded to 16 values; the last vector of a row that is no multiple of 16 is read value by value. */
static void convert_v(const page *g, float *out, int stride)
{
    if (g->v_type == NM_KV_F16 && g->d_v == stride) {
        for (int i = 0; i < NM_PAGE * stride; i += 64) {
            fetch_line(g->v, NM_KV_F16, i);
            fetch_line(g->v, NM_KV_F16, i + 32);
            _Pragma("GCC unroll 4") for (int c = 0; c < 64; c += 16) v_store(out + i + c, load_v(NM_KV_F16, g, 0, i + c));
        }
        return;
    }
    for (int j = 0; j < NM_PAGE; j++) {
        int d = 0;
        for (int at = 0; at < g->d_v; at += 64) fetch_line(g->v, g->v_type, j * g->d_v + at);
        for (; d + 16 <= g->d_v; d += 16) v_store(out + j * stride + d, load_v(g->v_type, g, j, d));
        for (; d < stride; d++) {
            size_t at = (size_t)j * (size_t)g->d_v + (size_t)d;
            float x = 0;
            if (d >= g->d_v) x = 0;
            else if (g->v_type == NM_KV_F32) x = ((const float *)g->v)[at];
            else if (g->v_type == NM_KV_F16) x = v_from_half(((const uint16_t *)g->v)[at]);
            else x = g->scale[j * ((g->d_v + 31) / 32) + d / 32] * (float)((const int8_t *)g->v)[at];
            out[j * stride + d] = x;
        }
    }
}

/* The scales of a Q8_0 page's part of d values by 64 positions as fp32. */
static void convert_scales(const void *part, int d, float *out)
{
    const uint16_t *scale = (const uint16_t *)((const int8_t *)part + d * NM_PAGE);
    for (int i = 0; i < (d + 31) / 32 * NM_PAGE; i += 16) v_store(out + i, v_load_half(scale + i));
}

static void read_keys(nm_kv_type type, const nm_attention_job *job, page *g, const query_set *z)
{
    if (type == NM_KV_Q8_0) convert_scales(job->k, job->d_k, z->scale);
    if (z->few || type == NM_KV_F32) return;
    convert_k(g, z->kv);
    g->k_type = NM_KV_F32;
    g->k = z->kv;
}

static void read_values(nm_kv_type type, const nm_attention_job *job, page *g, const query_set *z)
{
    if (type == NM_KV_Q8_0) convert_scales(job->v, job->d_v, z->scale);
    if ((z->few || type == NM_KV_F32) && job->d_v % 16 == 0) return;
    int stride = (job->d_v + 15) / 16 * 16;
    convert_v(g, z->kv, stride);
    g->v_type = NM_KV_F32;
    g->v = z->kv;
    g->v_stride = stride;
}

/* ---- The job ---- */

static void add_tile(const nm_attention_job *job, query_set *z, int at)
{
    int left = z->n - at;
    query_tile t = {.at = at, .queries = left > 2 * TILE_QUERIES ? TILE_QUERIES : left > TILE_QUERIES ? (left + 1) / 2 : left, .low = NM_PAGE, .to = NM_PAGE};
    for (int i = at; i < at + t.queries; i++) {
        int first = job->first[z->who[i]], last = job->last[z->who[i]];
        t.low = first < t.low ? first : t.low;
        t.high = last > t.high ? last : t.high;
        t.from = first > t.from ? first : t.from;
        t.to = last < t.to ? last : t.to;
    }
    t.alike = t.low == t.from && t.high == t.to;
    z->tile[z->tiles++] = t;
}

static void take_queries(const nm_attention_job *job, query_set *z)
{
    z->n = z->tiles = 0;
    for (int i = 0; i < job->queries; i++) {
        if (job->first[i] >= job->last[i]) continue;
        z->who[z->n] = (uint8_t)i;
        z->q[z->n] = job->q[i];
        z->y[z->n++] = job->o + (size_t)i * job->ldo;
    }
    z->few = z->n <= FEW_QUERIES;
    for (int at = 0; at < z->n; at += z->tile[z->tiles - 1].queries) add_tile(job, z, at);
    int wide = (job->d_v + 15) / 16 * 16, most = job->d_k > wide ? job->d_k : wide;
    z->kv = job->scratch;
    z->scale = z->kv + (size_t)most * NM_PAGE;
    z->p = z->scale + (size_t)(most + 31) / 32 * NM_PAGE;
    z->o = z->p + NM_QUERIES * NM_PAGE;
}

static void attention(nm_kv_type type, const nm_attention_job *job)
{
    query_set z;
    page g = {.k_type = type, .v_type = type, .k = job->k, .v = job->v, .d_k = job->d_k, .d_v = job->d_v, .v_stride = job->d_v};
    take_queries(job, &z);
    if (!z.n) return;
    g.scale = z.scale;
    read_keys(type, job, &g, &z);
    walk_scores(job, &g, &z);
    if (job->next) for (int i = 0; i < FAR; i += 64) __builtin_prefetch((const char *)job->next + i, 0, 2);
    soften(job, &z);
    read_values(type, job, &g, &z);
    walk_outputs(job, &g, &z);
}

static void attention_f16(const nm_attention_job *job) { attention(NM_KV_F16, job); }
static void attention_f32(const nm_attention_job *job) { attention(NM_KV_F32, job); }
static void attention_q8_0(const nm_attention_job *job) { attention(NM_KV_Q8_0, job); }

/* ---- Stores that convert; the others stay with the reference ---- */

static void store_k_f16(void *page_of, int d_k, int slot, const float *k)
{
    uint16_t *to = (uint16_t *)page_of + slot;
    for (int d = 0; d < d_k; d++) to[d * NM_PAGE] = v_to_half(k[d]);
}

static void store_v_f16(void *page_of, int d_v, int slot, const float *v)
{
    uint16_t *to = (uint16_t *)page_of + slot * d_v;
    int d = 0;
    for (; d + 16 <= d_v; d += 16) v_store_half(to + d, v_load(v + d));
    for (; d < d_v; d++) to[d] = v_to_half(v[d]);
}

static void fill_attention(nm_kernels *table)
{
    table->attention[NM_KV_F16] = attention_f16;
    table->attention[NM_KV_F32] = attention_f32;
    table->attention[NM_KV_Q8_0] = attention_q8_0;
    table->attention_merge = attention_merge;
    table->kv_store_k[NM_KV_F16] = store_k_f16;
    table->kv_store_v[NM_KV_F16] = store_v_f16;
}

#endif
