/* SPDX-License-Identifier: Apache-2.0 */
/* decoder.h - shared by the files of models: tensors, buffers and passes. One decoder computes every family. An encoder
 * is another stack of the same layers. What differs is data (zero_model_config_t, families.c). Shapes use: rows = B *
 * T, the tokens of a micro-step; sources = B * S, those that an encoder reads; C the width; F the hidden width; H heads
 * and KV key-value heads of D elements; Q = (H + 2 KV) D, a row of queries, keys and values. */
#ifndef MODELS_DECODER_H
#define MODELS_DECODER_H

#include "models/family.h"

/* The initial values of a tensor: all 0, all 1, normal with mean 0 and standard deviation std, or uniform between -std
 * and std. */
typedef enum zero_model_start {
    ZERO_START_ZERO = 0,
    ZERO_START_ONE,
    ZERO_START_NORMAL,
    ZERO_START_UNIFORM
} zero_model_start_t;

/* The matrices of a low-rank adapter (lora.c). */
typedef enum zero_model_adapter { ZERO_ADAPTER_NONE = 0, ZERO_ADAPTER_A, ZERO_ADAPTER_B } zero_model_adapter_t;

/* One tensor of the model. Its shape follows from the configuration. */
typedef struct zero_model_tensor {
    char name[ZERO_MODEL_NAME_BYTES]; /* of the parameter */
    bool encoder;                     /* else of the decoder */
    zero_model_place_t place;
    int64_t layer;          /* of ZERO_PLACE_LAYER: in its stack */
    zero_model_role_t role; /* of ZERO_PLACE_LAYER; of an adapter that of its weight */
    zero_model_adapter_t adapter;
    int32_t ndim;
    int64_t shape[2];
    int64_t count;
    zero_model_start_t start;
    double std;
} zero_model_tensor_t;

/* The number of tensors. Their order is the order of declaration: the encoder's, then the decoder's; of each the
 * embedding, learned positions; the layers, each in the order of zero_model_role_t; the norm; the head unless it is
 * tied. */
int zero_model_tensor_count(const zero_model_config_t *config);
void zero_model_tensor(const zero_model_config_t *config, int index, zero_model_tensor_t *tensor);
/* Whether a layer of the decoder, or of the encoder, has the tensor. */
bool zero_model_has(const zero_model_config_t *config, bool encoder, zero_model_role_t role);
/* Computes the values that zero_model_init draws for elements [begin, begin + count) of a tensor. */
void zero_model_init_values(const zero_model_tensor_t *tensor, uint64_t seed, int64_t begin, int64_t count, int threads,
                            float *out);

/* A tensor that is declared on an engine. data and grad are NULL before bind. */
typedef struct zero_model_param {
    char name[ZERO_MODEL_NAME_BYTES];
    int64_t count, own; /* elements of the whole; of this rank's part, as of bind */
    zero_param_t id;
    void *data, *grad;
} zero_model_param_t;

/* A tile of a table (V, C), which is a unit of its own. data and grad are NULL before bind. */
typedef struct zero_model_tile {
    zero_unit_t unit;
    zero_param_t id;
    zero_nn_tile_t rows;
    void *data, *grad;
} zero_model_tile_t;

typedef struct zero_model_tiles {
    zero_model_tile_t *list;
    int count; /* 0: the table is one parameter */
} zero_model_tiles_t;

/* A linear layer: one product y = x W + b of which several tensors may be parts, each with its own columns of y:
 * queries, keys and values; gate and up. Or it is a part of one tensor, some of its columns: keys and values, which are
 * products of another x than the queries. A bias has a role for each part, or none has one. */
#define ZERO_LINEAR_PARTS 3
typedef struct zero_model_linear {
    int parts;
    zero_model_role_t weight[ZERO_LINEAR_PARTS], bias[ZERO_LINEAR_PARTS];
    bool biased;
    int64_t in, out, columns[ZERO_LINEAR_PARTS]; /* out is the sum of columns */
    int adapted, part[ZERO_LINEAR_PARTS];        /* the parts that have adapters: part[0 .. adapted) */
    int first;     /* the first of their tensors among those of a layer's adapters: all A, then all B */
    int64_t begin; /* of one part: the columns of its tensor before it */
    bool partial;  /* if ranks have parts of it, they have parts of x, and their products are parts of a sum; else they
                      have columns of y */
} zero_model_linear_t;

