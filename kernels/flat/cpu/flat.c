/* SPDX-License-Identifier: Apache-2.0 */
/* flat.c - the CPU tables of flat.h: OpenMP threads over the kernels of one SIMD level, and the selection of the level.
 * The number of threads does not change a bit: all operations except the norm are element-wise, and this file adds the
 * norm's blocks in order. */
#include "kernels/flat/kernels.h"

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* Bytes below which another thread costs more than it gains (a fork and join of OpenMP takes some microseconds). */
#define BYTES_PER_THREAD 131072

/* The range of a thread starts at a multiple of this many items (elements, or bytes for fill and copy). This gives
 * whole cache lines for every dtype and whole blocks of the norm. */
#define GRAIN ZERO_NORM_BLOCK

/* The work of one call on items [begin, end). */
typedef void (*range_fn)(const void *call, int64_t begin, int64_t end);

/* Runs fn over items [0, count) on at most threads threads (0: OpenMP's default). bytes: read and written per item. */
static void run(range_fn fn, const void *call, int64_t count, int64_t bytes, int threads)
{
#if defined(_OPENMP)
    int64_t worth = count / (BYTES_PER_THREAD / bytes);
    if (threads <= 0)
        threads = omp_get_max_threads();
    if (threads > worth)
        threads = (int)worth;
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        {
            int64_t n = omp_get_num_threads(), t = omp_get_thread_num();
            int64_t grains = (count + GRAIN - 1) / GRAIN;
            int64_t begin = grains * t / n * GRAIN, end = grains * (t + 1) / n * GRAIN;
            if (end > count)
                end = count;
            if (begin < end)
                fn(call, begin, end);
        }
        return;
    }
#endif
    (void)bytes, (void)threads;
    if (count > 0)
        fn(call, 0, count);
}

/* The arguments of a call, for its threads. */
typedef struct call {
    const zero_flat_kernels_t *kernels;
    void *dst;
    zero_dtype_t dst_dtype;
    const void *src;
    zero_dtype_t src_dtype;
    const void *const *sources;
    int source_count;
    zero_codec_t codec;
    int64_t count; /* decode */
    const zero_update_t *update;
} call_t;

static void fill_zero_range(const void *call, int64_t begin, int64_t end)
{
    const call_t *c = call;
    memset((char *)c->dst + begin, 0, (size_t)(end - begin));
}

static void copy_range(const void *call, int64_t begin, int64_t end)
{
    const call_t *c = call;
    memcpy((char *)c->dst + begin, (const char *)c->src + begin, (size_t)(end - begin));
}

static void cast_range(const void *call, int64_t begin, int64_t end)
{
    const call_t *c = call;
    c->kernels->cast(c->dst, c->dst_dtype, c->src, c->src_dtype, begin, end);
}

static void accumulate_range(const void *call, int64_t begin, int64_t end)
{
    const call_t *c = call;
    c->kernels->accumulate(c->dst, c->src, c->src_dtype, begin, end);
}

static void sum_range(const void *call, int64_t begin, int64_t end)
{
    const call_t *c = call;
    c->kernels->sum(c->dst, c->sources, c->source_count, c->dst_dtype, begin, end);
}

static void encode_range(const void *call, int64_t begin, int64_t end)
{
    const call_t *c = call;
    c->kernels->encode(c->dst, c->codec, c->src, c->src_dtype, begin, end);
}

static void decode_range(const void *call, int64_t begin, int64_t end)
{
    const call_t *c = call;
    c->kernels->decode(c->dst, c->dst_dtype, c->src, c->codec, c->source_count, c->count, begin, end);
}

static void square_range(const void *call, int64_t begin, int64_t end)
{
    const call_t *c = call;
    c->kernels->square_blocks(c->dst, c->src, c->src_dtype, begin, end);
}

static void update_range(const void *call, int64_t begin, int64_t end)
{
    const call_t *c = call;
    c->kernels->update(c->update, begin, end);
}

/* The functions of flat.h over the kernels of a level. */

static void fill_zero(void *dst, uint64_t bytes, int threads, void *native)
{
    (void)native;
    run(fill_zero_range, &(call_t){.dst = dst}, (int64_t)bytes, 1, threads);
}

static void copy(void *dst, const void *src, uint64_t bytes, int threads, void *native)
{
    (void)native;
    if (dst != src)
        run(copy_range, &(call_t){.dst = dst, .src = src}, (int64_t)bytes, 2, threads);
}

static void cast(const zero_flat_kernels_t *kernels, void *dst, zero_dtype_t dst_dtype, const void *src,
                 zero_dtype_t src_dtype, int64_t count, int threads)
{
    call_t call = {.kernels = kernels, .dst = dst, .dst_dtype = dst_dtype, .src = src, .src_dtype = src_dtype};
    if (dst_dtype == src_dtype)
        copy(dst, src, (uint64_t)count * zero_dtype_size(src_dtype), threads, NULL);
    else
        run(cast_range, &call, count, 6, threads);
}

static void accumulate(const zero_flat_kernels_t *kernels, float *dst, const void *src, zero_dtype_t src_dtype,
                       int64_t count, int threads)
{
    call_t call = {.kernels = kernels, .dst = dst, .src = src, .src_dtype = src_dtype};
    run(accumulate_range, &call, count, 12, threads);
}

static void sum(const zero_flat_kernels_t *kernels, void *dst, const void *const *src, int sources, zero_dtype_t dtype,
                int64_t count, int threads)
{
    call_t call = {.kernels = kernels, .dst = dst, .dst_dtype = dtype, .sources = src, .source_count = sources};
    run(sum_range, &call, count, (int64_t)zero_dtype_size(dtype) * (sources + 1), threads);
}

