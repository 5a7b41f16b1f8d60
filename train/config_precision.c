/* SPDX-License-Identifier: Apache-2.0 */
/* config_precision.c - the sections bf16 and fp16 of --config. */
#include "train/config_parts.h"

#include <float.h>
#include <math.h>

static double number(const config_row_t *row)
{
    return json_number_value(row->value);
}

/* Sets a whole number of the dynamic loss scale from 1 on. */
static zero_status_t scale_count(config_t *c, config_row_t *row, int64_t *out, const char *effect, zero_error_t *error)
{
    if (row == NULL)
        return ZERO_OK;
    if (!(number(row) >= 1 && number(row) <= INT32_MAX))
        return config_bad(c, row, error, "but must be from 1 to %d: use %lld", INT32_MAX, (long long)*out);
    *out = (int64_t)number(row);
    config_say(row, "%s", effect);
    return ZERO_OK;
}

/* The dynamic loss scale of a file is DeepSpeed's: keys that are left out have DeepSpeed's defaults
 * (deepspeed/runtime/precision_config.py). */
static zero_status_t relate_dynamic_scale(config_t *c, zero_error_t *error)
{
    scale_t *s = &c->o->scale;
    config_row_t *power = config_row(c, "fp16.initial_scale_power"), *least = config_row(c, "fp16.min_loss_scale"),
                 *each = config_row(c, "fp16.consecutive_hysteresis");
    *s = (scale_t){.first = 65536, .least = 1, .interval = 1000, .hysteresis = 2};
    if (power != NULL && !(number(power) >= 0 && number(power) <= 127))
        return config_bad(c, power, error, "but must be from 0 to 127: use 16");
    if (power != NULL) {
        s->first = ldexp(1, (int)number(power));
        config_say(power, "the loss scale begins with %.0f", s->first);
    }
    if (least != NULL && !(number(least) >= FLT_MIN && number(least) <= s->first))
        return config_bad(c, least, error, "but must be above 0, and at most the first loss scale, %.0f: use 1",
                          s->first);
    if (least != NULL) {
        s->least = number(least);
        config_say(least, "the smallest loss scale");
    }
    if (each != NULL && json_is_true(each->value))
        return config_bad(c, each, error, "but must be false: skipped steps count until the loss scale grows");
    if (each != NULL)
        config_say(each, "no effect: always so");
    CONFIG_TRY(scale_count(c, config_row(c, "fp16.loss_scale_window"), &s->interval,
                           "the loss scale grows after this many updates in a row", error));
    return scale_count(c, config_row(c, "fp16.hysteresis"), &s->hysteresis,
                       "the loss scale shrinks after this many skipped steps", error);
}

/* The loss scale, which only fp16 has, whether the file or the command line chose fp16. */
static zero_status_t relate_loss_scale(config_t *c, zero_error_t *error)
{
    static const char *const details[] = {"fp16.initial_scale_power", "fp16.loss_scale_window", "fp16.hysteresis",
                                          "fp16.consecutive_hysteresis", "fp16.min_loss_scale"};
    const bool scaled = c->o->dtype == ZERO_FP16;
    config_row_t *row = config_row(c, "fp16.loss_scale"), *fp16 = config_row(c, "fp16.enabled");
    bool any = row != NULL || (fp16 != NULL && json_is_true(fp16->value));
    if (row != NULL && scaled) {
        char text[32] = "dynamic";
        if (number(row) != 0)
            options_real(number(row), text, sizeof text);
        CONFIG_TRY(config_assign(c, row, "loss-scale", text, error));
    } else if (row != NULL)
        config_say(row, "no effect: fp16 is off");
    const bool dynamic = scaled && !isfinite(c->o->loss_scale); /* also if it is unset */
    for (size_t i = 0; i < sizeof details / sizeof details[0]; i++)
        if ((row = config_row(c, details[i])) != NULL) {
            any = true;
            config_say(row, scaled ? "no effect: the loss scale is fixed" : "no effect: fp16 is off");
        }
    return dynamic && any ? relate_dynamic_scale(c, error) : ZERO_OK;
}

zero_status_t config_relate_precision(config_t *c, zero_error_t *error)
{
    config_row_t *bf16 = config_row(c, "bf16.enabled"), *fp16 = config_row(c, "fp16.enabled"), *row;
    const char *const sections[] = {"bf16.enabled", "fp16.enabled"};
    bool automatic = false, b = bf16 != NULL && json_is_true(bf16->value),
         h = fp16 != NULL && json_is_true(fp16->value);
    for (int i = 0; i < 2; i++)
        automatic |= (row = config_row_any(c, sections[i])) != NULL && row->automatic;
    if (b && h)
        return config_bad(c, bf16, error, "and fp16.enabled too, but at most one may be true: leave one out");
    for (int i = 0; i < 2; i++) {
        row = i == 0 ? bf16 : fp16;
        bool on = i == 0 ? b : h;
        if (row != NULL && (b || h || automatic) && !on)
            config_say(row, "no effect: off");
        else if (row != NULL)
            CONFIG_TRY(config_assign(c, row, "dtype", on ? (i == 0 ? "bf16" : "fp16") : "fp32", error));
    }
    return relate_loss_scale(c, error);
}
