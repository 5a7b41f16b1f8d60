/* SPDX-License-Identifier: Apache-2.0 */
/* nccl.cc - emulates NCCL without GPUs, for tests. Ranks are processes of one machine that share a file. "Kernels" are
 * functions on the emulator's streams. The emulator fails in the ways that NCCL's documentation and sources describe:
 * - A collective waits for the other ranks without a bound, and does not notice if one of them is gone. Only an abort
 *   of this rank's communicator ends it; then the stream continues.
 * - A call on a non-blocking communicator returns ncclInProgress, and a thread does the work. Until
 *   ncclCommGetAsyncError reports that it is done, the caller may call only this function and ncclCommAbort. Two
 *   threads that call on one communicator at the same time end the process.
 * - ncclCommSplit sets the new communicator when the parent is ready again.
 * - ncclCommWindowRegister waits for the other ranks, and sets the window when the communicator is ready again. The
 *   memory must be exportable and have the same size on each rank. A collective works at the same offset in each rank's
 *   window.
 * - The first transfer between two ranks connects them, and its call does not return before both ranks make it. Ranks
 *   whose first calls are not those of an all-to-all could wait for each other, so here they end the process.
 * - A send that meets no recv of the same size never ends.
 * - ncclCommAbort returns when the device is idle, so the work of other communicators must end too. Therefore the
 *   caller aborts several communicators in a group.
 * Sums are taken in rank order in fp32 and rounded once. NCCL does not promise this.
 *
 * ZERO_EMULATOR_NCCL is a list of faults of this process, separated by commas:
 *   version=N    the result of ncclGetVersion
 *   init-fails, init-hangs, split-hangs, finalize-hangs, id-fails
 *   window-hangs, no-windows (success without a window, as on GPUs without access to each other's memory)
 *   call-hangs=N the call of collective N does not return before the abort
 *   async=N:R    collective N gets stuck, and R is the communicator's error */
#include "tests/emulator/nccl_comm.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static thread_local int group_depth;
static thread_local std::vector<ncclComm *> group;
/* The all-to-all that a group's transfers are: by peer, the data. */
static thread_local struct {
    ncclComm *comm;
    cudaStream_t stream;
    uint64_t bytes;
    std::vector<const char *> send, recv;
} trade;

#pragma GCC visibility push(default)

extern "C" ncclResult_t ncclGetVersion(int *version)
{
    *version = fault("version") < 0 ? NCCL_VERSION_CODE : fault("version");
    return ncclSuccess;
}

extern "C" const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const names[] = {"no error",
                                        "unhandled cuda error",
                                        "unhandled system error",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "remote process exited or there was a network error",
                                        "NCCL operation in progress"};
    return result >= 0 && result <= ncclInProgress ? names[result] : "unknown result code";
}

extern "C" const char *ncclGetLastError(ncclComm_t)
{
    return the_process()->last_error;
}

extern "C" ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    static std::atomic<int> count;
    if (fault("id-fails") >= 0)
        return say(ncclSystemError, "no network interface");
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/dev/shm/zero-emulated-nccl-%d-%d", (int)getpid(), count++);
    return ncclSuccess;
}

extern "C" ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank,
                                               ncclConfig_t *config)
{
    if (!comm || ranks < 1 || ranks > RANKS || rank < 0 || rank >= ranks || !valid(config))
        return say(ncclInvalidArgument, "arguments of ncclCommInitRankConfig");
    ncclComm *c = *comm = make(id.internal, ranks, rank, config);
    call here(c);
    return launch(c, [=] {
        if (fault("init-hangs") >= 0)
            wait_for_ever(c);
        if (fault("init-fails") >= 0)
            c->async = say(ncclSystemError, "a socket was refused");
        else
            join(c);
    });
}

extern "C" ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *part, ncclConfig_t *config)
{
    call here(comm);
    if (!part || color < 0 || !valid(config))
        return say(ncclInvalidArgument, "arguments of ncclCommSplit");
    *part = nullptr;
    int number = ++comm->splits, device = comm->device;
    ncclConfig_t taken = NCCL_CONFIG_INITIALIZER;
    taken.blocking = config ? config->blocking : comm->blocking;
    taken.maxCTAs = config ? config->maxCTAs : NCCL_CONFIG_UNDEF_INT;
    launch(comm, [=] {
        cudaSetDevice(device);
        if (fault("split-hangs") >= 0)
            wait_for_ever(comm);
        int bid[2] = {color, key}, size = 0, rank = 0;
        memcpy(comm->shared->slot[comm->rank], bid, sizeof bid);
        if (!meet(comm))
            return;
        for (int r = 0; r < comm->size; r++) {
            int other[2];
            memcpy(other, comm->shared->slot[r], sizeof other);
            size += other[0] == color;
            rank += other[0] == color && (other[1] < key || (other[1] == key && r < comm->rank));
        }
        if (!meet(comm))
            return;
        ncclComm *c = make(comm->path + "-" + std::to_string(number) + "-" + std::to_string(color), size, rank, &taken);
        join(c);
        *part = c;
    });
    return ncclSuccess;
}

