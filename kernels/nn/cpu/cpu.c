/* cpu.c - the table of the CPU backend. */
#include "kernels/nn/cpu/cpu.h"

static zero_status_t cpu_plan(zero_nn_t *nn, zero_nn_plan_t *plan, zero_error_t *error)
{
    return zero_nn_ref_ops.plan(nn, plan, error);
}
static void cpu_gemm(zero_nn_t *nn, const zero_nn_plan_t *plan, const zero_nn_gemm_t *g)
{
    zero_nn_ref_ops.gemm(nn, plan, g);
}
static void cpu_bias_backward(zero_nn_t *nn, void *dbias, const void *dy, int64_t rows, int64_t n, zero_dtype_t dtype)
{
    zero_nn_ref_ops.bias_backward(nn, dbias, dy, rows, n, dtype);
}
static void cpu_embedding_forward(zero_nn_t *nn, const zero_nn_embedding_t *e)
{
    zero_nn_ref_ops.embedding_forward(nn, e);
}
static void cpu_embedding_backward(zero_nn_t *nn, const zero_nn_embedding_t *e)
{
    zero_nn_ref_ops.embedding_backward(nn, e);
}
static void cpu_layernorm_forward(zero_nn_t *nn, const zero_nn_norm_t *l)
{
    zero_nn_ref_ops.layernorm_forward(nn, l);
}
static void cpu_layernorm_backward(zero_nn_t *nn, const zero_nn_norm_t *l)
{
    zero_nn_ref_ops.layernorm_backward(nn, l);
}
static void cpu_gelu_forward(zero_nn_t *nn, void *y, const void *x, int64_t count, zero_dtype_t dtype)
{
    zero_nn_ref_ops.gelu_forward(nn, y, x, count, dtype);
}
static void cpu_gelu_backward(zero_nn_t *nn, void *dx, const void *dy, const void *x, int64_t count, zero_dtype_t dtype)
{
    zero_nn_ref_ops.gelu_backward(nn, dx, dy, x, count, dtype);
}
static void cpu_add(zero_nn_t *nn, void *y, const void *a, const void *b, int64_t count, zero_dtype_t dtype)
{
    zero_nn_ref_ops.add(nn, y, a, b, count, dtype);
}
static void cpu_attention_forward(zero_nn_t *nn, const zero_nn_attention_t *a)
{
    zero_nn_ref_ops.attention_forward(nn, a);
}
static void cpu_attention_backward(zero_nn_t *nn, const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g)
{
    zero_nn_ref_ops.attention_backward(nn, a, g);
}
static void cpu_cross_entropy(zero_nn_t *nn, const zero_nn_entropy_t *e)
{
    zero_nn_ref_ops.cross_entropy(nn, e);
}

const zero_nn_ops_t zero_nn_cpu_ops = {
    .name = "cpu",
    .plan = cpu_plan,
    .gemm = cpu_gemm,
    .bias_backward = cpu_bias_backward,
    .embedding_forward = cpu_embedding_forward,
    .embedding_backward = cpu_embedding_backward,
    .layernorm_forward = cpu_layernorm_forward,
    .layernorm_backward = cpu_layernorm_backward,
    .gelu_forward = cpu_gelu_forward,
    .gelu_backward = cpu_gelu_backward,
    .add = cpu_add,
    .attention_forward = cpu_attention_forward,
    .attention_backward = cpu_attention_backward,
    .cross_entropy = cpu_cross_entropy,
};
