/* SPDX-License-Identifier: Apache-2.0 */
/* rules.h - the optimizers of flat.h: their state, and the scalars of one update. The functions are pure. */
#ifndef ZERO_OPTIM_RULES_H
#define ZERO_OPTIM_RULES_H

#include "kernels/flat/flat.h"

/* The numbers of a rule, as in zero_config_t. */
typedef struct zero_rule_options {
    double beta1, beta2, eps, weight_decay, momentum;
} zero_rule_options_t;
zero_rule_options_t zero_rule_options(const zero_config_t *config);

/* What a rule updates at a time. */
typedef enum zero_reach { ZERO_REACH_ELEMENTS = 0, ZERO_REACH_PARAMETER } zero_reach_t;

/* The definition of a rule. */
typedef struct zero_rule_def {
    const char *name;
    int states; /* buffers besides the master weights, state[0] first; the caller counts those of ZERO_RULE_CUSTOM */
    zero_format_t format[ZERO_MAX_STATES]; /* of each buffer */
    bool reads_eps;                        /* it divides by a root, and eps keeps the divisor from 0 */
    zero_reach_t reach;                    /* what it updates at a time */
    zero_rule_t rest;                      /* with ZERO_REACH_PARAMETER: the rule of parameters that are not matrices */
    /* Sets the scalars that are not common to all rules, for zero_rule_scalars. NULL: the rule has none. */
    void (*scalars)(zero_rule_scalars_t *out, const zero_rule_options_t *options, double rate, double decay, int64_t t);
} zero_rule_def_t;
/* The rule's row of the table. */
const zero_rule_def_t *zero_rule(zero_rule_t rule);

/* The rule of a parameter, from the engine's rule and whether the parameter is updated whole. */
zero_rule_t zero_rule_of(zero_rule_t rule, bool whole);
/* The factor of Muon's rate: 0.2 * sqrt(max(rows, cols)). Updates then have the size of AdamW's, and one rate and one
 * decay serve both (Liu et al., "Muon is Scalable for LLM Training", 2025; PyTorch's match_rms_adamw). */
double zero_rule_matrix_scale(int64_t rows, int64_t cols);

/* Buffers of state besides the master weights: as in the definition, except none for SGD with momentum 0
 * (options->beta1). */
int zero_rule_states(zero_rule_t rule, const zero_rule_options_t *options);

/* x^n for n >= 0, by squaring: at most 2 * 63 multiplications in fp64. It replaces pow() because IEEE multiplication
 * gives the same bits on every machine and C library, and pow() may not. Its relative error is below 2 n * 2^-53. So 1
 * - beta^n is exact to a few units of 2^-53 / (1 - beta): when n is large, beta^n has vanished. */
double zero_power(double x, int64_t n);

/* The scalars of flat.h's formulas for update number t. t counts from 1: the updates applied so far plus this one, so a
 * skipped step does not count. The parameters have the rate lr * lr_scale and the decay options->weight_decay *
 * decay_scale. grad_factor multiplies the gradients (scale and clip factor, optim/norm.h). SGD takes its momentum from
 * options->beta1 and ignores beta2 and eps; Lion ignores eps. 0 <= beta < 1.
 *
 * Weight decay is decoupled in AdamW and Lion: p <- p - lr * wd * p (Loshchilov and Hutter, "Decoupled Weight Decay
 * Regularization", 2019, algorithm 2, with the schedule in the rate as in PyTorch's AdamW). Adam and SGD add it to the
 * gradient after scaling and clipping: g <- g + wd * p. The bias corrections are in step_size and inv_sqrt_bc2, outside
 * the arithmetic per element. All scalars are computed in fp64 and rounded to fp32 once. */
zero_rule_scalars_t zero_rule_scalars(zero_rule_t rule, const zero_rule_options_t *options, double lr, double lr_scale,
                                      double decay_scale, int64_t t, double grad_factor);

#endif
