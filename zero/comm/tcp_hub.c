/* SPDX-License-Identifier: Apache-2.0 */
/* tcp_hub.c - rank 0's thread: combines the parts of an exchange, forwards aborts, and finds ranks that vanished or are
 * late. It never waits for one rank: data that a rank does not accept now stays in the rank's buffer. */
#define _GNU_SOURCE
#include "zero/comm/tcp.h"
#include "zero/device/host.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define FAREWELL_S 2.0 /* after an abort: how long to wait for the other ranks to leave */

/* ---- buffers and frames, for tcp.c too -------------------------------------------------------------------------- */

static bool make_room(zero_tcp_buffer_t *b, size_t bytes)
{
    if (b->room - b->used >= bytes)
        return true;
    size_t room = b->used + bytes + b->used / 2;
    char *data = realloc(b->data, room);
    if (!data)
        return false;
    b->data = data;
    b->room = room;
    return true;
}

bool zero_tcp_add(zero_tcp_buffer_t *b, const void *data, size_t bytes)
{
    if (!make_room(b, bytes))
        return false;
    if (bytes)
        memcpy(b->data + b->used, data, bytes);
    b->used += bytes;
    return true;
}

void zero_tcp_drop(zero_tcp_buffer_t *b, size_t bytes)
{
    b->used -= bytes;
    if (b->used)
        memmove(b->data, b->data + bytes, b->used);
}

int zero_tcp_receive(zero_tcp_buffer_t *b, int fd)
{
    enum { PIECE = 65536 };
    errno = ENOMEM;
    if (!make_room(b, PIECE))
        return -1;
    ssize_t n = recv(fd, b->data + b->used, PIECE, MSG_DONTWAIT);
    if (n > 0)
        b->used += (size_t)n;
    else if (n == 0)
        errno = 0;
    return n > 0 ? 1 : n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
}

bool zero_tcp_next(const zero_tcp_buffer_t *b, zero_tcp_frame_t *frame, const char **payload, bool *bad)
{
    *bad = false;
    if (b->used < sizeof *frame)
        return false;
    memcpy(frame, b->data, sizeof *frame);
    *payload = b->data + sizeof *frame;
    *bad = frame->kind < ZERO_TCP_OPEN || frame->kind > ZERO_TCP_BYE || frame->bytes > ZERO_TCP_MOST;
    return !*bad && b->used - sizeof *frame >= frame->bytes;
}

/* ---- state ------------------------------------------------------------------------------------------------------ */

typedef struct peer {
    int fd;    /* -1: the connection has ended */
    bool left; /* sent ZERO_TCP_BYE */
    zero_tcp_buffer_t in, out;
} peer_t;

/* A communicator. */
typedef struct group {
    struct group *next;
    uint64_t id;
    int size, remaining; /* number of ranks; of those, how many have not left */
    int *member;         /* [size] */
    bool *arrived;       /* [size] whether the rank's part of the current exchange has arrived */
    int arrived_count;   /* number of parts that have arrived */
    uint64_t bytes;      /* per part */
    char *all;
    zero_tcp_differ_t differ; /* the first rank to arrive; if failed is ZERO_ERR_MISMATCH, also one that differs from it
                               */
    double since, timeout_s;
    zero_error_t failed; /* of the first exchange that failed, and so of all later ones; status ZERO_OK: none */
} group_t;

struct zero_tcp_hub {
    pthread_t thread;
    int world;
    double timeout_s;
    peer_t *peer;          /* [world] */
    zero_tcp_info_t *info; /* [world] */
    group_t *groups;
    bool aborted;
    double end; /* once rank 0 has left or lost its connection: when to stop waiting for the others; 0: not yet */
};

static void queue_frame(zero_tcp_hub_t *h, int rank, const zero_tcp_frame_t *frame, const void *payload)
{
    peer_t *p = &h->peer[rank];
    if (p->fd < 0 || p->left)
        return;
    if (zero_tcp_add(&p->out, frame, sizeof *frame) && zero_tcp_add(&p->out, payload, frame->bytes))
        return;
    close(p->fd); /* a rank that cannot get the message sees its connection end */
    p->fd = -1;
}

static void abort_all(zero_tcp_hub_t *h, const void *failure, uint64_t bytes)
{
    if (h->aborted)
        return;
    h->aborted = true;
    for (int r = 0; r < h->world; r++)
        queue_frame(h, r, &(zero_tcp_frame_t){.kind = ZERO_TCP_ABORT, .bytes = bytes}, failure);
}

static void fail_all(zero_tcp_hub_t *h, const zero_error_t *failure)
{
    abort_all(h, failure, zero_tcp_failure_bytes(failure));
}

