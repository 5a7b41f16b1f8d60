/* SPDX-License-Identifier: Apache-2.0 */
/* product.cu - see kernels.h. One thread per element of C. For products that cuBLASLt does not accept, or without terms
 * (k = 0). */
#include "kernels/nn/cuda/kernels.h"
#include "kernels/nn/cuda/vector.h"

enum { THREADS = 256 };

/* Element (i, l) of A' is at i * a_row + l * a_column; likewise for B' and C. */
template <typename T, typename R>
static __global__ void __launch_bounds__(THREADS)
    product(R *c, const T *a, const T *b, const T *bias, int64_t m, int64_t n, int64_t k, int64_t a_row,
            int64_t a_column, int64_t b_row, int64_t b_column, int64_t ldc, bool accumulate)
{
    int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x, i = at / n, j = at % n;
    float sum = 0;
    if (i >= m)
        return;
    for (int64_t l = 0; l < k; l++)
        sum = fmaf(zero_widen(a[i * a_row + l * a_column]), zero_widen(b[l * b_row + j * b_column]), sum);
    if (bias != NULL)
        sum += zero_widen(bias[j]);
    if (accumulate)
        sum += zero_widen(c[i * ldc + j]);
    c[i * ldc + j] = zero_narrow<R>(sum);
}

template <typename T, typename R> static cudaError_t launch(const zero_nn_gemm_t *g, cudaStream_t stream)
{
    int64_t blocks = (g->m * g->n + THREADS - 1) / THREADS;
    if (blocks > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    ZERO_LAUNCH((product<T, R>), dim3((unsigned)blocks), dim3(THREADS), 0, stream, (R *)g->c,
                (const T *)(g->k > 0 ? g->a : NULL), (const T *)(g->k > 0 ? g->b : NULL), (const T *)g->bias, g->m,
                g->n, g->k, g->trans_a ? 1 : g->lda, g->trans_a ? g->lda : 1, g->trans_b ? 1 : g->ldb,
                g->trans_b ? g->ldb : 1, g->ldc, g->accumulate);
    return cudaGetLastError();
}

cudaError_t zero_nn_cuda_product(const zero_nn_gemm_t *g, cudaStream_t stream)
{
    cudaError_t status = cudaErrorInvalidValue;
    ZERO_WITH_TYPE(g->dtype, T, status = g->wide ? launch<T, float>(g, stream) : launch<T, T>(g, stream))
    return status;
}
