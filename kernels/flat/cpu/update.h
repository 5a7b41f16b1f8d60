/* SPDX-License-Identifier: Apache-2.0 */
/* update.h - the optimizers over vectors of any width. The file of each SIMD level includes it once, after vector.h.
 *
 * The loops are memory-bound. The limit is the number of outstanding cache lines per core, hence the prefetches and the
 * streaming stores of parameters. Measured with two threads on a Sapphire Rapids, for AdamW with bf16 gradients and
 * parameters: both raise the rate from 0.77 to 1.0 of the bandwidth for its arrays. The prefetches gain a sixth, and
 * not reading parameters that are only written gains a tenth. Streaming the master weights or the moments, which are
 * read anyway, costs a quarter. */

/* Elements per iteration: a cache line of 16-bit numbers. */
#define TURN 32

/* The prefetch distance in bytes. Values between 512 and 4096 perform about equally. */
#define AHEAD 1024

/* A thread with at least this many elements streams parameters past the caches: the first ones that it writes would be
 * evicted from its own cache before it ends. */
#define STREAMED (1 << 20)

/* The scalars of a step, in every lane. */
typedef struct lanes {
    vec grad_factor, l2, beta1, one_minus_beta1, beta2, one_minus_beta2, decay_factor, step, inv_sqrt_bc2, eps;
} lanes_t;

INLINE lanes_t lanes_of(const zero_rule_scalars_t *c)
{
    return (lanes_t){.grad_factor = v_set(c->grad_factor),
                     .l2 = v_set(c->l2),
                     .beta1 = v_set(c->beta1),
                     .one_minus_beta1 = v_set(c->one_minus_beta1),
                     .beta2 = v_set(c->beta2),
                     .one_minus_beta2 = v_set(c->one_minus_beta2),
                     .decay_factor = v_set(c->decay_factor),
                     .step = v_set(c->step_size),
                     .inv_sqrt_bc2 = v_set(c->inv_sqrt_bc2),
                     .eps = v_set(c->eps)};
}

/* Prefetches a TURN of x, AHEAD bytes after element i. Addresses past the end are harmless. */
INLINE void fetch(const void *x, size_t size, int64_t i)
{
    const char *at = (const char *)x + (size_t)i * size + AHEAD;
    for (size_t b = 0; b < TURN * size; b += 64)
        __builtin_prefetch(at + b);
}

/* x with the sign of -x. */
INLINE vec negated(vec x)
{
    return (vec)((ivec)x ^ INT32_MIN);
}

/* The step of AdamW and Adam, without weight decay. */
INLINE vec moved_by_moments(const lanes_t *c, vec p, vec g, vec *m, vec *v)
{
    *m = v_fma(c->beta1, *m, c->one_minus_beta1 * g);
    *v = v_fma(c->beta2, *v, (c->one_minus_beta2 * g) * g);
    return v_fma(negated(c->step), *m / v_fma(v_sqrt(*v), c->inv_sqrt_bc2, c->eps), p);
}

/* Updates parameters p and their state from the gradients g. rule is a constant. */
INLINE vec moved(zero_rule_t rule, const lanes_t *c, bool momentum, vec p, vec g, vec *m, vec *v)
{
    vec zero = v_set(0), update;
    ivec up, down;
    switch (rule) {
    case ZERO_RULE_SGD:
        g = v_fma(c->l2, p, g);
        if (momentum)
            *m = g = c->beta1 * *m + g;
        return v_fma(negated(c->step), g, p);
    case ZERO_RULE_LION:
        update = v_fma(c->beta1, *m, c->one_minus_beta1 * g);
        *m = v_fma(c->beta2, *m, c->one_minus_beta2 * g);
        up = (ivec)(update > zero) & (ivec)c->step;
        down = (ivec)(update < zero) & (ivec)negated(c->step);
        return p * c->decay_factor - (vec)(up | down);
    case ZERO_RULE_ADAM:
        return moved_by_moments(c, p, v_fma(c->l2, p, g), m, v);
    case ZERO_RULE_ADAMW:
    case ZERO_RULE_ADAMW8:
        return moved_by_moments(c, p * c->decay_factor, g, m, v);
    case ZERO_RULE_MUON:
        if (!momentum)
            return v_fma(negated(c->step), g, p * c->decay_factor);
        *m = v_fma(c->beta1, *m, c->one_minus_beta1 * g);
        return v_fma(c->beta1, *m, c->one_minus_beta1 * g);
    case ZERO_RULE_CUSTOM: /* the library calls the caller's function instead */
    case ZERO_RULES:
        break;
    }
    return p;
}

