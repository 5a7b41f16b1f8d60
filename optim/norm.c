/* SPDX-License-Identifier: Apache-2.0 */
#include "optim/norm.h"

#include <math.h>

zero_norm_t zero_norm_combine(const double *square_sums, int64_t segments, int ranks, int64_t stride, double grad_scale,
                              double clip)
{
    double total = 0;
    for (int64_t s = 0; s < segments; s++)
        for (int r = 0; r < ranks; r++)
            total += square_sums[r * stride + s];

    zero_norm_t n = {.norm = fabs(grad_scale) * sqrt(total), .clip_factor = 1};
    n.finite = isfinite(n.norm);
    if (n.finite && clip > 0 && clip < n.norm + 1e-6)
        n.clip_factor = clip / (n.norm + 1e-6);
    n.grad_factor = grad_scale * n.clip_factor;
    return n;
}
