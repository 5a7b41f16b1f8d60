/* SPDX-License-Identifier: Apache-2.0 */
/* tcp.c - see tcp.h. */
#define _GNU_SOURCE
#include "zero/comm/tcp.h"
#include "zero/comm/sockets.h"
#include "zero/device/host.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_MARGIN_S 5.0 /* s: how long to wait for the hub's answer beyond the hub's own time limit */
#define TELL_S 1.0          /* s: limit for sending the hub something that needs no answer */

typedef struct tcp tcp_t;

/* A rank's connection to the hub, which a communicator and its splits share. */
typedef struct link {
    pthread_mutex_t reading, writing; /* never hold both */
    int fd, rank, world;
    zero_tcp_info_t *infos; /* [world] */
    zero_tcp_hub_t *hub;    /* on rank 0 */
    zero_tcp_buffer_t in;   /* this and the members below are protected by reading */
    tcp_t *comms;
    bool aborted;
    zero_error_t failure;
    atomic_int splits;
} link_t;

struct tcp {
    zero_control_t control;
    link_t *link;
    tcp_t *next; /* in the link's list */
    uint64_t id;
    /* The hub's answer, protected by reading. */
    bool answered;
    zero_error_t answer; /* status ZERO_OK: the result is all, with bytes bytes; ZERO_ERR_MISMATCH: see differ */
    zero_tcp_differ_t differ;
    char *all;
    uint64_t bytes;
};

/* ---- the connection --------------------------------------------------------------------------------------------- */

static void set_aborted(link_t *l, const zero_error_t *failure)
{
    if (l->aborted)
        return;
    l->failure = *failure;
    l->aborted = true;
}

static void handle_frame(link_t *l, const zero_tcp_frame_t *f, const char *payload)
{
    const zero_error_t failure =
        f->kind == ZERO_TCP_ABORT || f->status != ZERO_OK ? zero_tcp_failure(payload, f->bytes) : (zero_error_t){0};
    if (f->kind == ZERO_TCP_ABORT)
        set_aborted(l, &failure);
    for (tcp_t *c = l->comms; c && f->kind == ZERO_TCP_RESULT; c = c->next) {
        if (c->id != f->id || c->answered)
            continue;
        c->answered = true;
        c->answer = (zero_error_t){.status = ZERO_OK};
        if (f->status == ZERO_ERR_MISMATCH && f->bytes == sizeof c->differ) {
            c->answer.status = ZERO_ERR_MISMATCH;
            memcpy(&c->differ, payload, sizeof c->differ);
        } else if (f->status != ZERO_OK)
            zero_pass(&c->answer, (zero_status_t)f->status, &failure);
        else if ((c->all = malloc(f->bytes + 1)) == NULL)
            zero_fail(&c->answer, ZERO_ERR_MEMORY, "no memory for an exchange of %llu bytes",
                      (unsigned long long)f->bytes);
        else
            memcpy(c->all, payload, f->bytes);
        c->bytes = f->bytes;
    }
}

/* Handles all frames that have arrived, without waiting. Call it with reading locked. */
static void receive_frames(link_t *l)
{
    const char *payload;
    zero_tcp_frame_t frame;
    bool bad = false;
    int more = 1, error = 0;
    while (more > 0 && !l->aborted) {
        more = zero_tcp_receive(&l->in, l->fd);
        error = errno;
        size_t done = 0;
        zero_tcp_buffer_t rest = l->in;
        while (zero_tcp_next(&rest, &frame, &payload, &bad)) {
            handle_frame(l, &frame, payload);
            done += sizeof frame + frame.bytes;
            rest.data = l->in.data + done;
            rest.used = l->in.used - done;
        }
        zero_tcp_drop(&l->in, done);
        if (bad)
            break;
    }
    zero_error_t failure;
    if (bad)
        zero_fail_reason(&failure, ZERO_ERR_PEER, ZERO_REASON_NONE, l->rank,
                         "rank %d cannot decode a message of rank 0", l->rank);
    else if (more < 0)
        zero_fail_reason(&failure, ZERO_ERR_PEER, ZERO_REASON_RANK_ENDED, 0,
                         "rank 0 (pid %d on %s) exited unexpectedly%s%s", l->infos[0].pid, l->infos[0].host,
                         error && error != ECONNRESET ? ", or is unreachable: " : "",
                         error && error != ECONNRESET ? strerror(error) : "");
    if (bad || more < 0)
        set_aborted(l, &failure);
}

