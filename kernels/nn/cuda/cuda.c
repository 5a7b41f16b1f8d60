/* SPDX-License-Identifier: Apache-2.0 */
/* cuda.c - the CUDA backend: plans and launches. Every call only enqueues work on the context's stream. */
#include "kernels/nn/cuda/cuda.h"
#include "kernels/nn/cuda.h"

#include <stdio.h>
#include <stdlib.h>

#define NAME_MOST 24 /* bytes of a GPU's name in the label */

void zero_nn_cuda_check(zero_nn_t *nn, const char *call, cudaError_t status)
{
    char text[256];
    if (status != cudaSuccess)
        zero_nn_fail(nn, status == cudaErrorMemoryAllocation ? ZERO_ERR_MEMORY : ZERO_ERR_SYSTEM, "%s: %s: %s (%s)",
                     zero_nn_shape_text(&nn->plan->shape, text, sizeof text), call, cudaGetErrorString(status),
                     cudaGetErrorName(status));
}

static zero_status_t cuda_open(zero_nn_t *nn, zero_error_t *error)
{
    struct cudaDeviceProp device;
    int index = 0;
    cudaError_t rc = cudaGetDevice(&index);
    if (rc == cudaSuccess)
        rc = cudaGetDeviceProperties(&device, index);
    if (rc != cudaSuccess)
        return zero_fail(error,
                         rc == cudaErrorNoDevice || rc == cudaErrorInsufficientDriver ? ZERO_ERR_UNSUPPORTED
                                                                                      : ZERO_ERR_SYSTEM,
                         "no kernels on a GPU: %s (%s)", cudaGetErrorString(rc), cudaGetErrorName(rc));
    rc = zero_nn_cuda_load_kernels();
    if (rc != cudaSuccess)
        return zero_fail(error, ZERO_ERR_SYSTEM, "the kernels of models cannot be loaded on GPU %d (%s): %s (%s)",
                         index, device.name, cudaGetErrorString(rc), cudaGetErrorName(rc));
    zero_nn_cuda_t *cuda = calloc(1, sizeof *cuda);
    if (cuda == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for %zu bytes of kernel state", sizeof *cuda);
    zero_status_t status = zero_nn_cuda_blas_open(cuda, error);
    if (status != ZERO_OK) {
        free(cuda);
        return status;
    }
    cuda->gelu = device.major == 9 || device.major == 10;
    nn->state = cuda;
    size_t version = cublasLtGetVersion();
    snprintf(cuda->choices.machine, sizeof cuda->choices.machine, "%s, cuBLASLt %zu.%zu.%zu", device.name,
             version / 10000, version / 100 % 100, version % 100);
    snprintf(nn->label, sizeof nn->label, "cuda (%.*s, cuBLASLt %zu.%zu.%zu)", NAME_MOST, device.name, version / 10000,
             version / 100 % 100, version % 100);
    cuda->label_end = (int)strlen(nn->label) - 1;
    return ZERO_OK;
}

static void cuda_close(zero_nn_t *nn)
{
    zero_nn_cuda_t *cuda = nn->state;
    zero_nn_cuda_drop_graphs(cuda);
    zero_cudnn_close(cuda->cudnn);
    zero_nn_cuda_blas_close(cuda);
    free(cuda->choices.all);
    free(cuda);
    nn->state = NULL;
}

/* Logs why our own kernels compute attention in 16 bits: once per direction, or once for both if cuDNN is missing. */
static void without_cudnn(zero_nn_t *nn, const zero_nn_plan_t *plan, const zero_error_t *why)
{
    zero_nn_cuda_t *cuda = nn->state;
    const bool backward = plan->shape.op == ZERO_NN_ATTN_BACKWARD;
    char text[256];
    if (cuda->cudnn == NULL && !cuda->told[0] && !cuda->told[1])
        zero_nn_warn(nn, "attention will be slow: our own kernels compute it, in fp32, since %s", why->text);
    else if (cuda->cudnn != NULL && !cuda->told[backward])
        zero_nn_warn(nn,
                     "attention will be slow %s: our own kernels compute it, in fp32, since cuDNN does not take %s: %s",
                     backward ? "backward" : "forward", zero_nn_shape_text(&plan->shape, text, sizeof text), why->text);
    cuda->told[backward] = true;
}

/* Adds space for partial sums of (rows, n) to the plan's workspace. */
static void want_sums(zero_nn_plan_t *plan, int64_t rows, int64_t n)
{
    const uint64_t bytes = (uint64_t)(zero_nn_cuda_sum_parts(rows) * n) * sizeof(float);
    plan->workspace = plan->workspace > bytes ? plan->workspace : bytes;
}

/* The bytes that our own attention kernels take for sums. The copy of the ranges is behind them. */
static uint64_t own_floats(const zero_nn_shape_t *shape)
{
    const int64_t *d = shape->d;
    const uint64_t floats = shape->op == ZERO_NN_ATTN_FORWARD
                                ? 0
                                : (uint64_t)zero_nn_cuda_attention_workspace(d[0], d[1], d[2], d[3], d[4]);
    return (floats * sizeof(float) + ZERO_NN_ALIGN - 1) / ZERO_NN_ALIGN * ZERO_NN_ALIGN;
}

/* cuDNN computes attention in 16 bits if it is available and accepts the shape, in calls without ranges and with more
 * than one query. Otherwise plan->data stays NULL and our own kernels compute it. */
static zero_status_t attention_plan(zero_nn_t *nn, zero_nn_plan_t *plan, zero_error_t *error)
{
    zero_nn_cuda_t *cuda = nn->state;
    const int64_t *d = plan->shape.d;
    zero_sdpa_t *sdpa = NULL;
    if (d[4] > ZERO_NN_CUDA_HEAD)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED, "heads of %lld elements: at most %d on a GPU", (long long)d[4],
                         ZERO_NN_CUDA_HEAD);
    if (d[1] > INT32_MAX || d[8] > INT32_MAX)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED, "%lld queries and %lld keys: at most 2^31 - 1 on a GPU",
                         (long long)d[1], (long long)d[8]);
    const uint64_t own = own_floats(&plan->shape) + (uint64_t)(d[0] * d[1]) * 2 * sizeof(int32_t);
    const bool one = plan->shape.op == ZERO_NN_ATTN_FORWARD && d[1] == 1;
    if (plan->shape.dtype != ZERO_FP32 && !one) {
        zero_error_t why = {.status = ZERO_OK};
        if (!cuda->cudnn_asked && zero_cudnn_open(&cuda->cudnn, NULL, nn->stream, &why) == ZERO_OK) {
            const unsigned version = (unsigned)zero_cudnn_version(cuda->cudnn);
            snprintf(nn->label + cuda->label_end, sizeof nn->label - (size_t)cuda->label_end, ", cuDNN %u.%u.%u)",
                     version / 10000, version / 100 % 100, version % 100);
        }
        cuda->cudnn_asked = true;
        if (cuda->cudnn != NULL &&
            zero_sdpa_create(&sdpa, cuda->cudnn, &plan->shape, &plan->workspace, &why) == ZERO_OK) {
            plan->data = sdpa;
            if (plan->shape.op == ZERO_NN_ATTN_BACKWARD) /* dbias is added up afterwards */
                want_sums(plan, d[0] * d[1], zero_nn_attention_width(d[2], d[3], d[4]));
            plan->workspace = plan->workspace > own ? plan->workspace : own; /* for calls with ranges */
            return ZERO_OK;
        }
        without_cudnn(nn, plan, &why);
    }
    plan->workspace = own;
    return ZERO_OK;
}

