/* SPDX-License-Identifier: Apache-2.0 */
/* update.cu - the optimizers for NVIDIA GPUs: flat.h's definitions, with the bits of ref/update.c. */
extern "C" {
#include "kernels/flat/kernels.h"
}
#include "kernels/flat/cuda/each.h"

/* Updates an element p and its state from the gradient g. Each operation rounds once. first: state[0] exists. */
template <int RULE>
__device__ __forceinline__ float step(const zero_rule_scalars_t &c, bool first, float p, float g, float *m, float *v)
{
    if (RULE == ZERO_RULE_SGD) {
        g = fmaf(c.l2, p, g);
        *m = first ? c.beta1 * *m + g : g;
        return fmaf(-c.step_size, *m, p);
    }
    if (RULE == ZERO_RULE_LION) {
        float update = fmaf(c.beta1, *m, c.one_minus_beta1 * g);
        *m = fmaf(c.beta2, *m, c.one_minus_beta2 * g);
        return p * c.decay_factor - (update > 0 ? c.step_size : update < 0 ? -c.step_size : 0.0f);
    }
    if (RULE == ZERO_RULE_MUON) {
        if (!first)
            return fmaf(-c.step_size, g, p * c.decay_factor);
        *m = fmaf(c.beta1, *m, c.one_minus_beta1 * g);
        return fmaf(c.beta1, *m, c.one_minus_beta1 * g);
    }
    static_assert(RULE == ZERO_RULE_MUON || RULE == ZERO_RULE_SGD || RULE == ZERO_RULE_LION || RULE == ZERO_RULE_ADAM ||
                      RULE == ZERO_RULE_ADAMW,
                  "a rule without its update");
    if (RULE == ZERO_RULE_ADAM)
        g = fmaf(c.l2, p, g);
    else
        p = p * c.decay_factor;
    *m = fmaf(c.beta1, *m, c.one_minus_beta1 * g);
    *v = fmaf(c.beta2, *v, (c.one_minus_beta2 * g) * g);
    return fmaf(-c.step_size, *m / fmaf(sqrtf(*v), c.inv_sqrt_bc2, c.eps), p);
}

/* ---- the table of a launch -------------------------------------------------------------------------------------- */

/* One update of a launch. It has the blocks from first_block to the next update's first_block. */
struct job {
    float *master;
    void *state[2];
    const void *grad;
    void *param; /* NULL: no rounded parameters */
    int64_t count;
    zero_rule_scalars_t scalars;
    unsigned first_block;
    bool wide; /* packs of 4 fit all buffers that are accessed in packs */
};

/* Passed by value: a kernel's arguments are at most 4 KiB. */
enum { JOBS = 40 };
struct jobs {
    int count;
    zero_dtype_t param_dtype;
    job of[JOBS];
};
static_assert(sizeof(jobs) <= 4000, "the table of a launch is a kernel's argument");

/* The job of this block: the last one that starts at or before it. */
__device__ __forceinline__ const job &job_of_block(const jobs &all)
{
    int low = 0, high = all.count;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (all.of[middle].first_block <= blockIdx.x)
            low = middle;
        else
            high = middle;
    }
    return all.of[low];
}

/* The destination of the rounded parameters; NULL: none. Its dtype is not a template argument: all threads take the
 * same branch, which costs nothing here. */
struct output {
    void *p;
    zero_dtype_t dtype;

    template <int N> __device__ __forceinline__ void store(const zero_pack<float, N> &x, int64_t i) const
    {
        if (!p)
            return;
        if (dtype == ZERO_FP32)
            ::store<N>((float *)p + i, x);
        else if (dtype == ZERO_BF16)
            narrow<N>((zero_bf16_t *)p + i, x);
        else
            narrow<N>((zero_fp16_t *)p + i, x);
    }
    template <int N, typename P> __device__ __forceinline__ void narrow(P *to, const zero_pack<float, N> &x) const
    {
        zero_pack<P, N> y;
        ZERO_UNROLL
        for (int e = 0; e < N; e++)
            y.e[e] = zero_narrow<P>(x.e[e]);
        ::store<N>(to, y);
    }
    __device__ __forceinline__ void single(float x, int64_t i) const
    {
        if (!p)
            return;
        if (dtype == ZERO_FP32)
            ((float *)p)[i] = x;
        else if (dtype == ZERO_BF16)
            ((zero_bf16_t *)p)[i] = zero_narrow<zero_bf16_t>(x);
        else
            ((zero_fp16_t *)p)[i] = zero_narrow<zero_fp16_t>(x);
    }
};

