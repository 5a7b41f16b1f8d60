/* SPDX-License-Identifier: Apache-2.0 */
/* merge.c - weights with their adapters added: W + s (B A), or its transpose. */
#include "models/export.h"

#include <stdlib.h>

/* (columns, rows) = the transpose of (rows, columns); NULL: no memory. */
static float *transpose(const float *x, int64_t rows, int64_t columns)
{
    float *y = malloc((size_t)(rows * columns) * sizeof *y);

    for (int64_t i = 0; i < rows && y; i++)
        for (int64_t j = 0; j < columns; j++)
            y[j * rows + i] = x[i * columns + j];
    return y;
}

/* Makes *x its transpose. */
static bool turn(float **x, int64_t rows, int64_t columns)
{
    float *turned = transpose(*x, rows, columns);

    free(*x);
    *x = turned;
    return turned != NULL;
}

zero_status_t zero_model_merge_begin(zero_model_t *m, int index, zero_comm_t *comm, zero_merge_t *merge,
                                     zero_error_t *error)
{
    const zero_lora_t *lora = &m->options.lora;
    zero_model_param_t *a, *b;
    zero_model_tensor_t t;
    zero_status_t status;

    *merge = (zero_merge_t){.left = NULL};
    zero_model_param_tensor(m, index, &t);
    if (!zero_model_adapters_of(m, &t, &a, &b))
        return ZERO_OK;
    merge->columns = t.shape[1];
    merge->rank = lora->rank;
    merge->scale = (float)(lora->alpha / (double)lora->rank);
    merge->left = malloc((size_t)b->count * sizeof *merge->left);
    merge->right = malloc((size_t)a->count * sizeof *merge->right);
    status = merge->left && merge->right
                 ? ZERO_OK
                 : zero_fail(error, ZERO_ERR_MEMORY, "no memory for the adapters of '%s'", t.name);
    status = zero_comm_agree(comm, status, NULL, error);
    if (status == ZERO_OK)
        status = zero_model_engine_error(m, zero_param_get(m->engine, b->id, ZERO_STATE_MASTER, ZERO_FP32, merge->left),
                                         error);
    if (status == ZERO_OK)
        status = zero_model_engine_error(
            m, zero_param_get(m->engine, a->id, ZERO_STATE_MASTER, ZERO_FP32, merge->right), error);
    if (status != ZERO_OK || m->family->out_in)
        return status;
    /* W is stored (in, out): (B A)' = A' B' */
    float *b_values = merge->left;

    merge->left = merge->right;
    merge->right = b_values;
    if (!turn(&merge->left, merge->rank, t.shape[0]) || !turn(&merge->right, t.shape[1], merge->rank))
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for the adapters of '%s'", t.name);
    return zero_comm_agree(comm, status, NULL, error);
}

void zero_model_merge_add(const zero_merge_t *merge, int64_t begin, int64_t count, float *values)
{
    enum { PIECE = 1024 };
    const int64_t columns = merge->columns, rank = merge->rank;

    while (count > 0) {
        const int64_t row = begin / columns, column = begin % columns, rest = columns - column,
                      most = rest < PIECE ? rest : PIECE, n = count < most ? count : most;
        const float *right = merge->right + column;
        float sums[PIECE] = {0};

        for (int64_t k = 0; k < rank; k++)
            for (int64_t i = 0; i < n; i++)
                sums[i] += merge->left[row * rank + k] * right[k * columns + i];
        for (int64_t i = 0; i < n; i++)
            values[i] += merge->scale * sums[i];
        values += n;
        begin += n;
        count -= n;
    }
}

void zero_model_merge_end(zero_merge_t *merge)
{
    free(merge->left);
    free(merge->right);
    *merge = (zero_merge_t){.left = NULL};
}
