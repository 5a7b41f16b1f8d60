/* SPDX-License-Identifier: Apache-2.0 */
/* backend.h - inside kernels/nn: the interface between nn.c and a backend. nn.c checks arguments, keeps one plan per
 * shape (created in dry mode, looked up later) and provides the workspace. A backend creates plans and computes. */
#ifndef ZERO_NN_BACKEND_H
#define ZERO_NN_BACKEND_H

#include "kernels/nn/nn.h"

#include <math.h>

typedef enum zero_nn_op {
    ZERO_NN_GEMM = 0,        /* m, n, k, lda, ldb, ldc, flags */
    ZERO_NN_BIAS_BACKWARD,   /* rows, n */
    ZERO_NN_EMBED_FORWARD,   /* B, T, C */
    ZERO_NN_EMBED_BACKWARD,  /* B, T, C, V */
    ZERO_NN_NORM_FORWARD,    /* rows, C; groups, ldx, ldy (0 as in zero_nn_norm_t); rms */
    ZERO_NN_NORM_BACKWARD,   /* the same */
    ZERO_NN_ACT_FORWARD,     /* count, act */
    ZERO_NN_ACT_BACKWARD,    /* rows, n, act */
    ZERO_NN_GATED_FORWARD,   /* rows, F, act */
    ZERO_NN_GATED_BACKWARD,  /* the same */
    ZERO_NN_ROTARY,          /* rows, T, heads, D, ld, R, backward */
    ZERO_NN_PUT_ROWS,        /* C, ldx, ldy */
    ZERO_NN_ADD,             /* count */
    ZERO_NN_SCALE,           /* count */
    ZERO_NN_ADD_SUMS,        /* count */
    ZERO_NN_ATTN_FORWARD,    /* B, T, H, KV, D, strides of q, k, v, S, causal */
    ZERO_NN_ATTN_BACKWARD,   /* the same */
    ZERO_NN_CROSS_ENTROPY,   /* rows, V, ld, grad */
    ZERO_NN_ENTROPY_LOCAL,   /* rows, V, ld */
    ZERO_NN_ENTROPY_COMBINE, /* rows, V, ld, grad, parts */
    ZERO_NN_COMBINE,         /* count */
    ZERO_NN_NORMALIZE,       /* count */
    ZERO_NN_OP_COUNT
} zero_nn_op_t;

/* Flags of a GEMM's shape. The bits above them hold its zero_nn_epilogue_t. */
enum { ZERO_NN_TRANS_A = 1, ZERO_NN_TRANS_B = 2, ZERO_NN_ACCUMULATE = 4, ZERO_NN_WIDE = 8, ZERO_NN_EPILOGUE_SHIFT = 4 };

#define ZERO_NN_DIMS 10

/* The key of a plan: everything that it depends on. It contains no address, and does not record whether an optional
 * buffer is present. */
typedef struct zero_nn_shape {
    int32_t op, dtype;
    int64_t d[ZERO_NN_DIMS];
} zero_nn_shape_t;

typedef struct zero_nn_plan {
    zero_nn_shape_t shape;
    uint64_t workspace; /* bytes of zero_nn.workspace that the call may use */
    void *data;         /* owned by the backend: primitives; its unplan frees them */
    bool refused;       /* set by zero_nn_refuse */
} zero_nn_plan_t;

typedef struct zero_nn_embedding {
    int64_t B, T, C, V;
    zero_nn_tile_t tile; /* of the table: what wte and dwte have of it */
    zero_dtype_t dtype;
    const int32_t *tokens; /* (B, T) */
    const void *wte, *wpe; /* forward: (tile.count, C), (positions, C) or NULL */
    void *y;               /* forward: (B, T, C) */
    const void *dy;        /* backward: (B, T, C) */
    void *dwte, *dwpe;     /* backward: (tile.count, C), (positions, C) or NULL */
} zero_nn_embedding_t;

/* Whether a token's row of the table is in the tile. */
static inline bool zero_nn_has_token(const zero_nn_tile_t *tile, int64_t token)
{
    return token >= tile->first && token - tile->first < tile->count;
}

