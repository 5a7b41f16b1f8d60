/* nccl.cc - NCCL without GPUs, for tests: ranks are processes of one machine, which share a file, and "kernels" are functions on the emulator's
 * streams. What matters is how it can fail, which is as NCCL's documentation and sources have it:
 * - A collective waits for the other ranks for ever; that one of them is gone does not show. Only an abort of this rank's communicator ends it,
 *   and then the stream goes on.
 * - Calls on a non-blocking communicator return ncclInProgress, and a thread does them; until ncclCommGetAsyncError has said that they are done,
 *   only that and ncclCommAbort may be called. Two threads in calls on one communicator end the process.
 * - ncclCommSplit sets the new communicator when the parent is ready again.
 * - ncclCommAbort returns when the device is idle: also what other communicators run has to end. So several are aborted in a group.
 * Sums are taken in rank order in fp32, rounded once, which NCCL does not promise.
 *
 * ZERO_EMULATOR_NCCL is a list of faults of this process, separated by commas:
 *   version=N    what ncclGetVersion says
 *   init-fails, init-hangs, split-hangs, finalize-hangs, id-fails
 *   call-hangs=N the N-th collective's call does not return before the abort
 *   async=N:R    the N-th collective gets stuck, and R is the communicator's error
 */
#include "tests/emulator/emulator.h"
#include "tests/emulator/include/nccl.h"

#include <atomic>
#include <fcntl.h>
#include <mutex>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>

extern "C" {
#include "zero/base/base.h"
}

namespace {

enum { RANKS = 16, CHUNK = 1 << 16 };

/* What the ranks of a communicator share. */
struct board {
    std::atomic<int> joined;
    struct {
        alignas(128) std::atomic<uint64_t> arrived;
    } rank[RANKS];
    char slot[RANKS][CHUNK];
};

[[noreturn]] void die(const char *what)
{
    fprintf(stderr, "emulated NCCL: %s\n", what);
    abort();
}

void nap()
{
    std::this_thread::sleep_for(std::chrono::microseconds(20));
}

/* The value of fault `name`, or -1 where it was not asked for; second: of the number behind a colon. */
int fault(const char *name, int *second = nullptr)
{
    const char *faults = getenv("ZERO_EMULATOR_NCCL");
    size_t length = strlen(name);
    for (const char *p = faults; p && *p; p = strchr(p, ',') ? strchr(p, ',') + 1 : nullptr)
        if (strncmp(p, name, length) == 0 && strchr("=,", p[length])) {
            int value = 1, other = 0;
            sscanf(p + length, "=%d:%d", &value, &other);
            if (second)
                *second = other;
            return value;
        }
    return -1;
}

} // namespace

struct ncclComm {
    std::string path;
    board *shared = nullptr;
    int size = 0, rank = 0, device = 0;
    bool blocking = true, finalized = false;
    std::atomic<bool> aborted{false}, busy{false};
    std::atomic<int> async{ncclSuccess}, pending{0}, inside{0};
    std::atomic<uint64_t> turn{0};  /* of the collective that may run */
    uint64_t issued = 0, arrivals = 0;
    int splits = 0;
    std::thread job;
    std::set<void *> registered;
};