/* Ends the connection of a rank, and aborts all unless the rank has left. error: errno, or 0. */
static void drop_peer(zero_tcp_hub_t *h, int rank, int error)
{
    peer_t *p = &h->peer[rank];
    if (p->fd >= 0)
        close(p->fd);
    p->fd = -1;
    if (p->left)
        return;
    zero_error_t failure;
    zero_fail_reason(&failure, ZERO_ERR_PEER, ZERO_REASON_RANK_ENDED, rank,
                     "rank %d (pid %d on %s) exited unexpectedly%s%s", rank, h->info[rank].pid, h->info[rank].host,
                     error && error != ECONNRESET ? ", or is unreachable: " : "",
                     error && error != ECONNRESET ? strerror(error) : "");
    fail_all(h, &failure);
}

/* ---- exchanges -------------------------------------------------------------------------------------------------- */

static void drop_group(group_t *g)
{
    free(g->member);
    free(g->arrived);
    free(g->all);
    free(g);
}

static group_t *find_group(zero_tcp_hub_t *h, uint64_t id)
{
    for (group_t *g = h->groups; g; g = g->next)
        if (g->id == id)
            return g;
    return NULL;
}

static bool open_group(zero_tcp_hub_t *h, uint64_t id, int size, const void *members)
{
    group_t *g = find_group(h, id);
    if (g)
        return g->size == size;
    g = calloc(1, sizeof *g);
    if (!g)
        return false;
    *g = (group_t){.id = id,
                   .size = size,
                   .remaining = size,
                   .member = calloc((size_t)size, sizeof *g->member),
                   .arrived = calloc((size_t)size, sizeof *g->arrived)};
    bool whole = g->member && g->arrived;
    if (whole)
        memcpy(g->member, members, (size_t)size * sizeof *g->member);
    for (int i = 0; i < size && whole; i++)
        whole = g->member[i] >= 0 && g->member[i] < h->world;
    if (!whole) {
        drop_group(g);
        return false;
    }
    g->next = h->groups;
    h->groups = g;
    return true;
}

static void leave_group(zero_tcp_hub_t *h, uint64_t id)
{
    for (group_t **g = &h->groups; *g; g = &(*g)->next)
        if ((*g)->id == id) {
            if (--(*g)->remaining == 0) {
                group_t *gone = *g;
                *g = gone->next;
                drop_group(gone);
            }
            return;
        }
}

/* Ends the exchange with a failure for the ranks that have arrived; later ones get the same failure. */
static void fail_group(zero_tcp_hub_t *h, group_t *g)
{
    bool differ = g->failed.status == ZERO_ERR_MISMATCH;
    zero_tcp_frame_t frame = {.kind = ZERO_TCP_RESULT,
                              .status = (int32_t)g->failed.status,
                              .id = g->id,
                              .bytes = differ ? sizeof g->differ : zero_tcp_failure_bytes(&g->failed)};
    for (int i = 0; i < g->size; i++)
        if (g->arrived[i]) {
            queue_frame(h, g->member[i], &frame, differ ? (const void *)&g->differ : (const void *)&g->failed);
            g->arrived[i] = false;
        }
    g->arrived_count = 0;
}

/* Writes "rank 3" or "ranks 3, 5": the members whose parts are missing; left: only those that have left. *first: the
 * lowest of them. */
static int name_missing(const zero_tcp_hub_t *h, const group_t *g, bool left, char *text, size_t size, int *first)
{
    int count = 0, n = 0, shown = 0;
    for (int i = 0; i < g->size; i++)
        count += !g->arrived[i] && (!left || h->peer[g->member[i]].left);
    n = snprintf(text, size, "rank%s ", count > 1 ? "s" : "");
    *first = -1;
    for (int i = g->size - 1; i >= 0; i--)
        if (!g->arrived[i] && (!left || h->peer[g->member[i]].left))
            *first = g->member[i];
    for (int i = 0; i < g->size && (size_t)n + 24 < size; i++)
        if (!g->arrived[i] && (!left || h->peer[g->member[i]].left))
            n += snprintf(text + n, size - (size_t)n, "%s%d", shown++ ? ", " : "", g->member[i]);
    if (shown < count)
        snprintf(text + n, size - (size_t)n, " and %d more", count - shown);
    return count;
}

