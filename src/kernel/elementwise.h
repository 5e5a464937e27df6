/* Template: the kernels that touch each value once or twice (norms, sums, activations, RoPE), written over v16. Included once per tier,
 * after a v16 backend and v16_math.h; it defines static functions and fill_elementwise(). The order of operations is kernel.h's. */
#ifndef NM_ELEMENTWISE_H
#define NM_ELEMENTWISE_H

#include "kernel/kernel.h"

static inline int lanes_left(int64_t n) { return n < 16 ? (int)n : 16; }

/* y[i] = f(x[i]) with a short last vector. */
#define MAP1(name, expression) \
    static void name(const float *x, int64_t n, float *y) \
    { \
        for (int64_t i = 0; i < n; i += 16) { \
            int left = lanes_left(n - i); \
            v16 a = left == 16 ? v_load(x + i) : v_load_n(x + i, left); \
            v16 r = (expression); \
            if (left == 16) v_store(y + i, r); \
            else v_store_n(y + i, r, left); \
        } \
    }

/* x / (1 + e^-x) */
MAP1(silu, v_div(a, v_add(v_set(1.0f), v_exp(v_neg(a)))))
/* x/2 (1 + tanh u) = x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3): the second form loses no bits where tanh is near -1. */
MAP1(gelu_tanh, v_div(a, v_add(v_set(1.0f),
    v_exp(v_mul(v_mul(v_set(-2.0f), a), v_fma(v_mul(a, a), v_set(0.0356774069f), v_set(0.797884583f)))))))
MAP1(gelu_erf, v_mul(v_mul(v_set(0.5f), a), v_add(v_set(1.0f), v_erf(v_mul(a, v_set(0.707106769f))))))

static void softcap(const float *x, float cap, int64_t n, float *y)
{
    const v16 c = v_set(cap);
    for (int64_t i = 0; i < n; i += 16) {
        int left = lanes_left(n - i);
        v_store_n(y + i, v_mul(c, v_tanh(v_div(v_load_n(x + i, left), c))), left);
    }
}

static void scale_by(const float *x, float alpha, int64_t n, float *y)
{
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(y + i, v_mul(v_load(x + i), v_set(alpha)));
    if (i < n) v_store_n(y + i, v_mul(v_load_n(x + i, (int)(n - i)), v_set(alpha)), (int)(n - i));
}

static void mul(const float *a, const float *b, int64_t n, float *y)
{
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(y + i, v_mul(v_load(a + i), v_load(b + i)));
    int left = (int)(n - i);
    if (left) v_store_n(y + i, v_mul(v_load_n(a + i, left), v_load_n(b + i, left)), left);
}

static void add_scaled(const float *a, const float *b, float alpha, int64_t n, float *y)
{
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(y + i, v_fma(v_set(alpha), v_load(b + i), v_load(a + i)));
    int left = (int)(n - i);
    if (left) v_store_n(y + i, v_fma(v_set(alpha), v_load_n(b + i, left), v_load_n(a + i, left)), left);
}

static void rms_norm(const float *x, const float *w, float eps, int64_t n, float *y)
{
    v16 s = v_set(0.0f);
    for (int64_t i = 0; i < n; i += 16) {
        v16 a = v_load_n(x + i, lanes_left(n - i));
        s = v_fma(a, a, s);
    }
    const v16 r = v_set(1.0f / sqrtf(v_sum(s) / (float)n + eps));
    for (int64_t i = 0; i < n; i += 16) {
        int left = lanes_left(n - i);
        v16 a = v_mul(v_load_n(x + i, left), r);
        if (w) a = v_mul(a, v_load_n(w + i, left));
        v_store_n(y + i, a, left);
    }
}

static void layer_norm(const float *x, const float *w, const float *b, float eps, int64_t n, float *y)
{
    v16 s = v_set(0.0f);
    for (int64_t i = 0; i < n; i += 16) s = v_add(s, v_load_n(x + i, lanes_left(n - i)));
    const v16 mean = v_set(v_sum(s) / (float)n);
    s = v_set(0.0f);
    for (int64_t i = 0; i < n; i += 16) {
        int left = lanes_left(n - i);
        v16 d = v_keep_n(v_sub(v_load_n(x + i, left), mean), left);
        s = v_fma(d, d, s);
    }
    const v16 r = v_set(1.0f / sqrtf(v_sum(s) / (float)n + eps));
    for (int64_t i = 0; i < n; i += 16) {
        int left = lanes_left(n - i);
        v16 a = v_mul(v_sub(v_load_n(x + i, left), mean), r);
        if (w) a = v_mul(a, v_load_n(w + i, left));
        if (b) a = v_add(a, v_load_n(b + i, left));
        v_store_n(y + i, a, left);
    }
}

static inline void rotate(v16 *a, v16 *b, v16 c, v16 s)
{
    v16 x = v_fma(*a, c, v_neg(v_mul(*b, s)));
    *b = v_fma(*b, c, v_mul(*a, s));
    *a = x;
}

static void rope(float *x, const float *cosine, const float *sine, int n_rot, bool neox)
{
    int pairs = n_rot / 2;
    for (int i = 0; i < pairs; i += 16) {
        int left = lanes_left(pairs - i);
        v16 c = v_load_n(cosine + i, left), s = v_load_n(sine + i, left), a, b;
        if (neox) {
            a = v_load_n(x + i, left);
            b = v_load_n(x + pairs + i, left);
            rotate(&a, &b, c, s);
            v_store_n(x + i, a, left);
            v_store_n(x + pairs + i, b, left);
        } else {
            v_load2(x + 2 * i, &a, &b, left);
            rotate(&a, &b, c, s);
            v_store2(x + 2 * i, a, b, left);
        }
    }
}

static void fill_elementwise(nm_kernels *table)
{
    table->rms_norm = rms_norm;
    table->layer_norm = layer_norm;
    table->add_scaled = add_scaled;
    table->scale = scale_by;
    table->mul = mul;
    table->silu = silu;
    table->gelu_tanh = gelu_tanh;
    table->gelu_erf = gelu_erf;
    table->softcap = softcap;
    table->rope = rope;
}

#endif
