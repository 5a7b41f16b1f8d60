/* SPDX-License-Identifier: Apache-2.0 */
/* gemm.c - matrix products with cuBLASLt, whose matrices are column-major. A row-major C = A B is cuBLASLt's C' = B'
 * A'. So our b is its A, our a is its B, our n is its m, and a bias over columns is a bias over rows.
 *
 * Planning a shape selects an algorithm, by cuBLASLt's heuristic or as in tune.h, among those that give the same bits
 * in each run. A long sum may be split into parts, kept in fp32 in the workspace and added by a separate kernel
 * (COMPUTE_TYPE), but never added in the order of completion. fp32 is fp32: no TF32. The heuristic needs the alignment
 * of operands before addresses are known. So if rows are multiples of 16 bytes (or less), the operand must start at
 * such a multiple. Any other address is an error and does not select another algorithm.
 *
 * The product's own kernel adds a bias. It also computes GELU and its gradient under all of these conditions; otherwise
 * nn.c makes separate calls:
 *  - The GPU's compute capability is 9 or 10 (zero_nn_cuda_t.gelu). On older GPUs cuBLASLt was seen to run a second
 * kernel for GELU, slower than a separate call (llm.c, pull requests 338, 591 and 653); on 12 it was slower, too
 * (SGLang, pull request 34350).
 *  - The dtype has 16 bits. cuBLASLt does not document the accuracy of its tanh, and fp32 exists to be accurate.
 *  - Rows are multiples of 8 elements, as cuBLASLt requires for aux. They are then multiples of 16 bytes, and aux must
 *    start at such a multiple.
 *  - The heuristic has an algorithm, with a bias and without.
 * The gradient of a bias stays a separate kernel, even if a product reads or writes its dy. cuBLASLt's versions (BGRADA
 * in the product for the weight's gradient, DGELU_BGRAD) overwrite the result in C's dtype (cublasLt.h). It would be
 * rounded to 16 bits before one more kernel adds it. Their order of addition is undocumented. They save one read of dy,
 * but have made the training of wide models slower (NVIDIA/CUDALibrarySamples #90). */
#include "kernels/nn/cuda/cuda.h"

#include <stdlib.h>

enum { CHOICES = 8, ALIGNMENT = 16 };

/* The requests to cuBLASLt without a bias, and with one; 0: none. */
static const uint32_t EPILOGUES[][2] = {
    [ZERO_NN_EPILOGUE_NONE] = {CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS},
    [ZERO_NN_EPILOGUE_GELU_NEW] = {CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_AUX_BIAS},
    [ZERO_NN_EPILOGUE_GELU_NEW_BACKWARD] = {CUBLASLT_EPILOGUE_DGELU, 0},
};

/* A product of one shape. The bias is not part of a shape: [1] is with bias, or NULL if none is allowed. */
typedef struct product {
    cublasLtMatmulDesc_t desc[2];
    cublasLtMatrixLayout_t a, b, c; /* cuBLASLt's A, B, C */
    cublasLtMatmulAlgo_t algo[2];
    bool fused;      /* [1] exists */
    bool refused[2]; /* cuBLASLt refused it in a call: our own kernel computes it from then on */
} product_t;

static const char CHECK[] = "cublasLtMatmulAlgoCheck";

static const char *status_name(cublasStatus_t status)
{
    const char *name = cublasLtGetStatusName(status);
    return name == NULL ? "an unknown status" : name;
}

zero_status_t zero_nn_cuda_blas_open(zero_nn_cuda_t *cuda, zero_error_t *error)
{
    cublasStatus_t status = cublasLtCreate(&cuda->blas);
    if (status == CUBLAS_STATUS_SUCCESS)
        return ZERO_OK;
    cuda->blas = NULL;
    return zero_fail(error, ZERO_ERR_SYSTEM, "cuBLASLt cannot start: cublasLtCreate returns %s", status_name(status));
}

void zero_nn_cuda_blas_close(zero_nn_cuda_t *cuda)
{
    if (cuda->blas != NULL)
        cublasLtDestroy(cuda->blas);
    cuda->blas = NULL;
}

