/* SPDX-License-Identifier: Apache-2.0 */
/* scale.h - the loss scale. The functions are pure: every rank computes the same bits from the same norms. */
#ifndef ZERO_OPTIM_SCALE_H
#define ZERO_OPTIM_SCALE_H

#include "zero/zero.h"

typedef struct zero_scale {
    float value;    /* multiplies the loss of the next step */
    int32_t good;   /* updates in a row since it changed */
    int32_t left;   /* skipped steps until it shrinks */
    bool exhausted; /* the last step was skipped, and the scale is at its minimum */
} zero_scale_t;

/* The scale of an engine's first step. */
zero_scale_t zero_scale_first(const zero_config_t *config);

/* What a step makes of a dynamic scale. finite: its norm was finite. The arithmetic is that of PyTorch's
 * torch.amp.GradScaler (_amp_update_scale_): the products are rounded to fp32, and one that is not finite leaves the
 * scale as it is. Hysteresis and minimum are those of DeepSpeed's DynamicLossScaler. */
void zero_scale_next(zero_scale_t *scale, const zero_config_t *config, bool finite);

#endif