/* Fails the exchange if it cannot complete: a missing rank has left, or the time is up. */
static void check_group(zero_tcp_hub_t *h, group_t *g, double now)
{
    char names[200];
    int first;
    if (!g->arrived_count)
        return;
    if (name_missing(h, g, true, names, sizeof names, &first))
        zero_fail_reason(&g->failed, ZERO_ERR_PEER, ZERO_REASON_RANK_LEFT, first,
                         "exchange: %s left the communicator while others waited for it", names);
    else if (now - g->since > g->timeout_s) {
        name_missing(h, g, false, names, sizeof names, &first);
        zero_fail_reason(&g->failed, ZERO_ERR_TIMEOUT, ZERO_REASON_RANK_LATE, first,
                         "exchange: %s did not arrive within %g s", names, g->timeout_s);
    } else
        return;
    fail_group(h, g);
}

/* Adds a rank's part of an exchange. Returns false if the frame is invalid. */
static bool add_part(zero_tcp_hub_t *h, int rank, const zero_tcp_frame_t *f, const char *payload)
{
    group_t *g = find_group(h, f->id);
    zero_call_info_t info;
    if (!g || f->index < 0 || f->index >= g->size || g->member[f->index] != rank || g->arrived[f->index] ||
        f->bytes < sizeof info)
        return false;
    memcpy(&info, payload, sizeof info);
    payload += sizeof info;
    if (!g->arrived_count) {
        g->bytes = f->bytes - sizeof info;
        g->since = zero_now();
        g->timeout_s = f->timeout_s;
        free(g->all);
        g->all = calloc((size_t)g->size, g->bytes ? g->bytes : 1);
        if (!g->all && g->failed.status == ZERO_OK)
            zero_fail(&g->failed, ZERO_ERR_MEMORY, "rank 0 has no memory for an exchange of %d times %llu bytes",
                      g->size, (unsigned long long)g->bytes);
        if (g->failed.status == ZERO_OK) {
            g->differ.rank[0] = f->index;
            g->differ.info[0] = info;
        }
    } else if (g->failed.status == ZERO_OK && memcmp(&info.id, &g->differ.info[0].id, sizeof info.id)) {
        g->failed.status = ZERO_ERR_MISMATCH;
        g->differ.rank[1] = f->index;
        g->differ.info[1] = info;
    } else if (g->failed.status == ZERO_OK && f->bytes - sizeof info != g->bytes)
        return false;
    g->arrived[f->index] = true;
    g->arrived_count++;
    if (g->failed.status) {
        fail_group(h, g);
        return true;
    }
    memcpy(g->all + (uint64_t)f->index * g->bytes, payload, g->bytes);
    if (g->arrived_count < g->size) {
        check_group(h, g, g->since);
        return true;
    }
    zero_tcp_frame_t frame = {.kind = ZERO_TCP_RESULT, .id = g->id, .bytes = (uint64_t)g->size * g->bytes};
    for (int i = 0; i < g->size; i++) {
        queue_frame(h, g->member[i], &frame, g->all);
        g->arrived[i] = false;
    }
    g->arrived_count = 0;
    return true;
}

/* ---- the thread ------------------------------------------------------------------------------------------------- */

static void mark_left(zero_tcp_hub_t *h, int rank)
{
    h->peer[rank].left = true;
    for (group_t *g = h->groups; g; g = g->next)
        check_group(h, g, g->since);
}

static bool handle_frame(zero_tcp_hub_t *h, int rank, const zero_tcp_frame_t *f, const char *payload)
{
    switch (f->kind) {
    case ZERO_TCP_OPEN:
        return f->size > 0 && f->bytes == (uint64_t)f->size * sizeof(int32_t) && open_group(h, f->id, f->size, payload);
    case ZERO_TCP_PART:
        return add_part(h, rank, f, payload);
    case ZERO_TCP_ABORT:
        abort_all(h, payload, f->bytes);
        return true;
    case ZERO_TCP_LEAVE:
        leave_group(h, f->id);
        return true;
    case ZERO_TCP_BYE:
        mark_left(h, rank);
        return true;
    default:
        return false;
    }
}

/* Reads a rank's socket once, so that the other ranks get their turn, and handles its complete frames. */
static void read_peer(zero_tcp_hub_t *h, int rank)
{
    peer_t *p = &h->peer[rank];
    const char *payload;
    zero_tcp_frame_t frame;
    bool bad = false;
    int more = zero_tcp_receive(&p->in, p->fd), error = errno;
    while (zero_tcp_next(&p->in, &frame, &payload, &bad)) {
        bad = !handle_frame(h, rank, &frame, payload);
        zero_tcp_drop(&p->in, sizeof frame + frame.bytes);
        if (bad)
            break;
    }
    if (bad) {
        zero_error_t failure;
        zero_fail_reason(&failure, ZERO_ERR_PEER, ZERO_REASON_NONE, rank,
                         "rank 0 cannot decode a message of rank %d (pid %d on %s), or has no memory for it", rank,
                         h->info[rank].pid, h->info[rank].host);
        fail_all(h, &failure);
    }
    if (p->fd >= 0 && (more < 0 || bad))
        drop_peer(h, rank, error);
}

