/* SPDX-License-Identifier: Apache-2.0 */
/* cuda.h - the table that the plugin zero_nn_cuda exports as `zero_cuda_nn`: kernels/nn on CUDA GPUs (cuBLASLt, cuDNN,
 * our own kernels). */
#ifndef ZERO_NN_CUDA_H
#define ZERO_NN_CUDA_H

#include "kernels/nn/backend.h"
#include "zero/base/plugin.h"

/* Raise the revision with every change to this table, to zero_nn_ops_t, or to the arguments of its functions. */
#define ZERO_CUDA_NN_VERSION ZERO_PLUGIN_VERSION(14)

typedef struct zero_cuda_nn {
    uint32_t version;
    const zero_nn_ops_t *ops;
} zero_cuda_nn_t;

#endif