static void product_free(product_t *p)
{
    if (p == NULL)
        return;
    for (int i = 0; i < 2; i++)
        if (p->desc[i] != NULL)
            cublasLtMatmulDescDestroy(p->desc[i]);
    cublasLtMatrixLayout_t layouts[] = {p->a, p->b, p->c};
    for (int i = 0; i < 3; i++)
        if (layouts[i] != NULL)
            cublasLtMatrixLayoutDestroy(layouts[i]);
    free(p);
}

/* The alignment that rows of ld elements require of a matrix: the largest power of two, up to 16, that divides the
 * bytes of a row. */
static uint32_t alignment(int64_t ld, zero_dtype_t dtype)
{
    int64_t bytes = ld * (int64_t)zero_dtype_size(dtype);
    uint32_t most = ALIGNMENT;
    while (bytes % most != 0)
        most /= 2;
    return most;
}

/* Creates descriptor p->desc[bias]. The addresses of the bias and of aux are placeholders with the right alignment. */
static cublasStatus_t describe(product_t *p, int bias, int64_t flags, int64_t ldc)
{
    int32_t no = CUBLAS_OP_N, yes = CUBLAS_OP_T;
    const bool aux = flags >> ZERO_NN_EPILOGUE_SHIFT != ZERO_NN_EPILOGUE_NONE;
    const uint32_t epilogue = EPILOGUES[flags >> ZERO_NN_EPILOGUE_SHIFT][bias];
    const void *address = (const void *)(uintptr_t)ALIGNMENT;
    cublasStatus_t status = cublasLtMatmulDescCreate(&p->desc[bias], CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (status != CUBLAS_STATUS_SUCCESS) {
        p->desc[bias] = NULL;
        return status;
    }
    status = cublasLtMatmulDescSetAttribute(p->desc[bias], CUBLASLT_MATMUL_DESC_TRANSA,
                                            flags & ZERO_NN_TRANS_B ? &yes : &no, sizeof no);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmulDescSetAttribute(p->desc[bias], CUBLASLT_MATMUL_DESC_TRANSB,
                                                flags & ZERO_NN_TRANS_A ? &yes : &no, sizeof no);
    if (status == CUBLAS_STATUS_SUCCESS)
        status =
            cublasLtMatmulDescSetAttribute(p->desc[bias], CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    if (status == CUBLAS_STATUS_SUCCESS && bias)
        status =
            cublasLtMatmulDescSetAttribute(p->desc[bias], CUBLASLT_MATMUL_DESC_BIAS_POINTER, &address, sizeof address);
    if (status == CUBLAS_STATUS_SUCCESS && aux)
        status = cublasLtMatmulDescSetAttribute(p->desc[bias], CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &address,
                                                sizeof address);
    if (status == CUBLAS_STATUS_SUCCESS && aux)
        status = cublasLtMatmulDescSetAttribute(p->desc[bias], CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &ldc, sizeof ldc);
    return status;
}

/* The dtype of C, which is fp32 for wide sums. */
static zero_dtype_t c_dtype(const int64_t *d, zero_dtype_t dtype)
{
    return d[6] & ZERO_NN_WIDE ? ZERO_FP32 : dtype;
}

static cublasStatus_t layout(cublasLtMatrixLayout_t *out, zero_dtype_t dtype, bool transposed, int64_t rows,
                             int64_t columns, int64_t ld)
{
    static const cudaDataType_t types[ZERO_DTYPE_COUNT] = {
        [ZERO_FP32] = CUDA_R_32F, [ZERO_BF16] = CUDA_R_16BF, [ZERO_FP16] = CUDA_R_16F};
    cublasStatus_t status = cublasLtMatrixLayoutCreate(out, types[dtype], (uint64_t)(transposed ? columns : rows),
                                                       (uint64_t)(transposed ? rows : columns), ld);
    if (status != CUBLAS_STATUS_SUCCESS)
        *out = NULL;
    return status;
}

/* Sets the resources that algorithms may use, and the alignment that they may assume. */
static cublasStatus_t prefer(cublasLtMatmulPreference_t preference, const int64_t *d, zero_dtype_t dtype)
{
    const uint64_t bytes = ZERO_NN_CUDA_BLAS_WORKSPACE;
    const uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, a = alignment(d[4], dtype),
                   b = alignment(d[3], dtype), c = alignment(d[5], c_dtype(d, dtype));
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        const void *value;
        size_t size;
    } all[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &scheme, sizeof scheme},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &a, sizeof a},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &b, sizeof b},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &c, sizeof c},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &c, sizeof c},
    };
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    for (size_t i = 0; i < sizeof all / sizeof all[0] && status == CUBLAS_STATUS_SUCCESS; i++)
        status = cublasLtMatmulPreferenceSetAttribute(preference, all[i].name, all[i].value, all[i].size);
    return status;
}