typedef enum zero_model_linear_id {
    ZERO_LINEAR_QKV = 0,    /* C to Q */
    ZERO_LINEAR_PROJ,       /* H D to C */
    ZERO_LINEAR_CROSS_Q,    /* C to H D: queries for keys of the source */
    ZERO_LINEAR_CROSS_KV,   /* C to 2 KV D: keys and values of the source */
    ZERO_LINEAR_CROSS_PROJ, /* H D to C */
    ZERO_LINEAR_UP,         /* C to F, or to 2 F (gate, up) */
    ZERO_LINEAR_DOWN,       /* F to C */
    ZERO_LINEAR_COUNT
} zero_model_linear_id_t;

/* The sublayers of a layer, in order. Each has a residual connection and a norm: before it, or with post_norm behind
 * the sum. */
typedef enum zero_sublayer {
    ZERO_SUBLAYER_ATTENTION = 0,
    ZERO_SUBLAYER_CROSS, /* attention to the encoder's output; only in a decoder that has an encoder */
    ZERO_SUBLAYER_MLP,
    ZERO_SUBLAYERS
} zero_sublayer_t;

/* The keys and values of a sequence that is sampled, in a layer. */
typedef struct zero_model_cache {
    int64_t length;           /* rows; 0: there is no sample */
    void *keys, *values;      /* (length, KV D) */
    void *cross_kv;           /* (S, 2 KV D): keys and values of its source, if the model has an encoder */
    const int32_t *positions; /* (rows): of the call's rows */
    int64_t added;            /* the first rows of the call, which go to the cache at their positions */
    bool read;                /* attention reads the cache. Else it reads the call's own rows */
    const int32_t *ranges;    /* (rows, 2): the keys in the cache that a row attends to */
} zero_model_cache_t;

/* The activations that the forward pass of a layer keeps for the backward pass. The recompute mode decides which
 * buffers layers share. With tensor parallelism, H, KV, F and Q are those of this rank's part, and buffers of C columns
 * have its own rows (tensor.c). */
typedef struct zero_model_layer {
    void *norm[ZERO_SUBLAYERS];  /* (rows, C): outputs of the norms; NULL: it is the layer's output (post_norm) */
    void *sum[ZERO_SUBLAYERS];   /* (rows, C): sums of stream and sublayer; NULL: it is the layer's output */
    float *mean[ZERO_SUBLAYERS]; /* (rows); NULL for RMS norms */
    float *rstd[ZERO_SUBLAYERS]; /* (rows) */
    void *qkv;                   /* (rows, Q) */
    void *qk;                    /* (rows, (H + KV) D): normalised queries and keys; NULL without qk_norm */
    void *attention;             /* (rows, H D), before the projection */
    void *up;                    /* (rows, F), or (rows, 2 F) if gated: before the activation */
    void *active;                /* (rows, F): after the activation */
    float *rstd_q, *rstd_k;      /* (rows, H), (rows, KV) */
    float *lse;                  /* (B, H, T) */
    void *cross_q;               /* (rows, H D), like the next ones only with ZERO_SUBLAYER_CROSS */
    void *cross_kv;              /* (sources, 2 KV D) */
    void *cross_attention;       /* (rows, H D) */
    float *cross_lse;            /* (B, H, T) */
    zero_model_cache_t cache;    /* of a sample */
} zero_model_layer_t;

/* A stack of equal layers, with its embedding before them and its norm behind them. A layer's number l counts the
 * layers of all stacks. */
typedef struct zero_model_stack {
    bool encoder;
    int64_t first, layers; /* its layers are l = first to first + layers - 1 */
    zero_sublayer_t sublayers[ZERO_SUBLAYERS];
    int sublayer_count;
    int64_t T;  /* tokens of a sequence */
    int params; /* the index of its first layer's first parameter */
    int layer_tensors;
    int role[ZERO_ROLE_COUNT];                   /* of a layer's tensor: its index in the layer, or -1 */
    zero_model_param_t *embed, *norm_w, *norm_b; /* in params; NULL: the model has none */
    zero_model_tiles_t tiles;                    /* of embed; then embed has no addresses, and no embed_unit */
    zero_unit_t embed_unit, norm_unit;
    void **x;           /* layers + 1 times (rows, C): the residual stream before each layer and after the last. With
                           offload_activations two buffers alternate */
    float *mean, *rstd; /* (rows), of its norm */
    void *out, *dout;   /* (rows, C): the output of its norm, and the gradient of that */
    int32_t *tokens;    /* (places, rows), in memory that the host and the device access */
    int32_t *ranges;    /* (places, rows, 2), likewise: the keys that a token attends to; NULL: those of its sequence */
    int32_t *counted;   /* (rows), likewise: the place of a row in its sequence, if positions are added to parts of an
                           embedding; else NULL */
} zero_model_stack_t;

