#include "examples/zero_train/schedule.h"
#include "examples/zero_train/options.h"

#include <math.h>

double schedule_rate(const schedule_t *schedule, int64_t s)
{
    const double pi = 3.14159265358979323846;
    double lr0 = schedule->lr, lr1 = schedule->min_lr, u = (double)schedule->warmup, now = (double)s;
    if (schedule->kind == SCHEDULE_NOAM)
        return lr0 / sqrt(schedule->width) * fmin(1 / sqrt(now), now / (u * sqrt(u)));
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
