/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_comm.h - internals of nccl.cc: communicators, faults, and collectives (nccl_comm.cc). */
#ifndef ZERO_EMULATOR_NCCL_COMM_H
#define ZERO_EMULATOR_NCCL_COMM_H

#include "tests/emulator/emulator.h"
#include "tests/emulator/include/nccl.h"

#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

enum { RANKS = 16, CHUNK = 1 << 16 };

/* The memory that the ranks of a communicator share. */
struct board {
    std::atomic<int> joined;
    struct {
        alignas(128) std::atomic<uint64_t> arrived;
    } rank[RANKS];
    char slot[RANKS][CHUNK];
};

struct ncclComm {
    std::string path;
    board *shared = nullptr;
    int size = 0, rank = 0, device = 0;
    bool blocking = true, finalized = false, connected = false;
    std::atomic<bool> aborted{false}, busy{false};
    std::atomic<int> async{ncclSuccess}, pending{0}, inside{0};
    std::atomic<uint64_t> turn{0}; /* the number of the collective that may run */
    uint64_t issued = 0, arrivals = 0;
    int splits = 0;
    std::thread job;
    std::map<const char *, uint64_t> registered, windows; /* start address and bytes */
};

/* The NCCL state of a process. */
struct process {
    std::mutex mutex;
    std::set<ncclComm *> comms;
    std::atomic<int> collectives{0}, registered{0}, elsewhere{0}, aborted{0}, destroyed{0};
    std::atomic<int> most_ctas{0}, least_ctas{INT_MAX}; /* the limits in the configs of all communicators */
    std::atomic<const char *> last_error{""};
};

process *the_process();

[[noreturn]] void die(const char *what);
void nap();
/* The value of fault `name`, or -1 if it is not set. second: the number after a colon. */
int fault(const char *name, int *second = nullptr);
/* Makes what the text of ncclGetLastError, and returns r. what must have static lifetime. */
ncclResult_t say(ncclResult_t r, const char *what);

/* A call on a communicator. Two calls at the same time are an error. */
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
    ~call()
    {
        c->inside.fetch_sub(1);
    }
};

/* Runs work at once, or in a thread for a non-blocking communicator. */
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

/* Waits until each rank has called this as often as this rank. false after an abort. */
bool meet(ncclComm *c);
/* Waits until an abort. */
void wait_for_ever(ncclComm *c);

bool valid(const ncclConfig_t *config);
ncclComm *make(const std::string &path, int size, int rank, const ncclConfig_t *config);
/* Opens the file that the ranks share, and waits until all ranks have opened it. */
void join(ncclComm *c);
void free_comm(ncclComm *c);
/* Waits until no communicator of this process has a kernel on the device, as a call that frees device memory does. */
void wait_for_device();
void abort_comms(const std::vector<ncclComm *> &comms);

/* A collective or transfer. */
struct work {
    ncclComm *c;
    /* TRADE: an all-to-all. MOVE: a send or a recv; the other operand is NULL. */
    enum { GATHER, REDUCE, TRADE, MOVE } kind;
    uint64_t number, bytes; /* bytes: of a slice */
    ncclDataType_t type;
    int global;
    const char *send;
    char *recv;
};

void check_memory(const void *p);
/* Whether other processes can map the memory at p. */
bool is_exportable(void *p);
ncclResult_t enqueue(work w, cudaStream_t stream);

#endif