static zero_status_t cuda_plan(zero_nn_t *nn, zero_nn_plan_t *plan, zero_error_t *error)
{
    const int64_t *d = plan->shape.d;
    zero_status_t status;
    switch (plan->shape.op) {
    case ZERO_NN_GEMM:
        status = zero_nn_cuda_gemm_plan(nn, plan, error);
        if (d[6] >> ZERO_NN_EPILOGUE_SHIFT == ZERO_NN_EPILOGUE_GELU_NEW_BACKWARD) /* dbias is added up afterwards */
            want_sums(plan, d[0], d[1]);
        return status;
    case ZERO_NN_BIAS_BACKWARD:
    case ZERO_NN_ACT_BACKWARD:
        want_sums(plan, d[0], d[1]);
        return ZERO_OK;
    case ZERO_NN_EMBED_BACKWARD: /* sorted tokens */
        plan->workspace = zero_nn_cuda_sort_workspace(d[0] * d[1]);
        return ZERO_OK;
    case ZERO_NN_NORM_BACKWARD: /* partial sums of dw, db and of two biases */
        plan->workspace =
            (uint64_t)(zero_nn_cuda_norm_parts(d[0], d[1], d[2]) * ZERO_NN_CUDA_SUMS * d[1]) * sizeof(float);
        return ZERO_OK;
    case ZERO_NN_NORMALIZE: /* partial sums */
        plan->workspace = ZERO_NN_CUDA_SQUARES * sizeof(double);
        return ZERO_OK;
    case ZERO_NN_ATTN_FORWARD:
    case ZERO_NN_ATTN_BACKWARD:
        return attention_plan(nn, plan, error);
    default:
        return ZERO_OK;
    }
}

