/* SPDX-License-Identifier: Apache-2.0 */
/* zero.h - libzero: sharded data-parallel training (ZeRO). The installed header; zero.hpp adds C++.
 *
 * A small program: it fits y = 3 x - 1 on one rank. Declarations of variables, and checks of the
 * statuses, are left out.
 *
 *     zero_comm_self(&comm, NULL);
 *     zero_device_cpu(&device, NULL, NULL);
 *     zero_config_init(&config);
 *     config.comm = comm;
 *     config.device = device;
 *     config.weight_decay = 0;
 *     zero_create(&engine, &config, NULL);
 *
 *     zero_param_desc_init(&desc);
 *     desc.name = "line", desc.ndim = 1, desc.shape[0] = 2;
 *     zero_unit_add(engine, "all", &unit);
 *     zero_param_add(engine, unit, &desc, &param);
 *     zero_pass_add(engine, "train", ZERO_PASS_TRAIN, &pass);
 *     zero_use_add(engine, pass, unit, ZERO_READ | ZERO_GRAD);
 *     zero_commit(engine);
 *     const float *w = zero_param_data(engine, param);
 *     float *dw = zero_param_grad(engine, param);
 *
 *     for (int step = 0; step < 400; step++) {
 *         zero_micro_begin(engine, pass, ZERO_LAST);
 *         zero_acquire(engine, unit);
 *         for (float x = -1, d; d = w[0] * x + w[1] - (3 * x - 1), x <= 1; x += 0.1f)
 *             dw[0] += d * x, dw[1] += d;
 *         zero_release(engine, unit);
 *         zero_micro_end(engine);
 *         zero_step(engine, 0.05);
 *     }
 *     zero_destroy(engine);
 *
 * The life of an engine:
 *
 *     create    zero_create, with a communicator, a device and options
 *     declare   zero_unit_add, zero_param_add, zero_pass_add, zero_use_add, zero_reserve
 *     commit    zero_commit: plans, checks, allocates; the addresses are known from here on
 *     fill      zero_param_set, zero_param_fill
 *     train     for each step:
 *                   for each micro-step: zero_micro_begin, { zero_acquire, zero_release } for each
 *                   use, zero_micro_end
 *                   zero_step
 *     read      zero_param_get, zero_param_read, zero_step_stats, between steps
 *     destroy   zero_destroy
 *
 * Glossary:
 *
 *     rank         one of the processes that train together; they are numbered from 0
 *     collective   a call that every rank makes, in the same order as its other collective calls
 *     unit         parameters that are gathered and dropped together, normally one layer
 *     pass         a declared sequence of uses of units: training, evaluation, or any order
 *     use          one acquire and release of a unit in a pass
 *     micro-step   one run of the training pass; a step has one or more
 *     step         the micro-steps whose gradients are added, and the update after them
 *     gather       the all-gather that makes a unit's full parameters from the ranks' shards
 *     reduce       the reduce-scatter or all-reduce of a unit's gradients
 *     window       the number of units that are gathered at the same time
 *     shard        the part of a unit that one rank keeps
 *     tier         where memory is: the device, the host, or a drive
 *     master       fp32 copies of parameters of a narrower dtype; the update works on them
 *     plan         all operations and buffers of a rank, made by zero_commit
 *
 * Errors. Most functions return ZERO_OK or an error status. The sentence that explains a failure is
 * in the zero_error_t that the function takes, which may be NULL, or for functions that take an
 * engine in zero_last_error. ZERO_ERR_ARG and ZERO_ERR_ORDER leave the engine unchanged and usable.
 * After any other failure only zero_destroy works, unless the function's comment says otherwise.
 * Passing NULL for a required handle or pointer returns ZERO_ERR_ARG; functions without a status
 * then do nothing, or return -1, 0, "" or NULL. On failure, output handles are set to NULL and
 * output ids to -1.
 *
 * Structs. The caller initializes an input struct with its *_init function, and sets the size of a
 * struct that the library fills. Both kinds begin with their size and can grow: a program compiled
 * against an older header runs with a newer library. Handles are opaque.
 *
 * Threads. At most one thread at a time may use an engine, communicator or device; it need not
 * always be the same thread. A process may have any number of engines. A call on an engine that is
 * inside another call, from a second thread or from a callback, returns ZERO_ERR_ORDER and changes
 * nothing. Functions that return no status (names, counts, addresses, the stream, the hash) may be
 * called from callbacks, and beside any call except zero_commit and the declarations. zero_abort
 * may be called from any thread at any time, zero_signal also from signal handlers.
 *
 * Memory. The library does not use memory passed to a call after the call has returned, on a GPU
 * either, unless the function's comment says otherwise.
 *
 * The library never prints, never exits, installs no signal handlers and has no global state.
 *
 * Each function's comment may have these tags. A call without the tag "Collective" is not
 * collective.
 *
 *     Collective      every rank makes the call
 *     When            when the call is allowed; otherwise it returns ZERO_ERR_ORDER
 *     May fail with   statuses that the call can return, besides ZERO_ERR_ARG for wrong arguments
 *     Owner           who owns what the call returns or takes, and for how long
 */
#ifndef ZERO_ZERO_H
#define ZERO_ZERO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ZERO_VERSION_MAJOR 0
#define ZERO_VERSION_MINOR 1
#define ZERO_VERSION_PATCH 0
#define ZERO_VERSION "0.1.0"

/* A program may define ZERO_API first, as its own mark of exported functions. */
#ifndef ZERO_API
#if defined(__GNUC__)
#define ZERO_API __attribute__((visibility("default")))
#else
#define ZERO_API
#endif
#endif
#if defined(__GNUC__)
#define ZERO_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define ZERO_PRINTF(f, a)
#endif

/* ---- statuses and errors -------------------------------------------------------------------- */

typedef enum zero_status {
    ZERO_OK = 0,
    ZERO_ERR_ARG,         /* an argument, option or declaration is wrong */
    ZERO_ERR_ORDER,       /* the call is not allowed now */
    ZERO_ERR_MEMORY,      /* the plan does not fit, or an allocation failed */
    ZERO_ERR_IO,          /* a file or socket could not be opened, read or written */
    ZERO_ERR_FORMAT,      /* the contents of a file are invalid */
    ZERO_ERR_MISMATCH,    /* ranks disagree on options, the model or the order of calls */
    ZERO_ERR_PEER,        /* another rank failed; the sentence is that rank's */
    ZERO_ERR_TIMEOUT,     /* a wait exceeded its bound */
    ZERO_ERR_UNSUPPORTED, /* this build or this machine cannot do it */
    ZERO_ERR_PLAN,        /* the checker found a hazard in the plan: a defect of the library */
    ZERO_ERR_SYSTEM       /* a system call, MPI call or device call failed */
} zero_status_t;

/* The exact failure, for failures that a program may want to act on. Numbers never change; new ones
 * may follow. Treat an unknown reason as ZERO_REASON_NONE. */
typedef enum zero_reason {
    ZERO_REASON_NONE = 0,         /* the status says all */
    ZERO_REASON_ABORTED,          /* a program called zero_abort or zero_comm_abort */
    ZERO_REASON_RANK_ENDED,       /* the rank's process ended, or cannot be reached any more */
    ZERO_REASON_RANK_LEFT,        /* the rank destroyed its communicator */
    ZERO_REASON_RANK_LATE,        /* the rank did not come in time */
    ZERO_REASON_CALLS_DIFFER,     /* ranks make different calls */
    ZERO_REASON_OPTIONS_DIFFER,   /* ranks have different options or models */
    ZERO_REASON_CALLBACK_FAILED,  /* a callback returned a failure */
    ZERO_REASON_ENGINE_BUSY,      /* another call on the engine is running */
    ZERO_REASON_STREAM_CAPTURED,  /* the compute stream is being captured into a CUDA graph */
    ZERO_REASON_DOES_NOT_FIT,     /* the plan needs more memory than there is */
    ZERO_REASON_NO_SHARED_MEMORY, /* the ranks of a node have too little shared memory */
    ZERO_REASON_NO_MPI,           /* this build has no MPI */
    ZERO_REASON_NO_CUDA,          /* there is no plugin or driver, or it is too old */
    ZERO_REASON_NO_GPU,           /* CUDA shows no GPU */
    ZERO_REASON_NO_NCCL,          /* NCCL is not in this build, not installed, or too old */
    ZERO_REASON_GPU_SHARED,       /* two ranks use one GPU, which NCCL refuses */
    ZERO_REASON_NO_IO_URING,      /* io_uring is not in this build, or the system refuses it */
    ZERO_REASON_NO_DIRECT_IO,     /* the file system of the nvme folder refuses direct transfers */
    ZERO_REASON_FOLDER_IN_USE,    /* another run uses the folder */
    ZERO_REASON_FOLDER_IN_MEMORY, /* the nvme folder is in memory, not on a drive */
    ZERO_REASON_DRIVE_FULL,       /* the folder's drive has too little free space */
    ZERO_REASON_LFS_POINTER,      /* the file is a git-lfs pointer */
    ZERO_REASON_NO_CHECKPOINT,    /* the folder has no whole checkpoint */
    ZERO_REASON_LOSS_SCALE,       /* gradients are not finite with the smallest loss scale either */
    ZERO_REASON_CALLER = 1000     /* first of the numbers that the library leaves to programs */
} zero_reason_t;

/* A failure. */
typedef struct zero_error {
    zero_status_t status;
    int32_t rank;    /* the rank that failed, or that the failure concerns; -1: no particular one */
    int32_t reason;  /* zero_reason_t */
    char text[1000]; /* the sentence; always terminated, and cut if it is longer */
} zero_error_t;

/* Returns a constant string such as "ok" or "bad argument", never NULL. */
ZERO_API const char *zero_status_name(zero_status_t status);

/* Returns the version of the library at run time, in the form of ZERO_VERSION. */
ZERO_API const char *zero_version(void);

typedef enum zero_log_level {
    ZERO_LOG_ERROR = 0,
    ZERO_LOG_WARNING,
    ZERO_LOG_INFO,
    ZERO_LOG_DEBUG
} zero_log_level_t;

/* Receives one sentence of the log, without a newline. The library calls it from any of its
 * threads, possibly from several at once. text is valid during the call. The function must not call
 * the library with the object that the sentence may be about. ctx is the caller's pointer. */
typedef void (*zero_log_fn)(void *ctx, zero_log_level_t level, const char *text);

/* ---- handles, dtypes, tiers, kinds of memory ------------------------------------------------ */

typedef struct zero_engine zero_engine_t;
typedef struct zero_comm zero_comm_t;
typedef struct zero_device zero_device_t;
typedef int32_t zero_unit_t;
typedef int32_t zero_param_t;
typedef int32_t zero_pass_t;
typedef int32_t zero_reserve_t;

typedef enum zero_dtype { ZERO_FP32 = 0, ZERO_BF16, ZERO_FP16, ZERO_DTYPE_COUNT } zero_dtype_t;

/* Returns the bytes of one element; 0 for an invalid dtype. */
ZERO_API size_t zero_dtype_size(zero_dtype_t dtype);
/* Returns "fp32", "bf16" or "fp16"; "?" for an invalid dtype. */
ZERO_API const char *zero_dtype_name(zero_dtype_t dtype);

