/* SPDX-License-Identifier: Apache-2.0 */
/* fail.c - the errors and the log of a context. The CUDA plugin has its own copy. */
#include "kernels/nn/backend.h"

#include <stdio.h>

static const char *const OP_NAMES[ZERO_NN_OP_COUNT] = {
    [ZERO_NN_GEMM] = "gemm",
    [ZERO_NN_BIAS_BACKWARD] = "bias_backward",
    [ZERO_NN_EMBED_FORWARD] = "embedding_forward",
    [ZERO_NN_EMBED_BACKWARD] = "embedding_backward",
    [ZERO_NN_NORM_FORWARD] = "norm_forward",
    [ZERO_NN_NORM_BACKWARD] = "norm_backward",
    [ZERO_NN_ACT_FORWARD] = "act_forward",
    [ZERO_NN_ACT_BACKWARD] = "act_backward",
    [ZERO_NN_GATED_FORWARD] = "gated_forward",
    [ZERO_NN_GATED_BACKWARD] = "gated_backward",
    [ZERO_NN_ROTARY] = "rotary",
    [ZERO_NN_PUT_ROWS] = "put_rows",
    [ZERO_NN_ADD] = "add",
    [ZERO_NN_SCALE] = "scale",
    [ZERO_NN_ADD_SUMS] = "add_sums",
    [ZERO_NN_ATTN_FORWARD] = "attention_forward",
    [ZERO_NN_ATTN_BACKWARD] = "attention_backward",
    [ZERO_NN_CROSS_ENTROPY] = "cross_entropy",
    [ZERO_NN_ENTROPY_LOCAL] = "cross_entropy_local",
    [ZERO_NN_ENTROPY_COMBINE] = "cross_entropy_combine",
    [ZERO_NN_COMBINE] = "combine",
    [ZERO_NN_NORMALIZE] = "normalize",
};

const char *zero_nn_op_name(int32_t op)
{
    return OP_NAMES[op];
}

const char *zero_nn_shape_text(const zero_nn_shape_t *shape, char *text, size_t size)
{
    int at = snprintf(text, size, "%s (", OP_NAMES[shape->op]);
    int last = ZERO_NN_DIMS - 1;
    while (last > 0 && shape->d[last] == 0)
        last--;
    for (int i = 0; i <= last; i++)
        at += snprintf(text + at, size - (size_t)at, i == 0 ? "%lld" : ", %lld", (long long)shape->d[i]);
    snprintf(text + at, size - (size_t)at, ") in %s", zero_dtype_name((zero_dtype_t)shape->dtype));
    return text;
}

void zero_nn_fail(zero_nn_t *nn, zero_status_t status, const char *format, ...)
{
    if (nn->error.status != ZERO_OK)
        return;
    char text[sizeof nn->error.text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    zero_fail(&nn->error, status, "%s", text);
}

zero_status_t zero_nn_status(zero_nn_t *nn, zero_error_t *error)
{
    zero_status_t status = nn->error.status;
    if (status != ZERO_OK && error != NULL)
        *error = nn->error;
    nn->error.status = ZERO_OK;
    nn->error.text[0] = '\0';
    return status;
}

void zero_nn_warn(zero_nn_t *nn, const char *format, ...)
{
    char text[sizeof nn->error.text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    zero_log(nn->log, nn->log_ctx, ZERO_LOG_WARNING, "%s", text);
}
