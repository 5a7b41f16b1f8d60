/* torchrun.c - ranks that torchrun started meet at an abstract socket whose name is made from torchrun's variables, and then share memory.
 *
 * Rank 0 listens. Every other rank connects and says who it is; when all are there rank 0 says go. Each all-gather sends the ranks' bytes
 * to rank 0, which answers with everyone's. The sockets close when the communicator is made.
 */
#define _GNU_SOURCE
#include "zero/comm/backend.h"
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
    int *peer;      /* rank 0: [world] a socket each, -1 at 0; others: [1] rank 0's */
    int listener;
    double end;     /* of everything */
} star_t;

typedef struct hello {
    uint32_t magic;
    int32_t rank, world;
} hello_t;

enum { HELLO_MAGIC = 0x7a65726f };

/* ---- bounded socket calls ---------------------------------------------------------------------------------------- */

static bool ready(const star_t *s, int fd, short events)
{
    for (;;) {
        double left = s->end - zero_host_now();
        struct pollfd p = {.fd = fd, .events = events};
        if (left <= 0)
            return false;
        int n = poll(&p, 1, left > 1 ? 1000 : (int)(left * 1000) + 1);
        if (n > 0)
            return true;
        if (n < 0 && errno != EINTR)
            return false;
    }
}

static bool put(const star_t *s, int fd, const void *data, size_t bytes)
{
    while (bytes) {
        ssize_t n = send(fd, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            data = (const char *)data + n;
            bytes -= (size_t)n;
        } else if ((errno != EAGAIN && errno != EINTR) || !ready(s, fd, POLLOUT))
            return false;
    }
    return true;
}

static bool get(const star_t *s, int fd, void *data, size_t bytes)
{
    while (bytes) {
        ssize_t n = recv(fd, data, bytes, MSG_DONTWAIT);
        if (n > 0) {
            data = (char *)data + n;
            bytes -= (size_t)n;
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR) || !ready(s, fd, POLLIN))
            return false;
    }
    return true;
}

static int star_all_gather(void *ctx, const void *send, void *recv, size_t bytes)
{
    star_t *s = ctx;
    if (s->rank)
        return put(s, s->peer[0], send, bytes) && get(s, s->peer[0], recv, bytes * (size_t)s->world) ? 0 : -1;
    if (bytes)
        memcpy(recv, send, bytes);
    for (int r = 1; r < s->world; r++)
        if (!get(s, s->peer[r], (char *)recv + (size_t)r * bytes, bytes))
            return -1;
    for (int r = 1; r < s->world; r++)
        if (!put(s, s->peer[r], recv, bytes * (size_t)s->world))
            return -1;
    return 0;
}

/* ---- meeting ----------------------------------------------------------------------------------------------------- */

/* Other users can connect to an abstract socket too. */
static bool same_user(int fd)
{
    struct ucred u;
    socklen_t length = sizeof u;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &length) == 0 && u.uid == getuid();
}

static zero_status_t listen_for_all(star_t *s, const struct sockaddr_un *address, socklen_t length, zero_error_t *error)
{
    int missing = s->world - 1;
    char go = 1;
    s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->listener < 0)
        return zero_fail(error, ZERO_ERR_SYSTEM, "cannot make a socket for torchrun's ranks to meet: %s", strerror(errno));
    /* In use: by the meeting of an earlier communicator that is just ending, or of another job. */
    while (bind(s->listener, (const struct sockaddr *)address, length) < 0) {
        if (errno != EADDRINUSE || zero_host_now() > s->end)
            return zero_fail(error, ZERO_ERR_SYSTEM, "cannot bind the socket '@%s' where torchrun's ranks meet: %s (does another job of yours have the same "
                             "MASTER_ADDR, MASTER_PORT and TORCHELASTIC_RUN_ID?)", address->sun_path + 1, strerror(errno));
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    if (listen(s->listener, s->world) < 0)
        return zero_fail(error, ZERO_ERR_SYSTEM, "cannot listen on a socket: %s", strerror(errno));
    while (missing) {
        hello_t h;
        if (!ready(s, s->listener, POLLIN))
            return zero_fail(error, ZERO_ERR_TIMEOUT, "%d of torchrun's %d ranks did not come to rank 0 in time", missing, s->world);
        int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0) /* out of descriptors, say */
            return zero_fail(error, ZERO_ERR_SYSTEM, "cannot accept a rank's connection: %s", strerror(errno));
        if (!same_user(fd) || !get(s, fd, &h, sizeof h) || h.magic != HELLO_MAGIC) {
            close(fd);
            continue;
        }
        if (h.world != s->world || h.rank < 1 || h.rank >= s->world || s->peer[h.rank] >= 0) {
            close(fd);
            return zero_fail(error, ZERO_ERR_MISMATCH, "a rank came that says it is %d of %d, but rank 0 expects each of 1 to %d of %d once", h.rank,
                             h.world, s->world - 1, s->world);
        }
        s->peer[h.rank] = fd;
        missing--;
    }
    close(s->listener);
    s->listener = -1;
    for (int r = 1; r < s->world; r++)
        if (!put(s, s->peer[r], &go, 1))
            return zero_fail(error, ZERO_ERR_PEER, "rank %d left while torchrun's ranks met", r);
    return ZERO_OK;
}

