/* SPDX-License-Identifier: Apache-2.0 */
#include "optim/scale.h"

#include <math.h>

zero_scale_t zero_scale_first(const zero_config_t *config)
{
    return (zero_scale_t){.value = (float)config->loss_scale, .left = config->hysteresis};
}

static void grow(zero_scale_t *scale, const zero_config_t *config)
{
    const float value = (float)(scale->value * config->growth_factor);
    if (isfinite(value))
        scale->value = value;
    scale->good = 0;
    scale->left = config->hysteresis;
}

static void shrink(zero_scale_t *scale, const zero_config_t *config)
{
    const float least = (float)config->min_loss_scale, value = (float)(scale->value * config->backoff_factor);
    scale->exhausted = scale->value <= least;
    if (!scale->exhausted)
        scale->value = value > least ? value : least;
}

void zero_scale_next(zero_scale_t *scale, const zero_config_t *config, bool finite)
{
    scale->exhausted = false;
    if (config->growth_interval == 0)
        return;
    if (finite) {
        if (++scale->good >= config->growth_interval)
            grow(scale, config);
        return;
    }
    scale->good = 0;
    if (scale->left > 1)
        scale->left--;
    else
        shrink(scale, config);
}
