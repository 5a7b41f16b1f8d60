/* SPDX-License-Identifier: Apache-2.0 */
/* sdpa.c - attention in bf16 and fp16 as cuDNN graphs. cuDNN recognizes them as flash attention and computes each with
 * one or a few kernels. The graphs follow its frontend (NVIDIA, cudnn-frontend, scaled_dot_product_flash_attention.h),
 * because cuDNN does not recognize another order of operations. The statistics of the forward graph are the logsumexp
 * of nn.h.
 *
 * In the backward graph many blocks of keys contribute to the sums for dq. With an fp32 buffer for them, cuDNN adds
 * them in the order of completion, and bits vary. Without that buffer, as here, it stores dS (heads, T, S) in its
 * workspace and multiplies it by the keys afterwards. To bound this workspace, a call runs over some sequences at a
 * time, or over some key heads of one. */
#if defined(HAVE_CUDNN)

#include "kernels/nn/cuda/cudnn_graph.h"

#include <float.h>
#include <stdlib.h>

#define PIECE ((int64_t)256 << 20) /* target for the bytes of dS in a piece */
#define MOST ((int64_t)1 << 30)    /* our own kernels compute larger ones */
#define BLOCK 128                  /* cuDNN rounds T and S up to a multiple of it in dS */

/* Numbers of the tensors in calls. */
enum { Q = 1, K, V, OUT, LSE, SCALE, LOWEST, ONE, DELTA, DOUT, DQ, DK, DV };

struct zero_sdpa {
    zero_cudnn_t *cudnn;
    cudnnBackendDescriptor_t plan;
    bool backward;
    int64_t sequences, key_heads; /* in a piece */
    int64_t bytes; /* of cuDNN's workspace; after it lie lse (forward, if the caller has none) or delta (backward) */
};

/* The sizes of a piece, with the strides of the whole. */
typedef struct piece {
    int64_t B, T, S, H, KV, D, heads; /* heads: of the whole; H: of the piece */
    int64_t q_stride, k_stride, v_stride;
    bool causal;
} piece_t;

static int64_t up(int64_t x, int64_t unit)
{
    return (x + unit - 1) / unit * unit;
}

/* ---- tensors ---------------------------------------------------------------------------------------------------- */

/* (B, H, T, D) of the rows of queries, with stride elements. */
static zero_graph_dims_t queries_of(const piece_t *p, int64_t stride)
{
    return (zero_graph_dims_t){{p->B, p->H, p->T, p->D}, {p->T * stride, p->D, stride, 1}};
}

/* (B, KV, S, D) of the rows of keys, with stride elements; transposed: (B, KV, D, S). */
static zero_graph_dims_t keys_of(const piece_t *p, int64_t stride, bool transposed)
{
    zero_graph_dims_t d = {{p->B, p->KV, p->S, p->D}, {p->S * stride, p->D, stride, 1}};
    if (transposed)
        d = (zero_graph_dims_t){{p->B, p->KV, p->D, p->S}, {p->S * stride, p->D, 1, stride}};
    return d;
}

/* (B, H, T, 1); outside: in the layout of a caller's buffer (B, heads, T). */
static zero_graph_dims_t column_of(const piece_t *p, bool outside)
{
    return (zero_graph_dims_t){{p->B, p->H, p->T, 1}, {(outside ? p->heads : p->H) * p->T, p->T, 1, 1}};
}

static cudnnBackendDescriptor_t io(zero_graph_t *g, int64_t number, zero_graph_dims_t dims)
{
    return zero_graph_tensor(g, number, g->type, dims, false);
}

static cudnnBackendDescriptor_t scalar(zero_graph_t *g, int64_t number)
{
    return zero_graph_tensor(g, number, CUDNN_DATA_FLOAT, (zero_graph_dims_t){{1, 1, 1, 1}, {1, 1, 1, 1}}, true);
}

