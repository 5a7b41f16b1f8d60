/* SPDX-License-Identifier: Apache-2.0 */
/* tensor.c - a network whose layers several ranks compute together (tensor parallelism). Each of TENSOR consecutive
 * ranks has a part of every weight matrix; they exchange activations inside the layers. TENSOR divides the number of
 * ranks; by default it is that number. Between the layers a rank keeps its part of the rows (sequence parallelism), or
 * all of them if the second argument is 1. At equal samples the losses are equal to rounding for every TENSOR.
 *
 *   cc -O2 tensor.c -o tensor $(pkg-config --cflags --libs zero) -lm
 *   mpiexec -n 2 ./tensor [TENSOR [1]] */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zero/zero.h>

enum { LAYERS = 3, WIDTH = 16, HIDDEN = 32, ROWS = 8, STEPS = 150 };

/* One layer: y = x + W2 tanh(W1 x + b1) + b2. A rank has the rows of W1 and b1 and the columns of W2 of its part of the
 * hidden numbers, and the whole of b2. */
typedef struct layer {
    zero_unit_t unit;
    zero_param_t w1, b1, w2, b2;
} layer_t;

typedef float rows_t[ROWS][WIDTH];

static zero_engine_t *engine;
static zero_error_t error;
static layer_t layers[LAYERS];
static int whole; /* 1: this rank keeps all rows between layers */
static int rows;  /* those that it keeps */
static int part;  /* its hidden numbers */

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

/* ---- what ranks exchange ---------------------------------------------------------------------------------------- */

/* The rows of all ranks, from those that each keeps. */
static void gather(rows_t own, rows_t all)
{
    if (whole)
        memcpy(all, own, sizeof(rows_t));
    else
        ok(zero_collective(engine, ZERO_AXIS_TENSOR, ZERO_COLLECTIVE_GATHER, own, all, (int64_t)rows * WIDTH,
                           ZERO_FP32));
}

/* The sums over the ranks of what each has computed for all rows: those that this rank keeps. */
static void sum(rows_t all, rows_t own)
{
    ok(zero_collective(engine, ZERO_AXIS_TENSOR, whole ? ZERO_COLLECTIVE_SUM : ZERO_COLLECTIVE_REDUCE_SCATTER, all, own,
                       (int64_t)rows * WIDTH, ZERO_FP32));
}

/* Declares a use of a layer, and the two calls above. */
static void use(zero_pass_t train, const layer_t *layer, uint32_t mode)
{
    const int64_t count = (int64_t)rows * WIDTH;
    ok(zero_use_add(engine, train, layer->unit, mode));
    if (!whole)
        ok(zero_collective_add(engine, train, ZERO_AXIS_TENSOR, ZERO_COLLECTIVE_GATHER, count, ZERO_FP32));
    ok(zero_collective_add(engine, train, ZERO_AXIS_TENSOR,
                           whole ? ZERO_COLLECTIVE_SUM : ZERO_COLLECTIVE_REDUCE_SCATTER, count, ZERO_FP32));
}

/* ---- a layer ---------------------------------------------------------------------------------------------------- */

/* What the backward pass needs: all rows of the input, and the hidden numbers of this rank. */
typedef struct kept {
    rows_t x;
    float h[ROWS][HIDDEN];
} kept_t;

/* x: the rows that this rank keeps; they become those of the output. */
static void forward(const layer_t *layer, rows_t x, kept_t *kept)
{
    rows_t all = {{0}}, y;
    ok(zero_acquire(engine, layer->unit));
    const float *w1 = zero_param_data(engine, layer->w1), *b1 = zero_param_data(engine, layer->b1),
                *w2 = zero_param_data(engine, layer->w2), *b2 = zero_param_data(engine, layer->b2);
    gather(x, kept->x);
    for (int r = 0; r < ROWS; r++)
        for (int k = 0; k < part; k++) {
            float z = b1[k];
            for (int i = 0; i < WIDTH; i++)
                z += w1[k * WIDTH + i] * kept->x[r][i];
            kept->h[r][k] = tanhf(z);
            for (int o = 0; o < WIDTH; o++)
                all[r][o] += w2[o * part + k] * kept->h[r][k];
        }
    sum(all, y);
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < WIDTH; o++)
            x[r][o] += y[r][o] + b2[o];
    ok(zero_release(engine, layer->unit));
}

