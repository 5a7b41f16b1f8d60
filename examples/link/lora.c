/* SPDX-License-Identifier: Apache-2.0 */
/* lora.c - fine-tuning with frozen layers. Each layer computes y = tanh(W x + B (A x)). W is frozen, and only the thin
 * A and B are trained (LoRA: Hu et al. 2021). Frozen parameters are sharded and gathered like others, but have no
 * gradients, moments or updates. The program prints the memory of a rank with and without adapters, trains, and fails
 * if a byte of any W has changed.
 *
 *   cc -O2 lora.c -o lora $(pkg-config --cflags --libs zero) -lm
 *   mpiexec -n 2 ./lora */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zero/zero.h>

enum { LAYERS = 3, WIDTH = 64, RANK = 4, BATCH = 32, STEPS = 60 };

static zero_engine_t *engine;
static zero_error_t error;
static zero_unit_t unit[LAYERS];
static zero_param_t base[LAYERS], down[LAYERS], up[LAYERS]; /* W (WIDTH, WIDTH), A (RANK, WIDTH), B (WIDTH, RANK) */
static zero_pass_t pass;
static float x[LAYERS + 1][BATCH][WIDTH],
    dx[LAYERS + 1][BATCH][WIDTH]; /* the input of each layer and the output; the derivatives of the loss */
static float frozen[LAYERS][WIDTH * WIDTH], found[WIDTH * WIDTH];

static void ok(zero_engine_t *e, zero_status_t status)
{
    if (status == ZERO_OK)
        return;
    fprintf(stderr, "%s\n", e ? zero_last_error(e) : error.text);
    exit(1);
}

static float noise(uint64_t i)
{
    i = (i + 1) * 0x9e3779b97f4a7c15u;
    i = (i ^ (i >> 31)) * 0xbf58476d1ce4e5b9u;
    return (float)(int32_t)(i >> 32) / 2147483648.0f;
}

static zero_param_t add(zero_engine_t *e, int layer, const char *name, int rows, int columns, bool trainable)
{
    char full[32];
    zero_param_t param;
    zero_param_desc_t desc;
    snprintf(full, sizeof full, "%d.%s", layer, name);
    zero_param_desc_init(&desc);
    desc.name = full;
    desc.ndim = 2;
    desc.shape[0] = rows;
    desc.shape[1] = columns;
    desc.trainable = trainable;
    ok(e, zero_param_add(e, unit[layer], &desc, &param));
    return param;
}

/* The memory of a rank is known before any allocation: an engine with plan_world only plans. lora: W is frozen, A and B
 * are trained. Otherwise there is only W, and it is trained. */
static zero_engine_t *declare(zero_config_t *config, bool lora)
{
    zero_engine_t *e = NULL;
    ok(NULL, zero_create(&e, config, &error));
    ok(e, zero_pass_add(e, "train", ZERO_PASS_TRAIN, &pass));
    for (int l = 0; l < LAYERS; l++) {
        char name[16];
        snprintf(name, sizeof name, "layer%d", l);
        ok(e, zero_unit_add(e, name, &unit[l]));
        base[l] = add(e, l, "weight", WIDTH, WIDTH, !lora);
        down[l] = lora ? add(e, l, "down", RANK, WIDTH, true) : -1;
        up[l] = lora ? add(e, l, "up", WIDTH, RANK, true) : -1;
        ok(e, zero_use_add(e, pass, unit[l], ZERO_READ));
    }
    for (int l = LAYERS - 1; l >= 0; l--)
        ok(e, zero_use_add(e, pass, unit[l], ZERO_READ | ZERO_GRAD));
    ok(e, zero_commit(e));
    return e;
}

/* out[i] += sum over j of w[i, j] in[j], or with transposed of w[j, i] in[j]. w is (rows, columns). */
static void multiply(float *out, const float *w, const float *in, int rows, int columns, bool transposed)
{
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++)
            out[transposed ? j : i] += w[i * columns + j] * in[transposed ? i : j];
}

static void outer(float *dw, const float *dy, const float *in, int rows, int columns)
{
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++)
            dw[i * columns + j] += dy[i] * in[j];
}

/* One layer over n samples, forward or backward. */
static void layer(int l, int n, bool backward)
{
    const float *w = zero_param_data(engine, base[l]), *a = zero_param_data(engine, down[l]),
                *b = zero_param_data(engine, up[l]);
    float *da = zero_param_grad(engine, down[l]),
          *db = zero_param_grad(engine, up[l]); /* zero_param_grad of W is NULL */
    for (int s = 0; s < n; s++) {
        float h[RANK] = {0}, dh[RANK] = {0}, *y = x[l + 1][s], *dy = dx[l + 1][s];
        multiply(h, a, x[l][s], RANK, WIDTH, false);
        if (!backward) {
            memset(y, 0, sizeof x[0][0]);
            multiply(y, w, x[l][s], WIDTH, WIDTH, false);
            multiply(y, b, h, WIDTH, RANK, false);
            for (int o = 0; o < WIDTH; o++)
                y[o] = tanhf(y[o]);
            continue;
        }
        for (int o = 0; o < WIDTH; o++)
            dy[o] *= 1 - y[o] * y[o];
        multiply(dh, b, dy, WIDTH, RANK, true);
        outer(db, dy, h, WIDTH, RANK);
        outer(da, dh, x[l][s], RANK, WIDTH);
        memset(dx[l][s], 0, sizeof dx[0][0]);
        multiply(dx[l][s], w, dy, WIDTH, WIDTH, true);
        multiply(dx[l][s], a, dh, RANK, WIDTH, true);
    }
}

