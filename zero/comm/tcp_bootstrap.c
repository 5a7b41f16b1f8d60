/* SPDX-License-Identifier: Apache-2.0 */
/* tcp_bootstrap.c - how ranks of several nodes find each other: rank 0 listens at one of a few ports, and the others
 * look for it there. It speaks first, so that a foreign listener at one of these ports receives nothing from us. */
#define _GNU_SOURCE
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

#define MAGIC 0x7a65726f74637031u
#define CONNECT_SECONDS 2.0 /* the most for a connection to a port, where a firewall may swallow it */
#define GREET_SECONDS 3.0   /* the most for rank 0's first word */
#define NAME_SECONDS 10.0   /* the most until MASTER_ADDR is known */
#define HELLO_SECONDS 1.0   /* the most for what a connection answers to that */

typedef struct answer {
    int32_t status; /* ZERO_OK: go, and world infos follow */
    char text[508];
} answer_t;

static zero_tcp_info_t own_info(const zero_tcp_master_t *master)
{
    zero_tcp_info_t info = {.magic = MAGIC,
                            .job = master->job,
                            .node = zero_host_machine(),
                            .rank = master->rank,
                            .world = master->world,
                            .pid = (int32_t)getpid()};
    gethostname(info.host, sizeof info.host - 1);
    return info;
}

/* Small messages leave at once, and a node that is silent for half a minute is gone. */
static void tune(int fd)
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

static double sooner(double end, double seconds)
{
    double then = zero_now() + seconds;
    return then < end ? then : end;
}

/* A look-up of a name, which may take as long as it likes: whoever waits for it can leave it alone. */
typedef struct lookup {
    pthread_mutex_t lock;
    pthread_cond_t done;
    bool over, left; /* it has an answer; nobody waits for that any more */
    int code, why;   /* of getaddrinfo, and errno */
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

/* getaddrinfo with a bound: EAI_AGAIN where there is no answer after seconds. */
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

/* A name may become known while hosts start, but not much later than the ranks. */
static zero_status_t find(const zero_tcp_master_t *master, double end, bool *numeric, struct addrinfo **out,
                          zero_error_t *error)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST};
    int code = getaddrinfo(master->host, NULL, &hints, out);
    *numeric = code == 0;
    end = sooner(end, NAME_SECONDS);
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

static void set_port(struct sockaddr *address, int port)
{
    if (address->sa_family == AF_INET6)
        ((struct sockaddr_in6 *)address)->sin6_port = htons((uint16_t)port);
    else
        ((struct sockaddr_in *)address)->sin_port = htons((uint16_t)port);
}

/* The i-th port that is tried, or 0. */
static int port_of(const zero_tcp_master_t *master, int i)
{
    int port = master->port + i;
    return port > 65535 || (i == 0 && master->taken) ? 0 : port;
}

/* ---- rank 0 ----------------------------------------------------------------------------------------------------- */

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

/* At the address that was named, where one was and it is this node's: a name may mean another address here than
 * elsewhere. */
static zero_status_t open_listener(const zero_tcp_master_t *master, double end, int *listener, zero_error_t *error)
{
    struct sockaddr_in6 any6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
    struct sockaddr_in any4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
    struct addrinfo *named = NULL;
    bool numeric = false;
    int why = 0;
    zero_status_t status = find(master, end, &numeric, &named, error);
    if (status)
        return status;
    for (*listener = -1; *listener < 0; nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL)) {
        for (int i = 0; i < ZERO_TCP_PORTS && *listener < 0; i++) {
            int port = port_of(master, i);
            if (!port)
                continue;
            bool elsewhere = !numeric;
            if (numeric) {
                *listener = listen_at(named->ai_addr, named->ai_addrlen, port, master->world);
                elsewhere = *listener < 0 && errno == EADDRNOTAVAIL;
            }
            if (elsewhere)
                *listener = listen_at((struct sockaddr *)&any6, sizeof any6, port, master->world);
            if (elsewhere && *listener < 0 && errno != EADDRINUSE)
                *listener = listen_at((struct sockaddr *)&any4, sizeof any4, port, master->world);
            why = *listener < 0 ? errno : 0;
        }
        if (*listener < 0 && zero_now() > end) {
            status = zero_fail(error, ZERO_ERR_SYSTEM,
                               "rank 0 cannot listen on %s, ports %d to %d: %s: use another MASTER_PORT", master->host,
                               master->port, master->port + ZERO_TCP_PORTS - 1, strerror(why));
            break;
        }
    }
    freeaddrinfo(named);
    return status;
}

