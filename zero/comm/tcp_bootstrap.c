/* SPDX-License-Identifier: Apache-2.0 */
/* tcp_bootstrap.c - the rendezvous of ranks on several nodes: rank 0 listens at one of a few ports of MASTER_ADDR, and
 * the other ranks try them all. */
#define _GNU_SOURCE
#include "zero/comm/rendezvous.h"
#include "zero/comm/sockets.h"
#include "zero/comm/tcp.h"
#include "zero/device/host.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECT_S 2.0 /* the limit for a connection to a port: a firewall may drop the packets */
#define NAME_S 10.0   /* the limit until MASTER_ADDR is known */

/* Where the ranks meet. */
typedef struct place {
    const zero_tcp_master_t *master;
    struct addrinfo *found;
    bool numeric;
} place_t;

static double sooner(double end, double seconds)
{
    double then = zero_now() + seconds;
    return then < end ? then : end;
}

/* ---- names ------------------------------------------------------------------------------------------------------ */

/* A look-up of a name in a thread of its own. It may take any time, so the caller can leave before it ends. */
typedef struct lookup {
    pthread_mutex_t lock;
    pthread_cond_t done;
    bool over, left; /* the look-up has ended; the caller has left, so the thread frees this */
    int code, why;   /* the result of getaddrinfo, and errno */
    struct addrinfo *found;
    char host[];
} lookup_t;

static void lookup_free(lookup_t *l)
{
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->done);
    free(l);
}

static void *look_up(void *arg)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    lookup_t *l = arg;
    struct addrinfo *found = NULL;
    int code = getaddrinfo(l->host, NULL, &hints, &found), why = errno;
    pthread_mutex_lock(&l->lock);
    l->code = code;
    l->why = why;
    l->found = found;
    l->over = true;
    bool left = l->left;
    pthread_cond_signal(&l->done);
    pthread_mutex_unlock(&l->lock);
    if (left) {
        if (code == 0)
            freeaddrinfo(found);
        lookup_free(l);
    }
    return NULL;
}

/* getaddrinfo with a time limit: returns EAI_AGAIN if it takes longer than seconds. */
static int look_up_within(const char *host, double seconds, struct addrinfo **out)
{
    struct timespec end;
    pthread_t thread;
    lookup_t *l = calloc(1, sizeof *l + strlen(host) + 1);
    if (!l)
        return EAI_MEMORY;
    strcpy(l->host, host);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->done, NULL);
    if (pthread_create(&thread, NULL, look_up, l)) {
        lookup_free(l);
        return EAI_MEMORY;
    }
    pthread_detach(thread);
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += (time_t)seconds + 1;
    pthread_mutex_lock(&l->lock);
    while (!l->over && pthread_cond_timedwait(&l->done, &l->lock, &end) == 0)
        ;
    bool over = l->over;
    int code = over ? l->code : EAI_AGAIN, why = l->why;
    *out = over ? l->found : NULL;
    l->left = !over;
    pthread_mutex_unlock(&l->lock);
    if (over)
        lookup_free(l);
    errno = why;
    return code;
}

/* Finds the addresses of rank 0's node. Tries again for some seconds, because a name may be unknown while hosts start.
 * *numeric: whether MASTER_ADDR is an address and no name. */
static zero_status_t find(const zero_tcp_master_t *master, double end, bool *numeric, struct addrinfo **out,
                          zero_error_t *error)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST};
    int code = getaddrinfo(master->host, NULL, &hints, out);
    *numeric = code == 0;
    end = sooner(end, NAME_S);
    while (code) {
        double left = end - zero_now();
        code = look_up_within(master->host, left > 0 ? left : 0, out);
        if (code == 0 || zero_now() >= end)
            break;
        nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    }
    if (code)
        return zero_fail(error, ZERO_ERR_SYSTEM, "rank %d cannot resolve MASTER_ADDR '%s': %s", master->rank,
                         master->host, code == EAI_SYSTEM ? strerror(errno) : gai_strerror(code));
    return ZERO_OK;
}

/* ---- sockets ---------------------------------------------------------------------------------------------------- */

/* Sends small messages at once, and ends the connection to a node that is silent for half a minute. */
static void tcp_set_options(int fd)
{
    const int on = 1, idle = 15, every = 5, times = 3;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof times);
    const unsigned int unheard_ms = 30000;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unheard_ms, sizeof unheard_ms);
}

static void set_port(struct sockaddr *address, int port)
{
    if (address->sa_family == AF_INET6)
        ((struct sockaddr_in6 *)address)->sin6_port = htons((uint16_t)port);
    else
        ((struct sockaddr_in *)address)->sin_port = htons((uint16_t)port);
}

/* The i-th port to try, or 0 if there is none. */
static int port_of(const zero_tcp_master_t *master, int i)
{
    int port = master->port + i;
    return port > 65535 || (i == 0 && master->taken) ? 0 : port;
}

static int listen_at(struct sockaddr *address, socklen_t length, int port, int world)
{
    const int on = 1, off = 0;
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    set_port(address, port);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on); /* of connections that have ended */
    if (address->sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(fd, address, length) == 0 && listen(fd, world < 16 ? 16 : world) == 0)
        return fd;
    int kept = errno;
    close(fd);
    errno = kept;
    return -1;
}

