/* SPDX-License-Identifier: Apache-2.0 */
/* zero.h - libzero: sharded data-parallel (ZeRO) training runtime. The only header that is
 * installed.
 *
 * What can fail returns ZERO_OK or an error status; the sentence for a person is in zero_last_error
 * (functions that take an engine) or in the zero_error_t that the function was given (functions
 * that do not; it may be NULL). After a misuse (ZERO_ERR_ARG, ZERO_ERR_ORDER) an engine goes on as
 * if the call had not been made; after any other failure only zero_destroy works, unless the
 * function says otherwise. A handle or pointer that is NULL where none may be is ZERO_ERR_ARG;
 * functions without a status then do nothing, or answer -1, 0, "" or NULL. After a failure a handle
 * that was to be made is NULL, and an id -1.
 *
 * Structs that callers fill begin with their size and are initialised by their *_init function;
 * structs that the library fills have their size set by the caller. So both can grow: a program
 * that was compiled against an older header runs with this library. Handles are opaque.
 * "Collective": every rank makes the call, in the same order as its other collective calls.
 *
 * Threads: one at a time per engine, communicator or device, and not always the same; any number of
 * engines per process. Where an engine is inside a call, another one from a second thread, or from
 * a function that the library called, is ZERO_ERR_ORDER and changes nothing. What answers without a
 * status (names, counts, addresses, the stream, the hash) is allowed in such functions, and beside
 * any call but those that declare and zero_commit; zero_abort from any thread at any time;
 * zero_signal from signal handlers, too. What takes no handle has no state. Memory that a call is
 * given is the caller's again when it returns, on a GPU too, unless its comment says otherwise. The
 * library never prints, exits or installs signal handlers, and holds no global state.
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

/* A program may define ZERO_API before, to its own way of marking what is exported. */
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

/* ---- status, errors, log -------------------------------------------------------------------- */

typedef enum zero_status {
    ZERO_OK = 0,
    ZERO_ERR_ARG,    /* an argument, option or declaration is wrong */
    ZERO_ERR_ORDER,  /* a call that is not legal now (before commit, out of the declared order, ...)
                      */
    ZERO_ERR_MEMORY, /* it does not fit, or an allocation failed; the sentence has the numbers */
    ZERO_ERR_IO,     /* a file or socket could not be opened, read, written */
    ZERO_ERR_FORMAT, /* a file's contents are not what they should be */
    ZERO_ERR_MISMATCH,    /* ranks disagree (options, model, plan) */
    ZERO_ERR_PEER,        /* another rank failed; the sentence is that rank's */
    ZERO_ERR_TIMEOUT,     /* a wait ran past its bound */
    ZERO_ERR_UNSUPPORTED, /* not in this build or on this machine */
    ZERO_ERR_PLAN,  /* the plan's checker found a hazard: a defect of the library, never of the
                       caller */
    ZERO_ERR_SYSTEM /* a system call, MPI or device call failed */
} zero_status_t;

/* What exactly failed, where a program may want to act on it. A status says which kind of failure
 * it is; a reason, which one. The numbers stay, and new ones follow; what a program does not know
 * it treats as ZERO_REASON_NONE. */
typedef enum zero_reason {
    ZERO_REASON_NONE = 0 /* the status says all */
} zero_reason_t;

/* A failure: its status, its reason, and the sentence for a person. */
typedef struct zero_error {
    zero_status_t status;
    int32_t rank;    /* the rank that failed, or that the failure is about; -1: no particular one */
    int32_t reason;  /* zero_reason_t */
    char text[1000]; /* always terminated; longer sentences are cut */
} zero_error_t;

/* "ok", "bad argument", ...: a constant string, never NULL. */
ZERO_API const char *zero_status_name(zero_status_t status);

/* The version of the library that runs, as in ZERO_VERSION. */
ZERO_API const char *zero_version(void);

typedef enum zero_log_level {
    ZERO_LOG_ERROR = 0,
    ZERO_LOG_WARNING,
    ZERO_LOG_INFO,
    ZERO_LOG_DEBUG
} zero_log_level_t;

/* Called by the library from any of its threads, perhaps from several at once, with one sentence
 * without a newline, which lasts as long as the call. It calls no function of the library on what
 * it may be about. ctx is the caller's. */
typedef void (*zero_log_fn)(void *ctx, zero_log_level_t level, const char *text);

/* ---- dtypes, tiers, kinds of memory --------------------------------------------------------- */

typedef enum zero_dtype { ZERO_FP32 = 0, ZERO_BF16, ZERO_FP16, ZERO_DTYPE_COUNT } zero_dtype_t;

/* Bytes of one element; 0 for a value that is no dtype. */
ZERO_API size_t zero_dtype_size(zero_dtype_t dtype);
/* "fp32", "bf16", "fp16"; "?" otherwise. */
ZERO_API const char *zero_dtype_name(zero_dtype_t dtype);

/* Where memory is: beside the compute, in the host's memory, in files on a drive. */
typedef enum zero_tier {
    ZERO_TIER_DEVICE = 0,
    ZERO_TIER_HOST,
    ZERO_TIER_NVME,
    ZERO_TIER_COUNT
} zero_tier_t;
/* "device", "host", "nvme"; "?" otherwise. */
ZERO_API const char *zero_tier_name(zero_tier_t tier);

