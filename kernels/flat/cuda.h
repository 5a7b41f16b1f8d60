/* SPDX-License-Identifier: Apache-2.0 */
/* cuda.h - the CUDA table of flat.h, in the plugin zero_cuda. */
#ifndef ZERO_FLAT_CUDA_H
#define ZERO_FLAT_CUDA_H

#include "kernels/flat/flat.h"
#include "zero/base/plugin.h"

/* Raise the revision with every change to zero_flat_ops_t. */
#define ZERO_CUDA_FLAT_VERSION ZERO_PLUGIN_VERSION(5)

/* The functions of flat.h for CUDA. native is a cudaStream_t of the calling thread's current GPU. Functions enqueue
 * work and return, so buffers must stay valid until the work is done. Arrays of arguments in host memory (sum's
 * sources, the updates) are needed only until the call returns. Buffers are GPU memory or pinned host memory; copy
 * takes any memory. Buffers that are not 16-byte aligned give the same bits more slowly. A failed launch shows in
 * cudaGetLastError. threads is ignored. sum takes at most 4000 sources (500 if built with CUDA before 12.1) and rejects
 * more with cudaErrorInvalidConfiguration. */
typedef struct zero_cuda_flat {
    uint32_t version;
    const zero_flat_ops_t *ops;
} zero_cuda_flat_t;

#ifdef __cplusplus
extern "C" {
#endif
/* Exported by the plugin. libzero looks it up by name. */
extern ZERO_API const zero_cuda_flat_t zero_cuda_flat;
#ifdef __cplusplus
}
#endif
#endif