/* Where memory is: on the device, in host memory, or in files on a drive. */
typedef enum zero_tier {
    ZERO_TIER_DEVICE = 0,
    ZERO_TIER_HOST,
    ZERO_TIER_NVME,
    ZERO_TIER_COUNT
} zero_tier_t;
/* Returns "device", "host" or "nvme"; "?" for an invalid tier. */
ZERO_API const char *zero_tier_name(zero_tier_t tier);

/* What memory is for: the rows of the forecast and of the measurement. */
typedef enum zero_kind {
    ZERO_KIND_PARAMETERS = 0, /* parameters that stay: shards, or full where not sharded */
    ZERO_KIND_GRADIENTS,      /* gradients that stay between backward and update */
    ZERO_KIND_MASTER,         /* fp32 master weights; none for fp32 parameters */
    ZERO_KIND_MOMENTS,        /* the optimizer's state */
    ZERO_KIND_WINDOW,         /* gathered units, gradients being written, wire buffers */
    ZERO_KIND_STAGING,        /* partial norms, exchange words, scalars, buffers of copies */
    ZERO_KIND_RINGS,          /* this rank's rings in shared memory */
    ZERO_KIND_ACTIVATIONS,    /* zero_reserve */
    ZERO_KIND_WORKSPACE,      /* zero_reserve */
    ZERO_KIND_CACHE,          /* zero_reserve: keys and values of a sample, for example */
    ZERO_KIND_COUNT
} zero_kind_t;
/* Returns "parameters", "gradients", ...; "?" for an invalid kind. */
ZERO_API const char *zero_kind_name(zero_kind_t kind);

/* ---- engine: configuration ------------------------------------------------------------------ */

typedef enum zero_sharding { ZERO_FULL = 0, ZERO_SHARDED = 1 } zero_sharding_t;

/* One row of the placement table: how one kind of state is sharded, and on which tier it lives. */
typedef struct zero_row {
    zero_sharding_t sharding;
    zero_tier_t tier;
    int32_t group;  /* reserved, 0: the group of ranks that the state is sharded over */
    int32_t window; /* reserved, 0: the window of this row */
} zero_row_t;

/* How ranks are arranged. replicas is a divisor of the number of ranks; what is left are the
 * shards, and rank = replica * shards + shard. Parameters and the gradients of a micro-step are
 * sharded over the shards of a replica, the optimizer over all ranks: gradients are reduced over
 * shards, and once a step over replicas (hybrid sharding). Consecutive ranks share a replica, so
 * the ranks of a fast network should be one. Full rows stay full. With parameters on another tier,
 * each rank keeps only its own slice there.
 *
 * context is the number of consecutive ranks that compute parts of the same sequences. They are
 * shards in all of the above, rank = ((replica * shards + shard) * context + part), but need the
 * same data. What a part needs of the others, keys and values for instance, they exchange as below.
 *
 * tensor is the number of consecutive ranks that compute each layer together: rank = ((replica *
 * shards + shard) * context + part) * tensor + place. They need the same data. A parameter that
 * they split (zero_param_desc_t.split_dim) is sharded as above over ranks with the same place. See
 * "tensor and context parallelism" below.
 *
 * pipe is the number of stages of a pipeline, which divides the number of ranks: rank = (((stage *
 * replicas + replica) * shards + shard) * context + part) * tensor + place. All of the above then
 * holds within a stage. See "pipelines" below. On GPUs it needs zero_comm_nccl: zero_commit refuses
 * zero_comm_staged.
 *
 * node is the number of consecutive ranks on a fast network, where a replica has several such
 * nodes; ranks of tensor parallelism count as one. Then the ranks of a node keep all parameters
 * between them, too, from the first gather of a micro-step to the later ones, which stay inside the
 * node: the backward pass gathers nothing from other nodes (hierarchical partitioning). It needs
 * sharded parameters on the device tier. */
typedef struct zero_mesh {
    int32_t pipe, replicas, context, tensor; /* (1) */
    int32_t node;                            /* 0: no second copy (0) */
} zero_mesh_t;

/* The axes of the mesh. */
typedef enum zero_axis {
    ZERO_AXIS_PIPE = 0,
    ZERO_AXIS_REPLICA,
    ZERO_AXIS_SHARD,
    ZERO_AXIS_CONTEXT,
    ZERO_AXIS_TENSOR,
    ZERO_AXES
} zero_axis_t;
/* Returns the number of ranks along an axis of the mesh, and this rank's place among them. 0 and -1
 * for NULL and for an axis that does not exist. */
ZERO_API int zero_axis_size(const zero_engine_t *engine, zero_axis_t axis);
ZERO_API int zero_axis_index(const zero_engine_t *engine, zero_axis_t axis);

typedef enum zero_reduce { ZERO_REDUCE_EVERY = 0, ZERO_REDUCE_LAST = 1 } zero_reduce_t;

/* How data is coded on its way between ranks: in blocks of 128 elements, each with one fp32 scale,
 * which is the block's largest magnitude divided by 127 or 7. An element becomes the nearest
 * multiple of the scale (to even, if two are as near): 132 or 68 bytes per block. A block with an
 * element that is not finite decodes to NaN.
 *
 * Coding loses precision, so losses differ from those without a codec; with the same codecs they
 * have the same bits at every window, tier and offload ratio, and if no parameters are coded, at
 * every stage. Gathered parameters are coded from the exact ones for each gather, and all ranks use
 * the decoded ones, also in evaluations. Units that stay full (persist_bytes) are not coded. Master
 * weights, updates, checkpoints and the functions that read and write parameters are exact.
 * Gradients are coded once for each reduction, and once more if they are then reduced over
 * replicas; each rank decodes those of its share and sums them in rank order in fp32. Both come
 * from ZeRO++ (Wang et al. 2023, arXiv:2306.10209). */
typedef enum zero_codec {
    ZERO_CODEC_NONE = 0,
    ZERO_CODEC_INT8, /* multiples from -127 to 127 */
    ZERO_CODEC_INT4  /* multiples from -7 to 7 */
} zero_codec_t;

/* The order in which a stage of a pipeline does its forward (F) and backward (B) tasks. With P
 * stages, m micro-steps and V chunks on each stage, a stage idles for (P - 1) / (V m + P - 1) of
 * the time, if all tasks take the same time. Several chunks wait for fewer than P micro-steps to
 * come round: then for 1 - V m / (V P + m - 1). With ZERO_SCHEDULE_NAIVE for (P - 1) / P. */
typedef enum zero_schedule {
    ZERO_SCHEDULE_1F1B =
        0,               /* after a few F, one F and one B in turn (Narayanan et al. 2019). Stage p
                               keeps the activations of at most P - p micro-steps */
    ZERO_SCHEDULE_GPIPE, /* all F, then all B (Huang et al. 2019). Keeps those of all micro-steps */
    ZERO_SCHEDULE_NAIVE, /* F and B of a micro-step before the next: one stage works at a time */
    ZERO_SCHEDULE_INTERLEAVED, /* 1F1B with several chunks a stage, in groups of P micro-steps
                                  (Narayanan et al. 2021, arXiv:2104.04473) */
    ZERO_SCHEDULES
} zero_schedule_t;
/* Returns "1f1b", "gpipe", "naive" or "interleaved"; "?" for an invalid schedule. */
ZERO_API const char *zero_schedule_name(zero_schedule_t schedule);

/* The optimizer. Each keeps fp32 master weights, and the state that follows its name. AdamW, Adam
 * and SGD compute as PyTorch's do. */
typedef enum zero_rule {
    ZERO_RULE_ADAMW = 0, /* two fp32 moments (Loshchilov and Hutter 2019) */
    ZERO_RULE_ADAM,   /* two fp32 moments; adds weight decay to the gradient (Kingma and Ba 2015) */
    ZERO_RULE_SGD,    /* momentum in fp32; none if beta1 is 0 */
    ZERO_RULE_LION,   /* one fp32 moment (Chen et al. 2023, algorithm 2, arXiv:2302.06675) */
    ZERO_RULE_ADAMW8, /* two 8-bit moments in blocks of 128 elements (Dettmers et al. 2022) */
    ZERO_RULE_MUON,   /* matrices: one fp32 momentum, and config.matrix (Jordan et al. 2024). Other
                         parameters: AdamW */
    ZERO_RULE_CUSTOM, /* config.update; up to two fp32 buffers */
    ZERO_RULES
} zero_rule_t;

/* One call of a custom optimizer: elements [begin, begin + count) of a parameter, counted row-major
 * from its start. */
typedef struct zero_update_args {
    size_t size;
    zero_param_t param;
    const char *name; /* of the parameter; owned by the library */
    int64_t begin, count;
    int64_t step;       /* updates applied, including this one; skipped steps do not count */
    double lr;          /* zero_step's, times the parameter's lr_scale */
    double decay_scale; /* the parameter's */
    double grad_factor; /* grad_scale times the clip factor, divided by the loss scale, and by the
                           step's weight if it has one; grad is not yet multiplied by it */
    zero_dtype_t grad_dtype; /* fp32, or the parameter's dtype */
    const void *grad;        /* (count) */
    float *master;           /* (count): fp32 weights to update in place; the library then rounds
                                parameters from them */
    float *state[2];         /* (count) each, 0 before the first update; NULL beyond
                                config.update_states */
    int threads;             /* of the device's options */
    void *stream;            /* NULL: work on host memory, done on return. Otherwise a cudaStream_t:
                                the memory is the GPU's; queue the work on this stream */
} zero_update_args_t;

/* A custom optimizer. Returns 0, or -1 to fail the step: the engine then fails with ZERO_ERR_SYSTEM
 * on this rank and with ZERO_ERR_PEER on the others.
 *
 * The library cuts parameters into ranges according to the number of ranks and the offload, so the
 * result for an element may depend only on that element. Ranges arrive in any order, possibly on a
 * library thread. Calls do not overlap, except that with partial offload one GPU call and one host
 * call may run concurrently. The function may not call engine functions that return a status. */
typedef int (*zero_update_fn)(void *ctx, const zero_update_args_t *args);

/* One call of the caller's function for ZERO_RULE_MUON: a whole matrix, row-major. */
typedef struct zero_matrix_args {
    size_t size;
    zero_param_t param;
    const char *name; /* of the parameter; owned by the library */
    int64_t rows, cols;
    float *values; /* (rows, cols): in, the momentum after Nesterov's step; out, its
                      orthogonalization, whose singular values are near 1. The library moves the
                      parameter by it times -lr * lr_scale * 0.2 * sqrt(max(rows, cols)) */
    int threads;   /* of the device's options */
    void *stream;  /* not NULL: values is GPU memory; queue the work on this cudaStream_t. NULL:
                      values is host memory; finish before returning */
} zero_matrix_args_t;
/* Returns 0, or -1 to fail the step: ZERO_ERR_SYSTEM on this rank, ZERO_ERR_PEER on the others. The
 * plan chooses one rank for each matrix, and ranks work side by side, so the result must depend on
 * values alone. The library makes one call at a time, from the calling thread, or from a thread of
 * its own if the device is threaded. The function calls no function of the engine that returns a
 * status. */