static zero_status_t connect_to_first(star_t *s, const struct sockaddr_un *address, socklen_t length, zero_error_t *error)
{
    hello_t h = {HELLO_MAGIC, s->rank, s->world};
    /* Until rank 0 listens; and again where it closed the meeting of an earlier communicator. */
    do {
        char go;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
            return zero_fail(error, ZERO_ERR_SYSTEM, "cannot make a socket for torchrun's ranks to meet: %s", strerror(errno));
        if (connect(fd, (const struct sockaddr *)address, length) == 0 && same_user(fd) && put(s, fd, &h, sizeof h) && get(s, fd, &go, 1)) {
            s->peer[0] = fd;
            return ZERO_OK;
        }
        close(fd);
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    } while (zero_host_now() < s->end);
    return zero_fail(error, ZERO_ERR_TIMEOUT, "rank %d did not find rank 0 at the socket '@%s' in time: start all ranks with one torchrun", s->rank,
                     address->sun_path + 1);
}

/* ---- environment ------------------------------------------------------------------------------------------------- */

static zero_status_t number(const char *name, int least, int *out, zero_error_t *error)
{
    const char *text = getenv(name);
    char *end;
    if (!text)
        return zero_fail(error, ZERO_ERR_ARG, "%s is not set: torchrun sets it for each rank; start with torchrun, or with mpiexec", name);
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno || end == text || *end || value < least || value > INT_MAX)
        return zero_fail(error, ZERO_ERR_ARG, "%s is '%s': a whole number of at least %d is wanted", name, text, least);
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

static void name_socket(struct sockaddr_un *address, socklen_t *length)
{
    static const char *const names[] = {"MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"};
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        h = hash(h, value ? value : "");
    }
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    int n = snprintf(address->sun_path + 1, sizeof address->sun_path - 1, "zero-%u-%016llx", (unsigned)getuid(), (unsigned long long)h);
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

    *comm = NULL;
    if ((status = zero_comm_options_take(&o, options, error)) || (status = number("RANK", 0, &s.rank, error)) ||
        (status = number("WORLD_SIZE", 1, &s.world, error)) || (status = number("MASTER_PORT", 1, &port, error)))
        return status;
    local_world = s.world; /* where something else than torchrun sets the variables that it documents first */
    if (getenv("LOCAL_WORLD_SIZE") && (status = number("LOCAL_WORLD_SIZE", 1, &local_world, error)))
        return status;
    if (!getenv("MASTER_ADDR"))
        return zero_fail(error, ZERO_ERR_ARG, "MASTER_ADDR is not set: torchrun sets it for each rank; start with torchrun, or with mpiexec");
    if (s.rank >= s.world)
        return zero_fail(error, ZERO_ERR_ARG, "RANK is %d, but WORLD_SIZE is %d: ranks are 0 to %d", s.rank, s.world, s.world - 1);
    if (local_world != s.world)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED, "torchrun started %d of %d ranks on this machine, but CPU ranks on several machines need MPI: "
                         "start them with mpiexec", local_world, s.world);
    s.end = zero_host_now() + o.timeout_s;
    name_socket(&address, &length);
    s.peer = calloc((size_t)s.world, sizeof *s.peer);
    if (!s.peer)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory to meet %d ranks", s.world);
    for (int r = 0; r < s.world; r++)
        s.peer[r] = -1;
    if (s.world > 1)
        status = s.rank ? connect_to_first(&s, &address, length, error) : listen_for_all(&s, &address, length, error);
    if (status == ZERO_OK) {
        zero_bootstrap_t b = {.size = sizeof b, .rank = s.rank, .world = s.world, .all_gather = star_all_gather, .ctx = &s};
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
