/* SPDX-License-Identifier: Apache-2.0 */
/* comm.h - a communicator: collectives over flat buffers, and transfers from one rank to another. It has two halves.
 * Its control exchanges small values, splits and reports failures: self.c, shm.c, mpi.c, tcp.c. Its data moves buffers:
 * self.c, shm.c and mpi.c move host memory, nccl.c and staged.c move device memory.
 *
 * On the CPU a collective runs on the calling thread and returns when this rank's part is done: the send buffer may be
 * reused, and the receive buffer is complete. Every rank makes the calls on one communicator in the same order, from
 * one thread at a time. Different communicators may be used from different threads at once; zero_comm_split makes
 * independent ones. Every wait is bounded by the options' timeout and polls the abort word: ZERO_ERR_TIMEOUT names the
 * operation and the late ranks, ZERO_ERR_PEER carries the failed rank's sentence. The shm backend notices within
 * seconds that another rank's process has ended, and names the rank. Reductions add ranks 0 ... N-1 in that order in
 * fp32 and round once, on every backend except nccl and on any nodes. After the first failure the ranks are out of
 * step, so every later exchange, collective and transfer fails alike.
 *
 * A transfer is a send on one rank of a link, a communicator of two ranks (zero_comm_link), and a recv on the other. It
 * keeps the same promises. It is a rendezvous: each rank waits for the other, and callers must not rely on buffering.
 *
 * Ranks that make different calls get ZERO_ERR_MISMATCH, or ZERO_ERR_PEER once a rank aborts because of it: at its
 * beginning a collective or transfer compares its kind, its bytes and the caller's note on all ranks (compare.h).
 * NCCL's cannot; a separate exchange compares.
 *
 * With device pointers (caps) a collective or transfer is work on `native`, a stream of the device, in the stream's
 * order. With nccl the call only enqueues; with staged.c it waits for the other ranks. If the work fails later, the
 * stream still completes, but the contents of the buffers are undefined. So after waiting for a stream, call
 * zero_comm_check. It may then also return ZERO_ERR_TIMEOUT or ZERO_ERR_SYSTEM: a failure that only this rank knows,
 * until an abort publishes it.
 */
#ifndef ZERO_COMM_COMM_H
#define ZERO_COMM_COMM_H

#include "zero/base/latch.h"

/* The caller's description of a collective or transfer. Ranks compare the key; the words are for a message about ranks
 * that differ. */
enum { ZERO_COMM_WORDS = 24 };
typedef struct zero_comm_note {
    uint64_t key; /* not 0 */
    uint64_t words[ZERO_COMM_WORDS];
} zero_comm_note_t;

/* The ranks of a communicator that form one part of a split: members[0 .. size); this rank is members[rank]. link: the
 * part is for zero_comm_send and zero_comm_recv. */
typedef struct zero_subset {
    const int *members;
    int size, rank;
    bool link;
} zero_subset_t;

typedef struct zero_control zero_control_t;

/* Operations of a control. Its object is c->control. */
typedef struct zero_control_ops {
    /* An all-gather of host memory: fast for small values, any size is allowed. */
    zero_status_t (*exchange)(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, zero_error_t *error);
    /* Fills in out, a communicator whose rank and size are set: its control, caps, and its data if this control moves
     * host memory. Collective over c; all ranks fail together. */
    zero_status_t (*split)(zero_comm_t *c, const zero_subset_t *part, zero_comm_t *out, zero_error_t *error);
    /* Publishes a failure; rank -1 in it means this rank. Only the first failure counts. */
    void (*abort)(zero_comm_t *c, const zero_error_t *failure);
    zero_status_t (*check)(zero_comm_t *c, zero_error_t *error);
    /* Both may be NULL: ranks share no memory. */
    void (*publish)(zero_comm_t *c, uint64_t word);
    uint64_t (*progress)(const zero_comm_t *c, int rank);
    /* NULL if there are no rings. Resident bytes of this rank's rings, and of other ranks' rings as mapped here. */
    void (*resident)(const zero_comm_t *c, uint64_t *own, uint64_t *others);
    void (*destroy)(zero_control_t *control);
} zero_control_ops_t;