/* Greets connections until every rank has said who it is. *rejected: the one that ended that, or -1. */
static zero_status_t hear_all(const zero_tcp_master_t *master, int listener, double end, zero_tcp_info_t *infos,
                              int *peers, int *rejected, zero_error_t *error)
{
    char late[200] = "";
    for (int missing = master->world - 1; missing > 0;) {
        zero_tcp_info_t info;
        if (!zero_socket_ready(end, listener, POLLIN)) {
            for (int r = 1, n = 0; r < master->world && n < 150; r++)
                if (peers[r] < 0)
                    n += snprintf(late + n, sizeof late - (size_t)n, "%s%d", n ? ", " : "", r);
            return zero_fail(error, ZERO_ERR_TIMEOUT, "%d of torchrun's %d ranks did not connect to rank 0 in time: %s",
                             missing, master->world, late);
        }
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && errno != EMFILE && errno != ENFILE && errno != ENOMEM && errno != ENOBUFS)
            continue; /* of the network, or of a connection that is gone again */
        if (fd < 0)
            return zero_fail(error, ZERO_ERR_SYSTEM, "cannot accept a rank's connection: %s", strerror(errno));
        double soon = sooner(end, HELLO_SECONDS);
        if (!zero_socket_put(soon, fd, &infos[0], sizeof infos[0]) || !zero_socket_get(soon, fd, &info, sizeof info) ||
            info.magic != MAGIC || info.job != master->job) {
            close(fd);
            continue;
        }
        if (info.world != master->world || info.rank < 1 || info.rank >= master->world || peers[info.rank] >= 0) {
            *rejected = fd;
            return zero_fail(error, ZERO_ERR_MISMATCH,
                             "a rank connected as %d of %d, but rank 0 expects each of 1 to %d of %d once", info.rank,
                             info.world, master->world - 1, master->world);
        }
        tune(fd);
        info.host[sizeof info.host - 1] = 0;
        infos[info.rank] = info;
        peers[info.rank] = fd;
        missing--;
    }
    return ZERO_OK;
}

static zero_status_t listen_for_all(const zero_tcp_master_t *master, double end, zero_tcp_info_t *infos, int *peers,
                                    zero_error_t *error)
{
    zero_error_t why = {0};
    answer_t answer = {0};
    int listener = -1, rejected = -1;
    zero_status_t status = open_listener(master, end, &listener, &why);
    if (status == ZERO_OK)
        status = hear_all(master, listener, end, infos, peers, &rejected, &why);
    answer.status = (int32_t)status;
    snprintf(answer.text, sizeof answer.text, "%.*s", (int)sizeof answer.text - 1, why.text);
    /* Failures are told for some seconds even where the time is up. */
    double told = zero_now() + 2 > end ? zero_now() + 2 : end;
    for (int r = 1; r < master->world; r++) {
        bool gone = peers[r] >= 0 && !zero_socket_put(told, peers[r], &answer, sizeof answer);
        if (peers[r] >= 0 && answer.status == ZERO_OK && !gone)
            gone = !zero_socket_put(told, peers[r], infos, sizeof *infos * (size_t)master->world);
        if (gone && status == ZERO_OK)
            status = zero_fail(&why, ZERO_ERR_PEER, "rank %d left during the bootstrap of torchrun's ranks", r);
    }
    if (rejected >= 0) {
        zero_socket_put(0, rejected, &answer, sizeof answer);
        shutdown(rejected, SHUT_WR);
        close(rejected);
    }
    if (listener >= 0)
        close(listener);
    return zero_pass(error, status, &why);
}