/* ---- state in fp32 ---------------------------------------------------------------------------------------------- */

template <int RULE, typename G> struct update_op {
    enum { N = 4, UNROLL = 2 };
    static constexpr bool SECOND = RULE == ZERO_RULE_ADAMW || RULE == ZERO_RULE_ADAM; /* has a state[1] */
    struct in {
        zero_pack<float, N> p, m, v;
        zero_pack<G, N> g;
    };
    float *master, *m, *v;
    const G *grad;
    output out;
    const zero_rule_scalars_t &c;

    __device__ __forceinline__ void load(in *x, int64_t i) const
    {
        x->p = ::load<N>((const float *)master + i);
        if (m)
            x->m = ::load<N>((const float *)m + i);
        if (SECOND)
            x->v = ::load<N>((const float *)v + i);
        x->g = ::load<N>(grad + i);
    }
    __device__ __forceinline__ void store(const in &x, int64_t i) const
    {
        in y = x;
        ZERO_UNROLL
        for (int e = 0; e < N; e++)
            y.p.e[e] = step<RULE>(c, m != NULL, y.p.e[e], zero_widen(y.g.e[e]) * c.grad_factor, &y.m.e[e], &y.v.e[e]);
        ::store<N>(master + i, y.p);
        if (m)
            ::store<N>(m + i, y.m);
        if (SECOND)
            ::store<N>(v + i, y.v);
        out.store<N>(y.p, i);
    }
    __device__ __forceinline__ void single(int64_t i) const
    {
        float m1 = m ? m[i] : 0, v1 = SECOND ? v[i] : 0,
              p = step<RULE>(c, m != NULL, master[i], zero_widen(grad[i]) * c.grad_factor, &m1, &v1);
        master[i] = p;
        if (m)
            m[i] = m1;
        if (SECOND)
            v[i] = v1;
        out.single(p, i);
    }
};

/* state[0] may be NULL (SGD without momentum). Only rules with a second state have state[1]. */
template <int RULE, typename G>
__global__ void __launch_bounds__(THREADS) update_kernel(const __grid_constant__ jobs all)
{
    const job &j = job_of_block(all);
    const update_op<RULE, G> op = {j.master,          (float *)j.state[0],        (float *)j.state[1],
                                   (const G *)j.grad, {j.param, all.param_dtype}, j.scalars};
    each(op, blockIdx.x - j.first_block, j.count, j.wide);
}

/* ---- state in 8 bits -------------------------------------------------------------------------------------------- */

/* The magnitude of code k before scaling; and the code k of |x| * inv, between least and most. */
__device__ __forceinline__ float magnitude(uint32_t k, int bias)
{
    return k == 0 ? 0 : __uint_as_float((k + (uint32_t)bias) << 20);
}

__device__ __forceinline__ uint32_t code(float x, float inv, int bias, int least, int most)
{
    int k = (int)((__float_as_uint(fabsf(x * inv)) + (1u << 19)) >> 20) - bias;
    return (uint32_t)(k < least ? least : k > most ? most : k);
}

/* The bits of the largest |x| in a warp. */
__device__ __forceinline__ uint32_t largest(uint32_t x)
{
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        uint32_t other = __shfl_xor_sync(ZERO_FULL_WARP, x, lanes);
        x = other > x ? other : x;
    }
    return x;
}

/* A warp handles a block, and a lane handles LANE neighbours: one word of codes. */
enum { LANE = ZERO_BLOCK8 / 32, BLOCKS = THREADS / 32 };