/* A chunk of a pipeline: layers [begin, end), counted over both stacks, with what comes before the first layer of a
 * stack and behind its last one. */
typedef struct zero_model_chunk {
    int64_t begin, end;
} zero_model_chunk_t;

/* Memory of the model: the addresses where it begins, or its bytes. Without chunks, kept is a part of device. */
typedef struct zero_model_memory {
    char *base;
    uint64_t bytes;
} zero_model_memory_t;
typedef enum zero_model_region {
    ZERO_REGION_DEVICE = 0, /* what only kernels access */
    ZERO_REGION_HOST,       /* what the host accesses as well; contains all micro-steps of a step */
    ZERO_REGION_KEPT,       /* what a forward task leaves for the backward task of its micro-step */
    ZERO_REGIONS
} zero_model_region_t;

struct zero_model {
    zero_model_config_t config;
    zero_model_config_t own; /* the same with this rank's part of heads, kv_heads, hidden, vocab and source_vocab */
    zero_model_options_t options;
    const zero_family_t *family;
    int tensor, place; /* ranks that have parts of each layer; this one's place among them, known from declare on */
    int context,
        context_place;     /* ranks that have parts of the same sequences; this one's place among them, from declare
                                   on. Then T of the decoder is that of a part */
    bool spreads;          /* with tensor above 1: between the products, each rank has its own rows / tensor rows */
    bool spread;           /* the same, of the pass that runs */
    zero_engine_t *engine; /* borrowed; NULL before declare */
    zero_nn_t *nn;
    bool dry; /* a dry run: no engine, no buffers */
    bool bound;
    zero_pass_t running; /* the pass of the last use; declares: its collectives are declared now */
    bool declares;
    zero_status_t exchanged; /* of the collectives of a use, up to its end */
    size_t element;          /* bytes of options.dtype */
    int64_t qkv_width;       /* Q of this rank */
    int64_t up_width;        /* F or 2 F of this rank */

    int param_count;    /* base_count and the adapters, layer by layer */
    int base_count;     /* the tensors of zero_model_tensor */
    int layer_adapters; /* tensors of the adapters of each layer */
    zero_model_param_t *params;
    zero_model_param_t *positions, *head; /* in params; NULL: the model has none. A tied head is the embedding */
    zero_model_tiles_t *head_tiles, own_head_tiles; /* of head: those of the embedding, or its own */
    zero_unit_t positions_unit;                     /* if the embedding has tiles; else they are in its unit */
    zero_model_linear_t linears[ZERO_LINEAR_COUNT];
    float frequencies[ZERO_HEAD_DIM_MOST / 2]; /* of rotary positions */
    zero_model_stack_t encoder, decoder;       /* an encoder without layers: the model has none */
    zero_unit_t head_unit, *units;             /* units: one per layer. head_unit is that of the embedding if tied */
    zero_pass_t train, eval, sample[2]; /* sample: with tensor above 1 of one row, and of several; else the first */
    zero_reserve_t activations, shared, workspace, cache;
    uint64_t workspace_bytes, cache_bytes;
    zero_nn_t *muon; /* of options.muon; else NULL */
    zero_reserve_t muon_memory;
    uint64_t muon_scratch_bytes, muon_workspace_bytes;
    void *muon_scratch;

    zero_model_chunk_t *chunks; /* chunk_count */
    int chunk_count;            /* 0: the model is whole */
    zero_model_chunk_t part;    /* the chunk that is declared or runs; all layers if the model is whole */
    bool prepared;              /* of chunks: a task has run */
    bool samples[2];            /* what the passes of samples use is declared */

