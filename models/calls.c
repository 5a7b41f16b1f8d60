/* SPDX-License-Identifier: Apache-2.0 */
/* calls.c - the public calls on a bound model: training, evaluation, logits, parameters. */
#include "models/decoder.h"

#include <inttypes.h>

/* The fewest rows to which several tokens of a prompt are padded. The other numbers are its multiples by powers of
 * two. With tensor parallelism, whose collectives want a pass for each number, there is only the largest. */
#define PROMPT_ROWS_LEAST 16

zero_model_append_t zero_model_append(const zero_model_t *m, int64_t n, int64_t past)
{
    const int64_t own = zero_model_kept_rows(m, m->options.micro_batch * m->decoder.T),
                  most = own < m->options.sample_len ? own : m->options.sample_len;
    zero_model_append_t s = {.n = n < most ? n : most, .rows = 1, .last = n <= most};

    if (s.n > 1)
        s.rows = past > 0 || m->tensor > 1 ? most : PROMPT_ROWS_LEAST;
    while (s.rows < s.n)
        s.rows *= 2;
    s.rows = s.rows < most ? s.rows : most;
    s.back = past > 0 || s.rows == 1;
    return s;
}

static zero_status_t check_bound(const zero_model_t *m, zero_error_t *error)
{
    return m->bound
               ? ZERO_OK
               : zero_fail(error, ZERO_ERR_ORDER, "call zero_model_bind after zero_commit, before the model is used");
}

/* Kernels index with tokens, so all tokens are checked before anything runs. ignored: a number that is allowed
 * too. */
static zero_status_t check_tokens(int64_t vocab, const char *what, const int32_t *tokens, int64_t count,
                                  int32_t ignored, zero_error_t *error)
{
    for (int64_t i = 0; i < count; i++)
        if ((tokens[i] < 0 || tokens[i] >= vocab) && tokens[i] != ignored)
            return zero_fail(error, ZERO_ERR_ARG,
                             "%s %" PRId64 " is %" PRId32 ", but the model's vocabulary has tokens 0 to %" PRId64, what,
                             i, tokens[i], vocab - 1);
    return ZERO_OK;
}

/* Kernels read tokens and targets, and write losses, in memory that host and device access. Each micro-step of a step
 * has its own place there. */
static int64_t place(const zero_model_t *m, int64_t micro)
{
    return micro * m->options.micro_batch * m->decoder.T;
}

/* The place of the i-th of this rank's tokens in sequences of options.seq_len tokens each. */
static int64_t token_of(const zero_model_t *m, int64_t i)
{
    const int64_t T = m->decoder.T;

    return i / T * m->options.seq_len + zero_model_position(m, m->context_place, i % T);
}

/* Writes the documents of count tokens of this rank: each token's keys, and its position. starts, of whole sequences,
 * may be NULL. */
static void set_documents(zero_model_t *m, const int32_t *starts, int64_t count)
{
    const int64_t T = m->options.seq_len;

    for (int64_t i = 0; zero_model_lists(m) && i < count; i++) {
        const int64_t at = token_of(m, i);
        const int32_t t = (int32_t)(at % T), start = starts ? starts[at] : 0;

        m->decoder.ranges[2 * i] = start;
        m->decoder.ranges[2 * i + 1] = m->context > 1 ? t + 1 : (int32_t)T; /* attention is causal as well */
        m->positions_in[i] = t - start;
    }
}

/* The sources of count sequences: what the encoder and the decoder see of each. lengths NULL: 1 token of each. */
static void set_sources(zero_model_t *m, const int32_t *lengths, int64_t count, int64_t T)
{
    const int64_t S = m->encoder.T;

    for (int64_t i = 0; i < count; i++) {
        const int32_t length = lengths ? lengths[i] : 1;

        for (int64_t s = 0; s < S; s++) {
            m->encoder.ranges[2 * (i * S + s)] = 0;
            m->encoder.ranges[2 * (i * S + s) + 1] = length;
        }
        for (int64_t t = 0; t < T; t++) {
            m->cross_ranges[2 * (i * T + t)] = 0;
            m->cross_ranges[2 * (i * T + t) + 1] = length;
        }
    }
}

static void copy_sources(zero_model_t *m, const zero_model_batch_t *batch, int64_t rows)
{
    const int64_t S = m->encoder.T, all = m->options.micro_batch;

    m->encoded = false;
    memset(m->encoder.tokens, 0, (size_t)(all * S) * sizeof *batch->source);
    if (rows > 0)
        memcpy(m->encoder.tokens, batch->source, (size_t)(rows * S) * sizeof *batch->source);
    set_sources(m, NULL, all, m->decoder.T);
    set_sources(m, batch->source_lengths, rows, m->decoder.T);
}

