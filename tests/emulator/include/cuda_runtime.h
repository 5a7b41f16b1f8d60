/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_runtime.h - the interface of kernels, for a C++ compiler: indices, shared memory, barriers, shuffles, vector
 * types, and the launch. Kernels run block by block. The threads of a block run one after the other, from barrier to
 * barrier (emulator.h). */
#ifndef ZERO_EMULATOR_CUDA_RUNTIME_H
#define ZERO_EMULATOR_CUDA_RUNTIME_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus /* C has only the functions */

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
/* A host thread runs one block at a time. */
#define __shared__ static thread_local

/* ---- vector types ----------------------------------------------------------------------------------------------- */

#define ZERO_EMULATOR_VECTORS(type, name, align2, align4)                \
    struct alignas(align2) name##2                                       \
    {                                                                    \
        type x, y;                                                       \
    };                                                                   \
    struct name##3                                                       \
    {                                                                    \
        type x, y, z;                                                    \
    };                                                                   \
    struct alignas(align4) name##4                                       \
    {                                                                    \
        type x, y, z, w;                                                 \
    };                                                                   \
    static inline name##2 make_##name##2(type x, type y)                 \
    {                                                                    \
        return name##2 {x, y};                                           \
    }                                                                    \
    static inline name##3 make_##name##3(type x, type y, type z)         \
    {                                                                    \
        return name##3 {x, y, z};                                        \
    }                                                                    \
    static inline name##4 make_##name##4(type x, type y, type z, type w) \
    {                                                                    \
        return name##4 {x, y, z, w};                                     \
    }
ZERO_EMULATOR_VECTORS(float, float, 8, 16)
ZERO_EMULATOR_VECTORS(int, int, 8, 16)
ZERO_EMULATOR_VECTORS(unsigned, uint, 8, 16)
ZERO_EMULATOR_VECTORS(unsigned short, ushort, 4, 8)
#undef ZERO_EMULATOR_VECTORS
struct alignas(16) double2 {
    double x, y;
};
static inline double2 make_double2(double x, double y)
{
    return double2{x, y};
}
struct alignas(16) longlong2 {
    long long x, y;
};
struct alignas(16) ulonglong2 {
    unsigned long long x, y;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

/* ---- indices and sizes of a thread ------------------------------------------------------------------------------ */

struct zero_emulator_indices {
    uint3 thread, block;
    dim3 threads, blocks;
    void *dynamic_shared;
};
/* The thread that this host thread runs now. The address is the same for all threads of a block, so that compilers may
 * keep it. */
extern "C" __thread struct zero_emulator_indices *zero_emulator_self __attribute__((tls_model("initial-exec")));

#define threadIdx (zero_emulator_self->thread)
#define blockIdx (zero_emulator_self->block)
#define blockDim (zero_emulator_self->threads)
#define gridDim (zero_emulator_self->blocks)
static const int warpSize = 32;

static inline void *zero_emulator_dynamic_shared()
{
    return zero_emulator_self->dynamic_shared;
}

/* ---- barriers and shuffles: each thread of the block, or lane of the warp, must reach the same one -------------- */

extern "C" void zero_emulator_block_barrier(const char *file, int line);
/* Gives value to the other lanes of the warp, and returns the values of its 32 lanes. They are valid until the lane's
 * second exchange after this one. */
extern "C" const uint64_t *zero_emulator_exchange(unsigned mask, uint64_t value, const char *file, int line);
/* The lane of this thread in its warp. */
extern "C" int zero_emulator_lane(void);

#define ZERO_EMULATOR_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

static inline void __syncthreads(ZERO_EMULATOR_HERE)
{
    zero_emulator_block_barrier(file, line);
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, ZERO_EMULATOR_HERE)
{
    zero_emulator_exchange(mask, 0, file, line);
}

template <typename T>
static inline T zero_emulator_shuffle(unsigned mask, T value, int source, bool outside, const char *file, int line)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles take 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    const uint64_t *lanes = zero_emulator_exchange(mask, bits, file, line);
    if (!outside)
        memcpy(&value, &lanes[source], sizeof value);
    return value;
}
/* Lanes shuffle within groups of width lanes (a power of two). If the source lane is outside the group, a lane keeps
 * its own value. */