/* Returns false if the connection has ended; receive_frames detects that too. */
static bool send_parts(link_t *l, const void *head, size_t head_bytes, const void *payload, size_t bytes, double end)
{
    pthread_mutex_lock(&l->writing);
    bool sent = zero_socket_put(end, l->fd, head, head_bytes) && zero_socket_put(end, l->fd, payload, bytes);
    if (!sent) /* part of a frame may have been sent, so nothing may follow */
        shutdown(l->fd, SHUT_WR);
    pthread_mutex_unlock(&l->writing);
    return sent;
}

static bool send_frame(link_t *l, const zero_tcp_frame_t *frame, const void *payload, double end)
{
    return send_parts(l, frame, sizeof *frame, payload, frame->bytes, end);
}

static zero_status_t check_link(link_t *l, zero_error_t *error)
{
    pthread_mutex_lock(&l->reading);
    receive_frames(l);
    zero_status_t status = l->aborted ? zero_pass(error, ZERO_ERR_PEER, &l->failure) : ZERO_OK;
    pthread_mutex_unlock(&l->reading);
    return status;
}

/* ---- operations ------------------------------------------------------------------------------------------------- */

/* If two ranks make different calls, at least one of them differs from this rank's call. */
static zero_status_t mismatch(const zero_call_t *call, const zero_tcp_differ_t *d, zero_error_t *error)
{
    zero_status_t status = zero_call_compare(call, d->rank[0], &d->info[0].id, d->info[0].words, error);
    return status ? status : zero_call_compare(call, d->rank[1], &d->info[1].id, d->info[1].words, error);
}

/* Waits for the hub's answer, which also names ranks that are late. */
static zero_status_t await_answer(tcp_t *c, const zero_call_t *call, double end, void *recv, zero_error_t *why)
{
    link_t *l = c->link;
    for (;;) {
        bool over = false;
        zero_status_t status = ZERO_OK;
        pthread_mutex_lock(&l->reading);
        receive_frames(l);
        if (c->answered) {
            over = true;
            status = c->answer.status == ZERO_ERR_MISMATCH ? mismatch(call, &c->differ, why)
                     : c->answer.status                    ? zero_pass(why, c->answer.status, &c->answer)
                                                           : ZERO_OK;
            if (status == ZERO_OK && c->bytes)
                memcpy(recv, c->all, c->bytes);
            free(c->all);
            c->all = NULL;
            c->answered = false;
        } else if (l->aborted) {
            over = true;
            status = zero_pass(why, ZERO_ERR_PEER, &l->failure);
        }
        pthread_mutex_unlock(&l->reading);
        if (over)
            return status;
        if (zero_now() > end)
            return zero_fail(why, ZERO_ERR_TIMEOUT,
                             "exchange: rank 0 (pid %d on %s), which serves the exchange, did not answer within %g s",
                             l->infos[0].pid, l->infos[0].host, c->control.options.timeout_s + ANSWER_MARGIN_S);
        /* While this thread sleeps, another thread may receive the answer. */
        struct pollfd p = {.fd = l->fd, .events = POLLIN};
        poll(&p, 1, 5);
    }
}

static zero_status_t tcp_exchange(zero_comm_t *comm, const void *send, void *recv, uint64_t bytes, zero_error_t *error)
{
    tcp_t *c = (tcp_t *)comm->control;
    zero_call_t call = zero_call_exchange(comm, bytes);
    struct {
        zero_tcp_frame_t frame;
        zero_call_info_t info;
    } head;
    if (bytes > ZERO_TCP_MOST / (uint64_t)comm->size) /* all ranks refuse this, or their calls differ anyway */
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "an exchange of %llu bytes per rank is too large without MPI: at most %llu",
                         (unsigned long long)bytes, (unsigned long long)(ZERO_TCP_MOST / (uint64_t)comm->size));
    double timeout_s = c->control.options.timeout_s, end = zero_now() + timeout_s + ANSWER_MARGIN_S;
    head.frame = (zero_tcp_frame_t){.kind = ZERO_TCP_PART,
                                    .index = comm->rank,
                                    .size = comm->size,
                                    .id = c->id,
                                    .bytes = sizeof head.info + bytes,
                                    .timeout_s = timeout_s};
    zero_call_info(&call, &head.info);
    zero_status_t status = check_link(c->link, error);
    if (status == ZERO_OK && !send_parts(c->link, &head, sizeof head, send, bytes, end) &&
        (status = check_link(c->link, error)) == ZERO_OK)
        status =
            zero_fail(error, ZERO_ERR_TIMEOUT, "exchange: rank 0, which serves the exchange, no longer accepts data");
    return status ? status : await_answer(c, &call, end, recv, error);
}