static void cuda_unplan(zero_nn_plan_t *plan)
{
    if (plan->shape.op == ZERO_NN_GEMM)
        zero_nn_cuda_gemm_unplan(plan);
    else if (plan->shape.op == ZERO_NN_ATTN_FORWARD || plan->shape.op == ZERO_NN_ATTN_BACKWARD)
        zero_sdpa_destroy(plan->data);
}

static zero_status_t cuda_set_choices(zero_nn_t *nn, const char *text, bool measure, zero_error_t *error)
{
    zero_nn_cuda_t *cuda = nn->state;
    cuda->choices.measure = measure;
    return zero_choices_read(&cuda->choices, text, error);
}

static char *cuda_choices(const zero_nn_t *nn)
{
    const zero_nn_cuda_t *cuda = nn->state;
    return zero_choices_write(&cuda->choices);
}

static const char *cuda_maker(const zero_nn_plan_t *plan)
{
    if (plan->data == NULL)
        return "our own kernels";
    return plan->shape.op == ZERO_NN_GEMM ? zero_nn_cuda_gemm_maker(plan) : "cuDNN";
}

/* The GPU's address of p, which kernels access in place. Returns NULL with an error if the GPU cannot access it: a
 * kernel that tried would end the process's use of the GPU. */
static void *reached(zero_nn_t *nn, const char *what, const void *p)
{
    struct cudaPointerAttributes at = {.devicePointer = NULL};
    cudaError_t status = cudaPointerGetAttributes(&at, p);
    char text[256];
    if (status != cudaSuccess)
        zero_nn_cuda_check(nn, "cudaPointerGetAttributes", status);
    else if (at.devicePointer == NULL)
        zero_nn_fail(nn, ZERO_ERR_ARG,
                     "%s: %s are in host memory that is not pinned, which a GPU cannot access: use the engine's "
                     "host tier (zero_reserve), cudaHostAlloc or cudaHostRegister",
                     zero_nn_shape_text(&nn->plan->shape, text, sizeof text), what);
    return at.devicePointer;
}

static void cuda_bias_backward(zero_nn_t *nn, void *dbias, const void *dy, int64_t rows, int64_t n, zero_dtype_t dtype)
{
    zero_nn_cuda_check(
        nn, "its kernel",
        zero_nn_cuda_bias_backward(dbias, dy, rows, n, dtype, (float *)nn->workspace, zero_nn_cuda_stream(nn)));
}

static void cuda_gemm(zero_nn_t *nn, const zero_nn_gemm_t *g)
{
    zero_nn_cuda_gemm(nn, g);
    if (g->dbias != NULL && nn->error.status == ZERO_OK && !nn->plan->refused)
        cuda_bias_backward(nn, g->dbias, g->c, g->m, g->n, g->dtype);
}