static void encode(const zero_flat_kernels_t *kernels, void *dst, zero_codec_t codec, const void *src,
                   zero_dtype_t src_dtype, int64_t count, int threads)
{
    call_t call = {.kernels = kernels, .dst = dst, .codec = codec, .src = src, .src_dtype = src_dtype};
    run(encode_range, &call, count, 5, threads);
}

static void decode(const zero_flat_kernels_t *kernels, void *dst, zero_dtype_t dst_dtype, const void *src,
                   zero_codec_t codec, int sources, int64_t count, int threads)
{
    call_t call = {.kernels = kernels,
                   .dst = dst,
                   .dst_dtype = dst_dtype,
                   .src = src,
                   .codec = codec,
                   .source_count = sources,
                   .count = count};
    run(decode_range, &call, count, sources + 4, threads);
}

static void square_sum(const zero_flat_kernels_t *kernels, double *out, double *scratch, const void *x,
                       zero_dtype_t dtype, int64_t count, int threads)
{
    call_t call = {.kernels = kernels, .dst = scratch, .src = x, .src_dtype = dtype};
    run(square_range, &call, count, (int64_t)zero_dtype_size(dtype), threads);
    double total = 0;
    for (int64_t b = 0; b * ZERO_NORM_BLOCK < count; b++)
        total += scratch[b];
    *out = total;
}

static void update(const zero_flat_kernels_t *kernels, const zero_update_t *u, int count, int threads)
{
    for (int k = 0; k < count; k++)
        run(update_range, &(call_t){.kernels = kernels, .update = &u[k]}, u[k].count, 28, threads);
}

/* The table of a level. Its functions do not receive the table, so each level has its own thin wrappers. */
#define LEVEL(level, kernel_table)                                                                                  \
    static void level##_cast(void *dst, zero_dtype_t dst_dtype, const void *src, zero_dtype_t src_dtype,            \
                             int64_t count, int threads, void *native)                                              \
    {                                                                                                               \
        (void)native;                                                                                               \
        cast(&kernel_table, dst, dst_dtype, src, src_dtype, count, threads);                                        \
    }                                                                                                               \
    static void level##_accumulate(float *dst, const void *src, zero_dtype_t src_dtype, int64_t count, int threads, \
                                   void *native)                                                                    \
    {                                                                                                               \
        (void)native;                                                                                               \
        accumulate(&kernel_table, dst, src, src_dtype, count, threads);                                             \
    }                                                                                                               \
    static void level##_sum(void *dst, const void *const *src, int sources, zero_dtype_t dtype, int64_t count,      \
                            int threads, void *native)                                                              \
    {                                                                                                               \
        (void)native;                                                                                               \
        sum(&kernel_table, dst, src, sources, dtype, count, threads);                                               \
    }                                                                                                               \
    static void level##_encode(void *dst, zero_codec_t codec, const void *src, zero_dtype_t dtype, int64_t count,   \
                               int threads, void *native)                                                           \
    {                                                                                                               \
        (void)native;                                                                                               \
        encode(&kernel_table, dst, codec, src, dtype, count, threads);                                              \
    }                                                                                                               \
    static void level##_decode(void *dst, zero_dtype_t dtype, const void *src, zero_codec_t codec, int sources,     \
                               int64_t count, int threads, void *native)                                            \
    {                                                                                                               \
        (void)native;                                                                                               \
        decode(&kernel_table, dst, dtype, src, codec, sources, count, threads);                                     \
    }                                                                                                               \
    static void level##_square_sum(double *out, double *scratch, const void *x, zero_dtype_t dtype, int64_t count,  \
                                   int threads, void *native)                                                       \
    {                                                                                                               \
        (void)native;                                                                                               \
        square_sum(&kernel_table, out, scratch, x, dtype, count, threads);                                          \
    }                                                                                                               \
    static void level##_update(const zero_update_t *u, int count, int threads, void *native)                        \
    {                                                                                                               \
        (void)native;                                                                                               \
        update(&kernel_table, u, count, threads);                                                                   \
    }                                                                                                               \
    static const zero_flat_ops_t level##_ops = {.name = #level,                                                     \
                                                .fill_zero = fill_zero,                                             \
                                                .copy = copy,                                                       \
                                                .cast = level##_cast,                                               \
                                                .accumulate = level##_accumulate,                                   \
                                                .sum = level##_sum,                                                 \
                                                .encode = level##_encode,                                           \
                                                .decode = level##_decode,                                           \
                                                .square_sum = level##_square_sum,                                   \
                                                .update = level##_update};

LEVEL(scalar, zero_flat_ref_kernels)
#if defined(__x86_64__)
LEVEL(avx2, zero_flat_avx2_kernels)
LEVEL(avx512, zero_flat_avx512_kernels)

static bool has_avx2(void)
{
    unsigned a, b, c, d;
    /* F16C needs a direct check: some compilers' __builtin_cpu_supports does not recognize it. */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) &&
           (c & bit_F16C);
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

const zero_flat_ops_t *zero_flat_cpu(void)
{
#if defined(__x86_64__)
    if (has_avx512())
        return &avx512_ops;
    if (has_avx2())
        return &avx2_ops;
#endif
    return &scalar_ops;
}

const zero_flat_ops_t *zero_flat_find(const char *name)
{
    if (strcmp(name, "ref") == 0)
        return zero_flat_ref();
    if (strcmp(name, "scalar") == 0)
        return &scalar_ops;
#if defined(__x86_64__)
    if (strcmp(name, "avx2") == 0 && has_avx2())
        return &avx2_ops;
    if (strcmp(name, "avx512") == 0 && has_avx512())
        return &avx512_ops;
#endif
    return NULL;
}