typedef int (*zero_matrix_fn)(void *ctx, const zero_matrix_args_t *args);

/* The members of zero_config_t that a change sets, as bits. */
typedef enum zero_change_member {
    ZERO_CHANGE_WINDOW = 1 << 0,
    ZERO_CHANGE_OFFLOAD_RATIO = 1 << 1,
    ZERO_CHANGE_OPTIMIZER_SHARDING = 1 << 2,
    ZERO_CHANGE_GRADIENTS_SHARDING = 1 << 3,
    ZERO_CHANGE_PARAMETERS_SHARDING = 1 << 4,
    ZERO_CHANGE_OPTIMIZER_TIER = 1 << 5,
    ZERO_CHANGE_GRADIENTS_TIER = 1 << 6,
    ZERO_CHANGE_PARAMETERS_TIER = 1 << 7
} zero_change_member_t;

/* A change of an engine's configuration that zero_commit advises when the plan does not fit. The
 * members after sets have their values after the change, whether it sets them or not. */
typedef struct zero_change {
    size_t size;
    uint32_t sets; /* bits of zero_change_member_t: the members that get another value. 0: no change
                      of a member is enough; the advice is to use more ranks, smaller micro-batches
                      or a smaller model */
    int window;
    double offload_ratio;
    zero_row_t parameters, gradients, optimizer;
} zero_change_t;
/* Returns the program's words for a change, such as "use --window 1"; NULL for the library's, such
 * as "set config.window = 1". They become part of the sentence of ZERO_REASON_DOES_NOT_FIT. The
 * library calls the function during zero_commit on every rank, with the same changes. It copies the
 * text before it calls again or returns. */
typedef const char *(*zero_name_change_fn)(void *ctx, const zero_change_t *change);

/* Options of an engine. zero_config_init sets the defaults, which are in parentheses. */
typedef struct zero_config {
    size_t size;
    zero_comm_t *comm;     /* borrowed; duplicated by zero_commit. NULL only with plan_world */
    zero_device_t *device; /* borrowed; must outlive the engine. NULL only with plan_world: CPU */
    int plan_world;        /* above 0: only plan, for this number of ranks (CPU: shared memory; GPU:
                              NCCL). Allocates nothing; nothing can run after zero_commit (0) */
    zero_row_t parameters, gradients, optimizer; /* the placement table (stage 3) */
    int window;                /* units gathered at once, including prefetched ones (2) */
    zero_reduce_t reduce;      /* reduce gradients every micro-step, or once a step (every) */
    int micro_steps;           /* most micro-steps in a step (1) */
    zero_dtype_t reduce_dtype; /* of gradients on the wire (fp32) */
    int64_t persist_bytes;     /* units with fewer bytes of parameters stay full on every rank; 0:
                                  none do (65536) */
    double clip;               /* largest global L2 norm of the gradients; 0: off (1) */
    double grad_scale;         /* multiplies the summed gradients before norm and update (1) */
    zero_rule_t rule;          /* the optimizer (AdamW) */
    double beta1, beta2;       /* decay of the moments; beta1 is SGD's momentum (0.9, 0.95) */
    double eps;                /* of Adam's kind; SGD and Lion do not read it (1e-8) */
    double weight_decay;       /* (0.1) */
    uint64_t memory_limit;     /* bytes of the device tier for this rank; 0: all available (0) */
    double offload_ratio;      /* share of the optimizer state on the tier of its row, if that is
                                  not the device; 0 to 1 (1) */
    const char *nvme_path;     /* folder on a local drive, for rows on the nvme tier; read by
                                  zero_commit */
    double timeout_s;          /* of waits for this rank's own streams; collectives use the
                                  communicator's (600) */
    zero_log_fn log;
    void *log_ctx;
    zero_update_fn update; /* for ZERO_RULE_CUSTOM */
    void *update_ctx;
    int update_states; /* for ZERO_RULE_CUSTOM: fp32 buffers beside the master weights, 0 to 2 */
    bool check_order;  /* compare the ranks' calls when each begins, by a small host exchange. Ranks
                          that differ get ZERO_ERR_MISMATCH at once. Without it, collectives of NCCL
                          wait for each other or take each other's data. A device that runs its
                          collectives in the calling thread (the CPU, not threaded) always compares
                          (true) */
    bool guard;        /* CPU device: close the memory of parameters and gradients while no use
                          holds their unit, so that a wrong access raises SIGSEGV. Uses whole pages
                          for each buffer and two system calls per operation. With AddressSanitizer
                          in the process, such accesses are reported without it (false) */
    double momentum;   /* of ZERO_RULE_MUON (0.95) */
    zero_matrix_fn matrix; /* for ZERO_RULE_MUON: makes a matrix orthogonal */
    void *matrix_ctx;
    zero_name_change_fn name_change; /* words for what zero_commit advises if the plan does not fit;
                                        NULL: the library's */
    void *name_change_ctx;
    bool saves; /* plan for zero_save. A GPU and the nvme tier need 1 MiB of host memory for it
                   (false) */
    double loss_scale;     /* the first loss scale, see zero_loss_scale; 1: none (1) */
    int growth_interval;   /* updates in a row after which the loss scale grows. 0: it is fixed
                              (0) */
    double growth_factor;  /* by which it grows; above 1 (2) */
    double backoff_factor; /* by which it shrinks after a skipped step; below 1 (0.5) */
    int hysteresis;        /* skipped steps until it shrinks; counted anew when it has grown (1) */
    double min_loss_scale; /* the smallest dynamic loss scale (2^-24) */
    bool saves_frozen;     /* false: zero_save leaves out frozen parameters, if there is a training
                              pass, and zero_load leaves those as they are that the checkpoint
                              lacks. The program keeps their values elsewhere (true) */
    zero_mesh_t mesh;      /* the arrangement of the ranks (one replica) */
    zero_codec_t gather_codec; /* of parameters that are gathered for uses; int8 or none (none) */
    zero_codec_t reduce_codec; /* of gradients that are reduced; sums are fp32 (none) */
    zero_schedule_t schedule;  /* of a pipeline (1F1B) */
} zero_config_t;

/* Sets the defaults of *config; size is sizeof(zero_config_t) in the caller's header. */
ZERO_API void zero_config_init_size(zero_config_t *config, size_t size);
static inline void zero_config_init(zero_config_t *config)
{
    zero_config_init_size(config, sizeof *config);
}
/* Sets the three rows to a stage, on the device tier. Stage 0 shards nothing, 1 the optimizer
 * state, 2 also gradients, 3 also parameters.
 * May fail with: ZERO_ERR_ARG for another stage. */
ZERO_API zero_status_t zero_config_stage(zero_config_t *config, int stage);

/* Creates an engine from *config.
 * May fail with: ZERO_ERR_ARG if options are out of bounds (the sentence names each of them), or if
 * one does not go with another. ZERO_ERR_UNSUPPORTED if the communicator cannot reach the device's
 * memory, or a row cannot live on its tier. The sentence begins with an option's name.
 * Owner: the caller, until zero_destroy. *config is copied, but not what it points to: nvme_path
 * must stay valid until zero_commit returns; comm, device and callback contexts as described
 * there. */
ZERO_API zero_status_t zero_create(zero_engine_t **engine, const zero_config_t *config,
                                   zero_error_t *error);

/* Waits for work in flight and frees everything. Accepts NULL. In the middle of a step, which the
 * other ranks then cannot end, they get ZERO_ERR_PEER. From a callback it only logs that it
 * refuses.
 * Collective, unless the engine has failed. */
ZERO_API void zero_destroy(zero_engine_t *engine);

/* Returns the sentence of the last call that failed on this engine; "" if none did. A thread whose
 * call was refused because another call was running gets the sentence of that refusal. Never NULL;
 * for NULL it returns a sentence that says so.
 * Owner: the engine; the text is valid until the next call of any thread. */
ZERO_API const char *zero_last_error(const zero_engine_t *engine);

/* Copies the same failure as a whole into *failure, which may be NULL, and returns its status. If
 * no call has failed, that is ZERO_OK, with rank -1 and an empty sentence. */
ZERO_API zero_status_t zero_last_failure(const zero_engine_t *engine, zero_error_t *failure);

/* ---- engine: declaration -------------------------------------------------------------------- */

/* Adds a unit: parameters that are gathered and dropped together. name is copied; it must be unique
 * among units. Ids count from 0. Every rank makes the same declarations in the same order;
 * zero_commit compares them.
 * When: before zero_commit, as all declarations.
 * May fail with: ZERO_ERR_ARG for what is wrong by itself, ZERO_ERR_MEMORY. */
ZERO_API zero_status_t zero_unit_add(zero_engine_t *engine, const char *name, zero_unit_t *unit);

#define ZERO_MAX_DIMS 8

/* Describes a parameter. zero_param_desc_init sets the defaults, which are in parentheses. */
typedef struct zero_param_desc {
    size_t size;
    const char *name;             /* unique and required; copied (NULL) */
    int32_t ndim;                 /* 0 to ZERO_MAX_DIMS (0: one element) */
    int64_t shape[ZERO_MAX_DIMS]; /* each at least 0; an empty parameter is legal */
    zero_dtype_t dtype;           /* of the parameter and of its gradient, as kernels see them
                                     (fp32) */
    bool trainable;               /* false: no gradient, master weights or state. A trainable
                                     parameter needs a use of its unit with ZERO_GRAD in the
                                     training pass, if there is one (true) */
    double decay_scale;           /* multiplies weight decay; 0: none (1) */
    double lr_scale;              /* multiplies the learning rate (1) */
    bool elementwise;             /* ZERO_RULE_MUON: update it by AdamW, though it has 2 dimensions:
                                     embeddings, heads (false) */
    const char *piece_of; /* NULL, or the parameter is a tile of the larger tensor of this name,
                             which is copied. A large tensor that is used tile by tile, each in a
                             unit of its own, is never gathered whole. Checkpoints have the tensor
                             as if it were one parameter, whatever its tiles are (NULL) */
    int64_t piece_begin;  /* the tile is rows piece_begin to piece_begin + shape[0] - 1 of the
                             tensor. zero_commit refuses tiles that leave gaps or overlap, that
                             differ in more than shape[0], and that begin elsewhere than at a
                             multiple of 128 elements of the tensor (0) */
    int32_t piece_dim;    /* the dimension that tiles divide: 0; others are not supported (0) */
    int32_t split_dim;    /* with config.mesh.tensor T above 1: the dimension of shape that is cut
                             into T equal parts, of which each rank has the one of its place; -1:
                             every rank has the whole parameter. shape remains that of all parts
                             together, as do all calls that read and write values, and
                             checkpoints. Only dimension 0 in one block may have a size above 1 that
                             T does not divide: the last part is then shorter, or empty, and what
                             its memory has behind it is zero and must stay zero (-1) */
    int32_t split_blocks; /* so many equal blocks of split_dim are cut each: 3 for queries, keys and
                             values in one matrix (1) */
    bool partial;         /* of a parameter that is not split: the gradients of the T ranks are
                             parts of a sum. false: they are the same, bit by bit (false) */
} zero_param_desc_t;
/* Sets the defaults of *desc; size is sizeof(zero_param_desc_t) in the caller's header. */
ZERO_API void zero_param_desc_init_size(zero_param_desc_t *desc, size_t size);
static inline void zero_param_desc_init(zero_param_desc_t *desc)
{
    zero_param_desc_init_size(desc, sizeof *desc);
}