/* What a byte of an arena is for: the rows of the forecast and of the measurement. */
typedef enum zero_kind {
    ZERO_KIND_PARAMETERS =
        0,               /* the parameters that stay: shards, or full where they are not sharded */
    ZERO_KIND_GRADIENTS, /* the gradients that stay between backward and update */
    ZERO_KIND_MASTER,    /* fp32 master weights (none where the parameters are fp32) */
    ZERO_KIND_MOMENTS,   /* Adam's first and second moments */
    ZERO_KIND_WINDOW,    /* slots: units gathered for use, gradients being written, wire buffers */
    ZERO_KIND_STAGING,   /* partial norms, exchange words, scalars of the step */
    ZERO_KIND_RINGS,     /* this rank's shared-memory rings */
    ZERO_KIND_ACTIVATIONS, /* zero_reserve */
    ZERO_KIND_WORKSPACE,   /* zero_reserve */
    ZERO_KIND_COUNT
} zero_kind_t;
/* "parameters", "gradients", ...; "?" otherwise. */
ZERO_API const char *zero_kind_name(zero_kind_t kind);

/* ---- communicators -------------------------------------------------------------------------- */

typedef struct zero_comm zero_comm_t;

/* How ranks that have no MPI meet: an all-gather of small host buffers that the caller provides.
 * Returns 0, or -1 when it failed. recv holds world * bytes, in rank order. Called by zero_comm_shm
 * only, from the calling thread. */
typedef struct zero_bootstrap {
    size_t size;
    int rank, world;
    int (*all_gather)(void *ctx, const void *send, void *recv, size_t bytes);
    void *ctx;
} zero_bootstrap_t;

/* Options of communicators; zero_comm_options_init has the defaults. */
typedef struct zero_comm_options {
    size_t size;
    double timeout_s;   /* bound of every wait; default 600 */
    size_t ring_bytes;  /* shared memory that each rank contributes per channel; 0: the default */
    int ranks_per_node; /* tests: treat each run of so many ranks as a node; 0: what the machine
                           says */
    zero_log_fn log;
    void *log_ctx;
} zero_comm_options_t;
/* Defaults into *options, of which the caller's struct has size bytes. */
ZERO_API void zero_comm_options_init_size(zero_comm_options_t *options, size_t size);
static inline void zero_comm_options_init(zero_comm_options_t *options)
{
    zero_comm_options_init_size(options, sizeof *options);
}

/* One rank. Fails only where there is no memory. */
ZERO_API zero_status_t zero_comm_self(zero_comm_t **comm, zero_error_t *error);

/* Ranks of one node through shared memory. Collective over the bootstrap's ranks. options may be
 * NULL. */
ZERO_API zero_status_t zero_comm_shm(zero_comm_t **comm, const zero_bootstrap_t *bootstrap,
                                     const zero_comm_options_t *options, zero_error_t *error);

/* Ranks started by torchrun (RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT in the
 * environment). Of one node: shm with a bootstrap of its own. Of several: sockets, which exchange
 * small values and split but move no data: what zero_comm_nccl needs of a host communicator, while
 * zero_create on a CPU, and zero_comm_staged, are ZERO_ERR_UNSUPPORTED, naming mpiexec. Rank 0
 * listens at MASTER_PORT or one of the 7 ports after it. */
ZERO_API zero_status_t zero_comm_torchrun(zero_comm_t **comm, const zero_comm_options_t *options,
                                          zero_error_t *error);

/* MPI ranks; those of one node exchange through shared memory. mpi_comm points to the caller's
 * MPI_Comm, which is duplicated, or is NULL: MPI_COMM_WORLD. Initialises MPI where the caller has
 * not, and then finalises it in zero_comm_destroy of the last such communicator. Collective.
 * ZERO_ERR_UNSUPPORTED in a build without MPI, and where MPI_COMM_WORLD is used and has one rank
 * while OMPI_COMM_WORLD_SIZE or PMI_SIZE in the environment says more: another MPI's launcher
 * started the ranks. */
ZERO_API zero_status_t zero_comm_mpi(zero_comm_t **comm, const void *mpi_comm,
                                     const zero_comm_options_t *options, zero_error_t *error);

/* A communicator over the ranks that pass the same color, ordered by key, then by rank: the
 * caller's to destroy, before or after comm. What is published on one of them by zero_comm_abort
 * ends both. Collective over comm: all succeed, or all fail. */
ZERO_API zero_status_t zero_comm_split(zero_comm_t *comm, int color, int key, zero_comm_t **out,
                                       zero_error_t *error);

/* This rank, from 0, and how many there are; -1 and 0 for NULL. */
ZERO_API int zero_comm_rank(const zero_comm_t *comm);
ZERO_API int zero_comm_size(const zero_comm_t *comm);
/* "self", "shm", "tcp", "mpi", "nccl". */
ZERO_API const char *zero_comm_name(const zero_comm_t *comm);

/* All-gather of bytes bytes of host memory per rank, as many on each: recv holds size * bytes, in
 * rank order. Returns when it is done. After a failure other than ZERO_ERR_ARG (ZERO_ERR_PEER,
 * ZERO_ERR_TIMEOUT, ...) later ones fail alike. Collective. */
ZERO_API zero_status_t zero_comm_exchange(zero_comm_t *comm, const void *send, void *recv,
                                          size_t bytes, zero_error_t *error);

/* Publishes a sentence (NULL: a general one): every wait of every rank on this communicator, and on
 * what was split from it, ends with ZERO_ERR_PEER and that sentence. The first one stays. From any
 * thread, beside any other call. */
ZERO_API void zero_comm_abort(zero_comm_t *comm, const char *sentence);

