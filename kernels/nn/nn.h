/* SPDX-License-Identifier: Apache-2.0 */
/* nn.h - the kernels that models need, forward and backward: GEMM, attention, norms, embedding, cross-entropy. This is
 * a separate library. Models and train use it; libzero never links it. It has three backends:
 *  - "ref": plain C, the reference;
 *  - "cpu": oneDNN for GEMMs in fp32, and in bf16 if the processor is fast at them; other GEMMs in 16 bits by our own
 * kernel, which multiplies in fp32; OpenMP and SIMD for the rest;
 *  - "cuda" (plugin zero_nn_cuda): cuBLASLt for products; cuDNN for attention in bf16 and fp16; our own kernels for the
 * rest, and for attention if cuDNN is missing or rejects the shape.
 *
 * Matrices are row-major. dtype (fp32, bf16 or fp16) applies to weights, activations and gradients alike. Statistics
 * (mean, rstd, logsumexp, losses) are fp32. Sums run in fp32 inside a kernel and are rounded once, to nearest even. In
 * fp16 a result from 65520 on becomes an infinity, and small results are subnormal. Kernels use no float atomics and
 * choose algorithms by shape, never by address. So the same call with the same number of threads gives the same bits.
 * Gradients of parameters are accumulated (+=). A context belongs to one thread.
 *
 * The caller makes a dry run first. In dry mode every call only creates its primitive and notes the workspace that it
 * needs. It touches no buffer: all may be NULL. The caller then reserves zero_nn_workspace_bytes and passes the
 * workspace in. After that the context allocates nothing, except that oneDNN's sgemm takes up to 9 MB within a call.
 * Two calls are the same if they agree in sizes, leading dimensions, flags and dtype. Addresses do not count, nor does
 * the presence of an optional buffer. A call that had no dry run, or that needs more workspace than it has, fails with
 * ZERO_ERR_ORDER. A call with zero rows or elements does nothing. A call that fails for its arguments (indices
 * included) has written nothing. Programs must handle signals on a separate thread (sigwait): code that oneDNN
 * generates uses stack on which a signal handler cannot run.
 *
 * With "cuda", calls enqueue their work on the stream and return. Buffers and workspace are on the stream's GPU. This
 * GPU must be the thread's current one whenever the context is created or used. Tokens, targets, ranges and positions
 * are in page-locked host memory (the engine's host tier, cudaHostAlloc or cudaHostRegister): the call checks tokens,
 * targets and ranges on the host, and kernels read them there. Losses are in page-locked host memory or on the GPU;
 * kernels write them in place. Memory that the GPU cannot access gives ZERO_ERR_ARG. The caller must not write tokens,
 * targets, ranges or positions, or read losses, before the stream has completed the call. Heads have at most 256
 * elements. Sums over rows use partial sums whose number depends only on the shape. If a kernel fails after its launch,
 * a later call reports it, possibly a call of the engine.
 *
 * With "cuda", operands must also be aligned. If the rows of a product's operand (ld elements each) are a multiple of
 * 16 bytes, the operand must start at a multiple of 16 bytes. If the rows are only a multiple of 8, 4 or 2 bytes, that
 * alignment is enough. A bias always needs 16 bytes. aux needs the alignment of C. Operands of attention in bf16 and
 * fp16 need 16 bytes if their rows are a multiple of 16 bytes.
 *
 * After a failed call the context keeps its first error, and later calls do nothing. Check zero_nn_status once per
 * layer. */
#ifndef ZERO_NN_NN_H
#define ZERO_NN_NN_H

#include "zero/base/base.h"

typedef struct zero_nn zero_nn_t;

/* The largest number of threads that OpenMP's settings allow for a parallel region that the caller opens now. why (size
 * bytes) receives the limiting setting, as part of a sentence: "OMP_THREAD_LIMIT is 1". The number of cores does not
 * matter. */
