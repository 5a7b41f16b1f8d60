/* SPDX-License-Identifier: Apache-2.0 */
/* norm.h - the global gradient norm and the clip factor, from the partial sums that the ranks exchanged. Pure
 * functions: every rank computes the same bits from the same numbers. */
#ifndef ZERO_OPTIM_NORM_H
#define ZERO_OPTIM_NORM_H

#include "zero/base/base.h"

typedef struct zero_norm {
    double norm;        /* |grad_scale| * sqrt(sum of squares): what is reported */
    double clip_factor; /* min(1, clip / (norm + 1e-6)); 1 where clip is 0 (off) or the norm is not finite */
    double grad_factor; /* grad_scale * clip_factor: what AdamW multiplies gradients by */
    bool finite;        /* false: no update may be applied */
} zero_norm_t;

/* square_sums[r * stride + s] is rank r's sum of squares of segment s, for r < ranks and s < segments. They are added
 * segment by segment, within one in rank order, so that the order is the plan's and nobody else's. The clip factor is
 * that of PyTorch's clip_grad_norm_ (torch.nn.utils), its 1e-6 included. */
zero_norm_t zero_norm_combine(const double *square_sums, int64_t segments, int ranks, int64_t stride, double grad_scale,
                              double clip);

#endif
