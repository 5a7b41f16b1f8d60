/* SPDX-License-Identifier: Apache-2.0 */
/* pass.c - the passes over the units: training, evaluation, sampling. A dry run takes the same path: it declares
 * the uses of a pass instead of acquiring them, and the kernels create their primitives. So declaration, workspace and
 * run cannot disagree. */
#include "models/decoder.h"

/* One run of a pass. After the first error it acquires nothing more. */
typedef struct zero_model_run {
    zero_model_t *m;
    zero_pass_t pass;
    zero_status_t status;
    zero_error_t *error;
} run_t;

static run_t begin(zero_model_t *m, zero_pass_t pass, uint32_t flags, zero_error_t *error)
{
    run_t r = {m, pass, ZERO_OK, error};

    if (!m->dry)
        r.status = zero_model_engine_error(m, zero_micro_begin(m->engine, pass, flags), error);
    return r;
}

/* Returns true if the unit may be used; the caller must then call done(). */
static bool use(run_t *r, zero_unit_t unit, uint32_t flags)
{
    zero_model_t *m = r->m;

    if (r->status != ZERO_OK)
        return false;
    if (!m->dry)
        r->status = zero_model_engine_error(m, zero_acquire(m->engine, unit), r->error);
    else if (flags != 0)
        r->status = zero_model_engine_error(m, zero_use_add(m->engine, r->pass, unit, flags), r->error);
    return r->status == ZERO_OK;
}

static void done(run_t *r, zero_unit_t unit)
{
    zero_model_t *m = r->m;

    r->status = zero_nn_status(m->nn, r->error);
    if (r->status == ZERO_OK && !m->dry)
        r->status = zero_model_engine_error(m, zero_release(m->engine, unit), r->error);
}

static zero_status_t end(run_t *r)
{
    if (r->status == ZERO_OK && !r->m->dry)
        r->status = zero_model_engine_error(r->m, zero_micro_end(r->m->engine), r->error);
    return r->status;
}

/* ---- layers ----------------------------------------------------------------------------------------------------- */

/* A layer makes the same calls in every pass of a kind: addresses of parameters, gradients and activations are
 * constant. So these calls go through zero_nn_repeat. Calls that read tokens or targets do not. */
typedef struct zero_model_layer_call {
    zero_model_t *m;
    int64_t l;
} layer_call_t;

enum { TRAIN_FORWARD = 0, TRAIN_BACKWARD, EVAL_FORWARD, KINDS };

static void repeat(zero_model_t *m, int64_t l, int kind, void (*calls)(void *ctx))
{
    zero_nn_repeat(m->nn, (int)(l * KINDS + kind), calls, &(layer_call_t){m, l});
}

static uint64_t kept_bytes(const zero_model_t *m)
{
    return (uint64_t)(m->options.micro_batch * m->options.seq_len * m->config.width) * m->element;
}

static void train_forward(void *ctx)
{
    zero_model_t *m = ((layer_call_t *)ctx)->m;
    const int64_t l = ((layer_call_t *)ctx)->l;

    if (m->kept[l] != NULL)
        zero_nn_copy(m->nn, m->kept[l], m->x[l], kept_bytes(m));
    zero_model_layer_forward(m, l, &m->layers[l], m->x[l], m->x[l + 1], m->options.micro_batch, m->options.seq_len);
}

static void train_backward(void *ctx)
{
    zero_model_t *m = ((layer_call_t *)ctx)->m;
    const int64_t l = ((layer_call_t *)ctx)->l;

    if (m->kept[l] != NULL)
        zero_nn_copy(m->nn, m->x[l], m->kept[l], kept_bytes(m));
    zero_model_layer_backward(m, l);
}

/* A pass without a backward pass runs all layers in the buffers of the first, with the residual stream in place. */
static void eval_forward(void *ctx)
{
    zero_model_t *m = ((layer_call_t *)ctx)->m;

    zero_model_layer_forward(m, ((layer_call_t *)ctx)->l, &m->layers[0], m->x[0], m->x[0], m->options.micro_batch,
                             m->options.seq_len);
}

/* ---- the ends --------------------------------------------------------------------------------------------------- */

/* Positions that begin anew with each document are looked up as tokens are. */
static void embed(zero_model_t *m, const int32_t *tokens, int64_t B, int64_t T)
{
    const int64_t C = m->config.width;
    const zero_dtype_t dtype = m->options.dtype;
    const bool anew = m->options.packed && m->positions != NULL;

    zero_nn_embedding_forward(m->nn, m->x[0], tokens, m->embed->data, anew ? NULL : zero_model_weight(m->positions), B,
                              T, C, dtype);
    if (!anew)
        return;
    zero_nn_embedding_forward(m->nn, m->narrow, m->positions_in, m->positions->data, NULL, B, T, C, dtype);
    zero_nn_add(m->nn, m->x[0], m->x[0], m->narrow, B * T * C, dtype);
}

static void embed_backward(zero_model_t *m, const int32_t *tokens, int64_t B, int64_t T)
{
    const zero_model_config_t *c = &m->config;
    const bool anew = m->options.packed && m->positions != NULL;

    zero_nn_embedding_backward(m->nn, m->embed->grad, anew ? NULL : zero_model_grad(m->positions), m->dx, tokens, B, T,
                               c->width, c->vocab, m->options.dtype);
    if (anew)
        zero_nn_embedding_backward(m->nn, m->positions->grad, NULL, m->dx, m->positions_in, B, T, c->width,
                                   c->positions, m->options.dtype);
}

