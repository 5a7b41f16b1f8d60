/* SPDX-License-Identifier: Apache-2.0 */
/* rules.h - the optimizers of flat.h: what each keeps, and the scalars of one of its updates. Pure functions. */
#ifndef ZERO_OPTIM_RULES_H
#define ZERO_OPTIM_RULES_H

#include "kernels/flat/flat.h"

/* The numbers of a rule, as zero_config_t has them. */
typedef struct zero_rule_options {
    double beta1, beta2, eps, weight_decay;
} zero_rule_options_t;
zero_rule_options_t zero_rule_options(const zero_config_t *config);

/* What a rule is. */
typedef struct zero_rule_def {
    const char *name;
    int states; /* buffers beside the master weights, state[0] first; the caller counts those of ZERO_RULE_CUSTOM */
    zero_format_t format[ZERO_MAX_STATES]; /* of each */
    bool reads_eps;                        /* it divides by a root that eps keeps from 0 */
    /* Of zero_rule_scalars: the scalars that are not alike for all rules. NULL: it has none. */
    void (*scalars)(zero_rule_scalars_t *out, const zero_rule_options_t *options, double rate, double decay, int64_t t);
} zero_rule_def_t;
/* The rule's row of the table. */
const zero_rule_def_t *zero_rule(zero_rule_t rule);

/* Buffers of state besides the master weights: the definition's, but none for SGD whose momentum, options->beta1, is 0.
 */
int zero_rule_states(zero_rule_t rule, const zero_rule_options_t *options);

/* x^n for n >= 0, by squaring: at most 2 * 63 multiplications in fp64. Used instead of pow() because IEEE
 * multiplication gives the same bits on every machine and C library, and pow() need not. Its relative error is below 2
 * n * 2^-53, so that 1 - beta^n is exact to a few units of 2^-53 / (1 - beta): where n is large, beta^n has vanished.
 */
double zero_power(double x, int64_t n);

/* The scalars of flat.h's formulas for update number t (from 1: updates applied so far plus this one, so that a skipped
 * step does not count), of parameters whose rate is lr * lr_scale and whose decay is options->weight_decay *
 * decay_scale. grad_factor multiplies the gradients (scale and clip factor, optim/norm.h). Of the options, SGD takes
 * beta1 for its momentum and neither beta2 nor eps, Lion no eps; 0 <= beta < 1. Weight decay is decoupled in AdamW and
 * Lion, p <- p - lr * wd * p (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2, with
 * the schedule in the rate as PyTorch's AdamW has it), and added to the gradient in Adam and SGD, g <- g + wd * p,
 * after it was scaled and clipped. Bias corrections are moved out of the element's arithmetic, into step_size and
 * inv_sqrt_bc2. All is computed in fp64 and rounded to fp32 once. */
zero_rule_scalars_t zero_rule_scalars(zero_rule_t rule, const zero_rule_options_t *options, double lr, double lr_scale,
                                      double decay_scale, int64_t t, double grad_factor);

#endif