/* d: the gradients of the output's rows that this rank keeps; they become those of the input's. */
static void backward(const layer_t *layer, rows_t d, const kept_t *kept)
{
    rows_t dy, all = {{0}}, dx;
    ok(zero_acquire(engine, layer->unit));
    const float *w1 = zero_param_data(engine, layer->w1), *w2 = zero_param_data(engine, layer->w2);
    float *dw1 = zero_param_grad(engine, layer->w1), *db1 = zero_param_grad(engine, layer->b1),
          *dw2 = zero_param_grad(engine, layer->w2), *db2 = zero_param_grad(engine, layer->b2);
    gather(d, dy);
    for (int r = 0; r < ROWS; r++)
        for (int k = 0; k < part; k++) {
            const float h = kept->h[r][k];
            float dh = 0;
            for (int o = 0; o < WIDTH; o++) {
                dw2[o * part + k] += dy[r][o] * h;
                dh += dy[r][o] * w2[o * part + k];
            }
            const float dz = dh * (1 - h * h);
            db1[k] += dz;
            for (int i = 0; i < WIDTH; i++) {
                dw1[k * WIDTH + i] += dz * kept->x[r][i];
                all[r][i] += dz * w1[k * WIDTH + i];
            }
        }
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < WIDTH; o++)
            db2[o] += d[r][o];
    sum(all, dx);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < WIDTH; i++)
            d[r][i] += dx[r][i];
    ok(zero_release(engine, layer->unit));
}

/* ---- training --------------------------------------------------------------------------------------------------- */

/* One step. Ranks that compute the same layers have the same samples, and keep rows of them. Returns half the squared
 * error of the first number, of the rows that this rank counts. */
static double learn(zero_pass_t train, int step)
{
    static kept_t kept[LAYERS];
    rows_t x, d = {{0}};
    double loss = 0;
    const int place = zero_axis_index(engine, ZERO_AXIS_TENSOR), first = whole ? 0 : place * rows,
              batch = step * zero_data_size(engine) + zero_data_index(engine);
    float wanted[ROWS] = {0};
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < WIDTH; i++)
            x[r][i] = noise(((uint64_t)batch * ROWS + (uint64_t)(first + r)) * WIDTH + (uint64_t)i);
        wanted[r] = 0.5f * x[r][1] - 0.5f * x[r][2];
    }
    ok(zero_micro_begin(engine, train, ZERO_LAST));
    for (int l = 0; l < LAYERS; l++)
        forward(&layers[l], x, &kept[l]);
    for (int r = 0; r < rows; r++) {
        d[r][0] = x[r][0] - wanted[r];
        if (!whole || place == 0) /* each row once */
            loss += 0.5 * (double)d[r][0] * (double)d[r][0];
    }
    for (int l = LAYERS - 1; l >= 0; l--)
        backward(&layers[l], d, &kept[l]);
    ok(zero_micro_end(engine));
    return loss;
}

/* Adds a parameter of a layer, and the number that its initial values begin with. dimension: the one that is split. */
static zero_param_t add(zero_unit_t unit, const char *name, int64_t outputs, int64_t inputs, int32_t dimension)
{
    zero_param_desc_t desc;
    zero_param_t param;
    zero_param_desc_init(&desc);
    desc.name = name;
    desc.ndim = inputs > 0 ? 2 : 1;
    desc.shape[0] = outputs;
    desc.shape[1] = inputs;
    desc.split_dim = dimension;
    desc.partial = dimension < 0 && !whole; /* a rank has its gradient of the rows that it keeps */
    ok(zero_param_add(engine, unit, &desc, &param));
    return param;
}

