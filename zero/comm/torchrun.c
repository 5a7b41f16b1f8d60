/* SPDX-License-Identifier: Apache-2.0 */
/* torchrun.c - ranks that torchrun started on one node meet at an abstract socket whose name is made from torchrun's
 * variables, and then share memory. Those of several nodes have tcp.c.
 *
 * Rank 0 listens. Every other rank connects and says who it is; when all are there rank 0 answers go, and when they
 * will not be, why. Each all-gather sends the ranks' bytes to rank 0, which answers with everyone's. The sockets close
 * when the communicator is made.
 */
#define _GNU_SOURCE
#include "zero/comm/backend.h"
#include "zero/comm/sockets.h"
#include "zero/comm/tcp.h"
#include "zero/device/host.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

typedef struct star {
    int rank, world;
    int *peer; /* rank 0: [world] a socket each, -1 at 0; others: [1] rank 0's */
    int listener;
    double end; /* of everything */
} star_t;

/* The most that rank 0 waits for what a connection says first. A rank says it at once; where the machine held it up for
 * longer, it finds itself dropped and connects again. */
#define HELLO_SECONDS 1.0

typedef struct hello {
    uint32_t magic;
    int32_t rank, world;
} hello_t;

enum { HELLO_MAGIC = 0x7a65726f };

typedef struct answer {
    int32_t status; /* ZERO_OK: go */
    char text[508];
} answer_t;

static int star_all_gather(void *ctx, const void *send, void *recv, size_t bytes)
{
    star_t *s = ctx;
    if (s->rank)
        return zero_socket_put(s->end, s->peer[0], send, bytes) &&
                       zero_socket_get(s->end, s->peer[0], recv, bytes * (size_t)s->world)
                   ? 0
                   : -1;
    if (bytes)
        memcpy(recv, send, bytes);
    for (int r = 1; r < s->world; r++)
        if (!zero_socket_get(s->end, s->peer[r], (char *)recv + (size_t)r * bytes, bytes))
            return -1;
    for (int r = 1; r < s->world; r++)
        if (!zero_socket_put(s->end, s->peer[r], recv, bytes * (size_t)s->world))
            return -1;
    return 0;
}

/* ---- meeting ---------------------------------------------------------------------------------------------------- */

/* Other users can connect to an abstract socket too. */
static bool same_user(int fd)
{
    struct ucred u;
    socklen_t length = sizeof u;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &length) == 0 && u.uid == getuid();
}

static zero_status_t open_listener(star_t *s, const struct sockaddr_un *address, socklen_t length, zero_error_t *error)
{
    s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->listener < 0)
        return zero_fail(error, ZERO_ERR_SYSTEM, "cannot create a socket for the bootstrap of torchrun's ranks: %s",
                         strerror(errno));
    /* In use: by the meeting of an earlier communicator that is just ending, or of another job. */
    while (bind(s->listener, (const struct sockaddr *)address, length) < 0) {
        if (errno != EADDRINUSE || zero_now() > s->end)
            return zero_fail(error, ZERO_ERR_SYSTEM,
                             "cannot bind the socket '@%s' for the bootstrap of torchrun's ranks: %s (another job may "
                             "have the same MASTER_ADDR, MASTER_PORT and TORCHELASTIC_RUN_ID)",
                             address->sun_path + 1, strerror(errno));
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    if (listen(s->listener, s->world) < 0)
        return zero_fail(error, ZERO_ERR_SYSTEM, "cannot listen on a socket: %s", strerror(errno));
    return ZERO_OK;
}

/* Accepts connections until every rank has said who it is. *rejected: the one that ended that, or -1. */
static zero_status_t hear_all(star_t *s, int *rejected, zero_error_t *error)
{
    for (int missing = s->world - 1; missing > 0;) {
        hello_t h;
        if (!zero_socket_ready(s->end, s->listener, POLLIN))
            return zero_fail(error, ZERO_ERR_TIMEOUT, "%d of torchrun's %d ranks did not connect to rank 0 in time",
                             missing, s->world);
        int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0) /* out of descriptors, say */
            return zero_fail(error, ZERO_ERR_SYSTEM, "cannot accept a rank's connection: %s", strerror(errno));
        double end = zero_now() + HELLO_SECONDS;
        if (!same_user(fd) || !zero_socket_get(end < s->end ? end : s->end, fd, &h, sizeof h) ||
            h.magic != HELLO_MAGIC) {
            close(fd);
            continue;
        }
        if (h.world != s->world || h.rank < 1 || h.rank >= s->world || s->peer[h.rank] >= 0) {
            *rejected = fd;
            return zero_fail(error, ZERO_ERR_MISMATCH,
                             "a rank connected as %d of %d, but rank 0 expects each of 1 to %d of %d once", h.rank,
                             h.world, s->world - 1, s->world);
        }
        s->peer[h.rank] = fd;
        missing--;
    }
    return ZERO_OK;
}

static zero_status_t listen_for_all(star_t *s, const struct sockaddr_un *address, socklen_t length, zero_error_t *error)
{
    zero_error_t why = {0};
    answer_t answer = {0};
    int rejected = -1;
    zero_status_t status = open_listener(s, address, length, &why);
    if (status == ZERO_OK)
        status = hear_all(s, &rejected, &why);
    answer.status = (int32_t)status;
    snprintf(answer.text, sizeof answer.text, "%.*s", (int)sizeof answer.text - 1, why.text);
    for (int r = 1; r < s->world; r++)
        if (s->peer[r] >= 0 && !zero_socket_put(s->end, s->peer[r], &answer, sizeof answer) && status == ZERO_OK)
            status = zero_fail(&why, ZERO_ERR_PEER, "rank %d left during the bootstrap of torchrun's ranks", r);
    /* Whoever waits to be let in would find nobody here when it tries again. An answer fits a socket's buffer: no wait
     * for it. */
    for (int fd = rejected; status != ZERO_OK && s->listener >= 0;) {
        if (fd >= 0) {
            if (same_user(fd))
                zero_socket_put(0, fd, &answer, sizeof answer);
            close(fd);
        }
        if ((fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) < 0)
            break;
    }
    if (s->listener >= 0)
        close(s->listener);
    s->listener = -1;
    return zero_pass(error, status, &why);
}