/* Copies the first rows sequences of a batch to that memory and pads with token 0: kernels have one shape. */
static void copy_batch(zero_model_t *m, int64_t at, const zero_model_batch_t *batch, int64_t rows)
{
    const int64_t T = m->decoder.T, used = rows * T, all = m->options.micro_batch * T;

    for (int64_t i = 0; i < used; i++) {
        m->decoder.tokens[at + i] = batch->tokens[token_of(m, i)];
        m->targets[at + i] = batch->targets[token_of(m, i)];
    }
    memset(m->decoder.tokens + at + used, 0, (size_t)(all - used) * sizeof *batch->tokens);
    memset(m->targets + at + used, 0, (size_t)(all - used) * sizeof *batch->targets);
    set_documents(m, NULL, all);
    if (batch->starts)
        set_documents(m, batch->starts, used);
    if (m->encoder.layers > 0)
        copy_sources(m, batch, rows);
}

static double sum_losses(const float *losses, int64_t count)
{
    double sum = 0;

    for (int64_t i = 0; i < count; i++)
        sum += (double)losses[i];
    return sum;
}

/* Whether this rank computes losses. */
static bool is_last_stage(const zero_model_t *m)
{
    return zero_pipe_index(m->engine) + 1 == zero_pipe_size(m->engine);
}

/* Whether its losses count: ranks that compute layers together have the same. */
static bool counts_losses(const zero_model_t *m)
{
    return is_last_stage(m) && m->place == 0;
}

/* Waits for the micro-steps in flight. Then their losses are complete, and every place is free again. */
static zero_status_t wait_for_losses(zero_model_t *m, zero_error_t *error)
{
    zero_status_t status = zero_model_engine_error(m, zero_wait(m->engine), error);

    for (int64_t k = 0; k < m->pending && status == ZERO_OK; k++)
        m->loss += sum_losses(m->losses + place(m, k), place(m, 1));
    m->pending = 0;
    return status;
}

/* A document begins at its first token, in its own row, and at or after the one before it. */
static zero_status_t check_starts(const zero_model_t *m, const int32_t *starts, int64_t rows, zero_error_t *error)
{
    const int64_t T = m->options.seq_len;

    if (starts == NULL)
        return ZERO_OK;
    if (!m->options.packed)
        return zero_fail(error, ZERO_ERR_ORDER, "a batch has starts, but the model was created without packed");
    for (int64_t i = 0; i < rows * T; i++) {
        const int64_t t = i % T;

        if (t == 0 ? starts[i] != 0 : starts[i] != starts[i - 1] && starts[i] != t)
            return zero_fail(error, ZERO_ERR_ARG,
                             "token %" PRId64 " of row %" PRId64 " has a document that starts at %" PRId32
                             ": it must start there, or where that of the token before it does",
                             t, i / T, starts[i]);
    }
    return ZERO_OK;
}

static zero_status_t check_sources(const zero_model_t *m, const zero_model_batch_t *batch, int64_t rows,
                                   zero_error_t *error)
{
    const int64_t S = m->encoder.T;

    if (m->encoder.layers == 0)
        return batch->source == NULL ? ZERO_OK
                                     : zero_fail(error, ZERO_ERR_ARG, "a batch has a source, but the model no encoder");
    if (rows > 0 && (batch->source == NULL || batch->source_lengths == NULL))
        return zero_fail(error, ZERO_ERR_ARG, "a batch has no source or source_lengths, which the encoder needs");
    for (int64_t i = 0; i < rows; i++)
        if (batch->source_lengths[i] < 1 || batch->source_lengths[i] > S)
            return zero_fail(error, ZERO_ERR_ARG,
                             "source %" PRId64 " has %" PRId32 " tokens: 1 to %" PRId64 " are possible", i,
                             batch->source_lengths[i], S);
    return check_tokens(m->config.source_vocab, "source token", batch->source, rows * S, 0, error);
}

static zero_status_t check_batch(const zero_model_t *m, const zero_model_batch_t *batch, int64_t rows,
                                 zero_error_t *error)
{
    const int64_t count = rows * m->options.seq_len;
    zero_status_t status = check_tokens(m->config.vocab, "input token", batch->tokens, count, 0, error);

    if (status == ZERO_OK)
        status = check_tokens(m->config.vocab, "target token", batch->targets, count, ZERO_NN_IGNORE, error);
    if (status == ZERO_OK)
        status = check_sources(m, batch, rows, error);
    return status == ZERO_OK ? check_starts(m, batch->starts, rows, error) : status;
}

