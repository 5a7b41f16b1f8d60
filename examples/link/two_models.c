/* SPDX-License-Identifier: Apache-2.0 */
/* two_models.c - libzero in a program that uses MPI itself. The ranks of MPI_COMM_WORLD form two teams. Each team
 * trains its own model with its own engine. Between steps all ranks take part in the program's own collectives. The two
 * models learn a line from different points. In the end the teams compare their models, through MPI alone.
 *
 *   mpicc two_models.c -o two_models $(pkg-config --cflags --libs zero)
 *   mpiexec -n 4 ./two_models
 *
 * The library duplicates the program's communicator and does not change the state of MPI. Devices without threads (the
 * default) call MPI only from the calling thread, so MPI_THREAD_SERIALIZED is enough; zero_device_options_t.threaded
 * needs MPI_THREAD_MULTIPLE. */
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <zero/zero.h>

enum { POINTS = 24, STEPS = 150 };

static zero_error_t error;

/* The failure of one rank ends all ranks: MPI_Abort also reaches the team with the other engine. */
static void ok(zero_engine_t *engine, zero_status_t status)
{
    if (status == ZERO_OK)
        return;
    fprintf(stderr, "%s\n", engine ? zero_last_error(engine) : error.text);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

typedef struct model {
    zero_comm_t *comm;
    zero_device_t *device;
    zero_engine_t *engine;
    zero_unit_t unit[2];
    zero_param_t param[2]; /* slope and offset, one unit each */
    zero_pass_t pass;
} model_t;

static void create(model_t *m, const MPI_Comm *team)
{
    static const char *const names[] = {"slope", "offset"};
    zero_config_t config;
    zero_config_init(&config);
    ok(NULL, zero_comm_mpi(&m->comm, team, NULL, &error));
    ok(NULL, zero_device_cpu(&m->device, NULL, &error));
    config.comm = m->comm;
    config.device = m->device;
    config.persist_bytes = 0; /* shard even these few bytes */
    config.weight_decay = 0;
    config.grad_scale = 1.0 / POINTS;
    ok(NULL, zero_create(&m->engine, &config, &error));
    ok(m->engine, zero_pass_add(m->engine, "train", ZERO_PASS_TRAIN, &m->pass));
    for (int u = 0; u < 2; u++) {
        zero_param_desc_t desc;
        zero_param_desc_init(&desc);
        desc.name = names[u];
        desc.trainable = true; /* without dimensions: a single number */
        ok(m->engine, zero_unit_add(m->engine, names[u], &m->unit[u]));
        ok(m->engine, zero_param_add(m->engine, m->unit[u], &desc, &m->param[u]));
        ok(m->engine, zero_use_add(m->engine, m->pass, m->unit[u],
                                   u == 0 ? ZERO_READ | ZERO_GRAD | ZERO_HOLD : ZERO_READ | ZERO_GRAD));
    }
    ok(m->engine, zero_commit(m->engine));
}

/* Runs a step on points rank, rank + n, ... of slope x + offset, with n ranks in the team. Returns the mean loss over
 * the team. ZERO_HOLD: both units are held at the same time. */
static double learn(const model_t *m, float slope, float offset)
{
    zero_engine_t *e = m->engine;
    double loss = 0;
    ok(e, zero_micro_begin(e, m->pass, ZERO_LAST));
    ok(e, zero_acquire(e, m->unit[0]));
    ok(e, zero_acquire(e, m->unit[1]));
    const float *a = zero_param_data(e, m->param[0]), *b = zero_param_data(e, m->param[1]);
    float *da = zero_param_grad(e, m->param[0]), *db = zero_param_grad(e, m->param[1]);
    for (int i = zero_comm_rank(m->comm); i < POINTS; i += zero_comm_size(m->comm)) {
        float x = (float)(2 * i - POINTS) / POINTS, difference = *a * x + *b - (slope * x + offset);
        *da += difference * x;
        *db += difference;
        loss += 0.5 * (double)difference * (double)difference / POINTS;
    }
    ok(e, zero_release(e, m->unit[1]));
    ok(e, zero_release(e, m->unit[0]));
    ok(e, zero_micro_end(e));
    ok(e, zero_step(e, 0.1));
    ok(e, zero_sum(e, &loss, 1));
    return loss;
}

int main(int argc, char **argv)
{
    int rank, size, provided, result = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size < 2 || provided < MPI_THREAD_SERIALIZED) {
        if (rank == 0)
            fprintf(stderr, "there are %d ranks and MPI's threads are of level %d: wanted at least 2, and %d\n", size,
                    provided, MPI_THREAD_SERIALIZED);
        MPI_Finalize();
        return 2;
    }
    MPI_Comm team;
    int color = rank < (size + 1) / 2 ? 0 : 1;
    MPI_Comm_split(MPI_COMM_WORLD, color, rank, &team);

    model_t m = {0};
    create(&m, &team);
    MPI_Comm_free(&team); /* the library has a duplicate */
    for (int step = 0; step < STEPS; step++) {
        /* The program communicates with all of its ranks through MPI, between the engine's calls. */
        double loss[2] = {0}, all[2];
        loss[color] = learn(&m, color == 0 ? 2 : -1, color == 0 ? -1 : 3);
        MPI_Allreduce(loss, all, 2, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD); /* all ranks of a team have the same loss */
        if (rank == 0 && step % 50 == 0)
            printf("step %3d  losses %.6f %.6f\n", step, all[0], all[1]);
    }
    float line[2], other[2];
    for (int p = 0; p < 2; p++)
        ok(m.engine, zero_param_get(m.engine, m.param[p], ZERO_STATE_PARAM, ZERO_FP32, &line[p]));
    /* The first rank of each team sends its model to the other team. */
    if (rank == 0 || rank == (size + 1) / 2) {
        int peer = rank == 0 ? (size + 1) / 2 : 0;
        MPI_Sendrecv(line, 2, MPI_FLOAT, peer, 0, other, 2, MPI_FLOAT, peer, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        const float *first = color == 0 ? line : other, *second = color == 0 ? other : line;
        result = !(fabsf(first[0] - 2) < 0.05f && fabsf(first[1] + 1) < 0.05f && fabsf(second[0] + 1) < 0.05f &&
                   fabsf(second[1] - 3) < 0.05f);
        if (rank == 0)
            printf("y = %.3f x %+.3f and y = %.3f x %+.3f\n", first[0], first[1], second[0], second[1]);
    }
    zero_destroy(m.engine);
    zero_device_destroy(m.device);
    zero_comm_destroy(m.comm);
    MPI_Finalize();
    return result;
}