static cudnnBackendDescriptor_t column(zero_graph_t *g, const piece_t *p)
{
    return zero_graph_tensor(g, 0, CUDNN_DATA_FLOAT, column_of(p, false), false);
}

/* (B, H, T, S) inside the graph. */
static cudnnBackendDescriptor_t square(zero_graph_t *g, const piece_t *p, cudnnDataType_t type)
{
    const int64_t T = p->T, S = p->S;
    return zero_graph_tensor(g, 0, type, (zero_graph_dims_t){{p->B, p->H, T, S}, {p->H * T * S, T * S, S, 1}}, false);
}

static cudnnBackendDescriptor_t scores(zero_graph_t *g, const piece_t *p)
{
    return square(g, p, CUDNN_DATA_FLOAT);
}

/* ---- parts of both graphs --------------------------------------------------------------------------------------- */

static void binary(zero_graph_t *g, cudnnPointwiseMode_t mode, cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t b,
                   cudnnBackendDescriptor_t y)
{
    zero_graph_pointwise(g, mode, CUDNN_DATA_FLOAT, x, b, NULL, y, -1);
}

static void unary(zero_graph_t *g, cudnnPointwiseMode_t mode, cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t y)
{
    zero_graph_pointwise(g, mode, CUDNN_DATA_FLOAT, x, NULL, NULL, y, -1);
}

/* x; in causal attention the lowest number if the key is after the query. */
static cudnnBackendDescriptor_t causal(zero_graph_t *g, const piece_t *p, cudnnBackendDescriptor_t x)
{
    if (!p->causal)
        return x;
    cudnnBackendDescriptor_t row = square(g, p, CUDNN_DATA_INT32), key = square(g, p, CUDNN_DATA_INT32);
    cudnnBackendDescriptor_t seen = square(g, p, CUDNN_DATA_BOOLEAN), y = scores(g, p);
    zero_graph_pointwise(g, CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_INT32, x, NULL, NULL, row, 2);
    zero_graph_pointwise(g, CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_INT32, x, NULL, NULL, key, 3);
    zero_graph_pointwise(g, CUDNN_POINTWISE_CMP_GE, CUDNN_DATA_BOOLEAN, row, key, NULL, seen, -1);
    zero_graph_pointwise(g, CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT, x, scalar(g, LOWEST), seen, y, -1);
    return y;
}

/* ---- the graphs ------------------------------------------------------------------------------------------------- */

static void forward_graph(zero_graph_t *g, const piece_t *p)
{
    cudnnBackendDescriptor_t q = io(g, Q, queries_of(p, p->q_stride)), k = io(g, K, keys_of(p, p->k_stride, true));
    cudnnBackendDescriptor_t v = io(g, V, keys_of(p, p->v_stride, false)),
                             out = io(g, OUT, queries_of(p, p->heads * p->D));
    cudnnBackendDescriptor_t lse = zero_graph_tensor(g, LSE, CUDNN_DATA_FLOAT, column_of(p, true), false);
    cudnnBackendDescriptor_t s = scores(g, p), scaled = scores(g, p), less = scores(g, p), e = scores(g, p),
                             softmax = square(g, p, g->type);
    cudnnBackendDescriptor_t max = column(g, p), sum = column(g, p), log = column(g, p);

    zero_graph_matmul(g, q, k, s);
    binary(g, CUDNN_POINTWISE_MUL, s, scalar(g, SCALE), scaled);
    cudnnBackendDescriptor_t masked = causal(g, p, scaled);
    zero_graph_reduce(g, CUDNN_REDUCE_TENSOR_MAX, masked, max);
    binary(g, CUDNN_POINTWISE_SUB, masked, max, less);
    unary(g, CUDNN_POINTWISE_EXP, less, e);
    zero_graph_reduce(g, CUDNN_REDUCE_TENSOR_ADD, e, sum);
    unary(g, CUDNN_POINTWISE_LOG, sum, log);
    binary(g, CUDNN_POINTWISE_ADD, max, log, lse);
    binary(g, CUDNN_POINTWISE_DIV, e, sum, softmax);
    zero_graph_matmul(g, softmax, v, out);
}