static void cuda_embedding_forward(zero_nn_t *nn, const zero_nn_embedding_t *e)
{
    zero_nn_embedding_t there = *e;
    there.tokens = reached(nn, "tokens", e->tokens);
    if (there.tokens != NULL)
        zero_nn_cuda_check(nn, "its kernel", zero_nn_cuda_embedding_forward(&there, zero_nn_cuda_stream(nn)));
}

static void cuda_embedding_backward(zero_nn_t *nn, const zero_nn_embedding_t *e)
{
    const int32_t *tokens = reached(nn, "tokens", e->tokens), *order = NULL;
    if (tokens == NULL)
        return;
    cudaError_t status =
        zero_nn_cuda_sort(nn->workspace, tokens, e->B * e->T, e->V, &tokens, &order, zero_nn_cuda_stream(nn));
    if (status == cudaSuccess)
        status = zero_nn_cuda_embedding_backward(e, tokens, order, zero_nn_cuda_stream(nn));
    zero_nn_cuda_check(nn, "its kernel", status);
}

static void cuda_norm_forward(zero_nn_t *nn, const zero_nn_norm_t *l)
{
    zero_nn_cuda_check(nn, "its kernel", zero_nn_cuda_norm_forward(l, zero_nn_cuda_stream(nn)));
}

static void cuda_norm_backward(zero_nn_t *nn, const zero_nn_norm_t *l)
{
    zero_nn_cuda_check(nn, "its kernel",
                       zero_nn_cuda_norm_backward(l, (float *)nn->workspace, zero_nn_cuda_stream(nn)));
}

static void cuda_act_forward(zero_nn_t *nn, zero_nn_activation_t act, void *y, const void *x, int64_t count,
                             zero_dtype_t dtype)
{
    zero_nn_cuda_check(nn, "its kernel", zero_nn_cuda_act_forward(act, y, x, count, dtype, zero_nn_cuda_stream(nn)));
}

static void cuda_act_backward(zero_nn_t *nn, const zero_nn_act_grad_t *a)
{
    cudaStream_t stream = zero_nn_cuda_stream(nn);
    zero_nn_cuda_check(nn, "its kernel",
                       a->dbias == NULL ? zero_nn_cuda_act_backward(a, stream)
                                        : zero_nn_cuda_act_bias_backward(a, (float *)nn->workspace, stream));
}

static void cuda_gated_forward(zero_nn_t *nn, const zero_nn_gated_t *g)
{
    zero_nn_cuda_check(nn, "its kernel", zero_nn_cuda_gated_forward(g, zero_nn_cuda_stream(nn)));
}

static void cuda_gated_backward(zero_nn_t *nn, const zero_nn_gated_t *g)
{
    zero_nn_cuda_check(nn, "its kernel", zero_nn_cuda_gated_backward(g, zero_nn_cuda_stream(nn)));
}

static void cuda_rotary(zero_nn_t *nn, const zero_nn_rotary_t *r)
{
    zero_nn_rotary_t there = *r;
    if (r->positions != NULL)
        there.positions = reached(nn, "positions", r->positions);
    if (there.positions != NULL || r->positions == NULL)
        zero_nn_cuda_check(nn, "its kernel", zero_nn_cuda_rotary(&there, zero_nn_cuda_stream(nn)));
}

static void cuda_put_rows(zero_nn_t *nn, const zero_nn_put_t *p)
{
    zero_nn_put_t there = *p;
    there.at = reached(nn, "places", p->at);
    if (there.at != NULL)
        zero_nn_cuda_check(nn, "its kernel", zero_nn_cuda_put_rows(&there, zero_nn_cuda_stream(nn)));
}

static void cuda_add(zero_nn_t *nn, void *y, const void *a, const void *b, int64_t count, zero_dtype_t dtype)
{
    zero_nn_cuda_check(nn, "its kernel", zero_nn_cuda_add(y, a, b, count, dtype, zero_nn_cuda_stream(nn)));
}

static void cuda_scale(zero_nn_t *nn, void *y, const void *x, float factor, int64_t count, zero_dtype_t dtype)
{
    zero_nn_cuda_check(nn, "its kernel", zero_nn_cuda_scale(y, x, factor, count, dtype, zero_nn_cuda_stream(nn)));
}

