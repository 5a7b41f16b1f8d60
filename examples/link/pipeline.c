/* SPDX-License-Identifier: Apache-2.0 */
/* pipeline.c - a network whose layers are divided among the stages of a pipeline. Each rank has the weights of its
 * stage alone; ranks hand each other the outputs of layers, and their gradients. STAGES divides the number of ranks; by
 * default it is that number. With one rank for each stage, the losses are equal to the last bit for 1, 2, 3 and 6
 * stages.
 *
 *   cc -O2 pipeline.c -o pipeline $(pkg-config --cflags --libs zero) -lm
 *   mpiexec -n 2 ./pipeline [STAGES] */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zero/zero.h>

enum { LAYERS = 6, WIDTH = 24, ROWS = 4, MICRO_STEPS = 6, STEPS = 100 };

/* One layer: y = x + tanh(W x + b). Row o of the array has the weights of output o, then its b. */
typedef float weights_t[WIDTH][WIDTH + 1];
typedef float rows_t[ROWS][WIDTH];

static zero_engine_t *engine;
static zero_error_t error;
static zero_unit_t unit[LAYERS];
static zero_param_t param[LAYERS];
static int chunks, chunk_layers; /* chunk c has the layers c * chunk_layers, ... */

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

/* The samples of a micro-step. The first and the last stage make the same ones. */
static void make(int batch, rows_t x)
{
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < WIDTH; i++)
            x[r][i] = noise(((uint64_t)batch * ROWS + (uint64_t)r) * WIDTH + (uint64_t)i);
}

/* kept[0] is the chunk's input, kept[i + 1] the output of its layer i. */
static void forward(int chunk, int batch, const rows_t *input, rows_t *output, rows_t *kept)
{
    if (input)
        memcpy(kept[0], input, sizeof *input);
    else
        make(batch, kept[0]);
    for (int i = 0; i < chunk_layers; i++) {
        int layer = chunk * chunk_layers + i;
        ok(zero_acquire(engine, unit[layer]));
        const weights_t *w = zero_param_data(engine, param[layer]);
        for (int r = 0; r < ROWS; r++)
            for (int o = 0; o < WIDTH; o++) {
                float y = (*w)[o][WIDTH];
                for (int k = 0; k < WIDTH; k++)
                    y += (*w)[o][k] * kept[i][r][k];
                kept[i + 1][r][o] = kept[i][r][o] + tanhf(y);
            }
        ok(zero_release(engine, unit[layer]));
    }
    if (output)
        memcpy(*output, kept[chunk_layers], sizeof *output);
}

/* Sets d to the gradient of the loss, half the squared error of the first output. Returns the loss. */
static double lose(int batch, const rows_t y, rows_t d)
{
    rows_t x;
    double loss = 0;
    make(batch, x);
    memset(d, 0, sizeof(rows_t));
    for (int r = 0; r < ROWS; r++) {
        d[r][0] = y[r][0] - (0.5f * x[r][1] - 0.5f * x[r][2]);
        loss += 0.5 * (double)d[r][0] * (double)d[r][0];
    }
    return loss;
}

/* Adds to the gradients of the chunk's layers. Returns the loss in the last chunk, and 0 in others. */
static double backward(int chunk, int batch, const rows_t *output_grad, rows_t *input_grad, rows_t *kept)
{
    rows_t d;
    double loss = 0;
    if (output_grad)
        memcpy(d, *output_grad, sizeof d);
    else
        loss = lose(batch, kept[chunk_layers], d);
    for (int i = chunk_layers - 1; i >= 0; i--) {
        int layer = chunk * chunk_layers + i;
        ok(zero_acquire(engine, unit[layer]));
        const weights_t *w = zero_param_data(engine, param[layer]);
        weights_t *dw = zero_param_grad(engine, param[layer]);
        for (int r = 0; r < ROWS; r++) {
            float dx[WIDTH];
            memcpy(dx, d[r], sizeof dx);
            for (int o = 0; o < WIDTH; o++) {
                float t = kept[i + 1][r][o] - kept[i][r][o], dy = d[r][o] * (1 - t * t);
                for (int k = 0; k < WIDTH; k++) {
                    (*dw)[o][k] += dy * kept[i][r][k];
                    dx[k] += dy * (*w)[o][k];
                }
                (*dw)[o][WIDTH] += dy;
            }
            memcpy(d[r], dx, sizeof dx);
        }
        ok(zero_release(engine, unit[layer]));
    }
    if (input_grad)
        memcpy(*input_grad, d, sizeof d);
    return loss;
}