int zero_nn_threads_most(char *why, size_t size);
/* backend: "cpu", "cuda", "ref", or "auto" (cpu). threads: CPU threads, at least 1; for "cpu" at most
 * zero_nn_threads_most. If a call's parallel region gets fewer threads (for example inside a parallel region of the
 * caller), a product fails with ZERO_ERR_ORDER because oneDNN needs all of them; other calls take longer. stream: the
 * engine's native stream (NULL on CPU). ZERO_ERR_UNSUPPORTED: "cuda" in a build without it, or on a machine without a
 * GPU. */
zero_status_t zero_nn_create(zero_nn_t **nn, const char *backend, int threads, void *stream, zero_error_t *error);
void zero_nn_destroy(zero_nn_t *nn);
/* Sets the stream for later calls, for an engine that was committed after the context was created. */
void zero_nn_set_stream(zero_nn_t *nn, void *stream);
/* The backend with its libraries: "ref", "cpu (oneDNN 2.6.3, avx512)", "cpu (without oneDNN, avx2)", "cuda (NVIDIA
 * H200, cuBLASLt 13.0.2, cuDNN 9.19.0)". cuDNN appears once a dry run has opened it. The string lives as long as the
 * context. */
const char *zero_nn_backend(const zero_nn_t *nn);
/* The best sizes for the head of a language model. The head computes logits = x W' and their gradients for a block of
 * rows at a time. */
typedef struct zero_nn_sizes {
    uint64_t logits_bytes;  /* upper bound for a block of logits; a block still has at least least_rows rows */
    uint64_t weights_bytes; /* approximate size, in fp32, of the rows of W that one product takes; 0: a product takes
                               all of W */
    int64_t least_rows;
    int64_t rows;    /* a block of logits has a multiple of this many rows, unless it has all rows */
    int64_t columns; /* the row stride of logits, in elements, is a multiple of this; so are the rows of W that one of
                        several products takes */
    bool wide_sums;  /* if several products add to one gradient of W, accumulate it in fp32 (zero_nn_gemm_t.wide) */
} zero_nn_sizes_t;
const zero_nn_sizes_t *zero_nn_sizes(const zero_nn_t *nn);
/* From now on log receives a sentence, as ZERO_LOG_WARNING, when a computation takes a slower path than possible. It
 * receives each reason once. NULL: no log. */
void zero_nn_set_log(zero_nn_t *nn, zero_log_fn log, void *ctx);
/* Selects the algorithms of products on a GPU. cuBLASLt has several algorithms for a shape and proposes one without
 * measuring. Call this before the dry run. text: the choices from zero_nn_choices of another context (NULL or "":
 * none). measure: time the algorithms of each product that text lacks. The dry run then executes them on temporary
 * memory. Equal choices give equal bits. ZERO_ERR_ARG: text has the wrong format, or is for another GPU or another
 * version of cuBLASLt. ZERO_ERR_UNSUPPORTED: the backend is not "cuda"; others have no choices. */
zero_status_t zero_nn_set_choices(zero_nn_t *nn, const char *text, bool measure, zero_error_t *error);
/* The choices that were read or measured so far, as lines of text. The caller frees it. NULL: out of memory, or the
 * backend is not "cuda". */
char *zero_nn_choices(const zero_nn_t *nn);
/* Describes in one line how the calls of the dry run so far are computed: "attention: cuDNN forward, our own kernels
 * backward; products: cuBLASLt; GELU: in its product forward, a kernel of its own backward". */
void zero_nn_describe(const zero_nn_t *nn, char *text, size_t size);
void zero_nn_set_dry(zero_nn_t *nn, bool dry);
/* Executes the calls on nn that calls(ctx) makes. "cuda" turns them into a CUDA graph: the first run outside dry mode
 * enqueues them, the second captures them, and each later run launches the graph without calling calls. So all
 * arguments must be equal in every run: sizes, flags, numbers and addresses. calls must not include embedding or
 * cross-entropy, which check the host's indices in each call. Positions of a rotary embedding, ranges of attention and
 * places of zero_nn_put_rows may change: each run reads them anew, but only the first two check ranges and places, and
 * wrong ones then give wrong numbers.
 * slot identifies the calls: the caller numbers them from 0 with few gaps. Graphs take memory that the driver owns,
 * until the context is destroyed. A new workspace causes new graphs. If a capture fails, the log receives one warning,
 * and every run enqueues the calls. */