/* Where vector i of a norm lies: vector i mod groups of row i / groups. ld: ldx or ldy. */
static inline int64_t zero_nn_norm_at(const zero_nn_norm_t *l, int64_t ld, int64_t i)
{
    return l->groups == 1 ? i * ld : i / l->groups * ld + i % l->groups * l->C;
}

typedef struct zero_nn_act_grad {
    zero_nn_activation_t act;
    int64_t rows, n;
    zero_dtype_t dtype;
    const void *dy, *x;
    void *dx;    /* may be dy */
    void *dbias; /* (n) or NULL */
} zero_nn_act_grad_t;

typedef struct zero_nn_gated {
    zero_nn_activation_t act;
    int64_t rows, F;
    zero_dtype_t dtype;
    const void *gu; /* (rows, 2F): gate, up */
    void *y;        /* forward: (rows, F) */
    const void *dy; /* backward: (rows, F) */
    void *dgu;      /* backward: (rows, 2F), may be gu */
} zero_nn_gated_t;

/* The keys [begin, end) that a query sees: row t of sequence b. For ranges in order, neither number decreases from row
 * to row. The range is empty if end <= begin. */
static inline void zero_nn_attention_seen(const zero_nn_attention_t *a, int64_t b, int64_t t, int64_t *begin,
                                          int64_t *end)
{
    const int32_t *range = a->ranges == NULL ? NULL : a->ranges + 2 * (b * a->T + t);
    const int64_t last = a->causal ? t + 1 : a->S;
    *begin = range == NULL ? 0 : range[0];
    *end = range == NULL || range[1] > last ? last : range[1];
}

typedef struct zero_nn_attention_grad {
    const void *dout;
    void *dq, *dk, *dv;
    void *dbias; /* NULL; or (zero_nn_attention_width), if dq, dk and dv are one matrix */
} zero_nn_attention_grad_t;

/* Elements of a row that holds q, k and v. */
static inline int64_t zero_nn_attention_width(int64_t H, int64_t KV, int64_t D)
{
    return (H + 2 * KV) * D;
}

typedef struct zero_nn_entropy {
    int64_t rows, V, ld;
    bool grad;
    float scale; /* of the gradient */
    zero_dtype_t dtype;
    float *losses;          /* (rows) */
    void *logits;           /* (rows, V) */
    const int32_t *targets; /* (rows), all in range or ZERO_NN_IGNORE */
    /* Of local and combine, whose logits are a part of the vocabulary; V may be 0, and logits is then not used. */
    int64_t first;    /* the vocabulary's index of the first column */
    float *stats;     /* local: (rows, 3) */
    const float *all; /* combine: (parts, rows, 3) */
    int64_t parts;
} zero_nn_entropy_t;

/* The column of row r's target, or -1 if it is in another part. */
static inline int64_t zero_nn_entropy_column(const zero_nn_entropy_t *e, int64_t r)
{
    int64_t column = e->targets[r] - e->first;
    return column >= 0 && column < e->V ? column : -1;
}

/* The stats of row r in all parts together, on CPU. A part's NaN is in its sum, and so in the total's. */
static inline void zero_nn_entropy_total(const zero_nn_entropy_t *e, int64_t r, float total[3])
{
    total[0] = -INFINITY;
    total[1] = total[2] = 0;
    for (int64_t p = 0; p < e->parts; p++) {
        const float *part = e->all + 3 * (p * e->rows + r);
        total[0] = part[0] > total[0] ? part[0] : total[0];
    }
    for (int64_t p = 0; p < e->parts; p++) {
        const float *part = e->all + 3 * (p * e->rows + r);
        total[1] += part[1] * expf(part[0] - total[0]);
        total[2] += part[2];
    }
}

/* The loss of a row with these stats. */
static inline float zero_nn_entropy_loss(const float total[3])
{
    return logf(total[1]) + total[0] - total[2];
}

/* A backend. Its arguments are already checked: sizes are positive (k of a GEMM may be 0), leading dimensions are
 * filled in, and indices are in range. nn->plan is the plan of the call. Its workspace bytes are at nn->workspace,
 * aligned to ZERO_NN_ALIGN. */
