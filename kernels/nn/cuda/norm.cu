/* SPDX-License-Identifier: Apache-2.0 */
/* norm.cu - see kernels.h. Layer norm and RMS norm. "Row" means one vector of C elements here. Forward: one warp per
 * row. Backward: the rows are divided into many parts, one block each. */
#include "kernels/nn/cuda/kernels.h"
#include "kernels/nn/cuda/vector.h"

enum { WARPS = 4, PARTS = 1024, LEAST = 4 /* rows in a part */, MOST = 512 /* threads in a block */ };
enum { LONG = 2048 };     /* columns: longer rows have half as many parts, with more threads per block */
enum { GROUP_PARTS = 4 }; /* rows of several vectors have short ones, and so more parts, with fewer threads per block */

/* Where the rows of an operand lie (zero_nn_norm_at). */
struct places {
    int64_t groups, ld;
};

static __device__ __forceinline__ int64_t place(const places &p, int64_t r, int64_t C)
{
    return p.groups == 1 ? r * p.ld : r / p.groups * p.ld + r % p.groups * C;
}

template <typename T, bool RMS>
static __global__ void __launch_bounds__(WARPS *ZERO_WARP)
    norm_forward(T *y, float *mean_out, float *rstd_out, const T *x, const T *residual, T *total, const T *w,
                 const T *b, places in, places out, int64_t rows, int64_t C, float eps, bool wide)
{
    const int N = zero_pack<T>::N;
    int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.y;
    int lane = (int)threadIdx.x;
    float v[N], scale[N], shift[N], mean = 0, square = 0;
    if (r >= rows)
        return;
    const int64_t from = place(in, r, C);
    x += from;
    y += place(out, r, C);
    if (residual != NULL) { /* a thread reads only what it wrote itself */
        residual += from;
        total += from;
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
    } else if (!RMS) {
        for (int64_t c = lane * N; c < C; c += ZERO_WARP * N) {
            zero_load(v, x + c, C - c, wide);
            for (int i = 0; i < N; i++)
                mean += v[i];
        }
    }
    mean = RMS ? 0.0f : zero_lanes_sum(mean, ZERO_WARP) / (float)C;
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
        if (!RMS)
            zero_load(shift, b + c, C - c, wide);
        for (int i = 0; i < N; i++)
            v[i] = RMS ? zero_widen(zero_narrow<T>(v[i] * rstd)) * scale[i]
                       : fmaf((v[i] - mean) * rstd, scale[i], shift[i]);
        zero_store(y + c, v, C - c, wide);
    }
    if (lane == 0 && mean_out != NULL && !RMS)
        mean_out[r] = mean;
    if (lane == 0 && rstd_out != NULL)
        rstd_out[r] = rstd;
}

/* Whether rows of these operands can be read 16 bytes at a time; NULL can. */
static bool wide_rows(const void *const *p, int count, const zero_nn_norm_t *l)
{
    uintptr_t bits = (uintptr_t)((l->C | l->ldx | l->ldy) * (int64_t)zero_dtype_size(l->dtype));
    for (int i = 0; i < count; i++)
        bits |= (uintptr_t)p[i];
    return bits % 16 == 0;
}

template <typename T, bool RMS>
static void launch_forward(const zero_nn_norm_t *l, unsigned blocks, bool wide, cudaStream_t stream)
{
    const places in = {l->groups, l->ldx}, out = {l->groups, l->ldy};
    ZERO_LAUNCH((norm_forward<T, RMS>), dim3(blocks), dim3(ZERO_WARP, WARPS), 0, stream, (T *)l->y, l->mean, l->rstd,
                (const T *)l->x, (const T *)l->residual, (T *)l->total, (const T *)l->w, (const T *)l->b, in, out,
                l->rows * l->groups, l->C, (float)l->eps, wide);
}