template <typename T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, ZERO_EMULATOR_HERE)
{
    int lane = zero_emulator_lane(), group = lane & ~(width - 1);
    return zero_emulator_shuffle(mask, value, group + (source & (width - 1)), false, file, line);
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, ZERO_EMULATOR_HERE)
{
    int lane = zero_emulator_lane(), source = lane ^ lanes, last = lane | (width - 1);
    return zero_emulator_shuffle(mask, value, source & 31, source > last || source > 31, file, line);
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32, ZERO_EMULATOR_HERE)
{
    int lane = zero_emulator_lane(), source = lane + (int)lanes, last = lane | (width - 1);
    return zero_emulator_shuffle(mask, value, source & 31, source > last, file, line);
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32, ZERO_EMULATOR_HERE)
{
    int lane = zero_emulator_lane(), source = lane - (int)lanes, first = lane & ~(width - 1);
    return zero_emulator_shuffle(mask, value, source & 31, source < first, file, line);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate, ZERO_EMULATOR_HERE)
{
    const uint64_t *lanes = zero_emulator_exchange(mask, predicate != 0, file, line);
    unsigned all = 0;
    for (int l = 0; l < 32; l++)
        all |= (unsigned)lanes[l] << l;
    return all;
}
static inline int __any_sync(unsigned mask, int predicate, ZERO_EMULATOR_HERE)
{
    return __ballot_sync(mask, predicate, file, line) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, ZERO_EMULATOR_HERE)
{
    return __ballot_sync(mask, predicate, file, line) == 0xffffffffu;
}
static inline void __threadfence()
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
static inline void __threadfence_block() {}

/* Only integers have atomics: with floats, results would depend on the order. */
static inline int atomicAdd(int *p, int value)
{
    return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);
}
static inline unsigned atomicAdd(unsigned *p, unsigned value)
{
    return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);
}
static inline unsigned long long atomicAdd(unsigned long long *p, unsigned long long value)
{
    return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);
}
static inline int atomicExch(int *p, int value)
{
    return __atomic_exchange_n(p, value, __ATOMIC_RELAXED);
}
static inline int atomicOr(int *p, int value)
{
    return __atomic_fetch_or(p, value, __ATOMIC_RELAXED);
}
static inline int atomicCAS(int *p, int compare, int value)
{
    __atomic_compare_exchange_n(p, &compare, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return compare;
}

/* ---- loads, stores and bits ------------------------------------------------------------------------------------- */

template <typename T> static inline T __ldg(const T *p)
{
    return *p;
}
template <typename T> static inline T __ldcs(const T *p)
{
    return *p;
}
template <typename T> static inline T __ldcg(const T *p)
{
    return *p;
}
template <typename T> static inline T __ldlu(const T *p)
{
    return *p;
}
template <typename T> static inline void __stcs(T *p, T value)
{
    *p = value;
}
template <typename T> static inline void __stcg(T *p, T value)
{
    *p = value;
}

template <typename To, typename From> static inline To zero_emulator_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float x)
{
    return zero_emulator_bits<unsigned>(x);
}
static inline int __float_as_int(float x)
{
    return zero_emulator_bits<int>(x);
}
static inline float __uint_as_float(unsigned x)
{
    return zero_emulator_bits<float>(x);
}
static inline float __int_as_float(int x)
{
    return zero_emulator_bits<float>(x);
}
static inline long long __double_as_longlong(double x)
{
    return zero_emulator_bits<long long>(x);
}
static inline double __longlong_as_double(long long x)
{
    return zero_emulator_bits<double>(x);
}
static inline int __clz(int x)
{
    return x == 0 ? 32 : __builtin_clz((unsigned)x);
}
static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

