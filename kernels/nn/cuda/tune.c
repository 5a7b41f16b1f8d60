/* SPDX-License-Identifier: Apache-2.0 */
/* tune.c - see tune.h.
 *
 * The format of the text: the first line names the GPU and the library. Each further line is one product: m, n, k, lda,
 * ldb, ldc and flags as in backend.h, the dtype, whether there is a bias, and the algorithm in hexadecimal. cuBLASLt
 * promises that these bytes may be stored and used again with the same version. */
#include "kernels/nn/cuda/tune.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { WORDS = sizeof(cublasLtMatmulAlgo_t) / sizeof(uint64_t), LINE = 512, RUNS = 5, SIZES = 7 };
#define HEAD "zero_nn products of "

static bool same(const zero_choice_t *c, const zero_nn_shape_t *shape, bool bias)
{
    return c->dtype == shape->dtype && c->bias == bias && memcmp(c->d, shape->d, sizeof c->d) == 0;
}

const zero_choice_t *zero_choices_find(const zero_choices_t *choices, const zero_nn_shape_t *shape, bool bias)
{
    for (int i = 0; i < choices->count; i++)
        if (same(&choices->all[i], shape, bias))
            return &choices->all[i];
    return NULL;
}

bool zero_choices_add(zero_choices_t *choices, const zero_nn_shape_t *shape, bool bias,
                      const cublasLtMatmulAlgo_t *algo)
{
    if (choices->count == choices->room) {
        const int room = choices->room == 0 ? 32 : 2 * choices->room;
        zero_choice_t *all = realloc(choices->all, (size_t)room * sizeof *all);
        if (all == NULL)
            return false;
        choices->all = all;
        choices->room = room;
    }
    zero_choice_t *c = &choices->all[choices->count++];
    *c = (zero_choice_t){.dtype = shape->dtype, .bias = bias, .algo = *algo};
    memcpy(c->d, shape->d, sizeof c->d);
    return true;
}

/* ---- the text --------------------------------------------------------------------------------------------------- */

static bool read_line(const char *line, zero_nn_shape_t *shape, bool *bias, cublasLtMatmulAlgo_t *algo)
{
    uint64_t words[WORDS];
    char dtype[8], with[8];
    int used = 0, at = 0;
    memset(shape, 0, sizeof *shape);
    shape->op = ZERO_NN_GEMM;
    int64_t *d = shape->d;
    if (sscanf(line, "%" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %7s %7s%n",
               &d[0], &d[1], &d[2], &d[3], &d[4], &d[5], &d[6], dtype, with, &at) != SIZES + 2)
        return false;
    for (int i = 0; i < WORDS; i++, at += used)
        if (sscanf(line + at, " %16" SCNx64 "%n", &words[i], &used) != 1)
            return false;
    while (shape->dtype < (int32_t)ZERO_DTYPE_COUNT && strcmp(dtype, zero_dtype_name((zero_dtype_t)shape->dtype)) != 0)
        shape->dtype++;
    *bias = strcmp(with, "bias") == 0;
    memcpy(algo, words, sizeof *algo);
    return line[at] == '\0' && shape->dtype < (int32_t)ZERO_DTYPE_COUNT && (*bias || strcmp(with, "plain") == 0);
}

zero_status_t zero_choices_read(zero_choices_t *choices, const char *text, zero_error_t *error)
{
    const size_t head = strlen(HEAD);
    for (int number = 1; *text != '\0'; number++) {
        char line[LINE];
        const size_t length = strcspn(text, "\n");
        if (length >= sizeof line)
            return zero_fail(error, ZERO_ERR_ARG, "line %d has %zu bytes: choices of products have less than %d",
                             number, length, LINE);
        memcpy(line, text, length);
        line[length] = '\0';
        text += length + (text[length] == '\n');
        if (number == 1 && strncmp(line, HEAD, head) != 0)
            return zero_fail(error, ZERO_ERR_ARG,
                             "line 1 does not begin with '%s': this is not a file of product choices", HEAD);
        if (number == 1 && strcmp(line + head, choices->machine) != 0)
            return zero_fail(
                error, ZERO_ERR_ARG,
                "its choices of products are for %.200s, but this is %.200s: measure here into another file",
                line + head, choices->machine);
        if (number == 1)
            continue;
        zero_nn_shape_t shape;
        bool bias;
        cublasLtMatmulAlgo_t algo;
        if (!read_line(line, &shape, &bias, &algo))
            return zero_fail(error, ZERO_ERR_ARG,
                             "line %d is not a product: a line has 7 sizes, a dtype, bias or plain, and %d "
                             "numbers in hexadecimal",
                             number, WORDS);
        if (zero_choices_find(choices, &shape, bias) != NULL)
            return zero_fail(error, ZERO_ERR_ARG, "line %d repeats the product of an earlier line", number);
        if (!zero_choices_add(choices, &shape, bias, &algo))
            return zero_fail(error, ZERO_ERR_MEMORY, "no memory for %d choices of products", number);
    }
    return ZERO_OK;
}