/* Accepts NULL. Not collective after zero_comm_abort; otherwise every rank calls it. An engine has
 * duplicates of its own: the communicator that it was given may go before it, once it is committed.
 */
ZERO_API void zero_comm_destroy(zero_comm_t *comm);

/* ---- devices -------------------------------------------------------------------------------- */

typedef struct zero_device zero_device_t;

/* The caller's memory in place of the library's: one reservation per tier (device, host) and
 * engine, made by zero_commit and kept until zero_destroy; and one of the host tier for each
 * communicator of zero_comm_staged on this device, and for each that is split from it (an engine
 * splits off two), kept until that is destroyed. What a GPU that failed may still use is not given
 * back. Contents need not be zero. allocate returns NULL where there is no memory, which fails the
 * commit; what it returns is a multiple of alignment, a power of two up to 2 MiB. On the host tier
 * of a GPU it is pinned by CUDA (cudaHostAlloc or cudaHostRegister, portable); on its device tier
 * it is that GPU's (cudaMalloc or a pool of it, never managed memory). zero_measure counts such
 * memory as it was handed over. Called from the thread that commits or destroys. */
typedef struct zero_allocator {
    size_t size; /* sizeof(zero_allocator_t) */
    void *(*allocate)(void *ctx, zero_tier_t tier, size_t bytes, size_t alignment);
    void (*release)(void *ctx, zero_tier_t tier, void *memory, size_t bytes);
    void *ctx;
} zero_allocator_t;

/* Options of devices; zero_device_options_init has the defaults. */
typedef struct zero_device_options {
    size_t size;
    bool threaded;       /* CPU: copies and collectives on worker threads, as a GPU would run them;
                            default false (at once) */
    uint64_t delay_seed; /* threaded: not 0: random delays before each operation, from this seed
                            (tests) */
    int threads; /* OpenMP threads of the flat kernels on the host; 0: OpenMP's own default */
    int index; /* CUDA: which GPU, as this process numbers them (CUDA_VISIBLE_DEVICES); default 0 */
    void *stream; /* CUDA: the caller's cudaStream_t, on which acquire and release are ordered: of
                   * this GPU, borrowed, outlives the engines. NULL: the device makes one for each
                   * engine (zero_stream). The legacy default stream is cudaStreamLegacy */
    const zero_allocator_t *allocator; /* with both functions, copied; default NULL: the library's
                                          own memory */
} zero_device_options_t;
/* Defaults into *options, of which the caller's struct has size bytes. */
ZERO_API void zero_device_options_init_size(zero_device_options_t *options, size_t size);
static inline void zero_device_options_init(zero_device_options_t *options)
{
    zero_device_options_init_size(options, sizeof *options);
}

/* The CPU as a device. options may be NULL. */
ZERO_API zero_status_t zero_device_cpu(zero_device_t **device, const zero_device_options_t *options,
                                       zero_error_t *error);
/* A GPU as a device. options may be NULL. It becomes the calling thread's current one
 * (cudaSetDevice), as it does on every thread that calls the library with an engine on it.
 * ZERO_ERR_UNSUPPORTED: this build has no CUDA, or this machine no driver, one that is too old, or
 * no GPU. An engine has up to ten streams on it. CUDA gives a process eight connections to a GPU by
 * default, and work of streams that share one may wait for each other: set
 * CUDA_DEVICE_MAX_CONNECTIONS=32 in the environment before the first call of CUDA's, as zero_train
 * does. The library changes no environment. */
ZERO_API zero_status_t zero_device_cuda(zero_device_t **device,
                                        const zero_device_options_t *options, zero_error_t *error);
/* GPUs that zero_device_cuda can use; 0 where it could not for any reason (which it tells itself).
 * Costs next to nothing where there is no driver. Otherwise CUDA is initialised in this process:
 * children that it forks and that do not exec cannot use CUDA. */
ZERO_API int zero_cuda_devices(void);
/* "cpu", "cuda"; "" for NULL. */
ZERO_API const char *zero_device_name(const zero_device_t *device);
/* As its maker calls it ("NVIDIA H200"); "" where that is not known, as on CPU, and for NULL. The
 * text is the device's. */
ZERO_API const char *zero_device_label(const zero_device_t *device);
/* Accepts NULL. After the engines that use it. */
ZERO_API void zero_device_destroy(zero_device_t *device);

/* ---- communicators of a device's memory ----------------------------------------------------- */

/* Collectives on a device's memory through a communicator that knows only the host's, which is
 * taken over on success: the data goes by way of staging_bytes of pinned host memory (0: 8 MiB;
 * none for one rank). It is for GPUs without NCCL, and for several ranks that share one GPU; its
 * sums have the same bits as on CPU. device is borrowed and outlives the communicator; what was
 * queued on its streams for a collective is done before zero_comm_destroy. Collective over inner's
 * ranks: all succeed, or all fail and keep inner. */
ZERO_API zero_status_t zero_comm_staged(zero_comm_t **comm, zero_comm_t *inner,
                                        zero_device_t *device, uint64_t staging_bytes,
                                        zero_error_t *error);

/* CUDA devices through NCCL, one rank each. host is a communicator of the same ranks by whose help
 * they meet, exchange small values, hear of each other's failures and split: borrowed, and it
 * outlives the communicator and what is split from it, as device does. nccl_comm is NULL, or the
 * caller's own ncclComm_t of the same ranks, not in use meanwhile, which is split once to share its
 * set-up, and stays the caller's (best made with blocking = 0). options may be NULL. Collectives
 * run on streams; a rank that fails, is gone or is late by more than the time limit ends them
 * everywhere, and the sentence is what the next call on the engine (or communicator) returns.
 * Collective over host's ranks: all succeed or all fail. ZERO_ERR_UNSUPPORTED: this build, machine
 * or NCCL will not do, or two ranks have one GPU (zero_comm_staged works for them); host can then
 * be used for something else. A failure of NCCL itself aborts host. NCCL is libnccl.so.2 as the
 * loader finds it, or the file that ZERO_NCCL_LIBRARY names in the environment. */
