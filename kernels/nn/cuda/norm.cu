/* SPDX-License-Identifier: Apache-2.0 */
/* norm.cu - see kernels.h. Layer norm. Forward: one warp per row. Backward: the rows are divided into many parts, one
 * block each. */
#include "kernels/nn/cuda/kernels.h"
#include "kernels/nn/cuda/vector.h"

enum { WARPS = 4, PARTS = 1024, LEAST = 4 /* rows in a part */, MOST = 512 /* threads in a block */ };
enum { LONG = 2048 }; /* columns: longer rows have half as many parts, with more threads per block */

template <typename T>
static __global__ void __launch_bounds__(WARPS *ZERO_WARP)
    norm_forward(T *y, float *mean_out, float *rstd_out, const T *x, const T *residual, T *total, const T *w,
                 const T *b, int64_t rows, int64_t C, float eps, bool wide)
{
    const int N = zero_pack<T>::N;
    int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.y;
    int lane = (int)threadIdx.x;
    float v[N], scale[N], shift[N], mean = 0, square = 0;
    if (r >= rows)
        return;
    x += r * C;
    y += r * C;
    if (residual != NULL) { /* a thread reads only what it wrote itself */
        residual += r * C;
        total += r * C;
        for (int64_t c = lane * N; c < C; c += ZERO_WARP * N) {
            zero_load(v, x + c, C - c, wide);
            zero_load(scale, residual + c, C - c, wide);
            for (int i = 0; i < N; i++) {
                v[i] = zero_widen(zero_narrow<T>(v[i] + scale[i]));
                mean += v[i];
            }
            zero_store(total + c, v, C - c, wide);
        }
        x = total;
    } else {
        for (int64_t c = lane * N; c < C; c += ZERO_WARP * N) {
            zero_load(v, x + c, C - c, wide);
            for (int i = 0; i < N; i++)
                mean += v[i];
        }
    }
    mean = zero_lanes_sum(mean, ZERO_WARP) / (float)C;
    for (int64_t c = lane * N; c < C; c += ZERO_WARP * N) {
        zero_load(v, x + c, C - c, wide);
        for (int i = 0; i < N; i++) {
            float off = c + i < C ? v[i] - mean : 0.0f;
            square = fmaf(off, off, square);
        }
    }
    float rstd = 1.0f / sqrtf(zero_lanes_sum(square, ZERO_WARP) / (float)C + eps);
    for (int64_t c = lane * N; c < C; c += ZERO_WARP * N) {
        zero_load(v, x + c, C - c, wide);
        zero_load(scale, w + c, C - c, wide);
        zero_load(shift, b + c, C - c, wide);
        for (int i = 0; i < N; i++)
            v[i] = fmaf((v[i] - mean) * rstd, scale[i], shift[i]);
        zero_store(y + c, v, C - c, wide);
    }
    if (lane == 0 && mean_out != NULL)
        mean_out[r] = mean;
    if (lane == 0 && rstd_out != NULL)
        rstd_out[r] = rstd;
}

/* Whether rows of these operands can be read 16 bytes at a time; NULL can. */
static bool wide_rows(const void *const *p, int count, int64_t C, zero_dtype_t dtype)
{
    uintptr_t bits = (uintptr_t)(C * (int64_t)zero_dtype_size(dtype));
    for (int i = 0; i < count; i++)
        bits |= (uintptr_t)p[i];
    return bits % 16 == 0;
}

template <typename T>
static void launch_forward(const zero_nn_norm_t *l, unsigned blocks, bool wide, cudaStream_t stream)
{
    ZERO_LAUNCH((norm_forward<T>), dim3(blocks), dim3(ZERO_WARP, WARPS), 0, stream, (T *)l->y, l->mean, l->rstd,
                (const T *)l->x, (const T *)l->residual, (T *)l->total, (const T *)l->w, (const T *)l->b, l->rows, l->C,
                (float)l->eps, wide);
}

