/* SPDX-License-Identifier: Apache-2.0 */
/* nn.h - what models need: GEMM, attention, norms, embedding, cross-entropy, forward and backward. A library of its
 * own, used by the models and train; libzero never links it. Backends: "ref" (plain C, the truth), "cpu" (oneDNN GEMMs;
 * OpenMP and SIMD for the rest) and "cuda" (cuBLASLt; cuDNN for attention in bf16; our own kernels for the rest, and
 * for attention where cuDNN is not there or does not take the shape; the plugin zero_nn_cuda).
 *
 * Matrices are row-major. dtype (fp32 or bf16) is that of weights, activations and gradients alike; statistics (mean,
 * rstd, logsumexp, losses) are fp32; sums run in fp32 inside a kernel and are rounded once. Kernels use no float
 * atomics, and choose algorithms by shape, never by address, so the same call gives the same bits, for a given number
 * of threads. Gradients of parameters are added (+=). A context belongs to one thread. It allocates nothing after a dry
 * run (but oneDNN's sgemm takes up to 9 MB within a call): in dry mode every call only makes its primitive and notes
 * the workspace it needs, and touches no buffer (all may be NULL); the caller then reserves zero_nn_workspace_bytes and
 * hands it over. What counts as the same call: sizes, leading dimensions, flags and dtype; not addresses, nor whether
 * an optional buffer is there. A call outside dry mode that was not made dry first, or wants more workspace than there
 * is, is ZERO_ERR_ORDER. Calls of no rows or elements do nothing. After an error in its arguments (indices included) a
 * call has written nothing. Programs take signals on a thread of their own (sigwait): oneDNN's generated code does not
 * stand handlers on the stack that it uses.
 *
 * With "cuda", calls queue their work on the stream and return; buffers and workspace are on the stream's GPU, which is
 * the thread's current one when the context is made and used. But tokens and targets are the host's, page-locked (the
 * engine's host tier, cudaHostAlloc or cudaHostRegister): the call checks them on the host, and its kernels read them
 * there. Losses are the same, or the GPU's: kernels write them in place. Memory that the GPU cannot reach is
 * ZERO_ERR_ARG. Nobody may write tokens or targets, or read losses, before the stream has passed the call. Operands of
 * a product begin at multiples of 16 bytes where their rows are (those of ld elements); where rows are multiples of
 * less, of that; a bias always, aux as C does, and so do operands of attention in bf16 whose rows are. Heads hold at
 * most 256 elements. Sums over rows go through partial sums whose number depends on the shape alone. A kernel that
 * fails after its launch shows at a later call, of the engine too.
 *
 * Once a call failed, the context keeps its first error; calls after it do nothing: check zero_nn_status once a layer.
 */
#ifndef ZERO_NN_NN_H
#define ZERO_NN_NN_H

#include "zero/base/base.h"

typedef struct zero_nn zero_nn_t;

/* The most threads that OpenMP's settings allow a parallel region which the caller opens now. why (size bytes) gets
 * what bounds them, for a sentence: "OMP_THREAD_LIMIT is 1". It says nothing of cores. */
int zero_nn_threads_most(char *why, size_t size);
/* backend: "cpu", "cuda", "ref", or "auto" (cpu). threads >= 1, of the CPU's, and for "cpu" at most
 * zero_nn_threads_most. Where a call's region has fewer threads, as inside a parallel region of the caller's, a product
 * is ZERO_ERR_ORDER (oneDNN's need them all), and other calls take longer. stream: the engine's native stream (NULL on
 * CPU). ZERO_ERR_UNSUPPORTED for "cuda" in a build without it, and where there is no GPU. */
zero_status_t zero_nn_create(zero_nn_t **nn, const char *backend, int threads, void *stream, zero_error_t *error);
void zero_nn_destroy(zero_nn_t *nn);
/* The stream for calls from here on: of an engine that was committed after the context was made. */
void zero_nn_set_stream(zero_nn_t *nn, void *stream);
/* What computes: "ref", "cpu (oneDNN 2.6.3, avx512)", "cpu (without oneDNN, avx2)", "cuda (NVIDIA H200,
 * cuBLASLt 13.0.2, cuDNN 9.19.0)"; cuDNN is named once a dry run has opened it. Valid for the context's life. */