/* Bytes from the first to the last element of a matrix with rows of ld elements, or of its transpose. */
static uint64_t extent(int64_t rows, int64_t columns, int64_t ld, bool transposed, zero_dtype_t dtype)
{
    return (uint64_t)(transposed ? columns * ld : rows * ld) * zero_dtype_size(dtype);
}

/* The index of the fastest algorithm in found. If they cannot be measured (too little memory), the heuristic's
 * first. */
static int fastest(zero_nn_t *nn, const product_t *p, const zero_nn_shape_t *shape, int bias,
                   const cublasLtMatmulHeuristicResult_t *found, int count)
{
    const zero_nn_cuda_t *cuda = nn->state;
    const int64_t *d = shape->d;
    const zero_dtype_t dtype = (zero_dtype_t)shape->dtype;
    const zero_timed_t timed = {.blas = cuda->blas,
                                .desc = p->desc[bias],
                                .a = p->a,
                                .b = p->b,
                                .c = p->c,
                                .a_bytes = extent(d[2], d[1], d[4], d[6] & ZERO_NN_TRANS_B, dtype),
                                .b_bytes = extent(d[0], d[2], d[3], d[6] & ZERO_NN_TRANS_A, dtype),
                                .c_bytes = extent(d[0], d[1], d[5], false, c_dtype(d, dtype)),
                                .vector_bytes = bias ? (uint64_t)d[1] * zero_dtype_size(dtype) : 0,
                                .aux = d[6] >> ZERO_NN_EPILOGUE_SHIFT != ZERO_NN_EPILOGUE_NONE,
                                .beta = d[6] & ZERO_NN_ACCUMULATE ? 1 : 0};
    char text[256];
    int best = 0;
    const cudaError_t status = zero_choices_measure(&timed, found, count, &best);
    if (status == cudaSuccess)
        return best;
    zero_nn_warn(nn, "%s is not measured: %s (%s)", zero_nn_shape_text(shape, text, sizeof text),
                 cudaGetErrorString(status), cudaGetErrorName(status));
    cudaGetLastError(); /* otherwise the next launch would report it */
    return 0;
}

/* Sets p->algo[bias] and its bytes of workspace: the choice that was read; or, when measuring, the fastest of the
 * heuristic's proposals; or the heuristic's first. Returns cuBLASLt's status; *call names the call that gave it. */
static cublasStatus_t choose(zero_nn_t *nn, product_t *p, const zero_nn_shape_t *shape, int bias,
                             cublasLtMatmulPreference_t preference, uint64_t *bytes, const char **call)
{
    zero_nn_cuda_t *cuda = nn->state;
    cublasLtMatmulHeuristicResult_t found[CHOICES], one;
    const zero_choice_t *chosen = zero_choices_find(&cuda->choices, shape, bias);
    cublasStatus_t status;
    int count = 0, fit = 0;
    if (chosen != NULL) {
        *call = CHECK;
        status = cublasLtMatmulAlgoCheck(cuda->blas, p->desc[bias], p->a, p->b, p->c, p->c, &chosen->algo, &one);
        p->algo[bias] = chosen->algo;
        *bytes = status == CUBLAS_STATUS_SUCCESS ? one.workspaceSize : 0;
        return status == CUBLAS_STATUS_SUCCESS && one.workspaceSize > ZERO_NN_CUDA_BLAS_WORKSPACE
                   ? CUBLAS_STATUS_NOT_SUPPORTED
                   : status;
    }
    *call = "cublasLtMatmulAlgoGetHeuristic";
    status = cublasLtMatmulAlgoGetHeuristic(cuda->blas, p->desc[bias], p->a, p->b, p->c, p->c, preference, CHOICES,
                                            found, &count);
    for (int i = 0; i < count && status == CUBLAS_STATUS_SUCCESS; i++)
        if (found[i].state == CUBLAS_STATUS_SUCCESS && found[i].workspaceSize <= ZERO_NN_CUDA_BLAS_WORKSPACE)
            found[fit++] = found[i];
    if (status != CUBLAS_STATUS_SUCCESS || fit == 0)
        return status == CUBLAS_STATUS_SUCCESS ? CUBLAS_STATUS_NOT_SUPPORTED : status;
    const int best = cuda->choices.measure && fit > 1 ? fastest(nn, p, shape, bias, found, fit) : 0;
    p->algo[bias] = found[best].algo;
    *bytes = found[best].workspaceSize;
    *call = "memory for a choice";
    return cuda->choices.measure && !zero_choices_add(&cuda->choices, shape, bias, &p->algo[bias])
               ? CUBLAS_STATUS_ALLOC_FAILED
               : CUBLAS_STATUS_SUCCESS;
}

