/* SPDX-License-Identifier: Apache-2.0 */
/* mpi_base.c - see mpi_base.h. */
#define _GNU_SOURCE
#if defined(HAVE_MPI)
#include "zero/comm/mpi_base.h"
#include "zero/device/host.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The number of open zero_mpi_t in this process if this library started MPI, otherwise 0. The last one to close
 * finalizes MPI. MPI can start only once per process, so this is the library's only variable outside a handle. */
static atomic_int mpi_users;

zero_status_t zero_mpi_fail(zero_error_t *error, const char *what, int code)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    return zero_fail(error, ZERO_ERR_SYSTEM, "%s: %s", what, text);
}

void zero_mpi_drop(MPI_Request *requests, int count)
{
    for (int i = 0; i < count; i++)
        if (requests[i] != MPI_REQUEST_NULL) {
            MPI_Cancel(&requests[i]);
            MPI_Request_free(&requests[i]);
        }
}

static zero_status_t wait_all(MPI_Request *requests, int count, double timeout_s, zero_peers_t *peers,
                              const char *operation, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    double start = 0, watched = 0;
    for (int turn = 0;; turn++) {
        int done = 0, code = MPI_Testall(count, requests, &done, MPI_STATUSES_IGNORE);
        if (code != MPI_SUCCESS)
            status = zero_mpi_fail(error, operation, code);
        if (done || status)
            break;
        if (turn < 200)
            continue;
        sched_yield();
        double now = zero_now();
        if (start == 0)
            start = watched = now;
        if (now - watched > 0.001) {
            watched = now;
            if (peers)
                status = zero_peers_watch(peers, operation, error);
            if (status)
                break;
        }
        if (now - start > 0.02) /* longer than messages take: leave the processor to other threads */
            nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
        if (now - start > timeout_s) {
            status = zero_fail(error, ZERO_ERR_TIMEOUT, "%s: no MPI message of the other ranks arrived within %g s",
                               operation, timeout_s);
            break;
        }
    }
    return status;
}

zero_status_t zero_mpi_wait(MPI_Request *requests, int count, double timeout_s, zero_peers_t *peers,
                            const char *operation, zero_error_t *error)
{
    zero_status_t status = wait_all(requests, count, timeout_s, peers, operation, error);
    if (status)
        zero_mpi_drop(requests, count);
    return status;
}

/* MPI does not allow cancelling or freeing the request of a collective (it would end the process). So a request that
 * does not complete stays, and MPI may write the received data at any time. Therefore the data goes through a buffer,
 * which is leaked in that case. */
static zero_status_t mpi_all_gather(void *ctx, const void *send, void *recv, size_t bytes, zero_error_t *error)
{
    zero_mpi_t *m = ctx;
    MPI_Request request;
    size_t total = bytes * (size_t)m->size;
    char *all, *own = malloc(bytes + total + 1);
    if (!own) {
        m->broken = true;
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory to connect %d ranks", m->size);
    }
    all = own + bytes;
    memcpy(own, send, bytes);
    int code = MPI_Iallgather(own, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, m->comm, &request);
    zero_status_t status = code == MPI_SUCCESS
                               ? wait_all(&request, 1, m->timeout_s, NULL, "meeting of the ranks", error)
                               : zero_mpi_fail(error, "MPI_Iallgather", code);
    if (status) {
        m->broken = true;
        return status;
    }
    memcpy(recv, all, total);
    free(own);
    return ZERO_OK;
}

zero_oob_t zero_mpi_oob(zero_mpi_t *m)
{
    return (zero_oob_t){.rank = m->rank, .world = m->size, .all_gather = mpi_all_gather, .ctx = m};
}

/* ---- which ranks share a node ----------------------------------------------------------------------------------- */

/* Equal for processes that can open each other's /proc entries: same kernel and PID namespace. */
typedef struct node_id {
    char host[64];
    uint64_t machine, pid_space;
} node_id_t;

static void find_node_id(node_id_t *p)
{
    struct stat st;
    *p = (node_id_t){.machine = zero_host_machine()};
    gethostname(p->host, sizeof p->host - 1);
    p->pid_space = stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
}

static zero_status_t find_nodes(zero_mpi_t *m, const zero_comm_options_t *options, zero_error_t *error)
{
    node_id_t own, *all = calloc((size_t)m->size, sizeof *all);
    m->node = calloc((size_t)m->size, sizeof *m->node);
    if (!all || !m->node) {
        free(all);
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a communicator of %d ranks", m->size);
    }
    find_node_id(&own);
    zero_status_t status = mpi_all_gather(m, &own, all, sizeof own, error);
    for (int r = 0; r < m->size && status == ZERO_OK; r++) {
        int first = 0;
        while (memcmp(&all[first], &all[r], sizeof own))
            first++;
        m->node[r] = options->ranks_per_node ? r / options->ranks_per_node * options->ranks_per_node : first;
    }
    m->alone = true;
    for (int r = 0; r < m->size; r++)
        m->alone = m->alone && m->node[r] == m->node[0];
    free(all);
    return status;
}

/* ---- start and end ---------------------------------------------------------------------------------------------- */