void zero_nn_repeat(zero_nn_t *nn, int slot, void (*calls)(void *ctx), void *ctx);
/* false: zero_nn_repeat only executes the calls from now on. The default is true. */
void zero_nn_set_graphs(zero_nn_t *nn, bool graphs);
/* The largest workspace that any call so far needs, at an address that is a multiple of ZERO_NN_ALIGN (a requirement of
 * cuBLASLt). zero_reserve gives a smaller alignment: reserve ZERO_NN_ALIGN bytes more, and pass the first aligned
 * address. */
#define ZERO_NN_ALIGN 256
uint64_t zero_nn_workspace_bytes(const zero_nn_t *nn);
void zero_nn_set_workspace(zero_nn_t *nn, void *workspace, uint64_t bytes);
/* The first address at or after p at which a workspace may begin; NULL for NULL. */
static inline void *zero_nn_aligned(void *p)
{
    return p == NULL ? NULL : (char *)p + (ZERO_NN_ALIGN - (uintptr_t)p % ZERO_NN_ALIGN) % ZERO_NN_ALIGN;
}
/* Returns the first error since the last call of this function, or ZERO_OK, and clears it. */
zero_status_t zero_nn_status(zero_nn_t *nn, zero_error_t *error);

/* An epilogue: what happens to a product before it becomes C. With "cuda" the product's own kernel does it if that is
 * fast (gemm.c decides by GPU, shape and dtype). Otherwise, and always on CPU, the epilogue runs as the two calls named
 * below and has their bits. In one kernel the intermediate value is not rounded first: C is the GELU of the unrounded
 * value, and aux is the rounded one.
 *
 * ZERO_NN_EPILOGUE_GELU_NEW: aux (m, n) = the product with its bias, C = gelu_new(aux). As zero_nn_gemm to aux, then
 * zero_nn_act_forward.
 *
 * ZERO_NN_EPILOGUE_GELU_NEW_BACKWARD: C = the product * gelu_new'(aux (m, n)); dbias (n) += column sums of C if dbias
 * is not NULL (zero_nn_bias_backward). There is no bias. As zero_nn_gemm, then zero_nn_act_backward.
 *
 * C and aux are dense and distinct. accumulate must be false. */
typedef enum zero_nn_epilogue {
    ZERO_NN_EPILOGUE_NONE = 0,
    ZERO_NN_EPILOGUE_GELU_NEW,
    ZERO_NN_EPILOGUE_GELU_NEW_BACKWARD
} zero_nn_epilogue_t;

/* C (m, n) = A' (m, k) B' (k, n), + bias (n) if not NULL, + C if accumulate. A' is A, stored (m, k), or with trans_a
 * its transpose, stored (k, m). Likewise B is stored (k, n), or with trans_b (n, k). lda, ldb, ldc: elements between
 * successive rows as stored; 0: dense.
 *
 * With "cuda", one product becomes two if m, n or k is large and not a multiple of 8 elements, but the rows of the
 * matrices are. The first of them covers a multiple of 128. The reason: kernels are much slower if the rows that they
 * read end inside 16 bytes. If k is split, C is rounded twice. */
typedef struct zero_nn_gemm {
    int64_t m, n, k;
    bool trans_a, trans_b, accumulate;
    bool wide; /* C is fp32 for any dtype: sums of several products, for zero_nn_add_sums; no bias, no epilogue */
    int64_t lda, ldb, ldc;
    zero_dtype_t dtype;
    const void *a, *b, *bias;
    void *c;
    zero_nn_epilogue_t epilogue;
    void *aux;   /* of the epilogue; read only with GELU_NEW_BACKWARD */
    void *dbias; /* only with GELU_NEW_BACKWARD */
} zero_nn_gemm_t;
void zero_nn_gemm(zero_nn_t *nn, const zero_nn_gemm_t *g);