/* One operation, rounded to nearest even. Compilers cannot fuse it, whatever their options. */
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fsub_rn(float a, float b)
{
    return a - b;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline float __fsqrt_rn(float a)
{
    return sqrtf(a);
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline double __dadd_rn(double a, double b)
{
    return a + b;
}
static inline double __dmul_rn(double a, double b)
{
    return a * b;
}
static inline double __fma_rn(double a, double b, double c)
{
    return fma(a, b, c);
}
static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
#define __expf(x) expf(x) /* macros, since glibc has functions with these names */
#define __logf(x) logf(x)
static inline float __fdividef(float a, float b)
{
    return a / b;
}

using std::max;
using std::min;

/* ---- the launch ------------------------------------------------------------------------------------------------- */

/* A kernel with its arguments. call runs one thread. drop frees the kernel. */
struct zero_emulator_kernel {
    const char *name;
    const void *address;
    void (*call)(const zero_emulator_kernel *);
    void (*drop)(zero_emulator_kernel *);
};
/* Queues the kernel on the stream and takes ownership of it. pointers: the pointer arguments, and NULL for the other
 * arguments. Each pointer must be NULL or in memory that the device can read. Errors go to cudaGetLastError. */
extern "C" void zero_emulator_queue(zero_emulator_kernel *kernel, dim3 grid, dim3 block, size_t shared_bytes,
                                    cudaStream_t stream, const void *const *pointers, int count);

template <typename T> static inline const void *zero_emulator_pointer(const T &value)
{
    if constexpr (std::is_pointer_v<T>)
        return (const void *)value;
    else
        return (void)value, nullptr;
}

template <typename... P, typename... A>
void zero_emulator_launch(const char *name, void (*function)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                          cudaStream_t stream, A &&...arguments)
{
    struct launch : zero_emulator_kernel {
        void (*function)(P...);
        std::tuple<P...> arguments;
    };
    launch *l = new launch{{}, function, std::tuple<P...>(static_cast<P>(arguments)...)};
    l->name = name;
    l->address = (const void *)function;
    l->call = [](const zero_emulator_kernel *k) {
        const launch *self = static_cast<const launch *>(k);
        std::apply(self->function, self->arguments);
    };
    l->drop = [](zero_emulator_kernel *k) { delete static_cast<launch *>(k); };
    const void *pointers[sizeof...(P) + 1] = {};
    std::apply(
        [&](const auto &...a) {
            int i = 0;
            ((pointers[i++] = zero_emulator_pointer(a)), ...);
        },
        l->arguments);
    zero_emulator_queue(l, grid, block, shared_bytes, stream, pointers, (int)sizeof...(P));
}

/* ---- CUDA's C++ overloads --------------------------------------------------------------------------------------- */

template <typename T> static inline cudaError_t cudaMalloc(T **p, size_t bytes)
{
    return ::cudaMalloc((void **)p, bytes);
}
template <typename T> static inline cudaError_t cudaMallocHost(T **p, size_t bytes, unsigned flags = 0)
{
    return ::cudaHostAlloc((void **)p, bytes, flags);
}
template <typename T> static inline cudaError_t cudaHostAlloc(T **p, size_t bytes, unsigned flags)
{
    return ::cudaHostAlloc((void **)p, bytes, flags);
}
template <typename T> static inline cudaError_t cudaHostGetDevicePointer(T **device, void *host, unsigned flags)
{
    return ::cudaHostGetDevicePointer((void **)device, host, flags);
}
template <typename T> static inline cudaError_t cudaFuncSetAttribute(T *kernel, cudaFuncAttribute attribute, int value)
{
    return ::cudaFuncSetAttribute((const void *)kernel, attribute, value);
}
template <typename T>
static inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, T *kernel, int block_size,
                                                                        size_t shared_bytes)
{
    return ::cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, (const void *)kernel, block_size, shared_bytes);
}

#endif
#endif
