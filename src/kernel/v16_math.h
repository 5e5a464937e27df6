/* Owns the canonical exp, tanh and erf: one sequence of IEEE operations over v16, so every ISA gives the same bits. Included after one
 * of the v16_*.h backends. NaN in gives NaN out. Measured against libm in double (tests/kernels/test_kernels.c): exp 1.0 ulp, tanh 1.6 ulp, erf 1.5 ulp.
 * The polynomials are least-maximum fits (Lawson's reweighted least squares on Chebyshev nodes), rounded to float. */
#ifndef NM_V16_MATH_H
#define NM_V16_MATH_H

/* e^x for any x. Below -86.9 the result is +0: no result is ever subnormal. Above 88.73 it is +inf. */
static inline v16 v_exp(v16 x)
{
    const v16 magic = v_set(12582912.0f);       /* 1.5 * 2^23: adding it rounds to an integer, to nearest even */
    v16 y = v_min(v_set(89.0f), x);
    y = v_max(v_set(-87.0f), y);
    v16 t = v_fma(y, v_set(1.44269502f), magic);
    v16 n = v_sub(t, magic);
    v16 r = v_fma(n, v_set(-0.693359375f), y);  /* ln 2 in two parts; n * the first is exact */
    r = v_fma(n, v_set(2.12194442e-4f), r);
    v16 p = v_set(0.00138144672f);              /* (e^r - 1 - r) / r^2 on |r| <= ln 2 / 2 */
    p = v_fma(p, r, v_set(0.00836878084f));
    p = v_fma(p, r, v_set(0.0416683927f));
    p = v_fma(p, r, v_set(0.166665196f));
    p = v_fma(p, r, v_set(0.49999994f));
    p = v_fma(v_mul(r, r), p, r);
    p = v_add(p, v_set(1.0f));
    p = v_mul(v_add(p, p), v_pow2(v_sub(t, v_set(1.0f))));     /* 2p * 2^(n-1): n may be 128 */
    return v_less(x, v_set(-86.9f), v_set(0.0f), p);
}

/* e^x for x <= 0 or NaN, the same bits in fewer steps: no bounds, for what lies beyond them the last line replaces; and 2^n is in range. */
static inline v16 v_exp_below(v16 x)
{
    const v16 magic = v_set(12582912.0f);
    v16 t = v_fma(x, v_set(1.44269502f), magic);
    v16 n = v_sub(t, magic);
    v16 r = v_fma(n, v_set(-0.693359375f), x);
    r = v_fma(n, v_set(2.12194442e-4f), r);
    v16 p = v_set(0.00138144672f);
    p = v_fma(p, r, v_set(0.00836878084f));
    p = v_fma(p, r, v_set(0.0416683927f));
    p = v_fma(p, r, v_set(0.166665196f));
    p = v_fma(p, r, v_set(0.49999994f));
    p = v_fma(v_mul(r, r), p, r);
    p = v_mul(v_add(p, v_set(1.0f)), v_pow2(t));
    return v_less(x, v_set(-86.9f), v_set(0.0f), p);
}

static inline v16 v_tanh(v16 x)
{
    v16 a = v_abs(x), z = v_mul(x, x);
    v16 p = v_set(-0.00545349438f);             /* (tanh x - x) / x^3 on |x| < 0.66, in x^2 */
    p = v_fma(p, z, v_set(0.0204129145f));
    p = v_fma(p, z, v_set(-0.053670533f));
    p = v_fma(p, z, v_set(0.133306235f));
    p = v_fma(p, z, v_set(-0.333332539f));
    v16 small = v_fma(v_mul(p, z), a, a);
    v16 e = v_exp(v_add(a, a));
    v16 large = v_sub(v_set(1.0f), v_div(v_set(2.0f), v_add(e, v_set(1.0f))));
    return v_copysign(v_less(v_set(0.65f), a, large, small), x);
}

static inline v16 v_erf(v16 x)
{
    v16 a = v_abs(x), z = v_mul(x, x);
    v16 p = v_set(7.85385782e-05f);             /* erf x / x - 1 on |x| < 1, in x^2 */
    p = v_fma(p, z, v_set(-0.000801019254f));
    p = v_fma(p, z, v_set(0.00518832775f));
    p = v_fma(p, z, v_set(-0.026853811f));
    p = v_fma(p, z, v_set(0.112835854f));
    p = v_fma(p, z, v_set(-0.37612626f));
    p = v_fma(p, z, v_set(0.128379166f));
    v16 small = v_fma(p, a, a);
    v16 b = v_min(v_set(4.1f), a);              /* beyond it erf rounds to 1 */
    v16 l = v_set(0.000188823673f);             /* ln(1 - erf x) on 1 .. 4.1 */
    l = v_fma(l, b, v_set(-0.00297244266f));
    l = v_fma(l, b, v_set(0.0219404325f));
    l = v_fma(l, b, v_set(-0.103327356f));
    l = v_fma(l, b, v_set(-0.637883067f));
    l = v_fma(l, b, v_set(-1.12725151f));
    l = v_fma(l, b, v_set(-0.000300427695f));
    v16 large = v_sub(v_set(1.0f), v_exp(l));
    return v_copysign(v_less(v_set(1.0f), a, large, small), x);
}

#endif
