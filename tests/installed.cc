/* SPDX-License-Identifier: Apache-2.0 */
/* A C++ program that uses the installed library. It fits a line to points at stage 3 on two ranks; each rank has its
 * own points. It forks the ranks, which then share memory. With the argument "mpi" it runs as a rank of mpiexec. */
#include <zero/zero.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

template <typename T, void (*destroy)(T *)> struct destroyer {
    void operator()(T *handle) const
    {
        destroy(handle);
    }
};
using comm_ptr = std::unique_ptr<zero_comm_t, destroyer<zero_comm_t, zero_comm_destroy>>;
using device_ptr = std::unique_ptr<zero_device_t, destroyer<zero_device_t, zero_device_destroy>>;
using engine_ptr = std::unique_ptr<zero_engine_t, destroyer<zero_engine_t, zero_destroy>>;

static void check(zero_status_t status, const char *sentence)
{
    if (status != ZERO_OK)
        throw std::runtime_error(std::string(zero_status_name(status)) + ": " + sentence);
}

/* Two ranks meet through a socket; rank 0 sends first. */
struct meeting {
    int rank, socket;
};

static int all_gather(void *ctx, const void *send, void *recv, std::size_t bytes)
{
    const meeting &m = *static_cast<meeting *>(ctx);
    char *parts = static_cast<char *>(recv);
    std::memcpy(parts + m.rank * bytes, send, bytes);
    for (int turn = 0; turn < 2; turn++) {
        char *part = parts + turn * bytes;
        for (std::size_t done = 0; done < bytes;) {
            ssize_t n =
                turn == m.rank ? write(m.socket, part + done, bytes - done) : read(m.socket, part + done, bytes - done);
            if (n <= 0)
                return -1;
            done += static_cast<std::size_t>(n);
        }
    }
    return 0;
}

/* Trains y = a x + b. Returns a and b, which are the same on all ranks. */
static void train(zero_comm_t *comm, double result[2])
{
    zero_error_t error = {};
    zero_device_t *device = nullptr;
    check(zero_device_cpu(&device, nullptr, &error), error.text);
    device_ptr device_owner(device);

    zero_config_t config;
    zero_config_init(&config);
    check(zero_config_stage(&config, 3), "stage 3");
    config.comm = comm;
    config.device = device;
    config.persist_bytes = 0;
    config.weight_decay = 0;
    config.grad_scale = 1.0 / zero_comm_size(comm);
    zero_engine_t *engine = nullptr;
    check(zero_create(&engine, &config, &error), error.text);
    engine_ptr engine_owner(engine);
    auto ok = [engine](zero_status_t status) { check(status, zero_last_error(engine)); };

    zero_unit_t unit;
    zero_param_t line;
    zero_pass_t pass;
    zero_param_desc_t desc;
    zero_param_desc_init(&desc);
    desc.name = "line";
    desc.ndim = 1;
    desc.shape[0] = 2;
    desc.trainable = true;
    ok(zero_unit_add(engine, "line", &unit));
    ok(zero_param_add(engine, unit, &desc, &line));
    ok(zero_pass_add(engine, "train", ZERO_PASS_TRAIN, &pass));
    ok(zero_use_add(engine, pass, unit, ZERO_READ | ZERO_GRAD));
    ok(zero_commit(engine));

    /* Points of 3 x - 1 for x in -1 ... 1; this rank has every second one. */
    for (int step = 0; step < 400; step++) {
        ok(zero_micro_begin(engine, pass, ZERO_LAST));
        ok(zero_acquire(engine, unit));
        const float *w = static_cast<const float *>(zero_param_data(engine, line));
        float *dw = static_cast<float *>(zero_param_grad(engine, line));
        result[0] = w[0];
        result[1] = w[1];
        for (int i = zero_comm_rank(comm); i <= 20; i += zero_comm_size(comm)) {
            float x = 0.1f * static_cast<float>(i - 10), difference = w[0] * x + w[1] - (3 * x - 1);
            dw[0] += difference * x;
            dw[1] += difference;
        }
        ok(zero_release(engine, unit));
        ok(zero_micro_end(engine));
        ok(zero_step(engine, 0.05));
    }
}

static int run(zero_status_t status, zero_comm_t *comm, const zero_error_t &error)
{
    try {
        check(status, error.text);
        comm_ptr owner(comm);
        double line[2];
        if (zero_comm_size(comm) != 2)
            throw std::runtime_error("2 ranks are needed");
        train(comm, line);
        if (!(std::fabs(line[0] - 3) < 0.01 && std::fabs(line[1] + 1) < 0.01))
            throw std::runtime_error("the line is " + std::to_string(line[0]) + " x + " + std::to_string(line[1]) +
                                     ", wanted 3 x - 1");
        return 0;
    } catch (const std::exception &failure) {
        std::fprintf(stderr, "%s\n", failure.what());
        return 1;
    }
}

int main(int argc, char **argv)
{
    zero_error_t error = {};
    zero_comm_t *comm = nullptr;
    if (argc > 1 && std::strcmp(argv[1], "mpi") == 0) {
        zero_status_t status = zero_comm_mpi(&comm, nullptr, nullptr, &error);
        return run(status, comm, error);
    }
    int sockets[2], child_status = 1;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) != 0)
        return 1;
    pid_t child = fork();
    if (child < 0)
        return 1;
    close(sockets[child == 0]);
    meeting m = {child == 0, sockets[child != 0]};
    zero_bootstrap_t bootstrap = {};
    bootstrap.size = sizeof bootstrap;
    bootstrap.rank = m.rank;
    bootstrap.world = 2;
    bootstrap.all_gather = all_gather;
    bootstrap.ctx = &m;
    zero_status_t status = zero_comm_shm(&comm, &bootstrap, nullptr, &error);
    int failed = run(status, comm, error);
    if (child == 0)
        return failed;
    close(sockets[1]);
    return waitpid(child, &child_status, 0) != child || child_status != 0 || failed;
}