/* dbias (n) += column sums of dy (rows, n), on CPU in row order.
 *
 * Calls that write or read such a dy have a dbias argument of their own. If it is not NULL, they add to it the sums of
 * dy as it lies in memory, as this call would. On CPU they give the bits of this call. With "cuda" they do if cuDNN or
 * an epilogue of cuBLASLt writes dy; our own kernels sum while they write, in another order. */
void zero_nn_bias_backward(zero_nn_t *nn, void *dbias, const void *dy, int64_t rows, int64_t n, zero_dtype_t dtype);

/* y (rows, C) = wte[tokens[r]] + wpe[r mod T]; rows = B * T; wte (V, C); wpe (positions, C), or NULL for none. A token
 * < 0 is an error. The caller ensures that tokens are < V. */
void zero_nn_embedding_forward(zero_nn_t *nn, void *y, const int32_t *tokens, const void *wte, const void *wpe,
                               int64_t B, int64_t T, int64_t C, zero_dtype_t dtype);
/* dwte[tokens[r]] += dy[r], dwpe[t] += dy[b, t], in the order of r. dwpe may be NULL. A token < 0 or >= V is an
 * error. */
void zero_nn_embedding_backward(zero_nn_t *nn, void *dwte, void *dwpe, const void *dy, const int32_t *tokens, int64_t B,
                                int64_t T, int64_t C, int64_t V, zero_dtype_t dtype);

/* Rows [first, first + count) of a table (V, C). */
typedef struct zero_nn_tile {
    int64_t first, count;
} zero_nn_tile_t;
/* The same for a tile of the table: wte and dwte are (count, C). Rows of y whose tokens are in other tiles stay, and so
 * rows of dy with such tokens count for dwpe alone; tiles one after the other give the bits of the whole table. dwte
 * may be NULL if count is 0. V: of the whole table. */
void zero_nn_embedding_forward_tile(zero_nn_t *nn, void *y, const int32_t *tokens, const void *wte, const void *wpe,
                                    zero_nn_tile_t tile, int64_t B, int64_t T, int64_t C, zero_dtype_t dtype);
void zero_nn_embedding_backward_tile(zero_nn_t *nn, void *dwte, void *dwpe, const void *dy, const int32_t *tokens,
                                     zero_nn_tile_t tile, int64_t B, int64_t T, int64_t C, int64_t V,
                                     zero_dtype_t dtype);

/* Norms over vectors of C elements.
 *
 * Layer norm: y = (x - mean) * rstd * w + b, rstd = 1 / sqrt(variance + eps).
 *
 * With rms, RMS norm (Zhang and Sennrich 2019): y = x * rstd * w, rstd = 1 / sqrt(mean(x^2) + eps). In bf16 and fp16,
 * x * rstd is rounded before it is multiplied with w, as in Hugging Face's LlamaRMSNorm. There are no b, mean and db.
 *
 * A row holds `groups` vectors one after another, each with its own statistics and all with the same w and b. Queries
 * and keys are normalized like this, head by head, inside a matrix that holds more. If ldx is ldy, y may be x (then no
 * backward pass can follow), and dx may be dy. */