    int64_t head_rows, logits_ld; /* rows in a block of logits; elements from one row to the next */
    int64_t head_columns;         /* tokens of the vocabulary in one product */
    bool head_sums;               /* dhead accumulates the head's gradient before it is rounded */
    void **kept; /* by layer: (rows, C) in memory that host and device access: holds the layer's input until the
                    backward pass; NULL: it stays in x */
    zero_model_layer_t *layers;
    void *kv_parts; /* (context, rows, 2 KV D): keys and values of the ranks of context parallelism; NULL without it */
    void *kv;       /* (B, context T, 2 KV D): the same in the order of the sequences */
    void *whole;    /* (rows, C): the rows of all ranks, or sums that are not yet reduced; NULL without spreads */
    float *stats;   /* (tensor, head_rows, 3): of zero_nn_cross_entropy_local; NULL if the vocabulary is whole */
    void *all_logits; /* (tensor, own.vocab): of a sample; NULL likewise */
    void *logits;     /* (head_rows, logits_ld) */
    float *dhead;     /* (V, C), from the head alone; NULL without head_sums */
    float *dx_sums;   /* (head_rows, C): the gradient of the head's input, summed over tiles; NULL without tiles */
    void *dx;         /* (rows, C): the gradient of the residual stream */
    void
        *narrow; /* (rows, max(C, H D)): gradients of attention and of the outputs of norms; if the model is whole, also
                       the output of the final norm */
    void *wide;  /* (rows, max(F, Q)): gradients of activations and of qkv */
    void *dqk;   /* (rows, (H + KV) D): gradients of qk; NULL without qk_norm */
    void *low, *dlow;    /* (rows, ranks of the adapters of a linear layer): s x A' and its gradient; NULL: there are no
                         adapters */
    void *dkv;           /* (sources, 2 KV D): gradients of cross_kv; or (B, context T, 2 KV D): of kv */
    void *waves;         /* (zero_model_longest, C): sinusoidal positions; NULL: the model has others */
    void *weight, *bias; /* of a linear layer whose parts do not lie one behind another, or its gradient; NULL: no layer
                            has such parts */

    /* In memory that the host and the device access: */
    int32_t *targets;      /* (places, rows) */
    int32_t *cross_ranges; /* (places, rows, 2): the keys of the source that a token attends to */
    void *host_waves;      /* waves are computed here */
    int32_t *positions_in; /* (places, rows): a token's position in its document, if zero_model_lists; else NULL */
    int32_t *row_of;       /* (context, rows): where a row of kv_parts is in kv; NULL without context parallelism */
    int32_t *row;          /* (rows): the numbers of the rows; likewise */
    float *losses;         /* (places, rows) */
    void *sampled;         /* (vocab): logits of a sample; NULL without a sampling pass */
    int32_t *sample_positions, *sample_ranges; /* (rows), (rows, 2): of a sample (zero_model_cache_t) */

    void *cached; /* (layers of this rank, 2, sample_len, KV D): keys and values of a sample; (layers, S, 2 KV D): its
                     source's */
    int64_t cached_len; /* rows of them that hold the sequence */

    bool encoded;    /* a sample has a source */
    int64_t places;  /* micro-steps that may be in flight */
    int64_t pending; /* micro-steps in flight whose losses are not yet added to loss */
    double loss;     /* the sum of this step's losses, without the pending ones */
};

/* p + elements, or NULL if p is NULL: buffers of a dry run stay NULL. */
static inline void *zero_model_at(const zero_model_t *m, void *p, int64_t elements)
{
    return p ? (char *)p + (size_t)elements * m->element : NULL;
}

/* The most tokens of a sequence: of a source, of training or of a sample. */
static inline int64_t zero_model_longest(const zero_model_t *m)
{
    const int64_t T = m->encoder.T > m->options.seq_len ? m->encoder.T : m->options.seq_len;

    return T > m->options.sample_len ? T : m->options.sample_len;
}

/* Sets the addresses of the buffers of m->part, given the start of each region; NULL gives NULL addresses. micro: of
 * which micro-step in the host's memory. Sets the bytes of each region. Returns false on overflow. */
bool zero_model_layout(zero_model_t *m, zero_model_memory_t at[ZERO_REGIONS], int64_t micro);
/* Whether m->part has the beginning of a stack, or its end. */
static inline bool zero_model_begins(const zero_model_t *m, const zero_model_stack_t *s)
{
    return m->part.begin <= s->first && s->first < m->part.end;
}
static inline bool zero_model_ends(const zero_model_t *m, const zero_model_stack_t *s)
{
    return m->part.begin < s->first + s->layers && s->first + s->layers <= m->part.end;
}

/* Where a pass without a backward pass has the residual stream of a stack. */
static inline void *zero_model_stream(const zero_model_t *m, const zero_model_stack_t *s)
{
    const int64_t end = m->part.end < s->first + s->layers ? m->part.end : s->first + s->layers;

    return m->chunk_count > 0 ? s->x[end - s->first] : s->x[0];
}

