/* SPDX-License-Identifier: Apache-2.0 */
/* engine_reference.h - the toy's model, and the same training for all ranks in one serial computation, with every
 * rounding in the documented order. To compare bits, it shares no code with the library except bf16 rounding and the
 * power of the bias corrections. */
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
    float *used[TOY_PARAMS]; /* the values that uses read */
    float *value[TOY_PARAMS], *master[TOY_PARAMS], *m[TOY_PARAMS], *v[TOY_PARAMS], *final[TOY_PARAMS];
    float *written[TOY_MAX_RANKS][TOY_PARAMS], *sum[TOY_MAX_RANKS][TOY_PARAMS];
    float *reduced[TOY_MAX_RANKS][TOY_PARAMS]; /* by replica: summed over its ranks and the micro-steps */
    int64_t step, applied, skipped;
    double norm, clip_factor;
    bool last_applied;
    uint32_t signals;
} toy_reference_t;

/* The place of a use: rank, micro-step, use and step. Gradients depend on it. */
typedef struct moment {
    int rank, micro, use;
    int64_t step;
} moment_t;

uint64_t toy_hash(uint64_t a, uint64_t b, uint64_t c, uint64_t d);
uint64_t toy_moment_hash(moment_t moment, uint64_t salt);
/* A rank may skip any use without telling the others. Two neighbours are never both skipped here, because a unit's
 * later use would be taken for the skipped one. */
bool toy_passed_over(moment_t moment);
float toy_initial(int param, int64_t i);
/* The gradient of a quadratic in x, whose minimum depends on rank, micro-step and use. A use with only ZERO_GRAD has no
 * x: 0. */
float toy_gradient(const toy_case_t *c, moment_t moment, int param, int64_t i, float x);
zero_dtype_t toy_dtype(const toy_case_t *c, int param);
double toy_rate(int64_t step);
/* Element i of an array of the dtype. */
float toy_load(const void *p, zero_dtype_t dtype, int64_t i);
void toy_store(void *p, zero_dtype_t dtype, int64_t i, float x);

/* ---- engine_mirror.c: on a GPU ---------------------------------------------------------------------------------- */

/* Whether the host cannot access the toy's parameters. */
bool toy_mirrored(const toy_t *toy);
/* Opens a GPU as the toy's device, and the communicator for its memory. Collective; -1 with *error. */
int toy_gpu(toy_t *toy, zero_comm_t *comm, const zero_device_options_t *options, zero_error_t *error);
/* The bytes of the mirrors in the host tier, and the place of the mirror of a parameter or of its gradient. */
size_t toy_mirrors_bytes(void);
void *toy_mirror(const toy_t *toy, int param, bool gradient);
/* Copies on the compute stream, without waiting: any bytes; a unit's parameters or gradients to the mirrors; its
 * gradients back. -1 after printing. */
int toy_copy(const toy_t *toy, void *to, const void *from, size_t bytes);
int toy_fetch(const toy_t *toy, int unit, bool gradient);
int toy_send_gradients(const toy_t *toy, int unit);

toy_reference_t *toy_reference_create(const toy_case_t *c);
void toy_reference_destroy(toy_reference_t *r);
void toy_reference_micro(const toy_case_t *c, toy_reference_t *r, int micro, bool last);
void toy_reference_step(const toy_case_t *c, toy_reference_t *r);

#endif
