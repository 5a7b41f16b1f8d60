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
    bool counted; /* a parallel region of the context's threads was seen to have all of them */
} zero_nn_cpu_t;

static inline const zero_nn_simd_t *zero_nn_simd(const zero_nn_t *nn)
{
    return ((const zero_nn_cpu_t *)nn->state)->simd;
}

/* The part of [0, count) for thread part of parts, cut at multiples of unit. It depends on these arguments only. */
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

/* The number of threads for a call: one per unit of work that is worth a thread, at most the context's threads. */
static inline int zero_nn_threads(const zero_nn_t *nn, int64_t units)
{
    return units < nn->threads ? (units < 1 ? 1 : (int)units) : nn->threads;
}

/* OpenMP's teams (team.c). begin: until end, parallel regions of the calling thread get this many threads, and not
 * fewer on a busy machine (OMP_DYNAMIC). count: opens a region that requests this many threads, and returns how many it
 * has. */
typedef struct zero_nn_team {
    int threads, dynamic;
} zero_nn_team_t;
zero_nn_team_t zero_nn_team_begin(int threads);
void zero_nn_team_end(zero_nn_team_t before);
int zero_nn_team_count(int threads);

/* oneDNN (onednn.c). In a build without oneDNN, open leaves *state NULL. plan sets plan->data if oneDNN has an
 * implementation. It leaves plan->data NULL if oneDNN has none or the context has no oneDNN; then our own product
 * computes. version writes "oneDNN 2.6.3", or a replacement text. */
zero_status_t zero_nn_onednn_open(void **state, zero_error_t *error);
void zero_nn_onednn_close(void *state);
void zero_nn_onednn_version(char *text, size_t size);
zero_status_t zero_nn_onednn_plan(zero_nn_t *nn, zero_nn_plan_t *plan, zero_error_t *error);
void zero_nn_onednn_unplan(zero_nn_plan_t *plan);
void zero_nn_onednn_gemm(zero_nn_t *nn, const zero_nn_gemm_t *g);

/* Our own product (gemm.c): packed panels, in nn's workspace. */
uint64_t zero_nn_own_gemm_workspace(const zero_nn_t *nn, const zero_nn_shape_t *shape);
void zero_nn_own_gemm(zero_nn_t *nn, const zero_nn_gemm_t *g);

/* Products with one row in A, not transposed, and attention with one query in each sequence (row.c). Workspaces are in
 * bytes. */
bool zero_nn_is_row(const zero_nn_shape_t *shape);
uint64_t zero_nn_row_workspace(const zero_nn_shape_t *shape);
void zero_nn_row_gemm(zero_nn_t *nn, const zero_nn_gemm_t *g);
uint64_t zero_nn_query_workspace(const zero_nn_t *nn, const zero_nn_shape_t *shape);
void zero_nn_query_attention(zero_nn_t *nn, const zero_nn_attention_t *a);

/* Attention (attention.c). */
uint64_t zero_nn_cpu_attention_workspace(const zero_nn_t *nn, const zero_nn_shape_t *shape);
void zero_nn_cpu_attention_forward(zero_nn_t *nn, const zero_nn_attention_t *a);
void zero_nn_cpu_attention_backward(zero_nn_t *nn, const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g);

#endif