zero_status_t zero_nn_cuda_gemm_plan(zero_nn_t *nn, zero_nn_plan_t *plan, zero_error_t *error)
{
    const zero_nn_cuda_t *cuda = nn->state;
    const int64_t *d = plan->shape.d, m = d[0], n = d[1], k = d[2], flags = d[6];
    const zero_dtype_t dtype = (zero_dtype_t)plan->shape.dtype;
    const char *call = "cublasLtMatmulDescCreate";
    cublasLtMatmulPreference_t preference = NULL;
    uint64_t bytes = 0, more = 0;
    const int epilogue = (int)(flags >> ZERO_NN_EPILOGUE_SHIFT);
    if (epilogue != ZERO_NN_EPILOGUE_NONE && !(cuda->gelu && dtype != ZERO_FP32 && n % 8 == 0 && k >= 2))
        return zero_fail(error, ZERO_ERR_UNSUPPORTED, "no product with this epilogue");
    /* plan->data stays NULL: our own kernel computes. cuBLASLt's heuristic refuses a bias if one side is 1 (seen by
     * PyTorch, addmm). */
    if (k < 2 || n < 2)
        return ZERO_OK;
    product_t *p = calloc(1, sizeof *p);
    if (p == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for %zu bytes of a product's plan", sizeof *p);
    cublasStatus_t status = describe(p, 0, flags, d[5]);
    if (status == CUBLAS_STATUS_SUCCESS && EPILOGUES[epilogue][1] != 0 && !(flags & ZERO_NN_WIDE))
        status = describe(p, 1, flags, d[5]);
    if (status != CUBLAS_STATUS_SUCCESS)
        goto fail;
    call = "cublasLtMatrixLayoutCreate";
    status = layout(&p->a, dtype, flags & ZERO_NN_TRANS_B, n, k, d[4]);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = layout(&p->b, dtype, flags & ZERO_NN_TRANS_A, k, m, d[3]);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = layout(&p->c, c_dtype(d, dtype), false, n, m, d[5]);
    if (status != CUBLAS_STATUS_SUCCESS)
        goto fail;
    call = "cublasLtMatmulPreferenceCreate";
    status = cublasLtMatmulPreferenceCreate(&preference);
    if (status != CUBLAS_STATUS_SUCCESS) {
        preference = NULL;
        goto fail;
    }
    status = prefer(preference, d, dtype);
    if (status != CUBLAS_STATUS_SUCCESS)
        goto fail;
    status = choose(nn, p, &plan->shape, 0, preference, &bytes, &call);
    if (status == CUBLAS_STATUS_SUCCESS) {
        if (p->desc[1] != NULL)
            status = choose(nn, p, &plan->shape, 1, preference, &more, &call);
        p->fused = status == CUBLAS_STATUS_SUCCESS;
        /* Without an epilogue, our own kernel can compute the product with the bias. */
        if (p->fused || epilogue == ZERO_NN_EPILOGUE_NONE) {
            plan->workspace = more > bytes ? more : bytes;
            plan->data = p;
        }
    }
    if (status != CUBLAS_STATUS_SUCCESS &&
        (call == CHECK || (status != CUBLAS_STATUS_NOT_SUPPORTED && status != CUBLAS_STATUS_INVALID_VALUE)))
        goto fail;
    cublasLtMatmulPreferenceDestroy(preference);
    if (plan->data != NULL)
        return ZERO_OK;
    product_free(p);
    return epilogue == ZERO_NN_EPILOGUE_NONE
               ? ZERO_OK
               : zero_fail(error, ZERO_ERR_UNSUPPORTED, "no algorithm with this epilogue");
fail:
    if (preference != NULL)
        cublasLtMatmulPreferenceDestroy(preference);
    product_free(p);
    plan->data = NULL;
    if (call == CHECK)
        return zero_fail(error, ZERO_ERR_ARG,
                         "cuBLASLt refuses the algorithm that the choices of products have for it (%s): measure again "
                         "into another file",
                         status_name(status));
    return zero_fail(error, ZERO_ERR_SYSTEM, "%s gives %s", call, status_name(status));
}

void zero_nn_cuda_gemm_unplan(zero_nn_plan_t *plan)
{
    product_free(plan->data);
    plan->data = NULL;
}

const char *zero_nn_cuda_gemm_maker(const zero_nn_plan_t *plan)
{
    const product_t *p = plan->data;
    return p->fused ? "cuBLASLt" : "cuBLASLt, but our own kernels with a bias";
}

/* Checks that the operand starts at the alignment that the algorithm assumes for its rows. */
static bool aligned(zero_nn_t *nn, const char *name, const void *p, uint32_t to)
{
    if ((uintptr_t)p % to == 0)
        return true;
    char text[256];
    zero_nn_fail(nn, ZERO_ERR_ARG,
                 "%s: %s at %p is not at a multiple of %u bytes, as products of this shape on a GPU require",
                 zero_nn_shape_text(&nn->plan->shape, text, sizeof text), name, p, (unsigned)to);
    return false;
}

void zero_nn_cuda_gemm(zero_nn_t *nn, const zero_nn_gemm_t *g)
{
    const zero_nn_cuda_t *cuda = nn->state;
    product_t *p = nn->plan->data;
    cudaStream_t stream = zero_nn_cuda_stream(nn);
    const float one = 1, zero = 0;
    if (p == NULL || (g->bias != NULL && !p->fused) || p->refused[g->bias != NULL]) {
        zero_nn_cuda_check(nn, "its kernel", zero_nn_cuda_product(g, stream));
        return;
    }
    if (!aligned(nn, "a", g->a, alignment(g->lda, g->dtype)) || !aligned(nn, "b", g->b, alignment(g->ldb, g->dtype)) ||
        !aligned(nn, "c", g->c, alignment(g->ldc, g->wide ? ZERO_FP32 : g->dtype)) ||
        !aligned(nn, "the bias", g->bias, ALIGNMENT) ||
        !aligned(nn, "aux", g->epilogue == ZERO_NN_EPILOGUE_NONE ? NULL : g->aux, ALIGNMENT))
        return;
    int bias = g->bias != NULL;
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    if (bias)
        status =
            cublasLtMatmulDescSetAttribute(p->desc[1], CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g->bias, sizeof g->bias);
    if (status == CUBLAS_STATUS_SUCCESS && g->epilogue != ZERO_NN_EPILOGUE_NONE)
        status = cublasLtMatmulDescSetAttribute(p->desc[bias], CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &g->aux,
                                                sizeof g->aux);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmul(cuda->blas, p->desc[bias], &one, g->b, p->a, g->a, p->b, g->accumulate ? &one : &zero,
                                g->c, p->c, g->c, p->c, &p->algo[bias], nn->workspace, nn->plan->workspace, stream);
    char text[256];
    if (status == CUBLAS_STATUS_NOT_SUPPORTED && !cuda->capturing) {
        zero_nn_warn(nn, "%s will be slow: cuBLASLt proposed an algorithm for it that it now refuses (%s), and %s",
                     zero_nn_shape_text(&nn->plan->shape, text, sizeof text), status_name(status),
                     g->epilogue == ZERO_NN_EPILOGUE_NONE ? "our own kernel computes it"
                                                          : "GELU is a kernel of its own");
        if (g->epilogue != ZERO_NN_EPILOGUE_NONE) {
            zero_nn_refuse(nn);
            return;
        }
        p->refused[bias] = true;
        zero_nn_cuda_check(nn, "its kernel", zero_nn_cuda_product(g, stream));
    } else if (status != CUBLAS_STATUS_SUCCESS) {
        zero_nn_fail(nn, ZERO_ERR_SYSTEM, "%s: cublasLtMatmul returns %s",
                     zero_nn_shape_text(&nn->plan->shape, text, sizeof text), status_name(status));
    }
}
