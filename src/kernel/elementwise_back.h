/* Template: adjoints of the kernels that touch each value once or twice, written over v16 like elementwise.h, after which it is included
 * once per tier; it defines static functions and fill_elementwise_back(). The expressions are kernel.h's. */
#ifndef NM_ELEMENTWISE_BACK_H
#define NM_ELEMENTWISE_BACK_H

#include "kernel/elementwise.h"

/* dx[i] = dy[i] * f'(a), a = x[i]. */
#define MAP_BACK(name, slope) \
    static void name(const float *x, const float *dy, int64_t n, float *dx) \
    { \
        const v16 one = v_set(1.0f); \
        for (int64_t i = 0; i < n; i += 16) { \
            int left = lanes_left(n - i); \
            v16 a = v_load_n(x + i, left), s; \
            slope; \
            v_store_n(dx + i, v_mul(v_load_n(dy + i, left), s), left); \
        } \
    }

/* s = 1 / (1 + e^-x):  s + x s (1 - s) */
MAP_BACK(silu_back, s = v_div(one, v_add(one, v_exp(v_neg(a)))); s = v_fma(v_mul(a, s), v_sub(one, s), s))
/* x s(v), v = x (c + d x^2), s the logistic function:  s + x s (1 - s) (c + 3 d x^2) */
MAP_BACK(gelu_tanh_back,
    v16 z = v_mul(a, a);
    s = v_div(one, v_add(one, v_exp(v_neg(v_mul(a, v_fma(z, v_set(0.0713548139f), v_set(1.59576917f)))))));
    s = v_fma(v_mul(v_mul(a, s), v_sub(one, s)), v_fma(z, v_set(0.214064434f), v_set(1.59576917f)), s))
/* (1 + erf(x / sqrt 2)) / 2 + x e^(-x^2 / 2) / sqrt(2 pi) */
MAP_BACK(gelu_erf_back,
    s = v_mul(v_set(0.5f), v_add(one, v_erf(v_mul(a, v_set(0.707106769f)))));
    s = v_fma(v_mul(a, v_set(0.398942292f)), v_exp(v_mul(v_mul(a, v_set(-0.5f)), a)), s))

static void softcap_back(const float *y, const float *dy, float cap, int64_t n, float *dx)
{
    for (int64_t i = 0; i < n; i += 16) {
        int left = lanes_left(n - i);
        v16 t = v_div(v_load_n(y + i, left), v_set(cap));
        v_store_n(dx + i, v_mul(v_load_n(dy + i, left), v_fma(v_neg(t), t, v_set(1.0f))), left);
    }
}

static void softmax(const float *x, int64_t n, float *y, float *m_out, float *l_out)
{
    const int64_t whole = n / 16 * 16;
    const int tail = (int)(n - whole);
    v16 most = v_set(-INFINITY), sum = v_set(0.0f), last = most;
    for (int64_t i = 0; i < whole; i += 16) most = v_max(v_load(x + i), most);
    if (tail) {                 /* lanes without a value repeat the first */
        float lanes[16];
        for (int k = 0; k < 16; k++) lanes[k] = x[whole + (k < tail ? k : 0)];
        last = v_load(lanes);
        most = v_max(last, most);
    }
    const float m = v_max_of(most) + 0.0f;
    for (int64_t i = 0; i < whole; i += 16) {
        v16 e = v_exp_below(v_sub(v_load(x + i), v_set(m)));
        v_store(y + i, e);
        sum = v_add(sum, e);
    }
    if (tail) sum = v_add(sum, last = v_keep_n(v_exp_below(v_sub(last, v_set(m))), tail));
    const float l = v_sum(sum);
    for (int64_t i = 0; i < whole; i += 16) v_store(y + i, v_div(v_load(y + i), v_set(l)));
    if (tail) v_store_n(y + whole, v_div(last, v_set(l)), tail);
    *m_out = m;
    *l_out = l;
}

static void softmax_back(const float *p, const float *dp, float d, float scale, int64_t n, float *y)
{
    const int64_t whole = n / 16 * 16;
    const int tail = (int)(n - whole);
    for (int64_t i = 0; i < whole; i += 16) v_store(y + i, v_mul(v_mul(v_load(p + i), v_sub(v_load(dp + i), v_set(d))), v_set(scale)));
    if (tail) v_store_n(y + whole, v_mul(v_mul(v_load_n(p + whole, tail), v_sub(v_load_n(dp + whole, tail), v_set(d))), v_set(scale)), tail);
}