static void declare(zero_pass_t train)
{
    static const char *const names[LAYERS][5] = {{"0", "0.w1", "0.b1", "0.w2", "0.b2"},
                                                 {"1", "1.w1", "1.b1", "1.w2", "1.b2"},
                                                 {"2", "2.w1", "2.b1", "2.w2", "2.b2"}};
    for (int l = 0; l < LAYERS; l++) {
        layer_t *layer = &layers[l];
        ok(zero_unit_add(engine, names[l][0], &layer->unit));
        layer->w1 = add(layer->unit, names[l][1], HIDDEN, WIDTH, 0); /* rows: each rank has some of the outputs */
        layer->b1 = add(layer->unit, names[l][2], HIDDEN, 0, 0);
        layer->w2 = add(layer->unit, names[l][3], WIDTH, HIDDEN, 1); /* columns: some of the inputs */
        layer->b2 = add(layer->unit, names[l][4], WIDTH, 0, -1);
    }
    for (int l = 0; l < LAYERS; l++)
        use(train, &layers[l], ZERO_READ);
    for (int l = LAYERS - 1; l >= 0; l--)
        use(train, &layers[l], ZERO_READ | ZERO_GRAD);
}

/* Every rank gives all values of a parameter, and keeps those of its part. */
static void set(zero_param_t param, uint64_t key)
{
    static float values[HIDDEN * WIDTH];
    const int64_t count = zero_param_elements(engine, param);
    for (int64_t i = 0; i < count; i++)
        values[i] = 0.25f * noise((key << 32) + (uint64_t)i);
    ok(zero_param_set(engine, param, ZERO_STATE_PARAM, ZERO_FP32, values));
}

int main(int argc, char **argv)
{
    zero_comm_t *comm = NULL;
    zero_device_t *device = NULL;
    zero_pass_t train;
    zero_config_t config;
    int64_t shape[ZERO_MAX_DIMS];
    double first = 0, loss = 0;
    zero_config_init(&config);
    zero_status_t status = zero_comm_mpi(&comm, NULL, NULL, &error);
    ok(status == ZERO_ERR_UNSUPPORTED ? zero_comm_self(&comm, &error) : status); /* a build without MPI: one rank */
    ok(zero_device_cpu(&device, NULL, &error));
    const int world = zero_comm_size(comm), tensor = argc > 1 ? atoi(argv[1]) : world;
    if (tensor < 1 || HIDDEN % tensor != 0 || ROWS % tensor != 0 || world % tensor != 0) {
        fprintf(stderr, "TENSOR is %d: use a number that divides %d hidden numbers, %d rows and the %d ranks\n", tensor,
                HIDDEN, ROWS, world);
        return 2;
    }
    whole = argc > 2 && atoi(argv[2]) == 1;
    rows = whole ? ROWS : ROWS / tensor;
    ok(zero_config_stage(&config, 3));
    config.comm = comm;
    config.device = device;
    config.mesh.tensor = tensor;
    config.rule = ZERO_RULE_SGD;
    config.beta1 = 0.9;
    config.weight_decay = 0;
    config.grad_scale = 1.0 / (ROWS * (world / tensor));
    ok(zero_create(&engine, &config, &error));
    ok(zero_pass_add(engine, "train", ZERO_PASS_TRAIN, &train));
    declare(train);
    ok(zero_commit(engine));
    ok(zero_param_local(engine, layers[0].w1, shape));
    part = (int)shape[0];
    for (int l = 0; l < LAYERS; l++) {
        const zero_param_t params[] = {layers[l].w1, layers[l].b1, layers[l].w2, layers[l].b2};
        for (int i = 0; i < 4; i++)
            set(params[i], (uint64_t)(4 * l + i + 1));
    }
    for (int step = 0; step < STEPS; step++) {
        loss = learn(train, step);
        ok(zero_step(engine, 0.02));
        ok(zero_sum(engine, &loss, 1));
        loss /= ROWS * zero_data_size(engine);
        first = step == 0 ? loss : first;
        if (zero_comm_rank(comm) == 0)
            printf("step %3d  loss %.17g\n", step, loss);
    }
    zero_destroy(engine);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
    return loss < 0.1 * first ? 0 : 1;
}