static void cuda_add_sums(zero_nn_t *nn, void *y, const float *sums, int64_t count, zero_dtype_t dtype)
{
    zero_nn_cuda_check(nn, "its kernel", zero_nn_cuda_add_sums(y, sums, count, dtype, zero_nn_cuda_stream(nn)));
}

/* Runs the call with cuDNN's plan. */
static void sdpa(zero_nn_t *nn, const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g)
{
    zero_error_t error = {.status = ZERO_OK};
    char text[256];
    zero_status_t status = zero_sdpa_run(nn->plan->data, a, g, nn->workspace, &error);
    if (status != ZERO_OK)
        zero_nn_fail(nn, status, "%s: %s", zero_nn_shape_text(&nn->plan->shape, text, sizeof text), error.text);
}

/* Prepares a call for our own kernels: copies the ranges to the workspace. Returns false with an error if it fails. */
static bool own_attention(zero_nn_t *nn, const zero_nn_attention_t *a, zero_nn_attention_t *there)
{
    zero_nn_cuda_t *cuda = nn->state;
    const bool backward = nn->plan->shape.op == ZERO_NN_ATTN_BACKWARD;
    *there = *a;
    if (a->ranges == NULL)
        return true;
    if (nn->plan->data != NULL && !cuda->told_ranges[backward]) {
        zero_nn_warn(nn,
                     "attention with ranges will be slow %s: our own kernels compute it, in fp32, since cuDNN's graphs "
                     "here have no ranges",
                     backward ? "backward" : "forward");
        cuda->told_ranges[backward] = true;
    }
    const void *from = reached(nn, "ranges", a->ranges);
    if (from == NULL)
        return false;
    there->ranges = (int32_t *)(void *)(nn->workspace + own_floats(&nn->plan->shape));
    zero_nn_cuda_check(nn, "a copy of the ranges",
                       cudaMemcpyAsync((void *)there->ranges, from, (size_t)(a->B * a->T) * 2 * sizeof(int32_t),
                                       cudaMemcpyDefault, zero_nn_cuda_stream(nn)));
    return nn->error.status == ZERO_OK;
}

static void cuda_attention_forward(zero_nn_t *nn, const zero_nn_attention_t *a)
{
    zero_nn_attention_t there;
    if (nn->plan->data != NULL && a->ranges == NULL)
        sdpa(nn, a, NULL);
    else if (own_attention(nn, a, &there))
        zero_nn_cuda_check(nn, "its kernel",
                           a->T == 1 ? zero_nn_cuda_attention_one(&there, zero_nn_cuda_stream(nn))
                                     : zero_nn_cuda_attention_forward(&there, zero_nn_cuda_stream(nn)));
}

static void cuda_attention_backward(zero_nn_t *nn, const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g)
{
    zero_nn_attention_t there;
    if (nn->plan->data != NULL && a->ranges == NULL) {
        sdpa(nn, a, g);
        if (g->dbias != NULL && nn->error.status == ZERO_OK)
            cuda_bias_backward(nn, g->dbias, g->dq, a->B * a->T, zero_nn_attention_width(a->H, a->KV, a->D), a->dtype);
        return;
    }
    if (own_attention(nn, a, &there))
        zero_nn_cuda_check(nn, "its kernel",
                           zero_nn_cuda_attention_backward(&there, g, (float *)nn->workspace, zero_nn_cuda_stream(nn)));
}

static void cuda_cross_entropy(zero_nn_t *nn, const zero_nn_entropy_t *e)
{
    zero_nn_entropy_t there = *e;
    there.targets = reached(nn, "targets", e->targets);
    there.losses = there.targets == NULL ? NULL : reached(nn, "losses", e->losses);
    if (there.losses != NULL)
        zero_nn_cuda_check(nn, "its kernel", zero_nn_cuda_entropy(&there, zero_nn_cuda_stream(nn)));
}

