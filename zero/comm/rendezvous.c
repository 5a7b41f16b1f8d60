/* SPDX-License-Identifier: Apache-2.0 */
/* rendezvous.c - see rendezvous.h. */
#define _GNU_SOURCE
#include "zero/comm/rendezvous.h"
#include "zero/comm/sockets.h"
#include "zero/device/host.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAGIC 0x7a65726f6d656574u
#define HELLO_S 1.0 /* rank 0 waits this long for the hello of a connection; a slower rank connects again */
#define GREET_S 3.0 /* the others wait this long for the hello of rank 0 */
#define TELL_S 2.0  /* rank 0 has at least this long to tell a failure, even after the end */

/* What each side says of itself first. */
typedef struct hello {
    uint64_t magic, job;
    int32_t rank, world;
} hello_t;

typedef struct answer {
    int32_t status; /* ZERO_OK: all ranks are connected */
    char text[508];
} answer_t;

static hello_t own_hello(const zero_rendezvous_t *r)
{
    return (hello_t){.magic = MAGIC, .job = r->job, .rank = r->rank, .world = r->world};
}

static bool same_job(const zero_rendezvous_t *r, const hello_t *hello)
{
    return hello->magic == MAGIC && hello->job == r->job;
}

static double sooner(double end, double seconds)
{
    double then = zero_now() + seconds;
    return then < end ? then : end;
}

static void set_options(const zero_rendezvous_t *r, int fd)
{
    if (r->transport->set_options != NULL)
        r->transport->set_options(fd);
}

/* ---- rank 0 ----------------------------------------------------------------------------------------------------- */

/* Checks the other end of a new connection, or sends it the first hello. Returns false if the connection is useless. */
static bool greet(const zero_rendezvous_t *r, double end, int fd)
{
    const hello_t own = own_hello(r);
    return r->transport->trusted != NULL ? r->transport->trusted(fd) : zero_socket_put(end, fd, &own, sizeof own);
}

static zero_status_t fail_late(const zero_rendezvous_t *r, int missing, zero_error_t *error)
{
    char late[200] = "";
    for (int i = 1, n = 0; i < r->world && n < 150; i++)
        if (r->peers[i] < 0)
            n += snprintf(late + n, sizeof late - (size_t)n, "%s%d", n ? ", " : "", i);
    return zero_fail(error, ZERO_ERR_TIMEOUT, "%d of torchrun's %d ranks did not connect to rank 0 in time: %s",
                     missing, r->world, late);
}

/* Accepts connections until every rank has sent its hello. *rejected: the connection whose hello is impossible, or -1.
 */
static zero_status_t accept_all(zero_rendezvous_t *r, int listener, int *rejected, zero_error_t *error)
{
    for (int missing = r->world - 1; missing > 0;) {
        hello_t hello;
        if (!zero_socket_ready(r->end, listener, POLLIN))
            return fail_late(r, missing, error);
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && errno != EMFILE && errno != ENFILE && errno != ENOMEM && errno != ENOBUFS)
            continue; /* an error of the network, or the connection has ended already */
        if (fd < 0)
            return zero_fail(error, ZERO_ERR_SYSTEM, "cannot accept a rank's connection: %s", strerror(errno));
        double soon = sooner(r->end, HELLO_S);
        if (!greet(r, soon, fd) || !zero_socket_get(soon, fd, &hello, sizeof hello) || !same_job(r, &hello)) {
            close(fd);
            continue;
        }
        if (hello.world != r->world || hello.rank < 1 || hello.rank >= r->world || r->peers[hello.rank] >= 0) {
            *rejected = fd;
            return zero_fail(error, ZERO_ERR_MISMATCH,
                             "a rank connected as %d of %d, but rank 0 expects each of 1 to %d of %d once", hello.rank,
                             hello.world, r->world - 1, r->world);
        }
        set_options(r, fd);
        r->peers[hello.rank] = fd;
        missing--;
    }
    return ZERO_OK;
}

/* Tells a failure to a rank that is not in peers, and closes the connection. An answer fits into a socket's buffer, so
 * this does not wait. */
static void turn_away(int fd, const answer_t *answer)
{
    zero_socket_put(0, fd, answer, sizeof *answer);
    shutdown(fd, SHUT_WR);
    close(fd);
}

/* Tells the result to all ranks that have connected. After a failure this includes ranks that still wait to be
 * accepted: they would find no listener when they try again. */
