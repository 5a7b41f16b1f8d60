/* SPDX-License-Identifier: Apache-2.0 */
#include "optim/rules.h"

#include <math.h>

/* The bias corrections of two moments. */
static void correct(zero_rule_scalars_t *out, const zero_rule_options_t *options, double rate, int64_t t)
{
    out->step_size = (float)(rate / (1 - zero_power(options->beta1, t)));
    out->inv_sqrt_bc2 = (float)(1 / sqrt(1 - zero_power(options->beta2, t)));
}

static void adamw_scalars(zero_rule_scalars_t *out, const zero_rule_options_t *options, double rate, double decay,
                          int64_t t)
{
    correct(out, options, rate, t);
    out->decay_factor = (float)(1 - rate * decay);
}

static void adam_scalars(zero_rule_scalars_t *out, const zero_rule_options_t *options, double rate, double decay,
                         int64_t t)
{
    correct(out, options, rate, t);
    out->l2 = (float)decay;
}

static void sgd_scalars(zero_rule_scalars_t *out, const zero_rule_options_t *options, double rate, double decay,
                        int64_t t)
{
    (void)options, (void)t;
    out->step_size = (float)rate;
    out->l2 = (float)decay;
}

static void lion_scalars(zero_rule_scalars_t *out, const zero_rule_options_t *options, double rate, double decay,
                         int64_t t)
{
    (void)options, (void)t;
    out->step_size = (float)rate;
    out->decay_factor = (float)(1 - rate * decay);
}

static void muon_scalars(zero_rule_scalars_t *out, const zero_rule_options_t *options, double rate, double decay,
                         int64_t t)
{
    (void)t;
    out->beta1 = (float)options->momentum;
    out->one_minus_beta1 = (float)(1 - options->momentum);
    out->step_size = (float)rate;
    out->decay_factor = (float)(1 - rate * decay);
}

/* Formats of state. */
#define FP32                                                         \
    {                                                                \
        .dtype = ZERO_FP32, .block = 1, .block_bytes = sizeof(float) \
    }
#define BLOCK8                                                                         \
    {                                                                                  \
        .dtype = ZERO_FP32, .block = ZERO_BLOCK8, .block_bytes = sizeof(zero_block8_t) \
    }

/* clang-format off */
static const zero_rule_def_t rules[ZERO_RULES] = {
    [ZERO_RULE_ADAMW] =  {"adamw",      2, {FP32, FP32},     .reads_eps = true, .scalars = adamw_scalars},
    [ZERO_RULE_ADAM] =   {"adam",       2, {FP32, FP32},     .reads_eps = true, .scalars = adam_scalars},
    [ZERO_RULE_SGD] =    {"sgd",        1, {FP32},           .scalars = sgd_scalars},
    [ZERO_RULE_LION] =   {"lion",       1, {FP32},           .scalars = lion_scalars},
    [ZERO_RULE_ADAMW8] = {"adamw8bit",  2, {BLOCK8, BLOCK8}, .reads_eps = true, .scalars = adamw_scalars},
    [ZERO_RULE_CUSTOM] = {"custom",     0, {FP32, FP32},     .scalars = NULL},
    [ZERO_RULE_MUON] =   {"muon",       1, {FP32},           .reads_eps = true, .scalars = muon_scalars,
                          .reach = ZERO_REACH_PARAMETER, .rest = ZERO_RULE_ADAMW},
};
/* clang-format on */

const zero_rule_def_t *zero_rule(zero_rule_t rule)
{
    return &rules[rule];
}

zero_rule_options_t zero_rule_options(const zero_config_t *config)
{
    return (zero_rule_options_t){.beta1 = config->beta1,
                                 .beta2 = config->beta2,
                                 .eps = config->eps,
                                 .weight_decay = config->weight_decay,
                                 .momentum = config->momentum};
}

zero_rule_t zero_rule_of(zero_rule_t rule, bool whole)
{
    return rules[rule].reach == ZERO_REACH_PARAMETER && !whole ? rules[rule].rest : rule;
}

double zero_rule_matrix_scale(int64_t rows, int64_t cols)
{
    return 0.2 * sqrt((double)(rows > cols ? rows : cols));
}

int zero_rule_states(zero_rule_t rule, const zero_rule_options_t *options)
{
    return rule == ZERO_RULE_SGD && options->beta1 == 0 ? 0 : rules[rule].states;
}

double zero_power(double x, int64_t n)
{
    double result = 1;
    for (double square = x; n > 0; n >>= 1, square *= square)
        if (n & 1)
            result *= square;
    return result;
}

zero_rule_scalars_t zero_rule_scalars(zero_rule_t rule, const zero_rule_options_t *options, double lr, double lr_scale,
                                      double decay_scale, int64_t t, double grad_factor)
{
    zero_rule_scalars_t out = {.grad_factor = (float)grad_factor,
                               .beta1 = (float)options->beta1,
                               .one_minus_beta1 = (float)(1 - options->beta1),
                               .beta2 = (float)options->beta2,
                               .one_minus_beta2 = (float)(1 - options->beta2),
                               .decay_factor = 1,
                               .eps = (float)options->eps};
    if (rules[rule].scalars)
        rules[rule].scalars(&out, options, lr * lr_scale, options->weight_decay * decay_scale, t);
    return out;
}