const char *zero_nn_backend(const zero_nn_t *nn);
/* How the head of a language model is computed best: logits = x W' for some of the rows at a time, and their gradients.
 */
typedef struct zero_nn_sizes {
    uint64_t logits_bytes; /* at most so many of logits at once, but at least least_rows of them */
    uint64_t
        weights_bytes; /* rows of W in one product take about so many at most, as fp32; 0: a product takes all of W */
    int64_t least_rows;
    int64_t rows;    /* rows of logits at once are a multiple of this, unless they are all */
    int64_t columns; /* elements from a row of logits to the next are a multiple of this, and rows of W that one of
                        several products takes */
    bool wide_sums;  /* a gradient of W that is the sum of several products is added up in fp32: zero_nn_gemm_t.wide */
} zero_nn_sizes_t;
const zero_nn_sizes_t *zero_nn_sizes(const zero_nn_t *nn);
/* From here on log gets a sentence, as ZERO_LOG_WARNING, where something will be computed more slowly than it could be:
 * each reason once. NULL: none. */
void zero_nn_set_log(zero_nn_t *nn, zero_log_fn log, void *ctx);
/* How products are computed on a GPU: cuBLASLt has several algorithms for a shape, and proposes one unmeasured. Before
 * the dry run: text holds the choices that another context's zero_nn_choices gave (NULL or "": none), measure says to
 * time the algorithms of each product that text does not have (within the dry run, which then runs them on memory that
 * it takes and gives back). Equal choices give equal bits. ZERO_ERR_ARG: text is not such a text, or is of another GPU
 * or another version of cuBLASLt; ZERO_ERR_UNSUPPORTED: not "cuda", whose products have no choices. */
zero_status_t zero_nn_set_choices(zero_nn_t *nn, const char *text, bool measure, zero_error_t *error);
/* The choices that were read or measured so far, as a text of lines that the caller frees; NULL: no memory, or not
 * "cuda". */
char *zero_nn_choices(const zero_nn_t *nn);
/* What computes the calls that were made dry so far, in one line: "attention: cuDNN forward, our own kernels backward;
 * products: cuBLASLt; GELU: in its product forward, a kernel of its own backward". */
void zero_nn_describe(const zero_nn_t *nn, char *text, size_t size);
void zero_nn_set_dry(zero_nn_t *nn, bool dry);
/* Makes the calls on nn that calls(ctx) makes. "cuda" makes a CUDA graph of them: the first run outside dry mode queues
 * them, the second captures them, and each run from there on launches the graph and does not call calls. So everything
 * they are given must be equal in every run: sizes, flags, numbers and addresses. No call may be an embedding's or
 * cross-entropy's, which check the host's indices in each call. slot names the calls: a number of the caller's, from 0
 * on, with few gaps. Graphs take memory that is the driver's own, and end with the context; another workspace makes new
 * ones. Where a capture fails, the log gets one warning, and the calls are queued in every run. */
void zero_nn_repeat(zero_nn_t *nn, int slot, void (*calls)(void *ctx), void *ctx);
/* false: zero_nn_repeat only makes the calls from here on. A context begins with true. */
void zero_nn_set_graphs(zero_nn_t *nn, bool graphs);
/* The most that any call so far needs, at an address that is a multiple of ZERO_NN_ALIGN (cuBLASLt wants this of its
 * workspace). zero_reserve aligns memory to less: reserve ZERO_NN_ALIGN bytes more, and hand over the first such
 * address. */
#define ZERO_NN_ALIGN 256
uint64_t zero_nn_workspace_bytes(const zero_nn_t *nn);
void zero_nn_set_workspace(zero_nn_t *nn, void *workspace, uint64_t bytes);
/* The first address from p on where a workspace may begin; NULL for NULL. */
static inline void *zero_nn_aligned(void *p)
{
    return p == NULL ? NULL : (char *)p + (ZERO_NN_ALIGN - (uintptr_t)p % ZERO_NN_ALIGN) % ZERO_NN_ALIGN;
}
/* The first error since the last call of this, ZERO_OK if none; clears it. */
zero_status_t zero_nn_status(zero_nn_t *nn, zero_error_t *error);