/* Before MPI_Init and after MPI_Finalize all other MPI functions are fatal errors. */
static zero_status_t start(zero_mpi_t *m, const zero_comm_options_t *options, zero_error_t *error)
{
    int initialised = 0, finalised = 0, provided = MPI_THREAD_SINGLE, code;
    MPI_Finalized(&finalised);
    if (finalised)
        return zero_fail(
            error, ZERO_ERR_ORDER,
            "MPI was already finalized and cannot start again in this process: keep a communicator until the end");
    MPI_Initialized(&initialised);
    if (!initialised) {
        code = MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
        if (code != MPI_SUCCESS)
            return zero_mpi_fail(error, "MPI_Init_thread", code);
        atomic_fetch_add(&mpi_users, 1);
        m->counted = true;
    } else if (atomic_load(&mpi_users) > 0) {
        atomic_fetch_add(&mpi_users, 1);
        m->counted = true;
    }
    MPI_Query_thread(&provided);
    m->multiple = provided == MPI_THREAD_MULTIPLE;
    if (!m->multiple)
        zero_log(options->log, options->log_ctx, ZERO_LOG_WARNING,
                 "MPI was initialized without MPI_THREAD_MULTIPLE: communicators over several nodes must "
                 "be used from one thread only (no threaded device)");
    return ZERO_OK;
}

/* A launcher that this MPI does not support starts ranks that see only themselves. Each would do all of the work. */
static zero_status_t check_alone(int size, zero_error_t *error)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"};
    for (size_t i = 0; i < sizeof names / sizeof *names && size == 1; i++) {
        const char *text = getenv(names[i]);
        if (text && atoi(text) > 1)
            return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                             "%s is '%s', but MPI sees one rank, because another MPI's launcher started it: use the "
                             "mpiexec of the MPI of this build, or srun --mpi=pmix",
                             names[i], text);
    }
    return ZERO_OK;
}

zero_status_t zero_mpi_open(zero_mpi_t **out, const void *comm, const zero_comm_options_t *options, zero_error_t *error)
{
    zero_status_t status;
    MPI_Request request;
    int code, found = 0, *max_tag = NULL;
    zero_mpi_t *m = calloc(1, sizeof *m);
    *out = NULL;
    if (!m)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for an MPI communicator");
    m->comm = MPI_COMM_NULL;
    m->timeout_s = options->timeout_s;
    atomic_store(&m->next_tag, 0);
    status = start(m, options, error);
    if (status)
        goto fail;
    code = MPI_Comm_idup(comm ? *(const MPI_Comm *)comm : MPI_COMM_WORLD, &m->comm, &request);
    if (code != MPI_SUCCESS) {
        status = zero_mpi_fail(error, "MPI_Comm_idup", code);
        goto fail;
    }
    status = wait_all(&request, 1, m->timeout_s, NULL, "duplication of the MPI communicator", error);
    if (status)
        return status; /* MPI may still write m->comm, so m is leaked */
    MPI_Comm_set_errhandler(m->comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(m->comm, &m->rank);
    MPI_Comm_size(m->comm, &m->size);
    MPI_Comm_get_attr(m->comm, MPI_TAG_UB, &max_tag, &found);
    m->max_tag = found ? *max_tag : 32767;
    status = comm ? ZERO_OK : check_alone(m->size, error);
    if (status == ZERO_OK)
        status = find_nodes(m, options, error);
    if (status)
        goto fail;
    *out = m;
    return ZERO_OK;
fail:
    zero_mpi_close(m, true);
    return status;
}

void zero_mpi_close(zero_mpi_t *m, bool aborted)
{
    if (!m)
        return;
    aborted = aborted || m->broken;
    if (m->comm != MPI_COMM_NULL && !aborted)
        MPI_Comm_free(&m->comm);
    if (m->counted && atomic_fetch_sub(&mpi_users, 1) == 1 && !aborted)
        MPI_Finalize();
    free(m->node);
    free(m);
}

/* ---- abort between nodes ---------------------------------------------------------------------------------------- */

static void far_abort(void *ctx, const zero_error_t *failure)
{
    zero_mpi_t *m = ctx;
    MPI_Request *requests = calloc((size_t)m->size, sizeof *requests);
    zero_error_t ignored;
    int count = 0;
    for (int r = 0; r < m->size && requests; r++)
        if (m->node[r] != m->node[m->rank] && MPI_Isend(failure, sizeof *failure, MPI_BYTE, r, ZERO_MPI_TAG_ABORT,
                                                        m->comm, &requests[count]) == MPI_SUCCESS)
            count++;
    /* Small messages leave at once; a rank that has ended does not need one. */
    if (count)
        zero_mpi_wait(requests, count, 1.0, NULL, "abort", &ignored);
    free(requests);
}

static void far_poll(void *ctx, zero_peers_t *peers)
{
    zero_mpi_t *m = ctx;
    zero_error_t failure;
    int there = 0;
    MPI_Message message;
    MPI_Request request;
    MPI_Status from;
    zero_error_t ignored;
    if (m->alone)
        return;
    /* A matched probe, so that two threads never receive the same message. */
    if (MPI_Improbe(MPI_ANY_SOURCE, ZERO_MPI_TAG_ABORT, m->comm, &there, &message, &from) != MPI_SUCCESS || !there)
        return;
    if (MPI_Imrecv(&failure, sizeof failure, MPI_BYTE, &message, &request) != MPI_SUCCESS ||
        zero_mpi_wait(&request, 1, 1.0, NULL, "abort", &ignored))
        return;
    failure.text[sizeof failure.text - 1] = 0;
    zero_peers_abort_node(peers, &failure);
}

static void far_close(void *ctx, bool aborted)
{
    zero_mpi_close(ctx, aborted);
}

const zero_far_ops_t zero_mpi_far_ops = {.abort = far_abort, .poll = far_poll, .close = far_close};
#endif
