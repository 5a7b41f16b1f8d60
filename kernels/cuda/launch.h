/* SPDX-License-Identifier: Apache-2.0 */
/* launch.h - every .cu file includes it: CUDA's runtime, and the few constructs that nvcc and C++ compilers spell
 * differently. The tests compile the same files with a C++ compiler against headers that shadow CUDA's, and run blocks
 * of threads on the processor (tests/emulator/). So kernels use only features of both: the built-in indices, __shared__
 * arrays, __syncthreads, __syncwarp, shuffles of whole warps, __ldg, vector types, and the math functions. They are
 * launched only by ZERO_LAUNCH. */
#ifndef ZERO_KERNELS_CUDA_LAUNCH_H
#define ZERO_KERNELS_CUDA_LAUNCH_H

#include <cuda_runtime.h>

#include <stdint.h>

/* The kernels of this plugin, for zero_load_kernels. Each kernel that a ZERO_LAUNCH names registers itself when the
 * plugin is opened, so none is missing. */
struct zero_kernel {
    const void *address;
    const zero_kernel *next;
};
__attribute__((visibility("hidden"))) inline const zero_kernel *zero_kernels = nullptr;

template <auto KERNEL> struct zero_listed {
    struct entry : zero_kernel {
        entry() : zero_kernel{(const void *)KERNEL, zero_kernels}
        {
            zero_kernels = this;
        }
    };
    static entry in;
};
template <auto KERNEL> typename zero_listed<KERNEL>::entry zero_listed<KERNEL>::in;

/* Loads all of them on the current GPU. Otherwise CUDA loads a kernel at its first launch. This load may wait for all
 * work on that GPU, including the kernel of a collective, which waits for other ranks. */
static inline cudaError_t zero_load_kernels(void)
{
    cudaFuncAttributes attributes;
    for (const zero_kernel *k = zero_kernels; k; k = k->next) {
        cudaError_t e = cudaFuncGetAttributes(&attributes, k->address);
        if (e != cudaSuccess)
            return e;
    }
    return cudaSuccess;
}

/* ZERO_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) is kernel<<<grid, block, shared_bytes, stream>>>(...).
 * kernel is a name, not a variable; with several template arguments it goes in parentheses. cudaGetLastError on the
 * same thread reports a failed launch. */
#if defined(__CUDACC__)

#define ZERO_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    ((void)&zero_listed<kernel>::in, kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__))
/* In a kernel: declares `type *name`, the block's shared_bytes bytes of shared memory, 16-byte aligned. */
#define ZERO_DYNAMIC_SHARED(type, name)                                  \
    extern __shared__ __align__(16) unsigned char zero_dynamic_shared[]; \
    type *name = reinterpret_cast<type *>(zero_dynamic_shared)

/* Before a loop: unroll it completely (required for a loop over an array in registers), or by n. */
#define ZERO_UNROLL _Pragma("unroll")
#define ZERO_PRAGMA(text) _Pragma(#text)
#define ZERO_UNROLL_BY(n) ZERO_PRAGMA(unroll n)

#else

#define ZERO_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    ((void)&zero_listed<kernel>::in,                                \
     zero_emulator_launch(#kernel, kernel, (grid), (block), (shared_bytes), (stream)__VA_OPT__(, ) __VA_ARGS__))
#define ZERO_DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(zero_emulator_dynamic_shared())
#define ZERO_UNROLL
#define ZERO_UNROLL_BY(n)

#endif

/* All lanes of a warp: the only mask in our shuffles. */
#define ZERO_FULL_WARP 0xffffffffu

#endif