/* What is done to a product before it becomes C: with "cuda" by the product's own kernel where that is fast (gemm.c
 * says where: by GPU, shape and dtype), otherwise, and on CPU always, as the two calls that are named, whose bits it
 * has then. In one kernel what lies between is not rounded first: C is the GELU of what aux was rounded from.
 *
 * ZERO_NN_EPILOGUE_GELU: aux (m, n) = what C would be, C = gelu(aux); zero_nn_gemm to aux, zero_nn_gelu_forward.
 * ZERO_NN_EPILOGUE_GELU_BACKWARD: C = the product * gelu'(aux (m, n)), dbias (n) += column sums of C where not NULL
 * (zero_nn_bias_backward), no bias; zero_nn_gemm, zero_nn_gelu_backward.
 *
 * C and aux are dense and not the same; nothing is accumulated. */
typedef enum zero_nn_epilogue {
    ZERO_NN_EPILOGUE_NONE = 0,
    ZERO_NN_EPILOGUE_GELU,
    ZERO_NN_EPILOGUE_GELU_BACKWARD
} zero_nn_epilogue_t;

/* C (m, n) = A' (m, k) B' (k, n), + bias (n) where not NULL, + C where accumulate. A' is A, stored (m, k), or with
 * trans_a its transpose, stored (k, m); B likewise: (k, n), or with trans_b (n, k). lda, ldb, ldc: elements from a row
 * to the next as stored; 0: dense. With "cuda", a long m, n or k that is not a multiple of 8 elements, of matrices
 * whose rows are, is computed in two products, the first over a multiple of 128: kernels are much slower where the rows
 * that they read end inside of 16 bytes. Where it is k, C is rounded twice. */
typedef struct zero_nn_gemm {
    int64_t m, n, k;
    bool trans_a, trans_b, accumulate;
    bool wide; /* C is fp32 whatever dtype is: sums that more products add to, for zero_nn_add_sums; without a bias or
                  an epilogue */
    int64_t lda, ldb, ldc;
    zero_dtype_t dtype;
    const void *a, *b, *bias;
    void *c;
    zero_nn_epilogue_t epilogue;
    void *aux;   /* the epilogue's; read only with GELU_BACKWARD */
    void *dbias; /* only with GELU_BACKWARD */
} zero_nn_gemm_t;
void zero_nn_gemm(zero_nn_t *nn, const zero_nn_gemm_t *g);

/* dbias (n) += column sums of dy (rows, n), on CPU in row order.
 *
 * Calls that write or read such a dy add to a dbias of their own where it is not NULL: sums of the dy that lies in
 * memory, as this call would add. They have the bits of this call on CPU, and with "cuda" where cuDNN or an epilogue of
 * cuBLASLt writes dy; our own kernels sum while they write, in another order. */
void zero_nn_bias_backward(zero_nn_t *nn, void *dbias, const void *dy, int64_t rows, int64_t n, zero_dtype_t dtype);

/* y (rows, C) = wte[tokens[r]] + wpe[r mod T]; rows = B * T; wte (V, C), wpe (positions, C), or NULL: none. A token < 0
 * is an error; one >= V the caller's. */
void zero_nn_embedding_forward(zero_nn_t *nn, void *y, const int32_t *tokens, const void *wte, const void *wpe,
                               int64_t B, int64_t T, int64_t C, zero_dtype_t dtype);
/* dwte[tokens[r]] += dy[r], dwpe[t] += dy[b, t], in order of r; dwpe may be NULL. A token < 0 or >= V is an error. */
void zero_nn_embedding_backward(zero_nn_t *nn, void *dwte, void *dwpe, const void *dy, const int32_t *tokens, int64_t B,
                                int64_t T, int64_t C, int64_t V, zero_dtype_t dtype);

/* y = (x - mean) * rstd * w + b over rows of C; mean, rstd (rows) fp32 are written where not NULL. */
void zero_nn_layernorm_forward(zero_nn_t *nn, void *y, float *mean, float *rstd, const void *x, const void *w,
                               const void *b, int64_t rows, int64_t C, double eps, zero_dtype_t dtype);