namespace {

struct process {
    std::mutex mutex;
    std::set<ncclComm *> comms;
    std::atomic<int> collectives{0}, registered{0}, aborted{0}, destroyed{0};
    char last_error[200] = "";
};

process *the_process()
{
    static process *p = new process();
    return p;
}

thread_local int group_depth;
thread_local std::vector<ncclComm *> group;

ncclResult_t say(ncclResult_t r, const char *what)
{
    snprintf(the_process()->last_error, sizeof the_process()->last_error, "%s", what);
    return r;
}

/* A call on a communicator, which is alone there. */
struct call {
    ncclComm *c;
    explicit call(ncclComm *c) : c(c)
    {
        {
            std::lock_guard<std::mutex> lock(the_process()->mutex);
            if (!the_process()->comms.count(c))
                die("a call on a communicator that does not exist (any more)");
        }
        if (c->inside.fetch_add(1) != 0)
            die("two threads are in calls on one communicator");
    }
    ~call() { c->inside.fetch_sub(1); }
};

/* Does work now, or for a non-blocking communicator in a thread. */
template <typename F> ncclResult_t launch(ncclComm *c, F work)
{
    if (c->blocking) {
        work();
        return (ncclResult_t)c->async.load();
    }
    if (c->job.joinable())
        die("a call on a communicator that is in progress");
    c->busy = true;
    c->job = std::thread([=] {
        work();
        c->busy = false;
    });
    return ncclInProgress;
}

/* Until every rank came here as often as this one; false once aborted. */
bool meet(ncclComm *c)
{
    uint64_t mine = ++c->arrivals;
    c->shared->rank[c->rank].arrived = mine;
    for (int r = 0; r < c->size; r++)
        while (c->shared->rank[r].arrived < mine) {
            if (c->aborted)
                return false;
            nap();
        }
    return !c->aborted;
}

void wait_for_ever(ncclComm *c)
{
    while (!c->aborted)
        nap();
}

/* ---- communicators --------------------------------------------------------------------------------------------------------------- */

ncclComm *make(const std::string &path, int size, int rank, const ncclConfig_t *config)
{
    ncclComm *c = new ncclComm();
    c->path = path;
    c->size = size;
    c->rank = rank;
    c->blocking = !config || config->blocking != 0;
    cudaGetDevice(&c->device);
    std::lock_guard<std::mutex> lock(the_process()->mutex);
    the_process()->comms.insert(c);
    return c;
}

/* Opens the file that the ranks share, and waits until they all did. */
void join(ncclComm *c)
{
    int fd = open(c->path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(board)) != 0)
        die("the ranks' file cannot be opened");
    void *p = mmap(nullptr, sizeof(board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (p == MAP_FAILED)
        die("the ranks' file cannot be mapped");
    c->shared = static_cast<board *>(p);
    if (++c->shared->joined == c->size)
        unlink(c->path.c_str());
    while (c->shared->joined < c->size && !c->aborted)
        nap();
}

bool valid(const ncclConfig_t *config)
{
    return !config || (config->size >= sizeof(ncclConfig_t) && config->magic == NCCL_CONFIG_MAGIC);
}

void free_comm(ncclComm *c)
{
    if (c->job.joinable())
        c->job.join();
    {
        std::lock_guard<std::mutex> lock(the_process()->mutex);
        the_process()->comms.erase(c);
    }
    if (c->shared) {
        if (c->shared->joined < c->size)
            unlink(c->path.c_str());
        munmap(c->shared, sizeof(board));
    }
    delete c;
}

/* No communicator of this process has a kernel on the device, as where memory of the device is freed. */
void wait_for_device()
{
    for (;; nap()) {
        bool idle = true;
        std::lock_guard<std::mutex> lock(the_process()->mutex);
        for (ncclComm *c : the_process()->comms)
            idle = idle && c->pending == 0;
        if (idle)
            return;
    }
}

void abort_comms(const std::vector<ncclComm *> &comms)
{
    for (ncclComm *c : comms)
        c->aborted = true;
    wait_for_device();
    for (ncclComm *c : comms) {
        if (c->inside && fault("call-hangs") < 0)
            die("a communicator is aborted while a thread is in a call on it");
        while (c->inside)
            nap();
        free_comm(c);
        the_process()->aborted++;
    }
}

/* ---- collectives ----------------------------------------------------------------------------------------------------------------- */

struct work {
    ncclComm *c;
    enum { GATHER, REDUCE, BROADCAST } kind;
    uint64_t number, bytes; /* of a slice */
    ncclDataType_t type;
    int root, global;
    const char *send; /* NULL: this rank has nothing to send */
    char *recv;
};

float load(const char *p, ncclDataType_t type)
{
    uint16_t h;
    float f;
    memcpy(&f, p, type == ncclFloat32 ? 4 : 0);
    memcpy(&h, p, 2);
    return type == ncclFloat32 ? f : type == ncclBfloat16 ? zero_bf16_to_fp32(h) : zero_fp16_to_fp32(h);
}

void store(char *p, ncclDataType_t type, float f)
{
    uint16_t h = type == ncclBfloat16 ? zero_fp32_to_bf16(f) : zero_fp32_to_fp16(f);
    if (type == ncclFloat32)
        memcpy(p, &f, 4);
    else
        memcpy(p, &h, 2);
}

/* Bytes [at, at + size) of every rank's part number part go round: true where they are all in the slots. */
bool show(work *w, uint64_t part, uint64_t at, uint64_t size)
{
    if (w->send) {
        emulator_enter();
        memcpy(w->c->shared->slot[w->c->rank], w->send + part * w->bytes + at, size);
        emulator_leave();
    }
    return meet(w->c);
}

/* What the slots mean for this rank. */
void take(work *w, bool own, uint64_t at, uint64_t size)
{
    ncclComm *c = w->c;
    uint64_t element = w->type == ncclFloat32 ? 4 : 2;
    emulator_enter();
    if (w->kind == work::GATHER)
        for (int r = 0; r < c->size; r++)
            memcpy(w->recv + (uint64_t)r * w->bytes + at, c->shared->slot[r], size);
    else if (w->kind == work::BROADCAST)
        memcpy(w->recv + at, c->shared->slot[w->root], size);
    for (uint64_t i = 0; w->kind == work::REDUCE && own && i < size; i += element) {
        float sum = load(c->shared->slot[0] + i, w->type);
        for (int r = 1; r < c->size; r++)
            sum += load(c->shared->slot[r] + i, w->type);
        store(w->recv + at + i, w->type, sum);
    }
    emulator_leave();
}

/* The kernel. */
void run(work *w)
{
    ncclComm *c = w->c;
    int code = 0;
    while (c->turn != w->number && !c->aborted)
        nap();
    if (w->global == fault("async", &code)) {
        c->async = code;
        say((ncclResult_t)code, "as the test wanted");
        wait_for_ever(c);
    }
    for (uint64_t at = 0; at < w->bytes && !c->aborted; at += CHUNK) {
        uint64_t size = std::min<uint64_t>(CHUNK, w->bytes - at);
        for (int part = 0; part < (w->kind == work::REDUCE ? c->size : 1) && show(w, (uint64_t)part, at, size); part++) {
            take(w, part == c->rank, at, size);
            if (!meet(c))
                break;
        }
    }
    c->turn++;
    c->pending--;
    delete w;
}

void check_memory(const void *p)
{
    cudaPointerAttributes at;
    if (cudaPointerGetAttributes(&at, p) != cudaSuccess || at.type == cudaMemoryTypeUnregistered)
        die("an operand lies in memory that the device cannot reach");
}

ncclResult_t enqueue(work w, cudaStream_t stream)
{
    ncclComm *c = w.c;
    if (c->async != ncclSuccess)
        return (ncclResult_t)c->async.load();
    w.global = ++the_process()->collectives;
    if (w.global == fault("call-hangs"))
        wait_for_ever(c);
    if (c->aborted)
        return ncclRemoteError;
    w.number = c->issued++;
    check_memory(w.send ? w.send : w.recv);
    check_memory(w.recv);
    c->pending++;
    work *queued = new work(w);
    return launch(c, [=] {
        cudaSetDevice(c->device);
        if (cudaLaunchHostFunc(stream, [](void *p) { run(static_cast<work *>(p)); }, queued) != cudaSuccess) {
            c->pending--;
            delete queued;
            c->async = say(ncclUnhandledCudaError, "cudaLaunchHostFunc");
        }
    });
}

} // namespace

#pragma GCC visibility push(default)

extern "C" ncclResult_t ncclGetVersion(int *version)
{
    *version = fault("version") < 0 ? NCCL_VERSION_CODE : fault("version");
    return ncclSuccess;
}

extern "C" const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const names[] = {"no error", "unhandled cuda error", "unhandled system error", "internal error", "invalid argument",
                                        "invalid usage", "remote process exited or there was a network error", "NCCL operation in progress"};
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

extern "C" ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config)
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
    if (comm->busy)
        *error = ncclInProgress;
    else {
        if (comm->job.joinable())
            comm->job.join();
        *error = (ncclResult_t)comm->async.load();
    }
    return ncclSuccess;
}