/* Listens at MASTER_ADDR if it is an address of this node. Otherwise listens at all addresses, because a name may have
 * another address here than on other nodes. */
static zero_status_t tcp_listen(void *ctx, int world, double end, int *listener, zero_error_t *error)
{
    const place_t *place = ctx;
    const zero_tcp_master_t *master = place->master;
    const struct addrinfo *named = place->found;
    const bool numeric = place->numeric;
    struct sockaddr_in6 any6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
    struct sockaddr_in any4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
    int why = 0;
    for (*listener = -1; *listener < 0; nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL)) {
        for (int i = 0; i < ZERO_TCP_PORTS && *listener < 0; i++) {
            int port = port_of(master, i);
            if (!port)
                continue;
            bool elsewhere = !numeric;
            if (numeric) {
                *listener = listen_at(named->ai_addr, named->ai_addrlen, port, world);
                elsewhere = *listener < 0 && errno == EADDRNOTAVAIL;
            }
            if (elsewhere)
                *listener = listen_at((struct sockaddr *)&any6, sizeof any6, port, world);
            if (elsewhere && *listener < 0 && errno != EADDRINUSE)
                *listener = listen_at((struct sockaddr *)&any4, sizeof any4, port, world);
            why = *listener < 0 ? errno : 0;
        }
        if (*listener < 0 && zero_now() > end)
            return zero_fail(error, ZERO_ERR_SYSTEM,
                             "rank 0 cannot listen on %s, ports %d to %d: %s: use another MASTER_PORT", master->host,
                             master->port, master->port + ZERO_TCP_PORTS - 1, strerror(why));
    }
    return ZERO_OK;
}

/* Address i is port i % ZERO_TCP_PORTS of one of the found addresses. */
static zero_status_t tcp_connect(void *ctx, int i, double end, int *fd, zero_error_t *error)
{
    const place_t *place = ctx;
    const struct addrinfo *a = place->found;
    const int port = port_of(place->master, i % ZERO_TCP_PORTS);
    int code = 0;
    socklen_t size = sizeof code;
    (void)error;
    for (int skip = i / ZERO_TCP_PORTS; skip > 0; skip--)
        a = a->ai_next;
    *fd = -1;
    if (!port || (a->ai_family != AF_INET && a->ai_family != AF_INET6))
        return ZERO_OK;
    int made = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (made < 0)
        return ZERO_OK;
    set_port(a->ai_addr, port);
    bool there = connect(made, a->ai_addr, a->ai_addrlen) == 0;
    if (!there && errno == EINPROGRESS && zero_socket_ready(sooner(end, CONNECT_S), made, POLLOUT))
        there = getsockopt(made, SOL_SOCKET, SO_ERROR, &code, &size) == 0 && code == 0;
    if (there)
        *fd = made;
    else
        close(made);
    return ZERO_OK;
}

static zero_status_t tcp_not_found(void *ctx, int rank, zero_error_t *error)
{
    const zero_tcp_master_t *master = ((const place_t *)ctx)->master;
    return zero_fail(error, ZERO_ERR_TIMEOUT,
                     "rank %d did not find rank 0 at %s, ports %d to %d, in time: start all ranks with one torchrun, "
                     "and open these ports",
                     rank, master->host, master->port, master->port + ZERO_TCP_PORTS - 1);
}

/* ---- the rendezvous --------------------------------------------------------------------------------------------- */

zero_status_t zero_tcp_bootstrap(const zero_tcp_master_t *master, double timeout_s, zero_tcp_info_t *infos, int *peers,
                                 zero_error_t *error)
{
    static const zero_transport_t tcp = {.listen = tcp_listen,
                                         .connect = tcp_connect,
                                         .not_found = tcp_not_found,
                                         .set_options = tcp_set_options,
                                         .pause_ns = 20000000};
    place_t place = {.master = master};
    zero_rendezvous_t r = {.transport = &tcp,
                           .ctx = &place,
                           .job = master->job,
                           .rank = master->rank,
                           .world = master->world,
                           .end = zero_now() + timeout_s,
                           .peers = peers};
    zero_tcp_info_t own = {.node = zero_host_machine(), .pid = (int32_t)getpid()};
    gethostname(own.host, sizeof own.host - 1);
    for (int i = 0; i < master->world; i++)
        peers[i] = -1;
    zero_status_t status = find(master, r.end, &place.numeric, &place.found, error);
    if (status != ZERO_OK)
        return status;
    for (const struct addrinfo *a = place.found; a; a = a->ai_next)
        r.addresses += ZERO_TCP_PORTS;
    status = zero_rendezvous_open(&r, error);
    freeaddrinfo(place.found);
    if (status == ZERO_OK)
        status = zero_rendezvous_all_gather(&r, &own, infos, sizeof own, error);
    for (int i = 0; i < master->world && status == ZERO_OK; i++)
        infos[i].host[sizeof infos[i].host - 1] = 0;
    return status;
}