/* total = x + residual, y = the norm of total: the bits of zero_nn_add and the call above, which it is on CPU. total
 * may be x or residual. */
void zero_nn_add_layernorm_forward(zero_nn_t *nn, void *total, void *y, float *mean, float *rstd, const void *x,
                                   const void *residual, const void *w, const void *b, int64_t rows, int64_t C,
                                   double eps, zero_dtype_t dtype);
/* dx = layer norm's gradient, + dresidual where not NULL (may be dx itself); dw, db (C) += . dbias (C) += column sums
 * of dx, dbias_residual (C) those of dresidual as it was, each where not NULL (zero_nn_bias_backward). */
void zero_nn_layernorm_backward(zero_nn_t *nn, void *dx, void *dbias, void *dw, void *db, const void *dresidual,
                                void *dbias_residual, const void *dy, const void *x, const void *w, const float *mean,
                                const float *rstd, int64_t rows, int64_t C, zero_dtype_t dtype);

/* GELU, tanh approximation ("gelu_new"; Hendrycks and Gimpel 2016). y may be x. */
void zero_nn_gelu_forward(zero_nn_t *nn, void *y, const void *x, int64_t count, zero_dtype_t dtype);
/* dx (rows, n) = dy * gelu'(x); dx may be dy. dbias (n) += column sums of dx where not NULL (zero_nn_bias_backward). */
void zero_nn_gelu_backward(zero_nn_t *nn, void *dx, void *dbias, const void *dy, const void *x, int64_t rows, int64_t n,
                           zero_dtype_t dtype);

/* y = a + b; y may be either. */
void zero_nn_add(zero_nn_t *nn, void *y, const void *a, const void *b, int64_t count, zero_dtype_t dtype);

/* y += sums, which are fp32; rounded once. */
void zero_nn_add_sums(zero_nn_t *nn, void *y, const float *sums, int64_t count, zero_dtype_t dtype);

/* Causal self-attention, blockwise with an online softmax (Dao et al. 2022): never more than a block of the (T, T)
 * matrix. Head h of row r of q is at q + r * q_stride + h * D (elements), of k and v at + (h / (H / KV)) * D; out
 * (rows, H * D) dense; lse (B, H, T) fp32, written where not NULL: logsumexp of the scaled scores. scale is normally 1
 * / sqrt(D). */
typedef struct zero_nn_attention {
    int64_t B, T, H, KV, D;
    int64_t q_stride, k_stride, v_stride;
    double scale;
    zero_dtype_t dtype;
    const void *q, *k, *v;
    void *out;
    float *lse;
} zero_nn_attention_t;
void zero_nn_attention_forward(zero_nn_t *nn, const zero_nn_attention_t *a);
/* dq, dk, dv with the strides of q, k, v: overwritten. a->out and a->lse are the forward's. With dbias they are one
 * matrix (rows, (H + 2 KV) D), dk behind dq and dv behind dk in each row, and dbias ((H + 2 KV) D) += its column sums
 * (zero_nn_bias_backward); NULL: not. */
void zero_nn_attention_backward(zero_nn_t *nn, const zero_nn_attention_t *a, const void *dout, void *dq, void *dk,
                                void *dv, void *dbias);

/* losses[r] (fp32) = -log softmax(logits[r])[targets[r]]; with grad, logits are overwritten by their gradient softmax -
 * onehot (the sum over rows, not the mean). logits (rows, V) with ld elements from row to row. A target < 0 or >= V is
 * an error. */
void zero_nn_cross_entropy(zero_nn_t *nn, float *losses, void *logits, const int32_t *targets, int64_t rows, int64_t V,
                           int64_t ld, bool grad, zero_dtype_t dtype);

/* Copies bytes between any two of the GPU's buffers and the host's, which are page-locked, behind the calls before it.
 * On CPU it is done on return. Does nothing in dry mode. */
void zero_nn_copy(zero_nn_t *nn, void *dst, const void *src, uint64_t bytes);

#endif