char *zero_choices_write(const zero_choices_t *choices)
{
    const size_t size = sizeof choices->machine + LINE + (size_t)choices->count * LINE;
    char *text = malloc(size);
    if (text == NULL)
        return NULL;
    size_t used = (size_t)snprintf(text, size, HEAD "%s\n", choices->machine);
    for (int i = 0; i < choices->count; i++) {
        const zero_choice_t *c = &choices->all[i];
        uint64_t words[WORDS];
        memcpy(words, &c->algo, sizeof words);
        for (int k = 0; k < SIZES; k++)
            used += (size_t)snprintf(text + used, size - used, "%" PRId64 " ", c->d[k]);
        used += (size_t)snprintf(text + used, size - used, "%s %s", zero_dtype_name((zero_dtype_t)c->dtype),
                                 c->bias ? "bias" : "plain");
        for (int k = 0; k < WORDS; k++)
            used += (size_t)snprintf(text + used, size - used, " %016" PRIx64, words[k]);
        used += (size_t)snprintf(text + used, size - used, "\n");
    }
    return text;
}

/* ---- measuring -------------------------------------------------------------------------------------------------- */

/* Allocates memory for one product and fills it with small numbers: on zeros GPUs are faster and draw less power. */
static cudaError_t memory(void **p, uint64_t bytes)
{
    if (bytes == 0)
        return cudaSuccess;
    const cudaError_t status = cudaMalloc(p, bytes);
    return status == cudaSuccess ? cudaMemset(*p, 0x3c, bytes) : status;
}

cudaError_t zero_choices_measure(const zero_timed_t *product, const cublasLtMatmulHeuristicResult_t *found, int count,
                                 int *best)
{
    const float one = 1, beta = product->beta;
    void *p[6] = {NULL}; /* a, b, c, bias, aux, workspace */
    uint64_t workspace = 0;
    cudaStream_t stream = NULL;
    cudaEvent_t begin = NULL, end = NULL;
    float fastest = -1;
    for (int i = 0; i < count; i++)
        workspace = found[i].workspaceSize > workspace ? found[i].workspaceSize : workspace;
    const uint64_t bytes[6] = {product->a_bytes,
                               product->b_bytes,
                               product->c_bytes,
                               product->vector_bytes,
                               product->aux ? product->c_bytes : 0,
                               workspace};
    cudaError_t status = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (status == cudaSuccess)
        status = cudaEventCreate(&begin);
    if (status == cudaSuccess)
        status = cudaEventCreate(&end);
    for (int i = 0; i < 6 && status == cudaSuccess; i++)
        status = memory(&p[i], bytes[i]);
    if (status == cudaSuccess)
        status = cudaDeviceSynchronize();
    if (p[3] != NULL)
        cublasLtMatmulDescSetAttribute(product->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p[3], sizeof p[3]);
    if (p[4] != NULL)
        cublasLtMatmulDescSetAttribute(product->desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &p[4], sizeof p[4]);
    *best = 0;
    for (int i = 0; i < count && status == cudaSuccess; i++) {
        bool runs = true;
        for (int r = 0; r <= RUNS && status == cudaSuccess && runs;
             r++) { /* the first run loads the kernel and does not count */
            float time = 0;
            status = cudaEventRecord(begin, stream);
            if (status == cudaSuccess)
                runs = cublasLtMatmul(product->blas, product->desc, &one, p[0], product->a, p[1], product->b, &beta,
                                      p[2], product->c, p[2], product->c, &found[i].algo, p[5], found[i].workspaceSize,
                                      stream) == CUBLAS_STATUS_SUCCESS;
            if (status == cudaSuccess)
                status = cudaEventRecord(end, stream);
            if (status == cudaSuccess)
                status = cudaEventSynchronize(end);
            if (status == cudaSuccess)
                status = cudaEventElapsedTime(&time, begin, end);
            if (status == cudaSuccess && runs && r > 0 && (fastest < 0 || time < fastest)) {
                fastest = time;
                *best = i;
            }
        }
    }
    for (int i = 0; i < 6; i++)
        cudaFree(p[i]);
    if (end != NULL)
        cudaEventDestroy(end);
    if (begin != NULL)
        cudaEventDestroy(begin);
    if (stream != NULL)
        cudaStreamDestroy(stream);
    return status;
}
