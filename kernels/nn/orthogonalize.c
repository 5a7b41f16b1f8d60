/* SPDX-License-Identifier: Apache-2.0 */
/* orthogonalize.c - Muon's Newton-Schulz iteration over a backend's products. */
#include "kernels/nn/backend.h"

/* x <- SLOPE x + (CUBIC A + QUINTIC A A) x with A = x x', five times: Jordan et al. 2024. */
#define SLOPE 3.4445
#define CUBIC (-4.7750)
#define QUINTIC 2.0315
enum { STEPS = 5 };
_Static_assert(STEPS % 2 == 1, "the last step writes to where the matrix was");
#define LEAST_NORM 1e-7

static uint64_t aligned(int64_t elements)
{
    uint64_t bytes = (uint64_t)elements * sizeof(float);
    return (bytes + ZERO_NN_ALIGN - 1) / ZERO_NN_ALIGN * ZERO_NN_ALIGN;
}

uint64_t zero_nn_orthogonalize_bytes(int64_t rows, int64_t cols)
{
    int64_t least = rows < cols ? rows : cols;
    return aligned(rows * cols) + 3 * aligned(least * least);
}

static float *part_of(void *scratch, uint64_t offset)
{
    return scratch == NULL ? NULL : (float *)((char *)scratch + offset);
}

/* The Gram matrix is that of the rows or of the columns, whichever are fewer. */
void zero_nn_orthogonalize(zero_nn_t *nn, float *x, void *scratch, int64_t rows, int64_t cols)
{
    bool wide = rows <= cols;
    int64_t least = wide ? rows : cols, most = wide ? cols : rows;
    uint64_t square = aligned(least * least), at = aligned(rows * cols);
    float *other = scratch;                                /* (rows, cols) */
    float *gram = part_of(scratch, at);                    /* (least, least): A */
    float *power = part_of(scratch, at + square);          /* A A */
    float *polynomial = part_of(scratch, at + 2 * square); /* b A + c A A */
    float *from = other, *to = x;

    zero_nn_normalize(nn, other, x, rows * cols, LEAST_NORM);
    for (int step = 0; step < STEPS; step++) {
        zero_nn_gemm(nn, &(zero_nn_gemm_t){.m = least,
                                           .n = least,
                                           .k = most,
                                           .trans_a = !wide,
                                           .trans_b = wide,
                                           .dtype = ZERO_FP32,
                                           .a = from,
                                           .b = from,
                                           .c = gram});
        zero_nn_gemm(nn, &(zero_nn_gemm_t){
                             .m = least, .n = least, .k = least, .dtype = ZERO_FP32, .a = gram, .b = gram, .c = power});
        zero_nn_combine(nn, polynomial, CUBIC, gram, QUINTIC, power, least * least);
        zero_nn_combine(nn, to, SLOPE, from, 0, from, rows * cols);
        zero_nn_gemm(nn, &(zero_nn_gemm_t){.m = rows,
                                           .n = cols,
                                           .k = least,
                                           .accumulate = true,
                                           .dtype = ZERO_FP32,
                                           .a = wide ? polynomial : from,
                                           .b = wide ? from : polynomial,
                                           .c = to});
        float *swap = from;
        from = to;
        to = swap;
    }
}