/* v_store, or v_stream if x is a param that may be streamed. */
INLINE void store_param(void *x, zero_dtype_t dtype, bool streamed, int64_t i, vec value)
{
    if (!streamed)
        v_store(x, dtype, i, value);
    else if (dtype == ZERO_BF16)
        h_stream((uint16_t *)x + i, v_to_bf16(value));
    else if (dtype == ZERO_FP16)
        h_stream((uint16_t *)x + i, v_to_fp16(value));
    else
        v_stream_fp32((float *)x + i, value);
}

/* The destination of parameters besides the master weights. */
typedef struct target {
    void *param;
    zero_dtype_t dtype;
    bool streamed;
} target_t;

INLINE target_t target_of(const zero_update_t *u, int64_t begin, int64_t end)
{
    target_t t = {.param = u->param == u->master ? NULL : u->param, .dtype = u->param_dtype};
    t.streamed = t.param && end - begin >= STREAMED &&
                 ((uintptr_t)t.param + (uintptr_t)begin * zero_dtype_size(t.dtype)) % 64 == 0;
    return t;
}

/* A rule with state in fp32, over whole turns. dtypes are not constants here: their branches are predicted, and hide
 * behind the division and the square root, or behind memory. */
INLINE void update_turns(zero_rule_t rule, const zero_update_t *u, int64_t begin, int64_t end)
{
    const bool first = u->state[0] != NULL, second = rule == ZERO_RULE_ADAMW || rule == ZERO_RULE_ADAM;
    const lanes_t c = lanes_of(&u->scalars);
    const target_t to = target_of(u, begin, end);
    const size_t grad_size = zero_dtype_size(u->grad_dtype);
    float *restrict master = u->master, *restrict m = u->state[0], *restrict v = u->state[1];

    for (int64_t turn = begin; turn < end; turn += TURN) {
        fetch(u->grad, grad_size, turn);
        fetch(master, 4, turn);
        if (first)
            fetch(m, 4, turn);
        if (second)
            fetch(v, 4, turn);
        for (int64_t i = turn; i < turn + TURN; i += WIDTH) {
            vec mi = first ? v_load_fp32(m + i) : v_set(0), vi = second ? v_load_fp32(v + i) : v_set(0);
            vec p = moved(rule, &c, first, v_load_fp32(master + i), v_load(u->grad, u->grad_dtype, i) * c.grad_factor,
                          &mi, &vi);
            v_store_fp32(master + i, p);
            if (first)
                v_store_fp32(m + i, mi);
            if (second)
                v_store_fp32(v + i, vi);
            if (to.param)
                store_param(to.param, to.dtype, to.streamed, i, p);
        }
    }
    if (to.streamed)
        _mm_sfence();
}

/* The fp32 numbers with the bits (k + bias) << 20 where k > 0, else zero. */
INLINE ivec magnitude8(ivec k, int bias)
{
    return ((k + bias) << 20) & (k > 0);
}

/* The inverse for x >= 0 (or NaN), without a lower bound. */
INLINE ivec code8(vec x, int bias, int most)
{
    return i_min((((ivec)x + (1 << 19)) >> 20) - bias, (ivec){0} + most);
}

INLINE vec absolute(vec x)
{
    return (vec)((ivec)x & INT32_MAX);
}

/* The number with the largest bits in x. */
INLINE float largest(ivec x)
{
    int32_t all[WIDTH], most = 0;
    float value;
    memcpy(all, &x, sizeof all);
    for (int l = 0; l < WIDTH; l++)
        most = all[l] > most ? all[l] : most;
    memcpy(&value, &most, sizeof value);
    return value;
}