/* Adds a parameter to a unit. *desc and its name are copied. */
ZERO_API zero_status_t zero_param_add(zero_engine_t *engine, zero_unit_t unit,
                                      const zero_param_desc_t *desc, zero_param_t *param);

typedef enum zero_pass_kind {
    ZERO_PASS_TRAIN = 0, /* uses in the declared order, with gradients; at most one such pass */
    ZERO_PASS_EVAL,      /* uses in the declared order, without gradients */
    ZERO_PASS_ANY_ORDER  /* declares no uses; gathers any unit on demand, one at a time */
} zero_pass_kind_t;

/* Adds a pass. name is copied; it must be unique among passes. */
ZERO_API zero_status_t zero_pass_add(zero_engine_t *engine, const char *name, zero_pass_kind_t kind,
                                     zero_pass_t *pass);

enum {
    ZERO_READ = 1,  /* the use reads the unit's parameters */
    ZERO_GRAD = 2,  /* the use adds to the unit's gradients */
    ZERO_HOLD = 4,  /* the unit stays held while the next use is acquired; release it after that
                      use's release at the latest */
    ZERO_REDUCE = 8 /* with ZERO_GRAD: what the unit's uses have added so far is reduced after this
                       use, not after the unit's last one, and the gradient is zero at the next
                       one. So it takes no memory between them; but sums are rounded once more.
                       No effect where each rank sums its micro-steps (ZERO_REDUCE_LAST) */
};
/* Adds a use to a pass: one call for each acquire, in order. A unit may have several uses. */
ZERO_API zero_status_t zero_use_add(zero_engine_t *engine, zero_pass_t pass, zero_unit_t unit,
                                    uint32_t flags);

/* Reserves memory for the caller, aligned to 128 bytes and counted in the forecast. kind is
 * ZERO_KIND_ACTIVATIONS, ZERO_KIND_WORKSPACE or ZERO_KIND_CACHE. tier is the device tier, or the
 * host tier: memory that host and device can both read and write. It holds zeros after zero_commit.
 * May fail with: ZERO_ERR_UNSUPPORTED for another tier; the engine stays usable. */
ZERO_API zero_status_t zero_reserve(zero_engine_t *engine, zero_kind_t kind, zero_tier_t tier,
                                    uint64_t bytes, zero_reserve_t *reserve);

/* ---- engine: tensor and context parallelism ------------------------------------------------- */

/* With config.mesh.tensor T above 1, T consecutive ranks compute each layer together. Each has its
 * part of the parameters with split_dim, and the whole of the others. What they compute apart, they
 * exchange in collectives of activations that the program declares, so that zero_commit counts them
 * and each call can be checked.
 *
 *     declare   zero_param_add with split_dim; zero_collective_add after the zero_use_add to which
 *               a collective belongs, in the order of the calls
 *     train     as always, and zero_collective between zero_acquire and zero_release of that use
 *
 * Sums that ranks need of their losses, zero_sum and zero_step_weight, count each of the T ranks:
 * all but one of them pass 0.
 *
 * With config.mesh.context above 1, ranks exchange parts of sequences by the same calls, along
 * ZERO_AXIS_CONTEXT. Below, T is then their number, and a place is that along this axis. */

typedef enum zero_collective_kind {
    ZERO_COLLECTIVE_GATHER = 0,     /* recv (T * count) = the send (count) of each rank, in order */
    ZERO_COLLECTIVE_REDUCE_SCATTER, /* recv (count) = the sum over ranks of those elements of send
                                       (T * count) that are at place * count */
    ZERO_COLLECTIVE_SUM             /* recv (count) = the sum over ranks of send (count); T divides
                                       count */
} zero_collective_kind_t;

/* Declares a collective of the use that was added last, with elements of a dtype.
 * axis: ZERO_AXIS_TENSOR or ZERO_AXIS_CONTEXT. With T = 1 the call does nothing. */
ZERO_API zero_status_t zero_collective_add(zero_engine_t *engine, zero_pass_t pass,
                                           zero_axis_t axis, zero_collective_kind_t kind,
                                           int64_t count, zero_dtype_t dtype);
/* Runs the next declared collective, on the compute stream, with memory of the device. Sums are
 * made in the order of places in fp32, and rounded once. In place: the part of this rank's place in
 * the larger buffer is the smaller one, or for a sum send is recv; otherwise the buffers do not
 * overlap. With T = 1 it copies send to recv, unless they are the same.
 * When: while the use is held to which it belongs, before the next zero_acquire.
 * May fail with: ZERO_ERR_ORDER if another collective, or none, is declared here; the sentence
 * names both. ZERO_ERR_MISMATCH and ZERO_ERR_PEER as for all collectives. */
ZERO_API zero_status_t zero_collective(zero_engine_t *engine, zero_axis_t axis,
                                       zero_collective_kind_t kind, const void *send, void *recv,
                                       int64_t count, zero_dtype_t dtype);
/* Fills shape with the dimensions of this rank's part of a parameter, as zero_param_data has it:
 * with the zeros behind a part that is shorter. Entries from its number of dimensions on are 1. */
ZERO_API zero_status_t zero_param_local(zero_engine_t *engine, zero_param_t param,
                                        int64_t shape[ZERO_MAX_DIMS]);

/* ---- engine: pipelines ---------------------------------------------------------------------- */

/* With config.mesh.pipe P above 1, the model is cut into chunks, and each stage computes some of
 * them. (P may be 1, with one chunk.) Chunk c receives its input from chunk c - 1 and hands its
 * output to chunk c + 1; a backward pass hands the gradient of the input back. All ranks declare
 * all units and chunks. Of a unit, a rank has memory only if its stage uses it. At most two stages
 * use the same unit, such as a tied embedding; its gradients are then summed over both.
 *
 *     declare   zero_chunks, zero_chunk_link, zero_chunk_reserve; in each pass, zero_task_add
 *               before the zero_use_add calls of a task: of the training pass, the forward tasks of
 *               chunks 0, 1, ... and the backward tasks of ..., 1, 0; of an evaluation the forward
 *               tasks
 *     train     for each step:
 *                   zero_tasks_begin
 *                   until zero_task_next says ZERO_TASKS_END: the work of its task, with
 *                       zero_acquire and zero_release as in a micro-step
 *                   zero_step
 *
 * A step has exactly config.micro_steps micro-steps. Their tasks come in the order of
 * config.schedule. zero_commit proves that no order of sends and receives lets stages wait for each
 * other forever, and that no task finds another micro-step's data. */

typedef enum zero_phase { ZERO_FORWARD = 0, ZERO_BACKWARD = 1, ZERO_TASKS_END = 2 } zero_phase_t;

/* Declares count chunks. Stage c modulo P computes chunk c. count is P, or with
 * ZERO_SCHEDULE_INTERLEAVED a multiple of P, if P is above 1. */
ZERO_API zero_status_t zero_chunks(zero_engine_t *engine, int32_t count);
/* Declares what a chunk hands to the next one in each micro-step: elements of a dtype, at least 1.
 * Every chunk but the last has a link. */
ZERO_API zero_status_t zero_chunk_link(zero_engine_t *engine, int32_t chunk, int64_t elements,
                                       zero_dtype_t dtype);
/* Reserves memory of a chunk on the device or the host tier, as zero_reserve does. Of
 * ZERO_KIND_ACTIVATIONS, for each micro-step whose forward task has begun and whose backward task
 * has not ended. Of ZERO_KIND_WORKSPACE, for any task: a stage has as much as the largest of its
 * chunks needs. Several calls add up. */
ZERO_API zero_status_t zero_chunk_reserve(zero_engine_t *engine, int32_t chunk, zero_kind_t kind,
                                          zero_tier_t tier, uint64_t bytes);
/* Begins a task of a pass: the zero_use_add calls that follow are of it, up to the next task. */
ZERO_API zero_status_t zero_task_add(zero_engine_t *engine, zero_pass_t pass, int32_t chunk,
                                     zero_phase_t phase);

/* Builds the plan, checks it, compares its hash over the ranks, and allocates memory. Parameters
 * and state are zero afterwards. With plan_world it only plans and checks. Rank 0 logs a warning
 * for declarations that are legal but probably a mistake: ZERO_GRAD for a frozen unit, a unit that
 * no pass uses, a training pass without uses.
 * Collective: all ranks succeed, or all fail and can only call zero_destroy.
 * When: once, after the declarations.
 * May fail with: ZERO_ERR_MISMATCH if ranks differ in declarations or options. ZERO_ERR_MEMORY if
 * the plan does not fit; the sentence has the numbers. ZERO_ERR_ARG for what only the whole
 * declaration shows, such as a trainable parameter without gradients or too many held units. */
ZERO_API zero_status_t zero_commit(zero_engine_t *engine);

/* ---- engine: training ----------------------------------------------------------------------- */

enum { ZERO_LAST = 1 }; /* the last micro-step of the step */

/* Begins a micro-step of the training pass, or a run of another pass. Ranks that begin different
 * passes get ZERO_ERR_MISMATCH, or ZERO_ERR_PEER with the sentence of the rank that noticed first.
 * The sentence names what each rank was doing. It comes from this call, from a later call that
 * waits for other ranks, or from zero_step at the latest.
 * Collective, as are all calls up to zero_step: every rank begins the same passes in the same
 * order.
 * When: no pass is open, zero_step is not due, and the step has fewer than config.micro_steps
 * micro-steps. */
ZERO_API zero_status_t zero_micro_begin(zero_engine_t *engine, zero_pass_t pass, uint32_t flags);

/* Acquires the next use of the unit in the declared order. From here on, on the engine's compute
 * stream (CPU: in the calling thread), kernels may read the unit's parameters and, if the use has
 * ZERO_GRAD, add to its gradients. Gradients are zero at the first use in a micro-step, or hold the
 * sum so far if they are reduced once a step. Earlier uses that were not acquired are skipped;
 * their gathers and reductions still run, and a skipped gradient counts as zero.
 *
 * CUDA graphs: addresses are constant. A program may capture the kernels between an acquire and its
 * release once, on zero_stream, and launch the graph between every later acquire and release of
 * that use. The graph does not contain the engine's work. While the compute stream is captured, all
 * calls that run something return ZERO_ERR_ORDER, and the capture continues.
 * When: inside a pass; the unit is not held and has a further use. */
ZERO_API zero_status_t zero_acquire(zero_engine_t *engine, zero_unit_t unit);

/* Ends the use: work that the caller has queued on the compute stream so far was its last. After
 * the unit's last use with ZERO_GRAD, the reduction starts behind that work.
 * When: the unit is held. */