extern "C" ncclResult_t ncclCommCount(const ncclComm_t comm, int *count)
{
    call here(comm);
    *count = comm->size;
    return ncclSuccess;
}

extern "C" ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank)
{
    call here(comm);
    *rank = comm->rank;
    return ncclSuccess;
}

extern "C" ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int *device)
{
    call here(comm);
    *device = comm->device;
    return ncclSuccess;
}

extern "C" ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    call here(comm);
    *error = comm->busy && comm->async == ncclSuccess ? ncclInProgress : (ncclResult_t)comm->async.load();
    if (!comm->busy && comm->job.joinable())
        comm->job.join();
    return ncclSuccess;
}

static size_t size_of(ncclDataType_t type)
{
    return type == ncclUint8 ? 1 : type == ncclFloat32 ? 4 : 2;
}

extern "C" ncclResult_t ncclAllGather(const void *send, void *recv, size_t count, ncclDataType_t type, ncclComm_t comm,
                                      cudaStream_t stream)
{
    call here(comm);
    return enqueue(work{comm, work::GATHER, 0, count * size_of(type), type, 0, (const char *)send, (char *)recv},
                   stream);
}

extern "C" ncclResult_t ncclReduceScatter(const void *send, void *recv, size_t count, ncclDataType_t type,
                                          ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    call here(comm);
    if (op != ncclSum || type == ncclUint8)
        return say(ncclInvalidArgument, "arguments of ncclReduceScatter");
    return enqueue(work{comm, work::REDUCE, 0, count * size_of(type), type, 0, (const char *)send, (char *)recv},
                   stream);
}

/* Notes one side of a transfer of the group. The only groups are all-to-alls: one send to and one receive from each
 * rank, in rank order, of consecutive data. */
static ncclResult_t note(std::vector<const char *> &side, const char *data, size_t bytes, int peer, ncclComm_t comm,
                         cudaStream_t stream)
{
    if (peer != (int)side.size() || (peer > 0 && data != side[0] + (size_t)peer * bytes) ||
        (trade.comm && (trade.comm != comm || trade.stream != stream || trade.bytes != bytes)))
        die("a group of transfers that is not an all-to-all");
    trade.comm = comm;
    trade.stream = stream;
    trade.bytes = bytes;
    side.push_back(data);
    return ncclSuccess;
}

/* A send or recv alone, between the two ranks of a communicator; the other operand is NULL. */
static ncclResult_t move(const char *send, char *recv, size_t bytes, int peer, ncclComm_t comm, cudaStream_t stream)
{
    if (comm->size != 2 || peer != 1 - comm->rank || bytes == 0)
        die("a transfer that is not to the other one of two ranks");
    if (!comm->connected)
        die("a transfer between ranks that are not connected, whose call would wait for the other rank");
    return enqueue(work{comm, work::MOVE, 0, bytes, ncclUint8, 0, send, recv}, stream);
}

extern "C" ncclResult_t ncclSend(const void *send, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                                 cudaStream_t stream)
{
    call here(comm);
    const char *data = (const char *)send;
    return group_depth ? note(trade.send, data, count * size_of(type), peer, comm, stream)
                       : move(data, nullptr, count * size_of(type), peer, comm, stream);
}

extern "C" ncclResult_t ncclRecv(void *recv, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                                 cudaStream_t stream)
{
    call here(comm);
    char *data = (char *)recv;
    return group_depth ? note(trade.recv, data, count * size_of(type), peer, comm, stream)
                       : move(nullptr, data, count * size_of(type), peer, comm, stream);
}

static ncclResult_t enqueue_trade()
{
    ncclComm *c = trade.comm;
    call here(c);
    if ((int)trade.send.size() != c->size || (int)trade.recv.size() != c->size)
        die("an all-to-all without some of the ranks");
    work w = {c, work::TRADE, 0, trade.bytes, ncclUint8, 0, trade.send[0], const_cast<char *>(trade.recv[0])};
    cudaStream_t stream = trade.stream;
    trade = {};
    c->connected = true;
    return enqueue(w, stream);
}

extern "C" ncclResult_t ncclCommRegister(const ncclComm_t comm, void *base, size_t bytes, void **handle)
{
    call here(comm);
    check_memory(base);
    check_memory((char *)base + bytes - 1);
    *handle = base;
    comm->registered[(char *)base] = bytes;
    the_process()->registered++;
    return ncclSuccess;
}

