/* SPDX-License-Identifier: Apache-2.0 */
/* simd_attention.h - the softmax of attention, compiled once per instruction set: a part of simd_rows.h. */

/* The keys that the vector of queries at t sees: some lane may see keys [first, last), and all of its lanes see keys
 * [all, all_end), which may be none. */
typedef struct span {
    int64_t first, all, all_end, last;
} span_t;

INLINE span_t span_of(const zero_nn_seen_t *seen, int64_t t, int64_t keys)
{
    span_t s = {0, 0, keys, keys};
    if (seen != NULL) {
        s = (span_t){seen->begin[t], seen->begin[t + LANES - 1], seen->end[t], seen->end[t + LANES - 1]};
        if (s.last < s.first)
            s.last = s.first;
        if (s.all >= s.all_end)
            s.all = s.all_end = s.last;
    }
    return s;
}

/* A mask: the lanes of the queries at t that see key i. */
INLINE vi vi_seen(const zero_nn_seen_t *seen, int64_t t, int64_t i)
{
    const vi key = (vi){0} + (int32_t)i, begin = *(const vi_u *)(seen->begin + t), end = *(const vi_u *)(seen->end + t);
    return (begin <= key) & (key < end);
}

KERNEL void rows_softmax(float *s, float *max, float *sum, float *factor, int64_t keys, const zero_nn_seen_t *seen)
{
    for (int64_t t = 0; t < ZERO_NN_BLOCK; t += LANES) {
        const span_t span = span_of(seen, t, keys);
        float *row = s + t;
        vf old = vf_get(max + t), top = old, total = (vf){0};
        int64_t i = span.first;
        for (; i < span.all; i++)
            top = vf_max(vf_select(vi_seen(seen, t, i), vf_get(row + i * ZERO_NN_BLOCK), top), top);
        for (; i < span.all_end; i++)
            top = vf_max(vf_get(row + i * ZERO_NN_BLOCK), top);
        for (; i < span.last; i++)
            top = vf_max(vf_select(vi_seen(seen, t, i), vf_get(row + i * ZERO_NN_BLOCK), top), top);
        for (i = 0; i < span.first; i++)
            vf_put(row + i * ZERO_NN_BLOCK, (vf){0});
#define STEP(p)                              \
    do {                                     \
        vf p_ = (p);                         \
        vf_put(row + i * ZERO_NN_BLOCK, p_); \
        total += p_;                         \
    } while (0)
        for (; i < span.all; i++)
            STEP(vf_select(vi_seen(seen, t, i), vf_exp(vf_get(row + i * ZERO_NN_BLOCK) - top), (vf){0}));
        for (; i < span.all_end; i++)
            STEP(vf_exp(vf_get(row + i * ZERO_NN_BLOCK) - top));
        for (; i < span.last; i++)
            STEP(vf_select(vi_seen(seen, t, i), vf_exp(vf_get(row + i * ZERO_NN_BLOCK) - top), (vf){0}));
#undef STEP
        for (; i < keys; i++)
            vf_put(row + i * ZERO_NN_BLOCK, (vf){0});
        /* A query that has seen no key yet has a maximum of -inf, and inf - inf is not a number. */
        vf f = vf_select(top == vf_set(-INFINITY), vf_set(1), vf_exp(old - top));
        vf_put(factor + t, f);
        vf_put(max + t, top);
        vf_put(sum + t, vf_fma(vf_get(sum + t), f, total));
    }
}

KERNEL void rows_softmax_grad(float *s, float *dp, const float *lse, const float *delta, int64_t keys,
                              const zero_nn_seen_t *seen)
{
    for (int64_t t = 0; t < ZERO_NN_BLOCK; t += LANES) {
        const span_t span = span_of(seen, t, keys);
        vf l = vf_get(lse + t), d = vf_get(delta + t);
        for (int64_t i = 0; i < span.first; i++) {
            vf_put(s + i * ZERO_NN_BLOCK + t, (vf){0});
            vf_put(dp + i * ZERO_NN_BLOCK + t, (vf){0});
        }
        for (int64_t i = span.first; i < span.last; i++) {
            float *at = s + i * ZERO_NN_BLOCK + t, *dp_at = dp + i * ZERO_NN_BLOCK + t;
            vf p = vf_exp(vf_get(at) - l), ds = p * (vf_get(dp_at) - d);
            if (i < span.all || i >= span.all_end) {
                vi mask = vi_seen(seen, t, i);
                p = vf_select(mask, p, (vf){0});
                ds = vf_select(mask, ds, (vf){0});
            }
            vf_put(at, p);
            vf_put(dp_at, ds);
        }
        for (int64_t i = span.last; i < keys; i++) {
            vf_put(s + i * ZERO_NN_BLOCK + t, (vf){0});
            vf_put(dp + i * ZERO_NN_BLOCK + t, (vf){0});
        }
    }
}