ZERO_API zero_status_t zero_comm_nccl(zero_comm_t **comm, zero_comm_t *host, zero_device_t *device,
                                      void *nccl_comm, const zero_comm_options_t *options,
                                      zero_error_t *error);

/* ---- engine: declaration -------------------------------------------------------------------- */

typedef struct zero_engine zero_engine_t;
typedef int32_t zero_unit_t;
typedef int32_t zero_param_t;
typedef int32_t zero_pass_t;
typedef int32_t zero_reserve_t;

typedef enum zero_sharding { ZERO_FULL = 0, ZERO_SHARDED = 1 } zero_sharding_t;

/* One row of the placement table: over which group a kind of state is sharded, and where it lives.
 */
typedef struct zero_row {
    zero_sharding_t sharding;
    zero_tier_t tier;
    int32_t group;  /* reserved, 0: the group of ranks that it is sharded over; all of them */
    int32_t window; /* reserved, 0: the row's own window; config.window */
} zero_row_t;

typedef enum zero_reduce { ZERO_REDUCE_EVERY = 0, ZERO_REDUCE_LAST = 1 } zero_reduce_t;

/* How gradients move parameters. Each keeps fp32 master weights, and state beside them: AdamW
 * (Loshchilov and Hutter 2019) and Adam (Kingma and Ba 2015, weight decay added to the gradient)
 * two moments in fp32, SGD its momentum (none where beta1 is 0), Lion one moment, 8-bit AdamW two
 * moments in 8 bits, in blocks of 128 elements (Dettmers et al. 2022). AdamW, Adam and SGD compute
 * as PyTorch's. Lion, which PyTorch does not have, is algorithm 2 of Chen et al. 2023, "Symbolic
 * Discovery of Optimization Algorithms", arXiv:2302.06675. */
typedef enum zero_rule {
    ZERO_RULE_ADAMW = 0,
    ZERO_RULE_ADAM,
    ZERO_RULE_SGD,
    ZERO_RULE_LION,
    ZERO_RULE_ADAMW8,
    ZERO_RULE_CUSTOM, /* config.update */
    ZERO_RULES
} zero_rule_t;

/* One call of the caller's own optimizer: elements [begin, begin + count) of a parameter, counted
 * row-major from its start. */
typedef struct zero_update_args {
    size_t size;
    zero_param_t param;
    const char *name; /* the parameter's; the library's */
    int64_t begin, count;
    int64_t step;            /* updates, this one included: skipped steps do not count */
    double lr;               /* zero_step's, times the parameter's lr_scale */
    double decay_scale;      /* the parameter's */
    double grad_factor;      /* multiplies the gradients: grad_scale and clipping. They are not yet
                                multiplied */
    zero_dtype_t grad_dtype; /* fp32, or the parameter's dtype */
    const void *grad;        /* (count) */
    float *master; /* (count): fp32 weights, to be updated in place; parameters are rounded from
                      them afterwards */
    float *
        state[2]; /* (count) each, zero before the first update; NULL beyond config.update_states */
    int threads;  /* of the device's options */
    void *stream; /* not NULL: the memory is the GPU's, and the work is queued on this cudaStream_t.
                     NULL: it is the host's, and done on return */
} zero_update_args_t;
/* Returns 0, or -1 to fail the step: the engine ends with ZERO_ERR_SYSTEM on this rank, and with
 * ZERO_ERR_PEER on the others. Updates are cut into ranges that depend on the number of ranks and
 * on what is offloaded, so each element's result must depend on that element alone. Called in any
 * order of ranges, perhaps from a thread of the library's, one call at a time (but where a part of
 * a GPU's state is offloaded, a call with a stream and one without may run at once). Calls no
 * function of the engine that returns a status. */
typedef int (*zero_update_fn)(void *ctx, const zero_update_args_t *args);

