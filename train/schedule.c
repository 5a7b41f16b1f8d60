/* SPDX-License-Identifier: Apache-2.0 */
#include "train/schedule.h"
#include "train/options.h"

#include <math.h>

static const double pi = 3.14159265358979323846;

static double deepspeed_rate(const schedule_t *schedule, int64_t s)
{
    double lr0 = schedule->lr, lr1 = schedule->min_lr, i = (double)s - 2, u = fmax(2, (double)schedule->warmup),
           all = (double)schedule->steps;
    double rest = fmax(1, all - u), rise = schedule->rise == RISE_LOG ? log(i + 1) / log(u) : i / u;
    if (s < 2) /* WarmupCosineLR begins at 0, whatever rate comes next */
        return schedule->kind == SCHEDULE_COSINE ? 0 : schedule->from;
    if (i < u)
        return schedule->from + (lr0 - schedule->from) * rise;
    switch (schedule->kind) {
    case SCHEDULE_LINEAR:
        return lr1 + (lr0 - lr1) * fmax(0, (all - i) / rest);
    case SCHEDULE_COSINE:
        return lr1 + (lr0 - lr1) / 2 * (1 + cos(pi * fmin(1, (i - u + 1) / rest)));
    default:
        return lr0;
    }
}

double schedule_rate(const schedule_t *schedule, int64_t s)
{
    double lr0 = schedule->lr, lr1 = schedule->min_lr, u = (double)schedule->warmup, now = (double)s;
    if (schedule->kind == SCHEDULE_NOAM)
        return lr0 / sqrt(schedule->width) * fmin(1 / sqrt(now), now / (u * sqrt(u)));
    if (schedule->rise != RISE_OWN)
        return deepspeed_rate(schedule, s);
    if (s <= schedule->warmup)
        return lr0 * now / u;
    double part = (now - u) / ((double)schedule->steps - u);
    switch (schedule->kind) {
    case SCHEDULE_LINEAR:
        return lr0 + (lr1 - lr0) * part;
    case SCHEDULE_COSINE:
        return lr1 + (lr0 - lr1) / 2 * (1 + cos(pi * part));
    default:
        return lr0;
    }
}