/* grad (B, KV, S, D) = x (B, H, T, S), transposed, times y (B, H, T, D), summed over the heads that share a key. */
static void key_grad(zero_graph_t *g, const piece_t *p, cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t y,
                     cudnnBackendDescriptor_t grad)
{
    const int64_t T = p->T, S = p->S, D = p->D; /* across: (B, H, S, T) */
    cudnnBackendDescriptor_t across =
        zero_graph_tensor(g, 0, g->type, (zero_graph_dims_t){{p->B, p->H, S, T}, {p->H * T * S, T * S, 1, S}}, false);
    zero_graph_reshape(g, x, across);
    if (p->H == p->KV) {
        zero_graph_matmul(g, across, y, grad);
        return;
    }
    cudnnBackendDescriptor_t all =
        io(g, 0, (zero_graph_dims_t){{p->B, p->H, S, D}, {p->H * S * D, S * D, D, 1}}); /* for each head */
    zero_graph_matmul(g, across, y, all);
    zero_graph_reduce(g, CUDNN_REDUCE_TENSOR_ADD, all, grad);
}

static void backward_graph(zero_graph_t *g, const piece_t *p)
{
    const int64_t C = p->heads * p->D;
    cudnnBackendDescriptor_t q = io(g, Q, queries_of(p, p->q_stride)), k = io(g, K, keys_of(p, p->k_stride, true));
    cudnnBackendDescriptor_t v = io(g, V, keys_of(p, p->v_stride, true)), out = io(g, OUT, queries_of(p, C));
    cudnnBackendDescriptor_t dout = io(g, DOUT, queries_of(p, C)), dq = io(g, DQ, queries_of(p, p->q_stride));
    cudnnBackendDescriptor_t dk = io(g, DK, keys_of(p, p->k_stride, false)),
                             dv = io(g, DV, keys_of(p, p->v_stride, false));
    cudnnBackendDescriptor_t lse = zero_graph_tensor(g, LSE, CUDNN_DATA_FLOAT, column_of(p, true), false);
    cudnnBackendDescriptor_t delta = zero_graph_tensor(g, DELTA, CUDNN_DATA_FLOAT, column_of(p, false), false),
                             scale = scalar(g, SCALE);

    /* delta = the sum of dout * out over D */
    cudnnBackendDescriptor_t both = zero_graph_tensor(
        g, 0, CUDNN_DATA_FLOAT,
        (zero_graph_dims_t){{p->B, p->H, p->T, p->D}, {p->H * p->T * p->D, p->T * p->D, p->H * p->D, 1}}, false);
    cudnnBackendDescriptor_t sum = column(g, p);
    binary(g, CUDNN_POINTWISE_MUL, dout, out, both);
    zero_graph_reduce(g, CUDNN_REDUCE_TENSOR_ADD, both, sum);
    binary(g, CUDNN_POINTWISE_MUL, sum, scalar(g, ONE), delta);

    /* P = e^(scale q k' - lse); dv = P' dout */
    cudnnBackendDescriptor_t s = scores(g, p), scaled = scores(g, p), less = scores(g, p), softmax = scores(g, p);
    zero_graph_matmul(g, q, k, s);
    binary(g, CUDNN_POINTWISE_MUL, s, scale, scaled);
    binary(g, CUDNN_POINTWISE_SUB, scaled, lse, less);
    unary(g, CUDNN_POINTWISE_EXP, causal(g, p, less), softmax);
    key_grad(g, p, softmax, dout, dv);

    /* dS = scale P (dout v' - delta); dk = dS' q, dq = dS k */
    cudnnBackendDescriptor_t dp = scores(g, p), off = scores(g, p), ds = scores(g, p), ds_scaled = scores(g, p);
    zero_graph_matmul(g, dout, v, dp);
    binary(g, CUDNN_POINTWISE_SUB, dp, delta, off);
    binary(g, CUDNN_POINTWISE_MUL, off, softmax, ds);
    binary(g, CUDNN_POINTWISE_MUL, ds, scale, ds_scaled);
    key_grad(g, p, ds_scaled, q, dk);
    cudnnBackendDescriptor_t along = io(g, 0, keys_of(p, p->k_stride, false));
    zero_graph_reshape(g, k, along);
    zero_graph_matmul(g, ds_scaled, along, dq);
}

