/* launch.h - what every .cu file includes: CUDA's runtime, and the few things that are not spelled the same way for nvcc and for a C++ compiler.
 * The tests compile the same files with a C++ compiler against headers that shadow CUDA's and run blocks of threads on the processor
 * (tests/emulator/). So kernels keep to what both know: the built-in indices, __shared__ arrays, __syncthreads, __syncwarp, shuffles
 * of whole warps, __ldg, vector types, the math functions; and they are launched by ZERO_LAUNCH alone. */
#ifndef ZERO_KERNELS_CUDA_LAUNCH_H
#define ZERO_KERNELS_CUDA_LAUNCH_H

#include <cuda_runtime.h>

#include <stdint.h>

#if defined(__CUDACC__)

/* kernel<<<grid, block, shared_bytes, stream>>>(...). A kernel with several template arguments goes in parentheses. What fails to launch is told by
 * cudaGetLastError, of the same thread. */
#define ZERO_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)
/* In a kernel: `type *name`, the block's shared_bytes bytes of shared memory, on a 16-byte bound. */
#define ZERO_DYNAMIC_SHARED(type, name)                                \
    extern __shared__ __align__(16) unsigned char zero_dynamic_shared[]; \
    type *name = reinterpret_cast<type *>(zero_dynamic_shared)

/* Before a loop: unroll all of it (over an array that must stay in registers), or by n. */
#define ZERO_UNROLL _Pragma("unroll")
#define ZERO_PRAGMA(text) _Pragma(#text)
#define ZERO_UNROLL_BY(n) ZERO_PRAGMA(unroll n)

#else

#define ZERO_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    zero_emulator_launch(#kernel, kernel, (grid), (block), (shared_bytes), (stream)__VA_OPT__(, ) __VA_ARGS__)
#define ZERO_DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(zero_emulator_dynamic_shared())
#define ZERO_UNROLL
#define ZERO_UNROLL_BY(n)

#endif

/* All lanes of a warp: the only mask that our shuffles have. */
#define ZERO_FULL_WARP 0xffffffffu

#endif