/* Options of an engine; zero_config_init has the defaults. */
typedef struct zero_config {
    size_t size;
    zero_comm_t *comm;     /* borrowed, duplicated at commit; NULL only with plan_world */
    zero_device_t *device; /* borrowed, outlives the engine; NULL only with plan_world: the CPU */
    int plan_world; /* > 0: plan for so many ranks (through shared memory on the CPU, NCCL on GPUs);
                     * nothing is allocated, nothing can run after commit */
    zero_row_t parameters, gradients, optimizer; /* default: the preset of stage 3 */
    int window;                /* units gathered at once, prefetched ones counted; default 2 */
    zero_reduce_t reduce;      /* reduce gradients each micro-step, or once a step; default every */
    int micro_steps;           /* the most micro-steps in a step; default 1 */
    zero_dtype_t reduce_dtype; /* of gradients on the wire; default fp32 */
    int64_t persist_bytes; /* units whose parameters are smaller stay full at every rank; default
                              65536; 0: none */
    double clip;           /* global L2 norm; 0: off; default 1 */
    double
        grad_scale; /* summed gradients are multiplied by this before norm and update; default 1 */
    zero_rule_t rule;    /* default AdamW */
    double beta1, beta2; /* of the rule; default 0.9 and 0.95. SGD takes beta1 for its momentum, and
                            no beta2 */
    double eps;          /* default 1e-8; SGD and Lion read none */
    double weight_decay; /* default 0.1 */
    uint64_t
        memory_limit; /* bytes of the device tier for this rank; 0: what the machine has to give */
    double offload_ratio;  /* where the optimizer's row is not on the device tier: the share of its
                              state that goes there, 0 to 1; default 1 */
    const char *nvme_path; /* a folder on a local drive, where a row is on the nvme tier; read by
                              zero_commit */
    double timeout_s; /* of waits for this rank's own streams; collectives have the communicator's.
                         Default 600 */
    zero_log_fn log;
    void *log_ctx;
    zero_update_fn update; /* with ZERO_RULE_CUSTOM: the caller's own optimizer */
    void *update_ctx;
    int update_states; /* with ZERO_RULE_CUSTOM: fp32 buffers that it keeps beside the master
                          weights, 0 to 2 */
    bool check_order;  /* ranks compare what each calls (a pass, zero_step, zero_sum, ...) as it
                        * begins, by an exchange of host memory: the host  waits there for the other
                        * ranks' hosts. Ranks that differ get ZERO_ERR_MISMATCH at once; without,
                        * collectives of NCCL  would wait for each other, or take each other's data.
                        * On a device that runs its collectives in the calling thread (the  CPU, not
                        * threaded) they compare by themselves, and this changes nothing. Default
                        * true */
    bool guard; /* to find mistakes, on the CPU device: parameters and gradients have no access
                 * rights unless the unit is held (gradients: by a use with ZERO_GRAD), so that an
                 * access after release ends the process with SIGSEGV, there. Takes whole pages a
                 * buffer, and two system calls an operation. In a process with AddressSanitizer
                 * such accesses are reported (use-after-poison) without it. Default false */
} zero_config_t;

/* Defaults into *config, of which the caller's struct has size bytes. */
ZERO_API void zero_config_init_size(zero_config_t *config, size_t size);
static inline void zero_config_init(zero_config_t *config)
{
    zero_config_init_size(config, sizeof *config);
}
/* The three rows of stage 0 (plain data parallel), 1 (optimizer state sharded), 2 (and gradients)
 * or 3 (and parameters), on the device tier. ZERO_ERR_ARG for another number. */
ZERO_API zero_status_t zero_config_stage(zero_config_t *config, int stage);

/* An engine from *config, which is copied (what it points to is not: nvme_path lasts until
 * zero_commit returns, communicator, device and the functions' contexts as their comments say). The
 * caller's, until zero_destroy. ZERO_ERR_ARG: an option is wrong, by itself or beside the others;
 * the sentence begins with its name. ZERO_ERR_UNSUPPORTED: the communicator cannot reach the
 * device's memory, or a tier is not possible for a row. Not collective. */
ZERO_API zero_status_t zero_create(zero_engine_t **engine, const zero_config_t *config,
                                   zero_error_t *error);

/* Waits for what is in flight and frees everything; in the middle of a step, which the other ranks
 * then cannot end, they get ZERO_ERR_PEER. Accepts NULL. Collective unless the engine has failed.
 * From a function that the library called it does nothing but say so in the log. */
ZERO_API void zero_destroy(zero_engine_t *engine);

/* The sentence of the last call that failed on this engine; "" if none did. Valid until the next
 * call of any thread. A thread whose call was refused because another was running gets that
 * sentence. Never NULL; of NULL it says that. */
ZERO_API const char *zero_last_error(const zero_engine_t *engine);

/* Declarations: the same on every rank, in the same order (zero_commit compares them); not
 * collective. ZERO_ERR_ORDER after zero_commit, ZERO_ERR_ARG for what is wrong by itself,
 * ZERO_ERR_MEMORY. Ids count from 0.
 *
 * A unit: parameters that are gathered and dropped together. name is copied and must be unique
 * among units. */
ZERO_API zero_status_t zero_unit_add(zero_engine_t *engine, const char *name, zero_unit_t *unit);

#define ZERO_MAX_DIMS 8

/* What a parameter is; zero_param_desc_init sets the defaults. name is NULL by init, and has to be
 * given. */
typedef struct zero_param_desc {
    size_t size;
    const char *name;             /* unique; copied */
    int32_t ndim;                 /* 0 to ZERO_MAX_DIMS. Default by init: 0, one element */
    int64_t shape[ZERO_MAX_DIMS]; /* each >= 0; a product of 0 is legal (an empty parameter) */
    zero_dtype_t
        dtype; /* what the caller's kernels read, and write gradients in. Default by init: fp32 */
    bool trainable;     /* false: no gradient, master weights or moments. true: where there is a
                         * training pass, it uses the unit with ZERO_GRAD, or zero_commit refuses
                         * it. Default by init: true */
    double decay_scale; /* multiplies weight decay; 0: none. Default by init: 1 */
    double lr_scale;    /* multiplies the rate. Default by init: 1 */
} zero_param_desc_t;
/* Defaults into *desc, of which the caller's struct has size bytes. */
ZERO_API void zero_param_desc_init_size(zero_param_desc_t *desc, size_t size);
static inline void zero_param_desc_init(zero_param_desc_t *desc)
{
    zero_param_desc_init_size(desc, sizeof *desc);
}

/* A parameter of the unit, from *desc, which is copied with its name. */
ZERO_API zero_status_t zero_param_add(zero_engine_t *engine, zero_unit_t unit,
                                      const zero_param_desc_t *desc, zero_param_t *param);

