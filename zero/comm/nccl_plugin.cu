/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_plugin.cu - see nccl.h. */
extern "C" {
#include "zero/comm/nccl.h"
}

#ifdef HAVE_NCCL
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <type_traits>

static_assert(sizeof(ncclUniqueId) == ZERO_NCCL_ID_BYTES, "ranks exchange NCCL's id");

/* The first version whose ncclCommAbort works in groups. */
#define NCCL_LEAST NCCL_VERSION(2, 22, 0)

/* The required functions of NCCL. */
#define NCCL_FUNCTIONS(of)                                                                                           \
    of(ncclGetVersion) of(ncclGetErrorString) of(ncclGetLastError) of(ncclGetUniqueId) of(ncclCommInitRankConfig)    \
        of(ncclCommSplit) of(ncclCommCount) of(ncclCommUserRank) of(ncclCommCuDevice) of(ncclCommGetAsyncError)      \
            of(ncclAllGather) of(ncclReduceScatter) of(ncclSend) of(ncclRecv) of(ncclCommRegister)                   \
                of(ncclCommDeregister) of(ncclCommFinalize) of(ncclCommDestroy) of(ncclCommAbort) of(ncclGroupStart) \
                    of(ncclGroupEnd)

struct zero_nccl {
#define OF(name) decltype(&::name) name;
    NCCL_FUNCTIONS(OF)
#undef OF
    /* ncclCommWindowRegister and ncclCommWindowDeregister, NULL before 2.27. The header may be older than the library
     * and not declare them. */
    ncclResult_t (*window)(ncclComm_t comm, void *base, size_t bytes, void **window, int flags);
    ncclResult_t (*unwindow)(ncclComm_t comm, void *window);
    /* Of connect. NULL until it is called. */
    cudaStream_t stream;
    char *bytes; /* 4: two sent and two received */
};

enum { COLL_SYMMETRIC = 1 }; /* NCCL_WIN_COLL_SYMMETRIC */
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
static_assert(COLL_SYMMETRIC == NCCL_WIN_COLL_SYMMETRIC, "NCCL's flag");
static_assert(
    std::is_same<decltype(&::ncclCommWindowRegister),
                 ncclResult_t (*)(ncclComm_t, void *, size_t, ncclWindow_t *, int)>::value &&
        std::is_same<decltype(&::ncclCommWindowDeregister), ncclResult_t (*)(ncclComm_t, ncclWindow_t)>::value &&
        std::is_pointer<ncclWindow_t>::value,
    "NCCL's functions, with a pointer for a window");
#endif

/* ---- sentences -------------------------------------------------------------------------------------------------- */

/* Example: "ncclAllGather of 1024 bytes: unhandled system error (NCCL's last error)". comm may be NULL. */
static zero_status_t failed(const zero_nccl_t *n, ncclComm_t comm, ncclResult_t r, zero_error_t *error,
                            const char *format, ...) __attribute__((format(printf, 5, 6)));
static zero_status_t failed(const zero_nccl_t *n, ncclComm_t comm, ncclResult_t r, zero_error_t *error,
                            const char *format, ...)
{
    char what[200];
    va_list list;
    va_start(list, format);
    vsnprintf(what, sizeof what, format, list);
    va_end(list);
    const char *known = n->ncclGetLastError(comm);
    int length = known ? (int)strcspn(known, "\n") : 0;
    return zero_fail(error, ZERO_ERR_SYSTEM, "%s: %s%s%.*s%s", what, n->ncclGetErrorString(r), length ? " (" : "",
                     length, length ? known : "", length ? ")" : "");
}

static zero_status_t cuda_failed(cudaError_t e, const char *what, zero_error_t *error)
{
    cudaGetLastError();
    return zero_fail(error, ZERO_ERR_SYSTEM, "%s: %s (%s)", what, cudaGetErrorName(e), cudaGetErrorString(e));
}