typedef struct zero_nn_norm {
    int64_t rows, C;
    int64_t groups;   /* 0: 1 */
    int64_t ldx, ldy; /* elements from row to row of x, residual, total, dx, dresidual; of y, dy. 0: groups * C */
    double eps;
    zero_dtype_t dtype;
    bool rms;
    const void *x, *w, *b; /* (rows, groups * C), (C), (C) */
    const void *residual;  /* forward, like x or NULL: total = x + residual, and y is the norm of total */
    void *total;           /* like x, only with residual; may be x or residual */
    void *y;               /* (rows, groups * C) */
    float *mean, *rstd;    /* (rows, groups): written by the forward pass if not NULL, read by the backward pass */
    /* backward */
    const void *dy;               /* like y: the gradient of y */
    const void *dresidual;        /* like x or NULL: added to dx; may be dx */
    void *dx;                     /* like x: the gradient of x */
    void *dw, *db;                /* (C): accumulated; NULL: not wanted */
    void *dbias, *dbias_residual; /* (C) or NULL: += column sums of dx; of dresidual before the call
                                     (zero_nn_bias_backward). Only with one group and dense rows. */
} zero_nn_norm_t;
/* Reads x, w, b; writes y, and total, mean, rstd. With residual, the results have the bits of zero_nn_add and of a norm
 * of total. */
void zero_nn_norm_forward(zero_nn_t *nn, const zero_nn_norm_t *l);
/* Reads dy, x, w, mean, rstd; writes dx, and adds to dw and db where they are wanted. x is what was normalized: after a
 * forward pass with residual, its total. eps is not read. */
void zero_nn_norm_backward(zero_nn_t *nn, const zero_nn_norm_t *l);

/* Activations, element by element. GELU_NEW is the tanh approximation of GELU ("gelu_new" and "gelu_pytorch_tanh";
 * Hendrycks and Gimpel 2016). GELU is exact: x (1 + erf(x / sqrt 2)) / 2. SiLU is x / (1 + e^-x). */
typedef enum zero_nn_activation {
    ZERO_NN_GELU_NEW = 0,
    ZERO_NN_GELU,
    ZERO_NN_RELU,
    ZERO_NN_SILU,
    ZERO_NN_ACTIVATION_COUNT
} zero_nn_activation_t;
/* y = act(x); y may be x. */
void zero_nn_act_forward(zero_nn_t *nn, zero_nn_activation_t act, void *y, const void *x, int64_t count,
                         zero_dtype_t dtype);
/* dx (rows, n) = dy * act'(x); dx may be dy. dbias (n) += column sums of dx if not NULL (zero_nn_bias_backward). */
void zero_nn_act_backward(zero_nn_t *nn, zero_nn_activation_t act, void *dx, void *dbias, const void *dy, const void *x,
                          int64_t rows, int64_t n, zero_dtype_t dtype);
/* y (rows, F) = act(gate) * up, rounded once. gu (rows, 2F): in each row first gate (F), then up (F). */
void zero_nn_gated_forward(zero_nn_t *nn, zero_nn_activation_t act, void *y, const void *gu, int64_t rows, int64_t F,
                           zero_dtype_t dtype);
/* dgu (rows, 2F) = the gradient of gu: dy * up * act'(gate), then dy * act(gate). dgu may be gu. */
void zero_nn_gated_backward(zero_nn_t *nn, zero_nn_activation_t act, void *dgu, const void *dy, const void *gu,
                            int64_t rows, int64_t F, zero_dtype_t dtype);

/* Rotary position embedding (Su et al. 2021) in place, as Hugging Face's rotate_half: in each head, element i and
 * element i + R/2 are the coordinates of a point, which is rotated by the angle position * frequencies[i] (rounded to
 * fp32) and multiplied with scale. Head h of row r starts at element x + r * ld + h * D. backward: by the negative
 * angle, for gradients. */
typedef struct zero_nn_rotary {
    int64_t rows, heads, D, ld; /* D at most ZERO_NN_ROTARY_MOST; ld 0: heads * D */
    int64_t T;                  /* at least 1: the position of row r is r mod T */
    int64_t R;                  /* the elements of a head that rotate, the first ones: even. 0: D */
    const int32_t *positions;   /* or, if not NULL: (rows), in host memory (with "cuda", as tokens are) */
    const float *frequencies;   /* (R/2), in host memory, read during the call */
    double scale;               /* 0: 1 */
    bool backward;
    zero_dtype_t dtype;
    void *x;
} zero_nn_rotary_t;
#define ZERO_NN_ROTARY_MOST 256
void zero_nn_rotary(zero_nn_t *nn, const zero_nn_rotary_t *r);