zero_status_t zero_model_train(zero_model_t *m, const zero_model_batch_t *batch, uint32_t flags, double *loss_sum,
                               zero_error_t *error)
{
    int64_t at;
    zero_status_t status = check_bound(m, error);

    *loss_sum = 0;
    if (status == ZERO_OK && m->options.untrained)
        status = zero_fail(error, ZERO_ERR_ORDER, "the model was created without a training pass");
    if (status == ZERO_OK)
        status = check_batch(m, batch, m->options.micro_batch, error);
    if (status == ZERO_OK && m->pending == m->places)
        status = wait_for_losses(m, error);
    if (status != ZERO_OK)
        return status;
    m->cached_len = 0;
    at = place(m, m->pending++);
    copy_batch(m, at, batch, m->options.micro_batch);
    status = zero_model_pass_train(m, m->decoder.tokens + at, m->targets + at, m->losses + at, flags, error);
    if (status != ZERO_OK || !(flags & ZERO_LAST))
        return status;
    status = wait_for_losses(m, error);
    *loss_sum = counts_losses(m) ? m->loss : 0;
    m->loss = 0;
    return status;
}

zero_status_t zero_model_train_step(zero_model_t *m, const zero_model_batch_t *batches, double *loss_sum,
                                    zero_error_t *error)
{
    const int64_t micros = m->places;
    zero_status_t status = check_bound(m, error);

    *loss_sum = 0;
    m->cached_len = 0;
    if (status == ZERO_OK && m->chunk_count == 0)
        status = zero_fail(error, ZERO_ERR_ORDER, "the model is not in chunks: call zero_model_train");
    for (int64_t i = 0; i < micros && status == ZERO_OK; i++)
        status = check_batch(m, &batches[i], m->options.micro_batch, error);
    if (status == ZERO_OK)
        status = wait_for_losses(m, error);
    for (int64_t i = 0; i < micros && status == ZERO_OK; i++) {
        zero_model_set_micro(m, i);
        copy_batch(m, 0, &batches[i], m->options.micro_batch);
    }
    if (status == ZERO_OK)
        status = zero_model_pass_tasks(m, error);
    if (status == ZERO_OK)
        status = wait_for_losses(m, error);
    for (int64_t i = 0; i < micros && status == ZERO_OK && counts_losses(m); i++) {
        zero_model_set_micro(m, i);
        *loss_sum += sum_losses(m->losses, place(m, 1));
    }
    return status;
}

zero_status_t zero_model_eval(zero_model_t *m, const zero_model_batch_t *batch, int64_t rows, double *loss_sum,
                              zero_error_t *error)
{
    const int64_t B = m->options.micro_batch;
    zero_status_t status = check_bound(m, error);

    if (status != ZERO_OK)
        return status;
    if (!m->options.eval)
        return zero_fail(error, ZERO_ERR_ORDER, "the model was created without an evaluation pass");
    if (rows < 0 || rows > B)
        return zero_fail(error, ZERO_ERR_ARG,
                         "an evaluation of %" PRId64 " sequences at a time: 0 to %" PRId64
                         " (the micro-batch) are possible",
                         rows, B);
    status = check_batch(m, batch, rows, error);
    if (status == ZERO_OK)
        status = wait_for_losses(m, error);
    if (status != ZERO_OK)
        return status;
    if (m->chunk_count > 0)
        zero_model_set_micro(m, 0);
    copy_batch(m, 0, batch, rows);
    status = zero_model_pass_eval(m, m->decoder.tokens, m->targets, m->losses, rows, error);
    if (status == ZERO_OK)
        status = wait_for_losses(m, error);
    if (status == ZERO_OK)
        *loss_sum =
            counts_losses(m) ? sum_losses(m->losses, rows * m->decoder.T) : 0; /* without the losses of the padding */
    return status;
}

/* Sets the tokens of a pass, their positions, and what they attend to: all up to themselves. Padding repeats the last
 * position. */
static void set_append(zero_model_t *m, const zero_model_append_t *s, const int32_t *tokens, int64_t past)
{
    memset(m->decoder.tokens, 0, (size_t)s->rows * sizeof *tokens);
    memcpy(m->decoder.tokens, tokens, (size_t)s->n * sizeof *tokens);
    for (int64_t i = 0; i < s->rows; i++) {
        const int64_t position = past + (i < s->n ? i : s->n - 1);

        m->sample_positions[i] = (int32_t)position;
        m->sample_ranges[2 * i] = 0;
        m->sample_ranges[2 * i + 1] = (int32_t)position + 1;
    }
}