template <typename G> __global__ void __launch_bounds__(THREADS) update8_kernel(const __grid_constant__ jobs all)
{
    const job &j = job_of_block(all);
    const zero_rule_scalars_t &scalars = j.scalars;
    const int64_t block = (int64_t)(blockIdx.x - j.first_block) * BLOCKS + threadIdx.x / 32, count = j.count;
    const int lane = threadIdx.x % 32;
    const int64_t i = block * ZERO_BLOCK8 + lane * LANE;
    if (block * ZERO_BLOCK8 >= count) /* the same for all lanes of a warp */
        return;
    const int have = i + LANE <= count ? LANE : i < count ? (int)(count - i) : 0;
    const bool packed = j.wide && have == LANE;
    const output out = {j.param, all.param_dtype};
    float *const master = j.master;
    const G *const grad = (const G *)j.grad;
    zero_block8_t *const mb = (zero_block8_t *)j.state[0] + block, *const vb = (zero_block8_t *)j.state[1] + block;
    /* The codes of a block start at a multiple of 4 bytes. */
    uint32_t *const mw = (uint32_t *)mb->code + lane, *const vw = (uint32_t *)vb->code + lane;
    uint32_t m_code = *mw, v_code = *vw, m_max = 0, v_max = 0;
    const float m_scale = mb->scale, v_scale = vb->scale;
    zero_pack<float, LANE> p = {};
    zero_pack<G, LANE> g = {};
    float m1[LANE], v1[LANE];
    if (packed) {
        p = load<LANE>((const float *)master + i);
        g = load<LANE>(grad + i);
    } else {
        ZERO_UNROLL
        for (int e = 0; e < LANE; e++)
            if (e < have) {
                p.e[e] = master[i + e];
                g.e[e] = grad[i + e];
            }
    }
    ZERO_UNROLL
    for (int e = 0; e < LANE; e++) {
        const uint32_t km = m_code >> 8 * e & 0xff, kv = v_code >> 8 * e & 0xff;
        m1[e] = (km & 0x80 ? -1.0f : 1.0f) * magnitude(km & 0x7f, ZERO_BLOCK8_M) * m_scale;
        v1[e] = magnitude(kv, ZERO_BLOCK8_V) * v_scale;
        p.e[e] = step<ZERO_RULE_ADAMW>(scalars, true, p.e[e], zero_widen(g.e[e]) * scalars.grad_factor, &m1[e], &v1[e]);
        const uint32_t mu = e < have ? __float_as_uint(fabsf(m1[e])) : 0,
                       vu = e < have ? __float_as_uint(fabsf(v1[e])) : 0;
        m_max = mu > m_max ? mu : m_max;
        v_max = vu > v_max ? vu : v_max;
    }
    if (packed) {
        store<LANE>(master + i, p);
        out.store<LANE>(p, i);
    } else {
        ZERO_UNROLL
        for (int e = 0; e < LANE; e++)
            if (e < have) {
                master[i + e] = p.e[e];
                out.single(p.e[e], i + e);
            }
    }
    const float m_new = __uint_as_float(largest(m_max)), v_new = __uint_as_float(largest(v_max));
    const float m_inv = m_new < 0x1p-126f ? 0.0f : 1.0f / m_new, v_inv = v_new < 0x1p-126f ? 0.0f : 1.0f / v_new;
    uint32_t m_out = 0, v_out = 0, absent = 0;
    ZERO_UNROLL
    for (int e = 0; e < LANE; e++) {
        m_out |= (code(m1[e], m_inv, ZERO_BLOCK8_M, 0, 127) | (__float_as_uint(m1[e]) >> 24 & 0x80)) << 8 * e;
        v_out |= code(v1[e], v_inv, ZERO_BLOCK8_V, v1[e] > 0, 255) << 8 * e;
        absent |= e < have ? 0 : 0xffu << 8 * e;
    }
    *mw = (m_code & absent) | (m_out & ~absent);
    *vw = (v_code & absent) | (v_out & ~absent);
    if (lane == 0) { /* every lane has read them: the shuffles waited for that */
        mb->scale = m_new;
        vb->scale = v_new;
    }
}

