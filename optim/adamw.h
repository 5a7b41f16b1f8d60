/* adamw.h - the scalars of one AdamW update. Pure functions. */
#ifndef ZERO_OPTIM_ADAMW_H
#define ZERO_OPTIM_ADAMW_H

#include "kernels/flat/flat.h"

/* x^n for n >= 0, by squaring: at most 2 * 63 multiplications in fp64. Used instead of pow() because IEEE multiplication gives
 * the same bits on every machine and C library, and pow() need not. Its relative error is below 2 n * 2^-53, so that 1 - beta^n
 * is exact to a few units of 2^-53 / (1 - beta): where n is large, beta^n has vanished. */
double zero_power(double x, int64_t n);

/* The scalars of update number t (from 1: updates applied so far plus this one, so that a skipped step does not count), for
 * parameters whose rate is lr * lr_scale and whose decay is adamw->weight_decay * decay_scale. grad_factor multiplies the
 * gradients (scale and clip factor, optim/norm.h). Decoupled weight decay as in Loshchilov and Hutter, "Decoupled Weight Decay
 * Regularization" (2019), algorithm 2, with the schedule in the rate as PyTorch's AdamW has it:
 *
 *   p <- p - lr * wd * p
 *   p <- p - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
 *
 * where the corrections are moved out of the element's arithmetic: decay_factor = 1 - lr * wd, step_size = lr / (1 - beta1^t),
 * inv_sqrt_bc2 = 1 / sqrt(1 - beta2^t). All is computed in fp64 and rounded to fp32 once. 0 <= beta < 1. */
zero_adamw_scalars_t zero_adamw_scalars(const zero_adamw_t *adamw, double lr, double lr_scale, double decay_scale, int64_t t,
                                        double grad_factor);

#endif