static zero_status_t check_sample(const zero_model_t *m, const int32_t *tokens, int64_t n, int64_t past,
                                  zero_error_t *error)
{
    const int64_t most = m->options.sample_len;
    zero_status_t status = check_bound(m, error);

    if (status != ZERO_OK)
        return status;
    if (n < 1 || past < 0 || past > most || n > most - past)
        return zero_fail(error, ZERO_ERR_ARG,
                         "a sample of %" PRId64 " tokens and %" PRId64 " more: 1 or more, and together at most %" PRId64
                         " (the length it was created for), are possible",
                         past, n, most);
    if (past > m->cached_len)
        return zero_fail(error, ZERO_ERR_ORDER,
                         "a sample continues behind token %" PRId64 ", but the model keeps %" PRId64
                         " tokens of it: continue behind these at most, or begin with past 0",
                         past, m->cached_len);
    if (m->encoder.layers > 0 && !m->encoded)
        return zero_fail(error, ZERO_ERR_ORDER,
                         "a sample has no source: call zero_model_encode after training and evaluation");
    return check_tokens(m->config.vocab, "token", tokens, n, 0, error);
}

zero_status_t zero_model_encode(zero_model_t *m, const int32_t *source, int64_t n, zero_error_t *error)
{
    const int64_t S = m->encoder.T;
    zero_status_t status = check_bound(m, error);

    if (status != ZERO_OK)
        return status;
    if (n < 1 || n > S || m->options.sample_len == 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "a source of %" PRId64 " tokens, of which a model with sources of %" PRId64
                         " and samples of %" PRId64 " tokens cannot make samples",
                         n, S, m->options.sample_len);
    status = check_tokens(m->config.source_vocab, "source token", source, n, 0, error);
    if (status == ZERO_OK)
        status = wait_for_losses(m, error);
    if (status != ZERO_OK)
        return status;
    m->cached_len = 0;
    memset(m->encoder.tokens, 0, (size_t)S * sizeof *source);
    memcpy(m->encoder.tokens, source, (size_t)n * sizeof *source);
    const int32_t length = (int32_t)n;
    set_sources(m, &length, 1, m->options.micro_batch * m->decoder.T);
    status = zero_model_pass_encode(m, error);
    if (status == ZERO_OK)
        status = wait_for_losses(m, error);
    m->encoded = status == ZERO_OK;
    return status;
}

zero_status_t zero_model_logits(zero_model_t *m, const int32_t *tokens, int64_t n, int64_t past, float *logits,
                                zero_error_t *error)
{
    zero_status_t status = check_sample(m, tokens, n, past, error);

    if (status == ZERO_OK)
        status = wait_for_losses(m, error);
    if (status == ZERO_OK)
        m->cached_len = past;
    if (status == ZERO_OK && m->chunk_count > 0)
        zero_model_set_micro(m, 0);
    for (int64_t done = 0; done < n && status == ZERO_OK;) {
        const zero_model_append_t s = zero_model_append(m, n - done, past + done);

        set_append(m, &s, tokens + done, past + done);
        status = zero_model_pass_sample(m, &s, error);
        if (status == ZERO_OK)
            status = wait_for_losses(m, error);
        done += s.n;
        if (status == ZERO_OK)
            m->cached_len = past + done;
    }
    for (int64_t v = 0; v < m->config.vocab && status == ZERO_OK; v++)
        logits[v] = is_last_stage(m) ? zero_element(m->sampled, v, m->options.dtype) : 0;
    return status;
}

int zero_model_param_count(const zero_model_t *model)
{
    return model->param_count;
}

const char *zero_model_param_name(const zero_model_t *model, int index)
{
    return model->params[index].name;
}

zero_param_t zero_model_param(const zero_model_t *model, int index)
{
    return model->params[index].id;
}

int zero_model_tile_count(const zero_model_t *model, int index)
{
    const zero_model_tiles_t *tiles = zero_model_tiles_of((zero_model_t *)model, &model->params[index]);

    return tiles ? tiles->count : 1;
}

zero_param_t zero_model_tile(const zero_model_t *model, int index, int tile)
{
    const zero_model_tiles_t *tiles = zero_model_tiles_of((zero_model_t *)model, &model->params[index]);

    return tiles ? tiles->list[tile].id : model->params[index].id;
}

zero_state_t zero_model_param_state(const zero_model_t *model, int index)
{
    const bool frozen = model->options.untrained || (zero_model_is_frozen(model) && index < model->base_count);

    return frozen ? ZERO_STATE_PARAM : ZERO_STATE_MASTER;
}

int64_t zero_model_param_elements(const zero_model_t *model, int index)
{
    return model->params[index].count;
}