/* The hub chooses the failure that counts for all ranks. */
static void tcp_abort(zero_comm_t *comm, const zero_error_t *failure)
{
    link_t *l = ((tcp_t *)comm->control)->link;
    const zero_error_t own = zero_comm_own(failure, l->rank);
    double end = zero_now() + TELL_S;
    if (check_link(l, NULL) != ZERO_OK)
        return;
    send_frame(l, &(zero_tcp_frame_t){.kind = ZERO_TCP_ABORT, .bytes = zero_tcp_failure_bytes(&own)}, &own, end);
    while (check_link(l, NULL) == ZERO_OK && zero_socket_ready(end, l->fd, POLLIN))
        ;
    pthread_mutex_lock(&l->reading);
    set_aborted(l, &own);
    pthread_mutex_unlock(&l->reading);
}

static zero_status_t tcp_check(zero_comm_t *comm, zero_error_t *error)
{
    return check_link(((tcp_t *)comm->control)->link, error);
}

/* ---- start and end ---------------------------------------------------------------------------------------------- */

static void close_link(link_t *l)
{
    if (l->fd >= 0) {
        send_frame(l, &(zero_tcp_frame_t){.kind = ZERO_TCP_BYE}, NULL, zero_now() + TELL_S);
        shutdown(l->fd, SHUT_WR);
    }
    zero_tcp_hub_close(l->hub);
    if (l->fd >= 0)
        close(l->fd);
    pthread_mutex_destroy(&l->reading);
    pthread_mutex_destroy(&l->writing);
    free(l->in.data);
    free(l->infos);
    free(l);
}

static void tcp_destroy(zero_control_t *control)
{
    tcp_t *c = (tcp_t *)control;
    link_t *l = c->link;
    send_frame(l, &(zero_tcp_frame_t){.kind = ZERO_TCP_LEAVE, .id = c->id}, NULL, zero_now() + TELL_S);
    pthread_mutex_lock(&l->reading);
    for (tcp_t **p = &l->comms; *p; p = &(*p)->next)
        if (*p == c) {
            *p = c->next;
            break;
        }
    bool last = l->comms == NULL;
    pthread_mutex_unlock(&l->reading);
    if (last)
        close_link(l);
    free(c->all);
    free(c->control.world);
    free(c);
}

static zero_status_t tcp_split(zero_comm_t *comm, const zero_subset_t *part, zero_comm_t *out, zero_error_t *error);

/* Has no progress words, which need shared memory, and no data. */
static const zero_control_ops_t tcp_control = {
    .exchange = tcp_exchange,
    .split = tcp_split,
    .abort = tcp_abort,
    .check = tcp_check,
    .destroy = tcp_destroy,
};

/* Makes a control for comm, a communicator with rank and size set, but does not attach it. Rank i of comm is
 * members[i] in parent; if parent is NULL, rank i of the link. */
static tcp_t *new_control(zero_comm_t *comm, link_t *l, const tcp_t *parent, const int *members,
                          const zero_comm_options_t *options)
{
    tcp_t *c = calloc(1, sizeof *c);
    int here = 0;
    if (!c || !(c->control.world = calloc((size_t)comm->size, sizeof *members))) {
        free(c);
        return NULL;
    }
    c->control.ops = &tcp_control;
    c->control.options = *options;
    c->link = l;
    for (int i = 0; i < comm->size; i++) {
        c->control.world[i] = parent ? parent->control.world[members[i]] : i;
        here += l->infos[c->control.world[i]].node == l->infos[l->rank].node;
    }
    zero_comm_caps_set(comm, "tcp", 0);
    comm->caps.host_pointers = false;
    comm->caps.node_ranks = here;
    return c;
}