/* The stack of layer l. */
static inline const zero_model_stack_t *zero_model_stack(const zero_model_t *m, int64_t l)
{
    return l < m->decoder.first ? &m->encoder : &m->decoder;
}
/* The parameter of layer l that has this role; NULL if the layer has none. */
static inline zero_model_param_t *zero_model_role_param(const zero_model_t *m, int64_t l, zero_model_role_t role)
{
    const zero_model_stack_t *s = zero_model_stack(m, l);

    return s->role[role] < 0 ? NULL : &m->params[s->params + (l - s->first) * s->layer_tensors + s->role[role]];
}
static inline void *zero_model_weight(const zero_model_param_t *p)
{
    return p ? p->data : NULL;
}
static inline void *zero_model_grad(const zero_model_param_t *p)
{
    return p ? p->grad : NULL;
}

/* positions.c */

/* The head_dim / 2 frequencies of rotary positions. */
void zero_model_frequencies(const zero_rope_t *rope, int64_t head_dim, float *out);
/* Sinusoidal positions (T, width) in a dtype, each divided by scale. */
void zero_model_waves(int64_t T, int64_t width, double scale, zero_dtype_t dtype, void *out);

/* Whether all parameters but adapters are frozen: they have no gradients. */
static inline bool zero_model_is_frozen(const zero_model_t *m)
{
    return m->options.lora.rank > 0;
}

/* tensor.c: tensor parallelism, as Shoeybi et al. 2019, with its sequence parallelism, as Korthikanti et al. 2022. Of
 * each layer, a rank has heads, and columns of the MLP. Without tensor parallelism, nothing here does anything. */

/* Refuses what tensor parallelism does not support. */
zero_status_t zero_model_check_tensor(const zero_model_config_t *config, const zero_model_options_t *options,
                                      zero_error_t *error);
/* Sets m->own. */
void zero_model_init_tensor(zero_model_t *m);
/* Checks that the engine has the mesh, and finds this rank's place. */
zero_status_t zero_model_join(zero_model_t *m, zero_error_t *error);
/* Sets how ranks split a tensor. */
void zero_model_split(const zero_model_t *m, const zero_model_tensor_t *tensor, zero_param_desc_t *desc);
/* After commit: sets the elements of this rank's part of a parameter. */
zero_status_t zero_model_find_part(zero_model_t *m, zero_model_param_t *param, zero_error_t *error);
/* The tokens whose rows of an embedding this rank has, perhaps none. Behind them its part has rows of zeros, if
 * m->own.vocab, or source_vocab, is more. */
zero_nn_tile_t zero_model_own_tokens(const zero_model_t *m, bool encoder);

/* Of rows, those that this rank has between the products in the pass that runs. */
static inline int64_t zero_model_own_rows(const zero_model_t *m, int64_t rows)
{
    return m->spread ? rows / m->tensor : rows;
}
/* The same, of the buffers: of training and evaluation. */
static inline int64_t zero_model_kept_rows(const zero_model_t *m, int64_t rows)
{
    return m->spreads ? rows / m->tensor : rows;
}
/* The first of them. */
static inline int64_t zero_model_first_row(const zero_model_t *m, int64_t rows)
{
    return m->spread ? m->place * zero_model_own_rows(m, rows) : 0;
}
/* Where they are in whole (rows, C). */
static inline void *zero_model_part(const zero_model_t *m, void *whole, int64_t rows)
{
    return zero_model_at(m, whole, zero_model_first_row(m, rows) * m->config.width);
}
/* Runs a collective of the unit that is in use; in a dry run that declares uses, declares it. */
void zero_model_exchange(zero_model_t *m, zero_axis_t axis, zero_collective_kind_t kind, const void *send, void *recv,
                         int64_t count, zero_dtype_t dtype);
/* The rows of all ranks, of which this one has own: m->whole, or own if it has all of them. */
void *zero_model_gather(zero_model_t *m, const void *own, int64_t rows);
/* Where a product goes that is a part of a sum, of which `to` is to receive this rank's rows: m->whole, or to. */
void *zero_model_sums(const zero_model_t *m, void *to);
/* Sums the parts (rows, C) of all ranks. `to` receives this rank's rows; it is where they are in sums, or apart. */
void zero_model_reduce(zero_model_t *m, void *to, void *sums, int64_t rows);

/* linear.c: every linear layer of the model goes through these. */

