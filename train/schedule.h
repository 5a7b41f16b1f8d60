/* SPDX-License-Identifier: Apache-2.0 */
/* schedule.h - the learning rate of each step. */
#ifndef TRAIN_SCHEDULE_H
#define TRAIN_SCHEDULE_H

#include <stdint.h>

/* The rise of the rate: s/U, or the rise of DeepSpeed's Warmup schedulers, which a --config file can select. */
enum { RISE_OWN = 0, RISE_LOG, RISE_LINEAR };

typedef struct schedule {
    int kind;          /* SCHEDULE_CONSTANT ... of options.h */
    int rise;          /* RISE_OWN ...; noam: RISE_OWN */
    double from;       /* the start rate of a DeepSpeed rise */
    int64_t warmup;    /* U: steps of warm-up; noam: at least 1 */
    int64_t steps;     /* S: all steps */
    double lr, min_lr; /* lr0, lr1 */
    double width;      /* noam: d, the width of the model */
} schedule_t;

/* The rate of step s, counted from 1. Up to U: lr0 s/U. After: constant lr0; linear lr0 + (lr1 - lr0)(s - U)/(S - U);
 * cosine lr1 + (lr0 - lr1)/2 (1 + cos(pi (s - U)/(S - U))) (Loshchilov and Hutter 2017). noam, at every s: lr0 d^-0.5
 * min(s^-0.5, s U^-1.5) (Vaswani et al. 2017).
 *
 * With a DeepSpeed rise, the rates are those that WarmupLR, WarmupDecayLR and WarmupCosineLR give to step s
 * (deepspeed/runtime/lr_schedules.py). These schedulers set the rate after each step: step 1 has the initial rate, and
 * step s has the rate of their index i = s - 2. U is at least 2. For i < U: from + (lr0 - from) r, with r = log(i +
 * 1)/log(U) or r = i/U. After: constant lr0; linear lr1 + (lr0 - lr1)(S - i)/(S - U); cosine lr1 + (lr0 - lr1)/2 (1 +
 * cos(pi (i - U + 1)/(S - U))); past S, lr1. */
double schedule_rate(const schedule_t *schedule, int64_t s);

#endif
