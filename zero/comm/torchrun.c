/* SPDX-License-Identifier: Apache-2.0 */
/* torchrun.c - reads torchrun's variables, and makes the communicator. Ranks of one node meet at an abstract socket,
 * whose name is made from the variables, and then share memory; the sockets close when the communicator is made. Ranks
 * of several nodes use tcp.c. */
#define _GNU_SOURCE
#include "zero/comm/backend.h"
#include "zero/comm/rendezvous.h"
#include "zero/comm/tcp.h"
#include "zero/device/host.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* ---- the socket of a node --------------------------------------------------------------------------------------- */

typedef struct place {
    struct sockaddr_un address;
    socklen_t length;
} place_t;

static void name_socket(place_t *place, uint64_t job)
{
    struct sockaddr_un *address = &place->address;
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    int n = snprintf(address->sun_path + 1, sizeof address->sun_path - 1, "zero-%u-%016llx", (unsigned)getuid(),
                     (unsigned long long)job);
    place->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

static zero_status_t open_socket(int *fd, zero_error_t *error)
{
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return *fd >= 0 ? ZERO_OK
                    : zero_fail(error, ZERO_ERR_SYSTEM,
                                "cannot create a socket for the bootstrap of torchrun's ranks: %s", strerror(errno));
}

static zero_status_t local_listen(void *ctx, int world, double end, int *listener, zero_error_t *error)
{
    const place_t *place = ctx;
    zero_status_t status = open_socket(listener, error);
    if (status != ZERO_OK)
        return status;
    /* The rendezvous of an earlier communicator, which is closing, or another job may still use the name. */
    while (bind(*listener, (const struct sockaddr *)&place->address, place->length) < 0) {
        if (errno != EADDRINUSE || zero_now() > end)
            return zero_fail(error, ZERO_ERR_SYSTEM,
                             "cannot bind the socket '@%s' for the bootstrap of torchrun's ranks: %s (another job may "
                             "have the same MASTER_ADDR, MASTER_PORT and TORCHELASTIC_RUN_ID)",
                             place->address.sun_path + 1, strerror(errno));
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    if (listen(*listener, world) < 0)
        return zero_fail(error, ZERO_ERR_SYSTEM, "cannot listen on a socket: %s", strerror(errno));
    return ZERO_OK;
}

static zero_status_t local_connect(void *ctx, int i, double end, int *fd, zero_error_t *error)
{
    const place_t *place = ctx;
    (void)i, (void)end;
    zero_status_t status = open_socket(fd, error);
    if (status == ZERO_OK && connect(*fd, (const struct sockaddr *)&place->address, place->length) < 0) {
        close(*fd);
        *fd = -1;
    }
    return status;
}

static zero_status_t local_not_found(void *ctx, int rank, zero_error_t *error)
{
    const place_t *place = ctx;
    return zero_fail(error, ZERO_ERR_TIMEOUT,
                     "rank %d did not find rank 0 at the socket '@%s' in time: start all ranks with one torchrun", rank,
                     place->address.sun_path + 1);
}

/* Other users can use an abstract socket too. */
static bool same_user(int fd)
{
    struct ucred u;
    socklen_t length = sizeof u;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &length) == 0 && u.uid == getuid();
}

static const zero_transport_t local_socket = {.listen = local_listen,
                                              .connect = local_connect,
                                              .not_found = local_not_found,
                                              .trusted = same_user,
                                              .pause_ns = 5000000};

static int all_gather(void *ctx, const void *send, void *recv, size_t bytes)
{
    return zero_rendezvous_all_gather(ctx, send, recv, bytes, NULL) == ZERO_OK ? 0 : -1;
}

/* ---- environment ------------------------------------------------------------------------------------------------ */

static zero_status_t number(const char *name, int least, int *out, zero_error_t *error)
{
    const char *text = getenv(name);
    char *end;
    if (!text)
        return zero_fail(error, ZERO_ERR_ARG,
                         "%s is not set: torchrun sets it for each rank; start with torchrun, or with mpiexec", name);
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno || end == text || *end || value < least || value > INT_MAX)
        return zero_fail(error, ZERO_ERR_ARG, "%s is '%s', but must be a whole number of at least %d", name, text,
                         least);
    *out = (int)value;
    return ZERO_OK;
}

/* FNV-1a, 64 bits (Fowler, Noll, Vo). The name of a socket is a hash because names are short, and the variables may be
 * long. */
static uint64_t hash(uint64_t h, const char *text)
{
    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * 0x100000001b3u;
    return (h ^ 0xff) * 0x100000001b3u;
}

/* Equal for the ranks of one start; different if torchrun starts them again. */
static uint64_t hash_of_job(void)
{
    static const char *const names[] = {"MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID",
                                        "TORCHELASTIC_RESTART_COUNT"};
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        h = hash(h, value ? value : "");
    }
    return h;
}

zero_status_t zero_comm_torchrun(zero_comm_t **comm, const zero_comm_options_t *options, zero_error_t *error)
{
    zero_rendezvous_t r = {.transport = &local_socket, .addresses = 1};
    place_t place;
    zero_comm_options_t o;
    int local_world, port;
    zero_status_t status;

    if ((status = zero_comm_clear_out(comm, "zero_comm_torchrun", error)) ||
        (status = zero_comm_options_take(&o, options, error)) || (status = number("RANK", 0, &r.rank, error)) ||
        (status = number("WORLD_SIZE", 1, &r.world, error)) || (status = number("MASTER_PORT", 1, &port, error)))
        return status;
    local_world = r.world; /* other launchers may set only the variables above */
    if (getenv("LOCAL_WORLD_SIZE") && (status = number("LOCAL_WORLD_SIZE", 1, &local_world, error)))
        return status;
    if (!getenv("MASTER_ADDR"))
        return zero_fail(
            error, ZERO_ERR_ARG,
            "MASTER_ADDR is not set: torchrun sets it for each rank; start with torchrun, or with mpiexec");
    if (r.rank >= r.world)
        return zero_fail(error, ZERO_ERR_ARG, "RANK is %d, but WORLD_SIZE is %d: ranks are 0 to %d", r.rank, r.world,
                         r.world - 1);
    if (local_world > r.world)
        return zero_fail(error, ZERO_ERR_ARG,
                         "LOCAL_WORLD_SIZE is %d, but WORLD_SIZE is %d: LOCAL_WORLD_SIZE must not exceed it",
                         local_world, r.world);
    r.job = hash_of_job();
    if (local_world < r.world) {
        /* If torchrun's own store uses the port, which this variable says, the ranks meet at one of the next ports. */
        const char *store = getenv("TORCHELASTIC_USE_AGENT_STORE");
        zero_tcp_master_t master = {.host = getenv("MASTER_ADDR"),
                                    .port = port,
                                    .taken = store && strcmp(store, "True") == 0,
                                    .job = r.job,
                                    .rank = r.rank,
                                    .world = r.world};
        return zero_tcp_open(comm, &master, &o, error);
    }
    r.end = zero_now() + o.timeout_s;
    r.ctx = &place;
    name_socket(&place, r.job);
    r.peers = calloc((size_t)r.world, sizeof *r.peers);
    if (!r.peers)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory to connect %d ranks", r.world);
    status = zero_rendezvous_open(&r, error);
    if (status == ZERO_OK) {
        zero_bootstrap_t b = {.size = sizeof b, .rank = r.rank, .world = r.world, .all_gather = all_gather, .ctx = &r};
        status = zero_comm_shm(comm, &b, options, error);
    }
    zero_rendezvous_close(&r);
    free(r.peers);
    return status;
}
