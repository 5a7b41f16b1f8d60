/* SPDX-License-Identifier: Apache-2.0 */
/* own_ranks.c - ranks without MPI. The program starts its own ranks, here by fork, and gives libzero an all-gather of a
 * few bytes over its own sockets. libzero uses it as bootstrap. Afterwards the ranks share memory. Each rank has every
 * N-th of 21 points, and all ranks fit one line to them.
 *
 *   cc own_ranks.c -o own_ranks $(pkg-config --cflags --libs zero)
 *   ./own_ranks [N] */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zero/zero.h>

enum { MOST = 16 };

/* Rank 0 has a socket to each other rank; each other rank has one socket, to rank 0. */
typedef struct meeting {
    int rank, world, socket[MOST];
} meeting_t;

static int move(int socket, char *data, size_t bytes, int out)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = out ? write(socket, data + done, bytes - done) : read(socket, data + done, bytes - done);
        if (n <= 0)
            return -1; /* the other end is gone: the library then reports that the bootstrap failed */
        done += (size_t)n;
    }
    return 0;
}

/* zero_bootstrap_t.all_gather: recv receives the bytes of every rank in rank order. */
static int all_gather(void *ctx, const void *send, void *recv, size_t bytes)
{
    const meeting_t *m = ctx;
    size_t all = bytes * (size_t)m->world;
    char *parts = recv;
    memcpy(parts + bytes * (size_t)m->rank, send, bytes);
    if (m->rank > 0)
        return move(m->socket[0], parts + bytes * (size_t)m->rank, bytes, 1) || move(m->socket[0], parts, all, 0) ? -1
                                                                                                                  : 0;
    for (int r = 1; r < m->world; r++)
        if (move(m->socket[r], parts + bytes * (size_t)r, bytes, 0))
            return -1;
    for (int r = 1; r < m->world; r++)
        if (move(m->socket[r], parts, all, 1))
            return -1;
    return 0;
}

static zero_engine_t *engine;
static zero_error_t error;

static void ok(zero_status_t status)
{
    if (status == ZERO_OK)
        return;
    fprintf(stderr, "%s\n", engine ? zero_last_error(engine) : error.text);
    if (engine)
        zero_abort(engine, zero_last_error(engine)); /* only this call ends the other ranks */
    exit(1);
}

static int train(meeting_t *m)
{
    zero_bootstrap_t bootstrap = {
        .size = sizeof bootstrap, .rank = m->rank, .world = m->world, .all_gather = all_gather, .ctx = m};
    zero_comm_t *comm = NULL;
    zero_device_t *device = NULL;
    zero_unit_t unit;
    zero_param_t line;
    zero_pass_t pass;
    zero_config_t config;
    zero_param_desc_t desc;
    float w[2];

    ok(zero_comm_shm(&comm, &bootstrap, NULL, &error));
    ok(zero_device_cpu(&device, NULL, &error));
    zero_config_init(&config);
    config.comm = comm;
    config.device = device;
    config.persist_bytes = 0;
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
    ok(zero_commit(engine));

    const float *p = zero_param_data(engine, line); /* y = p[0] x + p[1] */
    float *dp = zero_param_grad(engine, line);
    for (int step = 0; step < 400; step++) {
        ok(zero_micro_begin(engine, pass, ZERO_LAST));
        ok(zero_acquire(engine, unit));
        for (int i = m->rank; i <= 20; i += m->world) {
            float x = 0.1f * (float)(i - 10), difference = p[0] * x + p[1] - (3 * x - 1);
            dp[0] += difference * x;
            dp[1] += difference;
        }
        ok(zero_release(engine, unit));
        ok(zero_micro_end(engine));
        ok(zero_step(engine, 0.05));
    }
    ok(zero_param_get(engine, line, ZERO_STATE_PARAM, ZERO_FP32, w));
    if (m->rank == 0)
        printf("%d ranks: y = %.3f x %+.3f\n", m->world, w[0], w[1]);
    zero_destroy(engine);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
    return !(fabsf(w[0] - 3) < 0.01f && fabsf(w[1] + 1) < 0.01f);
}

int main(int argc, char **argv)
{
    meeting_t m = {.rank = 0, .world = argc > 1 ? atoi(argv[1]) : 2};
    int failed = 0, status;
    if (m.world < 1 || m.world > MOST)
        return 2;
    for (int r = 1; r < m.world; r++) { /* before anything else: fork is unsafe in a process with threads */
        int ends[2];
        pid_t child;
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0 || (child = fork()) < 0)
            return 1;
        if (child == 0) {
            for (int other = 1; other < r; other++)
                close(m.socket[other]);
            close(ends[0]);
            m.rank = r;
            m.socket[0] = ends[1];
            return train(&m);
        }
        close(ends[1]);
        m.socket[r] = ends[0];
    }
    failed = train(&m);
    for (int r = 1; r < m.world; r++)
        failed |= wait(&status) < 0 || status != 0;
    return failed;
}
