/* SPDX-License-Identifier: Apache-2.0 */
/* update.c - the optimizers in plain C, the reference. Tests compare the other implementations with it bit for bit. The
 * code aims to be easy to read. fma and sqrt are the C library's, correctly rounded on every machine. */
#include "kernels/flat/kernels.h"

#include <math.h>

/* Updates an element p and its state from the gradient g. The switch names every rule, so a new rule without an update
 * here does not compile. */
static inline float step(const zero_update_t *u, float p, float g, float *m, float *v)
{
    const zero_rule_scalars_t *c = &u->scalars;
    float b, update;
    switch (u->rule) {
    case ZERO_RULE_SGD:
        g = fmaf(c->l2, p, g);
        b = u->state[0] ? c->beta1 * *m + g : g;
        *m = b;
        return fmaf(-c->step_size, b, p);
    case ZERO_RULE_LION:
        update = fmaf(c->beta1, *m, c->one_minus_beta1 * g);
        *m = fmaf(c->beta2, *m, c->one_minus_beta2 * g);
        p = p * c->decay_factor;
        return p - (update > 0 ? c->step_size : update < 0 ? -c->step_size : 0);
    case ZERO_RULE_ADAMW:
    case ZERO_RULE_ADAMW8:
    case ZERO_RULE_ADAM:
        if (u->rule == ZERO_RULE_ADAM)
            g = fmaf(c->l2, p, g);
        else
            p = p * c->decay_factor;
        *m = fmaf(c->beta1, *m, c->one_minus_beta1 * g);
        *v = fmaf(c->beta2, *v, (c->one_minus_beta2 * g) * g);
        return fmaf(-c->step_size, *m / fmaf(sqrtf(*v), c->inv_sqrt_bc2, c->eps), p);
    case ZERO_RULE_MUON:
        if (u->state[0] == NULL)
            return fmaf(-c->step_size, g, p * c->decay_factor);
        *m = fmaf(c->beta1, *m, c->one_minus_beta1 * g);
        return fmaf(c->beta1, *m, c->one_minus_beta1 * g);
    case ZERO_RULE_CUSTOM: /* the library calls the caller's function instead */
    case ZERO_RULES:
        break;
    }
    return p;
}

/* Updates element i, with its state at m and v. */
static inline void update_element(const zero_update_t *u, int64_t i, float *m, float *v)
{
    float p = step(u, u->master[i], zero_element(u->grad, i, u->grad_dtype) * u->scalars.grad_factor, m, v);
    u->master[i] = p;
    if (u->param && u->param != u->master)
        zero_element_set(u->param, i, u->param_dtype, p);
}

static uint32_t bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* The magnitude of code k before scaling. */
static float magnitude(int32_t k, int32_t bias)
{
    return k == 0 ? 0 : from_bits((uint32_t)(k + bias) << 20);
}

static float decode(const zero_block8_t *b, int64_t k, int state)
{
    if (state > 0)
        return magnitude(b->code[k], ZERO_BLOCK8_V) * b->scale;
    return (b->code[k] & 0x80 ? -1.0f : 1.0f) * magnitude(b->code[k] & 0x7f, ZERO_BLOCK8_M) * b->scale;
}

void zero_block8_read(float *out, const zero_block8_t *blocks, int state, int64_t begin, int64_t count)
{
    for (int64_t i = begin; i < begin + count; i++)
        out[i - begin] = decode(blocks + i / ZERO_BLOCK8, i % ZERO_BLOCK8, state);
}

/* The inverse for |x| * inv, between least and most. */
static int32_t code(float x, float inv, int32_t bias, int32_t least, int32_t most)
{
    int32_t k = (int32_t)((bits(fabsf(x * inv)) + (1u << 19)) >> 20) - bias;
    return k < least ? least : k > most ? most : k;
}

/* Encodes the first count elements of a block. */
static void encode(zero_block8_t *b, int state, const float *values, int64_t count)
{
    uint32_t largest = 0;
    for (int64_t k = 0; k < count; k++)
        if (bits(fabsf(values[k])) > largest)
            largest = bits(fabsf(values[k]));
    b->scale = from_bits(largest);
    float inv = zero_scale_inverse(b->scale);
    for (int64_t k = 0; k < count; k++)
        b->code[k] =
            (uint8_t)(state > 0 ? code(values[k], inv, ZERO_BLOCK8_V, values[k] > 0, 255)
                                : code(values[k], inv, ZERO_BLOCK8_M, 0, 127) | (signbit(values[k]) ? 0x80 : 0));
}

void zero_block8_write(zero_block8_t *blocks, int state, const float *values, int64_t count)
{
    for (int64_t i = 0; i < count; i += ZERO_BLOCK8)
        encode(blocks + i / ZERO_BLOCK8, state, values + i, count - i < ZERO_BLOCK8 ? count - i : ZERO_BLOCK8);
}

/* Updates elements [first, end) of u, which are one block or its start. */
static void update_block8(const zero_update_t *u, int64_t first, int64_t end)
{
    zero_block8_t *mb = (zero_block8_t *)u->state[0] + first / ZERO_BLOCK8,
                  *vb = (zero_block8_t *)u->state[1] + first / ZERO_BLOCK8;
    float m[ZERO_BLOCK8], v[ZERO_BLOCK8];

    for (int64_t i = first, k = 0; i < end; i++, k++) {
        m[k] = decode(mb, k, 0);
        v[k] = decode(vb, k, 1);
        update_element(u, i, &m[k], &v[k]);
    }
    encode(mb, 0, m, end - first);
    encode(vb, 1, v, end - first);
}

void zero_flat_ref_update(const zero_update_t *u, int64_t begin, int64_t end)
{
    if (u->rule == ZERO_RULE_ADAMW8) {
        for (; begin < end; begin += ZERO_BLOCK8)
            update_block8(u, begin, begin + ZERO_BLOCK8 < end ? begin + ZERO_BLOCK8 : end);
        return;
    }
    float none = 0;
    for (int64_t i = begin; i < end; i++)
        update_element(u, i, u->state[0] ? (float *)u->state[0] + i : &none,
                       u->state[1] ? (float *)u->state[1] + i : &none);
}
