/* SPDX-License-Identifier: Apache-2.0 */
/* minimal.c - the smallest trainer: one unit, one parameter, one rank. It fits a line to 21 points.
 *
 *   cc minimal.c -o minimal $(pkg-config --cflags --libs zero) && ./minimal */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <zero/zero.h>

static zero_engine_t *engine;
static zero_error_t error;

static void ok(zero_status_t status)
{
    if (status == ZERO_OK)
        return;
    fprintf(stderr, "%s\n", engine ? zero_last_error(engine) : error.text);
    exit(1);
}

int main(void)
{
    zero_comm_t *comm = NULL;
    zero_device_t *device = NULL;
    zero_unit_t unit;
    zero_param_t line;
    zero_pass_t pass;
    zero_config_t config;
    zero_param_desc_t desc = {0};

    ok(zero_comm_self(&comm, &error));
    ok(zero_device_cpu(&device, NULL, &error));
    zero_config_init(&config); /* AdamW, stage 3, gradients clipped at 1 */
    config.comm = comm;
    config.device = device;
    config.weight_decay = 0;
    ok(zero_create(&engine, &config, &error));

    zero_param_desc_init(&desc);
    desc.name = "line";
    desc.ndim = 1;
    desc.shape[0] = 2;
    desc.trainable = true;
    ok(zero_unit_add(engine, "all", &unit));
    ok(zero_param_add(engine, unit, &desc, &line));
    ok(zero_pass_add(engine, "train", ZERO_PASS_TRAIN, &pass));
    ok(zero_use_add(engine, pass, unit, ZERO_READ | ZERO_GRAD));
    ok(zero_commit(engine)); /* now the parameters are zero */

    const float *w = zero_param_data(engine, line); /* y = w[0] x + w[1] */
    float *dw = zero_param_grad(engine, line), a = 0, b = 0;
    for (int step = 0; step < 400; step++) {
        ok(zero_micro_begin(engine, pass, ZERO_LAST));
        ok(zero_acquire(engine, unit)); /* w is readable, dw is zero and writable ... */
        for (int i = -10; i <= 10; i++) {
            float x = 0.1f * (float)i, difference = w[0] * x + w[1] - (3 * x - 1);
            dw[0] += difference * x;
            dw[1] += difference;
        }
        a = w[0], b = w[1];
        ok(zero_release(engine, unit)); /* ... until here */
        ok(zero_micro_end(engine));
        ok(zero_step(engine, 0.05));
    }
    printf("y = %.3f x %+.3f\n", a, b);

    zero_destroy(engine);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
    return fabsf(a - 3) < 0.01f && fabsf(b + 1) < 0.01f ? 0 : 1;
}