/* One step over samples rank, rank + world, ... of the batch. Returns the mean loss of all samples. The target reverses
 * the order of the inputs. */
static double learn(int rank, int world)
{
    int n = 0;
    double loss = 0;
    for (int i = rank; i < BATCH; i += world, n++)
        for (int o = 0; o < WIDTH; o++)
            x[0][n][o] = noise((uint64_t)(i * WIDTH + o));
    ok(engine, zero_micro_begin(engine, pass, ZERO_LAST));
    for (int l = 0; l < LAYERS; l++) {
        ok(engine, zero_acquire(engine, unit[l]));
        layer(l, n, false);
        ok(engine, zero_release(engine, unit[l]));
    }
    for (int s = 0; s < n; s++)
        for (int o = 0; o < WIDTH; o++) {
            dx[LAYERS][s][o] = x[LAYERS][s][o] - 0.5f * x[0][s][WIDTH - 1 - o];
            loss += 0.5 / BATCH * (double)dx[LAYERS][s][o] * (double)dx[LAYERS][s][o];
        }
    for (int l = LAYERS - 1; l >= 0; l--) {
        ok(engine, zero_acquire(engine, unit[l]));
        layer(l, n, true);
        ok(engine, zero_release(engine, unit[l]));
    }
    ok(engine, zero_micro_end(engine));
    ok(engine, zero_step(engine, 0.01));
    ok(engine, zero_sum(engine, &loss, 1));
    return loss;
}

/* The bytes of a rank on all tiers. Optionally prints the forecast of each kind. */
static uint64_t forecast(zero_engine_t *e, const char *what, bool print)
{
    zero_memory_t memory = {.size = sizeof memory};
    uint64_t total = 0;
    ok(e, zero_forecast(e, &memory));
    for (int k = 0; k < ZERO_KIND_COUNT; k++) {
        uint64_t bytes = 0;
        for (int t = 0; t < ZERO_TIER_COUNT; t++)
            bytes += memory.bytes[t][k];
        if (print && bytes > 0)
            printf("%-18s %-12s %8llu bytes\n", what, zero_kind_name((zero_kind_t)k), (unsigned long long)bytes);
        total += k == ZERO_KIND_GRADIENTS || k == ZERO_KIND_MASTER || k == ZERO_KIND_MOMENTS ? bytes : 0;
    }
    return total;
}

int main(void)
{
    zero_comm_t *comm = NULL;
    zero_device_t *device = NULL;
    zero_config_t config;
    zero_status_t status = zero_comm_mpi(&comm, NULL, NULL, &error);
    ok(NULL, status == ZERO_ERR_UNSUPPORTED ? zero_comm_self(&comm, &error) : status);
    ok(NULL, zero_device_cpu(&device, NULL, &error));
    int rank = zero_comm_rank(comm), world = zero_comm_size(comm), failed = 0;
    double first = 0, last = 0;

    zero_config_init(&config);
    config.grad_scale = 1.0 / BATCH;
    config.persist_bytes = 0; /* otherwise these layers are too small to be sharded */
    config.plan_world = world;
    zero_engine_t *full = declare(&config, false);
    uint64_t without = forecast(full, "all is trained:", rank == 0);
    zero_destroy(full);

    config.plan_world = 0;
    config.comm = comm;
    config.device = device;
    engine = declare(&config, true);
    uint64_t with = forecast(engine, "adapters alone:", rank == 0);
    for (int l = 0; l < LAYERS; l++) { /* B starts as zeros: the model is then the frozen one */
        float a[RANK * WIDTH];
        for (int i = 0; i < WIDTH * WIDTH; i++)
            frozen[l][i] = noise((uint64_t)(1000000 * (l + 1) + i)) * sqrtf(3.0f / WIDTH);
        for (int i = 0; i < RANK * WIDTH; i++)
            a[i] = noise((uint64_t)(9000000 * (l + 1) + i)) * sqrtf(3.0f / WIDTH);
        ok(engine, zero_param_set(engine, base[l], ZERO_STATE_PARAM, ZERO_FP32, frozen[l]));
        ok(engine, zero_param_set(engine, down[l], ZERO_STATE_PARAM, ZERO_FP32, a));
    }
    for (int step = 0; step < STEPS; step++) {
        last = learn(rank, world);
        first = step == 0 ? last : first;
    }
    for (int l = 0; l < LAYERS; l++) {
        ok(engine, zero_param_get(engine, base[l], ZERO_STATE_PARAM, ZERO_FP32, found));
        failed |= memcmp(found, frozen[l], sizeof found) != 0 || zero_param_grad(engine, base[l]) != NULL;
    }
    if (rank == 0)
        printf("loss %.4f, %.4f after %d steps; frozen weights %s; gradients, masters and moments take %.1f %%\n",
               first, last, STEPS, failed ? "have changed" : "are as they were",
               100.0 * (double)with / (double)without);
    zero_destroy(engine);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
    return failed || !(last < 0.7 * first) || with * 4 > without;
}
