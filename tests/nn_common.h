/* SPDX-License-Identifier: Apache-2.0 */
/* nn_common.h - shared by the tests of kernels/nn: ways to compute, buffers with guards, comparison within bounds. The
 * tests are compiled for the CPU, and with ZERO_TEST_CUDA for CUDA, on the emulator or on a GPU. */
#ifndef ZERO_TESTS_NN_COMMON_H
#define ZERO_TESTS_NN_COMMON_H

#include "kernels/nn/cpu/cpu.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* One rounding: half a unit in the last place of 1. Among fp16's subnormals, half of their spacing (fp32 and bf16: less
 * than matters). */
#define EPS32 0x1p-24
static inline double eps_of(zero_dtype_t dtype)
{
    return dtype == ZERO_BF16 ? 0x1p-8 : dtype == ZERO_FP16 ? 0x1p-11 : EPS32;
}
static inline double tiny_of(zero_dtype_t dtype)
{
    return dtype == ZERO_FP16 ? 0x1p-25 : 0x1p-124;
}

/* Check's assertions write to the parent even if they hold: far too slow for each element. */
#define EXPECT(condition, ...)         \
    do {                               \
        if (!(condition))              \
            ck_abort_msg(__VA_ARGS__); \
    } while (0)

/* ---- contexts, calls, buffers ----------------------------------------------------------------------------------- */

/* A way to compute: instruction set (NULL: the processor's best), threads, and whether oneDNN may be used. */
typedef struct way {
    const char *name;
    const zero_nn_simd_t *simd;
    int threads;
    bool onednn, cuda; /* cuda: threads is the level */
} way_t;

/* CUDA (nn_cuda.c). Whether its plugins exist, real or emulated. A context whose calls take operands in host memory;
 * the level determines their alignment in device memory. The error allowed for softmax(...) v, relative to the largest
 * v: cuDNN rounds the softmax to 16 bits. */
#define NN_CUDA_LEVELS 3
bool nn_cuda_there(void);
zero_nn_t *nn_cuda_context(int level);
double nn_cuda_softmax_error(zero_dtype_t dtype);
bool nn_cuda_emulated(void); /* the tests then use small sizes */

#if defined(ZERO_TEST_CUDA)
#define SKIP_WITHOUT_CUDA()   \
    do {                      \
        if (!nn_cuda_there()) \
            return 77;        \
    } while (0)
static const way_t WAYS[] = {
    {"cuda", NULL, 0, false, true},
    {"cuda, odd addresses", NULL, 1, false, true},
    {"cuda, threads", NULL, 2, false, true},
};
#define softmax_error nn_cuda_softmax_error
#else
#define SKIP_WITHOUT_CUDA() (void)0
#define softmax_error(dtype) 0.0
static const way_t WAYS[] = {
    {"1 thread", NULL, 1, true, false},
    {"2 threads", NULL, 2, true, false},
    {"3 threads", NULL, 3, true, false},
    {"own gemm", NULL, 1, false, false},
    {"own gemm, 3 threads", NULL, 3, false, false},
    {"base", &zero_nn_simd_base, 2, false, false},
#if defined(__x86_64__)
    {"avx2", &zero_nn_simd_avx2, 2, false, false},
    {"avx512", &zero_nn_simd_avx512, 2, false, false},
#endif
};
#endif
#define WAY_COUNT ((int)(sizeof WAYS / sizeof WAYS[0]))

static inline bool way_runs(const way_t *way)
{
#if defined(__x86_64__)
    const zero_nn_simd_t *best = zero_nn_simd_best();
    if (way->simd == &zero_nn_simd_avx512)
        return best == &zero_nn_simd_avx512;
    if (way->simd == &zero_nn_simd_avx2)
        return best != &zero_nn_simd_base;
#endif
    return way->simd == NULL || way->simd == &zero_nn_simd_base;
}

static inline zero_nn_t *context(const way_t *way)
{
    zero_nn_t *nn = NULL;
    zero_error_t error;
#if defined(ZERO_TEST_CUDA)
    if (way != NULL)
        return nn_cuda_context(way->threads);
#endif
    ck_assert_int_eq(zero_nn_create(&nn, way == NULL ? "ref" : "cpu", way == NULL ? 1 : way->threads, NULL, &error),
                     ZERO_OK);
    if (way != NULL) {
        zero_nn_cpu_t *cpu = nn->state;
        if (way->simd != NULL)
            cpu->simd = way->simd;
        if (!way->onednn) {
            zero_nn_onednn_close(cpu->onednn);
            cpu->onednn = NULL;
        }
    }
    return nn;
}

typedef void (*call_fn)(zero_nn_t *nn, void *arg);

/* Makes the call as a dry run and then for real, in a workspace of exactly the requested bytes, filled with NaN, with a
 * guard after it. */
