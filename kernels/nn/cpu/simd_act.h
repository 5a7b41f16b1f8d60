/* SPDX-License-Identifier: Apache-2.0 */
/* simd_act.h - a part of simd_rows.h: activations, alone and gated; rotation of points. */

#define GELU_SCALE 0.79788456080286535588f
#define GELU_CUBE 0.044715f

/* Element by element, an activation and its derivative. act is a constant after inlining. */
typedef struct act_pair {
    vf value, slope;
} act_pair_t;

/* (1 + tanh u) / 2 = 1 / (1 + e^-2u) without cancellation, using e = e^-2|u|; *other = 1 - gate. */
INLINE vf gelu_gate(vf x, vf *other)
{
    vf u = x * vf_fma(x * x, vf_set(GELU_SCALE * GELU_CUBE), vf_set(GELU_SCALE));
    vi negative = u < vf_set(0);
    vf twice = u + u;
    vf e = vf_exp(vf_select(negative, twice, -twice));
    vf q = 1.0f / (1.0f + e), eq = e * q;
    *other = vf_select(negative, q, eq);
    return vf_select(negative, eq, q);
}

/* With g the gate: (x g)' = g + x 2 g (1 - g) u'. */
INLINE act_pair_t gelu_new_pair(vf x)
{
    vf other, g = gelu_gate(x, &other);
    vf du = vf_fma(x * x, vf_set(3 * GELU_SCALE * GELU_CUBE), vf_set(GELU_SCALE));
    return (act_pair_t){.value = x * g, .slope = vf_fma(x * du, 2.0f * g * other, g)};
}

/* The normal distribution function of x is t p(t) e^(-x^2 / 2) for x < 0, with t = 1 / (1 + |x| / sqrt 8), and 1 minus
 * that of |x| for x > 0. p is the polynomial that interpolates it at Chebyshev points of t, for |x| up to 13; its
 * relative error is below 2^-24. */
INLINE act_pair_t gelu_pair(vf x)
{
    vi negative = x < vf_set(0);
    vf size = vf_select(negative, -x, x), e = vf_exp(-0.5f * x * x);
    vf t = 1.0f / vf_fma(size, vf_set(0.35355339059327376220f), vf_set(1));
    vf p = vf_set(-2.966906294e-2f);
    p = vf_fma(p, t, vf_set(1.429898358e-1f));
    p = vf_fma(p, t, vf_set(-2.451380233e-1f));
    p = vf_fma(p, t, vf_set(1.408710965e-1f));
    p = vf_fma(p, t, vf_set(-1.461554899e-2f));
    p = vf_fma(p, t, vf_set(1.019011304e-1f));
    p = vf_fma(p, t, vf_set(1.214120454e-1f));
    p = vf_fma(p, t, vf_set(1.412063066e-1f));
    p = vf_fma(p, t, vf_set(1.410422007e-1f));
    vf tail = p * t * e, normal = vf_select(negative, tail, 1.0f - tail);
    return (act_pair_t){.value = x * normal, .slope = vf_fma(x * 0.39894228040143267794f, e, normal)};
}

/* NaN stays NaN. */
INLINE act_pair_t relu_pair(vf x)
{
    vi off = x <= vf_set(0);
    return (act_pair_t){.value = (vf)(~off & (vi)x), .slope = (vf)(~off & (vi)vf_set(1))};
}

/* With s = 1 / (1 + e^-x): (x s)' = s + x s (1 - s). */
INLINE act_pair_t silu_pair(vf x)
{
    vi negative = x < vf_set(0);
    vf e = vf_exp(vf_select(negative, x, -x)), q = 1.0f / (1.0f + e), eq = e * q;
    vf s = vf_select(negative, eq, q);
    return (act_pair_t){.value = x * s, .slope = vf_fma(x * q, eq, s)};
}

INLINE act_pair_t act_pair(vf x, const zero_nn_activation_t act)
{
    return act == ZERO_NN_GELU_NEW ? gelu_new_pair(x)
           : act == ZERO_NN_GELU   ? gelu_pair(x)
           : act == ZERO_NN_RELU   ? relu_pair(x)
                                   : silu_pair(x);
}

