/* SPDX-License-Identifier: Apache-2.0 */
#include "optim/rules.h"

#include <math.h>

/* The format of state in fp32. */
#define FP32 .format = {ZERO_FP32, 1, sizeof(float)}

static const struct rule {
    const char *name;
    int states;
    zero_format_t format;
    bool reads_eps;
    bool coupled;   /* weight decay is added to the gradient */
    bool corrected; /* moments are corrected for their start at 0 */
} rules[ZERO_RULES] = {
    [ZERO_RULE_ADAMW] = {"adamw", 2, FP32, .reads_eps = true, .corrected = true},
    [ZERO_RULE_ADAM] = {"adam", 2, FP32, .reads_eps = true, .coupled = true, .corrected = true},
    [ZERO_RULE_SGD] = {"sgd", 1, FP32, .coupled = true},
    [ZERO_RULE_LION] = {"lion", 1, FP32},
    [ZERO_RULE_CUSTOM] = {"custom", 0, FP32}, /* the caller counts its states */
    [ZERO_RULE_ADAMW8] = {"adamw8bit", 2, .format = {ZERO_FP32, ZERO_BLOCK8, sizeof(zero_block8_t)}, .reads_eps = true,
                          .corrected = true},
};

zero_rule_options_t zero_rule_options(const zero_config_t *config)
{
    return (zero_rule_options_t){
        .beta1 = config->beta1, .beta2 = config->beta2, .eps = config->eps, .weight_decay = config->weight_decay};
}

const char *zero_rule_name(zero_rule_t rule)
{
    return rules[rule].name;
}

int zero_rule_states(zero_rule_t rule, const zero_rule_options_t *options)
{
    return rule == ZERO_RULE_SGD && options->beta1 == 0 ? 0 : rules[rule].states;
}

bool zero_rule_reads_eps(zero_rule_t rule)
{
    return rules[rule].reads_eps;
}

zero_format_t zero_rule_format(zero_rule_t rule)
{
    return rules[rule].format;
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
    bool coupled = rules[rule].coupled, corrected = rules[rule].corrected;
    double rate = lr * lr_scale, decay = options->weight_decay * decay_scale;
    double bc1 = corrected ? 1 - zero_power(options->beta1, t) : 1, bc2 = 1 - zero_power(options->beta2, t);
    return (zero_rule_scalars_t){.grad_factor = (float)grad_factor,
                                 .beta1 = (float)options->beta1,
                                 .one_minus_beta1 = (float)(1 - options->beta1),
                                 .beta2 = (float)options->beta2,
                                 .one_minus_beta2 = (float)(1 - options->beta2),
                                 .decay_factor = coupled ? 1 : (float)(1 - rate * decay),
                                 .l2 = coupled ? (float)decay : 0,
                                 .step_size = (float)(rate / bc1),
                                 .inv_sqrt_bc2 = (float)(1 / sqrt(bc2)),
                                 .eps = (float)options->eps};
}
