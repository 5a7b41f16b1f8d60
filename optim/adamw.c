#include "optim/adamw.h"

#include <math.h>

double zero_power(double x, int64_t n)
{
    double result = 1;
    for (double square = x; n > 0; n >>= 1, square *= square)
        if (n & 1)
            result *= square;
    return result;
}

zero_adamw_scalars_t zero_adamw_scalars(const zero_adamw_t *adamw, double lr, double lr_scale, double decay_scale, int64_t t,
                                        double grad_factor)
{
    double rate = lr * lr_scale, decay = adamw->weight_decay * decay_scale;
    double bc1 = 1 - zero_power(adamw->beta1, t), bc2 = 1 - zero_power(adamw->beta2, t);
    return (zero_adamw_scalars_t){.grad_factor = (float)grad_factor,
                                  .beta1 = (float)adamw->beta1,
                                  .one_minus_beta1 = (float)(1 - adamw->beta1),
                                  .beta2 = (float)adamw->beta2,
                                  .one_minus_beta2 = (float)(1 - adamw->beta2),
                                  .decay_factor = (float)(1 - rate * decay),
                                  .step_size = (float)(rate / bc1),
                                  .inv_sqrt_bc2 = (float)(1 / sqrt(bc2)),
                                  .eps = (float)adamw->eps};
}