ZERO_API zero_status_t zero_release(zero_engine_t *engine, zero_unit_t unit);

/* Ends the micro-step or run. Remaining uses are skipped; their gathers and reductions still run.
 * When: inside a pass, with no unit held. */
ZERO_API zero_status_t zero_micro_end(zero_engine_t *engine);

/* A task of this rank's stage. Buffers have constant addresses, a few for each chunk; NULL: the
 * task has no such buffer. */
typedef struct zero_task {
    size_t size;             /* set by the caller */
    int32_t chunk, micro;    /* micro: the micro-step, from 0 */
    zero_phase_t phase;      /* ZERO_TASKS_END: there is none left, and the other members are 0 */
    const void *input;       /* what the chunk before handed over; the backward task has it, too */
    void *output;            /* of a forward task: what the next chunk receives */
    const void *output_grad; /* of a backward task: the gradient of output */
    void *input_grad;        /* of a backward task: the gradient of input, which it must write */
    void *kept, *kept_host;  /* what zero_chunk_reserve has reserved, for this micro-step alone */
    void *workspace, *workspace_host; /* the same for all tasks; contents stay */
} zero_task_t;

/* Begins the tasks of all micro-steps of a step, or of a run of an evaluation pass.
 * Collective, as are all calls up to zero_step.
 * When: with chunks; no pass is open, and zero_step is not due. */
ZERO_API zero_status_t zero_tasks_begin(zero_engine_t *engine, zero_pass_t pass);
/* Ends the task before it, which sends what that has written, and begins the next one of this
 * rank's stage: waits until its input, or output_grad, has arrived (a GPU: its compute stream
 * waits). At the end of the tasks it ends the pass.
 * When: after zero_tasks_begin, with no unit held. */
ZERO_API zero_status_t zero_task_next(zero_engine_t *engine, zero_task_t *task);

/* Returns the number of stages, or this rank's stage; 1 and 0 without a pipeline. */
ZERO_API int zero_pipe_size(const zero_engine_t *engine);
ZERO_API int zero_pipe_index(const zero_engine_t *engine);
/* Returns the number of ranks that need different data in a step, and this rank's place among them:
 * those of a stage, where ranks of tensor and context parallelism count as one. Ranks with the same
 * place here work on the same data. */
ZERO_API int zero_data_size(const zero_engine_t *engine);
ZERO_API int zero_data_index(const zero_engine_t *engine);

/* Divides layers among stages, so that the largest sum of a stage's costs is as small as possible,
 * and then the costs as equal as possible. For several chunks a stage, stages counts chunks.
 * cost: of each layer, above 0; NULL: all cost the same. first and last are added to those of the
 * first and the last stage: an embedding, a head. Fills stage[layers], with every stage in order.
 * May fail with: ZERO_ERR_ARG, without a sentence, if there are fewer layers than stages;
 * ZERO_ERR_MEMORY. */
ZERO_API zero_status_t zero_map_even(int32_t layers, int32_t stages, const double *cost,
                                     double first, double last, int32_t *stage);

/* Checks that count entries, layer[i] on stage[i], put each of the layers on one stage, that each
 * stage has some, and that stages have consecutive layers in order. Fills stage_of[layers].
 * May fail with: ZERO_ERR_ARG; the sentence names all layers that are missing, that come twice, and
 * that do not exist. */
ZERO_API zero_status_t zero_map_check(int32_t layers, int32_t stages, const int32_t *layer,
                                      const int32_t *stage, int32_t count, int32_t *stage_of,
                                      zero_error_t *error);

/* Computes the norm, clips, updates, and publishes the parameters. lr is at least 0 and the same on
 * every rank. If the norm is not finite, the step is skipped: nothing is updated. Returns early
 * where possible; later calls report failures of work that is still running.
 * Collective.
 * When: after a micro-step with ZERO_LAST.
 * May fail with: ZERO_ERR_MISMATCH if ranks differ in lr or in the calls they made. */
ZERO_API zero_status_t zero_step(zero_engine_t *engine, double lr);

/* Sets this rank's share of the weight of the next zero_step: the number of targets that its
 * gradients count, for instance. That step multiplies the summed gradients by config.grad_scale
 * divided by the sum of the weights of all ranks. Gradients of sums then become those of a mean,
 * however unequal the ranks' counts are. Weights are added in rank order. If the sum is 0,
 * gradients count as 0. Without this call a step multiplies by grad_scale alone. The weight is not
 * kept: call it for each step, on every rank or on none.
 * May fail with: ZERO_ERR_ARG if weight is not 0 to 2^53. The next zero_step fails with
 * ZERO_ERR_MISMATCH if only some ranks made the call.
 * When: any time between one zero_step and the next. */
ZERO_API zero_status_t zero_step_weight(zero_engine_t *engine, double weight);

/* Sets *scale to the factor by which the caller multiplies the loss of the next zero_step, and so
 * every gradient of its micro-steps, before they are rounded to fp16. The step divides by it: norm,
 * clip factor and update are those of the loss itself. A factor that is a power of two does not
 * change their bits, unless gradients overflow or underflow. *scale is the same on every rank.
 *
 * The scale is config.loss_scale. With config.growth_interval it is dynamic, like that of PyTorch's
 * torch.amp.GradScaler: after a step whose norm is not finite, and which is therefore skipped, it
 * is multiplied by config.backoff_factor. After growth_interval updates in a row it is multiplied
 * by config.growth_factor, unless the product exceeds the range of fp32. Checkpoints contain a
 * dynamic scale. zero_load restores it in an engine whose scale is dynamic; if the checkpoint has
 * none, the scale begins anew with config.loss_scale.
 *
 * Waits for the last step's exchange, but not for its update.
 * When: any time between one zero_step and the next; the scale stays the same until then.
 * May fail with: ZERO_ERR_ARG with ZERO_REASON_LOSS_SCALE if the last step was skipped although the
 * scale was config.min_loss_scale, so that it cannot shrink. The sentence names the step, and the
 * unit where gradients were first not finite. The engine stays usable: zero_load of an earlier
 * checkpoint restores an earlier scale. */
ZERO_API zero_status_t zero_loss_scale(zero_engine_t *engine, float *scale);

/* Returns the compute stream, on which acquire and release are ordered: a cudaStream_t. NULL on the
 * CPU, where it is the calling thread, and before zero_commit.
 * Owner: the engine, or the caller who passed it in zero_device_options_t. */
ZERO_API void *zero_stream(zero_engine_t *engine);

/* Waits until all work queued on the compute stream is done. The host can then read what kernels
 * wrote to host memory. Returns at once on the CPU.
 * May fail with: ZERO_ERR_PEER if another rank failed meanwhile, ZERO_ERR_TIMEOUT after
 * config.timeout_s. */
ZERO_API zero_status_t zero_wait(zero_engine_t *engine);

/* Bytes that a rank moves: received in collectives, as the communicator counts them; copied between
 * the device and the host tier; read from and written to the nvme tier. */
typedef struct zero_traffic {
    uint64_t gathered, reduced, to_host, to_device, read, written;
    uint64_t replica_gathered, replica_reduced; /* of these, what comes from other replicas */
    uint64_t node_gathered;        /* what is gathered inside a node (config.mesh.node) */
    uint64_t activations_received; /* through links of a pipeline */
    uint64_t gradients_received;
    uint64_t collected; /* in zero_collective */
} zero_traffic_t;

/* What an engine has done since it was committed, where a member does not say otherwise. */
typedef struct zero_stats {
    size_t size;            /* set by the caller */
    int64_t step;           /* steps taken, including skipped ones */
    int64_t skipped;        /* steps skipped because the gradient norm was not finite */
    bool applied;           /* whether the last step's update was applied */
    double grad_norm;       /* of the last step, without loss scale, after grad_scale, before
                               clipping */
    double clip_factor;     /* that multiplied the last step's gradients */
    uint32_t signals;       /* OR of zero_signal over the ranks, as of the last step */
    zero_traffic_t traffic; /* of finished operations; does not wait for those still running */
    double comm_seconds, kernel_seconds, total_seconds; /* host time in collectives, in flat
                                                           kernels, in the library */
    const char *not_finite; /* of the last step: the first unit, in the order of the backward pass,
                               with a gradient that is not finite. NULL: none. Valid until
                               zero_destroy */
    double exposed_seconds; /* for which the compute stream waited for other streams: communication,
                               copies, updates and reads that the program's own work does not hide.
                               CPU: the calling thread's, in waits and in collectives that it runs
                               itself. GPU: only while a trace is on, as zero_trace_read finds it */
    double weight;     /* of the last step: the sum of the ranks' zero_step_weight; -1: not set */
    double loss_scale; /* by which the last step divided its gradients; 1 before the first step */
} zero_stats_t;

/* Fills *stats. Waits for the last step's exchange, but not for its update. */
ZERO_API zero_status_t zero_step_stats(zero_engine_t *engine, zero_stats_t *stats);

/* Adds bits to the word that the next zero_step combines by OR over the ranks, for stop requests.
 * Async-signal-safe. */
ZERO_API void zero_signal(zero_engine_t *engine, uint32_t bits);

/* Replaces each values[i], in host memory, by its sum over the ranks, added in rank order, and
 * waits for it. n is 0 to 64 and the same on every rank. Inside a pass, every rank has acquired and
 * released the same uses.
 * Collective.
 * When: not between zero_tasks_begin and ZERO_TASKS_END.
 * May fail with: ZERO_ERR_MISMATCH if n differs or a rank makes another call, or ZERO_ERR_PEER with
 * the sentence of the rank that noticed first. */
ZERO_API zero_status_t zero_sum(zero_engine_t *engine, double *values, int n);

/* Publishes a failure of the caller's. Waits, and all later calls, then return ZERO_ERR_PEER with
 * this sentence on this rank and the others; NULL stands for a general one. Only zero_destroy works
 * afterwards. May be called from any thread, beside another call, which then ends; not from signal
 * handlers. */
ZERO_API void zero_abort(zero_engine_t *engine, const char *sentence);

/* Sets the number of steps taken and of updates applied (at most as many), to resume training. The
 * optimizer's bias correction counts applied updates. The values are the same on every rank; the
 * next step checks that.
 * When: between steps. */
ZERO_API zero_status_t zero_set_step(zero_engine_t *engine, int64_t step, int64_t applied);

/* ---- engine: trace -------------------------------------------------------------------------- */

