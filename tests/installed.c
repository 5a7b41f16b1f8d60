/* SPDX-License-Identifier: Apache-2.0 */
/* A trainer outside the tree, built against the files that `make install` installed: the public header, the library and
 * its pkg-config file. It forks two ranks, which fit two vectors at stage 3, and fails if training does not lower the
 * loss enough. */
#define _POSIX_C_SOURCE 200809L
#include <zero/zero.h>

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define RANKS 2
#define UNITS 2
#define COUNT 100

static const char *const names[UNITS] = {"first", "second"};

/* How the ranks meet: each sends its part to the other, rank 0 first. */
typedef struct meeting {
    int rank, socket;
} meeting_t;

static int all_gather(void *ctx, const void *send, void *recv, size_t bytes)
{
    const meeting_t *m = ctx;
    char *parts = recv;
    memcpy(parts + (size_t)m->rank * bytes, send, bytes);
    for (int turn = 0; turn < RANKS; turn++)
        for (size_t done = 0; done < bytes;) {
            ssize_t n = turn == m->rank ? write(m->socket, (const char *)send + done, bytes - done)
                                        : read(m->socket, parts + (size_t)turn * bytes + done, bytes - done);
            if (n <= 0)
                return -1;
            done += (size_t)n;
        }
    return 0;
}

/* Returns the loss of a unit, the sum of (w - target)^2 / 2, and adds its gradient to dw. Each rank has its own target.
 * The best fit to all targets is their mean, unit + 1. */
static double fit(const float *w, float *dw, int unit, int rank)
{
    double loss = 0;
    for (int i = 0; i < COUNT; i++) {
        float difference = w[i] - (float)(unit + 1) - (rank == 0 ? 0.5f : -0.5f);
        loss += 0.5 * difference * difference;
        dw[i] += difference;
    }
    return loss;
}

static int train(int rank, int socket)
{
    meeting_t meeting = {rank, socket};
    zero_bootstrap_t bootstrap = {
        .size = sizeof bootstrap, .rank = rank, .world = RANKS, .all_gather = all_gather, .ctx = &meeting};
    zero_error_t error = {0};
    zero_comm_t *comm = NULL;
    zero_device_t *device = NULL;
    zero_engine_t *engine = NULL;
    zero_unit_t units[UNITS];
    zero_param_t params[UNITS];
    zero_pass_t pass;
    double first = 0, last = 0;
    int status = 1;

    if (strcmp(zero_version(), ZERO_VERSION) != 0) {
        snprintf(error.text, sizeof error.text, "the header is version %s, the library %s", ZERO_VERSION,
                 zero_version());
        goto fail;
    }
    zero_config_t config;
    zero_config_init(&config);
    config.weight_decay = 0;
    config.grad_scale = 1.0 / RANKS;
    config.persist_bytes = 0;
    if (zero_comm_shm(&comm, &bootstrap, NULL, &error) != ZERO_OK || zero_device_cpu(&device, NULL, &error) != ZERO_OK)
        goto fail;
    config.comm = comm;
    config.device = device;
    if (zero_config_stage(&config, 3) != ZERO_OK || zero_create(&engine, &config, &error) != ZERO_OK)
        goto fail;

    zero_param_desc_t desc;
    zero_param_desc_init(&desc);
    desc.ndim = 1;
    desc.shape[0] = COUNT;
    desc.trainable = true;
    if (zero_pass_add(engine, "train", ZERO_PASS_TRAIN, &pass) != ZERO_OK)
        goto fail;
    for (int u = 0; u < UNITS; u++) {
        desc.name = names[u];
        if (zero_unit_add(engine, names[u], &units[u]) != ZERO_OK ||
            zero_param_add(engine, units[u], &desc, &params[u]) != ZERO_OK ||
            zero_use_add(engine, pass, units[u], ZERO_READ | ZERO_GRAD) != ZERO_OK)
            goto fail;
    }
    if (zero_commit(engine) != ZERO_OK)
        goto fail;

    for (int step = 0; step < 100; step++) {
        last = 0;
        if (zero_micro_begin(engine, pass, ZERO_LAST) != ZERO_OK)
            goto fail;
        for (int u = 0; u < UNITS; u++) {
            if (zero_acquire(engine, units[u]) != ZERO_OK)
                goto fail;
            last += fit(zero_param_data(engine, params[u]), zero_param_grad(engine, params[u]), u, rank);
            if (zero_release(engine, units[u]) != ZERO_OK)
                goto fail;
        }
        if (zero_micro_end(engine) != ZERO_OK || zero_step(engine, 0.05) != ZERO_OK ||
            zero_sum(engine, &last, 1) != ZERO_OK)
            goto fail;
        if (step == 0)
            first = last;
    }
    /* At the start every w is 0: 100 * (1.5^2 + 0.5^2 + 2.5^2 + 1.5^2) / 2. In the end all differences are 0.5: 100 * 4
     * * 0.5^2 / 2. Adam walks at most 0.05 a step, and 2 / 0.05 = 40 steps are enough to arrive. */
    if (first == 550.0 && last > 49.999 && last < 51.0)
        status = 0;
    else
        snprintf(error.text, sizeof error.text, "the loss went from %g, wanted 550, to %g, wanted 50", first, last);

fail:
    if (status != 0)
        fprintf(stderr, "%s\n", error.text[0] != '\0' || engine == NULL ? error.text : zero_last_error(engine));
    zero_destroy(engine);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
    return status;
}

int main(void)
{
    int sockets[RANKS], status = 0, child_status = 1;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) != 0)
        return 1;
    pid_t child = fork();
    if (child < 0)
        return 1;
    close(sockets[child == 0]);
    status = train(child == 0, sockets[child != 0]);
    if (child == 0)
        return status;
    close(sockets[1]);
    if (waitpid(child, &child_status, 0) != child || child_status != 0)
        status = 1;
    return status;
}