static size_t size_of(ncclDataType_t type)
{
    return type == ncclUint8 ? 1 : type == ncclFloat32 ? 4 : 2;
}

extern "C" ncclResult_t ncclAllGather(const void *send, void *recv, size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream)
{
    call here(comm);
    return enqueue(work{comm, work::GATHER, 0, count * size_of(type), type, 0, 0, (const char *)send, (char *)recv}, stream);
}

extern "C" ncclResult_t ncclReduceScatter(const void *send, void *recv, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                                          cudaStream_t stream)
{
    call here(comm);
    if (op != ncclSum || type == ncclUint8)
        return say(ncclInvalidArgument, "arguments of ncclReduceScatter");
    return enqueue(work{comm, work::REDUCE, 0, count * size_of(type), type, 0, 0, (const char *)send, (char *)recv}, stream);
}

extern "C" ncclResult_t ncclBroadcast(const void *send, void *recv, size_t count, ncclDataType_t type, int root, ncclComm_t comm, cudaStream_t stream)
{
    call here(comm);
    const char *from = comm->rank == root ? (const char *)send : nullptr;
    return enqueue(work{comm, work::BROADCAST, 0, count * size_of(type), type, root, 0, from, (char *)recv}, stream);
}

extern "C" ncclResult_t ncclCommRegister(const ncclComm_t comm, void *base, size_t, void **handle)
{
    call here(comm);
    check_memory(base);
    *handle = base;
    comm->registered.insert(base);
    the_process()->registered++;
    return ncclSuccess;
}

extern "C" ncclResult_t ncclCommDeregister(const ncclComm_t comm, void *handle)
{
    call here(comm);
    if (comm->registered.erase(handle) == 0)
        return say(ncclInvalidArgument, "what is deregistered was not registered");
    the_process()->registered--;
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
    if (!comm->registered.empty())
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
    }
    return ncclSuccess;
}

/* For tests: how many communicators there are, and what became of others, and registrations. */
extern "C" void zero_emulated_nccl_counts(int *comms, int *aborted, int *destroyed, int *registered)
{
    std::lock_guard<std::mutex> lock(the_process()->mutex);
    *comms = (int)the_process()->comms.size();
    *aborted = the_process()->aborted;
    *destroyed = the_process()->destroyed;
    *registered = the_process()->registered;
}

#pragma GCC visibility pop