/* One operation of the plan as it ran. The strings are the library's and constant. */
typedef struct zero_trace_span {
    size_t size;
    const char *stream;    /* that it ran on: "compute", "gather", "reduce", "update", "copy",
                              "host", "io", "save", links of a pipeline: "from-prev", "to-next",
                              "from-next", "to-prev"; "caller": the calling thread waited;
                              "tasks": a TASK, which contains what "compute" does meanwhile */
    const char *operation; /* as zero_explain prints it. "USE" is the program's own work on the
                              compute stream, from the return of zero_acquire to the call of
                              zero_release. "WAIT": that stream stood still for another one */
    const char *unit;      /* NULL: none */
    const char *program;   /* "only", "first", "middle" or "last" of the micro-steps of a step;
                              "step"; "eval" or "any" of other passes; "save" */
    const char *pass;      /* NULL: none */
    int32_t index;         /* its place among the operations of its program, from 0 */
    uint32_t flags;    /* USE: ZERO_READ | ZERO_GRAD. TASK, SEND, RECV: ZERO_GRAD if the task is a
                              backward one */
    uint64_t bytes;    /* received from other ranks, or moved between tiers */
    int64_t step;      /* from 1; of a pass between two steps, the one before it */
    int32_t micro;     /* micro-step of the step, from 1; 0: outside of micro-steps. In a
                              pipeline that of the task, or of the task that runs when the operation
                              is issued */
    uint64_t begin_ns; /* of CLOCK_MONOTONIC. On a GPU's streams the GPU's clock, converted; the
                              conversion is off by some microseconds */
    uint64_t end_ns;
    int32_t chunk; /* TASK, SEND, RECV: the chunk of the task; else -1 */
} zero_trace_span_t;

/* Receives an operation; span is valid during the call. Calls no function of the engine that
 * returns a status. */
typedef void (*zero_trace_fn)(void *ctx, const zero_trace_span_t *span);

/* Starts to record when each operation begins and ends. Allocates room for the operations of steps
 * steps with config.micro_steps micro-steps each, or of as many runs of another pass. A program
 * that calls zero_trace_read after each step and each run needs 2, since updates of a step may run
 * during the next one.
 * When: between steps; no trace is on.
 * May fail with: ZERO_ERR_MEMORY; the engine stays usable. */
ZERO_API zero_status_t zero_trace_begin(zero_engine_t *engine, int steps);

/* Calls fn (NULL: nothing) for each operation that has ended since the last call, stream by stream,
 * in the order of each stream, and frees their room. Does not wait for those that still run. *lost
 * (NULL: nowhere) becomes the number of operations since the last call that were not recorded,
 * because there was no room; the log then has a warning, too.
 * When: a trace is on; no pass is open. */
ZERO_API zero_status_t zero_trace_read(zero_engine_t *engine, zero_trace_fn fn, void *ctx,
                                       uint64_t *lost);

/* Does the same after waiting for all operations in flight, then ends the trace. zero_destroy ends
 * it, too, and drops what was not read.
 * When: a trace is on; no pass is open. */
ZERO_API zero_status_t zero_trace_end(zero_engine_t *engine, zero_trace_fn fn, void *ctx,
                                      uint64_t *lost);

/* ---- engine: contents ----------------------------------------------------------------------- */

/* Returns the address of the parameter in its dtype and whole shape, or of its gradient. Addresses
 * never change. The contents are valid between acquire and release. Returns NULL before
 * zero_commit, for an unknown or empty parameter, and for the gradient of a frozen one. */
ZERO_API void *zero_param_data(zero_engine_t *engine, zero_param_t param);
ZERO_API void *zero_param_grad(zero_engine_t *engine, zero_param_t param);
/* Returns the address of reserved memory. NULL before zero_commit. */
ZERO_API void *zero_reserved(zero_engine_t *engine, zero_reserve_t reserve);

/* Finds the parameter of this name; also before zero_commit. After it, also finds the tensor of
 * this name that parameters are tiles of (zero_param_desc_t.piece_of). Its id has a name and
 * elements, but no address; to read, fill, get and set it is one parameter.
 * May fail with: ZERO_ERR_ARG if there is none. */
ZERO_API zero_status_t zero_param_find(zero_engine_t *engine, const char *name,
                                       zero_param_t *param);
/* Returns the number of parameters. Ids are 0 to that number minus 1, in the order of
 * zero_param_add. 0 for NULL. */
ZERO_API int32_t zero_param_count(const zero_engine_t *engine);
/* Returns the name, and the number of elements, of a parameter; NULL and 0 for an unknown id.
 * Owner: the engine owns the name. */
ZERO_API const char *zero_param_name(const zero_engine_t *engine, zero_param_t param);
ZERO_API int64_t zero_param_elements(const zero_engine_t *engine, zero_param_t param);

typedef enum zero_state {
    ZERO_STATE_PARAM = 0,
    ZERO_STATE_GRAD,
    ZERO_STATE_MASTER, /* fp32 weights; for fp32 parameters, the parameters themselves */
    ZERO_STATE_MOMENT1,
    ZERO_STATE_MOMENT2
} zero_state_t;

/* Writes fp32 values of elements [begin, begin + count) of the parameter, row-major, to out. Must
 * give the same values for the same range on every rank. Returns 0, or -1 to fail the fill, and
 * with it the engine on every rank (ZERO_ERR_IO on this one). The library calls it from the thread
 * that fills, for ranges in ascending order. */
typedef int (*zero_fill_fn)(void *ctx, zero_param_t param, int64_t begin, int64_t count,
                            float *out);
/* Sets the values of the ranges that this rank keeps: fp32 master weights, and parameters rounded
 * from them. Waits for updates in flight.
 * Collective.
 * When: between passes. */
ZERO_API zero_status_t zero_param_fill(zero_engine_t *engine, zero_param_t param, zero_fill_fn fn,
                                       void *ctx);

/* Receives fp32 values of elements [begin, begin + count). Returns 0, or -1 to end the read with
 * ZERO_ERR_IO; the engine stays usable. */
typedef int (*zero_read_fn)(void *ctx, zero_param_t param, int64_t begin, int64_t count,
                            const float *values);
/* Calls fn for the ranges that this rank owns; each element has one owner. Frozen parameters have
 * only ZERO_STATE_PARAM. Waits for updates in flight.
 * When: after zero_commit; inside passes, too. Gradients: from the zero_micro_end of a step's last
 * micro-step to the next training micro-step. */
ZERO_API zero_status_t zero_param_read(zero_engine_t *engine, zero_param_t param,
                                       zero_state_t state, zero_read_fn fn, void *ctx);

/* Gathers the whole state of a parameter from the ranks, converts it to dtype, and writes it to
 * values: host memory for all elements, row-major. Ranks that do not want it pass NULL. Uses 64 KiB
 * per rank during the call.
 * Collective: with the same param and state. If they differ, or one rank's call is refused, every
 * rank gets ZERO_ERR_ARG and stays usable.
 * When: between passes; gradients as for zero_param_read. */
ZERO_API zero_status_t zero_param_get(zero_engine_t *engine, zero_param_t param, zero_state_t state,
                                      zero_dtype_t dtype, void *values);

/* Sets the whole state of a parameter from values, which is the same on every rank.
 * ZERO_STATE_PARAM and ZERO_STATE_MASTER are equivalent: both set the fp32 master weights, and the
 * parameters rounded from them. Setting gradients makes the step compute its norm anew. 8-bit
 * moments are rounded to their code.
 * Collective.
 * When: between passes; gradients as for zero_param_read. */
ZERO_API zero_status_t zero_param_set(zero_engine_t *engine, zero_param_t param, zero_state_t state,
                                      zero_dtype_t dtype, const void *values);

/* ---- engine: plan and memory ---------------------------------------------------------------- */

/* Larger than the numbers of tiers and kinds, so that zero_memory_t keeps its size. */
enum { ZERO_MAX_TIERS = 4, ZERO_MAX_KINDS = 16 };
/* Bytes of this rank, by tier and kind. */
typedef struct zero_memory {
    size_t size;                                    /* set by the caller */
    uint64_t bytes[ZERO_MAX_TIERS][ZERO_MAX_KINDS]; /* by zero_tier_t and zero_kind_t */
    uint64_t external; /* measured only: the process without the arenas */
} zero_memory_t;
/* Fills *memory with the bytes of this rank's arenas according to the plan. With plan_world they
 * are rank 0's.
 * When: after zero_commit. */
ZERO_API zero_status_t zero_forecast(zero_engine_t *engine, zero_memory_t *memory);
/* The same for any rank: ranks of other pipeline stages need other bytes. Asks no other rank. */
ZERO_API zero_status_t zero_forecast_at(zero_engine_t *engine, int rank, zero_memory_t *memory);
/* Fills *memory with the resident bytes of each arena as the system reports them. Memory from a
 * caller's allocator counts as it was allocated.
 * When: after zero_commit. */
ZERO_API zero_status_t zero_measure(zero_engine_t *engine, zero_memory_t *memory);

/* Fills *traffic with the bytes that this rank moves in a step of micro_steps micro-steps, 1 to
 * config.micro_steps, according to the plan.
 * When: after zero_commit. */
ZERO_API zero_status_t zero_forecast_traffic(zero_engine_t *engine, int micro_steps,
                                             zero_traffic_t *traffic);
/* The same for any rank. */
ZERO_API zero_status_t zero_forecast_traffic_at(zero_engine_t *engine, int rank, int micro_steps,
                                                zero_traffic_t *traffic);

/* Receives a piece of the plan's text. */
typedef void (*zero_write_fn)(void *ctx, const char *text, size_t bytes);
/* Prints the plan: its buffers, then the operations of each program. With several pipeline stages,
 * first the schedule, a row for each stage, and then the plan of each stage.
 * When: after zero_commit. */
ZERO_API zero_status_t zero_explain(zero_engine_t *engine, zero_write_fn write, void *ctx);
/* Returns a hash of everything on which ranks must agree. 0 before zero_commit. */
ZERO_API uint64_t zero_plan_hash(const zero_engine_t *engine);

/* ---- communicators -------------------------------------------------------------------------- */

/* How zero_comm_shm connects its ranks: an all-gather of small host buffers, which the caller
 * provides. all_gather returns 0, or -1 on failure. recv holds world * bytes, in rank order.
 * zero_comm_shm alone calls it, from the calling thread. */
typedef struct zero_bootstrap {
    size_t size;
    int rank, world;
    int (*all_gather)(void *ctx, const void *send, void *recv, size_t bytes);
    void *ctx;
} zero_bootstrap_t;

/* Options of communicators. zero_comm_options_init sets the defaults, which are in parentheses. */
typedef struct zero_comm_options {
    size_t size;
    double timeout_s;   /* bound of every wait (600) */
    size_t ring_bytes;  /* shared memory that each rank provides per channel; 0: chosen (0) */
    int ranks_per_node; /* for tests: ranks of a simulated node; 0: the real nodes (0) */
    zero_log_fn log;
    void *log_ctx;
    bool nccl_windows; /* zero_comm_nccl: engines register their memory as windows (false) */
} zero_comm_options_t;
/* Sets the defaults of *options; size is sizeof(zero_comm_options_t) in the caller's header. */
ZERO_API void zero_comm_options_init_size(zero_comm_options_t *options, size_t size);
static inline void zero_comm_options_init(zero_comm_options_t *options)
{
    zero_comm_options_init_size(options, sizeof *options);
}

/* Creates a communicator of one rank.
 * May fail with: ZERO_ERR_MEMORY.
 * Owner: the caller. The same holds for all communicators. */
ZERO_API zero_status_t zero_comm_self(zero_comm_t **comm, zero_error_t *error);

/* Creates a communicator of ranks on one node, which exchange through shared memory. options may be
 * NULL.
 * Collective over the bootstrap's ranks. */