typedef struct zero_nn_ops {
    const char *name;
    /* Whether gemm has epilogues. If it lacks the epilogue of a shape, plan returns ZERO_ERR_UNSUPPORTED, and nn.c
     * makes the two calls. */
    bool epilogues;
    /* If not 0: nn.c splits a product with a large size that is not a multiple of 16 bytes in two. The first part is a
     * multiple of this number (see zero_nn_gemm_t). */
    int64_t even;
    zero_nn_sizes_t sizes;
    /* Fills plan->workspace and plan->data for plan->shape. A backend allocates only here. */
    zero_status_t (*plan)(zero_nn_t *nn, zero_nn_plan_t *plan, zero_error_t *error);
    void (*unplan)(zero_nn_plan_t *plan); /* may be NULL */
    /* For zero_nn_set_choices and zero_nn_choices; both NULL if the backend's products have no choices. */
    zero_status_t (*set_choices)(zero_nn_t *nn, const char *text, bool measure, zero_error_t *error);
    char *(*choices)(const zero_nn_t *nn);
    /* The name of the implementation of a product's or attention's plan: "cuBLASLt", "our own kernels". NULL: always
     * our own kernels. */
    const char *(*maker)(const zero_nn_plan_t *plan);
    zero_status_t (*open)(zero_nn_t *nn, zero_error_t *error); /* may be NULL, like close */
    void (*close)(zero_nn_t *nn);
    void (*gemm)(zero_nn_t *nn, const zero_nn_gemm_t *g);
    void (*bias_backward)(zero_nn_t *nn, void *dbias, const void *dy, int64_t rows, int64_t n, zero_dtype_t dtype);
    void (*embedding_forward)(zero_nn_t *nn, const zero_nn_embedding_t *e);
    void (*embedding_backward)(zero_nn_t *nn, const zero_nn_embedding_t *e);
    void (*norm_forward)(zero_nn_t *nn, const zero_nn_norm_t *l);
    void (*norm_backward)(zero_nn_t *nn, const zero_nn_norm_t *l);
    void (*act_forward)(zero_nn_t *nn, zero_nn_activation_t act, void *y, const void *x, int64_t count,
                        zero_dtype_t dtype);
    void (*act_backward)(zero_nn_t *nn, const zero_nn_act_grad_t *a);
    void (*gated_forward)(zero_nn_t *nn, const zero_nn_gated_t *g);
    void (*gated_backward)(zero_nn_t *nn, const zero_nn_gated_t *g);
    void (*rotary)(zero_nn_t *nn, const zero_nn_rotary_t *r);
    void (*put_rows)(zero_nn_t *nn, const zero_nn_put_t *p);
    void (*add)(zero_nn_t *nn, void *y, const void *a, const void *b, int64_t count, zero_dtype_t dtype);
    void (*scale)(zero_nn_t *nn, void *y, const void *x, float factor, int64_t count, zero_dtype_t dtype);
    void (*add_sums)(zero_nn_t *nn, void *y, const float *sums, int64_t count, zero_dtype_t dtype);
    void (*attention_forward)(zero_nn_t *nn, const zero_nn_attention_t *a);
    void (*attention_backward)(zero_nn_t *nn, const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g);
    void (*cross_entropy)(zero_nn_t *nn, const zero_nn_entropy_t *e);
    void (*entropy_local)(zero_nn_t *nn, const zero_nn_entropy_t *e);
    void (*entropy_combine)(zero_nn_t *nn, const zero_nn_entropy_t *e);
    void (*combine)(zero_nn_t *nn, float *y, float alpha, const float *a, float beta, const float *b, int64_t count);
    void (*normalize)(zero_nn_t *nn, float *y, const float *x, int64_t count, float least);
    void (*set_stream)(zero_nn_t *nn); /* passes nn->stream to libraries; may be NULL */
    void (*copy)(zero_nn_t *nn, void *dst, const void *src,
                 uint64_t bytes);                            /* without a plan; bytes > 0. NULL: memcpy suffices */
    void (*clear)(zero_nn_t *nn, void *dst, uint64_t bytes); /* likewise; NULL: memset suffices */
    void (*repeat)(zero_nn_t *nn, int slot, void (*calls)(void *ctx),
                   void *ctx); /* in dry mode too. NULL: make the calls each time */
} zero_nn_ops_t;