typedef enum zero_pass_kind {
    ZERO_PASS_TRAIN = 0, /* uses in the declared order, with gradients */
    ZERO_PASS_EVAL,      /* uses in the declared order, without */
    ZERO_PASS_ANY_ORDER  /* units gathered on demand, one at a time (sampling, debugging) */
} zero_pass_kind_t;

/* At most one training pass. Any-order passes take no zero_use_add: every unit may be acquired.
 * name is copied and must be unique among passes. */
ZERO_API zero_status_t zero_pass_add(zero_engine_t *engine, const char *name, zero_pass_kind_t kind,
                                     zero_pass_t *pass);

enum { ZERO_READ = 1, ZERO_GRAD = 2, ZERO_HOLD = 4 };
/* One call per acquire, in order; a unit may recur. ZERO_READ: its parameters are read; ZERO_GRAD:
 * its gradients are added to; ZERO_HOLD: it is still held when the next use is acquired (released
 * after that one's release at the latest). */
ZERO_API zero_status_t zero_use_add(zero_engine_t *engine, zero_pass_t pass, zero_unit_t unit,
                                    uint32_t flags);

/* Bytes of the tier's arena for the caller (activations, workspaces), 128-byte aligned, counted in
 * the forecast. kind is ZERO_KIND_ACTIVATIONS or ZERO_KIND_WORKSPACE; tier is device, or host:
 * memory that host and device both read and write. ZERO_ERR_UNSUPPORTED: another tier; the engine
 * goes on. */
ZERO_API zero_status_t zero_reserve(zero_engine_t *engine, zero_kind_t kind, zero_tier_t tier,
                                    uint64_t bytes, zero_reserve_t *reserve);

/* Makes the plan, checks it, compares its hash over the ranks, lays out memory, refuses what does
 * not fit, allocates. Collective: all succeed, or all fail, and then only zero_destroy works.
 * ZERO_ERR_MISMATCH: ranks declared something else, or have other options; ZERO_ERR_MEMORY: it does
 * not fit; ZERO_ERR_ARG: what only the whole shows (a trainable parameter that gets no gradients,
 * too much held at once, ...). Rank 0 logs warnings of what is legal and hardly meant: ZERO_GRAD
 * for a unit that is frozen whole, a unit that no pass uses, a training pass without uses. Once per
 * engine. Parameters and state are zero until filled. With plan_world: plans and checks only. */
ZERO_API zero_status_t zero_commit(zero_engine_t *engine);

/* ---- engine: contents ----------------------------------------------------------------------- */

/* Writes fp32 values of elements [begin, begin + count) of the parameter (row-major, counted from
 * its start) to out. Returns 0, or -1 to fail the fill, and with it the engine on every rank
 * (ZERO_ERR_IO here). Must give the same values for the same range on every rank. Called from the
 * thread that fills, in any number of ranges in order. */
typedef int (*zero_fill_fn)(void *ctx, zero_param_t param, int64_t begin, int64_t count,
                            float *out);
/* Initial values for the ranges that this rank holds: master weights in fp32, parameters rounded
 * from them. Between passes; waits for updates in flight. Collective. */
ZERO_API zero_status_t zero_param_fill(zero_engine_t *engine, zero_param_t param, zero_fill_fn fn,
                                       void *ctx);

typedef enum zero_state {
    ZERO_STATE_PARAM = 0,
    ZERO_STATE_GRAD,
    ZERO_STATE_MASTER,
    ZERO_STATE_MOMENT1,
    ZERO_STATE_MOMENT2
} zero_state_t;
/* Receives fp32 values of [begin, begin + count): each rank is called for what it owns alone (one
 * rank per element). Frozen parameters have only ZERO_STATE_PARAM; master weights of fp32
 * parameters are the parameters. Returns 0, or -1: zero_param_read is ZERO_ERR_IO, and the engine
 * goes on. Gradients can be read from zero_micro_end of a step's last micro-step to the next
 * training micro-step. Waits for updates in flight. Not collective. */
typedef int (*zero_read_fn)(void *ctx, zero_param_t param, int64_t begin, int64_t count,
                            const float *values);
ZERO_API zero_status_t zero_param_read(zero_engine_t *engine, zero_param_t param,
                                       zero_state_t state, zero_read_fn fn, void *ctx);

/* The parameter of this name, before zero_commit too. ZERO_ERR_ARG where there is none. */
ZERO_API zero_status_t zero_param_find(zero_engine_t *engine, const char *name,
                                       zero_param_t *param);
/* How many there are: ids are 0 to that minus 1, in the order of zero_param_add. 0 for NULL. */
ZERO_API int32_t zero_param_count(const zero_engine_t *engine);
/* The name and the number of elements; NULL and 0 for an id that does not exist. The text is the
 * engine's. */
ZERO_API const char *zero_param_name(const zero_engine_t *engine, zero_param_t param);
ZERO_API int64_t zero_param_elements(const zero_engine_t *engine, zero_param_t param);

/* A whole parameter's state, gathered from the ranks, as dtype (rounded from what is kept) into
 * values: host memory for all of its elements, row-major; NULL on ranks that do not want it. States
 * as for zero_param_read, between passes only. Collective, with the same param and state on every
 * rank: where they differ, or where one rank's call is refused, all get ZERO_ERR_ARG and go on.
 * Takes 64 KiB a rank for a moment. */
ZERO_API zero_status_t zero_param_get(zero_engine_t *engine, zero_param_t param, zero_state_t state,
                                      zero_dtype_t dtype, void *values);