/* Row at[r] of y becomes row r of x; the other rows of y stay. No two of `at` are equal. Calls that differ only in rows
 * are the same call. */
typedef struct zero_nn_put {
    int64_t rows, C;
    int64_t ldx, ldy; /* elements from row to row; 0: C */
    int64_t places;   /* rows of y: each of `at` is below it */
    zero_dtype_t dtype;
    const int32_t *at; /* (rows), in host memory (with "cuda", as tokens are) */
    const void *x;     /* (rows, C) */
    void *y;           /* (places, C) */
} zero_nn_put_t;
void zero_nn_put_rows(zero_nn_t *nn, const zero_nn_put_t *p);

/* y = a + b; y may be a or b. */
void zero_nn_add(zero_nn_t *nn, void *y, const void *a, const void *b, int64_t count, zero_dtype_t dtype);

/* y = factor * x, rounded once; y may be x. */
void zero_nn_scale(zero_nn_t *nn, void *y, const void *x, double factor, int64_t count, zero_dtype_t dtype);

/* y += sums, rounded once. */
void zero_nn_add_sums(zero_nn_t *nn, void *y, const float *sums, int64_t count, zero_dtype_t dtype);

/* Attention, blockwise with an online softmax (Dao et al. 2022). Only one block of the (T, S) matrix of scores exists
 * at a time. q has B * T rows; k and v have B * S rows, so S other than T is cross attention. Head h of row r of q
 * starts at element q + r * q_stride + h * D; of k and v at + (h / (H / KV)) * D. out (B * T, H * D) is dense. lse (B,
 * H, T), fp32, receives the logsumexp of the scaled scores if not NULL. scale is normally 1 / sqrt(D).
 *
 * A query sees all keys of its own sequence, with two exceptions. With causal, a query in row t of a sequence sees only
 * keys 0 to t. With ranges, it sees only keys s with begin <= s < end, where begin and end are the two numbers of its
 * row in ranges (B * T, 2). Neither number may decrease from row to row of a sequence, and 0 <= begin <= end <= S; a
 * row that breaks this is an error. Ranges describe documents that are packed into a sequence (begin is the first row
 * of the query's document), padding after a sequence (end is its length), and both. A query that sees no key has an out
 * of 0, an lse of -infinity, and no gradients. Every row of q, k, v and dout must be finite, also rows that nothing
 * uses.
 *
 * Blocks of 64 keys that no query of a block of 64 queries sees take no time. If each document starts at a multiple of
 * 64 rows, our own kernels give the bits that the documents have as sequences of their own; for dk and dv on CPU, if
 * the number of threads divides B * KV in both cases. Otherwise the order of sums differs, and with it the rounding. So
 * it does if T is 1, because one query has kernels of its own. */
typedef struct zero_nn_attention {
    int64_t B, T, H, KV, D;
    int64_t S; /* 0: T */
    int64_t q_stride, k_stride, v_stride;
    double scale;
    bool causal; /* wants S = T */
    zero_dtype_t dtype;
    const int32_t *ranges; /* or NULL; in host memory, like tokens */
    const void *q, *k, *v;
    void *out;
    float *lse;
} zero_nn_attention_t;
void zero_nn_attention_forward(zero_nn_t *nn, const zero_nn_attention_t *a);
/* Overwrites dq, dk, dv, which have the strides of q, k, v. a->out and a->lse come from the forward pass. If dbias is
 * not NULL, S is T and dq, dk, dv form one matrix (rows, (H + 2 KV) D), with dk after dq and dv after dk in each row,
 * and dbias ((H + 2 KV) D) += its column sums (zero_nn_bias_backward). */
void zero_nn_attention_backward(zero_nn_t *nn, const zero_nn_attention_t *a, const void *dout, void *dq, void *dk,
                                void *dv, void *dbias);

