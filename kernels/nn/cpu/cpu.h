/* cpu.h - inside kernels/nn/cpu. */
#ifndef ZERO_NN_CPU_H
#define ZERO_NN_CPU_H

#include "kernels/nn/backend.h"

/* GEMM: plan->data is the backend's own. */
zero_status_t zero_nn_cpu_gemm_open(zero_nn_t *nn, zero_error_t *error);
void zero_nn_cpu_gemm_close(zero_nn_t *nn);
zero_status_t zero_nn_cpu_gemm_plan(zero_nn_t *nn, zero_nn_plan_t *plan, zero_error_t *error);
void zero_nn_cpu_gemm_unplan(zero_nn_plan_t *plan);
void zero_nn_cpu_gemm(zero_nn_t *nn, const zero_nn_plan_t *plan, const zero_nn_gemm_t *g);

#endif