/* Describes the linear layers of a model, without adapters. */
void zero_model_linears(const zero_model_config_t *config, zero_model_linear_t linears[ZERO_LINEAR_COUNT]);
/* Whether the backward pass reads the input of a linear layer, for the gradients of a weight or an adapter. */
static inline bool zero_model_reads_input(const zero_model_t *m, zero_model_linear_id_t id)
{
    return !zero_model_is_frozen(m) || m->linears[id].adapted > 0;
}
/* The linear layer that reads a sublayer's input. */
static inline zero_model_linear_id_t zero_model_first_linear(zero_sublayer_t k)
{
    return k == ZERO_SUBLAYER_ATTENTION ? ZERO_LINEAR_QKV
           : k == ZERO_SUBLAYER_CROSS   ? ZERO_LINEAR_CROSS_Q
                                        : ZERO_LINEAR_UP;
}
/* The most elements of a weight, or of a bias, whose parts may not lie one behind another; 0: there is none. */
int64_t zero_model_gathered(const zero_model_t *m, bool bias);
/* After the addresses are known: whether all parts lie one behind another, or have a buffer. */
bool zero_model_linears_fit(const zero_model_t *m);
/* y (rows, out) = x (rows, in) W + b, of a layer. */
void zero_model_linear(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, void *y, const void *x, int64_t rows);
/* The same with the activation gelu_new behind it: up (rows, out) receives the product, y its GELU. */
void zero_model_linear_gelu(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, void *y, void *up, const void *x,
                            int64_t rows);
/* Adds the gradients of W and of its adapters, as far as they are trained, for dy (rows, out), and overwrites dx (rows,
 * in) with that of x, which is read only if zero_model_reads_input. The bias's gradient is left to
 * zero_model_linear_bias, or to the call that writes or reads dy anyway. */
void zero_model_linear_backward(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, void *dx, const void *dy,
                                const void *x, int64_t rows);
/* The same, but adds the gradient of x to dx. */
void zero_model_linear_backward_add(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, void *dx, const void *dy,
                                    const void *x, int64_t rows);
/* The same for x = gelu_new(up): dx is the gradient of up, and dbias (in) += its column sums if not NULL. */
void zero_model_linear_gelu_backward(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, void *dx,
                                     const void *dy, const void *x, void *up, void *dbias, int64_t rows);
/* Adds the gradients of the biases, if there are any that are trained: the column sums of dy (rows, out). */
void zero_model_linear_bias(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, const void *dy, int64_t rows);

/* lora.c: the table of the adapters' tensors. */

/* Sets the parts of linear layers that have adapters. */
void zero_model_lora_linears(const zero_lora_t *lora, zero_model_linear_t linears[ZERO_LINEAR_COUNT]);
/* The number of tensors of all adapters, layer by layer; 0: there are none. */
int zero_model_adapter_count(const zero_model_config_t *config, const zero_lora_t *lora);
void zero_model_adapter(const zero_model_config_t *config, const zero_lora_t *lora, int index,
                        zero_model_tensor_t *tensor);
/* The adapter of a tensor of the model: its parameters A and B. Returns false if it has none. */
bool zero_model_adapters_of(const zero_model_t *m, const zero_model_tensor_t *tensor, zero_model_param_t **a,
                            zero_model_param_t **b);
/* The tensor of a parameter of the model. */
void zero_model_param_tensor(const zero_model_t *m, int index, zero_model_tensor_t *tensor);

/* adapters.c: the products of adapters; for linear.c. */

/* The columns of m->low. */
int64_t zero_model_adapters_width(const zero_model_t *m);
/* After the addresses are known: whether the A of a layer's linear layer lie as the products need them. */
bool zero_model_adapters_fit(const zero_model_t *m, int64_t layer, const zero_model_linear_t *l);
/* y (rows, out) += what the adapters of a linear layer make of x (rows, in). */
void zero_model_adapters_forward(zero_model_t *m, int64_t layer, const zero_model_linear_t *l, void *y, const void *x,
                                 int64_t rows);
/* For dy (rows, out): adds the adapters' gradients, and their part of the gradient of x to dx (rows, in). */
void zero_model_adapters_backward(zero_model_t *m, int64_t layer, const zero_model_linear_t *l, void *dx,
                                  const void *dy, const void *x, int64_t rows);

/* forward.c, backward.c */

/* Runs layer l from x (rows, C) to out (rows, C), which may be x. Keeps in *a the values that the backward pass
 * reads. */
void zero_model_layer_forward(zero_model_t *m, int64_t l, const zero_model_layer_t *a, const void *x, void *out,
                              int64_t B, int64_t T);
/* Computes again what it keeps. It stops after the activation, unless norms follow: then m->narrow receives the layer's
 * output. */
void zero_model_layer_again(zero_model_t *m, int64_t l, const zero_model_layer_t *a, const void *x, int64_t B,
                            int64_t T);
/* On entry m->dx (rows, C) is the gradient of layer l's output; on return it is that of its input. Adds to the
 * gradients of the layer's parameters. */
