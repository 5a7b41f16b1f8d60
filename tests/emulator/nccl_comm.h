/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_comm.h - what nccl.cc's functions are made of: communicators, faults, and collectives (nccl_comm.cc). */
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

/* What the ranks of a communicator share. */
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
    bool blocking = true, finalized = false;
    std::atomic<bool> aborted{false}, busy{false};
    std::atomic<int> async{ncclSuccess}, pending{0}, inside{0};
    std::atomic<uint64_t> turn{0}; /* of the collective that may run */
    uint64_t issued = 0, arrivals = 0;
    int splits = 0;
    std::thread job;
    std::map<const char *, uint64_t> registered, windows; /* bytes from there on */
};

/* What a process has of NCCL. */
struct process {
    std::mutex mutex;
    std::set<ncclComm *> comms;
    std::atomic<int> collectives{0}, registered{0}, elsewhere{0}, aborted{0}, destroyed{0};
    std::atomic<int> most_ctas{0}; /* what a communicator's config allows, the largest of all */
    std::atomic<const char *> last_error{""};
};

process *the_process();

[[noreturn]] void die(const char *what);
void nap();
/* The value of fault `name`, or -1 where it was not asked for; second: of the number behind a colon. */
int fault(const char *name, int *second = nullptr);
/* Makes what, which lasts, ncclGetLastError's words; returns r. */
ncclResult_t say(ncclResult_t r, const char *what);

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
    ~call()
    {
        c->inside.fetch_sub(1);
    }
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
bool meet(ncclComm *c);
/* Until aborted. */
void wait_for_ever(ncclComm *c);

bool valid(const ncclConfig_t *config);
ncclComm *make(const std::string &path, int size, int rank, const ncclConfig_t *config);
/* Opens the file that the ranks share, and waits until they all did. */
void join(ncclComm *c);
void free_comm(ncclComm *c);
/* No communicator of this process has a kernel on the device, as where memory of the device is freed. */
void wait_for_device();
void abort_comms(const std::vector<ncclComm *> &comms);

/* A collective. */
struct work {
    ncclComm *c;
    enum { GATHER, REDUCE } kind;
    uint64_t number, bytes; /* of a slice */
    ncclDataType_t type;
    int global;
    const char *send;
    char *recv;
};

void check_memory(const void *p);
/* Whether p lies in memory that other processes can map. */
bool is_exportable(void *p);
ncclResult_t enqueue(work w, cudaStream_t stream);

#endif