static zero_status_t answer_all(zero_rendezvous_t *r, int listener, int rejected, zero_status_t status,
                                zero_error_t *why)
{
    answer_t answer = {.status = (int32_t)status};
    const double end = zero_now() + TELL_S > r->end ? zero_now() + TELL_S : r->end;
    int fd;
    snprintf(answer.text, sizeof answer.text, "%.*s", (int)sizeof answer.text - 1, why->text);
    for (int i = 1; i < r->world; i++)
        if (r->peers[i] >= 0 && !zero_socket_put(end, r->peers[i], &answer, sizeof answer) && status == ZERO_OK)
            status = zero_fail(why, ZERO_ERR_PEER, "rank %d left during the bootstrap of torchrun's ranks", i);
    if (rejected >= 0)
        turn_away(rejected, &answer);
    while (answer.status != ZERO_OK && listener >= 0 &&
           (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
        if (greet(r, 0, fd))
            turn_away(fd, &answer);
        else
            close(fd);
    }
    return status;
}

static zero_status_t listen_for_all(zero_rendezvous_t *r, zero_error_t *error)
{
    zero_error_t why = {0};
    int listener = -1, rejected = -1;
    zero_status_t status = r->transport->listen(r->ctx, r->world, r->end, &listener, &why);
    if (status == ZERO_OK)
        status = accept_all(r, listener, &rejected, &why);
    status = answer_all(r, listener, rejected, status, &why);
    if (listener >= 0)
        close(listener);
    return zero_pass(error, status, &why);
}

/* ---- the other ranks -------------------------------------------------------------------------------------------- */

/* Whether the other end of a connection is rank 0 of this job. */
static bool is_first(const zero_rendezvous_t *r, int fd)
{
    hello_t first;
    if (r->transport->trusted != NULL)
        return r->transport->trusted(fd);
    return zero_socket_get(sooner(r->end, GREET_S), fd, &first, sizeof first) && same_job(r, &first) && first.rank == 0;
}

/* Sends the hello and receives the answer. Returns false if rank 0 closed the connection, or if the time is up. */
static bool introduce(const zero_rendezvous_t *r, int fd, answer_t *answer)
{
    const hello_t own = own_hello(r);
    zero_socket_put(r->end, fd, &own, sizeof own); /* if rank 0 has failed, its answer has arrived nevertheless */
    return zero_socket_get(r->end, fd, answer, sizeof *answer);
}

static zero_status_t connect_to_first(zero_rendezvous_t *r, zero_error_t *error)
{
    /* Repeats until rank 0 listens. A connection may also end without an answer, if it reached the listener of an
     * earlier rendezvous, which is closing. */
    do {
        for (int i = 0; i < r->addresses; i++) {
            answer_t answer;
            int fd = -1;
            zero_status_t status = r->transport->connect(r->ctx, i, r->end, &fd, error);
            if (status != ZERO_OK)
                return status;
            if (fd < 0)
                continue;
            bool answered = is_first(r, fd) && introduce(r, fd, &answer);
            if (answered && answer.status == ZERO_OK) {
                set_options(r, fd);
                r->peers[0] = fd;
                return ZERO_OK;
            }
            close(fd);
            if (answered)
                return zero_fail(error, (zero_status_t)answer.status, "%.*s", (int)sizeof answer.text - 1, answer.text);
        }
        nanosleep(&(struct timespec){.tv_nsec = r->transport->pause_ns}, NULL);
    } while (zero_now() < r->end);
    return r->transport->not_found(r->ctx, r->rank, error);
}

/* ---- all ranks -------------------------------------------------------------------------------------------------- */

zero_status_t zero_rendezvous_open(zero_rendezvous_t *r, zero_error_t *error)
{
    for (int i = 0; i < r->world; i++)
        r->peers[i] = -1;
    if (r->world == 1)
        return ZERO_OK;
    return r->rank == 0 ? listen_for_all(r, error) : connect_to_first(r, error);
}

void zero_rendezvous_close(zero_rendezvous_t *r)
{
    for (int i = 0; i < r->world; i++)
        if (r->peers[i] >= 0)
            close(r->peers[i]);
}

static zero_status_t fail_left(int rank, zero_error_t *error)
{
    return zero_fail(error, ZERO_ERR_PEER,
                     "rank %d left during the bootstrap of torchrun's ranks, or did not answer in time", rank);
}

zero_status_t zero_rendezvous_all_gather(zero_rendezvous_t *r, const void *send, void *recv, size_t bytes,
                                         zero_error_t *error)
{
    const size_t all = bytes * (size_t)r->world;
    if (r->rank > 0)
        return zero_socket_put(r->end, r->peers[0], send, bytes) && zero_socket_get(r->end, r->peers[0], recv, all)
                   ? ZERO_OK
                   : fail_left(0, error);
    if (bytes > 0)
        memcpy(recv, send, bytes);
    for (int i = 1; i < r->world; i++)
        if (!zero_socket_get(r->end, r->peers[i], (char *)recv + (size_t)i * bytes, bytes))
            return fail_left(i, error);
    for (int i = 1; i < r->world; i++)
        if (!zero_socket_put(r->end, r->peers[i], recv, all))
            return fail_left(i, error);
    return ZERO_OK;
}