void zero_model_layer_backward(zero_model_t *m, int64_t l);
/* Gathers the keys and values of a layer from the ranks of context parallelism. */
void zero_model_layer_keys(zero_model_t *m, const zero_model_layer_t *a);
/* The arguments of the attention of a layer of the stack. */
zero_nn_attention_t zero_model_attention(const zero_model_t *m, const zero_model_stack_t *s,
                                         const zero_model_layer_t *a, int64_t B, int64_t T);
/* The arguments of a layer's attention to the encoder's output. */
zero_nn_attention_t zero_model_cross_attention(const zero_model_t *m, const zero_model_layer_t *a, int64_t B,
                                               int64_t T);
/* The arguments of the norm of a sublayer of layer l, without inputs and outputs. */
zero_nn_norm_t zero_model_sublayer_norm(const zero_model_t *m, int64_t l, const zero_model_layer_t *a,
                                        zero_sublayer_t k, int64_t rows);
/* The arguments of a norm of rows (rows, C), without inputs and outputs. w and b: its parameters, NULL: none. */
zero_nn_norm_t zero_model_norm(const zero_model_t *m, const zero_model_param_t *w, const zero_model_param_t *b,
                               float *mean, float *rstd, int64_t rows);
/* The arguments of the norm of the queries (key = false) or keys of a layer: x and dx (rows, Q), y and dy (rows, (H +
 * KV) D). */
zero_nn_norm_t zero_model_head_norm(const zero_model_t *m, int64_t l, const zero_model_layer_t *a, bool key,
                                    int64_t rows);
/* The arguments of the rotation of a layer's queries and keys. */
zero_nn_rotary_t zero_model_rotary(const zero_model_t *m, const zero_model_layer_t *a, void *x, int64_t ld, int64_t B,
                                   int64_t T);
/* logits (rows, V; logits_ld) = x (rows, C) head^T. The head is stored (V, C). tile: only its columns of them; NULL:
 * all of them, of a head without tiles. */
void zero_model_head_logits(zero_model_t *m, const zero_model_tile_t *tile, const void *x, int64_t rows);
/* Computes the losses (rows) of x (rows, C) against targets, head_rows rows at a time. With scale > 0, the gradient of
 * scale times the losses overwrites x, and the head's gradient is added. If ranks have parts of the vocabulary, the
 * gradient of x is a part of a sum. */
void zero_model_head(zero_model_t *m, void *x, float *losses, const int32_t *targets, int64_t rows, float scale);

/* The losses (rows) of m->logits. With scale > 0, the gradient of scale times the losses overwrites m->logits. */
void zero_model_head_losses(zero_model_t *m, float *losses, const int32_t *targets, int64_t rows, float scale);
/* Of a head with tiles, from the last to the first: the gradients of the tile, if it is trained, and of x (rows, C),
 * which replaces x with the first tile. */
void zero_model_head_tile(zero_model_t *m, const zero_model_tile_t *tile, void *x, int64_t rows);

/* tiles.c */

/* Divides the tables that are larger than options.tile_bytes. Returns false without memory. */
bool zero_model_tiles_make(zero_model_t *m);
void zero_model_tiles_free(zero_model_t *m);
/* The tiles of a parameter; NULL: it has none. */
zero_model_tiles_t *zero_model_tiles_of(zero_model_t *m, const zero_model_param_t *param);
/* Declares the tiles of a table that *table describes, in units that are called unit.0 and so on. */
zero_status_t zero_model_tiles_add(zero_model_t *m, zero_model_tiles_t *tiles, const char *unit,
                                   const zero_param_desc_t *table);
/* Takes their addresses after commit. */
void zero_model_tiles_bind(zero_model_t *m, zero_model_tiles_t *tiles);

/* Tokens that one pass appends to a sample. */
typedef struct zero_model_append {
    int64_t n, rows; /* tokens; the same with padding */
    bool back;       /* they attend to the cache. Else they are the first tokens, and attend to each other */
    bool last;       /* logits are wanted */
} zero_model_append_t;
/* The first of n tokens behind `past`, as many as a pass takes. There are few numbers of rows, so few primitives are
 * created. */
zero_model_append_t zero_model_append(const zero_model_t *m, int64_t n, int64_t past);

/* context.c: context parallelism. */

/* Refuses what it does not support. */
zero_status_t zero_model_check_context(const zero_model_config_t *config, const zero_model_options_t *options,
                                       zero_error_t *error);
