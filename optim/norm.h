/* SPDX-License-Identifier: Apache-2.0 */
/* norm.h - the global gradient norm and the clip factor, from the partial sums that the ranks exchanged. The functions
 * are pure: every rank computes the same bits from the same numbers. */
#ifndef ZERO_OPTIM_NORM_H
#define ZERO_OPTIM_NORM_H

#include "zero/base/base.h"

typedef struct zero_norm {
    double norm;        /* |grad_scale| * sqrt(sum of squares): the reported norm */
    double clip_factor; /* min(1, clip / (norm + 1e-6)); 1 if clip is 0 (off) or the norm is not finite */
    double grad_factor; /* grad_scale * clip_factor: the optimizer multiplies gradients by it */
    bool finite;        /* false: no update may be applied */
} zero_norm_t;

/* square_sums[r * stride + s] is rank r's sum of squares of segment s, for r < ranks and s < segments. They are added
 * segment by segment, and within a segment in rank order, so only the plan determines the order. The clip factor, with
 * its 1e-6, is the one of PyTorch's clip_grad_norm_ (torch.nn.utils). */
zero_norm_t zero_norm_combine(const double *square_sums, int64_t segments, int ranks, int64_t stride, double grad_scale,
                              double clip);

#endif