/* A call on a non-blocking communicator that has not failed returns one of these. */
static bool accepted(ncclResult_t r)
{
    return r == ncclSuccess || r == ncclInProgress;
}

/* ---- the library ------------------------------------------------------------------------------------------------ */

static zero_status_t nccl_open(zero_nccl_t **out, int *number, zero_error_t *error)
{
    const char *asked = secure_getenv("ZERO_NCCL_LIBRARY"), *file = asked && *asked ? asked : "libnccl.so.2",
               *lacking = NULL;
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    *out = NULL;
    if (!library) {
        const char *why = dlerror();
        return zero_fail_reason(error, ZERO_ERR_UNSUPPORTED, ZERO_REASON_NO_NCCL, -1,
                                "NCCL cannot be opened (%s): install it, or name its file in ZERO_NCCL_LIBRARY",
                                why ? why : file);
    }
    zero_nccl_t *n = (zero_nccl_t *)calloc(1, sizeof *n);
    if (!n)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for NCCL's functions (%zu bytes)", sizeof *n);
#define OF(name)                                                           \
    if (!(n->name = (decltype(n->name))dlsym(library, #name)) && !lacking) \
        lacking = #name;
    NCCL_FUNCTIONS(OF)
#undef OF
    n->window = (decltype(n->window))dlsym(library, "ncclCommWindowRegister");
    n->unwindow = (decltype(n->unwindow))dlsym(library, "ncclCommWindowDeregister");
    /* An old NCCL lacks functions, but can still report its version. */
    if (!n->ncclGetVersion || n->ncclGetVersion(number) != ncclSuccess)
        *number = 0;
    if (!lacking && *number >= NCCL_LEAST) {
        *out = n;
        return ZERO_OK;
    }
    free(n);
    if (*number >= NCCL_LEAST || *number == 0)
        return zero_fail_reason(error, ZERO_ERR_UNSUPPORTED, ZERO_REASON_NO_NCCL, -1,
                                "%s is not an NCCL that libzero supports: it lacks %s", file,
                                lacking ? lacking : "its version");
    return zero_fail_reason(error, ZERO_ERR_UNSUPPORTED, ZERO_REASON_NO_NCCL, -1,
                            "%s is NCCL %d.%d.%d, but 2.22 or newer is required: install it, or name its file in "
                            "ZERO_NCCL_LIBRARY",
                            file, *number / (*number < 10000 ? 1000 : 10000),
                            *number < 10000 ? *number % 1000 / 100 : *number % 10000 / 100, *number % 100);
}

/* NCCL keeps threads of its own, so its library is not closed. */
static void nccl_close(zero_nccl_t *n)
{
    if (n->stream)
        cudaStreamDestroy(n->stream);
    if (n->bytes)
        cudaFree(n->bytes);
    free(n);
}

static bool has_windows(const zero_nccl_t *n)
{
    int number = 0;
    return n->window && n->unwindow && n->ncclGetVersion(&number) == ncclSuccess && number >= NCCL_VERSION(2, 27, 0);
}

static zero_status_t enter(int device, zero_error_t *error)
{
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cudaError_t e = cudaSetDevice(device);
    if (e != cudaSuccess)
        return cuda_failed(e, "cudaSetDevice", error);
    e = cudaThreadExchangeStreamCaptureMode(&mode);
    return e == cudaSuccess ? ZERO_OK : cuda_failed(e, "cudaThreadExchangeStreamCaptureMode", error);
}

/* ---- communicators ---------------------------------------------------------------------------------------------- */

static zero_status_t unique_id(zero_nccl_t *n, void *id, zero_error_t *error)
{
    ncclResult_t r = n->ncclGetUniqueId((ncclUniqueId *)id);
    return r == ncclSuccess ? ZERO_OK : failed(n, NULL, r, error, "ncclGetUniqueId");
}

/* The maximum number of multiprocessors that a collective takes from the caller's kernels; a gather and a reduction can
 * run at the same time. It is half of NCCL's default. Links take fewer: a rank may have several, and their kernels wait
 * most of the time. NCCL reads NCCL_MAX_CTAS from the environment, which overrides this. */
enum { MOST_CTAS = 16, LINK_CTAS = 2 };

static ncclConfig_t nonblocking(int ctas)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.maxCTAs = ctas;
    config.splitShare = 0; /* gathers and reductions run at the same time; communicators with shared resources cannot */
    return config;
}

static zero_status_t start(zero_nccl_t *n, void **comm, int size, int rank, const void *id, zero_error_t *error)
{
    ncclUniqueId unique;
    ncclConfig_t config = nonblocking(MOST_CTAS);
    memcpy(&unique, id, sizeof unique);
    ncclResult_t r = n->ncclCommInitRankConfig((ncclComm_t *)comm, size, unique, rank, &config);
    return accepted(r) ? ZERO_OK : failed(n, NULL, r, error, "ncclCommInitRankConfig of rank %d of %d", rank, size);
}

static zero_status_t split(zero_nccl_t *n, void *parent, int color, int key, bool link, void **comm,
                           zero_error_t *error)
{
    ncclConfig_t config = nonblocking(link ? LINK_CTAS : MOST_CTAS);
    ncclResult_t r = n->ncclCommSplit((ncclComm_t)parent, color, key, (ncclComm_t *)comm, &config);
    return accepted(r) ? ZERO_OK : failed(n, (ncclComm_t)parent, r, error, "ncclCommSplit with color %d", color);
}

static zero_status_t shape(zero_nccl_t *n, void *comm, int *size, int *rank, int *device, zero_error_t *error)
{
    ncclComm_t c = (ncclComm_t)comm;
    ncclResult_t r = n->ncclCommCount(c, size);
    if (r == ncclSuccess)
        r = n->ncclCommUserRank(c, rank);
    if (r == ncclSuccess)
        r = n->ncclCommCuDevice(c, device);
    return r == ncclSuccess ? ZERO_OK : failed(n, c, r, error, "a look at an NCCL communicator");
}

static zero_status_t state(zero_nccl_t *n, void *comm, bool *busy, zero_error_t *error)
{
    ncclResult_t is = ncclSuccess, r = n->ncclCommGetAsyncError((ncclComm_t)comm, &is);
    *busy = is == ncclInProgress;
    if (r != ncclSuccess)
        return failed(n, (ncclComm_t)comm, r, error, "ncclCommGetAsyncError");
    return accepted(is) ? ZERO_OK : failed(n, (ncclComm_t)comm, is, error, "NCCL");
}

static zero_status_t all_gather(zero_nccl_t *n, void *comm, const void *send, void *recv, uint64_t bytes, void *stream,
                                zero_error_t *error)
{
    ncclResult_t r = n->ncclAllGather(send, recv, bytes, ncclUint8, (ncclComm_t)comm, (cudaStream_t)stream);
    return accepted(r)
               ? ZERO_OK
               : failed(n, (ncclComm_t)comm, r, error, "ncclAllGather of %llu bytes a rank", (unsigned long long)bytes);
}

static zero_status_t reduce_scatter(zero_nccl_t *n, void *comm, const void *send, void *recv, int64_t count,
                                    zero_dtype_t dtype, void *stream, zero_error_t *error)
{
    ncclDataType_t type = dtype == ZERO_FP32 ? ncclFloat32 : dtype == ZERO_BF16 ? ncclBfloat16 : ncclFloat16;
    ncclResult_t r =
        n->ncclReduceScatter(send, recv, (size_t)count, type, ncclSum, (ncclComm_t)comm, (cudaStream_t)stream);
    return accepted(r)
               ? ZERO_OK
               : failed(n, (ncclComm_t)comm, r, error, "ncclReduceScatter of %lld elements of %llu bytes a rank",
                        (long long)count, (unsigned long long)(dtype == ZERO_FP32 ? 4 : 2));
}

/* A group of sends and receives; ncclAlltoAll exists only since 2.28. */
static zero_status_t all_to_all(zero_nccl_t *n, void *comm, const void *send, void *recv, uint64_t bytes, int size,
                                void *stream, zero_error_t *error)
{
    ncclResult_t r = n->ncclGroupStart();
    for (int peer = 0; peer < size && accepted(r); peer++) {
        r = n->ncclSend((const char *)send + (uint64_t)peer * bytes, bytes, ncclUint8, peer, (ncclComm_t)comm,
                        (cudaStream_t)stream);
        if (accepted(r))
            r = n->ncclRecv((char *)recv + (uint64_t)peer * bytes, bytes, ncclUint8, peer, (ncclComm_t)comm,
                            (cudaStream_t)stream);
    }
    const ncclResult_t end = n->ncclGroupEnd();
    r = accepted(r) ? end : r;
    return accepted(r)
               ? ZERO_OK
               : failed(n, (ncclComm_t)comm, r, error, "a group of ncclSend and ncclRecv of %llu bytes for each rank",
                        (unsigned long long)bytes);
}

static zero_status_t send(zero_nccl_t *n, void *comm, const void *buf, uint64_t bytes, int peer, void *stream,
                          zero_error_t *error)
{
    ncclResult_t r = n->ncclSend(buf, bytes, ncclUint8, peer, (ncclComm_t)comm, (cudaStream_t)stream);
    return accepted(r) ? ZERO_OK
                       : failed(n, (ncclComm_t)comm, r, error, "ncclSend of %llu bytes", (unsigned long long)bytes);
}

static zero_status_t recv(zero_nccl_t *n, void *comm, void *buf, uint64_t bytes, int peer, void *stream,
                          zero_error_t *error)
{
    ncclResult_t r = n->ncclRecv(buf, bytes, ncclUint8, peer, (ncclComm_t)comm, (cudaStream_t)stream);
    return accepted(r) ? ZERO_OK
                       : failed(n, (ncclComm_t)comm, r, error, "ncclRecv of %llu bytes", (unsigned long long)bytes);
}

static zero_status_t connect(zero_nccl_t *n, void *comm, zero_error_t *error)
{
    cudaError_t e = n->stream ? cudaSuccess : cudaStreamCreateWithFlags(&n->stream, cudaStreamNonBlocking);
    if (e == cudaSuccess && !n->bytes)
        e = cudaMalloc((void **)&n->bytes, 4);
    return e == cudaSuccess ? all_to_all(n, comm, n->bytes, n->bytes + 2, 1, 2, n->stream, error)
                            : cuda_failed(e, "a stream and 4 bytes to connect two ranks", error);
}

static zero_status_t attach(zero_nccl_t *n, void *comm, void *base, uint64_t bytes, void **handle, zero_error_t *error)
{
    ncclResult_t r = n->ncclCommRegister((ncclComm_t)comm, base, bytes, handle);
    return r == ncclSuccess
               ? ZERO_OK
               : failed(n, (ncclComm_t)comm, r, error, "ncclCommRegister of %llu bytes", (unsigned long long)bytes);
}

static zero_status_t detach(zero_nccl_t *n, void *comm, void *handle, zero_error_t *error)
{
    ncclResult_t r = n->ncclCommDeregister((ncclComm_t)comm, handle);
    return r == ncclSuccess ? ZERO_OK : failed(n, (ncclComm_t)comm, r, error, "ncclCommDeregister");
}

static zero_status_t window(zero_nccl_t *n, void *comm, void *base, uint64_t bytes, void **handle, zero_error_t *error)
{
    ncclResult_t r = n->window((ncclComm_t)comm, base, bytes, handle, COLL_SYMMETRIC);
    return accepted(r) ? ZERO_OK
                       : failed(n, (ncclComm_t)comm, r, error, "ncclCommWindowRegister of %llu bytes",
                                (unsigned long long)bytes);
}

static zero_status_t unwindow(zero_nccl_t *n, void *comm, void *handle, zero_error_t *error)
{
    ncclResult_t r = n->unwindow((ncclComm_t)comm, handle);
    return accepted(r) ? ZERO_OK : failed(n, (ncclComm_t)comm, r, error, "ncclCommWindowDeregister");
}

static zero_status_t finalize(zero_nccl_t *n, void *comm, zero_error_t *error)
{
    ncclResult_t r = n->ncclCommFinalize((ncclComm_t)comm);
    return accepted(r) ? ZERO_OK : failed(n, (ncclComm_t)comm, r, error, "ncclCommFinalize");
}

static zero_status_t destroy(zero_nccl_t *n, void *comm, zero_error_t *error)
{
    ncclResult_t r = n->ncclCommDestroy((ncclComm_t)comm);
    return accepted(r) ? ZERO_OK : failed(n, NULL, r, error, "ncclCommDestroy");
}

/* Aborts them as a group: a single abort would wait for the device, and so for kernels of communicators that are not
 * aborted yet. */
static zero_status_t abort_all(zero_nccl_t *n, void *const *comms, int count, zero_error_t *error)
{
    ncclResult_t r = n->ncclGroupStart(), one;
    for (int i = 0; i < count; i++) {
        one = n->ncclCommAbort((ncclComm_t)comms[i]);
        r = accepted(r) ? one : r;
    }
    one = n->ncclGroupEnd();
    r = accepted(r) ? one : r;
    return accepted(r) ? ZERO_OK : failed(n, NULL, r, error, "ncclCommAbort of %d communicators", count);
}

/* ---- events ----------------------------------------------------------------------------------------------------- */

static zero_status_t event_create(void **event, zero_error_t *error)
{
    cudaError_t e = cudaEventCreateWithFlags((cudaEvent_t *)event, cudaEventDisableTiming);
    return e == cudaSuccess ? ZERO_OK : cuda_failed(e, "cudaEventCreateWithFlags", error);
}

static void event_destroy(void *event)
{
    cudaEventDestroy((cudaEvent_t)event);
}

static zero_status_t record(void *event, void *stream, zero_error_t *error)
{
    cudaError_t e = cudaEventRecord((cudaEvent_t)event, (cudaStream_t)stream);
    return e == cudaSuccess ? ZERO_OK : cuda_failed(e, "cudaEventRecord", error);
}

static zero_status_t happened(void *event, bool *yes, zero_error_t *error)
{
    cudaError_t e = cudaEventQuery((cudaEvent_t)event);
    *yes = e == cudaSuccess;
    return e == cudaSuccess || e == cudaErrorNotReady ? ZERO_OK : cuda_failed(e, "cudaEventQuery", error);
}

extern "C" const zero_cuda_nccl_t zero_cuda_nccl = {
    .version = ZERO_CUDA_NCCL_VERSION,
    .open = nccl_open,
    .close = nccl_close,
    .has_windows = has_windows,
    .enter = enter,
    .unique_id = unique_id,
    .start = start,
    .split = split,
    .connect = connect,
    .shape = shape,
    .state = state,
    .all_gather = all_gather,
    .reduce_scatter = reduce_scatter,
    .all_to_all = all_to_all,
    .send = send,
    .recv = recv,
    .attach = attach,
    .detach = detach,
    .window = window,
    .unwindow = unwindow,
    .finalize = finalize,
    .destroy = destroy,
    .abort = abort_all,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .record = record,
    .happened = happened,
};

#else

static zero_status_t nccl_open(zero_nccl_t **nccl, int *number, zero_error_t *error)
{
    *nccl = NULL;
    *number = 0;
    return zero_fail_reason(error, ZERO_ERR_UNSUPPORTED, ZERO_REASON_NO_NCCL, -1,
                            "this build has no NCCL: configure --with-nccl");
}

/* If open fails, nothing else is called. */
extern "C" const zero_cuda_nccl_t zero_cuda_nccl = {.version = ZERO_CUDA_NCCL_VERSION, .open = nccl_open};
#endif
