/* engine_toy.c - see engine_toy.h. The serial trajectory follows the documented order of every rounding, and shares no code with the library but
 * bf16 rounding and the bias corrections' power, so that bits can be compared. */
#include "tests/engine_toy.h"

#include "optim/adamw.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define TRY(call)                                                                                                                                \
    do {                                                                                                                                         \
        if ((call) != ZERO_OK)                                                                                                                   \
            return toy_failed(toy, #call);                                                                                                       \
    } while (0)

typedef struct declared {
    int unit;
    const char *name;
    int64_t count;
    bool trainable, always_fp32;
    double decay, rate;
} declared_t;

static const declared_t params[TOY_PARAMS] = {
    {TOY_EMBED, "embed.w", 7 * 19, true, false, 1, 1},     {TOY_SMALL, "small.w", 3, true, false, 1, 1},
    {TOY_FROZEN, "frozen.w", 300, false, false, 1, 1},     {TOY_MIXED, "mixed.w", 1001, true, false, 1, 1},
    {TOY_MIXED, "mixed.b", 13, true, false, 0, 0.5},       {TOY_MIXED, "mixed.f", 77, false, false, 1, 1},
    {TOY_MIXED, "mixed.none", 0, true, false, 1, 1},       {TOY_MIXED, "mixed.norm", 31, true, true, 0, 1},
    {TOY_BIG, "big.w", 17500, true, false, 1, 1},          {TOY_BIG, "big.v", 130, true, false, 1, 2},
    {TOY_UNUSED, "unused.w", 257, true, false, 1, 1},      {TOY_LATE, "late.w", 511, true, false, 0.5, 1},
};
static const char *const units[TOY_UNITS] = {"embed", "small", "empty", "frozen", "mixed", "big", "unused", "late"};

/* A forward and a backward pass: the embedding is tied (it is also the head), and its own gradient needs no values. */
static const struct { int unit; uint32_t flags; } uses[TOY_USES] = {
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

typedef struct toy_reference {
    float *value[TOY_PARAMS], *master[TOY_PARAMS], *m[TOY_PARAMS], *v[TOY_PARAMS], *final[TOY_PARAMS];
    float *written[TOY_MAX_RANKS][TOY_PARAMS], *sum[TOY_MAX_RANKS][TOY_PARAMS];
    int64_t step, applied, skipped;
    double norm, clip_factor;
    bool last_applied;
    uint32_t signals;
    void *data[TOY_PARAMS], *grad[TOY_PARAMS]; /* the addresses at commit */
    uint64_t gathered, reduced;                /* that the plan said the steps would move */
} toy_reference_t;

static int complain(const toy_t *toy, const char *format, ...)
{
    const toy_case_t *c = &toy->c;
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(stderr, "rank %d of case {world %d, stage %d, window %d, reduce %s, micro-steps %d, %s, wire %s, device %d, persist %lld, interleave %d, "
            "quiet %d}: %s\n", toy->rank, c->world, c->stage, c->window, c->reduce ? "last" : "every", c->micro_steps, zero_dtype_name(c->dtype),
            zero_dtype_name(c->reduce_dtype), c->threaded, (long long)c->persist_bytes, c->interleave, c->quiet, text);
    return -1;
}

int toy_failed(const toy_t *toy, const char *what)
{
    return complain(toy, "%s failed: %s", what, toy->engine ? zero_last_error(toy->engine) : "");
}

/* ---- numbers ------------------------------------------------------------------------------------------------------- */

static uint64_t hash4(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    return zero_splitmix64(zero_splitmix64(zero_splitmix64(zero_splitmix64(a) ^ b) ^ c) ^ d);
}

static float unit_float(uint64_t hash) { return (float)((double)(hash >> 11) / (double)(1ull << 52) - 1); } /* [-1, 1) */

static float initial(int param, int64_t i) { return unit_float(hash4(1, (uint64_t)param, (uint64_t)i, 0)); }

static float rounded(float x, zero_dtype_t dtype) { return dtype == ZERO_BF16 ? zero_bf16_to_fp32(zero_fp32_to_bf16(x)) : x; }

static float load(const void *p, zero_dtype_t dtype, int64_t i)
{
    return dtype == ZERO_BF16 ? zero_bf16_to_fp32(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

static void store(void *p, zero_dtype_t dtype, int64_t i, float x)
{
    if (dtype == ZERO_BF16)
        ((uint16_t *)p)[i] = zero_fp32_to_bf16(x);
    else
        ((float *)p)[i] = x;
}

static zero_dtype_t dtype_of(const toy_case_t *c, int param) { return params[param].always_fp32 ? ZERO_FP32 : c->dtype; }

/* Which use of which micro-step on which rank: what gradients depend on. */
typedef struct moment { int rank, micro, use; int64_t step; } moment_t;

static uint64_t moment_hash(moment_t t, uint64_t salt)
{
    return hash4(salt, (uint64_t)t.rank << 32 | (uint32_t)t.micro, (uint64_t)t.use, (uint64_t)t.step);
}

/* A rank may leave out any use; it says nothing to the others. Here two neighbours never: a unit's later use would be taken for the one left out. */
static bool passed_over(moment_t t) { return t.use % 2 == 1 && moment_hash(t, 7) % 4 == 0; }

/* The gradient of a quadratic, x at its least being a number of the rank's, the micro-step's and the use's own. GRAD alone has no x. */
static float gradient(const toy_case_t *c, moment_t t, int param, int64_t i, float x)
{
    float target = unit_float(hash4(3, (uint64_t)param, (uint64_t)i, moment_hash(t, 4)));
    if (c->bad_step == t.step && t.rank == c->world - 1 && t.use == 7 && i == 17)
        return INFINITY;
    return (x - target) * 0.25f;
}

/* ---- the serial trajectory ----------------------------------------------------------------------------------------- */

static void reference_destroy(toy_reference_t *r)
{
    for (int p = 0; r && p < TOY_PARAMS; p++) {
        free(r->value[p]);
        free(r->master[p]);
        free(r->m[p]);
        free(r->v[p]);
        free(r->final[p]);
        for (int k = 0; k < TOY_MAX_RANKS; k++) {
            free(r->written[k][p]);
            free(r->sum[k][p]);
        }
    }
    free(r);
}

static toy_reference_t *reference_create(const toy_case_t *c)
{
    toy_reference_t *r = calloc(1, sizeof *r);
    for (int p = 0; r && p < TOY_PARAMS; p++) {
        size_t n = (size_t)params[p].count + 1;
        float **arrays[] = {&r->value[p], &r->master[p], &r->m[p], &r->v[p], &r->final[p]};
        for (size_t a = 0; a < sizeof arrays / sizeof *arrays; a++)
            if (!(*arrays[a] = calloc(n, sizeof(float))))
                abort();
        for (int k = 0; k < c->world; k++)
            if (!(r->written[k][p] = calloc(n, sizeof(float))) || !(r->sum[k][p] = calloc(n, sizeof(float))))
                abort();
        for (int64_t i = 0; i < params[p].count; i++) {
            r->master[p][i] = initial(p, i);
            r->value[p][i] = rounded(r->master[p][i], dtype_of(c, p));
        }
    }
    return r;
}

/* Adds what every rank reduces: sums in rank order in fp32, rounded once to the wire's dtype. */
static void reference_reduce(const toy_case_t *c, toy_reference_t *r, float *(*source)[TOY_PARAMS], bool add)
{
    for (int p = 0; p < TOY_PARAMS; p++)
        for (int64_t i = 0; i < params[p].count && params[p].trainable; i++) {
            float total = rounded(source[0][p][i], c->reduce_dtype);
            for (int k = 1; k < c->world; k++)
                total += rounded(source[k][p][i], c->reduce_dtype);
            total = rounded(total, c->reduce_dtype);
            r->final[p][i] = add ? r->final[p][i] + total : total;
        }
}

static void reference_micro(const toy_case_t *c, toy_reference_t *r, int micro, bool last)
{
    bool local = c->reduce == ZERO_REDUCE_LAST && c->micro_steps > 1;
    for (int k = 0; k < c->world; k++)
        for (int p = 0; p < TOY_PARAMS; p++) {
            /* Reduced once a step, what is written in fp32 goes on adding to the sum itself. */
            bool keeps = local && dtype_of(c, p) == ZERO_FP32 && micro > 0;
            if (!keeps)
                memset(r->written[k][p], 0, (size_t)params[p].count * sizeof(float));
            for (int u = 0; u < TOY_USES; u++) {
                moment_t t = {k, micro, u, r->step};
                if (uses[u].unit != params[p].unit || !params[p].trainable || !(uses[u].flags & ZERO_GRAD) || passed_over(t))
                    continue;
                for (int64_t i = 0; i < params[p].count; i++)
                    r->written[k][p][i] = rounded(
                        r->written[k][p][i] + gradient(c, t, p, i, uses[u].flags & ZERO_READ ? r->value[p][i] : 0), dtype_of(c, p));
            }
            for (int64_t i = 0; i < params[p].count && local; i++) {
                float written = r->written[k][p][i];
                r->sum[k][p][i] = dtype_of(c, p) == ZERO_FP32 || micro == 0 ? written : r->sum[k][p][i] + written;
            }
        }
    if (!local)
        reference_reduce(c, r, r->written, micro > 0);
    else if (last)
        reference_reduce(c, r, r->sum, false);
}

/* A slice's squares: 16 lanes over blocks of 4096 elements, lanes added as a tree, blocks in order. x is NULL beyond a tensor: zeros. */
typedef struct squares { double total, lane[16]; int64_t at; } squares_t;

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

/* One segment: the trainable parameters of a unit and a dtype, each at a multiple of 128, padded to world * 128; slice by slice in rank order. */
static double segment_squares(const toy_case_t *c, const toy_reference_t *r, int unit, zero_dtype_t dtype, double total)
{
    int64_t quantum = (int64_t)c->world * 128, elements = 0;
    for (int p = 0; p < TOY_PARAMS; p++)
        if (params[p].unit == unit && params[p].trainable && dtype_of(c, p) == dtype)
            elements += (params[p].count + 127) / 128 * 128;
    elements = (elements + quantum - 1) / quantum * quantum;
    float *flat = calloc((size_t)elements + 1, sizeof *flat);
    if (!flat)
        abort();
    int64_t offset = 0;
    for (int p = 0; p < TOY_PARAMS; p++)
        if (params[p].unit == unit && params[p].trainable && dtype_of(c, p) == dtype) {
            memcpy(flat + offset, r->final[p], (size_t)params[p].count * sizeof *flat);
            offset += (params[p].count + 127) / 128 * 128;
        }
    for (int k = 0; k < c->world && elements > 0; k++) {
        squares_t s = {0};
        for (int64_t i = 0; i < elements / c->world; i++)
            squares_add(&s, flat[k * (elements / c->world) + i]);
        if (s.at % ZERO_NORM_BLOCK != 0)
            squares_end_block(&s);
        total += s.total;
    }
    free(flat);
    return total;
}

static const zero_adamw_t adamw = {0.9, 0.95, 1e-8, 0.1};
static const double clip = 0.7, grad_scale = 0.125;
static double rate_of(int64_t step) { return 0.01 / (double)(step + 1); }

static void reference_step(const toy_case_t *c, toy_reference_t *r)
{
    double total = 0, lr = rate_of(r->step);
    for (int u = 0; u < TOY_UNITS; u++)
        for (int d = 0; d < ZERO_DTYPE_COUNT; d++)
            total = segment_squares(c, r, u, (zero_dtype_t)d, total);
    r->norm = grad_scale * sqrt(total);
    r->last_applied = isfinite(r->norm);
    r->clip_factor = r->last_applied && clip < r->norm + 1e-6 ? clip / (r->norm + 1e-6) : 1;
    r->step++;
    if (!r->last_applied) {
        r->skipped++;
        return;
    }
    r->applied++;
    float beta1 = (float)adamw.beta1, beta2 = (float)adamw.beta2, rest1 = (float)(1 - adamw.beta1), rest2 = (float)(1 - adamw.beta2);
    float factor = (float)(grad_scale * r->clip_factor), eps = (float)adamw.eps;
    double bc1 = 1 - zero_power(adamw.beta1, r->applied), bc2 = 1 - zero_power(adamw.beta2, r->applied);
    for (int p = 0; p < TOY_PARAMS; p++) {
        double rate = lr * params[p].rate;
        float decay = (float)(1 - rate * (adamw.weight_decay * params[p].decay)), size = (float)(rate / bc1), inverse = (float)(1 / sqrt(bc2));
        for (int64_t i = 0; i < params[p].count && params[p].trainable; i++) {
            float g = r->final[p][i] * factor;
            float m = r->m[p][i] = fmaf(beta1, r->m[p][i], rest1 * g);
            float v = r->v[p][i] = fmaf(beta2, r->v[p][i], (rest2 * g) * g);
            float x = r->master[p][i] * decay;
            r->master[p][i] = fmaf(-size, m / fmaf(sqrtf(v), inverse, eps), x);
            r->value[p][i] = rounded(r->master[p][i], dtype_of(c, p));
        }
    }
}

/* ---- the trainer --------------------------------------------------------------------------------------------------- */

int toy_create(toy_t *toy, const toy_case_t *c, zero_comm_t *comm, void (*edit)(zero_config_t *config))
{
    zero_error_t error = {0};
    zero_device_options_t device;
    zero_config_t config;
    *toy = (toy_t){.c = *c, .rank = zero_comm_rank(comm)};
    zero_device_options_init(&device);
    device.threaded = c->threaded > 0;
    device.delay_seed = c->threaded > 1 ? (uint64_t)(1 + toy->rank) : 0;
    device.threads = 1 + c->window % 2; /* never changes a bit */
    if (zero_device_cpu(&toy->device, &device, &error) != ZERO_OK)
        return complain(toy, "zero_device_cpu: %s", error.text);
    zero_config_init(&config);
    config.comm = comm;
    config.device = toy->device;
    config.window = c->window;
    config.reduce = c->reduce;
    config.micro_steps = c->micro_steps;
    config.reduce_dtype = c->reduce_dtype;
    config.persist_bytes = c->persist_bytes;
    config.clip = clip;
    config.grad_scale = grad_scale;
    config.adamw = adamw;
    config.timeout_s = 60;
    if (zero_config_stage(&config, c->stage) != ZERO_OK)
        return complain(toy, "zero_config_stage(%d) failed", c->stage);
    if (edit)
        edit(&config);
    if (zero_create(&toy->engine, &config, &error) != ZERO_OK)
        return complain(toy, "zero_create: %s", error.text);
    if (!(toy->reference = reference_create(c)))
        return complain(toy, "no memory");
    for (int u = 0; u < TOY_UNITS; u++)
        TRY(zero_unit_add(toy->engine, units[u], &toy->unit[u]));
    for (int p = 0; p < TOY_PARAMS; p++) {
        zero_param_desc_t desc;
        zero_param_desc_init(&desc);
        desc.name = params[p].name;
        desc.ndim = 1;
        desc.shape[0] = params[p].count;
        desc.dtype = dtype_of(c, p);
        desc.trainable = params[p].trainable;
        desc.decay_scale = params[p].decay;
        desc.lr_scale = params[p].rate;
        TRY(zero_param_add(toy->engine, toy->unit[params[p].unit], &desc, &toy->param[p]));
    }
    TRY(zero_pass_add(toy->engine, "train", ZERO_PASS_TRAIN, &toy->train));
    TRY(zero_pass_add(toy->engine, "eval", ZERO_PASS_EVAL, &toy->eval));
    TRY(zero_pass_add(toy->engine, "any", ZERO_PASS_ANY_ORDER, &toy->any));
    for (int u = 0; u < TOY_USES; u++) /* two units held together need a window of two */
        TRY(zero_use_add(toy->engine, toy->train, toy->unit[uses[u].unit], uses[u].flags & (c->window > 1 ? ~0u : ~(uint32_t)ZERO_HOLD)));
    for (int u = 0; u < 6; u++)
        TRY(zero_use_add(toy->engine, toy->eval, toy->unit[uses[u].unit], ZERO_READ));
    TRY(zero_reserve(toy->engine, ZERO_KIND_ACTIVATIONS, ZERO_TIER_DEVICE, 12345, &toy->reserve));
    return 0;
}

static int fill_initial(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    const toy_t *toy = ctx;
    for (int p = 0; p < TOY_PARAMS; p++)
        for (int64_t i = 0; toy->param[p] == param && i < count; i++)
            out[i] = initial(p, begin + i);
    return 0;
}

int toy_fill(toy_t *toy)
{
    for (int p = 0; p < TOY_PARAMS; p++) {
        TRY(zero_param_fill(toy->engine, toy->param[p], fill_initial, toy));
        toy->reference->data[p] = zero_param_data(toy->engine, toy->param[p]);
        toy->reference->grad[p] = zero_param_grad(toy->engine, toy->param[p]);
        if ((toy->reference->data[p] == NULL) != (params[p].count == 0))
            return complain(toy, "parameter %s has address %p", params[p].name, toy->reference->data[p]);
        if (!params[p].trainable && toy->reference->grad[p])
            return complain(toy, "frozen parameter %s has a gradient", params[p].name);
    }
    memset(zero_reserved(toy->engine, toy->reserve), 0xa5, 12345);
    return 0;
}

static bool same_bits(float a, float b) { return memcmp(&a, &b, sizeof a) == 0; }

/* What a unit holds between acquire and release is the current parameters, at the address that it had from the start. */
static int check_values(const toy_t *toy, int unit)
{
    for (int p = 0; p < TOY_PARAMS; p++) {
        if (params[p].unit != unit || params[p].count == 0)
            continue;
        const void *data = zero_param_data(toy->engine, toy->param[p]);
        if (data != toy->reference->data[p])
            return complain(toy, "parameter %s has moved", params[p].name);
        for (int64_t i = 0; i < params[p].count; i++) {
            float found = load(data, dtype_of(&toy->c, p), i), wanted = toy->reference->value[p][i];
            if (!same_bits(found, wanted))
                return complain(toy, "step %lld: element %lld of %s is %.9g when acquired, not %.9g", (long long)toy->reference->step, (long long)i,
                                params[p].name, found, wanted);
        }
    }
    return 0;
}

static void add_gradients(const toy_t *toy, moment_t t)
{
    for (int p = 0; p < TOY_PARAMS; p++) {
        if (params[p].unit != uses[t.use].unit || !params[p].trainable || params[p].count == 0)
            continue;
        zero_dtype_t dtype = dtype_of(&toy->c, p);
        void *grad = toy->reference->grad[p];
        const void *data = toy->reference->data[p];
        for (int64_t i = 0; i < params[p].count; i++) {
            float x = uses[t.use].flags & ZERO_READ ? load(data, dtype, i) : 0;
            store(grad, dtype, i, load(grad, dtype, i) + gradient(&toy->c, t, p, i, x));
        }
    }
}

static int eval_pass(toy_t *toy)
{
    TRY(zero_micro_begin(toy->engine, toy->eval, 0));
    for (int u = 0; u < 6; u++) {
        if (passed_over((moment_t){toy->rank, 100, u, toy->reference->step}))
            continue;
        TRY(zero_acquire(toy->engine, toy->unit[uses[u].unit]));
        if (check_values(toy, uses[u].unit))
            return -1;
        TRY(zero_release(toy->engine, toy->unit[uses[u].unit]));
    }
    TRY(zero_micro_end(toy->engine));
    return 0;
}

static int any_pass(toy_t *toy)
{
    TRY(zero_micro_begin(toy->engine, toy->any, 0));
    for (int k = 0; k < 5; k++) {
        int unit = (int)(hash4(9, (uint64_t)toy->reference->step, (uint64_t)k, 0) % TOY_UNITS);
        TRY(zero_acquire(toy->engine, toy->unit[unit]));
        if (check_values(toy, unit))
            return -1;
        TRY(zero_release(toy->engine, toy->unit[unit]));
    }
    TRY(zero_micro_end(toy->engine));
    return 0;
}

static int train_micro(toy_t *toy, int micro, bool last)
{
    int64_t step = toy->reference->step;
    int held = -1; /* a use that is released after the next one, or just before its release */
    TRY(zero_micro_begin(toy->engine, toy->train, last ? ZERO_LAST : 0));
    for (int u = 0; u < TOY_USES; u++) {
        moment_t t = {toy->rank, micro, u, step};
        bool late = moment_hash(t, 11) % 2 == 0, over = passed_over(t);
        if (!over) {
            TRY(zero_acquire(toy->engine, toy->unit[uses[u].unit]));
            if ((uses[u].flags & ZERO_READ) && check_values(toy, uses[u].unit))
                return -1;
            if (uses[u].flags & ZERO_GRAD)
                add_gradients(toy, t);
        }
        if (held >= 0 && !late) {
            TRY(zero_release(toy->engine, toy->unit[uses[held].unit]));
            held = -1;
        }
        if (!over && (uses[u].flags & ZERO_HOLD) && toy->c.window > 1) {
            held = u;
            continue;
        }
        if (!over)
            TRY(zero_release(toy->engine, toy->unit[uses[u].unit]));
        if (held >= 0)
            TRY(zero_release(toy->engine, toy->unit[uses[held].unit]));
        held = -1;
    }
    TRY(zero_micro_end(toy->engine));
    return 0;
}

typedef struct reading { const toy_t *toy; int param; const float *wanted; const char *what; int64_t seen; int result; } reading_t;

static int compare(void *ctx, zero_param_t param, int64_t begin, int64_t count, const float *values)
{
    reading_t *r = ctx;
    r->seen += count;
    for (int64_t i = 0; i < count && r->result == 0; i++)
        if (param != r->toy->param[r->param] || !same_bits(values[i], r->wanted[begin + i]))
            r->result = complain(r->toy, "step %lld: %s of element %lld of %s is %.9g, not %.9g", (long long)r->toy->reference->step, r->what,
                                 (long long)(begin + i), params[r->param].name, values[i], r->wanted[begin + i]);
    return r->result;
}

/* Every state of every parameter, and that each element is one rank's. */
static int check_state(toy_t *toy)
{
    toy_reference_t *r = toy->reference;
    static const char *const names[] = {"parameter", "gradient", "master", "moment 1", "moment 2"};
    for (int p = 0; p < TOY_PARAMS; p++) {
        const float *wanted[] = {r->value[p], r->final[p], r->master[p], r->m[p], r->v[p]};
        for (int s = ZERO_STATE_PARAM; s <= (params[p].trainable ? ZERO_STATE_MOMENT2 : ZERO_STATE_PARAM); s++) {
            reading_t reading = {.toy = toy, .param = p, .wanted = wanted[s], .what = names[s]};
            if (!r->last_applied && s == ZERO_STATE_GRAD)
                continue; /* NaNs have no bits to compare */
            TRY(zero_param_read(toy->engine, toy->param[p], (zero_state_t)s, compare, &reading));
            double seen = (double)reading.seen;
            TRY(zero_sum(toy->engine, &seen, 1));
            if (seen != (double)params[p].count)
                return complain(toy, "%s of %s was read for %g elements of %lld", names[s], params[p].name, seen, (long long)params[p].count);
        }
    }
    return 0;
}

static int check_stats(toy_t *toy)
{
    const toy_reference_t *r = toy->reference;
    zero_stats_t stats = {.size = sizeof stats};
    TRY(zero_step_stats(toy->engine, &stats));
    if (stats.step != r->step || stats.skipped != r->skipped || stats.applied != r->last_applied || stats.signals != r->signals)
        return complain(toy, "step %lld (skipped %lld, applied %d, signals %x) is reported as %lld (%lld, %d, %x)", (long long)r->step,
                        (long long)r->skipped, r->last_applied, r->signals, (long long)stats.step, (long long)stats.skipped, stats.applied,
                        stats.signals);
    if (isfinite(r->norm) ? stats.grad_norm != r->norm || stats.clip_factor != r->clip_factor : isfinite(stats.grad_norm))
        return complain(toy, "step %lld: norm %.17g and clip factor %.17g are reported as %.17g and %.17g", (long long)r->step, r->norm, r->clip_factor,
                        stats.grad_norm, stats.clip_factor);
    if (!toy->c.interleave && (stats.bytes_gathered != r->gathered || stats.bytes_reduced != r->reduced))
        return complain(toy, "step %lld: %llu bytes were gathered and %llu reduced; the plan says %llu and %llu", (long long)r->step,
                        (unsigned long long)stats.bytes_gathered, (unsigned long long)stats.bytes_reduced, (unsigned long long)r->gathered,
                        (unsigned long long)r->reduced);
    return 0;
}

int toy_step(toy_t *toy, int micro_steps)
{
    toy_reference_t *r = toy->reference;
    uint64_t gathered, reduced;
    for (int micro = 0; micro < micro_steps; micro++) {
        if (toy->c.interleave && (micro + r->step) % 2 == 0 && (eval_pass(toy) || any_pass(toy)))
            return -1;
        if (train_micro(toy, micro, micro == micro_steps - 1))
            return -1;
        reference_micro(&toy->c, r, micro, micro == micro_steps - 1);
    }
    if (r->step == 1 && toy->rank == toy->c.world - 1)
        zero_signal(toy->engine, 6);
    TRY(zero_step(toy->engine, rate_of(r->step)));
    r->signals |= r->step == 1 ? 6 : 0;
    reference_step(&toy->c, r);
    TRY(zero_forecast_bytes(toy->engine, micro_steps, &gathered, &reduced));
    r->gathered += gathered;
    r->reduced += reduced;
    return toy->c.quiet ? 0 : check_state(toy) || check_stats(toy) ? -1 : 0;
}

int toy_finish(toy_t *toy)
{
    zero_memory_t forecast = {.size = sizeof forecast}, measured = {.size = sizeof measured};
    if (check_state(toy) || check_stats(toy))
        return -1;
    TRY(zero_forecast(toy->engine, &forecast));
    TRY(zero_measure(toy->engine, &measured));
    for (int t = 0; t < ZERO_TIER_COUNT; t++)
        for (int k = 0; k < ZERO_KIND_COUNT; k++)
            if (forecast.bytes[t][k] != measured.bytes[t][k])
                return complain(toy, "%s on tier %s: %llu bytes were forecast and %llu measured", zero_kind_name((zero_kind_t)k),
                                zero_tier_name((zero_tier_t)t), (unsigned long long)forecast.bytes[t][k], (unsigned long long)measured.bytes[t][k]);
    const unsigned char *reserved = zero_reserved(toy->engine, toy->reserve);
    for (int i = 0; i < 12345; i++)
        if (reserved[i] != 0xa5)
            return complain(toy, "byte %d of the reserve was overwritten", i);
    return 0;
}

void toy_destroy(toy_t *toy)
{
    zero_destroy(toy->engine);
    zero_device_destroy(toy->device);
    reference_destroy(toy->reference);
    *toy = (toy_t){0};
}

int toy_run(const toy_case_t *c, zero_comm_t *comm)
{
    toy_t toy;
    int result = toy_create(&toy, c, comm, NULL);
    if (result == 0 && zero_commit(toy.engine) != ZERO_OK)
        result = toy_failed(&toy, "zero_commit");
    if (result == 0)
        result = toy_fill(&toy);
    for (int s = 0; result == 0 && s < c->steps; s++)
        result = toy_step(&toy, 1 + (c->micro_steps - 1 + s) % c->micro_steps); /* all, one, two, ... */
    if (result == 0)
        result = toy_finish(&toy);
    if (result != 0 && toy.engine)
        zero_abort(toy.engine, "the toy found a difference");
    toy_destroy(&toy);
    return result;
}
