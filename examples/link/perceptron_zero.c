/* SPDX-License-Identifier: Apache-2.0 */
/* perceptron_zero.c - the trainer of perceptron.c on top of libzero. Each rank keeps its part of the weights, gradients
 * and velocities, and processes its part of each batch. With as many ranks as perceptron.c has parts, the losses are
 * equal to the last bit, at every stage (0 to 3) and for every placement of the velocities (TIER: 0 with the rest, 1 in
 * host memory, 2 in files in the current folder).
 *
 *   cc -O2 perceptron_zero.c -o perceptron_zero $(pkg-config --cflags --libs zero) -lm
 *   mpiexec -n 2 ./perceptron_zero [STAGE [TIER]] */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zero/zero.h>

enum { LAYERS = 4, INPUTS = 8, WIDTH = 160, BATCH = 60, STEPS = 20 };
static const double rate = 0.05, momentum = 0.9;

/* y = tanh(W x + b), without tanh in the last layer. One array holds W and b: row o has the weights of output o, then
 * its b. */
typedef struct layer {
    int in, out;
    float *weight, *gradient; /* (out, in + 1), owned by the library; valid while the unit is acquired */
    zero_unit_t unit;
    zero_param_t param;
} layer_t;

static layer_t net[LAYERS];
static zero_engine_t *engine;
static zero_error_t error;
static float x[LAYERS + 1][BATCH][WIDTH]; /* a part's inputs, then the outputs of each layer */
static float dx[2][BATCH][WIDTH];         /* derivatives of the loss with respect to a layer's outputs and inputs */

/* If a call failed, ends the program with the library's message; mpiexec then ends the other ranks. */
static void ok(zero_status_t status)
{
    if (status == ZERO_OK)
        return;
    fprintf(stderr, "%s\n", engine ? zero_last_error(engine) : error.text);
    exit(1);
}

/* A number in [-1, 1) that depends only on i. */
static float noise(uint64_t i)
{
    i = (i + 1) * 0x9e3779b97f4a7c15u;
    i = (i ^ (i >> 31)) * 0xbf58476d1ce4e5b9u;
    return (float)(int32_t)(i >> 32) / 2147483648.0f;
}

static int count(const layer_t *layer)
{
    return layer->out * (layer->in + 1);
}

/* The initial weights: uniform, with variance 1 / in. */
static void init(int l, float *weight)
{
    for (int i = 0; i < count(&net[l]); i++)
        weight[i] = noise(((uint64_t)(l + 1) << 32) + (uint64_t)i) * sqrtf(3.0f / (float)net[l].in);
}

static void forward(int l, int n)
{
    const layer_t *layer = &net[l];
    for (int s = 0; s < n; s++)
        for (int o = 0; o < layer->out; o++) {
            const float *w = layer->weight + o * (layer->in + 1);
            float y = w[layer->in];
            for (int i = 0; i < layer->in; i++)
                y += w[i] * x[l][s][i];
            x[l + 1][s][o] = l < LAYERS - 1 ? tanhf(y) : y;
        }
}

/* Adds to the layer's gradient. dx[l % 2] is the derivative with respect to the layer's input, dx[(l + 1) % 2] with
 * respect to its output. */
static void backward(int l, int n)
{
    const layer_t *layer = &net[l];
    for (int s = 0; s < n; s++) {
        memset(dx[l % 2][s], 0, sizeof dx[0][0]);
        for (int o = 0; o < layer->out; o++) {
            const float *w = layer->weight + o * (layer->in + 1), y = x[l + 1][s][o];
            float *dw = layer->gradient + o * (layer->in + 1),
                  d = dx[(l + 1) % 2][s][o] * (l < LAYERS - 1 ? 1 - y * y : 1);
            for (int i = 0; i < layer->in; i++) {
                dw[i] += d * x[l][s][i];
                dx[l % 2][s][i] += d * w[i];
            }
            dw[layer->in] += d;
        }
    }
}

/* Runs a forward and a backward pass over n samples of the step, starting at sample number first. Returns the sum of
 * their losses, (y - target)^2 / 2. */
