/* SPDX-License-Identifier: Apache-2.0 */
/* cuda.h - the CUDA table of flat.h, in the plugin zero_cuda. */
#ifndef ZERO_FLAT_CUDA_H
#define ZERO_FLAT_CUDA_H

#include "kernels/flat/flat.h"
#include "zero/base/plugin.h"

/* Raise the revision with every change to zero_flat_ops_t. */
#define ZERO_CUDA_FLAT_VERSION ZERO_PLUGIN_VERSION(4)

/* Of flat.h's functions here: native is a cudaStream_t of the calling thread's current GPU. They queue work and
 * return: what they were given must stay until it is done (the host's arrays of arguments, sum's sources and the
 * updates, only until they return). Buffers are the GPU's memory or pinned memory of the host; copy takes any.
 * Buffers that are not on bounds of 16 bytes give the same bits, slower. What could not be queued is told by
 * cudaGetLastError; threads means nothing. sum takes at most 4000 sources (500 if built with CUDA before 12.1): more
 * are refused, as cudaErrorInvalidConfiguration. */
typedef struct zero_cuda_flat {
    uint32_t version;
    const zero_flat_ops_t *ops;
} zero_cuda_flat_t;

#ifdef __cplusplus
extern "C" {
#endif
/* Exported by the plugin; libzero looks it up by name. */
extern ZERO_API const zero_cuda_flat_t zero_cuda_flat;
#ifdef __cplusplus
}
#endif
#endif
