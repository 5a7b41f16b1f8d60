/* SPDX-License-Identifier: Apache-2.0 */
/* backend.h - inside kernels/nn: what nn.c hands to a backend. nn.c checks arguments, keeps one plan per shape (made in
 * dry mode, found later) and provides the workspace; a backend makes plans and computes. */
#ifndef ZERO_NN_BACKEND_H
#define ZERO_NN_BACKEND_H

#include "kernels/nn/nn.h"

typedef enum zero_nn_op {
    ZERO_NN_GEMM = 0,       /* m, n, k, lda, ldb, ldc, flags */
    ZERO_NN_BIAS_BACKWARD,  /* rows, n */
    ZERO_NN_EMBED_FORWARD,  /* B, T, C */
    ZERO_NN_EMBED_BACKWARD, /* B, T, C, V */
    ZERO_NN_NORM_FORWARD,   /* rows, C */
    ZERO_NN_ADD_NORM,       /* rows, C */
    ZERO_NN_NORM_BACKWARD,  /* rows, C */
    ZERO_NN_GELU_FORWARD,   /* count */
    ZERO_NN_GELU_BACKWARD,  /* rows, n */
    ZERO_NN_ADD,            /* count */
    ZERO_NN_ADD_SUMS,       /* count */
    ZERO_NN_ATTN_FORWARD,   /* B, T, H, KV, D, strides of q, k, v */
    ZERO_NN_ATTN_BACKWARD,  /* the same */
    ZERO_NN_CROSS_ENTROPY,  /* rows, V, ld, grad */
    ZERO_NN_OP_COUNT
} zero_nn_op_t;

/* Flags of a GEMM's shape; its zero_nn_epilogue_t is above them. */
enum { ZERO_NN_TRANS_A = 1, ZERO_NN_TRANS_B = 2, ZERO_NN_ACCUMULATE = 4, ZERO_NN_WIDE = 8, ZERO_NN_EPILOGUE_SHIFT = 4 };

#define ZERO_NN_DIMS 8

/* What a plan depends on, and so what names it: never an address, nor whether an optional buffer is there. */
typedef struct zero_nn_shape {
    int32_t op, dtype;
    int64_t d[ZERO_NN_DIMS];
} zero_nn_shape_t;

typedef struct zero_nn_plan {
    zero_nn_shape_t shape;
    uint64_t workspace; /* bytes of zero_nn.workspace that the call may use */
    void *data;         /* the backend's own: primitives; freed by its unplan */
    bool refused;       /* zero_nn_refuse */
} zero_nn_plan_t;

typedef struct zero_nn_embedding {
    int64_t B, T, C, V;
    zero_dtype_t dtype;
    const int32_t *tokens; /* (B, T) */
    const void *wte, *wpe; /* forward: (V, C), (positions, C) or NULL */
    void *y;               /* forward: (B, T, C) */
    const void *dy;        /* backward: (B, T, C) */
    void *dwte, *dwpe;     /* backward: (V, C), (positions, C) or NULL */
} zero_nn_embedding_t;

typedef struct zero_nn_norm {
    int64_t rows, C;
    double eps;
    zero_dtype_t dtype;
    const void *x, *w, *b; /* (rows, C), (C), (C) */
    const void *residual;  /* (rows, C) or NULL: total (rows, C) = x + residual, and y is total's norm */
    void *total;
    void *y;            /* forward: (rows, C) */
    float *mean, *rstd; /* (rows); the backward reads them */
    const void *dy, *dresidual;
    void *dx, *dw, *db;
    void *dbias, *dbias_residual; /* (C) or NULL: sums of dx; of dresidual */
} zero_nn_norm_t;

typedef struct zero_nn_attention_grad {
    const void *dout;
    void *dq, *dk, *dv;
    void *dbias; /* NULL; or (zero_nn_attention_width) and dq, dk, dv are one matrix */
} zero_nn_attention_grad_t;

/* Elements of a row of q, k and v together. */
static inline int64_t zero_nn_attention_width(int64_t H, int64_t KV, int64_t D)
{
    return (H + 2 * KV) * D;
}

typedef struct zero_nn_entropy {
    int64_t rows, V, ld;
    bool grad;
    zero_dtype_t dtype;
    float *losses;          /* (rows) */
    void *logits;           /* (rows, V) */
    const int32_t *targets; /* (rows), all in range */
} zero_nn_entropy_t;

/* A backend. Arguments are checked: sizes are positive (k of a GEMM may be 0), leading dimensions filled in, indices in
 * range. nn->plan is the call's; its workspace bytes are at nn->workspace, aligned to ZERO_NN_ALIGN. */
