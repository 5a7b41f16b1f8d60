/* SPDX-License-Identifier: Apache-2.0 */
/* nccl.h - NCCL's function table in the plugin zero_cuda: what nccl.c needs of NCCL and of CUDA's events, with errors
 * as sentences. NCCL itself is opened when the first communicator is made.
 *
 * Communicators are non-blocking: start, split, the collectives and transfers return at once, and state tells whether
 * NCCL has completed the call (a collective or transfer is then on the stream). Only one thread at a time may call
 * functions on a communicator, including state.
 */
#ifndef ZERO_COMM_NCCL_H
#define ZERO_COMM_NCCL_H

#include "zero/base/plugin.h"

#define ZERO_CUDA_NCCL_VERSION ZERO_PLUGIN_VERSION(5)

enum { ZERO_NCCL_ID_BYTES = 128 };

typedef struct zero_nccl zero_nccl_t; /* NCCL's functions */

typedef struct zero_cuda_nccl {
    uint32_t version;
    /* Opens libnccl.so.2, or the file that $ZERO_NCCL_LIBRARY names. *number: NCCL's version number (22809 is
     * 2.28.9). ZERO_ERR_UNSUPPORTED if it is missing, or older than 2.22, the first version that can abort several
     * communicators at once. */
    zero_status_t (*open)(zero_nccl_t **nccl, int *number, zero_error_t *error);
    void (*close)(zero_nccl_t *nccl);
    /* Whether it has window and unwindow: since 2.27. */
    bool (*has_windows)(const zero_nccl_t *nccl);
    /* Makes device the calling thread's device, and keeps its calls from disturbing graph captures of other threads. */
    zero_status_t (*enter)(int device, zero_error_t *error);

    zero_status_t (*unique_id)(zero_nccl_t *nccl, void *id, zero_error_t *error); /* id: ZERO_NCCL_ID_BYTES */
    /* Begins to make *comm for the calling thread's device. *comm is set on return, but only state and abort may use it
     * until it is ready. */
    zero_status_t (*start)(zero_nccl_t *nccl, void **comm, int size, int rank, const void *id, zero_error_t *error);
    /* Begins to make *comm of the ranks with this color (0 or more); link: for transfers, with kernels that take fewer
     * multiprocessors. NCCL sets *comm by the time that parent is ready
     * again, so the variable must live until then; from then on, as for start. If a parent of the caller's is blocking,
     * this blocks. */
    zero_status_t (*split)(zero_nccl_t *nccl, void *parent, int color, int key, bool link, void **comm,
                           zero_error_t *error);
    /* Begins to connect the two ranks of comm, which both call this, for transfers in both directions: an all-to-all of
     * a byte, on a stream of its own. NCCL would do it in the first transfer, whose call then waits for the other
     * rank's. */
    zero_status_t (*connect)(zero_nccl_t *nccl, void *comm, zero_error_t *error);
    zero_status_t (*shape)(zero_nccl_t *nccl, void *comm, int *size, int *rank, int *device, zero_error_t *error);
    /* Returns ZERO_ERR_SYSTEM with NCCL's error text after a failure, which can come at any time after a call. */
    zero_status_t (*state)(zero_nccl_t *nccl, void *comm, bool *busy, zero_error_t *error);

    /* As in comm.h. */
    zero_status_t (*all_gather)(zero_nccl_t *nccl, void *comm, const void *send, void *recv, uint64_t bytes,
                                void *stream, zero_error_t *error);
    zero_status_t (*reduce_scatter)(zero_nccl_t *nccl, void *comm, const void *send, void *recv, int64_t count,
                                    zero_dtype_t dtype, void *stream, zero_error_t *error);
    /* Among size ranks. */
    zero_status_t (*all_to_all)(zero_nccl_t *nccl, void *comm, const void *send, void *recv, uint64_t bytes, int size,
                                void *stream, zero_error_t *error);
    /* To and from rank peer, with which this rank is connected. */
    zero_status_t (*send)(zero_nccl_t *nccl, void *comm, const void *buf, uint64_t bytes, int peer, void *stream,
                          zero_error_t *error);
    zero_status_t (*recv)(zero_nccl_t *nccl, void *comm, void *buf, uint64_t bytes, int peer, void *stream,
                          zero_error_t *error);
    /* Registers device memory for collectives. *handle is for detach. */
    zero_status_t (*attach)(zero_nccl_t *nccl, void *comm, void *base, uint64_t bytes, void **handle,
                            zero_error_t *error);
    zero_status_t (*detach)(zero_nccl_t *nccl, void *comm, void *handle, zero_error_t *error);
    /* Begins to register memory that other processes can map as a symmetric window. Collective. NCCL sets *handle by
     * the time that comm is ready again, so the variable must live until then. It stays NULL if NCCL makes no window
     * for these ranks. */
    zero_status_t (*window)(zero_nccl_t *nccl, void *comm, void *base, uint64_t bytes, void **handle,
                            zero_error_t *error);
    /* Deregisters a window on this rank only. No collective may still use it. */
    zero_status_t (*unwindow)(zero_nccl_t *nccl, void *comm, void *handle, zero_error_t *error);

    /* Begins to complete what is in flight; once comm is ready again, destroy frees it. */
    zero_status_t (*finalize)(zero_nccl_t *nccl, void *comm, zero_error_t *error);
    zero_status_t (*destroy)(zero_nccl_t *nccl, void *comm, zero_error_t *error);
    /* Ends the kernels of these communicators and frees them. May take long. */
    zero_status_t (*abort)(zero_nccl_t *nccl, void *const *comms, int count, zero_error_t *error);

    /* Events on the calling thread's device. */
    zero_status_t (*event_create)(void **event, zero_error_t *error);
    void (*event_destroy)(void *event);
    zero_status_t (*record)(void *event, void *stream, zero_error_t *error);
    /* Whether the work before the event is complete. */
    zero_status_t (*happened)(void *event, bool *yes, zero_error_t *error);
} zero_cuda_nccl_t;

#ifdef __cplusplus
extern "C" {
#endif
/* Exported by the plugin; libzero looks it up by name. */
extern ZERO_API const zero_cuda_nccl_t zero_cuda_nccl;
#ifdef __cplusplus
}
#endif
#endif