/* Operations of a data half. Its object is c->state; host memory moves with what c->control has. */
typedef struct zero_data_ops {
    zero_status_t (*all_gather)(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, void *native,
                                zero_error_t *error);
    zero_status_t (*reduce_scatter)(zero_comm_t *c, const void *send, void *recv, int64_t count, zero_dtype_t dtype,
                                    void *native, zero_error_t *error);
    zero_status_t (*all_to_all)(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, void *native,
                                zero_error_t *error);
    /* In a link. NULL: this data never moves that of a link (self.c). */
    zero_status_t (*send)(zero_comm_t *c, const void *buf, uint64_t bytes, void *native, zero_error_t *error);
    zero_status_t (*recv)(zero_comm_t *c, void *buf, uint64_t bytes, void *native, zero_error_t *error);
    /* May be NULL. Registers device memory [base, base + bytes) that operands will lie in, so that they need no
     * copies. It must live as long as the communicator. Collective: all ranks make the same number of calls with the
     * same bytes. If the transport refuses the memory, that is only a warning in the log. An error ends the
     * communicator, also on the other ranks. */
    zero_status_t (*attach)(zero_comm_t *c, void *base, uint64_t bytes, zero_error_t *error);
    /* NULL if a collective is complete when its call returns. Otherwise returns the first failure of collectives in
     * flight. found, unless NULL, becomes that failure if there is none yet, and ends them. */
    zero_status_t (*failure)(zero_comm_t *c, const zero_error_t *found, zero_error_t *error);
    /* Sets the data of out, like that of c. NULL: out keeps the data that the control set. */
    zero_status_t (*split)(zero_comm_t *c, const zero_subset_t *part, zero_comm_t *out, zero_error_t *error);
    /* May be NULL. Resident bytes besides the control's rings. */
    uint64_t (*resident)(const zero_comm_t *c);
    void (*destroy)(zero_comm_t *c); /* NULL: there is no state */
} zero_data_ops_t;

/* Every control's struct begins with this. A control and its splits share the abort word. */
struct zero_control {
    const zero_control_ops_t *ops;
    const zero_data_ops_t *host; /* moves host memory; NULL: these ranks cannot */
    zero_comm_options_t options;
    int *world;          /* [size] the ranks' numbers in the first communicator; freed by the control */
    zero_latch_t failed; /* the first exchange, collective or transfer that failed */
    bool one_thread;     /* only one thread may use it: an MPI over several nodes without MPI_THREAD_MULTIPLE */
};

struct zero_comm {
    zero_control_t *control;
    bool borrowed;               /* the control belongs to another communicator, which outlives this one */
    const zero_data_ops_t *data; /* NULL: cannot move data */
    void *state;
    zero_comm_caps_t caps;
    zero_comm_options_t options;
    int rank, size;
    bool link;                    /* made by zero_comm_link */
    bool uncompared;              /* data's collectives do not compare calls: NCCL's */
    const zero_comm_note_t *note; /* the caller's note for the next collective or transfer; NULL: none */
    uint64_t whole; /* bytes that ranks compare instead of those of a call which is a piece; 0: no piece */
    struct {
        int rank;
        zero_comm_note_t note;
    } other;                 /* after ZERO_ERR_MISMATCH: a rank that is in another collective, and its note */
    uint64_t bytes_received; /* from other ranks in all_gather and all_to_all, since the start */
    uint64_t bytes_reduced;  /* from other ranks in reduce_scatter: (size - 1) * count * dtype size each */
    uint64_t bytes_sent;     /* in send */
    uint64_t bytes_arrived;  /* in recv */
};