cudaError_t zero_nn_cuda_norm_forward(const zero_nn_norm_t *l, cudaStream_t stream)
{
    const void *all[] = {l->y, l->x, l->w, l->b, l->residual, l->total};
    int64_t blocks = (l->rows + WARPS - 1) / WARPS;
    bool wide = wide_rows(all, 6, l->C, l->dtype);
    if (blocks > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    if (l->dtype == ZERO_FP32)
        launch_forward<float>(l, (unsigned)blocks, wide, stream);
    else
        launch_forward<zero_bf16_t>(l, (unsigned)blocks, wide, stream);
    return cudaGetLastError();
}

static int64_t rows_of_part(int64_t rows, int64_t C)
{
    const int64_t parts = C > LONG ? PARTS / 2 : PARTS, each = (rows + parts - 1) / parts;
    return each < LEAST ? (int64_t)LEAST : each;
}

int64_t zero_nn_cuda_norm_parts(int64_t rows, int64_t C)
{
    int64_t each = rows_of_part(rows, C);
    return (rows + each - 1) / each;
}

/* Sums over the rows of a part: for dw and db; with biases also for the residual and dx. */
enum { DW = 0, DB, RESIDUAL, DX };

/* With n = (x - mean) rstd and g = dy w: dx = rstd (g - mean(g) - n mean(g n)), + residual; dw = sum of dy n, db = sum
 * of dy. partial (parts, SUMS, C); SUMS is 2, or 4 with biases. A thread keeps the sums of K packs of columns in
 * registers; K = 0: of any number of packs, in partial itself. A row is read twice, the second time from cache. dx may
 * be residual. */
template <typename T, int K, int SUMS>
static __global__ void __launch_bounds__(MOST)
    norm_backward(T *dx, float *partial, const T *residual, const T *dy, const T *x, const T *w, const float *mean,
                  const float *rstd, int64_t rows, int64_t C, int64_t each, bool wide)
{
    const int N = zero_pack<T>::N;
    __shared__ float part_sums[2][2]
                              [MOST / ZERO_WARP]; /* of a row and the next one, so one barrier per row is enough */
    const int lane = (int)threadIdx.x % ZERO_WARP, warp = (int)threadIdx.x / ZERO_WARP,
              warps = (int)blockDim.x / ZERO_WARP;
    const int64_t step = (int64_t)blockDim.x * N, first = (int64_t)threadIdx.x * N,
                  chunks = K > 0 ? K : (C + step - 1) / step;
    const int64_t begin = blockIdx.x * each, end = begin + each < rows ? begin + each : rows;
    float a[N], d[N], scale[N], more[N] = {}, sums[SUMS][K > 0 ? K : 1][N];
    partial += (int64_t)blockIdx.x * SUMS * C;
    ZERO_UNROLL
    for (int64_t k = 0; k < chunks; k++) {
        for (int i = 0; i < N; i++) {
            int64_t c = first + k * step + i;
            for (int s = 0; s < SUMS; s++) {
                if (K > 0)
                    sums[s][k][i] = 0;
                else if (c < C)
                    partial[s * C + c] = 0;
            }
        }
    }
    for (int64_t r = begin; r < end; r++) {
        const T *xr = x + r * C, *dyr = dy + r * C;
        const int side = (int)(r & 1);
        float m = mean[r], s = rstd[r], sum_g = 0, sum_gn = 0;
        ZERO_UNROLL
        for (int64_t k = 0; k < chunks; k++) {
            int64_t c = first + k * step;
            if (c >= C)
                break;
            zero_load(a, xr + c, C - c, wide);
            zero_load(d, dyr + c, C - c, wide);
            zero_load(scale, w + c, C - c, wide);
            for (int i = 0; i < N; i++) { /* dy and w read 0 beyond C */
                float g = d[i] * scale[i];
                sum_g += g;
                sum_gn = fmaf(g, (a[i] - m) * s, sum_gn);
            }
        }
        sum_g = zero_lanes_sum(sum_g, ZERO_WARP);
        sum_gn = zero_lanes_sum(sum_gn, ZERO_WARP);
        if (lane == 0) {
            part_sums[side][0][warp] = sum_g;
            part_sums[side][1][warp] = sum_gn;
        }
        __syncthreads();
        sum_g = sum_gn = 0;
        for (int i = 0; i < warps; i++) {
            sum_g += part_sums[side][0][i];
            sum_gn += part_sums[side][1][i];
        }
        sum_g /= (float)C;
        sum_gn /= (float)C;
        ZERO_UNROLL
        for (int64_t k = 0; k < chunks; k++) {
            int64_t c = first + k * step;
            if (c >= C)
                break;
            zero_load(a, xr + c, C - c, wide);
            zero_load(d, dyr + c, C - c, wide);
            zero_load(scale, w + c, C - c, wide);
            if (residual != NULL)
                zero_load(more, residual + r * C + c, C - c, wide);
            for (int i = 0; i < N; i++) {
                float n = (a[i] - m) * s, out = s * (d[i] * scale[i] - sum_g - n * sum_gn);
                a[i] = residual != NULL ? out + more[i] : out;
                if (K == 0 && c + i >= C)
                    continue;
                auto sum = [&](int which) -> float & { return K > 0 ? sums[which][k][i] : partial[which * C + c + i]; };
                sum(DW) = fmaf(d[i], n, sum(DW));
                sum(DB) += d[i];
                if (SUMS > RESIDUAL) {
                    sum(RESIDUAL) += more[i];
                    sum(DX) += zero_widen(zero_narrow<T>(a[i]));
                }
            }
            zero_store(dx + r * C + c, a, C - c, wide);
        }
    }
    ZERO_UNROLL
    for (int64_t k = 0; k < K; k++) {
        for (int i = 0; i < N; i++) {
            int64_t c = first + k * step + i;
            for (int s = 0; s < SUMS && c < C; s++)
                partial[s * C + c] = sums[s][k][i];
        }
    }
}

template <typename T, int K, int SUMS>
static void launch_backward(const zero_nn_norm_t *l, float *partial, int64_t threads, bool wide, cudaStream_t stream)
{
    ZERO_LAUNCH((norm_backward<T, K, SUMS>), dim3((unsigned)zero_nn_cuda_norm_parts(l->rows, l->C)),
                dim3((unsigned)threads), 0, stream, (T *)l->dx, partial, (const T *)l->dresidual, (const T *)l->dy,
                (const T *)l->x, (const T *)l->w, l->mean, l->rstd, l->rows, l->C, rows_of_part(l->rows, l->C), wide);
}

/* Uses as few packs per thread as a block of MOST threads allows, and at most 64 sums in registers. */
template <typename T, int SUMS>
static void choose_backward(const zero_nn_norm_t *l, float *partial, bool wide, cudaStream_t stream)
{
    const int N = zero_pack<T>::N, FOUR = 4 * N * SUMS <= 64 ? 4 : 0;
    int64_t packs = (l->C + N - 1) / N, threads = (packs + ZERO_WARP - 1) / ZERO_WARP * ZERO_WARP;
    if (threads <= MOST)
        launch_backward<T, 1, SUMS>(l, partial, threads, wide, stream);
    else if (packs <= 2 * MOST)
        launch_backward<T, 2, SUMS>(l, partial, MOST, wide, stream);
    else if (packs <= 4 * MOST)
        launch_backward<T, FOUR, SUMS>(l, partial, MOST, wide, stream);
    else
        launch_backward<T, 0, SUMS>(l, partial, MOST, wide, stream);
}

cudaError_t zero_nn_cuda_norm_backward(const zero_nn_norm_t *l, float *partial, cudaStream_t stream)
{
    const void *all[] = {l->dx, l->dresidual, l->dy, l->x, l->w};
    bool wide = wide_rows(all, 5, l->C, l->dtype);
    const bool biases = l->dbias != NULL || l->dbias_residual != NULL;
    void *const outs[] = {l->dw, l->db, l->dbias_residual, l->dbias}; /* in the order DW, ... */
    if (l->dtype == ZERO_FP32 && biases)
        choose_backward<float, 4>(l, partial, wide, stream);
    else if (l->dtype == ZERO_FP32)
        choose_backward<float, 2>(l, partial, wide, stream);
    else if (biases)
        choose_backward<zero_bf16_t, 4>(l, partial, wide, stream);
    else
        choose_backward<zero_bf16_t, 2>(l, partial, wide, stream);
    cudaError_t status = cudaGetLastError();
    if (status != cudaSuccess)
        return status;
    return zero_nn_cuda_add_parts(outs, biases ? 4 : 2, partial, zero_nn_cuda_norm_parts(l->rows, l->C), l->C, l->dtype,
                                  stream);
}