extern "C" ncclResult_t ncclCommDeregister(const ncclComm_t comm, void *handle)
{
    call here(comm);
    if (comm->registered.erase((char *)handle) == 0)
        return say(ncclInvalidArgument, "what is deregistered was not registered");
    the_process()->registered--;
    return ncclSuccess;
}

/* Waits for all ranks. 1: all pass the same number of bytes. 0: the numbers differ. -1: after an abort. */
static int equal_bytes(ncclComm *c, uint64_t bytes)
{
    int equal = 1;
    memcpy(c->shared->slot[c->rank], &bytes, sizeof bytes);
    if (!meet(c))
        return -1;
    for (int r = 0; r < c->size; r++)
        equal = equal && memcmp(c->shared->slot[r], &bytes, sizeof bytes) == 0;
    return meet(c) ? equal : -1;
}

extern "C" ncclResult_t ncclCommWindowRegister(ncclComm_t comm, void *base, size_t bytes, ncclWindow_t *window,
                                               int flags)
{
    call here(comm);
    if (!base || bytes == 0 || !window || flags != NCCL_WIN_COLL_SYMMETRIC)
        return say(ncclInvalidArgument, "arguments of ncclCommWindowRegister");
    *window = nullptr;
    if (fault("no-windows") >= 0)
        return ncclSuccess;
    return launch(comm, [=] {
        if (fault("window-hangs") >= 0)
            wait_for_ever(comm);
        int equal = is_exportable(base) ? equal_bytes(comm, bytes) : 0;
        if (equal == 0)
            comm->async = say(ncclInvalidArgument, "memory of ncclCommWindowRegister");
        if (equal != 1)
            return;
        comm->windows[(char *)base] = bytes;
        *window = reinterpret_cast<ncclWindow_t>(base);
    });
}

extern "C" ncclResult_t ncclCommWindowDeregister(ncclComm_t comm, ncclWindow_t window)
{
    call here(comm);
    if (comm->pending)
        die("a window is deregistered while a collective runs");
    if (comm->windows.erase(reinterpret_cast<char *>(window)) == 0)
        return say(ncclInvalidArgument, "what is deregistered was no window");
    return ncclSuccess;
}

extern "C" ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    call here(comm);
    if (comm->finalized)
        return say(ncclInvalidArgument, "a second ncclCommFinalize");
    comm->finalized = true;
    return launch(comm, [=] {
        while ((comm->pending || fault("finalize-hangs") >= 0) && !comm->aborted)
            nap();
    });
}

extern "C" ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    if (!comm->registered.empty() || !comm->windows.empty())
        die("memory is still registered where a communicator is destroyed");
    wait_for_device();
    free_comm(comm);
    the_process()->destroyed++;
    return ncclSuccess;
}

extern "C" ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    if (group_depth)
        group.push_back(comm);
    else
        abort_comms({comm});
    return ncclSuccess;
}

extern "C" ncclResult_t ncclGroupStart(void)
{
    group_depth++;
    return ncclSuccess;
}

extern "C" ncclResult_t ncclGroupEnd(void)
{
    if (--group_depth == 0) {
        std::vector<ncclComm *> comms;
        comms.swap(group);
        abort_comms(comms);
        if (trade.comm)
            return enqueue_trade();
    }
    return ncclSuccess;
}

/* For tests: the number of communicators that exist, were aborted and were destroyed; of registrations; and of operands
 * outside all registrations. */
extern "C" void zero_emulated_nccl_counts(int *comms, int *aborted, int *destroyed, int *registered, int *elsewhere)
{
    std::lock_guard<std::mutex> lock(the_process()->mutex);
    *comms = (int)the_process()->comms.size();
    *aborted = the_process()->aborted;
    *destroyed = the_process()->destroyed;
    *registered = the_process()->registered;
    *elsewhere = the_process()->elsewhere;
}

/* For tests: the number of windows in this process. */
extern "C" int zero_emulated_nccl_windows(void)
{
    std::lock_guard<std::mutex> lock(the_process()->mutex);
    int count = 0;
    for (const ncclComm *c : the_process()->comms)
        count += (int)c->windows.size();
    return count;
}

/* For tests: the largest and the smallest CTA limit of any communicator of this process. INT_MAX if a config leaves it
 * unset. */
extern "C" int zero_emulated_nccl_most_ctas(void)
{
    return the_process()->most_ctas;
}

extern "C" int zero_emulated_nccl_least_ctas(void)
{
    return the_process()->least_ctas;
}

#pragma GCC visibility pop