static void write_peer(zero_tcp_hub_t *h, int rank)
{
    peer_t *p = &h->peer[rank];
    ssize_t n = send(p->fd, p->out.data, p->out.used, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0)
        zero_tcp_drop(&p->out, (size_t)n);
    else if (errno != EAGAIN && errno != EINTR)
        drop_peer(h, rank, errno);
}

/* Whether a rank still needs the thread. */
static bool is_needed(zero_tcp_hub_t *h, double now)
{
    bool others = false;
    for (int r = 1; r < h->world; r++)
        others = others || (h->peer[r].fd >= 0 && !h->peer[r].left);
    if (h->peer[0].fd >= 0 && !h->peer[0].left)
        return true;
    if (h->end == 0)
        h->end = now + h->timeout_s;
    if (h->aborted && h->end > now + FAREWELL_S)
        h->end = now + FAREWELL_S;
    return others && now < h->end;
}

static void *hub_main(void *arg)
{
    zero_tcp_hub_t *h = arg;
    struct pollfd *polled = calloc((size_t)h->world, sizeof *polled);
    if (!polled) {
        zero_error_t failure;
        zero_fail_reason(&failure, ZERO_ERR_PEER, ZERO_REASON_NONE, 0, "rank 0 has no memory to serve %d ranks",
                         h->world);
        fail_all(h, &failure);
    }
    for (double now = zero_now(); is_needed(h, now); now = zero_now()) {
        for (group_t *g = h->groups; g; g = g->next)
            check_group(h, g, now);
        for (int r = 0; r < h->world && polled; r++)
            polled[r] =
                (struct pollfd){.fd = h->peer[r].fd, .events = (short)(POLLIN | (h->peer[r].out.used ? POLLOUT : 0))};
        if (!polled || poll(polled, (nfds_t)h->world, 100) < 0)
            usleep(1000);
        for (int r = 0; r < h->world; r++) {
            if (h->peer[r].fd >= 0 && (!polled || polled[r].revents & (POLLIN | POLLHUP | POLLERR)))
                read_peer(h, r);
            if (h->peer[r].fd >= 0 && h->peer[r].out.used)
                write_peer(h, r);
        }
    }
    free(polled);
    return NULL;
}

static void free_hub(zero_tcp_hub_t *h)
{
    for (int r = 0; r < h->world && h->peer; r++) {
        if (h->peer[r].fd >= 0)
            close(h->peer[r].fd);
        free(h->peer[r].in.data);
        free(h->peer[r].out.data);
    }
    for (group_t *g = h->groups, *next; g; g = next) {
        next = g->next;
        drop_group(g);
    }
    free(h->peer);
    free(h->info);
    free(h);
}

zero_status_t zero_tcp_hub_open(zero_tcp_hub_t **out, int world, const int *peers, const zero_tcp_info_t *infos,
                                double timeout_s, zero_error_t *error)
{
    sigset_t all, old;
    int *members = calloc((size_t)world, sizeof *members);
    zero_tcp_hub_t *h = calloc(1, sizeof *h);
    if (h)
        *h = (zero_tcp_hub_t){.world = world,
                              .timeout_s = timeout_s,
                              .peer = calloc((size_t)world, sizeof *h->peer),
                              .info = calloc((size_t)world, sizeof *h->info)};
    for (int r = 0; r < world && h && h->peer; r++)
        h->peer[r].fd = peers[r];
    for (int r = 0; r < world && members; r++)
        members[r] = r;
    bool whole = members && h && h->peer && h->info && open_group(h, 0, world, members);
    free(members);
    if (!whole) {
        for (int r = 0; r < world && !(h && h->peer); r++)
            close(peers[r]);
        if (h)
            free_hub(h);
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a communicator of %d ranks", world);
    }
    memcpy(h->info, infos, (size_t)world * sizeof *infos);
    sigfillset(&all); /* leaves signals to other threads */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int e = pthread_create(&h->thread, NULL, hub_main, h);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (e) {
        free_hub(h);
        return zero_fail(error, ZERO_ERR_SYSTEM,
                         "cannot start the thread that serves the exchange of several nodes: %s", strerror(e));
    }
    *out = h;
    return ZERO_OK;
}

void zero_tcp_hub_close(zero_tcp_hub_t *h)
{
    if (!h)
        return;
    pthread_join(h->thread, NULL);
    free_hub(h);
}
