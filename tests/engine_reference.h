/* SPDX-License-Identifier: Apache-2.0 */
/* engine_reference.h - what the toy trains, and the same training computed serially, every rank of it, in the
 * documented order of every rounding. It shares no code with the library but bf16 rounding and the bias corrections'
 * power, so that bits can be compared. */
#ifndef ZERO_TESTS_ENGINE_REFERENCE_H
#define ZERO_TESTS_ENGINE_REFERENCE_H

#include "optim/rules.h"
#include "tests/engine_toy.h"

typedef struct toy_param {
    int unit;
    const char *name;
    int64_t count;
    bool trainable, always_fp32;
    double decay, rate;
} toy_param_t;
typedef struct toy_use {
    int unit;
    uint32_t flags;
} toy_use_t;

extern const toy_param_t toy_params[TOY_PARAMS];
extern const char *const toy_units[TOY_UNITS];
extern const toy_use_t toy_uses[TOY_USES];
extern const zero_rule_options_t toy_adamw;
extern const double toy_clip, toy_grad_scale;

typedef struct toy_reference {
    float *value[TOY_PARAMS], *master[TOY_PARAMS], *m[TOY_PARAMS], *v[TOY_PARAMS], *final[TOY_PARAMS];
    float *written[TOY_MAX_RANKS][TOY_PARAMS], *sum[TOY_MAX_RANKS][TOY_PARAMS];
    int64_t step, applied, skipped;
    double norm, clip_factor;
    bool last_applied;
    uint32_t signals;
} toy_reference_t;

/* Which use of which micro-step on which rank: what gradients depend on. */
typedef struct moment {
    int rank, micro, use;
    int64_t step;
} moment_t;

uint64_t toy_hash(uint64_t a, uint64_t b, uint64_t c, uint64_t d);
uint64_t toy_moment_hash(moment_t moment, uint64_t salt);
/* A rank may leave out any use; it says nothing to the others. Here two neighbours never: a unit's later use would be
 * taken for the one left out. */
bool toy_passed_over(moment_t moment);
float toy_initial(int param, int64_t i);
/* The gradient of a quadratic, x at its least being a number of the rank's, the micro-step's and the use's own. GRAD
 * alone has no x: 0. */
float toy_gradient(const toy_case_t *c, moment_t moment, int param, int64_t i, float x);
zero_dtype_t toy_dtype(const toy_case_t *c, int param);
double toy_rate(int64_t step);
/* Element i of an array of the dtype. */
float toy_load(const void *p, zero_dtype_t dtype, int64_t i);
void toy_store(void *p, zero_dtype_t dtype, int64_t i, float x);

/* ---- engine_mirror.c: on a GPU ---------------------------------------------------------------------------------- */

/* Whether the toy's parameters are where the host cannot touch them. */
bool toy_mirrored(const toy_t *toy);
/* A GPU as the toy's device, and what its memory is exchanged through. Collective; -1 with *error. */
int toy_gpu(toy_t *toy, zero_comm_t *comm, const zero_device_options_t *options, zero_error_t *error);
/* What the mirrors take in the host tier, and where the copy of a parameter or of its gradient lies there. */
size_t toy_mirrors_bytes(void);
void *toy_mirror(const toy_t *toy, int param, bool gradient);
/* Copies on the compute stream, not waited for: any; a unit's parameters or gradients to the mirrors; its gradients
 * back. -1 after printing. */
int toy_copy(const toy_t *toy, void *to, const void *from, size_t bytes);
int toy_fetch(const toy_t *toy, int unit, bool gradient);
int toy_send_gradients(const toy_t *toy, int unit);

toy_reference_t *toy_reference_create(const toy_case_t *c);
void toy_reference_destroy(toy_reference_t *r);
void toy_reference_micro(const toy_case_t *c, toy_reference_t *r, int micro, bool last);
void toy_reference_step(const toy_case_t *c, toy_reference_t *r);

#endif
