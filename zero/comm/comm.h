/* SPDX-License-Identifier: Apache-2.0 */
/* comm.h - a communicator: collectives over flat buffers. It has two halves. Its control lets the ranks exchange small
 * values, split, and hear of failures: self.c, shm.c, mpi.c, tcp.c. Its data moves buffers: those three but tcp.c for
 * host memory, nccl.c and staged.c for a device's.
 *
 * On CPU a collective runs on the thread that calls it and returns when this rank's part is done: what it sent may be
 * reused, what it received is there. Calls on one communicator come in the same order on every rank, from one thread at
 * a time; different communicators (zero_comm_split gives independent ones) may be used from different threads at once.
 * Every wait is bounded by the options' timeout and polls the abort word: ZERO_ERR_TIMEOUT names the operation and the
 * late ranks, ZERO_ERR_PEER carries the failed rank's sentence. A rank that vanished (its process is gone) is noticed
 * by the shm backend within seconds and named. Reductions add ranks 0 ... N-1 in that order in fp32 and round once,
 * whatever the backend or the nodes (but nccl). After the first failure the ranks are out of step, so every later
 * exchange and collective fails alike.
 *
 * Ranks that make different calls get ZERO_ERR_MISMATCH, or ZERO_ERR_PEER once somebody aborts because of it: at its
 * begin a collective compares its kind, its bytes and the caller's note on all ranks (compare.h). NCCL's collectives
 * cannot; an exchange beside them compares.
 *
 * With device pointers (caps) a collective is work on `native`, a stream of the device: it runs behind what was queued
 * there, and what is queued there later runs behind it. The call only enqueues. If the collective fails later, the
 * stream still completes, but the contents of the buffers are undefined: whoever waited for a stream asks
 * zero_comm_check, which may then return ZERO_ERR_TIMEOUT or ZERO_ERR_SYSTEM as well: what this rank alone knows, until
 * an abort publishes it.
 */
#ifndef ZERO_COMM_COMM_H
#define ZERO_COMM_COMM_H

#include "zero/base/latch.h"

/* What a rank does in a collective, as its caller has it. Ranks compare the key; the words are for a sentence about
 * ranks that differ. */
enum { ZERO_COMM_WORDS = 24 };
typedef struct zero_comm_note {
    uint64_t key; /* not 0 */
    uint64_t words[ZERO_COMM_WORDS];
} zero_comm_note_t;

/* The ranks of a communicator that a split puts together: members[0 .. size) of it, of which this rank is
 * members[rank]. */
typedef struct zero_subset {
    const int *members;
    int size, rank;
} zero_subset_t;

typedef struct zero_control zero_control_t;

/* What a control does. Its object is c->control. */
typedef struct zero_control_ops {
    /* An all-gather of host memory: small values fast, any size legal. */
    zero_status_t (*exchange)(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, zero_error_t *error);
    /* Gives out, a communicator of the part's rank and size, a control, caps, and data of host memory where this
     * control has any. Collective over c; all fail together. */
    zero_status_t (*split)(zero_comm_t *c, const zero_subset_t *part, zero_comm_t *out, zero_error_t *error);
    /* Publishes a failure, of this rank where its rank is -1. The first one stays. */
    void (*abort)(zero_comm_t *c, const zero_error_t *failure);
    zero_status_t (*check)(zero_comm_t *c, zero_error_t *error);
    /* NULL, both: ranks share no memory. */
    void (*publish)(zero_comm_t *c, uint64_t word);
    uint64_t (*progress)(const zero_comm_t *c, int rank);
    /* NULL (there are no rings), or resident bytes of this rank's rings, and of others' rings as mapped here. */
    void (*resident)(const zero_comm_t *c, uint64_t *own, uint64_t *others);
    void (*destroy)(zero_control_t *control);
} zero_control_ops_t;

/* What data does. Its object is c->state, but host memory moves with what c->control has. */
typedef struct zero_data_ops {
    zero_status_t (*all_gather)(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, void *native,
                                zero_error_t *error);
    zero_status_t (*reduce_scatter)(zero_comm_t *c, const void *send, void *recv, int64_t count, zero_dtype_t dtype,
                                    void *native, zero_error_t *error);
    /* NULL, or takes note of memory [base, base + bytes) of the device that operands will lie in, so that they need no
     * copies on their way. It lasts as long as the communicator. Collective: every rank calls it, as often as the
     * others, with as many bytes. Where the transport refuses the memory there is a warning in the log, and no more. An
     * error ends the communicator, and the other ranks hear of it. */
    zero_status_t (*attach)(zero_comm_t *c, void *base, uint64_t bytes, zero_error_t *error);
    /* NULL where a collective is over when its call returns. Otherwise returns the first failure of collectives on
     * their way. *found, if not NULL, becomes that failure unless there is one; it ends them. */
    zero_status_t (*failure)(zero_comm_t *c, const zero_error_t *found, zero_error_t *error);
    /* NULL: the data that the control gave to out stays. Or gives out the like of c's. */
    zero_status_t (*split)(zero_comm_t *c, const zero_subset_t *part, zero_comm_t *out, zero_error_t *error);
    /* NULL, or resident bytes that this adds to the control's rings. */
    uint64_t (*resident)(const zero_comm_t *c);
    void (*destroy)(zero_comm_t *c); /* NULL: there is no state */
} zero_data_ops_t;