/* The final norm of x (rows, C), to narrow. */
static void final_norm(zero_model_t *m, const void *x, int64_t rows)
{
    zero_nn_norm_t norm = zero_model_norm(m, m->norm_w, m->norm_b, m->mean_f, m->rstd_f, rows);

    norm.x = x;
    norm.y = m->narrow;
    zero_nn_norm_forward(m->nn, &norm);
}

/* ---- passes ----------------------------------------------------------------------------------------------------- */

zero_status_t zero_model_pass_train(zero_model_t *m, const int32_t *tokens, const int32_t *targets, float *losses,
                                    uint32_t flags, zero_error_t *error)
{
    const zero_model_config_t *c = &m->config;
    const int64_t B = m->options.micro_batch, T = m->options.seq_len, rows = B * T;
    run_t r = begin(m, m->train, flags, error);

    if (use(&r, m->embed_unit, ZERO_READ)) {
        embed(m, tokens, B, T);
        done(&r, m->embed_unit);
    }
    for (int64_t l = 0; l < c->layers; l++)
        if (use(&r, m->units[l], ZERO_READ)) {
            repeat(m, l, TRAIN_FORWARD, train_forward);
            done(&r, m->units[l]);
        }
    if (use(&r, m->norm_unit, ZERO_READ)) {
        final_norm(m, m->x[c->layers], rows);
        done(&r, m->norm_unit);
    }
    if (use(&r, m->head_unit, ZERO_READ | ZERO_GRAD)) {
        zero_model_head(m, losses, targets, rows, true);
        done(&r, m->head_unit);
    }
    if (use(&r, m->norm_unit, ZERO_READ | ZERO_GRAD)) {
        zero_nn_norm_t norm = zero_model_norm(m, m->norm_w, m->norm_b, m->mean_f, m->rstd_f, rows);

        norm.x = m->x[c->layers];
        norm.dy = m->narrow;
        norm.dx = m->dx;
        zero_nn_norm_backward(m->nn, &norm);
        done(&r, m->norm_unit);
    }
    for (int64_t l = c->layers - 1; l >= 0; l--)
        if (use(&r, m->units[l], ZERO_READ | ZERO_GRAD)) {
            repeat(m, l, TRAIN_BACKWARD, train_backward);
            done(&r, m->units[l]);
        }
    if (use(&r, m->embed_unit, ZERO_GRAD)) {
        embed_backward(m, tokens, B, T);
        done(&r, m->embed_unit);
    }
    return end(&r);
}

zero_status_t zero_model_pass_eval(zero_model_t *m, const int32_t *tokens, const int32_t *targets, float *losses,
                                   int64_t rows, zero_error_t *error)
{
    /* A rank without sequences takes part in the gathers and computes nothing. */
    const int64_t B = rows > 0 ? m->options.micro_batch : 0, T = m->options.seq_len;
    run_t r = begin(m, m->eval, 0, error);

    if (use(&r, m->embed_unit, ZERO_READ)) {
        if (B > 0)
            embed(m, tokens, B, T);
        done(&r, m->embed_unit);
    }
    for (int64_t l = 0; l < m->config.layers; l++)
        if (use(&r, m->units[l], ZERO_READ)) {
            if (B > 0)
                repeat(m, l, EVAL_FORWARD, eval_forward);
            done(&r, m->units[l]);
        }
    if (use(&r, m->norm_unit, ZERO_READ)) {
        if (B > 0)
            final_norm(m, m->x[0], B * T);
        done(&r, m->norm_unit);
    }
    if (use(&r, m->head_unit, ZERO_READ)) {
        zero_model_head(m, losses, targets, B * T, false);
        done(&r, m->head_unit);
    }
    return end(&r);
}

zero_status_t zero_model_pass_sample(zero_model_t *m, const int32_t *tokens, int64_t n, zero_error_t *error)
{
    const zero_model_config_t *c = &m->config;
    const int64_t T = zero_model_sample_shape(m, n);
    run_t r = begin(m, m->sample, 0, error);

    if (use(&r, m->embed_unit, 0)) {
        embed(m, tokens, 1, T);
        done(&r, m->embed_unit);
    }
    for (int64_t l = 0; l < c->layers; l++)
        if (use(&r, m->units[l], 0)) { /* in the first layer's buffers, as in an evaluation */
            zero_model_layer_forward(m, l, &m->layers[0], m->x[0], m->x[0], 1, T);
            done(&r, m->units[l]);
        }
    if (use(&r, m->norm_unit, 0)) {
        /* Only the last token: attention is causal, so the padding after it has no effect. */
        final_norm(m, zero_model_at(m, m->x[0], (n - 1) * c->width), 1);
        done(&r, m->norm_unit);
    }
    if (use(&r, m->head_unit, 0)) {
        zero_model_head_logits(m, m->narrow, 1);
        zero_nn_copy(m->nn, m->sampled, m->logits, (uint64_t)c->vocab * m->element);
        done(&r, m->head_unit);
    }
    return end(&r);
}