/* 8-bit AdamW over whole blocks. */
INLINE void update_blocks8(const zero_update_t *u, int64_t begin, int64_t end)
{
    const lanes_t c = lanes_of(&u->scalars);
    const target_t to = target_of(u, begin, end);
    const size_t grad_size = zero_dtype_size(u->grad_dtype);

    for (int64_t first = begin; first < end; first += ZERO_BLOCK8) {
        zero_block8_t *mb = (zero_block8_t *)u->state[0] + first / ZERO_BLOCK8,
                      *vb = (zero_block8_t *)u->state[1] + first / ZERO_BLOCK8;
        const vec m_scale = v_set(mb->scale), v_scale = v_set(vb->scale);
        vec m[ZERO_BLOCK8 / WIDTH], v[ZERO_BLOCK8 / WIDTH];
        ivec m_max = {0}, v_max = {0};

        for (int64_t k = 0; k < ZERO_BLOCK8; k += TURN) {
            fetch(u->grad, grad_size, first + k);
            fetch(u->master, 4, first + k);
        }
        for (int k = 0; k < ZERO_BLOCK8 / WIDTH; k++) {
            int64_t i = first + k * WIDTH;
            ivec mk = b_load(mb->code + k * WIDTH), vk = b_load(vb->code + k * WIDTH);
            m[k] = (vec)(magnitude8(mk & 0x7f, ZERO_BLOCK8_M) | ((mk > 0x7f) & INT32_MIN)) * m_scale;
            v[k] = (vec)magnitude8(vk, ZERO_BLOCK8_V) * v_scale;
            vec p = moved(ZERO_RULE_ADAMW8, &c, true, v_load_fp32(u->master + i),
                          v_load(u->grad, u->grad_dtype, i) * c.grad_factor, &m[k], &v[k]);
            v_store_fp32(u->master + i, p);
            if (to.param)
                store_param(to.param, to.dtype, to.streamed, i, p);
            m_max = i_max(m_max, (ivec)absolute(m[k]));
            v_max = i_max(v_max, (ivec)absolute(v[k]));
        }

        mb->scale = largest(m_max);
        vb->scale = largest(v_max);
        const vec m_inv = v_set(zero_scale_inverse(mb->scale)), v_inv = v_set(zero_scale_inverse(vb->scale));
        for (int k = 0; k < ZERO_BLOCK8 / WIDTH; k++) {
            ivec sign = ((ivec)m[k] >> 24) & 0x80, is_positive = (v[k] > v_set(0)) & 1;
            b_store(mb->code + k * WIDTH, i_max(code8(absolute(m[k] * m_inv), ZERO_BLOCK8_M, 127), (ivec){0}) | sign);
            b_store(vb->code + k * WIDTH, i_max(code8(absolute(v[k] * v_inv), ZERO_BLOCK8_V, 255), is_positive));
        }
    }
    if (to.streamed)
        _mm_sfence();
}

static SIMD void kernels_update(const zero_update_t *u, int64_t begin, int64_t end)
{
    int64_t grain = u->rule == ZERO_RULE_ADAMW8 ? ZERO_BLOCK8 : TURN, mid = begin + (end - begin) / grain * grain;
    switch (u->rule) {
    case ZERO_RULE_ADAMW:
        update_turns(ZERO_RULE_ADAMW, u, begin, mid);
        break;
    case ZERO_RULE_ADAM:
        update_turns(ZERO_RULE_ADAM, u, begin, mid);
        break;
    case ZERO_RULE_SGD:
        update_turns(ZERO_RULE_SGD, u, begin, mid);
        break;
    case ZERO_RULE_LION:
        update_turns(ZERO_RULE_LION, u, begin, mid);
        break;
    case ZERO_RULE_ADAMW8:
        update_blocks8(u, begin, mid);
        break;
    case ZERO_RULE_MUON:
        update_turns(ZERO_RULE_MUON, u, begin, mid);
        break;
    case ZERO_RULE_CUSTOM: /* the library calls the caller's function instead */
    case ZERO_RULES:
        break;
    }
    zero_flat_ref_kernels.update(u, mid, end);
}