static inline void run(const way_t *way, call_fn call, void *arg)
{
    zero_nn_t *nn = context(way);
    zero_error_t error = {.status = ZERO_OK};
    zero_nn_set_dry(nn, true);
    call(nn, arg);
    zero_nn_set_dry(nn, false);
    uint64_t bytes = zero_nn_workspace_bytes(nn);
    unsigned char *workspace = aligned_alloc(ZERO_NN_ALIGN, (bytes / ZERO_NN_ALIGN + 2) * ZERO_NN_ALIGN);
    memset(workspace, 0xff, bytes);
    memset(workspace + bytes, 0xa5, 64);
    zero_nn_set_workspace(nn, bytes == 0 ? NULL : workspace, bytes);
    call(nn, arg);
    EXPECT(zero_nn_status(nn, &error) == ZERO_OK, "%s: %s", way == NULL ? "ref" : way->name, error.text);
    for (int i = 0; i < 64; i++)
        EXPECT(workspace[bytes + (unsigned)i] == 0xa5, "written behind the workspace");
    free(workspace);
    zero_nn_destroy(nn);
}

static inline void call_gemm(zero_nn_t *nn, void *arg)
{
    zero_nn_gemm(nn, arg);
}

/* A buffer of any dtype with a guard after it; its values also exist as double. */
typedef struct buf {
    zero_dtype_t dtype;
    int64_t count;
    unsigned char *data;
} buf_t;

static inline buf_t buf_new(zero_dtype_t dtype, int64_t count)
{
    buf_t b = {.dtype = dtype, .count = count};
    size_t bytes = (size_t)count * zero_dtype_size(dtype);
    b.data = aligned_alloc(64, (bytes + 127) / 64 * 64);
    memset(b.data, 0, bytes);
    memset(b.data + bytes, 0x5a, 32);
    return b;
}

static inline double buf_at(const buf_t *b, int64_t i)
{
    return zero_element(b->data, i, b->dtype);
}

static uint64_t seed_state;

/* Uniform in [-1, 1). */
static inline double uniform(void)
{
    seed_state++;
    return (double)(zero_splitmix64(seed_state) >> 11) * 0x1p-52 - 1.0;
}

static inline buf_t buf_random(zero_dtype_t dtype, int64_t count, double scale)
{
    buf_t b = buf_new(dtype, count);
    for (int64_t i = 0; i < count; i++)
        zero_element_set(b.data, i, dtype, (float)(scale * uniform()));
    return b;
}

static inline buf_t buf_copy(const buf_t *from)
{
    buf_t b = buf_new(from->dtype, from->count);
    memcpy(b.data, from->data, (size_t)b.count * zero_dtype_size(b.dtype));
    return b;
}

static inline void buf_free(buf_t *b)
{
    size_t bytes = (size_t)b->count * zero_dtype_size(b->dtype);
    for (int i = 0; i < 32; i++)
        EXPECT(b->data[bytes + (unsigned)i] == 0x5a, "written behind a buffer");
    free(b->data);
}

/* |got - want| <= bound[i] + one rounding to the dtype on each side. bound NULL: slack, the same for all. */
static inline void close_to(const char *what, const way_t *way, const buf_t *got, const buf_t *want,
                            const double *bound, double slack)
{
    double rounding = 2 * eps_of(want->dtype), tiny = 2 * tiny_of(want->dtype);
    for (int64_t i = 0; i < want->count; i++) {
        double g = buf_at(got, i), w = buf_at(want, i),
               allowed = (bound == NULL ? slack : bound[i]) + rounding * fabs(w) + tiny;
        EXPECT(fabs(g - w) <= allowed, "%s, %s, %s: element %lld is %.9g, ref %.9g, off by %.3g, allowed %.3g", what,
               way->name, zero_dtype_name(want->dtype), (long long)i, g, w, fabs(g - w), allowed);
    }
}

/* |got - want| <= part * |want| + floor * sqrt(count), in norms. For gradients whose elements are sums of rounded
 * terms, so that single elements may have large errors. floor is for a want that is zero except for rounding. */
static inline void close_in_norm(const char *what, const way_t *way, const buf_t *got, const buf_t *want, double part,
                                 double floor)
{
    double error = 0, norm = 0;
    for (int64_t i = 0; i < want->count; i++) {
        double w = buf_at(want, i), e = buf_at(got, i) - w;
        error += e * e;
        norm += w * w;
    }
    double allowed = part * sqrt(norm) + floor * sqrt((double)want->count);
    EXPECT(sqrt(error) <= allowed, "%s, %s, %s: off by %.3g in norm, allowed %.3g; ref's norm is %.9g", what, way->name,
           zero_dtype_name(want->dtype), sqrt(error), allowed, sqrt(norm));
}

static inline void same_bits(const char *what, const buf_t *a, const buf_t *b)
{
    EXPECT(memcmp(a->data, b->data, (size_t)a->count * zero_dtype_size(a->dtype)) == 0, "%s: other bits", what);
}

static const zero_dtype_t DTYPES[] = {ZERO_FP32, ZERO_BF16, ZERO_FP16};
enum { DTYPE_COUNT = sizeof DTYPES / sizeof DTYPES[0] };

#endif