/* ---- data ------------------------------------------------------------------------------------------------------- */

/* recv (size * bytes) gets every rank's bytes in rank order. In place: send == recv + rank * bytes. bytes may be 0. */
zero_status_t zero_comm_all_gather(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, void *native,
                                   zero_error_t *error);
/* recv (count) gets the sum over ranks of send[rank * count ...] (size * count elements). In place: recv == send +
 * rank * count; the rest of send then keeps its values. */
zero_status_t zero_comm_reduce_scatter(zero_comm_t *c, const void *send, void *recv, int64_t count, zero_dtype_t dtype,
                                       void *native, zero_error_t *error);
/* recv (size * bytes) gets from each rank r, at r * bytes, the bytes that it has for this rank: those of its send
 * (size * bytes) from rank * bytes on. Not in place. */
zero_status_t zero_comm_all_to_all(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, void *native,
                                   zero_error_t *error);
/* A transfer: moves the bytes bytes at buf of the rank that sends to buf of the other rank. bytes may be 0. On the CPU,
 * send returns once buf may be reused, and recv once buf is complete. ZERO_ERR_ARG: c is no link. */
zero_status_t zero_comm_send(zero_comm_t *c, const void *buf, uint64_t bytes, void *native, zero_error_t *error);
zero_status_t zero_comm_recv(zero_comm_t *c, void *buf, uint64_t bytes, void *native, zero_error_t *error);
/* Registers device memory that operands will lie in; see attach above. */
zero_status_t zero_comm_attach(zero_comm_t *c, void *base, uint64_t bytes, zero_error_t *error);

/* ---- control ---------------------------------------------------------------------------------------------------- */

/* zero_comm_split into links: each part has two ranks, which may call zero_comm_send and zero_comm_recv. A link works
 * in both directions, and its ranks may make collectives, too. With NCCL this connects them: otherwise the calls of the
 * first transfer would wait for each other, and ranks that begin with different links would wait forever. A link's
 * kernels on a GPU take few multiprocessors, because they wait for other ranks beside computation. */
zero_status_t zero_comm_link(zero_comm_t *comm, int color, int key, zero_comm_t **out, zero_error_t *error);
/* zero_comm_exchange for a caller that publishes its own sentence after ZERO_ERR_MISMATCH. */
zero_status_t zero_control_exchange(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, zero_error_t *error);
/* Converts a failure to the ZERO_ERR_PEER to publish. If its rank is -1, sets it to rank, this rank in the first
 * communicator. */
zero_error_t zero_comm_own(const zero_error_t *failure, int rank);
/* zero_comm_abort with a whole failure. */
void zero_comm_fail(zero_comm_t *c, const zero_error_t *failure);
/* Returns ZERO_OK, or ZERO_ERR_PEER with the failure that a rank published; on a device also what failed there. Any
 * thread may call it, during any other operation. */
zero_status_t zero_comm_check(zero_comm_t *c, zero_error_t *error);
/* For messages about ranks that are late: zero_comm_publish stores a word (not 0) for the ranks of this node,
 * zero_comm_progress reads a rank's last word (0: none, or the rank is on another node). A communicator and its splits
 * share the word; one thread at a time publishes. */
void zero_comm_publish(zero_comm_t *c, uint64_t word);
uint64_t zero_comm_progress(const zero_comm_t *c, int rank);
/* Resident bytes as the system reports them. own: this rank's rings and pinned memory. others: other ranks' rings as
 * mapped here; they are part of this process's resident bytes, but the other ranks count them. */
void zero_comm_resident(const zero_comm_t *c, uint64_t *own, uint64_t *others);

/* Caps of a communicator that need not exist, to plan for another world; name is "self", "shm", "mpi" or "nccl". */
zero_status_t zero_comm_describe(const char *name, int world, const zero_comm_options_t *options,
                                 zero_comm_caps_t *caps, zero_error_t *error);

#endif
