/* SPDX-License-Identifier: Apache-2.0 */
/* rotary.cu - see kernels.h. One block per row: its first threads compute the cosines and sines, which all heads of the
 * row share; then each thread rotates packs of points. */
#include "kernels/nn/cuda/kernels.h"
#include "kernels/nn/cuda/vector.h"

enum { MOST = 256 /* threads */, PAIRS = ZERO_NN_ROTARY_MOST / 2 };

struct frequencies {
    float f[PAIRS];
};

/* Of each head, elements i and i + half form a point. A pack is N such points; half of a head has `packs` of them. */
template <typename T>
static __global__ void __launch_bounds__(MOST)
    rotate(T *x, frequencies all, const int32_t *positions, int64_t T_rows, int heads, int D, int half, int64_t ld,
           float scale, bool backward, bool wide)
{
    const int N = zero_pack<T>::N, packs = (half + N - 1) / N;
    __shared__ float cosine[PAIRS], sine[PAIRS];
    const int64_t r = blockIdx.x;
    for (int i = (int)threadIdx.x; i < half; i += (int)blockDim.x) {
        const float position = (float)(positions != NULL ? (int64_t)positions[r] : r % T_rows),
                    angle = position * all.f[i], s = sinf(angle) * scale;
        cosine[i] = cosf(angle) * scale;
        sine[i] = backward ? -s : s;
    }
    __syncthreads();
    x += r * ld;
    for (int k = (int)threadIdx.x; k < heads * packs; k += (int)blockDim.x) {
        const int h = k / packs, i = (k - h * packs) * N;
        T *at = x + (int64_t)h * D + i;
        float a[N], b[N];
        zero_load(a, at, half - i, wide);
        zero_load(b, at + half, half - i, wide);
        for (int j = 0; j < N && i + j < half; j++) {
            const float c = cosine[i + j], s = sine[i + j], before = a[j];
            a[j] = before * c - b[j] * s;
            b[j] = b[j] * c + before * s;
        }
        zero_store(at, a, half - i, wide);
        zero_store(at + half, b, half - i, wide);
    }
}

template <typename T> static cudaError_t launch(const zero_nn_rotary_t *r, cudaStream_t stream)
{
    const int64_t N = zero_pack<T>::N, half = r->R / 2, items = r->heads * ((half + N - 1) / N);
    int64_t threads = (items > half ? items : half) + ZERO_WARP - 1;
    bool wide = ((uintptr_t)r->x | (uintptr_t)((r->ld | r->D | half) * (int64_t)sizeof(T))) % 16 == 0;
    frequencies all = {};
    for (int64_t i = 0; i < half; i++)
        all.f[i] = r->frequencies[i];
    threads = threads / ZERO_WARP * ZERO_WARP;
    threads = threads > MOST ? (int64_t)MOST : threads;
    if (r->rows > INT32_MAX || items > INT32_MAX / 2)
        return cudaErrorInvalidConfiguration;
    ZERO_LAUNCH((rotate<T>), dim3((unsigned)r->rows), dim3((unsigned)threads), 0, stream, (T *)r->x, all, r->positions,
                r->T, (int)r->heads, (int)r->D, (int)half, r->ld, (float)r->scale, r->backward, wide);
    return cudaGetLastError();
}

cudaError_t zero_nn_cuda_rotary(const zero_nn_rotary_t *r, cudaStream_t stream)
{
    cudaError_t status = cudaErrorInvalidValue;
    ZERO_WITH_TYPE(r->dtype, T, status = launch<T>(r, stream))
    return status;
}