static double learn(int step, int first, int n)
{
    double loss = 0;
    for (int s = 0; s < n; s++)
        for (int i = 0; i < INPUTS; i++)
            x[0][s][i] = noise(((uint64_t)step * BATCH + (uint64_t)(first + s)) * INPUTS + (uint64_t)i);
    for (int l = 0; l < LAYERS; l++) {
        ok(zero_acquire(engine, net[l].unit));
        forward(l, n);
        ok(zero_release(engine, net[l].unit));
    }
    for (int s = 0; s < n; s++) {
        float target = sinf(3 * x[0][s][0]) * x[0][s][1] + 0.5f * x[0][s][2], difference = x[LAYERS][s][0] - target;
        dx[LAYERS % 2][s][0] = difference;
        loss += 0.5 * (double)difference * (double)difference;
    }
    for (int l = LAYERS - 1; l >= 0; l--) {
        ok(zero_acquire(engine, net[l].unit));
        backward(l, n);
        ok(zero_release(engine, net[l].unit));
    }
    return loss;
}

int main(int argc, char **argv)
{
    zero_comm_t *comm = NULL;
    zero_device_t *device = NULL;
    zero_pass_t pass;
    zero_config_t config;
    zero_config_init(&config);
    if (zero_config_stage(&config, argc > 1 ? atoi(argv[1]) : 3) != ZERO_OK)
        return 2;
    zero_status_t status = zero_comm_mpi(&comm, NULL, NULL, &error);
    ok(status == ZERO_ERR_UNSUPPORTED ? zero_comm_self(&comm, &error) : status); /* a build without MPI: one rank */
    ok(zero_device_cpu(&device, NULL, &error));
    config.comm = comm;
    config.device = device;
    config.rule = ZERO_RULE_SGD;
    config.beta1 = momentum;
    config.weight_decay = 0;
    config.clip = 0;
    config.grad_scale = 1.0 / BATCH;
    config.optimizer.tier = (zero_tier_t)(argc > 2 ? atoi(argv[2]) : ZERO_TIER_DEVICE);
    config.nvme_path = ".";
    ok(zero_create(&engine, &config, &error));
    ok(zero_pass_add(engine, "train", ZERO_PASS_TRAIN, &pass));
    for (int l = 0; l < LAYERS; l++) {
        net[l].in = l ? WIDTH : INPUTS;
        net[l].out = l < LAYERS - 1 ? WIDTH : 1;
        char name[] = {'f', 'c', (char)('0' + l), '\0'};
        zero_param_desc_t desc;
        zero_param_desc_init(&desc);
        desc.name = name;
        desc.ndim = 2;
        desc.shape[0] = net[l].out;
        desc.shape[1] = net[l].in + 1;
        desc.trainable = true;
        ok(zero_unit_add(engine, name, &net[l].unit));
        ok(zero_param_add(engine, net[l].unit, &desc, &net[l].param));
        ok(zero_use_add(engine, pass, net[l].unit, ZERO_READ));
    }
    for (int l = LAYERS - 1; l >= 0; l--)
        ok(zero_use_add(engine, pass, net[l].unit, ZERO_READ | ZERO_GRAD));
    ok(zero_commit(engine));
    for (int l = 0; l < LAYERS; l++) {
        static float initial[WIDTH * (WIDTH + 1)];
        init(l, initial);
        ok(zero_param_set(engine, net[l].param, ZERO_STATE_PARAM, ZERO_FP32, initial));
        net[l].weight = zero_param_data(engine, net[l].param);
        net[l].gradient = zero_param_grad(engine, net[l].param);
    }
    int part = zero_comm_rank(comm), parts = zero_comm_size(comm), begin = BATCH * part / parts,
        end = BATCH * (part + 1) / parts;
    for (int step = 0; step < STEPS; step++) {
        ok(zero_micro_begin(engine, pass, ZERO_LAST));
        double loss = learn(step, begin, end - begin);
        ok(zero_micro_end(engine));
        ok(zero_step(engine, rate));
        ok(zero_sum(engine, &loss, 1));
        if (part == 0)
            printf("step %2d  loss %.17g\n", step, loss / BATCH);
    }
    zero_destroy(engine);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
    return 0;
}
