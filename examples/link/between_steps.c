/* SPDX-License-Identifier: Apache-2.0 */
/* between_steps.c - trainers do more than plain steps. This one has its own optimizer, skips blocks in some steps,
 * evaluates between steps, reads and writes parameters by name, and runs a sample in an order that it did not declare.
 *
 *   cc -O2 between_steps.c -o between_steps $(pkg-config --cflags --libs zero) -lm
 *   mpiexec -n 2 ./between_steps
 *
 * Each of a few blocks computes h = h + tanh(w * h), element by element; the head computes y = w . h. The last steps
 * have too high a rate on purpose: the program then returns to the best parameters that an evaluation found. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zero/zero.h>

enum { BLOCKS = 4, HEAD = BLOCKS, UNITS, WIDTH = 24, BATCH = 48, STEPS = 60, SPOILT = 50 };
static const char *const names[UNITS] = {"block0.weight", "block1.weight", "block2.weight", "block3.weight",
                                         "head.weight"};

static zero_engine_t *engine;
static zero_error_t error;
static zero_unit_t unit[UNITS];
static zero_param_t param[UNITS];
static zero_pass_t train, eval, any;
static int rank, world;
static float h[UNITS][BATCH][WIDTH], dh[BATCH][WIDTH], f[BLOCKS][BATCH][WIDTH], target[BATCH]; /* f: tanh(w * h) */
static float best[UNITS][WIDTH];

/* After zero_abort the other ranks end with this rank's message, even if they are waiting. */
static void ok(zero_status_t status)
{
    if (status == ZERO_OK)
        return;
    fprintf(stderr, "rank %d: %s\n", rank, engine ? zero_last_error(engine) : error.text);
    if (engine)
        zero_abort(engine, zero_last_error(engine));
    exit(1);
}

static float noise(uint64_t i)
{
    i = (i + 1) * 0x9e3779b97f4a7c15u;
    i = (i ^ (i >> 31)) * 0xbf58476d1ce4e5b9u;
    return (float)(int32_t)(i >> 32) / 2147483648.0f;
}

/* The optimizer: Adagrad (Duchi et al. 2011). The library passes the elements that this rank updates, as sharding and
 * offloading divide them. */
static int adagrad(void *ctx, const zero_update_args_t *u)
{
    const float *grad = u->grad, eps = *(const float *)ctx;
    if (u->grad_dtype != ZERO_FP32 || u->stream)
        return -1;
    for (int64_t i = 0; i < u->count; i++) {
        float g = grad[i] * (float)u->grad_factor; /* grad_scale and clipping */
        u->state[0][i] += g * g;
        u->master[i] -= (float)u->lr * g / (sqrtf(u->state[0][i]) + eps);
    }
    return 0;
}

/* Samples rank, rank + world, ... of a batch. */
static int load(int batch)
{
    int n = 0;
    for (int s = rank; s < BATCH; s += world, n++) {
        for (int i = 0; i < WIDTH; i++)
            h[0][n][i] = noise((uint64_t)((batch * BATCH + s) * WIDTH + i));
        target[n] = h[0][n][0] * h[0][n][1] + 0.5f * h[0][n][2] - 0.3f * h[0][n][3];
    }
    return n;
}

/* Runs the blocks except the skipped one (-1: all). To skip a unit, do not acquire it. */
static void blocks(int n, int skipped)
{
    for (int b = 0; b < BLOCKS; b++) {
        memcpy(h[b + 1], h[b], sizeof h[b]);
        if (b == skipped)
            continue;
        ok(zero_acquire(engine, unit[b]));
        const float *w = zero_param_data(engine, param[b]);
        for (int s = 0; s < n; s++)
            for (int i = 0; i < WIDTH; i++)
                h[b + 1][s][i] += f[b][s][i] = tanhf(w[i] * h[b][s][i]);
        ok(zero_release(engine, unit[b]));
    }
}

/* The sum of the losses. With gradients, also computes the head's gradient and dh. */
static double head(int n, bool gradients)
{
    double loss = 0;
    ok(zero_acquire(engine, unit[HEAD]));
    const float *w = zero_param_data(engine, param[HEAD]);
    for (int s = 0; s < n; s++) {
        float d = -target[s];
        for (int i = 0; i < WIDTH; i++)
            d += w[i] * h[HEAD][s][i];
        loss += 0.5 * (double)d * (double)d;
        for (int i = 0; gradients && i < WIDTH; i++) {
            ((float *)zero_param_grad(engine, param[HEAD]))[i] += d * h[HEAD][s][i];
            dh[s][i] = d * w[i];
        }
    }
    ok(zero_release(engine, unit[HEAD]));
    return loss;
}

static void learn(int step, int skipped)
{
    int n = load(step);
    ok(zero_micro_begin(engine, train, ZERO_LAST));
    blocks(n, skipped);
    head(n, true);
    for (int b = BLOCKS - 1; b >= 0; b--) {
        if (b == skipped)
            continue;
        ok(zero_acquire(engine, unit[b]));
        const float *w = zero_param_data(engine, param[b]);
        float *dw = zero_param_grad(engine, param[b]);
        for (int s = 0; s < n; s++)
            for (int i = 0; i < WIDTH; i++) {
                float df = dh[s][i] * (1 - f[b][s][i] * f[b][s][i]);
                dw[i] += df * h[b][s][i];
                dh[s][i] += df * w[i];
            }
        ok(zero_release(engine, unit[b]));
    }
    ok(zero_micro_end(engine));
}

