/* SPDX-License-Identifier: Apache-2.0 */
/* perceptron.c - a trainer without libzero: a perceptron with four layers learns a function of eight numbers, with
 * plain loops in fp32 and SGD with momentum. docs/guide.md ports it to libzero step by step; the result is
 * perceptron_zero.c.
 *
 *   cc -O2 perceptron.c -o perceptron -lm
 *   ./perceptron [PARTS]
 *
 * Each step processes its batch in PARTS parts (default 1), as PARTS workers would: each part has its own gradient, and
 * these are added in order. With libzero the parts become ranks. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 4, INPUTS = 8, WIDTH = 160, BATCH = 60, STEPS = 20 };
static const double rate = 0.05, momentum = 0.9;

/* y = tanh(W x + b), without tanh in the last layer. One array holds W and b: row o has the weights of output o, then
 * its b. */
typedef struct layer {
    int in, out;
    float *weight, *gradient; /* (out, in + 1) */
    float *sum, *velocity;    /* (out, in + 1): gradients of all parts; SGD's state */
} layer_t;

static layer_t net[LAYERS];
static float x[LAYERS + 1][BATCH][WIDTH]; /* a part's inputs, then the outputs of each layer */
static float dx[2][BATCH][WIDTH];         /* derivatives of the loss with respect to a layer's outputs and inputs */

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
    for (int l = 0; l < LAYERS; l++)
        forward(l, n);
    for (int s = 0; s < n; s++) {
        float target = sinf(3 * x[0][s][0]) * x[0][s][1] + 0.5f * x[0][s][2], difference = x[LAYERS][s][0] - target;
        dx[LAYERS % 2][s][0] = difference;
        loss += 0.5 * (double)difference * (double)difference;
    }
    for (int l = LAYERS - 1; l >= 0; l--)
        backward(l, n);
    return loss;
}

static void update(const layer_t *layer)
{
    for (int i = 0; i < count(layer); i++) {
        float g = layer->sum[i] * (float)(1.0 / BATCH);
        layer->velocity[i] = (float)momentum * layer->velocity[i] + g;
        layer->weight[i] = fmaf((float)-rate, layer->velocity[i], layer->weight[i]);
    }
}

int main(int argc, char **argv)
{
    int parts = argc > 1 ? atoi(argv[1]) : 1;
    if (parts < 1 || parts > BATCH)
        return 2;
    for (int l = 0; l < LAYERS; l++) {
        net[l].in = l ? WIDTH : INPUTS;
        net[l].out = l < LAYERS - 1 ? WIDTH : 1;
        net[l].weight = calloc(4 * (size_t)count(&net[l]), sizeof(float));
        if (!net[l].weight)
            return 1;
        net[l].gradient = net[l].weight + count(&net[l]);
        net[l].sum = net[l].gradient + count(&net[l]);
        net[l].velocity = net[l].sum + count(&net[l]);
        init(l, net[l].weight);
    }
    for (int step = 0; step < STEPS; step++) {
        double loss = 0;
        for (int l = 0; l < LAYERS; l++)
            memset(net[l].sum, 0, (size_t)count(&net[l]) * sizeof(float));
        for (int part = 0; part < parts; part++) {
            int begin = BATCH * part / parts, end = BATCH * (part + 1) / parts;
            for (int l = 0; l < LAYERS; l++)
                memset(net[l].gradient, 0, (size_t)count(&net[l]) * sizeof(float));
            loss += learn(step, begin, end - begin);
            for (int l = 0; l < LAYERS; l++)
                for (int i = 0; i < count(&net[l]); i++)
                    net[l].sum[i] += net[l].gradient[i];
        }
        for (int l = 0; l < LAYERS; l++)
            update(&net[l]);
        printf("step %2d  loss %.17g\n", step, loss / BATCH);
    }
    for (int l = 0; l < LAYERS; l++)
        free(net[l].weight);
    return 0;
}