/* The inverse: values, the same on every rank, is read where this rank keeps the elements, and can
 * be freed afterwards. ZERO_STATE_PARAM and ZERO_STATE_MASTER are one: master weights keep the
 * values in fp32, parameters are rounded from them. Gradients can be set while they can be read;
 * the step's norm is computed anew from them. 8-bit moments are rounded to their code. Collective.
 */
ZERO_API zero_status_t zero_param_set(zero_engine_t *engine, zero_param_t param, zero_state_t state,
                                      zero_dtype_t dtype, const void *values);

/* The parameter's address as the caller's kernels read it (param dtype, its whole shape), and its
 * gradient's: one address for the engine's life. Contents are valid between acquire and release.
 * NULL before commit, for an unknown or empty parameter, and for the gradient of a frozen one. */
ZERO_API void *zero_param_data(zero_engine_t *engine, zero_param_t param);
ZERO_API void *zero_param_grad(zero_engine_t *engine, zero_param_t param);
/* What zero_reserve reserved. NULL before commit. */
ZERO_API void *zero_reserved(zero_engine_t *engine, zero_reserve_t reserve);

/* ---- engine: training ----------------------------------------------------------------------- */

enum { ZERO_LAST = 1 }; /* the step's last micro-step */

/* Begins a micro-step of a training pass, or a run of another pass. Every rank begins the same
 * passes in the same order; ranks that do not get ZERO_ERR_MISMATCH (or ZERO_ERR_PEER with the
 * sentence of the first that saw it), which names what each was doing: here, in a later call that
 * waits for other ranks, or in zero_step at the latest. ZERO_ERR_ORDER: a pass is open, zero_step
 * is due, or there are more than config.micro_steps. Collective as all until zero_step are: what
 * they wait for may be late elsewhere. */
ZERO_API zero_status_t zero_micro_begin(zero_engine_t *engine, zero_pass_t pass, uint32_t flags);
/* After this, on the engine's compute stream (CPU: the calling thread), the unit's parameters are
 * readable, and its gradients may be added to where the use says so: they are zero at the first use
 * of a micro-step (or hold the sum so far, reducing once a step). This is the unit's next use in
 * the declared order: whatever comes before it and was not acquired is passed over, its operations
 * run all the same; a gradient that was passed over counts as zero. A unit that is held, or has no
 * further use, is ZERO_ERR_ORDER. CUDA graphs: addresses are constant, so kernels between acquire
 * and release may be captured once (stream capture of zero_stream, begun after the acquire and
 * ended before the release), and the graph launched between every later acquire and release of that
 * use. What the engine does is no part of a graph: this and every other call that runs something,
 * made while the compute stream is captured, is ZERO_ERR_ORDER; the capture goes on. */
ZERO_API zero_status_t zero_acquire(zero_engine_t *engine, zero_unit_t unit);
/* What the caller queued on the compute stream until now was the last of this use; after the unit's
 * last gradient use its reduction starts, ordered behind that. ZERO_ERR_ORDER where it is not held.
 */
ZERO_API zero_status_t zero_release(zero_engine_t *engine, zero_unit_t unit);
/* Ends the micro-step, in which every unit has been released. Uses that were not acquired are
 * passed over, their operations run all the same. */
ZERO_API zero_status_t zero_micro_end(zero_engine_t *engine);

/* Norm, clip, update, publish, with this learning rate, which is at least 0 and the same on every
 * rank (ZERO_ERR_MISMATCH). After the micro-step with ZERO_LAST (ZERO_ERR_ORDER). Where the norm is
 * not finite nothing is updated, and the step counts as skipped. Collective; returns at once where
 * it can: failures of what still runs are told by later calls. */
ZERO_API zero_status_t zero_step(zero_engine_t *engine, double lr);

/* The engine's compute stream, on which acquire and release are ordered: a cudaStream_t, or NULL on
 * CPU, where it is the calling thread. NULL before commit. Borrowed. */
ZERO_API void *zero_stream(zero_engine_t *engine);
/* The calling thread waits until all that was queued on the compute stream is done: what kernels
 * wrote to host memory can then be read. On CPU that is so already. ZERO_ERR_PEER where another
 * rank failed meanwhile, ZERO_ERR_TIMEOUT after config.timeout_s. */
ZERO_API zero_status_t zero_wait(zero_engine_t *engine);

/* Bytes that a rank moves: received from other ranks in collectives, as the communicator counts
 * them; copied between the device's memory and the host tier; read from and written to the nvme
 * tier. */
typedef struct zero_traffic {
    uint64_t gathered, reduced, to_host, to_device, read, written;
    uint64_t reserved[2]; /* 0 */
} zero_traffic_t;

/* What an engine has done. */
typedef struct zero_stats {
    size_t size;
    int64_t step;     /* steps taken, skipped ones included */
    int64_t skipped;  /* steps skipped because the gradient norm was not finite, since the start */
    bool applied;     /* whether the last step's update was applied */
    double grad_norm; /* of the last step, after grad_scale, before clipping */
    double clip_factor; /* what the gradients were multiplied by */
    uint32_t signals;   /* OR over the ranks of zero_signal, since the start, as of the last step */
    zero_traffic_t traffic; /* since the start; what still runs is not waited for, nor counted */
    double comm_seconds, kernel_seconds,
        total_seconds; /* host time in collectives, in flat kernels, in the library, since the start
                        */
    const char *not_finite; /* of the last step: the first unit, in the order in which the backward
                             * pass finishes them, whose gradients are not finite. NULL: none. Valid
                             * until zero_destroy */
} zero_stats_t;
/* Waits for what it reports: the last step's exchange, not its update. stats->size is set by the
 * caller. Not collective. */
