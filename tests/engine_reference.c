/* SPDX-License-Identifier: Apache-2.0 */
/* engine_reference.c - see engine_reference.h. */
#include "tests/engine_reference.h"

#include "optim/rules.h"

#include <math.h>
#include <stdlib.h>

const toy_param_t toy_params[TOY_PARAMS] = {
    {TOY_EMBED, "embed.w", 7 * 19, true, false, 1, 1}, {TOY_SMALL, "small.w", 3, true, false, 1, 1},
    {TOY_FROZEN, "frozen.w", 300, false, false, 1, 1}, {TOY_MIXED, "mixed.w", 1001, true, false, 1, 1},
    {TOY_MIXED, "mixed.b", 13, true, false, 0, 0.5},   {TOY_MIXED, "mixed.f", 77, false, false, 1, 1},
    {TOY_MIXED, "mixed.none", 0, true, false, 1, 1},   {TOY_MIXED, "mixed.norm", 31, true, true, 0, 1},
    {TOY_BIG, "big.w", 17500, true, false, 1, 1},      {TOY_BIG, "big.v", 130, true, false, 1, 2},
    {TOY_UNUSED, "unused.w", 257, false, false, 1, 1}, {TOY_LATE, "late.w", 511, true, false, 0.5, 1},
};
const char *const toy_units[TOY_UNITS] = {"embed", "small", "empty", "frozen", "mixed", "big", "unused", "late"};

/* A forward and a backward pass. The embedding is tied (it is also the head), and its own gradient does not depend on
 * its values. */
const toy_use_t toy_uses[TOY_USES] = {
    {TOY_EMBED, ZERO_READ | ZERO_HOLD},
    {TOY_SMALL, ZERO_READ},
    {TOY_EMPTY, ZERO_READ},
    {TOY_FROZEN, ZERO_READ},
    {TOY_MIXED, ZERO_READ},
    {TOY_BIG, ZERO_READ},
    {TOY_EMBED, ZERO_READ | ZERO_GRAD},
    {TOY_BIG, ZERO_READ | ZERO_GRAD},
    {TOY_LATE, ZERO_READ | ZERO_GRAD},
    {TOY_MIXED, ZERO_READ | ZERO_GRAD},
    {TOY_FROZEN, ZERO_READ},
    {TOY_SMALL, ZERO_READ | ZERO_GRAD | ZERO_HOLD},
    {TOY_EMBED, ZERO_GRAD},
};

uint64_t toy_hash(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    return zero_splitmix64(zero_splitmix64(zero_splitmix64(zero_splitmix64(a) ^ b) ^ c) ^ d);
}

/* In [-1, 1). */
static float unit_float(uint64_t hash)
{
    return (float)((double)(hash >> 11) / (double)(1ull << 52) - 1);
}

float toy_initial(int param, int64_t i)
{
    return unit_float(toy_hash(1, (uint64_t)param, (uint64_t)i, 0));
}

static float rounded(float x, zero_dtype_t dtype)
{
    return dtype == ZERO_BF16 ? zero_bf16_to_fp32(zero_fp32_to_bf16(x)) : x;
}

