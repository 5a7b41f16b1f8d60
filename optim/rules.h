/* rules.h - the optimizers of flat.h: what each keeps, and the scalars of one of its updates. Pure functions. */
#ifndef ZERO_OPTIM_RULES_H
#define ZERO_OPTIM_RULES_H

#include "kernels/flat/flat.h"

/* "adamw", "adam", "sgd", "lion", "adamw8bit". */
const char *zero_rule_name(zero_rule_t rule);

/* Buffers of state besides the master weights (0 to 2, state[0] first), each of zero_rule_block_bytes for every ZERO_BLOCK8 elements. SGD has
 * none where its momentum, options->beta1, is 0. */
int zero_rule_states(zero_rule_t rule, const zero_adamw_t *options);

/* 512 where state is fp32, sizeof(zero_block8_t) where it is in 8 bits. */
int zero_rule_block_bytes(zero_rule_t rule);

/* The scalars of update number t, with the arguments of zero_adamw_scalars (optim/adamw.h). Of the options, SGD takes beta1 for its momentum and
 * neither beta2 nor eps, Lion no eps. Weight decay is decoupled in AdamW and Lion, p <- p - lr * wd * p, and added to the gradient in
 * Adam and SGD, g <- g + wd * p, after it was scaled and clipped. All is computed in fp64 and rounded to fp32 once. */
zero_rule_scalars_t zero_rule_scalars(zero_rule_t rule, const zero_adamw_t *options, double lr, double lr_scale, double decay_scale,
                                      int64_t t, double grad_factor);

#endif