/* Every control's struct begins with this. The abort word is shared by a control and what was split from it. */
struct zero_control {
    const zero_control_ops_t *ops;
    const zero_data_ops_t *host; /* moves host memory; NULL: these ranks have no way to */
    zero_comm_options_t options;
    zero_latch_t failed; /* the first exchange or collective that failed */
    bool one_thread;     /* no check from other threads: an MPI over several nodes without MPI_THREAD_MULTIPLE */
};

struct zero_comm {
    zero_control_t *control;
    bool borrowed;               /* the control is another communicator's, which outlives this one */
    const zero_data_ops_t *data; /* NULL: moves none */
    void *state;
    zero_comm_caps_t caps;
    zero_comm_options_t options;
    int rank, size;
    bool uncompared;              /* data's collectives do not compare: NCCL's */
    const zero_comm_note_t *note; /* of the next collective: the caller's, who sets it; NULL: none */
    struct {
        int rank;
        zero_comm_note_t note;
    } other;                 /* after ZERO_ERR_MISMATCH: a rank that is in another collective, and its note */
    uint64_t bytes_received; /* from other ranks in all_gather, since the start */
    uint64_t bytes_reduced;  /* from other ranks in reduce_scatter: (size - 1) * count * dtype size each */
};

/* ---- data ------------------------------------------------------------------------------------------------------- */

/* recv (size * bytes) gets every rank's bytes in rank order. In place: send == recv + rank * bytes. bytes 0 is legal.
 */
zero_status_t zero_comm_all_gather(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, void *native,
                                   zero_error_t *error);
/* recv (count) gets the sum over ranks of send[rank * count ...] (size * count elements). In place: recv == send +
 * rank * count; the rest of send then keeps its values. */
zero_status_t zero_comm_reduce_scatter(zero_comm_t *c, const void *send, void *recv, int64_t count, zero_dtype_t dtype,
                                       void *native, zero_error_t *error);
/* The memory of the device that operands will lie in; see attach above. */
zero_status_t zero_comm_attach(zero_comm_t *c, void *base, uint64_t bytes, zero_error_t *error);

/* ---- control ---------------------------------------------------------------------------------------------------- */

/* zero_comm_exchange for a caller who, after ZERO_ERR_MISMATCH, publishes a sentence of its own. */
zero_status_t zero_control_exchange(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, zero_error_t *error);
/* The failure as ZERO_ERR_PEER, of this rank among the first communicator's where its rank is -1: what is published. */
zero_error_t zero_comm_own(const zero_error_t *failure, int rank);
/* zero_comm_abort with a whole failure. */
void zero_comm_fail(zero_comm_t *c, const zero_error_t *failure);
/* ZERO_OK, or ZERO_ERR_PEER with the failure that a rank published; on a device also what failed there. From any
 * thread, beside any other operation. */
zero_status_t zero_comm_check(zero_comm_t *c, zero_error_t *error);
/* For sentences about ranks that are late: zero_comm_publish leaves a word (not 0) for the ranks of this node,
 * zero_comm_progress reads a rank's last one (0: none, or it is on another node). The word is shared by a communicator
 * and what was split from it; one thread at a time publishes. */
void zero_comm_publish(zero_comm_t *c, uint64_t word);
uint64_t zero_comm_progress(const zero_comm_t *c, int rank);
/* Resident bytes, as the system reports them: own, of this rank's rings and pinned memory; others, of other ranks'
 * rings that are mapped here: part of this process's resident bytes, but theirs to count. */
void zero_comm_resident(const zero_comm_t *c, uint64_t *own, uint64_t *others);

/* Caps of a communicator that does not exist (planning for another world): name is "self", "shm", "mpi" or "nccl". */
zero_status_t zero_comm_describe(const char *name, int world, const zero_comm_options_t *options,
                                 zero_comm_caps_t *caps, zero_error_t *error);

#endif