static void cuda_entropy_local(zero_nn_t *nn, const zero_nn_entropy_t *e)
{
    zero_nn_entropy_t there = *e;
    there.targets = reached(nn, "targets", e->targets);
    if (there.targets != NULL)
        zero_nn_cuda_check(nn, "its kernel", zero_nn_cuda_entropy(&there, zero_nn_cuda_stream(nn)));
}

static void cuda_combine(zero_nn_t *nn, float *y, float alpha, const float *a, float beta, const float *b,
                         int64_t count)
{
    zero_nn_cuda_check(nn, "its kernel", zero_nn_cuda_combine(y, alpha, a, beta, b, count, zero_nn_cuda_stream(nn)));
}

static void cuda_normalize(zero_nn_t *nn, float *y, const float *x, int64_t count, float least)
{
    zero_nn_cuda_check(
        nn, "its kernel",
        zero_nn_cuda_normalize(y, (double *)(void *)nn->workspace, x, count, least, zero_nn_cuda_stream(nn)));
}

static void cuda_set_stream(zero_nn_t *nn)
{
    zero_nn_cuda_t *cuda = nn->state;
    zero_error_t error = {.status = ZERO_OK};
    zero_status_t status = cuda->cudnn != NULL ? zero_cudnn_set_stream(cuda->cudnn, nn->stream, &error) : ZERO_OK;
    if (status != ZERO_OK)
        zero_nn_fail(nn, status, "%s", error.text);
}

static void cuda_copy(zero_nn_t *nn, void *dst, const void *src, uint64_t bytes)
{
    cudaError_t status = cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, zero_nn_cuda_stream(nn));
    if (status != cudaSuccess)
        zero_nn_fail(nn, ZERO_ERR_SYSTEM, "a copy of %llu bytes: cudaMemcpyAsync: %s (%s)", (unsigned long long)bytes,
                     cudaGetErrorString(status), cudaGetErrorName(status));
}

static void cuda_clear(zero_nn_t *nn, void *dst, uint64_t bytes)
{
    cudaError_t status = cudaMemsetAsync(dst, 0, bytes, zero_nn_cuda_stream(nn));
    if (status != cudaSuccess)
        zero_nn_fail(nn, ZERO_ERR_SYSTEM, "clearing %llu bytes: cudaMemsetAsync: %s (%s)", (unsigned long long)bytes,
                     cudaGetErrorString(status), cudaGetErrorName(status));
}

static const zero_nn_ops_t OPS = {
    .name = "cuda",
    .epilogues = true,
    .even = 128,
    .sizes = {.logits_bytes = (uint64_t)2 << 30, .least_rows = 128, .rows = 128, .columns = 128, .wide_sums = true},
    .open = cuda_open,
    .close = cuda_close,
    .plan = cuda_plan,
    .unplan = cuda_unplan,
    .set_choices = cuda_set_choices,
    .choices = cuda_choices,
    .maker = cuda_maker,
    .gemm = cuda_gemm,
    .bias_backward = cuda_bias_backward,
    .embedding_forward = cuda_embedding_forward,
    .embedding_backward = cuda_embedding_backward,
    .norm_forward = cuda_norm_forward,
    .norm_backward = cuda_norm_backward,
    .act_forward = cuda_act_forward,
    .act_backward = cuda_act_backward,
    .gated_forward = cuda_gated_forward,
    .gated_backward = cuda_gated_backward,
    .rotary = cuda_rotary,
    .put_rows = cuda_put_rows,
    .add = cuda_add,
    .scale = cuda_scale,
    .add_sums = cuda_add_sums,
    .attention_forward = cuda_attention_forward,
    .attention_backward = cuda_attention_backward,
    .cross_entropy = cuda_cross_entropy,
    .entropy_local = cuda_entropy_local,
    .entropy_combine = cuda_cross_entropy,
    .combine = cuda_combine,
    .normalize = cuda_normalize,
    .set_stream = cuda_set_stream,
    .copy = cuda_copy,
    .clear = cuda_clear,
    .repeat = zero_nn_cuda_repeat,
};

ZERO_API const zero_cuda_nn_t zero_cuda_nn = {.version = ZERO_CUDA_NN_VERSION, .ops = &OPS};