/* The mean loss of batches that are never trained on. A pass in any order uses the same calls as a declared one. */
static double evaluate(zero_pass_t pass)
{
    double loss = 0;
    for (int batch = 1000; batch < 1004; batch++) {
        int n = load(batch);
        ok(zero_micro_begin(engine, pass, 0));
        blocks(n, -1);
        loss += head(n, false) / (4 * BATCH);
        ok(zero_micro_end(engine));
    }
    ok(zero_sum(engine, &loss, 1));
    return loss;
}

/* Copies all parameters by name to best, or back from it. Every rank takes part, because setting parameters needs the
 * values on every rank. */
static void keep(bool restore)
{
    for (int u = 0; u < UNITS; u++) {
        zero_param_t p;
        ok(zero_param_find(engine, names[u], &p));
        ok(restore ? zero_param_set(engine, p, ZERO_STATE_PARAM, ZERO_FP32, best[u])
                   : zero_param_get(engine, p, ZERO_STATE_PARAM, ZERO_FP32, best[u]));
    }
}

static int uniform(void *ctx, zero_param_t p, int64_t begin, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = *(const float *)ctx * noise(((uint64_t)(p + 1) << 32) + (uint64_t)(begin + i));
    return 0;
}

int main(void)
{
    zero_comm_t *comm = NULL;
    zero_device_t *device = NULL;
    zero_config_t config;
    float eps = 1e-8f, bound = 0.3f, gradient[WIDTH];
    double lowest = 1e9, loss = 0;
    zero_status_t status = zero_comm_mpi(&comm, NULL, NULL, &error);
    ok(status == ZERO_ERR_UNSUPPORTED ? zero_comm_self(&comm, &error) : status);
    ok(zero_device_cpu(&device, NULL, &error));
    rank = zero_comm_rank(comm);
    world = zero_comm_size(comm);

    zero_config_init(&config);
    config.comm = comm;
    config.device = device;
    config.persist_bytes = 0;
    config.grad_scale = 1.0 / BATCH;
    config.rule = ZERO_RULE_CUSTOM;
    config.update = adagrad;
    config.update_ctx = &eps;
    config.update_states = 1;
    ok(zero_create(&engine, &config, &error));
    ok(zero_pass_add(engine, "train", ZERO_PASS_TRAIN, &train));
    ok(zero_pass_add(engine, "eval", ZERO_PASS_EVAL, &eval));
    ok(zero_pass_add(engine, "sample", ZERO_PASS_ANY_ORDER, &any));
    for (int u = 0; u < UNITS; u++) {
        zero_param_desc_t desc;
        zero_param_desc_init(&desc);
        desc.name = names[u];
        desc.ndim = 1;
        desc.shape[0] = WIDTH;
        desc.trainable = true;
        ok(zero_unit_add(engine, names[u], &unit[u]));
        ok(zero_param_add(engine, unit[u], &desc, &param[u]));
        ok(zero_use_add(engine, train, unit[u], u < HEAD ? ZERO_READ : ZERO_READ | ZERO_GRAD));
        ok(zero_use_add(engine, eval, unit[u], ZERO_READ));
    }
    for (int b = BLOCKS - 1; b >= 0; b--)
        ok(zero_use_add(engine, train, unit[b], ZERO_READ | ZERO_GRAD));
    ok(zero_commit(engine));
    for (int u = 0; u < UNITS; u++)
        ok(zero_param_fill(engine, param[u], uniform, &bound));

    for (int step = 0; step < STEPS; step++) {
        int skipped = step % 3 == 2 ? step / 3 % BLOCKS : -1;
        learn(step, skipped);
        for (int b = 0; b < BLOCKS && step < 6; b++) { /* the gradient of a skipped block is zero */
            ok(zero_param_get(engine, param[b], ZERO_STATE_GRAD, ZERO_FP32, gradient));
            if ((b == skipped) != (gradient[0] == 0)) {
                zero_abort(engine, "a skipped block has a gradient, or another has none");
                return 1;
            }
        }
        ok(zero_step(engine, step < SPOILT ? 0.2 : 5));
        if (step % 10 == 9) {
            loss = evaluate(eval);
            if (loss < lowest) {
                lowest = loss;
                keep(false);
            }
            if (rank == 0)
                printf("after %d steps: loss %.6f on other batches\n", step + 1, loss);
        }
    }
    bool spoilt = loss > 1.5 * lowest;
    keep(true);
    double again = evaluate(eval), sampled = evaluate(any);
    if (rank == 0)
        printf("back at the best parameters: %.6f, and in any order %.6f\n", again, sampled);
    zero_destroy(engine);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
    return !spoilt || again != lowest || sampled != lowest || !(lowest < 0.06);
}