ZERO_API zero_status_t zero_comm_shm(zero_comm_t **comm, const zero_bootstrap_t *bootstrap,
                                     const zero_comm_options_t *options, zero_error_t *error);

/* Creates a communicator of ranks that torchrun started (RANK, WORLD_SIZE, LOCAL_WORLD_SIZE,
 * MASTER_ADDR and MASTER_PORT in the environment). On one node it uses shared memory. On several it
 * uses sockets, which exchange small values and split, but move no tensors. That is what
 * zero_comm_nccl needs of its host communicator; zero_create on a CPU and zero_comm_staged return
 * ZERO_ERR_UNSUPPORTED for it, and their sentence names mpiexec. Rank 0 listens on MASTER_PORT or
 * one of the 7 ports after it. options may be NULL.
 * Collective. */
ZERO_API zero_status_t zero_comm_torchrun(zero_comm_t **comm, const zero_comm_options_t *options,
                                          zero_error_t *error);

/* Creates a communicator of MPI ranks; ranks of one node exchange through shared memory. mpi_comm
 * points to an MPI_Comm, which is duplicated; NULL stands for MPI_COMM_WORLD. If the caller has not
 * initialized MPI, the function does, and zero_comm_destroy of the last such communicator finalizes
 * it. options may be NULL.
 * Collective.
 * May fail with: ZERO_ERR_UNSUPPORTED in a build without MPI; also if MPI_COMM_WORLD has one rank
 * but OMPI_COMM_WORLD_SIZE or PMI_SIZE in the environment says more, because another MPI's launcher
 * started the ranks. */
ZERO_API zero_status_t zero_comm_mpi(zero_comm_t **comm, const void *mpi_comm,
                                     const zero_comm_options_t *options, zero_error_t *error);

/* Creates a communicator of the ranks that pass the same color, ordered by key, then by rank. It
 * may be destroyed before or after comm. zero_comm_abort of one of the two ends both. Colors are 0
 * or more; a rank that passes -1 takes part in the call, but gets no communicator: *out is NULL.
 * Collective: all ranks succeed, or all fail. */
ZERO_API zero_status_t zero_comm_split(zero_comm_t *comm, int color, int key, zero_comm_t **out,
                                       zero_error_t *error);

/* Returns this rank, from 0, and the number of ranks; -1 and 0 for NULL. */
ZERO_API int zero_comm_rank(const zero_comm_t *comm);
ZERO_API int zero_comm_size(const zero_comm_t *comm);
/* Returns "self", "shm", "tcp", "mpi" or "nccl"; "" for NULL. A staged communicator has the name of
 * the one below it. */
ZERO_API const char *zero_comm_name(const zero_comm_t *comm);
/* Whether it moves data, of the host's memory or a device's. false for "tcp", whose ranks need
 * zero_comm_nccl for that, and for NULL. */
ZERO_API bool zero_comm_has_data(const zero_comm_t *comm);

/* All-gathers bytes bytes of host memory from each rank: recv holds size * bytes, in rank order.
 * Returns when it is done. bytes is the same on every rank.
 * Collective.
 * May fail with: ZERO_ERR_PEER, ZERO_ERR_TIMEOUT, ...; later exchanges then fail in the same
 * way. */
ZERO_API zero_status_t zero_comm_exchange(zero_comm_t *comm, const void *send, void *recv,
                                          size_t bytes, zero_error_t *error);

/* Gives the outcome of what each rank did alone the same end on every rank. A rank passes its
 * status, and in *error (in and out) the failure if it is one.
 * Returns ZERO_OK if every rank passed ZERO_OK; otherwise, on every rank, the status and the
 * failure of the lowest rank that failed. *failed (may be NULL) becomes that rank; -1 if none
 * failed, or if the ranks could not exchange their outcomes, which is then the failure unless this
 * rank has one of its own.
 * Collective. */
ZERO_API zero_status_t zero_comm_agree(zero_comm_t *comm, zero_status_t status, int *failed,
                                       zero_error_t *error);

/* Publishes a failure: every wait of every rank on this communicator, and on those split from it,
 * ends with ZERO_ERR_PEER and this sentence; NULL stands for a general one. The first sentence
 * stays. May be called from any thread, beside any other call. */
ZERO_API void zero_comm_abort(zero_comm_t *comm, const char *sentence);

/* Destroys the communicator. Accepts NULL. An engine has its own duplicates, so the communicator
 * passed to it may be destroyed once the engine is committed.
 * Collective, except after zero_comm_abort. */
ZERO_API void zero_comm_destroy(zero_comm_t *comm);

/* ---- devices -------------------------------------------------------------------------------- */

/* Memory from the caller in place of the library's. zero_commit makes one reservation per engine
 * and tier (device, host), and keeps it until zero_destroy. Each communicator of zero_comm_staged
 * on the device makes one of the host tier, and so does each that is split from it (an engine
 * splits two), until it is destroyed. The library calls the functions from the thread that commits
 * or destroys.
 *
 * allocate returns NULL if there is no memory, which fails the commit. Its result is a multiple of
 * alignment, a power of two up to 2 MiB; contents need not be zero. For a GPU, the host tier is
 * memory pinned by CUDA (cudaHostAlloc or cudaHostRegister, portable), and the device tier memory
 * of that GPU (cudaMalloc or a pool, not managed memory). After a GPU failure, memory that the GPU
 * may still access is leaked rather than released. */
typedef struct zero_allocator {
    size_t size; /* sizeof(zero_allocator_t) */
    void *(*allocate)(void *ctx, zero_tier_t tier, size_t bytes, size_t alignment);
    void (*release)(void *ctx, zero_tier_t tier, void *memory, size_t bytes);
    void *ctx;
} zero_allocator_t;

/* Options of devices. zero_device_options_init sets the defaults, which are in parentheses. */
typedef struct zero_device_options {
    size_t size;
    bool threaded;       /* CPU: copies and collectives on worker threads, as on a GPU (false) */
    uint64_t delay_seed; /* for tests, if threaded: random delays before operations (0: none) */
    int threads;         /* OpenMP threads of flat kernels on the host; 0: OpenMP's default (0) */
    int index;           /* CUDA: the GPU, as CUDA_VISIBLE_DEVICES numbers them (0) */
    void *stream; /* CUDA: the caller's cudaStream_t of this GPU, on which acquire and release
                     are ordered. Borrowed; must outlive the engines. NULL: the device makes
                     one for each engine. The legacy default stream is cudaStreamLegacy
                     (NULL) */
    const zero_allocator_t *allocator; /* copied; NULL: the library's own memory (NULL) */
} zero_device_options_t;
/* Sets the defaults of *options; size is sizeof(zero_device_options_t) in the caller's header. */
ZERO_API void zero_device_options_init_size(zero_device_options_t *options, size_t size);
static inline void zero_device_options_init(zero_device_options_t *options)
{
    zero_device_options_init_size(options, sizeof *options);
}

/* Opens the CPU as a device. options may be NULL.
 * Owner: the caller. */
ZERO_API zero_status_t zero_device_cpu(zero_device_t **device, const zero_device_options_t *options,
                                       zero_error_t *error);

/* Opens a GPU as a device, and makes it the calling thread's current GPU (cudaSetDevice). The same
 * happens to every thread that calls the library with an engine on this device. options may be
 * NULL.
 *
 * An engine uses up to ten streams. CUDA gives a process eight connections to a GPU by default, and
 * work on streams that share a connection may wait for each other. Set
 * CUDA_DEVICE_MAX_CONNECTIONS=32 in the environment before the first CUDA call, as zero_train does.
 * The library does not change the environment.
 * May fail with: ZERO_ERR_UNSUPPORTED if the build has no CUDA, or the machine has no GPU, no
 * driver, or too old a driver.
 * Owner: the caller. */
ZERO_API zero_status_t zero_device_cuda(zero_device_t **device,
                                        const zero_device_options_t *options, zero_error_t *error);

/* Returns the number of GPUs that zero_device_cuda can open; 0 if it can open none for any reason.
 * Cheap where there is no driver. Otherwise it initializes CUDA in this process; children that it
 * forks then cannot use CUDA unless they exec. */
ZERO_API int zero_cuda_devices(void);
/* Returns "cpu" or "cuda"; "" for NULL. */
ZERO_API const char *zero_device_name(const zero_device_t *device);
/* Returns the manufacturer's name, such as "NVIDIA H200"; "" if it is unknown, on the CPU, and for
 * NULL.
 * Owner: the device. */
ZERO_API const char *zero_device_label(const zero_device_t *device);
/* Destroys the device. Accepts NULL.
 * When: after the engines that use it. */
ZERO_API void zero_device_destroy(zero_device_t *device);

/* ---- communicators for a GPU's memory ------------------------------------------------------- */

/* Creates a communicator that moves a device's memory through host memory, over inner, which it
 * takes over on success. It stages data in staging_bytes of pinned host memory (0: 8 MiB; none for
 * one rank). Use it for GPUs without NCCL, and for several ranks that share a GPU. Its sums have
 * the same bits as on the CPU. zero_comm_destroy waits for collectives queued on the device's
 * streams.
 * Collective over inner: all ranks succeed, or all fail and keep inner.
 * Owner: device is borrowed and must outlive the communicator. */
ZERO_API zero_status_t zero_comm_staged(zero_comm_t **comm, zero_comm_t *inner,
                                        zero_device_t *device, uint64_t staging_bytes,
                                        zero_error_t *error);

/* Creates a communicator of GPUs through NCCL, one per rank. host is a host-memory communicator
 * over the same ranks, used for bootstrap, small exchanges, failure notification and splitting.
 * nccl_comm is NULL, or the caller's own ncclComm_t over the same ranks, which must not be in use
 * during the call (best created with blocking = 0). It is split once, to share its set-up. options
 * may be NULL. NCCL is libnccl.so.2 as the loader finds it, or the file that ZERO_NCCL_LIBRARY
 * names in the environment.
 *
 * Collectives run on streams. If a rank fails, ends, or is late by more than the time limit, the
 * collective ends on every rank, and the next call on the engine or communicator returns the
 * sentence.
 *
 * With options' nccl_windows, engines register their device memory as symmetric windows of NCCL,
 * through which GPUs can read each other's memory directly. Every rank sets it alike. Sums may then
 * have other bits than without it. If NCCL makes no window for these GPUs, the library logs a
 * warning and registers the memory as it does without the option.
 * Collective over host: all ranks succeed, or all fail.
 * May fail with: ZERO_ERR_UNSUPPORTED if this build, machine or NCCL is unsuitable, or two ranks
 * have the same GPU (zero_comm_staged works for them); host stays usable. A failure inside NCCL
 * aborts host. With nccl_windows also if NCCL is older than 2.27; then zero_commit may fail with it
 * too, if the GPU has no memory that other processes can map, or the device has an allocator.
 * Owner: host and device are borrowed and must outlive the communicator and those split from it;
 * nccl_comm stays the caller's. */
ZERO_API zero_status_t zero_comm_nccl(zero_comm_t **comm, zero_comm_t *host, zero_device_t *device,
                                      void *nccl_comm, const zero_comm_options_t *options,
                                      zero_error_t *error);