/* The position in its sequence of token t of the part that a rank has. */
int64_t zero_model_position(const zero_model_t *m, int rank, int64_t t);
/* Whether the positions of tokens are listed, and the keys that each attends to. */
static inline bool zero_model_lists(const zero_model_t *m)
{
    return m->options.packed || m->context > 1;
}
/* Fills row and row_of, once they have addresses. */
void zero_model_list_rows(zero_model_t *m);
/* Gathers keys and values (rows, KV D each) of all ranks, into m->kv. */
void zero_model_gather_keys(zero_model_t *m, const void *k, int64_t k_stride, const void *v, int64_t v_stride);
/* Sums the gradients of keys and values that ranks have, in m->dkv, for each rank's own rows. */
void zero_model_reduce_keys(zero_model_t *m, void *dk, int64_t dk_stride, void *dv, int64_t dv_stride);

/* pass.c */

/* One run of a pass. After the first error it acquires nothing more. */
typedef struct zero_model_run {
    zero_model_t *m;
    zero_pass_t pass;
    zero_status_t status;
    zero_error_t *error;
} zero_model_run_t;
/* Returns true if the unit may be used; the caller must then call zero_model_done. In a dry run, declares the use
 * unless flags is 0. */
bool zero_model_use(zero_model_run_t *r, zero_unit_t unit, uint32_t flags);
void zero_model_done(zero_model_run_t *r, zero_unit_t unit);

/* embed.c */

/* Whether positions are added to embeddings. */
static inline bool zero_model_adds_positions(const zero_model_t *m)
{
    return m->config.sinusoidal || m->positions != NULL;
}
/* The positions of tokens. listed: those in at, which is NULL in dry mode; else each sequence begins with the first. */
typedef struct zero_model_places {
    bool listed;
    const int32_t *at;
} zero_model_places_t;
/* Uses the embedding of a stack, for B sequences of tokens. B 0: only takes part in the gathers. */
void zero_model_embed(zero_model_run_t *r, const zero_model_stack_t *s, const int32_t *tokens,
                      zero_model_places_t places, int64_t B, int64_t T, uint32_t flags);
/* From m->dx to the gradients of embeddings and learned positions. */
void zero_model_embed_backward(zero_model_run_t *r, const zero_model_stack_t *s, const int32_t *tokens);

/* pass.c: run one micro-step or one evaluation, the encoder on a sample's source, or append tokens to a sample. In a
 * dry run there are no tokens, buffers or engine. */
zero_status_t zero_model_pass_train(zero_model_t *m, const int32_t *tokens, const int32_t *targets, float *losses,
                                    uint32_t flags, zero_error_t *error);
zero_status_t zero_model_pass_eval(zero_model_t *m, const int32_t *tokens, const int32_t *targets, float *losses,
                                   int64_t rows, zero_error_t *error);
/* Likewise of chunks, for all micro-steps of a step; in a dry run declares the tasks. */
zero_status_t zero_model_pass_tasks(zero_model_t *m, zero_error_t *error);
zero_status_t zero_model_pass_encode(zero_model_t *m, zero_error_t *error);
zero_status_t zero_model_pass_sample(zero_model_t *m, const zero_model_append_t *s, zero_error_t *error);

/* Sets *error to the engine's last error. Returns status. */
zero_status_t zero_model_engine_error(zero_model_t *m, zero_status_t status, zero_error_t *error);

/* model.c: checks, and makes, what depends on addresses. */
zero_status_t zero_model_prepare(zero_model_t *m, zero_error_t *error);

/* chunks.c */

/* Cuts the model into options.chunks. Refuses an invalid map. */
zero_status_t zero_model_cut(zero_model_t *m, zero_error_t *error);
/* The place of a layer of the decoder among those whose keys and values this rank's stage keeps. */
int64_t zero_model_cache_index(const zero_model_t *m, int64_t l);
/* The most layers of the decoder on a stage. */
int64_t zero_model_cache_layers(const zero_model_t *m);
/* Declares chunks, links and their memory. *host gets the bytes of ZERO_REGION_HOST. */
zero_status_t zero_model_declare_chunks(zero_model_t *m, uint64_t *host, zero_error_t *error);
/* Sets the buffers for a task. In a dry run only the part. */
zero_status_t zero_model_set_task(zero_model_t *m, const zero_task_t *task, bool trains, zero_error_t *error);
/* Sets the buffers in the host's memory to those of a micro-step. */
void zero_model_set_micro(zero_model_t *m, int64_t micro);

/* muon.c: with options.muon, prepares zero_model_matrix, at the end of declare and of bind. */
zero_status_t zero_model_declare_muon(zero_model_t *m, zero_error_t *error);
void zero_model_bind_muon(zero_model_t *m);

#endif