/* ---- calls ------------------------------------------------------------------------------------------------------ */

/* The largest divisor of count that is at most bound, or 1. */
static int64_t part_of(int64_t count, int64_t bound)
{
    int64_t part = bound < count ? bound : count;
    while (part > 1 && count % part != 0)
        part--;
    return part < 1 ? 1 : part;
}

zero_status_t zero_sdpa_create(zero_sdpa_t **out, zero_cudnn_t *cudnn, const zero_nn_shape_t *shape,
                               uint64_t *workspace, zero_error_t *error)
{
    const int64_t *d = shape->d, B = d[0], T = d[1], H = d[2], KV = d[3], D = d[4], S = d[8];
    const bool backward = shape->op == ZERO_NN_ATTN_BACKWARD;
    *out = NULL;
    if (D % 8 != 0 || (d[5] | d[6] | d[7]) % 8 != 0)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED, "rows of heads are not multiples of 16 bytes");
    if (T > 1 << 20 || S > 1 << 20 || H > 1 << 20)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED, "more than 2^20 rows or heads");
    zero_sdpa_t *s = calloc(1, sizeof *s);
    if (s == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for %zu bytes of a plan of attention", sizeof *s);
    s->cudnn = cudnn;
    s->backward = backward;
    s->sequences = B;
    s->key_heads = KV;
    if (backward) {
        const int64_t each = H / KV * up(T, BLOCK) * up(S, BLOCK) * 2; /* per key head */
        s->sequences = part_of(B, PIECE / each / KV);
        if (s->sequences == 1)
            s->key_heads = part_of(KV, PIECE / each);
        if (each > MOST) {
            zero_sdpa_destroy(s);
            return zero_fail(error, ZERO_ERR_UNSUPPORTED, "%lld bytes of workspace are too many", (long long)each);
        }
    }
    const piece_t p = {.B = s->sequences,
                       .T = T,
                       .S = S,
                       .H = s->key_heads * (H / KV),
                       .KV = s->key_heads,
                       .D = D,
                       .heads = H,
                       .q_stride = d[5],
                       .k_stride = d[6],
                       .v_stride = d[7],
                       .causal = d[9] != 0};
    zero_graph_t g = {.cudnn = cudnn,
                      .type = shape->dtype == ZERO_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF,
                      .status = CUDNN_STATUS_SUCCESS};
    if (backward)
        backward_graph(&g, &p);
    else
        forward_graph(&g, &p);
    zero_status_t status = zero_graph_plan(&g, &s->plan, &s->bytes, error);
    if (status == ZERO_OK && s->bytes > 2 * MOST)
        status = zero_fail(error, ZERO_ERR_UNSUPPORTED, "%lld bytes of workspace are too many", (long long)s->bytes);
    if (status != ZERO_OK) {
        zero_sdpa_destroy(s);
        return status;
    }
    s->bytes = up(s->bytes, ZERO_NN_ALIGN);
    *workspace = (uint64_t)(s->bytes + (backward ? p.B * p.H : B * H) * T * (int64_t)sizeof(float));
    *out = s;
    return ZERO_OK;
}

void zero_sdpa_destroy(zero_sdpa_t *s)
{
    if (s == NULL)
        return;
    zero_graph_plan_destroy(s->cudnn, s->plan);
    free(s);
}