struct zero_nn {
    const zero_nn_ops_t *ops;
    void *state; /* owned by the backend */
    void *stream;
    int threads;
    bool dry;
    bool graphs;     /* whether to use ops->repeat */
    char label[64];  /* the result of zero_nn_backend; open may append to the table's name */
    zero_log_fn log; /* NULL: none */
    void *log_ctx;
    zero_error_t error;    /* the first since zero_nn_status was last called */
    zero_nn_plan_t *plans; /* in order of creation */
    int32_t *table;        /* open addressing: index into plans, or -1; the capacity is a power of two */
    uint32_t count, capacity;
    const zero_nn_plan_t *plan; /* of the current call */
    uint64_t need;              /* the largest workspace of a plan, in bytes */
    unsigned char *workspace;
    uint64_t workspace_bytes;
};

/* Keeps the first error of a context. */
void zero_nn_fail(zero_nn_t *nn, zero_status_t status, const char *format, ...) ZERO_PRINTF(3, 4);

/* gemm calls it before it has enqueued anything. From then on, this product and its epilogue are two calls, including
 * the current one. */
static inline void zero_nn_refuse(zero_nn_t *nn)
{
    nn->plans[nn->plan - nn->plans].refused = true;
}

/* Writes a sentence to the log as a warning. */
void zero_nn_warn(zero_nn_t *nn, const char *format, ...) ZERO_PRINTF(2, 3);

/* "norm_forward"; "gemm (512, 768, 2304, ...) in fp32" (written to text, which is returned). */
const char *zero_nn_op_name(int32_t op);
const char *zero_nn_shape_text(const zero_nn_shape_t *shape, char *text, size_t size);

/* Returns the shape's plan if the call should compute. Returns NULL in dry mode (after creating the plan) and after an
 * error. */
const zero_nn_plan_t *zero_nn_plan_begin(zero_nn_t *nn, const zero_nn_shape_t *shape);
/* Whether the backend fuses the product and its epilogue, as the dry run found out or this call does. */
bool zero_nn_plan_is_fused(zero_nn_t *nn, const zero_nn_shape_t *shape);

/* Orders rows [0, rows) by token, and equal tokens by row, with a stable radix sort: order (rows) int32, scratch (rows)
 * int32. Both backends add an embedding's gradient in this order, so a row of dwte is read and rounded once. */
void zero_nn_sort_tokens(int32_t *order, int32_t *scratch, const int32_t *tokens, int64_t rows);

/* Elements per block in normalize's sum of squares on CPU. Blocks are fp64 sums, added in order, so the result does not
 * depend on the number of threads. */
enum { ZERO_NN_SQUARES = 4096 };
static inline int64_t zero_nn_square_blocks(int64_t count)
{
    return (count + ZERO_NN_SQUARES - 1) / ZERO_NN_SQUARES;
}
static inline double zero_nn_square_block(const float *x, int64_t count, int64_t block)
{
    int64_t begin = block * ZERO_NN_SQUARES, end = count - begin < ZERO_NN_SQUARES ? count : begin + ZERO_NN_SQUARES;
    double sum = 0;
    for (int64_t i = begin; i < end; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}
/* The factor for x: 1 / max(norm, least). */
static inline float zero_nn_inverse_norm(const double *blocks, int64_t n, float least)
{
    double sum = 0;
    for (int64_t b = 0; b < n; b++)
        sum += blocks[b];
    double norm = sqrt(sum);
    return (float)(1 / (norm > (double)least ? norm : (double)least));
}

/* Sizes of a head on CPU. They give products full speed and are small compared to the state of a large model and to
 * kernels that keep sums of a whole product aside. Rows of fp32 logits start at a cache line. */
#define ZERO_NN_CPU_SIZES                                                                                 \
    {                                                                                                     \
        .logits_bytes = 64u << 20, .weights_bytes = 16u << 20, .least_rows = 64, .rows = 1, .columns = 16 \
    }

extern const zero_nn_ops_t zero_nn_ref_ops;
extern const zero_nn_ops_t zero_nn_cpu_ops;

#endif