static void join(link_t *l, tcp_t *c)
{
    pthread_mutex_lock(&l->reading);
    c->next = l->comms;
    l->comms = c;
    pthread_mutex_unlock(&l->reading);
}

static zero_status_t tcp_split(zero_comm_t *comm, const zero_subset_t *part, zero_comm_t *out, zero_error_t *error)
{
    tcp_t *c = (tcp_t *)comm->control;
    zero_oob_t oob = zero_comm_oob(comm);
    zero_error_t why = {0};
    /* The first rank of the part chooses its id, so that no other communicator has the same one. */
    uint64_t own = 0, *all = calloc((size_t)comm->size, sizeof *all);
    if (part->rank == 0)
        own =
            (uint64_t)(atomic_fetch_add(&c->link->splits, 1) + 1) * (uint64_t)c->link->world + (uint64_t)c->link->rank;
    tcp_t *control = new_control(out, c->link, c, part->members, &c->control.options);
    zero_status_t status = zero_oob_agree(
        &oob, all && control ? ZERO_OK : zero_fail(&why, ZERO_ERR_MEMORY, "no memory to split a communicator"), &why);
    if (status == ZERO_OK)
        status = zero_control_exchange(comm, &own, all, sizeof own, &why);
    if (status == ZERO_OK) {
        control->id = all[part->members[0]];
        join(c->link, control);
        zero_tcp_frame_t frame = {.kind = ZERO_TCP_OPEN,
                                  .size = part->size,
                                  .id = control->id,
                                  .bytes = (uint64_t)part->size * sizeof *control->control.world};
        /* If this fails, every later call on the communicator fails too. */
        send_frame(c->link, &frame, control->control.world, zero_now() + c->control.options.timeout_s);
        out->control = &control->control;
    } else if (control) {
        free(control->control.world);
        free(control);
    }
    free(all);
    return zero_pass(error, status, &why);
}

/* Rank 0 connects to its own hub by a pair of sockets. */
static zero_status_t open_hub(link_t *l, int *peers, const zero_comm_options_t *options, zero_error_t *error)
{
    int pair[2];
    if (l->rank) {
        l->fd = peers[0];
        peers[0] = -1;
        return ZERO_OK;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return zero_fail(error, ZERO_ERR_SYSTEM, "cannot create a pair of sockets: %s", strerror(errno));
    l->fd = pair[0];
    peers[0] = pair[1];
    zero_status_t status = zero_tcp_hub_open(&l->hub, l->world, peers, l->infos, options->timeout_s, error);
    for (int r = 0; r < l->world; r++)
        peers[r] = -1;
    return status;
}

zero_status_t zero_tcp_open(zero_comm_t **out, const zero_tcp_master_t *master, const zero_comm_options_t *options,
                            zero_error_t *error)
{
    zero_status_t status;
    tcp_t *c = NULL;
    int *peers = malloc((size_t)master->world * sizeof *peers);
    zero_comm_t *comm = calloc(1, sizeof *comm);
    link_t *l = calloc(1, sizeof *l);
    if (!peers || !comm || !l || !(l->infos = calloc((size_t)master->world, sizeof *l->infos))) {
        free(peers);
        free(comm);
        free(l);
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory to connect %d ranks", master->world);
    }
    l->fd = -1;
    l->rank = master->rank;
    l->world = master->world;
    pthread_mutex_init(&l->reading, NULL);
    pthread_mutex_init(&l->writing, NULL);
    *comm = (zero_comm_t){.options = *options, .rank = master->rank, .size = master->world};
    status = zero_tcp_bootstrap(master, options->timeout_s, l->infos, peers, error);
    if (status == ZERO_OK && !(c = new_control(comm, l, NULL, NULL, options)))
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for a communicator of %d ranks", master->world);
    if (status == ZERO_OK)
        status = open_hub(l, peers, options, error);
    for (int r = 0; r < master->world; r++)
        if (peers[r] >= 0)
            close(peers[r]);
    free(peers);
    if (status) {
        if (c)
            free(c->control.world);
        free(c);
        free(comm);
        close_link(l);
        return status;
    }
    join(l, c);
    comm->control = &c->control;
    *out = comm;
    return ZERO_OK;
}