typedef struct zero_nn_ops {
    const char *name;
    /* Whether gemm has epilogues. Where it has not that of a shape, plan gives ZERO_ERR_UNSUPPORTED, and nn.c makes the
     * two calls. */
    bool epilogues;
    /* Whether layernorm_forward adds a residual. */
    bool add_norm;
    /* Not 0: a product of a long size that is not a multiple of 16 bytes comes in two, the first of a multiple of this
     * (zero_nn_gemm_t says when). */
    int64_t even;
    zero_nn_sizes_t sizes;
    /* Fills plan->workspace and plan->data for plan->shape. The only place where a backend allocates. */
    zero_status_t (*plan)(zero_nn_t *nn, zero_nn_plan_t *plan, zero_error_t *error);
    void (*unplan)(zero_nn_plan_t *plan); /* may be NULL */
    /* zero_nn_set_choices, zero_nn_choices; both NULL where products have none. */
    zero_status_t (*set_choices)(zero_nn_t *nn, const char *text, bool measure, zero_error_t *error);
    char *(*choices)(const zero_nn_t *nn);
    /* What computes a plan of a product or of attention: "cuBLASLt", "our own kernels". NULL: our own kernels do. */
    const char *(*maker)(const zero_nn_plan_t *plan);
    zero_status_t (*open)(zero_nn_t *nn, zero_error_t *error); /* may be NULL, as close */
    void (*close)(zero_nn_t *nn);
    void (*gemm)(zero_nn_t *nn, const zero_nn_gemm_t *g);
    void (*bias_backward)(zero_nn_t *nn, void *dbias, const void *dy, int64_t rows, int64_t n, zero_dtype_t dtype);
    void (*embedding_forward)(zero_nn_t *nn, const zero_nn_embedding_t *e);
    void (*embedding_backward)(zero_nn_t *nn, const zero_nn_embedding_t *e);
    void (*layernorm_forward)(zero_nn_t *nn, const zero_nn_norm_t *l);
    void (*layernorm_backward)(zero_nn_t *nn, const zero_nn_norm_t *l);
    void (*gelu_forward)(zero_nn_t *nn, void *y, const void *x, int64_t count, zero_dtype_t dtype);
    void (*gelu_backward)(zero_nn_t *nn, void *dx, void *dbias, const void *dy, const void *x, int64_t rows, int64_t n,
                          zero_dtype_t dtype);
    void (*add)(zero_nn_t *nn, void *y, const void *a, const void *b, int64_t count, zero_dtype_t dtype);
    void (*add_sums)(zero_nn_t *nn, void *y, const float *sums, int64_t count, zero_dtype_t dtype);
    void (*attention_forward)(zero_nn_t *nn, const zero_nn_attention_t *a);
    void (*attention_backward)(zero_nn_t *nn, const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g);
    void (*cross_entropy)(zero_nn_t *nn, const zero_nn_entropy_t *e);
    void (*set_stream)(zero_nn_t *nn); /* tells libraries of nn->stream; may be NULL */
    void (*copy)(zero_nn_t *nn, void *dst, const void *src,
                 uint64_t bytes); /* no plan; bytes > 0. NULL: memcpy will do */
    void (*repeat)(zero_nn_t *nn, int slot, void (*calls)(void *ctx),
                   void *ctx); /* dry too. NULL: the calls are made each time */
} zero_nn_ops_t;

struct zero_nn {
    const zero_nn_ops_t *ops;
    void *state; /* the backend's */
    void *stream;
    int threads;
    bool dry;
    bool graphs;     /* whether ops->repeat is used */
    char label[64];  /* what zero_nn_backend says; open may add to the table's name */
    zero_log_fn log; /* NULL: none */
    void *log_ctx;
    zero_error_t error;    /* the first since zero_nn_status */
    zero_nn_plan_t *plans; /* in order of their making */
    int32_t *table;        /* open addressing: index into plans, or -1; capacity is a power of two */
    uint32_t count, capacity;
    const zero_nn_plan_t *plan; /* of the call that computes now */
    uint64_t need;              /* the most bytes that a plan wants */
    unsigned char *workspace;
    uint64_t workspace_bytes;
};

/* Keeps the first error of a context. */
void zero_nn_fail(zero_nn_t *nn, zero_status_t status, const char *format, ...) ZERO_PRINTF(3, 4);

/* Called by gemm, which has queued nothing: this product and its epilogue are two calls from here on, the present one
 * included. */
static inline void zero_nn_refuse(zero_nn_t *nn)
{
    nn->plans[nn->plan - nn->plans].refused = true;
}

/* A sentence for the log, as a warning. */
void zero_nn_warn(zero_nn_t *nn, const char *format, ...) ZERO_PRINTF(2, 3);

/* "layernorm_forward"; "gemm (512, 768, 2304, ...) in fp32" (text, which is returned). */
const char *zero_nn_op_name(int32_t op);
const char *zero_nn_shape_text(const zero_nn_shape_t *shape, char *text, size_t size);

/* Rows [0, rows) ordered by token, equal tokens by row: order (rows) int32, scratch (rows) int32. A stable radix sort.
 * Both backends add an embedding's gradient in this order, so that a row of dwte is read and rounded once. */
void zero_nn_sort_tokens(int32_t *order, int32_t *scratch, const int32_t *tokens, int64_t rows);

/* Element i of a buffer of fp32 or bf16. */
static inline float zero_nn_load(const void *p, int64_t i, zero_dtype_t dtype)
{
    return dtype == ZERO_FP32 ? ((const float *)p)[i] : zero_bf16_to_fp32(((const uint16_t *)p)[i]);
}
static inline void zero_nn_store(void *p, int64_t i, zero_dtype_t dtype, float value)
{
    if (dtype == ZERO_FP32)
        ((float *)p)[i] = value;
    else
        ((uint16_t *)p)[i] = zero_fp32_to_bf16(value);
}

/* Sizes of a head on a processor: enough for full speed of products, little beside a large model's state and for
 * kernels that keep sums of a whole product aside; rows of fp32 logits start at a cache line. */
#define ZERO_NN_CPU_SIZES                                                                                 \
    {                                                                                                     \
        .logits_bytes = 64u << 20, .weights_bytes = 16u << 20, .least_rows = 64, .rows = 1, .columns = 16 \
    }

extern const zero_nn_ops_t zero_nn_ref_ops;
extern const zero_nn_ops_t zero_nn_cpu_ops;

#endif
