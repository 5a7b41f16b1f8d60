/* SPDX-License-Identifier: Apache-2.0 */
/* comm.h - a communicator: collectives over flat buffers. Backends: self.c, shm.c, mpi.c, nccl.c, and staged.c around
 * another; tcp.c has only what needs no data: exchange, split, abort, check (caps say neither kind of pointers).
 *
 * On CPU a collective runs on the thread that calls it and returns when this rank's part is done: what it sent may be
 * reused, what it received is there. Calls on one communicator come in the same order on every rank, from one thread at
 * a time; different communicators (zero_comm_split gives independent ones) may be used from different threads at once.
 * Every wait is bounded by the options' timeout and polls the abort word: ZERO_ERR_TIMEOUT names the operation and the
 * late ranks, ZERO_ERR_PEER carries the failed rank's sentence. A rank that vanished (its process is gone) is noticed
 * by the shm backend within seconds and named. Reductions add ranks 0 ... N-1 in that order in fp32 and round once,
 * whatever the backend or the nodes (but nccl).
 *
 * Ranks that make different calls get ZERO_ERR_MISMATCH, or ZERO_ERR_PEER once somebody aborts because of it: at its
 * begin a collective compares its kind, its bytes and the caller's note on all ranks (compare.h). NCCL's collectives
 * cannot; an exchange beside them compares.
 *
 * With device pointers (caps) a collective is work on `native`, a stream of the device: it runs behind what was queued
 * there, and what is queued there later runs behind it; nothing is known of it on return. A failure that comes later
 * ends it all the same, so that the stream goes on with contents that do not count: whoever waited for a stream asks
 * check, which may then return ZERO_ERR_TIMEOUT or ZERO_ERR_SYSTEM as well: what this rank alone knows, until abort
 * publishes it.
 */
#ifndef ZERO_COMM_COMM_H
#define ZERO_COMM_COMM_H

#include "zero/base/base.h"

/* What a rank does in a collective, as its caller has it. Ranks compare the key; the words are for a sentence about
 * ranks that differ. */
enum { ZERO_COMM_WORDS = 24 };
typedef struct zero_comm_note {
    uint64_t key; /* not 0 */
    uint64_t words[ZERO_COMM_WORDS];
} zero_comm_note_t;

typedef struct zero_comm_ops {
    /* recv (size * bytes) gets every rank's bytes in rank order. In place: send == recv + rank * bytes. bytes 0 is
     * legal. */
    zero_status_t (*all_gather)(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, void *native,
                                zero_error_t *error);
    /* recv (count) gets the sum over ranks of send[rank * count ...] (size * count elements). In place: recv == send +
     * rank * count; the rest of send then keeps its values. */
    zero_status_t (*reduce_scatter)(zero_comm_t *c, const void *send, void *recv, int64_t count, zero_dtype_t dtype,
                                    void *native, zero_error_t *error);
    /* Host memory, small (at most 64 KiB per rank fast, any size legal): an all-gather. */
    zero_status_t (*exchange)(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, zero_error_t *error);
    zero_status_t (*split)(zero_comm_t *c, int color, int key, zero_comm_t **out, zero_error_t *error);
    void (*abort)(zero_comm_t *c, const char *sentence);
    /* ZERO_OK, or ZERO_ERR_PEER with the sentence of the rank that failed. From any thread, beside any other operation.
     */
    zero_status_t (*check)(zero_comm_t *c, zero_error_t *error);
    /* Resident bytes of this rank's rings, as the system reports them. */
    uint64_t (*ring_resident)(const zero_comm_t *c);
    /* The same of other ranks' rings that are mapped here: part of this process's resident bytes, but theirs to count.
     */
    uint64_t (*peers_resident)(const zero_comm_t *c);
    /* For sentences about ranks that are late: tell leaves a word (not 0) for the ranks of this node, told reads a
     * rank's last one (0: none, or it is on another node). The word is shared by a communicator and what was split from
     * it; tell comes from one thread at a time. */
    void (*tell)(zero_comm_t *c, uint64_t word);
    uint64_t (*told)(const zero_comm_t *c, int rank);
    /* NULL, or takes note of memory [base, base + bytes) of the device that operands will lie in, so that they need no
     * copies on their way. It lasts as long as the communicator. Collective: every rank calls it, as often as the
     * others, with as many bytes. Where the transport refuses the memory there is a warning in the log, and no more. An
     * error ends the communicator, and the other ranks hear of it. */
    zero_status_t (*attach)(zero_comm_t *c, void *base, uint64_t bytes, zero_error_t *error);
    void (*destroy)(zero_comm_t *c);
} zero_comm_ops_t;

/* Every backend's struct begins with this. The abort word is shared by a communicator and what was split from it. */
struct zero_comm {
    const zero_comm_ops_t *ops;
    zero_comm_caps_t caps;
    zero_comm_options_t options;
    int rank, size;
    bool one_thread; /* no check from other threads: an MPI over several nodes without MPI_THREAD_MULTIPLE */
    bool uncompared; /* all_gather and reduce_scatter do not compare: NCCL's */
    const zero_comm_note_t *note; /* of the next collective: the caller's, who sets it; NULL: none */
    struct {
        int rank;
        zero_comm_note_t note;
    } other;                 /* after ZERO_ERR_MISMATCH: a rank that is in another collective, and its note */
    uint64_t bytes_received; /* from other ranks in all_gather, since the start */
    uint64_t bytes_reduced;  /* from other ranks in reduce_scatter: (size - 1) * count * dtype size each */
};

/* Caps of a communicator that does not exist (planning for another world): name is "self", "shm", "mpi" or "nccl". */
zero_status_t zero_comm_describe(const char *name, int world, const zero_comm_options_t *options,
                                 zero_comm_caps_t *caps, zero_error_t *error);

#endif