cudaError_t zero_nn_cuda_norm_forward(const zero_nn_norm_t *l, cudaStream_t stream)
{
    const void *all[] = {l->y, l->x, l->w, l->rms ? NULL : l->b, l->residual, l->total};
    int64_t blocks = (l->rows * l->groups + WARPS - 1) / WARPS;
    bool wide = wide_rows(all, 6, l);
    if (blocks > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    if (l->rms)
        ZERO_WITH_TYPE(l->dtype, T, launch_forward<T, true>(l, (unsigned)blocks, wide, stream))
    else
        ZERO_WITH_TYPE(l->dtype, T, launch_forward<T, false>(l, (unsigned)blocks, wide, stream))
    return cudaGetLastError();
}

static int64_t rows_of_part(int64_t rows, int64_t C, int64_t groups)
{
    const int64_t parts = C > LONG ? PARTS / 2 : groups > 1 ? PARTS * GROUP_PARTS : PARTS;
    const int64_t each = (rows * (groups > 1 ? groups : 1) + parts - 1) / parts;
    return each < LEAST ? (int64_t)LEAST : each;
}

int64_t zero_nn_cuda_norm_parts(int64_t rows, int64_t C, int64_t groups)
{
    int64_t each = rows_of_part(rows, C, groups);
    return (rows * (groups > 1 ? groups : 1) + each - 1) / each;
}

/* Sums over the rows of a part: for dw, and for layer norm db; with biases also for the residual and dx. */
enum { DW = 0, DB, RESIDUAL, DX };

/* The operands of a block, and what one thread computes of them: K packs of columns, with their sums over the rows of
 * the part in registers. K = 0: any number of packs, with the sums in partial. */
template <typename T, int K, int SUMS> struct norm_thread {
    T *dx;
    float *partial; /* (SUMS, C) */
    const T *residual, *dy, *x, *w;
    places at_x, at_y;
    int64_t C, first, step; /* pack k begins at column first + k * step */
    bool wide;
    float sums[SUMS][K > 0 ? K : 1][zero_pack<T>::N];
};

/* The number of a thread's packs: a constant if K is one, so that loops over packs are unrolled. */
template <typename T, int K, int SUMS>
static __device__ __forceinline__ int64_t packs_of(const norm_thread<T, K, SUMS> &t)
{
    return K > 0 ? K : (t.C + t.step - 1) / t.step;
}

template <typename T, int K, int SUMS> static __device__ __forceinline__ void clear_sums(norm_thread<T, K, SUMS> &t)
{
    const int64_t packs = packs_of(t);
    ZERO_UNROLL
    for (int64_t k = 0; k < packs; k++) {
        for (int i = 0; i < zero_pack<T>::N; i++) {
            int64_t c = t.first + k * t.step + i;
            for (int s = 0; s < SUMS; s++) {
                if (K > 0)
                    t.sums[s][k][i] = 0;
                else if (c < t.C)
                    t.partial[s * t.C + c] = 0;
            }
        }
    }
}

/* Adds g and g n over the thread's columns of row r, whose mean is m and whose rstd is s. */
template <typename T, int K, int SUMS>
static __device__ __forceinline__ void sum_row(const norm_thread<T, K, SUMS> &t, int64_t r, float m, float s,
                                               float &sum_g, float &sum_gn)
{
    const int N = zero_pack<T>::N;
    const T *xr = t.x + place(t.at_x, r, t.C), *dyr = t.dy + place(t.at_y, r, t.C);
    const int64_t packs = packs_of(t);
    float a[N], d[N], scale[N];
    ZERO_UNROLL
    for (int64_t k = 0; k < packs; k++) {
        int64_t c = t.first + k * t.step;
        if (c >= t.C)
            break;
        zero_load(a, xr + c, t.C - c, t.wide);
        zero_load(d, dyr + c, t.C - c, t.wide);
        zero_load(scale, t.w + c, t.C - c, t.wide);
        for (int i = 0; i < N; i++) { /* dy and w read 0 beyond C */
            float g = d[i] * scale[i];
            sum_g += g;
            sum_gn = fmaf(g, (a[i] - m) * s, sum_gn);
        }
    }
}

/* Replaces the sums of each thread by the sums of the block. warp_sums: shared, of this row alone. */
static __device__ __forceinline__ void sum_block(float (*warp_sums)[MOST / ZERO_WARP], float &sum_g, float &sum_gn)
{
    const int lane = (int)threadIdx.x % ZERO_WARP, warp = (int)threadIdx.x / ZERO_WARP,
              warps = (int)blockDim.x / ZERO_WARP;
    sum_g = zero_lanes_sum(sum_g, ZERO_WARP);
    sum_gn = zero_lanes_sum(sum_gn, ZERO_WARP);
    if (lane == 0) {
        warp_sums[0][warp] = sum_g;
        warp_sums[1][warp] = sum_gn;
    }
    __syncthreads();
    sum_g = sum_gn = 0;
    for (int i = 0; i < warps; i++) {
        sum_g += warp_sums[0][i];
        sum_gn += warp_sums[1][i];
    }
}

/* Adds a row's values of the i-th column of pack k to the sums of the part. */
template <typename T, int K, int SUMS>
static __device__ __forceinline__ void add_to_sums(norm_thread<T, K, SUMS> &t, int64_t k, int i, const float *values)
{
    int64_t c = t.first + k * t.step + i;
    if (K == 0 && c >= t.C)
        return;
    auto sum = [&](int which) -> float & { return K > 0 ? t.sums[which][k][i] : t.partial[which * t.C + c]; };
    sum(DW) = fmaf(values[DB], values[DW], sum(DW));
    if (SUMS > DB)
        sum(DB) += values[DB];
    if (SUMS > RESIDUAL) {
        sum(RESIDUAL) += values[RESIDUAL];
        sum(DX) += zero_widen(zero_narrow<T>(values[DX]));
    }
}

/* Computes the thread's columns of row r of dx, and adds the row to the sums. */
template <typename T, int K, int SUMS>
static __device__ __forceinline__ void finish_row(norm_thread<T, K, SUMS> &t, int64_t r, float m, float s, float mean_g,
                                                  float mean_gn)
{
    const int N = zero_pack<T>::N;
    const int64_t row = place(t.at_x, r, t.C), dy_row = place(t.at_y, r, t.C), packs = packs_of(t);
    float a[N], d[N], scale[N], more[N] = {};
    ZERO_UNROLL
    for (int64_t k = 0; k < packs; k++) {
        int64_t c = t.first + k * t.step;
        if (c >= t.C)
            break;
        zero_load(a, t.x + row + c, t.C - c, t.wide);
        zero_load(d, t.dy + dy_row + c, t.C - c, t.wide);
        zero_load(scale, t.w + c, t.C - c, t.wide);
        if (t.residual != NULL)
            zero_load(more, t.residual + row + c, t.C - c, t.wide);
        for (int i = 0; i < N; i++) {
            float n = (a[i] - m) * s, out = s * (d[i] * scale[i] - mean_g - n * mean_gn);
            a[i] = t.residual != NULL ? out + more[i] : out;
            const float values[] = {n, d[i], more[i], a[i]}; /* in the order DW, ... */
            add_to_sums(t, k, i, values);
        }
        zero_store(t.dx + row + c, a, t.C - c, t.wide);
    }
}

template <typename T, int K, int SUMS>
static __device__ __forceinline__ void store_sums(const norm_thread<T, K, SUMS> &t)
{
    ZERO_UNROLL
    for (int64_t k = 0; k < K; k++) {
        for (int i = 0; i < zero_pack<T>::N; i++) {
            int64_t c = t.first + k * t.step + i;
            for (int s = 0; s < SUMS && c < t.C; s++)
                t.partial[s * t.C + c] = t.sums[s][k][i];
        }
    }
}

/* With n = (x - mean) rstd and g = dy w: dx = rstd (g - mean(g) - n mean(g n)), + residual; dw = sum of dy n, db = sum
 * of dy. RMS norm has no mean, and mean(g) is 0. partial (parts, SUMS, C); SUMS is 1 for RMS norm, 2 for layer norm, 4
 * with biases. A row is read twice, the second time from cache. dx may be residual or dy. */
template <typename T, int K, int SUMS>
static __global__ void __launch_bounds__(MOST)
    norm_backward(T *dx, float *partial, const T *residual, const T *dy, const T *x, const T *w, const float *mean,
                  const float *rstd, places at_x, places at_y, int64_t rows, int64_t C, int64_t each, bool wide)
{
    __shared__ float warp_sums[2][2]
                              [MOST / ZERO_WARP]; /* of a row and the next one, so one barrier per row is enough */
    const int64_t begin = blockIdx.x * each, end = begin + each < rows ? begin + each : rows;
    norm_thread<T, K, SUMS> t;
    t.dx = dx;
    t.partial = partial + (int64_t)blockIdx.x * SUMS * C;
    t.residual = residual;
    t.dy = dy;
    t.x = x;
    t.w = w;
    t.at_x = at_x;
    t.at_y = at_y;
    t.C = C;
    t.first = (int64_t)threadIdx.x * zero_pack<T>::N;
    t.step = (int64_t)blockDim.x * zero_pack<T>::N;
    t.wide = wide;
    clear_sums(t);
    for (int64_t r = begin; r < end; r++) {
        const bool rms = mean == NULL;
        float m = rms ? 0.0f : mean[r], s = rstd[r], sum_g = 0, sum_gn = 0;
        sum_row(t, r, m, s, sum_g, sum_gn);
        sum_block(warp_sums[r & 1], sum_g, sum_gn);
        finish_row(t, r, m, s, rms ? 0.0f : sum_g / (float)C, sum_gn / (float)C);
    }
    store_sums(t);
}

template <typename T, int K, int SUMS>
static void launch_backward(const zero_nn_norm_t *l, float *partial, int64_t threads, bool wide, cudaStream_t stream)
{
    const places at_x = {l->groups, l->ldx}, at_y = {l->groups, l->ldy};
    ZERO_LAUNCH((norm_backward<T, K, SUMS>), dim3((unsigned)zero_nn_cuda_norm_parts(l->rows, l->C, l->groups)),
                dim3((unsigned)threads), 0, stream, (T *)l->dx, partial, (const T *)l->dresidual, (const T *)l->dy,
                (const T *)l->x, (const T *)l->w, l->rms ? NULL : l->mean, l->rstd, at_x, at_y, l->rows * l->groups,
                l->C, rows_of_part(l->rows, l->C, l->groups), wide);
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
    bool wide = wide_rows(all, 5, l);
    const bool biases = l->dbias != NULL || l->dbias_residual != NULL;
    void *const outs[] = {l->dw, l->rms ? NULL : l->db, l->dbias_residual, l->dbias}; /* in the order DW, ... */
    const int sums = biases ? 4 : l->rms ? 1 : 2;
    if (sums == 4)
        ZERO_WITH_TYPE(l->dtype, T, choose_backward<T, 4>(l, partial, wide, stream))
    else if (sums == 2)
        ZERO_WITH_TYPE(l->dtype, T, choose_backward<T, 2>(l, partial, wide, stream))
    else
        ZERO_WITH_TYPE(l->dtype, T, choose_backward<T, 1>(l, partial, wide, stream))
    cudaError_t status = cudaGetLastError();
    if (status != cudaSuccess || (outs[0] == NULL && outs[1] == NULL && !biases))
        return status;
    return zero_nn_cuda_add_parts(outs, sums, partial, zero_nn_cuda_norm_parts(l->rows, l->C, l->groups), l->C,
                                  l->dtype, stream);
}
