/* SPDX-License-Identifier: Apache-2.0 */
/* flat.cu - flat.h's functions for NVIDIA GPUs, with the bits of ref/flat.c. Updates are in update.cu, codecs
 * in codes.cu. */
extern "C" {
#include "kernels/flat/cuda.h"
}
#include "kernels/flat/cuda/each.h"

/* ---- element-wise ----------------------------------------------------------------------------------------------- */

template <typename D, typename S> struct cast_op {
    enum { N = together<D, S>::N, UNROLL = 4 };
    struct in {
        zero_pack<S, N> s;
    };
    D *dst;
    const S *src;

    __device__ __forceinline__ void load(in *x, int64_t i) const
    {
        x->s = ::load<N>(src + i);
    }
    __device__ __forceinline__ void store(const in &x, int64_t i) const
    {
        zero_pack<D, N> d;
        ZERO_UNROLL
        for (int e = 0; e < N; e++)
            d.e[e] = zero_narrow<D>(zero_widen(x.s.e[e]));
        ::store<N>(dst + i, d);
    }
    __device__ __forceinline__ void single(int64_t i) const
    {
        dst[i] = zero_narrow<D>(zero_widen(src[i]));
    }
};

template <typename D, typename S>
__global__ void __launch_bounds__(THREADS) cast_kernel(D *dst, const S *src, int64_t count, bool wide)
{
    each(cast_op<D, S>{dst, src}, blockIdx.x, count, wide);
}

template <typename S> struct accumulate_op {
    enum { N = together<float, S>::N, UNROLL = 4 };
    struct in {
        zero_pack<float, N> d;
        zero_pack<S, N> s;
    };
    float *dst;
    const S *src;

    __device__ __forceinline__ void load(in *x, int64_t i) const
    {
        x->d = ::load<N>((const float *)dst + i);
        x->s = ::load<N>(src + i);
    }
    __device__ __forceinline__ void store(const in &x, int64_t i) const
    {
        zero_pack<float, N> d;
        ZERO_UNROLL
        for (int e = 0; e < N; e++)
            d.e[e] = x.d.e[e] + zero_widen(x.s.e[e]);
        ::store<N>(dst + i, d);
    }
    __device__ __forceinline__ void single(int64_t i) const
    {
        dst[i] += zero_widen(src[i]);
    }
};

template <typename S>
__global__ void __launch_bounds__(THREADS) accumulate_kernel(float *dst, const S *src, int64_t count, bool wide)
{
    each(accumulate_op<S>{dst, src}, blockIdx.x, count, wide);
}

/* The host's array of sources, passed by value. A kernel's arguments are at most 4 KiB, and 32 KiB from CUDA 12.1
 * on. */
enum { FEW = 8, MOST = CUDART_VERSION >= 12010 ? 4000 : 500 };

template <typename T, int ROOM> struct sources {
    const T *p[ROOM];
};

/* While a thread adds one source, the loads of the next ones are in flight: they do not depend on the sum. */
template <typename T, int ROOM> struct sum_op {
    enum { N = 16 / sizeof(T), UNROLL = 2 };
    struct in {
        float sum[N];
    };
    T *dst;
    const sources<T, ROOM> &src;
    int count;

    __device__ __forceinline__ void load(in *x, int64_t i) const
    {
        zero_pack<T, N> first = ::load<N>(src.p[0] + i);
        ZERO_UNROLL
        for (int e = 0; e < N; e++)
            x->sum[e] = zero_widen(first.e[e]);
        ZERO_UNROLL_BY(4)
        for (int k = 1; k < count; k++) {
            zero_pack<T, N> next = ::load<N>(src.p[k] + i);
            ZERO_UNROLL
            for (int e = 0; e < N; e++)
                x->sum[e] += zero_widen(next.e[e]);
        }
    }
    __device__ __forceinline__ void store(const in &x, int64_t i) const
    {
        zero_pack<T, N> d;
        ZERO_UNROLL
        for (int e = 0; e < N; e++)
            d.e[e] = zero_narrow<T>(x.sum[e]);
        ::store<N>(dst + i, d);
    }
    __device__ __forceinline__ void single(int64_t i) const
    {
        float s = zero_widen(src.p[0][i]);
        for (int k = 1; k < count; k++)
            s += zero_widen(src.p[k][i]);
        dst[i] = zero_narrow<T>(s);
    }
};