ZERO_API zero_status_t zero_step_stats(zero_engine_t *engine, zero_stats_t *stats);

/* Adds a bit to the word that the next step's exchange ORs over the ranks (stop requests).
 * Async-signal-safe. */
ZERO_API void zero_signal(zero_engine_t *engine, uint32_t bits);

/* values[i], of host memory, becomes the sum over the ranks, added in rank order; waits for it.
 * Collective: n, 0 to 64, is the same on every rank; where it is not, or where a rank makes another
 * call, they all get ZERO_ERR_MISMATCH (or ZERO_ERR_PEER with the sentence of the first that saw
 * it). Inside a pass every rank has acquired and released the same uses. */
ZERO_API zero_status_t zero_sum(zero_engine_t *engine, double *values, int n);

/* Publishes the caller's own failure: this rank and the others return ZERO_ERR_PEER with this
 * sentence (NULL: a general one) from what waits, and from what comes later. Only zero_destroy
 * works after. From any thread, beside another call too, which then ends; not from signal handlers.
 */
ZERO_API void zero_abort(zero_engine_t *engine, const char *sentence);

/* Resume: sets the number of steps taken and of updates applied (the bias correction's count; at
 * most as many). Between steps; the same on every rank, which the next step checks. Not collective.
 */
ZERO_API zero_status_t zero_set_step(zero_engine_t *engine, int64_t step, int64_t applied);

/* ---- engine: the plan, memory --------------------------------------------------------------- */

/* More than there are tiers and kinds today, so that programs need not be compiled anew. */
enum { ZERO_MAX_TIERS = 4, ZERO_MAX_KINDS = 16 };
/* Bytes of this rank, by tier and by what they are for. */
typedef struct zero_memory {
    size_t size;                                    /* set by the caller */
    uint64_t bytes[ZERO_MAX_TIERS][ZERO_MAX_KINDS]; /* by zero_tier_t and zero_kind_t */
    uint64_t external; /* measured only: the process minus the arenas */
} zero_memory_t;
/* What this rank's arenas hold, in bytes, from the plan. After commit; nothing needs to be
 * allocated (plan_world: rank 0's). Not collective. */
ZERO_API zero_status_t zero_forecast(zero_engine_t *engine, zero_memory_t *memory);
/* The same, from the resident pages of each arena as the system sees them (of a caller's allocator:
 * as it was handed over). Not collective. */
ZERO_API zero_status_t zero_measure(zero_engine_t *engine, zero_memory_t *memory);

/* Bytes that this rank moves in one step of the given number of micro-steps, 1 to
 * config.micro_steps, by the plan. */
ZERO_API zero_status_t zero_forecast_traffic(zero_engine_t *engine, int micro_steps,
                                             zero_traffic_t *traffic);

/* The plan as text: buffers, then each program's operations. write is called with pieces of it. */
typedef void (*zero_write_fn)(void *ctx, const char *text, size_t bytes);
ZERO_API zero_status_t zero_explain(zero_engine_t *engine, zero_write_fn write, void *ctx);
/* Hash of everything that ranks must agree on. 0 before commit. */
ZERO_API uint64_t zero_plan_hash(const zero_engine_t *engine);

/* ---- tensors in files (safetensors) --------------------------------------------------------- */

typedef struct zero_tensors zero_tensors_t;

/* What a file says of a tensor. */
typedef struct zero_tensor_info {
    size_t size;      /* set by the caller */
    const char *name; /* owned by the zero_tensors_t */
    char dtype[8];    /* as the file spells it: "F32", "BF16", "F16", "I64", ... */
    int32_t ndim;
    int64_t shape[ZERO_MAX_DIMS];
    int64_t count; /* elements */
} zero_tensor_info_t;

/* Opens one .safetensors file, an index (.json with "weight_map") or a folder that holds
 * model.safetensors or model.safetensors.index.json. Headers are checked whole (lengths, overlaps,
 * gaps, shapes, duplicates); data is read by zero_tensors_read alone. An index lists every tensor
 * of its shards, which lie in its own folder: one that it does not list, or lists for another
 * shard, is an error. A git-lfs pointer in the place of a file is an error that says so. */
ZERO_API zero_status_t zero_tensors_open(zero_tensors_t **tensors, const char *path,
                                         zero_error_t *error);
/* Tensors are numbered from 0 in order of their names (of the names' bytes). 0 for NULL. */
ZERO_API int zero_tensors_count(const zero_tensors_t *tensors);
/* What is known of a tensor. ZERO_ERR_ARG, without a sentence: no such number, or info->size is not
 * set. */
ZERO_API zero_status_t zero_tensors_at(const zero_tensors_t *tensors, int index,
                                       zero_tensor_info_t *info);
/* Index of a name, or -1. */
ZERO_API int zero_tensors_find(const zero_tensors_t *tensors, const char *name);
/* Elements [begin, begin + count) as fp32; the file's dtype is F32, BF16 or F16. Reads only the
 * bytes of that range. Any number of threads may read at a time. */
ZERO_API zero_status_t zero_tensors_read(const zero_tensors_t *tensors, int index, int64_t begin,
                                         int64_t count, float *out, zero_error_t *error);
/* Accepts NULL. */
ZERO_API void zero_tensors_close(zero_tensors_t *tensors);

#ifdef __cplusplus
}
#endif
#endif
