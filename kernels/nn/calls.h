/* SPDX-License-Identifier: Apache-2.0 */
/* calls.h - inside kernels/nn: checks of arguments, for calls.c and calls_rows.c. Each keeps an error and returns false
 * if its condition does not hold. */
#ifndef ZERO_NN_CALLS_H
#define ZERO_NN_CALLS_H

#include "kernels/nn/backend.h"

static inline zero_nn_shape_t shape_of(zero_nn_op_t op, zero_dtype_t dtype)
{
    return (zero_nn_shape_t){.op = (int32_t)op, .dtype = (int32_t)dtype};
}

/* Returns true if the context has no error and the call has a known dtype and sizes in range. Keeps an error if not. */
static inline bool shape_ok(zero_nn_t *nn, const zero_nn_shape_t *shape)
{
    if (nn->error.status != ZERO_OK)
        return false;
    if (shape->dtype < 0 || shape->dtype >= (int32_t)ZERO_DTYPE_COUNT) {
        zero_nn_fail(nn, ZERO_ERR_ARG, "%s: dtype %d is unknown: choose a zero_dtype_t", zero_nn_op_name(shape->op),
                     (int)shape->dtype);
        return false;
    }
    char text[256];
    for (int i = 0; i < ZERO_NN_DIMS; i++) {
        if (shape->d[i] < 0 || shape->d[i] > (int64_t)1 << 40) {
            zero_nn_fail(nn, ZERO_ERR_ARG, "%s: size %lld is negative or beyond 2^40",
                         zero_nn_shape_text(shape, text, sizeof text), (long long)shape->d[i]);
            return false;
        }
    }
    return true;
}

/* Checks that a matrix of rows rows, ld elements apart, has a valid size. Keeps an error if not. */
static inline bool matrix_ok(zero_nn_t *nn, const zero_nn_shape_t *shape, int64_t rows, int64_t ld)
{
    int64_t count;
    if (zero_mul_i64(rows, ld, &count) && count <= (int64_t)1 << 56)
        return true;
    char text[256];
    zero_nn_fail(nn, ZERO_ERR_ARG, "%s: a matrix of %lld rows of %lld elements is too large to address",
                 zero_nn_shape_text(shape, text, sizeof text), (long long)rows, (long long)ld);
    return false;
}

/* Checks outside dry mode that an operand is not NULL. */
static inline bool operand_ok(zero_nn_t *nn, const void *p, zero_nn_op_t op, const char *name)
{
    if (p == NULL)
        zero_nn_fail(nn, ZERO_ERR_ARG, "%s: %s is NULL", zero_nn_op_name(op), name);
    return p != NULL;
}

/* Checks that every index is in [0, bound), or equals also. The error names the first that is not. */
static inline bool indices_ok(zero_nn_t *nn, zero_nn_op_t op, const char *what, const int32_t *index, int64_t count,
                              int64_t bound, int64_t also)
{
    for (int64_t r = 0; r < count; r++) {
        if ((index[r] < 0 || index[r] >= bound) && index[r] != also) {
            zero_nn_fail(nn, ZERO_ERR_ARG, "%s: %s %d of row %lld is not in [0, %lld)", zero_nn_op_name(op), what,
                         index[r], (long long)r, (long long)bound);
            return false;
        }
    }
    return true;
}

#endif