zero_status_t zero_sdpa_run(const zero_sdpa_t *s, const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g,
                            void *workspace, zero_error_t *error)
{
    const int64_t group = a->H / a->KV;
    const int skip = a->causal ? 0 : 1; /* only the graph of causal attention has LOWEST */
    float scale = (float)a->scale, lowest = -FLT_MAX, one = 1, *behind = (float *)((char *)workspace + s->bytes);
    const struct {
        const char *name;
        const void *p;
    } all[] = {{"q", a->q},
               {"k", a->k},
               {"v", a->v},
               {"out", a->out},
               {"dout", g ? g->dout : NULL},
               {"dq", g ? g->dq : NULL},
               {"dk", g ? g->dk : NULL},
               {"dv", g ? g->dv : NULL}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if ((uintptr_t)all[i].p % 16 != 0)
            return zero_fail(error, ZERO_ERR_ARG,
                             "%s at %p is not at a multiple of 16 bytes, as attention on a GPU requires", all[i].name,
                             all[i].p);
    for (int64_t b = 0; b < a->B; b += s->sequences) {
        for (int64_t kv = 0; kv < a->KV; kv += s->key_heads) {
            const int64_t q = (b * a->T * a->q_stride + kv * group * a->D) * 2,
                          k = (b * a->S * a->k_stride + kv * a->D) * 2;
            const int64_t v = (b * a->S * a->v_stride + kv * a->D) * 2, o = (b * a->T * a->H + kv * group) * a->D * 2;
            float *lse = a->lse != NULL ? a->lse + (b * a->H + kv * group) * a->T : behind;
            const int64_t forward[] = {LOWEST, Q, K, V, OUT, LSE, SCALE};
            void *forward_at[] = {
                &lowest, (char *)a->q + q, (char *)a->k + k, (char *)a->v + v, (char *)a->out + o, lse, &scale};
            zero_status_t status;
            if (s->backward) {
                const int64_t numbers[] = {LOWEST, Q, K, V, OUT, LSE, SCALE, ONE, DELTA, DOUT, DQ, DK, DV};
                void *at[sizeof numbers / sizeof numbers[0]];
                memcpy(at, forward_at, sizeof forward_at);
                void *more[] = {
                    &one, behind, (char *)g->dout + o, (char *)g->dq + q, (char *)g->dk + k, (char *)g->dv + v};
                memcpy(at + 7, more, sizeof more);
                status = zero_graph_run(s->cudnn, s->plan, (int)(sizeof numbers / sizeof numbers[0]) - skip,
                                        numbers + skip, at + skip, workspace, error);
            } else {
                status = zero_graph_run(s->cudnn, s->plan, (int)(sizeof forward / sizeof forward[0]) - skip,
                                        forward + skip, forward_at + skip, workspace, error);
            }
            if (status != ZERO_OK)
                return status;
        }
    }
    return ZERO_OK;
}

#else

#include "kernels/nn/cuda/cudnn.h"

zero_status_t zero_sdpa_create(zero_sdpa_t **sdpa, zero_cudnn_t *cudnn, const zero_nn_shape_t *shape,
                               uint64_t *workspace, zero_error_t *error)
{
    (void)cudnn;
    (void)shape;
    (void)workspace;
    *sdpa = NULL;
    return zero_fail(error, ZERO_ERR_UNSUPPORTED, "this build has no cuDNN");
}

void zero_sdpa_destroy(zero_sdpa_t *sdpa)
{
    (void)sdpa;
}

zero_status_t zero_sdpa_run(const zero_sdpa_t *sdpa, const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g,
                            void *workspace, zero_error_t *error)
{
    (void)sdpa;
    (void)a;
    (void)g;
    (void)workspace;
    return zero_fail(error, ZERO_ERR_UNSUPPORTED, "this build has no cuDNN");
}

#endif