/* Compiles body(act, dtype) for every pair, so no loop tests them. */
#define FOR_ACT(act, dtype, body)                         \
    do {                                                  \
        switch (act) {                                    \
        case ZERO_NN_GELU_NEW:                            \
            FOR_ACT_DTYPE(ZERO_NN_GELU_NEW, dtype, body); \
            break;                                        \
        case ZERO_NN_GELU:                                \
            FOR_ACT_DTYPE(ZERO_NN_GELU, dtype, body);     \
            break;                                        \
        case ZERO_NN_RELU:                                \
            FOR_ACT_DTYPE(ZERO_NN_RELU, dtype, body);     \
            break;                                        \
        default:                                          \
            FOR_ACT_DTYPE(ZERO_NN_SILU, dtype, body);     \
        }                                                 \
    } while (0)
#define FOR_ACT_DTYPE(act, dtype, body) \
    do {                                \
        switch (dtype) {                \
        case ZERO_BF16:                 \
            body(act, ZERO_BF16);       \
            break;                      \
        case ZERO_FP16:                 \
            body(act, ZERO_FP16);       \
            break;                      \
        default:                        \
            body(act, ZERO_FP32);       \
        }                               \
    } while (0)

KERNEL void rows_act(zero_nn_activation_t act, void *y, const void *x, int64_t n, zero_dtype_t dtype)
{
#define BODY(f, dt)                        \
    for (int64_t i = 0; i < n; i += LANES) \
    row_put_to(y, i, n, dt, act_pair(row_get_to(x, i, n, dt), f).value)
    FOR_ACT(act, dtype, BODY);
#undef BODY
}

KERNEL void rows_act_grad(zero_nn_activation_t act, void *dx, const void *dy, const void *x, int64_t n,
                          zero_dtype_t dtype)
{
#define BODY(f, dt)                        \
    for (int64_t i = 0; i < n; i += LANES) \
    row_put_to(dx, i, n, dt, row_get_to(dy, i, n, dt) * act_pair(row_get_to(x, i, n, dt), f).slope)
    FOR_ACT(act, dtype, BODY);
#undef BODY
}

KERNEL void rows_gated(zero_nn_activation_t act, void *y, const void *gate, const void *up, int64_t n,
                       zero_dtype_t dtype)
{
#define BODY(f, dt)                        \
    for (int64_t i = 0; i < n; i += LANES) \
    row_put_to(y, i, n, dt, act_pair(row_get_to(gate, i, n, dt), f).value *row_get_to(up, i, n, dt))
    FOR_ACT(act, dtype, BODY);
#undef BODY
}

INLINE void gated_grad_row(void *dgate, void *dup, const void *dy, const void *gate, const void *up, int64_t n,
                           const zero_nn_activation_t act, const zero_dtype_t dtype)
{
    for (int64_t i = 0; i < n; i += LANES) {
        act_pair_t a = act_pair(row_get_to(gate, i, n, dtype), act);
        vf d = row_get_to(dy, i, n, dtype), u = row_get_to(up, i, n, dtype);
        row_put_to(dgate, i, n, dtype, d * u * a.slope);
        row_put_to(dup, i, n, dtype, d * a.value);
    }
}

KERNEL void rows_gated_grad(zero_nn_activation_t act, void *dgate, void *dup, const void *dy, const void *gate,
                            const void *up, int64_t n, zero_dtype_t dtype)
{
#define BODY(f, dt) gated_grad_row(dgate, dup, dy, gate, up, n, f, dt)
    FOR_ACT(act, dtype, BODY);
#undef BODY
}

INLINE void rotate_row(void *a, void *b, const float *cosine, const float *sine, int64_t n, const zero_dtype_t dtype)
{
    for (int64_t i = 0; i < n; i += LANES) {
        vf x = row_get_to(a, i, n, dtype), y = row_get_to(b, i, n, dtype);
        vf c = row_get_to(cosine, i, n, ZERO_FP32), s = row_get_to(sine, i, n, ZERO_FP32);
        row_put_to(a, i, n, dtype, x * c - y * s);
        row_put_to(b, i, n, dtype, y * c + x * s);
    }
}

KERNEL void rows_rotate(void *a, void *b, const float *cosine, const float *sine, int64_t n, zero_dtype_t dtype)
{
#define BODY(dt) rotate_row(a, b, cosine, sine, n, dt)
    FOR_DTYPE(dtype, BODY);
#undef BODY
}