/* ---- flat.h ----------------------------------------------------------------------------------------------------- */

/* The kernel of a rule with gradients of type G: its elements per block, and the launch of a table. */
template <int RULE, typename G> struct rule_kernel {
    typedef update_op<RULE, G> op;
    static constexpr int64_t TILE = (int64_t)THREADS * op::UNROLL * op::N;
    static void launch(const jobs &all, unsigned blocks, cudaStream_t stream)
    {
        ZERO_LAUNCH((update_kernel<RULE, G>), blocks, THREADS, 0, stream, all);
    }
};
template <typename G> struct rule_kernel<ZERO_RULE_ADAMW8, G> {
    static constexpr int64_t TILE = (int64_t)ZERO_BLOCK8 * BLOCKS;
    static void launch(const jobs &all, unsigned blocks, cudaStream_t stream)
    {
        ZERO_LAUNCH(update8_kernel<G>, blocks, THREADS, 0, stream, all);
    }
};

static job job_for(const zero_update_t *u, unsigned first_block)
{
    void *param = u->param == u->master ? NULL : u->param;
    job j = {u->master, {u->state[0], u->state[1]}, u->grad, param, u->count, u->scalars, first_block, true};
    const bool fp32 = u->rule != ZERO_RULE_ADAMW8; /* codes are accessed in words */
    j.wide = fits(u->master, 4) && (uintptr_t)j.grad % (4 * zero_dtype_size(u->grad_dtype)) == 0 &&
             (!fp32 || (fits((const float *)j.state[0], 4) && fits((const float *)j.state[1], 4))) &&
             (uintptr_t)j.param % (4 * zero_dtype_size(u->param_dtype)) == 0;
    return j;
}

template <typename K> static void launch_all(const zero_update_t *u, int count, cudaStream_t stream)
{
    jobs all = {0, u->param_dtype, {}};
    unsigned blocks = 0;
    for (int k = 0; k < count; k++) {
        if (u[k].count <= 0)
            continue;
        if (all.count == JOBS) {
            K::launch(all, blocks, stream);
            all.count = 0;
            blocks = 0;
        }
        all.of[all.count++] = job_for(&u[k], blocks);
        blocks += (unsigned)((u[k].count + K::TILE - 1) / K::TILE);
    }
    if (all.count > 0)
        K::launch(all, blocks, stream);
}

template <typename G> static void launch_rule(const zero_update_t *u, int count, cudaStream_t stream)
{
    switch (u->rule) {
    case ZERO_RULE_ADAMW:
        launch_all<rule_kernel<ZERO_RULE_ADAMW, G>>(u, count, stream);
        break;
    case ZERO_RULE_ADAM:
        launch_all<rule_kernel<ZERO_RULE_ADAM, G>>(u, count, stream);
        break;
    case ZERO_RULE_SGD:
        launch_all<rule_kernel<ZERO_RULE_SGD, G>>(u, count, stream);
        break;
    case ZERO_RULE_LION:
        launch_all<rule_kernel<ZERO_RULE_LION, G>>(u, count, stream);
        break;
    case ZERO_RULE_ADAMW8:
        launch_all<rule_kernel<ZERO_RULE_ADAMW8, G>>(u, count, stream);
        break;
    case ZERO_RULE_MUON:
        launch_all<rule_kernel<ZERO_RULE_MUON, G>>(u, count, stream);
        break;
    case ZERO_RULE_CUSTOM: /* the library calls the caller's function instead */
    case ZERO_RULES:
        break;
    }
}

void zero_cuda_flat_update(const zero_update_t *u, int count, int threads, void *native)
{
    (void)threads;
    if (count > 0)
        ZERO_WITH_TYPE(u->grad_dtype, G, launch_rule<G>(u, count, (cudaStream_t)native))
}