/* Declares the tasks of the training pass: forward of chunks 0, 1, ..., then backward of ..., 1, 0. */
static void declare(zero_pass_t train)
{
    const size_t kept_bytes = (size_t)(chunk_layers + 1) * sizeof(rows_t);
    ok(zero_chunks(engine, chunks));
    for (int c = 0; c < chunks; c++)
        ok(zero_chunk_reserve(engine, c, ZERO_KIND_ACTIVATIONS, ZERO_TIER_DEVICE, kept_bytes));
    for (int c = 0; c + 1 < chunks; c++)
        ok(zero_chunk_link(engine, c, ROWS * WIDTH, ZERO_FP32));
    for (int c = 0; c < chunks; c++) {
        ok(zero_task_add(engine, train, c, ZERO_FORWARD));
        for (int l = c * chunk_layers; l < (c + 1) * chunk_layers; l++)
            ok(zero_use_add(engine, train, unit[l], ZERO_READ));
    }
    for (int c = chunks - 1; c >= 0; c--) {
        ok(zero_task_add(engine, train, c, ZERO_BACKWARD));
        for (int l = (c + 1) * chunk_layers - 1; l >= c * chunk_layers; l--)
            ok(zero_use_add(engine, train, unit[l], ZERO_READ | ZERO_GRAD));
    }
}

/* Runs the tasks of this rank's stage. Returns the sum of their losses. */
static double learn(zero_pass_t train, int step)
{
    double loss = 0;
    zero_task_t task = {.size = sizeof task};
    ok(zero_tasks_begin(engine, train));
    for (ok(zero_task_next(engine, &task)); task.phase != ZERO_TASKS_END; ok(zero_task_next(engine, &task))) {
        int batch = (step * MICRO_STEPS + task.micro) * zero_data_size(engine) + zero_data_index(engine);
        if (task.phase == ZERO_FORWARD)
            forward(task.chunk, batch, task.input, task.output, task.kept);
        else
            loss += backward(task.chunk, batch, task.output_grad, task.input_grad, task.kept);
    }
    return loss;
}

int main(int argc, char **argv)
{
    zero_comm_t *comm = NULL;
    zero_device_t *device = NULL;
    zero_pass_t train;
    zero_config_t config;
    double first = 0, loss = 0;
    zero_config_init(&config);
    zero_status_t status = zero_comm_mpi(&comm, NULL, NULL, &error);
    ok(status == ZERO_ERR_UNSUPPORTED ? zero_comm_self(&comm, &error) : status); /* a build without MPI: one rank */
    ok(zero_device_cpu(&device, NULL, &error));
    chunks = argc > 1 ? atoi(argv[1]) : zero_comm_size(comm);
    if (chunks < 1 || LAYERS % chunks != 0 || zero_comm_size(comm) % chunks != 0) {
        fprintf(stderr, "%d stages: use a number that divides the %d layers and the %d ranks\n", chunks, LAYERS,
                zero_comm_size(comm));
        return 2;
    }
    chunk_layers = LAYERS / chunks;
    ok(zero_config_stage(&config, 1));
    config.comm = comm;
    config.device = device;
    config.mesh.pipe = chunks;
    config.micro_steps = MICRO_STEPS;
    config.rule = ZERO_RULE_SGD;
    config.beta1 = 0.9;
    config.weight_decay = 0;
    config.clip = 0;
    config.grad_scale = 1.0 / (ROWS * MICRO_STEPS * (zero_comm_size(comm) / chunks));
    ok(zero_create(&engine, &config, &error));
    ok(zero_pass_add(engine, "train", ZERO_PASS_TRAIN, &train));
    for (int l = 0; l < LAYERS; l++) {
        char name[] = {'f', 'c', (char)('0' + l), '\0'};
        zero_param_desc_t desc;
        zero_param_desc_init(&desc);
        desc.name = name;
        desc.ndim = 2;
        desc.shape[0] = WIDTH;
        desc.shape[1] = WIDTH + 1;
        ok(zero_unit_add(engine, name, &unit[l]));
        ok(zero_param_add(engine, unit[l], &desc, &param[l]));
    }
    declare(train);
    ok(zero_commit(engine));
    for (int l = 0; l < LAYERS; l++) { /* every rank gives all values, and keeps those of its stage */
        static float values[WIDTH * (WIDTH + 1)];
        for (int i = 0; i < WIDTH * (WIDTH + 1); i++)
            values[i] = 0.3f * noise(((uint64_t)(l + 1) << 32) + (uint64_t)i);
        ok(zero_param_set(engine, param[l], ZERO_STATE_PARAM, ZERO_FP32, values));
    }
    for (int step = 0; step < STEPS; step++) {
        loss = learn(train, step);
        ok(zero_step(engine, 0.02));
        ok(zero_sum(engine, &loss, 1));
        loss /= ROWS * MICRO_STEPS * zero_data_size(engine);
        first = step == 0 ? loss : first;
        if (zero_comm_rank(comm) == 0)
            printf("step %2d  loss %.17g\n", step, loss);
    }
    zero_destroy(engine);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
    return loss < 0.1 * first ? 0 : 1;
}