template <typename T, int ROOM>
__global__ void __launch_bounds__(THREADS)
    sum_kernel(T *dst, const __grid_constant__ sources<T, ROOM> src, int source_count, int64_t count, bool wide)
{
    each(sum_op<T, ROOM>{dst, src, source_count}, blockIdx.x, count, wide);
}

/* ---- the norm --------------------------------------------------------------------------------------------------- */

/* A thread is one lane of a block of the norm. Its 256 squares form a dependent chain, so its loads must overlap. Half
 * a warp reads 16 neighbours at once, which are whole memory sectors. A thread that loads 16 bytes would have 4 or 8
 * lanes. There would be 4 or 8 times fewer threads, and ptxas keeps only 2 or 3 such loads in flight: too few for the
 * segment of one layer. */
enum { LANES = 16, ROWS = ZERO_NORM_BLOCK / LANES, AHEAD = 32 };

template <typename T> __global__ void __launch_bounds__(THREADS) square_kernel(double *out, const T *x, int64_t count)
{
    const int64_t block = (int64_t)blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
    const int lane = threadIdx.x % LANES;
    const int64_t first = block * ZERO_NORM_BLOCK + lane, left = count - first; /* left may be negative */
    double sum = 0;
    if (left > ZERO_NORM_BLOCK - LANES) { /* all rows exist */
        for (int row = 0; row < ROWS; row += AHEAD) {
            T e[AHEAD];
            ZERO_UNROLL
            for (int r = 0; r < AHEAD; r++)
                e[r] = x[first + (row + r) * LANES];
            ZERO_UNROLL
            for (int r = 0; r < AHEAD; r++) {
                double d = (double)zero_widen(e[r]);
                sum = fma(d, d, sum);
            }
        }
    } else {
        ZERO_UNROLL_BY(8)
        for (int64_t i = 0; i < left; i += LANES) {
            double d = (double)zero_widen(x[first + i]);
            sum = fma(d, d, sum);
        }
    }
    for (int width = LANES / 2; width > 0; width /= 2)
        sum += __shfl_down_sync(ZERO_FULL_WARP, sum, width, LANES);
    if (lane == 0 && left > 0)
        out[block] = sum;
}

/* *out = blocks[0] + blocks[1] + ... in this order, so one thread adds. Meanwhile the others load the next tile into
 * shared memory. In the unrolled loop the adder's loads run ahead of its sum. */
enum { TILE = 512, FETCHERS = 128 };

__global__ void __launch_bounds__(32 + FETCHERS) add_kernel(double *out, const double *blocks, int64_t count)
{
    __shared__ double tile[2][TILE];
    const int fetcher = (int)threadIdx.x - 32;
    double sum = 0;
    for (int64_t next = 0, step = 0; next < count + TILE; next += TILE, step++) {
        if (fetcher >= 0) {
            ZERO_UNROLL
            for (int k = 0; k < TILE; k += FETCHERS)
                if (next + k + fetcher < count)
                    tile[step & 1][k + fetcher] = blocks[next + k + fetcher];
        } else if (fetcher == -32 && step > 0) {
            const double *x = tile[~step & 1];
            const int there = next <= count ? TILE : (int)(count - (next - TILE));
            ZERO_UNROLL_BY(64)
            for (int k = 0; k < there; k++)
                sum += x[k];
        }
        __syncthreads();
    }
    if (fetcher == -32)
        *out = sum;
}

/* ---- flat.h ----------------------------------------------------------------------------------------------------- */

static void fill_zero(void *dst, uint64_t bytes, int threads, void *native)
{
    (void)threads;
    if (bytes > 0)
        cudaMemsetAsync(dst, 0, bytes, (cudaStream_t)native);
}

static void copy(void *dst, const void *src, uint64_t bytes, int threads, void *native)
{
    (void)threads;
    if (bytes > 0 && dst != src)
        cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, (cudaStream_t)native);
}

