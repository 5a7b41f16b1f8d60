/* schedule.h - the learning rate of each step. */
#ifndef EXAMPLES_ZERO_TRAIN_SCHEDULE_H
#define EXAMPLES_ZERO_TRAIN_SCHEDULE_H

#include <stdint.h>

typedef struct schedule {
    int kind;            /* SCHEDULE_CONSTANT ... of options.h */
    int64_t warmup;      /* U: steps of warm-up; noam: at least 1 */
    int64_t steps;       /* S: all steps */
    double lr, min_lr;   /* lr0, lr1 */
    double width;        /* noam: d, the model's width */
} schedule_t;

/* The rate of step s, counted from 1. Up to U: lr0 s/U. After: constant lr0; linear lr0 + (lr1 - lr0)(s - U)/(S - U); cosine lr1 + (lr0 - lr1)/2
 * (1 + cos(pi (s - U)/(S - U))) (Loshchilov and Hutter 2017). noam, at every s: lr0 d^-0.5 min(s^-0.5, s U^-1.5) (Vaswani et al. 2017). */
double schedule_rate(const schedule_t *schedule, int64_t s);

#endif
