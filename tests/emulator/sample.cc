/* SPDX-License-Identifier: Apache-2.0 */
/* sample.cc - see sample.h. */
#include "kernels/cuda/launch.h"
#include "tests/emulator/sample.h"

#pragma GCC visibility push(default)

__global__ void block_sum(float *out, const float *x)
{
    __shared__ float part[32];
    float s = x[blockIdx.x * blockDim.x + threadIdx.x];
    for (int lanes = 16; lanes > 0; lanes /= 2)
        s += __shfl_xor_sync(ZERO_FULL_WARP, s, lanes);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = s;
    __syncthreads();
    if (threadIdx.x < 32) {
        s = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0;
        for (int lanes = 16; lanes > 0; lanes /= 2)
            s += __shfl_down_sync(ZERO_FULL_WARP, s, (unsigned)lanes);
        if (threadIdx.x == 0)
            out[blockIdx.x] = s;
    }
}

extern "C" void sample_block_sum(float *out, const float *x, int blocks, int threads, cudaStream_t stream)
{
    ZERO_LAUNCH(block_sum, (unsigned)blocks, (unsigned)threads, 0, stream, out, x);
}

__global__ void shuffles(int *out, int argument, int width)
{
    int t = (int)threadIdx.x;
    out[t] = __shfl_sync(ZERO_FULL_WARP, 100 + t, argument, width);
    out[32 + t] = __shfl_xor_sync(ZERO_FULL_WARP, 100 + t, argument, width);
    out[64 + t] = __shfl_down_sync(ZERO_FULL_WARP, 100 + t, (unsigned)argument, width);
    out[96 + t] = __shfl_up_sync(ZERO_FULL_WARP, 100 + t, (unsigned)argument, width);
    out[128 + t] = (int)(__ballot_sync(ZERO_FULL_WARP, t % 3 == 0) >> t & 1);
    out[160 + t] = (int)(2 * __shfl_xor_sync(ZERO_FULL_WARP, (double)t + 0.5, 1)); /* eight bytes */
    __syncwarp();
}

extern "C" void sample_shuffles(int *out, int argument, int width, cudaStream_t stream)
{
    ZERO_LAUNCH(shuffles, 1, 32, 0, stream, out, argument, width);
}

__global__ void indices(int *out)
{
    unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    out[block * blockDim.x * blockDim.y * blockDim.z + thread]++;
}

extern "C" void sample_indices(int *out, const unsigned grid[3], const unsigned block[3], cudaStream_t stream)
{
    ZERO_LAUNCH(indices, dim3(grid[0], grid[1], grid[2]), dim3(block[0], block[1], block[2]), 0, stream, out);
}

__global__ void fresh_shared(float *dynamic, float *fixed, int count)
{
    ZERO_DYNAMIC_SHARED(float, a);
    __shared__ float b[64];
    int t = (int)threadIdx.x;
    for (int i = t; i < count; i += 64)
        dynamic[(int)blockIdx.x * count + i] = a[i];
    if (blockIdx.x == 0)
        fixed[t] = b[t];
    __syncthreads();
    for (int i = t; i < count; i += 64)
        a[i] = 1;
    b[t] = 1;
}

extern "C" void sample_fresh_shared(float *dynamic, float *fixed, int blocks, size_t bytes, cudaStream_t stream)
{
    ZERO_LAUNCH(fresh_shared, (unsigned)blocks, 64, bytes, stream, dynamic, fixed, (int)(bytes / sizeof(float)));
}

extern "C" cudaError_t sample_allow_shared(int bytes)
{
    return cudaFuncSetAttribute(fresh_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

__global__ void missing_barrier(float *out)
{
    __shared__ float x[257];
    x[threadIdx.x + 1] = (float)threadIdx.x;
    if (threadIdx.x == 0)
        x[0] = -1;
    out[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
}

extern "C" void sample_missing_barrier(float *out, int threads, cudaStream_t stream)
{
    ZERO_LAUNCH(missing_barrier, 1, (unsigned)threads, 0, stream, out);
}

__global__ void write(float *x, long begin, long end, float value)
{
    for (long i = begin; i < end && threadIdx.x == 0; i++)
        x[i] = value;
}

extern "C" void sample_write(float *x, long begin, long end, float value, cudaStream_t stream)
{
    ZERO_LAUNCH(write, 1, 32, 0, stream, x, begin, end, value);
}

__global__ void add(float *x, const float *y, int count)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < count)
        x[i] += y[i];
}

extern "C" void sample_add(float *x, const float *y, int count, cudaStream_t stream)
{
    ZERO_LAUNCH(add, (unsigned)(count + 127) / 128, 128, 0, stream, x, y, count);
}

__global__ void fault_kernel(int fault, int *out)
{
    int t = (int)threadIdx.x;
    out[t] = t;
    if (fault == SAMPLE_LEAVE) {
        if (t == 5)
            return;
        __syncthreads();
    } else if (fault == SAMPLE_BRANCHES) {
        if (t % 2)
            __syncthreads();
        else
            __syncthreads();
    } else if (fault == SAMPLE_HALF_WARP) {
        if (t < 16)
            out[t] = __shfl_xor_sync(ZERO_FULL_WARP, t, 1);
    } else if (fault == SAMPLE_HALF_MASK) {
        out[t] = __shfl_xor_sync(0xffffu, t, 1);
    } else {
        out[t] = __shfl_xor_sync(ZERO_FULL_WARP, t, 1);
    }
}

extern "C" void sample_fault(sample_fault_t fault, int *out, cudaStream_t stream)
{
    ZERO_LAUNCH(fault_kernel, 1, fault == SAMPLE_SHORT_WARP ? 16 : 64, 0, stream, (int)fault, out);
}

#pragma GCC visibility pop