/* ---- tensors in files (safetensors) --------------------------------------------------------- */

typedef struct zero_tensors zero_tensors_t;

/* A tensor as its file describes it. */
typedef struct zero_tensor_info {
    size_t size;      /* set by the caller */
    const char *name; /* owned by the zero_tensors_t */
    char dtype[8];    /* as the file spells it: "F32", "BF16", "F16", "I64", ... */
    int32_t ndim;
    int64_t shape[ZERO_MAX_DIMS];
    int64_t count; /* elements */
} zero_tensor_info_t;

/* Opens a .safetensors file, an index (.json with "weight_map"), or a folder that contains
 * model.safetensors or model.safetensors.index.json. Validates the whole headers: lengths,
 * overlaps, gaps, shapes, duplicates. Reads no data. An index lists every tensor of its shards,
 * which are in its folder; a tensor that is missing in it, or listed for another shard, is an
 * error. A git-lfs pointer in place of a file is an error that says so.
 * May fail with: ZERO_ERR_IO, ZERO_ERR_FORMAT, ZERO_ERR_MEMORY.
 * Owner: the caller, until zero_tensors_close. */
ZERO_API zero_status_t zero_tensors_open(zero_tensors_t **tensors, const char *path,
                                         zero_error_t *error);
/* Returns the number of tensors; 0 for NULL. Tensors are numbered from 0, in the byte order of
 * their names. */
ZERO_API int zero_tensors_count(const zero_tensors_t *tensors);
/* Fills *info for a tensor.
 * May fail with: ZERO_ERR_ARG, without a sentence, for an unknown number or if info->size is not
 * set. */
ZERO_API zero_status_t zero_tensors_at(const zero_tensors_t *tensors, int index,
                                       zero_tensor_info_t *info);
/* Returns the number of the tensor with this name, or -1. */
ZERO_API int zero_tensors_find(const zero_tensors_t *tensors, const char *name);
/* Reads elements [begin, begin + count) as fp32; the file's dtype is F32, BF16 or F16. Reads only
 * the bytes of that range. Any number of threads may read at the same time.
 * May fail with: ZERO_ERR_IO; ZERO_ERR_UNSUPPORTED for another dtype. */
ZERO_API zero_status_t zero_tensors_read(const zero_tensors_t *tensors, int index, int64_t begin,
                                         int64_t count, float *out, zero_error_t *error);
/* Returns the text under a key of the first file's "__metadata__"; NULL if there is none. Files of
 * zero_tensors_create have "format" ("pt") and "producer" ("libzero").
 * Owner: the zero_tensors_t. */
ZERO_API const char *zero_tensors_metadata(const zero_tensors_t *tensors, const char *key);
/* Closes the files. Accepts NULL. */
ZERO_API void zero_tensors_close(zero_tensors_t *tensors);

typedef struct zero_tensors_writer zero_tensors_writer_t;

/* Opens files for tensors of known names and shapes, into which any number of processes write
 * disjoint ranges. Of each of the count tensors it reads size, name, dtype (F32, BF16 or F16), ndim
 * and shape. The files are BASE.safetensors in an existing folder, or, if the data exceed
 * file_bytes (0: no limit), BASE-00001-of-00003.safetensors, ... of at most this many bytes of data
 * (more only for a single tensor), and BASE.safetensors.index.json. Their contents depend on the
 * tensors and file_bytes alone.
 *
 * One process creates the files, with create true. Then the others open them with the same
 * arguments, and create false. Until zero_tensors_finish of the creator, names end in ".part", and
 * an earlier set of files of that base stays as it is. The creator replaces leftovers of a set that
 * was not finished. It reserves the space where the file system can do that. Bytes that nobody
 * writes are 0.
 * May fail with: ZERO_ERR_IO, ZERO_ERR_MEMORY, ZERO_ERR_MISMATCH if the files were created with
 * other arguments.
 * Owner: the caller, until zero_tensors_finish or zero_tensors_discard. */
ZERO_API zero_status_t zero_tensors_create(zero_tensors_writer_t **writer, const char *folder,
                                           const char *base, const zero_tensor_info_t *tensors,
                                           int count, uint64_t file_bytes, bool create,
                                           zero_error_t *error);
/* Rounds elements [begin, begin + count) of a tensor, a number from 0 in the order of
 * zero_tensors_create, to its dtype, and writes them. Any number of threads may write at the same
 * time.
 * May fail with: ZERO_ERR_IO. */
ZERO_API zero_status_t zero_tensors_write(zero_tensors_writer_t *writer, int index, int64_t begin,
                                          int64_t count, const float *values, zero_error_t *error);
/* Waits until the drive has what this process wrote, and closes the files. The creator calls it
 * last, after all others have succeeded. It then gives the files their names, which replaces an
 * earlier set of that base, and removes what is left of that. The last name is the one through
 * which readers find the set, so they find a whole set or none. Frees the writer in any case; after
 * a failure, the creator removes the files without a name.
 * May fail with: ZERO_ERR_IO. */
ZERO_API zero_status_t zero_tensors_finish(zero_tensors_writer_t *writer, zero_error_t *error);
/* Gives up: closes the files, and the creator removes them. Accepts NULL. */
ZERO_API void zero_tensors_discard(zero_tensors_writer_t *writer);

/* ---- checkpoints ---------------------------------------------------------------------------- */

typedef struct zero_checkpoint zero_checkpoint_t;

/* What a checkpoint says about itself. The checkpoint owns what it points to. */
typedef struct zero_checkpoint_info {
    size_t size;           /* set by the caller */
    const char *path;      /* its folder */
    const char *library;   /* the version of libzero that wrote it */
    int64_t step, applied; /* steps taken, and updates applied */
    const char *optimizer;
    const char *about;  /* a JSON object of the program that wrote it; NULL: none */
    const void *caller; /* bytes of the program that wrote it */
    size_t caller_bytes;
    const char *warning; /* a sentence about a newer checkpoint that was skipped because it is
                            damaged; NULL: none was */
} zero_checkpoint_info_t;

/* Opens a checkpoint for reading. path is its folder (step-N), or a folder of such folders; then it
 * opens the newest whole one. Checks the manifest, the size and header of each file, and that they
 * fit together. Contents are checked when they are read.
 * May fail with: ZERO_ERR_IO; its reason is ZERO_REASON_NO_CHECKPOINT if the folder exists, but has
 * no checkpoint. ZERO_ERR_FORMAT if the checkpoint is damaged. ZERO_ERR_UNSUPPORTED if it has a
 * newer version of the format. ZERO_ERR_MEMORY.
 * Owner: the caller, until zero_checkpoint_close. */
ZERO_API zero_status_t zero_checkpoint_open(zero_checkpoint_t **checkpoint, const char *path,
                                            zero_error_t *error);
/* Fills *info.
 * May fail with: ZERO_ERR_ARG, without a sentence, for NULL or if info->size is not set. */
ZERO_API zero_status_t zero_checkpoint_info(const zero_checkpoint_t *checkpoint,
                                            zero_checkpoint_info_t *info);
/* Closes the files. Accepts NULL. */
ZERO_API void zero_checkpoint_close(zero_checkpoint_t *checkpoint);

/* Loads a checkpoint into an engine: parameters, master weights, optimizer state, and the numbers
 * of steps and updates. The two may differ in the number of ranks, the placement table, dtypes of
 * parameters, and the format of moments (AdamW and its 8-bit form). Each rank reads the ranges that
 * it keeps. Parameters in fp32 or with master weights continue with the same bits.
 * Collective: every rank opens the same checkpoint, which stays the caller's.
 * When: between steps.
 * May fail with: ZERO_ERR_ARG if the checkpoint has another optimizer, parameters with other names
 * or shapes, or other state for one of them; the sentence names them, and nothing has changed.
 * Without config.saves_frozen it may lack frozen parameters, which stay as they are. Also
 * if a rank gives none, or another one. ZERO_ERR_FORMAT if contents are damaged, ZERO_ERR_IO. */
ZERO_API zero_status_t zero_load(zero_engine_t *engine, const zero_checkpoint_t *checkpoint);

/* Where an engine saves. zero_save_options_init sets the defaults, which are in parentheses. */
typedef struct zero_save_options {
    size_t size;
    const char *folder;  /* of checkpoints: the one of step N is folder/step-N. Created if its
                            parent exists. Every rank must reach it */
    int keep;            /* newest checkpoints to keep; 0: all. A thread removes the others (0) */
    uint64_t file_bytes; /* largest size of a file, if its tensors allow it (5e9) */
    const char *about;   /* a JSON object that becomes part of each manifest; NULL: none (NULL) */
} zero_save_options_t;
/* Sets the defaults of *options; size is sizeof(zero_save_options_t) in the caller's header. */
ZERO_API void zero_save_options_init_size(zero_save_options_t *options, size_t size);
static inline void zero_save_options_init(zero_save_options_t *options)
{
    zero_save_options_init_size(options, sizeof *options);
}

/* Opens the folder for this engine until zero_destroy, and removes what an interrupted save left
 * there. Neither that nor keep removes a step's folder that has other files, too. *options is
 * copied.
 * Collective: all ranks succeed, or all fail and the engine stays usable.
 * When: between steps, once, with config.saves. To resume, call zero_load first.
 * May fail with: ZERO_ERR_IO, with ZERO_REASON_FOLDER_IN_USE if another run saves there.
 * ZERO_ERR_ARG if the ranks do not reach the same folder, or if it has a checkpoint of a later step
 * than the engine's. */
ZERO_API zero_status_t zero_save_open(zero_engine_t *engine, const zero_save_options_t *options);

/* Begins to save the engine as it is now, with bytes of the caller's (rank 0's count; at most 1
 * MiB; copied). Returns while a thread writes. Passes run beside it; the next zero_step waits, for
 * each unit, until its state has been written, but at most for config.timeout_s. Calls that set
 * contents or steps wait for all of it.
 * Collective: all ranks succeed, or all fail.
 * When: between steps, after zero_save_open; zero_save_end has reported the save before.
 * May fail with: ZERO_ERR_IO. The save has then failed, and the engine stays usable. */
ZERO_API zero_status_t zero_save(zero_engine_t *engine, const void *caller, size_t bytes);

/* What came of a save. */
typedef struct zero_saved {
    size_t size;      /* set by the caller */
    bool done;        /* false: it is still being written */
    int64_t step;     /* of the checkpoint */
    const char *path; /* its folder; valid until the next zero_save */
    uint64_t bytes;   /* of its files */
    double seconds;   /* from zero_save to its end */
} zero_saved_t;
/* Looks whether the save has ended, or with wait waits for it as long as the drive takes bytes, and
 * makes the checkpoint whole. Without a save, done is true and step is -1.
 * Collective: every rank passes the same wait and gets the same result.
 * When: between steps.
 * May fail with: ZERO_ERR_IO. The save has then failed and left no checkpoint, and the engine stays
 * usable. */
ZERO_API zero_status_t zero_save_end(zero_engine_t *engine, bool wait, zero_saved_t *saved);

#ifdef __cplusplus
}
#endif
#endif