template <typename D, typename S> static void launch_cast(D *dst, const S *src, int64_t count, cudaStream_t stream)
{
    typedef cast_op<D, S> op;
    ZERO_LAUNCH((cast_kernel<D, S>), blocks_for<op>(count), THREADS, 0, stream, dst, src, count,
                fits(dst, op::N) && fits(src, op::N));
}

static void cast(void *dst, zero_dtype_t dst_dtype, const void *src, zero_dtype_t src_dtype, int64_t count, int threads,
                 void *native)
{
    if (dst_dtype == src_dtype)
        copy(dst, src, (uint64_t)count * zero_dtype_size(src_dtype), threads, native);
    else if (count > 0)
        ZERO_WITH_TYPE(dst_dtype, D,
                       ZERO_WITH_TYPE(src_dtype, S, launch_cast((D *)dst, (const S *)src, count, (cudaStream_t)native)))
}

static void accumulate(float *dst, const void *src, zero_dtype_t src_dtype, int64_t count, int threads, void *native)
{
    (void)threads;
    if (count > 0)
        ZERO_WITH_TYPE(src_dtype, S, typedef accumulate_op<S> op;
                       ZERO_LAUNCH(accumulate_kernel<S>, blocks_for<op>(count), THREADS, 0, (cudaStream_t)native, dst,
                                   (const S *)src, count, fits(dst, op::N) && fits((const S *)src, op::N)))
}

template <typename T, int ROOM>
static void launch_sum(T *dst, const void *const *src, int count, int64_t elements, cudaStream_t stream)
{
    typedef sum_op<T, ROOM> op;
    sources<T, ROOM> s = {};
    bool wide = fits(dst, op::N);
    for (int k = 0; k < count && k < ROOM; k++) {
        s.p[k] = (const T *)src[k];
        wide = wide && fits(s.p[k], op::N);
    }
    /* Too many sources: launch zero blocks, which CUDA rejects. */
    ZERO_LAUNCH((sum_kernel<T, ROOM>), count <= ROOM ? blocks_for<op>(elements) : 0, THREADS, 0, stream, dst, s, count,
                elements, wide);
}

static void sum(void *dst, const void *const *src, int source_count, zero_dtype_t dtype, int64_t count, int threads,
                void *native)
{
    (void)threads;
    if (count <= 0)
        return;
    if (source_count <= FEW)
        ZERO_WITH_TYPE(dtype, T, launch_sum<T, FEW>((T *)dst, src, source_count, count, (cudaStream_t)native))
    else
        ZERO_WITH_TYPE(dtype, T, launch_sum<T, MOST>((T *)dst, src, source_count, count, (cudaStream_t)native))
}

static void square_sum(double *out, double *scratch, const void *x, zero_dtype_t dtype, int64_t count, int threads,
                       void *native)
{
    (void)threads;
    const int64_t blocks = (count + ZERO_NORM_BLOCK - 1) / ZERO_NORM_BLOCK,
                  grid = (blocks + THREADS / LANES - 1) / (THREADS / LANES);
    if (count > 0)
        ZERO_WITH_TYPE(dtype, T,
                       ZERO_LAUNCH(square_kernel<T>, (unsigned)grid, THREADS, 0, (cudaStream_t)native, scratch,
                                   (const T *)x, count))
    ZERO_LAUNCH(add_kernel, 1, 32 + FETCHERS, 0, (cudaStream_t)native, out, (const double *)scratch, blocks);
}

static const zero_flat_ops_t ops = {
    .name = "cuda",
    .fill_zero = fill_zero,
    .copy = copy,
    .cast = cast,
    .accumulate = accumulate,
    .sum = sum,
    .encode = zero_cuda_flat_encode,
    .decode = zero_cuda_flat_decode,
    .square_sum = square_sum,
    .update = zero_cuda_flat_update,
};

extern "C" const zero_cuda_flat_t zero_cuda_flat = {
    .version = ZERO_CUDA_FLAT_VERSION,
    .ops = &ops,
};