static zero_status_t connect_to_first(star_t *s, const struct sockaddr_un *address, socklen_t length,
                                      zero_error_t *error)
{
    hello_t h = {HELLO_MAGIC, s->rank, s->world};
    /* Until rank 0 listens; and again where it closed the meeting of an earlier communicator. */
    do {
        answer_t answer;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
            return zero_fail(error, ZERO_ERR_SYSTEM, "cannot create a socket for the bootstrap of torchrun's ranks: %s",
                             strerror(errno));
        bool met = connect(fd, (const struct sockaddr *)address, length) == 0 && same_user(fd);
        if (met) {
            zero_socket_put(s->end, fd, &h,
                            sizeof h); /* where rank 0 did not wait for that, its answer is there nevertheless */
            met = zero_socket_get(s->end, fd, &answer, sizeof answer);
        }
        if (met && answer.status == ZERO_OK) {
            s->peer[0] = fd;
            return ZERO_OK;
        }
        close(fd);
        if (met)
            return zero_fail(error, (zero_status_t)answer.status, "%.*s", (int)sizeof answer.text - 1, answer.text);
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    } while (zero_now() < s->end);
    return zero_fail(error, ZERO_ERR_TIMEOUT,
                     "rank %d did not find rank 0 at the socket '@%s' in time: start all ranks with one torchrun",
                     s->rank, address->sun_path + 1);
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

/* FNV-1a, 64 bits (Fowler, Noll, Vo): names of sockets are short, and what makes up this one may be long. */
static uint64_t hash(uint64_t h, const char *text)
{
    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * 0x100000001b3u;
    return (h ^ 0xff) * 0x100000001b3u;
}

/* The same for the ranks that meet, and another one for those that torchrun starts anew. */
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

static void name_socket(struct sockaddr_un *address, socklen_t *length)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    int n = snprintf(address->sun_path + 1, sizeof address->sun_path - 1, "zero-%u-%016llx", (unsigned)getuid(),
                     (unsigned long long)hash_of_job());
    *length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

zero_status_t zero_comm_torchrun(zero_comm_t **comm, const zero_comm_options_t *options, zero_error_t *error)
{
    star_t s = {.listener = -1};
    struct sockaddr_un address;
    socklen_t length;
    zero_comm_options_t o;
    int local_world, port;
    zero_status_t status;

    if ((status = zero_comm_clear_out(comm, "zero_comm_torchrun", error)) ||
        (status = zero_comm_options_take(&o, options, error)) || (status = number("RANK", 0, &s.rank, error)) ||
        (status = number("WORLD_SIZE", 1, &s.world, error)) || (status = number("MASTER_PORT", 1, &port, error)))
        return status;
    local_world = s.world; /* where something else than torchrun sets the variables that it documents first */
    if (getenv("LOCAL_WORLD_SIZE") && (status = number("LOCAL_WORLD_SIZE", 1, &local_world, error)))
        return status;
    if (!getenv("MASTER_ADDR"))
        return zero_fail(
            error, ZERO_ERR_ARG,
            "MASTER_ADDR is not set: torchrun sets it for each rank; start with torchrun, or with mpiexec");
    if (s.rank >= s.world)
        return zero_fail(error, ZERO_ERR_ARG, "RANK is %d, but WORLD_SIZE is %d: ranks are 0 to %d", s.rank, s.world,
                         s.world - 1);
    if (local_world > s.world)
        return zero_fail(error, ZERO_ERR_ARG,
                         "LOCAL_WORLD_SIZE is %d, but WORLD_SIZE is %d: LOCAL_WORLD_SIZE must not exceed it",
                         local_world, s.world);
    if (local_world < s.world) {
        /* Where torchrun keeps a store of its own at the port, as it says then, ranks meet at one of the next. */
        const char *store = getenv("TORCHELASTIC_USE_AGENT_STORE");
        zero_tcp_master_t master = {.host = getenv("MASTER_ADDR"),
                                    .port = port,
                                    .taken = store && strcmp(store, "True") == 0,
                                    .job = hash_of_job(),
                                    .rank = s.rank,
                                    .world = s.world};
        return zero_tcp_open(comm, &master, &o, error);
    }
    s.end = zero_now() + o.timeout_s;
    name_socket(&address, &length);
    s.peer = calloc((size_t)s.world, sizeof *s.peer);
    if (!s.peer)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory to connect %d ranks", s.world);
    for (int r = 0; r < s.world; r++)
        s.peer[r] = -1;
    if (s.world > 1)
        status = s.rank ? connect_to_first(&s, &address, length, error) : listen_for_all(&s, &address, length, error);
    if (status == ZERO_OK) {
        zero_bootstrap_t b = {
            .size = sizeof b, .rank = s.rank, .world = s.world, .all_gather = star_all_gather, .ctx = &s};
        status = zero_comm_shm(comm, &b, options, error);
    }
    if (s.listener >= 0)
        close(s.listener);
    for (int r = 0; r < s.world; r++)
        if (s.peer[r] >= 0)
            close(s.peer[r]);
    free(s.peer);
    return status;
}