static float dot(const float *a, const float *b, int64_t n)
{
    v16 s = v_set(0.0f);
    for (int64_t i = 0; i < n; i += 16) {
        int left = lanes_left(n - i);
        s = v_fma(v_load_n(a + i, left), v_load_n(b + i, left), s);
    }
    return v_sum(s);
}

static void norm_facts(const float *x, float eps, bool layer, int64_t n, float *mean, float *r)
{
    v16 s = v_set(0.0f);
    for (int64_t i = 0; layer && i < n; i += 16) s = v_add(s, v_load_n(x + i, lanes_left(n - i)));
    *mean = layer ? v_sum(s) / (float)n : 0;
    s = v_set(0.0f);
    for (int64_t i = 0; i < n; i += 16) {
        int left = lanes_left(n - i);
        v16 d = v_load_n(x + i, left);
        if (layer) d = v_keep_n(v_sub(d, v_set(*mean)), left);
        s = v_fma(d, d, s);
    }
    *r = 1.0f / sqrtf(v_sum(s) / (float)n + eps);
}

static inline v16 scaled_gradient(const float *w, const float *dy, int64_t i, int left)
{
    v16 g = v_load_n(dy + i, left);
    return w ? v_mul(g, v_load_n(w + i, left)) : g;
}

static inline void put_gradient(float *dx, v16 g, int left, bool add) { v_store_n(dx, add ? v_add(v_load_n(dx, left), g) : g, left); }

static void rms_norm_back(const float *x, const float *w, const float *dy, float eps, int64_t n, float *dx, bool add)
{
    float mean, r;
    v16 s = v_set(0.0f);
    norm_facts(x, eps, false, n, &mean, &r);
    for (int64_t i = 0; i < n; i += 16) {
        int left = lanes_left(n - i);
        s = v_fma(scaled_gradient(w, dy, i, left), v_load_n(x + i, left), s);
    }
    const v16 c = v_set(v_sum(s) * r * r * r / (float)n);
    for (int64_t i = 0; i < n; i += 16) {
        int left = lanes_left(n - i);
        v16 g = v_fma(scaled_gradient(w, dy, i, left), v_set(r), v_neg(v_mul(v_load_n(x + i, left), c)));
        put_gradient(dx + i, g, left, add);
    }
}

static void layer_norm_back(const float *x, const float *w, const float *dy, float eps, int64_t n, float *dx, bool add)
{
    float mean, r;
    v16 sum = v_set(0.0f), product = sum;
    norm_facts(x, eps, true, n, &mean, &r);
    for (int64_t i = 0; i < n; i += 16) {
        int left = lanes_left(n - i);
        v16 g = scaled_gradient(w, dy, i, left), h = v_mul(v_sub(v_load_n(x + i, left), v_set(mean)), v_set(r));
        sum = v_add(sum, g);
        product = v_fma(g, v_keep_n(h, left), product);
    }
    const v16 shift = v_set(v_sum(sum) / (float)n), slope = v_set(v_sum(product) / (float)n);
    for (int64_t i = 0; i < n; i += 16) {
        int left = lanes_left(n - i);
        v16 g = scaled_gradient(w, dy, i, left), h = v_mul(v_sub(v_load_n(x + i, left), v_set(mean)), v_set(r));
        g = v_mul(v_set(r), v_sub(v_sub(g, shift), v_mul(h, slope)));
        put_gradient(dx + i, g, left, add);
    }
}

static void norm_back_weight(const float *x, float mean, float r, const float *dy, int64_t n, float *dw)
{
    for (int64_t i = 0; i < n; i += 16) {
        int left = lanes_left(n - i);
        v16 h = v_mul(v_sub(v_load_n(x + i, left), v_set(mean)), v_set(r));
        v_store_n(dw + i, v_fma(v_load_n(dy + i, left), h, v_load_n(dw + i, left)), left);
    }
}

static void fill_elementwise_back(nm_kernels *table)
{
    table->softmax = softmax;
    table->softmax_back = softmax_back;
    table->dot = dot;
    table->norm_facts = norm_facts;
    table->rms_norm_back = rms_norm_back;
    table->layer_norm_back = layer_norm_back;
    table->norm_back_weight = norm_back_weight;
    table->silu_back = silu_back;
    table->gelu_tanh_back = gelu_tanh_back;
    table->gelu_erf_back = gelu_erf_back;
    table->softcap_back = softcap_back;
}

#endif
