/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint.c - saves and resumes. Trains y = 3 x - 1 on points until a step, and saves every 50 steps while training
 * goes on. If the folder has a checkpoint, the program continues from it, on any number of ranks, and at any stage.
 *
 *   cc checkpoint.c -o checkpoint $(pkg-config --cflags --libs zero)
 *   mkdir FOLDER
 *   mpiexec -n 3 ./checkpoint FOLDER 100
 *   mpiexec -n 2 ./checkpoint FOLDER 300 1
 *
 * The second run has two ranks and stage 1. It begins where the first one ended. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <zero/zero.h>

enum { POINTS = 24, EVERY = 50 };

static zero_comm_t *comm;
static zero_engine_t *engine;
static zero_error_t error;

static void ok(zero_status_t status)
{
    if (status == ZERO_OK)
        return;
    fprintf(stderr, "%s\n", engine ? zero_last_error(engine) : error.text);
    if (engine)
        zero_abort(engine, zero_last_error(engine)); /* ends the other ranks */
    exit(1);
}

/* What the engine does not know, and the program needs to continue: here, a random state that draws points. */
typedef struct mine {
    uint64_t random;
} mine_t;

/* Returns the step to continue with. */
static int resume(const char *folder, mine_t *mine)
{
    zero_checkpoint_t *checkpoint;
    zero_checkpoint_info_t info = {.size = sizeof info};
    zero_status_t status = zero_checkpoint_open(&checkpoint, folder, &error);
    if (status == ZERO_ERR_IO && error.reason == ZERO_REASON_NO_CHECKPOINT)
        return 0;
    if (status != ZERO_OK) {
        fprintf(stderr, "%s\n", error.text);
        zero_abort(engine, error.text);
        exit(1);
    }
    ok(zero_load(engine, checkpoint));
    ok(zero_checkpoint_info(checkpoint, &info));
    if (info.caller_bytes == sizeof *mine)
        *mine = *(const mine_t *)info.caller;
    int step = (int)info.step;
    if (zero_comm_rank(comm) == 0)
        printf("step %d: continues from %s\n", step, info.path);
    zero_checkpoint_close(checkpoint);
    return step;
}

/* Reports a save that has ended. A failed one does not end the training. */
static void look(bool wait)
{
    zero_saved_t saved = {.size = sizeof saved};
    zero_status_t status = zero_save_end(engine, wait, &saved);
    if (status == ZERO_ERR_IO && zero_comm_rank(comm) == 0)
        fprintf(stderr, "not saved: %s\n", zero_last_error(engine));
    if (status != ZERO_ERR_IO)
        ok(status);
    if (status == ZERO_OK && saved.done && saved.step >= 0 && zero_comm_rank(comm) == 0)
        printf("step %d: saved %s\n", (int)saved.step, saved.path);
}

int main(int argc, char **argv)
{
    zero_device_t *device;
    zero_config_t config;
    zero_param_desc_t desc;
    zero_unit_t unit;
    zero_param_t line;
    zero_pass_t pass;
    zero_save_options_t options;
    mine_t mine = {.random = 1};
    float w[2];
    const int steps = argc > 2 ? atoi(argv[2]) : 0, stage = argc > 3 ? atoi(argv[3]) : 3;
    if (steps < 1) {
        fprintf(stderr, "usage: checkpoint FOLDER STEPS [STAGE]\n");
        return 2;
    }

    ok(zero_comm_mpi(&comm, NULL, NULL, &error));
    ok(zero_device_cpu(&device, NULL, &error));
    zero_config_init(&config);
    ok(zero_config_stage(&config, stage));
    config.comm = comm;
    config.device = device;
    config.persist_bytes = 0; /* shard even these few bytes */
    config.weight_decay = 0;
    config.grad_scale = 1.0 / POINTS;
    config.saves = true;
    ok(zero_create(&engine, &config, &error));
    zero_param_desc_init(&desc);
    desc.name = "line";
    desc.ndim = 1;
    desc.shape[0] = 2;
    ok(zero_unit_add(engine, "all", &unit));
    ok(zero_param_add(engine, unit, &desc, &line));
    ok(zero_pass_add(engine, "train", ZERO_PASS_TRAIN, &pass));
    ok(zero_use_add(engine, pass, unit, ZERO_READ | ZERO_GRAD));
    ok(zero_commit(engine));

    zero_save_options_init(&options);
    options.folder = argv[1];
    options.keep = 2;
    options.about = "{\"program\": \"checkpoint\"}";
    int step = resume(options.folder, &mine); /* before zero_save_open */
    ok(zero_save_open(engine, &options));

    const float *p = zero_param_data(engine, line);
    float *dp = zero_param_grad(engine, line);
    while (step < steps) {
        ok(zero_micro_begin(engine, pass, ZERO_LAST));
        ok(zero_acquire(engine, unit));
        for (int i = 0; i < POINTS; i++) {
            mine.random = mine.random * 6364136223846793005u + 1442695040888963407u; /* the same on every rank */
            if (i % zero_comm_size(comm) != zero_comm_rank(comm))
                continue;
            float x = (float)(mine.random >> 40) * 0x1p-23f - 1, difference = p[0] * x + p[1] - (3 * x - 1);
            dp[0] += difference * x;
            dp[1] += difference;
        }
        ok(zero_release(engine, unit));
        ok(zero_micro_end(engine));
        ok(zero_step(engine, 0.03)); /* waits for what the save has not yet written */
        if (++step % EVERY == 0 || step == steps) {
            look(true); /* of the save before */
            ok(zero_save(engine, &mine, sizeof mine));
        }
    }
    look(true);
    ok(zero_param_get(engine, line, ZERO_STATE_PARAM, ZERO_FP32, w));
    if (zero_comm_rank(comm) == 0)
        printf("step %d: y = %.4f x %+.4f\n", step, w[0], w[1]);
    zero_destroy(engine);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
    return steps >= 300 && !(fabsf(w[0] - 3) < 0.01f && fabsf(w[1] + 1) < 0.01f);
}