/* losses[r] (fp32) = -log softmax(logits[r])[targets[r]]. With grad, the gradient scale * (softmax - onehot), rounded
 * once, overwrites logits. It is the gradient of scale times the sum of the losses; the losses themselves are not
 * scaled. logits (rows, V) has ld elements from row to row. A row whose target is ZERO_NN_IGNORE has the loss 0 and the
 * gradient 0. Any other target < 0 or >= V is an error. */
#define ZERO_NN_IGNORE (-100)
void zero_nn_cross_entropy(zero_nn_t *nn, float *losses, void *logits, const int32_t *targets, int64_t rows, int64_t V,
                           int64_t ld, bool grad, float scale, zero_dtype_t dtype);

/* The same for a vocabulary that is split over ranks. A part has the columns [first, first + V) of the logits: logits
 * (rows, V) with ld elements from row to row. V may be 0.
 *
 * First each rank calls zero_nn_cross_entropy_local, which writes stats (rows, 3) in fp32: the largest logit of the
 * row, the sum of exp(logit - largest), and the target's logit, or 0 if it is in another part. A part without columns,
 * and a row whose target is ZERO_NN_IGNORE, have -infinity, 0, 0; logits of -infinity alone have the sum 0. Then the
 * ranks gather their stats into (parts, rows, 3), with the parts in the same order on every rank, and each calls
 * zero_nn_cross_entropy_combine. It writes the losses of whole rows. With grad, the gradient overwrites this part's
 * logits; otherwise they are not used.
 *
 * Targets index the whole vocabulary: the caller ensures that each is in one of the parts. A target < 0 other than
 * ZERO_NN_IGNORE is an error. logits may be NULL if V is 0; in the second call also without grad. With "cuda", stats
 * are on the GPU.
 *
 * combine adds the parts in their order, and losses depend only on stats and targets. So losses have the same bits on
 * every rank. With one part, or if the other parts have no columns, losses and gradients have the bits of
 * zero_nn_cross_entropy; with more, they differ from it by rounding. On CPU no bit depends on the number of threads. */
void zero_nn_cross_entropy_local(zero_nn_t *nn, float *stats, const void *logits, const int32_t *targets, int64_t rows,
                                 int64_t first, int64_t V, int64_t ld, zero_dtype_t dtype);
void zero_nn_cross_entropy_combine(zero_nn_t *nn, float *losses, void *logits, const float *stats, int parts,
                                   const int32_t *targets, int64_t rows, int64_t first, int64_t V, int64_t ld,
                                   bool grad, float scale, zero_dtype_t dtype);

/* y = alpha * a + beta * b in fp32; y may be either. */
void zero_nn_combine(zero_nn_t *nn, float *y, double alpha, const float *a, double beta, const float *b, int64_t count);
/* y = x / max(|x|, least), |x| the root of the sum of squares, in fp32; y may be x. */
void zero_nn_normalize(zero_nn_t *nn, float *y, const float *x, int64_t count, double least);
/* x (rows, cols) in fp32 becomes approximately the nearest orthogonal matrix: its singular vectors stay, and its
 * singular values end between about 0.7 and 1.2, small ones last. Five Newton-Schulz steps on x / max(|x|, 1e-7), with
 * the coefficients of Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), as in
 * torch.optim.Muon, but in fp32. scratch: zero_nn_orthogonalize_bytes, at a multiple of ZERO_NN_ALIGN. */
uint64_t zero_nn_orthogonalize_bytes(int64_t rows, int64_t cols);
void zero_nn_orthogonalize(zero_nn_t *nn, float *x, void *scratch, int64_t rows, int64_t cols);

/* Copies bytes between any two buffers of the GPU or of page-locked host memory, in stream order. On CPU the copy is
 * complete on return. Does nothing in dry mode. */
void zero_nn_copy(zero_nn_t *nn, void *dst, const void *src, uint64_t bytes);
/* Sets bytes of such a buffer to 0, likewise. */
void zero_nn_clear(zero_nn_t *nn, void *dst, uint64_t bytes);

#endif
