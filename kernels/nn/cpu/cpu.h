/* SPDX-License-Identifier: Apache-2.0 */
/* cpu.h - inside kernels/nn/cpu. */
#ifndef ZERO_NN_CPU_H
#define ZERO_NN_CPU_H

#include "kernels/nn/backend.h"
#include "kernels/nn/cpu/simd.h"

/* The state of a context on CPU. */
typedef struct zero_nn_cpu {
    const zero_nn_simd_t *simd;
    void *onednn; /* zero_nn_onednn_t; NULL in a build without */
    bool counted; /* a region of the context's threads was seen to have them all */
} zero_nn_cpu_t;

static inline const zero_nn_simd_t *zero_nn_simd(const zero_nn_t *nn)
{
    return ((const zero_nn_cpu_t *)nn->state)->simd;
}

/* Part of [0, count) that thread part of parts computes, cut at multiples of unit: depends on nothing else. */
static inline void zero_nn_part(int64_t count, int64_t unit, int parts, int part, int64_t *begin, int64_t *end)
{
    int64_t units = (count + unit - 1) / unit, each = units / parts, more = units % parts;
    int64_t first = part * each + (part < more ? part : more), last = first + each + (part < more);
    *begin = first * unit < count ? first * unit : count;
    *end = last * unit < count ? last * unit : count;
}

static inline int64_t zero_nn_up(int64_t x, int64_t unit)
{
    return (x + unit - 1) / unit * unit;
}

/* Threads that share a call: as many as there are units of work that are worth a thread, at most those of the context.
 */
static inline int zero_nn_threads(const zero_nn_t *nn, int64_t units)
{
    return units < nn->threads ? (units < 1 ? 1 : (int)units) : nn->threads;
}

/* OpenMP's teams (team.c). begin: regions that the calling thread opens until end have this many threads, not fewer
 * where the machine is busy (OMP_DYNAMIC). count: how many threads a region that asks for so many has; it opens one. */
typedef struct zero_nn_team {
    int threads, dynamic;
} zero_nn_team_t;
zero_nn_team_t zero_nn_team_begin(int threads);
void zero_nn_team_end(zero_nn_team_t before);
int zero_nn_team_count(int threads);

/* oneDNN (onednn.c). open leaves *state NULL in a build without it. plan sets plan->data where oneDNN has an
 * implementation, and leaves it NULL where it has none, or where the context has no oneDNN: our own product computes
 * those. version writes "oneDNN 2.6.3", or what stands in for it. */
zero_status_t zero_nn_onednn_open(void **state, zero_error_t *error);
void zero_nn_onednn_close(void *state);
void zero_nn_onednn_version(char *text, size_t size);
zero_status_t zero_nn_onednn_plan(zero_nn_t *nn, zero_nn_plan_t *plan, zero_error_t *error);
void zero_nn_onednn_unplan(zero_nn_plan_t *plan);
void zero_nn_onednn_gemm(zero_nn_t *nn, const zero_nn_gemm_t *g);

/* Our own product (gemm.c): packed panels, workspace from nn. */
uint64_t zero_nn_own_gemm_workspace(const zero_nn_t *nn, const zero_nn_shape_t *shape);
void zero_nn_own_gemm(zero_nn_t *nn, const zero_nn_gemm_t *g);

/* Attention (attention.c). */
uint64_t zero_nn_cpu_attention_workspace(const zero_nn_t *nn, const zero_nn_shape_t *shape);
void zero_nn_cpu_attention_forward(zero_nn_t *nn, const zero_nn_attention_t *a);
void zero_nn_cpu_attention_backward(zero_nn_t *nn, const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g);

#endif
