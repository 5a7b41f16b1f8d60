/* SPDX-License-Identifier: Apache-2.0 */
/* sample.h - kernels for the tests of the emulator, in a separate library, as for a plugin. Each function launches one
 * kernel. Errors go to cudaGetLastError. */
#ifndef ZERO_EMULATOR_SAMPLE_H
#define ZERO_EMULATOR_SAMPLE_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* out[b] = the sum of the threads' x in block b, by shuffles, static shared memory and a barrier. threads: a multiple
 * of 32. */
void sample_block_sum(float *out, const float *x, int blocks, int threads, cudaStream_t stream);
/* out[t] for each lane t of a warp: the results of four kinds of shuffles, one after the other. */
void sample_shuffles(int *out, int argument, int width, cudaStream_t stream);
/* out[(thread, block) in the order of CUDA's indices] = 1, over a grid and blocks of three dimensions. */
void sample_indices(int *out, const unsigned grid[3], const unsigned block[3], cudaStream_t stream);
/* out[t] = the value that thread t reads from dynamic shared memory (bytes of it) and from static shared memory before
 * any write. The kernel then writes all of it. */
void sample_fresh_shared(float *dynamic, float *fixed, int blocks, size_t bytes, cudaStream_t stream);
/* Sets the limit of dynamic shared memory for sample_fresh_shared. */
cudaError_t sample_allow_shared(int bytes);
/* out[t] = (float)(t - 1), through shared memory without the required barrier. threads <= 256. */
void sample_missing_barrier(float *out, int threads, cudaStream_t stream);
/* x[i] = value for i in [begin, end), by thread 0. */
void sample_write(float *x, long begin, long end, float value, cudaStream_t stream);
/* x[i] += y[i] for i in [0, count). */
void sample_add(float *x, const float *y, int count, cudaStream_t stream);

/* Errors that end the program: threads that exit before a barrier, barriers in both branches, a shuffle by half of a
 * warp, a shuffle with half a mask, a shuffle in a warp with half the threads. */
typedef enum sample_fault {
    SAMPLE_LEAVE,
    SAMPLE_BRANCHES,
    SAMPLE_HALF_WARP,
    SAMPLE_HALF_MASK,
    SAMPLE_SHORT_WARP
} sample_fault_t;
void sample_fault(sample_fault_t fault, int *out, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