float toy_load(const void *p, zero_dtype_t dtype, int64_t i)
{
    return dtype == ZERO_BF16 ? zero_bf16_to_fp32(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

void toy_store(void *p, zero_dtype_t dtype, int64_t i, float x)
{
    if (dtype == ZERO_BF16)
        ((uint16_t *)p)[i] = zero_fp32_to_bf16(x);
    else
        ((float *)p)[i] = x;
}

zero_dtype_t toy_dtype(const toy_case_t *c, int param)
{
    return toy_params[param].always_fp32 ? ZERO_FP32 : c->dtype;
}

uint64_t toy_moment_hash(moment_t t, uint64_t salt)
{
    return toy_hash(salt, (uint64_t)t.rank << 32 | (uint32_t)t.micro, (uint64_t)t.use, (uint64_t)t.step);
}

bool toy_passed_over(moment_t t)
{
    return t.use % 2 == 1 && toy_moment_hash(t, 7) % 4 == 0;
}

float toy_gradient(const toy_case_t *c, moment_t t, int param, int64_t i, float x)
{
    float target = unit_float(toy_hash(3, (uint64_t)param, (uint64_t)i, toy_moment_hash(t, 4)));
    if (c->bad_step == t.step && t.rank == c->world - 1 && t.use == 7 && i == 17)
        return INFINITY;
    return (x - target) * 0.25f;
}

/* ---- codecs ----------------------------------------------------------------------------------------------------- */

/* What count elements decode to, in blocks of 128 whose last one zeros fill up. NONE: themselves. */
static void code(float *out, const float *in, int64_t count, zero_codec_t codec)
{
    const float most = codec == ZERO_CODEC_INT4 ? 7 : 127;
    for (int64_t first = 0; first < count; first += 128) {
        const int64_t end = first + 128 < count ? first + 128 : count;
        float largest = 0;
        bool finite = true;
        for (int64_t i = first; i < end; i++) {
            finite = finite && isfinite(in[i]);
            largest = fmaxf(largest, fabsf(in[i]));
        }
        const float scale = largest / most, inverse = scale < 0x1p-126f ? 0 : 1 / scale;
        for (int64_t i = first; i < end; i++)
            out[i] = codec == ZERO_CODEC_NONE ? in[i] : finite ? (float)(int)nearbyintf(in[i] * inverse) * scale : NAN;
    }
}

static int replicas_of(const toy_case_t *c)
{
    return c->replicas > 0 ? c->replicas : 1;
}

/* Whether uses gather the parameter from the other ranks of a replica. */
static bool is_gathered(const toy_case_t *c, int param)
{
    int64_t bytes = 0;
    for (int p = 0; p < TOY_PARAMS; p++)
        if (toy_params[p].unit == toy_params[param].unit)
            bytes += toy_params[p].count * (int64_t)zero_dtype_size(toy_dtype(c, p));
    return c->stage == 3 && bytes >= c->persist_bytes && c->world > replicas_of(c);
}

/* Sets what uses read of a parameter. */
static void use_values(const toy_case_t *c, toy_reference_t *r, int p)
{
    code(r->used[p], r->value[p], toy_params[p].count, is_gathered(c, p) ? c->gather_codec : ZERO_CODEC_NONE);
    for (int64_t i = 0; i < toy_params[p].count; i++)
        r->used[p][i] = rounded(r->used[p][i], toy_dtype(c, p));
}

/* ---- the serial trajectory -------------------------------------------------------------------------------------- */

void toy_reference_destroy(toy_reference_t *r)
{
    for (int p = 0; r && p < TOY_PARAMS; p++) {
        free(r->used[p]);
        free(r->value[p]);
        free(r->master[p]);
        free(r->m[p]);
        free(r->v[p]);
        free(r->final[p]);
        for (int k = 0; k < TOY_MAX_RANKS; k++) {
            free(r->written[k][p]);
            free(r->sum[k][p]);
            free(r->reduced[k][p]);
        }
    }
    free(r);
}

toy_reference_t *toy_reference_create(const toy_case_t *c)
{
    toy_reference_t *r = calloc(1, sizeof *r);
    for (int p = 0; r && p < TOY_PARAMS; p++) {
        size_t n = (size_t)toy_params[p].count + 1;
        float **arrays[] = {&r->used[p], &r->value[p], &r->master[p], &r->m[p], &r->v[p], &r->final[p]};
        for (size_t a = 0; a < sizeof arrays / sizeof *arrays; a++)
            if (!(*arrays[a] = calloc(n, sizeof(float))))
                abort();
        for (int k = 0; k < c->world; k++)
            if (!(r->written[k][p] = calloc(n, sizeof(float))) || !(r->sum[k][p] = calloc(n, sizeof(float))) ||
                !(r->reduced[k][p] = calloc(n, sizeof(float))))
                abort();
        for (int64_t i = 0; i < toy_params[p].count; i++) {
            r->master[p][i] = toy_initial(p, i);
            r->value[p][i] = rounded(r->master[p][i], toy_dtype(c, p));
        }
        use_values(c, r, p);
    }
    return r;
}

/* A parameter of count ranks: the sum in their order in fp32, rounded once to the wire's dtype. Several ranks send what
 * a codec leaves of it. */
static void sum(const toy_case_t *c, float *total, float *(*source)[TOY_PARAMS], int count, int p)
{
    float sent[17500];
    for (int k = 0; k < count; k++) {
        code(sent, source[k][p], toy_params[p].count, count > 1 ? c->reduce_codec : ZERO_CODEC_NONE);
        for (int64_t i = 0; i < toy_params[p].count; i++) {
            float x = rounded(sent[i], c->reduce_dtype);
            total[i] = k == 0 ? x : total[i] + x;
        }
    }
    for (int64_t i = 0; i < toy_params[p].count; i++)
        total[i] = rounded(total[i], c->reduce_dtype);
}

/* Adds the gradients of a micro-step, or of all, inside each replica; after the last one sums them over replicas. */
static void reduce(const toy_case_t *c, toy_reference_t *r, float *(*source)[TOY_PARAMS], bool add, bool last)
{
    int replicas = replicas_of(c), shards = c->world / replicas;
    float total[17500];
    for (int p = 0; p < TOY_PARAMS; p++) {
        if (!toy_params[p].trainable)
            continue;
        for (int k = 0; k < replicas; k++) {
            sum(c, total, source + k * shards, shards, p);
            for (int64_t i = 0; i < toy_params[p].count; i++)
                r->reduced[k][p][i] = add ? r->reduced[k][p][i] + total[i] : total[i];
        }
        if (last && replicas > 1)
            sum(c, r->final[p], r->reduced, replicas, p);
        else if (last)
            memcpy(r->final[p], r->reduced[0][p], (size_t)toy_params[p].count * sizeof(float));
    }
}

void toy_reference_micro(const toy_case_t *c, toy_reference_t *r, int micro, bool last)
{
    int replicas = replicas_of(c);
    bool alone = replicas > 1 && replicas == c->world; /* inside a replica there is nothing to reduce */
    bool local = (c->reduce == ZERO_REDUCE_LAST || alone) && c->micro_steps > 1;
    for (int k = 0; k < c->world; k++)
        for (int p = 0; p < TOY_PARAMS; p++) {
            /* If reduced once per step, fp32 gradients accumulate in place. */
            bool keeps = local && toy_dtype(c, p) == ZERO_FP32 && micro > 0;
            if (!keeps)
                memset(r->written[k][p], 0, (size_t)toy_params[p].count * sizeof(float));
            for (int u = 0; u < TOY_USES; u++) {
                moment_t t = {k, micro, u, r->step};
                if (toy_uses[u].unit != toy_params[p].unit || !toy_params[p].trainable ||
                    !(toy_uses[u].flags & ZERO_GRAD) || toy_passed_over(t))
                    continue;
                for (int64_t i = 0; i < toy_params[p].count; i++)
                    r->written[k][p][i] =
                        rounded(r->written[k][p][i] +
                                    toy_gradient(c, t, p, i, toy_uses[u].flags & ZERO_READ ? r->used[p][i] : 0),
                                toy_dtype(c, p));
            }
            for (int64_t i = 0; i < toy_params[p].count && local; i++) {
                float written = r->written[k][p][i];
                r->sum[k][p][i] = toy_dtype(c, p) == ZERO_FP32 || micro == 0 ? written : r->sum[k][p][i] + written;
            }
        }
    if (!local)
        reduce(c, r, r->written, micro > 0, last);
    else if (last)
        reduce(c, r, r->sum, false, true);
}

/* A slice's squares: 16 lanes over blocks of 4096 elements, lanes added as a tree, blocks in order. */
typedef struct squares {
    double total, lane[16];
    int64_t at;
} squares_t;

static void squares_end_block(squares_t *s)
{
    for (int half = 8; half >= 1; half /= 2)
        for (int l = 0; l < half; l++)
            s->lane[l] += s->lane[l + half];
    s->total += s->lane[0];
    memset(s->lane, 0, sizeof s->lane);
}

static void squares_add(squares_t *s, float x)
{
    s->lane[s->at % 16] = fma(x, x, s->lane[s->at % 16]);
    if (++s->at % ZERO_NORM_BLOCK == 0)
        squares_end_block(s);
}

/* One segment: the trainable parameters of a unit and a dtype, each at a multiple of 128, padded to world * 128; slice
 * by slice in the order of their ranks. */
static double segment_squares(const toy_case_t *c, const toy_reference_t *r, int unit, zero_dtype_t dtype, double total)
{
    int64_t quantum = (int64_t)c->world * 128, elements = 0;
    for (int p = 0; p < TOY_PARAMS; p++)
        if (toy_params[p].unit == unit && toy_params[p].trainable && toy_dtype(c, p) == dtype)
            elements += (toy_params[p].count + 127) / 128 * 128;
    elements = (elements + quantum - 1) / quantum * quantum;
    float *flat = calloc((size_t)elements + 1, sizeof *flat);
    if (!flat)
        abort();
    int64_t offset = 0;
    for (int p = 0; p < TOY_PARAMS; p++)
        if (toy_params[p].unit == unit && toy_params[p].trainable && toy_dtype(c, p) == dtype) {
            memcpy(flat + offset, r->final[p], (size_t)toy_params[p].count * sizeof *flat);
            offset += (toy_params[p].count + 127) / 128 * 128;
        }
    for (int k = 0; k < c->world && elements > 0; k++) {
        squares_t s = {0};
        int shards = c->world / replicas_of(c);
        int64_t slice = k % shards * replicas_of(c) + k / shards, count = elements / c->world;
        for (int64_t i = 0; i < count; i++)
            squares_add(&s, flat[slice * count + i]);
        if (s.at % ZERO_NORM_BLOCK != 0)
            squares_end_block(&s);
        total += s.total;
    }
    free(flat);
    return total;
}

const zero_rule_options_t toy_adamw = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
const double toy_clip = 0.7, toy_grad_scale = 0.125;

double toy_rate(int64_t step)
{
    return 0.01 / (double)(step + 1);
}

void toy_reference_step(const toy_case_t *c, toy_reference_t *r)
{
    double total = 0, lr = toy_rate(r->step);
    for (int u = 0; u < TOY_UNITS; u++)
        for (int d = 0; d < ZERO_DTYPE_COUNT; d++)
            total = segment_squares(c, r, u, (zero_dtype_t)d, total);
    r->norm = toy_grad_scale * sqrt(total);
    r->last_applied = isfinite(r->norm);
    r->clip_factor = r->last_applied && toy_clip < r->norm + 1e-6 ? toy_clip / (r->norm + 1e-6) : 1;
    r->step++;
    if (!r->last_applied) {
        r->skipped++;
        return;
    }
    r->applied++;
    float beta1 = (float)toy_adamw.beta1, beta2 = (float)toy_adamw.beta2, rest1 = (float)(1 - toy_adamw.beta1),
          rest2 = (float)(1 - toy_adamw.beta2);
    float factor = (float)(toy_grad_scale * r->clip_factor), eps = (float)toy_adamw.eps;
    double bc1 = 1 - zero_power(toy_adamw.beta1, r->applied), bc2 = 1 - zero_power(toy_adamw.beta2, r->applied);
    for (int p = 0; p < TOY_PARAMS; p++) {
        double rate = lr * toy_params[p].rate;
        float decay = (float)(1 - rate * (toy_adamw.weight_decay * toy_params[p].decay)), size = (float)(rate / bc1),
              inverse = (float)(1 / sqrt(bc2));
        for (int64_t i = 0; i < toy_params[p].count && toy_params[p].trainable; i++) {
            float g = r->final[p][i] * factor;
            float m = r->m[p][i] = fmaf(beta1, r->m[p][i], rest1 * g);
            float v = r->v[p][i] = fmaf(beta2, r->v[p][i], (rest2 * g) * g);
            float x = r->master[p][i] * decay;
            r->master[p][i] = fmaf(-size, m / fmaf(sqrtf(v), inverse, eps), x);
            r->value[p][i] = rounded(r->master[p][i], toy_dtype(c, p));
        }
        use_values(c, r, p);
    }
}
