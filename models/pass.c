/* SPDX-License-Identifier: Apache-2.0 */
/* pass.c - the passes over the units: training, evaluation, sampling. A dry run takes the same path: it declares
 * the uses of a pass instead of acquiring them, and the kernels create their primitives. So declaration, workspace and
 * run cannot disagree. */
#include "models/decoder.h"

typedef zero_model_run_t run_t;

static run_t begin(zero_model_t *m, zero_pass_t pass, uint32_t flags, zero_error_t *error)
{
    run_t r = {m, pass, ZERO_OK, error};

    if (!m->dry)
        r.status = zero_model_engine_error(m, zero_micro_begin(m->engine, pass, flags), error);
    return r;
}

bool zero_model_use(run_t *r, zero_unit_t unit, uint32_t flags)
{
    zero_model_t *m = r->m;

    if (r->status != ZERO_OK)
        return false;
    m->running = r->pass;
    m->declares = m->dry && flags != 0;
    if (!m->dry)
        r->status = zero_model_engine_error(m, zero_acquire(m->engine, unit), r->error);
    else if (flags != 0)
        r->status = zero_model_engine_error(m, zero_use_add(m->engine, r->pass, unit, flags), r->error);
    return r->status == ZERO_OK;
}

void zero_model_done(run_t *r, zero_unit_t unit)
{
    zero_model_t *m = r->m;

    r->status = zero_nn_status(m->nn, r->error);
    if (r->status == ZERO_OK)
        r->status = zero_model_engine_error(m, m->exchanged, r->error);
    m->exchanged = ZERO_OK;
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
 * constant. So these calls go through zero_nn_repeat. Calls that read tokens or targets do not; nor do those of chunks,
 * because activations of micro-steps have different addresses, and of ranks that have parts of a layer, because
 * collectives are between them. */
typedef struct zero_model_layer_call {
    zero_model_t *m;
    int64_t l;
    const zero_model_append_t *append; /* of a sample */
} layer_call_t;

enum { TRAIN_FORWARD = 0, TRAIN_BACKWARD, EVAL_FORWARD, SAMPLE_FORWARD, KINDS };

static void repeat(layer_call_t *call, int kind, void (*calls)(void *ctx))
{
    zero_model_t *m = call->m;

    if (m->chunk_count > 0 || m->tensor > 1 || m->context > 1)
        calls(call);
    else
        zero_nn_repeat(m->nn, (int)(call->l * KINDS + kind), calls, call);
}

static uint64_t kept_bytes(const zero_model_t *m, const zero_model_stack_t *s)
{
    return (uint64_t)(zero_model_own_rows(m, m->options.micro_batch * s->T) * m->config.width) * m->element;
}

static void train_forward(void *ctx)
{
    zero_model_t *m = ((layer_call_t *)ctx)->m;
    const int64_t l = ((layer_call_t *)ctx)->l;
    const zero_model_stack_t *s = zero_model_stack(m, l);
    void **x = &s->x[l - s->first];

    if (m->kept[l] != NULL)
        zero_nn_copy(m->nn, m->kept[l], x[0], kept_bytes(m, s));
    zero_model_layer_forward(m, l, &m->layers[l], x[0], x[1], m->options.micro_batch, s->T);
}

static void train_backward(void *ctx)
{
    zero_model_t *m = ((layer_call_t *)ctx)->m;
    const int64_t l = ((layer_call_t *)ctx)->l;
    const zero_model_stack_t *s = zero_model_stack(m, l);

    if (m->kept[l] != NULL)
        zero_nn_copy(m->nn, s->x[l - s->first], m->kept[l], kept_bytes(m, s));
    zero_model_layer_backward(m, l);
}

/* A pass without a backward pass runs all layers in the buffers of the first, with the residual stream in place. */
static void eval_forward(void *ctx)
{
    zero_model_t *m = ((layer_call_t *)ctx)->m;
    const int64_t l = ((layer_call_t *)ctx)->l;
    const zero_model_stack_t *s = zero_model_stack(m, l);
    void *x = zero_model_stream(m, s);

    zero_model_layer_forward(m, l, &m->layers[m->part.begin > s->first ? m->part.begin : s->first], x, x,
                             m->options.micro_batch, s->T);
}

/* What a layer of the decoder keeps of a sample. */
static zero_model_cache_t cache_of(const zero_model_t *m, int64_t l)
{
    const zero_model_stack_t *s = &m->decoder;
    const int64_t length = m->options.sample_len, width = m->own.kv_heads * m->config.head_dim,
                  at = 2 * zero_model_cache_index(m, l) * length * width, cross = 2 * s->layers * length * width;

    return (zero_model_cache_t){.length = length,
                                .keys = zero_model_at(m, m->cached, at),
                                .values = zero_model_at(m, m->cached, at + length * width),
                                .cross_kv =
                                    zero_model_at(m, m->cached, cross + 2 * (l - s->first) * m->encoder.T * width),
                                .positions = m->sample_positions,
                                .ranges = m->sample_ranges};
}

/* The same, for tokens of a sample. */
static void sample_forward(void *ctx)
{
    const layer_call_t *call = ctx;
    zero_model_t *m = call->m;
    const zero_model_stack_t *s = zero_model_stack(m, call->l);
    zero_model_layer_t a = m->layers[m->part.begin > s->first ? m->part.begin : s->first];
    void *x = zero_model_stream(m, s);

    a.cache = cache_of(m, call->l);
    a.cache.added = call->append->n;
    a.cache.read = call->append->back;
    zero_model_layer_forward(m, call->l, &a, x, x, 1, call->append->rows);
}

/* ---- the head --------------------------------------------------------------------------------------------------- */

/* Uses the head, or all of its tiles, for logits of x (rows, C), which go to m->logits. If ranks have parts of the
 * vocabulary, those of all ranks go to m->all_logits, and there is only one row. */
static void logits(run_t *r, const void *x, int64_t rows, uint32_t flags)
{
    zero_model_t *m = r->m;

    if (m->head_tiles->count == 0 && zero_model_use(r, m->head_unit, flags)) {
        zero_model_head_logits(m, NULL, x, rows);
        zero_model_exchange(m, ZERO_AXIS_TENSOR, ZERO_COLLECTIVE_GATHER, m->logits, m->all_logits, m->own.vocab,
                            m->options.dtype);
        zero_model_done(r, m->head_unit);
    }
    for (int i = 0; i < m->head_tiles->count; i++) {
        const zero_model_tile_t *tile = &m->head_tiles->list[i];

        if (!zero_model_use(r, tile->unit, flags))
            return;
        if (rows > 0)
            zero_model_head_logits(m, tile, x, rows);
        zero_model_done(r, tile->unit);
    }
}

/* Uses the head for the losses of B * T rows, and with a scale above 0 for their gradients. A block of rows needs all
 * tiles twice: forward for the logits, backward for the gradients. What a tile has of the gradients of a block is
 * reduced at once. */
static void head(run_t *r, float *losses, const int32_t *targets, int64_t B, float scale)
{
    zero_model_t *m = r->m;
    const int64_t all = m->options.micro_batch * m->decoder.T, C = m->config.width;
    const uint32_t flags = scale > 0 && !zero_model_is_frozen(m) ? ZERO_READ | ZERO_GRAD : ZERO_READ;

    if (m->head_tiles->count == 0 && zero_model_use(r, m->head_unit, flags)) {
        void *x = zero_model_gather(m, m->decoder.out, B * m->decoder.T);

        zero_model_head(m, x, losses, targets, B * m->decoder.T, scale);
        if (scale > 0)
            zero_model_reduce(m, m->decoder.dout, x, B * m->decoder.T);
        zero_model_done(r, m->head_unit);
    }
    for (int64_t at = 0; at < all && m->head_tiles->count > 0; at += m->head_rows) {
        const int64_t most = all - at < m->head_rows ? all - at : m->head_rows, n = B > 0 ? most : 0;
        void *x = zero_model_at(m, m->decoder.out, at * C);

        logits(r, x, n, ZERO_READ);
        if (r->status != ZERO_OK)
            return;
        if (n > 0)
            zero_model_head_losses(m, losses ? losses + at : NULL, targets ? targets + at : NULL, n, scale);
        for (int i = m->head_tiles->count - 1; i >= 0 && scale > 0; i--) {
            const zero_model_tile_t *tile = &m->head_tiles->list[i];

            if (!zero_model_use(r, tile->unit, flags & ZERO_GRAD ? flags | ZERO_REDUCE : flags))
                return;
            zero_model_head_tile(m, tile, x, n);
            zero_model_done(r, tile->unit);
        }
    }
}

/* ---- stacks ----------------------------------------------------------------------------------------------------- */

/* The arguments of a stack's norm of x (rows, C), of which this rank has its own rows. */
static zero_nn_norm_t last_norm(const zero_model_t *m, const zero_model_stack_t *s, const void *x, int64_t rows)
{
    zero_nn_norm_t norm = zero_model_norm(m, s->norm_w, s->norm_b, s->mean, s->rstd, zero_model_own_rows(m, rows));

    norm.x = x;
    norm.y = s->encoder ? zero_model_part(m, s->out, rows) : s->out;
    norm.dy = s->dout;
    norm.dx = m->dx;
    return norm;
}

/* Runs it forward. The output of an encoder's becomes whole: all layers of the decoder read it. */
static void last_norm_forward(zero_model_t *m, const zero_model_stack_t *s, const void *x, int64_t rows)
{
    const zero_nn_norm_t norm = last_norm(m, s, x, rows);

    zero_nn_norm_forward(m->nn, &norm);
    if (s->encoder && m->spread)
        zero_model_exchange(m, ZERO_AXIS_TENSOR, ZERO_COLLECTIVE_GATHER, norm.y, s->out, norm.rows * norm.C,
                            m->options.dtype);
}

/* Runs it backward. Each rank has a part of a sum of the gradient of an encoder's output. */
static void last_norm_backward(zero_model_t *m, const zero_model_stack_t *s, int64_t rows)
{
    zero_nn_norm_t norm = last_norm(m, s, s->x[s->layers], rows);

    if (s->encoder && m->tensor > 1) {
        norm.dy = m->narrow;
        zero_model_reduce(m, m->narrow, s->dout, rows);
    }
    zero_nn_norm_backward(m->nn, &norm);
}

/* Whether m->part has a layer. */
static bool has(const zero_model_t *m, int64_t l)
{
    return m->part.begin <= l && l < m->part.end;
}

/* Runs the units of a stack that m->part has. B: sequences; 0: it only takes part in the gathers. */
static void forward(run_t *r, const zero_model_stack_t *s, const int32_t *tokens, int kind, int64_t B)
{
    zero_model_t *m = r->m;

    if (zero_model_begins(m, s))
        zero_model_embed(r, s, tokens, (zero_model_places_t){zero_model_lists(m), m->positions_in}, B, s->T, ZERO_READ);
    for (int64_t l = s->first; l < s->first + s->layers; l++)
        if (has(m, l) && zero_model_use(r, m->units[l], ZERO_READ)) {
            if (B > 0)
                repeat(&(layer_call_t){m, l, NULL}, kind, kind == TRAIN_FORWARD ? train_forward : eval_forward);
            zero_model_done(r, m->units[l]);
        }
    if (zero_model_ends(m, s) && zero_model_use(r, s->norm_unit, ZERO_READ)) {
        last_norm_forward(m, s, kind == TRAIN_FORWARD ? s->x[s->layers] : zero_model_stream(m, s), B * s->T);
        zero_model_done(r, s->norm_unit);
    }
}

/* From the gradient of the norm's output to that of the embedding. */
static void backward(run_t *r, const zero_model_stack_t *s, const int32_t *tokens)
{
    zero_model_t *m = r->m;
    const bool frozen = zero_model_is_frozen(m); /* but for the layers' adapters */

    if (zero_model_ends(m, s) && zero_model_use(r, s->norm_unit, frozen ? ZERO_READ : ZERO_READ | ZERO_GRAD)) {
        last_norm_backward(m, s, m->options.micro_batch * s->T);
        zero_model_done(r, s->norm_unit);
    }
    for (int64_t l = s->first + s->layers - 1; l >= s->first; l--)
        if (has(m, l) && zero_model_use(r, m->units[l], ZERO_READ | ZERO_GRAD)) {
            repeat(&(layer_call_t){m, l, NULL}, TRAIN_BACKWARD, train_backward);
            zero_model_done(r, m->units[l]);
        }
    if (!frozen && zero_model_begins(m, s))
        zero_model_embed_backward(r, s, tokens);
}

/* ---- tasks ------------------------------------------------------------------------------------------------------ */

static void task_forward(run_t *r, int kind, float scale)
{
    zero_model_t *m = r->m;
    const int64_t B = m->options.micro_batch;

    if (m->encoder.layers > 0)
        forward(r, &m->encoder, m->encoder.tokens, kind, B);
    forward(r, &m->decoder, m->decoder.tokens, kind, B);
    if (zero_model_ends(m, &m->decoder))
        head(r, m->losses, m->targets, B, scale);
}

static void task_backward(run_t *r)
{
    zero_model_t *m = r->m;

    backward(r, &m->decoder, m->decoder.tokens);
    if (m->encoder.layers > 0)
        backward(r, &m->encoder, m->encoder.tokens);
}

/* What the tasks of a pass do: train with a scale of the losses, evaluate, or append to a sample. */
typedef struct work {
    bool trains, declares; /* declares: in the first dry run of the pass */
    float scale;
    const zero_model_append_t *append; /* NULL: no sample */
} work_t;

static void sample_part(run_t *r, const zero_model_append_t *append, uint32_t flags);

/* Runs a task, or declares it. */
static void run_task(run_t *r, const zero_task_t *task, const work_t *work)
{
    zero_model_t *m = r->m;

    if (work->declares)
        r->status = zero_model_engine_error(m, zero_task_add(m->engine, r->pass, task->chunk, task->phase), r->error);
    if (r->status == ZERO_OK)
        r->status = zero_model_set_task(m, task, work->trains, r->error);
    if (r->status != ZERO_OK)
        return;
    if (task->phase == ZERO_BACKWARD)
        task_backward(r);
    else if (work->append)
        sample_part(r, work->append, work->declares ? ZERO_READ : 0);
    else
        task_forward(r, work->trains ? TRAIN_FORWARD : EVAL_FORWARD, work->trains ? work->scale : 0);
    if (r->status == ZERO_OK)
        r->status = zero_nn_status(m->nn, r->error);
}

/* Runs the tasks of a pass, or declares them: those of a micro-step, in the order of their data. */
static zero_status_t run_tasks(zero_model_t *m, zero_pass_t pass, const work_t *work, zero_error_t *error)
{
    run_t r = {m, pass, ZERO_OK, error};
    zero_task_t task = {.size = sizeof task};
    const int chunks = m->chunk_count;

    for (int t = 0; m->dry && t < (work->trains ? 2 : 1) * chunks && r.status == ZERO_OK; t++) {
        task.chunk = t < chunks ? t : 2 * chunks - 1 - t;
        task.phase = t < chunks ? ZERO_FORWARD : ZERO_BACKWARD;
        run_task(&r, &task, work);
    }
    if (m->dry)
        return r.status;
    r.status = zero_model_engine_error(m, zero_tasks_begin(m->engine, pass), error);
    while (r.status == ZERO_OK) {
        r.status = zero_model_engine_error(m, zero_task_next(m->engine, &task), error);
        if (r.status != ZERO_OK || task.phase == ZERO_TASKS_END)
            break;
        run_task(&r, &task, work);
    }
    return r.status;
}

/* ---- passes ----------------------------------------------------------------------------------------------------- */

/* What the gradients of a step are multiplied by. */
static zero_status_t scale_of(zero_model_t *m, float *scale, zero_error_t *error)
{
    *scale = 1;
    const zero_status_t status =
        m->dry ? ZERO_OK : zero_model_engine_error(m, zero_loss_scale(m->engine, scale), error);

    if (m->options.grad_factor > 0)
        *scale *= m->options.grad_factor;
    return status;
}

zero_status_t zero_model_pass_tasks(zero_model_t *m, zero_error_t *error)
{
    float scale;
    const zero_status_t status = scale_of(m, &scale, error);

    return status == ZERO_OK ? run_tasks(m, m->train, &(work_t){true, m->dry, scale, NULL}, error) : status;
}

zero_status_t zero_model_pass_train(zero_model_t *m, const int32_t *tokens, const int32_t *targets, float *losses,
                                    uint32_t flags, zero_error_t *error)
{
    const int64_t B = m->options.micro_batch;
    const bool encodes = m->encoder.layers > 0;
    float scale;
    const zero_status_t status = scale_of(m, &scale, error);

    if (status != ZERO_OK)
        return status;

    run_t r = begin(m, m->train, flags, error);

    if (encodes)
        forward(&r, &m->encoder, m->encoder.tokens, TRAIN_FORWARD, B);
    forward(&r, &m->decoder, tokens, TRAIN_FORWARD, B);
    head(&r, losses, targets, B, scale);
    backward(&r, &m->decoder, tokens);
    if (encodes)
        backward(&r, &m->encoder, m->encoder.tokens);
    return end(&r);
}

zero_status_t zero_model_pass_eval(zero_model_t *m, const int32_t *tokens, const int32_t *targets, float *losses,
                                   int64_t rows, zero_error_t *error)
{
    if (m->chunk_count > 0)
        return run_tasks(m, m->eval, &(work_t){false, m->dry, 0, NULL}, error);

    /* A rank without sequences takes part in the gathers and computes nothing; with others that have parts of each
     * layer, it computes with padding. */
    const int64_t B = rows > 0 || m->tensor > 1 || m->context > 1 ? m->options.micro_batch : 0;
    run_t r = begin(m, m->eval, 0, error);

    if (m->encoder.layers > 0)
        forward(&r, &m->encoder, m->encoder.tokens, EVAL_FORWARD, B);
    forward(&r, &m->decoder, tokens, EVAL_FORWARD, B);
    head(&r, losses, targets, B, 0);
    return end(&r);
}

/* Runs the encoder on one source, and keeps its keys and values of each layer that attends to it. */
zero_status_t zero_model_pass_encode(zero_model_t *m, zero_error_t *error)
{
    const zero_model_stack_t *s = &m->encoder, *d = &m->decoder;
    run_t r = begin(m, m->sample[0], 0, error);

    zero_model_embed(&r, s, s->tokens, (zero_model_places_t){false, NULL}, 1, s->T, 0);
    for (int64_t l = s->first; l < s->first + s->layers; l++)
        if (zero_model_use(&r, m->units[l], 0)) {
            zero_model_layer_forward(m, l, &m->layers[s->first], s->x[0], s->x[0], 1, s->T);
            zero_model_done(&r, m->units[l]);
        }
    if (zero_model_use(&r, s->norm_unit, 0)) {
        last_norm_forward(m, s, s->x[0], s->T);
        zero_model_done(&r, s->norm_unit);
    }
    for (int64_t l = d->first; l < d->first + d->layers; l++)
        if (zero_model_use(&r, m->units[l], 0)) {
            zero_model_linear(m, l, ZERO_LINEAR_CROSS_KV, cache_of(m, l).cross_kv, s->out, s->T);
            zero_model_done(&r, m->units[l]);
        }
    return end(&r);
}

/* Appends to a sample, as far as m->part has its units. */
static void sample_part(run_t *r, const zero_model_append_t *append, uint32_t flags)
{
    zero_model_t *m = r->m;
    const zero_model_config_t *c = &m->config;
    const zero_model_stack_t *s = &m->decoder;
    const bool ends = append->last && zero_model_ends(m, s);

    if (zero_model_begins(m, s))
        zero_model_embed(r, s, s->tokens, (zero_model_places_t){true, m->sample_positions}, 1, append->rows, flags);
    for (int64_t l = s->first; l < s->first + s->layers; l++)
        if (has(m, l) && zero_model_use(r, m->units[l], flags)) {
            layer_call_t call = {m, l, append};

            /* Prompts differ in length, so only the calls for a single token are the same each time. */
            if (append->rows == 1)
                repeat(&call, SAMPLE_FORWARD, sample_forward);
            else
                sample_forward(&call);
            zero_model_done(r, m->units[l]);
        }
    if (ends && zero_model_use(r, s->norm_unit, flags)) {
        void *x = zero_model_at(m, zero_model_stream(m, s), (append->n - 1) * c->width);
        last_norm_forward(m, s, x, 1);
        zero_model_done(r, s->norm_unit);
    }
    if (ends)
        logits(r, m->decoder.out, 1, flags);
    if (ends && r->status == ZERO_OK)
        zero_nn_copy(m->nn, m->sampled, m->tensor > 1 ? m->all_logits : m->logits, (uint64_t)c->vocab * m->element);
}

zero_status_t zero_model_pass_sample(zero_model_t *m, const zero_model_append_t *append, zero_error_t *error)
{
    /* Calls with different numbers of rows have different collectives. */
    const int many = m->tensor > 1 && append->rows > 1;
    const bool declares = m->dry && (m->chunk_count > 0 || m->tensor > 1) && !m->samples[many];
    zero_status_t status;

    m->samples[many] = true;
    m->spread = false; /* a few rows */
    if (m->chunk_count > 0)
        status = run_tasks(m, m->sample[many], &(work_t){false, declares, 0, append}, error);
    else {
        run_t r = begin(m, m->sample[many], 0, error);

        sample_part(&r, append, declares ? ZERO_READ : 0);
        status = end(&r);
    }
    m->spread = m->spreads;
    return status;
}