/* ---- the others ------------------------------------------------------------------------------------------------- */

/* A connection to rank 0, which has greeted, or -1. */
static int connect_at(const zero_tcp_master_t *master, struct sockaddr *address, socklen_t length, int port, double end)
{
    zero_tcp_info_t first;
    int code = 0;
    socklen_t size = sizeof code;
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    set_port(address, port);
    bool there = connect(fd, address, length) == 0;
    if (!there && errno == EINPROGRESS && zero_socket_ready(sooner(end, CONNECT_SECONDS), fd, POLLOUT))
        there = getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &size) == 0 && code == 0;
    if (there && zero_socket_get(sooner(end, GREET_SECONDS), fd, &first, sizeof first) && first.magic == MAGIC &&
        first.job == master->job && first.rank == 0)
        return fd;
    close(fd);
    return -1;
}

/* Says who we are, and hears whether all are there. false: rank 0 closed the connection, or the time is up. */
static bool introduce(const zero_tcp_info_t *own, int fd, double end, answer_t *answer, zero_tcp_info_t *infos)
{
    zero_socket_put(end, fd, own,
                    sizeof *own); /* where rank 0 did not wait for that, its answer is there nevertheless */
    return zero_socket_get(end, fd, answer, sizeof *answer) &&
           (answer->status != ZERO_OK || zero_socket_get(end, fd, infos, sizeof *infos * (size_t)own->world));
}

static zero_status_t connect_to_first(const zero_tcp_master_t *master, double end, zero_tcp_info_t *infos, int *peers,
                                      zero_error_t *error)
{
    const zero_tcp_info_t own = own_info(master);
    struct addrinfo *found = NULL;
    bool numeric;
    zero_status_t status = find(master, end, &numeric, &found, error);
    if (status)
        return status;
    /* Until rank 0 listens; and again where it closed the meeting of an earlier communicator. */
    do {
        for (struct addrinfo *a = found; a; a = a->ai_next)
            for (int i = 0; i < ZERO_TCP_PORTS; i++) {
                answer_t answer;
                int port = port_of(master, i);
                int fd = port && (a->ai_family == AF_INET || a->ai_family == AF_INET6)
                             ? connect_at(master, a->ai_addr, a->ai_addrlen, port, end)
                             : -1;
                if (fd < 0)
                    continue;
                bool heard = introduce(&own, fd, end, &answer, infos);
                if (heard && answer.status == ZERO_OK) {
                    tune(fd);
                    peers[0] = fd;
                    freeaddrinfo(found);
                    return ZERO_OK;
                }
                close(fd);
                if (heard) {
                    freeaddrinfo(found);
                    return zero_fail(error, (zero_status_t)answer.status, "%.*s", (int)sizeof answer.text - 1,
                                     answer.text);
                }
            }
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    } while (zero_now() < end);
    freeaddrinfo(found);
    return zero_fail(error, ZERO_ERR_TIMEOUT,
                     "rank %d did not find rank 0 at %s, ports %d to %d, in time: start all ranks with one torchrun, "
                     "and open these ports",
                     master->rank, master->host, master->port, master->port + ZERO_TCP_PORTS - 1);
}

zero_status_t zero_tcp_bootstrap(const zero_tcp_master_t *master, double timeout_s, zero_tcp_info_t *infos, int *peers,
                                 zero_error_t *error)
{
    double end = zero_now() + timeout_s;
    for (int r = 0; r < master->world; r++)
        peers[r] = -1;
    infos[master->rank] = own_info(master);
    return master->rank ? connect_to_first(master, end, infos, peers, error)
                        : listen_for_all(master, end, infos, peers, error);
}
