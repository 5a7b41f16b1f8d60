/* SPDX-License-Identifier: Apache-2.0 */
/* nccl.h - NCCL's table in the plugin zero_cuda: what the communicator of nccl.c needs of NCCL and of CUDA's events,
 * with NCCL's results turned into sentences. NCCL itself is opened when the first communicator is made.
 *
 * Communicators are non-blocking: start, split and the collectives return at once, and state tells when NCCL is done
 * with the call (it then is on the stream). No two threads may be in functions on one communicator at a time, state
 * included.
 */
#ifndef ZERO_COMM_NCCL_H
#define ZERO_COMM_NCCL_H

#include "zero/base/plugin.h"

#define ZERO_CUDA_NCCL_VERSION ZERO_PLUGIN_VERSION(4)

enum { ZERO_NCCL_ID_BYTES = 128 };

typedef struct zero_nccl zero_nccl_t; /* NCCL's functions */

typedef struct zero_cuda_nccl {
    uint32_t version;
    /* Opens libnccl.so.2, or the file that $ZERO_NCCL_LIBRARY names. *number: its version as it counts them (22809
     * is 2.28.9). ZERO_ERR_UNSUPPORTED where it is not there, or older than 2.22, which is the first to abort several
     * communicators at once. */
    zero_status_t (*open)(zero_nccl_t **nccl, int *number, zero_error_t *error);
    void (*close)(zero_nccl_t *nccl);
    /* Whether it has window and unwindow: from 2.27 on. */
    bool (*has_windows)(const zero_nccl_t *nccl);
    /* The calling thread's calls are for this device from now on, and do not disturb what other threads capture into
     * graphs. */
    zero_status_t (*enter)(int device, zero_error_t *error);

    zero_status_t (*unique_id)(zero_nccl_t *nccl, void *id, zero_error_t *error); /* id: ZERO_NCCL_ID_BYTES */
    /* Begins to make *comm, for the calling thread's device. It is there on return, and may be given to state and abort
     * alone until it is ready. */
    zero_status_t (*start)(zero_nccl_t *nccl, void **comm, int size, int rank, const void *id, zero_error_t *error);
    /* Begins to make *comm of the ranks with this color (0 or more), which is set when parent is ready again: the
     * variable has to last. Then it is as after start. A parent of the caller's that blocks makes this block. */
    zero_status_t (*split)(zero_nccl_t *nccl, void *parent, int color, int key, void **comm, zero_error_t *error);
    zero_status_t (*shape)(zero_nccl_t *nccl, void *comm, int *size, int *rank, int *device, zero_error_t *error);
    /* ZERO_ERR_SYSTEM with NCCL's words once something failed, at any time after a call. */
    zero_status_t (*state)(zero_nccl_t *nccl, void *comm, bool *busy, zero_error_t *error);

    /* As in comm.h. */
    zero_status_t (*all_gather)(zero_nccl_t *nccl, void *comm, const void *send, void *recv, uint64_t bytes,
                                void *stream, zero_error_t *error);
    zero_status_t (*reduce_scatter)(zero_nccl_t *nccl, void *comm, const void *send, void *recv, int64_t count,
                                    zero_dtype_t dtype, void *stream, zero_error_t *error);
    /* Registers memory of the device for collectives. *handle: for detach. */
    zero_status_t (*attach)(zero_nccl_t *nccl, void *comm, void *base, uint64_t bytes, void **handle,
                            zero_error_t *error);
    zero_status_t (*detach)(zero_nccl_t *nccl, void *comm, void *handle, zero_error_t *error);
    /* Begins to register memory that other processes can map as a symmetric window. Collective. NCCL sets *handle by
     * the time that comm is ready again, so the variable has to last. NULL then: NCCL makes no window for these ranks.
     */
    zero_status_t (*window)(zero_nccl_t *nccl, void *comm, void *base, uint64_t bytes, void **handle,
                            zero_error_t *error);
    /* Deregisters a window, for this rank alone. None of its collectives may still use it. */
    zero_status_t (*unwindow)(zero_nccl_t *nccl, void *comm, void *handle, zero_error_t *error);

    /* Begins to end what is in flight; when comm is ready again, destroy frees it. */
    zero_status_t (*finalize)(zero_nccl_t *nccl, void *comm, zero_error_t *error);
    zero_status_t (*destroy)(zero_nccl_t *nccl, void *comm, zero_error_t *error);
    /* Ends the kernels of all of these communicators and frees them. May take its time. */
    zero_status_t (*abort)(zero_nccl_t *nccl, void *const *comms, int count, zero_error_t *error);

    /* Events of the calling thread's device. */
    zero_status_t (*event_create)(void **event, zero_error_t *error);
    void (*event_destroy)(void *event);
    zero_status_t (*record)(void *event, void *stream, zero_error_t *error);
    /* Whether what it recorded has happened. */
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
